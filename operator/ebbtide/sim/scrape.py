"""What Prometheus would know of a virtual pod: samples at scrape times, rates over a window, nothing in between.

The readings are built like those of the observe layer, so that a plan sees the same delays and roundings in virtual
time as in a cluster.
"""

from collections import deque
from dataclasses import dataclass

from ebbtide.model.snapshot import EngineReadings, Latency, Quality, Reading
from ebbtide.sim.engine import Engine
from ebbtide.sim.histogram import Histogram

_Counts = tuple[tuple[float, ...], float]


@dataclass(frozen=True)
class Sample:
    """One scrape of one pod. Histograms are (per-bucket counts, sum)."""

    at: float
    running: int
    waiting: int
    kv_usage: float
    finished: float
    prompt_tokens: float
    generation_tokens: float
    preempted: float
    rejected: float
    ttft: _Counts
    itl: _Counts
    tpot: _Counts


class PodScrapes:
    """The samples of one pod within the rate window."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._samples: deque[Sample] = deque()

    def scrape(self, engine: Engine, now_s: float) -> None:
        """Take a sample and forget those that left the window."""
        counters = engine.counters
        self._samples.append(
            Sample(
                at=now_s,
                running=engine.running,
                waiting=engine.waiting,
                kv_usage=engine.kv_usage,
                finished=sum(counters.finished.values()),
                prompt_tokens=counters.prompt_tokens,
                generation_tokens=counters.generation_tokens,
                preempted=counters.preemptions,
                rejected=counters.rejected,
                ttft=_copy(engine.ttft),
                itl=_copy(engine.itl),
                tpot=_copy(engine.tpot),
            )
        )
        while self._samples[0].at < now_s - self._window_s:
            self._samples.popleft()

    def readings(self, engine: Engine, now_s: float) -> EngineReadings | None:
        """What the newest scrapes say at `now_s`; None before the first."""
        if not self._samples:
            return None
        first, last = self._samples[0], self._samples[-1]
        age_s = now_s - last.at
        divisor_s = self._divisor_s()

        def rate(before: float, after: float) -> Reading:
            if divisor_s is None:
                return Reading(quality=Quality.UNKNOWN)
            return Reading(quality=Quality.FRESH, value=(after - before) / divisor_s, age_s=age_s)

        def gauge(value: float) -> Reading:
            return Reading(quality=Quality.FRESH, value=value, age_s=age_s)

        def latency(histogram: Histogram, before: _Counts, after: _Counts) -> Latency | None:
            return None if divisor_s is None else _latency(histogram.bounds, before, after, divisor_s)

        in_flight_change = last.running + last.waiting - first.running - first.waiting
        return EngineReadings(
            engine="vLLM",
            running=gauge(last.running),
            waiting=gauge(last.waiting),
            kv_usage=gauge(last.kv_usage),
            finished=rate(first.finished, last.finished),
            arrivals=rate(0.0, max(0.0, last.finished - first.finished + in_flight_change)),
            prompt_tokens=rate(first.prompt_tokens, last.prompt_tokens),
            generation_tokens=rate(first.generation_tokens, last.generation_tokens),
            rejected=rate(first.rejected, last.rejected),
            preempted=rate(first.preempted, last.preempted),
            ttft=latency(engine.ttft, first.ttft, last.ttft),
            itl=latency(engine.itl, first.itl, last.itl),
            tpot=latency(engine.tpot, first.tpot, last.tpot),
            kv_tokens=float(engine.profile.kv_tokens),
            # vLLM says nowhere how many it lets run at a time
            max_running=float(engine.profile.max_num_seqs) if engine.profile.engine == "trtllm" else None,
        )

    def _divisor_s(self) -> float | None:
        """What PromQL's `rate` divides an increase by; None before two samples.

        A series that covers the window is extrapolated to its edges; one that is younger by half a scrape interval
        only, so 5 s of samples in a window of 15 s at 1 s scrapes count as 6/15 of the true rate.
        """
        count, span_s = len(self._samples), self._samples[-1].at - self._samples[0].at
        if count < 2 or span_s <= 0:
            return None
        covered_s = min(self._window_s, span_s + span_s / (count - 1))
        return self._window_s * span_s / covered_s


def _copy(histogram: Histogram) -> _Counts:
    return tuple(histogram.counts), histogram.sum


def _latency(
    bounds: tuple[float, ...],
    before: _Counts,
    after: _Counts,
    divisor_s: float,
) -> Latency:
    cumulative = 0.0
    buckets: list[tuple[float, float]] = []
    for bound, old, new in zip((*bounds, float("inf")), before[0], after[0], strict=True):
        cumulative += (new - old) / divisor_s
        buckets.append((bound, cumulative))
    mean_s = (after[1] - before[1]) / divisor_s / cumulative if cumulative > 0 else None
    return Latency(per_second=cumulative, mean_s=mean_s, buckets=tuple(buckets))
