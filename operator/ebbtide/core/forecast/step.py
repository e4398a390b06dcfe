"""The forecast step: learn from what came, then say what is expected; `outlook` turns it into distributions.

Three horizons are foreseen and scored, each by its own record: a rate window (what runs must carry it), the start-up of
the variant with most replicas plus a cycle (what is started now will), and three times that (what is kept must still be
worth it). Demand is forecast as work: output tokens/s, and prompt tokens/s at the weight that they have in a replica's
time. The mean lengths, which move, turn it into requests later; what comes in requests, prompt and output tokens is
remembered apart, as parts of that work.
"""

import math
from collections.abc import Sequence

import msgspec

from ebbtide.core import priors, turns
from ebbtide.core.demand import windows_are_full
from ebbtide.core.forecast import days, record, scores
from ebbtide.core.forecast.line import append, fit, tokens, trend_window_s
from ebbtide.core.forecast.outlook import Outlook
from ebbtide.core.forecast.spread import FLOOR, LOADS
from ebbtide.core.numeric import clip, significant
from ebbtide.core.startup import estimate_s
from ebbtide.core.work import FULL_BATCH, Cycle, DemandView, Draft, Line, Model, VariantDraft
from ebbtide.model.memory import DemandSample, ForecastMemory, ScoreMemory
from ebbtide.model.plan import Forecast

LEVELS = (3.0, 9.0, 27.0)  # rate windows over which the slow levels are smoothed
PARTS = 3  # requests, prompt and output tokens
HORIZONS = 3
CHANGED = 2.5  # standard deviations by chance: a level that is off by more has changed
NOISE_TAU_S = 7200.0
NOISE_KNOWN_S, NOISE_BELIEVED = 300.0, 0.3  # of a logarithm, before so many seconds were seen
LEAP = 3.0  # standard deviations: what differs by more counts as so much
FAR = 3.0  # horizons ahead at which what is kept must still be worth it
LOADS_TAU_S = 86_400.0
LONGEST_STEP_S = 600.0  # between two cycles: what came during a longer gap nobody knows
STEADY = 0.1  # relative change within a start-up below which demand counts as steady
SCORED = 0.5  # independent predictions, before anything counts as steady
WEIGHT_TAU_S = 86_400.0  # the weight of a prompt token is a unit of all that is remembered: it may move, but not jump
MOST_BY_HOUR = 4.0  # times the level now that yesterday's shape may make of it


def step(draft: Draft, cycle: Cycle) -> None:
    """Learn from what came; once a turn say what is expected, and keep it to be scored."""
    for variant in draft.variants:
        variant.startup_s, variant.startup_measured = estimate_s(
            variant.memory.capacity, draft.state.spec.model_parameters_billion
        )
    memory, horizon_s = draft.memory.forecast, horizon(draft, cycle)
    draft.horizon_s = horizon_s
    view = draft.demand
    fresh = view.quality in ("fresh", "young") and view.lengths_known and windows_are_full(draft, cycle)
    turn = fresh and turns.comes(draft.state.spec.key, memory.turn_at, cycle.now_s, cycle.snapshot.rate_window_s)
    if fresh:
        memory = _scored(_sampled(memory, draft, horizon_s, cycle), draft, horizon_s, cycle)
        if memory.score.claims:
            memory = msgspec.structs.replace(memory, score=_judged(memory.score, view.tokens, horizon_s, cycle))
    if turn:
        memory = _noted(memory, view.tokens, cycle.now_s)
    newest = memory.samples[-1].at if memory.samples else -math.inf
    draft.looked_back = abs(cycle.now_s - newest) <= trend_window_s(horizon_s)
    draft.forecast_memory = memory
    if turn:
        foresee(draft, cycle, keep=True)
    elif draft.looked_back:
        draft.foreseen_by, draft.moving, draft.steady = memory.leader, memory.moving, memory.steady


