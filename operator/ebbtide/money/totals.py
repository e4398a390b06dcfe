"""Rows of cost, added up by what people ask for. Currencies are never mixed, and what nobody knows is no zero.

Worked example: 2 h of 4 GPUs at 2.50 USD/h and 1 h of 4 at an unknown price: 20.00 USD for 8 GPU-hours, and 4 GPU-hours
of which the cost is not known.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import product

from ebbtide.model.money import HourRow, Payer
from ebbtide.model.spec import Spec
from ebbtide.money.selections import Payers

BY = ("service", "team", "namespace", "model", "pool", "variant", "policy")
LABEL = "label:"  # before the name of a label: by its values
IDLE, OTHERS, NONE, NO_POLICY = "(idle)", "(other pods)", "(none)", "(no policy)"


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


def nobody(_payer: Payer) -> tuple[str, ...]:
    """Of a ledger that knows no policies."""
    return ()


def totals(rows: Iterable[HourRow], by: Sequence[str], payers: Payers = nobody) -> tuple[Total, ...]:
    """The rows by `by` and currency, dearest first. Money is multiplied once for each price.

    `by`: names of BY, and of labels after LABEL.

    By policy, what several policies pay for is counted under each: these totals add up to more than it cost.
    """
    seconds: dict[tuple[tuple[str, ...], str], dict[Decimal | None, int]] = defaultdict(lambda: defaultdict(int))
    unseen: dict[tuple[tuple[str, ...], str], int] = defaultdict(int)
    for row in rows:
        for key in keys(row.payer, by, payers, idle=row.idle):
            where = key, row.currency
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


def keys(payer: Payer, by: Sequence[str], payers: Payers = nobody, *, idle: bool = False) -> Iterator[tuple[str, ...]]:
    """Under which keys it is counted: one, and by policy one for each that pays."""
    return product(*(_parts(payer, name, payers, idle=idle) for name in by))


def _parts(payer: Payer, name: str, payers: Payers, *, idle: bool) -> tuple[str, ...]:
    if name == "policy":
        return payers(payer) or (NO_POLICY,)
    label = name.removeprefix(LABEL)
    value: str = getattr(payer, name) if label == name else payer.all_labels.get(label, "")
    if value:
        return (f"{payer.namespace}/{value}" if name == "service" else value,)
    if idle:
        return (IDLE,)
    return (NONE if payer.service else OTHERS,)
