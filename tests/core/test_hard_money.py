"""Prices that are unknown, nothing or in another currency, pods that stay and come: what ceilings make of it."""

from decimal import Decimal

import msgspec
import pytest

from ebbtide.clock import parse_rfc3339
from ebbtide.core.plan import plan
from ebbtide.model.memory import Memory
from ebbtide.model.plan import ConditionStatus
from ebbtide.model.snapshot import PodPhase, PolicyState
from ebbtide.model.spec import Floor, Price, Tariff
from ebbtide.record.events import cycle_events
from tests.builders import NOW, engine, pod, pool, service, snapshot, spec, variant
from tests.core.purse import EXIT_S, Member, World, policy


def conditions(world: World, name: str = "cap") -> dict[str, tuple[ConditionStatus, str]]:
    return {item.type: (item.status, item.reason) for item in world.policy(name).conditions}


def _pools(state, change):
    return msgspec.structs.replace(state, pools=tuple(change(item) for item in state.pools if change(item)))


def _unpriced(item):
    spec = msgspec.structs.replace(item.spec, price=None)
    return msgspec.structs.replace(item, spec=spec, price_per_gpu_hour=None, currency="", steps=())


@pytest.mark.parametrize(
    ("story", "change"), [("no price", _unpriced), ("the pool is deleted while pods run", lambda item: None)]
)
def test_what_nobody_knows_the_price_of_runs_on_is_not_raised_and_is_said(story, change):
    """Nothing is lowered for it either: what runs was paid for when it was raised, as far as anybody knows."""
    world = World([Member("chat", 150.0, born=[0] * 3)], [policy(per_hour="300")])
    world.seen = lambda state: _pools(state, change)
    for _ in range(30):
        world.cycle()
        assert world.replicas() == {"chat": 3}, story
    assert conditions(world)["PricesKnown"] == (ConditionStatus.FALSE, "PriceUnknown")
    assert world.policy().unpriced_gpus == 3
    assert world.policy().reason.text == (
        "what GPUs in use cost in USD is not known (3 of h100): it is not counted, and nothing is raised"
    )


def test_where_the_price_comes_back_it_goes_on():
    world = World([Member("chat", 150.0, born=[0] * 3)], [policy(per_hour="300")])
    world.seen = lambda state: _pools(state, lambda item: None)
    world.run(300)
    world.seen = lambda state: state
    world.run(300)
    assert world.replicas()["chat"] > 3
    assert conditions(world)["PricesKnown"][0] is ConditionStatus.TRUE


def test_gpus_that_are_said_to_be_free_are_raised_under_any_ceiling_and_cost_nothing():
    world = World([Member("chat", 150.0)], [policy(per_hour="0.01", per_day="0.01")], prices=((0, "0"),))

    def free(item):
        spec = msgspec.structs.replace(item.spec, price=Price("USD", Tariff(Decimal(0))))
        return msgspec.structs.replace(item, spec=spec)

    world.seen = lambda state: _pools(state, free)
    world.run(900)
    assert world.replicas()["chat"] >= 7
    assert (world.policy().per_hour, world.policy().unpriced_gpus) == (0, 0)
    assert {status for status, _ in conditions(world).values()} == {ConditionStatus.TRUE}


def test_two_policies_with_different_currencies_over_the_same_service():
    """The one in whose currency nobody knows the price says so and lets nothing be raised; the other's rate goes on."""
    policies = [policy("dollars", per_hour="300"), policy("euros", per_hour="300", currency="EUR")]
    world = World([Member("chat", 150.0)], policies)
    world.run(300)
    assert world.replicas() == {"chat": 1}
    assert conditions(world, "euros")["PricesKnown"] == (ConditionStatus.FALSE, "CurrencyDiffers")
    assert conditions(world, "dollars")["PricesKnown"][0] is ConditionStatus.TRUE
    assert world.policy("dollars").per_hour == 3
    assert "CostPolicy euros: what GPUs" in world.reason("chat")[1]


def test_two_policies_with_different_currencies_each_over_its_own_pool():
    members = [Member("here", 150.0, namespace="a"), Member("there", 150.0, namespace="b", pool="a100")]
    policies = [
        policy("dollars", per_hour="12", namespaces=("a",)),
        policy("euros", per_hour="6", currency="EUR", namespaces=("b",)),
    ]
    world = World(members, policies)

    def euros(item):
        if item.spec.name != "a100":
            return item
        spec = msgspec.structs.replace(item.spec, price=Price("EUR", Tariff(Decimal("3.00"))))
        return msgspec.structs.replace(item, spec=spec, currency="EUR")

    world.seen = lambda state: _pools(state, euros)
    world.run(900)
    assert world.replicas() == {"here": 4, "there": 2}
    assert (world.policy("dollars").per_hour, world.policy("euros").per_hour) == (12, 6)


