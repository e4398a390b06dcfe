"""The working state of one call of `plan`: one `Draft` a service, one `PoolDraft` a pool (core/pool_draft).

It lives for one call only. What is remembered goes through `ebbtide.model.memory`, what is decided through
`ebbtide.model.plan`.
"""

import math
from dataclasses import dataclass, field

from ebbtide.core.batch.lent import Lent
from ebbtide.core.batch.purse import Purse
from ebbtide.core.ceilings.lines import PolicyDraft
from ebbtide.core.edge import MISS_EXPONENT
from ebbtide.core.latency import LatencyLine
from ebbtide.core.parts import ALL, Parts
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.model.memory import (
    BatchMemory,
    BudgetMemory,
    ForecastMemory,
    Memory,
    PolicyMemory,
    Recommendation,
    ServiceMemory,
    VariantMemory,
    WorthMemory,
)
from ebbtide.model.plan import (
    BatchPolicyPlan,
    Capacity,
    Condition,
    Demand,
    Failure,
    Forecast,
    JobPlan,
    PlacementPlan,
    PolicyPlan,
    Step,
)
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import ServiceState, Snapshot, VariantState
from ebbtide.model.spec import VariantSpec

MOST_CHANGE = 1.2  # of the logarithm of a load within a horizon, that a slope is believed to bring: a factor of 3.3


@dataclass(frozen=True, slots=True)
class Line:
    """What the recent past says: the level now (tokens/s), and its slope over a long and over a short while."""

    level: float
    slope: float
    late_slope: float

    def candidates(self, ahead_s: float) -> tuple[float, float, float]:
        """Level, straight line, and growth at the late rate, `ahead_s` from now.

        A horizon brings three times as much at most by growth, and a third at least by either. A rate over a minute
        takes a minute for a drop that took none, and a line through it ends far below what then comes.
        """
        trend = max(self.level * math.exp(-MOST_CHANGE), self.level + self.slope * ahead_s)
        if self.level <= 0.0:
            return self.level, trend, trend
        exponent = min(MOST_CHANGE, max(-MOST_CHANGE, self.late_slope / self.level * ahead_s))
        return self.level, trend, self.level * math.exp(exponent)


KV_CACHE, MAX_RUNNING = "KV cache", "max running"
BELIEVED = 1.96  # deviations on either side hold 95 %
FULL_BATCH = (KV_CACHE, MAX_RUNNING)  # what binds a replica because no more find room in its batch


@dataclass(slots=True)
class Model:
    """Continuous batching of one variant: inter-token latency is `a_s + b_s x (requests in the batch)`.

    `b_s` holds for the present mean lengths. `prefill_s` is the first-token time of a mean prompt on an idle replica.
    """

    a_s: float
    b_s: float
    prefill_s: float
    limit: float  # concurrency at which the inter-token objective, the KV cache or max-num-seqs binds
    bound_by: str  # which of them: "inter-token latency" or one of FULL_BATCH
    source: str  # "declared", "table", "observed", "assumed"
    line: LatencyLine  # the same for other lengths


