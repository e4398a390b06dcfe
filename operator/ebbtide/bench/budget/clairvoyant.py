"""Spenders who know all that will come: what the same money buys at best.

A replica-minute is bought or not, without start-ups, drains or minimums, and the last one in part: a fluid bound. Of a
service's minute the first replica answers most, each further one no more than the one before, so buying the best first
is the best that can be done. There are two, for a bound depends on what is worth having:

    by priority    all of the highest priority first, within it the replica-minutes with most requests
    by value       the replica-minutes with most requests x priority: no spender has a higher weighted attainment

Worked example: 25 requests/s a replica, 60 a second come: three replicas answer 25, 25 and 10 of them, so with money
for two of them one minute 50 of 60 are answered.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal

from ebbtide.bench.budget.clerk import DAY_S
from ebbtide.bench.budget.spenders import Ceiling
from ebbtide.bench.budget.world import Outcome, Stage
from ebbtide.model.spec import CeilingKind

_MINUTE_S = 60
_DAY_MINUTES = DAY_S // _MINUTE_S

Worth = Callable[[int, float], tuple[float, ...]]
"""(priority, requests of a replica-minute) -> what is bought first, highest first."""


def by_priority(priority: int, requests: float) -> tuple[float, ...]:
    """The highest priority first, then most requests for the money."""
    return float(priority), requests


def by_value(priority: int, requests: float) -> tuple[float, ...]:
    """Most requests for the money, weighted by priority."""
    return (priority * requests,)


def clairvoyant(stage: Stage, ceiling: Ceiling, worth: Worth) -> Outcome:
    """The month under it, period by period."""
    days = range(stage.days)
    cost, held = [Decimal(0)] * stage.days, [0.0] * (24 * stage.days)
    answered = [[0.0] * stage.days for _ in stage.members]
    periods = [[day] for day in days] if ceiling.kind is CeilingKind.DAY else [list(days)]
    each = stage.price_per_hour * _MINUTE_S / 3600
    for period in periods:
        left = float(ceiling.amount / each)  # replica-minutes
        for requests, count, number, minute in sorted(
            _units(stage, period), key=lambda unit: worth(stage.members[unit[2]].priority, unit[0]), reverse=True
        ):
            taken = min(float(count), left)
            left -= taken
            day = minute // _DAY_MINUTES
            answered[number][day] += taken * requests
            held[minute // 60] += taken / 60
            cost[day] += each * Decimal(taken)
            if left <= 0:
                break
    return Outcome(tuple(cost), tuple(tuple(one) for one in answered), tuple(held))


def _units(stage: Stage, days: Sequence[int]) -> list[tuple[float, int, int, int]]:
    """(requests each, how many, service, minute): the full replica-minutes of a minute, and the last one."""
    found = []
    for number, member in enumerate(stage.members):
        requests, most = stage.requests(member), member.capacity_per_s * _MINUTE_S
        for minute in range(days[0] * _DAY_MINUTES, (days[-1] + 1) * _DAY_MINUTES):
            full, rest = divmod(requests[minute], most)
            if full:
                found.append((most, int(full), number, minute))
            if rest:
                found.append((rest, 1, number, minute))
    return found
