"""`ebbtide batch`: queue and plan from the API server, and what is said where they cannot be had."""

import asyncio
import csv
import io
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from ebbtide.cli import batch as module
from ebbtide.cli.batch_report import Listed, Shown, show
from ebbtide.cli.main import cli
from ebbtide.record.batch_view import PlannedJob, batch_policy_status
from tests.shell import batch_world, world
from tests.shell.fake_api import FakeApi, serving
from tests.shell.test_batch_rows import HOUR_S, runs, waits

NOW_S = world.NOW_S  # 15 January 2027, 08:00 UTC
ALL, TEAM = (f"/apis/ebbtide.dev/v1alpha1/{scope}batchpolicies" for scope in ("", "namespaces/team/"))
JOBS = (
    PlannedJob(runs("docs", ends_at=NOW_S + 1.5 * HOUR_S, text="runs on a100"), NOW_S - HOUR_S),
    PlannedJob(
        waits(
            "embed",
            2.0,
            pool="a100",
            ends_at=NOW_S + 6 * HOUR_S,
            must_start_by=NOW_S + 8 * HOUR_S,
            deadline_at=NOW_S + 12 * HOUR_S,
        )
    ),
    PlannedJob(waits("report", 14.0, ends_at=NOW_S + 23 * HOUR_S, deadline_at=NOW_S + 20 * HOUR_S, late=True)),
)
Ask = Callable[..., Awaitable[Result]]


def policy(name: str = "nightly", namespace: str = "team", **changes: Any) -> dict[str, Any]:
    status = batch_policy_status(batch_world.policy_plan(queued=2, running=1, stopped=0), 2, {}, NOW_S, JOBS)
    windows = [{"cron": "0 22 * * *", "timeZone": "UTC", "duration": "9h"}]
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "managedFields": [
                {"manager": "kubectl", "time": "2027-01-15T07:59:59Z"},
                {"manager": "ebbtide-status", "time": "2027-01-15T07:58:00Z"},
            ],
        },
        "spec": {"selector": {"matchLabels": {"batch": "yes"}}, "windows": windows},
        "status": status,
        **changes,
    }


def page(*items: dict[str, Any], following: str = "") -> dict[str, Any]:
    return {"metadata": {"continue": following} if following else {}, "items": list(items)}


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "unix_time_s", lambda: NOW_S)
    yield


@pytest.fixture
def api() -> FakeApi:
    api = FakeApi()
    api.objects[ALL] = page(policy(), policy("a", "other"))
    api.objects[TEAM] = page(policy())
    return api


@pytest.fixture
def ask(api: FakeApi, tmp_path: Path) -> Ask:
    async def asked(*arguments: str, plugin: bool = False) -> Result:
        async with serving(api, tmp_path):
            command = ["batch", "--kubeconfig", str(tmp_path / "kubeconfig"), *arguments]
            name = "kubectl ebbtide" if plugin else "ebbtide"
            return await asyncio.to_thread(CliRunner().invoke, cli, command, prog_name=name)

    return asked


async def test_queue_and_plan_as_a_table_and_a_timeline(ask: Ask) -> None:
    found = await ask("-n", "team")
    assert found.exit_code == 0, found.output
    assert found.output.splitlines() == [
        "team/nightly  JobsWait: 12 Jobs wait for 22:00",
        "  queued 2  running 1  stopped 0  suspended by users 1  missed 1  GPUs held 24",
        "  next start 08:10  next window 09:00  saved 12.40 USD  written 07:58  (UTC)",
        "",
        "job     does         pool  GPUs  start  end    must start  deadline",
        "docs    Runs         a100  8     07:00  09:30  -           -",
        "    runs on a100",
        "embed   Waits        a100  8     10:00  14:00  16:00       20:00",
        "    waits for 22:00: 1.10 instead of 2.90 USD per GPU-hour",
        "report  Waits, late  -     8     22:00  07:00  -           04:00",
        "    waits for 22:00: 1.10 instead of 2.90 USD per GPU-hour",
        "",
        "        08 09 10 11 12 13 14 15 16 17 18 19 20 21 22 23 00 01 02 03 04 05 06 07",
        "windows                                           ---------------------------",
        "docs    #####                                     ...........................",
        "embed         ============                  |     ...........................",
        "report                                            ==================|!!!!!!!!",
        "# runs  = planned  ! late  | deadline  - window  20 min a column",
    ]


