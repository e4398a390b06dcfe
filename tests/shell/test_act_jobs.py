"""What is written to Jobs: one guarded patch each, and none to a Job that is not Ebbtide's to change."""

import asyncio
from typing import Any

import msgspec
import pytest

from ebbtide.act.jobs import JobWriter, said_of
from ebbtide.act.result import Outcome
from ebbtide.api.batch_note import ANNOTATION, BatchNote, read_note
from ebbtide.kube.client import ForbiddenError
from ebbtide.model.batch import BatchPolicySpec, Intent
from ebbtide.model.plan import Outcome as Does
from ebbtide.model.plan import Plan
from ebbtide.model.spec import Toleration
from tests.shell import world
from tests.shell.jobs_api import JobsApi, Raw, job_plan, plan_of, policy, seen

ELASTIC = {"completionMode": "Indexed", "parallelism": 4, "completions": 4}
RESTARTABLE = {"ebbtide.dev/restartable": "true"}
ON_H100: dict[str, Any] = {
    "pool": "h100",
    "node_selector": (("pool", "h100"),),
    "tolerations": (Toleration("nvidia.com/gpu", effect="NoSchedule"),),
}


@pytest.fixture
def api() -> JobsApi:
    return JobsApi()


def writer(api: JobsApi, **more: Any) -> JobWriter:
    return JobWriter(api, now=lambda: api.time_s, **more)


async def act(api: JobsApi, outcome: Does, *policies: BatchPolicySpec, **more: Any) -> list[tuple[Outcome, str]]:
    snapshot = seen(api, *(policies or (policy(),)))
    results = await writer(api).apply(plan_of(snapshot, outcome, **more), snapshot)
    return [(result.outcome, result.message) for result in results]


def noted(raw: Raw) -> BatchNote:
    found = read_note(raw["metadata"]["annotations"].get(ANNOTATION), raw["metadata"]["uid"])
    assert found is not None
    return found


async def held(api: JobsApi, name: str = "eval", **more: Any) -> Raw:
    raw = api.submit(name, **more)
    await act(api, Does.WAITS)
    api.control()
    return api.jobs[raw["metadata"]["name"]]


async def running(api: JobsApi, **more: Any) -> Raw:
    await held(api, **more)
    await act(api, Does.STARTS, **ON_H100)
    api.control()
    return api.jobs["eval"]


async def test_a_job_that_came_suspended_is_noted_once_and_nothing_else_of_it_changes(api: JobsApi) -> None:
    spec = api.submit("eval")["spec"]
    assert await act(api, Does.WAITS) == [(Outcome.DONE, "Job ml/eval: held for ml/nights")]
    live = api.jobs["eval"]
    assert live["spec"] == spec
    assert noted(live) == BatchNote(Intent.HELD, live["metadata"]["uid"], "uid-nights", since=api.time_s, gen=1)
    assert await act(api, Does.WAITS) == []


