"""The demo of batch work: what is seen from outside, what is said of it, and objects that the API server would take."""

import io
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ebbtide.api import parse_batch_policy, parse_pool
from ebbtide.api.annotations import asked
from ebbtide.cli.demo import demo
from ebbtide.cli.demo_off_peak import OffPeakScreen, _money, report, timeline
from ebbtide.clock import parse_rfc3339, rfc3339
from ebbtide.money.windows import open_windows
from ebbtide.sandbox import off_peak_objects as objects
from ebbtide.sandbox.demo_base import View
from ebbtide.sandbox.demo_off_peak import Batch, JobLife, OffPeakDemo, Run, count_pods, verdict
from ebbtide.sim import off_peak
from ebbtide.sim.off_peak import PAID, RENTED
from ebbtide.sim.showcase import POOL_LABEL

BEGIN_S = 1_790_000_040.0  # a whole minute
POOL = {POOL_LABEL: PAID}


def batch() -> Batch:
    """All Jobs ended in time, and `documents` gave its GPUs back once."""
    lives = {}
    for job in off_peak.jobs(360.0):
        runs = [Run(BEGIN_S + 100, BEGIN_S + 200, PAID)]
        if job.name == "documents":
            runs.append(Run(BEGIN_S + 310, BEGIN_S + 380, RENTED))
        deadline_s = BEGIN_S + job.deadline_s
        lives[job.name] = JobLife(job, deadline_s, runs, job.completions, ended_s=runs[-1].end_s)
    found = Batch(lives, ((BEGIN_S + 60, BEGIN_S + 240), (BEGIN_S + 300, BEGIN_S + 420)))
    found.gpu_s = {(PAID, True): 300.0, (RENTED, True): 100.0}
    return found


def job_object(*, suspend: bool, done: int = 0, complete_at: float | None = None) -> dict[str, Any]:
    conditions = [] if complete_at is None else [{"type": "Complete", "status": "True"}]
    status = {"succeeded": done, "conditions": conditions}
    if complete_at is not None:
        status["completionTime"] = rfc3339(complete_at)
    return {"spec": {"suspend": suspend, "template": {"spec": {"nodeSelector": POOL}}}, "status": status}


def test_a_job_that_waits_runs_gives_back_goes_on_and_ends() -> None:
    life = JobLife(off_peak.JOBS[3], BEGIN_S + 400)
    for at_s, suspend, done in ((0, True, 0), (100, False, 0), (150, False, 6), (200, True, 8), (300, False, 8)):
        life.seen(job_object(suspend=suspend, done=done), BEGIN_S + at_s)
    assert (life.on, life.given_back, life.resumed, life.ended_s) == (True, 1, 1, None)
    life.seen(job_object(suspend=False, done=28, complete_at=BEGIN_S + 350), BEGIN_S + 351)
    life.seen(job_object(suspend=False, done=28, complete_at=BEGIN_S + 350), BEGIN_S + 352)
    assert life.runs == [Run(BEGIN_S + 100, BEGIN_S + 200, PAID), Run(BEGIN_S + 300, BEGIN_S + 350, PAID)]
    assert (life.on, life.given_back, life.resumed, life.ended_s) == (False, 1, 1, BEGIN_S + 350)


def test_gpu_time_is_that_of_pods_that_hold_their_gpu_by_pool_and_by_the_hour() -> None:
    found = batch()
    found.gpu_s = {}

    def pod(name: str, phase: str = "Running", node: str = "n") -> dict[str, Any]:
        labels = {"batch.kubernetes.io/job-name": name}
        return {"metadata": {"uid": name, "labels": labels}, "spec": {"nodeName": node, "nodeSelector": POOL},
                "status": {"phase": phase}}  # fmt: skip

    pods = [pod("a"), pod("b"), pod("c", "Succeeded"), pod("d", node=""), {"metadata": {}, "spec": {}}]
    count_pods(found, pods, BEGIN_S + 100, 2.0, BEGIN_S)
    count_pods(found, pods, BEGIN_S + 240, 1.5, BEGIN_S)
    assert found.gpu_s == {(PAID, True): 4.0, (PAID, False): 3.0}


