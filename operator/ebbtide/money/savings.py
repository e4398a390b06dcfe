"""What was saved against two baselines, and what would be: figures that are never added.

The static fleet of a service is the most GPUs that it held at once, for ten minutes or longer, in the seven days before
the reported time: whoever does not scale needs that for good. Ten minutes, because a rollout holds old and new pods
beside each other for a while, and nobody would buy GPUs for that.

*Realised* is what that fleet would have cost less what the service's GPUs did cost, of the time in which Ebbtide
watched the service in mode Auto and of no other; what nobody watched is no saving. *Potential* is what GPUs cost while
the service was in Recommend, less what those would have cost that Ebbtide recommended for the same time: it supposes
that demand would have been the same.

The other baseline is what an HPA would have run (`money.hpa`, with its rule and limits), counted cycle by cycle: what
that would have cost less what the GPUs that were held in the same time did cost, at the hour's mean price.

Worked example: 8 GPUs at 2.50 USD were held at once last week. Today 4 were held for 24 hours, of which 18 were watched
in Auto: 18 h x (8 - 4) x 2.50 = 180 USD are realised, and nothing is said of the other six hours.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise

from ebbtide.model.money import HourRow, Lifetime, Payer, PriceRecord, UsageRow
from ebbtide.model.spec import Spec
from ebbtide.money.bill import HOUR_S, hours

STATIC_S, HELD_S = 7 * 86_400, 600  # where the static fleet is looked for, and how long it was held at least

_NOTHING, _HOUR = Decimal(0), Decimal(HOUR_S)
Fleet = Mapping[str, int]  # GPUs by pool


class Saving(Spec, frozen=True):
    """One service (namespace/name). Costs are in `currency`; None: not known, or there was no such time.

    `gpus`: of the static fleet, 0: none was seen. `acting_hours`: watched in Auto with a static fleet and all prices
    known: `baseline_cost` and `cost` are of these. `advised_hours`: GPU-hours held in Recommend, of which `potential`
    would have been saved. `hpa_hours`: in Auto with what an HPA would have run known: `hpa_cost` and `beside_hpa` (what
    was held in that time) are of these.
    """

    service: str
    currency: str
    gpus: int
    watched_hours: Decimal
    acting_hours: Decimal
    baseline_cost: Decimal | None
    cost: Decimal | None
    advised_hours: Decimal
    potential: Decimal | None
    hpa_hours: Decimal = _NOTHING
    hpa_cost: Decimal | None = None
    beside_hpa: Decimal | None = None

    @property
    def against_hpa(self) -> Decimal | None:
        """Negative: it cost more than an HPA would have."""
        return None if self.hpa_cost is None or self.beside_hpa is None else self.hpa_cost - self.beside_hpa

    @property
    def realised(self) -> Decimal | None:
        """Negative: it cost more than the static fleet would have."""
        return None if self.baseline_cost is None or self.cost is None else self.baseline_cost - self.cost


def savings(
    rows: Iterable[HourRow],
    usage: Sequence[UsageRow],
    records: Iterable[PriceRecord],
    static: Mapping[str, Fleet],
    from_s: int,
    to_s: int,
) -> tuple[Saving, ...]:
    """Of every service that was watched, by name. All is of [from_s, to_s), of which the ledger knows everything."""
    return Savings(records, static, from_s, to_s).of(rows, usage)


class Savings:
    """The same of some services at a time: prices of pools are worked out once."""

    def __init__(self, records: Iterable[PriceRecord], static: Mapping[str, Fleet], from_s: int, to_s: int) -> None:
        self._static, self._from_s, self._to_s = static, from_s, to_s
        self._prices = _Prices(records, from_s, to_s)

    def of(self, rows: Iterable[HourRow], usage: Iterable[UsageRow]) -> tuple[Saving, ...]:
        """Of every service that `usage` says was watched, by name; `rows` and `usage` are all that there is of them."""
        by_service: dict[str, list[UsageRow]] = defaultdict(list)
        for each in usage:
            by_service[_service(each.payer)].append(each)
        costs: dict[tuple[str, int], list[HourRow]] = defaultdict(list)
        for row in rows:
            if not row.idle:  # the static fleet is of what was held too
                costs[_service(row.payer), row.hour_s].append(row)
        return tuple(self._one(service, seen, costs) for service, seen in sorted(by_service.items()))

    def _one(
        self, service: str, seen: Sequence[UsageRow], costs: Mapping[tuple[str, int], Sequence[HourRow]]
    ) -> Saving:
        fleet, prices = self._static.get(service, {}), self._prices
        currency = prices.last_currency({*fleet, *(each.payer.pool for each in seen)})
        baseline, cost, acting_s = _NOTHING, _NOTHING, 0
        for each in seen:
            if not each.acting_s:
                continue
            share = Decimal(each.acting_s) / _length(each.hour_s, self._from_s, self._to_s)
            wanted = _fleet_cost(fleet, each.hour_s, prices, currency)
            spent = _spent(costs.get((service, each.hour_s), ()), currency)
            if wanted is not None and spent is not None:
                baseline, cost, acting_s = baseline + wanted * share, cost + spent * share, acting_s + each.acting_s
        would_save, held_s = _potential(seen, prices, currency)
        hpa_cost, beside_hpa, compared_s = _against_hpa(seen, prices, currency)
        return Saving(
            service,
            currency,
            sum(fleet.values()),
            Decimal(sum(each.watched_s for each in seen)) / _HOUR,
            Decimal(acting_s) / _HOUR,
            baseline if acting_s else None,
            cost if acting_s else None,
            Decimal(held_s) / _HOUR,
            would_save,
            Decimal(compared_s) / _HOUR,
            hpa_cost if compared_s else None,
            beside_hpa if compared_s else None,
        )


def fleets(lifetimes: Iterable[Lifetime], from_s: int, to_s: int) -> dict[str, dict[str, int]]:
    """The static fleet of each service by what ran in [from_s, to_s): GPUs by pool."""
    by_service: dict[str, list[Lifetime]] = defaultdict(list)
    for item in lifetimes:
        if item.payer.service and not item.is_node:
            by_service[_service(item.payer)].append(item)
    found = {service: _most(items, from_s, to_s) for service, items in by_service.items()}
    return {service: fleet for service, fleet in found.items() if fleet}


def _most(items: Sequence[Lifetime], from_s: int, to_s: int) -> dict[str, int]:
    """GPUs by pool at the most that was held for HELD_S."""
    moves: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for item in items:
        begin_s, end_s = max(item.begin_s, from_s), min(to_s if item.end_s is None else item.end_s, to_s)
        if begin_s < end_s:
            moves[begin_s][item.payer.pool] += item.gpus
            moves[end_s][item.payer.pool] -= item.gpus
    pieces: list[tuple[int, dict[str, int]]] = []  # (seconds, what was held)
    now: dict[str, int] = defaultdict(int)
    for begin_s, end_s in pairwise(sorted(moves)):
        for pool, gpus in moves[begin_s].items():
            now[pool] += gpus
        pieces.append((end_s - begin_s, {pool: gpus for pool, gpus in now.items() if gpus}))
    for level in sorted({sum(held.values()) for _, held in pieces}, reverse=True):
        lasted_s, least = 0, dict[str, int]()
        for seconds, held in pieces:
            total = sum(held.values())
            lasted_s, least = (lasted_s + seconds, held if total == level else least) if total >= level else (0, {})
            if lasted_s >= HELD_S and least:
                return least
    return {}


def _service(payer: Payer) -> str:
    return f"{payer.namespace}/{payer.service}" if payer.service else ""


def _length(hour_s: int, from_s: int, to_s: int) -> int:
    """Seconds of the hour that are reported."""
    return max(1, min(to_s, hour_s + HOUR_S) - max(from_s, hour_s))


_Price = tuple[Decimal, str, int]  # cost of a GPU, currency, of so many seconds


class _Prices:
    """Of one GPU of a pool through each hour; hours with an unknown price, or a currency that changes, are left out."""

    def __init__(self, records: Iterable[PriceRecord], from_s: int, to_s: int) -> None:
        self._from_s, self._to_s = from_s, to_s
        self._records: dict[str, list[PriceRecord]] = defaultdict(list)
        for record in records:
            self._records[record.pool].append(record)
        self._by_pool: dict[str, dict[int, _Price]] = {}

    def at(self, pool: str, hour_s: int) -> _Price | None:
        """None: it is not known."""
        return self._of(pool).get(hour_s)

    def last_currency(self, pools: Iterable[str]) -> str:
        """That of the last hour of which the price of any is known; empty: of none is."""
        known = [
            max((hour_s, price[1]) for hour_s, price in self._of(pool).items()) for pool in pools if self._of(pool)
        ]
        return max(known)[1] if known else ""

    def _of(self, pool: str) -> dict[int, _Price]:
        if pool not in self._by_pool:
            self._by_pool[pool] = self._worked_out(pool) if pool else {}
        return self._by_pool[pool]

    def _worked_out(self, pool: str) -> dict[int, _Price]:
        one = Lifetime(pool, Payer(pool), 1, self._from_s, self._to_s, self._to_s)
        found: dict[int, _Price] = {}
        wrong = set()
        for row in hours([one], self._records.get(pool, ()), self._from_s, self._to_s):
            cost, currency, seconds = found.get(row.hour_s, (_NOTHING, row.currency, 0))
            if row.cost is None or currency != row.currency:
                wrong.add(row.hour_s)
            else:
                found[row.hour_s] = cost + row.cost, currency, seconds + row.gpu_seconds
        return {hour_s: value for hour_s, value in found.items() if hour_s not in wrong}


def _fleet_cost(fleet: Fleet, hour_s: int, prices: _Prices, currency: str) -> Decimal | None:
    """All through the hour, as far as it is reported; None: there is none, or a price is not known."""
    known = [(prices.at(pool, hour_s), gpus) for pool, gpus in fleet.items()]
    if not known or any(price is None or price[1] != currency for price, _ in known):
        return None
    return sum((price[0] * gpus for price, gpus in known if price is not None), _NOTHING)


def _spent(rows: Iterable[HourRow], currency: str) -> Decimal | None:
    total = _NOTHING
    for row in rows:
        if row.cost is None or row.currency != currency:
            return None
        total += row.cost
    return total


def _potential(seen: Sequence[UsageRow], prices: _Prices, currency: str) -> tuple[Decimal | None, int]:
    """(what would have been saved, of so many GPU-seconds)."""
    saved, held_s, known = _NOTHING, 0, False
    for rows in _priced_hours([each for each in seen if each.held_gpu_s or each.advised_gpu_s], prices, currency):
        for each, price, seconds in rows:
            saved += price * (each.held_gpu_s - each.advised_gpu_s) / seconds
            held_s, known = held_s + each.held_gpu_s, True
    return (saved if known else None), held_s


def _against_hpa(seen: Sequence[UsageRow], prices: _Prices, currency: str) -> tuple[Decimal, Decimal, int]:
    """(what an HPA's GPUs would have cost, what those did that were held, of so many seconds)."""
    would, did, compared_s = _NOTHING, _NOTHING, 0
    of_hour = {each.hour_s: each.compared_s for each in seen if each.compared_s}
    for rows in _priced_hours([each for each in seen if each.ran_gpu_s or each.hpa_gpu_s], prices, currency):
        for each, price, seconds in rows:
            would, did = would + price * each.hpa_gpu_s / seconds, did + price * each.ran_gpu_s / seconds
        compared_s += of_hour.get(rows[0][0].hour_s, 0)
    return would, did, compared_s


def _priced_hours(
    rows: Iterable[UsageRow], prices: _Prices, currency: str
) -> Iterator[list[tuple[UsageRow, Decimal, int]]]:
    """By hour, with what a GPU cost for so many seconds.

    Without hours in which one of the pools has no price in the currency: what would be cheaper there nobody knows.
    """
    by_hour: dict[int, list[UsageRow]] = defaultdict(list)
    for each in rows:
        by_hour[each.hour_s].append(each)
    for hour_s, found in by_hour.items():
        known = [(each, prices.at(each.payer.pool, hour_s)) for each in found]
        priced = [(each, price[0], price[2]) for each, price in known if price is not None and price[1] == currency]
        if len(priced) == len(known):
            yield priced
