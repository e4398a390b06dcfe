"""What one replica carries inside the objectives, as a rate: requests/s, never a stock of tokens or slots.

ITL = a + b x N is fitted online, with the prior as ridge: where all observations sit at one concurrency the
prior's shape, scaled to what was seen, carries the rest. The concurrency that keeps the declared share of requests
inside the objective follows from the spread of the number in the batch (processor sharing: variance
N (1 + N b / a), less what averages out over a request's residence and over replicas), and the rate from
Little's law. Shares of missed requests, read from histogram buckets, then correct the allowed concurrency
on the log scale.
"""

import math
from dataclasses import dataclass

import msgspec

from ebbtide.core import priors
from ebbtide.core.demand import pod_arrivals
from ebbtide.core.numeric import clip, share_above, significant, tail_quantile, upper_tail
from ebbtide.core.startup import learn as learn_startup
from ebbtide.core.work import Cycle, Draft, Model, VariantDraft
from ebbtide.model.memory import CapacityMemory
from ebbtide.model.snapshot import EngineReadings, Latency, PodPhase

RESIDENCE = 0.75  # share of the variance of N that is left in a request's mean over its own residence
ITL_SHARE = 0.7  # of the allowed misses; the rest is for first tokens
PLANNED = 0.7  # plan to use this share of the allowed misses: the estimate of the edge is itself uncertain
FIT_TAU_S = 1800.0  # memory of the latency fit
PRIOR_POINTS = 4.0  # the ridge's weight, in cycles of observation of one pod
MOST_POINTS = 8.0
MISS_EXPONENT = 10.0  # misses grow about with load^10 at the edge, so log(load) is off by a tenth of log(misses)
MOST_CORRECTION = 2.5
CORRECTION_TAU_S = 6 * 3600.0
IDLE_SHARE = 0.5  # below this share of the uncorrected concurrency, misses are not for want of replicas
PROOF_TAU_S = 24 * 3600.0
CLEAR_MISSES = 10.0  # requests of a window: too many to be chance where one or two are allowed
LONGEST_GAP_S = 3600.0  # between two tokens: beyond it a reading is no latency
ALIKE = 1.25  # shapes of lengths this near to each other are the same load
ENOUGH = 30.0  # requests behind a share of misses before it speaks at full weight


def step(cycle: Cycle) -> None:
    """Learn what replicas do, then say what each variant's replica carries."""
    for draft in cycle.drafts:
        missed = requests = 0.0
        for variant in draft.variants:
            memory = learn_startup(variant.memory.capacity, variant)
            variant.model = model_of(draft, variant, memory)
            if draft.demand.known and not cycle.metrics_down:
                memory, count, misses = learn(draft, variant, memory, cycle)
                requests, missed = requests + count, missed + misses
                variant.model = model_of(draft, variant, memory)
            variant.memory = msgspec.structs.replace(variant.memory, capacity=memory)
            variant.correction = memory.correction
        draft.misses = missed / requests if requests > 0.0 else None


def model_of(draft: Draft, variant: VariantDraft, memory: CapacityMemory) -> Model:
    """The latency line at the present mean lengths, and the concurrency at which something binds."""
    spec, view = draft.state.spec, draft.demand
    accelerator = variant.pool.state.spec.accelerator if variant.pool else ""
    prior = priors.prior_for(accelerator, spec.model_parameters_billion, variant.gpus)
    shape = priors.length_shape(view.input_tokens, view.output_tokens)
    scale, source = 1.0, prior.source
    if variant.spec.capacity is not None:
        scale, source = _declared_scale(draft, variant, prior), "declared"
    a_s, b_s = _fit(memory, prior.a_s * scale, prior.b_s * scale)
    if memory.weight >= PRIOR_POINTS:
        source = "observed"
    prefill_s = prior.prefill_s_per_token * scale * view.input_tokens
    limit, bound_by = _limit(draft, variant, a_s, b_s * shape)
    return Model(a_s, b_s * shape, prefill_s, limit, bound_by, source)


def _declared_scale(draft: Draft, variant: VariantDraft, prior: priors.Prior) -> float:
    """How much slower than the table a replica must be to carry just the declared rate at the declared lengths."""
    declared = variant.spec.capacity
    objectives = draft.state.spec.objectives
    if declared is None:
        return 1.0
    shape = priors.length_shape(declared.input_tokens, declared.output_tokens)
    low, high = -4.0, 4.0
    for _ in range(24):
        middle = 0.5 * (low + high)
        factor = math.exp(middle)
        a_s, b_s = prior.a_s * factor, prior.b_s * factor * shape
        most = max(1.0, (objectives.itl_s - a_s) / b_s)
        carried = rate_at(
            a_s, b_s, allowed_concurrency(a_s, b_s, most, objectives.attainment, 1.0), declared.output_tokens
        )
        low, high = (middle, high) if carried > declared.requests_per_second else (low, middle)
    return math.exp(0.5 * (low + high))


