"""Rivals that plan by the clock: static fleets, the schedule, the hourly forecast."""

import pytest

from ebbtide.bench.case import Carries
from ebbtide.bench.policy import Minute
from ebbtide.bench.rivals import REGISTRY
from ebbtide.bench.rivals.forecast import Forecast
from ebbtide.bench.rivals.pastload import PastLoad
from ebbtide.bench.rivals.schedule import Schedule, held
from ebbtide.bench.rivals.static import StaticMean, StaticPeak
from tests.bench.rivals.scenes import case, minutes, seen

DAY_S = 86_400


def daily(at_s):
    """5 requests/s, 20 from 9 to 12 o'clock."""
    return 20.0 if 9 <= at_s % DAY_S // 3600 < 12 else 5.0


def past(history):
    known = PastLoad()
    known.learn(history)
    return known


def test_an_hour_counts_by_its_busiest_quarter():
    known = past([Minute(float(60 * i), 60.0 * (12.0 if 15 <= i < 30 else 4.0), 0.0, 0.0) for i in range(60)])
    assert known.hour(0) == pytest.approx(12.0)
    assert known.quarter(0) == pytest.approx(4.0)
    assert known.hour(1) is None


def test_history_is_taken_in_once_and_grows():
    history = minutes(lambda t: 4.0, -3600, 0)
    known = past(history)
    known.learn(history)
    known.learn([*history, Minute(0.0, 600.0, 0.0, 0.0)])
    assert known.hour(-1) == pytest.approx(4.0)
    assert known.hour(0) == pytest.approx(10.0)
    known.learn([*history, Minute(0.0, 600.0, 0.0, 0.0), Minute(60.0, 240.0, 0.0, 0.0)])
    assert known.hour(0) == pytest.approx(7.0), "each minute once"
    assert (known.training_peak(), known.training_mean()) == (pytest.approx(4.0), pytest.approx(4.0))


def test_without_training_there_is_no_unit():
    known = past(minutes(lambda t: 4.0, 0, 3600))
    assert (known.training_peak(), known.training_mean()) == (None, None)
    assert past(minutes(lambda t: 0.0, -3600, 0)).training_peak() is None


@pytest.mark.parametrize(("share", "want"), [(1.0, 10), (0.5, 5), (0.51, 6), (0.01, 1)])
def test_static_peak_is_a_share_of_what_is_allowed(share, want):
    assert StaticPeak(case(), share).decide(seen()) == want


@pytest.mark.parametrize(
    ("else_per_s", "want"),
    [
        (2.0, 6),  # mean 4, peak 10, at most 10: ceil(1.3 x 4)
        (2.8, 6),  # mean 4.6: ceil(5.98)
    ],
)
def test_static_mean_is_1_3_times_the_mean_in_units_of_the_peak(else_per_s, want):
    history = minutes(lambda t: 10.0 if t % 3600 < 900 else else_per_s, -7200, 0)
    published = REGISTRY["static-mean"].knob.published
    assert StaticMean(case(), published).decide(seen(history=history)) == want


MEASURED = case(carries=Carries(per_s=2.5, alone_per_s=2.0, input_tokens=500.0, output_tokens=100.0))


def test_where_a_replica_was_measured_its_rate_is_the_unit_and_not_what_is_allowed():
    history = minutes(lambda t: 12.0 if t % 3600 < 900 else 4.0, -2 * DAY_S, 0)
    now = seen(0.0, history=history)
    # peak 12 and mean 6 requests/s at 2.5 each, with at most 10
    assert StaticPeak(MEASURED, 1.0).decide(now) == 5
    assert StaticPeak(MEASURED, 1.5).decide(now) == 8
    assert StaticMean(MEASURED, 1.3).decide(now) == 4
    assert Schedule(MEASURED, 1.0).decide(now) == 5
    assert Forecast(MEASURED, 1.0).decide(now) == 5
    assert StaticPeak(MEASURED, 1.0).decide(seen()) == 10, "without training: what is allowed"


def test_static_mean_does_not_follow_what_comes_later():
    policy = StaticMean(case(), 1.3)
    first = policy.decide(seen(history=minutes(daily, -DAY_S, 0)))
    assert policy.decide(seen(7200.0, history=minutes(lambda t: 90.0, -DAY_S, 7200))) == first


@pytest.mark.parametrize(
    ("at_h", "want"),
    [
        (8.0, 3),  # 5 of 20 requests/s with ten replicas: 2.5
        (8.97, 10),  # 115 s ahead is 9 o'clock
        (9.0, 10),
        (11.9, 10),
        (12.0, 3),
    ],
)
def test_the_schedule_repeats_the_hour_and_begins_it_a_start_up_early(at_h, want):
    policy = Schedule(case(), 1.0)
    assert policy.decide(seen(3600.0 * at_h, history=minutes(daily, -2 * DAY_S, 0))) == want


