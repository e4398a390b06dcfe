"""What is asked of each service, minute by minute: from built-in shapes or from traces, drawn once for a seed.

A trace is repeated until the month is full, and each is scaled so that its busiest five minutes need as many replicas
as was asked for. Requests of a minute are then drawn (Poisson), so that no two weeks are alike.
"""

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ebbtide.bench.budget.member import MEMBERS, Member
from ebbtide.errors import ConfigurationError
from ebbtide.sim.shapes import DAY_S, DailyCurve, Hump, RegimeChange, Shape, WeeklyCurve
from ebbtide.sim.traces import RequestTrace, read_trace

MINUTE_S = 60
BUILT_IN = "built-in shapes"
_PEAK_MINUTES = 5
_LEAST_S = 0.98 * DAY_S  # of a trace: days are what ceilings are about
_NORMAL_FROM = 50.0  # requests of a minute from which a Poisson number is drawn as a normal one

Curve = Callable[[float], float]
"""Relative load at a second; second 0 is Monday, 0 h."""


class Source(msgspec.Struct, frozen=True):
    """A trace as it was named: `week.csv`, or `week.csv:prod` for one of several columns."""

    text: str
    path: Path
    column: str | None = None

    @property
    def name(self) -> str:
        """Without its folder."""
        return self.path.name if self.column is None else f"{self.path.name}:{self.column}"


def sources(texts: Sequence[str]) -> list[Source]:
    """Files as they are named; what is behind the last colon is a column, unless a file is called so."""
    found = []
    for text in texts:
        file, colon, column = text.rpartition(":")
        found.append(
            Source(text, Path(file), column) if colon and not Path(text).exists() else Source(text, Path(text))
        )
    return found


def members(
    traces: Sequence[Source], peaks: Sequence[int], lead_in_s: int, length_s: int, first_weekday: int, seed: int
) -> tuple[Member, ...]:
    """The services with their requests of `lead_in_s` + `length_s`.

    What is scored begins after the lead-in on `first_weekday`, 0 for Monday. `peaks` are replicas.
    """
    curves = [curve_of(path) for path in traces] if traces else _built_in(seed)
    begin_s = first_weekday * DAY_S - lead_in_s
    minutes = (lead_in_s + length_s) // MINUTE_S
    found = []
    for number, (member, curve, peak) in enumerate(zip(MEMBERS, curves, peaks, strict=True)):
        rates = [max(0.0, curve(begin_s + (minute + 0.5) * MINUTE_S)) for minute in range(minutes)]
        busiest = max(sum(rates[at : at + _PEAK_MINUTES]) / _PEAK_MINUTES for at in range(minutes - _PEAK_MINUTES + 1))
        if busiest <= 0.0:
            raise ConfigurationError(f"trace {traces[number].text}: it holds no requests")
        factor = peak * member.capacity_per_s / busiest
        draw = random.Random(f"{seed}/{member.name}")
        requests = tuple(poisson(draw, rate * factor * MINUTE_S) for rate in rates)
        found.append(msgspec.structs.replace(member, requests=requests))
    return tuple(found)


def poisson(draw: random.Random, mean: float) -> int:
    """A Poisson number; a large one is drawn as a normal one."""
    if mean >= _NORMAL_FROM:
        return max(0, round(draw.gauss(mean, math.sqrt(mean))))
    count, product, least = 0, draw.random(), math.exp(-mean)
    while product > least:
        count, product = count + 1, product * draw.random()
    return count


def _built_in(seed: int) -> list[Curve]:
    """Office hours with an event in the third week; a sharper day without weekends; levels that jump at any hour."""
    week, event = WeeklyCurve(0.15, 1.0, weekend=0.6), Hump(1.0, 1.6, 15.3 * DAY_S, DAY_S / 4, DAY_S, DAY_S)
    workday, basis = DailyCurve(0.02, 1.0, peak_s=11 * 3600.0, sharpness=2.5), 0.06
    jumps: Shape = RegimeChange(0.3, 1.0, 5 * 3600.0, seed=seed)

    def chat(at_s: float) -> float:
        return week.rate(at_s) * event.rate(at_s)

    def code(at_s: float) -> float:
        weekend = at_s % (7 * DAY_S) >= 5 * DAY_S
        return basis + workday.rate(at_s) * (0.15 if weekend else 1.0)

    return [chat, code, jumps.rate]


def curve_of(source: Source) -> Curve:
    """The file's own curve, again and again from its first second on."""
    path = source.path
    trace = read_trace(path, strict=True)
    if isinstance(trace, RequestTrace):
        if source.column is not None:
            raise ConfigurationError(
                f"trace {source.text}: it holds requests, and no column {source.column!r} of rates"
            )
        minutes, length_s = _counted(trace), trace.duration_s
        _long_enough(path, length_s)
        return lambda at_s: minutes[int(at_s % length_s // MINUTE_S)]
    shape = trace.shape(source.column)
    # the last rate holds for as long as one does in the middle
    length_s = shape.points[-1][0] * len(shape.points) / (len(shape.points) - 1)
    _long_enough(path, length_s)
    last_s = shape.points[-1][0]
    return lambda at_s: shape.rate(min(at_s % length_s, last_s))


def _counted(trace: RequestTrace) -> list[float]:
    minutes = [0.0] * (int(trace.duration_s // MINUTE_S) + 1)
    for request in trace.requests:
        minutes[int(request.arrival_s // MINUTE_S)] += 1.0
    return minutes


def _long_enough(path: Path, length_s: float) -> None:
    if length_s < _LEAST_S:
        hours = f"{length_s / 3600:.3g} h"
        raise ConfigurationError(
            f"trace {path}: it covers {hours}; a day is needed, for ceilings are of days and months"
        )
