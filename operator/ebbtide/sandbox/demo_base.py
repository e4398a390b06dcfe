"""What both demos share: a sandbox with the operator in it, watched from outside once a second.

It only observes what any user could: the API server, the results of the load, the audit log and the operator's own
metrics. Who shows it, and how, is the caller's business.
"""

import asyncio
import shutil
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, Self

import aiohttp

from ebbtide.api.crd import crd_documents
from ebbtide.clock import monotonic_s
from ebbtide.errors import EbbtideError, RetryableError, SandboxError
from ebbtide.kube.client import KubeClient
from ebbtide.model.spec import Mode
from ebbtide.sandbox.audit import Write, audit_writes, service_account_user
from ebbtide.sandbox.download import Progress
from ebbtide.sandbox.sandbox import Sandbox, SandboxConfig
from ebbtide.sim.showcase import NAMESPACE, POOL_LABEL

SYSTEM_NAMESPACE, ACCOUNT = "ebbtide-system", "ebbtide"


class Shown(Protocol):
    """A service as people see it."""

    @property
    def name(self) -> str:
        """Of the InferenceService, and of its route at the gateway."""

    @property
    def mode(self) -> Mode:
        """How far Ebbtide may go."""


@dataclass(frozen=True)
class Pace:
    """How often things are looked at, in seconds: scrapes, the window of rates, cycles of the operator."""

    scrape_s: float = 1.0
    rate_window_s: float = 15.0
    cycle_s: float = 3.0


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
    traffic: Mapping[str, Mapping[str, Any]]  # name -> summary of its requests
    pods: Mapping[str, Mapping[str, int]]  # name -> {"ready": n, "starting": n, ...}
    usage: Mapping[str, Usage]


