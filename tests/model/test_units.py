"""Durations: the text people write, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.units import format_duration, parse_duration_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1s", 1.0), ("90s", 90.0), ("1h30m", 5400.0), ("1m30s", 90.0), ("1.5h", 5400.0)],
)
def test_a_go_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "5x", "1h 30m", "1h30", "ms5"])
def test_what_is_not_a_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="write for example 500ms"):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.05, "50ms"), (1, "1s"), (61, "1m1s"), (5400, "1h30m"), (90061, "1d1h"), (59.6, "1m")]
)
def test_durations_are_shown_in_two_units_at_most(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(min_value=1, max_value=3600))
def test_a_shown_duration_reads_back_within_its_rounding(seconds: int) -> None:
    assert parse_duration_s(format_duration(seconds)) == pytest.approx(seconds, abs=0.5)
