"""Earliest deadline first on a fleet that is kept up: the law of Dynamo's proof of concept, with Jobs for requests.

    required    max over k of (work of the k most urgent) / (deadline_k - now - start-up), in GPUs; all there are where
                a deadline is nearer than the start-up
    floor       at least chat + required, and at least today's fleet: what chat leaves of it drains the backlog

So while any Job has work the fleet stays as large as it was, whatever the hour costs; above what is required it shrinks
only as Jobs end. Worked example: chat goes from 20 to 8 GPUs at night, 12 work on the backlog until it is empty.
"""

import math
from collections.abc import Sequence

from ebbtide.bench.batch.load import Stage
from ebbtide.bench.batch.rivals.parts import left_s, pool_for
from ebbtide.bench.batch.running import Running
from ebbtide.bench.batch.scenario import MINUTE_S
from ebbtide.bench.batch.world import World


class KeptUp:
    """Knows expected durations and deadlines, no prices."""

    note = "earliest deadline first; today's fleet stays while there is work"

    def __init__(self, stage: Stage) -> None:
        scenario = stage.scenario
        self._startup_s = scenario.on_demand.lead_time_s + scenario.batch.restart_s
        self._most = scenario.on_demand.max_gpus
        self._fleet = 0

    def __call__(self, world: World) -> None:
        """Start the most urgent within what the fleet has for Jobs; stop the least urgent above it."""
        now_s = world.now_s
        jobs = sorted([*world.running(), *world.waiting()], key=lambda job: (job.job.deadline_s, job.job.name))
        chat = sum(len(pods) for pods in world.chat.values())
        needed = required(jobs, now_s, self._startup_s, self._most)
        allowed = max(needed, self._fleet - chat) if jobs else 0
        held = sum(job.job.gpus for job in world.running())
        for job in reversed(jobs):
            if held <= allowed:
                break
            if not job.is_open and job.job.restartable and held - job.job.gpus >= needed:
                world.stop(job)
                held -= job.job.gpus
        for job in jobs:
            if job.is_open and job.job.gpus > allowed - held and not (held < needed):
                break  # the most urgent first: none overtakes
            if job.is_open:
                world.start(job, pool_for(job, world))
                held += job.job.gpus
        self._fleet = chat + held


def required(jobs: Sequence[Running], now_s: int, startup_s: int, most: int) -> int:
    """GPUs by which all end in time, were the work divisible; `jobs` by deadline."""
    work, found = 0.0, 0.0
    for job in jobs:
        work += left_s(job, now_s) * job.job.gpus
        window_s = job.job.deadline_s - now_s - (startup_s if job.is_open else 0)
        if window_s <= MINUTE_S:
            return most
        found = max(found, work / window_s)
    return math.ceil(found - 1e-9)
