"""The samples of `ebbtide_batch_*`; `metrics` has their names and meanings. Pure."""

from collections import Counter
from collections.abc import Iterator

from ebbtide.model.plan import BatchPolicyPlan, JobPlan, Outcome, Plan

Sample = tuple[str, tuple[str, ...], float]

_AHEAD = (Outcome.WAITS, Outcome.STARTS, Outcome.RUNS, Outcome.SHRINKS, Outcome.GROWS)


def batch_samples(plan: Plan) -> Iterator[Sample]:
    """All series of one plan."""
    planned: Counter[str] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    for job in plan.jobs:
        planned[job.policy] += round(_gpu_seconds(job, plan.at))
        reasons[job.policy, job.reason.code.value] += 1
    for policy in plan.batch:
        yield from _of_policy(policy, planned[policy.key])
    for (policy_key, code), jobs in sorted(reasons.items()):
        if policy_key:  # of a Job that several policies select none decides
            yield "ebbtide_batch_job_reasons", (*_key(policy_key), code), float(jobs)


def _of_policy(plan: BatchPolicyPlan, planned_gpu_s: int) -> Iterator[Sample]:
    key = _key(plan.key)
    states = {
        "queued": plan.queued,
        "running": plan.running,
        "stopped": plan.stopped,
        "suspended": plan.suspended_by_users,
        "impossible": plan.impossible,
    }
    for state, jobs in states.items():
        yield "ebbtide_batch_jobs", (*key, state), float(jobs)
    yield "ebbtide_batch_gpus", key, float(plan.gpus)
    yield "ebbtide_batch_deadlines_missed", key, float(plan.missed)
    yield "ebbtide_batch_planned_gpu_seconds", key, float(planned_gpu_s)
    if plan.next_start_at is not None:
        yield "ebbtide_batch_next_start_timestamp_seconds", key, plan.next_start_at
    if plan.next_window_at is not None:
        yield "ebbtide_batch_next_window_timestamp_seconds", key, plan.next_window_at
    if plan.saved is not None:
        yield "ebbtide_batch_saved", (*key, plan.currency), float(plan.saved)
    for condition in plan.conditions:
        if condition.status.value != "Unknown":
            yield "ebbtide_batch_condition", (*key, condition.type), float(condition.status.value == "True")


def _gpu_seconds(plan: JobPlan, now_s: float) -> float:
    """What is still ahead of it: 8 GPUs from 22:00 to 23:00 are 28,800, at 22:30 half of that."""
    if plan.outcome not in _AHEAD or plan.ends_at is None:
        return 0.0
    return plan.gpus * max(0.0, plan.ends_at - max(now_s, plan.starts_at or now_s))


def _key(policy: str) -> tuple[str, str]:
    namespace, _, name = policy.partition("/")
    return namespace, name
