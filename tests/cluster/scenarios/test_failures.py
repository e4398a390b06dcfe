"""What breaks around Ebbtide, on a control plane of its own that may be hurt. The tests build on one another in order.

One service under a steady load, and small ones beside it that show what was seen, held and written.
"""

import json
import time
from collections.abc import Iterator

import pytest

from ebbtide.clock import parse_rfc3339, rfc3339
from ebbtide.sandbox.sandbox import Sandbox, SandboxConfig
from tests.cluster.conftest import ROOT
from tests.cluster.rig import Json, Rig, pool, stays, until
from tests.cluster.scenarios.conftest import open_rig

CYCLE_S = 2.0
A100, H100 = "hurt-a100", "hurt-h100"
NODES = {A100: "a100-on-prem", H100: "h100-on-demand"}
FAST: Json = {"objectives": {"timeToFirstToken": "2s", "interTokenLatency": "25ms", "attainment": "95"}}
LEASE = {"lease_duration": "4m", "renew_deadline": "3m", "retry_period": "1s"}  # far longer than the pauses made here


def pair(rig: Rig, name: str, replicas: int, mode: str = "Auto", minimum: int = 1) -> list[Json]:
    return [
        rig.target_object(name, NODES[H100], replicas, route=name),
        rig.service_object(("main", H100, name), name=name, mode=mode, scaling={"minReplicas": minimum}),
    ]


def engine_block(rig: Rig) -> Json:
    engine = {"type": "vLLM", "image": "vllm", "deletionPolicy": "Delete"}
    found = rig.service_object(name="built", scaling={"minReplicas": 2})
    found["spec"]["variants"] = [{"name": "main", "pool": H100, "engine": engine}]
    return found


