"""llm-d Workload Variant Autoscaler V1 (v0.5.0): one replica at a time, by spare KV cache and spare queue.

Source: WVA's saturation analyzer and its HPA values. Each 60 s, from each replica's greatest KV usage of the last
minute and its queue: a replica is saturated at usage 0.80 or 5 waiting; the mean spare of the others (0.80 - usage,
5 - queue; 0 where all are saturated) below 0.10 or 3 adds one; one goes where two or more are unsaturated and the load
spread over one fewer still leaves 0.10 and 3. Two at usage 0.30 and no queue: 0.80 - 2 x 0.30 = 0.20, one goes.
A count that is on its way, or replicas without metrics, hold the model. The HPA then waits 240 s both ways and moves
10 pods per 150 s at most.
"""

from collections.abc import Sequence

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Observation, Rival
from ebbtide.bench.rivals.hpa import PERIOD_S, Behaviour, Limit, Stage, average_value
from ebbtide.bench.rivals.parts import ROUNDING, Window, bounded, sensitivity

LOOP_S = 60.0
KV_FULL = 0.80
QUEUE_FULL = 5.0
KV_SPARE = 0.10
QUEUE_SPARE = 3.0
BEHAVIOUR = Behaviour(240.0, 240.0, Limit(pods=10, period_s=150.0), Limit(pods=10, period_s=150.0))


def step(loads: Sequence[tuple[float, float]]) -> int:
    """+1, 0 or -1 replica for (KV usage, queue) of each replica; at least one is given."""
    fit = [(usage, queue) for usage, queue in loads if usage < KV_FULL and queue < QUEUE_FULL]
    count = max(1, len(fit))
    spare_kv = sum(KV_FULL - usage for usage, _ in fit) / count
    spare_queue = sum(QUEUE_FULL - queue for _, queue in fit) / count
    if spare_kv < KV_SPARE - ROUNDING or spare_queue < QUEUE_SPARE - ROUNDING:
        return 1
    if len(fit) < 2:
        return 0
    spread = len(fit) / (len(fit) - 1)
    left_kv = KV_FULL - spread * (KV_FULL - spare_kv)
    left_queue = QUEUE_FULL - spread * (QUEUE_FULL - spare_queue)
    return -1 if left_kv >= KV_SPARE - ROUNDING and left_queue >= QUEUE_SPARE - ROUNDING else 0


class WvaV1:
    """The analyzer each minute, its emitted count, and the HPA that follows it."""

    period_s = PERIOD_S

    def __init__(self, case: Case, sensitivity: float, *, corrected: bool = False) -> None:
        self._case, self._sensitivity, self._corrected = case, sensitivity, corrected
        self._usage: dict[str, Window] = {}
        self._emitted: int | None = None
        self._next_s = 0.0
        self._stage = Stage(case, BEHAVIOUR)

    def decide(self, seen: Observation) -> int | None:
        """What the HPA makes of the last emitted count; None before the first."""
        self._watch(seen)
        if seen.now_s >= self._next_s:
            self._next_s = seen.now_s + LOOP_S
            self._analyse(seen)
        if self._emitted is None:
            return None
        wanted = self._emitted if self._corrected else average_value(self._emitted, 1.0, seen.declared)
        return self._stage.settle(seen.now_s, seen.declared, wanted)

    def _watch(self, seen: Observation) -> None:
        self._usage = {replica.name: self._usage.get(replica.name, Window(LOOP_S)) for replica in seen.replicas}
        for replica in seen.replicas:
            self._usage[replica.name].add(seen.now_s, replica.kv_usage)

    def _analyse(self, seen: Observation) -> None:
        under_way = self._emitted not in (None, seen.declared) or len(seen.replicas) != seen.declared
        if not seen.replicas or under_way:
            return
        weight = self._sensitivity
        loads = [(weight * max(self._usage[view.name]), weight * view.waiting) for view in seen.replicas]
        self._emitted = bounded(self._case, len(loads) + step(loads))


def _corrected(case: Case, knob: float) -> WvaV1:
    return WvaV1(case, knob, corrected=True)


NOTE = "the emitted count is kept in bounds"
RIVALS = (
    Rival(
        "wva-v1",
        sensitivity(0.3, 40.0),
        WvaV1,
        NOTE + "; from ten replicas on a single step never passes the HPA's tolerance of 10 %, as shipped",
    ),
    Rival("wva-v1-corrected", sensitivity(0.3, 40.0), _corrected, NOTE + ", and the HPA's tolerance is left out"),
)
