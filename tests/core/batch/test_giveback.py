"""Services and ceilings take GPUs from Jobs in the same cycle, from those that lose least."""

from decimal import Decimal

import msgspec
import pytest

from ebbtide.core.batch.lent import look
from ebbtide.core.plan import plan
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.model.batch import Intent, Strategy
from ebbtide.model.memory import BatchMemory, PoolMemory
from ebbtide.model.plan import Outcome
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import BATCH_KIND, POLICY_KIND, Account, Others, PolicyState, Source, Unreadable
from ebbtide.model.spec import (
    Billing,
    CapacityType,
    CeilingKind,
    PolicyScope,
    Provisioning,
    Threshold,
    ThresholdAction,
    ThresholdBasis,
)
from tests.builders import NOW, engine, node, pod, pool, service, settled, snapshot, variant
from tests.core.batch.test_step import decide, world
from tests.core.purse import policy
from tests.jobs import batch_policy, job, planned, steps


def full_node(jobs, *, rps: float, held: int, gpus: int = 8, policies=None):
    """A service of two replicas on the node `n`, asked for `rps` each, beside Jobs that hold `held` GPUs there."""
    pods = [pod(f"a-{i}", engine(rps, missed=0.5 if rps > 20 else 0.0), node="n") for i in range(2)]
    where = pool(nodes=[node("n", gpus, 2 + held)])
    return snapshot(
        service(variant("h100", pods)), where, jobs=tuple(jobs), batch_policies=tuple(policies or (batch_policy(),))
    )


def stopped(decided) -> set[str]:
    return {each.key for each in decided.jobs if each.outcome is Outcome.STOPS}


LEAST = {
    "the younger of two goes": (
        [job("old", on=("n",) * 3, ran_h=5.0, restartable=True, hours=9.0),
         job("young", on=("n",) * 3, ran_h=0.1, restartable=True, hours=9.0)], {"ml/young"}),
    "a small old one may lose less than a large young one": (
        [job("large", on=("n",) * 5, ran_h=1.0, restartable=True, hours=9.0),
         job("small", on=("n",), ran_h=2.0, restartable=True, hours=9.0)], {"ml/small"}),
    "one that may not be stopped never goes": (
        [job("firm", on=("n",) * 3, ran_h=0.1, hours=9.0),
         job("old", on=("n",) * 3, ran_h=5.0, restartable=True, hours=9.0)], {"ml/old"}),
}  # fmt: skip


@pytest.mark.parametrize("case", LEAST)
def test_who_loses_least_goes_first(case: str):
    jobs, expected = LEAST[case]
    quiet = full_node((), rps=10.0, held=0)
    memory = settled(quiet, 300).memory
    state = full_node(jobs, rps=24.0, held=6)
    decided, _ = plan(msgspec.structs.replace(state, taken_at=NOW + 300), memory, NOW + 300.0)
    assert not decided.failures, decided.failures
    raised = decided.services[0].variants[0].allowed
    assert raised > 2, decided.services[0].reason
    gone = stopped(decided)
    assert expected <= gone and "ml/firm" not in gone
    if raised == 3:
        assert gone == expected
    said = next(each.reason for each in decided.jobs if each.key in gone)
    assert said.code is Code.GIVES_GPUS_BACK and "ml/chat needs 1 GPU of h100" in said.text


def test_an_elastic_job_that_came_running_is_stopped_and_not_made_smaller():
    memory = settled(full_node((), rps=10.0, held=0), 300).memory
    elastic = {"elastic": True, "completions": 6, "intent": Intent.STARTED_ANYWAY}
    runs = job("e", on=("n",) * 6, ran_h=0.5, restartable=True, hours=9.0, **elastic)
    decided, _ = plan(full_node([runs], rps=24.0, held=6), memory, NOW + 300.0)
    assert decided.jobs[0].outcome is Outcome.STOPS


