"""What one cycle decides: replicas per variant, the way there, the reasons, and what to write."""

from decimal import Decimal
from enum import StrEnum

from ebbtide.model.reasons import Reason
from ebbtide.model.snapshot import Overrun, Reached
from ebbtide.model.spec import CeilingKind, Spec, TargetRef, Threshold, Toleration


class ConditionStatus(StrEnum):
    """Kubernetes' three-valued status."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Spec, frozen=True):
    """One condition of an object; the writer adds times and observedGeneration."""

    type: str
    status: ConditionStatus
    reason: str
    message: str


class Score(Spec, frozen=True):
    """How good forecasts at that horizon were over about a day. Losses are relative to what came."""

    errors: float  # independent ones: overlapping horizons count once
    coverage: float  # share that came inside the range; 0.95 is right
    bias: float  # expected over came: 1.05 is 5 % too much
    pinball: tuple[float, float, float]  # at the range's low end (2.5 %), the median and its high end (97.5 %)


class Forecast(Spec, frozen=True):
    """Arrivals at the horizon in requests/s of the mean length, with the range that is to hold 95 % of what comes."""

    horizon_s: float
    expected: float
    low: float
    high: float
    method: str  # "level", "trend" or "prior"
    requests: float = 0.0  # requests/s of any length, and the tokens/s that they bring
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    score: Score | None = None  # None: nothing was due yet


class Demand(Spec, frozen=True):
    """What the service is asked for now, summed over its pods and its gateway."""

    requests_per_second: float
    input_tokens: float  # mean prompt tokens a request
    output_tokens: float  # mean output tokens a request
    backlog: float  # requests waiting at pods and gateway


class Capacity(Spec, frozen=True):
    """What one ready replica of a variant carries inside the objectives, beside the service's other variants."""

    requests_per_second: float
    source: str  # "declared", "table", "observed"
    concurrency: float  # requests in flight that it may hold on its own
    evidence: str  # the numbers in words, for status and explain
    low: float = 0.0  # what it carries lies between these with a belief of 95 %, requests/s
    high: float = 0.0


class Step(Spec, frozen=True):
    """One line of the waterfall from load to allowed: what a step made of the number of replicas."""

    name: str
    replicas: int
    text: str


class VariantPlan(Spec, frozen=True):
    """One variant's part of the plan. `observed` is spec.replicas now; `allowed` is what may be written."""

    name: str
    observed: int
    ready: int
    starting: int
    wanted: int
    allowed: int
    limited_by: str = ""  # the guardrail or limit that made allowed differ from wanted
    capacity: Capacity | None = None
    startup_s: float | None = None  # measured median, creation to ready
    victims: tuple[str, ...] = ()  # pods that should go first when this variant shrinks
    payable: int | None = None  # the most that every ceiling can pay; None: no policy pays for it
    payable_because: str = ""
    degraded: bool = False  # a stand-in
    template_gpus: int | None = None  # of an engine block: so many GPUs a replica its template may ask for; None: any
    template_because: str = ""
    limited_by_policy: str = ""  # the CostPolicy that `limited_by` means, if it means one


class ScaleAction(Spec, frozen=True):
    """One write to one target's scale subresource, guarded by uid and resourceVersion."""

    service: str
    variant: str
    target: TargetRef
    target_uid: str
    resource_version: str
    from_replicas: int
    to_replicas: int
    reason: Reason
    victims: tuple[str, ...] = ()


class TokenPrices(Spec, frozen=True):
    """Money for a million tokens; None: not known."""

    input: Decimal | None = None
    output: Decimal | None = None


class ServiceCost(Spec, frozen=True):
    """What a service and its tokens cost now. `used_per_hour`: what full replicas would cost for the same work."""

    per_hour: Decimal
    currency: str
    allocation: TokenPrices = TokenPrices()  # of all of `per_hour`
    usage: TokenPrices = TokenPrices()  # of `used_per_hour`
    used_per_hour: Decimal | None = None  # None: not known

    @property
    def idle_share(self) -> Decimal | None:
        """Share of the cost that is for capacity nobody asked for, 0..1; None: not known, or it costs nothing."""
        if self.used_per_hour is None or not self.per_hour:
            return None
        return 1 - self.used_per_hour / self.per_hour


