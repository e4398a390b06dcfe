"""What rivals share: where a Job is started, and what is left of it as far as anybody can tell."""

from ebbtide.bench.batch.running import Running, State
from ebbtide.bench.batch.scenario import ON_DEMAND, RESERVED
from ebbtide.bench.batch.world import World

LEAST_S = 60.0  # what is left at least of a Job that has run for longer than was expected


def pool_for(job: Running, world: World) -> str:
    """Reserved where all its pods find room now, else on demand: whoever looks at idle GPUs at all does that."""
    pods, each = job.job.pods, job.job.gpus_per_pod
    if world.cluster.free(RESERVED, world.now_s) < pods * each:
        return ON_DEMAND
    nodes = [node for node in world.cluster.nodes if node.pool == RESERVED]
    return RESERVED if sum(node.free // each for node in nodes) >= pods else ON_DEMAND


def left_s(job: Running, now_s: int) -> float:
    """Seconds that are left by its annotation: what a rival knows."""
    ran_s = job.ran_s + (now_s - job.started_s if job.state is State.RUNS else 0.0)
    return max(LEAST_S, job.job.expected_s - ran_s)
