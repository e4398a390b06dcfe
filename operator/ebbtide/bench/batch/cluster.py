"""Nodes and pods of the pools, minute by minute: pods wait, are bound, leave; nodes come for them and go when empty.

It places as Kubernetes does: chat's pods first (a higher PriorityClass), each on the fullest node that has room; those
that find none evict batch pods of their pool; then nodes are ordered, as a cluster autoscaler does. A pod that was told
to go holds its GPUs until it is gone.
"""

from collections.abc import Callable, Sequence

import msgspec

from ebbtide.bench.batch.scenario import APART, ON_DEMAND, RESERVED, Scenario

CHAT_OWNER = ""


class Node(msgspec.Struct):
    """One node; `used` GPUs are held. `empty_s`: since when nothing is; None: something is."""

    name: str
    pool: str
    gpus: int
    ordered_s: int
    ready_s: int
    used: int = 0
    empty_s: int | None = None

    @property
    def free(self) -> int:
        """GPUs that nobody holds."""
        return self.gpus - self.used


class Pod(msgspec.Struct, eq=False):
    """One pod, of a Job's name or of chat. `gone_s` is set once it was told to go."""

    name: str
    owner: str
    pool: str
    gpus: int
    born_s: int
    node: Node | None = None
    bound_s: int = 0
    gone_s: int | None = None

    @property
    def is_chat(self) -> bool:
        """Whether it is chat's."""
        return self.owner == CHAT_OWNER


Evict = Callable[[Sequence[str]], str]
"""Which of these Jobs loses least by being evicted."""


