"""The back ends of the real gateway: which engine gets a request, who waits for one, and what became of them all.

A route holds requests while nobody is in rotation and hands them out in the order in which they came. Sockets are the
business of whoever takes a back end: it forwards the request and puts the back end back. Runs in one event loop.
"""

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import msgspec

from ebbtide.errors import EbbtideError
from ebbtide.sandbox.rotation import Dispatch, Rotation, pick
from ebbtide.sim.exposition import BusyGauges, RouteGauges

REST_S = 1.0  # how long one that cannot be reached gets nothing: time for its pod's readiness to fall

ENDS = ("served", "failed", "refused", "left")


class HoldLimits(msgspec.Struct, frozen=True):
    """How many requests a route holds while nobody is ready, and each for how long (seconds)."""

    requests: int = 1000
    hold_s: float = 300.0


class NobodyReadyError(EbbtideError):
    """A request cannot be held any longer, or not at all."""


class Backend:
    """One engine pod. `url` is its base, `http://10.0.0.7:8000`; `gauges` its own, None while unknown."""

    def __init__(self, key: str, uid: str, route: str, url: str, metrics_path: str) -> None:
        self.key, self.uid, self.route = key, uid, route
        self.url, self.metrics_url = url, url + metrics_path
        self.pod_ready = self.resting = False
        self.in_flight = self.served = 0
        self.gauges: BusyGauges | None = None

    @property
    def ready(self) -> bool:
        """Whether it is in rotation."""
        return self.pod_ready and not self.resting

    @property
    def load(self) -> int:
        """Requests that this gateway has in it."""
        return self.in_flight


class BackendRoute(Rotation[Backend, "asyncio.Future[Backend]"]):
    """One route of real engines. Every request that arrived is counted in one of ENDS, held or in flight."""

    def __init__(self, key: str, dispatch: Dispatch, draw: random.Random, limits: HoldLimits) -> None:
        super().__init__(key)
        self._dispatch, self._draw, self._limits = dispatch, draw, limits
        self.arrived = self.retried = 0
        self.ends = dict.fromkeys(ENDS, 0)

    def hold_until_s(self) -> float:
        """Until when (time of the event loop) a request that arrives now may be held."""
        return asyncio.get_running_loop().time() + self._limits.hold_s

    async def take(self, until_s: float, avoid: Backend | None = None) -> Backend:
        """Whom to ask, at once or when somebody is ready; NobodyReadyError after `until_s` or with a full queue.

        Not `avoid` if anybody else is ready. Whoever takes must put back.
        """
        ready = self.ready
        if ready:
            return self._taken([backend for backend in ready if backend is not avoid] or ready)
        if len(self.held) >= self._limits.requests:
            raise NobodyReadyError(f"{self.key}: {len(self.held)} requests wait already, and {self._state()}")
        waiter: asyncio.Future[Backend] = asyncio.get_running_loop().create_future()
        self.held.append(waiter)
        try:
            async with asyncio.timeout_at(until_s):
                return await waiter
        except TimeoutError:
            if waiter.done() and not waiter.cancelled():
                return waiter.result()  # in the same moment
            raise NobodyReadyError(f"{self.key}: held for {self._limits.hold_s:g} s, and {self._state()}") from None
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.put_back(waiter.result())
            raise
        finally:
            if waiter in self.held:
                self.held.remove(waiter)

    def put_back(self, backend: Backend) -> None:
        """One request less in it."""
        backend.in_flight -= 1

    def add(self, backend: Backend) -> None:
        """A pod runs; it gets requests once its pod is ready."""
        self.endpoints[backend.key] = backend

    def remove(self, backend: Backend) -> None:
        """Its pod is gone. Streams that still come from it go on until they break."""
        backend.pod_ready = False
        self.endpoints.pop(backend.key, None)

    def set_ready(self, backend: Backend, ready: bool) -> None:
        """In rotation or not, as its pod says. The first that becomes ready gets what is held."""
        backend.pod_ready = ready
        self._hand_out()

    def rest(self, backend: Backend) -> None:
        """It cannot be reached, or says that it shuts down: nothing for REST_S, whatever its pod says."""
        if not backend.resting:
            backend.resting = True
            asyncio.get_running_loop().call_later(REST_S, self._rested, backend)

    def route_gauges(self) -> RouteGauges:
        """What an endpoint picker publishes, from the engines' own last scrapes."""
        return self.gauges(lambda backend: backend.gauges)

    def shown(self) -> Mapping[str, Any]:
        """Counts so far, what is inside now, and every endpoint."""
        endpoints = {
            backend.key: {
                "url": backend.url,
                "ready": backend.ready,
                "in_flight": backend.in_flight,
                "served": backend.served,
                "gauges": backend.gauges,
            }
            for backend in self.endpoints.values()
        }
        return {
            "ready": len(self.ready),
            "held": len(self.held),
            "arrived": self.arrived,
            **self.ends,
            "retried": self.retried,
            "endpoints": endpoints,
        }

    def _taken(self, candidates: list[Backend]) -> Backend:
        backend = pick(candidates, self._dispatch, self._draw)
        backend.in_flight += 1
        return backend

    def _rested(self, backend: Backend) -> None:
        backend.resting = False
        self._hand_out()

    def _hand_out(self) -> None:
        while self.held and (ready := self.ready):
            waiter = self.held.popleft()
            if not waiter.done():
                waiter.set_result(self._taken(ready))

    def _state(self) -> str:
        return f"of {len(self.endpoints)} running endpoints none is ready"
