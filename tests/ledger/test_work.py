"""What the database adds up for prices of tokens is what the hours say one by one, and reading it takes little room."""

import random
import tracemalloc
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from ebbtide.ledger.days import Keeping
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import Lifetime, Payer, PriceRecord, UsageRow
from ebbtide.model.spec import Billing, Price, Tariff
from ebbtide.money.bill import HOUR_S
from ebbtide.money.units import Unit, Units, Work, units
from tests.ledger.lives import CHAT, DAY_S, T0, life

PAYERS = (CHAT, Payer("h100", "ml", "code"), Payer("nodes", "ml", "chat", "b"), Payer("h100", "batch"))
DAYS = 4


def priced(pool: str, at_s: int, price: str | None, currency: str = "USD") -> PriceRecord:
    spec = None if price is None else Price(currency, Tariff(Decimal(price)))
    return PriceRecord(pool, T0 + at_s, spec, Billing.NODE if pool == "nodes" else Billing.POD)


PRICES = [
    priced("h100", 0, "2.50"),
    priced("h100", DAY_S + 7 * HOUR_S + 1234, "3.333333"),  # within an hour
    priced("h100", 2 * DAY_S + 1800, "3.10", "EUR"),
    priced("h100", 3 * DAY_S, None),
    priced("nodes", 0, "1.70"),
]


def some_life(dice: random.Random) -> list[Lifetime]:
    node = Lifetime("n", Payer("nodes"), 8, T0, T0 + DAYS * DAY_S, T0 + DAYS * DAY_S, is_node=True)
    found = [node]
    for number in range(40):
        begin_s = dice.randrange((DAYS - 1) * DAY_S)
        found.append(life(f"p{number}", begin_s, begin_s + dice.randrange(1, DAY_S), dice.choice(PAYERS)))
    return found


