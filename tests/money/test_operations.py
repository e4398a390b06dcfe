"""How services were run: cost and tokens of the same time, and nothing of time that nobody saw."""

from decimal import Decimal

import pytest

from ebbtide.model.money import HourRow, Payer, PriceRecord, UsageRow
from ebbtide.model.spec import Alternative, OnPrem, Price, Tariff
from ebbtide.money.operations import Bought, idle_bought, operated

H = 3600
CHAT, ON_OWN = Payer("h100", "ml", "chat", "h100"), Payer("own", "ml", "chat", "own")
SERVICE = Payer("", "ml", "chat")
OWN = OnPrem(Decimal(8766 * 4), Decimal(4), Decimal(700), Decimal(1), Tariff(Decimal("0.50")))  # 1 an hour written off
RECORDS = [
    PriceRecord("h100", 0, Price("USD", Tariff(Decimal("2.50")))),
    PriceRecord("own", 0, Price("USD", on_prem=OWN)),
]


def hour(index: int, gpu_seconds: int, payer: Payer = CHAT, price: str | None = "2.50", **changes: object) -> HourRow:
    amount = None if price is None else Decimal(price)
    fields = {"idle": False, "currency": "USD" if price else "", **changes}
    return HourRow(index * H, payer, price=amount, gpu_seconds=gpu_seconds, **fields)  # type: ignore[arg-type]


def work(index: int, seen_gpu_s: int, tokens: tuple[int, int] = (0, 0), payer: Payer = CHAT, **more: int) -> UsageRow:
    return UsageRow(index * H, payer, *tokens, seen_gpu_s, **more)


def watched(index: int, seconds: int = H) -> UsageRow:
    return UsageRow(index * H, SERVICE, watched_s=seconds)


FULL, MILLIONS = 4 * H, (2_000_000, 1_000_000)


@pytest.mark.parametrize(
    ("story", "rows", "usage", "hours", "cost", "tokens"),
    [
        ("the worked example", [hour(0, FULL)], [work(0, FULL * 3 // 4, MILLIONS), watched(0), watched(1)],
         "1.75", "7.50", MILLIONS),
        ("nobody watched the rest", [hour(0, FULL)], [work(0, FULL, MILLIONS), watched(0)], "1", "10", MILLIONS),
        ("half of the hour at zero was watched", [], [watched(0, H // 2)], "0.5", "0", (0, 0)),
        ("GPUs whose tokens nobody saw are in neither", [hour(0, FULL), hour(1, FULL)],
         [work(0, FULL, MILLIONS), watched(0), watched(1)], "1", "10", MILLIONS),
        ("an hour without a price is left out with its tokens", [hour(0, FULL), hour(1, FULL, price=None)],
         [work(0, FULL, MILLIONS), work(1, FULL, MILLIONS)], "1", "10", MILLIONS),
        ("before the currency changed", [hour(0, FULL, currency="EUR"), hour(1, FULL)],
         [work(0, FULL, (9, 9)), work(1, FULL, MILLIONS)], "1", "10", MILLIONS),
        ("two variants at two prices", [hour(0, FULL), hour(0, FULL, ON_OWN, "1.50")],
         [work(0, FULL, MILLIONS), work(0, FULL, MILLIONS, ON_OWN)], "1", "16", (4_000_000, 2_000_000)),
        ("of one of two nothing is seen: of half of the time", [hour(0, FULL), hour(0, FULL, ON_OWN, "1.50")],
         [work(0, FULL, MILLIONS)], "0.5", "10", MILLIONS),
    ],
)  # fmt: skip
def test_what_is_of_the_same_time(story, rows, usage, hours, cost, tokens) -> None:  # type: ignore[no-untyped-def]
    (found,) = operated(rows, usage, RECORDS, 2 * H)
    assert (found.hours, found.cost) == (Decimal(hours), Decimal(cost)), story
    assert (found.input_tokens, found.output_tokens) == tokens


def test_the_hour_that_is_not_over_counts_as_far_as_it_went() -> None:
    (found,) = operated([hour(0, FULL // 4)], [work(0, FULL // 4, MILLIONS)], RECORDS, H // 4)
    assert (found.hours, found.cost) == (Decimal("0.25"), Decimal("2.5"))


def test_idle_is_what_full_replicas_would_have_spared_of_the_time_of_which_it_is_known() -> None:
    rated = work(0, FULL, MILLIONS, rated_gpu_s=FULL // 2, used_gpu_s=FULL // 8)
    (found,) = operated([hour(0, FULL)], [rated], RECORDS, H)
    assert found.idle == Decimal("0.75")
    (unknown,) = operated([hour(0, FULL)], [work(0, FULL, MILLIONS)], RECORDS, H)
    assert unknown.idle is None


def test_what_ran_on_bought_gpus_is_told_apart() -> None:
    rows = [hour(0, FULL), hour(0, FULL, ON_OWN, "1.50")]
    usage = [work(0, FULL, (0, 1_000_000)), work(0, FULL // 2, MILLIONS, ON_OWN)]
    (found,) = operated(rows, usage, RECORDS, H)
    assert found.bought == {
        "own": Bought(Decimal(2), Decimal(2) * OWN.capital_per_gpu, Decimal(1), Decimal(2_000_000), Decimal(1_000_000))
    }, "the half that was seen: 2 GPU-hours that cost 0.50 each to run"
    assert found.bought["own"].worth(Alternative("USD", Decimal("0.50"), Decimal(2))) == 3


def test_what_stands_idle_is_on_the_account_of_who_uses_the_rest() -> None:
    others = Payer("own", "ml", "other")
    rows = [hour(0, FULL, ON_OWN, "1.50"), hour(0, 3 * FULL, others, "1.50"),
            hour(0, 2 * FULL, Payer("own"), "1.50", idle=True)]  # fmt: skip
    found = operated(rows, [work(0, FULL, MILLIONS, ON_OWN)], RECORDS, H)
    chat = [each for each in found if each.service == "ml/chat"]
    assert idle_bought(rows, chat, RECORDS) == {
        "own": Bought(Decimal(2), Decimal(2) * OWN.capital_per_gpu, Decimal(1))
    }, "8 GPU-hours stood idle, and chat's 4 are a quarter of the 16 that were held"


def test_a_pool_that_was_bought_later_is_not_before() -> None:
    records = [RECORDS[0], PriceRecord("h100", H, Price("USD", on_prem=OWN))]
    usage = [work(0, FULL, MILLIONS), work(1, FULL, MILLIONS)]
    (found,) = operated([hour(0, FULL), hour(1, FULL, price="1.50")], usage, records, 2 * H)
    assert found.bought["h100"].gpu_hours == 4
