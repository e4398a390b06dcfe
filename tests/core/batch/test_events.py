"""What makes the plan be made anew before its minute is over, so that no Job waits for nothing."""

import msgspec
import pytest

from ebbtide.model.batch import Intent, JobPod
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Outcome, Plan
from tests.builders import NOW, node, pool, snapshot
from tests.core.batch.test_step import decide
from tests.jobs import batch_policy, job


def at(jobs, held: int, memory: Memory | None = None, now_s: float = NOW) -> tuple[Plan, Memory]:
    """Jobs beside a node of 8 GPUs of which `held` are in use by somebody."""
    where = pool(nodes=[node("n", 8, held)])
    state = snapshot((), where, jobs=tuple(jobs), batch_policies=(batch_policy(),), taken_at=now_s)
    return decide(state, memory, now_s)


def outcomes(decided: Plan) -> list[str]:
    return [each.outcome.value for each in decided.jobs]


def test_a_start_that_was_remembered_and_never_written_is_made_by_the_next_cycle():
    """The operator was killed between the two, or the Job was changed by somebody at that moment."""
    one = job()
    decided, memory = at([one], 0)
    assert outcomes(decided) == ["Starts"]
    again, memory = at([one], 0, memory, NOW + 2.0)
    assert outcomes(again) == ["Starts"], again.jobs[0].reason
    changed = msgspec.structs.replace(one, resource_version="2")
    again, _ = at([changed], 0, memory, NOW + 4.0)
    assert outcomes(again) == ["Starts"], again.jobs[0].reason


@pytest.mark.parametrize("freed", [1, 8])
def test_gpus_that_somebody_frees_are_used_by_the_next_cycle(freed: int):
    one = job()
    decided, memory = at([one], 8)
    assert outcomes(decided) == ["Waits"]
    still, memory = at([one], 8, memory, NOW + 10.0)
    assert outcomes(still) == ["Waits"]
    assert still.jobs[0].reason == decided.jobs[0].reason
    after, _ = at([one], 8 - freed, memory, NOW + 20.0)
    assert outcomes(after) == ["Starts"], after.jobs[0].reason


def test_gpus_that_were_taken_and_freed_again_within_a_minute_are_seen():
    one, memory = job(parallelism=8), Memory()
    for n, held in enumerate((1, 8, 1)):
        decided, memory = at([one], held, memory, NOW + 10.0 * n)
        assert outcomes(decided) == ["Waits"]
    after, _ = at([one], 0, memory, NOW + 30.0)
    assert outcomes(after) == ["Starts"]


def test_a_job_whose_pods_are_gone_at_last_goes_on_in_the_next_cycle():
    leaving = JobPod("eval-0-x", "n", 1, terminating=True, due_at=NOW + 30.0)
    stopped = job(intent=Intent.STOPPED, pool="h100", restartable=True, pods=(leaving,))
    decided, memory = at([stopped], 1)
    assert outcomes(decided) == ["Waits"]
    gone = msgspec.structs.replace(stopped, pods=())
    after, _ = at([gone], 0, memory, NOW + 10.0)
    assert outcomes(after) == ["Starts"], after.jobs[0].reason


def test_of_thousands_of_jobs_the_plan_is_not_made_anew_for_each_gpu():
    """5,000 take seconds: GPUs that come and go move nothing within the minute, and nothing is lost after it."""
    many = [job(f"j-{n:04}", parallelism=8) for n in range(5000)]
    decided, memory = at(many, 8)
    assert set(outcomes(decided)) == {"Waits"}
    soon, memory = at(many, 0, memory, NOW + 10.0)
    assert set(outcomes(soon)) == {"Waits"}
    later, _ = at(many, 0, memory, NOW + 60.0)
    assert [each.outcome for each in later.jobs].count(Outcome.STARTS) == 1
