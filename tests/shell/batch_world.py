"""Builders for batch Jobs and BatchPolicies; see `world`."""

from decimal import Decimal
from typing import Any

from ebbtide.model.batch import BatchPolicySpec, BatchPolicyState, Intent, JobState
from ebbtide.model.plan import BatchPolicyPlan, JobPlan, Outcome, Plan
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.snapshot import Snapshot
from tests.shell import world

POLICY = "team/nightly"
SPEC = BatchPolicySpec(POLICY, "uid-of-nightly", 2, (("ebbtide.dev/batch", "nightly"),))


def job(name: str = "embed", **changes: Any) -> JobState:
    fields: dict[str, Any] = {"resource_version": "7", "created_at": world.NOW_S, "policy": POLICY}
    return JobState(f"team/{name}", f"uid-of-{name}", **(fields | {"intent": Intent.HELD} | changes))


def job_plan(
    name: str = "embed", outcome: Outcome = Outcome.WAITS, code: Code = Code.WAITS_FOR_WINDOW, **changes: Any
) -> JobPlan:
    text = changes.pop("text", "waits for 22:00: 1.10 instead of 2.90 USD per GPU-hour")
    fields: dict[str, Any] = {"policy": POLICY, "resource_version": "7", "gpus": 8}
    return JobPlan(f"team/{name}", f"uid-of-{name}", outcome=outcome, reason=Reason(code, text), **(fields | changes))


def policy_plan(**changes: Any) -> BatchPolicyPlan:
    fields: dict[str, Any] = {
        "queued": 12,
        "running": 3,
        "suspended_by_users": 1,
        "stopped": 2,
        "missed": 1,
        "gpus": 24,
        "next_start_at": world.NOW_S + 600.0,
        "next_window_at": world.NOW_S + 3600.0,
        "reason": Reason(Code.JOBS_WAIT, "12 Jobs wait for 22:00"),
        "conditions": (world.condition("Ready", "True", "JobsWait", "12 Jobs wait for 22:00"),),
        "saved": Decimal("12.4"),
        "currency": "USD",
    }
    return BatchPolicyPlan(POLICY, SPEC.uid, **(fields | changes))


def cycle(*policies: BatchPolicyPlan, jobs: tuple[JobPlan, ...] = ()) -> Plan:
    return Plan(at=world.NOW_S, batch=policies, jobs=jobs)


def seen(*jobs: JobState) -> Snapshot:
    return Snapshot(taken_at=world.NOW_S, batch_policies=(BatchPolicyState(SPEC),), jobs=jobs)