class AlternativePlan(Spec, frozen=True):
    """A service beside an API that would put out the same tokens, in words and numbers; None: not known."""

    message: str
    currency: str
    per_hour: Decimal | None = None  # what the API would charge for what comes now
    tokens_per_day: float | None = None  # input and output ones, at the present pace
    break_even_tokens_per_day: float | None = None  # from which on self-hosting is cheaper
    utilisation: float | None = None  # of what all that is paid for carries; 0..1
    break_even_utilisation: float | None = None  # above 1: not even full it is cheaper
    pay_back_days: float | None = None  # of GPUs that were bought, at the present pace; None: never, too


class MonthCost(Spec, frozen=True):
    """What a service has cost in a UTC month from `from_s` (its beginning, or the ledger's) to `through_s`."""

    amount: Decimal
    currency: str
    from_s: float
    through_s: float


class ServicePlan(Spec, frozen=True):
    """Everything decided for one service, in the words and numbers that status, Events and CLI show."""

    key: str
    variants: tuple[VariantPlan, ...]
    demand: Demand | None
    forecast: Forecast | None
    waterfall: tuple[Step, ...]
    reason: Reason  # the one that decided; "nothing to do" has one too
    conditions: tuple[Condition, ...]
    spend_per_hour: Decimal | None  # None: a price is unknown
    currency: str = ""
    cost: ServiceCost | None = None  # None: a price is unknown
    load: float | None = None  # 0..1: of what its serving replicas carry, what is asked of them; None: not known
    alternative: AlternativePlan | None = None  # None: none is declared
    month: MonthCost | None = None  # None: not known; the ledger's, added when the plan is reported


class Failure(Spec, frozen=True):
    """An error of Ebbtide's own while one service was planned, as data. The service holds its replicas."""

    service: str  # namespace/name
    step: str  # of the plan: demand, forecast, capacity, ...
    error: str  # class and words: "ZeroDivisionError: float division by zero"
    trace: str  # where it was raised, innermost first: "capacity.py:76 in _declared_scale < capacity.py:52 in ..."


class UnreadablePlan(Spec, frozen=True):
    """What is said on an object of Ebbtide's own kinds that cannot be read. Nothing is decided for it."""

    kind: str
    key: str
    reason: Reason
    conditions: tuple[Condition, ...]


class PoolPlan(Spec, frozen=True):
    """One pool's state and conditions for its status."""

    name: str
    nodes: int
    gpus: int
    allocated: int
    free: int
    lead_time_s: float | None
    backing_off_until: float | None
    conditions: tuple[Condition, ...]
    release_s: float | None = None  # how long nodes stayed after their last pod; None: not seen, or they stay anyway


class CeilingPlan(Spec, frozen=True):
    """One ceiling of a policy and where it stands, in the policy's currency; of HOUR all are rates per hour."""

    kind: CeilingKind
    start_s: float
    end_s: float
    ceiling: Decimal
    spent: Decimal
    committed: Decimal
    unpriced: tuple[tuple[str, int], ...] = ()  # by pool, GPU-seconds of which nobody knows the price: not in `spent`

    @property
    def left(self) -> Decimal:
        """What is left for more."""
        return max(Decimal(0), self.ceiling - self.spent - self.committed)


class Outlook(Spec, frozen=True):
    """What a period will have cost by its end if all that is wanted runs from now on, in the policy's currency."""

    kind: CeilingKind
    start_s: float
    expected: Decimal
    low: Decimal  # in one of ten cases less
    high: Decimal  # in one of ten cases more
    held: Decimal  # what it will have cost under the policy's ceilings
    exceeded_s: float | None  # when the expected course reaches the ceiling


class NextThreshold(Spec, frozen=True):
    """The threshold to which least is missing, and how much."""

    threshold: Threshold
    missing: Decimal


