"""How loads spread: around a forecast, by its own past errors; and over all that was seen, where they may jump to.

Both are histograms on a logarithmic scale, kept as bytes. From each follows, in closed form, what is missed on average
at a capacity, when misses grow with load^10 from the planned share at full load up to all of them.
"""

import math
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from operator import mul

from ebbtide.core.queueing import MISS_EXPONENT

LEAST_CAPACITY = 1e-9  # tokens/s, or of a forecast: its tenth power is still a number
FLOOR = 4.0  # tokens/s, an answer of 240 a minute: logarithms of less would only score noise


class Scale:
    """`count` bins, `step` apart in the logarithm, the first at `first`."""

    def __init__(self, first: float, step: float, count: int) -> None:
        self.first, self.step, self.count = first, step, count
        self.values = [math.exp(first + step * i) for i in range(count)]
        self.powers = [value ** (MISS_EXPONENT + 1.0) for value in self.values]
        self._packed = struct.Struct(f"<{count}f")

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


class Spread:
    """A distribution of loads, ready to be asked. `weights` need not add up to 1."""

    __slots__ = ("_high", "_low", "_scale", "_seen", "mean")

    def __init__(self, scale: Scale, weights: Sequence[float]) -> None:
        total = sum(weights) or 1.0
        shares = [weight / total for weight in weights]
        self._scale = scale
        # sums over the bins from the lowest on: share, share x load, share x load^11
        self._seen: list[float] = [0.0, *accumulate(shares)]
        self._high: list[float] = [0.0, *accumulate(map(mul, shares, scale.values))]
        self._low: list[float] = [0.0, *accumulate(map(mul, shares, scale.powers))]
        self.mean = self._high[-1]

    def missed(self, capacity: float, planned: float, least: int = 0) -> float:
        """Mean of load x min(1, planned x (load / capacity)^10), over the bins from `least` on (see `first_above`).

        Always 1 at a capacity of 1 and 1 % planned: 0.01. Half the time 2: it misses 2 x min(1, 10.24), so 1.0 in all.
        """
        scale = self._scale
        capacity = max(capacity, LEAST_CAPACITY)
        edge = math.log(capacity) - math.log(planned) / MISS_EXPONENT  # above it everything is missed
        index = int((edge - scale.first) / scale.step + 1.0) if edge > scale.first else 0
        index = min(index, scale.count)
        if index <= least:
            return self.mean - self._high[least]
        partly: float = planned * (self._low[index] - self._low[least]) * capacity**-MISS_EXPONENT
        return partly + self.mean - self._high[index]

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
        return self._seen[index] + (self._seen[index + 1] - self._seen[index]) * (place - index)

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


ERRORS = Scale(-2.4, 0.1, 49)  # log(load / forecast): a tenth to eleven times
LOADS = Scale(math.log(FLOOR), 0.2, 80)  # log of tokens/s: 4 to 29 million
