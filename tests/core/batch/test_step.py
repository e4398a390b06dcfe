"""What the batch step decides and says, by tables of whole snapshots."""

from decimal import Decimal

import msgspec
import pytest

from ebbtide.core.batch import price
from ebbtide.core.plan import open_cycle, plan
from ebbtide.model.batch import FinishedJob, Intent, JobPod, Strategy
from ebbtide.model.catalogue import CATALOGUE, JOB
from ebbtide.model.memory import Memory, PoolMemory
from ebbtide.model.plan import Outcome, Plan
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import BATCH_KIND, Snapshot, Source, Unreadable
from ebbtide.model.spec import Billing, Provisioning
from tests.builders import NOW, node, pool, snapshot
from tests.jobs import HOUR_S, batch_policy, job, planned, steps


def decide(state: Snapshot, memory: Memory | None = None, now_s: float = NOW) -> tuple[Plan, Memory]:
    decided, after = plan(state, memory or Memory(), now_s)
    assert not decided.failures, decided.failures
    for each in decided.jobs:
        assert JOB in CATALOGUE[each.reason.code].where, each.reason
    for policy in decided.batch:
        for said in policy.conditions:
            assert f"BatchPolicy.{said.type}" in CATALOGUE[Code(said.reason)].where, said
    return decided, after


def world(jobs, policies=None, pools=None) -> Snapshot:
    return snapshot((), pools, jobs=tuple(jobs), batch_policies=tuple(policies or (batch_policy(),)))


CLOUD = pool("cloud", (), "2.90", provisioning=Provisioning.AUTOSCALED, max_gpus=64)
NIGHT_TARIFF = msgspec.structs.replace(CLOUD, steps=steps((-1.0, "2.90"), (8.0, "1.10"), (16.0, "2.90")))
NIGHT = [(8.0, 16.0)]

