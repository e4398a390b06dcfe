"""Jobs as the plan sees them: whose will each is, where it may run, what it holds, and what it has done so far.

A Job of 5,000 that wait is read once for each resourceVersion; what stays the same is the same object.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from ebbtide.api.batch_note import BatchNote
from ebbtide.clock import parse_rfc3339
from ebbtide.model.batch import Asked, BatchPolicySpec, FinishedJob, Intent, JobPod, JobState, Stray
from ebbtide.model.snapshot import PoolState
from ebbtide.observe.gangs import OWNER, Gang, JobSet, gang_of
from ebbtide.observe.jobfit import Wants, wants
from ebbtide.observe.jobplace import Places, asks_for
from ebbtide.observe.jobwill import foreign, note_of, stopped_at, suspended_again, suspended_at, suspended_later, whose
from ebbtide.observe.projections import Job, Pod, find_condition, selects

log = logging.getLogger(__name__)

LEAST_PARALLELISM = "ebbtide.dev/min-parallelism"
FAMILY = "app.kubernetes.io/name"
PLACEABLE_AGAIN = 36  # minor from which on a Job that ran may get another place while it is suspended
_NEVER_ALIKE = ("controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name")
_COUNT = re.compile(r"[1-9][0-9]{0,8}")
_GENERATED = re.compile(r"([-.][0-9]+)+$")

Read = Callable[[Mapping[str, str], float], Asked]
"""What annotations say of a Job that was created at that time (unix seconds)."""


@dataclass(frozen=True, slots=True)
class JobView:
    """Frozen copies of what Jobs depend on. `ended`: (Job, when it ended) of the last minutes.

    `certain`: every Job and every BatchPolicy is known, so that a Job that none selects is nobody's. `unread`:
    namespaces of BatchPolicies that cannot be read, which might select anything there.
    """

    policies: Mapping[str, BatchPolicySpec]
    jobs: Mapping[str, Job]
    ended: tuple[tuple[Job, float], ...] = ()
    minor: int = 0  # of the API server
    certain: bool = False
    unread: frozenset[str] = frozenset()
    sets: Mapping[str, JobSet] = field(default_factory=dict)


class Jobs(NamedTuple):
    """Each sorted by key."""

    states: tuple[JobState, ...] = ()
    finished: tuple[FinishedJob, ...] = ()
    strays: tuple[Stray, ...] = ()


class _Known(NamedTuple):
    uid: str
    version: str
    state: JobState
    wants: tuple[Wants, ...] = ()


class JobReader:
    """Keeps what it read of each Job for the next cycle."""

    def __init__(self, asked: Read) -> None:
        self._asked = asked
        self._known: dict[str, _Known] = {}
        self._basis: tuple[Any, ...] = ()
        self._gangs: dict[str, Gang] = {}
        self._ran: dict[str, BatchNote | None] = {}  # by uid: the note of Jobs seen running by their users' will

    def read(self, view: JobView, pods: Iterable[Pod], pools: Iterable[PoolState], places: Places) -> Jobs:
        """All Jobs of the view that a policy selects, with their pods; and those that are over or nobody's."""
        basis = (dict(view.policies), view.minor, tuple(pool.spec for pool in pools))
        if basis != self._basis:
            self._known, self._gangs, self._basis = {}, {}, basis
        self._view, self._places = view, places
        self._gangs = {key: self._gang(key, found) for key, found in view.sets.items()}
        jobs = {**view.jobs, **{gang.metadata.key: gang for gang in self._gangs.values()}}
        by_namespace: dict[str, list[BatchPolicySpec]] = {}
        for policy in sorted(view.policies.values(), key=lambda policy: policy.key):
            by_namespace.setdefault(policy.namespace, []).append(policy)
        gangs = {gang.metadata.uid for gang in self._gangs.values() if _selecting(by_namespace, gang)}
        of_gang = _members(view.jobs.values(), gangs) if gangs else {}
        by_job = _by_job(pods, of_gang)
        known: dict[str, _Known] = {}
        states: list[JobState] = []
        strays: list[Stray] = []
        for key, job in sorted(jobs.items()):
            if job.metadata.deletion_timestamp or job.end is not None or job.metadata.uid in of_gang:
                continue
            policies = _selecting(by_namespace, job)
            if not policies:
                strays += self._stray(job)
                continue
            known[key] = self._one(key, job, policies)
            own = by_job.get(job.metadata.uid, ())
            states.append(self._now(known[key], own))
        self._known = known
        there = {job.metadata.uid for job in jobs.values()} if self._ran else ()
        self._ran = {uid: note for uid, note in self._ran.items() if uid in there}
        finished = [self._finished(by_namespace, job, at) for job, at in view.ended]
        return Jobs(tuple(states), tuple(item for item in finished if item is not None), tuple(strays))

    def _one(self, key: str, job: Job, policies: list[BatchPolicySpec]) -> _Known:
        version = job.metadata.uid, job.metadata.resource_version
        known = self._known.get(key)
        if known is not None and known[:2] == version:
            return known
        try:
            state = self._state(job, policies)
            templates = job.templates if isinstance(job, Gang) else (job.spec.template.spec,)
            asked = (wants(pod, state.node_selector, map(_json, pod.tolerations or ())) for pod in templates)
            return _Known(*version, state, tuple(dict.fromkeys(asked)))
        except Exception as error:  # one odd Job must not hide the others
            log.exception("Job %s cannot be read", key)
            return _Known(*version, _unreadable(job, error))

    def _state(self, job: Job, policies: list[BatchPolicySpec]) -> JobState:
        meta, spec, status, pod = job.metadata, job.spec, job.status, job.spec.template.spec
        note = note_of(job)
        intent, why = whose(job, note, policies)
        if intent in (Intent.STARTED_ANYWAY, Intent.RESUMED_BY_USER):
            self._ran[meta.uid] = note
        elif intent in (Intent.HELD, Intent.STOPPED) and (
            self._again(meta.uid, note) or suspended_later(job, intent) or suspended_again(job, note)
        ):
            intent = Intent.SUSPENDED_BY_USER
        suspended = bool(spec.suspend)
        placed = _placed(note, pod.node_selector)
        selector = tuple(pair for pair in sorted((pod.node_selector or {}).items()) if pair not in placed)
        tolerations = tuple(map(_json, pod.tolerations or ()))
        ours = tuple(text for text in map(_json, note.tolerations if note else ()) if text in tolerations)
        resource, gpus, fault = asks_for(pod, self._places.resources)
        placeable = _placeable(job, note, self._view.minor)
        parallelism = 1 if spec.parallelism is None else spec.parallelism
        least, wrong = _least(job, parallelism)
        asked = self._asked(meta.annotations or {}, meta.created_at)
        if wrong:
            asked = msgspec.structs.replace(asked, faults=(*asked.faults, (LEAST_PARALLELISM, wrong)))
        return JobState(
            key=meta.key,
            uid=meta.uid,
            resource_version=meta.resource_version,
            created_at=meta.created_at,
            policy=policies[0].key if len(policies) == 1 else "",
            intent=intent,
            labels=tuple(sorted((key, text) for key, text in (meta.labels or {}).items() if key not in _NEVER_ALIKE)),
            owner=owner_of(job),
            why=why,
            suspended=suspended,
            parallelism=parallelism,
            completions=spec.completions,
            succeeded=status.succeeded,
            elastic=bool(least),
            gpus_per_pod=gpus,
            resource=resource,
            grace_s=30.0 if pod.termination_grace_period_seconds is None else pod.termination_grace_period_seconds,
            node_selector=selector,
            pool=_pool(note, suspended, placeable),
            placeable=placeable,
            started_at=None if suspended else _started_at(job, note),
            ran_s=_ran_s(job, note, intent),
            asked=asked,
            fault=(job.fault if isinstance(job, Gang) else "")
            or fault
            or ("parallelism is 0: it has no pods to run" if parallelism == 0 else ""),
            noted=note is not None,
            full_parallelism=note.size if note else 0,
            least_parallelism=least or 1,
            placed=tuple(sorted(placed)),
            tolerations=tuple(text for text in tolerations if text not in ours),
            placed_tolerations=ours,
            generation=meta.generation,
            stopped_at=stopped_at(job, note),
        )

    def _gang(self, key: str, found: JobSet) -> Gang:
        known, meta = self._gangs.get(key), found.metadata
        if known is not None and (known.metadata.uid, known.metadata.resource_version) == (
            meta.uid,
            meta.resource_version,
        ):
            return known
        return gang_of(found, self._places.resources)

    def _again(self, uid: str, note: BatchNote | None) -> bool:
        """Whether it was seen running and Ebbtide wrote nothing since: a stop of Ebbtide's comes with its note."""
        return uid in self._ran and self._ran[uid] == note

    def _now(self, known: _Known, pods: Sequence[Pod]) -> JobState:
        """With what changes while the Job itself does not: its pods, and nodes."""
        state = known.state
        # of a gang some may have no GPUs: they are not placed, and hold up nobody
        mine = (_pod(pod, state.resource) for pod in pods)
        own = tuple(sorted((pod for pod in mine if pod.gpus or not state.gpus_per_pod), key=lambda pod: pod.name))
        pool = state.pool or self._places.bound(state.node_selector)
        if not pool and not state.suspended:
            pool = self._places.of_nodes(pod.node for pod in own)
        misfits = tuple(pair for asked in known.wants for pair in self._places.fits.misfits(asked))
        if not own and not misfits and pool == state.pool:
            return state
        return msgspec.structs.replace(state, pods=own, pool=pool, misfits=misfits)

    def _stray(self, job: Job) -> tuple[Stray, ...]:
        """Empty where it is its user's, or may yet be somebody's."""
        note, view = note_of(job), self._view
        held = bool(job.spec.suspend) and note is not None and note.intent in (Intent.HELD, Intent.STOPPED)
        if not held or not view.certain or job.metadata.namespace in view.unread or foreign(job):
            return ()
        meta = job.metadata
        return (Stray(meta.key, meta.uid, meta.resource_version, note.size if note else 0),)

    def _finished(
        self, by_namespace: Mapping[str, list[BatchPolicySpec]], job: Job, ended_at: float
    ) -> FinishedJob | None:
        policies = _selecting(by_namespace, job)
        if len(policies) != 1 or foreign(job):
            return None
        meta, spec, note, end = job.metadata, job.spec, note_of(job), job.end
        started_at = _started_at(job, note)
        parallelism = 1 if spec.parallelism is None else spec.parallelism
        return FinishedJob(
            key=meta.key,
            uid=meta.uid,
            policy=policies[0].key,
            owner=owner_of(job),
            created_at=meta.created_at,
            ended_at=ended_at,
            ran_s=(note.ran if note else 0.0) + max(0.0, ended_at - (ended_at if started_at is None else started_at)),
            succeeded=end is not None and end.type == "Complete",
            labels=tuple(sorted((key, text) for key, text in (meta.labels or {}).items() if key not in _NEVER_ALIKE)),
            pool=note.pool if note else "",
            gpus=parallelism * asks_for(spec.template.spec, self._places.resources)[1],
            asked=self._asked(meta.annotations or {}, meta.created_at),
        )


