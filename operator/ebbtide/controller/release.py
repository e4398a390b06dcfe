"""Gives every Job that Ebbtide holds back to its user: for the moment when nobody will start them any more.

May run beside an operator, and again: an operator holds no Job that runs, and what runs is not released twice. Reads
the Jobs themselves and nothing that Ebbtide kept, so that it works where only they are left.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

import msgspec

from ebbtide.act import job_patches
from ebbtide.act.gangs import SETS, is_gang, path_of
from ebbtide.act.ownership import JOB_MANAGER
from ebbtide.api import parse_batch_policy
from ebbtide.api.batch_note import ANNOTATION, read_note
from ebbtide.errors import ConfigurationError, ConflictError, EbbtideError, NotFoundError
from ebbtide.kube.client import MERGE_PATCH, ForbiddenError, KubeClient, resource_path
from ebbtide.model.batch import BatchPolicySpec, Intent, Stray
from ebbtide.observe.declared import API_VERSION
from ebbtide.observe.gangs import JobSet, gang_of
from ebbtide.observe.jobwill import foreign, suspended_again, suspended_later
from ebbtide.observe.projections import Job

_TRIES = 3
_PAGE = "500"


class Fate(StrEnum):
    """What became of a Job."""

    RELEASED = "released"
    WOULD = "would release"  # a dry run
    LEFT = "left"
    GONE = "gone"  # it was deleted, or ran by itself meanwhile
    FAILED = "not released"


@dataclass(frozen=True, slots=True)
class Release:
    """One Job: what became of it, and why."""

    key: str
    fate: Fate
    why: str


_Item = TypeVar("_Item")


class _Continue(msgspec.Struct, rename="camel"):
    continue_: str = msgspec.field(name="continue", default="")


class _Rest(msgspec.Struct):
    metadata: _Continue


class _Page(msgspec.Struct, Generic[_Item]):
    items: list[_Item] | None = None


async def release_jobs(
    client: KubeClient, *, dry_run: bool = False, say: Callable[[Release], None] = lambda _one: None, parallel: int = 8
) -> list[Release]:
    """Releases all Jobs of all namespaces that Ebbtide holds; says each as it is done.

    Raises what listing raises; a Job that cannot be written is told as FAILED, and the others go on.
    """
    policies = await _policies(client)
    at_once = asyncio.Semaphore(parallel)

    async def one(job: Job) -> Release | None:
        async with at_once:
            found = await _release(client, job, policies, dry_run)
        if found is not None:
            say(found)
        return found

    done: list[Release] = []
    async for jobs in _pages(client):
        done += [item for item in await asyncio.gather(*map(one, jobs)) if item is not None]
    return done


async def _pages(client: KubeClient) -> AsyncIterator[list[Job]]:
    """Jobs, and JobSets where they are served and may be read."""
    async for body in _bodies(client, resource_path("batch/v1", "jobs")):
        yield msgspec.json.decode(body, type=_Page[Job]).items or []
    with contextlib.suppress(NotFoundError, ForbiddenError):
        async for body in _bodies(client, resource_path(SETS, "jobsets")):
            yield [gang_of(item, frozenset()) for item in msgspec.json.decode(body, type=_Page[JobSet]).items or ()]


async def _bodies(client: KubeClient, path: str) -> AsyncIterator[bytes]:
    params = {"limit": _PAGE}
    while True:
        body = await client.request("GET", path, params=params)
        yield body
        params["continue"] = msgspec.json.decode(body, type=_Rest).metadata.continue_
        if not params["continue"]:
            return


def _read(body: bytes, *, gang: bool) -> Job:
    if gang:
        return gang_of(msgspec.json.decode(body, type=JobSet), frozenset())
    return msgspec.json.decode(body, type=Job)


async def _policies(client: KubeClient) -> list[BatchPolicySpec]:
    """Those that can be read: they tell which Jobs were submitted to be held, and not noted yet."""
    try:
        listed = await client.get(resource_path(API_VERSION, "batchpolicies"))
    except (NotFoundError, ForbiddenError):
        return []
    found = []
    for raw in listed.get("items") or ():
        try:
            found.append(parse_batch_policy(raw))
        except ConfigurationError:
            continue
    return found


async def _release(client: KubeClient, job: Job, policies: list[BatchPolicySpec], dry_run: bool) -> Release | None:
    """None: it has nothing to do with Ebbtide, or is not suspended."""
    meta, said = job.metadata, _held(job, policies)
    if said is None or said.fate is Fate.LEFT or dry_run:
        return said
    path = path_of(meta.key)
    try:
        for tries_left in reversed(range(_TRIES)):
            try:
                params = {"fieldManager": JOB_MANAGER}
                body = job_patches.release(_stray(job))
                await client.request("PATCH", path, params=params, body=body, content_type=MERGE_PATCH)
                return Release(meta.key, Fate.RELEASED, said.why)
            except ConflictError:
                if not tries_left:
                    raise
                job = _read(await client.request("GET", path), gang=is_gang(meta.key))
                said = _held(job, policies)
                if job.metadata.uid != meta.uid or said is None or said.fate is Fate.LEFT:
                    return said or Release(meta.key, Fate.GONE, "it is not held any more")
    except NotFoundError:
        return Release(meta.key, Fate.GONE, "it was deleted")
    except EbbtideError as error:
        return Release(meta.key, Fate.FAILED, str(error))
    raise AssertionError("the last try returns or raises")


def _held(job: Job, policies: list[BatchPolicySpec]) -> Release | None:
    """What is to be done with it, as a dry run says it."""
    meta = job.metadata
    if not job.spec.suspend or meta.deletion_timestamp or job.end is not None or foreign(job):
        return None
    note = read_note((meta.annotations or {}).get(ANNOTATION), meta.uid)
    if note is None:
        if suspended_later(job, Intent.HELD):
            return Release(meta.key, Fate.LEFT, "its user suspended it")
        selecting = [policy for policy in policies if policy.selects(meta.namespace, meta.labels or {})]
        why = f"submitted for BatchPolicy {selecting[0].key}" if selecting else ""
        return Release(meta.key, Fate.WOULD, why) if selecting else None
    if note.intent is Intent.RUNS or suspended_later(job, note.intent) or suspended_again(job, note):
        return Release(meta.key, Fate.LEFT, "its user suspended it")
    return Release(
        meta.key, Fate.WOULD, "held" if note.intent is Intent.HELD else f"stopped on {note.pool or 'any node'}"
    )


def _stray(job: Job) -> Stray:
    meta = job.metadata
    note = read_note((meta.annotations or {}).get(ANNOTATION), meta.uid)
    return Stray(meta.key, meta.uid, meta.resource_version, note.size if note else 0)
