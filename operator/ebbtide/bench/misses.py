"""The share of requests that n replicas miss at a steady load, measured in a simulator, and what follows from it.

The table is what the clairvoyant and the fluid bound plan with; no policy sees it. Loads are requests per second and
replica of the case's own mix of lengths, with its bursts inside a minute.
"""

import functools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import msgspec

from ebbtide.bench.case import Case, fleet
from ebbtide.bench.run import HOLD, Simulator
from ebbtide.bench.score import meets
from ebbtide.bench.traffic import steady
from ebbtide.errors import ConfigurationError
from ebbtide.sim.requests import Request

FLEETS = (1, 2, 4, 8, 16)
LOADS = (0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)  # of the load that one replica carries at the target
RUN_REQUESTS = 8000
RUN_LEAST_S = 120.0
WARM_UP_S = 60.0
MOST_RUN_REQUESTS = 400_000  # of one measurement: replicas that carry hundreds a second are known after less time
ALONE_REQUESTS = 2000
_LEAST_GUESS, _MOST_GUESS = 1 / 16, 64  # of the first guess: from half a request in flight to 512 of them
_Z95 = 1.96

_Run = Callable[[tuple[int, float]], tuple[int, int]]  # (replicas, load of each) -> (missed, submitted)
Each = Callable[[_Run, Iterable[tuple[int, float]]], Iterable[tuple[int, int]]]


class Work(msgspec.Struct, frozen=True):
    """What a request asks of a replica, where the mean request of the mix asks for 1.

    `prompt` and `output` are the parts of that 1 which grow with the tokens of each side; what is left is the request
    itself. With 0.6 of it in prompts of 1,000 tokens on average, a prompt of 2,000 is 1.6 requests.
    """

    prompt: float = 0.0
    output: float = 0.0
    mean_prompt_tokens: float = 1.0
    mean_output_tokens: float = 1.0

    def of(self, request: Request) -> float:
        """In mean requests."""
        longer_prompt = request.prompt_tokens / self.mean_prompt_tokens - 1.0
        longer_output = request.output_tokens / self.mean_output_tokens - 1.0
        return 1.0 + self.prompt * longer_prompt + self.output * longer_output


class MissTable(msgspec.Struct, frozen=True):
    """`shares[i][j]` (0..1) is what `replicas[i]` miss at `loads[j]` requests per second and replica; both ascending.

    Between loads misses grow as a power of the load; between fleets their logarithm is linear in 1/sqrt(n), as
    square-root staffing has it. Below the lightest load measured and beyond the largest fleet they stay as they are.
    """

    replicas: tuple[int, ...]
    loads: tuple[float, ...]
    shares: tuple[tuple[float, ...], ...]
    work: Work = Work()

    def share(self, n: int, load: float) -> float:
        """Share missed by `n` replicas that each get `load` requests per second; no replica misses everything."""
        if n <= 0:
            return 1.0
        right = min(bisect_right(self.replicas, n), len(self.replicas) - 1)
        left = max(0, right - 1)
        fewer, more = self._fleet(left, load), self._fleet(right, load)
        if left == right:
            return fewer
        x_fewer, x_more = 1 / math.sqrt(self.replicas[left]), 1 / math.sqrt(self.replicas[right])
        way = (x_fewer - 1 / math.sqrt(n)) / (x_fewer - x_more)
        return fewer * math.pow(more / fewer, min(1.0, max(0.0, way)))

    def capacity(self, n: int, miss_share: float) -> float | None:
        """Requests per second and replica at which `n` replicas miss `miss_share`; None where even idle ones miss more.

        Never above the heaviest load measured.
        """
        low, high = self.loads[0], self.loads[-1]
        if self.share(n, low) > miss_share:
            return None
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.share(n, middle) <= miss_share else (low, middle)
        return low

    def _fleet(self, index: int, load: float) -> float:
        """What one measured fleet misses; beyond the heaviest load, where powers may cross, no more than a smaller."""
        if load <= self.loads[-1]:
            return self._at(self.shares[index], load)
        return min(self._at(row, load) for row in self.shares[: index + 1])

    def _at(self, row: Sequence[float], load: float) -> float:
        """By a power law between measured loads, and on beyond the heaviest up to 1."""
        if load <= self.loads[0] or len(self.loads) == 1:
            return row[0]
        right = min(bisect_right(self.loads, load), len(self.loads) - 1)
        left = right - 1
        slope = math.log(row[right] / row[left]) / math.log(self.loads[right] / self.loads[left])
        return min(1.0, row[left] * math.pow(load / self.loads[left], slope))