async def test_of_all_namespaces_in_order_and_page_by_page(ask: Ask, api: FakeApi) -> None:
    api.will("GET", ALL, (200, page(policy("z", "ops"), following="more")), (200, page(policy("b", "ops"), policy())))
    found = await ask("-o", "json", plugin=True)
    document = json.loads(found.output)
    assert [(each["namespace"], each["name"]) for each in document["policies"]] == [
        ("ops", "b"),
        ("ops", "z"),
        ("team", "nightly"),
    ]
    assert [asked.params.get("continue") for asked in api.asked] == [None, "more"]


async def test_json_has_the_status_the_windows_and_when_it_was_written(ask: Ask) -> None:
    document = json.loads((await ask("--policy", "nightly", "-n", "team", "-o", "json")).output)
    assert document["at"] == "2027-01-15T08:00:00Z"
    (found,) = document["policies"]
    assert found["windows"] == [{"from": "2027-01-15T22:00:00Z", "to": "2027-01-16T07:00:00Z"}]
    assert (found["writtenAt"], found["queued"], found["saved"]["amount"]) == ("2027-01-15T07:58:00Z", 2, "12.40")
    assert found["jobs"][1]["mustStartBy"] == "2027-01-15T16:00:00Z"
    assert found["unlisted"] == 0


async def test_csv_has_a_row_for_each_job(ask: Ask) -> None:
    rows = list(csv.DictReader(io.StringIO((await ask("-o", "csv")).output)))
    assert [(row["namespace"], row["policy"], row["job"]) for row in rows[:2]] == [
        ("other", "a", "docs"),
        ("other", "a", "embed"),
    ]
    assert len(rows) == 6
    assert (rows[2]["outcome"], rows[2]["late"], rows[2]["pool"], rows[2]["must_start_by"]) == ("Waits", "true", "", "")
    assert rows[1]["start"] == "2027-01-15T10:00:00Z"


@pytest.mark.parametrize("named", [("--policy", "a"), ("--policy", "other/a")])
async def test_one_policy(ask: Ask, api: FakeApi, named: tuple[str, ...]) -> None:
    api.objects["/apis/ebbtide.dev/v1alpha1/namespaces/other/batchpolicies"] = page(policy("a", "other"))
    found = await ask(*named, "-o", "json")
    assert [each["name"] for each in json.loads(found.output)["policies"]] == ["a"]


