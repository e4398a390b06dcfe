"""Whole fleets of engines with a bounded queue or a small KV cache: Ebbtide gives them the replicas that end it."""

import random

import msgspec

from ebbtide.sim.engine import Request
from ebbtide.sim.fleet import simulate
from ebbtide.sim.policies import EbbtidePolicy
from ebbtide.sim.profiles import EngineProfile
from tests.sim.fleets import A100, a_scenario, a_service

DURATION_S = 900.0


def poisson(per_second: float, output_tokens: int) -> tuple[Request, ...]:
    draw, at_s, made = random.Random(1), 0.0, []
    while (at_s := at_s + draw.expovariate(per_second)) < DURATION_S:
        made.append(Request(id=len(made), arrival_s=at_s, prompt_tokens=500, output_tokens=output_tokens))
    return tuple(made)


def run(profile: EngineProfile, requests: tuple[Request, ...]) -> tuple[EbbtidePolicy, float]:
    """The plans, and the share of requests that met both objectives; a refused one met none."""
    service = msgspec.structs.replace(a_service(requests), profiles={"a100": profile})
    policy = EbbtidePolicy()
    (result,) = simulate(a_scenario(service, duration_s=DURATION_S, gpus=16), policy)
    return policy, result.met_both


def said(policy: EbbtidePolicy) -> list[str]:
    """The reasons of RequestsAdmitted over time, repetitions left out."""
    found: list[str] = []
    for plan in policy.plans:
        reason = next(item.reason for item in plan.services[0].conditions if item.type == "RequestsAdmitted")
        found += [reason] if found[-1:] != [reason] else []
    return found


def replicas(policy: EbbtidePolicy) -> int:
    return policy.plans[-1].services[0].variants[0].observed


def test_a_queue_bound_far_below_what_the_engine_could_carry_gets_the_replicas_it_calls_for() -> None:
    """6 places of 1.25 s are 4.8 requests/s at most, where latency would allow 19; 12 come. One would refuse 67 %."""
    policy, met = run(msgspec.structs.replace(A100, max_queued_requests=6), poisson(12.0, 100))
    assert said(policy)[:2] == ["RequestsRefused", "AllAdmitted"]
    assert 4 <= replicas(policy) <= 6
    assert met >= 0.8, "33 % in the first two minutes"


def test_a_small_cache_is_named_and_gets_the_replicas_it_calls_for() -> None:
    policy, met = run(msgspec.structs.replace(A100, kv_tokens=8192, max_model_tokens=4096), poisson(6.0, 400))
    assert said(policy)[-2:] == ["KVCacheFull", "AllAdmitted"]
    assert 4 <= replicas(policy) <= 8
    assert met >= 0.7, "4 % in the first two minutes"
    assert {"SLOUnattainable"}.isdisjoint(c.reason for plan in policy.plans for c in plan.services[0].conditions)


def test_a_fleet_with_room_is_left_alone() -> None:
    policy, met = run(msgspec.structs.replace(A100, max_queued_requests=200), poisson(12.0, 100))
    assert met >= 0.99
    assert replicas(policy) == 1
    assert set(said(policy)) <= {"AllAdmitted", "Pending"}
