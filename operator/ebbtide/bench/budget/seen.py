"""What an operator would see of the fleets: pods, engine metrics over the last minute, one pool with one price.

Nothing here is known ahead: readings are of the minute that is over, and a pod that serves nothing yet has none.
"""

from collections.abc import Sequence
from decimal import Decimal

from ebbtide.bench.budget.fleet import Fleet, Pace, Pod
from ebbtide.bench.budget.member import Member
from ebbtide.model.money import Payer, PriceStep
from ebbtide.model.snapshot import (
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
    Billing,
    CapacityPrior,
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
from ebbtide.money.lifetimes import Holding

ATTAINMENT = 0.99
CURRENCY, POOL = "USD", "h100"
MOST_REPLICAS = 100
_KV_TOKENS = 2_000_000.0  # more than any batch within the objectives holds: it is never what binds
_AGE_S = 5.0
_BOUNDS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, float("inf"))
_QUICK_S = 0.1
_HEALTHY = (Source("prometheus", healthy=True, age_s=1.0),)


def service_spec(member: Member) -> ServiceSpec:
    """As its user would declare it: objectives, and what a replica was measured to carry."""
    target = TargetRef("apps/v1", "Deployment", member.name)
    declared = CapacityPrior(member.capacity_per_s, member.input_tokens, member.output_tokens)
    return ServiceSpec(
        key=member.key,
        uid=member.key,
        generation=1,
        mode=Mode.AUTO,
        model_name="llama-3-8b",
        model_parameters_billion=8.0,
        objectives=Objectives(member.ttft_s, member.itl_s, ATTAINMENT),
        priority=member.priority,
        variants=(VariantSpec(POOL, POOL, target, gpus_per_replica=1, max_replicas=MOST_REPLICAS, capacity=declared),),
        scaling=Scaling(min_replicas=1, max_replicas=MOST_REPLICAS),
    )


def pool_spec(price: Decimal) -> PoolSpec:
    """One pool that is paid by the pod and never runs out of GPUs."""
    return PoolSpec(
        name=POOL,
        uid=POOL,
        generation=1,
        provisioning=Provisioning.STATIC,
        capacity_type=CapacityType.ON_DEMAND,
        node_selector=(("pool", POOL),),
        resource="nvidia.com/gpu",
        accelerator="H100-80GB",
        price=Price(CURRENCY, Tariff(price)),
        max_gpus=None,
        node_lead_time_s=60.0,
        billing=Billing.POD,
    )


class View:
    """Snapshots of fleets that go on; what never changes is made once."""

    def __init__(self, fleets: Sequence[Fleet], price: Decimal, pace: Pace, cycle_s: int) -> None:
        self._specs = {fleet.member.name: service_spec(fleet.member) for fleet in fleets}
        self._pool, self._price, self._pace, self._cycle_s = pool_spec(price), price, pace, cycle_s
        self._holdings: dict[str, Holding] = {}

    def snapshot(
        self,
        fleets: Sequence[Fleet],
        came: Sequence[float],
        receipts: dict[str, WriteReceipt],
        now_s: int,
    ) -> Snapshot:
        """`came`: requests/s of the last minute, by fleet."""
        services = tuple(
            self._service(fleet, per_s, receipts.get(fleet.member.key), now_s)
            for fleet, per_s in zip(fleets, came, strict=True)
        )
        held = sum(len(fleet.pods) + len(fleet.leaving) for fleet in fleets)
        node = NodeState("all", 3 * MOST_REPLICAS, held, ready=True, created_at=0.0)
        pool = PoolState(
            spec=self._pool,
            nodes=(node,),
            price_per_gpu_hour=self._price,
            currency=CURRENCY,
            steps=(PriceStep(0.0, self._price),),
        )
        return Snapshot(float(now_s), services, (pool,), sources=_HEALTHY, cycle_s=float(self._cycle_s))

    def holdings(self, fleets: Sequence[Fleet]) -> list[Holding]:
        """Pods that hold a GPU, for those who count money."""
        shown: dict[str, Holding] = {}
        for fleet in fleets:
            for pod in (*fleet.pods, *fleet.leaving):
                known = self._holdings.get(pod.name)
                shown[pod.name] = known or _holding(fleet.member, pod)
        self._holdings = shown
        return list(shown.values())

    def _service(self, fleet: Fleet, per_s: float, receipt: WriteReceipt | None, now_s: int) -> ServiceState:
        member = fleet.member
        engine = readings(member, per_s / max(1, fleet.ready(now_s)))
        pods = [_pod(pod, engine, now_s) for pod in (*fleet.pods, *fleet.leaving)]
        target = TargetState(
            exists=True,
            uid=member.key,
            resource_version="1",
            spec_replicas=len(fleet.pods),
            status_replicas=len(fleet.pods),
            gpus_per_replica=1,
            termination_grace_s=float(self._pace.exit_s),
        )
        return ServiceState(self._specs[member.name], (VariantState(POOL, target, tuple(pods), receipt),))


def _holding(member: Member, pod: Pod) -> Holding:
    payer = Payer(POOL, "bench", member.name, POOL)
    return Holding(pod.name, payer, 1, float(pod.born_s))


def _pod(pod: Pod, engine: EngineReadings, now_s: int) -> PodState:
    ready = pod.ready_s <= now_s and pod.gone_s is None
    phase = PodPhase.TERMINATING if pod.gone_s is not None else PodPhase.READY if ready else PodPhase.STARTING
    # one that became ready in this very second has served nothing yet
    serves = ready and pod.ready_s < now_s
    return PodState(
        name=pod.name,
        uid=pod.name,
        phase=phase,
        created_at=float(pod.born_s),
        node="all",
        gpus=1,
        ready_at=float(pod.ready_s) if ready else None,
        scheduled_at=float(pod.born_s),
        engine=engine if serves else None,
    )


def _fresh(value: float) -> Reading:
    return Reading(Quality.FRESH, value, _AGE_S)


def readings(member: Member, per_s: float) -> EngineReadings:
    """A replica that is sent so many requests/s. What exceeds its capacity is refused at the door."""
    carried, gap_s = min(per_s, member.capacity_per_s), member.gap_s(per_s)
    running = carried * member.output_tokens * gap_s
    held = running * (member.input_tokens + 0.5 * member.output_tokens)
    return EngineReadings(
        engine="vLLM",
        running=_fresh(running),
        waiting=_fresh(0.0),
        kv_usage=_fresh(min(1.0, held / _KV_TOKENS)),
        finished=_fresh(carried),
        arrivals=_fresh(carried),
        prompt_tokens=_fresh(carried * member.input_tokens),
        generation_tokens=_fresh(carried * member.output_tokens),
        rejected=_fresh(per_s - carried),
        ttft=_latency(_QUICK_S, carried),
        itl=_latency(gap_s, carried * member.output_tokens),
        tpot=_latency(gap_s, carried),
        kv_tokens=_KV_TOKENS,
        max_running=4096.0,
    )


def _latency(seconds: float, per_second: float) -> Latency:
    """So many observations per second, all alike."""
    buckets = tuple((bound, per_second if seconds <= bound else 0.0) for bound in _BOUNDS_S)
    return Latency(per_second, seconds if per_second else None, buckets)
