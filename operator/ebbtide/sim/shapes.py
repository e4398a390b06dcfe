"""Shapes of load: requests per second as a function of time, as data that JSON can carry.

`{"shape": "hump", "base": 2, "peak": 9, "start_s": 30, "rise_s": 60, "hold_s": 30, "fall_s": 60}` decodes to `Hump`.
A shape is deterministic; randomness of arrivals comes later (`load`). Shapes with a seed draw their own plan from it.
"""

import math
import random
from bisect import bisect_right
from functools import lru_cache
from typing import Any

import msgspec

from ebbtide.errors import ConfigurationError

DAY_S = 86_400.0
_REGIMES = 64


class _Shape(msgspec.Struct, frozen=True, tag_field="shape", tag=str.lower, forbid_unknown_fields=True):
    """Base: `rate(t_s)` is requests per second at `t_s` seconds, `peak_rate` is at least as high everywhere."""


class Constant(_Shape, frozen=True, tag="constant"):
    """Always `per_second`."""

    per_second: float

    def rate(self, t_s: float) -> float:
        """Requests per second at `t_s`."""
        return self.per_second

    @property
    def peak_rate(self) -> float:
        """An upper bound of `rate`."""
        return self.per_second


class Step(_Shape, frozen=True, tag="step"):
    """`before`, and from `at_s` on `after`."""

    before: float
    after: float
    at_s: float

    def rate(self, t_s: float) -> float:
        """Requests per second at `t_s`."""
        return self.before if t_s < self.at_s else self.after

    @property
    def peak_rate(self) -> float:
        """An upper bound of `rate`."""
        return max(self.before, self.after)


class Hump(_Shape, frozen=True, tag="hump"):
    """A smooth rise from `base` to `peak`, a stay, and a smooth fall (half a cosine each)."""

    base: float
    peak: float
    start_s: float
    rise_s: float
    hold_s: float
    fall_s: float

    def rate(self, t_s: float) -> float:
        """Requests per second at `t_s`."""
        t_s -= self.start_s
        if t_s < self.rise_s:
            share = max(0.0, t_s / self.rise_s)
        else:
            share = min(1.0, max(0.0, 1 - (t_s - self.rise_s - self.hold_s) / max(self.fall_s, 1e-9)))
        return self.base + (self.peak - self.base) * (1 - math.cos(math.pi * share)) / 2

    @property
    def peak_rate(self) -> float:
        """An upper bound of `rate`."""
        return max(self.base, self.peak)


class DailyCurve(_Shape, frozen=True, tag="daily"):
    """Lowest at night, highest at `peak_s` of each period, with a flatter valley than peak (`sharpness` > 1)."""

    low: float
    high: float
    peak_s: float = 14 * 3600.0
    period_s: float = DAY_S
    sharpness: float = 1.5

    def rate(self, t_s: float) -> float:
        """Requests per second at `t_s`."""
        wave = (1 + math.cos(2 * math.pi * (t_s - self.peak_s) / self.period_s)) / 2
        return self.low + (self.high - self.low) * math.pow(wave, self.sharpness)

    @property
    def peak_rate(self) -> float:
        """An upper bound of `rate`."""
        return max(self.low, self.high)


class WeeklyCurve(_Shape, frozen=True, tag="weekly"):
    """Five daily curves, then two at `weekend` times their height; a day lasts `day_s`, t = 0 is Monday, 0 h."""

    low: float
    high: float
    weekend: float = 0.5
    day_s: float = DAY_S

    def rate(self, t_s: float) -> float:
        """Requests per second at `t_s`."""
        day = DailyCurve(self.low, self.high, peak_s=14 / 24 * self.day_s, period_s=self.day_s).rate(t_s)
        return day * (self.weekend if t_s % (7 * self.day_s) >= 5 * self.day_s else 1.0)

    @property
    def peak_rate(self) -> float:
        """An upper bound of `rate`."""
        return max(self.low, self.high) * max(1.0, self.weekend)


class Bursts(_Shape, frozen=True, tag="bursts"):
    """`base`, and in each stretch of `every_s` one burst of `length_s` at `burst`, at a moment drawn from `seed`."""

    base: float
    burst: float
    every_s: float
    length_s: float
    seed: int = 1

    def rate(self, t_s: float) -> float:
        """Requests per second at `t_s`."""
        stretch, offset_s = divmod(t_s, self.every_s)
        room_s = max(0.0, self.every_s - self.length_s)
        begin_s = random.Random(f"{self.seed}/{int(stretch)}").uniform(0.0, room_s)
        return self.burst if begin_s <= offset_s < begin_s + self.length_s else self.base

    @property
    def peak_rate(self) -> float:
        """An upper bound of `rate`."""
        return max(self.base, self.burst)


