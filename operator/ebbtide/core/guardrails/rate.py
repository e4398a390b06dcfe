"""At most `up.maxPerMinute` and `down.maxPerMinute` replicas in any 60 seconds, counted over all variants."""

from ebbtide.core.guardrails.verdict import Verdict, forgo, restore
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.memory import Recommendation
from ebbtide.model.reasons import Code

WINDOW_S = 60.0
SOON_S = 5.0  # from a plan to its writes


def made(draft: Draft) -> list[Recommendation]:
    """Our moves of late, without those whose write was refused or never answered and is not to be seen."""
    unmade = {
        receipt.at
        for variant in draft.variants
        if (receipt := variant.state.last_write) is not None
        and not receipt.done
        and receipt.replicas != variant.observed
        and receipt.target_uid == variant.state.target.uid
    }
    # a write follows the plan that asked for it, within the cycle
    return [move for move in draft.memory.moves if not any(0.0 <= at - move.at < SOON_S for at in unmade)]


def apply(draft: Draft, cycle: Cycle) -> Verdict | None:
    """Cut this cycle's moves to what is left of the minute's allowance."""
    scaling = draft.state.spec.scaling
    recent = [move.replicas for move in made(draft) if cycle.now_s - move.at < WINDOW_S]
    raised, lowered = sum(n for n in recent if n > 0), -sum(n for n in recent if n < 0)
    up = sum(max(0, variant.count - variant.observed) for variant in draft.variants)
    down = sum(max(0, variant.observed - variant.count) for variant in draft.variants)
    too_many_up = max(0, up - max(0, scaling.up_max_per_minute - raised))
    too_many_down = max(0, down - max(0, scaling.down_max_per_minute - lowered))
    if not too_many_up and not too_many_down:
        return None
    now = draft.counts()
    cut = forgo(draft, too_many_up)
    kept = restore(draft, too_many_down)
    counts = [back if back > was else less for less, back, was in zip(cut, kept, now, strict=True)]
    parts = []
    if too_many_up:
        parts.append(f"{raised} of {scaling.up_max_per_minute} raised within a minute, {up} more wanted")
    if too_many_down:
        parts.append(f"{lowered} of {scaling.down_max_per_minute} lowered within a minute, {down} more wanted")
    return Verdict(counts, Code.RATE_LIMITED, "; ".join(parts))
