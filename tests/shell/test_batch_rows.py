"""Queue and plan in the status of a BatchPolicy: which Jobs, in which order, and within which size."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.api.batch import BatchPolicyStatus
from ebbtide.model.batch import Intent
from ebbtide.model.plan import JobPlan, Outcome
from ebbtide.model.reasons import Code
from ebbtide.record.batch_view import MAX_BYTES, MAX_JOBS, PlannedJob, batch_policy_status, by_policy
from ebbtide.record.significance import Difference, difference
from tests.shell import batch_world, world

NOW_S = world.NOW_S
HOUR_S = 3600.0


def waits(name: str, start_h: float | None = 1.0, **changes: Any) -> JobPlan:
    start_s = None if start_h is None else NOW_S + start_h * HOUR_S
    return batch_world.job_plan(name, starts_at=start_s, **changes)


def runs(name: str, **changes: Any) -> JobPlan:
    fields: dict[str, Any] = {"ends_at": NOW_S + HOUR_S, "pool": "a100"}
    return batch_world.job_plan(name, Outcome.RUNS, Code.JOB_RUNS, **(fields | changes))


def said(*jobs: JobPlan, began_h: float = -1.0) -> dict[str, Any]:
    found = [PlannedJob(job, NOW_S + began_h * HOUR_S if job.outcome is Outcome.RUNS else None) for job in jobs]
    status = batch_policy_status(batch_world.policy_plan(), 2, {}, NOW_S, found)
    assert BatchPolicyStatus.model_validate(status)
    assert len(msgspec.json.encode(status)) <= MAX_BYTES
    return status


def names(status: dict[str, Any]) -> list[str]:
    return [row["name"] for row in status.get("jobs", ())]


def test_a_row_has_all_that_is_known_and_nothing_else() -> None:
    full = waits(
        "embed",
        pool="a100",
        ends_at=NOW_S + 3 * HOUR_S,
        must_start_by=NOW_S + 2 * HOUR_S,
        deadline_at=NOW_S + 4 * HOUR_S,
        late=True,
    )
    bare = waits("report", None, text="waits to be planned", gpus=0)
    assert said(full, bare)["jobs"] == [
        {
            "name": "embed",
            "outcome": "Waits",
            "pool": "a100",
            "gpus": 8,
            "start": "2027-01-15T09:00:00Z",
            "end": "2027-01-15T11:00:00Z",
            "mustStartBy": "2027-01-15T10:00:00Z",
            "deadline": "2027-01-15T12:00:00Z",
            "late": True,
            "reason": "waits for 22:00: 1.10 instead of 2.90 USD per GPU-hour",
        },
        {"name": "report", "outcome": "Waits", "gpus": 0, "reason": "waits to be planned"},
    ]


def test_of_one_that_runs_the_start_is_that_of_its_run() -> None:
    (row,) = said(runs("embed"))["jobs"]
    assert (row["start"], row["end"]) == ("2027-01-15T07:00:00Z", "2027-01-15T09:00:00Z")


def test_by_start_then_deadline_then_name_and_what_is_left_alone_last() -> None:
    alone = batch_world.job_plan("theirs", Outcome.LEFT_ALONE, Code.SUSPENDED_BY_USER)
    jobs = (
        alone,
        waits("unplanned", None),
        waits("later", 5.0),
        waits("b", 2.0),
        waits("a", 2.0),
        waits("urgent", 2.0, deadline_at=NOW_S + 3 * HOUR_S),
        runs("on"),
    )
    assert names(said(*jobs)) == ["on", "urgent", "a", "b", "later", "unplanned", "theirs"]


@pytest.mark.parametrize(
    ("running", "waiting", "shown"), [(200, 0, (50, 0)), (200, 3, (47, 3)), (200, 100, (25, 25)), (5, 100, (5, 45))]
)
def test_those_that_run_leave_half_of_the_places_to_those_that_wait(
    running: int, waiting: int, shown: tuple[int, int]
) -> None:
    jobs = [*(runs(f"r{n}") for n in range(running)), *(waits(f"w{n}", n / 10) for n in range(waiting))]
    rows = said(*jobs)["jobs"]
    assert (sum(row["outcome"] == "Runs" for row in rows), sum(row["outcome"] == "Waits" for row in rows)) == shown
    assert [row["name"] for row in rows if row["outcome"] == "Waits"] == [f"w{n}" for n in range(shown[1])]


def test_without_jobs_there_is_no_list() -> None:
    assert "jobs" not in said()


def test_long_reasons_are_shortened_before_any_job_is_left_out() -> None:
    (row,) = said(waits("embed", text="why " * 200))["jobs"]
    assert len(row["reason"]) <= 256 and row["reason"].endswith("why…")
    long = said(*(waits(f"{n:03d}", text="ü" * 300, pool="p" * 40) for n in range(60)))["jobs"]
    assert len(long) == MAX_JOBS and {len(row["reason"]) for row in long} == {128}


def test_the_last_of_the_plan_are_left_out_where_there_is_no_room() -> None:
    rows = said(*(waits(f"{n:03d}{'j' * 250}", n / 10, pool="p" * 253) for n in range(60)))["jobs"]
    assert 25 < len(rows) < MAX_JOBS
    assert [row["name"][:3] for row in rows] == [f"{n:03d}" for n in range(len(rows))]


@given(
    st.lists(
        st.tuples(st.sampled_from(list(Outcome)), st.integers(0, 253), st.integers(0, 600), st.floats(-9, 99)),
        max_size=80,
    )
)
def test_whatever_the_jobs_the_status_is_valid_and_bounded(shapes: list[tuple[Outcome, int, int, float]]) -> None:
    jobs = [
        waits(f"j{n}".ljust(size, "x")[:253], start_h, outcome=outcome, text="€" * words, pool="p" * size)
        for n, (outcome, size, words, start_h) in enumerate(shapes)
    ]
    assert len(names(said(*jobs))) == len(set(names(said(*jobs)))) <= MAX_JOBS


@pytest.mark.parametrize(
    ("after", "wanted"),
    [
        (runs("embed", ends_at=NOW_S + 2 * HOUR_S), Difference.NOTHING),
        (runs("embed", pool="h100"), Difference.MOVED),
        (runs("other"), Difference.MOVED),
    ],
)
def test_an_end_that_is_expected_anew_is_no_reason_to_write(after: JobPlan, wanted: Difference) -> None:
    assert difference(said(runs("embed")), said(after)) is wanted


def test_jobs_go_to_their_own_policy_with_the_start_of_their_run() -> None:
    plan = batch_world.cycle(jobs=(runs("on"), waits("off"), waits("theirs", policy="other/p")))
    states = (
        batch_world.job("on", suspended=False, intent=Intent.RUNS, started_at=NOW_S - 5.0),
        batch_world.job("off", started_at=NOW_S - 900.0),
    )
    found = by_policy(plan, batch_world.seen(*states))
    assert {key: [(job.plan.key, job.start_at) for job in jobs] for key, jobs in found.items()} == {
        batch_world.POLICY: [("team/on", NOW_S - 5.0), ("team/off", NOW_S + HOUR_S)],
        "other/p": [("team/theirs", NOW_S + HOUR_S)],
    }
