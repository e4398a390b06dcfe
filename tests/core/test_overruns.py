"""Who is to blame where a ceiling is crossed: what may not be reduced, an outage, or what the ceiling was set to."""

from decimal import Decimal

import msgspec
import pytest

from ebbtide.clock import parse_rfc3339, rfc3339
from ebbtide.controller.policies import last_held_of
from ebbtide.core.ceilings.overrun import last_held
from ebbtide.model.memory import Memory
from ebbtide.model.plan import ConditionStatus
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import PolicyState
from ebbtide.model.spec import CeilingKind, Floor, OverrunCause, TemporaryRaise
from ebbtide.record.events import cycle_events
from ebbtide.record.view import policy_status
from tests.builders import NOW
from tests.core.purse import CYCLE_S, EXIT_S, Member, World, policy

DOWN, FIXED = OverrunCause.OPERATOR_DOWN, OverrunCause.UNCONTROLLABLE
BELOW, RECOUNTED = OverrunCause.CEILING_BELOW_SPENT, OverrunCause.RECOUNTED
HOUR_S = 3600


class Told(World):
    """A world whose policies know how they stood: as this leader decided last, else as their statuses say."""

    restarted = False

    def snapshot(self):
        state = super().snapshot()
        return msgspec.structs.replace(state, policies=tuple(self._told(item) for item in state.policies))

    def _told(self, item: PolicyState) -> PolicyState:
        found = next((each for each in self.plan.policies if each.uid == item.spec.uid), None)
        if found is None:
            return item
        last = last_held(found)
        if self.restarted:
            last = last_held_of(policy_status(found, 1, {}, self.plan.at))
        return msgspec.structs.replace(item, last=last)

    def away(self, seconds: int) -> None:
        for _ in range(seconds // CYCLE_S):
            self.cycle(acts=False)

    def spend(self, amount: str) -> None:
        """Beside what is seen, as if the ledger knew more."""
        self.spent["cap"] += Decimal(amount) * 3600

    def set(self, **changes: object) -> None:
        self.policies = [msgspec.structs.replace(self.policies[0], **changes)]

    @property
    def causes(self) -> dict[OverrunCause, Decimal]:
        return {item.cause: item.amount.quantize(Decimal("0.01")) for item in self.policy().overruns}

    @property
    def spent_then(self) -> Decimal:
        """As the newest plan saw it."""
        return self.policy().ceilings[0].spent

    @property
    def within(self):
        return next(item for item in self.policy().conditions if item.type == "WithinCeilings")


def greedy(least: int = 0, **changes: object) -> Told:
    """One service that wants seven of 3.00 USD an hour, of which `least` may not be reduced; a reserve of 2 minutes."""
    floor = Floor.KEEP_MIN if least else Floor.ALLOW_ZERO
    fields = {"per_day": "30", "floor": floor, "outage_reserve_s": 120.0}
    return Told([Member("chat", 150.0, least=least)], [policy(**(fields | changes))])


@pytest.mark.parametrize("restarts", [False, True], ids=["memory kept", "memory lost"])
def test_an_outage_that_is_longer_than_the_reserve_is_the_cause_of_what_it_crossed(restarts):
    """The day allows 30; what runs costs more than that in three hours without anybody who sheds."""
    world = greedy()
    world.run(900)
    assert world.causes == {}
    left_s = world.now_s - CYCLE_S
    world.away(3 * HOUR_S)
    if restarts:
        world.restarted, world.memory = True, Memory()
    world.run(CYCLE_S)
    over = world.spent_then - 30
    back_s = world.now_s - CYCLE_S
    assert over > 20
    assert world.causes == {DOWN: over.quantize(Decimal("0.01"))}
    (found,) = world.policy().overruns
    assert (found.kind, found.start_s, found.since_s, found.seen_s) == (CeilingKind.DAY, NOW, left_s, back_s)
    assert world.policy().uncontrollable_per_hour == 0
    text = (
        f"OperatorDown: nothing was decided between {rfc3339(left_s)} and {rfc3339(back_s)}, longer than the "
        f"{120 + CYCLE_S + EXIT_S} s that are paid for in advance: with "
    )
    assert (world.within.status, world.within.reason) == (ConditionStatus.FALSE, "CeilingExceeded")
    assert world.within.message.startswith(text)
    assert world.within.message.endswith("more than the 30.00 USD of a day by its end; it is crossed already")
    assert "may not be reduced" not in world.within.message
    (said,) = [note for note in cycle_events(world.plan, world.snapshot(), []) if note.reason == "CeilingExceeded"]
    assert said.text == world.within.message
    status = policy_status(world.policy(), 1, {}, float(world.now_s))
    assert status["overrunCause"] == "OperatorDown"
    (shown,) = status["overruns"]
    assert (shown["period"], shown["cause"]) == ("Day", "OperatorDown")
    assert (shown["begin"], shown["since"], shown["seenAt"]) == tuple(map(rfc3339, (NOW, left_s, back_s)))


def test_it_is_kept_through_restarts_until_the_period_ends_and_then_forgotten():
    world = greedy()
    world.day_s = 5 * HOUR_S
    world.run(900)
    world.away(3 * HOUR_S)
    world.run(CYCLE_S)
    (first,) = world.policy().overruns
    world.restarted = True
    for _ in range(6):
        world.memory = Memory()
        world.run(CYCLE_S)
        (again,) = world.policy().overruns
        assert first.amount <= again.amount <= first.amount + Decimal("0.30"), "and what drained after it"
        assert (again.since_s, again.seen_s) == (first.since_s, first.seen_s)
    while world.now_s + 60 < NOW + world.day_s:
        world.run(60)
        assert world.causes.keys() == {DOWN}
    world.run(60)
    assert world.causes == {}
    assert world.within.status is ConditionStatus.TRUE


@pytest.mark.parametrize(
    ("story", "least", "away_s", "expected"),
    [
        ("as long as the reserve", 0, 120, set()),
        ("minimums alone come to 72 a day, with anybody there or not", 1, 0, {FIXED}),
        ("they did before the outage, in which nothing else ran", 1, 3 * HOUR_S, {FIXED}),
        ("and where all that is wanted is a minimum", 7, 3 * HOUR_S, {FIXED}),
    ],
)
def test_whose_fault_it_is(story, least, away_s, expected):
    world = greedy(least)
    world.run(900)
    before = world.causes
    world.away(away_s)
    world.run(CYCLE_S)
    assert world.causes.keys() == expected, story
    if before:
        assert abs(world.causes[FIXED] - before[FIXED]) <= Decimal("0.02"), (story, before, world.causes)
    assert sum(world.causes.values(), Decimal(0)) >= world.spent_then - 30, story


def test_what_ran_in_an_outage_and_what_may_not_be_reduced_are_told_apart_by_what_each_comes_to():
    """A minimum at 3.00 USD an hour is 72 of 30 a day. Four were declared while nobody was there to lower them."""
    world = greedy(1)
    world.run(900)
    before = world.causes[FIXED]
    world.members[0].born = [int(NOW)] * 5
    world.away(2 * HOUR_S)
    world.run(CYCLE_S)
    assert world.causes[FIXED] == before
    assert abs(world.causes[DOWN] - 4 * 3 * 2) <= Decimal("0.2")
    assert "what may not be reduced costs 3.00 USD an hour, 42." in world.within.message
    assert "; OperatorDown: nothing was decided between" in world.within.message
    assert world.policy().overruns[0].cause is FIXED, "what comes to most is named first"
    assert policy_status(world.policy(), 1, {}, NOW)["overrunCause"] == "Uncontrollable"


RAISE = TemporaryRaise(((CeilingKind.DAY, Decimal(30)),), NOW + 80_000, "finance", "launch")


@pytest.mark.parametrize(
    ("story", "begins", "ends"),
    [
        ("somebody lowers the ceiling", {"per_day": "32"}, {"ceilings": ((CeilingKind.DAY, Decimal(2)),)}),
        ("a raise for a while ends", {"per_day": "2", "temporary_raise": RAISE}, {"temporary_raise": None}),
    ],
)
def test_a_ceiling_that_is_set_below_what_is_spent_is_nobodys_outage(story, begins, ends):
    world = greedy(**begins)
    world.run(1800)
    spent = world.spent["cap"] / 3600
    assert spent > 3, story
    world.set(**ends)
    world.run(CYCLE_S)
    assert world.causes == {BELOW: (spent - 2).quantize(Decimal("0.01"))}, story
    said = (
        f"CeilingBelowSpent: the ceiling was set to less than what had been spent by {rfc3339(world.now_s - CYCLE_S)}"
    )
    assert world.within.message.startswith(said)
    world.run(60)
    assert world.causes.keys() == {BELOW}
    assert 0 <= world.causes[BELOW] - (spent - 2) <= Decimal("0.3"), "and what drained after it"


def test_a_policy_that_is_made_when_more_was_spent_already_says_so():
    world = Told([Member("chat", 150.0, least=0)], [policy(per_day="30", floor=Floor.ALLOW_ZERO)], spent="40")
    world.run(CYCLE_S)
    assert world.causes == {BELOW: Decimal("10.00")}


def test_what_the_ledger_knows_more_is_not_put_down_to_anybody():
    world = greedy()
    world.run(900)
    world.spend("40")
    world.run(CYCLE_S)
    assert world.causes.keys() == {RECOUNTED}
    assert world.within.message.startswith(f"Recounted: {world.causes[RECOUNTED]} USD more were spent than was known")


def test_where_the_ceiling_is_raised_again_nobody_is_to_blame_any_more():
    world = greedy()
    world.run(900)
    world.away(3 * HOUR_S)
    world.run(CYCLE_S)
    over = world.causes[DOWN]
    world.set(ceilings=((CeilingKind.DAY, Decimal(40)),))
    world.run(CYCLE_S)
    assert world.causes.keys() == {DOWN}
    assert over - 10 <= world.causes[DOWN] <= over - 10 + Decimal("0.1"), "and what drained after it"
    world.set(ceilings=((CeilingKind.DAY, Decimal(300)),))
    world.run(CYCLE_S)
    assert world.causes == {}


def test_while_it_is_not_known_what_was_spent_what_was_said_stays():
    world = greedy()
    world.run(900)
    world.away(3 * HOUR_S)
    world.run(CYCLE_S)
    before = world.policy().overruns
    assert before
    world.seen = lambda state: msgspec.structs.replace(
        state,
        policies=tuple(
            msgspec.structs.replace(item, faults=((Code.PENDING.value, "not known yet"),)) for item in state.policies
        ),
    )
    world.run(CYCLE_S)
    assert world.policy().overruns == before


def test_of_an_outage_over_midnight_the_new_day_blames_what_it_paid_for():
    world = greedy(per_day="15")
    world.day_s = 2 * HOUR_S
    world.run(900)
    world.away(2 * HOUR_S + 2700)
    world.run(CYCLE_S)
    (found,) = world.policy().overruns
    assert (found.cause, found.start_s) == (DOWN, NOW + 2 * HOUR_S)
    assert found.amount == world.spent_then - 15
    assert found.since_s == NOW + 900 - CYCLE_S


def test_a_rate_is_crossed_by_what_may_not_be_reduced_alone():
    world = Told([Member("chat", 150.0, least=3)], [policy(per_hour="6", outage_reserve_s=120.0)])
    world.run(900)
    (found,) = world.policy().overruns
    assert (found.kind, found.cause, found.amount, found.start_s) == (CeilingKind.HOUR, FIXED, Decimal(3), 0)
    shown = policy_status(world.policy(), 1, {}, NOW)["overruns"][0]
    assert "begin" not in shown
    assert parse_rfc3339(shown["since"]) < NOW + 900 - CYCLE_S


@pytest.mark.parametrize(
    "broken",
    [{"overruns": [{"period": "Week"}]}, {"overruns": 7}, {"accruedThrough": "soon"}, {"periods": [{"begin": "x"}]}],
)
def test_a_status_that_cannot_be_read_blames_nobody(broken):
    world = greedy()
    world.run(60)
    status = policy_status(world.policy(), 1, {}, NOW) | broken
    last = last_held_of(status)
    assert last is None or last.overruns == ()
