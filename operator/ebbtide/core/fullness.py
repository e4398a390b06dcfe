"""Replicas that are full: they refuse requests at a queue bound, or have no KV cache left for one more.

Both are seen as what they are: refused requests wanted service and count as demand, and a replica that is full carries
no more than it does, whatever its latency line promises. Must never take high use for fullness while objectives are
met, nor count refusals without a bound: clients try again and are refused again.
"""

import math
from collections.abc import Sequence

from ebbtide.core.work import KV_CACHE, Cycle, Draft
from ebbtide.model.memory import CapacityMemory
from ebbtide.model.snapshot import EngineReadings

QUEUE_BOUND = "queue bound"
MOST_COUNTED = 2.0  # times what is admitted: of 90/s refused beside 10/s served, 20 count, and the next step shows more
FEWEST_COUNTED = 1.0 / 60.0  # requests/s, where nothing is admitted at all: never the same as no load
LEAST_REQUESTS = 3.0  # of a rate window: fewer refusals or misses are chance
AT_WORK = 0.5  # of what its fellows carry
HIGH_USE = 0.9  # of the KV cache
TAU_S = 6 * 3600.0  # what full replicas carried is believed for so long, then twice, then not any more


def counted(admitted: float, refused: float) -> float:
    """Of the requests/s that were refused, those that count as demand."""
    return min(refused, max(MOST_COUNTED * admitted, FEWEST_COUNTED))


def refusals(engine: EngineReadings) -> float:
    """Requests/s that the engine refuses at the door; 0 where it does not say."""
    return max(0.0, engine.rejected.fresh or 0.0)


def refused_at_work(refused: Sequence[float], tokens: Sequence[float]) -> bool:
    """Requests were refused by pods that carry about as much as the others.

    One that is stuck refuses whatever comes and carries nothing: that says nothing about the fleet, and no number of
    further replicas would end it. Which of several full ones refuses is the gateway's choice, often always the first.
    """
    work = [carried for count, carried in zip(refused, tokens, strict=True) if count >= 1.0]
    return bool(work) and sum(work) / len(work) >= AT_WORK * sum(tokens) / len(tokens)


def starved(engine: EngineReadings, prompt_tokens: float, window_s: float) -> bool:
    """No KV cache for one more request while some wait, or requests were thrown out of it within the window.

    A cache of 4096 tokens is full for prompts of 1024 at 75 %, not at 90 %.
    """
    if (engine.preempted.fresh or 0.0) * window_s >= 1.0:
        return True
    use, waiting = engine.kv_usage.fresh, engine.waiting.fresh
    if use is None or waiting is None or waiting < 1.0:
        return False
    room = 1.0 - prompt_tokens / engine.kv_tokens if engine.kv_tokens else HIGH_USE
    return use >= max(0.5, min(HIGH_USE, room))


def observe(draft: Draft, cycle: Cycle) -> None:
    """Fill the KV numbers of the demand from the pods that were read."""
    view, window_s = draft.demand, cycle.snapshot.rate_window_s
    for variant in draft.variants:
        for pod in variant.state.pods:
            engine = pod.engine
            if engine is None:
                continue
            view.preempted += max(0.0, engine.preempted.fresh or 0.0)
            if engine.kv_usage.fresh is not None:
                view.kv_usage = max(view.kv_usage or 0.0, engine.kv_usage.fresh)
            view.starved += starved(engine, view.input_tokens, window_s)


def may_miss(draft: Draft) -> float:
    """The share of requests that may miss an objective; one that is refused misses all of them."""
    return 1.0 - draft.state.spec.objectives.attainment


def refuses(draft: Draft, cycle: Cycle) -> bool:
    """More is refused than may miss."""
    view = draft.demand
    asked = view.admitted + view.refused
    enough = view.refused * cycle.snapshot.rate_window_s >= LEAST_REQUESTS
    return enough and view.refused > may_miss(draft) * asked


def note(draft: Draft, cycle: Cycle, requests: float, missed: float) -> None:
    """Remember when more was refused than may miss, and when misses met engines without memory."""
    now_s = round(cycle.now_s, 1)
    draft.refused_at, draft.starved_at = draft.memory.refused_at, draft.memory.starved_at
    if refuses(draft, cycle):
        draft.refused_at = now_s
    if draft.demand.starved and missed >= LEAST_REQUESTS and missed > may_miss(draft) * requests:
        draft.starved_at = now_s


def most_rate(draft: Draft, memory: CapacityMemory, now_s: float, shape: float) -> float:
    """Requests/s that a replica carried when it was full, at lengths of this shape; infinite where it never was.

    Believed a little less each hour (e-fold in six), so that what has changed since is tried again.
    """
    age_s = max(0.0, now_s - memory.full_at)
    if not memory.full_tokens or age_s > 2.0 * TAU_S:
        return math.inf
    alike = memory.full_shape / shape if memory.full_shape > 0.0 and shape > 0.0 else 1.0
    return memory.full_tokens * alike * math.exp(age_s / TAU_S) / max(1.0, draft.demand.output_tokens)


def words(draft: Draft) -> str:
    """`2.1 requests/s are refused by the engines (queue bound); KV cache 97% full, ...`; empty when neither is."""
    view, parts = draft.demand, []
    if view.refused > 0.0:
        again = f", {view.counted:.3g} of them count as demand" if view.counted < view.refused else ""
        parts.append(f"{view.refused:.3g} requests/s are refused by the engines: {QUEUE_BOUND}{again}")
    if view.starved:
        pods = "1 pod" if view.starved == 1 else f"{view.starved} pods"
        use = f"{view.kv_usage:.0%} used" if view.kv_usage is not None else "use unknown"
        parts.append(f"memory limits {pods}, not compute: {KV_CACHE} {use}, {view.preempted:.2g} preemptions/s")
    return "; ".join(parts)
