"""What batch Jobs hold of each node, and which of it they give back when a service asks for it.

A Job that may be stopped counts as free where services are placed: what is placed on its GPUs stops it in the same
cycle. Pods of Jobs that were stopped already are about to go, so theirs count as free too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from ebbtide.core.batch.duration import remaining
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.model.batch import DEFAULT_CONFIDENCE, BatchPolicyState, Intent, JobPod, JobState
from ebbtide.model.memory import BatchMemory
from ebbtide.model.snapshot import BATCH_KIND, Snapshot
from ebbtide.model.spec import PolicyScope, PolicySpec

OURS = frozenset({Intent.HELD, Intent.RUNS, Intent.STOPPED})
"""Jobs that the plan starts and stops."""
_END = OURS | {Intent.RESUMED_BY_USER, Intent.STARTED_ANYWAY}  # by themselves, as is known of what they are
HANGS_S = 120.0  # after its grace a pod that is still there is one that nobody can count on to go


class Ending(NamedTuple):
    """GPUs of a Job that runs and may not be stopped: since when they are held, and for how long at most.

    Of one whose pods are still to come `for_s` is 0 if it may be stopped.
    """

    gpus: int
    since_s: float
    for_s: float


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
    longest_grace_s: float = 0.0  # of those that may be stopped
    ending: dict[tuple[str, str], list[Ending]] = field(default_factory=dict)  # of those that may not, by the same
    coming: dict[tuple[str, str], list[Ending]] = field(default_factory=dict)  # of those whose pods have no node yet

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

    def endings(self, spec: PolicySpec, pool: str) -> list[Ending]:
        """Of Jobs on a pool that may not be stopped and for which the CostPolicy pays, those held longest first."""
        if spec.scope is not PolicyScope.ALL_GPU_PODS:
            return []
        mine = (each for (space, name), each in self.ending.items() if name == pool and spec.selects(space, ()))
        return sorted((item for each in mine for item in each), key=lambda item: item.since_s)

    def coming_to(self, spec: PolicySpec) -> dict[str, list[Ending]]:
        """By pool, of Jobs that were started and for which the CostPolicy pays, what their pods will hold."""
        found: dict[str, list[Ending]] = {}
        if spec.scope is PolicyScope.ALL_GPU_PODS:
            for (space, name), items in self.coming.items():
                if spec.selects(space, ()):
                    found.setdefault(name, []).extend(items)
        return found

    def grace_s(self, job: JobState) -> float:
        """By when its pods are gone once it was stopped."""
        policy = self.policy(job)
        declared_s = None if policy is None else policy.spec.grace_s
        return job.grace_s if declared_s is None else declared_s


def _ends_within_s(job: JobState, lent: Lent, learnt: Mapping[str, tuple[float, ...]], now_s: float) -> float:
    """As it was paid for when it was started: with the confidence of its policy, and until its pods are gone."""
    policy = lent.policy(job)
    spec = None if policy is None else policy.spec
    owner = f"{job.key.partition('/')[0]}/{job.owner}"
    left = remaining(job, spec, learnt.get(owner, ()), now_s)
    return left.at(DEFAULT_CONFIDENCE if spec is None else spec.confidence) + lent.grace_s(job)


def _coming_gpus(job: JobState) -> int:
    """Of pods that a Job which was started is yet to have, or that wait for a node."""
    if job.suspended or job.intent not in _END:
        return 0
    there = [pod for pod in job.pods if pod.node and not pod.terminating]
    if job.completions is None and job.succeeded:  # its queue is empty: it makes no more pods
        return 0
    open_ = job.parallelism if job.completions is None else min(job.parallelism, job.completions - job.succeeded)
    return max(0, open_ - len(there)) * job.gpus_per_pod


def _note_coming(job: JobState, lent: Lent, learnt: Mapping[str, tuple[float, ...]], now_s: float) -> None:
    gpus = _coming_gpus(job)
    if gpus and job.pool:
        # what waits for a node has not begun to run, whatever the Job's own clock says
        begins = msgspec.structs.replace(job, started_at=None)
        for_s = 0.0 if lent.may_stop(job) else _ends_within_s(begins, lent, learnt, now_s)
        key = job.key.partition("/")[0], job.pool
        lent.coming.setdefault(key, []).append(Ending(gpus, now_s, for_s))


def due_s(job: JobState, pod: JobPod, grace_s: float) -> float | None:
    """By when a pod should be gone; of one that nobody told to go, though its Job is suspended, by when it should have

    been told and gone. None: it stays, or nobody knows.
    """
    if pod.terminating or not job.suspended:
        return pod.due_at if pod.terminating else None
    return None if job.stopped_at is None else job.stopped_at + grace_s


def hangs(job: JobState, pod: JobPod, grace_s: float, now_s: float) -> bool:
    """Whether it should have been gone by now: a finalizer, a dead kubelet or a Job controller that does nothing keeps

    it, and its GPUs are nobody's.
    """
    due = due_s(job, pod, grace_s)
    return due is not None and now_s > due + HANGS_S


def hides_jobs(snapshot: Snapshot) -> bool:
    """Whether there may be Jobs or BatchPolicies that cannot be seen just now."""
    sick = any(not source.healthy and source.name in ("batchpolicies", "jobs") for source in snapshot.sources)
    return sick or any(item.kind == BATCH_KIND for item in snapshot.unreadable)


def look(snapshot: Snapshot, pools: Iterable[PoolDraft], before: BatchMemory, now_s: float) -> Lent | None:
    """None where there are no Jobs. Notes in each pool what may be had back.

    What cannot be seen just now is paid for as it was: else ceilings would lower services for Jobs that can be stopped.
    """
    known = {(space, name): gpus for space, name, gpus in before.back} if before.back and hides_jobs(snapshot) else {}
    if not snapshot.jobs and not known:
        return None
    lent = Lent({state.spec.key: state for state in snapshot.batch_policies})
    of_node = {node.name: pool for pool in pools for node in pool.state.nodes}
    learnt = {memory.owner: memory.runs for memory in before.owners}
    for job in snapshot.jobs:
        back, for_s = lent.stoppable(job), None
        _note_coming(job, lent, learnt, now_s)
        for pod in job.pods:
            pool = of_node.get(pod.node)
            if pool is None or not pod.gpus or hangs(job, pod, lent.grace_s(job), now_s):
                continue
            going = pod.terminating or job.suspended
            if going:
                lent.leaving[pod.node] = lent.leaving.get(pod.node, 0) + pod.gpus
                by_s = due_s(job, pod, lent.grace_s(job))
                if by_s is not None:
                    pool.given_back_by = max(by_s, pool.given_back_by or by_s)
            else:
                holders = lent.held.setdefault(pod.node, {})
                holders[job.uid] = holders.get(job.uid, 0) + pod.gpus
                if not back and job.intent in _END and job.started_at is not None:
                    for_s = for_s or _ends_within_s(job, lent, learnt, now_s)
                    ending = lent.ending.setdefault((job.key.partition("/")[0], pool.name), [])
                    ending.append(Ending(pod.gpus, job.started_at, for_s))
            if going or back:
                pool.lent[pod.node] = pool.lent.get(pod.node, 0) + pod.gpus
                key = job.key.partition("/")[0], pool.name
                lent.back[key] = lent.back.get(key, 0) + pod.gpus
                lent.longest_grace_s = max(lent.longest_grace_s, lent.grace_s(job))
    for key, gpus in known.items():
        lent.back[key] = max(gpus, lent.back.get(key, 0))
    return lent