def _fit(memory: CapacityMemory, prior_a: float, prior_b: float) -> tuple[float, float]:
    """The ridge fit (a, b) at reference lengths; `n` in memory is concurrency weighted by the length shape."""
    weight = memory.weight
    if weight <= 0.0 or memory.sum_n <= 0.0:
        return prior_a, prior_b
    mean_n, mean_y = memory.sum_n / weight, memory.sum_y / weight
    level = weight / (weight + PRIOR_POINTS)
    scale = clip(mean_y / (prior_a + prior_b * mean_n), 0.05, 20.0) ** level
    a_0, b_0 = prior_a * scale, prior_b * scale
    far = max(2.0 * mean_n, 3.0 * a_0 / b_0)
    # Two points of the scaled prior, one near the origin and one far out.
    s_w = weight + 2.0 * PRIOR_POINTS
    s_n = memory.sum_n + PRIOR_POINTS * (1.0 + far)
    s_nn = memory.sum_nn + PRIOR_POINTS * (1.0 + far * far)
    y_near, y_far = a_0 + b_0, a_0 + b_0 * far
    s_y = memory.sum_y + PRIOR_POINTS * (y_near + y_far)
    s_ny = memory.sum_ny + PRIOR_POINTS * (y_near + far * y_far)
    slope = (s_ny - s_n * s_y / s_w) / max(1e-12, s_nn - s_n * s_n / s_w)
    slope = clip(slope, 0.2 * b_0, 5.0 * b_0)
    return clip((s_y - slope * s_n) / s_w, 0.2 * a_0, 5.0 * a_0), slope


def _limit(draft: Draft, variant: VariantDraft, a_s: float, b_s: float) -> tuple[float, str]:
    """The concurrency no request may see exceeded, and what sets it."""
    view = draft.demand
    # An objective that one request alone cannot meet: run at the knee, where latency has doubled.
    itl_s = draft.state.spec.objectives.itl_s
    limit, bound_by = ((itl_s - a_s) / b_s, "inter-token latency") if itl_s > 1.1 * a_s else (a_s / b_s, "unattainable")
    tokens, most = _engine_limits(variant)
    if tokens is not None:
        room = 0.95 * tokens / max(1.0, view.input_tokens + 0.5 * view.output_tokens)
        if room < limit:
            limit, bound_by = room, "KV cache"
    if most is not None and most < limit:
        limit, bound_by = most, "max running"
    return max(1.0, limit), bound_by


def _engine_limits(variant: VariantDraft) -> tuple[float | None, float | None]:
    for pod in variant.state.pods:
        if pod.engine is not None and (pod.engine.kv_tokens or pod.engine.max_running):
            return pod.engine.kv_tokens, pod.engine.max_running
    return None, None


def allowed_concurrency(a_s: float, b_s: float, limit: float, attainment: float, spread: float) -> float:
    """The mean number in a batch at which the declared share of requests stays below `limit`.

    N + z sqrt(k N (1 + N b/a)) = limit, solved in closed form. a = 14.7 ms, b = 0.38 ms, limit 92, 99 % and spread 1
    (one replica on its own) give about 62; spread 0.1 (perfect pooling over ten) gives about 80.
    """
    z = tail_quantile((1.0 - attainment) * ITL_SHARE * PLANNED)
    k = RESIDENCE * spread * z * z
    beta = b_s / a_s
    root = math.sqrt(k * k + 4.0 * limit * k + 4.0 * k * beta * limit * limit)
    return 2.0 * limit * limit / (2.0 * limit + k + root)


def rate_at(a_s: float, b_s: float, concurrency: float, output_tokens: float) -> float:
    """Little's law: requests/s of a replica that holds `concurrency` requests of `output_tokens` each."""
    return concurrency / (output_tokens * (a_s + b_s * concurrency))