ONE_JOB = {
    "idle GPUs that are paid for anyway are used at once": (
        job(), batch_policy(), pool(), Outcome.STARTS, Code.JOB_STARTS, "paid for anyway"),
    "a window that is closed is waited for": (
        job(), batch_policy(open_=NIGHT, strategy=Strategy.WINDOW), pool(),
        Outcome.WAITS, Code.WAITS_FOR_WINDOW, "waits for"),
    "outside its window a Job may run on idle GPUs that are paid for": (
        job(), batch_policy(open_=NIGHT, strategy=Strategy.IDLE_OR_WINDOW), pool(),
        Outcome.STARTS, Code.JOB_STARTS, "paid"),
    "outside its window it does not run for money": (
        job(), batch_policy(open_=NIGHT, strategy=Strategy.IDLE_OR_WINDOW), CLOUD,
        Outcome.WAITS, Code.WAITS_FOR_WINDOW, "waits"),
    "a cheaper hour is waited for": (
        job(), batch_policy(), NIGHT_TARIFF,
        Outcome.WAITS, Code.WAITS_FOR_CHEAPER_HOUR, "1.10 instead of 2.90 USD per GPU-hour"),
    "but for a deadline": (
        job(deadline_h=4.0, hours=2.0), batch_policy(), NIGHT_TARIFF, Outcome.STARTS, Code.JOB_STARTS, "2.90 USD"),
    "a deadline that leaves the time is named with the latest start": (
        job(deadline_h=14.0, hours=2.0), batch_policy(), NIGHT_TARIFF, Outcome.WAITS, Code.WAITS_FOR_CHEAPER_HOUR,
        "must start by"),
    "a deadline that nothing can keep starts at once and is said": (
        job(deadline_h=0.5, hours=2.0), batch_policy(), NIGHT_TARIFF,
        Outcome.STARTS, Code.JOB_STARTS, "later than its deadline"),
    "a deadline beyond the days that are planned": (
        job(hours=300.0, deadline_h=8784.0), batch_policy(), pool(), Outcome.STARTS, Code.JOB_STARTS, "within its"),
    "a deadline beyond them, and a night that is cheaper": (
        job(deadline_h=8784.0), batch_policy(), NIGHT_TARIFF,
        Outcome.WAITS, Code.WAITS_FOR_CHEAPER_HOUR, "1.10 instead of 2.90"),
    "no GPUs at all": (
        job(gpus_per_pod=0), batch_policy(), pool(), Outcome.IMPOSSIBLE, Code.FITS_NOWHERE, "asks for no GPUs"),
    "more GPUs than there are": (
        job(parallelism=65), batch_policy(), pool(), Outcome.IMPOSSIBLE, Code.FITS_NOWHERE, "64 GPUs at most"),
    "a pod larger than every node": (
        job(gpus_per_pod=16), batch_policy(), pool(),
        Outcome.IMPOSSIBLE, Code.FITS_NOWHERE, "no node of h100 has 16"),
    "more than the policy allows": (
        job(parallelism=8), batch_policy(max_gpus=4), pool(), Outcome.IMPOSSIBLE, Code.FITS_NOWHERE, "spec.maxGPUs"),
    "another vendor's GPUs": (
        job(resource="amd.com/gpu"), batch_policy(), pool(), Outcome.IMPOSSIBLE, Code.FITS_NOWHERE, "amd.com/gpu"),
    "a price that nobody knows starts nothing": (
        job(), batch_policy(), pool(price=None), Outcome.IMPOSSIBLE, Code.FITS_NOWHERE, "is not known"),
    "a pool that is not there": (
        job(), batch_policy(pools=("gone",)), pool(), Outcome.IMPOSSIBLE, Code.POOL_NOT_FOUND, "no GPUPool gone"),
    "bound by its own node selector to a dearer pool": (
        job(pool="h100"), batch_policy(), [pool(), pool("cheap", price="1.00")],
        Outcome.STARTS, Code.JOB_STARTS, "starts on h100"),
    "its own words fit no node of the only pool": (
        job(misfits=(("h100", "h100: none of the 2 nodes has disk=ssd"),)), batch_policy(), pool(),
        Outcome.IMPOSSIBLE, Code.FITS_NOWHERE, "none of the 2 nodes has disk=ssd"),
    "its own words leave it one pool of two": (
        job(misfits=(("cheap", "cheap: no"),)), batch_policy(), [pool(), pool("cheap", price="1.00")],
        Outcome.STARTS, Code.JOB_STARTS, "h100"),
    "its pods were started where none of them finds a node": (
        job(intent=Intent.RUNS, suspended=False, started_at=NOW, pool="h100", misfits=(("h100", "h100: no disk=ssd"),)),
        batch_policy(), pool(), Outcome.RUNS, Code.FITS_NOWHERE, "never comes: h100: no disk=ssd"),
    "bound to where it ran, and its policy allows other pools by now": (
        job(pool="h100", placeable=False, intent=Intent.STOPPED), batch_policy(pools=("cheap",)),
        [pool(), pool("cheap", price="1.00")], Outcome.IMPOSSIBLE, Code.FITS_NOWHERE, "bound to h100, and"),
    "a full pool": (
        job(), batch_policy(), pool(nodes=[node("n", 8, 8)]), Outcome.WAITS, Code.WAITS_FOR_GPUS, "not free"),
    "a paused policy": (
        job(), batch_policy(paused=True), pool(), Outcome.LEFT_ALONE, Code.BATCH_PAUSED, "paused"),
    "somebody else's Job": (
        job(intent=Intent.FOREIGN, why="Kueue's"), batch_policy(), pool(),
        Outcome.LEFT_ALONE, Code.FOREIGN_JOB, "Kueue"),
    "a Job that its user suspended": (
        job(intent=Intent.SUSPENDED_BY_USER), batch_policy(), pool(),
        Outcome.LEFT_ALONE, Code.SUSPENDED_BY_USER, "stays"),
    "two policies": (
        job(intent=Intent.DISPUTED, policy="", why="ml/a and ml/b select it"), batch_policy(), pool(),
        Outcome.LEFT_ALONE,
        Code.SELECTED_TWICE, "ml/a and ml/b"),
    "a policy that cannot be read": (
        job(policy="ml/gone"), batch_policy(), pool(), Outcome.LEFT_ALONE, Code.INVALID_SPEC, "ml/gone is not there"),
    "a duration that nobody knows is said": (
        job(hours=None), batch_policy(), NIGHT_TARIFF, Outcome.WAITS, Code.WAITS_FOR_CHEAPER_HOUR, "nobody knows"),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE_JOB)