def test_outside_windows_what_services_take_back_is_not_asked_for_twice():
    quiet = settled(full_node((), rps=10.0, held=0), 300).memory
    jobs = [job(f"j{n}", on=("n",), ran_h=0.1, restartable=True, hours=9.0) for n in range(6)]
    idle = batch_policy(strategy=Strategy.IDLE_OR_WINDOW)
    decided, _ = plan(full_node(jobs, rps=24.0, held=6, policies=[idle]), quiet, NOW + 300.0)
    more = decided.services[0].variants[0].allowed - 2
    assert 0 < more < 6
    assert len(stopped(decided)) == more


def test_on_gpus_that_are_not_idle_any_more_a_job_outside_windows_goes_and_says_so():
    runs = job("e", on=("n",) * 6, ran_h=0.1, restartable=True, hours=9.0)
    idle = batch_policy(strategy=Strategy.IDLE_OR_WINDOW)
    costs = snapshot((), pool(nodes=[node("n", 8, 6)], billing=Billing.POD), jobs=(runs,), batch_policies=(idle,))
    found = decide(costs)[0].jobs[0]
    assert (found.outcome, found.reason.code) == (Outcome.STOPS, Code.OUTSIDE_WINDOW)
    text = "no window opens within the plan, and its GPUs are not idle any more: stopped; it has no deadline"
    assert found.reason.text == text


def test_a_policy_that_does_not_preempt_lends_for_good():
    memory = settled(full_node((), rps=10.0, held=0), 300).memory
    runs = job("e", on=("n",) * 6, ran_h=0.1, restartable=True, hours=9.0)
    state = full_node([runs], rps=24.0, held=6, policies=[batch_policy(preempts=False)])
    decided, _ = plan(state, memory, NOW + 300.0)
    assert not stopped(decided)
    assert decided.services[0].variants[0].allowed == 2


def test_an_elastic_job_is_made_smaller_where_that_is_enough():
    memory = settled(full_node((), rps=10.0, held=0), 300).memory
    runs = job("e", on=("n",) * 6, ran_h=0.5, restartable=True, hours=9.0, elastic=True, completions=6)
    decided, _ = plan(full_node([runs], rps=24.0, held=6), memory, NOW + 300.0)
    more = decided.services[0].variants[0].allowed - 2
    assert more > 0
    found = decided.jobs[0]
    assert (found.outcome, found.reason.code) == (Outcome.SHRINKS, Code.JOB_RESIZED)
    assert found.parallelism <= 6 - 1


def test_gpus_are_given_back_also_where_the_plan_for_the_others_fails():
    """Services were given them already. No float holds 10^400 GPUs."""
    memory = settled(full_node((), rps=10.0, held=0), 300).memory
    runs = job("e", on=("n",) * 6, ran_h=0.1, restartable=True, hours=9.0)
    state = full_node([runs, job("odd", parallelism=10**400)], rps=24.0, held=6)
    clouds = pool("cloud", (), provisioning=Provisioning.AUTOSCALED)
    decided, after = plan(msgspec.structs.replace(state, pools=(*state.pools, clouds)), memory, NOW + 300.0)
    assert [failure.service for failure in decided.failures] == ["batch Jobs"]
    assert decided.services[0].variants[0].allowed > 2
    assert [each.outcome for each in decided.jobs] == [Outcome.STOPS, Outcome.WAITS]
    assert after.batch.planned_at == 0.0, "it is tried again in the next cycle"


def test_outside_windows_the_next_cycle_stops_no_other_job_while_the_first_ones_pods_go():
    quiet = settled(full_node((), rps=10.0, held=0), 300).memory
    jobs = [job(f"j{n}", on=("n",), ran_h=0.1, restartable=True, hours=9.0) for n in range(6)]
    idle = batch_policy(strategy=Strategy.IDLE_OR_WINDOW)
    decided, memory = plan(full_node(jobs, rps=24.0, held=6, policies=[idle]), quiet, NOW + 300.0)
    went = stopped(decided)
    assert went
    going = [
        msgspec.structs.replace(each, suspended=True, intent=Intent.STOPPED) if each.key in went else each
        for each in jobs
    ]
    again, _ = plan(full_node(going, rps=24.0, held=6, policies=[idle]), memory, NOW + 302.0)
    assert stopped(again) == set()


