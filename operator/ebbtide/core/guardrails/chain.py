"""The guardrails in order, and the one place where they are run."""

from ebbtide.core.guardrails import bounds, conflict, delay, fault, pause, rate, rollout, room, staleness, zero
from ebbtide.core.guardrails.verdict import Guard, Verdict
from ebbtide.core.work import Cycle, Draft

# Later ones are stronger: what pause holds, no delay can move; what staleness holds, nothing can lower; and
# where a fault forbids the write, what is declared is all that is allowed.
ORDER: tuple[tuple[str, Guard], ...] = (
    ("bounds", bounds.apply),
    ("room", room.apply),
    ("delay", delay.apply),
    ("rate", rate.apply),
    ("rollout", rollout.apply),
    ("zero", zero.apply),
    ("pause", pause.apply),
    ("conflict", conflict.apply),
    ("staleness", staleness.apply),
    ("ceiling", bounds.ceiling),
    ("floor", bounds.floor),
    ("fault", fault.apply),
)


def step(draft: Draft, cycle: Cycle) -> None:
    """Turn what placement wants into what is allowed; each guardrail that has something to say leaves its mark."""
    for variant in draft.variants:
        variant.count = variant.wanted
    for name, guard in ORDER:
        verdict = guard(draft, cycle)
        if verdict is not None:
            apply(draft, name, verdict)


def apply(draft: Draft, name: str, verdict: Verdict) -> None:
    """Set its counts, and leave its mark."""
    for variant, count in zip(draft.variants, verdict.counts, strict=True):
        if count != variant.count:
            variant.count = count
            if verdict.limits or count == variant.wanted:
                variant.limited_by = verdict.code.value if verdict.limits else ""
    if verdict.limits:
        draft.limits.append((verdict.code, verdict.text))
    draft.note(name, draft.total, verdict.text)
