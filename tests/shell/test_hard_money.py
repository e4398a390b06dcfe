"""The ledger when its database fails, and when clocks, nodes, pods and pools move: a clear word, and nothing lost."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from ebbtide.clock import rfc3339
from ebbtide.controller.metering import Metering
from ebbtide.errors import RetryableError
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import Payer
from ebbtide.model.snapshot import Account, Snapshot
from ebbtide.model.spec import CeilingKind
from ebbtide.money.accounts import Accounts, Saved
from ebbtide.money.lifetimes import Holding
from ebbtide.observe.holdings import Departures, Held, held
from ebbtide.record.metrics import Metrics
from tests import clerk
from tests.core.purse import policy
from tests.ledger import postgres
from tests.money.test_accounts import NOTHING, holding, priced, shown
from tests.shell.test_holdings import LABELS, node, pod
from tests.shell.test_metering import CHAT, T0, at, bill, seen


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.sqlite"


def begun(uid: str, second: int, gpus: int = 4, payer: Payer = CHAT) -> Holding:
    return Holding(uid, payer, gpus, float(T0 + second), None, "n")


# --- databases that fail ---------------------------------------------------------------------------------------------

CROWD = tuple(begun(f"crowd-{number}", 1200, 1, Payer("h100", f"team-{number}")) for number in range(3000))


async def through_an_hour(
    metering: Metering, breaks: Callable[[], object], mends: Callable[[], object], crowd: tuple[Holding, ...] = CROWD
) -> list[str]:
    """What is said of it. Meanwhile one ends, one comes and goes, a crowd comes and stays, and the price doubles."""
    said = []
    assert await metering.count(at(0), seen("a", "b"))
    breaks()
    for second, held_now in (
        (600, seen("a", gone={"b": T0 + 599.5})),
        (1200, Held((*seen("a").holdings, begun("c", 1100), *crowd), {}, True)),
        (1800, Held((*seen("a").holdings, *crowd), {"c": T0 + 1799.1}, True)),
        (3500, Held((*seen("a").holdings, *crowd), {}, True)),
    ):
        assert await metering.count(at(second, "2.50" if second < 1800 else "5.00"), held_now), "it is kept here"
        said.append(metering.notice)
    mends()
    gone = {item.uid: float(T0 + 3600) for item in (*seen("a").holdings, *crowd)}
    assert await metering.count(at(3600, "5.00"), seen(gone=gone))
    assert metering.notice == "", "and nothing is wrong any more"
    return said


HOUR = [(4, 0, 3600), (4, 0, 599.5), (4, 1100, 1799.1), (len(CROWD), 1200, 3600)]


def clerks(held_then: list[tuple[int, float, float]]) -> Decimal:
    return clerk.cost(held_then, lambda at_s: Decimal("2.50") if at_s < 1800 else Decimal("5.00"), 0, 7200)


def same(one: Decimal, other: Decimal) -> bool:
    return abs(one - other) < Decimal("1e-12")


@pytest.fixture
def pragma() -> Iterator[list[str]]:
    """Settings that every transaction on SQLite begins with, beside a short wait for locks."""
    settings: list[str] = []

    def begin(connection: sa.Connection) -> None:
        if connection.dialect.name == "sqlite":
            for setting in ("busy_timeout = 20", "query_only = OFF", "max_page_count = 1000000", *settings):
                connection.exec_driver_sql(f"PRAGMA {setting}")

    sa.event.listen(sa.Engine, "begin", begin)
    yield settings
    sa.event.remove(sa.Engine, "begin", begin)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("max_page_count = 1", "database or disk is full"),
        ("query_only = ON", "attempt to write a readonly database"),
    ],
)
async def test_a_database_that_is_full_or_read_only(where: Path, pragma: list[str], setting: str, words: str) -> None:
    said = await through_an_hour(Metering(where, Metrics()), lambda: pragma.append(setting), pragma.clear)
    assert words in said[-1] and "Nothing was written; it is tried again" in said[-1]
    assert same(bill(where), clerks(HOUR))


async def test_a_database_that_somebody_locks(where: Path, pragma: list[str]) -> None:
    assert pragma == []
    holder: list[sqlite3.Connection] = []

    def lock() -> None:
        holder.append(sqlite3.connect(where, isolation_level=None))
        holder[0].execute("BEGIN IMMEDIATE")

    said = await through_an_hour(Metering(where, Metrics()), lock, lambda: holder.pop().close())
    assert all("database is locked. Nothing was written; it is tried again" in each for each in said)
    assert same(bill(where), clerks(HOUR))


async def test_a_database_that_is_damaged_while_it_is_used_is_said_and_a_backup_goes_on_from_where_it_was(
    where: Path,
) -> None:
    """What ended since the backup ended between then and now, and now counts."""
    metering = Metering(where, Metrics())
    await metering.count(at(0), seen("a", "b"))
    with closing(sqlite3.connect(where)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    backup = where.read_bytes()  # noqa: ASYNC240
    where.write_bytes(backup[:100] + b"\0" * (len(backup) - 100))  # noqa: ASYNC240
    for second in (600, 1200):
        assert await metering.count(at(second), seen("a", gone={"b": T0 + 599.5}))
        assert "database disk image is malformed. Nothing was written; it is tried again" in metering.notice
    metering.close()
    for path in where.parent.iterdir():
        path.unlink()
    where.write_bytes(backup)  # noqa: ASYNC240
    assert await Metering(where, Metrics()).count(at(1800), seen("a"))
    ledger = Ledger(where)
    rows = ledger.rows(T0, T0 + 1800)
    ledger.close()
    assert sum(row.gpu_seconds for row in rows) == 2 * 4 * 1800
    assert sum(row.estimated_s for row in rows) == 4 * 1800


async def test_a_damaged_database_is_moved_aside_by_the_next_start_and_what_was_spent_stays(where: Path) -> None:
    """The ledger begins anew and knows the day from now on; the policy's status knows more, so that is enforced."""
    first = Metering(where, Metrics())
    await first.count(at(0), seen("a", "b"))
    first.close()
    where.write_bytes(b"no database" * 1000)  # noqa: ASYNC240
    again = Metering(where, Metrics())
    assert await again.count(at(600), seen("a"))
    assert "damaged" in again.notice and "moved to" in again.notice
    day = (CeilingKind.DAY, T0 - T0 % 86_400.0, T0 - T0 % 86_400.0 + 86_400)
    spec, accounts = policy(per_day="100"), Accounts()
    accounts.count([spec], lambda _: Saved(float(T0), Decimal(0), (Account(*day, Decimal(70)),)), shown(T0 + 600))
    found, through_s, since_s, _ = again.spent([(spec, (day,))], {})
    assert (found[spec.uid][day], through_s, since_s) == (0, T0 + 600, T0 + 600)
    accounts.settle(spec, found[spec.uid], through_s, since_s)
    assert accounts.states()[0].accounts[0].spent == 70


