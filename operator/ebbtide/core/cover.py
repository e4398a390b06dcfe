"""The cheapest whole numbers of replicas, over a service's variants, that cover a need.

Exact (branch and bound with a fractional bound), so that for the same options a higher need never gets less capacity:
at equal cost the larger capacity wins. What keeps this true where options change with the need is in mix.
Replicas that run already are cheaper than new ones by what a start-up costs: that is the whole hysteresis between
variants.
"""

import math
from dataclasses import dataclass

MOST_STEPS = 50_000  # of the search; three variants of 100 replicas need a few hundred
EPSILON = 1e-9


@dataclass(slots=True)
class Option:
    """One variant as the search sees it. `share` is the part of the need one replica covers, above 0.

    Never changed; not frozen, because 300,000 are made in a cycle, and a frozen one takes three times as long.
    """

    index: int
    share: float
    cost: float  # of a replica that runs, for an hour
    new_cost: float  # of a replica that must be started: with its start-up
    running: int
    low: int
    high: int
    firm: bool = True  # nothing of it is taken away at any moment
    unwelcome: float = 1.0  # what the costs above are times the money, of a stand-in while it is room that is short

    def price(self, count: int) -> float:
        """Cost of `count` replicas for an hour."""
        return count * self.cost + max(0, count - self.running) * (self.new_cost - self.cost)


def cheapest(options: list[Option], need: float = 1.0, firm: float = 0.0) -> tuple[dict[int, int], float]:
    """({index: replicas}, part of the need that found no room). Counts stay within low..high of each option.

    `firm` of the need is covered by firm options, as far as they go.
    """
    usable = [option for option in options if option.high >= option.low]
    if not usable:
        return {}, need
    if sum(option.high * option.share for option in usable) < need - EPSILON:
        full = {option.index: option.high for option in usable}
        return full, need - sum(option.high * option.share for option in usable)
    if len(usable) == 1:
        only = usable[0]
        return {only.index: max(only.low, math.ceil(need / only.share - EPSILON))}, 0.0
    return _Search(usable, need, firm).solve(), 0.0


def cheapest_of_few(options: list[Option], most: int, need: float = 1.0, firm: float = 0.0) -> dict[int, int] | None:
    """The same with at most `most` replicas in all; None where so few do not cover the need.

    Where they cannot cover `firm` of it beside the rest, that is left out.
    """
    usable = [option for option in options if option.high >= option.low]
    for kept in (firm, 0.0) if firm > 0.0 else (0.0,):
        found = _Search(usable, need, kept, most).found()
        if found is not None:
            return found
    return None


class _Search:
    """Depth first over options in order of cost per share; most replicas of the cheapest first."""

    def __init__(self, options: list[Option], need: float, firm: float, most: float = math.inf) -> None:
        self.options = sorted(options, key=lambda option: (option.cost / option.share, option.cost, option.index))
        self.need, self.most = need, most
        self.best_cost = math.inf
        self.best_share = 0.0
        self.best: list[int] = []
        self.steps = 0
        count = len(self.options)
        self.floor_share = [0.0] * (count + 1)
        self.room = [0.0] * (count + 1)
        self.least_ratio = [math.inf] * (count + 1)
        self.floor_cost = [0.0] * (count + 1)
        self.firm_room = [0.0] * (count + 1)
        self.floor_count, self.most_share = [0] * (count + 1), [0.0] * (count + 1)
        for position in range(count - 1, -1, -1):
            option = self.options[position]
            self.floor_share[position] = self.floor_share[position + 1] + option.low * option.share
            self.room[position] = self.room[position + 1] + option.high * option.share
            self.least_ratio[position] = min(self.least_ratio[position + 1], option.cost / option.share)
            self.floor_cost[position] = self.floor_cost[position + 1] + option.price(option.low)
            self.firm_room[position] = self.firm_room[position + 1] + (
                option.high * option.share if option.firm else 0.0
            )
            self.floor_count[position] = self.floor_count[position + 1] + option.low
            self.most_share[position] = max(self.most_share[position + 1], option.share)
        self.firm = min(firm, self.firm_room[0])

    def solve(self) -> dict[int, int]:
        """The cheapest counts by option index; all there is where shares are too unlike to be added up."""
        return self.found() or {option.index: option.high for option in self.options}

    def found(self) -> dict[int, int] | None:
        """The same, or None."""
        self._descend(0, [], 0.0, 0.0, 0.0)
        if not self.best:
            return None
        return {option.index: count for option, count in zip(self.options, self.best, strict=True)}

    def _descend(self, position: int, counts: list[int], cost: float, share: float, firm: float) -> None:
        if position == len(self.options):
            self._keep(counts, cost, share)
            return
        option = self.options[position]
        rest = max(0.0, self.need - share - self.floor_share[position + 1])
        if option.firm:
            rest = max(rest, self.firm - firm)
        most = min(option.high, max(option.low, math.ceil(rest / option.share - EPSILON)))
        left = self.most - sum(counts)
        if left < math.inf:
            most = min(most, int(left) - self.floor_count[position + 1])
        for count in range(most, option.low - 1, -1):
            reached = share + count * option.share
            if reached + self.room[position + 1] < self.need - EPSILON:
                return  # fewer of this one leaves too much for the others
            if left < math.inf and reached + (left - count) * self.most_share[position + 1] < self.need - EPSILON:
                continue  # so few others cannot carry the rest
            kept = firm + (count * option.share if option.firm else 0.0)
            if kept + self.firm_room[position + 1] < self.firm - EPSILON:
                return
            self.steps += 1
            if self.steps > MOST_STEPS and (self.best or left < math.inf):
                return
            paid = cost + option.price(count)
            if self.best and paid + self._bound(position + 1, reached) > self.best_cost + EPSILON:
                continue
            self._descend(position + 1, [*counts, count], paid, reached, kept)

    def _bound(self, position: int, share: float) -> float:
        """The least that the options from `position` on can cost."""
        missing = self.need - share - self.floor_share[position]
        extra = missing * self.least_ratio[position] if missing > 0.0 else 0.0
        return self.floor_cost[position] + (extra if math.isfinite(extra) else 0.0)

    def _keep(self, counts: list[int], cost: float, share: float) -> None:
        if share < self.need - EPSILON:
            return
        cheaper = cost < self.best_cost - EPSILON
        if cheaper or (cost <= self.best_cost + EPSILON and share > self.best_share + EPSILON):
            self.best_cost, self.best_share, self.best = cost, share, counts
