"""The codes of all reasons. A reason is a code from here and the text built from the numbers that decided."""

from enum import StrEnum

from ebbtide.model.spec import Spec


class Code(StrEnum):
    """CamelCase and stable: the value is what conditions, Events and metrics carry. Meanings: `model.catalogue`."""

    # nothing to do
    WITHIN_TARGET = "WithinTarget"
    NO_LOAD_SEEN = "NoLoadSeen"
    NOTHING_RUNS = "NothingRuns"
    # moves
    DEMAND_ROSE = "DemandRose"
    DEMAND_FELL = "DemandFell"
    CHEAPER_MIX = "CheaperMix"
    USES_DEGRADED = "UsesDegraded"
    LEAVES_DEGRADED = "LeavesDegraded"
    FIRST_REQUEST = "FirstRequest"
    IDLE = "Idle"
    BELOW_MINIMUM = "BelowMinimum"
    ABOVE_MAXIMUM = "AboveMaximum"
    INTERRUPTION = "Interruption"
    GIVES_WAY = "GivesWay"
    # waiting
    DOWN_DELAY = "DownDelay"
    UP_DELAY = "UpDelay"
    RATE_LIMITED = "RateLimited"
    PODS_STARTING = "PodsStarting"
    ROLLOUT_IN_PROGRESS = "RolloutInProgress"
    WARMING_UP = "WarmingUp"
    KEEPS_COVER = "KeepsCover"
    REQUESTS_NOT_SEEN_ZERO = "RequestsNotSeenZero"
    # limits
    AT_MAXIMUM = "AtMaximum"
    AT_MINIMUM = "AtMinimum"
    POOL_FULL = "PoolFull"
    POOL_BACKING_OFF = "PoolBackingOff"
    PRICE_UNKNOWN = "PriceUnknown"
    LEDGER_CURRENT = "LedgerCurrent"
    LEDGER_BEHIND = "LedgerBehind"
    LEDGER_AGREES = "LedgerAgrees"
    LEDGER_MENDED = "LedgerMended"
    DATA_SET_ASIDE = "DataSetAside"
    CLOCK_STEPPED = "ClockStepped"
    EFFECTIVE_FROM_REFUSED = "EffectiveFromRefused"
    GPUS_UNKNOWN = "GPUsUnknown"
    QUOTA_REFUSED = "QuotaRefused"
    PODS_MISSING = "PodsMissing"
    UNSCHEDULABLE = "Unschedulable"
    CRASH_LOOPING = "CrashLooping"
    STARTUP_OVERDUE = "StartupOverdue"
    NOT_ANSWERING = "NotAnswering"
    SLO_UNATTAINABLE = "SLOUnattainable"
    CEILING_REACHED = "CeilingReached"
    POLICIES_UNKNOWN = "PoliciesUnknown"
    # policies
    WITHIN_CEILINGS = "WithinCeilings"
    CEILING_PACED = "CeilingPaced"
    THRESHOLD_REACHED = "ThresholdReached"
    CEILING_EXCEEDED = "CeilingExceeded"
    PODS_STUCK = "PodsStuck"
    SELECTS_NOTHING = "SelectsNothing"
    CURRENCY_DIFFERS = "CurrencyDiffers"
    # measurements
    METRICS_MISSING = "MetricsMissing"
    METRICS_STALE = "MetricsStale"
    PROMETHEUS_UNREACHABLE = "PrometheusUnreachable"
    CLUSTER_UNREADABLE = "ClusterUnreadable"
    ACTIVATOR_UNSEEN = "ActivatorUnseen"
    METRICS_FRESH = "MetricsFresh"
    CAPACITY_OBSERVED = "CapacityObserved"
    CAPACITY_PRIOR = "CapacityPrior"
    CAPACITY_ASSUMED = "CapacityAssumed"
    SPREAD_EVENLY = "SpreadEvenly"
    FOLLOWS_CAPACITY = "FollowsCapacity"
    NOTHING_TO_BALANCE = "NothingToBalance"
    PRICES_KNOWN = "PricesKnown"
    ATTAINABLE = "Attainable"
    ALL_ADMITTED = "AllAdmitted"
    REQUESTS_REFUSED = "RequestsRefused"
    KV_CACHE_FULL = "KVCacheFull"
    # modes, people and other controllers
    MODE_OFF = "ModeOff"
    MODE_RECOMMEND = "ModeRecommend"
    ACTING = "Acting"
    PAUSED = "Paused"
    NOT_PAUSED = "NotPaused"
    NOT_LIMITED = "NotLimited"
    NOT_DEGRADED = "NotDegraded"
    TARGET_CONFLICT = "TargetConflict"
    DRIFTED = "Drifted"
    WRITE_REFUSED = "WriteRefused"
    # faults of Ebbtide's own
    PLAN_FAILED = "PlanFailed"
    # configuration
    RESOLVED = "Resolved"
    PENDING = "Pending"
    TARGET_NOT_FOUND = "TargetNotFound"
    TARGET_FOREIGN = "TargetForeign"
    TARGET_NOT_SCALABLE = "TargetNotScalable"
    TARGET_UNREADABLE = "TargetUnreadable"
    TARGET_SHARED = "TargetShared"
    POOL_NOT_FOUND = "PoolNotFound"
    POOL_MISMATCH = "PoolMismatch"
    PODS_OUTSIDE_POOL = "PodsOutsidePool"
    POOL_UNREADABLE = "PoolUnreadable"
    TEMPLATE_REFUSED = "TemplateRefused"
    INVALID_SPEC = "InvalidSpec"
    INVALID_TIME_ZONE = "InvalidTimeZone"
    INVALID_SCHEDULE = "InvalidSchedule"
    ENGINE_NOT_DRAINING = "EngineNotDraining"
    DRAIN_NOT_SHOWN = "DrainNotShown"
    ENGINE_DRAINS = "EngineDrains"


class Reason(Spec, frozen=True):
    """Why. `text` is one sentence with the numbers; `numbers` are the same as data."""

    code: Code
    text: str
    numbers: tuple[tuple[str, str], ...] = ()