@dataclass(slots=True)
class VariantDraft:
    """One variant on its way from what is seen to what is allowed."""

    index: int
    spec: VariantSpec
    state: VariantState
    memory: VariantMemory
    pool: "PoolDraft | None"
    gpus: int | None = None
    cost: float | None = None  # of one replica for an hour, in the pool's currency; None: unknown
    spot: bool = False  # its replicas may be taken away at any moment
    ready: int = 0
    starting: int = 0
    loading: int = 0  # pods, not replicas: Ready for want of a probe, while no scrape of them is answered yet
    failing: int = 0  # replicas that do not count: unschedulable, refused, crash-looping
    homeless: int = 0  # those of them that have no node and get none: they hold no GPUs, and keep none from others
    failing_code: Code | None = None
    failing_text: str = ""
    absent_s: float | None = None  # for how long declared pods have been missing, without a further one
    doomed: int = 0  # replicas on nodes about to be taken away
    hung: int = 0  # replicas that served and do not answer any more: they hold GPUs and carry nothing
    hanging: frozenset[str] = frozenset()  # their pods by name, and the words about the first
    hung_text: str = ""
    bound_gpus: int = 0  # of its pods on nodes that are to stay, and of those, on nodes that take nothing new
    stuck_gpus: int = 0
    startup_s: float = 0.0
    startup_measured: bool = False
    model: Model | None = None
    line_rate_alone: float = 0.0  # what the latency line promises of a replica on its own, requests/s
    line_concurrency: float = 0.0  # the mean number in its batch at what the latency line promises among those ready
    correction: float = 1.0  # what it carries over what the line promises
    unsure: float = 0.0  # standard deviation of the logarithm of what it carries
    steep: float = MISS_EXPONENT  # misses grow with load to this power
    most_rate: float = math.inf  # requests/s that a replica carried when it was full; infinite: it never was
    full_by: str = ""
    rate: float = 0.0  # requests/s of one replica inside the objectives, as pooled in this service
    concurrency: float = 0.0
    arrivals: float | None = None  # requests/s that one of its pods gets, over `settled` pods; None: not known
    settled: int = 0
    carries: float = 0.0  # of `rate`, what one replica carries beside the other variants
    evidence: str = ""
    need: float = 0.0  # requests/s the service would need if this variant carried all of it
    rests: bool = False  # a stand-in for which nothing presses: it gets no replicas
    plain: int = 0  # of a service with stand-ins, what would be placed without them, and if money were short
    cheap: int = 0
    high: int = 0  # the most that limits and pools leave it
    placed: int = 0  # replicas that carry the need
    charged: int = 0  # replicas that its pool was charged with, and those of them that are new
    added: int = 0
    wanted: int = 0  # those, and doomed ones that are not replaced yet
    count: int = 0  # what is allowed so far; guardrails move it towards `observed`
    limited_by: str = ""
    limited_by_policy: str = ""  # the CostPolicy that it means, if it means one
    payable: int | None = None  # the most that every ceiling can pay, and why no more; None: no policy pays for it
    payable_because: str = ""
    template_gpus: int | None = None  # of an engine block: so many a replica its template may ask for; None: any
    template_because: str = ""
    backing_off: bool = False
    fault: tuple[Code, str] | None = None  # it stays as it is, while the service's other variants are scaled

    @property
    def observed(self) -> int:
        """spec.replicas of the target now."""
        return self.state.target.spec_replicas

    @property
    def staying(self) -> int:
        """Declared replicas that are not on nodes about to go: those that hold GPUs of nodes that count."""
        left = self.state.target.spec_replicas - self.doomed  # asked for many times a cycle: no calls in between
        return left if left > 0 else 0

    @property
    def holding(self) -> int:
        """Those of them that hold GPUs or are about to: not what finds no node, is refused or never comes."""
        left = self.staying - self.homeless
        return left if left > 0 else 0

    @property
    def sound(self) -> int:
        """Those that stay and carry load or are on the way to: all but those that hang."""
        left = self.staying - self.hung
        return left if left > 0 else 0

    @property
    def capacity(self) -> Capacity | None:
        """The result of the capacity step, as plans show it."""
        if self.model is None:
            return None
        carries, apart = self.carries, math.exp(BELIEVED * self.unsure)
        return Capacity(
            requests_per_second=round(carries, 3),
            source=self.model.source,
            concurrency=round(self.concurrency, 1),
            evidence=self.evidence,
            low=round(carries / apart, 3),
            high=round(carries * apart, 3),
        )


