"""The latency line: what is learnt of an engine that is not what the prior says, and what is not believed."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.core.latency import LatencyLine, believed, fit, observe, remembered
from ebbtide.model.memory import LineMemory

PRIOR = believed(0.006, 0.000135)  # an H100 by the table
OBJECTIVE_S = 0.05
KEEP = math.exp(-10.0 / 1800.0)


def taught(line: LatencyLine, loads: list[tuple[float, float]], minutes: float = 30.0) -> LineMemory:
    """A cycle of 10 s each with one of the loads in turn: N x cache and N x prompts, as that engine would run them."""
    memory = LineMemory()
    for n, v in itertools.islice(itertools.cycle(loads), int(minutes * 6)):
        memory = observe(memory, KEEP, 1.0, n, v, line.a_s + line.decode_s * n + line.prefill_s * v)
    return memory


def varied(seed: int = 1) -> list[tuple[float, float]]:
    chance = random.Random(seed)
    return [(n, n * chance.uniform(0.3, 3.0)) for n in (chance.uniform(2.0, 60.0) for _ in range(40))]


@pytest.mark.parametrize(
    ("story", "truth"),
    [
        ("as believed", PRIOR),
        ("twice as slow in everything", LatencyLine(0.012, 0.00009, 0.00018)),
        ("prompts cost five times as much: a CPU", LatencyLine(0.006, 0.000045, 0.00045)),
        ("prompts cost a third: cached prefixes", LatencyLine(0.006, 0.000045, 0.00003)),
        ("attention over a long cache is dear", LatencyLine(0.006, 0.0002, 0.00009)),
    ],
)
def test_half_an_hour_of_varied_load_teaches_all_three_coefficients(story: str, truth: LatencyLine) -> None:
    found = fit(taught(truth, varied()), PRIOR, OBJECTIVE_S)
    for n, v in ((20.0, 20.0), (60.0, 20.0), (20.0, 60.0)):
        real = truth.a_s + truth.decode_s * n + truth.prefill_s * v
        assert found.a_s + found.decode_s * n + found.prefill_s * v == pytest.approx(real, rel=0.2), story


def test_long_prompts_at_the_same_number_in_the_batch_are_no_slower_engine() -> None:
    """The same 11 in the batch at 21 ms and, with prompts 3.5 times as long, at 50: a line through N sees one point."""
    slow = LatencyLine(0.012, 0.0003, 0.0018)
    found = fit(taught(slow, [(11.0, 6.0), (11.0, 20.0), (3.0, 2.0)]), PRIOR, 0.02)
    assert found.prefill_s == pytest.approx(slow.prefill_s, rel=0.25)
    assert found.a_s == pytest.approx(slow.a_s, rel=0.15)


def test_where_one_kind_of_load_was_seen_the_prior_s_shape_at_its_level_carries_the_rest() -> None:
    twice = LatencyLine(2.0 * PRIOR.a_s, 2.0 * PRIOR.decode_s, 2.0 * PRIOR.prefill_s)
    found = fit(taught(twice, [(30.0, 30.0)]), PRIOR, OBJECTIVE_S)
    assert found.a_s == pytest.approx(twice.a_s, rel=0.05)
    assert found.slope_s(1024.0, 256.0) == pytest.approx(twice.slope_s(1024.0, 256.0), rel=0.05)


def test_another_engine_is_learnt_within_minutes_and_not_as_a_line_from_one_to_the_other() -> None:
    """Half an hour at 34 in the batch of a slow one, then 14 in that of a fast one: no steep slope between them."""
    slow, fast = believed(0.0112, 0.00035), PRIOR
    memory = taught(slow, [(34.0, 34.0)])
    for _ in range(60):
        y_s = fast.at(14.0, 14.0)
        keep = remembered(memory, fit(memory, PRIOR, OBJECTIVE_S), 10.0, 14.0, 14.0, y_s)
        memory = observe(memory, keep, 1.0, 14.0, 14.0, y_s)
    found = fit(memory, PRIOR, OBJECTIVE_S)
    assert found.a_s > 0.7 * fast.a_s
    assert found.slope_s(1024.0, 256.0) < 1.5 * fast.slope_s(1024.0, 256.0)


def test_noise_takes_nothing_of_the_past_and_one_odd_reading_not_all() -> None:
    memory = taught(PRIOR, [(30.0, 30.0)])
    usual = PRIOR.at(30.0, 30.0)
    assert remembered(memory, PRIOR, 10.0, 30.0, 30.0, 1.2 * usual) == pytest.approx(KEEP)
    assert 0.6 < remembered(memory, PRIOR, 10.0, 30.0, 30.0, 3.0 * usual) < 0.8


def test_without_a_look_it_is_the_prior_and_the_prior_at_the_reference_lengths_is_the_table() -> None:
    assert fit(LineMemory(), PRIOR, OBJECTIVE_S) == PRIOR
    assert PRIOR.slope_s(1024.0, 256.0) == pytest.approx(0.000135)


def test_a_few_in_the_batch_say_little_about_sixty() -> None:
    """An engine whose iterations cost the same with 1 to 5 in the batch is not taken to carry any number."""
    flat = [(float(n), float(n)) for n in (1, 2, 3, 4, 5)]
    memory = LineMemory()
    for n, v in itertools.islice(itertools.cycle(flat), 180):
        memory = observe(memory, KEEP, 1.0, n, v, 0.0064)
    assert fit(memory, PRIOR, OBJECTIVE_S).slope_s(1024.0, 256.0) > 0.6 * 0.000135


@given(
    st.lists(
        st.tuples(st.floats(0.0, 1e4), st.floats(0.0, 1e4), st.floats(0.0, 3600.0), st.floats(0.0, 8.0)), max_size=30
    ),
    st.floats(1e-3, 100.0),
)
def test_whatever_was_seen_the_line_is_finite_and_rises(
    seen: list[tuple[float, float, float, float]], itl_s: float
) -> None:
    memory = LineMemory()
    for n, v, y_s, count in seen:
        memory = observe(memory, KEEP, count, n, v, y_s)
    found = fit(memory, PRIOR, itl_s)
    assert all(math.isfinite(value) and value > 0.0 for value in (found.a_s, found.decode_s, found.prefill_s))
