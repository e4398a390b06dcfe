"""Everything one cycle knows about the outside, at one moment. Immutable; nothing is looked up later.

Zero, unknown, stale and not applicable are four different things: see `Reading`.
"""

from decimal import Decimal
from enum import StrEnum

from ebbtide.model.batch import BatchPolicyState, FinishedJob, JobState, Stray
from ebbtide.model.money import PriceStep
from ebbtide.model.spec import CeilingKind, OverrunCause, PolicySpec, PoolSpec, ServiceSpec, Spec, ThresholdBasis


class Quality(StrEnum):
    """How far a value may be trusted. Only FRESH may lower a replica count."""

    FRESH = "Fresh"
    STALE = "Stale"  # it was read, but longer ago than the source's maximum age
    UNKNOWN = "Unknown"  # it should exist and does not, or the source did not answer
    NOT_APPLICABLE = "NotApplicable"  # this engine has no such signal, or nothing runs


MOST_VALUE = 1e15  # beyond any count or rate that one pod can have


class Reading(Spec, frozen=True):
    """One value with its quality and age. `value` is set for FRESH and STALE only."""

    quality: Quality
    value: float | None = None
    age_s: float | None = None

    @property
    def fresh(self) -> float | None:
        """The value if it may be acted on, else None. NaN, infinity or an absurd number is no value, least of all 0."""
        value = self.value
        if self.quality is not Quality.FRESH or value is None or not -MOST_VALUE <= value <= MOST_VALUE:
            return None
        return value


UNKNOWN = Reading(quality=Quality.UNKNOWN)
NOT_APPLICABLE = Reading(quality=Quality.NOT_APPLICABLE)


class Latency(Spec, frozen=True):
    """One latency histogram over the rate window: requests (or gaps) per second, their mean, cumulative buckets.

    `buckets` are (upper bound in seconds, observations per second at or below it), ascending, the last bound infinite.
    """

    per_second: float
    mean_s: float | None  # None when nothing was observed
    buckets: tuple[tuple[float, float], ...] = ()


class EngineReadings(Spec, frozen=True):
    """What one pod's engine says. Rates are per second over the Prometheus rate window (1 m by default).

    `arrivals` = finished + change of (running + waiting): requests that came, finished or not.
    """

    engine: str  # name of the adapter whose series were found: "vLLM", "TensorRTLLM", ...
    running: Reading = UNKNOWN
    waiting: Reading = UNKNOWN
    kv_usage: Reading = NOT_APPLICABLE  # 0..1
    finished: Reading = UNKNOWN
    arrivals: Reading = UNKNOWN
    prompt_tokens: Reading = UNKNOWN
    generation_tokens: Reading = UNKNOWN
    rejected: Reading = NOT_APPLICABLE
    preempted: Reading = NOT_APPLICABLE
    ttft: Latency | None = None
    itl: Latency | None = None  # per gap between tokens: the engine's speed; no buckets where tpot has them
    tpot: Latency | None = None  # per finished request, its mean gap: what the objective is about
    kv_tokens: float | None = None  # size of the KV cache in tokens
    max_running: float | None = None


class PodPhase(StrEnum):
    """What a replica's pod is worth as capacity."""

    READY = "Ready"
    STARTING = "Starting"  # bound to a node, not ready yet, not failing
    PENDING = "Pending"  # not bound yet, younger than the scheduler's verdict
    UNSCHEDULABLE = "Unschedulable"  # the scheduler said no node fits
    CRASH_LOOPING = "CrashLooping"
    NOT_READY = "NotReady"  # was ready once, is not now
    INTERRUPTED = "Interrupted"  # its node carries an interruption taint of its pool
    TERMINATING = "Terminating"


class PodState(Spec, frozen=True):
    """One pod of a variant. Times are unix seconds."""

    name: str
    uid: str
    phase: PodPhase
    created_at: float
    node: str = ""
    gpus: int = 0
    ready_at: float | None = None
    scheduled_at: float | None = None
    unready_at: float | None = None  # since when its Ready condition has not been True
    unanswered: bool = False  # Prometheus asked it all through the rate window and never got an answer
    message: str = ""  # the scheduler's, kubelet's or quota's own words where the phase needs them
    engine: EngineReadings | None = None  # None: no series for this pod
    serves: bool = True  # False: a worker of a group, whose leader answers for it and has the series of both
    deletion_cost: int | None = None  # its annotation controller.kubernetes.io/pod-deletion-cost; None: not set
    marked: bool = False  # that cost is Ebbtide's own
    due_at: float | None = None  # of one that was told to go: by when it should be gone, its grace included


