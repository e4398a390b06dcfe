"""Pods of one service in virtual time: ordered, ready, told to go, gone; and what they answer of what comes.

All moments are whole seconds. A pod is billed from the order until it is gone, so starting and draining ones are.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from ebbtide.bench.budget.clerk import Clerk
from ebbtide.bench.budget.member import Member


class Pod(msgspec.Struct):
    """One replica on one GPU. `gone_s` is set once it was told to go."""

    name: str
    born_s: int
    ready_s: int
    gone_s: int | None = None


@dataclass(frozen=True)
class Pace:
    """How long a replica takes from the order to ready, and from being told to go until it is gone; seconds."""

    startup_s: int
    exit_s: int


class Fleet:
    """One service's pods. Those in `pods` are declared, those in `leaving` were told to go."""

    def __init__(self, member: Member, pace: Pace, clerk: Clerk) -> None:
        self.member, self._pace, self._clerk = member, pace, clerk
        self.pods: list[Pod] = []
        self.leaving: list[Pod] = []
        self.gone: dict[str, int] = {}  # since `gone` was taken last: when
        self._made = 0

    def take_over(self, pods: Iterable[Pod], made: int) -> None:
        """Begin with pods that ran before; the clerk counts them from his first second on."""
        self.pods = [msgspec.structs.replace(pod) for pod in pods]
        self._made = made
        for pod in self.pods:
            self._clerk.begins(pod.name, pod.born_s)

    @property
    def made(self) -> int:
        """How many pods there ever were."""
        return self._made

    def scale(self, replicas: int, now_s: int, victims: Collection[str] = ()) -> None:
        """To so many: named victims go first, then what is not ready, then the newest."""
        for _ in range(replicas - len(self.pods)):
            self._made += 1
            pod = Pod(f"{self.member.name}-{self._made}", now_s, now_s + self._pace.startup_s)
            self.pods.append(pod)
            self._clerk.begins(pod.name, now_s)
        if len(self.pods) > replicas:
            self.pods.sort(key=lambda pod: (pod.name not in victims, pod.ready_s <= now_s, -pod.born_s))
            out = len(self.pods) - replicas
            for pod in self.pods[:out]:
                pod.gone_s = now_s + self._pace.exit_s
                self._clerk.ends(pod.name, pod.gone_s)
            self.leaving += self.pods[:out]
            self.pods = sorted(self.pods[out:], key=lambda pod: pod.born_s)

    def advance(self, now_s: int) -> None:
        """Who is gone by `now_s` is noted in `gone`."""
        for pod in self.leaving:
            if pod.gone_s is not None and pod.gone_s <= now_s:
                self.gone[pod.name] = pod.gone_s
        self.leaving = [pod for pod in self.leaving if pod.name not in self.gone]

    def ready(self, at_s: int) -> int:
        """Replicas that serve at that second."""
        return sum(pod.ready_s <= at_s for pod in self.pods)

    def answer(self, requests: float, from_s: int, to_s: int) -> float:
        """Of so many requests, spread evenly over [from_s, to_s), those that are answered inside the objective."""
        per_s = requests / (to_s - from_s)
        moments = sorted({from_s, to_s, *(pod.ready_s for pod in self.pods if from_s < pod.ready_s < to_s)})
        answered = 0.0
        for begin_s, end_s in pairwise(moments):
            answered += (end_s - begin_s) * min(per_s, self.ready(begin_s) * self.member.capacity_per_s)
        return answered
