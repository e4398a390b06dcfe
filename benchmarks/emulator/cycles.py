"""Ebbtide's plan, cycle by cycle, over one replica's pages: how many replicas it would want.

The replica stays alone whatever is wanted (mode Recommend), so that both engines are asked the same question all the
time. Readings go through the operator's own reader; nothing but the pages differs between the two runs.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from benchmarks.emulator.pages import Page
from benchmarks.emulator.prometheus import NAMESPACE, POD, ScrapedPrometheus
from ebbtide.core.plan import plan
from ebbtide.model.memory import Memory
from ebbtide.model.snapshot import (
    EngineReadings,
    NodeState,
    PodPhase,
    PodState,
    PoolState,
    ServiceState,
    Snapshot,
    Source,
    TargetState,
    VariantState,
)
from ebbtide.model.spec import (
    CapacityType,
    Mode,
    Objectives,
    PoolSpec,
    Price,
    Provisioning,
    Scaling,
    ServiceSpec,
    TargetRef,
    Tariff,
    VariantSpec,
)
from ebbtide.observe.metrics import EngineMetrics
from ebbtide.observe.settings import PrometheusSettings

WINDOW_S, CYCLE_S, WARM_UP_S = 30, 5.0, 15.0
_START_S = 100_000.0  # unix time of second 0: far from the epoch, which means "never" in places
_BETWEEN_S = 60.0  # from one load to the next
_MOST = 50


@dataclass(frozen=True)
class Cycle:
    """One cycle: seconds into the load, replicas wanted, what one was taken to carry (requests/s), demand, why."""

    at_s: float
    wanted: int
    allowed: int
    capacity: float
    demand: float
    reason: str


def cycles(loads: Sequence[Sequence[Page]], objectives: Objectives) -> list[Cycle]:
    """Every `CYCLE_S` of the last load from `WARM_UP_S` to its last page, after those before have been watched."""
    return asyncio.run(_watched(loads, objectives))


async def _watched(loads: Sequence[Sequence[Page]], objectives: Objectives) -> list[Cycle]:
    memory, found, start_s = Memory(), list[Cycle](), _START_S
    for pages in loads:
        found, memory = await _cycles(pages, objectives, memory, start_s)
        start_s += pages[-1].at_s + _BETWEEN_S
    return found


async def _cycles(
    pages: Sequence[Page], objectives: Objectives, memory: Memory, start_s: float
) -> tuple[list[Cycle], Memory]:
    settings = PrometheusSettings(rate_window_s=WINDOW_S)
    prometheus: Any = ScrapedPrometheus(pages, settings)  # it has the one method that is used
    metrics = EngineMetrics(prometheus, settings)
    spec, found = _service(objectives), []
    at_s = WARM_UP_S
    while at_s <= pages[-1].at_s:
        await metrics.collect({f"{NAMESPACE}/{POD}"}, at_s)
        engine = metrics.snapshot().engine(f"{NAMESPACE}/{POD}", at_s)
        decided, memory = plan(_snapshot(spec, engine, start_s + at_s), memory, start_s + at_s)
        (service,) = decided.services
        (variant,) = service.variants
        found.append(
            Cycle(
                at_s=at_s,
                wanted=variant.wanted,
                allowed=variant.allowed,
                capacity=variant.capacity.requests_per_second if variant.capacity else 0.0,
                demand=service.demand.requests_per_second if service.demand else 0.0,
                reason=service.reason.text,
            )
        )
        at_s += CYCLE_S
    return found, memory


def _service(objectives: Objectives) -> ServiceSpec:
    target = TargetRef("apps/v1", "Deployment", "replica")
    return ServiceSpec(
        key=f"{NAMESPACE}/replica",
        uid="replica",
        generation=1,
        mode=Mode.RECOMMEND,
        model_name="model",
        model_parameters_billion=None,
        objectives=objectives,
        priority=100,
        variants=(VariantSpec(name="cpu", pool="cpu", target=target, gpus_per_replica=1, max_replicas=_MOST),),
        scaling=Scaling(max_replicas=_MOST, down_delay_s=10.0, down_max_per_minute=_MOST),
    )


_POOL = PoolState(
    spec=PoolSpec(
        name="cpu",
        uid="cpu",
        generation=1,
        provisioning=Provisioning.STATIC,
        capacity_type=CapacityType.ON_DEMAND,
        node_selector=(("pool", "cpu"),),
        resource="sandbox.ebbtide.dev/engine-slot",
        accelerator="CPU",
        price=Price("USD", Tariff(Decimal("1.00"))),
        max_gpus=None,
        node_lead_time_s=60.0,
    ),
    nodes=(NodeState(name="node", gpus=_MOST, allocated_gpus=1, ready=True, created_at=_START_S - 3600.0),),
    price_per_gpu_hour=Decimal("1.00"),
    currency="USD",
)


def _snapshot(spec: ServiceSpec, engine: EngineReadings | None, now_s: float) -> Snapshot:
    ready_at = _START_S - 600.0
    pod = PodState(
        name=POD,
        uid=POD,
        phase=PodPhase.READY,
        created_at=ready_at - 30.0,
        node="node",
        gpus=1,
        ready_at=ready_at,
        scheduled_at=ready_at - 30.0,
        engine=engine,
    )
    target = TargetState(
        exists=True,
        uid="replica",
        resource_version="1",
        spec_replicas=1,
        status_replicas=1,
        generation=1,
        observed_generation=1,
        gpus_per_replica=1,
        shutdown_timeout_s=30.0,
    )
    return Snapshot(
        taken_at=now_s,
        services=(ServiceState(spec=spec, variants=(VariantState(name="cpu", target=target, pods=(pod,)),)),),
        pools=(_POOL,),
        sources=(Source(name="prometheus", healthy=True, age_s=0.0),),
        rate_window_s=float(WINDOW_S),
        cycle_s=CYCLE_S,
    )
