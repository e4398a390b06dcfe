"""What the readings of ready pods teach: the latency line, the edge, what replicas cannot buy, how even load is.

Shares of missed requests, read from histogram buckets, teach the edge. Only pods that were ready for a whole rate
window are read, where demand is known and was all through that window; what was not observed changes nothing.
"""

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from ebbtide.core import edge, fullness, latency, priors
from ebbtide.core.demand import LENGTH_TAU_S, pod_arrivals
from ebbtide.core.numeric import clip, share_above
from ebbtide.core.queueing import line_rate, planned_share
from ebbtide.core.work import KV_CACHE, Cycle, Draft, VariantDraft
from ebbtide.model.memory import CapacityMemory, LineMemory
from ebbtide.model.snapshot import EngineReadings, Latency, PodPhase

MOST_POINTS = 8.0
IDLE_SHARE = 0.5  # below this share of what a replica carries, misses are hardly for want of replicas
FEWEST_IDLE, MOST_IDLE = 4, 12  # windows
UNBUYABLE_TAU_S = 600.0
CROWD_TAU_S = 900.0
LEAST_CROWD = 1e-3  # in the batch: of less nothing is learnt
MOST_CROWD = 8.0  # what is more is no burst but a load that changes
LONGEST_GAP_S = 3600.0  # between two tokens: beyond it a reading is no latency
BY_CHANCE = 1.25  # times the mean load, as misses count it: so unlike are pods of any fleet
MISSED_CYCLES = 1.5  # since readings were last learnt from: they were missing
ENOUGH = 30.0  # requests behind a share of misses before it speaks at full weight


def learn(
    draft: Draft, variant: VariantDraft, memory: CapacityMemory, cycle: Cycle
) -> tuple[CapacityMemory, float, float]:
    """(memory, requests, missed requests) after this cycle's readings of the variant's ready pods."""
    pods = settled_pods(variant, cycle)
    if not pods or variant.model is None:
        return memory, 0.0, 0.0
    now_s = cycle.now_s
    elapsed_s = clip(now_s - memory.learnt_at, 1.0, 600.0) if memory.learnt_at else 10.0
    if elapsed_s < 1.0:
        return memory, 0.0, 0.0
    seen = _look(draft, variant, pods, elapsed_s, cycle.snapshot.rate_window_s)
    if memory.learnt_at and now_s - memory.learnt_at > MISSED_CYCLES * cycle.snapshot.cycle_s:
        memory = msgspec.structs.replace(memory, resumed_at=round(now_s, 1))
    if now_s - memory.resumed_at < cycle.snapshot.rate_window_s:
        # Rates over a window that is half empty are half of what they were and mean latencies are not: 30 in the batch
        # would be learnt to be as slow as 60.
        memory = msgspec.structs.replace(memory, learnt_at=round(now_s, 1))
        return memory, seen.requests + seen.refused, seen.missed + seen.refused
    # Over a window that was idle at first, the mean latency is of the crowd and the mean number in the batch of both:
    # from 2 and 40 ms a line that starts at 39 ms would be learnt. 2 on average and 30 now is such a window.
    steady = max(_sizes_now(pods), default=0.0) <= 2.0 * seen.concurrency + 8.0
    line = _learn_line(draft, variant, pods, memory, elapsed_s, cycle.snapshot.rate_window_s) if steady else memory.line
    forgotten = latency.forgotten(memory.line, line)
    changes = _learn_edge(draft, variant, memory, seen, now_s, forgotten) if steady and seen.whole else {}
    changes |= _learn_fullness(draft, memory, seen, now_s)
    changes |= _learn_first_token(memory, pods, seen, forgotten)
    dispersion = _learn_dispersion(variant, memory, pods, elapsed_s)
    changes |= _learn_crowd(memory, pods, elapsed_s)
    changes |= _learn_held(memory, pods, elapsed_s)
    return (
        msgspec.structs.replace(memory, line=line, **changes, dispersion=dispersion, learnt_at=round(now_s, 1)),
        seen.requests + seen.refused,
        seen.missed + seen.refused,
    )


