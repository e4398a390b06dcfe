"""One round of PromQL a cycle: all queries at one evaluation time, and the last good answer kept while none comes.

When Prometheus fails, the last values stay and age: Fresh until their maximum age, then Stale, then Unknown. The source
says at once that it failed. Nothing is ever filled in.
"""

import asyncio
from collections.abc import Collection
from typing import Any

from ebbtide.errors import EbbtideError
from ebbtide.model.snapshot import EngineReadings, Source
from ebbtide.observe.engines.signals import Histogram
from ebbtide.observe.prometheus import Consumer, Prometheus
from ebbtide.observe.queries import Query, queries
from ebbtide.observe.readings import Buckets, CacheSizes, Collected, Identities, Limits, Readings, Values
from ebbtide.observe.settings import PrometheusSettings

_TABLES = ("gauges", "ages", "counters", "changes")


class EngineMetrics:
    """Keeps the newest complete round. `prometheus` None: no Prometheus was configured."""

    def __init__(self, prometheus: Prometheus | None, settings: PrometheusSettings) -> None:
        self._prometheus = prometheus
        self._limits = Limits(settings.max_age_s, settings.forget_s, settings.rate_window_s)
        self._queries = queries(settings.rate_window_s, settings.matchers, settings.replica_labels)
        self._found: Collected | None = None
        self._error = "" if prometheus else "no prometheus.url is set"
        self._partial = ""
        self.asked = 0  # queries sent since the start

    async def collect(self, live: Collection[str], at_s: float) -> None:
        """Ask everything once. On failure of a required query the previous round stays; see `sources`."""
        if self._prometheus is None:
            return
        who = Identities(live)  # one for all: a pod has the same place in every column
        tables = _tables(who)
        outcomes = await asyncio.gather(*(self._ask(query, at_s, tables[query.name].take) for query in self._queries))
        failed = {query.name: error for query, error in zip(self._queries, outcomes, strict=True) if error}
        required = [failed[query.name] for query in self._queries if query.required and query.name in failed]
        self._error = required[0] if required else ""
        optional = [f"{name}: {error}" for name, error in failed.items() if error not in required]
        self._partial = "" if required else "; ".join(optional)
        if not required:
            self._found = _collected(at_s, who, tables, frozenset(failed))

    async def _ask(self, query: Query, at_s: float, consume: Consumer) -> str:
        assert self._prometheus is not None
        self.asked += 1
        try:
            await self._prometheus.query(query.text, at_s, consume)
        except EbbtideError as error:
            return str(error)
        return ""

    def snapshot(self) -> "MetricsView":
        """The present round, frozen."""
        return MetricsView(self._found, self._limits)

    def sources(self, now_s: float) -> tuple[Source, ...]:
        """Health of the values and, apart, of the latency histograms; one cause is said once."""
        age_s = None if self._found is None else max(0.0, now_s - self._found.at_s)
        whole = Source(name="prometheus", healthy=not self._error, age_s=age_s, message=self._error)
        if self._error:
            return (whole,)
        return (whole, Source(name="histograms", healthy=not self._partial, message=self._partial))


class MetricsView:
    """Readings of one round."""

    def __init__(self, found: Collected | None, limits: Limits) -> None:
        self._found = found
        self._readings = None if found is None else Readings(found, limits)
        self._limits = limits

    def engine(self, pod: str, now_s: float) -> EngineReadings | None:
        """What the pod `namespace/name` says; None when no engine's series is known for it."""
        return None if self._readings is None else self._readings.of(pod, now_s)

    def unanswered(self, pod: str, now_s: float) -> bool:
        """Whether Prometheus asked the pod for a whole rate window and got no answer; an old round proves nothing."""
        found = self._found
        return found is not None and now_s - found.at_s <= self._limits.max_age_s and found.unanswered(pod)


def _tables(who: Identities) -> dict[str, Any]:
    tables: dict[str, Any] = {name: Values(who) for name in _TABLES}
    return tables | {"cache": CacheSizes(who)} | {f"{kind}_buckets": Buckets(who) for kind in Histogram}


def _collected(at_s: float, who: Identities, tables: dict[str, Any], failed: frozenset[str]) -> Collected:
    return Collected(
        at_s=at_s,
        numbers=who.numbers,
        **{name: tables[name].columns for name in _TABLES},
        cache={} if "cache" in failed else tables["cache"].by_engine,
        # half a histogram is none
        buckets={kind: tables[f"{kind}_buckets"].columns for kind in Histogram if f"{kind}_buckets" not in failed},
    )
