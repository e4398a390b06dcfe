"""Fleets that never change, from the training days alone: the peak's, and the mean's with 30 % on top.

Not a project: what most people run. Source: protocol of published comparisons (static-peak, static-mean x 1.3).
static-peak keeps what the busiest quarter of an hour needs, static-mean 1.3 times what the mean rate needs: where a
replica carries 2 requests/s, a peak of 11 gets ceil(11 / 2) = 6 and a mean of 4 gets ceil(1.3 x 4 / 2) = 3. Without
training days, or where nobody has measured a replica, static-peak keeps `max_replicas` as sized for the peak; without
training static-mean has nothing to go by and holds.
"""

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Knob, Observation, Rival
from ebbtide.bench.rivals.parts import bounded, ceil_of
from ebbtide.bench.rivals.pastload import NOTE, PastLoad, replicas_for, untrained

HEADROOM = 1.3


class StaticPeak:
    """A multiple of what the training days' peak needs, for ever."""

    period_s = 15.0

    def __init__(self, case: Case, multiple: float) -> None:
        self._case, self._multiple = case, multiple
        self._replicas: int | None = None

    def decide(self, seen: Observation) -> int | None:
        """Always the same, known once the training days were read."""
        if self._replicas is None:
            past = PastLoad()
            past.learn(seen.history)
            peak = past.training_peak()
            need = float(self._case.max_replicas) if peak is None else replicas_for(self._case, peak, peak)
            self._replicas = bounded(self._case, ceil_of(self._multiple * need))
        return self._replicas


class StaticMean:
    """A multiple of what the mean rate of the training days needs, for ever."""

    period_s = 15.0

    def __init__(self, case: Case, headroom: float) -> None:
        self._case, self._headroom = case, headroom
        self._replicas: int | None = None

    def decide(self, seen: Observation) -> int | None:
        """The same once the training days were read; None without any."""
        if self._replicas is None:
            past = PastLoad()
            past.learn(seen.history)
            mean, peak = past.training_mean(), past.training_peak()
            if mean is not None and peak is not None:
                need = self._headroom * replicas_for(self._case, mean, peak)
                self._replicas = bounded(self._case, ceil_of(need))
        return self._replicas


RIVALS = (
    Rival(
        "static-peak",
        Knob("multiple of the peak's need", 1.0, 0.05, 5.0, log=True),
        StaticPeak,
        f"{NOTE}; without training max_replicas is taken for what its user sized for the peak",
    ),
    Rival(
        "static-mean",
        Knob("headroom over the mean", HEADROOM, 0.02, 20.0, log=True),
        StaticMean,
        f"{NOTE}; holds without training",
        untrained,
    ),
)
