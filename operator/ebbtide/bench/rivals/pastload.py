"""What past traffic tells rivals that plan by the clock: the busiest quarter of each hour, and a unit for a replica.

These rivals know rates; what a replica carries their user has measured (`case.carries`), and the knob corrects it.
Where nobody has, `max_replicas` was sized for the busiest quarter of an hour of the training days, so that one replica
stands for 1 / max_replicas of that rate.
"""

from collections.abc import Sequence

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Minute

HOUR_S = 3600.0
QUARTER_S = 900.0
DAY_HOURS = 24
NOTE = "a replica carries what was measured with the traffic's own lengths"


def replicas_for(case: Case, per_s: float, peak_per_s: float) -> float:
    """Replicas, in any fraction, that `per_s` needs; `peak_per_s` is the training days' busiest quarter.

    9 requests/s at 4 measured for each need 2.25; unmeasured, with a peak of 12 and at most 10: 7.5.
    """
    if case.carries is not None:
        return per_s / case.carries.per_s
    return per_s / peak_per_s * case.max_replicas


def untrained(case: Case, training: Sequence[Minute], length_s: float) -> str:
    """Why who plans by the clock holds throughout; empty where training saw any request."""
    return "" if any(minute.requests > 0.0 for minute in training) else "held: no training"


class PastLoad:
    """Requests per second of past quarters of an hour, taken in minute by minute."""

    def __init__(self) -> None:
        self._requests: dict[int, float] = {}
        self._minutes: dict[int, int] = {}
        self._last_s = float("-inf")

    def learn(self, history: Sequence[Minute]) -> None:
        """Take in the minutes that came since the last call; `history` is oldest first."""
        fresh = len(history)
        while fresh and history[fresh - 1].start_s > self._last_s:
            fresh -= 1
        for minute in history[fresh:]:
            quarter = int(minute.start_s // QUARTER_S)
            self._requests[quarter] = self._requests.get(quarter, 0.0) + minute.requests
            self._minutes[quarter] = self._minutes.get(quarter, 0) + 1
        if history:
            self._last_s = history[-1].start_s

    def quarter(self, index: int) -> float | None:
        """Mean requests/s of that quarter of an hour (900 s from `index` x 900); None where nothing was seen."""
        minutes = self._minutes.get(index, 0)
        return self._requests[index] / (60.0 * minutes) if minutes else None

    def hour(self, index: int) -> float | None:
        """Requests/s of the busiest quarter of that hour (3600 s from `index` x 3600); None where nothing was seen."""
        rates = [self.quarter(4 * index + part) for part in range(4)]
        return max((rate for rate in rates if rate is not None), default=None)

    def training_peak(self) -> float | None:
        """Requests/s of the busiest quarter before second 0; None without training, or where nothing ever came."""
        return max((self.quarter(index) or 0.0 for index in self._minutes if index < 0), default=0.0) or None

    def training_mean(self) -> float | None:
        """Mean requests/s before second 0; None without training."""
        minutes = sum(count for index, count in self._minutes.items() if index < 0)
        total = sum(count for index, count in self._requests.items() if index < 0)
        return total / (60.0 * minutes) if minutes else None
