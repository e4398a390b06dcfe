"""The edge of a replica: how many requests miss an objective at a load, learnt from what was seen at every load it had.

    share(u) = level x u^steep      u: the load, relative to what the latency line alone promises

Latency knows means, misses are tails: bursts inside the minute, long prompts among short ones, uneven dispatch. All of
them are in the share that missed in a window, so it is fitted, both how high the edge is and how steep: smooth chat
misses with load^10, bursts of long prompts with load^2, and there one more replica saves less and sooner.

Recursive Bayesian (an extended Kalman filter on the log scale), each window's count of misses negative binomial: those
of a burst come together. Example: 7 in 1000 are believed at u = 1 with load^10; at u = 0.75 40 of 1000 miss where 0.4
were expected: level 0.12, steep 6, and what is carried with 7 in 1000 missing falls to 0.62.
"""

import math

import msgspec

from ebbtide.core.numeric import clip
from ebbtide.model.memory import EdgeMemory

MISS_EXPONENT = 10.0  # is believed at first: of chat on a 70B model it was between 8 and 11
LEVEL_DEVIATION = 2.0  # of log(level): at load^10, 20 % of capacity
STEEP_DEVIATION = 2.0
SCATTER = 1.0  # of log(misses) from window to window at the same load: none counts as more than one such observation
FORGET_S = 12 * 3600.0
LEAST_STEEP, MOST_STEEP = 2.0, 14.0
REACH = (0.05, 2.5)
LEAST_LOAD = 0.02
MOST_SHARE = 0.5
BEYOND = 1.05  # times what was carried
FOLLOW_S = 60.0


def anchored(memory: EdgeMemory, work: float, elapsed_s: float) -> EdgeMemory:
    """Loads are relative to what the latency line promises, `work`, at first; then less and less, as more is seen.

    A line that is learnt anew must not move an edge that was seen itself.
    """
    if memory.work <= 0.0 or memory.level_variance <= 0.0:
        return msgspec.structs.replace(memory, work=round(work, 1))
    unsure = memory.level_variance / LEVEL_DEVIATION**2
    follow = -math.expm1(-(unsure**4) * elapsed_s / FOLLOW_S)
    log = math.log(memory.work) + follow * math.log(max(work, 1e-9) / memory.work)
    return msgspec.structs.replace(memory, work=round(math.exp(log), 1))


def doubted(memory: EdgeMemory, share: float) -> EdgeMemory:
    """With so much of what is known forgotten: an engine that is another than it was has another edge."""
    if share <= 0.0 or memory.level_variance <= 0.0:
        return memory
    return msgspec.structs.replace(
        memory,
        level_variance=memory.level_variance + share * (LEVEL_DEVIATION**2 - memory.level_variance),
        covariance=memory.covariance * (1.0 - share),
        steep_variance=memory.steep_variance + share * (STEEP_DEVIATION**2 - memory.steep_variance),
        level=memory.level * (1.0 - share),
        steep=memory.steep * (1.0 - share),
        carried=memory.carried * (1.0 - share),
    )


def steep(memory: EdgeMemory) -> float:
    """The exponent of misses."""
    return clip(MISS_EXPONENT + memory.steep, LEAST_STEEP, MOST_STEEP)


def reach(memory: EdgeMemory) -> float:
    """The load, relative to the line's, at which the planned share misses: its logarithm is level over steepness.

    Beyond what the line promises only as far as was carried: that nothing misses at 0.8 proves little of 1.2.
    """
    least, most = REACH
    return clip(math.exp(-memory.level / steep(memory)), least, clip(BEYOND * memory.carried, 1.0, most))


def doubt(memory: EdgeMemory) -> float:
    """How many times as many may miss on average as at the median of what is believed: 7 before anything was seen."""
    return math.exp(0.5 * (memory.level_variance or LEVEL_DEVIATION**2))


