"""Who gets the pools' GPUs: services by priority, each placed on what those before it left.

Among equals nobody loses what runs so that another may grow; what may not be written to is charged with what it holds
and placed last, on what is left. Must never charge a GPU twice, nor one that a service cannot take.
"""

import math

from ebbtide.core import balance, mix, pools
from ebbtide.core.guardrails import bounds, pause, staleness
from ebbtide.core.isolation import attempt
from ebbtide.core.numeric import clip
from ebbtide.core.work import Cycle, Draft, PoolDraft, VariantDraft
from ebbtide.model.spec import PauseDirection


def step(cycle: Cycle) -> None:
    """Place those that may act, highest priority first; then, on what is left, what the others would do."""
    pools.prepare(cycle)
    acting: dict[int, list[Draft]] = {}
    still: list[Draft] = []
    kept: list[tuple[PoolDraft, float]] = []
    yielded = {draft.state.spec.key: _yielded(draft, cycle) for draft in cycle.drafts}
    for draft in cycle.drafts:
        _may_claim(draft, yielded[draft.state.spec.key], 1.0)
    for draft in sorted(cycle.drafts, key=lambda draft: (-draft.state.spec.priority, draft.state.spec.key)):
        if draft.failure is None and not _stays(draft, cycle):
            acting.setdefault(draft.state.spec.priority, []).append(draft)
            continue
        charged = _keep(draft)
        if draft.failure is None:
            still.append(draft)
            kept += charged
    for group in acting.values():
        for draft in group:
            _may_claim(draft, yielded[draft.state.spec.key], -1.0)
        _place_equals(group, cycle)
    for pool, gpus in kept:
        pool.budget += gpus
    _place_equals(still, cycle)


def _may_claim(draft: Draft, yielded: list[tuple[PoolDraft, float]], sign: float) -> None:
    """Count it among those that give way to whoever is placed now; or, with -1, among those no longer."""
    for pool, gpus in pools.held(draft):
        pool.lower += sign * gpus
    for pool, gpus in yielded:
        pool.yields += sign * gpus


def _stays(draft: Draft, cycle: Cycle) -> bool:
    """Nothing is written for it, or it is paused in both directions: what is planned for it does not come about."""
    halt = pause.active(draft, cycle.now_s)
    halted = halt is not None and halt.direction is PauseDirection.ALL
    return halted or draft.no_write is not None


