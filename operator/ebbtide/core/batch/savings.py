"""What a GPU-hour of batch work costs just now, by pool, where part of it is paid for anyway.

By the rule that the plan is made by (`price.idle_gpus`), of what is there now: idle GPUs are shared by all batch work
on the pool. Worked example: a service holds 2 GPUs on a rented node of 8: 6 are paid for, and Jobs on 3 of them cost
nothing; where Jobs hold 12 GPUs on that node and another, they pay for 6 of these.
"""

from collections.abc import Mapping, Sequence

from ebbtide.core import pools
from ebbtide.core.batch.price import idle_gpus
from ebbtide.core.batch.work import Item
from ebbtide.core.work import Cycle


def prices_now(items: Sequence[Item], cycle: Cycle) -> Mapping[str, float]:
    """Of each pool on which batch work is and whose price is known, for one of its GPU-hours."""
    bound: dict[str, int] = {}  # by node
    wanted: dict[str, int] = {}  # by pool, also of pods that have no node yet
    for item in items:
        for pod in item.job.pods:
            if pod.node:
                bound[pod.node] = bound.get(pod.node, 0) + pod.gpus
        if item.pool and not item.job.suspended:
            wanted[item.pool] = wanted.get(item.pool, 0) + item.gpus
    served: dict[str, int] = {}
    for _, name, gpus in cycle.background:
        served[name] = served.get(name, 0) + gpus
    found = {}
    for name, pool in cycle.pools.items():
        nodes = [node for node in pool.state.nodes if pools.counts(node)]
        jobs, background = sum(bound.get(node.name, 0) for node in nodes), served.get(name, 0)
        used = max(jobs, wanted.get(name, 0)) + background
        if not used or pool.price is None:
            continue
        others = max(0, sum(node.allocated_gpus for node in nodes) - jobs - background)
        idle = idle_gpus(pool, float(others), float(sum(node.gpus for node in nodes)), cycle.now_s, cycle)
        found[name] = pool.price * max(0.0, used - idle) / used
    return found
