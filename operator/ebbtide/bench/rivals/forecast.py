"""Hourly forecast with a reactive patch: the scheme of several papers, in our own version and labelled as such.

Not a project's code. Once an hour it says what the hour's busiest quarter will be: yesterday's at this hour, times how
the hour before compares with the hour before yesterday (kept within half and double); without a yesterday the busiest
quarter of the last two hours. The patch: when more arrives now than was said, what arrives now counts, and for five
minutes afterwards. Yesterday 10 requests/s at this hour and 8 in the hour before, 6 today: 10 x 6 / 8 = 7.5.
"""

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Knob, Observation, Rival
from ebbtide.bench.rivals.parts import Window, bounded, ceil_of
from ebbtide.bench.rivals.pastload import DAY_HOURS, HOUR_S, NOTE, PastLoad, replicas_for, untrained

PATCH_S = 300.0
FURTHEST = 2.0


class Forecast:
    """The hour's forecast, raised by what arrives."""

    period_s = 15.0

    def __init__(self, case: Case, multiple: float) -> None:
        self._case, self._multiple = case, multiple
        self._lead_s = max(case.startup_s) + self.period_s
        self._past = PastLoad()
        self._arrived = Window(PATCH_S)
        self._said: dict[int, float | None] = {}

    def decide(self, seen: Observation) -> int | None:
        """Replicas for the greatest of this hour, the hour a start-up ahead, and arrivals of the last minutes."""
        self._past.learn(seen.history)
        self._arrived.add(seen.now_s, seen.arrivals_per_s)
        peak = self._past.training_peak()
        if peak is None:
            return None
        hours = {int(at_s // HOUR_S) for at_s in (seen.now_s, seen.now_s + self._lead_s)}
        rate = max([*self._arrived, *(said for hour in hours if (said := self._say(hour)) is not None)])
        return bounded(self._case, ceil_of(self._multiple * replicas_for(self._case, rate, peak)))

    def _say(self, hour: int) -> float | None:
        """The hour's forecast, made once; an hour further on it stands, whatever comes."""
        if hour not in self._said:
            self._said = {kept: rate for kept, rate in self._said.items() if kept >= hour - 1}
            self._said[hour] = self.expect(hour)
        return self._said[hour]

    def expect(self, hour: int) -> float | None:
        """Requests/s of that hour's busiest quarter, from what was seen before it; None where nothing was."""
        yesterday = self._past.hour(hour - DAY_HOURS)
        before, then = self._past.hour(hour - 1), self._past.hour(hour - 1 - DAY_HOURS)
        if yesterday is None:
            return max((rate for rate in (before, self._past.hour(hour - 2)) if rate is not None), default=None)
        if before is None or not then:
            return yesterday
        return yesterday * min(FURTHEST, max(1.0 / FURTHEST, before / then))


RIVALS = (
    Rival(
        "forecast",
        Knob("multiple of the forecast", 1.0, 0.02, 10.0, log=True),
        Forecast,
        f"our own version of a published scheme; {NOTE}; holds without training",
        untrained,
    ),
)
