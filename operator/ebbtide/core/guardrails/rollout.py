"""Nothing is taken away from a target that is replacing its pods, nor before its stand-ins are ready.

A rollout holds old and new pods at once (its surge is already taken out of the pool's budget); shrinking it then would
remove ready pods. For the same reason a move to another variant waits until the new replicas carry the present load.
"""

from ebbtide.core.guardrails.verdict import Verdict, restore
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.reasons import Code


def apply(draft: Draft, cycle: Cycle) -> Verdict | None:
    """Undo decreases of targets in a rollout; then those whose leaving would uncover the present load."""
    del cycle
    counts = [
        max(variant.count, variant.observed) if variant.state.target.rolling_out else variant.count
        for variant in draft.variants
    ]
    if counts != draft.counts():
        names = ", ".join(v.spec.name for v in draft.variants if v.state.target.rolling_out)
        return Verdict(counts, Code.ROLLOUT_IN_PROGRESS, f"{names} is replacing its pods")
    return _covered(draft)


def _covered(draft: Draft) -> Verdict | None:
    """With several variants: decreases only as far as the replicas that are ready carry what is needed without them."""
    if len(draft.variants) < 2 or draft.gives_way or draft.observed > draft.state.spec.scaling.max_replicas:
        return None
    before = draft.counts()
    down = sum(max(0, variant.observed - variant.count) for variant in draft.variants)
    for back in range(down + 1):
        counts = restore(draft, back)
        ready = [min(variant.ready, counts[variant.index]) for variant in draft.variants]
        shares = [n * v.rate / v.need for n, v in zip(ready, draft.variants, strict=True) if v.need > 0.0]
        if not shares or sum(shares) >= 1.0:
            break
    if counts == before:
        return None
    text = "those that go are needed until what replaces them is ready"
    return Verdict(counts, Code.KEEPS_COVER, text)
