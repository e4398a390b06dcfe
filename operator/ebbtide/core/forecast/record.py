"""One horizon's record: who foresaw it best, how far the blend was off, and how often the load jumped instead.

Candidates are weighted by their scores (Bayesian model averaging with Laplace errors, each horizon counted once): by
how many tokens/s they were off, for those are what is missed or paid for nothing. After a leap that no candidate
foresaw, what was learnt about them before counts less for about a horizon: another regime may have another leader.
What remains is kept as a histogram of log errors. A rise that no such error explains came by a jump: to one of the
higher loads that were seen before. How likely a jump is follows from how much better it explains what came (one step of
expectation-maximisation for each score), and from how often there was somewhere to jump to.
"""

import functools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ebbtide.core.forecast import volume
from ebbtide.core.forecast.spread import ERRORS, FLOOR, LOADS, Misses, Spread, stretched
from ebbtide.core.numeric import clip, significant
from ebbtide.model.memory import ForecastMemory, TrackMemory

LEVEL = 0  # the candidate that is what there was
NAMES = (
    "level",
    "level 3 min",
    "level 9 min",
    "level 27 min",
    "level since a change",
    "trend",
    "growth",
    "yesterday",
    "last week",
)
# Beliefs before any score. The slope is shrunk by its own error already, so a clear ramp may be believed at once.
BELIEFS = (0.1, 0.05, 0.05, 0.05, 0.1, 0.25, 0.25, 0.075, 0.075)
PER_HORIZON = 8  # predictions made in one horizon, at most: errors of those that overlap are one error
LOSS_FLOOR = 1.0  # tokens/s: to be off by less is no worse than to be right
# After 6 h of being off by 500 one in front by 12,000 in all leads by e^24. When all are off by 10,000 at once, by 4.
UNFORESEEN, BY_CHANCE = 1.0, 3.0
NOTHING = 1e-6  # tokens/s: what is left of a logarithm's rounding
MEMORY_S = 6 * 3600.0
PRIOR_SIGMA, LEAST_SIGMA, PRIOR_COUNT = (
    0.35,
    0.05,
    4.0,
)  # a forecaster without a record is doubted; soon only the record speaks
JUMPS, JUMPS_WITHIN_S, JUMP_COUNT = 0.004, 60.0, 20.0  # one in 250 minutes to begin with
MOST_JUMPS = 0.9
SMOOTH = 0.03  # of jumps go anywhere: to loads never seen before. They teach neither where to nor what errors are
_DUE = struct.Struct("<d")
_OPEN = struct.Struct(f"<d{len(NAMES) + 1}f")


@functools.lru_cache(maxsize=64)
def _bell(sigma: float) -> list[float]:
    """Log errors as they are believed before any was seen: a normal distribution of this width."""
    heights = [math.exp(-0.5 * ((ERRORS.first + ERRORS.step * i) / sigma) ** 2) for i in range(ERRORS.count)]
    return [height / sum(heights) for height in heights]


PRIOR = _bell(PRIOR_SIGMA)


Row = tuple[float, ...]  # second that it is due, what the blend said, what each candidate said


@dataclass(slots=True)
class Track:
    """The record of one horizon, unpacked."""

    losses: list[float]
    scored: float
    errors: list[float]
    counted: float
    exposed: float
    jumped: float
    unforeseen: float
    typical: float
    volume: list[float]

    @property
    def jumps(self) -> float:
        """The chance that the load is not where forecasts leave it but where it was some time, if that is higher."""
        return min(MOST_JUMPS, (self.jumped + JUMPS * JUMP_COUNT) / (self.exposed + JUMP_COUNT))

    @property
    def jumps_seen(self) -> float:
        """The part of that chance that was seen, 0 before any jump."""
        return min(MOST_JUMPS, self.jumped / (self.exposed + JUMP_COUNT))


def tracks_of(memory: ForecastMemory, horizons: int) -> tuple[TrackMemory, ...]:
    """The record of each horizon; empty ones for what another release kept."""
    return memory.tracks if len(memory.tracks) == horizons else (TrackMemory(),) * horizons


def open_track(memory: TrackMemory) -> Track:
    """The record of `memory`; an empty one for what another release kept."""
    known = len(memory.losses) == len(NAMES)
    losses = list(memory.losses) if known else [0.0] * len(NAMES)
    scored = memory.scored if known else 0.0
    errors = ERRORS.unpack(memory.errors)
    sums = list(memory.volume) if len(memory.volume) == volume.SUMS else [0.0] * volume.SUMS
    jumps = memory.counted, memory.exposed, memory.jumped, memory.unforeseen
    return Track(losses, scored, errors, *jumps, memory.typical, sums)


