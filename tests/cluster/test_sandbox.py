"""The sandbox against its promises, on the control plane that all cluster tests share."""

import contextlib
import json
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ebbtide.clock import parse_rfc3339, unix_time_s
from ebbtide.errors import NotFoundError, SandboxError
from ebbtide.kube.client import ForbiddenError, KubeClient
from ebbtide.sandbox import nodes
from ebbtide.sandbox.audit import audit_writes, service_account_user
from ebbtide.sandbox.prometheus import ScrapeTarget
from ebbtide.sandbox.sandbox import Sandbox
from tests.cluster.conftest import ApplyYaml


def deployment(namespace: str, name: str, replicas: int, pool: str = "a100-on-prem", gpus: int = 1, **more: Any) -> str:
    """A Deployment of GPU pods as YAML; `more` are pod annotations without their prefix, and `grace_s`."""
    grace_s = more.pop("grace_s", 30)
    annotations = {f"sandbox.ebbtide.dev/{key.replace('_', '-')}": value for key, value in more.items()}
    annotations |= {"prometheus.io/scrape": "true", "prometheus.io/port": "8000", "prometheus.io/path": "/metrics"}
    template = {
        "metadata": {"labels": {"app": name}, "annotations": annotations},
        "spec": {
            "terminationGracePeriodSeconds": grace_s,
            "nodeSelector": {nodes.POOL_LABEL: pool},
            "tolerations": [{"key": nodes.GPU, "operator": "Exists"}],
            "containers": [{"name": "engine", "image": "engine", "resources": {"limits": {nodes.GPU: str(gpus)}}}],
        },
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    meta = {"name": name, "namespace": namespace}
    return json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec})


