"""Days and months of time zones: clocks that go forward and back, leap days, months that begin late."""

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.money.calendar import Span, period_at, touching, zone_named

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "Africa/Cairo", "America/Havana",
         "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Kiritimati", "Asia/Beirut")  # fmt: skip


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("span", "zone", "at", "start", "end"),
    [
        pytest.param("Day", "UTC", "2026-01-15T00:00", "2026-01-15T00:00", "2026-01-16T00:00", id="the first moment"),
        pytest.param("Day", "Europe/Berlin", "2026-01-14T23:00", "2026-01-14T23:00", "2026-01-15T23:00",
                     id="midnight in Berlin is 23:00 UTC"),
        pytest.param("Day", "Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00",
                     id="clocks go forward: 23 hours"),
        pytest.param("Day", "Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00",
                     id="clocks go back: 25 hours"),
        pytest.param("Day", "America/Santiago", "2026-09-06T04:00", "2026-09-06T04:00", "2026-09-07T03:00",
                     id="clocks go forward at midnight: the day begins at 01:00"),
        pytest.param("Day", "America/Santiago", "2026-04-05T03:30", "2026-04-04T03:00", "2026-04-05T04:00",
                     id="clocks go back over midnight: 23:30 comes twice, on one day"),
        pytest.param("Month", "UTC", "2028-02-29T12:00", "2028-02-01T00:00", "2028-03-01T00:00", id="a leap day"),
        pytest.param("Month", "Europe/Berlin", "2026-03-31T21:59", "2026-02-28T23:00", "2026-03-31T22:00",
                     id="a month with a change of clocks"),
        pytest.param("Month", "UTC", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00", id="a year's end"),
    ],
)  # fmt: skip
def test_the_period_of_a_moment(span: str, zone: str, at: str, start: str, end: str) -> None:
    found = period_at(Span(span), ZoneInfo(zone), utc(at))
    assert (found.start_s, found.end_s) == (utc(start), utc(end))


@pytest.mark.parametrize(
    ("at", "start", "end"),
    [
        ("2026-03-14T12:00", "2026-02-15T00:00", "2026-03-15T00:00"),
        ("2026-03-15T00:00", "2026-03-15T00:00", "2026-04-15T00:00"),
        ("2027-01-01T00:00", "2026-12-15T00:00", "2027-01-15T00:00"),
    ],
)
def test_a_month_that_begins_on_the_fifteenth(at: str, start: str, end: str) -> None:
    found = period_at(Span.MONTH, ZoneInfo("UTC"), utc(at), month_starts_on=15)
    assert (found.start_s, found.end_s) == (utc(start), utc(end))


moments = st.integers(int(utc("2024-01-01")), int(utc("2031-01-01")))


@given(moments, st.sampled_from(ZONES), st.sampled_from(list(Span)), st.sampled_from([1, 2, 15, 28]))
def test_periods_leave_no_moment_out_and_have_none_twice(at_s: int, name: str, span: Span, first: int) -> None:
    zone = ZoneInfo(name)
    found = period_at(span, zone, at_s, first)
    assert found.start_s <= at_s < found.end_s
    assert period_at(span, zone, found.start_s, first) == found
    assert period_at(span, zone, found.end_s - 0.001, first) == found
    following = period_at(span, zone, found.end_s, first)
    assert following.start_s == found.end_s
    local = datetime.fromtimestamp(found.start_s, UTC).astimezone(zone)
    assert span is Span.DAY or local.day == first
    hours = (found.end_s - found.start_s) / 3600
    assert 22 <= hours <= 26 if span is Span.DAY else 27 * 24 <= hours <= 32 * 24


@given(moments, st.sampled_from(ZONES), st.floats(0.0, 86_400.0))
def test_all_days_that_a_span_touches(at_s: int, name: str, length_s: float) -> None:
    zone = ZoneInfo(name)
    found = touching(Span.DAY, zone, at_s, at_s + length_s)
    assert found[0] == period_at(Span.DAY, zone, at_s)
    assert found[-1] == period_at(Span.DAY, zone, at_s + length_s)
    assert all(one.end_s == other.start_s for one, other in pairwise(found))


def test_a_zone_that_does_not_exist_is_none() -> None:
    assert zone_named("Mars/Olympus") is None
    assert zone_named("Europe/Berlin") == ZoneInfo("Europe/Berlin")
