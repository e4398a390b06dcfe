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
_RUNNING = tuple(
    tuple(slot for slot, _, _ in _CANDIDATES.get((number, Gauge.RUNNING, ""), ())) for number in range(len(ENGINES))
)
_BOUND_S: dict[str, float] = {}  # `le` texts are few and repeat: one float each
_BOUNDS: dict[float, float] = {}


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
        place = self.numbers.get(pod)
        return place is not None and _at(self.changes, UNANSWERED, place) is not None

    def engine_of(self, pod: int) -> int | None:
        """Index of the engine whose series the pod shows: by its running gauge first, else by any series."""
        for number, slots_ in enumerate(_RUNNING):
            if any(_at(self.gauges, slot, pod) is not None for slot in slots_):
                return number
        shown = (slot for table in (self.gauges, self.counters) for slot in table if _at(table, slot, pod) is not None)
        return min((int(slot.split(".")[1]) for slot in shown), default=None)


@dataclass(frozen=True, slots=True)
class Limits:
    """Ages in seconds: beyond `max_age_s` a value is Stale, beyond `forget_s` Unknown. `window_s`: of the rates."""

    max_age_s: float
    forget_s: float
    window_s: float


def engine_readings(found: Collected, pod: str, now_s: float, limits: Limits) -> EngineReadings | None:
    """What the pod's engine says at `now_s`; None when there is no series of any engine for it."""
    place = found.numbers.get(pod)
    number = None if place is None else found.engine_of(place)
    if place is None or number is None:
        return None
    view = _PodView(found, place, number, now_s, limits)
    running, waiting = view.gauge(Gauge.RUNNING), view.gauge(Gauge.WAITING)
    if ENGINES[number].gauges_freeze_when_idle:
        running, waiting = view.unless_frozen(running, waiting)
    return EngineReadings(
        engine=ENGINES[number].name,
        running=running,
        waiting=waiting,
        kv_usage=view.gauge(Gauge.KV_USAGE),
        finished=view.rate(Counter.FINISHED),
        arrivals=view.arrivals(),
        prompt_tokens=view.rate(Counter.PROMPT_TOKENS),
        generation_tokens=view.rate(Counter.GENERATION_TOKENS),
        rejected=view.rate(Counter.REJECTED),
        preempted=view.rate(Counter.PREEMPTED),
        ttft=view.latency(Histogram.TTFT),
        itl=view.latency(Histogram.ITL),
        tpot=view.latency(Histogram.TPOT),
        kv_tokens=view.kv_tokens(),
        max_running=view.value(found.gauges, Gauge.MAX_RUNNING),
    )


