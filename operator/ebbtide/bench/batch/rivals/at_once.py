"""Jobs as Kubernetes runs them: at once, on idle reserved GPUs where they fit, else on demand; chat evicts them."""

from ebbtide.bench.batch.load import Stage
from ebbtide.bench.batch.rivals.parts import pool_for
from ebbtide.bench.batch.world import World


class AtOnce:
    """Never stops a Job; the scheduler evicts pods for chat."""

    note = "at once on own GPUs, evicted for chat by priority"

    def __init__(self, stage: Stage) -> None:
        pass

    def __call__(self, world: World) -> None:
        """Start all that wait."""
        for job in world.waiting():
            world.start(job, pool_for(job, world))
