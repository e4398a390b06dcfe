"""Demand by the time of day, for the last eight days: what yesterday and last week had at this hour.

Slots of ten minutes, two bytes each (a logarithm in steps of 0.1 %), 2,304 bytes a service. A slot that nobody watched
is empty, and is never taken for no demand.
"""

import math
import struct

SLOT_S = 600.0
SLOTS = 144
DAYS = 8
DAY_S = 86_400.0
_STEP, _ZERO = 0.001, 20_000  # 20,000 stands for 1 request/s, 0 for unknown
_PACK = struct.Struct("<H")
SIZE = 2 * SLOTS * DAYS


def at(packed: bytes, moment_s: float) -> float | None:
    """Requests/s around that moment, between the middles of two slots; None where one of them is unknown."""
    place = moment_s / SLOT_S - 0.5
    first = math.floor(place)
    before, after = _slot(packed, first), _slot(packed, first + 1)
    if before is None or after is None:
        return None
    return before + (after - before) * (place - first)


def put(packed: bytes, slot: int, mean: float) -> bytes:
    """With the mean requests/s of that slot (600 s from `slot` x 600 s unix); the eight days before it stay."""
    data = bytearray(packed if len(packed) == SIZE else SIZE)
    code = min(65_535, max(1, round(_ZERO + math.log(max(mean, 1e-8)) / _STEP)))
    _PACK.pack_into(data, 2 * (slot % (SLOTS * DAYS)), code)
    return bytes(data)


def forget(packed: bytes, first: int, end: int) -> bytes:
    """With the slots `first` to `end` (not included) unknown: nobody watched."""
    data = bytearray(packed if len(packed) == SIZE else SIZE)
    for slot in range(max(first, end - SLOTS * DAYS), end):
        _PACK.pack_into(data, 2 * (slot % (SLOTS * DAYS)), 0)
    return bytes(data)


def _slot(packed: bytes, slot: int) -> float | None:
    if len(packed) != SIZE:
        return None
    code: int = _PACK.unpack_from(packed, 2 * (slot % (SLOTS * DAYS)))[0]
    return math.exp((code - _ZERO) * _STEP) if code else None
