"""What people declared, normalised: seconds, shares 0..1 and `Decimal` money instead of API strings."""

from decimal import Decimal
from enum import StrEnum

import msgspec


class Mode(StrEnum):
    """How far Ebbtide may go for one service."""

    OFF = "Off"
    RECOMMEND = "Recommend"
    AUTO = "Auto"


class ServiceClass(StrEnum):
    """Who waits for a service's answers."""

    INTERACTIVE = "Interactive"  # people: within its objectives, whatever the hour
    BACKGROUND = "Background"  # nobody: its queue is worked off in batch work's hours and on its GPUs


class PauseDirection(StrEnum):
    """Which way a paused service may not move."""

    ALL = "All"
    UP = "Up"
    DOWN = "Down"


class Provisioning(StrEnum):
    """Static: the GPUs that exist. Autoscaled: nodes come when pods wait for them, up to `max_gpus`."""

    STATIC = "Static"
    AUTOSCALED = "Autoscaled"


class CapacityType(StrEnum):
    """How the pool's GPUs are bought."""

    ON_DEMAND = "OnDemand"
    SPOT = "Spot"
    RESERVED = "Reserved"
    ON_PREM = "OnPrem"


class EngineType(StrEnum):
    """The inference engine, as far as metrics, probes and drain differ."""

    VLLM = "vLLM"
    TENSORRT_LLM = "TensorRTLLM"
    SGLANG = "SGLang"


