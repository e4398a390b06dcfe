"""Carries out what a plan says of Jobs: holds, starts, stops, resizes and releases, one patch each, and nothing else.

Must never touch a Job that is its user's, another controller's or disputed, whatever the plan says: each is checked
against the snapshot here once more. What was written is known by the Job's own annotation, so nothing is kept here; a
crash at any moment leaves nothing to mend. No method raises: every outcome is an `ActResult`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from ebbtide.act import job_patches as patches
from ebbtide.act.gangs import is_gang, path_of, placed
from ebbtide.act.ownership import JOB_MANAGER
from ebbtide.act.result import ActResult, Outcome, classify
from ebbtide.api.annotations import asked
from ebbtide.api.batch_note import ANNOTATION, intent_of, read_note
from ebbtide.clock import monotonic_s, unix_time_s
from ebbtide.errors import ConflictError
from ebbtide.kube.client import MERGE_PATCH, KubeClient
from ebbtide.model.batch import BatchPolicySpec, Intent, JobState, Stray
from ebbtide.model.plan import JobPlan, Plan
from ebbtide.model.plan import Outcome as Does
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.snapshot import Snapshot

WHAT = "job"
_STARTS_FROM = (Intent.HELD, Intent.STOPPED)
_TRIES = 3
_HOLD_AGAIN_S = 300.0


class JobWriter:
    """The only writer to Jobs. `most`: as many writes in one cycle at most, but for stops, which are never put off.

    `within_s`: for giving back, and again for what is taken; services wait for both, also where a webhook hangs.
    """

    def __init__(
        self,
        client: KubeClient,
        most: int = 200,
        now: Callable[[], float] = unix_time_s,
        stray_for_s: float = 60.0,
        parallel: int = 8,
        within_s: float = 5.0,
    ) -> None:
        self._client, self._now, self._left, self._most = client, now, most, most
        self._stray_for_s = stray_for_s
        self._strays: dict[str, float] = {}  # by uid, since when
        self._hold_at: dict[str, float] = {}  # by uid, of those whose note was refused: when it is tried again
        self._parallel = asyncio.Semaphore(parallel)
        self._within_s, self._until = within_s, 0.0

    async def apply(self, plan: Plan, snapshot: Snapshot) -> list[ActResult]:
        """All of it."""
        return [*await self.give_back(plan, snapshot), *await self.take(plan, snapshot)]

    async def give_back(self, plan: Plan, snapshot: Snapshot) -> list[ActResult]:
        """Stops Jobs and makes them narrower: before anything may need their GPUs."""
        self._left = self._most
        self._until = monotonic_s() + self._within_s
        return await self._carry_out(plan, snapshot, Does.STOPS, Does.SHRINKS)

    async def take(self, plan: Plan, snapshot: Snapshot) -> list[ActResult]:
        """Starts Jobs and makes them wider, releases those that no policy selects any more, and notes those held."""
        self._until = monotonic_s() + self._within_s
        started = await self._carry_out(plan, snapshot, Does.STARTS, Does.GROWS)
        released = await _all(self._release(stray) for stray in self._within(self._lasting(snapshot)))
        starting = {item.uid for item in plan.jobs if item.outcome is Does.STARTS}
        policies = _policies(snapshot)
        waiting = (job for job in snapshot.jobs if job.intent is Intent.HELD and not job.noted)
        held = [job for job in waiting if job.uid not in starting and job.policy in policies]
        self._hold_at = {job.uid: self._hold_at[job.uid] for job in held if job.uid in self._hold_at}
        due = [job for job in held if self._hold_at.get(job.uid, 0.0) <= snapshot.taken_at]
        noted = await _all(self._hold(job, policies[job.policy], snapshot.taken_at) for job in self._within(due))
        return [*started, *released, *noted]

    async def _carry_out(self, plan: Plan, snapshot: Snapshot, *kinds: Does) -> list[ActResult]:
        jobs, policies = {job.key: job for job in snapshot.jobs}, _policies(snapshot)
        wanted = [item for item in plan.jobs if item.outcome in kinds]
        if Does.STOPS not in kinds:
            wanted = self._within(sorted(wanted, key=_urgency))
        return await _all(self._act(item, jobs.get(item.key), policies.get(item.policy)) for item in wanted)

    def _within(self, wanted: list[Any]) -> list[Any]:
        """As many as this cycle has writes left for; the rest is planned again."""
        given = wanted[: self._left]
        self._left -= len(given)
        return given

    def _lasting(self, snapshot: Snapshot) -> list[Stray]:
        """Those that nobody selects for a while: a policy that is replaced is gone for a moment only."""
        now_s = snapshot.taken_at
        self._strays = {item.uid: self._strays.get(item.uid, now_s) for item in snapshot.strays}
        return [item for item in snapshot.strays if now_s - self._strays[item.uid] >= self._stray_for_s]

    async def _act(self, item: JobPlan, job: JobState | None, policy: BatchPolicySpec | None) -> ActResult:
        refusal = _last_check(item, job, policy)
        if refusal or job is None or policy is None:
            return _result(item.key, Outcome.REFUSED, f"not changed: {refusal}")
        now_s = self._now()
        match item.outcome:
            case Does.STARTS:
                body, said = patches.start(job, item, policy.uid, now_s), f"started on {item.pool or 'any node'}"
            case Does.STOPS:
                body, said = patches.stop(job, policy.uid, now_s), "stopped"
            case _:
                body = patches.resize(job, item.parallelism, policy.uid)
                said = f"parallelism {job.parallelism} -> {item.parallelism}"
        again = None if item.outcome is Does.STARTS else job
        resource = job.resource if is_gang(job.key) and item.outcome is Does.STARTS else ""
        return await self._patch(job.key, body, said, again, resource)

    async def _hold(self, job: JobState, policy: BatchPolicySpec, at_s: float) -> ActResult:
        result = await self._patch(job.key, patches.hold(job, policy.uid, self._now()), f"held for {policy.key}")
        if result.outcome in (Outcome.FORBIDDEN, Outcome.INVALID):
            self._hold_at[job.uid] = at_s + _HOLD_AGAIN_S  # or thousands would be refused in each cycle
        return result

    async def _release(self, stray: Stray) -> ActResult:
        return await self._patch(stray.key, patches.release(stray), "released: no BatchPolicy selects it any more")

    async def _patch(
        self, key: str, body: patches.Body, said: str, again: JobState | None = None, resource: str = ""
    ) -> ActResult:
        """`resource`: of a JobSet that is started: its templates are read first, for a patch has all of them.

        `again`: the status of a Job that runs changes with every pod, so its resourceVersion is soon old; then it is
        read again and tried with the new one, if nobody changed what was decided from."""
        path = path_of(key)
        try:
            async with asyncio.timeout(max(0.0, self._until - monotonic_s())), self._parallel:
                if resource:  # the version that was planned from stays the condition, whatever is read now
                    body = placed(await self._client.get(path), body, resource)
                for tries_left in reversed(range(_TRIES)):
                    try:
                        params = {"fieldManager": JOB_MANAGER}
                        await self._client.request("PATCH", path, params=params, body=body, content_type=MERGE_PATCH)
                        return _result(key, Outcome.DONE, said)
                    except ConflictError:
                        live = await self._client.get(path) if again is not None and tries_left else None
                        if live is None or again is None or not _unchanged(live, again):
                            raise
                        version = live["metadata"]["resourceVersion"]
                        body = body | {"metadata": body["metadata"] | {"resourceVersion": version}}
            raise AssertionError("the last try returns or raises")
        except TimeoutError:
            why = f"no answer within the {self._within_s:.0f}s that a cycle has for Jobs; tried again in the next one"
            return _result(key, Outcome.RETRY, f"not {said}: {why}")
        except Exception as error:  # one Job's fault must not keep the others from being started or stopped
            return _result(key, classify(error), f"not {said}: {error}")


async def _all(writes: Iterable[Awaitable[ActResult]]) -> list[ActResult]:
    return list(await asyncio.gather(*writes))


def _urgency(item: JobPlan) -> float:
    return float("inf") if item.must_start_by is None else item.must_start_by


def _policies(snapshot: Snapshot) -> dict[str, BatchPolicySpec]:
    return {policy.spec.key: policy.spec for policy in snapshot.batch_policies}


def _last_check(item: JobPlan, job: JobState | None, policy: BatchPolicySpec | None) -> str:
    """Why it must not be written; empty: it may."""
    if job is None or job.uid != item.uid:
        return "the Job is not in the snapshot"
    if policy is None or job.policy != policy.key:
        return f"it is not a Job of BatchPolicy {item.policy!r}"
    if policy.paused:
        return f"BatchPolicy {policy.key} is paused"
    if not item.resource_version or item.resource_version != job.resource_version:  # else it is no precondition
        return f"resourceVersion {job.resource_version!r} was seen, planned for {item.resource_version!r}"
    if item.outcome is Does.STARTS:
        return _may_start(item, job, policy)
    if item.outcome is Does.STOPS:
        return _may_stop(job)
    if job.intent is not Intent.RUNS or job.suspended:
        return f"it is {job.intent.value}, and only what Ebbtide started is resized"
    return _may_resize(item, job)


def _may_stop(job: JobState) -> str:
    if job.suspended or job.intent not in (Intent.RUNS, Intent.STARTED_ANYWAY):
        return f"it is {job.intent.value}, and only what Ebbtide started, or what came running, is stopped"
    if job.intent is Intent.STARTED_ANYWAY and not job.asked.restartable:
        return "it came running, and does not say that it is restartable"
    return ""


def _may_start(item: JobPlan, job: JobState, policy: BatchPolicySpec) -> str:
    if job.intent not in _STARTS_FROM or not job.suspended:
        return f"it is {job.intent.value}, and only what Ebbtide holds is started"
    if job.fault:
        return job.fault
    if item.pool and job.pool and item.pool != job.pool:
        return f"it is bound to pool {job.pool}, planned for {item.pool}"
    if item.pool and policy.pools and item.pool not in policy.pools:
        return f"BatchPolicy {policy.key} allows pools {', '.join(policy.pools)}, planned for {item.pool}"
    own = dict(job.node_selector)
    against = [f"{key}={own[key]}" for key, text in item.node_selector if own.get(key, text) != text]
    if against:
        return f"its own node selector says {', '.join(against)}, against that of pool {item.pool}"
    return _may_resize(item, job) if item.parallelism not in (0, job.parallelism) else ""


def _may_resize(item: JobPlan, job: JobState) -> str:
    most = job.full_parallelism or job.parallelism
    if not job.elastic:
        return "it is not elastic: its parallelism stays"
    if not job.least_parallelism <= item.parallelism <= most:
        return f"parallelism {item.parallelism} is outside {job.least_parallelism}..{most}"
    return ""


def _unchanged(live: dict[str, Any], seen: JobState) -> bool:
    """Whether it is the same Job, and says of itself what was decided from; its status may have moved.

    A user who takes its label or `restartable` away while a stop is on its way is quicker than the stop.
    """
    metadata, spec = live["metadata"], live["spec"]
    annotations = metadata.get("annotations") or {}
    note = read_note(annotations.get(ANNOTATION), seen.uid)
    suspended = bool(spec.get("suspend"))
    parallelism = seen.parallelism if is_gang(seen.key) else spec.get("parallelism", 1)
    return (
        metadata["uid"] == seen.uid
        and not metadata.get("deletionTimestamp")
        and asked(annotations, seen.created_at).restartable == seen.asked.restartable
        and set(seen.labels) <= set((metadata.get("labels") or {}).items())
        and (intent_of(note, suspended), suspended, parallelism) == (seen.intent, seen.suspended, seen.parallelism)
    )


def _result(key: str, outcome: Outcome, message: str) -> ActResult:
    return ActResult(what=WHAT, service=key, variant="", outcome=outcome, message=f"Job {key}: {message}")


def said_of(plan: Plan, results: Iterable[ActResult]) -> Plan:
    """The plan as it is to be reported: of a Job that only a person can help, why it was not written."""
    for_people = (Outcome.FORBIDDEN, Outcome.INVALID, Outcome.FAILED, Outcome.REFUSED)
    refused = {item.service: item.message for item in results if item.what == WHAT and item.outcome in for_people}
    if not refused:
        return plan
    jobs = tuple(_told(item, refused.get(item.key, "")) for item in plan.jobs)
    return msgspec.structs.replace(plan, jobs=jobs)


def _told(item: JobPlan, message: str) -> JobPlan:
    if not message:
        return item
    return msgspec.structs.replace(item, reason=Reason(Code.WRITE_REFUSED, message))
