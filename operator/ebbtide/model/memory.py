"""What `plan` remembers between cycles and across restarts: small, versioned, plain data.

Arrays are short and bounded; a service's memory is a few KB at most.
"""

from ebbtide.model.spec import CeilingKind, Spec

MEMORY_VERSION = 5


class DemandSample(Spec, frozen=True, array_like=True):
    """Demand at one moment."""

    at: float
    requests_per_second: float  # of the mean length
    length: float  # output tokens, and prompt tokens at their weight


class TrackMemory(Spec, frozen=True, array_like=True):
    """How well one horizon was foreseen (see core.forecast.record)."""

    open: bytes = b""  # predictions that are not due yet, packed
    losses: tuple[float, ...] = ()  # by how many tokens/s each candidate was off, decayed
    scored: float = 0.0  # decayed number of scored predictions
    errors: bytes = b""  # log errors of what was said, as a histogram
    counted: float = 0.0  # independent errors behind it, decayed
    exposed: float = 0.0  # chances to jump to a higher load that was seen before, decayed, and how many were taken
    jumped: float = 0.0
    unforeseen: float = 0.0  # tokens/s that even the best candidate was off by, lately
    typical: float = 0.0  # tokens/s at which errors are kept, see core.forecast.volume; 0: none was seen
    volume: tuple[float, ...] = ()  # how errors shrink with volume: decayed sums


class ScoreMemory(Spec, frozen=True, array_like=True):
    """How good the range at the main horizon was (see core.forecast.scores); sums in tokens/s, decayed over a day."""

    claims: bytes = b""  # ranges that are not due yet, packed
    low_by: float = 0.0  # what past errors have taught about the range's two ends; 0: as the histogram has them
    high_by: float = 0.0
    counted: float = 0.0  # independent errors behind the rest
    came: float = 0.0
    expected: float = 0.0
    below: float = 0.0  # of `counted`, those below the range, and above it
    above: float = 0.0
    low_loss: float = 0.0  # pinball losses at the range's two ends and at its middle
    middle_loss: float = 0.0
    high_loss: float = 0.0


class ForecastMemory(Spec, frozen=True):
    """Recent demand, slow levels, the record of each horizon, and what loads there were."""

    samples: tuple[DemandSample, ...] = ()
    levels: tuple[float, ...] = ()  # tokens/s (prompt tokens at their weight), smoothed over ever longer times
    tracks: tuple[TrackMemory, ...] = ()
    score: ScoreMemory = ScoreMemory()
    prompt_weight: float = 0.0  # output tokens that make as much work as a prompt token; 0: not known yet
    parts: tuple[float, ...] = ()  # requests, prompt and output tokens/s, smoothed as the first of `levels`
    loads: bytes = b""  # seconds at each load, as a histogram, slowly forgotten
    days: bytes = b""  # tokens/s by ten minutes of the last eight days
    slot: int = 0  # the ten minutes that run now, and what they had so far
    slot_tokens: float = 0.0
    slot_s: float = 0.0
    turn_at: float = 0.0  # when predictions were last made and the loads noted
    turn_load: float = 0.0  # tokens/s then
    noise: float = 0.0  # variance of the logarithm of a rate window's load around its level, and from how many seconds
    noise_s: float = 0.0
    leader: str = ""  # the candidate that led then, and whether demand moved by more than a little, or was steady
    moving: bool = False
    steady: bool = False


class WorthMemory(Spec, frozen=True, array_like=True):
    """What was worth having when it was last weighed, and for what; it holds until the next turn (see core.sizing)."""

    at: float = 0.0  # 0: to be weighed in the next cycle
    work: float = 0.0  # requests/s that came then
    unit: float = 0.0  # requests/s that one carries
    runs: int = 0
    wanted: int = 0
    saves: float = 0.0  # by the last one that is wanted, over its cost, and by one more
    more_saves: float = 0.0
    horizon_s: float = 0.0  # what was expected then, in requests/s
    expected: float = 0.0
    low: float = 0.0
    high: float = 0.0


class BudgetMemory(Spec, frozen=True):
    """The price of a miss and how the error budget is spent (see core.price)."""

    price_log: float = 0.0  # mean logarithm of the price that would meet the target by itself
    price_weight: float = 0.0  # requests behind it, and in how many seconds they came, both decayed
    price_s: float = 0.0
    trim: float = 0.0  # logarithm of what planned misses have taught to add to it
    planned: float = 0.0  # misses that were planned, and those that came, decayed
    missed: float = 0.0
    plans: tuple[tuple[float, float], ...] = ()  # (second, planned share) not due yet
    at: float = 0.0


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


