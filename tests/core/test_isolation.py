"""A step that fails on one service: that one holds and says so, the others are planned as ever."""

import msgspec
import pytest

from ebbtide.core.plan import plan
from ebbtide.model.memory import Memory
from ebbtide.model.snapshot import Unreadable
from ebbtide.model.spec import CapacityPrior, Objectives, Provisioning
from tests.builders import NOW, Loop, condition, misplaced, node, pods, pool, service, snapshot, spec, variant
from tests.builders import variant_spec as declared

BUSY = 30.0


def chat(key="ml/chat", replicas=2, rps=BUSY, of_variant=None, **changes):
    fields = {"up_delay_s": 0.0} | changes
    state = variant("h100", pods(replicas, rps, key[-1]))
    return service(state, spec(key, [declared(**(of_variant or {}))], **fields))


# what no parser lets through, each met by another step first
BROKEN = {
    "forecast": {"model_parameters_billion": "8"},
    "capacity": {"objectives": Objectives(ttft_s=1.0, itl_s=None, attainment=0.99)},
    "sizing": {"max_replicas": None},
    "placement": {"of_variant": {"max_replicas": None}},
    "guardrails": {"down_delay_s": "5m"},
}


@pytest.mark.parametrize("step", BROKEN)
def test_the_culprit_holds_and_says_why_and_the_others_are_planned(step):
    others = [chat("ml/a"), chat("ml/c")]
    loop, alone = Loop(), Loop()
    decided = loop.run(snapshot([*others, chat("ml/b", **BROKEN[step])]), 60)
    wanted = alone.run(snapshot(others), 60)
    assert [item.key for item in decided.services] == ["ml/a", "ml/b", "ml/c"]
    assert decided.actions == wanted.actions != ()
    broken = decided.services[1]
    assert [(v.observed, v.ready, v.wanted, v.allowed) for v in broken.variants] == [(2, 2, 2, 2)]
    assert condition(broken, "Ready") == condition(broken, "Acting") == ("False", "PlanFailed")
    (failure,) = decided.failures
    assert (failure.service, failure.step) == ("ml/b", step)
    assert failure.error in broken.reason.text
    assert "replicas hold; please report this" in broken.reason.text
    assert ".py:" in failure.trace
    assert not misplaced(decided)


@pytest.mark.parametrize(
    "limits", [{}, {"provisioning": Provisioning.AUTOSCALED, "max_gpus": 3}], ids=["static", "auto"]
)
@pytest.mark.parametrize("step", BROKEN)
def test_the_gpus_of_a_service_that_cannot_be_planned_are_nobody_elses(step, limits):
    """Three GPUs, two held by the culprit of low priority: the other keeps its one, however much it needs."""
    hungry = chat("ml/a", 1, BUSY, priority=900)
    full = pool(nodes=[node("n", 3, 3)], **limits)
    decided = Loop().run(snapshot([hungry, chat("ml/b", 2, 1.0, priority=1, **BROKEN[step])], full), 60)
    assert sum(item.to_replicas for item in decided.actions if item.service == "ml/a") <= 1
    assert decided.services[1].variants[0].allowed == 2


def test_what_was_learnt_before_the_failure_is_kept():
    loop = Loop()
    loop.run(snapshot(chat()), 120)
    before = loop.memory.services
    loop.run(snapshot(chat(**BROKEN["capacity"])), 10)
    assert loop.memory.services == before


def test_the_same_failure_is_the_same_plan():
    state = snapshot(chat(**BROKEN["guardrails"]))
    first, second = (msgspec.json.encode(plan(state, Memory(), NOW)[0]) for _ in range(2))
    assert first == second


def test_an_object_that_cannot_be_read_says_so_and_is_not_forgotten():
    loop = Loop()
    loop.run(snapshot(chat()), 60)
    learnt = loop.memory
    lost = (
        Unreadable("GPUPool", "h100", "u1", 3, "GPUPool h100: spec.x: 1 is not allowed"),
        Unreadable("InferenceService", "ml/chat", "u2", 4, "InferenceService ml/chat: spec.y: 2 is not allowed"),
    )
    decided = loop.run(snapshot((), (), unreadable=lost))
    assert [(item.kind, item.conditions[0].type, item.conditions[0].reason) for item in decided.unreadable] == [
        ("GPUPool", "Ready", "InvalidSpec"),
        ("InferenceService", "Ready", "InvalidSpec"),
    ]
    assert "spec.y: 2 is not allowed; its replicas hold" in decided.unreadable[1].reason.text
    assert [item.key for item in loop.memory.services] == [item.key for item in learnt.services]
    assert loop.memory.pools == learnt.pools


@pytest.mark.parametrize(
    "extreme",
    [
        {"model_parameters_billion": 0.0},
        {"model_parameters_billion": 1e-15},
        {"objectives": Objectives(ttft_s=1.0, itl_s=0.05, attainment=0.9999999)},
        {"objectives": Objectives(ttft_s=1.0, itl_s=0.05, attainment=1.0)},
    ],
    ids=["no weights", "next to no weights", "all but one in ten million", "all"],
)
def test_what_an_older_schema_let_through_divides_nothing_by_zero(extreme):
    """A declared capacity and a doubtful forecast lead through every formula."""
    capacity = CapacityPrior(4.5, 1024.0, 256.0)
    made = service(variant("h100", pods(2, 5.0)), spec(variants=[declared(capacity=capacity)], **extreme))
    loop = Loop()
    for load in (5.0, 20.0, 1.0):
        state = service(variant("h100", pods(2, load)), made.spec)
        assert loop.run(snapshot(state), 200).failures == ()