def test_what_a_stopped_job_still_holds_is_waited_for_and_stops_nobody_else():
    quiet = settled(full_node((), rps=10.0, held=0), 300).memory
    leaving = job("gone", on=("n",) * 3, ran_h=0.1, restartable=True, hours=9.0)
    pods = tuple(msgspec.structs.replace(each, terminating=True, due_at=NOW + 330.0) for each in leaving.pods)
    leaving = msgspec.structs.replace(leaving, suspended=True, pods=pods, intent=Intent.STOPPED)
    stays = job("stays", on=("n",) * 3, ran_h=0.1, restartable=True, hours=9.0)
    decided, _ = plan(full_node([leaving, stays], rps=24.0, held=6), quiet, NOW + 300.0)
    more = decided.services[0].variants[0].allowed - 2
    assert more > 0
    assert stopped(decided) == (set() if more <= 3 else {"ml/stays"})


@pytest.mark.parametrize("told", [True, False])
def test_a_pod_that_does_not_go_holds_up_no_service(told: bool):
    """Three GPUs of it are nobody's for two hours: the Job that runs gives way instead.

    Its node died, or its Job was suspended and nothing ever told it to go.
    """
    quiet = settled(full_node((), rps=10.0, held=0), 300).memory
    stuck = job("stuck", on=("n",) * 3, ran_h=0.1, restartable=True, hours=9.0)
    pods = tuple(msgspec.structs.replace(each, terminating=True, due_at=NOW - 7200.0) for each in stuck.pods)
    pods = pods if told else stuck.pods
    stuck = msgspec.structs.replace(
        stuck, suspended=True, pods=pods, intent=Intent.STOPPED, stopped_at=NOW - 7230.0, started_at=None
    )
    runs = job("runs", on=("n",) * 3, ran_h=0.1, restartable=True, hours=9.0)
    decided, _ = plan(full_node([stuck, runs], rps=24.0, held=6), quiet, NOW + 300.0)
    assert decided.services[0].variants[0].allowed > 2
    assert stopped(decided) == {"ml/runs"}


@pytest.mark.parametrize(
    ("stopped_ago_s", "told", "until_s"),
    [
        pytest.param(10.0, True, 20.0, id="told to go"),
        pytest.param(10.0, False, 20.0, id="stopped just now, and not told yet"),
        pytest.param(100.0, False, -70.0, id="should have been told long ago"),
        pytest.param(None, False, None, id="suspended by somebody, and nobody knows when"),
    ],
)
def test_a_replica_waits_for_pods_that_go_until_they_should_be_gone(
    stopped_ago_s: float | None, told: bool, until_s: float | None
):
    """With a grace of 30 s; and not for ever for those that nobody tells to go."""
    leaving = job("gone", on=("n",), restartable=True, grace_s=30.0)
    pods = tuple(
        msgspec.structs.replace(each, terminating=told, due_at=NOW + 20.0 if told else None) for each in leaving.pods
    )
    stopped_at = None if stopped_ago_s is None else NOW - stopped_ago_s
    leaving = msgspec.structs.replace(leaving, suspended=True, pods=pods, intent=Intent.STOPPED, stopped_at=stopped_at)
    draft = PoolDraft(pool(nodes=[node("n", 8, 3)]), PoolMemory("h100"))
    look(world([leaving]), [draft], BatchMemory(), NOW)
    assert draft.given_back_by == (None if until_s is None else NOW + until_s)
    assert draft.lent == {"n": 1}


