"""Runs the demo on emulated engines: sandbox, emulated fleet, operator, load."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from ebbtide.clock import monotonic_s, unix_time_s
from ebbtide.errors import SandboxError
from ebbtide.sandbox import showcase
from ebbtide.sandbox.demo_base import Pace, RunningDemo
from ebbtide.sandbox.download import Progress
from ebbtide.sandbox.resources import manifest
from ebbtide.sandbox.sandbox import Sandbox, SandboxConfig
from ebbtide.sim import showcase as fleet
from ebbtide.sim.requests import Request
from ebbtide.sim.showcase import NAMESPACE, ShowcaseService

_FLEET_READY_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class DemoOptions:
    """How long (seconds), from which seed, at which pace. `chat_requests` replace the chat service's own load."""

    duration_s: float = 360.0
    seed: int = 1
    name: str = "demo"
    pace: Pace = field(default_factory=Pace)
    chat_requests: tuple[Request, ...] | None = None

    def sandbox(self, progress: Progress) -> SandboxConfig:
        """The control plane it runs on: the demo's nodes and exactly the RBAC that the operator ships with."""
        return SandboxConfig(
            name=self.name,
            pools=showcase.node_pools(),
            manifests=(manifest("rbac.yaml"),),
            scrape_interval_s=self.pace.scrape_s,
            autoscaler=None,
            emulator_seed=self.seed,
            progress=progress,
        )


class Demo(RunningDemo):
    """The running demo. `async with` it, then `bring_up()`, `start()`, iterate `watch()`."""

    def __init__(self, sandbox: Sandbox, options: DemoOptions, progress: Progress) -> None:
        self.options = options
        self.services = self.fleet_of(options)
        prices = {pool.name: Decimal(pool.per_gpu_hour) for pool in fleet.POOLS}
        super().__init__(sandbox, self.services, prices, options.pace, progress)
        self.duration_s = options.duration_s
        self.counts_from_s = 0.0  # unix seconds of second 0, once it has started

    @staticmethod
    def fleet_of(options: DemoOptions) -> tuple[ShowcaseService, ...]:
        """The services that run."""
        return fleet.services(options.duration_s, options.seed)

    @staticmethod
    def pools() -> list[dict[str, Any]]:
        """The GPUPools as they are at the start."""
        return showcase.pools()

    @property
    def activator_url(self) -> str:
        """Where the metrics of the gateway before the demo's services are."""
        return f"{self.sandbox.gateway_url}/{NAMESPACE}/metrics"

    async def bring_up(self) -> None:
        """Applies the fleet; returns when every pod of the start is Ready."""
        for service in self.services:
            self.sandbox.apply(showcase.deployments(service))
        self.sandbox.apply(self.pools())
        rivals = [showcase.rival_hpa(service) for service in self.services if service.rival_hpa]
        if rivals:
            self.sandbox.apply(rivals)
        self.sandbox.apply([showcase.inference_service(service, self.activator_url) for service in self.services])
        expected = sum(start for service in self.services for _, _, start in service.variants)
        self._progress(f"waiting for {expected} engine pods to load their models (up to a minute)")
        await self.until_ready(expected, _FLEET_READY_TIMEOUT_S)

    async def start(self) -> None:
        """Warms the fleet up, starts the operator beside it, and returns at second 0 of every stream.

        The operator comes when a whole window of rates is of this load: one that fills up looks like a steep rise.
        """
        began_s = monotonic_s()
        self.counts_from_s = unix_time_s() + fleet.WARM_UP_S
        for service in self.services:
            stream = self.requests(service)
            before = [r for r in stream if r.arrival_s < 0.0]
            await self._order(service, fleet.shifted(before, fleet.WARM_UP_S), counted=False)
            counted = [r for r in stream if r.arrival_s >= 0.0]
            await self._order(service, counted, start_in_s=fleet.WARM_UP_S - (monotonic_s() - began_s))
        await asyncio.sleep(self._pace.rate_window_s + 2.0 * self._pace.scrape_s)
        await self.start_operator(fleet.WARM_UP_S)
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

    async def results(self) -> Mapping[str, Mapping[str, Any]]:
        """From the gateway that sends the load."""
        async with self._session().get(f"{self.sandbox.gateway_url}/results") as answer:
            routes = (await answer.json())["routes"]
        return {key.partition("/")[2]: summary for key, summary in routes.items()}
