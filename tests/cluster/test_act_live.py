"""The act and record layers against the real API server: preconditions, field ownership, adoption, status size."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from ebbtide.act.farewell import Farewell
from ebbtide.act.marks import ANNOTATION
from ebbtide.act.render import SERVICE_UID
from ebbtide.act.result import Outcome
from ebbtide.act.scale import Actuator
from ebbtide.kube.client import MERGE_PATCH, ConflictError, KubeClient
from ebbtide.model.snapshot import ServiceState, Snapshot, TargetState, VariantState, WriteReceipt
from ebbtide.model.spec import EngineType, Mode
from ebbtide.record.events import EventRecorder, cycle_events
from ebbtide.record.status import StatusWriter
from ebbtide.record.view import MAX_BYTES, service_status
from ebbtide.sandbox.sandbox import Sandbox
from tests.cluster.conftest import ApplyYaml
from tests.shell import world

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: chat-h100, namespace: {namespace}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: chat}}}}
  template:
    metadata: {{labels: {{app: chat}}}}
    spec:
      nodeSelector: {{no-such: node}}
      containers: [{{name: engine, image: example.com/engine}}]
"""

SERVICE = """
apiVersion: ebbtide.dev/v1alpha1
kind: InferenceService
metadata: {{name: chat, namespace: {namespace}}}
spec:
  mode: Auto
  model: {{name: llama-3-8b}}
  variants:
  - name: h100
    pool: h100
    engine: {{type: vLLM, image: example.com/engine, deletionPolicy: {policy}}}
"""


@pytest.fixture
async def operator(operator_kubeconfig: Path) -> AsyncIterator[KubeClient]:
    """The operator's own account, with exactly the rights that manifests/rbac.yaml gives it."""
    async with KubeClient(operator_kubeconfig) as client:
        yield client


class Receipts(dict[str, WriteReceipt]):
    def store(self, key: str, receipt: WriteReceipt) -> None:
        self[key] = receipt


async def seen(client: KubeClient, namespace: str, name: str = "chat-h100") -> dict[str, Any]:
    live = await client.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
    assert isinstance(live, dict)
    return live


def snapshot_of(namespace: str, live: dict[str, Any], mode: Mode = Mode.AUTO) -> Snapshot:
    target = TargetState(
        exists=True,
        uid=live["metadata"]["uid"],
        resource_version=live["metadata"]["resourceVersion"],
        spec_replicas=live["spec"]["replicas"],
        status_replicas=live.get("status", {}).get("replicas", 0),
        generation=live["metadata"]["generation"],
        observed_generation=live.get("status", {}).get("observedGeneration", 0),
    )
    spec = world.service_spec(f"{namespace}/chat", mode)
    return world.snapshot(ServiceState(spec=spec, variants=(VariantState(name="h100", target=target),)))


def action_for(namespace: str, live: dict[str, Any], to: int, **changes: Any) -> Any:
    return world.action(
        to,
        service=f"{namespace}/chat",
        target_uid=live["metadata"]["uid"],
        resource_version=live["metadata"]["resourceVersion"],
        from_replicas=live["spec"]["replicas"],
        **changes,
    )


async def settled(client: KubeClient, namespace: str, replicas: int, name: str = "chat-h100") -> dict[str, Any]:
    for _ in range(100):
        live = await seen(client, namespace, name)
        status = live.get("status", {})
        generation = live["metadata"]["generation"]
        if status.get("observedGeneration") == generation and status.get("replicas", 0) == replicas:
            return live
        await asyncio.sleep(0.1)
    pytest.fail(f"{name} did not settle at {replicas}: {live['status']}")


