"""What Prometheus would know of a virtual pod: samples at scrape times, rates over a window, nothing in between.

The readings are built like those of the observe layer, so that a plan sees the same delays and roundings in virtual
time as in a cluster.
"""

from collections import deque
from dataclasses import dataclass, replace

from ebbtide.model.snapshot import EngineReadings, Latency, Quality, Reading
from ebbtide.sim.engine import Engine
from ebbtide.sim.histogram import TOKEN_LATENCY_BOUNDS_S, TTFT_BOUNDS_S, Histogram

Counts = tuple[tuple[float, ...], float]

MAX_AGE_S = 60.0  # an older value is Stale: the default of the observe layer


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
    ttft: Counts
    itl: Counts
    tpot: Counts
    rejected: float = 0.0
    queued_prompt_tokens: float = 0.0  # of requests that wait; no metric of vLLM, but gateways estimate it
    scheduled_prompt_tokens: float = 0.0  # of admitted prompts, not yet computed


def sample_of(engine: Engine, now_s: float) -> Sample:
    """What the engine's /metrics say at `now_s`."""
    counters = engine.counters
    return Sample(
        at=now_s,
        running=engine.running,
        waiting=engine.waiting,
        kv_usage=engine.kv_usage,
        finished=sum(counters.finished.values()),
        prompt_tokens=counters.prompt_tokens,
        generation_tokens=counters.generation_tokens,
        preempted=counters.preemptions,
        ttft=counts_of(engine.ttft),
        itl=counts_of(engine.itl),
        tpot=counts_of(engine.tpot),
        rejected=counters.rejected,
        queued_prompt_tokens=engine.queued_prompt_tokens,
        scheduled_prompt_tokens=engine.scheduled_prompt_tokens,
    )


def counts_of(histogram: Histogram) -> Counts:
    """A histogram's counts, bucket by bucket, and its sum, as they are now."""
    return tuple(histogram.counts), histogram.sum


class PodScrapes:
    """The samples of one vLLM pod within the rate window. A sample shows itself `delay_s` after it was taken.

    Where it is known to be late, what counts as stale is set half a rate window beyond that, as whoever runs such a
    Prometheus sets it (--scrape-staleness): else nothing would ever be fresh.
    """

    def __init__(self, window_s: float, kv_tokens: float, max_running: float | None, delay_s: float = 0.0) -> None:
        self._window_s = window_s
        self._kv_tokens, self._max_running = kv_tokens, max_running
        self._delay_s, self._max_age_s = delay_s, max(MAX_AGE_S, delay_s + 0.5 * window_s)
        self._samples: deque[Sample] = deque()  # those that show, oldest first
        self._coming: deque[Sample] = deque()
        self._newest: Sample | None = None  # as it was scraped, and what counters had before they were reset
        self._before: Sample | None = None

    def add(self, sample: Sample) -> None:
        """Take a sample, the newest so far.

        A counter that fell was reset, and is counted on from there as PromQL does: 90, 100, 5 are 90, 100, 105.
        """
        if self._newest is not None and sample.generation_tokens < self._newest.generation_tokens:
            self._before = self._newest if self._before is None else _plus(self._newest, self._before)
        self._newest = sample
        self._coming.append(sample if self._before is None else _plus(sample, self._before))

    def shown(self, now_s: float) -> Sample | None:
        """The newest sample that shows at `now_s`; None before the first. Times must not go back."""
        while self._coming and self._coming[0].at + self._delay_s <= now_s:
            self._samples.append(self._coming.popleft())
        if not self._samples:
            return None
        last = self._samples[-1]
        while self._samples[0].at < last.at - self._window_s:
            self._samples.popleft()
        return last

    def readings(self, now_s: float) -> EngineReadings | None:
        """What the newest scrapes say at `now_s`; None before the first."""
        last = self.shown(now_s)
        if last is None:
            return None
        first = self._samples[0]
        age_s = now_s - last.at
        quality = Quality.FRESH if age_s <= self._max_age_s else Quality.STALE
        divisor_s = self._divisor_s()

        def rate(before: float, after: float) -> Reading:
            if divisor_s is None:
                return Reading(quality=Quality.UNKNOWN)
            return Reading(quality=quality, value=(after - before) / divisor_s, age_s=age_s)

        def gauge(value: float) -> Reading:
            return Reading(quality=quality, value=value, age_s=age_s)

        def latency(bounds: tuple[float, ...], before: Counts, after: Counts) -> Latency | None:
            if divisor_s is None or quality is not Quality.FRESH:
                return None
            return _latency(bounds, before, after, divisor_s)

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
            ttft=latency(TTFT_BOUNDS_S, first.ttft, last.ttft),
            itl=latency(TOKEN_LATENCY_BOUNDS_S, first.itl, last.itl),
            tpot=latency(TOKEN_LATENCY_BOUNDS_S, first.tpot, last.tpot),
            kv_tokens=self._kv_tokens,
            max_running=self._max_running,
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


def _plus(sample: Sample, before: Sample) -> Sample:
    """`sample`, its counters with those of `before` on top."""

    def both(one: Counts, other: Counts) -> Counts:
        return tuple(map(sum, zip(one[0], other[0], strict=True))), one[1] + other[1]

    return replace(
        sample,
        finished=sample.finished + before.finished,
        prompt_tokens=sample.prompt_tokens + before.prompt_tokens,
        generation_tokens=sample.generation_tokens + before.generation_tokens,
        preempted=sample.preempted + before.preempted,
        ttft=both(sample.ttft, before.ttft),
        itl=both(sample.itl, before.itl),
        tpot=both(sample.tpot, before.tpot),
        rejected=sample.rejected + before.rejected,
    )


def _latency(
    bounds: tuple[float, ...],
    before: Counts,
    after: Counts,
    divisor_s: float,
) -> Latency:
    cumulative = 0.0
    buckets: list[tuple[float, float]] = []
    for bound, old, new in zip((*bounds, float("inf")), before[0], after[0], strict=True):
        cumulative += (new - old) / divisor_s
        buckets.append((bound, cumulative))
    mean_s = (after[1] - before[1]) / divisor_s / cumulative if cumulative > 0 else None
    return Latency(per_second=cumulative, mean_s=mean_s, buckets=tuple(buckets))
