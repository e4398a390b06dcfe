"""Scores one replay: the share that met both objectives, and what the fleet cost.

Judged over *submitted* requests: one that never came back is missed, however late the run was cut. It decides nothing
about policies and compares none of them (`search` does). Dollars here are floats, for statistics: no ceiling
reads them.
"""

import math
from collections.abc import Sequence

import msgspec

from ebbtide.bench.case import Case
from ebbtide.bench.run import RunResult, Served

WINDOW_S = 300.0
WINDOW_STEP_S = 60.0
WINDOW_LEAST_REQUESTS = 20
LEAST_BILLED_S = 60.0
HOUR_S = 3600.0
DAY_S = 86_400.0


class Percentiles(msgspec.Struct, frozen=True):
    """In milliseconds. None: nothing was measured, or the rank falls among requests that got no token."""

    p50: float | None
    p95: float | None
    p99: float | None


class Score(msgspec.Struct, frozen=True):
    """One run, judged. Shares are 0..1.

    `cost` is dollars billed by the second, at least 60 s a replica; `cost_hourly` the same fleet by begun hours.
    `gpu_hours` have neither minimum. `worst_5min` is None where no five minutes had 20 requests.
    """

    submitted: int
    missed: int
    worst_5min: float | None
    ttft_ms: Percentiles
    itl_ms: Percentiles
    cost: float
    cost_hourly: float
    gpu_hours: float
    start_up_share: float
    scale_events: int
    scale_events_per_replica_day: float
    wall_s: float

    @property
    def attainment(self) -> float:
        """Share of submitted requests that met both objectives; 1 where none was submitted."""
        return 1.0 - self.missed / self.submitted if self.submitted else 1.0


def score(case: Case, result: RunResult) -> Score:
    """Judge `result` by the objectives and the price of `case`."""
    met = [meets(case, request) for request in result.served]
    lives_s = lifetimes_s(result)
    dollars_per_s = float(case.gpu_hour_price) * case.tensor_parallel / HOUR_S
    return Score(
        submitted=len(met),
        missed=met.count(False),
        worst_5min=worst_window([request.arrival_s for request in result.served], met),
        ttft_ms=_percentiles([r.ttft_s for r in result.served]),
        itl_ms=_percentiles([r.itl_s for r in result.served if r.itl_s is not None and r.output_tokens > 1]),
        cost=dollars_per_s * sum(max(LEAST_BILLED_S, life_s) for life_s in lives_s),
        cost_hourly=dollars_per_s * sum(HOUR_S * math.ceil(life_s / HOUR_S) for life_s in lives_s),
        gpu_hours=result.billed_s * case.tensor_parallel / HOUR_S,
        start_up_share=result.startup_billed_s / result.billed_s if result.billed_s > 0 else 0.0,
        scale_events=result.scale_events,
        scale_events_per_replica_day=result.scale_events * DAY_S / result.billed_s if result.billed_s > 0 else 0.0,
        wall_s=result.wall_s,
    )


def meets(case: Case, request: Served) -> bool:
    """Whether the whole answer came, its first token and its mean gap both in time."""
    if request.end_s is None or request.ttft_s is None or request.itl_s is None:
        return False
    return request.ttft_s <= case.ttft_s and request.itl_s <= case.itl_s


def worst_window(arrivals_s: Sequence[float], met: Sequence[bool]) -> float | None:
    """The lowest share met in any five minutes, by arrival (in order), that begin on a minute and are whole.

    Windows of fewer than 20 requests do not count: one miss among three is no collapse. None where none counts.
    """
    worst: float | None = None
    first = last = missed = 0
    start_s = 0.0
    while arrivals_s and start_s <= max(0.0, arrivals_s[-1] - WINDOW_S + WINDOW_STEP_S):
        while last < len(met) and arrivals_s[last] < start_s + WINDOW_S:
            missed += not met[last]
            last += 1
        while first < last and arrivals_s[first] < start_s:
            missed -= not met[first]
            first += 1
        if last - first >= WINDOW_LEAST_REQUESTS:
            share = 1.0 - missed / (last - first)
            worst = share if worst is None else min(worst, share)
        start_s += WINDOW_STEP_S
    return worst


def lifetimes_s(result: RunResult) -> list[float]:
    """Seconds that each replica is billed, from the counts over time: of those that leave the youngest goes first.

    The counts end at the last change; the run's end is the moment at which they add up to `billed_s`. Two replicas
    from 0 s, one of which leaves at 100 s, and 250 s billed: the other stayed until 150 s.
    """
    starts: list[float] = []
    lives: list[float] = []
    before, area_s, at_s = 0, 0.0, 0.0
    for second, billed, _ in result.replicas:
        area_s += before * (second - at_s)
        lives += [second - starts.pop() for _ in range(before - billed)]
        starts += [second] * (billed - before)
        before, at_s = billed, second
    left_s = max(0.0, result.billed_s - area_s)
    return lives + [at_s + left_s / before - start_s for start_s in starts]


def _percentiles(values_s: Sequence[float | None]) -> Percentiles:
    """By nearest rank over all of them; those that never came rank last."""
    ranked = sorted(value for value in values_s if value is not None)

    def at(share: float) -> float | None:
        rank = max(0, math.ceil(share * len(values_s)) - 1)
        return round(1000.0 * ranked[rank], 3) if rank < len(ranked) else None

    return Percentiles(at(0.50), at(0.95), at(0.99))
