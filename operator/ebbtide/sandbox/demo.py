"""Runs the demo: sandbox, emulated fleet, operator, load; watches it all and adds up what happened.

It only observes what any user could: the API server, the gateway's results, the audit log and the operator's own
metrics. Who shows it, and how, is the caller's business.
"""

import asyncio
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp

from ebbtide.api.crd import crd_documents
from ebbtide.clock import monotonic_s
from ebbtide.errors import EbbtideError, RetryableError, SandboxError
from ebbtide.kube.client import KubeClient
from ebbtide.sandbox import showcase
from ebbtide.sandbox.audit import Write, audit_writes, service_account_user
from ebbtide.sandbox.download import Progress
from ebbtide.sandbox.resources import manifest
from ebbtide.sandbox.sandbox import Sandbox, SandboxConfig
from ebbtide.sim import showcase as fleet
from ebbtide.sim.requests import Request
from ebbtide.sim.showcase import NAMESPACE, ShowcaseService

SYSTEM_NAMESPACE, ACCOUNT = "ebbtide-system", "ebbtide"
_FLEET_READY_TIMEOUT_S = 120.0
_DRAIN_TIMEOUT_S = 40.0


@dataclass(frozen=True)
class DemoOptions:
    """How long, from which seed, at which pace (seconds). `chat_requests` replace the chat service's own load."""

    duration_s: float = 360.0
    seed: int = 1
    name: str = "demo"
    scrape_s: float = 1.0
    rate_window_s: float = 15.0
    cycle_s: float = 3.0
    chat_requests: tuple[Request, ...] | None = None


@dataclass
class Usage:
    """What one service held so far. GPU-seconds count from binding until the pod is gone."""

    gpu_s: float = 0.0
    cost: Decimal = Decimal(0)
    replicas: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class View:
    """One look at everything, `elapsed_s` into the load."""

    elapsed_s: float
    duration_s: float
    services: Mapping[str, Mapping[str, Any]]  # name -> InferenceService object
    pools: Mapping[str, Mapping[str, Any]]
    traffic: Mapping[str, Mapping[str, Any]]  # name -> gateway summary
    pods: Mapping[str, Mapping[str, int]]  # name -> {"ready": n, "starting": n, ...}
    usage: Mapping[str, Usage]


