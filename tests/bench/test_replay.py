"""`ebbtide bench replay` from end to end, as a process of its own, on a simulator that is quick and simple."""

import json
import os
import re
import signal
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.replaying import Folder, folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """One comparison from an empty cache."""
    made = folder(tmp_path_factory.mktemp("replay"))
    run = made.run()
    assert run.returncode == 0, run.stderr
    assert str(made.out / "report.md") in run.stdout
    assert "static-peak" in run.stderr, "progress is shown"
    return made


def by_name(results: dict) -> dict[str, dict]:
    return {policy["name"]: policy for policy in results["policies"]}


def test_results_say_what_each_policy_costs_at_the_target(done: Folder) -> None:
    results = done.results()
    policies = by_name(results)
    assert list(policies) == [
        *("clairvoyant", "clairvoyant-table", "static-hindsight"),
        *("ebbtide", "static-peak", "schedule", "fluid"),
    ]
    best, static = policies["clairvoyant"], policies["static-hindsight"]
    assert best["reached"]
    assert best["over_clairvoyant"] == 1.0
    assert static["reached"]
    assert static["cost_at_target"] > best["cost_at_target"], "who knows the load needs less than a fleet of one size"
    assert static["over_clairvoyant"] == pytest.approx(static["cost_at_target"] / best["cost_at_target"])
    assert policies["ebbtide"]["tuning"] == "default"
    assert {run["seed"] for run in policies["ebbtide"]["runs"]} == {1, 2}
    run = policies["ebbtide"]["runs"][0]
    wanted = "knob seed cost gpu_hours start_up_share attainment worst_5min ttft_ms itl_ms scale_events wall_s"
    assert set(wanted.split()) <= set(run)
    assert set(run["ttft_ms"]) == {"p50", "p95", "p99"}
    an_hour = static["knob"] * float(results["case"]["replica"]["gpu_hour_price"])
    assert static["cost_at_target_hourly"] == pytest.approx(an_hour), "a quarter of an hour is paid as a whole one"
    assert policies["fluid"]["cost_at_target_hourly"] is None, "fractions of replicas begin no hours"
    assert 0 <= results["p0"] < 0.01
    assert {"case", "versions", "command"} <= set(results)
    assert "--simulator fake" in results["command"]


def test_hindsight_searches_the_knob_until_the_target_lies_between_two_settings(done: Folder) -> None:
    peak = by_name(done.results())["static-peak"]
    attained = [run["attainment"] for run in peak["runs"]]
    assert min(attained) < 0.99 <= max(attained)
    cheap = min(run["cost"] for run in peak["runs"] if run["attainment"] >= 0.99)
    assert peak["cost_at_target"] <= cheap


def test_a_schedule_that_saw_no_such_hour_is_run_once_and_is_nobody_to_win_against(done: Folder) -> None:
    schedule = by_name(done.results())["schedule"]
    assert (schedule["tuning"], {run["knob"] for run in schedule["runs"]}) == ("held", {1.0})
    report = (done.out / "report.md").read_text()
    assert "**schedule** (multiple of the same hour's maximum = 1): held: no training; " in report
    assert "schedule wins" not in report


def test_the_fleet_of_one_size_is_a_whole_number_that_was_replayed(done: Folder) -> None:
    static = by_name(done.results())["static-hindsight"]
    enough = [run for run in static["runs"] if run["attainment"] >= 0.99]
    assert static["cost_at_target"] == min(run["cost"] for run in enough)
    assert all(run["knob"] == int(run["knob"]) for run in static["runs"]), "between three replicas and four is no fleet"
    assert [run["cost"] for run in static["runs"] if run["knob"] == static["knob"]] == [static["cost_at_target"]] * 2
    assert static["interval"] == [static["cost_at_target"]] * 2


def test_report_and_pictures_are_readable(done: Folder) -> None:
    report = (done.out / "report.md").read_text()
    assert "| **ebbtide** | default |" in report
    assert "| policy | attained | for | worst 5 min | p95 TTFT | p99 TTFT | p95 ITL |" in report
    assert "![replicas over time](replicas.svg)" in report
    for picture in ("attainment.svg", "replicas.svg"):
        texts = [node.text or "" for node in ElementTree.parse(done.out / picture).iter() if node.tag.endswith("text")]
        assert any("static-peak" in text for text in texts), picture


def test_the_same_command_again_runs_nothing_and_writes_the_same_bytes(done: Folder) -> None:
    before, runs = (done.out / "results.json").read_bytes(), len(done.runs())
    assert done.run().returncode == 0
    assert len(done.runs()) == runs, "everything was in the cache"
    assert (done.out / "results.json").read_bytes() == before


def test_another_objective_and_another_model_name_are_new_runs_and_another_output_folder_is_not(done: Folder) -> None:
    runs = len(done.runs())
    assert done.run("--out", str(done.path / "elsewhere"), "--jobs", "3").returncode == 0
    assert len(done.runs()) == runs
    assert done.run("--out", str(done.path / "elsewhere"), "--ttft-ms", "600").returncode == 0
    assert len(done.runs()) > runs


def test_the_kv_cache_of_a_replica_is_as_told(done: Folder) -> None:
    assert done.results()["case"]["replica"]["engine"]["kv_blocks"] == 7000, "where nothing is said"
    out = done.path / "cache"
    run = done.run("--kv-blocks", "4100", "--policies", "ebbtide", "--out", str(out))
    assert run.returncode == 0, run.stderr
    assert json.loads((out / "results.json").read_text())["case"]["replica"]["engine"]["kv_blocks"] == 4100
    assert "262,400 tokens of KV cache" in (out / "report.md").read_text()


