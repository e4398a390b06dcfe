"""The mixes of many services at once, where pools couple them: a mixed-integer programme over choices, by HiGHS.

A choice is one whole mix of a service: its cost, how much of the need it leaves, and what it takes of each pool. Each
service gets exactly one; no row (a pool's GPUs, its nodes' slots) is exceeded. In the linear relaxation at most as many
services are split between choices as there are rows, so that it is nearly whole; its reduced costs tell which choices
can matter, and only among those branching decides.

Limited by nodes and by gap, never by time; one thread, a fixed seed. What comes back is added up again here, in whole
numbers: must never return anything that exceeds a row, nor anything that is not better than what was there.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MISS = 100.0  # a need that is missed altogether weighs as a hundred times what carrying it costs, the last tenth as ten
WORTH_IT = 1e-3  # by so much of the cost of all a new plan must be better
SOLVER_GAP = 1e-4
MOST_NODES = 200
MOST_COLUMNS = 1_500  # that branching looks at
PREFERENCE = 1e-6  # of a need's cost: between equals, what is there stays
WHOLE = 1e-6
CENT = 0.005  # less money than that is none, in words


@dataclass(frozen=True, slots=True)
class Choice:
    """One mix: replicas by variant, money an hour with what starting costs, the share of the need that it leaves."""

    counts: tuple[int, ...]
    cost: float
    missed: float
    uses: tuple[tuple[int, int], ...]  # (row, units): nothing for a row that it does not touch
    loses: bool = False  # it gives up what runs although that is needed
    unwelcome: float = 0.0  # of the cost, what is no money: stand-ins count for more than they cost


@dataclass(frozen=True, slots=True)
class Party:
    """One service: `level` 0 goes first. `weight` is what carrying its need costs; `now` the index of its fallback."""

    key: str
    level: int
    weight: float
    choices: tuple[Choice, ...]
    now: int
    least: tuple[tuple[int, int], ...] = ()  # (row, units) that nobody of a higher level may claim of it

    def penalty(self, missed: float) -> float:
        """What missing this share weighs, in money an hour; two fifths of one weigh more than a fifth of two each."""
        return MISS * self.weight * (missed + missed * missed)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`chosen` by party, or None where the fallback stands; `gap` to the bound as a share of the cost of all."""

    chosen: tuple[int, ...] | None
    gap: float
    saved: float  # money an hour, below nothing where less missed costs more
    carried: float  # of needs that were missed, summed over services
    why: str  # in words, where the fallback stands

    def gain_words(self) -> str:
        """`saves 3.5 an hour against one after the other`, or what more is carried and what that costs."""
        more = f"for {abs(self.saved):.3g} an hour {'less' if self.saved > 0.0 else 'more'}"
        money = more if abs(self.saved) >= CENT else "at the same cost"
        if self.carried > WORTH_IT:
            return f"carries {self.carried:.3g} of a service's need more than one after the other, {money}"
        if self.saved >= CENT and self.carried > -WORTH_IT:
            return f"saves {self.saved:.3g} an hour against one after the other"
        return f"spreads what is missed more evenly than one after the other, {money}"


def solve(parties: Sequence[Party], rooms: Sequence[int], *, most_nodes: int = MOST_NODES) -> Outcome:
    """The best choices within `rooms` (units by row). Priorities are never traded: those above first, then the next.

    The fallback (`now` of every party) is taken to be possible whatever its sum is.
    """
    before = [party.now for party in parties]
    if not parties or any(not party.choices for party in parties):
        return Outcome(None, 0.0, 0.0, 0.0, "there is nothing to choose from")
    rooms = [max(room, used) for room, used in zip(rooms, _used(parties, before, len(rooms)), strict=True)]
    found = _by_level(parties, rooms, most_nodes)
    if found is None:
        return Outcome(None, math.inf, 0.0, 0.0, f"it found nothing within {most_nodes} nodes")
    chosen, gap = found
    if not fits(parties, chosen, rooms):
        return Outcome(None, gap, 0.0, 0.0, "what it found does not add up")
    if not _is_better(parties, before, chosen):
        return Outcome(None, gap, 0.0, 0.0, f"it gains less than {WORTH_IT:.1%}")
    pairs = [(p.choices[old], p.choices[new]) for p, old, new in zip(parties, before, chosen, strict=True)]
    saved = sum(was.cost - was.unwelcome - becomes.cost + becomes.unwelcome for was, becomes in pairs)
    return Outcome(tuple(chosen), gap, saved, sum(was.missed - becomes.missed for was, becomes in pairs), "")


def fits(parties: Sequence[Party], chosen: Sequence[int], rooms: Sequence[int]) -> bool:
    """Whether no row holds more than there is."""
    used = _used(parties, chosen, len(rooms))
    return all(units <= room for units, room in zip(used, rooms, strict=True))


