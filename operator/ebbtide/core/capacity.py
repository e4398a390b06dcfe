"""What one replica carries inside the objectives, as a rate: requests/s, never a stock of tokens or slots.

`latency` fits the line ITL = a + b x N online, with the prior as ridge; `queueing` turns it into a rate; `learning`
corrects it by what replicas were seen to do.
"""

import math

import msgspec

from ebbtide.core import edge, fullness, latency, priors
from ebbtide.core.learning import learn
from ebbtide.core.parts import Parts
from ebbtide.core.queueing import allowed_concurrency, concurrency_at, line_rate, planned_share, rate_at
from ebbtide.core.startup import learn as learn_startup
from ebbtide.core.work import KV_CACHE, MAX_RUNNING, Cycle, Draft, Model, VariantDraft
from ebbtide.model.memory import CapacityMemory

ANOTHER = 2.0  # times what was seen: a belief that is off by more is of another model or GPU
HELD_PRIOR = 20.0  # requests seen from beginning to end weigh as much as what is believed of the cache they hold
MOST_HELD = 10.0  # times that: lengths that vary so much are none, and the cache is full of something else
UTILISATION = 0.8  # of the limit, where nothing is known of tails: what autoscalers are usually given


def step(draft: Draft, cycle: Cycle) -> None:
    """Learn what replicas do, then say what each variant's replica carries."""
    missed = requests = 0.0
    for variant in draft.variants:
        memory = variant.memory.capacity
        if not cycle.unwatched:
            memory = learn_startup(memory, variant)
        variant.model = model_of(draft, variant, memory)
        if draft.demand.known and not cycle.metrics_down and not cycle.unwatched:
            memory, count, misses = learn(draft, variant, memory, cycle)
            requests, missed = requests + count, missed + misses
            variant.model = model_of(draft, variant, memory)
        variant.memory = msgspec.structs.replace(variant.memory, capacity=memory)
        variant.line_rate_alone = line_rate(draft, variant, 1.0)[0]
        variant.line_concurrency = line_rate(draft, variant, max(1, variant.ready))[1]
        variant.correction = correction(draft, variant, max(1, variant.ready))
        variant.steep, variant.unsure = edge.steep(memory.edge), edge.unsure(memory.edge)
        shape = priors.length_shape(draft.demand.input_tokens, draft.demand.output_tokens)
        variant.most_rate = fullness.most_rate(draft, memory, cycle.now_s, shape)
    draft.misses = missed / requests if requests > 0.0 else None
    fullness.note(draft, cycle, requests, missed)


def correction(draft: Draft, variant: VariantDraft, replicas: float) -> float:
    """How much more or less than the line's rate one replica among `replicas` carries, by where its edge lies.

    Above 1 loads are seen by what is in the batch, of which a rate is less than proportional: at 10 ms + 0.6 ms x N
    twice the 20 in the batch are 1.29 times the rate.
    """
    known = variant.memory.capacity.edge
    planned = planned_share(draft.state.spec.objectives.attainment)
    reach = edge.reach(known, planned, edge.more(known, replicas))
    model = variant.model
    if model is None or reach <= 1.0:
        return reach
    concurrency = variant.line_concurrency
    return rate_at(model.a_s, model.b_s, reach * concurrency, 1.0) / rate_at(model.a_s, model.b_s, concurrency, 1.0)


def model_of(draft: Draft, variant: VariantDraft, memory: CapacityMemory) -> Model:
    """The latency line at the present mean lengths, and the concurrency at which something binds."""
    spec, view = draft.state.spec, draft.demand
    accelerator = variant.pool.state.spec.accelerator if variant.pool else ""
    prior = priors.prior_for(accelerator, spec.model_parameters_billion, variant.gpus)
    scale, source = 1.0, prior.source
    if variant.spec.capacity is not None:
        scale, source = _declared_scale(draft, variant, prior), "declared"
    line = latency.fit(memory.line, latency.believed(prior.a_s * scale, prior.b_s * scale), spec.objectives.itl_s)
    if memory.line.weight >= latency.PRIOR_POINTS:
        source = "observed"
    prefill_s = prior.prefill_s_per_token * scale
    if 0.0 < memory.first_token_s < prefill_s / ANOTHER:
        prefill_s = memory.first_token_s  # a mean with its waits: a lone prompt takes no longer
    prefill_s *= view.input_tokens
    slope_s = line.slope_s(view.input_tokens, view.output_tokens)
    limit, bound_by = _limit(draft, variant, memory, line.a_s, slope_s)
    return Model(line.a_s, slope_s, prefill_s, limit, bound_by, source, line)


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


def _limit(draft: Draft, variant: VariantDraft, memory: CapacityMemory, a_s: float, b_s: float) -> tuple[float, str]:
    """The concurrency no request may see exceeded, and what sets it."""
    # An objective that one request alone cannot meet: run at the knee, where latency has doubled.
    itl_s = draft.state.spec.objectives.itl_s
    limit, bound_by = ((itl_s - a_s) / b_s, "inter-token latency") if itl_s > 1.1 * a_s else (a_s / b_s, "unattainable")
    tokens, most = _engine_limits(variant)
    if tokens is not None:
        room = 0.95 * tokens / _held(draft, memory, a_s)
        if room < limit:
            limit, bound_by = room, KV_CACHE
    if most is not None and most < limit:
        limit, bound_by = most, MAX_RUNNING
    return max(1.0, limit), bound_by


def _held(draft: Draft, memory: CapacityMemory, a_s: float) -> float:
    """KV cache tokens of a request in the batch: as seen, at first as if all were of the mean length."""
    view = draft.demand
    mean = max(1.0, view.input_tokens + 0.5 * view.output_tokens)
    believed = HELD_PRIOR * view.output_tokens * a_s
    seen = min(memory.held_tokens, MOST_HELD * mean)
    return (believed * mean + memory.held_weight * seen) / (believed + memory.held_weight)


def _engine_limits(variant: VariantDraft) -> tuple[float | None, float | None]:
    for pod in variant.state.pods:
        if pod.engine is not None and (pod.engine.kv_tokens or pod.engine.max_running):
            return pod.engine.kv_tokens, pod.engine.max_running
    return None, None


def replica_rate(draft: Draft, variant: VariantDraft, replicas: float, parts: Parts) -> tuple[float, float]:
    """(requests/s, concurrency) of one replica among `replicas`, as far as its edge was seen to reach."""
    model = variant.model
    if model is None:
        return 0.0, 0.0
    if not parts.tail:
        concurrency = UTILISATION * model.limit
        return rate_at(model.a_s, model.b_s, concurrency, draft.demand.output_tokens), concurrency
    rate, concurrency = line_rate(draft, variant, replicas)
    known = variant.memory.capacity.edge
    promised = rate
    if known.work > 0.0:
        # the edge is of a replica on its own: what pooling adds is the line's to say
        shape = priors.length_shape(draft.demand.input_tokens, draft.demand.output_tokens)
        promised = known.work / shape / draft.demand.output_tokens * rate / max(1e-9, variant.line_rate_alone)
    # what was carried when answers were shorter is no proof that a batch of these stays finite
    lasting = rate_at(model.a_s, model.b_s, model.limit, draft.demand.output_tokens)
    corrected = min(promised * correction(draft, variant, replicas), variant.most_rate, lasting)
    if corrected != rate:
        rate, concurrency = corrected, concurrency_at(model, corrected, draft.demand.output_tokens)
    return rate, concurrency