class EdgeMemory(Spec, frozen=True, array_like=True):
    """How misses grow with load, beside what is believed (see core.edge): both as logarithms, and what is unsure."""

    work: float = 0.0  # output tokens/s x the shape of lengths to which loads are relative; 0: nothing was seen
    level: float = 0.0
    steep: float = 0.0
    floor: float = 0.0
    covariance: tuple[float, ...] = ()  # of these three, its upper half by rows; empty: nothing was seen
    carried: float = 0.0  # the highest load at which no more than planned missed, slowly forgotten
    queued: float = 0.0  # the load at which requests last waited before full batches
    replicas: float = 1.0  # as many were there when it was seen first


class CapacityMemory(Spec, frozen=True):
    """What a variant's replicas were seen to do: their latency line, its corrections, and start-up times (s)."""

    line: LineMemory = LineMemory()
    edge: EdgeMemory = EdgeMemory()
    first_token_s: float = 0.0  # the least to a first token for each prompt token, slowly forgotten; 0: not seen
    held_tokens: float = 0.0  # of KV cache that a request in the batch holds, and how many request-seconds say so
    held_weight: float = 0.0
    crowd_mean: float = 0.0
    crowd: float = 0.0  # variance of the number in a batch from moment to moment, over its mean; 0: not known
    startup_s: tuple[float, ...] = ()
    seen_ready: tuple[str, ...] = ()  # uids of pods whose start-up was counted
    failing_since: float | None = None  # when its starting pods stopped making progress
    failing_code: str = ""  # why it backs off, kept until it is over
    failing_text: str = ""
    backoff_until: float | None = None
    backoff_s: float = 0.0
    learnt_at: float = 0.0  # when the statistics above were last decayed
    resumed_at: float = 0.0  # when readings came again after they had been missing; 0: they never were
    startup_watermark: float | None = None  # `ready_at` of the newest pod whose start-up was counted
    unbuyable: float = 0.0  # share of misses seen while replicas were nearly idle: more of them buy nothing
    unbuyable_weight: float = 0.0  # requests behind `unbuyable`, decayed
    idle_shares: tuple[float, ...] = ()  # that missed in the newest windows in which they were nearly idle
    idle_at: float = 0.0  # when the last of them was
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
    budget: BudgetMemory = BudgetMemory()
    worth: WorthMemory = WorthMemory()
    arrivals_by_pod: bytes = b""  # what each pod took when it was last read, for one rate window (core/departed)
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
    hands_off_since: float | None = None  # since when nothing may be written, whatever the reason
    starved_at: float | None = None  # when requests last missed an objective while engines had no KV cache left
    pressed_until: float | None = None  # until when degraded variants may serve for want of money, and whose words
    pressed_by: str = ""


class PoolMemory(Spec, frozen=True):
    """One pool: lead times of nodes seen, and back-off while nodes do not come."""

    name: str
    known_nodes: tuple[str, ...] = ()
    waiting_since: float | None = None
    lead_times_s: tuple[float, ...] = ()
    newest_node_at: float = 0.0  # creation of the newest node seen
    backoff_until: float | None = None
    backoff_s: float = 0.0
    going: tuple[str, ...] = ()  # of a spot pool: nodes that are about to be taken away, when that was last looked at
    watched_at: float = 0.0
    lost: float = 0.0  # nodes that were taken away, decayed, in so many node-hours (see core.spot)
    node_hours: float = 0.0
    empty_since: tuple[tuple[str, float], ...] = ()  # where nodes go by themselves: those without pods, since when
    found_empty: tuple[str, ...] = ()  # of these, since before the first look: nothing is learnt of them
    empties_at: float = 0.0  # when that was last looked at
    release_times_s: tuple[float, ...] = ()  # from the last pod until the node was gone
    node_gpus: int = 0  # where nodes go by themselves: of the largest that was there when one last was; 0: none was


class OutlookMemory(Spec, frozen=True, array_like=True):
    """What a period will have cost by its end, as last worked out; money as floats, for it is a forecast."""

    kind: CeilingKind
    start_s: float
    ceiling: float
    expected: float
    low: float
    high: float
    exceeded_s: float = 0.0  # when the expected course reaches the ceiling; 0: not before the end
    allowed_per_hour: float = -1.0  # the rate that lasts to the end; negative: all that is wanted does
    paced: tuple[tuple[int, float], ...] = ()  # lowest priority of a class, and what it may cost an hour
    held: float = 0.0  # what it will have cost under the policy's ceilings


