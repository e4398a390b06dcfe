"""Arrivals at the horizon that matters, the variant's own start-up time plus a cycle, with a range from past errors.

Three candidates: the level (what is, stays), the trend (a line, shrunk by its own uncertainty) and growth (the same
slope as a rate of growth: ramps begin that way). Each says at every moment what it expects and is scored when that
moment comes; their weights follow the scores, because a trend that is not scored against the level does harm on traffic
that only jitters.
"""

import math
from collections.abc import Sequence

from ebbtide.core.demand import windows_are_full
from ebbtide.core.numeric import clip, significant
from ebbtide.core.startup import estimate_s
from ebbtide.core.work import Cycle, Draft, Line
from ebbtide.model.memory import DemandSample, ForecastMemory, Prediction
from ebbtide.model.plan import Forecast

KEPT_SAMPLES = 30
KEPT_PREDICTIONS = 10
PER_HORIZON = 8  # predictions made in one horizon
FLOOR = 1.0 / 60.0  # one request a minute: logs of rates below it would only score noise
SCORE_DECAY = 0.98  # per scored prediction: half of the record is older than four horizons
PRIOR_SIGMA = 0.12
PRIOR_WEIGHT = 4.0  # in scored predictions
# Beliefs before any score. The slope is shrunk by its own error already, so a clear ramp may be believed at once.
UNSCORED = (0.2, 0.4, 0.4)
WIDEST_SIGMA = 0.7  # a range of a quarter to four times says all there is to say
PEAK_TAU_S = 6 * 3600.0
STEADY = 0.1  # relative change within a start-up below which demand counts as steady

Triple = tuple[float, float, float]


def step(draft: Draft, cycle: Cycle) -> None:
    """Learn from what came, then say what is expected."""
    for variant in draft.variants:
        variant.startup_s, variant.startup_measured = estimate_s(
            variant.memory.capacity, draft.state.spec.model_parameters_billion
        )
    horizon_s = horizon(draft, cycle)
    memory, line = draft.memory.forecast, None
    if draft.demand.quality in ("fresh", "young") and windows_are_full(draft, cycle):
        memory, line = learn(memory, draft, horizon_s, cycle)
    draft.forecast_memory = memory
    _say(draft, memory, line, horizon_s, cycle)


def horizon(draft: Draft, cycle: Cycle) -> float:
    """Seconds to look ahead: start-up of the variant with most replicas, a cycle, the metrics' own lag."""
    main = max(draft.variants, key=lambda variant: (variant.observed, -variant.startup_s, -variant.index), default=None)
    if main is None:
        return cycle.reaction_s
    return main.startup_s + cycle.reaction_s


def learn(memory: ForecastMemory, draft: Draft, horizon_s: float, cycle: Cycle) -> tuple[ForecastMemory, Line]:
    """Add the present sample, score predictions that are due, and make a new one every eighth of a horizon.

    Returns the line through the samples too.
    """
    view, now_s, window_s = draft.demand, cycle.now_s, cycle.snapshot.rate_window_s
    sample = DemandSample(
        round(now_s, 1), significant(view.rate), round(view.input_tokens, 1), round(view.output_tokens, 1)
    )
    samples = _append(memory.samples, sample, horizon_s)
    line = fit(samples, horizon_s, now_s, window_s)
    losses, scored = (memory.level_loss, memory.trend_loss, memory.growth_loss), memory.scored
    doubted, mix = memory.doubt_loss, weights(memory)
    waiting: list[Prediction] = []
    for prediction in memory.predictions:
        if prediction.due_at > now_s:
            waiting.append(prediction)
        elif prediction.due_at > now_s - 0.5 * horizon_s:  # a longer gap says nothing about that moment
            losses = _score(losses, prediction, line.level)
            doubted = doubted * SCORE_DECAY + _doubted(mix, prediction, line.level)
            scored = scored * SCORE_DECAY + 1.0
    if _prediction_is_due(waiting, horizon_s, now_s):
        due = round(now_s + horizon_s, 1)
        level, trend, growth = (significant(value) for value in line.candidates(horizon_s))
        made = Prediction(round(now_s, 1), due, level, trend, growth)
        waiting = [*waiting, made][-KEPT_PREDICTIONS:]
    level_loss, trend_loss, growth_loss = (round(loss, 6) for loss in losses)
    peak = significant(max(sample.requests_per_second, memory.peak * math.exp(-cycle.snapshot.cycle_s / PEAK_TAU_S)))
    learnt = ForecastMemory(
        samples, tuple(waiting), level_loss, trend_loss, growth_loss, round(doubted, 6), round(scored, 3), peak
    )
    return learnt, line


