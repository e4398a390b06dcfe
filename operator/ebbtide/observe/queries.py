"""The PromQL of one cycle: eight queries for the whole cluster, however many services there are.

Every query is a union of small terms, one for each candidate metric of each engine:

    label_replace(max by (pod…) (sum by (pod…, job, replica) (rate(NAME[60s]))), "slot", "finished.0.0", "", "")

- inside out: tensor-parallel ranks say the same thing (max), data-parallel ranks and labels such as finished_reason add
  up (sum), and the copies of a Prometheus pair or of two scrape jobs are the same pod seen twice (max);
- `up` tells a server that hangs from a pod that nobody scrapes: a scrape that fails leaves no other trace;
- the label `slot` says which candidate a row came from. A regex over `__name__` cannot do that for rates: Prometheus
  drops the name, and one pod with an old and a new name would fail the query for the whole cluster;
- `exported_pod` and `exported_namespace` are kept: which of the two names the pod is decided where live pods are known.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ebbtide.observe.engines import ENGINES
from ebbtide.observe.engines.signals import MAXIMUM_OVER_RANKS, Counter, Engine, Gauge, Histogram, Metric, Signal

IDENTITY = ("namespace", "pod", "exported_namespace", "exported_pod")
_SAME_ON_EVERY_RANK = ("tp_rank", "pp_rank", "moe_ep_rank")
UNANSWERED = "unanswered"  # the one slot that belongs to no engine
INFO_LABELS = ("engine", "num_gpu_blocks", "block_size", "num_pages", "page_size")


@dataclass(frozen=True, slots=True)
class Slot:
    """One candidate metric of one engine for one signal; `rank` 0 is the best candidate."""

    engine: int
    signal: Signal
    rank: int
    metric: Metric

    def id(self, part: str = "") -> str:
        """`finished.0.0`, or `ttft_sum.0.0`: short, because it comes back with every row."""
        return f"{self.signal}{part}.{self.engine}.{self.rank}"


@dataclass(frozen=True, slots=True)
class Query:
    """One query of the cycle. Without a required one nothing is known; without another only its own signal is."""

    name: str
    text: str
    required: bool = True


def slots(engines: tuple[Engine, ...] = ENGINES) -> Iterator[Slot]:
    """All candidates of all engines, in order."""
    for number, engine in enumerate(engines):
        for signal, candidates in engine.signals.items():
            for rank, metric in enumerate(candidates):
                yield Slot(number, signal, rank, metric)


def queries(
    window_s: int = 60, matchers: str = "", replica_labels: tuple[str, ...] = ("replica",)
) -> tuple[Query, ...]:
    """The cycle's queries. `window_s`: over which rates are taken; `matchers`: added to every selector."""
    build = _Builder(window_s, matchers, ("job", *replica_labels))
    return (
        Query("gauges", build.union(Gauge, build.newest)),
        Query("ages", build.ages()),
        Query("counters", build.counters()),
        Query("changes", build.changes()),
        Query("cache", build.cache(), required=False),
        *(Query(f"{kind}_buckets", build.buckets(kind), required=False) for kind in Histogram),
    )


