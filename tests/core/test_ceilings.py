"""Ceilings hold, are used, and the first to give way is what matters least."""

import gc
from decimal import Decimal
from itertools import pairwise

import msgspec
import pytest

from ebbtide.core.ceilings import step
from ebbtide.core.ceilings.lines import Line, PolicyDraft
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import Others, Source, Unreadable
from ebbtide.model.spec import (
    CeilingKind,
    Floor,
    Mode,
    Pause,
    PauseDirection,
    PolicyScope,
    Provisioning,
    TemporaryRaise,
)
from tests.builders import NOW, node
from tests.core.purse import Member, World, policy


def test_without_policies_nothing_changes():
    world = World([Member("chat", 60.0)], [])
    assert world.run(600).policies == ()
    assert world.replicas()["chat"] >= 3


def test_a_rate_is_never_exceeded_and_the_text_says_why():
    world = World([Member("chat", 150.0)], [policy(per_hour="12")])
    for _ in range(120):
        world.cycle()
        assert len(world.members[0].born) + len(world.members[0].leaving) <= 4
    assert world.replicas() == {"chat": 4}
    code, text = world.reason("chat")
    assert code == "CeilingReached"
    assert text == (
        "stays at 4: CostPolicy cap: 12.00 of 12.00 USD an hour are in use; a replica takes 3.00 of what is left, 0.00"
    )
    found = world.policy()
    assert (found.per_hour, found.uncontrollable_per_hour, found.services) == (Decimal(12), Decimal(3), 1)
    assert found.gave_way[0][0] == "ml/chat"
    assert found.conditions[0].reason == "WithinCeilings"


def test_the_lower_priority_gives_way_to_the_higher_and_comes_back():
    low, high = Member("low", 60.0, priority=10), Member("high", 15.0, priority=200)
    world = World([low, high], [policy(per_hour="24")])
    world.run(900)
    before = world.replicas()
    assert sum(before.values()) <= 8
    high.load = 150.0
    world.run(900)
    during = world.replicas()
    assert during["high"] >= 6
    assert during["low"] == 8 - during["high"]
    assert world.reason("low")[0] == "CeilingReached"
    high.load = 15.0
    world.run(1800)
    assert world.replicas()["low"] >= before["low"] - 1


def test_equals_shrink_alike():
    world = World([Member("a", 90.0), Member("b", 90.0)], [policy(per_hour="24")])
    world.run(1200)
    assert world.replicas() == {"a": 4, "b": 4}


def test_a_day_is_spent_to_the_end_and_not_beyond():
    """Demand for 8 replicas of 3.00 USD/h all day, money for half of it: 97 % and more are used, nothing above."""
    world = World([Member("chat", 120.0, least=0)], [policy(per_day="24", floor=Floor.ALLOW_ZERO)], day_s=7200)
    world.run(7190)
    assert Decimal("0.97") <= world.most["cap"] / 3600 / 24 <= 1
    assert world.reason("chat")[0] == "CeilingReached"


def test_minimums_are_paid_first():
    """5 USD of an hour are the minimum's of 3.00: others get what is left of the rest."""
    low = Member("low", 1.0, priority=1, least=1)
    world = World([low, Member("high", 150.0, priority=200)], [policy(per_day="12")], day_s=3600)
    world.run(3590)
    assert world.replicas()["low"] == 1
    assert world.most["cap"] / 3600 <= 12


def test_minimums_that_cost_too_much_run_and_it_is_said_by_how_much_and_from_when():
    world = World([Member("chat", 15.0, least=4)], [policy(per_day="9")], day_s=3600)
    world.run(10)
    assert world.replicas() == {"chat": 4}
    said = world.policy().conditions[0]
    assert said.reason == "CeilingExceeded"
    assert said.message.startswith("what may not be reduced costs 12.00 USD an hour: with 0.00 spent that is 3.00 more")
    assert said.message.endswith("it is crossed from 1970-01-12T14:31:40Z")  # 45 minutes on


def test_minimums_go_where_the_policy_says_so():
    world = World([Member("chat", 15.0, least=4)], [policy(per_day="9", floor=Floor.ALLOW_ZERO)], day_s=3600)
    world.run(3590)
    assert world.replicas()["chat"] < 4
    assert Decimal("0.97") <= world.most["cap"] / 3600 / 9 <= 1


