"""The demo with a ceiling: a day that ends with the load, and 70 % of the money that would be spent until then.

Time runs as it does. What makes the day end with the load is a time zone of the demo's own, written for the operator
alone; what was spent of the day before is written into the policy's status, as the operator itself would have. What
would be spent comes from the same fleet in virtual time, without a ceiling. A batch Job that may be stopped runs beside
it: it is to go before any service gives way.
"""

import math
import os
import struct
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from ebbtide.clock import parse_rfc3339, rfc3339, unix_time_s
from ebbtide.model.spec import CeilingKind
from ebbtide.sandbox import off_peak_objects as objects
from ebbtide.sandbox.audit import bound_pods
from ebbtide.sandbox.demo import Demo, DemoOptions
from ebbtide.sandbox.demo_base import View
from ebbtide.sandbox.demo_off_peak import JobLife
from ebbtide.sandbox.download import Progress
from ebbtide.sandbox.sandbox import Sandbox
from ebbtide.sim import showcase as fleet
from ebbtide.sim.off_peak import BatchJob
from ebbtide.sim.showcase import NAMESPACE, ShowcaseService

# SEEDED was spent before: with less the next day, which is looked at before this one ends, could not pay its minimums
POLICY, CURRENCY, SHARE, SEEDED = "today", "USD", Decimal("0.70"), Decimal("400.00")
_ZONE = "Demo/Today"
_DAY_S = 86_400
_CENT = Decimal("0.01")
_WAITS_S = 10.0  # a replica that was told to go is gone by then, and the next status written
_PATH = f"/apis/ebbtide.dev/v1alpha1/costpolicies/{POLICY}"
# pods that outlast the demo: the audit log says when a pod was deleted, and not when one ended by itself
BATCH = BatchJob("embed", "may be stopped at any time", 0.0, float(_DAY_S), 3, 3, (3600.0, 3600.0))
BATCH_POOL = "h100-spot"
_JOB = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"


@dataclass(frozen=True)
class Life:
    """One pod: bound at `begin_s`, gone at `end_s` (unix seconds; None: not within the day), at so much an hour."""

    begin_s: float
    end_s: float | None
    per_hour: Decimal


@dataclass
class Money:
    """What there is, and what was seen of it. `counted`, from outside, adds up pods of the audit log."""

    ceiling: Decimal
    unconstrained: Decimal  # what the fleet would cost from `begin_s` to the end of the day
    begin_s: float
    end_s: float
    status: Mapping[str, Any] = field(default_factory=dict)  # of the policy, as last seen on that day
    gave_way: dict[str, int] = field(default_factory=dict)  # the most replicas that each did without, in order
    since_s: dict[str, float] = field(default_factory=dict)  # second of the load at which it first did, for a while
    without_s: dict[str, float] = field(default_factory=dict)  # since when those do that do now
    lives: Sequence[Life] = ()
    there: frozenset[str] = frozenset()  # names of the pods that there were at the last look of the day
    batch: JobLife | None = None
    batch_stopped_s: float | None = None  # second of the load at which it was stopped

    def note(self, rows: Sequence[Mapping[str, Any]], elapsed_s: float) -> None:
        """Who does without replicas at that second of the load, as status says.

        A raise that waits until what gives way for it is gone is none that gave way.
        """
        now = {row["service"].partition("/")[2]: row["replicas"] for row in rows}
        self.without_s = {name: self.without_s.get(name, elapsed_s) for name in now}
        for name, count in now.items():
            self.gave_way[name] = max(count, self.gave_way.get(name, 0))
            if elapsed_s - self.without_s[name] >= _WAITS_S:
                self.since_s.setdefault(name, max(0.0, self.without_s[name]))

    @property
    def counted(self) -> Decimal:
        """What the pods have cost since `begin_s`, in whole seconds, the first and the last one begun."""
        total = Decimal(0)
        for life in self.lives:
            end_s = self.end_s if life.end_s is None else min(life.end_s, self.end_s)
            seconds = math.ceil(end_s) - math.floor(max(life.begin_s, self.begin_s))
            total += Decimal(max(0, seconds)) * life.per_hour / 3600
        return total

    @property
    def spent(self) -> Decimal:
        """Of the day, as the policy's status says."""
        return next((Decimal(row["spent"]) for row in self.status.get("periods", ())), SEEDED)


