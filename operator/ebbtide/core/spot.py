"""Spot pools: how often they lose nodes, as measured, and how much must therefore run elsewhere.

A loss is a node that begins to carry an interruption taint of its pool; where no taints are declared none is ever seen,
and the prior holds. Nobody declares a share: it follows from the error budget, from how long a replacement takes to
start where nothing is taken away, and from the losses. Must never ask for more than such pools can give.

Example: at 99 % a day has 864 s of misses to spend, a quarter of it on lost pools: 216 s. A replacement takes 150 s, so
a pool may go once a day with everything on it; at 99.9 % it is 22 s, so 86 % of the need must run elsewhere.
"""

import math

import msgspec

from ebbtide.core.numeric import clip
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.memory import PoolMemory
from ebbtide.model.spec import CapacityType

BUDGET_SHARE = 0.25  # of the error budget: so much may be missed because pools go
DAY_H = 24.0
FEWEST_LOSSES = 1.0  # a day: that a pool was never lost yet is no promise
PRIOR_LOSSES, PRIOR_HOURS = 1.0, 48.0  # one in 48 node-hours, before any was seen
TAU_S = 7 * 86_400.0
LONGEST_STEP_S = 600.0


def learn(pool: PoolDraft, cycle: Cycle) -> None:
    """Count the nodes that are about to be taken away since the last cycle, and the hours that all of them ran."""
    if pool.state.spec.capacity_type is not CapacityType.SPOT or cycle.unwatched:
        return
    memory = pool.memory
    elapsed_s = clip(cycle.now_s - memory.watched_at, 0.0, LONGEST_STEP_S) if memory.watched_at else 0.0
    going = tuple(sorted(node.name for node in pool.state.nodes if node.interrupted))
    lost = len(set(going) - set(memory.going)) if memory.watched_at else 0
    keep = math.exp(-elapsed_s / TAU_S)
    staying = sum(1 for node in pool.state.nodes if node.ready and not node.interrupted)
    pool.memory = msgspec.structs.replace(
        memory,
        going=going,
        watched_at=round(cycle.now_s, 1),
        lost=round(memory.lost * keep + lost, 4),
        node_hours=round(memory.node_hours * keep + staying * elapsed_s / 3600.0, 4),
    )


def losses_per_hour(memory: PoolMemory) -> float:
    """Losses of one node in an hour."""
    return (memory.lost + PRIOR_LOSSES) / (memory.node_hours + PRIOR_HOURS)


def dearer(variant: VariantDraft) -> float:
    """How many times its price a replica costs because what is lost must start anew: 1 where nothing is taken away.

    Lost once in ten hours with a start-up of 6 minutes: 1 % of what is paid carries nothing.
    """
    if variant.pool is None or not variant.spot:
        return 1.0
    return 1.0 + losses_per_hour(variant.pool.memory) * variant.startup_s / 3600.0


def floor(draft: Draft) -> float:
    """Share of the need, 0..1, that must run where nothing is taken away.

    86 % of a load of 120 requests/s, of which 110 are worth carrying, are 94 % of the need.
    """
    spots = [variant for variant in draft.variants if variant.spot]
    others = [variant for variant in draft.variants if not variant.spot and variant.rate > 0.0] if spots else []
    if not others:
        return 0.0
    rate = max(losses_per_hour(variant.pool.memory) for variant in spots if variant.pool is not None)
    missed_s = max(FEWEST_LOSSES, rate * DAY_H) * min(variant.startup_s for variant in others)
    spare_s = BUDGET_SHARE * (1.0 - draft.state.spec.objectives.attainment) * DAY_H * 3600.0
    need = min((variant.need for variant in draft.variants if variant.need > 1e-9), default=math.inf)
    return clip((1.0 - spare_s / max(1e-9, missed_s)) * max(1.0, draft.weighed.expected / need), 0.0, 1.0)


def words(draft: Draft) -> str:
    """`86 % of it where nothing is taken away: pool x loses a node in 40 hours`."""
    names = sorted({v.pool.name: v.pool for v in draft.variants if v.pool is not None and v.spot}.items())
    said = ", ".join(
        f"pool {name} a node in {1.0 / losses_per_hour(pool.memory):.3g} node-hours" for name, pool in names
    )
    return f"{draft.firm:.0%} of the need is kept off spot, which loses: {said}"
