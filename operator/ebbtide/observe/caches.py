"""The informers of one cluster: the kinds that are always watched, and those that turn up.

Always: pods, nodes, Deployments, StatefulSets, HorizontalPodAutoscalers and our own kinds. When the API server serves
them: KEDA's ScaledObjects, every other kind that a service names as a scale target, and BatchPolicies, with all Jobs
(an installation whose CRDs are older, or that has no right to Jobs, goes on without batch work).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

from ebbtide.clock import unix_time_s
from ebbtide.errors import EbbtideError
from ebbtide.kube.client import KubeClient, resource_path
from ebbtide.model.snapshot import Source
from ebbtide.observe.build import DEPLOYMENT, STATEFUL_SET, Kind
from ebbtide.observe.declared import API_VERSION
from ebbtide.observe.discovery import Discovery, KindInfo
from ebbtide.observe.endings import Endings
from ebbtide.observe.gangs import JobSet, gang_of
from ebbtide.observe.holdings import Departures
from ebbtide.observe.informer import Change, Informer
from ebbtide.observe.projections import Autoscaler, Job, Node, Opaque, Pod, Workload, detached, packed
from ebbtide.observe.settings import ObserveSettings
from ebbtide.observe.slim import Slim
from ebbtide.observe.version import ServerMinor

log = logging.getLogger(__name__)

SCALED_OBJECT: Kind = ("keda.sh/v1alpha1", "ScaledObject")
BATCH_POLICY: Kind = (API_VERSION, "BatchPolicy")
JOB_SET: Kind = ("jobset.x-k8s.io/v1alpha2", "JobSet")

_FIRST_LIST_S, _LOOK_S = 5.0, 0.02  # a cycle waits for this, once


class Caches:
    """Starts, holds and ends the informers. `on_declared` is called when a spec of ours appears, changes or goes."""

    def __init__(self, client: KubeClient, settings: ObserveSettings, on_declared: Callable[[], None]) -> None:
        self._client = client
        self._settings = settings
        self._on_declared = on_declared
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, Informer[Any]] = {}
        self.discovery = Discovery(client, settings.discovery_ttl_s)
        self.kinds: dict[Kind, KindInfo | None] = {}
        self.customs: dict[Kind, Informer[Opaque]] = {}
        self.scaled_objects: Informer[Autoscaler] | None = None
        self.ready_uids: set[str] = set()  # pods that were seen ready and still exist
        self.discovery_error = ""
        self._keda_error = ""
        self._batch_error = ""
        self.server = ServerMinor(client)
        self.endings = Endings()
        self.batch_policies: Informer[Opaque] | None = None  # with `jobs`, or neither
        self.jobs: Informer[Job] | None = None
        self.job_sets: Informer[JobSet] | None = None  # beside `jobs`, where the API server serves them
        self._slim = slim = Slim()
        self.pods = self._informer(resource_path("v1", "pods"), Pod, keep=slim.pod, on_change=self._note_ready)
        self.nodes = self._informer(resource_path("v1", "nodes"), Node, keep=slim.node, on_change=self._note_gone_node)
        self.departures = Departures()
        self.deployments = self._informer(resource_path("apps/v1", "deployments"), Workload, keep=slim.workload)
        self.stateful_sets = self._informer(resource_path("apps/v1", "statefulsets"), Workload, keep=slim.workload)
        self.autoscalers = self._informer(resource_path("autoscaling/v2", "horizontalpodautoscalers"), Autoscaler)
        self.services = self._own("inferenceservices")
        self.pools = self._own("gpupools")
        self.policies = self._own("costpolicies")

    def start(self) -> None:
        """Begin to list and watch."""
        for name, informer in self._always().items():
            self._run(name, informer)

    async def stop(self) -> None:
        """End all watches."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def wait_synced(self) -> None:
        """Return once every kind that is always watched has been listed completely."""
        waiting = [asyncio.ensure_future(informer.wait_synced()) for informer in self._always().values()]
        try:
            await asyncio.gather(*waiting)
        finally:
            for wait in waiting:
                wait.cancel()

    async def follow(self, kinds: Iterable[Kind]) -> None:
        """Discover the target kinds that services name, KEDA and BatchPolicies; watch what can be watched, drop what is
        not named."""
        wanted = {kind for kind in kinds if kind not in (DEPLOYMENT, STATEFUL_SET)}
        self.discovery_error = ""
        self.kinds = {kind: info for kind, info in self.kinds.items() if kind in wanted}
        await self._follow_batch()
        for kind in sorted(wanted):
            await self._follow_kind(kind)
        for kind in [kind for kind in self.customs if kind not in wanted]:
            self._drop_kind(kind)
        await self._follow_keda()

    def ensure_running(self) -> None:
        """Start again what ended: nothing should end an informer, and a cache that stands still must not last."""
        for name, task in list(self._tasks.items()):
            if task.done():
                error = None if task.cancelled() else task.exception()
                log.error("%s ended and starts again: %r", task.get_name(), error)
                self._run(name, self._running[name])

    def broken(self) -> tuple[str, ...]:
        """One sentence for each object of a kind not ours that cannot be read."""
        own = (self.services, self.pools, self.policies, self.batch_policies)
        others = [informer for informer in self._running.values() if informer not in own]
        return tuple(
            f"{informer.path}: {key} cannot be read: {item.error}"
            for informer in others
            for key, item in sorted(informer.broken.items())
        )

    def sources(self) -> tuple[Source, ...]:
        """Health of each kind's cache. Whether there are ScaledObjects may not be known; then they are a sick one."""
        found = list(self._watched())
        if self.scaled_objects is None and self._keda_error:
            found.append(Source(name="scaledobjects", healthy=False, message=self._keda_error))
        if self.batch_policies is None and self._batch_error:
            found.append(Source(name="batchpolicies", healthy=False, message=self._batch_error))
        return (*found, Source(name="discovery", healthy=not self.discovery_error, message=self.discovery_error))

    @property
    def sync_age_s(self) -> float | None:
        """Seconds since the last word on the kind that was longest without one; None: an always watched one never came.

        A kind that a service names and that was never listed (a typo, no rights) is that service's fault alone.
        """
        ages = [informer.age_s() for informer in self._always().values()]
        others = [*self.customs.values(), *((self.scaled_objects,) if self.scaled_objects is not None else ())]
        known = [age for age in (*ages, *(informer.age_s() for informer in others)) if age is not None]
        return None if None in ages else max(known)

    def _watched(self) -> tuple[Source, ...]:
        """Health of the caches that there are."""
        informers = self._always()
        for kind, informer in self.customs.items():
            informers[_plural(self.kinds.get(kind), kind)] = informer
        if self.scaled_objects is not None:
            informers["scaledobjects"] = self.scaled_objects
        if self.batch_policies is not None and self.jobs is not None:
            informers |= {"batchpolicies": self.batch_policies, "jobs": self.jobs}
        if self.job_sets is not None:
            informers["jobsets"] = self.job_sets
        return tuple(_source(name, informer) for name, informer in informers.items())

    async def _follow_kind(self, kind: Kind) -> None:
        info = await self._find(kind)
        if info is None or not info.scalable:
            self._drop_kind(kind)  # its CRD is gone
        elif kind not in self.customs:
            self.customs[kind] = self._informer(resource_path(info.api_version, info.plural), Opaque, keep=detached)
            self._run(_task(kind), self.customs[kind])

    def _drop_kind(self, kind: Kind) -> None:
        if self.customs.pop(kind, None) is not None:
            self._end(_task(kind))

    async def _follow_keda(self) -> None:
        try:
            info = await self.discovery.find(*SCALED_OBJECT)
        except EbbtideError as error:
            self.discovery_error = self._keda_error = str(error)
            return
        self._keda_error = ""
        if info is None and self.scaled_objects is not None:
            self.scaled_objects = None
            self._end("scaledobjects")
        elif info is not None and self.scaled_objects is None:
            self.scaled_objects = self._informer(resource_path(info.api_version, info.plural), Autoscaler)
            self._run("scaledobjects", self.scaled_objects)
            # a plan made before the first list would write to what KEDA scales
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.scaled_objects.wait_synced(), _FIRST_LIST_S)

    async def _follow_batch(self) -> None:
        """Jobs only where there can be policies for them."""
        try:
            info = await self.discovery.find(*BATCH_POLICY)
        except EbbtideError as error:
            self.discovery_error = self._batch_error = str(error)
            return
        self._batch_error = ""
        if info is None and self.batch_policies is not None:
            self.batch_policies = self.jobs = None
            self._end("batchpolicies")
            self._end("jobs")
        elif info is not None and self.batch_policies is None:
            self.batch_policies = self._own(info.plural)
            path = resource_path("batch/v1", "jobs")
            self.jobs = self._informer(path, Job, keep=self._slim.job, on_change=self._note_end)
            self._run("batchpolicies", self.batch_policies)
            self._run("jobs", self.jobs)
            # a plan made before the first list would take Jobs' GPUs for somebody's for good, and lower services
            # under a ceiling for them: after each restart
            await _first_list(self.batch_policies, self.jobs)
        if self.jobs is not None:
            await self.server.refresh()
        await self._follow_sets()

    async def _follow_sets(self) -> None:
        try:
            info = await self.discovery.find(*JOB_SET) if self.jobs is not None else None
        except EbbtideError as error:
            self.discovery_error = str(error)
            return
        if info is None and self.job_sets is not None:
            self.job_sets = None
            self._end("jobsets")
        elif info is not None and self.job_sets is None:
            path = resource_path(info.api_version, info.plural)
            self.job_sets = self._informer(path, JobSet, on_change=self._note_end_of_set)
            self._run("jobsets", self.job_sets)
            await _first_list(self.job_sets)

    @property
    def batch_is_certain(self) -> bool:
        """Whether every BatchPolicy and every Job is known now: only then is one that is not seen not there."""
        kinds = (self.batch_policies, self.jobs)
        return all(informer is not None and informer.synced and not informer.error for informer in kinds)

    async def _find(self, kind: Kind) -> KindInfo | None:
        try:
            self.kinds[kind] = await self.discovery.find(*kind)
        except EbbtideError as error:
            self.discovery_error = str(error)  # what was known of the kind stays
        return self.kinds.get(kind)

    def _always(self) -> dict[str, Informer[Any]]:
        return {
            "pods": self.pods,
            "nodes": self.nodes,
            "deployments": self.deployments,
            "statefulsets": self.stateful_sets,
            "horizontalpodautoscalers": self.autoscalers,
            "inferenceservices": self.services,
            "gpupools": self.pools,
            "costpolicies": self.policies,
        }

    def _own(self, plural: str) -> Informer[Opaque]:
        return self._informer(resource_path(API_VERSION, plural), Opaque, keep=packed, on_change=self._declared)

    def _informer(self, path: str, kind: Any, **options: Any) -> Informer[Any]:
        return Informer(self._client, path, kind, settings=self._settings.watch, **options)

    def _run(self, name: str, informer: Informer[Any]) -> None:
        self._running[name] = informer
        self._tasks[name] = asyncio.create_task(informer.run(), name=f"informer {name}")

    def _end(self, name: str) -> None:
        del self._running[name]
        self._tasks.pop(name).cancel()

    def _declared(self, _change: Change, old: Opaque | None, new: Opaque | None) -> None:
        # Our own status writes come back as changes too; only a new generation is a new wish.
        if old is None or new is None or old.metadata.generation != new.metadata.generation:
            self._on_declared()

    def _note_ready(self, _change: Change, old: Pod | None, new: Pod | None) -> None:
        if new is not None and new.ready:
            self.ready_uids.add(new.metadata.uid)
        elif new is None and old is not None:
            self.ready_uids.discard(old.metadata.uid)
            if not self.pods.comparing:
                self.departures.note_pod(old, unix_time_s())

    def _note_end(self, _change: Change, old: Job | None, new: Job | None) -> None:
        self.endings.note(old, new, unix_time_s())

    def _note_end_of_set(self, _change: Change, old: JobSet | None, new: JobSet | None) -> None:
        before, now = (gang_of(item, frozenset()) if item is not None else None for item in (old, new))
        self.endings.note(before, now, unix_time_s())

    def _note_gone_node(self, _change: Change, old: Node | None, new: Node | None) -> None:
        if new is None and old is not None and not self.nodes.comparing:
            self.departures.note_node(old, unix_time_s())


async def _first_list(*informers: Informer[Any]) -> None:
    """Wait until each is listed or says why not, for a few seconds at most."""
    for _ in range(round(_FIRST_LIST_S / _LOOK_S)):
        if all(each.synced or each.error for each in informers):
            return
        await asyncio.sleep(_LOOK_S)


def _task(kind: Kind) -> str:
    return f"{kind[1]}.{kind[0]}"


def _plural(info: KindInfo | None, kind: Kind) -> str:
    return info.plural if info is not None else kind[1].lower()


def _source(name: str, informer: Informer[Any]) -> Source:
    healthy = informer.synced and not informer.error
    message = informer.error or ("" if informer.synced else "the first list is still on the way")
    return Source(name=name, healthy=healthy, age_s=informer.age_s(), message=message)