@dataclass(frozen=True, slots=True)
class _Builder:
    window_s: int
    matchers: str
    copies: tuple[str, ...]  # labels in which copies of the same pod's series differ

    def selector(self, slot: Slot, suffix: str = "") -> str:
        pairs = [f'{label}="{value}"' for label, value in slot.metric.labels]
        inside = ",".join([*pairs, *([self.matchers] if self.matchers else [])])
        return f"{slot.metric.name}{suffix}{{{inside}}}" if inside else f"{slot.metric.name}{suffix}"

    def term(self, slot_id: str, inner: str, fold: str = "sum", more: tuple[str, ...] = ()) -> str:
        kept = ",".join((*IDENTITY, *more))
        apart = ",".join((*IDENTITY, *more, *self.copies))
        ranks = ",".join(_SAME_ON_EVERY_RANK)
        folded = f"max by ({kept}) ({fold} by ({apart}) (max without ({ranks}) ({inner})))"
        return f'label_replace({folded}, "slot", "{slot_id}", "", "")'

    def newest(self, slot: Slot) -> str:
        fold = "max" if slot.signal in MAXIMUM_OVER_RANKS else "sum"
        return self.term(slot.id(), self.selector(slot), fold)

    def rate(self, slot: Slot, part: str = "") -> str:
        return self.term(slot.id(part), f"rate({self.selector(slot, part)}[{self.window_s}s])")

    def union(self, kind: type[Signal], build: Callable[[Slot], str]) -> str:
        return " or ".join(build(slot) for slot in slots() if isinstance(slot.signal, kind))

    def ages(self) -> str:
        """Seconds since the newest sample: instant queries look back 5 minutes, so a value alone proves nothing."""
        anchors = [slot for slot in slots() if slot.signal in (Gauge.RUNNING, Counter.FINISHED)]
        return " or ".join(self._age(slot) for slot in anchors)

    def _age(self, slot: Slot) -> str:
        # a pod is as old as its oldest endpoint, and as young as its best copy
        kept, apart = ",".join(IDENTITY), ",".join((*IDENTITY, *self.copies))
        age = f"min by ({kept}) (max by ({apart}) (time() - timestamp({self.selector(slot)})))"
        return f'label_replace({age}, "slot", "{slot.id()}", "", "")'

    def counters(self) -> str:
        plain = self.union(Counter, self.rate)
        sums = self.union(Histogram, lambda slot: self.rate(slot, "_sum"))
        counts = self.union(Histogram, lambda slot: self.rate(slot, "_count"))
        return f"{plain} or {sums} or {counts}"

    def changes(self) -> str:
        """By how much what is inside grew over the window; arrivals are finished plus this. And who does not answer."""
        watched = [slot for slot in slots() if slot.signal in (Gauge.RUNNING, Gauge.WAITING, Gauge.KV_USAGE)]
        changes = [self.term(slot.id(), f"delta({self.selector(slot)}[{self.window_s}s])") for slot in watched]
        return " or ".join((*changes, self.unanswered()))

    def unanswered(self) -> str:
        """Pods that were asked a window ago and in every scrape since, and never answered: only they come back."""
        kept, suffix = ",".join(IDENTITY), f"{{{self.matchers}}}" if self.matchers else ""
        answered = f"max by ({kept}) (max_over_time(up{suffix}[{self.window_s}s])) == 0"
        asked = f"max by ({kept}) (up{suffix} offset {self.window_s}s)"
        return f'label_replace({answered} and {asked}, "slot", "{UNANSWERED}", "", "")'

    def cache(self) -> str:
        kept = ",".join((*IDENTITY, *INFO_LABELS))
        names = [engine.info for engine in ENGINES if engine.info]
        suffix = f"{{{self.matchers}}}" if self.matchers else ""
        return " or ".join(f"max by ({kept}) ({name}{suffix})" for name in names)

    def buckets(self, kind: Histogram) -> str:
        """Only buckets that hold something: those below the fastest request are left at the server."""
        return " or ".join(f"({self._filled(slot)})" for slot in slots() if slot.signal is kind)

    def _filled(self, slot: Slot) -> str:
        rate = f"rate({self.selector(slot, '_bucket')}[{self.window_s}s])"
        filled = f"{self.term(slot.id(), rate, more=('le',))} > 0"
        # Where requests are measured as a whole, the distribution of single gaps answers no question: a third less.
        better = [other for other in slots() if other.signal is Histogram.TPOT and other.engine == slot.engine]
        if slot.signal is not Histogram.ITL or not better:
            return filled
        kept = ",".join(IDENTITY)
        counts = " or ".join(f"max by ({kept}) ({self.selector(other, '_count')})" for other in better)
        return f"{filled} unless on ({kept}) ({counts})"


QUERY_COUNT = len(queries())
