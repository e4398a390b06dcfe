"""The gateway: nobody is lost, nobody gets what is not ready, and its numbers are those that users saw."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.sandbox.gateway import Endpoint, Gateway
from ebbtide.sandbox.ledger import Ledger, Objectives
from ebbtide.sandbox.rotation import Dispatch
from ebbtide.sim.engine import Engine, Outcome, Request
from ebbtide.sim.profiles import profile

H100 = profile("8B", "NVIDIA-H100-80GB-HBM3")
L40S = profile("8B", "NVIDIA-L40S")
CHAT = "team-a/chat"
ONE_SECOND = Objectives(time_to_first_token_s=1.0, inter_token_latency_s=0.05)


def every(gap_s: float, count: int, prompt: int = 200, output: int = 50) -> list[Request]:
    return [Request(number, number * gap_s, prompt, output) for number in range(count)]


def gateway_with(*pods: str, dispatch: Dispatch = "least-loaded", ready: bool = True) -> tuple[Gateway, list[Endpoint]]:
    gateway = Gateway(dispatch, seed=1)
    endpoints = [Endpoint(f"team-a/{name}", CHAT, Engine(H100, seed)) for seed, name in enumerate(pods)]
    for endpoint in endpoints:
        gateway.add(endpoint)
        gateway.set_ready(endpoint, ready, 0.0)
    return gateway, endpoints


def tick(gateway: Gateway, from_s: float, to_s: float) -> None:
    """As the emulator does it: every 50 ms."""
    ticks = int((to_s - from_s) / 0.05)
    for number in range(1, ticks + 1):
        gateway.advance(from_s + number * 0.05)


@settings(deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["ready", "unready", "kill"])), max_size=25),
    dispatch=st.sampled_from(["least-loaded", "random"]),
)
def test_every_request_is_ended_or_still_inside_whatever_pods_do(
    changes: list[tuple[int, str]], dispatch: Dispatch
) -> None:
    gateway, endpoints = gateway_with("a", "b", "c", "d", dispatch=dispatch, ready=False)
    gateway.start_load(CHAT, every(0.02, 300), 0.0, ONE_SECOND)
    now_s = 0.0
    for which, change in changes:
        now_s += 0.3
        endpoint = endpoints[which]
        if change == "kill":
            gateway.remove(endpoint, now_s)
            endpoints[which] = Endpoint(endpoint.key, CHAT, Engine(H100, which))
            gateway.add(endpoints[which])
        else:
            gateway.set_ready(endpoint, change == "ready", now_s)
        summary = gateway.summary(CHAT, now_s)
        inside = summary["held"] + summary["running"] + summary["waiting"]
        assert summary["requests"] == summary["ended"] + inside
        if any(endpoint.ready for endpoint in endpoints):
            assert summary["held"] == 0


def test_requests_wait_while_nothing_is_ready_and_their_wait_is_in_their_first_token() -> None:
    gateway, (pod,) = gateway_with("a", ready=False)
    gateway.start_load(CHAT, every(0.5, 10), 0.0, ONE_SECOND)
    tick(gateway, 0.0, 8.0)

    assert gateway.gauges()[0].queued == 10
    assert pod.engine.running == 0

    gateway.set_ready(pod, True, 8.0)
    tick(gateway, 8.0, 20.0)

    ended = sorted(gateway.route(CHAT).ledger.ended, key=lambda one: one.at_s)
    assert [one.at_s for one in ended] == pytest.approx([number * 0.5 for number in range(10)])
    assert all(8.0 - one.at_s < (one.time_to_first_token_s or 0) < 8.5 - one.at_s for one in ended)
    assert not any(one.met_both for one in ended)
    assert gateway.gauges()[0].queued == 0


def test_a_terminating_pod_gets_nothing_new_and_finishes_what_it_has() -> None:
    gateway, (leaving, staying) = gateway_with("a", "b")
    gateway.start_load(CHAT, every(0.05, 100, output=200), 0.0, ONE_SECOND)
    tick(gateway, 0.0, 1.0)
    inside = leaving.load
    gateway.set_ready(leaving, False, 1.0)
    tick(gateway, 1.0, 10.0)

    assert inside > 0
    assert leaving.engine.counters.finished["abort"] == 0
    assert sum(leaving.engine.counters.finished.values()) < sum(staying.engine.counters.finished.values())
    assert gateway.summary(CHAT, 10.0)["served"] == 100


def test_a_pod_that_is_gone_aborts_what_ran_on_it() -> None:
    gateway, (pod,) = gateway_with("a")
    gateway.start_load(CHAT, every(0.01, 20, output=900), 0.0, ONE_SECOND)
    tick(gateway, 0.0, 1.0)
    gateway.remove(pod, 1.0)

    summary = gateway.summary(CHAT, 1.0)
    assert (summary["ended"], summary["served"], summary["met_both"], summary["endpoints"]) == (20, 0, 0.0, 0)
    assert {one.finish_reason for one in gateway.route(CHAT).ledger.ended} == {"abort"}


def test_least_loaded_spares_the_slow_engine_and_random_does_not() -> None:
    def share_of_the_slow_one(dispatch: Dispatch) -> float:
        gateway = Gateway(dispatch, seed=1)
        fast, slow = Endpoint("x/fast", CHAT, Engine(H100, 1)), Endpoint("x/slow", CHAT, Engine(L40S, 1))
        for endpoint in (fast, slow):
            gateway.add(endpoint)
            gateway.set_ready(endpoint, True, 0.0)
        gateway.start_load(CHAT, every(0.1, 300, prompt=700, output=150), 0.0, ONE_SECOND)
        tick(gateway, 0.0, 60.0)
        return slow.engine.meters.e2e.count / 300

    assert share_of_the_slow_one("random") == pytest.approx(0.5, abs=0.1)
    assert share_of_the_slow_one("least-loaded") < 0.38


def test_the_gateway_publishes_means_over_ready_pods_alone() -> None:
    gateway, (first, second) = gateway_with("a", "b")
    gateway.set_ready(second, False, 0.0)
    gateway.start_load(CHAT, every(0.01, 40, output=500), 0.0, ONE_SECOND)
    gateway.advance(1.0)

    (gauges,) = gateway.gauges()

    assert (gauges.namespace, gauges.name, gauges.ready) == ("team-a", "chat", 1)
    assert gauges.average_running == first.engine.running == 40
    assert gauges.average_kv_usage == first.engine.kv_usage


def test_stopping_a_load_drops_what_was_not_sent() -> None:
    gateway, _ = gateway_with("a")
    gateway.start_load(CHAT, every(0.1, 100), 0.0, ONE_SECOND)
    gateway.start_load("team-b/other", every(0.1, 30), 0.0, ONE_SECOND)
    gateway.advance(1.0)

    assert gateway.stop_load(CHAT) == 1
    gateway.advance(20.0)
    assert 0 < gateway.summary(CHAT, 20.0)["requests"] < 15
    assert gateway.summary("team-b/other", 20.0)["requests"] == 30


def test_streams_to_one_route_are_judged_by_their_own_objectives() -> None:
    gateway, _ = gateway_with("a")
    gateway.start_load(CHAT, every(0.1, 50), 0.0, ONE_SECOND)
    gateway.start_load(CHAT, every(0.1, 50), 0.0, Objectives(0.001, 0.001))
    tick(gateway, 0.0, 20.0)

    assert gateway.summary(CHAT, 20.0)["met_both"] == pytest.approx(0.5)


def outcomes(*first_token_s: float | None) -> Iterable[Outcome]:
    for number, first_s in enumerate(first_token_s):
        request = Request(number, float(number), 100, 11)
        reason = "abort" if first_s is None else "stop"
        first = None if first_s is None else request.arrival_s + first_s
        yield Outcome(request, first, (first or request.arrival_s) + 0.2, reason, 0 if first_s is None else 11)


def test_a_ledger_counts_shares_and_percentiles() -> None:
    ledger = Ledger(after_s=2.0, recent_s=2.5)
    for outcome in outcomes(0.1, 2.0, 0.3, None, 0.5):
        at_s = outcome.request.arrival_s
        ledger.arrived(at_s, at_s)
        ledger.book(outcome, at_s, ONE_SECOND)

    summary = ledger.summary(now_s=5.0)

    assert (summary["requests"], summary["ended"], summary["served"], summary["met"]) == (5, 5, 4, 3)
    assert summary["met_both"] == 0.6
    assert (summary["requests_after"], summary["met_after"], summary["met_both_after_s"]) == (3, 2, 2 / 3)
    assert summary["time_to_first_token_s"] == pytest.approx({"p50": 0.3, "p95": 2.0, "p99": 2.0})
    assert summary["inter_token_latency_s"]["p50"] == pytest.approx(0.02)
    # since 2.5 s: arrivals at 3 and 4; of the finished, the one that came at 1 and took 2.2 s is in
    assert summary["requests_per_second"] == 2 / 2.5
    assert summary["recent_time_to_first_token_s"]["p99"] == pytest.approx(2.0)
    assert summary["recent_time_to_first_token_s"]["p50"] == pytest.approx(0.5)


def test_a_ledger_counts_all_but_keeps_only_the_latest() -> None:
    ledger = Ledger(kept=2)
    for outcome in outcomes(9.0, None, 0.3, 0.5):
        ledger.book(outcome, outcome.request.arrival_s, ONE_SECOND)

    summary = ledger.summary(now_s=5.0)

    assert [one.at_s for one in ledger.ended] == [2.0, 3.0]
    assert (summary["ended"], summary["met_both"]) == (4, 0.5)
    assert summary["time_to_first_token_s"] == pytest.approx({"p50": 0.3, "p95": 0.5, "p99": 0.5})


def test_an_empty_ledger_claims_nothing() -> None:
    summary = Ledger().summary(now_s=5.0)

    assert (summary["requests"], summary["met_both"], summary["time_to_first_token_s"]) == (0, None, None)


def test_what_warms_the_fleet_up_is_served_and_appears_in_no_result() -> None:
    gateway, _ = gateway_with("a")
    gateway.start_load(CHAT, every(0.1, 50), 0.0, ONE_SECOND, counted=False)
    gateway.start_load(CHAT, every(0.5, 10), 5.0, ONE_SECOND)
    tick(gateway, 0.0, 4.0)
    assert gateway.summary(CHAT, 4.0)["running"] > 0
    tick(gateway, 4.0, 60.0)
    assert gateway.summary(CHAT, 60.0)["requests"] == gateway.summary(CHAT, 60.0)["ended"] == 10
