"""What batch Jobs hold of each node, and which of it they give back when a service asks for it.

A Job that may be stopped counts as free where services are placed: what is placed on its GPUs stops it in the same
cycle. Pods of Jobs that were stopped already are about to go, so theirs count as free too.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ebbtide.core.work import PoolDraft
from ebbtide.model.batch import BatchPolicyState, Intent, JobState
from ebbtide.model.snapshot import Snapshot
from ebbtide.model.spec import PolicyScope, PolicySpec

OURS = frozenset({Intent.HELD, Intent.RUNS, Intent.STOPPED})
"""Jobs that the plan starts and stops."""

_SEEN = frozenset({"pods", "nodes", "jobs", "batchpolicies", "gpupools", "costpolicies"})


def unseen(snapshot: Snapshot) -> str:
    """`pods cannot be watched`: why it is not known what is free; empty: it is."""
    sick = (source.name for source in snapshot.sources if source.name in _SEEN and not source.healthy)
    return "; ".join(f"{name} cannot be watched" for name in sick)


@dataclass(slots=True)
class Lent:
    """Jobs and their policies by key, and GPUs of each node that Jobs hold: (Job's uid -> GPUs)."""

    policies: dict[str, BatchPolicyState]
    held: dict[str, dict[str, int]] = field(default_factory=dict)
    leaving: dict[str, int] = field(default_factory=dict)  # of each node: GPUs of Jobs' pods that are on their way out
    back: dict[tuple[str, str], int] = field(default_factory=dict)  # by namespace and pool: GPUs that may be had back

    def policy(self, job: JobState) -> BatchPolicyState | None:
        """Its BatchPolicy; None where that is disputed or gone."""
        return self.policies.get(job.policy)

    def stoppable(self, job: JobState) -> bool:
        """Whether it runs and may be stopped."""
        return not job.suspended and self.may_stop(job)

    def may_stop(self, job: JobState) -> bool:
        """Whether it may be stopped once it runs; what its user resumed is never fought over."""
        policy = self.policy(job)
        if policy is None or policy.spec.paused or not policy.spec.preempts or not job.asked.restartable:
            return False
        return job.intent in OURS or job.intent is Intent.STARTED_ANYWAY

    def stoppable_gpus(self, spec: PolicySpec, pool: str) -> int:
        """GPUs of a pool that Jobs hold for which the CostPolicy pays, and that may be had back."""
        if spec.scope is not PolicyScope.ALL_GPU_PODS:
            return 0
        return sum(gpus for (space, name), gpus in self.back.items() if name == pool and spec.selects(space, ()))

    def grace_s(self, job: JobState) -> float:
        """By when its pods are gone once it was stopped."""
        policy = self.policy(job)
        declared_s = None if policy is None else policy.spec.grace_s
        return job.grace_s if declared_s is None else declared_s


def look(snapshot: Snapshot, pools: Iterable[PoolDraft], now_s: float) -> Lent | None:
    """None where there are no Jobs. Notes in each pool what may be had back."""
    if not snapshot.jobs:
        return None
    lent = Lent({state.spec.key: state for state in snapshot.batch_policies})
    of_node = {node.name: pool for pool in pools for node in pool.state.nodes}
    for job in snapshot.jobs:
        back = lent.stoppable(job)
        for pod in job.pods:
            pool = of_node.get(pod.node)
            if pool is None or not pod.gpus:
                continue
            going = pod.terminating or job.suspended
            if going:
                lent.leaving[pod.node] = lent.leaving.get(pod.node, 0) + pod.gpus
                by_s = pod.due_at if pod.due_at is not None else now_s + lent.grace_s(job)
                pool.given_back_by = max(by_s, pool.given_back_by or by_s)
            else:
                holders = lent.held.setdefault(pod.node, {})
                holders[job.uid] = holders.get(job.uid, 0) + pod.gpus
            if going or back:
                pool.lent[pod.node] = pool.lent.get(pod.node, 0) + pod.gpus
                key = job.key.partition("/")[0], pool.name
                lent.back[key] = lent.back.get(key, 0) + pod.gpus
    return lent
