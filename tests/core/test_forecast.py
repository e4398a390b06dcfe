import math
import random

import msgspec
import pytest

from ebbtide.core.forecast import fit, weights
from ebbtide.core.sizing import MOST_MARGIN, margin_for
from ebbtide.model.memory import DemandSample
from tests.builders import NOW, Loop, pods, service, snapshot, variant


def feed(rate_of, seconds, replicas=4):
    """A loop that saw `rate_of(t)` requests/s each 10 s for `seconds`."""
    loop = Loop()
    while loop.now_s < NOW + seconds:
        rps = max(0.0, rate_of(loop.now_s - NOW)) / replicas
        loop.run(snapshot(service(variant("h100", pods(replicas, rps)))))
    return loop


def forecast_of(loop):
    return loop.plan.services[0].forecast


def test_steady_load_is_expected_to_stay():
    forecast = forecast_of(feed(lambda t: 40.0, 900))
    assert forecast.expected == pytest.approx(40.0, rel=0.01)
    assert forecast.low < 40.0 < forecast.high


def test_a_ramp_is_foreseen_by_most_of_its_rise_over_the_horizon():
    loop = feed(lambda t: 20.0 + 0.1 * t, 900)
    forecast = forecast_of(loop)
    now, then = 20.0 + 0.1 * 890, 20.0 + 0.1 * (890 + forecast.horizon_s)
    assert forecast.expected > now + 0.7 * (then - now)
    assert forecast.method in ("trend", "growth")


def test_on_jitter_the_level_wins_over_the_trend():
    noise = random.Random(7)
    loop = feed(lambda t: 40.0 + noise.uniform(-12.0, 12.0), 3600)
    memory = loop.memory.services[0].forecast
    level, trend, growth = weights(memory)
    assert level > trend > 0.0
    assert level > growth
    assert forecast_of(loop).expected == pytest.approx(40.0, rel=0.25)


def test_the_range_widens_with_its_own_errors():
    noise = random.Random(3)
    calm, wild = feed(lambda t: 40.0, 1800), feed(lambda t: noise.choice((15.0, 60.0)), 1800)
    assert (
        forecast_of(wild).high / forecast_of(wild).expected > 1.3 * forecast_of(calm).high / forecast_of(calm).expected
    )


def test_memory_of_a_service_stays_small():
    loop = feed(lambda t: 40.0 + 20 * math.sin(t / 300), 7200)
    assert len(msgspec.json.encode(loop.memory.services[0])) <= 4096


def test_the_first_minute_of_a_fleet_is_no_trend():
    """Rates fill up over their window when everything has just started."""
    loop = Loop()
    for rps in (1.0, 3.0, 5.0, 8.0):
        started = tuple(msgspec.structs.replace(p, ready_at=NOW - 5.0) for p in pods(2, rps))
        loop.run(snapshot(service(variant("h100", started))))
    assert loop.plan.services[0].forecast is None


def test_a_slope_within_its_own_noise_counts_little():
    noise = random.Random(1)
    samples = [DemandSample(NOW + 10.0 * i, 40.0 + noise.uniform(-6, 6), 1000, 200) for i in range(20)]
    line = fit(samples, 100.0, samples[-1].at, 60.0)
    assert abs(line.slope * 100.0) < 6.0


@pytest.mark.parametrize(("sigma", "want"), [(0.0, 1.0), (0.1, 1.05), (0.2, 1.22)])
def test_the_margin_follows_the_error(sigma, want):
    assert margin_for(sigma, 0.01) == pytest.approx(want, abs=0.04)


def test_stricter_attainment_and_larger_errors_cost_more_up_to_a_limit():
    assert margin_for(0.2, 0.001) > margin_for(0.2, 0.01)
    assert margin_for(5.0, 0.01) == margin_for(3.0, 0.01) == MOST_MARGIN