def objects(rig: Rig) -> list[Json]:
    return [
        pool(A100, NODES[A100]),
        pool(H100, NODES[H100], accelerator="H100-80GB"),
        rig.target_object("chat", NODES[A100], startup="12s"),
        rig.service_object(
            ("a100", A100, "chat"), scaling={"down": {"delay": "10s", "maxPerMinute": 60}}, capacity="10", **FAST
        ),
        *pair(rig, "raised", 1, minimum=2),
        *pair(rig, "advised", 1, mode="Recommend", minimum=3),
        *pair(rig, "left", 2, minimum=2),
    ]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A control plane with the rights of an operator that may only recommend, and load on one service."""
    folder = tmp_path_factory.mktemp("hurt")
    manifests = (ROOT / "crds", ROOT / "manifests" / "rbac-recommend-only.yaml")
    config = SandboxConfig(
        name="hurt", directory=folder / "sandbox", manifests=manifests, scrape_interval_s=1, autoscaler=None
    )
    with Sandbox.start(config) as sandbox, open_rig(sandbox, folder) as made:
        made.apply(*objects(made))
        until(lambda: made.ready("chat") == 1, "the first replica is ready")
        made.start_operator(**LEASE)
        yield made


def start_again(rig: Rig, name: str) -> str:
    """Another operator process on the data of the first. Takes the Lease at once: waiting for it is shown elsewhere."""
    rig.sandbox.kubectl("-n", "ebbtide-system", "delete", "lease", "ebbtide")
    return rig.start_operator(name, data_dir=str(rig.data / "a"), **LEASE)


def test_with_rights_to_recommend_only_advice_is_given_and_a_refused_write_is_said(rig: Rig) -> None:
    until(lambda: rig.status("advised").get("replicas", {}).get("allowed") == 3, "the recommendation")
    until(lambda: rig.events("Recommended"), "and its Event")
    refused = until(lambda: acting(rig, "raised", "WriteRefused"), "Auto without the right to act says so")
    assert refused["status"] == "False"
    assert "forbidden" in refused["message"].lower(), "in the API server's own words"
    assert {write.resource for write in rig.writes()} == {"inferenceservices", "events"}


def acting(rig: Rig, name: str, reason: str) -> Json | None:
    condition = rig.condition("Acting", name)
    return condition if condition.get("reason") == reason else None


def test_with_the_right_to_act_it_acts_without_a_restart(rig: Rig) -> None:
    rig.sandbox.apply(ROOT / "manifests" / "rbac.yaml")
    until(lambda: rig.replicas("raised") == 2, "the minimum is brought about")
    until(lambda: acting(rig, "raised", "Acting"), "and the condition is true again")
    rig.apply(engine_block(rig))
    until(lambda: rig.exists("deployment", "built-main"), "it builds, too")


def test_an_operator_killed_in_the_middle_of_scaling_changes_nothing_by_its_restart(rig: Rig) -> None:
    rig.load(15.0, 900.0)
    grown = until(lambda: rig.replicas("chat") >= 2 and rig.replicas("chat"), "the load asks for more", 90)
    rig.kill("operator-a-" + rig.namespace)
    assert rig.ready("chat") < grown, "killed while replicas are starting"
    killed_s, grown = time.time(), rig.replicas("chat")
    start_again(rig, "b")
    until(lambda: renewed_since(rig, killed_s), "the new process leads", 90)
    time.sleep(5 * CYCLE_S)
    written = [write.body["spec"]["replicas"] for write in rig.scale_writes("chat", since_s=killed_s)]
    assert all(replicas > grown for replicas in written), "what was asked for before stays asked for"
    assert rig.scale_writes("raised", since_s=killed_s) == []
    assert rig.condition("Acting")["reason"] == "Acting", "its own last write is not taken for somebody else's"


def renewed_since(rig: Rig, since_s: float) -> bool:
    lease = json.loads(rig.sandbox.kubectl("-n", "ebbtide-system", "get", "lease", "ebbtide", "-o", "json"))["spec"]
    return parse_rfc3339(lease["acquireTime"]) > since_s


def test_an_api_server_killed_and_started_again_is_outlived_and_moves_nothing(rig: Rig) -> None:
    killed_s = time.time()
    rig.sandbox.kill("kube-apiserver")
    time.sleep(2 * CYCLE_S)
    rig.sandbox.restart("kube-apiserver")
    assert rig.sandbox.processes.alive(rig.operators[-1]), "the operator lives on"
    rig.patch_service({"spec": {"scaling": {"minReplicas": 3}}}, "raised")
    until(lambda: rig.replicas("raised") == 3, "and acts again", 60)
    moved = [(write.name, write.body["spec"]["replicas"]) for write in rig.scale_writes(since_s=killed_s)]
    assert [move for move in moved if move[0] != "chat"] == [("raised", 3)], "nothing moved but what was asked for"
    assert rig.replicas("chat") >= 2, "and what the load needs is there"


def settled(rig: Rig) -> bool:
    variant = rig.variant("a100")
    return bool(variant["wanted"] >= variant["observed"] == rig.replicas("chat") == rig.ready("chat"))


def test_deletions_in_a_gap_of_the_watch_are_seen(rig: Rig) -> None:
    until(lambda: rig.status("advised")["replicas"].get("ready") == 1, "its pod is known")
    expiry_s = time.time() + 40.0
    pause = {"direction": "Up", "until": rfc3339(expiry_s)}  # once over, the minimum would be brought about
    rig.patch_service({"spec": {"scaling": {"minReplicas": 3, "pause": pause}}}, "left")
    until(lambda: rig.variant("main", "left").get("limitedBy") == "Paused", "only the pause keeps the minimum waiting")
    operator = rig.operators[-1]
    rig.sandbox.suspend(operator)
    rig.sandbox.restart("kube-apiserver")  # ends the watches: else what follows would lie in their sockets, to be read
    rig.delete("inferenceservice", "left")
    rig.scale("advised", 0)
    until(lambda: not rig.pods("advised"), "its pod is gone", 60)
    rig.sandbox.restart("kube-apiserver")  # remembers none of the events before it, so only a new list can tell
    rig.sandbox.resume(operator)
    until(lambda: rig.status("advised")["replicas"].get("ready") == 0, "the deleted pod no longer counts", 60)
    for_s = max(0.0, expiry_s - time.time()) + 4 * CYCLE_S
    stays(lambda: rig.replicas("left") == 2, "the minimum of a deleted service is nobody's wish", for_s)
    assert rig.scale_writes("left") == []


def test_without_prometheus_at_the_peak_everything_is_held_and_said_within_two_cycles(rig: Rig) -> None:
    until(lambda: settled(rig), "the fleet of the peak", 90)
    until(lambda: rig.condition("MetricsFresh")["status"] == "True", "everything is read")
    peak, killed_s = rig.replicas("chat"), time.time()
    rig.sandbox.kill("prometheus")
    # said once in 15 minutes: on a busy machine a scrape may have failed before, and then that Event stands
    said = until(lambda: cluster_event(rig, killed_s - 900.0), "an Event on Ebbtide's own Deployment", 30)
    assert parse_rfc3339(said["eventTime"]) - killed_s <= 2 * CYCLE_S + 1.0, "within two cycles"
    until(lambda: rig.condition("MetricsFresh")["reason"] == "PrometheusUnreachable", "the service says so, too", 60)
    rig.stop_load()
    stays(lambda: rig.replicas("chat") == peak, "the end of the load is not seen, so nothing is lowered", 10)
    assert rig.scale_writes(since_s=killed_s) == []
    rig.sandbox.restart("prometheus")
    until(lambda: rig.condition("MetricsFresh")["status"] == "True", "the metrics are back", 60)
    until(lambda: rig.replicas("chat") == 1, "and now the end of the load counts", 120)


def cluster_event(rig: Rig, since_s: float) -> Json | None:
    listed = rig.sandbox.kubectl("-n", "ebbtide-system", "get", "events.v1.events.k8s.io", "-o", "json")
    return next(
        (
            item
            for item in json.loads(listed)["items"]
            if item["reason"] == "PrometheusUnreachable" and parse_rfc3339(item["eventTime"]) > since_s
        ),
        None,
    )


def test_deleting_the_definitions_leaves_every_workload_at_its_size(rig: Rig) -> None:
    until(lambda: rig.replicas("built-main") == 2, "an engine block was built and scaled")
    sizes = {name: rig.replicas(name) for name in ("chat", "raised", "left", "built-main")}
    deleted_s = time.time()
    definitions = ("inferenceservices.ebbtide.dev", "gpupools.ebbtide.dev")
    rig.sandbox.kubectl("delete", "crd", *definitions, timeout_s=60)
    stays(lambda: {name: rig.replicas(name) for name in sizes} == sizes, "all of them keep running", 4 * CYCLE_S)
    assert rig.scale_writes(since_s=deleted_s) == []
    assert rig.sandbox.processes.alive(rig.operators[-1]), "the operator waits for its kinds"
