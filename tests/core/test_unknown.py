"""Unknown is not zero: the items of the failure catalogue that concern data."""

import msgspec
import pytest

from ebbtide.model.snapshot import NOT_APPLICABLE, Source
from tests.builders import (
    NOW,
    Fleet,
    Loop,
    condition,
    engine,
    pod,
    pods,
    service,
    settled,
    silent_engine,
    snapshot,
    spec,
    stale,
    variant,
    variant_spec,
)


def idle_with(readings, n=6):
    return tuple(pod(f"a-{i}", readings) for i in range(n))


IDLE = engine(0.0)
CASES = {
    "zero": (idle_with(IDLE), "lower", ("True", "MetricsFresh")),
    "absent": (idle_with(None), "hold", ("False", "MetricsMissing")),
    "unknown": (idle_with(silent_engine()), "hold", ("False", "MetricsMissing")),
    "stale": (idle_with(msgspec.structs.replace(IDLE, arrivals=stale(0.0))), "hold", ("False", "MetricsStale")),
    "one of six is silent": ((*idle_with(IDLE, 5), pod("b", None)), "hold", ("False", "MetricsMissing")),
}


@pytest.mark.parametrize("story", CASES)
def test_f2_absent_stale_and_zero_have_different_outcomes(story):
    states, outcome, metrics = CASES[story]
    decided = settled(snapshot(service(variant("h100", states)))).plan.services[0]
    allowed = decided.variants[0].allowed
    assert (allowed < 6) == (outcome == "lower"), (story, allowed)
    assert condition(decided, "MetricsFresh") == metrics, story


def test_f1_prometheus_gone_at_the_peak_holds_everything_and_is_one_condition_for_all():
    fleet = Fleet(spec(variants=[variant_spec()]), {"h100": 4})
    fleet.run(90.0, 600)
    peak = fleet.total
    down = Source("prometheus", healthy=False, age_s=120.0, message="connection refused")
    for _ in range(60):
        state = fleet.snapshot(0.0)  # even if a cache pretended zero
        fleet.loop.run(msgspec.structs.replace(state, sources=(down,)))
        assert fleet.loop.plan.actions == ()
    decided = fleet.loop.plan
    assert decided.services[0].variants[0].allowed == peak
    assert condition(decided.services[0], "MetricsFresh") == ("False", "PrometheusUnreachable")
    assert [(c.type, c.status.value) for c in decided.cluster_conditions] == [("PrometheusReachable", "False")]


def test_f3_f4_metrics_gone_flip_the_condition_within_one_cycle():
    loop = settled(snapshot(service(variant("h100", pods(4, 20.0)))))
    decided = loop.one(snapshot(service(variant("h100", idle_with(None, 4)))))
    assert condition(decided, "MetricsFresh")[0] == "False"
    assert condition(decided, "Ready")[0] == "False"
    assert decided.variants[0].allowed == 4


def test_f5_idle_without_any_latency_is_recognised_and_released():
    quiet = msgspec.structs.replace(IDLE, ttft=None, itl=None, tpot=None)
    decided = settled(snapshot(service(variant("h100", idle_with(quiet))))).plan.services[0]
    assert decided.variants[0].allowed == 1


def test_f7_low_kv_use_with_a_high_arrival_rate_does_not_scale_in():
    busy = pods(4, 22.0, kv_usage=engine(0.0).kv_usage)
    decided = settled(snapshot(service(variant("h100", busy)))).plan.services[0]
    assert decided.variants[0].allowed >= 4


def test_f9_a_stale_value_is_reported_with_its_age():
    states = idle_with(msgspec.structs.replace(engine(50.0), arrivals=stale(50.0, 700.0)), 2)
    decided = settled(snapshot(service(variant("h100", states)))).plan.services[0]
    assert decided.variants[0].allowed == 2
    assert "700s old" in decided.reason.text


def test_partial_data_may_raise_and_counts_silent_pods_like_the_others():
    states = (*pods(3, 24.0), pod("b", silent_engine()))
    decided = settled(snapshot(service(variant("h100", states)))).plan.services[0]
    assert decided.demand.requests_per_second == pytest.approx(96.0)
    assert decided.variants[0].allowed > 4


def test_a_pod_that_was_ready_for_seconds_is_not_called_silent():
    loop = settled(snapshot(service(variant("h100", pods(3, 10.0)))))
    young = pod("b", None, ready_at=loop.now_s - 10.0)
    decided = loop.one(snapshot(service(variant("h100", (*pods(3, 10.0), young)))))
    assert condition(decided, "MetricsFresh")[0] == "True"


def test_engines_without_arrivals_are_judged_by_completions():
    states = tuple(pod(f"a-{i}", engine(12.0, arrivals=NOT_APPLICABLE)) for i in range(2))
    decided = Loop().one(snapshot(service(variant("h100", states))))
    assert decided.demand.requests_per_second == pytest.approx(24.0)


def test_recovery_after_an_outage_waits_the_down_delay_again():
    fleet = Fleet(spec(variants=[variant_spec()]), {"h100": 4})
    fleet.run(90.0, 600)
    peak = fleet.total
    blind = msgspec.structs.replace(fleet.snapshot(0.0), sources=(Source("prometheus", healthy=False),))
    for _ in range(60):
        fleet.loop.now_s = fleet.now_s
        fleet.loop.run(msgspec.structs.replace(blind, taken_at=fleet.now_s))
        fleet.now_s += 10.0
    fleet.run(5.0, 200)
    assert fleet.total == peak


def test_pods_that_were_never_read_are_not_taken_for_an_idle_fleet():
    """Ready for a moment and without any series: demand is unknown, and the condition does not say "fresh"."""
    silent = tuple(msgspec.structs.replace(p, engine=None, ready_at=NOW - 5.0) for p in pods(2, 0.0))
    decided = Loop().run(snapshot(service(variant("h100", silent)))).services[0]
    fresh = next(item for item in decided.conditions if item.type == "MetricsFresh")
    assert decided.demand is None
    assert fresh.status.value == "Unknown"
    assert [item.allowed for item in decided.variants] == [2]
