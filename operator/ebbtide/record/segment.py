"""One file of the flight recorder: appended blocks of chunks, and the recordings that refer to them.

A frame is `type (1 byte) | length (4) | crc32 (4) | payload`. Block frames hold new chunks, numbered in the order in
which they were first seen; recording frames hold an id and numbers. A chunk that the recording before had too is not
stored again; a file is complete in itself and can be deleted whole. A tail that was cut off by a crash is ignored.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from ebbtide.errors import EbbtideError

_HEADER = struct.Struct(">cII")
_BLOCK, _RECORDING = b"B", b"R"
# Chunks compressed together: alone, 2 KB of one service shrink by 2, next to 127 like it by 8
_CHUNKS_A_BLOCK = 128
_KEY_BYTES = 16  # of a chunk's SHA-256: plenty to tell 100,000s of chunks apart
_LEVEL = 1  # zlib's fastest: 3 times faster than the default for 10 % more bytes


class Digest(Protocol):
    """A running hash."""

    def update(self, data: bytes, /) -> None:
        """Take in more."""


class Entry(msgspec.Struct, frozen=True):
    """One recording: its id, small facts, and the chunk numbers of its parts."""

    id: str
    facts: dict[str, str]
    parts: dict[str, list[int]]


class SegmentWriter:
    """Appends to one file. Not shared between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file: BinaryIO = path.open("xb")
        # by digest: the chunks of the last recording and of the one in progress. All of a file would be a dictionary of
        # 100,000s, and what changed hardly ever comes back
        self._last: dict[bytes, int] = {}
        self._numbers: dict[bytes, int] = {}
        self._count = 0
        self._fresh: list[bytes] = []  # numbered, not written yet

    def add(self, chunks: Iterable[bytes], digest: Digest) -> list[int]:
        """The chunks' numbers; those new to this file are written as they come, so that few are in memory at once.

        `digest` is fed with the SHA-256 of each chunk.
        """
        numbers = []
        for chunk in chunks:
            key = hashlib.sha256(chunk).digest()
            digest.update(key)
            numbers.append(self._number(key, chunk))
        return numbers

    def commit(self, entry: Entry) -> None:
        """Writes the recording that refers to chunks added before; without it they are of no recording."""
        self._write_fresh()
        self._write(_RECORDING, entry)
        self._file.flush()
        self._last, self._numbers = self._numbers, {}

    def close(self) -> None:
        """Closes the file; it stays readable by `read_entry`."""
        self._file.close()

    def _number(self, key: bytes, chunk: bytes) -> int:
        key = key[:_KEY_BYTES]
        number = self._numbers.get(key)
        if number is None:
            number = self._last.pop(key, None)
            if number is None:
                number = self._new_number(chunk)
            self._numbers[key] = number
        return number

    def _new_number(self, chunk: bytes) -> int:
        self._count += 1
        self._fresh.append(chunk)
        if len(self._fresh) >= _CHUNKS_A_BLOCK:
            self._write_fresh()
        return self._count - 1

    def _write_fresh(self) -> None:
        if self._fresh:
            self._write(_BLOCK, self._fresh)
            self._fresh = []

    def _write(self, kind: bytes, value: object) -> None:
        payload = zlib.compress(msgspec.msgpack.encode(value), _LEVEL)
        self._file.write(_HEADER.pack(kind, len(payload), zlib.crc32(payload)))
        self._file.write(payload)
        self.size += _HEADER.size + len(payload)


def entries(path: Path) -> list[Entry]:
    """All recordings of a file, oldest first, without their chunks."""
    return [msgspec.msgpack.decode(payload, type=Entry) for kind, payload in _frames(path) if kind == _RECORDING]


def read_parts(path: Path, entry: Entry) -> dict[str, list[bytes]]:
    """The chunks of one recording of this file. Raises EbbtideError when some are missing."""
    needed = {number for numbers in entry.parts.values() for number in numbers}
    found: dict[int, bytes] = {}
    first = 0
    for kind, payload in _frames(path):
        if kind == _BLOCK:
            chunks = msgspec.msgpack.decode(payload, type=list[bytes])
            found.update((first + place, chunk) for place, chunk in enumerate(chunks) if first + place in needed)
            first += len(chunks)
        if len(found) == len(needed):
            break
    if len(found) < len(needed):
        raise EbbtideError(f"{path}: recording {entry.id} is incomplete: the file is damaged or was cut off")
    return {name: [found[number] for number in numbers] for name, numbers in entry.parts.items()}


def _frames(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Whole frames, decompressed, up to the first that is cut off or damaged."""
    with path.open("rb") as file:
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            kind, length, checksum = _HEADER.unpack(header)
            payload = file.read(length)
            if len(payload) < length or zlib.crc32(payload) != checksum:
                return
            yield kind, zlib.decompress(payload)
