"""Carries one pod's status to the API server: always the newest, again and again until it has arrived.

An API server that is away delays what is written and never what the pod does. Written for this very pod (uid): one of
the same name that came later is not touched.
"""

import asyncio
import logging
from typing import Any

from ebbtide.errors import ConflictError, EbbtideError, NotFoundError
from ebbtide.kube.client import KubeClient, resource_path
from ebbtide.sandbox.processnode.wire import Json, PodMeta

STRATEGIC_PATCH = "application/strategic-merge-patch+json"  # merges conditions by type: the scheduler's stay

_PAUSE_S = 1.0

log = logging.getLogger(__name__)


class StatusWriter:
    """Of one pod. `run` works until it is cancelled; `gone` means that there is nothing to write to any more."""

    def __init__(self, client: KubeClient, meta: PodMeta) -> None:
        self._client, self._uid, self.key = client, meta.uid, meta.key
        self._path = resource_path("v1", "pods", meta.namespace, meta.name)
        self._wanted: Json | None = None
        self._written: Json | None = None
        self._dirty = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self.gone = False

    def put(self, status: Json) -> None:
        """Write this instead of whatever still waits to be written."""
        if self.gone or status == self._wanted:
            return
        self._wanted = status
        self._settled.clear()
        self._dirty.set()

    def stop(self) -> None:
        """The pod is gone."""
        self.gone = True
        self._settled.set()
        self._dirty.set()

    async def flush(self) -> None:
        """Wait until the newest status has arrived, or the pod is gone."""
        await self._settled.wait()

    async def run(self) -> None:
        """Write whenever there is something new."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            while not self.gone and self._written != self._wanted:
                status = self._wanted
                body = {"metadata": {"uid": self._uid}, "status": status}
                if await self._request("PATCH", f"{self._path}/status", body, STRATEGIC_PATCH):
                    self._written = status
            self._settled.set()

    async def remove(self) -> None:
        """Delete the pod object at once: its container has ended."""
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self._uid}}
        while not self.gone and not await self._request("DELETE", self._path, body):
            pass

    async def _request(self, method: str, path: str, body: Any, content_type: str = "application/json") -> bool:
        """Whether it is done; pauses where it is not."""
        try:
            await self._client.request(method, path, body=body, content_type=content_type)
        except EbbtideError as error:
            # a conflict about anything but the uid is a write of somebody else at the same moment
            if isinstance(error, NotFoundError) or (isinstance(error, ConflictError) and "UID" in str(error)):
                log.info("pod %s is gone: %s", self.key, error)
                self.stop()
                return True
            log.warning("pod %s: %s; again in %.0f s", self.key, error, _PAUSE_S)
            await asyncio.sleep(_PAUSE_S)
            return False
        return True
