"""What each pod is worth as capacity, and which pods belong to which workload."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ebbtide.clock import parse_rfc3339
from ebbtide.model.snapshot import EngineReadings, PodPhase, PodState
from ebbtide.observe.projections import ContainerStatus, LabelSelector, Pod, SelectorRequirement, selects
from ebbtide.observe.workloads import WORKER_INDEX

# Container states that do not end by waiting: the kubelet itself is backing off or cannot begin.
_FAILING = frozenset(
    {
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
MANY_RESTARTS = 2  # of a container that never was ready


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a pod's phase depends on beside the pod: nodes that are going, and pods that were seen ready before."""

    interrupted_nodes: frozenset[str]
    seen_ready: frozenset[str]  # uids


class PodIndex:
    """Live pods by namespace and label, so that finding a workload's pods does not walk the cluster."""

    def __init__(self, pods: Iterable[Pod]) -> None:
        self._by_label: dict[tuple[str, str, str], list[Pod]] = {}
        self._by_namespace: dict[str, list[Pod]] = {}
        for pod in pods:
            if pod.finished:
                continue
            namespace = pod.metadata.namespace
            self._by_namespace.setdefault(namespace, []).append(pod)
            for label, value in (pod.metadata.labels or {}).items():
                self._by_label.setdefault((namespace, label, value), []).append(pod)

    def matching(self, namespace: str, selector: LabelSelector) -> list[Pod]:
        """Pods of the namespace that the selector selects, sorted by name. An empty selector selects nothing."""
        pairs = selector.match_labels or {}
        rest = selector.match_expressions or ()
        if not pairs and not rest:
            return []
        groups = [self._by_label.get((namespace, label, value), []) for label, value in pairs.items()]
        fewest = min(groups, key=len) if groups else self._by_namespace.get(namespace, [])
        found = [pod for pod in fewest if matches(pairs, rest, pod.metadata.labels or {})]
        return sorted(found, key=lambda pod: pod.metadata.name)


def matches(pairs: Mapping[str, str], rest: Iterable[SelectorRequirement], labels: Mapping[str, str]) -> bool:
    """Whether labels satisfy matchLabels and matchExpressions."""
    return selects(pairs, labels) and all(_satisfied(requirement, labels) for requirement in rest)


def _satisfied(requirement: SelectorRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value is not None and value in (requirement.values or ())
        case "NotIn":
            return value is None or value not in (requirement.values or ())
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            return False


def pod_state(
    pod: Pod, resource: str, around: Surroundings, engine: EngineReadings | None, *, unanswered: bool = False
) -> PodState:
    """One pod as capacity. `resource`: the extended resource that its pool counts as GPUs.

    `unanswered`: Prometheus asked it for a whole rate window and never got an answer.
    """
    phase, message = _phase(pod, around)
    ready, scheduled = pod.status.condition("Ready"), pod.status.condition("PodScheduled")
    return PodState(
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        phase=phase,
        created_at=pod.metadata.created_at,
        node=pod.spec.node_name or "",
        gpus=pod.spec.gpus(resource),
        ready_at=_since(ready.last_transition_time) if ready and ready.status == "True" else None,
        scheduled_at=_since(scheduled.last_transition_time) if scheduled and scheduled.status == "True" else None,
        unready_at=_since(ready.last_transition_time) if ready and ready.status != "True" else None,
        unanswered=unanswered,
        message=message,
        engine=engine,
        serves=engine is not None or not _is_worker(pod),
        deletion_cost=pod.deletion_cost,
        marked=pod.marked,
        due_at=_since(pod.metadata.deletion_timestamp) if pod.metadata.deletion_timestamp else None,
    )


def _is_worker(pod: Pod) -> bool:
    return (pod.metadata.labels or {}).get(WORKER_INDEX, "0") != "0"


def _phase(pod: Pod, around: Surroundings) -> tuple[PodPhase, str]:
    if pod.metadata.deletion_timestamp:
        return PodPhase.TERMINATING, ""
    if not pod.spec.node_name:
        return _unbound(pod)
    if pod.spec.node_name in around.interrupted_nodes:
        return PodPhase.INTERRUPTED, f"node {pod.spec.node_name} carries an interruption taint of the pool"
    if pod.ready:
        return PodPhase.READY, ""
    failure = _refused_to_run(pod)
    if failure:
        return PodPhase.CRASH_LOOPING, failure
    if pod.metadata.uid in around.seen_ready:
        return PodPhase.NOT_READY, _words(pod, "Ready")
    restarts = _restarted_again(pod)
    return (PodPhase.CRASH_LOOPING, restarts) if restarts else (PodPhase.STARTING, "")


def _unbound(pod: Pod) -> tuple[PodPhase, str]:
    scheduled = pod.status.condition("PodScheduled")
    if scheduled is not None and scheduled.status == "False" and scheduled.reason == "Unschedulable":
        return PodPhase.UNSCHEDULABLE, scheduled.message or ""
    return PodPhase.PENDING, _words(pod, "PodScheduled")


def _statuses(pod: Pod) -> Iterator[ContainerStatus]:
    yield from pod.status.init_container_statuses or ()
    yield from pod.status.container_statuses or ()


def _refused_to_run(pod: Pod) -> str:
    for status in _statuses(pod):
        waiting = status.state.waiting if status.state else None
        if waiting is not None and waiting.reason in _FAILING:
            return f"container {status.name}: {waiting.reason}: {waiting.message or 'no message'}"
    return ""


def _restarted_again(pod: Pod) -> str:
    """Between two crashes a container runs for a while. One restart is none: probes are hard on a busy server."""
    for status in _statuses(pod):
        if status.restart_count >= MANY_RESTARTS and not status.ready:
            return f"container {status.name} was restarted {status.restart_count} times and is not ready"
    return ""


def _words(pod: Pod, kind: str) -> str:
    condition = pod.status.condition(kind)
    return (condition.message or condition.reason or "") if condition and condition.status != "True" else ""


def _since(text: str | None) -> float | None:
    return parse_rfc3339(text) if text else None
