"""Generated load: shapes give the rates they promise, seeds repeat, lengths stay in bounds and hang together."""

import math
import statistics
from collections import defaultdict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.errors import ConfigurationError
from ebbtide.sim.load import (
    CODE,
    CONVERSATION,
    Bursts,
    Constant,
    DailyCurve,
    Hump,
    Lengths,
    OnOff,
    RegimeChange,
    Sampled,
    Shape,
    Step,
    WeeklyCurve,
    arrivals,
    generate,
    parse_shape,
)
from ebbtide.sim.requests import Request

SHAPES: dict[str, Shape] = {
    "constant": Constant(6),
    "step": Step(2, 9, at_s=500),
    "hump": Hump(2, 9, start_s=60, rise_s=300, hold_s=100, fall_s=300),
    "daily": DailyCurve(1, 10, peak_s=600, period_s=1200),
    "weekly": WeeklyCurve(2, 10, weekend=0.4, day_s=200),
    "bursts": Bursts(2, 12, every_s=120, length_s=20),
    "onoff": OnOff(8, on_s=100, off_s=200, quiet_s=50),
    "regimes": RegimeChange(2, 12, mean_s=100),
    "sampled": Sampled(((0, 1), (400, 9), (1200, 3))),
}


@pytest.mark.parametrize("name", SHAPES)
def test_arrivals_follow_the_shape(name: str) -> None:
    shape, length_s = SHAPES[name], 1200.0
    expected = statistics.mean(shape.rate(t_s / 10) for t_s in range(12_000)) * length_s

    times = list(arrivals(shape, length_s, seed=3))

    assert abs(len(times) - expected) < 4 * math.sqrt(expected)
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] < length_s


@pytest.mark.parametrize("name", SHAPES)
@settings(deadline=None)
@given(t_s=st.floats(0, 5000))
def test_no_rate_is_negative_or_above_the_peak(name: str, t_s: float) -> None:
    assert 0 <= SHAPES[name].rate(t_s) <= SHAPES[name].peak_rate * (1 + 1e-9)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_survives_json(name: str) -> None:
    encoded = msgspec.json.decode(msgspec.json.encode(SHAPES[name]))

    assert encoded["shape"] == name
    assert parse_shape(encoded) == SHAPES[name]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"shape": "sawtooth"}, ("sawtooth", "hump")),
        ({"shape": "step", "before": 1, "after": 2}, ("at_s",)),
        ({"shape": "constant", "per_second": "many"}, ("per_second",)),
        ({"shape": "constant", "per_second": 1, "colour": 2}, ("colour",)),
        ({"per_second": 1}, ("shape",)),
    ],
)
def test_a_bad_shape_is_refused_by_name(value: dict[str, object], named: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_shape(value)

    assert all(text in str(caught.value) for text in named)


def test_the_hump_rises_stays_and_falls() -> None:
    hump = Hump(base=2, peak=10, start_s=10, rise_s=20, hold_s=30, fall_s=40)

    assert [round(hump.rate(t_s), 6) for t_s in (0, 10, 20, 30, 45, 60, 80, 100, 500)] == [2, 2, 6, 10, 10, 10, 6, 2, 2]


def test_a_weekend_is_quieter_than_a_weekday() -> None:
    week = WeeklyCurve(low=2, high=10, weekend=0.4)

    assert week.rate(14 * 3600) == pytest.approx(10)
    assert week.rate((5 * 24 + 14) * 3600) == pytest.approx(4)
    assert week.rate((7 * 24 + 14) * 3600) == pytest.approx(10)


def test_a_sampled_curve_fits_any_duration_and_height() -> None:
    fitted = Sampled(((600, 10), (1200, 40), (1800, 20))).fitted(duration_s=60, peak_per_second=8)

    assert list(fitted.points) == [(0, 2), (30, 8), (60, 4)]
    assert fitted.rate(61) == 0


@pytest.mark.parametrize("lengths", [CONVERSATION, CODE], ids=["conversation", "code"])
def test_the_same_seed_gives_the_same_requests_and_another_seed_others(lengths: Lengths) -> None:
    first, again, other = (generate(Constant(5), lengths, 60, seed) for seed in (1, 1, 2))

    assert first == again
    assert first != other
    assert [request.id for request in first] == list(range(len(first)))


@settings(deadline=None)
@given(seed=st.integers(0, 100))
def test_lengths_stay_between_one_and_their_maximum(seed: int) -> None:
    for request in generate(Constant(20), CODE, 10, seed):
        assert 1 <= request.prompt_tokens <= CODE.prompt_max
        assert 1 <= request.output_tokens <= CODE.output_max


def test_minutes_of_long_answers_come_in_runs_as_in_real_conversations() -> None:
    requests = generate(Constant(5.5), CONVERSATION, 6 * 3600, seed=1)
    independent = generate(Constant(5.5), msgspec.structs.replace(CONVERSATION, slow_share=0.0), 6 * 3600, seed=1)

    assert _minute_variation(requests) > 0.16
    assert _minute_variation(independent) < 0.08


def test_swing_makes_arrivals_vary_beyond_chance() -> None:
    def beyond_chance(swing: float) -> float:
        counts: defaultdict[int, int] = defaultdict(int)
        for t_s in arrivals(Constant(6), 6 * 3600, seed=1, swing=swing):
            counts[int(t_s // 30)] += 1
        mean = statistics.mean(counts.values())
        return (statistics.pvariance(counts.values()) - mean) / mean**2

    assert math.sqrt(beyond_chance(0.2)) == pytest.approx(0.18, abs=0.05)
    assert beyond_chance(0.0) < 0.08**2


def _minute_variation(requests: list[Request]) -> float:
    minutes: defaultdict[int, list[int]] = defaultdict(list)
    for request in requests:
        minutes[int(request.arrival_s // 60)].append(request.output_tokens)
    means = [statistics.mean(tokens) for tokens in minutes.values()]
    return statistics.pstdev(means) / statistics.mean(means)
