"""The plan over the next day: what is free when and at what price, who runs on it, and why the others wait.

Made anew once a minute, or when something happened: a Job came, went or was touched, a pool or a policy changed, a
planned start has come, a window or a price changes. In between it stands as it was made (`memory.batch.planned`).
"""

from collections.abc import Iterable, Sequence
from zlib import crc32

import msgspec

from ebbtide.core import pools
from ebbtide.core.batch import need, payable, price, share
from ebbtide.core.batch.choose import choose
from ebbtide.core.batch.field import Field
from ebbtide.core.batch.fit import RESERVED
from ebbtide.core.batch.grid import Grid, grid
from ebbtide.core.batch.helps import MOST, helps
from ebbtide.core.batch.lent import Lent, hangs
from ebbtide.core.batch.nodes import Nodes
from ebbtide.core.batch.price import Offer
from ebbtide.core.batch.purse import Refusal
from ebbtide.core.batch.why import CENT, note
from ebbtide.core.batch.work import Holders, Item, Place
from ebbtide.core.work import Cycle
from ebbtide.model.batch import Strategy
from ebbtide.model.memory import PlannedJob
from ebbtide.model.plan import Outcome
from ebbtide.model.reasons import Code

EVERY_S = 60.0
UNPRICED = 0.01  # where GPUs cost nothing, an hour's earlier end is still worth something


def signature(cycle: Cycle, items: Sequence[Item]) -> int:
    """A sum over what a plan is made for; another one is an event."""
    jobs = [(i.job.uid, i.job.suspended, i.job.intent.value, i.job.parallelism, i.outcome.value) for i in items]
    pools_ = [(p.name, p.gpus, p.price, p.state.spec.generation, p.elastic) for p in cycle.pools.values()]
    policies = [(state.spec.key, state.spec.generation) for state in cycle.snapshot.batch_policies]
    return crc32(repr((jobs, sorted(pools_), policies)).encode())


def is_due(cycle: Cycle, made_for: int) -> bool:
    """Whether the plan must be made anew."""
    known = cycle.memory.batch
    if known.planned_for != made_for or not known.planned_at <= cycle.now_s < known.planned_at + EVERY_S:
        return True
    return bool(known.next_at) and cycle.now_s >= known.next_at


def open_field(items: Sequence[Item], lent: Lent, cycle: Cycle) -> Field:
    """The pools that any of the Jobs may use or uses, with what runs already."""
    names = sorted({name for item in items for name in item.pools} | {item.pool for item in items if item.pool})
    slots = _grid(items, cycle)
    # within its stopping time a Job must not be asked to go, and within that of its start it has done nothing yet
    starts = [item for item in items if item.outcome is Outcome.WAITS and item.restartable]
    alone_s = max((item.stop_s + item.restart_s for item in starts), default=0.0)
    needs = need.needs(cycle, slots, names, alone_s)
    others = others_hold(cycle, lent)
    offers = {name: price.offer(cycle.pools[name], needs[name], others.get(name, 0.0), slots, cycle) for name in names}
    holders = {state.spec.key: Holders(state.spec.max_gpus, [0.0] * slots.slots) for state in lent.policies.values()}
    prices = [each for offer in offers.values() for each in offer.price if each is not None]
    field = Field(offers, holders, max(UNPRICED, max(prices, default=0.0)), share.shares(items, cycle))
    _open_windows(items, slots)
    for item in items:
        if item.pool in offers:
            if item.job.suspended:
                _leave(item, field)
            else:
                _hold(item, field, slots)
    return field


def beside_background(field: Field, cycle: Cycle) -> None:
    """What Background services have is not free just now; they make way for Jobs that are about to start."""
    for policy, pool, gpus in cycle.background:
        if pool in field.offers:
            field.offers[pool].take((0,), gpus, stays=False)
        if policy in field.holders:
            field.holders[policy].take((0,), gpus)


def _grid(items: Sequence[Item], cycle: Cycle) -> Grid:
    deadlines = [item.deadline_s for item in items if item.deadline_s is not None]
    opens = [span for state in cycle.snapshot.batch_policies for span in state.open]
    coming = [
        next((begin for begin, _ in state.open if begin > cycle.now_s), 0.0) for state in cycle.snapshot.batch_policies
    ]
    borders = [edge for span in opens for edge in span]
    until_s = max([cycle.now_s, *deadlines, *(at_s + 86_400.0 for at_s in coming if at_s)])
    return grid(cycle.now_s, until_s, [*price.changes(pool.state for pool in cycle.pools.values()), *borders])


def _open_windows(items: Iterable[Item], slots: Grid) -> None:
    known: dict[str, tuple[bool, ...]] = {}
    for item in items:
        if item.policy is None or item.strategy is Strategy.CHEAPEST:
            item.open = (True,) * slots.slots
            continue
        key = item.policy.spec.key
        if key not in known:
            spans = item.policy.open
            known[key] = tuple(any(begin <= at_s < end for begin, end in spans) for at_s in slots.edges[:-1])
        item.open = known[key]


