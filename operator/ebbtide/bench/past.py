"""What Ebbtide remembers of the minutes before a replay: it was there, as it is in a cluster that has been running.

Rivals are given the same minutes. The same `plan` sees them, one snapshot a minute, of pods that show arrivals and
tokens and no latency: demand is learnt, and nothing of what a replica carries.
"""

from collections.abc import Sequence

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Minute
from ebbtide.bench.shown import Metrics
from ebbtide.core.plan import plan
from ebbtide.model.memory import Memory
from ebbtide.model.snapshot import EngineReadings, PodPhase, PodState, Quality, Reading

_MINUTE_S = 60.0


def remembered(case: Case, metrics: Metrics, history: Sequence[Minute], memory: Memory | None = None) -> Memory:
    """The memory after `history`, whole minutes, oldest first, beginning with `memory`; an empty one after none."""
    memory = memory or Memory()
    for minute in history:
        now_s = minute.start_s + _MINUTE_S
        shown = metrics.frame(_pods(case, minute, now_s), case.start_replicas, None, now_s, _MINUTE_S)
        _, memory = plan(shown, memory, case.epoch_s + now_s)
    return memory


def _pods(case: Case, minute: Minute, now_s: float) -> tuple[PodState, ...]:
    """So many as the replay begins with, each with its part of the minute."""
    count = max(1, case.start_replicas)
    each = 1.0 / (_MINUTE_S * count)
    engine = EngineReadings(
        engine="vLLM",
        running=_reading(0.0),
        waiting=_reading(0.0),
        arrivals=_reading(minute.requests * each),
        finished=_reading(minute.requests * each),
        prompt_tokens=_reading(minute.prompt_tokens * each),
        generation_tokens=_reading(minute.output_tokens * each),
    )
    ready_at = case.epoch_s + now_s - 86_400.0
    return tuple(
        PodState(
            name=f"before-{number}",
            uid=f"before-{number}",
            phase=PodPhase.READY,
            created_at=ready_at - case.startup_s[0],
            scheduled_at=ready_at - case.startup_s[0],
            ready_at=ready_at,
            gpus=case.tensor_parallel,
            node="pool",
            engine=engine,
        )
        for number in range(count)
    )


def _reading(value: float) -> Reading:
    return Reading(quality=Quality.FRESH, value=value, age_s=1.0)
