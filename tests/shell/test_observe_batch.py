"""The observer with batch work: BatchPolicies and Jobs from list to Snapshot, and what is missing costs no service."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ebbtide.api.batch_note import ANNOTATION, BatchNote
from ebbtide.model.batch import Intent
from ebbtide.model.snapshot import BATCH_KIND, Snapshot
from ebbtide.observe.gather import Observer
from ebbtide.observe.settings import ObserveSettings
from tests.shell.observing import QUICK, api_client, eventually, pod
from tests.shell.test_observe_snapshot import GPU, OWN, Cluster, meta, usual

JOBS = "/apis/batch/v1/jobs"
SERVED = {"resources": [{"name": "batchpolicies", "kind": "BatchPolicy", "namespaced": True}]}
WEDNESDAY_S = 1_767_744_000.0  # 2026-01-07T00:00:00Z


def policy(name: str = "nights", **spec: Any) -> dict[str, Any]:
    windows = [{"cron": "0 22 * * *", "duration": "8h", "timeZone": "UTC"}]
    return {"metadata": meta(name), "spec": {"selector": {"matchLabels": {"batch": "yes"}}, "windows": windows} | spec}


def job(name: str = "eval", **spec: Any) -> dict[str, Any]:
    container = {"resources": {"limits": {GPU: "2"}}}
    labels = {"labels": {"batch": "yes"}, "annotations": spec.pop("annotations", {})}
    return {
        "metadata": meta(name, **labels),
        "spec": {"suspend": True, "template": {"spec": {"containers": [container]}}} | spec,
        "status": {},
    }


def with_batch(*jobs: dict[str, Any], policies: tuple[dict[str, Any], ...] = (policy(),)) -> Cluster:
    cluster = usual()
    cluster.other |= {OWN: SERVED, "/version": {"minor": "36"}}
    cluster.add(f"{OWN}/batchpolicies", *policies)
    cluster.add(JOBS, *jobs)
    return cluster


@contextlib.asynccontextmanager
async def observing(cluster: Cluster, folder: Path) -> AsyncIterator[Observer]:
    settings = ObserveSettings(watch=replace(QUICK, silence_s=30.0), discovery_ttl_s=60.0)
    async with api_client(cluster.answer, folder) as client, Observer(client, settings) as observer:
        await observer.synced()
        yield observer


async def listed(observer: Observer, *names: str) -> Snapshot:
    """Once these kinds are known."""
    snapshots: list[Snapshot] = []

    async def known() -> bool:
        snapshots.append(await observer.snapshot(WEDNESDAY_S, {}))
        health = {source.name: source.healthy for source in snapshots[-1].sources}
        return all(health.get(name, False) for name in names)

    for _ in range(500):
        if await known():
            return await observer.snapshot(WEDNESDAY_S, {})  # from what was listed while the last one was made
    raise AssertionError(snapshots[-1].sources)


async def test_policies_with_their_hours_and_jobs_with_their_pods(tmp_path: Path) -> None:
    owner = {"ownerReferences": [{"kind": "Job", "name": "eval", "uid": "uid-eval", "controller": True}]}
    bound = {"nodeName": "n1", "containers": [{"resources": {"limits": {GPU: "2"}}}]}
    cluster = with_batch(job(suspend=False, annotations={"ebbtide.dev/restartable": "true"}))
    cluster.add("/api/v1/pods", pod("eval-0", metadata=owner, spec=bound, labels={}))
    async with observing(cluster, tmp_path) as observer:
        snapshot = await listed(observer, "jobs", "batchpolicies")
        assert observer.raw_batch_policy("team-a/nights") is not None
    (state,) = snapshot.batch_policies
    assert state.open[:2] == ((WEDNESDAY_S, WEDNESDAY_S + 6 * 3600), (WEDNESDAY_S + 22 * 3600, WEDNESDAY_S + 30 * 3600))
    assert len(state.open) == 9
    (seen,) = snapshot.jobs
    assert (seen.intent, seen.policy, seen.pool) == (Intent.STARTED_ANYWAY, "team-a/nights", "h100")
    assert (seen.asked.restartable, [each.name for each in seen.pods]) == (True, ["eval-0"])
    (node,) = snapshot.pools[0].nodes
    assert node.allocated_gpus == 10, "two pods of the service with 4 each, and 2 of the Job"


async def test_the_first_snapshot_knows_of_jobs_as_the_second_does(tmp_path: Path) -> None:
    """Else each restart would lower services under a ceiling, for GPUs that Jobs would have given back."""
    async with observing(with_batch(job()), tmp_path) as observer:
        first = await observer.snapshot(WEDNESDAY_S, {})
        assert (len(first.jobs), len(first.batch_policies)) == (1, 1)
        assert first.jobs == (await observer.snapshot(WEDNESDAY_S, {})).jobs


async def test_where_the_kind_is_not_served_no_job_is_watched(tmp_path: Path) -> None:
    cluster = usual()
    cluster.add(JOBS, job())
    async with observing(cluster, tmp_path) as observer:
        snapshot = await listed(observer, "nodes")
    assert (snapshot.jobs, snapshot.batch_policies, JOBS in cluster.asked) == ((), (), False)
    assert not {"jobs", "batchpolicies"} & {source.name for source in snapshot.sources}


@pytest.mark.parametrize("path", [JOBS, f"{OWN}/batchpolicies"])
async def test_without_the_right_to_either_services_go_on_and_nothing_is_released(tmp_path: Path, path: str) -> None:
    held = BatchNote(Intent.HELD, "uid-eval", "uid-gone").text()
    cluster = with_batch(job(annotations={ANNOTATION: held}), policies=())
    cluster.forbidden.add(path)
    async with observing(cluster, tmp_path) as observer:
        snapshot = await listed(observer, "jobs" if path != JOBS else "batchpolicies")
        assert observer.sync_age_s is not None, "the operator is ready"
    assert snapshot.services[0].variants[0].target.exists
    assert snapshot.strays == ()
    sick = {source.name: source.message for source in snapshot.sources if not source.healthy}
    assert "no right" in sick["jobs" if path == JOBS else "batchpolicies"]


async def test_no_job_is_a_stray_while_policies_are_only_just_listed(tmp_path: Path) -> None:
    held = BatchNote(Intent.HELD, "uid-eval", "uid-nights").text()
    async with observing(with_batch(job(annotations={ANNOTATION: held})), tmp_path) as observer:
        for _ in range(200):
            snapshot = await observer.snapshot(WEDNESDAY_S, {})
            assert snapshot.strays == ()
            if snapshot.jobs:
                return
    raise AssertionError("never listed")


async def test_a_job_whose_policy_was_deleted_is_a_stray_but_not_beside_a_policy_that_cannot_be_read(
    tmp_path: Path,
) -> None:
    held = BatchNote(Intent.HELD, "uid-eval", "uid-gone").text()
    cluster = with_batch(job(annotations={ANNOTATION: held}), policies=(policy("odd", strategy="Whenever"),))
    async with observing(cluster, tmp_path) as observer:
        snapshot = await listed(observer, "jobs", "batchpolicies")
        assert [(item.kind, item.key) for item in snapshot.unreadable] == [(BATCH_KIND, "team-a/odd")]
        assert snapshot.strays == ()
        cluster.objects[f"{OWN}/batchpolicies"].clear()
        await cluster.changed()
        await eventually(lambda: observer.raw_batch_policy("team-a/odd") is None)
        snapshot = await listed(observer, "jobs", "batchpolicies")
    assert [stray.key for stray in snapshot.strays] == ["team-a/eval"]
