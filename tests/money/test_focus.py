"""FOCUS 1.2: the columns that it makes mandatory and the conditional ones that are written, each by its own rule.

The table is of the specification's requirements for rows whose ChargeCategory is Usage and which correct nothing.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.model.money import HourRow, Listed, Payer, PriceRecord
from ebbtide.model.spec import Price, PriceSource, Tariff
from ebbtide.money.focus import COLUMNS, MANDATORY, Categories, cells

CHAT = Payer("h100", "ml", "chat", "spot", "llama", "search")
JAN_15_NOON = 1_768_478_400

CATEGORIES = {"AI and Machine Learning", "Compute"}  # two of the nineteen that are allowed
SUBCATEGORIES = {"Generative AI", "Containers", "Other (Compute)"}
COMPOUND = re.compile(r"[A-Z][A-Za-z]*-[A-Z][a-z]*s")  # <singular>-<plural>, capitalised


def number(text: str) -> bool:
    """Digits, at most one point and a minus: no exponent, comma, plus or symbol."""
    return re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) is not None


def moment(text: str) -> bool:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ") == text


def words(text: str) -> bool:
    return text.strip() == text != ""


def pairs(text: str) -> bool:
    return all(isinstance(value, str) for value in json.loads(text).values())


# (may be null, what a value has to be)
RULES: dict[str, tuple[bool, Callable[[str], bool]]] = {
    "BilledCost": (False, number),
    "BillingAccountId": (False, words),
    "BillingAccountName": (False, words),  # nullable only where accounts can have no name
    "BillingCurrency": (False, lambda text: re.fullmatch(r"[A-Z]{3}", text) is not None),
    "BillingPeriodEnd": (False, moment),
    "BillingPeriodStart": (False, moment),
    "ChargeCategory": (False, lambda text: text in ("Usage", "Purchase", "Tax", "Credit", "Adjustment")),
    "ChargeClass": (True, lambda text: text == "Correction"),
    "ChargeDescription": (False, words),  # should not be null
    "ChargePeriodEnd": (False, moment),
    "ChargePeriodStart": (False, moment),
    "ContractedCost": (False, number),
    "EffectiveCost": (False, number),
    "InvoiceIssuerName": (False, words),
    "ListCost": (False, number),
    "PricingQuantity": (False, number),  # nullable for taxes and corrections alone
    "PricingUnit": (False, lambda text: COMPOUND.fullmatch(text) is not None),
    "ProviderName": (False, words),
    "PublisherName": (False, words),
    "ServiceCategory": (False, lambda text: text in CATEGORIES),
    "ServiceName": (False, words),
    # conditional and recommended
    "ChargeFrequency": (False, lambda text: text in ("One-Time", "Recurring", "Usage-Based")),
    "ConsumedQuantity": (False, number),
    "ConsumedUnit": (False, lambda text: COMPOUND.fullmatch(text) is not None),
    "ContractedUnitPrice": (False, lambda text: number(text) and Decimal(text) >= 0),
    "ListUnitPrice": (False, lambda text: number(text) and Decimal(text) >= 0),
    "PricingCategory": (False, lambda text: text in ("Standard", "Dynamic", "Committed", "Other")),
    "ResourceId": (False, words),
    "ResourceName": (False, words),
    "ResourceType": (False, words),
    "ServiceSubcategory": (False, lambda text: text in SUBCATEGORIES),
    "SkuId": (False, words),  # not null where unit prices are told
    "SkuMeter": (False, words),
    "SkuPriceDetails": (True, pairs),
    "SkuPriceId": (False, words),
    "Tags": (True, pairs),
}


# the specification's other columns: what has to be there for one to be mandatory, and is not
ABSENT = {
    "AvailabilityZone": "recommended, where resources are deployed in zones that the provider names",
    "BillingAccountType": "more than one type of billing account",
    "CapacityReservationId": "capacity reservations",
    "CapacityReservationStatus": "capacity reservations",
    "CommitmentDiscountCategory": "commitment discounts",
    "CommitmentDiscountId": "commitment discounts",
    "CommitmentDiscountName": "commitment discounts",
    "CommitmentDiscountQuantity": "commitment discounts",
    "CommitmentDiscountStatus": "commitment discounts",
    "CommitmentDiscountType": "commitment discounts",
    "CommitmentDiscountUnit": "commitment discounts",
    "InvoiceId": "recommended, and null without an invoice",
    "PricingCurrency": "pricing in another currency than that of the bill",
    "PricingCurrencyContractedUnitPrice": "pricing in another currency than that of the bill",
    "PricingCurrencyEffectiveCost": "pricing in another currency than that of the bill",
    "PricingCurrencyListUnitPrice": "pricing in another currency than that of the bill",
    "RegionId": "regions that the provider names",
    "RegionName": "regions that the provider names",
    "SubAccountId": "sub-accounts",
    "SubAccountName": "sub-accounts",
    "SubAccountType": "sub-accounts",
}


def check(row: dict[str, str]) -> None:
    assert tuple(row) == COLUMNS
    for column, (nullable, allowed) in RULES.items():
        assert (nullable and row[column] == "") or allowed(row[column]), f"{column}: {row[column]!r}"
    assert row["ChargeClass"] == "", "no row corrects an invoice"
    quantity = Decimal(row["PricingQuantity"])
    for cost, price in (("ContractedCost", "ContractedUnitPrice"), ("ListCost", "ListUnitPrice")):
        assert Decimal(row[cost]) == Decimal(row[price]) * quantity, "to the last digit"
    assert row["EffectiveCost"] == row["ListCost"]
    assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]
    assert row["x_Estimate"] == "true" and Decimal(row["BilledCost"]) == 0, "no invoice says so"
    assert row["ResourceName"] != row["ResourceId"]
    assert row["SkuPriceId"].startswith(row["SkuId"] + "/"), "a SKU price has one SKU"


def test_the_rules_are_of_all_columns_and_own_ones_are_marked() -> None:
    assert len(MANDATORY) == 21 and set(MANDATORY) <= RULES.keys()
    assert {column for column in COLUMNS if not column.startswith("x_")} == RULES.keys()
    assert len(set(COLUMNS)) == len(COLUMNS)
    assert not ABSENT.keys() & RULES.keys() and len(ABSENT) + len(RULES) == 57, "as many as FOCUS 1.2 defines"
    assert all(re.fullmatch(r"(x_)?[A-Z][A-Za-z]+", column) and len(column) <= 50 for column in COLUMNS)


def test_a_row() -> None:
    row = cells(HourRow(JAN_15_NOON, CHAT, False, Decimal("2.50"), "USD", 10_000, 100), "prod")
    check(row)
    assert row["PricingQuantity"] == "2.777777777778" and row["ListCost"] == "6.944444444445"
    assert (row["ChargePeriodStart"], row["ChargePeriodEnd"]) == ("2026-01-15T12:00:00Z", "2026-01-15T13:00:00Z")
    assert (row["BillingPeriodStart"], row["BillingPeriodEnd"]) == ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z")
    assert (row["ServiceName"], row["ResourceId"], row["ResourceName"]) == (
        "LLM inference",
        "prod/inferenceservices/ml/chat",
        "chat",
    )
    assert row["Tags"] == '{"team": "search"}' and row["x_Team"] == "search"
    assert row["x_EstimatedGpuHours"] == "0.027777777778"


def test_tags_hold_every_label_that_is_kept() -> None:
    labels = (("environment", "prod"), ("product", "web"))

    def tags(payer: Payer) -> str:
        return cells(HourRow(0, payer, False, Decimal(1), "USD", 60), "prod")["Tags"]

    assert json.loads(tags(msgspec.structs.replace(CHAT, labels=labels))) == {"team": "search", **dict(labels)}
    assert json.loads(tags(Payer("h100", "ml", "chat", labels=labels))) == dict(labels)
    assert tags(Payer("h100", "ml", "chat")) == "", "null where there are none"


@pytest.mark.parametrize(
    ("payer", "idle", "service", "kind"),
    [
        (Payer("h100"), True, "Idle GPUs", "GPUPool"),
        (Payer("h100", "batch"), False, "Other GPU pods", "Namespace"),
        (Payer("h100", "ml", "chat"), False, "LLM inference", "InferenceService"),
    ],
)
def test_whose_it_is(payer: Payer, idle: bool, service: str, kind: str) -> None:
    row = cells(HourRow(0, payer, idle, Decimal(1), "USD", 60), "prod")
    check(row)
    assert (row["ServiceName"], row["ResourceType"], row["Tags"]) == (service, kind, "")


def test_each_price_of_a_pool_is_a_sku_price_of_its_own_and_the_same_at_any_time() -> None:
    found = [
        cells(HourRow(at_s, Payer(pool), True, Decimal(price), "USD", 60), "prod")["SkuPriceId"]
        for at_s, pool, price in (
            (0, "h100", "2.50"),
            (JAN_15_NOON, "h100", "2.500"),
            (0, "h100", "2"),
            (0, "a100", "2.50"),
        )
    ]
    assert found == [
        "gpupools/h100/2.5-USD",
        "gpupools/h100/2.5-USD",
        "gpupools/h100/2-USD",
        "gpupools/a100/2.5-USD",
    ]


def priced(from_s: int, price: str, source: PriceSource | None = None) -> PriceRecord:
    spec = Price("USD", None if source else Tariff(Decimal(price)), source=source)
    listed = None if source is None else Listed(Decimal(price), "USD")
    return PriceRecord("h100", from_s, spec, listed=listed)


def test_a_price_that_opencost_is_asked_for_is_dynamic_and_one_that_is_stated_beforehand_is_not() -> None:
    hour, half = JAN_15_NOON, JAN_15_NOON + 1800
    categories = Categories(
        [priced(0, "2.50"), priced(half, "2.75", PriceSource("OpenCost")), priced(half + 7200, "3")]
    )

    def of(at_s: int, price: str, pool: str = "h100") -> str:
        row = HourRow(at_s, Payer(pool, "ml", "chat"), False, Decimal(price), "USD", 60)
        found = cells(row, "prod", categories.of(row))
        check(found)
        return found["PricingCategory"]

    assert of(hour - 3600, "2.50") == "Standard"
    assert (of(hour, "2.50"), of(hour, "2.75")) == ("Standard", "Dynamic"), "an hour in which it changed has both"
    assert of(hour + 3600, "2.75") == "Dynamic"
    assert (of(hour + 7200, "2.75"), of(hour + 7200, "3")) == ("Dynamic", "Standard")
    assert of(hour + 10_800, "3") == "Standard"
    assert of(hour, "9", "unknown") == "Standard"
    table = HourRow(hour, Payer("h100"), True, Decimal("2.75"), "USD", 60)
    assert Categories([priced(0, "2.75", PriceSource("Table", "h100"))]).of(table) == "Standard"


def test_december_ends_with_the_year() -> None:
    row = cells(HourRow(JAN_15_NOON - 20 * 86_400, CHAT, False, Decimal(1), "USD", 60), "prod")
    assert (row["BillingPeriodStart"], row["BillingPeriodEnd"]) == ("2025-12-01T00:00:00Z", "2026-01-01T00:00:00Z")


def test_a_row_without_a_price_is_refused() -> None:
    with pytest.raises(ValueError, match="without a price"):
        cells(HourRow(0, CHAT, False, None, "", 60), "prod")


names = st.text(st.characters(codec="ascii", categories=("Ll", "Nd")), min_size=1, max_size=9)
rows = st.builds(
    HourRow,
    st.integers(0, 600_000).map(lambda hour: hour * 3600),
    st.one_of(st.builds(Payer, names), st.builds(Payer, *[names] * 2), st.builds(Payer, *[names] * 6)),
    st.booleans(),
    st.decimals(0, 1000, places=9),
    st.sampled_from(["USD", "EUR"]),
    st.integers(0, 10**8),
    st.integers(0, 10**8),
)


@given(st.lists(rows, max_size=8))
def test_every_row_keeps_every_rule_and_the_sum_is_the_bills(found: list[HourRow]) -> None:
    written = [cells(row, "prod") for row in found if row.idle is not bool(row.payer.namespace)]
    for row in written:
        check(row)
    wanted = sum((row.cost or Decimal(0) for row in found if row.idle is not bool(row.payer.namespace)), Decimal(0))
    assert abs(sum((Decimal(row["EffectiveCost"]) for row in written), Decimal(0)) - wanted) < Decimal("1e-7")
