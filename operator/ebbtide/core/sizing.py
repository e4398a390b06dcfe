"""How much must be carried: the forecast, raised by what its own errors and the attainment call for, plus the backlog.

The margin is not a constant: misses average over the forecast's errors to the share that may be missed. Misses grow
about with load^10 at the edge, so an error of 10 % calls for 5 % more and one of 30 % for half as much again.
"""

import math
from functools import lru_cache

from ebbtide.core import fullness
from ebbtide.core.capacity import replica_rate
from ebbtide.core.forecast import PRIOR_WEIGHT, expected_at
from ebbtide.core.numeric import upper_tail
from ebbtide.core.queueing import MISS_EXPONENT
from ebbtide.core.work import Cycle, Draft, VariantDraft

IGNORANCE = 0.2  # doubt about a forecaster that was never scored, in log units
KEEP_DOUBT = 2.0
LEAST_MISSES = 1e-6
QUICKEST_DRAIN_S = 60.0
# Traffic that cannot be foreseen within a start-up is not worth chasing: idle replicas cost more than they save.
MOST_MARGIN = 1.4


def step(draft: Draft, cycle: Cycle) -> None:
    """Set every variant's rate per replica and the requests/s the service needs if that variant carried all."""
    margin = margin_for(round(draft.sigma, 2), _may_miss(draft))
    calm = margin_for(round(draft.calm_sigma, 2), _may_miss(draft))
    draft.keep_ratio = keep_ratio(draft, margin)
    pool_of = float(max(1, draft.observed - sum(variant.hung for variant in draft.variants)))
    for variant in draft.variants:
        variant.rate, variant.concurrency = replica_rate(draft, variant, pool_of)
        variant.evidence = describe(variant)
        expected = expected_at(draft, variant.startup_s + cycle.reaction_s) if draft.demand.known else 0.0
        variant.need = _with_margin(draft, expected, margin, calm) + drain_rate(draft, variant)
    draft.keep_ratio = max(draft.keep_ratio, _seen_ratio(draft))
    if fullness.refuses(draft, cycle):
        draft.keep_ratio = math.inf  # how much more there is than what is counted, nobody knows


def _with_margin(draft: Draft, expected: float, margin: float, calm: float) -> float:
    """Doubt raises the need up to what was ever seen or what growth would bring, and no further.

    At the height of a burst the forecast is as doubtful as at its foot, but further up there is little left to come.
    """
    line = draft.line
    highest = max(expected, draft.forecast_memory.peak)
    if line is not None and draft.forecast is not None:
        highest = max(highest, *line.candidates(draft.forecast.horizon_s))
    return min(expected * margin, highest * calm)


def keep_ratio(draft: Draft, margin: float) -> float:
    """How much more than the need must be covered before something is let go.

    A replica that is let go too early costs a start-up and its misses; one that is kept too long costs its price for
    a while. So the forecast's doubt counts twice, and a forecaster with no record yet is doubted on top.
    """
    unproven = IGNORANCE / (1.0 + draft.forecast_memory.scored / PRIOR_WEIGHT)
    cautious = math.hypot(KEEP_DOUBT * draft.sigma, unproven)
    return max(1.0, margin_for(round(cautious, 2), _may_miss(draft)) / margin)


def _seen_ratio(draft: Draft) -> float:
    """What arrives now, as a multiple of the need; 0 without a need.

    A forecast learns of a leap with a delay: at 4 requests/s for long and 14 now it may call for 11. What carries the
    14 is not let go meanwhile; to start more, a leap has to last.
    """
    least = min((variant.need for variant in draft.variants if variant.need > 1e-9), default=0.0)
    return draft.demand.rate / least if least and draft.demand.known else 0.0


def _may_miss(draft: Draft) -> float:
    """The share of requests that may miss, in steps that let results be kept; never none at all: its log is taken."""
    return max(LEAST_MISSES, round(1.0 - draft.state.spec.objectives.attainment, 6))


def describe(variant: VariantDraft) -> str:
    """The numbers behind a replica's rate: `4.1 requests/s (observed: ITL 14.2 + 0.31 x N ms, N up to 62 ...)`."""
    model = variant.model
    if model is None:
        return ""
    line = f"ITL {model.a_s * 1e3:.3g} + {model.b_s * 1e3:.3g} x N ms"
    edge = f"N up to {variant.concurrency:.0f} of {model.limit:.0f} by {model.bound_by}"
    if variant.concurrency > model.limit:
        edge = f"N up to {variant.concurrency:.0f}, as was carried within the objectives"
    corrected = f", corrected by {variant.correction:.2f}" if abs(variant.correction - 1.0) >= 0.01 else ""
    full = f", no more than when it was full by its {variant.full_by}" if variant.full_by else ""
    return f"{variant.rate:.3g} requests/s ({model.source}: {line}, {edge}{corrected}{full})"


@lru_cache(maxsize=4096)
def margin_for(sigma: float, allowed: float) -> float:
    """Capacity over expected load at which misses, averaged over log-normal errors, come to `allowed` (a share).

    With u = load / capacity and misses min(1, allowed u^10): margin_for(0.1, 0.01) is about 1.05.
    """
    spread = MISS_EXPONENT * sigma
    if spread < 1e-3:
        return 1.0
    low, high = -3.0, 0.0  # log of the load over capacity that may be planned
    for _ in range(30):
        middle = 0.5 * (low + high)
        log_edge = math.log(1.0 / allowed) - MISS_EXPONENT * middle
        z = log_edge / spread
        saturated = upper_tail(z)
        partly = math.exp(0.5 * spread * spread - log_edge) * (1.0 - upper_tail(z - spread)) if spread < 30 else 0.0
        if saturated + partly > allowed:
            high = middle
        else:
            low = middle
    return min(MOST_MARGIN, math.exp(-0.5 * (low + high)))


def drain_rate(draft: Draft, variant: VariantDraft) -> float:
    """Extra requests/s that work off what already waits, within one start-up or a minute.

    Counted are the gateway's queue, queues at replicas, and requests in batches beyond what their replicas can hold
    inside the objective: overload by inter-token latency shows no queue at all.
    """
    view, model = draft.demand, variant.model
    held = view.waiting + view.queue
    if model is not None and draft.variants and variant.ready:
        share = variant.ready / max(1, sum(other.ready for other in draft.variants))
        held += max(0.0, view.running * share - model.limit * variant.ready)
    if held < 1.0:
        return 0.0
    return held / max(QUICKEST_DRAIN_S, variant.startup_s)
