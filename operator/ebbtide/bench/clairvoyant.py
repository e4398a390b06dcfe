"""The cheapest plan of one who knows every arrival: what policies are held against, and itself replayed as one.

A dynamic programme over slots chooses whole replicas; a start costs its billed start-up; misses, from a measured table,
may add up to a budget over the *whole* span, spent where they save most. The budget becomes a price of a miss, found by
bisection; what the price alone cannot settle is settled by splicing the plans on either side of it. It knows the
future by purpose and must never be used by a policy. Its bound is one by the table: a queue that outlives its minute is
not in it, so only a replay says what the plan really attains.
"""

import math
from collections.abc import Sequence

import msgspec

from ebbtide.bench.case import Case
from ebbtide.bench.misses import MissTable
from ebbtide.bench.policy import Knob
from ebbtide.bench.traffic import arrivals_by_slot, peak_per_s
from ebbtide.errors import ConfigurationError
from ebbtide.sim.requests import Request

SLOT_S = 60.0
# The plan's own knob: by what its miss budget is divided, so that its replay meets the target and not just its sums.
CAUTION = Knob("caution", published=1.0, low=0.05, high=50.0, log=True)
_HIGHEST_PRICE_S = 1e12  # replica-seconds for one miss: who misses the budget even so cannot meet it
_BISECTIONS = 24


class Problem(msgspec.Struct, frozen=True):
    """Slots of `slot_s` seconds; `misses[t][k]` are those expected in slot t with `lowest` + k replicas ready.

    A replica that is ready from slot t on was billed from `startup_s` before; none is ready that would have had to
    start before 0 s. `first` are ready at 0 s. `budget` is the misses allowed over all slots. More replicas never
    miss more.
    """

    slot_s: float
    startup_s: float
    lowest: int
    first: int
    misses: tuple[tuple[float, ...], ...]
    budget: float


class Plan(msgspec.Struct, frozen=True):
    """Replicas ready by slot, with what they cost (replica-seconds, start-up included) and miss.

    `bound_replica_s` is the Lagrangian bound: no plan inside the budget costs less. `feasible`: inside the budget;
    where no plan is, this is one that misses least.
    """

    replicas: tuple[int, ...]
    cost_replica_s: float
    misses: float
    bound_replica_s: float
    feasible: bool


def cheapest(problem: Problem) -> Plan:
    """The cheapest plan inside the miss budget, within the gap that `bound_replica_s` shows."""
    over = _best_path(problem, 0.0)
    bound = _bound(problem, over, 0.0)
    if _misses(problem, over) <= problem.budget:
        return _plan(problem, over, bound)
    low, high = 0.0, problem.slot_s
    path = _best_path(problem, high)
    while _misses(problem, path) > problem.budget:
        bound = max(bound, _bound(problem, path, high))
        if high > _HIGHEST_PRICE_S:
            return _plan(problem, path, _cost(problem, path))
        low, high, over = high, 4 * high, path
        path = _best_path(problem, high)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        tried = _best_path(problem, middle)
        bound = max(bound, _bound(problem, tried, middle))
        if _misses(problem, tried) <= problem.budget:
            path, high = tried, middle
        else:
            over, low = tried, middle
    return _plan(problem, _spliced(problem, path, over), bound)


def problem_of(case: Case, requests: Sequence[Request], table: MissTable, caution: float = 1.0) -> Problem:
    """The problem of `case` with every arrival known: slots of a minute, misses by `table` at that minute's work.

    The budget is what the case's attainment allows, divided by `caution`.
    """
    slots = zip(arrivals_by_slot(requests, SLOT_S), _loads(requests, table), strict=True)
    fleets = range(case.min_replicas, case.max_replicas + 1)
    return Problem(
        slot_s=SLOT_S,
        startup_s=sum(case.startup_s) / len(case.startup_s),
        lowest=case.min_replicas,
        first=case.start_replicas,
        misses=tuple(tuple(came * table.share(n, load / max(1, n)) for n in fleets) for came, load in slots),
        budget=(1.0 - case.attainment) * len(requests) / caution,
    )


def planned(case: Case, requests: Sequence[Request], table: MissTable, caution: float) -> Case:
    """`case` with the clairvoyant's path, to be run under the policy `path`."""
    return along(case, problem_of(case, requests, table, caution))


def along(case: Case, problem: Problem) -> Case:
    """`case` with the path of the cheapest plan of `problem`."""
    ahead_s = sorted(case.startup_s)[math.ceil(0.9 * len(case.startup_s)) - 1]
    return msgspec.structs.replace(case, path=steps(cheapest(problem).replicas, problem.slot_s, ahead_s, case.cycle_s))


def steps(ready: Sequence[int], slot_s: float, ahead_s: float, cycle_s: float) -> tuple[tuple[float, int], ...]:
    """(second from which, replicas to ask for) so that `ready[t]` serve in slot t, asked for `ahead_s` before.

    Ready 1, 1, 3, 2 in slots of 60 s with 100 s ahead and a cycle of 15 s: 1, from 15 s on 3, from 180 s on 2. A start
    is asked for at the last cycle that is early enough.
    """
    spans = [
        (max(0.0, math.floor((t * slot_s - ahead_s) / cycle_s) * cycle_s), (t + 1) * slot_s) for t in range(len(ready))
    ]
    found: list[tuple[float, int]] = []
    oldest = newest = 0
    for at_s in sorted({edge_s for span in spans for edge_s in span}):
        while newest < len(spans) and spans[newest][0] <= at_s:
            newest += 1
        while oldest < newest and spans[oldest][1] <= at_s:
            oldest += 1
        wanted = max(ready[oldest:newest], default=0)
        if oldest < len(spans) and (not found or found[-1][1] != wanted):
            found.append((at_s, wanted))
    return tuple(found)


