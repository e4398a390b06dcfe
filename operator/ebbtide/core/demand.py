"""What a service is asked for now: arrivals, token lengths and backlog, from the pods that were read and the gateway.

Must never turn a missing value into zero: a ready pod without series makes the demand partial, and partial demand may
raise but never lower. Arrivals (not completions) are counted, so an overloaded fleet is not taken for a busy one; what
engines refuse at the door is no arrival to them, and counts too.
"""

from ebbtide.core import departed, fullness, silence
from ebbtide.core.work import Cycle, DemandView, Draft, VariantDraft
from ebbtide.model.snapshot import EngineReadings, PodPhase, PodState, Quality, Reading

# A pod that became ready this recently need not have two scrapes yet.
GRACE_S = 45.0
# Token lengths are smoothed over this time, for they are the unit of work: at 5 requests/s that is 3,000 requests.
LENGTH_TAU_S = 600.0
MATURE_SHARE = 0.5  # of arrivals: with fewer completions most answers are still to come, and nobody knows how long
FULL_SHARE = 0.05  # of those in the batch: with more waiting nothing is added to it
KEPT_UP = 0.5  # of arrivals that end within the window: with fewer, what is generated says less than what comes
FEWEST_REQUESTS = 0.5  # of a window: below one request a rate is rounding, and tokens divided by it are no length
LONGEST_TOKENS = 1e6  # of a prompt or an answer; what is remembered beyond it was never measured
DEFAULT_INPUT_TOKENS = 1024.0
DEFAULT_OUTPUT_TOKENS = 256.0

_SERVING = (PodPhase.READY, PodPhase.INTERRUPTED)
_STILL_COUNTED = (PodPhase.READY, PodPhase.INTERRUPTED, PodPhase.NOT_READY, PodPhase.TERMINATING)


def step(draft: Draft, cycle: Cycle) -> None:
    """Measure the service's demand."""
    draft.demand = measure(draft, cycle)
    fullness.observe(draft, cycle)


def _of_departed(draft: Draft, sums: "_Sums", cycle: Cycle) -> float:
    """Requests/s that pods took within the window which are gone now; what was read of the others is remembered."""
    now_s, window_s = cycle.now_s, cycle.snapshot.rate_window_s
    if cycle.unwatched or sums.silent:
        return 0.0  # a broken watch shows fewer pods than there are; one that is not read stands for what is not seen
    remembered = draft.memory.arrivals_by_pod
    draft.arrivals_by_pod = departed.remember(remembered, sums.read, now_s, window_s)
    present = [pod.uid for variant in draft.variants for pod in variant.state.pods]
    return departed.count(remembered, present, now_s, window_s)


class _Sums:
    """Running sums over the pods of one service."""

    __slots__ = (
        "finished",
        "generated",
        "hung",
        "oldest",
        "pods",
        "prompt",
        "rate",
        "read",
        "refused",
        "running",
        "silent",
        "stale",
        "waiting",
        "young",
    )

    def __init__(self) -> None:
        self.rate = self.refused = self.finished = self.prompt = self.generated = self.running = self.waiting = 0.0
        self.pods = self.silent = self.hung = self.stale = self.young = 0
        self.oldest: float | None = None
        self.read: dict[str, float] = {}  # requests/s by pod

    def add(self, engine: EngineReadings, arrivals: float) -> None:
        """Count one pod that was read."""
        self.rate += max(0.0, arrivals)
        self.refused += fullness.refusals(engine)
        self.finished += engine.finished.fresh or 0.0
        self.prompt += engine.prompt_tokens.fresh or 0.0
        self.generated += engine.generation_tokens.fresh or 0.0
        self.running += engine.running.fresh or 0.0
        self.waiting += engine.waiting.fresh or 0.0


def measure(draft: Draft, cycle: Cycle) -> DemandView:
    """The service's demand now; lengths are smoothed with the memory's."""
    sums = _Sums()
    for variant in draft.variants:
        for pod in variant.state.pods:
            if pod.phase in _STILL_COUNTED:
                _add_pod(sums, variant, pod, cycle.now_s)
    view = DemandView(_quality(sums, cycle), pods_read=sums.pods, silent=sums.silent, age_s=sums.oldest)
    queue = draft.state.gateway_queue
    view.queue, view.queue_known = max(0.0, queue.fresh or 0.0), queue.fresh is not None
    scale = (sums.pods + sums.silent) / sums.pods if sums.pods else 1.0  # silent pods get what the others get
    admitted = sums.rate * scale + _of_departed(draft, sums, cycle)
    if sums.hung and draft.memory.forecast.samples:
        # What a hung pod was sent may be lost, or sent to the others: together it is no more than all had before.
        known = draft.memory.forecast.samples[-1].requests_per_second
        least = sums.rate * (sums.pods + sums.silent - sums.hung) / max(1, sums.pods)
        admitted = max(least, min(admitted, known))
    view.refused, view.counted = sums.refused * scale, fullness.counted(admitted, sums.refused * scale)
    view.rate = admitted + view.counted
    view.running, view.waiting = sums.running * scale, sums.waiting * scale
    view.prompted, view.generated = sums.prompt * scale, sums.generated * scale
    view.prompt_weight = draft.memory.forecast.prompt_weight
    _lengths(view, draft, sums, cycle)
    view.work = _work(view, sums, admitted, cycle.now_s)
    return view


