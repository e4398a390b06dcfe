"""The engine pods of a sandbox as the API server tells them: listed, watched, and listed again after any trouble.

Only pods with the label `sandbox.ebbtide.dev/route` exist here. A pod that vanished while a watch was broken is
reported as gone by the next list. It never writes to the API server and knows nothing of who listens.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from ebbtide.errors import EbbtideError
from ebbtide.kube.client import KubeClient, resource_path

ROUTE_LABEL = "sandbox.ebbtide.dev/route"
PORT_ANNOTATION, PATH_ANNOTATION = "prometheus.io/port", "prometheus.io/path"

_PAGE = "500"
_RELIST_PAUSE_S = 1.0
_WATCH_SILENCE_S = 120.0

log = logging.getLogger(__name__)


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletion_timestamp: str | None = None
    resource_version: str = ""


class _Port(msgspec.Struct, rename="camel"):
    container_port: int = 0


class _SpecContainer(msgspec.Struct):
    ports: list[_Port] = []


class _Spec(msgspec.Struct, rename="camel"):
    node_name: str = ""
    containers: list[_SpecContainer] | None = None  # null in a bookmark


class _Condition(msgspec.Struct):
    type: str
    status: str


class _State(msgspec.Struct):
    running: dict[str, str] | None = None


class _Container(msgspec.Struct):
    state: _State = msgspec.field(default_factory=_State)


class _Status(msgspec.Struct, rename="camel"):
    phase: str = ""
    conditions: list[_Condition] = []
    container_statuses: list[_Container] = []
    pod_ip: str = msgspec.field(default="", name="podIP")


class Pod(msgspec.Struct):
    """The parts of a Pod that matter here."""

    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def route(self) -> str:
        """`namespace/route`, from the pod's label."""
        return f"{self.metadata.namespace}/{self.metadata.labels[ROUTE_LABEL]}"

    @property
    def running(self) -> bool:
        """Whether its engine process exists: until the pod is gone, except between the crashes of a crash loop."""
        containers = self.status.container_statuses
        alive = not containers or any(container.state.running is not None for container in containers)
        return self.status.phase == "Running" and bool(self.status.pod_ip) and alive

    @property
    def ready(self) -> bool:
        """Whether it may get requests."""
        ready = any(condition.type == "Ready" and condition.status == "True" for condition in self.status.conditions)
        return self.running and ready and self.metadata.deletion_timestamp is None


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _PodList(msgspec.Struct):
    metadata: _ListMeta
    items: list[Pod]


class _Event(msgspec.Struct):
    type: str
    object: Pod


class PodFeed:
    """Calls `seen` with each pod and each change of it, `gone` with the key of each pod that exists no more."""

    def __init__(
        self, client: KubeClient, seen: Callable[[Pod], Awaitable[None]], gone: Callable[[str], Awaitable[None]]
    ) -> None:
        self._client, self._seen, self._gone = client, seen, gone
        self._known: set[str] = set()

    async def follow(self) -> None:
        """List, watch, and list again after any error, those of the callbacks included, until cancelled."""
        while True:
            try:
                version = await self._relist()
                await self._watch(version)
            except (EbbtideError, msgspec.DecodeError) as error:
                log.warning("pods: %s; listing again", error)
                await asyncio.sleep(_RELIST_PAUSE_S)

    async def _relist(self) -> str:
        params = {"labelSelector": ROUTE_LABEL, "limit": _PAGE}
        pods: dict[str, Pod] = {}
        while True:
            answer = await self._client.request("GET", resource_path("v1", "pods"), params=params)
            page = msgspec.json.decode(answer, type=_PodList)
            pods.update((pod.key, pod) for pod in page.items)
            if not page.metadata.continue_:
                break
            params = {**params, "continue": page.metadata.continue_}
        for key in self._known - pods.keys():
            await self._forget(key)
        for pod in pods.values():
            await self._tell(pod)
        return page.metadata.resource_version

    async def _watch(self, version: str) -> None:
        params = {"labelSelector": ROUTE_LABEL, "resourceVersion": version}
        async for line in self._client.watch(resource_path("v1", "pods"), params, _WATCH_SILENCE_S):
            # an ERROR event carries a Status, whose fields a Pod does not have
            event = msgspec.json.decode(line, type=_Event) if b'"ERROR"' not in line[:40] else None
            if event is None:
                log.info("pods: watch ended with %s; listing again", line[:300].decode(errors="replace"))
                return
            if event.type == "DELETED":
                await self._forget(event.object.key)
            elif event.type != "BOOKMARK":
                await self._tell(event.object)

    async def _tell(self, pod: Pod) -> None:
        self._known.add(pod.key)
        await self._seen(pod)

    async def _forget(self, key: str) -> None:
        await self._gone(key)
        self._known.discard(key)
