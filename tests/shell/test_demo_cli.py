"""`ebbtide demo` around its run: what it refuses before it starts anything, what it says, and what it adds up."""

import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from ebbtide.cli.demo import _trace_requests
from ebbtide.cli.demo_forecast import forecast_table, in_a_line
from ebbtide.cli.demo_summary import auto_together, count_writes, effort_sentence, together_sentence
from ebbtide.cli.demo_table import DemoScreen, say_how_to_look
from ebbtide.cli.main import cli
from ebbtide.errors import ConfigurationError, SandboxError
from ebbtide.sandbox.audit import Write
from ebbtide.sandbox.demo import DemoOptions
from ebbtide.sandbox.demo_base import View
from ebbtide.sandbox.demo_reference import ReferenceSearch, references
from ebbtide.sandbox.processes import Processes
from ebbtide.sim import showcase as fleet
from ebbtide.sim.requests import Request
from ebbtide.sim.static import largest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a sandbox would be, had one begun."""
    place = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(place))
    return place


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nope/x.json", "No such file or directory"),
        ("file/x.json", "Not a directory"),
        ("x" * 300 + ".json", "File name too long"),
    ],
)
def test_a_summary_that_could_not_be_written_is_refused_before_anything_starts(
    home: Path, tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / name
    done = CliRunner().invoke(cli, ["demo", "--json", str(path)], terminal_width=1000)
    assert done.exit_code == 2
    refused = f"{path} cannot be written: {why}; name a file in a folder that exists and may be written to"
    assert refused in done.output
    assert not home.exists()


def test_asking_whether_a_summary_can_be_written_changes_nothing(home: Path, tmp_path: Path) -> None:
    """The trace that follows is refused, so that nothing runs."""
    bad, new, old = tmp_path / "bad.csv", tmp_path / "new.json", tmp_path / "old.json"
    bad.write_text("a,b\n")
    old.write_text("kept")
    for path in (new, old):
        done = CliRunner().invoke(cli, ["demo", "--json", str(path), "--trace", str(bad)])
        assert isinstance(done.exception, ConfigurationError), done.output
    assert not new.exists()
    assert old.read_text() == "kept"
    assert not home.exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe", "no text in UTF-8"),
        (b"a,b\n1,2\n", "header 'a,b' is unknown"),
        (b"t_s,rps\n", "0 rates cover no time"),
        (b"t_s,rps\n0,0\n60,0\n", "its rate is 0 all the time"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\n", "it has no requests in its first 1m"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\nsoon,1,1\n", "line 2: 'soon,1,1'"),
    ],
)
def test_a_trace_that_cannot_be_played_is_refused_before_anything_starts(
    home: Path, tmp_path: Path, content: bytes, why: str
) -> None:
    path = tmp_path / "load.csv"
    path.write_bytes(content)
    done = CliRunner().invoke(cli, ["demo", "--duration", "1m", "--trace", str(path)])
    assert isinstance(done.exception, ConfigurationError), done.output
    assert why in str(done.exception)
    assert str(path) in str(done.exception)
    assert not home.exists()


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        (
            25_000,
            "each of its 60 requests is too long for the demo's replicas (more than 32768 tokens, or more",
        ),
        (12_000, "does not meet both objectives for 97% of the requests: use a trace with shorter prompts"),
    ],
)
def test_a_trace_that_no_fleet_could_answer_is_refused_before_anything_starts(
    home: Path, tmp_path: Path, tokens: int, why: str
) -> None:
    """Of prompts of 12,000 tokens, all in one moment, even a twentieth of the load is too many."""
    path = tmp_path / "long.jsonl"
    line = f'{{"timestamp": 1000, "input_length": {tokens}, "output_length": 50}}\n'
    path.write_text(line * 60)
    done = CliRunner().invoke(cli, ["demo", "--duration", "1m", "--trace", str(path)])
    assert isinstance(done.exception, ConfigurationError), done.output
    assert why in str(done.exception)
    assert not home.exists()


def test_a_trace_is_played_without_what_no_replica_could_answer_and_as_high_as_the_fleet_carries(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mixed.jsonl"
    lengths = [60_000 if number % 10 == 0 else 4_000 for number in range(600)]
    rows = (
        f'{{"timestamp": {number * 100}, "input_length": {tokens}, "output_length": 100}}'
        for number, tokens in enumerate(lengths)
    )
    path.write_text("\n".join(rows))
    output = io.StringIO()
    found = _trace_requests(path, 60.0, 1, Console(file=output, width=1000, highlight=False))
    said = output.getvalue()
    assert "60 of 600 requests are left out as too long for the demo's replicas" in said
    assert f"{len(found) / 60.0:.1f} requests/s on average: of more the fleet's largest size does not meet 97%" in said
    assert {request.prompt_tokens for request in found} == {4_000}
    scenario = fleet.scenario(60.0, 1)
    chat = msgspec.structs.replace(scenario.services[0], requests=found)
    assert largest(scenario, chat).result.met_both >= 0.97


@pytest.mark.parametrize("on_path", [True, False])
def test_the_command_to_look_with_is_one_line_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_path: bool
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    if on_path:
        (programs / "kubectl").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(programs))
    kubeconfig, cached = Path(f"/{'a-long-folder/' * 12}[admin] kubeconfig"), Path("/cache/kubernetes-1.36/kubectl")
    output = io.StringIO()
    say_how_to_look(Console(file=output, width=120, highlight=False), kubeconfig, cached)
    command = f"KUBECONFIG='{kubeconfig}' {'kubectl' if on_path else cached} get infs,gpool,costp,pods -A"
    assert command in output.getvalue().splitlines()


def write(resource: str, verb: str = "patch") -> Write:
    return Write(0.0, "ebbtide", verb, resource, "", "demo", "x", 200)


def test_all_writes_count_and_renewals_of_the_lease_are_told_apart() -> None:
    writes = [
        write("leases", "create"),
        write("leases", "update"),
        write("leases", "update"),
        write("events", "create"),
    ]
    assert count_writes([*writes, write("deployments")]) == {"api_writes": 5, "lease_renewals": 2}
    assert count_writes([]) == {"api_writes": 0, "lease_renewals": 0}


def row(name: str, mode: str = "Auto", *, conflict: bool = False, late: int = 100, met: float = 1.0) -> dict[str, Any]:
    return {
        "name": name,
        "mode": mode,
        "conflict": conflict,
        "requests": 2 * late,
        "requests_after_60s": late,
        "met_both": met / 2,
        "met_both_after_60s": met,
        "gpu_hours": 0.6,
        "static_peak_gpu_hours": 1.0,
    }


CHAT, DRAFTS = row("chat", late=300), row("drafts", met=0.6)
PILOT, LEGACY = row("pilot", "Recommend", met=0.0), row("legacy", conflict=True, met=0.0)


def test_only_services_that_ebbtide_scaled_are_joined_by_their_requests() -> None:
    joined = auto_together({"services": [CHAT, DRAFTS, PILOT, LEGACY]})
    assert joined.names == ("chat", "drafts"), "legacy is in Auto, but what became of it is its HPA's doing"
    assert joined.met_both_after_60s == pytest.approx(0.9)  # (300 + 60) of 400
    assert joined.met_both == pytest.approx(0.45)
    assert (joined.gpu_hours, joined.static_peak_gpu_hours, joined.share_of_static) == pytest.approx((1.2, 2.0, 0.6))


def test_nothing_to_join_is_no_division_by_zero() -> None:
    joined = auto_together({"services": [PILOT]})
    assert (joined.names, joined.met_both_after_60s, joined.share_of_static) == ((), 1.0, 0.0)


@pytest.mark.parametrize(
    ("services", "others"),
    [
        (
            [CHAT, DRAFTS, PILOT, LEGACY],
            "pilot (mode Recommend), legacy (mode Auto, but an HPA owns its target)",
        ),
        ([CHAT, DRAFTS], "none"),
    ],
)
def test_the_result_names_who_is_joined_and_who_is_not_and_why(services: list[dict[str, Any]], others: str) -> None:
    assert together_sentence({"services": services}, 0.97) == (
        "Scaled by Ebbtide: chat, drafts. Together 90.0 % of their requests met both after the first minute (45.0 % of "
        "all) with 60 % of the GPU-hours of the static fleets of the fewest replicas that reach 97 % within the same "
        "bounds (1.20 of 2.00). "
        f"Not among them: {others}."
    )


def test_the_effort_says_how_many_writes_were_renewals() -> None:
    document = {
        "cycles": 90,
        "cycle_seconds_p50": 0.1,
        "cycle_seconds_p99": 0.2,
        "promql_queries_per_cycle": 7.0,
        "api_writes": 337,
        "lease_renewals": 142,
        "duration_s": 240.0,
    }
    assert effort_sentence(document).endswith("337 API writes in 4m, 142 of them renewals of its Lease.")


def test_a_terminal_of_118_columns_shows_every_cell_whole() -> None:
    shown = fleet.services(240.0, 1)
    percentiles = {"p50": 0.1, "p95": 12.345, "p99": 0.3}
    status = {
        "reason": "TargetConflict",
        "spendPerHour": "128.50",
        "variants": [
            {"name": "a100", "allowed": 8, "capacity": {"requestsPerSecond": "10.9", "source": "observed"}},
            {"name": "h100", "allowed": 3, "capacity": {"requestsPerSecond": "18.2", "source": "declared"}},
        ],
        "forecast": {
            "horizonSeconds": 175,
            "expected": "104",
            "low": "88.1",
            "high": "119",
            "method": "level 27 min",
            "score": {"errors": 443, "coverage": "0.951", "pinballMedian": "0.031"},
        },
        "decisions": [],
    }
    spec = {"objectives": {"timeToFirstToken": "2s", "interTokenLatency": "50ms"}}
    view = View(
        elapsed_s=100.0,
        duration_s=240.0,
        services={service.name: {"spec": spec, "status": status} for service in shown},
        pools={},
        traffic={
            service.name: {
                "requests": 12345,
                "met_both": 0.999,
                "recent_time_to_first_token_s": percentiles,
                "recent_inter_token_latency_s": {"p95": 0.045},
            }
            for service in shown
        },
        pods={service.name: {"ready": 8, "starting": 3, "ending": 0} for service in shown},
        usage={},
    )
    console = Console(width=118, record=True, file=io.StringIO())
    console.print(DemoScreen(shown).update(view))
    text = console.export_text()
    assert "…" not in text
    assert text.count("TargetConflict") == len(shown)
    assert text.count("8 +3 → a100 8, h100 3") == len(shown)
    assert text.count("104 (level 27 min)") == text.count("88.1 to 119") == len(shown)
    assert text.count("95 % of 443, 6 %") == len(shown)
    assert text.count("a100 10.9 observed, h100 18.2 declared") == len(shown)


FORECAST = {
    "horizonSeconds": 175,
    "expected": "0.885",
    "low": "0.472",
    "high": "1.31",
    "method": "level since a change",
    "score": {"errors": 443, "coverage": "0.951", "pinballMedian": "0.031"},
}
SURE = {"requestsPerSecond": "12.3", "low": "9.59", "high": "15.9", "source": "observed"}
CARRIED = [{"name": "a100", "capacity": SURE}, {"name": "cloud", "capacity": SURE}]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_what_a_narrow_terminal_has_no_room_for_goes_on_in_the_next_line(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(forecast_table({"summaries": {"forecast": FORECAST, "variants": CARRIED}}))
    text = console.export_text()
    assert "…" not in text
    words = {*text.split()}
    assert {"summaries", "0.885", "(level", "since", "175", "0.472", "1.31", "443,", "a100", "cloud"} <= words
    assert {"service", "in", "range"} <= words, "headers too"


@pytest.mark.parametrize(
    ("forecast", "said"),
    [
        (None, "-"),
        (FORECAST, "0.885 (level since a change), 95 % range 0.472 to 1.31, in range 95 % of 443, 6 % off"),
        (FORECAST | {"score": None}, "0.885 (level since a change), 95 % range 0.472 to 1.31, not scored yet"),
    ],
)
def test_a_plain_line_says_the_forecast_its_range_and_how_far_to_trust_it(
    forecast: dict[str, Any] | None, said: str
) -> None:
    assert in_a_line(forecast) == said


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path / "logs")
    yield made
    made.stop_all(grace_s=0.1)


async def test_the_reference_found_in_a_process_of_its_own_is_the_one_found_here(
    processes: Processes, tmp_path: Path
) -> None:
    chat = tuple(Request(number, float(number), 2_000, 100) for number in range(60))
    options = DemoOptions(duration_s=60.0, seed=2, chat_requests=chat)
    assert await ReferenceSearch(processes, tmp_path, options).found() == references(options)


async def test_a_load_that_no_fleet_carries_ends_the_search_with_the_sentence_why(
    processes: Processes, tmp_path: Path
) -> None:
    flood = tuple(Request(number, 0.0, 12_000, 50) for number in range(200))
    search = ReferenceSearch(processes, tmp_path, DemoOptions(duration_s=60.0, chat_requests=flood))
    with pytest.raises(SandboxError) as refused:
        await search.found()
    assert str(refused.value).startswith("there is no static reference: demo/chat: ")
    assert "give the pools more GPUs" in str(refused.value)
    assert "Traceback" not in str(refused.value)


@pytest.mark.parametrize("waiting", ["wait()", "asyncio.run(wait_for_ever())"])
@pytest.mark.parametrize(
    ("shell", "number", "status", "line"),
    [
        ("", signal.SIGINT, 130, "demo ended by Ctrl-C"),
        ("", signal.SIGTERM, 143, "demo ended by SIGTERM"),
        ("trap '' INT;", signal.SIGTERM, 143, "demo ended by SIGTERM"),  # a job in the background ignores Ctrl-C
    ],
)
def test_a_signal_ends_the_demo_in_order_with_one_line(
    shell: str, number: int, status: int, line: str, waiting: str
) -> None:
    program = (
        "import asyncio, time\n"
        "from ebbtide.cli.demo import _ended_in_order\n"
        "def wait():\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(600)\n"
        "async def wait_for_ever():\n"
        "    print('begun', flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "with _ended_in_order():\n"
        "    try:\n"
        f"        {waiting}\n"
        "    finally:\n"
        "        print('undone')\n"
    )
    command = ["bash", "-c", f'{shell} exec "$0" -c "$1"', sys.executable, program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline() == "begun\n"
        demo.send_signal(number)
        rest, _ = demo.communicate(timeout=30)
    assert (demo.returncode, rest) == (status, f"undone\n{line}\n")
