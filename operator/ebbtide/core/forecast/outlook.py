"""What is expected at three horizons, as distributions of load that can be asked what a capacity would miss.

It is made from what a draft foresees and the service's memory when it is needed, and dropped: 10,000 are 200 MB.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ebbtide.core.forecast import record
from ebbtide.core.forecast.record import NOTHING
from ebbtide.core.forecast.spread import FLOOR, LOADS, Spread
from ebbtide.core.work import Draft

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
        near = self.median * self.around.missed(capacity / self.median, planned) if self.median > NOTHING else 0.0
        near *= 1.0 - self.jumps * loads.share_above(self.median)
        return near + self.jumps * loads.missed(capacity, planned, self.median)

    def below(self, loads: Spread, rate: float) -> float:
        """The chance that no more than `rate` requests/s come."""
        above = loads.share_above(self.median)
        near = self.around.below((rate + FLOOR) / (self.median + FLOOR))
        jumped = above - loads.share_above(max(rate, self.median))
        return (1.0 - self.jumps * above) * near + self.jumps * jumped

    def quantile(self, loads: Spread, share: float) -> float:
        """Requests/s that are not exceeded with this probability, within 10 %: the width of a bin."""
        low, high = math.log(self.median + FLOOR) - 3.0, math.log(max(self.median + FLOOR, loads.mean)) + 3.0
        for _ in range(6):
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


def look(draft: Draft) -> Outlook:
    """What is foreseen, as distributions.

    Arrivals above the range of what was to be expected now are taken for what comes, at once and at every horizon.
    """
    memory = draft.forecast_memory
    outlook = Outlook(
        [
            Horizon(ahead_s, median, record.around(record.open_track(track)), jumps)
            for (ahead_s, median, jumps), track in zip(draft.foreseen, memory.tracks, strict=True)
        ],
        Spread(LOADS, LOADS.unpack(memory.loads)),
    )
    now = draft.demand.work
    if outlook.horizons[0].below(outlook.loads, now) > 1.0 - RANGE:
        for each in outlook.horizons:
            each.median = max(each.median, now)
    return outlook


def in_figures(outlook: Outlook) -> tuple[float, float, float, float]:
    """(seconds ahead, expected, low, high), as status shows them."""
    main, loads = outlook.main, outlook.loads
    expected = main.expected(loads)
    low, high = main.quantile(loads, RANGE), main.quantile(loads, 1.0 - RANGE)
    return round(main.ahead_s, 1), round(expected, 3), round(min(expected, low), 3), round(max(expected, high), 3)