def foresee(draft: Draft, cycle: Cycle, *, keep: bool = False) -> None:
    """Say what is expected at each horizon; with `keep` it is remembered, and scored when it is due."""
    memory, ahead_s = draft.forecast_memory, _ahead_s(horizon(draft, cycle), cycle)
    window_s = cycle.snapshot.rate_window_s
    # samples from before a night at zero, or before an outage, say nothing about now: what comes now is all there is
    line = Line(draft.demand.tokens, 0.0, 0.0)
    looks_back = draft.looked_back and cycle.parts.forecast
    if looks_back:
        line = fit(memory.samples, ahead_s[1], cycle.now_s, window_s)
    foreseen, tracks = [], []
    for index, (each_s, kept) in enumerate(zip(ahead_s, record.tracks_of(memory, HORIZONS), strict=True)):
        remembered, track = kept, record.open_track(kept)
        said = [line.level] * len(record.NAMES)
        if looks_back:
            said = candidates(memory, line, cycle.now_s, each_s, window_s)
        shares = record.weights(track)
        blended = record.blend(shares, said)
        if keep and record.is_due(remembered, cycle.now_s + each_s, _period_s(each_s, cycle)):
            prediction = record.predict(cycle.now_s + each_s, blended, said)
            remembered = msgspec.structs.replace(remembered, open=remembered.open + prediction)
        tracks.append(remembered)
        if draft.demand.quality == "partial":
            blended = max(blended, draft.demand.tokens)  # what is not seen is not nothing
        foreseen.append((each_s, blended, 0.0 if _may_rest(draft) else track.jumps_seen))
        if draft.looked_back and index == 1:
            draft.foreseen_by = record.NAMES[shares.index(max(shares))] if track.scored > 0.0 else "prior"
            draft.moving = abs(blended - line.level) > STEADY * line.level
            draft.steady = not draft.moving and track.scored >= SCORED
    draft.foreseen = tuple(foreseen)
    if keep:
        draft.forecast_memory = msgspec.structs.replace(
            memory,
            tracks=tuple(tracks),
            leader=draft.foreseen_by,
            moving=draft.moving,
            steady=draft.steady,
            turn_at=cycle.now_s,
        )


def keep_figures(draft: Draft, main: VariantDraft, outlook: Outlook, cycle: Cycle) -> tuple[float, ...]:
    """(seconds ahead, expected, low, high) in requests/s, as status shows them; they are kept, and judged when due."""
    horizon, memory = outlook.main, draft.forecast_memory
    ends = scores.range_of(outlook, memory.score)
    if draft.looked_back and draft.demand.quality in ("fresh", "young"):
        period_s = _period_s(horizon.ahead_s, cycle)
        score = scores.claim(memory.score, horizon, ends, cycle.now_s, period_s)
        if score is not memory.score:
            weight = _prompt_weight(memory.prompt_weight, main.model, draft.demand, period_s)
            if not memory.prompt_weight:
                memory = ForecastMemory()  # what was seen in the first cycle is of another unit
            draft.forecast_memory = msgspec.structs.replace(memory, score=score, prompt_weight=weight)
    low, _, high = (end / draft.demand.length for end in ends)
    expected = horizon.expected
    return round(horizon.ahead_s, 1), round(expected, 3), round(min(expected, low), 3), round(max(expected, high), 3)


def shown(draft: Draft) -> Forecast | None:
    """The forecast that was made when replicas were last weighed, in its parts and with its score."""
    made, memory, view = draft.weighed, draft.forecast_memory, draft.demand
    if not draft.foreseen_by or made.horizon_s <= 0.0:
        return None
    requests, prompted, generated = 1.0, view.input_tokens, view.output_tokens
    scale = made.expected
    if len(memory.parts) == PARTS and memory.levels and memory.levels[0] > FLOOR:
        requests, prompted, generated = memory.parts  # of the work of late
        scale *= view.length / memory.levels[0]
    return Forecast(
        made.horizon_s,
        made.expected,
        made.low,
        made.high,
        draft.foreseen_by,
        round(scale * requests, 3),
        round(scale * prompted, 1),
        round(scale * generated, 1),
        scores.of(memory.score),
    )


def _prompt_weight(known: float, model: Model | None, view: DemandView, elapsed_s: float) -> float:
    """How many output tokens take as much of a replica's time as one prompt token, at most 1; 0: not known.

    What counts is what a token adds to everybody's iteration: an output token d x cache, a prompt token its part of the
    prefill; the iteration's own a is there at any load. 8B on an H100: 0.045 and 0.0225 ms, so 0.5. Where no more
    requests find room in the batch, an output token takes its part a / N of that too. One that is put out goes through
    the model as one of a prompt does, so it takes no less, however small its cache.
    """
    if model is None:
        return known
    cache, _ = priors.shares(view.input_tokens, view.output_tokens)
    prompt_s = model.line.prefill_s * priors.REFERENCE_OUTPUT / priors.REFERENCE_INPUT
    room_s = model.line.a_s / model.limit if model.bound_by in FULL_BATCH else 0.0
    now = min(1.0, prompt_s / (model.line.decode_s * cache + room_s))
    return round(known + (now - known) * min(1.0, elapsed_s / WEIGHT_TAU_S) if known else now, 5)


