"""Demand when a new replica would be ready: what is expected, how sure that is, and what is remembered for it."""

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.core.forecast import days, record, step
from ebbtide.core.forecast.line import fit
from ebbtide.core.forecast.spread import ERRORS, LOADS, Misses, Spread
from ebbtide.core.work import Line
from ebbtide.model.memory import DemandSample, ForecastMemory, TrackMemory
from tests.builders import INPUT_TOKENS, NOW, OUTPUT_TOKENS, Loop, fresh, pods, service, snapshot, variant

MAIN = 1  # of the three horizons: the start-up


def feed(rate_of, seconds, replicas=4, loop=None):
    """A loop that saw `rate_of(t)` requests/s each 10 s for `seconds`."""
    loop = loop or Loop()
    end_s = loop.now_s + seconds
    while loop.now_s < end_s:
        rps = max(0.0, rate_of(loop.now_s - NOW)) / replicas
        loop.run(snapshot(service(variant("h100", pods(replicas, rps)))))
    return loop


def forecast_of(loop):
    return loop.plan.services[0].forecast


def shares_of(loop, horizon=MAIN):
    track = record.open_track(loop.memory.services[0].forecast.tracks[horizon])
    return dict(zip(record.NAMES, record.weights(track), strict=True))


def test_steady_load_is_expected_to_stay():
    forecast = forecast_of(feed(lambda t: 40.0, 1800))
    assert forecast.expected == pytest.approx(40.0, rel=0.02)
    assert 0.95 * 40.0 < forecast.low <= forecast.expected <= forecast.high < 1.1 * 40.0, "it was never wrong"


def test_a_ramp_is_foreseen_by_most_of_its_rise_over_the_horizon():
    loop = feed(lambda t: 20.0 + 0.1 * t, 900)
    forecast = forecast_of(loop)
    now, then = 20.0 + 0.1 * 890, 20.0 + 0.1 * (890 + forecast.horizon_s)
    assert forecast.expected > now + 0.7 * (then - now)
    assert forecast.method in ("trend", "growth")


SINCE = record.NAMES.index("level since a change")


@pytest.mark.parametrize(
    ("story", "newest", "slow", "want"),
    [
        ("all agree within noise: the slowest, which knows most", 1050.0, (1020.0, 1010.0, 1000.0), 1000.0),
        ("a rise of the last three windows leaves the two slow ones", 1500.0, (1400.0, 1050.0, 1020.0), 1400.0),
        ("a leap leaves them all", 2000.0, (1250.0, 1080.0, 1030.0), 2000.0),
        ("a fall too", 100.0, (700.0, 900.0, 970.0), 100.0),
        ("by chance a window is off by a fifth", 1200.0, (1060.0, 1020.0, 1010.0), 1010.0),
    ],
)
def test_a_level_holds_until_quicker_ones_differ_by_more_than_noise(story, newest, slow, want):
    memory = ForecastMemory(
        samples=(DemandSample(NOW, newest / 100.0, 100.0),), levels=slow, noise=0.01, noise_s=7200.0
    )
    line = Line(newest, 0.0, 0.0)
    assert step.candidates(memory, line, NOW, 150.0, 60.0)[SINCE] == pytest.approx(want), story


def test_noise_is_learnt_from_window_to_window_and_a_leap_is_none():
    """Requests come by chance at 10 % a minute, and once four times as many for good."""
    draw = random.Random(3)
    loop = feed(lambda t: (10.0 if t < 5400 else 40.0) * (1.0 + draw.gauss(0.0, 0.1)), 9000, replicas=8)
    assert math.sqrt(loop.memory.services[0].forecast.noise) == pytest.approx(0.1, rel=0.35)


def with_prompts(input_tokens, seconds, loop=None):
    """40 requests/s over 4 replicas, with answers as ever."""
    loop = loop or Loop()
    loop.run(snapshot(service(variant("h100", pods(4, 10.0, prompt_tokens=fresh(10.0 * input_tokens))))), seconds)
    return loop


def test_requests_prompts_and_answers_are_foreseen_apart():
    loop = with_prompts(2.0 * INPUT_TOKENS, 1800, with_prompts(INPUT_TOKENS, 1800))
    forecast = forecast_of(loop)
    assert forecast.requests == pytest.approx(40.0, rel=0.03)
    assert forecast.input_tokens == pytest.approx(40.0 * 2.0 * INPUT_TOKENS, rel=0.03)
    assert forecast.output_tokens == pytest.approx(40.0 * OUTPUT_TOKENS, rel=0.03)


