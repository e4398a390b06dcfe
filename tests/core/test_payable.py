"""What every ceiling can pay of each variant, for the admission policy: what Ebbtide itself would raise, no more."""

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ebbtide.core.plan import plan
from ebbtide.model.plan import VariantPlan
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import Others, Source, Unreadable
from ebbtide.model.spec import (
    CeilingKind,
    Floor,
    Mode,
    Pacing,
    Pause,
    PauseDirection,
    PolicyScope,
    Provisioning,
    Threshold,
    ThresholdAction,
    ThresholdBasis,
)
from tests.builders import NOW
from tests.core.purse import CYCLE_S, Member, World, policy


def said(world: World, name: str = "chat") -> VariantPlan:
    (found,) = next(item for item in world.plan.services if item.key.endswith(f"/{name}")).variants
    return found


def number(world: World, name: str = "chat") -> int:
    found = said(world, name).payable
    assert found is not None
    return found


def test_where_no_policy_selects_the_service_nothing_is_said():
    members = [Member("chat", 10.0), Member("other", 10.0, namespace="elsewhere")]
    world = World(members, [policy(per_hour="30", namespaces=("elsewhere",))])
    world.cycle()
    assert (said(world).payable, said(world).payable_because) == (None, "")
    assert number(world, "other") == 10


def test_of_a_rate_as_many_as_it_has_left_and_the_rate_the_rest_and_the_policy_are_named():
    world = World([Member("chat", 10.0)], [policy(per_hour="12.50")])
    world.cycle()
    assert said(world).payable == 4
    assert said(world).payable_because == (
        "CostPolicy cap: 3.00 USD an hour now, 9.50 of 12.50 USD an hour left; one replica more takes 3.00"
    )


def test_of_a_day_one_takes_the_reserve_twice_and_its_start_up_and_each_further_one_the_reserve():
    """3.00 USD/h: 0.783 for W of 940 s; the first of those raised together takes 0.833 more, for W and a minute.

    The one that runs is paid for W, so that 4.217 of 5.00 are left: (4.217 - 0.833) / 0.783 are four more.
    """
    world = World([Member("chat", 10.0, least=0, born=[0])], [policy(per_day="20", floor=Floor.ALLOW_ZERO)], spent="15")
    world.cycle()
    assert number(world) == 1 + 4
    assert said(world).payable_because == (
        "CostPolicy cap: 3.00 USD an hour now, 4.22 of 20.00 USD a day left; one replica more takes 1.62"
    )


def test_what_a_raise_takes_to_begin_with_is_taken_once_by_all_that_are_made_together():
    world = World([Member("chat", 60.0, least=0, born=[0])], [policy(per_day="24", floor=Floor.ALLOW_ZERO)], spent="15")
    while said(world).allowed <= said(world).observed if world.plan.services else True:
        spent = float(world.spent["cap"]) / 3600
        world.cycle()
    keep, extra = 940 / 1200, 50 / 60  # 3.00 USD/h for W, and for W and a minute
    free = 24 - spent - keep * said(world).allowed - extra
    assert number(world) == said(world).allowed + int(free / keep)
    assert int((free - extra) / keep) < int(free / keep), "taking it once more would show"
    assert said(world).payable_because.endswith(
        f"{free:.2f} of 24.00 USD a day left; one replica more takes {keep:.2f}"
    )


def test_no_more_than_the_maximum_is_said_and_that_it_is_the_maximum():
    world = World([Member("chat", 10.0)], [policy(per_hour="300")])
    world.seen = lambda state: _with_variant(state, max_replicas=7)
    world.cycle()
    assert number(world) == 7
    assert said(world).payable_because.startswith("maxReplicas is 7; CostPolicy cap: 3.00 USD an hour now, 297.00 of")


def test_the_policy_that_can_pay_the_fewest_is_the_one_that_counts():
    world = World([Member("chat", 10.0)], [policy("wide", per_hour="60"), policy("tight", per_hour="9", per_day="900")])
    world.cycle()
    assert number(world) == 3
    assert said(world).payable_because.startswith("CostPolicy tight: 3.00 USD an hour now, 6.00 of 9.00 USD an hour")


def test_raises_that_are_made_in_the_same_cycle_are_paid_before():
    """Eight fit under 24.00 an hour. The one that grows leaves the other what it does not take itself."""
    world = World([Member("chat", 60.0), Member("other", 1.0)], [policy(per_hour="24")])
    for _ in range(30):
        world.cycle()
        chat, other = said(world), said(world, "other")
        taken = world.policy().per_hour / 3 + sum(max(0, item.allowed - item.observed) for item in (chat, other))
        assert number(world) == chat.allowed + 8 - taken
        assert number(world, "other") == other.allowed + 8 - taken
    assert said(world).allowed >= 3


