"""What policies pay for that no service of theirs holds: others' pods, batch Jobs, GPUs that nobody holds.

A Job that may not be stopped is bound from its start to its end. Worked example: one of 8 GPUs for 1.5 hours at 3.00
an hour is started with 50 of a day's 1000 USD left. Bound for a reserve of 15 minutes alone it left 40 of them, which
services took; once it was older than that it bound 36, and 1003 were spent.
"""

from collections.abc import Iterable

from ebbtide.core import release
from ebbtide.core.batch.lent import Ending
from ebbtide.core.ceilings import lines as money
from ebbtide.core.ceilings import pacing
from ebbtide.core.ceilings.lines import PolicyDraft, Tariff, node_gpus
from ebbtide.core.ceilings.room import Room
from ebbtide.core.ceilings.stake import Known, tariff_in
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.core.work import Cycle
from ebbtide.model.snapshot import Others


def bind(policy: PolicyDraft, cycle: Cycle, known: Known) -> None:
    """What nobody of ours holds: others' pods, idle GPUs; and whatever runs on nodes of no pool."""
    outside = sum(gpus for _, gpus in policy.state.outside)
    if outside:
        unpriced(policy, "", outside, priced=False)
    seen = {item.pool: item for item in policy.state.others if item.pool}
    coming = {} if cycle.lent is None else cycle.lent.coming_to(policy.state.spec)
    for item in (*seen.values(), *(Others(name, 0, 0) for name in coming if name not in seen)):
        pool = cycle.pools.get(item.pool)
        tariff, gpus = tariff_in(item.pool, pool, policy, known), item.lasting + item.passing + item.idle
        # Jobs that may be stopped need not be paid to the period's end, however long they have run
        stops = 0 if cycle.lent is None else cycle.lent.stoppable_gpus(policy.state.spec, item.pool)
        lasting = max(0, item.lasting - stops)
        passing = item.passing + item.lasting - lasting
        ends, lasting, passing = _ends(policy, item.pool, lasting, passing, cycle)
        stops = min(stops, passing)
        passing -= stops
        idle, going = item.idle, 0
        if policy.comes_and_goes(pool):
            idle, going = policy.beside[item.pool], policy.empty[item.pool].going
        else:
            policy.idle[item.pool] = idle
            policy.empty[item.pool] = Room((idle,))
        if tariff is None:
            if gpus:
                unpriced(policy, item.pool, gpus, pool is not None and pool.price is not None)
            continue
        now = tariff.dearest(policy.now_s, policy.now_s + 1)
        stays_s = release.stays_s(pool.state, pool.memory) if going and pool is not None else 0.0
        gone_s = 0.0 if cycle.lent is None else cycle.lent.longest_grace_s
        if pool is not None and policy.comes_and_goes(pool):
            gone_s += release.stays_s(pool.state, pool.memory)
        policy.rate += gpus * now
        policy.fixed_rate += (item.lasting + item.passing + idle) * now
        policy.passing_rate += item.passing * now
        policy.wants(pacing.OTHERS, gpus * now, gpus * now)
        for line in policy.lines_of_all:
            line.bound += lasting * line.takes(tariff, line.end_s - policy.now_s)
            line.bound += (passing + idle - going) * line.takes(tariff, policy.reserve_s)
            line.passing += min(item.passing, passing) * line.takes(tariff, policy.reserve_s)
            until_gone = money.NOTHING if line.is_rate else stops * line.takes(tariff, min(gone_s, policy.reserve_s))
            line.bound += until_gone
            line.batch += stops * line.takes(tariff, policy.reserve_s) - until_gone
            line.bound += going * line.takes(tariff, stays_s)
        bound = [(idle - going, float(policy.reserve_s)), (going, stays_s)]
        _bind_jobs(policy, pool, tariff, ends, coming.get(item.pool, ()), bound)


def _ends(
    policy: PolicyDraft, pool: str, lasting: int, passing: int, cycle: Cycle
) -> tuple[list[tuple[int, int]], int, int]:
    """(GPUs, for how many seconds) of those that Jobs hold which may not be stopped; and what else lasts and passes.

    A Job of an hour is paid for an hour, as when it was started, and from its first second on: to the end of the day it
    would lower services, and for W alone its money would be given to them until it is too late.
    """
    found = []
    lent, spec = cycle.lent, policy.state.spec
    for item in () if lent is None else lent.endings(spec, pool):
        old, young = min(item.gpus, lasting), min(item.gpus, passing)
        if policy.now_s - item.since_s >= spec.outage_reserve_s:
            young = min(young, item.gpus - old)
        else:
            old = min(old, item.gpus - young)
        lasting, passing = lasting - old, passing - young
        if old + young:
            found.append((old + young, max(policy.reserve_s, int(item.for_s) + 1)))
    return found, lasting, passing


def _bind_jobs(
    policy: PolicyDraft,
    pool: PoolDraft | None,
    tariff: Tariff,
    held: Iterable[tuple[int, int]],
    coming: Iterable[Ending],
    idle: list[tuple[int, float]],
) -> None:
    """Jobs that may not be stopped, `held` as (GPUs, seconds), and what those take whose pods are yet to come.

    Nodes that come and go stay whole for a Job. `idle`: (GPUs, for how many seconds they are bound already).
    """
    size = node_gpus(pool) if pool is not None and policy.comes_and_goes(pool) else 1
    ahead = [(item.gpus, max(policy.reserve_s, int(item.for_s) + 1)) for item in coming]
    needs = [(gpus, -gpus % size, for_s) for gpus, for_s in held]
    needs += [(0, -(-gpus // size) * size, for_s) for gpus, for_s in ahead if not policy.paid_anyway(pool)]
    first = len(needs) - len(ahead)
    for number, (gpus, beside, for_s) in enumerate(needs):
        taken, idle = _out_of(idle, beside)
        there = sum(count for count, _ in taken)
        whole = gpus + (there if number < first else beside)  # who runs brings no more nodes
        for line in policy.lines_of_all:
            line.bound += whole * line.takes(tariff, min(line.end_s - policy.now_s, for_s))
            for count, known_s in taken:
                line.bound -= count * line.takes(tariff, known_s)


def _out_of(idle: list[tuple[int, float]], wanted: int) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    taken, left = [], []
    for gpus, for_s in idle:
        count = min(gpus, wanted)
        wanted -= count
        taken.append((count, for_s))
        left.append((gpus - count, for_s))
    return taken, left


def unpriced(policy: PolicyDraft, pool: str, gpus: int, priced: bool) -> None:
    """GPUs in use of which it does not know the price; `priced`: they have one, in another currency."""
    policy.unpriced[pool] = policy.unpriced.get(pool, 0) + gpus
    if priced:
        policy.wrong_currency.add(pool)
