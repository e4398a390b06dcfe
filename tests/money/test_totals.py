"""Rows added up: nothing is lost on the way, currencies stay apart, and an unknown price is no zero."""

from decimal import Decimal

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.model.money import HourRow, Payer, payer_of_others
from ebbtide.money.totals import BATCH, BY, IDLE, NO_POOL, NONE, OTHERS, totals

CHAT = Payer("h100", "ml", "chat", "spot", "llama", "search")


def row(payer: Payer = CHAT, price: str | None = "2.50", seconds: int = 7200, *, idle: bool = False) -> HourRow:
    return HourRow(0, payer, idle, None if price is None else Decimal(price), "USD" if price else "", seconds)


def test_by_service_with_what_nobody_of_ours_held() -> None:
    rows = [row(), row(Payer("h100", "batch")), row(Payer("h100"), idle=True), row(Payer("h100", "ml", "code"), "1")]
    found = {total.key: total.cost for total in totals(rows, ["service"])}
    assert found == {("ml/chat",): 5, (OTHERS,): 5, (IDLE,): 5, ("ml/code",): 2}
    by_team = {total.key[0] for total in totals(rows, ["team"])}
    assert by_team == {"search", NONE, OTHERS, IDLE}


def test_by_labels_each_has_its_own_and_team_is_one_of_them() -> None:
    web = msgspec.structs.replace(CHAT, labels=(("environment", "prod"), ("product", "web")))
    rows = [row(web), row(), row(Payer("h100", "batch")), row(Payer("h100"), idle=True)]
    by_product = {total.key[0]: total.cost for total in totals(rows, ["label:product"])}
    assert by_product == {"web": 5, NONE: 5, OTHERS: 5, IDLE: 5}
    by_both = {total.key for total in totals(rows, ["label:team", "label:environment"])}
    assert by_both == {("search", "prod"), ("search", NONE), (OTHERS, OTHERS), (IDLE, IDLE)}


def test_an_unknown_price_is_said_and_is_no_cost_of_zero() -> None:
    """Also where the currency is known and the amount is not: a source of prices that is silent."""
    silent = msgspec.structs.replace(row(price=None, seconds=1800), currency="USD")
    (known, unknown) = totals([row(), row(price=None, seconds=1800), silent], ["pool"])[::-1]
    assert (known.currency, known.cost, known.gpu_hours, known.unknown_gpu_hours) == ("USD", 5, 2, 0)
    assert (unknown.currency, unknown.cost, unknown.gpu_hours, unknown.unknown_gpu_hours) == ("", None, 1, 1)


def test_what_is_said_to_be_free_costs_zero() -> None:
    (free,) = totals([row(price="0")], ["pool"])
    assert (free.currency, free.cost, free.unknown_gpu_hours) == ("USD", 0, 0)


def test_batch_is_told_apart_and_has_labels_of_its_own() -> None:
    job = payer_of_others("ml", (("product", "web"), ("team", "search")), "h100", batch=True)
    rows = [row(job), row(payer_of_others("ml", (), "h100", batch=False)), row(payer_of_others("ml", (), batch=True))]
    for by, wanted in (
        ("service", {BATCH: 10, OTHERS: 5}),
        ("variant", {BATCH: 10, OTHERS: 5}),
        ("team", {"search": 5, BATCH: 5, OTHERS: 5}),
        ("label:product", {"web": 5, BATCH: 5, OTHERS: 5}),
        ("pool", {"h100": 10, NO_POOL: 5}),
    ):
        assert {total.key[0]: total.cost for total in totals(rows, [by])} == wanted, by


names = st.sampled_from(["", "a", "b"])
rows = st.lists(
    st.builds(
        HourRow,
        st.just(0),
        st.builds(Payer, st.sampled_from(["p", "q"]), names, names, names, names, names),
        st.booleans(),
        st.sampled_from([None, Decimal("0.1"), Decimal("2.50"), Decimal("3.3333333")]),
        st.sampled_from(["USD", "EUR"]),
        st.integers(0, 10**6),
        st.just(0),
    ),
    max_size=12,
)


@given(rows, st.lists(st.sampled_from(BY), min_size=1, unique=True))
def test_however_it_is_cut_it_is_the_same_money(rows: list[HourRow], by: list[str]) -> None:
    for currency in ("USD", "EUR"):
        mine = [row for row in rows if row.currency == currency and row.price is not None]
        found = [total for total in totals(rows, by) if total.currency == currency]
        wanted = sum(((row.price or 0) * row.gpu_seconds for row in mine), Decimal(0))
        assert abs(sum((total.cost or 0 for total in found), Decimal(0)) * 3600 - wanted) < Decimal("1e-9")
        assert round(sum(total.gpu_hours for total in found) * 3600) == sum(row.gpu_seconds for row in mine)
        assert len({total.key for total in found}) == len(found)
    unknown = [total for total in totals(rows, by) if not total.currency]
    hours = sum(total.unknown_gpu_hours for total in unknown)
    assert round(hours * 3600) == sum(row.gpu_seconds for row in rows if row.price is None)
    assert all(total.cost is None for total in unknown)
