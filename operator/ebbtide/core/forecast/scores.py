"""The range that is shown for the main horizon, how it learns from its own errors, and how good it was.

The distribution says where 95 % lie; whether they do is checked on what comes. Each end of the range is moved until
2.5 % come beyond it, whatever the traffic (adaptive conformal inference, Gibbs and Candes 2021): an error beyond it
widens it at once by more than 39 inside narrow it. First another quantile is asked for; where the distribution has
nothing left to give, the range itself is stretched or drawn together. Nothing is decided by it: fleets are weighed by
the distribution, of which the ends of a range say little.
"""

import math
import struct
from collections.abc import Sequence

import msgspec

from ebbtide.core.forecast.outlook import RANGE, Horizon, Outlook
from ebbtide.core.forecast.spread import FLOOR
from ebbtide.core.numeric import clip, significant
from ebbtide.model.memory import ScoreMemory
from ebbtide.model.plan import Score

STEP = 0.5  # of the logarithm of a range's end, for one independent error
MOST_ASKED, LEAST_ASKED = math.log(16.0), math.log(10.0)  # times as much or less than 2.5 %: 40 % to 0.25 %
NARROWEST, WIDEST = -5.0, 6.0
LEAST_WIDTH = 0.002  # in the logarithm: what never errs would shrink to nothing, and could not grow any more
MEMORY_S = 86_400.0
_CLAIM = struct.Struct("<d4f")  # second that it is due, low, median, high and mean in tokens/s


def range_of(outlook: Outlook, memory: ScoreMemory) -> tuple[float, float, float]:
    """(low, median, high) in tokens/s: 95 % are expected between the ends.

    More than was to be expected now may be noise or what comes from now on: the range covers both.
    """
    low, middle, high = _ends(outlook.main, memory)
    if outlook.if_noise is not outlook.main:
        least, fewer, _ = _ends(outlook.if_noise, memory)
        low, middle = min(low, least), 0.5 * (middle + fewer)
    return _tokens(low), _tokens(middle), _tokens(high)


def _ends(horizon: Horizon, memory: ScoreMemory) -> tuple[float, float, float]:
    """Logarithms of (low, median, high)."""
    asked_low, asked_high = _asked(memory.low_by), _asked(memory.high_by)
    low, middle = horizon.at(RANGE * math.exp(-asked_low)), horizon.at(0.5)
    high = horizon.at(1.0 - RANGE * math.exp(-asked_high))
    low = middle - max(LEAST_WIDTH, middle - low) * math.exp(memory.low_by - asked_low)
    high = middle + max(LEAST_WIDTH, high - middle) * math.exp(memory.high_by - asked_high)
    return low, middle, high


def claim(memory: ScoreMemory, horizon: Horizon, ends: Sequence[float], now_s: float, period_s: float) -> ScoreMemory:
    """With a range to be judged when it is due, half a period after the last one at the earliest."""
    due_at = now_s + horizon.ahead_s
    if memory.claims and due_at - _CLAIM.unpack_from(memory.claims, len(memory.claims) - _CLAIM.size)[0] < (
        0.5 * period_s
    ):
        return memory
    packed = _CLAIM.pack(due_at, *ends, horizon.expected_tokens)
    return msgspec.structs.replace(memory, claims=memory.claims + packed)


def judge(
    memory: ScoreMemory, load: float, now_s: float, *, horizon_s: float, period_s: float, cycle_s: float
) -> ScoreMemory:
    """Take in what came of the claims that are due. Each counts as the part of a horizon since the last.

    What came due during a long gap is dropped, and so is what was made by a clock that was set back since.
    """
    if len(memory.claims) % _CLAIM.size:
        return ScoreMemory()  # another release's
    first = 0
    for claimed in _CLAIM.iter_unpack(memory.claims):
        if claimed[0] > now_s + horizon_s + 1.0:
            return msgspec.structs.replace(memory, claims=b"")
        if claimed[0] > now_s:
            break
        first += _CLAIM.size
        if now_s - claimed[0] < max(0.5 * horizon_s, cycle_s):
            memory = _judged(memory, claimed, load, min(1.0, period_s / horizon_s), horizon_s)
    return msgspec.structs.replace(memory, claims=memory.claims[first:]) if first else memory


def of(memory: ScoreMemory) -> Score | None:
    """The score as status shows it; None before anything came."""
    if memory.counted <= 0.0 or memory.came <= 0.0:
        return None
    losses = (memory.low_loss, memory.middle_loss, memory.high_loss)
    low, middle, high = [round(loss / memory.came, 4) for loss in losses]
    inside = 1.0 - (memory.below + memory.above) / memory.counted
    return Score(
        errors=round(memory.counted, 1),
        coverage=round(clip(inside, 0.0, 1.0), 4),
        bias=round(memory.expected / memory.came, 4),
        pinball=(low, middle, high),
    )


def _judged(
    memory: ScoreMemory, claimed: tuple[float, ...], load: float, weight: float, horizon_s: float
) -> ScoreMemory:
    _, low, middle, high, expected = claimed
    below, above = load < low, load > high
    keep = math.exp(-horizon_s * weight / MEMORY_S)
    return ScoreMemory(
        claims=memory.claims,
        low_by=round(clip(memory.low_by + STEP * weight * (below - RANGE), NARROWEST, WIDEST), 4),
        high_by=round(clip(memory.high_by + STEP * weight * (above - RANGE), NARROWEST, WIDEST), 4),
        counted=round(memory.counted * keep + weight, 3),
        came=significant(memory.came * keep + weight * load),
        expected=significant(memory.expected * keep + weight * expected),
        below=round(memory.below * keep + weight * below, 3),
        above=round(memory.above * keep + weight * above, 3),
        low_loss=significant(memory.low_loss * keep + weight * pinball(RANGE, low, load)),
        middle_loss=significant(memory.middle_loss * keep + weight * pinball(0.5, middle, load)),
        high_loss=significant(memory.high_loss * keep + weight * pinball(1.0 - RANGE, high, load)),
    )


def pinball(share: float, said: float, came: float) -> float:
    """The loss of a quantile: at 0.975, 10 too low costs 9.75 and 10 too high 0.25."""
    return (share if came >= said else share - 1.0) * (came - said)


def _asked(by: float) -> float:
    return clip(by, -MOST_ASKED, LEAST_ASKED)


def _tokens(log: float) -> float:
    return max(0.0, math.exp(min(log, 40.0)) - FLOOR)
