"""One column of each owner, for least in sum, so that no row holds more than there is: prices of rows, then branching.

The linear relaxation (HiGHS) gives a unit of each row a price. At any prices, what everybody's cheapest column then
costs, less what the rows' units are worth, is a bound: nothing costs less. And who takes a column that is dearer than
its cheapest by a margin of 5 makes it at least 5 more than the bound. So only columns of small margin can matter, and
among those branching decides. Of thousands of owners a sample is asked for prices first, and the relaxation is then
solved over the columns of small margin alone, until it meets the bound.

Limited by nodes, rounds and gap, never by time; one thread, a fixed seed.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

Column = tuple[int, int, float, tuple[tuple[int, int], ...]]  # owner (0, 1, ...), its choice, cost, (row, units)

WHOLE = 1e-6
SOLVER_GAP = 1e-4
CLOSE = 5e-4  # a gap at which no more columns are looked at
COLUMNS = (300, 1_500)  # that branching looks at beside the relaxation's: few, and where those do not do many
SAMPLE = 1_000  # owners that are asked for prices first, where there are more than twice as many
ROUNDS = 20
MET = 1e-6  # relaxation and bound, as a share of the cost
DEARER = 1e3  # than the dearest column is what the relaxation pays for a unit that is not there


@dataclass(frozen=True, slots=True)
class Found:
    """The choice of each owner, and by what share of the cost that may be above the least."""

    chosen: list[int]
    gap: float


@dataclass(frozen=True, slots=True)
class _Relaxed:
    bound: float  # nothing costs less
    used: dict[int, float]  # column -> how much of it
    margins: list[float]  # of each column over the cheapest of its owner, at the prices


def choose(
    columns: Sequence[Column],
    present: Sequence[int],
    rooms: Sequence[int],
    most_nodes: int,
    *,
    sample: int = SAMPLE,
) -> Found | None:
    """The best choice of each owner; None where nothing fits or nothing was found.

    Columns come sorted by owner; `present` are the choices as they are: a sample of owners may have what those take.
    """
    relaxed = _relaxed(columns, present, rooms, sample)
    if relaxed is None:
        return None
    whole = _whole(columns, relaxed.used)
    if whole is not None:
        return _found(columns, whole, relaxed.bound)
    margins = relaxed.margins
    near = _nearest(margins, len(relaxed.used) + COLUMNS[-1] + 1).difference(relaxed.used)
    others = sorted(near, key=lambda position: (round(margins[position], 9), position))
    best: Found | None = None
    for most in COLUMNS:
        kept = sorted([*relaxed.used, *others[:most]])
        beyond = margins[others[most]] if len(others) > most else math.inf
        solved = _solved([columns[position] for position in kept], rooms, most_nodes)
        whole = None if solved is None else _whole(columns, _some(kept, solved.values))
        if whole is not None and solved is not None:
            found = _found(columns, whole, max(relaxed.bound, min(solved.bound, relaxed.bound + beyond)))
            best = found if best is None or found.gap < best.gap else best
        if math.isinf(beyond) or (best is not None and best.gap <= CLOSE):
            break
    return best


def _found(columns: Sequence[Column], whole: list[int], bound: float) -> Found:
    """What is whole, by position of its columns."""
    reached = sum(columns[position][2] for position in whole)
    return Found([columns[position][1] for position in whole], max(0.0, reached - bound) / max(1e-9, reached))


def _whole(columns: Sequence[Column], used: dict[int, float]) -> list[int] | None:
    """The column of each owner; None where one is split."""
    found = sorted(position for position, value in used.items() if value > 1.0 - WHOLE)
    return found if len(found) == columns[-1][0] + 1 == len(used) else None


def _some(positions: Iterable[int], values: Iterable[float]) -> dict[int, float]:
    return {position: value for position, value in zip(positions, values, strict=True) if value > WHOLE}


def _relaxed(columns: Sequence[Column], present: Sequence[int], rooms: Sequence[int], sample: int) -> _Relaxed | None:
    """The relaxation over all columns, or over ever more of those of small margin; None where nothing fits."""
    owners = columns[-1][0] + 1
    every = owners // sample if owners > 2 * sample else 1
    kept = set(range(len(columns)))
    if every > 1:
        kept = {position for position, column in enumerate(columns) if column[1] == present[column[0]]}
        part = _part([columns[position] for position in kept], rooms, every)
        asked = _solved([column for column in columns if column[0] % every == 0], part)
        if asked is not None:
            kept |= _nearest(_margins(columns, rooms, asked.prices)[0], owners + owners // 4)
    for _ in range(ROUNDS):
        positions = sorted(kept)
        solved = _solved([columns[position] for position in positions], rooms)
        if solved is None:
            return None
        margins, bound = _margins(columns, rooms, solved.prices)
        if len(kept) == len(columns) or solved.bound - bound <= MET * abs(solved.bound):
            return _Relaxed(bound, _some(positions, solved.values), margins) if solved.beyond <= WHOLE else None
        kept |= _nearest(margins, owners + owners // 4)
    return None


def _part(present: Iterable[Column], rooms: Sequence[int], every: int) -> list[float]:
    """What each `every`th owner may have: what these take at present, and their part of what nobody does."""
    left, taken = [float(room) for room in rooms], [0.0] * len(rooms)
    for owner, _, _, uses in present:
        for row, units in uses:
            left[row] -= units
            taken[row] += units if owner % every == 0 else 0
    return [units + rest / every for units, rest in zip(taken, left, strict=True)]


def _margins(columns: Sequence[Column], rooms: Sequence[float], prices: Sequence[float]) -> tuple[list[float], float]:
    """(margin of each column, bound) at these prices of rows; no price is below 0."""
    reduced, cheapest = list[float](), [math.inf] * (columns[-1][0] + 1)
    for owner, _, value, uses in columns:
        cost = value
        for row, units in uses:
            cost += units * prices[row]
        reduced.append(cost)
        if cost < cheapest[owner]:  # noqa: PLR1730 (three times as fast as min)
            cheapest[owner] = cost
    bound = sum(cheapest) - sum(price * room for price, room in zip(prices, rooms, strict=True))
    return [cost - cheapest[column[0]] for column, cost in zip(columns, reduced, strict=True)], bound


def _nearest(margins: Sequence[float], count: int) -> set[int]:
    """The columns of the smallest margins, everybody's cheapest first; more where some are equal."""
    most = sorted(margins)[min(len(margins), count) - 1]
    return {position for position, margin in enumerate(margins) if margin <= most}


