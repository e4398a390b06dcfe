"""The virtual fleet: nothing is lost, GPUs are billed while held, and a policy sees only what Prometheus would show."""

import itertools
from collections.abc import Sequence

import msgspec
import pytest

from ebbtide.errors import ConfigurationError
from ebbtide.model.plan import ScaleAction
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.snapshot import PodPhase, Quality, Snapshot
from ebbtide.model.spec import TargetRef, VariantSpec
from ebbtide.sim.engine import Request
from ebbtide.sim.fleet import FleetSettings, FleetSimulation, ServiceScenario, simulate
from ebbtide.sim.profiles import profile
from ebbtide.sim.static import hold, static_peak
from tests.sim.fleets import a_pool, a_scenario, a_service, steady_requests


class ScriptedPolicy:
    """Scales to the given replicas at the given virtual seconds and keeps every snapshot."""

    def __init__(self, script: dict[float, int]) -> None:
        self.script = script
        self.snapshots: list[Snapshot] = []

    def __call__(self, snapshot: Snapshot, now_s: float) -> Sequence[ScaleAction]:
        self.snapshots.append(snapshot)
        due = [replicas for at_s, replicas in self.script.items() if at_s <= now_s]
        target = snapshot.services[0].variants[0].target
        if not due or due[-1] == target.spec_replicas:
            return ()
        return (
            ScaleAction(
                service="demo/chat",
                variant="a100",
                target=TargetRef("apps/v1", "Deployment", "chat"),
                target_uid=target.uid,
                resource_version=target.resource_version,
                from_replicas=target.spec_replicas,
                to_replicas=due[-1],
                reason=Reason(Code.DEMAND_ROSE, "scripted"),
            ),
        )


def test_every_request_of_a_fleet_with_room_is_served_within_its_objectives() -> None:
    scenario = a_scenario(a_service(steady_requests(4.0, 120.0)), duration_s=120.0)
    (result,) = simulate(scenario, hold)
    assert result.requests == 480
    assert result.met_both == 1.0
    assert result.gpu_hours == pytest.approx(120 / 3600, rel=0.01)


def test_requests_wait_at_the_gateway_for_a_start_from_zero_and_their_wait_counts() -> None:
    scenario = a_scenario(a_service(steady_requests(1.0, 120.0), start=0), duration_s=120.0)
    policy = ScriptedPolicy({20.0: 1})
    (result,) = simulate(scenario, policy, FleetSettings(cycle_s=5.0))
    # the replica is asked for at 20 s, ready at 50 s: all that came before 49 s had waited more than the 1 s allowed
    assert result.met_both == pytest.approx(71 / 120, abs=0.03)


def test_a_replica_is_billed_from_its_node_until_it_has_drained() -> None:
    scenario = a_scenario(a_service(steady_requests(2.0, 200.0), start=2), duration_s=200.0)
    (result,) = simulate(scenario, ScriptedPolicy({100.0: 1}), FleetSettings(cycle_s=10.0))
    # two replicas for about 105 s, one for the rest; the leaving one drains for a request's length
    assert 300 / 3600 < result.gpu_hours < 325 / 3600
    assert result.met_both == 1.0
    assert result.scale_changes == 1


def test_a_replica_without_a_free_gpu_stays_unschedulable_and_serves_nothing() -> None:
    scenario = a_scenario(a_service(steady_requests(2.0, 100.0)), duration_s=100.0, gpus=1)
    policy = ScriptedPolicy({10.0: 2})
    simulate(scenario, policy)
    phases = [pod.phase for pod in policy.snapshots[-1].services[0].variants[0].pods]
    assert sorted(phases) == [PodPhase.READY, PodPhase.UNSCHEDULABLE]


