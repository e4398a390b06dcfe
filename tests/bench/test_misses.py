"""The measured miss table against a simulator whose misses are a formula."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.bench.case import Case
from ebbtide.bench.misses import (
    MOST_RUN_REQUESTS,
    MissTable,
    carried_alone,
    measure_misses,
    rising,
    table_of,
    unbuyable,
    wilson,
    work_of,
)
from ebbtide.bench.run import RunResult
from ebbtide.errors import ConfigurationError
from ebbtide.sim.requests import Request
from tests.bench.analytic import CASE, Analytic, answer, carried, steady

# one replica misses 1 % at 4 a second, four replicas 0.1 %; both ten times that at 8
TABLE = MissTable((1, 4), (4.0, 8.0), ((0.01, 0.1), (0.001, 0.01)))
SOURCE = steady(5.0, 1200.0)


@pytest.mark.parametrize(
    ("story", "n", "load", "share"),
    [
        ("measured", 1, 4.0, 0.01),
        ("between loads by a power", 1, 4.0 * math.sqrt(2), 0.01 * math.sqrt(10)),
        ("beyond the heaviest the power goes on", 1, 8.0 * math.sqrt(2), 0.1 * math.sqrt(10)),
        ("and ends at everything", 1, 1000.0, 1.0),
        ("below the lightest nothing is promised", 1, 0.1, 0.01),
        ("between fleets by 1/sqrt(n)", 2, 4.0, 0.01 * 10 ** -((1 - 1 / math.sqrt(2)) / 0.5)),
        ("beyond the largest fleet nothing is promised", 100, 4.0, 0.001),
        ("nobody there", 0, 0.0, 1.0),
    ],
)
def test_shares_of_a_table(story: str, n: int, load: float, share: float) -> None:
    assert TABLE.share(n, load) == pytest.approx(share), story


def test_capacity_is_where_the_share_is_missed() -> None:
    assert TABLE.capacity(1, 0.05) == pytest.approx(4.0 * 5 ** (1 / math.log2(10)))
    assert TABLE.capacity(1, 0.5) == pytest.approx(8.0)  # never beyond what was measured
    assert TABLE.capacity(1, 0.009) is None


@pytest.mark.parametrize(
    ("values", "risen"),
    [
        ([(0.1, 1), (0.4, 1), (0.2, 1)], [0.1, 0.3, 0.3]),
        ([(0.4, 3), (0.2, 1)], [0.35, 0.35]),
        ([(3, 1), (2, 1), (1, 1)], [2, 2, 2]),
        ([(1, 1), (2, 1)], [1, 2]),
    ],
)
def test_neighbours_out_of_order_share_their_mean(values: list[tuple[float, float]], risen: list[float]) -> None:
    assert rising(values) == pytest.approx(risen)


@given(st.lists(st.lists(st.integers(0, 100), min_size=4, max_size=4), min_size=3, max_size=3), st.data())
def test_more_load_never_misses_less_and_more_replicas_never_more(counts: list[list[int]], data: st.DataObject) -> None:
    table = table_of((1, 4, 16), (1.0, 2.0, 3.0, 4.0), [[(missed, 100) for missed in row] for row in counts])
    load, n = data.draw(st.floats(0.1, 40.0)), data.draw(st.integers(0, 20))

    assert table.share(n, load) <= table.share(n, load * 1.1) + 1e-12
    assert table.share(n + 1, load) <= table.share(n, load) + 1e-12
    assert 0.0 < table.share(n, load) <= 1.0


def backwards(run: Callable[[Any], Any], settings: Iterable[Any]) -> list[Any]:
    """As a pool of workers would: in any order, answered in the order asked."""
    return [run(setting) for setting in reversed(list(settings))][::-1]


def test_the_table_and_the_weight_of_prompts_are_found_again() -> None:
    simulator = Analytic(prompt_part=0.6, cold_s=60.0)  # engines that are still filling say nothing

    table = measure_misses(simulator, CASE, SOURCE, seed=1, each=backwards)

    assert table.replicas == (1, 2, 4, 8, 12)  # no fleet larger than the case allows
    assert table.loads[4] == pytest.approx(carried(1), rel=0.06)  # what one replica carries at 99 %
    for n, factor in itertools.product((1, 3, 8), (0.95, 1.05, 1.4)):
        load = factor * carried(n)
        assert table.share(n, load) == pytest.approx(simulator.share(n, load), rel=0.35), (n, factor)
    capacity = table.capacity(8, 0.01)
    assert capacity == pytest.approx(carried(8), rel=0.04)
    assert table.work.prompt == pytest.approx(0.6, abs=0.05)
    assert table.work.output == pytest.approx(0.0, abs=0.05)
    assert table.work.of(Request(0, 0.0, 1000, 100)) == pytest.approx(1.6, abs=0.05)


@pytest.mark.parametrize(("p0", "forbidden"), [(0.0, False), (0.005, False), (0.14, True)])
def test_what_cannot_be_bought_is_told_from_what_can(p0: float, forbidden: bool) -> None:
    found = unbuyable(Analytic(p0=p0), CASE, SOURCE, seed=2)

    assert found.share == pytest.approx(p0, abs=0.02)
    assert found.low <= p0 <= found.high + 1e-12
    assert found.forbids(CASE.attainment) is forbidden


def test_the_table_is_measured_also_where_the_target_cannot_be_bought() -> None:
    few = msgspec.structs.replace(CASE, max_replicas=2)

    table = measure_misses(Analytic(p0=0.14), few, SOURCE, seed=1, p0=0.14)

    assert table.replicas == (1, 2)
    assert table.capacity(2, 0.01) is None
    assert table.share(2, 0.1) == pytest.approx(0.14, abs=0.03)
    assert 0.3 < table.loads[0] / carried(1) < 1.0  # measured around what a replica carries, not at crumbs


@pytest.mark.parametrize("p0", [0.5, 0.963, 1.0])
def test_objectives_that_most_requests_miss_on_idle_replicas_are_refused_before_anything_is_measured(p0: float) -> None:
    asked: list[Any] = []

    def each(run: Callable[[Any], Any], settings: Iterable[Any]) -> list[Any]:
        asked.extend(settings)
        return []

    said = f"first token in 1000 ms, gap of 50 ms: {100 * p0:.3g} % of the requests miss that even alone on an idle"
    with pytest.raises(ConfigurationError, match=said):
        measure_misses(Analytic(p0=p0), CASE, SOURCE, seed=1, p0=p0, each=each)
    assert asked == []


@pytest.mark.parametrize(
    ("story", "worth", "weights"),
    [
        ("only prompts count: half of one is half the load", (0.5, 1.0), (1.0, 0.0)),
        ("three parts prompt, two parts the request itself", (0.7, 1.0), (0.6, 0.0)),
        ("both sides at once cannot be more than all of it", (0.6, 0.6), (0.5, 0.5)),
    ],
)
def test_weights_of_the_two_sides(story: str, worth: tuple[float, float], weights: tuple[float, float]) -> None:
    source = [Request(0, 0.0, 300, 20), Request(1, 1.0, 100, 60)]

    def halved(changed: Sequence[Request]) -> float:
        prompts = [(r.prompt_tokens, r.output_tokens) for r in changed]
        assert prompts in ([(150, 20), (50, 60)], [(300, 10), (100, 30)])
        return worth[prompts[0][0] == 300]

    work = work_of(source, halved)

    assert (work.prompt, work.output) == pytest.approx(weights), story
    assert sum(work.of(request) for request in source) == pytest.approx(2.0)  # the mix as a whole is what it was


class Fast:
    """One replica carries 3,000 requests/s; remembers how long and how large each replay was."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, int]] = []

    def run(self, case: Case, requests: Sequence[Request], *_: Any) -> RunResult:
        end_s = requests[-1].arrival_s
        self.asked.append((end_s, len(requests)))
        missed = len(requests) / end_s > 3000.0
        served = tuple(answer(request, case, missed) for request in requests[-100:])
        return RunResult(served, ((0.0, 1, 1),), end_s, 0.0, 0, 0.01)


