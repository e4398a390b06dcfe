"""When batch windows are open: across midnight, clocks that change, holidays, and windows that overlap."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.model.batch import BatchPolicySpec, BatchWindow
from ebbtide.model.reasons import Code
from ebbtide.model.spec import Tariff, TariffWindow
from ebbtide.money.tariff import amount_at
from ebbtide.money.windows import open_windows, window_faults

BERLIN = "Europe/Berlin"
HOUR_S = 3600.0


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def window(cron: str, hours: float, zone: str = "UTC") -> BatchWindow:
    return BatchWindow(cron, zone, hours * HOUR_S)


def policy(*windows: BatchWindow, holidays: tuple[str, ...] = ()) -> BatchPolicySpec:
    return BatchPolicySpec("team-a/nightly", "u", 1, (("a", "b"),), windows=windows, holidays=holidays)


NIGHTS = window("0 22 * * *", 9, BERLIN)


@pytest.mark.parametrize(
    ("spec", "begin", "end", "wanted"),
    [
        pytest.param(policy(), "2026-01-15T00:00", "2026-01-17T00:00", [], id="no window is never open"),
        pytest.param(policy(NIGHTS), "2026-01-15T12:00", "2026-01-17T12:00",
                     [("2026-01-15T21:00", "2026-01-16T06:00"), ("2026-01-16T21:00", "2026-01-17T06:00")],
                     id="22:00 to 07:00 in Berlin, across midnight"),
        pytest.param(policy(NIGHTS), "2026-01-16T02:30", "2026-01-16T12:00",
                     [("2026-01-16T02:30", "2026-01-16T06:00")], id="one that opened yesterday is still open"),
        pytest.param(policy(NIGHTS), "2026-01-15T12:00", "2026-01-15T22:00",
                     [("2026-01-15T21:00", "2026-01-15T22:00")], id="what lies beyond the end is not told"),
        pytest.param(policy(NIGHTS), "2026-01-16T06:00", "2026-01-16T21:00", [],
                     id="closed from the moment it closes to the moment it opens"),
        pytest.param(policy(NIGHTS), "2026-03-28T12:00", "2026-03-29T12:00",
                     [("2026-03-28T21:00", "2026-03-29T06:00")], id="clocks go forward: nine real hours, to 08:00"),
        pytest.param(policy(NIGHTS), "2026-10-24T12:00", "2026-10-25T12:00",
                     [("2026-10-24T20:00", "2026-10-25T05:00")], id="clocks go back: nine real hours, to 06:00"),
        pytest.param(policy(window("30 2 * * *", 1, BERLIN)), "2026-03-29T00:00", "2026-03-29T12:00",
                     [("2026-03-29T01:00", "2026-03-29T02:00")], id="02:30 that does not come opens at 03:00"),
        pytest.param(policy(window("30 2 * * *", 1, BERLIN)), "2026-10-25T00:00", "2026-10-25T12:00",
                     [("2026-10-25T00:30", "2026-10-25T01:30")], id="02:30 that comes twice opens once"),
        pytest.param(policy(window("0 22 * * *", 2), window("0 0 * * *", 7)), "2026-01-15T12:00", "2026-01-16T12:00",
                     [("2026-01-15T22:00", "2026-01-16T07:00")], id="windows that touch are one"),
        pytest.param(policy(window("0 20 * * *", 6), window("0 22 * * *", 1)), "2026-01-15T12:00", "2026-01-16T12:00",
                     [("2026-01-15T20:00", "2026-01-16T02:00")], id="a window inside another changes nothing"),
        pytest.param(policy(window("0 * * * *", 2)), "2026-01-15T12:34", "2026-01-18T00:00",
                     [("2026-01-15T12:34", "2026-01-18T00:00")], id="one longer than its period never closes"),
        pytest.param(policy(window("0 0 * * SAT", 48)), "2026-01-15T00:00", "2026-01-20T00:00",
                     [("2026-01-17T00:00", "2026-01-19T00:00")], id="weekends"),
        pytest.param(policy(NIGHTS, holidays=("2026-01-16",)), "2026-01-15T12:00", "2026-01-17T12:00",
                     [("2026-01-15T21:00", "2026-01-17T06:00")], id="a holiday joins the nights around it"),
        pytest.param(policy(window("0 3 * * *", 1, BERLIN), holidays=("2026-03-29",)),
                     "2026-03-28T12:00", "2026-03-30T00:00",
                     [("2026-03-28T23:00", "2026-03-29T22:00")], id="a holiday of 23 hours"),
        pytest.param(policy(window("0 3 * * *", 1, BERLIN), holidays=("2026-10-25",)),
                     "2026-10-24T12:00", "2026-10-26T00:00",
                     [("2026-10-24T22:00", "2026-10-25T23:00")], id="a holiday of 25 hours"),
        pytest.param(policy(holidays=("2026-12-25", "2026-12-26", "2026-12-31")),
                     "2026-12-24T00:00", "2027-01-02T00:00",
                     [("2026-12-25T00:00", "2026-12-27T00:00"), ("2026-12-31T00:00", "2027-01-01T00:00")],
                     id="holidays alone are days of UTC"),
        pytest.param(policy(window("0 3 1 1 *", 1, "Asia/Tokyo"), window("0 3 1 1 *", 1), holidays=("2026-05-01",)),
                     "2026-04-29T00:00", "2026-05-03T00:00",
                     [("2026-04-30T15:00", "2026-05-02T00:00")], id="a holiday in the time zone of each window"),
        pytest.param(policy(window("0 22 * * *", 1, "Mars/Olympus"), window("0 4 * * *", 1)),
                     "2026-01-15T00:00", "2026-01-16T00:00",
                     [("2026-01-15T04:00", "2026-01-15T05:00")], id="a window that cannot be known hides no other"),
        pytest.param(policy(window("0 0 31 2 *", 1)), "2026-01-15T00:00", "2026-12-31T00:00", [],
                     id="a day that no month has"),
    ],
)  # fmt: skip
def test_when_windows_are_open(spec: BatchPolicySpec, begin: str, end: str, wanted: list[tuple[str, str]]) -> None:
    assert open_windows(spec, at(begin), at(end)) == tuple((at(opens), at(closes)) for opens, closes in wanted)


def test_what_no_calendar_can_follow_is_said_with_the_field_and_what_to_write() -> None:
    spec = policy(NIGHTS, window("0 0 31 2 *", 1, "Mars/Olympus"))
    (zone, zone_text), (cron, cron_text) = window_faults(spec)
    assert (zone, cron) == (Code.INVALID_TIME_ZONE, Code.INVALID_SCHEDULE)
    assert zone_text.startswith("windows[1] names the time zone 'Mars/Olympus', which does not exist")
    assert zone_text.endswith("Until then it never opens.")
    assert "windows[1] has the cron expression '0 0 31 2 *'" in cron_text
    assert window_faults(policy(NIGHTS)) == ()


zones = st.sampled_from(["UTC", BERLIN, "America/Santiago", "Australia/Lord_Howe", "Asia/Kathmandu"])
crons = st.sampled_from(["0 22 * * *", "30 2 * * *", "*/20 * * * *", "0 0 * * SAT", "15 1,13 * * 1-5", "59 23 28 * *"])
windows = st.builds(BatchWindow, crons, zones, st.integers(1, 168 * 4).map(lambda quarters: quarters * 900.0))
days = st.dates(date(2026, 3, 1), date(2026, 11, 30)).map(str)
policies = st.builds(
    lambda chosen, holidays: policy(*chosen, holidays=tuple(sorted(holidays))),
    st.lists(windows, max_size=3),
    st.sets(days, max_size=3),
)
moments = st.floats(at("2026-03-01"), at("2026-11-01"))


@given(policies, moments, st.floats(1.0, 4 * 86400.0))
def test_spans_are_apart_in_order_and_inside_what_was_asked(
    spec: BatchPolicySpec, from_s: float, span_s: float
) -> None:
    found = open_windows(spec, from_s, from_s + span_s)
    assert all(from_s <= opens < closes <= from_s + span_s for opens, closes in found)
    assert all(before[1] < after[0] for before, after in pairwise(found))


@given(policies, moments, st.floats(0.0, 3 * 86400.0))
def test_open_is_what_a_price_of_the_same_windows_or_a_holiday_says(
    spec: BatchPolicySpec, from_s: float, later_s: float
) -> None:
    moment_s = float(int(from_s + later_s))
    priced = (TariffWindow(each.cron, each.time_zone, each.duration_s, Decimal(2)) for each in spec.windows)
    in_window = amount_at(Tariff(Decimal(1), tuple(priced)), moment_s) == Decimal(2)
    names = {each.time_zone for each in spec.windows} or {"UTC"}
    today = {str(datetime.fromtimestamp(moment_s, UTC).astimezone(ZoneInfo(name)).date()) for name in names}
    found = open_windows(spec, from_s, from_s + 4 * 86400.0)
    shown = any(opens <= moment_s < closes for opens, closes in found)
    if moment_s >= from_s and not _changes_at_midnight(names, moment_s):
        assert shown == (in_window or bool(today & set(spec.holidays)))


def _changes_at_midnight(names: set[str], moment_s: float) -> bool:
    """Where the clocks change over midnight, an hour may belong to another day than its date says."""
    moment = datetime.fromtimestamp(moment_s, UTC)
    around = [moment + timedelta(hours=hours) for hours in (-2, 2)]
    offsets = ({one.astimezone(ZoneInfo(name)).utcoffset() for one in around} for name in names)
    return any(len(each) > 1 for each in offsets)


@given(policies, moments, st.floats(60.0, 86400.0), st.floats(60.0, 86400.0))
def test_asked_in_two_parts_it_is_the_same(spec: BatchPolicySpec, from_s: float, first_s: float, rest_s: float) -> None:
    middle_s, to_s = from_s + first_s, from_s + first_s + rest_s
    parts = [*open_windows(spec, from_s, middle_s), *open_windows(spec, middle_s, to_s)]
    total_s = sum(closes - opens for opens, closes in open_windows(spec, from_s, to_s))
    assert sum(closes - opens for opens, closes in parts) == pytest.approx(total_s)