def test_one_job(case: str):
    one, policy, where, outcome, code, said = ONE_JOB[case]
    decided, _ = decide(world([one], [policy], where))
    found = decided.jobs[0]
    assert (found.outcome, found.reason.code) == (outcome, code), found
    assert said in found.reason.text, found.reason.text


def test_a_policy_says_which_of_its_jobs_fit_nowhere():
    misfits = (("h100", "h100: none of the 2 nodes has zone in (a)"),)
    decided, _ = decide(world([job("fits"), job("odd", misfits=misfits), job("queer", misfits=misfits)]))
    said = {each.type: each for each in decided.batch[0].conditions}["Placeable"]
    assert (said.status.value, said.reason) == ("False", "FitsNowhere")
    assert said.message == "odd: h100: none of the 2 nodes has zone in (a); and 1 more"
    decided, _ = decide(world([job("fits")]))
    assert {each.type: each.reason for each in decided.batch[0].conditions}["Placeable"] == "JobsFit"


def test_pools_of_two_currencies_are_not_compared():
    yen = msgspec.structs.replace(pool("tokyo", price="1.00"), currency="JPY")
    found = decide(world([job()], [batch_policy(pools=("h100", "tokyo"))], [pool(), yen]))[0].jobs[0]
    assert (found.outcome, found.pool) == (Outcome.STARTS, "h100")


def test_with_a_deadline_what_nobody_knows_the_length_of_starts_as_early_as_it_may():
    runs = job("first", on=("n",), hours=2.0, ran_h=1.0)
    decided, _ = decide(world([runs, job(hours=None, deadline_h=6.0)], pools=pool(nodes=[node("n", 1, 1)])))
    found = planned(decided, "eval")
    assert (found.outcome, found.reason.code) == (Outcome.WAITS, Code.DURATION_UNKNOWN), found.reason
    assert "as early as it may" in found.reason.text and not found.late


def test_what_starts_gets_the_pools_place():
    found = decide(world([job()]))[0].jobs[0]
    assert (found.pool, found.node_selector, found.parallelism) == ("h100", (("pool", "h100"),), 1)


def test_nothing_is_planned_where_there_are_no_jobs():
    decided, memory = decide(world([]))
    assert decided.jobs == () and decided.batch[0].reason.code is Code.NO_JOBS
    assert memory.batch.planned == ()


def test_a_plan_stands_until_something_happens():
    state = world([job()], [batch_policy()], NIGHT_TARIFF)
    first, memory = decide(state)
    again, after = decide(state, memory, NOW + 10.0)
    assert after.batch.planned == memory.batch.planned and after.batch.planned_at == NOW
    assert again.jobs[0].starts_at == first.jobs[0].starts_at == NOW + 8 * HOUR_S
    _, later = decide(state, after, NOW + 70.0)
    assert later.batch.planned_at == NOW + 70.0


def test_the_same_input_gives_the_same_plan():
    jobs = [job(f"j{n}", hours=1.0 + n % 3, deadline_h=20.0 - n, restartable=bool(n % 2)) for n in range(12)]
    state = world(jobs, [batch_policy()], [NIGHT_TARIFF, pool(nodes=1)])
    assert decide(state) == decide(state)


def test_a_policys_limit_holds_over_all_its_jobs():
    decided, _ = decide(world([job(f"j{n}") for n in range(5)], [batch_policy(max_gpus=2)]))
    assert [each.outcome for each in decided.jobs].count(Outcome.STARTS) == 2
    waits = [each for each in decided.jobs if each.outcome is Outcome.WAITS]
    assert {each.reason.code for each in waits} == {Code.AT_MAX_GPUS}


