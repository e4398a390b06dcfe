"""AIBrix's own autoscaler (APA): KV cache usage against a target, in steps of at most double or half.

Source: AIBrix `pkg/controller/podautoscaler` (algorithm/apa.go and the controller's windows), as of autumn 2026, with
the metric, target 0.5 and 30 s window of its sample. Each 10 s, with rho = mean usage over pods and window / target:

    rho > 1.1: min(ceil(n rho), ceil(2 n));  rho < 0.9: max(ceil(n rho), floor(n / 2));  else n

Defect of the original: recommendations are stabilised the wrong way round, down to the *least* of 300 s (up: the
greatest of 0 s), so one dip pulls the fleet to the lowest count of five minutes. `aibrix-apa-corrected` goes down to
the greatest, as Kubernetes does. 4 replicas at usage 0.7: rho 1.4, ceil(5.6) = 6. No metrics: hold.
"""

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Observation, Rival
from ebbtide.bench.rivals.parts import Window, bounded, ceil_of, sensitivity

TARGET = 0.5
USAGE_WINDOW_S = 30.0
TOLERANCE = 0.1
MOST_FACTOR = 2.0
DOWN_WINDOW_S = 300.0


def desired(rho: float, current: int) -> int:
    """The algorithm itself, before windows and bounds."""
    if rho > 1.0 + TOLERANCE:
        return min(ceil_of(current * rho), ceil_of(current * MOST_FACTOR))
    if rho < 1.0 - TOLERANCE:
        return max(ceil_of(current * rho), int(current / MOST_FACTOR))
    return current


class AibrixApa:
    """The algorithm and its stabilisation, shipped or corrected."""

    period_s = 10.0
    scrape_s = 10.0

    def __init__(self, case: Case, sensitivity: float, *, corrected: bool = False) -> None:
        self._case, self._sensitivity, self._corrected = case, sensitivity, corrected
        self._usage = Window(USAGE_WINDOW_S)
        self._recommended = Window(DOWN_WINDOW_S)

    def decide(self, seen: Observation) -> int | None:
        """One resync; None without metrics."""
        if not seen.replicas:
            return None
        self._usage.add(seen.now_s, sum(replica.kv_usage for replica in seen.replicas) / len(seen.replicas))
        rho = self._sensitivity * self._usage.mean() / TARGET
        wanted = bounded(self._case, desired(rho, seen.declared))
        self._recommended.add(seen.now_s, wanted)
        if wanted >= seen.declared:
            return wanted
        if self._corrected:
            return min(seen.declared, int(max(self._recommended)))
        return int(min(self._recommended))


def _corrected(case: Case, knob: float) -> AibrixApa:
    return AibrixApa(case, knob, corrected=True)


KNOB = sensitivity(0.3, 60.0)
NOTE = "pods are read each 10 s, as the original does; the sample's metric, KV usage, is kept although it may not bind"
RIVALS = (
    Rival("aibrix-apa", KNOB, AibrixApa, NOTE),
    Rival("aibrix-apa-corrected", KNOB, _corrected, NOTE),
)