def manager_of_replicas(live: dict[str, Any]) -> set[str]:
    return {
        entry["manager"]
        for entry in live["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    }


async def patch_replicas(client: KubeClient, namespace: str, replicas: int, resource_version: str = "") -> None:
    metadata = {"resourceVersion": resource_version} if resource_version else {}
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/chat-h100/scale"
    body = {"metadata": metadata, "spec": {"replicas": replicas}}
    params = {"fieldManager": "somebody"}
    await client.request("PATCH", path, params=params, body=body, content_type=MERGE_PATCH)


async def test_api_server_honours_a_resource_version_in_a_merge_patch_of_scale(
    admin: KubeClient, namespace: str, apply_yaml: ApplyYaml
) -> None:
    apply_yaml(DEPLOYMENT.format(namespace=namespace, replicas=1))
    live = await settled(admin, namespace, 1)
    await patch_replicas(admin, namespace, 2, live["metadata"]["resourceVersion"])
    with pytest.raises(ConflictError):
        await patch_replicas(admin, namespace, 3, live["metadata"]["resourceVersion"])
    assert (await seen(admin, namespace))["spec"]["replicas"] == 2


async def test_scaling_is_done_by_our_field_manager_and_receipted(
    admin: KubeClient, operator: KubeClient, namespace: str, apply_yaml: ApplyYaml
) -> None:
    apply_yaml(DEPLOYMENT.format(namespace=namespace, replicas=4))
    live = await settled(admin, namespace, 4)
    receipts = Receipts()
    actuator = Actuator(operator, receipts.store)
    plan = world.plan(actions=(action_for(namespace, live, 6),))
    [result] = await actuator.apply(plan, snapshot_of(namespace, live))
    after = await seen(admin, namespace)
    assert (result.outcome, after["spec"]["replicas"]) == (Outcome.DONE, 6)
    assert manager_of_replicas(after) == {"ebbtide-scale"}
    assert receipts[f"{namespace}/chat/h100"].done


@pytest.mark.parametrize(
    ("moved_to", "want_outcome", "want_replicas"),
    [
        pytest.param(None, Outcome.DONE, 6, id="only the status moved meanwhile: written with the new version"),
        pytest.param(3, Outcome.CONFLICT, 3, id="somebody scaled meanwhile: planned again"),
    ],
)
async def test_a_stale_snapshot(
    admin: KubeClient,
    operator: KubeClient,
    namespace: str,
    apply_yaml: ApplyYaml,
    moved_to: int | None,
    want_outcome: Outcome,
    want_replicas: int,
) -> None:
    apply_yaml(DEPLOYMENT.format(namespace=namespace, replicas=4))
    live = await settled(admin, namespace, 4)
    if moved_to is None:
        body = {"metadata": {"annotations": {"touched": "yes"}}}
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments/chat-h100"
        await admin.request("PATCH", path, body=body, content_type=MERGE_PATCH)
    else:
        await patch_replicas(admin, namespace, moved_to)
    actuator = Actuator(operator, Receipts().store)
    plan = world.plan(actions=(action_for(namespace, live, 6),))
    [result] = await actuator.apply(plan, snapshot_of(namespace, live))
    assert (result.outcome, (await seen(admin, namespace))["spec"]["replicas"]) == (want_outcome, want_replicas)


async def test_a_target_deleted_and_created_again_is_not_scaled_by_the_old_plan(
    admin: KubeClient, operator: KubeClient, namespace: str, apply_yaml: ApplyYaml, sandbox: Sandbox
) -> None:
    apply_yaml(DEPLOYMENT.format(namespace=namespace, replicas=4))
    live = await settled(admin, namespace, 4)
    sandbox.kubectl("-n", namespace, "delete", "deployment", "chat-h100", "--wait=true")
    apply_yaml(DEPLOYMENT.format(namespace=namespace, replicas=4))
    actuator = Actuator(operator, Receipts().store)
    plan = world.plan(actions=(action_for(namespace, live, 6),))
    [result] = await actuator.apply(plan, snapshot_of(namespace, live))
    assert (result.outcome, (await seen(admin, namespace))["spec"]["replicas"]) == (Outcome.CONFLICT, 4)


async def test_the_marked_pod_is_the_one_that_goes(
    admin: KubeClient, operator: KubeClient, namespace: str, apply_yaml: ApplyYaml
) -> None:
    apply_yaml(DEPLOYMENT.format(namespace=namespace, replicas=4))
    live = await settled(admin, namespace, 4)
    before = await pods(admin, namespace)
    victim = sorted(before)[2]
    actuator = Actuator(operator, Receipts().store)
    plan = world.plan(actions=(action_for(namespace, live, 3, victims=(victim,)),))
    await actuator.apply(plan, snapshot_of(namespace, live))
    await settled(admin, namespace, 3)
    after = await pods(admin, namespace)
    assert set(before) - {name for name, item in after.items() if "deletionTimestamp" not in item["metadata"]} == {
        victim
    }
    assert all(
        ANNOTATION not in item["metadata"].get("annotations", {}) for name, item in after.items() if name != victim
    )


async def pods(client: KubeClient, namespace: str) -> dict[str, Any]:
    answer = await client.get(f"/api/v1/namespaces/{namespace}/pods")
    return {item["metadata"]["name"]: item for item in answer["items"]}


def engine_snapshot(namespace: str, uid: str = "service-uid", **engine: Any) -> Snapshot:
    variant = world.variant_spec(engine=world.engine(EngineType.VLLM, **engine))
    spec = world.service_spec(f"{namespace}/chat", uid=uid, variants=(variant,))
    state = ServiceState(spec=spec, variants=(VariantState(name="h100", target=TargetState(exists=False)),))
    return world.snapshot(state)


def outcomes(results: list[Any]) -> list[tuple[str, Outcome]]:
    return [(result.what, result.outcome) for result in results]


async def test_an_engine_block_is_created_at_zero_scaled_and_updated_without_touching_replicas(
    admin: KubeClient, operator: KubeClient, namespace: str
) -> None:
    receipts = Receipts()
    actuator = Actuator(operator, receipts.store)
    created = await actuator.reconcile_workloads(engine_snapshot(namespace, env=(("A", "1"), ("B", "2"))))
    assert outcomes(created) == [("deployment", Outcome.DONE), ("service", Outcome.DONE)]
    live = await settled(admin, namespace, 0)
    assert live["spec"]["replicas"] == 0
    assert "ownerReferences" not in live["metadata"]
    assert manager_of_replicas(live) == {"ebbtide-scale"}, "never the manager that applies the rest"

    plan = world.plan(actions=(action_for(namespace, live, 2),))
    await actuator.apply(plan, snapshot_of(namespace, live))
    updated = await actuator.reconcile_workloads(
        engine_snapshot(namespace, image="example.com/engine:2", env=(("A", "1"),))
    )
    live = await seen(admin, namespace)
    container = live["spec"]["template"]["spec"]["containers"][0]
    assert outcomes(updated)[0] == ("deployment", Outcome.DONE)
    assert live["spec"]["replicas"] == 2
    assert container["image"] == "example.com/engine:2"
    assert container["env"] == [{"name": "A", "value": "1"}], "what is no longer declared is gone"
    assert manager_of_replicas(live) == {"ebbtide-scale"}


async def test_nothing_is_written_twice(admin: KubeClient, operator: KubeClient, namespace: str) -> None:
    snapshot = engine_snapshot(namespace)
    await Actuator(operator, Receipts().store).reconcile_workloads(snapshot)
    version = (await settled(admin, namespace, 0))["metadata"]["resourceVersion"]
    again = Actuator(operator, Receipts().store)  # another process: it only looks
    assert outcomes(await again.reconcile_workloads(snapshot)) == [
        ("deployment", Outcome.UNCHANGED),
        ("service", Outcome.UNCHANGED),
    ]
    assert await again.reconcile_workloads(snapshot) == []
    assert (await seen(admin, namespace))["metadata"]["resourceVersion"] == version


async def test_an_orphan_is_adopted_at_its_size(admin: KubeClient, operator: KubeClient, namespace: str) -> None:
    actuator = Actuator(operator, Receipts().store)
    await actuator.reconcile_workloads(engine_snapshot(namespace))
    await patch_replicas(admin, namespace, 3)
    recreated = Actuator(operator, Receipts().store)
    await recreated.reconcile_workloads(engine_snapshot(namespace, uid="another-uid"))
    live = await seen(admin, namespace)
    assert live["spec"]["replicas"] == 3
    assert live["metadata"]["annotations"][SERVICE_UID] == "another-uid"


async def test_a_deployment_of_somebody_else_is_left_alone(
    admin: KubeClient, operator: KubeClient, namespace: str, apply_yaml: ApplyYaml
) -> None:
    apply_yaml(DEPLOYMENT.format(namespace=namespace, replicas=1))
    results = await Actuator(operator, Receipts().store).reconcile_workloads(engine_snapshot(namespace))
    live = await seen(admin, namespace)
    assert outcomes(results)[0] == ("deployment", Outcome.FOREIGN)
    assert "label" in results[0].message
    assert live["spec"]["template"]["spec"]["containers"][0]["image"] == "example.com/engine"


async def test_a_field_that_somebody_else_owns_is_not_forced(
    admin: KubeClient, operator: KubeClient, namespace: str
) -> None:
    actuator = Actuator(operator, Receipts().store)
    await actuator.reconcile_workloads(engine_snapshot(namespace))
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/chat-h100"
    theirs = {"spec": {"progressDeadlineSeconds": 77}}
    await admin.request("PATCH", path, params={"fieldManager": "gitops"}, body=theirs, content_type=MERGE_PATCH)
    results = await actuator.reconcile_workloads(engine_snapshot(namespace, image="example.com/engine:2"))
    assert outcomes(results)[0] == ("deployment", Outcome.FOREIGN)
    assert "gitops" in results[0].message
    assert (await seen(admin, namespace))["spec"]["progressDeadlineSeconds"] == 77


async def service_object(client: KubeClient, namespace: str) -> dict[str, Any]:
    path = f"/apis/ebbtide.dev/v1alpha1/namespaces/{namespace}/inferenceservices/chat"
    live = await client.get(path)
    assert isinstance(live, dict)
    return live


@pytest.mark.parametrize(("policy", "survives"), [("Orphan", True), ("Delete", False)])
async def test_deleting_a_service(
    admin: KubeClient,
    operator: KubeClient,
    namespace: str,
    apply_yaml: ApplyYaml,
    sandbox: Sandbox,
    policy: str,
    survives: bool,
) -> None:
    apply_yaml(SERVICE.format(namespace=namespace, policy=policy))
    raw = await service_object(admin, namespace)
    await Actuator(operator, Receipts().store).reconcile_workloads(
        engine_snapshot(namespace, uid=raw["metadata"]["uid"])
    )
    farewell = Farewell(operator)
    await farewell.sync(raw)
    raw = await service_object(admin, namespace)
    assert raw["metadata"].get("finalizers", []) == ([] if survives else [Farewell.FINALIZER])
    sandbox.kubectl("-n", namespace, "delete", "infs", "chat", "--wait=false")
    if not survives:
        result = await farewell.sync(await service_object(admin, namespace))
        assert result is not None and result.outcome is Outcome.DONE, result
    answer = await admin.get(f"/apis/ebbtide.dev/v1alpha1/namespaces/{namespace}/inferenceservices")
    assert answer["items"] == []
    deployments = (await admin.get(f"/apis/apps/v1/namespaces/{namespace}/deployments"))["items"]
    live = [item for item in deployments if "deletionTimestamp" not in item["metadata"]]
    assert bool(live) is survives


@pytest.mark.parametrize(("policy", "survives"), [("Orphan", True), ("Delete", False)])
async def test_removing_a_variant(
    admin: KubeClient, operator: KubeClient, namespace: str, apply_yaml: ApplyYaml, policy: str, survives: bool
) -> None:
    more = (
        "  - name: l40s\n    pool: h100\n    engine: {type: vLLM, image: example.com/engine, deletionPolicy: Delete}\n"
    )
    apply_yaml(SERVICE.format(namespace=namespace, policy=policy) + more)
    raw = await service_object(admin, namespace)
    actuator, farewell = Actuator(operator, Receipts().store), Farewell(operator)
    await farewell.sync(raw)
    await actuator.reconcile_workloads(engine_snapshot(namespace, uid=raw["metadata"]["uid"], deletion_policy=policy))
    assert await farewell.sync(await service_object(admin, namespace)) is None
    path = f"/apis/ebbtide.dev/v1alpha1/namespaces/{namespace}/inferenceservices/chat"
    remaining = {"spec": {"variants": [raw["spec"]["variants"][1]]}}
    await admin.request("PATCH", path, body=remaining, content_type=MERGE_PATCH)
    result = await farewell.sync(await service_object(admin, namespace))
    assert (result is None) is survives, result
    deployments = (await admin.get(f"/apis/apps/v1/namespaces/{namespace}/deployments"))["items"]
    assert bool([item for item in deployments if "deletionTimestamp" not in item["metadata"]]) is survives


async def test_status_is_accepted_whole_and_keeps_its_transition_times(
    admin: KubeClient, operator: KubeClient, namespace: str, apply_yaml: ApplyYaml
) -> None:
    apply_yaml(SERVICE.format(namespace=namespace, policy="Orphan"))
    raw = await service_object(admin, namespace)
    spec = world.service_spec(f"{namespace}/chat", uid=raw["metadata"]["uid"])
    snapshot = world.snapshot(world.service_state(spec), pools=())
    writer = StatusWriter(operator)
    key = f"{namespace}/chat"
    writer.offer(world.plan(world.service_plan(key), pools=()), snapshot, world.NOW_S, "decision-1")
    report = await writer.drain(world.NOW_S)
    assert (report.written, report.problem) == (1, "")
    first = (await service_object(admin, namespace))["status"]
    assert first["replicas"] == {"observed": 4, "ready": 4, "wanted": 4, "allowed": 4}

    restarted = StatusWriter(operator, previous=lambda kind, key: first)
    broken = world.service_plan(
        key, conditions=(world.condition(status="False", reason_="MetricsStale"), world.condition("Ready"))
    )
    restarted.offer(world.plan(broken, pools=()), snapshot, world.NOW_S + 60, "decision-2")
    assert (await restarted.drain(world.NOW_S + 60)).written == 1
    second = (await service_object(admin, namespace))["status"]
    times = {c["type"]: c["lastTransitionTime"] for c in second["conditions"]}
    before = {c["type"]: c["lastTransitionTime"] for c in first["conditions"]}
    assert {name for name in times if times[name] != before[name]} == {"MetricsFresh"}


async def test_the_largest_status_fits_and_is_accepted(
    admin: KubeClient, operator: KubeClient, namespace: str, apply_yaml: ApplyYaml
) -> None:
    apply_yaml(SERVICE.format(namespace=namespace, policy="Orphan"))
    raw = await service_object(admin, namespace)
    spec = world.service_spec(f"{namespace}/chat", uid=raw["metadata"]["uid"])
    snapshot = world.snapshot(world.service_state(spec), pools=())
    key = f"{namespace}/chat"
    long = "x" * 5000
    capacity = msgspec.structs.replace(world.variant_plan().capacity or pytest.fail(), evidence=long)
    big = world.service_plan(
        key,
        variants=tuple(world.variant_plan(f"variant-{i:02}", capacity=capacity) for i in range(16)),
        reason=world.reason(text=long),
        conditions=tuple(world.condition(f"Type{i}", message=long) for i in range(10)),
    )
    previous = service_status(big, 1, {}, world.NOW_S, "decision-1")
    previous["decisions"] = [{**previous["decisions"][0], "id": f"d{i}", "to": i} for i in range(10)]
    writer = StatusWriter(operator, previous=lambda kind, key: previous)
    writer.offer(world.plan(big, pools=()), snapshot, world.NOW_S, "decision-2")
    assert (await writer.drain(world.NOW_S)).problem == ""
    live = await service_object(admin, namespace)
    assert len(json.dumps(live["status"], separators=(",", ":"))) <= MAX_BYTES
    assert len(live["status"]["variants"]) == 16


async def test_events_are_accepted_and_name_the_object(
    admin: KubeClient, operator: KubeClient, namespace: str, apply_yaml: ApplyYaml, sandbox: Sandbox
) -> None:
    apply_yaml(SERVICE.format(namespace=namespace, policy="Orphan"))
    raw = await service_object(admin, namespace)
    spec = world.service_spec(f"{namespace}/chat", uid=raw["metadata"]["uid"])
    snapshot = world.snapshot(world.service_state(spec))
    problems: list[str] = []
    recorder = EventRecorder(operator, dropped=problems.append)
    action = world.action(service=f"{namespace}/chat")
    notes = cycle_events(world.plan(world.service_plan(f"{namespace}/chat")), snapshot, [action])
    assert await recorder.emit(notes, world.NOW_S) == 1, problems
    assert "4 -> 6" in sandbox.kubectl("-n", namespace, "events", "--for", "infs.v1alpha1.ebbtide.dev/chat")


async def test_an_invalid_write_is_the_servers_own_word(
    admin: KubeClient, operator: KubeClient, namespace: str
) -> None:
    snapshot = engine_snapshot(namespace, pod_template_json=json.dumps({"spec": {"restartPolicy": "Sometimes"}}))
    [deployment, _] = await Actuator(operator, Receipts().store).reconcile_workloads(snapshot)
    assert deployment.outcome is Outcome.INVALID
    assert "Sometimes" in deployment.message


async def test_deleting_the_crd_leaves_the_fleet_running_even_with_deletion_policy_delete(own_sandbox: Sandbox) -> None:
    own_sandbox.kubectl("create", "namespace", "team")
    own_sandbox.apply(yaml.safe_load(SERVICE.format(namespace="team", policy="Delete")))
    async with KubeClient(own_sandbox.operator_kubeconfig()) as operator:
        raw = await service_object(operator, "team")
        snapshot = engine_snapshot("team", uid=raw["metadata"]["uid"])
        await Actuator(operator, Receipts().store).reconcile_workloads(snapshot)
        await Farewell(operator).sync(raw)
        own_sandbox.kubectl("delete", "crd", Farewell.CRD, "--wait=false")
        for _ in range(50):  # the API server marks every object of the kind for deletion
            raw = await service_object(operator, "team")
            if "deletionTimestamp" in raw["metadata"]:
                break
            await asyncio.sleep(0.1)
        result = await Farewell(operator).sync(raw)
        assert result is not None and result.outcome is Outcome.DONE, result
        own_sandbox.kubectl("wait", "--for=delete", f"crd/{Farewell.CRD}", "--timeout=20s")
        assert "deletionTimestamp" not in (await seen(operator, "team"))["metadata"]
