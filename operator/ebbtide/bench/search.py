"""Finds what a policy costs at a declared attainment, so that policies are compared at equal quality.

A policy is known here only by its knob and by a function that measures a setting on every seed. Between two settings
costs are interpolated in the logarithm of the misses, never in the attainment: from (97 %, 180) and (99.9 %, 210) the
cost at 99 % is 189.7, where a straight line would say 200.7. Nothing is extrapolated: a target that no setting meets
is not reached. It runs nothing by itself and knows no simulator.
"""

import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec

from ebbtide.bench.policy import Knob
from ebbtide.bench.score import Score

TRIALS = 25  # the same for every rival
BAND = 0.2  # of the misses allowed: 98.8 to 99.2 % count as being at 99 %
_EXPLORED = 9  # settings tried before a target counts as out of reach
_NARROW = 0.002  # of the knob's range: nothing finer is asked for
_CLOSE, _CLOSE_ENOUGH = 0.02, 0.2  # of the cost
_ALIKE = math.log(10.0)  # of the misses
_STEP = 0.1  # of the knob's range: how far apart two settings of one whole step may lie
_RESAMPLES = 1000
_WORTH_CAPTURING = 1.25

Measure = Callable[[float], Sequence[Score]]  # a knob's setting -> one score a seed, always in the same order


class Trial(msgspec.Struct, frozen=True):
    """One setting of the knob, measured on every seed."""

    knob: float
    scores: tuple[Score, ...]

    @property
    def point(self) -> "Point":
        """All seeds together."""
        return pooled(self.knob, self.scores)


class Point(msgspec.Struct, frozen=True):
    """Cost (dollars a run) and misses of one setting: `missed` of `submitted` requests, 0..1 as `attainment`."""

    knob: float
    cost: float
    missed: int
    submitted: int

    @property
    def attainment(self) -> float:
        """Share that met both objectives."""
        return 1.0 - self.missed / self.submitted if self.submitted else 1.0

    @property
    def miss_share(self) -> float:
        """Share missed for logarithms: no miss at all counts as half of one."""
        return max(0.5, self.missed) / max(1, self.submitted)


class AtTarget(msgspec.Struct, frozen=True):
    """What the target costs, and about where the knob stands then (None: the policy has none)."""

    cost: float
    knob: float | None


class Found(msgspec.Struct, frozen=True):
    """The outcome of a search: `at_target` is None where the target is not reached.

    `interval` bounds 95 % of resampled seeds; its upper end is None where more than 2.5 % of them do not reach it.
    """

    trials: tuple[Trial, ...]
    at_target: AtTarget | None
    interval: tuple[float | None, float | None]

    @property
    def best_attainment(self) -> float:
        """The highest share that any setting met."""
        return max(trial.point.attainment for trial in self.trials)


def pooled(knob: float, scores: Sequence[Score]) -> Point:
    """Requests of all scores together, cost as their mean."""
    return Point(
        knob=knob,
        cost=sum(score.cost for score in scores) / len(scores),
        missed=sum(score.missed for score in scores),
        submitted=sum(score.submitted for score in scores),
    )


def search(knob: Knob | None, target: float, measure: Measure, trials: int = TRIALS) -> Found:
    """The cheapest cost at `target` (0..1), in at most `trials` settings, starting at the published one.

    Without a knob the policy is measured as it is; what it attains above the target earns it nothing.
    """
    if knob is None:
        return found([Trial(0.0, tuple(measure(0.0)))], target, log=False)
    done: list[Trial] = []
    setting: float | None = clipped(knob, knob.published)
    while setting is not None and len(done) < trials:
        done.append(Trial(setting, tuple(measure(setting))))
        setting = _next_setting(knob, target, done)
    return found(done, target, knob.log)


def found(trials: Sequence[Trial], target: float, log: bool, seed: int = 1) -> Found:
    """The cost at `target` that these trials show, with its interval; `log` as in the knob."""
    ordered = tuple(sorted(trials, key=lambda trial: trial.knob))
    return Found(
        trials=ordered,
        at_target=at_target([trial.point for trial in ordered], target, log),
        interval=_interval(ordered, target, log, seed),
    )


