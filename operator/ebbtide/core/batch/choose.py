"""Every waiting Job's place: deadlines first, then money, then early finish.

One after the other, the earliest latest start first, each at its cheapest place that keeps its deadline. Where that
leaves somebody late, the same with the earliest end instead of the cheapest, by deadline, by priority, and with those
that are late last; what keeps most (by priority) and costs least stands. What is left of conflicts is for the programme
(`conflict`). Jobs without a deadline come after, by priority and then by what their namespaces were given so far: the
share of a pool that is short is fair.
"""

import math
from collections.abc import Sequence

from ebbtide.core.batch import conflict
from ebbtide.core.batch.field import Field, Saved
from ebbtide.core.batch.work import Item, Place

MOST_TRIED = 400  # late ones and more waiting Jobs than that: other orders are not tried
HOPELESS = 0.9  # chance of being late, from which on a Job is late anyway
_ALIKE = 1e-9


def choose(items: Sequence[Item], field_: Field) -> None:
    """Fill `place` of each, and put it into the field, which holds what runs; None where there is none in the plan."""
    saved = field_.save()
    best = _greedy(_by_latest(items), field_, cheapest=True)
    late = _lateness(best)
    if late and len(items) <= MOST_TRIED:
        best = _otherwise(items, best, field_, saved)
    elif late:
        # far more than there is room for: whoever is not sure to be in time makes way for those who can be
        field_.back(saved)
        other = _greedy(_by_latest(items), field_, cheapest=True, hopeless=0.0)
        best = other if _is_better(other, best) else best
    field_.back(saved)
    best = conflict.resolve(best, field_, _is_better)
    for item, place in best:
        item.place = place
        if place is not None:
            field_.put(item, place)


Placed = list[tuple[Item, Place | None]]


def _otherwise(items: Sequence[Item], best: Placed, field_: Field, saved: Saved) -> Placed:
    """Other orders, and the earliest end instead of the cheapest."""
    orders = (_by_latest(items), False), (_by_deadline(items), False), (_by_deadline(items), True)
    for order, cheapest in (*orders, (_by_priority(items), True)):
        field_.back(saved)
        other = _greedy(order, field_, cheapest=cheapest)
        if _is_better(other, best):
            best = other
    return best


def _by_deadline(items: Sequence[Item]) -> list[Item]:
    """As by the latest start, but by the deadline itself."""
    return sorted(_by_latest(items), key=lambda item: math.inf if item.deadline_s is None else item.deadline_s)


def _greedy(order: Sequence[Item], field_: Field, *, cheapest: bool, hopeless: float = HOPELESS) -> Placed:
    """Each in its turn; what is late anyway comes behind all others, so that it makes nobody else late.

    Three Jobs of 2 h on one GPU, to end within 1 h, 2.5 h and 4.5 h: the first is late anyway, and behind the other two
    it is the only one.
    """
    found: Placed = []
    behind = []
    for item in order:
        place = _next(item, field_, cheapest=cheapest)
        if place is not None and place.late > hopeless:
            behind.append(item)
            continue
        found.append((item, place))
        if place is not None:
            field_.put(item, place)
    for item in behind:
        place = _next(item, field_, cheapest=cheapest)
        found.append((item, place))
        if place is not None:
            field_.put(item, place)
    return found


def _next(item: Item, field_: Field, *, cheapest: bool) -> Place | None:
    """Its best place beside those before it."""
    shape = _shape(item)
    if shape in field_.tried:
        return None
    able = field_.look(item)
    if not able:
        field_.tried.add(shape)
        return None
    return able[0] if cheapest or item.deadline_s is None else min(able, key=_soonest)


def _soonest(place: Place) -> tuple[float, float, float, str]:
    return place.late, place.ends_s, place.worth, place.pool


def _shape(item: Item) -> tuple[object, ...]:
    """Jobs of one shape find room alike: once one finds none, the rest need not be asked."""
    size = round(item.left.at(item.confidence) / 600.0)
    return item.job.policy, item.pools, item.gpus, item.job.gpus_per_pod, item.restartable, size, item.job.elastic


def _by_latest(items: Sequence[Item]) -> list[Item]:
    """Those with deadlines by their latest start, then the others by priority and fairly by namespace."""
    urgent = [item for item in items if item.latest_s is not None]
    urgent.sort(key=lambda item: (item.latest_s or 0.0, -item.priority, item.key))
    return urgent + _fairly([item for item in items if item.latest_s is None])


def _by_priority(items: Sequence[Item]) -> list[Item]:
    """By priority, of equals those with deadlines first, and these fairly by namespace."""
    found: list[Item] = []
    for priority in sorted({item.priority for item in items}, reverse=True):
        equals = [item for item in items if item.priority == priority]
        found += _fairly([item for item in equals if item.latest_s is not None])
        found += _fairly([item for item in equals if item.latest_s is None])
    return found


def _fairly(items: Sequence[Item]) -> list[Item]:
    """By priority, then as if each namespace were served in turn, by GPU-hours: start-time fair queueing.

    Two namespaces, one with three Jobs of 4 GPU-hours, one with one of 4: the second comes after the first's first.
    """
    given: dict[tuple[int, str], float] = {}
    keyed = []
    for item in sorted(items, key=lambda item: (item.latest_s or 0.0, item.job.created_at, item.key)):
        at = given.get((item.priority, item.namespace), 0.0)
        given[item.priority, item.namespace] = at + item.gpus * item.left.at(0.5)
        keyed.append((-item.priority, at, item.job.created_at, item.key, item))
    return [entry[-1] for entry in sorted(keyed, key=lambda entry: entry[:-1])]


def _lateness(placed: Placed) -> tuple[tuple[int, float], ...]:
    """By priority, the highest first: deadlines that are not kept."""
    late: dict[int, float] = {}
    for item, place in placed:
        if item.deadline_s is not None:
            missed = 1.0 if place is None else place.late
            late[item.priority] = late.get(item.priority, 0.0) + missed
    return tuple((-priority, missed) for priority, missed in sorted(late.items(), reverse=True) if missed > _ALIKE)


def _is_better(other: Placed, best: Placed) -> bool:
    """Fewer late ones by priority, then less money."""
    if not _same(missed := _by_level(other), before := _by_level(best)):
        return missed < before
    (waits, worth), (waited, before_worth) = _worth(other), _worth(best)
    return waits < waited or (waits == waited and worth < before_worth - _ALIKE)


def _by_level(placed: Placed) -> list[float]:
    levels = sorted({item.priority for item, _ in placed}, reverse=True)
    late = {-priority: missed for priority, missed in _lateness(placed)}
    return [round(late.get(level, 0.0), 9) for level in levels]


def _same(one: list[float], other: list[float]) -> bool:
    return all(abs(a - b) <= _ALIKE for a, b in zip(one, other, strict=True))


def _worth(placed: Placed) -> tuple[int, float]:
    return sum(place is None for _, place in placed), sum(place.worth for _, place in placed if place is not None)