class Demo:
    """The running demo. `async with Demo.start(...)`, then iterate `watch()`, then `summary()`."""

    def __init__(self, sandbox: Sandbox, options: DemoOptions, progress: Progress) -> None:
        self.sandbox = sandbox
        self.options = options
        self.services = fleet.services(options.duration_s, options.seed)
        self.usage = {service.name: Usage() for service in self.services}
        self._progress = progress
        self._operator_port = _free_port()
        self._client = KubeClient(sandbox.admin_kubeconfig)
        self._http: aiohttp.ClientSession | None = None
        self._prices = {pool.name: Decimal(pool.per_gpu_hour) for pool in fleet.POOLS}

    async def __aenter__(self) -> "Demo":
        await self._client.__aenter__()
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        return self

    async def __aexit__(self, *details: Any) -> None:
        await self._client.__aexit__(None, None, None)
        if self._http is not None:
            await self._http.close()

    @property
    def activator_url(self) -> str:
        """Where the metrics of the gateway before the demo's services are."""
        return f"{self.sandbox.gateway_url}/{NAMESPACE}/metrics"

    async def bring_up(self) -> None:
        """Applies the fleet; returns when every pod of the start is Ready."""
        for service in self.services:
            self.sandbox.apply(showcase.deployments(service))
        self.sandbox.apply(showcase.pools())
        self.sandbox.apply([showcase.rival_hpa(service) for service in self.services if service.rival_hpa])
        self.sandbox.apply([showcase.inference_service(service, self.activator_url) for service in self.services])
        await self._until_ready()

    async def start(self) -> None:
        """Warms the fleet up, starts the operator beside it, and returns at second 0 of every stream."""
        began_s = monotonic_s()
        for service in self.services:
            stream = self.requests(service)
            before = [r for r in stream if r.arrival_s < 0.0]
            await self._order(service, fleet.shifted(before, fleet.WARM_UP_S), counted=False)
            counted = [r for r in stream if r.arrival_s >= 0.0]
            await self._order(service, counted, start_in_s=fleet.WARM_UP_S - (monotonic_s() - began_s))
        self.sandbox.spawn("operator", [sys.executable, "-m", "ebbtide", "operator"], self._operator_settings())
        await self._until("the operator", f"http://127.0.0.1:{self._operator_port}/readyz", fleet.WARM_UP_S)
        left_s = fleet.WARM_UP_S - (monotonic_s() - began_s)
        self._progress(f"the operator runs; it looks at the fleet for {left_s:.0f} s before the counted load begins")
        await asyncio.sleep(max(0.0, left_s))

    async def _order(
        self, service: ShowcaseService, requests: Sequence[Request], *, start_in_s: float = 0.0, counted: bool = True
    ) -> None:
        spec = fleet.service_spec(service, "")
        body = {
            "route": spec.key,
            "requests": [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in requests],
            "objectives": {
                "time_to_first_token_s": spec.objectives.ttft_s,
                "inter_token_latency_s": spec.objectives.itl_s,
            },
            "start_in_s": max(0.0, start_in_s),
            "after_s": 60.0,
            "counted": counted,
        }
        async with self._session().post(f"{self.sandbox.gateway_url}/load", json=body) as answer:
            if answer.status != 200:
                raise SandboxError(f"the gateway refused the load of {spec.key}: {await answer.text()}")

    def requests(self, service: ShowcaseService) -> list[Request]:
        """What that service will be asked; what comes before second 0 warms the fleet up."""
        own = self.options.chat_requests
        if service.name != "chat" or own is None:
            return fleet.requests(service, self.options.duration_s, self.options.seed)
        begins_with = sum(r.arrival_s < fleet.WARM_UP_S for r in own) / fleet.WARM_UP_S
        return [*fleet.warm_up(service, begins_with, self.options.seed), *own]

    async def watch(self, every_s: float = 1.0) -> AsyncIterator[View]:
        """Views of the demo once per `every_s` until the load has ended and has been answered."""
        began_s = last_s = monotonic_s()
        while True:
            now_s = monotonic_s()
            view = await self._view(now_s - began_s, now_s - last_s)
            last_s = now_s
            yield view
            if view.elapsed_s >= self.options.duration_s and (
                _all_ended(view) or view.elapsed_s >= self.options.duration_s + _DRAIN_TIMEOUT_S
            ):
                return
            await asyncio.sleep(max(0.05, every_s - (monotonic_s() - now_s)))

    async def _view(self, elapsed_s: float, step_s: float) -> View:
        try:
            services, pools, pods, traffic = await asyncio.gather(
                self._client.get(f"/apis/ebbtide.dev/v1alpha1/namespaces/{NAMESPACE}/inferenceservices"),
                self._client.get("/apis/ebbtide.dev/v1alpha1/gpupools"),
                self._client.get(f"/api/v1/namespaces/{NAMESPACE}/pods"),
                self._results(),
            )
        except (RetryableError, aiohttp.ClientError, TimeoutError) as error:
            raise SandboxError(f"the demo lost sight of its sandbox: {error}; logs: {self._logs()}") from error
        if elapsed_s <= self.options.duration_s:
            self._account(pods["items"], step_s)
        return View(
            elapsed_s=elapsed_s,
            duration_s=self.options.duration_s,
            services={item["metadata"]["name"]: item for item in services["items"]},
            pools={item["metadata"]["name"]: item for item in pools["items"]},
            traffic=traffic,
            pods=_count_pods(pods["items"]),
            usage=self.usage,
        )

    def _account(self, pods: list[dict[str, Any]], step_s: float) -> None:
        alive = dict.fromkeys(self.usage, 0)
        for pod in pods:
            name = pod["metadata"]["labels"].get("sandbox.ebbtide.dev/route", "")
            if name not in self.usage or not pod["spec"].get("nodeName"):
                continue
            usage = self.usage[name]
            usage.gpu_s += step_s
            price = self._prices[pod["spec"]["nodeSelector"][fleet.POOL_LABEL]]
            usage.cost += price * Decimal(step_s) / 3600
            alive[name] += "deletionTimestamp" not in pod["metadata"]
        for name, count in alive.items():
            self.usage[name].replicas.append(count)

    async def _results(self) -> dict[str, Any]:
        async with self._session().get(f"{self.sandbox.gateway_url}/results") as answer:
            routes = (await answer.json())["routes"]
        return {key.partition("/")[2]: summary for key, summary in routes.items()}

    async def operator_metrics(self) -> str:
        """The operator's own /metrics; empty when it does not answer."""
        try:
            async with self._session().get(f"http://127.0.0.1:{self._operator_port}/metrics") as answer:
                return await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return ""

    def operator_writes(self) -> list[Write]:
        """Every accepted write of the operator, from the API server's audit log."""
        return audit_writes(self.sandbox.audit_log, service_account_user(SYSTEM_NAMESPACE, ACCOUNT))

    async def _until_ready(self) -> None:
        expected = sum(start for service in self.services for _, _, start in service.variants)
        self._progress(f"waiting for {expected} engine pods to load their models (up to a minute)")
        deadline_s = monotonic_s() + _FLEET_READY_TIMEOUT_S
        while monotonic_s() < deadline_s:
            pods = await self._client.get(f"/api/v1/namespaces/{NAMESPACE}/pods")
            if sum(counts["ready"] for counts in _count_pods(pods["items"]).values()) >= expected:
                return
            await asyncio.sleep(1.0)
        raise SandboxError(
            f"the engine pods were not ready within {_FLEET_READY_TIMEOUT_S:.0f} s; logs: {self._logs()}"
        )

    async def _until(self, what: str, url: str, timeout_s: float) -> None:
        deadline_s = monotonic_s() + timeout_s
        while monotonic_s() < deadline_s:
            try:
                async with self._session().get(url) as answer:
                    if answer.status == 200:
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(0.25)
        raise SandboxError(f"{what} did not answer at {url} within {timeout_s:.0f} s; logs: {self._logs()}")

    def _operator_settings(self) -> dict[str, str]:
        options = self.options
        return {
            "EBBTIDE_KUBECONFIG": str(self.sandbox.operator_kubeconfig(SYSTEM_NAMESPACE, ACCOUNT)),
            "EBBTIDE_NAMESPACE": SYSTEM_NAMESPACE,
            "EBBTIDE_PROMETHEUS_URL": self.sandbox.prometheus_url,
            "EBBTIDE_RATE_WINDOW": f"{options.rate_window_s:g}s",
            "EBBTIDE_SCRAPE_STALENESS": "15s",
            "EBBTIDE_CYCLE_INTERVAL": f"{options.cycle_s:g}s",
            "EBBTIDE_DATA_DIR": str(_operator_data(self.sandbox)),
            "EBBTIDE_HTTP_HOST": "127.0.0.1",
            "EBBTIDE_HTTP_PORT": str(self._operator_port),
        }

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise EbbtideError("Demo is used outside its 'async with' block")
        return self._http

    def _logs(self) -> Path:
        return self.sandbox.directory / "logs"


