"""The gateway's control port: its metrics, starting and stopping load, and results.

- GET /NAMESPACE/metrics: the metrics of the namespace's endpoint pickers; their series name a pool, never a namespace.
- GET /healthz: 200 while the process works.
- POST /load: start a stream of requests; DELETE /load?route=NS/NAME: drop what has not been sent yet.
- GET /results[?route=NS/NAME][&requests=true]: summaries, on demand with every ended request.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from ebbtide.errors import ConfigurationError
from ebbtide.sandbox.gateway import Gateway
from ebbtide.sandbox.ledger import Objectives
from ebbtide.sim.exposition import CONTENT_TYPE, gateway_text
from ebbtide.sim.load import Lengths, generate, parse_shape
from ebbtide.sim.requests import Request

_MAX_BODY_BYTES = 64 * 2**20


class LoadOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /load: either `requests` as [arrival_s, prompt_tokens, output_tokens], or `shape` and `duration_s`.

    `start_in_s` is when second 0 of the stream is, from now; `objectives` judge its requests; `after_s` sets from
    which second of the stream on requests are counted apart; a stream that is not `counted` appears in no result.
    """

    route: str
    requests: list[tuple[float, int, int]] | None = None
    shape: dict[str, Any] | None = None
    lengths: Lengths = msgspec.field(default_factory=Lengths)
    duration_s: float = 0.0
    seed: int = 1
    swing: float = 0.2
    start_in_s: float = 0.0
    after_s: float = 60.0
    counted: bool = True
    objectives: Objectives = msgspec.field(default_factory=Objectives)


def requests_of(order: LoadOrder) -> list[Request]:
    """The stream that `order` asks for; ConfigurationError that names the field."""
    if "/" not in order.route:
        raise ConfigurationError(f"route: {order.route!r} is not <namespace>/<name>")
    if order.start_in_s < 0:
        raise ConfigurationError(f"start_in_s: {order.start_in_s} lies in the past; 0 is now")
    if (order.requests is None) == (order.shape is None):
        raise ConfigurationError("give exactly one of requests and shape")
    if order.shape is not None:
        if order.duration_s <= 0:
            raise ConfigurationError(f"duration_s: {order.duration_s} must be above 0 where a shape is given")
        return generate(parse_shape(order.shape), order.lengths, order.duration_s, order.seed, swing=order.swing)
    found = [Request(number, *parts) for number, parts in enumerate(sorted(order.requests or []))]
    for request in found:
        if request.arrival_s < 0 or request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ConfigurationError(f"requests: {msgspec.structs.astuple(request)[1:]} needs a time >= 0, tokens >= 1")
    return found


class GatewayApi:
    """Handlers over one gateway; `now_s` is its clock, `problems` names pods that could not be played."""

    def __init__(self, gateway: Gateway, now_s: Callable[[], float], problems: Callable[[], list[str]]) -> None:
        self._gateway, self._now_s, self._problems = gateway, now_s, problems

    def application(self) -> web.Application:
        """The aiohttp application with all routes."""
        application = web.Application(client_max_size=_MAX_BODY_BYTES)
        application.router.add_get("/{namespace}/metrics", self._metrics)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_post("/load", self._start)
        application.router.add_delete("/load", self._stop)
        application.router.add_get("/results", self._results)
        return application

    async def _metrics(self, http: web.Request) -> web.Response:
        namespace = http.match_info["namespace"]
        text = gateway_text(route for route in self._gateway.gauges() if route.namespace == namespace)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _start(self, http: web.Request) -> web.Response:
        try:
            order = msgspec.json.decode(await http.read(), type=LoadOrder)
            requests = requests_of(order)
        except (msgspec.DecodeError, ConfigurationError) as error:
            return _json({"error": str(error)}, status=400)
        now_s = self._now_s()
        self._gateway.advance(now_s)
        self._gateway.route(order.route).ledger.after_s = order.after_s
        origin_s = now_s + order.start_in_s
        self._gateway.start_load(order.route, requests, origin_s, order.objectives, counted=order.counted)
        last_s = requests[-1].arrival_s if requests else 0.0
        return _json({"route": order.route, "requests": len(requests), "last_arrival_s": last_s})

    async def _stop(self, http: web.Request) -> web.Response:
        self._gateway.advance(self._now_s())
        return _json({"stopped": self._gateway.stop_load(http.query.get("route", ""))})

    async def _results(self, http: web.Request) -> web.Response:
        now_s = self._now_s()
        self._gateway.advance(now_s)
        wanted = http.query.get("route")
        keys = sorted(self._gateway.routes) if wanted is None else [wanted]
        if any(key not in self._gateway.routes for key in keys):
            return _json({"error": f"route {wanted!r} is unknown; known: {sorted(self._gateway.routes)}"}, status=404)
        routes = {key: dict(self._gateway.summary(key, now_s)) for key in keys}
        if http.query.get("requests") == "true":
            for key, summary in routes.items():
                summary["outcomes"] = list(self._gateway.routes[key].ledger.ended)
        return _json({"routes": routes, "problems": self._problems()})


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")
