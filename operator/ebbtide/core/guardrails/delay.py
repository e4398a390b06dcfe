"""Delays in both directions, and the wait after a start with an empty memory.

Down: only as far as the most that was wanted at any moment of `down.delay`. Up: only once more was wanted for all of
`up.delay`. With an empty memory (first start, lost database) nothing is lowered until the delay was watched, and after
a gap (the operator was down) what ran through it counts as wanted.
"""

from ebbtide.core.guardrails.bounds import minimum
from ebbtide.core.guardrails.verdict import Verdict, forgo, no_lower, restore
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.memory import Recommendation
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import PodPhase

KEPT = 24
WATCH_UP_S = 10.0  # one cycle: what arrives in a minute's rate is known by then
WATCH_DOWN_S = 60.0
STRAINED = 0.9  # of the inter-token objective


def apply(draft: Draft, cycle: Cycle) -> Verdict | None:
    """Remember what is wanted, and let through what was wanted for long enough."""
    now_s, observed, total = cycle.now_s, draft.observed, draft.total
    scaling = draft.state.spec.scaling
    trusted = draft.demand.quality in ("fresh", "young", "none") and not cycle.metrics_down and not cycle.unwatched
    watched = not _gap(draft, cycle)
    _remember(draft, total if trusted and watched else max(total, observed), now_s, watched)
    warming = _warming(draft, cycle)
    if warming is not None:
        return warming
    if draft.gives_way:
        return None
    if total < observed and trusted:  # else nothing is lowered at all: see staleness
        most = max(entry.replicas for entry in draft.recommendations)
        if most > total:
            text = f"{min(most, observed)} were wanted within the last {draft.down_delay_s:.0f}s (down.delay)"
            return Verdict(restore(draft, min(most, observed) - total), Code.DOWN_DELAY, text)
    if total > observed and scaling.up_delay_s > 0.0 and not draft.waking:
        # the remembered moment is rounded to a tenth of a second, so it may lie a little ahead
        waited_s = max(0.0, now_s - (draft.raise_since if draft.raise_since is not None else now_s))
        allowed = max(min(total, minimum(draft)), draft.raise_to if waited_s >= scaling.up_delay_s else observed)
        if allowed < total:
            text = f"more than {observed} wanted for {waited_s:.0f}s of {scaling.up_delay_s:.0f}s (up.delay)"
            return Verdict(forgo(draft, total - allowed), Code.UP_DELAY, text)
    return None


def _warming(draft: Draft, cycle: Cycle) -> Verdict | None:
    """Nothing is raised before requests could be measured, nothing lowered before the delay was watched."""
    needed_s = max(WATCH_DOWN_S, draft.down_delay_s)
    counts, waits = draft.counts(), []
    if draft.watched_s < needed_s and no_lower(draft) != counts:
        counts = no_lower(draft)
        waits.append(f"watched for {draft.watched_s:.0f}s of the {needed_s:.0f}s before anything is lowered")
    unknown = _unmeasured(draft, cycle)
    if unknown and not draft.waking and draft.observed >= minimum(draft):
        most = [max(variant.observed, variant.spec.min_replicas) for variant in draft.variants]
        capped = [min(count, limit) for count, limit in zip(counts, most, strict=True)]
        if capped != counts:
            counts = capped
            waits.append(unknown)
    return Verdict(counts, Code.WARMING_UP, "; ".join(waits)) if waits else None


def _unmeasured(draft: Draft, cycle: Cycle) -> str:
    """What a raise waits for, in words; empty when what replicas carry could be seen."""
    if draft.watched_s < WATCH_UP_S:
        return f"watched for {draft.watched_s:.0f}s of the {WATCH_UP_S:.0f}s before anything is raised"
    if not draft.demand.lengths_known:
        needed_s = 2.0 * cycle.snapshot.rate_window_s
        return f"no token lengths seen yet, usual ones hold after {needed_s:.0f}s: watched for {draft.watched_s:.0f}s"
    return _outcomes_unknown(draft, cycle)


def _outcomes_unknown(draft: Draft, cycle: Cycle) -> str:
    """All replicas are so young that no full window of answers has ended, and nothing shows that they are strained.

    What they carry is then a belief only, and replicas raised on it are often too many: a table that says 3.7
    requests/s where 6.3 are carried would raise 9 to 16.
    """
    objectives, view = draft.state.spec.objectives, draft.demand
    if view.queue >= 1.0 or view.waiting > 0.1 * view.running:
        return ""
    window_s, answer_s = cycle.snapshot.rate_window_s, view.output_tokens * objectives.itl_s
    serving = (PodPhase.READY, PodPhase.INTERRUPTED)
    pods = [pod for variant in draft.variants for pod in variant.state.pods if pod.phase in serving]
    born = [pod.ready_at for pod in pods if pod.ready_at is not None]
    if not pods or len(born) < len(pods):
        return ""
    oldest_s = max(0.0, cycle.now_s - min(born))
    if oldest_s >= window_s + answer_s:
        return ""
    speeds = [pod.engine.itl.mean_s for pod in pods if pod.engine is not None and pod.engine.itl is not None]
    if any(speed is not None and speed > STRAINED * objectives.itl_s for speed in speeds):
        return ""
    return (
        f"the oldest replica has been ready for {oldest_s:.0f}s; what one carries is known after {window_s:.0f}s of "
        f"answers, the first of which take up to {answer_s:.0f}s"
    )


def _gap(draft: Draft, cycle: Cycle) -> bool:
    """No cycle for so long that the memory does not say what was wanted meanwhile: the operator was down."""
    known = draft.memory.recommendations
    return bool(known) and cycle.now_s - known[-1].at > cycle.unwatched_s


def _remember(draft: Draft, total: int, now_s: float, watched: bool) -> None:
    """Keep the sliding maximum: earlier entries that are not larger than the new one can never be the maximum again."""
    memory = draft.memory
    since = now_s - draft.down_delay_s
    kept = [entry for entry in memory.recommendations if entry.at >= since and entry.replicas > total]
    kept.append(Recommendation(round(now_s, 1), total))
    if len(kept) > KEPT:  # merge the two oldest towards the cautious side: the larger number, the later time
        kept[:2] = [Recommendation(kept[1].at, kept[0].replicas)]
    draft.recommendations = tuple(kept)
    if total <= draft.observed:
        draft.raise_since, draft.raise_to = None, 0
    elif memory.raise_since is None or not watched:
        draft.raise_since, draft.raise_to = round(now_s, 1), total
    else:
        draft.raise_since, draft.raise_to = memory.raise_since, min(memory.raise_to, total)
