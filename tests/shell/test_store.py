"""The database: what survives a restart, what is written, and what happens to a damaged or newer file."""

import sqlite3
from pathlib import Path

import msgspec
import pytest

from ebbtide.errors import ConfigurationError, RetryableError
from ebbtide.model.memory import (
    MEMORY_VERSION,
    BatchMemory,
    CapacityMemory,
    DemandSample,
    ForecastMemory,
    Memory,
    OwnerMemory,
    PlannedJob,
    PoolMemory,
    Recommendation,
    ServiceMemory,
    VariantMemory,
)
from ebbtide.model.snapshot import WriteReceipt
from ebbtide.record.store import MIGRATIONS, Store


def service(key: str = "team/chat", requests: float = 1.5, moves: int = 0) -> ServiceMemory:
    sample = DemandSample(at=10.0, requests_per_second=requests, length=10.0)
    return ServiceMemory(
        key=key,
        forecast=ForecastMemory(samples=(sample,)),
        variants=(VariantMemory(name="h100", capacity=CapacityMemory(startup_s=(31.0, 48.0))),),
        moves=tuple(Recommendation(at=float(i), replicas=i) for i in range(moves)),
    )


def memory(*services: ServiceMemory, started_at: float = 12.25) -> Memory:
    return Memory(started_at=started_at, services=services, pools=(PoolMemory(name="h100", backoff_s=60.0),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ebbtide.db"


def test_memory_receipts_and_values_survive_a_restart(path: Path) -> None:
    store = Store(path)
    batch = BatchMemory(owners=(OwnerMemory("ml/CronJob/night", (3600.0,), 5.0),), short=(("uid-cap", 7.0),))
    kept = msgspec.structs.replace(memory(service("a/one"), service("b/two")), batch=batch)
    receipt = WriteReceipt(target_uid="u", replicas=3, at=7.0, done=False)
    waits = msgspec.structs.replace(batch, planned=(PlannedJob("uid-j", "WaitsForWindow"),), planned_at=9.0)
    store.save_memory(msgspec.structs.replace(kept, batch=waits))  # what is planned is planned anew
    store.store_receipt("a/one/h100", receipt)
    store.put("color", "blue")
    again = Store(path)  # the first one was killed: it never closed
    assert again.load_memory() == kept
    assert again.receipts() == {"a/one/h100": receipt}
    assert (again.get("color"), again.get("size"), again.notice) == ("blue", None, "")


def test_a_new_file_has_an_empty_memory(path: Path) -> None:
    assert Store(path).load_memory() == Memory()


def test_only_rows_that_changed_are_written(path: Path) -> None:
    store = Store(path)
    assert store.save_memory(memory(service("a/one"), service("b/two"))) == 3
    assert store.save_memory(memory(service("a/one"), service("b/two"))) == 0, "equal values, other objects"
    assert store.save_memory(memory(service("a/one", requests=2.0), service("b/two"))) == 1
    again = Store(path)
    again.load_memory()
    assert again.save_memory(memory(service("a/one", requests=2.0), service("b/two"))) == 0, "also after a restart"


def test_what_is_gone_is_removed(path: Path) -> None:
    store = Store(path)
    store.save_memory(memory(service("a/one"), service("b/two")))
    store.save_memory(memory(service("b/two")))
    assert [item.key for item in Store(path).load_memory().services] == ["b/two"]


def test_above_the_bound_what_decides_is_written_and_the_rest_takes_turns(path: Path) -> None:
    store = Store(path, max_rows_per_save=2)
    keys = [f"n/s{i}" for i in range(6)]
    store.save_memory(memory(*(service(key) for key in keys)))
    moved = [service(key, requests=2.0, moves=1 if key == "n/s5" else 0) for key in keys]
    written: set[str] = set()
    for _ in range(5):
        assert store.save_memory(memory(*moved)) <= 2
        written |= {item.key for item in Store(path).load_memory().services if item in moved}
        assert "n/s5" in written, "a move is decisive and never waits"
    assert written == set(keys)


def test_a_graceful_stop_writes_everything(path: Path) -> None:
    store = Store(path, max_rows_per_save=1)
    keys = [f"n/s{i}" for i in range(6)]
    store.save_memory(memory(*(service(key) for key in keys)))
    last = memory(*(service(key, requests=9.0) for key in keys))
    store.save_memory(last, everything=True)
    store.close()
    assert Store(path).load_memory() == last


def test_memory_of_another_version_is_dropped_and_said_so(path: Path) -> None:
    store = Store(path)
    store.save_memory(memory(service()))
    store.store_receipt("team/chat/h100", WriteReceipt(target_uid="u", replicas=3, at=7.0))
    store.put("memory.version", str(MEMORY_VERSION + 1))
    again = Store(path)
    assert again.load_memory() == Memory()
    assert str(MEMORY_VERSION + 1) in again.notice
    assert again.receipts(), "what was written to targets stays known"


def test_rows_that_cannot_be_read_are_dropped_and_said_so(path: Path) -> None:
    store = Store(path)
    store.save_memory(memory(service()))
    store.close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE memory SET body = x'c1' WHERE kind = 'service'")
    raw.close()
    again = Store(path)
    assert again.load_memory() == Memory()
    assert "cannot be read" in again.notice


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(
            lambda path: path.write_bytes(b"not a database, but long enough to be read as one" * 50), id="text"
        ),
        pytest.param(lambda path: _overwrite(path, 4096, b"\xff" * 4096), id="a page overwritten"),
    ],
)
def test_a_damaged_file_is_moved_aside_and_the_operator_goes_on(path: Path, damage: object) -> None:
    store = Store(path)
    store.save_memory(memory(*(service(f"n/s{i}") for i in range(200))))
    store.close()
    damage(path)  # type: ignore[operator]
    again = Store(path)
    aside = [other for other in path.parent.iterdir() if ".aside-" in other.name]
    assert again.load_memory() == Memory()
    assert len(aside) == 1 and str(aside[0]) in again.notice
    again.put("still", "works")


def _overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_a_file_of_a_newer_program_is_moved_aside_not_destroyed(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    raw.close()
    again = Store(path)
    assert "newer Ebbtide" in again.notice
    assert len(list(path.parent.glob("*.aside-*"))) >= 1


def test_an_unusable_path_names_itself_and_the_way_out(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(ConfigurationError, match="writable directory"):
        Store(occupied / "ebbtide.db")
    with pytest.raises(ConfigurationError, match="writable directory"):
        Store(tmp_path)


def test_a_write_that_fails_is_an_error_and_leaves_the_store_usable(path: Path) -> None:
    store = Store(path)
    other = sqlite3.connect(path, isolation_level=None)
    store._connection.execute("PRAGMA busy_timeout = 10")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RetryableError, match="Nothing was saved"):
        store.save_memory(memory(service()))
    with pytest.raises(RetryableError, match="Nothing was saved"):
        store.store_receipt("team/chat/h100", WriteReceipt(target_uid="u", replicas=3, at=7.0))
    other.execute("ROLLBACK")
    other.close()
    assert store.save_memory(memory(service())) == 2


def test_receipts_of_removed_variants_are_forgotten(path: Path) -> None:
    store = Store(path)
    for key in ("a/one/h100", "a/one/l40s"):
        store.store_receipt(key, WriteReceipt(target_uid="u", replicas=3, at=7.0))
    assert store.forget_receipts(["a/one/l40s"]) == 1
    assert list(store.receipts()) == ["a/one/l40s"]
