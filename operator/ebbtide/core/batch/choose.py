"""Every waiting Job's place: deadlines first, then money, then early finish.

One after the other, each at its cheapest place that keeps its deadline: whose latest start is near by that, then the
others with deadlines and then those without, each by what their namespaces were lent so far: the share of a pool that
is short is fair. Where that leaves somebody late, the same strictly by the latest start, with the earliest end instead
of the cheapest, by deadline, by priority, and with those that are late last; what keeps most (by priority) and costs
least stands. What is left of conflicts is for the programme (`conflict`).
"""

import math
from collections.abc import Iterable, Sequence

from ebbtide.core.batch import conflict
from ebbtide.core.batch.field import Field
from ebbtide.core.batch.share import Shares
from ebbtide.core.batch.work import Item, Place

MOST_TRIED = 400  # late ones and more waiting Jobs than that: fewer other orders are tried
HOPELESS = 0.9  # chance of being late, from which on a Job is late anyway
NEAR_S = 2 * 3600.0  # a latest start within that comes before any share
_ALIKE = 1e-9


def choose(items: Sequence[Item], field_: Field) -> None:
    """Fill `place` of each, and put it into the field, which holds what runs; None where there is none in the plan."""
    saved = field_.save()
    best = _greedy(_in_turn(items, field_), field_, cheapest=True)
    for order, cheapest, hopeless in _others(items, field_) if _lateness(best) else ():
        field_.back(saved)
        other = _greedy(order, field_, cheapest=cheapest, hopeless=hopeless)
        if _is_better(other, best):
            best = other
    field_.back(saved)
    best = conflict.resolve(best, field_, _is_better)
    for item, place in best:
        item.place = place
        if place is not None:
            field_.put(item, place)


Placed = list[tuple[Item, Place | None]]


def _others(items: Sequence[Item], field_: Field) -> Iterable[tuple[list[Item], bool, float]]:
    """Other orders, where somebody is late: (order, the cheapest place or the earliest end, who is hopeless)."""
    shared = len({item.namespace for item in items}) > 1
    ranked = len({item.priority for item in items}) > 1
    if len(items) > MOST_TRIED:
        # far more than there is room for: whoever is not sure to be in time makes way for those who can be
        yield _by_latest(items, field_), True, 0.0
        if ranked:
            yield _by_priority(items, field_), True, 0.0
        return
    if shared:
        yield _by_latest(items, field_), True, HOPELESS
    yield _by_latest(items, field_), False, HOPELESS
    yield _by_deadline(items, field_), False, HOPELESS
    yield _by_deadline(items, field_), True, HOPELESS
    yield _by_priority(items, field_), True, HOPELESS


def _by_deadline(items: Sequence[Item], field_: Field) -> list[Item]:
    """As by the latest start, but by the deadline itself."""
    return sorted(_by_latest(items, field_), key=lambda item: math.inf if item.deadline_s is None else item.deadline_s)


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


def _in_turn(items: Sequence[Item], field_: Field) -> list[Item]:
    """Those whose latest start is near by that, then fairly by namespace: the others with deadlines, the others.

    Of one namespace's it is the order of their latest starts.
    """
    near_s = field_.now_s + NEAR_S
    shares = field_.shares.copy()
    near = _latest_first(item for item in items if item.latest_s is not None and item.latest_s <= near_s)
    far = _latest_first(item for item in items if item.latest_s is not None and item.latest_s > near_s)
    for item in near:
        shares.add(item)
    return near + _fairly(far, shares) + _waiting(items, shares)


def _by_latest(items: Sequence[Item], field_: Field) -> list[Item]:
    """Those with deadlines by their latest start, then the others by priority and fairly by namespace."""
    shares = field_.shares.copy()
    urgent = _latest_first(item for item in items if item.latest_s is not None)
    for item in urgent:
        shares.add(item)
    return urgent + _waiting(items, shares)


def _by_priority(items: Sequence[Item], field_: Field) -> list[Item]:
    """By priority, of equals those with deadlines first, and these fairly by namespace."""
    found: list[Item] = []
    shares = field_.shares.copy()
    for priority in sorted({item.priority for item in items}, reverse=True):
        equals = [item for item in items if item.priority == priority]
        found += _fairly(_latest_first(item for item in equals if item.latest_s is not None), shares)
        found += _waiting(equals, shares)
    return found


def _latest_first(items: Iterable[Item]) -> list[Item]:
    return sorted(items, key=lambda item: (item.latest_s or 0.0, -item.priority, item.key))


def _waiting(items: Iterable[Item], shares: Shares) -> list[Item]:
    """Those without a deadline: by priority, then fairly."""
    waits = sorted((item for item in items if item.latest_s is None), key=lambda item: (item.job.created_at, item.key))
    found: list[Item] = []
    for priority in sorted({item.priority for item in waits}, reverse=True):
        found += _fairly([item for item in waits if item.priority == priority], shares)
    return found


def _fairly(items: Sequence[Item], shares: Shares) -> list[Item]:
    """As if each namespace were served in turn, by GPU-hours: start-time fair queueing; each namespace's own in order.

    Two namespaces that were lent nothing, one with three Jobs of 4 GPU-hours, one with one of 4: the second comes after
    the first's first.
    """
    keyed = []
    for number, item in enumerate(items):
        keyed.append((shares.of(item), number))
        shares.add(item)
    return [items[number] for _, number in sorted(keyed)]


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
