"""`ebbtide release`: what Ebbtide holds runs afterwards, what users suspended does not; once is as good as twice."""

from typing import Any

import pytest

from ebbtide.act.jobs import JobWriter
from ebbtide.api.batch_note import ANNOTATION
from ebbtide.controller.release import Fate, release_jobs
from ebbtide.kube.client import ForbiddenError
from ebbtide.model.plan import Outcome
from tests.shell import world
from tests.shell.jobs_api import JobsApi, job_plan, policy, seen

SELECTS = {
    "metadata": {"name": "nights", "namespace": "ml", "uid": "uid-nights"},
    "spec": {"selector": {"matchLabels": {"batch": "yes"}}},
}


async def operate(api: JobsApi, **outcomes: Outcome) -> None:
    """Jobs that are not named wait."""
    snapshot = seen(api, policy())
    jobs = [job_plan(job, outcomes.get(job.key.removeprefix("ml/"), Outcome.WAITS)) for job in snapshot.jobs]
    await JobWriter(api, now=lambda: api.time_s).apply(world.plan(jobs=tuple(jobs)), snapshot)
    api.control()


@pytest.fixture
async def api() -> JobsApi:
    """A Job for each will that there is, named by it; `new` is not noted yet."""
    api = JobsApi()
    api.policies.append(SELECTS)
    for name in ("users", "stopped", "runs", "held"):
        api.submit(name)
    api.submit("kueues", labels={"kueue.x-k8s.io/queue-name": "q"})
    await operate(api, users=Outcome.STARTS, stopped=Outcome.STARTS, runs=Outcome.STARTS)
    api.set_suspend("users", True)
    await operate(api, stopped=Outcome.STOPS)
    api.submit("new")
    api.submit("others", labels={"batch": "no"})
    return api


async def release(api: JobsApi, **more: Any) -> dict[str, Fate]:
    return {item.key.removeprefix("ml/"): item.fate for item in await release_jobs(api, **more)}


def suspended(api: JobsApi) -> set[str]:
    return {name for name, raw in api.jobs.items() if raw["spec"]["suspend"]}


async def test_what_ebbtide_holds_runs_and_what_its_user_suspended_stays(api: JobsApi) -> None:
    assert suspended(api) == {"users", "stopped", "held", "kueues", "new", "others"}
    said = {"users": Fate.LEFT, "stopped": Fate.RELEASED, "held": Fate.RELEASED, "new": Fate.RELEASED}
    assert await release(api) == said
    assert suspended(api) == {"users", "kueues", "others"}
    assert {name for name, raw in api.jobs.items() if ANNOTATION in raw["metadata"]["annotations"]} == {"users", "runs"}


async def test_a_second_time_there_is_nothing_to_do(api: JobsApi) -> None:
    await release(api)
    api.written.clear()
    assert (await release(api), api.written) == ({"users": Fate.LEFT}, [])


async def test_an_operator_that_still_runs_holds_nothing_of_it_again(api: JobsApi) -> None:
    await release(api)
    await operate(api)
    assert suspended(api) == {"users", "kueues", "others"}


async def test_what_its_user_suspended_before_ebbtide_saw_it_stays(api: JobsApi) -> None:
    api.submit("before", suspend=False)
    api.control()
    api.time_s += 7200
    api.set_suspend("before", True)
    api.control()
    assert (await release(api))["before"] is Fate.LEFT


async def test_what_its_user_resumed_and_suspended_again_stays(api: JobsApi) -> None:
    api.time_s += 60
    for suspend in (False, True):
        api.set_suspend("stopped", suspend)
        api.control()
    assert (await release(api))["stopped"] is Fate.LEFT


async def test_a_dry_run_changes_nothing(api: JobsApi) -> None:
    api.written.clear()
    said = {"users": Fate.LEFT, "stopped": Fate.WOULD, "held": Fate.WOULD, "new": Fate.WOULD}
    assert (await release(api, dry_run=True), api.written) == (said, [])


async def test_without_the_kind_only_noted_jobs_are_known_to_be_held(api: JobsApi) -> None:
    api.policies.clear()
    assert "new" not in await release(api)


async def test_a_job_that_changes_meanwhile_is_looked_at_again(api: JobsApi) -> None:
    def meddle(name: str) -> None:
        api.before = lambda _name: None
        api.status(name, active=0)

    api.before = meddle
    assert (await release(api))["held"] is Fate.RELEASED


async def test_a_job_that_its_user_resumes_meanwhile_is_theirs(api: JobsApi) -> None:
    def resume(name: str) -> None:
        api.before = lambda _name: None
        api.set_suspend(name, False)

    api.before = resume
    fates = await release(api, parallel=1)
    assert list(fates.values()).count(Fate.GONE) == 1


async def test_a_job_that_cannot_be_written_is_told_and_keeps_no_other(api: JobsApi) -> None:
    def refuse(name: str) -> None:
        if name == "held":
            raise ForbiddenError("HTTP 403: no")

    api.before = refuse
    fates = await release(api)
    assert (fates["held"], fates["stopped"]) == (Fate.FAILED, Fate.RELEASED)
