"""What `plan` remembers between cycles and across restarts: small, versioned, plain data.

Arrays are short and bounded; a service's memory is a few KB at most.
"""

from ebbtide.model.spec import Spec

MEMORY_VERSION = 2


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
    growth: float = 0.0


class ForecastMemory(Spec, frozen=True):
    """Recent demand, open predictions, and each forecaster's decayed squared log error."""

    samples: tuple[DemandSample, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    level_loss: float = 0.0
    trend_loss: float = 0.0
    growth_loss: float = 0.0
    doubt_loss: float = 0.0  # the mixture's squared log error, in units of how uncertain each moment was
    scored: float = 0.0  # decayed number of scored predictions
    peak: float = 0.0  # highest level seen, slowly forgotten (requests/s)
    errors: tuple[float, ...] = ()  # recent log errors of the mixture, for its range


class LineMemory(Spec, frozen=True, array_like=True):
    """Decayed sums over observations of inter-token latency y (s) at n and v in the batch (see core.latency)."""

    weight: float = 0.0
    n: float = 0.0
    v: float = 0.0
    y: float = 0.0
    nn: float = 0.0
    nv: float = 0.0
    vv: float = 0.0
    ny: float = 0.0
    vy: float = 0.0


class CapacityMemory(Spec, frozen=True):
    """What a variant's replicas were seen to do: their latency line, its corrections, and start-up times (s)."""

    line: LineMemory = LineMemory()
    correction: float = 1.0  # what replicas carried over what the model said, smoothed
    proven_tokens: float = (
        0.0  # most output tokens/s a replica was seen to carry within the objectives, slowly forgotten
    )
    proven_shape: float = 0.0  # the lengths' shape (see core.priors) at which that was; 0: not known
    startup_s: tuple[float, ...] = ()
    seen_ready: tuple[str, ...] = ()  # uids of pods whose start-up was counted
    failing_since: float | None = None  # when its starting pods stopped making progress
    failing_code: str = ""  # why it backs off, kept until it is over
    failing_text: str = ""
    backoff_until: float | None = None
    backoff_s: float = 0.0
    learnt_at: float = 0.0  # when the statistics above were last decayed
    startup_watermark: float | None = None  # `ready_at` of the newest pod whose start-up was counted
    unbuyable: float = 0.0  # share of misses seen while replicas were nearly idle: more of them buy nothing
    unbuyable_weight: float = 0.0  # requests behind `unbuyable`, decayed
    full_tokens: float = 0.0  # output tokens/s that replicas carried when they were full (see core.fullness); 0: never
    full_shape: float = 0.0  # the lengths' shape at which that was
    full_by: str = ""  # what they were full by
    full_at: float = 0.0  # when that was last seen
    full_since: float | None = None  # since when they have been full without a break
    dispersion: float = 0.5  # 0: load spreads evenly over replicas at every moment; 1: each fluctuates alone


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
    write_at: float | None = None  # our newest write that was taken into account, and by how many it moved, with sign
    write_by: int = 0
    drifted_at: float | None = None  # when somebody else last changed the replicas
    drifted_by: int = 0  # by how many, with sign
    absent_since: float | None = None  # since when declared pods are not there and no further one came
    present_pods: int = 0  # how many were there in the last cycle


class ServiceMemory(Spec, frozen=True):
    """One service."""

    key: str
    forecast: ForecastMemory = ForecastMemory()
    arrivals_by_pod: bytes = b""  # requests/s that each took when it was last read, for one rate window
    variants: tuple[VariantMemory, ...] = ()
    recommendations: tuple[Recommendation, ...] = ()
    moves: tuple[Recommendation, ...] = ()  # our own changes within the last minutes, for rates
    last_request_at: float | None = None
    activator_seen: bool = False
    even_dispatch: float = 0.5  # 0..1: confidence that traffic is spread evenly over unlike variants
    spread_evenly: bool | None = None  # the verdict, kept until the opposite is as sure; None: not measured
    last_fresh_at: float | None = None  # when demand was last fully known
    pause_applied: str = ""  # identity of the pause whose `replicas` was already applied
    watched_since: float | None = None  # first cycle that saw the service with this memory
    raise_since: float | None = None  # since when more replicas were wanted without a break
    raise_to: int = 0  # the fewest that were wanted since then
    activator_seen_at: float | None = None
    lengths_s: float = 0.0  # for how long they were measured
    input_tokens: float = 0.0  # smoothed mean prompt tokens a request
    output_tokens: float = 0.0  # smoothed mean output tokens a request
    queued_at: float | None = None  # when more than a few requests last waited before full batches
    refused_at: float | None = None  # when engines last refused more than may miss
    starved_at: float | None = None  # when requests last missed an objective while engines had no KV cache left


class PoolMemory(Spec, frozen=True):
    """One pool: lead times of nodes seen, and back-off while nodes do not come."""

    name: str
    known_nodes: tuple[str, ...] = ()
    waiting_since: float | None = None
    lead_times_s: tuple[float, ...] = ()
    newest_node_at: float = 0.0  # creation of the newest node seen
    backoff_until: float | None = None
    backoff_s: float = 0.0


class Memory(Spec, frozen=True):
    """All of it. An unknown version is dropped, and the next cycles hold until enough is known again."""

    version: int = MEMORY_VERSION
    started_at: float = 0.0
    services: tuple[ServiceMemory, ...] = ()
    pools: tuple[PoolMemory, ...] = ()
