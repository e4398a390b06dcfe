"""What is expected at three horizons, as distributions of load that can be asked what a capacity would miss.

It is made from what a draft foresees and the service's memory when it is needed, and dropped: 10,000 are 200 MB.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ebbtide.core.forecast import record
from ebbtide.core.forecast.record import NOTHING
from ebbtide.core.forecast.spread import FLOOR, LOADS, Misses, Spread
from ebbtide.core.parts import Parts
from ebbtide.core.work import Draft
from ebbtide.model.memory import TrackMemory

RANGE = 0.025  # of what came was below `low` of a forecast, and as much above `high`
RARE, LENIENT = 0.001, 0.01
FINE = 0.01  # of a logarithm: no range is known better


class Horizon:
    """One horizon: `around` the median by past errors or, at a chance of `jumps`, at a higher load seen before.

    It is kept in tokens/s, and asked and answers in requests/s of `length` tokens each.
    """

    __slots__ = ("_above", "_around", "_jumps", "_least", "_length", "_loads", "_median", "ahead_s", "expected")

    def __init__(
        self, ahead_s: float, median: float, around: Spread, jumps: float, loads: Spread, length: float
    ) -> None:
        self.ahead_s, self._median, self._length = ahead_s, median, length
        self._around, self._jumps, self._loads = around, jumps, loads
        self._least = loads.first_above(median)
        self._above = loads.share_above(median)
        near = (1.0 - jumps * self._above) * median * around.mean
        tokens = near + jumps * loads.mean_above(median)
        self.expected = tokens / length if tokens > NOTHING else 0.0  # mean requests/s

    def raised(self, rate: float) -> "Horizon":
        """The same around a median of at least so many requests/s."""
        median = rate * self._length
        if median <= self._median:
            return self
        return Horizon(self.ahead_s, median, self._around, self._jumps, self._loads, self._length)

    def missed(self, capacity: float, planned: float) -> float:
        """Mean requests/s that miss an objective at a capacity in requests/s."""
        if capacity <= 0.0:
            return self.expected
        carried = capacity * self._length
        missed = self._jumps * self._loads.missed(carried, planned, self._least) if self._above > 0.0 else 0.0
        return missed / self._length + self.missed_near(capacity, planned) * (1.0 - self._jumps * self._above)

    def missed_near(self, capacity: float, planned: float) -> float:
        """The same if the load does not jump."""
        if self._median <= NOTHING:
            return 0.0
        return self._median * self._around.missed(capacity * self._length / self._median, planned) / self._length

    def below(self, rate: float) -> float:
        """The chance that no more than `rate` requests/s come."""
        load = rate * self._length
        near = self._around.below((load + FLOOR) / (self._median + FLOOR))
        jumped = self._above - self._loads.share_above(max(load, self._median))
        return (1.0 - self._jumps * self._above) * near + self._jumps * jumped

    @property
    def expected_tokens(self) -> float:
        """The mean in tokens/s."""
        return self.expected * self._length

    def requests(self, tokens: float) -> float:
        """So many tokens/s in requests/s."""
        return tokens / self._length

    def at(self, share: float) -> float:
        """The logarithm of tokens/s + FLOOR that are not exceeded with this probability."""
        middle, jumps = math.log(self._median + FLOOR), self._jumps * self._above
        # without those that jump, all of which go up, it is at most this; with all of them above, no less than that
        high = middle + self._around.at(min(1.0, share / (1.0 - jumps)))
        if jumps <= 0.0 or high <= middle:
            return high
        low = middle + self._around.at(max(0.0, (share - jumps) / (1.0 - jumps)))
        if share > 1.0 - jumps:
            high = max(high, self._loads.at(1.0))
        while high - low > FINE:
            half = 0.5 * (low + high)
            jumped = max(0.0, self._above - 1.0 + self._loads.share_below(half))
            below = (1.0 - jumps) * self._around.share_below(half - middle) + self._jumps * jumped
            low, high = (half, high) if below < share else (low, half)
        return high


@dataclass(slots=True)
class Outlook:
    """The horizons, nearest first."""

    nearest: Horizon
    main: Horizon  # when a replica that is started now is ready
    far: Horizon
    if_noise: Horizon  # the main one, if what comes just now is only noise

    def misses(self, capacity: float, planned: float, backlog: float = 0.0) -> tuple[float, float, float]:
        """Requests/s that miss at each horizon; `backlog` requests/s of capacity are taken up by what already waits."""
        left = capacity - backlog
        return (
            self.nearest.missed(left, planned),
            self.main.missed(left, planned),
            self.far.missed(capacity, planned),
        )


def look(draft: Draft, misses: Misses, parts: Parts) -> Outlook:
    """What is foreseen, as distributions; `misses` says how they grow with load.

    A leap of the load is taken for what comes, at once and at every horizon.
    """
    memory, now = draft.forecast_memory, draft.demand.work
    seen = LOADS.unpack(memory.loads)
    loads = Spread(LOADS, seen, misses)
    kept = record.tracks_of(memory, len(draft.foreseen)) if parts.record else (TrackMemory(),) * len(draft.foreseen)
    tracks = [record.open_track(track) for track in kept]
    nearest_s, sure = draft.foreseen[0][0], record.deviation(tracks[0], draft.foreseen[0][1])
    horizons = []
    for (ahead_s, median, jumps), track in zip(draft.foreseen, tracks, strict=True):
        # the near one is scored first, and farther errors are believed to be those of a random walk from there
        around = record.around(track, misses, median, sure * math.sqrt(ahead_s / nearest_s))
        chance = jumps if parts.record else 0.0
        horizons.append(Horizon(ahead_s, median, around, chance, loads, draft.demand.length))
    if_noise = horizons[1]
    if _leapt(horizons[0], tracks[0], draft, seen):
        horizons = [horizon.raised(now) for horizon in horizons]
    nearest, main, far = horizons
    return Outlook(nearest, main, far, if_noise)


def _leapt(nearest: Horizon, track: record.Track, draft: Draft, loads: Sequence[float]) -> bool:
    """Whether what comes now is above the range of what was to be expected, and not for noise.

    Noise is above the range once in 40 minutes: three replicas for such a minute come when it is over. So the record
    must make a jump likelier, or what comes must be what noise brings once in a thousand. Where 0.1 % may miss, once in
    a hundred: a leap that is taken for noise costs ten times as much of what may.
    """
    below = nearest.below(draft.demand.work)
    if below <= 1.0 - RANGE:
        return False
    load = draft.demand.work * draft.demand.length
    allowed = 1.0 - draft.state.spec.objectives.attainment
    rare = min(RANGE, RARE * LENIENT / max(1e-9, min(LENIENT, allowed)))
    return below > 1.0 - rare or record.leapt(track, draft.foreseen[0][1], load, loads, nearest.ahead_s)