def _unreadable(job: Job, error: Exception) -> JobState:
    meta = job.metadata
    return JobState(
        key=meta.key,
        uid=meta.uid,
        resource_version=meta.resource_version,
        created_at=meta.created_at,
        policy="",
        intent=Intent.FOREIGN,
        why=f"it cannot be read: {error!r}; please report it with the object",
        suspended=bool(job.spec.suspend),
    )


def owner_of(job: Job) -> str:
    """What is run again and again: its owner, else its label `app.kubernetes.io/name`, else what its name begins with.

    CronJob nightly -> `CronJob/nightly`; generated from `eval-` -> `eval`; `report-2026-01-31` -> `report`.
    """
    meta = job.metadata
    if meta.owner_references:
        return f"{meta.owner_references[0].kind}/{meta.owner_references[0].name}"
    family = (meta.labels or {}).get(FAMILY)
    if family:
        return family
    if meta.generate_name:
        return meta.generate_name.rstrip("-.") or meta.name
    tail = _GENERATED.search(meta.name)
    # a date or a time stamp has six digits at least; `llama-3` is a name
    stamped = tail is not None and sum(sign.isdigit() for sign in tail[0]) >= 6 and tail.start() > 0
    return meta.name[: tail.start()] if tail is not None and stamped else meta.name


