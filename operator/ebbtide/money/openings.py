"""When windows of cron, duration and time zone are open: what price schedules and batch windows share.

A window opens at each firing of its cron expression, read in its own time zone, and lasts `duration_s` real seconds:
one that opens at 22:00 for 9 h ends at 07:00, at 08:00 in the night when clocks go forward, at 06:00 when they go back.
One with an unknown time zone, or with a cron line that no calendar can follow, has a fault in words.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ebbtide.model.reasons import Code

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


class Opening(Protocol):
    """Opens at each firing of `cron` in `time_zone`, for `duration_s` real seconds."""

    @property
    def cron(self) -> str:
        """Five fields, such as `0 22 * * *`."""

    @property
    def time_zone(self) -> str:
        """An IANA name, such as Europe/Berlin."""

    @property
    def duration_s(self) -> float:
        """Real seconds."""


def opened(window: Opening, at_s: float) -> float | None:
    """The last firing at or before `at_s` (unix seconds); None when there was none within the calendar."""
    last = next(CronSim(window.cron, _local(window, int(at_s) + 1), reverse=True), None)
    return None if last is None else last.timestamp()


def opens(window: Opening, at_s: float) -> float | None:
    """The first firing after `at_s`; None when there is none within the calendar."""
    following = next(CronSim(window.cron, _local(window, int(at_s))), None)
    return None if following is None else following.timestamp()


def firings(window: Opening, from_s: float, to_s: float) -> list[float]:
    """The last firing at or before `from_s`, and all of the span, ascending."""
    before = opened(window, from_s)
    found = [] if before is None else [before]
    for firing in CronSim(window.cron, _local(window, int(from_s))):
        at_s = firing.timestamp()
        if at_s >= to_s:
            break
        if at_s > from_s:
            found.append(at_s)
    return found


def faults(where: str, window: Opening, until_then: str) -> Iterator[tuple[str, str]]:
    """(reason, message) of what no calendar can follow; both may be wrong at once, and both are said.

    `where` is the field, such as `price.schedule`; `until_then` ends the message: "its price is unknown".
    """
    try:
        ZoneInfo(window.time_zone)
    except (KeyError, ValueError, OSError):
        yield (
            Code.INVALID_TIME_ZONE,
            f"{where} names the time zone {window.time_zone!r}, which does not exist; "
            f"write an IANA name such as Europe/Berlin or UTC. Until then {until_then}.",
        )
    try:
        CronSim(window.cron, datetime.fromtimestamp(0, UTC))
    except CronSimError as error:
        yield (
            Code.INVALID_SCHEDULE,
            f"{where} has the cron expression {window.cron!r}: {error}; "
            f"{_mended(window.cron)}. Until then {until_then}.",
        )


def _local(window: Opening, at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC).astimezone(ZoneInfo(window.time_zone))


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