async def test_a_start_is_one_patch_with_its_place_and_its_note(api: JobsApi) -> None:
    api.submit("eval", pod={"nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "team", "operator": "Exists"}]})
    assert await act(api, Does.STARTS, **ON_H100) == [(Outcome.DONE, "Job ml/eval: started on h100")]
    [(_, body)] = api.written
    assert body["metadata"]["resourceVersion"] == "1"
    assert body["metadata"]["uid"] == "uid-eval-1"
    assert body["spec"].keys() == {"suspend", "template"}
    live = api.jobs["eval"]
    assert live["spec"]["suspend"] is False
    assert live["spec"]["template"]["spec"]["nodeSelector"] == {"disk": "fast", "pool": "h100"}
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert live["spec"]["template"]["spec"]["tolerations"] == [{"key": "team", "operator": "Exists"}, taint]
    note = noted(live)
    assert (note.state, note.pool, note.selector, note.tolerations) == ("Runs", "h100", {"pool": "h100"}, (taint,))


async def test_what_the_template_tolerates_already_is_its_users_and_stays(api: JobsApi) -> None:
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    api.submit("eval", pod={"nodeSelector": {"pool": "h100"}, "tolerations": [taint]})
    await act(api, Does.STARTS, **ON_H100)
    [(_, body)] = api.written
    assert body["spec"] == {"suspend": False}
    assert (noted(api.jobs["eval"]).selector, noted(api.jobs["eval"]).tolerations) == ({}, ())


async def test_the_next_start_elsewhere_takes_back_what_the_first_one_set(api: JobsApi) -> None:
    await running(api, pod={"nodeSelector": {"disk": "fast"}})
    api.time_s += 600
    await act(api, Does.STOPS)
    api.control()
    await act(api, Does.STARTS, pool="l4", node_selector=(("pool", "l4"), ("zone", "b")))
    pod = api.jobs["eval"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"disk": "fast", "pool": "l4", "zone": "b"}
    assert pod["tolerations"] == []
    api.control()
    api.time_s += 100
    await act(api, Does.STOPS)
    api.control()
    await act(api, Does.STARTS, **ON_H100)
    pod = api.jobs["eval"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"disk": "fast", "pool": "h100"}
    assert noted(api.jobs["eval"]).ran == 700


async def test_a_stop_suspends_counts_the_run_and_leaves_the_template(api: JobsApi) -> None:
    before = (await running(api))["spec"]["template"]
    api.time_s += 600
    assert await act(api, Does.STOPS) == [(Outcome.DONE, "Job ml/eval: stopped")]
    live = api.jobs["eval"]
    assert (live["spec"]["suspend"], live["spec"]["template"]) == (True, before)
    note = noted(live)
    assert (note.state, note.ran, note.pool, note.selector) == ("Stopped", 600, "h100", {"pool": "h100"})


async def test_a_stop_is_tried_again_when_only_the_status_moved(api: JobsApi) -> None:
    await running(api)
    snapshot = seen(api, policy())
    api.status("eval", ready=1)
    [result] = await writer(api).apply(plan_of(snapshot, Does.STOPS), snapshot)
    assert (result.outcome, api.jobs["eval"]["spec"]["suspend"]) == (Outcome.DONE, True)


async def test_a_stop_is_left_when_its_user_was_quicker(api: JobsApi) -> None:
    await running(api)
    snapshot = seen(api, policy())
    api.set_suspend("eval", True)
    [result] = await writer(api).apply(plan_of(snapshot, Does.STOPS), snapshot)
    assert result.outcome is Outcome.CONFLICT
    assert noted(api.jobs["eval"]).state == "Runs", "so it is known that its user suspended it"


@pytest.mark.parametrize("taken", ["annotations", "labels"])
async def test_a_stop_is_left_when_its_user_took_back_what_allows_it(api: JobsApi, taken: str) -> None:
    await running(api, annotations=RESTARTABLE)
    snapshot = seen(api, policy())
    name = {"annotations": "ebbtide.dev/restartable", "labels": "batch"}[taken]
    api.patch("eval", {"metadata": {taken: {name: None}}})
    [result] = await writer(api).apply(plan_of(snapshot, Does.STOPS), snapshot)
    assert (result.outcome, api.jobs["eval"]["spec"]["suspend"]) == (Outcome.CONFLICT, False)


async def test_a_restartable_job_that_came_running_is_stopped_and_started_again(api: JobsApi) -> None:
    api.submit("eval", suspend=False, annotations=RESTARTABLE)
    api.control()
    api.time_s += 60
    assert await act(api, Does.STOPS) == [(Outcome.DONE, "Job ml/eval: stopped")]
    assert (noted(api.jobs["eval"]).state, noted(api.jobs["eval"]).ran) == ("Stopped", 60)
    api.control()
    assert await act(api, Does.STARTS, **ON_H100) == [(Outcome.DONE, "Job ml/eval: started on h100")]


@pytest.mark.parametrize("was", [Intent.HELD, Intent.STOPPED])
async def test_a_user_who_resumes_and_suspends_between_two_looks_is_still_its_user(api: JobsApi, was: Intent) -> None:
    raw = await held(api, annotations=RESTARTABLE)
    if was is Intent.STOPPED:
        for step in (Does.STARTS, Does.STOPS):
            await act(api, step)
            api.control()
    (state,) = seen(api, policy()).jobs
    assert state.intent is was
    api.time_s += 20.0
    for suspend in (False, True):
        api.set_suspend("eval", suspend)
        api.control()
    (state,) = seen(api, policy()).jobs
    assert state.intent is Intent.SUSPENDED_BY_USER
    assert [result for result, _ in await act(api, Does.STARTS)] == [Outcome.REFUSED]
    api.set_suspend("eval", False)
    (state,) = seen(api, policy()).jobs
    assert (state.intent, raw["metadata"]["uid"]) == (Intent.RESUMED_BY_USER, state.uid)


async def test_a_user_who_changes_what_waits_does_not_take_it_away(api: JobsApi) -> None:
    """Neither one change nor two of what is not `suspend`, nor a Job controller that comes late."""
    await held(api)
    api.time_s += 20.0
    for parallelism in (2, 3, 4):
        api.patch("eval", {"spec": {"parallelism": parallelism}})
        api.control()
        assert seen(api, policy()).jobs[0].intent is Intent.HELD
    late = api.submit("late")["metadata"]["name"]
    await act(api, Does.WAITS)
    api.time_s += 300.0
    api.control()
    assert {job.key: job.intent for job in seen(api, policy()).jobs}[f"ml/{late}"] is Intent.HELD


async def test_a_start_from_an_old_view_is_a_conflict_and_planned_again(api: JobsApi) -> None:
    api.submit("eval")
    snapshot = seen(api, policy())
    api.status("eval", active=0)
    [result] = await writer(api).apply(plan_of(snapshot, Does.STARTS), snapshot)
    assert (result.outcome, api.jobs["eval"]["spec"]["suspend"]) == (Outcome.CONFLICT, True)


async def test_an_elastic_job_is_made_smaller_and_gets_its_size_back(api: JobsApi) -> None:
    await running(api, annotations={"ebbtide.dev/min-parallelism": "2"}, **ELASTIC)
    await act(api, Does.SHRINKS, parallelism=2)
    live = api.jobs["eval"]
    assert (live["spec"]["parallelism"], live["spec"]["completions"], noted(live).size) == (2, 2, 4)
    [(_, text)] = await act(api, Does.GROWS, parallelism=5)
    assert text.endswith("outside 2..4")
    await act(api, Does.GROWS, parallelism=4)
    live = api.jobs["eval"]
    assert (live["spec"]["parallelism"], live["spec"]["completions"], noted(live).size) == (4, 4, 0)
    assert noted(live).state == "Runs"


async def test_an_elastic_job_may_start_narrower(api: JobsApi) -> None:
    await held(api, annotations={"ebbtide.dev/min-parallelism": "1"}, **ELASTIC)
    await act(api, Does.STARTS, parallelism=3, **ON_H100)
    live = api.jobs["eval"]
    assert (live["spec"]["parallelism"], live["spec"]["completions"], noted(live).size) == (3, 3, 4)


async def test_a_bound_job_starts_again_without_a_change_of_its_template(api: JobsApi) -> None:
    """Before 1.36 the place of a Job that ran does not change."""
    await running(api)
    api.time_s += 60
    await act(api, Does.STOPS)
    api.control()
    snapshot = seen(api, policy(), minor=35)
    [result] = await writer(api).apply(plan_of(snapshot, Does.STARTS, pool="l4"), snapshot)
    assert (result.outcome, "bound to pool h100" in result.message) == (Outcome.REFUSED, True)
    [result] = await writer(api).apply(plan_of(snapshot, Does.STARTS, **ON_H100), snapshot)
    assert result.outcome is Outcome.DONE
    assert "template" not in api.written[-1][1]["spec"]
    assert noted(api.jobs["eval"]).selector == {"pool": "h100"}, "known still, for a server that is upgraded"


def foreign(api: JobsApi) -> None:
    api.submit("eval", labels={"kueue.x-k8s.io/queue-name": "team"})


def managed(api: JobsApi) -> None:
    api.submit("eval", managedBy="example.com/other")


def anyway(api: JobsApi) -> None:
    api.submit("eval", suspend=False)


@pytest.mark.parametrize("outcome", [Does.STARTS, Does.STOPS, Does.SHRINKS, Does.GROWS])
@pytest.mark.parametrize("made", [foreign, managed, anyway])
async def test_no_plan_changes_a_job_that_is_not_ebbtides(api: JobsApi, made: Any, outcome: Does) -> None:
    made(api)
    snapshot = seen(api, policy())
    [result] = await writer(api).apply(plan_of(snapshot, outcome, parallelism=1), snapshot)
    assert (result.outcome, api.written) == (Outcome.REFUSED, [])


@pytest.mark.parametrize("outcome", [Does.STARTS, Does.STOPS])
async def test_a_job_that_its_user_suspended_or_resumed_stays_so(api: JobsApi, outcome: Does) -> None:
    await running(api)
    api.set_suspend("eval", True)
    await held(api, "other")
    api.set_suspend("other", False)
    api.written.clear()
    results = await act(api, outcome)
    assert ([result for result, _ in results], api.written) == ([Outcome.REFUSED] * 2, [])


async def test_a_disputed_job_is_neither_noted_nor_started(api: JobsApi) -> None:
    api.submit("eval")
    both = policy(), policy("days")
    assert [result for result, _ in await act(api, Does.STARTS, *both)] == [Outcome.REFUSED]
    assert (await act(api, Does.LEFT_ALONE, *both), api.written) == ([], [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"uid": "another"}, "not in the snapshot"),
        ({"resource_version": ""}, "resourceVersion"),
        ({"resource_version": "9"}, "resourceVersion"),
        ({"policy": "ml/days"}, "not a Job of BatchPolicy 'ml/days'"),
        ({"pool": "b200"}, "allows pools h100, l4"),
        ({"node_selector": (("disk", "slow"),)}, "its own node selector says disk=fast"),
        ({"parallelism": 3}, "not elastic"),
    ],
)
async def test_a_start_that_does_not_fit_what_was_seen_is_not_written(
    api: JobsApi, changes: dict[str, Any], words: str
) -> None:
    api.submit("eval", pod={"nodeSelector": {"disk": "fast"}})
    snapshot = seen(api, policy(pools=("h100", "l4")))
    [wanted] = plan_of(snapshot, Does.STARTS, pool="h100").jobs
    plan = world.plan(jobs=(msgspec.structs.replace(wanted, **changes),))
    results = await writer(api).apply(plan, snapshot)
    refused = [result for result in results if result.outcome is Outcome.REFUSED]
    assert [words in result.message for result in refused] == [True]
    assert all("spec" not in body for _, body in api.written)


