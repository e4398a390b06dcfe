"""How loads spread: around a forecast, by its own past errors; and over all that was seen, where they may jump to.

Both are histograms on a logarithmic scale, kept as bytes. From each follows, in closed form, what is missed on average
at a capacity, when misses grow with a power of the load from the planned share at full load up to all of them.
"""

import functools
import math
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from ebbtide.core.edge import MISS_EXPONENT, MOST_STEEP

LEAST_CAPACITY = 1e-9  # tokens/s, or of a forecast: its tenth power is still a number
# Of the logarithm past what lasts, where a third more of all is missed each: batches that grow by a twentieth of what
# they finish are hardly full before further replicas serve, those that grow by a third long before.
RAMP = (0.08, 0.18, 0.28)
_STRETCHED_BY = 0.04  # of a logarithm, so that few scales are made
FLOOR = 4.0  # tokens/s, an answer of 240 a minute: logarithms of less would only score noise


class Scale:
    """`count` bins, `step` apart in the logarithm, the first at `first`."""

    def __init__(self, first: float, step: float, count: int) -> None:
        self.first, self.step, self.count = first, step, count
        self.values = [math.exp(first + step * i) for i in range(count)]
        self._powers: dict[float, list[float]] = {}
        self._packed = struct.Struct(f"<{count}f")

    def powers(self, exponent: float) -> list[float]:
        """The bins' loads to that power."""
        found = self._powers.get(exponent)
        if found is None:
            found = self._powers[exponent] = [value**exponent for value in self.values]
        return found

    def unpack(self, packed: bytes) -> list[float]:
        """Weights by bin; zeros for nothing, and for what another release packed."""
        return list(self._packed.unpack(packed)) if len(packed) == self._packed.size else [0.0] * self.count

    def pack(self, weights: Sequence[float]) -> bytes:
        """Four bytes a bin."""
        return self._packed.pack(*weights)

    def add(self, weights: list[float], value: float, weight: float) -> None:
        """Share `weight` between the two bins next to `value` (a logarithm)."""
        place = min(max((value - self.first) / self.step, 0.0), self.count - 1.0)
        index = int(place)
        share = place - index
        weights[index] += weight * (1.0 - share)
        if share > 0.0:
            weights[index + 1] += weight * share

    def density(self, weights: Sequence[float], value: float, least: int = 0) -> float:
        """The weight near `value`, smoothed over three bins, of those from `least` on."""
        index = round(min(max((value - self.first) / self.step, 0.0), self.count - 1.0))
        near = 0.5 * weights[index] if index >= least else 0.0
        near += 0.25 * (weights[index - 1] if index > least else 0.0)
        return near + 0.25 * (weights[index + 1] if least <= index + 1 < self.count else 0.0)

    def next_above(self, value: float) -> int:
        """The first bin clearly above `value`; `count` where there is none.

        The next one does not count: what comes just now is shared between two bins, and is no higher load.
        """
        return max(0, min(math.floor((value - self.first) / self.step) + 2, self.count))


@dataclass(frozen=True, slots=True)
class Misses:
    """How misses grow with load: as load^steep up to full load and beyond, and with load^10 past `hard` full loads.

    However soft an edge was seen to be below full load, beyond what the latency line promises nothing is carried, and
    past `last` full loads batches grow without end.
    """

    steep: float = MISS_EXPONENT
    hard: float = 1.0
    last: float = math.inf

    @property
    def rounded(self) -> float:
        """Few exponents, so that each power of a bin is worked out once."""
        return round(4.0 * min(self.steep, MOST_STEEP)) / 4.0


@functools.lru_cache(maxsize=64)
def _stretched(steps: int) -> Scale:
    by = math.exp(steps * _STRETCHED_BY)
    return Scale(ERRORS.first * by, ERRORS.step * by, ERRORS.count)


def stretched(by: float) -> Scale:
    """The scale of log errors that are `by` times as large, to 2 %."""
    steps = round(math.log(by) / _STRETCHED_BY)
    return _stretched(steps) if steps else ERRORS


