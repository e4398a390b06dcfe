"""What tokens cost, on two bases that are never mixed.

Allocation: all that the GPUs of a service cost while it held them, start-up and standing idle included, for the tokens
that they put out. Usage: what of it full replicas would have cost for the same work; for comparing models and GPUs,
however busy they happen to be. The rest is the idle share. Full is what Ebbtide believes that a replica carries inside
the objectives. Nodes' GPUs that nobody holds and others' pods have costs and no tokens: they are rows of their own, or
in the cost of their pool, and in no price of a token.

Where cost is counted for which no tokens are known, it would make them dearer than they are: both are of the part of
time that was seen, and `coverage` says how large it is. The price of input and of output tokens is split by the work
that they make, as it was learnt: one output token is as much as 1/w input tokens.

Worked example: 10 USD for an hour of which all was seen, 1 million input and 0.25 million output tokens, w = 0.05: the
work is 0.3 million output tokens, so 33.33 USD for a million output tokens and 1.67 for a million input tokens. With a
third of the replicas used, 11.11 and 0.56 on the usage basis, and an idle share of two thirds.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

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
    """GPU-seconds of one hour, payer and currency: all, those with a price, and what these cost."""

    gpu_s: int = 0
    priced_s: int = 0
    cost: Decimal = _NOTHING


def units(
    rows: Iterable[HourRow], usage: Iterable[UsageRow], by: Sequence[str], payers: Payers = nobody
) -> tuple[Unit, ...]:
    """By `by` and currency, dearest first. `rows` and `usage` are of the same whole hours."""
    held: dict[tuple[int, Payer, bool], dict[str, _Held]] = defaultdict(lambda: defaultdict(_Held))
    for row in rows:
        found = held[row.hour_s, row.payer, row.idle][row.currency]
        found.gpu_s += row.gpu_seconds
        if row.cost is not None:
            found.priced_s += row.gpu_seconds
            found.cost += row.cost
    seen = {(row.hour_s, row.payer): row for row in usage}
    sums: dict[tuple[tuple[str, ...], str], _Sum] = defaultdict(_Sum)
    for (hour_s, payer, idle), by_currency in held.items():
        whole_s = sum(each.gpu_s for each in by_currency.values())
        work = UsageRow(hour_s, payer) if idle else seen.get((hour_s, payer), UsageRow(hour_s, payer))
        for currency, each in by_currency.items():
            for key in keys(payer, by, payers, idle=idle):
                _put(sums[key, currency], each, whole_s, work)
    found_units = [_unit(key, currency, each) for (key, currency), each in sums.items()]
    return tuple(sorted(found_units, key=lambda unit: (unit.currency, -unit.cost, unit.key)))


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
        int(each.input_tokens),
        int(each.output_tokens),
        each.covered_s / each.gpu_s if each.gpu_s else None,
        _per_million(each.seen_cost, each.seen_input, each.seen_output, weight),
        _per_million(each.used_cost, each.rated_input, each.rated_output, weight) if each.rated_cost else PerMillion(),
        1 - each.used_cost / each.rated_cost if each.rated_cost else None,
    )


def _per_million(cost: Decimal, came: Decimal, made: Decimal, weight: Decimal | None) -> PerMillion:
    if not cost or not came + made:
        return PerMillion()
    both = cost / (came + made) * _MILLION
    if weight is None:
        return PerMillion(both=both)
    output = cost / (made + weight * came) * _MILLION if made + weight * came else None
    return PerMillion(None if output is None or not came else output * weight, output if made else None, both)
