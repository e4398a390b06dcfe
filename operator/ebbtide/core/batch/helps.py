"""What would help a Job that can't end by its deadline: found by looking again without one limit after the other.

Worked example: a Job of 2 h whose window opens at 22:00, to end by 18:00: with the window open all day it ends in time,
so the window binds, and no GPU more would help.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ebbtide.core.batch.duration import hours
from ebbtide.core.batch.field import Field
from ebbtide.core.batch.price import Offer
from ebbtide.core.batch.when import clock
from ebbtide.core.batch.work import Item

MOST = 100  # late Jobs of one plan that are looked at so closely; status shows 50 of each policy


def helps(item: Item, field: Field) -> str:
    """In words, as the end of a sentence."""
    now_s, place = field.now_s, item.place
    if item.deadline_s is None or item.latest_s is None:
        return ""
    sure_s = item.left.at(item.confidence)
    later = ""  # nothing is known of what comes after the plan
    if place is not None:
        later = f", or a deadline from {clock(max(place.ends_s, place.starts_s + sure_s), now_s)} on,"
    if item.latest_s < now_s:
        return f"a shorter expected duration{later} would help; more GPUs would not"
    with _without(item, field):
        found = next((words for name, words in _RELAXED if _is_kept(item, field, name)), None)
        first = found(item, now_s) if found is not None else _gpus(item, sure_s, field)
    return f"{first}{later} would help"


@contextmanager
def _without(item: Item, field: Field) -> Iterator[None]:
    """The pools as they would be but for it."""
    saved, tried = field.save(), field.tried
    if item.place is not None:
        field.take_out(item, item.place)
    try:
        yield
    finally:
        field.back(saved)
        field.tried = tried


def _is_kept(item: Item, field: Field, limit: str) -> bool:
    """Whether its deadline would be without that limit."""
    holders = field.holders.get(item.job.policy)
    before = item.open, item.restartable, None if holders is None else holders.most
    if limit == "window":
        if all(item.open):
            return False
        item.open = (True,) * len(item.open)
    elif limit == "most":
        if holders is None or holders.most is None:
            return False
        holders.most = None
    elif item.restartable:
        return False
    else:
        item.restartable = True
    try:
        return any(not place.late for place in field.look(item))
    finally:
        item.open, item.restartable = before[0], before[1]
        if holders is not None:
            holders.most = before[2]


def _window(item: Item, now_s: float) -> str:
    return f"a window that is open before {clock(item.latest_s or now_s, now_s)} (spec.windows, spec.strategy)"


def _most(item: Item, now_s: float) -> str:
    most = item.policy.spec.max_gpus if item.policy is not None else 0
    return f"more than {'1 GPU' if most == 1 else f'{most} GPUs'} for its policy (spec.maxGPUs)"


def _restartable(item: Item, now_s: float) -> str:
    return "that it may be stopped (ebbtide.dev/restartable), for which fewer GPUs must stay free"


_RELAXED: tuple[tuple[str, Callable[[Item, float], str]], ...] = (
    ("window", _window),
    ("most", _most),
    ("restartable", _restartable),
)


def _gpus(item: Item, sure_s: float, field: Field) -> str:
    """`4 more GPUs on h100 from 14:00 UTC for 2.0 h`: the fewest with which it would end in time."""
    options = [
        (lacks, start, name)
        for name in item.pools
        for start, lacks in _lacking(item, sure_s, field.offers[name])
        if lacks > 0
    ]
    if not options:
        return "more GPUs or pools"
    lacks, start, name = min(options)
    more = "1 more GPU" if lacks == 1 else f"{lacks} more GPUs"
    begins_s = field.offers[name].grid.edges[start]
    since = f" from {clock(begins_s, field.now_s)}" if start else ""
    return f"{more} on {name}{since} for {hours(sure_s)}"


def _lacking(item: Item, sure_s: float, offer: Offer) -> Iterable[tuple[int, int]]:
    """(slot of its start, GPUs that are lacking at most until it has surely ended), for each start in time."""
    grid, short = offer.grid, []
    for slot in range(grid.slots):
        free = offer.room[slot] - offer.used[slot]
        if not item.restartable:
            free = min(free, offer.safe[slot] - offer.firm[slot])
        short.append(item.gpus - int(free))
    for start in range(grid.slot(item.latest_s or grid.now_s) + 1):
        ends_s = grid.edges[start] + sure_s
        if item.open and item.open[start] and ends_s <= (item.deadline_s or ends_s):
            yield start, max(short[start : grid.slot(ends_s - 1.0) + 1])
