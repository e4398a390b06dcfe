"""Builders for plans and snapshots: every field has a default, so that a case states only what matters."""

from decimal import Decimal
from typing import Any

from ebbtide.model.plan import (
    Capacity,
    CeilingPlan,
    Condition,
    ConditionStatus,
    Demand,
    Forecast,
    Plan,
    PolicyPlan,
    PoolPlan,
    ScaleAction,
    Score,
    ServicePlan,
    VariantPlan,
)
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.snapshot import (
    PodPhase,
    PodState,
    PolicyState,
    PoolState,
    ServiceState,
    Snapshot,
    Source,
    TargetState,
    VariantState,
)
from ebbtide.model.spec import (
    CapacityType,
    CeilingKind,
    EngineSpec,
    EngineType,
    Mode,
    Objectives,
    PolicySpec,
    PoolSpec,
    Price,
    Provisioning,
    Scaling,
    ServiceSpec,
    TargetRef,
    Tariff,
    Toleration,
    VariantSpec,
)

NOW_S = 1_800_000_000.0
POOL = "h100"
DAY_S = 86_400.0
POLICY = PolicySpec("cap", "policy-uid", 1, "USD", ((CeilingKind.DAY, Decimal(100)),))


def target_ref(name: str = "chat-h100", kind: str = "Deployment", api_version: str = "apps/v1") -> TargetRef:
    return TargetRef(api_version=api_version, kind=kind, name=name)


def engine(type_: EngineType = EngineType.VLLM, **changes: Any) -> EngineSpec:
    fields: dict[str, Any] = {"image": "example.com/engine:1", "args": ("llama",)}
    return EngineSpec(type=type_, **(fields | changes))


def variant_spec(name: str = "h100", **changes: Any) -> VariantSpec:
    fields: dict[str, Any] = {"pool": POOL, "target": target_ref(f"chat-{name}"), "max_replicas": 10}
    return VariantSpec(name=name, **(fields | changes))


def service_spec(key: str = "team/chat", mode: Mode = Mode.AUTO, **changes: Any) -> ServiceSpec:
    fields: dict[str, Any] = {
        "uid": f"uid-of-{key}",
        "generation": 1,
        "model_name": "llama-3-8b",
        "model_parameters_billion": 8.0,
        "objectives": Objectives(ttft_s=1.0, itl_s=0.05, attainment=0.99),
        "priority": 100,
        "variants": (variant_spec(),),
        "scaling": Scaling(),
    }
    return ServiceSpec(key=key, mode=mode, **(fields | changes))


def pool_spec(name: str = POOL, **changes: Any) -> PoolSpec:
    fields: dict[str, Any] = {
        "uid": f"uid-of-{name}",
        "generation": 1,
        "provisioning": Provisioning.STATIC,
        "capacity_type": CapacityType.ON_DEMAND,
        "node_selector": (("pool", name),),
        "resource": "nvidia.com/gpu",
        "accelerator": "H100-80GB",
        "price": Price("USD", Tariff(Decimal("2.50"))),
        "max_gpus": 64,
        "node_lead_time_s": 240.0,
        "tolerations": (Toleration(key="nvidia.com/gpu", effect="NoSchedule"),),
    }
    return PoolSpec(name=name, **(fields | changes))


def target_state(replicas: int = 4, **changes: Any) -> TargetState:
    fields: dict[str, Any] = {
        "exists": True,
        "uid": "target-uid",
        "resource_version": "100",
        "spec_replicas": replicas,
        "status_replicas": replicas,
        "generation": 3,
        "observed_generation": 3,
    }
    return TargetState(**(fields | changes))


def pod(name: str, **changes: Any) -> PodState:
    fields: dict[str, Any] = {"uid": f"uid-{name}", "phase": PodPhase.READY, "created_at": NOW_S - 600.0, "gpus": 1}
    return PodState(name=name, **(fields | changes))


def variant_state(name: str = "h100", target: TargetState | None = None, **changes: Any) -> VariantState:
    return VariantState(name=name, target=target or target_state(), **changes)


def service_state(spec: ServiceSpec | None = None, *variants: VariantState) -> ServiceState:
    return ServiceState(spec=spec or service_spec(), variants=variants or (variant_state(),))


