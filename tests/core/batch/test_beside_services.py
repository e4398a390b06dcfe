"""A service and Jobs on the same node in virtual time: Jobs fill what is idle, and go when the load comes back."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.core.plan import plan
from ebbtide.model.batch import Intent, JobPod
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Outcome, Plan
from ebbtide.model.snapshot import PodPhase, WriteReceipt
from tests.builders import NOW, engine, node, pod, pool, service, snapshot, spec, variant, variant_spec
from tests.jobs import batch_policy, job

CYCLE_S, STARTUP_S = 10.0, 40.0
GPUS = 8


@dataclass
class _Pod:
    name: str
    born_s: float
    bound_s: float | None = None


@dataclass
class Mixed:
    """One node of 8 GPUs, a service of one GPU a replica, and Jobs of `sizes` pods each that run for ever."""

    sizes: Sequence[int] = (2, 2, 2, 2)
    restartable: bool = True
    grace_s: float = 30.0
    now_s: float = NOW
    memory: Memory = field(default_factory=Memory)
    plan: Plan = field(default_factory=lambda: Plan(at=NOW))
    pods: list[_Pod] = field(default_factory=lambda: [_Pod(f"p-{n}", NOW - 4000.0, NOW - 4000.0) for n in range(2)])
    since_s: dict[str, float] = field(default_factory=dict)
    leaving_s: dict[str, float] = field(default_factory=dict)  # by Job: when its pods are gone
    started: set[str] = field(default_factory=set)
    receipt: WriteReceipt | None = None
    longest_pending_s: float = 0.0
    starts: int = 0
    made: int = 2

    @property
    def held(self) -> int:
        return sum(self.sizes[int(name[1:])] for name in (*self.since_s, *self.leaving_s))

    @property
    def free(self) -> int:
        return GPUS - self.held - sum(each.bound_s is not None for each in self.pods)

    def snapshot(self, load: float):
        ready = [each for each in self.pods if each.bound_s is not None and self.now_s - each.bound_s >= STARTUP_S]
        share = load / max(1, len(ready))
        seen = []
        for each in self.pods:
            if each in ready:
                states = {"readings": engine(share, missed=0.3 if share > 26.0 else 0.0)}
                seen.append(pod(each.name, states["readings"], node="n", created_at=each.born_s, ready_at=each.bound_s))
            elif each.bound_s is not None:
                seen.append(pod(each.name, phase=PodPhase.STARTING, node="n", created_at=each.born_s))
            else:
                phase = PodPhase.UNSCHEDULABLE if self.now_s > each.born_s else PodPhase.PENDING
                seen.append(pod(each.name, phase=phase, created_at=each.born_s))
        declared = spec("ml/chat", [variant_spec()], down_delay_s=120.0)
        where = pool(nodes=[node("n", GPUS, GPUS - self.free)])
        states = variant("h100", seen, len(self.pods), last_write=self.receipt)
        jobs = tuple(self._job(f"j{n}", size) for n, size in enumerate(self.sizes))
        return snapshot(
            service(states, declared), where, jobs=jobs, batch_policies=(batch_policy(),), taken_at=self.now_s
        )

    def _job(self, name: str, size: int):
        runs, leaves = self.since_s.get(name), self.leaving_s.get(name)
        base = job(name, hours=200.0, parallelism=size, restartable=self.restartable, grace_s=self.grace_s)
        leaving = leaves is not None
        pods = tuple(JobPod(f"{name}-{n}-x", "n", 1, terminating=leaving, due_at=leaves) for n in range(size))
        intent = Intent.RUNS if runs is not None else Intent.STOPPED if name in self.started else Intent.HELD
        return msgspec.structs.replace(
            base,
            intent=intent,
            suspended=runs is None,
            started_at=runs,
            pods=pods if runs is not None or leaves is not None else (),
            pool="h100" if runs is not None else "",
        )

    def cycle(self, load: float) -> None:
        self.plan, self.memory = plan(self.snapshot(load), self.memory, self.now_s)
        assert not self.plan.failures, self.plan.failures
        for action in self.plan.actions:
            del self.pods[action.to_replicas :]
            while len(self.pods) < action.to_replicas:
                self.made += 1
                self.pods.append(_Pod(f"p-{self.made}", self.now_s))
            self.receipt = WriteReceipt(action.target_uid, action.to_replicas, self.now_s)
        for each in self.plan.jobs:
            name = each.key.partition("/")[2]
            if each.outcome is Outcome.STOPS:
                del self.since_s[name]
                self.leaving_s[name] = self.now_s + self.grace_s
            elif each.outcome is Outcome.STARTS:
                assert name not in self.leaving_s, "started while its pods are on their way out"
                self.since_s[name] = self.now_s
                self.started.add(name)
                self.starts += 1
        self.now_s += CYCLE_S
        self.leaving_s = {name: gone for name, gone in self.leaving_s.items() if gone > self.now_s}
        for each in self.pods:
            if each.bound_s is None:
                self.longest_pending_s = max(self.longest_pending_s, self.now_s - each.born_s)
                if self.free > 0:
                    each.bound_s = self.now_s
        assert self.free >= 0, "more GPUs than there are"


def test_jobs_fill_what_is_idle_and_give_it_back_within_the_grace_time():
    yard = Mixed()
    for _ in range(60):
        yard.cycle(10.0)
    assert len(yard.since_s) >= 2, yard.plan.jobs
    before = len(yard.pods)
    for _ in range(60):
        yard.cycle(100.0)
    assert len(yard.pods) >= before + 2, yard.plan.services[0].reason
    assert all(each.bound_s is not None for each in yard.pods)
    assert yard.longest_pending_s <= yard.grace_s + CYCLE_S
    for _ in range(120):
        yard.cycle(10.0)
    assert len(yard.since_s) >= 2, [each.reason.text for each in yard.plan.jobs]


def test_jobs_that_may_not_be_stopped_leave_what_services_rarely_need():
    yard = Mixed(restartable=False)
    for _ in range(120):
        yard.cycle(20.0 if yard.now_s < NOW + 600.0 else 34.0)
    assert yard.longest_pending_s <= 2 * CYCLE_S


def test_jobs_do_not_come_and_go_while_the_load_is_steady():
    yard = Mixed()
    for number in range(120):
        yard.cycle(40.0 + 4.0 * (number % 3))
    assert yard.starts <= len(yard.started) + 1


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1.0, 150.0), st.integers(3, 40)), min_size=1, max_size=5),
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.sampled_from([0.0, 5.0, 30.0, 120.0, 300.0]),
    st.booleans(),
)
def test_no_interactive_pod_waits_for_a_batch_pod_longer_than_its_grace_and_a_cycle(loads, sizes, grace_s, restartable):
    """Of any loads, Jobs and grace times; a pod that finds no room beside others of its service counts too."""
    yard = Mixed(sizes, restartable, grace_s)
    for _ in range(20):
        yard.cycle(10.0)
    for load, cycles in loads:
        for _ in range(cycles):
            yard.cycle(load)
            assert yard.longest_pending_s <= grace_s + CYCLE_S, (load, yard.pods, yard.leaving_s)
