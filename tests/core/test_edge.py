"""The edge of a replica, learnt from counts of misses: as high and steep as it is, never beyond what was seen."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.core import edge
from ebbtide.model.memory import EdgeMemory

PLANNED = 0.007  # 7 of 1000, of 10 that may miss
FIRST = EdgeMemory(work=1000.0)


def after(memory: EdgeMemory, load: float, missed: float, requests: float = 1000.0, windows: int = 1) -> EdgeMemory:
    for _ in range(windows):
        memory = edge.observe(memory, PLANNED, load, requests, missed, 1.0, 60.0)
    return memory


def test_before_anything_was_seen_the_line_is_believed() -> None:
    assert edge.reach(FIRST) == 1.0
    assert edge.steep(FIRST) == 10.0
    assert edge.expected(FIRST, PLANNED, 1.0) == pytest.approx(1.05 * PLANNED)
    assert edge.doubt(FIRST) == pytest.approx(math.exp(2.0))


def test_one_window_of_misses_far_below_full_load_lowers_the_edge_and_makes_it_flatter() -> None:
    """40 of 1000 at three quarters, where 0.7 were expected: reach is where 7 would miss."""
    seen = after(FIRST, 0.75, 40.0)
    assert edge.reach(seen) == pytest.approx(0.67, abs=0.01)
    assert edge.steep(seen) == pytest.approx(9.0, abs=0.1)
    assert math.exp(seen.level) == pytest.approx(38.0, abs=1.0)
    assert 0.02 < edge.expected(seen, PLANNED, 0.75) < 0.04


def test_a_miss_now_and_then_at_hardly_any_load_is_a_floor_and_no_edge() -> None:
    """One of 60 at a twentieth of what the line promises: prompts that meet by chance, as they would on any fleet."""
    seen = after(FIRST, 0.05, 1.0, requests=60.0)
    assert edge.reach(seen) > 0.95
    assert edge.floor(seen, PLANNED) > 2.0 * edge.floor(FIRST, PLANNED)
    often = after(FIRST, 0.05, 3.0, requests=60.0, windows=20)
    assert edge.floor(often, PLANNED) <= 0.7 * PLANNED * 1.001, "half of what may be missed at most"
    assert edge.reach(often) > 0.95, "no line promises twenty times too much: more replicas would not help"
    slow = after(FIRST, 0.25, 3.0, requests=60.0, windows=20)
    assert edge.reach(slow) < 0.3, "a line may promise four times too much"


def test_a_floor_is_taken_back_where_nothing_misses() -> None:
    seen = after(FIRST, 0.05, 1.0, requests=60.0)
    assert edge.floor(after(seen, 0.2, 0.0, windows=30), PLANNED) < 0.5 * edge.floor(seen, PLANNED)


def test_misses_at_little_load_are_as_many_at_a_whole_one() -> None:
    """A fifth of all at an eighth: less steep than load^2 is not believed, so the edge lies lower."""
    seen = after(FIRST, 0.125, 200.0, windows=5)
    assert edge.steep(seen) >= edge.LEAST_STEEP
    assert edge.reach(seen) == pytest.approx(edge.REACH[0], abs=0.05)


@pytest.mark.parametrize(("level", "steep"), [(1.0, 10.0), (2.0, 6.0), (0.5, 3.0), (3.0, 12.0)])
def test_two_hours_of_varied_load_teach_the_law_where_it_was_seen(level: float, steep: float) -> None:
    """Counts by chance, from loads between half and all of what the edge allows."""
    draw, memory = random.Random(1), FIRST
    reach = math.exp(-level / steep)
    for _ in range(120):
        load = reach * draw.uniform(0.5, 1.1)
        share = min(1.0, PLANNED * math.exp(level + steep * math.log(load)))
        memory = after(memory, load, sum(draw.random() < share for _ in range(1000)))
    assert edge.reach(memory) == pytest.approx(reach, rel=0.1)


def test_a_service_that_turns_out_to_burst_is_believed_to_gain_by_replicas() -> None:
    """A flat edge says that bursts miss, and these are worked off together: 1 % then falls with the fifth power."""
    memory = FIRST
    for load, missed in ((0.2, 2.0), (0.4, 8.0), (0.6, 20.0)) * 10:
        memory = edge.observe(memory, PLANNED, load, 1000.0, missed, 1.0, 60.0)
    steep, double = edge.steep(memory), math.log(2.0)
    assert steep < 4.0
    carried = 2.0 * edge.reach(memory, PLANNED, double) / edge.reach(memory, PLANNED)
    assert carried**steep == pytest.approx(2.0 ** -math.log(PLANNED)), "twice as many miss a thirtieth at the same load"
    assert edge.reach(FIRST, PLANNED, double) == edge.reach(FIRST), "of smooth chat each has its load, and no more"


def test_what_misses_on_several_replicas_teaches_what_one_carries() -> None:
    """The same counts, of three replicas and of six, for which the same load each is less."""
    flat = EdgeMemory(work=1000.0, level=1.0, steep=-7.0, covariance=(0.3, 0.0, 0.0, 0.3, 0.0, 0.3))
    same, more = (edge.observe(flat, PLANNED, 0.5, 3000.0, 200.0, 1.0, 60.0, math.log(n)) for n in (1.0, 2.0))
    assert edge.expected(more, PLANNED, 0.25) > 1.1 * edge.expected(same, PLANNED, 0.25)
    assert edge.more(edge.anchored(EdgeMemory(), 1000.0, 60.0, 3.0), 6.0) == pytest.approx(math.log(2.0))


def test_that_nothing_misses_proves_nothing_beyond_what_was_carried() -> None:
    seen = after(FIRST, 0.9, 0.0, windows=600)
    assert edge.reach(seen) <= edge.BEYOND
    beyond = after(seen, 1.3, 2.0, windows=600)
    assert 1.2 < edge.reach(beyond) <= 1.3 * edge.BEYOND


def test_how_far_beyond_the_edge_a_drowned_fleet_is_says_nothing_about_the_edge() -> None:
    known = after(FIRST, 0.8, 300.0, windows=10)
    drowned = after(known, 1.5, 1000.0, windows=10)
    assert edge.reach(drowned) == pytest.approx(edge.reach(known), rel=0.02)


def test_another_engine_has_another_edge() -> None:
    known = after(FIRST, 0.6, 100.0, windows=20)
    assert edge.doubt(known) < 1.6
    forgotten = edge.doubted(known, 1.0)
    assert (edge.reach(forgotten), edge.steep(forgotten)) == (1.0, 10.0)
    assert edge.doubt(forgotten) == pytest.approx(edge.doubt(FIRST))
    assert edge.doubted(known, 0.0) is known


def test_loads_stay_relative_to_the_line_under_which_the_edge_was_seen() -> None:
    """A line that promises a fifth more, learnt after the edge, moves it hardly; before it, it is followed."""
    known = after(FIRST, 0.6, 100.0, windows=60)
    assert edge.anchored(known, 1200.0, 60.0).work == pytest.approx(1000.0, rel=0.03)
    assert edge.anchored(FIRST, 1200.0, 60.0).work == 1200.0


counts = st.lists(
    st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 5000.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0)), max_size=30
)


@given(counts, st.floats(1e-5, 0.3))
def test_whatever_is_counted_all_of_it_stays_finite_and_in_its_range(
    seen: list[tuple[float, ...]], planned: float
) -> None:
    memory = FIRST
    for load, requests, part, share in seen:
        memory = edge.observe(memory, planned, load, requests, part * requests, share, 10.0)
        assert edge.REACH[0] <= edge.reach(memory) <= edge.REACH[1]
        assert edge.LEAST_STEEP <= edge.steep(memory) <= edge.MOST_STEEP
        assert 1.0 <= edge.doubt(memory) <= edge.doubt(FIRST) * 1.0001
        assert 0.0 < edge.floor(memory, planned) <= 0.7 * planned * 1.001


@given(counts, st.floats(0.31, 1.5), st.floats(1.0, 500.0), st.floats(1.0, 500.0))
def test_more_misses_in_a_window_never_leave_a_higher_edge(
    seen: list[tuple[float, ...]], load: float, missed: float, more: float
) -> None:
    memory = FIRST
    for each, requests, part, share in seen:
        memory = edge.observe(memory, PLANNED, each, requests, part * requests, share, 10.0)
    fewer, many = (edge.observe(memory, PLANNED, load, 1000.0, n, 1.0, 60.0) for n in (missed, missed + more))
    assert edge.expected(many, PLANNED, load) >= edge.expected(fewer, PLANNED, load) * 0.98


def test_what_is_not_sure_of_the_edge_shrinks_with_what_was_seen_and_not_beyond_it() -> None:
    assert edge.unsure(FIRST) == pytest.approx(0.2), "two e-folds of misses are a fifth of load^10"
    seen = after(FIRST, 0.95, 5.0, windows=30)
    assert edge.unsure(seen) < 0.05


def test_a_promise_that_was_beaten_by_far_is_made_anew_from_what_was_carried() -> None:
    """A mixture of experts carries four times what the table's dense model would."""
    known = edge.observe(FIRST, PLANNED, 0.9, 1000.0, 20.0, 1.0, 60.0)
    again = edge.reanchored(known, 4000.0)
    assert (again.work, again.carried, edge.reach(again)) == (4000.0, 1.0, 1.0)
    assert edge.doubt(again) == edge.doubt(FIRST)
    assert edge.reanchored(known, 2400.0) is known, "an edge may reach that far by itself"
    assert edge.reanchored(again, 4000.0) is again


@pytest.mark.parametrize(
    ("requests", "missed", "proven"), [(1000.0, 7.0, True), (1000.0, 8.0, False), (100.0, 0.0, False)]
)
def test_a_load_is_proven_where_so_many_came_that_misses_would_have_shown(requests, missed, proven) -> None:
    assert edge.proven(PLANNED, requests, missed) is proven
