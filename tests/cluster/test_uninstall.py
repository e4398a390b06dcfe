"""Ebbtide in its own pod, uninstalled by its manifests; and who gives way to whom while it is not there.

The operator and the Job that releases are processes of the process node; Jobs and serving pods are on a fake node.
"""

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from ebbtide.api.batch_note import ANNOTATION
from ebbtide.sandbox.nodes import H100_SPOT
from ebbtide.sandbox.sandbox import Sandbox, SandboxConfig
from tests.cluster.conftest import ROOT
from tests.cluster.processes import SLOT
from tests.cluster.rig import Json, pool, until

MANIFESTS = ROOT / "manifests"
SYSTEM, TEAM = "ebbtide-system", "team"
LABEL = "team.example.com/batch"
RESTARTABLE = {"ebbtide.dev/restartable": "true"}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    config = SandboxConfig(
        name="uninstall",
        directory=tmp_path_factory.mktemp("uninstall"),
        pools=(H100_SPOT,),
        manifests=(ROOT / "crds", MANIFESTS / "rbac.yaml", MANIFESTS / "priority-classes.yaml"),
        scrape_interval_s=1,
        process_node_slots=4,
    )
    with Sandbox.start(config) as running:
        running.kubectl("create", "namespace", TEAM)
        yield running


def on_the_process_node(box: Sandbox, name: str, kind: str, tmp: Path) -> Json:
    """An object of a manifest whose pod is a process of this machine, with its own account's rights."""
    found = next(item for item in yaml.safe_load_all((MANIFESTS / name).read_text()) if item["kind"] == kind)
    spec = found["spec"]["template"]["spec"]
    spec |= {
        "nodeSelector": {"sandbox.ebbtide.dev/pool": "process"},
        "tolerations": [{"key": "sandbox.ebbtide.dev/process", "operator": "Exists"}],
    }
    spec.pop("volumes", None)
    (container,) = spec["containers"]
    container.pop("volumeMounts", None)
    container["command"] = [sys.executable, "-m", "ebbtide"]
    container["resources"] = {"limits": {SLOT: "1"}}
    container["env"] = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "PYTHONPATH", "value": str(ROOT / "operator")},
        {"name": "KUBECONFIG", "value": str(box.operator_kubeconfig())},
        {"name": "EBBTIDE_PROMETHEUS_URL", "value": box.prometheus_url},
        {"name": "EBBTIDE_HTTP_HOST", "value": "$(POD_IP)"},
        {"name": "EBBTIDE_DATA_DIR", "value": str(tmp)},
        {"name": "EBBTIDE_CYCLE_INTERVAL", "value": "2s"},
    ]
    return dict(found)


def batch_policy(name: str, **spec: Any) -> Json:
    body = {"selector": {"matchLabels": {LABEL: name}}, "pools": ["h100"], "expectedDuration": "1h", **spec}
    meta = {"name": name, "namespace": TEAM}
    return {"apiVersion": "ebbtide.dev/v1alpha1", "kind": "BatchPolicy", "metadata": meta, "spec": body}


def far_window() -> Json:
    at = datetime.now(UTC) + timedelta(hours=6)
    return {"strategy": "Window", "windows": [{"cron": f"0 {at.hour} * * *", "timeZone": "UTC", "duration": "1h"}]}