def start_sandbox(options: DemoOptions, progress: Progress) -> Sandbox:
    """A control plane with the demo's nodes, our definitions and exactly the RBAC that the operator ships with."""
    config = SandboxConfig(
        name=options.name,
        pools=showcase.node_pools(),
        manifests=(manifest("rbac.yaml"),),
        scrape_interval_s=options.scrape_s,
        autoscaler=None,
        emulator_seed=options.seed,
        progress=progress,
    )
    sandbox = Sandbox.start(config)
    shutil.rmtree(_operator_data(sandbox), ignore_errors=True)  # each demo begins without a memory of the last one
    try:
        sandbox.apply(list(crd_documents().values()))
        sandbox.apply(showcase.namespace())
    except BaseException:
        sandbox.stop()
        raise
    return sandbox


def _operator_data(sandbox: Sandbox) -> Path:
    return sandbox.directory / "operator-data"


def _count_pods(pods: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for pod in pods:
        name = pod["metadata"].get("labels", {}).get("sandbox.ebbtide.dev/route", "")
        row = counts.setdefault(name, {"ready": 0, "starting": 0, "pending": 0, "ending": 0})
        row[_pod_state(pod)] += 1
    return counts


def _pod_state(pod: Mapping[str, Any]) -> str:
    if "deletionTimestamp" in pod["metadata"]:
        return "ending"
    if not pod["spec"].get("nodeName"):
        return "pending"
    conditions: Iterator[Mapping[str, Any]] = iter(pod.get("status", {}).get("conditions", ()))
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return "ready" if ready else "starting"


def _all_ended(view: View) -> bool:
    return all(row["ended"] >= row["requests"] for row in view.traffic.values())


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
