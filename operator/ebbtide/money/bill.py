"""What lifetimes cost, by hour, payer and price: whole GPU-seconds, multiplied by a price once, at the end.

Pools that are billed by pod pay for the GPUs that pods hold. Those that are billed by node pay for nodes: each second
of a node's GPUs is put down to the pods that hold them, and what is left as idle: to those who run on the node where
nodes come and go with pods (`money.idle`), else to nobody. A pod that outlives its node costs nothing after it.

Worked example: a node of 8 GPUs at 2.50 USD/h for an hour, on it a pod of 4 GPUs for half of it: 7,200 GPU-seconds of
the pod are 5.00 USD, 21,600 idle ones 15.00 USD, together the 20.00 USD of the node.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise, zip_longest

from ebbtide.model.money import HourRow, Lifetime, Payer, PriceRecord
from ebbtide.model.spec import Billing
from ebbtide.money import prices
from ebbtide.money.idle import OWED_S, Holder, shares

HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class _Piece:
    """GPUs of one payer from `begin_s` to `end_s`, whole unix seconds."""

    payer: Payer
    gpus: int
    begin_s: int
    end_s: int
    idle: bool
    seen_s: int  # what is after it is estimated


def hours(
    lifetimes: Iterable[Lifetime], records: Iterable[PriceRecord], from_s: int, to_s: int, *, whole: bool = False
) -> tuple[HourRow, ...]:
    """All rows of [from_s, to_s), sorted; lifetimes that still run are counted up to `to_s`.

    `lifetimes` are those that ran then or in the hour before: these may still owe for idle GPUs.

    `records` are each pool's, in any order. Time before a pool's first record has no known price. `whole`: no hours,
    but one row for each payer and price, with `from_s` as its hour.
    """
    pools: dict[str, tuple[list[Lifetime], list[PriceRecord]]] = defaultdict(lambda: ([], []))
    for item in lifetimes:
        if item.is_node or (item.begin_s < to_s and (item.end_s is None or item.end_s > from_s - OWED_S)):
            # a node that is gone too: what is still bound to it costs nothing; a pod that is, for it may still owe
            pools[item.payer.pool][0].append(item)
    for record in records:
        pools[record.pool][1].append(record)
    seconds: dict[tuple[int, Payer, bool, Decimal | None, str], list[int]] = defaultdict(lambda: [0, 0])
    for pool, (alive, known) in pools.items():
        for first_s, last_s, price, currency, billing in _priced(pool, known, from_s, to_s):
            for piece in _pieces(alive, *billing, first_s, last_s):
                for hour_s in (from_s,) if whole else range(piece.begin_s // HOUR_S * HOUR_S, piece.end_s, HOUR_S):
                    begin_s, end_s = max(piece.begin_s, hour_s), min(piece.end_s, to_s if whole else hour_s + HOUR_S)
                    row = seconds[hour_s, piece.payer, piece.idle, price, currency]
                    row[0] += piece.gpus * (end_s - begin_s)
                    row[1] += piece.gpus * max(0, end_s - max(begin_s, piece.seen_s))
    length_s = to_s - from_s if whole else HOUR_S
    rows = [HourRow(*key, gpu_s, estimated_s, length_s) for key, (gpu_s, estimated_s) in seconds.items()]
    return tuple(sorted(rows, key=_order))


def _order(row: HourRow) -> tuple[int, Payer, bool, bool, Decimal, str]:
    return row.hour_s, row.payer, row.idle, row.price is None, row.price or Decimal(0), row.currency


def _priced(
    pool: str, records: Iterable[PriceRecord], from_s: int, to_s: int
) -> Iterator[tuple[int, int, Decimal | None, str, tuple[Billing, bool]]]:
    """The parts of [from_s, to_s) in which nothing changes: (begin, end, price of a GPU-hour, currency, billing).

    The last is what is billed, and whether idle GPUs have payers.
    """
    known = sorted(records, key=lambda record: record.known_s)
    starts: list[tuple[int, Decimal | None, str]] = [(from_s, None, "")]
    ordered = [record for record in prices.in_force(known) if record.from_s < to_s]
    for record, following in zip_longest(ordered, ordered[1:]):
        begin_s, end_s = max(record.from_s, from_s), to_s if following is None else following.from_s
        if begin_s < end_s:
            currency = record.price.currency if record.price else ""
            steps = prices.steps(pool, record.price, begin_s, end_s, record.listed)
            starts += [(int(step.at_s), step.per_gpu_hour, currency) for step in steps]
    # what is paid for is none of an edited price's: it changes when that was seen
    billed = [
        (from_s, (Billing.POD, False)),
        *((max(record.known_s, from_s), (record.billing, record.shares_idle)) for record in known),
    ]
    ends = [*(begin_s for begin_s, *_ in starts[1:]), to_s]
    for (begin_s, price, currency), end_s in zip(starts, ends, strict=True):
        changes = [at_s for at_s, _ in billed if begin_s < at_s < end_s]
        for first_s, last_s in pairwise([begin_s, *changes, end_s]):
            if first_s < last_s:
                yield first_s, last_s, price, currency, [way for at_s, way in billed if at_s <= first_s][-1]


def _pieces(
    alive: Sequence[Lifetime], billing: Billing, shares_idle: bool, begin_s: int, end_s: int
) -> Iterator[_Piece]:
    """Every GPU-second of a pool that is billed, once."""
    nodes = [item for item in alive if item.is_node] if billing is Billing.NODE else []
    on_node: dict[str, list[Lifetime]] = {node.uid: [] for node in nodes}
    alone: list[Lifetime] = []  # of a pod whose node nobody saw, its own GPUs are all that is known
    for pod in alive:
        if not pod.is_node:
            on_node.get(pod.node, alone).append(pod)
    yield from _held(alone, begin_s, end_s)
    for node in nodes:
        first_s, last_s = _clipped(node, begin_s, end_s)
        yield from _held_of(node, on_node[node.uid], first_s, last_s)
        yield from _left(node, on_node[node.uid], first_s, last_s, shares_idle)


def _held(pods: Iterable[Lifetime], from_s: int, to_s: int) -> Iterator[_Piece]:
    for pod in pods:
        begin_s, end_s = _clipped(pod, from_s, to_s)
        if begin_s < end_s and pod.gpus > 0:
            yield _piece(pod, pod.gpus, begin_s, end_s)


def _held_of(node: Lifetime, pods: Sequence[Lifetime], from_s: int, to_s: int) -> Iterator[_Piece]:
    """What pods hold of a node, together never more than it has.

    Where they overlap beyond that, those give way of whose end nobody knows more than that it came later than
    `seen_s`, the first seen first: somebody else holds their GPUs by then. Then those that end soonest, for the seconds
    in which one pod ends and the next begins are both begun. So it is at each instant, however time is cut.
    """
    spans = _crowded(node.gpus, pods, from_s, to_s)
    if not spans:
        yield from _held(pods, from_s, to_s)
        return
    edges = [from_s, *(at_s for span in spans for at_s in span), to_s]
    for first_s, last_s in zip(edges[::2], edges[1::2], strict=True):  # between these all fits
        yield from _held(pods, first_s, last_s)
    for begin_s, end_s in spans:
        here = [pod for pod in pods if pod.begin_s < end_s and (pod.end_s is None or pod.end_s > begin_s)]
        moments = {begin_s, end_s, *(at_s for pod in here for at_s in (pod.begin_s, pod.seen_s, pod.end_s) if at_s)}
        for first_s, last_s in pairwise(sorted(at_s for at_s in moments if begin_s <= at_s <= end_s)):
            yield from _fitting(node.gpus, here, first_s, last_s)


def _crowded(gpus: int, pods: Iterable[Lifetime], from_s: int, to_s: int) -> list[tuple[int, int]]:
    """When more than so many are held."""
    moves: dict[int, int] = defaultdict(int)
    for pod in pods:
        begin_s, end_s = _clipped(pod, from_s, to_s)
        if begin_s < end_s:
            moves[begin_s] += pod.gpus
            moves[end_s] -= pod.gpus
    found, held = [], 0
    for first_s, last_s in pairwise(sorted(moves)):
        held += moves[first_s]
        if held > gpus:
            found.append((first_s, last_s))
    return found


def _fitting(gpus: int, pods: Iterable[Lifetime], begin_s: int, end_s: int) -> Iterator[_Piece]:
    """What each holds of so many; nobody comes or goes in that time."""
    here = [pod for pod in pods if pod.begin_s <= begin_s and (pod.end_s is None or pod.end_s >= end_s)]
    over = sum(pod.gpus for pod in here) - gpus
    for pod in sorted(here, key=lambda pod: _gives_way(pod, begin_s)):
        less = max(0, min(over, pod.gpus))
        over -= less
        if pod.gpus > less:
            yield _piece(pod, pod.gpus - less, begin_s, end_s)


def _gives_way(pod: Lifetime, at_s: int) -> tuple[bool, float, str]:
    unseen = pod.estimated and pod.seen_s <= at_s
    ends_s = math.inf if pod.end_s is None else pod.end_s
    return not unseen, pod.seen_s if unseen else ends_s, pod.uid


def _left(node: Lifetime, pods: Sequence[Lifetime], from_s: int, to_s: int, shares_idle: bool) -> Iterator[_Piece]:
    """What no pod holds of a node while it is there: of those that `money.idle` says, else nobody's."""
    holders = [Holder(pod.uid, pod.payer, pod.gpus, pod.begin_s, pod.end_s) for pod in pods]
    for share in shares(node.gpus, holders, from_s, to_s):
        piece = _piece(node, share.gpus, share.begin_s, share.end_s, idle=True)
        yield replace(piece, payer=share.payer) if shares_idle and share.payer is not None else piece


def _piece(item: Lifetime, gpus: int, begin_s: int, end_s: int, *, idle: bool = False) -> _Piece:
    return _Piece(item.payer, gpus, begin_s, end_s, idle, item.seen_s if item.estimated else end_s)


def _clipped(item: Lifetime, from_s: int, to_s: int) -> tuple[int, int]:
    begin_s = max(item.begin_s, from_s)
    return begin_s, max(begin_s, to_s if item.end_s is None else min(to_s, item.end_s))
