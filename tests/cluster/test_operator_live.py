"""The operator as a process with its own account's rights: who leads, who takes over, and who no longer writes."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ebbtide.clock import parse_rfc3339
from ebbtide.controller.intake import Intake
from ebbtide.sandbox.audit import Write, audit_writes, service_account_user
from ebbtide.sandbox.demo_base import free_port
from ebbtide.sandbox.sandbox import Sandbox

SHORT_LEASE = ("--lease-duration=4s", "--renew-deadline=3s", "--retry-period=500ms")
FIRST, SECOND = "ebbtide", "ebbtide-second"
LEASE = ("-n", "ebbtide-system", "get", "lease", "ebbtide", "-o", "json")


@dataclass
class Operator:
    """One operator process and its probes."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def probe(self, path: str) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError as error:
            return 0, {"error": str(error)}

    def role(self) -> str:
        return str(self.probe("/readyz")[1].get("role", ""))

    def leads(self) -> bool:
        return self.role() == "leader"


Start = Callable[..., Operator]


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def second_account(sandbox: Sandbox, operator_kubeconfig: Path) -> Path:
    """A second ServiceAccount with the rights of the first, so that the audit log tells two processes apart."""
    manifest = Path(__file__).parents[2] / "manifests" / "rbac.yaml"
    documents = [item for item in yaml.safe_load_all(manifest.read_text()) if item["kind"] != "Namespace"]
    copies = []
    for document in documents:
        if document["kind"] == "ServiceAccount":
            copies.append({**document, "metadata": {**document["metadata"], "name": SECOND}})
        elif document["kind"].endswith("Binding"):
            name = f"{document['metadata']['name']}-second"
            subjects = [{**subject, "name": SECOND} for subject in document["subjects"]]
            copies.append({**document, "metadata": {**document["metadata"], "name": name}, "subjects": subjects})
    sandbox.apply(copies)
    return sandbox.operator_kubeconfig("ebbtide-system", SECOND)


@pytest.fixture
def start(sandbox: Sandbox, operator_kubeconfig: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts operators; ends those that still run."""
    running: list[Operator] = []

    def begin(*flags: str, kubeconfig: Path = operator_kubeconfig) -> Operator:
        port, log = free_port(), tmp_path / f"operator-{len(running)}.log"
        argv = [
            *(sys.executable, "-m", "ebbtide", "operator", f"--kubeconfig={kubeconfig}"),
            *(f"--prometheus-url={sandbox.prometheus_url}", f"--data-dir={tmp_path / f'data-{len(running)}'}"),
            *("--http-host=127.0.0.1", f"--http-port={port}", "--cycle-interval=1s", *flags),
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(argv, stdout=output, stderr=output, env=dict(os.environ))
        running.append(Operator(process, port, log))
        return running[-1]

    yield begin
    for operator in running:
        if operator.process.poll() is None:
            operator.process.send_signal(signal.SIGCONT)
            operator.process.kill()
            operator.process.wait()
    # the next test need not wait until a killed leader's Lease runs out
    with contextlib.suppress(Exception):
        sandbox.kubectl("-n", "ebbtide-system", "delete", "lease", "ebbtide", "--ignore-not-found")


@pytest.fixture
def service(namespace: str, apply_yaml: Callable[[str], None], sandbox: Sandbox) -> str:
    """A service in mode Auto on a Deployment of two replicas, with no load that anybody could see."""
    apply_yaml(
        f"""
apiVersion: ebbtide.dev/v1alpha1
kind: GPUPool
metadata: {{name: {namespace}}}
spec:
  nodeSelector: {{sandbox.ebbtide.dev/pool: h100-on-demand}}
  accelerator: H100-80GB
  price: {{perGPUHour: "2.50", currency: USD}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: chat, namespace: {namespace}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: chat}}}}
  template:
    metadata: {{labels: {{app: chat}}}}
    spec:
      nodeSelector: {{sandbox.ebbtide.dev/pool: h100-on-demand}}
      containers: [{{name: engine, image: engine, resources: {{limits: {{nvidia.com/gpu: 1}}}}}}]
