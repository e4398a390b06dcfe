"""What services will want to spend: learnt by the hour of the week, with its range and its record.

Noted is what all would cost an hour without the policy, so that holding back is not taken for a want of demand.

    rate(h)     of the same hour of the week; else of the newest day that has this hour; else the mean of what was seen,
                on the first half day what is wanted now
    expected    spent + sum of rate(h)
    low, high   spent + sum of rate(h) x exp(-+1.28 s),  s the mean error of a day's forecast, as a logarithm
    held        spent + the sum over days of min(sum of min(rate(h), ceiling of an hour), ceiling of a day), at most
                the ceiling; nowhere less than what may not be reduced. 12 an hour wanted under 200 a day and 5,000 a
                month: 288 a day would be 8,640, the days' ceilings make 6,000 of it, the month's 5,000

An hour that costs more than a week before moves all hours by a twelfth of that (the level of Holt and Winters'
multiplicative method), so that a step of demand is in all of them within a day or two. A day's error is taken to last
for the period: days of one month err alike. Hours are of UTC, so that a shape is learnt anew for some days where clocks
change. The same is learnt of each priority, for `pacing`.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from ebbtide.core.ceilings import pacing
from ebbtide.model.memory import ClassMemory, OutlookMemory, PolicyMemory
from ebbtide.model.spec import CeilingKind

_HOUR_S, _DAY_S, _WEEK_H = 3600, 86_400.0, 168
_PACKED = struct.Struct(f"<{_WEEK_H}f")
_UNKNOWN = -1.0
_NEW = 0.3  # of an hour of the week that was seen before, how much the newest counts
_FOLLOWS_H = 12.0  # hours in which the level of all hours follows those that are dearer or cheaper than expected
_SEEN_S = 600.0  # of an hour, to be taken for all of it
GAP_S = 300.0  # longer ones between two cycles are nobody's demand
_TENTH = 1.2816  # standard deviations to the tenth part of a normal distribution
_DOUBT, _DOUBTS = 0.2, 2.0  # the error that is expected before any was seen, and for how many days it counts
_FADES = 0.8  # a day's error, per day
_DAYS = 30
_MOST = 1.0  # an error that is counted, as a logarithm: of a day nearly three times as dear, or a third
_CLASSES = 8  # priorities of which each is learnt by itself: 0.7 KB each
_HALF_A_DAY = 12  # hours that must be known before their mean says more of the others than what is wanted now


Classes = Mapping[int, tuple[float, float]]
"""By priority: what is wanted, and what of that may not be reduced, as cost an hour."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The other ceilings: cost an hour; what is left of this day, when it ends, and what a day may cost."""

    per_hour: float = math.inf
    day_left: float = math.inf
    day_end_s: float = math.inf
    per_day: float = math.inf