def pods(sandbox: Sandbox, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(sandbox.kubectl("get", "pods", "-n", namespace, "-o", "json"))["items"]
    return found


def condition(pod: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((item for item in pod["status"].get("conditions", []) if item["type"] == kind), {})


def ready(pod: dict[str, Any]) -> bool:
    return condition(pod, "Ready").get("status") == "True"


def until(question: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s; last answer {answer!r}"
        time.sleep(0.2)
    return answer


def query(sandbox: Sandbox, promql: str) -> list[dict[str, Any]]:
    url = f"{sandbox.prometheus_url}/api/v1/query?{urllib.parse.urlencode({'query': promql})}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found


@contextlib.contextmanager
def metrics_server(address: str) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(b"# TYPE tide_level gauge\ntide_level 7\n")

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer((address, 8000), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_control_plane_is_the_pinned_version_and_all_of_it_runs(sandbox: Sandbox) -> None:
    assert json.loads(sandbox.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"] == "v1.36.3"
    assert set(sandbox.processes.pids()) >= {
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kwok",
        "prometheus",
        "autoscaler-l40s-on-demand",
    }
    assert sandbox.processes.crashed() == {}


def test_nodes_look_like_gpu_nodes(sandbox: Sandbox) -> None:
    node = json.loads(sandbox.kubectl("get", "node", "h100-on-demand-0", "-o", "json"))
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    labels = node["metadata"]["labels"]
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    assert (labels["nvidia.com/gpu.count"], labels["nvidia.com/gpu.memory"]) == ("8", "81559")
    assert node["spec"]["taints"] == [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
    until(lambda: "True" in sandbox.kubectl("get", "node", "h100-on-demand-0", "-o", "jsonpath={.status.conditions}"))


def test_pods_start_after_their_own_time_and_wait_where_there_is_no_gpu(
    sandbox: Sandbox, namespace: str, apply_yaml: ApplyYaml
) -> None:
    apply_yaml(deployment(namespace, "chat", 3, gpus=4, startup="3s", drain="1s"))
    until(lambda: sum(map(ready, pods(sandbox, namespace))) == 2)
    found = pods(sandbox, namespace)
    running = [pod for pod in found if ready(pod)]
    for pod in running:
        assert pod["status"]["podIP"].startswith(f"{sandbox.loopback_prefix}.")
        assert pod["spec"]["nodeName"] == "a100-on-prem-0"
        bound = parse_rfc3339(condition(pod, "PodScheduled")["lastTransitionTime"])
        became = parse_rfc3339(condition(pod, "Ready")["lastTransitionTime"])
        assert became - bound >= 2  # 3 s and stamps of whole seconds
    assert len({pod["status"]["podIP"] for pod in running}) == 2
    (waiting,) = [pod for pod in found if not ready(pod)]
    assert condition(waiting, "PodScheduled")["reason"] == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in condition(waiting, "PodScheduled")["message"]


def test_a_deleted_pod_lives_through_its_grace_period_unless_it_drains_sooner(
    sandbox: Sandbox, namespace: str, apply_yaml: ApplyYaml
) -> None:
    apply_yaml(deployment(namespace, "full", 1, startup="0s", grace_s=5))
    apply_yaml(deployment(namespace, "drained", 1, startup="0s", grace_s=60, drain="1s"))
    until(lambda: sum(map(ready, pods(sandbox, namespace))) == 2)
    sandbox.kubectl("scale", "deployment", "--all", "--replicas=0", "-n", namespace)
    gone: dict[str, float] = {}
    began = time.monotonic()

    def left() -> bool:
        now, names = time.monotonic() - began, {pod["metadata"]["labels"]["app"] for pod in pods(sandbox, namespace)}
        gone.update({name: now for name in ("full", "drained") if name not in names and name not in gone})
        return len(gone) == 2

    until(left)
    assert gone["full"] >= 4  # 5 s and a deletionTimestamp of whole seconds
    assert gone["drained"] < 55  # not its 60 s


def test_a_crash_looping_pod_restarts_and_never_becomes_ready(
    sandbox: Sandbox, namespace: str, apply_yaml: ApplyYaml
) -> None:
    apply_yaml(deployment(namespace, "broken", 1, startup="1s", crash="true", drain="0s"))

    def looping() -> dict[str, Any] | None:
        for pod in pods(sandbox, namespace):
            for status in pod["status"].get("containerStatuses", []):
                if status["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff":
                    return pod
        return None

    pod = until(looping)
    assert not ready(pod)
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 1
    until(lambda: pods(sandbox, namespace)[0]["status"]["containerStatuses"][0]["restartCount"] >= 2)
    assert not ready(pods(sandbox, namespace)[0])


def test_a_job_succeeds_after_its_running_time(sandbox: Sandbox, namespace: str, apply_yaml: ApplyYaml) -> None:
    template = json.loads(deployment(namespace, "batch", 1, startup="0s", run_for="1s"))["spec"]["template"]
    template["spec"]["restartPolicy"] = "Never"
    meta = {"name": "batch", "namespace": namespace}
    apply_yaml(json.dumps({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {"template": template}}))
    sandbox.kubectl("wait", "--for=condition=Complete", "--timeout=50s", "job/batch", "-n", namespace)
    assert pods(sandbox, namespace)[0]["status"]["phase"] == "Succeeded"


def test_pods_of_a_job_take_differently_long_where_it_says_so(
    sandbox: Sandbox, namespace: str, apply_yaml: ApplyYaml
) -> None:
    durations = {"startup": "0s", "run_for": "1s", "run_for_at_most": "6s"}
    template = json.loads(deployment(namespace, "batch", 1, **durations))["spec"]["template"]
    template["spec"]["restartPolicy"] = "Never"
    meta, spec = {"name": "batch", "namespace": namespace}, {"parallelism": 6, "completions": 6, "template": template}
    apply_yaml(json.dumps({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}))
    sandbox.kubectl("wait", "--for=condition=Complete", "--timeout=50s", "job/batch", "-n", namespace)
    ended = [pod["status"]["containerStatuses"][0]["state"]["terminated"] for pod in pods(sandbox, namespace)]
    took_s = [parse_rfc3339(each["finishedAt"]) - parse_rfc3339(each["startedAt"]) for each in ended]
    assert min(took_s) >= 1.0 and len(set(took_s)) > 1, took_s


def test_prometheus_scrapes_a_pod_at_its_own_address_and_forgets_it(
    sandbox: Sandbox, namespace: str, apply_yaml: ApplyYaml
) -> None:
    apply_yaml(deployment(namespace, "chat", 1, startup="0s", drain="0s"))
    until(lambda: any(map(ready, pods(sandbox, namespace))))
    (pod,) = pods(sandbox, namespace)
    selector = f'tide_level{{namespace="{namespace}"}}'
    with metrics_server(pod["status"]["podIP"]):
        (series,) = until(lambda: query(sandbox, selector))
    assert series["value"][1] == "7"
    assert series["metric"]["pod"] == pod["metadata"]["name"]
    assert series["metric"]["instance"] == f"{pod['status']['podIP']}:8000"
    sandbox.kubectl("delete", "deployment", "chat", "-n", namespace)
    until(lambda: query(sandbox, selector) == [])


def test_a_quota_refuses_pods_as_in_a_real_cluster(sandbox: Sandbox, namespace: str, apply_yaml: ApplyYaml) -> None:
    quota = {"hard": {"requests.nvidia.com/gpu": "1"}}
    meta = {"name": "gpus", "namespace": namespace}
    apply_yaml(json.dumps({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": quota}))
    until(lambda: "0" in sandbox.kubectl("get", "quota", "gpus", "-n", namespace, "-o", "jsonpath={.status.used}"))
    apply_yaml(deployment(namespace, "chat", 2, startup="0s", drain="0s"))

    def refused() -> bool:
        text = sandbox.kubectl("get", "deployment", "chat", "-n", namespace, "-o", "json")
        return any(item["type"] == "ReplicaFailure" for item in json.loads(text)["status"].get("conditions", []))

    until(refused)
    assert len(pods(sandbox, namespace)) == 1


def test_every_write_is_in_the_audit_log_with_the_wanted_replicas(
    sandbox: Sandbox, namespace: str, apply_yaml: ApplyYaml
) -> None:
    apply_yaml(deployment(namespace, "chat", 0))
    before = unix_time_s()
    sandbox.kubectl("scale", "deployment/chat", "--replicas=2", "-n", namespace)
    sandbox.kubectl("get", "pods", "-n", namespace)
    mine = [
        write
        for write in audit_writes(sandbox.audit_log, "ebbtide-sandbox-admin")
        if write.namespace == namespace and write.time_s >= before
    ]
    assert [(write.verb, write.resource, write.subresource, write.name) for write in mine] == [
        ("patch", "deployments", "scale", "chat")
    ]
    assert mine[0].body["spec"]["replicas"] == 2


def test_events_are_in_the_audit_log_too_without_their_bodies(
    sandbox: Sandbox, namespace: str, apply_yaml: ApplyYaml
) -> None:
    subject = {"kind": "Pod", "namespace": namespace, "name": "chat"}
    event = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "said", "namespace": namespace}}
    apply_yaml(json.dumps(event | {"involvedObject": subject, "reason": "Told", "message": "why", "type": "Normal"}))
    mine = [w for w in audit_writes(sandbox.audit_log, "ebbtide-sandbox-admin") if w.namespace == namespace]
    assert [(write.resource, write.name, write.body) for write in mine if write.name == "said"] == [
        ("events", "said", None)
    ]


async def test_a_service_account_has_exactly_the_rights_it_was_given(
    sandbox: Sandbox, namespace: str, apply_yaml: ApplyYaml
) -> None:
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    meta = {"name": "reader", "namespace": namespace}
    subject = {"kind": "ServiceAccount", **meta}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    for item in (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": role,
            "subjects": [subject],
        },
    ):
        apply_yaml(json.dumps(item))
    path = sandbox.operator_kubeconfig(namespace, "reader")
    async with KubeClient(path) as client:
        listed = await client.get(f"/api/v1/namespaces/{namespace}/pods")
        assert listed["items"] == []
        with pytest.raises(ForbiddenError, match="cannot delete resource"):
            await client.request("DELETE", f"/api/v1/namespaces/{namespace}/pods/x")
    refused = audit_writes(sandbox.audit_log, service_account_user(namespace, "reader"), accepted_only=False)
    assert [write.code for write in refused] == [403]


async def test_the_emulators_account_reads_pods_and_nodes_and_ends_pods_and_nothing_else(sandbox: Sandbox) -> None:
    async with KubeClient(sandbox.emulator_kubeconfig) as client:
        assert (await client.get("/api/v1/nodes"))["items"]
        assert (await client.get("/api/v1/pods"))["kind"] == "PodList"
        with pytest.raises(NotFoundError):  # it may, as a kubelet does
            await client.request("DELETE", "/api/v1/namespaces/default/pods/none")
        for method, path in (("GET", "/api/v1/secrets"), ("DELETE", "/api/v1/nodes/none")):
            with pytest.raises(ForbiddenError):
                await client.request(method, path)


async def test_admin_work_can_be_run_to_its_end_from_inside_an_event_loop(sandbox: Sandbox) -> None:
    assert sandbox.call(lambda client: nodes.node_names(client, "h100-spot")) == ["h100-spot-0"]
    with pytest.raises(NotFoundError):
        sandbox.call(lambda client: client.get("/api/v1/nodes/none"))


def test_programs_outside_the_cluster_can_be_scraped_too(sandbox: Sandbox) -> None:
    address = f"{sandbox.loopback_prefix}.250.1"
    sandbox.scrape(ScrapeTarget("gateway-of-a-test", f"{address}:8000"))
    with metrics_server(address):
        (series,) = until(lambda: query(sandbox, 'tide_level{job="gateway-of-a-test"}'))
    assert "pod" not in series["metric"]


async def test_nodes_come_are_tainted_and_go_with_their_pods(
    sandbox: Sandbox, namespace: str, apply_yaml: ApplyYaml, admin: KubeClient
) -> None:
    pool = nodes.NodePool("spare", "NVIDIA-L4", "ada-lovelace", 23034, 2, 0, "spot", "gpu.l4.2x")
    await nodes.add_node(admin, pool, "spare-0")
    apply_yaml(deployment(namespace, "chat", 1, pool="spare", startup="0s"))
    until(lambda: any(map(ready, pods(sandbox, namespace))))
    await nodes.taint(admin, "spare-0")
    keys = [item["key"] for item in (await admin.get("/api/v1/nodes/spare-0"))["spec"]["taints"]]
    assert keys == ["nvidia.com/gpu", nodes.INTERRUPTION_TAINT]
    sandbox.kubectl("scale", "deployment/chat", "--replicas=2", "-n", namespace)
    until(lambda: any(condition(pod, "PodScheduled").get("reason") for pod in pods(sandbox, namespace)))
    await nodes.untaint(admin, "spare-0")
    until(lambda: sum(map(ready, pods(sandbox, namespace))) == 2)
    await nodes.remove_node(admin, "spare-0")
    assert await nodes.node_names(admin, "spare") == []
    until(lambda: not any(pod["spec"].get("nodeName") for pod in pods(sandbox, namespace)))


def test_the_autoscaled_pool_grows_fails_when_told_to_and_shrinks(
    sandbox: Sandbox, namespace: str, apply_yaml: ApplyYaml
) -> None:
    pool = nodes.L40S_ON_DEMAND
    # other tests share this pool: begin when their nodes are gone, and count failures from here
    before = until(
        lambda: (now := sandbox.autoscaler_state(pool.name)).get("nodes") == ["l40s-on-demand-0"] and now, 90
    )
    sandbox.fail_autoscaler(pool.name)
    apply_yaml(deployment(namespace, "big", 2, pool=pool.name, gpus=4, startup="0s", drain="0s"))
    shown = until(lambda: (now := sandbox.autoscaler_state(pool.name))["failures"] > before["failures"] and now)
    assert shown["failing"]
    assert "no capacity" in shown["last_error"]
    assert shown["nodes"] == ["l40s-on-demand-0"]
    assert sum(map(ready, pods(sandbox, namespace))) == 1
    sandbox.fail_autoscaler(pool.name, False)
    until(lambda: sum(map(ready, pods(sandbox, namespace))) == 2)
    until(lambda: len(sandbox.autoscaler_state(pool.name)["nodes"]) == 2)
    sandbox.kubectl("delete", "deployment", "big", "-n", namespace)
    until(lambda: len(sandbox.autoscaler_state(pool.name)["nodes"]) == 1, 90)


def test_manifests_that_the_server_refuses_are_an_error_with_its_words(sandbox: Sandbox, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("{apiVersion: v1, kind: ConfigMap, metadata: {name: UPPER, namespace: default}}")
    with pytest.raises(SandboxError, match="lowercase RFC 1123"):
        sandbox.apply(bad)
