"""The flight recorder: what recent cycles saw, remembered and decided, so that any of them can be decided again.

One chunk a service, a pool and a batch Job; one that the recording before had too is not stored again, so an unchanged
object costs a number. Files are bounded together: when `max_bytes` is exceeded the oldest goes. Recording must never
disturb a cycle: a full disk is said in `notice` and the cycle goes on.

The encoding is MessagePack, not JSON: histograms end in an infinite bucket, which JSON cannot say, and bit-for-bit
replay needs exactly the floats that were seen. Money stays `Decimal` (as text). No part of it is a map, so the bytes
do not depend on hash seeds.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ebbtide import __version__
from ebbtide.errors import ConfigurationError, EbbtideError, NotFoundError
from ebbtide.model.batch import JobState
from ebbtide.model.memory import Memory, PoolMemory, ServiceMemory
from ebbtide.model.plan import JobPlan, Plan, PoolPlan, ServicePlan
from ebbtide.model.snapshot import PoolState, ServiceState, Snapshot
from ebbtide.record.segment import Entry, SegmentWriter, entries, read_parts

Whole = TypeVar("Whole", bound=msgspec.Struct)

LAST = "last"  # the id that stands for the newest recording
_SEGMENTS = 4  # a quarter of max_bytes each, so that dropping the oldest keeps three quarters of the history
_SUFFIX = ".flight"


@dataclass(frozen=True, slots=True)
class Recording:
    """One cycle: the arguments of `plan`, what it returned, and by which version of Ebbtide."""

    id: str
    snapshot: Snapshot
    memory: Memory
    now_s: float
    plan: Plan
    plan_digest: str
    version: str


class FlightRecorder:
    """Writes to and reads from one directory. Calls block; `record` belongs in `asyncio.to_thread`.

    `every_s`: a cycle that decided nothing new is recorded this often at most (`due`). Raises ConfigurationError when
    the directory cannot be used.
    """

    def __init__(self, directory: Path, max_bytes: int, every_s: float = 60.0) -> None:
        self.directory = directory
        self.notice = ""
        self._max_bytes = max_bytes
        self._every_s = every_s
        self._writer: SegmentWriter | None = None
        self._last_at = float("-inf")
        self._last_decision = b""
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"recorder directory {directory}: {error}. Give a writable directory") from error

    def due(self, plan: Plan, now_s: float) -> bool:
        """True when the plan writes something, decided otherwise than the last recorded one, or it is time again."""
        return bool(plan.actions) or now_s - self._last_at >= self._every_s or decision_of(plan) != self._last_decision

    def record(self, snapshot: Snapshot, memory: Memory, now_s: float, plan: Plan) -> str:
        """Stores one cycle (`memory` as it went into `plan`) and returns its decision id, also when the disk failed."""
        digest = digest_of(plan)
        id_ = decision_id(now_s, digest)
        facts = {"now_s": repr(now_s), "plan": digest, "version": __version__}
        try:
            self._append(id_, facts, _parts(snapshot, memory, plan))
        except OSError as error:
            self.notice = f"{self.directory}: decision {id_} was not recorded: {error}"
            self._writer = None
        self._last_at, self._last_decision = now_s, decision_of(plan)
        return id_

    def ids(self) -> list[str]:
        """The ids of everything still held, oldest first."""
        return [entry.id for path in self._files() for entry in entries(path)]

    def load(self, id_: str) -> Recording:
        """One recording by its id, a unique beginning of it, or `last`.

        Raises NotFoundError naming what there is, EbbtideError when the file is damaged.
        """
        path, entry = self._find(id_)
        parts = read_parts(path, entry)
        if _inputs_digest(parts) != entry.facts["inputs"]:
            raise EbbtideError(f"{path}: recording {entry.id} does not match its own digest: the file was changed")
        return _decode(entry, parts)

    def close(self) -> None:
        """Closes the file being written."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _append(self, id_: str, facts: dict[str, str], parts: dict[str, Iterable[bytes]]) -> None:
        if self._writer is not None and self._writer.size >= self._max_bytes // _SEGMENTS:
            self.close()
        if self._writer is None:
            self._writer = SegmentWriter(self._new_path())
        inputs = hashlib.sha256()
        numbers = {name: self._writer.add(parts[name], inputs) for name in sorted(parts)}
        self._writer.commit(Entry(id=id_, facts=facts | {"inputs": inputs.hexdigest()}, parts=numbers))
        self._drop_oldest()

    def _new_path(self) -> Path:
        last = max((int(path.stem) for path in self._files()), default=0)
        return self.directory / f"{last + 1:08d}{_SUFFIX}"

    def _drop_oldest(self) -> None:
        files = self._files()
        sizes = {path: path.stat().st_size for path in files}
        while len(files) > 1 and sum(sizes[path] for path in files) > self._max_bytes:
            files.pop(0).unlink()

    def _files(self) -> list[Path]:
        return sorted(path for path in self.directory.glob(f"*{_SUFFIX}") if path.stem.isdigit())

    def _find(self, id_: str) -> tuple[Path, Entry]:
        held = [(path, entry) for path in self._files() for entry in entries(path)]
        if not held:
            raise NotFoundError(f"{self.directory}: no decisions are recorded here")
        exact = held[-1:] if id_ == LAST else [item for item in held if item[1].id == id_][-1:]
        matches = exact or [item for item in held if item[1].id.startswith(id_)]
        if len(matches) != 1:
            what = "is not held any more, or never was" if not matches else f"fits {len(matches)} decisions"
            raise NotFoundError(
                f"decision {id_!r} {what}; {self.directory} holds {len(held)}, from {held[0][1].id} to {held[-1][1].id}"
            )
        return matches[0]


