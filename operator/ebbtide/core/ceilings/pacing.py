"""The rates that make what is left of a period last: what matters most is paid for all of it, then the next.

    priority by priority, the highest first
        budget   what is left, less all that the higher ones want to the end, less what lower ones may not reduce
        level    L at which the sum of min(L, rate(h)) over its hours is the budget; none where all of it is less

So money is kept for the busy hours of what matters, and not spent in the quiet ones before on what matters less. The
level is water-filling. Worked example: 24 USD are left for 4 hours of which 3, 5, 10 and 10 USD are wanted: 3 and 5 are
granted, and 8 in each of the others. With 30 USD left, 2 USD an hour of a lower priority are paid 0.50.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

LEAST = -(2**31)  # below every priority
OTHERS = 2**31 - 1  # above every priority: what no policy may reduce
NOT = -1.0  # no rate: all that is wanted lasts
_HOUR_S = 3600
Hours = Sequence[tuple[float, float]]  # (seconds, cost an hour)
Paces = tuple[float, tuple[tuple[int, float], ...]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What services of one priority want to the end of a period; `floor`, cost an hour, is what may not be reduced."""

    priority: int
    hours: Hours
    floor: float = 0.0

    @property
    def amount(self) -> float:
        """All of it."""
        return sum(seconds * rate for seconds, rate in self.hours) / _HOUR_S

    @property
    def floors(self) -> float:
        """What may not be reduced, to the end."""
        return self.floor * sum(seconds for seconds, _ in self.hours) / _HOUR_S


def paced(classes: Sequence[Wanted], left: float) -> Paces:
    """(what all may cost an hour now, of each class that is held back its priority and its rate).

    NOT and nothing where all that is wanted lasts. Classes come the highest priority first; of the last one it is said
    that it begins at LEAST.
    """
    rest, now, found = max(0.0, left), 0.0, list[tuple[int, float]]()
    floors = sum(each.floors for each in classes)
    for each in classes:
        floors -= each.floors
        level = lasting(each.hours, max(0.0, rest - floors))
        if level < 0.0 and not found:
            rest -= each.amount
            now += each.hours[0][1] if each.hours else 0.0
        else:
            rest, level = floors, max(level, each.floor)
            now += level
            found.append((LEAST if each is classes[-1] else each.priority, level))
    return (now, tuple(found)) if found else (NOT, ())


def lasting(hours: Hours, left: float) -> float:
    """The highest cost an hour that lasts to the end; NOT: all that is wanted does."""
    rest, seconds = max(0.0, left) * _HOUR_S, sum(each for each, _ in hours)
    for length, rate in sorted(hours, key=itemgetter(1)):
        if rate * seconds > rest:
            return rest / seconds
        rest, seconds = rest - rate * length, seconds - length
    return NOT