def require_room(case: Case, requests: Sequence[Request], table: MissTable) -> None:
    """Raise ConfigurationError where even `max_replicas` all the time miss more than the case allows.

    A target that idle replicas miss too (p0) is no lack of room and passes.
    """
    carried = table.capacity(case.max_replicas, 1.0 - case.attainment)
    problem = problem_of(case, requests, table)
    if carried is None or sum(slot[-1] for slot in problem.misses) <= problem.budget:
        return
    peak = peak_per_s(requests)
    raise ConfigurationError(
        f"case {case.name}: its busiest five minutes bring {peak:.4g} requests/s; the {case.max_replicas} replicas "
        f"allowed carry {carried * case.max_replicas:.4g} at {case.attainment:.4g}: allow more, or scale the load down"
    )


def fluid_replica_s(case: Case, requests: Sequence[Request], table: MissTable) -> float | None:
    """Replica-seconds of replicas in any fraction that start and stop for nothing and pool without end.

    Each carries what one of the largest fleet measured carries at the case's attainment; never fewer than
    `min_replicas`. None where the attainment cannot be bought.
    """
    carried = table.capacity(table.replicas[-1], 1.0 - case.attainment)
    if carried is None:
        return None
    return sum(SLOT_S * max(case.min_replicas, load / carried) for load in _loads(requests, table))


def _loads(requests: Sequence[Request], table: MissTable) -> list[float]:
    """Mean requests per second by slot: long ones count for more than one."""
    work = [0.0] * len(arrivals_by_slot(requests, SLOT_S))
    for request in requests:
        work[int(request.arrival_s // SLOT_S)] += table.work.of(request)
    return [slot / SLOT_S for slot in work]


def _best_path(problem: Problem, price: float) -> list[int]:
    """Replicas by slot with the least cost + price x misses: forward over the slots, each level's best past known."""
    levels = range(len(problem.misses[0]))
    first = min(levels[-1], max(0, problem.first - problem.lowest))
    best = [0.0 if level == first else math.inf for level in levels]
    came_from: list[list[int]] = []
    for slot, misses in enumerate(problem.misses):
        rise_s = problem.startup_s if slot * problem.slot_s >= problem.startup_s else math.inf
        best, origins = _step(best, rise_s)
        came_from.append(origins)
        for level in levels:
            best[level] += (problem.lowest + level) * problem.slot_s + price * misses[level]
    level = min(levels, key=best.__getitem__)
    path = []
    for origins in reversed(came_from):
        path.append(problem.lowest + level)
        level = origins[level]
    return path[::-1]


def _step(best: Sequence[float], rise_s: float) -> tuple[list[float], list[int]]:
    """Least cost to stand on each level in the next slot, and from which: staying and falling are free."""
    reached, origins = list(best), list(range(len(best)))
    for level in range(len(best) - 2, -1, -1):
        if reached[level + 1] < reached[level]:
            reached[level], origins[level] = reached[level + 1], origins[level + 1]
    risen, risen_from = math.inf, 0
    for level in range(1, len(best)):
        if best[level - 1] < risen:
            risen, risen_from = best[level - 1], level - 1
        risen += rise_s
        if risen < reached[level]:
            reached[level], origins[level] = risen, risen_from
    return reached, origins


def _spliced(problem: Problem, inside: Sequence[int], over: Sequence[int]) -> list[int]:
    """`inside` with those stretches of the cheaper plan `over` that the budget still holds, best saving per miss first.

    Stretches are where the two differ; between them they agree, so that each is exchanged without touching the others.
    """
    path, left = list(inside), problem.budget - _misses(problem, inside)
    offers = []
    for begin, end in _differences(inside, over):
        swapped = [*inside[:begin], *over[begin:end], *inside[end:]]
        saved = _cost(problem, inside) - _cost(problem, swapped)
        more = _misses(problem, swapped) - _misses(problem, inside)
        if saved > 0:
            offers.append((saved / max(more, 1e-9), begin, end, more))
    for _, begin, end, more in sorted(offers, reverse=True):
        if more <= left:
            path[begin:end] = over[begin:end]
            left -= more
    return path


def _differences(first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int]]:
    """[begin, end) of each stretch of slots in which two plans differ."""
    found: list[tuple[int, int]] = []
    for slot, (one, other) in enumerate(zip(first, second, strict=True)):
        if one == other:
            continue
        if found and found[-1][1] == slot:
            found[-1] = (found[-1][0], slot + 1)
        else:
            found.append((slot, slot + 1))
    return found


def _plan(problem: Problem, path: Sequence[int], bound: float) -> Plan:
    cost, misses = _cost(problem, path), _misses(problem, path)
    return Plan(tuple(path), cost, misses, min(bound, cost), misses <= problem.budget)


def _bound(problem: Problem, path: Sequence[int], price: float) -> float:
    """What no plan inside the budget undercuts, given the best plan at a price of misses."""
    return _cost(problem, path) + price * (_misses(problem, path) - problem.budget)


def _cost(problem: Problem, path: Sequence[int]) -> float:
    started = sum(max(0, after - before) for before, after in zip([problem.first, *path], path, strict=False))
    return problem.slot_s * sum(path) + problem.startup_s * started


def _misses(problem: Problem, path: Sequence[int]) -> float:
    return sum(slot[n - problem.lowest] for slot, n in zip(problem.misses, path, strict=True))