class Spread:
    """A distribution of loads, ready to be asked. `weights` need not add up to 1."""

    __slots__ = ("_hard", "_high", "_last", "_past", "_scale", "_seen", "_soft", "_steep", "mean")

    def __init__(self, scale: Scale, weights: Sequence[float], misses: Misses = Misses()) -> None:
        self._steep, self._hard, self._last = misses.rounded, misses.hard, math.log(misses.last)
        total = sum(weights) or 1.0
        shares = [weight / total for weight in weights]
        self._scale = scale
        # sums over the bins from the lowest on: share, share x load, share x load^(steep + 1), share x load^11
        self._seen: list[float] = [0.0, *accumulate(shares)]
        self._high: list[float] = [0.0, *accumulate(map(mul, shares, scale.values))]
        self._soft: list[float] = [0.0, *accumulate(map(mul, shares, scale.powers(self._steep + 1.0)))]
        self._past = self._soft
        if self._steep < MISS_EXPONENT:
            self._past = [0.0, *accumulate(map(mul, shares, scale.powers(MISS_EXPONENT + 1.0)))]
        self.mean = self._high[-1]

    def missed(self, capacity: float, planned: float, least: int = 0) -> float:
        """Mean of load x share missed, over the bins from `least` on (see `first_above`).

        The share is planned x (load / capacity)^steep, the greater one past the hard edge, and at most 1; past what
        lasts RAMP leads to 1. Always 1 at a capacity of 1 and 1 % planned: 0.01. Half the time 2: with load^10 that
        half misses all, 1.0.
        """
        log = math.log(max(capacity, LEAST_CAPACITY))
        steep = max(self._steep, MISS_EXPONENT)
        hard = log + (math.log(self._hard) if self._steep < MISS_EXPONENT else 0.0)
        full = hard - math.log(planned) / steep  # above it everything is missed
        cross = full
        if self._steep < MISS_EXPONENT:
            full = min(full, log - math.log(planned) / self._steep)
            cross = min(full, (MISS_EXPONENT * hard - self._steep * log) / (MISS_EXPONENT - self._steep))
        low, high = planned * math.exp(-self._steep * log), planned * math.exp(-steep * hard)
        crossing, lasts, found = max(least, self._bins_below(cross)), log + self._last, 0.0
        ramp = RAMP if lasts + RAMP[0] + self._scale.step < full else RAMP[:1]  # else they all end at `full`
        for beyond in ramp:
            end, part = self._up_to(full, lasts + beyond, least)
            middle = min(end, crossing)
            soft = low * (self._soft[middle] - self._soft[least])
            past = high * (_at(self._past, end, part) - self._past[middle])
            found += soft + past + self.mean - _at(self._high, end, part)
        return found / len(ramp)

    def _up_to(self, full: float, lasts: float, least: int) -> tuple[int, float]:
        """(bins, part of the next one) in which not everything is missed.

        Where more comes than lasts, a bin's loads lie all over its width: what is missed must not leap as the edge
        moves from one to the next. Up to `full` the law itself leads to all.
        """
        place = (lasts - self._scale.first) / self._scale.step + 0.5
        if place + 0.5 >= (full - self._scale.first) / self._scale.step:
            return max(least, self._bins_below(full)), 0.0
        place = min(max(place, least), self._scale.count)
        return int(place), place - int(place)

    def _bins_below(self, log: float) -> int:
        place = (log - self._scale.first) / self._scale.step
        return min(self._scale.count, int(place + 1.0)) if place > 0.0 else 0

    def mean_above(self, floor: float) -> float:
        """Sum of share x load over loads clearly above `floor`."""
        return self.mean - self._high[self.first_above(floor)]

    def share_above(self, floor: float) -> float:
        """The share of loads clearly above `floor`."""
        return self._seen[-1] - self._seen[self.first_above(floor)]

    def first_above(self, floor: float) -> int:
        """The lowest bin clearly above `floor`; `count` where there is none."""
        return self._scale.next_above(math.log(floor)) if floor > 0.0 else 0

    def share_below(self, log: float) -> float:
        """The share of loads whose logarithm is at most `log`, each bin's spread evenly over its width."""
        place = (log - self._scale.first) / self._scale.step + 0.5
        index = math.floor(place)
        if index < 0:
            return 0.0
        if index >= self._scale.count:
            return self._seen[-1]
        return _at(self._seen, index, place - index)

    def at(self, share: float) -> float:
        """The logarithm of the load that `share` of all stay below: the inverse of `share_below`."""
        share *= self._seen[-1]
        index = max(1, bisect_left(self._seen, share))
        low, high = self._seen[index - 1], self._seen[index]
        part = min(1.0, max(0.0, (share - low) / (high - low))) if high > low else 1.0
        return self._scale.first + (index - 1.5 + part) * self._scale.step

    def below(self, value: float) -> float:
        """The share of loads that are at most `value`, in whole bins."""
        return self._seen[bisect_right(self._scale.values, value)]


def _at(sums: Sequence[float], index: int, part: float) -> float:
    """A sum up to a bin, and part of it."""
    return sums[index] + part * (sums[index + 1] - sums[index]) if part else sums[index]


ERRORS = Scale(-2.4, 0.1, 49)  # log(load / forecast): a tenth to eleven times
LOADS = Scale(math.log(FLOOR), 0.2, 80)  # log of tokens/s: 4 to 29 million
