"""Builds the status of a BatchPolicy from its plan. Pure: the previous status and the time are arguments."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ebbtide.clock import rfc3339
from ebbtide.model.plan import BatchPolicyPlan, JobPlan, Outcome, Plan
from ebbtide.model.snapshot import Snapshot
from ebbtide.record.view import BATCH_CONDITIONS, Status, conditions, fitted, money

# With a spec of usual size the object stays under 32 KiB: 50 Jobs of 400 bytes are 20 KiB
MAX_BYTES = 24 * 1024
MAX_JOBS = 50
_MOST_WORDS = 256
_HOLDS_GPUS = frozenset({Outcome.STARTS, Outcome.RUNS, Outcome.STOPS, Outcome.SHRINKS, Outcome.GROWS})
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A Job's plan, and when its present run began; None: it does not run."""

    plan: JobPlan
    began_at: float | None = None

    @property
    def start_at(self) -> float | None:
        """When its present run began, or the next is planned to."""
        return self.plan.starts_at if self.began_at is None else self.began_at


def by_policy(plan: Plan, snapshot: Snapshot) -> Mapping[str, Sequence[PlannedJob]]:
    """The Jobs of each policy, by its key."""
    began = {job.uid: job.started_at for job in snapshot.jobs if not job.suspended}
    found: dict[str, list[PlannedJob]] = defaultdict(list)
    for job in plan.jobs:
        found[job.policy].append(PlannedJob(job, began.get(job.uid)))
    return found


def batch_policy_status(
    plan: BatchPolicyPlan,
    generation: int,
    previous: Mapping[str, Any],
    now_s: float,
    jobs: Sequence[PlannedJob] = (),
) -> Status:
    """The whole status of one BatchPolicy and its `jobs`. What was saved stays while nothing is known of it."""
    status: Status = {
        "observedGeneration": generation,
        "conditions": conditions(plan.conditions, BATCH_CONDITIONS, previous, generation, now_s),
        "reason": plan.reason.code.value,
        "message": plan.reason.text[:1024],
        "queued": plan.queued,
        "running": plan.running,
        "stopped": plan.stopped,
        "impossible": plan.impossible,
        "suspendedByUsers": plan.suspended_by_users,
        "missed": plan.missed,
        "gpus": plan.gpus,
    }
    status |= _moments({"nextStart": plan.next_start_at, "nextWindow": plan.next_window_at})
    if plan.saved is not None and plan.currency:
        status["saved"] = {"amount": money(plan.saved), "currency": plan.currency}
    elif previous.get("saved"):
        status["saved"] = previous["saved"]
    return _with_jobs(fitted(status), [_row(job) for job in _first(jobs)])


def _first(jobs: Sequence[PlannedJob]) -> list[PlannedJob]:
    """At most 50, in order. 200 that run leave 25 places to those that wait; without any that wait 50 of them show."""
    ordered = sorted(jobs, key=_order)
    on = [job for job in ordered if job.plan.outcome in _HOLDS_GPUS]
    others = [job for job in ordered if job.plan.outcome not in _HOLDS_GPUS]
    first = on[: max(MAX_JOBS // 2, MAX_JOBS - len(others))]
    return [*first, *others[: MAX_JOBS - len(first)]]


def _order(job: PlannedJob) -> tuple[bool, float, float, str]:
    plan, start_at = job.plan, job.start_at
    return (
        plan.outcome is Outcome.LEFT_ALONE,
        _NEVER if start_at is None else start_at,
        _NEVER if plan.deadline_at is None else plan.deadline_at,
        plan.key,
    )


def _row(job: PlannedJob) -> Status:
    plan = job.plan
    row: Status = {"name": plan.key.partition("/")[2], "outcome": plan.outcome.value}
    if plan.pool:
        row["pool"] = plan.pool
    row["gpus"] = max(0, plan.gpus)
    moments = {"start": job.start_at, "end": plan.ends_at}
    row |= _moments({**moments, "mustStartBy": plan.must_start_by, "deadline": plan.deadline_at})
    if plan.late:
        row["late"] = True
    return row | {"reason": _shortened(plan.reason.text, _MOST_WORDS)}


def _with_jobs(status: Status, rows: Sequence[Status]) -> Status:
    """With as many of the rows as there is room for; the ends of reasons go first, then the last rows."""
    for most in (_MOST_WORDS, 128, 64):
        shown = [{**row, "reason": _shortened(row["reason"], most)} for row in rows]
        whole = status | ({"jobs": shown} if shown else {})
        if _size(whole) <= MAX_BYTES:
            return whole
    room = MAX_BYTES - _size(status) - len(',"jobs":[]')
    kept = []
    for row in shown:
        room -= _size(row) + 1
        if room < 0:
            break
        kept.append(row)
    return status | ({"jobs": kept} if kept else {})


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _moments(moments: Mapping[str, float | None]) -> Status:
    return {name: rfc3339(at_s) for name, at_s in moments.items() if at_s is not None}


def _size(value: Any) -> int:
    return len(msgspec.json.encode(value))