def test_two_policies_that_are_short_stop_no_more_than_one_would():
    """Either lacks about the price of one GPU of the four that run."""
    jobs = [job(f"e{n}", on=("n",), ran_h=1.0, restartable=True, hours=9.0) for n in range(4)]
    caps = [
        PolicyState(
            policy(name, per_hour="11.00", scope=PolicyScope.ALL_GPU_PODS, namespaces=("ml",)),
            (),
            NOW,
            others=(Others("h100", 4, 0),),
        )
        for name in ("a", "b")
    ]
    state = cloud(jobs, caps[0], 4)
    one = stopped(decide(state)[0])
    assert one and stopped(decide(msgspec.structs.replace(state, policies=tuple(caps)))[0]) == one


def paid(per_day: str, spent: str, *, thresholds=(), others=2, jobs_pool="h100") -> PolicyState:
    spec = policy(per_day=per_day, scope=PolicyScope.ALL_GPU_PODS, namespaces=("ml",), thresholds=thresholds)
    account = Account(CeilingKind.DAY, NOW - 40_000.0, NOW + 46_400.0, Decimal(spent))
    return PolicyState(spec, (account,), NOW, others=(Others(jobs_pool, others, 0),))


def cloud(jobs, cost_policy: PolicyState, allocated: int = 2):
    where = pool("h100", [node("n", 8, allocated)], provisioning=Provisioning.AUTOSCALED, max_gpus=16)
    return snapshot((), where, jobs=tuple(jobs), batch_policies=(batch_policy(),), policies=(cost_policy,))


def test_a_job_that_no_ceiling_can_pay_waits_and_says_the_sum():
    found = decide(cloud([job(hours=2.0)], paid("100", "99.50", others=0), 0))[0].jobs[0]
    assert (found.outcome, found.reason.code) == (Outcome.WAITS, Code.WAITS_FOR_MONEY)
    assert "0.50 of 100.00 USD a day are left" in found.reason.text and "are lacking" in found.reason.text


def test_a_deadline_does_not_break_a_ceiling():
    found = decide(cloud([job(hours=2.0, deadline_h=1.0)], paid("100", "99.50", others=0), 0))[0].jobs[0]
    assert (found.outcome, found.reason.code) == (Outcome.WAITS, Code.MISSED_FOR_MONEY)
    assert found.late and "are lacking" in found.reason.text


@pytest.mark.parametrize(
    ("deadline_h", "cheaper_h", "late"),
    [
        pytest.param(6.0, None, True, id="the day ends after its latest start"),
        pytest.param(6.0, 2.0, True, id="and it would have waited for a cheaper hour"),
        pytest.param(20.0, None, False, id="the day ends, and then there is time enough"),
        pytest.param(None, None, False, id="it has no deadline"),
    ],
)
def test_a_deadline_that_a_ceiling_makes_impossible_is_said_at_once(
    deadline_h: float | None, cheaper_h: float | None, late: bool
):
    """0.01 of 100.00 USD are left for another 12.9 h; the Job needs an hour, and two with 99 %."""
    state = cloud([job(deadline_h=deadline_h)], paid("100", "99.99", others=0), 0)
    if cheaper_h is not None:
        tariff = steps((-1.0, "3.00"), (cheaper_h, "1.00"))
        state = msgspec.structs.replace(state, pools=(msgspec.structs.replace(state.pools[0], steps=tariff),))
    decided, _ = decide(state)
    found = decided.jobs[0]
    assert (found.outcome, found.late) == (Outcome.WAITS, late)
    assert found.reason.code is (Code.MISSED_FOR_MONEY if late else Code.WAITS_FOR_MONEY), found.reason.text
    assert "USD are lacking until 1970-01-13T02:40:00Z" in found.reason.text
    kept = next(each for each in decided.batch[0].conditions if each.type == "DeadlinesKept")
    assert (kept.status.value, kept.reason) == (("False", "MissedForMoney") if late else ("True", "DeadlinesKept"))


