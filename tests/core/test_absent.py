"""Declared replicas for which no pod comes: when that is a refusal, when it is only the order of things."""

from typing import Any

import msgspec
import pytest

from ebbtide.model.plan import ServicePlan
from ebbtide.model.snapshot import PodPhase, PodState, ServiceState, Snapshot, Source
from tests.builders import Loop, condition, engine, node, pod, pool, service, snapshot, spec, variant, variant_spec

PARALLEL: dict[str, Any] = {"ordinal": True, "ordered": False}
IN_ORDER: dict[str, Any] = {"ordinal": True, "ordered": True}
GROUPS: dict[str, Any] = {**PARALLEL, "pods_per_replica": 2, "gpus_per_replica": 2}


def seen(pods: list[PodState], replicas: int = 8, **target: Any) -> Snapshot:
    declared = spec(variants=[variant_spec("a100", "a100"), variant_spec("h100", "h100")], max_replicas=20)
    pools = [pool("a100", [node("a", 32, len(pods))], price="1.00"), pool("h100", [node("h", 16)], price="9.00")]
    sources = (Source("prometheus", healthy=True, age_s=1.0), Source("pods", healthy=target.pop("watched", True)))
    return snapshot(
        service([variant("a100", pods, replicas, **target), variant("h100", [])], declared), pools, sources=sources
    )


def up(n: int, rps: float = 12.0) -> list[PodState]:
    return [pod(f"p-{i}", engine(rps)) for i in range(n)]


def group(number: int, workers: int) -> list[PodState]:
    return [pod(f"g{number}", engine(5.0)), *(pod(f"g{number}-{i + 1}", serves=False) for i in range(workers))]


def starts(n: int, phase: PodPhase = PodPhase.STARTING) -> list[PodState]:
    return [pod(f"s-{i}", phase=phase, message="no message") for i in range(n)]


@pytest.mark.parametrize(
    ("story", "pods", "target", "says"),
    [
        ("a StatefulSet whose pods may come at once", up(1), PARALLEL, "7 replicas have had no pod"),
        ("one that starts is no excuse for the others", up(1) + starts(1), PARALLEL, "6 replicas have had no pod"),
        ("none at all", [], PARALLEL, "8 replicas have had no pod"),
        ("one after the other: the first does not come", [], IN_ORDER, "8 replicas have had no pod"),
        ("one after the other: the next does not come", up(2), IN_ORDER, "6 replicas have had no pod"),
        ("a Deployment whose status says nothing", up(7), {}, "1 replica has had no pod"),
        ("groups that lack workers are no replicas", group(0, 1) + group(1, 0), GROUPS, "7 replicas have had no pod"),
    ],
)
def test_replicas_without_a_pod_do_not_count_and_the_next_variant_gets_the_demand(
    story: str, pods: list[PodState], target: dict[str, Any], says: str
) -> None:
    loop = Loop()
    before = loop.one(seen(pods, **target), 30)
    assert condition(before, "Ready")[1] != "PodsMissing", f"{story}: not within 30 s"
    decided = loop.one(seen(pods, **target), 10)
    assert condition(decided, "Ready") == ("False", "PodsMissing"), story
    assert says in words(decided), story
    assert "Deployment chat-a100" in words(decided), "where its Events are"
    decided = loop.one(seen(pods, **target), 400)
    assert condition(decided, "Limited") == ("True", "PodsMissing"), story


def test_a_paused_deployment_is_told_to_be_resumed_where_nobody_refuses_its_pods() -> None:
    decided = Loop().one(seen([], 8, paused=True), 40)
    assert condition(decided, "Ready") == ("False", "PodsMissing")
    assert "Deployment chat-a100 is paused (spec.paused)" in words(decided)
    assert "kubectl rollout resume deployment chat-a100" in words(decided)
    assert "Events" not in words(decided)


def words(decided: ServicePlan) -> str:
    return next(each.message for each in decided.conditions if each.type == "Ready")


