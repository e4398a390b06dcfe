"""A clerk who counts what every pod costs for each second of its life, and shares no code with what decides.

He is told when a pod was ordered and when it is gone, never what somebody believes to have spent.
"""

from collections import Counter
from decimal import Decimal

DAY_S = 86_400
_HOUR_S = 3600


class Clerk:
    """GPU-seconds of one GPU a pod within [begin_s, end_s), whole unix seconds; both on a day's edge."""

    def __init__(self, begin_s: int, end_s: int, price_per_hour: Decimal) -> None:
        self._begin_s, self._end_s, self._price = begin_s, end_s, price_per_hour
        self._open: dict[str, int] = {}
        self._seconds: Counter[int] = Counter()  # by day

    def begins(self, name: str, at_s: int) -> None:
        """The pod holds its GPU from that second on."""
        if name in self._open:
            raise AssertionError(f"{name} began twice")
        self._open[name] = at_s

    def ends(self, name: str, at_s: int) -> None:
        """Its last second is the one before; it may be told ahead."""
        first_s, last_s = max(self._open.pop(name), self._begin_s), min(at_s, self._end_s)
        while first_s < last_s:
            day = (first_s - self._begin_s) // DAY_S
            until_s = min(last_s, self._begin_s + (day + 1) * DAY_S)
            self._seconds[day] += until_s - first_s
            first_s = until_s

    def close(self) -> tuple[Decimal, ...]:
        """What each day cost. What still runs is paid up to the end."""
        for name in list(self._open):
            self.ends(name, self._end_s)
        days = (self._end_s - self._begin_s) // DAY_S
        return tuple(self._price * self._seconds[day] / _HOUR_S for day in range(days))

    def spent(self, begin_s: int, now_s: int) -> Decimal:
        """What days from `begin_s` on have cost up to `now_s`, pods that were told to go to their end included."""
        first = (begin_s - self._begin_s) // DAY_S
        seconds = sum(count for day, count in self._seconds.items() if day >= first)
        seconds += sum(max(0, now_s - max(born_s, begin_s)) for born_s in self._open.values())
        return self._price * seconds / _HOUR_S
