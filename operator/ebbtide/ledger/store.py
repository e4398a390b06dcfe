"""The ledger's database: SQLite by default, PostgreSQL by URL, the same tables and the same code.

Lifetimes and price records are the truth; hours are worked out from them (`money.bill`) once they are over, and again
when something about them becomes known late. So a row that was lost or is in doubt can always be made anew for as long
as lifetimes are kept. Hours are added up to days (`ledger.days`), which are all that is kept of older time. Usage
cannot be made anew: its rows are written whole, so that writing one twice counts once, and what nobody saw is in none.
Each transaction checks the leader's epoch: one that was stopped and comes back cannot write.

Threads: calls block; they belong in `asyncio.to_thread`.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from ebbtide.aside import move_aside
from ebbtide.errors import ConfigurationError, ConflictError, RetryableError
from ebbtide.ledger import days, schema
from ebbtide.ledger.days import Keeping
from ebbtide.ledger.rows import Payers, Row, get, payer_ids, put, replace
from ebbtide.ledger.work import Reader
from ebbtide.model.money import (
    Hole,
    HourRow,
    LabelsRecord,
    Lifetime,
    OfferRecord,
    Payer,
    PolicyRecord,
    PriceRecord,
    Selection,
    UsageRow,
)
from ebbtide.money.bill import HOUR_S, hours
from ebbtide.money.idle import OWED_S
from ebbtide.money.units import Work, joined

Record = TypeVar("Record")
Service = tuple[str, str]  # namespace and name; no name: pods and GPUs of none
FILE = "ledger.sqlite"  # in the operator's data folder, where no URL is given
LATE_S = 3600  # after its end an hour is rolled up: what comes later than that has it done again
MOST_ROWS = 50_000  # of cost and of usage together in one part of `parts`, or one service's if that has more: 40 MB
MOST_ROLLED_S = 6 * HOUR_S  # in one call: 20,000 payers make 20,000 rows an hour

_AT_ONCE = 500  # values in one statement


class Ledger:
    """One database. `notice` says what was moved aside at the start, '' when nothing was.

    `where` is a file, or a URL such as postgresql://ebbtide@db/ebbtide. Raises ConfigurationError where it cannot be
    used at all, RetryableError when a call fails later: nothing of that call was written then.
    """

    def __init__(self, where: Path | str, *, read_only: bool = False) -> None:
        self.notice = ""
        self.rolls = 0  # how often hours were worked out here: what was read of them before may be another by now
        self._url = _url(where)
        self.name = self._url.set(query={}).render_as_string(hide_password=True)
        try:
            self._engine = self._reader() if read_only else self._opened()
        except (sa.exc.DatabaseError, OSError) as error:
            raise ConfigurationError(f"ledger {self.name}: {_words(error)}. {_advice(self._url)}") from error

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    def lead(self, now_s: float) -> int:
        """Begin a new epoch, after which no earlier leader writes any more; returns it.

        With the first one, at `now_s` (unix seconds), the ledger begins: what ran before is not counted.
        """
        with self._transaction() as connection:
            epoch = int(get(connection, "epoch", for_update=True) or 0) + 1
            put(connection, "epoch", str(epoch))
            if epoch == 1:
                put(connection, "since", str(int(now_s)))
        return epoch

    @property
    def since_s(self) -> int:
        """Unix second from which on everything is counted; 0: nothing is yet."""
        with self._transaction(reads=True) as connection:
            return int(get(connection, "since") or 0)

    def ends(self, uids: Collection[str]) -> dict[str, int]:
        """Until when those of these uids that ended were counted."""
        found: dict[str, int] = {}
        table, some = schema.lifetime.c, list(uids)
        with self._transaction(reads=True) as connection:
            for first in range(0, len(some), _AT_ONCE):
                which = table.uid.in_(some[first : first + _AT_ONCE]) & table.end_s.is_not(None)
                query = sa.select(table.uid, sa.func.max(table.end_s).label("end_s")).where(which).group_by(table.uid)
                found |= {row.uid: row.end_s for row in connection.execute(query)}
        return found

    @property
    def watermark_s(self) -> int:
        """Unix second up to which everything was written; 0: nothing ever was."""
        with self._transaction(reads=True) as connection:
            return int(get(connection, "watermark") or 0)

    def running(self) -> dict[str, Lifetime]:
        """What ran when the ledger was last written, by uid; it was last seen then."""
        seen_s = self.watermark_s
        with self._transaction(reads=True) as connection:
            found = _lifetimes(connection, schema.lifetime.c.end_s.is_(None))
        return {item.uid: msgspec.structs.replace(item, seen_s=max(item.seen_s, seen_s)) for item in found}

    def lifetimes(self, from_s: int, to_s: int) -> tuple[Lifetime, ...]:
        """What ran at some time of [from_s, to_s), as far as it is kept (see `raw_s`)."""
        table = schema.lifetime.c
        with self._transaction(reads=True) as connection:
            alive = (table.begin_s < to_s) & (table.end_s.is_(None) | (table.end_s > from_s))
            return tuple(_lifetimes(connection, alive))

    def departed(self, from_s: int) -> tuple[Lifetime, ...]:
        """Pods that ended after `from_s`."""
        table = schema.lifetime.c
        with self._transaction(reads=True) as connection:
            return tuple(item for item in _lifetimes(connection, table.end_s > from_s) if not item.is_node)

    @property
    def raw_s(self) -> int:
        """Unix second before which lifetimes that ended are no longer kept; 0: all are."""
        with self._transaction(reads=True) as connection:
            return int(get(connection, "raw") or 0)

    def prices(self) -> tuple[PriceRecord, ...]:
        """Every price record, sorted by pool and when it became known."""
        with self._transaction(reads=True) as connection:
            return _prices(connection)

    def policies(self) -> tuple[PolicyRecord, ...]:
        """Every policy record, sorted by name and time."""
        return self._records(schema.policy, 2, PolicyRecord)

    def labels(self) -> tuple[LabelsRecord, ...]:
        """Every record of services' labels, sorted by service and time."""
        return self._records(schema.labels, 2, LabelsRecord)

    def offers(self) -> tuple[OfferRecord, ...]:
        """Every record of what services say that an API would charge, sorted by service and time."""
        return self._records(schema.offer, 3, OfferRecord)

    def holes(self, from_s: int, to_s: int) -> tuple[Hole, ...]:
        """Of what time of [from_s, to_s) something is missing, in order."""
        table = schema.hole.c
        return self._records(schema.hole, 4, Hole, (table.from_s < to_s) & (table.to_s > from_s))

    def _records(
        self, table: sa.Table, version: int, kind: type[Record], within: sa.ColumnElement[bool] | None = None
    ) -> tuple[Record, ...]:
        """What a table has that is there since `version`, in the order of its key."""
        with self._transaction(reads=True) as connection:
            if self._version(connection) < version:
                return ()
            query = sa.select(table.c.body).order_by(*table.primary_key.columns)
            rows = connection.execute(query if within is None else query.where(within))
            return tuple(msgspec.json.decode(row.body, type=kind) for row in rows)

    @property
    def usage_s(self) -> int:
        """Unix second up to which usage was written; 0: none ever was."""
        with self._transaction(reads=True) as connection:
            return int(get(connection, "usage") or 0)

    def usage(self, from_s: int, to_s: int) -> tuple[UsageRow, ...]:
        """Usage of the hours that begin in [from_s, to_s), sorted; of days where they alone are kept."""
        with self._transaction(reads=True) as connection:
            if self._version(connection) < 2:
                return ()
            old = tuple(days.usage(connection, days.coarse(connection, from_s, to_s)))
            from_s = max(from_s, days.hours_from_s(connection))
            rows = self._usage(connection, from_s, to_s)
        return (*old, *sorted(rows))

    def _usage(self, connection: sa.Connection, from_s: int, to_s: int) -> list[UsageRow]:
        within = (schema.usage.c.hour_s >= from_s) & (schema.usage.c.hour_s < to_s)
        known = schema.USAGE if self._version(connection) >= 3 else schema.USAGE_OF_2
        counts = [schema.usage.c[name] for name in known]
        query = sa.select(schema.usage.c.hour_s, schema.payer.c.body, *counts).join(schema.payer).where(within)
        # by position: a month of 200 services are 300,000 rows, and names cost more than all the rest
        return [
            UsageRow(hour_s, msgspec.json.decode(body, type=Payer), *seen)
            for hour_s, body, *seen in connection.execute(query)
        ]

    def write(
        self,
        epoch: int,
        at_s: int,
        changed: Iterable[Lifetime],
        records: Iterable[PriceRecord] = (),
        *,
        selections: Iterable[Selection] = (),
        usage: Iterable[UsageRow] | None = None,
        holes: Iterable[Hole] = (),
    ) -> None:
        """What began, ended or was priced since the last call, as of `at_s`, in one transaction.

        `selections` are new records of what policies select and of what services declare. `usage`: rows as they are by
        now, whole; None: those that there are stay the last word up to when they were written. Raises ConflictError
        where another leader has begun an epoch since.
        """
        with self._transaction() as connection:
            self._check(connection, epoch)
            lives, made = list(changed), list(records)
            ids = payer_ids(connection, {item.payer for item in lives})
            since = _news(connection, lives)
            replace(connection, schema.lifetime, ("uid", "begin_s"), [_row(item, ids) for item in lives])
            replace(connection, schema.price, ("pool", "from_s"), [_price(record) for record in made])
            # a pool's first price is of time in which nothing of it was counted yet
            since += [record.from_s for record in made if record.from_s]
            if since and min(since) < int(get(connection, "rolled") or 0):
                days.reopen(connection, min(since))
            put(connection, "watermark", str(max(at_s, int(get(connection, "watermark") or 0))))
            _select(connection, selections)
            missing = [
                {"from_s": hole.from_s, "to_s": hole.to_s, "body": msgspec.json.encode(hole).decode()} for hole in holes
            ]
            replace(connection, schema.hole, ("from_s", "to_s"), missing)
            if usage is not None:
                worked = list(usage)
                ids = payer_ids(connection, {row.payer for row in worked})
                replace(connection, schema.usage, ("hour_s", "payer_id"), [_usage(row, ids) for row in worked])
                days.reopen_usage(connection, {row.hour_s for row in worked})
                put(connection, "usage", str(max(at_s, int(get(connection, "usage") or 0))))

    def roll_up(self, epoch: int, now_s: float, keeping: Keeping | None = None) -> int:
        """Work out hours that are over, six at most, add up one day, and forget a part of what is not kept any more.

        Each is a transaction of its own, so that nobody waits for long. Returns the number of rows that were made or
        went; 0: nothing is left to do.
        """
        kept = keeping or Keeping()
        done = self._roll_hours(epoch, now_s)
        with self._transaction() as connection:
            self._check(connection, epoch)
            done += days.roll(connection, kept.zone, self._working(connection))
        with self._transaction() as connection:
            self._check(connection, epoch)
            done += days.forget(connection, now_s, kept)
        return done

    def _roll_hours(self, epoch: int, now_s: float) -> int:
        with self._transaction() as connection:
            self._check(connection, epoch)
            end_s = (int(now_s) - LATE_S) // HOUR_S * HOUR_S
            first = connection.execute(sa.select(sa.func.min(schema.lifetime.c.begin_s))).scalar()
            begin_s = max(int(get(connection, "rolled") or 0), int(first or 0) // HOUR_S * HOUR_S)
            end_s = min(end_s, begin_s + MOST_ROLLED_S)
            if first is None or begin_s >= end_s:
                return 0
            rows = self._worked_out(connection, begin_s, end_s)
            connection.execute(sa.delete(schema.hour).where(schema.hour.c.hour_s >= begin_s))
            if rows:
                ids = payer_ids(connection, {row.payer for row in rows})
                connection.execute(sa.insert(schema.hour), [_hour(row, ids) for row in rows])
            put(connection, "rolled", str(end_s))
            self.rolls += 1
            return len(rows) or 1

    def rows(self, from_s: int, to_s: int) -> tuple[HourRow, ...]:
        """All rows of [from_s, to_s): rolled up hours, and the rest as it is known now; days where they alone are kept.

        Parts of an hour at either end are of lifetimes; of those that are no longer kept they are empty. Days that are
        cut are whole or left out (see `covered`).
        """
        return tuple(self.each_row(from_s, to_s))

    def each_row(self, from_s: int, to_s: int) -> Iterator[HourRow]:
        """The same one by one, in order of time: a month of them is read in parts of a few hours."""
        with self._transaction(reads=True) as connection:
            payers = Payers(connection)
            for day in days.coarse(connection, from_s, to_s):
                yield from days.rows(connection, [day])
            from_s = max(from_s, days.hours_from_s(connection))
            first_s, last_s = _rolled_up(connection, from_s, to_s)
            yield from self._bit_by_bit(connection, from_s, first_s)
            table = schema.hour.c
            for begin_s, end_s in _cut(first_s, last_s):
                within = table.hour_s.between(begin_s, end_s - 1)
                yield from _hours(connection, payers, sa.select(schema.hour).where(within).order_by(table.hour_s))
            yield from self._bit_by_bit(connection, last_s, to_s)

    def parts(self, from_s: int, to_s: int) -> Iterator[tuple[list[HourRow], list[UsageRow]]]:
        """`rows` and `usage` of the hours that touch [from_s, to_s), some services at a time, each as a whole.

        Those of no service are with those of some. Of time of which days alone are kept there is nothing. Of what is
        not rolled up (yet, or again) all is in memory at once.
        """
        with self._transaction(reads=True) as connection:
            from_s = max(from_s, days.hours_from_s(connection))
            first_s, last_s = _rolled_up(connection, from_s, to_s)
            others: dict[Service, list[HourRow]] = defaultdict(list)
            for begin_s, end_s in ((from_s, first_s), (last_s, to_s)):
                for row in self._bit_by_bit(connection, begin_s, end_s):
                    others[row.payer.namespace, row.payer.service].append(row)
            payers, usage_from_s = Payers(connection), from_s // HOUR_S * HOUR_S
            for services in _some(payers.by_service(), others, max(1, (to_s - from_s) // HOUR_S)):
                ids = [number for service in services for number in services[service]]
                rows = [row for service in services for row in others.get(service, ())]
                for which in _lookups(schema.hour, range(first_s, last_s, HOUR_S), ids):
                    rows += _hours(connection, payers, sa.select(schema.hour).where(which))
                usage = list(self._usage_of(connection, payers, ids, range(usage_from_s, to_s, HOUR_S)))
                if rows or usage:
                    yield rows, usage

    def _usage_of(
        self, connection: sa.Connection, payers: Payers, ids: Sequence[int], hours_s: Sequence[int]
    ) -> Iterator[UsageRow]:
        version, table = self._version(connection), schema.usage.c
        if version < 2:
            return
        known = schema.USAGE if version >= 3 else schema.USAGE_OF_2
        query = sa.select(table.hour_s, table.payer_id, *(table[name] for name in known))
        for which in _lookups(schema.usage, hours_s, ids):
            for hour_s, number, *seen in connection.execute(query.where(which)):
                yield UsageRow(hour_s, payers[number], *seen)

    def work(self, from_s: int, to_s: int) -> Iterator[Work]:
        """GPU-seconds beside usage, of the hours that begin in [from_s, to_s); of days where they alone are kept.

        The database adds up what adds up (see `ledger.work`): reading a month takes the memory of a day.
        """
        with self._transaction(reads=True) as connection:
            if self._version(connection) < 2:  # no usage: cost is all there is
                yield from joined(days.added_up(connection, from_s, to_s, self._working(connection)), ())
                return
            reader, old = Reader(connection), days.coarse(connection, from_s, to_s)
            from_s = max(from_s, days.hours_from_s(connection))
            first_s, last_s = _rolled_up(connection, from_s, to_s)
            # days that begin at half past: what was done in the first part of such an hour is the day's before
            yield from joined(self._bit_by_bit(connection, from_s, first_s), ()) if last_s > first_s else ()
            yield from reader.odd(first_s, last_s, old)
            yield from reader.added_up()
            for begin_s, end_s in _cut(last_s if last_s > first_s else from_s, to_s):
                yield from joined(self._worked_out(connection, begin_s, end_s), self._usage(connection, begin_s, end_s))

    @property
    def rolled_s(self) -> int:
        """Unix second up to which hours are rolled up; 0: none is."""
        with self._transaction(reads=True) as connection:
            return int(get(connection, "rolled") or 0)

    def added_up(self, from_s: int, to_s: int) -> tuple[HourRow, ...]:
        """The rows of [from_s, to_s) as one for each payer and price with `from_s` as its hour.

        The database adds, and whole numbers only: a month of 10,000 services is 7 million hours, or 300,000 days.
        """
        with self._transaction(reads=True) as connection:
            return days.added_up(connection, from_s, to_s, self._working(connection))

    def covered(self, from_s: int, to_s: int) -> tuple[int, int]:
        """Of what time rows and usage of [from_s, to_s) are: other than that only where days alone are kept."""
        with self._transaction(reads=True) as connection:
            return days.covered(connection, from_s, to_s)

    @property
    def open_s(self) -> int:
        """Unix second from which on cost is worked out again where something becomes known late; 0: all is."""
        with self._transaction(reads=True) as connection:
            return days.open_from_s(connection)

    @property
    def hours_s(self) -> int:
        """Unix second before which days alone are kept; 0: hours of all time are."""
        with self._transaction(reads=True) as connection:
            return days.hours_from_s(connection)

    def _working(self, connection: sa.Connection) -> days.Worked:
        return lambda from_s, to_s, whole: self._worked_out(connection, from_s, to_s, whole=whole)

    def _worked_out(
        self, connection: sa.Connection, from_s: int, to_s: int, *, whole: bool = False
    ) -> tuple[HourRow, ...]:
        table = schema.lifetime.c
        # who held a node last owes for it a while longer
        alive = (table.begin_s < to_s) & (table.end_s.is_(None) | (table.end_s > from_s - OWED_S))
        their_nodes = table.is_node & table.uid.in_(sa.select(table.node).where(alive))
        return hours(_lifetimes(connection, alive | their_nodes), _prices(connection), from_s, to_s, whole=whole)

    def _bit_by_bit(self, connection: sa.Connection, from_s: int, to_s: int) -> Iterator[HourRow]:
        """The same in order of time, a few hours at once: after an edit of the past months may have to be made anew."""
        for begin_s, end_s in _cut(from_s, to_s):
            yield from self._worked_out(connection, begin_s, end_s)

    def _check(self, connection: sa.Connection, epoch: int) -> None:
        current = int(get(connection, "epoch", for_update=True) or 0)
        if current != epoch:
            raise ConflictError(f"ledger {self.name}: another leader writes it since ({current}, not {epoch})")

    @contextmanager
    def _transaction(self, *, reads: bool = False) -> Iterator[sa.Connection]:
        try:
            with self._engine.execution_options(reads=reads).begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            text = f"ledger {self.name}: {_words(error)}. Nothing was written; it is tried again"
            raise RetryableError(text) from error

    def _reader(self) -> sa.Engine:
        """For looking alone: it makes, moves and locks nothing."""
        url = self._url
        if url.get_backend_name() == "sqlite":
            url = URL.create("sqlite", database=f"file:{url.database}", query={"mode": "ro", "uri": "true"})
        engine = _engine(url)
        with engine.execution_options(reads=True).begin() as connection:
            self._check_version(connection)
        return engine

    def _check_version(self, connection: sa.Connection) -> None:
        version = int(get(connection, "version") or schema.VERSION)
        if version > schema.VERSION:
            raise ConfigurationError(
                f"ledger {self.name}: it has schema version {version}, written by a newer Ebbtide; this one knows "
                f"{schema.VERSION}. Run that release, or name another database"
            )

    def _version(self, connection: sa.Connection) -> int:
        """A ledger that only an older Ebbtide has written yet lacks tables and columns, and who reads makes none."""
        return int(get(connection, "version") or schema.VERSION)

    def _opened(self) -> sa.Engine:
        if self._url.get_backend_name() == "sqlite" and self._url.database:
            path = Path(self._url.database)
            path.parent.mkdir(parents=True, exist_ok=True)
            fault = _fault_of(path)
            if fault:
                self.notice = f"{path}: {fault}. It was moved to {move_aside(path)}; the ledger begins anew"
        engine = _engine(self._url)
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _prepare_sqlite)
        with engine.begin() as connection:
            schema.metadata.create_all(connection)
            self._check_version(connection)
            if get(connection, "epoch") is None:
                put(connection, "epoch", "0")
            # older versions had fewer tables, which `create_all` has made by now; what is in the others stays as it is
            if get(connection, "version", for_update=True) == "2":
                for name in schema.USAGE[len(schema.USAGE_OF_2) :]:
                    connection.exec_driver_sql(f"ALTER TABLE usage ADD COLUMN {name} BIGINT NOT NULL DEFAULT 0")
            put(connection, "version", str(schema.VERSION))
        return engine


def _cut(from_s: int, to_s: int) -> Iterator[tuple[int, int]]:
    """In parts of a few hours, at whole ones."""
    while from_s < to_s:
        end_s = min(to_s, from_s // HOUR_S * HOUR_S + MOST_ROLLED_S)
        yield from_s, end_s
        from_s = end_s


def _rolled_up(connection: sa.Connection, from_s: int, to_s: int) -> tuple[int, int]:
    """The whole hours of [from_s, to_s) that are rolled up, [first, last); where there are none both are `to_s`."""
    first_s = -(-from_s // HOUR_S) * HOUR_S
    last_s = min(to_s // HOUR_S * HOUR_S, int(get(connection, "rolled") or 0))
    return (first_s, last_s) if first_s < last_s else (to_s, to_s)


def _hours(connection: sa.Connection, payers: Payers, query: sa.Select[Any]) -> Iterator[HourRow]:
    for row in connection.execute(query):
        price = Decimal(row.price) if row.price else None
        seconds = row.gpu_seconds, row.estimated_s
        yield HourRow(row.hour_s, payers[row.payer_id], row.idle, price, row.currency, *seconds)


def _some(
    known: Mapping[Service, Sequence[int]], more: Iterable[Service], hours: int
) -> Iterator[dict[Service, Sequence[int]]]:
    """Services with their payers, so many at a time that they have MOST_ROWS rows in so many hours, or one."""
    some: dict[Service, Sequence[int]] = {}
    for service in sorted({*known, *more}):
        ids = known.get(service, ())
        if some and (sum(map(len, some.values())) + len(ids)) * hours * 2 > MOST_ROWS:
            yield some
            some = {}
        some[service] = ids
    if some:
        yield some


def _lookups(table: sa.Table, hours_s: Sequence[int], ids: Sequence[int]) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions on both columns of the key by their values, so that what is none of theirs is not read."""
    for first in range(0, len(ids), _AT_ONCE):
        for begin in range(0, len(hours_s), _AT_ONCE):
            when = table.c.hour_s.in_(hours_s[begin : begin + _AT_ONCE])
            yield when & table.c.payer_id.in_(ids[first : first + _AT_ONCE])


def _engine(url: URL) -> sa.Engine:
    """A server that does not answer, or another's lock, ends a call after a while instead of keeping it for ever."""
    if url.get_backend_name() == "postgresql":
        options = "-c lock_timeout=5000 -c idle_in_transaction_session_timeout=30000 -c statement_timeout=60000"
        limits = {"connect_timeout": 5, "keepalives_idle": 10, "tcp_user_timeout": 15_000, "options": options}
        return sa.create_engine(url, pool_pre_ping=True, connect_args=limits)
    engine = sa.create_engine(url)
    sa.event.listen(engine, "connect", _own_transactions)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _own_transactions(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # they begin where SQLAlchemy says so
    connection.execute("PRAGMA busy_timeout = 5000")


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reads") else "BEGIN IMMEDIATE")


def _url(where: Path | str) -> URL:
    if isinstance(where, Path):
        return URL.create("sqlite", database=str(where))
    try:
        url = make_url(where)
    except (sa.exc.ArgumentError, ValueError):  # whose text may hold a part of the password
        allowed = "a URL such as postgresql://user@host/database or sqlite:////var/lib/ebbtide/ledger.sqlite"
        raise ConfigurationError(f"ledger URL: it cannot be read; {allowed} is allowed") from None
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise ConfigurationError(f"ledger URL: {backend} is not supported; postgresql and sqlite are")
    return url.set(drivername="postgresql+psycopg") if backend == "postgresql" else url


def _fault_of(path: Path) -> str:
    """What is wrong with an SQLite file; empty: nothing, or it is not there."""
    if not path.exists():
        return ""
    try:
        connection = sqlite3.connect(path)
        try:
            verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.OperationalError:
        return ""  # out of reach, not damaged: opening it says why
    except sqlite3.DatabaseError as error:
        return f"the file is damaged ({error})"
    return "" if verdict == "ok" else f"the file is damaged ({verdict})"


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {setting}")


def _news(connection: sa.Connection, lives: Iterable[Lifetime]) -> list[int]:
    """From when on each is other than what is written: one that nobody knew from its beginning, ended or not.

    One that ended since it was written counted until now, and of which part it is thought that somebody watched changes
    from `seen_s` on.
    """
    known: dict[tuple[str, int], Lifetime] = {}
    uids = sorted({item.uid for item in lives})
    for first in range(0, len(uids), _AT_ONCE):
        some = schema.lifetime.c.uid.in_(uids[first : first + _AT_ONCE])
        known |= {(item.uid, item.begin_s): item for item in _lifetimes(connection, some)}
    moments = (_changed_s(known.get((item.uid, item.begin_s)), item) for item in lives)
    return [moment for moment in moments if moment is not None]


def _changed_s(old: Lifetime | None, item: Lifetime) -> int | None:
    """None: it is what was written."""
    if old is None or (old.payer, old.gpus, old.node) != (item.payer, item.gpus, item.node):
        return item.begin_s
    ends = [(each.end_s, each.seen_s if each.estimated else each.end_s) for each in (old, item)]
    moments = [moment for end in ends for moment in end if moment is not None]
    return min(moments) if ends[0] != ends[1] else None


def _price(record: PriceRecord) -> Row:
    return {"pool": record.pool, "from_s": record.known_s, "body": msgspec.json.encode(record).decode()}


def _row(item: Lifetime, ids: Mapping[Payer, int]) -> Row:
    fields = msgspec.structs.asdict(item)
    return {"payer_id": ids[fields.pop("payer")], **fields}


def _hour(row: HourRow, ids: Mapping[Payer, int]) -> Row:
    fields = msgspec.structs.asdict(row)
    price = fields.pop("price")
    fields.pop("length_s")
    return {"payer_id": ids[fields.pop("payer")], "price": "" if price is None else str(price), **fields}


def _usage(row: UsageRow, ids: Mapping[Payer, int]) -> Row:
    return {
        "hour_s": row.hour_s,
        "payer_id": ids[row.payer],
        **{name: getattr(row, name) for name in schema.USAGE},
    }


def _select(connection: sa.Connection, records: Iterable[Selection]) -> None:
    tables: dict[type, tuple[sa.Table, str]] = {
        PolicyRecord: (schema.policy, "name"),
        LabelsRecord: (schema.labels, "service"),
        OfferRecord: (schema.offer, "service"),
    }
    made: dict[type, list[Row]] = {kind: [] for kind in tables}
    for record in records:
        key = record.name if isinstance(record, PolicyRecord) else record.service
        row = {"from_s": record.from_s, "body": msgspec.json.encode(record).decode()}
        made[type(record)].append({tables[type(record)][1]: key, **row})
    for kind, (table, name) in tables.items():
        replace(connection, table, (name, "from_s"), made[kind])


def _lifetimes(connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[Lifetime]:
    query = sa.select(schema.lifetime, schema.payer.c.body).join(schema.payer).where(which)
    return [
        Lifetime(
            uid=row.uid,
            payer=msgspec.json.decode(row.body, type=Payer),
            gpus=row.gpus,
            begin_s=row.begin_s,
            seen_s=row.seen_s,
            end_s=row.end_s,
            node=row.node,
            is_node=row.is_node,
            estimated=row.estimated,
        )
        for row in connection.execute(query)
    ]


def _prices(connection: sa.Connection) -> tuple[PriceRecord, ...]:
    table = schema.price.c
    rows = connection.execute(sa.select(table.body).order_by(table.pool, table.from_s))
    return tuple(msgspec.json.decode(row.body, type=PriceRecord) for row in rows)


def _words(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else repr(cause)


def _advice(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return "Give a path in a writable directory"
    return "Is the database there, and may this user create tables in it?"
