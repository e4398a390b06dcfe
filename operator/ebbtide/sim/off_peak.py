"""A night of minutes: one interactive service whose load ebbs and comes back, and batch Jobs with deadlines.

Six minutes are an evening, a night, a morning and a noon. The service holds most of the GPUs that are paid for anyway
in the evening, one or two of eight in the night, and all in the morning. Rented GPUs are cheap at night and at noon.
`documents` comes in the night, when paid-for GPUs are idle, and is long enough to be still at work when the morning
comes: it gives its GPUs back, and goes on at noon.
"""

import math
import random

import msgspec

from ebbtide.model.spec import Mode
from ebbtide.sim.showcase import ShowcaseService, curve

PAID, RENTED = "a100-on-prem", "cloud-a100"
CHEAP_PRICE = "1.10"  # of a rented GPU in the night and at noon, for an hour
# (share of the duration, share of the peak): from the evening to the afternoon
_LOAD = ((0.12, 0.75), (0.27, 0.12), (0.50, 0.12), (0.76, 1.0), (0.80, 0.97), (0.90, 0.45), (1.0, 0.40))
_NIGHT, _NOON = (1 / 6, 4 / 6), (5 / 6, 7 / 6)
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
    BatchJob("embed", "has until noon", 8.0, 330.0, 2, 8, (9.0, 12.0)),
    BatchJob("documents", "comes in the night, is at work in the morning", 110.0, 420.0, 2, 28, (9.0, 12.0)),
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
            shape=curve(_LOAD, duration_s, draw.uniform(58.0, 60.0)),
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


def windows(duration_s: float) -> tuple[tuple[float, float], ...]:
    """Night and noon as (from, to) in seconds of the load; whole minutes, for that is what cron knows."""
    night, noon = (tuple(60.0 * max(1, round(share * duration_s / 60.0)) for share in each) for each in (_NIGHT, _NOON))
    return (night[0], night[1]), (max(noon[0], night[1]), noon[1])
