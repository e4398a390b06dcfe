"""Which GPUs a Job asks for, and on which pool its own words leave it."""

from collections.abc import Iterable, Mapping

from ebbtide.model.snapshot import PoolState
from ebbtide.observe.jobfit import Fits
from ebbtide.observe.projections import JobPodSpec, Node, quantity, selects

_GPU_WORDS = ("gpu", "mig-", "gaudi", "tpu", "neuron")


class Places:
    """The pools of one moment, and the labels of their nodes."""

    def __init__(self, pools: Iterable[PoolState], nodes: Mapping[str, Node]) -> None:
        self._pools = tuple(pools)
        self._nodes = nodes
        self.fits = Fits(self._pools, nodes)
        self._bound: dict[tuple[tuple[str, str], ...], str] = {(): ""}
        self._pool_of: dict[str, str] = {}
        for pool in self._pools:
            for node in pool.nodes:
                self._pool_of.setdefault(node.name, pool.spec.name)
        self.resources = frozenset(pool.spec.resource for pool in self._pools)

    def bound(self, selector: tuple[tuple[str, str], ...]) -> str:
        """The one pool to which a Job's own node selector leaves it; empty: none, or it may choose."""
        if selector not in self._bound:
            self._bound[selector] = self._of_selector(dict(selector))
        return self._bound[selector]

    def of_nodes(self, nodes: Iterable[str]) -> str:
        """The one pool of which all these nodes are; empty: there is none."""
        found = {self._pool_of.get(node, "") for node in nodes if node}
        return found.pop() if len(found) == 1 else ""

    def _of_selector(self, wanted: Mapping[str, str]) -> str:
        """It says all that the pool's selector says, the most exact pool; else all nodes that it selects are of one."""
        named = [pool.spec for pool in self._pools if wanted.items() >= dict(pool.spec.node_selector).items()]
        longest = max((len(spec.node_selector) for spec in named), default=0)
        exact = [spec.name for spec in named if len(spec.node_selector) == longest]
        if named:
            return exact[0] if len(exact) == 1 else ""
        return self.of_nodes(name for name, node in self._nodes.items() if selects(wanted, node.metadata.labels))


def asks_for(pod: JobPodSpec, resources: frozenset[str]) -> tuple[str, int, str]:
    """(extended resource, GPUs of one pod, why it cannot be read) of a template; `resources`: those of pools."""
    found = {
        name
        for container in (*(pod.containers or ()), *(pod.init_containers or ()))
        if container.resources
        for amounts in (container.resources.requests, container.resources.limits)
        for name in amounts or ()
    }
    for container in (*(pod.containers or ()), *(pod.init_containers or ())):
        for amounts in (container.resources.requests, container.resources.limits) if container.resources else ():
            for name, amount in (amounts or {}).items():
                if name in resources and quantity(amount) is None:
                    return name, 0, f"its template asks for {amount!r} of {name}: that is no quantity"
    gpus = sorted(name for name in found & resources if pod.gpus(name)) or sorted(
        name for name in found if any(word in name.lower() for word in _GPU_WORDS) and pod.gpus(name)
    )
    if len(gpus) > 1:
        return "", 0, f"its template asks for {' and '.join(gpus)}: only one of them can be a pool's"
    return (gpus[0], pod.gpus(gpus[0]), "") if gpus else ("", 0, "")
