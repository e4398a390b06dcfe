"""Ebbtide: its own pure `plan` decides chat's replicas and the Jobs, from snapshots alone.

A cycle is as long as the question says (5 minutes, where an operator takes 10 s), because days are played: a Job waits
that much longer to be started, and what plans call within a cycle is within that.
"""

import math

import msgspec

from ebbtide.bench.batch.load import CHAT, Stage
from ebbtide.bench.batch.scenario import MINUTE_S, ON_DEMAND, RESERVED
from ebbtide.bench.batch.seen import View
from ebbtide.bench.batch.world import Began, Lived, World
from ebbtide.clock import monotonic_s
from ebbtide.core.plan import plan
from ebbtide.errors import EbbtideError
from ebbtide.model.memory import Memory
from ebbtide.model.plan import JobPlan, Outcome
from ebbtide.model.snapshot import WriteReceipt


class Operator:
    """Snapshot, plan, obey."""

    def __init__(self, stage: Stage, memory: Memory) -> None:
        self._view, self.memory = View(stage), memory
        self._receipts: dict[str, WriteReceipt] = {}

    def __call__(self, world: World) -> None:
        """One cycle."""
        snapshot = self._view.snapshot(world, self._receipts)
        decided, self.memory = plan(snapshot, self.memory, float(world.now_s))
        for failure in decided.failures:
            raise EbbtideError(f"plan failed in {failure.step}: {failure.error} at {failure.trace}")
        for job in decided.jobs:
            _obey(job, world)
        for action in decided.actions:
            world.scale(action.variant, action.to_replicas, action.victims)
            self._receipts[action.variant] = WriteReceipt(action.target_uid, action.to_replicas, float(world.now_s))


def _obey(job: JobPlan, world: World) -> None:
    running = world.jobs[job.uid]
    if job.outcome is Outcome.STARTS:
        world.start(running, job.pool, job.parallelism)
    elif job.outcome is Outcome.STOPS:
        world.stop(running)
    elif job.outcome in (Outcome.SHRINKS, Outcome.GROWS):
        world.resize(running, job.parallelism)
    elif job.outcome is Outcome.IMPOSSIBLE:
        raise EbbtideError(f"{job.key} is impossible: {job.reason.text}")


def lead_in(stage: Stage) -> Began:
    """Chat alone before Jobs come; nothing is counted."""
    need = math.ceil(stage.requests[0] / MINUTE_S / CHAT.capacity_per_s)
    first = min(stage.scenario.reserved.gpus, max(1, need))
    began = Began((first, max(0, need - first)), b"")
    world = World(stage, began, stage.begin_s - stage.lead_in_s, stage.begin_s, jobs=False)
    operator = Operator(stage, Memory())
    world.run(operator, stage.cycle_s)
    return world.began(msgspec.msgpack.encode(operator.memory))


def ebbtide(stage: Stage, began: Began, *, jobs: bool = True) -> Lived:
    """With Jobs, or chat alone: what idles then is paid for anyway."""
    start_s = monotonic_s()
    world = World(stage, began, stage.begin_s, stage.end_s, jobs=jobs)
    world.run(Operator(stage, msgspec.msgpack.decode(began.memory, type=Memory)), stage.cycle_s)
    return world.lived(monotonic_s() - start_s)


def along(world: World, path: tuple[tuple[int, int], ...]) -> None:
    """Chat's replicas of this minute, as they were without batch."""
    for pool, count in zip((RESERVED, ON_DEMAND), path[world.minute], strict=True):
        world.scale(pool, count)
