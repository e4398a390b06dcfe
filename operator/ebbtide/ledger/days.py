"""Hours of the ledger added up to days, and what is read of both.

A day is one of the zone that the ledger is told to keep days of; it is added up once its hours are rolled up, in whole
GPU-seconds by price, and again when something about it becomes known late. Where such a day begins within an hour of
UTC (half past in Kolkata), that hour's parts are of lifetimes, so the day is exact all the same.

While hours are kept too, a report is exact for any span: days are the shortcut within it. Older time has days alone.
What is asked for then begins and ends with whole ones: a day belongs to the span that its middle lies in, so that
neighbouring spans share none and leave none out, and `covered` says what that comes to.

Worked example: days of UTC, and January of New York is asked for a year later. It is 05:00 UTC of 1 January to 05:00 of
1 February; the days from 1 to 31 January of UTC have their middle in it and are what is counted, and it is said so.
Where the ledger keeps days of America/New_York it is exact.

Functions take a connection within the caller's transaction.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec
import sqlalchemy as sa

from ebbtide.ledger import schema
from ebbtide.ledger.rows import get, payer_ids, put
from ebbtide.model.money import HourRow, Payer, UsageRow
from ebbtide.money.bill import HOUR_S
from ebbtide.money.calendar import Span, period_at

KEPT_S = 62 * 86_400  # this month and the last are exact in any time zone
_FORGOTTEN_S = 6 * HOUR_S  # of hours in one call, as many as are rolled up in one

Worked = Callable[[int, int, bool], Sequence[HourRow]]  # rows of a span from lifetimes, by the hour or as a whole
Day = tuple[int, int]  # [begin, end) in unix seconds
_Key = tuple[int, bool, str, str]
_PARTS = ("payer_id", "idle", "price", "currency")


@dataclass(frozen=True)
class Keeping:
    """How long lifetimes that ended and hours are kept, in seconds, and whose days hours are added up to."""

    lifetimes_s: float = KEPT_S
    hours_s: float = KEPT_S
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))


def roll(connection: sa.Connection, zone: ZoneInfo, worked: Worked) -> int:
    """Add up the next day that is over, if there is one; returns how many rows were made, 1 at least for a day."""
    day = _next(connection, zone)
    if day is None:
        return 0
    begin_s, end_s = day
    sums = _sums(connection, day, worked)
    table = schema.day
    connection.execute(sa.delete(table).where(table.c.begin_s >= begin_s))
    rows = [
        {"begin_s": begin_s, **dict(zip(_PARTS, key, strict=True)), "gpu_seconds": seconds, "estimated_s": estimated}
        for key, (seconds, estimated) in sums.items()
    ]
    if rows:
        connection.execute(sa.insert(table), rows)
    if begin_s >= _number(connection, "forgotten"):  # else its hours are gone, and nothing else can tell
        _roll_usage(connection, day)
    if not connection.execute(sa.select(schema.span).where(schema.span.c.begin_s == begin_s)).first():
        connection.execute(sa.insert(schema.span), {"begin_s": begin_s, "end_s": end_s})
    put(connection, "dayed", str(end_s))
    return len(rows) + 1


def reopen(connection: sa.Connection, news_s: int) -> None:
    """Something became known of `news_s`: hours, and days that have them, are worked out again from then on.

    A day of which not all lifetimes are kept any more stays as it is.
    """
    raw_s, dayed_s = _number(connection, "raw"), _number(connection, "dayed")
    at_s = max(news_s // HOUR_S * HOUR_S, raw_s)
    if at_s < dayed_s:
        found = _within(connection, at_s)
        begin_s = 0 if found is None else found[0] if found[0] >= raw_s else found[1]
        first_s = -(-begin_s // HOUR_S) * HOUR_S
        if begin_s >= hours_from_s(connection):
            at_s = max(at_s, first_s)
        else:  # its hours are forgotten: all of them are worked out
            at_s = first_s or at_s
            put(connection, "hours", str(begin_s))
        put(connection, "dayed", str(min(begin_s, dayed_s)))
    if at_s < _number(connection, "rolled"):
        put(connection, "rolled", str(at_s))


def open_from_s(connection: sa.Connection) -> int:
    """From when on hours and days are worked out again; 0: all are."""
    raw_s = _number(connection, "raw")
    found = _within(connection, raw_s) if raw_s else None
    return raw_s if found is None or found[0] == raw_s else found[1]


def reopen_usage(connection: sa.Connection, hours: Collection[int]) -> None:
    """Usage of these hours was written: days that were added up before are again."""
    until_s, from_s = _number(connection, "dayed"), _number(connection, "forgotten")
    late = [hour_s for hour_s in hours if from_s <= hour_s < until_s]
    for day in _spans(connection, until_s) if late else ():
        if any(day[0] <= hour_s < day[1] for hour_s in late):
            _roll_usage(connection, day)


def forget(connection: sa.Connection, now_s: float, keeping: Keeping) -> int:
    """Hours that days stand for, and lifetimes that ended long ago: some of them; returns how many rows went."""
    dayed_s, gone = _number(connection, "dayed"), 0
    span = schema.span.c
    old = sa.select(sa.func.max(span.end_s)).where(span.end_s <= min(dayed_s, int(now_s - keeping.hours_s)))
    hours_s = int(connection.execute(old).scalar() or 0)
    if hours_s > hours_from_s(connection):
        put(connection, "hours", str(hours_s))
        put(connection, "forgotten", str(max(hours_s, _number(connection, "forgotten"))))
    for column in (schema.hour.c.hour_s, schema.usage.c.hour_s):
        first_s = connection.execute(sa.select(sa.func.min(column))).scalar()
        if first_s is not None and first_s < hours_s // HOUR_S * HOUR_S:  # the hour that a day begins within is read
            until_s = min(hours_s // HOUR_S * HOUR_S, int(first_s) + _FORGOTTEN_S)
            gone += connection.execute(sa.delete(column.table).where(column < until_s)).rowcount
    raw_s, ends = _number(connection, "raw"), schema.lifetime.c.end_s
    old_s = min(_number(connection, "rolled"), dayed_s, int(now_s - keeping.lifetimes_s)) // HOUR_S * HOUR_S
    if keeping.hours_s <= keeping.lifetimes_s:  # parts of hours are of lifetimes, and days may cut the first of them
        old_s = min(old_s, hours_from_s(connection) // HOUR_S * HOUR_S)
    first_s = connection.execute(sa.select(sa.func.min(ends))).scalar()
    if first_s is not None:
        old_s = min(old_s, (max(raw_s, int(first_s)) + 86_400) // HOUR_S * HOUR_S)
    if old_s > raw_s:
        gone += 1 + connection.execute(sa.delete(schema.lifetime).where(ends <= old_s)).rowcount
        put(connection, "raw", str(old_s))
    return gone


def hours_from_s(connection: sa.Connection) -> int:
    """Before it days alone are kept; 0: hours of all time are."""
    return _number(connection, "hours")


def coarse(connection: sa.Connection, from_s: int, to_s: int) -> list[Day]:
    """Days of [from_s, to_s) of which no hours are kept: those whose middle lies in it."""
    before_s = hours_from_s(connection)
    return [day for day in _spans(connection, before_s) if from_s <= sum(day) / 2 < to_s] if from_s < before_s else []


def covered(connection: sa.Connection, from_s: int, to_s: int) -> Day:
    """What rows of [from_s, to_s) are of: the same where hours are kept, and before the first day, when nothing ran."""
    fine_s = hours_from_s(connection)
    spans = _spans(connection, fine_s)
    if from_s >= fine_s or not spans or to_s <= spans[0][0]:
        return from_s, to_s
    days = coarse(connection, from_s, to_s)
    begin_s = days[0][0] if days else min(max(from_s, fine_s), to_s)
    begin_s = min(begin_s, from_s) if days and days[0] == spans[0] and from_s < begin_s else begin_s
    return begin_s, to_s if to_s > fine_s else days[-1][1] if days else begin_s


def rows(connection: sa.Connection, days: Sequence[Day]) -> Iterator[HourRow]:
    """Of these days, which follow one another."""
    if not days:
        return
    lengths = {begin_s: end_s - begin_s for begin_s, end_s in days}
    table = schema.day
    query = sa.select(table, schema.payer.c.body).join(schema.payer)
    for row in connection.execute(query.where(table.c.begin_s.between(days[0][0], days[-1][0]))):
        payer, price = msgspec.json.decode(row.body, type=Payer), Decimal(row.price) if row.price else None
        yield HourRow(
            row.begin_s,
            payer,
            row.idle,
            price,
            row.currency,
            row.gpu_seconds,
            row.estimated_s,
            lengths[row.begin_s],
        )


def usage(connection: sa.Connection, days: Sequence[Day]) -> Iterator[UsageRow]:
    """Of these days, which follow one another."""
    if not days:
        return
    table = schema.usage_day
    columns = [table.c.begin_s, schema.payer.c.body, *(table.c[name] for name in schema.USAGE)]
    query = sa.select(*columns).join(schema.payer).where(table.c.begin_s.between(days[0][0], days[-1][0]))
    for begin_s, body, *seen in connection.execute(query):
        yield UsageRow(begin_s, msgspec.json.decode(body, type=Payer), *seen)


def added_up(connection: sa.Connection, from_s: int, to_s: int, worked: Worked) -> tuple[HourRow, ...]:
    """[from_s, to_s) as one row for each payer and price with `from_s` as its hour.

    Of whole days, of hours at both ends, and of lifetimes what is neither. The database adds whole numbers only.
    """
    before_s, dayed_s = hours_from_s(connection), _number(connection, "dayed")
    days = [
        day
        for day in _spans(connection, dayed_s)
        if (from_s <= sum(day) / 2 < to_s if day[1] <= before_s else from_s <= day[0] and day[1] <= to_s)
    ]
    totals: dict[tuple[Payer, bool, Decimal | None, str], list[int]] = defaultdict(lambda: [0, 0])
    begin_s = max(from_s, before_s)
    pieces = [(begin_s, to_s)]
    if days:
        column = schema.day.c.begin_s
        _add(connection, totals, column, days[0][0], days[-1][0] + 1)
        pieces = [(begin_s, min(to_s, days[0][0])), (max(begin_s, days[-1][1]), to_s)]
    for first_s, last_s in pieces:
        if first_s < last_s:
            _add_hours(connection, totals, first_s, last_s, worked)
    length_s = to_s - from_s
    return tuple(HourRow(from_s, *key, gpu_s, estimated_s, length_s) for key, (gpu_s, estimated_s) in totals.items())


def _add_hours(
    connection: sa.Connection,
    totals: dict[tuple[Payer, bool, Decimal | None, str], list[int]],
    from_s: int,
    to_s: int,
    worked: Worked,
) -> None:
    first_s = -(-from_s // HOUR_S) * HOUR_S
    last_s = min(to_s // HOUR_S * HOUR_S, _number(connection, "rolled"))
    pieces = [(from_s, to_s)]
    if first_s < last_s:
        _add(connection, totals, schema.hour.c.hour_s, first_s, last_s)
        pieces = [(from_s, first_s), (last_s, to_s)]
    for begin_s, end_s in pieces:
        for row in worked(begin_s, end_s, True) if begin_s < end_s else ():
            into = totals[row.payer, row.idle, row.price, row.currency]
            into[0] += row.gpu_seconds
            into[1] += row.estimated_s


def _add(
    connection: sa.Connection,
    totals: dict[tuple[Payer, bool, Decimal | None, str], list[int]],
    when: sa.Column[int],
    from_s: int,
    to_s: int,
) -> None:
    """Rows of a table whose time is in [from_s, to_s)."""
    whole = _grouped(when, from_s, to_s).subquery()
    query = sa.select(whole, schema.payer.c.body).join(schema.payer, whole.c.payer_id == schema.payer.c.id)
    for row in connection.execute(query):
        payer, price = msgspec.json.decode(row.body, type=Payer), Decimal(row.price) if row.price else None
        into = totals[payer, bool(row.idle), price, row.currency]
        into[0] += int(row.gpu_seconds)
        into[1] += int(row.estimated_s)


def _grouped(when: sa.Column[int], from_s: int, to_s: int) -> sa.Select[tuple[int, bool, str, str, int, int]]:
    table = when.table.c
    parts = [table[name] for name in _PARTS]
    seconds = [sa.func.sum(table[name]).label(name) for name in ("gpu_seconds", "estimated_s")]
    return sa.select(*parts, *seconds).where(when.between(from_s, to_s - 1)).group_by(*parts)


def _next(connection: sa.Connection, zone: ZoneInfo) -> Day | None:
    """The day to be added up next, as soon as all of its hours are rolled up."""
    begin_s, rolled_s, raw_s = (_number(connection, key) for key in ("dayed", "rolled", "raw"))
    span = schema.span.c
    if not begin_s:
        firsts = [sa.func.min(schema.hour.c.hour_s), sa.func.min(schema.usage.c.hour_s), sa.func.min(span.begin_s)]
        known = [first for first in (connection.execute(sa.select(each)).scalar() for each in firsts) if first]
        if not known:
            return None
        begin_s = int(period_at(Span.DAY, zone, min(known)).start_s)
    end_s = connection.execute(sa.select(span.end_s).where(span.begin_s == begin_s)).scalar()
    if end_s is None:
        end_s = int(period_at(Span.DAY, zone, begin_s).end_s)
        if end_s // HOUR_S * HOUR_S < raw_s:  # of hours that were rolled up by an older Ebbtide no part is known
            end_s = -(-end_s // HOUR_S) * HOUR_S
        later = connection.execute(sa.select(sa.func.min(span.begin_s)).where(span.begin_s > begin_s)).scalar()
        end_s = end_s if later is None else min(end_s, later)
    return (begin_s, int(end_s)) if end_s <= rolled_s else None


def _sums(connection: sa.Connection, day: Day, worked: Worked) -> dict[_Key, list[int]]:
    """What the day's rows are to be: of whole hours, and of lifetimes for the parts of hours at its ends."""
    begin_s, end_s = day
    first_s, last_s = -(-begin_s // HOUR_S) * HOUR_S, end_s // HOUR_S * HOUR_S
    sums: dict[_Key, list[int]] = defaultdict(lambda: [0, 0])
    for each in connection.execute(_grouped(schema.hour.c.hour_s, first_s, last_s)):
        sums[each.payer_id, bool(each.idle), each.price, each.currency] = [int(each.gpu_seconds), int(each.estimated_s)]
    parts = [
        row for piece in ((begin_s, first_s), (last_s, end_s)) if piece[0] < piece[1] for row in worked(*piece, True)
    ]
    ids = payer_ids(connection, {row.payer for row in parts})
    for row in parts:
        into = sums[ids[row.payer], row.idle, "" if row.price is None else str(row.price), row.currency]
        into[0] += row.gpu_seconds
        into[1] += row.estimated_s
    return sums


def _roll_usage(connection: sa.Connection, day: Day) -> None:
    """Of hours that begin within the day: nobody knows what was done in parts of an hour."""
    source, target = schema.usage.c, schema.usage_day
    connection.execute(sa.delete(target).where(target.c.begin_s == day[0]))
    counts = [sa.cast(sa.func.sum(source[name]), sa.BigInteger) for name in schema.USAGE]
    query = sa.select(sa.literal(day[0], sa.BigInteger), source.payer_id, *counts)
    query = query.where(source.hour_s.between(day[0], day[1] - 1)).group_by(source.payer_id)
    connection.execute(sa.insert(target).from_select(["begin_s", "payer_id", *schema.USAGE], query))


def _spans(connection: sa.Connection, until_s: int) -> list[Day]:
    """All that end by then, in order."""
    span = schema.span.c
    if not until_s:  # also of a ledger of an older version, which has no such table
        return []
    query = sa.select(span.begin_s, span.end_s).where(span.end_s <= until_s).order_by(span.begin_s)
    return [(int(row.begin_s), int(row.end_s)) for row in connection.execute(query)]


def _within(connection: sa.Connection, at_s: int) -> Day | None:
    """The day that it is in."""
    span = schema.span.c
    query = sa.select(span.begin_s, span.end_s).where((span.begin_s <= at_s) & (span.end_s > at_s))
    found = connection.execute(query).first()
    return None if found is None else (int(found.begin_s), int(found.end_s))


def _number(connection: sa.Connection, key: str) -> int:
    return int(get(connection, key) or 0)
