"""How requests spread over unlike variants: measured, planned with, and said; and when nothing may be concluded."""

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.core.balance import SURE
from ebbtide.model.snapshot import PodPhase
from tests.builders import (
    Loop,
    condition,
    pod,
    pods,
    pool,
    service,
    silent_engine,
    snapshot,
    spec,
    variant,
    variant_spec,
)

A_S, B_S = {"h100": 0.006, "a100": 0.0112}, {"h100": 0.000135, "a100": 0.00035}
OUTPUT = 256.0


def serving(name, count, rps, prefix=""):
    """Pods of that accelerator which get `rps` each."""
    speed = A_S[name] / (1.0 - rps * OUTPUT * B_S[name])
    return variant(name, pods(count, rps, prefix or name, itl_s=speed))


def two(fast, slow, pools=None, most_fast=100):
    """One service on H100 and A100, whose replicas carry about 19 and 8 requests/s beside each other."""
    declared = spec(variants=[variant_spec("h100", "h100", max_replicas=most_fast), variant_spec("a100", "a100")])
    return snapshot(service([fast, slow], declared), pools or [pool("h100"), pool("a100", price="1.40")])


def mixed(h100_rps, a100_rps, replicas=2):
    return two(serving("h100", replicas, h100_rps), serving("a100", replicas, a100_rps))


def balanced(decided):
    return next(item for item in decided.conditions if item.type == "TrafficBalanced")


