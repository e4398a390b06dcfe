"""Whether ceilings leave the money for a Job's start, and whether a deadline will be missed because they do not.

What a day or a month has left is no more until it ends, as far as anybody knows. Worked example: 0.01 of 100.00 USD a
day are left until midnight, and a Job must start by 18:00: that it misses its deadline for want of money is known then.
"""

from collections.abc import Iterable
from dataclasses import replace

from ebbtide.core.batch.items import least_gpus
from ebbtide.core.batch.purse import Refusal
from ebbtide.core.batch.why import CENT
from ebbtide.core.batch.work import Item, Place
from ebbtide.core.work import Cycle
from ebbtide.model.reasons import Code


def leave_out(waiting: Iterable[Item], cycle: Cycle) -> None:
    """Pools for which a day or a month has no money, where another pool that could run the Job can be paid."""
    for item in waiting if cycle.purses else ():
        able = [name for name in item.pools if not _is_dry(item, name, cycle)] if len(item.pools) > 1 else []
        item.pools = tuple(able) or item.pools


def _is_dry(item: Item, pool: str, cycle: Cycle) -> bool:
    gpus, for_s = least_gpus(item), None if item.restartable else item.left.at(item.confidence)
    paying = (purse for purse in cycle.purses if purse.pays(item.namespace))
    refused = (purse.refused(pool, gpus, True, for_s, item.stop_s) for purse in paying)
    return any(each is not None and each.until_s for each in refused)


def refusal(item: Item, place: Place, idle: bool, cycle: Cycle) -> Refusal | None:
    """By the ceiling that has no money for longest; None: it can be paid when it starts there. `idle`: on nodes that

    are paid for anyway.
    """
    for_s = None if item.restartable else item.left.at(item.confidence)
    starts_s = place.starts_s if place.slot else cycle.now_s
    asked = (
        purse.refused(place.pool, place.gpus, idle, for_s, item.stop_s, starts_s)
        for purse in cycle.purses
        if purse.pays(item.namespace)
    )
    found = [each for each in asked if each is not None]
    return max(found, key=lambda each: each.until_s) if found else None


def take(item: Item, place: Place, idle: bool, cycle: Cycle) -> None:
    """It is started there now."""
    for_s = None if item.restartable else item.left.at(item.confidence)
    for purse in cycle.purses:
        if purse.pays(item.namespace):
            purse.take(item.key, place.pool, place.gpus, idle, for_s, item.stop_s)


def verdict(item: Item, place: Place, refused: Refusal, cycle: Cycle) -> tuple[Code, str]:
    """What is said of it: that it waits for money, or that its deadline will be missed for want of it."""
    must_s = item.latest_s if item.left.known else item.deadline_s
    late = must_s is not None and must_s < max(cycle.now_s, refused.until_s) and not _elsewhere(item, place, cycle)
    return Code.MISSED_FOR_MONEY if late else Code.WAITS_FOR_MONEY, refused.text


def foreseen(item: Item, cycle: Cycle) -> None:
    """Of one that is planned for later: whether it could not be paid then either, and must be missed."""
    if item.deadline_s is None or item.place is None or item.why is not None or cycle.ceilings_unknown:
        return
    refused = refusal(item, item.place, item.place.price < CENT, cycle)
    if refused is not None and refused.until_s:
        why = verdict(item, item.place, refused, cycle)
        item.why = why if why[0] is Code.MISSED_FOR_MONEY else None


def _elsewhere(item: Item, place: Place, cycle: Cycle) -> bool:
    """Whether another pool that could run it can be paid."""
    others = (replace(place, pool=name) for name in item.pools if name != place.pool)
    return any(refusal(item, other, True, cycle) is None for other in others)
