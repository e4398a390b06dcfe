"""Amounts of money by the hour of the week: which holds at a moment, and all changes of a span.

A window opens at each firing of its cron expression, read in its own time zone, and lasts `duration_s` real seconds:
one that opens at 22:00 for 9 h ends at 07:00, at 08:00 in the night when clocks go forward, at 06:00 when they go back.
Where windows overlap, the one declared first wins. One with an unknown time zone, or with a cron line that no calendar
can follow, has a fault in words and no amount: guessing money is worse than saying so.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ebbtide.model.reasons import Code
from ebbtide.model.spec import Tariff, TariffWindow

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# first, last and names of each cron field's values
_CALENDAR: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    (0, 59, ()),
    (0, 23, ()),
    (1, 31, ()),
    (1, 12, _MONTHS),
    (0, 6, _DAYS),
)
_EXAMPLE = "write five fields such as '0 22 * * *'"

# Changes looked at before "none is near": a window that opens every minute at the base amount changes nothing for ever.
_CHANGES_LOOKED_AT = 64


def amount_at(tariff: Tariff, at_s: float) -> Decimal:
    """The amount at `at_s` (unix seconds). The tariff must have no faults."""
    for window in tariff.schedule:
        opened_s = _opened(window, at_s)
        if opened_s is not None and at_s < opened_s + window.duration_s:
            return window.amount
    return tariff.base


def next_change(tariff: Tariff, at_s: float) -> tuple[float, Decimal] | None:
    """When another amount will hold after `at_s`, and which; None: no change is near."""
    current, moment_s = amount_at(tariff, at_s), at_s
    for _ in range(_CHANGES_LOOKED_AT):
        edges = [edge for window in tariff.schedule for edge in _edges_after(window, moment_s)]
        if not edges:
            return None
        moment_s = min(edges)
        following = amount_at(tariff, moment_s)
        if following != current:
            return moment_s, following
    return None


def steps(tariff: Tariff, from_s: float, to_s: float) -> tuple[tuple[float, Decimal], ...]:
    """The amounts of [from_s, to_s): each with the moment from which it holds, the first with `from_s`."""
    firings = [_firings(window, from_s, to_s) for window in tariff.schedule]
    edges = {from_s}
    for window, opened in zip(tariff.schedule, firings, strict=True):
        edges |= {edge for at_s in opened for edge in (at_s, at_s + window.duration_s) if from_s < edge < to_s}
    found: list[tuple[float, Decimal]] = []
    for edge in sorted(edges):
        amount = _among(tariff, firings, edge)
        if not found or found[-1][1] != amount:
            found.append((edge, amount))
    return tuple(found)


def faults(where: str, tariff: Tariff) -> tuple[tuple[str, str], ...]:
    """(reason, message) of each window that no calendar can follow; `where` is the field, such as `price.schedule`."""
    return tuple(fault for window in tariff.schedule for fault in _faults(where, window))


def _among(tariff: Tariff, firings: Sequence[Sequence[float]], at_s: float) -> Decimal:
    for window, opened in zip(tariff.schedule, firings, strict=True):
        last = bisect_right(opened, at_s) - 1
        if last >= 0 and at_s < opened[last] + window.duration_s:
            return window.amount
    return tariff.base


def _firings(window: TariffWindow, from_s: float, to_s: float) -> list[float]:
    """The last firing at or before `from_s`, and all of the span, ascending."""
    before = _opened(window, from_s)
    found = [] if before is None else [before]
    for firing in CronSim(window.cron, _local(window, int(from_s))):
        at_s = firing.timestamp()
        if at_s >= to_s:
            break
        if at_s > from_s:
            found.append(at_s)
    return found


def _edges_after(window: TariffWindow, at_s: float) -> list[float]:
    edges = []
    opened_s = _opened(window, at_s)
    if opened_s is not None and opened_s + window.duration_s > at_s:
        edges.append(opened_s + window.duration_s)
    following = next(CronSim(window.cron, _local(window, int(at_s))), None)
    if following is not None:
        edges.append(following.timestamp())
    return edges


def _opened(window: TariffWindow, at_s: float) -> float | None:
    """The last firing at or before `at_s`; None when there was none within the calendar."""
    last = next(CronSim(window.cron, _local(window, int(at_s) + 1), reverse=True), None)
    return None if last is None else last.timestamp()


def _local(window: TariffWindow, at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC).astimezone(ZoneInfo(window.time_zone))


def _faults(where: str, window: TariffWindow) -> Iterator[tuple[str, str]]:
    """Both may be wrong at once, and both are said."""
    try:
        ZoneInfo(window.time_zone)
    except (KeyError, ValueError, OSError):
        yield (
            Code.INVALID_TIME_ZONE,
            f"{where} names the time zone {window.time_zone!r}, which does not exist; "
            "write an IANA name such as Europe/Berlin or UTC. Until then its price is unknown.",
        )
    try:
        CronSim(window.cron, datetime.fromtimestamp(0, UTC))
    except CronSimError as error:
        yield (
            Code.INVALID_SCHEDULE,
            f"{where} has the cron expression {window.cron!r}: {error}; "
            f"{_mended(window.cron)}. Until then its price is unknown.",
        )


def _mended(cron: str) -> str:
    """What to write instead: a range that goes back as two that go up, a day that some of the months have."""
    parts = cron.lower().split()
    if len(parts) != len(_CALENDAR):
        return _EXAMPLE
    for field, (first, last, names) in zip(parts, _CALENDAR, strict=True):
        for item in field.split(","):
            low, dash, high = item.partition("/")[0].partition("-")
            ends = [_value(end, first, names) for end in (low, high)]
            if dash and ends[0] is not None and ends[1] is not None and ends[0] > ends[1]:
                return f"ranges go up: for {item.partition('/')[0]} write {_wrapped(ends[0], ends[1], first, last)}"
    if parts[2] != "*" and parts[3] != "*":
        return f"no month of {parts[3]!r} has a day {parts[2]!r}: write a day that it has, such as 1"
    return _EXAMPLE


def _value(text: str, first: int, names: tuple[str, ...]) -> int | None:
    if text in names:
        return names.index(text) + first
    return int(text) if text.isdecimal() else None


def _wrapped(low: int, high: int, first: int, last: int) -> str:
    """22-6 of the hours is `22-23,0-6`; 7-1 of the days of the week is `0-1`, for 7 is Sunday too."""
    upper = "" if low > last else f"{low}," if low == last else f"{low}-{last},"
    return upper + (f"{first}" if high == first else f"{first}-{high}")
