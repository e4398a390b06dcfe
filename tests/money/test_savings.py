"""Savings against a fleet that never scales: of watched time alone, with prices that are known, never made up."""

from decimal import Decimal

import pytest

from ebbtide.model.money import Lifetime, Payer, PriceRecord, UsageRow
from ebbtide.model.spec import Price, Tariff
from ebbtide.money.bill import hours
from ebbtide.money.savings import Saving, fleets, savings

H = 3600
CHAT, ON_A100 = Payer("h100", "ml", "chat", "h100"), Payer("a100", "ml", "chat", "a100")
NOWHERE = Payer("gone", "ml", "chat")
SERVICE, NODE = Payer("", "ml", "chat"), Payer("h100")
PRICES = [
    PriceRecord(pool, 0, Price("USD", Tariff(Decimal(price)))) for pool, price in (("h100", "2.50"), ("a100", "1"))
]


def life(gpus: int, begin_s: int, end_s: int | None, payer: Payer = CHAT) -> Lifetime:
    return Lifetime(f"{payer.pool}-{begin_s}-{gpus}", payer, gpus, begin_s, end_s or begin_s, end_s)


EURO = PriceRecord("h100", H // 2, Price("EUR", Tariff(Decimal(1))))


@pytest.mark.parametrize(
    ("story", "lives", "want"),
    [
        ("most at once", [life(4, 0, 9 * H), life(4, 2 * H, 3 * H)], {"h100": 8}),
        ("one after the other is not at once", [life(4, 0, H), life(4, H, 2 * H)], {"h100": 4}),
        ("a rollout's surge of nine minutes is none", [life(8, 0, 9 * H), life(4, H, H + 540)], {"h100": 8}),
        ("for ten minutes in changing pods it is", [life(8, 0, 9 * H), life(4, H, H + 300), life(4, H + 300, H + 600)],
         {"h100": 12}),
        ("it still runs", [life(4, 0, None)], {"h100": 4}),
        ("in two pools at once", [life(4, 0, H), life(2, 0, H, ON_A100)], {"h100": 4, "a100": 2}),
        ("in one after the other: the larger", [life(4, 0, H), life(6, H, 2 * H, ON_A100)], {"a100": 6}),
        ("before the span it is not looked at", [life(9, -2 * H, 0), life(4, 0, H)], {"h100": 4}),
        ("a minute is no fleet", [life(4, 0, 60)], None),
        ("nodes are nobody's", [Lifetime("n", NODE, 8, 0, H, H, is_node=True)], None),
    ],
)  # fmt: skip
def test_the_static_fleet(story, lives, want) -> None:  # type: ignore[no-untyped-def]
    assert fleets(lives, 0, 10 * H) == ({} if want is None else {"ml/chat": want}), story


def watched(hour: int, seconds: int = H, acting: int | None = None) -> UsageRow:
    return UsageRow(hour * H, SERVICE, watched_s=seconds, acting_s=seconds if acting is None else acting)


def only(lives: list[Lifetime], usage: list[UsageRow], to_s: int = 2 * H, **given: object) -> Saving:
    records = given.get("records", PRICES)
    static = given.get("static", {"ml/chat": {"h100": 8}})
    rows = hours(lives, records, 0, to_s)  # type: ignore[arg-type]
    (found,) = savings(rows, usage, records, static, 0, to_s)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("story", "lives", "usage", "acting", "baseline", "cost"),
    [
        ("4 of 8 GPUs for two hours", [life(4, 0, None)], [watched(0), watched(1)], 2, 40, 20),
        ("nobody watched the second", [life(4, 0, None)], [watched(0)], 1, 20, 10),
        ("half of the second was watched", [life(4, 0, None)], [watched(0), watched(1, 1800)], "1.5", 30, 15),
        ("in Recommend nothing is saved", [life(4, 0, None)], [watched(0, acting=0), watched(1)], 1, 20, 10),
        ("scaled to zero", [life(4, 0, H)], [watched(0), watched(1)], 2, 40, 10),
        ("a service that is deleted is not watched any more", [life(4, 0, H)], [watched(0)], 1, 20, 10),
        ("more than ever before", [life(12, 0, None)], [watched(0)], 1, 20, 30),
    ],
)
def test_what_is_realised(story, lives, usage, acting, baseline, cost) -> None:  # type: ignore[no-untyped-def]
    found = only(lives, usage)
    assert (found.acting_hours, found.baseline_cost, found.cost) == (Decimal(acting), baseline, cost), story
    assert found.realised == baseline - cost