class BudgetDemo(Demo):
    """The running demo under a ceiling. `gpu_hours`: by pool, without one. `money` is there once it has started."""

    money: Money

    def __init__(
        self, sandbox: Sandbox, options: DemoOptions, progress: Progress, gpu_hours: Mapping[str, float]
    ) -> None:
        super().__init__(sandbox, options, progress)
        self._gpu_hours = gpu_hours

    @staticmethod
    def fleet_of(options: DemoOptions) -> tuple[ShowcaseService, ...]:
        """Three services that matter more and less."""
        return fleet.budget_services(options.duration_s, options.seed)

    async def start_operator(self, within_s: float) -> None:
        """The policy and what was spent of its day come first; the day ends with the load."""
        now_s, end_s = unix_time_s(), math.ceil(self.counts_from_s + self.duration_s)
        bill = self._unconstrained(self.counts_from_s - now_s)
        self.money = Money((SEEDED + SHARE * bill).quantize(_CENT), bill, now_s, float(end_s))
        zone = self.sandbox.directory / "zoneinfo" / _ZONE
        zone.parent.mkdir(parents=True, exist_ok=True)
        zone.write_bytes(time_zone(end_s))
        self._environment = {"PYTHONTZPATH": os.pathsep.join([str(zone.parent.parent), *zoneinfo.TZPATH])}
        self.money.batch = JobLife(BATCH, math.inf)
        self.sandbox.apply([_policy(self.money.ceiling), _batch_policy()])
        await self._client.request("POST", _JOB, body=objects.job(BATCH, self.counts_from_s))
        body = {"apiVersion": "ebbtide.dev/v1alpha1", "kind": "CostPolicy", "metadata": {"name": POLICY}}
        seeded = {**body, "status": _seeded(self.money)}
        await self._client.apply(f"{_PATH}/status", seeded, field_manager="demo", force=True)
        self._progress(
            f"CostPolicy {POLICY}: {self.money.ceiling} {CURRENCY} a day, {SEEDED} of it spent; until the day ends "
            f"with the load {bill.quantize(_CENT)} would be, and {SHARE:.0%} of that is there"
        )
        await super().start_operator(within_s)

    def _unconstrained(self, before_s: float) -> Decimal:
        """What the fleet would cost: as it is for `before_s`, then as in virtual time."""
        first = sum(
            (self._prices[pool] * start for service in self.services for pool, _, start in service.variants), Decimal(0)
        )
        later = sum((self._prices[pool] * Decimal(hours) for pool, hours in self._gpu_hours.items()), Decimal(0))
        first += self._prices[BATCH_POOL] * BATCH.pods
        later += self._prices[BATCH_POOL] * BATCH.pods * Decimal(self.duration_s) / 3600
        return first * Decimal(max(0.0, before_s)) / 3600 + later

    async def _view(self, elapsed_s: float, step_s: float) -> View:
        view = await super()._view(elapsed_s, step_s)
        policies = await self._client.get("/apis/ebbtide.dev/v1alpha1/costpolicies")
        status: Mapping[str, Any] = next((item.get("status", {}) for item in policies["items"]), {})
        if parse_rfc3339(status.get("accruedThrough", rfc3339(0))) <= self.money.end_s and self._is_of_today(status):
            self.money.status = status
            self.money.note(status.get("gaveWay", ()), elapsed_s)
        batch = self.money.batch
        if batch is not None and unix_time_s() < self.money.end_s:
            batch.seen(await self._client.get(f"{_JOB}/{BATCH.name}"), unix_time_s())
            if batch.given_back and self.money.batch_stopped_s is None:
                self.money.batch_stopped_s = max(0.0, elapsed_s)
        return view

    def _is_of_today(self, status: Mapping[str, Any]) -> bool:
        return all(parse_rfc3339(row["end"]) <= self.money.end_s for row in status.get("periods", ()) if "end" in row)

    def _account(self, pods: list[dict[str, Any]], step_s: float) -> None:
        super()._account(pods, step_s)
        self.money.there = frozenset(pod["metadata"]["name"] for pod in pods)

    def count(self) -> None:
        """Fill in `money.lives` from the API server's audit log, once the day is over.

        A pod that was there at the last look counts to the day's end: at most a look, a second, too much. Nothing is
        left out, for a binding counts from the second in which it was asked for.
        """
        prices = {
            variant.target.name: self._prices[variant.pool]
            for service in self.services
            for variant in fleet.service_spec(service, "").variants
        } | {BATCH.name: self._prices[BATCH_POOL]}
        self.money.lives = tuple(
            Life(pod.begin_s, None if pod.name in self.money.there else pod.end_s, price)
            for pod in bound_pods(self.sandbox.audit_log, NAMESPACE)
            for target, price in prices.items()
            if pod.name.startswith(f"{target}-")
        )


