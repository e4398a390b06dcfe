"""What services are expected to hold over the next days, and how that range is made."""

import math

import msgspec

from ebbtide.core.batch import need
from ebbtide.core.batch.grid import DAY_S, grid
from ebbtide.core.forecast import days
from ebbtide.core.plan import STEPS, open_cycle
from ebbtide.core.work import Cycle
from ebbtide.model.memory import ForecastMemory, Memory
from ebbtide.model.snapshot import Snapshot
from ebbtide.model.spec import Mode
from tests.builders import NOW, engine, node, pod, pool, service, settled, snapshot, spec, variant, variant_spec

HOUR_S = 3600.0


def serving(replicas: int, rps: float, key: str = "ml/chat", **changes) -> Snapshot:
    pods = [pod(f"a-{i}", engine(rps), node="n") for i in range(replicas)]
    declared = spec(key, [variant_spec("h100", "h100")], **changes)
    where = pool(nodes=[node("n", 8, min(8, replicas)), node("m", 8)])
    return snapshot(service(variant("h100", pods), declared), where)


def cycle_of(state: Snapshot, memory: Memory | None = None) -> Cycle:
    """As the batch step finds it."""
    cycle = open_cycle(state, memory or settled(state, 300).memory, NOW + 300.0)
    for name, step in STEPS:
        if name == "batch":
            break
        step(cycle)
    return cycle


def with_days(memory: Memory, load) -> Memory:
    """`load(hours from now)` relative to what comes now, for eight days."""
    forecast = memory.services[0].forecast
    now_tokens, packed = forecast.levels[0], b""
    for slot in range(int(NOW // days.SLOT_S) - days.SIZE + 1, int(NOW // days.SLOT_S)):
        packed = days.put(packed, slot, now_tokens * load((slot * days.SLOT_S - NOW) / HOUR_S))
    kept: ForecastMemory = msgspec.structs.replace(forecast, days=packed)
    return msgspec.structs.replace(memory, services=(msgspec.structs.replace(memory.services[0], forecast=kept),))


def of(cycle: Cycle, hours: float = 24.0) -> tuple[need.Need, list[float]]:
    slots = grid(cycle.now_s, cycle.now_s + hours * HOUR_S, ())
    return need.needs(cycle, slots, ["h100"])["h100"], [(at - cycle.now_s) / HOUR_S for at in slots.edges[:-1]]


def test_without_a_day_to_look_back_on_the_present_goes_on_with_a_range_that_widens():
    found, _ = of(cycle_of(serving(4, 20.0)))
    assert max(found.expected) - min(found.expected) <= 1.0
    widths = [upper - expected for expected, upper in zip(found.expected, found.upper, strict=True)]
    assert widths[0] < widths[len(widths) // 2]
    assert all(upper >= expected for expected, upper in zip(found.expected, found.upper, strict=True))


def test_a_daily_cycle_is_expected_again():
    """Half the load twelve hours from now, as on each of the last eight days."""
    state = serving(6, 20.0)
    memory = with_days(settled(state, 300).memory, lambda hours: 0.75 + 0.25 * math.cos(2 * math.pi * hours / 24.0))
    found, at_h = of(cycle_of(state, memory))
    night = next(value for value, hour in zip(found.expected, at_h, strict=True) if 11.5 < hour < 12.5)
    evening = next(value for value, hour in zip(found.expected, at_h, strict=True) if hour > 23.0)
    assert night <= 0.67 * found.expected[0]
    assert evening >= 0.85 * found.expected[0]


def test_days_that_differ_widen_the_range():
    state = serving(6, 20.0)
    base = settled(state, 300).memory
    like, unlike = (with_days(base, lambda hours, by=by: by ** (math.floor(hours / 24.0) % 2)) for by in (1.02, 1.8))
    (same, at_h), (other, _) = of(cycle_of(state, like)), of(cycle_of(state, unlike))
    place = next(index for index, hour in enumerate(at_h) if hour > 11.0)
    assert other.upper[place] - other.expected[place] > same.upper[place] - same.expected[place]


def test_what_is_there_now_is_needed_for_a_start_up_at_least():
    found, _ = of(cycle_of(serving(5, 0.1)))
    assert found.expected[0] >= 1.0 and found.upper[0] >= found.expected[0]


def test_bounds_hold():
    found, _ = of(cycle_of(serving(4, 20.0, max_replicas=5)))
    assert max(found.upper) <= 5.0


def test_what_nobody_moves_stays_as_it_is():
    found, _ = of(cycle_of(serving(4, 20.0, mode=Mode.OFF)))
    assert set(found.expected) == set(found.upper) == {4.0}


def test_the_range_of_many_is_narrower_than_their_ranges_added_up():
    pair = [(4.0, 6.0)] * 4
    total = [sum(low for low, _ in pair)] * 2
    apart = [sum(high - low for low, high in pair)] * 2
    squares = [sum((high - low) ** 2 for low, high in pair)] * 2
    slots = grid(NOW, NOW + DAY_S, ())
    found = need._by_slot(slots, [0, slots.slots], total, apart, squares)
    assert found.upper[0] == 16.0 + math.sqrt(0.5 * 16.0 + 0.5 * 64.0)


def test_what_a_service_does_not_need_it_leaves_on_the_dearest_pool_first():
    """Of two bought and four rented at a third of the load, the two that are bought stay."""
    pods = [pod(f"a-{i}", engine(20.0), node="n") for i in range(2)]
    rented = [pod(f"b-{i}", engine(20.0), node="m") for i in range(4)]
    declared = spec("ml/chat", [variant_spec("h100", "h100"), variant_spec("cloud", "cloud")])
    where = [pool(nodes=[node("n", 2, 2)], price="1.00"), pool("cloud", nodes=[node("m", 8, 4)], price="4.00")]
    state = snapshot(service((variant("h100", pods), variant("cloud", rented)), declared), where)
    memory = with_days(settled(state, 300).memory, lambda hours: 1.0 if abs(hours % 24.0 - 12.0) > 6.0 else 0.3)
    cycle = cycle_of(state, memory)
    slots = grid(cycle.now_s, cycle.now_s + DAY_S, ())
    found = need.needs(cycle, slots, ["h100", "cloud"])
    noon = slots.slot(cycle.now_s + 11.5 * HOUR_S)
    assert found["h100"].expected[noon] == 2.0
    assert found["cloud"].expected[noon] <= 1.0 < found["cloud"].expected[0]


def test_the_sooner_the_less_may_be_needed():
    cycle = cycle_of(serving(6, 20.0))
    slots = grid(cycle.now_s, cycle.now_s + DAY_S, ())
    within = [need.needs(cycle, slots, ["h100"], soon_s)["h100"].soon for soon_s in (0.0, 40.0, 160.0, 900.0, 7200.0)]
    assert within == sorted(within)
    assert within[0] >= sum(variant.count for draft in cycle.drafts for variant in draft.variants)
    assert within[2] < need.needs(cycle, slots, ["h100"])["h100"].upper[8]
