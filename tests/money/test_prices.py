"""Prices by cron, duration and time zone: across midnight, daylight saving and overlapping windows."""

from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.api import parse_pool
from ebbtide.model.money import Listed, PriceStep
from ebbtide.model.reasons import Code
from ebbtide.model.spec import OnPrem, Price, PriceSource, Tariff, TariffWindow
from ebbtide.money.prices import PriceNow, price_at, steps
from tests.api.bad_objects import PRICED, WINDOW
from tests.api.samples import OWNED_POOL, changed

BASE, NIGHT, PEAK = Decimal("2.50"), Decimal("1.20"), Decimal("4.00")


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def window(cron: str, hours: float, price: Decimal, zone: str = "UTC") -> TariffWindow:
    return TariffWindow(cron=cron, time_zone=zone, duration_s=hours * 3600, amount=price)


def now(text: str, *schedule: TariffWindow) -> PriceNow:
    return price_at("h100", Price("USD", Tariff(BASE, schedule)), at(text))


NIGHTS = window("0 22 * * *", 9, NIGHT, "Europe/Berlin")


@pytest.mark.parametrize(
    ("moment", "price", "next_at", "next_price"),
    [
        pytest.param(
            "2026-01-15T12:00", BASE, "2026-01-15T21:00", NIGHT, id="noon, the night opens at 22:00 in Berlin"
        ),
        pytest.param("2026-01-15T21:00", NIGHT, "2026-01-16T06:00", BASE, id="the moment it opens"),
        pytest.param(
            "2026-01-16T03:00", NIGHT, "2026-01-16T06:00", BASE, id="after midnight it is the window of yesterday"
        ),
        pytest.param("2026-01-16T06:00", BASE, "2026-01-16T21:00", NIGHT, id="the moment it closes"),
        pytest.param("2026-07-15T12:00", BASE, "2026-07-15T20:00", NIGHT, id="in summer 22:00 is an hour earlier"),
        pytest.param("2026-03-28T23:00", NIGHT, "2026-03-29T06:00", BASE, id="clocks go forward: nine real hours"),
        pytest.param("2026-10-24T23:00", NIGHT, "2026-10-25T05:00", BASE, id="clocks go back: nine real hours"),
    ],
)
def test_one_window_every_night(moment: str, price: Decimal, next_at: str, next_price: Decimal) -> None:
    assert now(moment, NIGHTS) == PriceNow(price, "USD", at(next_at), next_price)


def test_no_price_is_unknown_and_no_schedule_never_changes() -> None:
    assert price_at("h100", None, 0.0) == PriceNow()
    assert now("2026-01-15T12:00") == PriceNow(BASE, "USD")


def test_the_first_declared_of_overlapping_windows_wins() -> None:
    day = window("0 8 * * *", 12, PEAK)
    noon = window("0 12 * * *", 1, NIGHT)
    assert now("2026-01-15T12:30", day, noon) == PriceNow(PEAK, "USD", at("2026-01-15T20:00"), BASE)
    assert now("2026-01-15T12:30", noon, day) == PriceNow(NIGHT, "USD", at("2026-01-15T13:00"), PEAK)


def test_a_window_that_changes_nothing_is_no_change() -> None:
    same = window("0 8 * * *", 1, BASE)
    assert now("2026-01-15T07:00", same, NIGHTS).next_at == at("2026-01-15T21:00")
    assert now("2026-01-15T07:00", same).next_at is None


def test_a_window_longer_than_its_period_never_closes() -> None:
    assert now("2026-01-15T07:00", window("0 * * * *", 2, NIGHT)) == PriceNow(NIGHT, "USD")


def test_weekends_only() -> None:
    weekend = window("0 0 * * SAT", 48, NIGHT)
    assert now("2026-01-16T12:00", weekend).next_at == at("2026-01-17T00:00")
    assert now("2026-01-18T23:59", weekend).per_gpu_hour == NIGHT
    assert now("2026-01-19T00:00", weekend).per_gpu_hour == BASE


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "CEST+2x"])
def test_a_zone_that_does_not_exist_is_a_fault_and_no_price(zone: str) -> None:
    seen = now("2026-01-15T12:00", window("0 22 * * *", 9, NIGHT, zone))
    assert (seen.per_gpu_hour, seen.currency) == (None, "USD")
    ((code, message),) = seen.faults
    assert code == Code.INVALID_TIME_ZONE
    assert repr(zone) in message and "GPUPool h100" in message and "Europe/Berlin" in message