@pytest.mark.parametrize(
    ("story", "pods", "target"),
    [
        ("one after the other: the lower one starts", up(2) + starts(1), IN_ORDER),
        ("one after the other: the lower one waits for a node", starts(1, PodPhase.PENDING), IN_ORDER),
        ("one after the other: the lower one is away", up(2) + starts(1, PodPhase.NOT_READY), IN_ORDER),
        ("a name is taken until its last holder has left", up(2) + starts(6, PodPhase.TERMINATING), PARALLEL),
        ("a rollout replaces them", up(6), {"rolling_out": True}),
        ("the watch of pods is broken", up(1), {**PARALLEL, "watched": False}),
        ("all are there", up(8), PARALLEL),
        ("more are there, by a surge", up(9), {}),
    ],
)
def test_pods_that_rightly_are_not_there_yet_are_no_refusal(
    story: str, pods: list[PodState], target: dict[str, Any]
) -> None:
    decided = Loop().one(seen(pods, **target), 300)
    assert condition(decided, "Ready")[1] != "PodsMissing", story


def test_pods_that_keep_coming_however_slowly_are_waited_for() -> None:
    loop = Loop()
    for there in range(1, 8):
        decided = loop.one(seen(up(there), **PARALLEL), 30)
        assert condition(decided, "Ready")[1] != "PodsMissing", f"{there} of 8"
    assert condition(loop.one(seen(up(7), **PARALLEL), 40), "Ready")[1] == "PodsMissing"


def test_what_waits_in_order_behind_a_crash_does_not_come_either() -> None:
    crash = [pod("p-0", phase=PodPhase.CRASH_LOOPING, message="exit 1")]
    decided = Loop().one(seen(crash, **IN_ORDER))
    assert condition(decided, "Ready") == ("False", "CrashLooping")
    assert "8 of 8 replicas crash" in words(decided)
    parallel = Loop().one(seen(crash, **PARALLEL))
    assert "1 of 8 replicas crash" in words(parallel), "where they come at once, the others may still come"


def test_the_demand_goes_to_the_next_variant() -> None:
    loop = Loop()
    decided = loop.one(seen(up(1, 30.0), **PARALLEL), 600)
    assert decided.variants[0].wanted == 1, "nothing is wanted that does not come"
    assert decided.variants[1].allowed >= 1, "and the others are started"


def test_the_time_is_remembered_over_a_restart() -> None:
    loop = Loop()
    loop.run(seen(up(1), **PARALLEL), 30)
    again = Loop(loop.memory, loop.now_s)
    assert condition(again.one(seen(up(1), **PARALLEL), 10), "Ready")[1] == "PodsMissing"


def blocked(story: str) -> ServiceState:
    """Another team's service whose 8 declared replicas get no GPU."""
    declared = spec("team-b/blocked", variants=[variant_spec("h100", max_replicas=20)], max_replicas=20)
    without: dict[str, Any] = {"gpus_per_replica": 1}
    waiting: list[PodState] = []
    if story == "refused by a quota":
        without["replica_failure"] = "exceeded quota"
    if story == "too large for any node":
        without["gpus_per_replica"] = 16
        waiting = [
            pod(f"b-{i}", phase=PodPhase.UNSCHEDULABLE, gpus=16, message="Insufficient nvidia.com/gpu")
            for i in range(8)
        ]
    return service(variant("h100", waiting, 8, **without), declared)


@pytest.mark.parametrize("priority", [100, 900])
@pytest.mark.parametrize("story", ["refused by a quota", "too large for any node", "no pod comes and nobody says why"])
def test_what_gets_no_gpu_keeps_none_from_other_services(story: str, priority: int) -> None:
    """7 of 8 GPUs are free. One service wants 4 of them; the other has declared 8 replicas that hold none."""
    declared = spec("team-a/chat", variants=[variant_spec("h100", max_replicas=20)], min_replicas=4, max_replicas=20)
    chat = service(variant("h100", [pod("a", engine(8.0))], 1), declared)
    other = blocked(story)
    other = msgspec.structs.replace(other, spec=msgspec.structs.replace(other.spec, priority=priority))
    loop = Loop()
    state = snapshot([chat, other], pool(nodes=[node("n", 8, 1)]))
    for _ in range(6):
        decided = loop.run(state, 10)
    plans = {plan.key: plan for plan in decided.services}
    assert plans["team-a/chat"].variants[0].allowed == 4, plans["team-a/chat"].reason.text
    assert "no room" not in plans["team-a/chat"].reason.text
