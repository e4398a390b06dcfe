"""llm-d's saturation path: KEDA (2.18) on the pool's saturation and running requests.

Source: llm-d, workload autoscaling guide with KEDA and router metrics, as of autumn 2026. Desired is the greater of
ceil(pool_saturation / 0.7) and ceil(running / 16) through the HPA's behaviour. The gauge is an average over the pool,
0 to a little above 1, and is divided by its target as if it were a total: this term asks for one or two replicas
however many there are. Reproduced as it is. Saturation 1.2 and 50 running: max(ceil(1.71) = 2, 4) = 4.
"""

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Observation, Rival
from ebbtide.bench.rivals.hpa import PERIOD_S, Stage, average_value
from ebbtide.bench.rivals.hpa_queue import RUNNING_TARGET
from ebbtide.bench.rivals.parts import running, sensitivity

SATURATION_TARGET = 0.7
FULL_QUEUE = 5.0
FULL_KV = 0.80


def pool_saturation(seen: Observation) -> float:
    """Mean over replicas of how full each is: its queue of 5 or its KV cache of 80 %, whichever is fuller."""
    fullness = [max(replica.waiting / FULL_QUEUE, replica.kv_usage / FULL_KV) for replica in seen.replicas]
    return sum(fullness) / len(fullness) if fullness else 0.0


class KedaSaturation:
    """Two triggers; only the one on running requests grows with the fleet."""

    period_s = PERIOD_S

    def __init__(self, case: Case, sensitivity: float) -> None:
        self._sensitivity = sensitivity
        self._stage = Stage(case)

    def decide(self, seen: Observation) -> int | None:
        """The higher of both counts, stabilised; empty metrics count as 0."""
        full = average_value(self._sensitivity * pool_saturation(seen), SATURATION_TARGET, seen.declared)
        busy = average_value(self._sensitivity * running(seen), RUNNING_TARGET, seen.declared)
        return self._stage.settle(seen.now_s, seen.declared, max(full, busy))


RIVALS = (
    Rival(
        "keda-saturation",
        sensitivity(0.03, 32.0),
        KedaSaturation,
        "the router's saturation gauge is rebuilt from the engines' gauges: mean of max(waiting / 5, KV usage / 0.8)",
    ),
)
