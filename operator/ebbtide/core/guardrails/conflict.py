"""One writer per target: hands off where a rival writes; a change by hand is the new starting point for a while."""

from ebbtide.core.guardrails.verdict import Verdict, no_higher, no_lower
from ebbtide.core.watch import hold_s
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.reasons import Code


def apply(draft: Draft, cycle: Cycle) -> Verdict | None:
    """Everything stays in a conflict; after a manual scale nothing moves against it until the hold is over."""
    if draft.conflict:
        counts = [variant.observed for variant in draft.variants]
        return None if counts == draft.counts() else Verdict(counts, Code.TARGET_CONFLICT, draft.conflict)
    if not draft.drifted:
        return None
    counts = draft.counts()
    for variant in draft.variants:
        memory = variant.memory
        if memory.drifted_at is None or cycle.now_s - memory.drifted_at >= hold_s(draft, memory.drifted_by):
            continue
        against = no_lower(draft) if memory.drifted_by > 0 else no_higher(draft)
        counts = [
            held if (held > count) == (memory.drifted_by > 0) else count
            for held, count in zip(against, counts, strict=True)
        ]
    return None if counts == draft.counts() else Verdict(counts, Code.DRIFTED, draft.drifted)