@pytest.mark.parametrize("limit", ["policy", "pool"])
def test_what_a_stopped_job_still_holds_counts_against_limits_until_its_pods_are_gone(limit: str):
    held = job("gone", on=("n",) * 4, hours=2.0, restartable=True)
    pods = tuple(msgspec.structs.replace(each, terminating=True, due_at=NOW + 30.0) for each in held.pods)
    gone = msgspec.structs.replace(held, suspended=True, intent=Intent.STOPPED, started_at=None, pods=pods)
    pressed = job("pressed", parallelism=4, deadline_h=2.0)
    policy = batch_policy(max_gpus=4 if limit == "policy" else None)
    most = {"provisioning": Provisioning.AUTOSCALED, "max_gpus": 4} if limit == "pool" else {}
    before = world([gone, pressed], [policy], pool(nodes=[node("n", 8, 4)], **most))
    assert planned(decide(before)[0], "pressed").outcome is Outcome.WAITS
    after = world([msgspec.structs.replace(gone, pods=()), pressed], [policy], pool(nodes=[node("n", 8)], **most))
    assert planned(decide(after)[0], "pressed").outcome is Outcome.STARTS


def test_the_job_that_is_pressed_goes_first():
    jobs = [job("calm", hours=2.0, deadline_h=20.0), job("pressed", hours=2.0, deadline_h=5.0)]
    decided, _ = decide(world(jobs, pools=pool(nodes=[node("n", 1)])))
    assert planned(decided, "pressed").outcome is Outcome.STARTS
    assert planned(decided, "calm").starts_at > NOW + HOUR_S


def test_namespaces_take_turns():
    jobs = [job(f"a{n}", hours=4.0, created_at=NOW - 100.0 + n) for n in range(3)]
    other = job("b", hours=4.0, key="other/b", policy="other/late", uid="uid-b")
    late = batch_policy("late", key="other/late", uid="uid-late")
    decided, _ = decide(world([*jobs, other], [batch_policy(), late], pool(nodes=[node("n", 2)])))
    assert {each.key for each in decided.jobs if each.outcome is Outcome.STARTS} == {"ml/a0", "other/b"}


def test_a_gang_starts_only_where_all_its_pods_find_nodes():
    nodes = [node("a", 8, 6), node("b", 8, 6), node("c", 8, 8)]
    decided, _ = decide(world([job(parallelism=1, gpus_per_pod=4)], pools=pool(nodes=nodes)))
    assert (decided.jobs[0].outcome, decided.jobs[0].reason.code) == (Outcome.WAITS, Code.WAITS_FOR_GPUS)
    assert "room for 0 of its 1 pods of 4 GPUs" in decided.jobs[0].reason.text


def test_an_elastic_job_starts_smaller_where_not_all_of_it_fits():
    one = job(parallelism=8, elastic=True, completions=8, restartable=True)
    decided, _ = decide(world([one], pools=pool(nodes=[node("n", 8), node("m", 8, 4)], max_gpus=8)))
    found = decided.jobs[0]
    assert (found.outcome, found.parallelism, found.gpus) == (Outcome.STARTS, 4, 4)


def test_a_job_that_was_made_smaller_grows_again():
    small = job("e", on=("n",) * 2, ran_h=0.2, elastic=True, completions=2, restartable=True, full_parallelism=6)
    found = decide(world([small], pools=pool(nodes=[node("n", 8, 2)])))[0].jobs[0]
    assert (found.outcome, found.parallelism, found.reason.code) == (Outcome.GROWS, 6, Code.JOB_RESIZED)


def test_jobs_that_grow_again_stay_within_their_policys_limit_together():
    small = [
        job(f"e{n}", on=("n",) * 2, ran_h=0.2, elastic=True, completions=2, restartable=True, full_parallelism=4)
        for n in range(2)
    ]
    state = world(small, [batch_policy(max_gpus=6)], pool(nodes=[node("n", 8, 4)]))
    found = decide(state)[0].jobs
    assert [(each.outcome, each.gpus) for each in found] == [(Outcome.GROWS, 4), (Outcome.RUNS, 2)]