def weights(track: Track) -> list[float]:
    """Each candidate's share: its belief, times how likely its errors are beside the best one's."""
    if track.scored <= 0.0:
        return list(BELIEFS)
    least = min(track.losses)
    usual = least / track.scored + LOSS_FLOOR
    scale = usual + UNFORESEEN * max(0.0, track.unforeseen - BY_CHANCE * usual)
    shares = [belief * math.exp((least - loss) / scale) for belief, loss in zip(BELIEFS, track.losses, strict=True)]
    total = sum(shares)
    return [share / total for share in shares]


def blend(shares: Sequence[float], said: Sequence[float]) -> float:
    """What all candidates say together: their weighted geometric mean, tokens/s."""
    log = sum(share * math.log(value + FLOOR) for share, value in zip(shares, said, strict=True) if share > 1e-6)
    total = sum(share for share in shares if share > 1e-6)
    blended = math.exp(log / total) - FLOOR
    return blended if blended > NOTHING else 0.0


def around(track: Track, misses: Misses, said: float, sigma: float = PRIOR_SIGMA) -> Spread:
    """The spread of load / forecast where `said` tokens/s are forecast.

    With what is believed before errors were seen: that they are about `sigma`.
    """
    by = _stretch(track, said)
    doubt, prior = _doubt(track), _bell(round(clip(sigma, LEAST_SIGMA, PRIOR_SIGMA) / by, 2))
    weights = [seen + doubt * belief for seen, belief in zip(track.errors, prior, strict=True)]
    return Spread(stretched(by), weights, misses)


def _stretch(track: Track, said: float) -> float:
    return volume.stretch(volume.ratio(track.volume), said + FLOOR, track.typical)


def deviation(track: Track, said: float) -> float:
    """Of its log errors around none where `said` tokens/s are forecast, with what is believed before any was seen."""
    doubt = _doubt(track)
    weight = sum(track.errors) + doubt
    squares = sum(seen * (ERRORS.first + ERRORS.step * i) ** 2 for i, seen in enumerate(track.errors))
    by = _stretch(track, said)
    return math.sqrt((by * by * squares + doubt * PRIOR_SIGMA**2) / weight)


def _doubt(track: Track) -> float:
    """The weight of the first belief, in independent errors: 4 before any, 0.4 after nine, 0.01 after a day of them."""
    return PRIOR_COUNT / (1.0 + track.counted / PRIOR_COUNT) ** 2


def any_due(memory: TrackMemory, now_s: float, horizon_s: float) -> bool:
    """Whether there is anything for `due` to do: the oldest is due, or the newest is of another horizon or clock."""
    if len(memory.open) < _OPEN.size:
        return False
    newest = len(memory.open) // _OPEN.size * _OPEN.size - _OPEN.size
    (first_s,), (last_s,) = _DUE.unpack_from(memory.open), _DUE.unpack_from(memory.open, newest)
    return bool(first_s <= now_s or last_s > now_s + horizon_s + 1.0)


def is_due(memory: TrackMemory, due_at: float, period_s: float) -> bool:
    """Whether a prediction for `due_at` is to be made: half a period after the last one at the earliest."""
    newest = len(memory.open) // _OPEN.size * _OPEN.size - _OPEN.size
    return newest < 0 or due_at - _DUE.unpack_from(memory.open, newest)[0] >= 0.5 * period_s


def due(memory: TrackMemory, now_s: float, horizon_s: float, cycle_s: float) -> tuple[list[Row], bytes]:
    """(predictions that are due, those that are not).

    What came due during a long gap says nothing about that moment and is dropped; so is what was made for a longer
    horizon, or by a clock that was set back since.
    """
    size = len(memory.open) - len(memory.open) % _OPEN.size
    ripe, first = [], 0
    for offset in range(0, size, _OPEN.size):
        row = _OPEN.unpack_from(memory.open, offset)
        if row[0] > now_s + horizon_s + 1.0:
            return [], b""
        if row[0] <= now_s:
            first = offset + _OPEN.size
            if now_s - max(0.5 * horizon_s, cycle_s) < row[0]:
                ripe.append(row)
    return ripe, memory.open[first:size]


def predict(due_at: float, blended: float, said: Sequence[float]) -> bytes:
    """One prediction, packed; it goes to the end of those that are open."""
    return _OPEN.pack(due_at, blended, *said)


