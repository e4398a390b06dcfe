"""What the observe layer reads of real engines: for each signal the metric that carries it, and its values over a run.

It asks Prometheus through the operator's own code, beside the operator, so that a demo can list what decisions rest on.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from ebbtide.clock import unix_time_s
from ebbtide.model.snapshot import EngineReadings, Latency, Reading
from ebbtide.observe.engines.signals import Engine, Histogram, Signal
from ebbtide.observe.engines.vllm import VLLM
from ebbtide.observe.metrics import EngineMetrics
from ebbtide.observe.prometheus import Prometheus
from ebbtide.observe.settings import PrometheusSettings

_RATES = frozenset({"finished", "prompt_tokens", "generation_tokens", "rejected", "preempted"})


@dataclass
class _Seen:
    """Values of one signal: how many were read, the least, the most, the newest."""

    count: int = 0
    least: float | None = None
    most: float | None = None
    newest: float | None = None
    quality: str = "Unknown"

    def add(self, value: float | None, quality: str) -> None:
        self.quality = quality if self.count == 0 or value is not None else self.quality
        if value is None:
            return
        self.count += 1
        self.least = value if self.least is None else min(self.least, value)
        self.most = value if self.most is None else max(self.most, value)
        self.newest = value


@dataclass
class SignalLog:
    """Collects readings of vLLM pods. `rate_window_s` is the operator's."""

    prometheus_url: str
    rate_window_s: float
    engine: Engine = VLLM
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    async def look(self, namespace: str, pods: Collection[str]) -> None:
        """Read each of these pods once."""
        now_s = unix_time_s()
        settings = PrometheusSettings(url=self.prometheus_url, rate_window_s=int(self.rate_window_s))
        async with Prometheus(settings) as prometheus:
            metrics = EngineMetrics(prometheus, settings)
            await metrics.collect([f"{namespace}/{pod}" for pod in pods], now_s)
        view = metrics.snapshot()
        for pod in pods:
            found = view.engine(f"{namespace}/{pod}", now_s)
            if found is not None:
                self._take(found)
        self._names |= await self._published(namespace)

    def rows(self) -> list[dict[str, Any]]:
        """One row a signal: its metric (None: not published), unit, quality, number of values, least, most, newest."""
        return [self._row(signal, names) for signal, names in self._metrics().items()]

    def _metrics(self) -> dict[str, tuple[str, ...]]:
        """Signal -> the names that can carry it, best first; of a histogram its `_sum` over its `_count`."""
        found = {signal.value: tuple(_series(signal, m.name) for m in ms) for signal, ms in self.engine.signals.items()}
        return {**found, "kv_tokens": (self.engine.info,)}

    def _row(self, signal: str, names: tuple[str, ...]) -> dict[str, Any]:
        seen = self._seen.get(signal, _Seen())
        return {
            "signal": signal,
            "metric": next((name.removesuffix("_count") for name in names if name in self._names), None),
            "unit": _unit(signal),
            "quality": seen.quality,
            "values": seen.count,
            "least": seen.least,
            "most": seen.most,
            "newest": seen.newest,
        }

    def _take(self, readings: EngineReadings) -> None:
        for signal in self._metrics():
            self._seen.setdefault(signal, _Seen()).add(*_value(getattr(readings, signal)))

    async def _published(self, namespace: str) -> set[str]:
        query = f'count by (__name__) ({{namespace="{namespace}",__name__=~".+:.+"}})'
        timeout = aiohttp.ClientTimeout(total=10)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.get(f"{self.prometheus_url}/api/v1/query", params={"query": query}) as answer,
        ):
            rows = (await answer.json())["data"]["result"]
        return {row["metric"]["__name__"] for row in rows}


def _series(signal: Signal, name: str) -> str:
    return f"{name}_count" if isinstance(signal, Histogram) else name


def _value(read: Reading | Latency | float | None) -> tuple[float | None, str]:
    if isinstance(read, Reading):
        return read.value, read.quality.value
    value = read.mean_s if isinstance(read, Latency) else read
    return value, "Unknown" if value is None else "Fresh"


def _unit(signal: str) -> str:
    if signal in _RATES:
        return "1/s"
    if signal in {kind.value for kind in Histogram}:
        return "s, mean"
    return {"kv_usage": "share", "kv_tokens": "tokens"}.get(signal, "requests")
