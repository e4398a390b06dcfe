"""A nightly window, as kube-green's sleepAt and wakeUpAt or AIBrix's schedules have it: no load, no deadline is read.

In the window Jobs run at once, on idle reserved GPUs where they fit; at its end those that may be stopped are.
"""

from ebbtide.bench.batch.load import Stage
from ebbtide.bench.batch.rivals.parts import pool_for
from ebbtide.bench.batch.scenario import Hours
from ebbtide.bench.batch.world import World

NIGHT = ("22:00", "06:00")  # where a scenario has no off-peak hours


class Window:
    """The scenario's first off-peak hours."""

    def __init__(self, stage: Stage) -> None:
        spec = stage.scenario.on_demand
        self._hours = spec.off_peak[0] if spec.off_peak else Hours(*NIGHT, spec.price)
        self.note = f"{self._hours.begins} to {self._hours.ends}, stopped at its end where that is allowed"

    def __call__(self, world: World) -> None:
        """Open: start all that wait; closed: stop what may be."""
        if self._hours.holds(world.now_s):
            for job in world.waiting():
                world.start(job, pool_for(job, world))
        else:
            for job in world.running():
                if job.job.restartable:
                    world.stop(job)