async def test_a_postgresql_that_is_gone_for_an_hour() -> None:
    found = postgres.binaries()
    if found is None:
        pytest.skip("no PostgreSQL on this machine: install the package postgresql to test against it")
    with postgres.made(found) as server:
        said = await through_an_hour(
            Metering(server.url, Metrics()), lambda: server.stop("immediate"), server.start, CROWD[:5]
        )
        assert all("Nothing was written; it is tried again" in each for each in said)
        ledger = Ledger(server.url)
        total = sum((row.cost or Decimal(0) for row in ledger.rows(T0, T0 + 7200)), Decimal(0))
        ledger.close()
    assert same(total, clerks([*HOUR[:3], (5, 1200, 3600)]))


async def test_a_postgresql_that_is_gone_while_the_operator_starts() -> None:
    found = postgres.binaries()
    if found is None:
        pytest.skip("no PostgreSQL on this machine: install the package postgresql to test against it")
    with postgres.made(found) as server:
        await Metering(server.url, Metrics()).count(at(0), seen("a"))
        server.stop()
        metering = Metering(server.url, Metrics())
        assert not await metering.count(at(600), seen(gone={"a": T0 + 599.5})), "what went is to be told again"
        assert "Is the database there" in metering.notice
        server.start()
        assert await metering.count(at(1800), seen(gone={"a": T0 + 599.5}))
        ledger = Ledger(server.url)
        assert sum(row.gpu_seconds for row in ledger.rows(T0, T0 + 7200)) == 4 * 600
        ledger.close()


