"""What is written to a Job: one merge patch each, with what Ebbtide made of it in the same patch. Pure.

Every body has the uid and the resourceVersion of what was seen: of a Job that changed meanwhile, or is another one by
now, the API server answers 409 and nothing is changed. Whatever dies between two patches leaves a Job that says
whose it is.
"""

from typing import Any

import msgspec

from ebbtide.act.render import toleration_of
from ebbtide.api.batch_note import ANNOTATION, BatchNote
from ebbtide.model.batch import Intent, JobState, Stray
from ebbtide.model.plan import JobPlan

Body = dict[str, Any]


def hold(job: JobState, policy: str, now_s: float) -> Body:
    """Notes that Ebbtide holds a Job that was submitted suspended. `policy`: uid, here and below."""
    return _body(job, BatchNote(state=Intent.HELD, job=job.uid, policy=policy, since=now_s))


def start(job: JobState, planned: JobPlan, policy: str, now_s: float) -> Body:
    """Resumes it on the pool; what an earlier start put into its template goes."""
    selector, tolerations = dict(job.placed), job.placed_tolerations
    template: Body = {}
    if job.placeable:
        selector = dict(pair for pair in planned.node_selector if pair not in job.node_selector)
        wanted = (_text(toleration_of(item)) for item in planned.tolerations)
        tolerations = tuple(dict.fromkeys(text for text in wanted if text not in job.tolerations))
        template = _template(job, selector, tolerations)
    size = planned.parallelism if job.elastic and planned.parallelism else job.parallelism
    note = BatchNote(
        state=Intent.RUNS,
        job=job.uid,
        policy=policy,
        pool=planned.pool or job.pool,
        ran=job.ran_s,
        since=now_s,
        size=_full(job, size),
        selector=selector,
        tolerations=_values(tolerations),
    )
    return _body(job, note, {"suspend": False, **_sized(job, size), **template})


def stop(job: JobState, policy: str, now_s: float) -> Body:
    """Suspends it; its pods get their grace, and the finished ones of its indexes stay finished."""
    note = _note(job, Intent.STOPPED, policy, ran=job.ran_s + ran_now_s(job, now_s), since=now_s)
    return _body(job, note, {"suspend": True})


def resize(job: JobState, size: int, policy: str) -> Body:
    """Makes an elastic Job that runs as wide as `size`."""
    since = 0.0 if job.started_at is None else job.started_at
    note = _note(job, Intent.RUNS, policy, ran=job.ran_s, since=since)
    return _body(job, msgspec.structs.replace(note, size=_full(job, size)), _sized(job, size))


def release(stray: Stray) -> Body:
    """Gives a Job back to its user: it runs, as wide as it was declared, and nothing of Ebbtide's is left to say."""
    metadata = {"uid": stray.uid, "resourceVersion": stray.resource_version, "annotations": {ANNOTATION: None}}
    width = {"parallelism": stray.parallelism, "completions": stray.parallelism} if stray.parallelism else {}
    return {"metadata": metadata, "spec": {"suspend": False, **width}}


def ran_now_s(job: JobState, now_s: float) -> float:
    """How long its present run has worked: while all of its pods still wait for a node, it has not begun."""
    if job.started_at is None:
        return 0.0
    begun = [pod.started_at for pod in job.pods if pod.started_at is not None]
    if job.pods and not begun and not job.succeeded:
        return 0.0
    since = job.started_at if job.succeeded or not begun else max(job.started_at, min(begun))
    return max(0.0, now_s - since)


def _note(job: JobState, state: Intent, policy: str, ran: float, since: float) -> BatchNote:
    return BatchNote(
        state=state,
        job=job.uid,
        policy=policy,
        pool=job.pool,
        ran=ran,
        since=since,
        size=job.full_parallelism,
        selector=dict(job.placed),
        tolerations=_values(job.placed_tolerations),
    )


def _body(job: JobState, note: BatchNote, spec: Body | None = None) -> Body:
    # the API server counts each change of a spec: who finds more changes later knows that somebody else was there
    note = msgspec.structs.replace(note, gen=job.generation + bool(spec) if job.generation else 0)
    metadata = {"uid": job.uid, "resourceVersion": job.resource_version, "annotations": {ANNOTATION: note.text()}}
    return {"metadata": metadata, **({"spec": spec} if spec else {})}


def _template(job: JobState, selector: dict[str, str], tolerations: tuple[str, ...]) -> Body:
    """What changes of its pod template: a merge patch sets and removes single labels, and replaces a list."""
    labels: dict[str, str | None] = {key: None for key, _ in job.placed if key not in selector}
    labels |= {key: text for key, text in selector.items() if (key, text) not in job.placed}
    changed: Body = {"nodeSelector": labels} if labels else {}
    if set(tolerations) != set(job.placed_tolerations):
        changed["tolerations"] = [*_values(job.tolerations), *_values(tolerations)]
    return {"template": {"spec": changed}} if changed else {}


def _sized(job: JobState, size: int) -> Body:
    return {} if size == job.parallelism else {"parallelism": size, "completions": size}


def _full(job: JobState, size: int) -> int:
    """For the note: as its user declared it, while it is narrower than that."""
    full = job.full_parallelism or job.parallelism
    return full if size < full else 0


def _values(texts: tuple[str, ...]) -> tuple[Body, ...]:
    return tuple(msgspec.json.decode(text) for text in texts)


def _text(value: Body) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
