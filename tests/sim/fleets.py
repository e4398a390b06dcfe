"""Builders of small scenarios: a case states only what matters to it."""

from decimal import Decimal

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
from ebbtide.sim.engine import Request
from ebbtide.sim.fleet import Scenario, ServiceScenario
from ebbtide.sim.profiles import profile

A100 = profile("8B", "NVIDIA-A100-SXM4-80GB")


def a_pool(name: str = "a100") -> PoolSpec:
    return PoolSpec(
        name=name,
        uid=name,
        generation=1,
        provisioning=Provisioning.STATIC,
        capacity_type=CapacityType.ON_DEMAND,
        node_selector=(("pool", name),),
        resource="nvidia.com/gpu",
        accelerator="A100-80GB",
        price=Price("USD", Tariff(Decimal("1.20"))),
        max_gpus=None,
        node_lead_time_s=60.0,
    )


def steady_requests(per_second: float, duration_s: float, output_tokens: int = 100) -> tuple[Request, ...]:
    count = int(per_second * duration_s)
    return tuple(
        Request(id=i, arrival_s=(i + 0.5) / per_second, prompt_tokens=500, output_tokens=output_tokens)
        for i in range(count)
    )


def a_service(
    requests: tuple[Request, ...], *, key: str = "demo/chat", start: int = 1, scaling: Scaling | None = None
) -> ServiceScenario:
    spec = ServiceSpec(
        key=key,
        uid=key,
        generation=1,
        mode=Mode.AUTO,
        model_name="llama",
        model_parameters_billion=8.0,
        objectives=Objectives(ttft_s=1.0, itl_s=0.05, attainment=0.99),
        priority=100,
        variants=(
            VariantSpec(
                name="a100", pool="a100", target=TargetRef("apps/v1", "Deployment", "chat"), gpus_per_replica=1
            ),
        ),
        scaling=scaling or Scaling(down_delay_s=30.0),
    )
    return ServiceScenario(
        spec=spec,
        profiles={"a100": A100},
        startup_s={"a100": (30.0, 30.0)},
        gpus_per_replica={"a100": 1},
        start_replicas={"a100": start},
        requests=requests,
    )


def a_scenario(*services: ServiceScenario, duration_s: float, gpus: int = 8, seed: int = 1) -> Scenario:
    return Scenario(seed=seed, duration_s=duration_s, pools={"a100": (a_pool(), 1, gpus)}, services=services)
