"""How large the ledger of 10,000 services over 400 days becomes, and how long `ebbtide cost` takes on it.

`python -m benchmarks.ledger [--services N] [--days N] [--quick] [--no-postgres]`: one service in five has two variants,
and each variant's pods began and ended four times a day. Hours and lifetimes are there for as long as they are kept by
default, days for all of the time. The database fills itself, so that what is measured is not the filling; reports are
processes of their own, the start of Python included.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from ebbtide.clock import unix_time_s
from ebbtide.ledger import schema
from ebbtide.ledger.days import KEPT_S, Keeping
from ebbtide.ledger.rows import payer_ids, put
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import Payer, PriceRecord
from ebbtide.model.spec import Billing, Price, Tariff
from ebbtide.money.bill import HOUR_S

DAY_S, POOLS, LIVES_A_DAY = 86_400, 12, 4

_EACH = "WITH RECURSIVE t(s) AS (SELECT {first} UNION ALL SELECT s + {step} FROM t WHERE s + {step} < {last})"
_GPUS = "(1 + (payer.id * 7 + t.s / {step}) % 8)"
# all of an hour is seen, half of it used, and in one of a hundred the load is known of a half; services as a whole have
# the time in which they were watched alone
_SEEN = {
    "input_tokens": f"{_GPUS} * {{step}} * 500",
    "output_tokens": f"{_GPUS} * {{step}} * 100",
    "seen_gpu_s": f"{_GPUS} * {{step}}",
    "rated_gpu_s": f"{_GPUS} * {{step}} / (CASE WHEN (payer.id + t.s / {{step}}) % 100 = 0 THEN 2 ELSE 1 END)",
    "used_gpu_s": f"{_GPUS} * {{step}} / 2",
    "weighed_tokens": f"{_GPUS} * {{step}} * 500",
    "weighed_work": f"{_GPUS} * {{step}} * 25",
    "ran_gpu_s": f"{_GPUS} * {{step}}",
    "hpa_gpu_s": f"{_GPUS} * {{step}} + {{step}}",
}
_WATCHED = ("watched_s", "acting_s", "compared_s")
_USED = ", ".join(
    "{step}"
    if name in _WATCHED
    else f"CASE WHEN payer.id <= {{held}} THEN {_SEEN[name]} ELSE 0 END"
    if name in _SEEN
    else "0"
    for name in schema.USAGE
)
_FILL = {
    "hour": f"INSERT INTO hour {_EACH} SELECT t.s, payer.id, FALSE, '2.50', 'USD', {_GPUS} * {{step}}, 0 "
    "FROM t CROSS JOIN payer WHERE payer.id <= {held} ORDER BY t.s, payer.id",
    "usage": f"INSERT INTO usage {_EACH} SELECT t.s, payer.id, {_USED} FROM t CROSS JOIN payer ORDER BY t.s, payer.id",
    "day": f"INSERT INTO day {_EACH} SELECT t.s, payer.id, FALSE, '2.50', 'USD', {_GPUS} * {{step}}, 0 "
    "FROM t CROSS JOIN payer WHERE payer.id <= {held} ORDER BY t.s, payer.id",
    "usage_day": f"INSERT INTO usage_day {_EACH} SELECT t.s, payer.id, {_USED} FROM t CROSS JOIN payer "
    "ORDER BY t.s, payer.id",
    "span": f"INSERT INTO span {_EACH} SELECT t.s, t.s + {{step}} FROM t",
    "lifetime": f"INSERT INTO lifetime {_EACH} SELECT '00000000-0000-0000-0000-' || payer.id || '-' || t.s, t.s, "
    "payer.id, 4, t.s + {step}, t.s + {step}, '11111111-1111-1111-1111-' || payer.id, FALSE, FALSE "
    "FROM t CROSS JOIN payer WHERE payer.id <= {held} ORDER BY t.s, payer.id",
}
_RUNNING = (
    "INSERT INTO lifetime SELECT '22222222-2222-2222-2222-' || payer.id, {begin}, payer.id, 4, {begin}, NULL, "
    "'11111111-1111-1111-1111-' || payer.id, FALSE, FALSE FROM payer WHERE payer.id <= {held}"
)


@dataclass
class Measured:
    """Of one database: rows and MiB by table, and seconds (wall, CPU) by what was asked."""

    name: str
    rows: dict[str, int] = field(default_factory=dict)
    mib: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, tuple[float, float]] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)  # of reports


def measure(name: str, where: Path | str, services: int, days: int) -> Measured:
    """Fill a new ledger and ask it."""
    found, ledger = Measured(name), Ledger(where)
    end_s = int(unix_time_s()) // DAY_S * DAY_S
    epoch = ledger.lead(end_s - days * DAY_S)
    prices = [
        PriceRecord(f"pool-{pool:02d}", 0, Price("USD", Tariff(Decimal("2.50"))), Billing.POD) for pool in range(POOLS)
    ]
    ledger.write(epoch, end_s, [], prices)
    _fill(ledger, found, services, days, end_s)
    ledger.write(epoch, end_s, [], usage=[])  # up to when tokens are known
    for period, text in _periods(end_s, days).items():
        _ask(found, f"cost by service, {period}", where, text)
    day, month, zone = _periods(end_s, days)["day"], _periods(end_s, days)["month"], "Asia/Kolkata"
    _ask(found, f"cost by service, month of {zone}", where, month, "--time-zone", zone)
    for period, text in (("day", day), ("month", month)):
        _ask(found, f"price of tokens by service, {period}", where, text, "--tokens")
        _ask(found, f"FOCUS rows, {period}", where, text, "--focus", "-")
        _ask(found, f"savings, {period}", where, text, "--savings")
        _ask(found, f"build or buy, {period}", where, text, "--alternative", "--api", "0.50,2.00,USD")
    _roll(ledger, found, epoch, end_s)
    ledger.close()
    return found


def _fill(ledger: Ledger, found: Measured, services: int, days: int, end_s: int) -> None:
    held = [
        Payer(f"pool-{(number + way) % POOLS:02d}", f"team-{number // 20}", f"chat-{number}", f"v{way}", "m", "t")
        for number in range(services)
        for way in range(2 if number % 5 == 0 else 1)
    ]
    watched = [Payer("", f"team-{number // 20}", f"chat-{number}", "", "m", "t") for number in range(services)]
    with ledger._engine.begin() as connection:
        for payers in (held, watched):
            payer_ids(connection, payers)
    recent_s, first_s = end_s - int(KEPT_S), end_s - days * DAY_S
    times = {
        "hour": (recent_s, HOUR_S),
        "usage": (recent_s, HOUR_S),
        "lifetime": (recent_s, DAY_S // LIVES_A_DAY),
        "day": (first_s, DAY_S),
        "usage_day": (first_s, DAY_S),
        "span": (first_s, DAY_S),
    }
    for table, (from_s, step) in times.items():
        before = _size(ledger, table)
        with ledger._engine.begin() as connection:
            last = end_s - DAY_S if table in ("day", "usage_day", "span") else end_s  # the last day is rolled up below
            statement = _FILL[table].format(first=from_s, last=last, step=step, held=len(held))
            if _is_postgres(ledger):  # no limit, and no look at the payer of each row: who fills it knows them
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            connection.exec_driver_sql(statement.replace("%", "%%") if _is_postgres(ledger) else statement)
            found.rows[table] = int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() or 0)
        found.mib[table] = (_size(ledger, table) - before) / 2**20
    with ledger._engine.begin() as connection:
        connection.exec_driver_sql(_RUNNING.format(begin=end_s - HOUR_S, held=len(held)))
        for key, at_s in (("rolled", end_s), ("dayed", end_s - DAY_S), ("hours", recent_s), ("forgotten", recent_s)):
            put(connection, key, str(at_s))
        put(connection, "raw", str(recent_s))
    with ledger._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")


def _roll(ledger: Ledger, found: Measured, epoch: int, end_s: int) -> None:
    """What is done beside cycles: six hours worked out, a day added up, six hours and a day's lifetimes forgotten."""
    kept = Keeping(KEPT_S, KEPT_S - DAY_S)
    found.seconds["adding up one day, forgetting six hours"] = _timed(lambda: ledger.roll_up(epoch, end_s, kept))
    label = "six hours worked out, six forgotten"
    found.seconds[label] = _timed(lambda: ledger.roll_up(epoch, end_s + 9 * HOUR_S, kept))