async def test_a_paused_policy_starts_and_stops_nothing(api: JobsApi) -> None:
    await held(api)
    [(outcome, message)] = await act(api, Does.STARTS, policy(paused=True))
    assert (outcome, message) == (Outcome.REFUSED, "Job ml/eval: not changed: BatchPolicy ml/nights is paused")


async def test_jobs_that_no_policy_selects_any_more_are_released_after_a_while(api: JobsApi) -> None:
    await held(api, "theirs")
    await running(api)
    await act(api, Does.STOPS)  # of both
    await act(api, Does.STARTS)
    api.set_suspend("theirs", True)
    api.control()
    await act(api, Does.STOPS)
    await held(api, "waits")
    jobs, empty = writer(api), Plan(at=0.0)

    async def look(*policies: BatchPolicySpec, certain: bool = True) -> list[str]:
        snapshot = seen(api, *policies, certain=certain)
        return [result.service for result in await jobs.apply(empty, snapshot)]

    assert await look() == [], "a policy may be replaced"
    api.time_s += 30
    assert await look(policy()) == [], "it was"
    assert await look() == []
    api.time_s += 61
    assert await look(certain=False) == [], "nothing is known of policies"
    assert await look() == []
    api.time_s += 61
    assert await look() == ["ml/eval", "ml/waits"]
    for name in ("eval", "waits"):
        assert api.jobs[name]["spec"]["suspend"] is False
        assert ANNOTATION not in api.jobs[name]["metadata"]["annotations"]
    assert api.jobs["theirs"]["spec"]["suspend"] is True
    assert await look() == []