def test_a_cron_line_that_no_calendar_knows_is_a_fault() -> None:
    ((code, message),) = now("2026-01-15T12:00", window("61 * * * *", 1, NIGHT)).faults
    assert code == Code.INVALID_SCHEDULE
    assert "'61 * * * *'" in message


@pytest.mark.parametrize(
    ("cron", "fix"),
    [
        ("* 22-6 * * *", "for 22-6 write 22-23,0-6"),
        ("5-1 * * * *", "for 5-1 write 5-59,0-1"),
        ("0 0 * * 6-1", "for 6-1 write 6,0-1"),
        ("0 0 * * 7-1", "for 7-1 write 0-1"),
        ("0 0 * * 1-0", "for 1-0 write 1-6,0"),
        ("0 0 * dec-jan *", "for dec-jan write 12,1"),
        ("0 0 * * fri-mon", "for fri-mon write 5-6,0-1"),
        ("0 0 * * sat-sun", "for sat-sun write 6,0"),
        ("0 0 31 2 *", "has a day '31'"),
        ("0 0 30 2 *", "has a day '30'"),
        ("0 0 31 4 *", "no month of '4' has a day '31'"),
        ("0 0 31 2,4 *", "no month of '2,4' has a day '31'"),
        ("0 0 30-31 2 *", "has a day '30-31'"),
    ],
)
def test_a_cron_line_that_the_schema_takes_and_no_calendar_knows_is_a_fault_with_its_fix(cron: str, fix: str) -> None:
    assert parse_pool(changed(PRICED, ("spec.price.schedule", [{**WINDOW, "cron": cron}])))
    ((code, message),) = now("2026-01-15T12:00", window(cron, 1, NIGHT)).faults
    assert code == Code.INVALID_SCHEDULE
    assert repr(cron) in message
    assert fix in message
    if "write " in fix:  # and the fix is one
        old, _, new = fix.removeprefix("for ").partition(" write ")
        assert not now("2026-01-15T12:00", window(cron.replace(old, new), 1, NIGHT)).faults


crons = st.sampled_from(["0 22 * * *", "30 2 * * *", "*/20 * * * *", "0 0 * * SAT", "15 9-17 * * MON-FRI"])
windows = st.builds(
    window,
    crons,
    st.sampled_from([0.25, 1.0, 9.0, 30.0]),
    st.sampled_from([BASE, NIGHT, PEAK]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
)


@given(schedule=st.lists(windows, min_size=1, max_size=3), moment_s=st.integers(1_767_225_600, 1_798_761_600))
def test_the_price_holds_until_its_next_change_and_differs_then(schedule: list[TariffWindow], moment_s: int) -> None:
    price = Price("USD", Tariff(BASE, tuple(schedule)))
    seen = price_at("p", price, moment_s)
    if seen.next_at is None:
        return
    assert seen.next_at > moment_s
    assert price_at("p", price, seen.next_at).per_gpu_hour == seen.next_per_gpu_hour != seen.per_gpu_hour
    for share in (0.0, 0.1, 0.5, 0.9):
        between_s = moment_s + share * (seen.next_at - moment_s)
        assert price_at("p", price, between_s).per_gpu_hour == seen.per_gpu_hour


@given(schedule=st.lists(windows, max_size=3), moment_s=st.integers(1_767_225_600, 1_798_761_600))
def test_the_steps_of_a_span_say_what_each_of_its_moments_costs(schedule: list[TariffWindow], moment_s: int) -> None:
    price = Price("USD", Tariff(BASE, tuple(schedule)))
    until_s = moment_s + 3 * 86_400
    found = steps("p", price, moment_s, until_s)
    assert found[0].at_s == moment_s
    assert all(one.at_s < other.at_s and one.per_gpu_hour != other.per_gpu_hour for one, other in pairwise(found))
    for at_s in range(moment_s, until_s, 5400):
        holds = [step.per_gpu_hour for step in found if step.at_s <= at_s][-1]
        assert holds == price_at("p", price, at_s).per_gpu_hour


OWNED = OnPrem(Decimal(30_000), Decimal(4), Decimal(700), Decimal("1.4"), Tariff(Decimal("0.20"), (
    window("0 22 * * *", 8, Decimal("0.10")),
)))  # fmt: skip


def test_gpus_that_were_bought_cost_what_they_lose_and_draw() -> None:
    """30,000 over 4 x 8766 h are 0.855578; 0.98 kW at 0.20 are 0.196, and by night at 0.10 half of that."""
    seen = price_at("lab", Price("EUR", on_prem=OWNED), at("2026-01-15T12:00"))
    assert seen == PriceNow(Decimal("1.051578"), "EUR", at("2026-01-15T22:00"), Decimal("0.953578"))
    found = steps("lab", Price("EUR", on_prem=OWNED), at("2026-01-15T12:00"), at("2026-01-17T00:00"))
    assert [str(step.per_gpu_hour) for step in found] == ["1.051578", "0.953578", "1.051578", "0.953578"]


def test_a_wrong_window_of_the_electricity_names_its_field() -> None:
    wrong = OnPrem(Decimal(1), Decimal(1), Decimal(1), Decimal(1), Tariff(BASE, (window("61 * * * *", 1, NIGHT),)))
    ((code, message),) = price_at("lab", Price("EUR", on_prem=wrong), 0.0).faults
    assert code == Code.INVALID_SCHEDULE
    assert "GPUPool lab: price.electricity.schedule" in message


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("perGPUHour", "0", "must be above 0 and at most 10000: what costs nothing says why in free"),
        ("perGPUHour", "10000.01", "must be above 0 and at most 10000"),
        ("schedule.0.perGPUHour", "0.00", "must be above 0"),
        ("onPrem.capitalPerGPU", "0", "must be above 0 and at most 10000000"),
        ("onPrem.amortisationYears", "0", "must be above 0 and at most 30"),
        ("onPrem.powerUsageEffectiveness", "0.5", "must be from 1 to 5"),
        ("onPrem.electricity.perKWh", "0", "must be above 0 and at most 100"),
        ("onPrem.electricity.schedule.0.perKWh", "0", "must be above 0 and at most 100"),
    ],
)
def test_a_price_that_an_older_definition_let_through_is_unknown_and_says_why(
    field: str, value: str, allowed: str
) -> None:
    """No division by 0 years, and nothing for nothing: the pool runs what it runs, and raises nothing."""
    start = OWNED_POOL if field.startswith("onPrem") else changed(PRICED, ("spec.price.schedule", [WINDOW]))
    spec = parse_pool(changed(start, (f"spec.price.{field}", value)))
    assert spec.price is not None
    seen = price_at("a", spec.price, at("2026-01-15T12:00"))
    ((code, message),) = seen.faults
    assert (seen.per_gpu_hour, seen.currency, code) == (None, spec.price.currency, Code.PRICE_UNKNOWN)
    shown = field.replace(".0.", "[0].")
    assert message.startswith(f'GPUPool a: spec.price.{shown} is "{value}" and {allowed}')
    assert message.endswith("Until then its price is unknown.")
    assert steps("a", spec.price, 0.0, 9.0) == (PriceStep(0.0, None),)


