"""The demo on real vLLM servers without any: what follows from a measurement, what it declares, when it has failed."""

import io
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from ebbtide.act.render import render_deployment
from ebbtide.api.parse import parse_pool, parse_service
from ebbtide.cli.demo_vllm_summary import changes, problems, replicas_table, sentences, signals_table
from ebbtide.cli.main import cli
from ebbtide.errors import SandboxError
from ebbtide.sandbox import vllm_showcase as showcase
from ebbtide.sandbox.demo_vllm import Moment, measured
from ebbtide.sandbox.engines.environment import EngineEnvironment
from ebbtide.sandbox.ledger import Objectives
from ebbtide.sandbox.loadgen import Gaps, Served
from ebbtide.sandbox.signals import SignalLog
from ebbtide.sandbox.vllm_showcase import Measured, VllmService

ENV = EngineEnvironment(Path("/engines/vllm/bin/python"), "0.32.0", Path("/engines/vllm"))
MODEL = Path("/models/tiny")
LAPTOP = Measured(startup_s=40.0, first_token_s=0.06, inter_token_s=0.0024, request_s=0.5)


def alone(first_s: float | None = 0.06, gap_s: float = 0.0024, took_s: float = 0.5) -> Served:
    gaps = None if first_s is None else Gaps(gap_s, gap_s, gap_s, gap_s)
    first = None if first_s is None else 10.0 + first_s
    return Served(1, 10.0, 128, 192, 10.0, 200, first, gaps, "length", 10.0 + took_s, 192)


def test_one_server_is_worth_the_median_of_its_whole_answers() -> None:
    slow, broken = alone(0.3, 0.01, 2.0), alone(None, took_s=0.1)
    found = measured(40.0, [alone(), slow, alone(), broken])
    assert found.startup_s == 40.0
    assert (found.first_token_s, found.inter_token_s, found.request_s) == pytest.approx((0.06, 0.0024, 0.5))
    with pytest.raises(SandboxError, match="no whole answer"):
        measured(40.0, [broken])


def test_objectives_are_kept_by_a_server_whose_requests_do_not_wait() -> None:
    assert LAPTOP.objectives() == Objectives(time_to_first_token_s=0.66, inter_token_latency_s=0.01)


@pytest.mark.parametrize("speed", [0.2, 1.0, 5.0])
def test_the_load_is_as_heavy_for_a_slow_machine_as_for_a_fast_one(speed: float) -> None:
    one = Measured(LAPTOP.startup_s, 0.06 / speed, 0.0024 / speed, 0.5 / speed)
    load = one.load()
    assert (load.base * one.request_s, load.peak * one.request_s) == pytest.approx((showcase.LOW, showcase.HIGH))
    sent = showcase.requests(load, one.duration_s(), 1)
    assert {(request.prompt_tokens, request.output_tokens) for request in sent} == {(128, 192)}
    peak = [r for r in sent if load.start_s + load.rise_s <= r.arrival_s < load.start_s + load.rise_s + load.hold_s]
    assert len(peak) / load.hold_s == pytest.approx(load.peak, rel=0.3)


@pytest.mark.parametrize(("startup_s", "peak_s"), [(1.0, 120.0), (40.0, 180.0), (600.0, 300.0)])
def test_the_peak_lasts_until_two_more_servers_are_there_but_not_for_ever(startup_s: float, peak_s: float) -> None:
    assert Measured(startup_s, 0.06, 0.0024, 0.5).load().hold_s == peak_s


def test_ebbtide_builds_pods_that_the_process_node_runs() -> None:
    pool = parse_pool(showcase.pool())
    declared = showcase.inference_service(VllmService(), ENV, MODEL, LAPTOP.objectives())
    service = parse_service(declared)
    assert (service.objectives.ttft_s, service.objectives.itl_s, service.objectives.attainment) == (0.66, 0.01, 0.99)
    template = render_deployment(service, service.variants[0], pool)["spec"]["template"]
    spec, [container] = template["spec"], template["spec"]["containers"]
    assert container["command"][:4] == [str(ENV.python), "/engines/vllm/bin/vllm", "serve", str(MODEL)]
    assert {"--host=$(POD_IP)", "--max-num-seqs=1", "--shutdown-timeout=60"} <= set(container["args"])
    assert [word for word in container["args"] if word.startswith("--shutdown-timeout")] == ["--shutdown-timeout=60"]
    assert {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}} in container["env"]
    assert container["lifecycle"] == {"preStop": {"sleep": {"seconds": 3}}}
    assert container["readinessProbe"]["httpGet"]["path"] == "/health"
    assert container["resources"] == {"limits": {"sandbox.ebbtide.dev/engine-slot": "1"}}
    assert spec["terminationGracePeriodSeconds"] > 3 + 60, "SIGKILL comes after what runs could finish"
    assert spec["nodeSelector"] == {"sandbox.ebbtide.dev/pool": "process"}
    assert spec["tolerations"][0]["key"] == "sandbox.ebbtide.dev/process"
    assert template["metadata"]["labels"]["sandbox.ebbtide.dev/route"] == "chat"
    assert service.scaling.scale_to_zero is None


