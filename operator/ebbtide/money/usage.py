"""What services did with the GPUs that they held: tokens, how full their replicas were, and what was recommended.

Each cycle adds the time since the one before, at the rates that it read, and no more than the rates' own window: what
nobody looked at is in no count. A rate is the mean over its window, so each token is in the sum once however often one
looks; of a pod that goes, what it put out in its last half window on average is lost.

Worked example: 500 prompt and 100 output tokens/s, read every 10 s for an hour, are 1.8 and 0.36 million tokens. Where
nobody looked for 20 minutes of it and the window is one, 41 minutes are seen: 1.23 and 0.246 million.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass

from ebbtide.model.money import Payer, UsageRow, payer_of
from ebbtide.model.plan import Plan, ServicePlan, VariantPlan
from ebbtide.model.snapshot import EngineReadings, PodPhase, ServiceState, Snapshot, VariantState
from ebbtide.model.spec import Mode
from ebbtide.money import hpa
from ebbtide.money.bill import HOUR_S
from ebbtide.money.lifetimes import Holding

_MOST = 2**62  # what a database's integer holds, with room
_SILENT = (PodPhase.STARTING, PodPhase.CRASH_LOOPING)  # they answer nobody: no tokens, known without asking
_SERVING = (PodPhase.READY, PodPhase.INTERRUPTED)  # what is asked of a service is asked of these; others stand idle

Key = tuple[int, Payer]


@dataclass(slots=True)
class _Counts:
    """Those of UsageRow, in its order, with their fractions."""

    input_tokens: float = 0.0
    output_tokens: float = 0.0
    seen_gpu_s: float = 0.0
    rated_gpu_s: float = 0.0
    used_gpu_s: float = 0.0
    weighed_tokens: float = 0.0
    weighed_work: float = 0.0
    watched_s: float = 0.0
    acting_s: float = 0.0
    held_gpu_s: float = 0.0
    advised_gpu_s: float = 0.0
    compared_s: float = 0.0
    ran_gpu_s: float = 0.0
    hpa_gpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Span:
    """What is counted now: [from_s, to_s), whole unix seconds, and the pods that hold GPUs by uid."""

    from_s: int
    to_s: int
    holds: Mapping[str, Holding]

    def pieces(self, begin_s: float = 0.0) -> Iterator[tuple[int, int]]:
        """By hour, no earlier than `begin_s`: (its beginning, seconds of it)."""
        from_s = max(self.from_s, math.floor(begin_s))
        for hour_s in range(from_s // HOUR_S * HOUR_S, self.to_s, HOUR_S):
            seconds = min(self.to_s, hour_s + HOUR_S) - max(from_s, hour_s)
            if seconds > 0:
                yield hour_s, seconds


class Tally:
    """Usage by hour and payer, from what was `known` on. Rows are whole ones: writing one twice counts once."""

    def __init__(self, known: Iterable[UsageRow] = ()) -> None:
        self._rows = {(row.hour_s, row.payer): _counts(row) for row in known}
        self._changed: set[Key] = set()
        self._hpas: dict[str, hpa.Autoscalers] = {}  # by service: what would have run beside what did

    def count(
        self,
        snapshot: Snapshot,
        holdings: Sequence[Holding],
        since_s: int,
        plan: Plan | None = None,
        weights: Mapping[str, float] | None = None,
        *,
        complete: bool = True,
    ) -> None:
        """Add the time from `since_s` to the snapshot, as far as its rates go back.

        `plan` is that of the same snapshot; without one it is not known how full replicas were. `weights`: by service,
        output tokens that make as much work as a prompt token. `complete`: what is not shown does not exist.
        """
        to_s = math.floor(snapshot.taken_at)
        holds = {item.uid: item for item in holdings if item.end_s is None and item.payer.service and item.gpus > 0}
        span = _Span(max(since_s, to_s - math.floor(snapshot.rate_window_s)), to_s, holds)
        plans = {item.key: item for item in plan.services} if plan is not None else {}
        for service in snapshot.services:
            if complete:
                self._watch(service, span)
                self._compare(service, span, plans.get(service.spec.key))
            told = plans.get(service.spec.key)
            self._work(
                service, span, told.load if told is not None else None, (weights or {}).get(service.spec.key, 0.0)
            )
            if told is not None and service.spec.mode is Mode.RECOMMEND:
                self._advise(service, span, told)
        if complete:
            shown = {service.spec.key for service in snapshot.services}
            self._hpas = {key: found for key, found in self._hpas.items() if key in shown}

    def changed(self) -> tuple[UsageRow, ...]:
        """Rows that are other than when they were last written."""
        return tuple(
            UsageRow(*key, *(min(_MOST, round(value)) for value in astuple(self._rows[key])))
            for key in sorted(self._changed)
        )

    def forget(self, before_s: int) -> None:
        """Give up hours that began before: they are gaps, as if nobody had looked."""
        self._rows = {key: row for key, row in self._rows.items() if key[0] >= before_s}
        self._changed = {key for key in self._changed if key[0] >= before_s}

    def written(self, through_s: int) -> None:
        """All up to `through_s` is in the ledger: hours that are over are not needed any more."""
        self._changed = set()
        hour_s = through_s // HOUR_S * HOUR_S
        self._rows = {key: row for key, row in self._rows.items() if key[0] >= hour_s}

    def _watch(self, service: ServiceState, span: _Span) -> None:
        for hour_s, seconds in span.pieces():
            row = self._row(hour_s, payer_of(service.spec))
            row.watched_s += seconds
            row.acting_s += seconds * hpa.scaled_here(service)

    def _work(self, service: ServiceState, span: _Span, load: float | None, weight: float) -> None:
        for variant in service.variants:
            answers = [_tokens(pod.engine) is not None for pod in variant.pods if pod.serves]
            led = bool(answers) and all(answers)  # a worker's tokens are in its leader's series
            for pod in variant.pods:
                held = span.holds.get(pod.uid)
                if held is None:
                    continue
                tokens = _tokens(pod.engine) if pod.serves else (0.0, 0.0) if led else None
                if tokens is None and pod.phase in _SILENT:
                    tokens = 0.0, 0.0
                if tokens is not None:
                    used = load if pod.phase in _SERVING or load is None else 0.0
                    for hour_s, seconds in span.pieces(held.begin_s):
                        _add(self._row(hour_s, held.payer), held.gpus, seconds, tokens, used, weight)

    def _advise(self, service: ServiceState, span: _Span, plan: ServicePlan) -> None:
        """What was recommended: the more of what is wanted and of what the next step would leave.

        Nothing where it is not known of each variant: fewer of one may mean more of another.
        """
        told, gpus = {item.name: item for item in plan.variants}, hpa.gpus(service)
        if not all(gpus[variant.name] and variant.name in told for variant in service.variants):
            return
        for variant in service.variants:
            payer, held = _held_by(service, variant, span)
            for hour_s, seconds in span.pieces():
                self._row(hour_s, payer).advised_gpu_s += _replicas(told[variant.name]) * gpus[variant.name] * seconds
            for item in held:
                for hour_s, seconds in span.pieces(item.begin_s):
                    self._row(hour_s, item.payer).held_gpu_s += item.gpus * seconds

    def _compare(self, service: ServiceState, span: _Span, plan: ServicePlan | None) -> None:
        """What HPAs would have held beside what was held, of the time since the last cycle: nothing where it is not
        known what they would have seen."""
        key, gpus = service.spec.key, hpa.gpus(service)
        seen = hpa.seen(service, plan, span.to_s)
        if seen is None or not all(gpus.values()):
            if not hpa.scaled_here(service):
                self._hpas.pop(key, None)
            return
        scalers = self._hpas.get(key)
        if scalers is None or not scalers.follows(span.to_s, seen):
            self._hpas[key] = hpa.Autoscalers(span.to_s, seen)
            return
        replicas = scalers.replicas
        for hour_s, seconds in span.pieces():
            self._row(hour_s, payer_of(service.spec)).compared_s += seconds
        for variant in service.variants:
            payer, held = _held_by(service, variant, span)
            would = replicas[variant.name] * gpus[variant.name]
            for hour_s, seconds in span.pieces() if would else ():
                self._row(hour_s, payer).hpa_gpu_s += would * seconds
            for item in held:
                for hour_s, seconds in span.pieces(item.begin_s):
                    self._row(hour_s, item.payer).ran_gpu_s += item.gpus * seconds
        scalers.see(span.to_s, seen)

    def _row(self, hour_s: int, payer: Payer) -> _Counts:
        """To be changed."""
        key = hour_s, payer
        self._changed.add(key)
        found = self._rows.get(key)
        if found is None:
            found = self._rows[key] = _Counts()
        return found


def _add(row: _Counts, gpus: int, seconds: int, tokens: tuple[float, float], load: float | None, weight: float) -> None:
    """One pod's seconds at so many tokens/s."""
    came = tokens[0] * seconds
    row.input_tokens += came
    row.output_tokens += tokens[1] * seconds
    if weight > 0.0:
        row.weighed_tokens += came
        row.weighed_work += came * weight
    row.seen_gpu_s += gpus * seconds
    if load is not None:
        row.rated_gpu_s += gpus * seconds
        row.used_gpu_s += gpus * seconds * load


def _counts(row: UsageRow) -> _Counts:
    return _Counts(*(float(getattr(row, name)) for name in UsageRow.__struct_fields__[2:]))


def _replicas(plan: VariantPlan) -> int:
    return max(plan.wanted, plan.allowed)


def _held_by(service: ServiceState, variant: VariantState, span: _Span) -> tuple[Payer, list[Holding]]:
    """(who pays for more of the variant, what it holds)."""
    held = [span.holds[pod.uid] for pod in variant.pods if pod.uid in span.holds]
    if held:
        return held[0].payer, held
    pools = {spec.name: spec.pool for spec in service.spec.variants}
    return payer_of(service.spec, variant.name, pools.get(variant.name, "")), held


def _tokens(engine: EngineReadings | None) -> tuple[float, float] | None:
    """Prompt and output tokens/s; None where either is not known, or the engine counts none."""
    if engine is None:
        return None
    came, made = engine.prompt_tokens.fresh, engine.generation_tokens.fresh
    return None if came is None or made is None else (max(0.0, came), max(0.0, made))
