"""The laws of one batch: what its mean number of requests, its latency line and its misses have to do with each other.

The concurrency that keeps the declared share of requests inside the objective follows from the spread of the number in
the batch (processor sharing: variance N (1 + N b / a), less what averages out over a request's residence and over
replicas), and the rate from Little's law. Formulas only: nothing here reads or keeps what was observed.
"""

import math

from ebbtide.core.numeric import clip, tail_quantile
from ebbtide.core.work import Draft, Model, VariantDraft

RESIDENCE = 0.75  # share of the variance of N that is left in a request's mean over its own residence
ITL_SHARE = 0.7  # of the allowed misses; the rest is for first tokens
BATCHED = 0.6  # of the time that a lone prompt takes: batching makes prefill cheaper
PLANNED = 0.7  # plan to use this share of the allowed misses: the estimate of the edge is itself uncertain


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


def pooled_spread(dispersion: float, replicas: float) -> float:
    """What is left of a lone replica's variance: each replica's own part, and the common part shared by all."""
    return dispersion + (1.0 - dispersion) / max(1.0, replicas)


def planned_share(attainment: float) -> float:
    """The share of requests that is planned to miss at full load."""
    return PLANNED * max(1e-6, 1.0 - attainment)


def first_token_rate(model: Model, ttft_s: float, attainment: float) -> float:
    """Requests/s at which the wait for prefill keeps first tokens inside the objective (an M/G/1 tail).

    Never below half of what prefill alone could do: beyond that more replicas buy nothing, and observed misses decide.
    """
    busy_s = BATCHED * model.prefill_s
    slack = 0.8 * max(0.0, ttft_s - model.prefill_s) / max(1e-6, busy_s)
    allowed = max(1e-9, 1.0 - attainment) * (1.0 - ITL_SHARE) * PLANNED  # its logarithm is taken
    share = 0.9
    for _ in range(4):
        share = clip(1.0 - math.log(max(share, 0.05) / allowed) / max(slack, 1e-6), 0.5, 0.9)
    return share / max(1e-6, busy_s)


def lasting_rate(model: Model, output_tokens: float) -> float:
    """Requests/s at which a batch stays at its limit; at more it grows as long as they come."""
    return min(rate_at(model.a_s, model.b_s, model.limit, output_tokens), 1.0 / max(1e-6, BATCHED * model.prefill_s))


def line_rate(draft: Draft, variant: VariantDraft, replicas: float) -> tuple[float, float]:
    """(requests/s, concurrency) that the latency line promises of one replica among `replicas`.

    The more there are, the more fluctuation is shared. What was seen to miss corrects it (see edge).
    """
    model = variant.model
    if model is None:
        return 0.0, 0.0
    objectives, view = draft.state.spec.objectives, draft.demand
    spread = pooled_spread(variant.memory.capacity.dispersion, replicas)
    concurrency = allowed_concurrency(model.a_s, model.b_s, model.limit, objectives.attainment, spread)
    rate = rate_at(model.a_s, model.b_s, concurrency, view.output_tokens)
    most = first_token_rate(model, objectives.ttft_s, objectives.attainment)
    if most < rate:
        return most, concurrency_at(model, most, view.output_tokens)
    return rate, concurrency


def concurrency_at(model: Model, rate: float, output_tokens: float) -> float:
    """Little's law the other way round: requests in the batch at `rate` requests/s."""
    return rate * output_tokens * model.a_s / max(0.05, 1.0 - rate * output_tokens * model.b_s)
