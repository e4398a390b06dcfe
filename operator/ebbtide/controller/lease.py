"""Leader election by a Lease, with the one promise that matters: whoever may have lost the Lease does not write.

A leader that renewed with a request sent at t may write until t + renew deadline (10 s), and each write must be over
by t + 13.5 s, while nobody else takes over before t + 15 s: others count 15 s from the moment they *see* the renewal,
which is later than t. Other machines' clocks are never compared with ours: only our own clock between two looks.

The clock is CLOCK_BOOTTIME: CLOCK_MONOTONIC goes on during SIGSTOP, but stands still while the machine is suspended,
so a virtual machine that is paused for an hour would wake up as a leader of an hour ago.

Must never: decide what to scale, or keep a process alive that lost the Lease (design rule 9).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from ebbtide.clock import boottime_s, rfc3339_micro, unix_time_s
from ebbtide.errors import ConflictError, EbbtideError, NotFoundError
from ebbtide.kube.client import resource_path

log = logging.getLogger(__name__)

API_VERSION = "coordination.k8s.io/v1"


class Requests(Protocol):
    """The part of KubeClient that a Lease needs."""

    async def request(self, method: str, path: str, *, body: Any = None, timeout_s: float | None = None) -> bytes:
        """One call; raises the errors of KubeClient."""


@dataclass(frozen=True)
class LeaseSettings:
    """Where the Lease is, who we are, and the three durations (s): retry < renew deadline < duration."""

    namespace: str
    name: str
    identity: str
    duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0

    @property
    def request_timeout_s(self) -> float:
        """Half the renew deadline, so that one hanging request leaves time for a second try."""
        return self.renew_deadline_s / 2


class LeaseSpec(msgspec.Struct, rename="camel", omit_defaults=True):
    """spec of coordination.k8s.io/v1 Lease, as far as election uses it."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str


class _Lease(msgspec.Struct):
    metadata: _Meta
    spec: LeaseSpec = msgspec.field(default_factory=LeaseSpec)


