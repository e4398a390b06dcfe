"""What an operator would see: chat's pods with their engines' metrics, two pools with nodes and prices, Jobs.

Nothing here is known ahead but what is declared: prices by the hour, deadlines and expected durations.
"""

from ebbtide.bench.batch.cluster import Node, Pod
from ebbtide.bench.batch.load import CHAT, BatchJob, Stage
from ebbtide.bench.batch.running import Running, State
from ebbtide.bench.batch.scenario import DAY_S, ON_DEMAND, RESERVED, Scenario
from ebbtide.bench.batch.world import World
from ebbtide.bench.budget.seen import ATTAINMENT, CURRENCY, MOST_REPLICAS, readings
from ebbtide.model.batch import Asked, BatchPolicySpec, BatchPolicyState, Intent, JobPod, JobState, Strategy
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

POLICY = BatchPolicySpec(
    key="bench/jobs", uid="jobs", generation=1, match_labels=(("team", "batch"),), strategy=Strategy.CHEAPEST
)
_RESOURCE, _LABEL = "nvidia.com/gpu", "pool"
_HEALTHY = (Source("prometheus", healthy=True, age_s=1.0),)
_PRICES_S = 9 * DAY_S  # how far ahead prices are known: beyond any plan
_INTENTS = {State.HELD: Intent.HELD, State.RUNS: Intent.RUNS, State.STOPPED: Intent.STOPPED}


def service_spec(scenario: Scenario) -> ServiceSpec:
    """Chat with a variant on each pool."""
    declared = CapacityPrior(CHAT.capacity_per_s, CHAT.input_tokens, CHAT.output_tokens)
    pools = (RESERVED, ON_DEMAND) if scenario.reserved.nodes else (ON_DEMAND,)
    most = {RESERVED: scenario.reserved.gpus, ON_DEMAND: MOST_REPLICAS}
    variants = tuple(
        VariantSpec(
            pool,
            pool,
            TargetRef("apps/v1", "Deployment", f"chat-{pool}"),
            gpus_per_replica=1,
            max_replicas=most[pool],
            capacity=declared,
        )
        for pool in pools
    )
    return ServiceSpec(
        key=CHAT.key,
        uid=CHAT.key,
        generation=1,
        mode=Mode.AUTO,
        model_name="llama-3-8b",
        model_parameters_billion=8.0,
        objectives=Objectives(CHAT.ttft_s, CHAT.itl_s, ATTAINMENT),
        priority=CHAT.priority,
        variants=variants,
        scaling=Scaling(min_replicas=1, max_replicas=MOST_REPLICAS),
    )


def pool_specs(scenario: Scenario) -> dict[str, PoolSpec]:
    """By name."""
    return {
        RESERVED: _pool(RESERVED, Provisioning.STATIC, CapacityType.RESERVED, None, 60.0, scenario),
        ON_DEMAND: _pool(
            ON_DEMAND,
            Provisioning.AUTOSCALED,
            CapacityType.ON_DEMAND,
            scenario.on_demand.max_gpus,
            float(scenario.on_demand.lead_time_s),
            scenario,
        ),
    }


def _pool(
    name: str, provisioning: Provisioning, kind: CapacityType, most: int | None, lead_s: float, scenario: Scenario
) -> PoolSpec:
    price = scenario.reserved.price if name == RESERVED else scenario.on_demand.price
    return PoolSpec(
        name=name,
        uid=name,
        generation=1,
        provisioning=provisioning,
        capacity_type=kind,
        node_selector=((_LABEL, name),),
        resource=_RESOURCE,
        accelerator="H100-80GB",
        price=Price(CURRENCY, Tariff(price)),
        max_gpus=most,
        node_lead_time_s=lead_s,
        billing=Billing.NODE,
    )


