"""Runs the demo on real vLLM servers: sandbox with a process node, gateway, operator, open-loop load over HTTP.

The first server is measured alone; objectives and load follow from that, so that the demo fits any machine.
"""

import asyncio
import contextlib
import sys
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from ebbtide.clock import monotonic_s, parse_rfc3339
from ebbtide.errors import SandboxError
from ebbtide.sandbox import vllm_showcase as showcase
from ebbtide.sandbox.demo_base import Pace, RunningDemo, View
from ebbtide.sandbox.download import Progress
from ebbtide.sandbox.engines.environment import EngineEnvironment, Place
from ebbtide.sandbox.engines.model import tiny_model
from ebbtide.sandbox.ledger import Ledger, Objectives
from ebbtide.sandbox.loadgen import LoadTarget, Served, run_load
from ebbtide.sandbox.resources import manifest
from ebbtide.sandbox.sandbox import Sandbox, SandboxConfig
from ebbtide.sandbox.signals import SignalLog
from ebbtide.sandbox.vllm_showcase import Measured, VllmService
from ebbtide.sim.requests import Request
from ebbtide.sim.showcase import NAMESPACE

GATEWAY = "real-gateway"
START_TIMEOUT_S = 600.0  # 40 s on an idle machine; on one that does other things, minutes

_PACE = Pace(scrape_s=2.0, rate_window_s=30.0, cycle_s=2.0)
_ANSWER_TIMEOUT_S = 300.0
_MEASURING_S = 40.0  # Ebbtide learns meanwhile what a replica carries
_SIGNALS_EVERY_S = 10.0
# what a service starts with, until one server was measured
_LOOSE = Objectives(time_to_first_token_s=60.0, inter_token_latency_s=1.0)


@dataclass(frozen=True)
class Moment:
    """How many replicas were declared and how many were ready, `at_s` seconds into the load."""

    at_s: float
    declared: int
    ready: int