def test_a_replica_that_gives_way_is_not_payable_any_more():
    world = World([Member("chat", 60.0)], [policy(per_hour="24")])
    world.run(600)
    before = said(world).allowed
    world.policies = [policy(per_hour="6")]
    world.cycle()
    assert before > 2
    assert (said(world).observed, said(world).allowed, said(world).payable) == (before, 2, 2)


def _seen(what):
    def seen(state):
        mine = state.policies[0]
        if what == "unreadable":
            bad = Unreadable("CostPolicy", "other", "u", 1, "CostPolicy other: spec.ceilings: {} is not allowed")
            return msgspec.structs.replace(state, unreadable=(bad,))
        if what == "unwatched":
            sick = Source("costpolicies", healthy=False, message="HTTP 403")
            return msgspec.structs.replace(state, sources=(*state.sources, sick), policies=())
        if what == "zone":
            fault = (Code.INVALID_TIME_ZONE.value, "there is no time zone Mars/Olympus")
            return msgspec.structs.replace(state, policies=(msgspec.structs.replace(mine, faults=(fault,)),))
        euro = msgspec.structs.replace(mine, spec=policy(per_hour="1000", currency="EUR"))
        return msgspec.structs.replace(state, policies=(euro,))

    return seen


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("unreadable", "spec.ceilings: {} is not allowed: nothing is raised until it is known which ceilings hold"),
        ("unwatched", "CostPolicies cannot be watched (HTTP 403): nothing is raised"),
        ("zone", "CostPolicy cap: there is no time zone Mars/Olympus: nothing under it is raised"),
        (
            "currency",
            "CostPolicy cap: what GPUs cost in EUR is not known (3 of h100 in use): nothing under it is raised",
        ),
    ],
)
def test_where_nobody_knows_what_is_left_what_is_planned_is_all(what, words):
    world = World([Member("chat", 10.0, born=[0] * 3)], [policy(per_hour="1000")])
    world.seen = _seen(what)
    world.cycle()
    assert number(world) == said(world).allowed <= 3
    assert words in said(world).payable_because


@pytest.mark.parametrize(
    ("action", "priority", "grows"),
    [
        (ThresholdAction.HOLD_SCALE_UP, 100, False),
        (ThresholdAction.FREEZE, 100, False),
        (ThresholdAction.LIMIT_LOW_PRIORITY, 99, False),
        (ThresholdAction.LIMIT_LOW_PRIORITY, 100, True),
        (ThresholdAction.NOTIFY, 1, True),
    ],
)
def test_a_threshold_that_stops_raises_stops_those_by_hand_too(action, priority, grows):
    reached = Threshold(CeilingKind.DAY, 50, ThresholdBasis.SPENT, (action,))
    world = World(
        [Member("chat", 10.0, priority=priority)], [policy(per_day="1000", thresholds=(reached,))], spent="600"
    )
    world.cycle()
    assert (number(world) > said(world).allowed) == grows
    if not grows:
        assert said(world).payable_because.startswith("CostPolicy cap: 600.00 of 1000.00 USD a day are spent, 50 % and")
        assert action.value in said(world).payable_because


def test_a_paced_rate_is_held_as_a_ceiling_is():
    """24.00 USD for two hours last as 12.00 an hour: what would be let go again need not be declared."""
    cap = policy(per_day="24", pacing=Pacing.SMOOTH, outage_reserve_s=60.0)
    world = World([Member("chat", 120.0)], [cap], day_s=7200)
    world.run(1200)
    assert said(world).limited_by == Code.CEILING_PACED.value
    assert number(world) == said(world).allowed
    assert "USD an hour left, to which its day is paced; one replica more takes 3.00" in said(world).payable_because


def test_a_variant_without_a_price_may_not_grow_while_others_may():
    world = World([Member("chat", 10.0), Member("other", 10.0, pool="a100")], [policy(per_hour="300")])

    def seen(state):
        pools = tuple(
            msgspec.structs.replace(item, currency="EUR") if item.spec.name == "a100" else item for item in state.pools
        )
        return msgspec.structs.replace(state, pools=pools)

    world.members[1].born, world.members[1].least = [], 0
    world.seen = seen
    world.cycle()
    assert (number(world), number(world, "other")) == (100, 0)
    assert said(world, "other").payable_because == "CostPolicy cap: what GPUs of a100 cost in USD is not known"