def _periods(end_s: int, days: int) -> dict[str, str]:
    day = datetime.fromtimestamp(end_s - 5 * DAY_S, UTC).date()
    month = datetime.fromtimestamp(end_s - 32 * DAY_S, UTC).date()
    first = datetime.fromtimestamp(end_s - min(days, 365) * DAY_S, UTC).date()
    last = datetime.fromtimestamp(end_s - DAY_S, UTC).date()
    return {"day": day.isoformat(), "month": month.strftime("%Y-%m"), "year": f"{first}..{last}"}


def _ask(found: Measured, what: str, where: Path | str, period: str, *report: str) -> None:
    """One report, as a process of its own: how long it took, and the most memory that it had at once."""
    asked = ["--ledger", str(where), "--period", period, "-o", "csv", *report]
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "ebbtide", "cost", *asked], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    found.seconds[what] = time.monotonic() - began, used.ru_utime + used.ru_stime
    found.peak_mib[what] = used.ru_maxrss / 1024


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU of this process and its children), in seconds; a database server's is not in it."""
    before, began = _cpu_s(), time.monotonic()
    work()
    return time.monotonic() - began, _cpu_s() - before


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _size(ledger: Ledger, table: str) -> int:
    with ledger._engine.connect() as connection:
        if _is_postgres(ledger):
            query = sa.text("SELECT pg_total_relation_size(CAST(:name AS regclass))")
            return int(connection.execute(query, {"name": table}).scalar() or 0)
        pages, page = (connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("page_count", "page_size"))
        return int(pages or 0) * int(page or 0)


