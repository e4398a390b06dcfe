"""From everything that was gathered to one Snapshot: a pure function over frozen inputs, so it may run in a thread."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ebbtide.model.batch import BatchPolicyState
from ebbtide.model.money import Listed
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import (
    POOL_KIND,
    NodeState,
    PodPhase,
    PodState,
    PoolState,
    Reading,
    ServiceState,
    Snapshot,
    Source,
    TargetState,
    Unreadable,
    VariantState,
    WriteReceipt,
)
from ebbtide.model.spec import PoolSpec, ServiceSpec, TargetRef, VariantSpec
from ebbtide.observe.batch_limit import with_limit
from ebbtide.observe.discovery import KindInfo
from ebbtide.observe.jobs import Jobs
from ebbtide.observe.metrics import MetricsView
from ebbtide.observe.pods import PodIndex, Surroundings, pod_state
from ebbtide.observe.pools import Allocation, pool_state
from ebbtide.observe.projections import Autoscaler, Node, Opaque, Pod, Workload
from ebbtide.observe.scales import ScaleView
from ebbtide.observe.targets import Claims, Found, Place, resource_of, target_state
from ebbtide.observe.workloads import TargetView, custom_view, deployment_view, stateful_set_view

log = logging.getLogger(__name__)

Kind = tuple[str, str]  # (apiVersion, kind)

DEPLOYMENT: Kind = ("apps/v1", "Deployment")
STATEFUL_SET: Kind = ("apps/v1", "StatefulSet")


@dataclass(frozen=True, slots=True)
class View:
    """Frozen copies of all caches at one moment.

    `kinds`: what discovery said about each target kind (None: not served; absent: no answer yet). `customs` and
    `scales`: objects of target kinds other than Deployment and StatefulSet, and what their `/scale` said. `unread`:
    what the API server said instead, by kind and name; name "" where the kind as a whole cannot be listed.
    """

    services: Mapping[str, ServiceSpec]
    pools: Mapping[str, PoolSpec]
    pods: Mapping[str, Pod]
    nodes: Mapping[str, Node]
    deployments: Mapping[str, Workload]
    stateful_sets: Mapping[str, Workload]
    kinds: Mapping[Kind, KindInfo | None]
    customs: Mapping[Kind, Mapping[str, Opaque]]
    scales: Mapping[tuple[Kind, str], ScaleView]
    unread: Mapping[tuple[Kind, str], str]
    autoscalers: tuple[tuple[str, Autoscaler], ...]
    metrics: MetricsView
    gateways: Mapping[str, Reading]
    receipts: Mapping[str, WriteReceipt]
    seen_ready: frozenset[str]
    sources: tuple[Source, ...]
    unreadable: tuple[Unreadable, ...] = ()
    rate_window_s: float = 60.0
    prices: Mapping[str, Listed] = field(default_factory=dict)  # by pool, where their sources are elsewhere
    batch_policies: tuple[BatchPolicyState, ...] = ()
    jobs: Callable[[tuple[PoolState, ...]], Jobs] = lambda _pools: Jobs()  # given the pools as they are


def build_snapshot(view: View, now_s: float) -> Snapshot:
    """The whole cluster at `now_s` (unix seconds); tuples are sorted by key or name."""
    allocation = Allocation(view.pods.values())
    pools: dict[str, PoolState] = {}
    unreadable = list(view.unreadable)
    for name, spec in sorted(view.pools.items()):
        try:
            pools[name] = pool_state(spec, view.nodes, allocation, now_s, view.prices.get(name))
        except Exception as error:  # an odd node of one pool must not stop the others
            text = f"GPUPool {name}: its nodes cannot be read: {error!r}"
            log.error("%s", text, exc_info=True)
            unreadable.append(Unreadable(POOL_KIND, name, spec.uid, spec.generation, text))
    view = replace(view, pools={name: view.pools[name] for name in pools}, unreadable=tuple(unreadable))
    assembly = _Assembly(view, now_s, pools)
    jobs = view.jobs(tuple(pools.values()))
    return Snapshot(
        taken_at=now_s,
        services=tuple(assembly.service(spec) for _, spec in sorted(view.services.items())),
        pools=tuple(pools.values()),
        batch_policies=view.batch_policies,
        jobs=jobs.states,
        finished=jobs.finished,
        strays=jobs.strays,
        sources=tuple(sorted(view.sources, key=lambda source: source.name)),
        unreadable=view.unreadable,
        rate_window_s=view.rate_window_s,
    )


class _Assembly:
    """What is shared by all services of one snapshot."""

    def __init__(self, view: View, now_s: float, pools: Mapping[str, PoolState]) -> None:
        self._view = view
        self._now_s = now_s
        self._index = PodIndex(view.pods.values())
        self._claims = Claims(view.services.values(), view.autoscalers)
        self._nodes = {name: _named(view.nodes, pool.nodes) for name, pool in pools.items()}
        self._pools_of: dict[str, str] = {}  # node -> the names of its pools, joined
        for name, nodes in self._nodes.items():
            for node in nodes:
                self._pools_of[node] = f"{self._pools_of[node]}, {name}" if node in self._pools_of else name
        self._around = {
            name: Surroundings(frozenset(node.name for node in pool.nodes if node.interrupted), view.seen_ready)
            for name, pool in pools.items()
        }
        self._unread_pools = {item.key: item.message for item in view.unreadable if item.kind == POOL_KIND}
        self._nowhere = Surroundings(frozenset(), view.seen_ready)

    def service(self, spec: ServiceSpec) -> ServiceState:
        return ServiceState(
            spec=spec,
            variants=tuple(self._variant(spec, variant) for variant in spec.variants),
            gateway_queue=self._view.gateways[spec.key],
        )

    def _variant(self, service: ServiceSpec, variant: VariantSpec) -> VariantState:
        try:
            return self._read_variant(service, variant)
        except Exception as error:  # odd objects of one variant must not stop the others
            what = f"{variant.target.kind} {service.namespace}/{variant.target.name} and its pods"
            text = f"variant {variant.name}: {what} cannot be read: {error!r}; please report it with the object"
            log.error("%s: %s", service.key, text, exc_info=True)
            return VariantState(
                name=variant.name, target=TargetState(exists=False, faults=((Code.TARGET_UNREADABLE, text),))
            )

    def _read_variant(self, service: ServiceSpec, variant: VariantSpec) -> VariantState:
        found = self._find(service.namespace, variant.target)
        pool = self._view.pools.get(variant.pool)
        place = Place(pool, self._nodes.get(variant.pool, {}), self._unread_pools.get(variant.pool, ""))
        target = target_state(service, variant, found, place, self._claims)
        pods = self._pods(service.namespace, found.view if target.exists else None, variant.pool, resource_of(pool))
        return VariantState(
            name=variant.name,
            target=target,
            pods=pods,
            outside=self._outside(pods, variant.pool),
            last_write=self._view.receipts.get(f"{service.key}/{variant.name}"),
        )

    def _pods(self, namespace: str, target: TargetView | None, pool: str, resource: str) -> tuple[PodState, ...]:
        if target is None:
            return ()
        around = self._around.get(pool, self._nowhere)
        metrics, now_s, most = self._view.metrics, self._now_s, target.most_running
        return tuple(
            pod_state(
                pod,
                resource,
                around,
                with_limit(metrics.engine(key, now_s), most),
                unanswered=metrics.unanswered(key, now_s),
            )
            for pod in self._index.matching(namespace, target.selector)
            for key in (pod.metadata.key,)
        )

    def _outside(self, pods: tuple[PodState, ...], pool: str) -> tuple[tuple[str, int], ...]:
        """See `VariantState.outside`. A node that is gone is nobody's: its pods follow it within a minute."""
        own = self._nodes.get(pool)
        if own is None:
            return ()
        nodes = (pod.node for pod in pods if pod.phase is not PodPhase.TERMINATING)
        counts = Counter(self._pools_of.get(node, "") for node in nodes if node in self._view.nodes and node not in own)
        return tuple(sorted(counts.items()))

    def _find(self, namespace: str, ref: TargetRef) -> Found:
        kind, key = (ref.api_version, ref.kind), f"{namespace}/{ref.name}"
        if kind == DEPLOYMENT:
            workload = self._view.deployments.get(key)
            return Found(deployment_view(workload) if workload else None)
        if kind == STATEFUL_SET:
            workload = self._view.stateful_sets.get(key)
            return Found(stateful_set_view(workload) if workload else None)
        return self._find_custom(kind, key)

    def _find_custom(self, kind: Kind, key: str) -> Found:
        if kind not in self._view.kinds:
            return Found(None, served=None)
        info = self._view.kinds[kind]
        if info is None or not info.scalable:
            return Found(None, served=info is not None, scalable=info is not None and info.scalable)
        if kind not in self._view.customs:
            return self._not_yet(kind, "", info)  # its first list is still on the way
        item, scale = self._view.customs[kind].get(key), self._view.scales.get((kind, key))
        if item is not None and scale is None:
            return self._not_yet(kind, key, info)
        if item is None or scale is None:
            return Found(None)
        unread = self._view.unread.get((kind, "")) or self._view.unread.get((kind, key), "")  # what is known is old
        return Found(custom_view(kind[1], item, scale), unread=unread, plural=info.plural)

    def _not_yet(self, kind: Kind, key: str, info: KindInfo) -> Found:
        unread = self._view.unread.get((kind, key), "")
        return Found(None, served=True if unread else None, unread=unread, plural=info.plural)


def _named(nodes: Mapping[str, Node], states: tuple[NodeState, ...]) -> dict[str, Node]:
    return {state.name: nodes[state.name] for state in states}
