"""Which Jobs stop now: services take their GPUs, a window closes, or a ceiling binds.

Those that lose least go first: GPU-seconds of the present run x price. Only Jobs that say that they are restartable,
of policies that preempt. An elastic one is made smaller where that is enough. Worked example: a service needs 2 GPUs; a
Job of 4 GPUs that has run for 10 minutes at 2.00 goes before one of 2 GPUs that has run for an hour.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ebbtide.core.batch.duration import hours
from ebbtide.core.batch.lent import Lent
from ebbtide.core.batch.nodes import Asking, Node, Nodes
from ebbtide.core.batch.price import Offer
from ebbtide.core.batch.purse import Purse
from ebbtide.core.batch.shrink import most, pods_to_free, shrink
from ebbtide.core.batch.work import Item
from ebbtide.core.ceilings.words import A_PERIOD, moment, money
from ebbtide.core.work import Cycle
from ebbtide.model.batch import Strategy
from ebbtide.model.plan import Outcome
from ebbtide.model.reasons import Code

HOUR_S = 3600.0
ENDS_SOON = 2.0  # times what a new start takes: what ends so soon costs less than that
_NO_PRICE = 1e-6  # GPUs without a price: the work lost decides


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to make room for a pod on a node: Jobs to stop, or one to make smaller by its last pods."""

    loss: float
    node: Node
    stops: tuple[Item, ...]
    shrinks: tuple[Item, int] | None = None  # by so many pods


def for_services(running: Sequence[Item], nodes: Nodes, lent: Lent, cycle: Cycle) -> None:
    """Make room for the pods of services that find none."""
    by_uid = {item.job.uid: item for item in running if lent.stoppable(item.job)}
    for asking in nodes.asking:
        if nodes.put(asking.pool, asking.gpus):
            continue  # on what was given back for another
        ways = [way for node in nodes.of[asking.pool] for way in _ways(node, asking, by_uid, cycle)]
        if not ways:
            continue
        best = min(ways, key=lambda way: (way.loss, way.node.name))
        for item in best.stops:
            text = f"{asking.service} needs {_gpus(asking.gpus)} of {asking.pool}; {lost(item, cycle)}"
            stop(item, Code.GIVES_GPUS_BACK, text)
            nodes.leave(item.job.uid)
            by_uid.pop(item.job.uid)
        if best.shrinks is not None:
            text = f"{asking.service} needs {_gpus(asking.gpus)} of {asking.pool}"
            shrink(*best.shrinks, text, nodes)
            by_uid.pop(best.shrinks[0].job.uid)
        nodes.put(asking.pool, asking.gpus)


def _ways(node: Node, asking: Asking, by_uid: Mapping[str, Item], cycle: Cycle) -> list[_Way]:
    """The cheapest to stop there, one after the other until there is room; and each elastic Job that could shrink."""
    short = asking.gpus - node.ahead
    able = sorted((by_uid[uid] for uid in node.held if uid in by_uid), key=lambda item: (loss(item, cycle), item.key))
    found, stops, freed = [], list[Item](), 0
    for item in able:
        if freed >= short:
            break
        stops.append(item)
        freed += node.held[item.job.uid]
    if freed >= short:
        for item in tuple(stops):  # what a later one made superfluous
            if freed - node.held[item.job.uid] >= short:
                stops.remove(item)
                freed -= node.held[item.job.uid]
        found.append(_Way(sum(loss(item, cycle) for item in stops), node, tuple(stops)))
    for item in able:
        fewer = pods_to_free(item, node, short) if most(item) else 0
        if fewer:
            found.append(_Way(loss(item, cycle) * fewer / item.job.parallelism, node, (), (item, fewer)))
    return found


def stop(item: Item, code: Code, text: str) -> None:
    """It is stopped in this cycle."""
    item.outcome, item.why, item.parallelism = Outcome.STOPS, (code, text), 0


def loss(item: Item, cycle: Cycle) -> float:
    """Money's worth of what would have to be done again at worst: the present run."""
    pool = cycle.pools.get(item.pool)
    price = pool.price if pool is not None and pool.price else _NO_PRICE
    return item.gpus * price * (_ran_s(item, cycle) + item.restart_s) / HOUR_S


def _ran_s(item: Item, cycle: Cycle) -> float:
    return max(0.0, cycle.now_s - item.job.started_at) if item.job.started_at is not None else 0.0


def lost(item: Item, cycle: Cycle) -> str:
    """`it has run for 12 min and loses 0.80 at most, the least of those that may be stopped`."""
    return (
        f"it has run for {hours(_ran_s(item, cycle))} and loses work for {loss(item, cycle):.2f} at most, the least of "
        "those that may be stopped"
    )