def _selecting(by_namespace: Mapping[str, list[BatchPolicySpec]], job: Job) -> list[BatchPolicySpec]:
    labels = job.metadata.labels
    return [policy for policy in by_namespace.get(job.metadata.namespace, ()) if selects(policy.match_labels, labels)]


def _placeable(job: Job, note: BatchNote | None, minor: int) -> bool:
    """Whether the API server lets the place of its pods change."""
    if not job.spec.suspend:
        return False
    if isinstance(job, Gang):  # its controller made its Jobs of the templates of the first start
        return note is None or note.intent is Intent.HELD
    if minor >= PLACEABLE_AGAIN:
        condition = find_condition(job.status.conditions, "Suspended")
        return job.status.active == 0 and (
            job.status.start_time is None or (condition is not None and condition.status == "True")
        )
    return job.status.start_time is None and (note is None or note.intent is Intent.HELD)


def _pool(note: BatchNote | None, suspended: bool, placeable: bool) -> str:
    """Where it runs, or must run again."""
    return note.pool if note is not None and not (suspended and placeable) else ""


def _placed(note: BatchNote | None, selector: Mapping[str, str] | None) -> frozenset[tuple[str, str]]:
    """What Ebbtide added and nobody changed since."""
    return frozenset(pair for pair in (note.selector.items() if note else ()) if pair in (selector or {}).items())


