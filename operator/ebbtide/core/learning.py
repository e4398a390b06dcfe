"""What the readings of ready pods teach: the latency line, the misses at the edge, a proven rate, how even load is.

Shares of missed requests, read from histogram buckets, correct the allowed concurrency on the log scale. Only pods that
were ready for a whole rate window are read, and only where demand is known; what was not observed changes nothing.
"""

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from ebbtide.core import fullness, latency, priors
from ebbtide.core.demand import pod_arrivals
from ebbtide.core.numeric import clip, share_above
from ebbtide.core.queueing import MISS_EXPONENT, PLANNED, allowed_concurrency, expected_share, pooled_spread
from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.memory import CapacityMemory, LineMemory
from ebbtide.model.snapshot import EngineReadings, Latency, PodPhase

MOST_POINTS = 8.0
MOST_CORRECTION = 2.5
CORRECTION_TAU_S = 6 * 3600.0
IDLE_SHARE = 0.5  # below this share of the uncorrected concurrency, misses are not for want of replicas
PROOF_TAU_S = 24 * 3600.0
CLEAR_MISSES = 10.0  # requests of a window: too many to be chance where one or two are allowed
LONGEST_GAP_S = 3600.0  # between two tokens: beyond it a reading is no latency
ALIKE = 1.25  # shapes of lengths this near to each other are the same load
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
    # Over a window that was idle at first, the mean latency is of the crowd and the mean number in the batch of both:
    # from 2 and 40 ms a line that starts at 39 ms would be learnt. 2 on average and 30 now is such a window.
    steady = max(_sizes_now(pods), default=0.0) <= 2.0 * seen.concurrency + 8.0
    line = _learn_line(draft, variant, pods, memory, elapsed_s, cycle.snapshot.rate_window_s) if steady else memory.line
    changes = _learn_edge(draft, variant, memory, seen) | _proof(draft, memory, seen)
    changes |= _learn_fullness(draft, memory, seen, now_s)
    dispersion = _learn_dispersion(variant, memory, pods, elapsed_s)
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
    starved = sum(fullness.starved(engine, draft.demand.input_tokens, window_s) for engine in pods) >= len(pods) / 2
    full_by = fullness.KV_CACHE if starved else ""
    if fullness.refused_at_work(refused, tokens):
        full_by = fullness.QUEUE_BOUND
    concurrency, whole = _mean_concurrency(pods), _is_whole(variant, pods)
    return _Seen(
        requests=requests,
        missed=missed,
        refused=sum(refused),
        tokens=sum(tokens) / len(pods),
        concurrency=concurrency,
        elapsed_s=elapsed_s,
        window_s=window_s,
        even=whole and _was_even(pods, concurrency),
        whole=whole,
        full_by=full_by,
        starved=starved,
    )


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

    A mean over thousands of gaps has hardly any noise; what a cycle can be wrong about is common to all pods.
    """
    view = draft.demand
    cache, prompts = priors.shares(view.input_tokens, view.output_tokens)
    total_n = total_v = total_y = weight = 0.0
    for engine in pods:
        speed, size, gap_s = engine.itl or engine.tpot, batch_size(engine), token_gap_s(engine)
        if (engine.preempted.fresh or 0.0) * window_s >= 1.0:
            continue  # gaps of requests that were thrown out and computed again are not the batch's speed
        if speed is None or gap_s is None or size is None or speed.per_second <= 0.0 or size <= 0.05:
            continue
        total_n, total_y, weight = total_n + size, total_y + gap_s, weight + 1.0
        total_v += size * _prompts(engine, prompts)
    if not weight or variant.model is None:
        return memory.line
    n, v, y_s = total_n / weight * cache, total_v / weight, total_y / weight
    keep = latency.remembered(memory.line, variant.model.line, elapsed_s, n, v, y_s)
    return latency.observe(memory.line, keep, min(weight, MOST_POINTS), n, v, y_s)


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
    requests = missed = 0.0
    for engine in pods:
        first = _share(engine.ttft, objectives.ttft_s)
        later = _share(engine.tpot or engine.itl, objectives.itl_s)
        if first is None and later is None:
            continue  # nothing finished, or no histograms: not the same as nothing missed
        arrivals = pod_arrivals(engine)
        count = window_s * max((arrivals.fresh if arrivals else None) or 0.0, engine.finished.fresh or 0.0)
        requests += count
        missed += count * min(1.0, (first or 0.0) + (later or 0.0))
    return requests, missed


def _share(latency: Latency | None, limit_s: float) -> float | None:
    return None if latency is None else share_above(latency.buckets, limit_s)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a variant's ready pods did over the rate window."""

    requests: float  # admitted
    missed: float
    refused: float  # requests that engines refused
    tokens: float  # output tokens/s, mean of one pod
    concurrency: float  # mean of one pod
    elapsed_s: float  # since the cycle before
    window_s: float  # the rate window
    even: bool  # the load was about the same through the window, on the same pods
    whole: bool  # they are all that are ready, and were so through the window
    full_by: str  # what they were full by; empty: they were not
    starved: bool  # at least half of them had no KV cache left


