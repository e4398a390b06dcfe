"""Snapshots for tests: defaults for everything, so that a case states only what matters to it.

The default service runs `n` ready replicas of an 8B model on one H100 each, each serving `rps` requests/s, comfortably.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec

from ebbtide.core.plan import plan
from ebbtide.model.catalogue import CATALOGUE, DECISION, DEPLOYMENT
from ebbtide.model.memory import Memory
from ebbtide.model.plan import ConditionStatus, Plan, ServicePlan
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import (
    NOT_APPLICABLE,
    EngineReadings,
    Latency,
    NodeState,
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
from ebbtide.model.spec import (
    Activator,
    CapacityType,
    Mode,
    Objectives,
    PoolSpec,
    Provisioning,
    ScaleToZero,
    Scaling,
    ServiceSpec,
    TargetRef,
    VariantSpec,
)

NOW = 1_000_000.0
OUTPUT_TOKENS, INPUT_TOKENS = 256.0, 1024.0
KV_TOKENS = 420_000.0
_BOUNDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, float("inf"))


def fresh(value: float) -> Reading:
    return Reading(quality=Quality.FRESH, value=value, age_s=5.0)


def stale(value: float, age_s: float = 300.0) -> Reading:
    return Reading(quality=Quality.STALE, value=value, age_s=age_s)


def latency(mean_s: float, per_second: float, share_above: float = 0.0, limit_s: float = 0.05) -> Latency:
    """All observations at the mean, except `share_above` of them just beyond the limit."""
    buckets = []
    for bound in _BOUNDS:
        below = 0.0
        if bound >= mean_s:
            below += 1.0 - share_above
        if bound > limit_s:
            below += share_above
        buckets.append((bound, per_second * min(1.0, below)))
    return Latency(per_second=per_second, mean_s=mean_s if per_second else None, buckets=tuple(buckets))


def engine(
    rps: float, *, itl_s: float | None = None, missed: float = 0.0, waiting: float = 0.0, **changes: Any
) -> EngineReadings:
    """A pod that serves `rps` requests/s the way an H100 does: ITL = 6 ms + 0.135 ms x N, unless told otherwise."""
    speed = itl_s if itl_s is not None else 0.006 / max(0.05, 1.0 - rps * OUTPUT_TOKENS * 0.000135)
    running, kv_tokens = rps * OUTPUT_TOKENS * speed, changes.get("kv_tokens", KV_TOKENS)
    readings: dict[str, Any] = {
        "engine": "vLLM",
        "running": fresh(running),
        "waiting": fresh(waiting),
        "kv_usage": fresh(min(1.0, running * (INPUT_TOKENS + 0.5 * OUTPUT_TOKENS) / (kv_tokens or KV_TOKENS))),
        "finished": fresh(rps),
        "arrivals": fresh(rps),
        "prompt_tokens": fresh(rps * INPUT_TOKENS),
        "generation_tokens": fresh(rps * OUTPUT_TOKENS),
        "ttft": latency(0.1, rps, missed, 1.0),
        "itl": latency(speed, rps * OUTPUT_TOKENS),
        "tpot": latency(speed, rps),
        "kv_tokens": KV_TOKENS,
        "max_running": 1024.0,
    }
    return EngineReadings(**(readings | changes))


def silent_engine() -> EngineReadings:
    return EngineReadings(engine="vLLM")


def pod(
    name: str, readings: EngineReadings | None = None, *, phase: PodPhase = PodPhase.READY, **changes: Any
) -> PodState:
    ready = phase in (PodPhase.READY, PodPhase.INTERRUPTED)
    fields: dict[str, Any] = {
        "name": name,
        "uid": f"uid-{name}",
        "phase": phase,
        "created_at": NOW - (10.0 if phase is PodPhase.STARTING else 4000.0),
        "node": f"node-{name}" if phase not in (PodPhase.PENDING, PodPhase.UNSCHEDULABLE) else "",
        "gpus": 1,
        "ready_at": NOW - 3940.0 if ready else None,
        "engine": readings,
    }
    return PodState(**(fields | changes))


def pods(n: int, rps: float, prefix: str = "a", **readings: Any) -> tuple[PodState, ...]:
    return tuple(pod(f"{prefix}-{i}", engine(rps, **readings)) for i in range(n))


def target(replicas: int, name: str = "chat", **changes: Any) -> TargetState:
    fields: dict[str, Any] = {
        "exists": True,
        "uid": f"uid-{name}",
        "resource_version": "7",
        "spec_replicas": replicas,
        "status_replicas": replicas,
        "gpus_per_replica": 1,
    }
    return TargetState(**(fields | changes))


def variant_spec(name: str = "h100", pool: str = "h100", **changes: Any) -> VariantSpec:
    fields: dict[str, Any] = {"name": name, "pool": pool, "target": TargetRef("apps/v1", "Deployment", f"chat-{name}")}
    return VariantSpec(**(fields | changes))


def variant(name: str, pod_states: Sequence[PodState], replicas: int | None = None, **changes: Any) -> VariantState:
    receipt: WriteReceipt | None = changes.pop("last_write", None)
    count = len(pod_states) if replicas is None else replicas
    return VariantState(name, target(count, name, **changes), tuple(pod_states), receipt)


def spec(key: str = "ml/chat", variants: Sequence[VariantSpec] | None = None, **changes: Any) -> ServiceSpec:
    scaling: dict[str, Any] = {"down_delay_s": 300.0}
    scaling |= {name: changes.pop(name) for name in tuple(changes) if name in Scaling.__struct_fields__}
    fields: dict[str, Any] = {
        "key": key,
        "uid": f"uid-{key}",
        "generation": 1,
        "mode": Mode.AUTO,
        "model_name": "llama-3-8b",
        "model_parameters_billion": 8.0,
        "objectives": Objectives(ttft_s=1.0, itl_s=0.05, attainment=0.99),
        "priority": 100,
        "variants": tuple(variants or (variant_spec(),)),
        "scaling": Scaling(**scaling),
    }
    return ServiceSpec(**(fields | changes))


def to_zero(after_s: float = 600.0) -> ScaleToZero:
    return ScaleToZero(after_s, Activator("http://gateway/metrics", ("queue",)))


def service(
    state: VariantState | Sequence[VariantState], service_spec: ServiceSpec | None = None, **changes: Any
) -> ServiceState:
    variants = (state,) if isinstance(state, VariantState) else tuple(state)
    declared = service_spec or spec(variants=[variant_spec(v.name, v.name) for v in variants])
    fields: dict[str, Any] = {"gateway_queue": NOT_APPLICABLE}
    return ServiceState(declared, variants, **(fields | changes))


def node(name: str, gpus: int = 8, allocated: int = 0, **changes: Any) -> NodeState:
    return NodeState(
        **({"name": name, "gpus": gpus, "allocated_gpus": allocated, "ready": True, "created_at": 0.0} | changes)
    )


def pool(
    name: str = "h100", nodes: Sequence[NodeState] | int = 8, price: str | None = "3.00", **changes: Any
) -> PoolState:
    """`nodes` as a number: so many nodes of 8 free GPUs."""
    states = tuple(node(f"{name}-{i}") for i in range(nodes)) if isinstance(nodes, int) else tuple(nodes)
    fields: dict[str, Any] = {
        "name": name,
        "uid": f"uid-{name}",
        "generation": 1,
        "provisioning": Provisioning.STATIC,
        "capacity_type": CapacityType.ON_DEMAND,
        "node_selector": (("pool", name),),
        "resource": "nvidia.com/gpu",
        "accelerator": {"h100": "H100-80GB", "a100": "A100-80GB", "l40s": "L40S"}.get(name, "H100-80GB"),
        "price": None,
        "max_gpus": None,
        "node_lead_time_s": 240.0,
    }
    return PoolState(
        spec=PoolSpec(**(fields | changes)),
        nodes=states,
        price_per_gpu_hour=None if price is None else Decimal(price),
        currency="" if price is None else "USD",
    )


def snapshot(
    services: ServiceState | Sequence[ServiceState],
    pools: PoolState | Sequence[PoolState] | None = None,
    **changes: Any,
) -> Snapshot:
    states = (services,) if isinstance(services, ServiceState) else tuple(services)
    pool_states = (pool(),) if pools is None else (pools,) if isinstance(pools, PoolState) else tuple(pools)
    fields: dict[str, Any] = {"sources": (Source("prometheus", healthy=True, age_s=1.0),)}
    return Snapshot(changes.pop("taken_at", NOW), states, pool_states, **(fields | changes))


class Loop:
    """Feeds snapshots through `plan` at a steady pace, with the memory between; does not apply what is planned."""

    def __init__(self, memory: Memory | None = None, now_s: float = NOW, cycle_s: float = 10.0) -> None:
        self.memory = memory or Memory()
        self.now_s = now_s
        self.cycle_s = cycle_s
        self.plan = Plan(at=now_s)

    def run(self, state: Snapshot, seconds: float = 0.0) -> Plan:
        """At least one cycle; for `seconds` the same snapshot again and again."""
        cycles = max(1, round(seconds / self.cycle_s))
        for _ in range(cycles):
            self.plan, memory = plan(state, self.memory, self.now_s)
            assert not misplaced(self.plan), f"where the catalogue does not know of it: {misplaced(self.plan)}"
            # Nothing was applied, so nothing was moved.
            unmoved = tuple(msgspec.structs.replace(service, moves=()) for service in memory.services)
            self.memory = msgspec.structs.replace(memory, services=unmoved)
            self.now_s += self.cycle_s
        return self.plan

    def one(self, state: Snapshot, seconds: float = 0.0) -> ServicePlan:
        """The first service's plan."""
        return self.run(state, seconds).services[0]


