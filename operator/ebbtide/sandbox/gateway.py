"""The gateway before the emulated engines: routes, rotation, dispatch, and a queue where nothing is ready.

It has no clock and no sockets: whoever owns it tells the time, in order. A pod is in rotation while it is ready; a
terminating one finishes what it has. Requests that find nobody wait in the route's queue, first in, first out.
"""

import heapq
import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any

import msgspec

from ebbtide.sandbox.ledger import Ledger, Objectives
from ebbtide.sandbox.rotation import Dispatch, Rotation, pick
from ebbtide.sim.engine import Engine, Outcome, Request
from ebbtide.sim.exposition import BusyGauges, RouteGauges


class Endpoint:
    """One engine pod as the gateway sees it. `last_busy` are its gauges when it last worked."""

    def __init__(self, key: str, route: str, engine: Engine) -> None:
        self.key, self.route, self.engine = key, route, engine
        self.ready = False
        self.last_busy: BusyGauges | None = None

    @property
    def load(self) -> int:
        """Requests inside the engine."""
        return self.engine.running + self.engine.waiting


class Route(Rotation[Endpoint, Request]):
    """One back end, `<namespace>/<name>`, and what became of its requests."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.ledger = Ledger()


class _Stream:
    """Requests of one `start_load`; `origin_s` is the gateway time of its second 0."""

    def __init__(
        self, route: Route, requests: Iterable[Request], origin_s: float, objectives: Objectives, counted: bool
    ) -> None:
        self.route, self.origin_s, self.objectives, self.counted = route, origin_s, objectives, counted
        self._requests: Iterator[Request] = iter(requests)

    def following(self) -> Request | None:
        return next(self._requests, None)


class Gateway:
    """All routes of one sandbox. Calls must come in the order of time (seconds of the caller's clock)."""

    def __init__(self, dispatch: Dispatch, seed: int) -> None:
        self.routes: dict[str, Route] = {}
        self._dispatch = dispatch
        self._draw = random.Random(seed)
        self._numbers = count()
        self._due: list[tuple[float, int, Request, _Stream]] = []
        self._streams: dict[int, _Stream] = {}  # by request number, until it has ended

    def route(self, key: str) -> Route:
        """The route `<namespace>/<name>`, made when it is first named."""
        return self.routes.setdefault(key, Route(key))

    def start_load(
        self,
        route: str,
        requests: Iterable[Request],
        start_s: float,
        objectives: Objectives,
        *,
        counted: bool = True,
    ) -> None:
        """Send `requests` (in the order of arrival; their second 0 is `start_s`) to `route`.

        What is not `counted` warms the fleet up: it is served like any other and appears in no result.
        """
        self._push(_Stream(self.route(route), requests, start_s, objectives, counted))

    def stop_load(self, route: str) -> int:
        """Drop what has not been sent to `route` yet; how many streams ended by it."""
        kept = [entry for entry in self._due if entry[3].route.key != route]
        stopped = len(self._due) - len(kept)
        heapq.heapify(kept)
        self._due = kept
        return stopped

    def add(self, endpoint: Endpoint) -> None:
        """A pod runs; it gets requests once it is ready."""
        self.route(endpoint.route).endpoints[endpoint.key] = endpoint

    def set_ready(self, endpoint: Endpoint, ready: bool, now_s: float) -> None:
        """In rotation or not. The first that becomes ready gets what the queue holds."""
        self.advance(now_s)
        endpoint.ready = ready
        route = self.route(endpoint.route)
        while route.held and route.ready:
            self._submit(route, route.held.popleft(), now_s)

    def remove(self, endpoint: Endpoint, now_s: float) -> None:
        """The pod is gone: what ran on it is aborted."""
        self.advance(now_s)
        route = self.route(endpoint.route)
        route.endpoints.pop(endpoint.key, None)
        self._book(route, endpoint.engine.abort_all(now_s))

    def advance(self, now_s: float) -> None:
        """Send what has arrived and run every engine, up to `now_s`."""
        while self._due and self._due[0][0] <= now_s:
            at_s, _, request, stream = heapq.heappop(self._due)
            self._arrive(stream, request, at_s)
            self._push(stream)
        for route in self.routes.values():
            for endpoint in route.endpoints.values():
                self._run(route, endpoint, now_s)
                if endpoint.engine.running:
                    endpoint.last_busy = BusyGauges.of(endpoint.engine)

    def gauges(self) -> list[RouteGauges]:
        """What the endpoint picker publishes."""
        return [
            route.gauges(lambda endpoint: BusyGauges.of(endpoint.engine)) for _, route in sorted(self.routes.items())
        ]

    def summary(self, key: str, now_s: float) -> Mapping[str, Any]:
        """The ledger's summary of one route, and what is inside right now."""
        route = self.routes[key]
        endpoints = route.endpoints.values()
        return {
            "route": key,
            **route.ledger.summary(now_s),
            "held": len(route.held),
            "running": sum(endpoint.engine.running for endpoint in endpoints),
            "waiting": sum(endpoint.engine.waiting for endpoint in endpoints),
            "endpoints": len(endpoints),
            "ready": len(route.ready),
            "streams": sum(entry[3].route is route for entry in self._due),
        }

    def _push(self, stream: _Stream) -> None:
        request = stream.following()
        if request is not None:
            number = next(self._numbers)
            at_s = stream.origin_s + request.arrival_s
            numbered = msgspec.structs.replace(request, id=number, arrival_s=at_s)
            heapq.heappush(self._due, (at_s, number, numbered, stream))

    def _arrive(self, stream: _Stream, request: Request, now_s: float) -> None:
        route = stream.route
        self._streams[request.id] = stream
        if stream.counted:
            route.ledger.arrived(now_s, now_s - stream.origin_s)
        if route.ready:
            self._submit(route, request, now_s)
        else:
            route.held.append(request)

    def _submit(self, route: Route, request: Request, now_s: float) -> None:
        ready = route.ready
        if self._dispatch == "least-loaded":
            for endpoint in ready:
                self._run(route, endpoint, now_s)
        chosen = pick(ready, self._dispatch, self._draw)
        chosen.engine.submit(request, now_s)

    def _run(self, route: Route, endpoint: Endpoint, now_s: float) -> None:
        outcomes = endpoint.engine.advance(now_s)
        if outcomes:
            self._book(route, outcomes)

    def _book(self, route: Route, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            stream = self._streams.pop(outcome.request.id)
            if stream.counted:
                route.ledger.book(outcome, outcome.request.arrival_s - stream.origin_s, stream.objectives)
