"""The mixes of many services at once, where pools couple them: a mixed-integer programme over choices, by HiGHS.

A choice is one whole mix of a service: its cost, how much of the need it leaves, and what it takes of each pool. Each
service gets exactly one; no row (a pool's GPUs, its nodes' slots) is exceeded (`core.branching`).

Limited by nodes and by gap, never by time. What comes back is added up again here, in whole numbers: must never return
anything that exceeds a row, nor anything that is not better than what was there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ebbtide.core.branching import WHOLE, Found, choose

MISS = 100.0  # a need that is missed altogether weighs as a hundred times what carrying it costs, the last tenth as ten
WORTH_IT = 1e-3  # by so much of the cost of all a new plan must be better
MOST_NODES = 200
PREFERENCE = 1e-6  # of a need's cost: between equals, what is there stays
CENT = 0.005  # less money than that is none, in words

Costs = Sequence[list[float]]  # of each choice, by party


@dataclass(slots=True)
class Choice:
    """One mix: replicas by variant, money an hour with what starting costs, the share of the need that it leaves.

    Never changed; not frozen, because 80,000 are made in a cycle, and a frozen one takes three times as long.
    """

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
    chosen, gap = found.chosen, found.gap
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


def _by_level(parties: Sequence[Party], rooms: list[int], most_nodes: int) -> Found | None:
    """All at once where everybody can be carried; else level by level, and the gap is the widest of them.

    Those of higher levels take part further on, with any choice that leaves them no more missed than they were given:
    they go to a dearer pool where that makes room for somebody below.
    """
    levels, costs = sorted({party.level for party in parties}), [_objectives(party) for party in parties]
    found = _all_carried(parties, costs, rooms, most_nodes) if len(levels) > 1 else None
    if found is not None:
        return found
    given, present, gap = dict[int, float](), [party.now for party in parties], 0.0
    for level in levels:
        active = [index for index, party in enumerate(parties) if party.level <= level]
        left = list(rooms)
        for row, units in (pair for party in parties if party.level > level for pair in party.least):
            left[row] -= units
        found = _narrowed(parties, costs, active, given, present, level, left, most_nodes)
        if found is None:
            return None
        gap = max(gap, found.gap)
        for index, choice in zip(active, found.chosen, strict=True):
            present[index] = choice
            if parties[index].level == level:
                given[index] = parties[index].choices[choice].missed
    return Found(present, gap)


def _all_carried(parties: Sequence[Party], costs: Costs, rooms: list[int], most_nodes: int) -> Found | None:
    """The cheapest by which nobody misses anything, whatever the level; None where there is none."""
    carrying = [[n for n, choice in enumerate(party.choices) if choice.missed <= WHOLE] for party in parties]
    if not all(carrying) or _least(parties, carrying) > sum(rooms):
        return None
    return _stage(parties, costs, carrying, [party.now for party in parties], rooms, most_nodes)


def _narrowed(
    parties: Sequence[Party],
    costs: Costs,
    active: list[int],
    given: dict[int, float],
    present: list[int],
    level: int,
    rooms: list[int],
    most_nodes: int,
) -> Found | None:
    """One level with those above it; what runs is given up only where not everybody of the level can keep it."""
    members = [parties[index] for index in active]
    for lose in (False, True):
        allowed = []
        for index, party in zip(active, members, strict=True):
            if party.level < level:
                allowed.append([n for n, c in enumerate(party.choices) if c.missed <= given[index] + WHOLE])
            else:
                allowed.append(list(range(len(party.choices))) if lose else _kept(party))
        found = _stage(members, [costs[n] for n in active], allowed, [present[n] for n in active], rooms, most_nodes)
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
    parties: Sequence[Party],
    costs: Costs,
    allowed: Sequence[list[int]],
    present: Sequence[int],
    rooms: list[int],
    most_nodes: int,
) -> Found | None:
    """The best among the `allowed`; None where nothing fits or nothing was found."""
    if not all(allowed):
        return None
    columns = [
        (owner, index, cost[index], party.choices[index].uses)
        for owner, (party, cost, indices) in enumerate(zip(parties, costs, allowed, strict=True))
        for index in indices
    ]
    return choose(columns, present, rooms, most_nodes)


def _objectives(party: Party) -> list[float]:
    """What each choice costs, with what it misses; between equals, what is there is the cheapest."""
    weight, now, prefer = MISS * party.weight, party.now, PREFERENCE * party.weight
    return [
        choice.cost + weight * (choice.missed + choice.missed * choice.missed) + (0.0 if index == now else prefer)
        for index, choice in enumerate(party.choices)
    ]
