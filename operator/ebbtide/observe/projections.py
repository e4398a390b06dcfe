"""The few fields of each Kubernetes kind that Ebbtide reads. Everything else is skipped while decoding.

A pod of 5 kB of JSON becomes a handful of small objects, 20,000 pods stay below 100 MB, and a field that a newer API
server adds cannot break anything. Nothing here decides; helpers only spell out what a field means.
"""

import re
import zlib
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any

import msgspec

from ebbtide.clock import parse_rfc3339
from ebbtide.model.labels import MANAGED_BY, SERVICE_LABEL, VARIANT_LABEL


class Wire(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """Base: camelCase on the wire, immutable here."""


class OwnerReference(Wire, frozen=True, gc=False):
    """Who controls an object."""

    kind: str
    name: str
    uid: str = ""
    controller: bool | None = None


class Meta(Wire, frozen=True, gc=False):
    """Metadata common to all kinds. Times are RFC 3339 as the server sent them."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None

    @property
    def key(self) -> str:
        """`namespace/name`, or the name alone for cluster-scoped kinds."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def created_at(self) -> float:
        """Unix seconds; 0 when the server sent none."""
        return parse_rfc3339(self.creation_timestamp) if self.creation_timestamp else 0.0


class LabelledMeta(Meta, frozen=True, gc=False):
    """Metadata with labels and owners, for the kinds where they matter."""

    labels: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None


class Condition(Wire, frozen=True, gc=False):
    """One status condition."""

    type: str
    status: str
    reason: str | None = None
    message: str | None = None
    last_transition_time: str | None = None


class Resources(Wire, frozen=True, gc=False):
    """What a container asks for. Extended resources stand in both maps, or in limits alone in a pod template."""

    requests: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None

    def count(self, resource: str) -> int | None:
        """Whole units of an extended resource: `{"nvidia.com/gpu": "4"}` -> 4; None where it says no quantity."""
        for amounts in (self.requests, self.limits):
            if amounts and resource in amounts:
                return quantity(amounts[resource])
        return 0


class Container(Wire, frozen=True, gc=False):
    """A container of a pod."""

    resources: Resources | None = None


class WaitingState(Wire, frozen=True, gc=False):
    """Why a container is not running."""

    reason: str | None = None
    message: str | None = None


class TerminatedState(Wire, frozen=True, gc=False):
    """That a container ended, and when (RFC 3339)."""

    finished_at: str | None = None


class ContainerState(Wire, frozen=True, gc=False):
    """Why it waits, or when it ended."""

    waiting: WaitingState | None = None
    terminated: TerminatedState | None = None


class ContainerStatus(Wire, frozen=True, gc=False):
    """How a container fares."""

    name: str = ""
    ready: bool = False
    restart_count: int = 0
    state: ContainerState | None = None


class PodAnnotations(msgspec.Struct, frozen=True, gc=False):
    """The annotations that are read: the cost, and the one that Ebbtide set."""

    deletion_cost: str | None = msgspec.field(name="controller.kubernetes.io/pod-deletion-cost", default=None)
    marked_cost: str | None = msgspec.field(name="ebbtide.dev/pod-deletion-cost", default=None)


class PodMeta(LabelledMeta, frozen=True, gc=False):
    """Metadata of a pod."""

    annotations: PodAnnotations | None = None


class PodSpecView(Wire, frozen=True, gc=False):
    """Where a pod runs and what it asks for."""

    node_name: str | None = None
    containers: tuple[Container, ...] | None = None
    init_containers: tuple[Container, ...] | None = None

    def gpus(self, resource: str) -> int:
        """What the scheduler reserves: all containers together, or the largest init container if that is more.

        What is no quantity holds nothing: no scheduler could have reserved it.
        """
        main = sum(c.resources.count(resource) or 0 for c in self.containers or () if c.resources)
        first = max((c.resources.count(resource) or 0 for c in self.init_containers or () if c.resources), default=0)
        return max(main, first)


class PodStatusView(Wire, frozen=True, gc=False):
    """How a pod fares."""

    phase: str | None = None
    conditions: tuple[Condition, ...] | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None
    init_container_statuses: tuple[ContainerStatus, ...] | None = None

    def condition(self, kind: str) -> Condition | None:
        """The condition of this type, if the pod has it."""
        return find_condition(self.conditions, kind)


class Pod(Wire, frozen=True, gc=False):
    """A pod."""

    metadata: PodMeta
    spec: PodSpecView = PodSpecView()
    status: PodStatusView = PodStatusView()

    @property
    def ready(self) -> bool:
        """Whether the Ready condition is True."""
        condition = self.status.condition("Ready")
        return condition is not None and condition.status == "True"

    @property
    def deletion_cost(self) -> int | None:
        """Its pod-deletion-cost; None where it is not set, or not a number, which Kubernetes ignores too."""
        text = self.metadata.annotations.deletion_cost if self.metadata.annotations else None
        try:
            return None if text is None else int(text)
        except ValueError:
            return None

    @property
    def marked(self) -> bool:
        """Whether its pod-deletion-cost is what Ebbtide set: nobody has changed it since."""
        found = self.metadata.annotations
        return found is not None and found.marked_cost is not None and found.marked_cost == found.deletion_cost

    @property
    def is_batch(self) -> bool:
        """Whether a Job made it, or another kind of that name: a PyTorchJob, a RayJob."""
        return any(item.kind.endswith("Job") for item in self.metadata.owner_references or ())

    @property
    def finished(self) -> bool:
        """Succeeded or Failed: it holds no GPU and is no replica."""
        return self.status.phase in ("Succeeded", "Failed")


class Taint(Wire, frozen=True, gc=False):
    """A node's taint."""

    key: str
    value: str | None = None
    effect: str | None = None


class NodeSpecView(Wire, frozen=True, gc=False):
    """Taints and cordon."""

    taints: tuple[Taint, ...] | None = None
    unschedulable: bool | None = None


class NodeStatusView(Wire, frozen=True, gc=False):
    """What a node offers."""

    allocatable: dict[str, Any] | None = None
    conditions: tuple[Condition, ...] | None = None


class Node(Wire, frozen=True, gc=False):
    """A node."""

    metadata: LabelledMeta
    spec: NodeSpecView = NodeSpecView()
    status: NodeStatusView = NodeStatusView()


class SelectorRequirement(Wire, frozen=True, gc=False):
    """One set-based requirement of a label selector."""

    key: str
    operator: str
    values: tuple[str, ...] | None = None


class LabelSelector(Wire, frozen=True, gc=False):
    """Which pods belong to a workload."""

    match_labels: dict[str, str] | None = None
    match_expressions: tuple[SelectorRequirement, ...] | None = None


class EnvironmentVariable(Wire, frozen=True, gc=False):
    """A variable of a container. Without a value it comes from elsewhere."""

    name: str = ""
    value: str | None = None


class SleepAction(Wire, frozen=True, gc=False):
    """`preStop.sleep`."""

    seconds: float = 0.0


class ExecAction(Wire, frozen=True, gc=False):
    """`preStop.exec`."""

    command: tuple[str, ...] | None = None


class StopHandler(Wire, frozen=True, gc=False):
    """What is done before SIGTERM; with neither, a request to somewhere."""

    sleep: SleepAction | None = None
    exec: ExecAction | None = None


class Lifecycle(Wire, frozen=True, gc=False):
    """A container's hooks; only the one before its end."""

    pre_stop: StopHandler | None = None


class TemplateContainer(Wire, frozen=True, gc=False):
    """A container of a pod template, with the words it is started with and what comes before its end."""

    image: str | None = None
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: tuple[EnvironmentVariable, ...] | None = None
    resources: Resources | None = None
    lifecycle: Lifecycle | None = None


class TemplateSpec(Wire, frozen=True, gc=False):
    """The part of a pod template that sizing and drain depend on."""

    node_selector: dict[str, str] | None = None
    containers: tuple[TemplateContainer, ...] | None = None
    termination_grace_period_seconds: float | None = None


class PodTemplate(Wire, frozen=True, gc=False):
    """A pod template."""

    spec: TemplateSpec = TemplateSpec()


class RollingUpdate(Wire, frozen=True, gc=False):
    """Deployment: maxSurge. StatefulSet: partition."""

    max_surge: int | str | None = None
    partition: int | None = None


class Strategy(Wire, frozen=True, gc=False):
    """How a workload replaces its pods."""

    type: str | None = None
    rolling_update: RollingUpdate | None = None


class OwnLabels(msgspec.Struct, frozen=True, gc=False):
    """The labels of what Ebbtide built; of a workload no others are read."""

    managed_by: str | None = msgspec.field(name=MANAGED_BY, default=None)
    service: str | None = msgspec.field(name=SERVICE_LABEL, default=None)
    variant: str | None = msgspec.field(name=VARIANT_LABEL, default=None)


class WorkloadMeta(Meta, frozen=True, gc=False):
    """Metadata of a Deployment or StatefulSet."""

    labels: OwnLabels | None = None


class WorkloadSpec(Wire, frozen=True, gc=False):
    """Spec of a Deployment or StatefulSet."""

    replicas: int | None = None
    paused: bool = False  # Deployment
    selector: LabelSelector = LabelSelector()
    template: PodTemplate = PodTemplate()
    strategy: Strategy | None = None  # Deployment
    update_strategy: Strategy | None = None  # StatefulSet
    pod_management_policy: str | None = None  # StatefulSet


class WorkloadStatus(Wire, frozen=True, gc=False):
    """Status of a Deployment or StatefulSet."""

    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    current_revision: str | None = None
    update_revision: str | None = None
    conditions: tuple[Condition, ...] | None = None


class Workload(Wire, frozen=True, gc=False):
    """A Deployment or StatefulSet."""

    metadata: WorkloadMeta
    spec: WorkloadSpec = WorkloadSpec()
    status: WorkloadStatus = WorkloadStatus()


class JobMeta(LabelledMeta, frozen=True, gc=False):
    """Metadata of a Job."""

    generate_name: str | None = None
    annotations: dict[str, str] | None = None


class NodeSelectorTerm(Wire, frozen=True, gc=False):
    """All of it must hold."""

    match_expressions: tuple[SelectorRequirement, ...] | None = None
    match_fields: tuple[SelectorRequirement, ...] | None = None


class NodeSelector(Wire, frozen=True, gc=False):
    """One of the terms must hold."""

    node_selector_terms: tuple[NodeSelectorTerm, ...] | None = None


class NodeAffinity(Wire, frozen=True, gc=False):
    """What is only preferred decides nothing here."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None


class Affinity(Wire, frozen=True, gc=False):
    """Of a pod to nodes."""

    node_affinity: NodeAffinity | None = None


class JobPodSpec(Wire, frozen=True, gc=False):
    """The part of a Job's pod template that its place and its stopping depend on."""

    node_selector: dict[str, str] | None = None
    affinity: Affinity | None = None
    tolerations: tuple[dict[str, Any], ...] | None = None
    containers: tuple[Container, ...] | None = None
    init_containers: tuple[Container, ...] | None = None
    termination_grace_period_seconds: float | None = None

    def gpus(self, resource: str) -> int:
        """As of a pod."""
        return PodSpecView(containers=self.containers, init_containers=self.init_containers).gpus(resource)


class JobTemplate(Wire, frozen=True, gc=False):
    """A Job's pod template."""

    spec: JobPodSpec = JobPodSpec()


class JobSpec(Wire, frozen=True, gc=False):
    """Spec of a Job."""

    suspend: bool | None = None
    parallelism: int | None = None
    completions: int | None = None
    completion_mode: str | None = None
    managed_by: str | None = None
    template: JobTemplate = JobTemplate()


class JobStatus(Wire, frozen=True, gc=False):
    """Status of a Job. Times are RFC 3339."""

    start_time: str | None = None
    completion_time: str | None = None
    active: int = 0
    terminating: int = 0
    succeeded: int = 0
    conditions: tuple[Condition, ...] | None = None


class Job(Wire, frozen=True, gc=False):
    """A Job."""

    metadata: JobMeta
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()

    @property
    def end(self) -> Condition | None:
        """The condition Complete or Failed, once it is True: then nothing of the Job runs any more."""
        found = (find_condition(self.status.conditions, kind) for kind in ("Complete", "Failed"))
        return next((condition for condition in found if condition and condition.status == "True"), None)


class CrossReference(Wire, frozen=True, gc=False):
    """What an autoscaler points at. KEDA leaves kind and apiVersion out when it means a Deployment."""

    name: str
    kind: str | None = None
    api_version: str | None = None


class AutoscalerSpec(Wire, frozen=True, gc=False):
    """Spec of a HorizontalPodAutoscaler or ScaledObject."""

    scale_target_ref: CrossReference


class Autoscaler(Wire, frozen=True, gc=False):
    """A HorizontalPodAutoscaler or a KEDA ScaledObject: another writer of replicas."""

    metadata: Meta
    spec: AutoscalerSpec


class OwnMeta(LabelledMeta, frozen=True, gc=False):
    """Metadata kept whole for our own kinds, apart from managedFields."""

    annotations: dict[str, str] | None = None
    finalizers: tuple[str, ...] | None = None


_EMPTY = msgspec.Raw(b"{}")
# kubectl's copy of the whole object: as large as the object, and never read
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class Opaque(Wire, frozen=True, gc=False):
    """An object whose spec and status stay bytes: our own kinds, and target kinds known only by discovery."""

    metadata: OwnMeta
    spec: msgspec.Raw = _EMPTY
    status: msgspec.Raw = _EMPTY
    packed_status: bytes = b""  # instead of `status`, see `packed`

    def plain(self, api_version: str, kind: str) -> dict[str, Any]:
        """The object as plain values, as a GET would show it (managedFields left out)."""
        return {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": msgspec.to_builtins(self.metadata),
            "spec": msgspec.json.decode(self.spec),
            "status": msgspec.json.decode(zlib.decompress(self.packed_status) if self.packed_status else self.status),
        }


def detached(item: Opaque) -> Opaque:
    """The same, with bytes of its own: a slice would keep the whole answer of 500 objects in memory."""
    metadata = item.metadata
    if metadata.annotations and _LAST_APPLIED in metadata.annotations:
        kept = {key: value for key, value in metadata.annotations.items() if key != _LAST_APPLIED}
        metadata = msgspec.structs.replace(metadata, annotations=kept)
    return Opaque(metadata, item.spec.copy(), item.status.copy())


def packed(item: Opaque) -> Opaque:
    """Detached, its status compressed: it is read once after a start, and 10,000 of them are 50 MB."""
    own = detached(item)
    return Opaque(own.metadata, own.spec, _EMPTY, zlib.compress(bytes(item.status), 1))


# at most as many digits as leave room for every sum of such numbers; three of an exponent, or 1e999999999 takes hours
_QUANTITY = re.compile(
    r"\+?([0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE]([+-]?[0-9]{1,3})|([numkMGTPE]|[KMGTPE]i)?)"
)
_DECIMAL = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_MOST = 2**63 - 1  # Kubernetes' own largest quantity


def quantity(amount: Any) -> int | None:
    """Whole units of an extended resource; None for what is no quantity of Kubernetes, or is below 0.

    Parts count as a whole unit, as Kubernetes rounds them: `2k` is 2000, `1Ki` 1024, `1e3` 1000, `500m` 1.
    """
    return _units(str(amount))


@lru_cache(maxsize=256)  # 20,000 pods ask for a handful of different amounts
def _units(text: str) -> int | None:
    found = _QUANTITY.fullmatch(text)
    if found is None:
        return None
    number, exponent, suffix = Decimal(found[1]), found[2], found[3] or ""
    if suffix in _BINARY:
        number *= 2 ** _BINARY[suffix]
    else:
        number = number.scaleb(int(exponent) if exponent else _DECIMAL[suffix])
    return int(number.to_integral_value(ROUND_CEILING)) if number <= _MOST else None


def find_condition(conditions: tuple[Condition, ...] | None, kind: str) -> Condition | None:
    """The condition of this type, or None."""
    return next((condition for condition in conditions or () if condition.type == kind), None)


def selects(wanted: Mapping[str, str] | tuple[tuple[str, str], ...], labels: Mapping[str, str] | None) -> bool:
    """Whether labels carry every wanted pair."""
    pairs = wanted.items() if isinstance(wanted, Mapping) else wanted
    return all((labels or {}).get(key) == value for key, value in pairs)
