"""Rows of cost, added up by what people ask for. Currencies are never mixed, and what nobody knows is no zero.

Worked example: 2 h of 4 GPUs at 2.50 USD/h and 1 h of 4 at an unknown price: 20.00 USD for 8 GPU-hours, and 4 GPU-hours
of which the cost is not known.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal

from ebbtide.model.money import HourRow
from ebbtide.model.spec import Spec

BY = ("service", "team", "namespace", "model", "pool", "variant")
IDLE, OTHERS, NONE = "(idle)", "(other pods)", "(none)"


class Total(Spec, frozen=True):
    """What one key costs. `key` has one part for each that was asked for; hours are of one GPU each.

    `cost` is of `gpu_hours` without `unknown_gpu_hours`; `estimated_gpu_hours` are among them and nobody watched them.
    """

    key: tuple[str, ...]
    currency: str
    cost: Decimal
    gpu_hours: Decimal
    unknown_gpu_hours: Decimal
    estimated_gpu_hours: Decimal


def totals(rows: Iterable[HourRow], by: Sequence[str]) -> tuple[Total, ...]:
    """The rows by `by` (names of BY) and currency, dearest first. Money is multiplied once for each price."""
    seconds: dict[tuple[tuple[str, ...], str], dict[Decimal | None, int]] = defaultdict(lambda: defaultdict(int))
    unseen: dict[tuple[tuple[str, ...], str], int] = defaultdict(int)
    for row in rows:
        where = tuple(_part(row, name) for name in by), row.currency
        seconds[where][row.price] += row.gpu_seconds
        unseen[where] += row.estimated_s
    found = [
        Total(
            key,
            currency,
            sum((price * count for price, count in prices.items() if price is not None), Decimal(0)) / 3600,
            Decimal(sum(prices.values())) / 3600,
            Decimal(prices.get(None, 0)) / 3600,
            Decimal(unseen[key, currency]) / 3600,
        )
        for (key, currency), prices in seconds.items()
    ]
    return tuple(sorted(found, key=lambda total: (total.currency, -total.cost, -total.gpu_hours, total.key)))


def _part(row: HourRow, name: str) -> str:
    value: str = getattr(row.payer, name)
    if value:
        return f"{row.payer.namespace}/{value}" if name == "service" else value
    if row.idle:
        return IDLE
    return NONE if row.payer.service else OTHERS
