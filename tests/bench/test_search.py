"""The cost at a declared attainment, from curves whose answer is known."""

import math
from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.bench.policy import Knob
from ebbtide.bench.score import Percentiles, Score
from ebbtide.bench.search import (
    TRIALS,
    Found,
    Measure,
    Point,
    Trial,
    at_target,
    by_begun_hours,
    captured,
    found,
    frozen_knob,
    pooled,
    search,
    share_between,
    shared_attainment,
)

NONE = Percentiles(None, None, None)
REPLICAS = Knob("replicas", published=4.0, low=1.0, high=20.0)
HEADROOM = Knob("headroom", published=1.0, low=0.1, high=10.0, log=True)


def scored(attainment: float, cost: float, submitted: int = 100_000) -> Score:
    missed = round((1 - attainment) * submitted)
    return Score(submitted, missed, None, NONE, NONE, cost, cost, cost, 0.0, 0, 0.0, 0.0)


def point(attainment: float, cost: float, knob: float = 0.0) -> Point:
    return pooled(knob, [scored(attainment, cost)])


class Counted:
    """A policy by its curve; remembers which settings were measured."""

    def __init__(self, curve: Callable[[float], tuple[float, float]], seeds: int = 1) -> None:
        self._curve, self._seeds = curve, seeds
        self.asked: list[float] = []

    def __call__(self, knob: float) -> Sequence[Score]:
        self.asked.append(knob)
        return [scored(*self._curve(knob))] * self._seeds


def smooth(knob: float) -> tuple[float, float]:
    """Misses 3 % at 1 and fall with the fourth power of the knob; costs 100 a unit: 1 % at 1.316."""
    return 1 - min(1.0, 0.03 * knob**-4), 100.0 * knob


def test_interpolation_is_in_the_logarithm_of_the_misses() -> None:
    way = at_target([point(0.97, 180.0, 1.0), point(0.999, 210.0, 2.0)], 0.99)

    assert way is not None
    assert way.cost == pytest.approx(189.69, abs=0.01)  # a straight line in attainment would say 200.7
    assert way.knob == pytest.approx(1.323, abs=0.001)
    assert share_between(0.03, 0.001, 0.01) == pytest.approx(0.323, abs=0.001)


@pytest.mark.parametrize(
    ("story", "points", "cost"),
    [
        ("nothing meets it: not reached, never extrapolated", [(0.97, 180.0), (0.989, 200.0)], None),
        ("everything meets it: the cheapest, and nothing for what lies above", [(0.995, 90.0), (0.9999, 120.0)], 90.0),
        ("dearer and worse than its neighbour: the neighbour's bill", [(0.95, 150.0), (0.995, 100.0)], 100.0),
        ("worse again far out: the first crossing", [(0.97, 180.0), (0.999, 210.0), (0.97, 400.0)], 189.69),
        ("a second, cheaper crossing counts", [(0.999, 300.0), (0.97, 180.0), (0.999, 210.0)], 189.69),
        (
            "no miss at all counts as half of one",
            [(0.9, 100.0), (1.0, 200.0)],
            100 + 100 * math.log(10) / math.log(2e4),
        ),
        ("exactly at the target", [(0.97, 180.0), (0.99, 195.0)], 195.0),
        ("exactly at the target and nothing else", [(0.99, 195.0)], 195.0),
    ],
)
def test_cost_at_target(story: str, points: list[tuple[float, float]], cost: float | None) -> None:
    way = at_target([point(a, c, float(i)) for i, (a, c) in enumerate(points, 1)], 0.99)

    assert (None if way is None else pytest.approx(way.cost, abs=0.01)) == cost, story


def test_a_target_of_everything_takes_what_missed_nothing() -> None:
    way = at_target([point(0.97, 180.0, 1.0), point(1.0, 210.0, 2.0)], 1.0)

    assert way is not None
    assert way.cost == pytest.approx(210.0)


@pytest.mark.parametrize("published", [0.1, 0.5, 1.0, 1.3, 3.0, 10.0])
def test_the_search_finds_the_crossing_from_any_published_setting(published: float) -> None:
    measure = Counted(smooth)
    knob = Knob("headroom", published=published, low=0.1, high=10.0, log=True)

    result = search(knob, 0.99, measure)

    assert result.at_target is not None
    assert result.at_target.cost == pytest.approx(131.6, rel=0.01)
    assert result.at_target.knob == pytest.approx(1.316, rel=0.01)
    assert measure.asked[0] == published
    assert len(measure.asked) <= 12


def test_replicas_in_whole_numbers_settle_between_two_of_them() -> None:
    measure = Counted(lambda knob: (1 - 10.0 ** (2 - math.floor(knob)) / 50, 100.0 * math.floor(knob)))
    # 3 replicas miss 0.2 %, 2 miss 2 %: 1 % lies at 2.301 on a line in logarithms

    result = search(REPLICAS, 0.99, measure)

    assert result.at_target is not None
    assert result.at_target.cost == pytest.approx(230.1, abs=0.1)
    assert len(measure.asked) <= 14


