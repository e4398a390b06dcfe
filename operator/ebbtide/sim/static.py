"""The static reference: the fewest replicas that, never changed, meet both objectives for a share of the requests.

Where all variants take as many GPUs a replica, as in the demo, the fewest replicas are the fewest GPU-hours too.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

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
    """The fewest replicas over all mixes of the service's variants, for one service alone on the scenario's pools.

    Within the bounds that hold for an autoscaler too: each variant's maximum, the service's, and what its pool holds.
    `share` is 0..1 of submitted requests. Of equally many replicas the mix that comes first, most of the variants
    declared first, is taken. Raises ConfigurationError where the largest fleet does not reach the share.

    The search takes it that one replica fewer of a mix does not meet more: a number of replicas of which no mix reaches
    the share ends it. Where 8+1 do, all of 8+0, 7+1, 6+2 and so on are tried, and where these fail nine it is.
    """
    limits = _limits(scenario, service)
    best = largest(scenario, service)
    low, high = 1, sum(best.replicas.values())
    if best.result.met_both < share:
        raise ConfigurationError(
            f"{service.spec.key}: {high} replicas, the most within its bounds and its pools' GPUs, meet both "
            f"objectives for {best.result.met_both:.1%} of the requests; the static reference needs {share:.0%}: "
            "give the pools more GPUs and the variants higher maxima, or send less load"
        )
    while low < high:
        middle = (low + high) // 2
        attempt = _run(scenario, service, _spread(limits, middle))
        if attempt.result.met_both >= share:
            best, high = attempt, middle
        else:
            low = middle + 1
    while smaller := _first_that_reaches(scenario, service, share, _mixes(limits, sum(best.replicas.values()) - 1)):
        best = smaller
    return best


def largest(scenario: Scenario, service: ServiceScenario, spare: int = 0) -> StaticPeak:
    """All replicas within the service's bounds and its pools' GPUs but `spare` of them, at least one; never changed."""
    limits = _limits(scenario, service)
    most = min(service.spec.scaling.max_replicas, sum(limits.values()))
    return _run(scenario, service, _spread(limits, max(1, most - spare)))


def _limits(scenario: Scenario, service: ServiceScenario) -> dict[str, int]:
    return {v.name: min(v.max_replicas, _room(scenario, service, v.name)) for v in service.spec.variants}


def _first_that_reaches(
    scenario: Scenario, service: ServiceScenario, share: float, mixes: Iterable[dict[str, int]]
) -> StaticPeak | None:
    attempts = (_run(scenario, service, mix) for mix in mixes)
    return next((attempt for attempt in attempts if attempt.result.met_both >= share), None)


def _mixes(limits: dict[str, int], total: int) -> Iterator[dict[str, int]]:
    """Every way to have `total` replicas, at least one, within the limits; most of the first variants first."""
    for counts in itertools.product(*(range(limit, -1, -1) for limit in limits.values())):
        if sum(counts) == total > 0:
            yield dict(zip(limits, counts, strict=True))


def _room(scenario: Scenario, service: ServiceScenario, variant: str) -> int:
    declared = next(v for v in service.spec.variants if v.name == variant)
    _, nodes, gpus_per_node = scenario.pools[declared.pool]
    return nodes * (gpus_per_node // service.gpus_per_replica[variant])


def _spread(limits: dict[str, int], total: int) -> dict[str, int]:
    """The variants filled in the order declared: where the search begins."""
    return next(_mixes(limits, total))


def _run(scenario: Scenario, service: ServiceScenario, replicas: dict[str, int]) -> StaticPeak:
    alone = msgspec.structs.replace(scenario, services=(msgspec.structs.replace(service, start_replicas=replicas),))
    (result,) = simulate(alone, hold, FleetSettings(scrape_s=60.0))
    return StaticPeak(key=service.spec.key, replicas=replicas, result=result)