def _look(
    draft: Draft, variant: VariantDraft, pods: list[EngineReadings], elapsed_s: float, window_s: float
) -> "_Seen":
    requests, missed = _misses(draft, pods, window_s)
    refused = [window_s * fullness.refusals(engine) for engine in pods]
    tokens = [engine.generation_tokens.fresh or 0.0 for engine in pods]
    _, usual = priors.shares(draft.demand.input_tokens, draft.demand.output_tokens)
    # by tokens, of all pods together: what a pod brings in that hardly has anything to do slows nobody
    brought = sum(each * _prompts(engine, usual) for each, engine in zip(tokens, pods, strict=True))
    brought = brought / sum(tokens) if sum(tokens) > 0.0 else usual
    starved = sum(fullness.starved(engine, draft.demand.input_tokens, window_s) for engine in pods) >= len(pods) / 2
    full_by = KV_CACHE if starved else ""
    if fullness.refused_at_work(refused, tokens):
        full_by = fullness.QUEUE_BOUND
    concurrency, whole = _mean_concurrency(pods), _is_whole(variant, pods)
    return _Seen(
        requests=requests,
        missed=missed,
        refused=sum(refused),
        tokens=sum(tokens) / len(pods),
        prompts=brought,
        uneven=_unevenness(tokens),
        concurrency=concurrency,
        elapsed_s=elapsed_s,
        window_s=window_s,
        even=whole and _was_even(pods, concurrency),
        whole=whole,
        full_by=full_by,
        starved=starved,
    )


def _unevenness(loads: list[float]) -> float:
    """The power mean over the mean, with misses that grow with load^10, and requests that come as the load does.

    One of 13 pods drains a queue, and 12 new ones hardly have anything to do: what misses there is of a full pod, and
    says nothing of pods at an eighth. What pods differ by chance is part of the edge.
    """
    mean = sum(loads) / len(loads)
    if mean <= 0.0:
        return 1.0
    power = sum((load / mean) ** (edge.MISS_EXPONENT + 1.0) for load in loads) / len(loads)
    return max(1.0, math.exp(math.log(power) / edge.MISS_EXPONENT) / BY_CHANCE)


def settled_pods(variant: VariantDraft, cycle: Cycle) -> list[EngineReadings]:
    """Readings of pods that were ready for a whole rate window: the rates of younger ones are of a part of it."""
    since = cycle.now_s - cycle.snapshot.rate_window_s
    return [
        pod.engine
        for pod in variant.state.pods
        if pod.phase is PodPhase.READY and pod.engine is not None and (pod.ready_at is None or pod.ready_at <= since)
    ]


def batch_size(engine: EngineReadings) -> float | None:
    """Mean requests decoding over the rate window: tokens/s x seconds a token; the gauge without token counts."""
    tokens, gap_s = engine.generation_tokens.fresh, token_gap_s(engine)
    if tokens is not None and gap_s is not None:
        return tokens * gap_s
    return engine.running.fresh


def token_gap_s(engine: EngineReadings) -> float | None:
    """Mean seconds from token to token; None where nothing was observed, or no number."""
    speed = engine.itl or engine.tpot
    if speed is None or speed.mean_s is None or not 0.0 <= speed.mean_s <= LONGEST_GAP_S:
        return None
    return speed.mean_s


def _sizes_now(pods: list[EngineReadings]) -> list[float]:
    return [size for engine in pods if (size := engine.running.fresh) is not None]


def _was_even(pods: list[EngineReadings], mean: float) -> bool:
    """What runs now is within a third of the window's mean; that nobody joined within the window is for the caller."""
    now = _sizes_now(pods)
    size = sum(now) / len(now) if now else math.inf
    return mean <= 1.5 * size + 1.0 and size <= 1.5 * mean + 1.0


def _is_whole(variant: VariantDraft, pods: list[EngineReadings]) -> bool:
    """Every ready pod was read, for the whole window."""
    return len(pods) >= sum(1 for pod in variant.state.pods if pod.phase is PodPhase.READY and pod.serves)


def _mean_concurrency(pods: list[EngineReadings]) -> float:
    sizes = [size for engine in pods if (size := batch_size(engine)) is not None]
    return sum(sizes) / len(sizes) if sizes else 0.0


