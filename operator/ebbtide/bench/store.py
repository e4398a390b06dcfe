"""Keeps traffic and results on disk under the digest of what they follow from, so that nothing is computed twice.

A file appears complete or not at all, so a run may be killed at any moment and the same command goes on from there. It
decides nothing about what a result depends on: its caller names the parts of the key.
"""

import hashlib
import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ebbtide.bench.policy import Minute
from ebbtide.bench.run import RunResult
from ebbtide.clock import unix_time_s
from ebbtide.sim.requests import Request

MAX_BYTES = 8 << 30
_QUICK = 1  # of zlib: 60,000 requests are 2.7 MB of MessagePack and 1 MB then; harder levels gain a tenth


class Load(msgspec.Struct, frozen=True):
    """Traffic of one run: requests by arrival from 0 s, and the whole minutes before and of the scored span."""

    requests: tuple[Request, ...]
    history: tuple[Minute, ...] = ()


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/ebbtide/bench`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "ebbtide" / "bench"


def digest_of(value: Any) -> str:
    """Sha256 of the value's JSON with sorted keys: the same for equal values on any machine."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()


class Store:
    """Traffic and results below one folder. Safe for many processes at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._load_decoder = msgspec.msgpack.Decoder(Load)
        self._result_decoder = msgspec.msgpack.Decoder(RunResult)

    def put_load(self, load: Load) -> str:
        """Keeps it; its digest, under which `load` gives it back."""
        body = msgspec.msgpack.encode(load)
        digest = hashlib.sha256(body).hexdigest()
        if not self._touch(path := self._path("traffic", digest)):
            self._write(path, body)
        return digest

    def load(self, digest: str) -> Load:
        """The traffic of that digest; FileNotFoundError if it is not here."""
        return self._load_decoder.decode(zlib.decompress(self._path("traffic", digest).read_bytes()))

    def put_result(self, key: str, result: RunResult) -> None:
        """Keeps a result under the digest of all that it follows from."""
        self._write(self._path("results", key), msgspec.msgpack.encode(result))

    def result(self, key: str) -> RunResult | None:
        """The result of that key, marked as used; None if it is not here or cannot be read (a disk that was full)."""
        path = self._path("results", key)
        if not self._touch(path):
            return None
        try:
            return self._result_decoder.decode(zlib.decompress(path.read_bytes()))
        except (FileNotFoundError, zlib.error, msgspec.DecodeError):
            return None

    def put_bytes(self, kind: str, key: str, body: bytes) -> None:
        """Keeps what has a form of its own, below `kind`."""
        self._write(self._path(kind, key), body)

    def bytes_of(self, kind: str, key: str) -> bytes | None:
        """What was kept there, marked as used; None if it is not here or cannot be read."""
        path = self._path(kind, key)
        try:
            return zlib.decompress(path.read_bytes()) if self._touch(path) else None
        except (FileNotFoundError, zlib.error):
            return None

    def trim(self, max_bytes: int = MAX_BYTES) -> int:
        """Deletes what was used longest ago until at most `max_bytes` are left; how many files went."""
        files = sorted(_files(self.folder), key=lambda entry: entry[0], reverse=True)
        kept, gone = 0, 0
        for _, size, path in files:
            kept += size
            if kept > max_bytes:
                path.unlink(missing_ok=True)
                gone += 1
        return gone

    def _path(self, kind: str, digest: str) -> Path:
        return self.folder / kind / digest[:2] / digest[2:]

    def _touch(self, path: Path) -> bool:
        """Marks it as used now; False if it is not there."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _write(self, path: Path, body: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
        with os.fdopen(handle, "wb") as file:
            file.write(zlib.compress(body, _QUICK))
        Path(name).replace(path)


_UNFINISHED = "unfinished-"
_FORGOTTEN_S = 86_400.0


def _files(folder: Path) -> Sequence[tuple[float, int, Path]]:
    """(last use, bytes, path) of each complete file; what a killed run left unfinished a day ago goes."""
    found = []
    for path in folder.glob("*/*/*"):
        try:
            about = path.stat()
        except FileNotFoundError:  # another process trims too
            continue
        if not path.name.startswith(_UNFINISHED):
            found.append((about.st_mtime, about.st_size, path))
        elif unix_time_s() - about.st_mtime > _FORGOTTEN_S:
            path.unlink(missing_ok=True)
    return found
