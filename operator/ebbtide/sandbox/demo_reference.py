"""What the demo is compared with, looked for in a process of its own: `python -m ebbtide.sandbox.demo_reference`.

That is a static fleet, and for `--scenario budget` what the fleet would cost without a ceiling. The search takes a
whole core, some seconds for a demo of minutes. As one of the sandbox's processes it ends with them, however that comes.
"""

import asyncio
import sys
from pathlib import Path

import msgspec

from ebbtide.errors import EbbtideError, SandboxError
from ebbtide.sandbox.demo import DemoOptions
from ebbtide.sandbox.processes import Processes
from ebbtide.sim import showcase
from ebbtide.sim.fleet import FleetSettings, simulate
from ebbtide.sim.policies import EbbtidePolicy
from ebbtide.sim.static import StaticPeak, static_peak

STATIC_SHARE = 0.97

_NAME = "static-reference"
_POLL_S = 0.2


class ReferenceSearch:
    """A search that runs from now on among `processes`, with its files in `directory`."""

    def __init__(self, processes: Processes, directory: Path, options: DemoOptions) -> None:
        self._processes = processes
        self._answer = directory / f"{_NAME}.answer.json"
        order = directory / f"{_NAME}.order.json"
        order.write_bytes(msgspec.json.encode(options))
        argv = [sys.executable, "-m", "ebbtide.sandbox.demo_reference", str(order), str(self._answer)]
        processes.spawn(_NAME, argv)

    async def found(self) -> "References":
        """When all is found; SandboxError where no static fleet is enough."""
        while True:
            status = self._processes.crashed().get(_NAME)
            if status == 0:
                return msgspec.json.decode(self._answer.read_bytes(), type=References)
            if status is not None:
                raise SandboxError(f"there is no static reference: {self._processes.log_tail(_NAME)}")
            await asyncio.sleep(_POLL_S)


class References(msgspec.Struct, frozen=True):
    """By service; of a budget GPU-hours by pool without a ceiling."""

    static: dict[str, StaticPeak] = {}
    gpu_hours: dict[str, float] = {}


def references(options: DemoOptions) -> References:
    """ConfigurationError where no fleet within the bounds is enough."""
    if options.budget:
        return References(gpu_hours=unconstrained(options))
    return References(static=static_references(options))


def unconstrained(options: DemoOptions) -> dict[str, float]:
    """GPU-hours of each pool, of one service each, that the fleet takes under Ebbtide without a ceiling."""
    chosen = showcase.budget_services(options.duration_s, options.seed)
    pace = options.pace
    settings = FleetSettings(scrape_s=pace.scrape_s, rate_window_s=pace.rate_window_s, cycle_s=pace.cycle_s)
    scenario = showcase.scenario(options.duration_s, options.seed, chosen)
    found = simulate(scenario, EbbtidePolicy(), settings)
    return {service.variants[0][0]: result.gpu_hours for service, result in zip(chosen, found, strict=True)}


def static_references(options: DemoOptions) -> dict[str, StaticPeak]:
    """By service; ConfigurationError where no fleet within the bounds is enough."""
    scenario = showcase.scenario(options.duration_s, options.seed)
    services = list(scenario.services)
    if options.chat_requests is not None:
        services[0] = msgspec.structs.replace(services[0], requests=options.chat_requests)
    return {service.spec.name: static_peak(scenario, service, STATIC_SHARE) for service in services}


def main() -> None:
    """From a file with `DemoOptions` to one with what was found; why there is nothing goes to stderr."""
    order, answer = map(Path, sys.argv[1:])
    try:
        found = references(msgspec.json.decode(order.read_bytes(), type=DemoOptions))
    except EbbtideError as error:
        sys.exit(str(error))
    answer.write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
