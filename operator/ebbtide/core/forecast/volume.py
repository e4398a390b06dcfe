"""How errors of a forecast shrink with volume: counting noise and bursts of few users do, errors of the model do not.

    variance of a log error at x tokens/s = m + c / x = m (1 + r / x)

The variance of a sum of independent bursts grows with its mean (its Fano factor stays), so relative errors fall with
1 / sqrt(x); what all users do at once does not. m and c follow from the squares of errors and the volumes at which they
were made, by weighted least squares with c drawn towards 0. Errors are kept as if all had been made at one volume, the
typical one of late, so that those of a night at 200 tokens/s, off by a factor of 2.5, do not widen the range of a
morning at 4,000, off by 1.6.
"""

import math
from collections.abc import Sequence

SUMS = 6
MEMORY_S = 2 * 86_400.0
TOWARDS_NONE = 4.0  # independent errors that speak for c = 0
LEAST_MODEL = 0.1  # of the mean square: so much of it never shrinks
LEAST, MOST = 0.3, 1.5  # how far errors are drawn together or stretched
_LITTLE = 1e-12  # a variance that is none
APART = 0.7  # in the logarithm: from so far away errors are brought to the typical volume


def ratio(sums: Sequence[float]) -> float:
    """r in tokens/s: the volume at which both parts are alike; 0 where errors do not shrink with volume."""
    weight, inverse, inverses, square, product, _ = sums
    if weight <= 0.0 or square <= 0.0:
        return 0.0
    mean = inverse / weight
    spread = weight * (inverses + TOWARDS_NONE * mean * mean) - inverse * inverse
    if spread <= 0.0:
        return 0.0
    noise = max(0.0, (weight * product - inverse * square) / spread)
    model = max((square - noise * inverse) / weight, LEAST_MODEL * square / weight)
    return noise / max(model, _LITTLE)


def stretch(share: float, volume: float, typical: float) -> float:
    """How many times as large errors are at `volume` as at the `typical` one (tokens/s), where `share` is r."""
    if share <= 0.0 or typical <= 0.0:
        return 1.0
    return min(MOST, max(LEAST, math.sqrt((1.0 + share / volume) / (1.0 + share / typical))))


def learn(sums: Sequence[float], volume: float, error: float, weight: float, passed_s: float) -> list[float]:
    """The sums with one more log error at `volume`, `weight` of an independent one, `passed_s` after the last."""
    keep = math.exp(-passed_s / MEMORY_S)
    inverse = 1.0 / volume
    counts = weight / (1.0 + ratio(sums) * inverse) ** 2  # squares of large errors vary most
    square = error * error
    more = (1.0, inverse, inverse * inverse, square, square * inverse)
    learnt = [keep * old + counts * new for old, new in zip(sums, more, strict=False)]
    return [*learnt, sums[-1]]