async def test_hours_and_days_in_another_time_zone(ask: Ask) -> None:
    shown = (await ask("-n", "team", "--hours", "48", "--time-zone", "Europe/Berlin")).output
    assert "(Europe/Berlin)" in shown and "next start 09:10" in shown
    ruler = next(line for line in shown.splitlines() if line.startswith("        09"))
    assert ruler.split() == [f"{hour % 24:02d}" for hour in range(9, 57, 3)], "an hour a column, from 09:00 in Berlin"
    assert all(len(line) <= 80 for line in shown.splitlines())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-n", "Team"), '--namespace: "Team" is no name: write lower-case letters, digits and -'),
        (("-n", ""), '--namespace: "" is no name'),
        (("--policy", "team/"), '--policy: "team/" is no name'),
        (("--policy", "a/b/c"), '--policy: "a/b" is no name'),
        (("-n", "team", "--policy", "other/a"), '--policy: "other/a" is not in namespace "team": give one of them'),
        (("--policy", "weekly"), '--policy: there is no BatchPolicy "weekly": there is other/a, team/nightly'),
        (("-n", "team", "--policy", "a"), 'there is no BatchPolicy "a" in namespace "team": there is team/nightly'),
        (("--time-zone", "Mars/Base"), '"Mars/Base" is no time zone'),
        (("--hours", "0"), "0 is not in the range 1<=x<=192"),
        (("-o", "yaml"), "'yaml' is not one of"),
        (("--context", "prod"), "Expected object with name prod"),
        (("--kubeconfig", "/none"), "File '/none' does not exist"),
    ],
)
async def test_bad_input_is_one_line_and_exit_code_2(ask: Ask, arguments: tuple[str, ...], words: str) -> None:
    found = await ask(*arguments)
    assert found.exit_code == 2, found.output
    (line,) = (line for line in found.output.splitlines() if line.startswith("Error:"))
    assert words in line


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, {"message": "not found"}), "this cluster has no kind BatchPolicy: apply Ebbtide's CRDs to it"),
        ((403, {"message": "ann cannot list batchpolicies"}), "HTTP 403: ann cannot list batchpolicies"),
        ((500, {"message": "etcd is away"}), "HTTP 500: etcd is away"),
    ],
)
async def test_what_the_cluster_refuses_is_said(
    ask: Ask, api: FakeApi, answer: tuple[int, dict[str, Any]], words: str
) -> None:
    api.will("GET", ALL, answer)
    assert words in str((await ask()).exception)


async def test_nothing_there_is_no_error(ask: Ask, api: FakeApi) -> None:
    api.objects[TEAM] = page()
    found = await ask("-n", "team")
    assert (found.exit_code, found.output) == (0, "There is no BatchPolicy in namespace team.\n")
    assert json.loads((await ask("-n", "team", "-o", "json")).output)["policies"] == []


async def test_a_policy_that_nobody_looked_at_and_one_that_cannot_be_read(ask: Ask, api: FakeApi) -> None:
    unread = policy("odd", spec={"selector": {"matchLabels": {"a": "b"}}, "deadline": "soon"})
    lost = policy("lost", spec={"selector": {"matchLabels": {"a": "b"}}, "windows": [
        {"cron": "0 22 * * *", "timeZone": "Mars/Base", "duration": "9h"}]})  # fmt: skip
    api.objects[TEAM] = page(policy("new", status={}), unread, lost)
    shown = " ".join((await ask("-n", "team")).output.split())
    assert "team/new: nobody looked at it yet. Does the operator run, with rights to BatchPolicies?" in shown
    assert 'Its windows are not known: BatchPolicy team/odd: spec.deadline: "soon" is not allowed' in shown
    assert "names the time zone 'Mars/Base', which does not exist" in shown


@pytest.mark.parametrize("width", [80, 118])
def test_in_a_terminal_bars_are_drawn_in_colour_and_no_line_breaks(width: int) -> None:
    long = PlannedJob(
        waits("x" * 253, 80.0, pool="p" * 253, ends_at=NOW_S + 90 * HOUR_S, deadline_at=NOW_S + 85 * HOUR_S, late=True,
              must_start_by=NOW_S + 81 * HOUR_S, text="because " * 90)
    )  # fmt: skip
    condition = world.condition("DeadlinesKept", "False", "DeadlineUnreachable", "x " * 300)
    plan = batch_world.policy_plan(queued=70, conditions=(condition,))
    status = batch_policy_status(plan, 2, {}, NOW_S, [*JOBS, long])
    listed = Listed("team", "nightly", status, "", [(NOW_S, NOW_S + HOUR_S)])
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system=None, width=width)
    show(Shown([listed], NOW_S, NOW_S + 192 * HOUR_S, ZoneInfo("UTC")), "table", console, plain=False)
    text = out.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    assert "█" in text and "▒" in text and "…" in text
    assert "DeadlinesKept False, DeadlineUnreachable: x x" in text
    assert "and 71 more: the status has the first 4" in text
