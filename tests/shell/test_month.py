"""What a service has cost this month: the ledger's figures, asked rarely, and unset where part of them is unknown."""

from decimal import Decimal
from pathlib import Path

import pytest

from ebbtide.clock import parse_rfc3339, rfc3339
from ebbtide.controller.month import MonthToDate
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import Lifetime, Payer, PriceRecord
from ebbtide.model.plan import MonthCost, ServiceCost
from ebbtide.model.spec import Billing, Price, Tariff
from tests.shell import world

BEGIN = int(parse_rfc3339("2026-01-31T20:00:00Z"))  # of the ledger: four hours before February
FEBRUARY = BEGIN + 4 * 3600
CHAT, OTHER = "team/chat", "team/other"
COST = ServiceCost(Decimal(10), "USD")


def life(uid: str, begin_s: int, end_s: int | None = None, *, service: str = "chat", pool: str = "h100") -> Lifetime:
    seen_s = begin_s if end_s is None else end_s
    return Lifetime(uid, Payer(pool, "team", service), 4, begin_s, seen_s, end_s, "n")


def priced(pool: str = "h100", currency: str = "USD", amount: str = "2.50") -> PriceRecord:
    return PriceRecord(pool, 0, Price(currency, Tariff(Decimal(amount))), Billing.POD)


class Asked:
    """A ledger, and what is said of it."""

    def __init__(self, where: Path) -> None:
        self.ledger = Ledger(where)
        self.epoch = self.ledger.lead(BEGIN)
        self.month = MonthToDate()

    def at(self, at_s: int, *lives: Lifetime, prices: tuple[PriceRecord, ...] = ()) -> dict[str, MonthCost | None]:
        """After these lifetimes were written."""
        self.ledger.write(self.epoch, at_s, lives, prices)
        self.month.ask(self.ledger, at_s)
        return self.said(at_s)

    def said(self, at_s: int, cost: ServiceCost | None = COST) -> dict[str, MonthCost | None]:
        plans = (world.service_plan(CHAT, cost=cost), world.service_plan(OTHER, cost=cost))
        told = self.month.added(world.plan(*plans, at=float(at_s)))
        return {item.key: item.month for item in told.services}


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path / "ledger.sqlite")


def amount(found: dict[str, MonthCost | None], key: str = CHAT) -> Decimal | None:
    month = found[key]
    return None if month is None else month.amount


def test_what_ran_before_midnight_of_utc_is_last_months(asked: Asked) -> None:
    lives = life("a", BEGIN), life("b", BEGIN, FEBRUARY + 1800), life("x", FEBRUARY, service="other")
    found = asked.at(FEBRUARY + 3600, *lives, prices=(priced(),))
    assert found[CHAT] == MonthCost(Decimal(15), "USD", float(FEBRUARY), FEBRUARY + 3600.0)
    assert amount(found, OTHER) == Decimal(10)


def test_a_ledger_that_began_later_says_from_when(asked: Asked) -> None:
    found = asked.at(BEGIN + 3600, life("a", BEGIN), prices=(priced(),))[CHAT]
    assert found is not None
    assert (rfc3339(found.from_s), found.amount) == ("2026-01-31T20:00:00Z", Decimal(10))


def test_rolled_up_or_not_and_with_late_news_it_is_the_same_as_the_bill(asked: Asked) -> None:
    """Hours are kept once they are rolled up; an end that becomes known late takes back what was counted."""
    asked.at(FEBRUARY + 3600, life("a", FEBRUARY + 60), life("b", FEBRUARY), prices=(priced(),))
    for hour in range(2, 9):
        at_s = FEBRUARY + 3600 * hour + 77
        ended = [life("b", FEBRUARY, FEBRUARY + 5000)] if hour == 7 else []
        asked.ledger.write(asked.epoch, at_s, ended)
        asked.ledger.roll_up(asked.epoch, at_s)
        found = asked.at(at_s)
        wanted = sum((row.cost or Decimal(0) for row in asked.ledger.rows(FEBRUARY, at_s)), Decimal(0))
        assert amount(found) == wanted.quantize(Decimal("0.000001"))
    assert amount(found) == Decimal("93.936111"), "8 h 17 s and 5,000 s, at 10 an hour"


def test_an_hour_that_was_worked_out_anew_between_two_questions_is_asked_again(asked: Asked) -> None:
    late_s = FEBRUARY + 6 * 3600
    asked.at(late_s - 60, life("a", FEBRUARY), prices=(priced(),))
    asked.ledger.roll_up(asked.epoch, late_s)
    before = amount(asked.at(late_s))
    asked.ledger.write(asked.epoch, late_s, [life("late", FEBRUARY)])
    asked.ledger.roll_up(asked.epoch, late_s)  # it ends where it ended before
    after = amount(asked.at(late_s + 60))
    assert (before, after) == (Decimal(60), Decimal("120.333333"))


@pytest.mark.parametrize(
    ("lives", "prices"),
    [
        pytest.param([life("a", FEBRUARY)], [], id="nobody knows a price"),
        pytest.param(
            [life("a", FEBRUARY, FEBRUARY + 60, pool="new"), life("b", FEBRUARY)], [priced()], id="of a minute of it"
        ),
        pytest.param(
            [life("a", FEBRUARY), life("b", FEBRUARY, pool="yen")],
            [priced(), priced("yen", "JPY", "300")],
            id="two currencies are not added",
        ),
    ],
)
def test_what_is_not_known_of_part_is_not_said_at_all(
    asked: Asked, lives: list[Lifetime], prices: list[PriceRecord]
) -> None:
    found = asked.at(FEBRUARY + 3600, *lives, prices=tuple(prices))
    assert found[CHAT] is None
    assert amount(found, OTHER) == 0, "it held nothing, and that is known"
    assert asked.said(FEBRUARY + 3600, cost=None)[OTHER] is None, "but not in which currency"


def test_it_is_asked_once_a_minute_and_says_up_to_when(asked: Asked) -> None:
    first = asked.at(FEBRUARY + 3600, life("a", FEBRUARY), prices=(priced(),))
    assert asked.at(FEBRUARY + 3659) == first
    later = asked.at(FEBRUARY + 3660)[CHAT]
    assert later is not None
    assert later.through_s == FEBRUARY + 3660


def test_a_new_month_begins_unknown_until_it_was_asked(asked: Asked) -> None:
    asked.at(FEBRUARY - 30, life("a", BEGIN), prices=(priced(),))
    assert asked.said(FEBRUARY + 10)[CHAT] is None
    assert amount(asked.at(FEBRUARY + 36)) == Decimal("0.1")


def test_a_ledger_that_cannot_be_asked_yet_says_nothing(asked: Asked) -> None:
    asked.month.ask(None, FEBRUARY)
    assert asked.said(FEBRUARY)[CHAT] is None
    asked.at(FEBRUARY + 60, life("a", FEBRUARY), prices=(priced(),))
    asked.month.begin_to_lead()
    assert asked.said(FEBRUARY + 60)[CHAT] is None, "another may have led since"
