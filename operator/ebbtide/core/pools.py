"""The GPUs that services may be given: what exists, what may come, and when to stop waiting for nodes.

Counts GPUs that others use as gone. A node that is not ready, cordoned or about to be interrupted holds no new replica;
what runs there already keeps its GPUs: a cordon, or a node selector that finds no node, takes nothing from anybody.
"""

import msgspec

from ebbtide.core import release, spot
from ebbtide.core.numeric import median
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.memory import PoolMemory
from ebbtide.model.snapshot import NodeState, PodPhase, PoolState
from ebbtide.model.spec import Provisioning

SHORTEST_BACKOFF_S = 30.0
FIRST_BACKOFF_S = 300.0
LONGEST_BACKOFF_S = 3600.0
PATIENCE = 1.5  # times the lead time, before a node that did not come is given up
KEPT_LEAD_TIMES = 8
UNLIMITED = 1_000_000  # replicas: beyond any cluster
_WAITING = (PodPhase.PENDING, PodPhase.UNSCHEDULABLE)


def open_pools(cycle: Cycle) -> None:
    """Make the pool drafts; called before services are looked at."""
    remembered = {memory.name: memory for memory in cycle.memory.pools}
    for state in cycle.snapshot.pools:
        name = state.spec.name
        draft = PoolDraft(state, remembered.get(name) or PoolMemory(name))
        if state.price_per_gpu_hour is not None:
            draft.price = float(state.price_per_gpu_hour)
        for node in state.nodes:
            draft.allocated += node.allocated_gpus
            if counts(node):
                draft.gpus += node.gpus
                draft.allocated_counting += node.allocated_gpus
        cycle.pools[name] = draft


def currencies(variants: list[VariantDraft]) -> list[str]:
    """Currencies of the known prices of the variants' pools, in order."""
    return sorted({v.pool.state.currency for v in variants if v.pool is not None and v.pool.price is not None})


def compare_prices(variants: list[VariantDraft]) -> None:
    """Take away every cost when the currencies differ: 100 JPY is not more than 3 USD, and which variant is cheaper
    nobody can say. As with an unknown price, nothing grows and what runs stays.
    """
    if len(currencies(variants)) > 1:
        for variant in variants:
            variant.cost = None


def counts(node: NodeState) -> bool:
    """May it hold new replicas?"""
    return node.ready and not node.cordoned and not node.interrupted


def lent_of(pool: PoolDraft, node: NodeState) -> int:
    """Of what is allocated there, GPUs that batch Jobs give back when a service asks for them."""
    return min(node.allocated_gpus, pool.lent.get(node.name, 0)) if pool.lent else 0


def lead_time_s(state: PoolState, memory: PoolMemory) -> float:
    """Measured median of nodes that came when pods waited; the declared one before any did."""
    return median(memory.lead_times_s) if memory.lead_times_s else state.spec.node_lead_time_s


def prepare(cycle: Cycle) -> None:
    """Budgets and free GPUs for placement, after everybody's own pods are known."""
    for pool in cycle.pools.values():
        _learn(pool, cycle)
        spot.learn(pool, cycle)
        release.learn(pool, cycle)
        spec = pool.state.spec
        backing_off = pool.memory.backoff_until is not None and pool.memory.backoff_until > cycle.now_s
        pool.elastic = spec.provisioning is Provisioning.AUTOSCALED and not backing_off
        most = float(pool.gpus)
        if pool.elastic:
            most = float(spec.max_gpus) if spec.max_gpus is not None else float("inf")
        elif spec.max_gpus is not None:
            most = min(most, float(spec.max_gpus))
        pool.budget = most
        for node in pool.state.nodes:
            if counts(node):
                free = max(0, node.gpus - node.allocated_gpus + lent_of(pool, node))
                pool.free[free] = pool.free.get(free, 0) + 1
    _charge_others(cycle)


