"""When cycles run: every interval, at once when something woke us (at most once a second), and only while leading."""

import asyncio
import logging
from collections.abc import Callable

from ebbtide.clock import monotonic_s, unix_time_s
from ebbtide.controller.cycle import Parts, run_cycle
from ebbtide.controller.probes import Health
from ebbtide.errors import EbbtideError
from ebbtide.model.memory import Memory

log = logging.getLogger(__name__)

SHORTEST_GAP_S = 1.0


class Loop:
    """Runs cycles until `stop`. A standby waits; its memory is read from the store when it comes to lead."""

    def __init__(
        self,
        parts: Parts,
        load_memory: Callable[[], Memory],
        wake: asyncio.Event,
        health: Health,
        *,
        interval_s: float,
        gap_s: float = SHORTEST_GAP_S,
    ) -> None:
        self._parts, self._load_memory = parts, load_memory
        self._wake, self._health = wake, health
        self._interval_s, self._gap_s = interval_s, gap_s
        self._memory: Memory | None = None
        self._stopping = False

    @property
    def memory(self) -> Memory | None:
        """What the next cycle would start from; None while not leading."""
        return self._memory

    def stop(self) -> None:
        """Start no further cycle; the one under way finishes."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Returns after `stop`."""
        started = float("-inf")
        while not self._stopping:
            await self._turn(started)
            started = monotonic_s()
            if not self._stopping:
                await self._once()

    async def _turn(self, started: float) -> None:
        """Wait until the next cycle is due: one interval after the last start, or a wake and at least the gap."""
        now = monotonic_s()
        try:
            async with asyncio.timeout(max(0.0, started + self._interval_s - now)):
                await self._wake.wait()
        except TimeoutError:
            pass
        early_s = started + self._gap_s - monotonic_s()
        if early_s > 0 and not self._stopping:
            await asyncio.sleep(early_s)  # wakes in this second join into one cycle
        self._wake.clear()

    async def _once(self) -> None:
        leading = self._parts.leadership.may_write()
        self._parts.meters.leading(leading)
        self._health.leading = leading
        if not leading:
            self._memory = None  # the next time to lead starts from the store: another may have led meanwhile
            return
        if not self._health.synced:
            return
        memory = await self._remembered()
        if memory is not None:
            cycle = await run_cycle(self._parts, memory, unix_time_s())
            self._memory = cycle.memory
            self._health.cycle_finished(cycle.failed, cycle.plan_failures)

    async def _remembered(self) -> Memory | None:
        if self._memory is None:
            try:
                self._memory = await asyncio.to_thread(self._load_memory)
            except EbbtideError as error:
                log.error("nothing is decided, because the memory cannot be read: %s", error)
                self._health.cycle_finished(("load",))
        return self._memory
