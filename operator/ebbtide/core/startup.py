"""How long a replica takes from creation to ready, as measured; a guess by model size until one was seen.

Must never count one pod twice: a watermark on `ready_at` separates those counted from the new.
"""

import msgspec

from ebbtide.core.numeric import median
from ebbtide.core.work import VariantDraft
from ebbtide.model.memory import CapacityMemory
from ebbtide.model.snapshot import PodPhase, PodState
from ebbtide.units import format_duration

KEPT = 8
LONGEST_S = 3600.0
PATIENCE = 4.0  # times the longest start-up seen; at least SHORTEST_PATIENCE_S: an image may have to be pulled anew
SHORTEST_PATIENCE_S = 900.0


def learn(memory: CapacityMemory, draft: VariantDraft) -> CapacityMemory:
    """Add the start-ups of pods that became ready since the watermark; at most the last eight are kept."""
    fresh = sorted(
        (pod.ready_at, pod.ready_at - pod.created_at)
        for pod in draft.state.pods
        if pod.phase is PodPhase.READY
        and pod.ready_at is not None
        and _is_new(pod.ready_at, memory)
        and not pod.unanswered
    )
    if not fresh:
        return memory
    seen = [round(took, 1) for _, took in fresh if 0.0 <= took <= LONGEST_S]
    return msgspec.structs.replace(memory, startup_s=(*memory.startup_s, *seen)[-KEPT:], startup_watermark=fresh[-1][0])


def _is_new(ready_at: float, memory: CapacityMemory) -> bool:
    return memory.startup_watermark is None or ready_at > memory.startup_watermark


def estimate_s(memory: CapacityMemory, parameters_billion: float | None) -> tuple[float, bool]:
    """(seconds, measured?). Unmeasured: 8B with a cached image takes about a minute, 70B about 200 s."""
    if memory.startup_s:
        return max(1.0, median(memory.startup_s)), True
    if parameters_billion is None:
        return 90.0, False
    return min(600.0, 45.0 + 2.2 * parameters_billion), False


def overdue(memory: CapacityMemory, pod: PodState, now_s: float) -> str:
    """Why a pod that starts is not waited for any longer; empty while it is.

    After start-ups of 60 to 300 s: after 20 minutes. Before any was seen: after an hour.
    """
    longest_s = max(memory.startup_s, default=None)
    patience_s = LONGEST_S if longest_s is None else max(SHORTEST_PATIENCE_S, PATIENCE * longest_s)
    waited_s = now_s - (pod.scheduled_at or pod.created_at)
    if waited_s <= patience_s:
        return ""
    seen = "none was seen to end" if longest_s is None else f"the longest seen took {format_duration(longest_s)}"
    return f"starting for {format_duration(waited_s)}; of the start-ups before, {seen}"