def pool_state(spec: PoolSpec | None = None, **changes: Any) -> PoolState:
    fields: dict[str, Any] = {"price_per_gpu_hour": Decimal("2.50"), "currency": "USD"}
    return PoolState(spec=spec or pool_spec(), **(fields | changes))


def snapshot(*services: ServiceState, pools: tuple[PoolState, ...] | None = None) -> Snapshot:
    return Snapshot(
        taken_at=NOW_S,
        services=services or (service_state(),),
        pools=(pool_state(),) if pools is None else pools,
        policies=(PolicyState(POLICY),),
        sources=(Source(name="prometheus", healthy=True, age_s=1.5),),
    )


def reason(code: Code = Code.DEMAND_ROSE, text: str = "12.5 requests/s expected, 4 replicas carry 9.6") -> Reason:
    return Reason(code=code, text=text)


def action(to: int = 6, **changes: Any) -> ScaleAction:
    fields: dict[str, Any] = {
        "service": "team/chat",
        "variant": "h100",
        "target": target_ref(),
        "target_uid": "target-uid",
        "resource_version": "100",
        "from_replicas": 4,
        "reason": reason(),
    }
    return ScaleAction(to_replicas=to, **(fields | changes))


def variant_plan(name: str = "h100", **changes: Any) -> VariantPlan:
    fields: dict[str, Any] = {
        "observed": 4,
        "ready": 4,
        "starting": 0,
        "wanted": 4,
        "allowed": 4,
        "capacity": Capacity(2.4, "observed", 96.0, "fitted over 12 min at 60..110 running", 2.1, 2.7),
        "startup_s": 48.0,
    }
    return VariantPlan(name=name, **(fields | changes))


def condition(
    type_: str = "MetricsFresh", status: str = "True", reason_: str = "Resolved", message: str = "all 4 pods answer"
) -> Condition:
    return Condition(type_, ConditionStatus(status), reason_, message)


def service_plan(key: str = "team/chat", **changes: Any) -> ServicePlan:
    fields: dict[str, Any] = {
        "variants": (variant_plan(),),
        "demand": Demand(9.0, 1024.0, 256.0, 2.0),
        "forecast": Forecast(
            60.0, 9.6, 8.1, 11.2, "level", 9.4, 9830.0, 2460.0, Score(31.4, 0.94, 1.02, (0.004, 0.031, 0.006))
        ),
        "waterfall": (),
        "reason": reason(Code.WITHIN_TARGET, "4 replicas carry 9.6 requests/s, 9.0 arrive"),
        "conditions": (condition(), condition("Ready", message="serving")),
        "spend_per_hour": Decimal("10.00"),
        "currency": "USD",
    }
    return ServicePlan(key=key, **(fields | changes))


def pool_plan(name: str = POOL, **changes: Any) -> PoolPlan:
    fields: dict[str, Any] = {
        "nodes": 2,
        "gpus": 16,
        "allocated": 4,
        "free": 12,
        "lead_time_s": None,
        "backing_off_until": None,
        "conditions": (condition("Ready"),),
    }
    return PoolPlan(name=name, **(fields | changes))


READY = Condition("Ready", ConditionStatus.TRUE, Code.WITHIN_CEILINGS.value, "1 services spend 3.00 USD an hour")


def policy_plan(*, raised: bool = True, at: float = 1000.0, **changes: Any) -> PolicyPlan:
    day = CeilingPlan(CeilingKind.DAY, 0.0, DAY_S, Decimal(100), Decimal("12.3456789"), Decimal(5))
    fields: dict[str, Any] = {
        "name": "cap",
        "uid": "policy-uid",
        "services": 1,
        "ceilings": (day,),
        "per_hour": Decimal(3),
        "wanted_per_hour": Decimal(6),
        "uncontrollable_per_hour": Decimal(0),
        "unpriced_gpus": 0,
        "gave_way": (),
        "given_up": 0,
        "raised": ("ml/chat",) if raised else (),
        "reason": Reason(Code.WITHIN_CEILINGS, READY.message),
        "conditions": (READY,),
        "accrued_through": at,
    }
    return PolicyPlan(**(fields | changes))


def plan(*services: ServicePlan, **changes: Any) -> Plan:
    fields: dict[str, Any] = {"at": NOW_S, "pools": (pool_plan(),), "policies": (policy_plan(raised=False),)}
    return Plan(services=services or (service_plan(),), **(fields | changes))