class View:
    """Snapshots of a world that goes on; what never changes is made once."""

    def __init__(self, stage: Stage) -> None:
        self._scenario, self._cycle_s = stage.scenario, float(stage.cycle_s)
        self._spec, self._pools = service_spec(stage.scenario), pool_specs(stage.scenario)

    def snapshot(self, world: World, receipts: dict[str, WriteReceipt]) -> Snapshot:
        """Of this second."""
        now_s = world.now_s
        # by those that were there in the last minute: one that became ready in this second has served nothing yet
        engine = readings(CHAT, world.per_s / max(1, world.ready(now_s - 1)))
        variants = tuple(self._variant(world, spec, receipts.get(spec.name), engine) for spec in self._spec.variants)
        jobs = tuple(
            job_state(job, world)
            for job in sorted(world.jobs.values(), key=lambda job: job.job.name)
            if job.state is not State.DONE
        )
        return Snapshot(
            float(now_s),
            (ServiceState(self._spec, variants),),
            tuple(self._pool_state(world, name) for name in sorted(self._pools)),
            batch_policies=(BatchPolicyState(POLICY),) if jobs or world.jobs else (),
            jobs=jobs,
            sources=_HEALTHY,
            cycle_s=self._cycle_s,
        )

    def _variant(
        self, world: World, spec: VariantSpec, receipt: WriteReceipt | None, engine: EngineReadings
    ) -> VariantState:
        declared = len(world.chat[spec.name])
        startup_s, now_s = self._scenario.chat.startup_s, world.now_s
        pods = [
            _pod(pod, engine, startup_s, now_s) for pod in world.cluster.pods if pod.is_chat and pod.pool == spec.name
        ]
        target = TargetState(
            exists=True,
            uid=spec.target.name,
            resource_version="1",
            spec_replicas=declared,
            status_replicas=declared,
            gpus_per_replica=1,
            node_selector=((_LABEL, spec.name),),
            termination_grace_s=float(self._scenario.chat.exit_s),
        )
        return VariantState(spec.name, target, tuple(pods), receipt)

    def _pool_state(self, world: World, name: str) -> PoolState:
        now_s = world.now_s
        nodes = [node for node in world.cluster.nodes if node.pool == name]
        price = self._scenario.price_at(name, now_s)
        steps = self._scenario.on_demand.steps(now_s, now_s + _PRICES_S) if name == ON_DEMAND else ()
        later = steps[1] if len(steps) > 1 else None
        return PoolState(
            spec=self._pools[name],
            nodes=tuple(sorted((_node(node) for node in nodes if node.ready_s <= now_s), key=lambda node: node.name)),
            price_per_gpu_hour=price,
            currency=CURRENCY,
            next_price_change_at=None if later is None else later.at_s,
            next_price_per_gpu_hour=None if later is None else later.per_gpu_hour,
            steps=steps,
        )


def _node(node: Node) -> NodeState:
    return NodeState(node.name, node.gpus, node.used, ready=True, created_at=float(node.ordered_s))


def _pod(pod: Pod, engine: EngineReadings, startup_s: int, now_s: int) -> PodState:
    bound = pod.node is not None
    ready_s = pod.bound_s + startup_s
    phase = PodPhase.PENDING
    if pod.gone_s is not None:
        phase = PodPhase.TERMINATING
    elif bound:
        phase = PodPhase.READY if ready_s <= now_s else PodPhase.STARTING
    return PodState(
        name=pod.name,
        uid=pod.name,
        phase=phase,
        created_at=float(pod.born_s),
        node=pod.node.name if pod.node is not None else "",
        gpus=pod.gpus,
        ready_at=float(ready_s) if phase is PodPhase.READY else None,
        scheduled_at=float(pod.bound_s) if bound else None,
        engine=engine if phase is PodPhase.READY and ready_s < now_s else None,
        due_at=None if pod.gone_s is None else float(pod.gone_s),
    )


def job_state(running: Running, world: World) -> JobState:
    """As intake would read it."""
    job, runs = running.job, running.state is State.RUNS
    scenario = world.stage.scenario
    pods = [pod for pod in world.cluster.pods if pod.owner == job.name and pod.node is not None]
    return JobState(
        key=f"bench/{job.name}",
        uid=job.name,
        resource_version="1",
        created_at=float(job.created_s),
        policy=POLICY.key,
        intent=_INTENTS[running.state],
        labels=POLICY.match_labels,
        owner=job.name,
        suspended=not runs,
        parallelism=running.size or job.pods,
        completions=running.size or job.pods,
        elastic=job.elastic,
        gpus_per_pod=job.gpus_per_pod,
        resource=_RESOURCE,
        grace_s=float(scenario.batch.grace_s),
        pool=running.pool,
        started_at=float(running.started_s) if runs else None,
        ran_s=running.ran_s,
        asked=asked(job),
        pods=tuple(
            JobPod(
                pod.name,
                pod.node.name if pod.node is not None else "",
                pod.gpus,
                started_at=float(pod.bound_s),
                terminating=pod.gone_s is not None,
                due_at=None if pod.gone_s is None else float(pod.gone_s),
            )
            for pod in pods
        ),
    )


def asked(job: BatchJob) -> Asked:
    """Its annotations."""
    return Asked(float(job.deadline_s), float(job.expected_s), job.restartable)
