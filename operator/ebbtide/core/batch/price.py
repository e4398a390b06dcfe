"""What a pool has for batch Jobs in each slot: GPUs that may be used, those that are paid for anyway, the price.

Paid for anyway, so that a Job on them costs nothing more: idle GPUs of a Static pool that was bought, reserved or is
billed by node; where nodes come and go, what is idle beside services on nodes that stand for these, and nodes that are
empty and not gone yet. Worked example: services need 13 GPUs on nodes of 8: 3 of 16 are paid for and idle.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from ebbtide.core import pools, release
from ebbtide.core.batch import comings
from ebbtide.core.batch.comings import Comings
from ebbtide.core.batch.grid import Grid
from ebbtide.core.batch.need import Need
from ebbtide.core.ceilings.lines import node_gpus
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.core.work import Cycle
from ebbtide.model.snapshot import PoolState
from ebbtide.model.spec import Billing, CapacityType, Provisioning

ANY = 1_000_000.0  # GPUs: beyond any cluster


@dataclass(slots=True)
class Offer:
    """One pool by slot. `used` is filled as Jobs are placed; `None` as a price: not known then, so nothing may run."""

    pool: PoolDraft
    grid: Grid
    price: list[float | None]
    room: list[float]  # GPUs beside what services are expected to need
    safe: list[float]  # GPUs beside what they rarely exceed
    idle: list[float]  # of `room`, GPUs that are paid for anyway
    soon: float  # GPUs beside what services may come to need before what starts now could be gone again
    comings: Comings
    node: int  # GPUs of its largest node
    most: float  # GPUs that there could ever be for one Job
    used: list[float] = field(init=False)
    firm: list[float] = field(init=False)  # of `used`, by Jobs that nobody may stop
    leaving: float = 0.0  # of `used` in the first slot, by pods that were told to go in an earlier cycle

    def __post_init__(self) -> None:
        self.used, self.firm = [0.0] * self.grid.slots, [0.0] * self.grid.slots

    @property
    def name(self) -> str:
        """The pool's."""
        return self.pool.name

    def has_room(self, slot: int, gpus: int, *, stays: bool, first: bool) -> bool:
        """Whether so many more may be used: of a Job that `stays`, whatever services come to need; of others that

        start now, beside what services may need before they could be gone again.
        """
        if self.price[slot] is None or self.used[slot] + gpus > self.room[slot]:
            return False
        if stays:
            return self.firm[slot] + gpus <= self.safe[slot]
        return not first or self.used[slot] + gpus <= self.soon

    def fitting(self, gpus: int, *, stays: bool) -> list[bool]:
        """`has_room` of every slot at once."""
        known = zip(self.price, self.used, self.room, strict=True)
        found = [price is not None and used + gpus <= room for price, used, room in known]
        if stays:
            return [fit and firm + gpus <= safe for fit, firm, safe in zip(found, self.firm, self.safe, strict=True)]
        found[0] = found[0] and self.used[0] + gpus <= self.soon
        return found

    def costing(self, gpus: int) -> list[float]:
        """`costs` of every slot at once."""
        return [
            0.0 if used + gpus <= idle else (price or 0.0) * min(float(gpus), used + gpus - idle) / gpus
            for price, used, idle in zip(self.price, self.used, self.idle, strict=True)
        ]

    def empties(self, start: int, last: int, gpus: int) -> float:
        """Money for nodes that stand empty because of so many more GPUs from slot `start` to `last`."""
        return self.comings.costs(start, last, gpus, self.used, self.price)

    def take(self, slots: Iterable[int], gpus: int, *, stays: bool) -> None:
        """So many more are used."""
        for slot in slots:
            self.used[slot] += gpus
            if stays:
                self.firm[slot] += gpus

    def is_idle(self, slot: int, gpus: int) -> bool:
        """Whether so many more are paid for anyway."""
        return self.used[slot] + gpus <= self.idle[slot] + 1e-9

    def costs(self, slot: int, gpus: int) -> float:
        """Price of a GPU-hour for so many more: of those that are not paid for anyway, spread over all of them."""
        beyond = min(float(gpus), max(0.0, self.used[slot] + gpus - self.idle[slot]))
        return (self.price[slot] or 0.0) * beyond / gpus if gpus else 0.0