def test_where_no_money_is_left_for_one_pool_another_that_costs_nothing_more_is_taken():
    """The rented pool would be cheaper; the bought one is paid for whoever uses it, but somebody has it for 2 h."""
    whole = paid("100", "99.99", others=0)
    whole = msgspec.structs.replace(whole, spec=policy(per_day="100", scope=PolicyScope.ALL_GPU_PODS))
    state = cloud([job(deadline_h=9.0), job("r", on=("o",), ran_h=0.5, pool="own")], whole, 0)
    own = pool("own", [node("o", 1, 1)], "9.00", capacity_type=CapacityType.RESERVED, billing=Billing.NODE)
    found = planned(decide(msgspec.structs.replace(state, pools=(*state.pools, own)))[0], "eval")
    assert (found.outcome, found.pool, found.late) == (Outcome.WAITS, "own", False), found.reason.text


def test_under_a_ceiling_with_money_left_it_starts():
    found = decide(cloud([job(hours=2.0)], paid("1000", "99.50", others=0), 0))[0].jobs[0]
    assert found.outcome is Outcome.STARTS


def test_a_ceiling_that_would_be_crossed_stops_jobs_and_they_come_back_with_hysteresis():
    runs = job("e", on=("n", "n"), ran_h=1.0, restartable=True, hours=9.0)
    decided, memory = decide(cloud([runs], paid("100", "99.90")))
    found = decided.jobs[0]
    assert (found.outcome, found.reason.code) == (Outcome.STOPS, Code.STOPPED_FOR_MONEY), found
    assert memory.batch.short[0][0] == "uid-cap"
    held = msgspec.structs.replace(job("e", hours=9.0, restartable=True, parallelism=2), intent=Intent.STOPPED)
    again = decide(cloud([held], paid("100", "87.50", others=0), 0), memory, NOW + 60.0)[0].jobs[0]
    later = decide(cloud([held], paid("100", "87.50", others=0), 0), memory, NOW + 700.0)[0].jobs[0]
    assert (again.outcome, later.outcome) == (Outcome.WAITS, Outcome.STARTS), (again.reason.text, later.reason.text)


def test_a_threshold_that_suspends_batch_stops_it_whatever_is_left():
    runs = job("e", on=("n", "n"), ran_h=1.0, restartable=True, hours=9.0)
    at = Threshold(CeilingKind.DAY, 50, ThresholdBasis.SPENT, (ThresholdAction.SUSPEND_BATCH,))
    found = decide(cloud([runs, job("next")], paid("1000", "600", thresholds=(at,))))[0].jobs
    assert [(each.outcome, each.reason.code) for each in found] == [
        (Outcome.STOPS, Code.STOPPED_FOR_MONEY),
        (Outcome.WAITS, Code.WAITS_FOR_MONEY),
    ]
    assert "50 %" in found[0].reason.text


def test_batch_gives_way_before_a_service_is_refused_a_raise():
    """12.00 USD an hour: two replicas and a Job of two GPUs at 3.00 each, and the service wants more."""
    memory = settled(full_node((), rps=10.0, held=0), 300).memory
    runs = job("e", on=("n", "n"), ran_h=1.0, restartable=True, hours=9.0)
    spec = policy(per_hour="12.00", scope=PolicyScope.ALL_GPU_PODS, namespaces=("ml",))
    state = full_node([runs], rps=24.0, held=2)
    tight = msgspec.structs.replace(
        state,
        pools=(pool(nodes=[node("n", 8, 4)], provisioning=Provisioning.AUTOSCALED, billing=Billing.POD),),
        policies=(PolicyState(spec, (), NOW + 300.0, others=(Others("h100", 2, 0),)),),
    )
    decided, after = plan(tight, memory, NOW + 300.0)
    assert decided.services[0].reason.code is Code.CEILING_REACHED, decided.services[0].reason
    (found,) = decided.jobs
    assert (found.outcome, found.reason.code) == (Outcome.STOPS, Code.STOPPED_FOR_MONEY), found.reason
    assert "batch work gives way first" in found.reason.text
    assert after.batch.short


