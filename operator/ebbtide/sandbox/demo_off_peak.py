"""The demo of batch work: Jobs wait, fill GPUs that the night leaves idle, give them back in the morning, end in time.

What is counted is seen from outside: Jobs and pods at the API server once a second.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ebbtide.clock import parse_rfc3339, unix_time_s
from ebbtide.sandbox import off_peak_objects as objects
from ebbtide.sandbox.demo import Demo, DemoOptions
from ebbtide.sandbox.demo_base import View
from ebbtide.sandbox.download import Progress
from ebbtide.sandbox.sandbox import Sandbox
from ebbtide.sim import off_peak, showcase
from ebbtide.sim.off_peak import BatchJob
from ebbtide.sim.showcase import NAMESPACE, POOL_LABEL, ShowcaseService

SHORTEST_S = 240.0
CHEAP_SHARE = 0.9  # of the Jobs' GPU time, on GPUs that are paid for anyway or in cheap hours
_JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
_POLICY = f"/apis/ebbtide.dev/v1alpha1/namespaces/{NAMESPACE}/batchpolicies/{objects.POLICY}"
_ROUTE = "sandbox.ebbtide.dev/route"
_ROUNDED_S = 1.0  # moments of the API are whole seconds


@dataclass
class Run:
    """A Job was not suspended from `begin_s` to `end_s` (unix seconds), on this pool."""

    begin_s: float
    end_s: float
    pool: str


@dataclass
class JobLife:
    """One Job as it was seen. `ended_s`: unix seconds of its completion."""

    spec: BatchJob
    deadline_s: float
    runs: list[Run] = field(default_factory=list)
    succeeded: int = 0
    ended_s: float | None = None
    failed: bool = False
    on: bool = False  # it runs now

    @property
    def given_back(self) -> int:
        """How often it was stopped before it had ended."""
        return max(0, len(self.runs) - (1 if self.on or self.ended_s is not None else 0))

    @property
    def resumed(self) -> int:
        """How often it was started again."""
        return max(0, len(self.runs) - 1)

    def seen(self, job: Mapping[str, Any], now_s: float) -> None:
        """Take in what the API server says of it."""
        status = job.get("status", {})
        self.succeeded = status.get("succeeded", 0)
        true = {item["type"] for item in status.get("conditions", ()) if item["status"] == "True"}
        self.failed = "Failed" in true
        if "Complete" in true and self.ended_s is None:
            self.ended_s = parse_rfc3339(status["completionTime"])
        runs = not job["spec"].get("suspend") and self.ended_s is None and not self.failed
        if runs and not self.on:
            pool = job["spec"]["template"]["spec"].get("nodeSelector", {}).get(POOL_LABEL, "")
            self.runs.append(Run(now_s, now_s, pool))
        if self.on or runs:
            self.runs[-1].end_s = now_s if self.ended_s is None else max(self.runs[-1].begin_s, self.ended_s)
        self.on = runs


@dataclass
class Batch:
    """What was seen of batch work. GPU-seconds are by pool and whether it was a cheap hour."""

    lives: dict[str, JobLife]
    cheap: tuple[tuple[float, float], ...]  # windows, in unix seconds
    gpu_s: dict[tuple[str, bool], float] = field(default_factory=dict)
    pending_s: dict[str, float] = field(default_factory=dict)  # of the service's pods, by uid: until they had a node
    status: Mapping[str, Any] = field(default_factory=dict)  # of the BatchPolicy

    def is_cheap(self, at_s: float) -> bool:
        """Whether a window is open."""
        return any(begin_s <= at_s < end_s for begin_s, end_s in self.cheap)

    @property
    def total_gpu_s(self) -> float:
        """Of all Jobs."""
        return sum(self.gpu_s.values())

    @property
    def paid_share(self) -> float:
        """Of the Jobs' GPU time, on GPUs that are paid for anyway."""
        return self._share(lambda pool, _: pool == off_peak.PAID)

    @property
    def cheap_share(self) -> float:
        """There, or in cheap hours."""
        return self._share(lambda pool, cheap: pool == off_peak.PAID or cheap)

    def _share(self, counts: Callable[[str, bool], bool]) -> float:
        some = sum(seconds for key, seconds in self.gpu_s.items() if counts(*key))
        return some / self.total_gpu_s if self.total_gpu_s else 0.0