class ClassMemory(Spec, frozen=True, array_like=True):
    """Services of one priority under one policy: what they want to spend, as in PolicyMemory."""

    priority: int
    rates: bytes = b""
    slot_cost: float = 0.0
    level: float = 0.0
    floor: float = 0.0  # cost an hour of what may not be reduced


class PolicyMemory(Spec, frozen=True):
    """One policy: what its services want to spend by the hour of the week, and how well that was foreseen."""

    uid: str
    rates: bytes = b""  # mean cost an hour by hour of the week (UTC), packed (see core.ceilings.outlook)
    at: float = 0.0  # when something was last noted
    slot: int = 0  # the hour that runs now (unix hours), and what was wanted in it so far
    slot_cost: float = 0.0  # cost an hour x seconds
    slot_s: float = 0.0
    level: float = 0.0  # cost an hour, smoothed over one
    said_at: float = 0.0  # when the next 24 hours were last forecast, as how much, and what came of it
    said: float = 0.0
    since_cost: float = 0.0
    since_s: float = 0.0
    said_error: float = 0.0  # the error that its range was made of, as a logarithm; 0: none was said
    errors: tuple[float, ...] = ()  # logarithms of what came over what was said
    in_range: tuple[bool, ...] = ()  # whether it lay in the range
    outlooks: tuple[OutlookMemory, ...] = ()
    turn_at: float = 0.0  # when they were worked out
    classes: tuple[ClassMemory, ...] = ()  # by priority, the highest first


class JobMemory(Spec, frozen=True, array_like=True):
    """One Job that has not ended: what it takes to learn from its end, and what it would have cost at once."""

    uid: str
    policy: str  # uid of its BatchPolicy
    owner: str = ""  # namespace and owner: what its duration is learnt for; empty: nothing that comes again
    running: bool = False  # when last seen
    at_once: float = 0.0  # price of a GPU-hour when it was first seen; 0: not known
    missed: bool = False  # its deadline has passed
    start_s: float = 0.0  # from its last start, at `began_at`, until all its pods were ready; 0: not seen
    began_at: float = 0.0


class PlannedJob(Spec, frozen=True, array_like=True):
    """What was planned for a Job that waits, until it is planned anew. Times are unix seconds; 0: none."""

    uid: str
    why: str  # the code of its reason, and what is put into its words
    pool: str = ""
    starts_at: float = 0.0
    ends_at: float = 0.0
    latest: float = 0.0
    late: bool = False
    price: float = 0.0  # of a GPU-hour when it runs, on average, and if it ran now
    price_now: float = 0.0
    detail: str = ""
    helps: str = ""  # of one that can't end in time: what would help


class OwnerMemory(Spec, frozen=True, array_like=True):
    """What is run again and again: how long the newest runs took (s), the newest last."""

    owner: str
    runs: tuple[float, ...] = ()
    at: float = 0.0  # when the last of them ended


class BatchPolicyMemory(Spec, frozen=True, array_like=True):
    """One BatchPolicy since it was first seen: deadlines that passed, and what was saved against running at once."""

    uid: str
    missed: int = 0
    saved: float = 0.0
    currency: str = ""


class Lending(Spec, frozen=True, array_like=True):
    """GPU-hours of one pool that Jobs and Background services of one namespace held lately (see core.batch.share)."""

    namespace: str
    pool: str
    gpu_hours: float


class BatchMemory(Spec, frozen=True):
    """Of batch Jobs."""

    at: float = 0.0  # when Jobs were last looked at
    jobs: tuple[JobMemory, ...] = ()
    owners: tuple[OwnerMemory, ...] = ()
    policies: tuple[BatchPolicyMemory, ...] = ()
    planned: tuple[PlannedJob, ...] = ()
    planned_at: float = 0.0
    planned_for: int = 0  # a sum over what was planned for: another one is an event
    next_at: float = 0.0  # when the first planned start comes, or a window or a price changes
    free: tuple[tuple[str, int], ...] = ()  # (pool, GPUs that nobody held), the fewest since the plan was made
    back: tuple[tuple[str, str, int], ...] = ()  # (namespace, pool, GPUs that Jobs give back), as last seen
    short: tuple[tuple[str, float], ...] = ()  # CostPolicies for whose sake Jobs were stopped, and when that last was
    lent: tuple[Lending, ...] = ()


class Memory(Spec, frozen=True):
    """All of it. An unknown version is dropped, and the next cycles hold until enough is known again."""

    version: int = MEMORY_VERSION
    started_at: float = 0.0
    services: tuple[ServiceMemory, ...] = ()
    pools: tuple[PoolMemory, ...] = ()
    policies: tuple[PolicyMemory, ...] = ()
    batch: BatchMemory = BatchMemory()
