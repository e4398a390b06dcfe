"""What a policy pays for and nobody knows the price of: GPU-seconds by period and pool, until a price is known.

They are paid at the first price that becomes known: it was not free, and the first price is nearer to what it cost than
nothing is. So 4 GPUs that ran for 45 s before somebody said 2.50 USD/h are 0.125 USD then. On a node of no pool it is
the price of the pool that the node comes to; where it comes to none they are said until the period ends.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from decimal import Decimal

from ebbtide.model.spec import CeilingKind

Key = tuple[CeilingKind, float, float]  # of a period [start_s, end_s)
Place = tuple[str, str]  # a pool; or none, and the uid of the node where it is known


class Unpriced:
    """Of one policy."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[Key, Place], int] = {}
        self._paid: dict[tuple[Key, str], int] = {}  # by pool, what was paid late

    def add(self, key: Key, place: Place, seconds: int) -> None:
        """Negative where less ran than was counted."""
        self._seconds[key, place] = self._seconds.get((key, place), 0) + seconds

    def by_pool(self, key: Key) -> tuple[tuple[str, int], ...]:
        """Of one period, sorted; nodes of no pool are those of ''."""
        found: dict[str, int] = defaultdict(int)
        for (of, (pool, _)), seconds in self._seconds.items():
            if of == key:
                found[pool] += seconds
        return tuple(sorted((pool, seconds) for pool, seconds in found.items() if seconds > 0))

    def pay(
        self, keys: Collection[Key], price_of: Callable[[str], Decimal | None], pool_of: Mapping[str, str]
    ) -> Iterator[tuple[Key, Decimal]]:
        """What of the periods `keys` can be paid now, in price x GPU-seconds; other periods are over.

        `price_of`: of a pool, None while nobody knows it; `pool_of`: where nodes are by now, by uid.
        """
        for key, (name, node) in list(self._seconds):
            pool = name or pool_of.get(node, "")
            price = price_of(pool) if pool else None
            if key not in keys:
                del self._seconds[key, (name, node)]
            elif price is not None:
                seconds = self._seconds.pop((key, (name, node)))
                self._paid[key, name] = self._paid.get((key, name), 0) + seconds
                yield key, price * seconds
        self._paid = {each: seconds for each, seconds in self._paid.items() if each[0] in keys}

    def take_over(self, key: Key, known: Iterable[tuple[str, int]]) -> None:
        """What the ledger knows by pool, beyond what was counted here and what was paid since."""
        counted = dict(self.by_pool(key))
        for pool, seconds in known:
            more = seconds - counted.get(pool, 0) - self._paid.get((key, pool), 0)
            if more > 0:
                self.add(key, (pool, ""), more)
