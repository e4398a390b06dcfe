"""What `plan` remembers between cycles and across restarts: small, versioned, plain data.

Arrays are short and bounded; a service's memory is a few KB at most.
"""

from ebbtide.model.spec import Spec

MEMORY_VERSION = 1


class DemandSample(Spec, frozen=True, array_like=True):
    """Demand at one moment."""

    at: float
    requests_per_second: float
    input_tokens: float
    output_tokens: float


class Prediction(Spec, frozen=True, array_like=True):
    """What each forecaster said at `made_at` about `due_at`, to be scored then."""

    made_at: float
    due_at: float
    level: float
    trend: float


class ForecastMemory(Spec, frozen=True):
    """Recent demand, open predictions, and each forecaster's decayed squared log error."""

    samples: tuple[DemandSample, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    level_loss: float = 0.0
    trend_loss: float = 0.0
    scored: float = 0.0  # decayed number of scored predictions
    errors: tuple[float, ...] = ()  # recent log errors of the mixture, for its range


class CapacityMemory(Spec, frozen=True):
    """Sufficient statistics of inter-token latency against concurrency, decayed; and start-up times seen (s)."""

    weight: float = 0.0
    sum_n: float = 0.0
    sum_nn: float = 0.0
    sum_y: float = 0.0
    sum_ny: float = 0.0
    correction: float = 1.0  # what replicas carried over what the model said, smoothed
    startup_s: tuple[float, ...] = ()
    seen_ready: tuple[str, ...] = ()  # uids of pods whose start-up was counted
    failing_since: float | None = None  # when its starting pods stopped making progress
    backoff_until: float | None = None
    backoff_s: float = 0.0


class Recommendation(Spec, frozen=True, array_like=True):
    """The total wanted at one moment, for delays in both directions."""

    at: float
    replicas: int


class VariantMemory(Spec, frozen=True):
    """One variant."""

    name: str
    capacity: CapacityMemory = CapacityMemory()
    reversions: tuple[float, ...] = ()  # times at which somebody undid our write
    last_seen_replicas: int | None = None
    adopted_replicas: int | None = None  # after a single manual scale: the new starting point
    target_uid: str = ""


class ServiceMemory(Spec, frozen=True):
    """One service."""

    key: str
    forecast: ForecastMemory = ForecastMemory()
    variants: tuple[VariantMemory, ...] = ()
    recommendations: tuple[Recommendation, ...] = ()
    moves: tuple[Recommendation, ...] = ()  # our own changes within the last minutes, for rates
    last_request_at: float | None = None
    activator_seen: bool = False
    even_dispatch: float = 0.0  # 0..1: confidence that traffic is spread evenly over unlike variants
    last_fresh_at: float | None = None  # when demand was last fully known
    pause_applied: str = ""  # identity of the pause whose `replicas` was already applied


class PoolMemory(Spec, frozen=True):
    """One pool: lead times of nodes seen, and back-off while nodes do not come."""

    name: str
    known_nodes: tuple[str, ...] = ()
    waiting_since: float | None = None
    lead_times_s: tuple[float, ...] = ()
    backoff_until: float | None = None
    backoff_s: float = 0.0


class Memory(Spec, frozen=True):
    """All of it. An unknown version is dropped, and the next cycles hold until enough is known again."""

    version: int = MEMORY_VERSION
    started_at: float = 0.0
    services: tuple[ServiceMemory, ...] = ()
    pools: tuple[PoolMemory, ...] = ()
