"""The clairvoyant against exhaustive search where that is possible, and against its own replay."""

import itertools
import math
import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.bench.clairvoyant import (
    CAUTION,
    Problem,
    cheapest,
    fluid_replica_s,
    planned,
    problem_of,
    require_room,
    steps,
)
from ebbtide.bench.misses import MissTable, Work
from ebbtide.bench.run import PATH
from ebbtide.bench.score import Score, score
from ebbtide.bench.search import search
from ebbtide.errors import ConfigurationError
from ebbtide.sim.requests import Request
from tests.bench.analytic import CASE, Analytic, area, carried, fleet

FLEETS = (1, 2, 4, 8, 16)


def formula_table(p0: float = 0.0) -> MissTable:
    """Analytic's formula, read off without noise."""
    simulator, loads = Analytic(p0), tuple(4.0 * factor for factor in (0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0))
    return MissTable(FLEETS, loads, tuple(tuple(simulator.share(n, load) for load in loads) for n in FLEETS))


def waves(hours: float, low: float, high: float, seed: int = 1) -> list[Request]:
    """One smooth wave of requests per second, arrivals by chance."""
    draw, at_s = random.Random(seed), 0.0
    found: list[Request] = []
    while at_s < hours * 3600:
        at_s += draw.expovariate(low + (high - low) * (1 - math.cos(2 * math.pi * at_s / (hours * 3600))) / 2)
        found.append(Request(len(found), at_s, 500, 100))
    return found[:-1]


def cost(problem: Problem, path: Sequence[int]) -> float:
    before, total = problem.first, 0.0
    for n in path:
        total += n * problem.slot_s + max(0, n - before) * problem.startup_s
        before = n
    return total


def misses(problem: Problem, path: Sequence[int]) -> float:
    return sum(slot[n - problem.lowest] for slot, n in zip(problem.misses, path, strict=True))


def every_path(problem: Problem) -> list[tuple[int, ...]]:
    """All plans that start nothing before 0 s."""
    levels = range(problem.lowest, problem.lowest + len(problem.misses[0]))
    early = [slot * problem.slot_s < problem.startup_s for slot in range(len(problem.misses))]
    return [
        path
        for path in itertools.product(levels, repeat=len(problem.misses))
        if not any(
            after > before and soon for before, after, soon in zip((problem.first, *path), path, early, strict=False)
        )
    ]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    slots, levels = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    rows = []
    for _ in range(slots):
        falling = sorted(draw(st.lists(st.integers(0, 60), min_size=levels, max_size=levels)), reverse=True)
        rows.append(tuple(value / 2 for value in falling))
    lowest = draw(st.integers(0, 2))
    return Problem(
        slot_s=60.0,
        startup_s=draw(st.sampled_from([0.0, 40.0, 60.0, 150.0])),
        lowest=lowest,
        first=draw(st.integers(lowest, lowest + levels - 1)),
        misses=tuple(rows),
        budget=draw(st.sampled_from([0.0, 0.2, 0.5, 0.8])) * sum(row[0] for row in rows),
    )


@given(problems())
def test_against_every_plan_there_is(problem: Problem) -> None:
    allowed = [path for path in every_path(problem) if misses(problem, path) <= problem.budget]

    found = cheapest(problem)

    assert found.cost_replica_s == pytest.approx(cost(problem, found.replicas))
    assert found.misses == pytest.approx(misses(problem, found.replicas))
    assert found.replicas in set(every_path(problem))
    assert found.feasible is bool(allowed)
    if allowed:
        best = min(cost(problem, path) for path in allowed)
        assert found.misses <= problem.budget
        assert found.bound_replica_s - 1e-6 <= best <= found.cost_replica_s + 1e-6
    else:
        assert found.misses == pytest.approx(min(misses(problem, path) for path in every_path(problem)))


@given(problems(), st.sampled_from([0.0, 1.0, 30.0, 500.0]))
def test_at_the_edge_of_a_price_the_plan_is_the_very_best(problem: Problem, price: float) -> None:
    """Where the budget is what the best plan at some price misses, no gap is left."""
    best = min(every_path(problem), key=lambda path: cost(problem, path) + price * misses(problem, path))
    tight = msgspec.structs.replace(problem, budget=misses(problem, best))

    assert cheapest(tight).bound_replica_s <= cost(problem, best) + 1e-6
    assert cheapest(tight).cost_replica_s == pytest.approx(cost(problem, best), rel=1e-4)


