"""Variants in trouble next to a sound one: what is said while they back off, and that nobody is left unserved."""

from typing import Any

import pytest

from ebbtide.model.plan import Condition, ServicePlan
from ebbtide.model.snapshot import PodPhase, Snapshot
from ebbtide.model.spec import Provisioning
from tests.builders import (
    NOW,
    Loop,
    engine,
    node,
    pod,
    pods,
    pool,
    service,
    settled,
    snapshot,
    spec,
    variant,
    variant_spec,
)


def two(spot: Any, sound: Any, pools: Any, **target: Any) -> Snapshot:
    declared = spec(variants=[variant_spec("spot", "spot"), variant_spec("h100", "h100")], down_delay_s=60.0)
    return snapshot(service([variant("spot", spot, **target), variant("h100", sound)], declared), pools)


def pools(**spot: Any) -> list[Any]:
    fields: dict[str, Any] = {"nodes": 1, "price": "0.50"}
    return [pool("spot", **(fields | spot)), pool("h100", price="9.00")]


def counts(decided: ServicePlan) -> dict[str, int]:
    return {item.name: item.allowed for item in decided.variants}


def condition(decided: ServicePlan, kind: str) -> Condition:
    return next(item for item in decided.conditions if item.type == kind)


def doomed(name: str = "s") -> Any:
    return pod(name, engine(5.0), phase=PodPhase.INTERRUPTED)


def test_a_doomed_replica_stays_until_its_replacement_is_ready() -> None:
    gone = pools(nodes=[node("spot-0", 8, 1, interrupted=True)])
    loop = settled(two([pod("s", engine(5.0))], [], pools()))
    first = loop.one(two([doomed()], [], gone))
    assert counts(first) == {"spot": 1, "h100": 1}
    assert first.reason.code.value == "Interruption"
    assert first.reason.text == "1 -> 2: 1 replica is on nodes about to be taken away"
    starting = loop.one(two([doomed()], [pod("h", phase=PodPhase.STARTING)], gone), 30)
    assert counts(starting) == {"spot": 1, "h100": 1}
    replaced = loop.one(two([doomed()], pods(1, 5.0, "h"), gone), 300)
    assert counts(replaced) == {"spot": 0, "h100": 1}
    assert replaced.reason.code.value == "Interruption"
    assert "for less" not in replaced.reason.text


def test_the_cause_of_a_back_off_is_named_until_it_is_over() -> None:
    quota = 'pods "s" is forbidden: exceeded quota: team-share'
    loop = settled(two([], pods(1, 5.0, "h"), pools()), 60)
    loop.one(two(pods(1, 5.0), pods(1, 5.0, "h"), pools(), replicas=3, replica_failure=quota))
    later = loop.one(two(pods(1, 5.0), pods(1, 5.0, "h"), pools()), 60)
    spot = later.variants[0]
    assert spot.limited_by == "QuotaRefused"
    limited = condition(later, "Limited")
    assert (limited.status.value, limited.reason) == ("True", "QuotaRefused")
    assert "team-share" in limited.message
    assert "spot" in limited.message
    over = loop.one(two(pods(1, 5.0), pods(1, 5.0, "h"), pools()), 300)
    assert over.variants[0].limited_by != "QuotaRefused"


def test_free_gpus_of_a_node_that_goes_are_not_offered() -> None:
    gone = pools(nodes=[node("spot-0", 8, 1, interrupted=True), node("spot-1", 8, 2)])
    assert settled(two([doomed()], [], gone), 10).plan.pools[1].free == 6


def test_a_pool_is_tried_again_sooner_where_nodes_come_sooner() -> None:
    short = pools(provisioning=Provisioning.AUTOSCALED, node_lead_time_s=20.0)
    waiting = pod("s", phase=PodPhase.UNSCHEDULABLE, created_at=1_000_000.0)
    loop = settled(two([waiting], pods(1, 5.0, "h"), short), 60)
    until = loop.plan.pools[1].backing_off_until
    assert until is not None
    assert until - loop.now_s <= 60.0