def paid_anyway(state: PoolState) -> bool:
    """Whether all its GPUs are paid for, whoever uses them."""
    if state.spec.provisioning is not Provisioning.STATIC:
        return False
    bought = state.spec.capacity_type in (CapacityType.RESERVED, CapacityType.ON_PREM)
    return bought or state.spec.billing is Billing.NODE


def changes(states: Iterable[PoolState]) -> list[float]:
    """Moments at which a price changes."""
    found = [step.at_s for state in states for step in state.steps]
    return found + [s.next_price_change_at for s in states if s.next_price_change_at is not None]


def offer(pool: PoolDraft, need: Need, others: float, grid: Grid, cycle: Cycle) -> Offer:
    """`others`: GPUs that neither services nor batch Jobs hold."""
    state, spec = pool.state, pool.state.spec
    there = [node.gpus for node in state.nodes if pools.counts(node)]
    price = _prices(state, grid)
    until = pool.memory.backoff_until
    elastic = spec.provisioning is Provisioning.AUTOSCALED
    exists = float(sum(there))
    most = ANY if spec.max_gpus is None else float(spec.max_gpus)
    room, safe, idle = [], [], []
    soon = 0.0
    for slot in range(grid.slots):
        begins_s = grid.edges[slot]
        waits = until is not None and begins_s < until
        total = most if elastic and not waits else min(exists, most)
        if not slot:
            soon = max(0.0, math.floor(total - others - need.soon + 1e-9))
        room.append(max(0.0, math.floor(total - others - need.expected[slot] + 1e-9)))
        safe.append(max(0.0, math.floor(total - others - need.upper[slot] + 1e-9)))
        idle.append(min(room[-1], idle_gpus(pool, need.expected[slot] + others, exists, begins_s, cycle)))
    largest = max(there, default=node_gpus(pool) if elastic else 0)
    level = [held + others for held in need.expected]
    coming = comings.of(pool, level, exists, node_size(pool), grid)
    most = most if elastic else min(exists, most)
    return Offer(pool, grid, price, room, safe, idle, soon, coming, largest, most - others)


def idle_gpus(pool: PoolDraft, held: float, exists: float, begins_s: float, cycle: Cycle) -> float:
    """GPUs that are paid for and that services and others, which hold `held`, leave of those that there are."""
    if paid_anyway(pool.state):
        return max(0.0, exists - held)
    if not release.applies(pool.state):
        return 0.0  # each GPU is paid for as it is held
    beside = beside_services(held, node_size(pool))
    if begins_s < cycle.now_s + release.stays_s(pool.state, pool.memory):
        beside += release.leaving_gpus(pool, cycle.now_s)
    return max(0.0, beside)


def node_size(pool: PoolDraft) -> int:
    """GPUs of its nodes, also while none is there; 1 before any was seen, so that nothing is idle that may never be."""
    return max((node.gpus for node in pool.state.nodes), default=0) or pool.memory.node_gpus or 1


def beside_services(held: float, size: int) -> float:
    """GPUs that nobody holds on the nodes of `size` that so many need: 3 beside 13 on nodes of 8."""
    held = math.ceil(held - 1e-9)  # whole GPUs: 2.4 that are expected hold 3
    return math.ceil(held / size) * size - held


def _prices(state: PoolState, grid: Grid) -> list[float | None]:
    """By slot; as far as there is room for borders, each step has its own."""
    steps = [(step.at_s, step.per_gpu_hour) for step in state.steps]
    now = state.price_per_gpu_hour
    if now is None:
        return [None] * grid.slots
    if not steps:
        steps = [(0.0, now)]
        if state.next_price_change_at is not None:
            steps.append((state.next_price_change_at, state.next_price_per_gpu_hour))
    found: list[float | None] = []
    at, current = 0, now
    for begins_s in grid.edges[:-1]:
        while at < len(steps) and steps[at][0] <= begins_s:
            at, known = at + 1, steps[at][1]
            if known is None:
                return found + [None] * (grid.slots - len(found))
            current = known
        found.append(float(current))
    return found
