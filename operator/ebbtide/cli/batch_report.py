"""How `ebbtide batch` looks: each policy with its Jobs as lines and as a timeline; JSON and CSV for programs."""

import csv
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import click
from rich.console import Console
from rich.text import Text

from ebbtide.cli.timeline import Kind, Row, Span, Spans, Timeline, cut
from ebbtide.clock import parse_rfc3339, rfc3339
from ebbtide.model.plan import Outcome

PLAIN_WIDTH = 80
_DAY_S = 86_400.0
_HOLD_GPUS = frozenset(each.value for each in (Outcome.RUNS, Outcome.STARTS, Outcome.SHRINKS, Outcome.GROWS))
_COUNTS = (
    ("queued", "queued"),
    ("running", "running"),
    ("stopped", "stopped"),
    ("impossible", "impossible"),
    ("suspendedByUsers", "suspended by users"),
    ("missed", "missed"),
    ("gpus", "GPUs held"),
)
_ALWAYS = frozenset(name for name, _ in _COUNTS) - {"impossible"}
_CSV = ("name", "outcome", "pool", "gpus", "start", "end", "mustStartBy", "deadline", "late", "reason")


@dataclass(frozen=True)
class Listed:
    """One policy: its status as the API server has it, when it was last written, and its windows in [from, to)."""

    namespace: str
    name: str
    status: Mapping[str, Any]
    written_at: str = ""
    open: Spans = ()
    fault: str = ""  # why its windows are not known

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def jobs(self) -> Sequence[Mapping[str, Any]]:
        """Queue and plan."""
        found: Sequence[Mapping[str, Any]] = self.status.get("jobs") or ()
        return found

    @property
    def unlisted(self) -> int:
        """Jobs that wait or run and have no row."""
        shown = sum(1 for job in self.jobs if job["outcome"] != Outcome.LEFT_ALONE.value)
        there = sum(int(self.status.get(name) or 0) for name in ("queued", "running", "stopped", "impossible"))
        return max(0, there - shown)


@dataclass(frozen=True)
class Shown:
    """What is shown: policies, and the moments and time zone that they are shown in."""

    policies: Sequence[Listed]
    now_s: float
    end_s: float
    zone: ZoneInfo
    nothing: str = field(default="There is no BatchPolicy.")


def show(shown: Shown, output: str, console: Console, plain: bool) -> None:
    """Print it as `table`, `json` or `csv`."""
    if output == "json":
        document = {"at": rfc3339(shown.now_s), "policies": [_document(policy) for policy in shown.policies]}
        click.echo(json.dumps(document, indent=2))
    elif output == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["namespace", "policy", "job", *(_snake(name) for name in _CSV[1:])])
        for policy in shown.policies:
            for job in policy.jobs:
                writer.writerow([policy.namespace, policy.name, *(_text(job.get(name)) for name in _CSV)])
    else:
        for line in lines(shown, console.width, plain):
            console.print(line, soft_wrap=True, highlight=False, markup=False)


def lines(shown: Shown, width: int, plain: bool) -> Iterator[Text]:
    """The whole report for people."""
    if not shown.policies:
        yield Text(shown.nothing)
    for number, policy in enumerate(shown.policies):
        if number:
            yield Text("")
        yield from _head(policy, shown, width)
        if policy.jobs:
            yield Text("")
            yield from _table(policy, shown, width, plain)
            yield Text("")
            yield from _timeline(policy, shown, width, plain)


def _head(policy: Listed, shown: Shown, width: int) -> Iterator[Text]:
    status = policy.status
    if not status:
        yield Text(f"{policy.key}: nobody looked at it yet. Does the operator run, with rights to BatchPolicies?")
        return
    yield from _wrapped(f"{policy.key}  {status.get('reason', '')}: {status.get('message', '')}", width, "", "bold")
    counts = "  ".join(
        f"{words} {status[name]}" for name, words in _COUNTS if name in status and (status[name] or name in _ALWAYS)
    )
    if counts:
        yield from _wrapped(counts, width, "  ")
    words = (("nextStart", "next start"), ("nextWindow", "next window"))
    parts = [f"{text} {_at(status[name], shown)}" for name, text in words if name in status]
    if status.get("saved"):
        parts.append(f"saved {status['saved']['amount']} {status['saved']['currency']}")
    if policy.written_at:
        parts.append(f"written {_at(policy.written_at, shown)}")
    if parts:
        yield from _wrapped(f"{'  '.join(parts)}  ({shown.zone.key})", width, "  ")
    for kept in status.get("conditions") or ():
        if kept["status"] == "False" and kept["type"] != "Ready":
            yield from _wrapped(f"{kept['type']} False, {kept['reason']}: {kept['message']}", width, "  ", "red")
    if policy.fault:
        yield from _wrapped(f"Its windows are not known: {policy.fault}", width, "  ", "red")


