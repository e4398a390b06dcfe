"""How much must be carried: as many replicas as are worth having at the price of a miss, plus what the backlog takes.

There is no margin: a forecast in doubt, few replicas or a strict objective make one more replica save more misses, and
it is started as long as they are worth it. What is worth having is turned into requests/s, so that placement may choose
another mix of variants that carries as much. It is weighed once a rate window, or when something moves by more than
noise, and holds in between: must never hold beyond that, nor while something waits.
"""

import math
from collections.abc import Sequence

from ebbtide.core import edge, fullness, price, turns, worth
from ebbtide.core.capacity import replica_rate
from ebbtide.core.forecast.outlook import Outlook, look
from ebbtide.core.forecast.spread import Misses
from ebbtide.core.forecast.step import foresee, keep_figures, shown
from ebbtide.core.guardrails import bounds
from ebbtide.core.numeric import clip
from ebbtide.core.parts import Parts
from ebbtide.core.queueing import lasting_rate, planned_share
from ebbtide.core.replicas import healthy
from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.memory import WorthMemory

QUICKEST_DRAIN_S = 60.0
MOST_REPLICAS = 10_000
NEWS_OF_RATE = 0.02  # relative changes of what one replica carries, and of what comes, that are weighed at once
NEWS_OF_WORK = 0.05
MOST = 0.5  # of the requests miss: more is no way to save
STRAINED = 2.0  # times the share that may miss
INSIDE = 0.5  # of a replica: what is worth having lies between one fewer and as many


def step(draft: Draft, cycle: Cycle) -> None:
    """Set every variant's rate per replica and the requests/s the service needs if that variant carried all."""
    pool_of = float(max(1, draft.observed - sum(variant.hung for variant in draft.variants)))
    for variant in draft.variants:
        variant.rate, variant.concurrency = replica_rate(draft, variant, pool_of, cycle.parts)
        variant.full_by = variant.memory.capacity.full_by if variant.rate >= variant.most_rate else ""
        variant.evidence = describe(variant)
    draft.budget, draft.weighed = draft.memory.budget, draft.memory.worth
    main, backlog = _main(draft), drain_rate(draft)
    if main is None or not draft.demand.known:
        need = backlog + (draft.demand.work if draft.demand.known else 0.0)
    else:
        need = max(backlog, _worth_having(draft, main, backlog, cycle))
    _show(draft)
    for variant in draft.variants:
        variant.need = need
    draft.keep_ratio = max(1.0, seen_ratio(draft))
    if fullness.refuses(draft, cycle):
        draft.keep_ratio = math.inf  # how much more there is than what is counted, nobody knows


def _main(draft: Draft) -> VariantDraft | None:
    """The variant whose replicas are weighed: the cheapest for what it carries among those that may grow, else run."""
    able = [variant for variant in draft.variants if variant.rate > 0.0]
    if len(able) == 1:
        return able[0]
    return min(able, key=lambda v: (not _may_grow(v), not v.observed, _cost(v) / v.rate, v.index), default=None)


def _may_grow(variant: VariantDraft) -> bool:
    free = not variant.rests and variant.fault is None and variant.state.target.exists and not variant.backing_off
    return free and variant.cost is not None and variant.sound < variant.spec.max_replicas


def _cost(variant: VariantDraft) -> float:
    return variant.cost if variant.cost is not None else math.inf


def _step_s(main: VariantDraft) -> float:
    return max(1.0, main.startup_s) / worth.START_STEPS


def _costs(main: VariantDraft, now_s: float) -> Sequence[float]:
    """Of a replica by step, beside the present price: a GPU-hour that doubles at 18:00 is not bought for 18:01."""
    state = None if main.pool is None else main.pool.state
    if state is None or state.next_price_change_at is None or not state.price_per_gpu_hour:
        return worth.FLAT
    later = float((state.next_price_per_gpu_hour or state.price_per_gpu_hour) / state.price_per_gpu_hour)
    changes = (state.next_price_change_at - now_s) / _step_s(main)
    return [1.0 if index + 0.5 < changes else later for index in range(worth.STEPS)]