def at_target(points: Sequence[Point], target: float, log: bool = False) -> AtTarget | None:
    """The cheapest way to `target` on the line through `points` (in the order of the knob); None: none meets it.

    A setting that meets it counts at its own cost; two neighbours on either side of it at the cost in between.
    """
    ways = [AtTarget(point.cost, point.knob) for point in points if point.attainment >= target]
    ways += [_between(lower, upper, target, log) for lower, upper in _crossings(points, target)]
    return min(ways, key=lambda way: way.cost, default=None)


def share_between(first: float, second: float, wanted: float) -> float:
    """How far `wanted` misses lie from `first` to `second` (shares above 0) on a logarithmic scale, 0..1.

    From 3 % to 0.1 %, 1 % is 0.323 of the way.
    """
    return (math.log(wanted) - math.log(first)) / (math.log(second) - math.log(first))


def frozen_knob(knob: Knob, target: float, training: Found) -> float:
    """The setting that training days favour: where they meet `target`; if they never do, where they miss least."""
    if training.at_target is not None and training.at_target.knob is not None:
        return clipped(knob, training.at_target.knob)
    return max(training.trials, key=lambda trial: (trial.point.attainment, -trial.point.cost)).knob


def shared_attainment(first: Found, second: Found, target: float) -> float | None:
    """Where two policies are compared: at `target`, or where neither reaches it at the highest share that both reach.

    None where only one reaches it: what the other would cost there nobody knows, and what it costs with more misses is
    another thing.
    """
    first_best, second_best = first.best_attainment, second.best_attainment
    if (first_best >= target) != (second_best >= target):
        return None
    return min(target, first_best, second_best)


def by_begun_hours(answer: Found, target: float) -> Found:
    """The same settings and misses with the bill by begun hours in place of that by the second; none is run anew."""
    trials = [
        Trial(one.knob, tuple(msgspec.structs.replace(score, cost=score.cost_hourly) for score in one.scores))
        for one in answer.trials
    ]
    return found(trials, target, log=False)


def captured(static: float, policy: float, clairvoyant: float) -> float | None:
    """Share of what could be saved over the static fleet that the policy saves (costs at one attainment).

    None where the static fleet costs no more than 1.25 times the clairvoyant: a small difference divided by a small
    difference says nothing.
    """
    if static <= _WORTH_CAPTURING * clairvoyant:
        return None
    return (static - policy) / (static - clairvoyant)


def clipped(knob: Knob, setting: float) -> float:
    """`setting` inside the knob's range."""
    return min(knob.high, max(knob.low, setting))


def _next_setting(knob: Knob, target: float, done: Sequence[Trial]) -> float | None:
    """The setting to measure next; None when another one would tell nothing that matters."""
    points = sorted((trial.point for trial in done), key=lambda point: point.knob)
    reaching = [point for point in points if point.attainment >= target]
    if not reaching:
        return _towards(knob, points, knob.high)
    if len(reaching) == len(points):
        return knob.low if points[0].knob > knob.low else None

    def cheapest(pair: tuple[Point, Point]) -> float:
        return min(_between(*pair, target, knob.log).cost, *(end.cost for end in pair if end.attainment >= target))

    lower, upper = min(_crossings(points, target), key=cheapest)
    if not _settled(knob, lower, upper, target, points):
        return _middle(knob, lower.knob, upper.knob)
    last = points[-1]
    if last is upper and _in_band(last, target) and last.knob < knob.high:  # one beyond, for the seeds that fare worse
        return _middle(knob, last.knob, knob.high)
    return None


def _towards(knob: Knob, points: Sequence[Point], bound: float) -> float | None:
    """Nothing meets the target yet: the knob's end first, then the widest gap beside the best setting.

    Some policies do worse again far out (jams cost more than the replicas that they save), so the end alone
    proves nothing.
    """
    if all(point.knob != bound for point in points):
        return bound
    if len(points) >= _EXPLORED:
        return None
    best = max(range(len(points)), key=lambda index: (points[index].attainment, -index))
    beside = [(points[i].knob, points[i + 1].knob) for i in (best - 1, best) if 0 <= i < len(points) - 1]
    if points[0].knob > knob.low:
        beside.append((knob.low, points[0].knob))
    gaps = [(_position(knob, right) - _position(knob, left), left, right) for left, right in beside]
    width, left, right = max(gaps, default=(0.0, bound, bound))
    return _middle(knob, left, right) if width > _NARROW else None


