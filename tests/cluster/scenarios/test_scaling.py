"""The main job, end to end: load moves replicas, and its end moves them back, down to zero and up again.

All services live in one namespace under one operator, each with a load of its own. Emulated A100s carry about 13
requests/s at 25 ms between tokens, L40S about 9 at 50 ms.
"""

import time
from collections.abc import Iterator

import pytest

from ebbtide.sandbox.demo_base import free_port
from tests.cluster.rig import Json, Rig, pool, until

A100, L40S, H100, SPOT = "busy-a100", "busy-l40s", "busy-h100", "busy-spot"
NODES = {A100: "a100-on-prem", L40S: "l40s-on-demand", H100: "h100-on-demand", SPOT: "h100-spot"}
CYCLE_S = 2.0
DOWN_DELAY_S = 35.0
FAST: Json = {"objectives": {"timeToFirstToken": "2s", "interTokenLatency": "25ms", "attainment": "95"}}
MARK = "controller.kubernetes.io/pod-deletion-cost"


def to_zero(url: str, route: str) -> Json:
    """Goes to zero after 5 s without a request; `url` tells of requests that wait meanwhile."""
    return {
        "minReplicas": 0,
        "scaleToZero": {"after": "5s", "activator": {"url": url, "labels": {"inference_pool": route}}},
    }


def objects(rig: Rig) -> list[Json]:
    down = {"down": {"delay": f"{DOWN_DELAY_S:.0f}s", "maxPerMinute": 60}}
    nobody = f"http://127.0.0.1:{free_port()}/metrics"
    return [
        pool(A100, NODES[A100], price="1.00"),
        pool(L40S, NODES[L40S], accelerator="L40S", price="0.50", limits={"maxGPUs": 2}),
        pool(H100, NODES[H100], accelerator="H100-80GB", price="9.00"),
        pool(SPOT, NODES[SPOT], accelerator="H100-80GB", price="2.00", capacityType="Spot"),
        rig.target_object("chat", NODES[A100]),
        rig.service_object(("a100", A100, "chat"), scaling=down, capacity="10", **FAST),
        rig.target_object("wide-l40s", NODES[L40S], route="wide"),
        rig.target_object("wide-h100", NODES[H100], replicas=0, route="wide"),
        rig.service_object(("l40s", L40S, "wide-l40s"), ("h100", H100, "wide-h100"), name="wide"),
        rig.target_object("summary", NODES[A100], route="summary", engine="trtllm"),
        rig.service_object(("a100", A100, "summary"), name="summary", **FAST),
        rig.target_object("sleepy", NODES[SPOT], route="sleepy"),
        rig.service_object(("spot", SPOT, "sleepy"), name="sleepy", scaling=to_zero(rig.activator_url, "sleepy")),
        rig.target_object("blind", NODES[SPOT], route="blind"),
        rig.service_object(("spot", SPOT, "blind"), name="blind", scaling=to_zero(nobody, "blind")),
    ]


@pytest.fixture(scope="module")
def rig(shared_rig: Rig) -> Iterator[Rig]:
    shared_rig.apply(*objects(shared_rig))
    for target in ("chat", "wide-l40s", "summary", "sleepy", "blind"):
        until(lambda target=target: shared_rig.ready(target) == 1, f"the first replica of {target} is ready")
    shared_rig.start_operator()
    for route, per_second in (("chat", 25.0), ("wide", 25.0), ("summary", 20.0)):
        shared_rig.load(per_second, 240.0, route)
    return shared_rig


def test_load_scales_up_and_the_reason_has_the_numbers(rig: Rig) -> None:
    until(lambda: rig.replicas("chat") >= 3, "25 requests/s want at least 3 A100 replicas", 90)
    assert rig.scale_writes("chat"), "the change came through the scale subresource, by the operator's own account"
    risen = until(lambda: decision(rig, "chat", "DemandRose"), "the decision is in the status")
    assert "requests/s" in risen["message"]
    assert "one replica of a100 carries" in risen["message"]
    event = until(lambda: rig.events("ScaledUp"), "and an Event tells it")[0]
    assert "requests/s" in event.get("note", event.get("message", ""))
    until(lambda: rig.ready("chat") >= 3, "the replicas start")