---
apiVersion: ebbtide.dev/v1alpha1
kind: InferenceService
metadata: {{name: chat, namespace: {namespace}}}
spec:
  mode: Auto
  model: {{name: llama-3-8b}}
  variants:
  - name: h100
    pool: {namespace}
    scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: chat}}
"""
    )
    return namespace


def lease(sandbox: Sandbox) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(sandbox.kubectl(*LEASE))["spec"]
    return spec


def writes_of(sandbox: Sandbox, account: str, *, leases: bool) -> list[Write]:
    user = service_account_user("ebbtide-system", account)
    found = audit_writes(sandbox.audit_log, user=user, accepted_only=False)
    return [write for write in found if leases or write.resource != "leases"]


def status_of(sandbox: Sandbox, namespace: str) -> dict[str, Any]:
    text = sandbox.kubectl("-n", namespace, "get", "inferenceservice", "chat", "-o", "json")
    status: dict[str, Any] = json.loads(text).get("status", {})
    return status


def replicas_of(sandbox: Sandbox, namespace: str) -> str:
    return sandbox.kubectl("-n", namespace, "get", "deployment", "chat", "-o", "jsonpath={.spec.replicas}")


@contextlib.contextmanager
def somebody_edits(sandbox: Sandbox, namespace: str) -> Iterator[None]:
    """Changes the service's spec all the time, so that a leader has something to write at every moment."""
    over = threading.Event()

    def edit() -> None:
        priority = 0
        while not over.is_set():
            priority = (priority + 1) % 1000
            patch = json.dumps({"spec": {"priority": priority}})
            sandbox.kubectl("-n", namespace, "patch", "inferenceservice", "chat", "--type=merge", "-p", patch)
            over.wait(0.1)

    thread = threading.Thread(target=edit)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_lone_operator_leads_reports_and_stops_without_changing_anything(sandbox, start, service):
    operator = start()
    until(operator.leads, f"leading, see {operator.log}")
    until(lambda: status_of(sandbox, service).get("reason"), "a status with a reason")
    healthy, report = operator.probe("/healthz")
    assert (healthy, report["last_cycle_failed_steps"]) == (200, [])
    assert lease(sandbox)["holderIdentity"] == operator.probe("/readyz")[1]["lease_holder"]

    operator.process.send_signal(signal.SIGTERM)
    assert operator.process.wait(timeout=30) == 0
    assert lease(sandbox)["holderIdentity"] == ""
    assert replicas_of(sandbox, service) == "2"
    log = operator.log.read_text()
    assert "Traceback" not in log
    assert "orbidden" not in log
    stopping, stopped = (next(line for line in log.splitlines() if f" INFO {word}" in line) for word in STOP_WORDS)
    assert parse_rfc3339(stopped.split()[0]) - parse_rfc3339(stopping.split()[0]) < 5.0


STOP_WORDS = ("stopping", "stopped")


def test_a_standby_writes_nothing_and_takes_over_within_20_s_of_a_kill(sandbox, start, service, second_account):
    leader = start()
    until(leader.leads, f"the first leads, see {leader.log}")
    before = len(writes_of(sandbox, SECOND, leases=True))
    standby = start(kubeconfig=second_account)
    until(lambda: standby.role() == "hot standby", f"the second is warm, see {standby.log}")
    known = (200, {"synced": True, "plans": True, "role": "hot standby"} | holder(leader))
    until(lambda: standby.probe("/readyz") == known, "the second knows who leads")
    until(lambda: status_of(sandbox, service).get("reason"), "the first writes a status")
    time.sleep(3)  # cycles in which a standby might write
    assert len(writes_of(sandbox, SECOND, leases=True)) == before

    leader.process.kill()
    until(standby.leads, f"the second leads, see {standby.log}")
    taken = lease(sandbox)
    last_renewal = max(write.time_s for write in writes_of(sandbox, FIRST, leases=True) if write.resource == "leases")
    # the kill came after the last renewal, so this is an upper bound of the gap that the API server saw
    assert parse_rfc3339(taken["acquireTime"]) - last_renewal <= 20.0
    assert taken["leaseTransitions"] >= 1
    assert replicas_of(sandbox, service) == "2"


def holder(operator: Operator) -> dict[str, str]:
    return {"lease_holder": operator.probe("/readyz")[1]["lease_holder"]}


