"""A virtual cluster: nodes with GPUs, and pods that are bound, start, serve, drain and go.

It does what the scheduler, the kubelet and a Deployment do for fleets of engine pods, in virtual time. It must never
decide a replica count.
"""

import random
from dataclasses import dataclass, field

from ebbtide.model.snapshot import NodeState, PodPhase
from ebbtide.model.spec import PoolSpec
from ebbtide.sim.engine import Engine, Outcome
from ebbtide.sim.profiles import EngineProfile


@dataclass
class Node:
    """One node; `used` counts the GPUs of bound pods until they are gone."""

    name: str
    pool: str
    gpus: int
    used: int = 0


@dataclass
class Pod:
    """One replica. Times are virtual seconds; None: not yet."""

    name: str
    variant: str
    gpus: int
    startup_s: float
    created_at: float
    engine: Engine
    node: Node | None = None
    bound_at: float | None = None
    ready_at: float | None = None
    deleting_at: float | None = None
    gone_at: float | None = None

    def phase(self, now_s: float) -> PodPhase:
        """What a cluster's user would read off this pod at `now_s`."""
        if self.deleting_at is not None:
            return PodPhase.TERMINATING
        if self.node is None:
            return PodPhase.UNSCHEDULABLE
        if self.ready_at is not None and self.ready_at <= now_s:
            return PodPhase.READY
        return PodPhase.STARTING

    def serving(self, now_s: float) -> bool:
        """In the gateway's rotation."""
        return self.deleting_at is None and self.ready_at is not None and self.ready_at <= now_s


@dataclass
class VariantFleet:
    """The pods of one variant and what its Deployment asks for. Start-up times are uniform in `startup_range_s`."""

    name: str
    pool: str
    gpus_per_replica: int
    profile: EngineProfile
    startup_range_s: tuple[float, float]
    grace_s: float = 30.0
    replicas: int = 0
    pods: list[Pod] = field(default_factory=list)
    gone: list[Pod] = field(default_factory=list)
    created: int = 0


class VirtualCluster:
    """Pools of nodes and the variants' pods on them. Deterministic for a seed."""

    def __init__(self, pools: dict[str, tuple[PoolSpec, int, int]], seed: int) -> None:
        """`pools`: name -> (spec, nodes, GPUs per node)."""
        self.pools = {name: spec for name, (spec, _, _) in pools.items()}
        self.nodes = {
            name: [Node(name=f"{name}-{i}", pool=name, gpus=gpus) for i in range(count)]
            for name, (_, count, gpus) in pools.items()
        }
        self._random = random.Random(seed)

    def scale(
        self, service: str, fleet: VariantFleet, replicas: int, now_s: float, victims: tuple[str, ...] = ()
    ) -> None:
        """What a ReplicaSet does: create what is missing; delete victims first, then the unready, then the newest."""
        fleet.replicas = replicas
        alive = [pod for pod in fleet.pods if pod.deleting_at is None]
        for _ in range(replicas - len(alive)):
            self._create(service, fleet, now_s)
        surplus = len(alive) - replicas
        if surplus > 0:
            order = {name: rank for rank, name in enumerate(victims)}
            alive.sort(key=lambda pod: (order.get(pod.name, len(order)), pod.serving(now_s), -pod.created_at))
            for pod in alive[:surplus]:
                pod.deleting_at = now_s

    def step(self, fleet: VariantFleet, now_s: float) -> list[Outcome]:
        """Bind what fits, end what has drained or run out of grace. Returns the outcomes of aborted requests."""
        outcomes: list[Outcome] = []
        for pod in list(fleet.pods):
            if pod.node is None and pod.deleting_at is None:
                self._bind(pod, fleet.pool, now_s)
            if pod.deleting_at is not None and self._drained(pod, fleet, now_s):
                outcomes += pod.engine.abort_all(now_s)
                pod.gone_at = now_s
                if pod.node is not None:
                    pod.node.used -= pod.gpus
                fleet.pods.remove(pod)
                fleet.gone.append(pod)
        return outcomes

    def node_states(self, pool: str) -> tuple[NodeState, ...]:
        """The pool's nodes as a snapshot shows them."""
        return tuple(
            NodeState(name=n.name, gpus=n.gpus, allocated_gpus=n.used, ready=True, created_at=0.0)
            for n in self.nodes[pool]
        )

    def _create(self, service: str, fleet: VariantFleet, now_s: float) -> None:
        low_s, high_s = fleet.startup_range_s
        fleet.created += 1
        pod = Pod(
            name=f"{service.replace('/', '-')}-{fleet.name}-{fleet.created}",
            variant=fleet.name,
            gpus=fleet.gpus_per_replica,
            startup_s=self._random.uniform(low_s, high_s),
            created_at=now_s,
            engine=Engine(fleet.profile, seed=self._random.randrange(2**31)),
        )
        fleet.pods.append(pod)
        self._bind(pod, fleet.pool, now_s)

    def _bind(self, pod: Pod, pool: str, now_s: float) -> None:
        # most allocated first, as bin-packing schedulers do, so that nodes can empty
        for node in sorted(self.nodes[pool], key=lambda n: (-n.used, n.name)):
            if node.gpus - node.used >= pod.gpus:
                node.used += pod.gpus
                pod.node, pod.bound_at, pod.ready_at = node, now_s, now_s + pod.startup_s
                return

    @staticmethod
    def _drained(pod: Pod, fleet: VariantFleet, now_s: float) -> bool:
        assert pod.deleting_at is not None
        idle = pod.engine.running == 0 and pod.engine.waiting == 0
        return idle or now_s >= pod.deleting_at + fleet.grace_s
