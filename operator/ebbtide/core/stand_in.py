"""Degraded variants: for how long want of money lets them serve, and what is said of it.

A stand-in serves while the others find no room (`mix` sees that in each cycle), or while a policy has no money for them
(`ceilings.pressure` finds that, and it is remembered here). Want of money lasts beyond the moment in which it was seen:
with 12 USD an hour and a load that calls for 11.90 and 12.10 in turn nothing may go to and fro.
"""

from ebbtide.core.work import Draft
from ebbtide.model.plan import Condition, ConditionStatus
from ebbtide.model.reasons import Code

TYPE = "Degraded"
HOLD_S = 600.0  # want of money is over once there was none for so long, or for a start-up where that is longer
MOST_WORDS = 300


def open_draft(draft: Draft, now_s: float) -> None:
    """Whether stand-ins may serve for want of money, as the last cycles left it."""
    until = draft.memory.pressed_until
    for variant in draft.stand_ins:
        variant.rests = until is None or now_s >= until
        if until is not None and now_s < until:
            draft.pressed, draft.pressed_until, draft.pressed_by = True, until, draft.memory.pressed_by


def press(draft: Draft, now_s: float, words: str) -> None:
    """Want of money was seen. Going back means starting others, so it lasts for one of their start-ups at least."""
    hold_s = max(HOLD_S, *(variant.startup_s for variant in draft.variants))
    draft.pressed_until, draft.pressed_by = round(now_s + hold_s, 1), words[:MOST_WORDS]


def why(draft: Draft) -> str:
    """What lets stand-ins serve, in words; empty: nothing does."""
    crowded = "" if draft.crowded is None else draft.crowded[1]
    return "; ".join(part for part in (draft.pressed_by if draft.pressed else "", crowded) if part)


def condition(draft: Draft) -> Condition | None:
    """Whether stand-ins serve or are to; None for a service without any."""
    stand_ins = draft.stand_ins
    if not stand_ins:
        return None
    runs, wanted = sum(v.observed for v in stand_ins), sum(v.count for v in stand_ins)
    causes = why(draft)
    if not runs and not wanted:
        text = f"none serves: {causes}" if causes else "the others have room and money"
        return Condition(TYPE, ConditionStatus.FALSE, Code.NOT_DEGRADED.value, text)
    names = ", ".join(variant.spec.name for variant in stand_ins if variant.observed or variant.count)
    said = f"{runs} of {draft.observed} replicas are of {names}"
    said += f", {wanted} of {draft.total} are to be" if (runs, draft.observed) != (wanted, draft.total) else ""
    if causes:
        return Condition(TYPE, ConditionStatus.TRUE, Code.USES_DEGRADED.value, f"{said}: {causes}")
    return Condition(TYPE, ConditionStatus.TRUE, Code.LEAVES_DEGRADED.value, f"{said}; they go once others are ready")