def some_usage(dice: random.Random, ledger: Ledger) -> Iterable[UsageRow]:
    """Mostly all of an hour with its load, sometimes a part of it, sometimes more than was held, sometimes nothing."""
    held: dict[tuple[int, Payer], int] = {}
    for row in ledger.rows(T0, T0 + DAYS * DAY_S):
        if row.payer.service:
            held[row.hour_s, row.payer] = held.get((row.hour_s, row.payer), 0) + row.gpu_seconds
    for (hour_s, payer), gpu_s in held.items():
        seen = dice.choice([gpu_s, gpu_s, gpu_s, gpu_s * 2 // 3, gpu_s + 17, 0, None])
        if seen is None:
            continue
        rated = dice.choice([seen, seen, seen, 0, seen // 3, seen + 5])
        came = dice.randrange(10**6) if seen else 0
        yield UsageRow(hour_s, payer, came, came // 3, seen, rated, rated * dice.randrange(10) // 10, came, came // 20)


def added(works: Iterable[Work], by: tuple[str, ...]) -> tuple[Unit, ...]:
    found = Units(by)
    for work in works:
        found.add(work)
    return found.found()


def rounded(found: Iterable[Unit]) -> list[object]:
    """To nine places: of so many digits, sums in another order are the same."""

    def of(value: object) -> object:
        if isinstance(value, Decimal):
            return round(value, 9)
        return (
            tuple(of(each) for each in msgspec.structs.astuple(value)) if isinstance(value, msgspec.Struct) else value
        )

    return sorted((of(unit) for unit in found), key=repr)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("days_alone", "zone"), [(0, "UTC"), (2, "UTC"), (2, "Asia/Kolkata")])
def test_sums_say_what_the_hours_say_one_by_one(where: Path | str, seed: int, days_alone: int, zone: str) -> None:
    """Also of older time, of which days alone are kept, and of the last hours, which are not rolled up yet.

    Days of Kolkata end at half past: what is left of that hour is of lifetimes.
    """
    dice, ledger, end_s = random.Random(seed), Ledger(where), T0 + DAYS * DAY_S
    epoch = ledger.lead(T0)
    ledger.write(epoch, end_s, some_life(dice), PRICES)
    usage = list(some_usage(dice, ledger))
    ledger.write(epoch, end_s, [], usage=usage)
    kept = Keeping(10 * DAY_S, (DAYS - days_alone) * DAY_S, ZoneInfo(zone))
    while ledger.roll_up(epoch, end_s, kept):
        pass
    assert (ledger.hours_s > T0, T0 < ledger.rolled_s < end_s) == (days_alone > 0, True), "each part has some"
    assert bool(ledger.hours_s % HOUR_S) is (zone != "UTC")
    spans = [(T0, end_s), (T0 + 5 * HOUR_S, end_s - 7 * HOUR_S), (end_s - HOUR_S, end_s)]
    for from_s, to_s in spans:
        for by in (("service", "pool"), ()):
            works = list(ledger.work(from_s, to_s))
            expected = units(ledger.rows(from_s, to_s), ledger.usage(from_s, to_s), by)
            assert rounded(added(works, by)) == rounded(expected) and expected
    assert sum(each.usage.input_tokens for each in ledger.work(T0, end_s)) > 0
    ledger.close()


def test_hours_that_add_up_are_one_for_each_payer_and_price(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    epoch = ledger.lead(T0)
    usage = [UsageRow(T0 + hour * HOUR_S, CHAT, 10, 1, 14_400, 14_400, 7_200) for hour in range(20)]
    usage[3] = UsageRow(T0 + 3 * HOUR_S, CHAT, 10, 1, 14_400, 7_200, 7_200)
    ledger.write(epoch, T0 + DAY_S, [life("a", 0, DAY_S)], PRICES[:1], usage=usage)
    while ledger.roll_up(epoch, T0 + DAY_S + 2 * HOUR_S):
        pass
    works = list(ledger.work(T0, T0 + DAY_S))
    assert sorted((work.parts[0].gpu_seconds // 14_400, work.usage.input_tokens) for work in works) == [
        (1, 10),  # of which the load is known in a part
        (4, 0),  # of which nothing was seen
        (19, 190),
    ]
    ledger.close()


@pytest.mark.parametrize("most", [1, 200, 10**6])
def test_parts_hold_each_service_whole_and_together_all_there_is(
    where: Path | str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours, what is not rolled up yet, and parts of hours at either end."""
    monkeypatch.setattr("ebbtide.ledger.store.MOST_ROWS", most)
    dice, ledger, end_s = random.Random(7), Ledger(where), T0 + DAYS * DAY_S
    epoch = ledger.lead(T0)
    ledger.write(epoch, end_s, some_life(dice), PRICES)
    usage = list(some_usage(dice, ledger))
    ledger.write(epoch, end_s, [], usage=usage)
    while ledger.roll_up(epoch, end_s):
        pass
    for from_s, to_s in ((T0, end_s), (T0 + 1800, end_s - 1700)):
        parts = list(ledger.parts(from_s, to_s))
        rows = [row for part in parts for row in part[0]]
        assert sorted(rows, key=repr) == sorted(ledger.rows(from_s, to_s), key=repr) and rows
        worked = [row for part in parts for row in part[1]]
        assert sorted(worked) == list(ledger.usage(from_s // HOUR_S * HOUR_S, to_s)) and worked
        services = [{(row.payer.namespace, row.payer.service) for row in (*part[0], *part[1])} for part in parts]
        assert sum(map(len, services)) == len(set.union(*services)), "none is in two parts"
        assert (len(parts) == 1) is (most == 10**6)
    ledger.close()


def test_a_month_takes_the_room_of_a_day_and_not_of_its_hours(tmp_path: Path) -> None:
    ledger, hours, payers = Ledger(tmp_path / "ledger.sqlite"), 30 * 24, 40
    epoch, end_s = ledger.lead(T0), T0 + hours * HOUR_S
    lives = [life(f"p{each}", 0, hours * HOUR_S, Payer("h100", "ml", f"chat-{each}")) for each in range(payers)]
    usage = [
        UsageRow(T0 + hour * HOUR_S, each.payer, 10, 1, 14_400, 14_400, 7_200)
        for hour in range(hours)
        for each in lives
    ]
    ledger.write(epoch, end_s, lives, PRICES[:1], usage=usage)
    while ledger.roll_up(epoch, end_s + 2 * HOUR_S):
        pass

    def most_bytes(read: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            read()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    added_up = most_bytes(lambda: added(ledger.work(T0, end_s), ("service",)))
    one_by_one = most_bytes(lambda: (ledger.rows(T0, end_s), ledger.usage(T0, end_s)))
    assert added_up < one_by_one / 8, "28,800 hours and as many of usage, of which a day has 960"
    ledger.close()
