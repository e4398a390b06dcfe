"""The edge of a replica: how many requests miss an objective at a load, learnt from what was seen at every load it had.

    share(u, n) = floor + level x u^steep / (n / N)^gain

u is the load of a replica, relative to what the latency line alone promises; n replicas share it, N when it was first
seen. Latency knows means, misses are tails: bursts inside the minute, long prompts among short ones, uneven dispatch.
All of them are in the share that missed in a window, so it is fitted, both how high the edge is and how steep: smooth
chat misses with load^10, bursts of long prompts with load^2, and there one more replica saves less and sooner. What
misses at every load alike (an answer of five tokens beside somebody's prompt) is no edge: without a floor of its own it
would make a steep one look flat. Beyond half of what may be missed nothing counts as floor, so that a slow engine is
not taken for one that misses anyway.

A minute with twice the bursts misses twice as much, however many replicas there are, so bursts make the edge flat. But
n replicas work one off n times as fast. Where waits have an exponential tail, exp(-c n), 1 % of misses falls with
n^-ln(100): what that is beyond the steepness is `gain`. A coding assistant in Dynamo's replay missed with load^2.5, and
2.5, 0.36 and 0.025 % on two, three and five replicas: with n^-4.8 and n^-5.2.

Recursive Bayesian (an extended Kalman filter on the log scale), each window's count of misses negative binomial: those
of a burst come together. Example: 7 in 1000 are believed at u = 1 with load^10; at u = 0.75 40 of 1000 miss where 0.7
were expected: level 38, steep 9, and what is carried with 7 in 1000 missing falls to 0.67.
"""

import math
from collections.abc import Sequence

import msgspec

from ebbtide.core.numeric import clip
from ebbtide.model.memory import EdgeMemory

MISS_EXPONENT = 10.0  # is believed at first: of chat on a 70B model it was between 8 and 11
LEVEL_DEVIATION = 2.0  # of log(level): at load^10, 20 % of capacity
STEEP_DEVIATION = 2.0
FLOOR, FLOOR_DEVIATION = math.log(0.05), 1.0  # of the planned share, and of its logarithm
SCATTER = 1.0  # of log(misses) from window to window at the same load: none counts as more than one such observation
FORGET_S = 12 * 3600.0
LEAST_STEEP, MOST_STEEP = 2.0, 14.0
MOST_FLOOR = math.log(0.7)  # of the planned share: half of what may be missed
REACH = (0.05, 2.5)
# Of what the line promises: no line is off by more than ten times, and hardly any by more than three. What misses below
# the first is no edge; below the second it may be the floor.
LEAST_LOAD, LITTLE = 0.1, 0.3
NO_LOAD = 1e-3
MOST_SHARE = 0.5
BEYOND = 1.05  # times what was carried
FOLLOW_S = 60.0
UNINFORMED = 0.9  # of the variance of the level at first
HALVINGS = 16

Vector = tuple[float, float, float]
_AT_FIRST = (LEVEL_DEVIATION**2, 0.0, 0.0, STEEP_DEVIATION**2, 0.0, FLOOR_DEVIATION**2)


def anchored(memory: EdgeMemory, work: float, elapsed_s: float, replicas: float = 1.0) -> EdgeMemory:
    """Loads are relative to what the latency line promises, `work`, at first; then less and less, as more is seen.

    A line that is learnt anew must not move an edge that was seen itself. The number of replicas is that of when
    something was learnt first.
    """
    if memory.work <= 0.0 or not memory.covariance:
        return msgspec.structs.replace(memory, work=round(work, 1), replicas=replicas)
    unsure = memory.covariance[0] / LEVEL_DEVIATION**2
    follow = -math.expm1(-(unsure**4) * elapsed_s / FOLLOW_S)
    work = memory.work * (max(work, 1e-9) / memory.work) ** follow
    known_of = replicas if unsure > UNINFORMED else memory.replicas
    return msgspec.structs.replace(memory, work=round(work, 1), replicas=known_of)


def more(memory: EdgeMemory, replicas: float) -> float:
    """The logarithm of how many times as many replicas those are as the edge is known of."""
    return math.log(max(replicas, 0.1) / memory.replicas)


def proven(planned: float, requests: float, missed: float) -> bool:
    """Whether so many would have missed at the edge that none more than planned says something."""
    return missed <= planned * requests and planned * requests >= 1.0


def reanchored(memory: EdgeMemory, carried: float) -> EdgeMemory:
    """After so much work was carried: beyond all that an edge may reach, the promise was another engine's.

    What was carried is the promise now, and the edge is believed there as it is of any. A mixture of experts that a
    table takes for a dense model carries four times what is promised.
    """
    if carried <= REACH[1] * memory.work:
        return memory
    queued = round(memory.queued * memory.work / carried, 3)
    return EdgeMemory(work=round(carried, 1), carried=1.0, queued=queued, replicas=memory.replicas)


