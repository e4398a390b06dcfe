"""Ray Serve's autoscaling: ongoing requests against a target of 2 a replica, once the wish has lasted.

Source: Ray Serve `autoscaling_policy.py` and its configuration defaults, as of autumn 2026. With the mean of ongoing
requests over 30 s, desired = ceil(ready (1 + k ((total / ready) / 2 - 1))), k = 1. Up after 30 s of uninterrupted
agreement, down after 600 s; a tick that wants otherwise resets, and so does acting. With no replica ready and requests
there, max(1, ceil(k)) at once. 5 ready and 15 ongoing: ceil(5 (1 + 3 / 2 - 1)) = 8. No metrics count as no requests.
"""

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Observation, Rival
from ebbtide.bench.rivals.parts import Window, bounded, ceil_of, running, sensitivity, waiting

TARGET = 2.0
SMOOTHING = 1.0
LOOK_BACK_S = 30.0
UP_DELAY_S = 30.0
DOWN_DELAY_S = 600.0


def desired(total: float, ready: int) -> int:
    """The wish of one tick, before delays and bounds."""
    if ready == 0:
        return max(1, ceil_of(SMOOTHING)) if total > 0.0 else 0
    return ceil_of(ready * (1.0 + SMOOTHING * (total / ready / TARGET - 1.0)))


class RayServe:
    """The wish and how long it has lasted."""

    period_s = 5.0
    scrape_s = 10.0

    def __init__(self, case: Case, sensitivity: float) -> None:
        self._case, self._sensitivity = case, sensitivity
        self._ongoing = Window(LOOK_BACK_S)
        self._direction = 0
        self._since_s = 0.0

    def decide(self, seen: Observation) -> int | None:
        """One tick: the wish where it has lasted, else what is."""
        self._ongoing.add(seen.now_s, self._sensitivity * (running(seen) + waiting(seen)))
        wanted = bounded(self._case, desired(self._ongoing.mean(), seen.ready))
        as_is = bounded(self._case, seen.declared)
        if seen.ready == 0:
            return max(wanted, as_is)
        direction = (wanted > seen.declared) - (wanted < seen.declared)
        if direction != self._direction:
            self._direction, self._since_s = direction, seen.now_s
        delay_s = UP_DELAY_S if direction > 0 else DOWN_DELAY_S
        if direction == 0 or seen.now_s - self._since_s < delay_s:
            return as_is
        self._direction = 0
        return wanted


RIVALS = (
    Rival(
        "ray-serve",
        sensitivity(0.004, 5.0),
        RayServe,
        "ongoing requests are the engines' gauges each 10 s; ticks each 5 s, not each 0.1 s, delays counted in seconds",
    ),
)