def misplaced(decided: Plan) -> set[tuple[str, str]]:
    """(place, reason) of what a plan says where the catalogue of reasons, and so its page, does not know of it."""
    said: set[tuple[str, str]] = set()
    for item in decided.services:
        said.add((DECISION, item.reason.code.value))
        said |= {(each.type, each.reason) for each in item.conditions}
        said |= {("Limited", variant.limited_by) for variant in item.variants if variant.limited_by}
    said |= {(f"GPUPool.{each.type}", each.reason) for pool in decided.pools for each in pool.conditions}
    said |= {(f"CostPolicy.{each.type}", each.reason) for item in decided.policies for each in item.conditions}
    causes = [each for each in decided.cluster_conditions if each.status is ConditionStatus.FALSE]
    said |= {(DEPLOYMENT, each.reason) for each in causes}
    return {(place, reason) for place, reason in said if place not in CATALOGUE[Code(reason)].where}


def settled(state: Snapshot, seconds: float = 900.0) -> Loop:
    """A loop that has watched this snapshot for long enough to lower things."""
    loop = Loop()
    loop.run(state, seconds)
    return loop


def condition(decided: ServicePlan, kind: str) -> tuple[str, str]:
    """(status, reason) of one condition."""
    return next((c.status.value, c.reason) for c in decided.conditions if c.type == kind)