class PolicyPlan(Spec, frozen=True):
    """One policy: where its ceilings stand with this plan carried out. `raised`: services that this plan raises;
    `starts`: batch Jobs that it starts or makes wider, and that the policy pays for."""

    name: str
    uid: str
    services: int
    ceilings: tuple[CeilingPlan, ...]
    per_hour: Decimal
    wanted_per_hour: Decimal
    uncontrollable_per_hour: Decimal
    unpriced_gpus: int
    gave_way: tuple[tuple[str, int], ...]  # (service, replicas that it does without), most first
    given_up: int
    raised: tuple[str, ...]
    reason: Reason
    conditions: tuple[Condition, ...]
    accrued_through: float = 0.0
    outlooks: tuple[Outlook, ...] = ()
    allowed_per_hour: Decimal | None = None  # None: neither pacing nor a rate's ceiling holds
    paced: tuple[tuple[int, Decimal], ...] = ()  # priorities that pacing holds back, and what each may cost an hour
    scored_days: int = 0  # forecasts of a day that were seen to their end, and by what share they were off
    mean_error: float = 0.0
    in_range: float | None = None  # share of them that lay in the range that was said; None: not known
    reached: tuple[Reached, ...] = ()
    newly_reached: tuple[tuple[Reached, str], ...] = ()  # in this cycle, in words
    next_threshold: NextThreshold | None = None
    stuck: str = ""  # whose pods are past their exit, and what they cost, in words
    overruns: tuple[Overrun, ...] = ()  # of the ceilings in their order, by what the cause comes to, most first
    starts: tuple[str, ...] = ()

    def rate(self, per_hour: Decimal) -> Decimal | None:
        """One of its rates; None: GPUs run, and of none is the price known."""
        return None if self.unpriced_gpus and not per_hour else per_hour


class PlacementPlan(Spec, frozen=True):
    """Services that pools couple, and who decided for them: a programme over all, or each in turn."""

    decided_by: str  # "programme" or "greedy"
    services: tuple[str, ...]  # namespace/name, in the order in which they were placed
    pools: tuple[str, ...]
    gap: float | None  # to the bound, as a share of the cost of all with what is missed; None: no solution was found
    text: str


class Outcome(StrEnum):
    """What the plan does with a Job in this cycle."""

    STARTS = "Starts"
    RUNS = "Runs"
    STOPS = "Stops"
    SHRINKS = "Shrinks"
    GROWS = "Grows"
    WAITS = "Waits"
    LEFT_ALONE = "LeftAlone"  # its user's, another controller's, or disputed
    IMPOSSIBLE = "Impossible"  # nothing that could run it is there


class JobPlan(Spec, frozen=True):
    """What is done with a Job, and what is planned. `reason` is what people read."""

    key: str
    uid: str
    policy: str
    outcome: Outcome
    reason: Reason
    resource_version: str = ""
    pool: str = ""
    parallelism: int = 0  # of STARTS, SHRINKS, GROWS
    starts_at: float | None = None  # planned
    ends_at: float | None = None  # as expected
    must_start_by: float | None = None
    deadline_at: float | None = None
    late: bool = False  # it will miss its deadline
    gpus: int = 0
    node_selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[Toleration, ...] = ()


class BatchPolicyPlan(Spec, frozen=True):
    """One policy, for its status. Money is None where nothing is known of it."""

    key: str
    uid: str
    queued: int
    running: int
    suspended_by_users: int
    stopped: int
    missed: int  # deadlines that passed, since it was first seen
    gpus: int
    next_start_at: float | None
    next_window_at: float | None
    reason: Reason
    conditions: tuple[Condition, ...]
    saved: Decimal | None = None  # against running at once, since it was first seen
    currency: str = ""
    impossible: int = 0  # Jobs that no pool could ever run


class Plan(Spec, frozen=True):
    """One cycle's decision for the whole cluster."""

    at: float
    services: tuple[ServicePlan, ...] = ()
    pools: tuple[PoolPlan, ...] = ()
    policies: tuple[PolicyPlan, ...] = ()
    jobs: tuple[JobPlan, ...] = ()
    batch: tuple[BatchPolicyPlan, ...] = ()
    placements: tuple[PlacementPlan, ...] = ()  # of services that pools couple; all others have their own optimum
    actions: tuple[ScaleAction, ...] = ()
    cluster_conditions: tuple[Condition, ...] = ()  # a cause that concerns all: Prometheus gone
    unreadable: tuple[UnreadablePlan, ...] = ()
    failures: tuple[Failure, ...] = ()  # by service: faults of ours, for the log