class Unbuyable(msgspec.Struct, frozen=True):
    """p0: the share that requests miss even alone on an idle replica, with its 95 % interval (Wilson)."""

    share: float
    low: float
    high: float

    def forbids(self, attainment: float) -> bool:
        """Whether no number of replicas reaches `attainment` (0..1), beyond chance."""
        return self.low > 1.0 - attainment


def measure_misses(
    simulator: Simulator, case: Case, source: Sequence[Request], seed: int, p0: float = 0.0, each: Each = map
) -> MissTable:
    """Measure the table with fleets of 1 to 16 replicas at 0.4 to 1.5 times what one carries at the case's attainment.

    Where `p0`, the share that cannot be bought, is over half of what is allowed, twice p0 counts as allowed; where
    that is everything nothing can be told from load, and a ConfigurationError says so. Traffic is contiguous blocks of
    `source` at one rate in every minute; `each` is `map`, or one that runs side by side. Chance is taken out where it
    contradicts what must hold: more load never misses less, and more replicas at the same load per replica never miss
    more.
    """
    _require_reachable(case, p0)
    fleets = sorted({n for n in FLEETS if n < case.max_replicas} | {min(case.max_replicas, FLEETS[-1])})

    def run(setting: tuple[int, float]) -> tuple[int, int]:
        return _steady(simulator, case, source, *setting, seed)

    allowed = _missable(case, p0)
    one = carried_alone(simulator, case, source, seed, p0)
    loads = tuple(one * factor for factor in LOADS)
    counts = list(each(run, [(n, load) for n in fleets for load in loads]))
    rows = [counts[begin : begin + len(loads)] for begin in range(0, len(counts), len(loads))]
    table = table_of(fleets, loads, rows)

    def halved(changed: Sequence[Request]) -> float:
        def missed(load: float) -> bool:
            misses, submitted = _steady(simulator, case, changed, 1, load, seed)
            return misses > allowed * submitted

        return one / _bisected(missed, one, 2 * one)

    return msgspec.structs.replace(table, work=work_of(source, halved))


def carried_alone(simulator: Simulator, case: Case, source: Sequence[Request], seed: int, p0: float = 0.0) -> float:
    """Requests/s of one replica by itself at the case's attainment; ConfigurationError where nothing can be told."""
    _require_reachable(case, p0)
    run = functools.partial(_steady, simulator, case, source, 1, seed=seed)
    return _carried(case, run, _missable(case, p0), _first_guess(case, source))


def _missable(case: Case, p0: float) -> float:
    return max(1.0 - case.attainment, 2 * p0)


