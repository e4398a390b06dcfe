"""What must survive a restart, in one SQLite file: memory, receipts of scale writes, and a few small values.

One writer, write-ahead log, every commit synced, a schema version with migrations. A file that is damaged or newer than
this program is moved aside, said so in `notice`, and the operator goes on cold: it holds until it has watched again.

Threads: one connection behind one lock. `store_receipt` and the small calls are quick enough for the event loop;
`load_memory` and `save_memory` belong in `asyncio.to_thread`.
"""

import hashlib
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import msgspec

from ebbtide.aside import move_aside
from ebbtide.errors import ConfigurationError, RetryableError
from ebbtide.model.memory import (
    MEMORY_VERSION,
    BatchMemory,
    BudgetMemory,
    ForecastMemory,
    Memory,
    PolicyMemory,
    PoolMemory,
    ServiceMemory,
    WorthMemory,
)
from ebbtide.model.snapshot import WriteReceipt

# Each entry brings the schema from its index to the next version; never edit one that was released, add another
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE memory (kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, key))"
        " WITHOUT ROWID",
        "CREATE TABLE receipt (key TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID",
        "CREATE TABLE kv (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    ),
)

_Kept = ServiceMemory | PoolMemory | PolicyMemory | BatchMemory
_T = TypeVar("_T", ServiceMemory, PoolMemory, PolicyMemory, BatchMemory)

_BUSY_S = 5.0
# At 10,000 services all rows change every cycle (each gets a new sample): 2,000 of a few KB a cycle keep the disk at
# about 1 MB/s, and a crash loses at most a minute of samples. What decides is always written, see `_decisive`.
_MAX_ROWS = 2000


