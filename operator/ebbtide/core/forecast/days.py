"""Demand by the time of day, for the last eight days: what yesterday and last week had at this hour.

Slots of ten minutes, a byte each (a logarithm in steps of 6 %), 1,152 bytes a service. A slot that nobody watched is
empty, and is never taken for no demand.
"""

import math

SLOT_S = 600.0
SLOTS = 144
DAYS = 8
DAY_S = 86_400.0
STEP, _ONE = 0.06, 1  # 1 stands for 1 token/s or less, 255 for 4 million, 0 for unknown
SIZE = SLOTS * DAYS


def at(packed: bytes, moment_s: float) -> float | None:
    """Tokens/s around that moment, between the middles of two slots; None where one of them is unknown."""
    place = moment_s / SLOT_S - 0.5
    first = math.floor(place)
    before, after = _slot(packed, first), _slot(packed, first + 1)
    if before is None or after is None:
        return None
    return before + (after - before) * (place - first)


def put(packed: bytes, slot: int, mean: float) -> bytes:
    """With the mean tokens/s of that slot (600 s from `slot` x 600 s unix); the eight days before it stay."""
    data = bytearray(packed if len(packed) == SIZE else SIZE)
    data[slot % SIZE] = min(255, max(1, round(_ONE + math.log(max(mean, 1e-8)) / STEP)))
    return bytes(data)


def forget(packed: bytes, first: int, end: int) -> bytes:
    """With the slots `first` to `end` (not included) unknown: nobody watched."""
    data = bytearray(packed if len(packed) == SIZE else SIZE)
    for slot in range(max(first, end - SIZE), end):
        data[slot % SIZE] = 0
    return bytes(data)


def _slot(packed: bytes, slot: int) -> float | None:
    if len(packed) != SIZE:
        return None
    code = packed[slot % SIZE]
    return math.exp((code - _ONE) * STEP) if code else None
