"""The process that is measured: the operator's own wiring, run cycle by cycle against `benchmarks.cluster`.

Everything is the product's: caches, Kopf's intake, plan, actuator, store, flight recorder, statuses, Events. Only the
clock is moved: a cycle lasts ten seconds for the operator, and as long as it takes here. CPU is that of the whole
process, so a step's share includes what ran beside it (watches, gateways, intake).

    python -m benchmarks.measured --services 100 --url http://127.0.0.1:1234     # prints one JSON object
"""

import argparse
import asyncio
import contextlib
import json
import logging
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ebbtide.clock import unix_time_s
from ebbtide.controller.cycle import run_cycle
from ebbtide.controller.heap import share_one_heap, spare_the_collector
from ebbtide.controller.intake import Intake
from ebbtide.controller.leadership import AlwaysLeading, GuardedClient
from ebbtide.controller.meters import Meters
from ebbtide.controller.settings import Settings
from ebbtide.controller.wiring import Wiring
from ebbtide.kube.client import KubeClient
from ebbtide.model.memory import Memory
from ebbtide.record.metrics import Metrics

CYCLE_S = 10
STEPS = ("observe", "plan", "record", "remember", "act", "report")
_SETTLING_LIMIT_S = 3600
_WARM_UP = 6  # cycles before the steady ones


@dataclass
class Cost:
    """What something took: CPU and wall seconds."""

    cpu_s: float = 0.0
    wall_s: float = 0.0


@dataclass
class Period:
    """One cycle and the seconds after it, until the next."""

    steps: dict[str, Cost] = field(default_factory=dict)
    between: Cost = field(default_factory=Cost)
    failed: tuple[str, ...] = ()
    actions: int = 0
    promql: int = 0
    statuses: list[int] = field(default_factory=list)  # written in each second
    waiting: int = 0
    requests: dict[str, int] = field(default_factory=dict)


class CpuMeters(Meters):
    """Meters that also note the process's CPU time of each step."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(metrics)
        self.costs: dict[str, Cost] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times the block."""
        with measured() as cost, super().step(name):
            yield
        self.costs[name] = cost


@contextmanager
def measured() -> Iterator[Cost]:
    """CPU (all threads of this process) and wall time of the block."""
    cost, cpu_s, wall_s = Cost(), time.process_time(), time.perf_counter()
    yield cost
    cost.cpu_s, cost.wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s


class Bench:
    """The wired operator, a moved clock, and what the other side counted."""

    def __init__(self, wiring: Wiring, metrics: Metrics, url: str, now_s: float, services: int) -> None:
        self.now_s, self.services = now_s, services
        self._wiring, self._metrics, self._url = wiring, metrics, url
        self._meters = CpuMeters(Metrics())
        self._parts = replace(wiring.parts, meters=self._meters)
        self._memory = Memory()

    async def ask(self, path: str) -> dict[str, Any]:
        """The other side, outside of what is measured."""
        return await asyncio.to_thread(_get, f"{self._url}/bench/{path}")

    async def period(self) -> Period:
        """One cycle and the ten seconds that follow it."""
        await self.ask("counts")
        asked = self._promql()
        cycle = await run_cycle(self._parts, self._memory, self.now_s)
        self._memory = cycle.memory
        period = Period(steps=dict(self._meters.costs), failed=cycle.failed, promql=self._promql() - asked)
        with measured() as period.between:
            for second in range(CYCLE_S):
                written = self._statuses()
                await self._wiring.write_statuses(self.now_s + second)
                period.statuses.append(self._statuses() - written)
            await asyncio.sleep(0.2)  # what the writes brought back as watch events
        self.now_s += CYCLE_S
        period.waiting = int(self._metrics.status_waiting._value.get())
        period.requests = await self.ask("counts")
        period.actions = period.requests.get("scale", 0)
        return period

    async def settle(self) -> int:
        """Write all statuses that wait, at the operator's own pace; returns how many seconds of it that took."""
        for second in range(_SETTLING_LIMIT_S):
            await self._wiring.write_statuses(self.now_s)
            self.now_s += 1.0
            if not self._metrics.status_waiting._value.get():
                return second + 1
        return _SETTLING_LIMIT_S

    def close(self) -> None:
        """Keep the memory, as at a graceful stop."""
        self._wiring.close(self._memory)

    def _promql(self) -> int:
        return int(self._metrics.promql_queries._value.get())

    def _statuses(self) -> int:
        return int(self._metrics.writes.labels("status", "done")._value.get())


