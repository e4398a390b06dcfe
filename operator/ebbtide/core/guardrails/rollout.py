"""Nothing is taken away from a target that is replacing its pods, nor before its stand-ins are ready.

A rollout holds old and new pods at once (its surge is already taken out of the pool's budget); shrinking it then would
remove ready pods. For the same reason a move to another variant waits until the new replicas carry the present load.
"""

from ebbtide.core.guardrails.bounds import minimum
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
    """With several variants: decreases only as far as the replicas that stay and are ready carry what is needed."""
    if len(draft.variants) < 2 or draft.gives_way or draft.observed > draft.state.spec.scaling.max_replicas:
        return None
    before = draft.counts()
    down = sum(max(0, variant.observed - variant.count) for variant in draft.variants)
    # the declared minimum, as far as it is ready at all; at the maximum one less, so that a stand-in finds room
    ready_now, most = sum(variant.ready for variant in draft.variants), draft.state.spec.scaling.max_replicas
    least = min(minimum(draft), ready_now, most - 1)
    for back in range(down + 1):
        counts = restore(draft, back)
        ready = [min(variant.ready, counts[variant.index]) for variant in draft.variants]
        shares = [n * v.rate / v.need for n, v in zip(ready, draft.variants, strict=True) if v.need > 0.0]
        if sum(ready) >= least and (not shares or sum(shares) >= 1.0):
            break
    if counts == before:
        return None
    swapped = _one_for_one(draft, before)
    if swapped is not None:
        return swapped
    text = "those that go are needed until what replaces them is ready"
    return Verdict(counts, Code.KEEPS_COVER, text)


def _one_for_one(draft: Draft, wanted: list[int]) -> Verdict | None:
    """At the service's maximum no stand-in can come before somebody goes: a weaker one for a stronger, one at a time.

    11 that carry 5 requests/s each and one of 13, at most 12: three of the weaker go, each when the last stand-in is
    ready. None while there is room, while one starts, or where the move would not carry more.
    """
    most = draft.state.spec.scaling.max_replicas
    if draft.observed < most or any(variant.starting or variant.failing for variant in draft.variants):
        return None
    fewer = [v for v in draft.variants if wanted[v.index] < v.observed]
    more = [v for v in draft.variants if wanted[v.index] > v.observed]
    if not fewer or not more:
        return None
    weak, strong = min(fewer, key=lambda v: (v.rate, v.index)), max(more, key=lambda v: (v.rate, -v.index))
    if strong.rate <= weak.rate:
        return None
    counts = [variant.observed for variant in draft.variants]
    counts[weak.index] -= 1
    counts[strong.index] += 1
    text = f"at the maximum of {most} one of {weak.spec.name} goes for one of {strong.spec.name}, which carries more"
    return Verdict(counts, Code.KEEPS_COVER, text)
