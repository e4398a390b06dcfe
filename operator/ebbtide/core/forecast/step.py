"""The forecast step: learn from what came, then say what is expected; `outlook` turns it into distributions.

Three horizons are foreseen and scored, each by its own record: a rate window (what runs must carry it), the start-up of
the variant with most replicas plus a cycle (what is started now will), and three times that (what is kept must still be
worth it). Demand is forecast as work, in output tokens/s: the mean length, which moves, turns it into requests later.
"""

import math
from collections.abc import Sequence

import msgspec

from ebbtide.core import turns
from ebbtide.core.demand import windows_are_full
from ebbtide.core.forecast import days, record
from ebbtide.core.forecast.line import append, fit, trend_window_s
from ebbtide.core.forecast.spread import FLOOR, LOADS
from ebbtide.core.numeric import clip, significant
from ebbtide.core.startup import estimate_s
from ebbtide.core.work import Cycle, Draft, Line
from ebbtide.model.memory import DemandSample, ForecastMemory

LEVELS = (3.0, 9.0, 27.0)  # rate windows over which the slow levels are smoothed
HORIZONS = 3
FAR = 3.0  # horizons ahead at which what is kept must still be worth it
LOADS_TAU_S = 86_400.0
LONGEST_STEP_S = 600.0  # between two cycles: what came during a longer gap nobody knows
STEADY = 0.1  # relative change within a start-up below which demand counts as steady
SCORED = 0.5  # independent predictions, before anything counts as steady
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
    # samples from before a night at zero, or before an outage, say nothing about now: what comes now is all there is
    line = Line(draft.demand.tokens, 0.0, 0.0)
    looks_back = draft.looked_back and cycle.parts.forecast
    if looks_back:
        line = fit(memory.samples, ahead_s[1], cycle.now_s, cycle.snapshot.rate_window_s)
    foreseen, tracks = [], []
    for index, (each_s, kept) in enumerate(zip(ahead_s, record.tracks_of(memory, HORIZONS), strict=True)):
        remembered, track = kept, record.open_track(kept)
        said = candidates(memory, line, cycle.now_s, each_s) if looks_back else [line.level] * len(record.NAMES)
        shares = record.weights(track)
        blended = record.blend(shares, said)
        if keep and record.is_due(remembered, cycle.now_s + each_s, _period_s(each_s, cycle)):
            prediction = record.predict(cycle.now_s + each_s, blended, said)
            remembered = msgspec.structs.replace(remembered, open=remembered.open + prediction)
        tracks.append(remembered)
        if draft.demand.quality == "partial":
            blended = max(blended, draft.demand.tokens)  # what is not seen is not nothing
        foreseen.append((each_s, blended, 0.0 if _may_rest(draft) else track.jumps))
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


def candidates(memory: ForecastMemory, line: Line, now_s: float, ahead_s: float) -> list[float]:
    """What each candidate of `record.NAMES` expects `ahead_s` from now, tokens/s."""
    level, trend, growth = line.candidates(ahead_s)
    slow = memory.levels if len(memory.levels) == len(LEVELS) else (level,) * len(LEVELS)
    shapes = (_as_before(memory.days, now_s, ahead_s, ago) for ago in (days.DAY_S, 7 * days.DAY_S))
    return [level, *slow, trend, growth, *(slow[1] * shape for shape in shapes)]


def _as_before(packed: bytes, now_s: float, ahead_s: float, ago_s: float) -> float:
    """How many times the demand of that day's same moment came `ahead_s` later; 1 where nobody watched."""
    then, later = days.at(packed, now_s - ago_s), days.at(packed, now_s + ahead_s - ago_s)
    if then is None or later is None:
        return 1.0
    return clip((later + FLOOR) / (then + FLOOR), 1.0 / MOST_BY_HOUR, MOST_BY_HOUR)


def _sampled(memory: ForecastMemory, draft: Draft, horizon_s: float, cycle: Cycle) -> ForecastMemory:
    """The present demand goes into the line's samples, the levels and the day's shape."""
    view, now_s = draft.demand, cycle.now_s
    gap_s = now_s - memory.samples[-1].at if memory.samples else cycle.snapshot.cycle_s
    step_s = clip(gap_s, 0.0, LONGEST_STEP_S)
    sample = DemandSample(
        round(now_s, 1), significant(view.work), round(view.input_tokens, 1), round(view.output_tokens, 1)
    )
    packed, slot, tokens, seconds = _day(memory, view.tokens, now_s, step_s)
    return msgspec.structs.replace(
        memory,
        samples=append(memory.samples, sample, horizon_s),
        levels=_smoothed(memory.levels, view.tokens, step_s, cycle.snapshot.rate_window_s),
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
    return msgspec.structs.replace(memory, loads=LOADS.pack(loads))


def _smoothed(levels: Sequence[float], now: float, step_s: float, window_s: float) -> tuple[float, ...]:
    if len(levels) != len(LEVELS):
        return (significant(now),) * len(LEVELS)
    return tuple(
        significant(level + (1.0 - math.exp(-step_s / (windows * window_s))) * (now - level))
        for level, windows in zip(levels, LEVELS, strict=True)
    )


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
