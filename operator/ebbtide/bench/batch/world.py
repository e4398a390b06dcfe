"""A trace lived through: chat and Jobs on one cluster, minute by minute; somebody decides, a clerk writes down.

Without Jobs, or under a rival, chat's replicas follow a path: that of the run without batch, which Ebbtide decided. So
rivals differ from Ebbtide in nothing but what they do with Jobs.
"""

from collections.abc import Callable, Sequence

import msgspec

from ebbtide.bench.batch.cluster import CHAT_OWNER, Cluster, Pod
from ebbtide.bench.batch.load import CHAT, Stage
from ebbtide.bench.batch.running import Running, State
from ebbtide.bench.batch.scenario import APART, MINUTE_S, ON_DEMAND, RESERVED

POOLS = (RESERVED, ON_DEMAND, APART)


class Began(msgspec.Struct, frozen=True):
    """Where all runs begin: chat's replicas on (reserved, on demand), and what Ebbtide has learnt, packed."""

    replicas: tuple[int, int]
    memory: bytes


class Ended(msgspec.Struct, frozen=True):
    """One Job at the end. `done_s` None: it was not done by then."""

    name: str
    started_s: int | None
    done_s: int | None
    stops: int
    lost_s: float


class Lived(msgspec.Struct, frozen=True, kw_only=True):
    """One run. By minute and pool of POOLS: GPUs that are paid, that chat holds, that Jobs hold, GPU-s of work done.

    `declared`: chat's replicas on (reserved, on demand) in each minute. `short`: pod-minutes that chat waited for GPUs
    which a Job held. `wall_s`: by the clock.
    """

    came: float
    answered: float
    paid: tuple[tuple[int, ...], ...]
    chat: tuple[tuple[int, ...], ...]
    batch: tuple[tuple[int, ...], ...]
    work: tuple[tuple[float, ...], ...]
    declared: tuple[tuple[int, int], ...]
    jobs: tuple[Ended, ...]
    short: int
    wall_s: float = 0.0
    note: str = ""

    @property
    def attained(self) -> float:
        """Requests of chat that were answered within the objective, of all."""
        return self.answered / self.came if self.came else 1.0


Decide = Callable[["World"], None]


