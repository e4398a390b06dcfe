"""What makes the plan be made anew within its minute although no Job, pool, policy, price or window changed.

A Job that waits and of which the plan says nothing: it was to be started, and that was never written, because the
operator was killed at that moment, or somebody changed the Job. And GPUs that came free where somebody waits. A plan
takes about a millisecond of CPU a Job, so with many it is not made for each GPU that a service gives up: of 1,000
Jobs every 10 s at most.
"""

from collections.abc import Mapping, Sequence

from ebbtide.core import pools
from ebbtide.core.batch.work import Item
from ebbtide.core.work import Cycle

SPACING_S = 0.01  # for each Job that waits: so a tenth of a core plans at most

Free = tuple[tuple[str, int], ...]


def free_now(cycle: Cycle) -> Free:
    """By pool: GPUs on its nodes that nobody holds."""
    return tuple(
        (name, sum(max(0, node.gpus - node.allocated_gpus) for node in pool.state.nodes if pools.counts(node)))
        for name, pool in sorted(cycle.pools.items())
    )


def least(before: Free, now: Free) -> Free:
    """The fewest that were free since the plan was made: what goes and comes back within its minute is seen."""
    known = dict(before)
    return tuple((name, min(gpus, known.get(name, gpus))) for name, gpus in now)


def moved(waiting: Sequence[Item], now: Free, cycle: Cycle) -> bool:
    """Whether something is new for a Job that waits."""
    before = cycle.memory.batch
    if cycle.now_s < before.planned_at + SPACING_S * len(waiting):
        return False
    planned = {job.uid for job in before.planned}
    return any(item.job.uid not in planned for item in waiting) or _came_free(waiting, dict(before.free), now)


def _came_free(waiting: Sequence[Item], before: Mapping[str, int], now: Free) -> bool:
    more = {name for name, gpus in now if gpus > before.get(name, gpus)}
    return any(name in more for item in waiting for name in item.pools) if more else False
