"""Why a ceiling is crossed, or will be by the end of its period: by which cause, by how much, and since when.

What comes on top since plans were last held under the policy is put down to the first of these that explains it, up to
what it explains; what was said before stays as it was until the period ends or the ceiling is raised.

    CeilingBelowSpent   what had been spent by then and is more than the ceiling as it is set now
    OperatorDown        nothing was decided for longer than W: what ran meanwhile beyond what may not be reduced
    Recounted           spent grew by more than what ran since can have cost
    Uncontrollable      all else: what may not be reduced, now and to the end of the period

What drains for W after one of the first three is put down to it too.

Worked example: 30.00 USD a day, 2.30 spent, 21.00 an hour run and nobody decides for three hours: 65.30 are spent, and
all 35.30 are the outage's. Had a minimum of 3.00 an hour run alone, its 72 a day were said to be too many long before.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal

from ebbtide.core.ceilings.lines import HOUR_S, NOTHING, Line, PolicyDraft
from ebbtide.model.plan import PolicyPlan
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import HeldPeriod, LastHeld, Overrun
from ebbtide.model.spec import CeilingKind, OverrunCause

_CENT = Decimal("0.01")
# in this order causes have less to answer for where less is too much: what may still change first
_GIVES = (
    OverrunCause.UNCONTROLLABLE,
    OverrunCause.CEILING_BELOW_SPENT,
    OverrunCause.RECOUNTED,
    OverrunCause.OPERATOR_DOWN,
)


def over_of(line: Line) -> Decimal:
    """By how much what was spent and what may not be reduced cross it, in the currency; 0: they do not."""
    return max(NOTHING, line.spent + line.bound - line.ceiling) / HOUR_S


def judge(policy: PolicyDraft, lines: Sequence[Line]) -> tuple[Overrun, ...]:
    """Of each ceiling that is crossed its causes, most first. While nobody knows what was spent, as it was said."""
    last = policy.state.last
    before = () if last is None else last.overruns
    found: list[Overrun] = []
    for line in lines:
        mine = [item for item in before if (item.kind, item.start_s) == (line.kind, _start_s(line))]
        found += mine if policy.state.faults else _causes(policy, line, mine)
    return tuple(found)


def last_held(plan: PolicyPlan) -> LastHeld | None:
    """How the policy stands with this plan, for the next; None: nothing was counted."""
    if not plan.accrued_through:
        return None
    if plan.reason.code is Code.PENDING:
        return LastHeld(0.0, overruns=plan.overruns)
    periods = tuple(
        HeldPeriod(item.kind, item.start_s, item.ceiling, item.spent)
        for item in plan.ceilings
        if item.kind is not CeilingKind.HOUR
    )
    return LastHeld(plan.accrued_through, plan.per_hour, periods, plan.overruns)


def _start_s(line: Line) -> float:
    return 0.0 if line.is_rate else float(line.begin_s)


def _causes(policy: PolicyDraft, line: Line, before: Sequence[Overrun]) -> list[Overrun]:
    over = over_of(line)
    if not over:
        return []
    known = {item.cause: item for item in before}
    amounts = {item.cause: item.amount for item in before}
    more = over - sum(amounts.values(), NOTHING)
    grown: set[OverrunCause] = set()
    if amounts and abs(more) < _CENT:  # statuses are rounded
        most = max(amounts, key=lambda cause: amounts[cause])
        amounts[most] += more
    elif more > 0:
        for cause, amount in _because(policy, line, more, before):
            amounts[cause] = amounts.get(cause, NOTHING) + amount
            if not _drains(policy, known.get(cause)):
                grown.add(cause)
    else:
        _take(amounts, -more)
    now_s = float(policy.now_s)
    found = []
    for cause, amount in amounts.items():
        old = known.get(cause)
        since_s = _since_s(policy, cause) if old is None else old.since_s
        seen_s = now_s if old is None or cause in grown else old.seen_s
        if amount > 0:
            found.append(Overrun(line.kind, _start_s(line), cause, amount, since_s, seen_s))
    return sorted(found, key=lambda item: -item.amount)


def _take(amounts: dict[OverrunCause, Decimal], less: Decimal) -> None:
    for cause in _GIVES:
        taken = min(less, amounts.get(cause, NOTHING))
        if taken:
            amounts[cause] -= taken
            less -= taken


def _since_s(policy: PolicyDraft, cause: OverrunCause) -> float:
    last = policy.state.last
    return last.at_s if cause is OverrunCause.OPERATOR_DOWN and last is not None else float(policy.now_s)


def _drains(policy: PolicyDraft, item: Overrun | None) -> bool:
    """Whether what ran then may still be on its way out."""
    recent = item is not None and policy.now_s - item.seen_s <= policy.reserve_s
    return recent and item is not None and item.cause is not OverrunCause.UNCONTROLLABLE


def _because(
    policy: PolicyDraft, line: Line, more: Decimal, before: Sequence[Overrun]
) -> list[tuple[OverrunCause, Decimal]]:
    """What takes it over by so much more than was said; less than a cent needs no cause of its own."""
    found: list[tuple[OverrunCause, Decimal]] = []
    for cause, most in () if line.is_rate else _suspects(policy, line, before):
        amount = min(more, max(NOTHING, most))
        if amount >= _CENT or amount == more > 0:
            found.append((cause, amount))
            more -= amount
    if more >= _CENT or not found:
        found.append((OverrunCause.UNCONTROLLABLE, more))
        return found
    cause, amount = found[-1]
    return [*found[:-1], (cause, amount + more)]


def _suspects(policy: PolicyDraft, line: Line, before: Sequence[Overrun]) -> Iterator[tuple[OverrunCause, Decimal]]:
    """Each cause with the most that it explains."""
    last, spent, ceiling = policy.state.last, line.spent / HOUR_S, line.ceiling / HOUR_S
    if last is not None and not last.at_s:
        yield OverrunCause.RECOUNTED, spent - ceiling
        return
    known = None if last is None else _known(last, line)
    if last is None or known is None:  # the first look at this ceiling
        yield OverrunCause.CEILING_BELOW_SPENT, spent - ceiling
        return
    below = known.spent - ceiling - max(NOTHING, known.spent - known.ceiling)
    yield OverrunCause.CEILING_BELOW_SPENT, below
    hours = Decimal(policy.now_s - max(int(last.at_s), line.begin_s)) / HOUR_S
    ran = spent - known.spent
    if policy.now_s - last.at_s > policy.reserve_s:
        yield OverrunCause.OPERATOR_DOWN, ran - (policy.fixed_rate - policy.leaving_rate) * hours
    else:
        beyond = ran - max(last.per_hour, policy.rate) * hours
        yield OverrunCause.RECOUNTED, beyond
        after = [item.cause for item in before if _drains(policy, item)]
        for cause in [OverrunCause.CEILING_BELOW_SPENT] if below > 0 else after:
            yield cause, ran - max(NOTHING, beyond)


def _known(last: LastHeld, line: Line) -> HeldPeriod | None:
    """How the period stood; None: it had no such ceiling."""
    if line.begin_s >= last.at_s:
        return HeldPeriod(line.kind, float(line.begin_s), line.ceiling / HOUR_S, NOTHING)
    mine = (item for item in last.periods if (item.kind, item.start_s) == (line.kind, line.begin_s))
    return next(mine, None)