def test_never_to_zero_while_nobody_knows_what_comes():
    world = World([Member("chat", 15.0, least=1)], [policy(per_day="1", floor=Floor.ALLOW_ZERO)], spent="1")
    gone = Source("prometheus", healthy=False, message="timeout")
    world.seen = lambda state: msgspec.structs.replace(state, sources=(gone,))
    world.run(300)
    assert world.replicas() == {"chat": 1}


def test_all_policies_hold_and_the_one_that_binds_is_named():
    members = [Member("a", 150.0, labels=(("tier", "gold"),)), Member("b", 300.0, namespace="other")]
    policies = [
        policy("all", per_hour="30"),
        policy("gold", per_hour="6", match_labels=(("tier", "gold"),)),
        policy("elsewhere", per_hour="3", namespaces=("nowhere",)),
    ]
    world = World(members, policies)
    world.run(900)
    assert world.replicas() == {"a": 2, "b": 8}
    assert "CostPolicy gold" in world.reason("a")[1]
    assert "CostPolicy all" in world.reason("b")[1]
    assert world.policy("elsewhere").reason.code is Code.SELECTS_NOTHING


def _recommend(state, key):
    watched = next(item for item in state.services if item.spec.key == key)
    watched = msgspec.structs.replace(watched, spec=msgspec.structs.replace(watched.spec, mode=Mode.RECOMMEND))
    services = tuple(watched if item.spec.key == key else item for item in state.services)
    return msgspec.structs.replace(state, services=services)


def test_what_may_not_be_written_is_paid_first_and_keeps_its_replicas():
    world = World([Member("watched", 15.0, born=[0] * 4), Member("chat", 150.0)], [policy(per_hour="18")])
    world.seen = lambda state: _recommend(state, "ml/watched")
    world.run(600)
    assert world.replicas() == {"watched": 4, "chat": 2}
    assert world.policy().uncontrollable_per_hour == Decimal(15)


def test_others_pods_count_and_are_paid_first():
    world = World([Member("chat", 150.0)], [policy(per_hour="18", scope=PolicyScope.ALL_GPU_PODS)])
    others = (Others("h100", 3, 1),)
    world.seen = lambda state: msgspec.structs.replace(
        state, policies=(msgspec.structs.replace(state.policies[0], others=others),)
    )
    world.run(600)
    assert world.replicas() == {"chat": 2}
    assert world.policy().per_hour == 6 * 3


def _with_idle(state, world):
    """What its one service does not hold of the 40 GPUs is paid for too."""
    (member,) = world.members
    others = (Others("h100", 0, 0, 40 - len(member.born) - len(member.leaving)),)
    return msgspec.structs.replace(state, policies=(msgspec.structs.replace(state.policies[0], others=others),))


def test_a_gpu_that_is_paid_for_anyway_costs_no_more_when_it_is_used():
    """A static pool of 40 GPUs whose whole rate is 120 USD an hour, under a ceiling of 121."""
    world = World([Member("chat", 150.0)], [policy(per_hour="121", scope=PolicyScope.ALL_GPU_PODS)])

    world.seen = lambda state: _with_idle(state, world)
    world.run(600)
    assert world.replicas()["chat"] >= 7
    assert world.policy().per_hour == 120
    assert world.policy().gave_way == ()


def _paused(state, pause):
    (only,) = state.services
    scaling = msgspec.structs.replace(only.spec.scaling, pause=pause)
    paused = msgspec.structs.replace(only, spec=msgspec.structs.replace(only.spec, scaling=scaling))
    return msgspec.structs.replace(state, services=(paused,))


def test_a_pause_that_lets_grow_lets_grow_no_further_than_the_money():
    world = World([Member("chat", 150.0)], [policy(per_hour="12")])
    world.seen = lambda state: _paused(state, Pause(PauseDirection.DOWN))
    world.run(900)
    assert world.replicas() == {"chat": 4}


def _with_target(state, key, **changes):
    services = []
    for item in state.services:
        (only,) = item.variants
        if item.spec.key == key:
            only = msgspec.structs.replace(only, target=msgspec.structs.replace(only.target, **changes))
        services.append(msgspec.structs.replace(item, variants=(only,)))
    return msgspec.structs.replace(state, services=tuple(services))