def test_a_policy_that_selects_nothing_says_so_and_holds_nobody_up():
    policies = [policy("nobody", per_hour="0.01", namespaces=("nowhere",)), policy(per_hour="300")]
    world = World([Member("chat", 150.0)], policies)
    world.run(900)
    assert world.replicas()["chat"] >= 7
    assert conditions(world, "nobody")["Selects"] == (ConditionStatus.FALSE, "SelectsNothing")
    assert conditions(world)["Selects"][0] is ConditionStatus.TRUE


def _rolling(state, surge: int):
    """The first service's Deployment rolls out, with `surge` pods beside those that are declared."""
    first, *others = state.services
    (only,) = first.variants
    target = msgspec.structs.replace(only.target, rolling_out=True, surge_replicas=surge)
    extra = tuple(pod(f"new-{n}", phase="Starting") for n in range(surge))
    only = msgspec.structs.replace(only, target=target, pods=(*only.pods, *extra))
    return msgspec.structs.replace(state, services=(msgspec.structs.replace(first, variants=(only,)), *others))


def test_a_rollout_that_surges_at_the_ceiling_is_counted_and_nothing_is_raised_beside_it():
    """4 of 3.00 USD an hour are what 12 allow. A rollout brings 2 more that nobody of ours asked for."""
    world = World(
        [Member("chat", 40.0, priority=200, born=[0] * 4, least=4), Member("low", 90.0, priority=1)],
        [policy(per_hour="15", floor=Floor.KEEP_MIN)],
    )
    world.run(120)
    assert world.replicas() == {"chat": 4, "low": 1}
    world.seen = lambda state: _rolling(state, 2)
    for _ in range(12):
        world.cycle()
        assert world.replicas() == {"chat": 4, "low": 1}, "minimums stay, and nothing is raised"
    assert world.policy().per_hour == 3 * 7
    assert conditions(world)["WithinCeilings"] == (ConditionStatus.FALSE, "CeilingExceeded")
    assert "6.00 more than the 15.00 USD of a rate that are allowed" in world.policy().reason.text
    world.seen = lambda state: state
    world.cycle()
    assert conditions(world)["WithinCeilings"][0] is ConditionStatus.TRUE, "and over when it is over"


def test_a_batch_of_pods_that_is_stuck_terminating_is_paid_and_nothing_takes_its_money():
    """Four that were told to go stay for hours on a node that does not answer: their 12.00 USD an hour are not free."""
    world = World([Member("chat", 150.0)], [policy(per_hour="24")])
    world.members[0].leaving = [int(NOW) + 40_000] * 4
    for _ in range(90):
        world.cycle()
        assert len(world.members[0].born) <= 4
    assert world.replicas() == {"chat": 4}
    assert world.policy().per_hour == 24


def _stuck(state, since_s: float, *, both: bool = False):
    """All of the first service that were told to go should have been gone by `since_s`."""
    first, *others = state.services
    assert both or not others
    (only,) = first.variants
    pods = tuple(
        msgspec.structs.replace(each, due_at=since_s) if each.phase is PodPhase.TERMINATING else each
        for each in only.pods
    )
    only = msgspec.structs.replace(only, pods=pods)
    return msgspec.structs.replace(state, services=(msgspec.structs.replace(first, variants=(only,)), *others))


@pytest.mark.parametrize("stuck", [1, 3, 6])
def test_what_is_stuck_terminating_crosses_no_day_while_the_operator_is_away(stuck):
    """It goes on to cost while nobody is there to shed for it, as what runs does: 600 s of it are kept.

    What is stuck alone may cost more than is left: then nothing else runs when the operator goes away.
    """
    today = policy(per_day="20", floor=Floor.ALLOW_ZERO, outage_reserve_s=600.0)
    world = World([Member("chat", 90.0, least=0)], [today], day_s=7200)
    world.run(1200)
    assert world.replicas()["chat"] >= 4
    world.members[0].leaving = [int(NOW) + 100_000] * stuck
    due_s = world.now_s + EXIT_S
    world.seen = lambda state: _stuck(state, float(due_s))
    while world.now_s < NOW + 7200 - 800:
        world.run(120)
        beside, spent = world.replicas()["chat"], world.spent["cap"]
        for _ in range(60):
            world.cycle(acts=False)
        if beside:
            assert world.spent["cap"] <= 20 * 3600, (spent / 3600, beside)


@pytest.mark.parametrize(
    ("story", "late_s", "reserved_s"),
    [
        ("told to go a moment ago", -EXIT_S, EXIT_S),
        ("its kubelet takes a moment longer than its grace", 20, EXIT_S),
        ("its node answers no more", 31, 86_400 - 60),
    ],
)
def test_what_was_told_to_go_is_paid_for_its_grace_and_past_it_to_the_end_of_the_day(story, late_s, reserved_s):
    """4 x 30 s at 3.00 USD an hour are 0.10 USD; until somebody removes it nobody knows for how long it is paid."""
    world = World([Member("chat", 15.0)], [policy(per_day="500")])
    world.run(60)
    before = world.run(10).policies[0].ceilings[0].committed
    world.members[0].leaving = [world.now_s + 1000] * 4
    due_at = float(world.now_s - late_s)
    world.seen = lambda state: _stuck(state, due_at)
    now_s = world.now_s
    world.cycle()
    bound = world.policy().ceilings[0].committed - before
    expected = Decimal(3 * 4 * min(reserved_s, NOW + 86_400 - now_s)) / 3600
    assert abs(bound - expected) < Decimal("0.02"), (story, bound, expected)


