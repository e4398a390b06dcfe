"""A simulator of one formula, so that every answer of the benchmark's arithmetic is known beforehand.

n replicas at a load of x requests per second each miss p0 + (1 - p0) * min(1, 0.01 * (x / carried(n)) ** 10), minute
by minute; each request draws its own fate. `carried(n)` is 4 for one replica and rises to 5 for many.
`prompt_part` of a request's work grows with its prompt, whose mean is 500 tokens; all are missed before
`cold_s`.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from decimal import Decimal

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Minute
from ebbtide.bench.run import HOLD, PATH, RunResult, Served
from ebbtide.bench.traffic import arrivals_by_slot
from ebbtide.sim.requests import Request

CASE = Case(
    name="analytic",
    model="none",
    system="none",
    tensor_parallel=2,
    gpu_hour_price=Decimal("1.80"),
    ttft_s=1.0,
    itl_s=0.05,
    attainment=0.99,
    startup_s=(120.0,),
    max_replicas=12,
    start_replicas=2,
)


def carried(n: int) -> float:
    return 5.0 - 1.0 / math.sqrt(n)


class Analytic:
    """`power` is how steeply misses grow; `p0` what nobody can buy."""

    name = "analytic"

    def __init__(self, p0: float = 0.0, power: float = 10.0, prompt_part: float = 0.0, cold_s: float = 0.0) -> None:
        self.p0, self.power, self.prompt_part, self.cold_s = p0, power, prompt_part, cold_s

    def share(self, n: int, load: float) -> float:
        return self.p0 + (1 - self.p0) * min(1.0, 0.01 * math.pow(load / carried(n), self.power))

    def run(
        self,
        case: Case,
        requests: Sequence[Request],
        rival_name: str,
        knob: float,
        seed: int,
        history: Sequence[Minute],
    ) -> RunResult:
        path = {HOLD: ((0.0, case.start_replicas),), PATH: case.path}[rival_name]
        end_s = requests[-1].arrival_s if requests else 0.0
        changes = fleet(path, case.start_replicas, case.startup_s[0])
        draw, served = random.Random(seed), []
        moments = [at_s for at_s, _, _ in changes]
        work = [0.0] * len(arrivals_by_slot(requests, 60.0))
        for request in requests:
            work[int(request.arrival_s // 60)] += 1 + self.prompt_part * (request.prompt_tokens / 500 - 1)
        for request in requests:
            ready = changes[bisect_right(moments, request.arrival_s) - 1][2]
            missed = draw.random() < self.share(ready, work[int(request.arrival_s // 60)] / 60.0 / ready)
            served.append(answer(request, case, missed or request.arrival_s < self.cold_s))
        billed_s = area(changes, end_s, 1)
        return RunResult(tuple(served), changes, billed_s, billed_s - area(changes, end_s, 2), len(path) - 1, 0.01)


def answer(request: Request, case: Case, missed: bool) -> Served:
    ttft_s = case.ttft_s * (2.0 if missed else 0.5)
    end_s = request.arrival_s + ttft_s
    return Served(request.arrival_s, request.prompt_tokens, request.output_tokens, ttft_s, 0.01, end_s)


def fleet(path: Sequence[tuple[float, int]], first: int, startup_s: float) -> tuple[tuple[float, int, int], ...]:
    """(second, billed, ready) when `path` is asked for: starts take `startup_s`, and those starting go first."""
    ready, declared = first, first
    starting: list[float] = []
    asks = dict(path)
    found = [(0.0, first, first)]
    for at_s in sorted({*asks, *(ask_s + startup_s for ask_s in asks)}):
        ready += len([due_s for due_s in starting if due_s <= at_s])
        starting = [due_s for due_s in starting if due_s > at_s]
        declared = asks.get(at_s, declared)
        starting += [at_s + startup_s] * (declared - ready - len(starting))
        starting = starting[: max(0, declared - ready)]
        if startup_s == 0.0:
            ready, starting = ready + len(starting), []
        ready = min(ready, declared)
        found.append((at_s, ready + len(starting), ready))
    return tuple(found)


def area(changes: Sequence[tuple[float, int, int]], end_s: float, column: int) -> float:
    ends = [change[0] for change in changes[1:]] + [math.inf]
    return sum(
        change[column] * max(0.0, min(end, end_s) - change[0]) for change, end in zip(changes, ends, strict=True)
    )


def steady(per_s: float, length_s: float) -> list[Request]:
    return [Request(i, i / per_s, 500, 100) for i in range(int(per_s * length_s))]