def test_a_knob_that_never_reaches_the_target_is_given_up_early() -> None:
    measure = Counted(lambda knob: (0.98 - 0.001 / knob, 100.0 * knob))

    result = search(HEADROOM, 0.99, measure)

    assert result.at_target is None
    assert result.interval == (None, None)
    assert result.best_attainment == pytest.approx(0.9799)
    assert 3 <= len(measure.asked) < TRIALS / 2


def test_a_policy_that_jams_far_out_is_found_in_between() -> None:
    # best at 3, where it misses 0.2 %; 2 % already at a factor of 2.4 away from it
    measure = Counted(lambda knob: (1 - 0.002 * 10 ** (7 * math.log10(knob / 3.0) ** 2), 100.0 * knob))

    result = search(HEADROOM, 0.99, measure)

    assert result.at_target is not None
    reaching = 3.0 / 10 ** math.sqrt(math.log10(5) / 7)
    assert result.at_target.cost == pytest.approx(100 * reaching, rel=0.03)


def test_a_policy_whose_jams_cost_more_than_the_replicas_saved_is_found_at_its_dip() -> None:
    # below 0.7 fleets are larger and worse: 99 % costs 28.1 at 0.74, between 51.8 at 0.1 and 30.4 at the published 0.8
    def law(knob: float) -> tuple[float, float]:
        cost = 38.0 * knob + 80.0 * max(0.0, 0.7 - knob)
        return 1 - min(1.0, 0.01 * (0.74 / knob) ** 9), cost

    knob = Knob("k", published=0.8, low=0.1, high=2.0, log=True)

    result = search(knob, 0.99, Counted(law))

    assert result.at_target is not None
    assert result.at_target.cost == pytest.approx(28.1, rel=0.01)


def test_a_knob_that_acts_only_beyond_some_point_is_followed_to_it() -> None:
    # nothing changes up to 8.9; then misses fall faster and faster: 1 % at 8.984, for 125.1
    def late(knob: float) -> tuple[float, float]:
        beyond = max(0.0, knob - 8.9)
        return 1 - 0.05 * 10 ** (-100 * beyond**2), 100.0 + 300.0 * beyond

    result = search(REPLICAS, 0.99, Counted(late))

    assert result.at_target is not None
    assert result.at_target.cost == pytest.approx(125.1, rel=0.01)


def test_one_setting_beyond_the_target_is_measured_for_the_seeds_that_fare_worse() -> None:
    # at the published setting the seeds meet 99.1 % together, one of them only 98.9 %
    def measure(knob: float) -> Sequence[Score]:
        return [scored(1 - misses * knob**-6, 100.0 * knob) for misses in (0.007, 0.009, 0.011)]

    result = search(HEADROOM, 0.99, measure)

    assert result.trials[-1].knob > 1.0
    low, high = result.interval
    assert low == pytest.approx(100 * 0.7 ** (1 / 6), rel=0.02)
    assert high == pytest.approx(100 * 1.1 ** (1 / 6), rel=0.02)


def test_a_policy_that_always_reaches_it_is_measured_at_its_lowest() -> None:
    result = search(HEADROOM, 0.99, Counted(lambda knob: (0.9999, 100.0 + knob)))

    assert result.at_target is not None
    assert result.at_target.cost == pytest.approx(100.1)


def test_a_policy_without_a_knob_is_measured_once_as_it_is() -> None:
    good, poor = Counted(lambda _: (0.995, 70.0)), Counted(lambda _: (0.985, 70.0))

    assert search(None, 0.99, good).at_target is not None
    assert search(None, 0.99, poor).interval == (70.0, 70.0)  # its bill is what it is
    assert search(None, 0.99, poor).at_target is None
    assert len(good.asked) == 1


def test_a_search_that_would_not_end_is_given_25_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebbtide.bench.search._NARROW", 0.0)  # halved for ever, beside a leap that nothing fills
    measure = Counted(lambda knob: (0.9999 if knob > 1.2345 else 0.9, 100.0 * knob))

    search(HEADROOM, 0.99, measure)

    assert len(measure.asked) == 25


@given(
    exponent=st.floats(1.0, 12.0),
    at_one=st.floats(0.0005, 0.5),
    target=st.sampled_from([0.95, 0.99, 0.999]),
)
def test_on_any_falling_power_the_cost_is_found_within_two_percent(
    exponent: float, at_one: float, target: float
) -> None:
    measure = Counted(lambda knob: (1 - min(1.0, at_one * knob**-exponent), 100.0 * knob))
    exact = (at_one / (1 - target)) ** (1 / exponent)

    result = search(HEADROOM, target, measure)

    if exact > 10.0 * 1.01:
        assert result.at_target is None
    elif 0.1 < exact < 10.0 * 0.99:
        assert result.at_target is not None
        assert result.at_target.cost == pytest.approx(100 * exact, rel=0.02)