def others_hold(cycle: Cycle, lent: Lent) -> dict[str, float]:
    """By pool: GPUs on nodes that count which neither services nor batch Jobs hold."""
    ours: dict[str, int] = {}
    for draft in cycle.drafts:
        for variant in draft.variants:
            for pod in variant.state.pods:
                if pod.node:
                    ours[pod.node] = ours.get(pod.node, 0) + pod.gpus
    found = {}
    for name, pool in cycle.pools.items():
        found[name] = float(
            sum(
                max(
                    0,
                    node.allocated_gpus
                    - ours.get(node.name, 0)
                    - sum(lent.held.get(node.name, {}).values())
                    - lent.leaving.get(node.name, 0),
                )
                for node in pool.state.nodes
                if pools.counts(node)
            )
        )
    return found


def _hold(item: Item, field: Field, slots: Grid) -> None:
    """It runs: its GPUs are taken until it has probably ended; of one that may not be stopped until it surely has."""
    share = RESERVED if item.restartable else max(RESERVED, item.confidence)
    last = slots.slot(slots.now_s + item.left.at(share))
    runs = tuple(range(last + 1))
    field.offers[item.pool].take(runs, item.gpus, stays=not item.restartable)
    holders = field.holders.get(item.job.policy)
    if holders is not None:
        holders.take(runs, item.gpus)


def _leave(item: Item, field: Field) -> None:
    """It was stopped: until its pods are gone they hold their GPUs."""
    offer, pods = field.offers[item.pool], item.job.pods
    leaving = sum(pod.gpus for pod in pods if not hangs(item.job, pod, item.stop_s, offer.grid.now_s))
    offer.take((0,), leaving, stays=False)
    offer.leaving += leaving
    holders = field.holders.get(item.job.policy)
    if holders is not None:
        holders.take((0,), sum(pod.gpus for pod in pods))


def release(item: Item, field: Field) -> None:
    """It was stopped: what was taken for it is free from the second slot on; in the first its pods go."""
    slots = field.offers[item.pool].grid
    last = slots.slot(slots.now_s + item.left.at(RESERVED))
    field.offers[item.pool].take(range(1, last + 1), -item.gpus, stays=False)
    holders = field.holders.get(item.job.policy)
    if holders is not None:
        holders.take(range(1, last + 1), -item.gpus)


def plan_waiting(waiting: Sequence[Item], field: Field, nodes: Nodes, cycle: Cycle) -> None:
    """A place for each of those that wait, what starts now, and why the others do not."""
    blind = any(item.lacks for item in waiting)
    payable.leave_out(waiting, cycle)
    choose(waiting, field)
    helped = 0
    for item in sorted(waiting, key=lambda item: (item.latest_s or float("inf"), -item.priority, item.key)):
        if item.place is not None and item.place.slot == 0 and not blind:
            _start(item, item.place, field.offers[item.place.pool], nodes, cycle)
        if item.outcome is Outcome.WAITS:
            payable.foreseen(item, cycle)
            item.planned = note(item, field, cycle)
            if item.planned.why == Code.DEADLINE_UNREACHABLE.value and helped < MOST:
                item.planned, helped = msgspec.structs.replace(item.planned, helps=helps(item, field)), helped + 1


def _start(item: Item, place: Place, offer: Offer, nodes: Nodes, cycle: Cycle) -> None:
    """Start it, unless its pods would find no nodes or a ceiling leaves no money."""
    job, pool = item.job, cycle.pools[place.pool]
    if job.pods:
        item.lacks = "its pods of before are still on their way out"
        return
    fits = nodes.fits(place.pool, job.gpus_per_pod, place.parallelism)
    if fits < place.parallelism and not pool.elastic:
        size = "1 GPU" if job.gpus_per_pod == 1 else f"{job.gpus_per_pod} GPUs"
        item.lacks = f"room for {fits} of its {place.parallelism} pods of {size} on nodes of {place.pool} just now"
        return
    idle = fits == place.parallelism and place.price < CENT
    unknown = cycle.ceilings_unknown
    refused = Refusal(unknown) if unknown else payable.refusal(item, place, idle, cycle)
    if refused is not None:
        item.lacks, item.why = refused.text, payable.verdict(item, place, refused, cycle)
        return
    payable.take(item, place, idle, cycle)
    nodes.take(place.pool, job.gpus_per_pod, place.parallelism)
    item.outcome, item.parallelism = Outcome.STARTS, place.parallelism


def next_event(planned: Iterable[PlannedJob], cycle: Cycle) -> float:
    """When the first planned start comes, or a window or a price changes; 0: nothing is known to come."""
    now_s = cycle.now_s
    moments = [job.starts_at for job in planned]
    moments += [edge for state in cycle.snapshot.batch_policies for span in state.open for edge in span]
    moments += price.changes(pool.state for pool in cycle.pools.values())
    return min((at_s for at_s in moments if at_s > now_s), default=0.0)