@pytest.mark.parametrize("cause", ["the first list is on its way", "its policy cannot be read"])
def test_no_service_is_lowered_under_a_ceiling_because_jobs_cannot_be_seen(cause: str):
    """Four GPUs to the end of the day are 155 of 200 USD, of which 40 are spent; of Jobs that may be stopped less."""
    runs = job("e", on=("n",) * 4, ran_h=2.0, restartable=True, hours=9.0)
    spec = policy(per_day="200", scope=PolicyScope.ALL_GPU_PODS, namespaces=("ml",))
    account = Account(CeilingKind.DAY, NOW - 40_000.0, NOW + 46_400.0, Decimal(40))
    state = snapshot(
        service(variant("h100", [pod(f"a-{i}", engine(24.0), node="n") for i in range(3)])),
        pool("h100", [node("n", 8, 7)], provisioning=Provisioning.AUTOSCALED, billing=Billing.POD, max_gpus=16),
        jobs=(runs,),
        batch_policies=(batch_policy(),),
        policies=(PolicyState(spec, (account,), NOW, others=(Others("h100", 4, 0),)),),
    )
    memory = settled(state, 300).memory
    seen = plan(state, memory, NOW + 300.0)[0].services[0].variants[0].allowed
    unseen = msgspec.structs.replace(state, jobs=(), batch_policies=())
    if "list" in cause:
        sick = tuple(Source(name, False) for name in ("batchpolicies", "jobs"))
        unseen = msgspec.structs.replace(unseen, sources=(*state.sources, *sick))
    else:
        unseen = msgspec.structs.replace(
            unseen, unreadable=(Unreadable(BATCH_KIND, "ml/night", "uid-night", 2, "odd"),)
        )
    for n in range(3):
        decided, memory = plan(unseen, memory, NOW + 300.0 + 10.0 * n)
        assert decided.services[0].variants[0].allowed == seen == 4, decided.services[0].reason


@pytest.mark.parametrize(("hours", "allowed"), [(1.0, 3), (12.0, 1)])
def test_a_job_that_may_not_be_stopped_is_paid_as_long_as_it_runs_and_lowers_no_service(hours: float, allowed: int):
    """30 of 200 USD are spent: four GPUs for another 1.8 h at most are 21 USD, to the end of the day they are 151."""
    runs = job("e", on=("n",) * 4, hours=hours, ran_h=0.3, now_s=NOW + 300.0)
    spec = policy(per_day="200", scope=PolicyScope.ALL_GPU_PODS, namespaces=("ml",))
    account = Account(CeilingKind.DAY, NOW - 40_000.0, NOW + 46_400.0, Decimal(30))
    state = snapshot(
        service(variant("h100", [pod(f"a-{i}", engine(19.0), node="n") for i in range(3)])),
        pool("h100", [node("n", 8, 7)], provisioning=Provisioning.AUTOSCALED, billing=Billing.POD, max_gpus=64),
        jobs=(runs,),
        batch_policies=(batch_policy(),),
        policies=(PolicyState(spec, (account,), NOW + 300.0, others=(Others("h100", 4, 0),)),),
        taken_at=NOW + 300.0,
    )
    memory = settled(msgspec.structs.replace(state, jobs=(), policies=(), taken_at=NOW), 300).memory
    decided, _ = plan(state, memory, NOW + 300.0)
    assert decided.services[0].variants[0].allowed == allowed, decided.services[0].reason


NOT_STOPPED = {
    "its policy is paused": (Intent.RUNS, True, True),
    "its policy is paused, and it came running": (Intent.STARTED_ANYWAY, True, True),
    "it came running, and does not say that it is restartable": (Intent.STARTED_ANYWAY, False, False),
    "its user resumed it": (Intent.RESUMED_BY_USER, True, False),
    "its user resumed it, and its policy is paused": (Intent.RESUMED_BY_USER, False, True),
}


