"""Faults between objects: nothing is said to be allowed that is not written, and each fault is named."""

import msgspec
import pytest

from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import PodPhase
from ebbtide.model.spec import Mode
from tests.builders import (
    Loop,
    condition,
    fresh,
    misplaced,
    pod,
    pods,
    pool,
    service,
    settled,
    snapshot,
    spec,
    to_zero,
    variant,
    variant_spec,
)

MISMATCH = ((Code.POOL_MISMATCH.value, "variant h100: the nodeSelector has pool=a100"),)


def placed(outside, pod_states=None, **target):
    """One variant on h100 whose pods are on nodes of their own."""
    state = variant("h100", pods(2, 1.0) if pod_states is None else pod_states, **target)
    return snapshot(service(msgspec.structs.replace(state, outside=outside)), [pool("h100"), pool("a100")])


@pytest.mark.parametrize(
    ("outside", "words"),
    [
        ((("a100", 2),), "2 of 2 pods of variant h100 run outside of pool h100 (2 on nodes of pool a100): prices"),
        ((("", 1), ("a100, l40s", 1)), "(1 on nodes of no pool, 1 on nodes of pool a100, l40s)"),
    ],
)
def test_pods_beside_their_pool_are_said_with_whose_prices_are_meant(outside, words):
    decided = Loop().one(placed(outside))
    assert condition(decided, "TargetResolved") == ("True", "PodsOutsidePool")
    assert words in message(decided, "TargetResolved")
    assert "prices and limits are those of h100" in message(decided, "TargetResolved")
    assert condition(decided, "Ready")[0] == "True"


def test_pods_inside_of_their_pool_are_nothing_to_say_and_a_fault_is_said_first():
    assert condition(Loop().one(placed(())), "TargetResolved") == ("True", "Resolved")
    decided = Loop().one(placed((("a100", 2),), faults=MISMATCH))
    assert condition(decided, "TargetResolved") == ("False", "PoolMismatch")
    assert message(decided, "TargetResolved").startswith(MISMATCH[0][1])
    assert "2 of 2 pods" in message(decided, "TargetResolved")


def test_pods_that_leave_or_wait_for_a_node_are_not_among_those_that_run():
    going, waiting = pod("t", phase=PodPhase.TERMINATING), pod("w", phase=PodPhase.PENDING)
    decided = Loop().one(placed((("a100", 1),), (*pods(2, 1.0), going, waiting)))
    assert "1 of 2 pods of variant h100" in message(decided, "TargetResolved")


def at_least_two(mode=Mode.AUTO, **target):
    declared = spec(variants=[variant_spec()], min_replicas=2, mode=mode)
    return snapshot(service(variant("h100", pods(1, 1.0), **target), declared))


def message(decided, kind):
    return next(item.message for item in decided.conditions if item.type == kind)


def test_in_auto_what_is_declared_is_all_that_is_allowed_while_a_fault_forbids_the_write():
    sound, faulty = Loop(), Loop()
    assert sound.one(at_least_two()).variants[0].allowed == 2
    decided = faulty.one(at_least_two(faults=MISMATCH))
    (shown,) = decided.variants
    assert (shown.observed, shown.allowed, shown.limited_by) == (1, 1, "PoolMismatch")
    assert decided.waterfall[-1].replicas == 1
    assert faulty.plan.actions == ()
    assert not misplaced(faulty.plan)


@pytest.mark.parametrize("mode", [Mode.RECOMMEND, Mode.OFF])
def test_a_recommendation_shows_what_would_be_done_once_it_is_mended(mode):
    assert Loop().one(at_least_two(mode, faults=MISMATCH)).variants[0].allowed == 2


def test_where_only_the_target_is_missing_its_gpus_are_not_known_yet():
    decided = Loop().one(at_least_two(exists=False, gpus_per_replica=None, replicas=0))
    assert condition(decided, "PricesKnown") == ("Unknown", "Pending")
    assert "once its target is there" in message(decided, "PricesKnown")
    there = Loop().one(at_least_two(gpus_per_replica=None))
    assert condition(there, "PricesKnown") == ("False", "GPUsUnknown")


