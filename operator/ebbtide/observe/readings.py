"""From rows to readings: every value of one collection, and what a pod's engine says with its quality and age.

Rows of pods that do not live are dropped on arrival. A round is kept until the next one is complete, so it is kept
small: a column of floats for each slot, with one place for each live pod (20,000 pods: 160 kB a slot).

Quality follows from three questions: does the engine have such a signal, is there a series, and how old is its newest
sample.
"""

import math
from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ebbtide.model.snapshot import NOT_APPLICABLE, UNKNOWN, EngineReadings, Latency, Quality, Reading
from ebbtide.observe.engines import ENGINES
from ebbtide.observe.engines.signals import Counter, Engine, Gauge, Histogram, Signal
from ebbtide.observe.prometheus import Labels, Sample
from ebbtide.observe.queries import UNANSWERED, slots

if TYPE_CHECKING:
    Floats = array[float]
else:
    Floats = array  # not subscriptable before Python 3.12

Candidate = tuple[str, int, float]  # slot, rank, scale


def _candidates() -> dict[tuple[int, Signal, str], tuple[Candidate, ...]]:
    """What to look for, best first, by (engine, signal, part of a histogram)."""
    found: dict[tuple[int, Signal, str], tuple[Candidate, ...]] = {}
    for slot in slots():
        for part in ("", "_sum", "_count"):
            key = (slot.engine, slot.signal, part)
            scale = 1.0 if part == "_count" else slot.metric.scale
            found[key] = (*found.get(key, ()), (slot.id(part), slot.rank, scale))
    return found


_CANDIDATES = _candidates()
_BOUND_S: dict[str, float] = {}  # `le` texts are few and repeat: one float each


_NOBODY = -1
_NAN = math.nan


class Identities:
    """Which live pod a row belongs to: `exported_*` wins where it names one, else `namespace` and `pod`.

    Each live pod (`namespace/name`) has a number: its place in every column of the round.
    """

    def __init__(self, live: Collection[str]) -> None:
        self.numbers: dict[str, int] = {pod: number for number, pod in enumerate(live)}

    def find(self, labels: Labels) -> int:
        """The pod's number, or a negative one for a pod that does not live."""
        if labels.exported_pod:
            found = self.numbers.get(f"{labels.exported_namespace or labels.namespace}/{labels.exported_pod}")
            if found is not None:
                return found
        return self.numbers.get(f"{labels.namespace}/{labels.pod}", _NOBODY)


class Values:
    """Rows of one query with plain values: a column for each slot. NaN and infinities are no values."""

    def __init__(self, identities: Identities) -> None:
        self.columns: dict[str, Floats] = {}
        self._identities = identities

    def take(self, batch: list[Sample]) -> None:
        """Add rows; of two rows for one pod and slot the larger counts."""
        columns, find = self.columns, self._identities.find
        for sample in batch:
            pod = find(sample.metric)
            value = float(sample.value.text)
            if pod < 0 or not math.isfinite(value):
                continue
            slot = sample.metric.slot
            column = columns.get(slot)
            if column is None:
                column = columns[slot] = _empty(self._identities)
            if not column[pod] >= value:  # nothing yet, or less
                column[pod] = value


class Buckets:
    """Rows of one histogram query: slot -> for each pod bound, rate, bound, rate, … in any order, or None."""

    def __init__(self, identities: Identities) -> None:
        self.columns: dict[str, list[Floats | None]] = {}
        self._identities = identities

    def take(self, batch: list[Sample]) -> None:
        """Add rows. This is the hottest loop of a cycle: half a million rows for 20,000 pods, two look-ups each."""
        columns, bounds, find = self.columns, _BOUND_S, self._identities.find
        isfinite, isnan = math.isfinite, math.isnan
        for sample in batch:
            labels = sample.metric
            pod, rate = find(labels), float(sample.value.text)
            if pod < 0 or not isfinite(rate):
                continue
            column = columns.get(labels.slot)
            if column is None:
                column = columns[labels.slot] = [None] * len(self._identities.numbers)
            row = column[pod]
            if row is None:
                row = column[pod] = array("d")
            bound = bounds.get(labels.le)
            if bound is None:
                bound = _bound(labels.le)
            if not isnan(bound):  # without a bound the row says nothing
                row.append(bound)
                row.append(rate)


