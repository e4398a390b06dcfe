"""What people and other controllers do to a service or its target, and that Ebbtide then does the right nothing.

All services live in one namespace under one operator, so that their delays pass side by side. Pressure comes from
declared bounds (a minimum above what runs), not from load.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from ebbtide.clock import parse_rfc3339, rfc3339
from tests.cluster.rig import Json, Rig, pool, stays, until

H100, A100, SPOT = "hands-h100", "hands-a100", "hands-spot"
NODES = {H100: "h100-on-demand", A100: "a100-on-prem", SPOT: "h100-spot"}
UNTIL_S = 45.0


def pair(rig: Rig, name: str, pool_name: str, replicas: int, mode: str = "Auto", **scaling: Any) -> list[Json]:
    """A Deployment and the service that scales it, both called `name`."""
    return [
        rig.target_object(name, NODES[pool_name], replicas, route=name),
        rig.service_object(("main", pool_name, name), name=name, mode=mode, scaling=scaling),
    ]


def autoscaler(rig: Rig, name: str, target: str) -> Json:
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
    metrics = [{"type": "Resource", "resource": cpu}]
    spec = {"scaleTargetRef": reference, "minReplicas": 1, "maxReplicas": 5, "metrics": metrics}
    meta = {"name": name, "namespace": rig.namespace}
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": meta, "spec": spec}


def objects(rig: Rig) -> list[Json]:
    """Everything at once; each service wants something else than what it has."""
    expiry = rfc3339(time.time() + UNTIL_S)
    found = [
        pool(H100, NODES[H100], accelerator="H100-80GB"),
        pool(A100, NODES[A100]),
        pool(SPOT, NODES[SPOT], accelerator="H100-80GB", capacityType="Spot"),
        autoscaler(rig, "contested-hpa", "contested"),
        rig.target_object("common", NODES[H100], 1, route="common"),
        *(rig.service_object(("main", H100, "common"), name=n, scaling={"minReplicas": 2}) for n in ("one", "two")),
    ]
    for more in (
        pair(rig, "contested", H100, 1, minReplicas=3),
        pair(rig, "halted", H100, 1, minReplicas=3, pause={"direction": "All", "reason": "migration", "by": "ann"}),
        pair(rig, "not-up", H100, 1, minReplicas=2, pause={"direction": "Up"}),
        pair(rig, "not-down", SPOT, 3, pause={"direction": "Down"}),
        pair(rig, "idle", SPOT, 3),
        pair(rig, "fixed", H100, 1, pause={"direction": "All", "replicas": 2}),
        pair(rig, "until", H100, 1, minReplicas=2, pause={"direction": "Up", "until": expiry}),
        pair(rig, "edited", A100, 1),
        pair(rig, "rival", A100, 1, minReplicas=2),
        pair(rig, "recreated", H100, 1, minReplicas=2),
        pair(rig, "abandoned", H100, 1, minReplicas=2, pause={"direction": "Up"}),
        pair(rig, "silent", A100, 1, mode="Off", minReplicas=2),
    ):
        found += more
    return found


@pytest.fixture(scope="module")
def rig(shared_rig: Rig) -> Iterator[Rig]:
    shared_rig.apply(*objects(shared_rig))
    shared_rig.start_operator()
    return shared_rig


def limited_by(rig: Rig, name: str) -> str:
    return str(rig.variant("main", name).get("limitedBy", ""))


def is_paused(rig: Rig, name: str) -> bool:
    return rig.condition("Paused", name).get("status") == "True"


def test_a_scale_by_hand_once_is_called_drifted_and_respected(rig: Rig) -> None:
    until(lambda: rig.condition("Acting", "edited").get("reason") == "Acting", "the service is watched")
    rig.scale("edited", 3)
    acting = until(lambda: drifted(rig, "edited"), "the change is noticed")
    assert acting["status"] == "True", "a single manual scale does not stop Ebbtide"
    assert "from 1 to 3" in acting["message"]
    assert rig.scale_writes("edited") == []


def drifted(rig: Rig, name: str) -> Json | None:
    acting = rig.condition("Acting", name)
    return acting if acting.get("reason") == "Drifted" else None


def test_a_first_reversion_of_our_own_write_is_only_drift(rig: Rig) -> None:
    until(lambda: rig.replicas("rival") == 2, "the declared minimum is brought about")
    rig.scale("rival", 1)  # at once: by its resourceVersion this is after our write, not the state before it
    until(lambda: drifted(rig, "rival"), "the reversion is noticed")
    assert [write.body["spec"]["replicas"] for write in rig.scale_writes("rival")] == [2], "and respected"


def test_an_hpa_on_the_target_is_a_conflict_that_names_it_and_nothing_is_written(rig: Rig) -> None:
    acting = until(lambda: conflict(rig, "contested"), "the HPA is seen")
    assert acting["status"] == "False"
    assert "HorizontalPodAutoscaler contested-hpa" in acting["message"]
    assert rig.variant("main", "contested")["allowed"] == 1, "it is shown that the minimum of 3 is not acted on"
    assert rig.scale_writes("contested") == []
    until(lambda: rig.events("ConflictDetected"), "an Event says so too")


def conflict(rig: Rig, name: str) -> Json | None:
    acting = rig.condition("Acting", name)
    return acting if acting.get("reason") == "TargetConflict" else None


def test_two_services_on_one_target_name_each_other_and_neither_writes(rig: Rig) -> None:
    for name, other in (("one", "two"), ("two", "one")):
        acting = until(lambda name=name: conflict(rig, name), f"{name} sees the other")
        assert f"{rig.namespace}/{other}" in acting["message"]
        resolved = rig.condition("TargetResolved", name)
        assert (resolved["status"], resolved["reason"]) == ("False", "TargetShared")
        assert "delete them" in resolved["message"], "the fix is part of the message"
    assert rig.scale_writes("common") == []


def test_pause_all_holds_what_runs_and_says_who_and_why(rig: Rig) -> None:
    until(lambda: is_paused(rig, "halted"), "the pause is seen")
    message = rig.condition("Paused", "halted")["message"]
    assert "ann" in message
    assert "migration" in message
    assert rig.replicas("halted") == 1
    assert rig.scale_writes("halted") == []
    assert limited_by(rig, "halted") == "Paused"


def test_pause_up_keeps_a_declared_minimum_waiting_until_it_is_lifted(rig: Rig) -> None:
    until(lambda: limited_by(rig, "not-up") == "Paused", "the pause binds")
    assert rig.scale_writes("not-up") == []
    rig.patch_service({"spec": {"scaling": {"pause": None}}}, "not-up")
    until(lambda: rig.replicas("not-up") == 2, "without the pause the minimum is brought about")


def test_pause_with_replicas_goes_there_once_and_stays(rig: Rig) -> None:
    until(lambda: rig.replicas("fixed") == 2, "the declared number is set")
    until(lambda: rig.ready("fixed") == 2, "both are ready")
    assert [write.body["spec"]["replicas"] for write in rig.scale_writes("fixed")] == [2]
    assert is_paused(rig, "fixed")


def test_pause_until_ends_by_itself(rig: Rig) -> None:
    until(lambda: rig.replicas("until") == 2, "the pause has expired", UNTIL_S + 30)
    expiry = parse_rfc3339(rig.get("inferenceservice", "until")["spec"]["scaling"]["pause"]["until"])
    assert rig.scale_writes("until")[0].time_s >= expiry, "not a moment before"
    until(lambda: not is_paused(rig, "until"), "and the condition says that it is over")


def test_off_writes_nothing_and_says_so(rig: Rig) -> None:
    acting = until(lambda: rig.condition("Acting", "silent"), "a condition")
    assert (acting["status"], acting["reason"]) == ("False", "ModeOff")
    assert rig.writes(name="silent", resource="deployments") == []


def test_a_target_deleted_and_created_again_is_scaled_again(rig: Rig) -> None:
    until(lambda: rig.replicas("recreated") == 2, "the minimum")
    rig.delete("deployment", "recreated")
    missing = until(lambda: unresolved(rig, "recreated"), "its absence is noticed")
    assert missing["reason"] == "TargetNotFound"
    assert "create it" in missing["message"], "the fix is part of the message"
    rig.target("recreated", NODES[H100], 1, route="recreated")
    until(lambda: rig.replicas("recreated") == 2, "the new one gets its minimum, too")
    until(lambda: not unresolved(rig, "recreated"), "and the condition is true again")
    assert rig.condition("Acting", "recreated")["reason"] == "Acting", "a new target is not a reversion"


def unresolved(rig: Rig, name: str) -> Json | None:
    condition = rig.condition("TargetResolved", name)
    return condition if condition.get("status") == "False" else None


def test_a_deleted_service_leaves_its_workload_at_its_size_and_scales_it_no_more(rig: Rig) -> None:
    expiry_s = time.time() + 10.0
    pause = {"direction": "Up", "until": rfc3339(expiry_s)}
    rig.patch_service({"spec": {"scaling": {"pause": pause}}}, "abandoned")
    until(lambda: "for another" in rig.condition("Paused", "abandoned").get("message", ""), "the end of the pause", 8)
    rig.delete("inferenceservice", "abandoned")
    for_s = max(0.0, expiry_s - time.time()) + 8.0
    stays(lambda: rig.replicas("abandoned") == 1, "at the end of the pause nobody wants the minimum of 2", for_s)
    assert rig.scale_writes("abandoned") == []


def test_pause_down_keeps_replicas_that_a_service_without_it_gives_up(rig: Rig) -> None:
    until(lambda: rig.replicas("idle") == 1, "without a pause two idle replicas go", 120)
    assert rig.replicas("not-down") == 3
    until(lambda: limited_by(rig, "not-down") == "Paused", "what holds the other is the pause")
    assert rig.scale_writes("not-down") == []
    rig.patch_service({"spec": {"scaling": {"pause": None}}}, "not-down")
    until(lambda: rig.replicas("not-down") == 1, "once lifted, they go here too")


def test_what_was_scaled_by_hand_is_a_new_starting_point_and_not_a_ban(rig: Rig) -> None:
    until(lambda: rig.replicas("edited") == 1, "idle replicas go after the hold of a minute", 120)
    assert rig.scale_writes("edited"), "by Ebbtide"


def test_a_second_reversion_within_ten_minutes_is_a_conflict(rig: Rig) -> None:
    until(lambda: rig.replicas("rival") == 2, "after the hold of a minute the minimum is brought about again", 120)
    rig.scale("rival", 1)
    acting = until(lambda: conflict(rig, "rival"), "now somebody else owns it")
    assert "2 times within 10 minutes" in acting["message"]
    written = len(rig.scale_writes("rival"))
    stays(lambda: rig.replicas("rival") == 1, "hands off", 6)
    assert len(rig.scale_writes("rival")) == written