def replica_rate(draft: Draft, variant: VariantDraft, replicas: float) -> tuple[float, float]:
    """(requests/s, concurrency) of one replica among `replicas`: the more there are, the more fluctuation is shared."""
    model = variant.model
    if model is None:
        return 0.0, 0.0
    objectives, view = draft.state.spec.objectives, draft.demand
    spread = pooled_spread(variant.memory.capacity.dispersion, replicas)
    limit = model.limit * variant.correction
    concurrency = allowed_concurrency(model.a_s, model.b_s, limit, objectives.attainment, spread)
    rate = rate_at(model.a_s, model.b_s, concurrency, view.output_tokens)
    most = first_token_rate(model, objectives.ttft_s, objectives.attainment, variant.correction)
    if most < rate:
        rate, concurrency = (
            most,
            most * view.output_tokens * model.a_s / max(0.05, 1.0 - most * view.output_tokens * model.b_s),
        )
    shape = priors.length_shape(view.input_tokens, view.output_tokens)
    proven = _proven_at(variant.memory.capacity, shape) / view.output_tokens
    if proven > rate:
        rate, concurrency = (
            proven,
            proven * view.output_tokens * model.a_s / max(0.05, 1.0 - proven * view.output_tokens * model.b_s),
        )
    return rate, concurrency


def pooled_spread(dispersion: float, replicas: float) -> float:
    """What is left of a lone replica's variance: each replica's own part, and the common part shared by all."""
    return dispersion + (1.0 - dispersion) / max(1.0, replicas)


