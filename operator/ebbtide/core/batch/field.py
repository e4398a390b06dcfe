"""The pools and the policies' limits over the slots of the plan: what is held of them, and where a Job finds room."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ebbtide.core.batch.fit import places, places_of, smaller
from ebbtide.core.batch.price import Offer
from ebbtide.core.batch.share import Shares
from ebbtide.core.batch.work import Holders, Item, Place

Saved = tuple[list[list[float]], ...]
"""What the pools and the policies' limits held at some moment."""


@dataclass(slots=True)
class Field:
    """The pools and the policies' limits, which fill up as Jobs are placed. `shares`: what was lent to whom.

    `tried`: what found no room at all.
    """

    offers: Mapping[str, Offer]
    holders: Mapping[str, Holders]
    dearest: float
    shares: Shares = field(default_factory=Shares)
    tried: set[tuple[object, ...]] = field(default_factory=set)

    @property
    def now_s(self) -> float:
        """When the plan begins."""
        return next((offer.grid.now_s for offer in self.offers.values()), 0.0)

    def put(self, item: Item, place: Place) -> None:
        """Its GPUs are taken."""
        self.offers[place.pool].take(place.runs, place.gpus, stays=not item.restartable)
        holders = self.holders.get(item.job.policy)
        if holders is not None:
            holders.take(place.runs, place.gpus)

    def take_out(self, item: Item, place: Place) -> None:
        """Its GPUs are free."""
        self.offers[place.pool].take(place.runs, -place.gpus, stays=not item.restartable)
        holders = self.holders.get(item.job.policy)
        if holders is not None:
            holders.take(place.runs, -place.gpus)

    def save(self) -> Saved:
        """As it is now, to go back to."""
        return (
            [list(offer.used) for offer in self.offers.values()],
            [list(offer.firm) for offer in self.offers.values()],
            [list(holders.used) for holders in self.holders.values()],
        )

    def back(self, saved: Saved) -> None:
        """As it was when that was saved."""
        for offer, used, firm in zip(self.offers.values(), saved[0], saved[1], strict=True):
            offer.used, offer.firm = list(used), list(firm)
        for holders, used in zip(self.holders.values(), saved[2], strict=True):
            holders.used = list(used)
        self.tried = set()

    def look(self, item: Item) -> list[Place]:
        """All its places worth looking at, the best first."""
        limit = self.holders.get(item.job.policy)
        pools = [self.offers[name] for name in item.pools]
        found = [place for offer in pools for place in places(item, offer, limit, self.dearest)]
        if item.job.elastic and not any(not place.late for place in found):
            found += self._smaller(item, pools, limit)
        return sorted(found, key=lambda place: place.order)

    def _smaller(self, item: Item, pools: Sequence[Offer], limit: Holders | None) -> list[Place]:
        """Of an elastic Job with half its pods, a quarter, and so on, where all of them find no place in time."""
        count, found = item.job.parallelism // 2, list[Place]()
        while count >= max(1, item.job.least_parallelism) and not found:
            fewer, left = smaller(item, count)
            found = [place for o in pools for place in places_of(item, o, limit, self.dearest, fewer, left)]
            count //= 2
        return found
