"""What people read of batch work: statuses, Events and metrics."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ebbtide.api.batch import BatchPolicyStatus
from ebbtide.core.conditions import of_unreadable
from ebbtide.kube.client import KubeClient
from ebbtide.model.batch import Asked
from ebbtide.model.memory import Memory
from ebbtide.model.plan import BatchPolicyPlan, Outcome, Plan
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import BATCH_KIND, Snapshot, Unreadable
from ebbtide.record.batch_view import batch_policy_status
from ebbtide.record.budget import TokenBucket
from ebbtide.record.events import EventRecorder, cycle_events
from ebbtide.record.metrics import Metrics
from ebbtide.record.recorder import LAST, FlightRecorder
from ebbtide.record.significance import Difference, difference
from ebbtide.record.status import StatusWriter
from ebbtide.record.view import unreadable_status
from tests.shell import batch_world, world
from tests.shell.fake_api import FakeApi, serving

MEMORY = Memory(started_at=1.5)
PATH = "/apis/ebbtide.dev/v1alpha1/namespaces/team/batchpolicies/nightly/status"


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def client(api: FakeApi, tmp_path: Path) -> AsyncIterator[KubeClient]:
    async with serving(api, tmp_path) as client:
        yield client


def said(plan: BatchPolicyPlan | None = None, previous: Any = None) -> dict[str, Any]:
    return batch_policy_status(plan or batch_world.policy_plan(), 2, previous or {}, world.NOW_S)


# -- statuses


def test_a_full_status_is_what_the_api_declares() -> None:
    status = said()
    assert BatchPolicyStatus.model_validate(status)
    assert (status["queued"], status["running"], status["stopped"], status["suspendedByUsers"]) == (12, 3, 2, 1)
    assert (status["missed"], status["gpus"]) == (1, 24)
    assert (status["nextStart"], status["nextWindow"]) == ("2027-01-15T08:10:00Z", "2027-01-15T09:00:00Z")
    assert status["saved"] == {"amount": "12.40", "currency": "USD"}
    assert [each["type"] for each in status["conditions"]] == ["DeadlinesKept", "Placeable", "Ready", "Undisputed"]
    assert status["conditions"][0]["status"] == "Unknown", "what nobody decided is not known"


def test_what_is_not_known_is_left_out_and_what_was_saved_stays() -> None:
    silent = batch_world.policy_plan(next_start_at=None, next_window_at=None, saved=None)
    assert not {"nextStart", "nextWindow", "saved"} & said(silent).keys()
    assert said(silent, said())["saved"] == {"amount": "12.40", "currency": "USD"}


def test_what_was_lost_against_running_at_once_is_said_too() -> None:
    status = said(batch_world.policy_plan(saved=Decimal("-0.375")))
    assert status["saved"]["amount"] == "-0.3750"
    assert BatchPolicyStatus.model_validate(status)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, Difference.NOTHING),
        ({"saved": Decimal("12.5")}, Difference.NOTHING),
        ({"saved": Decimal("20")}, Difference.MOVED),
        ({"next_start_at": world.NOW_S + 1200.0}, Difference.MOVED),
        ({"queued": 11}, Difference.DECIDED),
        ({"missed": 2}, Difference.DECIDED),
    ],
)
def test_what_is_worth_a_write(change: dict[str, Any], wanted: Difference) -> None:
    assert difference(said(), said(batch_world.policy_plan(**change))) is wanted


def test_one_that_cannot_be_read_says_why_and_forgets_nothing_that_was_counted() -> None:
    lost = Unreadable(BATCH_KIND, "team/nightly", "u", 3, "BatchPolicy team/nightly: spec.x: 1 is not allowed")
    status = unreadable_status(of_unreadable(lost), 3, said(), world.NOW_S)
    assert BatchPolicyStatus.model_validate(status)
    assert (status["missed"], status["saved"]["amount"]) == (1, "12.40")
    (ready,) = (each for each in status["conditions"] if each["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "InvalidSpec")
    assert ready["message"].endswith("its Jobs are neither started nor stopped until it can be read")


async def test_a_status_is_written_to_its_own_namespace_and_once(client: KubeClient, api: FakeApi) -> None:
    writer = StatusWriter(client)
    plan, snapshot = batch_world.cycle(batch_world.policy_plan()), batch_world.seen()
    assert writer.offer(plan, snapshot, world.NOW_S) == 1
    assert (await writer.drain(world.NOW_S)).written == 1
    (write,) = api.writes()
    assert (write.path, write.body["kind"]) == (PATH, "BatchPolicy")
    assert write.body["status"]["queued"] == 12
    assert writer.offer(plan, snapshot, world.NOW_S + 10) == 0
    assert writer.offer(batch_world.cycle(), snapshot, world.NOW_S + 20) == 0, "a policy that is gone is forgotten"


# -- Events


def told(plan: Plan, snapshot: Snapshot | None = None, moved: tuple[str, ...] = ()) -> list[tuple[str, str, str, str]]:
    notes = cycle_events(plan, snapshot or batch_world.seen(), [], jobs_moved=moved)
    return [(note.subject.kind, note.subject.name, note.type, note.reason) for note in notes]


@pytest.mark.parametrize(
    ("outcome", "code", "type_"),
    [
        (Outcome.WAITS, Code.WAITS_FOR_WINDOW, "Normal"),
        (Outcome.WAITS, Code.WAITS_FOR_CHEAPER_HOUR, "Normal"),
        (Outcome.WAITS, Code.DEADLINE_UNREACHABLE, "Warning"),
        (Outcome.WAITS, Code.MISSED_FOR_MONEY, "Warning"),
        (Outcome.IMPOSSIBLE, Code.FITS_NOWHERE, "Warning"),
        (Outcome.LEFT_ALONE, Code.SELECTED_TWICE, "Warning"),
        (Outcome.LEFT_ALONE, Code.SUSPENDED_BY_USER, "Normal"),
        (Outcome.RUNS, Code.STARTED_ANYWAY, "Warning"),
    ],
)
def test_why_a_job_waits_or_is_left_alone_is_told_on_the_job(outcome: Outcome, code: Code, type_: str) -> None:
    plan = batch_world.cycle(jobs=(batch_world.job_plan(outcome=outcome, code=code),))
    assert told(plan) == [("Job", "embed", type_, code.value)]
    (note,) = cycle_events(plan, batch_world.seen(), [])
    assert (note.subject.api_version, note.subject.namespace, note.subject.uid) == ("batch/v1", "team", "uid-of-embed")
    assert note.text == "waits for 22:00: 1.10 instead of 2.90 USD per GPU-hour"


def test_of_a_job_set_it_is_told_on_the_job_set() -> None:
    jobs = (batch_world.job_plan("jobset/embed", outcome=Outcome.WAITS, code=Code.WAITS_FOR_WINDOW),)
    (note,) = cycle_events(batch_world.cycle(jobs=jobs), batch_world.seen(), [])
    assert (note.subject.api_version, note.subject.kind) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert (note.subject.namespace, note.subject.name) == ("team", "embed")


def test_that_it_goes_on_running_is_no_news() -> None:
    assert told(batch_world.cycle(jobs=(batch_world.job_plan(outcome=Outcome.RUNS, code=Code.JOB_RUNS),))) == []


@pytest.mark.parametrize(
    ("outcome", "code", "type_"),
    [
        (Outcome.STARTS, Code.JOB_STARTS, "Normal"),
        (Outcome.STOPS, Code.GIVES_GPUS_BACK, "Normal"),
        (Outcome.STOPS, Code.STOPPED_FOR_MONEY, "Warning"),
        (Outcome.SHRINKS, Code.JOB_RESIZED, "Normal"),
    ],
)
def test_a_start_or_stop_is_told_once_it_was_written(outcome: Outcome, code: Code, type_: str) -> None:
    plan = batch_world.cycle(jobs=(batch_world.job_plan(outcome=outcome, code=code),))
    assert told(plan) == [], "the patch was refused, or is still to come"
    assert told(plan, moved=("team/embed",)) == [("Job", "embed", type_, code.value)]


async def test_a_second_start_within_15_minutes_is_news_and_a_second_cycle_is_not(client: KubeClient) -> None:
    recorder = EventRecorder(client)

    async def sent(version: str, after_s: float) -> int:
        job = batch_world.job_plan(outcome=Outcome.STARTS, code=Code.JOB_STARTS, resource_version=version)
        notes = cycle_events(batch_world.cycle(jobs=(job,)), batch_world.seen(), [], jobs_moved=("team/embed",))
        return await recorder.emit(notes, world.NOW_S + after_s)

    assert [await sent("7", 0), await sent("7", 10), await sent("9", 60)] == [1, 0, 1]


def test_each_annotation_that_cannot_be_read_is_told_with_its_name_and_value() -> None:
    text = 'ebbtide.dev/deadline: "tomorrow" is not allowed: must be RFC 3339'
    asked = Asked(faults=(("ebbtide.dev/deadline", text), ("ebbtide.dev/restartable", "the other")))
    notes = cycle_events(batch_world.cycle(), batch_world.seen(batch_world.job(asked=asked)), [])
    assert [(note.reason, note.type, note.text) for note in notes] == [
        ("AnnotationInvalid", "Warning", text),
        ("AnnotationInvalid", "Warning", "the other"),
    ]
    assert len({note.topic for note in notes}) == 2


def test_what_is_wrong_with_a_policy_is_told_once_on_the_policy() -> None:
    late = world.condition("DeadlinesKept", "False", "DeadlineUnreachable", "embed ends at 09:10, not by 08:00")
    ready = world.condition("Ready", "False", "PoolNotFound", "spec.pools: there is no GPUPool h200")
    again = world.condition("Ready", "False", "DeadlineUnreachable", "the same")
    paused = world.condition("Ready", "False", "BatchPaused", "spec.paused is true")
    for conditions, wanted in (
        ((late, ready), [("Warning", "DeadlineUnreachable"), ("Warning", "PoolNotFound")]),
        ((late, again), [("Warning", "DeadlineUnreachable")]),
        ((paused,), [("Normal", "BatchPaused")]),
    ):
        found = told(batch_world.cycle(batch_world.policy_plan(conditions=conditions)))
        assert found == [("BatchPolicy", "nightly", *each) for each in wanted]


async def test_a_queue_of_jobs_that_wait_holds_back_no_news_and_each_has_its_event(client: KubeClient) -> None:
    jobs = tuple(batch_world.job_plan(f"embed-{number}") for number in range(200))
    moved = batch_world.job_plan("first", Outcome.STARTS, Code.JOB_STARTS)
    dropped: list[str] = []
    recorder = EventRecorder(client, budget=TokenBucket(3), dropped=dropped.append)
    sent, seconds = 0, 0
    while sent < len(jobs):
        notes = cycle_events(batch_world.cycle(jobs=jobs), batch_world.seen(), [])
        sent += await recorder.emit(notes, world.NOW_S + seconds)
        for _ in range(10):
            seconds += 1
            sent += await recorder.flush(world.NOW_S + seconds)
        assert seconds < 120
    assert dropped == []
    notes = cycle_events(batch_world.cycle(jobs=(*jobs, moved)), batch_world.seen(), [], jobs_moved=("team/first",))
    assert await recorder.emit(notes, world.NOW_S + 1000) == 1, "those that were told stay told for an hour"
    assert await recorder.emit(notes, world.NOW_S + 3800) > 0


# -- metrics and the flight recorder


def test_the_metrics_of_a_policy() -> None:
    jobs = (
        batch_world.job_plan("a", starts_at=world.NOW_S + 100.0, ends_at=world.NOW_S + 200.0),
        batch_world.job_plan(
            "b", Outcome.RUNS, Code.JOB_RUNS, starts_at=world.NOW_S - 50.0, ends_at=world.NOW_S + 50.0
        ),
        batch_world.job_plan("c", Outcome.LEFT_ALONE, Code.FOREIGN_JOB, ends_at=world.NOW_S + 50.0),
        batch_world.job_plan("d", Outcome.LEFT_ALONE, Code.SELECTED_TWICE, policy=""),
    )
    metrics = Metrics()
    metrics.observe_plan(batch_world.cycle(batch_world.policy_plan(), jobs=jobs), batch_world.seen())
    of = {"namespace": "team", "policy": "nightly"}
    found = {
        (sample.name.removeprefix("ebbtide_batch_"), *(set(sample.labels.items()) - set(of.items()))): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
        if sample.name.startswith("ebbtide_batch_")
    }
    states = {"queued": 12, "running": 3, "stopped": 2, "suspended": 1, "impossible": 0}
    reasons = ("WaitsForWindow", "JobRuns", "ForeignJob")
    assert found == {
        **{("jobs", ("state", state)): count for state, count in states.items()},
        **{("job_reasons", ("reason", code)): 1 for code in reasons},
        ("gpus",): 24,
        ("deadlines_missed",): 1,
        ("planned_gpu_seconds",): 8 * 150,
        ("next_start_timestamp_seconds",): world.NOW_S + 600,
        ("next_window_timestamp_seconds",): world.NOW_S + 3600,
        ("saved", ("currency", "USD")): 12.4,
        ("condition", ("type", "Ready")): 1,
    }


def test_jobs_are_recorded_one_by_one_so_that_one_that_did_not_change_costs_nothing(tmp_path: Path) -> None:
    recorder = FlightRecorder(tmp_path, max_bytes=10_000_000)
    states = tuple(batch_world.job(f"embed-{number}") for number in range(500))
    plans = tuple(batch_world.job_plan(f"embed-{number}") for number in range(500))
    sizes = []
    for after_s in (0.0, 10.0):
        plan = msgspec.structs.replace(batch_world.cycle(jobs=plans), at=world.NOW_S + after_s)
        recorder.record(batch_world.seen(*states), MEMORY, world.NOW_S + after_s, plan)
        sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
    found = recorder.load(LAST)
    assert (found.snapshot.jobs, found.plan.jobs) == (states, plans)
    assert sizes[1] - sizes[0] < sizes[0] / 2


def test_another_outcome_of_a_job_is_another_decision(tmp_path: Path) -> None:
    recorder = FlightRecorder(tmp_path, max_bytes=10_000_000)
    waits, runs = (
        batch_world.cycle(jobs=(batch_world.job_plan(outcome=outcome),)) for outcome in (Outcome.WAITS, Outcome.STARTS)
    )
    recorder.record(batch_world.seen(), MEMORY, world.NOW_S, waits)
    assert not recorder.due(waits, world.NOW_S + 1)
    assert recorder.due(runs, world.NOW_S + 1)
