"""The static reference: the fewest replicas that, never changed, meet both objectives for a share of the requests."""

from collections.abc import Sequence

import msgspec

from ebbtide.errors import ConfigurationError
from ebbtide.model.plan import ScaleAction
from ebbtide.model.snapshot import Snapshot
from ebbtide.sim.fleet import FleetSettings, Scenario, ServiceResult, ServiceScenario, simulate


class StaticPeak(msgspec.Struct, frozen=True):
    """The reference for one service: replicas by variant, and its result."""

    key: str
    replicas: dict[str, int]
    result: ServiceResult


def hold(snapshot: Snapshot, now_s: float) -> Sequence[ScaleAction]:
    """The policy that changes nothing."""
    return ()


def static_peak(scenario: Scenario, service: ServiceScenario, share: float) -> StaticPeak:
    """Bisect the number of replicas for one service alone on the scenario's pools.

    Replicas fill the variants in the order declared, each up to what its pool holds (a declared maximum binds an
    autoscaler, not its reference), so that the same hardware is used first as its owner would. `share` is 0..1 of
    submitted requests. Raises ConfigurationError where all that the pools hold do not reach it.
    """
    limits = {v.name: _room(scenario, service, v.name) for v in service.spec.variants}
    low, high = 1, sum(limits.values())
    best = _run(scenario, service, _spread(limits, high))
    if best.result.met_both < share:
        raise ConfigurationError(
            f"{service.spec.key}: {high} replicas, all that its pools hold, meet both objectives for "
            f"{best.result.met_both:.1%} of the requests; the static reference needs {share:.0%}: "
            "give the pools more GPUs"
        )
    while low < high:
        middle = (low + high) // 2
        attempt = _run(scenario, service, _spread(limits, middle))
        if attempt.result.met_both >= share:
            best, high = attempt, middle
        else:
            low = middle + 1
    return best


def _room(scenario: Scenario, service: ServiceScenario, variant: str) -> int:
    declared = next(v for v in service.spec.variants if v.name == variant)
    _, nodes, gpus_per_node = scenario.pools[declared.pool]
    return nodes * (gpus_per_node // service.gpus_per_replica[variant])


def _spread(limits: dict[str, int], total: int) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, limit in limits.items():
        counts[name] = min(limit, total - sum(counts.values()))
    return counts


def _run(scenario: Scenario, service: ServiceScenario, replicas: dict[str, int]) -> StaticPeak:
    alone = msgspec.structs.replace(scenario, services=(msgspec.structs.replace(service, start_replicas=replicas),))
    (result,) = simulate(alone, hold, FleetSettings(scrape_s=60.0))
    return StaticPeak(key=service.spec.key, replicas=replicas, result=result)
