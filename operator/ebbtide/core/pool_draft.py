"""The working state of one pool in one call of `plan`."""

from dataclasses import dataclass, field

from ebbtide.model.memory import PoolMemory
from ebbtide.model.plan import Condition
from ebbtide.model.snapshot import PoolState


@dataclass(slots=True)
class PoolDraft:
    """One pool's GPUs while services are placed."""

    state: PoolState
    memory: PoolMemory
    price: float | None = None
    gpus: int = 0  # of nodes that count: ready, not cordoned, not about to go
    allocated: int = 0  # on all nodes, and on those that count
    allocated_counting: int = 0
    budget: float = 0.0  # GPUs left for services that are still to be placed
    free: dict[int, int] = field(default_factory=dict)  # free GPUs of a node -> number of such nodes
    taken: int = 0  # GPUs of those nodes that new replicas were given
    capped: bool = False  # its declared limit binds before the GPUs that there are
    elastic: bool = False  # nodes may come: packing is not bound to those that exist
    held: float = 0.0  # GPUs of services of the same priority that are still to be placed
    lower: float = 0.0  # GPUs of services of lower priority, and of those, what they may be made to give up
    yields: float = 0.0
    waiting: int = 0  # pods of ours that wait for a node
    hosts: set[str] = field(default_factory=set)  # nodes with pods of ours
    stuck: float = 0.0  # GPUs of our pods on nodes that take nothing new: theirs to keep, nobody else's to claim
    conditions: list[Condition] = field(default_factory=list)
    lent: dict[str, int] = field(
        default_factory=dict
    )  # by node: GPUs that batch Jobs give back when they are asked for
    given_back_by: float | None = None  # until when pods of Jobs that were stopped may still hold GPUs

    @property
    def name(self) -> str:
        """The GPUPool's name."""
        return self.state.spec.name