def test_one_that_has_no_replica_yet_may_get_what_is_left():
    world = World([Member("chat", 10.0), Member("idle", 0.0, least=0, gpus=2)], [policy(per_hour="12")])
    world.members[1].born = []
    world.cycle()
    assert (said(world, "idle").observed, number(world, "idle")) == (0, 1)


def _changed(state, **changes):
    (only,) = state.services
    changed = msgspec.structs.replace(only, spec=msgspec.structs.replace(only.spec, **changes))
    return msgspec.structs.replace(state, services=(changed,))


def _with_variant(state, **changes):
    (only,) = state.services[0].spec.variants
    return _changed(state, variants=(msgspec.structs.replace(only, **changes),))


def test_one_that_only_recommends_is_paid_to_the_end_and_counted_from_what_is_declared():
    """24.00 USD for the day of two hours. Ten minutes on 1.00 is spent, two that run take 11.00 and each more 5.50."""
    world = World([Member("chat", 150.0, born=[0] * 2)], [policy(per_day="24")], day_s=7200)
    world.seen = lambda state: _changed(state, mode=Mode.RECOMMEND)
    world.run(600)
    assert said(world).allowed > 4, "what is recommended is not what is paid for"
    assert number(world) == 4


def test_one_that_may_only_grow_is_paid_to_the_end():
    world = World([Member("chat", 10.0, born=[0] * 2)], [policy(per_day="24")], day_s=7200)
    pause = Pause(PauseDirection.DOWN)

    def seen(state):
        (only,) = state.services
        return _changed(state, scaling=msgspec.structs.replace(only.spec.scaling, pause=pause))

    world.seen = seen
    world.cycle()
    assert number(world) == 4


@pytest.mark.parametrize(("idle", "ceiling", "most"), [(0, "47", 8), (0, "74", 24), (3, "35", 11), (3, "60", 19)])
def test_of_nodes_that_are_paid_for_idle_gpus_take_nothing_and_then_come_whole_nodes(idle, ceiling, most):
    """Nodes of eight GPUs at 3.00: eight run for 24.00 an hour, and three that are idle take 9.00 more."""
    everything = policy(per_hour=ceiling, scope=PolicyScope.ALL_GPU_PODS, floor=Floor.ALLOW_ZERO)
    world = World([Member("chat", 120.0, born=[0] * 8)], [everything])

    def seen(state):
        (only,) = state.pools
        spec = msgspec.structs.replace(only.spec, provisioning=Provisioning.AUTOSCALED)
        used = tuple(msgspec.structs.replace(each, allocated_gpus=5) for each in only.nodes[:2])
        grown = msgspec.structs.replace(only, spec=spec, nodes=used)
        paid = msgspec.structs.replace(state.policies[0], others=(Others("h100", 0, 0, idle),))
        return msgspec.structs.replace(state, pools=(grown,), policies=(paid,))

    world.seen = seen
    world.cycle()
    assert said(world).allowed == said(world).observed == 8
    assert number(world) == most


def test_raises_onto_idle_gpus_leave_the_others_of_them():
    """Eight idle GPUs that are paid for, and no money beside: whoever is raised onto three of them leaves five."""
    everything = policy(per_hour="30", scope=PolicyScope.ALL_GPU_PODS, floor=Floor.ALLOW_ZERO)
    world = World([Member("chat", 60.0, born=[0] * 2)], [everything])

    def seen(state):
        (only,) = state.pools
        spec = msgspec.structs.replace(only.spec, provisioning=Provisioning.AUTOSCALED)
        used = tuple(msgspec.structs.replace(each, allocated_gpus=5) for each in only.nodes[:2])
        grown = msgspec.structs.replace(only, spec=spec, nodes=used)
        idle = 10 - len(world.members[0].born) - len(world.members[0].leaving)
        paid = msgspec.structs.replace(state.policies[0], others=(Others("h100", 0, 0, idle),))
        return msgspec.structs.replace(state, pools=(grown,), policies=(paid,))

    world.seen = seen
    raised = 0
    for _ in range(30):
        terminating = len(world.members[0].leaving)
        world.cycle()
        raised = max(raised, said(world).allowed - said(world).observed)
        leaving = max(0, said(world).observed - said(world).allowed)
        assert number(world) == 10 - terminating - leaving
    assert raised >= 1


