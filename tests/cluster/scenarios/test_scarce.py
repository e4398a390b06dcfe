"""Pools that do not deliver: what runs there stops counting, status says why, and the next variant gets the demand.

All services live in one namespace under one operator, each with a load of its own and a dearer second variant.
"""

import json
from collections.abc import Iterator

import pytest

from ebbtide.sandbox import nodes
from ebbtide.sandbox.sandbox import Sandbox
from tests.cluster.rig import Json, Rig, pool, until

L40S, A100, RESERVE, SPOT, H100 = "scarce-l40s", "scarce-a100", "scarce-reserve", "scarce-spot", "scarce-h100"
NODES = {
    L40S: "l40s-on-demand",
    A100: "a100-on-prem",
    RESERVE: "a100-on-prem",
    SPOT: "h100-spot",
    H100: "h100-on-demand",
}
FAST: Json = {"objectives": {"timeToFirstToken": "2s", "interTokenLatency": "25ms", "attainment": "95"}}
CLASS, ORDINAL_CLASS = "scarce", "scarce-ordinal"  # the priority classes that the quotas count
LOADS = {"cloud": 25.0, "quota": 22.0, "crash": 20.0, "spot": 5.0, "ordinal": 22.0}


def quota(rig: Rig, name: str, priority_class: str) -> list[Json]:
    """One GPU for pods of the priority class, as a team's share of a pool."""
    scope = {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": [priority_class]}]}
    spec = {"hard": {"requests.nvidia.com/gpu": "1"}, "scopeSelector": scope}
    named = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": priority_class}}
    meta = {"name": name, "namespace": rig.namespace}
    return [{**named, "value": 10}, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": spec}]


def of_stateful_sets(service: Json, kinds: Json) -> Json:
    """The same, the variants named in `kinds` with targets of those kinds."""
    for variant in service["spec"]["variants"]:
        variant["scaleTargetRef"]["kind"] = kinds.get(variant["name"], "Deployment")
    return service


def objects(rig: Rig) -> list[Json]:
    cloud = {"provisioning": "Autoscaled", "nodeLeadTime": "10s", "limits": {"maxGPUs": 24}}
    taints = [{"key": nodes.INTERRUPTION_TAINT}]
    return [
        pool(L40S, NODES[L40S], accelerator="L40S", price="0.30", **cloud),
        pool(A100, NODES[A100], price="1.00"),
        pool(RESERVE, NODES[RESERVE], price="3.00"),
        pool(SPOT, NODES[SPOT], accelerator="H100-80GB", price="0.50", capacityType="Spot", interruptionTaints=taints),
        pool(H100, NODES[H100], accelerator="H100-80GB", price="9.00"),
        *quota(rig, "team-share", CLASS),
        *quota(rig, "ordinal-share", ORDINAL_CLASS),
        rig.target_object("filler", NODES[L40S], replicas=3, route="filler"),  # leaves one GPU of the only L40S node
        rig.target_object("cloud-l40s", NODES[L40S], route="cloud"),
        rig.target_object("cloud-h100", NODES[H100], replicas=0, route="cloud"),
        rig.service_object(("l40s", L40S, "cloud-l40s"), ("h100", H100, "cloud-h100"), name="cloud"),
        rig.target_object("quota-a100", NODES[A100], route="quota", priorityClassName=CLASS),
        rig.target_object("quota-h100", NODES[H100], replicas=0, route="quota"),
        rig.service_object(("a100", A100, "quota-a100"), ("h100", H100, "quota-h100"), name="quota", **FAST),
        rig.target_object(
            "ordinal-a100", NODES[A100], kind="StatefulSet", route="ordinal", priorityClassName=ORDINAL_CLASS
        ),
        rig.target_object("ordinal-h100", NODES[H100], replicas=0, route="ordinal"),
        of_stateful_sets(
            rig.service_object(("a100", A100, "ordinal-a100"), ("h100", H100, "ordinal-h100"), name="ordinal", **FAST),
            {"a100": "StatefulSet"},
        ),
        rig.target_object("crash-broken", NODES[A100], replicas=0, route="crash", crash=True),
        rig.target_object("crash-sound", NODES[RESERVE], route="crash"),
        rig.service_object(("broken", A100, "crash-broken"), ("sound", RESERVE, "crash-sound"), name="crash", **FAST),
        rig.target_object("spot-spot", NODES[SPOT], route="spot"),
        rig.target_object("spot-h100", NODES[H100], replicas=0, route="spot"),
        rig.service_object(("spot", SPOT, "spot-spot"), ("h100", H100, "spot-h100"), name="spot"),
    ]


@pytest.fixture(scope="module")
def rig(shared_rig: Rig, sandbox: Sandbox) -> Iterator[Rig]:
    sandbox.fail_autoscaler(NODES[L40S])
    shared_rig.apply(*objects(shared_rig))
    for target in ("cloud-l40s", "quota-a100", "crash-sound", "spot-spot"):
        until(lambda target=target: shared_rig.ready(target) == 1, f"the first replica of {target} is ready")
    shared_rig.start_operator()
    for route, per_second in LOADS.items():
        shared_rig.load(per_second, 420.0, route)
    yield shared_rig
    sandbox.fail_autoscaler(NODES[L40S], failing=False)
    sandbox.call(lambda client: nodes.untaint(client, "h100-spot-0"))
    sandbox.kubectl("delete", "priorityclass", CLASS, ORDINAL_CLASS)


def test_nodes_that_do_not_come_send_demand_to_the_next_variant(rig: Rig) -> None:
    coming = until(lambda: backing_off(rig), "the pool says that its nodes do not come", 90)
    assert "no node came within" in coming["message"]
    until(lambda: rig.ready("cloud-h100") >= 1, "the second variant serves", 60)
    until(lambda: rig.replicas("cloud-l40s") <= 1, "nobody waits for nodes that do not come", 90)
    until(lambda: given_up(rig), "and the variant says why")


def given_up(rig: Rig) -> bool:
    return rig.variant("l40s", "cloud").get("limitedBy") in ("PoolBackingOff", "Unschedulable")


def backing_off(rig: Rig) -> Json | None:
    conditions = rig.get("gpupool", L40S).get("status", {}).get("conditions", [])
    return next((item for item in conditions if item["reason"] == "PoolBackingOff"), None)


def said(rig: Rig, name: str) -> str:
    return str((limited(rig, name, "CrashLooping") or {}).get("message", ""))


def limited(rig: Rig, name: str, reason: str) -> Json | None:
    condition = rig.condition("Limited", name)
    return condition if (condition.get("status"), condition.get("reason")) == ("True", reason) else None


def test_pods_refused_by_a_quota_are_named_and_the_next_variant_gets_the_demand(rig: Rig) -> None:
    condition = until(lambda: limited(rig, "quota", "QuotaRefused"), "the refusal is a condition", 90)
    assert "team-share" in condition["message"], "the quota is named, in the API server's own words"
    until(lambda: rig.ready("quota-h100") >= 1, "the second variant serves", 60)
    until(lambda: rig.replicas("quota-a100") <= 1, "what the quota refuses is not asked for any longer", 90)
    until(lambda: rig.variant("a100", "quota").get("limitedBy") == "QuotaRefused", "and it is still said why")


def test_pods_of_a_stateful_set_that_never_come_are_named_and_the_next_variant_gets_the_demand(rig: Rig) -> None:
    """A StatefulSet's status says nothing of a refusal: seven of eight would count as capacity for ever."""
    condition = until(lambda: limited(rig, "ordinal", "PodsMissing"), "what does not come is a condition", 120)
    assert "no pod for" in condition["message"]
    assert "StatefulSet ordinal-a100" in condition["message"], "where to read who refuses them"
    until(lambda: rig.ready("ordinal-h100") >= 1, "the second variant serves", 60)
    until(lambda: rig.replicas("ordinal-a100", "statefulset") <= 1, "nothing is asked for that does not come", 90)
    until(lambda: rig.variant("a100", "ordinal").get("limitedBy") == "PodsMissing", "and it is still said why")


def test_a_crash_looping_variant_is_named_and_the_next_one_gets_the_demand(rig: Rig) -> None:
    condition = until(lambda: limited(rig, "crash", "CrashLooping"), "the crash loop is a condition", 60)
    assert "broken" in condition["message"]
    until(
        lambda: "CrashLoopBackOff" in said(rig, "crash"), "in the kubelet's own words, once it waits before a restart"
    )
    until(lambda: rig.ready("crash-sound") >= 2, "the second variant takes the demand", 60)
    until(lambda: rig.replicas("crash-broken") == 0, "and what crashes is given up", 60)


def test_a_node_about_to_be_taken_away_stops_counting_and_is_replaced_elsewhere(rig: Rig, sandbox: Sandbox) -> None:
    sandbox.call(lambda client: nodes.taint(client, "h100-spot-0"))
    until(lambda: rig.replicas("spot-h100") >= 1, "a replacement on the other pool", 30)
    until(lambda: interruption(rig), "the decision names the interruption")
    until(lambda: rig.ready("spot-h100") >= 1, "it starts")
    free = until(lambda: rig.get("gpupool", SPOT)["status"].get("gpus"), "the pool's GPUs")["free"]
    assert free == 0, "nothing is offered on a node that goes"
    sandbox.call(lambda client: nodes.remove_node(client, "h100-spot-0"))
    try:
        until(lambda: rig.results("spot")["ready"] >= 1, "the load has somebody to go to")
        until(lambda: rig.replicas("spot-spot") == 0, "nothing is asked of a pool without nodes", 60)
    finally:
        sandbox.call(lambda client: nodes.add_node(client, nodes.H100_SPOT, "h100-spot-0"))


def interruption(rig: Rig) -> bool:
    return "Interruption" in json.dumps(rig.status("spot").get("decisions", []))


@pytest.mark.full
def test_a_pool_whose_nodes_come_again_is_used_again(rig: Rig, sandbox: Sandbox) -> None:
    until(lambda: given_up(rig), "the pool had failed", 180)
    sandbox.fail_autoscaler(NODES[L40S], failing=False)
    until(lambda: rig.ready("cloud-l40s") >= 2, "after the back-off new nodes are asked for, and come", 240)
    until(lambda: backing_off(rig) is None, "and the condition is over")
