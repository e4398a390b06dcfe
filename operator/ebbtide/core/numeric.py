"""Small mathematics that several steps share. Knows nothing about services or pods."""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

_NORMAL = NormalDist()
_SQRT2 = math.sqrt(2.0)


def upper_tail(z: float) -> float:
    """P(Z > z) of a standard normal: upper_tail(2.33) is 0.0099."""
    return 0.5 * math.erfc(z / _SQRT2)


@lru_cache(maxsize=1024)
def tail_quantile(share: float) -> float:
    """The z with P(Z > z) = share, by bisection: tail_quantile(0.01) is 2.33. `share` is clipped to 1e-9..0.5."""
    share = min(0.5, max(1e-9, share))
    low, high = 0.0, 7.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        if upper_tail(middle) > share:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def share_above(buckets: Sequence[tuple[float, float]], limit: float, mean: float | None, count: float) -> float | None:
    """Share of `count` observations above `limit`, from cumulative (upper bound, rate) buckets; None without any.

    Inside the bucket that holds the limit the logarithm of what was observed counts as normal: through the shares at
    its bounds and, where it lies between them, through the mean, at which half is above. Of none above the upper bound
    half an observation is. With 900 of 1000 at or below 25 ms, 99 more up to 50 ms and a mean of 20 ms, 0.6 % are above
    40 ms; spread evenly 4 % would be. Where nothing was above the upper bound, the tail is at least as steep as it
    begins. Of the last, unbounded bucket everything is above.
    """
    if not buckets or buckets[-1][1] <= 0.0:
        return None
    total, below_bound, above_lower = buckets[-1][1], 0.0, 1.0
    for bound, rate in buckets:
        above = clip(1.0 - rate / total, 0.0, 1.0)
        if bound >= limit:
            if bound == limit or above_lower <= 0.0:
                return above
            if math.isinf(bound):
                return above_lower
            return _inside((below_bound, above_lower), (bound, above), limit, mean, 0.5 / max(1.0, count))
        below_bound, above_lower = bound, above
    return 0.0


def _inside(
    lower: tuple[float, float], upper: tuple[float, float], limit: float, mean: float | None, least: float
) -> float:
    """The share above `limit` between two (bound, share above it); see `share_above`."""
    between = mean is not None and lower[0] < mean < upper[0]
    if lower[0] <= 0.0 and not between:  # a logarithm has no zero: evenly spread
        return lower[1] + (upper[1] - lower[1]) * limit / upper[0]
    places = [(math.log(bound), _deviations(share, least)) for bound, share in (lower, upper) if bound > 0.0]
    if mean is not None and 0.0 < mean < upper[0] and mean != lower[0]:
        places.append((math.log(mean), 0.0))
    places.sort()
    at = math.log(limit)
    right = next(i for i, place in enumerate(places) if place[0] >= at)
    if right == 0:  # in the first bucket, below the mean
        return clip(1.0 - 0.5 * limit / (mean or limit), upper[1], lower[1])
    (x0, z0), (x1, z1) = places[right - 1], places[right]
    slope = (z1 - z0) / (x1 - x0)
    if upper[1] < least and right == len(places) - 1 and right > 1:
        (x00, z00) = places[right - 2]
        slope = max(slope, (z0 - z00) / (x0 - x00))
    share = upper_tail(z0 + slope * (at - x0))
    return clip(share, upper[1], lower[1])


def _deviations(share: float, least: float) -> float:
    """How many standard deviations above the median a share of `share` is beyond: 2.33 of 1 %."""
    return -_NORMAL.inv_cdf(clip(share, least, 1.0 - least))


def median(values: Sequence[float]) -> float:
    """The upper median of a non-empty sequence: cautious by half a rank where the number is even."""
    return sorted(values)[len(values) // 2]


def clip(value: float, low: float, high: float) -> float:
    """`value` kept inside low..high."""
    return low if value < low else min(value, high)


def significant(value: float) -> float:
    """Four to six significant digits, so that remembered numbers stay short: 12.345678 -> 12.346."""
    return round(value, 3) if value >= 1.0 else round(value, 6)