@dataclass(slots=True)
class DemandView:
    """Demand as measured now. `quality` says how far it may be trusted; only "fresh" may lower anything."""

    quality: str  # "fresh", "young", "partial", "stale", "missing", "none" (nothing runs)
    rate: float = 0.0  # requests/s, with those that were refused as far as they count
    work: float = 0.0  # tokens/s, prompt tokens at their weight, in requests/s of the mean length
    prompt_weight: float = 0.0  # output tokens that make as much work as a prompt token; 0: not known yet
    prompted: float = 0.0  # prompt tokens/s, and output tokens/s
    generated: float = 0.0
    refused: float = 0.0  # requests/s that engines refused, and how many of them count
    counted: float = 0.0
    kv_usage: float | None = None  # 0..1, of the fullest pod
    preempted: float = 0.0  # requests/s thrown out of the KV cache
    starved: int = 0  # pods without KV cache for one more request
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    running: float = 0.0
    waiting: float = 0.0
    queue: float = 0.0  # requests the gateway holds
    queue_known: bool = False
    lengths_s: float = 0.0  # for how long token lengths were measured
    lengths_known: bool = False  # token lengths were measured, or cannot be
    queued_at: float | None = None  # when more than a few requests last waited before full batches
    pods_read: int = 0  # ready pods whose arrivals are known
    silent: int = 0  # ready pods without usable series
    age_s: float | None = None

    @property
    def known(self) -> bool:
        """Some pods were read: enough to raise."""
        return self.quality in ("fresh", "young", "partial") and self.pods_read > 0

    @property
    def length(self) -> float:
        """Of a mean request: output tokens, and prompt tokens at their weight."""
        return self.output_tokens + self.prompt_weight * self.input_tokens

    @property
    def tokens(self) -> float:
        """Work in tokens/s, prompt tokens at their weight."""
        return self.work * self.length

    @property
    def admitted(self) -> float:
        """Requests/s that engines took."""
        return max(0.0, self.rate - self.counted)

    @property
    def zero(self) -> bool:
        """Freshly seen to be nothing at all."""
        return self.quality == "fresh" and self.rate + self.running + self.waiting + self.queue <= 0.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What the mix of a service must carry, as `mix` found it: `need` in shares of the need, at `keep` times of it."""

    need: float
    short: bool  # too little runs: nothing of it is let go
    keep: float
    grows: bool  # new replicas may be started


@dataclass(slots=True)
class Draft:
    """One service on its way through the steps."""

    state: ServiceState
    memory: ServiceMemory
    variants: list[VariantDraft]
    watched_s: float = 0.0
    demand: DemandView = field(default_factory=lambda: DemandView("none"))
    forecast_memory: ForecastMemory = field(default_factory=ForecastMemory)
    arrivals_by_pod: bytes = b""  # as it will be remembered (see departed)
    forecast: Forecast | None = None
    looked_back: bool = False  # there is a record of recent demand
    foreseen: tuple[tuple[float, float, float], ...] = ()  # (seconds ahead, median tokens/s, chance of a jump)
    foreseen_by: str = ""  # the candidate that leads; empty: there is no record of demand to look back on
    budget: BudgetMemory = field(default_factory=BudgetMemory)
    weighed: WorthMemory = field(default_factory=WorthMemory)
    horizon_s: float = 0.0  # until a replica that is asked for now serves
    doubt: float = 1.0  # times as many may miss as at the median of what is believed of the edge
    worth: str = ""  # what the next replica and the last one are worth, in words
    moving: bool = False  # demand changes by more than a little within a start-up
    steady: bool = False  # scored, and not moving: neither rising nor falling much within a start-up
    keep_ratio: float = 1.0  # what is let go must be unneeded even at this many times the need
    even: bool = False  # requests are spread evenly over unlike variants: each carries what the slowest does
    even_confidence: float = 0.5
    spread_evenly: bool | None = None  # None: not measured
    conflict: str = ""  # who else writes; not empty: hands off
    drifted: str = ""
    floor: int = 1  # the fewest replicas the service may have now
    total_need: int = 0
    firm: float = 0.0  # share of the need that must run where nothing is taken away
    asked: Asked | None = None  # None: nothing was asked, what is declared stays
    highs: list[int] = field(default_factory=list)  # the most of each variant when its mix was chosen
    kept: list[tuple["PoolDraft", float]] = field(default_factory=list)  # GPUs charged for it, as it may not act
    prescribed: tuple[int, ...] | None = None  # its mix by the programme over several services
    placed_by: str = ""  # who decided, in words, where pools couple it with others
    unplaced: float = 0.0  # share of the need that found no room
    unplaced_code: Code | None = None
    unplaced_text: str = ""
    unreached: tuple[Code, str] | None = None  # why a declared minimum is not reached, with the numbers
    gives_way: bool = False
    lending: Condition | None = None  # of a Background service: whether GPUs are lent to it, and why not
    stand_ins: list[VariantDraft] = field(init=False)  # its degraded variants
    pressed: bool = False  # stand-ins may serve for want of money
    pressed_until: float | None = None  # as it will be remembered, and the policy's words
    pressed_by: str = ""
    crowded: tuple[Code, str] | None = None  # why stand-ins serve for want of room
    waking: bool = False
    idle: bool = False
    misses: float | None = None  # share of requests that missed an objective in the last minute
    steps: list[Step] = field(default_factory=list)
    limits: list[tuple[Code, str]] = field(default_factory=list)  # guardrails that bound, in order
    recommendations: tuple[Recommendation, ...] = ()
    raise_since: float | None = None
    raise_to: int = 0
    pause_applied: str = ""
    pausing: bool = False
    fault: tuple[Code, str] | None = None  # what of its targets and pools does not resolve
    no_write: tuple[Code, str] | None = None  # why nothing may be written, whatever is planned
    last_request_at: float | None = None
    activator_seen_at: float | None = None
    refused_at: float | None = None
    starved_at: float | None = None
    failure: Failure | None = None  # a step raised: what is declared stays, and no later step looks at it

    def __post_init__(self) -> None:
        self.stand_ins = [variant for variant in self.variants if variant.spec.degraded]

    @property
    def observed(self) -> int:
        """Replicas of all variants as their targets declare them now."""
        return sum(variant.observed for variant in self.variants)

    @property
    def total(self) -> int:
        """Replicas of all variants as allowed so far."""
        return sum(variant.count for variant in self.variants)

    @property
    def wanted(self) -> int:
        """Replicas of all variants as placement wants them."""
        return sum(variant.wanted for variant in self.variants)

    @property
    def down_delay_s(self) -> float:
        """For how long fewer must be enough: as declared, else until one that is asked for now would serve."""
        declared_s = self.state.spec.scaling.down_delay_s
        return self.horizon_s if declared_s is None else declared_s

    def counts(self) -> list[int]:
        """Allowed so far, by variant."""
        return [variant.count for variant in self.variants]

    def note(self, name: str, replicas: int, text: str) -> None:
        """Add a line to the waterfall from load to allowed."""
        self.steps.append(Step(name, replicas, text))


@dataclass(slots=True)
class Cycle:
    """Everything one call of `plan` works on."""

    snapshot: Snapshot
    memory: Memory
    now_s: float
    parts: Parts = ALL
    drafts: list[Draft] = field(default_factory=list)
    pools: dict[str, PoolDraft] = field(default_factory=dict)
    placements: list[PlacementPlan] = field(default_factory=list)
    policies: list[PolicyDraft] = field(default_factory=list)
    policy_plans: tuple[PolicyPlan, ...] = ()
    policy_memories: list[PolicyMemory] | None = None  # None: as before
    reaction_s: float = 40.0  # a rate over the last minute is half a minute old on average, and a cycle passes too
    lent: Lent | None = None  # what batch Jobs hold; None: there are none
    purses: list[Purse] = field(default_factory=list)  # what ceilings leave for batch Jobs
    background: list[tuple[str, str, int]] = field(default_factory=list)  # (BatchPolicy, pool, GPUs) of such services
    ceilings_unknown: str = ""  # why nobody knows which ceilings hold; empty: they are known
    job_plans: tuple[JobPlan, ...] = ()
    batch_plans: tuple[BatchPolicyPlan, ...] = ()
    batch_memory: BatchMemory = field(default_factory=BatchMemory)
    batch_failure: Failure | None = None
    metrics_down: str = ""  # why Prometheus is out of reach; empty: it is not
    unwatched: dict[str, str] = field(default_factory=dict)  # caches that may show the past, and why
    unwritable: str = ""  # why somebody else's hand on a target may be unseen; empty: it is not

    @property
    def unwatched_text(self) -> str:
        """`pods (WATCH /api/v1/pods: HTTP 403)`."""
        return "; ".join(f"{name} ({why})" for name, why in sorted(self.unwatched.items()))

    @property
    def unwatched_s(self) -> float:
        """After longer than this without a look, nobody knows what was wanted meanwhile."""
        return max(60.0, 3.0 * self.snapshot.cycle_s)


def public_demand(view: DemandView) -> Demand | None:
    """The demand as status shows it; None when nothing is known."""
    if not view.known and view.queue <= 0.0:
        return None
    return Demand(
        requests_per_second=round(view.rate, 3),
        input_tokens=round(view.input_tokens, 1),
        output_tokens=round(view.output_tokens, 1),
        backlog=round(view.waiting + view.queue, 1),
    )
