"""How a service's requests spread over unlike variants, and what a replica carries because of it.

A gateway that looks at load gives the faster replica more. One that spreads evenly (kube-proxy, round robin) fills the
slower one first, so that the faster carries no more than it beside it. Which of the two it is, is measured as arrivals
per pod. Must never judge by few requests, by nearly idle replicas, or by variants that carry about the same.
"""

import math

from ebbtide.core.demand import pod_arrivals
from ebbtide.core.learning import batch_size, settled_pods
from ebbtide.core.queueing import rate_at
from ebbtide.core.work import Cycle, Draft, VariantDraft

UNLIKE = 1.25  # carry so many times as much: worth to find out how requests are spread
ALIKE = 1.15  # nearer than this to each other it makes no difference, and what was found out is forgotten
SURE = 0.75  # confidence at which the verdict is made, or at 1 - SURE its opposite
UNSURE = 0.5
TAU_WINDOWS = 1.5  # memory of the confidence in rate windows: 90 s with windows of a minute
LEAST_RUNNING = 1.0  # a pod; with fewer, a gateway that looks at load finds idle replicas alike and picks any of them


def observe(draft: Draft, cycle: Cycle) -> None:
    """Fill `arrivals` of the variants, and `spread_evenly`, `even_confidence` and `even` of the draft."""
    draft.even_confidence, draft.spread_evenly = draft.memory.even_dispatch, draft.memory.spread_evenly
    able = [variant for variant in draft.variants if variant.rate > 0.0]
    contrast = unlikeness(draft, able)
    if contrast < ALIKE and not cycle.unwatched:
        draft.even_confidence, draft.spread_evenly = UNSURE, None
    running = {variant.index: _running(variant, cycle) for variant in able}
    busy = [v for v in able if v.arrivals is not None and running[v.index] >= LEAST_RUNNING]
    if unlikeness(draft, busy) >= UNLIKE and not cycle.unwatched:
        _learn(draft, busy, cycle)
    draft.even = draft.spread_evenly is True and contrast >= ALIKE


def _running(variant: VariantDraft, cycle: Cycle) -> float:
    """Mean requests in the batch of a pod; notes the arrivals per pod on the way."""
    pods = settled_pods(variant, cycle)
    rates = [reading.fresh for reading in (pod_arrivals(engine) for engine in pods) if reading is not None]
    known = [rate for rate in rates if rate is not None]
    variant.arrivals, variant.settled = (sum(known) / len(known), len(known)) if known else (None, 0)
    return sum(batch_size(engine) or 0.0 for engine in pods) / len(pods) if pods else 0.0


def _learn(draft: Draft, busy: list[VariantDraft], cycle: Cycle) -> None:
    """Move the confidence by what the slowest and the fastest of those that are busy get.

    Expected of a gateway that looks at load are 20 requests/s for one beside 10 of the other; halfway to equal shares,
    on the log scale, is 14. So many requests must have been counted that chance alone rarely crosses that.
    """
    window_s = cycle.snapshot.rate_window_s
    by_rate = sorted(zip(beside(draft, busy), (variant.index for variant in busy), strict=True))
    (low, slow), (high, fast) = by_rate[0], by_rate[-1]
    few, many = draft.variants[slow].arrivals or 0.0, draft.variants[fast].arrivals or 0.0
    counted = [rate * draft.variants[index].settled * window_s for rate, index in ((few, slow), (many, fast))]
    halfway = 0.5 * math.log(high / low)
    if min(counted) <= 0.0 or math.sqrt(1.0 / counted[0] + 1.0 / counted[1]) > halfway:
        return
    verdict = 1.0 if math.log(many / few) < halfway else 0.0
    weight = min(1.0, cycle.snapshot.cycle_s / (TAU_WINDOWS * window_s))
    draft.even_confidence += weight * (verdict - draft.even_confidence)
    if draft.even_confidence >= SURE:
        draft.spread_evenly = True
    elif draft.even_confidence <= 1.0 - SURE:
        draft.spread_evenly = False


def unlikeness(draft: Draft, members: list[VariantDraft]) -> float:
    """How many times as much as the slowest the fastest could carry beside it; 1 for fewer than two."""
    if len(members) < 2:
        return 1.0
    return max(beside(draft, members)) / max(min(variant.rate for variant in members), 1e-12)


def mix_rates(draft: Draft, members: list[VariantDraft]) -> list[float]:
    """Requests/s of one replica of each member while they share the service's traffic."""
    if draft.even:
        return [min((variant.rate for variant in members), default=0.0)] * len(members)
    return beside(draft, members)


def beside(draft: Draft, members: list[VariantDraft]) -> list[float]:
    """The same behind a gateway that picks the replica with the fewest requests: all hold the same number of them."""
    common = min((variant.concurrency for variant in members), default=0.0)
    return [_rate_beside(draft, variant, common) for variant in members]


def _rate_beside(draft: Draft, variant: VariantDraft, concurrency: float) -> float:
    """Requests/s of a replica that holds `concurrency` requests, at most its own rate."""
    model = variant.model
    if model is None or concurrency >= variant.concurrency:
        return variant.rate
    return min(variant.rate, rate_at(model.a_s, model.b_s, concurrency, draft.demand.output_tokens))


def share(draft: Draft) -> None:
    """Fill `carries` of the variants: what each carries beside the others of the plan; what goes, as it runs."""
    planned = [variant for variant in draft.variants if variant.wanted > 0]
    running = [variant for variant in draft.variants if max(variant.wanted, variant.observed) > 0]
    for variant in draft.variants:
        variant.carries = variant.rate
    for variant in running:
        members = planned if variant.wanted > 0 else running
        rate = dict(zip((each.index for each in members), mix_rates(draft, members), strict=True))[variant.index]
        variant.carries = rate
        if rate < 0.99 * variant.rate:
            others = ", ".join(other.spec.name for other in members if other is not variant)
            spread = " with requests spread evenly" if draft.even else ""
            variant.evidence += f"; {rate:.3g} beside {others}{spread}"
