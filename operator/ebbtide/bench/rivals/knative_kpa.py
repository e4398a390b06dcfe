"""Knative's pod autoscaler (KPA): concurrency over a stable and a panic window.

Source: Knative Serving `pkg/autoscaler/scaling`, as of autumn 2026, at its defaults. Each 2 s, with R = max(1, ready)
and total concurrency averaged over 60 s (stable) and 6 s (panic), target 70 a replica (70 % of 100):

    stable = ceil(60 s mean / 70), panic = ceil(6 s mean / 70), each kept in floor(R / 2) .. 1000 R

Panic begins where the raw panic count is at least 2 R, lasts until 60 s after that was last true, and never lowers: the
greatest count since it began stands. A start with more than one replica begins in panic. 4 ready, means 350 and 590:
5 and 9; 9 / 4 is panic, 9 replicas. No data: hold.
"""

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Observation, Rival
from ebbtide.bench.rivals.parts import Window, bounded, ceil_of, running, sensitivity, waiting

TARGET = 70.0
STABLE_S = 60.0
PANIC_S = 6.0
PANIC_AT = 2.0
MOST_UP = 1000


class KnativeKpa:
    """Both windows and the panic state."""

    period_s = 2.0
    scrape_s = 2.0

    def __init__(self, case: Case, sensitivity: float) -> None:
        self._case, self._sensitivity = case, sensitivity
        self._stable, self._panic = Window(STABLE_S), Window(PANIC_S)
        self._panic_since_s: float | None = None
        self._most = 0
        self._started = False

    def decide(self, seen: Observation) -> int | None:
        """One tick; None without data."""
        if not self._started:
            self._started = True
            self._panic_since_s, self._most = (seen.now_s, seen.ready) if seen.ready > 1 else (None, 0)
        if not seen.replicas:
            return None
        concurrency = self._sensitivity * (running(seen) + waiting(seen))
        self._stable.add(seen.now_s, concurrency)
        self._panic.add(seen.now_s, concurrency)
        return bounded(self._case, self._scale(seen.now_s, max(1, seen.ready)))

    def _scale(self, now_s: float, ready: int) -> int:
        stable, panic = ceil_of(self._stable.mean() / TARGET), ceil_of(self._panic.mean() / TARGET)
        if panic / ready >= PANIC_AT:
            self._panic_since_s = now_s
        elif self._panic_since_s is not None and self._panic_since_s + STABLE_S < now_s:
            self._panic_since_s, self._most = None, 0
        stable, panic = (max(ready // 2, min(count, MOST_UP * ready)) for count in (stable, panic))
        if self._panic_since_s is None:
            return stable
        self._most = max(self._most, stable, panic)
        return self._most


RIVALS = (
    Rival(
        "knative-kpa",
        sensitivity(0.15, 150.0),
        KnativeKpa,
        "concurrency is the engines' gauges each 2 s; the original's proxy reports the mean of each second",
    ),
)
