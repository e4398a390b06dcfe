"""Plays the clairvoyant schedule: each Job runs in its slots and on its pools, and on where work is left after them."""

from ebbtide.bench.batch.clairvoyant import SLOT_S, Schedule
from ebbtide.bench.batch.load import Stage
from ebbtide.bench.batch.running import State
from ebbtide.bench.batch.scenario import ON_DEMAND
from ebbtide.bench.batch.world import World


class Knowing:
    """Knows chat's replicas and what each Job takes."""

    note = "knows demand and durations; placed by slots of 15 minutes"

    def __init__(self, stage: Stage, schedule: Schedule) -> None:
        self._begin_s = stage.begin_s
        self._at = {name: dict(places) for name, places in schedule.items()}
        self._last = {name: max(dict(places), default=0) for name, places in schedule.items()}

    def __call__(self, world: World) -> None:
        """What this slot holds."""
        slot = (world.now_s - self._begin_s) // SLOT_S
        for name, job in world.jobs.items():
            if job.state is State.DONE:
                continue
            pool = self._at[name].get(slot)
            if pool is None and slot > self._last[name]:
                pool = job.pool if job.state is State.RUNS else ON_DEMAND
            if job.state is State.RUNS and pool != job.pool and (job.job.restartable or not job.worked_s):
                world.stop(job)
            if job.is_open and pool is not None:
                world.start(job, pool)
