"""Batch Jobs under an operator that decides by itself, on a control plane of its own that may be hurt.

One service and five BatchPolicies share one operator; their stories pass side by side, in the order of the tests.
"""

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from ebbtide.clock import parse_rfc3339
from ebbtide.model.batch import Intent
from ebbtide.sandbox.sandbox import Sandbox, SandboxConfig
from tests.cluster.batch import (
    GRACE_S,
    all_end,
    batch_policy,
    ended,
    fail_pod,
    job,
    job_spec,
    jobs,
    moves,
    note,
    runs,
    set_suspend,
    told,
    whose,
)
from tests.cluster.conftest import ROOT
from tests.cluster.rig import Json, Rig, pool, stays, until
from tests.cluster.scenarios.conftest import open_rig

IDLE, SIDE, CLOUD = "batch-idle", "batch-side", "batch-cloud"
NODES = {IDLE: "a100-on-prem", SIDE: "h100-on-demand", CLOUD: "h100-spot"}
FILLS = tuple(f"fill-{number}" for number in range(6))  # 8 GPUs, 2 of them the service's
CYCLE_S = 2.0
RESTARTABLE = {"restartable": "true"}


def minute(at: datetime) -> Json:
    """A window of one minute."""
    return {"cron": f"{at.minute} {at.hour} * * *", "timeZone": "UTC", "duration": "1m"}


def opens_at() -> datetime:
    """The next whole minute that leaves time to see what happens before."""
    return (datetime.now(UTC) + timedelta(seconds=120)).replace(second=0, microsecond=0)


def objects(rig: Rig, at: datetime) -> list[Json]:
    """The service and its rivals; `at`: when the cheap minute and the window come."""
    cloud = pool(CLOUD, NODES[CLOUD], accelerator="H100-80GB", price="2.90", billing="Pod")
    cloud["spec"]["price"]["schedule"] = [minute(at) | {"perGPUHour": "1.10"}]
    paid = {"accelerator": "H100-80GB", "price": "2.00", "capacityType": "Reserved"}
    far = {"strategy": "Window", "windows": [minute(at + timedelta(hours=6))]}
    return [
        pool(IDLE, NODES[IDLE], capacityType="Reserved"),
        pool(SIDE, NODES[SIDE], **paid),
        cloud,
        rig.target_object("chat", NODES[IDLE], 2),
        rig.service_object(("a100", IDLE, "chat"), scaling={"minReplicas": 2}),
        batch_policy(rig, "idle", IDLE, expectedDuration="30m"),
        batch_policy(rig, "side", SIDE, strategy="Cheapest", expectedDuration="5m"),
        batch_policy(rig, "cheap", CLOUD, strategy="Cheapest", expectedDuration="15s"),
        batch_policy(rig, "window", SIDE, strategy="Window", windows=[minute(at)], expectedDuration="1h"),
        batch_policy(rig, "far", SIDE, expectedDuration="1h", **far),
        batch_policy(rig, "leaving", SIDE, expectedDuration="1h", **far),
    ]


def in_zone(zone: str) -> Json:
    asked = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [asked]}]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