@pytest.mark.parametrize("greatest", [-7, -3])
def test_the_schedule_takes_the_greatest_of_seven_days_and_forgets_the_eighth(greatest):
    def grown(at_s):
        return {-8: 20.0, greatest: 15.0}.get(at_s // DAY_S, 10.0)

    assert Schedule(case(), 1.0).decide(seen(0.0, history=minutes(grown, -8 * DAY_S, 0))) == 8
    assert Schedule(case(), 1.0).decide(seen(0.0, history=minutes(grown, -7 * DAY_S, 0))) == 10, "15 is the peak then"


def test_the_schedule_learns_the_days_it_runs():
    def doubled(at_s):
        return daily(at_s) * (2.0 if at_s >= 0 else 1.0)

    policy, history = Schedule(case(max_replicas=40), 0.5), minutes(doubled, -DAY_S, DAY_S)
    assert policy.decide(seen(3600.0 * 10, history=minutes(daily, -DAY_S, 0))) == 20
    assert policy.decide(seen(DAY_S + 3600.0 * 10, history=history)) == 40


@pytest.mark.parametrize(
    ("story", "training", "length_h", "why"),
    [
        ("no training at all", (0, 0), 1, "held: no training"),
        ("training in which nothing came", (-48, -36), 1, "held: no training"),
        ("twelve minutes before an hour", (-0.2, 0), 1, "held: no same hour before"),
        ("twelve hours before two", (-12, 0), 2, "held: no same hour before"),
        ("from the twelfth hour on it was seen", (-12, 0), 13, ""),
        ("the last start-up looks into the next hour", (-22, 0), 1.99, ""),
        ("a day", (-24, 0), 1, ""),
        ("yesterday at this hour, and then a gap", (-25, -20), 1, ""),
        ("eight days ago is forgotten", (-193, -190), 1, "held: no same hour before"),
        ("the second day has what it ran on the first", (-0.2, 0), 25, ""),
    ],
)
def test_a_schedule_that_saw_no_such_hour_says_that_it_holds_and_does(story, training, length_h, why):
    begin_s, end_s = (int(3600 * at_h) for at_h in training)
    rate = 0.0 if end_s == -36 * 3600 else 5.0
    history, length_s = minutes(lambda t: rate, begin_s, end_s), 3600.0 * length_h
    assert held(case(), history, length_s) == why, story
    policy, lived = Schedule(case(), 1.0), minutes(lambda t: 5.0, 0, int(length_s))
    said = [
        policy.decide(seen(float(at_s), history=[*history, *lived[: at_s // 60]]))
        for at_s in range(0, int(length_s), 60)
    ]
    assert any(wanted is not None for wanted in said) == (not why), story


@pytest.mark.parametrize("policy", [Schedule, Forecast, StaticMean])
def test_who_plans_by_the_clock_holds_without_training(policy):
    assert policy(case(), 1.0).decide(seen(0.0, arrivals_per_s=5.0)) is None


@pytest.mark.parametrize(
    ("today", "want"),
    [
        (lambda t: 5.0, 10.0),  # as yesterday: yesterday's hour
        (lambda t: 4.0, 8.0),
        (lambda t: 50.0, 20.0),  # double at most
        (lambda t: 0.1, 5.0),  # half at least
    ],
)
def test_the_forecast_is_yesterdays_hour_scaled_by_the_hour_before(today, want):
    def rate(at_s):
        if at_s >= 0:
            return today(at_s)
        return 10.0 if at_s // 3600 == -23 else 5.0

    policy = Forecast(case(max_replicas=20), 1.0)
    policy.decide(seen(3600.0, history=minutes(rate, -DAY_S, 3600)))
    assert policy.expect(1) == pytest.approx(want)


def test_without_a_yesterday_the_last_two_hours_count():
    policy = Forecast(case(), 1.0)
    policy.decide(seen(0.0, history=minutes(lambda t: 8.0 if t < -3600 else 6.0, -7200, 0)))
    assert policy.expect(0) == pytest.approx(8.0)


def test_more_than_was_said_is_patched_for_five_minutes():
    policy, history = Forecast(case(), 1.0), minutes(lambda t: 10.0, -2 * DAY_S, 0)
    said = [
        policy.decide(seen(now_s, history=history, arrivals_per_s=rate))
        for now_s, rate in ((1000.0, 4.0), (1015.0, 25.0), (1030.0, 4.0), (1300.0, 4.0), (1330.0, 4.0))
    ]
    assert said == [10, 10, 10, 10, 10]
    policy = Forecast(case(max_replicas=30), 0.5)
    said = [
        policy.decide(seen(now_s, history=history, arrivals_per_s=rate))
        for now_s, rate in ((1000.0, 4.0), (1015.0, 18.0), (1030.0, 4.0), (1300.0, 4.0), (1330.0, 4.0))
    ]
    assert said == [15, 27, 27, 27, 15]


def test_an_hours_forecast_stands_once_it_is_made_a_start_up_ahead():
    policy, history = Forecast(case(max_replicas=20), 0.5), minutes(lambda t: 10.0, -2 * DAY_S, 3420)
    assert policy.decide(seen(3500.0, history=history)) == 10, "of 1 o'clock it knows 57 minutes of the hour before"
    history += minutes(lambda t: 40.0, 3420, 3600)
    assert policy.decide(seen(3700.0, history=history)) == 10, "16 / 10 of yesterday came too late"