def doubted(memory: EdgeMemory, share: float) -> EdgeMemory:
    """With so much of what is known forgotten: an engine that is another than it was has another edge."""
    if share <= 0.0 or not memory.covariance:
        return memory
    return msgspec.structs.replace(
        memory,
        covariance=_faded(memory.covariance, share),
        level=memory.level * (1.0 - share),
        steep=memory.steep * (1.0 - share),
        floor=memory.floor * (1.0 - share),
        carried=memory.carried * (1.0 - share),
    )


def steep(memory: EdgeMemory) -> float:
    """The exponent of misses."""
    return clip(MISS_EXPONENT + memory.steep, LEAST_STEEP, MOST_STEEP)


def floor(memory: EdgeMemory, planned: float) -> float:
    """The share that misses at every load alike, 0..1."""
    return planned * math.exp(min(MOST_FLOOR, FLOOR + memory.floor))


def gain(steepness: float, planned: float) -> float:
    """The exponent of the number of replicas beyond that of the load of each, where `planned` may miss."""
    return max(0.0, -math.log(planned) - steepness)


def reach(memory: EdgeMemory, planned: float = 1.0, further: float = 0.0) -> float:
    """The load, relative to the line's, at which the planned share misses: its logarithm is level over steepness.

    Beyond what the line promises only as far as was carried: that nothing misses at 0.8 proves little of 1.2. `further`
    is the logarithm of how many times as many replicas as it is known of.
    """
    least, most = REACH
    found = clip(math.exp(-memory.level / steep(memory)), least, clip(BEYOND * memory.carried, 1.0, most))
    return clip(found * _shared(memory, planned, further), least, most)


def _shared(memory: EdgeMemory, planned: float, further: float) -> float:
    """How many times the load each of so many replicas carries."""
    return math.exp(gain(steep(memory), planned) * further / steep(memory))


def doubt(memory: EdgeMemory) -> float:
    """How many times as many may miss on average as at the median of what is believed, at the edge: 7 at first."""
    return math.exp(0.5 * _variance(memory))


def unsure(memory: EdgeMemory) -> float:
    """The standard deviation of log(reach): 0.2 at first, where misses that are e^2 times as many are 20 % of load."""
    return math.sqrt(_variance(memory)) / steep(memory)


def _variance(memory: EdgeMemory) -> float:
    """Of the logarithm of the share that misses at the edge."""
    level, both, _, steeper, _, _ = memory.covariance or _AT_FIRST
    x = math.log(reach(memory))
    return clip(level + x * (2.0 * both + x * steeper), 0.0, LEVEL_DEVIATION**2)


def expected(memory: EdgeMemory, planned: float, load: float) -> float:
    """The share that misses at this load, 0..1, of as many replicas as it is known of."""
    if load <= 0.0:
        return 0.0
    return min(1.0, math.exp(_parts((memory.level, memory.steep, memory.floor), planned, math.log(load))[0]))


def observe(
    memory: EdgeMemory,
    planned: float,
    load: float,
    requests: float,
    missed: float,
    share: float,
    elapsed_s: float,
    further: float = 0.0,
) -> EdgeMemory:
    """After a window in which `missed` of `requests` missed at `load`; it counts as `share` 0..1 of a window.

    `planned` is the share believed at a load of 1; the memory is relative to it. `further` as in `reach`.
    """
    alone = load / _shared(memory, planned, further)
    covariance = _faded(memory.covariance or _AT_FIRST, -math.expm1(-elapsed_s / FORGET_S))
    carried = memory.carried * math.exp(-elapsed_s / FORGET_S)
    if proven(planned, requests, missed):
        carried = max(carried, alone)
    memory = msgspec.structs.replace(memory, covariance=_rounded(covariance), carried=round(carried, 3))
    if load < NO_LOAD or requests < 1.0 or _beyond(memory, planned, alone, missed / requests):
        return memory
    x, seen = math.log(alone), (requests, min(missed, MOST_SHARE * requests), share)
    before = (memory.level, memory.steep, memory.floor)
    ways = [_slopes(before, planned, x)]
    if missed > requests * expected(memory, planned, alone):
        # put down to the edge or, at little load, to the floor, whichever takes less to believe
        by_edge, by_floor = (1.0, x, 0.0), (0.0, 0.0, 1.0)
        full = FLOOR + memory.floor >= MOST_FLOOR - 0.01
        ways = [by_floor] if load < LEAST_LOAD else [by_edge] if full or load > LITTLE else [by_edge, by_floor]
    _, found = min(_settled(before, covariance, way, planned, x, seen) for way in ways)
    slopes = _slopes(found, planned, x)
    gains = _towards(covariance, slopes)
    variance = sum(slope * gain for slope, gain in zip(slopes, gains, strict=True))
    information = share * _information(requests * math.exp(_parts(found, planned, x)[0]))
    shrink = information / (1.0 + information * variance)
    pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
    left = [each - shrink * gains[i] * gains[j] for each, (i, j) in zip(covariance, pairs, strict=True)]
    level, steeper, lowest = (round(each, 4) for each in found)
    return msgspec.structs.replace(memory, level=level, steep=steeper, floor=lowest, covariance=_rounded(left))


