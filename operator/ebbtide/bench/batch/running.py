"""A Job as it goes: started, stopped, evicted, done; what it has worked off, and what is lost each time it stops.

A gang works while all its pods run, an elastic Job with each pod that does, after `restart_s` of loading. What was
worked off since the last checkpoint is lost with a pod that goes; a Job that is not restartable begins anew.
Worked example: 3600 s of work, checkpoints every 300 s, stopped after 1000 s of work: 2700 s are left.
"""

from enum import Enum, auto

import msgspec

from ebbtide.bench.batch.cluster import Cluster, Pod
from ebbtide.bench.batch.load import BatchJob
from ebbtide.bench.batch.scenario import MINUTE_S, Batch


class State(Enum):
    """Of a Job."""

    HELD = auto()
    RUNS = auto()
    STOPPED = auto()
    DONE = auto()


class Running(msgspec.Struct, eq=False):
    """`worked_s` of the Job's `work_s`; `ran_s` in runs before the present one, which began at `started_s`."""

    job: BatchJob
    state: State = State.HELD
    pool: str = ""
    size: int = 0  # pods that it runs with
    pods: list[Pod] = []
    worked_s: float = 0.0
    kept_s: float = 0.0  # of it, what a stop does not lose
    ran_s: float = 0.0
    started_s: int = 0
    done_s: int | None = None
    stops: int = 0
    lost_s: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it waits to be started."""
        return self.state in (State.HELD, State.STOPPED)

    @property
    def left_s(self) -> float:
        """Seconds with all its pods."""
        return self.job.work_s - self.worked_s

    def start(self, pool: str, pods: int, cluster: Cluster, now_s: int) -> None:
        """On that pool with so many pods."""
        self.state, self.pool, self.started_s, self.size = State.RUNS, pool, now_s, pods
        self.pods = [cluster.add(self.job.name, pool, self.job.gpus_per_pod, now_s) for _ in range(pods)]

    def stop(self, cluster: Cluster, now_s: int, grace_s: int) -> None:
        """All its pods go."""
        for pod in self.pods:
            cluster.remove(pod, now_s, grace_s)
        self.pods, self.state = [], State.STOPPED
        self.ran_s += now_s - self.started_s
        self.stops += 1
        self._lose(1.0)

    def resize(self, pods: int, cluster: Cluster, now_s: int, grace_s: int) -> None:
        """The last ones go, or more come."""
        before = len(self.pods)
        for pod in self.pods[pods:]:
            cluster.remove(pod, now_s, grace_s)
        self.pods = self.pods[:pods]
        self.pods += [cluster.add(self.job.name, self.pool, self.job.gpus_per_pod, now_s) for _ in range(pods - before)]
        self.size = pods
        if pods < before:
            self._lose((before - pods) / before)

    def evicted(self, pod: Pod, cluster: Cluster, now_s: int) -> None:
        """One pod went for chat's sake; its Job makes another, which waits."""
        self.pods.remove(pod)
        self._lose(1.0 / self.size if self.job.elastic else 1.0)
        self.stops += 1
        for other in () if self.job.elastic else self.pods:  # a gang loads anew
            other.bound_s = max(other.bound_s, now_s)
        self.pods.append(cluster.add(self.job.name, self.pool, self.job.gpus_per_pod, now_s))

    def at_stake_s(self) -> float:
        """Work that a stop would lose, in GPU-seconds."""
        return (self.worked_s - self.kept_s) * self.job.gpus

    def minute(self, now_s: int, batch: Batch, cluster: Cluster) -> float:
        """From now on for a minute; GPU-seconds of work done."""
        until_s = now_s + MINUTE_S
        begins = [pod.bound_s + batch.restart_s if pod.node is not None else until_s for pod in self.pods]
        if self.job.elastic:
            gained = sum(max(0, until_s - max(now_s, at_s)) for at_s in begins) / self.job.pods
        else:
            gained = max(0, until_s - max(now_s, *begins)) * (self.size / self.job.pods)
        gained = min(gained, self.left_s)
        self.worked_s += gained
        if self.job.restartable:
            self.kept_s = max(self.kept_s, self.worked_s - self.worked_s % batch.checkpoint_s)
        if self.left_s <= 0.0:
            self.state, self.done_s = State.DONE, until_s
            for pod in self.pods:
                cluster.remove(pod, until_s, 0)
            self.pods = []
        return gained * self.job.gpus

    def _lose(self, share: float) -> None:
        lost_s = share * (self.worked_s - self.kept_s)
        self.worked_s -= lost_s
        self.lost_s += lost_s