def _settled(knob: Knob, lower: Point, upper: Point, target: float, points: Sequence[Point]) -> bool:
    """Whether the crossing is known well enough: its ends are alike, or nothing lies between them.

    An end at the target needs no close neighbour, because the line is read near that end: over 20 % of cost a curved
    line is wrong by less than 1 %. Cost alone proves nothing: a fleet in a jam may cost what a good one costs.
    """
    apart = abs(upper.cost - lower.cost) / max(lower.cost, upper.cost, 1e-12)
    near = _in_band(lower, target) or _in_band(upper, target)
    if apart <= (_CLOSE_ENOUGH if near else _CLOSE) and abs(math.log(lower.miss_share / upper.miss_share)) <= _ALIKE:
        return True
    if _position(knob, upper.knob) - _position(knob, lower.knob) <= _NARROW:
        return True
    return all(any(_same_step(knob, end, point) for point in points) for end in (lower, upper))


def _in_band(point: Point, target: float) -> bool:
    return abs(point.attainment - target) <= BAND * (1.0 - target)


def _same_step(knob: Knob, end: Point, point: Point) -> bool:
    """Whether another setting close by gave the very same result, as 6.5 replicas do beside 6."""
    apart = abs(_position(knob, end.knob) - _position(knob, point.knob))
    return 0.0 < apart <= _STEP and (end.cost, end.missed) == (point.cost, point.missed)


def _position(knob: Knob, setting: float) -> float:
    """Where a setting stands in the knob's range, 0..1."""
    if knob.high <= knob.low:
        return 0.0
    if knob.log:
        return math.log(setting / knob.low) / math.log(knob.high / knob.low)
    return (setting - knob.low) / (knob.high - knob.low)


def _middle(knob: Knob, left: float, right: float) -> float:
    return math.sqrt(left * right) if knob.log else (left + right) / 2


def _crossings(points: Sequence[Point], target: float) -> list[tuple[Point, Point]]:
    """Neighbours of which one meets the target and the other does not."""
    return [
        (lower, upper)
        for lower, upper in pairwise(points)
        if (lower.attainment >= target) != (upper.attainment >= target)
    ]


def _between(lower: Point, upper: Point, target: float, log: bool) -> AtTarget:
    """Where the line between two settings meets the target."""
    if lower.miss_share == upper.miss_share:  # a target above what so few requests can show
        return AtTarget(max(lower.cost, upper.cost), upper.knob)
    share = min(1.0, max(0.0, share_between(lower.miss_share, upper.miss_share, max(1e-12, 1.0 - target))))
    cost = lower.cost + share * (upper.cost - lower.cost)
    if log:
        return AtTarget(cost, lower.knob ** (1 - share) * upper.knob**share)
    return AtTarget(cost, lower.knob + share * (upper.knob - lower.knob))


def _interval(trials: Sequence[Trial], target: float, log: bool, seed: int) -> tuple[float | None, float | None]:
    """The 2.5th and 97.5th percentile of the cost at target when the seeds are drawn again with replacement.

    A policy measured at one setting keeps its bill: its validity is judged on all seeds together, not on each draw.
    """
    seeds = range(len(trials[0].scores))
    draw = random.Random(seed)
    costs: list[float] = []
    for _ in range(_RESAMPLES):
        chosen = [draw.choice(seeds) for _ in seeds]
        points = [pooled(trial.knob, [trial.scores[index] for index in chosen]) for trial in trials]
        way = at_target(points, 0.0 if len(points) == 1 else target, log)
        costs.append(math.inf if way is None else way.cost)
    costs.sort()
    low, high = costs[round(0.025 * (_RESAMPLES - 1))], costs[round(0.975 * (_RESAMPLES - 1))]
    return None if math.isinf(low) else low, None if math.isinf(high) else high