def _used(parties: Sequence[Party], chosen: Sequence[int], rows: int) -> list[int]:
    used = [0] * rows
    for party, index in zip(parties, chosen, strict=True):
        for row, units in party.choices[index].uses:
            used[row] += units
    return used


def _is_better(parties: Sequence[Party], before: Sequence[int], after: Sequence[int]) -> bool:
    """Better by more than is worth a change. What a level misses more may be made up by money, never by those below."""
    less_missed = dict.fromkeys(sorted({party.level for party in parties}), 0.0)
    cost = saved = 0.0
    for party, old, new in zip(parties, before, after, strict=True):
        was, becomes = party.choices[old], party.choices[new]
        less_missed[party.level] += party.penalty(was.missed) - party.penalty(becomes.missed)
        cost += was.cost
        saved += was.cost - becomes.cost
    least = WORTH_IT * cost
    gains = list(less_missed.values())
    for place, gain in enumerate(gains):
        if abs(gain) > least:
            below = max(0.0, sum(gains[place + 1 :])) if gain > 0.0 else 0.0
            return gain + below + saved > least
    return saved > least


def _by_level(parties: Sequence[Party], rooms: list[int], most_nodes: int) -> tuple[list[int], float] | None:
    """All at once where everybody can be carried; else level by level.

    Those of higher levels take part further on, with any choice that leaves them no more missed than they were given:
    they go to a dearer pool where that makes room for somebody below.
    """
    levels = sorted({party.level for party in parties})
    found = _all_carried(parties, rooms, most_nodes) if len(levels) > 1 else None
    if found is not None:
        return found
    given: dict[int, float] = {}
    for level in levels:
        active = [index for index, party in enumerate(parties) if party.level <= level]
        left = list(rooms)
        for row, units in (pair for party in parties if party.level > level for pair in party.least):
            left[row] -= units
        found = _narrowed(parties, active, given, level, left, most_nodes)
        if found is None:
            return None
        for index, choice in zip(active, found[0], strict=True):
            if parties[index].level == level:
                given[index] = parties[index].choices[choice].missed
    return found


def _all_carried(parties: Sequence[Party], rooms: list[int], most_nodes: int) -> tuple[list[int], float] | None:
    """The cheapest by which nobody misses anything, whatever the level; None where there is none."""
    carrying = [[n for n, choice in enumerate(party.choices) if choice.missed <= WHOLE] for party in parties]
    if not all(carrying) or _least(parties, carrying) > sum(rooms):
        return None
    return _stage(parties, carrying, rooms, most_nodes)


def _narrowed(
    parties: Sequence[Party], active: list[int], given: dict[int, float], level: int, rooms: list[int], most_nodes: int
) -> tuple[list[int], float] | None:
    """One level with those above it; what runs is given up only where not everybody of the level can keep it."""
    members = [parties[index] for index in active]
    for lose in (False, True):
        allowed = []
        for index, party in zip(active, members, strict=True):
            if party.level < level:
                allowed.append([n for n, c in enumerate(party.choices) if c.missed <= given[index] + WHOLE])
            else:
                allowed.append(list(range(len(party.choices))) if lose else _kept(party))
        found = _stage(members, allowed, rooms, most_nodes)
        if found is not None:
            return found
    return None


def _kept(party: Party) -> list[int]:
    """The choices by which it keeps what it needs of what runs; the fallback; and where that loses, what misses less.

    Who is left with three of five by those above may still have the fourth elsewhere.
    """
    now = party.choices[party.now]
    kept = [
        index
        for index, choice in enumerate(party.choices)
        if not choice.loses or index == party.now or (now.loses and choice.missed < now.missed)
    ]
    return kept or list(range(len(party.choices)))


def _least(parties: Sequence[Party], allowed: Sequence[list[int]]) -> int:
    """Units that all together take at the very least."""
    return sum(
        min(sum(units for _, units in party.choices[index].uses) for index in indices)
        for party, indices in zip(parties, allowed, strict=True)
    )


def _stage(
    parties: Sequence[Party], allowed: Sequence[list[int]], rooms: list[int], most_nodes: int
) -> tuple[list[int], float] | None:
    """(choice by party, gap) among the `allowed`; None where nothing fits or nothing was found."""
    if not all(allowed):
        return None
    columns = [
        _Column(owner, index, cost)
        for owner, (party, indices) in enumerate(zip(parties, allowed, strict=True))
        for index, cost in _objectives(party, indices)
    ]
    relaxed = _run(parties, columns, rooms, most_nodes=None)
    if relaxed is None:
        return None
    bound = relaxed.bound
    whole = _chosen(columns, relaxed.values, len(parties))
    if whole is None:
        those, beyond = _that_matter(columns, relaxed)
        branched = _run(parties, those, rooms, most_nodes=most_nodes)
        whole = None if branched is None else _chosen(those, branched.values, len(parties))
        if whole is None or branched is None:
            return None
        # what was left out costs at least its reduced cost more than the relaxation
        bound = max(bound, min(branched.bound, bound + beyond))
    reached = sum(_objective(party, index) for party, index in zip(parties, whole, strict=True))
    return whole, max(0.0, reached - bound) / max(1e-9, reached)