class LeaseElector:
    """Holds or waits for one Lease. `run()` in one event loop; `may_write()` and `write_timeout_s()` from any thread.

    `on_lost(text)` is called when a leader could not renew in time or was replaced; it must end the process.
    `on_leading()` is called each time the Lease is taken.
    """

    def __init__(
        self,
        client: Requests,
        settings: LeaseSettings,
        *,
        on_lost: Callable[[str], None],
        on_leading: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = boottime_s,
        wall: Callable[[], float] = unix_time_s,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client, self._settings = client, settings
        self._on_lost, self._on_leading = on_lost, on_leading
        self._clock, self._wall, self._sleep = clock, wall, sleep
        self._path = resource_path(API_VERSION, "leases", settings.namespace, settings.name)
        self._renewed_at: float | None = None  # our clock before the last renewal that the server confirmed was sent
        self._seen: _Lease | None = None
        self._seen_at = 0.0  # our clock when `_seen` was first seen in this form
        self._closing = False

    @property
    def leading(self) -> bool:
        """Whether we took the Lease and did not lose it; says nothing of time, see `may_write`."""
        return self._renewed_at is not None and not self._closing

    @property
    def holder(self) -> str:
        """Who held the Lease when it was last read; empty: nobody, or never read."""
        return (self._seen.spec.holder_identity or "") if self._seen else ""

    def may_write(self) -> bool:
        """Whether a write may start at this moment. Asked immediately before each one."""
        renewed_at = self._renewed_at
        return (
            renewed_at is not None
            and not self._closing
            and self._clock() < renewed_at + self._settings.renew_deadline_s
        )

    def write_timeout_s(self) -> float:
        """Longest time a write that starts now may take: it is over before 90 % of the Lease's duration."""
        if self._renewed_at is None:
            return 0.0
        return max(0.0, self._renewed_at + 0.9 * self._settings.duration_s - self._clock())

    async def run(self) -> None:
        """Take the Lease, keep it; returns only after `close`, or after `on_lost` where that returns."""
        while not self._closing:
            if self._renewed_at is None:
                await self._try_to_take()
            else:
                if self._lost():  # before anything is sent: this may be the first line that runs after a long stop
                    return
                await self._try_to_renew()
                if self._lost():
                    return
            await self._sleep(self._wait_s())

    def end_if_late(self) -> None:
        """Tell `on_lost` at once if a leader's time ran out unseen, as after SIGSTOP and SIGCONT."""
        if self._renewed_at is not None and not self._closing:
            self._lost()

    async def release(self, timeout_s: float = 1.0) -> None:
        """Stop leading and hand the Lease over at once. Call after `run` ended, when no write is under way any more."""
        held, self._closing = self._renewed_at is not None, True
        self._renewed_at = None
        if not held:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._read()  # the last renewal may have been cut off after the server took it
                if self._seen is None or self._seen.spec.holder_identity != self._settings.identity:
                    return
                now = rfc3339_micro(self._wall())
                spec = LeaseSpec("", 1, now, now, self._seen.spec.lease_transitions)
                await self._put(spec, self._seen.metadata.resource_version)
            log.info("released lease=%s", self._path)
        except (EbbtideError, TimeoutError) as error:
            log.warning("cannot release lease %s, others wait until it runs out: %r", self._path, error)

    async def _try_to_take(self) -> None:
        started = self._clock()
        try:
            await self._read()
            if self._free():
                await self._take(started=self._clock())
        except ConflictError:
            log.debug("another candidate was faster for lease %s", self._path)
        except EbbtideError as error:
            log.warning("cannot take lease %s (tried for %.1f s): %s", self._path, self._clock() - started, error)

    async def _take(self, started: float) -> None:
        now = rfc3339_micro(self._wall())
        before = self._seen.spec if self._seen else LeaseSpec()
        changed = before.holder_identity != self._settings.identity
        spec = LeaseSpec(
            holder_identity=self._settings.identity,
            lease_duration_seconds=round(self._settings.duration_s),
            acquire_time=now if changed else before.acquire_time,
            renew_time=now,
            # as client-go counts: 0 for the first holder ever, then one more each time the holder changes
            lease_transitions=(before.lease_transitions or 0) + int(changed) if self._seen else 0,
        )
        await self._put(spec, self._seen.metadata.resource_version if self._seen else None)
        self._renewed_at = started
        log.info("leading lease=%s identity=%s", self._path, self._settings.identity)
        self._on_leading()

    async def _try_to_renew(self) -> None:
        started = self._clock()
        deadline_s = (self._renewed_at or started) + self._settings.renew_deadline_s
        try:
            async with asyncio.timeout(max(0.0, deadline_s - started)):  # never busy with trying when it is time to end
                await self._renew()
        except (ConflictError, TimeoutError):
            self._seen = None  # an earlier renewal arrived though its answer did not, or somebody took it: look again
        except EbbtideError as error:
            self._seen = None
            log.warning("cannot renew lease %s: %s", self._path, error)

    async def _renew(self) -> None:
        if self._seen is None:
            await self._read()
        if self._seen is None or self._seen.spec.holder_identity != self._settings.identity:
            self._renewed_at = None  # deleted, or another's: `_lost` says so
            return
        started = self._clock()
        spec = msgspec.structs.replace(self._seen.spec, renew_time=rfc3339_micro(self._wall()))
        await self._put(spec, self._seen.metadata.resource_version)
        self._renewed_at = started

    def _lost(self) -> bool:
        """Whether leadership is gone; then `on_lost` was told why."""
        if self._closing:
            return True
        if self._renewed_at is None:
            self._on_lost(f"lease {self._path} was taken by {self.holder or 'nobody: it was deleted'}")
            return True
        if not self.may_write():
            late_s = self._clock() - self._renewed_at
            self._on_lost(f"lease {self._path} was not renewed for {late_s:.1f} s")
            return True
        return False

    def _free(self) -> bool:
        if self._seen is None or not self._seen.spec.holder_identity:
            return True
        return self._clock() >= self._free_at()

    def _free_at(self) -> float:
        # the holder's own duration counts, not ours: it may run with other settings
        duration_s = self._seen.spec.lease_duration_seconds if self._seen else None
        return self._seen_at + (duration_s or self._settings.duration_s)

    def _wait_s(self) -> float:
        """The retry period, or less where the Lease of another runs out (or ours must be given up) before."""
        now, retry_s = self._clock(), self._settings.retry_s
        if self._renewed_at is not None:
            return max(0.0, min(retry_s, self._renewed_at + self._settings.renew_deadline_s - now))
        if self._seen is not None and self._seen.spec.holder_identity:
            return max(0.01, min(retry_s, self._free_at() - now))
        return retry_s

    async def _read(self) -> None:
        try:
            answer = await self._client.request("GET", self._path, timeout_s=self._settings.request_timeout_s)
        except NotFoundError:
            self._seen = None
            return
        self._note(answer)

    async def _put(self, spec: LeaseSpec, resource_version: str | None) -> None:
        """Create (no version) or replace, guarded by the version that was read; ConflictError if it changed since."""
        metadata = {"name": self._settings.name, "namespace": self._settings.namespace}
        if resource_version is not None:
            metadata["resourceVersion"] = resource_version
        body = {"apiVersion": API_VERSION, "kind": "Lease", "metadata": metadata, "spec": spec}
        method, path = ("PUT", self._path) if resource_version is not None else ("POST", self._path.rpartition("/")[0])
        timeout_s = self._settings.request_timeout_s
        self._note(await self._client.request(method, path, body=body, timeout_s=timeout_s))

    def _note(self, answer: bytes) -> None:
        try:
            lease = msgspec.json.decode(answer, type=_Lease)
        except msgspec.DecodeError as error:
            raise EbbtideError(f"lease {self._path}: the answer is no Lease: {error}") from error
        if self._seen is None or lease.metadata.resource_version != self._seen.metadata.resource_version:
            self._seen_at = self._clock()
        self._seen = lease
