"""GPUs that Interactive services will hold, by pool and slot: what is expected, and what is rarely exceeded.

    load(t)     typical(t) x (now / typical(now)) ^ exp(-ahead / 6 h)
    typical(t)  the mean (of logarithms) of that moment a day before and a week before, as far as they were watched
    range       from the forecast's own at its horizon, growing as a random walk to what days differ from each other
    replicas    load / what one carries, times what is wanted now beside what the load now calls for by itself

Services err together where a holiday or an outage moves them all, else apart: ranges are added up with a correlation of
a half. Worked example: 4 services that need 4 GPUs each and rarely more than 6 need 16 and rarely more than 22.3.
What nobody may move stays as it is. Must never say less than what is wanted just now within a start-up.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ebbtide.core.batch.grid import DAY_S, Grid
from ebbtide.core.forecast import days
from ebbtide.core.guardrails import bounds, pause
from ebbtide.core.guardrails.verdict import dearness
from ebbtide.core.numeric import clip
from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.spec import PauseDirection

RARELY = 2.33  # deviations: exceeded in one of a hundred cases
TOGETHER = 0.5  # correlation of what services differ by from what is expected
LEVEL_TAU_S = 6 * 3600.0  # for how long today goes on to differ from other days by as much as now
MOST_SHIFT = math.log(4.0)
NEAR_SPREAD = 0.25  # of a logarithm, where the forecast says none
DAY_SPREAD, LEAST_SPREAD, MOST_SPREAD = 0.5, 0.1, 1.0  # from day to day: before enough was seen, and its bounds
BLIND_SPREAD = 0.7  # of a service without a day to look back on, some hours ahead
FEWEST_PAIRS = 24
MOST_BESIDE = 2.0  # times what the load by itself calls for, that is wanted for the tail of the batch
NEAR_S = 900.0  # a replica that is there now is not gone before
MANY = 500  # services, above which fewer moments are looked at


@dataclass(slots=True)
class Need:
    """GPUs of one pool by slot."""

    expected: list[float]
    upper: list[float]
    soon: float = 0.0  # what services may come to hold before a Job that starts now could be gone again


@dataclass(slots=True)
class _Path:
    """Loads of one service at moments, as logarithms of tokens/s, with their deviations."""

    middle: list[float]
    spread: list[float]


def needs(cycle: Cycle, grid: Grid, names: Iterable[str], soon_s: float = 0.0) -> dict[str, Need]:
    """Of each of these pools. `soon_s`: for how long what starts now must at least be left alone."""
    wanted = set(names)
    drafts = [
        d
        for d in cycle.drafts
        if not d.state.spec.background
        and any(v.pool is not None and v.pool.name in wanted and v.gpus for v in d.variants)
    ]
    stride = 1 + len(drafts) // MANY
    chosen = sorted({*range(0, grid.slots + 1, stride), grid.slots})
    moments = [*(grid.edges[index] for index in chosen), grid.now_s + soon_s]
    sums = {name: ([0.0] * len(moments), [0.0] * len(moments), [0.0] * len(moments)) for name in sorted(wanted)}
    for draft in drafts:
        for name, expected, upper in _of_service(draft, moments, cycle):
            if name in sums:
                total, differs, squares = sums[name]
                for index, (low, high) in enumerate(zip(expected, upper, strict=True)):
                    total[index] += low
                    differs[index] += high - low
                    squares[index] += (high - low) * (high - low)
    return {name: _by_slot(grid, chosen, *three) for name, three in sums.items()}


def _by_slot(grid: Grid, chosen: list[int], total: list[float], differs: list[float], squares: list[float]) -> Need:
    """The higher of a slot's two ends, where moments between were left out that of the nearest around it."""
    upper = [
        low + math.sqrt((1.0 - TOGETHER) * square + TOGETHER * together * together)
        for low, together, square in zip(total, differs, squares, strict=True)
    ]
    need, at = Need([], [], upper[-1]), 0
    for slot in range(grid.slots):
        while at + 2 < len(chosen) and chosen[at + 1] <= slot:
            at += 1
        need.expected.append(max(total[at], total[at + 1]))
        need.upper.append(max(upper[at], upper[at + 1]))
    return need


def _of_service(draft: Draft, moments: list[float], cycle: Cycle) -> Iterable[tuple[str, list[float], list[float]]]:
    """(pool, expected GPUs, upper GPUs) at the moments, of each of its variants."""
    holding = [_present(variant) for variant in draft.variants]
    path = None if _stands(draft, cycle) else _path(draft, moments, cycle)
    unit = _unit(draft)
    if path is None or unit <= 0.0:
        for variant, count in zip(draft.variants, holding, strict=True):
            if variant.pool is not None and variant.gpus and count:
                flat = [float(count * variant.gpus)] * len(moments)
                yield variant.pool.name, flat, flat
        return
    now = sum(variant.count for variant in draft.variants)
    beside = _beside(draft, unit, now)
    least, most = bounds.minimum(draft), draft.state.spec.scaling.max_replicas
    near_s = cycle.now_s + max(NEAR_S, draft.horizon_s)
    counts: tuple[list[list[float]], list[list[float]]] = ([], [])
    for at_s, middle, spread in zip(moments, path.middle, path.spread, strict=True):
        floor = max(least, now) if at_s <= near_s else least
        for found, load in zip(counts, (middle, middle + RARELY * spread), strict=True):
            replicas = clip(math.ceil(math.exp(load) * beside / unit - 0.02), floor, max(floor, most))
            found.append(_spread_over(draft, replicas, now))
    for variant in draft.variants:
        if variant.pool is not None and variant.gpus:
            expected, upper = ([each[variant.index] * variant.gpus for each in found] for found in counts)
            yield variant.pool.name, expected, upper


