"""A fleet for batch alone: each Job at once on on-demand nodes that come for it and go after it."""

from ebbtide.bench.batch.load import Stage
from ebbtide.bench.batch.scenario import APART
from ebbtide.bench.batch.world import World


class Apart:
    """What is idle elsewhere is not looked at."""

    note = "at once, nodes of its own at the on-demand price of the hour"

    def __init__(self, stage: Stage) -> None:
        pass

    def __call__(self, world: World) -> None:
        """Start all that wait."""
        for job in world.waiting():
            world.start(job, APART)