def note(
    memory: PolicyMemory, wanted_per_hour: float, now_s: float, gap_s: float = GAP_S, classes: Classes | None = None
) -> PolicyMemory:
    """With what is wanted at `now_s`, as cost an hour, since the last note; a gap over `gap_s` counts for nothing.

    `classes` are its parts by priority.
    """
    passed_s = now_s - memory.at
    if not memory.at or not 0 <= passed_s <= gap_s:
        first = {} if memory.at else {"level": wanted_per_hour}
        memory, passed_s = replace(memory, at=now_s, **first), 0.0
    memory = _said(_closed(memory, int(now_s) // _HOUR_S), now_s)
    known = {each.priority: each for each in memory.classes}
    parts = _few(classes or {})
    return replace(
        memory,
        at=now_s,
        slot_cost=memory.slot_cost + wanted_per_hour * passed_s,
        slot_s=memory.slot_s + passed_s,
        level=memory.level + (wanted_per_hour - memory.level) * min(1.0, passed_s / _HOUR_S),
        since_cost=memory.since_cost + wanted_per_hour * passed_s,
        since_s=memory.since_s + passed_s,
        classes=tuple(
            _part(known.get(priority) or ClassMemory(priority, level=wanted), wanted, floor, passed_s)
            for priority, (wanted, floor) in sorted(parts.items(), reverse=True)
        ),
    )


def _part(before: ClassMemory, wanted: float, floor: float, passed_s: float) -> ClassMemory:
    return ClassMemory(
        before.priority,
        before.rates,
        before.slot_cost + wanted * passed_s,
        before.level + (wanted - before.level) * min(1.0, passed_s / _HOUR_S),
        floor,
    )


def _few(classes: Classes) -> Classes:
    """The lowest priorities one by one, for money ends among them; all above together."""
    if len(classes) <= _CLASSES:
        return classes
    lower = sorted(classes)[: _CLASSES - 1]
    upper = [priority for priority in classes if priority > lower[-1]]
    together = sum(classes[each][0] for each in upper), sum(classes[each][1] for each in upper)
    return {**{priority: classes[priority] for priority in lower}, min(upper): together}


def every_s(memory: PolicyMemory, left_s: float) -> float:
    """How often outlooks are worked out anew while the nearest period has `left_s`: once in a hundredth of that.

    Between a minute and ten, and each minute before a day was seen to its end.
    """
    return min(600.0, max(60.0, left_s / 100)) if memory.errors else 60.0


def outlook(
    memory: PolicyMemory,
    kind: CeilingKind,
    span_s: tuple[float, float],
    spent: float,
    ceiling: float,
    now_s: float,
    limits: Limits | None = None,
) -> OutlookMemory:
    """Of the period [start, end) with `spent` so far. Where nothing was noted yet what is left is spread evenly."""
    start_s, end_s = span_s
    left = ceiling - spent
    if not memory.at:
        even = max(0.0, left) * _HOUR_S / max(1.0, end_s - now_s)
        allowed = even if kind is CeilingKind.DAY else pacing.NOT
        return OutlookMemory(kind, start_s, ceiling, spent, spent, spent, 0.0, allowed, held=spent)
    hours = _ahead(memory, memory, now_s, end_s)
    more = sum(seconds * rate for seconds, rate in hours) / _HOUR_S
    factor = math.exp(_TENTH * error(memory))
    paces: pacing.Paces = pacing.NOT, ()
    if kind is CeilingKind.DAY or not is_young(memory):
        classes = [
            pacing.Wanted(each.priority, _ahead(each, memory, now_s, end_s), each.floor) for each in memory.classes
        ]
        paces = pacing.paced(classes or [pacing.Wanted(pacing.LEAST, hours)], left)
    return OutlookMemory(
        kind,
        start_s,
        ceiling,
        spent + more,
        spent + more / factor,
        spent + more * factor,
        _reaches(hours, left, now_s),
        *paces,
        held=spent + _held(hours, left, sum(each.floor for each in memory.classes), now_s, limits or Limits()),
    )


def _held(hours: Sequence[tuple[float, float]], left: float, floor: float, now_s: float, limits: Limits) -> float:
    """What those hours cost under all ceilings, of which `left` is this one's; `floor` may not be reduced."""
    cost, day_cost, day_s, at_s = 0.0, 0.0, 0.0, now_s
    day_left, day_end_s = limits.day_left, limits.day_end_s
    for seconds, rate in hours:
        allowed = max(min(rate, limits.per_hour), min(rate, floor))
        end_s = at_s + seconds
        while day_end_s < end_s:
            within_s = day_end_s - at_s
            whole = day_cost + allowed * within_s / _HOUR_S
            cost += max(min(whole, day_left), min(whole, floor * (day_s + within_s) / _HOUR_S))
            at_s, day_cost, day_s = day_end_s, 0.0, 0.0
            day_left, day_end_s = limits.per_day, day_end_s + _DAY_S
        day_cost, day_s, at_s = day_cost + allowed * (end_s - at_s) / _HOUR_S, day_s + end_s - at_s, end_s
    cost += max(min(day_cost, day_left), min(day_cost, floor * day_s / _HOUR_S))
    passed_s = sum(seconds for seconds, _ in hours)
    return max(min(cost, max(0.0, left)), min(cost, floor * passed_s / _HOUR_S))


def is_young(memory: PolicyMemory) -> bool:
    """Whether fewer hours were seen than make half a day."""
    return sum(rate != _UNKNOWN for rate in _unpacked(memory.rates)) < _HALF_A_DAY


def error(memory: PolicyMemory) -> float:
    """Mean error of a day's forecast, as a logarithm: 0.1 is about 10 %. The newest count most."""
    weights = [_FADES**age for age in range(len(memory.errors))]
    squares = sum(weight * each**2 for weight, each in zip(weights, reversed(memory.errors), strict=True))
    return math.sqrt((squares + _DOUBTS * _DOUBT**2) / (sum(weights) + _DOUBTS))


def mean_error(memory: PolicyMemory) -> float:
    """By what share of what came a day's forecast was off in the mean; 0 where none was seen to its end."""
    return sum(abs(math.expm1(-each)) for each in memory.errors) / max(1, len(memory.errors))


def in_range(memory: PolicyMemory) -> float | None:
    """Share of the days seen to their end whose cost lay between low and high; 0.8 is right. None: none was seen."""
    return sum(memory.in_range) / len(memory.in_range) if memory.in_range else None


def _closed(memory: PolicyMemory, hour: int) -> PolicyMemory:
    """With the hour that is over among the rates, and compared with what was expected of it."""
    if hour == memory.slot:
        return memory
    if memory.slot_s >= _SEEN_S:
        parts = [replace(each, rates=_learnt(each, memory)) for each in memory.classes]
        memory = replace(memory, rates=_learnt(memory, memory), classes=tuple(parts))
    parts = [replace(each, slot_cost=0.0) for each in memory.classes]
    return replace(memory, slot=hour, slot_cost=0.0, slot_s=0.0, classes=tuple(parts))


def _learnt(part: PolicyMemory | ClassMemory, memory: PolicyMemory) -> bytes:
    """Its rates with the hour that is over."""
    rates, place = _unpacked(part.rates), memory.slot % _WEEK_H
    mean, before = part.slot_cost / memory.slot_s, rates[place]
    if before > 0.0 and mean > 0.0:
        shift = math.exp(min(_MOST, max(-_MOST, math.log(mean / before))) / _FOLLOWS_H)
        rates = [rate * shift if rate > 0.0 else rate for rate in rates]
    # where nothing was wanted, the first that is says more than a mean with nothing
    rates[place] = rates[place] + _NEW * (mean - rates[place]) if before > 0.0 else mean
    return _PACKED.pack(*rates)


def _said(memory: PolicyMemory, now_s: float) -> PolicyMemory:
    """Once a day: what was said of it is compared with what came, and the next one is forecast."""
    if memory.said_at and 0 <= now_s - memory.said_at < _DAY_S:
        return memory
    if is_young(memory):
        return memory  # nothing is claimed of a day before half of one is known
    if memory.since_s >= 0.9 * _DAY_S and memory.since_cost > 0 and memory.said > 0:
        came = memory.since_cost / memory.since_s * _DAY_S / _HOUR_S
        missed = min(_MOST, max(-_MOST, math.log(came / memory.said)))
        if memory.said_error:
            within = abs(missed) <= _TENTH * memory.said_error
            memory = replace(memory, in_range=(*memory.in_range, within)[-_DAYS:])
        memory = replace(memory, errors=(*memory.errors, missed)[-_DAYS:])
    hours = _ahead(memory, memory, now_s, now_s + _DAY_S)
    said = sum(seconds * rate for seconds, rate in hours) / _HOUR_S
    return replace(memory, said_at=now_s, said=said, said_error=error(memory), since_cost=0.0, since_s=0.0)


def _ahead(
    part: PolicyMemory | ClassMemory, memory: PolicyMemory, now_s: float, end_s: float
) -> list[tuple[float, float]]:
    """(seconds, cost an hour) of each hour from now to the end."""
    rates = _unpacked(part.rates)
    known = [rate for rate in rates if rate != _UNKNOWN]
    usual = sum(known) / len(known) if len(known) >= _HALF_A_DAY else part.level
    first, last = int(now_s) // _HOUR_S, math.ceil(end_s / _HOUR_S)
    if last <= first:
        return []
    week = [usual if rate is None else rate for rate in (_rate(rates, hour) for hour in range(_WEEK_H))]
    found = [(float(_HOUR_S), week[hour % _WEEK_H]) for hour in range(first, last)]
    now = part.slot_cost / memory.slot_s if memory.slot_s >= _SEEN_S else found[0][1]
    found[0] = (min(end_s, (first + 1.0) * _HOUR_S) - now_s, now)
    if last > first + 1:
        found[-1] = (end_s - (last - 1.0) * _HOUR_S, found[-1][1])
    return found


def _rate(rates: Sequence[float], hour: int) -> float | None:
    """Of the same hour of the week, else of the newest day before that has this hour; None: of no day."""
    known = (rates[(hour - 24 * days) % _WEEK_H] for days in range(7))
    return next((rate for rate in known if rate != _UNKNOWN), None)


def _reaches(hours: Sequence[tuple[float, float]], left: float, now_s: float) -> float:
    """When what is left is gone (unix seconds); 0: not before the end."""
    at_s, rest = now_s, left * _HOUR_S
    for seconds, rate in hours:
        if rate > 0 and rate * seconds >= rest:
            return at_s + max(0.0, rest) / rate
        at_s, rest = at_s + seconds, rest - rate * seconds
    return at_s if rest < 0 else 0.0


def _unpacked(rates: bytes) -> list[float]:
    return list(_PACKED.unpack(rates)) if len(rates) == _PACKED.size else [_UNKNOWN] * _WEEK_H