def expected(memory: EdgeMemory, planned: float, load: float) -> float:
    """The share that misses at this load, 0..1."""
    if load <= 0.0:
        return 0.0
    return min(1.0, planned * math.exp(memory.level + steep(memory) * math.log(load)))


def observe(
    memory: EdgeMemory, planned: float, load: float, requests: float, missed: float, share: float, elapsed_s: float
) -> EdgeMemory:
    """After a window in which `missed` of `requests` missed at `load`; it counts as `share` 0..1 of a window.

    `planned` is the share believed at a load of 1; the memory is relative to it.
    """
    ll, ls, ss = _widened(memory, elapsed_s)
    carried = memory.carried * math.exp(-elapsed_s / FORGET_S)
    if missed <= planned * requests and planned * requests >= 1.0:
        carried = max(carried, load)
    carried = round(carried, 3)
    if load < LEAST_LOAD or requests < 1.0 or _beyond(memory, planned, load, missed / requests):
        return EdgeMemory(memory.work, memory.level, memory.steep, ll, ls, ss, carried, memory.queued)
    x = math.log(load)
    gain_level, gain_steep = ll + ls * x, ls + ss * x
    variance = gain_level + gain_steep * x
    before = math.log(planned) + memory.level + steep(memory) * x
    after = _settled(before, variance, requests, min(missed, MOST_SHARE * requests), share)
    moved = (after - before) / variance
    steeper = clip(MISS_EXPONENT + memory.steep + gain_steep * moved, LEAST_STEEP, MOST_STEEP)
    # what is not as flat or steep as that is higher or lower: misses at half a load are at least as many at a whole one
    level = after - math.log(planned) - steeper * x
    information = share * _information(requests * math.exp(min(0.0, after)))
    shrink = information / (1.0 + information * variance)
    return EdgeMemory(
        work=memory.work,
        level=round(clip(level, -20.0, math.log(0.9 / planned)), 4),
        steep=round(steeper - MISS_EXPONENT, 4),
        level_variance=round(ll - shrink * gain_level * gain_level, 5),
        covariance=round(ls - shrink * gain_level * gain_steep, 5),
        steep_variance=round(max(1e-3, ss - shrink * gain_steep * gain_steep), 5),
        carried=carried,
        queued=memory.queued,
    )


def _beyond(memory: EdgeMemory, planned: float, load: float, share: float) -> bool:
    """Most are missed where most were expected to be: how far beyond the edge that is says nothing about it."""
    return share >= MOST_SHARE and expected(memory, planned, load) >= MOST_SHARE


def _widened(memory: EdgeMemory, elapsed_s: float) -> tuple[float, float, float]:
    """What is known fades towards what was believed at first; before anything was seen it is that."""
    most_level, most_steep = LEVEL_DEVIATION**2, STEEP_DEVIATION**2
    if memory.level_variance <= 0.0:
        return most_level, 0.0, most_steep
    fade = -math.expm1(-elapsed_s / FORGET_S)
    return (
        memory.level_variance + fade * (most_level - memory.level_variance),
        memory.covariance * (1.0 - fade),
        memory.steep_variance + fade * (most_steep - memory.steep_variance),
    )


def _information(misses: float) -> float:
    """Of a count on the log scale, negative binomial: 0.5 of one miss, 0.9 of ten."""
    return misses / (1.0 + SCATTER * SCATTER * misses)


def _settled(before: float, variance: float, requests: float, missed: float, share: float) -> float:
    """The log share of misses that explains best both what was believed and what was seen, by bisection."""

    def pull(eta: float) -> float:
        misses = requests * math.exp(min(0.0, eta))
        return eta - before - variance * share * (missed - misses) / (1.0 + SCATTER * SCATTER * misses)

    low = high = before
    if pull(before) > 0.0:
        low = before - 8.0
    else:
        high = max(before, math.log(max(missed, 1e-6) / requests)) + 1e-6
    for _ in range(24):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if pull(middle) > 0.0 else (middle, high)
    return 0.5 * (low + high)