@dataclass(frozen=True, slots=True)
class _Solved:
    bound: float  # nothing costs less; relaxed, it is what was found
    values: list[float]
    prices: list[float]  # of a unit of each row; none of branching
    beyond: float  # units that are not there, which only the relaxation may buy


class _Model:
    """The columns as HiGHS takes them. An owner of one column takes part in the sums only."""

    def __init__(self, columns: Sequence[Column], rooms: Sequence[float]) -> None:
        owned: dict[int, int] = {}
        for column in columns:
            owned[column[0]] = owned.get(column[0], 0) + 1
        self.free = {owner: row for row, owner in enumerate(owner for owner, count in owned.items() if count > 1)}
        self.left, self.fixed = list(rooms), 0.0
        self.cost: list[float] = []
        self.start, self.index, self.value = [0], list[int](), list[float]()
        free, index, value, offset = self.free, self.index, self.value, len(self.free)
        for owner, _, cost, uses in columns:
            row = free.get(owner)
            if row is None:
                self.fixed += cost
                for taken, units in uses:
                    self.left[taken] -= units
                continue
            index.append(row)
            value.append(1.0)
            for taken, units in uses:
                index.append(offset + taken)
                value.append(units)
            self.cost.append(cost)
            self.start.append(len(index))

    def sell(self, price: float) -> None:
        """A column for each row that buys units beyond it."""
        for row in range(len(self.left)):
            self.index.append(len(self.free) + row)
            self.value.append(-1.0)
            self.cost.append(price)
            self.start.append(len(self.index))

    def by_column(self, columns: Iterable[Column], values: Iterator[float]) -> list[float]:
        """The solver's values, and 1 for what takes part in the sums only."""
        return [next(values) if column[0] in self.free else 1.0 for column in columns]


def _solved(columns: Sequence[Column], rooms: Sequence[float], most_nodes: int | None = None) -> _Solved | None:
    """By HiGHS, relaxed without `most_nodes`; None where nothing fits or nothing was found."""
    made = _Model(columns, rooms)
    count, rows = len(made.cost), len(rooms)
    if not made.free and min(made.left, default=0.0) >= 0.0:
        return _Solved(made.fixed, [1.0] * len(columns), [0.0] * rows, 0.0)
    if most_nodes is None:
        made.sell(DEARER * (1.0 + max(column[2] for column in columns)))
    elif min(made.left, default=0.0) < 0.0:
        return None
    solver = _highs(made, most_nodes)
    if solver is None:
        return None
    found, info = solver.getSolution(), solver.getInfo()
    values = made.by_column(columns, islice(found.col_value, count))
    if most_nodes is not None:
        return _Solved(info.mip_dual_bound, values, [], 0.0)
    prices = [max(0.0, -dual) for dual in list(found.row_dual)[len(made.free) :]]
    return _Solved(info.objective_function_value, values, prices, max(list(found.col_value)[count:], default=0.0))


def _highs(made: _Model, most_nodes: int | None) -> Any:
    import highspy  # where no pool couples services it is never needed, and it takes 0.4 s of CPU to load

    model, rows, count = highspy.HighsLp(), len(made.left), len(made.cost)
    model.num_col_, model.num_row_ = count, len(made.free) + rows
    upper = 1.0 if most_nodes is not None else highspy.kHighsInf  # as owners take one in all
    model.col_cost_, model.col_lower_, model.col_upper_ = made.cost, [0.0] * count, [upper] * count
    model.offset_ = made.fixed
    model.row_lower_ = [1.0] * len(made.free) + [-highspy.kHighsInf] * rows
    model.row_upper_ = [1.0] * len(made.free) + [float(room) for room in made.left]
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_, model.a_matrix_.index_, model.a_matrix_.value_ = made.start, made.index, made.value
    solver = highspy.Highs()
    for name, off in (("output_flag", False), ("log_to_console", False)):
        solver.setOptionValue(name, off)
    for name, number in (("threads", 1), ("random_seed", 0)):
        solver.setOptionValue(name, number)
    solver.setOptionValue("parallel", "off")
    if most_nodes is not None:
        model.integrality_ = [highspy.HighsVarType.kInteger] * count
        solver.setOptionValue("mip_rel_gap", SOLVER_GAP)
        solver.setOptionValue("mip_max_nodes", most_nodes)
    solver.passModel(model)
    solver.run()
    if solver.getInfo().primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        return None
    if most_nodes is None and solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    return solver
