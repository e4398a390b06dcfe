"""Bars over time: columns are hours of the time zone that is shown, and nothing is drawn outside of them."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.cli.timeline import Kind, Row, Span, Timeline

BEGIN_S = datetime.fromisoformat("2026-01-31T20:10:00+00:00").timestamp()
HOUR_S = 3600.0


def timeline(
    hours: float = 24, zone: str = "UTC", width: int = 80, plain: bool = True, begin_s: float = BEGIN_S
) -> Timeline:
    return Timeline(begin_s, begin_s + hours * HOUR_S, ZoneInfo(zone), width, ["embed"], plain)


def span(from_h: float, to_h: float, kind: Kind = Kind.PLANNED) -> Span:
    return Span(BEGIN_S + from_h * HOUR_S, BEGIN_S + to_h * HOUR_S, kind)


def test_a_day_in_80_columns() -> None:
    day = timeline()
    embed = Row("embed", (span(-2, 0.5, Kind.RUNS), span(2, 6), span(5, 6, Kind.LATE)), BEGIN_S + 7 * HOUR_S)
    open_ = [(BEGIN_S + 2 * HOUR_S, BEGIN_S + 9 * HOUR_S)]
    assert [line.plain for line in (day.ruler(), day.windows(open_), day.row(embed, open_))] == [
        "        20 21 22 23 00 01 02 03 04 05 06 07 08 09 10 11 12 13 14 15 16 17 18 19",
        "windows       ----------------------",
        "embed   ##    =========!!!!..|......",
    ]
    assert day.legend({Kind.PLANNED}) == "= planned  | deadline  - window  20 min a column"


@pytest.mark.parametrize(
    ("hours", "width", "cell_s"),
    [(24, 80, 1200), (24, 60, 1800), (48, 80, 3600), (192, 80, 10_800), (0.1, 80, 5)],
)
def test_columns_are_as_fine_as_the_width_allows(hours: float, width: int, cell_s: int) -> None:
    assert timeline(hours, width=width).cell_s == cell_s


@pytest.mark.parametrize(
    ("zone", "begin", "hours"),
    [
        ("Europe/Berlin", "2026-03-28T22:30:00+00:00", "  00 01 03 04"),  # clocks go forward at 02:00
        ("Europe/Berlin", "2026-10-24T22:30:00+00:00", "  01 02 02 03"),  # and back at 03:00
        ("Asia/Kolkata", "2026-01-31T20:10:00+00:00", " 02 03 04 05"),  # from 01:40, half an hour off UTC
    ],
)
def test_hours_are_those_of_the_time_zone(zone: str, begin: str, hours: str) -> None:
    at_s = datetime.fromisoformat(begin).timestamp()
    assert timeline(zone=zone, begin_s=at_s).ruler().plain[8:].startswith(hours)


def test_minutes_are_a_day_in_a_demo() -> None:
    short = timeline(0.1)
    assert short.ruler().plain == "        20:10       20:11       20:12       20:13       20:14       20:15"


def test_with_plain_characters_all_is_ascii() -> None:
    row = Row("an-evaluation-whose-name-is-longer-than-a-third", tuple(span(1, 2, kind) for kind in Kind), BEGIN_S)
    for plain in (True, False):
        drawn = timeline(plain=plain)
        lines = [drawn.ruler(), drawn.windows([(BEGIN_S, BEGIN_S + HOUR_S)]), drawn.row(row)]
        assert all(line.plain.isascii() for line in lines[1:]) == plain


@given(
    st.lists(st.tuples(st.floats(-300, 300), st.floats(0, 300), st.sampled_from(list(Kind))), max_size=5),
    st.floats(-300, 300),
    st.integers(20, 200),
    st.integers(1, 192),
    st.sampled_from(["UTC", "Asia/Kolkata", "America/St_Johns", "Pacific/Apia"]),
    st.text(max_size=260),
)
def test_no_line_is_wider_than_it_may_be_and_a_span_within_is_seen(
    spans: list[tuple[float, float, Kind]], deadline_h: float, width: int, hours: int, zone: str, name: str
) -> None:
    drawn = Timeline(BEGIN_S, BEGIN_S + hours * HOUR_S, ZoneInfo(zone), width, [name], plain=True)
    row = Row(name, tuple(span(begin, begin + length, kind) for begin, length, kind in spans))
    late = Row(name, row.spans, BEGIN_S + deadline_h * HOUR_S)
    open_ = [(each.start_s, each.end_s) for each in row.spans]
    lines = [drawn.ruler(), drawn.windows(open_), drawn.row(row, open_), drawn.row(late)]
    assert all(len(line.plain) <= width for line in lines)
    if any(each.start_s < BEGIN_S + (hours - 1) * HOUR_S and each.end_s > BEGIN_S for each in row.spans):
        assert any(mark in drawn.row(Row("", row.spans)).plain for mark in "#=!")