def test_how_long_pods_of_the_service_waited_for_a_node() -> None:
    found = batch()

    def pod(uid: str, created: float, placed: float | None) -> dict[str, Any]:
        meta = {"uid": uid, "creationTimestamp": rfc3339(created), "labels": {"sandbox.ebbtide.dev/route": "chat"}}
        scheduled = {"type": "PodScheduled", "status": "False" if placed is None else "True"}
        scheduled["lastTransitionTime"] = rfc3339(placed or created)
        return {"metadata": meta, "spec": {}, "status": {"conditions": [scheduled]}}

    pods = [
        pod("before", BEGIN_S - 9, BEGIN_S + 9),
        pod("placed", BEGIN_S + 1, BEGIN_S + 5),
        pod("waits", BEGIN_S, None),
    ]
    count_pods(found, pods, BEGIN_S + 7, 1.0, BEGIN_S)
    assert found.pending_s == {"placed": 4.0, "waits": 7.0}


def test_a_night_as_it_should_be_has_no_problems() -> None:
    assert verdict(batch(), 3.0) == []


def test_each_thing_that_is_not_as_it_should_be_is_said() -> None:
    late, waited, kept, dear, failed = (batch() for _ in range(5))
    late.lives["embed"].ended_s = late.lives["embed"].deadline_s + 7
    waited.pending_s = {"a": 9.0, "b": 10.0}
    kept.lives["documents"].runs = kept.lives["documents"].runs[:1]
    dear.gpu_s[RENTED, False] = 100.0
    failed.lives["report"].ended_s, failed.lives["report"].failed = None, True
    assert verdict(late, 3.0) == ["Job embed ended 7 s after its deadline"]
    said = "a pod of the service waited 10 s for a GPU: more than the 5 s of grace and a cycle of 3 s"
    assert verdict(waited, 3.0) == [said]
    assert verdict(kept, 3.0) == ["no Job gave its GPUs back, was resumed and ended"]
    assert verdict(dear, 3.0) == ["80% of the Jobs' GPU time was on paid-for GPUs or in cheap hours, not 90%"]
    (problem,) = verdict(failed, 3.0)
    assert problem == "Job report has failed: 1 of 1 completions are done"


def test_money_with_paid_for_gpus_as_free_and_at_full_price() -> None:
    found = batch()
    found.gpu_s = {(PAID, True): 3600.0, (PAID, False): 3600.0, (RENTED, True): 3600.0, (RENTED, False): 3600.0}
    assert _money(found) == {
        "cost": "3.8500",  # 1.10 + 2.75
        "cost_with_paid_for_at_full_price": "5.7500",  # and 2 x 0.95
        "cost_rented_at_once": "11.0000",  # 4 x 2.75
    }


def test_the_timeline_has_what_ran_and_what_is_planned() -> None:
    found = batch()
    documents = found.lives["documents"]
    documents.ended_s, documents.runs = None, documents.runs[:1]
    start, end = rfc3339(BEGIN_S + 4e8), rfc3339(BEGIN_S + 4e8 + 60)  # beyond what is drawn
    found.status = {"jobs": [{"name": "documents", "start": start, "end": end}]}
    running = cast(OffPeakDemo, SimpleNamespace(batch=found, counts_from_s=BEGIN_S, duration_s=360.0))
    lines = [line.plain for line in timeline(running, 100, plain=True)]
    assert lines[1].split() == ["windows", "-" * 36, "-" * 24]
    assert [line.split()[0] for line in lines[2:6]] == ["report", "evaluate", "embed", "documents"]
    assert all("#" in line and "|" in line and len(line) <= 100 for line in lines[2:6])