def score(track: Track, row: Row, load: float, loads: Sequence[float], horizon_s: float, period_s: float) -> None:
    """Take in what came of one prediction. Each counts as the part of a horizon since the last."""
    weight = min(1.0, period_s / horizon_s)
    error = math.log(load + FLOOR) - math.log(row[1] + FLOOR)
    keep = math.exp(-horizon_s * weight / MEMORY_S)
    off = [abs(load - said) for said in row[2:]]
    track.losses = [loss * keep + weight * by for loss, by in zip(track.losses, off, strict=True)]
    track.unforeseen = max(track.unforeseen * math.exp(-weight), min(off))
    track.scored = track.scored * keep + weight
    above = _above(loads, row[1])
    jump = new = 0.0
    if load > row[2 + LEVEL] and error > 0.0:  # what is below the level then is no rise, but a fall that was overrated
        near, back, anywhere = _ways(track, row[1], load, loads, horizon_s)
        if near < back + anywhere:
            near = 0.0  # wholly: the next error of the same leap would find a little of this one, and look usual
        ways = near + back + anywhere
        jump, new = (back / ways, anywhere / ways) if ways > 0.0 else (0.0, 1.0)
    track.errors = [weight * keep for weight in track.errors]
    _at_typical_volume(track, row[1] + FLOOR, keep, weight)
    usual = weight * (1.0 - jump - new)
    ERRORS.add(track.errors, error / _stretch(track, row[1]), usual)
    track.volume = volume.learn(track.volume, row[1] + FLOOR, error, usual, horizon_s * weight)
    track.counted = track.counted * keep + weight
    track.exposed = track.exposed * keep + weight * above
    track.jumped = track.jumped * keep + weight * jump


def leapt(track: Track, said: float, load: float, loads: Sequence[float], horizon_s: float) -> bool:
    """Whether `load` tokens/s where `said` were forecast are likelier a jump than an error like others before."""
    near, back, anywhere = _ways(track, said, load, loads, horizon_s)
    return load > said and near < back + anywhere


def _ways(
    track: Track, said: float, load: float, loads: Sequence[float], horizon_s: float
) -> tuple[float, float, float]:
    """How well such a load is explained: by an error of the forecast, a jump to a load seen before, one anywhere."""
    truth, total, above = math.log(load + FLOOR), sum(loads), _above(loads, said)
    error, by, doubt = truth - math.log(said + FLOOR), _stretch(track, said), _doubt(track)
    near = ERRORS.density(track.errors, error / by) / by + doubt * ERRORS.density(PRIOR, error)
    near *= (1.0 - track.jumps * above) / max(1e-9, track.counted - track.jumped + doubt) / ERRORS.step
    least = LOADS.next_above(math.log(said + FLOOR))
    back = (1.0 - SMOOTH) * LOADS.density(loads, truth, least) / total if above > 0.0 else 0.0
    # a minute brings a leap that nobody knows once in 250, five minutes once in 50: few errors of theirs are no reason
    # to take the first leap for one more of them, and to hold fleets for another
    jumps = max(track.jumps, -math.expm1(-JUMPS * horizon_s / JUMPS_WITHIN_S))
    return near, back * track.jumps / LOADS.step, SMOOTH / LOADS.count * jumps / LOADS.step


def _above(loads: Sequence[float], said: float) -> float:
    """The share of the loads seen before that is above a forecast."""
    total = sum(loads)
    return sum(loads[LOADS.next_above(math.log(said + FLOOR)) :]) / total if total > 0.0 else 0.0


def _at_typical_volume(track: Track, said: float, keep: float, weight: float) -> None:
    """Where forecasts have moved to another volume, the errors that are kept are brought there."""
    track.volume[-1] = track.volume[-1] * keep + weight * math.log(said)
    mean = track.volume[-1] / (track.counted * keep + weight)
    if track.typical <= 0.0:
        track.typical = said
    elif abs(mean - math.log(track.typical)) > volume.APART:
        there = math.exp(mean)
        by = volume.stretch(volume.ratio(track.volume), there, track.typical)
        track.typical = there
        if by != 1.0:
            moved = [0.0] * ERRORS.count
            for i, held in enumerate(track.errors):
                ERRORS.add(moved, by * (ERRORS.first + ERRORS.step * i), held)
            track.errors = moved


def close_track(track: Track, still_open: bytes) -> TrackMemory:
    """What is remembered of it."""
    return TrackMemory(
        open=still_open,
        losses=tuple(round(loss, 1) for loss in track.losses),
        scored=round(track.scored, 3),
        errors=ERRORS.pack(track.errors),
        counted=round(track.counted, 3),
        exposed=round(track.exposed, 4),
        jumped=round(track.jumped, 4),
        unforeseen=round(track.unforeseen, 1),
        typical=significant(track.typical),
        volume=tuple([float(f"{each:.6g}") for each in track.volume]),
    )