class _Levels:
    """What each further replica saves. A level is a replica; of unlike variants one of the smallest that counts."""

    def __init__(
        self, draft: Draft, main: VariantDraft, unit: float, outlook: Outlook, backlog: float, parts: Parts
    ) -> None:
        self.unit = unit
        self.full = max(1, math.ceil((outlook.main.expected + backlog) / unit))
        self.planned = self.price = 0.0
        self._draft, self._outlook, self._backlog, self._parts = draft, outlook, backlog, parts
        self._alone = main if len(draft.variants) == 1 else None
        self._horizons_s = [outlook.nearest.ahead_s, outlook.main.ahead_s, outlook.far.ahead_s]
        self._step_s = _step_s(main)
        self._missed: dict[int, tuple[float, ...]] = {}
        self._savings: dict[int, list[float]] = {}

    def capacity(self, n: int) -> float:
        """Requests/s that n carry; of one variant with what they gain by pooling."""
        if n <= 0 or self._alone is None:
            return max(0, n) * self.unit
        return n * replica_rate(self._draft, self._alone, float(n), self._parts)[0]

    def savings(self, n: int) -> list[float]:
        """Of the n-th, by step: the most that it saves on average with any number of further ones.

        Where nearly all is missed one more saves nothing, nor does one where only a burst of four times as much would
        miss; those that are needed together do. So what counts is the convex hull, which falls as n grows.
        """
        found = self._savings.get(n)
        if found is None:
            fewer, further = self._missed_at(n - 1), 0
            best: tuple[float, ...] = (0.0,) * len(fewer)
            while True:
                more = self._missed_at(n + further)
                saved = [(a - b) / (further + 1) for a, b in zip(fewer, more, strict=True)]
                best = tuple(map(max, best, saved))
                further = 2 * further + 1
                # of what still misses, those that come next save no more than all: 8 of 4/s 0.5/s each at best
                most = 1.0 / (further + 1)
                if all(a * most <= b for a, b in zip(fewer, best, strict=True)) or n + further > MOST_REPLICAS:
                    break
            each = [self.price * saving for saving in best]
            found = worth.path(each[0], each[1], each[2], horizons_s=self._horizons_s, step_s=self._step_s)
            self._savings[n] = found
        return found

    def _missed_at(self, n: int) -> tuple[float, ...]:
        if n not in self._missed:
            self._missed[n] = self._outlook.misses(self.capacity(n), self.planned, self._backlog)
        return self._missed[n]


def _worth_having(draft: Draft, main: VariantDraft, backlog: float, cycle: Cycle) -> float:
    """Requests/s of capacity that are worth having: half a replica less, so that rounding up gives the replicas."""
    # not of stand-ins that only fill up what finds no room: with them and without, the others must be as many
    usable = [v.rate for v in draft.variants if v.rate > 0.0 and not v.rests and (v.sound or _may_grow(v))]
    unit = min([main.rate, *usable])
    runs = math.floor(sum(healthy(variant) * variant.rate for variant in draft.variants) / unit + 1e-6)
    if not _holds(draft, unit, runs, backlog, cycle):
        _weigh(draft, main, unit, runs, backlog, cycle)
    wanted = draft.weighed.wanted
    if wanted > 0:
        return (wanted - INSIDE) * (unit if len(draft.variants) > 1 else main.rate)
    return min(draft.demand.work, INSIDE * main.rate)  # hardly anything, but not nothing


def _holds(draft: Draft, unit: float, runs: int, backlog: float, cycle: Cycle) -> bool:
    """What was weighed in this turn stands: for as many replicas, about as strong, and as much work but for noise.

    25 requests/s over a minute are 1,500, which vary by 2.6 %: up to 5 % more or fewer is nothing new. 1 request/s is
    60, and up to 39 % is noise.
    """
    made, view, window_s = draft.weighed, draft.demand, cycle.snapshot.rate_window_s
    if turns.comes(draft.state.spec.key, made.at, cycle.now_s, window_s) or backlog > 0.0 or view.quality == "partial":
        return False
    if made.runs != runs or abs(unit - made.unit) > NEWS_OF_RATE * made.unit:
        return False
    noise = max(NEWS_OF_WORK * made.work, 3.0 * math.sqrt(made.work / window_s))
    return abs(view.work - made.work) <= noise


def _weigh(draft: Draft, main: VariantDraft, unit: float, runs: int, backlog: float, cycle: Cycle) -> None:
    """How many are worth having, and what they plan to miss."""
    if not draft.foreseen:
        foresee(draft, cycle)
    draft.doubt = edge.doubt(main.memory.capacity.edge)
    held = _held(draft, main)
    outlook = look(draft, Misses(main.steep, max(1.0, 1.0 / main.correction), held), cycle.parts)
    levels = _Levels(draft, main, unit, outlook, backlog, cycle.parts)
    spent = price.spending(draft, outlook, unit, levels.full, cycle)
    levels.planned, levels.price = spent.planned, spent.price
    costs = _costs(main, cycle.now_s)
    wanted = worth.wanted(runs, levels.full, levels.savings, MOST_REPLICAS, cycle.parts, costs)
    wanted = max(wanted, _fewest(draft, main, outlook, unit, held))
    if wanted < runs and _strained(draft):
        wanted = runs
    least, most = bounds.minimum(draft), draft.state.spec.scaling.max_replicas
    stays = int(clip(wanted, least, most)) if len(draft.variants) == 1 else wanted
    at_bound = (wanted >= most) - (wanted <= least)
    price.note(draft, outlook, spent, levels.capacity(max(1, stays)), at_bound=at_bound, cycle=cycle)
    draft.weighed = WorthMemory(
        cycle.now_s if backlog <= 0.0 else 0.0,  # with a backlog it is weighed anew in the next cycle
        draft.demand.work,
        unit,
        runs,
        wanted,
        round(max(levels.savings(wanted)), 4) if wanted > 0 else 0.0,
        round(max(levels.savings(wanted + 1)), 4),
        *keep_figures(draft, main, outlook, cycle),
    )


