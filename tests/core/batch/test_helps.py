"""What is said to a Job that can't end in time: the earliest end, and what would help it by what binds."""

import pytest

from ebbtide.core.batch.helps import MOST
from ebbtide.core.plan import plan
from ebbtide.model.batch import Strategy
from ebbtide.model.memory import Memory
from ebbtide.model.plan import JobPlan
from ebbtide.model.reasons import Code
from tests.builders import NOW, node, pool, settled, snapshot
from tests.core.batch.test_giveback import full_node
from tests.jobs import batch_policy, job, planned


def told(jobs, policy, nodes, name: str = "eval") -> JobPlan:
    state = snapshot((), pool(nodes=nodes), jobs=tuple(jobs), batch_policies=(policy,))
    decided, _ = plan(state, Memory(), NOW)
    assert not decided.failures, decided.failures
    return planned(decided, name)


NIGHT = batch_policy(open_=[(8.0, 16.0)], strategy=Strategy.WINDOW)
LONG = job("long", on=("n",) * 6, hours=400.0, ran_h=1.0)
HELPS = {
    "no window is open in time": (
        [job(deadline_h=6.0)], NIGHT, 8,
        "a window that is open before 17:46:05 UTC (spec.windows, spec.strategy), or a deadline from 23:47:14 UTC on, "
        "would help"),
    "others hold the GPUs until long after": (
        [LONG, job(deadline_h=6.0, parallelism=4)], batch_policy(), 8, "2 more GPUs on h100 for 2.0 h would help"),
    "others hold the only GPU for a while": (
        [job("r", on=("n",), hours=2.0, ran_h=1.9), job(hours=2.0, deadline_h=4.2)], batch_policy(), 1,
        "1 more GPU on h100 for 4.0 h, or a deadline from"),
    "its policy may hold no more": (
        [job("r", on=("n",), hours=40.0), job(deadline_h=6.0)], batch_policy(max_gpus=1), 8,
        "more than 1 GPU for its policy (spec.maxGPUs) would help"),
    "it runs for too long": (
        [LONG, job(hours=10.0, deadline_h=6.0, parallelism=4)], batch_policy(), 8,
        "a shorter expected duration would help; more GPUs would not"),
    "it runs for too long, and waits for its window": (
        [job(hours=10.0, deadline_h=6.0)], NIGHT, 8,
        "a shorter expected duration, or a deadline from 1970-01-13 17:52:23 UTC on, would help; more GPUs would not"),
}  # fmt: skip


@pytest.mark.parametrize("case", HELPS)
def test_what_would_help_when(case: str):
    jobs, policy, gpus, text = HELPS[case]
    found = told(jobs, policy, [node("n", gpus, sum(len(each.pods) for each in jobs))])
    assert (found.reason.code, found.late) == (Code.DEADLINE_UNREACHABLE, True), found.reason.text
    assert text in found.reason.text


def test_one_that_may_not_be_stopped_is_told_where_that_binds():
    """Beside a service on 2 of 8 GPUs that may need more before the Job has surely ended."""
    jobs = [job(deadline_h=6.0, parallelism=5)]
    state = full_node(jobs, rps=18.0, held=0)
    found = planned(plan(state, settled(full_node((), rps=18.0, held=0), 300).memory, NOW + 300.0)[0], "eval")
    assert found.reason.code is Code.DEADLINE_UNREACHABLE
    assert "that it may be stopped (ebbtide.dev/restartable), for which fewer GPUs must" in found.reason.text


def test_without_any_place_the_days_are_said_in_which_there_is_none():
    found = told([LONG, job(deadline_h=6.0, parallelism=4)], batch_policy(), [node("n", 8, 6)])
    assert found.ends_at is None
    assert "its 4 GPUs are not free for long enough on h100 within 1 day" in found.reason.text


def test_with_a_place_the_earliest_end_is_said():
    found = told([job(deadline_h=6.0)], NIGHT, [node("n", 8)])
    assert found.ends_at is not None
    assert "it will have ended by 22:46:40 UTC at the earliest, as expected" in found.reason.text


def test_of_very_many_that_are_late_each_is_told_something():
    jobs = [job(f"j{n}", hours=1.0 + n / 1000.0, deadline_h=6.0) for n in range(MOST + 20)]
    state = snapshot((), pool(nodes=[node("n", 8)]), jobs=tuple(jobs), batch_policies=(NIGHT,))
    late = [each for each in plan(state, Memory(), NOW)[0].jobs if each.late]
    assert len(late) == MOST + 20
    assert all(each.reason.text.endswith(" would help") for each in late)
