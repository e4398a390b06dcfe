"""The one catalogue of reasons. A reason is a code from here and the text built from the numbers that decided."""

from enum import StrEnum

from ebbtide.model.spec import Spec


class Code(StrEnum):
    """CamelCase and stable: the value is what conditions, Events and metrics carry."""

    # steady
    WITHIN_TARGET = "WithinTarget"  # what runs carries what is expected; nothing to do
    # moves
    DEMAND_ROSE = "DemandRose"  # more replicas: the forecast exceeds what runs can carry
    DEMAND_FELL = "DemandFell"  # fewer replicas: the rest carries the forecast
    CHEAPER_MIX = "CheaperMix"  # replicas move to a variant that carries the same for less
    FIRST_REQUEST = "FirstRequest"  # from zero: the gateway holds requests
    IDLE = "Idle"  # to zero: no request for scaleToZero.after
    BELOW_MINIMUM = "BelowMinimum"  # raised to a declared minimum
    ABOVE_MAXIMUM = "AboveMaximum"  # lowered to a declared maximum
    # waiting
    DOWN_DELAY = "DownDelay"  # lower, but not for long enough yet
    UP_DELAY = "UpDelay"  # higher, but not for long enough yet
    RATE_LIMITED = "RateLimited"  # moving as fast as allowed
    PODS_STARTING = "PodsStarting"  # what was asked for is still starting
    ROLLOUT_IN_PROGRESS = "RolloutInProgress"  # the target is replacing its pods
    WARMING_UP = "WarmingUp"  # Ebbtide has not watched long enough to lower anything
    # limits
    AT_MAXIMUM = "AtMaximum"
    AT_MINIMUM = "AtMinimum"
    POOL_FULL = "PoolFull"  # the pool has no free GPUs left within its limits
    POOL_BACKING_OFF = "PoolBackingOff"  # the pool's nodes did not come; tried again later
    PRICE_UNKNOWN = "PriceUnknown"  # no price, no scale-up
    QUOTA_REFUSED = "QuotaRefused"  # a ResourceQuota or admission refused the pods
    UNSCHEDULABLE = "Unschedulable"  # the scheduler finds no node for pods of the variant
    CRASH_LOOPING = "CrashLooping"  # pods of the variant end by themselves
    SLO_UNATTAINABLE = "SLOUnattainable"  # one request alone takes longer than the objective
    # data
    METRICS_MISSING = "MetricsMissing"  # no series for running pods: hold
    METRICS_STALE = "MetricsStale"  # the newest value is too old: hold
    PROMETHEUS_UNREACHABLE = "PrometheusUnreachable"  # hold everywhere
    ACTIVATOR_UNSEEN = "ActivatorUnseen"  # the gateway's queue was never read: not to zero
    NO_LOAD_SEEN = "NoLoadSeen"  # nothing has arrived yet
    # people and other controllers
    MODE_OFF = "ModeOff"
    MODE_RECOMMEND = "ModeRecommend"
    PAUSED = "Paused"
    TARGET_CONFLICT = "TargetConflict"  # another writer on the target: hands off
    DRIFTED = "Drifted"  # somebody scaled by hand: respected as the new starting point
    ACTING = "Acting"
    WRITE_REFUSED = "WriteRefused"  # the API server refused a write of ours: rights, or an object that is not valid
    # configuration
    TARGET_NOT_FOUND = "TargetNotFound"
    TARGET_NOT_SCALABLE = "TargetNotScalable"
    TARGET_SHARED = "TargetShared"  # two services name one target
    POOL_NOT_FOUND = "PoolNotFound"
    POOL_MISMATCH = "PoolMismatch"  # the target's nodeSelector contradicts the variant's pool
    INVALID_TIME_ZONE = "InvalidTimeZone"
    INVALID_SCHEDULE = "InvalidSchedule"  # a cron expression that no calendar can follow
    GPUS_UNKNOWN = "GPUsUnknown"  # GPUs per replica neither declared nor in the pod template
    ENGINE_NOT_DRAINING = "EngineNotDraining"  # vLLM without --shutdown-timeout cuts requests off
    RESOLVED = "Resolved"
    PENDING = "Pending"  # not looked at yet
    # what conditions say when all is well, or where a number came from
    METRICS_FRESH = "MetricsFresh"  # every ready pod's series are fresh
    NOTHING_RUNS = "NothingRuns"  # no ready pod, so there is nothing to measure
    CAPACITY_OBSERVED = "CapacityObserved"  # from what replicas actually do
    CAPACITY_PRIOR = "CapacityPrior"  # from the declaration or the table, not yet from observation
    CAPACITY_ASSUMED = "CapacityAssumed"  # unknown hardware or model: a cautious default
    PRICES_KNOWN = "PricesKnown"
    ATTAINABLE = "Attainable"
    NOT_PAUSED = "NotPaused"
    NOT_LIMITED = "NotLimited"
    INTERRUPTION = "Interruption"  # a node is about to be taken away: its replicas are replaced
    GIVES_WAY = "GivesWay"  # a service of higher priority needs the GPUs
    KEEPS_COVER = "KeepsCover"  # those that would stay ready could not carry the present load
    REQUESTS_NOT_SEEN_ZERO = "RequestsNotSeenZero"  # not to zero: traffic was not seen to be zero for long enough


class Reason(Spec, frozen=True):
    """Why. `text` is one sentence with the numbers; `numbers` are the same as data."""

    code: Code
    text: str
    numbers: tuple[tuple[str, str], ...] = ()