class TargetState(Spec, frozen=True):
    """A variant's scale target as the API server shows it."""

    exists: bool
    scalable: bool = True  # it has a scale subresource
    uid: str = ""
    resource_version: str = ""
    spec_replicas: int = 0
    status_replicas: int = 0
    generation: int = 0
    observed_generation: int = 0
    rolling_out: bool = False
    surge_replicas: int = 0  # pods above spec.replicas that a rollout may hold
    gpus_per_replica: int | None = None
    template_gpus: int | None = None  # GPUs a replica by its present pod templates, whatever is declared of it
    pods_per_replica: int = 1  # LeaderWorkerSet groups
    ordinal: bool = False  # StatefulSet, LeaderWorkerSet: the highest ordinals go first
    ordered: bool = False  # pods may come one after the other: the next is created once those before are ready
    node_selector: tuple[tuple[str, str], ...] = ()
    shutdown_timeout_s: float | None = None  # vLLM's own flag, 0 where it is surely absent; None: cannot be told
    pre_stop_s: float | None = 0.0  # how long its preStop sleeps, 0 without one; None: it does something else
    termination_grace_s: float | None = None
    paused: bool = False  # a Deployment whose rollouts are paused
    replica_failure: str = ""  # the ReplicaFailure condition's message: a quota or admission refused pods
    rivals: tuple[str, ...] = ()  # "HorizontalPodAutoscaler chat-hpa", "ScaledObject ...", "InferenceService ..."
    faults: tuple[tuple[str, str], ...] = ()  # (reason, message) of cross-object faults found while resolving


class WriteReceipt(Spec, frozen=True):
    """The last scale write of ours to one target: kept before the call is made, completed after it."""

    target_uid: str
    replicas: int
    at: float
    done: bool = True
    resource_version: str = ""  # of the target, as the API server answered the write; empty: it did not


class VariantState(Spec, frozen=True):
    """One variant now."""

    name: str
    target: TargetState
    pods: tuple[PodState, ...] = ()
    last_write: WriteReceipt | None = None
    # Of the pods that stay, those on nodes that are not the pool's: (whose nodes: "a100, l40s" or "", pods), sorted
    outside: tuple[tuple[str, int], ...] = ()


class ServiceState(Spec, frozen=True):
    """One service now: what is declared and what is seen."""

    spec: ServiceSpec
    variants: tuple[VariantState, ...]  # in the order of spec.variants
    gateway_queue: Reading = NOT_APPLICABLE  # requests held because nothing is ready (the activator's)
    faults: tuple[tuple[str, str], ...] = ()  # (reason, message) of the service's own cross-object faults


class NodeState(Spec, frozen=True):
    """One node of a pool."""

    name: str
    gpus: int
    allocated_gpus: int
    ready: bool
    created_at: float
    interrupted: bool = False
    cordoned: bool = False


class PoolState(Spec, frozen=True):
    """One pool now. Prices are per GPU-hour at the snapshot's moment; None: unknown."""

    spec: PoolSpec
    nodes: tuple[NodeState, ...] = ()
    price_per_gpu_hour: Decimal | None = None
    currency: str = ""
    next_price_change_at: float | None = None
    next_price_per_gpu_hour: Decimal | None = None
    later_prices: tuple[PriceStep, ...] = ()  # after that, as far as its source knows
    faults: tuple[tuple[str, str], ...] = ()
    steps: tuple[PriceStep, ...] = ()  # of the price, from now or before to the end of every policy's periods


class Account(Spec, frozen=True):
    """What one period [start_s, end_s) of a policy has cost so far, in the policy's currency."""

    kind: CeilingKind  # DAY or MONTH
    start_s: float
    end_s: float
    spent: Decimal
    unpriced: tuple[tuple[str, int], ...] = ()  # by pool (empty: nodes of none), GPU-seconds that are not in `spent`


class Reached(Spec, frozen=True):
    """A threshold that was reached in the period that began at `start_s`, and whether its actions hold."""

    period: CeilingKind
    basis: ThresholdBasis
    percent: int
    start_s: float
    at_s: float
    acting: bool