def test_a_replica_that_carries_thousands_a_second_is_measured_with_bounded_replays() -> None:
    fast = Fast()
    quick, short = msgspec.structs.replace(CASE, ttft_s=0.1), [Request(i, i / 5, 10, 1) for i in range(6000)]
    assert carried_alone(fast, quick, short, seed=1) == pytest.approx(3000.0, rel=0.03)
    assert max(count for _, count in fast.asked) <= MOST_RUN_REQUESTS + 1
    assert max(end_s for end_s, _ in fast.asked) > 170.0, "lighter loads are measured as long as ever"


def test_wilson_interval() -> None:
    none = wilson(0, 100)

    assert (none.share, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.037, abs=0.001)
    assert not none.forbids(0.97)


@pytest.mark.parametrize(
    ("simulator", "requests", "said"),
    [
        (Analytic(power=0.0), SOURCE, "they bind nothing"),
        (Analytic(), [], "no requests to measure with"),
    ],
)
def test_what_cannot_be_measured_is_said(simulator: Analytic, requests: list[Request], said: str) -> None:
    if not requests:
        with pytest.raises(ConfigurationError, match=said):
            unbuyable(simulator, CASE, requests, seed=1)
    with pytest.raises(ConfigurationError, match=said):
        measure_misses(simulator, msgspec.structs.replace(CASE, attainment=0.9), requests, seed=1)
