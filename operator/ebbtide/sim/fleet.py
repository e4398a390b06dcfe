"""A fleet of services in virtual time under a policy: engines serve, Prometheus scrapes, the policy decides.

Everything happens at a known virtual second; nothing reads a clock. A policy sees a `Snapshot` built only from what
Prometheus and the API server would show at that moment.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from ebbtide.model.plan import ScaleAction
from ebbtide.model.snapshot import (
    NOT_APPLICABLE,
    EngineReadings,
    PodPhase,
    PodState,
    PoolState,
    Quality,
    Reading,
    ServiceState,
    Snapshot,
    Source,
    TargetState,
    VariantState,
    WriteReceipt,
)
from ebbtide.model.spec import PoolSpec, ServiceSpec
from ebbtide.money.prices import price_at
from ebbtide.sim.cluster import Pod, VariantFleet, VirtualCluster
from ebbtide.sim.engine import Outcome, Request
from ebbtide.sim.profiles import EngineProfile
from ebbtide.sim.scrape import PodScrapes, sample_of

TICK_S = 0.5
_PERIOD_S = 1.0  # pods are bound, drained and collected this often


class ServiceScenario(msgspec.Struct, frozen=True):
    """One service of a scenario. Per variant: the engine, the range of start-up times (s), replicas at the start."""

    spec: ServiceSpec
    profiles: dict[str, EngineProfile]
    startup_s: dict[str, tuple[float, float]]
    gpus_per_replica: dict[str, int]
    start_replicas: dict[str, int]
    requests: tuple[Request, ...]


class Scenario(msgspec.Struct, frozen=True):
    """Services, pools (spec, nodes, GPUs per node), and how long (virtual seconds) their load lasts."""

    seed: int
    duration_s: float
    pools: dict[str, tuple[PoolSpec, int, int]]
    services: tuple[ServiceScenario, ...]


class FleetSettings(msgspec.Struct, frozen=True):
    """The pace of the outside: scrapes, rate window, cycles.

    The policy watches from `lead_s` before second 0, or from the first request where that is earlier: requests with
    a negative arrival warm the fleet up and are not counted.
    """

    scrape_s: float = 5.0
    rate_window_s: float = 60.0
    cycle_s: float = 10.0
    lead_s: float = 0.0


class ServiceResult(msgspec.Struct, frozen=True):
    """What one service's requests met and what its GPUs took. Shares are 0..1 of submitted requests."""

    key: str
    requests: int
    met_both: float
    met_both_after_60s: float
    requests_after_60s: int
    gpu_hours: float
    scale_changes: int
    replicas_min: int
    replicas_max: int
    timeline: tuple[tuple[float, int, int, float], ...]  # (s, wanted replicas, ready, requests in flight)


Decide = Callable[[Snapshot, float], Sequence[ScaleAction]]


@dataclass
class _Service:
    """The live state of one service in the run."""

    scenario: ServiceScenario
    fleets: dict[str, VariantFleet]
    scrapes: dict[str, PodScrapes] = field(default_factory=dict)
    held: list[Request] = field(default_factory=list)
    receipts: dict[str, WriteReceipt] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    next_request: int = 0
    changes: int = 0
    timeline: list[tuple[float, int, int, float]] = field(default_factory=list)

    @property
    def key(self) -> str:
        return self.scenario.spec.key

    def pods(self) -> Iterator[Pod]:
        for fleet in self.fleets.values():
            yield from fleet.pods


