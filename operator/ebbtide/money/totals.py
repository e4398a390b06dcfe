"""Rows of cost, added up by what people ask for. Currencies are never mixed, and what nobody knows is no zero.

Worked example: 2 h of 4 GPUs at 2.50 USD/h and 1 h of 4 at an unknown price are two totals: 20.00 USD for 8 GPU-hours,
and 4 GPU-hours of which the cost is not known, in no currency.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import product

from ebbtide.model.money import HourRow, Payer
from ebbtide.model.spec import Spec
from ebbtide.money.selections import Payers

BY = ("service", "team", "namespace", "model", "pool", "variant", "policy")
LABEL = "label:"  # before the name of a label: by its values
IDLE, BATCH, OTHERS = "(idle)", "(batch)", "(other pods)"
NONE, NO_POLICY, NO_POOL = "(none)", "(no policy)", "(no pool)"


class Total(Spec, frozen=True):
    """What one key costs. `key` has one part for each that was asked for; hours are of one GPU each.

    `cost` None: nobody knows it, all of `gpu_hours` are `unknown_gpu_hours`, in no currency. `estimated_gpu_hours` are
    among them and nobody watched them.
    """

    key: tuple[str, ...]
    currency: str
    cost: Decimal | None
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
            where = key, row.currency if row.price is not None else ""
            seconds[where][row.price] += row.gpu_seconds
            unseen[where] += row.estimated_s
    found = [
        Total(
            key,
            currency,
            _cost(prices),
            Decimal(sum(prices.values())) / 3600,
            Decimal(prices.get(None, 0)) / 3600,
            Decimal(unseen[key, currency]) / 3600,
        )
        for (key, currency), prices in seconds.items()
    ]
    return tuple(sorted(found, key=lambda total: (total.currency, -(total.cost or 0), -total.gpu_hours, total.key)))


def _cost(seconds: Mapping[Decimal | None, int]) -> Decimal | None:
    """None where the price is that which nobody knows: of these there is no other."""
    known = [(price, count) for price, count in seconds.items() if price is not None]
    return sum((price * count for price, count in known), Decimal(0)) / 3600 if known else None


def keys(payer: Payer, by: Sequence[str], payers: Payers = nobody, *, idle: bool = False) -> Iterator[tuple[str, ...]]:
    """Under which keys it is counted: one, and by policy one for each that pays."""
    return product(*(_parts(payer, name, payers, idle=idle) for name in by))


def _parts(payer: Payer, name: str, payers: Payers, *, idle: bool) -> tuple[str, ...]:
    if name == "policy":
        return payers(payer) or (NO_POLICY,)
    label = name.removeprefix(LABEL)
    value: str = getattr(payer, name) if label == name else payer.all_labels.get(label, "")
    if name == "pool":
        return (value or NO_POOL,)
    if value and not (name == "variant" and payer.is_batch):
        return (f"{payer.namespace}/{value}" if name == "service" else value,)
    if idle:
        return (IDLE,)
    return (NONE if payer.service else BATCH if payer.is_batch else OTHERS,)
