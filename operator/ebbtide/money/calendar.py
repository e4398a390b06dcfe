"""Days and months of a time zone as half-open spans of UTC, for which ceilings and reports are meant.

A day begins with its first instant: where clocks go forward at midnight that is 01:00, and where they go back over it
the day begins once. Days of 23 and of 25 hours are as long as they are.
"""

from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from ebbtide.model.money import Period


class Span(StrEnum):
    """What repeats."""

    DAY = "Day"
    MONTH = "Month"


def zone_named(name: str) -> ZoneInfo | None:
    """The time zone, or None where the database has none of that name."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def period_at(span: Span, zone: ZoneInfo, at_s: float, month_starts_on: int = 1) -> Period:
    """The period that `at_s` (unix seconds) is in. Months begin on day `month_starts_on` (1 to 28)."""
    today = datetime.fromtimestamp(at_s, UTC).astimezone(zone).date()
    if at_s < _begin_s(today, zone):
        today -= timedelta(days=1)  # clocks went back over midnight: the evening is still yesterday's
    elif at_s >= _begin_s(today + timedelta(days=1), zone):
        today += timedelta(days=1)
    if span is Span.DAY:
        return Period(span.value, _begin_s(today, zone), _begin_s(today + timedelta(days=1), zone))
    first = today.replace(day=month_starts_on)
    if today < first:
        first = _month_later(first, -1)
    return Period(span.value, _begin_s(first, zone), _begin_s(_month_later(first, 1), zone))


def day_span(day: date, zone: ZoneInfo) -> tuple[float, float]:
    """A day of the calendar as [from, to) in unix seconds."""
    return _begin_s(day, zone), _begin_s(day + timedelta(days=1), zone)


def touching(span: Span, zone: ZoneInfo, from_s: float, to_s: float, month_starts_on: int = 1) -> tuple[Period, ...]:
    """All periods that have a moment of [from_s, to_s], in order."""
    found = [period_at(span, zone, from_s, month_starts_on)]
    while found[-1].end_s <= to_s:
        found.append(period_at(span, zone, found[-1].end_s, month_starts_on))
    return tuple(found)


def _begin_s(day: date, zone: ZoneInfo) -> float:
    """Midnight, or where clocks leap over it the moment of the leap, which is midnight by the offset before it."""
    return datetime.combine(day, time.min, zone).timestamp()


def _month_later(day: date, months: int) -> date:
    index = day.year * 12 + day.month - 1 + months
    return day.replace(year=index // 12, month=index % 12 + 1)