def test_frozen_settings_come_from_an_earlier_results_file(done: Folder) -> None:
    out, other = done.path / "frozen", done.path / "another-day.jsonl"
    other.write_text("".join(done.trace.read_text().splitlines(keepends=True)[:-1]))
    frozen = ("--tune", f"frozen:{done.out / 'results.json'}", "--seeds", "1", "--policies", "ebbtide,static-peak")
    run = done.run(*frozen, "--trace", str(other), "--out", str(out))
    assert run.returncode == 0, run.stderr
    trained, results = by_name(done.results())["static-peak"]["knob"], json.loads((out / "results.json").read_text())
    assert by_name(results)["static-peak"]["tuning"] == "frozen"
    assert {run["knob"] for run in by_name(results)["static-peak"]["runs"]} == {trained}
    there = results["case"]["frozen_on"]
    assert (there["trace"], there["start_s"], there["hours"]) == ("hump.jsonl", 0.0, pytest.approx(0.25, abs=0.01))
    assert "settings: frozen, as found on `hump.jsonl`, 0 to 0.25 h of it." in (out / "report.md").read_text()


def test_published_settings_are_run_as_they_are(done: Folder) -> None:
    out = done.path / "published"
    assert done.run("--tune", "published", "--out", str(out)).returncode == 0
    peak = by_name(json.loads((out / "results.json").read_text()))["static-peak"]
    assert {run["knob"] for run in peak["runs"]} == {1.0}
    searched = by_name(done.results())["static-peak"]
    assert searched["published"] == peak["published"] is not None, "a search begins with it"
    assert by_name(done.results())["ebbtide"]["published"] is None, "it has no setting"
    assert "as published |" in (done.out / "report.md").read_text()


def test_a_comparison_that_was_killed_goes_on_where_it_was(done: Folder, tmp_path: Path) -> None:
    """Nothing that was finished is run again, nothing is left behind, and the results are those of an unbroken run."""
    broken = folder(tmp_path)
    process = broken.start(FAKE_PAUSE_S="0.03")
    wait_for(lambda: len(broken.runs()) >= 25)
    children = children_of(process.pid)
    assert len(children) >= 2
    process.kill()
    process.communicate()
    wait_for(lambda: not any(alive(child) for child in children))
    finished = len(broken.runs())
    assert finished < len(done.runs()) / 2, "it was killed in the middle"
    assert not broken.out.joinpath("results.json").exists()
    assert broken.run().returncode == 0
    unbroken = folder(tmp_path / "unbroken") if (tmp_path / "unbroken").mkdir() is None else None
    assert unbroken is not None
    assert unbroken.run().returncode == 0
    assert len(broken.runs()) <= len(unbroken.runs()) + 2, "at most the two that ran when it was killed ran again"
    assert comparable(broken) == comparable(unbroken)


def test_simulations_end_with_who_asked_for_them_their_own_children_too(tmp_path: Path) -> None:
    made = folder(tmp_path)
    process = made.start(FAKE_PAUSE_S="600")
    wait_for(lambda: any(children_of(worker, "sleep") for worker in children_of(process.pid)))
    workers = children_of(process.pid)
    below = [child for worker in workers for child in children_of(worker, "sleep")]
    process.kill()
    process.communicate()
    wait_for(lambda: not any(alive(child) for child in [*workers, *below]))


@pytest.mark.parametrize(
    ("how", "after"),
    [(signal.SIGINT, 4), (signal.SIGINT, 25), (signal.SIGTERM, 25)],
    ids=["while one run is waited for", "while many are", "SIGTERM"],
)
def test_an_interruption_is_one_line_and_leaves_nothing_running(
    tmp_path: Path, how: signal.Signals, after: int
) -> None:
    made = folder(tmp_path)
    process = made.start(FAKE_PAUSE_S="0.3")
    wait_for(lambda: len(made.runs()) >= after)
    children = children_of(process.pid)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert len(made.runs()) < 45, "what had not begun was not begun"
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted: what was computed is kept, the same command goes on from there"
    assert "Traceback" not in err and "Process Spawn" not in err
    wait_for(lambda: not any(alive(child) for child in children))


def test_a_simulation_that_dies_is_said_with_the_run_that_it_was(tmp_path: Path) -> None:
    run = folder(tmp_path).run(FAKE_DIES_AT="2")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        "error: policy ebbtide at 0, seed 2: the simulation's process ended (exit code -9); the kernel ends a process "
        "so when memory runs out: try fewer --jobs"
    )


def comparable(made: Folder) -> dict:
    """Results without the folder's own name."""
    return {key: value for key, value in made.results().items() if key != "command"}


def wait_for(condition, seconds: float = 120.0) -> None:
    until_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until_s, "waited in vain"
        time.sleep(0.02)


def children_of(pid: int, name: str = "spawn_main") -> list[int]:
    found = [
        int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()
    ]
    return [one for one in found if name in Path(f"/proc/{one}/cmdline").read_text()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_of_a_trace_that_few_replicas_carry_no_large_fleet_is_measured(tmp_path: Path) -> None:
    """A hundredth of the hump is one replica's work: three may run, for the room that a peak has."""
    run = folder(tmp_path).run("--scale", "0.01", "--seeds", "1", "--policies", "static-peak")
    assert run.returncode == 0, run.stderr
    lonely = {25}  # on which is measured what no replicas can buy
    assert {int(n) for n in re.findall(r"measuring (\d+) replicas", run.stderr)} <= {1, 2, 3} | lonely
    assert "1 to 3 replicas" in run.stderr