def test_longer_prompts_are_more_work_before_the_mean_length_follows():
    """Two minutes after prompts became twice as long, 40 requests/s are those of many more of the mean length."""
    before = with_prompts(INPUT_TOKENS, 1800)
    assert forecast_of(before).expected == pytest.approx(40.0, rel=0.03)
    after = forecast_of(with_prompts(2.0 * INPUT_TOKENS, 120, before))
    assert after.high > 44.0
    assert after.input_tokens > 1.3 * 40.0 * INPUT_TOKENS
    weight = before.memory.services[0].forecast.prompt_weight
    assert weight == pytest.approx(0.5, abs=0.1), "0.0225 ms of prefill and 0.045 ms of decoding, on an H100"


def test_on_jitter_slow_levels_win_over_the_trend():
    noise = random.Random(7)
    loop = feed(lambda t: 40.0 + noise.uniform(-12.0, 12.0), 3600)
    shares = shares_of(loop)
    slow = sum(share for name, share in shares.items() if name.startswith("level "))
    assert slow > 2.0 * (shares["trend"] + shares["growth"])
    assert forecast_of(loop).expected == pytest.approx(40.0, rel=0.1)


def test_the_range_follows_its_own_errors():
    noise = random.Random(3)
    calm, wild = feed(lambda t: 40.0, 3600), feed(lambda t: noise.choice((15.0, 60.0)), 3600)
    assert forecast_of(wild).high / forecast_of(wild).expected > 1.2 * forecast_of(calm).high / 40.0
    assert forecast_of(calm).high < 44.0


@pytest.mark.parametrize("seed", [1, 2])
def test_what_comes_lies_inside_the_range_as_often_as_it_says(seed):
    """19 of 20 on noise that a rate window smooths: each twentieth reading is judged, a start-up apart."""
    noise, loop, level = random.Random(seed), Loop(), 0.0
    said, inside = [], []
    for cycle in range(3000):
        level = 0.98 * level + 0.04 * noise.gauss(0.0, 1.0)
        now = 40.0 * math.exp(level)
        feed(lambda t, now=now: now, 10, loop=loop)
        forecast = forecast_of(loop)
        if said and cycle % 20 == 10:
            inside.append(said[-10][0] <= now <= said[-10][1])
        said.append((forecast.low, forecast.high) if forecast else (0.0, 1e9))
    late = inside[30:]
    assert 0.88 <= sum(late) / len(late) <= 1.0


def test_loads_that_jump_to_and_fro_are_expected_to_jump():
    """10 requests/s, and for ten minutes of each hour 40: at the foot nobody knows when, but that it comes."""
    loop = feed(lambda t: 40.0 if t % 3600.0 >= 3000.0 else 10.0, 6 * 3600 - 700)
    track = record.open_track(loop.memory.services[0].forecast.tracks[MAIN])
    assert track.jumps > 2.0 * record.JUMPS
    assert forecast_of(loop).expected < 20.0
    smooth = feed(lambda t: 25.0 + 15.0 * math.sin(t / 3600.0), 6 * 3600 - 700)
    assert record.open_track(smooth.memory.services[0].forecast.tracks[MAIN]).jumps < track.jumps / 2.0


def test_what_yesterday_had_at_this_hour_is_remembered():
    """From 10 to 40 requests/s at 8 h of each day."""

    def daily(t):
        return 40.0 if 8 * 3600.0 <= t % 86_400.0 < 20 * 3600.0 else 10.0

    loop = Loop(now_s=86_400.0 * 20_000, cycle_s=30.0)
    while loop.now_s % 86_400.0 != 8 * 3600.0 or loop.now_s < 86_400.0 * 20_001:
        loop.run(snapshot(service(variant("h100", pods(4, daily(loop.now_s) / 4))), cycle_s=30.0))
    remembered = loop.memory.services[0].forecast.days
    length = OUTPUT_TOKENS + loop.memory.services[0].forecast.prompt_weight * INPUT_TOKENS
    assert days.at(remembered, loop.now_s - 86_400.0 + 1200.0) == pytest.approx(40.0 * length, rel=0.04)


def test_memory_of_a_service_stays_small():
    loop = feed(lambda t: 40.0 + 20 * math.sin(t / 300), 7200)
    assert len(msgspec.json.encode(loop.memory.services[0])) <= 10_240


def test_the_first_minute_of_a_fleet_is_no_trend():
    """Rates fill up over their window when everything has just started."""
    loop = Loop()
    for rps in (1.0, 3.0, 5.0, 8.0):
        started = tuple(msgspec.structs.replace(p, ready_at=NOW - 5.0) for p in pods(2, rps))
        loop.run(snapshot(service(variant("h100", started))))
    assert loop.plan.services[0].forecast is None