class Spec(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Base of the frozen structs: immutable, and defaults are omitted from their encoding.

    Immutable values form no cycles, so the garbage collector need not walk the millions of a large cluster.
    """


class Objectives(Spec, frozen=True):
    """A request meets both when its TTFT and mean inter-token latency are within these; `attainment` of them should."""

    ttft_s: float
    itl_s: float
    attainment: float  # 0..1, of the requests of any `window_s`
    window_s: float = 86_400.0


class TargetRef(Spec, frozen=True, order=True):
    """Anything with a scale subresource, in the service's own namespace."""

    api_version: str
    kind: str
    name: str


class CapacityPrior(Spec, frozen=True):
    """A rate one replica was measured to carry inside the objectives, for requests of these mean lengths."""

    requests_per_second: float
    input_tokens: float
    output_tokens: float


class EngineSpec(Spec, frozen=True):
    """What Ebbtide builds a Deployment from. `env` are (name, value) pairs; `pod_template` is a JSON merge overlay.

    `deletion_policy` is Orphan or Delete: what happens to the Deployment when the variant or the service goes.
    """

    type: EngineType
    image: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    port: int = 8000
    pod_template_json: str = "{}"
    deletion_policy: str = "Orphan"


class VariantSpec(Spec, frozen=True):
    """One way to run the service: a scale target on a pool. Exactly one of `target` and `engine` was declared.

    `target` is always set after normalisation: for an engine block it is the Deployment `<service>-<variant>`.
    """

    name: str
    pool: str
    target: TargetRef
    engine: EngineSpec | None = None
    gpus_per_replica: int | None = None  # None: read it from the pod template
    min_replicas: int = 0
    max_replicas: int = 100
    capacity: CapacityPrior | None = None
    degraded: bool = False  # a stand-in: it gets replicas only while money or room is short


class Activator(Spec, frozen=True):
    """The gateway metrics whose queue wakes a service at zero; `labels` select the service's own series."""

    url: str
    queue_metrics: tuple[str, ...]
    labels: tuple[tuple[str, str], ...] = ()


class ScaleToZero(Spec, frozen=True):
    """To zero after `after_s` without a request, and back by the activator."""

    after_s: float
    activator: Activator


class Pause(Spec, frozen=True):
    """Hands off, in one direction or both; with `replicas` the total is set there once and then held."""

    direction: PauseDirection = PauseDirection.ALL
    replicas: int | None = None
    until_unix_s: float | None = None
    reason: str = ""
    by: str = ""


class Scaling(Spec, frozen=True):
    """Bounds on the total over all variants, and how fast it may move."""

    min_replicas: int = 1
    max_replicas: int = 100
    up_delay_s: float = 0.0
    up_max_per_minute: int = 60
    down_delay_s: float | None = None  # None: as long as a replica that is asked for now takes to serve
    down_max_per_minute: int = 10
    scale_to_zero: ScaleToZero | None = None
    pause: Pause | None = None


class Alternative(Spec, frozen=True):
    """An API that would put out the same tokens: its prices for a million of them."""

    currency: str
    per_million_input: Decimal
    per_million_output: Decimal


BELOW_ALL = 2000  # more than priorities differ by


class ServiceSpec(Spec, frozen=True):
    """One InferenceService. `key` is `namespace/name`."""

    key: str
    uid: str
    generation: int
    mode: Mode
    model_name: str
    model_parameters_billion: float | None
    objectives: Objectives
    priority: int
    variants: tuple[VariantSpec, ...]
    scaling: Scaling
    cost_labels: tuple[tuple[str, str], ...] = ()  # sorted: those of `labels` that its cost is put down to
    labels: tuple[tuple[str, str], ...] = ()  # sorted: by them policies select
    alternative: Alternative | None = None
    service_class: ServiceClass = ServiceClass.INTERACTIVE

    @property
    def background(self) -> bool:
        """Whether it has GPUs only as far as they are lent to batch work."""
        return self.service_class is ServiceClass.BACKGROUND

    @property
    def rank(self) -> int:
        """Who goes first where GPUs or money run short: by priority, and every Background service comes last."""
        return self.priority - BELOW_ALL if self.background else self.priority

    @property
    def namespace(self) -> str:
        """The part of `key` before the slash."""
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        """The part of `key` after the slash."""
        return self.key.partition("/")[2]


class TariffWindow(Spec, frozen=True):
    """From each firing of `cron` (in `time_zone`), for `duration_s`, `amount` holds."""

    cron: str
    time_zone: str
    duration_s: float
    amount: Decimal


class Tariff(Spec, frozen=True):
    """An amount of money by the hour of the week: `base`, and others in windows, of which the first declared wins."""

    base: Decimal
    schedule: tuple[TariffWindow, ...] = ()


HOURS_A_YEAR = Decimal(8766)  # 365.25 days


class OnPrem(Spec, frozen=True):
    """GPUs that were bought: what one cost, written off over `years`, and the electricity that it draws.

    `overhead` is what the building draws for each watt of a GPU's server, that watt included (PUE); `electricity` is
    per kWh.
    """

    capital_per_gpu: Decimal
    years: Decimal
    watts_per_gpu: Decimal
    overhead: Decimal
    electricity: Tariff

    @property
    def written_off_per_hour(self) -> Decimal:
        """What one GPU loses in value in an hour."""
        return self.capital_per_gpu / (self.years * HOURS_A_YEAR)


class PriceSource(Spec, frozen=True):
    """Prices from elsewhere: `kind` Table (the row of `item`) or OpenCost (of the pool's nodes)."""

    kind: str
    item: str = ""


class Billing(StrEnum):
    """What the pool's owner pays for."""

    NODE = "Node"  # nodes, from creation until they are gone, whether anything runs on them or not
    POD = "Pod"  # the GPUs that pods hold


class Price(Spec, frozen=True):
    """What one GPU of the pool costs for an hour: exactly one of `tariff`, `on_prem`, `source` and `wrong` is set.

    `wrong`: why what was written is no price, in words; nobody knows then what the GPUs cost. `effective_from` (unix
    seconds): an edit that says so holds from then on; None: from when it is seen.
    """

    currency: str
    tariff: Tariff | None = None
    on_prem: OnPrem | None = None
    source: PriceSource | None = None
    effective_from: float | None = None
    wrong: str = ""


class InterruptionTaint(Spec, frozen=True):
    """A taint that announces the end of a node. `value` and `effect` None match any."""

    key: str
    value: str | None = None
    effect: str | None = None


class Toleration(Spec, frozen=True):
    """A taint the pool's nodes carry by design, which pods built by Ebbtide tolerate."""

    key: str
    value: str | None = None
    effect: str | None = None


class PoolSpec(Spec, frozen=True):
    """One GPUPool. `max_gpus` None: no limit beyond what exists (Static) or none at all (Autoscaled)."""

    name: str
    uid: str
    generation: int
    provisioning: Provisioning
    capacity_type: CapacityType
    node_selector: tuple[tuple[str, str], ...]
    resource: str
    accelerator: str
    price: Price | None
    max_gpus: int | None
    node_lead_time_s: float
    billing: Billing = Billing.NODE
    interruption_taints: tuple[InterruptionTaint, ...] = ()
    tolerations: tuple[Toleration, ...] = ()

    @property
    def shares_idle(self) -> bool:
        """Whether its nodes are paid as they come and go with pods: then those who run on one pay for all of it."""
        comes_and_goes = self.provisioning is Provisioning.AUTOSCALED and self.billing is Billing.NODE
        return comes_and_goes and self.capacity_type not in (CapacityType.RESERVED, CapacityType.ON_PREM)


DEFAULT_PRIORITY = 100
"""Of a service that declares none."""


class PolicyScope(StrEnum):
    """What a CostPolicy counts."""

    MANAGED = "Managed"  # pods of InferenceServices
    ALL_GPU_PODS = "AllGPUPods"  # these, others' GPU pods, and without namespaces GPUs of nodes that nobody holds


class Floor(StrEnum):
    """What a ceiling may do to declared minimums."""

    KEEP_MIN = "KeepMin"
    ALLOW_ZERO = "AllowZero"


class CeilingKind(StrEnum):
    """What a ceiling is meant for: what runs at a moment, or what a calendar period costs."""

    HOUR = "Hour"
    DAY = "Day"
    MONTH = "Month"


class TemporaryRaise(Spec, frozen=True):
    """What ceilings are raised by until `until_unix_s`, by whom and why."""

    amounts: tuple[tuple[CeilingKind, Decimal], ...]
    until_unix_s: float
    by: str
    reason: str


class CalendarPeriod(StrEnum):
    """The ceilings of which a share can be spent."""

    DAY = "Day"
    MONTH = "Month"


class ThresholdBasis(StrEnum):
    """What a threshold compares with the ceiling."""

    SPENT = "Spent"
    FORECAST = "Forecast"  # what the period will have cost by its end if all that is wanted runs from now on


class OverrunCause(StrEnum):
    """Why a ceiling is crossed, or will be by the end of its period."""

    OPERATOR_DOWN = "OperatorDown"  # nothing was decided for longer than was paid for in advance
    UNCONTROLLABLE = "Uncontrollable"  # what may not be reduced, or could not be in time
    CEILING_BELOW_SPENT = "CeilingBelowSpent"  # more had been spent when the ceiling was set to what it is
    RECOUNTED = "Recounted"  # more was spent than was known: a selector, a price or the ledger says so


class ThresholdAction(StrEnum):
    """What happens once a threshold is reached."""

    NOTIFY = "Notify"
    HOLD_SCALE_UP = "HoldScaleUp"  # nothing is raised above its declared minimum
    USE_DEGRADED = "UseDegraded"  # services that have degraded variants run on these where that is cheaper
    LIMIT_LOW_PRIORITY = "LimitLowPriority"  # services below the default priority fall to their minimums
    SUSPEND_BATCH = "SuspendBatch"  # batch Jobs that may be stopped are, and none is started
    FREEZE = "Freeze"  # nothing at all is raised


class Threshold(Spec, frozen=True):
    """At `percent` of the ceiling of `period` (DAY or MONTH) `actions` begin."""

    period: CeilingKind
    percent: int
    basis: ThresholdBasis
    actions: tuple[ThresholdAction, ...]


class Pacing(StrEnum):
    """How the money of a period is spread over it."""

    NONE = "None"
    SMOOTH = "Smooth"  # so that it lasts to the end for what is forecast


class ExternalScale(StrEnum):
    """Who gives way where somebody else raised a target and a ceiling binds."""

    COMPENSATE = "Compensate"  # as always: what matters least
    CORRECT = "Correct"  # what was raised


class PolicySpec(Spec, frozen=True):
    """One CostPolicy. No `namespaces`: all. `ceilings` are in `currency`, that of HOUR a rate per hour."""

    name: str
    uid: str
    generation: int
    currency: str
    ceilings: tuple[tuple[CeilingKind, Decimal], ...]
    namespaces: tuple[str, ...] = ()
    match_labels: tuple[tuple[str, str], ...] = ()
    scope: PolicyScope = PolicyScope.MANAGED
    outage_reserve_s: float = 900.0
    time_zone: str = "UTC"
    month_starts_on: int = 1
    floor: Floor = Floor.KEEP_MIN
    temporary_raise: TemporaryRaise | None = None
    thresholds: tuple[Threshold, ...] = ()
    pacing: Pacing = Pacing.NONE
    on_external_scale: ExternalScale = ExternalScale.COMPENSATE
    exchange_rates: tuple[tuple[str, Decimal], ...] = ()  # of another currency, what one unit of it is worth

    def worth(self, currency: str) -> Decimal | None:
        """What one unit of it is worth in the policy's own; None: nobody said."""
        return Decimal(1) if currency == self.currency else dict(self.exchange_rates).get(currency)

    @property
    def pays_all(self) -> bool:
        """Whether it pays for everything that holds GPUs, and for nodes' GPUs that have no payer."""
        return self.scope is PolicyScope.ALL_GPU_PODS and not self.namespaces

    def selects(self, namespace: str, labels: tuple[tuple[str, str], ...]) -> bool:
        """Whether a service of that namespace with these labels falls under it."""
        return (not self.namespaces or namespace in self.namespaces) and set(self.match_labels) <= set(labels)
