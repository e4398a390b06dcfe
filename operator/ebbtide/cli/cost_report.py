"""How the reports of `ebbtide cost` look: a table for people, JSON and CSV with all digits for programs."""

import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TextIO

import click
from rich.console import Console, JustifyMethod
from rich.table import Table

from ebbtide.clock import rfc3339
from ebbtide.errors import ConfigurationError
from ebbtide.model.money import PriceRecord
from ebbtide.money.prices import in_force, price_at
from ebbtide.money.savings import Saving
from ebbtide.money.totals import Total
from ebbtide.money.units import PerMillion, Unit

_PLACES = Decimal("0.000001")
NO_TOKENS = "The ledger counted no tokens in that time."
Cells = dict[str, str]


@dataclass(frozen=True)
class Report:
    """`fields` are rows with all digits, `shown` the same for people under `headers`; `notes` are said to both.

    `nothing` is said of time that was counted and has no row, `uncounted` of time of which nothing was counted yet.
    """

    list_name: str
    names: Sequence[str]
    fields: Sequence[Cells]
    headers: Sequence[str]
    shown: Sequence[Sequence[str]]
    last: Sequence[Sequence[str]] = ()  # lines of the table that add the others up
    notes: Sequence[str] = field(default_factory=tuple)
    nothing: str = "No GPUs were held in that time, as far as the ledger goes."
    uncounted: str = "The ledger counted nothing in that time."
    unbroken: Sequence[str] = ()  # headers of columns that no narrow terminal breaks or cuts


@dataclass(frozen=True)
class Span:
    """[begin_s, end_s) as asked for, from when the ledger counts, and up to when it was written; unix seconds."""

    begin_s: float
    end_s: float
    since_s: int
    written_s: int


def of_totals(found: Sequence[Total], whole: Sequence[Total], by: Sequence[str], notes: Sequence[str]) -> Report:
    """What it cost. `whole`: by currency, each GPU-second once. What has no known price has no cost, not 0."""
    names = (*by, "currency", "cost", "gpu_hours", "unknown_gpu_hours", "estimated_gpu_hours")
    fields, shown = [], []
    for total in found:
        hours = (total.gpu_hours, total.unknown_gpu_hours, total.estimated_gpu_hours)
        fields.append(of_fields(names, *total.key, total.currency, _maybe(total.cost), *map(digits, hours)))
        shown.append([*total.key, _amount(total), *(f"{each:,.2f}" if each else "" for each in hours)])
    last = [
        [
            "total",
            *[""] * (len(by) - 1),
            _amount(each),
            "",
            f"{each.unknown_gpu_hours:,.2f}" if not each.currency else "",
            "",
        ]
        for each in whole
    ]
    unknown = sum((each.unknown_gpu_hours for each in whole), Decimal(0))
    if unknown:
        notes = (*notes, f"Nobody knows the price of {unknown:,.2f} GPU-hours: they are in no cost and in no total.")
    return Report(
        "totals", names, fields, (*by, "cost", "GPU-hours", "price unknown", "estimated"), shown, last, tuple(notes)
    )


def of_units(found: Sequence[Unit], whole: Sequence[Unit], by: Sequence[str], notes: Sequence[str]) -> Report:
    """What tokens cost. `whole`: of all services by currency, each GPU-second once."""
    bases = tuple(f"{basis}_per_million_{of}" for basis in ("allocation", "usage") for of in ("input", "output", "all"))
    names = (*by, "currency", "cost", "input_tokens", "output_tokens", *bases, "idle_share", "token_coverage")
    fields = []
    for unit in found:
        prices = (*_prices(unit.allocation), *_prices(unit.usage))
        cost = digits(unit.cost) if unit.currency else ""
        numbers = (str(unit.input_tokens), str(unit.output_tokens), *map(_maybe, (*prices, unit.idle, unit.coverage)))
        fields.append(of_fields(names, *unit.key, unit.currency, cost, *numbers))
    headers = (*by, "cost", "M in", "M out", "allocation in / out", "usage in / out", "idle", "seen")
    last = [["all services", *[""] * (len(by) - 1), *_unit(each)] for each in whole if each.currency]
    said = (
        "In and out: money for a million input and output tokens. Allocation: of all GPU time that was held; usage: as "
        "if replicas had been full. Idle: what of the cost that leaves. Seen: GPU time whose tokens are known; prices "
        "are of that part.",
        *notes,
    )
    shown = [[*unit.key, *_unit(unit)] for unit in found]
    return Report("tokens", names, fields, headers, shown, last, said, uncounted=NO_TOKENS)


