"""A histogram with fixed bucket bounds, and the bounds that vLLM uses.

It counts what the emulated engines observe; it never estimates quantiles and never knows about Prometheus' text form.
Buckets are kept apart (not cumulated), so that observing costs one bisection.
"""

from bisect import bisect_left
from collections.abc import Iterator

LATENCY_BOUNDS_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
TTFT_BOUNDS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_LATENCY_BOUNDS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
ITERATION_TOKEN_BOUNDS = (1.0, 8.0, *(float(2**power) for power in range(4, 15)))
PREEMPTION_BOUNDS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)


def token_bounds(max_model_tokens: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50 … up to `max_model_tokens`: how vLLM bins prompt and output lengths.

    1024 tokens give bounds up to 1000; the longest requests fall into +Inf.
    """
    bounds: list[float] = []
    decade = 1
    while decade <= max_model_tokens:
        bounds += [float(digit * decade) for digit in (1, 2, 5) if digit * decade <= max_model_tokens]
        decade *= 10
    return tuple(bounds)


class Histogram:
    """Counts of values at most each bound; the last count is for values above all bounds."""

    __slots__ = ("bounds", "count", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value` as seen `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.count += times
        self.sum += value * times

    def with_observed(self, value: float, times: int) -> "Histogram":
        """A copy in which `value` is counted `times` more; this one stays as it is."""
        copy = Histogram(self.bounds)
        copy.counts = list(self.counts)
        copy.count, copy.sum = self.count, self.sum
        if times:
            copy.observe(value, times)
        return copy

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """(bound, values at most the bound) for every bound, infinity last: the form Prometheus wants."""
        seen = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            yield bound, seen
