"""The ledger is kept up with what runs: through restarts, other leaders, and databases that are gone."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebbtide.controller.metering import Metering
from ebbtide.errors import RetryableError
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import Payer
from ebbtide.model.snapshot import Snapshot
from ebbtide.model.spec import Billing, Price, Tariff
from ebbtide.money.lifetimes import Holding
from ebbtide.observe.holdings import Held
from ebbtide.record.metrics import Metrics
from tests.shell import world

T0 = 1_800_000_000 - 1_800_000_000 % 3600
CHAT = Payer("h100", "team", "chat")


def at(second: int, price: str = "2.50", billing: Billing = Billing.POD) -> Snapshot:
    shown = world.snapshot()
    (pool,) = shown.pools
    spec = msgspec.structs.replace(pool.spec, price=Price("USD", Tariff(Decimal(price))), billing=billing)
    return msgspec.structs.replace(
        shown, taken_at=float(T0 + second), pools=(msgspec.structs.replace(pool, spec=spec),)
    )


def seen(*uids: str, gone: dict[str, float] | None = None, complete: bool = True) -> Held:
    """Pods of 4 GPUs, bound at the hour."""
    return Held(tuple(Holding(uid, CHAT, 4, float(T0), None, "n") for uid in uids), gone or {}, complete)


def bill(where: Path, until: int = 7200) -> Decimal:
    ledger = Ledger(where)
    rows = ledger.rows(T0 - 7200, T0 + until)
    ledger.close()
    return sum((row.cost or Decimal(0) for row in rows), Decimal(0))


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


async def test_from_binding_until_gone(where: Path) -> None:
    metering = Metering(where, Metrics())
    assert await metering.count(at(0), seen("a", "b"))
    assert await metering.count(at(1800), seen("a", gone={"b": T0 + 1799.2}))
    assert await metering.count(at(3600), seen(gone={"a": T0 + 3599.9}))
    assert bill(where) == Decimal(15)


async def test_a_price_that_is_edited_holds_from_then_on(where: Path) -> None:
    metering = Metering(where, Metrics())
    await metering.count(at(0), seen("a"))
    await metering.count(at(1800, "5.00"), seen("a"))
    await metering.count(at(3600, "5.00"), seen(gone={"a": float(T0 + 3600)}))
    assert bill(where) == Decimal(15)


async def test_what_ended_while_nobody_led_is_bounded_and_marked(where: Path) -> None:
    before = Metering(where, Metrics())
    await before.count(at(0), seen("a", "b"))
    await before.count(at(600), seen("a", "b"))
    await Metering(where, Metrics()).count(at(1800), seen("b"))
    ledger = Ledger(where)
    rows = ledger.rows(T0, T0 + 1800)
    assert sum(row.gpu_seconds for row in rows) == 2 * 4 * 1800, "b ran on; a is counted until it was missed"
    assert sum(row.estimated_s for row in rows) == 4 * 1200
    assert set(ledger.running()) == {"b"}


async def test_a_list_with_holes_ends_nothing(where: Path) -> None:
    metering = Metering(where, Metrics())
    await metering.count(at(0), seen("a"))
    await metering.count(at(600), seen(complete=False))
    await metering.count(at(1800), seen("a"))
    assert bill(where, 1800) == Decimal(5)


async def test_a_database_that_is_gone_for_an_hour_loses_nothing(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    metering = Metering(where, metrics)
    await metering.count(at(0), seen("a", "b"))

    def gone(*_: Any, **__: Any) -> None:
        raise RetryableError("ledger: the server closed the connection. Nothing was written; it is tried again")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", gone)
        assert await metering.count(at(1800), seen("b", gone={"a": T0 + 1000.0})), "it is kept here until then"
        assert await metering.count(at(2000, "5.00"), seen("b"))
        assert "the server closed the connection" in metering.notice
    assert b"ebbtide_ledger_failures_total 2.0" in metrics.exposition()
    assert await metering.count(at(3600, "5.00"), seen(gone={"b": float(T0 + 3600)}))
    assert metering.notice == ""
    assert bill(where) == Decimal(4) * (1000 + 2000) * Decimal("2.50") / 3600 + Decimal(4) * 1600 * Decimal(5) / 3600


async def test_a_ledger_that_was_never_there_leaves_departures_to_be_told_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.touch()  # a file where a folder should be
    metering = Metering(folder / "ledger.sqlite", Metrics())
    assert not await metering.count(at(10), seen(gone={"a": float(T0)}))
    assert "writable directory" in metering.notice
    folder.unlink()
    assert await metering.count(at(20), seen("b"))
    assert metering.notice == ""


async def test_a_leader_that_was_overtaken_takes_up_what_the_other_wrote(where: Path) -> None:
    old, new = Metering(where, Metrics()), Metering(where, Metrics())
    await old.count(at(0), seen("a"))
    await new.count(at(600), seen("a"))
    assert not await old.count(at(900), seen("a")), "its epoch is over"
    assert "another leader" in old.notice
    old.begin_to_lead()
    assert await old.count(at(1800), seen(gone={"a": float(T0 + 1800)}))
    assert bill(where) == Decimal(5)


def finished(uid: str, end_s: int, payer: Payer = CHAT) -> Holding:
    return Holding(uid, payer, 4, float(T0), float(T0 + end_s), "n")


async def test_a_finished_pod_that_stays_to_be_seen_counts_once_and_for_whom_it_ran(where: Path) -> None:
    """Nobody knows its service any more once it has finished."""
    metering, others = Metering(where, Metrics()), Payer("h100", "team")
    await metering.count(at(0), seen("job"))
    for second in (1800, 1810, 1820):
        await metering.count(at(second), Held((finished("job", 1795, others),), {}, True))
    again = Metering(where, Metrics())
    await again.count(at(1900), Held((finished("job", 1795, others),), {}, True))
    ledger = Ledger(where)
    assert [(row.payer, row.gpu_seconds) for row in ledger.rows(T0, T0 + 7200)] == [(CHAT, 4 * 1795)]


async def test_a_standby_that_saw_the_same_things_go_counts_none_of_them_again(where: Path) -> None:
    leader = Metering(where, Metrics())
    await leader.count(at(0), seen("a", "b"))
    await leader.count(at(600), seen("b", gone={"a": float(T0 + 600)}))
    gathered = (finished("a", 600, Payer("h100", "team")), finished("b", 900, Payer("h100", "team")))
    gone = {item.uid: item.end_s or 0.0 for item in gathered}
    await Metering(where, Metrics()).count(at(1000), Held(gathered, gone, True))
    ledger = Ledger(where)
    assert [(row.payer, row.gpu_seconds) for row in ledger.rows(T0, T0 + 7200)] == [(CHAT, 4 * 1500)]


async def test_what_was_away_for_a_while_comes_back_without_its_past(where: Path) -> None:
    """A node that lost its labels and got another pool's, or whose pool was deleted and made again."""
    metering, other = Metering(where, Metrics()), Payer("h100", "team", "code")
    await metering.count(at(0), seen("a"))
    await metering.count(at(600), seen("a"))
    await metering.count(at(610), seen())
    await metering.count(at(1200), Held((Holding("a", other, 4, float(T0), None, "n"),), {}, True))
    ledger = Ledger(where)
    found = {row.payer: row.gpu_seconds for row in ledger.rows(T0, T0 + 1800)}
    assert found == {CHAT: 4 * 610, other: 4 * 1190}


async def test_what_ran_before_there_was_a_ledger_is_not_in_it(where: Path) -> None:
    await Metering(where, Metrics()).count(at(1800), seen("a"))
    ledger = Ledger(where)
    assert ledger.since_s == T0 + 1800
    assert ledger.running()["a"].begin_s == T0 + 1800


async def test_nothing_is_written_after_the_lease_has_gone(where: Path) -> None:
    leading = [True]
    metering = Metering(where, Metrics(), lambda: leading[0])
    assert await metering.count(at(0), seen("a"))
    leading[0] = False
    await metering.count(at(600), seen(gone={"a": float(T0 + 600)}))
    assert "the lease went" in metering.notice
    assert set(Ledger(where).running()) == {"a"}


async def test_a_price_that_is_edited_twice_in_a_second_blocks_nothing(where: Path) -> None:
    metering = Metering(where, Metrics())
    for price in ("1.00", "2.00", "3.00"):
        assert await metering.count(at(0, price), seen("a"))
    tariffs = [record.price.tariff for record in Ledger(where).prices() if record.price]
    assert [str(tariff.base) for tariff in tariffs if tariff] == ["1.00", "2.00", "3.00"]