class OnOff(_Shape, frozen=True, tag="onoff"):
    """`per_second` for `on_s`, nothing for `off_s`, again and again; silent for `quiet_s` first."""

    per_second: float
    on_s: float
    off_s: float
    quiet_s: float = 0.0

    def rate(self, t_s: float) -> float:
        """Requests per second at `t_s`."""
        t_s -= self.quiet_s
        return self.per_second if t_s >= 0 and t_s % (self.on_s + self.off_s) < self.on_s else 0.0

    @property
    def peak_rate(self) -> float:
        """An upper bound of `rate`."""
        return self.per_second


class RegimeChange(_Shape, frozen=True, tag="regimes"):
    """Stays at a level for about `mean_s`, then jumps to another between `low` and `high`, as `seed` draws it."""

    low: float
    high: float
    mean_s: float
    seed: int = 1

    def rate(self, t_s: float) -> float:
        """Requests per second at `t_s`; repeats after 64 regimes."""
        draw = random.Random(self.seed)
        regimes = [(draw.uniform(0.5, 1.5) * self.mean_s, draw.uniform(self.low, self.high)) for _ in range(_REGIMES)]
        t_s %= sum(length_s for length_s, _ in regimes)
        for length_s, level in regimes:
            if t_s < length_s:
                return level
            t_s -= length_s
        return regimes[-1][1]

    @property
    def peak_rate(self) -> float:
        """An upper bound of `rate`."""
        return max(self.low, self.high)


class Walk(_Shape, frozen=True, tag="walk"):
    """A random walk of the logarithm around `per_second`, by `step` a minute, pulled back over a day; from `seed`."""

    per_second: float
    step: float = 0.03
    seed: int = 1

    def rate(self, t_s: float) -> float:
        """Requests per second at `t_s`; stays as it is after a week."""
        path = _walked(self.step, self.seed)
        return self.per_second * path[min(len(path) - 1, max(0, int(t_s // 60.0)))]

    @property
    def peak_rate(self) -> float:
        """An upper bound of `rate`."""
        return self.per_second * max(_walked(self.step, self.seed))


@lru_cache(maxsize=16)
def _walked(step: float, seed: int) -> tuple[float, ...]:
    """The factor of each minute of a week."""
    draw, log, path = random.Random(seed), 0.0, []
    for _ in range(int(7 * DAY_S / 60.0)):
        log = log * (1.0 - 60.0 / DAY_S) + step * draw.gauss(0.0, 1.0)
        path.append(math.exp(log))
    return tuple(path)


class Sampled(_Shape, frozen=True, tag="sampled"):
    """Straight lines between (time in seconds, requests per second), as a trace gives them; zero outside."""

    points: tuple[tuple[float, float], ...]

    def rate(self, t_s: float) -> float:
        """Requests per second at `t_s`."""
        if not self.points or t_s < self.points[0][0] or t_s > self.points[-1][0]:
            return 0.0
        right = bisect_right(self.points, t_s, key=lambda point: point[0])
        if right == len(self.points):
            return self.points[-1][1]
        (t0, r0), (t1, r1) = self.points[right - 1], self.points[right]
        return r0 + (r1 - r0) * (t_s - t0) / (t1 - t0)

    @property
    def peak_rate(self) -> float:
        """An upper bound of `rate`."""
        return max((rate for _, rate in self.points), default=0.0)

    def fitted(self, duration_s: float, peak_per_second: float) -> "Sampled":
        """The same curve squeezed into `duration_s` with its highest point at `peak_per_second`."""
        first_s, last_s = self.points[0][0], self.points[-1][0]
        time, height = duration_s / max(last_s - first_s, 1e-9), peak_per_second / max(self.peak_rate, 1e-9)
        return Sampled(tuple(((t_s - first_s) * time, rate * height) for t_s, rate in self.points))


Shape = Constant | Step | Hump | DailyCurve | WeeklyCurve | Bursts | OnOff | RegimeChange | Walk | Sampled


def parse_shape(value: Any) -> Shape:
    """A shape from its JSON form; ConfigurationError that names what is wrong and the shapes that exist."""
    try:
        shape: Shape = msgspec.convert(value, Shape)
    except msgspec.ValidationError as error:
        names = "constant, step, hump, daily, weekly, bursts, onoff, regimes, walk, sampled"
        raise ConfigurationError(f"load shape: {error}; `shape` is one of {names}, the rest are its numbers") from error
    return shape