class CacheSizes:
    """KV-cache tokens from the labels of an info metric, summed over the data-parallel engines of a pod."""

    def __init__(self, identities: Identities) -> None:
        self.by_engine: dict[str, Floats] = {}
        self._identities = identities

    def take(self, batch: list[Sample]) -> None:
        """Add rows; `16384 blocks of 128` are 2,097,152 tokens."""
        for sample in batch:
            labels = sample.metric
            blocks, size = labels.num_gpu_blocks or labels.num_pages, labels.block_size or labels.page_size
            pod = self._identities.find(labels)
            if pod >= 0 and blocks.isdigit() and size.isdigit():
                if labels.engine not in self.by_engine:
                    self.by_engine[labels.engine] = _empty(self._identities)
                self.by_engine[labels.engine][pod] = float(blocks) * float(size)


def _empty(identities: Identities) -> "Floats":
    return array("d", [_NAN]) * len(identities.numbers)


Columns = Mapping[str, Floats]  # slot -> the value of each pod, NaN for none


@dataclass(frozen=True, slots=True)
class Collected:
    """Everything one round of queries brought, evaluated at `at_s`. `numbers`: each live pod's place in the columns."""

    at_s: float
    numbers: Mapping[str, int]
    gauges: Columns = field(default_factory=dict)
    ages: Columns = field(default_factory=dict)
    counters: Columns = field(default_factory=dict)
    changes: Columns = field(default_factory=dict)
    cache: Columns = field(default_factory=dict)  # by data-parallel engine instead of slot
    buckets: Mapping[Histogram, Mapping[str, list[Floats | None]]] = field(default_factory=dict)

    def unanswered(self, pod: str) -> bool:
        """Whether every scrape of the pod within the rate window failed."""
        place, column = self.numbers.get(pod), self.changes.get(UNANSWERED)
        return place is not None and column is not None and not math.isnan(column[place])


@dataclass(frozen=True, slots=True)
class Limits:
    """Ages in seconds: beyond `max_age_s` a value is Stale, beyond `forget_s` Unknown. `window_s`: of the rates."""

    max_age_s: float
    forget_s: float
    window_s: float


Carriers = tuple[tuple[Floats, int, float], ...]  # column, rank and scale of the candidates that came, best first


class Readings:
    """What the pods' engines say in one round. Where a signal stands is looked up here, once and not for each pod."""

    def __init__(self, found: Collected, limits: Limits) -> None:
        self._found = found
        self._rounds = [_EngineRound(found, number, limits) for number in range(len(ENGINES))]

    def of(self, pod: str, now_s: float) -> EngineReadings | None:
        """What the pod's engine says at `now_s`; None when there is no series of any engine for it."""
        place = self._found.numbers.get(pod)
        number = None if place is None else self._engine_of(place)
        return None if place is None or number is None else _PodView(self._rounds[number], place, now_s).readings()

    def _engine_of(self, pod: int) -> int | None:
        """Index of the engine whose series the pod shows: by its running gauge first, else by any series."""
        for number, engine in enumerate(self._rounds):
            if _value(engine.gauges[Gauge.RUNNING], pod) is not None:
                return number
        tables = (self._found.gauges, self._found.counters)
        shown = (slot for table in tables for slot, column in table.items() if not math.isnan(column[pod]))
        return min((int(slot.split(".")[1]) for slot in shown), default=None)


class _EngineRound:
    """One engine's part of a round: the columns that carry each signal."""

    def __init__(self, found: Collected, number: int, limits: Limits) -> None:
        self.engine: Engine = ENGINES[number]
        self.at_s, self.limits = found.at_s, limits
        self.gauges = {signal: _carriers(found.gauges, number, signal) for signal in Gauge}
        self.rates = {signal: _carriers(found.counters, number, signal) for signal in Counter}
        self.changes = {signal: _carriers(found.changes, number, signal) for signal in Gauge}
        self.sums = {signal: _carriers(found.counters, number, signal, "_sum") for signal in Histogram}
        self.counts = {signal: _carriers(found.counters, number, signal, "_count") for signal in Histogram}
        self.buckets = {signal: _bucket_columns(found, number, signal) for signal in Histogram}
        self.ages, self.cache = tuple(found.ages.values()), tuple(found.cache.values())
        absent = {signal for signal in (*Gauge, *Counter) if signal not in self.engine.signals} | self.engine.optional
        self.without = {signal: NOT_APPLICABLE if signal in absent else UNKNOWN for signal in (*Gauge, *Counter)}