def _learn_line(
    draft: Draft,
    variant: VariantDraft,
    pods: list[EngineReadings],
    memory: CapacityMemory,
    elapsed_s: float,
    window_s: float,
) -> LineMemory:
    """The pods' mean latency against their mean concurrency: one observation a cycle and pod, for up to eight pods.

    A mean over thousands of gaps has hardly any noise; what a cycle can be wrong about is common to all pods. One that
    was empty for most of the window had more in its batch whenever there was anything: 25 ms at a mean of 1 may be of 8
    at once, and a line through it would see 50 ms at 2. So a batch counts for as much as is sure of it.
    """
    view = draft.demand
    cache, prompts = priors.shares(view.input_tokens, view.output_tokens)
    total_n = total_v = total_y = weight = sizes = 0.0
    for engine in pods:
        speed, size, gap_s = engine.itl or engine.tpot, batch_size(engine), token_gap_s(engine)
        if (engine.preempted.fresh or 0.0) * window_s >= 1.0:
            continue  # gaps of requests that were thrown out and computed again are not the batch's speed
        if speed is None or gap_s is None or size is None or speed.per_second <= 0.0 or size <= 0.05:
            continue
        sizes += size
        # a request sees itself beside the others, and in bursts more of them than there are on average
        size += clip(memory.crowd, 1.0, MOST_CROWD)
        total_n, total_y, weight = total_n + size, total_y + gap_s, weight + 1.0
        total_v += size * _prompts(engine, prompts)
    if not weight or variant.model is None:
        return memory.line
    n, v, y_s = total_n / weight * cache, total_v / weight, total_y / weight
    sure = min(1.0, sizes / weight / MOST_CROWD) ** 2
    keep = latency.remembered(memory.line, variant.model.line, sure * elapsed_s, n, v, y_s)
    return latency.observe(memory.line, keep, sure * min(weight, MOST_POINTS), n, v, y_s)


def _prompts(engine: EngineReadings, usual: float) -> float:
    """Prompt tokens for each token put out, relative to the reference lengths; at most ten times as many as usual.

    Of the window, not of the service's mean: where long prompts begin to come, these are what slows the batch now.
    """
    came, put_out = engine.prompt_tokens.fresh, engine.generation_tokens.fresh
    if came is None or not put_out:
        return usual
    return clip(came / put_out / (priors.REFERENCE_INPUT / priors.REFERENCE_OUTPUT), 0.0, 10.0 * usual)


def _misses(draft: Draft, pods: list[EngineReadings], window_s: float) -> tuple[float, float]:
    """(requests, missed) over the rate window. Engines publish both latencies apart: their sum is the cautious side."""
    objectives = draft.state.spec.objectives
    requests = 0.0
    first: list[Latency] = []
    later: list[Latency] = []
    for engine in pods:
        speed = engine.tpot or engine.itl
        if not _observed(engine.ttft) and not _observed(speed):
            continue  # nothing finished, or no histograms: not the same as nothing missed
        arrivals = pod_arrivals(engine)
        requests += window_s * max((arrivals.fresh if arrivals else None) or 0.0, engine.finished.fresh or 0.0)
        first += [engine.ttft] if engine.ttft else []
        later += [speed] if speed else []
    share = _share(first, objectives.ttft_s, window_s) + _share(later, objectives.itl_s, window_s)
    return requests, requests * min(1.0, share)


def _observed(seen: Latency | None) -> bool:
    return seen is not None and bool(seen.buckets) and seen.buckets[-1][1] > 0.0


def _share(seen: list[Latency], limit_s: float, window_s: float) -> float:
    """What was above the limit in all pods' histograms together: of a few requests a pod nothing is known of tails.

    Those with other bounds, of another release of the engine, are counted apart.
    """
    alike: dict[tuple[float, ...], list[Latency]] = {}
    for one in seen:
        if _observed(one):
            alike.setdefault(tuple(bound for bound, _ in one.buckets), []).append(one)
    above = total = 0.0
    for bounds, found in alike.items():
        rates = [sum(one.buckets[i][1] for one in found) for i in range(len(bounds))]
        means = [(one.mean_s, one.buckets[-1][1]) for one in found if one.mean_s is not None]
        mean_s = sum(mean * weight for mean, weight in means) / sum(weight for _, weight in means) if means else None
        buckets = list(zip(bounds, rates, strict=True))
        above += rates[-1] * (share_above(buckets, limit_s, mean_s, rates[-1] * window_s) or 0.0)
        total += rates[-1]
    return above / total if total else 0.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a variant's ready pods did over the rate window."""

    requests: float  # admitted
    missed: float
    refused: float  # requests that engines refused
    tokens: float  # output tokens/s, mean of one pod
    prompts: float  # prompt tokens for each token put out, relative to the reference lengths
    uneven: float  # times as much load as on average, at which as many would miss as do where it is uneven
    concurrency: float  # mean of one pod
    elapsed_s: float  # since the cycle before
    window_s: float  # the rate window
    even: bool  # the load was about the same through the window, on the same pods
    whole: bool  # they are all that are ready, and were so through the window
    full_by: str  # what they were full by; empty: they were not
    starved: bool  # at least half of them had no KV cache left


