"""Pods that are processes, on a real control plane: what a kubelet promises, kept by the process node."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebbtide.clock import parse_rfc3339
from ebbtide.sandbox import state
from ebbtide.sandbox.controlplane import PROCESS_NODE
from ebbtide.sandbox.loadgen import LoadTarget, Served, run_load
from ebbtide.sandbox.nodes import H100_SPOT, remove_node
from ebbtide.sandbox.processnode.logs import log_file
from ebbtide.sandbox.sandbox import Sandbox, SandboxConfig
from ebbtide.sim.requests import Request
from tests.cluster.processes import SLOT, processes_of, spec, start_a_family
from tests.cluster.rig import until
from tests.cluster.test_sandbox import query
from tests.cluster.test_sandbox_lifecycle import ebbtide, exists

Json = dict[str, Any]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A control plane with a process node of eight slots beside one fake node."""
    directory = tmp_path_factory.mktemp("processes")
    config = SandboxConfig(
        name="processes", directory=directory, pools=(H100_SPOT,), scrape_interval_s=1, process_node_slots=8
    )
    with Sandbox.start(config) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_left(box: Sandbox) -> Iterator[None]:
    """Each test has the node for itself and leaves no process on it."""
    yield
    box.kubectl("delete", "deployments,jobs,pods", "--all", "--grace-period=0", "--force", "--wait=false")
    until(lambda: not state.process_node(box.directory)["pods"], "the node is empty", 30)


def probe(path: str = "/health", **more: Any) -> Json:
    return {"httpGet": {"path": path, "port": "http"}, "periodSeconds": 1, "failureThreshold": 2, **more}


def run(box: Sandbox, name: str, wanted: Json, labels: Json | None = None, **annotations: str) -> None:
    meta = {"name": name, "namespace": "default", "labels": labels or {}, "annotations": annotations}
    box.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": wanted})


def pods(box: Sandbox, selector: str = "") -> list[Json]:
    found: list[Json] = json.loads(box.kubectl("get", "pods", f"-l={selector}", "-o", "json"))["items"]
    return found


def pod(box: Sandbox, name: str) -> Json:
    found: Json = json.loads(box.kubectl("get", "pod", name, "-o", "json"))
    return found


def container(box: Sandbox, name: str) -> Json:
    statuses = pod(box, name)["status"].get("containerStatuses") or [{"state": {}, "lastState": {}, "ready": False}]
    found: Json = statuses[0]
    return found


def ready(found: Json) -> bool:
    conditions = found["status"].get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def until_ready(box: Sandbox, name: str) -> Json:
    until(lambda: ready(pod(box, name)), f"{name} is ready", 30)
    return pod(box, name)


def pid(found: Json) -> int:
    return int(found["status"]["containerStatuses"][0]["containerID"].removeprefix("process://"))


def gone(box: Sandbox, name: str) -> bool:
    return not box.kubectl("get", "pod", name, "--ignore-not-found")


def get(address: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{address}:8000{path}", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def test_the_node_is_one_that_the_scheduler_can_use_and_that_kwok_leaves_alone(box: Sandbox) -> None:
    node = json.loads(box.kubectl("get", "node", "process-0", "-o", "json"))
    assert node["status"]["allocatable"][SLOT] == "8"
    assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "CPU"
    assert node["spec"]["taints"] == [
        {"key": "sandbox.ebbtide.dev/process", "value": "present", "effect": "NoSchedule"}
    ]
    assert "kwok" not in json.dumps(node["metadata"].get("annotations", {}))
    assert node["status"]["nodeInfo"]["containerRuntimeVersion"] == "process://sandbox"
    lease = json.loads(box.kubectl("-n", "kube-node-lease", "get", "lease", "process-0", "-o", "json"))
    assert lease["spec"]["holderIdentity"] == "process-0"
    assert lease["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"]


def test_a_pod_is_a_process_at_its_own_address_ready_by_its_probes_and_scraped(box: Sandbox) -> None:
    run(
        box,
        "chat",
        spec("late", startupProbe=probe(failureThreshold=30), readinessProbe=probe()),
        **{"prometheus.io/scrape": "true", "prometheus.io/port": "8000", "prometheus.io/path": "/metrics"},
    )
    until(lambda: container(box, "chat")["state"].get("running"), "it runs")
    assert not ready(pod(box, "chat"))  # for 2 s its /health says 503
    found = until_ready(box, "chat")
    address = found["status"]["podIP"]
    assert address.startswith(f"{box.loopback_prefix}.2")
    assert (found["status"]["phase"], found["status"]["containerStatuses"][0]["restartCount"]) == ("Running", 0)
    assert exists(pid(found))
    series = until(lambda: query(box, 'tide_level{pod="chat"}'), "its metrics are scraped", 20)
    assert series[0]["metric"]["instance"] == f"{address}:8000"
    assert series[0]["metric"]["node"] == "process-0"
    text = log_file(box.directory, "default", "chat").read_text()
    assert f"serves on {address} in " in text
    assert " for chat" in text
    assert "work" in text.splitlines()[0]  # a folder of its own


def test_a_deployment_gets_as_many_as_there_are_slots_and_shrinks_again(box: Sandbox) -> None:
    template = {"metadata": {"labels": {"app": "fleet"}}, "spec": spec(readinessProbe=probe(), grace_s=5)}
    template["spec"]["containers"][0]["resources"] = {"limits": {SLOT: "4"}}
    body = {"replicas": 3, "selector": {"matchLabels": {"app": "fleet"}}, "template": template}
    box.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "fleet"}, "spec": body})
    until(lambda: sum(map(ready, pods(box, "app=fleet"))) == 2, "two of three fit")
    (waiting,) = [item for item in pods(box, "app=fleet") if not ready(item)]
    assert f"Insufficient {SLOT}" in json.dumps(waiting["status"]["conditions"])
    addresses = {item["status"]["podIP"] for item in pods(box, "app=fleet") if ready(item)}
    assert len(addresses) == 2
    box.kubectl("scale", "deployment", "fleet", "--replicas=1")
    until(lambda: len(pods(box, "app=fleet")) == 1, "one is left")
    until(lambda: len(processes_of(box.directory)) == 1, "and one process")
    (left,) = pods(box, "app=fleet")
    assert ready(left)
    assert get(left["status"]["podIP"], "/health") == "fine\n"


