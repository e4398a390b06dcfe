"""Who pays for the GPUs of a node that no pod holds: those who run on it, in proportion to the GPUs that they hold.

In whole GPUs, by largest remainder, so that all payers together pay for the node and for no more. Of a node that
nobody holds any more those pay who held it last, until it is gone or for an hour: after that something else keeps it.
What nobody ever held has no payer. So it is in pools whose nodes come and go with pods (`PoolSpec.shares_idle`); where
they stay whoever leaves, nobody who leaves could save anything, and idle GPUs have no payer.

Worked example: a node of 8 GPUs, on it pods of 5 and of 1. Of the two that are idle the first one pays 1.67 and the
other 0.33, that is both and none: 7 and 1 GPUs. Once the larger has gone the other pays for all 8.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from ebbtide.model.money import Payer

OWED_S = 3600  # by those who held it last; `core.release` reserves no longer time either


class Holder(NamedTuple):
    """A pod on a node, [begin_s, end_s) in whole unix seconds; `end_s` None: it still runs."""

    uid: str
    payer: Payer
    gpus: int
    begin_s: int
    end_s: int | None = None


class Share(NamedTuple):
    """One pod's GPUs of those that nobody holds in [begin_s, end_s); `uid` and `payer` None: they have no payer."""

    uid: str | None
    payer: Payer | None
    gpus: int
    begin_s: int
    end_s: int


def divided(gpus: int, holders: Iterable[Holder]) -> list[tuple[Holder, int]]:
    """Whole GPUs for each, in proportion to what they hold; where equal parts are left over, by uid."""
    each = sorted(holders)
    held = sum(holder.gpus for holder in each)
    if held <= 0:
        return []
    parts = [divmod(gpus * holder.gpus, held) for holder in each]
    left = gpus - sum(whole for whole, _ in parts)
    first = set(sorted(range(len(each)), key=lambda index: -parts[index][1])[:left])
    return [
        (holder, whole + (index in first)) for index, (holder, (whole, _)) in enumerate(zip(each, parts, strict=True))
    ]


def shares(gpus: int, holders: Iterable[Holder], begin_s: int, end_s: int) -> Iterator[Share]:
    """Of a node of `gpus` that is there for [begin_s, end_s), what no pod holds, and who pays for it.

    `holders` are all pods that were on it then or in the hour before.
    """
    here: dict[str, Holder] = {}
    last: list[Holder] = []  # who went last, while nobody is here
    owed_s = begin_s
    moves = _moves(holders)
    moves[begin_s] += ()
    for at_s, until_s in pairwise([*sorted(moves), end_s]):
        left = []
        for comes, holder in moves[at_s]:
            if comes:
                here[holder.uid] = holder
            elif here.get(holder.uid) is holder:
                left.append(here.pop(holder.uid))
        if left and not here:
            last, owed_s = left, at_s + OWED_S
        first_s, last_s = max(at_s, begin_s), min(until_s, end_s)
        if first_s < last_s:
            owing = here.values() if here else last if first_s < owed_s else ()
            yield from _shared(gpus - sum(holder.gpus for holder in here.values()), owing, first_s, last_s)


def _moves(holders: Iterable[Holder]) -> dict[int, list[tuple[bool, Holder]]]:
    """When who comes (True) and goes, and when nothing is owed any more."""
    moves: dict[int, list[tuple[bool, Holder]]] = defaultdict(list)
    for holder in holders:
        if holder.gpus > 0 and (holder.end_s is None or holder.end_s > holder.begin_s):
            moves[holder.begin_s].append((True, holder))
            if holder.end_s is not None:
                moves[holder.end_s].append((False, holder))
                moves[holder.end_s + OWED_S] += ()
    return moves


def _shared(idle: int, owing: Iterable[Holder], begin_s: int, end_s: int) -> Iterator[Share]:
    if idle <= 0:
        return
    parts = divided(idle, owing)
    for holder, gpus in parts:
        if gpus:
            yield Share(holder.uid, holder.payer, gpus, begin_s, end_s)
    if not parts:
        yield Share(None, None, idle, begin_s, end_s)