def _judged(memory: ScoreMemory, load: float, horizon_s: float, cycle: Cycle) -> ScoreMemory:
    period_s = _period_s(horizon_s, cycle)
    return scores.judge(
        memory, load, cycle.now_s, horizon_s=horizon_s, period_s=period_s, cycle_s=cycle.snapshot.cycle_s
    )


def _ahead_s(horizon_s: float, cycle: Cycle) -> tuple[float, float, float]:
    return min(cycle.snapshot.rate_window_s, horizon_s), horizon_s, FAR * horizon_s


def _period_s(ahead_s: float, cycle: Cycle) -> float:
    """Between two predictions: what comes within a rate window says little new."""
    return max(ahead_s / record.PER_HORIZON, cycle.snapshot.rate_window_s, cycle.snapshot.cycle_s)


def _scored(memory: ForecastMemory, draft: Draft, horizon_s: float, cycle: Cycle) -> ForecastMemory:
    """With the predictions that are due compared to what came."""
    kept, ahead_s = record.tracks_of(memory, HORIZONS), _ahead_s(horizon_s, cycle)
    if not any(record.any_due(track, cycle.now_s, each_s) for track, each_s in zip(kept, ahead_s, strict=True)):
        return memory
    loads = LOADS.unpack(memory.loads)
    tracks = []
    for track, each_s in zip(kept, ahead_s, strict=True):
        if not record.any_due(track, cycle.now_s, each_s):
            tracks.append(track)
            continue
        opened = record.open_track(track)
        ripe, still_open = record.due(track, cycle.now_s, each_s, cycle.snapshot.cycle_s)
        for row in ripe:
            record.score(opened, row, draft.demand.tokens, loads, each_s, _period_s(each_s, cycle))
        tracks.append(record.close_track(opened, still_open))
    return msgspec.structs.replace(memory, tracks=tuple(tracks))


def _may_rest(draft: Draft) -> bool:
    """It is idle and may go to zero: the gateway holds what comes next, so nothing is kept for it."""
    return draft.demand.zero and draft.state.spec.scaling.scale_to_zero is not None


def horizon(draft: Draft, cycle: Cycle) -> float:
    """Seconds to look ahead: start-up of the variant with most replicas, a cycle, the metrics' own lag."""
    main = max(draft.variants, key=lambda variant: (variant.observed, -variant.startup_s, -variant.index), default=None)
    if main is None:
        return cycle.reaction_s
    return main.startup_s + cycle.reaction_s


def candidates(memory: ForecastMemory, line: Line, now_s: float, ahead_s: float, window_s: float) -> list[float]:
    """What each candidate of `record.NAMES` expects `ahead_s` from now, tokens/s."""
    level, trend, growth = line.candidates(ahead_s)
    slow = memory.levels if len(memory.levels) == len(LEVELS) else (level,) * len(LEVELS)
    lag_s = LEVELS[0] * window_s  # the level that the shape is laid on is of so long ago on average
    shapes = (_as_before(memory.days, now_s - ago_s, lag_s, ahead_s) for ago_s in (days.DAY_S, 7 * days.DAY_S))
    since = _since_a_change(memory, slow)
    return [level, *slow, since, trend, growth, *(slow[0] * shape for shape in shapes)]


def _since_a_change(memory: ForecastMemory, slow: Sequence[float]) -> float:
    """The slowest of the levels that differs from no quicker one by more than noise: the mean since the last change.

    A window's load differs by 10 % by chance, a level of 3 windows by 4 %. At 100 for long and now 140, that of 27
    windows is left at once, and the mean of 3 windows, 119, as well: what counts is the newest.
    Source: Lepski's choice of a bandwidth (1991), with three of them.
    """
    newest = tokens(memory.samples[-1]) if memory.samples else slow[0]
    noise = math.sqrt(memory.noise) if memory.noise_s > NOISE_KNOWN_S else NOISE_BELIEVED
    levels = [newest, *slow]
    logs = [math.log(level + FLOOR) for level in levels]
    # smoothed over k windows a level is the mean of 2 k of them
    by_chance = [CHANGED * noise / math.sqrt(2.0 * windows) for windows in (0.5, *LEVELS)]
    return next(
        level
        for k, level in reversed(list(enumerate(levels)))
        if all(abs(logs[k] - logs[j]) <= by_chance[j] for j in range(k))
    )


