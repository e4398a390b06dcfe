"""The plan over the next day: what is free when and at what price, who runs on it, and why the others wait.

Made anew once a minute, or when something happened: a Job came, went or was touched, a pool or a policy changed, a
planned start has come, a window or a price changes. In between it stands as it was made (`memory.batch.planned`).
"""

from collections.abc import Iterable, Sequence
from zlib import crc32

from ebbtide.core import pools
from ebbtide.core.batch import need, price
from ebbtide.core.batch.choose import Field, choose
from ebbtide.core.batch.fit import RESERVED
from ebbtide.core.batch.grid import Grid, grid
from ebbtide.core.batch.lent import Lent, hangs
from ebbtide.core.batch.nodes import Nodes
from ebbtide.core.batch.price import Offer
from ebbtide.core.batch.work import Holders, Item, Place
from ebbtide.core.work import Cycle
from ebbtide.model.batch import Strategy
from ebbtide.model.memory import PlannedJob
from ebbtide.model.plan import Outcome
from ebbtide.model.reasons import Code

EVERY_S = 60.0
CENT = 0.01  # so much cheaper per GPU-hour is cheaper
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
    field = Field(offers, holders, max(UNPRICED, max(prices, default=0.0)))
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
    choose(waiting, field)
    for item in sorted(waiting, key=lambda item: (item.latest_s or float("inf"), -item.priority, item.key)):
        if item.place is not None and item.place.slot == 0 and not blind:
            _start(item, item.place, field.offers[item.place.pool], nodes, cycle)
        if item.outcome is Outcome.WAITS:
            item.planned = _note(item, field, cycle)


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
    for_s = None if item.restartable else item.left.at(item.confidence)
    paying = [purse for purse in cycle.purses if purse.pays(item.namespace)]
    asked = (purse.refused(place.pool, place.gpus, idle, for_s, item.stop_s) for purse in paying)
    why = cycle.ceilings_unknown or next((text for text in asked if text), "")
    if why:
        late = item.latest_s is not None and item.latest_s < cycle.now_s
        item.lacks, item.why = why, (Code.MISSED_FOR_MONEY if late else Code.WAITS_FOR_MONEY, why)
        return
    for purse in paying:
        purse.take(place.pool, place.gpus, idle, for_s, item.stop_s)
    nodes.take(place.pool, job.gpus_per_pod, place.parallelism)
    item.outcome, item.parallelism = Outcome.STARTS, place.parallelism


def _note(item: Item, field: Field, cycle: Cycle) -> PlannedJob:
    """Why it waits, and until when."""
    place, latest = item.place, round(item.latest_s or 0.0, 1)
    if place is None:
        code, text = _no_place(item, field)
        late = item.deadline_s is not None
        if late and code is Code.WAITS_FOR_GPUS:
            passed = item.deadline_s is not None and item.deadline_s <= cycle.now_s
            code = Code.DEADLINE_MISSED if passed else Code.DEADLINE_UNREACHABLE
        return PlannedJob(item.job.uid, code.value, latest=latest, late=late, detail=text)
    offer = field.offers[place.pool]
    now_price = offer.price[0] or 0.0
    code, detail = _why_later(item, place, field)
    if item.why is not None:
        code, detail = item.why
    elif item.deadline_s is not None and item.deadline_s <= cycle.now_s:
        code = Code.DEADLINE_MISSED
    elif place.late:
        code = Code.DEADLINE_UNREACHABLE if item.left.known else Code.DURATION_UNKNOWN
    starts_s = place.starts_s if place.slot else 0.0
    return PlannedJob(
        item.job.uid,
        code.value,
        place.pool,
        round(starts_s, 1),
        round(place.ends_s, 1),
        latest,
        bool(place.late) and item.left.known,
        round(place.price, 4),
        round(_price_now(item, offer, now_price), 4),
        detail,
    )


def _price_now(item: Item, offer: Offer, listed: float) -> float:
    return offer.costs(0, item.gpus) if item.gpus and offer.price[0] is not None else listed


def _why_later(item: Item, place: Place, field: Field) -> tuple[Code, str]:
    offer, limit = field.offers[place.pool], field.holders.get(item.job.policy)
    if item.lacks:
        return Code.WAITS_FOR_GPUS, item.lacks
    gpus = place.gpus
    mine = gpus if 0 in place.runs else 0
    if limit is not None and limit.most is not None and limit.used[0] - mine + gpus > limit.most:
        return (
            Code.AT_MAX_GPUS,
            f"{limit.used[0] - mine:.0f} of {limit.most} GPUs of its policy are taken (spec.maxGPUs)",
        )
    if item.open and not item.open[0] and not (item.strategy is Strategy.IDLE_OR_WINDOW and offer.is_idle(0, gpus)):
        return Code.WAITS_FOR_WINDOW, "no window of its policy is open"
    if not offer.has_room(0, gpus, stays=not item.restartable, first=True):
        return Code.WAITS_FOR_GPUS, _free(item, offer, gpus)
    if _price_now(item, offer, 0.0) > place.price + CENT:
        return Code.WAITS_FOR_CHEAPER_HOUR, ""
    return Code.WAITS_FOR_GPUS, _until_its_end(item, offer, gpus)


def _free(item: Item, offer: Offer, gpus: int) -> str:
    left = max(0.0, min(offer.soon, offer.room[0]) - offer.used[0])
    return f"it asks for {gpus} GPUs, {left:.0f} are free beside what services may need ({offer.name})"


def _until_its_end(item: Item, offer: Offer, gpus: int) -> str:
    if item.restartable:
        return (
            f"its {gpus} GPUs are taken by Jobs that come first, or are needed by services before long ({offer.name})"
        )
    text = f"its {gpus} GPUs must stay free until it ends, for it may not be stopped"
    return f"{text}; services may need them ({offer.name})"


def _no_place(item: Item, field: Field) -> tuple[Code, str]:
    """Nothing within the plan."""
    offers = [field.offers[name] for name in item.pools]
    if not any(item.open) and item.strategy is Strategy.WINDOW:
        return Code.WAITS_FOR_WINDOW, "no window of its policy opens within the days that are planned"
    days = (offers[0].grid.end_s - offers[0].grid.now_s) / 86_400.0 if offers else 1.0
    where = ", ".join(item.pools)
    text = f"its {item.gpus} GPUs are not free for long enough on {where} within {days:.3g} days"
    return Code.WAITS_FOR_GPUS, f"{text}: services may need them, or Jobs come first"


def next_event(planned: Iterable[PlannedJob], cycle: Cycle) -> float:
    """When the first planned start comes, or a window or a price changes; 0: nothing is known to come."""
    now_s = cycle.now_s
    moments = [job.starts_at for job in planned]
    moments += [edge for state in cycle.snapshot.batch_policies for span in state.open for edge in span]
    moments += price.changes(pool.state for pool in cycle.pools.values())
    return min((at_s for at_s in moments if at_s > now_s), default=0.0)