def _carriers(table: Columns, number: int, signal: Signal, part: str = "") -> Carriers:
    candidates = _CANDIDATES.get((number, signal, part), ())
    return tuple((table[slot], rank, scale) for slot, rank, scale in candidates if slot in table)


class _Bounds(dict[float, float]):
    """Bounds as published -> in seconds: one float for each bound, not one for each bound of each pod."""

    def __init__(self, scale: float) -> None:
        self._scale = scale

    def __missing__(self, bound: float) -> float:
        self[bound] = bound * self._scale
        return self[bound]


def _bucket_columns(found: Collected, number: int, signal: Histogram) -> dict[int, tuple[list[Floats | None], _Bounds]]:
    """By rank, because buckets count only beside the sum and count of the same metric."""
    table, candidates = found.buckets.get(signal, {}), _CANDIDATES.get((number, signal, ""), ())
    return {rank: (table[slot], _Bounds(scale)) for slot, rank, scale in candidates if slot in table}


def _chosen(carriers: Carriers, pod: int) -> tuple[int, float] | None:
    """The first candidate that has a value: (rank, value in base units)."""
    for column, rank, scale in carriers:
        if not math.isnan(value := column[pod]):
            return rank, value * scale
    return None


def _value(carriers: Carriers, pod: int) -> float | None:
    for column, _, scale in carriers:
        if not math.isnan(value := column[pod]):
            return value * scale
    return None