async def test_a_released_elastic_job_is_as_wide_as_its_user_declared_it(api: JobsApi) -> None:
    await running(api, annotations={"ebbtide.dev/min-parallelism": "1"}, **ELASTIC)
    await act(api, Does.SHRINKS, parallelism=1)
    await act(api, Does.STOPS)
    snapshot = seen(api)
    await writer(api, stray_for_s=0.0).apply(Plan(at=0.0), snapshot)
    spec = api.jobs["eval"]["spec"]
    assert (spec["suspend"], spec["parallelism"], spec["completions"]) == (False, 4, 4)


async def test_stops_come_first_and_are_never_put_off(api: JobsApi) -> None:
    for number in range(4):
        api.submit(f"job-{number}")
    await act(api, Does.STARTS)
    api.submit("new-1")
    api.submit("new-2")
    api.written.clear()
    snapshot = seen(api, policy())
    jobs = tuple(job_plan(job, Does.STARTS if job.key.startswith("ml/new") else Does.STOPS) for job in snapshot.jobs)
    results = await writer(api, most=1).apply(world.plan(jobs=jobs), snapshot)
    assert [result.outcome for result in results] == [Outcome.DONE] * 5
    assert [name.partition("-")[0] for name, _ in api.written] == ["job"] * 4 + ["new"]


