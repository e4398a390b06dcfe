"""Which deadlines anybody could keep: those that a clairvoyant earliest-deadline plan keeps, on all the GPUs there are.

It knows chat's replicas and what each Job really takes. Each minute the most urgent Jobs get the GPUs that chat leaves
of both pools at their largest; one that has to wait again loads again.
"""

from ebbtide.bench.batch.load import Stage
from ebbtide.bench.batch.scenario import MINUTE_S
from ebbtide.bench.batch.world import Lived


def feasible(stage: Stage, free: Lived) -> frozenset[str]:
    """The Jobs' names. `free`: the run without batch."""
    scenario = stage.scenario
    most = scenario.reserved.gpus + scenario.on_demand.max_gpus
    start_s = scenario.on_demand.lead_time_s + scenario.batch.restart_s
    left = {job.name: float(job.work_s + start_s) for job in stage.jobs}
    ran: set[str] = set()
    kept: set[str] = set()
    for minute in range(stage.minutes):
        now_s = stage.begin_s + minute * MINUTE_S
        room = most - sum(row[minute] for row in free.chat)
        able = [job for job in stage.jobs if job.created_s <= now_s and left[job.name] > 0.0]
        able = [job for job in able if now_s + left[job.name] <= job.deadline_s]
        able.sort(key=lambda job: (job.restartable or job.name not in ran, job.deadline_s, job.name))
        runs: set[str] = set()
        for job in able:
            if job.gpus <= room:
                room -= job.gpus
                runs.add(job.name)
                left[job.name] -= MINUTE_S
                if left[job.name] <= 0.0:
                    kept.add(job.name)
        for name in ran - runs:
            if left[name] > 0.0:
                left[name] += scenario.batch.restart_s
        ran = runs
    return frozenset(kept)
