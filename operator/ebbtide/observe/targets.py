"""A variant's scale target as the plan sees it, with every fault that lies between objects.

Each fault names what is wrong and how to mend it. Nothing here stops anything: what a fault means for the plan is
decided in the core.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ebbtide.model.labels import MANAGER, identity_labels
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import TargetState
from ebbtide.model.spec import Mode, PoolSpec, Provisioning, ServiceSpec, TargetRef, VariantSpec
from ebbtide.observe.projections import Autoscaler, Node, OwnLabels, selects
from ebbtide.observe.workloads import TargetView

DEFAULT_RESOURCE = "nvidia.com/gpu"

Fault = tuple[str, str]


def identity(namespace: str, ref: TargetRef) -> tuple[str, str, str, str]:
    """(namespace, group, kind, name): versions of a group are one target."""
    group = ref.api_version.partition("/")[0] if "/" in ref.api_version else ""
    return (namespace, group, ref.kind, ref.name)


class Claims:
    """Who else writes, or would write, to a target."""

    def __init__(self, services: Iterable[ServiceSpec], autoscalers: Iterable[tuple[str, Autoscaler]]) -> None:
        self._services: dict[tuple[str, str, str, str], list[tuple[str, str]]] = {}
        self._autoscalers: dict[tuple[str, str, str, str], list[str]] = {}
        for service in services:
            for variant in service.variants:
                claim = self._services.setdefault(identity(service.namespace, variant.target), [])
                claim.append((service.key, variant.name))
        for kind, autoscaler in autoscalers:
            target = autoscaler.spec.scale_target_ref
            # KEDA means a Deployment of apps/v1 where it leaves kind and apiVersion out; an HPA always says both
            ref = TargetRef(target.api_version or "apps/v1", target.kind or "Deployment", target.name)
            named = self._autoscalers.setdefault(identity(autoscaler.metadata.namespace, ref), [])
            named.append(f"{kind} {autoscaler.metadata.name}")

    def rivals(self, service: ServiceSpec, variant: VariantSpec) -> tuple[str, ...]:
        """`HorizontalPodAutoscaler chat-hpa`, `InferenceService team-a/other`: sorted."""
        where = identity(service.namespace, variant.target)
        others = {f"InferenceService {key}" for key, _ in self._services.get(where, ()) if key != service.key}
        return tuple(sorted({*self._autoscalers.get(where, ()), *others}))

    def sharers(self, service: ServiceSpec, variant: VariantSpec) -> tuple[str, ...]:
        """Other `service/variant`s on the same target, sorted."""
        claims = self._services.get(identity(service.namespace, variant.target), ())
        own = (service.key, variant.name)
        return tuple(sorted(f"{key} variant {name}" for key, name in claims if (key, name) != own))


@dataclass(frozen=True, slots=True)
class Found:
    """What discovery and the caches know about a target. `served` None: discovery has not answered yet.

    `unread`: what the API server said instead of the target or its `/scale`, and `plural` its kind's name there.
    """

    view: TargetView | None
    served: bool | None = True
    scalable: bool = True
    unread: str = ""
    plural: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """The variant's pool, None when it does not exist or cannot be read (`unread` says why), and its nodes by name."""

    pool: PoolSpec | None
    nodes: Mapping[str, Node]
    unread: str = ""


def target_state(service: ServiceSpec, variant: VariantSpec, found: Found, place: Place, claims: Claims) -> TargetState:
    """One variant's target. A Deployment that is somebody else's is none: neither its replicas nor its pods count."""
    foreign = _foreign(service, variant, found)
    if foreign is not None:
        missing = _pool_missing(variant, place)
        return TargetState(exists=False, faults=(foreign, missing) if missing else (foreign,))
    faults = _faults(service, variant, found, place, claims)
    rivals = claims.rivals(service, variant)
    view = found.view
    if view is None or not found.scalable:
        return TargetState(exists=view is not None, scalable=found.scalable, rivals=rivals, faults=faults)
    ending = view.ending
    return TargetState(
        exists=True,
        uid=view.metadata.uid,
        resource_version=view.metadata.resource_version,
        spec_replicas=view.spec_replicas,
        status_replicas=view.status_replicas,
        generation=view.metadata.generation,
        observed_generation=view.observed_generation,
        rolling_out=view.rolling_out,
        surge_replicas=view.surge_replicas,
        gpus_per_replica=_gpus(variant, view, place.pool),
        template_gpus=view.gpus_per_replica(resource_of(place.pool)),
        pods_per_replica=view.pods_per_replica,
        ordinal=view.ordinal,
        ordered=view.ordered,
        node_selector=view.node_selector,
        shutdown_timeout_s=ending.shutdown_timeout_s,
        pre_stop_s=ending.pre_stop_s,
        termination_grace_s=view.termination_grace_s,
        replica_failure=view.replica_failure,
        paused=view.paused,
        rivals=rivals,
        faults=faults,
    )


def resource_of(pool: PoolSpec | None) -> str:
    """The extended resource that counts as GPUs on the pool."""
    return pool.resource if pool is not None else DEFAULT_RESOURCE


def _gpus(variant: VariantSpec, view: TargetView, pool: PoolSpec | None) -> int | None:
    return variant.gpus_per_replica or view.gpus_per_replica(resource_of(pool))


