"""How long a replica takes from creation to ready, as measured; a guess by model size until one was seen.

Must never count one pod twice: a watermark on `ready_at` separates those counted from the new.
"""

import msgspec

from ebbtide.core.numeric import median
from ebbtide.core.work import VariantDraft
from ebbtide.model.memory import CapacityMemory
from ebbtide.model.snapshot import PodPhase

KEPT = 8
LONGEST_S = 3600.0


def learn(memory: CapacityMemory, draft: VariantDraft) -> CapacityMemory:
    """Add the start-ups of pods that became ready since the watermark; at most the last eight are kept."""
    fresh = sorted(
        (pod.ready_at, pod.ready_at - pod.created_at)
        for pod in draft.state.pods
        if pod.phase is PodPhase.READY and pod.ready_at is not None and _is_new(pod.ready_at, memory)
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
