"""llm-d's queue path: KEDA (2.18) on the router's queue and running requests, through the HPA's behaviour.

Source: llm-d, workload autoscaling guide with KEDA and router metrics, as of autumn 2026. Desired is the greater of
ceil(queue / 1) and ceil(running / 16), polled each 15 s, HPA behaviour at its defaults; the cool-down of 300 s is for
zero only. An empty result counts as 0 (KEDA's ignoreNullValues), so a fleet whose metrics vanish drains to its minimum.
Queue 3 and 50 running: max(3, ceil(50 / 16) = 4) = 4.
"""

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Observation, Rival
from ebbtide.bench.rivals.hpa import PERIOD_S, Stage, average_value
from ebbtide.bench.rivals.parts import running, sensitivity, waiting

QUEUE_TARGET = 1.0
RUNNING_TARGET = 16.0


class HpaQueue:
    """Two triggers with totals over the fleet; the higher count wins."""

    period_s = PERIOD_S

    def __init__(self, case: Case, sensitivity: float) -> None:
        self._sensitivity = sensitivity
        self._stage = Stage(case)

    def decide(self, seen: Observation) -> int | None:
        """The higher of both counts, stabilised."""
        queued = average_value(self._sensitivity * waiting(seen), QUEUE_TARGET, seen.declared)
        busy = average_value(self._sensitivity * running(seen), RUNNING_TARGET, seen.declared)
        return self._stage.settle(seen.now_s, seen.declared, max(queued, busy))


RIVALS = (
    Rival(
        "hpa-queue",
        sensitivity(0.03, 32.0),
        HpaQueue,
        "the simulators have no queue in the router: requests waiting in the engines stand in for it; llm-d's form "
        "(one waiting, 16 running, every 15 s) with the case's bounds; other ones (5 waiting every 30 s, 70 % of a "
        "utilisation) are what its knob is tuned over, not policies of their own",
    ),
)