class _PodView:
    """One pod's rows, with one age for all: they come from the same scrape."""

    def __init__(self, found: _EngineRound, pod: int, now_s: float) -> None:
        self.found, self.pod, self.limits = found, pod, found.limits
        ages = [age_s for column in found.ages if not math.isnan(age_s := column[pod])]
        since_s = max(0.0, now_s - found.at_s)
        self.age_s = max(0.0, min(ages)) + since_s if ages else None
        self.quality = self._quality()

    def _quality(self) -> Quality | None:
        """Of every value of the pod; None where its age is unknown."""
        if self.age_s is None:
            return None
        if self.age_s > self.limits.forget_s:
            return Quality.UNKNOWN
        return Quality.FRESH if self.age_s <= self.limits.max_age_s else Quality.STALE

    def readings(self) -> EngineReadings:
        running, waiting = self.gauge(Gauge.RUNNING), self.gauge(Gauge.WAITING)
        if self.found.engine.gauges_freeze_when_idle:
            running, waiting = self.unless_frozen(running, waiting)
        return EngineReadings(
            engine=self.found.engine.name,
            running=running,
            waiting=waiting,
            kv_usage=self.gauge(Gauge.KV_USAGE),
            finished=self.rate(Counter.FINISHED),
            arrivals=self.arrivals(),
            prompt_tokens=self.rate(Counter.PROMPT_TOKENS),
            generation_tokens=self.rate(Counter.GENERATION_TOKENS),
            rejected=self.rate(Counter.REJECTED),
            preempted=self.rate(Counter.PREEMPTED),
            ttft=self.latency(Histogram.TTFT),
            itl=self.latency(Histogram.ITL),
            tpot=self.latency(Histogram.TPOT),
            kv_tokens=self.kv_tokens(),
            max_running=_value(self.found.gauges[Gauge.MAX_RUNNING], self.pod),
        )

    def gauge(self, signal: Gauge) -> Reading:
        value = _value(self.found.gauges[signal], self.pod)
        return self.found.without[signal] if value is None else self.aged(value)

    def rate(self, signal: Counter) -> Reading:
        value = _value(self.found.rates[signal], self.pod)
        return self.found.without[signal] if value is None else self.aged(value)

    def aged(self, value: float) -> Reading:
        if self.quality is None:
            return UNKNOWN  # a value of unknown age proves nothing
        if self.quality is Quality.UNKNOWN:
            return Reading(quality=Quality.UNKNOWN, age_s=self.age_s)
        return Reading(quality=self.quality, value=value, age_s=self.age_s)

    def arrivals(self) -> Reading:
        """Finished/s plus the growth of (running + waiting)/s: 2/s finished while 30 piled up in 60 s: 2.5/s."""
        finished = _value(self.found.rates[Counter.FINISHED], self.pod)
        running, waiting = self.change(Gauge.RUNNING), self.change(Gauge.WAITING)
        if finished is None or running is None or waiting is None:
            return UNKNOWN
        return self.aged(max(0.0, finished + (running + waiting) / self.limits.window_s))

    def change(self, signal: Gauge) -> float | None:
        return _value(self.found.changes[signal], self.pod)

    def unless_frozen(self, running: Reading, waiting: Reading) -> tuple[Reading, Reading]:
        """Zero in place of a gauge that kept the last busy moment.

        A running request makes tokens, so within a window the KV cache moves even when none finishes. Nothing finished,
        no token, no gauge moved: nothing runs. Where the KV gauge is missing that cannot be proved: Stale.
        """
        inside = (running.fresh or 0.0) + (waiting.fresh or 0.0)
        if inside == 0:
            return running, waiting
        rates = [_value(self.found.rates[counter], self.pod) for counter in _WORK]
        moved = [self.change(gauge) for gauge in (Gauge.RUNNING, Gauge.WAITING, Gauge.KV_USAGE)]
        if any(rates) or any(moved) or None in rates:
            return running, waiting
        if None in moved:
            return _stale(running), _stale(waiting)
        return _zeroed(running), _zeroed(waiting)

    def latency(self, signal: Histogram) -> Latency | None:
        """None when unknown, stale or not published; a rate of 0 when nothing was observed."""
        if self.age_s is None or self.age_s > self.limits.max_age_s:
            return None
        count = _chosen(self.found.counts[signal], self.pod)
        if count is None:
            return None
        rank, per_second = count
        total = _chosen(self.found.sums[signal], self.pod)
        mean_s = total[1] / per_second if total is not None and total[0] == rank and per_second > 0 else None
        return Latency(per_second=per_second, mean_s=mean_s, buckets=self._buckets(signal, rank))

    def _buckets(self, signal: Histogram, rank: int) -> tuple[tuple[float, float], ...]:
        found = self.found.buckets[signal].get(rank)
        flat = found[0][self.pod] if found is not None else None
        if found is None or flat is None:
            return ()
        # a quarter of what a pod's readings cost: 20 buckets a histogram, and no step more for each of them than this
        rows = sorted(zip(map(found[1].__getitem__, flat[::2]), flat[1::2], strict=True))
        return tuple(_without_tail(rows))

    def kv_tokens(self) -> float | None:
        gauges, pod = self.found.gauges, self.pod
        declared = _value(gauges[Gauge.KV_TOKENS], pod)
        if declared is not None:
            return declared
        blocks, size = _value(gauges[Gauge.KV_BLOCKS], pod), _value(gauges[Gauge.KV_BLOCK_TOKENS], pod)
        if blocks is not None and size is not None:
            return blocks * size
        sizes = [tokens for column in self.found.cache if not math.isnan(tokens := column[pod])]
        return sum(sizes) if sizes else None


_WORK = (Counter.FINISHED, Counter.PROMPT_TOKENS, Counter.GENERATION_TOKENS)


def _without_tail(buckets: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Buckets up to the first that holds everything, and the infinite one: the rest repeats the total."""
    if not buckets:
        return []
    last = len(buckets) - 1
    total, full = buckets[last][1], 0
    while buckets[full][1] < total:
        full += 1
    return buckets if full >= last - 1 else [*buckets[: full + 1], buckets[last]]


def _bound(text: str) -> float:
    bound = _BOUND_S.get(text)
    if bound is None:
        try:
            bound = float(text)
        except ValueError:
            bound = _NAN
        _BOUND_S[text] = bound
    return bound


def _stale(reading: Reading) -> Reading:
    if reading.quality is not Quality.FRESH:
        return reading
    return Reading(quality=Quality.STALE, value=reading.value, age_s=reading.age_s)


def _zeroed(reading: Reading) -> Reading:
    if reading.value is None:
        return reading
    return Reading(quality=reading.quality, value=0.0, age_s=reading.age_s)
