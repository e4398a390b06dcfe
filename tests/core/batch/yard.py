"""A yard in virtual time: Jobs come, obey the plan and end after the time that they really take."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from ebbtide.core.plan import plan
from ebbtide.model.batch import BatchPolicyState, Intent, JobPod, JobState
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Outcome, Plan
from ebbtide.model.snapshot import NodeState, PoolState
from tests.builders import NOW, snapshot

CYCLE_S, LOOK_S = 10.0, 900.0


@dataclass
class Work:
    """One Job: as its user submits it, when, and the seconds that it really takes on all its pods."""

    job: JobState
    comes_s: float
    takes_s: float
    did_s: float = 0.0
    runs: list[tuple[float, float]] = field(default_factory=list)  # [from, to)
    since_s: float | None = None
    ended_s: float | None = None
    intent: Intent = Intent.HELD
    pool: str = ""
    nodes: tuple[str, ...] = ()

    @property
    def deadline_s(self) -> float | None:
        return self.job.asked.deadline_at


class Yard:
    """Jobs on pools without services: only a window that closes stops one, and each time once."""

    def __init__(self, works: Sequence[Work], pools: Sequence[PoolState], policies: Sequence[BatchPolicyState]) -> None:
        self.works, self.pools, self.policies = list(works), list(pools), list(policies)
        self.now_s, self.memory, self.plan = NOW, Memory(), Plan(at=NOW)
        self.most_used: dict[str, int] = {}

    def free(self) -> dict[str, int]:
        left = {node.name: node.gpus for pool in self.pools for node in pool.nodes}
        for work in self.works:
            for name in work.nodes if work.since_s is not None else ():
                left[name] -= work.job.gpus_per_pod
        assert min(left.values(), default=0) >= 0, "more GPUs than there are"
        return left

    def state(self):
        left = self.free()
        pools = [
            msgspec.structs.replace(
                pool,
                nodes=tuple(_used(node, node.gpus - left[node.name]) for node in pool.nodes),
                price_per_gpu_hour=_price(pool, self.now_s),
            )
            for pool in self.pools
        ]
        jobs = [self._seen(work) for work in self.works if work.comes_s <= self.now_s and work.ended_s is None]
        policies = [
            msgspec.structs.replace(p, open=tuple(s for s in p.open if s[1] > self.now_s)) for p in self.policies
        ]
        return snapshot((), pools, jobs=tuple(jobs), batch_policies=tuple(policies), taken_at=self.now_s)

    def _seen(self, work: Work) -> JobState:
        runs = work.since_s is not None
        pods = (
            tuple(JobPod(f"p-{n}-x", name, work.job.gpus_per_pod) for n, name in enumerate(work.nodes)) if runs else ()
        )
        return msgspec.structs.replace(
            work.job,
            created_at=work.comes_s,
            intent=work.intent,
            suspended=not runs,
            started_at=work.since_s,
            ran_s=work.did_s,
            pods=pods,
            pool=work.pool if runs else "",
        )

    def step(self) -> None:
        """Plan, obey, and go on to the next event."""
        self.plan, self.memory = plan(self.state(), self.memory, self.now_s)
        assert not self.plan.failures, self.plan.failures
        by_uid = {work.job.uid: work for work in self.works}
        for each in self.plan.jobs:
            work = by_uid[each.uid]
            if each.outcome is Outcome.STOPS:
                self._stop(work)
                work.intent = Intent.STOPPED
        for each in self.plan.jobs:
            if each.outcome is Outcome.STARTS:
                self._start(by_uid[each.uid], each.pool)
        self._on()

    def _start(self, work: Work, pool: str) -> None:
        left, nodes = self.free(), []
        names = [node.name for state in self.pools if state.spec.name == pool for node in state.nodes]
        for _ in range(work.job.parallelism):
            fitting = [name for name in names if left[name] >= work.job.gpus_per_pod]
            assert fitting, f"{work.job.key} was started without room"
            best = min(fitting, key=lambda name: left[name])
            left[best] -= work.job.gpus_per_pod
            nodes.append(best)
        work.since_s, work.nodes, work.intent, work.pool = self.now_s, tuple(nodes), Intent.RUNS, pool

    def _stop(self, work: Work) -> None:
        assert work.since_s is not None and work.job.asked.restartable
        work.did_s += self.now_s - work.since_s
        work.runs.append((work.since_s, self.now_s))
        work.since_s, work.nodes = None, ()
        closed = sum(
            work.comes_s < end <= self.now_s for state in self.policies for _, end in state.open if _is_of(work, state)
        )
        assert len(work.runs) <= closed, f"{work.job.key} was stopped more often than its window has closed"

    def _on(self) -> None:
        """To the next moment at which something happens, at most a look away and at least a cycle."""
        moments = [work.comes_s for work in self.works if work.comes_s > self.now_s]
        moments += [w.since_s + w.takes_s - w.did_s for w in self.works if w.since_s is not None]
        moments += [each.starts_at for each in self.plan.jobs if each.starts_at and each.starts_at > self.now_s]
        moments += [edge for policy in self.policies for span in policy.open for edge in span if edge > self.now_s]
        ahead_s = min(LOOK_S, min(moments, default=math.inf) - self.now_s)
        self.now_s += math.ceil(max(ahead_s, CYCLE_S) / CYCLE_S) * CYCLE_S
        for work in self.works:
            if work.since_s is not None and work.since_s + work.takes_s - work.did_s <= self.now_s:
                work.ended_s = work.since_s + work.takes_s - work.did_s
                work.runs.append((work.since_s, work.ended_s))
                work.did_s, work.since_s, work.nodes = work.takes_s, None, ()

    def run(self, until_s: float) -> None:
        while self.now_s < until_s and any(work.ended_s is None for work in self.works):
            self.step()


def _is_of(work: Work, state: BatchPolicyState) -> bool:
    return state.spec.key == work.job.policy


def _used(node: NodeState, gpus: int) -> NodeState:
    return msgspec.structs.replace(node, allocated_gpus=gpus)


def _price(pool: PoolState, now_s: float):
    known = [step.per_gpu_hour for step in pool.steps if step.at_s <= now_s]
    return known[-1] if known else pool.price_per_gpu_hour


def clairvoyant_keeps(works: Sequence[Work], gpus: int) -> set[str]:
    """Deadlines that earliest deadline first keeps on so many GPUs, knowing what each takes; one GPU each."""
    waiting: list[tuple[float, str, Work]] = []
    ends: list[float] = [0.0] * gpus
    coming = sorted(works, key=lambda work: work.comes_s)
    kept, now_s = set[str](), 0.0
    while coming or waiting:
        now_s = max(now_s, min(ends))
        if not waiting and coming:
            now_s = max(now_s, coming[0].comes_s)
        while coming and coming[0].comes_s <= now_s:
            work = coming.pop(0)
            heapq.heappush(waiting, (work.deadline_s or math.inf, work.job.uid, work))
        if not waiting:
            continue
        _, _, work = heapq.heappop(waiting)
        ends.remove(min(ends))
        ends.append(now_s + work.takes_s)
        if work.deadline_s is not None and now_s + work.takes_s <= work.deadline_s:
            kept.add(work.job.uid)
    return kept