def _is_postgres(ledger: Ledger) -> bool:
    return ledger._engine.dialect.name == "postgresql"


@contextmanager
def _databases(*, with_postgres: bool) -> Iterator[dict[str, Path | str]]:
    from tests.ledger import postgres

    with tempfile.TemporaryDirectory(prefix="ebbtide-bench-ledger-") as folder:
        found: dict[str, Path | str] = {"SQLite": Path(folder) / "ledger.sqlite"}
        binaries = postgres.binaries() if with_postgres else None
        if binaries is None:
            yield found
            return
        with postgres.running(binaries) as url:
            yield {**found, "PostgreSQL": url}


def show(results: list[Measured], services: int, days: int, console: Console) -> None:
    """Two tables: sizes and times."""
    sizes = Table(title=f"The ledger of {services:,} services over {days} days")
    for name in ("table", "rows", *(f"{result.name}, MiB" for result in results)):
        sizes.add_column(name, justify="left" if name == "table" else "right")
    for table, rows in results[0].rows.items():
        sizes.add_row(table, f"{rows:,}", *(f"{result.mib[table]:,.0f}" for result in results))
    sizes.add_row("total", "", *(f"{sum(result.mib.values()):,.0f}" for result in results))
    times = Table(title="Seconds, wall (CPU of Ebbtide's process); the most MiB that a report took")
    for name in ("what", *(result.name for result in results)):
        times.add_column(name, justify="left" if name == "what" else "right")
    for what in results[0].seconds:
        times.add_row(what, *(_cell(result, what) for result in results))
    console.print(sizes, times)


def _cell(result: Measured, what: str) -> str:
    took = f"{result.seconds[what][0]:.1f} ({result.seconds[what][1]:.1f})"
    return f"{took} {result.peak_mib[what]:,.0f} MiB" if what in result.peak_mib else took


def main(arguments: list[str] | None = None) -> int:
    """Returns 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--days", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="200 services and 100 days")
    parser.add_argument("--no-postgres", action="store_true", help="SQLite alone, also where PostgreSQL is installed")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    options = parser.parse_args(arguments)
    services, days = (200, 100) if options.quick else (options.services, options.days)
    if days * DAY_S <= KEPT_S:
        parser.error(f"--days {days}: more than {KEPT_S // DAY_S} are needed, of which hours are kept")
    with _databases(with_postgres=not options.no_postgres) as databases:
        results, console = [], Console(width=None if sys.stdout.isatty() else 120)
        for name, where in databases.items():  # shown as they come: it takes a while
            results.append(measure(name, where, services, days))
            show(results, services, days, console)
    if options.json:
        written: list[dict[str, Any]] = [vars(result) for result in results]
        options.json.write_text(json.dumps(written, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
