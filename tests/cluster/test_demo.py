"""`ebbtide demo` as a user runs it: exit code 0, a summary with every number, and no write where none is allowed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

KEYS = {
    *("namespace", "name", "mode", "requests", "met_both", "met_both_after_60s", "replicas_min", "replicas_max"),
    *("scale_changes", "writes_to_target", "gpu_hours", "static_peak_gpu_hours", "cost", "currency"),
}


@pytest.mark.full
@pytest.mark.timeout(420)
def test_the_demo_ends_with_a_summary_and_writes_only_where_it_may(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    argv = [sys.executable, "-m", "ebbtide", "demo", "--duration", "90s", "--plain", "--json", str(out)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    summary = json.loads(out.read_text())
    assert summary["seed"] == 1
    assert summary["duration_s"] == 90.0
    assert summary["cycles"] > 10
    assert summary["cycle_seconds_p50"] <= summary["cycle_seconds_p99"]
    assert 0 < summary["promql_queries_per_cycle"] <= 12
    # renewals of the Lease every few seconds, and Events, statuses and scales beside them
    assert 10 < summary["lease_renewals"] < summary["api_writes"]
    lines = done.stdout.splitlines()
    assert any(line.startswith("KUBECONFIG=") and line.endswith("get infs,gpool,costp,pods -A") for line in lines)
    assert f"{summary['lease_renewals']} of them renewals of its Lease." in " ".join(done.stdout.split())
    services = {service["name"]: service for service in summary["services"]}
    assert set(services) == {"chat", "summaries", "drafts", "pilot", "legacy"}
    for service in services.values():
        assert set(service) >= KEYS
        assert 0.0 <= service["met_both"] <= 1.0
    assert services["pilot"]["writes_to_target"] == 0
    assert services["legacy"]["writes_to_target"] == 0
    assert sum(services[name]["writes_to_target"] for name in ("chat", "summaries", "drafts")) > 0


@pytest.mark.full
@pytest.mark.timeout(420)
def test_the_demo_under_a_ceiling_spends_no_more_and_the_least_important_gives_way_first(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    argv = [sys.executable, "-m", "ebbtide", "demo", "--scenario", "budget", "--duration", "2m", "--plain"]
    done = subprocess.run([*argv, "--json", str(out)], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    summary = json.loads(out.read_text())
    assert summary["problems"] == []
    assert float(summary["spent"]) <= float(summary["ceiling"])
    assert float(summary["spent_before"]) < float(summary["counted_from_outside"]) <= float(summary["ceiling"]) + 0.01
    assert summary["gave_way_in_order"][0] == "backfill"
    assert summary["batch"]["runs"] >= 1
    assert summary["batch"]["stopped_s"] is not None
    services = {service["name"]: service for service in summary["services"]}
    assert services["chat"]["did_without"] <= services["backfill"]["did_without"]
    assert "backfill without" in done.stdout
    assert "CostPolicy today" in done.stdout


@pytest.mark.full
@pytest.mark.timeout(700)
def test_batch_jobs_fill_the_night_give_back_in_the_morning_and_end_in_time(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    argv = [sys.executable, "-m", "ebbtide", "demo", "--scenario", "off-peak", "--duration", "6m", "--plain"]
    done = subprocess.run([*argv, "--json", str(out)], capture_output=True, text=True, timeout=680, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    summary = json.loads(out.read_text())
    assert summary["problems"] == []
    jobs = {job["name"]: job for job in summary["jobs"]}
    assert set(jobs) == {"report", "evaluate", "embed", "documents"}
    assert all(job["ended"] <= job["deadline"] and job["succeeded"] == job["completions"] for job in jobs.values())
    assert any(job["given_back"] and len(job["runs"]) > 1 for job in jobs.values())
    assert jobs["report"]["given_back"] == 0, "it may not be stopped"
    assert float(summary["cost"]) < float(summary["cost_rented_at_once"])
    assert "windows" in done.stdout and "5 s a column" in done.stdout
