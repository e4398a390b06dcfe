"""What a fleet in a replay shows, at Prometheus' pace: as Ebbtide's `Snapshot` and as a rival's `Observation`.

Both simulators hand in replicas and this module alone turns them into metrics, so that no policy sees more in one than
in the other. Nothing is shown that vLLM's own metrics and the API server would not show at that moment.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from ebbtide.bench.case import Case
from ebbtide.bench.faults import since
from ebbtide.bench.policy import Latency, Minute, Observation, ReplicaView
from ebbtide.model import snapshot as model
from ebbtide.model.snapshot import EngineReadings, PodPhase, PodState, Snapshot
from ebbtide.model.spec import (
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
from ebbtide.sim.scrape import PodScrapes, Sample

SERVICE, _VARIANT, _POOL = "bench/service", "replica", "pool"
_BILLIONS = re.compile(r"(?:(\d+)x)?(\d+(?:\.\d+)?)B(?![a-z])", re.IGNORECASE)


class Replica(Protocol):
    """One replica as its simulator has it. Seconds of the replay; `ready_s` None: it still starts."""

    name: str
    created_s: float
    ready_s: float | None

    @property
    def draining(self) -> bool:
        """It was told to go and takes no new requests."""
        ...

    def sample(self, now_s: float) -> Sample:
        """What its /metrics say now."""
        ...


def billions_in(model_name: str) -> float | None:
    """Parameters from a model's name, in billions: `Llama-3.1-70B` 70, `Mixtral-8x7B` 56; None where it has none."""
    found = _BILLIONS.search(model_name.rpartition("/")[2])
    return float(found[2]) * int(found[1] or 1) if found else None


class Metrics:
    """The scrapes of a fleet, and what they say."""

    def __init__(self, case: Case, window_s: float) -> None:
        self._case = case
        self._spec = _service_spec(case, window_s)
        self._pool = _pool_spec(case)
        self._scrapes: dict[str, PodScrapes] = {}
        self._restarted: dict[tuple[str, float], Sample] = {}  # by replica and when its counters were reset

    def scrape(self, replicas: Sequence[Replica], now_s: float) -> None:
        """Take a sample of every replica that answers; those that are gone are forgotten."""
        kept = {}
        for replica in replicas:
            if replica.ready_s is not None:
                kept[replica.name] = self._scrapes.get(replica.name) or self._new()
                kept[replica.name].add(self._sample(replica, now_s))
        self._scrapes = kept

    def _sample(self, replica: Replica, now_s: float) -> Sample:
        sample, reset_s = replica.sample(now_s), self._case.faults.last_reset_s(now_s)
        if reset_s is None or replica.ready_s is None or replica.ready_s > reset_s:
            return sample
        return since(sample, self._restarted.setdefault((replica.name, reset_s), sample))

    def snapshot(
        self, replicas: Sequence[Replica], declared: int, last_write: tuple[float, int] | None, now_s: float
    ) -> Snapshot:
        """The cluster as the observe layer would show it.

        `last_write`: (second by the operator's clock, replicas) of the newest change.
        """
        pods = tuple(self._pod(replica, now_s) for replica in sorted(replicas, key=lambda r: r.name))
        return self.frame(pods, declared, last_write, now_s, self._case.cycle_s)

    def frame(
        self,
        pods: tuple[PodState, ...],
        declared: int,
        last_write: tuple[float, int] | None,
        now_s: float,
        cycle_s: float,
    ) -> Snapshot:
        """The cluster with these pods."""
        case = self._case
        at = case.epoch_s + case.faults.clock_s(now_s)
        target = model.TargetState(
            exists=True,
            uid=_VARIANT,
            resource_version="1",
            spec_replicas=declared,
            status_replicas=len(pods),
            generation=1,
            observed_generation=1,
            gpus_per_replica=case.tensor_parallel,
        )
        receipt = None
        if last_write is not None:
            receipt = model.WriteReceipt(target_uid=_VARIANT, replicas=last_write[1], at=case.epoch_s + last_write[0])
        variant = model.VariantState(name=_VARIANT, target=target, pods=pods, last_write=receipt)
        return Snapshot(
            taken_at=at,
            services=(model.ServiceState(spec=self._spec, variants=(variant,)),),
            pools=(self._pool_state(len(pods)),),
            sources=(model.Source(name="prometheus", healthy=True, age_s=1.0),),
            rate_window_s=case.rate_window_s,
            cycle_s=cycle_s,
        )

    def observation(
        self, replicas: Sequence[Replica], declared: int, history: Sequence[Minute], now_s: float
    ) -> Observation:
        """The same metrics as rivals read them: sums and means over the fleet, gauges by replica."""
        readings = [found for replica in replicas if (found := self._readings(replica, now_s)) is not None]
        finished = _total(engine.finished for engine in readings)
        prompt = _total(engine.prompt_tokens for engine in readings)
        generated = _total(engine.generation_tokens for engine in readings)
        arrivals = _total(engine.arrivals for engine in readings)
        alive = [replica for replica in replicas if not replica.draining]
        return Observation(
            now_s=now_s,
            declared=declared,
            ready=sum(replica.ready_s is not None for replica in alive),
            starting=sum(replica.ready_s is None for replica in alive),
            replicas=tuple(self._views(alive, now_s)),
            arrivals_per_s=arrivals,
            finished_per_s=finished,
            input_tokens=prompt / arrivals if finished > 0.0 and arrivals > 0.0 else None,
            output_tokens=generated / finished if finished > 0.0 else None,
            ttft=latency_of(engine.ttft for engine in readings),
            itl=latency_of(engine.tpot for engine in readings),
            history=history,
        )

    def _new(self) -> PodScrapes:
        case = self._case
        # vLLM says nowhere how many it lets run at a time
        return PodScrapes(case.rate_window_s, case.engine.kv_tokens, None, case.metric_delay_s)

    def _readings(self, replica: Replica, now_s: float) -> EngineReadings | None:
        scrapes = self._scrapes.get(replica.name)
        return None if scrapes is None else scrapes.readings(now_s)

    def _views(self, replicas: Sequence[Replica], now_s: float) -> Iterator[ReplicaView]:
        capacity = float(self._case.engine.kv_tokens)
        for replica in replicas:
            scrapes = self._scrapes.get(replica.name)
            sample = None if scrapes is None else scrapes.shown(now_s)
            if sample is not None:
                yield ReplicaView(
                    name=replica.name,
                    running=sample.running,
                    waiting=sample.waiting,
                    kv_usage=sample.kv_usage,
                    kv_tokens=sample.kv_usage * capacity,
                    kv_capacity_tokens=capacity,
                    queued_prompt_tokens=sample.queued_prompt_tokens,
                    scheduled_prompt_tokens=sample.scheduled_prompt_tokens,
                )

    def _pod(self, replica: Replica, now_s: float) -> PodState:
        ready = replica.ready_s is not None
        phase = PodPhase.TERMINATING if replica.draining else PodPhase.READY if ready else PodPhase.STARTING
        epoch_s = self._case.epoch_s
        return PodState(
            name=replica.name,
            uid=f"{replica.name}/{epoch_s:.0f}",  # not that of one in a replay that came before
            phase=phase,
            created_at=epoch_s + replica.created_s,
            node=_POOL,
            gpus=self._case.tensor_parallel,
            ready_at=epoch_s + replica.ready_s if replica.ready_s is not None and not replica.draining else None,
            scheduled_at=epoch_s + replica.created_s,
            engine=self._readings(replica, now_s),
        )

    def _pool_state(self, replicas: int) -> model.PoolState:
        # room for all that may run and as many that drain: neither simulator runs out of GPUs
        gpus = 2 * self._case.max_replicas * self._case.tensor_parallel
        node = model.NodeState(
            name=_POOL,
            gpus=gpus,
            allocated_gpus=replicas * self._case.tensor_parallel,
            ready=True,
            created_at=self._case.epoch_s - 86_400.0,
        )
        return model.PoolState(
            spec=self._pool, nodes=(node,), price_per_gpu_hour=self._case.gpu_hour_price, currency="USD"
        )