WORKED = Problem(60.0, 90.0, 1, 1, ((5.0, 0.0), (5.0, 0.0), (9.0, 0.0), (1.0, 0.0), (1.0, 0.0)), budget=12.0)


@pytest.mark.parametrize(
    ("story", "changed", "replicas", "cost_s"),
    [
        ("the costly slot is bought, the start-up with it", {}, (1, 1, 2, 1, 1), 5 * 60 + 60 + 90),
        ("all may be missed: nothing is bought", {"budget": 21.0}, (1, 1, 1, 1, 1), 300.0),
        ("nothing can be ready before 90 s", {"budget": 0.0}, (1, 1, 2, 2, 2), 5 * 60 + 3 * 60 + 90),
        ("one that stands there already is kept until it is not worth it", {"first": 2}, (2, 2, 2, 1, 1), 480.0),
        (
            "a short gap is bridged: 60 s more are cheaper than a start",
            {"misses": ((9.0, 9.0), (9.0, 9.0), (9.0, 0.0), (0.1, 0.0), (9.0, 0.0)), "budget": 18.5},
            (1, 1, 2, 2, 2),
            5 * 60 + 3 * 60 + 90,
        ),
    ],
)
def test_plans_worked_by_hand(story: str, changed: dict[str, object], replicas: tuple[int, ...], cost_s: float) -> None:
    found = cheapest(msgspec.structs.replace(WORKED, **changed))

    assert found.replicas == replicas, story
    assert found.cost_replica_s == cost_s


def test_what_no_price_can_settle_is_settled_by_splicing() -> None:
    # both dear slots are worth the same, so a price buys both or neither; the budget asks for one of them
    twins = Problem(60.0, 0.0, 1, 1, ((10.0, 0.0), (0.0, 0.0), (10.0, 0.0)), budget=10.0)

    found = cheapest(twins)

    assert found.replicas in ((2, 1, 1), (1, 1, 2))
    assert found.cost_replica_s == 240.0
    assert found.bound_replica_s == pytest.approx(240.0)


@pytest.mark.parametrize(
    ("ready", "ahead_s", "asked"),
    [
        ((1, 1, 3, 2), 100.0, ((0.0, 1), (15.0, 3), (180.0, 2))),
        ((2, 2, 2), 100.0, ((0.0, 2),)),
        ((1, 1, 2), 0.0, ((0.0, 1), (120.0, 2))),
        ((1, 1, 1, 2, 1, 3), 60.0, ((0.0, 1), (120.0, 2), (240.0, 3))),
        ((), 60.0, ()),
    ],
)
def test_replicas_are_asked_for_ahead(
    ready: tuple[int, ...], ahead_s: float, asked: tuple[tuple[float, int], ...]
) -> None:
    assert steps(ready, 60.0, ahead_s, cycle_s=15.0) == asked


@given(problems())
def test_a_plan_is_what_its_replay_has_ready_and_is_billed(problem: Problem) -> None:
    """The replay has at least what was planned, and where the plan is a pure optimum it is billed just that."""
    found = cheapest(problem)
    asked = steps(found.replicas, problem.slot_s, problem.startup_s, cycle_s=5.0)

    changes = fleet(asked, problem.first, problem.startup_s)

    for slot, n in enumerate(found.replicas):
        middle_s = (slot + 0.5) * problem.slot_s
        assert [ready for at_s, _, ready in changes if at_s <= middle_s][-1] >= n
    end_s = problem.slot_s * len(problem.misses)
    assert area(changes, end_s, 1) <= found.cost_replica_s + 1e-6


