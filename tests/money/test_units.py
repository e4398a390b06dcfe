"""What tokens cost on both bases: of the time that was seen, split by the work that they make, never guessed."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.model.money import HourRow, Payer, UsageRow
from ebbtide.money.units import PerMillion, Unit, units

CHAT, NODES = Payer("h100", "ml", "chat", "spot", "llama", "search"), Payer("h100")
M = 1_000_000


def row(hour: int = 0, price: str | None = "2.50", seconds: int = 14_400, currency: str = "USD") -> HourRow:
    """4 GPUs for an hour are 10 USD."""
    return HourRow(hour * 3600, CHAT, False, None if price is None else Decimal(price), currency, seconds)


def usage(hour: int = 0, seen: int = 14_400, rated: int = 14_400, used: int = 4_800, weight: str = "0.05") -> UsageRow:
    """1 million input and 0.25 million output tokens."""
    weighed = int(Decimal(weight) * M)
    return UsageRow(hour * 3600, CHAT, M, M // 4, seen, rated, used, M if weighed else 0, weighed)


def only(rows: list[HourRow], seen: list[UsageRow]) -> Unit:
    (found,) = units(rows, seen, ["service"])
    return found


def near(amount: Decimal | None, text: str) -> bool:
    return amount is not None and abs(amount - Decimal(text)) < Decimal("0.005")


def test_the_worked_example() -> None:
    found = only([row()], [usage()])
    assert (found.key, found.cost, found.input_tokens, found.output_tokens) == (("ml/chat",), 10, M, M // 4)
    assert near(found.allocation.output, "33.33") and near(found.allocation.input, "1.67")
    assert near(found.usage.output, "11.11") and near(found.usage.input, "0.56")
    assert found.allocation.both == 8 and near(found.idle, "0.667")
    assert found.coverage == 1


@pytest.mark.parametrize(
    ("story", "rows", "seen", "coverage", "output", "idle"),
    [
        ("half of the hour was seen, and half of its tokens", [row()], [usage(seen=7200, rated=7200, used=2400)], "0.5",
         "16.67", "0.667"),
        ("nothing of the second hour was", [row(), row(1)], [usage()], "0.5", "33.33", "0.667"),
        ("more was seen than is billed: the pod changed its payer meanwhile", [row()], [usage(seen=14_500)], "1",
         "33.33", "0.667"),
        ("nobody knows the price of the second hour", [row(), row(1, None)], [usage(), usage(1)], "1", "33.33",
         "0.667"),
        ("nobody knows how full replicas were", [row()], [usage(rated=0, used=0)], "1", "33.33", None),
        ("for half of the time somebody does", [row()], [usage(rated=7200, used=3600)], "1", "33.33", "0.5"),
    ],
)  # fmt: skip
def test_what_is_not_known_makes_nothing_dearer_or_cheaper(story, rows, seen, coverage, output, idle) -> None:  # type: ignore[no-untyped-def]
    found = only(rows, seen)
    assert found.coverage == Decimal(coverage), story
    assert near(found.allocation.output, output), story
    assert (found.idle is None) if idle is None else near(found.idle, idle), story
    assert (found.usage == PerMillion()) is (idle is None)


@pytest.mark.parametrize(
    ("story", "rows", "seen"),
    [
        ("no tokens were seen", [row()], []),
        ("all that was seen is that there were none", [row()], [UsageRow(0, CHAT, seen_gpu_s=14_400)]),
        ("no price is known", [row(price=None)], [usage()]),
    ],
)
def test_no_price_is_made_up(story: str, rows: list[HourRow], seen: list[UsageRow]) -> None:
    found = only(rows, seen)
    assert found.allocation == found.usage == PerMillion(), story


def test_without_a_weight_there_is_one_price_for_both() -> None:
    found = only([row()], [usage(weight="0")])
    assert found.allocation == PerMillion(both=Decimal(8))


def test_all_free_tokens_cost_nothing_and_are_no_unknown() -> None:
    assert only([row(price="0")], [usage()]).cost == 0


def test_nodes_gpus_that_nobody_holds_are_in_no_price() -> None:
    idle = HourRow(0, NODES, True, Decimal("2.50"), "USD", 14_400)
    (pool,) = units([row(), idle], [usage()], ["pool"])
    assert (pool.cost, pool.allocation.both, pool.coverage) == (20, 8, 1)
    (alone,) = (each for each in units([row(), idle], [usage()], ["service"]) if each.key == ("(idle)",))
    assert (alone.cost, alone.coverage, alone.allocation) == (10, None, PerMillion())


def test_a_services_share_of_idle_gpus_is_in_its_cost_and_in_no_price_of_a_token() -> None:
    share = HourRow(0, CHAT, True, Decimal("2.50"), "USD", 14_400)
    (alone,) = units([row()], [usage()], ["service"])
    (both,) = units([row(), share], [usage()], ["service"])
    assert both.cost == alone.cost + 10
    assert (both.allocation, both.usage, both.coverage, both.idle) == (
        alone.allocation, alone.usage, alone.coverage, alone.idle
    )  # fmt: skip


def test_a_currency_that_changes_within_the_hour_parts_the_tokens() -> None:
    found = units([row(seconds=7200), row(seconds=7200, currency="EUR")], [usage()], ["service"])
    assert [(each.currency, each.input_tokens, each.cost) for each in found] == [("EUR", M // 2, 5), ("USD", M // 2, 5)]


rows = st.builds(
    lambda hour, seconds, price: row(hour, price, seconds),
    st.integers(0, 3),
    st.integers(1, 14_400),
    st.sampled_from(["0.7", "2.50", "3.3333333"]),
)
seen = st.builds(
    lambda hour, gpu_s, rated, used, weight: usage(hour, gpu_s, rated, min(rated, used), weight),
    st.integers(0, 3), *[st.integers(0, 14_400)] * 3, st.sampled_from(["0.01", "2"]),
)  # fmt: skip


@given(st.lists(rows, min_size=1), st.lists(seen, unique_by=lambda each: each.hour_s))
def test_prices_times_tokens_are_the_cost_of_what_was_seen(rows: list[HourRow], seen: list[UsageRow]) -> None:
    (found,) = units(rows, seen, ["service"])
    hours = {each.hour_s for each in rows}
    known = {each.hour_s: each for each in seen if each.hour_s in hours}
    whole = {hour: sum(each.gpu_seconds for each in rows if each.hour_s == hour) for hour in hours}
    cost = sum((each.cost or Decimal(0)) * min(1, Decimal(known[each.hour_s].seen_gpu_s) / whole[each.hour_s])
               for each in rows if each.hour_s in known)  # fmt: skip
    price = found.allocation
    if price.input is not None and price.output is not None and price.both is not None:
        paid = (price.input * found.input_tokens + price.output * found.output_tokens) / M
        assert abs(paid - cost) < Decimal("1e-9")
        assert abs(price.both * (found.input_tokens + found.output_tokens) / M - cost) < Decimal("1e-9")
    else:
        assert cost == 0
    assert found.idle is None or 0 <= found.idle <= 1
