"""A plan that knows chat's replicas and what each Job takes: when each runs and on which pool, by slots of 15 minutes.

Two things are made of it. The bound is a linear programme in which a Job may run in part of a slot and of its pods, for
a start that is paid once: no plan that keeps the deadlines is cheaper. The schedule is whole: Jobs are placed one after
the other, each at the cheapest slots beside all others, again and again until nobody gains; it is played like any other
policy, so that evictions, start-ups and nodes that stay a while cost what they cost. Of a few schedules, which stop
Jobs readily or never, the one that turned out best stands: who knows the future knows that too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import highspy

from ebbtide.bench.batch.load import BatchJob, Stage
from ebbtide.bench.batch.scenario import HOUR_S, MINUTE_S, ON_DEMAND, RESERVED
from ebbtide.bench.batch.world import Lived
from ebbtide.errors import EbbtideError

SLOT_S = 900
ROUNDS = 8
AGAIN = (1.0, 5.0, 1000.0)  # schedules that are tried: a new start counts so many times
MARGIN_S = 600  # before a deadline, of what is played: chat may evict
_MINUTES = SLOT_S // MINUTE_S
_OFF, _RESERVED, _ON_DEMAND = 0, 1, 2
_TIE = 1e-6  # USD a slot: of equals the earlier


@dataclass
class Slots:
    """By slot: GPUs that idle without batch on both pools (the least and the mean of its minutes), the price."""

    reserved: list[int] = field(default_factory=list)
    on_demand: list[int] = field(default_factory=list)
    mean: list[tuple[float, float]] = field(default_factory=list)
    price: list[float] = field(default_factory=list)
    held: list[int] = field(default_factory=list)  # by chat, on demand


def slots(stage: Stage, free: Lived) -> Slots:
    """Of the run without batch."""
    found, prices = Slots(), stage.prices()
    for first in range(0, stage.minutes, _MINUTES):
        minutes = range(first, min(first + _MINUTES, stage.minutes))
        idle = [[free.paid[pool][m] - free.chat[pool][m] for m in minutes] for pool in (0, 1)]
        # what the minute after begins with must not take a Job's GPUs
        found.reserved.append(max(0, min(idle[0])))
        found.on_demand.append(max(0, min(idle[1])))
        found.held.append(free.chat[1][first])
        found.mean.append((sum(idle[0]) / len(idle[0]), sum(idle[1]) / len(idle[1])))
        found.price.append(sum(prices[m] for m in minutes) / len(minutes))
    return found


def bound(stage: Stage, free: Lived) -> float:
    """USD that no plan which keeps the deadlines can do with less than, GPUs that are paid for anyway being free."""
    grid = slots(stage, free)
    return _least(stage, grid, [price * SLOT_S / HOUR_S for price in grid.price])


def well_placed(stage: Stage, free: Lived) -> float:
    """The largest share of the work that could be done on GPUs that are paid for anyway or in the cheapest hours."""
    grid = slots(stage, free)
    work = sum(job.work_s + stage.scenario.batch.restart_s for job in stage.jobs for _ in range(job.gpus)) / SLOT_S
    dear = [float(price > float(stage.scenario.on_demand.cheapest) + 1e-9) for price in grid.price]
    return 1.0 - _least(stage, grid, dear) / work if work else 1.0


def _least(stage: Stage, grid: Slots, beyond: list[float]) -> float:
    """`beyond`: what a slot of a GPU beyond the idle ones counts."""
    count = len(grid.price)
    cost = list(beyond)
    most = [highspy.kHighsInf] * count
    rows: list[list[tuple[int, float]]] = [[(slot, -1.0)] for slot in range(count)]
    low, high = [-highspy.kHighsInf] * count, [sum(idle) for idle in grid.mean]
    for job in stage.jobs:
        first, last = window(job, stage, count)
        mine = []
        for slot in range(first, last + 1):
            begin_s = stage.begin_s + slot * SLOT_S
            runs_s = min(begin_s + SLOT_S, _until(job, stage)) - max(begin_s, job.created_s)
            rows[slot].append((len(cost), float(job.gpus)))
            mine.append((len(cost), 1.0))
            cost.append(0.0)
            most.append(max(0.0, runs_s / SLOT_S))
        rows.append(mine)
        work = min(job.work_s + stage.scenario.batch.restart_s, _until(job, stage) - job.created_s) / SLOT_S
        low.append(work - 1e-9)
        high.append(highspy.kHighsInf)
    return _solved(cost, most, rows, low, high)


def _solved(
    cost: list[float],
    most: list[float],
    rows: Sequence[Sequence[tuple[int, float]]],
    low: list[float],
    high: list[float],
) -> float:
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(cost), len(rows)
    model.col_cost_, model.col_lower_, model.col_upper_ = cost, [0.0] * len(cost), most
    model.row_lower_, model.row_upper_ = low, high
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = [0, *accumulate(len(row) for row in rows)]
    model.a_matrix_.index_ = [column for row in rows for column, _ in row]
    model.a_matrix_.value_ = [value for row in rows for _, value in row]
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.passModel(model)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise EbbtideError("the clairvoyant bound has no solution")
    return float(solver.getInfo().objective_function_value)


def _until(job: BatchJob, stage: Stage) -> int:
    """By when it has to end: its deadline, unless nobody could keep that."""
    least_s = job.work_s + stage.scenario.batch.restart_s
    return job.deadline_s if job.deadline_s - job.created_s >= least_s else stage.end_s


def window(job: BatchJob, stage: Stage, count: int) -> tuple[int, int]:
    """The first and the last slot in which it may run; beyond its deadline where nobody could keep that."""
    first = (job.created_s - stage.begin_s) // SLOT_S
    last = -(-(_until(job, stage) - stage.begin_s) // SLOT_S) - 1
    return first, min(count - 1, max(first, last))


Schedule = dict[str, tuple[tuple[int, str], ...]]
"""By Job: (slot, pool) in which it runs."""


def schedule(stage: Stage, free: Lived, again: float = 1.0, listed: bool = False) -> Schedule:
    """Whole Jobs, placed in turns until nobody gains. `again`: how many times a new start counts as what it takes.

    `listed`: what is paid for anyway counts at its list price.
    """
    grid = slots(stage, free)
    count = len(grid.price)
    used = [[0] * count, [0] * count]
    placed: dict[str, tuple[tuple[int, int], ...]] = {}
    order = sorted(stage.jobs, key=lambda job: (job.deadline_s, job.name))
    for _ in range(ROUNDS):
        before = dict(placed)
        for job in order:
            _take(used, placed.get(job.name, ()), -job.gpus)
            placed[job.name] = _best(job, stage, grid, used, again, listed)
            _take(used, placed[job.name], job.gpus)
        if placed == before:
            break
    names = {_RESERVED: RESERVED, _ON_DEMAND: ON_DEMAND}
    return {name: tuple((slot, names[pool]) for slot, pool in places) for name, places in placed.items()}


def _take(used: list[list[int]], places: Sequence[tuple[int, int]], gpus: int) -> None:
    for slot, pool in places:
        used[pool - 1][slot] += gpus


State = tuple[int, int]  # slots run, where it runs now
Path = tuple[tuple[int, int], ...]


def _best(job: BatchJob, stage: Stage, grid: Slots, used: list[list[int]], again: float, listed: bool = False) -> Path:
    """By dynamic programming over (slots run, where it runs now); a new start takes time and money."""
    scenario = stage.scenario
    first, last = window(job, stage, len(grid.price))
    first += job.created_s > stage.begin_s + first * SLOT_S  # from the next border on
    last -= stage.begin_s + (last + 1) * SLOT_S > _until(job, stage) - MARGIN_S
    loading_s = scenario.batch.restart_s + scenario.on_demand.lead_time_s
    need = max(1, math.ceil((job.work_s + loading_s) / SLOT_S))
    at_once = tuple((slot, _ON_DEMAND) for slot in range(first, min(len(grid.price), first + need)))
    if last - first + 1 < need:  # no whole slots
        return at_once
    tail = max(0.1, min(1.0, (job.work_s + loading_s) / SLOT_S - (need - 1)))  # of its last slot
    states: dict[State, tuple[float, Path]] = {(0, _OFF): (0.0, ())}
    for slot in range(first, last + 1):
        following: dict[State, tuple[float, Path]] = {}
        moved = _Moved(job, stage, grid, used, slot, again, listed)
        for (ran, at), (cost, path) in states.items():
            for to in _moves(job, ran, at, need):
                now = ran + (to != _OFF)
                if moved.costs[to] == math.inf or now + (last - slot) < need:
                    continue
                total = cost + moved.costs[to] * (tail if now == need else 1.0) + moved.by(ran, at, to)
                if (now, to) not in following or total < following[now, to][0] - 1e-12:
                    following[now, to] = total, path if to == _OFF else (*path, (slot, to))
        states = following
    found = [best for (ran, _), best in states.items() if ran == need]
    return min(found)[1] if found else at_once


def _moves(job: BatchJob, ran: int, at: int, need: int) -> tuple[int, ...]:
    if ran == need:
        return (_OFF,)
    return (at,) if ran and not job.restartable else (_OFF, _RESERVED, _ON_DEMAND)


class _Moved:
    """What it costs one Job to run in a slot, and to begin or end at its border."""

    def __init__(
        self,
        job: BatchJob,
        stage: Stage,
        grid: Slots,
        used: list[list[int]],
        slot: int,
        again: float,
        listed: bool,
    ) -> None:
        scenario, price = stage.scenario, grid.price[slot]
        own = job.gpus * float(scenario.reserved.price) * SLOT_S / HOUR_S if listed else 0.0
        reserved = own if used[0][slot] + job.gpus <= grid.reserved[slot] else math.inf
        beyond = min(job.gpus, max(0, used[1][slot] + job.gpus - grid.on_demand[slot])) if not listed else job.gpus
        self.costs = (0.0, reserved, beyond * price * SLOT_S / HOUR_S)
        again_s = scenario.batch.restart_s + scenario.batch.checkpoint_s / 2
        self._again = again * job.gpus * price * again_s / HOUR_S
        # nodes that come empty and stay a while, as far as no others go or come at this border
        empty = price * (scenario.on_demand.lead_time_s + scenario.on_demand.release_s) / HOUR_S
        rises = 0 if slot == 0 else grid.held[slot] + used[1][slot] - grid.held[slot - 1] - used[1][slot - 1]
        self._comes = empty * min(job.gpus, max(0, rises + job.gpus))
        self._goes = -empty * min(job.gpus, max(0, rises))
        self._tie = _TIE * slot

    def by(self, ran: int, at: int, to: int) -> float:
        """Of a move from there to here, after so many slots."""
        found = self._tie if to != _OFF else 0.0
        if ran and to not in (_OFF, at):
            found += self._again
        if _ON_DEMAND in (at, to) and at != to:
            found += self._comes if to == _ON_DEMAND else self._goes
        return found