@pytest.mark.parametrize("case", NOT_STOPPED)
def test_a_job_that_nobody_stops_is_paid_until_its_end_whoever_started_it(case: str):
    """An hour on four GPUs binds 20 USD of 200, not the 154 that they would cost to the end of the day."""
    intent, restartable, paused = NOT_STOPPED[case]
    now_s = NOW + 300.0
    runs = job("e", on=("n",) * 4, ran_h=0.3, now_s=now_s, restartable=restartable, intent=intent)
    spec = policy(per_day="200", scope=PolicyScope.ALL_GPU_PODS, namespaces=("ml",))
    account = Account(CeilingKind.DAY, NOW - 40_000.0, NOW + 46_400.0, Decimal(30))
    state = snapshot(
        service(variant("h100", [pod(f"a-{i}", engine(19.0), node="n") for i in range(3)])),
        pool("h100", [node("n", 8, 7)], provisioning=Provisioning.AUTOSCALED, billing=Billing.POD, max_gpus=64),
        jobs=(runs,),
        batch_policies=(batch_policy(paused=paused),),
        policies=(PolicyState(spec, (account,), now_s, others=(Others("h100", 4, 0),)),),
        taken_at=now_s,
    )
    memory = settled(msgspec.structs.replace(state, jobs=(), policies=(), taken_at=NOW), 300).memory
    decided, _ = plan(state, memory, now_s)
    assert decided.policies[0].ceilings[0].committed < 80
    assert decided.services[0].variants[0].allowed == 3, decided.services[0].reason


def test_a_job_that_may_not_be_stopped_stays_under_a_ceiling_too():
    runs = job("e", on=("n", "n"), ran_h=1.0, hours=9.0)
    found = decide(cloud([runs], paid("100", "99.90")))[0].jobs[0]
    assert found.outcome is Outcome.RUNS


def test_no_ceiling_is_kept_by_stopping_what_runs_on_gpus_that_are_paid_for_whoever_uses_them():
    """150 of 100 USD are spent: a Job on a reserved node is started, and stopped a minute later, over and over."""
    spec = policy(per_day="100", scope=PolicyScope.ALL_GPU_PODS)
    account = Account(CeilingKind.DAY, NOW - 40_000.0, NOW + 46_400.0, Decimal(150))
    where = pool("h100", [node("n", 8, 1)], capacity_type=CapacityType.RESERVED, billing=Billing.NODE)
    runs = job("e", on=("n",), ran_h=1.0, restartable=True, hours=9.0)
    state = snapshot(
        (),
        where,
        jobs=(runs,),
        batch_policies=(batch_policy(),),
        policies=(PolicyState(spec, (account,), NOW, others=(Others("h100", 1, 0, 7),)),),
    )
    assert decide(state)[0].jobs[0].outcome is Outcome.RUNS


@pytest.mark.parametrize(("per_hour", "gpus"), [("11.00", 3), ("12.00", 4), ("40.00", 6)])
def test_a_job_that_was_made_smaller_grows_again_only_within_the_ceilings(per_hour: str, gpus: int):
    """Three GPUs at 3.00 run."""
    small = job("e", on=("n",) * 3, ran_h=0.2, elastic=True, completions=3, restartable=True, full_parallelism=6)
    spec = policy(per_hour=per_hour, scope=PolicyScope.ALL_GPU_PODS, namespaces=("ml",))
    state = cloud([small], PolicyState(spec, (), NOW, others=(Others("h100", 3, 0),)), 3)
    assert decide(state)[0].jobs[0].gpus == gpus


def test_a_ceiling_that_nobody_knows_starts_nothing():
    bad = Unreadable(POLICY_KIND, "cap", "uid-cap", 1, "CostPolicy cap cannot be read")
    state = msgspec.structs.replace(cloud([job()], paid("1000", "1", others=0), 0), policies=(), unreadable=(bad,))
    found = decide(state)[0].jobs[0]
    assert (found.outcome, found.reason.code) == (Outcome.WAITS, Code.WAITS_FOR_MONEY)
    assert "CostPolicy cap cannot be read" in found.reason.text