def trained(measure: Measure) -> Found:
    return search(HEADROOM, 0.99, measure)


def test_frozen_tuning_takes_the_setting_that_met_the_target_in_training() -> None:
    assert frozen_knob(HEADROOM, 0.99, trained(smooth_measure)) == pytest.approx(1.316, rel=0.01)


def test_frozen_tuning_takes_the_least_misses_where_training_never_met_it() -> None:
    never = trained(Counted(lambda knob: (0.9 + 0.05 * min(knob, 5.0) / 5.0, knob)))

    assert frozen_knob(HEADROOM, 0.99, never) == max(
        (trial.knob for trial in never.trials if trial.point.attainment == never.best_attainment),
        key=lambda knob: -knob,
    )


def smooth_measure(knob: float) -> Sequence[Score]:
    return [scored(*smooth(knob))]


def test_two_policies_below_the_target_meet_at_what_both_reach() -> None:
    first = search(None, 0.99, Counted(lambda _: (0.96, 50.0)))
    second = trained(Counted(lambda knob: (0.9 + 0.08 * knob / 10.0, 100.0 * knob)))

    shared = shared_attainment(first, second, 0.99)

    assert shared is not None
    assert shared == pytest.approx(0.96)
    way = at_target([trial.point for trial in second.trials], shared, log=True)
    assert way is not None
    assert way.cost == pytest.approx(750.0, rel=0.1)


def test_a_policy_that_reaches_the_target_is_not_compared_with_one_that_does_not() -> None:
    below = search(None, 0.99, Counted(lambda _: (0.96, 50.0)))
    above = trained(smooth_measure)

    assert shared_attainment(below, above, 0.99) is None
    assert shared_attainment(above, below, 0.99) is None
    assert shared_attainment(above, above, 0.99) == 0.99


@pytest.mark.parametrize(
    ("static", "policy", "clairvoyant", "share"),
    [(200.0, 125.0, 100.0, 0.75), (125.0, 110.0, 100.0, None), (126.0, 100.0, 100.0, 1.0), (200.0, 220.0, 100.0, -0.2)],
)
def test_captured_share(static: float, policy: float, clairvoyant: float, share: float | None) -> None:
    assert captured(static, policy, clairvoyant) == (None if share is None else pytest.approx(share))


def test_the_interval_over_seeds_is_between_the_best_and_the_worst_of_them() -> None:
    costs = (100.0, 110.0, 120.0)
    trials = [
        Trial(1.0, tuple(scored(0.97, cost) for cost in costs)),
        Trial(2.0, tuple(scored(0.999, cost + 30) for cost in costs)),
    ]

    result = found(trials, 0.99, log=False)

    assert result.at_target is not None
    assert result.at_target.cost == pytest.approx(119.69, abs=0.01)
    low, high = result.interval
    assert low == pytest.approx(109.69, abs=0.01)
    assert high == pytest.approx(129.69, abs=0.01)
    assert found(trials, 0.99, log=False).interval == result.interval  # drawn alike each time


def test_seeds_that_do_not_reach_the_target_leave_the_interval_open() -> None:
    trials = [
        Trial(1.0, tuple(scored(a, 100.0) for a in (0.95, 0.95, 0.95))),
        Trial(2.0, tuple(scored(a, 130.0) for a in (0.999, 0.999, 0.975))),
    ]

    result = found(trials, 0.99, log=False)

    assert result.at_target is not None
    assert result.interval[0] is not None
    assert result.interval[1] is None


def test_seeds_are_pooled_by_their_requests_not_by_their_shares() -> None:
    both = pooled(1.0, [scored(0.9, 10.0, submitted=1000), scored(1.0, 30.0, submitted=9000)])

    assert both.attainment == pytest.approx(0.99)
    assert both.cost == pytest.approx(20.0)


def test_by_begun_hours_the_same_settings_are_read_with_the_other_bill() -> None:
    trials = [
        Trial(knob, (msgspec.structs.replace(scored(attained, cost), cost_hourly=hourly),))
        for knob, attained, cost, hourly in ((1.0, 0.97, 180.0, 300.0), (2.0, 0.999, 210.0, 300.0))
    ]

    answer = by_begun_hours(found(trials, 0.99, log=False), 0.99)

    assert answer.at_target is not None
    assert answer.at_target.cost == pytest.approx(300.0), "the finer setting saves nothing where hours are paid whole"
    assert [trial.point.missed for trial in answer.trials] == [trial.point.missed for trial in trials]
    assert by_begun_hours(found(trials[:1], 0.99, log=False), 0.99).at_target is None