async def test_what_was_counted_before_is_not_begun_again_by_a_database_that_answers_late(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that finished long ago and is still shown; a pod that was away, came back, and one that then ended."""
    first = Metering(where, Metrics())
    await first.count(at(0), seen("job", "away", "ended"))
    await first.count(at(600), Held((Holding("job", CHAT, 4, float(T0), T0 + 600.0, "n"),), {}, True))
    first.close()

    def gone(*_: Any) -> None:
        raise RetryableError("ledger: no answer. Nothing was written; it is tried again")

    finished = Holding("job", Payer("h100", "team"), 4, float(T0), T0 + 600.0, "n")
    back = seen("away", "ended").holdings
    metering = Metering(where, Metrics())
    await metering.count(at(1200), Held((finished,), {}, True))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "ends", gone)
        metering._ends = {}
        assert await metering.count(at(1800), Held((finished, *back), {}, True))
        assert await metering.count(at(2400), Held((finished, back[0]), {"ended": T0 + 2399.5}, True))
    assert await metering.count(at(3600), Held((finished,), {"away": float(T0 + 3600)}, True))
    ledger = Ledger(where)
    rows = ledger.rows(T0, T0 + 7200)
    ledger.close()
    assert {row.payer for row in rows} == {CHAT}, "for whom it ran"
    assert sum(row.gpu_seconds for row in rows) == 4 * (600 + (600 + 3000) + (600 + 1800))


# --- clocks and calendars --------------------------------------------------------------------------------------------


async def test_a_clock_that_is_stepped_back_bills_nothing_twice_and_nothing_backwards(where: Path) -> None:
    """From 00:30 back to 00:10. What begins meanwhile is billed from the beginning that the API server says."""
    metering = Metering(where, Metrics())
    moments = [
        (0, seen("a", "b")),
        (1800, seen("a", "b")),
        (600, seen("a", "b")),
        (900, Held((*seen("a").holdings, begun("c", 800)), {"b": T0 + 899.5}, True)),
        (3600, seen(gone={"a": float(T0 + 3600), "c": float(T0 + 3600)})),
    ]
    for second, held_now in moments:
        assert await metering.count(at(second), held_now)
    ledger = Ledger(where)
    assert ledger.watermark_s == T0 + 3600
    seconds = sum(row.gpu_seconds for row in ledger.rows(T0, T0 + 7200))
    ledger.close()
    assert seconds == 4 * (3600 + 900 + 2800), "b ended by the clock that was right"


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("story", "zone", "kind", "begin", "end", "hours"),
    [
        ("clocks go forward", "Europe/Berlin", CeilingKind.DAY, "2026-03-28T23:00", "2026-03-29T22:00", 23),
        ("clocks go back", "Europe/Berlin", CeilingKind.DAY, "2026-10-24T22:00", "2026-10-25T23:00", 25),
        ("a leap day", "UTC", CeilingKind.DAY, "2028-02-29T00:00", "2028-03-01T00:00", 24),
        ("a month with a leap day", "UTC", CeilingKind.MONTH, "2028-02-01T00:00", "2028-03-01T00:00", 29 * 24),
        ("a month in which they go forward", "Europe/Berlin", CeilingKind.MONTH, "2026-02-28T23:00",
         "2026-03-31T22:00", 31 * 24 - 1),
        ("a month in which they go back", "Europe/Berlin", CeilingKind.MONTH, "2026-09-30T22:00",
         "2026-10-31T23:00", 31 * 24 + 1),
    ],
)  # fmt: skip
def test_a_period_has_the_hours_that_it_has(
    story: str, zone: str, kind: CeilingKind, begin: str, end: str, hours: int
) -> None:
    """One GPU at 3.60 USD an hour from a week before to a week after: in the ledger, and for the ceiling."""
    begin_s, end_s = utc(begin), utc(end)
    spec = policy(time_zone=zone, **{"per_day" if kind is CeilingKind.DAY else "per_month": "9999"})
    accounts, spent = Accounts(), Decimal(0)
    one = holding("a", begin_s - 7 * 86_400)
    for at_s in (begin_s - 600, begin_s + 1, *range(begin_s + 5000, end_s, 5000), end_s - 1):
        accounts.count([spec], lambda _: NOTHING, shown(at_s, one))
        (found,) = [item for item in accounts.states()[0].accounts if (item.start_s, item.end_s) == (begin_s, end_s)]
        spent = found.spent
    assert same(spent + Decimal("0.001"), hours * Decimal("3.60")), story
    accounts.count([spec], lambda _: NOTHING, shown(end_s + 1, one))
    following = accounts.states()[0].accounts[0]
    assert (following.start_s, same(following.spent, Decimal("0.001"))) == (end_s, True), "and a new one begins"


def test_a_month_that_ends_while_the_operator_is_down(where: Path) -> None:
    """Killed on 31 March at 23:00, started on 1 April at 02:00: each month has what is its own."""
    border, spec = utc("2026-04-01T00:00"), policy(per_month="9999")
    march = Account(CeilingKind.MONTH, float(utc("2026-03-01T00:00")), float(border), Decimal(1000))
    saved = Saved(border - 3600.0, Decimal("3.60"), (march,))
    accounts = Accounts()
    accounts.count([spec], lambda _: saved, shown(border + 7200, holding("a", border - 86_400)))
    april = accounts.states()[0].accounts[0]
    assert (april.start_s, april.spent) == (border, Decimal("7.20")), "two hours of April, and none of March's 1000"
    assert all(item.start_s != march.start_s for item in accounts.states()[0].accounts), "March is the ledger's"


async def test_a_month_that_ends_while_the_operator_is_down_in_the_ledger(where: Path) -> None:
    border = utc("2026-04-01T00:00")

    def moment(at_s: int) -> Snapshot:
        return msgspec.structs.replace(at(0), taken_at=float(at_s))

    one = Held((Holding("a", CHAT, 4, float(border - 7200), None, "n"),), {}, True)
    first = Metering(where, Metrics())
    await first.count(moment(border - 7200), one)
    await first.count(moment(border - 3600), one)
    await Metering(where, Metrics()).count(moment(border + 7200), one)
    ledger = Ledger(where)
    march, april = ledger.rows(border - 7200, border), ledger.rows(border, border + 7200)
    ledger.close()
    assert [sum(row.gpu_seconds for row in rows) for rows in (march, april)] == [4 * 7200, 4 * 7200]
    assert not any(row.estimated_s for row in (*march, *april)), "it was there before and after, so it ran"


# --- what moves ------------------------------------------------------------------------------------------------------

SECOND = {"pool": "a100"}


def two_pools(second: int) -> Snapshot:
    """h100 at 2.50 USD an hour and a100 at 1.00."""
    state = at(second)
    spec = msgspec.structs.replace(
        state.pools[0].spec, name="a100", node_selector=tuple(SECOND.items()), price=priced("1.00").spec.price
    )
    return msgspec.structs.replace(state, pools=(*state.pools, msgspec.structs.replace(state.pools[0], spec=spec)))


def look(snapshot: Snapshot, nodes: dict[str, Any], *pods: Any, departures: Departures | None = None) -> Held:
    return held(snapshot, {each.metadata.key: each for each in pods}, nodes, departures or Departures(), complete=True)


def by_pool(where: Path) -> dict[str, int]:
    ledger = Ledger(where)
    rows = ledger.rows(T0, T0 + 3600)
    ledger.close()
    found: dict[str, int] = {}
    for row in rows:
        found[row.payer.pool] = found.get(row.payer.pool, 0) + row.gpu_seconds
    return found


async def test_a_node_that_is_put_into_another_pool_within_an_hour(where: Path) -> None:
    """Its pods are the first pool's until that is seen, and the second's from then on."""
    metering = Metering(where, Metrics())
    for second, labels in ((0, LABELS), (1500, LABELS), (1510, SECOND), (3600, SECOND)):
        snapshot = two_pools(second)
        assert await metering.count(snapshot, look(snapshot, {"node-1": node(**labels)}, pod()))
    assert by_pool(where) == {"h100": 4 * 1510, "a100": 4 * 2090}


async def test_a_pod_that_moves_to_another_node_is_two_pods(where: Path) -> None:
    """Evicted here, made anew there: what both held at once is paid for twice, for it was held twice."""
    metering, nodes = Metering(where, Metrics()), {"node-1": node(**LABELS), "node-2": node("node-2", **SECOND)}
    bound = {"type": "PodScheduled", "status": "True", "lastTransitionTime": rfc3339(T0 + 1200)}
    old, new, departures = pod("old"), pod("new", "node-2", conditions=[bound]), Departures()
    for second, pods in ((0, (old,)), (1210, (old, new)), (1240, (new,)), (3600, (new,))):
        if second == 1240:
            departures.note_pod(old, T0 + 1229.5)
        snapshot = two_pools(second)
        found = look(snapshot, nodes, *pods, departures=departures)
        assert await metering.count(snapshot, found)
        departures.forget(found)
    assert by_pool(where) == {"h100": 4 * 1230, "a100": 4 * 2400}


async def test_a_pool_that_is_deleted_while_pods_run_and_made_again(where: Path) -> None:
    """Nobody knows what they cost while it is away; when it is back that time is billed too."""
    metering = Metering(where, Metrics())
    nodes = {"node-1": node(**LABELS)}
    for second, there in ((0, True), (600, True), (610, False), (1200, False), (1210, True), (3600, True)):
        snapshot = at(second) if there else msgspec.structs.replace(at(second), pools=())
        assert await metering.count(snapshot, look(snapshot, nodes, pod()))
    assert by_pool(where) == {"h100": 4 * 3600}
