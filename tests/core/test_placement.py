"""Which variant runs how much: price, pools, priorities, and variants that fail to start."""

from decimal import Decimal

import msgspec
import pytest

from ebbtide.model.snapshot import PodPhase
from ebbtide.model.spec import CapacityPrior, Provisioning
from tests.builders import (
    Fleet,
    Loop,
    condition,
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


def two(**changes):
    return spec(variants=[variant_spec("h100", "h100"), variant_spec("a100", "a100")], **changes)


def wanted(decided):
    return {v.name: v.wanted for v in decided.variants}


def plan_two(h100=(), a100=(), pools=None, seconds=900.0, **changes):
    state = service([variant("h100", h100), variant("a100", a100)], two(**changes))
    return settled(snapshot(state, pools or [pool("h100", price="3.00"), pool("a100", price="1.50")]), seconds)


@pytest.mark.parametrize(
    ("h100_price", "a100_price", "grows"),
    [("3.00", "1.50", "h100"), ("3.00", "0.70", "a100"), ("9.00", "1.50", "a100")],
)
def test_the_cheapest_per_unit_of_capacity_grows(h100_price, a100_price, grows):
    pools = [pool("h100", price=h100_price), pool("a100", price=a100_price)]
    loop = settled(snapshot(service([variant("h100", pods(1, 40.0)), variant("a100", ())], two()), pools), 60)
    decided = loop.plan.services[0]
    more = {v.name: v.wanted - v.observed for v in decided.variants}
    assert more[grows] > 0, more


def test_f14_when_the_first_pool_is_full_the_next_variant_takes_over():
    pools = [pool("h100", [node("n", 2, 2)]), pool("a100", price="9.00")]
    decided = plan_two(pods(2, 40.0), pools=pools).plan.services[0]
    assert wanted(decided)["h100"] == 2
    assert wanted(decided)["a100"] > 0


def test_full_everywhere_is_said_with_the_pool():
    pools = [pool("h100", [node("n", 2, 2)]), pool("a100", [])]
    decided = plan_two(pods(2, 40.0), pools=pools).plan.services[0]
    assert decided.reason.code.value == "PoolFull"
    assert condition(decided, "Limited") == ("True", "PoolFull")
    assert "pool h100" in decided.reason.text


def test_gpus_of_different_nodes_do_not_add_up():
    """Four nodes with one free GPU each hold no replica of two."""
    declared = spec(variants=[variant_spec(gpus_per_replica=2)])
    nodes = [node(f"n{i}", 8, 7) for i in range(4)] + [node("full", 4, 4)]
    states = tuple(msgspec.structs.replace(p, gpus=2, node="full") for p in pods(2, 40.0))
    decided = settled(snapshot(service(variant("h100", states), declared), pool(nodes=nodes))).plan.services[0]
    assert wanted(decided) == {"h100": 2}


@pytest.mark.parametrize("broken", ["ready", "cordoned", "interrupted"])
def test_nodes_that_do_not_count_hold_nothing_new(broken):
    bad = node("n", 8, 0, **{broken: broken != "ready"})
    state = snapshot(service(variant("h100", pods(2, 40.0))), pool(nodes=[node("full", 2, 2), bad]))
    assert wanted(settled(state).plan.services[0]) == {"h100": 2}


def test_foreign_pods_take_room():
    state = snapshot(service(variant("h100", pods(2, 40.0))), pool(nodes=[node("n", 8, 8)]))
    assert wanted(settled(state).plan.services[0]) == {"h100": 2}


def test_an_autoscaled_pool_may_grow_to_its_limit_beyond_its_nodes():
    elastic = pool(nodes=[node("n", 2, 2)], provisioning=Provisioning.AUTOSCALED, max_gpus=4)
    state = snapshot(service(variant("h100", pods(2, 60.0))), elastic)
    assert wanted(settled(state).plan.services[0]) == {"h100": 4}


def waiting_for_nodes(pools_changes, a100=()):
    states = (*pods(2, 40.0), *(pod(f"w-{i}", phase=PodPhase.UNSCHEDULABLE, message="0/1 nodes") for i in range(2)))
    pools = [
        pool("h100", [node("n", 2, 2)], provisioning=Provisioning.AUTOSCALED, max_gpus=16, **pools_changes),
        pool("a100", price="9.00"),
    ]
    return snapshot(service([variant("h100", states), variant("a100", a100)], two()), pools)


def pool_named(decided, name):
    return next(shown for shown in decided.pools if shown.name == name)


def recreate(state, now_s):
    """Pods that wait are young: created when the loop began."""
    first, second = state.services[0].variants
    young = tuple(
        msgspec.structs.replace(p, created_at=now_s) if p.phase is PodPhase.UNSCHEDULABLE else p for p in first.pods
    )
    changed = msgspec.structs.replace(state.services[0], variants=(msgspec.structs.replace(first, pods=young), second))
    return msgspec.structs.replace(state, services=(changed,))


def test_pods_that_wait_for_a_node_count_until_the_lead_time_is_over_then_the_pool_backs_off():
    loop = Loop()
    state = recreate(waiting_for_nodes({"node_lead_time_s": 200.0}), loop.now_s)
    early = loop.run(state, 120)
    assert early.services[0].variants[0].starting == 2
    assert pool_named(early, "h100").backing_off_until is None
    late = loop.run(state, 400)
    assert pool_named(late, "h100").backing_off_until is not None
    assert ("NodesComing", "False") in [(c.type, c.status.value) for c in pool_named(late, "h100").conditions]
    assert wanted(late.services[0])["a100"] > 0
    assert wanted(late.services[0])["h100"] <= 2


def test_nodes_that_come_teach_the_lead_time():
    loop = Loop()
    state = recreate(waiting_for_nodes({}), loop.now_s)
    loop.run(state, 100)
    new = node("n2", 2, 0, created_at=loop.now_s)
    grown = msgspec.structs.replace(state.pools[0], nodes=(*state.pools[0].nodes, new))
    decided = loop.run(msgspec.structs.replace(state, pools=(grown, state.pools[1])))
    assert pool_named(decided, "h100").lead_time_s == pytest.approx(100.0, abs=15.0)


FAILING = {
    "CrashLooping": ({"phase": PodPhase.CRASH_LOOPING, "message": "exit 1"}, {}),
    "Unschedulable": ({"phase": PodPhase.UNSCHEDULABLE, "message": "0/3 nodes are available"}, {}),
    "QuotaRefused": (None, {"replica_failure": "exceeded quota: gpus", "replicas": 4}),
}


@pytest.mark.parametrize("code", FAILING)
def test_f14_replicas_that_fail_are_named_and_send_demand_to_the_next_variant(code):
    broken, changes = FAILING[code]
    bad = () if broken is None else tuple(pod(f"b-{i}", **broken) for i in range(2))
    first = variant("h100", (*pods(2, 40.0), *bad), **changes)
    pools = [pool("h100"), pool("a100", price="9.00")]
    decided = settled(snapshot(service([first, variant("a100", ())], two()), pools), 120).plan.services[0]
    assert condition(decided, "Ready") == ("False", code)
    assert wanted(decided)["h100"] == 2
    assert wanted(decided)["a100"] > 0


def test_a_failing_variant_is_tried_again_after_a_while():
    bad = tuple(pod(f"b-{i}", phase=PodPhase.CRASH_LOOPING) for i in range(2))
    loop = settled(snapshot(service(variant("h100", (*pods(2, 40.0), *bad)))), 60)
    healed = snapshot(service(variant("h100", pods(2, 40.0))))
    assert wanted(loop.one(healed)) == {"h100": 2}
    assert wanted(loop.one(healed, 300))["h100"] > 2


def test_a_failing_only_variant_keeps_what_is_declared():
    """Everything crashes and nowhere else is room: nothing is lowered on that account."""
    bad = tuple(pod(f"b-{i}", phase=PodPhase.CRASH_LOOPING) for i in range(4))
    decided = settled(snapshot(service(variant("h100", bad)))).plan.services[0]
    assert decided.variants[0].allowed == 4
    assert decided.reason.code.value == "CrashLooping"


def test_no_price_no_scale_up_and_what_runs_stays():
    """F8, F12: unknown is never taken for free or for zero."""
    loop = settled(snapshot(service(variant("h100", pods(2, 40.0))), pool(price=None)))
    decided = loop.plan.services[0]
    assert loop.plan.actions == ()
    assert condition(decided, "PricesKnown") == ("False", "PriceUnknown")
    assert decided.reason.code.value == "PriceUnknown"
    assert decided.spend_per_hour is None


def test_prices_in_different_currencies_are_not_compared():
    """100 JPY are less than 3 USD, and a bare 100 is more: nothing grows on either, and what runs stays."""
    states = service([variant("a100", pods(2, 40.0)), variant("h100", ())])
    yen = msgspec.structs.replace(pool("a100", price="100.00"), currency="JPY")
    loop = settled(snapshot(states, [yen, pool("h100", price="3.00")]))
    decided = loop.plan.services[0]
    assert loop.plan.actions == ()
    assert [item.allowed for item in decided.variants] == [2, 0]
    assert condition(decided, "PricesKnown") == ("False", "PriceUnknown")
    [priced] = [item for item in decided.conditions if item.type == "PricesKnown"]
    assert "prices in JPY and USD cannot be compared: no scale-up" in priced.message
    assert decided.reason.code.value == "PriceUnknown"
    assert "prices in JPY and USD cannot be compared" in decided.reason.text
    alike = settled(snapshot(states, [pool("a100", price="100.00"), pool("h100", price="3.00")]))
    assert wanted(alike.plan.services[0])["h100"] > 0


def test_gpus_per_replica_unknown_is_no_scale_up_either():
    loop = settled(snapshot(service(variant("h100", pods(2, 40.0), gpus_per_replica=None))))
    assert loop.plan.actions == ()
    assert condition(loop.plan.services[0], "PricesKnown") == ("False", "GPUsUnknown")


def test_spend_is_exact_and_counts_starting_pods():
    states = (*pods(3, 10.0), pod("s", phase=PodPhase.STARTING), pod("p", phase=PodPhase.PENDING))
    decided = settled(snapshot(service(variant("h100", states)), pool(price="2.95"))).plan.services[0]
    assert (decided.spend_per_hour, decided.currency) == (Decimal("11.80"), "USD")


def rich_and_poor(free, poor_replicas=4):
    rich = service(variant("h100", pods(2, 60.0, "r")), spec("ml/rich", priority=200))
    poor = service(variant("h100", pods(poor_replicas, 20.0, "p")), spec("ml/poor", priority=50))
    held = 2 + poor_replicas
    return snapshot([poor, rich], pool(nodes=[node("n", held + free, held)]))


def test_higher_priority_gets_the_last_gpus():
    loop = settled(rich_and_poor(free=1))
    by_key = {s.key: s for s in loop.plan.services}
    assert by_key["ml/rich"].variants[0].wanted >= 3
    assert by_key["ml/poor"].variants[0].wanted <= 4


def test_lower_priority_gives_way_when_the_pool_is_too_small_for_both():
    loop = settled(rich_and_poor(free=0))
    by_key = {s.key: s for s in loop.plan.services}
    total = sum(s.variants[0].wanted for s in by_key.values())
    assert by_key["ml/rich"].variants[0].wanted > 2
    assert by_key["ml/poor"].variants[0].allowed < 4
    assert by_key["ml/poor"].reason.code.value == "GivesWay"
    assert total <= 6


def test_among_equals_nobody_loses_what_runs():
    a = service(variant("h100", pods(2, 60.0, "a")), spec("ml/a"))
    b = service(variant("h100", pods(4, 22.0, "b")), spec("ml/b"))
    loop = settled(snapshot([a, b], pool(nodes=[node("n", 6, 6)])))
    assert {s.key: s.variants[0].wanted for s in loop.plan.services} == {"ml/a": 2, "ml/b": 4}


def test_f11_equals_that_grow_at_once_never_plan_more_than_the_pool_holds():
    services = [service(variant("h100", pods(1, 60.0, f"s{i}")), spec(f"ml/s{i}")) for i in range(4)]
    loop = settled(snapshot(services, pool(nodes=[node("n", 7, 4)])))
    assert sum(s.variants[0].wanted for s in loop.plan.services) == 7


def test_replicas_on_doomed_nodes_are_replaced_before_they_go():
    doomed = pod("d", engine(22.0), phase=PodPhase.INTERRUPTED)
    loop = settled(snapshot(service(variant("h100", (*pods(2, 22.0), doomed)))))
    decided = loop.plan.services[0]
    assert decided.variants[0].wanted == 4
    assert decided.reason.code.value == "Interruption"


def test_a_move_to_a_cheaper_mix_waits_for_its_stand_ins():
    """The dear replicas stay until the cheap ones are ready, and load never falls between."""
    fleet = Fleet(two(down_delay_s=60.0), {"h100": 3}, startup_s=120.0)
    pools = [pool("h100", price="6.00"), pool("a100", price="0.60")]
    for _ in range(180):
        fleet.cycle(40.0, pools=pools)
        ready = sum(fleet.now_s - born >= 120.0 for births in fleet.born.values() for born in births)
        assert ready >= 2
    assert len(fleet.born["a100"]) >= 3
    assert len(fleet.born["h100"]) == 0


AT_SIX = {"max_replicas": 6}
ROOMY = (pool("h100", [node("h", 64)], price="3.00"), pool("a100", [node("a", 64)], price="1.50"))


def limited(decided):
    return next(item for item in decided.conditions if item.type == "Limited")


def overloaded(fast_most, **declared):
    """As many replicas as may run, and more load than they carry."""
    variants = [variant_spec("h100", "h100", max_replicas=fast_most), variant_spec("a100", "a100")]
    fleet = Fleet(spec(variants=variants, **declared), {"h100": 0, "a100": 1})
    return fleet.run(400, 900, pools=ROOMY).services[0]


def test_where_the_services_maximum_binds_no_pool_with_room_is_blamed():
    decided = overloaded(4, **AT_SIX)
    assert sum(variant.allowed for variant in decided.variants) == 6
    assert (limited(decided).status.value, limited(decided).reason) == ("True", "AtMaximum")
    assert limited(decided).message.endswith("of the need finds no room: the service's maximum is 6")
    assert {variant.limited_by for variant in decided.variants} == {"AtMaximum"}


def test_where_each_variants_maximum_binds_each_is_named():
    variants = [variant_spec("h100", "h100", max_replicas=2), variant_spec("a100", "a100", max_replicas=3)]
    decided = Fleet(spec(variants=variants), {"h100": 0, "a100": 1}).run(400, 900, pools=ROOMY).services[0]
    assert limited(decided).message.endswith("h100: its maximum is 2; a100: its maximum is 3")


def test_a_failure_that_is_over_is_not_blamed_where_the_maximum_binds():
    """The a100 is still backed off from, but one more of it could not be declared either."""
    crashing = pod("x", phase=PodPhase.CRASH_LOOPING, message="exit 1")
    declared = two(**AT_SIX)
    loop = settled(snapshot(service([variant("h100", pods(5, 60.0)), variant("a100", [crashing])], declared), ROOMY))
    decided = loop.one(snapshot(service([variant("h100", pods(6, 60.0)), variant("a100", ())], declared), ROOMY))
    assert loop.memory.services[0].variants[1].capacity.backoff_until is not None
    assert (limited(decided).reason, decided.variants[1].limited_by) == ("AtMaximum", "AtMaximum")


def fast_and_slow(most, load, running, **changes):
    """Declared: 24 requests/s for 9.00 an hour, or 10 for 2.00; `running` fast ones share the load."""
    ways = [
        variant_spec("fast", "h100", capacity=CapacityPrior(24.0, 1024.0, 256.0)),
        variant_spec("slow", "a100", capacity=CapacityPrior(10.0, 1024.0, 256.0)),
    ]
    states = [variant("fast", pods(running, load / running, "f")), variant("slow", ())]
    pools = [pool("h100", price="9.00"), pool("a100", price="2.00")]
    state = service(states, spec(variants=ways, max_replicas=most, **changes))
    return settled(snapshot(state, pools), 900.0).plan.services[0]


@pytest.mark.parametrize(
    ("most", "mix"),
    [
        (8, {"fast": 0, "slow": 5}),
        (5, {"fast": 0, "slow": 5}),
        (4, {"fast": 1, "slow": 3}),
        (3, {"fast": 2, "slow": 0}),
        (2, {"fast": 2, "slow": 0}),
    ],
)
def test_within_the_services_maximum_the_cheapest_mix_that_carries_the_need_is_taken(most, mix):
    """Two fast ones carry it: with at most 3 replicas in all a third would cost half as much more for nothing."""
    decided = fast_and_slow(most, 44.0, 2)
    assert wanted(decided) == mix
    assert "finds no room" not in next(step.text for step in decided.waterfall if step.name == "placement")


def test_as_many_of_the_wrong_kind_is_limited_too():
    """4 wanted and 4 allowed, but 1 and 3 wanted, and 2 and 2 allowed."""
    decided = fast_and_slow(4, 44.0, 2)
    assert (wanted(decided), {v.name: v.allowed for v in decided.variants}) == (
        {"fast": 1, "slow": 3},
        {"fast": 2, "slow": 2},
    )
    assert limited(decided).status.value == "True"
    assert limited(decided).reason in ("AtMaximum", "KeepsCover")


def test_what_the_services_maximum_leaves_of_the_need_is_said():
    """Many of 8 requests/s each and a few that do no more beside them: 12 carry less than comes."""
    variants = [variant_spec("a100", "a100"), variant_spec("h100", "h100", max_replicas=4)]
    state = service([variant("a100", pods(11, 8.0, "a")), variant("h100", pods(1, 25.0, "h"))])
    state = msgspec.structs.replace(state, spec=spec(variants=variants, max_replicas=12))
    pools = [pool("h100", price="6.9"), pool("a100", price="1.1")]
    decided = settled(snapshot(state, pools), 900.0).plan.services[0]
    assert sum(v.wanted for v in decided.variants) == sum(v.allowed for v in decided.variants) == 12
    assert (limited(decided).status.value, limited(decided).reason) == ("True", "AtMaximum")
    assert limited(decided).message == "12% of the need finds no room: the service's maximum is 12"


def test_gpus_that_cost_nothing_are_used_first_and_no_more_of_them_than_are_needed():
    variants = [variant_spec("a100", "a100"), variant_spec("h100", "h100")]
    fleet = Fleet(spec(variants=variants), {"a100": 0, "h100": 3})
    decided = fleet.run(60.0, 3600, pools=[pool("a100", price="0"), pool("h100", price="3.00")]).services[0]
    free, paid = ({v.name: v.observed for v in decided.variants}[name] for name in ("a100", "h100"))
    assert paid == 0
    assert 3 <= free <= 6
    assert decided.spend_per_hour == 0