def _learn_edge(draft: Draft, variant: VariantDraft, memory: CapacityMemory, seen: _Seen) -> dict[str, float]:
    """Move the allowed concurrency towards what misses say, and learn the share of misses that replicas cannot buy."""
    model, requests, concurrency, elapsed_s = variant.model, seen.requests, seen.concurrency, seen.elapsed_s
    share = seen.missed / requests if requests > 0.0 else None
    keep = math.exp(-elapsed_s / CORRECTION_TAU_S)
    log_correction = math.log(memory.correction) * keep
    if share is None or model is None:
        return {"correction": round(math.exp(log_correction), 4)}
    spread = pooled_spread(memory.dispersion, max(1, variant.ready))
    expected = expected_share(model, memory.correction, concurrency, spread)
    free = allowed_concurrency(model.a_s, model.b_s, model.limit, draft.state.spec.objectives.attainment, spread)
    changes: dict[str, float] = {}
    if seen.starved:
        pass  # they miss for want of memory: that is neither the latency edge nor what replicas cannot buy
    elif draft.moving or not seen.even:
        pass  # the window holds more than one load: a jam that is over is no miss on idle replicas
    elif concurrency < IDLE_SHARE * free and draft.demand.waiting < 1.0:
        old = memory.unbuyable_weight * math.exp(-elapsed_s / 600.0)
        new = requests * min(1.0, elapsed_s / seen.window_s)
        changes["unbuyable"] = round((memory.unbuyable * old + share * new) / max(1e-9, old + new), 5)
        changes["unbuyable_weight"] = round(old + new, 2)
    elif draft.demand.waiting > 0.5 * draft.demand.running and expected < 0.5:
        pass  # an old jam drains: misses are not of the mean that was measured
    else:
        unsure = 0.5 / max(requests, 1.0)
        base = memory.unbuyable if memory.unbuyable_weight >= ENOUGH else 0.0
        signal = math.log((expected + unsure) / (max(0.0, share - base) + unsure)) / MISS_EXPONENT
        # Down within about two minutes, up within about five: a jam costs more than a replica.
        gain = elapsed_s / (120.0 if signal < 0.0 else 300.0) * requests / (requests + ENOUGH)
        log_correction += min(1.0, gain) * signal
    most = math.log(MOST_CORRECTION)
    changes["correction"] = round(math.exp(clip(log_correction, -most, most)), 4)
    return changes


def proven_at(memory: CapacityMemory, shape: float) -> float:
    """Output tokens/s that the proof is worth at lengths of this shape.

    Proven on 1024/256 says little of 4096/64, where a token costs twelve times as much: 5000 are then worth 520. Up to
    a quarter more is within what means of lengths wander by.
    """
    if memory.proven_shape <= 0.0 or shape <= ALIKE * memory.proven_shape:
        return memory.proven_tokens
    return memory.proven_tokens * ALIKE * memory.proven_shape / shape


def _proof(draft: Draft, memory: CapacityMemory, seen: _Seen) -> dict[str, float]:
    """Output tokens/s a replica was seen to carry within the objectives: no model may say that it cannot.

    It takes as many requests as make two misses at the allowed share (100 at 98 %). Misses beyond the share at no more
    than what was proven take the proof back; of fewer requests, at least `CLEAR_MISSES` must have missed. One that was
    refused missed.
    """
    requests, missed = seen.requests + seen.refused, seen.missed + seen.refused
    keep = math.exp(-seen.elapsed_s / PROOF_TAU_S)
    faded = {"proven_tokens": round(memory.proven_tokens * keep, 1)}
    allowed = 1.0 - draft.state.spec.objectives.attainment
    enough = requests * allowed >= 2.0
    if not enough and missed < CLEAR_MISSES:
        return faded
    shape = priors.length_shape(draft.demand.input_tokens, draft.demand.output_tokens)
    proven = proven_at(memory, shape) * keep
    carried = seen.tokens
    base = memory.unbuyable if memory.unbuyable_weight >= ENOUGH else 0.0
    share = max(0.0, missed / requests - base)
    if enough and share <= PLANNED * allowed and carried > proven:
        return {"proven_tokens": round(carried, 1), "proven_shape": round(shape, 3)}
    if share > allowed and carried <= proven:
        return {"proven_tokens": round(min(proven, 0.95 * carried), 1), "proven_shape": round(shape, 3)}
    return faded


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