class Cluster:
    """`elastic` pools get nodes as pods wait for them. `evict(job)` is told of Jobs whose pods had to go for chat."""

    def __init__(self, scenario: Scenario, now_s: int) -> None:
        self._scenario, self._made = scenario, 0
        self.nodes: list[Node] = [
            Node(f"{RESERVED}-{number}", RESERVED, scenario.reserved.gpus_per_node, now_s, now_s)
            for number in range(scenario.reserved.nodes)
        ]
        self.pods: list[Pod] = []
        self.bound: list[Pod] = []  # in the last `schedule`

    def stand(self, since_s: int, count: int) -> None:
        """So many on-demand nodes have been there since then; and all that there are."""
        gpus = self._scenario.on_demand.gpus_per_node
        self.nodes += [
            Node(f"{ON_DEMAND}-first-{number}", ON_DEMAND, gpus, since_s, since_s) for number in range(count)
        ]
        for node in self.nodes:
            node.ordered_s = node.ready_s = min(node.ready_s, since_s)

    def add(self, owner: str, pool: str, gpus: int, now_s: int) -> Pod:
        """A pod that waits for a node."""
        self._made += 1
        pod = Pod(f"{owner or 'chat'}-{self._made}", owner, pool, gpus, now_s)
        self.pods.append(pod)
        return pod

    def remove(self, pod: Pod, now_s: int, grace_s: int) -> None:
        """It is told to go; one that is not bound is gone at once."""
        if pod.gone_s is None:
            pod.gone_s = now_s if pod.node is None else now_s + grace_s
        if pod.node is None:
            self.pods.remove(pod)

    def clear(self, now_s: int) -> None:
        """Pods whose time has come are gone; nodes that have been empty for long enough too."""
        for pod in [pod for pod in self.pods if pod.gone_s is not None and pod.gone_s <= now_s]:
            self.pods.remove(pod)
            if pod.node is not None:
                pod.node.used -= pod.gpus
        release_s = self._scenario.on_demand.release_s
        for node in self.nodes:
            if node.used or node.ready_s > now_s:
                node.empty_s = None
            elif node.empty_s is None:
                node.empty_s = now_s
        self.nodes = [
            node
            for node in self.nodes
            if node.pool == RESERVED or node.empty_s is None or now_s - node.empty_s < release_s
        ]

    def schedule(self, now_s: int, grace_s: int, least: Evict, evicted: Callable[[str, Pod], None]) -> None:
        """Bind what waits, evict for chat, order nodes for the rest."""
        self.bound = []
        waiting = [pod for pod in self.pods if pod.node is None]
        coming: dict[str, list[int]] = {
            pool: [node.gpus for node in self.nodes if node.pool == pool and node.ready_s > now_s]
            for pool in (ON_DEMAND, APART)
        }
        promised: dict[str, int] = {}  # by node: GPUs of leaving pods that chat's pods will take
        for pod in sorted(waiting, key=lambda pod: (not pod.is_chat, pod.born_s)):
            if self._bind(pod, now_s):
                continue
            if pod.is_chat and self._make_room(pod, now_s, grace_s, promised, least, evicted):
                continue
            if pod.pool != RESERVED:
                self._order(pod, coming[pod.pool], now_s)

    def free(self, pool: str, now_s: int) -> int:
        """GPUs of nodes that are there, that nobody holds or waits for."""
        there = sum(node.free for node in self.nodes if node.pool == pool and node.ready_s <= now_s)
        return there - sum(pod.gpus for pod in self.pods if pod.pool == pool and pod.node is None)

    def held(self, pool: str, *, chat: bool) -> int:
        """GPUs that chat's pods (or the Jobs') hold there, leaving ones too."""
        return sum(pod.gpus for pod in self.pods if pod.pool == pool and pod.is_chat is chat and pod.node is not None)

    def paid(self, pool: str) -> int:
        """GPUs of all its nodes, also of those that are still coming."""
        return sum(node.gpus for node in self.nodes if node.pool == pool)

    def _bind(self, pod: Pod, now_s: int) -> bool:
        fitting = [n for n in self.nodes if n.pool == pod.pool and n.ready_s <= now_s and n.free >= pod.gpus]
        if not fitting:
            return False
        node = min(fitting, key=lambda node: (node.free, node.name))
        node.used += pod.gpus
        pod.node, pod.bound_s = node, now_s
        self.bound.append(pod)
        return True

    def _make_room(
        self,
        pod: Pod,
        now_s: int,
        grace_s: int,
        promised: dict[str, int],
        least: Evict,
        evicted: Callable[[str, Pod], None],
    ) -> bool:
        """Whether room comes: by pods that leave anyway, else by a batch pod that is evicted."""
        nodes = [node for node in self.nodes if node.pool == pod.pool and node.ready_s <= now_s]
        for node in nodes:
            leaving = sum(each.gpus for each in self.pods if each.node is node and each.gone_s is not None)
            if node.free + leaving - promised.get(node.name, 0) >= pod.gpus:
                promised[node.name] = promised.get(node.name, 0) + pod.gpus
                return True
        theirs = [e for e in self.pods if e.node in nodes and not e.is_chat and e.gone_s is None and e.gpus >= pod.gpus]
        if not theirs:
            return False
        owner = least(sorted({each.owner for each in theirs}))
        victim = max((each for each in theirs if each.owner == owner), key=lambda each: (each.born_s, each.name))
        self.remove(victim, now_s, grace_s)
        assert victim.node is not None
        promised[victim.node.name] = promised.get(victim.node.name, 0) + pod.gpus
        evicted(owner, victim)
        return True

    def _order(self, pod: Pod, coming: list[int], now_s: int) -> None:
        """Within the pool's limit; on a node that comes anyway where it has room."""
        for number, free in enumerate(coming):
            if free >= pod.gpus:
                coming[number] -= pod.gpus
                return
        spec = self._scenario.on_demand
        if self.paid(pod.pool) + spec.gpus_per_node > spec.max_gpus:
            return
        self._made += 1
        name = f"{pod.pool}-{self._made}"
        self.nodes.append(Node(name, pod.pool, spec.gpus_per_node, now_s, now_s + spec.lead_time_s))
        coming.append(spec.gpus_per_node - pod.gpus)