def _parts(state: Vector, planned: float, x: float) -> tuple[float, float]:
    """(log of the share that misses at load e^x, the part of it that is the edge's), the share at most 1."""
    edge = math.exp(min(50.0, state[0] + (MISS_EXPONENT + state[1]) * x))
    both = edge + math.exp(min(MOST_FLOOR, FLOOR + state[2]))
    return min(0.0, math.log(planned * both)), edge / both


def _slopes(state: Vector, planned: float, x: float) -> Vector:
    """Of that logarithm, by level, steepness and floor."""
    part = _parts(state, planned, x)[1]
    return part, part * x, 1.0 - part


def _towards(covariance: Sequence[float], slopes: Vector) -> Vector:
    ll, ls, lf, ss, sf, ff = covariance
    a, b, c = slopes
    return ll * a + ls * b + lf * c, ls * a + ss * b + sf * c, lf * a + sf * b + ff * c


def _settled(
    before: Vector, covariance: Sequence[float], slopes: Vector, planned: float, x: float, seen: tuple[float, ...]
) -> tuple[float, Vector]:
    """(what it takes to believe it, the state that explains best both what was believed and what was seen).

    It is looked for by bisection on the way that `slopes` point.
    """
    requests, missed, share = seen
    towards = _towards(covariance, slopes)
    bounds = (-20.0, math.log(0.9 / planned)), (LEAST_STEEP - MISS_EXPONENT, MOST_STEEP - MISS_EXPONENT)
    least, most = _as_long_as_both_move(before, towards, x, bounds)

    def at(step: float) -> Vector:
        step = clip(step, least, most)
        level, steeper, lowest = (start + step * by for start, by in zip(before, towards, strict=True))
        return clip(level, *bounds[0]), clip(steeper, *bounds[1]), clip(lowest, -5.0, MOST_FLOOR - FLOOR)

    def misses(step: float) -> float:
        return requests * math.exp(_parts(at(step), planned, x)[0])

    def pull(step: float) -> float:
        believed = misses(step)
        return share * (missed - believed) / (1.0 + SCATTER * SCATTER * believed) - step

    first = pull(0.0)
    low, high = min(0.0, first), max(0.0, first)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if pull(middle) > 0.0 else (low, middle)
    step = 0.5 * (low + high)
    found, believed = at(step), misses(step)
    unlikely = (missed + 1.0) * math.log1p(believed) - missed * math.log(believed)  # with SCATTER 1
    moved = [now - start for now, start in zip(found, before, strict=True)]
    far = sum(by * by / max(1e-3, covariance[own]) for by, own in zip(moved, (0, 3, 5), strict=True))
    return 0.5 * far + share * unlikely, found


def _as_long_as_both_move(
    before: Vector, towards: Vector, x: float, bounds: tuple[tuple[float, float], tuple[float, float]]
) -> tuple[float, float]:
    """The steps up and down after which one of level and steepness can go no farther, and the other alone would err.

    Together they mean more misses, as when a lower level comes with less steepness; the level alone would mean fewer.
    """
    helps = towards[0] >= 0.0, towards[1] * x >= 0.0
    if all(helps) or not any(helps):
        return -math.inf, math.inf
    own = 0 if helps[0] else 1
    ends = sorted((bound - before[own]) / towards[own] for bound in bounds[own]) if towards[own] else [0.0, 0.0]
    return min(0.0, ends[0]), max(0.0, ends[1])


def _beyond(memory: EdgeMemory, planned: float, load: float, share: float) -> bool:
    """Most are missed where most were expected to be: how far beyond the edge that is says nothing about it."""
    return share >= MOST_SHARE and expected(memory, planned, load) >= MOST_SHARE


def _faded(covariance: Sequence[float], share: float) -> tuple[float, ...]:
    """What is known fades towards what was believed at first."""
    return tuple(known + share * (first - known) for known, first in zip(covariance, _AT_FIRST, strict=True))


def _rounded(covariance: Sequence[float]) -> tuple[float, ...]:
    return tuple([round(each, 5) for each in covariance])


def _information(misses: float) -> float:
    """Of a count on the log scale, negative binomial: 0.5 of one miss, 0.9 of ten."""
    return misses / (1.0 + SCATTER * SCATTER * misses)