def _started_at(job: Job, note: BatchNote | None) -> float | None:
    """When the present run began: by the note, or later, when its user had suspended it in between."""
    said = note.since if note is not None and note.intent is Intent.RUNS else None
    seen = parse_rfc3339(job.status.start_time) if job.status.start_time else None
    return max(said, seen) if said is not None and seen is not None else (said if seen is None else seen)


def _ran_s(job: Job, note: BatchNote | None, intent: Intent) -> float:
    ran_s = note.ran if note else 0.0
    at = suspended_at(job)
    if intent is not Intent.SUSPENDED_BY_USER or note is None or note.intent is not Intent.RUNS or at is None:
        return ran_s
    return ran_s + max(0.0, at - note.since)  # its user stopped the run that the note tells of


def _least(job: Job, parallelism: int) -> tuple[int, str]:
    """(the fewest pods that an elastic Job may have; 0: it is not elastic, what is wrong with what it says).

    An Indexed Job whose completions are its parallelism may be a set of workers, or of shards: 8 shards made 4 would
    succeed with half of the work undone. So its user says that it may, and down to what.
    """
    text = (job.metadata.annotations or {}).get(LEAST_PARALLELISM)
    if text is None:
        return 0, ""
    if not _COUNT.fullmatch(text) or int(text) > parallelism:
        allowed = f"a whole number from 1 to spec.parallelism, which is {parallelism}"
        return 0, f"{LEAST_PARALLELISM}: {text[:40]!r} is not allowed: {allowed}"
    if job.spec.completion_mode != "Indexed" or job.spec.completions != parallelism:
        alike = "only an Indexed Job whose spec.completions is its spec.parallelism can be made smaller"
        return 0, f"{LEAST_PARALLELISM}: {text!r} says nothing: {alike}"
    return int(text), ""


def _members(jobs: Iterable[Job], gangs: Collection[str]) -> dict[str, str]:
    """By the uid of each Job that a JobSet made the uid of the JobSet."""
    owned = ((job.metadata.uid, (job.metadata.owner_references or ())[:1]) for job in jobs)
    return {uid: owner.uid for uid, owners in owned for owner in owners if owner.kind == OWNER and owner.uid in gangs}


def _by_job(pods: Iterable[Pod], of_gang: Mapping[str, str]) -> dict[str, list[Pod]]:
    """By uid of the Job, of those of a gang by the gang's."""
    found: dict[str, list[Pod]] = {}
    for pod in pods:
        owners = pod.metadata.owner_references
        if owners and owners[0].kind == "Job" and owners[0].controller and not pod.finished:
            found.setdefault(of_gang.get(owners[0].uid, owners[0].uid), []).append(pod)
    return found


def _pod(pod: Pod, resource: str) -> JobPod:
    ready, scheduled = pod.status.condition("Ready"), pod.status.condition("PodScheduled")
    terminating = bool(pod.metadata.deletion_timestamp)
    began = scheduled if terminating else ready  # one that ends is not ready any more
    since = began.last_transition_time if began is not None and began.status == "True" else None
    return JobPod(
        name=pod.metadata.name,
        node=pod.spec.node_name or "",
        gpus=pod.spec.gpus(resource) if resource else 0,
        started_at=parse_rfc3339(since) if since else None,
        terminating=terminating,
        due_at=parse_rfc3339(pod.metadata.deletion_timestamp) if pod.metadata.deletion_timestamp else None,
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