def test_an_end_is_pre_stop_then_sigterm_within_the_grace_period(box: Sandbox) -> None:
    run(box, "polite", spec(readinessProbe=probe(), lifecycle={"preStop": {"sleep": {"seconds": 2}}}))
    found = until_ready(box, "polite")
    address, began = found["status"]["podIP"], time.monotonic()
    box.kubectl("delete", "pod", "polite", "--wait=false")
    time.sleep(1)
    assert get(address, "/health") == "fine\n"  # preStop: it serves on
    assert "signal" not in log_file(box.directory, "default", "polite").read_text()
    until(lambda: gone(box, "polite"), "it is gone", 8)
    assert time.monotonic() - began >= 2
    assert "signal 15" in log_file(box.directory, "default", "polite").read_text()
    assert not exists(pid(found))


def test_what_ignores_sigterm_is_killed_at_the_end_of_its_grace_with_all_that_it_started(box: Sandbox) -> None:
    run(box, "stubborn", spec("stubborn", "family", readinessProbe=probe(), grace_s=4))
    run(box, "patient", spec("stubborn", readinessProbe=probe(), grace_s=600))
    until_ready(box, "stubborn")
    until_ready(box, "patient")
    assert len(processes_of(box.directory)) == 3  # the orphan left session and group of its parent
    began = time.monotonic()
    box.kubectl("delete", "pod", "stubborn", "patient", "--wait=false")
    time.sleep(2)
    assert not gone(box, "stubborn")
    box.kubectl("delete", "pod", "patient", "--grace-period=1", "--wait=false")  # somebody is less patient
    until(lambda: gone(box, "patient"), "the shorter grace counts", 10)
    until(lambda: gone(box, "stubborn"), "it is gone", 10)
    assert time.monotonic() - began >= 3  # 4 s by a stamp of whole seconds
    assert "signal 15" in log_file(box.directory, "default", "stubborn").read_text()
    assert processes_of(box.directory, wardens=True) == []


