"""What it costs that nodes come for a Job and stay a while after it: they are paid while they stand empty.

Where nodes come and go, one is paid from its order, and for some minutes after its last pod. A Job that begins as
others end, or as services shrink, takes over their nodes; one that ends as others begin leaves them its own. Worked
example: with 3 minutes until a node is there and 10 until it is gone, 4 GPUs at 1.45 stand empty for 1.26 on nodes of
their own, and for nothing on those of a Job that ends then: where there is time, Jobs follow each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ebbtide.core import pools, release
from ebbtide.core.batch.grid import Grid
from ebbtide.core.pool_draft import PoolDraft

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Comings:
    """Of one pool. `level`: GPUs by slot that services and others hold; `there`: of nodes that are there now."""

    grid: Grid
    level: Sequence[float]
    there: float
    size: int
    lead_s: float
    stays_s: float

    @property
    def matter(self) -> bool:
        """Whether nodes come and go, and are paid meanwhile."""
        return self.stays_s > 0.0

    def eases(self, used: Sequence[float]) -> list[int]:
        """Slots at whose begin GPUs become free: who starts then finds nodes."""
        if not self.matter:
            return []
        held = [level + by for level, by in zip(self.level, used, strict=True)]
        return [slot for slot in range(1, len(held)) if held[slot] < held[slot - 1] - 0.5]

    def costs(self, start: int, last: int, gpus: int, used: Sequence[float], price: Sequence[float | None]) -> float:
        """Of so many more GPUs from slot `start` to `last`, beside `used`; less what they save those who come after."""
        if not self.matter:
            return 0.0
        begins, ends = price[start] or 0.0, price[last] or 0.0
        held = self._nodes(self.level[start] + used[start])
        new = self._nodes(self.level[start] + used[start] + gpus) - max(held, self._before(start, used))
        money = max(0, new) * (self.lead_s * begins + self.stays_s * ends)
        if last + 1 < len(self.level):
            held = self._nodes(self.level[last] + used[last])
            after = self._nodes(self.level[last + 1] + used[last + 1])
            taken_over = min(self._nodes(self.level[last] + used[last] + gpus), after) - held
            money -= max(0, taken_over) * (self.lead_s * (price[last + 1] or 0.0) + self.stays_s * ends)
        return money / HOUR_S

    def _before(self, start: int, used: Sequence[float]) -> int:
        """GPUs of nodes that are not gone yet when a slot begins."""
        begins_s, found = self.grid.edges[start], 0
        for slot in range(start - 1, -1, -1):
            if self.grid.edges[slot + 1] <= begins_s - self.stays_s:
                return found
            found = max(found, self._nodes(self.level[slot] + used[slot]))
        return max(found, math.floor(self.there)) if self.grid.now_s > begins_s - self.stays_s else found

    def _nodes(self, gpus: float) -> int:
        """GPUs of the whole nodes that so many need."""
        return math.ceil(math.ceil(gpus - 1e-9) / self.size) * self.size


def of(pool: PoolDraft, level: Sequence[float], there: float, size: int, grid: Grid) -> Comings:
    """As measured of the pool's nodes so far; of pools whose nodes stay, or are not paid, nothing is counted."""
    stays_s = release.stays_s(pool.state, pool.memory)
    lead_s = pools.lead_time_s(pool.state, pool.memory) if stays_s else 0.0
    return Comings(grid, level, there, max(1, size), lead_s, stays_s)
