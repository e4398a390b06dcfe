"""What Jobs take of a ceiling that pays for them: from the moment in which they are started, not once they are old."""

from decimal import Decimal

import msgspec
import pytest

from ebbtide.core.plan import plan
from ebbtide.model.batch import Intent
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Outcome, PolicyPlan
from ebbtide.model.snapshot import Account, Others, PolicyState
from ebbtide.model.spec import Billing, CeilingKind, Floor, PolicyScope, Provisioning
from tests.builders import NOW, engine, node, pod, pool, service, settled, snapshot, variant
from tests.builders import spec as declared
from tests.core.batch.test_step import decide
from tests.core.purse import policy
from tests.jobs import batch_policy, job

RUN = {"hours": 2.0, "parallelism": 4}
STARTED = {"intent": Intent.RUNS, "suspended": False, "started_at": NOW - 20.0, "pool": "h100"}


def state(jobs, others=(), *, billing=Billing.POD, ceilings=None, used=0):
    spec = policy(scope=PolicyScope.ALL_GPU_PODS, namespaces=("ml",), **(ceilings or {"per_day": "500"}))
    accounts = (Account(CeilingKind.DAY, NOW - 40_000.0, NOW + 46_400.0, Decimal(0)),)
    where = pool("h100", [node("n", 8, used)], provisioning=Provisioning.AUTOSCALED, billing=billing, max_gpus=64)
    paying = PolicyState(spec, accounts if ceilings is None else (), NOW, others=others)
    return snapshot((), where, jobs=tuple(jobs), batch_policies=(batch_policy(),), policies=(paying,), taken_at=NOW)


def under(jobs, others=(), **more) -> PolicyPlan:
    return plan(state(jobs, others, **more), Memory(), NOW)[0].policies[0]


PASSING = (Others("h100", 0, 4),)
NODE_HALF = (Others("h100", 0, 4, 4),)
NODE_IDLE = (Others("h100", 0, 0, 8),)
TAKES = {
    "its user suspended it": (job(intent=Intent.SUSPENDED_BY_USER, **RUN), (), Billing.POD, 0.0, 0.0),
    "started, and its pods are not there yet: all of its run": (job(**RUN, **STARTED), (), Billing.POD, 24.0, 60.0),
    "the same where each pod may bring a node of 8": (job(**RUN, **STARTED), (), Billing.NODE, 48.0, 120.0),
    "onto a node that is idle and paid for": (job(**RUN, **STARTED), NODE_IDLE, Billing.NODE, 48.0, 120.0),
    "it runs on half of a node": (
        job(on=("n",) * 4, hours=2.0, ran_h=20 / 3600), NODE_HALF, Billing.NODE, 48.0, 120.0),
    "its pods have run for 20 s: the rest of it": (
        job(on=("n",) * 4, hours=2.0, ran_h=20 / 3600), PASSING, Billing.POD, 24.0, 60.0),
    "it may be stopped: what runs until it would be gone": (
        job(restartable=True, **RUN, **STARTED), (), Billing.POD, 0.1, 4.5),
    "two of its pods have succeeded, two are to come": (
        job(completions=4, succeeded=2, **RUN, **STARTED), (), Billing.POD, 12.0, 30.0),
    "its queue is empty, no pods come": (job(succeeded=1, **RUN, **STARTED), (), Billing.POD, 0.0, 0.0),
    "of another controller's nobody knows": (
        job(**RUN, **(STARTED | {"intent": Intent.FOREIGN})), (), Billing.POD, 0.0, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKES)
def test_what_a_job_that_was_started_takes_of_a_day(case: str):
    """Four GPUs at 3.00 for two hours as expected are 24 USD; how long it may take at most is more."""
    runs, others, billing, least, most = TAKES[case]
    used = sum(pod.gpus for pod in runs.pods)
    (day,) = under([runs], others, billing=billing, used=used).ceilings
    assert Decimal(least) <= day.committed <= Decimal(most)


def test_of_a_rate_it_takes_its_price_before_its_pods_are_there():
    (rate,) = under([job(**RUN, **STARTED)], ceilings={"per_hour": "50"}).ceilings
    assert (rate.spent, rate.committed) == (0, 12)


@pytest.mark.parametrize("restartable", [False, True])
def test_the_plan_that_starts_it_says_what_it_takes_and_who_pays(restartable: bool):
    decided = decide(state([job(restartable=restartable, **RUN)]))[0]
    assert decided.jobs[0].outcome is Outcome.STARTS
    (paying,) = decided.policies
    (day,) = paying.ceilings
    assert paying.starts == ("ml/eval",)
    assert day.committed > (1 if restartable else 24)


def test_a_policy_that_pays_for_no_pods_of_others_is_not_asked():
    everything = state([job(**RUN)])
    (paying,) = everything.policies
    narrow = msgspec.structs.replace(paying, spec=msgspec.structs.replace(paying.spec, scope=PolicyScope.MANAGED))
    decided = decide(msgspec.structs.replace(everything, policies=(narrow,)))[0]
    assert decided.jobs[0].outcome is Outcome.STARTS
    assert decided.policies[0].starts == ()


@pytest.mark.parametrize(("ceiling", "left"), [({"per_day": "100"}, "0.35"), ({"per_hour": "13"}, "")])
def test_batch_goes_before_a_service_loses_a_replica(ceiling, left):
    """Three replicas and a Job of two GPUs take 0.42 USD until the reserve is over; 0.30 if the Job is stopped now."""
    spec = policy(
        scope=PolicyScope.ALL_GPU_PODS, namespaces=("ml",), outage_reserve_s=60.0, floor=Floor.ALLOW_ZERO, **ceiling
    )
    day = Account(CeilingKind.DAY, NOW - 40_000.0, NOW + 46_400.0, Decimal(100) - Decimal(left or 0))
    runs = job("e", on=("n", "n"), ran_h=1.0, restartable=True, hours=9.0)
    serving = [pod(f"a-{i}", engine(20.0), node="n") for i in range(3)]
    everything = snapshot(
        service(variant("h100", serving), declared("ml/chat", min_replicas=0)),
        pool("h100", [node("n", 8, 5)], provisioning=Provisioning.AUTOSCALED, billing=Billing.POD, max_gpus=64),
        jobs=(runs,),
        batch_policies=(batch_policy(),),
        policies=(PolicyState(spec, (day,) if left else (), NOW, others=(Others("h100", 2, 0),)),),
    )
    everything = msgspec.structs.replace(everything, taken_at=NOW + 300.0)
    memory = settled(msgspec.structs.replace(everything, jobs=(), policies=(), taken_at=NOW), 300).memory
    decided, _ = plan(everything, memory, NOW + 300.0)
    assert decided.jobs[0].outcome is Outcome.STOPS
    assert decided.services[0].variants[0].allowed == 3, decided.services[0].reason
    assert not any(action.to_replicas > 3 for action in decided.actions), "raises wait until it is gone"
