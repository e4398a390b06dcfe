"""The pools' nodes now: GPUs that exist, GPUs that any pod of anybody holds, and nodes that are going."""

from collections.abc import Iterable, Mapping

from ebbtide.model.money import Listed
from ebbtide.model.snapshot import NodeState, PoolState
from ebbtide.model.spec import InterruptionTaint, PoolSpec
from ebbtide.money.prices import price_at
from ebbtide.observe.projections import Node, Pod, Taint, find_condition, quantity, selects


class Allocation:
    """GPUs held on each node: by every bound, unfinished pod; terminating ones count until they are gone."""

    def __init__(self, pods: Iterable[Pod]) -> None:
        self._by_node: dict[str, list[Pod]] = {}
        for pod in pods:
            if pod.spec.node_name and not pod.finished:
                self._by_node.setdefault(pod.spec.node_name, []).append(pod)

    def on(self, node: str, resource: str) -> int:
        """GPUs of this resource that are taken on the node."""
        return sum(pod.spec.gpus(resource) for pod in self._by_node.get(node, ()))


def pool_state(
    spec: PoolSpec, nodes: Mapping[str, Node], allocation: Allocation, now_s: float, listed: Listed | None = None
) -> PoolState:
    """One pool at `now_s` (unix seconds). `listed`: what the source of its price says, if it has one."""
    price = price_at(spec.name, spec.price, now_s, listed)
    own = [node for node in nodes.values() if selects(spec.node_selector, node.metadata.labels)]
    states = [_node_state(spec, node, allocation) for node in own]
    return PoolState(
        spec=spec,
        nodes=tuple(sorted(states, key=lambda node: node.name)),
        price_per_gpu_hour=price.per_gpu_hour,
        currency=price.currency,
        next_price_change_at=price.next_at,
        next_price_per_gpu_hour=price.next_per_gpu_hour,
        later_prices=price.later,
        faults=price.faults,
    )


def _node_state(spec: PoolSpec, node: Node, allocation: Allocation) -> NodeState:
    ready = find_condition(node.status.conditions, "Ready")
    return NodeState(
        name=node.metadata.name,
        gpus=quantity((node.status.allocatable or {}).get(spec.resource, 0)) or 0,  # what cannot be read is no room
        allocated_gpus=allocation.on(node.metadata.name, spec.resource),
        ready=ready is not None and ready.status == "True",
        created_at=node.metadata.created_at,
        interrupted=interrupted(spec, node),
        cordoned=bool(node.spec.unschedulable),
    )


def interrupted(spec: PoolSpec, node: Node) -> bool:
    """Whether the node carries one of the pool's interruption taints."""
    return any(is_interruption(spec, taint) for taint in node.spec.taints or ())


def is_interruption(spec: PoolSpec, taint: Taint) -> bool:
    """Whether that taint announces the end of a node of the pool."""
    return any(_is(wanted, taint) for wanted in spec.interruption_taints)


def _is(wanted: InterruptionTaint, taint: Taint) -> bool:
    return (
        wanted.key == taint.key
        and wanted.value in (None, taint.value or "")
        and wanted.effect in (None, taint.effect or "")
    )
