"""Amounts that are out of range, of objects that were stored before the API server had a rule against them.

A price of 0 that nobody calls free would be spent without limit, and 0 years cannot be divided by. Such a price is no
price: the pool stays, and its price is unknown. A ceiling or a reserve out of range is refused with its policy, of
which the last spec that could be read goes on to hold.
"""

from collections.abc import Iterator
from decimal import Decimal

from ebbtide.api import fields
from ebbtide.api.pool import MOST_YEARS, OnPrem, Price

Amount = tuple[str, str, bool, str]  # the field, what it says, whether that is in range, and what is allowed


def no_price(price: Price) -> str:
    """Why what is said is no price: `perGPUHour is "0" and must be above 0 and at most 10000`; empty: it is one."""
    wrong = (f'{name} is "{text}" and must be {allowed}' for name, text, good, allowed in _of_price(price) if not good)
    return next(wrong, "")


def above_0(text: str, most: str) -> bool:
    """Whether it is above 0 and at most `most`."""
    return 0 < Decimal(text) <= Decimal(most)


def allowed_to(most: str) -> str:
    """`above 0 and at most 10000`."""
    return f"above 0 and at most {most}"


def _of_price(price: Price) -> Iterator[Amount]:
    if price.per_gpu_hour is not None:
        free = ": what costs nothing says why in free, without perGPUHour"
        good = above_0(price.per_gpu_hour, fields.MOST_MONEY)
        yield "perGPUHour", price.per_gpu_hour, good, allowed_to(fields.MOST_MONEY) + free
    for index, window in enumerate(price.schedule):
        yield _above_0(f"schedule[{index}].perGPUHour", window.per_gpu_hour, fields.MOST_MONEY)
    if price.on_prem is not None:
        yield from _of_owned(price.on_prem)


def _of_owned(owned: OnPrem) -> Iterator[Amount]:
    yield _above_0("onPrem.capitalPerGPU", owned.capital_per_gpu, fields.MOST_CAPITAL)
    yield _above_0("onPrem.amortisationYears", owned.amortisation_years, MOST_YEARS)
    overhead = owned.power_usage_effectiveness
    yield "onPrem.powerUsageEffectiveness", overhead, 1 <= Decimal(overhead) <= 5, "from 1 to 5"
    yield _above_0("onPrem.electricity.perKWh", owned.electricity.per_kwh, fields.MOST_ELECTRICITY)
    for index, window in enumerate(owned.electricity.schedule):
        yield _above_0(f"onPrem.electricity.schedule[{index}].perKWh", window.per_kwh, fields.MOST_ELECTRICITY)


def _above_0(name: str, text: str, most: str) -> Amount:
    return name, text, above_0(text, most), allowed_to(most)