def test_the_replayed_clairvoyant_meets_the_target_at_a_cost_near_its_bound() -> None:
    table, requests, simulator = formula_table(), waves(2.0, 2.0, 30.0), Analytic()

    def measure(caution: float) -> Sequence[Score]:
        case = planned(CASE, requests, table, caution)
        return [score(case, simulator.run(case, requests, PATH, 0.0, seed, ())) for seed in (1, 2)]

    result = search(CAUTION, CASE.attainment, measure)

    plan = cheapest(problem_of(CASE, requests, table))
    dollars_per_s = 2 * 1.80 / 3600
    assert plan.feasible
    assert plan.cost_replica_s <= 1.01 * plan.bound_replica_s
    assert result.at_target is not None
    assert result.at_target.cost == pytest.approx(plan.cost_replica_s * dollars_per_s, rel=0.02)
    fluid = fluid_replica_s(CASE, requests, table)
    assert fluid is not None
    assert fluid < plan.bound_replica_s


def test_a_whole_span_budget_is_cheaper_than_the_target_in_each_minute() -> None:
    table, requests = formula_table(), waves(3.0, 2.0, 30.0)
    problem = problem_of(CASE, requests, table)
    shares = [
        next(n for n, missed in enumerate(slot, problem.lowest) if missed <= 0.01 * max(1.0, slot[0]))
        for slot in problem.misses
    ]

    assert cheapest(problem).cost_replica_s < 0.97 * cost(problem, shares)


def test_misses_of_a_slot_are_those_of_its_rate() -> None:
    requests = [Request(i, i * 0.25, 500, 100) for i in range(480)]  # two minutes at 4 a second

    problem = problem_of(CASE, requests, formula_table(), caution=2.0)

    assert len(problem.misses) == 2
    assert len(problem.misses[0]) == CASE.max_replicas
    assert problem.misses[0][0] == pytest.approx(240 * formula_table().share(1, 4.0))
    assert problem.budget == pytest.approx(0.01 * 480 / 2)


def test_long_prompts_load_a_minute_more_than_short_ones() -> None:
    requests = [Request(i, i * 0.25, 200 if i < 240 else 800, 100) for i in range(480)]
    by_prompt = Work(prompt=0.5, output=0.0, mean_prompt_tokens=500.0, mean_output_tokens=100.0)

    problem = problem_of(CASE, requests, msgspec.structs.replace(formula_table(), work=by_prompt))

    assert problem.misses[0][0] == pytest.approx(240 * formula_table().share(1, 4.0 * 0.7))
    assert problem.misses[1][0] == pytest.approx(240 * formula_table().share(1, 4.0 * 1.3))


def test_a_fluid_needs_no_whole_replicas_but_the_least_that_are_declared() -> None:
    per_replica = formula_table().capacity(16, 0.01)
    assert per_replica == pytest.approx(carried(16), rel=0.01)
    requests = [Request(i, i / 30.0, 500, 100) for i in range(30 * 600)]

    assert fluid_replica_s(CASE, requests, formula_table()) == pytest.approx(600 * 30 / carried(16), rel=0.01)
    least = msgspec.structs.replace(CASE, min_replicas=9)
    assert fluid_replica_s(least, requests, formula_table()) == pytest.approx(600 * 9)
    assert fluid_replica_s(CASE, requests, formula_table(p0=0.02)) is None


def test_a_load_beyond_all_replicas_is_refused_with_numbers() -> None:
    requests = waves(0.5, 90.0, 90.0)

    with pytest.raises(ConfigurationError, match=r"bring 9\d\.?\d* requests/s; the 12 replicas allowed carry 5\d\."):
        require_room(CASE, requests, formula_table())
    require_room(CASE, waves(0.5, 2.0, 30.0), formula_table())
    require_room(CASE, requests, formula_table(p0=0.02))  # no room would help, which p0 tells


def test_a_spread_of_start_up_times_is_billed_by_its_mean_and_asked_for_by_its_late_ones() -> None:
    spread = msgspec.structs.replace(CASE, startup_s=(30.0,) * 8 + (120.0, 240.0))
    requests = waves(1.0, 2.0, 30.0)

    assert problem_of(spread, requests, formula_table()).startup_s == pytest.approx(60.0)
    starts = planned(spread, requests, formula_table(), 1.0).path
    sooner = planned(msgspec.structs.replace(CASE, startup_s=(60.0,)), requests, formula_table(), 1.0).path
    assert starts[1][0] == pytest.approx(sooner[1][0] - 60.0)