def test_every_missing_variant_is_named():
    names = ("h100", "a100", "l40s")
    states = [variant(name, (), exists=False) for name in names]
    decided = Loop().one(snapshot(service(states), [pool(name) for name in names]))
    assert condition(decided, "TargetResolved") == ("False", "TargetNotFound")
    for name in names:
        assert f"variant {name}: Deployment chat-{name} does not exist" in message(decided, "TargetResolved")


def test_a_service_on_a_pool_that_cannot_be_read_does_not_say_that_it_does_not_exist():
    text = "variant h100 names GPUPool h100, which cannot be read: spec.nodeLeadTime"
    state = at_least_two(faults=((Code.POOL_UNREADABLE.value, text),))
    decided = Loop().one(snapshot(state.services, ()))
    assert condition(decided, "TargetResolved") == ("False", "PoolUnreadable")
    assert not any("there is no GPUPool" in item.message for item in decided.conditions)


def two(load, *, mode=Mode.AUTO, queue=None, minimum=1, replicas=1, **faulty):
    """Variant a100 is sound; h100's target or pool is wrong."""
    declared = spec(
        variants=[variant_spec("a100", "a100"), variant_spec("h100", "h100")], mode=mode, **minimum_of(minimum)
    )
    of_h100 = faulty.pop("replicas", 0)
    running = pods(of_h100, load, "h")
    states = [variant("a100", pods(replicas, load), replicas), variant("h100", running, of_h100, **faulty)]
    waits = {} if queue is None else {"gateway_queue": fresh(queue)}
    return snapshot(service(states, declared, **waits), [pool("a100", price="1.00"), pool("h100", price="3.00")])


def minimum_of(least):
    return {"min_replicas": least, "scale_to_zero": to_zero() if least == 0 else None}


ABSENT = {"exists": False, "faults": ((Code.TARGET_NOT_FOUND.value, "variant h100: there is no such Deployment"),)}
OF_ONE = {
    "its target is not there": ABSENT,
    "its Deployment is somebody else's": {
        "exists": False,
        "faults": ((Code.TARGET_FOREIGN.value, "variant h100: Deployment ml/chat-h100 is not Ebbtide's"),),
    },
    "its pool is another": {"faults": MISMATCH, "replicas": 2},
    "nobody says its GPUs": {"faults": ((Code.GPUS_UNKNOWN.value, "variant h100: no GPUs"),), "replicas": 2},
}


@pytest.mark.parametrize("story", OF_ONE)
def test_what_is_wrong_with_one_variant_stops_no_other(story):
    faulty = OF_ONE[story]
    loop = settled(two(4.0, **faulty), 300)
    decided = loop.one(two(40.0, **faulty), 60)
    sound, other = decided.variants
    assert sound.allowed > sound.observed
    assert [action.variant for action in loop.plan.actions] == ["a100"]
    assert other.allowed == other.observed
    assert condition(decided, "TargetResolved")[0] == "False"
    assert condition(decided, "Ready")[0] == "False"


def test_also_from_zero():
    loop = Loop()
    decided = loop.one(two(0.0, queue=40.0, minimum=0, replicas=0, **ABSENT))
    assert decided.variants[0].allowed >= 1
    assert decided.reason.code is Code.FIRST_REQUEST


@pytest.mark.parametrize(
    "fault",
    [Code.PENDING, Code.TARGET_UNREADABLE, Code.TARGET_SHARED, Code.POOL_UNREADABLE],
)
def test_while_a_variants_replicas_are_not_known_nothing_is_written(fault):
    """Ten replicas may run there: no minimum of ten is brought about beside them."""
    loop = Loop()
    loop.run(two(40.0, minimum=10, faults=((fault.value, "variant h100: not known"),)), 120)
    assert loop.plan.actions == ()
    assert loop.plan.services[0].variants[0].allowed == 1
