"""What a rival autoscaler sees in a replay, and the little that it has to be.

An observation holds what the rival's original would read at that moment: gauges of the last scrape, rates over the
last minute. Seconds are the replay's own, training time is negative. It holds nothing of the future.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from ebbtide.bench.case import Case


class ReplicaView(msgspec.Struct, frozen=True):
    """One replica's gauges as last scraped. `kv_usage` is 0..1 of `kv_capacity_tokens`.

    `queued_prompt_tokens` wait for admission, `scheduled_prompt_tokens` are of admitted prompts not yet computed.
    """

    name: str
    running: float
    waiting: float
    kv_usage: float
    kv_tokens: float
    kv_capacity_tokens: float
    queued_prompt_tokens: float = 0.0
    scheduled_prompt_tokens: float = 0.0


class Latency(msgspec.Struct, frozen=True):
    """A latency over the last minute in seconds; percentiles are reconstructed where only the mean is shown."""

    mean_s: float
    p50_s: float
    p90_s: float
    p95_s: float


class Minute(NamedTuple):
    """Arrivals of one whole minute that begins at `start_s`; tokens are sums over the requests that came."""

    start_s: float
    requests: float
    prompt_tokens: float
    output_tokens: float


class Observation(msgspec.Struct, frozen=True):
    """The fleet at `now_s`. Of `declared` replicas `ready` serve and `starting` come.

    `replicas` are only those with metrics. `input_tokens` and `output_tokens` are means a request over the last
    minute, None where nothing finished. `history` holds whole minutes, training first, oldest first.
    """

    now_s: float
    declared: int
    ready: int
    starting: int
    replicas: tuple[ReplicaView, ...]
    arrivals_per_s: float
    finished_per_s: float
    input_tokens: float | None
    output_tokens: float | None
    ttft: Latency | None
    itl: Latency | None
    history: Sequence[Minute] = ()


class Policy(Protocol):
    """An autoscaler. It may keep state; it is asked every `period_s` seconds and sees time go forward only.

    One whose original reads its own proxy or router faster than Prometheus does may have a `scrape_s` too.
    """

    period_s: float

    def decide(self, seen: Observation) -> int | None:
        """Replicas wanted from now on; None holds. The simulator clips it to the case's bounds."""
        ...


class Knob(msgspec.Struct, frozen=True):
    """The one setting by which a rival buys more or fewer misses; a larger value never means fewer replicas.

    Searched over [low, high], on a log scale where `log`; `published` is the original's default.
    """

    name: str
    published: float
    low: float
    high: float
    log: bool = False


class Rival(msgspec.Struct, frozen=True):
    """One rival: how to make it for a case and a knob (0.0 where it has none), and how it stands in for what lacks.

    `held`, asked with the case, the minutes of training and the seconds of the scored span, says why at any
    setting it keeps the fleet that it begins with; empty: it acts.
    """

    name: str
    knob: Knob | None
    make: Callable[[Case, float], Policy]
    note: str = ""
    held: Callable[[Case, Sequence[Minute], float], str] | None = None
