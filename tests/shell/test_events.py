"""Events: what is worth one, said once, on the right object, within the budget."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ebbtide.core.conditions import of_unreadable
from ebbtide.kube.client import KubeClient
from ebbtide.model.plan import Condition, Plan, ServicePlan
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import Snapshot, Unreadable
from ebbtide.model.spec import Mode
from ebbtide.record.budget import TokenBucket
from ebbtide.record.events import CONTROLLER, EventRecorder, cycle_events
from ebbtide.record.notes import Note, Subject
from tests.shell import world
from tests.shell.fake_api import FakeApi, serving

OWN = Subject("apps/v1", "Deployment", "ebbtide-system", "ebbtide", "own-uid")
GONE = world.condition("PrometheusReachable", "False", "PrometheusUnreachable", "no answer for 40s")
FINE = world.condition("PrometheusReachable", "True", "Resolved", "answers")


def notes(
    *plans: ServicePlan, mode: Mode = Mode.AUTO, applied: bool = False, causes: tuple[Condition, ...] = ()
) -> list[tuple[str, str, str]]:
    snapshot = world.snapshot(world.service_state(world.service_spec(mode=mode)))
    plan = world.plan(*plans, cluster_conditions=causes)
    found = cycle_events(plan, snapshot, (world.action(),) if applied else (), OWN)
    return [(note.subject.kind, note.type, note.reason) for note in found]


MOVES = world.service_plan(variants=(world.variant_plan(wanted=6, allowed=6),), reason=world.reason())


@pytest.mark.parametrize(
    ("mode", "code", "want"),
    [
        (Mode.AUTO, Code.WITHIN_TARGET, None),
        (Mode.AUTO, Code.METRICS_STALE, ("Warning", "Held")),
        (Mode.AUTO, Code.POOL_FULL, ("Warning", "Limited")),
        (Mode.AUTO, Code.USES_DEGRADED, ("Warning", "Degraded")),
        (Mode.AUTO, Code.LEAVES_DEGRADED, ("Normal", "Degraded")),
        (Mode.AUTO, Code.NO_BATCH_POLICY, ("Warning", "Limited")),
        (Mode.AUTO, Code.WAITS_FOR_WINDOW, None),
        (Mode.AUTO, Code.PRICE_UNKNOWN, ("Warning", "PriceMissing")),
        (Mode.AUTO, Code.TARGET_CONFLICT, ("Warning", "ConflictDetected")),
        (Mode.RECOMMEND, Code.PAUSED, ("Normal", "Paused")),
        (Mode.OFF, Code.TARGET_CONFLICT, None),
    ],
)
def test_which_reason_is_an_event(mode: Mode, code: Code, want: tuple[str, str] | None) -> None:
    found = notes(world.service_plan(reason=world.reason(code)), mode=mode)
    assert found == ([("InferenceService", *want)] if want else [])


@pytest.mark.parametrize(
    ("condition", "bad", "good", "text"),
    [
        ("TrafficBalanced", "SpreadEvenly", "FollowsCapacity", "each replica is planned at 8 requests/s"),
        ("SLOAttainable", "SLOUnattainable", "Attainable", "h100: 12% of requests miss an objective when nearly idle"),
        ("Acting", "WriteRefused", "Acting", "deployments.apps is forbidden"),
    ],
)
def test_conditions_that_are_an_event_whatever_decides(condition: str, bad: str, good: str, text: str) -> None:
    state = world.condition(condition, "False", bad, text)
    assert notes(world.service_plan(conditions=(state,))) == [("InferenceService", "Warning", bad)]
    plan, snapshot = world.plan(world.service_plan(conditions=(state,))), world.snapshot(world.service_state())
    assert [note.text for note in cycle_events(plan, snapshot, [])] == [text]
    fine = world.condition(condition, "True", good, "well")
    assert notes(world.service_plan(conditions=(fine,))) == [], "that all is well is no event"
    assert notes(world.service_plan(conditions=(state,)), mode=Mode.OFF) == []


def test_a_write_that_was_confirmed_is_told_with_its_numbers() -> None:
    snapshot = world.snapshot(world.service_state())
    [note] = cycle_events(world.plan(), snapshot, [world.action()])
    assert (note.reason, note.text) == (
        "ScaledUp",
        "h100 4 -> 6: 12.5 requests/s expected, 4 replicas carry 9.6",
    )
    [down] = cycle_events(world.plan(), snapshot, [world.action(2)])
    assert down.reason == "ScaledDown"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("4 -> 6: 25 requests/s expected", "h100 4 -> 6: 25 requests/s expected"),
        ("5 -> 7: 25 requests/s expected", "h100 4 -> 6 (in all 5 -> 7): 25 requests/s expected"),
        ("14 -> 6: 25 requests/s expected", "h100 4 -> 6 (in all 14 -> 6): 25 requests/s expected"),
        ("l40s 3 -> 0, h100 4 -> 6: the same for less", "l40s 3 -> 0, h100 4 -> 6: the same for less"),
        ("l40s 3 -> 0, h100 4 -> 60: the same for less", "h100 4 -> 6: l40s 3 -> 0, h100 4 -> 60: the same for less"),
        ("variant l40s: no pool", "h100 4 -> 6: variant l40s: no pool"),
        ("no words", "h100 4 -> 6: no words"),
    ],
)
def test_a_move_is_told_once(reason: str, text: str) -> None:
    why = world.reason(text=reason)
    [scaled] = cycle_events(world.plan(), world.snapshot(), [world.action(reason=why)])
    assert scaled.text == text
    moves = world.service_plan(variants=(world.variant_plan(wanted=6, allowed=6),), reason=why)
    advised = world.snapshot(world.service_state(world.service_spec(mode=Mode.RECOMMEND)))
    [recommended] = cycle_events(world.plan(moves), advised, [])
    assert recommended.text == f"{text} (mode Recommend: nothing was written)"


@pytest.mark.parametrize(
    ("mode", "want"),
    [(Mode.RECOMMEND, [("InferenceService", "Normal", "Recommended")]), (Mode.AUTO, []), (Mode.OFF, [])],
)
def test_only_recommend_recommends(mode: Mode, want: list[tuple[str, str, str]]) -> None:
    assert notes(MOVES, mode=mode) == want


def test_a_cause_that_concerns_all_is_said_once_on_our_own_deployment() -> None:
    held = world.service_plan(reason=world.reason(Code.PROMETHEUS_UNREACHABLE))
    assert notes(held, causes=(GONE,)) == [("Deployment", "Warning", "PrometheusUnreachable")]
    assert notes(world.service_plan(), causes=(FINE,)) == [], "that all is well is no event"


# -- sending


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def client(api: FakeApi, tmp_path: Path) -> AsyncIterator[KubeClient]:
    async with serving(api, tmp_path) as client:
        yield client


def note(reason: str = "Held", topic: str = "", subject: Subject = OWN, text: str = "because") -> Note:
    return Note(subject, "Warning", reason, "Decide", text, topic)


async def test_the_event_names_object_and_reporter(client: KubeClient, api: FakeApi) -> None:
    await EventRecorder(client, instance="ebbtide-0").emit([note()], world.NOW_S)
    [post] = api.writes()
    assert (post.method, post.path) == ("POST", "/apis/events.k8s.io/v1/namespaces/ebbtide-system/events")
    assert (post.body["reportingController"], post.body["reportingInstance"]) == (CONTROLLER, "ebbtide-0")
    assert post.body["regarding"]["uid"] == "own-uid"
    assert post.body["eventTime"] == "2027-01-15T08:00:00.000000Z"


async def test_a_cluster_scoped_object_has_its_events_in_default(client: KubeClient, api: FakeApi) -> None:
    pool = Subject("ebbtide.dev/v1alpha1", "GPUPool", "", "h100", "u")
    await EventRecorder(client).emit([note(subject=pool)], world.NOW_S)
    [post] = api.writes()
    assert post.path == "/apis/events.k8s.io/v1/namespaces/default/events"
    assert "namespace" not in post.body["regarding"]


@pytest.mark.parametrize(
    ("second", "after_s", "sent"),
    [
        pytest.param(note(text="other numbers"), 10, 0, id="the same reason, other numbers"),
        pytest.param(note(), 899, 0, id="just within 15 minutes"),
        pytest.param(note(), 900, 1, id="15 minutes later"),
        pytest.param(note("Limited"), 10, 1, id="another reason"),
        pytest.param(note(topic="4 -> 6"), 10, 1, id="another topic"),
        pytest.param(note(subject=Subject("v1", "Pod", "a", "b", "c")), 10, 1, id="another object"),
    ],
)
async def test_what_is_said_again(client: KubeClient, second: Note, after_s: float, sent: int) -> None:
    recorder = EventRecorder(client)
    assert await recorder.emit([note()], world.NOW_S) == 1
    assert await recorder.emit([second], world.NOW_S + after_s) == sent


async def test_names_never_repeat(client: KubeClient, api: FakeApi) -> None:
    recorder = EventRecorder(client, budget=TokenBucket(100))
    await recorder.emit([note(topic=str(i)) for i in range(50)], world.NOW_S)
    assert len({post.body["metadata"]["name"] for post in api.writes()}) == 50


async def test_beyond_the_budget_it_is_said_later_and_not_twice(client: KubeClient, api: FakeApi) -> None:
    recorder = EventRecorder(client, budget=TokenBucket(2))
    crowd = [note(topic=str(i)) for i in range(5)]
    assert [await recorder.emit(crowd if i == 0 else crowd[:1], world.NOW_S + i) for i in range(4)] == [2, 2, 1, 0]
    assert len(api.writes()) == 5


async def test_what_waits_goes_out_between_cycles_once(client: KubeClient, api: FakeApi) -> None:
    recorder = EventRecorder(client, budget=TokenBucket(2))
    assert await recorder.emit([note(topic=str(i)) for i in range(6)], world.NOW_S) == 2
    assert await asyncio.gather(*(recorder.flush(world.NOW_S + 1) for _ in range(2))) == [2, 0], "one budget for both"
    assert [await recorder.flush(world.NOW_S + after_s) for after_s in (2, 3)] == [2, 0]
    assert len(api.writes()) == 6


async def test_what_cannot_wait_either_is_counted(client: KubeClient) -> None:
    dropped: list[str] = []
    recorder = EventRecorder(client, budget=TokenBucket(1), dropped=dropped.append)
    await recorder.emit([note(topic=str(i)) for i in range(1002)], world.NOW_S)
    assert dropped == ["budget", "budget"]


async def test_an_event_that_cannot_be_sent_is_counted_and_forgotten(client: KubeClient, api: FakeApi) -> None:
    api.will("POST", "/apis/events.k8s.io/v1/namespaces/ebbtide-system/events", (403, {"message": "no"}))
    dropped: list[str] = []
    recorder = EventRecorder(client, dropped=dropped.append)
    assert await recorder.emit([note()], world.NOW_S) == 0
    assert dropped == ["ForbiddenError"]


async def test_a_long_text_is_cut_at_the_api_servers_limit(client: KubeClient, api: FakeApi) -> None:
    await EventRecorder(client).emit([note(text="ü" * 2000)], world.NOW_S)
    [post] = api.writes()
    assert len(post.body["note"].encode()) <= 1024


def test_an_object_that_cannot_be_read_is_an_event_on_itself() -> None:
    lost = Unreadable("GPUPool", "odd", "u-odd", 3, "GPUPool odd: spec.x: 1 is not allowed")
    plan = Plan(at=1.0, unreadable=(of_unreadable(lost),))
    (note,) = cycle_events(plan, Snapshot(taken_at=1.0, unreadable=(lost,)), ())
    assert (note.subject.kind, note.subject.namespace, note.subject.name, note.subject.uid) == (
        "GPUPool",
        "",
        "odd",
        "u-odd",
    )
    assert (note.type, note.reason) == ("Warning", "InvalidSpec")
    assert "spec.x: 1 is not allowed" in note.text


def test_a_ceiling_that_will_be_crossed_and_who_gives_way_are_events_of_the_policy() -> None:
    bad = world.condition(
        "WithinCeilings", "False", Code.CEILING_EXCEEDED.value, "3.00 more than the 9.00 USD of a day"
    )
    ready = world.condition("Ready", "False", Code.CEILING_EXCEEDED.value, "the same")
    policy = world.policy_plan(raised=False, conditions=(ready, bad), gave_way=(("team/chat", 2),))
    notes = cycle_events(world.plan(policies=(policy,)), world.snapshot(), [])
    told = [(note.type, note.reason, note.text) for note in notes if note.subject.kind == "CostPolicy"]
    assert told == [
        ("Warning", "CeilingExceeded", "3.00 more than the 9.00 USD of a day"),
        ("Normal", "CeilingReached", "1 services spend 3.00 USD an hour: team/chat without 2"),
    ]
    assert {note.subject.uid for note in notes if note.subject.kind == "CostPolicy"} == {"policy-uid"}
