"""JobSets on the real control plane, with exactly the operator's rights: a gang is held, started and stopped as one."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ebbtide.act.result import Outcome
from ebbtide.api.batch_note import ANNOTATION
from ebbtide.kube.client import MERGE_PATCH, KubeClient
from ebbtide.model.batch import Intent
from ebbtide.model.plan import JobPlan, Plan
from ebbtide.model.plan import Outcome as Does
from ebbtide.model.reasons import Code, Reason
from ebbtide.sandbox.sandbox import Sandbox
from tests.cluster.jobset_crd import CRD, control
from tests.cluster.test_jobs_live import H100, POOL_LABEL, Live, live  # noqa: F401 - a fixture

Raw = dict[str, Any]
NAME, KEY = "gang", "jobset/gang"
REASON = Reason(Code.PENDING, "because a test says so")


@pytest.fixture(scope="module")
def job_sets(sandbox: Sandbox) -> Iterator[None]:
    """The API server serves the kind, before any operator looks for it."""
    sandbox.apply(CRD)
    yield
    sandbox.kubectl("delete", "crd", CRD["metadata"]["name"], "--wait=false")


def replicated(name: str, replicas: int, gpus: int) -> Raw:
    container = {
        "name": "work",
        "image": "work",
        "resources": {"limits": {"nvidia.com/gpu": str(gpus)} if gpus else {}},
    }
    pod = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
    return {"name": name, "replicas": replicas, "template": {"spec": {"template": {"spec": pod}}}}


@pytest.fixture
async def sets(job_sets: None, live: Live) -> str:  # noqa: F811 - the fixture of that name
    """The path of one JobSet of a driver without GPUs and of two workers with one each, submitted suspended."""
    path = f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{live.namespace}/jobsets"
    spec = {"suspend": True, "replicatedJobs": [replicated("driver", 1, 0), replicated("workers", 2, 1)]}
    meta = {"name": NAME, "labels": {"batch": "yes"}}
    body = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": meta, "spec": spec}
    await live.admin.request("POST", path, body=body)
    await live.until(lambda job: job.policy == f"{live.namespace}/nights", KEY)
    return f"{path}/{NAME}"


async def user_suspends(admin: KubeClient, path: str, suspend: bool) -> None:
    await admin.request("PATCH", path, body={"spec": {"suspend": suspend}}, content_type=MERGE_PATCH)


async def test_a_gang_is_held_placed_started_and_stopped_as_a_whole(live: Live, sets: str) -> None:  # noqa: F811
    assert await live.act(Does.WAITS, KEY) == [Outcome.DONE]
    held = await live.until(lambda job: job.noted, KEY)
    assert (held.intent, held.parallelism, held.gpus_per_pod) == (Intent.HELD, 2, 1)

    assert await live.act(Does.STARTS, KEY, pool=H100) == [Outcome.DONE]
    raw = await live.admin.get(sets)
    driver, workers = (each["template"]["spec"]["template"]["spec"] for each in raw["spec"]["replicatedJobs"])
    assert raw["spec"]["suspend"] is False
    assert workers["nodeSelector"] == {POOL_LABEL: H100}
    assert "nodeSelector" not in driver and driver["containers"][0]["name"] == "work"
    await control(live.admin, live.namespace, NAME)
    runs = await live.until(lambda job: sum(pod.started_at is not None for pod in job.pods) == 2, KEY)
    assert (runs.intent, runs.pool) == (Intent.RUNS, H100)
    assert all(pod.node.startswith(H100) for pod in runs.pods)
    assert [job.key for job in (await live.look()).jobs] == [f"{live.namespace}/{KEY}"], (
        "its Jobs are not counted again"
    )

    assert await live.act(Does.STOPS, KEY) == [Outcome.DONE]
    await control(live.admin, live.namespace, NAME)
    stopped = await live.until(lambda job: not job.pods, KEY)
    assert (stopped.intent, stopped.pool, stopped.placeable) == (Intent.STOPPED, H100, False)
    assert stopped.ran_s > 0
    assert await live.act(Does.STARTS, KEY, pool=H100) == [Outcome.DONE]
    await control(live.admin, live.namespace, NAME)
    again = await live.until(lambda job: len(job.pods) == 2, KEY)
    assert (again.intent, again.ran_s) == (Intent.RUNS, stopped.ran_s)


async def test_its_user_is_obeyed_and_a_change_meanwhile_is_a_conflict(live: Live, sets: str) -> None:  # noqa: F811
    snapshot = await live.look()
    (seen,) = snapshot.jobs
    await live.admin.request("PATCH", sets, body={"metadata": {"labels": {"seen": "yes"}}}, content_type=MERGE_PATCH)
    start = JobPlan(seen.key, seen.uid, seen.policy, Does.STARTS, REASON, resource_version=seen.resource_version)
    results = await live.writer.apply(Plan(at=0.0, jobs=(start,)), snapshot)
    assert [result.outcome for result in results] == [Outcome.CONFLICT], results
    assert (await live.admin.get(sets))["spec"]["suspend"] is True
    assert await live.act(Does.STARTS, KEY, pool=H100) == [Outcome.DONE]
    await user_suspends(live.admin, sets, True)
    await live.until(lambda job: job.intent is Intent.SUSPENDED_BY_USER, KEY)
    assert await live.act(Does.STARTS, KEY, pool=H100) == [Outcome.REFUSED]
    await user_suspends(live.admin, sets, False)
    await live.until(lambda job: job.intent is Intent.RUNS, KEY)


async def test_release_and_a_deleted_policy_give_it_back(
    live: Live,  # noqa: F811
    sets: str,
    sandbox: Sandbox,
) -> None:
    assert await live.act(Does.WAITS, KEY) == [Outcome.DONE]
    argv = [sys.executable, "-m", "ebbtide", "release", "--kubeconfig", str(sandbox.operator_kubeconfig())]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=60, check=True)
    assert f"released {live.namespace}/{KEY}: held" in done.stdout
    raw = await live.admin.get(sets)
    assert (raw["spec"]["suspend"], ANNOTATION in raw["metadata"].get("annotations", {})) == (False, False)

    await user_suspends(live.admin, sets, True)
    await live.until(lambda job: job.suspended and job.intent is Intent.HELD, KEY)
    assert await live.act(Does.WAITS, KEY) == [Outcome.DONE]
    await live.admin.request("DELETE", f"{live.policies}/nights")
    for _ in range(100):
        await live.act(Does.WAITS, KEY)
        if not (await live.admin.get(sets))["spec"]["suspend"]:
            break
        await asyncio.sleep(0.1)
    assert (await live.admin.get(sets))["spec"]["suspend"] is False