def test_a_doomed_replica_that_serves_alone_is_replaced_also_after_the_warm_up() -> None:
    gone = pools(nodes=[node("spot-0", 8, 1, interrupted=True)])
    loop = settled(two([pod("s", engine(5.0, itl_s=0.01))], [], pools()), 120)
    assert counts(loop.one(two([pod("s", engine(5.0, itl_s=0.01), phase=PodPhase.INTERRUPTED)], [], gone))) == {
        "spot": 1,
        "h100": 1,
    }


def test_a_pod_that_starts_far_longer_than_start_ups_take_does_not_count_until_it_is_ready() -> None:
    """Start-ups took 60 s here, so the floor of 15 minutes decides; the sound variant gets the demand."""
    starting = pod("s", phase=PodPhase.STARTING)
    seen_before = pod("t", engine(40.0), created_at=NOW - 100.0, ready_at=NOW - 40.0)
    waits = two([seen_before, starting], [], pools(nodes=2))
    loop = settled(waits, 600)
    patient = loop.plan.services[0]
    assert patient.variants[0].starting == 1
    assert condition(patient, "Ready").reason != "StartupOverdue"
    given_up = loop.one(waits, 360)
    assert given_up.variants[0].starting == 0
    assert condition(given_up, "Limited").reason == "StartupOverdue"
    assert "starting for 1" in condition(given_up, "Limited").message
    assert "the longest seen took 1m" in condition(given_up, "Limited").message
    assert given_up.variants[1].allowed > patient.variants[1].allowed
    ready = loop.one(two(pods(2, 20.0, "s"), [], pools(nodes=2)), 200)
    assert condition(ready, "Limited").reason != "StartupOverdue"


def test_a_first_start_up_may_take_an_hour() -> None:
    starting = two([pod("s", phase=PodPhase.STARTING)], pods(1, 5.0, "h"), pools())
    loop = settled(starting, 3000)
    assert condition(loop.plan.services[0], "Ready").reason != "StartupOverdue"
    assert "none was seen to end" in condition(loop.one(starting, 700), "Ready").message


def test_interrupted_leftovers_of_a_target_that_was_scaled_to_zero_bring_nothing_back() -> None:
    """Two pods of a StatefulSet at 0 are still on a node that goes: no price, so no replica, whatever the need."""
    leftovers = [doomed("s-0"), doomed("s-1"), pod("s-2", phase=PodPhase.TERMINATING)]
    busy = pods(2, 14.0, "h", waiting=9.0)
    of_pools = [pool("spot", price=None), pool("h100")]
    loop = settled(two(leftovers, busy, of_pools, replicas=0, ordinal=True, ordered=True), 400)
    assert [action.variant for action in loop.plan.actions] != ["spot"]
    assert loop.plan.services[0].variants[0].allowed == 0


@pytest.mark.parametrize(("story", "taken", "lead_times"), [("full of others", 8, 0), ("with room for us", 0, 1)])
def test_only_a_node_that_has_room_for_us_or_hosts_us_says_how_long_nodes_take(
    story: str, taken: int, lead_times: int
) -> None:
    waiting = [pod("w", phase=PodPhase.UNSCHEDULABLE, created_at=NOW)]
    elastic: Any = {"provisioning": Provisioning.AUTOSCALED, "node_lead_time_s": 240.0, "price": "0.50"}
    old = node("spot-0", 8, 8)

    def seen(*nodes: Any) -> Snapshot:
        return two(waiting, pods(1, 5.0, "h"), [pool("spot", [old, *nodes], **elastic), pool("h100", price="9.00")])

    loop = Loop()
    loop.run(seen(), 20)
    loop.run(seen(node("spot-1", 8, taken, created_at=loop.now_s)), 10)
    assert len(next(item for item in loop.memory.pools if item.name == "spot").lead_times_s) == lead_times, story


def test_no_lead_time_at_all_still_leaves_the_scheduler_its_time() -> None:
    waiting = [pod("w", phase=PodPhase.UNSCHEDULABLE, created_at=NOW)]
    elastic = pools(provisioning=Provisioning.AUTOSCALED, node_lead_time_s=0.0)
    decided = Loop().one(two(waiting, pods(1, 5.0, "h"), elastic), 20)
    assert decided.variants[0].starting == 1