def test_a_snapshot_shows_rates_over_the_window_and_unknown_before_two_scrapes() -> None:
    scenario = a_scenario(a_service(steady_requests(5.0, 200.0)), duration_s=200.0)
    policy = ScriptedPolicy({})
    simulate(scenario, policy, FleetSettings(scrape_s=15.0, rate_window_s=60.0))
    first, last = policy.snapshots[0], policy.snapshots[-1]
    early, late = (s.services[0].variants[0].pods[0].engine for s in (first, last))
    assert early is not None
    assert late is not None
    assert early.arrivals.quality is Quality.UNKNOWN
    assert late.arrivals.fresh == pytest.approx(5.0, rel=0.1)
    assert late.generation_tokens.fresh == pytest.approx(500.0, rel=0.15)
    assert late.tpot is not None
    assert late.tpot.mean_s is not None
    assert late.tpot.buckets[-1][1] == pytest.approx(late.tpot.per_second)


def test_the_same_seed_gives_the_same_run() -> None:
    scenario = a_scenario(a_service(steady_requests(8.0, 60.0)), duration_s=60.0, seed=3)
    assert simulate(scenario, hold) == simulate(scenario, hold)


def test_the_static_peak_is_the_fewest_replicas_that_reach_the_share() -> None:
    service = a_service(steady_requests(45.0, 60.0, output_tokens=200))
    scenario = a_scenario(service, duration_s=60.0)
    peak = static_peak(scenario, service, 0.97)
    assert peak.result.met_both >= 0.97
    one_gpu_less = a_scenario(service, duration_s=60.0, gpus=peak.replicas["a100"] - 1)
    with pytest.raises(ConfigurationError, match="give the pools more GPUs"):
        static_peak(one_gpu_less, service, 0.97)


def two_variants(requests: tuple[Request, ...], most: dict[str, int]) -> ServiceScenario:
    """`a100` is declared first; one H100 of `h100` carries about as much as three of them."""
    one = a_service(requests)
    variants = tuple(
        VariantSpec(
            name=name,
            pool=name,
            target=TargetRef("apps/v1", "Deployment", name),
            gpus_per_replica=1,
            max_replicas=count,
        )
        for name, count in most.items()
    )
    return msgspec.structs.replace(
        one,
        spec=msgspec.structs.replace(one.spec, variants=variants),
        profiles={"a100": one.profiles["a100"], "h100": profile("8B", "NVIDIA-H100-80GB-HBM3")},
        startup_s=dict.fromkeys(most, (30.0, 30.0)),
        gpus_per_replica=dict.fromkeys(most, 1),
    )


@pytest.mark.parametrize("most", [{"a100": 4, "h100": 2}, {"a100": 4, "h100": 1}], ids=["room for two", "bound to one"])
def test_the_static_peak_is_the_fewest_replicas_over_all_mixes_within_the_declared_bounds(most: dict[str, int]) -> None:
    """Tried one by one: filling the variant that is declared first would take more where the second is stronger."""
    service = two_variants(steady_requests(65.0, 40.0, output_tokens=200), most)
    scenario = a_scenario(service, duration_s=40.0)
    scenario.pools["h100"] = (a_pool("h100"), 1, 8)
    meeting = []
    for a100, h100 in itertools.product(range(most["a100"] + 1), range(most["h100"] + 1)):
        fleet = msgspec.structs.replace(service, start_replicas={"a100": a100, "h100": h100})
        (result,) = simulate(msgspec.structs.replace(scenario, services=(fleet,)), hold)
        if a100 + h100 and result.met_both >= 0.97:
            meeting.append((a100, h100))
    peak = static_peak(scenario, service, 0.97)
    assert sum(peak.replicas.values()) == min(map(sum, meeting))
    assert (peak.replicas["a100"], peak.replicas["h100"]) in meeting
    assert peak.replicas["h100"] > 0, "the second variant is worth it"
    assert sum(peak.replicas.values()) < min(a100 for a100, h100 in [*meeting, (99, 0)] if h100 == 0)


def test_a_run_ends_even_when_nothing_ever_becomes_ready() -> None:
    scenario = a_scenario(a_service(steady_requests(1.0, 30.0), start=0), duration_s=30.0)
    simulation = FleetSimulation(scenario, FleetSettings(), hold)
    (result,) = simulation.run()
    assert result.met_both == 0.0
    assert result.gpu_hours == 0.0
