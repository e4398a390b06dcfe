"""Plays every engine pod that the control plane says is running: an engine and a server on the pod's own address.

Watches pods with the label `sandbox.ebbtide.dev/route`, and leaves those of the process node alone, which are real. A
pod that runs gets its server (metrics, health); one that is Ready joins the gateway's rotation, one that is terminating
leaves it and finishes what it has until the pod is gone: when the last request has its answer the process ends, as a
real engine's does, or when the grace period is over.
The removal of such a pod, which elsewhere the kubelet does, is all that it ever writes to the API server.
"""

import asyncio
import logging
import zlib
from collections import Counter
from collections.abc import Callable

import msgspec
from aiohttp import web

from ebbtide import clock
from ebbtide.errors import ConfigurationError, ConflictError, EbbtideError, NotFoundError, RetryableError
from ebbtide.kube.client import KubeClient, resource_path
from ebbtide.sandbox.gateway import Endpoint, Gateway
from ebbtide.sandbox.podfeed import PATH_ANNOTATION, Pod, PodFeed
from ebbtide.sandbox.processnode.node import NODE_NAME as PROCESS_NODE_NAME
from ebbtide.sim.engine import Engine
from ebbtide.sim.exposition import CONTENT_TYPE, trtllm_text, vllm_text
from ebbtide.sim.profiles import profile

ENGINE_ANNOTATION = "sandbox.ebbtide.dev/engine"
MODEL_ANNOTATION = "sandbox.ebbtide.dev/model"
PRODUCT_LABEL = "nvidia.com/gpu.product"

_METRICS_PATHS = {"vllm": "/metrics", "trtllm": "/prometheus/metrics"}
_LOOK_S = 0.25
_EXIT_S = 1.0  # from SIGTERM to the end of an idle process, and between two tries to remove its pod

log = logging.getLogger(__name__)


