"""What tokens cost, on two bases that are never mixed.

Allocation: all that the GPUs of a service cost while it held them, start-up and standing idle included, for the tokens
that they put out. Usage: what of it full replicas would have cost for the same work; for comparing models and GPUs,
however busy they happen to be. The rest is the idle share. Full is what Ebbtide believes that a replica carries inside
the objectives. Nodes' GPUs that nobody holds and others' pods have costs and no tokens: they are in the cost of who
pays for them, else rows of their own, or in the cost of their pool, and in no price of a token.

Where cost is counted for which no tokens are known, it would make them dearer than they are: both are of the part of
time that was seen, and `coverage` says how large it is. The price of input and of output tokens is split by the work
that they make, as it was learnt: one output token is as much as 1/w input tokens.

Worked example: 10 USD for an hour of which all was seen, 1 million input and 0.25 million output tokens, w = 0.05: the
work is 0.3 million output tokens, so 33.33 USD for a million output tokens and 1.67 for a million input tokens. With a
third of the replicas used, 11.11 and 0.56 on the usage basis, and an idle share of two thirds.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from ebbtide.model.money import HourRow, Payer, UsageRow
from ebbtide.model.spec import Spec
from ebbtide.money.selections import Payers
from ebbtide.money.totals import keys, nobody

_MILLION, _NOTHING = Decimal(1_000_000), Decimal(0)


class PerMillion(Spec, frozen=True):
    """Money for a million tokens; None: it is not known."""

    input: Decimal | None = None
    output: Decimal | None = None
    both: Decimal | None = None  # of input and output tokens alike


class Unit(Spec, frozen=True):
    """One key's tokens and what they cost, in one currency; `key` as that of Total.

    `cost` is of all GPU-seconds whose price is known. `coverage`: the share, 0..1, of services' GPU-seconds whose
    tokens are known; None: no service held any. `idle`: the share of the cost that full replicas would have saved;
    None: it is not known.
    """

    key: tuple[str, ...]
    currency: str
    cost: Decimal
    input_tokens: int
    output_tokens: int
    coverage: Decimal | None
    allocation: PerMillion
    usage: PerMillion
    idle: Decimal | None


class Part(NamedTuple):
    """GPU-seconds at one price for a GPU-hour; None: nobody knows it."""

    price: Decimal | None
    currency: str
    gpu_seconds: int


class Work(NamedTuple):
    """GPU-seconds of one payer by price, and what was done with them (`usage`; of `idle` ones nothing).

    Of one hour; or of several added up, where all have one and the same price, in none more was seen than was held, and
    of what was seen the load is known in each or in none: of these alone the shares are those of the sums.
    """

    payer: Payer
    idle: bool
    parts: tuple[Part, ...]
    usage: UsageRow


@dataclass(slots=True)
class _Sum:
    """Of one key and currency. `seen_*` are of time whose tokens and price are known, `rated_*` of that with a load."""

    cost: Decimal = _NOTHING
    gpu_s: int = 0
    covered_s: Decimal = _NOTHING
    input_tokens: Decimal = _NOTHING
    output_tokens: Decimal = _NOTHING
    seen_cost: Decimal = _NOTHING
    seen_input: Decimal = _NOTHING
    seen_output: Decimal = _NOTHING
    rated_cost: Decimal = _NOTHING
    rated_input: Decimal = _NOTHING
    rated_output: Decimal = _NOTHING
    used_cost: Decimal = _NOTHING
    weighed_tokens: Decimal = _NOTHING
    weighed_work: Decimal = _NOTHING


@dataclass(slots=True)
class _Held:
    """GPU-seconds of one Work and currency: all, those with a price, and what these cost."""

    gpu_s: int = 0
    priced_s: int = 0
    cost: Decimal = _NOTHING


def units(
    rows: Iterable[HourRow], usage: Iterable[UsageRow], by: Sequence[str], payers: Payers = nobody
) -> tuple[Unit, ...]:
    """By `by` and currency, dearest first. `rows` and `usage` are of the same whole hours."""
    sums = Units(by, payers)
    for work in joined(rows, usage):
        sums.add(work)
    return sums.found()


def joined(rows: Iterable[HourRow], usage: Iterable[UsageRow]) -> Iterator[Work]:
    """GPU-seconds of each hour and payer beside what was done with them; usage without any is left out."""
    held: dict[tuple[int, Payer, bool], list[Part]] = defaultdict(list)
    for row in rows:
        held[row.hour_s, row.payer, row.idle].append(Part(row.price, row.currency, row.gpu_seconds))
    seen = {(row.hour_s, row.payer): row for row in usage}
    for (hour_s, payer, idle), parts in held.items():
        yield Work(payer, idle, tuple(parts), seen.get((hour_s, payer), UsageRow(hour_s, payer)))


class Units:
    """Adds up by `by` (names of totals.BY, and of labels) and currency."""

    def __init__(self, by: Sequence[str], payers: Payers = nobody) -> None:
        self._by, self._payers = by, payers
        self._sums: dict[tuple[tuple[str, ...], str], _Sum] = defaultdict(_Sum)

    def add(self, work: Work) -> None:
        """One more, of an hour or of as many as add up (see Work)."""
        held: dict[str, _Held] = defaultdict(_Held)
        for part in work.parts:
            into = held[part.currency]
            into.gpu_s += part.gpu_seconds
            if part.price is not None:
                into.priced_s += part.gpu_seconds
                into.cost += part.price * part.gpu_seconds / 3600
        whole_s = sum(each.gpu_s for each in held.values())
        for key in keys(work.payer, self._by, self._payers, idle=work.idle):
            for currency, each in held.items():
                if work.idle:
                    self._sums[key, currency].cost += each.cost
                else:
                    _put(self._sums[key, currency], each, whole_s, work.usage)

    def found(self) -> tuple[Unit, ...]:
        """By currency, dearest first."""
        found = [_unit(key, currency, each) for (key, currency), each in self._sums.items()]
        return tuple(sorted(found, key=lambda unit: (unit.currency, -unit.cost, unit.key)))


def _put(into: _Sum, held: _Held, whole_s: int, work: UsageRow) -> None:
    """The part of an hour's work that falls to these GPU-seconds: all of it, but where the currency changed within."""
    part = Decimal(held.gpu_s) / whole_s if whole_s else _NOTHING
    priced = Decimal(held.priced_s) / whole_s if whole_s else _NOTHING
    into.cost += held.cost
    if not work.payer.service:
        return
    covered = min(Decimal(1), Decimal(work.seen_gpu_s) / whole_s) if whole_s else _NOTHING
    into.gpu_s += held.gpu_s
    into.covered_s += covered * held.gpu_s
    into.input_tokens += work.input_tokens * part
    into.output_tokens += work.output_tokens * part
    into.seen_cost += held.cost * covered
    into.seen_input += work.input_tokens * priced
    into.seen_output += work.output_tokens * priced
    into.weighed_tokens += work.weighed_tokens * part
    into.weighed_work += work.weighed_work * part
    if work.rated_gpu_s and work.seen_gpu_s:
        rated = min(Decimal(1), Decimal(work.rated_gpu_s) / work.seen_gpu_s)
        into.rated_cost += held.cost * covered * rated
        into.rated_input += work.input_tokens * priced * rated
        into.rated_output += work.output_tokens * priced * rated
        into.used_cost += held.cost * covered * rated * work.used_gpu_s / work.rated_gpu_s


def _unit(key: tuple[str, ...], currency: str, each: _Sum) -> Unit:
    weight = each.weighed_work / each.weighed_tokens if each.weighed_tokens else None
    return Unit(
        key,
        currency,
        each.cost,
        round(each.input_tokens),
        round(each.output_tokens),
        each.covered_s / each.gpu_s if each.gpu_s else None,
        _per_million(each.seen_cost, each.seen_input, each.seen_output, weight),
        _per_million(each.used_cost, each.rated_input, each.rated_output, weight) if each.rated_cost else PerMillion(),
        # sums of rounded parts may differ in their 28th digit
        max(Decimal(0), 1 - each.used_cost / each.rated_cost) if each.rated_cost else None,
    )


def _per_million(cost: Decimal, came: Decimal, made: Decimal, weight: Decimal | None) -> PerMillion:
    if not cost or not came + made:
        return PerMillion()
    both = cost / (came + made) * _MILLION
    if weight is None:
        return PerMillion(both=both)
    output = cost / (made + weight * came) * _MILLION if made + weight * came else None
    return PerMillion(None if output is None or not came else output * weight, output if made else None, both)
