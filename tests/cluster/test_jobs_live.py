"""Batch Jobs on the real control plane, with exactly the operator's rights: held, started, stopped, resized, released.

Plans are the test's; what is seen and what is written is Ebbtide's.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from ebbtide.act.jobs import JobWriter
from ebbtide.act.result import Outcome
from ebbtide.api.batch_note import ANNOTATION, read_note
from ebbtide.clock import unix_time_s
from ebbtide.errors import NotFoundError
from ebbtide.kube.client import MERGE_PATCH, KubeClient
from ebbtide.model.batch import Intent, JobState
from ebbtide.model.plan import JobPlan, Plan
from ebbtide.model.plan import Outcome as Does
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.snapshot import Snapshot
from ebbtide.model.spec import Toleration
from ebbtide.observe.gather import Observer
from ebbtide.observe.settings import ObserveSettings
from ebbtide.sandbox.sandbox import Sandbox

POOL_LABEL = "sandbox.ebbtide.dev/pool"
H100, L40S = "h100-on-demand", "l40s-on-demand"
TAINTS = (Toleration("nvidia.com/gpu"),)
Raw = dict[str, Any]


class Killed(BaseException):
    """SIGKILL: no `except Exception` sees it."""


class Mortal(KubeClient):
    """Dies at a write: before it is sent (`before`), or when it is done and its answer was not read (`after`)."""

    dies = ""

    async def request(self, method: str, path: str, **more: Any) -> bytes:
        if method == "PATCH" and self.dies == "before":
            raise Killed
        answer = await super().request(method, path, **more)
        if method == "PATCH" and self.dies == "after":
            raise Killed
        return answer


class Live:
    """A namespace with a policy, an observer and a writer."""

    def __init__(self, admin: KubeClient, operator: Mortal, observer: Observer, namespace: str) -> None:
        self.admin, self.operator, self.observer, self.namespace = admin, operator, observer, namespace
        self.writer = JobWriter(operator, stray_for_s=0.0)
        self.jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self.policies = f"/apis/ebbtide.dev/v1alpha1/namespaces/{namespace}/batchpolicies"

    async def policy(self, name: str = "nights") -> None:
        spec = {"selector": {"matchLabels": {"batch": "yes"}}}
        body = {"apiVersion": "ebbtide.dev/v1alpha1", "kind": "BatchPolicy", "metadata": {"name": name}, "spec": spec}
        await self.admin.request("POST", self.policies, body=body)

    async def submit(self, name: str = "eval", labels: dict[str, str] | None = None, **spec: Any) -> None:
        metadata = {"name": name, "labels": {"batch": "yes"} | (labels or {})} | spec.pop("metadata", {})
        container = {
            "name": "work",
            "image": "example.com/work",
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
        }
        pod = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
        body = {"metadata": metadata, "spec": {"suspend": True, "template": {"spec": pod}} | spec}
        await self.admin.request("POST", self.jobs, body=body)

    async def live(self, name: str = "eval") -> Raw:
        found = await self.admin.get(f"{self.jobs}/{name}")
        assert isinstance(found, dict)
        return found

    async def set_suspend(self, suspend: bool, name: str = "eval") -> None:
        body = {"spec": {"suspend": suspend}}
        await self.admin.request("PATCH", f"{self.jobs}/{name}", body=body, content_type=MERGE_PATCH)

    async def look(self) -> Snapshot:
        snapshot = await self.observer.snapshot(unix_time_s(), {})
        own = f"{self.namespace}/"
        return Snapshot(
            taken_at=snapshot.taken_at,
            pools=snapshot.pools,
            batch_policies=tuple(item for item in snapshot.batch_policies if item.spec.namespace == self.namespace),
            jobs=tuple(job for job in snapshot.jobs if job.key.startswith(own)),
            strays=tuple(job for job in snapshot.strays if job.key.startswith(own)),
        )

    async def state(self, name: str = "eval") -> JobState | None:
        return next((job for job in (await self.look()).jobs if job.key == f"{self.namespace}/{name}"), None)

    async def until(self, holds: Callable[[JobState], bool], name: str = "eval") -> JobState:
        job = None
        for _ in range(200):
            job = await self.state(name)
            if job is not None and holds(job):
                return job
            await asyncio.sleep(0.1)
        pytest.fail(f"not within 20 s: {job}")

    async def act(self, does: Does, name: str = "eval", **more: Any) -> list[Outcome]:
        """Once, from what is seen; `name` is the one Job that the plan speaks of."""
        snapshot = await self.look()
        reason = Reason(Code.PENDING, "because a test says so")
        place = {"pool": more.pop("pool", "")}
        if place["pool"]:
            more |= {"node_selector": ((POOL_LABEL, place["pool"]),), "tolerations": TAINTS}
        planned = tuple(
            JobPlan(job.key, job.uid, job.policy, does, reason, resource_version=job.resource_version, **place, **more)
            for job in snapshot.jobs
            if job.key == f"{self.namespace}/{name}"
        )
        return [result.outcome for result in await self.writer.apply(Plan(at=0.0, jobs=planned), snapshot)]

    async def start(self, pool: str = H100, name: str = "eval") -> JobState:
        await self.until(lambda job: job.placeable, name)
        assert (await self.act(Does.STARTS, name, pool=pool))[0] is Outcome.DONE
        return await self.until(lambda job: any(pod.started_at for pod in job.pods), name)

    async def stop(self, name: str = "eval") -> JobState:
        assert (await self.act(Does.STOPS, name))[0] is Outcome.DONE
        return await self.until(lambda job: job.placeable and not job.pods, name)


@pytest.fixture
async def live(admin: KubeClient, operator_kubeconfig: Path, namespace: str) -> AsyncIterator[Live]:
    async with contextlib.AsyncExitStack() as stack:
        operator = await stack.enter_async_context(Mortal(operator_kubeconfig))
        reader = await stack.enter_async_context(KubeClient(operator_kubeconfig))
        observer = await stack.enter_async_context(Observer(reader, ObserveSettings()))
        await asyncio.wait_for(observer.synced(), 20)
        found = Live(admin, operator, observer, namespace)
        await found.policy()
        yield found


async def until_selected(live: Live) -> None:
    await live.until(lambda job: job.policy == f"{live.namespace}/nights")


async def test_a_job_is_held_started_stopped_and_started_on_another_pool(live: Live) -> None:
    await live.submit()
    await until_selected(live)
    assert await live.act(Does.WAITS) == [Outcome.DONE]
    held = await live.until(lambda job: job.noted)
    assert (held.intent, held.gpus_per_pod, held.resource) == (Intent.HELD, 1, "nvidia.com/gpu")

    runs = await live.start(H100)
    assert (runs.intent, runs.pool, runs.node_selector) == (Intent.RUNS, H100, ())
    assert all(pod.node.startswith(H100) for pod in runs.pods)
    raw = await live.live()
    managers = {entry["manager"] for entry in raw["metadata"]["managedFields"]}
    assert "ebbtide-batch" in managers

    stopped = await live.stop()
    assert (stopped.intent, stopped.suspended, stopped.pool) == (Intent.STOPPED, True, "")
    assert stopped.ran_s > 0

    again = await live.start(L40S)
    assert (again.intent, again.pool, again.ran_s) == (Intent.RUNS, L40S, stopped.ran_s)
    raw = await live.live()
    assert raw["spec"]["template"]["spec"]["nodeSelector"] == {POOL_LABEL: L40S}
    assert "startTime" in raw["status"]


async def test_a_job_that_its_user_suspended_stays_so_until_they_resume_it(live: Live) -> None:
    await live.submit()
    await until_selected(live)
    await live.start()
    await live.set_suspend(True)
    await live.until(lambda job: job.intent is Intent.SUSPENDED_BY_USER and not job.pods)
    assert await live.act(Does.STARTS, pool=H100) == [Outcome.REFUSED]
    await live.set_suspend(False)
    await live.until(lambda job: job.intent is Intent.RUNS)


async def test_a_user_who_resumes_and_suspends_while_nobody_looks_is_obeyed(live: Live) -> None:
    """The API server counts changes of a Job's spec, and Ebbtide's note says at which it left it."""
    await live.submit()
    await until_selected(live)
    await live.start()
    stopped = await live.stop()
    noted = read_note((await live.live())["metadata"]["annotations"][ANNOTATION], stopped.uid)
    assert noted is not None
    assert noted.gen == (await live.live())["metadata"]["generation"] == stopped.generation

    async def said(status: str) -> bool:
        found = (await live.live())["status"].get("conditions", [])
        return any(each["type"] == "Suspended" and each["status"] == status for each in found)

    await asyncio.sleep(6.0)  # the controller tells whole seconds, and may be some late
    for suspend in (False, True):
        await live.set_suspend(suspend)
        for _ in range(400):
            if await said(str(suspend)):
                break
            await asyncio.sleep(0.05)
    await live.until(lambda job: job.intent is Intent.SUSPENDED_BY_USER and not job.pods)
    assert await live.act(Does.STARTS, pool=H100) == [Outcome.REFUSED]


async def test_a_job_that_its_user_resumed_against_the_plan_is_not_fought_over(live: Live) -> None:
    await live.submit()
    await until_selected(live)
    await live.act(Does.WAITS)
    await live.set_suspend(False)
    await live.until(lambda job: job.intent is Intent.RESUMED_BY_USER)
    assert await live.act(Does.STOPS) == [Outcome.REFUSED]
    assert (await live.live())["spec"]["suspend"] is False


@pytest.mark.parametrize(
    "spec", [{"labels": {"kueue.x-k8s.io/queue-name": "team"}}, {"managedBy": "example.com/other"}]
)
async def test_a_job_of_another_controller_is_seen_and_never_touched(live: Live, spec: Raw) -> None:
    await live.submit(**spec)
    await live.until(lambda job: job.intent is Intent.FOREIGN)
    assert await live.act(Does.WAITS) == []
    assert await live.act(Does.STARTS, pool=H100) == [Outcome.REFUSED]
    raw = await live.live()
    assert (raw["spec"]["suspend"], ANNOTATION in raw["metadata"].get("annotations", {})) == (True, False)


async def test_two_policies_leave_a_job_as_it_is(live: Live) -> None:
    await live.policy("days")
    await live.submit()
    job = await live.until(lambda job: job.intent is Intent.DISPUTED)
    assert "days and nights" in job.why
    assert await live.act(Does.STARTS, pool=H100) == [Outcome.REFUSED]


async def test_an_elastic_job_is_made_smaller_and_wider_while_it_runs(live: Live) -> None:
    allowed = {"annotations": {"ebbtide.dev/min-parallelism": "1"}}
    await live.submit(metadata=allowed, completionMode="Indexed", parallelism=3, completions=3)
    await until_selected(live)
    await live.start()
    await live.until(lambda job: len(job.pods) == 3)
    assert await live.act(Does.SHRINKS, parallelism=1) == [Outcome.DONE]
    small = await live.until(lambda job: len(job.pods) == 1)
    assert (small.parallelism, small.completions, small.full_parallelism, small.intent) == (1, 1, 3, Intent.RUNS)
    assert await live.act(Does.GROWS, parallelism=3) == [Outcome.DONE]
    assert (await live.until(lambda job: len(job.pods) == 3)).full_parallelism == 0


async def test_the_uid_and_the_version_are_preconditions(live: Live) -> None:
    await live.submit()
    await until_selected(live)
    snapshot = await live.look()
    [job] = snapshot.jobs
    await live.admin.request("DELETE", f"{live.jobs}/eval")
    with contextlib.suppress(NotFoundError):
        while True:
            await live.live()
    await live.submit()
    reason = Reason(Code.PENDING, "because a test says so")
    plan = JobPlan(job.key, job.uid, job.policy, Does.STARTS, reason, resource_version=job.resource_version)
    [result] = await live.writer.apply(Plan(at=0.0, jobs=(plan,)), snapshot)
    assert result.outcome is Outcome.CONFLICT, result.message
    assert (await live.live())["spec"]["suspend"] is True


@pytest.mark.parametrize("dies", ["before", "after"])
async def test_an_operator_that_dies_at_any_write_leaves_a_job_that_says_whose_it_is(live: Live, dies: str) -> None:
    async def dying(does: Does, **more: Any) -> None:
        live.operator.dies = dies
        with pytest.raises(Killed):
            await live.act(does, **more)
        live.operator.dies = ""

    done = dies == "after"
    await live.submit()
    await until_selected(live)
    await dying(Does.WAITS)
    await live.until(lambda job: job.intent is Intent.HELD and job.noted is done)
    await dying(Does.STARTS, pool=H100)
    await live.until(lambda job: job.intent is (Intent.RUNS if done else Intent.HELD))
    if not done:
        await live.start()
    await live.until(lambda job: bool(job.pods))
    await dying(Does.STOPS)
    await live.until(lambda job: job.intent is (Intent.STOPPED if done else Intent.RUNS))
    if not done:
        await live.stop()
    assert (await live.start()).intent is Intent.RUNS, "and the next operator goes on with it"


async def test_jobs_of_a_deleted_policy_are_released_and_what_its_user_suspended_is_not(live: Live) -> None:
    for name in ("eval", "theirs", "waits"):
        await live.submit(name)
    await until_selected(live)
    for name in ("eval", "theirs"):
        await live.start(name=name)
    await live.stop()
    await live.set_suspend(True, "theirs")
    await live.until(lambda job: job.noted, "waits")  # with the first of the starts
    await live.admin.request("DELETE", f"{live.policies}/nights")
    for _ in range(100):
        await live.act(Does.WAITS)
        if not [name for name in ("eval", "waits") if (await live.live(name))["spec"]["suspend"]]:
            break
        await asyncio.sleep(0.1)
    found = {name: (await live.live(name))["spec"]["suspend"] for name in ("eval", "theirs", "waits")}
    assert found == {"eval": False, "theirs": True, "waits": False}
    assert ANNOTATION not in (await live.live("waits"))["metadata"].get("annotations", {})


async def test_release_resumes_what_ebbtide_holds(live: Live, sandbox: Sandbox) -> None:
    for name in ("eval", "theirs", "waits"):
        await live.submit(name)
    await until_selected(live)
    for name in ("eval", "theirs"):
        await live.start(name=name)
    await live.stop()
    await live.set_suspend(True, "theirs")

    def release(*options: str) -> list[str]:
        argv = [
            sys.executable,
            "-m",
            "ebbtide",
            "release",
            "--kubeconfig",
            str(sandbox.operator_kubeconfig()),
            *options,
        ]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
        return sorted(line for line in done.stdout.splitlines() if f"{live.namespace}/" in line)

    space = live.namespace
    left = f"left {space}/theirs: its user suspended it"
    dry = [left, f"would release {space}/eval: stopped on {H100}", f"would release {space}/waits: held"]
    assert await asyncio.to_thread(release, "--dry-run") == dry
    assert (await live.live("waits"))["spec"]["suspend"] is True
    wet = [left, *(text.replace("would release", "released") for text in dry[1:])]
    assert await asyncio.to_thread(release) == wet
    assert await asyncio.to_thread(release) == [left]
    found = {name: (await live.live(name))["spec"]["suspend"] for name in ("eval", "theirs", "waits")}
    assert found == {"eval": False, "theirs": True, "waits": False}, json.dumps(found)
