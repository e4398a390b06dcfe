"""What keeps two leaders from writing: the Lease in a thread of its own, and a client that asks before each write.

The Lease has its own thread, event loop and connection, so that neither a long calculation nor a hundred slow writes
delay a renewal. Whoever writes to the cluster gets a `GuardedClient` and need not know about any of this.

Left over: a request that the API server has received but not finished when the Lease runs out; it was sent with a
timeout that ends before that, and the scale writes among them are guarded by the target's resourceVersion.
"""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

from ebbtide.controller.lease import LeaseElector, LeaseSettings
from ebbtide.errors import ConflictError
from ebbtide.kube.client import JSON, KubeClient

log = logging.getLogger(__name__)

EXIT_LOST_LEASE = 3


class NotLeadingError(ConflictError):
    """A write was not sent, because the Lease is not ours any more: somebody else may be writing."""


class Leadership(Protocol):
    """Who may write, as seen by those who write."""

    @property
    def leading(self) -> bool:
        """Whether this process holds the Lease."""

    @property
    def holder(self) -> str:
        """Identity of the holder as last seen; empty when unknown."""

    def may_write(self) -> bool:
        """Whether a write may start now."""

    def write_timeout_s(self) -> float:
        """Longest time (s) that a write starting now may take."""


class AlwaysLeading:
    """Leadership without election, for a single process."""

    leading = True
    holder = "election is off"

    def may_write(self) -> bool:
        """Always."""
        return True

    def write_timeout_s(self) -> float:
        """No limit but the client's own."""
        return 3600.0


class GuardedClient(KubeClient):
    """A KubeClient whose writes start only while `may_write` says so, and end before the Lease can be another's."""

    def __init__(self, leadership: Leadership, kubeconfig: Path | None = None, context: str | None = None) -> None:
        super().__init__(kubeconfig, context, timeout_s=10.0)
        self._leadership = leadership

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
        timeout_s: float | None = None,
    ) -> bytes:
        """As KubeClient; raises NotLeadingError instead of writing without the Lease."""
        if method != "GET":
            if not self._leadership.may_write():
                raise NotLeadingError(f"{method} {path}: not sent, because this process does not hold the lease")
            timeout_s = min(timeout_s or self._timeout_s, self._leadership.write_timeout_s())
        return await super().request(
            method, path, params=params, body=body, content_type=content_type, timeout_s=timeout_s
        )


def end_process(reason: str) -> NoReturn:
    """End now, without clean-up: anything that still ran could write. The supervisor starts a fresh process."""
    # a log pipe that nobody reads must not keep us alive
    last_resort = threading.Timer(1.0, os._exit, (EXIT_LOST_LEASE,))
    last_resort.daemon = True
    last_resort.start()
    log.critical("ending: %s", reason)
    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stderr.flush()
    os._exit(EXIT_LOST_LEASE)


class LeaseThread:
    """Runs a LeaseElector beside the main loop. `leadership` may be asked from any thread."""

    def __init__(
        self,
        client: KubeClient,
        settings: LeaseSettings,
        *,
        on_leading: Callable[[], None],
        on_lost: Callable[[str], None] = end_process,
    ) -> None:
        self._client = client
        self.leadership = LeaseElector(client, settings, on_lost=on_lost, on_leading=on_leading)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        """Begin to compete."""
        self._thread.start()

    async def stop(self, timeout_s: float = 2.0) -> None:
        """Release the Lease and end the thread; call when no write is under way any more."""
        if self._loop is not None and self._task is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
        await asyncio.to_thread(self._thread.join, timeout_s)

    def _run(self) -> None:
        try:
            asyncio.run(self._compete())
        except Exception:
            # without this thread nobody renews: a leader must end, and a standby would wait for ever
            log.exception("the lease thread failed")
            end_process("the lease thread failed")

    async def _compete(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with self._client:
            self._task = asyncio.create_task(self.leadership.run())
            try:
                await asyncio.wait([self._task])
                if not self._task.cancelled():
                    self._task.result()
            finally:
                await self.leadership.release()
