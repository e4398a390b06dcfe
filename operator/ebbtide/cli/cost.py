"""`ebbtide cost`: what GPUs and tokens cost, by service, team, model, pool or policy, from the ledger."""

import csv
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import click

from ebbtide.cli import cost_alternative, cost_in_pod
from ebbtide.cli.cost_report import Report, Span, minute, of_prices, of_savings, of_totals, of_units, show, whole_file
from ebbtide.clock import unix_time_s
from ebbtide.errors import ConfigurationError
from ebbtide.ledger.store import FILE, Ledger
from ebbtide.money import focus, hpa
from ebbtide.money.bill import HOUR_S
from ebbtide.money.calendar import Span as Kind
from ebbtide.money.calendar import period_at, zone_named
from ebbtide.money.savings import STATIC_S, Saving, Savings, fleets
from ebbtide.money.selections import Payers, payers
from ebbtide.money.totals import BY, LABEL, nobody, totals
from ebbtide.money.units import Units

DATA_DIR = Path("/var/lib/ebbtide")  # where the operator's ledger lies by default
_ACCOUNT = "ebbtide"
PERIODS = "today, yesterday, month, last-month, 2026-01-31, 2026-01 or 2026-01-01..2026-01-31"


@dataclass(frozen=True)
class _Asked:
    """What was asked for: names of BY, and [begin_s, end_s) in unix seconds."""

    by: tuple[str, ...]
    begin_s: float
    end_s: float


@click.command(
    epilog="""\b
Examples:
  ebbtide cost --by team,model --period last-month
  ebbtide cost --tokens --period yesterday -o json
  ebbtide cost --savings --period 2026-01-01..2026-01-07
  ebbtide cost --alternative
  ebbtide cost --alternative --by pool --api 0.50,2.00,USD
  ebbtide cost --focus january.csv --period 2026-01 --account prod
  kubectl ebbtide cost --context prod --by team"""
)
@click.option(
    "--by",
    default="service",
    show_default=True,
    help=f"What to add up by, several with commas: {', '.join(BY)}, or {LABEL}NAME of a label that the ledger keeps.",
)
@click.option("--period", default="month", show_default=True, help=f"{PERIODS}; the last day is part of it.")
@click.option(
    "--time-zone", default="UTC", show_default=True, help="Whose days and months they are, such as Europe/Berlin."
)
@click.option("--tokens", is_flag=True, help="What a million input and output tokens cost, on two bases.")
@click.option(
    "--savings",
    "saved",
    is_flag=True,
    help="By service, what was saved: against a fleet that never scales, and an HPA.",
)
@click.option(
    "--alternative",
    is_flag=True,
    help="Build or buy: each service beside the API that its spec.alternative declares; with --by pool, when GPUs that "
    "were bought are paid back.",
)
@click.option(
    "--api",
    metavar=cost_alternative.API,
    help="With --alternative: prices for a million tokens instead of those that services declare, as 0.50,2.00,USD.",
)
@click.option("--prices", is_flag=True, help="How pools were priced, from when on, and when that became known.")
@click.option("--focus", "focus_to", metavar="FILE|-", help="Write FOCUS 1.2 rows as CSV; - is stdout.")
@click.option("--account", default=_ACCOUNT, show_default=True, help="BillingAccountId and -Name of FOCUS rows.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@click.option(
    "--ledger",
    envvar="EBBTIDE_LEDGER",
    help="File or URL of the ledger. Unset: EBBTIDE_LEDGER, else ledger.sqlite in EBBTIDE_DATA_DIR; where there is "
    "none, kubectl ebbtide cost asks in the pod of the operator that leads.",
)
@cost_in_pod.options
@click.pass_context
def cost(
    context: click.Context,
    /,
    by: str,
    period: str,
    time_zone: str,
    tokens: bool,
    saved: bool,
    alternative: bool,
    api: str | None,
    prices: bool,
    focus_to: str | None,
    account: str,
    output: str,
    ledger: str | None,
    **of_cluster: str | None,
) -> None:
    """What GPUs cost: those that services hold, those of others, and those that nobody holds.

    Costs are of list prices as pools declare them, to the second; no invoice knows of them.
    """
    reports = {"tokens": tokens, "savings": saved, "alternative": alternative, "prices": prices}
    _check_options(by, api, **reports, focus=focus_to is not None)
    _check_focus(account, output, given=focus_to is not None)
    zone = zone_named(time_zone)
    if zone is None:
        raise click.UsageError(f'--time-zone: "{time_zone}" is no time zone: write one such as Europe/Berlin or UTC')
    now_s = unix_time_s()
    begin_s, end_s = _span(period, zone, now_s)
    if begin_s >= now_s:
        raise click.UsageError(f'--period: "{period}" has not begun')
    asked = _Asked(_names(by), begin_s, min(end_s, now_s))
    cluster = cost_in_pod.cluster(
        context, of_cluster, at_hand=bool(ledger or os.environ.get("EBBTIDE_DATA_DIR")) or _default().exists()
    )
    if cluster is not None:
        context.exit(cost_in_pod.run(cluster, cost_in_pod.arguments(context, of_cluster), focus_to))
    database = _opened(ledger)
    try:
        if focus_to is not None:
            _write_focus(database, asked, account, focus_to)
            return
        report: Callable[[Ledger, _Asked], tuple[Report, Span]]
        report = _tokens if tokens else _savings if saved else _prices if prices else _costs
        if alternative:
            found, reported = _alternatives(database, asked, api)
        else:
            found, reported = report(database, asked)
        show(found, output, reported)
    finally:
        database.close()


