"""The real gateway as a whole: pods in, requests through, its own port.

- /<namespace>/<route>/v1/...: forwarded to an engine of that route.
- GET /<namespace>/metrics: the metrics of that namespace's endpoint pickers, as of the gateway before emulated engines.
- GET /healthz: 200 while the process works. GET /routes: counts, held requests and endpoints of every route.
"""

import asyncio
import logging
import random
import re
from collections.abc import Iterable

import aiohttp
import msgspec
from aiohttp import web

from ebbtide.errors import ConfigurationError
from ebbtide.kube.client import KubeClient
from ebbtide.sandbox.calls import run_until
from ebbtide.sandbox.podfeed import PATH_ANNOTATION, PORT_ANNOTATION, Pod, PodFeed
from ebbtide.sandbox.realgateway.backends import Backend, BackendRoute, HoldLimits
from ebbtide.sandbox.realgateway.forward import MAX_BODY_BYTES, Forwarder, upstream_session
from ebbtide.sandbox.rotation import Dispatch
from ebbtide.sim.exposition import CONTENT_TYPE, BusyGauges, gateway_text

_DEFAULT_PORT = 8000
_SCRAPE_S = 1.0
# label values may hold braces, so the value is what comes after the last one
_GAUGE = re.compile(
    r"^(?:vllm:|trtllm_)(num_requests_running|num_requests_waiting|kv_cache_usage_perc|kv_cache_utilization)"
    r"(?:\{.*\})? (\S+)",
    re.MULTILINE,
)

log = logging.getLogger(__name__)


def base_url(pod: Pod) -> str:
    """`http://podIP:port`; the port is that of the annotation, of the container, or 8000. ConfigurationError."""
    declared = [port.container_port for container in (pod.spec.containers or ())[:1] for port in container.ports]
    text = pod.metadata.annotations.get(PORT_ANNOTATION, str(next(iter(declared), _DEFAULT_PORT)))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ConfigurationError(f"annotation {PORT_ANNOTATION}: {text!r} is not a port from 1 to 65535")
    address = pod.status.pod_ip
    return f"http://[{address}]:{text}" if ":" in address else f"http://{address}:{text}"


def read_gauges(text: str) -> BusyGauges:
    """An engine's own gauges from its metrics, over all its ranks: requests added up, KV use as a mean.

    ConfigurationError where they are missing.
    """
    found: dict[str, list[float]] = {}
    for name, value in _GAUGE.findall(text):
        found.setdefault("kv" if name.startswith("kv") else name, []).append(float(value))
    try:
        running, waiting, usage = (found[name] for name in ("num_requests_running", "num_requests_waiting", "kv"))
    except KeyError as error:
        raise ConfigurationError(f"the metrics have no gauge of {error.args[0]}") from error
    return BusyGauges(round(sum(running)), round(sum(waiting)), sum(usage) / len(usage))


class RealGateway:
    """All routes, and the pods behind them. `routes` exist from the start, the others when first named."""

    def __init__(self, dispatch: Dispatch, seed: int, limits: HoldLimits, routes: Iterable[str] = ()) -> None:
        self._dispatch, self._limits = dispatch, limits
        self._draw = random.Random(seed)
        self.routes: dict[str, BackendRoute] = {}
        self._backends: dict[str, Backend] = {}  # by pod key
        self._problems: dict[str, str] = {}  # by pod key
        for key in routes:
            self.route(key)

    def route(self, key: str) -> BackendRoute:
        """The route `<namespace>/<name>`."""
        if key not in self.routes:
            self.routes[key] = BackendRoute(key, self._dispatch, self._draw, self._limits)
        return self.routes[key]

    def problems(self) -> list[str]:
        """Pods that get nothing although they run, with the reason."""
        return [f"pod {key}: {reason}" for key, reason in sorted(self._problems.items())]

    async def seen(self, pod: Pod) -> None:
        """What the API server says of a pod now."""
        if not pod.running:
            return await self.gone(pod.key)
        try:
            url = base_url(pod)
        except ConfigurationError as error:
            await self.gone(pod.key)
            self._problems[pod.key] = str(error)
            return None
        backend = self._backends.get(pod.key)
        if backend is None or (backend.uid, backend.route, backend.url) != (pod.metadata.uid, pod.route, url):
            await self.gone(pod.key)
            path = pod.metadata.annotations.get(PATH_ANNOTATION, "/metrics")
            backend = self._backends[pod.key] = Backend(pod.key, pod.metadata.uid, pod.route, url, path)
            self.route(pod.route).add(backend)
        if backend.pod_ready != pod.ready:
            log.info("%s: %s is %s rotation", pod.route, pod.key, "in" if pod.ready else "out of")
            self.route(pod.route).set_ready(backend, pod.ready)
        return None

    async def gone(self, key: str) -> None:
        """The pod, or its process, exists no more."""
        self._problems.pop(key, None)
        backend = self._backends.pop(key, None)
        if backend is not None:
            self.route(backend.route).remove(backend)

    async def scrape(self, session: aiohttp.ClientSession) -> None:
        """Ask every running engine for its gauges each second, until cancelled. No answer: its gauges are unknown."""
        while True:
            await asyncio.gather(*(self._scraped(session, backend) for backend in list(self._backends.values())))
            await asyncio.sleep(_SCRAPE_S)

    async def _scraped(self, session: aiohttp.ClientSession, backend: Backend) -> None:
        try:
            async with session.get(backend.metrics_url, timeout=aiohttp.ClientTimeout(total=_SCRAPE_S)) as response:
                backend.gauges = read_gauges(await response.text())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, ConfigurationError):
            backend.gauges = None

    def application(self, forwarder: Forwarder) -> web.Application:
        """The aiohttp application with all paths."""

        async def metrics(http: web.Request) -> web.Response:
            prefix = http.match_info["namespace"] + "/"
            routes = (route for key, route in sorted(self.routes.items()) if key.startswith(prefix))
            text = gateway_text(route.route_gauges() for route in routes)
            return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

        async def healthz(_: web.Request) -> web.Response:
            return web.Response(text="ok\n")

        async def shown(_: web.Request) -> web.Response:
            routes = {key: route.shown() for key, route in sorted(self.routes.items())}
            body = msgspec.json.encode({"routes": routes, "problems": self.problems()})
            return web.Response(body=body, content_type="application/json")

        async def forward(http: web.Request) -> web.StreamResponse:
            route = self.route(f"{http.match_info['namespace']}/{http.match_info['route']}")
            return await forwarder.serve(http, route, "/" + http.raw_path.split("/", 3)[3])

        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.router.add_get("/{namespace}/metrics", metrics)
        application.router.add_get("/healthz", healthz)
        application.router.add_get("/routes", shown)
        application.router.add_route("*", "/{namespace}/{route}/v1/{path:.*}", forward)
        return application


async def run(client: KubeClient, gateway: RealGateway, *, host: str, port: int, ended: asyncio.Event) -> None:
    """Forward at `host:port` until `ended` is set. OSError where the port is taken."""
    async with upstream_session() as session:
        application = gateway.application(Forwarder(session))
        # a client that is gone ends its handler, and with it what an engine does for it
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            log.info("gateway on http://%s:%d", host, port)
            pods = PodFeed(client, gateway.seen, gateway.gone)
            await run_until(ended, *map(asyncio.create_task, (pods.follow(), gateway.scrape(session))))
        finally:
            await runner.cleanup()
