"""Who holds GPUs now, and since when: what the ledger counts. Pods from binding until they are gone, nodes while there.

Foreign pods count like those of services: GPUs cost the same whoever holds them. They are put down to their own labels,
and to batch where a Job made them. A node that matches several pools is the first one's by name; GPUs on nodes of no
pool are held in a pool without a name, whose price nobody knows.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from ebbtide.clock import parse_rfc3339
from ebbtide.model.labels import COST_LABELS
from ebbtide.model.money import Payer, payer_of, payer_of_others
from ebbtide.model.snapshot import POOL_KIND, Snapshot
from ebbtide.model.spec import PoolSpec, Spec
from ebbtide.money.lifetimes import Holding
from ebbtide.observe.past_nodes import Place
from ebbtide.observe.projections import Node, Pod, quantity, selects

_RESOURCES = frozenset(
    {"nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe"}
)  # with or without a pool
_MOST_GONE, _KEPT_S = 100_000, 3600.0  # departures that nobody asked for yet
_Object = TypeVar("_Object", Pod, Node)


class Departures:
    """Pods and nodes that were seen to go, and when (unix seconds), until the ledger has them, for an hour at most.

    A standby gathers them too: it takes over within less than that.
    """

    def __init__(self) -> None:
        self.pods: dict[str, tuple[Pod, float]] = {}
        self.nodes: dict[str, tuple[Node, float]] = {}

    def note_pod(self, pod: Pod, at_s: float) -> None:
        """Seen to go; of one that was never bound there is nothing to count."""
        if pod.spec.node_name:
            _keep(self.pods, pod.metadata.uid, pod, at_s)

    def note_node(self, node: Node, at_s: float) -> None:
        """Seen to go."""
        _keep(self.nodes, node.metadata.uid, node, at_s)

    def forget(self, held: "Held") -> None:
        """The ledger has counted these."""
        for uid in held.gone:
            self.pods.pop(uid, None)
            self.nodes.pop(uid, None)


class _Place(NamedTuple):
    """Where a pod is: its node, the pool ('' of none), and what may be a GPU there."""

    uid: str
    pool: str
    resources: tuple[str, ...]


class Held(Spec, frozen=True):
    """`gone`: uids that were seen to go, and when. `complete`: what is not shown does not exist."""

    holdings: tuple[Holding, ...]
    gone: Mapping[str, float]
    complete: bool


def held(
    snapshot: Snapshot,
    pods: Mapping[str, Pod],
    nodes: Mapping[str, Node],
    departures: Departures,
    *,
    complete: bool,
    cost_labels: Collection[str] = COST_LABELS,
) -> Held:
    """All of it. `cost_labels`: names of those labels of others' pods that their cost is put down to."""
    gone_pods, gone_nodes = dict(departures.pods), dict(departures.nodes)  # they grow meanwhile, in another thread
    gone = {uid: at_s for uid, (_, at_s) in (gone_pods | gone_nodes).items()}
    pools = [pool.spec for pool in snapshot.pools]
    readable = not any(item.kind == POOL_KIND for item in snapshot.unreadable)  # else its lifetimes seem to be gone
    resources = _RESOURCES | {pool.resource for pool in pools}
    placed: dict[str, _Place] = {}  # by the node's name
    found: list[Holding] = []
    all_nodes = {uid: node for uid, (node, _) in gone_nodes.items()}
    all_nodes |= {node.metadata.uid: node for node in nodes.values()}
    for uid, node in all_nodes.items():
        pool = _pool_of(pools, node)
        if pool is not None:
            placed[node.metadata.name] = _Place(uid, pool.name, (pool.resource,))
            gpus = quantity((node.status.allocatable or {}).get(pool.resource, 0)) or 0
            begin_s, end_s = node.metadata.created_at, gone.get(uid)
            found.append(Holding(uid, Payer(pool.name), gpus, begin_s, end_s, "", is_node=True))
        elif readable:  # of a pool that cannot be read nobody knows which nodes are its
            placed[node.metadata.name] = _Place(uid, "", tuple(sorted(resources)))
    payers = _payers(snapshot)
    all_pods = {uid: pod for uid, (pod, _) in gone_pods.items()}
    all_pods |= {pod.metadata.uid: pod for pod in pods.values()}
    for uid, pod in all_pods.items():
        place = placed.get(pod.spec.node_name or "")
        gpus = sum(pod.spec.gpus(resource) for resource in place.resources) if place is not None else 0
        if place is not None and gpus > 0:
            payer = payers.get(uid) or _others(pod, cost_labels)
            end_s = _finished_s(pod, snapshot.taken_at) or gone.get(uid)
            found.append(_of_pod(pod, place, gpus, payer, end_s))
    return Held(tuple(found), gone, complete and readable)


def places(snapshot: Snapshot, nodes: Iterable[Node]) -> dict[str, Place]:
    """Where nodes are, by name; of those of no pool it is empty."""
    pools, found = [pool.spec for pool in snapshot.pools], {}
    for node in nodes:
        pool, metadata = _pool_of(pools, node), node.metadata
        name, resource = ("", "") if pool is None else (pool.name, pool.resource)
        found[metadata.name] = Place(metadata.uid, name, resource, metadata.created_at)
    return found


def _pool_of(pools: list[PoolSpec], node: Node) -> PoolSpec | None:
    return next((pool for pool in pools if selects(pool.node_selector, node.metadata.labels)), None)


def _payers(snapshot: Snapshot) -> dict[str, Payer]:
    """By the pod's uid; the pool is that of its node."""
    return {
        pod.uid: payer_of(service.spec, variant.name)
        for service in snapshot.services
        for variant in service.variants
        for pod in variant.pods
    }


def _others(pod: Pod, cost_labels: Collection[str]) -> Payer:
    labels = sorted((pod.metadata.labels or {}).items())
    kept = tuple((name, value) for name, value in labels if name in cost_labels and value)
    return payer_of_others(pod.metadata.namespace, kept, batch=pod.is_batch)


def _of_pod(pod: Pod, place: _Place, gpus: int, payer: Payer, end_s: float | None) -> Holding:
    payer = msgspec.structs.replace(payer, pool=place.pool)
    bound = pod.status.condition("PodScheduled")
    since = bound.last_transition_time if bound is not None and bound.status == "True" else None
    begin_s = parse_rfc3339(since) if since else pod.metadata.created_at
    on = "" if place.pool else pod.spec.node_name or ""
    return Holding(pod.metadata.uid, payer, gpus, begin_s, end_s, place.uid, on=on)


def _finished_s(pod: Pod, now_s: float) -> float | None:
    """Until when it held them, at the latest now; None while it runs.

    A kubelet says in which second its last container ended, and that second was begun: one that ended at 12:00:07.9
    says 12:00:07 and is billed to 12:00:08.
    """
    if not pod.finished:
        return None
    states = [status.state.terminated for status in pod.status.container_statuses or () if status.state]
    ends = [parse_rfc3339(state.finished_at) for state in states if state is not None and state.finished_at]
    return min(now_s, max(ends, default=now_s) + 1.0)


def _keep(kept: dict[str, tuple[_Object, float]], uid: str, item: _Object, at_s: float) -> None:
    while kept and (len(kept) >= _MOST_GONE or next(iter(kept.values()))[1] < at_s - _KEPT_S):
        kept.pop(next(iter(kept)))
    kept[uid] = item, at_s
