"""The observer: everything outside, gathered into one immutable Snapshot for each cycle.

It only reads. What cannot be read is Unknown or a source that is not healthy; nothing is filled in, and no failure of
one source hides another.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from ebbtide.api import parse_policy, parse_pool, parse_service
from ebbtide.clock import unix_time_s
from ebbtide.kube.client import KubeClient
from ebbtide.model.snapshot import (
    BATCH_KIND,
    POLICY_KIND,
    POOL_KIND,
    SERVICE_KIND,
    Snapshot,
    Source,
    Unreadable,
    WriteReceipt,
)
from ebbtide.model.spec import PolicySpec, PoolSpec, ServiceSpec, TargetRef
from ebbtide.observe import past
from ebbtide.observe.batchwork import BatchView, BatchWork
from ebbtide.observe.build import Kind, View, build_snapshot
from ebbtide.observe.caches import Caches
from ebbtide.observe.declared import API_VERSION, Declared
from ebbtide.observe.gateway import Gateways
from ebbtide.observe.holdings import Held, held, places
from ebbtide.observe.informer import Broken, Informer
from ebbtide.observe.metrics import EngineMetrics
from ebbtide.observe.past import Past
from ebbtide.observe.pricelists import PriceLists
from ebbtide.observe.pricelists.opencost import OpenCost
from ebbtide.observe.pricelists.table import Table
from ebbtide.observe.projections import Node, Opaque, Pod
from ebbtide.observe.prometheus import Prometheus
from ebbtide.observe.scales import Scales, ScaleView
from ebbtide.observe.settings import ObserveSettings

log = logging.getLogger(__name__)

_LONGEST_TEXT = 800  # of all objects that cannot be read; each says its own in full


class Observer:
    """Async context manager: watches from entry to exit.

    `wake` is set when a spec of ours appears, changes its generation or goes, and when a gateway's queue becomes
    non-empty; the caller clears it.
    """

    def __init__(self, client: KubeClient, settings: ObserveSettings) -> None:
        self.wake = asyncio.Event()
        self._settings = settings
        self._caches = Caches(client, settings, self.wake.set)
        self._scales = Scales(client)
        self._scale_error = ""
        self._gateways = Gateways(settings.gateway, self.wake.set)
        self._services: Declared[ServiceSpec] = Declared(
            SERVICE_KIND, partial(parse_service, cost_labels=settings.cost_labels)
        )
        self._pools: Declared[PoolSpec] = Declared(POOL_KIND, parse_pool)
        self._policies: Declared[PolicySpec] = Declared(POLICY_KIND, parse_policy)
        self._batch = BatchWork()
        self.policies: Mapping[str, PolicySpec] = {}  # as of the newest snapshot, by name
        self._metrics = EngineMetrics(None, settings.prometheus)
        self._prices = self._price_lists(None)
        self._polling: asyncio.Task[None] | None = None
        self._frozen: tuple[Mapping[str, Pod], Mapping[str, Node]] = {}, {}
        self._stack = contextlib.AsyncExitStack()
        self._prometheus: Prometheus | None = None
        self.watching_since_s = float("inf")  # unix seconds from which on nothing went unseen

    async def __aenter__(self) -> Self:
        if self._settings.prometheus.url:
            prometheus = await self._stack.enter_async_context(Prometheus(self._settings.prometheus))
            self._prometheus = prometheus
            self._metrics = EngineMetrics(prometheus, self._settings.prometheus)
            self._prices = self._price_lists(prometheus)
        self._caches.start()
        self._stack.push_async_callback(self._caches.stop)
        self._poll()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)
        await self._stack.aclose()

    def _poll(self) -> None:
        self._polling = asyncio.create_task(self._gateways.run(), name="gateway queues")

    async def synced(self) -> None:
        """Return once every kind that is always watched has been listed completely."""
        waiting = asyncio.create_task(self._caches.wait_synced())
        while not (await asyncio.wait({waiting}, timeout=1.0))[0]:
            self._caches.ensure_running()
        self.watching_since_s = unix_time_s()

    @property
    def sync_age_s(self) -> float | None:
        """Age of the cache that was longest without a word from the API server; None: not all are listed yet."""
        return self._caches.sync_age_s

    @property
    def promql_queries(self) -> int:
        """Queries sent to Prometheus since the start."""
        return self._metrics.asked

    @property
    def deleting(self) -> tuple[str, ...]:
        """Keys of services that are being deleted and wait for a finalizer; snapshots leave them out."""
        items = self._caches.services.items.items()
        return tuple(sorted(key for key, item in items if item.metadata.deletion_timestamp))

    def may_part(self, key: str) -> bool:
        """Whether the InferenceService `namespace/name` has a finalizer, or says Delete anywhere; few do."""
        item = self._caches.services.items.get(key)
        return item is not None and (bool(item.metadata.finalizers) or b'"Delete"' in bytes(item.spec))

    def raw_service(self, key: str) -> Mapping[str, Any] | None:
        """The InferenceService `namespace/name` as last seen (without managedFields), or None."""
        item = self._caches.services.items.get(key)
        return None if item is None else _plain(item, "InferenceService")

    def raw_pool(self, name: str) -> Mapping[str, Any] | None:
        """The GPUPool as last seen (without managedFields), or None."""
        item = self._caches.pools.items.get(name)
        return None if item is None else _plain(item, "GPUPool")

    def raw_policy(self, name: str) -> Mapping[str, Any] | None:
        """The CostPolicy as last seen (without managedFields), or None."""
        item = self._caches.policies.items.get(name)
        return None if item is None else _plain(item, "CostPolicy")

    def raw_batch_policy(self, key: str) -> Mapping[str, Any] | None:
        """The BatchPolicy `namespace/name` as last seen (without managedFields), or None."""
        informer = self._caches.batch_policies
        item = None if informer is None else informer.items.get(key)
        return None if item is None else _plain(item, BATCH_KIND)

    def held(self, snapshot: Snapshot) -> Held:
        """Nodes and GPUs that pods held when `snapshot`, the newest one, was made: for the ledger."""
        watched = (self._caches.pods, self._caches.nodes, self._caches.pools)
        complete = all(informer.synced and not informer.error for informer in watched)
        labels = self._settings.cost_labels
        return held(snapshot, *self._frozen, self._caches.departures, complete=complete, cost_labels=labels)

    async def past(self, hole: tuple[int, int], snapshot: Snapshot) -> Past:
        """Who held GPUs at some time of the hole [from, to), unix seconds, by what Prometheus has kept."""
        where = places(snapshot, self._frozen[1].values())
        specs, pools = [service.spec for service in snapshot.services], [pool.spec for pool in snapshot.pools]
        return await past.ask(self._prometheus, self._settings.prometheus.matchers, hole, where, specs, pools)

    def counted(self, held: Held) -> None:
        """The ledger has what went by then."""
        self._caches.departures.forget(held)

    async def snapshot(self, now_s: float, receipts: Mapping[str, WriteReceipt]) -> Snapshot:
        """Everything known at `now_s` (unix seconds). `receipts`: our last writes, keyed `ns/service/variant`."""
        caches = self._caches
        caches.ensure_running()
        if self._polling is not None and self._polling.done():
            log.error("the poller of gateway queues ended and starts again")
            self._poll()
        services = await asyncio.to_thread(self._services.update, *_frozen(caches.services))
        pools = await asyncio.to_thread(self._pools.update, *_frozen(caches.pools))
        self.policies = await asyncio.to_thread(self._policies.update, *_frozen(caches.policies))
        self._follow_gateways(services)
        await caches.follow({_kind(variant.target) for spec in services.values() for variant in spec.variants})
        batch = await self._batch.declared(caches)
        await self._read_scales(services)
        await self._metrics.collect(frozenset(caches.pods.items), now_s)
        await self._prices.collect(pools, now_s)
        view = self._view(services, pools, receipts, now_s)
        view = await asyncio.to_thread(self._with_batch, view, self._batch.view(caches, batch, now_s), now_s)
        self._frozen = view.pods, view.nodes
        return await asyncio.to_thread(build_snapshot, view, now_s)

    def _view(
        self,
        services: Mapping[str, ServiceSpec],
        pools: Mapping[str, PoolSpec],
        receipts: Mapping[str, WriteReceipt],
        now_s: float,
    ) -> View:
        caches = self._caches
        scaled_objects = caches.scaled_objects.items.values() if caches.scaled_objects else ()
        return View(
            services=services,
            pools=pools,
            pods=dict(caches.pods.items),
            nodes=dict(caches.nodes.items),
            deployments=dict(caches.deployments.items),
            stateful_sets=dict(caches.stateful_sets.items),
            kinds=dict(caches.kinds),
            customs={kind: dict(informer.items) for kind, informer in caches.customs.items() if informer.synced},
            scales=self._known_scales(services),
            unread=self._unread(services),
            autoscalers=(
                *(("HorizontalPodAutoscaler", autoscaler) for autoscaler in caches.autoscalers.items.values()),
                *(("ScaledObject", autoscaler) for autoscaler in scaled_objects),
            ),
            metrics=self._metrics.snapshot(),
            gateways={key: self._gateways.reading(key) for key in services},
            receipts=dict(receipts),
            seen_ready=frozenset(caches.ready_uids),
            unreadable=self._unreadable(),
            sources=(*caches.sources(), *self._metrics.sources(now_s), *self._own_sources()),
            rate_window_s=float(self._settings.prometheus.rate_window_s),
            prices=self._prices.listed(pools, caches.nodes.items, now_s),
        )

    def _with_batch(self, view: View, batch: BatchView, now_s: float) -> View:
        jobs = partial(self._batch.jobs, batch, view.pods, nodes=view.nodes)
        return replace(view, batch_policies=self._batch.states(batch, now_s), jobs=jobs)

    def _price_lists(self, prometheus: Prometheus | None) -> PriceLists:
        return PriceLists(Table(self._settings.price_table), OpenCost(prometheus, self._settings.prometheus.matchers))

    def _unreadable(self) -> tuple[Unreadable, ...]:
        own = (self._policies, self._pools, self._services, self._batch)
        return tuple(item for kind in own for item in kind.unreadable())

    def _follow_gateways(self, services: Mapping[str, ServiceSpec]) -> None:
        self._gateways.follow(
            {key: spec.scaling.scale_to_zero.activator for key, spec in services.items() if spec.scaling.scale_to_zero}
        )

    async def _read_scales(self, services: Mapping[str, ServiceSpec]) -> None:
        named = {_named(spec, target) for spec in services.values() for target in _targets(spec)}
        wanted = []
        for kind, key in sorted(named):
            info, informer = self._caches.kinds.get(kind), self._caches.customs.get(kind)
            item = informer.items.get(key) if informer is not None else None
            if info is not None and item is not None:
                wanted.append((info, item))
        self._scale_error = await self._scales.refresh(wanted)

    def _known_scales(self, services: Mapping[str, ServiceSpec]) -> dict[tuple[Kind, str], ScaleView]:
        known: dict[tuple[Kind, str], ScaleView] = {}
        for spec in services.values():
            for target in _targets(spec):
                kind, key = _named(spec, target)
                info = self._caches.kinds.get(kind)
                scale = self._scales.get(info, key) if info is not None else None
                if scale is not None:
                    known[kind, key] = scale
        return known

    def _unread(self, services: Mapping[str, ServiceSpec]) -> dict[tuple[Kind, str], str]:
        unread = {(kind, ""): informer.error for kind, informer in self._caches.customs.items() if informer.error}
        for spec in services.values():
            for target in _targets(spec):
                kind, key = _named(spec, target)
                info = self._caches.kinds.get(kind)
                error = self._scales.error(info, key) if info is not None else ""
                if error:
                    unread[kind, key] = error
        return unread

    def _own_sources(self) -> tuple[Source, ...]:
        broken = [*(item.message for item in self._unreadable()), *self._caches.broken()]
        plural = "1 object" if len(broken) == 1 else f"{len(broken)} objects"
        message = f"{plural} cannot be read: {'; '.join(broken)}"[:_LONGEST_TEXT] if broken else ""
        return (
            Source(name="declarations", healthy=not broken, message=message),
            Source(name="scales", healthy=not self._scale_error, message=self._scale_error),
        )


def _plain(item: Opaque, kind: str) -> Mapping[str, Any] | None:
    try:
        return item.plain(API_VERSION, kind)
    except RecursionError:  # nested nearly as deep as the decoder goes: from a deep stack it is too much
        return None


def _frozen(informer: Informer[Opaque]) -> tuple[dict[str, Opaque], dict[str, Broken]]:
    return dict(informer.items), dict(informer.broken)


def _targets(spec: ServiceSpec) -> tuple[TargetRef, ...]:
    return tuple(variant.target for variant in spec.variants)


def _kind(target: TargetRef) -> Kind:
    return (target.api_version, target.kind)


def _named(spec: ServiceSpec, target: TargetRef) -> tuple[Kind, str]:
    return _kind(target), f"{spec.namespace}/{target.name}"
