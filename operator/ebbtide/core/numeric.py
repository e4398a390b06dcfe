"""Small mathematics that several steps share. Knows nothing about services or pods."""

import math
from collections.abc import Sequence
from functools import lru_cache

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


def share_above(buckets: Sequence[tuple[float, float]], limit: float) -> float | None:
    """Share of observations above `limit` (seconds), from cumulative (upper bound, rate) buckets; None without any.

    Inside the bucket that holds the limit observations count as evenly spread: with 90 at or below 0.05 s and 10 more
    up to 0.1 s, the share above 0.075 s is 5 %. Of the last, unbounded bucket everything is above.
    """
    if not buckets or buckets[-1][1] <= 0.0:
        return None
    total = buckets[-1][1]
    below_bound, below_rate = 0.0, 0.0
    for bound, rate in buckets:
        if bound >= limit:
            width = bound - below_bound
            inside = 0.0 if math.isinf(bound) or width <= 0.0 else (limit - below_bound) / width
            covered = below_rate + inside * (rate - below_rate)
            return min(1.0, max(0.0, 1.0 - covered / total))
        below_bound, below_rate = bound, rate
    return 0.0


def median(values: Sequence[float]) -> float:
    """The upper median of a non-empty sequence: cautious by half a rank where the number is even."""
    return sorted(values)[len(values) // 2]


def clip(value: float, low: float, high: float) -> float:
    """`value` kept inside low..high."""
    return low if value < low else min(value, high)


def significant(value: float) -> float:
    """Four to six significant digits, so that remembered numbers stay short: 12.345678 -> 12.346."""
    return round(value, 3) if value >= 1.0 else round(value, 6)
