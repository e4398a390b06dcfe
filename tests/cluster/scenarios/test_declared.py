"""What is declared: faults between objects, missing prices, kinds of targets, and Deployments that Ebbtide builds.

All services live in one namespace under one operator. Pressure comes from declared minimums, not from load.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.rig import POOL_LABEL, Json, Rig, pool, stays, until

FREE, UNPRICED, NOWHERE, EXOTIC = "declared-h100", "declared-unpriced", "declared-nowhere", "declared-exotic"
FEBRUARY, OTHER = "declared-february", "declared-a100"
H100, A100 = "h100-on-demand", "a100-on-prem"
FAULTS = {
    "no-pool": ("PoolNotFound", ("declared-nowhere", "create it")),
    "no-scale": ("TargetNotScalable", ("DaemonSet", "such as a Deployment")),
    "no-target": ("TargetNotFound", ("no-target", "create it, or correct scaleTargetRef")),
    "elsewhere": ("PoolMismatch", (f"{POOL_LABEL}=a100-on-prem", f"{POOL_LABEL}={H100}", "change one of them")),
    "no-gpus": ("GPUsUnknown", ("gpusPerReplica",)),
}


def exotic_pool() -> Json:
    window = {"cron": "0 22 * * *", "timeZone": "Mars/Olympus_Mons", "duration": "8h", "perGPUHour": "0.70"}
    found = pool(EXOTIC, H100, accelerator="H100-80GB")
    found["spec"]["price"]["schedule"] = [window]
    return found


def february_pool() -> Json:
    """A window that never opens: the API server cannot know it."""
    window = {"cron": "0 0 30 2 *", "timeZone": "UTC", "duration": "8h", "perGPUHour": "0.70"}
    found = pool(FEBRUARY, H100, accelerator="H100-80GB")
    found["spec"]["price"]["schedule"] = [window]
    return found


def refused_template(rig: Rig) -> Json:
    """An overlay that the schema lets through and the API server's Deployment does not."""
    overlay = {"spec": {"containers": [{"name": "engine", "imagePullPolicy": "Sometimes"}]}}
    engine = {"type": "vLLM", "image": "vllm", "podTemplate": overlay}
    return service(rig, "refused", [{"name": "main", "pool": FREE, "engine": engine}], minReplicas=1)


def built(rig: Rig, name: str, policy: str, pool_name: str = FREE) -> Json:
    """A service whose one Deployment Ebbtide builds: labels and annotations of the sandbox come by the overlay."""
    overlay = {
        "metadata": {
            "labels": {"sandbox.ebbtide.dev/route": name},
            "annotations": {"sandbox.ebbtide.dev/startup": "2s", "sandbox.ebbtide.dev/drain": "2s"},
        }
    }
    engine = {"type": "vLLM", "image": "vllm", "deletionPolicy": policy, "podTemplate": overlay}
    return service(rig, name, [{"name": "main", "pool": pool_name, "engine": engine}], minReplicas=2)


def foreign_deployment(rig: Rig) -> list[Json]:
    """A Deployment of the name that one variant's would have, beside another variant whose target is its own."""
    variants = [
        {"name": "main", "pool": OTHER, "engine": {"type": "vLLM", "image": "vllm"}},
        {
            "name": "own",
            "pool": OTHER,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "own"},
        },
    ]
    return [
        rig.target_object("mine-main", A100, route="nowhere"),
        rig.target_object("own", A100, route="mine"),
        service(rig, "mine", variants, minReplicas=2),
    ]


def foreign_service(rig: Rig) -> list[Json]:
    spec = {"selector": {"app": "x"}, "ports": [{"port": 80}]}
    meta = {"name": "fronted", "namespace": rig.namespace}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec},
        built(rig, "fronted", "Orphan", OTHER),
    ]


