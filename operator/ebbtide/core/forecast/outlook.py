"""What is expected at three horizons, as distributions of load that can be asked what a capacity would miss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ebbtide.core.forecast.spread import FLOOR, Spread

RANGE = 0.025  # of what came was below `low` of a forecast, and as much above `high`


@dataclass(slots=True)
class Horizon:
    """One horizon: `around` the median by past errors or, at a chance of `jumps`, at a higher load seen before."""

    ahead_s: float
    median: float  # requests/s
    around: Spread
    jumps: float

    def expected(self, loads: Spread) -> float:
        """Mean requests/s."""
        near = 1.0 - self.jumps * loads.share_above(self.median)
        return near * self.median * self.around.mean + self.jumps * loads.mean_above(self.median)

    def missed(self, loads: Spread, capacity: float, planned: float) -> float:
        """Mean requests/s that miss an objective at a capacity in requests/s."""
        if capacity <= 0.0:
            return self.expected(loads)
        near = self.median * self.around.missed(capacity / self.median, planned) if self.median > 0.0 else 0.0
        near *= 1.0 - self.jumps * loads.share_above(self.median)
        return near + self.jumps * loads.missed(capacity, planned, self.median)

    def below(self, loads: Spread, rate: float) -> float:
        """The chance that no more than `rate` requests/s come."""
        above = loads.share_above(self.median)
        near = self.around.below((rate + FLOOR) / (self.median + FLOOR))
        jumped = above - loads.share_above(max(rate, self.median))
        return (1.0 - self.jumps * above) * near + self.jumps * jumped

    def quantile(self, loads: Spread, share: float) -> float:
        """Requests/s that are not exceeded with this probability; within 2 %."""
        low, high = math.log(FLOOR) - 1.0, 12.0
        for _ in range(10):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.below(loads, math.exp(middle)) < share else (low, middle)
        return math.exp(high)


@dataclass(slots=True)
class Outlook:
    """The horizons, nearest first, and the loads that a jump may lead to."""

    horizons: Sequence[Horizon]
    loads: Spread

    @property
    def main(self) -> Horizon:
        """When a replica that is started now is ready."""
        return self.horizons[1]

    def misses(self, capacity: float, planned: float, backlog: float = 0.0) -> tuple[float, ...]:
        """Requests/s that miss at each horizon; `backlog` requests/s of capacity are taken up by what already waits."""
        last = len(self.horizons) - 1
        return tuple(
            horizon.missed(self.loads, capacity - (backlog if index < last else 0.0), planned)
            for index, horizon in enumerate(self.horizons)
        )
