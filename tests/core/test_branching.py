"""One choice of each within rows: the gap that is told is there, also where only a sample was asked for prices."""

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebbtide.core.branching import Column, Found, choose

thorough = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
NODES = 200


@st.composite
def cases(draw: Any, owners: int) -> tuple[list[Column], list[int]]:
    """Up to `owners` with two or three choices each on two rows; who takes nothing pays most."""
    columns: list[Column] = []
    for owner in range(draw(st.integers(2, owners))):
        columns.append((owner, 0, draw(st.floats(50.0, 99.0)), ()))
        for choice in range(1, draw(st.integers(2, 3))):
            uses = tuple((row, units) for row in (0, 1) if (units := draw(st.integers(0, 3))))
            columns.append((owner, choice, draw(st.floats(1.0, 60.0)), uses))
    return columns, [draw(st.integers(0, 9)), draw(st.integers(0, 9))]


def by_owner(columns: list[Column]) -> list[list[Column]]:
    return [list(group) for _, group in itertools.groupby(columns, key=lambda column: column[0])]


def fit(picked: Any, rooms: list[int]) -> bool:
    used = [0] * len(rooms)
    for _, _, _, uses in picked:
        for row, units in uses:
            used[row] += units
    return all(units <= room for units, room in zip(used, rooms, strict=True))


def cost(picked: Any) -> float:
    return sum(column[2] for column in picked)


def taken(columns: list[Column], found: Found) -> list[Column]:
    return [group[choice] for group, choice in zip(by_owner(columns), found.chosen, strict=True)]


def asked(columns: list[Column], rooms: list[int], sample: int) -> Found:
    found = choose(columns, [0] * len(by_owner(columns)), rooms, NODES, sample=sample)
    assert found is not None
    return found


@thorough
@given(cases(6), st.sampled_from([1, 2, 100]))
def test_the_gap_that_is_told_is_no_smaller_than_it_is(case: tuple[list[Column], list[int]], sample: int) -> None:
    """Against every combination; so few are branched over in full, so that the gap is next to nothing."""
    columns, rooms = case
    found = asked(columns, rooms, sample)
    picked = taken(columns, found)
    least = min(cost(tried) for tried in itertools.product(*by_owner(columns)) if fit(tried, rooms))
    assert fit(picked, rooms)
    assert cost(picked) * (1.0 - found.gap) <= least + 1e-6
    assert cost(picked) <= 1.001 * least + 1e-6


@thorough
@given(cases(60), st.integers(1, 9))
def test_prices_from_a_sample_lead_to_as_good_an_answer(case: tuple[list[Column], list[int]], sample: int) -> None:
    columns, rooms = case
    at_once, by_sample = (asked(columns, rooms, each) for each in (100, sample))
    assert fit(taken(columns, by_sample), rooms)
    assert cost(taken(columns, by_sample)) == pytest.approx(cost(taken(columns, at_once)), rel=1e-3)
    assert by_sample == asked(columns, rooms, sample), "the same question has the same answer"


@pytest.mark.parametrize("sample", [1, 100])
def test_what_fits_nowhere_has_no_answer(sample: int) -> None:
    """Each of five takes two units of the one row at least, and there are nine."""
    columns: list[Column] = [
        (owner, choice, 10.0 - choice, ((0, 2 + choice),)) for owner in range(5) for choice in range(2)
    ]
    assert choose(columns, [0] * 5, [9], NODES, sample=sample) is None
    found = choose(columns, [0] * 5, [10], NODES, sample=sample)
    assert found is not None
    assert found.chosen == [0] * 5
