"""What lifetimes cost, by hour, payer and price: whole GPU-seconds, multiplied by a price once, at the end.

Pools that are billed by pod pay for the GPUs that pods hold. Those that are billed by node pay for nodes: each second
of a node's GPUs is put down to the pods that hold them, and what is left to nobody, as idle. A pod that outlives its
node costs nothing after it.

Worked example: a node of 8 GPUs at 2.50 USD/h for an hour, on it a pod of 4 GPUs for half of it: 7,200 GPU-seconds of
the pod are 5.00 USD, 21,600 idle ones 15.00 USD, together the 20.00 USD of the node.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise, zip_longest

from ebbtide.model.money import HourRow, Lifetime, Payer, PriceRecord
from ebbtide.model.spec import Billing
from ebbtide.money import prices

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

    `records` are each pool's, in any order. Time before a pool's first record has no known price. `whole`: no hours,
    but one row for each payer and price, with `from_s` as its hour.
    """
    pools: dict[str, tuple[list[Lifetime], list[PriceRecord]]] = defaultdict(lambda: ([], []))
    for item in lifetimes:
        if item.is_node or (item.begin_s < to_s and (item.end_s is None or item.end_s > from_s)):
            pools[item.payer.pool][0].append(item)  # a node that is gone too: what is still bound to it costs nothing
    for record in records:
        pools[record.pool][1].append(record)
    seconds: dict[tuple[int, Payer, bool, Decimal | None, str], list[int]] = defaultdict(lambda: [0, 0])
    for pool, (alive, known) in pools.items():
        for first_s, last_s, price, currency, billing in _priced(pool, known, from_s, to_s):
            for piece in _pieces(alive, billing, first_s, last_s):
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
) -> Iterator[tuple[int, int, Decimal | None, str, Billing]]:
    """The parts of [from_s, to_s) in which nothing changes: (begin, end, price of a GPU-hour, currency, billing)."""
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
    billed = [(from_s, Billing.POD), *((max(record.known_s, from_s), record.billing) for record in known)]
    ends = [*(begin_s for begin_s, *_ in starts[1:]), to_s]
    for (begin_s, price, currency), end_s in zip(starts, ends, strict=True):
        changes = [at_s for at_s, _ in billed if begin_s < at_s < end_s]
        for first_s, last_s in pairwise([begin_s, *changes, end_s]):
            if first_s < last_s:
                yield first_s, last_s, price, currency, [way for at_s, way in billed if at_s <= first_s][-1]


def _pieces(alive: Sequence[Lifetime], billing: Billing, begin_s: int, end_s: int) -> Iterator[_Piece]:
    """Every GPU-second of a pool that is billed, once."""
    nodes = [item for item in alive if item.is_node] if billing is Billing.NODE else []
    on_node: dict[str, list[Lifetime]] = {node.uid: [] for node in nodes}
    alone: list[Lifetime] = []  # of a pod whose node nobody saw, its own GPUs are all that is known
    for pod in alive:
        if not pod.is_node:
            on_node.get(pod.node, alone).append(pod)
    yield from _held(alone, begin_s, end_s)
    for node in nodes:
        yield from _shared_out(node, on_node[node.uid], begin_s, end_s)


def _held(pods: Iterable[Lifetime], from_s: int, to_s: int) -> Iterator[_Piece]:
    for pod in pods:
        begin_s, end_s = _clipped(pod, from_s, to_s)
        if begin_s < end_s and pod.gpus > 0:
            yield _piece(pod, pod.gpus, begin_s, end_s)


def _shared_out(node: Lifetime, pods: Sequence[Lifetime], from_s: int, to_s: int) -> Iterator[_Piece]:
    """What pods hold of a node while it is there, and what is left to nobody."""
    begin_s, end_s = _clipped(node, from_s, to_s)
    yield from _held(pods, begin_s, end_s)
    moves: dict[int, int] = defaultdict(int)  # GPUs more or less that are held from a second on
    for pod in pods:
        first_s, last_s = _clipped(pod, begin_s, end_s)
        if first_s < last_s:
            moves[first_s] += pod.gpus
            moves[last_s] -= pod.gpus
    held = 0
    for first_s, last_s in pairwise(sorted({begin_s, end_s, *moves})):
        held += moves.get(first_s, 0)
        if held < node.gpus:
            yield _piece(node, node.gpus - held, first_s, last_s, idle=True)


def _piece(item: Lifetime, gpus: int, begin_s: int, end_s: int, *, idle: bool = False) -> _Piece:
    return _Piece(item.payer, gpus, begin_s, end_s, idle, item.seen_s if item.estimated else end_s)


def _clipped(item: Lifetime, from_s: int, to_s: int) -> tuple[int, int]:
    begin_s = max(item.begin_s, from_s)
    return begin_s, max(begin_s, to_s if item.end_s is None else min(to_s, item.end_s))