def _work(view: DemandView, sums: _Sums, admitted: float, now_s: float) -> float:
    """Requests/s of the mean length that make as much work as there is, in prompt and output tokens.

    Many short answers come in bursts, few long ones in lulls: on real conversations tokens a minute vary by 7 % where
    requests a minute vary by 10 to 16 %, and it is tokens that replicas are busy with; prompts of 2,000 tokens and
    answers of 30 are nearly all prefill. An answer in the batch is half done on average: while more come than end, what
    is generated is of that many more; where far more come or wait, arrivals.
    """
    if sums.hung or not view.lengths_known or sums.generated <= 0.0 or sums.rate <= 0.0:
        return view.rate
    length = sums.generated / (0.5 * (sums.finished + sums.rate)) / view.output_tokens
    if sums.prompt > 0.0:
        prompts = sums.prompt / (sums.rate * view.input_tokens)
        length = prompts + (length - prompts) * view.output_tokens / view.length
    work = admitted * length + view.counted
    lags = sums.finished < KEPT_UP * sums.rate or view.queued_at == round(now_s, 1)
    return max(work, view.rate) if lags else work


def _add_pod(sums: _Sums, variant: VariantDraft, pod: PodState, now_s: float) -> None:
    if not pod.serves:
        return  # its leader's series are the whole group's
    arrivals = pod_arrivals(pod.engine)
    serving = pod.phase in _SERVING
    if arrivals is not None and arrivals.fresh is not None and pod.engine is not None:
        sums.pods += serving
        sums.add(pod.engine, arrivals.fresh)
        sums.read[pod.uid] = max(0.0, arrivals.fresh)
    elif not serving:
        return  # on its way out: what it still did is not missed
    elif (pod.ready_at is not None and now_s - pod.ready_at < GRACE_S) or silence.loads(variant, pod, now_s):
        sums.young += 1
    else:
        sums.silent += 1
        sums.hung += pod.name in variant.hanging
        if arrivals is not None and arrivals.quality is Quality.STALE:
            sums.stale += 1
            sums.oldest = max(sums.oldest or 0.0, arrivals.age_s or 0.0)


def pod_arrivals(engine: EngineReadings | None) -> Reading | None:
    """The pod's arrival rate; completions where the engine has no arrivals; None without any series."""
    if engine is None:
        return None
    return engine.finished if engine.arrivals.quality is Quality.NOT_APPLICABLE else engine.arrivals


def _quality(sums: _Sums, cycle: Cycle) -> str:
    if sums.pods and cycle.unwatched:
        return "partial"  # two of six pods may be all that a broken watch shows
    if sums.pods and not sums.silent:
        return "young" if sums.young else "fresh"
    if sums.pods:
        return "partial"
    if sums.silent:
        return "stale" if sums.stale else "missing"
    return "young" if sums.young else "none"


def _lengths(view: DemandView, draft: Draft, sums: _Sums, cycle: Cycle) -> None:
    """Mean tokens a request, smoothed: a minute's mean of output lengths varies by a quarter without any meaning."""
    memory = draft.memory
    view.input_tokens = _remembered(memory.input_tokens, DEFAULT_INPUT_TOKENS)
    view.output_tokens = _remembered(memory.output_tokens, DEFAULT_OUTPUT_TOKENS)
    full = sums.waiting > FULL_SHARE * sums.running + 1.0
    view.lengths_s, view.queued_at = memory.lengths_s, round(cycle.now_s, 1) if full else memory.queued_at
    # An engine that counts no tokens is given two windows, then the defaults hold.
    view.lengths_known = memory.input_tokens > 0.0 or draft.watched_s >= 2.0 * cycle.snapshot.rate_window_s
    if (
        cycle.unwatched
        or sums.rate <= 0.0
        or sums.prompt <= 0.0
        or sums.generated <= 0.0
        or not windows_are_full(draft, cycle)
    ):
        return
    if not full and view.queued_at is not None and cycle.now_s - view.queued_at < cycle.snapshot.rate_window_s:
        return  # part of what was begun within the window came before it
    # Into a full batch as many go as leave it, from the queue, however many arrive: 10/s while it drains and 1/s comes.
    admitted = sums.finished if full else sums.rate
    if admitted * cycle.snapshot.rate_window_s < FEWEST_REQUESTS:
        return
    turned_over = full and sums.finished * cycle.snapshot.rate_window_s >= max(1.0, sums.running)
    if sums.finished < MATURE_SHARE * sums.rate and not turned_over:
        # Tokens belong to answers that have not ended: what was generated for each of them is the least they have.
        view.output_tokens = max(view.output_tokens, sums.generated / sums.rate)
        return
    # A plain mean of what was seen at first, then a window of LENGTH_TAU_S that moves on.
    view.lengths_s = memory.lengths_s + cycle.snapshot.cycle_s
    weight = cycle.snapshot.cycle_s / min(view.lengths_s, max(LENGTH_TAU_S, cycle.snapshot.cycle_s))
    # An answer in the batch is half done on average. 9 requests/s come and 6.6 end while 1500 tokens/s are generated:
    # 2.4 more are in the batch each second, so 192 tokens an answer; if they wait before a full batch, 227.
    answers = 0.5 * (sums.finished + admitted)
    view.input_tokens += weight * (min(LONGEST_TOKENS, sums.prompt / admitted) - view.input_tokens)
    view.output_tokens += weight * (min(LONGEST_TOKENS, sums.generated / answers) - view.output_tokens)
    view.output_tokens = max(1.0, view.output_tokens)
    view.lengths_known = True


def _remembered(tokens: float, default: float) -> float:
    return tokens if 0.0 < tokens <= LONGEST_TOKENS else default


def windows_are_full(draft: Draft, cycle: Cycle) -> bool:
    """Rates of a fleet that just started fill up over a window: that rise is no trend."""
    since = cycle.now_s - cycle.snapshot.rate_window_s
    return any(
        pod.ready_at is None or pod.ready_at <= since
        for variant in draft.variants
        for pod in variant.state.pods
        if pod.phase is PodPhase.READY
    )