def test_the_current_hour_counts_as_far_as_it_went() -> None:
    found = only([life(4, 0, None)], [watched(0, 1800)], to_s=1800)
    assert (found.acting_hours, found.baseline_cost, found.cost) == (Decimal("0.5"), 10, 5)


@pytest.mark.parametrize(
    ("story", "given"),
    [
        ("no fleet was seen before", {"static": {}}),
        ("no price is known", {"records": []}),
        ("the fleet's pool has no price", {"static": {"ml/chat": {"gone": 8}}}),
        ("the currency changes within the hour", {"records": [PRICES[0], EURO]}),
    ],
)  # fmt: skip
def test_nothing_is_made_up(story: str, given: dict[str, object]) -> None:
    found = only([life(4, 0, None)], [watched(0)], to_s=H, **given)
    assert (found.realised, found.acting_hours, found.watched_hours) == (None, 0, 1), story


def test_the_fleet_is_priced_as_the_hours_are() -> None:
    cheaper = [*PRICES, PriceRecord("h100", H, Price("USD", Tariff(Decimal("0.50"))))]
    found = only([life(4, 0, None)], [watched(0), watched(1)], records=cheaper)
    assert (found.baseline_cost, found.cost) == (24, 12)


def advised(hour: int, held: int, told: int, payer: Payer = CHAT) -> UsageRow:
    return UsageRow(hour * H, payer, held_gpu_s=held, advised_gpu_s=told)


@pytest.mark.parametrize(
    ("story", "rows", "potential", "hours_held"),
    [
        ("8 held, 4 recommended for an hour", [advised(0, 8 * H, 4 * H)], 10, 8),
        ("for half an hour of it", [advised(0, 4 * H, 2 * H)], 5, 4),
        ("another pool would be cheaper", [advised(0, 4 * H, 0), advised(0, 0, 4 * H, ON_A100)], 6, 4),
        ("more would be right: it costs", [advised(0, 4 * H, 6 * H)], -5, 4),
        ("the other pool has no price: nobody knows", [advised(0, 4 * H, 0), advised(0, 0, 4 * H, NOWHERE)], None, 0),
        ("nothing was recommended", [], None, 0),
        ("a pool without a price", [advised(0, H, 0, NOWHERE)], None, 0),
    ],
)
def test_what_would_be_saved(story, rows, potential, hours_held) -> None:  # type: ignore[no-untyped-def]
    found = only([life(8, 0, None)], [watched(0, acting=0), *rows])
    assert (found.potential, found.advised_hours) == (potential, hours_held), story
    assert found.realised is None, "they are never the same time"


def beside_hpa(hour: int, ran: int, would: int, payer: Payer = CHAT) -> UsageRow:
    return UsageRow(hour * H, payer, ran_gpu_s=ran, hpa_gpu_s=would)


@pytest.mark.parametrize(
    ("story", "rows", "hours_of_it", "would", "did"),
    [
        ("8 GPUs where 4 ran", [beside_hpa(0, 4 * H, 8 * H)], 1, 20, 10),
        ("fewer than ran: Ebbtide was dearer", [beside_hpa(0, 8 * H, 4 * H)], 1, 10, 20),
        ("it would have run elsewhere", [beside_hpa(0, 0, 4 * H, ON_A100), beside_hpa(0, 4 * H, 0)], 1, 4, 10),
        ("the other pool has no price: nobody knows", [beside_hpa(0, 4 * H, 0), beside_hpa(0, 0, H, NOWHERE)],
         0, None, None),
        ("of the hour that has a price", [beside_hpa(0, 4 * H, 8 * H), beside_hpa(1, 4 * H, 8 * H, NOWHERE)],
         1, 20, 10),
        ("nothing is known of it", [], 0, None, None),
    ],
)  # fmt: skip
def test_against_an_hpa(story, rows, hours_of_it, would, did) -> None:  # type: ignore[no-untyped-def]
    of_service = [UsageRow(hour * H, SERVICE, watched_s=H, compared_s=H) for hour in {row.hour_s // H for row in rows}]
    found = only([life(4, 0, None)], [*(of_service or [watched(0)]), *rows])
    assert (found.hpa_hours, found.hpa_cost, found.beside_hpa) == (hours_of_it, would, did), story
    assert found.against_hpa == (None if would is None else would - did)
