"""How much must be carried: as many replicas as are worth having at the price of a miss, plus what the backlog takes.

There is no margin: a forecast in doubt, few replicas or a strict objective make one more replica save more misses, and
it is started as long as they are worth it. What is worth having is turned into requests/s, so that placement may choose
another mix of variants that carries as much.
"""

import math
from collections.abc import Callable

from ebbtide.core import fullness, price, worth
from ebbtide.core.capacity import replica_rate
from ebbtide.core.forecast.outlook import Outlook
from ebbtide.core.guardrails import bounds
from ebbtide.core.replicas import healthy
from ebbtide.core.work import Cycle, Draft, VariantDraft

QUICKEST_DRAIN_S = 60.0
MOST_REPLICAS = 10_000
INSIDE = 0.5  # of a replica: what is worth having lies between one fewer and as many


def step(draft: Draft, cycle: Cycle) -> None:
    """Set every variant's rate per replica and the requests/s the service needs if that variant carried all."""
    pool_of = float(max(1, draft.observed - sum(variant.hung for variant in draft.variants)))
    for variant in draft.variants:
        variant.rate, variant.concurrency = replica_rate(draft, variant, pool_of)
        variant.evidence = describe(variant)
    draft.budget = draft.memory.budget
    main = _main(draft)
    outlook = draft.outlook if draft.demand.known else None
    if main is None or outlook is None:
        expected = draft.demand.rate if draft.demand.known else 0.0
        for variant in draft.variants:
            variant.need = expected + drain_rate(draft, variant)
    else:
        need = _worth_having(draft, main, outlook, cycle)
        for variant in draft.variants:
            variant.need = need
    draft.keep_ratio = max(1.0, _seen_ratio(draft))
    if fullness.refuses(draft, cycle):
        draft.keep_ratio = math.inf  # how much more there is than what is counted, nobody knows


def _main(draft: Draft) -> VariantDraft | None:
    """The variant whose replicas are weighed: the cheapest for what it carries among those that may grow, or run."""
    able = [variant for variant in draft.variants if variant.rate > 0.0]
    return min(able, key=lambda v: (v.backing_off, _cost(v) / v.rate, v.index), default=None)


def _cost(variant: VariantDraft) -> float:
    return variant.cost if variant.cost is not None else math.inf


def _worth_having(draft: Draft, main: VariantDraft, outlook: Outlook, cycle: Cycle) -> float:
    """Requests/s of capacity that are worth having; half a replica less, so that rounding up gives the replicas."""
    carried = sum(healthy(variant) * variant.rate for variant in draft.variants)
    runs = round(carried / main.rate)
    backlog = drain_rate(draft, main)
    spent = draft.spending = price.spending(draft, outlook, main.rate, cycle)
    missed: dict[int, tuple[float, ...]] = {}
    alone = len(draft.variants) == 1

    def capacity(n: int) -> float:
        if n <= 0:
            return 0.0
        return n * replica_rate(draft, main, float(n))[0] if alone else carried + (n - runs) * main.rate

    def missed_at(n: int) -> tuple[float, ...]:
        if n not in missed:
            missed[n] = outlook.misses(capacity(n), spent.planned, backlog)
        return missed[n]

    horizons_s = [horizon.ahead_s for horizon in outlook.horizons]
    step_s = max(1.0, main.startup_s) / worth.START_STEPS

    full = math.ceil((outlook.main.expected(outlook.loads) + backlog) / main.rate)

    def savings(n: int) -> list[float]:
        saved = [max(0.0, a - b) for a, b in zip(missed_at(n - 1), missed_at(n), strict=True)]
        if n <= full:
            # where nearly all is missed one more saves nothing, but all that are needed together do: their mean counts
            all_of_them = zip(missed_at(0), missed_at(full), strict=True)
            saved = [max(one, (a - b) / full) for one, (a, b) in zip(saved, all_of_them, strict=True)]
        return worth.path(*(spent.price * each for each in saved), horizons_s=horizons_s, step_s=step_s)

    wanted = worth.wanted(runs, full, savings, MOST_REPLICAS)
    at_bound = wanted >= draft.state.spec.scaling.max_replicas or wanted <= bounds.minimum(draft)
    price.note(draft, capacity(max(1, wanted)), bound=at_bound, cycle=cycle)
    draft.worth = _in_words(wanted, savings)
    if wanted > 0:
        return capacity(wanted) - INSIDE * main.rate
    return min(draft.demand.rate, INSIDE * main.rate)  # hardly anything, but not nothing


def _in_words(wanted: int, savings: Callable[[int], list[float]]) -> str:
    """`the 7th replica saves 1.9 times its cost in misses, an 8th would save 0.3`."""
    last = max(savings(wanted)) if wanted > 0 else 0.0
    return f"replica {wanted} saves {last:.2g} times its cost in misses, one more {max(savings(wanted + 1)):.2g}"


def _seen_ratio(draft: Draft) -> float:
    """What arrives now, as a multiple of the need; 0 without a need.

    A forecast learns of a leap with a delay: at 4 requests/s for long and 14 now it may call for 11. What carries the
    14 is not let go meanwhile; to start more, a leap has to last.
    """
    least = min((variant.need for variant in draft.variants if variant.need > 1e-9), default=0.0)
    return draft.demand.rate / least if least and draft.demand.known else 0.0


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


def drain_rate(draft: Draft, variant: VariantDraft) -> float:
    """Extra requests/s that work off what already waits, within one start-up or a minute.

    Counted are the gateway's queue, queues at replicas, and requests in batches beyond what their replicas can hold
    inside the objective: overload by inter-token latency shows no queue at all.
    """
    view, model = draft.demand, variant.model
    held = view.waiting + view.queue
    if model is not None and draft.variants and variant.ready:
        share = variant.ready / max(1, sum(other.ready for other in draft.variants))
        held += max(0.0, view.running * share - model.limit * variant.ready)
    if held < 1.0:
        return 0.0
    return held / max(QUICKEST_DRAIN_S, variant.startup_s)