def test_a_crash_is_started_again_at_once_and_then_with_back_off_and_its_exit_code_stays(box: Sandbox) -> None:
    run(box, "crash", spec(command=["sh", "-c", "echo once more; exit 3"]))
    until(lambda: container(box, "crash")["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff", "it waits")
    shown = container(box, "crash")
    assert shown["restartCount"] == 1
    assert "back-off 10s" in shown["state"]["waiting"]["message"]
    last = shown["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (3, "Error")
    assert pod(box, "crash")["status"]["phase"] == "Running"
    lines = log_file(box.directory, "default", "crash").read_text().splitlines()
    assert [lines[0], lines[2]] == ["once more", "once more"]
    assert lines[1].startswith("--- restart 1 at ")
    time.sleep(1)
    assert container(box, "crash")["restartCount"] == 1


def test_jobs_end_and_a_program_that_is_not_there_says_so(box: Sandbox) -> None:
    run(box, "done", spec(command=["true"], policy="Never"))
    run(box, "broken", spec(command=["sh", "-c", "kill -USR1 $$$$"], policy="Never"))
    run(box, "missing", spec(command=["no-such-program"], policy="Never"))
    run(box, "imageless", spec(command=None) | {"containers": [{"name": "engine", "image": "vllm/vllm-openai"}]})
    until(lambda: pod(box, "done")["status"]["phase"] == "Succeeded", "it succeeds")
    until(lambda: pod(box, "broken")["status"]["phase"] == "Failed", "it fails")
    ended = container(box, "broken")["state"]["terminated"]
    assert (ended["exitCode"], ended["signal"]) == (128 + signal.SIGUSR1, signal.SIGUSR1)
    until(lambda: pod(box, "missing")["status"]["phase"] == "Failed", "it fails")
    ended = container(box, "missing")["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert "no-such-program" in ended["message"]
    until(lambda: "no command" in json.dumps(container(box, "imageless")["state"]), "it is refused")
    assert container(box, "imageless")["state"]["waiting"]["reason"] == "CreateContainerError"
    assert pod(box, "imageless")["status"]["phase"] == "Pending"


def test_a_failed_liveness_probe_starts_it_again_and_a_hanging_process_is_not_ready(box: Sandbox) -> None:
    slow_to_listen = probe(failureThreshold=30)  # on a busy machine Python alone takes more than two seconds
    run(box, "sick", spec(startupProbe=slow_to_listen, readinessProbe=probe(), livenessProbe=probe("/live")))
    run(box, "hung", spec(readinessProbe=probe()))
    first, hung = until_ready(box, "sick"), until_ready(box, "hung")
    os.kill(pid(hung), signal.SIGSTOP)
    get(first["status"]["podIP"], "/break")
    until(lambda: container(box, "sick")["restartCount"] == 1, "it is started again", 20)
    second = until_ready(box, "sick")
    assert second["status"]["podIP"] == first["status"]["podIP"]
    last = container(box, "sick")["lastState"]["terminated"]
    assert "liveness probe failed 2 times in a row: HTTP status 503" in last["message"]
    until(lambda: not ready(pod(box, "hung")), "the hanging one is not ready", 10)
    assert container(box, "hung")["state"]["running"]  # not restarted: it has no liveness probe
    os.kill(pid(hung), signal.SIGCONT)
    until_ready(box, "hung")


def test_a_deletion_in_a_gap_of_the_watch_ends_the_process_and_an_api_server_that_is_away_ends_none(
    box: Sandbox,
) -> None:
    run(box, "kept", spec(readinessProbe=probe()))
    run(box, "lost", spec(readinessProbe=probe()))
    kept, lost = until_ready(box, "kept"), until_ready(box, "lost")
    box.suspend(PROCESS_NODE)
    box.kubectl("delete", "pod", "lost", "--grace-period=0", "--force")
    box.kill("kube-apiserver")  # the events that the agent has not read go with it
    box.resume(PROCESS_NODE)
    assert exists(pid(kept))
    box.restart("kube-apiserver")
    until(lambda: not exists(pid(lost)), "the deleted one ends", 20)
    assert exists(pid(kept))
    assert ready(pod(box, "kept"))


def test_an_agent_that_is_killed_leaves_no_process_and_its_successor_starts_the_pods_again(box: Sandbox) -> None:
    run(box, "phoenix", spec("stubborn", "family", readinessProbe=probe()))
    first = until_ready(box, "phoenix")
    assert len(processes_of(box.directory)) == 2
    box.kill(PROCESS_NODE)
    until(lambda: processes_of(box.directory, wardens=True) == [], "nothing is left", 5)
    box.restart(PROCESS_NODE)
    until(lambda: container(box, "phoenix")["restartCount"] == 1, "it is started again", 20)
    second = until_ready(box, "phoenix")
    assert second["status"]["podIP"] == first["status"]["podIP"]
    assert pid(second) != pid(first)
    last = second["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (137, "ContainerStatusUnknown")


def test_the_lease_says_that_the_agent_lives(box: Sandbox) -> None:
    node = json.loads(box.kubectl("get", "node", "process-0", "-o", "json"))
    made_s = parse_rfc3339(node["metadata"]["creationTimestamp"])
    read = ("-n", "kube-node-lease", "get", "lease", "process-0", "-o", "jsonpath={.spec.renewTime}")
    until(lambda: parse_rfc3339(box.kubectl(*read)) > made_s + 8, "it is renewed every 10 s", 15)


def test_a_cordon_is_kept_and_a_machine_that_goes_away_takes_its_processes_along(box: Sandbox) -> None:
    run(box, "chat", spec(readinessProbe=probe()))
    until_ready(box, "chat")
    box.kubectl("cordon", "process-0")
    box.restart(PROCESS_NODE)
    assert json.loads(box.kubectl("get", "node", "process-0", "-o", "json"))["spec"]["unschedulable"]
    until(lambda: container(box, "chat")["restartCount"] == 1 and ready(pod(box, "chat")), "cordons end nothing", 20)
    box.call(lambda client: remove_node(client, "process-0"))
    until(lambda: processes_of(box.directory, wardens=True) == [], "nothing is left", 10)
    box.restart(PROCESS_NODE)
    run(box, "next", spec(readinessProbe=probe()))
    until_ready(box, "next")


@pytest.fixture
def gateway(box: Sandbox) -> Iterator[str]:
    """The real gateway with its own account; its base URL."""
    port = box.layout.ports.gateway  # no emulator uses it here
    config = box.layout.kubeconfigs["real-gateway"]
    argv = [sys.executable, "-m", "ebbtide.sandbox.realgateway", f"--kubeconfig={config}", f"--port={port}"]
    box.spawn("real-gateway", argv)
    yield f"http://127.0.0.1:{port}"
    box.processes.stop("real-gateway")


async def test_behind_the_real_gateway_no_request_is_lost_when_a_pod_goes(box: Sandbox, gateway: str) -> None:
    drained = spec(readinessProbe=probe(), lifecycle={"preStop": {"sleep": {"seconds": 3}}})
    for name in ("chat-1", "chat-2"):
        run(box, name, drained, {"sandbox.ebbtide.dev/route": "chat"})
    until(lambda: 'llm_d_epp_ready_endpoints{name="chat"} 2.0' in page(gateway, "/default/metrics"), "two are ready")
    requests = [Request(number, number * 0.1, 5, 30) for number in range(35)]  # each runs for 0.6 s, six at a time

    target, began_s = LoadTarget(f"{gateway}/default/chat/v1", "tiny"), time.monotonic()

    async def deleted() -> float:
        await asyncio.sleep(1)
        await asyncio.to_thread(box.kubectl, "delete", "pod", "chat-1", "--wait=false")
        return time.monotonic() - began_s

    told_s, served = await asyncio.gather(deleted(), run_load(target, requests))

    assert {(one.status, one.finish_reason, one.generated_tokens) for one in served} == {(200, "length", 30)}
    assert by(served, 0, 1) == {"default/chat-1", "default/chat-2"}
    assert by(served, told_s + 1, 4) == {"default/chat-2"}
    until(lambda: gone(box, "chat-1"), "it is gone", 10)
    shown = json.loads(page(gateway, "/routes"))["routes"]["default/chat"]
    assert (shown["arrived"], shown["served"], list(shown["endpoints"])) == (35, 35, ["default/chat-2"])


def page(base: str, path: str) -> str:
    with contextlib.suppress(OSError), urllib.request.urlopen(base + path, timeout=5) as answer:
        text: str = answer.read().decode()
        return text
    return ""


def by(served: list[Served], first_s: float, last_s: float) -> set[str | None]:
    """Who answered what was sent then."""
    return {one.endpoint for one in served if first_s <= one.sent_s <= last_s}


def test_command_line_shows_the_node_and_its_logs_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "ebbtide", "sandbox"]
    directory, out = tmp_path / "ebbtide" / "sandbox" / "default", subprocess.PIPE
    up_command = [*command, "up", "--process-node", "--no-emulator"]
    with subprocess.Popen(up_command, env=environment, stdout=out, text=True, start_new_session=True) as up:
        until(lambda: state.read(directory), "it is ready")
        known = start_a_family(directory)
        until(lambda: "serves on" in ebbtide("logs", "chat", home=tmp_path).stdout, "it has a log", 20)
        shown = ebbtide("status", home=tmp_path).stdout
        assert "  node process-0               4 engine slots, 1 processes\n    default/chat " in shown
        follow = [*command, "logs", "chat", "-f", "--tail=1"]
        with subprocess.Popen(follow, env=environment, stdout=out, text=True) as following:
            assert following.stdout is not None
            assert following.stdout.readline().startswith("serves on ")
            os.killpg(up.pid, signal.SIGINT)  # as a terminal does: everybody in the group
            said, _ = up.communicate(timeout=30)
            following.communicate(timeout=10)  # ends with the sandbox
    assert up.returncode == 0, said
    assert "sandbox ended" in said
    assert processes_of(directory, wardens=True) == []
    assert not any(exists(number) for number in known.processes.values())
    assert "serves on" in ebbtide("logs", "chat", home=tmp_path).stdout  # the log stays
    missing = ebbtide("logs", "other", home=tmp_path)
    assert missing.returncode == 1
    assert "pod default/other has no log on the process node; there are logs of: default/chat" in missing.stderr