def _charge_others(cycle: Cycle) -> None:
    """Take out of each budget what foreign pods hold, and the surge of rollouts; never what runs and is to stay."""
    ours: dict[str, int] = {}
    bound_gpus: dict[str, int] = {}
    going = {node.name for pool in cycle.pools.values() for node in pool.state.nodes if not counts(node)}
    for draft in cycle.drafts:
        for variant in draft.variants:
            if variant.pool is None or not variant.gpus:
                continue
            bound = sum(1 for pod in variant.state.pods if pod.node)
            ours[variant.pool.name] = ours.get(variant.pool.name, 0) + sum(
                pod.gpus for pod in variant.state.pods if pod.node and pod.node not in going
            )
            variant.bound_gpus, variant.stuck_gpus = _staying_gpus(variant, going)
            bound_gpus[variant.pool.name] = bound_gpus.get(variant.pool.name, 0) + variant.bound_gpus
            variant.pool.stuck += variant.stuck_gpus
            target = variant.state.target
            per_replica = max(1, target.pods_per_replica)
            take(variant.pool, variant, max(0, variant.observed - variant.homeless - bound // per_replica))
            if target.rolling_out:
                variant.pool.budget -= target.surge_replicas * variant.gpus
    for name, pool in cycle.pools.items():
        given_back = sum(lent_of(pool, node) for node in pool.state.nodes if counts(node)) if pool.lent else 0
        foreign = max(0, pool.allocated_counting - ours.get(name, 0) - given_back)
        most = pool.state.spec.max_gpus
        ceiling = float("inf") if most is None else float(most - foreign)
        # A cordoned node of 8 with our 8 pods, and a node with 4 of 8 in use: 16 are ours to keep or fill, not 8.
        stuck = 0.0 if pool.elastic else pool.stuck
        there_are = max(pool.budget - foreign + stuck, float(bound_gpus.get(name, 0)))
        pool.capped = ceiling <= there_are
        pool.budget = min(ceiling, there_are)


def _staying_gpus(variant: VariantDraft, going: set[str]) -> tuple[int, int]:
    """GPUs of the variant's pods that are on a node and are to stay: (all, those on nodes that take nothing new)."""
    staying = [
        pod for pod in variant.state.pods if pod.node and pod.phase not in (PodPhase.INTERRUPTED, PodPhase.TERMINATING)
    ]
    return sum(pod.gpus for pod in staying), sum(pod.gpus for pod in staying if pod.node in going)


def limit_words(pool: PoolDraft) -> str:
    """The declared limit of a pool that is `capped`, in words."""
    return f"pool {pool.name} is planned with {pool.state.spec.max_gpus} GPUs at most (limits.maxGPUs)"


def slots(pool: PoolDraft, variant: VariantDraft) -> int:
    """Replicas that fit on the nodes that exist. GPUs of different nodes do not add up for one pod; a group's pods may
    be on different nodes: 2 pods of 8 GPUs fit on two nodes of 8, one pod of 16 does not.
    """
    if pool.elastic:
        return UNLIMITED
    gpus, per_replica = pod_gpus(variant), max(1, variant.state.target.pods_per_replica)
    return sum(count * (free // gpus) for free, count in pool.free.items() if free >= gpus) // per_replica


def take(pool: PoolDraft, variant: VariantDraft, replicas: int) -> None:
    """Occupy GPUs on nodes, fullest node that fits first (best fit keeps whole nodes for large replicas)."""
    if replicas <= 0:
        return
    gpus = pod_gpus(variant)
    for _ in range(replicas * max(1, variant.state.target.pods_per_replica)):
        fitting = [free for free, count in pool.free.items() if count > 0 and free >= gpus]
        if not fitting:
            return
        best = min(fitting)
        pool.free[best] -= 1
        pool.free[best - gpus] = pool.free.get(best - gpus, 0) + 1


def shape(variant: VariantDraft) -> str:
    """What one replica needs: `4 GPUs on one node`, or `3 pods with 12 GPUs together` of a group."""
    per_replica = max(1, variant.state.target.pods_per_replica)
    gpus = "1 GPU" if variant.gpus == 1 else f"{variant.gpus} GPUs"
    return f"{gpus} on one node" if per_replica == 1 else f"{per_replica} pods with {gpus} together"


def pod_gpus(variant: VariantDraft) -> int:
    """GPUs of one pod; a group's are taken to be alike, rounded up: 9 GPUs in 2 pods are 5 each."""
    return max(1, -(-(variant.gpus or 0) // max(1, variant.state.target.pods_per_replica)))


def _learn(pool: PoolDraft, cycle: Cycle) -> None:
    """Measure lead times; back off, each time for longer, from a pool whose nodes do not come."""
    memory, now_s = pool.memory, cycle.now_s
    newest = max((node.created_at for node in pool.state.nodes if _serves_us(pool, node)), default=0.0)
    since = memory.waiting_since
    if pool.state.spec.provisioning is Provisioning.STATIC:
        return
    if cycle.unwatched:  # whether pods wait, or a node has come, is not known: what is waited for is timed anew
        pool.memory = msgspec.structs.replace(memory, waiting_since=None)
        return
    if since is not None and newest > max(since, memory.newest_node_at):
        leads = (*memory.lead_times_s, round(now_s - since, 1))[-KEPT_LEAD_TIMES:]
        memory = msgspec.structs.replace(
            memory, lead_times_s=leads, waiting_since=None, backoff_s=0.0, backoff_until=None
        )
        since = None
    if pool.waiting == 0:
        since = None
    elif since is None:
        since = round(now_s, 1)
    until, backoff_s = memory.backoff_until, memory.backoff_s
    if until is not None and now_s >= until:
        until, since = None, (round(now_s, 1) if pool.waiting else None)
    patience_s = max(SHORTEST_BACKOFF_S, PATIENCE * lead_time_s(pool.state, memory))
    if until is None and since is not None and now_s - since > patience_s:
        # Where nodes come within seconds, waiting for minutes before the next try would be a fault of its own.
        first_s = min(FIRST_BACKOFF_S, max(SHORTEST_BACKOFF_S, 2.0 * lead_time_s(pool.state, memory)))
        backoff_s = min(LONGEST_BACKOFF_S, max(first_s, 2.0 * backoff_s))
        until = round(now_s + backoff_s, 1)
    pool.memory = msgspec.structs.replace(
        memory,
        waiting_since=since,
        backoff_until=until,
        backoff_s=backoff_s,
        newest_node_at=max(newest, memory.newest_node_at),
    )


def _serves_us(pool: PoolDraft, node: NodeState) -> bool:
    """A node that came full of somebody else's pods says nothing of how long ours wait."""
    return node.ready and (node.name in pool.hosts or node.allocated_gpus < node.gpus)


def count_waiting(cycle: Cycle) -> None:
    """How many pods of ours wait for a node in each pool, and which nodes have some."""
    for draft in cycle.drafts:
        for variant in draft.variants:
            if variant.pool is not None:
                variant.pool.waiting += sum(1 for pod in variant.state.pods if pod.phase in _WAITING)
                variant.pool.hosts.update(pod.node for pod in variant.state.pods if pod.node)


def gpus_of(variant: VariantDraft) -> int | None:
    """GPUs one replica takes: declared, else read from the target; None: unknown."""
    return variant.spec.gpus_per_replica or variant.state.target.gpus_per_replica


def held(draft: Draft) -> list[tuple[PoolDraft, float]]:
    """(pool, GPUs) of what the service's targets declare now on nodes that stay, but for what gets no GPU anyway."""
    return [
        (variant.pool, float(variant.holding * variant.gpus))
        for variant in draft.variants
        if variant.pool is not None and variant.gpus
    ]