def _learn_edge(
    draft: Draft, variant: VariantDraft, memory: CapacityMemory, seen: _Seen, now_s: float, forgotten: float
) -> dict[str, Any]:
    """How misses grow with load, and the share of them that replicas cannot buy."""
    model, requests = variant.model, seen.requests
    if model is None or requests <= 0.0 or seen.starved:
        return {}  # for want of memory they miss: that is neither the latency edge nor what replicas cannot buy
    planned = planned_share(draft.state.spec.objectives.attainment)
    rate, most = line_rate(draft, variant, max(1, variant.ready))
    view = draft.demand
    cache, prompts = priors.shares(view.input_tokens, view.output_tokens)
    alone = max(1e-9, line_rate(draft, variant, 1.0)[0])
    promised = alone * view.output_tokens * priors.shape_of(cache, prompts)
    known_edge = edge.anchored(edge.doubted(memory.edge, forgotten), promised, seen.elapsed_s, max(1, variant.ready))
    # the batch of a window with longer prompts is as slow with fewer in it
    slower = model.line.slope(cache, seen.prompts) / model.line.slope(cache, prompts)
    work = seen.tokens * priors.shape_of(cache, seen.prompts) * alone / rate
    if edge.proven(planned, requests, seen.missed):
        known_edge = edge.reanchored(known_edge, work)
    load = max(work / max(1e-9, known_edge.work), seen.concurrency * slower / max(1e-9, most)) * seen.uneven
    if view.queued_at == round(now_s, 1):
        known_edge = msgspec.structs.replace(known_edge, queued=round(load, 3))
    elif view.queued_at is not None and now_s - view.queued_at < seen.window_s:
        load = max(load, known_edge.queued)  # what waited then is missed, and in this window still
    share = min(1.0, seen.elapsed_s / seen.window_s)
    changes: dict[str, Any] = {}
    further = edge.more(known_edge, max(1, variant.ready))
    idle = load < IDLE_SHARE * edge.reach(known_edge, planned, further) and draft.demand.waiting < 1.0
    if idle and seen.even and not draft.moving:
        changes = _learn_unbuyable(memory, seen, share, now_s)
    changes["edge"] = known_edge
    known = changes.get("idle_shares", memory.idle_shares)
    if idle and len(known) < FEWEST_IDLE:
        return changes  # what is missed there no number of replicas may buy: not known yet
    unbuyable = changes.get("unbuyable", memory.unbuyable) * requests
    missed = max(0.0, seen.missed - unbuyable)
    changes["edge"] = edge.observe(known_edge, planned, load, requests, missed, share, seen.elapsed_s, further)
    return changes