def test_the_screen_has_the_timeline_and_why_each_job_waits() -> None:
    found = batch()
    found.lives["documents"].ended_s = None
    waits = {"name": "documents", "outcome": "Waits", "reason": "waits for 22:00 " * 20, "late": True}
    found.status = {"jobs": [waits, waits | {"name": "embed"}]}
    services = off_peak.services(360.0, 1)
    fake = SimpleNamespace(batch=found, counts_from_s=BEGIN_S, duration_s=360.0, services=services)
    screen = OffPeakScreen(cast(OffPeakDemo, fake), 118)
    view = View(60.0, 360.0, {}, {}, {}, {}, {})
    out = io.StringIO()
    Console(file=out, width=118, force_terminal=True, color_system=None).print(screen.update(view))
    drawn = out.getvalue()
    assert all(len(line) <= 118 for line in drawn.splitlines())
    assert "━" in drawn and "█" in drawn and "chat" in drawn
    (line,) = (line for line in screen.plain_lines(view) if "Waits" in line)
    assert line.startswith("  documents  28/28 Waits   waits for 22:00") and len(line) < 120


@given(st.floats(240.0, 3600.0), st.integers(0, 10_000))
def test_objects_are_as_the_api_would_have_them_whatever_the_duration(duration_s: float, minutes: int) -> None:
    began_s = BEGIN_S + 60.0 * minutes
    cheap = [(began_s + begin_s, began_s + end_s) for begin_s, end_s in off_peak.windows(duration_s)]
    spec = parse_batch_policy(objects.policy(cheap))
    open_ = open_windows(spec, began_s, began_s + 2 * duration_s)
    assert sum(end_s - begin_s for begin_s, end_s in open_) == sum(end_s - begin_s for begin_s, end_s in cheap)
    assert (open_[0][0], open_[-1][1]) == (cheap[0][0], cheap[-1][1])
    paid, rented = (parse_pool(pool) for pool in objects.pools(cheap))
    assert (paid.name, rented.name) == (PAID, RENTED)
    assert rented.price is not None and rented.price.tariff is not None
    for job in off_peak.jobs(duration_s):
        made = objects.job(job, began_s)
        wanted = asked(made["metadata"]["annotations"], began_s)
        assert wanted.faults == () and wanted.restartable == job.restartable
        assert wanted.deadline_at == parse_rfc3339(rfc3339(began_s + job.deadline_s))
        assert job.submitted_s + job.expected_s < job.deadline_s
        assert made["spec"]["suspend"] is True and spec.selects("demo", made["metadata"]["labels"])


def test_the_report_says_what_ran_where_and_what_it_cost() -> None:
    row = {"name": "documents", "gpus": 2, "completions": 28, "succeeded": 28, "submitted": 12.0, "given_back": 1}
    runs = [{"from": 100.0, "to": 200.0, "pool": PAID}, {"from": 310.0, "to": 380.0, "pool": RENTED}]
    effort = {"cycles": 9, "cycle_seconds_p50": 0.1, "cycle_seconds_p99": 0.2, "promql_queries_per_cycle": 7.0}
    service = {"name": "chat", "requests": 10, "met_both_after_60s": 0.991, "replicas_min": 1, "replicas_max": 8}
    document = {
        "jobs": [row | {"runs": runs, "ended": 380.0, "deadline": 400.0}],
        **{"batch_gpu_seconds": 400.0, "paid_for_share": 0.75, "paid_for_or_cheap_share": 1.0, "cost": "0.0306"},
        **{"cost_with_paid_for_at_full_price": "0.1", "cost_rented_at_once": "0.3", "service": service},
        **{"longest_wait_of_a_service_pod_s": 5.0, "problems": ["too late"]},
        **{**effort, "api_writes": 4, "lease_renewals": 1, "duration_s": 360.0},
    }
    out = io.StringIO()
    report(Console(file=out, width=200), document)
    said = out.getvalue()
    assert "100-200s a100-on-prem, 310-380s cloud-a100" in said and "28/28" in said
    assert "75% of them on GPUs that are paid for anyway, 100% there or in cheap hours: 0.0306 USD" in said
    assert "chat: 99.1% of 10 requests met both" in said and "no pod waited more than 5 s" in said
    assert "not as it should be: too late" in said


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--trace", __file__), "--trace: not with --scenario off-peak"),
        (("--duration", "90s"), "--duration: 1m30s is too short for a night with --scenario off-peak: at least 4m"),
    ],
)
def test_what_does_not_go_together_is_refused(options: tuple[str, ...], why: str) -> None:
    answer = CliRunner().invoke(demo, ["--scenario", "off-peak", *options])
    assert (answer.exit_code, why in answer.output) == (2, True), answer.output