def _faults(
    service: ServiceSpec, variant: VariantSpec, found: Found, place: Place, claims: Claims
) -> tuple[Fault, ...]:
    pool = place.pool
    checks = (
        _pool_missing(variant, place),
        _shared(service, variant, claims),
        _not_scalable(variant, found) or _unread(service, variant, found) or _not_found(service, variant, found),
        _mismatch(variant, found.view, pool, place.nodes) if found.view and pool else None,
        _gpus_unknown(variant, found.view, pool) if found.view else None,
    )
    return tuple(fault for fault in checks if fault is not None)


def _foreign(service: ServiceSpec, variant: VariantSpec, found: Found) -> Fault | None:
    """An engine block names the Deployment that Ebbtide builds; one of that name may have been there before."""
    if variant.engine is None or found.view is None:
        return None
    if found.view.labels == OwnLabels(MANAGER, service.name, variant.name):
        return None
    shown = ",".join(f"{label}={value}" for label, value in identity_labels(service, variant).items())
    return Code.TARGET_FOREIGN, (
        f"variant {variant.name}: {_named(service, variant)} exists and is not Ebbtide's, so it is neither scaled nor "
        "changed; rename the variant, delete the Deployment, or name it in scaleTargetRef instead of the engine block "
        f"(if Ebbtide built it, label it {shown} again)"
    )


def _pool_missing(variant: VariantSpec, place: Place) -> Fault | None:
    if place.pool is not None:
        return None
    if place.unread:
        return Code.POOL_UNREADABLE, (
            f"variant {variant.name} names GPUPool {variant.pool}, which cannot be read: {place.unread}"
        )
    return Code.POOL_NOT_FOUND, (
        f"variant {variant.name} names GPUPool {variant.pool}, which does not exist; "
        f"create it, or set the variant's pool to one of `kubectl get gpupools`"
    )


def _shared(service: ServiceSpec, variant: VariantSpec, claims: Claims) -> Fault | None:
    sharers = claims.sharers(service, variant)
    if not sharers:
        return None
    return Code.TARGET_SHARED, (
        f"variant {variant.name}: {_named(service, variant)} is also the target of {', '.join(sharers)}; "
        "a target belongs to one variant: point the others elsewhere or delete them"
    )


def _not_scalable(variant: VariantSpec, found: Found) -> Fault | None:
    ref = variant.target
    if found.served is None:
        return Code.PENDING, f"variant {variant.name}: the API server has not said yet whether it serves {ref.kind}"
    if not found.served:
        return Code.TARGET_NOT_FOUND, (
            f"variant {variant.name}: the API server serves no kind {ref.kind} of {ref.api_version}; "
            "correct scaleTargetRef, or install its CRD"
        )
    if not found.scalable:
        return Code.TARGET_NOT_SCALABLE, (
            f"variant {variant.name}: {ref.kind} of {ref.api_version} has no scale subresource, so nothing can set "
            "its replicas; name what owns it, such as a Deployment, StatefulSet or LeaderWorkerSet"
        )
    return None


def _unread(service: ServiceSpec, variant: VariantSpec, found: Found) -> Fault | None:
    if not found.unread:
        return None
    group = variant.target.api_version.rpartition("/")[0]
    return Code.TARGET_UNREADABLE, (
        f"variant {variant.name}: {_named(service, variant)} cannot be read: {found.unread}; Ebbtide's account needs a "
        f'ClusterRole with get, list, watch on {found.plural} and get, patch on {found.plural}/scale of group "{group}"'
    )


def _not_found(service: ServiceSpec, variant: VariantSpec, found: Found) -> Fault | None:
    if found.view is not None:
        return None
    if variant.engine is None:
        return Code.TARGET_NOT_FOUND, (
            f"variant {variant.name}: {_named(service, variant)} does not exist; create it, or correct scaleTargetRef"
        )
    if service.mode is Mode.AUTO:
        return None  # about to be built
    return Code.TARGET_NOT_FOUND, (
        f"variant {variant.name}: {_named(service, variant)} is not built in mode {service.mode}; "
        "set mode: Auto to have it built"
    )


def _mismatch(
    variant: VariantSpec, view: TargetView | None, pool: PoolSpec, pool_nodes: Mapping[str, Node]
) -> Fault | None:
    wanted = dict(view.node_selector if view else ())
    for label, value in pool.node_selector:
        if wanted.get(label, value) != value:
            return Code.POOL_MISMATCH, (
                f"variant {variant.name}: the pod template's nodeSelector has {label}={wanted[label]}, "
                f"but GPUPool {pool.name} has {label}={value}; change one of them, or the variant's pool"
            )
    # An autoscaled pool may bring nodes that fit; a static one has all it will ever have.
    fixed = pool.provisioning is Provisioning.STATIC and pool_nodes
    if fixed and not any(selects(wanted, node.metadata.labels) for node in pool_nodes.values()):
        shown = ", ".join(f"{label}={value}" for label, value in sorted(wanted.items()))
        return Code.POOL_MISMATCH, (
            f"variant {variant.name}: none of the {len(pool_nodes)} nodes of GPUPool {pool.name} has all labels of the "
            f"pod template's nodeSelector ({shown}); correct it, or the variant's pool"
        )
    return None


def _gpus_unknown(variant: VariantSpec, view: TargetView | None, pool: PoolSpec | None) -> Fault | None:
    if view is None or _gpus(variant, view, pool) is not None:
        return None
    return Code.GPUS_UNKNOWN, (
        f"variant {variant.name}: the pod template asks for no {resource_of(pool)}, or for none in whole units; "
        "set the variant's gpusPerReplica, or the container's resource limits"
    )


def _named(service: ServiceSpec, variant: VariantSpec) -> str:
    return f"{variant.target.kind} {service.namespace}/{variant.target.name}"
