"""What the clairvoyant knows beside every arrival: what fleets of each size missed on this very traffic, by minute.

A table of steady loads says too little of real minutes: bursts inside them, a run of long answers, a fall in their
middle. So fleets of one size are replayed, and where such a fleet keeps up its own misses count; where it is jammed, or
was a moment ago, the table does, because who knows the future never lets a jam grow so long. Only sizes that matter are
replayed. Then plans are made and replayed a few times, each with what the last one was seen to miss.
"""

import functools
from collections.abc import Mapping, Sequence

import msgspec

from ebbtide.bench import clairvoyant, traffic
from ebbtide.bench.case import Case, fleet
from ebbtide.bench.clairvoyant import SLOT_S, Problem
from ebbtide.bench.preparation import Stage
from ebbtide.bench.run import HOLD, PATH, RunResult
from ebbtide.bench.runner import Runner
from ebbtide.bench.score import meets

JAMMED = 0.1  # of a minute's requests missed by the table: queues form that outlive it
JAM_SLOTS = 10
NOTHING = 1e-4
MOST_SIZES = 10
ROUNDS = 4


class Foresight:
    """The clairvoyant's problem and plan for each seed of a stage."""

    def __init__(self, stage: Stage, runner: Runner) -> None:
        self._stage, self._runner = stage, runner

    def problem(self, index: int, caution: float) -> Problem:
        """Seed `index` with its budget divided by `caution`."""
        case, known = self._stage.case, self._known[index]
        allowed = (1.0 - case.attainment) * len(self._stage.requests[index])
        return msgspec.structs.replace(known, budget=allowed / caution)

    def planned(self, index: int, caution: float) -> Case:
        """The case with the plan's path, to be run under the policy `path`."""
        return clairvoyant.along(self._stage.case, self.problem(index, caution))

    def by_table(self, index: int, caution: float) -> Case:
        """The same by the table alone, in case what fleets of one size missed was their own chance."""
        stage = self._stage
        return clairvoyant.planned(stage.case, stage.requests[index], stage.table, caution)

    def bound(self) -> float:
        """Dollars of the least that meets the target by the known misses, mean over seeds."""
        found = [clairvoyant.cheapest(self.problem(i, 1.0)).bound_replica_s for i in range(len(self._known))]
        per_s = float(self._stage.case.gpu_hour_price) * self._stage.case.tensor_parallel / 3600
        return per_s * sum(found) / len(found)

    @functools.cached_property
    def _known(self) -> tuple[Problem, ...]:
        """Each seed's problem, with the misses of fleets that were replayed."""
        stage, case = self._stage, self._stage.case
        found = []
        for requests, load in zip(stage.requests, stage.loads, strict=True):
            problem = clairvoyant.problem_of(case, requests, stage.table)
            came = traffic.arrivals_by_slot(requests, SLOT_S)
            measured = {
                n: missed_by_slot(case, self._runner.results(fleet(case, n), [load], HOLD, 0.0)[0], len(came))
                for n in sizes_that_matter(problem, came)
            }
            problem = corrected(problem, came, measured)
            for _ in range(ROUNDS):
                plan = clairvoyant.cheapest(problem)
                result = self._runner.results(clairvoyant.along(case, problem), [load], PATH, 0.0)[0]
                problem = learnt(problem, plan.replicas, missed_by_slot(case, result, len(came)))
            found.append(problem)
        return tuple(found)


def sizes_that_matter(problem: Problem, came: Sequence[int]) -> list[int]:
    """Fleets that keep up in some minute and miss something in some: at most ten, evenly chosen."""
    found = []
    for level in range(len(problem.misses[0])):
        shares = [slot[level] / n for slot, n in zip(problem.misses, came, strict=True) if n]
        if shares and min(shares) < JAMMED and max(shares) > NOTHING:
            found.append(problem.lowest + level)
    return found[:: -(-len(found) // MOST_SIZES) or 1]


def missed_by_slot(case: Case, result: RunResult, slots: int) -> list[float]:
    """Requests of each slot that missed an objective."""
    found = [0.0] * slots
    for request in result.served:
        found[int(request.arrival_s // SLOT_S)] += not meets(case, request)
    return found


def corrected(problem: Problem, came: Sequence[int], measured: Mapping[int, Sequence[float]]) -> Problem:
    """`problem` with what fleets of one size missed where they kept up; more replicas never miss more."""
    rows = [list(slot) for slot in problem.misses]
    for n, missed in measured.items():
        level, kept_up = n - problem.lowest, JAM_SLOTS
        for slot, (row, count) in enumerate(zip(rows, came, strict=True)):
            kept_up = 0 if max(row[level], missed[slot]) > JAMMED * count else kept_up + 1
            if kept_up >= JAM_SLOTS or kept_up > slot:
                row[level] = missed[slot]
    for row in rows:
        for level in range(1, len(row)):
            row[level] = min(row[level - 1], row[level])
    return msgspec.structs.replace(problem, misses=tuple(map(tuple, rows)))


def learnt(problem: Problem, replicas: Sequence[int], missed: Sequence[float]) -> Problem:
    """`problem` with what a plan was seen to miss; with fewer replicas no less is missed, with more no more."""
    rows = [list(slot) for slot in problem.misses]
    for row, n, count in zip(rows, replicas, missed, strict=True):
        level = n - problem.lowest
        row[: level + 1] = [count, *(max(count, more) for more in reversed(row[:level]))][::-1]
        row[level + 1 :] = [min(count, less) for less in row[level + 1 :]]
    return msgspec.structs.replace(problem, misses=tuple(map(tuple, rows)))
