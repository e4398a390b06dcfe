"""What a pool's GPU-hour costs now, and when that changes next.

A window opens at each firing of its cron expression, read in its own time zone, and lasts `duration_s` real seconds:
one that opens at 22:00 for 9 h ends at 07:00, at 08:00 in the night when clocks go forward, at 06:00 when they go back.
Where windows overlap, the one declared first wins. A schedule with an unknown time zone, or with a cron line that
no calendar can follow, has no price: guessing money is worse than saying so.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ebbtide.model.reasons import Code
from ebbtide.model.spec import Price, PriceWindow

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

# Changes looked at before "none is near": a window that opens every minute at the base price changes nothing for ever.
_CHANGES_LOOKED_AT = 64


@dataclass(frozen=True, slots=True)
class PriceNow:
    """Money per GPU-hour; `per_gpu_hour` None: unknown. `next_at` None: no change is near."""

    per_gpu_hour: Decimal | None = None
    currency: str = ""
    next_at: float | None = None
    next_per_gpu_hour: Decimal | None = None
    faults: tuple[tuple[str, str], ...] = ()


def price_at(pool: str, price: Price | None, now_s: float) -> PriceNow:
    """The price at `now_s` (unix seconds) and its next change."""
    if price is None:
        return PriceNow()
    faults = tuple(fault for window in price.schedule for fault in _faults(pool, window))
    if faults:
        return PriceNow(currency=price.currency, faults=faults)
    current = _price(price, now_s)
    moment_s = now_s
    for _ in range(_CHANGES_LOOKED_AT):
        edges = [edge for window in price.schedule for edge in _edges_after(window, moment_s)]
        if not edges:
            break
        moment_s = min(edges)
        following = _price(price, moment_s)
        if following != current:
            return PriceNow(current, price.currency, moment_s, following)
    return PriceNow(current, price.currency)


def _price(price: Price, at_s: float) -> Decimal:
    for window in price.schedule:
        opened_s = _opened(window, at_s)
        if opened_s is not None and at_s < opened_s + window.duration_s:
            return window.per_gpu_hour
    return price.per_gpu_hour


def _edges_after(window: PriceWindow, at_s: float) -> list[float]:
    edges = []
    opened_s = _opened(window, at_s)
    if opened_s is not None and opened_s + window.duration_s > at_s:
        edges.append(opened_s + window.duration_s)
    following = next(CronSim(window.cron, _local(window, int(at_s))), None)
    if following is not None:
        edges.append(following.timestamp())
    return edges


def _opened(window: PriceWindow, at_s: float) -> float | None:
    """The last firing at or before `at_s`; None when there was none within the calendar."""
    last = next(CronSim(window.cron, _local(window, int(at_s) + 1), reverse=True), None)
    return None if last is None else last.timestamp()


def _local(window: PriceWindow, at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC).astimezone(ZoneInfo(window.time_zone))


def _faults(pool: str, window: PriceWindow) -> Iterator[tuple[str, str]]:
    """Both may be wrong at once, and both are said."""
    try:
        ZoneInfo(window.time_zone)
    except (KeyError, ValueError, OSError):
        yield (
            Code.INVALID_TIME_ZONE,
            f"GPUPool {pool}: price.schedule names the time zone {window.time_zone!r}, which does not exist; "
            "write an IANA name such as Europe/Berlin or UTC. Until then its price is unknown.",
        )
    try:
        CronSim(window.cron, datetime.fromtimestamp(0, UTC))
    except CronSimError as error:
        yield (
            Code.INVALID_SCHEDULE,
            f"GPUPool {pool}: price.schedule has the cron expression {window.cron!r}: {error}; "
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