class RunningDemo(ABC):
    """A demo in a running sandbox. `async with` it, bring it up as the kind of demo says, then iterate `watch()`.

    `prices` are by pool, for one GPU and hour; `duration_s` is how long the load lasts, and `rest_within_s` how much
    later watching ends, come what may.
    """

    rest_within_s = 40.0

    def __init__(
        self, sandbox: Sandbox, services: Sequence[Shown], prices: Mapping[str, Decimal], pace: Pace, progress: Progress
    ) -> None:
        self.sandbox = sandbox
        self.duration_s = 0.0
        self.usage = {service.name: Usage() for service in services}
        self._progress = progress
        self._pace = pace
        self._operator_port = free_port()
        self._client = KubeClient(sandbox.admin_kubeconfig)
        self._http: aiohttp.ClientSession | None = None
        self._prices = prices
        self._environment: dict[str, str] = {}  # of the operator, beside its settings

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        return self

    async def __aexit__(self, *details: Any) -> None:
        await self._client.__aexit__(None, None, None)
        if self._http is not None:
            await self._http.close()

    @abstractmethod
    async def results(self) -> Mapping[str, Mapping[str, Any]]:
        """What became of each service's requests so far: name -> a summary of `ledger.Ledger`."""

    async def watch(self, every_s: float = 1.0) -> AsyncIterator[View]:
        """Views of the demo once per `every_s` until the load has ended and has been answered."""
        began_s = last_s = monotonic_s()
        while True:
            now_s = monotonic_s()
            view = await self._view(now_s - began_s, now_s - last_s)
            last_s = now_s
            yield view
            if view.elapsed_s >= self.duration_s and (
                self._at_rest(view) or view.elapsed_s >= self.duration_s + self.rest_within_s
            ):
                return
            await asyncio.sleep(max(0.05, every_s - (monotonic_s() - now_s)))

    def _at_rest(self, view: View) -> bool:
        """Whether nothing is left to see once the load is over."""
        return all(row["ended"] >= row["requests"] for row in view.traffic.values())

    async def _view(self, elapsed_s: float, step_s: float) -> View:
        if not self.sandbox.processes.alive("operator"):
            raise SandboxError(f"the operator has ended; its log:\n{self.sandbox.processes.log_tail('operator', 3)}")
        try:
            services, pools, pods, traffic = await asyncio.gather(
                self._client.get(f"/apis/ebbtide.dev/v1alpha1/namespaces/{NAMESPACE}/inferenceservices"),
                self._client.get("/apis/ebbtide.dev/v1alpha1/gpupools"),
                self._client.get(f"/api/v1/namespaces/{NAMESPACE}/pods"),
                self.results(),
            )
        except (RetryableError, aiohttp.ClientError, TimeoutError) as error:
            raise SandboxError(f"the demo lost sight of its sandbox: {error}; logs: {self._logs()}") from error
        if elapsed_s <= self.duration_s:
            self._account(pods["items"], step_s)
        return View(
            elapsed_s=elapsed_s,
            duration_s=self.duration_s,
            services={item["metadata"]["name"]: item for item in services["items"]},
            pools={item["metadata"]["name"]: item for item in pools["items"]},
            traffic=traffic,
            pods=count_pods(pods["items"]),
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
            price = self._prices[pod["spec"]["nodeSelector"][POOL_LABEL]]
            usage.cost += price * Decimal(step_s) / 3600
            alive[name] += "deletionTimestamp" not in pod["metadata"]
        for name, count in alive.items():
            self.usage[name].replicas.append(count)

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

    async def start_operator(self, within_s: float) -> None:
        """Start it with exactly the rights that it ships with; SandboxError when it is not ready in time."""
        self.sandbox.spawn(
            "operator", [sys.executable, "-m", "ebbtide", "operator"], self._operator_settings() | self._environment
        )
        await self._until("the operator", f"http://127.0.0.1:{self._operator_port}/readyz", within_s)

    async def until_ready(self, expected: int, within_s: float) -> None:
        """Wait until so many pods of the demo are Ready; SandboxError where to look when they are not in time."""
        deadline_s = monotonic_s() + within_s
        while monotonic_s() < deadline_s:
            pods = await self._client.get(f"/api/v1/namespaces/{NAMESPACE}/pods")
            if sum(counts["ready"] for counts in count_pods(pods["items"]).values()) >= expected:
                return
            await asyncio.sleep(1.0)
        raise SandboxError(f"the engine pods were not ready within {within_s:.0f} s; logs: {self._logs()}")

    async def _until(self, what: str, url: str, within_s: float) -> None:
        deadline_s = monotonic_s() + within_s
        while monotonic_s() < deadline_s:
            try:
                async with self._session().get(url) as answer:
                    if answer.status == 200:
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(0.25)
        raise SandboxError(f"{what} did not answer at {url} within {within_s:.0f} s; logs: {self._logs()}")

    def _operator_settings(self) -> dict[str, str]:
        return {
            "EBBTIDE_KUBECONFIG": str(self.sandbox.operator_kubeconfig(SYSTEM_NAMESPACE, ACCOUNT)),
            "EBBTIDE_NAMESPACE": SYSTEM_NAMESPACE,
            "EBBTIDE_PROMETHEUS_URL": self.sandbox.prometheus_url,
            "EBBTIDE_RATE_WINDOW": f"{self._pace.rate_window_s:g}s",
            "EBBTIDE_SCRAPE_STALENESS": "15s",
            "EBBTIDE_CYCLE_INTERVAL": f"{self._pace.cycle_s:g}s",
            "EBBTIDE_DATA_DIR": str(_operator_data(self.sandbox)),
            "EBBTIDE_HTTP_HOST": "127.0.0.1",
            "EBBTIDE_HTTP_PORT": str(self._operator_port),
        }

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise EbbtideError("a demo is used outside its 'async with' block")
        return self._http

    def _logs(self) -> Path:
        return self.sandbox.directory / "logs"


def start_sandbox(config: SandboxConfig) -> Sandbox:
    """A control plane with our definitions and the demo's namespace; `config` brings the nodes and the RBAC."""
    sandbox = Sandbox.start(config)
    shutil.rmtree(_operator_data(sandbox), ignore_errors=True)  # each demo begins without a memory of the last one
    try:
        sandbox.apply(list(crd_documents().values()))
        sandbox.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    except BaseException:
        sandbox.stop()
        raise
    return sandbox


def _operator_data(sandbox: Sandbox) -> Path:
    return sandbox.directory / "operator-data"


def count_pods(pods: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Pods by service and by what they are worth: ready, starting, pending, ending."""
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


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