def _table(policy: Listed, shown: Shown, width: int, plain: bool) -> Iterator[Text]:
    """A line each, cut to the width, and its reason below."""
    columns = {
        "job": [job["name"] for job in policy.jobs],
        "does": [job["outcome"] + (", late" if job.get("late") else "") for job in policy.jobs],
        "pool": [job.get("pool", "-") for job in policy.jobs],
        "GPUs": [str(job["gpus"]) for job in policy.jobs],
    }
    for header, name in (("start", "start"), ("end", "end"), ("must start", "mustStartBy"), ("deadline", "deadline")):
        columns[header] = [_at(job[name], shown) if name in job else "-" for job in policy.jobs]
    widths = {header: max(map(len, (header, *cells))) for header, cells in columns.items()}
    for header, least in (("job", 12), ("pool", 8)):  # names give way where all do not fit
        widths[header] = max(min(least, widths[header]), widths[header] - max(0, _wide(widths) - width))
    if _wide(widths) > width:
        del widths["must start"]  # the reason has it too
    mark = "~" if plain else "…"

    def line(cells: Mapping[str, str]) -> str:
        return "  ".join(cut(cells[name], size, mark).ljust(size) for name, size in widths.items()).rstrip()

    yield Text(line({header: header for header in columns}), style="dim")
    for number, job in enumerate(policy.jobs):
        yield Text(
            line({name: cells[number] for name, cells in columns.items()}), style="red" if job.get("late") else ""
        )
        yield from _wrapped(job["reason"], width, "    ", "dim")
    if policy.unlisted:
        yield Text(f"and {policy.unlisted} more: the status has the first {len(policy.jobs)}")


def _wide(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + 2 * (len(widths) - 1)


def _timeline(policy: Listed, shown: Shown, width: int, plain: bool) -> Iterator[Text]:
    names = [job["name"] for job in policy.jobs]
    timeline = Timeline(shown.now_s, shown.end_s, shown.zone, width, names, plain)
    rows = [_row(job, shown.now_s) for job in policy.jobs]
    yield timeline.ruler()
    if policy.open:
        yield timeline.windows(policy.open)
    for row in rows:
        yield timeline.row(row, policy.open)
    kinds = {span.kind for row in rows for span in row.spans}
    yield from _wrapped(timeline.legend(kinds), width, "", "dim")


def _row(job: Mapping[str, Any], now_s: float) -> Row:
    deadline_s = parse_rfc3339(job["deadline"]) if "deadline" in job else None
    if "start" not in job and job["outcome"] not in _HOLD_GPUS:
        return Row(job["name"], (), deadline_s)
    start_s = parse_rfc3339(job["start"]) if "start" in job else now_s
    end_s = max(start_s, parse_rfc3339(job["end"])) if "end" in job else start_s
    if job["outcome"] in _HOLD_GPUS:
        spans = [Span(start_s, max(end_s, now_s), Kind.RUNS)]
    else:
        spans = [Span(start_s, end_s, Kind.PLANNED)]
    if deadline_s is not None and end_s > deadline_s:
        spans.append(Span(max(start_s, deadline_s), end_s, Kind.LATE))
    return Row(job["name"], tuple(spans), deadline_s)


def _document(policy: Listed) -> dict[str, Any]:
    status = {name: value for name, value in policy.status.items() if name not in ("conditions", "observedGeneration")}
    return {
        "namespace": policy.namespace,
        "name": policy.name,
        **({"writtenAt": policy.written_at} if policy.written_at else {}),
        "windows": [{"from": rfc3339(begin_s), "to": rfc3339(end_s)} for begin_s, end_s in policy.open],
        **({"windowsUnknown": policy.fault} if policy.fault else {}),
        **status,
        "jobs": list(policy.jobs),
        "unlisted": policy.unlisted,
    }


def _at(text: str, shown: Shown) -> str:
    """`22:00` within a day of now, `Sat 22:00` within six, else `01-31`, in the time zone that is shown."""
    at_s = parse_rfc3339(text)
    away_s = abs(at_s - shown.now_s)
    form = "%H:%M" if away_s < _DAY_S else "%a %H:%M" if away_s < 6 * _DAY_S else "%m-%d"
    return datetime.fromtimestamp(at_s, UTC).astimezone(shown.zone).strftime(form)


def _wrapped(text: str, width: int, indent: str, style: str = "") -> Iterator[Text]:
    for line in textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent):
        yield Text(line, style=style)


def _text(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
