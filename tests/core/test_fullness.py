"""Replicas that are full: refused requests and a full KV cache, seen as what they are, and never for more than that."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.core import edge
from ebbtide.core.fullness import counted
from ebbtide.core.plan import plan
from ebbtide.model.plan import Condition, ServicePlan
from ebbtide.model.snapshot import NOT_APPLICABLE
from tests.builders import (
    NOW,
    Loop,
    condition,
    fresh,
    pods,
    pool,
    service,
    settled,
    snapshot,
    spec,
    stale,
    variant,
    variant_spec,
)

REFUSED, FULL, ADMITTED = ("False", "RequestsRefused"), ("False", "KVCacheFull"), ("True", "AllAdmitted")
POOL = pool(nodes=40)


def state(n, rps, *, zero=False, down_delay_s=300.0, **readings):
    declared = spec(variants=[variant_spec()], down_delay_s=down_delay_s)
    return snapshot(service(variant("h100", pods(n, rps, **readings)), declared), POOL)


def refusing(n, rps, refused, **readings):
    """Each of n pods serves `rps` requests/s and refuses `refused`."""
    return state(n, rps, rejected=fresh(refused), **readings)


def starving(n, rps, **readings):
    """Full caches, requests that wait for memory and are thrown out, and a first token that comes late for half."""
    full = {"kv_usage": fresh(0.97), "preempted": fresh(0.4), "waiting": 6.0, "missed": 0.5, "kv_tokens": None}
    return state(n, rps, **(full | readings))


def admitted(decided: ServicePlan) -> Condition:
    return next(item for item in decided.conditions if item.type == "RequestsAdmitted")


def wanted(decided: ServicePlan) -> int:
    return decided.variants[0].wanted


def test_refused_requests_are_demand_and_are_named():
    loop = settled(refusing(2, 20.0, 0.0))
    decided = loop.one(refusing(2, 20.0, 15.0))
    assert decided.demand.requests_per_second == pytest.approx(70.0)
    assert "30 requests/s are refused by the engines: queue bound" in decided.waterfall[0].text
    assert "30 requests/s are refused by the engines: queue bound" in decided.reason.text
    assert condition(decided, "RequestsAdmitted") == REFUSED
    assert "more than the 1.00% that may miss" in admitted(decided).message
    assert wanted(decided) > 2


def test_lengths_are_those_of_requests_that_were_taken():
    loop = settled(refusing(2, 5.0, 20.0), 600)
    assert loop.plan.services[0].demand.input_tokens == pytest.approx(1024.0)
    assert loop.plan.services[0].demand.output_tokens == pytest.approx(256.0)


@pytest.mark.parametrize(
    ("story", "taken", "refused", "count"),
    [
        ("all of a few", 10.0, 5.0, 5.0),
        ("clients that try again and again: at most twice what is taken", 10.0, 500.0, 20.0),
        ("nothing is taken at all: still not nothing", 0.0, 40.0, 1.0 / 60.0),
        ("nothing at all", 0.0, 0.0, 0.0),
    ],
)
def test_how_many_refused_requests_count(story, taken, refused, count):
    assert counted(taken, refused) == pytest.approx(count), story


def test_the_part_that_counts_is_said_where_it_is_not_all():
    decided = settled(refusing(1, 5.0, 80.0), 60).plan.services[0]
    assert "80 requests/s are refused by the engines: queue bound, 10 of them count as demand" in decided.reason.text


NO_NEWS = {
    "none is refused": refusing(4, 10.0, 0.0),
    "two in a minute are chance": refusing(4, 0.3, 0.5 / 60.0),
    "fewer than may miss": refusing(4, 10.0, 0.05),
    "the engine does not count them": state(4, 10.0, rejected=NOT_APPLICABLE),
    "what is stale is not now": state(4, 10.0, rejected=stale(9.0)),
    "a cache that is well used": state(4, 10.0, kv_usage=fresh(0.99), preempted=fresh(0.0)),
    "it is full, requests wait, and all meet the objectives": state(4, 10.0, kv_usage=fresh(0.99), waiting=3.0),
    "one in an hour is thrown out": state(4, 10.0, preempted=fresh(1.0 / 3600.0)),
}


@pytest.mark.parametrize("story", NO_NEWS)
def test_what_is_no_alarm(story):
    calm, seen = settled(refusing(4, 10.0, 0.0)), settled(NO_NEWS[story])
    decided = seen.plan.services[0]
    assert condition(decided, "RequestsAdmitted") == ADMITTED, story
    learnt = seen.memory.services[0].variants[0].capacity
    assert learnt.full_tokens == 0.0, story
    if "cache" in story or "full" in story:
        assert wanted(decided) == 4 > wanted(calm.plan.services[0]), "two have no cache for what four hold"
    elif "minute" not in story:
        assert wanted(decided) == wanted(calm.plan.services[0]), story


def test_the_condition_outlasts_the_minute_and_then_ends():
    loop = settled(refusing(2, 20.0, 15.0), 60)
    assert condition(loop.one(refusing(2, 20.0, 0.0), 120), "RequestsAdmitted") == REFUSED
    assert "s ago" in admitted(loop.plan.services[0]).message
    assert condition(loop.one(refusing(2, 20.0, 0.0), 300), "RequestsAdmitted") == ADMITTED


def test_without_a_pod_nothing_is_said_about_admission():
    decided = Loop().one(snapshot(service(variant("h100", (), 0))))
    assert condition(decided, "RequestsAdmitted") == ("Unknown", "Pending")


def test_engines_that_refuse_everything_do_not_look_like_no_load():
    """Full to the bound and stuck: nothing ends, nothing is taken, all is refused."""
    nothing = {"finished": fresh(0.0), "arrivals": fresh(0.0), "prompt_tokens": fresh(0.0)}
    nothing |= {"generation_tokens": fresh(0.0), "running": fresh(0.0), "ttft": None, "itl": None, "tpot": None}
    loop = settled(state(4, 12.0, down_delay_s=0.0))
    decided = loop.one(state(4, 0.0, rejected=fresh(9.0), down_delay_s=0.0, **nothing), 900)
    assert decided.variants[0].allowed == 4
    assert condition(decided, "RequestsAdmitted") == REFUSED
    assert loop.memory.services[0].last_request_at == pytest.approx(loop.now_s, abs=11.0)


def test_nothing_is_let_go_while_more_is_refused_than_may_miss():
    """A bound of 4 requests a pod, where a pod could carry 100: nearly idle by every other sign."""
    idle = {"running": fresh(3.6), "down_delay_s": 0.0}
    loop = settled(state(6, 2.0, **idle))
    assert wanted(loop.plan.services[0]) < 6, "without refusals it would shrink"
    assert loop.one(refusing(6, 2.0, 0.5, **idle)).variants[0].allowed == 6


def test_a_bound_below_what_engines_could_carry_is_learnt_and_misses_are_not_called_unattainable():
    """4 places a pod at 0.9 s a request: 4.5 requests/s, whatever the latency line promises."""
    bound = {"running": fresh(3.8), "itl_s": 0.0034}
    loop = settled(refusing(2, 4.5, 0.0, **bound), 600)
    before = loop.plan.services[0].variants[0].capacity.requests_per_second
    decided = loop.one(refusing(2, 4.5, 9.0, **bound), 120)
    capacity = decided.variants[0].capacity
    assert before > 15.0
    assert capacity.requests_per_second == pytest.approx(4.5, rel=0.05)
    assert "no more than when it was full by its queue bound" in capacity.evidence
    assert 6 <= wanted(decided) <= 20, "27 are asked for; once a leap to three times as much was seen, half of another"
    assert condition(decided, "SLOAttainable")[0] == "True"
    within = loop.one(refusing(6, 4.5, 0.0, **bound), 900)
    assert wanted(within) >= 6, "it is remembered when nothing is refused any more"


def test_a_burst_is_over_before_it_is_believed():
    loop = settled(refusing(2, 5.0, 0.0))
    decided = loop.one(refusing(2, 5.0, 0.5), 60)
    later = loop.one(refusing(2, 5.0, 0.0), 1200)
    assert decided.variants[0].capacity.requests_per_second > 15.0
    assert later.variants[0].capacity.requests_per_second > 15.0
    assert loop.memory.services[0].variants[0].capacity.full_since is None


def test_what_full_replicas_carried_is_believed_less_with_each_hour_and_then_forgotten():
    loop = settled(refusing(2, 4.5, 9.0), 300)
    memory = loop.memory

    def rate(hours):
        now_s = loop.now_s + hours * 3600.0
        calm = msgspec.structs.replace(refusing(6, 4.5, 0.0), taken_at=now_s)
        return plan(calm, memory, now_s)[0].services[0].variants[0].capacity.requests_per_second

    assert rate(0.0) == pytest.approx(4.5, rel=0.05)
    assert rate(0.0) < rate(3.0) < rate(6.0)
    assert rate(13.0) > 15.0
    assert rate(13.0) == rate(10.0 * 365 * 24)


def test_more_that_is_carried_without_a_refusal_takes_it_back():
    loop = settled(refusing(2, 4.5, 9.0), 300)
    decided = loop.one(refusing(2, 14.0, 0.0), 120)
    assert decided.variants[0].capacity.requests_per_second >= 14.0 * 0.95


@pytest.mark.parametrize(("rps", "learnt"), [(0.0, 0.0), (2.0, 0.0), (5.0, 5.0 * 256), (7.0, 5.5 * 256)])
def test_a_pod_that_is_stuck_and_refuses_all_teaches_nothing_but_one_of_several_full_ones_does(rps, learnt):
    """Which of several full ones refuses is up to the gateway; no number of replicas helps against a stuck one."""
    uneven = (*pods(3, 5.0, "a"), *pods(1, rps, "b", rejected=fresh(3.0)))
    loop = settled(snapshot(service(variant("h100", uneven)), POOL), 300)
    assert loop.memory.services[0].variants[0].capacity.full_tokens == pytest.approx(learnt)


def test_a_full_cache_is_the_cause_where_objectives_are_missed():
    loop = settled(state(2, 6.0))
    decided = loop.one(starving(2, 6.0), 120)
    assert condition(decided, "RequestsAdmitted") == FULL
    assert "memory limits 2 pods, not compute: KV cache 97% used, 0.8 preemptions/s" in decided.reason.text
    capacity = decided.variants[0].capacity
    assert "no more than when it was full by its KV cache" in capacity.evidence
    assert capacity.requests_per_second == pytest.approx(6.0, rel=0.1)
    assert wanted(decided) > 2


def test_misses_for_want_of_memory_teach_neither_the_line_nor_the_edge_nor_what_cannot_be_bought():
    slow = {"itl_s": 0.03, "waiting": 0.0, "kv_usage": fresh(0.5)}
    calm = settled(state(2, 6.0), 600)
    loop = settled(state(2, 6.0), 600)
    loop.one(starving(2, 6.0, **slow), 600)
    learnt = loop.memory.services[0].variants[0].capacity
    before = calm.memory.services[0].variants[0].capacity
    assert learnt.unbuyable_weight <= before.unbuyable_weight
    assert edge.reach(learnt.edge) == pytest.approx(edge.reach(before.edge), abs=0.05)
    assert learnt.line.y / learnt.line.weight == pytest.approx(before.line.y / before.line.weight, rel=0.02)
    assert condition(loop.plan.services[0], "SLOAttainable")[0] == "True"


@pytest.mark.parametrize(
    ("kv_usage", "waiting", "preempted", "kv_tokens", "pods_short"),
    [
        (0.95, 2.0, 0.0, 420_000.0, 2),
        (0.95, 0.0, 0.0, 420_000.0, 0),
        (0.80, 2.0, 0.0, 420_000.0, 0),
        (0.80, 2.0, 0.0, 4096.0, 2),  # a prompt of 1024 does not fit any more
        (0.45, 2.0, 0.0, 1100.0, 0),  # no prompt ever fits: that is another fault
        (0.10, 0.0, 1.0 / 60.0, 420_000.0, 2),
        (0.10, 0.0, 0.5 / 60.0, 420_000.0, 0),
    ],
)
def test_when_memory_is_short(kv_usage, waiting, preempted, kv_tokens, pods_short):
    readings = {"kv_usage": fresh(kv_usage), "preempted": fresh(preempted), "kv_tokens": kv_tokens}
    load = settled(state(2, 1.0, waiting=waiting, **readings), 30).plan.services[0].waterfall[0].text
    assert (f"memory limits {pods_short} pods" in load) == (pods_short > 0)
    assert ("memory limits" in load) == (pods_short > 0)


@given(st.integers(1, 5), st.floats(0.0, 30.0), st.floats(0.0, 60.0), st.floats(0.0, 60.0))
def test_more_refusals_never_give_less_capacity(replicas, rps, one, other):
    """From the same memory, in the same cycle; but for one replica, by which forecasts differ where a leap begins.

    21 requests/s after 10 are a rise like others, 23 a leap: two replicas are wanted for the one, one for the other.
    """
    fewer, more = sorted((one, other))
    loop = settled(refusing(replicas, 10.0, 0.0), 120)

    def planned(refused):
        decided, _ = plan(refusing(replicas, rps, refused), loop.memory, loop.now_s)
        return decided.services[0].variants[0].wanted

    assert planned(more) >= planned(fewer) - 1


@given(st.integers(1, 6), st.floats(0.0, 40.0), st.floats(0.5, 90.0))
def test_refused_requests_are_never_no_load(replicas, rps, refused):
    loop = Loop()
    for _ in range(90):
        decided = loop.one(refusing(replicas, rps, refused, down_delay_s=0.0))
    assert decided.variants[0].allowed >= replicas
    assert decided.demand.requests_per_second > rps * replicas * 0.999


def test_an_outage_of_the_numbers_changes_nothing_in_what_is_remembered():
    loop = settled(refusing(2, 4.5, 9.0), 300)
    kept = loop.memory.services[0].variants[0].capacity.full_tokens
    dark = snapshot(
        service(variant("h100", tuple(msgspec.structs.replace(p, engine=None) for p in pods(2, 4.5)))), POOL
    )
    loop.run(dark, 600)
    assert loop.memory.services[0].variants[0].capacity.full_tokens == kept
    assert loop.memory.services[0].refused_at < NOW + 320.0
