"""What came and went while nobody watched: which of it the ledger has under another name."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from ebbtide.model.money import Lifetime
from ebbtide.money.lifetimes import Holding


def nodes_known(found: Sequence[Holding], lives: Iterable[Lifetime], begun_s: float) -> dict[str, Lifetime]:
    """The lifetimes that a ledger, which began at `begun_s`, has of nodes that others know without their uids.

    `found`: nodes, and the pods that were on them by the same uids; `lives`: the ledger's of the same time. A node is
    told by a pod that both know, else by the second in which it began, in its pool. Of nodes that began together and
    that no known pod was on it is all the same which is which: each is taken once.
    """
    lifetimes = list(lives)
    nodes = {item.uid: item for item in sorted(lifetimes, key=lambda item: item.begin_s) if item.is_node}
    on = {item.uid: item.node for item in lifetimes if not item.is_node}
    pods: dict[str, list[str]] = defaultdict(list)
    for item in found:
        if not item.is_node and on.get(item.uid) in nodes:
            pods[item.node].append(on[item.uid])
    theirs = sorted((item for item in found if item.is_node), key=lambda item: (item.end_s or math.inf, item.uid))
    known = {item.uid: min(pods[item.uid]) for item in theirs if item.uid in pods}
    left = sorted(
        (item for uid, item in nodes.items() if uid not in known.values() and item.end_s is not None),
        key=lambda item: (not item.estimated, item.uid),
    )
    for item in theirs:
        begin_s, pool = math.floor(max(item.begin_s, begun_s)), item.payer.pool
        same = (each for each in left if each.begin_s == begin_s and pool in ("", each.payer.pool))
        if item.uid not in known and (one := next(same, None)) is not None:
            known[item.uid] = one.uid
            left.remove(one)
    return {uid: nodes[node] for uid, node in known.items()}