class VllmDemo(RunningDemo):
    """The running demo. `async with` it, then `bring_up()`, `measure()`, `start()`, iterate `watch()`."""

    rest_within_s = showcase.SHUTDOWN_TIMEOUT_S + 60.0  # for the fleet to shrink and drain

    def __init__(
        self,
        sandbox: Sandbox,
        env: EngineEnvironment,
        progress: Progress,
        service: VllmService | None = None,
        seed: int = 1,
    ) -> None:
        self.service = service or VllmService()
        prices = {showcase.POOL: Decimal(showcase.PRICE_PER_HOUR)}
        super().__init__(sandbox, [self.service], prices, _PACE, progress)
        self.env, self.seed = env, seed
        self.model = tiny_model(Place().models / "tiny")
        self.measured: Measured | None = None
        self.objectives = _LOOSE
        self.requests: list[Request] = []
        self.served: list[Served] = []
        self.moments: list[Moment] = []
        self.signals = SignalLog(sandbox.prometheus_url, _PACE.rate_window_s)
        self._ledger = Ledger()
        self._load: asyncio.Task[list[Served]] | None = None
        self._began_s = 0.0
        self._looked_s = -_SIGNALS_EVERY_S

    async def __aexit__(self, *details: Any) -> None:
        if self._load is not None:
            self._load.cancel()
            await asyncio.gather(self._load, return_exceptions=True)
        await super().__aexit__(*details)

    @property
    def url(self) -> str:
        """Where users of the service ask, up to `/v1`."""
        return f"{self.gateway}/{NAMESPACE}/{self.service.name}/v1"

    @property
    def gateway(self) -> str:
        """`http://127.0.0.1:PORT` of the gateway before the real servers."""
        return self.sandbox.layout.gateway_url

    async def bring_up(self, most: int = 1) -> None:
        """Starts gateway and operator and applies pool and service, which may have `most` replicas for now."""
        port, key = self.sandbox.layout.ports.gateway, f"{NAMESPACE}/{self.service.name}"
        kubeconfig = self.sandbox.layout.kubeconfigs["real-gateway"]
        flags = [f"--kubeconfig={kubeconfig}", f"--port={port}", f"--route={key}"]
        self.sandbox.spawn(GATEWAY, [sys.executable, "-m", "ebbtide.sandbox.realgateway", *flags])
        self.sandbox.apply(showcase.pool())
        self.declare(most)
        await self._until("the gateway", f"{self.gateway}/healthz", 30.0)
        await self.start_operator(30.0)

    def declare(self, most: int = showcase.REPLICAS) -> None:
        """Applies the service with the objectives of now."""
        self.sandbox.apply(showcase.inference_service(self.service, self.env, self.model, self.objectives, most))

    async def measure(self) -> None:
        """Waits for the first server, measures it with few requests one by one, and declares what follows from that."""
        self._progress("Ebbtide builds the Deployment; the first vLLM server starts (40 s on an idle machine)")
        await self.until_ready(1, START_TIMEOUT_S)
        startup_s = await self._startup_s()
        self._progress(f"the first server was ready after {startup_s:.0f} s; measuring it with a few requests")
        answers: list[Served] = []
        began_s = monotonic_s()
        while len(answers) < 2 or monotonic_s() - began_s < _MEASURING_S:
            request = Request(len(answers), 0.0, showcase.PROMPT_TOKENS, showcase.OUTPUT_TOKENS)
            answers.append(await self._asked(request))
            # as seldom as in the low load, so that Ebbtide meets no other load than that
            await asyncio.sleep(min(10.0, (1.0 / showcase.LOW - 1.0) * answers[-1].end_s))
        self.measured = measured(startup_s, answers[1:])  # the first one warms up
        self.objectives = self.measured.objectives()
        self.duration_s = self.measured.duration_s()
        self.requests = showcase.requests(self.measured.load(), self.duration_s, self.seed)
        self.declare()

    async def start(self) -> None:
        """Begins to send the load; returns at its second 0."""
        self._began_s = monotonic_s()
        self._load = asyncio.create_task(run_load(self._target(), self.requests, on_served=self._book))

    async def results(self) -> Mapping[str, Mapping[str, Any]]:
        """From the answers that came so far."""
        now_s = monotonic_s() - self._began_s
        sent = bisect_right(self.requests, now_s, key=lambda request: request.arrival_s)
        return {self.service.name: {**self._ledger.summary(now_s), "requests": sent}}

    async def routes(self) -> Mapping[str, Any]:
        """What the gateway says of the service's route: counts, held requests, endpoints."""
        async with self._session().get(f"{self.gateway}/routes") as answer:
            found: Mapping[str, Any] = (await answer.json())["routes"][f"{NAMESPACE}/{self.service.name}"]
            return found

    async def _view(self, elapsed_s: float, step_s: float) -> View:
        view = await super()._view(elapsed_s, step_s)
        declared = view.services[self.service.name].get("status", {}).get("replicas", {}).get("observed", 0)
        ready = view.pods.get(self.service.name, {}).get("ready", 0)
        self.moments.append(Moment(round(elapsed_s, 1), declared, ready))
        if elapsed_s - self._looked_s >= _SIGNALS_EVERY_S:
            self._looked_s = elapsed_s
            await self._look()
        return view

    def _operator_settings(self) -> dict[str, str]:
        """With a Lease that outlives the moments in which starting servers keep all cores busy."""
        lease = {"EBBTIDE_LEASE_DURATION": "60s", "EBBTIDE_RENEW_DEADLINE": "50s"}
        return {**super()._operator_settings(), **lease}

    def _at_rest(self, view: View) -> bool:
        """The load is answered, and the fleet has shrunk and drained."""
        return len(self.served) == len(self.requests) and sum(view.pods.get(self.service.name, {}).values()) <= 1

    def _book(self, served: Served) -> None:
        self.served.append(served)
        self._ledger.arrived(served.sent_s, served.arrival_s)
        self._ledger.book(served.outcome, served.arrival_s, self.objectives)

    async def _asked(self, request: Request) -> Served:
        [served] = await run_load(self._target(), [request])
        if served.error is not None:
            raise SandboxError(f"the first server does not answer: {served.error}; logs: {self.sandbox.directory}")
        return served

    def _target(self) -> LoadTarget:
        return LoadTarget(self.url, self.model.name, _ANSWER_TIMEOUT_S, self.seed)

    async def pods(self) -> list[Mapping[str, Any]]:
        """The pods of the demo's namespace, as the API server has them."""
        found: list[Mapping[str, Any]] = (await self._client.get(f"/api/v1/namespaces/{NAMESPACE}/pods"))["items"]
        return found

    async def _startup_s(self) -> float:
        [pod] = await self.pods()
        ready = next(item for item in pod["status"]["conditions"] if item["type"] == "Ready")
        return parse_rfc3339(ready["lastTransitionTime"]) - parse_rfc3339(pod["metadata"]["creationTimestamp"])

    async def _look(self) -> None:
        ready = [pod["metadata"]["name"] for pod in await self.pods()]
        # what is shown at the end is no reason to stop the demo
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            await self.signals.look(NAMESPACE, ready)


def check_memory() -> None:
    """SandboxError unless there is memory for all servers at once."""
    needed_gib = showcase.REPLICAS * showcase.GIB_PER_REPLICA + 1.0
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free_gib = int(lines["MemAvailable"].split()[0]) / 2**20  # with what caches would give back
    if free_gib < needed_gib:
        raise SandboxError(
            f"{showcase.REPLICAS} vLLM servers need {needed_gib:.0f} GiB of free memory, this machine has "
            f"{free_gib:.1f}: 'ebbtide demo' with emulated engines needs less"
        )


def measured(startup_s: float, alone: list[Served]) -> Measured:
    """Medians over answers of a server that had nothing else to do; SandboxError when none of them is whole."""
    whole = [
        (one.first_token_s - one.sent_s, one.inter_token_s.mean_s, one.end_s - one.sent_s)
        for one in alone
        if one.first_token_s is not None and one.inter_token_s is not None
    ]
    if not whole:
        raise SandboxError("the first server gave no whole answer")
    return Measured(startup_s, *(median(column) for column in zip(*whole, strict=True)))


def sandbox_config(name: str, progress: Progress, directory: Path | None = None) -> SandboxConfig:
    """A control plane whose only node runs processes, with exactly the RBAC that the operator ships with."""
    return SandboxConfig(
        name=name,
        directory=directory,
        pools=(),
        manifests=(manifest("rbac.yaml"),),
        scrape_interval_s=_PACE.scrape_s,
        autoscaler=None,
        process_node_slots=showcase.REPLICAS,
        progress=progress,
    )