def test_an_elastic_job_is_not_made_smaller_than_it_may_be():
    one = job(parallelism=8, elastic=True, completions=8, restartable=True, least_parallelism=6)
    decided, _ = decide(world([one], pools=pool(nodes=[node("n", 8), node("m", 8, 4)], max_gpus=8)))
    assert decided.jobs[0].outcome is Outcome.WAITS


CLOSED = {
    "a restartable Job goes when its window has closed": (
        job(on=("n",), hours=6.0, ran_h=1.0, restartable=True), Outcome.STOPS),
    "one that may not be stopped stays": (job(on=("n",), hours=6.0, ran_h=1.0), Outcome.RUNS),
    "one that ends soon stays": (job(on=("n",), hours=0.2, ran_h=0.18, restartable=True), Outcome.RUNS),
    "one that has run over by half does not end soon": (
        job(on=("n",), hours=2.0, ran_h=2.9, restartable=True), Outcome.STOPS),
    "one whose deadline is near stays": (
        job(on=("n",), hours=6.0, ran_h=1.0, deadline_h=15.0, restartable=True), Outcome.RUNS),
    "one that still ends in time in its next window goes": (
        job(on=("n",), hours=2.0, ran_h=1.0, deadline_h=15.0, restartable=True), Outcome.STOPS),
}  # fmt: skip


@pytest.mark.parametrize("case", CLOSED)
def test_a_window_closes(case: str):
    one, outcome = CLOSED[case]
    policy = batch_policy(open_=[(-8.0, -0.1), (10.0, 18.0)], strategy=Strategy.WINDOW)
    found = decide(world([one], [policy], pool(nodes=[node("n", 8, 1)])))[0].jobs[0]
    assert (found.outcome, found.reason.code) == (outcome, Code.OUTSIDE_WINDOW), found.reason.text


def test_runs_are_learnt_from_jobs_that_succeed():
    runs, memory, now_s = job("night-1", on=("n",), ran_h=2.0, owner="CronJob/night"), Memory(), NOW
    for succeeded in (True, False, True, True):
        _, memory = decide(world([runs]), memory, now_s)
        ended = FinishedJob(runs.key, runs.uid, runs.policy, runs.owner, NOW, now_s, 2 * HOUR_S, succeeded)
        after = msgspec.structs.replace(world([]), finished=(ended,))
        for again in (10.0, 20.0):  # it is told in several snapshots
            _, memory = decide(after, memory, now_s + again)
        now_s += 30.0
    (owner,) = memory.batch.owners
    assert (owner.owner, owner.runs) == ("ml/CronJob/night", (2 * HOUR_S,) * 3)
    found = decide(world([job("night-4", hours=None, owner="CronJob/night")]), memory, now_s)[0].jobs[0]
    assert "2.0 h by 3 earlier runs" in found.reason.text


def test_money_saved_is_counted_against_running_at_once():
    runs = job("e", on=("n",), ran_h=0.1, hours=3.0)
    state = world([runs], pools=pool(nodes=[node("n", 8, 1)]))
    memory = Memory()
    waits = world(
        [job("e", hours=3.0)], [batch_policy(open_=NIGHT, strategy=Strategy.WINDOW)], pool(nodes=[node("n", 8, 1)])
    )
    _, memory = decide(waits, memory)
    for n in range(1, 38):
        decided, memory = decide(state, memory, NOW + 10.0 * n)
    assert decided.batch[0].saved == Decimal("0.3") and decided.batch[0].currency == "USD"  # 6 min of 3.00 an hour