class OffPeakDemo(Demo):
    """The running demo. `batch` is there once it has started; `rest_within_s` waits for the last Job."""

    rest_within_s = 90.0
    batch: Batch

    def __init__(self, sandbox: Sandbox, options: DemoOptions, progress: Progress) -> None:
        super().__init__(sandbox, options, progress)
        self._to_submit = list(off_peak.jobs(options.duration_s))

    @staticmethod
    def fleet_of(options: DemoOptions) -> tuple[ShowcaseService, ...]:
        """One interactive service."""
        return off_peak.services(options.duration_s, options.seed)

    @staticmethod
    def pools() -> list[dict[str, Any]]:
        """Those two that are used; lower prices come when it is known when they hold."""
        return [pool for pool in Demo.pools() if pool["metadata"]["name"] in (off_peak.PAID, off_peak.RENTED)]

    async def start(self) -> None:
        """Second 0 is that of a minute: windows and prices begin with one."""
        wait_s = -(unix_time_s() + showcase.WARM_UP_S) % 60.0
        self._progress(f"waiting {wait_s:.0f} s, so that the load begins with a minute: cron knows no seconds")
        await asyncio.sleep(wait_s)
        await super().start()

    async def start_operator(self, within_s: float) -> None:
        """The BatchPolicy and lower prices come first."""
        began_s = 60.0 * round(self.counts_from_s / 60.0)
        spans = off_peak.windows(self.duration_s)
        cheap = tuple((began_s + begin_s, began_s + end_s) for begin_s, end_s in spans)
        lives = {job.name: JobLife(job, self.counts_from_s + job.deadline_s) for job in self._to_submit}
        self.batch = Batch(lives, cheap)
        self.sandbox.apply([*objects.pools(cheap), objects.policy(cheap)])
        minutes = " and ".join(f"from {begin_s / 60.0:.0f}m to {end_s / 60.0:.0f}m" for begin_s, end_s in spans)
        self._progress(
            f"BatchPolicy {objects.POLICY}: night and noon are {minutes} of the load, with {off_peak.CHEAP_PRICE} "
            f"instead of {self._prices[off_peak.RENTED]} USD for a rented GPU-hour"
        )
        await super().start_operator(within_s)

    async def _view(self, elapsed_s: float, step_s: float) -> View:
        while self._to_submit and self._to_submit[0].submitted_s <= elapsed_s:
            job = self._to_submit.pop(0)
            await self._client.request("POST", _JOBS, body=objects.job(job, self.counts_from_s))
        view = await super()._view(elapsed_s, step_s)
        jobs, policy, pods = await asyncio.gather(
            self._client.get(_JOBS), self._client.get(_POLICY), self._client.get(f"/api/v1/namespaces/{NAMESPACE}/pods")
        )
        now_s = unix_time_s()
        self.batch.status = policy.get("status", {})
        for job in jobs["items"]:
            if job["metadata"]["name"] in self.batch.lives:
                self.batch.lives[job["metadata"]["name"]].seen(job, now_s)
        count_pods(self.batch, pods["items"], now_s, step_s, self.counts_from_s)
        return view

    def _at_rest(self, view: View) -> bool:
        ended = all(life.ended_s is not None or life.failed for life in self.batch.lives.values())
        return ended and super()._at_rest(view)


def count_pods(batch: Batch, pods: Sequence[Mapping[str, Any]], now_s: float, step_s: float, began_s: float) -> None:
    """Adds `step_s` for each pod of a Job that holds its GPU, and notes how long pods of services waited for a node."""
    for pod in pods:
        meta, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
        if "batch.kubernetes.io/job-name" in meta.get("labels", {}):
            if spec.get("nodeName") and status.get("phase") not in ("Succeeded", "Failed"):
                key = spec.get("nodeSelector", {}).get(POOL_LABEL, ""), batch.is_cheap(now_s)
                batch.gpu_s[key] = batch.gpu_s.get(key, 0.0) + step_s
        elif _ROUTE in meta.get("labels", {}):
            created_s = parse_rfc3339(meta["creationTimestamp"])
            bound = [item for item in status.get("conditions", ()) if item["type"] == "PodScheduled"]
            placed = [parse_rfc3339(item["lastTransitionTime"]) for item in bound if item["status"] == "True"]
            if created_s >= began_s:
                batch.pending_s[meta["uid"]] = max(0.0, (placed[0] if placed else now_s) - created_s)


def verdict(batch: Batch, cycle_s: float) -> list[str]:
    """What did not come out as it should, in words."""
    problems = []
    for life in batch.lives.values():
        if life.ended_s is None:
            done = f"{life.succeeded} of {life.spec.completions} completions are done"
            problems.append(f"Job {life.spec.name} {'has failed' if life.failed else 'has not ended'}: {done}")
        elif life.ended_s > life.deadline_s:
            problems.append(f"Job {life.spec.name} ended {life.ended_s - life.deadline_s:.0f} s after its deadline")
    longest_s, allowed_s = max(batch.pending_s.values(), default=0.0), objects.GRACE_S + cycle_s
    if longest_s > allowed_s + _ROUNDED_S:
        problems.append(
            f"a pod of the service waited {longest_s:.0f} s for a GPU: more than the {objects.GRACE_S:.0f} s of grace "
            f"and a cycle of {cycle_s:.0f} s"
        )
    if not any(life.given_back and life.resumed and life.ended_s is not None for life in batch.lives.values()):
        problems.append("no Job gave its GPUs back, was resumed and ended")
    if batch.cheap_share < CHEAP_SHARE:
        problems.append(
            f"{batch.cheap_share:.0%} of the Jobs' GPU time was on paid-for GPUs or in cheap hours, not "
            f"{CHEAP_SHARE:.0%}"
        )
    return problems