def _present(variant: VariantDraft) -> int:
    return max(variant.count, variant.observed)


def _stands(draft: Draft, cycle: Cycle) -> bool:
    """Nobody moves it: what is there stays."""
    halt = pause.active(draft, cycle.now_s)
    return (
        draft.failure is not None
        or draft.no_write is not None
        or (halt is not None and halt.direction is PauseDirection.ALL)
    )


def _unit(draft: Draft) -> float:
    """Tokens/s that one of its replicas carries, on average over those that are planned."""
    length = draft.demand.length
    planned = [(variant.count, variant.rate) for variant in draft.variants if variant.count and variant.rate > 0.0]
    if planned:
        return sum(count * rate for count, rate in planned) / sum(count for count, _ in planned) * length
    return max((variant.rate for variant in draft.variants), default=0.0) * length


def _beside(draft: Draft, unit: float, now: int) -> float:
    """How much more is wanted than what the load by itself calls for: 5 replicas for a load of 4.2 are 1.19."""
    load = max(draft.demand.tokens, draft.weighed.expected * draft.demand.length) / unit
    return clip((draft.weighed.wanted or now) / max(0.5, load), 1.0, MOST_BESIDE)


def _spread_over(draft: Draft, replicas: float, now: int) -> list[float]:
    """The replicas by variant: what is more on the cheapest that may grow, what is fewer from the dearest.

    Of 16 reserved ones and 6 on demand, 13 are 13 reserved ones at night.
    """
    found = [float(variant.count) for variant in draft.variants]
    more = replicas - now
    for variant in sorted(draft.variants, key=dearness, reverse=more < 0):
        if more < 0:
            fewer = clip(found[variant.index] - variant.spec.min_replicas, 0.0, -more)
            found[variant.index] -= fewer
            more += fewer
        elif not variant.rests and variant.fault is None and variant.pool is not None:
            extra = clip(variant.spec.max_replicas - found[variant.index], 0.0, more)
            found[variant.index] += extra
            more -= extra
    return found


def _path(draft: Draft, moments: list[float], cycle: Cycle) -> _Path | None:
    """None where nothing is known of its load."""
    view, memory, now_s = draft.demand, draft.forecast_memory, cycle.now_s
    if not view.known or view.length <= 0.0:
        return None
    level = math.log(max(1.0, memory.levels[0] if memory.levels else view.tokens))
    packed = memory.days
    near = _near_spread(draft)
    horizon_s = max(60.0, draft.weighed.horizon_s or draft.horizon_s)
    then = _typical(packed, now_s, now_s)
    apart = _day_spread(packed)
    shift = 0.0 if then is None else clip(level - then, -MOST_SHIFT, MOST_SHIFT)
    path = _Path([], [])
    for at_s in moments:
        ahead_s = at_s - now_s
        typical = None if then is None else _typical(packed, at_s, now_s)
        # of the forecast's own horizon, and of any part of it: 10 % within 450 s are 3 % within 40 s
        walked = near * math.sqrt(ahead_s / horizon_s)
        if typical is None:
            path.middle.append(level)
            path.spread.append(min(walked, max(near, BLIND_SPREAD)))
        else:
            path.middle.append(typical + shift * math.exp(-ahead_s / LEVEL_TAU_S))
            path.spread.append(min(walked, max(near, apart)))
    return path


def _near_spread(draft: Draft) -> float:
    made = draft.weighed
    if made.expected <= 0.0 or made.high <= made.expected:
        return NEAR_SPREAD
    return clip(math.log(made.high / made.expected) / 1.96, 0.02, MOST_SPREAD)


def _typical(packed: bytes, at_s: float, now_s: float) -> float | None:
    """The logarithm of tokens/s at that time of day; None where no such day was watched."""
    # of the half hour that runs now, the ring still has what was there eight days ago
    nearest = max(1, math.ceil((at_s - now_s + 2 * days.SLOT_S) / DAY_S))
    found = [
        math.log(max(1.0, load))
        for back in {nearest, max(nearest, 7)}
        if back < days.DAYS and (load := days.at(packed, at_s - back * DAY_S)) is not None
    ]
    if not found and nearest < days.DAYS - 1:
        load = days.at(packed, at_s - (nearest + 1) * DAY_S)
        found = [] if load is None else [math.log(max(1.0, load))]
    return sum(found) / len(found) if found else None


def _day_spread(packed: bytes) -> float:
    """By how much a day differs from the one before, as the deviation of a logarithm."""
    if len(packed) != days.SIZE:
        return DAY_SPREAD
    later = packed[days.SLOTS :] + packed[: days.SLOTS]
    pairs = [days.STEP * (a - b) for a, b in zip(packed[::3], later[::3], strict=True) if a and b]
    if len(pairs) < FEWEST_PAIRS:
        return DAY_SPREAD
    return clip(math.sqrt(sum(each * each for each in pairs) / len(pairs)), LEAST_SPREAD, MOST_SPREAD)