def first_token_rate(model: Model, ttft_s: float, attainment: float, correction: float) -> float:
    """Requests/s at which the wait for prefill keeps first tokens inside the objective (an M/G/1 tail).

    Never below half of what prefill alone could do: beyond that more replicas buy nothing, and observed misses decide.
    """
    busy_s = 0.6 * model.prefill_s  # batching makes prefill cheaper than a lone prompt shows
    slack = 0.8 * max(0.0, ttft_s - model.prefill_s) / max(1e-6, busy_s)
    allowed = (1.0 - attainment) * (1.0 - ITL_SHARE) * PLANNED
    share = 0.9
    for _ in range(4):
        share = clip(1.0 - math.log(max(share, 0.05) / allowed) / max(slack, 1e-6), 0.5, 0.9)
    return correction * share / max(1e-6, busy_s)


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
    line = _learn_line(draft, pods, memory, elapsed_s)
    requests, missed = _misses(draft, pods, cycle.snapshot.rate_window_s)
    seen = _Seen(
        requests, missed, _mean_concurrency(pods), elapsed_s, cycle.snapshot.rate_window_s, _was_even(variant, pods)
    )
    changes = _learn_edge(draft, variant, memory, seen) | _proof(draft, pods, memory, seen)
    dispersion = _learn_dispersion(variant, memory, pods, elapsed_s)
    return (
        msgspec.structs.replace(memory, **line, **changes, dispersion=dispersion, learnt_at=round(now_s, 1)),
        requests,
        missed,
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


def _was_even(variant: VariantDraft, pods: list[EngineReadings]) -> bool:
    """Nobody joined within the window, and what runs now is within a third of the window's mean."""
    if len(pods) < variant.ready * max(1, variant.state.target.pods_per_replica):
        return False
    now = [size for engine in pods if (size := engine.running.fresh) is not None]
    mean = _mean_concurrency(pods)
    return bool(now) and 0.67 * mean <= sum(now) / len(now) <= 1.5 * mean + 1.0


def _mean_concurrency(pods: list[EngineReadings]) -> float:
    sizes = [size for engine in pods if (size := batch_size(engine)) is not None]
    return sum(sizes) / len(sizes) if sizes else 0.0


def _learn_line(draft: Draft, pods: list[EngineReadings], memory: CapacityMemory, elapsed_s: float) -> dict[str, float]:
    """The pods' mean latency against their mean concurrency: one observation a cycle and pod, for up to eight pods.

    A mean over thousands of gaps has hardly any noise; what a cycle can be wrong about is common to all pods.
    """
    total_n = total_y = weight = 0.0
    for engine in pods:
        speed, size, gap_s = engine.itl or engine.tpot, batch_size(engine), token_gap_s(engine)
        if speed is None or gap_s is None or size is None or speed.per_second <= 0.0 or size <= 0.05:
            continue
        total_n, total_y, weight = total_n + size, total_y + gap_s, weight + 1.0
    if not weight:
        return {}
    keep = math.exp(-elapsed_s / FIT_TAU_S)
    n = total_n / weight * priors.length_shape(draft.demand.input_tokens, draft.demand.output_tokens)
    y = total_y / weight
    count = min(weight, MOST_POINTS)
    return {
        "weight": significant(memory.weight * keep + count),
        "sum_n": significant(memory.sum_n * keep + count * n),
        "sum_nn": significant(memory.sum_nn * keep + count * n * n),
        "sum_y": round(memory.sum_y * keep + count * y, 7),
        "sum_ny": round(memory.sum_ny * keep + count * n * y, 7),
    }


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

    requests: float
    missed: float
    concurrency: float  # mean of one pod
    elapsed_s: float  # since the cycle before
    window_s: float  # the rate window
    even: bool  # the load was about the same through the window, on the same pods


def _learn_edge(draft: Draft, variant: VariantDraft, memory: CapacityMemory, seen: _Seen) -> dict[str, float]:
    """Move the allowed concurrency towards what misses say, and learn the share of misses that replicas cannot buy."""
    model, requests, concurrency, elapsed_s = variant.model, seen.requests, seen.concurrency, seen.elapsed_s
    share = seen.missed / requests if requests > 0.0 else None
    keep = math.exp(-elapsed_s / CORRECTION_TAU_S)
    log_correction = math.log(memory.correction) * keep
    if share is None or model is None:
        return {"correction": round(math.exp(log_correction), 4)}
    spread = pooled_spread(memory.dispersion, max(1, variant.ready))
    expected = _expected_share(model, memory.correction, concurrency, spread)
    free = allowed_concurrency(model.a_s, model.b_s, model.limit, draft.state.spec.objectives.attainment, spread)
    changes: dict[str, float] = {}
    if concurrency < IDLE_SHARE * free and draft.demand.waiting < 1.0:
        old = memory.unbuyable_weight * math.exp(-elapsed_s / 600.0)
        new = requests * min(1.0, elapsed_s / seen.window_s)
        changes["unbuyable"] = round((memory.unbuyable * old + share * new) / max(1e-9, old + new), 5)
        changes["unbuyable_weight"] = round(old + new, 2)
    elif draft.moving or not seen.even or (draft.demand.waiting > 0.5 * draft.demand.running and expected < 0.5):
        pass  # the window holds more than one load, or an old jam drains: misses are not of the mean that was measured
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


def _proven_at(memory: CapacityMemory, shape: float) -> float:
    """Output tokens/s that the proof is worth at lengths of this shape.

    Proven on 1024/256 says little of 4096/64, where a token costs twelve times as much: 5000 are then worth 520. Up to
    a quarter more is within what means of lengths wander by.
    """
    if memory.proven_shape <= 0.0 or shape <= ALIKE * memory.proven_shape:
        return memory.proven_tokens
    return memory.proven_tokens * ALIKE * memory.proven_shape / shape


def _proof(draft: Draft, pods: list[EngineReadings], memory: CapacityMemory, seen: _Seen) -> dict[str, float]:
    """Output tokens/s a replica was seen to carry within the objectives: no model may say that it cannot.

    It takes as many requests as make two misses at the allowed share (100 at 98 %). Misses beyond the share at no more
    than what was proven take the proof back; of fewer requests, at least `CLEAR_MISSES` must have missed.
    """
    keep = math.exp(-seen.elapsed_s / PROOF_TAU_S)
    faded = {"proven_tokens": round(memory.proven_tokens * keep, 1)}
    allowed = 1.0 - draft.state.spec.objectives.attainment
    enough = seen.requests * allowed >= 2.0
    if not enough and seen.missed < CLEAR_MISSES:
        return faded
    shape = priors.length_shape(draft.demand.input_tokens, draft.demand.output_tokens)
    proven = _proven_at(memory, shape) * keep
    carried = sum(engine.generation_tokens.fresh or 0.0 for engine in pods) / len(pods)
    base = memory.unbuyable if memory.unbuyable_weight >= ENOUGH else 0.0
    share = max(0.0, seen.missed / seen.requests - base)
    if enough and share <= PLANNED * allowed and carried > proven:
        return {"proven_tokens": round(carried, 1), "proven_shape": round(shape, 3)}
    if share > allowed and carried <= proven:
        return {"proven_tokens": round(min(proven, 0.95 * carried), 1), "proven_shape": round(shape, 3)}
    return faded


def _expected_share(model: Model, correction: float, concurrency: float, spread: float) -> float:
    """Share of requests the model expects beyond the limit at this mean concurrency; both kinds of misses together."""
    if concurrency <= 0.0:
        return 0.0
    variance = RESIDENCE * spread * concurrency * (1.0 + concurrency * model.b_s / model.a_s)
    beyond = upper_tail((model.limit * correction - concurrency) / math.sqrt(max(variance, 1e-9)))
    return min(1.0, beyond / ITL_SHARE)


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