def of_savings(found: Sequence[Saving], notes: Sequence[str]) -> Report:
    """What was saved, against each baseline, and what could be."""
    names = (
        "service",
        "currency",
        "baseline_gpus",
        "watched_hours",
        "realised_hours",
        "realised_baseline_cost",
        "realised_cost",
        "realised_saving",
        "hpa_hours",
        "hpa_cost",
        "beside_hpa_cost",
        "hpa_saving",
        "potential_gpu_hours",
        "potential_saving",
    )
    fields, shown = [], []
    for each in found:
        money = (each.baseline_cost, each.cost, each.realised)
        beside_hpa = (each.hpa_cost, each.beside_hpa, each.against_hpa)
        fields.append(
            of_fields(
                names,
                each.service,
                each.currency,
                str(each.gpus),
                digits(each.watched_hours),
                digits(each.acting_hours),
                *map(_maybe, money),
                digits(each.hpa_hours),
                *map(_maybe, beside_hpa),
                digits(each.advised_hours),
                _maybe(each.potential),
            )
        )
        static = f"static, {each.gpus} GPUs" if each.gpus else "static, none seen"
        shown.append([each.service, static, f"{each.acting_hours:,.1f} h", *_amounts(money, each.currency), ""])
        shown.append(["", "HPA", f"{each.hpa_hours:,.1f} h", *_amounts(beside_hpa, each.currency), ""])
        if each.advised_hours:
            advised = f"{each.advised_hours:,.1f} GPU-h"
            shown.append(["", "Recommend", advised, "", "", "", *_amounts((each.potential,), each.currency)])
    headers = ("service", "against", "watched", "would cost", "did cost", "saved", "could save")
    return Report("savings", names, fields, headers, shown, (), tuple(notes), "No service was watched in that time.")


def of_prices(records: Sequence[PriceRecord]) -> Report:
    """How each pool was priced, in the order in which it became known."""
    names = ("pool", "from", "known_at", "price", "currency", "billing", "holds", "note")
    fields, shown, refused = [], [], []
    for pool in dict.fromkeys(record.pool for record in records):
        mine = [record for record in records if record.pool == pool]
        holding = in_force(mine)
        for record in mine:
            now = price_at(pool, record.price, record.from_s, record.listed)
            moments = (record.from_s, record.known_s)
            times = [rfc3339(at_s) if at_s else "" for at_s in moments]
            minutes = [minute(at_s) if at_s else "" for at_s in moments]
            price = "" if now.per_gpu_hour is None else str(now.per_gpu_hour)
            rest = (record.billing.value, "yes" if record in holding else "replaced")
            fields.append(of_fields(names, pool, *times, price, now.currency, *rest, record.refused))
            shown.append([pool, *minutes, f"{price} {now.currency}" if price else "unknown", *rest])
            if record.refused:
                refused.append(f"{pool} from {minutes[0]}: {record.refused}")
    said = (
        "Each holds until the next one's beginning; without a beginning it is the pool's first. Of a price with a "
        "schedule the one at its beginning is shown. Moments are UTC.",
        *refused,
    )
    headers = ("pool", "from", "known at", "price", "billing", "holds")
    nothing = "The ledger knows no price yet."
    return Report("prices", names, fields, headers, shown, (), said, nothing, nothing, headers[1:])