def _objectives(party: Party, indices: Iterable[int]) -> list[tuple[int, float]]:
    weight, now, prefer = MISS * party.weight, party.now, PREFERENCE * party.weight
    found = []
    for index in indices:
        choice = party.choices[index]
        missed = choice.missed
        found.append((index, choice.cost + weight * (missed + missed * missed) + (0.0 if index == now else prefer)))
    return found


def _objective(party: Party, index: int) -> float:
    return _objectives(party, (index,))[0][1]


class _Column(NamedTuple):
    owner: int
    choice: int
    cost: float


@dataclass(frozen=True, slots=True)
class _Solution:
    bound: float  # nothing costs less; relaxed, it is what was found
    values: list[float]
    reduced: list[float]


def _chosen(columns: Sequence[_Column], values: Sequence[float], count: int) -> list[int] | None:
    """The choice of each party; None where one is split."""
    chosen = [-1] * count
    for column, value in zip(columns, values, strict=True):
        if value > 1.0 - WHOLE:
            chosen[column.owner] = column.choice
        elif value > WHOLE:
            return None
    return chosen if min(chosen) >= 0 else None


def _that_matter(columns: Sequence[_Column], relaxed: _Solution) -> tuple[list[_Column], float]:
    """Those that the relaxation uses, and of the others up to a number those that would cost least to use.

    And the reduced cost of the cheapest that is left out.
    """
    used = {position for position, value in enumerate(relaxed.values) if value > WHOLE}
    others = sorted(
        (position for position in range(len(columns)) if position not in used),
        key=lambda position: (round(relaxed.reduced[position], 9), position),
    )
    beyond = relaxed.reduced[others[MOST_COLUMNS]] if len(others) > MOST_COLUMNS else math.inf
    kept = sorted(used | set(others[:MOST_COLUMNS]))
    return [columns[position] for position in kept], max(0.0, beyond)


class _Model:
    """The columns as HiGHS takes them. A party with one column takes part in the sums only."""

    def __init__(self, parties: Sequence[Party], columns: Sequence[_Column], rooms: Sequence[int]) -> None:
        owned = [0] * len(parties)
        for column in columns:
            owned[column.owner] += 1
        self.free = {owner: row for row, owner in enumerate(o for o, count in enumerate(owned) if count > 1)}
        self.left, self.fixed = list(rooms), 0.0
        self.cost: list[float] = []
        self.start, self.index, self.value = [0], list[int](), list[float]()
        free, index, value, offset = self.free, self.index, self.value, len(self.free)
        for owner, choice, cost in columns:
            uses = parties[owner].choices[choice].uses
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


def _run(
    parties: Sequence[Party], columns: Sequence[_Column], rooms: Sequence[int], *, most_nodes: int | None
) -> _Solution | None:
    """By HiGHS, relaxed without `most_nodes`; None where nothing fits or nothing was found."""
    made = _Model(parties, columns, rooms)
    if min(made.left, default=0) < 0:
        return None
    if not made.free:
        return _Solution(made.fixed, [1.0] * len(columns), [0.0] * len(columns))
    solved = _highs(made, most_nodes)
    if solved is None:
        return None
    values, reduced = iter(solved.values), iter(solved.reduced)
    inside = [column.owner in made.free for column in columns]
    return _Solution(
        solved.bound + made.fixed,
        [next(values) if each else 1.0 for each in inside],
        [next(reduced) if each else 0.0 for each in inside],
    )


def _highs(made: _Model, most_nodes: int | None) -> _Solution | None:
    import highspy  # where no pool couples services it is never needed, and it takes 0.4 s of CPU to load

    model, rows, count = highspy.HighsLp(), len(made.left), len(made.cost)
    model.num_col_, model.num_row_ = count, len(made.free) + rows
    model.col_cost_, model.col_lower_, model.col_upper_ = made.cost, [0.0] * count, [1.0] * count
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
    found = solver.getSolution()
    if most_nodes is None:
        return _Solution(solver.getInfo().objective_function_value, list(found.col_value), list(found.col_dual))
    return _Solution(solver.getInfo().mip_dual_bound, list(found.col_value), [0.0] * count)