@pytest.mark.parametrize(("most", "payable"), [(100, 7), (None, 2)], ids=["it can be counted", "it cannot"])
def test_a_service_that_cannot_be_planned_may_be_raised_by_hand_where_it_can_be_counted_and_others_are(most, payable):
    world = World([Member("chat", 10.0), Member("broken", 10.0, born=[0] * 2)], [policy(per_hour="24")])

    def seen(state):
        services = {item.spec.key: item for item in state.services}
        bad = services["ml/broken"]
        objectives = msgspec.structs.replace(bad.spec.objectives, itl_s=None)  # what no parser lets through
        variants = (msgspec.structs.replace(bad.spec.variants[0], max_replicas=most),)
        spec = msgspec.structs.replace(bad.spec, objectives=objectives, variants=variants)
        return msgspec.structs.replace(state, services=(services["ml/chat"], msgspec.structs.replace(bad, spec=spec)))

    world.memory = plan(seen(world.snapshot()), world.memory, float(world.now_s))[1]
    decided, _ = plan(seen(world.snapshot()), world.memory, float(world.now_s))
    broken, chat = decided.services
    assert [item.service for item in decided.failures] == ["ml/broken"]
    assert (broken.variants[0].allowed, broken.variants[0].payable) == (2, payable)
    assert chat.variants[0].payable == 6
    assert ("an error of Ebbtide's own" in broken.variants[0].payable_because) == (most is None)


def test_what_holds_no_gpu_costs_nothing_and_nothing_is_said_of_it():
    world = World([Member("chat", 10.0, gpus=0)], [policy(per_hour="3")])
    world.cycle()
    assert said(world).payable is None


def test_how_many_gpus_a_replica_takes_must_be_known():
    world = World([Member("chat", 0.0, least=0)], [policy(per_hour="300")])
    world.members[0].born = []

    def seen(state):
        (only,) = state.services
        (single,) = only.variants
        blind = msgspec.structs.replace(single, target=msgspec.structs.replace(single.target, gpus_per_replica=None))
        return msgspec.structs.replace(state, services=(msgspec.structs.replace(only, variants=(blind,)),))

    world.seen = seen
    world.cycle()
    assert (number(world), said(world).payable_because) == (0, "how many GPUs a replica holds is not known")


@settings(max_examples=40, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    ceilings=st.fixed_dictionaries({}, optional={"per_hour": st.integers(6, 60), "per_day": st.integers(4, 60)}).filter(
        bool
    ),
    spent=st.integers(0, 3),
    running=st.integers(1, 6),
    gpus=st.sampled_from((1, 2)),
    load=st.sampled_from((0.7, 1.0, 2.0, 3.0)),
)
def test_it_is_what_ebbtide_itself_would_raise_to_at_most(ceilings, spent, running, gpus, load):
    """The same moment with demand for everything: where a ceiling binds, what is planned is what was payable."""
    member = Member("chat", 10.0 * running, least=0, born=[0] * running, gpus=gpus)
    world = World([member], [policy(floor=Floor.ALLOW_ZERO, **ceilings)], spent=str(spent))
    world.run(120)
    world.members[0].load *= load
    state, memory = world.snapshot(), world.memory
    now, _ = plan(state, memory, float(world.now_s))
    (calm,) = now.services[0].variants
    world.members[0].load = 4000.0
    later, _ = plan(world.snapshot(), memory, float(world.now_s))
    (pressed,) = later.services[0].variants
    assert calm.payable is not None
    assert calm.payable >= calm.allowed
    if calm.allowed >= calm.observed:  # else what is on its way out is still paid
        assert pressed.allowed <= calm.payable
        if pressed.limited_by == Code.CEILING_REACHED.value and later.services[0].reason.text.count("given up") == 0:
            assert pressed.allowed == calm.payable
    assert pressed.payable is not None
    assert pressed.payable >= pressed.allowed
    if pressed.limited_by == Code.CEILING_REACHED.value:
        assert pressed.payable == pressed.allowed


@pytest.mark.parametrize("at_s", [0, 300, 900])
def test_what_is_raised_by_hand_while_the_operator_is_away_crosses_no_ceiling(at_s):
    """To what was payable when it was last seen, at any moment of the reserve; then it comes back and cleans up."""
    world = World(
        [Member("chat", 30.0, least=0, born=[0] * 2)], [policy(per_day="20", floor=Floor.ALLOW_ZERO)], day_s=9000
    )
    world.run(3600)
    for second in range(0, 900, CYCLE_S):
        if second == min(at_s, 890):
            (member,) = world.members
            before, most = len(member.born), number(world)
            member.born += [world.now_s] * (most - before)
        world.cycle(acts=False)
    assert most > before
    world.members[0].load = 300.0
    while world.now_s < NOW + 8990:
        world.cycle()
    assert world.spent["cap"] / 3600 <= 20
