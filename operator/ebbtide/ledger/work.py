"""GPU-seconds beside what was done with them, added up by the database: what a price of tokens is worked out from.

A month of 10,000 services is 9 million hours of cost and 16 million of usage. Shares of an hour (what part of it was
seen, how much of that with a load) do not add up, but in nearly all hours they are plain: one price, no more seen than
was held, and the load known of all that was seen or of nothing. Sums of such hours say the same as the hours one by
one, so the database adds them, whole numbers only, and the others come one by one. Read in parts of a day, so that
neither the database nor the reader ever holds more than 24 times as many rows as there are payers.

Worked example: two hours of 4 GPUs at 2.50 USD, all seen with 1 million tokens and half of the other with 0.3 million:
28,800 GPU-seconds, of which 21,600 were seen, and 1.3 million tokens for 15 of 20 USD, as each hour by itself says.

Functions take a connection within the caller's transaction.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from ebbtide.ledger import schema
from ebbtide.ledger.days import Day
from ebbtide.ledger.rows import Payers
from ebbtide.model.money import UsageRow
from ebbtide.money.bill import HOUR_S
from ebbtide.money.units import Part, Work

_DAY_S = 86_400
_COUNTS = ("input_tokens", "output_tokens", "seen_gpu_s", "rated_gpu_s", "used_gpu_s", "weighed_tokens", "weighed_work")
_ODD = 2  # kinds of hours: 0 without a known load, 1 with one of all that was seen, 2 neither so nor so


class Reader:
    """Reads, and keeps what was added up so far."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection, self._payers = connection, Payers(connection)
        self._sums: dict[tuple[int, bool, str, str, int], list[int]] = defaultdict(lambda: [0] * (1 + len(_COUNTS)))

    def odd(self, from_s: int, to_s: int, days: Sequence[Day]) -> Iterator[Work]:
        """Of `days`, which follow one another, and of the hours that begin in [from_s, to_s), those that do not add up.

        The others are added to what `added_up` has.
        """
        for first_s, last_s in _cut(days[0][0], days[-1][0] + 1, 24 * _DAY_S) if days else ():
            yield from self._read(schema.day.c.begin_s, schema.usage_day.c.begin_s, first_s, last_s)
        for first_s, last_s in _cut(from_s, to_s, 24 * HOUR_S):
            yield from self._read(schema.hour.c.hour_s, schema.usage.c.hour_s, first_s, last_s)

    def added_up(self) -> Iterator[Work]:
        """All the others: one for each payer, price and kind."""
        for (number, idle, price, currency, _), (gpu_s, *counts) in self._sums.items():
            part = Part(Decimal(price) if price else None, currency, gpu_s)
            yield self._work(number, idle, (part,), counts)

    def _read(self, when: sa.Column[int], seen_when: sa.Column[int], from_s: int, to_s: int) -> Iterator[Work]:
        hours = _hours(when, seen_when, from_s, to_s).subquery()
        column = hours.c
        keys = (column.payer_id, column.idle, column.price, column.currency, column.kind)
        counts = [column.gpu_s, *(column[name] for name in _COUNTS)]
        some = False
        for number, idle, price, currency, kind, *sums in self._connection.execute(
            sa.select(*keys, *(sa.func.sum(each) for each in counts)).group_by(*keys)
        ):
            some |= kind == _ODD
            if kind != _ODD:
                into = self._sums[number, bool(idle), price, currency, kind]
                into[:] = [mine + int(more) for mine, more in zip(into, sums, strict=True)]
        if some:
            yield from self._one_by_one(hours, when)

    def _one_by_one(self, hours: sa.Subquery, when: sa.Column[int]) -> Iterator[Work]:
        cost, column = when.table.c, hours.c
        same = (when == column.at_s) & (cost.payer_id == column.payer_id) & (cost.idle == column.idle)
        query = sa.select(
            column.at_s,
            column.payer_id,
            column.idle,
            cost.price,
            cost.currency,
            cost.gpu_seconds,
            *(column[name] for name in _COUNTS),
        )
        found = self._connection.execute(
            query.join_from(hours, when.table, same).where(column.kind == _ODD).order_by(*query.selected_columns[:3])
        )
        for (_, number, idle), rows in groupby(found, key=lambda row: row[:3]):
            prices: list[Any] = list(rows)
            parts = tuple(Part(Decimal(each[3]) if each[3] else None, each[4], each[5]) for each in prices)
            yield self._work(number, bool(idle), parts, prices[0][6:])

    def _work(self, number: int, idle: bool, parts: tuple[Part, ...], counts: Sequence[int]) -> Work:
        payer = self._payers[number]
        return Work(payer, idle, parts, UsageRow(0, payer, *(int(each) for each in counts)))


def _hours(
    when: sa.Column[int], seen_when: sa.Column[int], from_s: int, to_s: int
) -> sa.Select[tuple[int, int, bool, str, str, int, int]]:
    """One row for each hour (or day), payer and whether it is idle: its GPU-seconds, its usage, and its kind."""
    cost, seen = when.table.c, seen_when.table.c
    keys = (when.label("at_s"), cost.payer_id, cost.idle)
    held = (
        sa.select(
            *keys,
            sa.func.min(cost.price).label("price"),
            sa.func.min(cost.currency).label("currency"),
            sa.func.sum(cost.gpu_seconds).label("gpu_s"),
            sa.func.count().label("prices"),
        )
        .where(when.between(from_s, to_s - 1))
        .group_by(when, cost.payer_id, cost.idle)
        .subquery()
    )
    same = (seen_when == held.c.at_s) & (seen.payer_id == held.c.payer_id) & sa.not_(held.c.idle)
    counts = {name: sa.func.coalesce(seen[name], 0) for name in _COUNTS}
    seen_s, rated_s = counts["seen_gpu_s"], counts["rated_gpu_s"]
    odd = (held.c.prices > 1) | (seen_s > held.c.gpu_s) | ((rated_s != 0) & (rated_s != seen_s))
    kind = sa.case((odd, _ODD), (rated_s == 0, 0), else_=1).label("kind")
    return sa.select(
        held.c.at_s,
        held.c.payer_id,
        held.c.idle,
        held.c.price,
        held.c.currency,
        held.c.gpu_s,
        kind,
        *(count.label(name) for name, count in counts.items()),
    ).join_from(held, seen_when.table, same, isouter=True)


def _cut(from_s: int, to_s: int, length_s: int) -> Iterator[tuple[int, int]]:
    for begin_s in range(from_s, to_s, length_s):
        yield begin_s, min(to_s, begin_s + length_s)