async def measure(services: int, url: str, cycles: int, surge: float) -> dict[str, Any]:
    """Start, settle, some cycles in steady state, one in which `surge` of the services change, and what all took."""
    result: dict[str, Any] = {"services": services, "imported_mib": _memory_mib("VmRSS")}
    with tempfile.TemporaryDirectory() as folder:
        async with operator(Path(folder), url, services) as (bench, started):
            result["start"] = started
            with measured() as settling:
                first = await bench.period()
                _say(services, "first cycle")
                settling_s = await bench.settle()
                for seed in range(_WARM_UP):  # capacities are learnt from several cycles, and told once
                    await _next(bench, seed, 0.0)
                    settling_s += await bench.settle()
            result |= {"first": first, "settling": settling, "settling_s": settling_s}
            _say(services, f"first statuses, {settling_s} s of the operator's time")
            result["steady"] = [await _next(bench, seed, 0.0) for seed in range(1, cycles + 1)]
            # a raise may wait for a second look: the cycle that counts is the one that writes most
            result["surge"] = [await _next(bench, 0, surge) for _ in range(3)]
            bench.close()
    result |= {"peak_mib": _memory_mib("VmHWM"), "end_mib": _memory_mib("VmRSS")}
    return result


async def _next(bench: Bench, seed: int, surge: float) -> Period:
    await bench.ask(f"next?seed={seed % 3}&surge={surge}")
    period = await bench.period()
    _say(bench.services, f"cycle with seed {seed} and {surge:.0%} of the services surging")
    return period


@contextlib.asynccontextmanager
async def operator(folder: Path, url: str, services: int) -> AsyncIterator[tuple[Bench, Cost]]:
    """The operator, with caches warm; and what that took."""
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(_kubeconfig(url)))
    settings = Settings(
        kubeconfig=kubeconfig, prometheus_url=url, data_dir=folder / "data", leader_election=False, namespace="ebbtide"
    )
    metrics, leadership = Metrics(), AlwaysLeading()
    with measured() as cost:
        async with contextlib.AsyncExitStack() as stack:
            reader = await stack.enter_async_context(KubeClient(kubeconfig))
            writer = await stack.enter_async_context(GuardedClient(leadership, kubeconfig))
            wiring = Wiring(settings, reader, writer, leadership, metrics)
            await stack.enter_async_context(wiring.observer)
            await wiring.observer.synced()
            intake = Intake(lambda: None, kubeconfig=kubeconfig)
            intake.start()
            stack.push_async_callback(intake.stop)
            await asyncio.sleep(0.5 + services / 1000)
            opened = stack.pop_all()
    async with opened:
        yield Bench(wiring, metrics, url, unix_time_s(), services), cost


def _kubeconfig(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": url}}],
        "users": [{"name": "bench", "user": {"token": "bench"}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
    }


def _say(services: int, what: str) -> None:
    said = f"{services} services: {what}; {_memory_mib('VmRSS'):.0f} MiB, peak {_memory_mib('VmHWM'):.0f} MiB"
    print(said, file=sys.stderr, flush=True)


def _get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=300) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def _memory_mib(field_: str) -> float:
    """VmRSS or VmHWM (the peak) of this process in MiB, by the kernel's own account."""
    found = re.search(rf"^{field_}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found.group(1)) / 1024 if found else 0.0


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--services", type=int, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--cycles", type=int, default=6)
    parser.add_argument("--surge", type=float, default=0.05)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    share_one_heap()
    spare_the_collector()
    result = asyncio.run(measure(options.services, options.url, options.cycles, options.surge))
    print(json.dumps(result, default=vars))


if __name__ == "__main__":
    main()