class Fleet:
    """A service that obeys: replicas follow the plan's actions, become ready after `startup_s`, and share the load.

    Fluid, without queues: enough for delays, rates and restarts. One variant a name, one GPU a replica.
    """

    def __init__(self, service_spec: ServiceSpec, replicas: dict[str, int], *, startup_s: float = 60.0) -> None:
        self.spec = service_spec
        self.startup_s = startup_s
        self.now_s = NOW
        self.loop = Loop()
        self.born: dict[str, list[float]] = {
            v.name: [NOW - 4000.0] * replicas.get(v.name, 0) for v in service_spec.variants
        }
        self.receipts: dict[str, WriteReceipt] = {}
        self.history: list[int] = []

    @property
    def total(self) -> int:
        return sum(len(born) for born in self.born.values())

    def snapshot(self, load: float, **changes: Any) -> Snapshot:
        ready = sum(self.now_s - born >= self.startup_s for births in self.born.values() for born in births)
        share = load / max(1, ready)
        variants = [
            variant(name, self._pods(name, births, share), last_write=self.receipts.get(name))
            for name, births in self.born.items()
        ]
        pools = changes.pop("pools", None) or [pool(v.pool) for v in self.spec.variants]
        return snapshot(service(variants, self.spec, **changes), pools, taken_at=self.now_s)

    def _pods(self, name: str, births: list[float], share: float) -> list[PodState]:
        made = []
        for number, born in enumerate(births):
            ready_at = born + self.startup_s
            if self.now_s >= ready_at:
                made.append(pod(f"{name}-{number}", engine(share), created_at=born, ready_at=ready_at))
            else:
                made.append(pod(f"{name}-{number}", phase=PodPhase.STARTING, created_at=born))
        return made

    def cycle(self, load: float, **changes: Any) -> Plan:
        """One cycle: plan on what is, then obey."""
        state = self.snapshot(load, **changes)
        decided, self.loop.memory = plan(state, self.loop.memory, self.now_s)
        self.loop.plan = decided
        for action in decided.actions:
            births = self.born[action.variant]
            assert action.from_replicas == len(births)
            del births[action.to_replicas :]
            births += [self.now_s] * (action.to_replicas - len(births))
            self.receipts[action.variant] = WriteReceipt(action.target_uid, action.to_replicas, self.now_s)
        self.history.append(self.total)
        self.now_s += 10.0
        return decided

    def run(self, load: float, seconds: float, **changes: Any) -> Plan:
        """Cycles of 10 s under a constant load."""
        for _ in range(max(1, round(seconds / 10.0))):
            self.cycle(load, **changes)
        return self.loop.plan