class Overrun(Spec, frozen=True):
    """By how much one cause takes a policy over one of its ceilings, in its currency; of HOUR as a rate per hour."""

    kind: CeilingKind
    start_s: float  # of the period; 0 of HOUR
    cause: OverrunCause
    amount: Decimal
    since_s: float  # of OPERATOR_DOWN when something was decided last, else when it was seen first
    seen_s: float  # when it was seen last to grow by this cause


class HeldPeriod(Spec, frozen=True):
    """What a period's ceiling was, and what had been spent, when a policy was last held."""

    kind: CeilingKind
    start_s: float
    ceiling: Decimal
    spent: Decimal


class LastHeld(Spec, frozen=True):
    """How a policy stood when plans were last held under it, by this leader or the one before.

    `at_s` 0: what it had spent then was not known.
    """

    at_s: float
    per_hour: Decimal = Decimal(0)  # what was spent an hour
    periods: tuple[HeldPeriod, ...] = ()
    overruns: tuple[Overrun, ...] = ()


class Compared(Spec, frozen=True):
    """What a policy had spent up to `at_s` (unix seconds), as compared with the ledger.

    `mended`: which amounts were others and were set to the ledger's, before and after. `less`: of which it knows less
    than was counted, and not all that it would take to lower them. Both in words; empty: none. `first`: nobody had said
    what the policy had spent by what it selects and by its prices, so there was nothing to differ from.
    """

    at_s: float
    mended: str = ""
    less: str = ""
    first: bool = False


class Others(Spec, frozen=True):
    """GPUs of one pool (empty: of nodes that are in none) that a policy pays for and no service holds.

    `lasting` are of others' pods that run for longer than the policy's reserve, `passing` of their other pods, `idle`
    of nodes that are billed, that nobody holds and of which the policy is the payer (`money.idle`).
    """

    pool: str
    lasting: int
    passing: int
    idle: int = 0


class PolicyState(Spec, frozen=True):
    """One policy now. `accounts` are of all periods that the next outage reserve touches, the present ones first."""

    spec: PolicySpec
    accounts: tuple[Account, ...] = ()
    through_s: float = 0.0  # what was spent is counted up to this moment
    per_hour: Decimal = Decimal(0)  # what was spent an hour then
    others: tuple[Others, ...] = ()
    outside: tuple[tuple[str, int], ...] = ()  # nodes that are in no pool, with the GPUs on them that it would pay for
    reached: tuple[Reached, ...] = ()  # thresholds, as last decided
    outdated: str = ""  # why its newest spec cannot be read; then `spec` is the last one that could
    unread: str = ""  # a service of its namespaces that cannot be read, and of which nobody knows what it holds
    faults: tuple[tuple[str, str], ...] = ()
    last: LastHeld | None = None  # None: it was never held
    compared: Compared | None = None  # None: this leader did not compare it yet


SERVICE_KIND, POOL_KIND, POLICY_KIND, BATCH_KIND = "InferenceService", "GPUPool", "CostPolicy", "BatchPolicy"


class Unreadable(Spec, frozen=True):
    """An object of Ebbtide's own kinds that the API server accepted and that cannot be read; `message` says why."""

    kind: str  # SERVICE_KIND, POOL_KIND, POLICY_KIND or BATCH_KIND
    key: str  # namespace/name, or a pool's or policy's name
    uid: str
    generation: int
    message: str


class Source(Spec, frozen=True):
    """The health of one source of data for the whole cluster: "prometheus", "pods", "nodes"."""

    name: str
    healthy: bool
    age_s: float | None = None  # since it last answered; None: never did
    message: str = ""


class LedgerState(Spec, frozen=True):
    """How far the ledger is: written up to `since_s` (unix seconds). `why`: that it is behind; empty: it is not."""

    since_s: float
    why: str = ""


class Snapshot(Spec, frozen=True):
    """The whole cluster at `taken_at` (unix seconds). Tuples are sorted by key or name."""

    taken_at: float
    services: tuple[ServiceState, ...] = ()
    pools: tuple[PoolState, ...] = ()
    policies: tuple[PolicyState, ...] = ()
    batch_policies: tuple[BatchPolicyState, ...] = ()
    jobs: tuple[JobState, ...] = ()  # that a BatchPolicy selects and that have not ended
    finished: tuple[FinishedJob, ...] = ()
    strays: tuple[Stray, ...] = ()
    sources: tuple[Source, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    rate_window_s: float = 60.0  # over which the engines' rates and histograms were taken
    cycle_s: float = 10.0  # how long until the next snapshot, in steady state
    ledger: LedgerState | None = None  # None: nothing is counted