def latency_of(latencies: Iterable[model.Latency | None]) -> Latency | None:
    """The fleet's latency: buckets summed, percentiles as `histogram_quantile` finds them; None: nothing observed."""
    seen = [latency for latency in latencies if latency is not None and latency.mean_s is not None]
    if not seen:
        return None
    bounds = [bound for bound, _ in seen[0].buckets]
    total = [sum(latency.buckets[i][1] for latency in seen) for i in range(len(bounds))]
    per_second = sum(latency.per_second for latency in seen)
    mean_s = sum((latency.mean_s or 0.0) * latency.per_second for latency in seen) / per_second
    buckets = list(zip(bounds, total, strict=True))
    return Latency(mean_s, *(quantile(buckets, share) for share in (0.5, 0.9, 0.95)))


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float:
    """Prometheus' histogram_quantile of cumulative buckets: linear inside a bucket, the last finite bound beyond it.

    With 90 at or below 0.05 s and 10 more up to 0.1 s, the 0.95 quantile is 0.075 s.
    """
    rank = share * buckets[-1][1]
    below_bound = below = 0.0
    for bound, count in buckets:
        if count >= rank:
            if math.isinf(bound):
                break
            return below_bound + (bound - below_bound) * (rank - below) / max(1e-12, count - below)
        below_bound, below = bound, count
    return below_bound


def _total(readings: Iterable[model.Reading]) -> float:
    return sum(reading.value or 0.0 for reading in readings)


def _service_spec(case: Case, window_s: float) -> ServiceSpec:
    target = TargetRef(api_version="apps/v1", kind="Deployment", name="service")
    return ServiceSpec(
        key=SERVICE,
        uid=SERVICE,
        generation=1,
        mode=Mode.AUTO,
        model_name=case.model,
        model_parameters_billion=billions_in(case.model),
        objectives=Objectives(ttft_s=case.ttft_s, itl_s=case.itl_s, attainment=case.attainment, window_s=window_s),
        priority=100,
        variants=(
            VariantSpec(
                name=_VARIANT,
                pool=_POOL,
                target=target,
                gpus_per_replica=case.tensor_parallel,
                max_replicas=case.max_replicas,
                capacity=_declared(case),
            ),
        ),
        scaling=Scaling(
            min_replicas=case.min_replicas,
            max_replicas=case.max_replicas,
        ),
    )


def _declared(case: Case) -> CapacityPrior | None:
    if case.carries is None or not case.declared:
        return None
    return CapacityPrior(case.carries.alone_per_s, case.carries.input_tokens, case.carries.output_tokens)


def _pool_spec(case: Case) -> PoolSpec:
    return PoolSpec(
        name=_POOL,
        uid=_POOL,
        generation=1,
        provisioning=Provisioning.STATIC,
        capacity_type=CapacityType.ON_DEMAND,
        node_selector=(("pool", _POOL),),
        resource="nvidia.com/gpu",
        accelerator=case.system.upper(),
        price=Price("USD", Tariff(case.gpu_hour_price)),
        max_gpus=None,
        node_lead_time_s=60.0,
    )