def test_a_slope_within_its_own_noise_counts_little():
    noise = random.Random(1)
    samples = [DemandSample(NOW + 10.0 * i, 40.0 + noise.uniform(-6, 6), 1) for i in range(20)]
    line = fit(samples, 100.0, samples[-1].at, 60.0)
    assert abs(line.slope * 100.0) < 6.0


@pytest.mark.parametrize(
    ("story", "loads", "capacity", "missed"),
    [
        ("always just full: the planned share", {1.0: 1.0}, 1.0, 0.01),
        ("half as much as it carries: next to nothing", {1.0: 1.0}, 2.0, 0.01 / 1024.0),
        ("twice as much: everything", {2.0: 1.0}, 1.0, 2.0),
        ("half of the time twice as much", {1.0: 0.5, 2.0: 0.5}, 1.0, 0.5 * 0.01 + 0.5 * 2.0),
    ],
)
def test_what_a_capacity_misses(story, loads, capacity, missed):
    weights = [0.0] * ERRORS.count
    for load, weight in loads.items():
        ERRORS.add(weights, math.log(load), weight)
    assert Spread(ERRORS, weights).missed(capacity, 0.01) == pytest.approx(missed, rel=0.15), story


@pytest.mark.parametrize(
    ("load", "least", "most"),
    [
        pytest.param(1.0, 0.009, 0.02, id="what lasts is missed as elsewhere"),
        pytest.param(1.4, 0.2, 0.7, id="a fifth more than lasts fills batches before others come: much of it"),
        pytest.param(1.65, 0.999, 1.0, id="four tenths more: all of it"),
    ],
)
def test_past_what_batches_keep_up_with_more_and_more_is_missed(load, least, most):
    weights = [0.0] * ERRORS.count
    ERRORS.add(weights, math.log(load), 1.0)
    lasting, endless = (Spread(ERRORS, weights, Misses(last=last)) for last in (1.17, math.inf))
    assert least * load <= lasting.missed(1.0, 0.01) <= most * load * 1.06, "bins are a tenth wide"
    assert lasting.missed(1.0, 0.01) >= endless.missed(1.0, 0.01) * (1.0 - 1e-9)


@given(
    weights=st.lists(st.floats(0.0, 10.0), min_size=LOADS.count, max_size=LOADS.count).filter(any),
    capacities=st.tuples(st.floats(1e-6, 1e6), st.floats(1.0, 3.0)),
    misses=st.builds(
        Misses, st.floats(2.0, 14.0), st.floats(1.0, 8.0), st.sampled_from([1.0, 1.1, 1.5, 4.0, math.inf])
    ),
)
def test_more_capacity_never_misses_more_and_none_misses_all(weights, capacities, misses):
    spread = Spread(LOADS, weights, misses)
    less, more = capacities[0], capacities[0] * capacities[1]
    assert spread.missed(more, 0.01) <= spread.missed(less, 0.01) * (1.0 + 1e-9) + 1e-12
    assert spread.missed(1e-9, 0.01) == pytest.approx(spread.mean, rel=1e-6)


def test_what_another_release_remembered_is_no_obstacle():
    track = record.open_track(TrackMemory(open=b"x", losses=(1.0,), scored=9.0, errors=b"y"))
    assert track.scored == 0.0
    assert sum(track.errors) == 0.0
    assert record.due(TrackMemory(open=b"x"), NOW, 100.0, 10.0) == ([], b"")


def test_slots_of_the_day_that_nobody_watched_are_unknown():
    packed = days.put(b"", 1000, 20.0)
    packed = days.put(packed, 1001, 30.0)
    middle = 1001.0 * days.SLOT_S
    assert days.at(packed, middle) == pytest.approx(25.0, rel=0.04)
    assert days.at(packed, middle + days.SLOT_S) is None
    assert days.at(days.forget(packed, 1000, 1001), middle) is None


@pytest.mark.parametrize("fall_s", [10.0, 60.0, 300.0])
def test_what_falls_is_not_expected_to_go_on_falling(fall_s):
    """From 40 to 4 requests/s, at once or in a minute's rates or in five: never below what comes, nor jumps taught."""
    loop, least = feed(lambda t: 40.0, 1800), math.inf
    start = loop.now_s
    while loop.now_s < start + fall_s + 900:
        share = min(1.0, (loop.now_s - start) / fall_s)
        now = 40.0 - 36.0 * share
        feed(lambda t, now=now: now, 10, loop=loop)
        least = min(least, forecast_of(loop).expected / now)
    assert least > 0.25
    assert record.open_track(loop.memory.services[0].forecast.tracks[MAIN]).jumped == pytest.approx(0.0, abs=0.01)
