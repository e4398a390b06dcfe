"""GPUs that come free go to the namespace that was lent least of that pool, unless a deadline is near."""

import pytest

from ebbtide.core.batch.share import TAU_S
from ebbtide.core.plan import plan
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Outcome
from tests.builders import NOW, node, pool, snapshot
from tests.core.batch.yard import Work, Yard
from tests.jobs import HOUR_S, batch_policy, job

OURS, THEIRS = batch_policy(), batch_policy("late", key="other/late", uid="uid-late")


def theirs(name: str, **changes):
    """A Job of the second namespace."""
    return job(name, key=f"other/{name}", policy="other/late", **changes)


def starts(pools, jobs, memory: Memory | None = None, now_s: float = NOW, policies=(OURS, THEIRS)) -> set[str]:
    state = snapshot((), pools, jobs=tuple(jobs), batch_policies=tuple(policies), taken_at=now_s)
    decided, _ = plan(state, memory or Memory(), now_s)
    assert not decided.failures, decided.failures
    return {each.key for each in decided.jobs if each.outcome is Outcome.STARTS}


@pytest.mark.parametrize("deadline_h", [None, 20.0])
def test_the_next_gpu_goes_to_who_holds_none_however_long_others_have_waited(deadline_h: float | None):
    """Seven GPUs of eight are one namespace's, which has twenty more waiting since an hour before."""
    running = [job(f"r{n}", hours=10.0, on=("n",), ran_h=0.5) for n in range(7)]
    first = [job(f"a{n}", created_at=NOW - 5000 + n, deadline_h=deadline_h) for n in range(20)]
    late = [theirs(f"b{n}", created_at=NOW - 1000 + n, deadline_h=deadline_h) for n in range(20)]
    assert starts(pool(nodes=[node("n", 8, 7)]), [*running, *first, *late]) == {"other/b0"}


def test_a_latest_start_that_is_near_comes_before_any_share():
    running = [job(f"r{n}", hours=10.0, on=("n",), ran_h=0.5) for n in range(7)]
    jobs = [job("near", deadline_h=2.5), theirs("far", deadline_h=20.0)]
    assert starts(pool(nodes=[node("n", 8, 7)]), [*running, *jobs]) == {"ml/near"}


def test_a_share_makes_no_deadline_late():
    """On one GPU: the other namespace's has 19 h to spare, but for the three of 6 h of the first."""
    running = [job("r", hours=10.0, on=("n",), ran_h=0.5)]
    mine = [job(f"a{n}", hours=6.0, deadline_h=8.0 * n + 13.0) for n in range(3)]
    state = snapshot(
        (),
        pool(nodes=[node("n", 2, 1)]),
        jobs=(*running, *mine, theirs("b", hours=6.0, deadline_h=60.0)),
        batch_policies=(OURS, THEIRS),
    )
    decided, _ = plan(state, Memory(), NOW)
    assert not any(each.late for each in decided.jobs)
    assert next(each.key for each in decided.jobs if each.outcome is Outcome.STARTS) == "ml/a0"


def test_each_pool_is_shared_for_itself():
    """One namespace holds 6 GPUs elsewhere and none of this pool, of which the other holds 3."""
    here, there = pool("a100", [node("a", 4, 3)]), pool("h100", [node("n", 8, 6)])
    mine = batch_policy("mine", pools=("a100",), match_labels=(("batch", "mine"),))
    their = batch_policy("late", key="other/late", uid="uid-late", pools=("a100",))
    jobs = [job(f"r{n}", hours=10.0, on=("n",), ran_h=1.0) for n in range(6)]
    jobs += [theirs(f"s{n}", hours=10.0, on=("a",), ran_h=1.0, pool="a100") for n in range(3)]
    jobs += [theirs("early", created_at=NOW - 5000.0), job("x", policy="ml/mine")]
    assert starts([here, there], jobs, policies=(OURS, mine, their)) == {"ml/x"}


@pytest.mark.parametrize(("ago_s", "first"), [(60.0, "other/b"), (8 * TAU_S, "ml/a")])
def test_what_ran_lately_counts_and_is_forgotten(ago_s: float, first: str):
    """One namespace had four GPUs for five hours; both submit a Job, it a little earlier."""
    where, memory, t = pool(nodes=[node("n", 4, 4)]), Memory(), NOW
    running = [job(f"r{n}", hours=6.0, on=("n",)) for n in range(4)]
    for t in (NOW, NOW + 2.5 * HOUR_S, NOW + 5 * HOUR_S):
        state = snapshot((), where, jobs=tuple(running), batch_policies=(OURS, THEIRS), taken_at=t)
        _, memory = plan(state, memory, t)
    (lent,) = memory.batch.lent
    assert (lent.namespace, lent.pool) == ("ml", "h100") and 11.0 < lent.gpu_hours < 20.0
    t += ago_s
    both = [job("a", created_at=t - 9.0), theirs("b", created_at=t - 3.0)]
    assert starts(pool(nodes=[node("n", 1)]), both, memory, t) == {first}


@pytest.mark.parametrize("deadline_h", [None, 60.0])
@pytest.mark.parametrize("hours", [1.0, 2.0])
def test_over_hours_two_namespaces_that_want_everything_get_half_each(deadline_h: float | None, hours: float):
    """Four GPUs that come free one after the other; the second one comes ten minutes later, with Jobs of `hours`."""
    works = [Work(job(f"a{n}", deadline_h=deadline_h), NOW, HOUR_S) for n in range(40)]
    works += [Work(theirs(f"b{n}", hours=hours, deadline_h=deadline_h), NOW + 600.0, hours * HOUR_S) for n in range(40)]
    for number, work in enumerate(works[:4]):
        work.takes_s = HOUR_S * (1 + 0.25 * number)
    yard = Yard(works, [pool(nodes=[node("n", 4)])], [OURS, THEIRS])
    yard.run(NOW + 10 * HOUR_S)
    held = {
        space: sum(to - at for w in works if w.job.key.startswith(space) for at, to in _runs(w, yard.now_s))
        for space in ("ml/", "other/")
    }
    assert abs(held["ml/"] - held["other/"]) <= 0.15 * sum(held.values()), held


def _runs(work: Work, now_s: float) -> list[tuple[float, float]]:
    return work.runs + ([(work.since_s, now_s)] if work.since_s is not None else [])


@pytest.mark.parametrize("count", [30, 420])
def test_of_more_deadlines_than_can_be_kept_those_of_a_higher_priority_are(count: int):
    """Four GPUs for 4.6 h are room for eight Jobs of 2 h; those of a low priority must start a little earlier."""
    high = batch_policy("hi", priority=1000, match_labels=(("batch", "hi"),))
    low = batch_policy("lo", priority=0, match_labels=(("batch", "lo"),))
    jobs = [job(f"l{n}", policy="ml/lo", hours=2.0, deadline_h=4.4 + n * 0.0001) for n in range(count)]
    jobs += [job(f"h{n}", policy="ml/hi", hours=2.0, deadline_h=4.6) for n in range(4)]
    state = snapshot((), pool(nodes=[node("n", 4)]), jobs=tuple(jobs), batch_policies=(high, low))
    decided, _ = plan(state, Memory(), NOW)
    assert not any(each.late for each in decided.jobs if each.policy == "ml/hi")