def _score(losses: Triple, prediction: Prediction, actual: float) -> Triple:
    """Add each candidate's squared log error; what is older counts less.

    Each is judged as it is planned with, never below the level: how deep a fall goes is not what a trend is for, and
    one that foresaw 2 of 9 requests/s at the bottom of an ebb must not be unheard when the flood comes.
    """
    truth = math.log(actual + FLOOR)
    said = (prediction.level, max(prediction.level, prediction.trend), max(prediction.level, prediction.growth))
    level, trend, growth = (
        loss * SCORE_DECAY + (truth - math.log(value + FLOOR)) ** 2 for loss, value in zip(losses, said, strict=True)
    )
    return level, trend, growth


def _doubted(mix: Triple, prediction: Prediction, actual: float) -> float:
    """The mixture's squared log error, in units of how uncertain that moment was."""
    said = (prediction.level, prediction.trend, prediction.growth)
    # What is planned for is never below the level: a fall that ends early costs nothing.
    mixed = max(said[0], sum(weight * value for weight, value in zip(mix, said, strict=True)))
    return math.log((actual + FLOOR) / (mixed + FLOOR)) ** 2 / disagreement(said)


def disagreement(said: Triple) -> float:
    """How much less certain a moment is at which the candidates differ: 1 where they agree, 5 where 27 % apart.

    Only upwards, where errors hurt. A fleet on a ramp errs more than one on a plateau; without this the ramp's errors
    would be paid for all day.
    """
    apart = max(0.0, math.log((said[2] + FLOOR) / (said[0] + FLOOR)))
    return 1.0 + (apart / PRIOR_SIGMA) ** 2


def _prediction_is_due(waiting: Sequence[Prediction], horizon_s: float, now_s: float) -> bool:
    return not waiting or now_s - waiting[-1].made_at >= horizon_s / PER_HORIZON


def trend_window_s(horizon_s: float) -> float:
    """How far back the line looks: twice the horizon, so that it is extrapolated by half its length."""
    return clip(2.0 * horizon_s, 120.0, 900.0)


def _append(samples: tuple[DemandSample, ...], new: DemandSample, horizon_s: float) -> tuple[DemandSample, ...]:
    """Keep the newest sample always, older ones at even spacing over the trend's window."""
    window_s = trend_window_s(horizon_s)
    kept = samples
    if len(kept) >= 2 and new.at - kept[-2].at < window_s / (KEPT_SAMPLES - 4):
        kept = kept[:-1]
    start = 0
    while start < len(kept) and kept[start].at < new.at - window_s:
        start += 1
    return (*kept[start:], new)[-KEPT_SAMPLES:]


def fit(samples: Sequence[DemandSample], horizon_s: float, now_s: float, rate_window_s: float) -> Line:
    """The level now, and slopes over about a horizon and over about a rate window."""
    newest = samples[-1].requests_per_second
    span_s = samples[-1].at - samples[0].at
    if len(samples) < 4 or span_s < 0.5 * rate_window_s:
        return Line(newest, 0.0, 0.0)
    long_s = clip(0.7 * horizon_s, rate_window_s, 450.0)
    mean, slope, kept = _slope(samples, now_s, long_s, rate_window_s)
    _, late_slope, late_kept = _slope(samples, now_s, 0.5 * rate_window_s, rate_window_s)
    # Without a significant slope what differs from the mean is noise; with one, the newest value is what holds.
    trusted = max(kept, late_kept)
    level = trusted * newest + (1.0 - trusted) * mean
    return Line(level, kept * slope, late_kept * late_slope)