def _as_before(packed: bytes, moment_s: float, lag_s: float, ahead_s: float) -> float:
    """How many times what there was `lag_s` before that moment came `ahead_s` after it; 1 where nobody watched."""
    then, later = days.at(packed, moment_s - lag_s), days.at(packed, moment_s + ahead_s)
    if then is None or later is None:
        return 1.0
    return clip((later + FLOOR) / (then + FLOOR), 1.0 / MOST_BY_HOUR, MOST_BY_HOUR)


def _sampled(memory: ForecastMemory, draft: Draft, horizon_s: float, cycle: Cycle) -> ForecastMemory:
    """The present demand goes into the line's samples, the levels and the day's shape."""
    view, now_s = draft.demand, cycle.now_s
    gap_s = now_s - memory.samples[-1].at if memory.samples else cycle.snapshot.cycle_s
    step_s = clip(gap_s, 0.0, LONGEST_STEP_S)
    sample = DemandSample(round(now_s, 1), significant(view.work), round(view.length, 1))
    shares = [1.0 - math.exp(-step_s / (windows * cycle.snapshot.rate_window_s)) for windows in LEVELS]
    packed, slot, tokens, seconds = _day(memory, view.tokens, now_s, step_s)
    return msgspec.structs.replace(
        memory,
        samples=append(memory.samples, sample, horizon_s),
        levels=_smoothed(memory.levels, (view.tokens,) * len(LEVELS), shares),
        parts=_smoothed(memory.parts, (view.rate, view.prompted, view.generated), shares[:1] * PARTS),
        days=packed,
        slot=slot,
        slot_tokens=round(tokens, 1),
        slot_s=round(seconds, 1),
    )


def _noted(memory: ForecastMemory, load: float, now_s: float) -> ForecastMemory:
    """The present demand goes into the loads seen, for all the time since the last turn."""
    step_s = clip(now_s - memory.turn_at, 0.0, LONGEST_STEP_S) if memory.turn_at else 1.0
    keep = math.exp(-step_s / LOADS_TAU_S)
    loads = [weight * keep for weight in LOADS.unpack(memory.loads)]
    LOADS.add(loads, math.log(load + FLOOR), step_s)
    noise, noise_s = memory.noise, memory.noise_s * math.exp(-step_s / NOISE_TAU_S)
    if memory.turn_at:
        # two windows after another differ by the noise of both, and now and then by a leap
        apart = 0.5 * math.log((load + FLOOR) / (memory.turn_load + FLOOR)) ** 2
        noise_s += step_s
        noise += step_s / noise_s * (min(apart, LEAP**2 * noise if noise_s > NOISE_KNOWN_S else apart) - noise)
    return msgspec.structs.replace(
        memory,
        loads=LOADS.pack(loads),
        turn_load=significant(load),
        noise=float(f"{noise:.4g}"),
        noise_s=round(noise_s, 1),
    )


def _smoothed(levels: Sequence[float], now: Sequence[float], shares: Sequence[float]) -> tuple[float, ...]:
    """Each moved by its share of the way to what is now."""
    if len(levels) != len(now):
        return tuple(map(significant, now))
    return tuple([significant(old + share * (new - old)) for old, new, share in zip(levels, now, shares, strict=True)])


def _day(memory: ForecastMemory, rate: float, now_s: float, step_s: float) -> tuple[bytes, int, float, float]:
    """(the days, the slot that runs, its tokens, its seconds); a slot counts where half of it was watched."""
    slot = int(now_s // days.SLOT_S)
    packed, tokens, seconds = memory.days, memory.slot_tokens, memory.slot_s
    if slot != memory.slot:
        if memory.slot and packed:
            packed = days.forget(packed, memory.slot, slot + 1)
        if seconds >= 0.5 * days.SLOT_S:
            packed = days.put(packed, memory.slot, tokens / seconds)
        tokens = seconds = 0.0
    return packed, slot, tokens + rate * step_s, seconds + step_s