def _held(draft: Draft, main: VariantDraft) -> float:
    """Full loads at which a batch stays at its limit: past them it grows as long as they come."""
    if main.model is None or main.rate <= 0.0:
        return math.inf
    return max(1.0, lasting_rate(main.model, draft.demand.output_tokens) / main.rate)


def _fewest(draft: Draft, main: VariantDraft, outlook: Outlook, unit: float, held: float) -> int:
    """So many that what is expected, also later, can last: with fewer, batches grow until every request misses.

    54 requests/s on two that carry 24.6 each within the objectives and 25.7 at the limit itself: for a minute one more
    in twenty misses, and then all. Misses that were seen far below what the line promises, and grow slowly, are no sign
    of that.
    """
    missed = math.exp(math.log(MOST / planned_share(draft.state.spec.objectives.attainment)) / main.steep)
    lasting = unit * min(held, max(1.0, missed))
    fewest = min(outlook.main.expected, outlook.far.expected) / lasting
    return math.ceil(min(fewest, MOST_REPLICAS) - NEWS_OF_RATE)


def _strained(draft: Draft) -> bool:
    """More misses now than may: whatever is foreseen, nothing is let go."""
    allowed = 1.0 - draft.state.spec.objectives.attainment
    return draft.misses is not None and draft.misses - price.anyway(draft) > STRAINED * allowed


def _show(draft: Draft) -> None:
    """`replica 7 saves 1.9 times its cost in misses, one more 0.3`, and the forecast, as when they were made."""
    made = draft.weighed
    draft.forecast = shown(draft)
    if draft.demand.known and made.unit > 0.0:
        draft.worth = (
            f"replica {made.wanted} saves {made.saves:.2g} times its cost in misses, one more {made.more_saves:.2g}"
        )


def seen_ratio(draft: Draft) -> float:
    """What arrives now, as a multiple of the need or of what was expected, if that is more; 0 without a need.

    A forecast learns of a leap with a delay: at 4 requests/s for long and 14 now it may call for 11. As much more than
    is worth carrying for 11 is not let go meanwhile; to start more, a leap has to last. Where 14 were expected and 11
    are worth carrying, the rest is missed on purpose.
    """
    least = min((variant.need for variant in draft.variants if variant.need > 1e-9), default=0.0)
    return draft.demand.work / max(least, draft.weighed.expected) if least and draft.demand.known else 0.0


def describe(variant: VariantDraft) -> str:
    """The numbers behind a replica's rate: `4.1 requests/s (observed: ITL 14.2 + 0.31 x N ms, N up to 62 ...)`."""
    model = variant.model
    if model is None:
        return ""
    line = f"ITL {model.a_s * 1e3:.3g} + {model.b_s * 1e3:.3g} x N ms"
    edge = f"N up to {variant.concurrency:.0f} of {model.limit:.0f} by {model.bound_by}"
    if variant.concurrency > model.limit:
        edge = f"N up to {variant.concurrency:.0f}, as was carried within the objectives"
    corrected = f", corrected by {variant.correction:.2f}" if abs(variant.correction - 1.0) >= 0.01 else ""
    full = f", no more than when it was full by its {variant.full_by}" if variant.full_by else ""
    return f"{variant.rate:.3g} requests/s ({model.source}: {line}, {edge}{corrected}{full})"


def drain_rate(draft: Draft) -> float:
    """Extra requests/s that work off what already waits, within one start-up or a minute.

    Counted are the gateway's queue, queues at replicas, and requests in batches beyond what their replicas can hold
    inside the objective: overload by inter-token latency shows no queue at all.
    """
    view = draft.demand
    held = view.waiting + view.queue
    ready = sum(variant.ready for variant in draft.variants)
    for variant in draft.variants:
        if variant.model is not None and variant.ready:
            held += max(0.0, view.running * variant.ready / ready - variant.model.limit * variant.ready)
    if held < 1.0:
        return 0.0
    quickest_s = min((variant.startup_s for variant in draft.variants if variant.rate > 0.0), default=0.0)
    return held / max(QUICKEST_DRAIN_S, quickest_s)
