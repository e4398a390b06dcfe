"""What each namespace was lent of each pool, so that the next GPUs go to whom had least of them.

Counted in GPU-hours: what its Jobs and Background services held lately, forgotten within some hours, and what those
that run will hold within as many. Worked example: one namespace has held 4 GPUs for 6 h and goes on: 15 GPU-hours
behind it and 24 ahead; of another that held one as long they are 4 and 6, so the next 3 GPUs that come free go to it.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from ebbtide.core.batch.work import Item
from ebbtide.core.work import Cycle
from ebbtide.model.batch import Intent
from ebbtide.model.memory import Lending
from ebbtide.model.plan import Outcome

HOUR_S = 3600.0
TAU_S = 6 * HOUR_S  # within which what was lent is forgotten
_LEAST = 0.01  # GPU-hours, below which nothing is kept


class Shares:
    """GPU-hours by namespace and pool."""

    def __init__(self, known: Iterable[tuple[str, str, float]] = ()) -> None:
        self._lent: dict[tuple[str, str], float] = defaultdict(float)
        for namespace, pool, gpu_hours in known:
            self._lent[namespace, pool] += gpu_hours

    def copy(self) -> "Shares":
        """To be added to while an order is made."""
        return Shares((*key, gpu_hours) for key, gpu_hours in self._lent.items())

    def of(self, item: Item) -> float:
        """What its namespace was lent of the pools that could run it, on average over these."""
        return sum(self._lent[item.namespace, pool] for pool in item.pools) / max(1, len(item.pools))

    def add(self, item: Item) -> None:
        """It is next: which of its pools it will run on is not known yet, so each has its part."""
        for pool in item.pools:
            self._lent[item.namespace, pool] += item.gpus * item.left.at(0.5) / HOUR_S / len(item.pools)


def shares(items: Sequence[Item], cycle: Cycle) -> Shares:
    """As they stand: what was lent, and what runs."""
    found = [(each.namespace, each.pool, each.gpu_hours) for each in cycle.batch_memory.lent]
    for namespace, pool, gpus, left_s, _ in _holding(items, cycle):
        found.append((namespace, pool, gpus * min(left_s, TAU_S) / HOUR_S))
    return Shares(found)


def remember(items: Sequence[Item], cycle: Cycle) -> tuple[Lending, ...]:
    """With what was held since the last look."""
    before = cycle.memory.batch
    passed_s = max(0.0, cycle.now_s - before.at)  # at the first look: what runs, since its start
    kept = math.exp(-passed_s / TAU_S)
    found: dict[tuple[str, str], float] = defaultdict(float)
    for each in before.lent:
        found[each.namespace, each.pool] = each.gpu_hours * kept
    for namespace, pool, gpus, _, ran_s in _holding(items, cycle):
        found[namespace, pool] += gpus * min(ran_s, passed_s, TAU_S) / HOUR_S
    return tuple(
        Lending(namespace, pool, round(gpu_hours, 4))
        for (namespace, pool), gpu_hours in sorted(found.items())
        if gpu_hours >= _LEAST
    )


def _holding(items: Sequence[Item], cycle: Cycle) -> Iterator[tuple[str, str, int, float, float]]:
    """(namespace, pool, GPUs, seconds ahead, seconds of this run) of what is lent; not what other controllers run."""
    for item in items:
        job = item.job
        if item.pool and not job.suspended and job.intent is not Intent.FOREIGN:
            ran_s = 0.0 if job.started_at is None else max(0.0, cycle.now_s - job.started_at)
            ahead_s = 0.0 if item.outcome is Outcome.STOPS else item.left.at(0.5)
            yield item.namespace, item.pool, item.gpus, ahead_s, ran_s
    for policy, pool, gpus in cycle.background:
        yield policy.partition("/")[0], pool, gpus, TAU_S, cycle.now_s - (cycle.memory.batch.at or cycle.now_s)
