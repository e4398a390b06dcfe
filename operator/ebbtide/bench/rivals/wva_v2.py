"""llm-d Workload Variant Autoscaler V2 (default from v0.9): tokens in use against a stock of tokens.

Source: WVA's saturation_v2 analyzer and cost-aware optimizer. Each 60 s a replica's capacity is the lesser of

    k1 = 0.80 x its KV cache in tokens
    k2 = tokens in use while 5 or more wait (remembered, mean of the last 10 by output length); else what is remembered;
         else N (I + O / 2) with N = min(B O / (I + O), S): B batched tokens, S sequences, I/O mean lengths; else k1

and P its median. Demand D is tokens in use + waiting x I. RC = D / 0.85 - (ready + pending) P buys ceil(RC / P)
replicas; else SC = ready P - D / 0.70 lets floor(SC / P) go, all but one. D 90,000 and P 30,000 with 3 replicas:
RC = 105,882 - 90,000, one more. The HPA behind it as for V1.

Defect of the original: a variant at zero has no metrics, so its cost reads 0 and it is chosen first. `choose` has both
forms. A replay has one pool, where they do not differ; `wva-v2-corrected` therefore also drops the wait of 240 s before
scaling up, by which the chart makes V2 lose most.
"""

import statistics
from collections import deque
from collections.abc import Sequence

import msgspec

from ebbtide.bench.case import Case, EngineLimits
from ebbtide.bench.policy import Observation, Rival
from ebbtide.bench.rivals.hpa import PERIOD_S, Behaviour, Limit, Stage, average_value
from ebbtide.bench.rivals.parts import bounded, ceil_of, floor_of, sensitivity
from ebbtide.bench.rivals.wva_v1 import BEHAVIOUR, KV_FULL, LOOP_S, QUEUE_FULL

UP_AT = 0.85
DOWN_AT = 0.70
REMEMBERED = 10
AT_ONCE = Behaviour(0.0, 240.0, Limit(pods=10, period_s=150.0), Limit(pods=10, period_s=150.0))


class Variant(msgspec.Struct, frozen=True):
    """One kind of replica: cost of one, tokens that one holds, how many there are."""

    name: str
    cost: float
    tokens: float
    replicas: int


def choose(variants: Sequence[Variant], required: float, spare: float, *, corrected: bool) -> dict[str, int]:
    """Replicas of each variant after `required` tokens were bought, or else `spare` tokens were let go."""
    priced = [v if corrected or v.replicas else msgspec.structs.replace(v, cost=0.0) for v in variants if v.tokens > 0]
    counts = {variant.name: variant.replicas for variant in variants}
    if required > 0.0 and priced:
        best = min(priced, key=lambda variant: variant.cost / variant.tokens)
        counts[best.name] += ceil_of(required / best.tokens)
    elif spare > 0.0 and priced:
        cheapest = min(priced, key=lambda variant: variant.cost).name
        for variant in sorted(priced, key=lambda variant: -variant.cost):
            alone = variant.name == cheapest and not any(n for name, n in counts.items() if name != cheapest)
            go = max(0, min(floor_of(spare / variant.tokens), variant.replicas - alone))
            counts[variant.name] -= go
            spare -= go * variant.tokens
    return counts


def steady_tokens(limits: EngineLimits, input_tokens: float, output_tokens: float) -> float:
    """Tokens that one replica holds when prefill keeps it busy.

    B 2048, I 1000, O 250 hold min(409.6, S 256) requests of 1125 tokens: 288,000.
    """
    held = min(limits.max_batched_tokens * output_tokens / (input_tokens + output_tokens), limits.max_num_seqs)
    return held * (input_tokens + output_tokens / 2.0)


class WvaV2:
    """The analyzer each minute, its emitted count, and the HPA that follows it."""

    period_s = PERIOD_S

    def __init__(self, case: Case, sensitivity: float, *, corrected: bool = False) -> None:
        self._case, self._sensitivity, self._corrected = case, sensitivity, corrected
        self._seen_full: dict[int, deque[float]] = {}
        self._emitted: int | None = None
        self._next_s = 0.0
        self._stage = Stage(case, AT_ONCE if corrected else BEHAVIOUR)

    def decide(self, seen: Observation) -> int | None:
        """What the HPA makes of the last emitted count; None before the first."""
        if seen.now_s >= self._next_s:
            self._next_s = seen.now_s + LOOP_S
            if (analysed := self._analyse(seen)) is not None:
                self._emitted = analysed
        if self._emitted is None:
            return None
        wanted = average_value(self._emitted, 1.0, seen.declared)
        return self._stage.settle(seen.now_s, seen.declared, wanted)

    def _analyse(self, seen: Observation) -> int | None:
        capacities = self._capacities(seen)
        if not capacities:
            return None
        tokens = float(statistics.median(capacities))
        prompt = seen.input_tokens or 0.0
        demand = self._sensitivity * sum(view.kv_tokens + view.waiting * prompt for view in seen.replicas)
        required = demand / UP_AT - seen.declared * tokens
        spare = min(seen.ready, seen.declared) * tokens - demand / DOWN_AT
        pool = Variant("pool", 10.0, tokens, seen.declared)
        return bounded(self._case, choose((pool,), required, spare, corrected=self._corrected)["pool"])

    def _capacities(self, seen: Observation) -> list[float]:
        """Each replica's min(k1, k2), in tokens; what is learnt from one counts for the next."""
        found: list[float] = []
        for view in seen.replicas:
            memory_bound = KV_FULL * view.kv_capacity_tokens
            if view.waiting >= QUEUE_FULL and view.kv_tokens > 0.0:
                self._memory(seen).append(view.kv_tokens)
                found.append(min(memory_bound, view.kv_tokens))
            elif memory_bound > 0.0:
                found.append(min(memory_bound, self._compute_bound(seen) or memory_bound))
        return found

    def _compute_bound(self, seen: Observation) -> float | None:
        if remembered := self._memory(seen):
            return statistics.fmean(remembered)
        if not seen.output_tokens:
            return None
        return steady_tokens(self._case.engine, seen.input_tokens or 0.0, seen.output_tokens)

    def _memory(self, seen: Observation) -> deque[float]:
        """Tokens in use at saturation, apart for outputs below 100, below 500 and longer."""
        bucket = sum((seen.output_tokens or 0.0) >= bound for bound in (100.0, 500.0))
        return self._seen_full.setdefault(bucket, deque(maxlen=REMEMBERED))


def _corrected(case: Case, knob: float) -> WvaV2:
    return WvaV2(case, knob, corrected=True)


NOTE = (
    "mean lengths are the fleet's, not each replica's; no queue in the router, so its term of demand is 0; of its "
    "analyzers the one of saturation alone: that of throughput, and the vote over both, are left out"
)
RIVALS = (
    Rival("wva-v2", sensitivity(0.3, 40.0), WvaV2, NOTE),
    Rival(
        "wva-v2-corrected",
        sensitivity(0.3, 40.0),
        _corrected,
        NOTE + "; the corrected choice among variants shows in one pool nowhere, so the wait before scaling up is "
        "dropped as well",
    ),
)
