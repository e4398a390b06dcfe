"""The nodes of the pools as pods are put on them: what is free, what is about to be, and what Jobs hold that may go.

What services still lack of pods is put first, the largest pods first, each on the fullest node that has room. What
finds none is what Jobs are stopped for (`giveback`): never for Background services, which give way before Jobs do.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

from ebbtide.core import pools, victims
from ebbtide.core.batch.lent import Lent
from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.batch import JobState
from ebbtide.model.snapshot import PodPhase


@dataclass(slots=True)
class Node:
    """GPUs of one node. `soon`: of pods that were told to go, and will be free."""

    name: str
    free: int
    soon: int = 0
    held: dict[str, int] = field(default_factory=dict)  # by Job's uid

    @property
    def ahead(self) -> int:
        """Free now or soon."""
        return self.free + self.soon


@dataclass(slots=True)
class Asking:
    """Pods of one service that found no room: so many GPUs each."""

    service: str
    pool: str
    gpus: int


class Nodes:
    """By pool: those that take new pods."""

    def __init__(self, cycle: Cycle, lent: Lent) -> None:
        self.of: dict[str, list[Node]] = {}
        self.asking: list[Asking] = []
        going = _going(cycle)
        for name, pool in sorted(cycle.pools.items()):
            self.of[name] = [
                Node(
                    node.name,
                    max(0, node.gpus - node.allocated_gpus),
                    min(node.allocated_gpus, going.get(node.name, 0) + lent.leaving.get(node.name, 0)),
                    dict(lent.held.get(node.name, {})),
                )
                for node in pool.state.nodes
                if pools.counts(node)
            ]
        missing = [
            (pools.pod_gpus(variant), draft.state.spec.key, variant.pool.name, count)
            for draft in cycle.drafts
            for variant in draft.variants
            if variant.pool is not None and variant.gpus and (count := _missing(draft, variant))
        ]
        last = {draft.state.spec.key for draft in cycle.drafts if draft.state.spec.background}
        for gpus, service, name, count in sorted(missing, key=lambda each: (each[1] in last, -each[0], *each[1:])):
            for _ in range(count):
                if not self.put(name, gpus) and service not in last:
                    self.asking.append(Asking(service, name, gpus))

    def put(self, pool: str, gpus: int) -> bool:
        """One pod, on the fullest node that has room now, else soon."""
        fitting = [node for node in self.of[pool] if node.free >= gpus]
        if fitting:
            min(fitting, key=lambda node: (node.free, node.name)).free -= gpus
            return True
        fitting = [node for node in self.of[pool] if node.ahead >= gpus]
        if not fitting:
            return False
        node = min(fitting, key=lambda node: (node.ahead, node.name))
        node.soon -= gpus - node.free
        node.free = 0
        return True

    def fits(self, pool: str, gpus: int, pods: int) -> int:
        """How many of these pods find room now."""
        return min(pods, sum(node.free // gpus for node in self.of[pool])) if gpus else pods

    def take(self, pool: str, gpus: int, pods: int) -> None:
        """Put those that find room."""
        for _ in range(pods):
            fitting = [node for node in self.of[pool] if node.free >= gpus]
            if not fitting:
                return
            min(fitting, key=lambda node: (node.free, node.name)).free -= gpus

    def leave(self, uid: str) -> None:
        """A Job is stopped: what it holds is free soon."""
        for nodes in self.of.values():
            for node in nodes:
                node.soon += node.held.pop(uid, 0)

    def waiting(self, job: JobState, pool: str) -> None:
        """Pods of a Job that runs and that have no node yet: they are put before anything else is started."""
        bound = sum(bool(pod.node) and not pod.terminating for pod in job.pods)
        wanted = job.parallelism if job.completions is None else min(job.parallelism, job.completions - job.succeeded)
        self.take(pool, job.gpus_per_pod, max(0, wanted - bound))


def _missing(draft: Draft, variant: VariantDraft) -> int:
    """Pods that are declared, or will be by this plan, and have no node."""
    count = variant.observed if draft.no_write is not None else variant.count
    bound = sum(bool(pod.node) and pod.phase is not PodPhase.TERMINATING for pod in variant.state.pods)
    return max(0, count * max(1, variant.state.target.pods_per_replica) - bound)


def _going(cycle: Cycle) -> dict[str, int]:
    """By node: GPUs of services' pods that were told to go, or are by this plan where they are lent."""
    found: dict[str, int] = defaultdict(int)
    for draft in cycle.drafts:
        gives = draft.state.spec.background and draft.no_write is None
        for variant in draft.variants:
            leaving = _leaving(variant) if gives else ()
            for pod in variant.state.pods:
                if pod.node and (pod.phase is PodPhase.TERMINATING or pod.name in leaving):
                    found[pod.node] += pod.gpus
    return found


def _leaving(variant: VariantDraft) -> Collection[str]:
    """Pods that this plan takes away; where ordinals decide, those with the highest."""
    fewer = (variant.observed - variant.count) * max(1, variant.state.target.pods_per_replica)
    if fewer <= 0:
        return ()
    if variant.state.target.ordinal:
        return sorted((pod.name for pod in variant.state.pods), key=lambda name: (len(name), name))[-fewer:]
    return victims.choose(variant, fewer)
