"""The slots of the plan: 15 minutes each for a day, an hour each beyond, and a border wherever something changes.

A price that falls at 22:07 or a window of two minutes has its own borders, the nearest first as far as there is room.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

SLOT_S, FAR_SLOT_S = 900.0, 3600.0
DAY_S = 86_400.0
LONGEST_S = 8 * DAY_S
MOST_CHANGES = 160


@dataclass(slots=True)
class Grid:
    """`edges[0]` is now, the last one where the plan ends; slot i is [edges[i], edges[i + 1])."""

    edges: tuple[float, ...]
    slots: int = field(init=False)
    lengths: tuple[float, ...] = field(init=False)  # of the slots, in seconds

    def __post_init__(self) -> None:
        self.slots = len(self.edges) - 1
        self.lengths = tuple(end - begin for begin, end in zip(self.edges, self.edges[1:], strict=False))

    @property
    def now_s(self) -> float:
        """Where the first slot begins."""
        return self.edges[0]

    @property
    def end_s(self) -> float:
        """Where the last slot ends."""
        return self.edges[-1]

    def slot(self, at_s: float) -> int:
        """The one that holds the moment; the last one beyond the end."""
        return min(self.slots - 1, max(0, bisect_right(self.edges, at_s) - 1))


def grid(now_s: float, until_s: float, changes: Iterable[float]) -> Grid:
    """From now for a day at least and eight at most; `until_s`: the last moment that matters."""
    end_s = now_s + min(LONGEST_S, max(DAY_S, until_s - now_s))
    fine_s = min(end_s, now_s + DAY_S)
    first = math.floor(now_s / SLOT_S) + 1
    edges = {now_s, *(n * SLOT_S for n in range(first, math.ceil(fine_s / SLOT_S)))}
    first = math.floor(fine_s / FAR_SLOT_S) + 1
    edges |= {fine_s, end_s, *(n * FAR_SLOT_S for n in range(first, math.ceil(end_s / FAR_SLOT_S)))}
    inside = sorted({float(at_s) for at_s in changes if now_s < at_s < end_s})
    return Grid(tuple(sorted(edges | set(inside[:MOST_CHANGES]))))
