"""Errors of forecasts shrink with volume, as far as they were seen to."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.core.forecast import record, volume
from ebbtide.core.forecast.spread import FLOOR, LOADS, Misses
from ebbtide.model.memory import TrackMemory

LOADS_SEEN = [0.0] * LOADS.count


def learnt(model: float, noise: float, volumes: tuple[float, ...], errors: int = 400, seed: int = 1) -> list[float]:
    """Sums after errors of that variance, model + noise / volume, at volumes by turns."""
    draw, sums = random.Random(seed), [0.0] * volume.SUMS
    for index in range(errors):
        at = volumes[index % len(volumes)]
        sums = volume.learn(sums, at, draw.gauss(0.0, math.sqrt(model + noise / at)), 1.0, 60.0)
    return sums


@pytest.mark.parametrize(
    ("story", "model", "noise", "volumes", "least", "most"),
    [
        ("nights at 200, days at 4,000, half of the nights' variance is chance", 0.1, 20.0, (200.0, 4000.0), 100, 300),
        ("nearly all is chance", 0.005, 20.0, (200.0, 1000.0, 4000.0), 1000, 20_000),
        ("errors are alike at any volume: none of it is chance", 0.2, 0.0, (200.0, 4000.0), 0, 60),
        ("one volume says nothing of others", 0.1, 20.0, (200.0,), 0, 1),
    ],
)
def test_how_much_of_an_error_shrinks_with_volume_is_learnt(story, model, noise, volumes, least, most):
    found = [volume.ratio(learnt(model, noise, volumes, seed=seed)) for seed in range(9)]
    assert least <= sorted(found)[4] <= most, (story, found)


def test_errors_of_a_bursty_night_do_not_widen_the_range_of_the_morning():
    """Off by 0.9 at 200 tokens/s for six hours, then at 4,000 by 0.4: 19 of 20 errors are below 0.8 there, not 1.6."""
    draw, track = random.Random(2), record.open_track(TrackMemory())
    for index in range(260):
        level, error = (200.0, 0.9) if index < 160 or index >= 220 else (4000.0, 0.4)
        came = level * math.exp(draw.gauss(0.0, error))
        record.score(track, (0.0, level, *(level,) * len(record.NAMES)), came, LOADS_SEEN, 150.0, 150.0)
    night, morning = (record.around(track, Misses(), said) for said in (200.0, 4000.0))
    assert night.at(0.95) == pytest.approx(1.6, abs=0.4)
    assert morning.at(0.95) < 0.65 * night.at(0.95)
    assert record.deviation(track, 4000.0) < 0.65 * record.deviation(track, 200.0)


def test_errors_that_are_kept_move_with_the_volume_and_are_the_same_errors():
    """After days at 4,000 tokens/s what was learnt at 200 is kept as it would be there; nothing is lost of it."""
    track = record.open_track(TrackMemory())
    for index in range(200):
        level = 200.0 if index < 60 else 4000.0
        error = 0.9 if level < 1000.0 else 0.4
        came = (level + FLOOR) * math.exp(error if index % 2 else -error) - FLOOR
        record.score(track, (0.0, level, *(level,) * len(record.NAMES)), came, LOADS_SEEN, 150.0, 150.0)
    assert track.typical > 1000.0
    assert sum(track.errors) == pytest.approx(track.counted, rel=0.05)
    reopened = record.open_track(record.close_track(track, b""))
    assert reopened.typical == pytest.approx(track.typical)
    assert record.deviation(reopened, 4000.0) == pytest.approx(record.deviation(track, 4000.0), rel=1e-3)


SEEN = st.tuples(st.floats(FLOOR, 1e9), st.floats(-30.0, 30.0), st.floats(0.0, 1.0))


@given(seen=st.lists(SEEN, max_size=12), at=st.floats(FLOOR, 1e9), typical=st.floats(0.0, 1e9))
def test_whatever_was_seen_errors_are_stretched_within_bounds(seen, at, typical):
    sums = [0.0] * volume.SUMS
    for volume_then, error, weight in seen:
        sums = volume.learn(sums, volume_then, error, weight, 60.0)
    assert all(math.isfinite(each) for each in sums)
    assert 0.0 <= volume.ratio(sums) < math.inf
    assert volume.LEAST <= volume.stretch(volume.ratio(sums), at, typical) <= volume.MOST
