"""Deployments, StatefulSets and kinds known only by discovery, brought to one shape for sizing.

A Deployment repeats the ReplicaFailure condition of its newest ReplicaSet, so ReplicaSets need not be watched.
"""

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from ebbtide.observe.batch_limit import most_running
from ebbtide.observe.drain import Ending, ending_of
from ebbtide.observe.projections import (
    Condition,
    LabelSelector,
    Meta,
    Opaque,
    OwnLabels,
    PodTemplate,
    TemplateSpec,
    Wire,
    Workload,
    find_condition,
)
from ebbtide.observe.scales import ScaleView

# On every pod of a LeaderWorkerSet; 0 is the group's leader
WORKER_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
DEFAULT_GRACE_S = 30.0


@dataclass(frozen=True, slots=True)
class TargetView:
    """One scale target. `templates`: (pod template, how many of such pods one replica has)."""

    metadata: Meta
    spec_replicas: int
    status_replicas: int
    observed_generation: int
    selector: LabelSelector
    templates: tuple[tuple[TemplateSpec, int], ...]
    rolling_out: bool = False
    surge_replicas: int = 0
    ordinal: bool = False
    ordered: bool = False
    replica_failure: str = ""
    labels: OwnLabels | None = None
    paused: bool = False

    @property
    def pods_per_replica(self) -> int:
        """1, or the size of a LeaderWorkerSet's group."""
        return max(1, sum(count for _, count in self.templates))

    def gpus_per_replica(self, resource: str) -> int | None:
        """GPUs by the pod template; None when it asks for none of this resource, or for what is no quantity."""
        total = 0
        for template, count in self.templates:
            for container in template.containers or ():
                asked = container.resources.count(resource) if container.resources else 0
                if asked is None:
                    return None
                total += asked * count
        return total or None

    @property
    def node_selector(self) -> tuple[tuple[str, str], ...]:
        """Pairs of the templates' nodeSelectors, sorted."""
        pairs = {pair for template, _ in self.templates for pair in (template.node_selector or {}).items()}
        return tuple(sorted(pairs))

    @property
    def termination_grace_s(self) -> float | None:
        """The shortest grace among the templates; None without any. One that does not say it has Kubernetes' 30 s."""
        graces = [template.termination_grace_period_seconds for template, _ in self.templates]
        return min((DEFAULT_GRACE_S if grace is None else grace for grace in graces), default=None)

    @property
    def ending(self) -> Ending:
        """How the engine ends; of a group's templates the first says it, its leader's."""
        return ending_of(self.templates[0][0].containers or ()) if self.templates else Ending()

    @property
    def most_running(self) -> float | None:
        """How many requests the engine lets run at once, where its command line says so; of a group its leader's."""
        return most_running(self.templates[0][0].containers or ()) if self.templates else None


def deployment_view(workload: Workload) -> TargetView:
    """A Deployment. It rolls out while pods of an older ReplicaSet are left."""
    spec, status = workload.spec, workload.status
    replicas = 1 if spec.replicas is None else spec.replicas
    rolling_out = status.updated_replicas < status.replicas
    failure = find_condition(status.conditions, "ReplicaFailure")
    return TargetView(
        metadata=workload.metadata,
        spec_replicas=replicas,
        status_replicas=status.replicas,
        observed_generation=status.observed_generation,
        selector=spec.selector,
        templates=((spec.template.spec, 1),),
        rolling_out=rolling_out,
        surge_replicas=_surge(workload, replicas) if rolling_out else 0,
        replica_failure=_failure_text(failure),
        labels=workload.metadata.labels,
        paused=spec.paused,
    )


def stateful_set_view(workload: Workload) -> TargetView:
    """A StatefulSet. With a partition or OnDelete two revisions are the wanted state, not a rollout."""
    spec, status = workload.spec, workload.status
    strategy = spec.update_strategy
    partition = strategy.rolling_update.partition if strategy and strategy.rolling_update else None
    by_itself = not (strategy and strategy.type == "OnDelete") and not partition
    return TargetView(
        metadata=workload.metadata,
        spec_replicas=1 if spec.replicas is None else spec.replicas,
        status_replicas=status.replicas,
        observed_generation=status.observed_generation,
        selector=spec.selector,
        templates=((spec.template.spec, 1),),
        rolling_out=by_itself and status.current_revision != status.update_revision,
        ordinal=True,
        ordered=spec.pod_management_policy != "Parallel",
    )


class _GroupTemplate(Wire, frozen=True):
    size: int = 1
    leader_template: PodTemplate | None = None
    worker_template: PodTemplate | None = None


class _CustomSpec(Wire, frozen=True):
    template: PodTemplate | None = None
    leader_worker_template: _GroupTemplate | None = None
    startup_policy: str | None = None  # LeaderWorkerSet: whether workers wait until their leader is ready


class _CustomStatus(Wire, frozen=True):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int | None = None
    conditions: tuple[Condition, ...] | None = None


def custom_view(kind: str, item: Opaque, scale: ScaleView) -> TargetView:
    """Any kind with a scale subresource: replicas and selector from there, the pod template where it usually stands."""
    spec = _lenient(item.spec, _CustomSpec)
    status = _lenient(item.status, _CustomStatus)
    updating = find_condition(status.conditions, "UpdateInProgress")
    behind = status.updated_replicas is not None and status.updated_replicas < status.replicas
    seen_at = scale.resource_version or item.metadata.resource_version
    return TargetView(
        metadata=msgspec.structs.replace(item.metadata, resource_version=seen_at),
        spec_replicas=scale.spec_replicas,
        status_replicas=scale.status_replicas,
        observed_generation=status.observed_generation,
        selector=_whole_groups(scale.selector),
        templates=_templates(spec),
        rolling_out=behind or (updating is not None and updating.status == "True"),
        ordinal=kind in ("StatefulSet", "LeaderWorkerSet"),
        ordered=spec.startup_policy != "LeaderCreated",  # of an unknown kind it is not known, so it may be
        replica_failure=_failure_text(find_condition(status.conditions, "ReplicaFailure")),
    )


def _whole_groups(selector: LabelSelector) -> LabelSelector:
    """The same without the choice of leaders: a LeaderWorkerSet's `/scale` selects them alone, which is what an HPA
    averages over, but the workers hold GPUs too, and a group without one of them does not serve.
    """
    pairs = {label: value for label, value in (selector.match_labels or {}).items() if label != WORKER_INDEX}
    return LabelSelector(pairs, selector.match_expressions)


def _templates(spec: _CustomSpec) -> tuple[tuple[TemplateSpec, int], ...]:
    group = spec.leader_worker_template
    if group is not None and group.worker_template is not None:
        worker = group.worker_template.spec
        if group.leader_template is None:
            return ((worker, group.size),)
        return ((group.leader_template.spec, 1), (worker, group.size - 1))
    return ((spec.template.spec, 1),) if spec.template is not None else ()


def _lenient(raw: msgspec.Raw, kind: Any) -> Any:
    # A foreign kind may use the same field names for something else: then the template is simply not known.
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError:
        return kind()


def _failure_text(condition: Condition | None) -> str:
    if condition is None or condition.status != "True":
        return ""
    return condition.message or condition.reason or "ReplicaFailure"


def _surge(workload: Workload, replicas: int) -> int:
    strategy = workload.spec.strategy
    if strategy is None or strategy.rolling_update is None:
        return 0
    surge = strategy.rolling_update.max_surge or 0
    if isinstance(surge, int):
        return surge
    return math.ceil(replicas * int(surge.removesuffix("%")) / 100)  # Kubernetes rounds a surge up
