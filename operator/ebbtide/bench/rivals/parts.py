"""Small parts that several rivals share: a window over time, gauges summed over replicas, whole replicas in bounds.

Nothing here decides; each rival says in its own file how it uses them.
"""

import math
from collections import deque
from collections.abc import Iterator

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Knob, Observation

ROUNDING = 1e-9  # 0.7 / 0.1 is 6.999999999999999, and 3 * 1.1 is 3.3000000000000003: noise is no replica
MOST = 1e9  # beyond any bound: a division by next to nothing is no error, and the case's maximum says what it means


def ceil_of(value: float) -> int:
    """The next whole number at or above `value`, binary noise left out: ceil_of(3.0000000001) is 3."""
    return math.ceil(min(value, MOST) - ROUNDING)


def floor_of(value: float) -> int:
    """The next whole number at or below `value`, binary noise left out: floor_of(0.7 / 0.1) is 7."""
    return math.floor(min(value, MOST) + ROUNDING)


def bounded(case: Case, replicas: int) -> int:
    """`replicas` inside the case's bounds."""
    return max(case.min_replicas, min(replicas, case.max_replicas))


def sensitivity(low: float, high: float) -> Knob:
    """The knob of rivals that compare a load with a target: the load counts this many times; 1 is as published.

    A target of 16 requests a replica at a sensitivity of 0.5 acts like a target of 32.
    """
    return Knob("sensitivity", 1.0, low, high, log=True)


def running(seen: Observation) -> float:
    """Requests in the batches of all replicas with metrics."""
    return sum(replica.running for replica in seen.replicas)


def waiting(seen: Observation) -> float:
    """Requests queued in the engines of all replicas with metrics."""
    return sum(replica.waiting for replica in seen.replicas)


class Window:
    """Values of the last `span_s` seconds: those later than now - span. Times must not go back."""

    def __init__(self, span_s: float) -> None:
        self.span_s = span_s
        self._kept: deque[tuple[float, float]] = deque()

    def add(self, now_s: float, value: float) -> None:
        """Take `value` in and let go of what is too old; the newest always stays, also with a span of 0."""
        self._kept.append((now_s, value))
        self.forget(now_s)

    def forget(self, now_s: float) -> None:
        """Let go of what is too old at `now_s`, all but the newest."""
        while len(self._kept) > 1 and self._kept[0][0] <= now_s - self.span_s:
            self._kept.popleft()

    def __iter__(self) -> Iterator[float]:
        return (value for _, value in self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def mean(self) -> float:
        """Mean of what is kept; 0 when empty."""
        return math.fsum(self) / len(self._kept) if self._kept else 0.0