@pytest.mark.parametrize(
    ("story", "changes"),
    [
        ("a rollout that surges by three", {"rolling_out": True, "surge_replicas": 3}),
        ("another autoscaler for a minute", {"rivals": ("HorizontalPodAutoscaler a",)}),
    ],
)
def test_what_passes_takes_money_for_the_reserve_and_not_to_the_end_of_the_month(story, changes):
    """Six of 3.00 USD an hour for the rest of a day would be 400 USD; for a quarter of an hour they are 5."""
    members = [Member("a", 60.0, born=[0] * 6), Member("b", 40.0, born=[0] * 3)]
    world = World(members, [policy(per_day="300")])
    world.run(60)
    before = world.replicas()["b"]
    world.seen = lambda state: _with_target(state, "ml/a", **changes)
    world.run(60)
    assert world.replicas()["b"] == before, story
    assert world.policy().gave_way == ()


def test_a_large_replica_that_never_fits_keeps_no_small_ones_from_running():
    """A replica of 8 GPUs is 24.00 USD an hour: of 40.00 one fits, and five small ones beside it."""
    world = World([Member("large", 60.0, priority=200, gpus=8), Member("small", 300.0)], [policy(per_hour="40")])
    world.run(900)
    assert world.replicas() == {"large": 1, "small": 5}
    assert world.policy().per_hour == 39


def test_a_variant_of_which_nobody_knows_the_price_in_this_currency_is_not_raised():
    world = World([Member("chat", 150.0), Member("other", 150.0, pool="a100")], [policy(per_hour="300")])

    def seen(state):
        pools = tuple(
            msgspec.structs.replace(item, currency="EUR") if item.spec.name == "a100" else item for item in state.pools
        )
        return msgspec.structs.replace(state, pools=pools)

    world.members[1].born, world.members[1].least = [], 0
    world.seen = seen
    world.run(300)
    assert world.replicas()["other"] == 0
    assert world.replicas()["chat"] > 4, "what has a price goes on"


def test_the_longest_exit_is_that_of_what_the_policy_pays_for():
    members = [Member("chat", 40.0, namespace="a", born=[0] * 3), Member("slow", 1.0, namespace="b")]
    world = World(members, [policy(per_day="100", namespaces=("a",))])
    world.seen = lambda state: _with_target(state, "b/slow", termination_grace_s=43_200.0)
    world.run(60)
    (line,) = world.policy().ceilings
    assert line.committed < 3 * 24 + 3, "the minimum to the day's end, and two for a quarter of an hour"


def test_who_gives_way_is_said_by_the_policy_that_binds_alone():
    policies = [policy("tight", per_hour="6"), policy("wide", per_hour="300")]
    world = World([Member("chat", 150.0)], policies)
    world.run(300)
    assert world.policy("tight").gave_way[0][0] == "ml/chat"
    assert (world.policy("wide").gave_way, world.policy("wide").given_up) == ((), 0)


def test_a_price_that_is_next_to_nothing_now_is_no_date_in_the_year_300000():
    world = World([Member("chat", 15.0, least=4)], [policy(per_day="9")], prices=((0, "0.000001"), (600, "30.00")))
    world.run(30)
    assert world.policy().conditions[0].reason == "CeilingExceeded"
    assert world.plan.services[0].variants[0].allowed == 4


def test_a_clock_that_is_set_back_drops_no_ceiling():
    world = World([Member("chat", 150.0)], [policy(per_day="3")], spent="2.9")

    def seen(state):
        ahead = msgspec.structs.replace(state.policies[0], through_s=state.taken_at + 3000.0)
        return msgspec.structs.replace(state, policies=(ahead,))

    world.seen = seen
    world.run(300)
    assert world.replicas() == {"chat": 1}


def test_a_service_of_which_nobody_knows_what_it_holds_stops_raises_under_policies_of_its_namespace():
    world = World([Member("chat", 150.0)], [policy(per_hour="300", namespaces=("ml",))])
    world.seen = lambda state: msgspec.structs.replace(
        state, policies=(msgspec.structs.replace(state.policies[0], unread="ml/lost"),)
    )
    world.run(300)
    assert world.replicas() == {"chat": 1}
    assert "what InferenceService ml/lost holds is not known" in world.reason("chat")[1]


