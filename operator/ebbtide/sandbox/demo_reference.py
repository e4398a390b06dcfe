"""The demo's static reference, looked for in a process of its own: `python -m ebbtide.sandbox.demo_reference`.

The search takes a whole core, some seconds for a demo of minutes. As one of the sandbox's processes it ends with them,
however that comes.
"""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from ebbtide.errors import EbbtideError, SandboxError
from ebbtide.sandbox.demo import DemoOptions
from ebbtide.sandbox.processes import Processes
from ebbtide.sim import showcase
from ebbtide.sim.static import StaticPeak, static_peak

STATIC_SHARE = 0.97

_NAME = "static-reference"
_POLL_S = 0.2


class ReferenceSearch:
    """A search that `module` runs from now on among `processes`, with its files in `directory`."""

    def __init__(
        self,
        processes: Processes,
        directory: Path,
        options: DemoOptions,
        module: str = "ebbtide.sandbox.demo_reference",
    ) -> None:
        self._processes = processes
        self._answer = directory / f"{_NAME}.answer.json"
        order = directory / f"{_NAME}.order.json"
        order.write_bytes(msgspec.json.encode(options))
        argv = [sys.executable, "-m", module, str(order), str(self._answer)]
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
    """ConfigurationError where no static fleet within the bounds is enough."""
    scenario = showcase.scenario(options.duration_s, options.seed)
    services = list(scenario.services)
    if options.chat_requests is not None:
        services[0] = msgspec.structs.replace(services[0], requests=options.chat_requests)
    return References({service.spec.name: static_peak(scenario, service, STATIC_SHARE) for service in services})


def main(look_for: Callable[[DemoOptions], References] = references) -> None:
    """From a file with `DemoOptions` to one with what was found; why there is nothing goes to stderr."""
    order, answer = map(Path, sys.argv[1:])
    try:
        found = look_for(msgspec.json.decode(order.read_bytes(), type=DemoOptions))
    except EbbtideError as error:
        sys.exit(str(error))
    answer.write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
