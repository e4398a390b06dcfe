"""Which pods should go when a variant shrinks: the doomed first, then those whose leaving empties a paid node, then the
least loaded. StatefulSets and LeaderWorkerSets choose by ordinal themselves, so nothing is marked there.
"""

from ebbtide.core.work import VariantDraft
from ebbtide.model.snapshot import PodPhase, PodState

_NOT_SERVING = (PodPhase.CRASH_LOOPING, PodPhase.UNSCHEDULABLE, PodPhase.PENDING, PodPhase.STARTING, PodPhase.NOT_READY)


def choose(variant: VariantDraft, leaving: int) -> tuple[str, ...]:
    """Names of the `leaving` pods, first to go first; empty for targets that go by ordinal."""
    if leaving <= 0 or variant.state.target.ordinal:
        return ()
    candidates = [pod for pod in variant.state.pods if pod.phase is not PodPhase.TERMINATING]
    doomed = [pod for pod in candidates if pod.phase is PodPhase.INTERRUPTED]
    idle = sorted((pod for pod in candidates if pod.phase in _NOT_SERVING), key=lambda pod: (-pod.created_at, pod.name))
    first = [*sorted(doomed, key=lambda pod: pod.name), *idle]
    serving = [pod for pod in candidates if pod.phase is PodPhase.READY]
    rest = max(0, leaving - len(first))
    return tuple(pod.name for pod in [*first, *_emptying(variant, serving, rest)][:leaving])


def _emptying(variant: VariantDraft, serving: list[PodState], leaving: int) -> list[PodState]:
    """Whole nodes while they fit into what is left to remove, smallest load first; then single pods by load."""
    chosen: list[PodState] = []
    for pods in _nodes_to_empty(variant, serving):
        if len(chosen) + len(pods) <= leaving:
            chosen.extend(pods)
    names = {pod.name for pod in chosen}
    # The others come from the node with fewest of ours left, so that the next round may empty it.
    by_node: dict[str, int] = {}
    for pod in serving:
        by_node[pod.node] = by_node.get(pod.node, 0) + 1
    others = [pod for pod in serving if pod.name not in names]
    others.sort(key=lambda pod: (by_node[pod.node], load(pod), -(pod.ready_at or 0.0), pod.name))
    return chosen + others[: leaving - len(chosen)]


def _nodes_to_empty(variant: VariantDraft, serving: list[PodState]) -> list[list[PodState]]:
    """Groups of pods that hold all the GPUs in use on their node, least loaded group first."""
    if variant.pool is None:
        return []
    used = {node.name: node.allocated_gpus for node in variant.pool.state.nodes}
    groups: dict[str, list[PodState]] = {}
    for pod in serving:
        groups.setdefault(pod.node, []).append(pod)
    whole = [pods for node, pods in groups.items() if node and sum(pod.gpus for pod in pods) >= used.get(node, 1 << 30)]
    return sorted(whole, key=lambda pods: (sum(load(pod) for pod in pods), pods[0].node))


def load(pod: PodState) -> float:
    """Requests the pod holds; unknown counts as busy."""
    if pod.engine is None:
        return 1e9
    running, waiting = pod.engine.running.fresh, pod.engine.waiting.fresh
    return 1e9 if running is None else running + (waiting or 0.0)