class Store:
    """One file. `notice` says in words what was moved aside at start, '' when nothing was.

    Raises ConfigurationError when the path cannot be used at all, RetryableError when a write fails later.
    """

    def __init__(self, path: Path, max_rows_per_save: int = _MAX_ROWS) -> None:
        self.path = path
        self.notice = ""
        self._max_rows = max_rows_per_save
        self._lock = threading.Lock()
        self._written: dict[tuple[str, str], _Written] = {}
        self._saves = 0
        self._connection = self._open_or_move_aside()

    def load_memory(self) -> Memory:
        """The memory as last saved; an empty one when there is none or its version is not this program's."""
        try:
            version = int(self.get("memory.version") or -1)
            if version != MEMORY_VERSION:
                return self._drop_memory(version)
            services = self._read_all("service", ServiceMemory)
            pools = self._read_all("pool", PoolMemory)
            policies = self._read_all("policy", PolicyMemory)
            batch = self._read_all("batch", BatchMemory)
            started_at = float(self.get("memory.started_at") or 0.0)
        except (msgspec.DecodeError, ValueError) as error:
            self.notice = f"{self.path}: remembered data cannot be read ({error}); starting without it"
            return self._drop_memory(None)
        return Memory(
            started_at=started_at,
            services=services,
            pools=pools,
            policies=policies,
            batch=batch[0] if batch else BatchMemory(),
        )

    def save_memory(self, memory: Memory, everything: bool = False) -> int:
        """Writes the rows that changed and removes those that are gone, in one transaction; returns rows written.

        Above `max_rows_per_save` changed rows, the decisive ones go first and then those unwritten for longest;
        `everything` (on a graceful stop) writes them all.
        """
        items: list[tuple[str, str, _Kept]] = [
            *(("service", service.key, service) for service in memory.services),
            *(("pool", pool.name, pool) for pool in memory.pools),
            *(("policy", policy.uid, policy) for policy in memory.policies),
            *((("batch", "", _lasting(memory.batch)),) if memory.batch != BatchMemory() else ()),
        ]
        changed = [row for row in map(self._changed, items) if row is not None]
        if not everything and len(changed) > self._max_rows:
            changed.sort(key=lambda row: (not row.decisive, row.written_at_save))
            decisive = sum(row.decisive for row in changed)
            changed = changed[: max(self._max_rows, decisive)]
        gone = self._written.keys() - {(kind, key) for kind, key, _ in items}
        self._commit_memory(memory, changed, gone)
        return len(changed)

    def store_receipt(self, key: str, receipt: WriteReceipt) -> None:
        """Durable when this returns. `key` is `namespace/service/variant`."""
        with self._lock:
            self._execute("INSERT OR REPLACE INTO receipt VALUES (?, ?)", (key, msgspec.json.encode(receipt)))

    def receipts(self) -> dict[str, WriteReceipt]:
        """All receipts by `namespace/service/variant`. One that cannot be read is left out."""
        with self._lock:
            rows = self._execute("SELECT key, body FROM receipt").fetchall()
        found: dict[str, WriteReceipt] = {}
        for key, body in rows:
            try:
                found[key] = msgspec.json.decode(body, type=WriteReceipt)
            except msgspec.DecodeError:
                self.notice = f"{self.path}: the receipt of {key} cannot be read; it is ignored"
        return found

    def forget_receipts(self, keep: Iterable[str]) -> int:
        """Drops the receipts of every key not in `keep`; returns how many."""
        gone = self.receipts().keys() - set(keep)
        with self._lock:
            for key in gone:
                self._execute("DELETE FROM receipt WHERE key = ?", (key,))
        return len(gone)

    def get(self, key: str) -> str | None:
        """A small value, or None."""
        with self._lock:
            row = self._execute("SELECT value FROM kv WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, value: str) -> None:
        """Sets a small value, durably."""
        with self._lock:
            self._execute("INSERT OR REPLACE INTO kv VALUES (?, ?)", (key, value))

    def close(self) -> None:
        """Folds the log into the file and closes it."""
        with self._lock:
            self._connection.close()

    # -- memory rows

    def _changed(self, item: tuple[str, str, _Kept]) -> "_Row | None":
        kind, key, value = item
        before = self._written.get((kind, key))
        digest = _digest(msgspec.msgpack.encode(value))
        if before is not None and before.digest == digest:
            return None
        core = _core(value)
        decisive = before is None or before.core != core
        return _Row(kind, key, core, value, digest, decisive, before.at_save if before else -1)

    def _commit_memory(self, memory: Memory, changed: "list[_Row]", gone: Iterable[tuple[str, str]]) -> None:
        gone = list(gone)
        meta = {"memory.version": str(MEMORY_VERSION), "memory.started_at": repr(memory.started_at)}
        with self._lock:
            self._execute("BEGIN IMMEDIATE")
            try:
                rows = ((row.kind, row.key, msgspec.msgpack.encode(row.value)) for row in changed)
                self._connection.executemany("INSERT OR REPLACE INTO memory VALUES (?, ?, ?)", rows)
                self._connection.executemany("DELETE FROM memory WHERE kind = ? AND key = ?", gone)
                self._connection.executemany("INSERT OR REPLACE INTO kv VALUES (?, ?)", list(meta.items()))
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise _write_error(self.path, error) from error
        self._saves += 1
        for row in changed:
            self._written[row.kind, row.key] = _Written(row.core, row.digest, self._saves)
        for key in gone:
            del self._written[key]

    def _read_all(self, kind: str, type_: type[_T]) -> tuple[_T, ...]:
        with self._lock:
            rows = self._execute("SELECT key, body FROM memory WHERE kind = ? ORDER BY key", (kind,)).fetchall()
        found = []
        for key, body in rows:
            value = msgspec.msgpack.decode(body, type=type_)
            self._written[kind, key] = _Written(_core(value), _digest(body), 0)
            found.append(value)
        return tuple(found)

    def _drop_memory(self, version: int | None) -> Memory:
        if version is not None and version >= 0:
            self.notice = (
                f"{self.path}: memory of version {version} was dropped, this program writes {MEMORY_VERSION};"
                " replicas are held until enough has been seen again"
            )
        self._written.clear()
        with self._lock:
            self._execute("DELETE FROM memory")
        return Memory()

    # -- the file

    def _open_or_move_aside(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fault = self._try_open()
            if isinstance(fault, sqlite3.Connection):
                return fault
            aside = move_aside(self.path)
            self.notice = f"{self.path}: {fault}. It was moved to {aside}; Ebbtide starts without its memory"
            opened = self._try_open()
        except OSError as error:
            raise ConfigurationError(f"database {self.path}: {error}. Give a path in a writable directory") from error
        if isinstance(opened, str):
            raise ConfigurationError(f"database {self.path}: {opened}. Give a path in a writable directory")
        return opened

    def _try_open(self) -> sqlite3.Connection | str:
        """The open, checked and migrated connection, or what is wrong with the file."""
        connection = None
        try:
            connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            fault = _check_and_migrate(connection)
        except sqlite3.OperationalError as error:
            if connection is not None:
                connection.close()
            raise ConfigurationError(
                f"database {self.path}: {error}. It must be in a writable directory and used by one operator only"
            ) from error
        except sqlite3.DatabaseError as error:
            fault = f"the file is damaged ({error})"
        if not fault and connection is not None:
            return connection
        if connection is not None:
            connection.close()
        return fault

    def _execute(self, sql: str, parameters: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(sql, parameters)
        except sqlite3.Error as error:
            raise _write_error(self.path, error) from error

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


class _Written(msgspec.Struct, frozen=True):
    """What is on disk for one row, as digests: of its decisive part (`core`) and of all.

    `at_save` counts saves, so that the longest unwritten goes first.
    """

    core: bytes
    digest: bytes
    at_save: int


class _Row(msgspec.Struct, frozen=True):
    """A row to be written. Not encoded yet: of 10,000 that changed 2,000 are written, and all would be 30 MB."""

    kind: str
    key: str
    core: bytes
    value: _Kept
    digest: bytes
    decisive: bool
    written_at_save: int


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


def _core(value: _Kept) -> bytes:
    return _digest(msgspec.msgpack.encode(_decisive(value)))


def _lasting(batch: BatchMemory) -> BatchMemory:
    """Without the plan, which is made anew in the first cycle: 200 bytes for each Job that waits."""
    return msgspec.structs.replace(batch, planned=(), planned_at=0.0, planned_for=0, next_at=0.0)


def _decisive(value: _Kept) -> _Kept:
    """The value without what is merely measured: losing a minute of samples costs accuracy, the rest costs moves.

    What is measured is listed and the rest decides, so that a new field errs on the side of being written.
    """
    if isinstance(value, PoolMemory | BatchMemory):
        return value
    if isinstance(value, PolicyMemory):
        return PolicyMemory(value.uid, rates=value.rates, errors=value.errors)
    variants = tuple(
        msgspec.structs.replace(variant, capacity=type(variant.capacity)(backoff_until=variant.capacity.backoff_until))
        for variant in value.variants
    )
    return msgspec.structs.replace(
        value,
        forecast=ForecastMemory(),
        budget=BudgetMemory(),
        worth=WorthMemory(),
        recommendations=(),
        variants=variants,
        last_request_at=None,
        last_fresh_at=None,
        queued_at=None,
        activator_seen_at=None,
        even_dispatch=0.5,
        input_tokens=0.0,
        output_tokens=0.0,
        lengths_s=0.0,
    )


def _check_and_migrate(connection: sqlite3.Connection) -> str:
    """Brings the schema to this program's version; returns what is wrong with the file, or ''."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a receipt must survive the node, not only the process
    with closing(connection.execute("PRAGMA quick_check(1)")) as cursor:
        verdict = str(cursor.fetchone()[0])
    if verdict != "ok":
        return f"the file is damaged ({verdict})"
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        return f"the file has schema version {version}, written by a newer Ebbtide; this one knows {len(MIGRATIONS)}"
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    return ""


def _write_error(path: Path, error: sqlite3.Error) -> RetryableError:
    return RetryableError(f"database {path}: {error}. Nothing was saved; is the disk full or read-only?")
