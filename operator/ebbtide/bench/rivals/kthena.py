"""kthena's homogeneous autoscaler: requests in all pods against a target per pod, with a panic mode.

Source: kthena `pkg/autoscaler/algorithm` (recommendation.go, revision.go) and its policy defaults, as of autumn 2026.
Each 15 s: desired = ceil(sum / target). Panic begins at 100 desired >= 200 current and is held 60 s: up only, to 11
times the past count at most. Otherwise up by one or 100 % in 15 s at most, and down to the greatest recommendation of a
window. Windows have no default: none up and the guide's 5 min down are taken.

Quirk of the original, reproduced: what is scraped arrives as one sum, so the tolerance of 10 % compares the sum with
the target of one pod. A fleet whose whole load is about one pod's worth keeps its size, however large it is. With pods
starting, the sum is compared with 1 + starting pods' worth, and a count against the direction holds.
Target 10: a sum of 43 asks for 5; 10.5 holds any fleet. No metrics: hold.
"""

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Observation, Rival
from ebbtide.bench.rivals.parts import Window, bounded, ceil_of, running, sensitivity, waiting

TARGET = 10.0
TOLERANCE = 0.1
PANIC_AT = 2.0
PANIC_HOLD_S = 60.0
PANIC_GROWTH = 11
PERIOD_S = 15.0
DOWN_WINDOW_S = 300.0


def desired(total: float, current: int, unready: int) -> int:
    """The recommendation, before panic, windows and bounds; `total` is in pods' worth."""
    if total >= 1.0 and unready > 0:
        spread = total / (1 + unready)
        wanted = ceil_of(total)
        return current if spread <= 1.0 + TOLERANCE or wanted < current else wanted
    if abs(total - 1.0) <= TOLERANCE:
        return current
    return ceil_of(total)


class Kthena:
    """The recommendation and its correction by panic mode, windows and rates."""

    period_s = PERIOD_S

    def __init__(self, case: Case, sensitivity: float) -> None:
        self._case, self._sensitivity = case, sensitivity
        self._recommended = Window(DOWN_WINDOW_S)
        self._past = Window(PERIOD_S)
        self._panic_until_s = float("-inf")

    def decide(self, seen: Observation) -> int | None:
        """One sync; None without metrics."""
        if not seen.replicas:
            return None
        total = self._sensitivity * (running(seen) + waiting(seen)) / TARGET
        wanted = bounded(self._case, desired(total, seen.declared, seen.starting))
        if wanted >= PANIC_AT * seen.declared:
            self._panic_until_s = seen.now_s + PANIC_HOLD_S
        corrected = bounded(self._case, self._corrected(seen, wanted))
        self._recommended.add(seen.now_s, wanted)
        self._past.add(seen.now_s, corrected)
        return corrected

    def _corrected(self, seen: Observation, wanted: int) -> int:
        self._recommended.forget(seen.now_s)
        self._past.forget(seen.now_s)
        current = seen.declared
        past = int(min([current, *self._past]))
        if seen.now_s <= self._panic_until_s:
            return max(current, min(wanted, past * PANIC_GROWTH))
        if wanted > current:
            return max(current, min(wanted, past + max(1, past)))
        if wanted < current:
            return min(current, int(max([wanted, *self._recommended])))
        return current


RIVALS = (
    Rival(
        "kthena",
        sensitivity(0.02, 20.0),
        Kthena,
        "the guide's metric, requests waiting at a target of 10, is blind where engines batch without a queue: running "
        "and waiting requests stand in for it",
    ),
)
