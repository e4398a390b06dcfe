"""What a simulator is given and gives back, whichever simulator it is.

Seconds count from the first second of the scored span. A result is facts alone: the score is made elsewhere.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Minute
from ebbtide.errors import EbbtideError
from ebbtide.sim.requests import Request

EBBTIDE = "ebbtide"  # Ebbtide's own plan at its default; the knob is ignored
HOLD = "hold"  # `case.start_replicas`, never changed
PATH = "path"  # the replicas of `case.path`


class SimulatorError(EbbtideError):
    """A simulator could not be had, or broke; the text has its last words."""


class Served(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of one submitted request, in the order of arrival; None: it did not come.

    `itl_s` is the mean gap between its tokens; a one-token answer has 0.0. `end_s` None: it never finished.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    ttft_s: float | None
    itl_s: float | None
    end_s: float | None


class RunResult(msgspec.Struct, frozen=True):
    """One replay. Bills are replica-seconds from the write that asks for a replica until it is gone.

    `replicas` are (second, billed, ready) at each change; `startup_billed_s` is the part billed before readiness.
    `believed` are (second, requests/s that one replica carries inside the objectives) as Ebbtide said in each cycle;
    empty for other policies. A day of cycles of 15 s is 100 kB beside some 10 MB of requests. `memory` is what Ebbtide
    remembers at the end, packed; empty for other policies.
    """

    served: tuple[Served, ...]
    replicas: tuple[tuple[float, int, int], ...]
    billed_s: float
    startup_billed_s: float
    scale_events: int
    wall_s: float
    believed: tuple[tuple[float, float], ...] = ()
    memory: bytes = b""


class Simulator(Protocol):
    """Replays requests against a fleet under a policy."""

    name: str

    def run(
        self,
        case: Case,
        requests: Sequence[Request],
        rival_name: str,
        knob: float,
        seed: int,
        history: Sequence[Minute],
    ) -> RunResult:
        """One replay of `requests` (sorted by arrival, from 0 s) under the rival of that name.

        Names: those of the registry of rivals, or EBBTIDE, HOLD, PATH. Raises ConfigurationError on a model or system
        that the simulator does not know, and on an unknown rival.
        """
        ...
