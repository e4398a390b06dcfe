"""What the forecast says of itself is true: 95 % of what comes lies in its range, and no candidate is better alone."""

import itertools
import math
import os
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.bench import traffic
from ebbtide.core.forecast import scores
from ebbtide.core.forecast.outlook import look
from ebbtide.core.forecast.spread import Misses
from ebbtide.core.parts import ALL
from ebbtide.model.memory import ForecastMemory, Memory, ScoreMemory, ServiceMemory
from ebbtide.record.store import Store
from ebbtide.sim.shapes import (
    DAY_S,
    Bursts,
    Constant,
    DailyCurve,
    OnOff,
    RegimeChange,
    Sampled,
    Shape,
    Step,
    Walk,
)
from tests.core.forecaster import WEIGHED_TOKENS, Forecaster, Verdict, judged, rates

TRACES = Path(os.environ.get("EBBTIDE_TRACES", Path(__file__).parents[3] / "shared" / "traces"))
RAMPS = Sampled(tuple((1800.0 * index, 30.0 if index % 2 else 5.0) for index in range(200)))

ON_OFF = "half an hour on, half an hour off"
BURSTS = "ten minutes of five times as much in each hour and a half"
# requests/s
TRAFFIC: dict[str, Shape] = {
    "the same all day": Constant(20.0),
    "a request every two seconds": Constant(0.5),
    "day and night": DailyCurve(3.0, 40.0),
    "up and down, half an hour each": RAMPS,
    BURSTS: Bursts(6.0, 30.0, 5400.0, 600.0),
    ON_OFF: OnOff(20.0, 1800.0, 1800.0),
    "gone at noon but for a fortieth": Step(40.0, 1.0, 0.5 * DAY_S),
    "another level every hour": RegimeChange(3.0, 40.0, 3600.0),
    "a random walk": Walk(20.0),
}
FOUR_HOURS_S = 4.0 * 3600.0
FORESEEN = list(itertools.product([story for story in TRAFFIC if story != BURSTS], (60.0, 150.0, 400.0)))
REAL = {
    "azure2024_conv_sun-wed.csv": None,
    "sageserve_C.csv": "prod",
    "servegen_m-small_week1.csv": None,
    "servegen_deepseek-r1.csv": None,
}


def together(verdicts: list[Verdict]) -> Verdict:
    return Verdict(
        claims=sum(found.claims for found in verdicts),
        independent=sum(found.independent for found in verdicts),
        below=sum(found.below for found in verdicts),
        above=sum(found.above for found in verdicts),
    )


def test_95_percent_of_what_comes_lies_in_the_range_whatever_the_traffic() -> None:
    """A day of each, from the first minute on; each by itself and all together."""
    verdicts = {story: judged(shape, DAY_S, seed=1) for story, shape in TRAFFIC.items()}
    for story, found in verdicts.items():
        low, high = found.band
        assert low <= found.coverage <= high, f"{story}: {found.coverage:.4f}"
        assert max(found.below, found.above) < 0.045 * found.claims, f"{story}: errors at one end only"
    low, high = together(list(verdicts.values())).band
    assert low <= together(list(verdicts.values())).coverage <= high


@pytest.mark.slow
@pytest.mark.parametrize(("story", "startup_s"), FORESEEN)
def test_the_blend_is_hardly_worse_than_the_best_candidate_in_hindsight(story: str, startup_s: float) -> None:
    """Each candidate with a range of its own, made in the same way; two days."""
    found = judged(TRAFFIC[story], 2.0 * DAY_S, seed=2, startup_s=startup_s, lone=True)
    ratio, best = found.over_best
    assert ratio <= 1.05, f"{ratio:.3f} of {best} alone"
    low, high = found.band
    assert low <= found.coverage <= high


