"""Arrivals of pods that are gone: what they took within the rate window was asked of the service, and still is.

The series of a pod go with it, while those that take over show its share only as their window fills. 22 requests/s on
five pods, one of which goes: for a moment the other four show 17.6, and whoever believed that would let the next one
go.
"""

import struct
from collections.abc import Iterable, Mapping
from zlib import crc32

_ENTRY = struct.Struct("<Ifd")  # pod, requests/s, when they were read (unix seconds)


def count(remembered: bytes, present: Iterable[str], now_s: float, window_s: float) -> float:
    """Requests/s of pods that are not `present` any more, as far as their last reading is within the window."""
    here, total = {crc32(uid.encode()) for uid in present}, 0.0
    for pod, rate, at in _ENTRY.iter_unpack(_whole(remembered)):
        if pod not in here and 0.0 <= now_s - at < window_s:
            total += rate * (1.0 - (now_s - at) / window_s)
    return total


def remember(remembered: bytes, read: Mapping[str, float], now_s: float, window_s: float) -> bytes:
    """What was `read` now (requests/s by pod), and of the other pods what is younger than the window: 16 bytes each."""
    now = {crc32(uid.encode()): rate for uid, rate in read.items()}
    packed = [_ENTRY.pack(pod, rate, now_s) for pod, rate in now.items()]
    packed += [
        _ENTRY.pack(pod, rate, at)
        for pod, rate, at in _ENTRY.iter_unpack(_whole(remembered))
        if pod not in now and 0.0 <= now_s - at < window_s
    ]
    return b"".join(packed)


def _whole(packed: bytes) -> bytes:
    return packed[: len(packed) - len(packed) % _ENTRY.size]