def test_where_nodes_are_paid_for_whoever_leaves_nobody_is_let_go():
    """A static pool of 40 GPUs, 120 USD an hour, under a ceiling of 119: less would run, and nothing be saved."""
    world = World([Member("chat", 60.0, born=[0] * 4)], [policy(per_hour="119", scope=PolicyScope.ALL_GPU_PODS)])

    world.seen = lambda state: _with_idle(state, world)
    world.run(300)
    assert world.replicas()["chat"] >= 3
    assert world.policy().gave_way == ()


@pytest.mark.parametrize(("ceiling", "nodes"), [("23", 0), ("30", 1), ("50", 2)])
def test_a_node_that_comes_for_a_replica_is_paid_for_as_a_whole(ceiling, nodes):
    """Nodes of eight GPUs at 3.00 USD an hour, one GPU a replica: 30 an hour are one node, whatever is wanted on it."""
    everything = policy(per_hour=ceiling, scope=PolicyScope.ALL_GPU_PODS, floor=Floor.ALLOW_ZERO)
    world = World([Member("chat", 400.0, least=0)], [everything])

    def seen(state):
        (member,) = world.members
        held = len(member.born) + len(member.leaving)
        there = -(-held // 8)
        (only,) = state.pools
        spec = msgspec.structs.replace(only.spec, provisioning=Provisioning.AUTOSCALED)
        nodes = tuple(node(f"n{number}", allocated=min(8, held - 8 * number)) for number in range(there))
        grown = msgspec.structs.replace(only, spec=spec, nodes=nodes)
        others = (Others("h100", 0, 0, 8 * there - held),) if there else ()
        paid = msgspec.structs.replace(state.policies[0], others=others)
        return msgspec.structs.replace(state, pools=(grown,), policies=(paid,))

    world.seen = seen
    for _ in range(90):
        world.cycle()
        assert -(-len(world.members[0].born) // 8) <= nodes
    assert len(world.members[0].born) == 8 * nodes


def test_a_pause_that_lets_grow_is_paid_to_the_end_of_the_day():
    """What it raises nobody may let go: 20 USD are two hours of three, and one of them runs already."""
    world = World([Member("chat", 150.0)], [policy(per_day="20")], day_s=7200)
    world.seen = lambda state: _paused(state, Pause(PauseDirection.DOWN))
    world.run(7190)
    assert world.most["cap"] <= 20 * 3600
    assert world.replicas()["chat"] >= 3


def test_a_rival_that_stays_leaves_minimums_paid_for():
    """36 USD for an hour; a's minimum of five takes 15, whoever writes to it, and b gets what is left of the rest."""
    members = [Member("a", 60.0, least=5), Member("b", 150.0, priority=1)]
    world = World(members, [policy(per_day="36")], day_s=3600)
    world.seen = lambda state: _with_target(state, "ml/a", rivals=("HorizontalPodAutoscaler a",))
    world.run(3590)
    assert world.most["cap"] <= 36 * 3600


def test_lower_ones_are_not_let_go_twice_over_for_raises_that_are_made_together():
    low, high = Member("low", 150.0, priority=1), Member("high", 1.0, priority=200)
    world = World([low, high], [policy(per_day="300", floor=Floor.ALLOW_ZERO)], day_s=86_400, spent="286")
    world.run(60)
    before, seen = world.replicas()["low"], []
    high.load = 60.0
    for _ in range(30):
        world.cycle()
        seen.append(world.replicas()["low"])
    assert before >= 4
    assert all(later <= earlier + 1 for earlier, later in pairwise(seen)), seen


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("unreadable", "spec.ceilings: {} is not allowed"),
        ("unwatched", "CostPolicies cannot be watched (HTTP 403)"),
        ("zone", "there is no time zone Mars/Olympus"),
        ("currency", "what GPUs cost in EUR is not known (1 of h100 in use)"),
    ],
)
def test_where_nobody_knows_what_is_left_nothing_is_raised_and_nothing_is_lowered(what, said):
    def seen(state):
        mine = state.policies[0]
        if what == "unreadable":
            bad = Unreadable("CostPolicy", "other", "u", 1, "CostPolicy other: spec.ceilings: {} is not allowed")
            return msgspec.structs.replace(state, unreadable=(bad,))
        if what == "unwatched":
            sick = Source("costpolicies", healthy=False, message="HTTP 403")
            return msgspec.structs.replace(state, sources=(*state.sources, sick))
        if what == "zone":
            fault = (Code.INVALID_TIME_ZONE.value, "there is no time zone Mars/Olympus")
            return msgspec.structs.replace(state, policies=(msgspec.structs.replace(mine, faults=(fault,)),))
        euro = msgspec.structs.replace(mine, spec=policy(per_hour="1000", currency="EUR"))
        return msgspec.structs.replace(state, policies=(euro,))

    world = World([Member("chat", 150.0)], [policy(per_hour="1000")])
    world.seen = seen
    world.run(300)
    assert world.replicas() == {"chat": 1}
    assert said in world.reason("chat")[1]


