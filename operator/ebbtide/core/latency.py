"""The latency line of a replica: seconds from token to token = a + d x N x cache + p x N x prompts.

N is the mean number in the batch; `cache` the KV cache that a request has in it, and `prompts` the prompt tokens that
its peers bring in for each token put out, both relative to the reference lengths. With chunked prefill each prompt
token lengthens the iteration that it shares: y = a + d N + p' y r at r prompt tokens/s, and y = N / (output tokens/s),
so that y r = N x prompt tokens/s over output tokens/s. Of one vLLM on a CPU, y went from 21 to 50 ms at the same N of
11, because prompts became 3.5 times as long: a line through N alone is off by 10 ms there, this one by 3.

Fitted by least squares with the prior as three points; pure arithmetic on decayed sums.
"""

import math
from dataclasses import dataclass

from ebbtide.core import priors
from ebbtide.core.numeric import clip, significant
from ebbtide.model.memory import LineMemory

PRIOR_POINTS = 4.0  # the weight of the prior's level, in cycles of observation of one pod
FIT_TAU_S = 1800.0  # memory of the line, and below while it is off by more than a quarter
SURPRISED_TAU_S, SURPRISE = 30.0, math.log(1.25)
FAR_POINTS = 1.0  # the same of its slopes: from far out they weigh as its square
KNEES = 3.0  # as many times as many in the batch as double the latency: the farthest that the prior speaks of
_DIGITS = 7  # of a second: what is rounded off each cycle adds up over half an hour of cycles
_LEAST, _MOST = 0.1, 10.0  # times the prior: beyond it a fit is taken for garbage


@dataclass(frozen=True, slots=True)
class LatencyLine:
    """Seconds: of an iteration without load, and what one more request in the batch adds at the reference lengths."""

    a_s: float
    decode_s: float
    prefill_s: float

    def at(self, n: float, v: float) -> float:
        """Seconds from token to token with `n` (N x cache) and `v` (N x prompts) in the batch."""
        return self.a_s + self.decode_s * n + self.prefill_s * v

    def slope_s(self, input_tokens: float, output_tokens: float) -> float:
        """What one more request in the batch adds to each of its peers' tokens at these mean lengths, s."""
        return self.slope(*priors.shares(input_tokens, output_tokens))

    def slope(self, cache: float, prompts: float) -> float:
        """The same of the two parts of the lengths, s."""
        return self.decode_s * cache + self.prefill_s * prompts


def believed(a_s: float, b_s: float) -> LatencyLine:
    """A prior of ITL = a + b x N at the reference lengths."""
    return LatencyLine(a_s, (1.0 - priors.PREFILL_SHARE) * b_s, priors.PREFILL_SHARE * b_s)


def remembered(memory: LineMemory, expected: LatencyLine, elapsed_s: float, n: float, v: float, y_s: float) -> float:
    """What is kept of the past at the sight of this latency: less of it while the line is off by more than noise.

    An update, another GPU or a new kind of load: at 8 ms where 16 are expected the past fades within half a minute
    instead of half an hour, so that what is learnt is not a line from one engine to the other. An odd reading in a
    cycle of 10 s costs a quarter of what was known.
    """
    off = abs(math.log(max(y_s, 1e-6) / expected.at(n, v))) if memory.weight >= PRIOR_POINTS else 0.0
    return math.exp(-elapsed_s / (SURPRISED_TAU_S if off > SURPRISE else FIT_TAU_S))


def forgotten(before: LineMemory, after: LineMemory) -> float:
    """The share 0..1 of what was known that this cycle forgot because the engine turned out to be another."""
    if before.weight < PRIOR_POINTS:
        return 0.0
    lost = 1.0 - after.weight / before.weight
    return clip(lost, 0.0, 1.0) if lost > 0.0 else 0.0


def observe(memory: LineMemory, keep: float, count: float, n: float, v: float, y_s: float) -> LineMemory:
    """The decayed sums after `count` observations of one latency at `n` (N x cache) and `v` (N x prompts)."""
    return LineMemory(
        weight=significant(keep * memory.weight + count),
        n=significant(keep * memory.n + count * n),
        v=significant(keep * memory.v + count * v),
        y=round(keep * memory.y + count * y_s, _DIGITS),
        nn=significant(keep * memory.nn + count * n * n),
        nv=significant(keep * memory.nv + count * n * v),
        vv=significant(keep * memory.vv + count * v * v),
        ny=round(keep * memory.ny + count * n * y_s, _DIGITS),
        vy=round(keep * memory.vy + count * v * y_s, _DIGITS),
    )


def fit(memory: LineMemory, prior: LatencyLine, itl_s: float) -> LatencyLine:
    """The line through what was seen and the prior; where one kind of load was seen, the prior's shape at its level.

    The prior has a point near the origin and one far out on each axis, where latency reaches the objective `itl_s`, but
    no nearer than twice what was seen: an engine watched with 1 to 5 in its batch says little about 60.
    """
    weight = memory.weight
    if weight <= 0.0 or memory.n + memory.v <= 0.0:
        return prior
    mean_n, mean_v, mean_y = memory.n / weight, memory.v / weight, memory.y / weight
    level = weight / (weight + PRIOR_POINTS)
    scale = clip(mean_y / prior.at(mean_n, mean_v), 0.05, 20.0) ** level
    a_s, d_s, p_s = prior.a_s * scale, prior.decode_s * scale, prior.prefill_s * scale
    b_s = d_s + p_s
    far = min(max(0.0, itl_s - a_s) / b_s, KNEES * a_s / b_s)
    far_n, far_v = max(2.0 * mean_n, far), max(2.0 * mean_v, far)
    w, sn, sv, sy = memory.weight, memory.n, memory.v, memory.y
    snn, snv, svv, sny, svy = memory.nn, memory.nv, memory.vv, memory.ny, memory.vy
    for count, n, v in ((1.0, 1.0, 1.0), (FAR_POINTS, far_n, 0.0), (FAR_POINTS, 0.0, far_v)):
        y_s = count * (a_s + d_s * n + p_s * v)
        w, sn, sv, sy = w + count, sn + count * n, sv + count * v, sy + y_s
        snn, snv, svv = snn + count * n * n, snv + count * n * v, svv + count * v * v
        sny, svy = sny + n * y_s, svy + v * y_s
    return _through(LineMemory(w, sn, sv, sy, snn, snv, svv, sny, svy), a_s, d_s, p_s)


def _through(sums: LineMemory, a_s: float, d_s: float, p_s: float) -> LatencyLine:
    """Least squares on centred sums, each coefficient within a decade of the prior's at the level that was seen."""
    weight = sums.weight
    nn, vv = sums.nn - sums.n * sums.n / weight, sums.vv - sums.v * sums.v / weight
    nv = sums.nv - sums.n * sums.v / weight
    ny, vy = sums.ny - sums.n * sums.y / weight, sums.vy - sums.v * sums.y / weight
    # the prior's three points are no line, so the determinant is above 0
    p_found = clip((nn * vy - nv * ny) / (nn * vv - nv * nv), _LEAST * p_s, _MOST * p_s)
    d_found = clip((ny - p_found * nv) / nn, _LEAST * d_s, _MOST * d_s)
    p_found = clip((vy - d_found * nv) / vv, _LEAST * p_s, _MOST * p_s)
    a_found = (sums.y - d_found * sums.n - p_found * sums.v) / weight
    return LatencyLine(clip(a_found, 0.2 * a_s, 5.0 * a_s), d_found, p_found)
