"""A line through recent demand: the level now, and slopes that count as far as they stand out of their own error."""

import math
from collections.abc import Sequence

from ebbtide.core.numeric import clip
from ebbtide.core.work import Line
from ebbtide.model.memory import DemandSample

KEPT_SAMPLES = 30


def trend_window_s(horizon_s: float) -> float:
    """How far back the line looks: twice the horizon, so that it is extrapolated by half its length."""
    return clip(2.0 * horizon_s, 120.0, 900.0)


def tokens(sample: DemandSample) -> float:
    """Tokens/s, prompt tokens at their weight."""
    return sample.requests_per_second * sample.length


def append(samples: tuple[DemandSample, ...], new: DemandSample, horizon_s: float) -> tuple[DemandSample, ...]:
    """Keep the newest sample always, older ones at even spacing over the trend's window."""
    window_s = trend_window_s(horizon_s)
    kept = samples
    while kept and kept[-1].at > new.at:  # the clock was set back
        kept = kept[:-1]
    if len(kept) >= 2 and new.at - kept[-2].at < window_s / (KEPT_SAMPLES - 4):
        kept = kept[:-1]
    start = 0
    while start < len(kept) and kept[start].at < new.at - window_s:
        start += 1
    return (*kept[start:], new)[-KEPT_SAMPLES:]


def fit(samples: Sequence[DemandSample], horizon_s: float, now_s: float, rate_window_s: float) -> Line:
    """The level now, and slopes over about a horizon and over about a rate window."""
    newest = tokens(samples[-1])
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
        x, y = sample.at - now_s, tokens(sample)
        w = math.exp(x / tau_s)
        s_w, s_x, s_y = s_w + w, s_x + w * x, s_y + w * y
        s_xx, s_xy, s_yy = s_xx + w * x * x, s_xy + w * x * y, s_yy + w * y * y
    mean_x, mean_y = s_x / s_w, s_y / s_w
    spread = max(1e-9, s_xx / s_w - mean_x * mean_x)
    slope = (s_xy / s_w - mean_x * mean_y) / spread
    # Rates over a window overlap when read every few seconds: only span / window of them are independent.
    independent = max(1.0, min(-samples[0].at + now_s, 2.0 * tau_s) / rate_window_s)
    residual = max(0.0, s_yy / s_w - mean_y * mean_y - slope * slope * spread)
    length = max(1.0, samples[-1].length)  # requests come by chance, 64 are off by 8
    error = max(residual, mean_y * length / rate_window_s) / independent / spread
    kept = slope * slope / (slope * slope + 2.0 * error) if slope else 0.0
    return mean_y, slope, kept