class _PodView:
    """One pod's rows, with one age for all: they come from the same scrape."""

    def __init__(self, found: Collected, pod: int, number: int, now_s: float, limits: Limits) -> None:
        self.found = found
        self.pod = pod
        self.number = number
        self.engine: Engine = ENGINES[number]
        self.limits = limits
        ages = [age_s for slot in found.ages if (age_s := _at(found.ages, slot, pod)) is not None]
        since_s = max(0.0, now_s - found.at_s)
        self.age_s = max(0.0, min(ages)) + since_s if ages else None

    def chosen(self, table: Columns, signal: Signal, part: str = "") -> tuple[int, float] | None:
        """The first candidate that has a value: (rank, value in base units)."""
        for slot, rank, scale in _CANDIDATES.get((self.number, signal, part), ()):
            column = table.get(slot)
            if column is not None and not math.isnan(value := column[self.pod]):
                return rank, value * scale
        return None

    def value(self, table: Columns, signal: Signal) -> float | None:
        chosen = self.chosen(table, signal)
        return None if chosen is None else chosen[1]

    def gauge(self, signal: Gauge) -> Reading:
        return self.reading(signal, self.value(self.found.gauges, signal))

    def rate(self, signal: Counter) -> Reading:
        return self.reading(signal, self.value(self.found.counters, signal))

    def reading(self, signal: Signal, value: float | None) -> Reading:
        if signal not in self.engine.signals:
            return NOT_APPLICABLE
        if value is None:
            return NOT_APPLICABLE if signal in self.engine.optional else UNKNOWN
        return self.aged(value)

    def aged(self, value: float) -> Reading:
        if self.age_s is None:
            return UNKNOWN  # a value of unknown age proves nothing
        if self.age_s > self.limits.forget_s:
            return Reading(quality=Quality.UNKNOWN, age_s=self.age_s)
        quality = Quality.FRESH if self.age_s <= self.limits.max_age_s else Quality.STALE
        return Reading(quality=quality, value=value, age_s=self.age_s)

    def arrivals(self) -> Reading:
        """Finished/s plus the growth of (running + waiting)/s: 2/s finished while 30 piled up in 60 s: 2.5/s."""
        finished = self.value(self.found.counters, Counter.FINISHED)
        grown = [self.value(self.found.changes, signal) for signal in (Gauge.RUNNING, Gauge.WAITING)]
        if finished is None or None in grown:
            return UNKNOWN
        growth = sum(change for change in grown if change is not None)
        return self.aged(max(0.0, finished + growth / self.limits.window_s))

    def unless_frozen(self, running: Reading, waiting: Reading) -> tuple[Reading, Reading]:
        """Zero in place of a gauge that kept the last busy moment.

        A running request makes tokens, so within a window the KV cache moves even when none finishes. Nothing finished,
        no token, no gauge moved: nothing runs. Where the KV gauge is missing that cannot be proved: Stale.
        """
        inside = (running.fresh or 0.0) + (waiting.fresh or 0.0)
        rates = [self.value(self.found.counters, counter) for counter in _WORK]
        moved = [self.value(self.found.changes, gauge) for gauge in (Gauge.RUNNING, Gauge.WAITING, Gauge.KV_USAGE)]
        if inside == 0 or any(rates) or any(moved) or None in rates:
            return running, waiting
        if None in moved:
            return _stale(running), _stale(waiting)
        return _zeroed(running), _zeroed(waiting)

    def latency(self, signal: Histogram) -> Latency | None:
        """None when unknown, stale or not published; a rate of 0 when nothing was observed."""
        count = self.chosen(self.found.counters, signal, "_count")
        total = self.chosen(self.found.counters, signal, "_sum")
        if count is None or self.age_s is None or self.age_s > self.limits.max_age_s:
            return None
        rank, per_second = count
        mean_s = total[1] / per_second if total is not None and total[0] == rank and per_second > 0 else None
        return Latency(per_second=per_second, mean_s=mean_s, buckets=self._buckets(signal, rank))

    def _buckets(self, signal: Histogram, rank: int) -> tuple[tuple[float, float], ...]:
        slot, _, scale = _CANDIDATES[self.number, signal, ""][rank]
        column = self.found.buckets.get(signal, {}).get(slot)
        flat = column[self.pod] if column is not None else None
        if flat is None:
            return ()
        rows = _without_tail(sorted(zip(flat[::2], flat[1::2], strict=True)))
        # one float for each bound, not one for each bound of each pod
        shared = _BOUNDS.setdefault
        return tuple([(shared(bound * scale, bound * scale), rate) for bound, rate in rows])

    def kv_tokens(self) -> float | None:
        declared = self.value(self.found.gauges, Gauge.KV_TOKENS)
        if declared is not None:
            return declared
        blocks = self.value(self.found.gauges, Gauge.KV_BLOCKS)
        size = self.value(self.found.gauges, Gauge.KV_BLOCK_TOKENS)
        if blocks is not None and size is not None:
            return blocks * size
        sizes = [tokens for rank in self.found.cache if (tokens := _at(self.found.cache, rank, self.pod)) is not None]
        return sum(sizes) if sizes else None


_WORK = (Counter.FINISHED, Counter.PROMPT_TOKENS, Counter.GENERATION_TOKENS)


def _at(table: Columns, slot: str, pod: int) -> float | None:
    column = table.get(slot)
    if column is None:
        return None
    value = column[pod]
    return None if math.isnan(value) else value


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