class World:
    """`decide` is asked every `every_s`; Jobs are in `jobs` once they have come."""

    def __init__(self, stage: Stage, began: Began | None, begin_s: int, end_s: int, *, jobs: bool) -> None:
        self.stage, self.now_s, self._begin_s, self._end_s = stage, begin_s, begin_s, end_s
        self.cluster = Cluster(stage.scenario, begin_s)
        self._coming = list(stage.jobs) if jobs else []
        self.jobs: dict[str, Running] = {}
        self.chat: dict[str, list[Pod]] = {RESERVED: [], ON_DEMAND: []}
        self._first = (begin_s - stage.begin_s + stage.lead_in_s) // MINUTE_S
        self._came = self._answered = 0.0
        self._short = 0
        self._started: dict[str, int] = {}
        self._rows: dict[str, list[list[float]]] = {name: [[] for _ in POOLS] for name in _ROWS}
        self._declared: list[tuple[int, int]] = []
        replicas = began.replicas if began is not None else (0, 0)
        for pool, count in zip(self.chat, replicas, strict=True):
            self._run_already(pool, count)

    @property
    def minute(self) -> int:
        """Since it began."""
        return (self.now_s - self._begin_s) // MINUTE_S

    @property
    def per_s(self) -> float:
        """Requests/s of the last minute."""
        return self.stage.requests[max(0, self._first + self.minute - 1)] / MINUTE_S

    def run(self, decide: Decide, every_s: int) -> None:
        """To the end."""
        while self.now_s < self._end_s:
            self._minute(decide if (self.now_s - self._begin_s) % every_s == 0 else None)

    def ready(self, at_s: int) -> int:
        """Replicas of chat that serve at that second."""
        startup_s = self.stage.scenario.chat.startup_s
        pods = [pod for pods in self.chat.values() for pod in pods]
        return sum(pod.node is not None and pod.bound_s + startup_s <= at_s for pod in pods)

    def scale(self, pool: str, replicas: int, victims: Sequence[str] = ()) -> None:
        """Chat's replicas there: named ones go first, then what is not bound, then the newest."""
        pods = self.chat[pool]
        pods += [self.cluster.add(CHAT_OWNER, pool, 1, self.now_s) for _ in range(replicas - len(pods))]
        if len(pods) > replicas:
            pods.sort(key=lambda pod: (pod.name in victims, pod.node is None, pod.born_s))
            for pod in pods[replicas:]:
                self.cluster.remove(pod, self.now_s, self.stage.scenario.chat.exit_s)
            self.chat[pool] = pods[:replicas]

    def start(self, job: Running, pool: str, pods: int = 0) -> None:
        """On that pool; `pods` 0: with all it asks for."""
        self._started.setdefault(job.job.name, self.now_s)
        job.start(pool, pods or job.job.pods, self.cluster, self.now_s)

    def stop(self, job: Running) -> None:
        """It may be started again."""
        job.stop(self.cluster, self.now_s, self.stage.scenario.batch.grace_s)

    def resize(self, job: Running, pods: int) -> None:
        """Of an elastic one."""
        job.resize(pods, self.cluster, self.now_s, self.stage.scenario.batch.grace_s)

    def waiting(self) -> list[Running]:
        """Jobs that wait to be started, the earliest first."""
        return [job for job in self.jobs.values() if job.is_open]

    def running(self) -> list[Running]:
        """Jobs that run."""
        return [job for job in self.jobs.values() if job.state is State.RUNS]

    def lived(self, wall_s: float, note: str = "") -> Lived:
        """After `run`."""
        done = {name: job.done_s for name, job in self.jobs.items()}
        return Lived(
            came=self._came,
            answered=self._answered,
            paid=_whole(self._rows["paid"]),
            chat=_whole(self._rows["chat"]),
            batch=_whole(self._rows["batch"]),
            work=tuple(tuple(row) for row in self._rows["work"]),
            declared=tuple(self._declared),
            jobs=tuple(
                Ended(name, self._started.get(name), done[name], job.stops, job.lost_s)
                for name, job in self.jobs.items()
            ),
            short=self._short,
            wall_s=wall_s,
            note=note,
        )

    def began(self, memory: bytes) -> Began:
        """What goes on from here."""
        return Began((len(self.chat[RESERVED]), len(self.chat[ON_DEMAND])), memory)

    def _run_already(self, pool: str, count: int) -> None:
        """Replicas that were there before."""
        before_s = self.now_s - 3600
        size = self.stage.scenario.on_demand.gpus_per_node
        self.cluster.stand(before_s, -(-count // size) if pool == ON_DEMAND else 0)
        self.chat[pool] = [self.cluster.add(CHAT_OWNER, pool, 1, before_s) for _ in range(count)]
        self.cluster.schedule(before_s, 0, min, _nobody)

    def _minute(self, decide: Decide | None) -> None:
        cluster, scenario, now_s = self.cluster, self.stage.scenario, self.now_s
        cluster.clear(now_s)
        while self._coming and self._coming[0].created_s <= now_s:
            new = self._coming.pop(0)
            self.jobs[new.name] = Running(new)
        if decide is not None:
            decide(self)
        cluster.schedule(now_s, scenario.batch.grace_s, self._least, self._evicted)
        self._count()
        done = dict.fromkeys(POOLS, 0.0)
        for job in self.running():
            done[job.pool] += job.minute(now_s, scenario.batch, cluster)
        for row, pool in zip(self._rows["work"], POOLS, strict=True):
            row.append(done[pool])
        self.now_s += MINUTE_S

    def _count(self) -> None:
        cluster, now_s = self.cluster, self.now_s
        requests = self.stage.requests[self._first + self.minute]
        half_s = now_s + MINUTE_S // 2
        capacity = 0.5 * MINUTE_S * CHAT.capacity_per_s * (self.ready(now_s) + self.ready(half_s))
        self._came += requests
        self._answered += min(float(requests), capacity)
        self._declared.append((len(self.chat[RESERVED]), len(self.chat[ON_DEMAND])))
        for number, pool in enumerate(POOLS):
            held = cluster.held(pool, chat=False)
            self._rows["paid"][number].append(cluster.paid(pool))
            self._rows["chat"][number].append(cluster.held(pool, chat=True))
            self._rows["batch"][number].append(held)
            if held and pool in self.chat:
                self._short += sum(pod.node is None for pod in self.chat[pool])

    def _least(self, names: Sequence[str]) -> str:
        return min(names, key=lambda name: (self.jobs[name].at_stake_s() if name in self.jobs else 0.0, name))

    def _evicted(self, name: str, pod: Pod) -> None:
        job = self.jobs[name]
        if pod in job.pods:
            job.evicted(pod, self.cluster, self.now_s)


_ROWS = ("paid", "chat", "batch", "work")


def _nobody(name: str, pod: Pod) -> None:
    raise AssertionError(f"{pod.name} of {name} was evicted before anything ran")


def _whole(rows: Sequence[Sequence[float]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(each) for each in row) for row in rows)
