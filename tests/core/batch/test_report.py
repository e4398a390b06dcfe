"""What a BatchPolicy's status counts: each Job in one state, GPUs until they are given back, money saved."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.core.plan import plan
from ebbtide.model.batch import Intent, JobPod, JobState
from ebbtide.model.memory import Memory
from ebbtide.model.plan import BatchPolicyPlan, Outcome
from ebbtide.model.spec import Billing, CapacityType, Provisioning
from tests.builders import NOW, engine, node, pod, pool, service, snapshot, variant
from tests.jobs import batch_policy, job


def counted(*jobs: JobState, allocated: int = 0, paused: bool = False) -> BatchPolicyPlan:
    state = snapshot(
        (), pool(nodes=[node("n", 8, allocated)]), jobs=jobs, batch_policies=(batch_policy(paused=paused),)
    )
    decided, _ = plan(state, Memory(), NOW)
    assert not decided.failures, decided.failures
    return decided.batch[0]


def gone(name: str, gpus: int) -> JobState:
    """Stopped; pods of so many GPUs are on their way out."""
    pods = tuple(JobPod(f"{name}-{n}-x", "n", 1, terminating=True, due_at=NOW + 30.0) for n in range(gpus))
    return msgspec.structs.replace(job(name, hours=9.0, restartable=True), intent=Intent.STOPPED, pods=pods)


HELD = {
    "what a stopped Job's pods hold until they are gone": ((gone("g", 4),), 4),
    "nothing of one whose pods are gone": ((gone("g", 0), job("r", on=("n",) * 8, hours=9.0)), 8),
    "what runs": ((job("r", on=("n",) * 3, hours=9.0),), 3),
    "what a Job takes whose pods are on the way": (
        (msgspec.structs.replace(job("r", on=("n",) * 3, hours=9.0), pods=()),), 3),
    "of one that was made smaller also what still goes": (
        (msgspec.structs.replace(job("r", on=("n",) * 4, hours=9.0), parallelism=3),), 4),
}  # fmt: skip


@pytest.mark.parametrize("case", HELD)
def test_gpus_are(case: str):
    jobs, gpus = HELD[case]
    assert counted(*jobs, allocated=8).gpus == gpus


STATES = {
    "waits for its first start": (job(parallelism=4), "queued"),
    "waits for its first start, and its policy is paused": (job(), "queued"),
    "runs": (job(on=("n",)), "running"),
    "runs by its user's will": (job(on=("n",), intent=Intent.RESUMED_BY_USER), "running"),
    "was stopped": (msgspec.structs.replace(gone("eval", 0), parallelism=4), "stopped"),
    "suspended by somebody": (job(intent=Intent.SUSPENDED_BY_USER), "suspended_by_users"),
    "too large for any node": (job(gpus_per_pod=16), "impossible"),
    "too large for any node since it was stopped": (
        msgspec.structs.replace(gone("eval", 0), gpus_per_pod=16), "impossible"),
}  # fmt: skip


@pytest.mark.parametrize("case", STATES)
def test_a_job_counts_once(case: str):
    one, state = STATES[case]
    found = counted(one, allocated=6, paused="paused" in case)
    names = ("queued", "running", "stopped", "suspended_by_users", "impossible")
    assert {name: getattr(found, name) for name in names} == {name: int(name == state) for name in names}


OURS = (Intent.HELD, Intent.STOPPED, Intent.SUSPENDED_BY_USER, Intent.FOREIGN)
THEIRS = (Intent.RUNS, Intent.RESUMED_BY_USER, Intent.STARTED_ANYWAY, Intent.FOREIGN)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(OURS), st.sampled_from([1, 2, 16])), max_size=6),
    st.lists(st.tuples(st.sampled_from(THEIRS), st.booleans()), max_size=4),
    st.booleans(),
)
def test_states_add_up_to_the_jobs(waiting, running, paused):
    jobs = [job(f"w{n}", intent=intent, gpus_per_pod=gpus) for n, (intent, gpus) in enumerate(waiting)]
    jobs += [job(f"r{n}", on=("n",), intent=intent, restartable=may) for n, (intent, may) in enumerate(running)]
    found = counted(*jobs, allocated=len(running), paused=paused)
    states = found.queued + found.running + found.stopped + found.suspended_by_users + found.impossible
    others = sum(intent is Intent.FOREIGN for intent, _ in waiting)
    assert states == len(jobs) - others


SERVICE = service(variant("h100", [pod(f"a-{n}", engine(10.0), node="n") for n in range(2)]))
RENTED = {"provisioning": Provisioning.AUTOSCALED, "max_gpus": 32, "billing": Billing.NODE}
PAID = {
    "nothing on a node that stands for a service": (SERVICE, [node("n", 8, 3)], RENTED, 1, 3.0),
    "a part where it has a node more": (SERVICE, [node("n", 8, 8), node("m", 8, 6)], RENTED, 12, 18.0),
    "all of it on nodes of its own": ((), [node("n", 8, 1)], RENTED, 1, 0.0),
    "all of it where each GPU is paid as it is held": (
        SERVICE, [node("n", 8, 3)], RENTED | {"billing": Billing.POD}, 1, 0.0),
    "nothing on bought GPUs": ((), [node("n", 8, 1)], {"capacity_type": CapacityType.ON_PREM}, 1, 3.0),
}  # fmt: skip


@pytest.mark.parametrize("case", PAID)
def test_in_an_hour_a_job_pays(case: str):
    """A GPU-hour is 3.00. What its Event calls paid for anyway costs nothing, so it is saved."""
    services, nodes, where, gpus, saved = PAID[case]
    on = ("n",) * min(6, gpus) + ("m",) * max(0, gpus - 6)
    runs = msgspec.structs.replace(job("x", hours=3.0, restartable=True, on=on), started_at=NOW)
    waits = job("x", hours=3.0, restartable=True, parallelism=gpus)
    memory, found = Memory(), None
    for step in range(-1, 21):
        t, one = NOW + 180.0 * step, runs if step >= 0 else waits
        seen = {"jobs": (one,), "batch_policies": (batch_policy(),), "taken_at": t, "cycle_s": 180.0}
        decided, memory = plan(snapshot(services, pool(nodes=nodes, **where), **seen), memory, t)
        found = decided.batch[0].saved
    assert decided.jobs[0].outcome is Outcome.RUNS
    assert found is not None and float(found) == pytest.approx(saved, abs=0.05)
