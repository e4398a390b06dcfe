"""A night of minutes: one interactive service whose load ebbs and comes back, and batch Jobs with deadlines.

Six minutes are an evening, a night and a morning. The service holds most of the GPUs that are paid for anyway in the
evening, one or two of eight in the night, and all in the morning. Rented GPUs are cheap in the night. `documents` is
long enough to be still at work when the morning comes: it gives its GPUs back, and goes on after the peak.
"""

import math
import random

import msgspec

from ebbtide.model.spec import Mode
from ebbtide.sim.showcase import ShowcaseService, curve

PAID, RENTED = "a100-on-prem", "cloud-a100"
NIGHT_PRICE = "1.10"  # of a rented GPU in the night, for an hour
# (share of the duration, share of the peak): from the evening to the forenoon
_LOAD = ((0.12, 0.75), (0.27, 0.10), (0.57, 0.10), (0.76, 1.0), (0.81, 0.97), (0.90, 0.40), (1.0, 0.38))
_NIGHT = (1 / 6, 4 / 6)
_DAY_S = 360.0  # the duration that times of Jobs are meant for


class BatchJob(msgspec.Struct, frozen=True):
    """One Job, in seconds of a day of six minutes: submitted, by when it must have ended, and how long a pod takes.

    Each pod needs one GPU. A Job that is stopped keeps the completions that it has.
    """

    name: str
    story: str
    submitted_s: float
    deadline_s: float
    pods: int  # at once
    completions: int
    pod_s: tuple[float, float]  # each between these
    restartable: bool = True

    @property
    def expected_s(self) -> float:
        """All rounds one after the other, with what it takes to start a pod."""
        return math.ceil(self.completions / self.pods) * (sum(self.pod_s) / 2 + 2.5)


JOBS = (
    BatchJob("report", "may not be stopped once it runs", 0.0, 230.0, 1, 1, (24.0, 30.0), restartable=False),
    BatchJob("evaluate", "must have ended before the morning", 4.0, 240.0, 2, 6, (9.0, 12.0)),
    BatchJob("embed", "has until the forenoon", 8.0, 330.0, 2, 8, (9.0, 12.0)),
    BatchJob("documents", "is still at work when the morning comes", 12.0, 400.0, 2, 24, (9.0, 12.0)),
)


def services(duration_s: float, seed: int) -> tuple[ShowcaseService, ...]:
    """The interactive service."""
    draw = random.Random(f"{seed}/off-peak")
    return (
        ShowcaseService(
            name="chat",
            story="people wait for it; on paid-for GPUs first, then on rented ones",
            engine="vllm",
            mode=Mode.AUTO,
            variants=((PAID, 8, 6), (RENTED, 2, 0)),
            shape=curve(_LOAD, duration_s, draw.uniform(68.0, 71.0)),
            startup_s=draw.uniform(12.0, 18.0),
        ),
    )


def jobs(duration_s: float) -> tuple[BatchJob, ...]:
    """The Jobs, as much shorter or longer as the day is."""
    share = duration_s / _DAY_S
    return tuple(
        msgspec.structs.replace(
            job,
            submitted_s=job.submitted_s * share,
            deadline_s=job.deadline_s * share,
            pod_s=(job.pod_s[0] * share, job.pod_s[1] * share),
        )
        for job in JOBS
    )


def night(duration_s: float) -> tuple[float, float]:
    """When the night begins and ends, in seconds of the load; whole minutes, for that is what cron knows."""
    begin, end = (60.0 * max(1, round(share * duration_s / 60.0)) for share in _NIGHT)
    return begin, max(end, begin + 60.0)