@pytest.mark.parametrize("cause", ["the first list is on its way", "its policy cannot be read"])
def test_what_cannot_be_seen_just_now_is_not_forgotten(cause: str):
    state = world([job(deadline_h=-0.1, hours=5.0)], pools=pool(nodes=[node("n", 8, 8)]))
    _, memory = decide(state)
    unseen = msgspec.structs.replace(state, jobs=(), batch_policies=())
    if "list" in cause:
        unseen = msgspec.structs.replace(unseen, sources=tuple(Source(n, False) for n in ("batchpolicies", "jobs")))
    else:
        unseen = msgspec.structs.replace(
            unseen, unreadable=(Unreadable(BATCH_KIND, "ml/night", "uid-night", 2, "odd"),)
        )
    _, blind = decide(unseen, memory, NOW + 10.0)
    assert (blind.batch.jobs, blind.batch.policies) == (memory.batch.jobs, memory.batch.policies)
    decided, _ = decide(state, blind, NOW + 20.0)
    assert decided.batch[0].missed == 1, "counted once"
    _, gone = decide(msgspec.structs.replace(state, jobs=(), batch_policies=()), blind, NOW + 20.0)
    assert (gone.batch.jobs, gone.batch.policies) == ((), ())


def test_a_deadline_that_passes_is_counted_once():
    state, memory = world([job(deadline_h=-0.1, hours=5.0)], pools=pool(nodes=[node("n", 8, 8)])), Memory()
    for n in range(3):
        decided, memory = decide(state, memory, NOW + 10.0 * n)
    assert decided.batch[0].missed == 1
    assert decided.jobs[0].reason.code is Code.DEADLINE_MISSED and decided.jobs[0].late


RENTED = pool("cloud", (), "2.00", provisioning=Provisioning.AUTOSCALED, max_gpus=64, billing=Billing.NODE)


def test_jobs_that_have_time_follow_each_other_on_the_same_nodes():
    jobs = [job(f"j{n}", hours=1.0, deadline_h=12.0, restartable=True, parallelism=4) for n in range(3)]
    decided, _ = decide(world(jobs, pools=[RENTED]))
    first, *others = sorted(decided.jobs, key=lambda each: each.starts_at or NOW)
    assert first.outcome is Outcome.STARTS
    assert first.starts_at is not None and {each.outcome for each in others} == {Outcome.WAITS}
    assert all(each.reason.code is Code.WAITS_FOR_CHEAPER_HOUR for each in others), [e.reason.text for e in others]
    assert all("would stand empty for 2.53 USD" in each.reason.text for each in others), [e.reason.text for e in others]
    begins = [each.starts_at for each in others]
    assert begins[0] != begins[1]


def test_jobs_that_have_no_time_run_beside_each_other():
    jobs = [job(f"j{n}", hours=1.0, deadline_h=2.5, restartable=True, parallelism=4) for n in range(3)]
    decided, _ = decide(world(jobs, pools=[RENTED]))
    assert [each.outcome for each in decided.jobs] == [Outcome.STARTS] * 3


def test_where_no_node_is_nothing_idles_beside_services_that_may_come():
    """Nodes of one GPU, as those seen before, have no rest that is paid for; before any was seen nothing is known."""
    for known in (0, 1):
        memory = Memory(pools=(PoolMemory("cloud", node_gpus=known),))
        draft = open_cycle(world([job()], pools=[RENTED]), memory, NOW).pools["cloud"]
        assert price.node_size(draft) == 1
        assert price.beside_services(3.0, price.node_size(draft)) == 0.0


def test_what_a_start_took_is_remembered_once():
    one = job(on=("n",), ran_h=1.0, restartable=True)
    began_s = one.started_at or 0.0

    def at(ready_s: float, memory: Memory | None, now_s: float) -> Memory:
        pods = (JobPod("p", "n", 1, started_at=ready_s),)
        runs = msgspec.structs.replace(one, pods=pods)
        return decide(world([runs], pools=[pool(nodes=[node("n", 8, 1)])]), memory, now_s)[1]

    memory = at(began_s + 75.0, None, NOW)
    assert memory.batch.jobs[0].start_s == 75.0
    evicted = at(began_s + 3000.0, memory, NOW + 10.0)
    assert evicted.batch.jobs[0].start_s == 75.0
