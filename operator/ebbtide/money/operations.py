"""How services were run in a time: what they cost, their tokens, how full they were, what ran on GPUs that were bought.

For build or buy: cost and tokens have to be of the same time, so both are of the part of it whose tokens were seen. Of
an hour in which GPUs were held that is the share of GPU-seconds with known tokens; of one without, as long as somebody
watched: nothing came then and nothing was paid, and both are known. Hours with a price that nobody knows, or in
another currency than the service's last one, are left out with all that is theirs.

Worked example: 4 GPUs at 2.50 USD for an hour, of which 45 minutes were seen with 3 million tokens, then an hour at
zero of which all was watched: 7.50 USD and 3 million tokens of 1.75 hours, 4.29 USD an hour and 41.1 million a day.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from ebbtide.model.money import HourRow, Payer, PriceRecord, UsageRow
from ebbtide.model.spec import Alternative, OnPrem, Spec
from ebbtide.money.bill import HOUR_S
from ebbtide.money.prices import in_force

_NOTHING, _ONE, _HOUR, _MILLION = Decimal(0), Decimal(1), Decimal(HOUR_S), Decimal(1_000_000)


class Bought(Spec, frozen=True):
    """GPUs of one pool with price.onPrem: GPU-hours, times what one cost, what they cost to run, and their tokens."""

    gpu_hours: Decimal = _NOTHING
    capital_hours: Decimal = _NOTHING  # by the hours of a time: the capital that was in use on the mean
    running: Decimal = _NOTHING  # without what is written off
    input_tokens: Decimal = _NOTHING
    output_tokens: Decimal = _NOTHING

    def __add__(self, other: "Bought") -> "Bought":
        pairs = zip(self._values(), other._values(), strict=True)
        return Bought(*(mine + theirs for mine, theirs in pairs))

    def worth(self, offer: Alternative) -> Decimal:
        """What an API would have charged for the tokens."""
        total = self.input_tokens * offer.per_million_input + self.output_tokens * offer.per_million_output
        return total / _MILLION

    def _values(self) -> tuple[Decimal, ...]:
        return self.gpu_hours, self.capital_hours, self.running, self.input_tokens, self.output_tokens


@dataclass(slots=True)
class Operated:
    """One service (namespace/name). `cost`, in `currency`, and tokens are of `hours`. `idle`: 0..1, None: not known."""

    service: str
    currency: str = ""
    hours: Decimal = _NOTHING
    cost: Decimal = _NOTHING
    input_tokens: Decimal = _NOTHING
    output_tokens: Decimal = _NOTHING
    idle: Decimal | None = None
    bought: dict[str, Bought] = field(default_factory=dict)  # by pool


@dataclass(frozen=True, slots=True)
class _Part:
    """One payer's part of one hour, as far as it was seen; `held_s` are all of its GPU-seconds."""

    payer: Payer
    held_s: int
    seen_s: Decimal
    cost: Decimal
    work: UsageRow