def _check_options(by: str, api: str | None, **asked: bool) -> None:
    """`asked`: by name, which of the reports."""
    if sum(asked.values()) > 1:
        names = ", ".join(f"--{name}" for name in asked)
        raise click.UsageError(f"{names} are reports of their own: ask for one at a time")
    if asked["savings"] and by != "service":
        raise click.UsageError(f'--by: "{by}" is not allowed with --savings: a static fleet is one of a service')
    if asked["alternative"] and by not in ("service", "pool"):
        raise click.UsageError(f'--by: "{by}" is not allowed with --alternative: service or pool is')
    if asked["prices"] and by != "service":
        raise click.UsageError(f'--by: "{by}" is not allowed with --prices: they are those of pools')
    if asked["focus"] and by != "service":
        raise click.UsageError(f'--by: "{by}" is not allowed with --focus: its rows are the ledger\'s own')
    if api is not None and not asked["alternative"]:
        raise click.UsageError("--api: it says what --alternative compares with: give both")


def _check_focus(account: str, output: str, *, given: bool) -> None:
    """`given`: whether --focus is."""
    if given and output == "json":
        raise click.UsageError('-o: "json" is not allowed with --focus: FOCUS rows are CSV')
    if not given and account != _ACCOUNT:
        raise click.UsageError("--account: it is the account of FOCUS rows: give --focus too")
    if not account.strip():
        raise click.UsageError(
            f'--account: "{account}" is not allowed: FOCUS wants a name, such as that of the cluster'
        )


def _costs(ledger: Ledger, asked: _Asked) -> tuple[Report, Span]:
    written_s = ledger.watermark_s
    from_s, to_s = int(asked.begin_s), min(int(asked.end_s), written_s)
    rows = ledger.added_up(from_s, to_s) if from_s < to_s else ()
    labels = {name for row in rows for name in row.payer.all_labels}
    paying, notes = _policies(ledger, asked)
    notes += (*_days(ledger, from_s, to_s), *(_unlabelled(asked, labels) if rows else ()))
    span = Span(asked.begin_s, asked.end_s, ledger.since_s, written_s)
    return of_totals(totals(rows, asked.by, paying), totals(rows, ()), asked.by, notes), span


def _tokens(ledger: Ledger, asked: _Asked) -> tuple[Report, Span]:
    from_s, to_s = _whole_hours(asked, ledger.usage_s)
    paying, notes = _policies(ledger, asked)
    found, ours, rest, labels = Units(asked.by, paying), Units(()), Units(()), set[str]()
    for work in ledger.work(from_s, to_s) if from_s < to_s else ():
        labels |= work.payer.all_labels.keys()
        found.add(work)
        if work.payer.service:
            ours.add(work)
        elif work.idle:
            rest.add(work)
    whole = found.found()
    notes += (*_days(ledger, from_s, to_s), *(_unlabelled(asked, labels) if whole else ()))
    notes += tuple(
        f"GPUs of nodes that nobody held cost {each.cost:,.2f} {each.currency}: they are in no price of a token."
        for each in rest.found()
        if each.cost
    )
    if not ledger.usage_s:
        notes += ("The ledger knows no tokens yet: it counts them since an Ebbtide that does has led.",)
    report = of_units(whole, ours.found(), asked.by, notes)
    return report, Span(from_s, max(from_s, to_s), ledger.since_s, ledger.usage_s)


