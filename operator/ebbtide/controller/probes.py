"""/healthz (does the loop turn, do cycles finish), /readyz (synced; leader or hot standby), /metrics.

A failing source outside (Prometheus, the API server) never makes the process unhealthy: a restart would not mend it
and would forget what was learnt. Only a loop that stands still does. For the same reason a plan that fails again and
again makes the leader not ready rather than unhealthy: the same objects would fail it after a restart too, in a crash
loop that hides the cause, while a Deployment that is not available is what people and alerts look at. No traffic is
lost by it: nothing but probes and scrapes comes in.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from ebbtide.clock import monotonic_s
from ebbtide.controller.stall import SAID_AFTER

LAG_LIMIT_S = 10.0
_LAG_PROBE_S = 0.5


class Health:
    """What the probes tell; written by the loop, read by HTTP handlers of the same event loop."""

    def __init__(self, interval_s: float, holder: Callable[[], str], now: Callable[[], float] = monotonic_s) -> None:
        self._now = now
        # a cycle of 10,000 services takes up to 10 s, and Prometheus may make it wait for its timeouts
        self._cycle_limit_s = 60.0 + 6 * interval_s
        self._holder = holder
        self._cycle_at: float | None = None
        self._failed: tuple[str, ...] = ()
        self._plan_failures = 0
        self._led_at: float | None = None
        self._leading = False
        self.lag_s = 0.0
        self.synced = False
        self.sync_age_s: Callable[[], float | None] = lambda: None

    @property
    def leading(self) -> bool:
        """Whether this process may write, as of the last turn of the loop."""
        return self._leading

    @leading.setter
    def leading(self, value: bool) -> None:
        if value and not self._leading:
            self._led_at = self._now()
        self._leading = value

    def cycle_finished(self, failed: tuple[str, ...], plan_failures: int = 0) -> None:
        """A cycle came to its end, well or not; `plan_failures` cycles in a row made no plan."""
        self._cycle_at, self._failed, self._plan_failures = self._now(), failed, plan_failures

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether the process does its work, and the numbers."""
        age_s = None if self._cycle_at is None else self._now() - self._cycle_at
        since_s = self._now() - max(self._cycle_at or float("-inf"), self._led_at or float("-inf"))
        stuck = self._leading and since_s > self._cycle_limit_s
        sync_age_s = self.sync_age_s()
        report = {
            "loop_lag_seconds": round(self.lag_s, 3),
            "last_cycle_age_seconds": None if age_s is None else round(age_s, 1),
            "last_cycle_failed_steps": list(self._failed),
            "last_sync_age_seconds": None if sync_age_s is None else round(sync_age_s, 1),
            "plan_failures_in_a_row": self._plan_failures,
            "leading": self._leading,
        }
        return self.lag_s <= LAG_LIMIT_S and not stuck, report

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether the caches are warm and, in the leader, plans are made; and which role this process has."""
        role = "leader" if self._leading else "hot standby" if self.synced else "starting"
        plans = not self._leading or self._plan_failures < SAID_AFTER
        report = {"synced": self.synced, "role": role, "lease_holder": self._holder(), "plans": plans}
        return self.synced and plans, report

    async def watch_lag(self) -> None:
        """Measures for ever how late the event loop wakes a sleeper."""
        while True:
            before = self._now()
            await asyncio.sleep(_LAG_PROBE_S)
            late_s = self._now() - before - _LAG_PROBE_S
            self.lag_s = max(late_s, 0.8 * self.lag_s)  # a peak stays visible for some seconds


def application(health: Health, exposition: Callable[[], bytes]) -> web.Application:
    """The HTTP application of the three endpoints; `exposition` gives the body of /metrics."""

    def answer(result: tuple[bool, dict[str, Any]]) -> web.Response:
        return web.json_response(result[1], status=200 if result[0] else 503)

    async def healthz(_: web.Request) -> web.Response:
        return answer(health.health())

    async def readyz(_: web.Request) -> web.Response:
        return answer(health.readiness())

    async def metrics(_: web.Request) -> web.Response:
        body = await asyncio.to_thread(exposition)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app
