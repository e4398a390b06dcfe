"""The working state of the batch step: each Job with what was found out about it, and where it was put."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ebbtide.core.batch.duration import Remaining
from ebbtide.model.batch import BatchPolicyState, JobState, Strategy
from ebbtide.model.memory import JobMemory, PlannedJob
from ebbtide.model.plan import Outcome
from ebbtide.model.reasons import Code


@dataclass(frozen=True, slots=True)
class Place:
    """Where and when a Job would run, and what that costs."""

    pool: str
    slot: int  # in which it starts
    starts_s: float
    ends_s: float  # by the median
    cost: float  # money, by probability
    worth: float  # what places are compared by: cost, nodes that come and go, time beyond windows, a little for hours
    late: float  # the chance that it ends after its deadline, as far as that is more than may be; else 0
    runs: tuple[int, ...]  # slots in which it holds its GPUs with some probability
    gpus: int
    parallelism: int
    price: float  # of a GPU-hour, on average
    empties: float = 0.0  # money for nodes that come for it, and stay after it

    @property
    def order(self) -> tuple[float, float, float, str]:
        """The best first: deadlines, then money and a little for early finish."""
        return (self.late, self.worth if not self.late else self.ends_s, self.starts_s, self.pool)


@dataclass(slots=True)
class Item:
    """One Job."""

    job: JobState
    policy: BatchPolicyState | None
    memory: JobMemory
    gpus: int  # of all its pods
    left: Remaining
    deadline_s: float | None
    restartable: bool
    stop_s: float  # how long it takes to be gone
    restart_s: float  # until it works again, once it is started again
    latest_s: float | None = None  # the latest start by which its deadline is kept with the confidence asked for
    pool: str = ""  # where it runs
    pools: tuple[str, ...] = ()  # that could run it
    open: tuple[bool, ...] = ()  # by slot: whether its policy's windows are open; of Cheapest always
    place: Place | None = None
    outcome: Outcome = Outcome.WAITS
    why: tuple[Code, str] | None = None
    parallelism: int = 0  # of what starts, shrinks or grows
    lacks: str = ""  # what keeps it from starting now although it is its turn, in words
    planned: PlannedJob | None = None

    @property
    def key(self) -> str:
        """namespace/name."""
        return self.job.key

    @property
    def namespace(self) -> str:
        """Of the Job."""
        return self.job.key.partition("/")[0]

    @property
    def strategy(self) -> Strategy:
        """Of its policy."""
        return self.policy.spec.strategy if self.policy is not None else Strategy.CHEAPEST

    @property
    def confidence(self) -> float:
        """With which its deadline is to be kept."""
        return self.policy.spec.confidence if self.policy is not None else 0.99

    @property
    def priority(self) -> int:
        """Of its policy."""
        return self.policy.spec.priority if self.policy is not None else 0


@dataclass(slots=True)
class Holders:
    """GPUs that a policy's Jobs are planned to hold, by slot, against its `max_gpus`."""

    most: int | None
    used: list[float] = field(default_factory=list)

    def has_room(self, slot: int, gpus: int) -> bool:
        """Whether so many more are allowed."""
        return self.most is None or self.used[slot] + gpus <= self.most

    def take(self, slots: Iterable[int], gpus: int) -> None:
        """So many more are held."""
        for slot in slots:
            self.used[slot] += gpus
