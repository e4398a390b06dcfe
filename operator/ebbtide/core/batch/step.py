"""The batch step: after services and ceilings are decided, batch Jobs take what is left, and give back what is not.

Order: room for services first, then ceilings, then windows; what still runs stays; then those that wait are planned
anew or stand as they were planned. Must never move a Job that is its user's or another controller's, and an error here
costs services nothing: no Job is then started, and those whose GPUs services were given still give them back.
"""

import msgspec

from ebbtide.core import isolation
from ebbtide.core.batch import ahead, events, giveback, purses, report, words
from ebbtide.core.batch.field import Field
from ebbtide.core.batch.items import full
from ebbtide.core.batch.items import items as all_items
from ebbtide.core.batch.lent import Lent, unseen
from ebbtide.core.batch.nodes import Nodes
from ebbtide.core.batch.price import Offer
from ebbtide.core.batch.work import Holders, Item
from ebbtide.core.work import Cycle
from ebbtide.model.memory import PlannedJob
from ebbtide.model.plan import Outcome
from ebbtide.model.reasons import Code


def step(cycle: Cycle) -> None:
    """Fill `job_plans`, `batch_plans` and `batch_memory`."""
    cycle.batch_memory = cycle.memory.batch
    if not cycle.snapshot.batch_policies and not cycle.snapshot.jobs and not cycle.memory.batch.jobs:
        return
    try:
        _step(cycle)
    except Exception as error:
        cycle.batch_failure = isolation.failure_of("batch Jobs", "batch", error)
        cycle.job_plans, cycle.batch_plans, cycle.batch_memory = (), (), cycle.memory.batch


def _step(cycle: Cycle) -> None:
    lent = cycle.lent or Lent({state.spec.key: state for state in cycle.snapshot.batch_policies})
    items = all_items(cycle, lent)
    cycle.batch_memory = report.remember(items, cycle)
    if items:
        _decide(items, lent, cycle)
    cycle.job_plans = tuple(words.plan_of(item, cycle) for item in items)
    cycle.policy_plans = purses.committed(cycle)
    cycle.batch_plans = report.policy_plans(items, cycle.job_plans, cycle)


def _decide(items: list[Item], lent: Lent, cycle: Cycle) -> None:
    running = [item for item in items if item.outcome is Outcome.RUNS]
    waiting = [item for item in items if item.outcome is Outcome.WAITS]
    nodes = Nodes(cycle, lent)
    giveback.for_services(running, nodes, lent, cycle)
    acted = giveback.for_money(running, cycle.purses, lent, nodes, cycle)
    made_for, free = ahead.signature(cycle, items), events.free_now(cycle)
    if not ahead.is_due(cycle, made_for) and not events.moved(waiting, free, cycle):
        fewest = events.least(cycle.memory.batch.free, free)
        cycle.batch_memory = msgspec.structs.replace(cycle.batch_memory, free=fewest)
        planned = {job.uid: job for job in cycle.memory.batch.planned}
        for item in waiting:
            item.planned = planned.get(item.job.uid)
        _keep(cycle, acted, cycle.batch_memory.next_at)
        return
    before = [(item, item.outcome, item.why, item.parallelism) for item in items]
    try:
        planned_jobs = _plan_ahead(items, running, waiting, nodes, lent, cycle)
        next_at = ahead.next_event(planned_jobs, cycle)
    except Exception as error:  # services count on what was just given back: that stands, and nothing else changes
        cycle.batch_failure = isolation.failure_of("batch Jobs", "batch", error)
        for item, outcome, why, parallelism in before:
            item.outcome, item.why, item.parallelism, item.planned = outcome, why, parallelism, None
        _keep(cycle, acted, cycle.batch_memory.next_at)
        return
    cycle.batch_memory = msgspec.structs.replace(
        cycle.batch_memory, planned=planned_jobs, planned_at=round(cycle.now_s, 1), planned_for=made_for, free=free
    )
    _keep(cycle, acted, next_at)


def _plan_ahead(
    items: list[Item], running: list[Item], waiting: list[Item], nodes: Nodes, lent: Lent, cycle: Cycle
) -> tuple[PlannedJob, ...]:
    """What is planned anew once a minute or when something happens."""
    field = ahead.open_field(items, lent, cycle)
    giveback.for_windows(running, field.offers, lent, cycle)  # no Job is stopped for a Background service
    ahead.beside_background(field, cycle)
    _free(running, field)
    for item in items:
        if not item.job.suspended and item.outcome is not Outcome.STOPS and item.pool in nodes.of:
            nodes.waiting(item.job, item.pool)
    blind = unseen(cycle.snapshot)
    if blind:
        for item in waiting:
            item.lacks = f"{blind}: what is free is not known"
    ahead.plan_waiting(waiting, field, nodes, cycle)
    if not blind and not cycle.ceilings_unknown:
        _grow(running, field, nodes, cycle)
    return tuple(item.planned for item in waiting if item.planned is not None)


def _keep(cycle: Cycle, acted: set[str], next_at: float) -> None:
    """Remember for whose sake Jobs were stopped, and when something comes."""
    short = {uid: at_s for uid, at_s in cycle.memory.batch.short if cycle.now_s - at_s < 3600.0}
    short |= dict.fromkeys(acted, round(cycle.now_s, 1))
    cycle.batch_memory = msgspec.structs.replace(
        cycle.batch_memory, short=tuple(sorted(short.items())), next_at=round(next_at, 1)
    )


def _free(running: list[Item], field: Field) -> None:
    for item in running:
        if item.outcome is Outcome.STOPS and item.pool in field.offers:
            ahead.release(item, field)


def _grow(running: list[Item], field: Field, nodes: Nodes, cycle: Cycle) -> None:
    """Elastic Jobs that were made smaller get their pods back as far as there is room for as long as they run.

    Only what may be started may grow: within its policy's `max_gpus` and the ceilings, and not outside its windows.
    """
    for item in running:
        job, asked = item.job, full(item.job)
        offer = field.offers.get(item.pool)
        if item.outcome is not Outcome.RUNS or not job.elastic or asked <= job.parallelism or offer is None:
            continue
        if not item.restartable or item.policy is None or item.why is not None:
            continue
        runs = range(offer.grid.slot(offer.grid.now_s + item.left.at(0.5)) + 1)
        more = nodes.fits(item.pool, job.gpus_per_pod, asked - job.parallelism)
        while more and not _may_grow(item, more * job.gpus_per_pod, runs, offer, field.holders[job.policy], cycle):
            more -= 1
        if more:
            gpus = more * job.gpus_per_pod
            nodes.take(item.pool, job.gpus_per_pod, more)
            offer.take(runs, gpus, stays=False)
            field.holders[job.policy].take(runs, gpus)
            for purse in cycle.purses:
                if purse.pays(item.namespace):
                    purse.take(item.key, item.pool, gpus, True, None, item.stop_s)
            item.outcome, item.parallelism = Outcome.GROWS, job.parallelism + more
            text = f"{job.parallelism + more} of {asked} pods: GPUs of {item.pool} are free again"
            item.why = Code.JOB_RESIZED, text


def _may_grow(item: Item, gpus: int, runs: range, offer: Offer, holders: Holders, cycle: Cycle) -> bool:
    if item.open and not item.open[0] and not offer.is_idle(0, gpus):
        return False
    if not all(
        offer.has_room(slot, gpus, stays=False, first=slot == 0) and holders.has_room(slot, gpus) for slot in runs
    ):
        return False
    paying = (purse for purse in cycle.purses if purse.pays(item.namespace))
    return not any(purse.refused(item.pool, gpus, True, None, item.stop_s) for purse in paying)
