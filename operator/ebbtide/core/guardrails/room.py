"""Declared minimums that find no room: said, with the cause. Changes no count, and never hides what bounds decided."""

from ebbtide.core import shortage
from ebbtide.core.guardrails.bounds import minimum, replicas_are
from ebbtide.core.guardrails.verdict import Verdict
from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.reasons import Code

_OF_POOLS = (Code.POOL_FULL, Code.POOL_BACKING_OFF)


def apply(draft: Draft, cycle: Cycle) -> Verdict | None:
    """At least 5 replicas are declared and the pool has 3 GPUs: 3 it is, limited by the pool."""
    possible, least = [_possible(variant) for variant in draft.variants], minimum(draft)
    short = [variant for variant in draft.variants if possible[variant.index] < variant.spec.min_replicas]
    if sum(possible) < least:
        limited, declared = draft.variants, f"at least {replicas_are(least)} declared"
    else:
        limited, declared = short, f"at least {_minimums(short)} are declared"
    found = shortage.causes(draft, limited, possible, cycle)
    if found is None:
        return None
    code, words = found
    for variant in limited:
        variant.limited_by = shortage.limit_on(draft, variant, possible[variant.index], cycle)
    room = sum(possible[variant.index] for variant in limited)
    has = f"pools have room for {room}" if code in _OF_POOLS else f"only {room} can run"
    draft.unreached = (code, f"{declared}, {has}: {words}")
    return Verdict(draft.counts(), *draft.unreached)


def _possible(variant: VariantDraft) -> int:
    """A rollout's surge is charged to its pool, but what is being replaced comes back."""
    return max(variant.count, variant.observed) if variant.state.target.rolling_out else variant.count


def _minimums(short: list[VariantDraft]) -> str:
    return " and ".join(f"{variant.spec.min_replicas} of {variant.spec.name}" for variant in short)