def digest_of(plan: Plan) -> str:
    """SHA-256 of the plan, in hex: equal digests are equal plans, bit for bit.

    Each part is hashed as it is after one trip through the encoding, so that an int in a float field (5 for 5.0) is
    the same plan; part by part, because the whole plan of 10,000 services twice in memory costs a second of CPU.
    """
    digest = hashlib.sha256()
    parts = (*plan.services, *plan.pools, *plan.jobs, _rest(plan))
    for part in parts:
        canonical = msgspec.msgpack.encode(msgspec.msgpack.decode(msgspec.msgpack.encode(part), type=type(part)))
        digest.update(len(canonical).to_bytes(4, "big"))
        digest.update(canonical)
    return digest.hexdigest()


def decision_id(now_s: float, digest: str) -> str:
    """`20260131T090500.123Z-1a2b3c4d`: when (UTC), and the beginning of the plan's digest."""
    milliseconds = round(now_s * 1000)
    stamp = datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y%m%dT%H%M%S")
    return f"{stamp}.{milliseconds % 1000:03d}Z-{digest[:8]}"


def decision_of(plan: Plan) -> bytes:
    """What counts as deciding otherwise: another reason code, other replicas wanted or allowed, another Job outcome."""
    essence = [
        (service.key, service.reason.code, [(variant.wanted, variant.allowed) for variant in service.variants])
        for service in plan.services
    ]
    jobs = [(job.key, job.reason.code, job.outcome) for job in plan.jobs]
    return hashlib.sha256(msgspec.msgpack.encode((essence, jobs))).digest()


# The rest of each whole: what is left when its lists are taken out
_RESTS = {"snapshot": Snapshot, "memory": Memory, "plan": Plan}
_LISTS: dict[str, type[msgspec.Struct]] = {
    "snapshot.services": ServiceState,
    "snapshot.pools": PoolState,
    "memory.services": ServiceMemory,
    "memory.pools": PoolMemory,
    "snapshot.jobs": JobState,
    "plan.services": ServicePlan,
    "plan.pools": PoolPlan,
    "plan.jobs": JobPlan,
}


def _parts(snapshot: Snapshot, memory: Memory, plan: Plan) -> dict[str, Iterable[bytes]]:
    """Chunks by part, encoded while they are consumed: those of 10,000 services are 150 MB together."""
    parts: dict[str, Iterable[bytes]] = {}
    encode = msgspec.msgpack.Encoder().encode
    for name, whole in (("snapshot", snapshot), ("memory", memory), ("plan", plan)):
        for list_ in _lists_of(name):
            parts[f"{name}.{list_}"] = map(encode, getattr(whole, list_))
        parts[name] = [encode(_rest(whole))]
    return parts


def _rest(whole: Whole) -> Whole:
    """It without its lists."""
    empty: dict[str, Any] = dict.fromkeys(_lists_of(type(whole).__name__.lower()), ())
    return msgspec.structs.replace(whole, **empty)


def _lists_of(name: str) -> tuple[str, ...]:
    """`memory` -> services and pools."""
    return tuple(key.partition(".")[2] for key in _LISTS if key.startswith(f"{name}."))


def _inputs_digest(parts: dict[str, list[bytes]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(parts):
        for chunk in parts[name]:
            digest.update(hashlib.sha256(chunk).digest())
    return digest.hexdigest()


def _decode(entry: Entry, parts: dict[str, list[bytes]]) -> Recording:
    lists = {
        name: tuple(msgspec.msgpack.decode(chunk, type=type_) for chunk in parts.get(name, ()))
        for name, type_ in _LISTS.items()
    }
    wholes = {
        name: msgspec.structs.replace(
            msgspec.msgpack.decode(parts[name][0], type=type_),
            **{list_: lists[f"{name}.{list_}"] for list_ in _lists_of(name)},
        )
        for name, type_ in _RESTS.items()
    }
    return Recording(
        id=entry.id,
        snapshot=wholes["snapshot"],
        memory=wholes["memory"],
        now_s=float(entry.facts["now_s"]),
        plan=wholes["plan"],
        plan_digest=entry.facts["plan"],
        version=entry.facts["version"],
    )