@pytest.mark.parametrize("attempt", range(2))
def test_a_leader_stopped_past_its_lease_and_continued_writes_nothing(sandbox, start, service, second_account, attempt):
    stopped = start(*SHORT_LEASE)
    until(stopped.leads, f"the first leads, see {stopped.log}")
    successor = start(*SHORT_LEASE, kubeconfig=second_account)
    until(lambda: successor.role() == "hot standby", f"the second is warm, see {successor.log}")
    with somebody_edits(sandbox, service):
        until(lambda: status_writes(sandbox, FIRST, service), "the first writes statuses")
        stopped.process.send_signal(signal.SIGSTOP)
        until(successor.leads, f"the second leads, see {successor.log}")
        until(lambda: status_writes(sandbox, SECOND, service), "the second writes statuses")
        acquired = parse_rfc3339(lease(sandbox)["acquireTime"])
        stopped.process.send_signal(signal.SIGCONT)
        assert stopped.process.wait(timeout=30) == 3  # the code of a lost Lease
        time.sleep(2)  # what it might have sent would arrive now
    late = [write for write in writes_of(sandbox, FIRST, leases=True) if write.time_s >= acquired]
    # a renewal that was on its way when the process was stopped is refused: it names the version before the takeover
    assert [write for write in late if write.succeeded or write.resource != "leases"] == []
    assert successor.leads()


def status_writes(sandbox: Sandbox, account: str, namespace: str) -> list[Write]:
    found = writes_of(sandbox, account, leases=False)
    return [write for write in found if write.subresource == "status" and write.namespace == namespace]


def test_the_intake_wakes_on_a_spec_and_its_deletion_and_not_on_a_status(sandbox, operator_kubeconfig, service):
    wakes: list[float] = []
    restarts: list[float] = []
    intake = Intake(
        lambda: wakes.append(time.monotonic()),
        kubeconfig=operator_kubeconfig,
        namespaces=(service,),
        on_restart=lambda: restarts.append(time.monotonic()),
    )

    def kubectl(*arguments: str) -> None:
        sandbox.kubectl("-n", service, *arguments)

    intake.start()
    try:
        until(lambda: len(wakes) >= 2, "the service and the pools are listed")
        settled(wakes)
        before = len(wakes)
        kubectl("patch", "infs", "chat", "--subresource=status", "--type=merge", "-p", '{"status": {"message": "x"}}')
        kubectl("patch", "infs", "chat", "--type=merge", "-p", '{"metadata": {"labels": {"a": "b"}}}')
        kubectl("patch", "infs", "chat", "--type=merge", "-p", '{"spec": {"priority": 7}}')
        until(lambda: len(wakes) > before, "the changed spec")
        settled(wakes)
        assert len(wakes) == before + 1  # neither the status nor the label
        kubectl("delete", "infs", "chat")
        until(lambda: len(wakes) == before + 2, "the deletion")
        assert restarts == []
    finally:
        asyncio.run(intake.stop(timeout_s=20))


def settled(seen: list[float]) -> None:
    """Wait until nothing was added for a second."""
    count = -1
    while count != len(seen):
        count = len(seen)
        time.sleep(1)


def test_a_leader_cut_off_from_the_api_server_ends_before_its_lease_could_be_taken(own_sandbox, tmp_path):
    """The API server hangs: the leader cannot renew, and must be gone before the Lease's duration is over."""
    port, log = free_port(), tmp_path / "operator.log"
    argv = [
        *(sys.executable, "-m", "ebbtide", "operator", f"--kubeconfig={own_sandbox.operator_kubeconfig()}"),
        *(f"--data-dir={tmp_path / 'data'}", "--http-host=127.0.0.1", f"--http-port={port}", *SHORT_LEASE),
    ]
    with log.open("wb") as output:
        operator = Operator(subprocess.Popen(argv, stdout=output, stderr=output), port, log)
    try:
        until(operator.leads, f"leading, see {log}")
        own_sandbox.suspend("kube-apiserver")
        assert operator.process.wait(timeout=60) == 3
    finally:
        own_sandbox.resume("kube-apiserver")
        operator.process.kill()
        operator.process.wait()
    assert "was not renewed for 3." in log.read_text()
