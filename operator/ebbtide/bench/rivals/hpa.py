"""The stage behind a desired count: how a Kubernetes HorizontalPodAutoscaler (1.37) turns it into replicas.

Source: autoscaling/v2 `behavior` and `pkg/controller/podautoscaler/horizontal.go`. In this order: tolerance, windows
(up: the least recommendation of the window, down: the greatest), rate limits from the count at the start of their
period, bounds. KEDA and llm-d's guides end in this stage; rivals differ by its windows and limits.
"""

import math

import msgspec

from ebbtide.bench.case import Case
from ebbtide.bench.rivals.parts import Window, bounded, ceil_of

PERIOD_S = 15.0
TOLERANCE = 0.1


class Limit(msgspec.Struct, frozen=True):
    """How far a count may move in one period: the wider of `pods` and `percent` of the count at its start."""

    pods: int = 0
    percent: float = 0.0
    period_s: float = PERIOD_S

    def reach(self, start: int) -> int:
        """The greatest change up from `start`: 4 pods or 100 % of 3 are 4, of 9 they are 9."""
        return max(self.pods, ceil_of(start * self.percent / 100.0))

    def depth(self, start: int) -> int:
        """The greatest change down from `start`; what a percentage leaves over is rounded down: half of 5 is 3."""
        left = math.floor(start * (1.0 - self.percent / 100.0))
        return max(self.pods, start - left)


class Behaviour(msgspec.Struct, frozen=True):
    """Windows in seconds and rate limits of both directions; the defaults are Kubernetes' own."""

    up_window_s: float = 0.0
    down_window_s: float = 300.0
    up: Limit = Limit(pods=4, percent=100.0)
    down: Limit = Limit(percent=100.0)


def average_value(total: float, target: float, current: int) -> int:
    """Replicas for a metric of type AverageValue, tolerance included.

    total 33 at a target of 16: 3 replicas from 1, but 2 stay 2 (33 / 32 is within 10 %).
    """
    if current > 0 and 1.0 - TOLERANCE <= total / (target * current) <= 1.0 + TOLERANCE:
        return current
    return ceil_of(total / target)


class Stage:
    """The behaviour of one autoscaler over time. It remembers its recommendations and its own changes."""

    def __init__(self, case: Case, behaviour: Behaviour | None = None) -> None:
        self._case = case
        self._behaviour = behaviour or Behaviour()
        self._ups = Window(self._behaviour.up_window_s)
        self._downs = Window(self._behaviour.down_window_s)
        self._changes: list[tuple[float, int]] = []

    def settle(self, now_s: float, current: int, desired: int) -> int:
        """The replicas to ask for at `now_s`, given `current` asked for and the metrics' `desired` count."""
        stable = self._stabilised(now_s, current, desired)
        allowed = bounded(self._case, self._limited(now_s, current, stable))
        if allowed != current:
            self._changes.append((now_s, allowed - current))
        return allowed

    def _stabilised(self, now_s: float, current: int, desired: int) -> int:
        if not len(self._downs):  # a controller that starts takes what it finds for its first recommendation
            self._ups.add(now_s, current)
            self._downs.add(now_s, current)
        self._ups.add(now_s, desired)
        self._downs.add(now_s, desired)
        return int(min(max(current, min(self._ups)), max(self._downs)))

    def _limited(self, now_s: float, current: int, wanted: int) -> int:
        up, down = self._behaviour.up, self._behaviour.down
        longest_s = max(up.period_s, down.period_s)
        self._changes = [change for change in self._changes if change[0] > now_s - longest_s]
        if wanted > current:
            start = self._count_at(now_s - up.period_s, current)
            return min(wanted, max(current, start + up.reach(start)))
        if wanted < current:
            start = self._count_at(now_s - down.period_s, current)
            return max(wanted, min(current, start - down.depth(start)))
        return current

    def _count_at(self, then_s: float, current: int) -> int:
        return current - sum(change for at_s, change in self._changes if at_s > then_s)