def show(report: Report, output: str, span: Span) -> None:
    """Print it as `table`, `json` or `csv`; with CSV the notes go to stderr."""
    if output == "table":
        _print(report, span)
    elif output == "json":
        times = {
            "from": rfc3339(span.begin_s),
            "to": rfc3339(span.end_s),
            "ledgerFrom": rfc3339(span.since_s),
            "writtenUntil": rfc3339(span.written_s),
        }
        notes = {"notes": list(report.notes)} if report.notes else {}
        click.echo(json.dumps({**times, report.list_name: list(report.fields), **notes}, indent=2))
    else:
        writer = csv.DictWriter(sys.stdout, report.names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(report.fields)
        for note in report.notes:
            click.echo(note, err=True)


@contextmanager
def whole_file(path: str) -> Iterator[TextIO]:
    """To write to `path`, or with - to stdout: where the block raises, a file stays as it was, or is not made."""
    if path == "-":
        yield sys.stdout
        return
    target = Path(path).resolve()
    try:
        if target.exists() and not target.is_file():  # a pipe, or a terminal
            with target.open("w", encoding="utf-8", newline="") as opened:
                yield opened
            return
        part = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with part.open("x", encoding="utf-8", newline="") as opened:
                yield opened
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--focus {path}: {error.strerror}. Name a file in a writable directory") from error


def minute(at_s: float) -> str:
    """2026-01-31 12:00, in UTC."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M")


def _print(report: Report, span: Span) -> None:
    console = Console()
    begin_s = max(span.begin_s, span.since_s)
    end_s = min(span.end_s, span.written_s)
    counted = begin_s < end_s
    console.print(f"From {minute(begin_s)} to {minute(end_s)} UTC" if counted else report.uncounted, highlight=False)
    if report.fields:
        table = Table(box=None, pad_edge=False)
        texts = sum(1 for header in report.headers if header in report.names)
        for number, header in enumerate(report.headers):
            justify: JustifyMethod = "left" if number < texts and header != "cost" else "right"
            table.add_column(header, justify=justify, no_wrap=header in report.unbroken, overflow="fold")
        for cells in report.shown:
            table.add_row(*cells)
        for cells in report.last:
            table.add_row(*cells, style="bold")
        console.print(table)
    elif counted:
        console.print(report.nothing)
    for note in report.notes:
        console.print(note, highlight=False)
    if (report.fields or not counted) and span.written_s and span.end_s - span.written_s > 300:
        console.print(f"The ledger was last written at {minute(span.written_s)} UTC: what ran since is not in it.")
    if span.begin_s < span.since_s:
        console.print(f"The ledger begins at {minute(span.since_s)} UTC: what ran before is not in it.")


def of_fields(names: Sequence[str], *values: str) -> Cells:
    """One row of JSON or CSV."""
    return dict(zip(names, values, strict=True))


def _amount(total: Total) -> str:
    return "unknown" if total.cost is None else f"{total.cost:,.2f} {total.currency}"


def _unit(unit: Unit) -> list[str]:
    amount = f"{unit.cost:,.2f} {unit.currency}" if unit.currency else "unknown"
    tokens = [f"{count / 1e6:,.2f}" if count else "" for count in (unit.input_tokens, unit.output_tokens)]
    shares = [f"{share:.0%}" if share is not None else "" for share in (unit.idle, unit.coverage)]
    return [amount, *tokens, _pair(unit.allocation), _pair(unit.usage), *shares]


def _pair(price: PerMillion) -> str:
    """One for both where it is not known how much work an input token makes."""
    if price.input is None and price.output is None:
        return "" if price.both is None else f"{price.both:,.2f} either"
    return " / ".join("-" if each is None else f"{each:,.2f}" for each in (price.input, price.output))


def _prices(price: PerMillion) -> tuple[Decimal | None, ...]:
    return price.input, price.output, price.both


def digits(amount: Decimal) -> str:
    """With six places, no exponent and no symbol."""
    return f"{amount.quantize(_PLACES):f}"


def _maybe(amount: Decimal | None) -> str:
    return "" if amount is None else digits(amount)


def _amounts(amounts: Sequence[Decimal | None], currency: str) -> list[str]:
    return [_money(amount, currency) for amount in amounts]


def _money(amount: Decimal | None, currency: str) -> str:
    return "" if amount is None else f"{amount:,.2f} {currency}"
