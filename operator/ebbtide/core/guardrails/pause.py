"""Pause: nothing moves in the paused direction until it is lifted or expires.

With `replicas` the total is set there once (in a direction that is not paused, or with direction All in any) and then
held. An expired pause has no effect.
"""

from ebbtide.core.guardrails.verdict import Verdict, add, no_higher, no_lower, remove
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.reasons import Code
from ebbtide.model.spec import Pause, PauseDirection


def active(draft: Draft, now_s: float) -> Pause | None:
    """The pause in force at `now_s`."""
    pause = draft.state.spec.scaling.pause
    if pause is None or (pause.until_unix_s is not None and now_s >= pause.until_unix_s):
        return None
    return pause


def identity(pause: Pause) -> str:
    """Tells one pause from the next, so that `replicas` is applied once."""
    until = "" if pause.until_unix_s is None else f"{pause.until_unix_s:.0f}"
    return "|".join((pause.direction.value, str(pause.replicas), until, pause.by, pause.reason))


def apply(draft: Draft, cycle: Cycle) -> Verdict | None:
    """Hold the paused direction, or go to the declared number once."""
    pause = active(draft, cycle.now_s)
    if pause is None:
        return None
    draft.pausing = True
    if pause.replicas is not None and draft.memory.pause_applied != identity(pause):
        return _set_once(draft, pause, cycle.now_s)
    if pause.replicas is not None:
        draft.pause_applied = identity(pause)
    counts = _held(draft, pause)
    return None if counts == draft.counts() else Verdict(counts, Code.PAUSED, describe(pause, cycle.now_s))


def _held(draft: Draft, pause: Pause) -> list[int]:
    if pause.direction is PauseDirection.ALL:
        return [variant.observed for variant in draft.variants]
    return no_higher(draft) if pause.direction is PauseDirection.UP else no_lower(draft)


def _set_once(draft: Draft, pause: Pause, now_s: float) -> Verdict | None:
    scaling = draft.state.spec.scaling
    goal = max(scaling.min_replicas, min(scaling.max_replicas, pause.replicas or 0))
    if goal == 0 and not draft.demand.zero:
        goal = 1  # never to zero on unknown or present traffic
    before = draft.counts()
    for variant in draft.variants:
        variant.count = variant.observed
    blocked = (goal > draft.observed and pause.direction is PauseDirection.UP) or (
        goal < draft.observed and pause.direction is PauseDirection.DOWN
    )
    counts = draft.counts()
    if not blocked:
        counts = add(draft, goal - draft.total) if goal > draft.total else remove(draft, draft.total - goal)
    waits = not blocked and sum(counts) < goal
    if not waits and (blocked or sum(counts) == draft.observed):
        draft.pause_applied = identity(pause)  # reached, or as near as minimums let it come
    for variant, count in zip(draft.variants, before, strict=True):
        variant.count = count
    text = describe(pause, now_s)
    if waits:  # 3 declared, room for 1: the others come once there is room
        return Verdict(counts, Code.PAUSED, f"{text}; there is room for {sum(counts)} so far")
    return None if counts == before else Verdict(counts, Code.PAUSED, text)


def describe(pause: Pause, now_s: float) -> str:
    """`paused (Down) at 3 replicas by ann: migration, for another 600s`."""
    text = f"paused ({pause.direction.value})"
    if pause.replicas is not None:
        text += f" at {pause.replicas} replicas"
    if pause.by:
        text += f" by {pause.by}"
    if pause.reason:
        text += f": {pause.reason}"
    if pause.until_unix_s is not None:
        text += f", for another {pause.until_unix_s - now_s:.0f}s"
    return text
