"""Rows of the ledger as FOCUS 1.2 (FinOps Open Cost and Usage Specification): one for each hour, payer and price,
and where the ledger keeps days alone one for each day.

They are estimates and no invoice: `x_Estimate` says so in each row, and BilledCost is 0, for the sum of that has to be
what invoices of the account say, and there are none. What the GPUs cost at the prices that pools declare is in
ListCost, ContractedCost and EffectiveCost. Whoever has the cloud's own rows of the same nodes uses one of the two.

GPUs of a pool are one SKU, and each price that the pool ever had is a SKU price of it: where unit prices are told, the
specification wants both named. PricingCategory is Standard where the pool states its price beforehand, with or without
a schedule or a price table, and Dynamic where OpenCost is asked, which may say another at any moment. What a commitment
has to do with it nobody tells the ledger, so nothing is Committed.

Left out are the columns of what there is none of here: invoices, commitments, capacity reservations, sub-accounts,
kinds of accounts, pricing in another currency, regions and zones (which are no pool's to say).

An empty cell is null. Columns that FOCUS does not define begin with `x_`. Hours and months are half-open, in UTC.
"""

import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

from ebbtide.model.money import HourRow, PriceRecord
from ebbtide.money import prices
from ebbtide.money.bill import HOUR_S

PRICING_UNIT = "GPU-Hours"
MANDATORY = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
)
_MORE = (
    "ChargeFrequency",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedUnitPrice",
    "ListUnitPrice",
    "PricingCategory",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceDetails",
    "SkuPriceId",
    "Tags",
)
_OWN = (
    "x_Estimate",
    "x_EstimatedGpuHours",
    "x_Idle",
    "x_Model",
    "x_Namespace",
    "x_Pool",
    "x_Service",
    "x_Team",
    "x_Variant",
)
COLUMNS = (*sorted((*MANDATORY, *_MORE)), *_OWN)

# A GPU-second is 0.000277..., which has no end: so many digits of hours leave 10,000 rows exact to a billionth
_QUANTITY = Decimal("0.000000000001")
_ISSUER = "Ebbtide"
STANDARD, DYNAMIC = "Standard", "Dynamic"
_OPENCOST = "OpenCost"  # of model.spec.PriceSource


class Categories:
    """On what prices of pools rested, by the records that a ledger keeps of them."""

    def __init__(self, records: Iterable[PriceRecord]) -> None:
        by_pool: dict[str, list[PriceRecord]] = defaultdict(list)
        for record in sorted(records, key=lambda record: record.known_s):
            by_pool[record.pool].append(record)
        self._by_pool = {pool: prices.in_force(known) for pool, known in by_pool.items()}

    def of(self, row: HourRow) -> str:
        """The row's PricingCategory; in an hour in which it changed that of the price that the row has."""
        end_s, known = row.hour_s + row.length_s, self._by_pool.get(row.payer.pool, [])
        first = bisect_right(known, row.hour_s, key=_from_s) - 1
        within = known[max(0, first) : bisect_left(known, end_s, key=_from_s)]
        if len({_category(record) for record in within}) > 1:
            for record in reversed(within):
                begin_s = float(max(row.hour_s, record.from_s))
                steps = prices.steps(record.pool, record.price, begin_s, float(end_s), record.listed)
                if any(step.per_gpu_hour == row.price for step in steps):
                    return _category(record)
        return _category(within[-1]) if within else STANDARD


def _from_s(record: PriceRecord) -> int:
    return record.from_s


def _category(record: PriceRecord) -> str:
    source = None if record.price is None else record.price.source
    return DYNAMIC if source is not None and source.kind == _OPENCOST else STANDARD


def cells(row: HourRow, account: str, category: str = STANDARD) -> dict[str, str]:
    """One row by column. Its price must be known: FOCUS has no row without a cost."""
    if row.price is None:
        raise ValueError(f"hour {row.hour_s}: a row without a price is no FOCUS row")
    quantity = (Decimal(row.gpu_seconds) / HOUR_S).quantize(_QUANTITY, ROUND_HALF_EVEN)
    amount, hours, price = _number(quantity * row.price), _number(quantity), _number(row.price)
    payer = row.payer
    name, (service_category, subcategory), kind, resource = _what(row)
    begin, end = _month(row.hour_s)
    known = {
        "BilledCost": "0",
        "BillingAccountId": account,
        "BillingAccountName": account,
        "BillingCurrency": row.currency,
        "BillingPeriodEnd": end,
        "BillingPeriodStart": begin,
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{name}: {quantity:.2f} GPU-hours in pool {payer.pool}. An estimate, not invoiced",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": _moment(row.hour_s + row.length_s),
        "ChargePeriodStart": _moment(row.hour_s),
        "ConsumedQuantity": hours,
        "ConsumedUnit": PRICING_UNIT,
        "ContractedCost": amount,
        "ContractedUnitPrice": price,
        "EffectiveCost": amount,
        "InvoiceIssuerName": _ISSUER,
        "ListCost": amount,
        "ListUnitPrice": price,
        "PricingCategory": category,
        "PricingQuantity": hours,
        "PricingUnit": PRICING_UNIT,
        "ProviderName": _ISSUER,
        "PublisherName": _ISSUER,
        "ResourceId": f"{account}/{resource}",
        "ResourceName": resource.rpartition("/")[2],
        "ResourceType": kind,
        "SkuId": f"gpupools/{payer.pool}",
        "SkuMeter": "GPU Time",
        "SkuPriceId": f"gpupools/{payer.pool}/{price}-{row.currency}",
        "ServiceCategory": service_category,
        "ServiceName": name,
        "ServiceSubcategory": subcategory,
        "Tags": json.dumps(payer.all_labels) if payer.all_labels else "",
        "x_Estimate": "true",
        "x_EstimatedGpuHours": _number((Decimal(row.estimated_s) / HOUR_S).quantize(_QUANTITY, ROUND_HALF_EVEN)),
        "x_Idle": "true" if row.idle else "false",
        "x_Model": payer.model,
        "x_Namespace": payer.namespace,
        "x_Pool": payer.pool,
        "x_Service": payer.service,
        "x_Team": payer.team,
        "x_Variant": payer.variant if payer.service else "",
    }
    return {column: known.get(column, "") for column in COLUMNS}


def _what(row: HourRow) -> tuple[str, tuple[str, str], str, str]:
    """(name of the service in the sense of FOCUS, its category and subcategory, kind and path of the resource)."""
    payer = row.payer
    if payer.service:
        path = f"inferenceservices/{payer.namespace}/{payer.service}"
        return "LLM inference", ("AI and Machine Learning", "Generative AI"), "InferenceService", path
    if row.idle:
        return "Idle GPUs", ("Compute", "Other (Compute)"), "GPUPool", f"gpupools/{payer.pool}"
    if payer.is_batch:
        return "Batch", ("Compute", "Containers"), "Namespace", f"namespaces/{payer.namespace}"
    return "Other GPU pods", ("Compute", "Containers"), "Namespace", f"namespaces/{payer.namespace}"


def _month(at_s: int) -> tuple[str, str]:
    first = datetime.fromtimestamp(at_s, UTC).replace(day=1, hour=0, minute=0, second=0)
    after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return _text(first), _text(after)


def _moment(at_s: int) -> str:
    return _text(datetime.fromtimestamp(at_s, UTC))


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _number(amount: Decimal) -> str:
    """Digits and a point alone, without zeros at the end."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
