"""Turns a shape into requests: when each arrives and how long it is, from a seed.

Real traffic is harder than a Poisson stream with independent lengths: arrivals swing more than chance allows, and
answers are long or short for minutes on end. Both are here, because an operator that has only met easy traffic has
been tested on nothing. No clock and no I/O: the same seed gives the same requests anywhere.
"""

import math
import random
from collections.abc import Iterator

import msgspec

from ebbtide.sim.requests import Request
from ebbtide.sim.shapes import (
    Bursts,
    Constant,
    DailyCurve,
    Hump,
    OnOff,
    RegimeChange,
    Sampled,
    Shape,
    Step,
    WeeklyCurve,
    parse_shape,
)

__all__ = [
    "CODE",
    "CONVERSATION",
    "Bursts",
    "Constant",
    "DailyCurve",
    "Hump",
    "Lengths",
    "OnOff",
    "RegimeChange",
    "Sampled",
    "Shape",
    "Step",
    "WeeklyCurve",
    "arrivals",
    "generate",
    "parse_shape",
]

_SWING_STEP_S = 5.0
_SWING_MEMORY_S = 60.0


class Lengths(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long prompts and answers are, in tokens: log-normal around medians, cut at the maxima.

    `slow_share` of the answers' variance is a drift shared by all requests of about `memory_s` seconds: 0.1 makes the
    per-minute mean swing by a quarter, as published conversation traces do.
    """

    prompt_median: float = 750.0
    prompt_sigma: float = 1.0
    prompt_max: int = 4096
    output_median: float = 150.0
    output_sigma: float = 0.85
    output_max: int = 1000
    slow_share: float = 0.1
    memory_s: float = 180.0


CONVERSATION = Lengths()
CODE = Lengths(
    prompt_median=1400.0, prompt_sigma=1.2, prompt_max=7500, output_median=14.0, output_max=500, slow_share=0.05
)


class _Drift:
    """A standard normal value that wanders: its correlation falls to 1/e within `memory_s`."""

    def __init__(self, memory_s: float, draw: random.Random) -> None:
        self._memory_s, self._draw = memory_s, draw
        self._at_s, self._value = 0.0, draw.gauss(0.0, 1.0)

    def at(self, t_s: float) -> float:
        """The value at `t_s`, which must not go back."""
        keep = math.exp(-(t_s - self._at_s) / self._memory_s)
        self._value = keep * self._value + math.sqrt(1 - keep * keep) * self._draw.gauss(0.0, 1.0)
        self._at_s = t_s
        return self._value


def arrivals(shape: Shape, duration_s: float, seed: int, swing: float = 0.0) -> Iterator[float]:
    """Arrival times in [0, `duration_s`), in order.

    `swing` is the standard deviation of the rate around the shape beyond chance (0: Poisson; production traces: about
    0.2), correlated over a minute; its mean factor is 1.
    """
    draw, swings = random.Random(f"{seed}/arrivals"), random.Random(f"{seed}/swing")
    sigma = math.sqrt(math.log1p(swing * swing))
    drift = _Drift(_SWING_MEMORY_S, swings)
    begin_s = 0.0
    while begin_s < duration_s:
        end_s = min(begin_s + _SWING_STEP_S, duration_s)
        factor = math.exp(sigma * drift.at(begin_s) - sigma * sigma / 2)
        yield from _thinned(shape, begin_s, end_s, factor, draw)
        begin_s = end_s


def _thinned(shape: Shape, begin_s: float, end_s: float, factor: float, draw: random.Random) -> Iterator[float]:
    """Candidates at the peak rate, each kept with the share of it that the shape has at that moment."""
    peak = shape.peak_rate
    if peak <= 0:
        return
    t_s = begin_s + draw.expovariate(peak * factor)
    while t_s < end_s:
        if draw.random() * peak < shape.rate(t_s):
            yield t_s
        t_s += draw.expovariate(peak * factor)


def generate(
    shape: Shape, lengths: Lengths, duration_s: float, seed: int, *, swing: float = 0.2, first_id: int = 0
) -> list[Request]:
    """The requests of `duration_s` seconds, in the order of arrival, numbered from `first_id`."""
    draw = random.Random(f"{seed}/lengths")
    drift = _Drift(lengths.memory_s, random.Random(f"{seed}/drift"))
    slow = lengths.output_sigma * math.sqrt(lengths.slow_share)
    fast = lengths.output_sigma * math.sqrt(1 - lengths.slow_share)
    requests = []
    for number, t_s in enumerate(arrivals(shape, duration_s, seed, swing), first_id):
        prompt = lengths.prompt_median * math.exp(draw.gauss(0.0, lengths.prompt_sigma))
        output = lengths.output_median * math.exp(slow * drift.at(t_s) + draw.gauss(0.0, fast))
        requests.append(Request(number, t_s, _cut(prompt, lengths.prompt_max), _cut(output, lengths.output_max)))
    return requests


def _cut(tokens: float, most: int) -> int:
    return max(1, min(most, round(tokens)))