def _yielded(draft: Draft, cycle: Cycle) -> list[tuple[PoolDraft, float]]:
    """(pool, GPUs) that a higher priority may claim: none that a guardrail would keep where it is.

    Of 6 replicas with a declared minimum of 2, 4; of 6 whose metrics are stale, or that are paused downwards, none.
    What has no node yet holds nothing that could be kept.
    """
    if draft.failure is not None or _stays(draft, cycle):
        return []
    halt = pause.active(draft, cycle.now_s)
    kept = (halt is not None and halt.direction is PauseDirection.DOWN) or staleness.holds(draft, cycle)
    bound = [variant.bound_gpus // (variant.gpus or 1) for variant in draft.variants]
    least = [n if kept else min(n, v.spec.min_replicas) for n, v in zip(bound, draft.variants, strict=True)]
    more = bounds.minimum(draft) - sum(least)
    for variant in sorted(draft.variants, key=lambda variant: (-bound[variant.index], variant.index)):
        further = int(clip(more, 0, bound[variant.index] - least[variant.index]))
        least[variant.index] += further
        more -= further
    return [
        (variant.pool, float(max(0, variant.holding - least[variant.index]) * variant.gpus))
        for variant in draft.variants
        if variant.pool is not None and variant.gpus
    ]


def _keep(draft: Draft) -> list[tuple[PoolDraft, float]]:
    """Charge what it holds, whatever its priority, and nothing of what it wants: (pool, GPUs) that were charged.

    Replicas without a node are charged only beside what others declare: of 8 GPUs, with 6 in use by another, a service
    that declares 6 and runs 2 keeps 2. The others have not been charged yet, and are all in `lower`.
    """
    charged = []
    for variant in draft.variants:
        pool = variant.pool
        if pool is None or not variant.gpus:
            continue
        pool.lower -= variant.holding * variant.gpus
        pool.stuck -= variant.stuck_gpus
        declared = float((variant.observed - variant.homeless) * variant.gpus)
        runs = min(float(variant.observed * variant.gpus), float(variant.bound_gpus))
        waits = clip(pool.budget - runs - pool.lower, 0.0, max(0.0, declared - runs))
        pool.budget -= runs + waits
        charged.append((pool, runs + waits))
    return charged


def _place_equals(group: list[Draft], cycle: Cycle) -> None:
    for draft in group:
        for pool, gpus in pools.held(draft):
            pool.held += gpus
    for draft in group:
        for pool, gpus in pools.held(draft):
            pool.held -= gpus
        attempt(draft, cycle, "placement", _place_one)
        for variant in draft.variants:
            if variant.pool is not None and variant.gpus:
                wanted = _chargeable(draft, variant, variant.wanted, cycle)
                new = max(0, wanted - variant.observed)
                pools.take(variant.pool, variant, new)
                held = min(wanted, variant.placed + variant.hung, variant.holding + new)
                variant.pool.budget -= held * variant.gpus
    _reserve_minimums(group, cycle)


def _chargeable(draft: Draft, variant: VariantDraft, count: int, cycle: Cycle) -> int:
    """Of `count` replicas those that others are charged for: none that a pause upwards keeps from coming about."""
    return min(count, variant.observed) if _paused_upwards(draft, cycle) else count


def _paused_upwards(draft: Draft, cycle: Cycle) -> bool:
    halt = pause.active(draft, cycle.now_s)
    return halt is not None and halt.direction is PauseDirection.UP


def _place_one(draft: Draft, cycle: Cycle) -> None:
    balance.observe(draft, cycle)
    mix.place(draft, cycle)
    balance.share(draft)


def _reserve_minimums(group: list[Draft], cycle: Cycle) -> None:
    """GPUs for minimums that the load does not call for: after the needs of equals, and from what those leave.

    Two services of at least 5 replicas on a pool of 6 GPUs, one needed of each: 5 and 1, never 10. Those that nothing
    may be added to now come last: what they cannot take must not be kept from those that can.
    """
    for draft in group:
        for pool, gpus in _idle(draft):
            pool.held += gpus
    for draft in sorted(group, key=lambda draft: _paused_upwards(draft, cycle)):
        for pool, gpus in _idle(draft):
            pool.held -= gpus
        if draft.failure is None:
            attempt(draft, cycle, "placement", _reserve_minimum)


def _reserve_minimum(draft: Draft, cycle: Cycle) -> None:
    if all(more <= 0 for more in _lifted(draft, cycle)):
        return
    for variant in draft.variants:
        variant.high = max(variant.wanted, min(variant.high, _left(variant)))
    for variant, lifted in zip(draft.variants, _lifted(draft, cycle), strict=True):
        more = _chargeable(draft, variant, variant.wanted + lifted, cycle) - variant.wanted
        if variant.pool is not None and variant.gpus and more > 0:
            pools.take(variant.pool, variant, variant.wanted + more - max(variant.wanted, variant.observed))
            variant.pool.budget -= more * variant.gpus


def _idle(draft: Draft) -> list[tuple[PoolDraft, float]]:
    """(pool, GPUs) of what runs beyond the need: a minimum may keep it, so no equal's minimum takes it."""
    return [
        (variant.pool, float(max(0, variant.holding - variant.wanted) * variant.gpus))
        for variant in draft.variants
        if variant.pool is not None and variant.gpus
    ]


def _lifted(draft: Draft, cycle: Cycle) -> list[int]:
    """How many replicas beyond those wanted the declared bounds add to each variant."""
    for variant in draft.variants:
        variant.count = variant.wanted
    verdict = bounds.apply(draft, cycle)
    counts = draft.counts() if verdict is None else verdict.counts
    return [count - variant.wanted for count, variant in zip(counts, draft.variants, strict=True)]


def _left(variant: VariantDraft) -> int:
    """The most replicas that the GPUs still left carry, those that run included."""
    pool = variant.pool
    if pool is None or not variant.gpus:
        return variant.observed
    left = (pool.budget - pool.held) / variant.gpus
    paid = pools.UNLIMITED if math.isinf(left) else variant.wanted + math.floor(left + 1e-9)
    return min(paid, max(variant.wanted, variant.observed) + pools.slots(pool, variant))