@pytest.mark.slow
@pytest.mark.parametrize(
    "startup_s",
    [
        60.0,
        150.0,
        # 48 errors in six hours do not tell a level of half an hour from what follows bursts: 1.052 was measured
        pytest.param(400.0, marks=pytest.mark.xfail(reason="bursts hardly longer than a start-up", strict=True)),
    ],
)
def test_and_on_bursts(startup_s: float) -> None:
    test_the_blend_is_hardly_worse_than_the_best_candidate_in_hindsight(BURSTS, startup_s)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_the_same_holds_on_real_traffic(name: str) -> None:
    path = TRACES / name
    if not path.exists():
        pytest.skip(f"{name} is not at hand; set EBBTIDE_TRACES to a folder with public traces")
    curve = traffic.read(path, column=REAL[name]).curve
    assert curve is not None
    days = min(2.0, curve.points[-1][0] / DAY_S)
    found = judged(traffic.times(curve, 40.0 / curve.peak_rate), days * DAY_S, seed=3, lone=True)
    ratio, best = found.over_best
    assert ratio <= 1.05, f"{ratio:.3f} of {best} alone"
    low, high = found.band
    assert low <= found.coverage <= high


def watched(shape: Shape, seconds: float, seed: int = 1) -> tuple[Forecaster, float]:
    """A forecaster that saw it, and what it expects at the end, in mean requests/s."""
    forecaster, expected = Forecaster(), math.nan
    for t_s, rate in rates(shape, seconds, seed):
        draft, turn = forecaster.see(t_s, rate)
        if turn:
            outlook = look(draft, Misses(), ALL)
            forecaster.claim(outlook, draft.forecast_memory.turn_at)
            expected = outlook.main.expected
    return forecaster, expected


@pytest.mark.parametrize(
    ("story", "shape", "minutes", "low", "high"),
    [
        ("a collapse is believed within five minutes", Step(40.0, 1.0, 6 * 3600.0), 5, 0.0, 6.0),
        ("and to nothing as well", Step(40.0, 0.0, 6 * 3600.0), 5, 0.0, 6.0),
        ("a doubling is nearly believed within five minutes", Step(20.0, 40.0, 6 * 3600.0), 5, 34.0, 60.0),
        ("and within eight at the latest", Step(20.0, 40.0, 6 * 3600.0), 8, 37.0, 48.0),
        ("ten minutes without any history are enough to stay", Constant(20.0), -350, 17.0, 24.0),
    ],
)
def test_another_regime_is_noticed_in_minutes(
    story: str, shape: Shape, minutes: float, low: float, high: float
) -> None:
    _, expected = watched(shape, 6 * 3600.0 + 60.0 * minutes)
    assert low <= expected <= high, f"{story}: {expected:.1f}"


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("story", "shape", "hours", "least", "most"),
    [
        (
            "noise of ten requests/s for twelve hours, some 15 of whose minutes are above the range",
            Constant(10.0),
            12.0,
            0,
            2,
        ),
        ("after four calm hours four times as many: in that minute", Step(10.0, 40.0, FOUR_HOURS_S), 4.05, 1, 3),
    ],
)
def test_noise_is_no_leap_and_a_leap_is_one(
    story: str, shape: Shape, hours: float, least: int, most: int, seed: int
) -> None:
    forecaster, leaps = Forecaster(), list[float]()
    for t_s, rate in rates(shape, hours * 3600.0, seed):
        draft, turn = forecaster.see(t_s, rate)
        outlook = look(draft, Misses(), ALL) if turn and t_s > 3600.0 else None
        if outlook is not None and outlook.main is not outlook.if_noise:
            leaps.append(t_s)
    assert least <= len(leaps) <= most, f"{story}: {leaps}"
    assert all(t_s >= FOUR_HOURS_S for t_s in leaps[:least]), f"{story}: {leaps}"


def test_one_day_makes_yesterday_count() -> None:
    """Ups and downs that no line foresees, the same on each day: on the second they are known."""
    draw = random.Random(5)
    marks = [(2400.0 * index, draw.uniform(5.0, 40.0)) for index in range(36)]
    shape = Sampled(tuple((day * DAY_S + t_s, rate) for day in range(3) for t_s, rate in marks))
    first, second = (median_loss(shape, day) for day in (0, 1))
    assert second < 0.85 * first, f"{second:.4f} after {first:.4f}"


