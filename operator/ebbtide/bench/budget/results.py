"""What a month of budgets found, as it is written to results.json: plain data, the same for the same question.

Shares and attainments are 0..1; money is a decimal in USD. Attainment is answered inside the objective over all that
came; `weighted` counts each request by its service's priority.
"""

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, ROUND_UP, Decimal
from itertools import accumulate

import msgspec

from ebbtide.bench.budget.spenders import Ceiling
from ebbtide.bench.budget.world import Outcome, Stage
from ebbtide.model.spec import CeilingKind

_NOTHING = Decimal("0.000001")  # of money: less is what a clairvoyant's floats are off by
_BINDS = Decimal("1.01")  # of the ceiling: who would have spent no more than that is not bound by it


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """One spender under one ceiling, by the clerk's money.

    `overrun` sums what periods cost beyond their ceilings, `worst_overrun` is the largest. `used` is the share of the
    ceilings of binding periods that was spent; None: none was binding. `lost_per_1000` are points of weighted
    attainment lost for each 1000 USD that were saved beside the unconstrained run; None: nothing was saved. `short` is
    the share of cycles in which the policy took something away, of Ebbtide alone.
    """

    spender: str
    setting: str
    cost: Decimal
    overrun: Decimal
    worst_overrun: Decimal
    periods_over: int
    used: float | None
    weighted: float
    attainment: dict[str, float]
    worst_day: float
    lost_per_1000: float | None
    short: float | None
    cost_by_day: tuple[Decimal, ...]
    gpus_by_hour: tuple[float, ...]
    wall_s: float


class UnderCeiling(msgspec.Struct, frozen=True, kw_only=True):
    """All spenders under one ceiling. `binding`: how many of its `periods` would have cost more."""

    ceiling: Ceiling
    periods: int
    binding: int
    spenders: tuple[Spent, ...]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One service: where its load is from, and what it amounts to. `needs` replicas at capacity, mean and most."""

    name: str
    source: str
    priority: int
    requests: int
    capacity_per_s: float
    needs: float
    needs_most: float


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    days: int
    lead_in_days: int
    seed: int
    cycle_s: int
    startup_s: int
    exit_s: int
    price_per_gpu_hour: Decimal
    loads: tuple[Load, ...]
    unconstrained: Spent
    ceilings: tuple[UnderCeiling, ...]
    command: str
    versions: dict[str, str]
    wall_s: float


def weighted(stage: Stage, answered: Sequence[Sequence[float]], day: int | None = None) -> float:
    """Attainment, each request counted by its service's priority; of one day, or of all."""
    met = came = 0.0
    for member, days in zip(stage.members, answered, strict=True):
        requests = stage.requests(member)
        of_day = slice(None) if day is None else slice(day * 1440, (day + 1) * 1440)
        met += member.priority * (sum(days) if day is None else days[day])
        came += member.priority * sum(requests[of_day])
    return met / came if came else 1.0


def spent(
    stage: Stage, spender: str, setting: str, outcome: Outcome, ceiling: Ceiling | None, free: Outcome, short: bool
) -> Spent:
    """The outcome scored against the ceiling and the unconstrained one, `free`."""
    over, used = [Decimal(0)], None
    if ceiling is not None:
        costs, wanted = by_period(ceiling, outcome), by_period(ceiling, free)
        over += [cost - ceiling.amount for cost in costs if cost - ceiling.amount > _NOTHING]
        bound = [cost for cost, other in zip(costs, wanted, strict=True) if binds(ceiling, other)]
        used = float(sum(bound, Decimal(0)) / (ceiling.amount * len(bound))) if bound else None
    attained, saved = weighted(stage, outcome.answered), free.cost - outcome.cost
    lost = 100 * (weighted(stage, free.answered) - attained)
    return Spent(
        spender=spender,
        setting=setting,
        cost=_cents(outcome.cost),
        # rounded up: no overrun is too small to be told
        overrun=_cents(sum(over), up=True),
        worst_overrun=_cents(max(over), up=True),
        periods_over=len(over) - 1,
        used=used,
        weighted=attained,
        attainment={
            member.name: sum(days) / max(1, sum(stage.requests(member)))
            for member, days in zip(stage.members, outcome.answered, strict=True)
        },
        worst_day=min(weighted(stage, outcome.answered, day) for day in range(stage.days)),
        lost_per_1000=lost / float(saved) * 1000 if saved >= 1 else None,
        short=outcome.short if short else None,
        cost_by_day=tuple(_cents(cost) for cost in outcome.cost_by_day),
        gpus_by_hour=tuple(round(gpus, 3) for gpus in outcome.held),
        wall_s=round(outcome.wall_s, 1),
    )


def by_period(ceiling: Ceiling, outcome: Outcome) -> tuple[Decimal, ...]:
    """What each day, or the month, cost."""
    return outcome.cost_by_day if ceiling.kind is CeilingKind.DAY else (outcome.cost,)


def binds(ceiling: Ceiling, wanted: Decimal) -> bool:
    """Whether a period for which that much is wanted is bound by the ceiling."""
    return wanted > ceiling.amount * _BINDS


def cumulated(days: Sequence[Decimal]) -> list[float]:
    """What was spent by the end of each day."""
    return [float(total) for total in accumulate(days)]


def _cents(amount: Decimal | int, *, up: bool = False) -> Decimal:
    return Decimal(amount).quantize(Decimal("0.01"), ROUND_UP if up else ROUND_HALF_EVEN)