@pytest.mark.parametrize("stuck", [3])
def test_a_batch_that_is_stuck_terminating_lets_nothing_be_raised_that_its_cost_leaves_no_money_for(stuck):
    """20 USD for two hours; each that is stuck after 20 minutes costs 5 of them to the end, and what runs 3 an hour."""
    today = policy(per_day="20", floor=Floor.ALLOW_ZERO, outage_reserve_s=60.0)
    world = World([Member("chat", 90.0, least=0)], [today], day_s=7200)
    world.run(600)
    world.members[0].load = 30.0
    world.run(600)
    world.members[0].leaving = [int(NOW) + 100_000] * stuck
    due_s = world.now_s + EXIT_S
    world.seen = lambda state: _stuck(state, float(due_s))
    world.run(120)
    assert world.policy().reason.text.endswith(
        f"; past their exit and holding GPUs that nobody may take: {stuck} pod{'s' * (stuck > 1)} of ml/chat, "
        f"{3 * stuck}.00 USD an hour until somebody removes them"
    )
    assert world.policy().uncontrollable_per_hour == 3 * stuck
    world.members[0].load = 150.0
    while world.now_s < NOW + 7190:
        world.cycle()
    assert world.most["cap"] <= 20 * 3600, world.most["cap"] / 3600
    assert world.most["cap"] >= Decimal("0.95") * 20 * 3600, "and no money is held back for longer than it must"


def test_what_is_stuck_and_costs_more_than_is_left_is_said_before_the_ceiling_is_crossed_with_whose_pods_they_are():
    """Six at 18.00 USD an hour under 20 a day of two hours: by how much, from when, of whom; the rest gives way."""
    world = World(
        [Member("chat", 30.0, least=0), Member("mail", 15.0, least=0)],
        [policy(per_day="20", floor=Floor.ALLOW_ZERO, outage_reserve_s=60.0)],
        day_s=7200,
    )
    world.run(600)
    world.members[0].leaving = [int(NOW) + 100_000] * 6
    due_s = world.now_s + EXIT_S
    world.seen = lambda state: _stuck(state, float(due_s), both=True)
    world.run(120)
    assert world.replicas() == {"chat": 0, "mail": 0}
    said = [note for note in cycle_events(world.plan, world.snapshot(), []) if note.subject.kind == "CostPolicy"]
    assert world.spent["cap"] < 20 * 3600, "before it is crossed"
    assert {(note.type, note.reason) for note in said} >= {("Warning", "CeilingExceeded"), ("Warning", "PodsStuck")}
    (stuck,) = [note for note in said if note.reason == "PodsStuck"]
    assert stuck.text == (
        "past their exit and holding GPUs that nobody may take: 6 pods of ml/chat, 18.00 USD an hour until somebody "
        "removes them: reserved to the end of every period"
    )
    (over,) = [note for note in said if note.reason == "CeilingExceeded"]
    assert "more than the 20.00 USD of a day by its end; it is crossed from 1970-01-12T" in over.text
    crossed_at = over.text.partition("crossed from ")[2][:20]
    while world.spent["cap"] <= 20 * 3600:
        world.cycle()
    assert abs(parse_rfc3339(crossed_at) - world.now_s) <= 30, "and it is crossed when it was said to be"


@pytest.mark.slow
def test_ten_thousand_policies_each_hold_their_own_namespace():
    """Each allows 1 GPU of 3.00 USD an hour, and each of 1,000 services in as many namespaces has 2."""
    services = [
        service(
            variant("h100", [pod(f"{n}-0", engine(15.0)), pod(f"{n}-1", engine(15.0))]),
            spec(f"ns-{n}/chat"),
        )
        for n in range(1000)
    ]
    policies = [
        PolicyState(policy(f"p{n:05d}", per_hour="3", namespaces=(f"ns-{n}",)), through_s=NOW) for n in range(10_000)
    ]
    state = snapshot(services, pool(nodes=1000), policies=tuple(policies))
    decided, _ = plan(state, Memory(), NOW)
    assert len(decided.policies) == 10_000
    rates = [item.per_hour for item in decided.policies]
    assert rates == [Decimal(6)] * 1000 + [Decimal(0)] * 9000
    assert all(sum(each.allowed for each in item.variants) == 1 for item in decided.services)
    assert {item.reason.code.value for item in decided.services} == {"CeilingReached"}
    assert {item.reason.code.value for item in decided.policies[1000:]} == {"SelectsNothing"}