def median_loss(shape: Shape, day: int) -> float:
    """Of that day alone, over what came: the score forgets within a day, so what it had before is taken out."""
    before, after = (
        watched(shape, until * DAY_S)[0].memory.score if until else ScoreMemory() for until in (day, day + 1)
    )
    kept = math.exp(-1.0)
    return (after.middle_loss - kept * before.middle_loss) / (after.came - kept * before.came)


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    """What went through the store foresees the same, bit for bit, claims that are open included."""
    forecaster, _ = watched(DailyCurve(3.0, 40.0, period_s=7200.0), 3 * 3600.0)
    assert forecaster.memory.score.claims
    path = tmp_path / "state.db"
    store = Store(path)
    store.save_memory(Memory(services=(ServiceMemory("ml/chat", forecast=forecaster.memory),)), everything=True)
    store.close()
    store = Store(path)
    restarted = Forecaster(memory=store.load_memory().services[0].forecast)
    store.close()
    for t_s, rate in rates(Constant(30.0), 1800.0, seed=1):
        at_s = 3 * 3600.0 + t_s
        (kept, _), (again, _) = forecaster.see(at_s, rate), restarted.see(at_s, rate)
        assert again.foreseen == kept.foreseen
    assert restarted.memory == forecaster.memory


def test_a_score_says_what_came() -> None:
    """On Poisson arrivals of 20 requests/s, half of whose error is chance: little bias, errors of a few percent."""
    forecaster, _ = watched(Constant(20.0), 12 * 3600.0)
    score = scores.of(forecaster.memory.score)
    assert score is not None
    assert score.errors == pytest.approx(12 * 3600.0 / 195.0, rel=0.25), "what overlaps counts once"
    assert 0.9 <= score.coverage <= 1.0
    assert score.bias == pytest.approx(1.0, abs=0.02)
    assert 0.005 < score.pinball[1] < 0.03
    assert max(score.pinball[0], score.pinball[2]) < score.pinball[1]


def test_what_is_kept_for_the_score_is_small() -> None:
    forecaster, _ = watched(Walk(20.0), 6 * 3600.0)
    assert len(msgspec.json.encode(forecaster.memory.score)) < 400


@pytest.mark.parametrize(
    ("story", "at_s", "judged_ones"),
    [
        ("not due yet", 50.0, 0),
        ("due", 101.0, 1),
        ("due in a gap of an hour: nobody saw that moment", 3700.0, 0),
        ("of a clock that was set back since", -5000.0, 0),
    ],
)
def test_a_claim_is_judged_once_and_only_by_its_own_moment(story: str, at_s: float, judged_ones: int) -> None:
    forecaster, _ = watched(Constant(20.0), 600.0)
    draft, _ = forecaster.see(630.0, 20.0)
    claimed = scores.claim(ScoreMemory(), look(draft, Misses(), ALL).main, (1.0, 2.0, 3.0), 0.0, 60.0)
    due_s = look(draft, Misses(), ALL).main.ahead_s
    found = claimed
    for _ in range(2):
        found = scores.judge(found, 2.0, due_s - 100.0 + at_s, horizon_s=due_s, period_s=due_s, cycle_s=15.0)
    assert found.counted == judged_ones, story
    assert bool(found.claims) is (story == "not due yet")


@given(st.lists(st.floats(0.0, 1e7), max_size=300))
def test_ends_keep_their_order_and_stay_finite_whatever_comes(loads: list[float]) -> None:
    forecaster = Forecaster()
    for number, load in enumerate(loads):
        draft, turn = forecaster.see(15.0 * number, load / WEIGHED_TOKENS)
        if turn:
            ends = forecaster.claim(look(draft, Misses(), ALL), forecaster.memory.turn_at)
            assert ends is None or (0.0 <= ends[0] <= ends[1] <= ends[2] < math.inf)


def test_what_another_release_claimed_is_dropped() -> None:
    odd = ForecastMemory(score=ScoreMemory(claims=b"x", counted=3.0))
    found = scores.judge(odd.score, 1.0, 100.0, horizon_s=100.0, period_s=60.0, cycle_s=15.0)
    assert found == ScoreMemory()
