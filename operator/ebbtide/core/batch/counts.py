"""How the Jobs of a BatchPolicy stand, each in one state, and the GPUs that they hold."""

from enum import Enum, auto

from ebbtide.core.batch.work import Item
from ebbtide.model.batch import Intent
from ebbtide.model.plan import JobPlan, Outcome

_ON = frozenset({Outcome.RUNS, Outcome.STARTS, Outcome.SHRINKS, Outcome.GROWS})


class Stand(Enum):
    """One Job's."""

    QUEUED = auto()  # waits for its first start
    RUNNING = auto()  # whoever started it
    STOPPED = auto()  # ran, was stopped by Ebbtide and will be started again
    SUSPENDED = auto()  # by people
    IMPOSSIBLE = auto()  # no pool could ever run it
    ELSEWHERE = auto()  # another controller holds it


def stand(item: Item, plan: JobPlan) -> Stand:
    """As this plan leaves it."""
    job, outcome = item.job, plan.outcome
    if outcome in _ON or (outcome is Outcome.LEFT_ALONE and not job.suspended):
        return Stand.RUNNING
    if outcome is Outcome.IMPOSSIBLE:
        return Stand.IMPOSSIBLE
    if outcome is Outcome.STOPS or job.intent is Intent.STOPPED:
        return Stand.STOPPED
    if job.intent is Intent.SUSPENDED_BY_USER:
        return Stand.SUSPENDED
    return Stand.ELSEWHERE if job.intent is Intent.FOREIGN else Stand.QUEUED


def held_gpus(item: Item, plan: JobPlan) -> int:
    """What its pods hold until they are gone; of one that runs what it will take, also before its pods are there."""
    there = sum(pod.gpus for pod in item.job.pods)
    return max(there, plan.gpus) if stand(item, plan) is Stand.RUNNING else there