def work_of(source: Sequence[Request], halved: Callable[[Sequence[Request]], float]) -> Work:
    """What the two sides of a request weigh, from how much less a replica is loaded when one of them is half as long.

    `halved(changed)` is the load of a changed request in old ones, 0.5..1: a request whose prompt is halved and that is
    worth 0.7 says that prompts are 0.6 of the work.
    """
    replace = msgspec.structs.replace
    prompt = 2.0 * (1.0 - halved([replace(r, prompt_tokens=max(1, r.prompt_tokens // 2)) for r in source]))
    output = 2.0 * (1.0 - halved([replace(r, output_tokens=max(1, r.output_tokens // 2)) for r in source]))
    return Work(
        prompt=prompt / max(1.0, prompt + output),
        output=output / max(1.0, prompt + output),
        mean_prompt_tokens=sum(request.prompt_tokens for request in source) / len(source),
        mean_output_tokens=sum(request.output_tokens for request in source) / len(source),
    )


def table_of(fleets: Sequence[int], loads: Sequence[float], counts: Sequence[Sequence[tuple[int, int]]]) -> MissTable:
    """The table of `counts[fleet][load]` = (missed, submitted), smoothed as said in `measure_misses`."""
    rows = [rising([(max(0.5, missed) / max(1, n), max(1, n)) for missed, n in row]) for row in counts]
    for above, row in pairwise(rows):
        row[:] = [min(more, less) for more, less in zip(above, row, strict=True)]
    return MissTable(tuple(fleets), tuple(loads), tuple(tuple(row) for row in rows))


def rising(values: Sequence[tuple[float, float]]) -> list[float]:
    """The nearest sequence that never falls (least squares): neighbours out of order share their weighted mean.

    (0.1, 1), (0.4, 1), (0.2, 1) become 0.1, 0.3, 0.3.
    """
    blocks: list[tuple[float, float, int]] = []
    for value, weight in values:
        blocks.append((value, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (first, first_weight, first_n), (second, second_weight, second_n) = blocks[-2:]
            total = first_weight + second_weight
            blocks[-2:] = [((first * first_weight + second * second_weight) / total, total, first_n + second_n)]
    return [value for value, _, n in blocks for _ in range(n)]


def unbuyable(simulator: Simulator, case: Case, requests: Sequence[Request], seed: int) -> Unbuyable:
    """Replay up to 2,000 requests, evenly chosen, so far apart that each finds an idle replica; count the misses."""
    _require_some(case, requests)
    chosen = requests[:: math.ceil(len(requests) / ALONE_REQUESTS)]
    longest_s = case.ttft_s + case.itl_s * max(request.output_tokens for request in chosen)
    apart_s = longest_s / case.max_replicas
    lonely = [Request(i, i * apart_s, r.prompt_tokens, r.output_tokens) for i, r in enumerate(chosen)]
    result = simulator.run(fleet(case, case.max_replicas), lonely, HOLD, 0.0, seed, ())
    return wilson([meets(case, served) for served in result.served].count(False), len(result.served))


def wilson(missed: int, submitted: int) -> Unbuyable:
    """A share with its 95 % interval by Wilson: 0 of 100 may be up to 3.7 %."""
    share, n = missed / submitted, submitted
    middle = (share + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    half = _Z95 * math.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n * n)) / (1 + _Z95**2 / n)
    return Unbuyable(share, max(0.0, middle - half), min(1.0, middle + half))


def _steady(
    simulator: Simulator, case: Case, source: Sequence[Request], n: int, load: float, seed: int
) -> tuple[int, int]:
    """(missed, submitted) of `n` replicas at `load` each, the filling of the engines left out."""
    length_s = min(WARM_UP_S + max(RUN_LEAST_S, RUN_REQUESTS / (n * load)), MOST_RUN_REQUESTS / (n * load))
    warm_up_s = min(WARM_UP_S, length_s / 3)
    result = simulator.run(fleet(case, n), steady(n * load, length_s, source, seed), HOLD, 0.0, seed, ())
    met = [meets(case, served) for served in result.served if served.arrival_s >= warm_up_s]
    return met.count(False), len(met)


def _carried(case: Case, run: Callable[[float], tuple[int, int]], allowed: float, guess: float) -> float:
    """The load at which `allowed` (0..1) is missed, by doubling or halving from `guess` and then bisection."""

    def missed(load: float) -> float:
        misses, submitted = run(load)
        return misses / max(1, submitted)

    low = high = guess
    if missed(guess) <= allowed:
        while missed(high := high * 2) <= allowed:
            low = high
            if high > guess * _MOST_GUESS:
                still = f"one replica still meets the objectives at {high:.4g} requests/s"
                raise ConfigurationError(f"case {case.name}: {still}: they bind nothing")
    else:
        while missed(low := low / 2) > allowed:
            high = low
            if low < guess * _LEAST_GUESS:
                return low
    return _bisected(lambda load: missed(load) > allowed, low, high)


def _bisected(too_much: Callable[[float], bool], low: float, high: float) -> float:
    """The edge of `too_much` between `low` and `high`, within 3 %."""
    while high > 1.03 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if too_much(middle) else (middle, high)
    return math.sqrt(low * high)


def _first_guess(case: Case, source: Sequence[Request]) -> float:
    """Requests per second that keep eight answers in flight at the declared inter-token latency."""
    _require_some(case, source)
    mean_output = sum(request.output_tokens for request in source) / len(source)
    return 8.0 / (mean_output * case.itl_s + case.ttft_s)


def _require_some(case: Case, requests: Sequence[Request]) -> None:
    if not requests:
        raise ConfigurationError(f"case {case.name}: no requests to measure with")


def _require_reachable(case: Case, p0: float) -> None:
    if 2 * p0 >= 1.0:
        objectives = f"first token in {1000 * case.ttft_s:g} ms, gap of {1000 * case.itl_s:g} ms"
        raise ConfigurationError(
            f"case {case.name}: {objectives}: {100 * p0:.3g} % of the requests miss that even alone on an idle "
            "replica, less than 50 % is allowed: raise --ttft-ms or --itl-ms, or take a faster replica"
        )
