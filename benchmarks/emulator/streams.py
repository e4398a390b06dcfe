"""The two loads: one to fit the emulator on, another one to compare it on. Other seeds, rates and lengths.

Rates are shares of what the server was measured to carry a moment ago, so that one replica is idle, busy and
overloaded in turn on any machine. Both begin slowly, get requests with long answers (the batch limit binds) and
requests with long prompts (computing binds).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from ebbtide.sim.load import Constant, Hump, Lengths, Shape, generate
from ebbtide.sim.requests import Request

PROBE = tuple(Request(number, 0.0, 160, 45) for number in range(36))


@dataclass(frozen=True)
class Phase:
    """`seconds` of one kind of load; the shape's rates are shares of the probed requests/s."""

    name: str
    seconds: float
    shape: Shape
    lengths: Lengths


@dataclass(frozen=True)
class Stream:
    """Phases one after the other, and `settle_s` seconds after the last arrival in which the scrapes go on."""

    seed: int
    phases: tuple[Phase, ...]
    settle_s: float

    @property
    def seconds(self) -> float:
        """How long requests arrive."""
        return sum(phase.seconds for phase in self.phases)


def _lengths(prompt: float, output: float, spread: float = 0.5) -> Lengths:
    return Lengths(prompt, spread, 500, output, spread, 200, slow_share=0.0)


_SHORT, _CHAT, _WRITE, _READ = _lengths(150, 12, 0.7), _lengths(160, 45), _lengths(60, 110), _lengths(260, 24)

FIRST = Stream(
    seed=11,
    phases=(
        Phase("one at a time", 50.0, Constant(0.08), _SHORT),
        Phase("light", 20.0, Constant(0.35), _CHAT),
        Phase("long answers, too many", 20.0, Constant(0.7), _WRITE),
        Phase("rest", 20.0, Constant(0.08), _SHORT),
        Phase("long prompts", 20.0, Constant(0.7), _READ),
        Phase("busy", 20.0, Constant(0.75), _CHAT),
    ),
    settle_s=12.0,
)
SECOND = Stream(
    seed=29,
    phases=(
        Phase("chats come and go", 100.0, Hump(0.15, 1.2, 10.0, 35.0, 15.0, 30.0), _lengths(130, 55)),
        Phase("long prompts", 45.0, Hump(0.15, 0.8, 5.0, 12.0, 15.0, 10.0), _lengths(220, 30)),
        Phase("quiet", 20.0, Constant(0.1), _lengths(90, 40, 0.8)),
        Phase("too much at once", 20.0, Constant(1.7), _lengths(110, 60)),
        Phase("back to normal", 55.0, Constant(0.4), _lengths(130, 55)),
    ),
    settle_s=15.0,
)


def requests(stream: Stream, per_second: float) -> list[Request]:
    """The stream's requests for a server that carries `per_second` of the probe's."""
    found: list[Request] = []
    begin_s = 0.0
    for number, phase in enumerate(stream.phases):
        seed = 1000 * stream.seed + number
        arrivals = generate(scaled(phase.shape, per_second), phase.lengths, phase.seconds, seed, swing=0.0)
        for request in arrivals:
            found.append(msgspec.structs.replace(request, id=len(found), arrival_s=begin_s + request.arrival_s))
        begin_s += phase.seconds
    return found


def scaled(shape: Shape, by: float) -> Shape:
    """The same shape with its rates times `by`."""
    if isinstance(shape, Constant):
        return Constant(shape.per_second * by)
    if isinstance(shape, Hump):
        return msgspec.structs.replace(shape, base=shape.base * by, peak=shape.peak * by)
    raise TypeError(f"streams are made of Constant and Hump, not {type(shape).__name__}")


def phase_at(phases: Sequence[Phase], at_s: float) -> str:
    """The name of the phase at `at_s`; empty after the last."""
    for phase in phases:
        if at_s < phase.seconds:
            return phase.name
        at_s -= phase.seconds
    return ""