def beside(rig: Rig) -> list[Json]:
    """A Deployment without a nodeSelector, whose affinity leads its pods to the nodes of another pool."""
    term = {"matchExpressions": [{"key": POOL_LABEL, "operator": "In", "values": [A100]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    return [
        rig.target_object("beside", H100, route="beside", nodeSelector={}, affinity={"nodeAffinity": required}),
        rig.service_object(("main", FREE, "beside"), name="beside"),
    ]


def paused(rig: Rig) -> list[Json]:
    target = rig.target_object("halted", A100)
    target["spec"]["paused"] = True
    return [target, rig.service_object(("main", OTHER, "halted"), name="halted")]


def cutting(rig: Rig) -> list[Json]:
    """A vLLM as its own documentation starts it: at a scale-down it would abort what it answers."""
    engine = {
        "name": "engine",
        "image": "vllm/vllm-openai:v0.32.0",
        "args": ["--model=small"],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    return [
        rig.target_object("cutting", A100, route="cutting", containers=[engine]),
        rig.service_object(("main", OTHER, "cutting"), name="cutting", mode="Recommend"),
    ]


def service(rig: Rig, name: str, variants: list[Json], **scaling: Any) -> Json:
    found = rig.service_object(name=name, scaling=scaling)
    found["spec"]["variants"] = variants
    return found


def objects(rig: Rig) -> list[Json]:
    h100 = {"accelerator": "H100-80GB"}
    least: Json = {"scaling": {"minReplicas": 2}}
    return [
        pool(FREE, H100, **h100),
        pool(UNPRICED, H100, price=None, **h100),
        pool(OTHER, A100),
        exotic_pool(),
        rig.target_object("no-pool", H100),
        rig.service_object(("main", NOWHERE, "no-pool"), name="no-pool", **least),
        rig.target_object("no-scale", H100, kind="DaemonSet", nodeSelector={"no-such": "node"}),
        rig.service_object(("main", FREE, "no-scale"), name="no-scale", kind="DaemonSet", **least),
        rig.service_object(("main", FREE, "no-target"), name="no-target", **least),
        rig.target_object("elsewhere", "a100-on-prem"),
        rig.service_object(("main", FREE, "elsewhere"), name="elsewhere", **least),
        rig.target_object("no-gpus", H100, gpus=0),
        rig.service_object(("main", FREE, "no-gpus"), name="no-gpus", **least),
        rig.target_object("no-price", H100, route="no-price"),
        rig.service_object(("main", UNPRICED, "no-price"), name="no-price", scaling={"minReplicas": 3}),
        rig.target_object("advised", H100, route="advised"),
        rig.service_object(("main", FREE, "advised"), name="advised", mode="Recommend", scaling={"minReplicas": 3}),
        rig.target_object("ordered", H100, kind="StatefulSet", route="ordered"),
        rig.service_object(("main", FREE, "ordered"), name="ordered", kind="StatefulSet", scaling={"minReplicas": 3}),
        february_pool(),
        rig.target_object("february", H100, route="february"),
        rig.service_object(("main", FEBRUARY, "february"), name="february", scaling={"minReplicas": 3}),
        rig.target_object("moment", H100, route="moment"),
        rig.service_object(
            ("main", FREE, "moment"),
            name="moment",
            scaling={"pause": {"until": "2026-01-01T00:00:00+24:00"}},
        ),
        refused_template(rig),
        built(rig, "kept", "Orphan"),
        built(rig, "dropped", "Delete"),
        *foreign_deployment(rig),
        *foreign_service(rig),
        *beside(rig),
        *paused(rig),
        *cutting(rig),
    ]


@pytest.fixture(scope="module")
def rig(shared_rig: Rig) -> Iterator[Rig]:
    shared_rig.apply(*objects(shared_rig))
    shared_rig.start_operator()
    return shared_rig


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_between_objects_is_a_condition_that_says_how_to_mend_it(rig: Rig, name: str) -> None:
    reason, words = FAULTS[name]
    condition = until(lambda: rig.condition("TargetResolved", name), f"{name} has a condition")
    assert (condition["status"], condition["reason"]) == ("False", reason)
    for word in words:
        assert word in condition["message"]
    assert rig.condition("Acting", name)["status"] == "False"
    assert rig.scale_writes(name) == []


def test_a_time_zone_that_does_not_exist_is_a_condition_of_the_pool(rig: Rig) -> None:
    ready = until(lambda: pool_condition(rig, EXOTIC, "Ready"), "the pool has a condition")
    assert (ready["status"], ready["reason"]) == ("False", "InvalidTimeZone")
    assert "Mars/Olympus_Mons" in ready["message"]


def test_a_schedule_that_no_calendar_can_follow_is_a_condition_of_the_pool_and_of_what_is_on_it(rig: Rig) -> None:
    ready = until(lambda: pool_condition(rig, FEBRUARY, "Ready"), "the pool has a condition")
    assert (ready["status"], ready["reason"]) == ("False", "InvalidSchedule")
    assert "'0 0 30 2 *'" in ready["message"]
    priced = until(lambda: rig.condition("PricesKnown", "february"), "the service has one")
    assert (priced["status"], priced["reason"]) == ("False", "PriceUnknown")
    assert rig.condition("TargetResolved", "february")["status"] == "True", "the pool is there"
    limited = rig.condition("Limited", "february")
    assert "'0 0 30 2 *'" in limited["message"]


def test_a_service_that_cannot_be_read_says_so_and_holds_while_others_are_planned(rig: Rig) -> None:
    ready = until(lambda: rig.condition("Ready", "moment"), "a condition")
    assert (ready["status"], ready["reason"]) == ("False", "InvalidSpec")
    assert "spec.scaling.pause.until" in ready["message"]
    assert "+24:00" in ready["message"]
    assert rig.replicas("moment") == 1
    until(lambda: rig.replicas("ordered", "statefulset") == 3, "the others go on")
    assert rig.scale_writes("moment") == []
    log = rig.operator_log(rig.operators[0])
    assert "an object cannot be read" in log
    repaired = {"spec": {"scaling": {"pause": None}}}
    rig.sandbox.kubectl(
        "-n", rig.namespace, "patch", "inferenceservice", "moment", "--type=merge", "-p", json.dumps(repaired)
    )
    until(lambda: rig.condition("Ready", "moment")["reason"] != "InvalidSpec", "mended, it is planned")
    assert rig.status("moment")["replicas"]["observed"] == 1, "and its numbers are back"


def test_a_pod_template_that_the_api_server_refuses_is_said_in_its_words(rig: Rig) -> None:
    resolved = until(
        lambda: (found := rig.condition("TargetResolved", "refused")).get("reason") == "TemplateRefused" and found,
        "a condition with the refusal",
    )
    assert resolved["status"] == "False"
    assert "imagePullPolicy" in resolved["message"]
    assert "correct the variant's engine block" in resolved["message"]
    event = until(lambda: rig.events("TemplateRefused"), "an Event")[0]
    assert "imagePullPolicy" in event.get("note", event.get("message", ""))


def pool_condition(rig: Rig, name: str, kind: str) -> Json:
    conditions = rig.get("gpupool", name).get("status", {}).get("conditions", [])
    found: Json = next((item for item in conditions if item["type"] == kind), {})
    return found


def test_without_a_price_nothing_is_raised_and_the_pool_is_named(rig: Rig) -> None:
    priced = until(lambda: rig.condition("PricesKnown", "no-price"), "a condition")
    assert (priced["status"], priced["reason"]) == ("False", "PriceUnknown")
    assert UNPRICED in priced["message"]
    stays(lambda: rig.replicas("no-price") == 1, "the minimum of 3 is not bought blindly", 5)
    assert rig.scale_writes("no-price") == []
    price = {"spec": {"price": {"perGPUHour": "2.50", "currency": "USD"}}}
    rig.sandbox.kubectl("patch", "gpupool", UNPRICED, "--type=merge", "-p", json.dumps(price))
    until(lambda: rig.replicas("no-price") == 3, "with a price it is")


def test_recommend_says_what_it_would_do_and_writes_nothing(rig: Rig) -> None:
    until(lambda: rig.status("advised").get("replicas", {}).get("allowed") == 3, "the recommendation")
    acting = rig.condition("Acting", "advised")
    assert (acting["status"], acting["reason"]) == ("False", "ModeRecommend")
    event = until(lambda: rig.events("Recommended"), "an Event")[0]
    assert "main 1 -> 3" in event.get("note", event.get("message", ""))
    mine = [write for write in rig.writes(name="advised") if write.subresource != "status"]
    assert mine == [], "nothing but the service's own status"


def test_a_stateful_set_is_scaled_through_its_scale_subresource(rig: Rig) -> None:
    until(lambda: rig.replicas("ordered", "statefulset") == 3, "the minimum")
    assert [write.resource for write in rig.scale_writes("ordered")] == ["statefulsets"]


def test_a_deployment_is_built_for_an_engine_block_at_zero_and_then_scaled(rig: Rig) -> None:
    until(lambda: rig.replicas("kept-main") == 2, "built and scaled")
    until(lambda: rig.ready("kept-main") == 2, "its pods start")
    live = rig.get("deployment", "kept-main")
    assert live["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "ebbtide"
    assert "ownerReferences" not in live["metadata"], "nothing may take the fleet along"
    pod = live["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {POOL_LABEL: H100}
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert rig.get("service", "kept")["spec"]["selector"] == {"ebbtide.dev/service": "kept"}
    created, scaled = rig.writes("deployments", "", "kept-main")[0], rig.scale_writes("kept-main")[0]
    assert created.verb == "create"
    assert created.time_s <= scaled.time_s
    assert scaled.body["spec"]["replicas"] == 2


def test_a_deployment_of_somebody_elses_is_left_alone_while_the_other_variant_is_scaled(rig: Rig) -> None:
    until(lambda: rig.replicas("own") == 2, "the other variant brings the minimum about")
    resolved = rig.condition("TargetResolved", "mine")
    assert (resolved["status"], resolved["reason"]) == ("False", "TargetForeign")
    assert f"Deployment {rig.namespace}/mine-main exists and is not Ebbtide's" in resolved["message"]
    assert rig.condition("Acting", "mine")["status"] == "True"
    assert rig.events("TargetForeign")
    assert rig.replicas("mine-main") == 1
    assert rig.writes(name="mine-main") == []
    assert [write.name for write in rig.writes("pods") if write.name.startswith("mine-main-")] == []

    rig.delete("deployment", "mine-main")
    until(lambda: rig.exists("deployment", "mine-main"), "once it is gone, Ebbtide builds its own at once", 30)
    until(lambda: rig.condition("TargetResolved", "mine")["status"] == "True", "and the condition is true")


def test_a_service_of_somebody_elses_is_said_where_it_belongs_and_replicas_are_scaled(rig: Rig) -> None:
    until(lambda: rig.replicas("fronted-main") == 2, "built and scaled")
    resolved = until(
        lambda: (found := rig.condition("TargetResolved", "fronted")).get("reason") == "WriteRefused" and found,
        "the refused Service is said",
    )
    assert resolved["status"] == "False"
    assert f"Service {rig.namespace}/fronted exists and is not Ebbtide's" in resolved["message"]
    acting = rig.condition("Acting", "fronted")
    assert (acting["status"], acting["reason"]) == ("True", "Acting"), "it does act"
    assert rig.writes("services", name="fronted") == []


def test_pods_that_run_beside_their_pool_are_said_with_whose_prices_are_meant(rig: Rig) -> None:
    resolved = until(
        lambda: (found := rig.condition("TargetResolved", "beside")).get("reason") == "PodsOutsidePool" and found,
        "a condition",
    )
    assert resolved["status"] == "True"
    assert f"1 of 1 pods of variant main run outside of pool {FREE}" in resolved["message"]
    assert f"1 on nodes of pool {OTHER}" in resolved["message"]


def test_a_paused_deployment_without_pods_is_told_to_be_resumed(rig: Rig) -> None:
    ready = until(
        lambda: (found := rig.condition("Ready", "halted")).get("reason") == "PodsMissing" and found, "pods are missing"
    )
    assert "kubectl rollout resume deployment halted" in ready["message"]
    assert rig.pods("halted") == []


def test_an_engine_that_would_cut_answers_off_is_named_before_it_does(rig: Rig) -> None:
    drains = until(
        lambda: (found := rig.condition("EngineDrains", "cutting")).get("status") == "False" and found, "a condition"
    )
    assert drains["reason"] == "EngineNotDraining"
    assert "--shutdown-timeout" in drains["message"]


def test_deletion_policy_orphan_leaves_the_deployment_and_delete_takes_it_along(rig: Rig) -> None:
    until(lambda: rig.replicas("dropped-main") == 2, "built and scaled")
    until(lambda: rig.get("inferenceservice", "dropped")["metadata"].get("finalizers"), "a finalizer for Delete")
    assert "finalizers" not in rig.get("inferenceservice", "kept")["metadata"]
    for name in ("dropped", "kept"):
        rig.delete("inferenceservice", name, "--wait=false")
    deleted_s = time.time()
    until(lambda: not rig.exists("deployment", "dropped-main"), "Delete")
    until(lambda: not rig.exists("inferenceservice", "dropped"), "the finalizer is gone, too")
    stays(lambda: rig.replicas("kept-main") == 2, "Orphan", 3)
    assert rig.scale_writes("kept-main", since_s=deleted_s) == []
