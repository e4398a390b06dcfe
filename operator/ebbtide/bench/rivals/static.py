"""Fleets that never change, from the training days alone: the peak's, and the mean's with 30 % on top.

Not a project: what most people run. Source: protocol of published comparisons (static-peak, static-mean x 1.3).
static-peak keeps `max_replicas`, which the user sized for the peak; its knob is the share of them that is kept.
static-mean keeps 1.3 times what the mean rate needs in the same unit: mean 4 and peak 10 requests/s with at most 10
replicas are ceil(1.3 x 4 / 10 x 10) = 6. Without training days it has nothing to go by and holds.
"""

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Knob, Observation, Rival
from ebbtide.bench.rivals.parts import bounded, ceil_of
from ebbtide.bench.rivals.pastload import PastLoad

HEADROOM = 1.3


class StaticPeak:
    """A share of `max_replicas`, for ever."""

    period_s = 15.0

    def __init__(self, case: Case, share: float) -> None:
        self._replicas = bounded(case, ceil_of(share * case.max_replicas))

    def decide(self, seen: Observation) -> int | None:
        """Always the same."""
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
                share = self._headroom * mean / peak
                self._replicas = bounded(self._case, ceil_of(share * self._case.max_replicas))
        return self._replicas


RIVALS = (
    Rival(
        "static-peak",
        Knob("share of max_replicas", 1.0, 0.01, 1.0, log=True),
        StaticPeak,
        "max_replicas is taken for what its user sized for the peak",
    ),
    Rival(
        "static-mean",
        Knob("headroom over the mean", HEADROOM, 0.02, 20.0, log=True),
        StaticMean,
        "one replica carries 1 / max_replicas of the busiest quarter of an hour in training; holds without training",
    ),
)
