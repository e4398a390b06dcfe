"""Why no more replicas fit: the causes in words and numbers, and the marks that they leave on variants.

Only explains what placement and the declared minimums found; never changes a count.
"""

from ebbtide.core import pools
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.reasons import Code

_SAID_ELSEWHERE = 9  # rank of what is no limit but a fault, with a condition of its own


def explain(draft: Draft, cycle: Cycle) -> None:
    """Say why the rest of the need found no room, and of a variant that was passed over or cut back what limited it."""
    if draft.unplaced > 1e-9:
        found = causes(draft, draft.variants, [variant.wanted for variant in draft.variants], cycle)
        if found is not None:
            draft.unplaced_code = found[0]
            draft.unplaced_text = f"{draft.unplaced:.0%} of the need finds no room: {found[1]}"
    for variant in draft.variants:
        if draft.unplaced > 1e-9 or variant.backing_off or (variant.cost is None and variant.rate > 0.0):
            variant.limited_by = limit_on(draft, variant, variant.wanted, cycle)


def causes(draft: Draft, variants: list[VariantDraft], counts: list[int], cycle: Cycle) -> tuple[Code, str] | None:
    """What keeps `variants` from more than `counts`: the surest cause, and the words of all, the surest first.

    None where a fault of the target says it already.
    """
    full = _is_full(draft, sum(counts))
    ranked = (_blocked(draft, variant, counts[variant.index], full, cycle) for variant in variants)
    found = sorted((cause for cause in ranked if cause[0] < _SAID_ELSEWHERE), key=lambda cause: cause[0])
    return (found[0][1], "; ".join(dict.fromkeys(text for _, _, text in found))) if found else None


def limit_on(draft: Draft, variant: VariantDraft, count: int, cycle: Cycle) -> str:
    """What keeps the variant from more than `count` replicas, as `limitedBy` shows it."""
    total = count + sum(other.wanted for other in draft.variants if other is not variant)
    rank, code, _ = _blocked(draft, variant, count, _is_full(draft, total), cycle)
    return code.value if rank < _SAID_ELSEWHERE else ""


def _is_full(draft: Draft, total: int) -> bool:
    """The service has all the replicas that it may have: no pool and no price could give it one more."""
    return total >= draft.state.spec.scaling.max_replicas


def _blocked(draft: Draft, variant: VariantDraft, count: int, full: bool, cycle: Cycle) -> tuple[int, Code, str]:
    name, pool = variant.spec.name, variant.pool
    if variant.rests:
        return _SAID_ELSEWHERE, Code.NOT_DEGRADED, ""
    if not variant.state.target.exists:
        return _SAID_ELSEWHERE, Code.TARGET_NOT_FOUND, ""
    if pool is None:
        return _no_pool(variant)
    if variant.failing and variant.backing_off and variant.failing_code is not None:
        return 1, variant.failing_code, f"{name}: {_failing(variant)}"
    if full:
        return 1, Code.AT_MAXIMUM, f"the service's maximum is {draft.state.spec.scaling.max_replicas}"
    if count >= variant.spec.max_replicas:
        return 5, Code.AT_MAXIMUM, f"{name}: its maximum is {variant.spec.max_replicas}"
    if variant.backing_off and variant.failing_code is not None:
        return 1, variant.failing_code, f"{name}: {backs_off(variant, cycle.now_s)}"
    return _lacks(draft, variant, pool, cycle)


def _lacks(draft: Draft, variant: VariantDraft, pool: PoolDraft, cycle: Cycle) -> tuple[int, Code, str]:
    """What a sound variant below its maximum needs for one more: GPUs and a price that are known, and room."""
    name = variant.spec.name
    if not variant.gpus:
        return 2, Code.GPUS_UNKNOWN, f"{name}: GPUs per replica are neither declared nor in the pod template"
    if variant.cost is None:
        return 2, Code.PRICE_UNKNOWN, f"{name}: {_no_price(draft, pool)}"
    if pool.memory.backoff_until is not None and pool.memory.backoff_until > cycle.now_s:
        left_s = pool.memory.backoff_until - cycle.now_s
        return 3, Code.POOL_BACKING_OFF, f"{name}: nodes of pool {pool.name} did not come, next try in {left_s:.0f}s"
    if pool.capped:
        return 4, Code.POOL_FULL, f"{name}: {pools.limit_words(pool)}"
    return 4, Code.POOL_FULL, f"{name}: pool {pool.name} has no room for another replica of {pools.shape(variant)}"


def _no_pool(variant: VariantDraft) -> tuple[int, Code, str]:
    """A pool that is there and cannot be read is not one that does not exist."""
    for code, text in variant.state.target.faults:
        if code == Code.POOL_UNREADABLE:
            return 0, Code.POOL_UNREADABLE, text
    return 0, Code.POOL_NOT_FOUND, f"{variant.spec.name}: there is no GPUPool {variant.spec.pool}"


def _no_price(draft: Draft, pool: PoolDraft) -> str:
    different = pools.currencies(draft.variants)
    if len(different) > 1:
        return f"prices in {' and '.join(different)} cannot be compared"
    why = f" ({pool.state.faults[0][1]})" if pool.state.faults else ""
    return f"the price of pool {pool.name} is unknown{why}"


def backs_off(variant: VariantDraft, now_s: float) -> str:
    """What fails now, or what failed so lately that nothing new is tried yet, and when it will be."""
    until = variant.memory.capacity.backoff_until
    if variant.failing or until is None:
        return f"backs off: {variant.failing_text}"
    return f"backs off, next try in {max(0.0, until - now_s):.0f}s; what failed was {variant.failing_text}"


def _failing(variant: VariantDraft) -> str:
    return "1 replica does not come up" if variant.failing == 1 else f"{variant.failing} replicas do not come up"
