"""Keeps the caches small: of each object what is read, and what many objects repeat only once. Nothing here decides."""

from typing import Any, TypeVar

import msgspec

from ebbtide.model.labels import MANAGER
from ebbtide.observe.drain import variables_used
from ebbtide.observe.projections import (
    Condition,
    Container,
    Job,
    JobPodSpec,
    JobTemplate,
    Meta,
    Node,
    NodeSpecView,
    NodeStatusView,
    OwnerReference,
    Pod,
    PodSpecView,
    PodStatusView,
    PodTemplate,
    Resources,
    TemplateContainer,
    TemplateSpec,
    Workload,
    find_condition,
)

_MOST_TEXTS = 100_000
_OWN = "ebbtide.dev/"
_Text = TypeVar("_Text", str, str | None)
_Meta = TypeVar("_Meta", bound=Meta)
_Value = TypeVar("_Value")


class Slim:
    """Keeps of each object what is read, once: 20,000 pods share their few kinds of containers, conditions and words.

    A pod as decoded takes 5 kB, most of it texts that every pod repeats; slim 1.5 kB. A workload 3.5 kB and 1.3 kB.
    """

    _READ = ("Ready", "PodScheduled")

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._values: dict[tuple[type, bytes], Any] = {}

    def pod(self, pod: Pod) -> Pod:
        """The same for every property and method, for extended resources (whose names have a domain) alone.

        Of its owners a Job is kept, or another kind of that name.
        """
        meta, spec, status = pod.metadata, pod.spec, pod.status
        labels = {key: self._text(value) for key, value in (meta.labels or {}).items()}
        replace = msgspec.structs.replace
        return Pod(
            metadata=replace(
                meta,
                namespace=self._text(meta.namespace),
                creation_timestamp=self._text(meta.creation_timestamp),
                labels=labels,
                owner_references=self._owner(meta.owner_references, "Job", controls=False),
            ),
            spec=PodSpecView(
                node_name=self._text(spec.node_name),
                containers=self._shared(spec.containers),
                init_containers=self._shared(spec.init_containers),
            ),
            status=PodStatusView(
                phase=self._text(status.phase),
                conditions=tuple(self._condition(item) for item in status.conditions or () if item.type in self._READ),
                container_statuses=None if pod.ready else status.container_statuses,
                init_container_statuses=None if pod.ready else status.init_container_statuses,
            ),
        )

    def workload(self, workload: Workload) -> Workload:
        """The same for every reader of a target: its words stay, of its conditions ReplicaFailure."""
        spec, status, replace = workload.spec, workload.status, msgspec.structs.replace
        template = spec.template.spec
        failure = find_condition(status.conditions, "ReplicaFailure")
        slim = TemplateSpec(
            node_selector=self._same(template.node_selector),
            containers=tuple(self._template_container(item) for item in template.containers or ()) or None,
            termination_grace_period_seconds=template.termination_grace_period_seconds,
        )
        metadata = self._meta(workload.metadata)
        if metadata.labels is not None and metadata.labels.managed_by != MANAGER:
            metadata = replace(metadata, labels=None)
        return Workload(
            metadata=metadata,
            spec=replace(
                spec,
                template=PodTemplate(slim),
                strategy=self._same(spec.strategy),
                update_strategy=self._same(spec.update_strategy),
                pod_management_policy=self._text(spec.pod_management_policy),
            ),
            status=replace(status, conditions=(self._condition(failure),) if failure else None),
        )

    def node(self, node: Node) -> Node:
        """The same for pools: extended resources, labels, taints, and the condition Ready."""
        ready = find_condition(node.status.conditions, "Ready")
        metadata, allocatable = self._meta(node.metadata), _domained(node.status.allocatable)
        labels = {self._text(key): self._text(value) for key, value in (metadata.labels or {}).items()}
        return Node(
            metadata=msgspec.structs.replace(metadata, labels=labels, owner_references=None),
            spec=NodeSpecView(taints=self._same(node.spec.taints), unschedulable=node.spec.unschedulable),
            status=NodeStatusView(self._same(allocatable), (self._condition(ready),) if ready else None),
        )

    def job(self, job: Job) -> Job:
        """The same for every property and method: 5,000 Jobs of a few templates. Of what ended, what tells of its end.

        Of its annotations Ebbtide's own are read, of its conditions its end and whether it is suspended.
        """
        meta, spec, status, replace = self._meta(job.metadata), job.spec, job.status, msgspec.structs.replace
        pod = spec.template.spec
        slim = JobPodSpec(
            node_selector=pod.node_selector,
            affinity=pod.affinity,
            tolerations=pod.tolerations,
            containers=self._shared(pod.containers),
            init_containers=self._shared(pod.init_containers),
            termination_grace_period_seconds=pod.termination_grace_period_seconds,
        )
        annotations = {key: text for key, text in (meta.annotations or {}).items() if key.startswith(_OWN)}
        conditions = (item for item in status.conditions or () if item.type in ("Complete", "Failed", "Suspended"))
        return Job(
            metadata=replace(
                meta,
                labels={self._text(key): self._text(text) for key, text in (meta.labels or {}).items()} or None,
                annotations=annotations or None,
                owner_references=self._owner(meta.owner_references),
            ),
            spec=replace(spec, template=self._same(JobTemplate(slim))),
            status=replace(status, conditions=tuple(self._condition(item) for item in conditions) or None),
        )

    def _owner(
        self, owners: tuple[OwnerReference, ...] | None, kind: str = "", controls: bool = True
    ) -> tuple[OwnerReference, ...] | None:
        """The first whose kind ends so ("Job" is also a PyTorchJob), of those that control it or of all."""
        of_kind = (owner for owner in owners or () if owner.kind.endswith(kind))
        found = next((owner for owner in of_kind if owner.controller or not controls), None)
        if found is None:
            return None
        name = self._text(found.name)
        return self._same((OwnerReference(self._text(found.kind), name, found.uid, found.controller),))

    def _meta(self, meta: _Meta) -> _Meta:
        namespace, created = self._text(meta.namespace), self._text(meta.creation_timestamp)
        return msgspec.structs.replace(meta, namespace=namespace, creation_timestamp=created)

    def _template_container(self, container: TemplateContainer) -> TemplateContainer:
        return TemplateContainer(
            image=self._text(container.image),
            command=self._words(container.command),
            args=self._words(container.args),
            env=self._same(variables_used(container) or None),
            resources=self._same(_extended(container.resources)),
            lifecycle=self._same(container.lifecycle),
        )

    def _words(self, words: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return words and tuple(self._text(word) for word in words)

    def _condition(self, condition: Condition) -> Condition:
        return Condition(
            type=self._text(condition.type),
            status=self._text(condition.status),
            reason=self._text(condition.reason),
            message=condition.message,
            last_transition_time=self._text(condition.last_transition_time),
        )

    def _shared(self, containers: tuple[Container, ...] | None) -> tuple[Container, ...] | None:
        if not containers:
            return None
        return self._same(tuple(Container(_extended(container.resources)) for container in containers))

    def _same(self, value: _Value) -> _Value:
        """One value for all that are equal: for what few kinds of objects repeat many times."""
        if value is None:
            return value
        if len(self._values) > _MOST_TEXTS:
            self._values.clear()
        same: _Value = self._values.setdefault((type(value), msgspec.msgpack.encode(value)), value)
        return same

    def _text(self, text: _Text) -> _Text:
        if text is None:
            return text
        if len(self._texts) > _MOST_TEXTS:  # times and nodes come and go for as long as the process lives
            self._texts.clear()
        return self._texts.setdefault(text, text)


def _extended(resources: Resources | None) -> Resources | None:
    if resources is None:
        return None
    requests, limits = _domained(resources.requests), _domained(resources.limits)
    return Resources(requests, limits) if requests or limits else None


def _domained(amounts: dict[str, Any] | None) -> dict[str, Any] | None:
    return {key: value for key, value in (amounts or {}).items() if "/" in key} or None
