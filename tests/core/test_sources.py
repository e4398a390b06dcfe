"""A source that does not answer: what follows for every service, and that the cluster's condition says just that."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebbtide.core import sources
from ebbtide.core.plan import plan
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Plan
from ebbtide.model.snapshot import PodPhase, Source
from ebbtide.model.spec import Mode
from tests.builders import (
    NOW,
    Fleet,
    Loop,
    condition,
    engine,
    fresh,
    node,
    pod,
    pods,
    pool,
    service,
    settled,
    snapshot,
    spec,
    to_zero,
    variant,
    variant_spec,
)
from tests.core.test_properties import snapshots

PROMETHEUS = Source("prometheus", healthy=True, age_s=1.0)
UNHELD = "held by nothing"
# what an idle fleet of six is allowed, what a busy one of four is, and who says so
OUTCOMES = {
    "pods": ("holds", "rises", "MetricsFresh"),
    "nodes": ("holds", "rises", "MetricsFresh"),
    "deployments": ("holds", "rises", "MetricsFresh"),
    "statefulsets": ("holds", "rises", "MetricsFresh"),
    "horizontalpodautoscalers": ("holds", "holds", "Acting"),
    "scaledobjects": ("holds", "holds", "Acting"),
    "inferenceservices": ("holds", "holds", "Acting"),
    "prometheus": ("holds", "rises", "MetricsFresh"),
    "histograms": ("falls", "rises", UNHELD),
    "discovery": ("falls", "rises", UNHELD),
    "scales": ("falls", "rises", UNHELD),
    "gpupools": ("falls", "rises", UNHELD),
    "costpolicies": ("falls", "holds", UNHELD),
    "leaderworkersets": ("falls", "rises", UNHELD),  # a kind of targets: its services have a fault of their own
}


def sick(name: str) -> tuple[Source, ...]:
    broken = Source(name, healthy=False, age_s=900.0, message=f"WATCH {name}: HTTP 403")
    return (broken,) if name == "prometheus" else (PROMETHEUS, broken)


def of(replicas: int, rps: float, mode: Mode = Mode.AUTO, seen: int | None = None):
    state = variant("h100", pods(replicas if seen is None else seen, rps), replicas=replicas)
    return service(state, spec(variants=[variant_spec(max_replicas=40)], down_delay_s=60.0, mode=mode))


def moved(before: int, after: int) -> str:
    return "holds" if after == before else "rises" if after > before else "falls"


def said(decided: Plan, name: str) -> tuple[str, str]:
    found = next(each for each in decided.cluster_conditions if each.type == name.capitalize() + "Reachable")
    return found.status.value, found.message


@pytest.mark.parametrize("name", OUTCOMES)
def test_what_follows_where_a_source_does_not_answer(name):
    idle, busy, by = OUTCOMES[name]
    loop = settled(snapshot(of(6, 12.0)))
    low = loop.run(snapshot(of(6, 0.5), sources=sick(name)), 900.0)
    high = Loop(settled(snapshot(of(4, 12.0))).memory, NOW + 900.0).run(snapshot(of(4, 40.0), sources=sick(name)), 60.0)
    assert moved(6, low.services[0].variants[0].allowed) == idle
    assert moved(4, high.services[0].variants[0].allowed) == busy
    assert bool(low.actions) == (idle != "holds")
    for kind in ("MetricsFresh", "Acting"):
        assert (condition(low.services[0], kind)[0] == "False") == (kind == by), kind
    if by != UNHELD:
        assert condition(low.services[0], "Ready")[0] == "False"
        assert "HTTP 403" in low.services[0].reason.text
        assert low.services[0].reason.text.startswith("stays at 6: ")
    status, message = said(low, name)
    assert status == "False"
    assert "HTTP 403" in message
    assert ("nothing is lowered" in message) == (by == "MetricsFresh")
    assert ("no target is scaled" in message) == (by == "Acting")
    assert "replicas hold" not in message


@pytest.mark.parametrize("name", OUTCOMES)
def test_all_is_as_before_once_it_answers_again(name):
    loop = settled(snapshot(of(6, 12.0)))
    loop.run(snapshot(of(6, 0.5), sources=sick(name)), 600.0)
    after = loop.run(snapshot(of(6, 0.5), sources=(PROMETHEUS, Source(name, healthy=True))), 900.0)
    assert after.services[0].variants[0].allowed < 6


def test_two_pods_in_a_broken_cache_are_not_a_fleet_of_two():
    """Six replicas serve 60 requests/s, and the watch of pods stands still at the moment of two."""
    loop = settled(snapshot(of(6, 10.0)))
    for _ in range(90):
        decided = loop.run(snapshot(of(6, 10.0, seen=2), sources=sick("pods")))
        assert decided.actions == ()
    assert condition(decided.services[0], "MetricsFresh") == ("False", "ClusterUnreadable")


@pytest.mark.parametrize("name", sorted(sources.COUNTED))
def test_nothing_is_learnt_while_counts_may_be_the_past(name):
    """New latencies, a pod that started fast, a failing pod, a receipt that the cache does not show: all ignored."""
    loop = settled(snapshot(of(4, 12.0)))
    before = loop.memory.services[0]
    late = pod("late", engine(12.0), created_at=NOW + 800.0, ready_at=NOW + 803.0)
    crashing = pod("c", phase=PodPhase.CRASH_LOOPING, message="no luck")
    states = (*pods(4, 20.0, itl_s=0.04, missed=0.5), late, crashing)
    declared = spec(variants=[variant_spec(max_replicas=40)], down_delay_s=60.0)
    state = snapshot(service(variant("h100", states, replicas=4), declared), sources=sick(name))
    loop.run(state, 300.0)
    after = loop.memory.services[0]
    assert after.variants[0].capacity == before.variants[0].capacity
    assert after.forecast == before.forecast
    assert (after.input_tokens, after.output_tokens) == (before.input_tokens, before.output_tokens)
    assert (after.last_fresh_at, after.spread_evenly) == (before.last_fresh_at, before.spread_evenly)


def test_a_pool_whose_nodes_are_unwatched_is_not_given_up():
    waiting = tuple(pod(f"w-{i}", phase=PodPhase.UNSCHEDULABLE, created_at=NOW) for i in range(2))
    state = service(variant("h100", (*pods(2, 24.0), *waiting)))
    autoscaled = pool(nodes=[node("n", 2, 2)], provisioning="Autoscaled", node_lead_time_s=60.0)
    loop = Loop()
    loop.run(snapshot(state, autoscaled, sources=sick("nodes")), 1200.0)
    assert loop.memory.pools[0].backoff_s == 0.0
    loop.run(snapshot(state, autoscaled), 1200.0)
    assert loop.memory.pools[0].backoff_s > 0.0


def test_our_own_write_is_no_reversion_in_a_cache_of_the_past():
    fleet = Fleet(spec(variants=[variant_spec(max_replicas=40)]), {"h100": 4})
    fleet.run(48.0, 600)
    fleet.run(150.0, 60)
    assert fleet.total > 4
    old = of(4, 12.0)
    shown = msgspec.structs.replace(old.variants[0], last_write=fleet.receipts["h100"])
    state = msgspec.structs.replace(old, variants=(shown,))
    loop = fleet.loop
    loop.now_s = fleet.now_s
    loop.run(snapshot(state, sources=sick("deployments")), 1200.0)
    assert loop.memory.services[0].variants[0].reversions == ()
    assert loop.memory.services[0].variants[0].drifted_at is None


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.RECOMMEND])
def test_without_a_right_to_write_an_unseen_rival_changes_nothing(mode):
    loop = settled(snapshot(of(6, 12.0, mode)))
    decided = loop.one(snapshot(of(6, 0.5, mode), sources=sick("horizontalpodautoscalers")), 900.0)
    assert decided.variants[0].allowed < 6, "what would be done is still said"
    assert condition(decided, "Acting") == ("False", f"Mode{mode.value}")


@pytest.mark.parametrize("name", sorted(sources.COUNTED))
def test_never_to_zero_on_counts_of_the_past_but_from_zero_for_a_first_request(name):
    declared = spec(scale_to_zero=to_zero(60.0), min_replicas=0, down_delay_s=0.0)
    idle = service(variant("h100", pods(1, 0.0)), declared, gateway_queue=fresh(0.0))
    asleep = service(variant("h100", ()), declared, gateway_queue=fresh(3.0))
    decided = settled(
        snapshot(service(variant("h100", pods(1, 0.0)), declared, gateway_queue=fresh(0.0)), sources=sick(name))
    )
    assert decided.one(snapshot(idle, sources=sick(name)), 900.0).variants[0].allowed == 1
    assert Loop().one(snapshot(asleep, sources=sick(name)), 60.0).variants[0].allowed == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(snapshots(mode=Mode.AUTO), st.sampled_from(sorted(sources.COUNTED)))
def test_counts_that_may_be_the_past_never_lower_what_serves(state, name):
    decided = settled(msgspec.structs.replace(state, sources=sick(name)), 200.0).plan
    assert all(shown.allowed >= shown.observed for shown in decided.services[0].variants)
    assert all(action.to_replicas > action.from_replicas for action in decided.actions)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(snapshots(), st.sampled_from(sorted(sources.OBEYED)))
def test_where_a_rival_may_be_unseen_nothing_is_ever_written(state, name):
    loop = settled(msgspec.structs.replace(state, sources=sick(name)), 200.0)
    assert loop.plan.actions == ()
    assert plan(msgspec.structs.replace(state, sources=sick(name)), Memory(), NOW)[0].actions == ()