def test_gpus_that_say_why_they_are_free_cost_nothing() -> None:
    price = parse_pool(changed(PRICED, ("spec.price", {"free": "a grant", "currency": "USD"}))).price
    assert price_at("a", price, 0.0) == PriceNow(Decimal(0), "USD")


TABLE, OPENCOST = PriceSource("Table", "p5-spot"), PriceSource("OpenCost")


@pytest.mark.parametrize(
    ("source", "listed", "price", "words"),
    [
        (TABLE, Listed(NIGHT, "USD"), NIGHT, ""),
        (OPENCOST, Listed(NIGHT), NIGHT, ""),
        (TABLE, Listed(NIGHT, "EUR"), None, "spec.price.currency is USD, and the Table says EUR"),
        (TABLE, Listed(None, why="has no row 'p5-spot'"), None, "the Table has no row 'p5-spot'"),
        (OPENCOST, None, None, "the OpenCost was not asked"),
    ],
)
def test_a_price_that_is_kept_elsewhere(
    source: PriceSource, listed: Listed | None, price: Decimal | None, words: str
) -> None:
    seen = price_at("h100", Price("USD", source=source), 0.0, listed)
    assert (seen.per_gpu_hour, seen.currency) == (price, "USD")
    assert words in "".join(text for _, text in seen.faults)
    assert bool(seen.faults) is (price is None)
    assert steps("h100", Price("USD", source=source), 0.0, 9.0, listed) == (PriceStep(0.0, price),)


def test_the_next_row_of_a_table_is_the_next_change() -> None:
    listed = Listed(NIGHT, "USD", next_at=100.0, next_per_gpu_hour=PEAK)
    price = Price("USD", source=TABLE)
    assert price_at("h100", price, 0.0, listed) == PriceNow(NIGHT, "USD", 100.0, PEAK)
    assert steps("h100", price, 0.0, 200.0, listed) == (PriceStep(0.0, NIGHT), PriceStep(100.0, PEAK))
    assert steps("h100", price, 0.0, 50.0, listed) == (PriceStep(0.0, NIGHT),)
