"""What a HorizontalPodAutoscaler would have run: the rule of the field, played along beside a service.

Each of the service's Deployments gets one, on the requests in flight at its pods, running and waiting; waiting ones
alone would say what the fleet that did run was short of, and nothing of another one. The target of a replica is 70 % of
what Ebbtide believes that it holds inside the objectives: Knative's published share of a limit, and as good a limit as
load tests would find. The rest is the controller's own (autoscaling/v2, defaults): every 15 s, unchanged within 10 %
of the target, lowered to the most that was wanted within five minutes, raised by no more than four replicas or double;
within minReplicas and maxReplicas. The last replica of a service stays, for an HPA goes to none by itself no more.

It is a supposition, and these are its limits. As many requests would have been in flight: with fewer, fuller replicas
each takes longer, so an HPA would have run more than is said here; with waiting that it would have spared, fewer. Its
replicas are there at once and gone at once. It begins at the replicas that there are, and does so again with each new
leader, after five minutes in which it was not known what is in flight, and with each variant that comes or goes.

Worked example: a replica holds 100, so its target is 70. With 2 replicas and 200 in flight, 200 / 140 is beyond 1.1, so
ceil(200 / 70) = 3. At 90 in flight ceil(90 / 70) = 2 are wanted, and five minutes later that is what runs.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ebbtide.model.plan import ServicePlan
from ebbtide.model.snapshot import PodPhase, PodState, Quality, Reading, ServiceState, VariantState
from ebbtide.model.spec import Mode

TARGET_SHARE = 0.7
PERIOD_S, DOWN_WINDOW_S = 15.0, 300.0
TOLERANCE = 0.1
MOST_UP, MOST_UP_TIMES = 4, 2  # in a period

_GRACE_S = 45.0  # a pod that became ready this recently need not have been read yet: it has begun with nothing
_SERVING = (PodPhase.READY, PodPhase.INTERRUPTED)
_GONE = (PodPhase.STARTING, PodPhase.PENDING, PodPhase.UNSCHEDULABLE, PodPhase.CRASH_LOOPING)
_ROUNDING = 1e-9  # 210 / 70 may be 3.0000000000000004, and that is no fourth replica


@dataclass(frozen=True, slots=True)
class Scaled:
    """One Deployment as its HPA sees it: replicas now, requests in flight, the target of one replica, and bounds."""

    name: str
    replicas: int
    in_flight: float
    target: float
    least: int = 0
    most: int = 100


@dataclass(slots=True)
class _One:
    """The HPA of one Deployment: `wanted` holds (second, replicas) of the last five minutes that may still bind."""

    replicas: int
    wanted: deque[tuple[float, int]] = field(default_factory=deque)


class Autoscalers:
    """Those of one service, from `now_s` (unix seconds) and the replicas that there are on."""

    __slots__ = ("_ones", "_settled_s", "seen_s")

    def __init__(self, now_s: float, seen: Sequence[Scaled]) -> None:
        self.seen_s = self._settled_s = now_s
        self._ones = {each.name: _One(each.replicas) for each in seen}
        for one in self._ones.values():
            one.wanted.append((now_s, one.replicas))

    @property
    def replicas(self) -> dict[str, int]:
        """By variant, from the last call of `see` on."""
        return {name: one.replicas for name, one in self._ones.items()}

    def follows(self, now_s: float, seen: Sequence[Scaled]) -> bool:
        """Whether it is known what they would have done up to `now_s`."""
        return now_s - self.seen_s <= DOWN_WINDOW_S and [each.name for each in seen] == list(self._ones)

    def see(self, now_s: float, seen: Sequence[Scaled]) -> None:
        """Decide once a period. `seen` are the variants that they began with, in the same order."""
        self.seen_s = now_s
        if now_s - self._settled_s < PERIOD_S:
            return
        self._settled_s = now_s
        stays = max(self._ones.values(), key=lambda one: one.replicas, default=None)
        for each in seen:
            _settle(self._ones[each.name], each, now_s)
        if stays is not None and not any(one.replicas for one in self._ones.values()):
            stays.replicas = 1


def seen(service: ServiceState, plan: ServicePlan | None, now_s: float) -> tuple[Scaled, ...] | None:
    """What the HPAs of the service would see; None: a part of it is not known, or Ebbtide does not scale it."""
    if plan is None or not scaled_here(service):
        return None
    told = {item.name: item for item in plan.variants}
    bounds = {spec.name: spec for spec in service.spec.variants}
    found = []
    for variant in service.variants:
        plan_of, spec = told.get(variant.name), bounds.get(variant.name)
        flying = _in_flight(variant, now_s)
        if plan_of is None or spec is None or flying is None or plan_of.capacity is None:
            return None
        target = TARGET_SHARE * plan_of.capacity.concurrency
        if target <= 0.0:
            return None
        replicas = variant.target.spec_replicas
        found.append(Scaled(variant.name, replicas, flying, target, spec.min_replicas, spec.max_replicas))
    return tuple(found)


def scaled_here(service: ServiceState) -> bool:
    """Whether Ebbtide is what scales the service: mode Auto, and nobody else owns a target."""
    return service.spec.mode is Mode.AUTO and not any(variant.target.rivals for variant in service.variants)


def gpus(service: ServiceState) -> Mapping[str, int]:
    """Of one replica, by variant; 0: not known."""
    sizes = {spec.name: spec.gpus_per_replica for spec in service.spec.variants}
    return {item.name: sizes.get(item.name) or item.target.gpus_per_replica or 0 for item in service.variants}


def _settle(one: _One, each: Scaled, now_s: float) -> None:
    """One decision of one HPA: tolerance, the window, the limit upwards, bounds."""
    wanted = one.replicas
    if not one.replicas or abs(each.in_flight / (each.target * one.replicas) - 1.0) > TOLERANCE + _ROUNDING:
        wanted = math.ceil(each.in_flight / each.target - _ROUNDING)
    while one.wanted and one.wanted[-1][1] <= wanted:
        one.wanted.pop()  # what is no more than a later one binds nothing any more
    one.wanted.append((now_s, wanted))
    while one.wanted[0][0] <= now_s - DOWN_WINDOW_S:
        one.wanted.popleft()
    lowest = one.wanted[0][1]
    reach = max(one.replicas + MOST_UP, one.replicas * MOST_UP_TIMES)
    settled = min(wanted, reach) if wanted > one.replicas else min(one.replicas, lowest)
    one.replicas = max(each.least, min(settled, each.most))


def _in_flight(variant: VariantState, now_s: float) -> float | None:
    """Requests running and waiting at the variant's pods; None: not known of one that serves."""
    total = 0.0
    for pod in variant.pods:
        if not pod.serves or pod.phase in _GONE:
            continue
        running, waiting = _held(pod)
        if running is not None and waiting is not None:
            total += running + waiting
        elif pod.phase in _SERVING and not (pod.ready_at is not None and now_s - pod.ready_at < _GRACE_S):
            return None
    return total


def _held(pod: PodState) -> tuple[float | None, float | None]:
    return (None, None) if pod.engine is None else (_count(pod.engine.running), _count(pod.engine.waiting))


def _count(reading: Reading) -> float | None:
    """An engine that has no such gauge has none of these."""
    if reading.quality is Quality.NOT_APPLICABLE:
        return 0.0
    return None if reading.fresh is None else max(0.0, reading.fresh)
