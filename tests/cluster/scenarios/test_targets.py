"""Targets beyond Deployments: kinds known only by discovery, groups, ordinals, and what a ScaledObject keeps us from.

The kinds are installed by the tests with the groups, versions and scale paths of the real ones. Nobody runs their
controllers here, so `Fleet` does what those would: pods and status for the replicas that are declared. The pods are
emulated engines like any others.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from ebbtide.errors import SandboxError
from ebbtide.sandbox.audit import audit_writes
from tests.cluster.conftest import ROOT
from tests.cluster.rig import OPERATOR_USER, Json, Rig, pool, stays, until

A100, L40S, H100 = "kinds-a100", "kinds-l40s", "kinds-h100"
SERVING, LATE, LWS, KEDA = "serving.example.com", "late.example.com", "leaderworkerset.x-k8s.io", "keda.sh"
GROUP_NAME, GROUP_INDEX, WORKER_INDEX = (
    f"leaderworkerset.sigs.k8s.io/{part}" for part in ("name", "group-index", "worker-index")
)
GROUP_SIZE, GPUS_PER_POD = 3, 4
FAST: Json = {"objectives": {"timeToFirstToken": "2s", "interTokenLatency": "25ms", "attainment": "95"}}


def definition(group: str, kind: str, version: str = "v1", selector: str = "", plural: str = "") -> Json:
    """A CRD that takes anything; with a scale subresource where `selector`, its labelSelectorPath, is given."""
    plural = plural or f"{kind.lower()}s"
    scale = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    numbers = {"spec": anything | {"properties": {"replicas": {"type": "integer"}}}, "status": anything}
    served = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": numbers}},
        "subresources": {"status": {}, **({"scale": scale | {"labelSelectorPath": selector}} if selector else {})},
    }
    names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [served]},
    }


def rights(group: str = SERVING, plural: str = "modelservers", on_scale: str = "get, patch") -> list[Json]:
    """The example that people with a kind of their own are given, for that kind."""
    text = (ROOT / "manifests" / "examples" / "rights-own-kind.yaml").read_text()
    for there, here in ((SERVING, group), ("modelservers", plural), ("[get, patch]", f"[{on_scale}]")):
        text = text.replace(there, here)
    return list(yaml.safe_load_all(text))


@dataclass
class Fleet:
    """Plays the controller of one object: `bring_about` makes its pods and status what its spec asks for.

    With `size` above 1 a replica is a group as LeaderWorkerSet makes it: a leader that serves and workers that do not.
    """

    rig: Rig
    resource: str  # modelservers.serving.example.com
    name: str
    size: int = 1

    def bring_about(self) -> int:
        """Pods that exist afterwards, or are still on their way out."""
        live = self.rig.get(self.resource, self.name)
        replicas = live["spec"]["replicas"]
        wanted = {pod["metadata"]["name"]: pod for index in range(replicas) for pod in self._replica(live, index)}
        there = {pod["metadata"]["name"]: pod["metadata"] for pod in self.rig.pods(self.name)}
        for name in there.keys() - wanted.keys():
            if "deletionTimestamp" not in there[name]:
                self.rig.delete("pod", name, "--wait=false")
        if missing := [pod for name, pod in wanted.items() if name not in there]:
            self.rig.apply(*missing)
        status = {"replicas": replicas, "observedGeneration": live["metadata"]["generation"], **self._selector()}
        if live.get("status") != status:
            patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
            self.rig.sandbox.kubectl("-n", self.rig.namespace, "patch", self.resource, self.name, *patch)
        return len(there.keys() | wanted.keys())

    def declared(self) -> int:
        """spec.replicas, after the pods were brought in line with it."""
        self.bring_about()
        return self.rig.replicas(self.name, self.resource)

    def ready(self) -> int:
        """Ready pods, after they were brought in line."""
        self.bring_about()
        conditions = [pod["status"].get("conditions", []) for pod in self.rig.pods(self.name)]
        return sum(any(item["type"] == "Ready" and item["status"] == "True" for item in found) for found in conditions)

    def _selector(self) -> dict[str, str]:
        if self.size == 1:
            return {"selector": f"app={self.name}"}
        return {"hpaPodSelector": f"{GROUP_NAME}={self.name},{WORKER_INDEX}=0"}  # leaders alone, as the real one says

    def _replica(self, live: Json, index: int) -> list[Json]:
        if self.size == 1:
            return [self._pod(live["spec"]["template"], f"{self.name}-{index}", {})]
        pods = []
        for worker in range(self.size):
            group = live["spec"]["leaderWorkerTemplate"]
            labels = {GROUP_NAME: self.name, GROUP_INDEX: str(index), WORKER_INDEX: str(worker)}
            suffix, template = (f"-{worker}", "workerTemplate") if worker else ("", "leaderTemplate")
            pods.append(self._pod(group[template], f"{self.name}-{index}{suffix}", labels))
        return pods

    def _pod(self, template: Json, name: str, labels: dict[str, str]) -> Json:
        meta = template["metadata"]
        found = {"name": name, "namespace": self.rig.namespace, "labels": meta["labels"] | labels}
        found["annotations"] = meta["annotations"]
        return {"apiVersion": "v1", "kind": "Pod", "metadata": found, "spec": template["spec"]}


def custom(rig: Rig, group: str, kind: str, name: str, **spec: Any) -> Json:
    meta = {"name": name, "namespace": rig.namespace}
    return {"apiVersion": f"{group}/v1", "kind": kind, "metadata": meta, "spec": spec}


def aimed(rig: Rig, name: str, pool_name: str, group: str, kind: str, **more: Any) -> Json:
    """A service whose one variant has the target `name` of that kind."""
    found = rig.service_object(("main", pool_name, name), name=name, **more)
    found["spec"]["variants"][0]["scaleTargetRef"] |= {"apiVersion": f"{group}/v1", "kind": kind}
    return found


def server(rig: Rig, name: str, nodes_of: str, group: str = SERVING, kind: str = "ModelServer") -> Json:
    template = rig.target_object(name, nodes_of, route=name)["spec"]["template"]
    return custom(rig, group, kind, name, replicas=1, template=template)


def groups(rig: Rig, name: str) -> Json:
    """A LeaderWorkerSet of one group: 12 GPUs, more than any node of the pool has."""
    leader = rig.target_object(name, "h100-on-demand", route=name, gpus=GPUS_PER_POD)["spec"]["template"]
    leader["spec"]["nodeSelector"] = PRODUCT
    worker = json.loads(json.dumps(leader))
    worker["metadata"] = {
        "labels": {"app": name},
        "annotations": {f"{EMULATED}/startup": "1s", f"{EMULATED}/drain": "1s"},
    }
    template = {"size": GROUP_SIZE, "leaderTemplate": leader, "workerTemplate": worker}
    return custom(rig, LWS, "LeaderWorkerSet", name, replicas=1, leaderWorkerTemplate=template)


EMULATED = "sandbox.ebbtide.dev"
PRODUCT = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}


def objects(rig: Rig) -> list[Json]:
    h100 = pool(H100, "", accelerator="H100-80GB")
    h100["spec"]["nodeSelector"] = PRODUCT  # three nodes of 8: two groups, each across nodes
    scaled = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject"}
    scaled["metadata"] = {"name": "by-queue", "namespace": rig.namespace}  # type: ignore[assignment]
    return [
        pool(A100, "a100-on-prem"),
        pool(L40S, "l40s-on-demand", accelerator="L40S", price="0.50"),
        h100,
        server(rig, "foreign", "a100-on-prem"),
        aimed(rig, "foreign", A100, SERVING, "ModelServer", capacity="10", scaling={"maxReplicas": 4}, **FAST),
        groups(rig, "grouped"),
        aimed(rig, "grouped", H100, LWS, "LeaderWorkerSet", capacity="10", scaling={"maxReplicas": 3}),
        custom(rig, SERVING, "BareServer", "bare", replicas=1),
        aimed(rig, "bare", A100, SERVING, "BareServer", scaling={"minReplicas": 2}),
        aimed(rig, "late", L40S, LATE, "LateServer", scaling={"minReplicas": 2}),
        rig.target_object("ordered", "a100-on-prem", 3, kind="StatefulSet", route="ordered"),
        rig.service_object(("main", A100, "ordered"), name="ordered", kind="StatefulSet"),
        rig.target_object("queued", "l40s-on-demand", 1, route="queued"),
        rig.service_object(("main", L40S, "queued"), name="queued", scaling={"minReplicas": 2}),
        {**scaled, "spec": {"scaleTargetRef": {"name": "queued"}, "triggers": []}},
    ]


DEFINITIONS = [
    definition(SERVING, "ModelServer", selector=".status.selector"),
    definition(SERVING, "BareServer"),
    definition(LWS, "LeaderWorkerSet", selector=".status.hpaPodSelector"),
    definition(KEDA, "ScaledObject", "v1alpha1"),
]
LATE_DEFINITION = definition(LATE, "LateServer", selector=".status.selector")


@pytest.fixture(scope="module")
def rig(shared_rig: Rig) -> Iterator[Rig]:
    shared_rig.apply(*DEFINITIONS, *rights())
    try:
        shared_rig.apply(*objects(shared_rig))
        foreign(shared_rig).bring_about()
        grouped(shared_rig).bring_about()
        shared_rig.start_operator()
        for name, per_second in (("foreign", 25.0), ("grouped", 4.0)):
            shared_rig.load(per_second, 240.0, name)
        yield shared_rig
    finally:  # the sandbox is shared: no other test is to find these kinds
        for kind in ("clusterrole", "clusterrolebinding"):
            remove(shared_rig, kind, "ebbtide-modelservers", "ebbtide-lateservers")
        remove(shared_rig, "crd", *(item["metadata"]["name"] for item in (*DEFINITIONS, LATE_DEFINITION)))


def remove(rig: Rig, *arguments: str) -> None:
    with contextlib.suppress(SandboxError):
        rig.sandbox.kubectl("delete", *arguments, "--ignore-not-found", "--wait=false")


def foreign(rig: Rig) -> Fleet:
    return Fleet(rig, f"modelservers.{SERVING}", "foreign")


def grouped(rig: Rig) -> Fleet:
    return Fleet(rig, f"leaderworkersets.{LWS}", "grouped", GROUP_SIZE)


def acting(rig: Rig, name: str, reason: str) -> Json | None:
    condition = rig.condition("Acting", name)
    return condition if condition.get("reason") == reason else None


def unresolved(rig: Rig, name: str, reason: str) -> str:
    condition = rig.condition("TargetResolved", name)
    return str(condition["message"]) if condition.get("reason") == reason else ""


def writers_of_replicas(live: Json) -> set[tuple[str, str]]:
    """(field manager, subresource) of spec.replicas."""
    return {
        (entry["manager"], entry.get("subresource", ""))
        for entry in live["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    }


def with_managers(rig: Rig, resource: str, name: str) -> Json:
    text = rig.sandbox.kubectl("-n", rig.namespace, "get", resource, name, "-o", "json", "--show-managed-fields")
    live: Json = json.loads(text)
    return live


def test_a_scaled_object_is_a_conflict_from_the_first_cycle_on_and_nothing_is_written(rig: Rig) -> None:
    conflict = until(lambda: acting(rig, "queued", "TargetConflict"), "the ScaledObject is seen")
    assert conflict["status"] == "False"
    assert "ScaledObject by-queue" in conflict["message"]
    assert rig.writes(name="queued", resource="deployments") == [], "not even before it was seen"


def test_a_kind_without_a_scale_subresource_is_a_condition_that_says_what_to_name_instead(rig: Rig) -> None:
    message = until(lambda: unresolved(rig, "bare", "TargetNotScalable"), "a condition")
    assert message.count("variant main") == 1
    assert f"BareServer of {SERVING}/v1" in message
    assert "no scale subresource" in message
    assert "such as a Deployment" in message
    assert rig.condition("Acting", "bare")["status"] == "False"
    assert rig.scale_writes("bare") == []


def test_a_leader_worker_set_is_scaled_by_groups_whose_leader_answers_for_the_workers(rig: Rig) -> None:
    fleet = grouped(rig)
    until(lambda: fleet.ready() == GROUP_SIZE, "the first group is ready")
    until(lambda: rig.condition("MetricsFresh", "grouped").get("status") == "True", "workers need no metrics", 90)
    until(lambda: rig.variant("main", "grouped").get("ready") == 1, "three ready pods are one ready replica")
    rate = until(lambda: float(rig.status("grouped").get("demand", {}).get("requestsPerSecond", 0)), "demand")
    assert rate < 8.0, "4 requests/s arrive at the leader; workers do not multiply them"

    rig.patch_service({"spec": {"scaling": {"minReplicas": 3}}}, "grouped")
    until(lambda: fleet.declared() == 2, "24 GPUs are two groups of 12, each across nodes of 8")
    until(lambda: fleet.ready() == 2 * GROUP_SIZE, "both groups find their GPUs")
    until(lambda: rig.variant("main", "grouped").get("ready") == 2, "six ready pods are two ready replicas")
    stays(lambda: fleet.declared() == 2, "a third group has no GPUs", 4)
    rig.patch_service({"spec": {"scaling": {"minReplicas": 1}}}, "grouped")


def test_a_foreign_kind_is_found_by_discovery_and_scaled_by_load_through_its_scale_subresource(rig: Rig) -> None:
    fleet = foreign(rig)
    until(lambda: fleet.declared() >= 3, "25 requests/s want at least 3 A100 replicas", 90)
    assert {write.resource for write in rig.scale_writes("foreign")} == {"modelservers"}
    assert ("ebbtide-scale", "scale") in writers_of_replicas(with_managers(rig, fleet.resource, "foreign"))
    touched = {write.subresource for write in rig.writes("modelservers")}
    assert touched == {"scale"}, "the object itself is never written to"
    until(lambda: fleet.ready() >= 3, "its controller makes the pods, and they serve")
    until(lambda: rig.variant("main", "foreign").get("ready", 0) >= 3, "they are found by the selector of /scale")
    assert rig.condition("TargetResolved", "foreign")["status"] == "True"


def pods_marked(rig: Rig, prefix: str) -> list[str]:
    """Pods that Ebbtide wrote to: the deletion cost is all it ever writes there."""
    return [write.name for write in rig.writes("pods") if write.name.startswith(f"{prefix}-")]


def test_a_kind_installed_later_is_found_and_what_rights_it_needs_is_said_step_by_step(rig: Rig) -> None:
    message = until(lambda: unresolved(rig, "late", "TargetNotFound"), "the kind is not served")
    assert f"no kind LateServer of {LATE}/v1" in message
    assert "install its CRD" in message

    rig.apply(LATE_DEFINITION)
    rig.apply(server(rig, "late", "l40s-on-demand", LATE, "LateServer"))
    message = until(lambda: unresolved(rig, "late", "TargetUnreadable"), "it is found without a restart")
    assert "get, list, watch on lateservers and get, patch on lateservers/scale" in message
    assert f'group "{LATE}"' in message
    assert rig.condition("Acting", "late")["status"] == "False"

    rig.apply(*rights(LATE, "lateservers", "get"))
    refused = until(lambda: acting(rig, "late", "WriteRefused"), "it may be read, but not scaled")
    assert refused["status"] == "False"
    assert 'cannot patch resource "lateservers/scale"' in refused["message"]
    assert rig.scale_writes("late") == []

    rig.apply(*rights(LATE, "lateservers"))
    until(lambda: rig.replicas("late", f"lateservers.{LATE}") == 2, "with all rights the minimum is brought about")
    until(lambda: acting(rig, "late", "Acting"), "and the condition is true again")


def test_without_the_scaled_object_the_target_is_ebbtides_again(rig: Rig) -> None:
    stays(lambda: rig.replicas("queued") == 1, "hands off", 2)
    mine = audit_writes(rig.sandbox.audit_log, OPERATOR_USER, accepted_only=False)
    assert [w for w in mine if (w.namespace, w.name, w.subresource) == (rig.namespace, "queued", "scale")] == []
    rig.delete("scaledobject", "by-queue")
    until(lambda: rig.replicas("queued") == 2, "the minimum is brought about")
    until(lambda: acting(rig, "queued", "Acting"), "and the condition says so")


def test_a_stateful_set_goes_down_by_ordinal_and_no_pod_is_marked(rig: Rig) -> None:
    until(lambda: rig.replicas("ordered", "statefulset") == 1, "two of three idle replicas go", 120)
    assert {write.resource for write in rig.scale_writes("ordered")} == {"statefulsets"}
    until(lambda: [pod["metadata"]["name"] for pod in rig.pods("ordered")] == ["ordered-0"], "the lowest ordinal stays")
    assert pods_marked(rig, "ordered") == []


def test_a_leader_worker_set_goes_down_by_whole_groups_and_no_pod_is_marked(rig: Rig) -> None:
    fleet = grouped(rig)
    until(lambda: fleet.declared() == 1, "4 requests/s need one group", 120)
    assert [write.resource for write in rig.scale_writes("grouped")] == ["leaderworkersets"] * 2
    until(lambda: fleet.bring_about() == GROUP_SIZE, "the group of the highest ordinal is gone")
    assert {pod["metadata"]["labels"][GROUP_INDEX] for pod in rig.pods("grouped")} == {"0"}
    assert pods_marked(rig, "grouped") == []
