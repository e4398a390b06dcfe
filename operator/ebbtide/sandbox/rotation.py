"""Who gets the next request of a route, and who waits: what the emulated gateway and the real one have in common.

An endpoint is in rotation while it is ready. Requests that find nobody wait, first in, first out. It has no clock, no
sockets and no requests of its own: what is held and what an endpoint is, its owner decides.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Literal, Protocol, TypeVar

from ebbtide.sim.exposition import BusyGauges, RouteGauges

Dispatch = Literal["least-loaded", "random"]


class Member(Protocol):
    """What can be in rotation. `load` is requests inside it."""

    @property
    def key(self) -> str:
        """`namespace/name` of its pod."""

    @property
    def ready(self) -> bool:
        """Whether it may get requests now."""

    @property
    def load(self) -> int:
        """Requests inside it."""


E = TypeVar("E", bound=Member)
H = TypeVar("H")


class Rotation(Generic[E, H]):
    """One route, `<namespace>/<name>`: its endpoints by pod key, and what it holds while none of them is ready."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.endpoints: dict[str, E] = {}
        self.held: deque[H] = deque()

    @property
    def ready(self) -> list[E]:
        """Who is in rotation."""
        return [endpoint for endpoint in self.endpoints.values() if endpoint.ready]

    def gauges(self, read: Callable[[E], BusyGauges | None]) -> RouteGauges:
        """What an endpoint picker publishes; means over the ready endpoints that `read` knows of.

        Nobody ready: means of 0. Ready ones, and nothing known of any: NaN, because unknown is not zero.
        """
        ready = self.ready
        told = [(endpoint, gauges) for endpoint in ready if (gauges := read(endpoint)) is not None]
        known = [gauges for _, gauges in told]
        share = 1 / len(known) if known else float("nan") if ready else 0.0
        namespace, _, name = self.key.partition("/")
        return RouteGauges(
            namespace=namespace,
            name=name,
            queued=len(self.held),
            ready=len(ready),
            average_queue=share * sum(gauges.waiting for gauges in known),
            average_running=share * sum(gauges.running for gauges in known),
            average_kv_usage=share * sum(gauges.kv_usage for gauges in known),
            endpoints=tuple((endpoint.key.rpartition("/")[2], gauges.waiting) for endpoint, gauges in told),
        )


def pick(ready: Sequence[E], dispatch: Dispatch, draw: random.Random) -> E:
    """Who gets the next request; `ready` must not be empty."""
    if dispatch == "random":
        return draw.choice(ready)
    least = min(endpoint.load for endpoint in ready)
    # ties by a draw: always the first would keep one engine warm and the others cold
    return draw.choice([endpoint for endpoint in ready if endpoint.load == least])
