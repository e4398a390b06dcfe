"""Where one Job could run: its places in one pool, each with what it costs and whether its deadline is kept.

A Job that may be stopped makes way in slots in which services are expected to need its GPUs or its window is closed,
and goes on afterwards: its clock runs in the others alone, less what each new start takes. One that may not be stopped
needs the slots from its start until it has ended with the confidence that is asked for, whatever services come to need.

Looked at are starts at which something changes: room or an idle GPU comes, the price falls, the run would end as it
rises, and the last slot by which the deadline is kept. Between them a later start is never cheaper.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace

from ebbtide.core.batch.duration import Remaining
from ebbtide.core.batch.price import Offer
from ebbtide.core.batch.work import Holders, Item, Place
from ebbtide.model.batch import Strategy

HOUR_S = 3600.0
SOONER = 0.002  # of the dearest price an hour: so much is an hour's earlier end worth
BEYOND = 1.0  # times the dearest price: what a GPU-hour outside a Job's windows counts beside its cost
RESERVED = 0.75  # of its runs have ended by when the GPUs are planned for somebody else
MOST_STARTS = 40


@dataclass(slots=True)
class _Clock:
    """Of one Job in one pool, by border: seconds that it would have run by then, and the money that takes."""

    ran: list[float]
    money: list[float]
    beyond: list[float]  # seconds outside its windows

    def at(self, offer: Offer, moment_s: float) -> float:
        """Seconds that it would have run by a moment."""
        edges = offer.grid.edges
        if moment_s >= edges[-1]:
            return self.ran[-1] + moment_s - edges[-1]
        index = offer.grid.slot(moment_s)
        share = (moment_s - edges[index]) / (edges[index + 1] - edges[index])
        return self.ran[index] + share * (self.ran[index + 1] - self.ran[index])

    def after(self, start: int, seconds: float) -> tuple[int, float]:
        """(slot, share of it) in which so many seconds have run since border `start`; beyond the plan 1 + seconds."""
        target = self.ran[start] + seconds
        index = bisect_left(self.ran, target, start + 1)
        if index >= len(self.ran):
            return len(self.ran) - 2, 1.0 + target - self.ran[-1]
        runs_s = self.ran[index] - self.ran[index - 1]
        return index - 1, (target - self.ran[index - 1]) / runs_s if runs_s else 1.0


def places(item: Item, offer: Offer, holders: Holders | None, dearest: float) -> list[Place]:
    """Those worth looking at, of all its pods; `dearest`: the highest price of any pool."""
    return places_of(item, offer, holders, dearest, item.job.parallelism, item.left)


def places_of(
    item: Item, offer: Offer, holders: Holders | None, dearest: float, parallelism: int, left: Remaining
) -> list[Place]:
    """The same of so many pods, which take `left`."""
    gpus = parallelism * item.job.gpus_per_pod
    fits = offer.fitting(gpus, stays=not item.restartable)
    if holders is not None and holders.most is not None:
        fits = [fit and holders.has_room(slot, gpus) for slot, fit in enumerate(fits)]
    if not any(fits):
        return []
    welcome = _welcome(item, offer, gpus)
    if item.restartable:
        fits = [fit and may for fit, may in zip(fits, welcome, strict=True)]
    if not any(fits):
        return []
    costs = offer.costing(gpus)
    clock = _clock(item, offer, fits, welcome, costs, gpus)
    sure_s, middle_s, points = left.at(item.confidence), left.at(0.5), left.points()
    blocked = _next_blocked(fits)
    found = []
    for start in _starts(item, offer, fits, welcome, costs, clock, middle_s):
        if not item.restartable:
            slot, _ = clock.after(start, sure_s)
            if blocked[start] <= slot:
                continue
        found.append(_place(item, offer, clock, start, parallelism, left, middle_s, points, dearest))
    return found


def _welcome(item: Item, offer: Offer, gpus: int) -> list[bool]:
    """By slot: whether its policy lets it run there and then."""
    if item.strategy is not Strategy.IDLE_OR_WINDOW:
        return list(item.open)
    return [is_open or offer.is_idle(slot, gpus) for slot, is_open in enumerate(item.open)]


def _clock(item: Item, offer: Offer, fits: list[bool], welcome: list[bool], costs: list[float], gpus: int) -> _Clock:
    clock, may_rest = _Clock([0.0], [0.0], [0.0]), item.restartable
    ran_s = money = beyond_s = 0.0
    before, per_s = True, gpus / HOUR_S
    for seconds, fit, good, cost in zip(offer.grid.lengths, fits, welcome, costs, strict=True):
        if fit or not may_rest:
            ran_s += seconds if before else max(0.0, seconds - item.restart_s)
            money += cost * per_s * seconds
            beyond_s += 0.0 if good else seconds
            before = True
        else:
            before = False
        clock.ran.append(ran_s)
        clock.money.append(money)
        clock.beyond.append(beyond_s)
    return clock


def _next_blocked(fits: list[bool]) -> list[int]:
    """By slot: the first from there on in which there is no room."""
    found, at = [0] * len(fits), len(fits)
    for slot in range(len(fits) - 1, -1, -1):
        at = at if fits[slot] else slot
        found[slot] = at
    return found


def _starts(
    item: Item,
    offer: Offer,
    fits: list[bool],
    welcome: list[bool],
    costs: list[float],
    clock: _Clock,
    middle_s: float,
) -> list[int]:
    may = [fit and good for fit, good in zip(fits, welcome, strict=True)]
    grid, found = offer.grid, set[int]()
    for slot, good in enumerate(may):
        if not good:
            continue
        if slot == 0 or not may[slot - 1] or costs[slot] < costs[slot - 1]:
            found.add(slot)
    found.update(slot for slot in offer.comings.eases(offer.used) if may[slot])
    for slot in range(1, grid.slots):
        if costs[slot] > costs[slot - 1] or (fits[slot - 1] and not fits[slot]):
            begins_s = clock.ran[slot] - middle_s
            if begins_s > 0.0:
                found.add(bisect_left(clock.ran, begins_s))
    if item.deadline_s is not None:
        begins_s = clock.at(offer, item.deadline_s) - item.left.at(item.confidence)
        if begins_s > 0.0:
            # the last border by which it may begin; of a deadline weeks ahead the plan's last slot
            found.add(min(grid.slots - 1, bisect_right(clock.ran, begins_s) - 1))
    able = sorted(slot for slot in found if slot < grid.slots and may[slot])
    if len(able) > MOST_STARTS:
        able = sorted({able[0], *sorted(able, key=lambda slot: (costs[slot], slot))[:MOST_STARTS]})
    return able


def _place(
    item: Item,
    offer: Offer,
    clock: _Clock,
    start: int,
    parallelism: int,
    left: Remaining,
    middle_s: float,
    points: tuple[tuple[float, float], ...],
    dearest: float,
) -> Place:
    edges, gpus = offer.grid.edges, parallelism * item.job.gpus_per_pod
    cost = beyond_s = ran_s = 0.0
    for seconds, weight in points:
        slot, share = clock.after(start, seconds)
        within = min(1.0, share)
        extra_s = share - 1.0 if share > 1.0 else 0.0
        spent = clock.money[slot] + within * (clock.money[slot + 1] - clock.money[slot]) - clock.money[start]
        cost += weight * (spent + extra_s * offer.costs(slot, gpus) * gpus / HOUR_S)
        outside = clock.beyond[slot] + within * (clock.beyond[slot + 1] - clock.beyond[slot]) - clock.beyond[start]
        beyond_s += weight * outside
        ran_s += weight * seconds
    slot, share = clock.after(start, middle_s)
    empties = offer.empties(start, slot, gpus)
    ends_s = edges[slot] + min(1.0, share) * (edges[slot + 1] - edges[slot]) + max(0.0, share - 1.0)
    last, share = clock.after(start, left.at(RESERVED))
    late = 0.0
    if item.deadline_s is not None:
        late = left.runs_beyond(clock.at(offer, item.deadline_s) - clock.ran[start])
        late = 0.0 if late <= 1.0 - item.confidence + 1e-9 else late
    sooner = SOONER * dearest * gpus * (ends_s - offer.grid.now_s) / HOUR_S
    return Place(
        offer.name,
        start,
        edges[start],
        ends_s,
        cost,
        cost + empties + sooner + BEYOND * dearest * gpus * beyond_s / HOUR_S,
        late,
        tuple(each for each in range(start, last + 1) if clock.ran[each + 1] > clock.ran[each]),
        gpus,
        parallelism,
        cost * HOUR_S / (gpus * ran_s) if gpus and ran_s else 0.0,
        empties,
    )


def smaller(item: Item, parallelism: int) -> tuple[int, Remaining]:
    """An elastic Job with fewer pods: what is left takes as much longer."""
    scale = item.job.parallelism / parallelism
    left = item.left
    rest = replace(left, middle_s=left.middle_s * scale, elapsed_s=left.elapsed_s * scale)
    return parallelism, rest
