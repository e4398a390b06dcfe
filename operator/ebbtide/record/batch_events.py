"""Events on batch Jobs and BatchPolicies. Pure.

A start or a stop is told when the API server confirmed it. What a Job waits for is told patiently: 5,000 Jobs in the
queue are as many Events, and they must not hold back what is news.
"""

from collections.abc import Collection, Iterator, Mapping

from ebbtide.model.batch import GANG, JobState
from ebbtide.model.plan import BatchPolicyPlan, ConditionStatus, JobPlan, Outcome, Plan
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import Snapshot
from ebbtide.record.notes import Note, Subject

_MOVES: Mapping[Outcome, str] = {
    Outcome.STARTS: "Start",
    Outcome.STOPS: "Stop",
    Outcome.SHRINKS: "Resize",
    Outcome.GROWS: "Resize",
}
_WARNINGS = frozenset(
    {
        Code.ANNOTATION_INVALID,
        Code.DEADLINE_MISSED,
        Code.DEADLINE_UNREACHABLE,
        Code.FITS_NOWHERE,
        Code.MISSED_FOR_MONEY,
        Code.POOL_NOT_FOUND,
        Code.SELECTED_TWICE,
        Code.STARTED_ANYWAY,
        Code.STOPPED_FOR_MONEY,
    }
)
_UNTOLD = frozenset({Code.JOB_RUNS, Code.JOB_STARTS})  # the Job controller's own Events say that it runs


def batch_events(plan: Plan, snapshot: Snapshot, moved: Collection[str]) -> Iterator[Note]:
    """What one cycle is worth saying of batch work. `moved`: keys of Jobs whose patch the API server confirmed."""
    for job in plan.jobs:
        yield from _of_plan(job, moved)
    for state in snapshot.jobs:
        yield from _of_annotations(state)
    for policy in plan.batch:
        yield from _of_policy(policy)


def _of_plan(plan: JobPlan, moved: Collection[str]) -> Iterator[Note]:
    code = plan.reason.code
    type_ = "Warning" if code in _WARNINGS else "Normal"
    action = _MOVES.get(plan.outcome)
    if action is not None:
        if plan.key in moved:
            # each start is news, also the second within 15 minutes: it is a patch of another version
            topic = f"{action} {plan.resource_version}"
            yield Note(_job(plan.key, plan.uid), type_, code.value, action, plan.reason.text, topic)
    elif code not in _UNTOLD:
        yield Note(_job(plan.key, plan.uid), type_, code.value, "Decide", plan.reason.text, code.value, patient=True)


def _of_annotations(state: JobState) -> Iterator[Note]:
    for _, text in state.asked.faults:
        code = Code.ANNOTATION_INVALID
        yield Note(_job(state.key, state.uid), "Warning", code.value, "Observe", text, text, patient=True)


def _of_policy(plan: BatchPolicyPlan) -> Iterator[Note]:
    """Each condition that is False; Ready unless it repeats another."""
    namespace, _, name = plan.key.partition("/")
    subject = Subject("ebbtide.dev/v1alpha1", "BatchPolicy", namespace, name, plan.uid)
    wrong = [condition for condition in plan.conditions if condition.status is ConditionStatus.FALSE]
    others = {condition.reason for condition in wrong if condition.type != "Ready"}
    for condition in wrong:
        if condition.type == "Ready" and condition.reason in others:
            continue
        type_ = "Normal" if condition.reason == Code.BATCH_PAUSED.value else "Warning"
        yield Note(subject, type_, condition.reason, "Observe", condition.message, condition.reason)


def _job(key: str, uid: str) -> Subject:
    namespace, _, name = key.partition("/")
    if name.startswith(GANG):
        return Subject("jobset.x-k8s.io/v1alpha2", "JobSet", namespace, name.removeprefix(GANG), uid)
    return Subject("batch/v1", "Job", namespace, name, uid)
