"""To zero only when it is known that nothing comes, and back as soon as something does.

Never to zero on unknown data: fresh zero demand for all of `scaleToZero.after`, and an activator whose queue was read,
because without it nobody would wake the service again.
"""

from ebbtide.core.guardrails.verdict import Verdict, add, restore
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.reasons import Code

UNSEEN_S = 60.0  # a service at zero whose activator stays silent for so long is woken: nobody else could


def apply(draft: Draft, cycle: Cycle) -> Verdict | None:
    """Keep one replica unless zero is proven; raise to one when the gateway holds requests."""
    if draft.total > 0:
        return None
    if draft.observed > 0:
        return _to_zero(draft, cycle)
    return _from_zero(draft, cycle)


def _to_zero(draft: Draft, cycle: Cycle) -> Verdict | None:
    scaling, view = draft.state.spec.scaling, draft.demand
    counts = restore(draft, 1)
    if scaling.scale_to_zero is None or scaling.min_replicas > 0:
        return Verdict(counts, Code.AT_MINIMUM, "the service may not go to zero")
    if draft.activator_seen_at is None or not view.queue_known:
        text = f"the queue of {scaling.scale_to_zero.activator.url} cannot be read: nobody would wake the service"
        return Verdict(counts, Code.ACTIVATOR_UNSEEN, text)
    # the remembered moment is rounded to a tenth of a second, so it may lie a little ahead
    idle_s = max(0.0, cycle.now_s - (draft.last_request_at if draft.last_request_at is not None else cycle.now_s))
    if not view.zero or idle_s < scaling.scale_to_zero.after_s:
        text = f"no request for {idle_s:.0f}s of {scaling.scale_to_zero.after_s:.0f}s (scaleToZero.after)"
        return Verdict(counts, Code.REQUESTS_NOT_SEEN_ZERO, text)
    draft.idle = True
    return None


def _from_zero(draft: Draft, cycle: Cycle) -> Verdict | None:
    view = draft.demand
    seen_at = draft.activator_seen_at if draft.activator_seen_at is not None else draft.memory.watched_since
    silent_s = cycle.now_s - (seen_at if seen_at is not None else cycle.now_s)
    counts = add(draft, 1)
    if counts == draft.counts():
        return None
    if view.queue > 0.0:
        return Verdict(counts, Code.FIRST_REQUEST, f"the gateway holds {view.queue:.0f} requests", limits=False)
    if not view.queue_known and silent_s >= UNSEEN_S:
        text = f"at zero, but the activator's queue was not read for {silent_s:.0f}s: one replica stays up"
        return Verdict(counts, Code.ACTIVATOR_UNSEEN, text)
    return None
