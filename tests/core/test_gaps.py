"""After nights, outages and restarts, and while nodes are worked on: what is not known or not needed moves nothing."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebbtide.core.plan import plan
from ebbtide.model.memory import Memory
from ebbtide.model.snapshot import Latency, PodPhase, Quality, Reading, Source
from tests.builders import (
    NOW,
    Loop,
    engine,
    fresh,
    node,
    pod,
    pods,
    pool,
    service,
    settled,
    silent_engine,
    snapshot,
    spec,
    to_zero,
    variant,
)

HOUR = 3600.0
BUSY = 24.0  # requests/s, nearly what one of the builders' replicas carries


def of_eight(rps, prefix="a", on=("n0",)):
    return tuple(pod(f"{prefix}-{i}", engine(rps), node=on[i // 8]) for i in range(8 * len(on)))


# -- forecast


@pytest.mark.parametrize("hours", [1, 8, 100])
def test_a_night_at_zero_neither_ends_the_cycle_nor_speaks_in_the_morning(hours):
    asleep = spec(scale_to_zero=to_zero(), min_replicas=0)
    loop = settled(snapshot(service(variant("h100", pods(4, BUSY)), asleep)))
    loop.now_s += hours * HOUR
    decided = loop.one(snapshot(service(variant("h100", (), 0), asleep, gateway_queue=fresh(0.0))))
    assert decided.variants[0].allowed == 0
    assert decided.forecast is None


def test_a_clock_that_was_set_back_by_a_day_does_not_end_the_cycle():
    old = tuple(pod(f"a-{i}", engine(BUSY), ready_at=NOW - 100 * HOUR) for i in range(4))
    state = snapshot(service(variant("h100", old)))
    loop = settled(state)
    loop.now_s -= 24 * HOUR
    assert loop.one(state, 100.0).forecast.expected == pytest.approx(4 * BUSY, rel=0.05)


def test_partial_demand_raises_also_above_what_was_learnt_before():
    loop = settled(snapshot(service(variant("h100", pods(4, 10.0)))))
    risen = (*pods(3, 40.0), pod("b", silent_engine()))
    decided = loop.one(snapshot(service(variant("h100", risen))), 120.0)
    assert decided.variants[0].allowed > 5
    assert decided.forecast.expected == pytest.approx(160.0, rel=0.02)


def test_partial_demand_after_an_outage_is_not_raised_to_the_load_of_the_day_before():
    loop = settled(snapshot(service(variant("h100", pods(8, BUSY)))))
    loop.now_s += 12 * HOUR
    calm = (*pods(1, 1.0), pod("b", silent_engine()))
    assert loop.one(snapshot(service(variant("h100", calm))), 120.0).variants[0].allowed == 2


# -- the operator was down


def test_f18_a_start_after_an_outage_lowers_nothing_before_the_delay_was_watched():
    loop = settled(snapshot(service(variant("h100", pods(8, BUSY)))))
    calm = snapshot(service(variant("h100", pods(8, 1.0))))
    loop.now_s += HOUR
    assert loop.one(calm, 290.0).variants[0].allowed == 8
    assert loop.one(calm, 60.0).variants[0].allowed < 8


def test_a_start_after_an_outage_waits_the_up_delay_anew():
    declared = spec(up_delay_s=120.0, max_replicas=40)
    rising = snapshot(service(variant("h100", pods(4, 40.0)), declared))
    loop = settled(snapshot(service(variant("h100", pods(4, BUSY)), declared)))
    loop.run(rising, 60.0)
    loop.now_s += HOUR
    assert loop.one(rising, 110.0).variants[0].allowed == 4
    assert loop.one(rising, 60.0).variants[0].allowed > 4


@pytest.mark.parametrize("down", ["the operator", "prometheus"])
def test_an_outage_is_no_idle_time_towards_zero(down):
    declared = spec(scale_to_zero=to_zero(600.0), min_replicas=0, down_delay_s=0.0)
    idle = snapshot(service(variant("h100", pods(1, 0.0)), declared, gateway_queue=fresh(0.0)))
    loop = settled(snapshot(service(variant("h100", pods(1, 2.0)), declared, gateway_queue=fresh(0.0))))
    if down == "prometheus":
        blind = service(variant("h100", (pod("a-0", None),)), declared, gateway_queue=fresh(0.0))
        loop.run(snapshot(blind, sources=(Source("prometheus", healthy=False),)), 1200.0)
    loop.now_s += HOUR if down == "the operator" else 0.0
    assert loop.one(idle, 580.0).variants[0].allowed == 1
    assert loop.one(idle, 60.0).variants[0].allowed == 0


# -- nodes


@pytest.mark.parametrize(
    ("story", "nodes"),
    [
        ("one is cordoned", [node("n0", 8, 8), node("n1", 8, 8, cordoned=True)]),
        ("both are cordoned", [node("n0", 8, 8, cordoned=True), node("n1", 8, 8, cordoned=True)]),
        ("one is not ready", [node("n0", 8, 8), node("n1", 8, 8, ready=False)]),
        ("the pool's node selector finds none", []),
    ],
)
def test_ready_replicas_keep_their_gpus_while_their_nodes_take_nothing_new(story, nodes):
    fleet = service(variant("h100", of_eight(BUSY, on=("n0", "n1"))))
    loop = settled(snapshot(fleet, pool(nodes=[node("n0", 8, 8), node("n1", 8, 8)])), 900.0)
    decided = loop.one(snapshot(fleet, pool(nodes=nodes)), 60.0)
    assert decided.variants[0].allowed == 16, story


def test_a_cordon_leaves_the_other_nodes_free_gpus_to_be_used():
    rising = service(variant("h100", of_eight(40.0)))
    nodes = [node("n0", 8, 8, cordoned=True), node("n1", 8, 3)]
    decided = settled(snapshot(rising, pool(nodes=nodes)), 900.0).plan.services[0]
    assert decided.variants[0].allowed == 13


def test_what_runs_on_a_cordoned_node_is_not_claimed_for_a_higher_priority():
    high = service(variant("h100", of_eight(40.0)), spec("ml/high", priority=200))
    low = service(variant("h100", of_eight(BUSY, "b", on=("n1",))), spec("ml/low", priority=50))
    nodes = [node("n0", 8, 8), node("n1", 8, 8, cordoned=True)]
    decided = settled(snapshot([high, low], pool(nodes=nodes)), 900.0).plan
    assert [s.variants[0].allowed for s in decided.services] == [8, 8]


def test_the_surge_of_one_service_takes_nothing_from_its_equals():
    def both(surge):
        other = service(variant("h100", of_eight(BUSY, "a")), spec("ml/first"))
        rolling = variant("h100", of_eight(BUSY, "b", on=("n1",)), rolling_out=bool(surge), surge_replicas=surge)
        nodes = [node("n0", 8, 8), node("n1", 8, 8)]
        return snapshot([other, service(rolling, spec("ml/second"))], pool(nodes=nodes))

    loop = settled(both(0))
    assert [s.variants[0].allowed for s in loop.run(both(2), 60.0).services] == [8, 8]


def test_a_declared_limit_still_takes_from_what_runs():
    fleet = service(variant("h100", of_eight(BUSY)))
    assert (
        settled(snapshot(fleet, pool(nodes=[node("n0", 8, 8)], max_gpus=6))).plan.services[0].variants[0].allowed == 6
    )


def test_a_group_whose_pods_are_all_doomed_is_one_replica_and_not_four():
    """LeaderWorkerSet: four groups of four pods, one group on nodes that go."""
    going = [f"g0-{i}" for i in range(4)]
    made = [
        pod(f"g{g}-{i}", engine(20.0) if i == 0 else engine(0.0), phase=phase, node=f"g{g}-{i}")
        for g in range(4)
        for phase in [PodPhase.INTERRUPTED if g == 0 else PodPhase.READY]
        for i in range(4)
    ]
    nodes = [node(f"g{g}-{i}", 1, 1, interrupted=f"g{g}-{i}" in going) for g in range(4) for i in range(4)]
    spare = [node("spare", 64)]
    state = variant("h100", made, 4, pods_per_replica=4, gpus_per_replica=4)
    decided = settled(snapshot(service(state), pool(nodes=[*nodes, *spare]))).plan.services[0]
    assert decided.variants[0].allowed <= 5


# -- numbers that are none

NO_NUMBERS = [float("nan"), float("inf"), 1e300]


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_arrivals_that_are_no_number_are_unknown_and_not_zero(value):
    decided = settled(snapshot(service(variant("h100", pods(3, 10.0, arrivals=fresh(value)))))).plan.services[0]
    assert decided.variants[0].allowed == 3
    assert decided.variants[0].limited_by in ("", "MetricsMissing")
    assert decided.reason.code.value == "MetricsMissing"


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("name", ["running", "waiting", "finished", "prompt_tokens", "generation_tokens", "itl"])
def test_one_pod_with_a_reading_that_is_no_number_does_not_end_the_cycle(name, value):
    reading = Latency(3.0, value, ()) if name == "itl" else fresh(value)
    odd = pod("b", msgspec.structs.replace(engine(10.0), **{name: reading}))
    loop = settled(snapshot(service(variant("h100", (*pods(2, 10.0), odd)))))
    assert loop.one(snapshot(service(variant("h100", pods(3, 10.0))))).variants[0].capacity.requests_per_second > 5.0


# -- anything at all

numbers = st.one_of(st.sampled_from([0.0, 1e-12, 1.0, 60.0, 1e9, 1e15, -3.0, float("nan")]), st.floats(0.0, 1e4))
qualities = st.sampled_from(list(Quality))
readings = st.builds(lambda quality, value: Reading(quality=quality, value=value, age_s=5.0), qualities, numbers)
latencies = st.one_of(st.none(), st.builds(Latency, numbers, numbers))
NAMES = ("running", "waiting", "finished", "arrivals", "prompt_tokens", "generation_tokens")
engines = st.one_of(
    st.none(),
    st.floats(0.0, 100.0).map(engine),
    st.fixed_dictionaries(dict.fromkeys(NAMES, readings) | dict.fromkeys(("itl", "tpot"), latencies)).map(
        lambda changes: msgspec.structs.replace(engine(3.0), **changes)
    ),
)


@st.composite
def odd_snapshots(draw):
    made = []
    for _ in range(draw(st.integers(0, 5))):
        phase, born = draw(st.sampled_from(list(PodPhase))), NOW - draw(st.sampled_from([-50.0, 0.0, 5.0, 1e5]))
        made.append(
            pod(
                f"a-{draw(st.integers(0, 3))}",
                draw(engines),
                phase=phase,
                created_at=born,
                ready_at=draw(st.sampled_from([None, born, born + 50.0])),
                node=draw(st.sampled_from(["", "n0", "elsewhere"])),
                gpus=draw(st.integers(0, 8)),
            )
        )
    state = variant(
        "h100",
        made,
        draw(st.sampled_from([0, 1, 5, 1000])),
        exists=draw(st.booleans()),
        gpus_per_replica=draw(st.sampled_from([None, 1, 9])),
        pods_per_replica=draw(st.sampled_from([0, 1, 4])),
    )
    nodes = [node("n0", draw(st.integers(0, 8)), draw(st.integers(0, 9)), cordoned=draw(st.booleans()))]
    pools = draw(
        st.sampled_from([[], [pool(nodes=nodes)], [pool(nodes=[], price=None)], [pool(nodes=nodes, price="0")]])
    )
    declared = spec(
        model_parameters_billion=draw(st.sampled_from([None, 0.001, 8.0, 1e6])),
        scale_to_zero=draw(st.sampled_from([None, to_zero(60.0)])),
        min_replicas=draw(st.integers(0, 3)),
        down_delay_s=draw(st.sampled_from([0.0, 60.0])),
    )
    return snapshot(
        service(state, declared, gateway_queue=draw(readings)),
        pools,
        rate_window_s=draw(st.sampled_from([15.0, 60.0, 900.0])),
        cycle_s=draw(st.sampled_from([1.0, 10.0, 300.0])),
    )


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.tuples(odd_snapshots(), st.sampled_from([1.0, 10.0, 60.0, 1e5, -1e5])), min_size=1, max_size=4))
def test_no_snapshot_after_any_other_ends_the_cycle(story):
    memory, now_s = Memory(), NOW
    for state, passed_s in story:
        decided, memory = plan(state, memory, now_s)
        memory = msgspec.msgpack.decode(msgspec.msgpack.encode(memory), type=Memory)
        assert all(action.to_replicas <= max(100, action.from_replicas) for action in decided.actions)
        now_s += passed_s


def test_a_remembered_cause_that_this_release_does_not_know_does_not_end_the_cycle():
    crash = pod("x", phase=PodPhase.CRASH_LOOPING, message="exit 1")
    loop = settled(snapshot(service(variant("h100", (*pods(2, 5.0), crash)))), 200.0)
    known = loop.memory.services[0].variants[0]
    capacity = msgspec.structs.replace(known.capacity, failing_code="NamedByAnotherRelease")
    renamed = msgspec.structs.replace(known, capacity=capacity)
    one = msgspec.structs.replace(loop.memory.services[0], variants=(renamed,))
    loop.memory = msgspec.structs.replace(loop.memory, services=(one,))
    assert loop.one(snapshot(service(variant("h100", pods(3, 5.0))))).variants[0].observed == 3


def test_a_service_whose_variants_are_all_unknown_yet_does_not_end_the_cycle():
    assert Loop().one(snapshot(service([], spec()))).variants == ()