def _savings(ledger: Ledger, asked: _Asked) -> tuple[Report, Span]:
    from_s, to_s = _whole_hours(asked, ledger.usage_s)
    asked_s, from_s = from_s, max(from_s, ledger.since_s, -(-ledger.hours_s // HOUR_S) * HOUR_S)
    span = Span(from_s, max(from_s, to_s), ledger.since_s, ledger.usage_s)
    if from_s >= to_s:
        return of_savings((), ()), span
    before_s = max(from_s - STATIC_S, ledger.since_s)
    static = fleets(ledger.lifetimes(before_s, from_s), before_s, from_s)
    by_service = Savings(ledger.prices(), static, from_s, to_s)
    found = sorted((each for part in ledger.parts(from_s, to_s) for each in by_service.of(*part)), key=_name)
    notes = [
        "Saved: in time that was watched in mode Auto, against the most GPUs that the service held at once for ten "
        f"minutes from {minute(before_s)} to {minute(from_s)} UTC. What nobody watched is in neither. Recommend: what "
        "could be saved by doing what it says.",
        "HPA: what one on each Deployment would have run, on requests in flight at its pods, with "
        f"{hpa.TARGET_SHARE:.0%} of what a replica holds inside the objectives as its target and the controller's "
        "defaults (every 15 s, 10 % tolerance, lowered to the most of 5 min), never below the last replica. It "
        "supposes that as many requests would have been in flight and that replicas are there at once; with each new "
        "leader it begins at those that there are.",
    ]
    if from_s > max(asked_s, ledger.since_s):
        notes.append(f"Before {minute(from_s)} UTC the ledger keeps days alone: of these no saving can be told.")
    if from_s - before_s < STATIC_S:
        notes.append(f"The ledger knows {(from_s - before_s) / 86_400:.1f} of the 7 days before.")
    if ledger.raw_s > before_s:
        notes.append(f"What ended before {minute(ledger.raw_s)} UTC is no longer kept one by one: it may be more.")
    nobodys = (row for row in ledger.added_up(from_s, to_s) if row.idle)
    idle = {total.currency: total.cost for total in totals(nobodys, ()) if total.cost}
    notes += [
        f"Nodes' GPUs that nobody held cost {amount:,.2f} {currency} in that time: what is saved on nodes that stay is "
        "paid there."
        for currency, amount in sorted(idle.items())
    ]
    return of_savings(found, notes), span


def _name(saving: Saving) -> str:
    return saving.service


def _alternatives(ledger: Ledger, asked: _Asked, api: str | None) -> tuple[Report, Span]:
    prices = None if api is None else cost_alternative.api_prices(api)
    asked_s, to_s = _whole_hours(asked, ledger.usage_s)
    from_s = max(asked_s, -(-ledger.hours_s // HOUR_S) * HOUR_S)
    found = cost_alternative.report(ledger, (from_s, max(from_s, to_s)), asked.by[0], prices)
    if from_s > asked_s:
        note = f"Before {minute(from_s)} UTC the ledger keeps days alone: of these it cannot be told."
        found = replace(found, notes=(*found.notes, note))
    return found, Span(from_s, max(from_s, to_s), ledger.since_s, ledger.usage_s)


def _prices(ledger: Ledger, asked: _Asked) -> tuple[Report, Span]:
    """Of the period those that hold in it and those that became known in it, whichever time they are of."""
    known = [record for record in ledger.prices() if min(record.from_s, record.known_s) < asked.end_s]
    return of_prices(known), Span(asked.begin_s, asked.end_s, ledger.since_s, ledger.watermark_s)


def _write_focus(ledger: Ledger, asked: _Asked, account: str, path: str) -> None:
    """Whole hours that are over and begin within the period, so that exports of two days are that of both."""
    from_s, to_s = _whole_hours(asked, ledger.watermark_s // HOUR_S * HOUR_S)
    count = unknown_s = 0
    categories = focus.Categories(ledger.prices())
    with whole_file(path) as target:
        writer = csv.DictWriter(target, focus.COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in ledger.each_row(from_s, to_s) if from_s < to_s else ():
            if row.price is None or not row.currency:
                unknown_s += row.gpu_seconds
            else:
                writer.writerow(focus.cells(row, account, categories.of(row)))
                count += 1
    hours = Decimal(unknown_s) / HOUR_S
    for note in _days(ledger, from_s, to_s):
        click.echo(note, err=True)
    click.echo(f"{count} rows of the hours from {minute(from_s)} to {minute(max(from_s, to_s))} UTC.", err=True)
    if hours:
        click.echo(f"{hours:,.2f} GPU-hours whose price nobody knows are left out: no row may lack a cost.", err=True)


def _policies(ledger: Ledger, asked: _Asked) -> tuple[Payers, tuple[str, ...]]:
    if "policy" not in asked.by:
        return nobody, ()
    records = ledger.policies()
    _, paying = payers(records, ledger.labels(), asked.begin_s, asked.end_s)
    notes = [
        "What several policies pay for is counted under each, so these add up to more than the total. Each policy "
        "selects as it last did in that time."
    ]
    first_s = min((record.from_s for record in records), default=None)
    if first_s is None or first_s >= asked.end_s:
        notes.append("The ledger knows of no policy in that time.")
    return paying, tuple(notes)


def _days(ledger: Ledger, from_s: int, to_s: int) -> tuple[str, ...]:
    """That the report is of other time than was asked for, where it is, and what is missing."""
    begin_s, end_s = ledger.covered(from_s, to_s)
    holes = tuple(
        f"From {minute(hole.from_s)} to {minute(hole.to_s)} UTC {hole.why}." for hole in ledger.holes(from_s, to_s)
    )
    if from_s >= to_s or (begin_s, end_s) == (from_s, to_s):
        return holes
    asked, counted = (f"{minute(first)} to {minute(last)}" for first, last in ((from_s, to_s), (begin_s, end_s)))
    return (
        f"Before {minute(ledger.hours_s)} UTC the ledger keeps days alone, and this period cuts some of them: counted "
        f"is from {counted} UTC, not from {asked}.",
        *holes,
    )


def _whole_hours(asked: _Asked, written_s: int) -> tuple[int, int]:
    """Of the hours that begin within the period, as far as they were written."""
    from_s, to_s = (-(-int(at_s) // HOUR_S) * HOUR_S for at_s in (asked.begin_s, asked.end_s))
    return from_s, min(to_s, written_s)


def _names(by: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in by.split(",") if name.strip())
    unknown = [name for name in names if name not in BY and not _label(name)]
    if unknown or not names:
        allowed = f"{', '.join(BY)} and {LABEL}NAME are, several with commas"
        raise click.UsageError(f'--by: "{by}" is not allowed: {allowed}')
    return names


def _label(name: str) -> str:
    """Of which label it is; empty: of none."""
    return name.removeprefix(LABEL) if name.startswith(LABEL) else ""


def _unlabelled(asked: _Asked, found: Collection[str]) -> tuple[str, ...]:
    """That a label is none of those that were kept, where no service has it: nobody set it, or its name is another."""
    missing = [label for name in asked.by if (label := _label(name)) and label not in found]
    return tuple(
        f'No service has label "{label}" in that time, as far as the ledger goes. It has {", ".join(sorted(found))}: '
        "the operator's --cost-labels says which are kept."
        if found
        else f'No service has label "{label}" in that time, or any other that the operator\'s --cost-labels names.'
        for label in missing
    )


def _span(period: str, zone: ZoneInfo, now_s: float) -> tuple[float, float]:
    """[begin, end) in unix seconds."""
    today = period_at(Kind.DAY, zone, now_s)
    month = period_at(Kind.MONTH, zone, now_s)
    named = {
        "today": (today.start_s, today.end_s),
        "yesterday": (period_at(Kind.DAY, zone, today.start_s - 1.0).start_s, today.start_s),
        "month": (month.start_s, month.end_s),
        "last-month": (period_at(Kind.MONTH, zone, month.start_s - 1.0).start_s, month.start_s),
    }
    if period in named:
        return named[period]
    first, _, last = period.partition("..")
    try:
        begin_s, end_s = _day(first, zone)[0], _day(last or first, zone)[1]
    except ValueError:
        raise click.UsageError(f'--period: "{period}" is not allowed: write {PERIODS}') from None
    if begin_s >= end_s:
        raise click.UsageError(f'--period: "{period}" ends before it begins: write {last}..{first}')
    return begin_s, end_s


def _day(text: str, zone: ZoneInfo) -> tuple[float, float]:
    """The day 2026-01-31, or the month 2026-01."""
    span = Kind.MONTH if len(text) == len("2026-01") else Kind.DAY
    day = date.fromisoformat(f"{text}-01" if span is Kind.MONTH else text)
    noon_s = datetime(day.year, day.month, day.day, 12, tzinfo=zone).timestamp()
    found = period_at(span, zone, noon_s)
    return found.start_s, found.end_s


def _opened(ledger: str | None) -> Ledger:
    if ledger and "://" in ledger:
        return Ledger(ledger, read_only=True)
    path = Path(ledger) if ledger else _default()
    if not path.exists():
        raise ConfigurationError(
            f"ledger {path}: there is no such file. Name the operator's with --ledger FILE, or its URL; `kubectl "
            "ebbtide cost` asks in the operator's pod"
        )
    return Ledger(path, read_only=True)


def _default() -> Path:
    return Path(os.environ.get("EBBTIDE_DATA_DIR", DATA_DIR)) / FILE