def for_windows(running: Sequence[Item], offers: Mapping[str, Offer], lent: Lent, cycle: Cycle) -> None:
    """Windows that have closed: a Job goes unless it ends soon, its deadline needs it, or it may not be stopped.

    What services or ceilings took, now or in a cycle before, is not asked for once more: 6 GPUs of 8, of which a
    service takes 3 back, leave 3 Jobs on GPUs that are idle.
    """
    going: dict[str, int] = defaultdict(int)
    for item in running:
        going[item.pool] += _going(item)
    for item in sorted(running, key=lambda item: (loss(item, cycle), item.key)):
        offer = offers.get(item.pool)
        if item.outcome is not Outcome.RUNS or offer is None or not item.open or item.open[0]:
            continue
        stays = offer.used[0] - offer.leaving - going[item.pool]
        over = stays - offer.idle[0]
        if item.strategy is Strategy.IDLE_OR_WINDOW and over <= 1e-9:
            continue
        opens_s = next((at_s for at_s, is_open in zip(offer.grid.edges, item.open, strict=False) if is_open), None)
        closed = _closed(item, opens_s)
        sure_s = item.left.at(item.confidence)
        if not lent.stoppable(item.job):
            item.why = Code.OUTSIDE_WINDOW, f"{closed}, and it may not be stopped: it goes on"
        elif item.left.at(0.5) <= ENDS_SOON * item.restart_s:
            ends = hours(item.left.at(0.5))
            item.why = Code.OUTSIDE_WINDOW, f"{closed}; it goes on, for it ends within {ends}"
        elif (
            item.deadline_s is not None
            and (opens_s is None or opens_s + sure_s + item.restart_s > item.deadline_s)
            and _payable(item, offer, cycle.purses)
        ):
            text = f"{closed}; it goes on, for its deadline at {moment(item.deadline_s)}"
            item.why = Code.OUTSIDE_WINDOW, f"{text} would be missed otherwise: it may need {hours(sure_s)} more"
        elif item.strategy is Strategy.IDLE_OR_WINDOW and 0 < (fewer := _pods(over, item)) <= most(item):
            going[item.pool] += fewer * item.job.gpus_per_pod
            shrink(item, fewer, f"{closed} but for those", None)
        else:
            going[item.pool] += item.gpus
            stop(item, Code.OUTSIDE_WINDOW, f"{closed}: stopped; {_spare(item, opens_s, sure_s)}")


def _pods(gpus: float, item: Item) -> int:
    return math.ceil((gpus - 1e-9) / item.job.gpus_per_pod) if item.job.gpus_per_pod else 0


def _closed(item: Item, opens_s: float | None) -> str:
    """Why it is outside; a Job that may use idle GPUs is so only once they are not idle any more."""
    until = f"until {moment(opens_s)}" if opens_s is not None else "and none opens within the plan"
    if item.strategy is Strategy.WINDOW:
        return f"the window has closed {until}"
    no_window = f"no window is open {until}" if opens_s is not None else "no window opens within the plan"
    return f"{no_window}, and its GPUs are not idle any more"


def _going(item: Item) -> int:
    """GPUs that it gives back in this cycle."""
    if item.outcome is Outcome.STOPS:
        return item.gpus
    return item.gpus - item.parallelism * item.job.gpus_per_pod if item.outcome is Outcome.SHRINKS else 0


def _payable(item: Item, offer: Offer, purses: Sequence[Purse]) -> bool:
    return not any(purse.pays(item.namespace) and purse.short for purse in purses)


def _spare(item: Item, opens_s: float | None, sure_s: float) -> str:
    if item.deadline_s is None:
        return "it has no deadline"
    if opens_s is None or opens_s + sure_s + item.restart_s > item.deadline_s:
        return "its deadline will be missed, for there is no money to go on"
    return f"from then on it still ends by {moment(item.deadline_s)} with {item.confidence:.0%}"


def for_money(running: Sequence[Item], purses: Sequence[Purse], lent: Lent, nodes: Nodes, cycle: Cycle) -> set[str]:
    """Ceilings that bind: Jobs go, or elastic ones as far as is enough, until what services lack is free.

    Returns the uids of policies for whose sake some do.
    """
    acted = set()
    for index, purse in enumerate(purses):
        able = [
            item
            for item in running
            if item.outcome in (Outcome.RUNS, Outcome.SHRINKS)
            and lent.stoppable(item.job)
            and purse.pays(item.namespace)
            and (purse.suspends or item.pool not in purse.anyway)  # its GPUs cost as much without it
        ]
        for item in able if purse.short else ():
            if item.outcome is not Outcome.RUNS:
                purse.give(item.pool, (item.job.parallelism - item.parallelism) * item.job.gpus_per_pod)
        while purse.short and able:
            _, _, fewer, item = min(_less(able, purse, cycle), key=lambda way: way[:3])
            able.remove(item)
            text, stays = purse.suspends or _short(purse), item.parallelism * item.job.gpus_per_pod
            gpus = fewer * item.job.gpus_per_pod if fewer else item.gpus if item.outcome is Outcome.RUNS else stays
            purse.give(item.pool, gpus)
            for other in () if fewer else purses[index + 1 :]:  # what is smaller is counted there once it is looked at
                if other.pays(item.namespace):
                    other.give(item.pool, gpus)
            text = f"CostPolicy {purse.spec.name}: {text}"
            if fewer:
                shrink(item, fewer, text, nodes)
            else:
                stop(item, Code.STOPPED_FOR_MONEY, f"{text}; {lost(item, cycle)}")
                nodes.leave(item.job.uid)
            acted.add(purse.spec.uid)
    return acted


def _less(able: Sequence[Item], purse: Purse, cycle: Cycle) -> Iterator[tuple[float, str, int, Item]]:
    """(loss, key, pods fewer; 0: all of it is stopped, the Job): each, and each elastic one as far as is enough."""
    for item in able:
        found = loss(item, cycle)
        yield found, item.key, 0, item
        fewer = 0 if purse.suspends else purse.pods_short(item.pool, item.job.gpus_per_pod)
        if 0 < fewer <= most(item):
            yield found * fewer / item.job.parallelism, item.key, fewer, item


def _short(purse: Purse) -> str:
    line = max(purse.lines, key=lambda line: line.lacks)
    lacks, ceiling = money(line.lacks), money(line.ceiling)
    of = f"{ceiling} {purse.spec.currency} {A_PERIOD[line.kind]}"
    return f"{lacks} {purse.spec.currency} are lacking of {of}, and batch work gives way first"


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"