def decision(rig: Rig, name: str, reason: str) -> Json | None:
    return next((item for item in rig.status(name).get("decisions", []) if item["reason"] == reason), None)


def test_a_tensorrt_llm_service_scales_by_its_own_metrics(rig: Rig) -> None:
    until(lambda: rig.replicas("summary") >= 2, "20 requests/s want at least 2 replicas", 90)
    assert rig.condition("MetricsFresh", "summary")["status"] == "True"
    assert float(rig.status("summary")["demand"]["requestsPerSecond"]) > 0


def test_when_the_first_pool_is_full_the_second_variant_takes_the_rest(rig: Rig) -> None:
    until(lambda: rig.replicas("wide-h100") >= 1, "2 L40S do not carry 25 requests/s", 90)
    assert rig.replicas("wide-l40s") <= 2, "the pool's maxGPUs holds"
    until(lambda: rig.ready("wide-h100") >= 1, "the second variant serves")
    assert rig.variant("l40s", "wide")["allowed"] <= 2


def no_fewer_wanted(rig: Rig) -> bool:
    variant = rig.variant("a100")
    return bool(variant["wanted"] >= variant["observed"] == rig.replicas("chat") == rig.ready("chat"))


def test_a_fall_of_load_scales_down_after_the_delay_and_cuts_no_request_off(rig: Rig) -> None:
    until(lambda: no_fewer_wanted(rig), "the present load needs all that runs", 60)
    before = {pod["metadata"]["name"] for pod in rig.pods("chat") if "deletionTimestamp" not in pod["metadata"]}
    fallen_s = time.time()
    rig.stop_load("chat")
    rig.load(1.5, 180.0, "chat")
    # one replica carries it; after the overload a second may be worth its money for as long as the load is in doubt
    until(lambda: rig.replicas("chat") <= 2, "1.5 requests/s need one or two", 180)
    lowered = rig.scale_writes("chat", since_s=fallen_s)
    assert lowered[0].time_s - fallen_s >= DOWN_DELAY_S - CYCLE_S, "not before the delay, from the last cycle before"
    until(lambda: len(rig.pods("chat")) == rig.replicas("chat"), "those that go have gone", 60)
    stayed = {pod["metadata"]["name"]: pod["metadata"] for pod in rig.pods("chat")}
    marked = {write.name for write in rig.writes("pods") if write.time_s >= fallen_s and write.name in before}
    assert before - stayed.keys() == marked - stayed.keys(), "exactly those that go were marked beforehand"
    assert len(stayed) > 1 or not any(MARK in pod.get("annotations", {}) for pod in stayed.values()), "no other is"
    rig.stop_load("chat")
    until(lambda: all_served(rig, "chat"), "every request was served, also by replicas on their way out", 30)
    assert decision(rig, "chat", "DemandFell")


def all_served(rig: Rig, route: str) -> bool:
    results = rig.results(route)
    return bool(results["requests"] > 0 and results["ended"] == results["requests"] == results["served"])


def test_an_idle_service_goes_to_zero_and_the_gateways_queue_brings_it_back(rig: Rig) -> None:
    until(lambda: rig.replicas("sleepy") == 0, "nothing was asked of it for longer than 5 s", 120)
    idle = until(lambda: decision(rig, "sleepy", "Idle"), "the decision is in the status")
    assert "no request for 5s" in idle["message"]
    until(lambda: not rig.pods("sleepy"), "its last replica ends", 60)
    asked_s = time.time()
    rig.load(1.0, 3.0, "sleepy")
    until(lambda: rig.replicas("sleepy") >= 1, "the first request wakes it", 30)
    assert rig.scale_writes("sleepy", since_s=asked_s)[0].body["spec"]["replicas"] == 1
    until(lambda: all_served(rig, "sleepy"), "every request that waited is served", 60)
    assert decision(rig, "sleepy", "FirstRequest"), "and the reason is kept"


def test_a_service_whose_activator_was_never_seen_stays_at_one_and_says_so(rig: Rig) -> None:
    until(lambda: rig.variant("spot", "blind").get("limitedBy") == "ActivatorUnseen", "what holds it", 120)
    status = rig.status("blind")
    assert status["reason"] == "ActivatorUnseen"
    assert "nobody would wake the service" in status["message"]
    assert rig.scale_writes("blind") == []
