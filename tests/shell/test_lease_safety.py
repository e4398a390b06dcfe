"""Two candidates, a Lease, and everything that goes wrong between them, in virtual time: never two that may write."""

import asyncio
import random
import selectors
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.controller.lease import LeaseElector, LeaseSettings
from ebbtide.errors import ConflictError, NotFoundError, RetryableError


class _Selector(selectors.SelectSelector):
    """Instead of waiting, lets the loop's time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        if not found and timeout:
            self.now += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which an hour takes as long as its events."""

    def __init__(self) -> None:
        self.clock = _Selector()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


class Server:
    """The Lease behind a network that delays, drops requests, and drops answers."""

    def __init__(self, dice: random.Random, trouble: float) -> None:
        self.dice, self.trouble = dice, trouble
        self.version, self.spec = 0, None

    async def request(self, method: str, path: str, *, body: Any = None, timeout_s: float | None = None) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._answer(method, body)
        except TimeoutError as error:
            raise RetryableError("no answer in time") from error

    async def _answer(self, method: str, body: Any) -> bytes:
        await self._travel()
        answer = self._serve(method, body)
        await self._travel()
        return answer

    async def _travel(self) -> None:
        luck = self.dice.random()
        if luck < self.trouble / 3:
            await asyncio.sleep(self.dice.uniform(1, 30))
        elif luck < self.trouble:
            raise RetryableError("connection reset")
        else:
            await asyncio.sleep(self.dice.uniform(0.001, 0.2))

    def _serve(self, method: str, body: Any) -> bytes:
        if method == "GET" and self.spec is None:
            raise NotFoundError("none")
        if method != "GET":
            given_version = body["metadata"].get("resourceVersion")
            if given_version != (None if self.spec is None else str(self.version)):
                raise ConflictError("changed")
            self.version += 1
            self.spec = msgspec.to_builtins(body["spec"])
        return msgspec.json.encode({"metadata": {"resourceVersion": str(self.version)}, "spec": self.spec})


class Candidate:
    """A process that competes, is stopped and continued at times, and is started again after it ended."""

    def __init__(self, name: str, server: Server, dice: random.Random, stops: float) -> None:
        self.name, self.server, self.dice, self.stops = name, server, dice, stops
        self.elector: LeaseElector | None = None
        self.lives = 0

    async def live(self) -> None:
        while True:
            self.lives += 1
            who = LeaseSettings("ns", "ebbtide", f"{self.name}-{self.lives}")
            clock = asyncio.get_running_loop().time
            self.elector = LeaseElector(
                self.server, who, on_lost=lambda _: None, clock=clock, wall=clock, sleep=self._sleep
            )
            await self.elector.run()
            self.elector = None  # the process ended
            await asyncio.sleep(self.dice.uniform(0.5, 5))

    async def _sleep(self, seconds: float) -> None:
        stopped_s = self.dice.uniform(1, 60) if self.dice.random() < self.stops else 0.0
        await asyncio.sleep(seconds + stopped_s)

    def may_write(self) -> bool:
        return self.elector is not None and self.elector.may_write()

    def write_end(self, now: float) -> float:
        """When a write that starts now is over at the latest."""
        return now + self.elector.write_timeout_s() if self.elector and self.may_write() else 0.0


async def watch(candidates: list[Candidate], seconds: float) -> tuple[int, list[float]]:
    """Looks every 50 ms; returns in how many looks somebody led, and the moments at which two could have written."""
    loop, led, double, busy_until = asyncio.get_running_loop(), 0, [], dict.fromkeys(candidates, 0.0)
    tasks = [asyncio.create_task(candidate.live()) for candidate in candidates]
    for _ in range(int(seconds / 0.05)):
        await asyncio.sleep(0.05)
        now = loop.time()
        writers = [candidate for candidate in candidates if candidate.may_write()]
        led += bool(writers)
        for writer in writers:
            busy_until[writer] = writer.write_end(now)
            if any(until > now for other, until in busy_until.items() if other is not writer):
                double.append(now)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return led, double


def run(seed: int, trouble: float, stops: float, seconds: float) -> tuple[int, list[float]]:
    dice = random.Random(seed)
    server = Server(dice, trouble)
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(watch([Candidate(name, server, dice, stops) for name in "ab"], seconds))
    finally:
        loop.close()


@given(seed=st.integers(0, 2**32), trouble=st.floats(0, 0.5), stops=st.floats(0, 0.3))
@settings(max_examples=25, deadline=None)
def test_never_two_that_may_write_nor_a_late_write_beside_a_new_leader(seed, trouble, stops):
    _, double = run(seed, trouble, stops, seconds=300.0)
    assert double == []


def test_without_trouble_there_is_one_leader_and_it_stays():
    led, double = run(seed=1, trouble=0.0, stops=0.0, seconds=120.0)
    assert double == []
    assert led >= 120 / 0.05 * 0.98


def test_with_trouble_somebody_leads_most_of_the_time():
    led, double = run(seed=2, trouble=0.1, stops=0.02, seconds=3600.0)
    assert double == []
    assert led >= 3600 / 0.05 * 0.7
