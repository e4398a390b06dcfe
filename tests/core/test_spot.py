"""Spot pools: what is learnt of their losses, and what is kept elsewhere so that the objective holds when they go."""

from typing import Any

import msgspec
import pytest

from ebbtide.core import spot
from ebbtide.model.memory import PoolMemory
from ebbtide.model.snapshot import PodPhase
from ebbtide.model.spec import CapacityType, Objectives, Provisioning
from tests.builders import Loop, engine, node, pod, pods, pool, service, settled, snapshot, spec, variant, variant_spec

LOAD = 120.0  # requests/s; an H100 carries about 25


def spot_pool(price: str = "1.00", nodes: Any = 4, **changes: Any) -> Any:
    return pool("spot", nodes, price=price, **({"capacity_type": CapacityType.SPOT} | changes))


def mixed(attainment: float, running: dict[str, int] | None = None, **pools: Any) -> Any:
    """A service that may run on demand or on spot, which is a third of the price."""
    counts = running or {"h100": 6, "spot": 0}
    objectives = Objectives(ttft_s=1.0, itl_s=0.05, attainment=attainment)
    declared = spec(variants=[variant_spec("h100"), variant_spec("spot", "spot")], objectives=objectives)
    total = sum(counts.values())
    states = [variant(name, pods(n, LOAD / total, name)) for name, n in counts.items()]
    on_demand = pools.get("h100") or pool("h100", [node("n", 32, counts["h100"])], price="3.00")
    return snapshot(service(states, declared), [on_demand, pools.get("spot") or spot_pool()])


def planned(state: Any) -> tuple[dict[str, float], float, str]:
    """(what each variant is to carry, the share off spot, the placement line)."""
    decided: Any = settled(state, 1200.0).plan.services[0]
    carries = {each.name: each.wanted * each.capacity.requests_per_second for each in decided.variants}
    line = next(step.text for step in decided.waterfall if step.name == "placement")
    return carries, carries["h100"] / max(1e-9, sum(carries.values())), line


def test_where_the_budget_bears_a_lost_pool_all_of_it_is_spot() -> None:
    """At 95 % a day has an hour and more to miss; a replacement takes a minute."""
    carries, share, line = planned(mixed(0.95))
    assert share == 0.0
    assert carries["spot"] >= LOAD
    assert "kept off spot" not in line


@pytest.mark.parametrize("attainment", [0.999, 0.9999])
def test_a_strict_objective_keeps_what_its_budget_cannot_lose_off_spot(attainment: float) -> None:
    """At 99.9 % a quarter of the budget are 21.6 s a day, and a replacement takes about a minute."""
    carries, share, line = planned(mixed(attainment))
    startup_s = 60.0
    missed_s = (1.0 - carries["h100"] / LOAD) * startup_s  # when the pool goes once in a day
    assert missed_s <= 0.25 * (1.0 - attainment) * 86_400.0 + 1e-6
    assert carries["spot"] > 0.0 or share == 1.0
    assert "of the need is kept off spot, which loses: pool spot a node in" in line


def test_a_floor_that_finds_no_room_takes_nothing_from_the_load() -> None:
    full = pool("h100", [node("n", 1, 1)], price="3.00")
    carries, _, _ = planned(mixed(0.9999, {"h100": 1, "spot": 5}, h100=full))
    assert sum(carries.values()) >= LOAD * 0.95


def test_a_service_with_spot_alone_has_no_floor() -> None:
    declared = spec(
        variants=[variant_spec("spot", "spot")], objectives=Objectives(ttft_s=1.0, itl_s=0.05, attainment=0.999)
    )
    decided = settled(snapshot(service(variant("spot", pods(6, 20.0)), declared), [spot_pool()]), 600.0).plan
    assert decided.services[0].variants[0].wanted >= 5


def watched(nodes: list[list[tuple[str, bool]]], **changes: Any) -> PoolMemory:
    """The memory after one cycle for each list of (node, about to be taken away)."""
    loop = Loop()
    for shown in nodes:
        made = [node(name, 8, 1, interrupted=going) for name, going in shown]
        loop.run(snapshot(service(variant("h100", pods(1, 5.0))), [pool(), spot_pool(nodes=made, **changes)]))
    return next(memory for memory in loop.memory.pools if memory.name == "spot")


CALM, GOING = [("a", False), ("b", False)], [("a", True), ("b", False)]


@pytest.mark.parametrize(
    ("story", "nodes", "lost"),
    [
        ("none goes", [CALM] * 5, 0.0),
        ("one goes, and is shown for a while", [CALM, GOING, GOING, GOING, [("b", False)]], 1.0),
        ("one goes, and then the other", [CALM, GOING, [("b", True)], []], 2.0),
        ("a name comes back and goes again", [CALM, GOING, CALM, GOING], 2.0),
        ("what was going before anybody looked is not news", [GOING, GOING], 0.0),
    ],
)
def test_a_loss_is_counted_once(story: str, nodes: list[list[tuple[str, bool]]], lost: float) -> None:
    assert watched(nodes).lost == pytest.approx(lost, abs=1e-3), story


def test_nothing_is_learnt_of_pools_that_are_not_spot() -> None:
    memory = watched([CALM, GOING], capacity_type=CapacityType.ON_DEMAND)
    assert (memory.lost, memory.node_hours, memory.going) == (0.0, 0.0, ())


def test_the_rate_is_what_was_seen_once_enough_was_seen() -> None:
    assert spot.losses_per_hour(PoolMemory("x")) == pytest.approx(1.0 / 48.0)
    seen = PoolMemory("x", lost=99.0, node_hours=952.0)
    assert spot.losses_per_hour(seen) == pytest.approx(0.1)


def test_memory_of_a_spot_pool_is_small() -> None:
    """Four numbers and the names of the nodes that go just now."""
    plain = len(msgspec.msgpack.encode(PoolMemory("spot")))
    assert len(msgspec.msgpack.encode(watched([CALM, GOING]))) - plain < 120


def test_when_the_pool_goes_what_is_left_and_its_replacement_are_planned() -> None:
    """All spot nodes are about to be taken away: as many as carry the load are wanted on demand at once."""
    doomed = tuple(pod(f"s-{i}", engine(20.0), phase=PodPhase.INTERRUPTED, node=f"s{i // 2}") for i in range(4))
    declared = spec(
        variants=[variant_spec("h100"), variant_spec("spot", "spot")],
        objectives=Objectives(ttft_s=1.0, itl_s=0.05, attainment=0.999),
    )
    going = spot_pool(nodes=[node(f"s{i}", 2, 2, interrupted=True) for i in range(2)], provisioning=Provisioning.STATIC)
    states = [variant("h100", pods(2, 20.0, "h")), variant("spot", doomed)]
    decided = settled(
        snapshot(service(states, declared), [pool("h100", [node("n", 32, 2)], price="3.00"), going]), 600.0
    ).plan.services[0]
    assert decided.variants[0].wanted >= 5
