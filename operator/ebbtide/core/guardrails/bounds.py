"""Declared minimum and maximum, of each variant and of the service over all variants."""

from ebbtide.core import replicas
from ebbtide.core.guardrails.verdict import Verdict, add, dearness, forgo, remove
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.reasons import Code


def apply(draft: Draft, cycle: Cycle) -> Verdict | None:
    """Clip each variant, then the total; a minimum is only reached where price and pool leave room."""
    del cycle
    before = draft.counts()
    scaling = draft.state.spec.scaling
    for variant in draft.variants:
        low = min(variant.spec.min_replicas, max(variant.high, variant.observed))
        variant.count = max(low, min(variant.count, variant.spec.max_replicas))
    least = minimum(draft)
    counts, code, text = draft.counts(), Code.AT_MINIMUM, ""
    if draft.total > scaling.max_replicas:
        counts, code = remove(draft, draft.total - scaling.max_replicas), Code.AT_MAXIMUM
        needed = max(sum(before), draft.total_need)
        text = f"at most {replicas_are(scaling.max_replicas)} declared, {needed} are needed"
    elif draft.total < least:
        counts, code = add(draft, least - draft.total), Code.AT_MINIMUM
        text = f"at least {replicas_are(least)} declared"
    elif draft.counts() != before:
        code = Code.AT_MAXIMUM if draft.total < sum(before) else Code.AT_MINIMUM
        text = "a variant's own minReplicas or maxReplicas binds"
    for variant, count in zip(draft.variants, before, strict=True):
        variant.count = count
    if counts == before:
        return None
    return Verdict(counts, code, text)


def minimum(draft: Draft) -> int:
    """The declared total minimum: below 1 only where the service may go to zero."""
    scaling = draft.state.spec.scaling
    return scaling.min_replicas if scaling.scale_to_zero is not None else max(1, scaling.min_replicas)


def replicas_are(count: int) -> str:
    """`1 replica is`, `5 replicas are`."""
    return "1 replica is" if count == 1 else f"{count} replicas are"


def ceiling(draft: Draft, cycle: Cycle) -> Verdict | None:
    """The last word: where others held decreases back, increases give way, so that no write exceeds the maximum."""
    del cycle
    most = max(draft.state.spec.scaling.max_replicas, draft.observed)
    if draft.total <= most:
        return None
    text = f"at most {most} replicas while others still run"
    return Verdict(forgo(draft, draft.total - most), Code.AT_MAXIMUM, text)


def floor(draft: Draft, cycle: Cycle) -> Verdict | None:
    """The same downwards: where others held increases back, no write takes sound replicas below the declared minimum.

    2 declared, 2 run on the dear variant, and the cheap one is to have them but may not be raised yet: both stay. Those
    that fail or find no room any more do not count as the minimum, so they may go.
    """
    del cycle
    counts, missing = draft.counts(), minimum(draft) - draft.total
    for variant in sorted(draft.variants, key=dearness):
        room = variant.pool is None or not variant.gpus or variant.high >= variant.observed
        stays = min(replicas.healthy(variant), variant.observed) if room else 0
        back = max(0, min(missing, stays - counts[variant.index]))
        counts[variant.index] += back
        missing -= back
    if counts == draft.counts():
        return None
    return Verdict(counts, Code.AT_MINIMUM, f"at least {replicas_are(minimum(draft))} declared")