def a_pod(**spec: Any) -> Json:
    container = {"name": "work", "image": "work", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    where = {"nodeSelector": {"sandbox.ebbtide.dev/pool": H100_SPOT.name}}
    return {
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "containers": [container],
        **where,
        **spec,
    }


def job(name: str, policy: str, annotations: dict[str, str] | None = None) -> Json:
    meta = {"name": name, "namespace": TEAM, "labels": {LABEL: policy}, "annotations": annotations or {}}
    spec = {"suspend": True, "template": {"spec": a_pod(restartPolicy="Never")}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}


def serving(name: str, replicas: int, **pod: Any) -> Json:
    meta = {"name": name, "namespace": TEAM}
    template = {"metadata": {"labels": {"app": name}}, "spec": a_pod(**pod)}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def got(box: Sandbox, kind: str, name: str, namespace: str = TEAM) -> Json:
    found: Json = json.loads(box.kubectl("-n", namespace, "get", kind, name, "-o", "json"))
    return found


def state_of(box: Sandbox, name: str) -> str:
    note = got(box, "job", name)["metadata"].get("annotations", {}).get(ANNOTATION)
    return str(json.loads(note)["state"]) if note else ""


def suspend(box: Sandbox, name: str) -> None:
    box.kubectl("-n", TEAM, "patch", "job", name, "--type=merge", "-p", '{"spec":{"suspend":true}}')


def ready(box: Sandbox, name: str) -> int:
    return int(got(box, "deployment", name)["status"].get("readyReplicas", 0))


def test_an_uninstall_leaves_every_job_as_its_user_wants_it_and_every_service_at_its_size(
    box: Sandbox, tmp_path: Path
) -> None:
    box.apply(
        [
            pool("h100", H100_SPOT.name, accelerator="H100-80GB", price="2.00", capacityType="Reserved"),
            batch_policy("now", strategy="Cheapest"),
            batch_policy("later", **far_window()),
            serving("chat", 1, priorityClassName="ebbtide-serving"),
            *(job(name, "now", RESTARTABLE) for name in ("runs", "users", "stopped")),
            job("held", "later"),
        ]
    )
    box.apply(on_the_process_node(box, "operator.yaml", "Deployment", tmp_path))
    for name in ("runs", "users", "stopped"):
        until(lambda name=name: state_of(box, name) == "Runs", f"{name} is started", 90)
    until(lambda: state_of(box, "held") == "Held", "the other is held")
    suspend(box, "users")
    box.kubectl("-n", TEAM, "label", "job", "stopped", f"{LABEL}=later", "--overwrite")
    until(lambda: state_of(box, "stopped") == "Stopped", "its window is closed")

    box.apply(on_the_process_node(box, "uninstall.yaml", "Job", tmp_path))
    until(lambda: got(box, "job", "ebbtide-release", SYSTEM)["status"].get("succeeded") == 1, "all is given back", 90)
    assert got(box, "deployment", "ebbtide", SYSTEM)["spec"]["replicas"] == 0
    given = {name: got(box, "job", name)["spec"]["suspend"] for name in ("runs", "users", "stopped", "held")}
    assert given == {"runs": False, "users": True, "stopped": False, "held": False}

    for path in ("admission/batch.yaml", "operator.yaml", "uninstall.yaml", "../crds", "rbac.yaml"):
        box.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", str(MANIFESTS / path))
    until(lambda: not box.kubectl("get", "crd", "-o", "name", "--ignore-not-found").count("ebbtide.dev"), "it is gone")
    time.sleep(3.0)
    assert {name: got(box, "job", name)["spec"]["suspend"] for name in given} == given
    until(
        lambda: all(got(box, "job", name)["status"].get("active") for name in ("runs", "stopped", "held")), "they run"
    )
    assert (got(box, "deployment", "chat")["spec"]["replicas"], ready(box, "chat")) == (1, 1)
    box.kubectl("-n", TEAM, "delete", "jobs,deployments", "--all")


def test_without_ebbtide_the_scheduler_takes_gpus_from_batch_for_serving_and_never_the_other_way(box: Sandbox) -> None:
    """Also beyond a PodDisruptionBudget, which the scheduler does not keep when nothing else helps."""
    room = H100_SPOT.nodes * H100_SPOT.gpus_per_node
    box.apply(serving("batch", room, priorityClassName="ebbtide-batch"))
    until(lambda: ready(box, "batch") == room, "batch work fills all GPUs")
    budget = {"minAvailable": room, "selector": {"matchLabels": {"app": "batch"}}}
    meta = {"name": "batch", "namespace": TEAM}
    box.apply({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": budget})
    box.apply(serving("chat", 2, priorityClassName="ebbtide-serving"))
    until(lambda: ready(box, "chat") == 2, "serving takes what it needs", 30)
    assert ready(box, "batch") == room - 2
    box.apply(serving("plain", 1))
    until(lambda: ready(box, "plain") == 1, "so does a service without a class", 30)
    box.apply(serving("queue", 1, priorityClassName="ebbtide-background"))
    time.sleep(5.0)
    assert (ready(box, "queue"), ready(box, "batch")) == (0, room - 3), "a Background service takes from nobody"
    box.kubectl("-n", TEAM, "scale", "deployment", "chat", "--replicas=1")
    until(lambda: ready(box, "batch") == room - 2, "what serving gives up goes to batch work first", 30)
    assert (ready(box, "chat"), ready(box, "plain"), ready(box, "queue")) == (1, 1, 0)