def operated(
    rows: Iterable[HourRow], usage: Iterable[UsageRow], records: Iterable[PriceRecord], to_s: int
) -> tuple[Operated, ...]:
    """Every service that is in `rows` or `usage` of the same whole hours, the last as far as `to_s`, by name."""
    held: dict[str, dict[int, list[HourRow]]] = defaultdict(lambda: defaultdict(list))
    worked: dict[str, dict[int, list[UsageRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.payer.service and not row.idle:
            held[_name(row.payer)][row.hour_s].append(row)
    for each in usage:
        worked[_name(each.payer)][each.hour_s].append(each)
    owned = _Owned(records)
    return tuple(
        _service(name, held.get(name, {}), worked.get(name, {}), owned, to_s) for name in sorted({*held, *worked})
    )


def idle_bought(
    rows: Sequence[HourRow], found: Iterable[Operated], records: Iterable[PriceRecord]
) -> dict[str, Bought]:
    """By pool, GPUs that were bought and that nobody held: of them the part that these services' seen time is of all.

    Whoever uses half of a pool's time has half of what stands idle on the account.
    """
    owned, idle, all_s = _Owned(records), defaultdict[str, Bought](Bought), defaultdict[str, int](int)
    for row in rows:
        terms = owned.at(row.payer.pool, row.hour_s)
        if row.idle and terms is not None and row.price is not None:
            idle[row.payer.pool] += _bought(terms, Decimal(row.gpu_seconds), row.price * row.gpu_seconds / _HOUR)
        elif not row.idle:
            all_s[row.payer.pool] += row.gpu_seconds
    used: dict[str, Decimal] = defaultdict(Decimal)
    for each in found:
        for pool, part in each.bought.items():
            used[pool] += part.gpu_hours * HOUR_S
    shares = {pool: min(_ONE, used[pool] / all_s[pool]) for pool in idle if all_s[pool]}
    return {
        pool: Bought(*(value * share for value in (idle[pool].gpu_hours, idle[pool].capital_hours, idle[pool].running)))
        for pool, share in shares.items()
    }


class _Owned:
    """Which pools' GPUs were bought, and when."""

    def __init__(self, records: Iterable[PriceRecord]) -> None:
        by_pool: dict[str, list[PriceRecord]] = defaultdict(list)
        for record in sorted(records, key=lambda record: record.known_s):
            by_pool[record.pool].append(record)
        self._by_pool = {pool: in_force(known) for pool, known in by_pool.items()}

    def at(self, pool: str, at_s: int) -> OnPrem | None:
        """As the pool was priced at the end of the hour that begins at `at_s`."""
        known = [record for record in self._by_pool.get(pool, ()) if record.from_s < at_s + HOUR_S]
        return known[-1].price.on_prem if known and known[-1].price is not None else None


def _service(
    name: str,
    held: Mapping[int, Sequence[HourRow]],
    worked: Mapping[int, Sequence[UsageRow]],
    owned: _Owned,
    to_s: int,
) -> Operated:
    found = Operated(name, _last_currency(held))
    used = rated = _NOTHING
    for hour_s in sorted({*held, *worked}):
        rows, work = held.get(hour_s, ()), worked.get(hour_s, ())
        length = Decimal(min(to_s, hour_s + HOUR_S) - hour_s) / _HOUR
        if not rows:
            found.hours += min(length, Decimal(sum(each.watched_s for each in work)) / _HOUR)
            continue
        if any(row.cost is None or row.currency != found.currency for row in rows):
            continue
        parts = list(_parts(rows, work))
        all_s = sum(part.held_s for part in parts)
        found.hours += length * sum((part.seen_s for part in parts), _NOTHING) / all_s if all_s else _NOTHING
        for part in parts:
            found.cost += part.cost
            found.input_tokens += part.work.input_tokens
            found.output_tokens += part.work.output_tokens
            if part.work.rated_gpu_s and part.work.seen_gpu_s:
                rated += part.cost * min(_ONE, Decimal(part.work.rated_gpu_s) / part.work.seen_gpu_s)
                used += part.cost * part.work.used_gpu_s / max(part.work.seen_gpu_s, part.work.rated_gpu_s)
            terms = owned.at(part.payer.pool, hour_s)
            if terms is not None and part.seen_s:
                more = _bought(terms, part.seen_s, part.cost, part.work)
                found.bought[part.payer.pool] = found.bought.get(part.payer.pool, Bought()) + more
    found.idle = 1 - used / rated if rated else None
    return found


def _parts(rows: Sequence[HourRow], work: Sequence[UsageRow]) -> Iterator[_Part]:
    by_payer: dict[Payer, list[HourRow]] = defaultdict(list)
    for row in rows:
        by_payer[row.payer].append(row)
    seen = {each.payer: each for each in work}
    for payer, mine in by_payer.items():
        held_s = sum(row.gpu_seconds for row in mine)
        done = seen.get(payer, UsageRow(mine[0].hour_s, payer))
        covered = min(_ONE, Decimal(done.seen_gpu_s) / held_s) if held_s else _NOTHING
        cost = sum((row.cost for row in mine if row.cost is not None), _NOTHING)
        yield _Part(payer, held_s, covered * held_s, cost * covered, done)


def _bought(terms: OnPrem, gpu_s: Decimal, cost: Decimal, work: UsageRow | None = None) -> Bought:
    hours = gpu_s / _HOUR
    running = max(_NOTHING, cost - hours * terms.written_off_per_hour)
    tokens = (Decimal(work.input_tokens), Decimal(work.output_tokens)) if work is not None else (_NOTHING, _NOTHING)
    return Bought(hours, hours * terms.capital_per_gpu, running, *tokens)


def _last_currency(held: Mapping[int, Sequence[HourRow]]) -> str:
    known = [row.currency for hour_s in sorted(held) for row in held[hour_s] if row.price is not None and row.currency]
    return known[-1] if known else ""


def _name(payer: Payer) -> str:
    return f"{payer.namespace}/{payer.service}" if payer.service else ""