class _Player:
    """One pod's engine and its HTTP server."""

    def __init__(self, pod: Pod, endpoint: Endpoint, port: int) -> None:
        self.uid, self.endpoint = pod.metadata.uid, endpoint
        self.ends_at_s: float | None = None  # terminating: not before this moment, on the gateway's clock
        self._address, self._port = pod.status.pod_ip, port
        self._model_name = endpoint.route.partition("/")[2]
        self._started_unix_s = clock.unix_time_s()
        self._metrics_path = _METRICS_PATHS[endpoint.engine.profile.engine]
        self._runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=1)

    async def start(self) -> None:
        """Listen on the pod's own address; OSError where that is not possible."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._address, self._port).start()
        except OSError:
            await self._runner.cleanup()
            raise

    async def stop(self) -> None:
        """Close the port."""
        await self._runner.cleanup()

    async def _answer(self, http: web.BaseRequest) -> web.Response:
        if http.path == self._metrics_path:
            return web.Response(body=self._metrics().encode(), headers={"Content-Type": CONTENT_TYPE})
        if http.path == "/health":
            return web.Response(status=200 if self.endpoint.ready else 503)
        return web.Response(status=404, text=f"{http.path}: known are {self._metrics_path} and /health\n")

    def _metrics(self) -> str:
        engine = self.endpoint.engine
        if engine.profile.engine == "trtllm":
            return trtllm_text(engine, self._model_name, self.endpoint.last_busy)
        return vllm_text(engine, self._model_name, self._started_unix_s)


class EnginePods:
    """Keeps players and gateway in step with the pods of the cluster. `now_s` is the gateway's clock."""

    def __init__(
        self, client: KubeClient, gateway: Gateway, now_s: Callable[[], float], seed: int, engine_port: int = 8000
    ) -> None:
        self._client, self._gateway, self._now_s = client, gateway, now_s
        self._seed, self._engine_port = seed, engine_port
        self._players: dict[str, _Player] = {}
        self._products: dict[str, str] = {}  # by node name
        self._started: Counter[str] = Counter()  # pods so far, by route
        self._problems: dict[str, str] = {}  # by pod key

    def problems(self) -> list[str]:
        """Pods that run but cannot be played, with the reason."""
        return [f"pod {key}: {reason}" for key, reason in sorted(self._problems.items())]

    async def follow(self) -> None:
        """Keep up with the API server, whatever happens to it, until cancelled."""
        await PodFeed(self._client, self._seen, self._gone).follow()

    async def end_drained(self) -> None:
        """Remove terminating pods whose last request has its answer, until cancelled."""
        while True:
            for key, player in list(self._players.items()):
                now_s = self._now_s()
                if player.ends_at_s is not None and now_s >= player.ends_at_s and player.endpoint.load == 0:
                    player.ends_at_s = now_s + _EXIT_S
                    await self._remove(key, player.uid)
            await asyncio.sleep(_LOOK_S)

    async def _remove(self, key: str, uid: str) -> None:
        namespace, _, name = key.partition("/")
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        try:
            await self._client.request("DELETE", resource_path("v1", "pods", namespace, name), body=body)
        except (NotFoundError, ConflictError):
            return  # gone already
        except EbbtideError as error:
            log.warning("pod %s has drained and cannot be removed: %s", key, error)

    async def close(self) -> None:
        """Close every port."""
        for player in self._players.values():
            await player.stop()

    async def _seen(self, pod: Pod) -> None:
        if pod.spec.node_name == PROCESS_NODE_NAME:
            return  # a real process listens on its address
        player = self._players.get(pod.key)
        if player is not None and (player.uid != pod.metadata.uid or not pod.running):
            await self._gone(pod.key)  # another pod of that name, or the process ended
            player = None
        if not pod.running:
            return
        if player is None:
            player = await self._play(pod)
        if player is None:
            return
        if player.endpoint.ready != pod.ready:
            self._gateway.set_ready(player.endpoint, pod.ready, self._now_s())
        if pod.metadata.deletion_timestamp is not None and player.ends_at_s is None:
            player.ends_at_s = self._now_s() + _EXIT_S

    async def _gone(self, key: str) -> None:
        self._problems.pop(key, None)
        player = self._players.pop(key, None)
        if player is not None:
            self._gateway.remove(player.endpoint, self._now_s())
            await player.stop()

    async def _play(self, pod: Pod) -> _Player | None:
        try:
            player = await self._player(pod)
            await player.start()
        except RetryableError:
            raise  # the API server is away: list again
        except (EbbtideError, OSError) as error:
            if self._problems.get(pod.key) != str(error):
                log.warning("pod %s cannot be played: %s", pod.key, error)
            self._problems[pod.key] = str(error)
            return None
        self._problems.pop(pod.key, None)
        self._players[pod.key] = player
        self._gateway.add(player.endpoint)
        return player

    async def _player(self, pod: Pod) -> _Player:
        annotations, route = pod.metadata.annotations, pod.route
        product = await self._product(pod.spec.node_name)
        model = annotations.get(MODEL_ANNOTATION, "8B")
        # what an engine block builds says where it is scraped, and only trtllm-serve answers there
        usual = "trtllm" if annotations.get(PATH_ANNOTATION) == _METRICS_PATHS["trtllm"] else "vllm"
        chosen = profile(model, product, annotations.get(ENGINE_ANNOTATION, usual))
        self._started[route] += 1
        # by order of start, not by name: pod names are random, runs of one seed should be alike
        seed = zlib.crc32(f"{self._seed}/{route}/{self._started[route]}".encode())
        return _Player(pod, Endpoint(pod.key, route, Engine(chosen, seed)), self._engine_port)

    async def _product(self, node: str) -> str:
        if node not in self._products:
            answer = await self._client.request("GET", resource_path("v1", "nodes", name=node))
            labels = msgspec.json.decode(answer, type=Pod).metadata.labels
            if PRODUCT_LABEL not in labels:
                raise ConfigurationError(f"node {node} has no label {PRODUCT_LABEL}: its accelerator is unknown")
            self._products[node] = labels[PRODUCT_LABEL]
        return self._products[node]