class FleetSimulation:
    """One run of a scenario under a policy."""

    def __init__(self, scenario: Scenario, settings: FleetSettings, decide: Decide) -> None:
        self._scenario = scenario
        self._settings = settings
        self._decide = decide
        first_s = min((r.arrival_s for service in scenario.services for r in service.requests[:1]), default=0.0)
        self._lead_s = max(settings.lead_s, math.ceil(-first_s))
        self._cluster = VirtualCluster(scenario.pools, scenario.seed)
        self._services = [self._start(service) for service in scenario.services]

    def run(self) -> tuple[ServiceResult, ...]:
        """To the end of the load, then until every accepted request has ended (at most 5 virtual minutes more)."""
        settings = self._settings
        end_s, limit_s = self._scenario.duration_s, self._scenario.duration_s + 300.0
        now_s = scrape_at = period_at = -self._lead_s
        cycle_at = now_s + 0.5 * settings.cycle_s
        while now_s < end_s or (now_s < limit_s and self._busy()):
            now_s += TICK_S
            for service in self._services:
                self._serve_until(service, now_s)
            if now_s >= period_at:
                period_at += _PERIOD_S
                self._housekeeping(now_s)
            if now_s >= scrape_at:
                scrape_at += settings.scrape_s
                self._scrape(now_s)
            if now_s >= cycle_at and now_s < end_s:
                cycle_at += settings.cycle_s
                self._cycle(now_s)
        return tuple(self._result(service, end_s) for service in self._services)

    def _start(self, scenario: ServiceScenario) -> _Service:
        fleets = {
            variant.name: VariantFleet(
                name=variant.name,
                pool=variant.pool,
                gpus_per_replica=scenario.gpus_per_replica[variant.name],
                profile=scenario.profiles[variant.name],
                startup_range_s=scenario.startup_s[variant.name],
            )
            for variant in scenario.spec.variants
        }
        for fleet in fleets.values():
            began_s = -self._lead_s
            self._cluster.scale(scenario.spec.key, fleet, scenario.start_replicas.get(fleet.name, 0), began_s)
            for pod in fleet.pods:
                if pod.ready_at is not None:  # ready when the run begins, with the start-up behind it
                    pod.ready_at = began_s
                    pod.created_at = pod.bound_at = began_s - pod.startup_s
        return _Service(scenario=scenario, fleets=fleets)

    def _serve_until(self, service: _Service, to_s: float) -> None:
        requests = service.scenario.requests
        from_s = to_s - TICK_S
        if service.held and any(pod.serving(from_s) for pod in service.pods()):
            held, service.held = service.held, []
            for request in held:
                self._dispatch(service, request, from_s)
        while service.next_request < len(requests) and requests[service.next_request].arrival_s <= to_s:
            request = requests[service.next_request]
            service.next_request += 1
            self._advance(service, request.arrival_s)
            self._dispatch(service, request, request.arrival_s)
        self._advance(service, to_s)

    @staticmethod
    def _advance(service: _Service, to_s: float) -> None:
        for pod in service.pods():
            due_s = pod.engine.next_event_s()
            if due_s is not None and due_s <= to_s:
                service.outcomes += pod.engine.advance(to_s)

    @staticmethod
    def _dispatch(service: _Service, request: Request, now_s: float) -> None:
        ready = [pod.engine for pod in service.pods() if pod.serving(now_s)]
        if ready:
            min(ready, key=lambda engine: engine.running + engine.waiting).submit(request, now_s)
        else:
            service.held.append(request)

    def _housekeeping(self, now_s: float) -> None:
        for service in self._services:
            for fleet in service.fleets.values():
                service.outcomes += self._cluster.step(fleet, now_s)

    def _scrape(self, now_s: float) -> None:
        for service in self._services:
            for pod in service.pods():
                if pod.ready_at is not None and pod.ready_at <= now_s:
                    self._scrapes_of(service, pod).add(sample_of(pod.engine, now_s))
            wanted = sum(fleet.replicas for fleet in service.fleets.values())
            ready = sum(pod.serving(now_s) for pod in service.pods())
            load = float(sum(pod.engine.running + pod.engine.waiting for pod in service.pods()) + len(service.held))
            service.timeline.append((now_s, wanted, ready, load))

    def _scrapes_of(self, service: _Service, pod: Pod) -> PodScrapes:
        found = service.scrapes.get(pod.name)
        if found is None:
            profile = pod.engine.profile
            # vLLM says nowhere how many it lets run at a time
            most = float(profile.max_num_seqs) if profile.engine == "trtllm" else None
            found = PodScrapes(self._settings.rate_window_s, profile.kv_tokens, most)
            service.scrapes[pod.name] = found
        return found

    def _cycle(self, now_s: float) -> None:
        actions = self._decide(self.snapshot(now_s), now_s)
        by_key = {service.key: service for service in self._services}
        for action in actions:
            service = by_key[action.service]
            fleet = service.fleets[action.variant]
            self._cluster.scale(service.key, fleet, action.to_replicas, now_s, action.victims)
            service.receipts[fleet.name] = WriteReceipt(target_uid=fleet.name, replicas=action.to_replicas, at=now_s)
            service.changes += 1

    def snapshot(self, now_s: float) -> Snapshot:
        """The cluster as the observe layer would show it at `now_s`."""
        return Snapshot(
            taken_at=now_s,
            services=tuple(sorted((self._service_state(s, now_s) for s in self._services), key=lambda s: s.spec.key)),
            pools=tuple(self._pool_state(name, now_s) for name in sorted(self._scenario.pools)),
            sources=(Source(name="prometheus", healthy=True, age_s=1.0),),
            rate_window_s=self._settings.rate_window_s,
            cycle_s=self._settings.cycle_s,
        )

    def _pool_state(self, name: str, now_s: float) -> PoolState:
        spec = self._scenario.pools[name][0]
        price = price_at(name, spec.price, now_s)
        return PoolState(
            spec=spec,
            nodes=self._cluster.node_states(name),
            price_per_gpu_hour=price.per_gpu_hour,
            currency=price.currency,
            next_price_change_at=price.next_at,
            next_price_per_gpu_hour=price.next_per_gpu_hour,
            faults=price.faults,
        )

    def _service_state(self, service: _Service, now_s: float) -> ServiceState:
        variants = tuple(self._variant_state(service, fleet, now_s) for fleet in service.fleets.values())
        zero = service.scenario.spec.scaling.scale_to_zero is not None
        queue = Reading(quality=Quality.FRESH, value=float(len(service.held)), age_s=1.0) if zero else NOT_APPLICABLE
        return ServiceState(spec=service.scenario.spec, variants=variants, gateway_queue=queue)

    @staticmethod
    def _variant_state(service: _Service, fleet: VariantFleet, now_s: float) -> VariantState:
        def readings(pod: Pod) -> EngineReadings | None:
            scrapes = service.scrapes.get(pod.name)
            return scrapes.readings(now_s) if scrapes else None

        pods = tuple(
            PodState(
                name=pod.name,
                uid=pod.name,
                phase=pod.phase(now_s),
                created_at=pod.created_at,
                node=pod.node.name if pod.node else "",
                gpus=pod.gpus,
                ready_at=pod.ready_at if pod.phase(now_s) is PodPhase.READY else None,
                scheduled_at=pod.bound_at,
                engine=readings(pod),
            )
            for pod in sorted(fleet.pods, key=lambda p: p.name)
        )
        target = TargetState(
            exists=True,
            uid=fleet.name,
            resource_version="1",
            spec_replicas=fleet.replicas,
            status_replicas=len(pods),
            generation=1,
            observed_generation=1,
            gpus_per_replica=fleet.gpus_per_replica,
            shutdown_timeout_s=fleet.grace_s,
        )
        return VariantState(name=fleet.name, target=target, pods=pods, last_write=service.receipts.get(fleet.name))

    def _busy(self) -> bool:
        return any(s.held or any(p.engine.running + p.engine.waiting for p in s.pods()) for s in self._services)

    def _result(self, service: _Service, end_s: float) -> ServiceResult:
        objectives = service.scenario.spec.objectives
        met = [o.request.arrival_s for o in service.outcomes if o.meets(objectives.ttft_s, objectives.itl_s)]
        met = [at for at in met if at >= 0.0]
        arrivals = [r.arrival_s for r in service.scenario.requests if r.arrival_s >= 0.0]
        late = sum(at >= 60.0 for at in arrivals)
        pods = [pod for fleet in service.fleets.values() for pod in (*fleet.pods, *fleet.gone)]
        gpu_s = sum(
            pod.gpus * max(0.0, min(pod.gone_at if pod.gone_at is not None else end_s, end_s) - max(0.0, pod.bound_at))
            for pod in pods
            if pod.bound_at is not None
        )
        wanted = [row[1] for row in service.timeline if row[0] <= end_s]
        return ServiceResult(
            key=service.key,
            requests=len(arrivals),
            met_both=len(met) / len(arrivals) if arrivals else 1.0,
            met_both_after_60s=sum(at >= 60.0 for at in met) / late if late else 1.0,
            requests_after_60s=late,
            gpu_hours=gpu_s / 3600.0,
            scale_changes=service.changes,
            replicas_min=min(wanted, default=0),
            replicas_max=max(wanted, default=0),
            timeline=tuple(service.timeline),
        )


def simulate(scenario: Scenario, decide: Decide, settings: FleetSettings | None = None) -> tuple[ServiceResult, ...]:
    """Run the scenario once under the policy; one result per service, in the scenario's order."""
    return FleetSimulation(scenario, settings or FleetSettings(), decide).run()
