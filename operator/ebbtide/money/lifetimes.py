"""What ran from when to when: lifetimes of pods and nodes, kept up with what the API server shows.

A lifetime begins with a timestamp of the object (a pod is bound, a node created) and ends with the second in which it
was seen to go, or to finish. An absence proves an end only where the list is complete; what went while nobody watched
ended between the moment at which it was last seen and now: now counts, and it is marked as estimated.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec

from ebbtide.model.money import Lifetime, Payer
from ebbtide.model.spec import Spec


class Holding(Spec, frozen=True):
    """A node, or a pod that is bound and holds GPUs, as the API server shows it. Times are unix seconds."""

    uid: str
    payer: Payer
    gpus: int
    begin_s: float
    end_s: float | None = None  # a pod that finished: when
    node: str = ""
    is_node: bool = False
    on: str = ""  # of a pod on a node of no pool: the node's name


def advance(
    running: Mapping[str, Lifetime],
    shown: Sequence[Holding],
    gone: Mapping[str, float],
    now_s: float,
    *,
    ended: Mapping[str, int] | None = None,
    complete: bool = True,
) -> tuple[dict[str, Lifetime], list[Lifetime]]:
    """(what runs now by uid, every lifetime that began, ended or was split since).

    `running` is what ran before, `gone` the moments (unix seconds) at which uids were seen to go, `ended` until when
    uids that do not run were counted already. `complete`: all that exists is shown, so that what is not has gone. What
    another pool, service or number of GPUs is put down to from now on begins a new lifetime now. What ran in no pool
    was in the one that its node comes to, for else nobody would know what it cost. A node had the most GPUs that it
    ever showed all along, for its device plugin may be late or pause. A clock that was set back moves nothing
    backwards.
    """
    at_s, before = math.floor(now_s), ended or {}
    after: dict[str, Lifetime] = {}
    changed: list[Lifetime] = []
    for holding in shown:
        uid, old = holding.uid, running.get(holding.uid)
        if holding.end_s is not None:
            changed += [] if old is None and uid in before else _finished(holding, old, holding.end_s, at_s)
        else:
            after[uid], news = _goes_on(holding, old, before.get(uid, 0), at_s)
            changed += news
    listed = {holding.uid for holding in shown}
    for uid, old in running.items():
        if uid in listed:
            continue
        if uid in gone:
            changed.append(_ended(old, math.ceil(gone[uid])))
        elif complete:
            missed_s = max(math.ceil(now_s), old.seen_s)
            changed.append(_ended(old, missed_s, estimated=missed_s > old.seen_s))
        else:
            after[uid] = old
    return after, changed


def _finished(holding: Holding, old: Lifetime | None, end_s: float, at_s: int) -> list[Lifetime]:
    """Whose it was is what it was put down to while it ran."""
    life = _ended(old or _begun(holding, math.floor(holding.begin_s), at_s), math.ceil(end_s))
    return [life] if old is not None or life.end_s != life.begin_s else []


def _goes_on(holding: Holding, old: Lifetime | None, counted_s: int, at_s: int) -> tuple[Lifetime, list[Lifetime]]:
    """What runs now, and what changed by it; `counted_s`: until when the uid was counted before it was away."""
    if old is None:
        begun = _begun(holding, max(math.floor(holding.begin_s), counted_s), at_s)
        return begun, [begun]
    grown = holding.is_node and holding.gpus > old.gpus
    if grown:
        old = msgspec.structs.replace(old, gpus=holding.gpus)
    if _alike(old, holding):
        return msgspec.structs.replace(old, seen_s=max(old.seen_s, at_s)), [old] if grown else []
    if holding.payer.pool and _alike(msgspec.structs.replace(old, payer=_in(old.payer, holding)), holding):
        found = msgspec.structs.replace(old, payer=holding.payer, seen_s=max(old.seen_s, at_s))
        return found, [found]
    split_s = max(at_s, old.seen_s)
    begun = _begun(holding, split_s, at_s)
    return begun, [_ended(old, split_s), begun]


def _alike(old: Lifetime, holding: Holding) -> bool:
    gpus = old.gpus if holding.is_node else holding.gpus
    return (old.payer, old.gpus, old.node) == (holding.payer, gpus, holding.node)


def _in(payer: Payer, holding: Holding) -> Payer:
    """Of what was in no pool, in that of the holding."""
    return payer if payer.pool else msgspec.structs.replace(payer, pool=holding.payer.pool)


def _begun(holding: Holding, begin_s: int, at_s: int) -> Lifetime:
    return Lifetime(
        uid=holding.uid,
        payer=holding.payer,
        gpus=holding.gpus,
        begin_s=begin_s,
        seen_s=max(begin_s, at_s),
        node=holding.node,
        is_node=holding.is_node,
    )


def _ended(old: Lifetime, end_s: int, *, estimated: bool = False) -> Lifetime:
    end_s = max(end_s, old.begin_s)
    seen_s = old.seen_s if estimated else end_s
    return msgspec.structs.replace(old, end_s=end_s, seen_s=min(seen_s, end_s), estimated=estimated)