def work(rig: Rig) -> list[Json]:
    queue = {"kueue.x-k8s.io/queue-name": "team"}
    every_minute = {"suspend": True, "ttlSecondsAfterFinished": 600}
    cron = {
        "schedule": "* * * * *",
        "concurrencyPolicy": "Forbid",
        "jobTemplate": {
            "metadata": {"labels": {"team.example.com/batch": "side"}},
            "spec": job_spec("2s", "4s", **every_minute),
        },
    }
    meta = {"name": "nightly", "namespace": rig.namespace}
    return [
        *(job(rig, name, "idle", asks=RESTARTABLE) for name in FILLS),
        job(rig, "theirs", "side"),
        job(rig, "queued", "side", labels=queue),
        job(rig, "digest", "side", "2s", "4s", ttlSecondsAfterFinished=0),
        job(rig, "broken", "side", backoffLimit=1),
        job(rig, "patient", "cheap", "5s", "10s", asks={"deadline": "10m"}),
        job(rig, "pressed", "cheap", "5s", "10s", asks={"deadline": "1m"}),
        job(rig, "in-window", "window", asks=RESTARTABLE),
        job(rig, "anyway", "far"),
        job(rig, "left", "leaving"),
        job(rig, "nowhere", "side", pod=in_zone("atlantis")),
        {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": meta, "spec": cron},
    ]


@pytest.fixture(scope="module")
def at() -> datetime:
    return opens_at()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("batch")
    config = SandboxConfig(
        name="batch",
        directory=folder / "sandbox",
        manifests=(ROOT / "crds", ROOT / "manifests" / "rbac.yaml"),
        scrape_interval_s=1,
        autoscaler=None,
    )
    with Sandbox.start(config) as sandbox, open_rig(sandbox, folder) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def begun(rig: Rig, at: datetime) -> None:
    """Submitted before any operator runs, as while it is down."""
    rig.apply(*objects(rig, at), *work(rig))
    until(lambda: rig.ready("chat") == 2, "the service runs")
    start(rig)


def start(rig: Rig) -> str:
    return rig.start_operator("a", leader_election="false")


def started(rig: Rig) -> list[str]:
    """Of the Jobs on the service's nodes those that run."""
    return [name for name, live in jobs(rig).items() if name in FILLS and runs(live)]


def replicas(rig: Rig, count: int) -> None:
    """The service's number, at once."""
    rig.patch_service({"spec": {"scaling": {"minReplicas": 2, "pause": {"direction": "All", "replicas": count}}}})


def test_idle_gpus_are_filled_and_a_deadline_starts_a_job_before_the_cheap_hour(rig: Rig, at: datetime) -> None:
    until(lambda: len(started(rig)) == len(FILLS), "every GPU that the service leaves is used")
    assert rig.ready("chat") == 2
    pressed = until(lambda: ended(jobs(rig)["pressed"]) and jobs(rig)["pressed"], "the pressed one ends", 90)
    [(began_s, _)] = moves(rig, "pressed")
    assert began_s < at.timestamp(), "it could not wait for the cheap minute"
    created_s = parse_rfc3339(pressed["metadata"]["creationTimestamp"])
    assert parse_rfc3339(pressed["status"]["completionTime"]) <= created_s + 60.0
    patient = until(lambda: told(rig, "patient", "WaitsForCheaperHour"), "the patient one says why it waits")
    assert "1.10 instead of 2.90 USD per GPU-hour" in patient


def test_gpus_come_back_within_the_grace_time_when_the_service_grows(rig: Rig) -> None:
    since_s = time.time()
    rig.patch_service({"spec": {"scaling": {"minReplicas": 5}}})
    until(lambda: rig.ready("chat") == 5, "three GPUs came back")
    [scaled] = rig.scale_writes("chat")
    stops = [at_s for name in FILLS for at_s, suspend in moves(rig, name, since_s) if suspend]
    assert len(stops) == 3, "as many as are needed, one GPU each"
    assert max(stops) <= scaled.time_s, "they go before the replicas come"
    bound = {pod["metadata"]["name"]: pod for pod in rig.pods("chat")}
    waited_s = [_bound_s(pod) - scaled.time_s for pod in bound.values()]
    assert max(waited_s) <= GRACE_S + CYCLE_S + 5.0, "grace, a cycle, and what a busy machine takes"
    assert len(started(rig)) == 3
    until(lambda: told(rig, _stopped(rig)[0], "GivesGPUsBack"), "and it is said for whom")
    assert f"{rig.namespace}/chat needs 1 GPU" in told(rig, _stopped(rig)[0], "GivesGPUsBack")
    replicas(rig, 2)
    until(lambda: len(started(rig)) == len(FILLS), "they go on when the service has shrunk")
    again = [note(live) for name, live in jobs(rig).items() if name in FILLS]
    assert sum(one is not None and one.ran > 0.0 for one in again) == 3, "and what they did is remembered"


def _bound_s(pod: Json) -> float:
    return next(
        parse_rfc3339(condition["lastTransitionTime"])
        for condition in pod["status"]["conditions"]
        if condition["type"] == "PodScheduled"
    )


def _stopped(rig: Rig) -> list[str]:
    return [name for name in FILLS if any(suspend for _, suspend in moves(rig, name))]


def test_users_are_obeyed_and_what_is_kueues_is_not_touched(rig: Rig) -> None:
    until(lambda: runs(jobs(rig)["theirs"]), "it runs")
    set_suspend(rig, "theirs", True)
    set_suspend(rig, "anyway", False)
    rig.delete("batchpolicy", "leaving")  # its Job is released a minute later
    until(lambda: told(rig, "anyway", "ResumedByUser"), "what its user resumed is said")
    until(lambda: rig.get("batchpolicy", "side")["status"].get("suspendedByUsers") == 1, "what they suspended, too")
    live = jobs(rig)
    assert (whose(live["theirs"]), whose(live["anyway"])) == (Intent.SUSPENDED_BY_USER, Intent.RESUMED_BY_USER)
    assert live["queued"]["spec"]["suspend"] is True and note(live["queued"]) is None
    assert rig.writes("jobs", name="queued") == []


def test_a_job_that_fits_no_node_is_said_with_the_term_and_is_not_started(rig: Rig) -> None:
    assert "has topology.kubernetes.io/zone in (atlantis)" in told(rig, "nowhere", "FitsNowhere")
    conditions = {each["type"]: each for each in rig.get("batchpolicy", "side")["status"]["conditions"]}
    assert (conditions["Placeable"]["status"], conditions["Placeable"]["reason"]) == ("False", "FitsNowhere")
    assert conditions["Placeable"]["message"].startswith("nowhere: ")
    assert moves(rig, "nowhere") == []


def test_a_job_that_fails_goes_on_as_its_backoff_says_and_is_not_started_again(rig: Rig) -> None:
    for _ in range(2):
        until(lambda: fail_pod(rig, "broken"), "its pod runs")
    until(lambda: ended(jobs(rig)["broken"]) == "Failed", "it has failed", 90)
    assert [suspend for _, suspend in moves(rig, "broken")] == [False]


def test_jobs_deleted_while_they_start_leave_nothing_behind(rig: Rig) -> None:
    for number in range(3):
        name = f"gone-{number % 2}"  # the third is another Job of the first one's name
        rig.apply(job(rig, name, "side"))
        until(lambda name=name: not jobs(rig)[name]["spec"]["suspend"], "it starts")
        rig.delete("job", name)
    until(lambda: not {"gone-0", "gone-1", "digest"} & jobs(rig).keys(), "the last two, and one that had a TTL of 0")
    assert [suspend for _, suspend in moves(rig, "digest")] == [False], "that one ran first"


def test_a_window_opens_and_closes_and_the_cheap_hour_comes(rig: Rig, at: datetime) -> None:
    until(lambda: ended(jobs(rig)["patient"]), "the patient one has run", 180)
    [(began_s, _)] = moves(rig, "patient")
    assert began_s >= at.timestamp()
    until(lambda: whose(jobs(rig)["in-window"]) is Intent.STOPPED, "the window has closed", 120)
    (opened_s, _), (closed_s, _) = moves(rig, "in-window")
    assert at.timestamp() <= opened_s < at.timestamp() + 60.0 <= closed_s
    until(lambda: "the window has closed" in told(rig, "in-window", "OutsideWindow"), "and it is said")


def test_jobs_of_a_deleted_policy_run_and_a_cron_jobs_jobs_work_like_any_other(rig: Rig) -> None:
    left = until(lambda: _released(rig), "a minute after its policy went", 90)
    assert note(left) is None, "nothing of Ebbtide's is left to say"
    nightly = [live for name, live in jobs(rig).items() if name.startswith("nightly-")]
    assert any(ended(live) == "Complete" for live in nightly)
    assert all(len(moves(rig, live["metadata"]["name"])) <= 1 for live in nightly)


def _released(rig: Rig) -> Json | None:
    live = jobs(rig)["left"]
    return None if live["spec"]["suspend"] else live


def test_an_api_server_that_restarts_moves_no_job(rig: Rig) -> None:
    killed_s, running = time.time(), started(rig)
    rig.sandbox.kill("kube-apiserver")
    time.sleep(2 * CYCLE_S)
    rig.sandbox.restart("kube-apiserver")
    rig.apply(job(rig, "after", "side", "2s", "4s"))
    until(lambda: ended(jobs(rig)["after"]) == "Complete", "and the next one runs", 90)
    assert started(rig) == running
    assert [name for name in FILLS if moves(rig, name, killed_s)] == []


@pytest.mark.timeout(900)  # it goes on for as long as Jobs end, however slow the machine is
def test_an_operator_killed_at_any_moment_starts_no_job_twice_and_loses_none(rig: Rig) -> None:
    draw, brief = random.Random(7), list[str]()
    stays_on, *others = FILLS
    rig.delete("job", *others)
    for number in range(5):
        brief += [f"brief-{number}-{each}" for each in range(2)]
        rig.apply(*(job(rig, name, "idle", "4s", "8s", asks=RESTARTABLE) for name in brief[-2:]))
        replicas(rig, 7 if number % 2 else 2)  # raised to 7, all Jobs but one make way
        time.sleep(draw.uniform(0.0, 2.5 * CYCLE_S))
        rig.kill(rig.operators[-1])
        start(rig)
    replicas(rig, 2)
    all_end(rig, brief)
    for name in (stays_on, *brief):
        turns = [suspend for _, suspend in moves(rig, name)]
        assert turns == [bool(n % 2) for n in range(len(turns))], f"{name}: a start, a stop, a start"
    live = until(lambda: runs(jobs(rig)[stays_on]) and jobs(rig), "the long one goes on")
    assert whose(live["theirs"]) is Intent.SUSPENDED_BY_USER, "all the while"
    assert whose(live["anyway"]) is Intent.RESUMED_BY_USER
    assert moves(rig, "theirs") == moves(rig, "theirs")[:1] and moves(rig, "anyway") == []
    assert rig.writes("jobs", name="queued") == []
    stays(lambda: rig.ready("chat") == 2, "the service keeps what it has", CYCLE_S)
    assert "Traceback" not in rig.operator_log(rig.operators[-1])
