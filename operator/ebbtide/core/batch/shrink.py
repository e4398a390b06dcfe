"""Elastic Jobs are made smaller where that is enough: their last pods go, the others go on.

Worked example: a service needs 1 GPU of a node on which a Job has its pods 2 and 3 of 4: its last pod goes.
"""

import re

from ebbtide.core.batch.lent import OURS
from ebbtide.core.batch.nodes import Node, Nodes
from ebbtide.core.batch.work import Item
from ebbtide.model.batch import JobPod
from ebbtide.model.plan import Outcome
from ebbtide.model.reasons import Code


def most(item: Item) -> int:
    """How many pods it may lose; 0: it is not elastic, or is not one that Ebbtide started.

    What came running is stopped first, and one of Ebbtide's from then on.
    """
    if not item.job.elastic or item.outcome not in (Outcome.RUNS, Outcome.SHRINKS) or item.job.intent not in OURS:
        return 0
    return max(0, _stay(item) - max(1, item.job.least_parallelism))


def pods_to_free(item: Item, node: Node, short: int) -> int:
    """How many of its last pods have so many GPUs on that node; 0: not without all of them."""
    freed = 0
    for count, pod in enumerate(_last_first(item), 1):
        freed += pod.gpus if pod.node == node.name else 0
        if freed >= short:
            return count if count <= most(item) else 0
    return 0


def shrink(item: Item, fewer: int, why: str, nodes: Nodes | None) -> None:
    """It loses so many pods, or so many more. `why`: in words; `nodes` learn what will be free, where somebody asks."""
    stay, before = _stay(item) - fewer, item.job.parallelism - _stay(item)
    gone = _last_first(item)[before : before + fewer]
    for node in nodes.of.get(item.pool, ()) if nodes is not None else ():
        freed = sum(pod.gpus for pod in gone if pod.node == node.name)
        node.soon += freed
        node.held[item.job.uid] = max(0, node.held.get(item.job.uid, 0) - freed)
    item.outcome, item.parallelism = Outcome.SHRINKS, stay
    item.why = Code.JOB_RESIZED, f"{stay} of {item.job.parallelism} pods stay: {why}"


def _stay(item: Item) -> int:
    """Pods that it has, or will have by what was decided so far."""
    return item.parallelism or item.job.parallelism


def _last_first(item: Item) -> list[JobPod]:
    """Its pods in the order in which they go when it is made smaller: by completion index, the highest first."""
    return sorted((pod for pod in item.job.pods if not pod.terminating), key=lambda pod: (-_index(pod), pod.name))


def _index(pod: JobPod) -> int:
    """The completion index: of a Job's pod `night-7-x2k9p` 7."""
    numbers = re.findall(r"-(\d+)(?=-[^-]*$)", pod.name)
    return int(numbers[-1]) if numbers else 0
