"""How long nodes that an autoscaler takes away stay, and are paid, after the last pod with GPUs has gone: as measured.

A sample is the time from the last look that saw a node with pods to the one that missed it: never too short, however
long nobody looked between. Of nodes that were found empty by a first look, that went while nobody looked, or with their
pods, nothing is learnt. Ceilings reserve a high quantile; 15 minutes before any was
seen: ten of them are what autoscalers wait as they are installed, and a machine takes a few to end.
"""

import math

import msgspec

from ebbtide.core.pool_draft import PoolDraft
from ebbtide.core.work import Cycle
from ebbtide.model.memory import PoolMemory
from ebbtide.model.snapshot import PoolState
from ebbtide.model.spec import Billing, Provisioning

PRIOR_S = 900.0
LONGEST_S = 3600.0  # a node that somebody kept for a day is no reason to hold back a day's money for each raise
QUANTILE = 0.9
KEPT = 16
_LOOKED_S = 300.0  # two looks further apart say nothing of when a node went


def applies(state: PoolState) -> bool:
    """Whether its nodes go by themselves and are paid until then."""
    return state.spec.provisioning is Provisioning.AUTOSCALED and state.spec.billing is Billing.NODE


def stays_s(state: PoolState, memory: PoolMemory) -> float:
    """How long a node must be expected to be paid after its last pod; 0 where nodes stay anyway or are not paid."""
    if not applies(state):
        return 0.0
    times = sorted(memory.release_times_s)
    return min(LONGEST_S, times[math.ceil(QUANTILE * len(times)) - 1]) if times else PRIOR_S


def learn(pool: PoolDraft, cycle: Cycle) -> None:
    """Note which nodes are empty, what it took those that have gone, and how large they are."""
    memory, now_s = pool.memory, round(cycle.now_s, 1)
    if not applies(pool.state) or cycle.unwatched:
        return
    there = {node.name: node for node in pool.state.nodes}
    looked = 0 <= now_s - memory.empties_at <= _LOOKED_S
    known = {name: since_s for name, since_s in memory.empty_since if since_s <= now_s}
    gone = [now_s - since_s for name, since_s in known.items() if name not in there and name not in memory.found_empty]
    names = [name for name, node in sorted(there.items()) if node.gpus and not node.allocated_gpus]
    found = [name for name in names if name in memory.found_empty or (name not in known and not looked)]
    pool.memory = msgspec.structs.replace(
        memory,
        empty_since=tuple((name, known.get(name, memory.empties_at if looked else now_s)) for name in names),
        found_empty=tuple(found),
        empties_at=now_s,
        node_gpus=max((node.gpus for node in there.values()), default=0) or memory.node_gpus,
        release_times_s=(*memory.release_times_s, *(round(each, 1) for each in sorted(gone) if looked))[-KEPT:],
    )


def leaving_gpus(pool: PoolDraft, now_s: float) -> int:
    """GPUs of nodes that nobody uses and that are not overdue: they will be gone within `stays_s`."""
    memory = pool.memory
    latest_s = now_s - stays_s(pool.state, memory)
    going = {name for name, since_s in memory.empty_since if since_s >= latest_s}
    return sum(node.gpus for node in pool.state.nodes if node.name in going)