def test_a_dearer_hour_is_seen_before_it_comes():
    """Four at 3.00 fit under 12 an hour; a price of 6.00 comes in ten minutes, within the reserve: two go before it."""
    world = World([Member("chat", 150.0)], [policy(per_hour="12")], prices=((0, "3.00"), (1800, "6.00")))
    world.run(600)
    assert world.replicas() == {"chat": 4}
    world.run(1190)
    assert world.replicas() == {"chat": 2}


def test_a_raise_for_a_while_ends_by_itself_and_what_it_spent_stays_spent():
    more = TemporaryRaise(((CeilingKind.HOUR, Decimal(12)),), NOW + 3600.0, "ada", "launch")
    world = World([Member("chat", 150.0)], [policy(per_hour="12", temporary_raise=more)])
    world.run(1800)
    assert world.replicas()["chat"] > 4
    assert world.policy().reason.text.endswith("; raised by ada until 1970-01-12T14:46:40Z: launch")
    while world.now_s < NOW + 3600:
        world.cycle()
    assert world.replicas() == {"chat": 4}, "no more than afterwards may run, when it ends"
    assert "raised by" not in world.policy().reason.text


def test_what_was_not_counted_yet_is_taken_at_the_last_rate():
    world = World([Member("chat", 150.0, least=0)], [policy(per_day="10", floor=Floor.ALLOW_ZERO)])

    def seen(state):
        late = msgspec.structs.replace(state.policies[0], through_s=world.now_s - 3600.0, per_hour=Decimal("9.5"))
        began = msgspec.structs.replace(late.accounts[0], start_s=world.now_s - 7200.0)
        late = msgspec.structs.replace(late, accounts=(began, *late.accounts[1:]))
        return msgspec.structs.replace(state, policies=(late,))

    world.seen = seen
    world.run(300)
    assert world.policy().ceilings[0].spent == Decimal("9.5")
    assert world.replicas() == {"chat": 0}


def test_a_pool_in_another_currency_is_held_under_the_ceiling_by_the_stated_rate():
    """3.00 USD are 2.40 EUR: a rate of 12 EUR pays for five replicas. Without a rate nothing is raised."""
    for rates, expected in ((((("USD", Decimal("0.8"))),), 5), ((), 1)):
        world = World([Member("chat", 150.0)], [policy(per_hour="12", currency="EUR", exchange_rates=rates)])
        world.run(600)
        assert world.replicas() == {"chat": expected}
    assert world.policy().conditions[0].reason == Code.CURRENCY_DIFFERS.value


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_a_plan_waits_for_the_collector(fails, monkeypatch):
    """At 1,000 policies what waits is 25 MB a cycle, and the collector is spared."""
    if fails:
        monkeypatch.setattr(step, "policy_plans", lambda _: 1 / 0)
    gc.collect()
    gc.disable()
    try:
        world = World([Member("chat", 40.0)], [policy(per_hour="12", per_day="200")])
        world.cycle()
        left = [item for item in gc.get_objects() if isinstance(item, PolicyDraft | Line)]
    finally:
        gc.enable()
    assert bool(world.plan.policies) is not fails
    assert left == []