def _slope(
    samples: Sequence[DemandSample], now_s: float, tau_s: float, rate_window_s: float
) -> tuple[float, float, float]:
    """(mean, slope, how far the slope stands out of its own error 0..1), newer samples weighing more."""
    s_w = s_x = s_y = s_xx = s_xy = s_yy = 0.0
    for sample in samples:
        x, y = sample.at - now_s, sample.requests_per_second
        w = math.exp(x / tau_s)
        s_w, s_x, s_y = s_w + w, s_x + w * x, s_y + w * y
        s_xx, s_xy, s_yy = s_xx + w * x * x, s_xy + w * x * y, s_yy + w * y * y
    mean_x, mean_y = s_x / s_w, s_y / s_w
    spread = max(1e-9, s_xx / s_w - mean_x * mean_x)
    slope = (s_xy / s_w - mean_x * mean_y) / spread
    # Rates over a window overlap when read every few seconds: only span / window of them are independent.
    independent = max(1.0, min(-samples[0].at + now_s, 2.0 * tau_s) / rate_window_s)
    residual = max(0.0, s_yy / s_w - mean_y * mean_y - slope * slope * spread)
    error = max(residual, mean_y / rate_window_s) / independent / spread
    kept = slope * slope / (slope * slope + 2.0 * error) if slope else 0.0
    return mean_y, slope, kept


def weights(memory: ForecastMemory) -> Triple:
    """Each candidate's share, by the inverse square of its loss; the first beliefs fade as scores come in."""
    prior = PRIOR_WEIGHT * PRIOR_SIGMA * PRIOR_SIGMA
    fade = PRIOR_WEIGHT / (PRIOR_WEIGHT + memory.scored)
    losses = (memory.level_loss, memory.trend_loss, memory.growth_loss)
    level, trend, growth = (belief**fade / (loss + prior) ** 2 for belief, loss in zip(UNSCORED, losses, strict=True))
    total = level + trend + growth
    return level / total, trend / total, growth / total


def spread_of(memory: ForecastMemory, said: Triple) -> float:
    """Root mean square of log(actual / forecast) to expect now: the record, times the present doubt."""
    usual = (memory.doubt_loss + PRIOR_WEIGHT * PRIOR_SIGMA * PRIOR_SIGMA) / (memory.scored + PRIOR_WEIGHT)
    return math.sqrt(usual * disagreement(said))


def mixture(mix: Triple, line: Line, ahead_s: float) -> float:
    """The forecast `ahead_s` from now, requests/s."""
    return sum(weight * value for weight, value in zip(mix, line.candidates(ahead_s), strict=True))


def _say(draft: Draft, memory: ForecastMemory, line: Line | None, horizon_s: float, cycle: Cycle) -> None:
    """What is expected; `line` None: nothing was learnt now, and the samples are of earlier cycles."""
    draft.mix = mix = weights(memory)
    draft.sigma = draft.calm_sigma = PRIOR_SIGMA
    if not memory.samples or abs(cycle.now_s - memory.samples[-1].at) > trend_window_s(horizon_s):
        return  # samples from before a night at zero, or before an outage, say nothing about now
    line = draft.line = line or fit(memory.samples, horizon_s, cycle.now_s, cycle.snapshot.rate_window_s)
    expected = mixture(mix, line, horizon_s)
    if draft.demand.quality == "partial":
        expected = max(expected, draft.demand.rate)
    draft.sigma = spread_of(memory, line.candidates(horizon_s))
    draft.moving = abs(expected - line.level) > STEADY * line.level
    draft.steady = not draft.moving and memory.scored >= PRIOR_WEIGHT
    draft.calm_sigma = draft.sigma / math.sqrt(disagreement(line.candidates(horizon_s)))
    spread = math.exp(1.96 * min(draft.sigma, WIDEST_SIGMA))
    names = ("level", "trend", "growth")
    method = names[mix.index(max(mix))] if line.slope or line.late_slope else "level"
    draft.forecast = Forecast(
        round(horizon_s, 1),
        round(expected, 3),
        round(expected / spread, 3),
        round(expected * spread, 3),
        method if memory.scored > 0.0 else "prior",
    )


def expected_at(draft: Draft, ahead_s: float) -> float:
    """Requests/s expected over the next `ahead_s`: the higher of now and then, because both must be carried.

    Partial demand is not learnt from, so the line stays behind; what arrives now still counts, and may raise.
    """
    line, rate = draft.line, draft.demand.rate
    if line is None:
        return rate
    known = max(line.level, mixture(draft.mix, line, ahead_s))
    return max(known, rate) if draft.demand.quality == "partial" else known
