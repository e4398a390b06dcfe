"""What a Prometheus that had taken these scrapes would answer to the operator's fixed queries.

The operator's own reader (`ebbtide.observe.metrics`) asks it, so that names, fallbacks, units and ages are handled by
the product. Rates and deltas are extrapolated as Prometheus does it.
"""

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.emulator.pages import Labels, Page
from ebbtide.observe.engines import ENGINES
from ebbtide.observe.engines.signals import Counter, Gauge, Histogram
from ebbtide.observe.prometheus import Consumer, Point, Sample
from ebbtide.observe.prometheus import Labels as Kept
from ebbtide.observe.queries import queries, slots
from ebbtide.observe.settings import PrometheusSettings

NAMESPACE, POD = "bench", "replica-0"

_Points = list[tuple[float, float]]
_VLLM = tuple(slot for slot in slots() if ENGINES[slot.engine].name == "vLLM")
_INFO = ("engine", "num_gpu_blocks", "block_size")


class ScrapedPrometheus:
    """Answers queries about one pod from its pages; second 0 of the pages is second 0 of the queries."""

    def __init__(self, pages: Sequence[Page], settings: PrometheusSettings) -> None:
        self._pages = pages
        self._window_s = float(settings.rate_window_s)
        known = queries(settings.rate_window_s, settings.matchers, settings.replica_labels)
        self._names = {query.text: query.name for query in known}

    async def query(self, text: str, at_s: float, consume: Consumer) -> None:
        """Hand the rows to `consume`, as the real client does."""
        name = self._names[text]
        seen = [page for page in self._pages if page.at_s <= at_s]
        window = [page for page in seen if page.at_s > at_s - self._window_s]
        if seen:
            consume(list(self._rows(name, seen[-1], window, at_s)))

    def _rows(self, name: str, newest: Page, window: Sequence[Page], at_s: float) -> Iterator[Sample]:
        rows = {
            "gauges": lambda: _gauges(newest, at_s),
            "ages": lambda: _ages(newest, at_s),
            "counters": lambda: self._counters(window, at_s),
            "changes": lambda: self._changes(window, at_s),
            "cache": lambda: _cache(newest, at_s),
        }.get(name)
        return rows() if rows else self._bucket_rows(Histogram(name.removesuffix("_buckets")), window, at_s)

    def _counters(self, window: Sequence[Page], at_s: float) -> Iterator[Sample]:
        for slot in _VLLM:
            parts = ("_sum", "_count") if isinstance(slot.signal, Histogram) else ("",)
            for part in () if isinstance(slot.signal, Gauge) else parts:
                change = self._change(window, slot.metric.name + part, at_s, rate=True)
                yield from _row(slot.id(part), change, at_s)

    def _changes(self, window: Sequence[Page], at_s: float) -> Iterator[Sample]:
        for slot in _VLLM:
            if isinstance(slot.signal, Gauge):
                yield from _row(slot.id(), self._change(window, slot.metric.name, at_s, rate=False), at_s)

    def _bucket_rows(self, kind: Histogram, window: Sequence[Page], at_s: float) -> Iterator[Sample]:
        # the query leaves single gaps at the server where requests are measured as a whole
        if kind is Histogram.ITL or not window:
            return
        for slot in _VLLM:
            name = f"{slot.metric.name}_bucket"
            for labels in window[-1].series.get(name, {}) if slot.signal is kind else ():
                value = _extrapolated(_points(window, name, labels), at_s, self._window_s, rate=True)
                if value:
                    yield _sample(slot.id(), value, at_s, {"le": dict(labels)["le"]})

    def _change(self, window: Sequence[Page], name: str, at_s: float, *, rate: bool) -> float | None:
        """The sum over all series of the name; None where there are no two scrapes of any."""
        if not window:
            return None
        found = [
            _extrapolated(_points(window, name, labels), at_s, self._window_s, rate=rate)
            for labels in window[-1].series.get(name, {})
        ]
        known = [value for value in found if value is not None]
        return sum(known) if known else None


def _gauges(newest: Page, at_s: float) -> Iterator[Sample]:
    for slot in _VLLM:
        if isinstance(slot.signal, Gauge) and slot.metric.name in newest.series:
            yield from _row(slot.id(), newest.total(slot.metric.name), at_s)


def _ages(newest: Page, at_s: float) -> Iterator[Sample]:
    for slot in _VLLM:
        if slot.signal in (Gauge.RUNNING, Counter.FINISHED) and slot.metric.name in newest.series:
            yield from _row(slot.id(), at_s - newest.at_s, at_s)


def _cache(newest: Page, at_s: float) -> Iterator[Sample]:
    for labels in newest.series.get("vllm:cache_config_info", {}):
        yield _sample("", 1.0, at_s, {key: value for key, value in labels if key in _INFO})


def _points(window: Sequence[Page], name: str, labels: Labels) -> _Points:
    return [(page.at_s, page.series[name][labels]) for page in window if labels in page.series.get(name, {})]


def _extrapolated(points: _Points, at_s: float, window_s: float, *, rate: bool) -> float | None:
    """`rate` (a second) or `delta` over the window, as Prometheus extrapolates to the window's edges."""
    if len(points) < 2:
        return None
    (first_s, first), (last_s, last) = points[0], points[-1]
    sampled_s = last_s - first_s
    apart_s = sampled_s / (len(points) - 1)
    before_s, after_s = first_s - (at_s - window_s), at_s - last_s
    change = last - first
    before_s = 0.5 * apart_s if before_s >= 1.1 * apart_s else before_s
    if rate and change > 0.0 and first >= 0.0:
        before_s = min(before_s, sampled_s * first / change)  # a counter was never below zero
    after_s = 0.5 * apart_s if after_s >= 1.1 * apart_s else after_s
    change *= (sampled_s + before_s + after_s) / sampled_s
    return change / window_s if rate else change


def _row(slot: str, value: float | None, at_s: float) -> Iterator[Sample]:
    if value is not None:
        yield _sample(slot, value, at_s, {})


def _sample(slot: str, value: float, at_s: float, more: Mapping[str, str]) -> Sample:
    return Sample(Kept(namespace=NAMESPACE, pod=POD, slot=slot, **more), Point(at_s, repr(value)))