def _learn_unbuyable(memory: CapacityMemory, seen: _Seen, share: float, now_s: float) -> dict[str, Any]:
    """What misses however idle replicas are: no more than that in a quarter of such windows.

    The quartile, because what cannot be bought misses all the time, and bursts in some minutes.
    """
    weight = memory.unbuyable_weight * math.exp(-seen.elapsed_s / UNBUYABLE_TAU_S) + seen.requests * share
    if now_s - memory.idle_at < seen.window_s and memory.idle_shares:
        return {"unbuyable_weight": round(weight, 2)}
    shares = (*memory.idle_shares, round(seen.missed / seen.requests, 4))[-MOST_IDLE:]
    found = sorted(shares)[len(shares) // 4]
    return {
        "idle_shares": shares,
        "idle_at": round(now_s, 1),
        "unbuyable": found if len(shares) >= FEWEST_IDLE else 0.0,
        "unbuyable_weight": round(weight, 2),
    }


def _learn_first_token(
    memory: CapacityMemory, pods: list[EngineReadings], seen: _Seen, forgotten: float
) -> dict[str, Any]:
    """The least time to a first token for each prompt token: a window's mean holds waits too, so a lone prompt takes
    no longer. 4,000 tokens after 420 ms on average are at most 0.105 ms each, whatever a table of other models says.
    """
    known = 0.0 if forgotten > 0.0 else memory.first_token_s * math.exp(seen.elapsed_s / edge.FORGET_S)
    rates = [
        (engine.ttft.per_second, engine.ttft.mean_s, engine.prompt_tokens.fresh)
        for engine in pods
        if engine.ttft is not None and engine.ttft.mean_s is not None and engine.prompt_tokens.fresh
    ]
    waited = sum(per_s * (mean_s or 0.0) for per_s, mean_s, _ in rates)
    tokens = sum(prompts or 0.0 for _, _, prompts in rates)
    if seen.requests < ENOUGH or waited <= 0.0 or tokens <= 0.0:
        return {"first_token_s": known}
    found = waited / tokens
    return {"first_token_s": float(f"{min(found, known or found):.4g}")}


def _learn_fullness(draft: Draft, memory: CapacityMemory, seen: _Seen, now_s: float) -> dict[str, Any]:
    """What full replicas carry, learnt where they miss more than may be missed for longer than a rate window.

    20 places a replica at 5 s a request are 4 requests/s, whatever the latency line says; a burst that fills them for
    seconds is over before it is believed. Carried within the objectives, more takes less back.
    """
    requests, missed = seen.requests + seen.refused, seen.missed + seen.refused
    allowed = fullness.may_miss(draft)
    if not seen.full_by or missed < fullness.LEAST_REQUESTS or missed <= allowed * requests or seen.tokens <= 0.0:
        within = requests * allowed >= 2.0 and missed <= allowed * requests
        more = within and memory.full_tokens and seen.tokens > memory.full_tokens
        return {"full_since": None} | ({"full_tokens": round(seen.tokens, 1)} if more else {})
    since = memory.full_since if memory.full_since is not None else round(now_s, 1)
    if not seen.whole or now_s - since <= seen.window_s:
        return {"full_since": since}
    shape = priors.length_shape(draft.demand.input_tokens, draft.demand.output_tokens)
    learnt = {"full_tokens": round(seen.tokens, 1), "full_shape": round(shape, 3), "full_by": seen.full_by}
    return learnt | {"full_at": round(now_s, 1), "full_since": since}


def _learn_crowd(memory: CapacityMemory, pods: list[EngineReadings], elapsed_s: float) -> dict[str, Any]:
    """How the number in a batch varies from moment to moment: 1 if requests come and go one by one, more in bursts."""
    mean = _mean_concurrency(pods)
    sizes = _sizes_now(pods)
    if mean <= LEAST_CROWD or not sizes:
        return {}
    squares = sum((size - mean) ** 2 for size in sizes) / len(sizes)
    keep = math.exp(-elapsed_s / CROWD_TAU_S)
    base = keep * memory.crowd_mean + (1.0 - keep) * mean
    found = keep * memory.crowd * memory.crowd_mean + (1.0 - keep) * squares
    return {"crowd": round(found / base, 3), "crowd_mean": round(base, 3)}


def _learn_held(memory: CapacityMemory, pods: list[EngineReadings], elapsed_s: float) -> dict[str, Any]:
    """KV cache that a request in the batch holds: more than a mean request half way through its answer.

    Long answers are in the batch for longer. Of answers of 100 and 1,900 tokens, a half each, 95 % of the batch are
    long: 905 tokens on average where half a mean answer is 500. Prefixes that requests share count once. What is kept
    of requests that have gone belongs to none: one that is hardly there at all holds no more than all of the cache.
    """
    full = [
        (engine.kv_usage.fresh * engine.kv_tokens, engine.running.fresh, engine.kv_tokens)
        for engine in pods
        if engine.kv_usage.fresh and engine.kv_tokens and engine.running.fresh
    ]
    running = sum(count for _, count, _ in full)
    if not running:
        return {}
    weight = memory.held_weight * math.exp(-elapsed_s / LENGTH_TAU_S)
    total = weight + running * elapsed_s
    found = (weight * memory.held_tokens + elapsed_s * sum(tokens for tokens, _, _ in full)) / total
    return {"held_tokens": round(min(found, max(size for _, _, size in full)), 1), "held_weight": round(total, 1)}


def _learn_dispersion(
    variant: VariantDraft, memory: CapacityMemory, pods: list[EngineReadings], elapsed_s: float
) -> float:
    """How unevenly load sits on replicas: between-replica variance over what a lone replica's fluctuation would be."""
    sizes = [size for engine in pods if (size := engine.running.fresh) is not None]
    model = variant.model
    if len(sizes) < 2 or model is None or sum(sizes) < 4.0 * len(sizes):
        return memory.dispersion
    mean = sum(sizes) / len(sizes)
    between = sum((size - mean) ** 2 for size in sizes) / (len(sizes) - 1)
    seen = clip(between / (mean * (1.0 + mean * model.b_s / model.a_s)), 0.0, 1.0)
    gain = min(0.5, elapsed_s / 300.0)
    return round(memory.dispersion + gain * (seen - memory.dispersion), 3)