def test_a_server_has_kv_cache_for_the_one_request_that_it_runs() -> None:
    flags = dict(flag.split("=") for flag in showcase.flags() if flag.count("=") == 1)
    # one block is vLLM's own
    held = (int(flags["--num-gpu-blocks-override"]) - 1) * int(flags["--block-size"])
    assert held == int(flags["--max-model-len"]) == showcase.PROMPT_TOKENS + showcase.OUTPUT_TOKENS


def test_to_zero_it_needs_the_gateway() -> None:
    url = "http://127.0.0.1:1/demo/metrics"
    zero = parse_service(showcase.inference_service(VllmService(scale_to_zero_url=url), ENV, MODEL, Objectives()))
    assert zero.scaling.min_replicas == 0
    assert zero.scaling.scale_to_zero is not None
    assert zero.scaling.scale_to_zero.activator.url == url


def moments(*ready: int) -> list[dict[str, Any]]:
    return [{"at_s": 10.0 * at, "declared": count, "ready": count} for at, count in enumerate(ready)]


GOOD = {
    "replicas": moments(1, 2, 3, 2, 1),
    "finish_reasons": {"length": 300},
    "requests": 300,
    "answers_5xx": 0,
    "met_both": 0.8,
    "scale_changes": 4,
    "statuses": {"200": 300},
    "gateway": {"retried": 0},
    "sent_late_s": {"p50": 0.001, "p95": 0.02, "p99": 0.03, "max": 0.05},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"replicas": moments(1, 3, 1)}, ""),
        ({"replicas": moments(1, 2, 1)}, "replicas went 1 -> 2 -> 1, not from 1 to 3 and back to 1"),
        ({"replicas": moments(1, 2, 3, 2)}, "1 -> 2 -> 3 -> 2, not"),
        ({"replicas": moments(3, 1)}, "3 -> 1, not"),
        ({"replicas": []}, "nowhere, not"),
        ({"finish_reasons": {"length": 299, "abort": 1}}, "1 of 300 requests got no whole answer: {'abort': 1}"),
        ({"finish_reasons": {"length": 298}}, "2 of 300 requests got no whole answer"),
        ({"answers_5xx": 3}, "3 answers with a status of 5xx"),
    ],
)
def test_what_does_not_show_the_claim_is_named(change: dict[str, Any], said: str) -> None:
    found = problems({**GOOD, **change})
    assert len(found) == bool(said)
    assert said in "".join(found)


def test_only_moments_at_which_something_changed_are_kept() -> None:
    seen = [Moment(0.0, 1, 1), Moment(1.0, 1, 1), Moment(2.0, 3, 1), Moment(3.0, 3, 1), Moment(4.0, 3, 2)]
    assert changes(seen) == [seen[0], seen[2], seen[4]]
    assert changes([]) == []


def test_the_report_says_what_happened() -> None:
    console = Console(file=io.StringIO(), width=120, record=True)
    signals = SignalLog("http://127.0.0.1:1", 30.0).rows()
    console.print(replicas_table(GOOD), signals_table({"signals": signals}), *sentences(GOOD))
    text = " ".join(console.export_text().split())
    assert "Ready replicas: 1 -> 2 -> 3 -> 2 -> 1, by 4 scale writes." in text
    assert "300 requests, 80.0 % met both objectives; finish reasons: length 300; HTTP status: 200 300" in text
    assert "sent late by at most 20 ms for 95 %." in text
    assert "not published" in text, "a signal that was never read is not left out"


@pytest.mark.parametrize("option", ["--duration=4m", "--trace=x.csv"])
def test_a_load_of_ones_own_is_for_emulated_engines(tmp_path: Path, option: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x.csv"))  # no folder: nothing is ever installed from here
    monkeypatch.chdir(tmp_path)
    Path("x.csv").write_text("t_s,rps\n0,1\n60,1\n")
    done = CliRunner().invoke(cli, ["demo", "--engine=vllm", option])
    assert done.exit_code == 2
    assert "whose load follows from what one server is measured to do" in " ".join(done.output.split())
    assert not (tmp_path / "state").exists()
