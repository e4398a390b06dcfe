"""`ebbtide cost`: what GPUs cost, by service, team, model or pool, from the ledger."""

import csv
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import click
from rich.console import Console
from rich.table import Table

from ebbtide.clock import rfc3339, unix_time_s
from ebbtide.errors import ConfigurationError
from ebbtide.ledger.store import FILE, Ledger
from ebbtide.money.calendar import Span, period_at, zone_named
from ebbtide.money.totals import BY, Total, totals

PERIODS = "today, yesterday, month, last-month, 2026-01-31, 2026-01 or 2026-01-01..2026-01-31"
_PLACES = Decimal("0.000001")
_COLUMNS = ("currency", "cost", "gpu_hours", "unknown_gpu_hours", "estimated_gpu_hours")


@click.command()
@click.option(
    "--by", default="service", show_default=True, help=f"What to add up by, several with commas: {', '.join(BY)}."
)
@click.option("--period", default="month", show_default=True, help=f"{PERIODS}; the last day is part of it.")
@click.option(
    "--time-zone", default="UTC", show_default=True, help="Whose days and months they are, such as Europe/Berlin."
)
@click.option("-o", "--output", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@click.option(
    "--ledger",
    envvar="EBBTIDE_LEDGER",
    help="File or URL of the ledger. Unset: EBBTIDE_LEDGER, else ledger.sqlite in EBBTIDE_DATA_DIR.",
)
def cost(by: str, period: str, time_zone: str, output: str, ledger: str | None) -> None:
    """What GPUs cost: those that services hold, those of others, and those that nobody holds.

    Costs are of list prices as pools declare them, to the second; no invoice knows of them.
    """
    names = _names(by)
    zone = zone_named(time_zone)
    if zone is None:
        raise click.UsageError(f'--time-zone: "{time_zone}" is no time zone: write one such as Europe/Berlin or UTC')
    now_s = unix_time_s()
    begin_s, end_s = _span(period, zone, now_s)
    end_s = min(end_s, now_s)
    if begin_s >= end_s:
        raise click.UsageError(f'--period: "{period}" has not begun')
    database = _opened(ledger)
    try:
        written_s, since_s = database.watermark_s, database.since_s
        found = totals(database.rows(int(begin_s), min(int(end_s), written_s)), names) if written_s > begin_s else ()
    finally:
        database.close()
    if output == "table":
        _print(found, names, max(begin_s, since_s), end_s, written_s)
        if begin_s < since_s:
            click.echo(f"The ledger begins at {_minute(since_s)} UTC: what ran before is not in it.")
        return
    shown = [_plain(total, names) for total in found]
    if output == "json":
        span = {
            "from": rfc3339(begin_s),
            "to": rfc3339(end_s),
            "ledgerFrom": rfc3339(since_s),
            "writtenUntil": rfc3339(written_s),
        }
        click.echo(json.dumps({**span, "totals": shown}, indent=2))
        return
    writer = csv.DictWriter(sys.stdout, [*names, *_COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(shown)


def _names(by: str) -> list[str]:
    names = [name.strip() for name in by.split(",") if name.strip()]
    unknown = [name for name in names if name not in BY]
    if unknown or not names:
        raise click.UsageError(f'--by: "{by}" is not allowed: {", ".join(BY)} are, several with commas')
    return names


def _span(period: str, zone: ZoneInfo, now_s: float) -> tuple[float, float]:
    """[begin, end) in unix seconds."""
    today = period_at(Span.DAY, zone, now_s)
    month = period_at(Span.MONTH, zone, now_s)
    named = {
        "today": (today.start_s, today.end_s),
        "yesterday": (period_at(Span.DAY, zone, today.start_s - 1.0).start_s, today.start_s),
        "month": (month.start_s, month.end_s),
        "last-month": (period_at(Span.MONTH, zone, month.start_s - 1.0).start_s, month.start_s),
    }
    if period in named:
        return named[period]
    first, _, last = period.partition("..")
    try:
        return _day(first, zone)[0], _day(last or first, zone)[1]
    except ValueError:
        raise click.UsageError(f'--period: "{period}" is not allowed: write {PERIODS}') from None


def _day(text: str, zone: ZoneInfo) -> tuple[float, float]:
    """The day 2026-01-31, or the month 2026-01."""
    span = Span.MONTH if len(text) == len("2026-01") else Span.DAY
    day = date.fromisoformat(f"{text}-01" if span is Span.MONTH else text)
    noon_s = datetime(day.year, day.month, day.day, 12, tzinfo=zone).timestamp()
    found = period_at(span, zone, noon_s)
    return found.start_s, found.end_s


def _opened(ledger: str | None) -> Ledger:
    if ledger and "://" in ledger:
        return Ledger(ledger, read_only=True)
    path = Path(ledger) if ledger else Path(os.environ.get("EBBTIDE_DATA_DIR", "/var/lib/ebbtide")) / FILE
    if not path.exists():
        raise ConfigurationError(
            f"ledger {path}: there is no such file. Name the operator's with --ledger FILE, or its URL"
        )
    return Ledger(path, read_only=True)


def _plain(total: Total, names: Sequence[str]) -> dict[str, str]:
    amounts = (total.cost, total.gpu_hours, total.unknown_gpu_hours, total.estimated_gpu_hours)
    texts = (total.currency, *(f"{amount.quantize(_PLACES):f}" for amount in amounts))
    return dict(zip(names, total.key, strict=True)) | dict(zip(_COLUMNS, texts, strict=True))


def _print(found: Sequence[Total], names: Sequence[str], begin_s: float, end_s: float, written_s: float) -> None:
    console = Console()
    console.print(f"From {_minute(begin_s)} to {_minute(min(end_s, max(written_s, begin_s)))} UTC", highlight=False)
    if not found:
        console.print("No GPUs were held in that time, as far as the ledger goes.")
        return
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name)
    for name in ("cost", "GPU-hours", "price unknown", "estimated"):
        table.add_column(name, justify="right")
    for total in found:
        amount = f"{total.cost:,.2f} {total.currency}" if total.currency else "unknown"
        hours = (total.gpu_hours, total.unknown_gpu_hours, total.estimated_gpu_hours)
        table.add_row(*total.key, amount, *(f"{each:,.2f}" if each else "" for each in hours))
    for currency in sorted({total.currency for total in found if total.currency}):
        whole = sum((total.cost for total in found if total.currency == currency), Decimal(0))
        table.add_row(*["total", *[""] * (len(names) - 1)], f"{whole:,.2f} {currency}", "", "", "", style="bold")
    console.print(table)
    if end_s - written_s > timedelta(minutes=5).total_seconds():
        console.print(f"The ledger was last written at {_minute(written_s)} UTC: what ran since is not in it.")


def _minute(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M")