def time_zone(midnight_s: int) -> bytes:
    """A TZif file of a zone in which a day begins at `midnight_s` (unix seconds), of one offset for ever.

    Source: RFC 9636. Offsets lie within a day of UTC: 12:00 UTC is midnight 12 hours ahead.
    """
    offset_s = -midnight_s % _DAY_S
    name = b"TODAY\0"
    counts = (0, 0, 0, 0, 1, len(name))  # of marks UT and standard, leap seconds, transitions, types, characters
    return struct.pack(">4s1s15x6l", b"TZif", b"\0", *counts) + struct.pack(">l?B", offset_s, False, 0) + name


def _policy(ceiling: Decimal) -> dict[str, Any]:
    return {
        "apiVersion": "ebbtide.dev/v1alpha1",
        "kind": "CostPolicy",
        "metadata": {"name": POLICY},
        "spec": {
            "selector": {"namespaces": [NAMESPACE]},
            "scope": "AllGPUPods",
            "currency": CURRENCY,
            "ceilings": {"perDay": str(ceiling)},
            "timeZone": _ZONE,
            "outageReserve": "0s",
        },
    }


def _batch_policy() -> dict[str, Any]:
    """At any time, for no hour of the day is cheaper."""
    return {
        "apiVersion": "ebbtide.dev/v1alpha1",
        "kind": "BatchPolicy",
        "metadata": {"name": objects.POLICY, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {objects.LABEL: objects.POLICY}},
            "strategy": "Cheapest",
            "pools": [BATCH_POOL],
            "preemption": {"gracePeriod": f"{objects.GRACE_S:.0f}s"},
        },
    }


def _seeded(money: Money) -> dict[str, Any]:
    """As the operator would have left it a moment ago."""
    day = {
        "period": CeilingKind.DAY.value,
        "begin": rfc3339(money.end_s - _DAY_S),
        "end": rfc3339(money.end_s),
        "ceiling": str(money.ceiling),
        "spent": str(SEEDED),
        "committed": "0.00",
        "left": str(money.ceiling - SEEDED),
    }
    through = rfc3339(money.begin_s)
    return {"observedGeneration": 1, "accruedThrough": through, "ratePerHour": "0.00", "periods": [day]}


def verdict(money: Money, priorities: Mapping[str, int], met: Mapping[str, float], needed: float) -> list[str]:
    """What did not come out as it should, in words; `priorities` and `met`, shares of requests, are by service."""
    problems = []
    if money.spent > money.ceiling:
        problems.append(f"{money.spent} of {money.ceiling} {CURRENCY} were spent")
    if SEEDED + money.counted > money.ceiling + _CENT:
        problems.append(f"{(SEEDED + money.counted).quantize(_CENT)} {CURRENCY} were counted from outside")
    problems += [*_batch_last(money), *_out_of_order(money.since_s, priorities)]
    if met.get("chat", 0.0) < needed:
        problems.append(f"chat met both objectives for {met.get('chat', 0.0):.1%}, not {needed:.0%}")
    return problems


def _batch_last(money: Money) -> list[str]:
    """Services that gave way while the Job still ran, or that it never ran."""
    if money.batch is None:
        return []
    if not money.batch.runs:
        return [f"Job {BATCH.name} was never started"]
    stopped_s = money.batch_stopped_s
    when = "never" if stopped_s is None else f"at {stopped_s:.0f} s"
    before = [name for name, at_s in money.since_s.items() if stopped_s is None or at_s < stopped_s]
    return [f"{name} gave way at {money.since_s[name]:.0f} s; Job {BATCH.name}, {when}" for name in before]


def _out_of_order(since_s: Mapping[str, float], priorities: Mapping[str, int]) -> list[str]:
    """Who gave way before somebody of lower priority did: all of these have replicas to give in this fleet."""
    first, found = sorted(priorities, key=lambda name: priorities[name]), []
    for number, lower in enumerate(first):
        for higher in first[number + 1 :]:
            if priorities[lower] < priorities[higher] and since_s.get(higher, math.inf) < since_s.get(lower, math.inf):
                when = f"at {since_s[lower]:.0f} s" if lower in since_s else "never"
                found.append(
                    f"{higher}, of priority {priorities[higher]}, gave way at {since_s[higher]:.0f} s; {lower}, of "
                    f"priority {priorities[lower]}, {when}"
                )
    return found