EVEN, FOLLOWS = ("False", "SpreadEvenly"), ("True", "FollowsCapacity")
NOTHING, PENDING = ("True", "NothingToBalance"), ("Unknown", "Pending")
CASES = {
    "the same for every pod": (mixed(7.0, 7.0), EVEN),
    "twice as much for the one that is 2.3 times as fast": (mixed(12.0, 6.0), FOLLOWS),
    "a little more for the faster one is not by its capacity": (mixed(7.0, 6.0), EVEN),
    "more for the slower one is worse": (mixed(4.0, 7.0), EVEN),
    "on one replica each it shows as well": (mixed(7.0, 7.0, replicas=1), EVEN),
    "nearly idle replicas look alike to every gateway": (mixed(0.2, 0.2, replicas=20), PENDING),
    "ten requests of each are too few": (
        msgspec.structs.replace(mixed(0.9, 0.9, replicas=1), rate_window_s=11.0),
        PENDING,
    ),
    "one variant gets nothing at all": (mixed(7.0, 0.0), PENDING),
    "variants that are alike": (two(serving("h100", 2, 7.0), serving("h100", 2, 7.0, "b"), [pool("h100")]), NOTHING),
    "one variant runs": (two(serving("h100", 2, 7.0), variant("a100", ())), NOTHING),
    "one variant is declared": (snapshot(service(serving("h100", 2, 7.0))), NOTHING),
    "nothing runs": (two(variant("h100", ()), variant("a100", ())), ("Unknown", "NothingRuns")),
    "the pods of one cannot be read": (
        two(serving("h100", 2, 7.0), variant("a100", [pod("s", silent_engine())])),
        PENDING,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_how_requests_are_spread_is_a_condition(case):
    state, want = CASES[case]
    assert condition(Loop().one(state, 300), "TrafficBalanced") == want


def test_nothing_is_concluded_from_a_few_looks():
    loop = Loop()
    assert condition(loop.one(mixed(7.0, 7.0)), "TrafficBalanced") == PENDING
    assert loop.plan.services[0].variants[0].capacity.requests_per_second > 15.0
    assert condition(loop.one(mixed(7.0, 7.0), 30), "TrafficBalanced") == PENDING


def test_young_pods_whose_rates_are_of_a_part_of_the_window_say_nothing():
    state = mixed(7.0, 7.0)
    fast, slow = state.services[0].variants
    young = tuple(msgspec.structs.replace(p, ready_at=2e6) for p in fast.pods)
    changed = msgspec.structs.replace(state.services[0], variants=(msgspec.structs.replace(fast, pods=young), slow))
    decided = Loop().one(msgspec.structs.replace(state, services=(changed,)), 300)
    assert condition(decided, "TrafficBalanced") == PENDING


def test_spread_evenly_each_replica_is_planned_at_the_slowest_ones_rate():
    loop = Loop()
    before = loop.one(mixed(8.0, 8.0, 4))
    after = loop.one(mixed(8.0, 8.0, 4), 150)
    alone = {v.name: v.capacity.requests_per_second for v in before.variants}
    planned = {v.name: v.capacity.requests_per_second for v in after.variants}
    assert alone["h100"] > 2.0 * alone["a100"]
    assert planned["h100"] == planned["a100"] == pytest.approx(alone["a100"], rel=0.1)
    assert "beside a100 with requests spread evenly" in after.variants[0].capacity.evidence
    assert sum(v.wanted for v in after.variants) > sum(v.wanted for v in before.variants)


def test_it_is_said_with_arrivals_capacities_cost_and_cure():
    decided = Loop().one(mixed(7.0, 7.0), 300)
    text = balanced(decided).message
    slow, fast = (v.capacity.requests_per_second for v in reversed(decided.variants))
    assert slow == fast
    assert f"planned at {slow:.3g} requests/s, what a100 carries" in text
    assert f"4 ready ones at {4 * slow:.3g} together" in text
    assert "of their 8.80 USD an hour buy no capacity" in text
    assert "endpoint picker" in text
    alone = decided.variants[0].capacity
    assert f"a pod of h100 gets 7 of the {float(alone.evidence.split()[0]):.3g}" in text
    assert f"of a100 gets 7 of {slow:.3g}" in text
    assert any("spread evenly" in step.text for step in decided.waterfall)


@pytest.mark.parametrize(
    ("price", "gpus"), [(None, 1), ("3.00", None)], ids=["a price is unknown", "the GPUs of a replica are unknown"]
)
def test_without_a_cost_no_money_is_named(price, gpus):
    fast = variant("h100", serving("h100", 2, 7.0).pods, gpus_per_replica=gpus)
    state = two(fast, serving("a100", 2, 7.0), [pool("h100", price=price), pool("a100")])
    text = balanced(Loop().one(state, 300)).message
    assert "4 ready ones at" in text
    assert "an hour" not in text


def test_a_gateway_that_is_put_before_them_turns_it_within_minutes():
    loop = Loop()
    assert condition(loop.one(mixed(7.0, 7.0), 600), "TrafficBalanced") == EVEN
    assert condition(loop.one(mixed(12.0, 6.0), 60), "TrafficBalanced") == EVEN
    assert condition(loop.one(mixed(12.0, 6.0), 180), "TrafficBalanced") == FOLLOWS


@pytest.mark.parametrize("settled_as", [EVEN, FOLLOWS])
def test_once_sure_a_spread_that_is_neither_does_not_flap(settled_as):
    """Arrivals on one side of halfway for a minute and on the other for the next: the verdict stands."""
    loop = Loop()
    loop.run(mixed(7.0, 7.0) if settled_as == EVEN else mixed(12.0, 6.0), 600)
    for state in itertools.islice(itertools.cycle((mixed(10.0, 6.0), mixed(8.0, 6.0))), 20):
        assert condition(loop.one(state, 60), "TrafficBalanced") == settled_as


def test_without_metrics_or_traffic_the_verdict_stands():
    loop = Loop()
    loop.run(mixed(7.0, 7.0), 300)
    silent = two(*(variant(n, [pod(f"{n}-{i}", silent_engine()) for i in range(2)]) for n in ("h100", "a100")))
    dark = loop.one(silent, 300)
    assert condition(dark, "TrafficBalanced") == EVEN
    assert "gets an unknown part" in balanced(dark).message
    assert condition(loop.one(mixed(0.0, 0.0), 300), "TrafficBalanced") == EVEN


def test_what_was_seen_holds_for_a_variant_that_comes_back():
    """One variant left: nothing to balance. The other starts beside it: no need to find out again."""
    loop = Loop()
    loop.run(mixed(7.0, 7.0), 300)
    alone = loop.one(two(variant("h100", ()), serving("a100", 4, 7.0)), 300)
    assert condition(alone, "TrafficBalanced") == NOTHING
    assert "spread evenly" in balanced(alone).message
    starting = variant("h100", [pod("h", phase=PodPhase.STARTING)])
    beside = loop.one(two(starting, serving("a100", 4, 7.0), most_fast=1))  # so that it stays beside the others
    assert beside.variants[0].capacity.requests_per_second < 10.0


def test_variants_that_become_alike_are_judged_anew():
    """Another GPU in the pool: what was seen of unlike variants says nothing about the next unlike pair."""
    loop = Loop()
    loop.run(mixed(7.0, 7.0), 300)
    same = [pool("h100"), pool("a100", accelerator="H100-80GB")]
    declared = spec(variants=[variant_spec("h100", "h100"), variant_spec("a100", "a100")])
    state = service([serving("h100", 2, 7.0), variant("a100", pods(2, 7.0, "b"))], declared)
    loop.run(snapshot(state, same), 7200)
    assert condition(loop.plan.services[0], "TrafficBalanced") == NOTHING
    assert loop.memory.services[0].spread_evenly is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 20.0), st.floats(0.0, 7.5), st.integers(1, 9)), min_size=1, max_size=8))
def test_whatever_arrives_no_verdict_is_made_or_turned_within_a_minute(history):
    """From doubt to a verdict it takes six cycles of 10 s at least, from one verdict to the other ten."""
    loop, cycles, verdict = Loop(), 0, None
    for h100, a100, times in history:
        for _ in range(times):
            loop.run(mixed(h100, a100))
            cycles += 1
            memory = loop.memory.services[0]
            assert 0.0 <= memory.even_dispatch <= 1.0
            if memory.spread_evenly is verdict:
                continue
            if memory.spread_evenly is not None:
                assert cycles >= (6 if verdict is None else 10)
                assert memory.even_dispatch >= SURE if memory.spread_evenly else memory.even_dispatch <= 1.0 - SURE
            cycles, verdict = 0, memory.spread_evenly
