"""The holding and handing out of requests to real engines, whatever pods and clients do in between."""

import asyncio
import random
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from ebbtide.sandbox.realgateway.backends import Backend, BackendRoute, HoldLimits, NobodyReadyError

PODS = 3
Step = tuple[str, int]


class Clients:
    """Requests of one route: each takes a back end, keeps it until it is told to end, and puts it back."""

    def __init__(self, route: BackendRoute) -> None:
        self.route = route
        self.asking: dict[int, asyncio.Task[None]] = {}
        self.ends: dict[int, asyncio.Event] = {}
        self.begun = 0
        self.taken: list[int] = []
        self.held: list[int] = []  # those of the taken who had to wait, in the order in which they went on
        self.refused: list[int] = []
        self.left: list[int] = []
        self.answered: list[int] = []

    def arrive(self) -> None:
        number = len(self.ends)
        self.ends[number] = asyncio.Event()
        self.asking[number] = asyncio.create_task(self._ask(number))

    def inside(self) -> list[int]:
        done = {*self.answered, *self.left, *self.refused}
        return [number for number in self.taken if number not in done]

    async def _ask(self, number: int) -> None:
        self.begun += 1
        waits = not self.route.ready
        try:
            backend = await self.route.take(self.route.hold_until_s())
        except NobodyReadyError:
            self.refused.append(number)
            return
        except asyncio.CancelledError:
            self.left.append(number)
            raise
        self.taken.append(number)
        self.held += [number] * waits
        try:
            await self.ends[number].wait()
            self.answered.append(number)
        except asyncio.CancelledError:
            self.left.append(number)
            raise
        finally:
            self.route.put_back(backend)


def do(step: Step, route: BackendRoute, backends: list[Backend], clients: Clients) -> None:
    what, which = step
    backend = backends[which % PODS]
    if what == "arrive":
        clients.arrive()
    elif what == "answer" and clients.inside():
        inside = clients.inside()
        clients.ends[inside[which % len(inside)]].set()
    elif what == "leave" and clients.asking:
        clients.asking[which % len(clients.asking)].cancel()
    elif what == "rest":
        route.rest(backend)
    elif what in ("ready", "unready"):
        route.set_ready(backend, what == "ready")
    elif what == "gone":
        route.remove(backend)
        backends[which % PODS] = fresh = Backend(backend.key, "u", route.key, "http://a", "/metrics")
        route.add(fresh)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "arrive", "arrive", "answer", "leave", "rest", "ready", "ready", "unready", "gone"]),
        st.integers(0, 30),
    ),
    max_size=60,
)


@example(steps=[("arrive", 0), ("ready", 0), ("leave", 0)], together=2, limit=9)  # leaves as it is its turn
@given(steps=STEPS, together=st.integers(1, 4), limit=st.integers(0, 12))
def test_every_request_is_answered_or_told_or_still_inside(steps: list[Step], together: int, limit: int) -> None:
    asyncio.run(_whatever_happens(steps, together, limit))


async def _whatever_happens(steps: list[Step], together: int, limit: int) -> None:
    """`together` steps happen before anybody gets to run, as in one turn of an event loop."""
    route = BackendRoute("team-a/chat", "least-loaded", random.Random(1), HoldLimits(limit, 60.0))
    backends = [Backend(f"team-a/{number}", "u", route.key, "http://a", "/metrics") for number in range(PODS)]
    gone = list(backends)
    for backend in backends:
        route.add(backend)
    clients = Clients(route)
    for number, step in enumerate(steps):
        do(step, route, backends, clients)
        gone += [backend for backend in backends if backend not in gone]
        if number % together == 0:
            await settled()
            check(route, gone, clients)
    await settled()
    check(route, gone, clients)
    route.set_ready(backends[0], True)
    backends[0].resting = False
    route.set_ready(backends[0], True)
    await settled()
    assert not route.held
    for task in clients.asking.values():
        task.cancel()
    await asyncio.gather(*clients.asking.values(), return_exceptions=True)
    assert [backend.in_flight for backend in gone] == [0] * len(gone)


async def settled() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


def check(route: BackendRoute, backends: list[Backend], clients: Clients) -> None:
    ended = [*clients.answered, *clients.left, *clients.refused]
    assert sorted([*ended, *clients.inside()]) == sorted(set(ended) | set(clients.inside()))
    assert len(ended) + len(clients.inside()) + len(route.held) == clients.begun
    assert sum(backend.in_flight for backend in backends) == len(clients.inside())
    assert not (route.held and route.ready)
    assert all(before < after for before, after in pairwise(clients.held))  # first in, first out