async def test_services_do_not_wait_for_an_api_server_that_does_not_answer_of_jobs(api: JobsApi) -> None:
    class Hanging(JobsApi):
        async def request(self, method: str, path: str, **more: Any) -> bytes:
            if path.endswith("hangs"):
                await asyncio.sleep(60.0)
            return await super().request(method, path, **more)

    api = Hanging()
    for name in ("eval", "hangs"):
        api.submit(name)
    snapshot = seen(api, policy())
    results = await writer(api, within_s=0.05).apply(plan_of(snapshot, Does.STARTS), snapshot)
    assert [result.outcome for result in results] == [Outcome.DONE, Outcome.RETRY]
    assert "no answer within" in results[1].message


async def test_of_more_starts_than_one_cycle_writes_the_most_urgent_come_first(api: JobsApi) -> None:
    for name in ("a", "b", "c"):
        api.submit(name)
    snapshot = seen(api, policy())
    latest = {"ml/a": None, "ml/b": 900.0, "ml/c": 100.0}
    jobs = tuple(job_plan(job, Does.STARTS, must_start_by=latest[job.key]) for job in snapshot.jobs)
    await writer(api, most=2).apply(world.plan(jobs=jobs), snapshot)
    assert [name for name, _ in api.written] == ["c", "b"]


async def test_one_job_that_is_refused_keeps_no_other_from_starting_and_is_said(api: JobsApi) -> None:
    api.submit("eval")
    api.submit("other")

    def refuse(name: str) -> None:
        if name == "eval":
            raise ForbiddenError("PATCH eval: HTTP 403: quota says no")

    api.before = refuse
    snapshot = seen(api, policy())
    plan = plan_of(snapshot, Does.STARTS)
    results = await writer(api).apply(plan, snapshot)
    assert [result.outcome for result in results] == [Outcome.FORBIDDEN, Outcome.DONE]
    told = {item.key: item.reason for item in said_of(plan, results).jobs}
    assert told["ml/eval"].code == "WriteRefused"
    assert "quota says no" in told["ml/eval"].text
    assert told["ml/other"] == plan.jobs[1].reason
    assert said_of(plan, []) is plan
