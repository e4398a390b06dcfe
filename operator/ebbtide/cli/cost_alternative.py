"""`ebbtide cost --alternative`: services beside what an API would charge, and when GPUs that were bought are paid back.

From the ledger alone, as all reports are: it keeps what services declared, so that a day of last month is compared with
the prices of then, and whoever has a copy of it needs no cluster.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation

import click

from ebbtide.cli.cost_report import NO_TOKENS, Report, digits, of_fields
from ebbtide.core.alternative import LONGEST_DAYS, Owned, compare, over
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import HourRow
from ebbtide.model.plan import AlternativePlan
from ebbtide.model.spec import Alternative
from ebbtide.money.operations import Bought, Operated, idle_bought, operated
from ebbtide.money.selections import offers

API = "IN,OUT,CURRENCY"
_SERVICE = (
    "service",
    "currency",
    "hours",
    "per_hour",
    "api_per_hour",
    "input_tokens",
    "output_tokens",
    "tokens_per_day",
    "break_even_tokens_per_day",
    "utilisation",
    "break_even_utilisation",
    "pay_back_days",
    "message",
)
_POOL = (
    "pool",
    "currency",
    "gpu_hours",
    "idle_gpu_hours",
    "capital_per_gpu",
    "api_cost",
    "running_cost",
    "pay_back_days",
)


def api_prices(text: str) -> Alternative:
    """`0.50,2.00,USD`: an API's prices for a million input and output tokens."""
    parts = [part.strip() for part in text.split(",")]
    try:
        came, made, currency = Decimal(parts[0]), Decimal(parts[1]), parts[2]
    except (IndexError, InvalidOperation):
        came, made, currency = Decimal(0), Decimal(0), ""
    known = came.is_finite() and made.is_finite() and came > 0 and made > 0
    if not known or len(parts) != 3 or len(currency) != 3 or not (currency.isalpha() and currency.isupper()):
        raise click.UsageError(
            f'--api: "{text}" is not allowed: write {API}, prices above 0 for a million input and output tokens, such '
            "as 0.50,2.00,USD"
        )
    return Alternative(currency, came, made)


def report(ledger: Ledger, span: tuple[int, int], by: str, api: Alternative | None) -> Report:
    """Of the hours in `span`, [from, to) in unix seconds; `by` service or pool; `api` in place of what is declared."""
    from_s, to_s = span
    records, found = ledger.prices(), list[Operated]()
    others: list[HourRow] = []  # of no service: by the hour, for what was bought may have changed within
    for rows, usage in ledger.parts(from_s, to_s) if from_s < to_s else ():
        found += operated(rows, usage, records, to_s)
        others += [row for row in rows if not row.payer.service]
    found.sort(key=lambda each: each.service)
    declared = offers(ledger.offers(), to_s)
    against = {each.service: offer for each in found if (offer := api or declared.get(each.service)) is not None}
    notes = _notes(len(found), len(against), api, ledger.usage_s)
    if by == "pool":
        ours = [each for each in found if each.service in against]
        held = [row for row in ledger.added_up(from_s, to_s) if row.payer.service] if from_s < to_s else []
        return _of_pools(ours, against, idle_bought([*others, *held], ours, records), notes)
    return _of_services([(each, against[each.service]) for each in found if each.service in against], notes)


def _of_services(found: Iterable[tuple[Operated, Alternative]], notes: Sequence[str]) -> Report:
    fields, shown = [], []
    for each, offer in found:
        plan = _beside(each, offer)
        here = each.cost / each.hours if each.hours else None
        cells = (
            each.service,
            each.currency or offer.currency,
            digits(each.hours),
            _maybe(here),
            _maybe(plan.per_hour),
            f"{each.input_tokens:.0f}",
            f"{each.output_tokens:.0f}",
            _count(plan.tokens_per_day),
            _count(plan.break_even_tokens_per_day),
            _share(plan.utilisation),
            _share(plan.break_even_utilisation),
            _count(plan.pay_back_days),
            plan.message,
        )
        fields.append(of_fields(_SERVICE, *cells))
        shown.append(
            [
                each.service,
                _money(here, each.currency),
                _money(plan.per_hour, plan.currency),
                _millions(plan.tokens_per_day),
                _millions(plan.break_even_tokens_per_day),
                _percent(plan.utilisation),
                _percent(plan.break_even_utilisation),
                _days(plan.pay_back_days),
            ]
        )
    said = (
        "Here and API: what an hour costs, and what the same tokens would there. M a day: million tokens, input and "
        "output ones; self-hosting is cheaper from so many, or from so full replicas. All is of the time whose tokens "
        "were seen.",
        *notes,
    )
    headers = ("service", "here", "API", "M a day", "cheaper from", "full", "cheaper from", "bought, back in")
    nothing = "No service is compared in that time."
    return Report("alternatives", _SERVICE, fields, headers, shown, (), said, nothing, NO_TOKENS)


def _of_pools(
    found: Sequence[Operated],
    against: Mapping[str, Alternative],
    idle: Mapping[str, Bought],
    notes: Sequence[str],
) -> Report:
    """What was bought is paid back by what the API would have charged for its work, less what it costs to run."""
    bought: dict[tuple[str, str], Bought] = defaultdict(Bought)
    worth: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for each in found:
        for pool, part in each.bought.items():
            if against[each.service].currency == each.currency:
                bought[pool, each.currency] += part
                worth[pool, each.currency] += part.worth(against[each.service])
    fields, shown = [], []
    for (pool, currency), part in sorted(bought.items()):
        more = idle.get(pool, Bought())
        whole, charged = part + more, worth[pool, currency]
        days = _paid_back_days(whole, charged)
        per_gpu = whole.capital_hours / whole.gpu_hours if whole.gpu_hours else None
        amounts = (whole.gpu_hours, more.gpu_hours, per_gpu, charged, whole.running)
        fields.append(of_fields(_POOL, pool, currency, *map(_maybe, amounts), _count(days)))
        shown.append(
            [
                pool,
                f"{whole.gpu_hours:,.1f}",
                f"{more.gpu_hours:,.1f}",
                *(_money(amount, currency) for amount in (per_gpu, charged, whole.running)),
                _days(days) or "not at this pace",
            ]
        )
    said = (
        "GPUs of pools with price.onPrem, bought new: paid back by what the API would have charged for the tokens that "
        "they put out, less what they cost to run. Idle: of GPUs that nobody held, the part that these services' time "
        "is of all; known where the pool is billed by node.",
        *notes,
    )
    headers = ("pool", "GPU-hours", "idle", "one GPU", "API", "running", "paid back in")
    nothing = "No GPUs that were bought worked in that time."
    return Report("pools", _POOL, fields, headers, shown, (), said, nothing, NO_TOKENS)


def _beside(each: Operated, offer: Alternative) -> AlternativePlan:
    tokens = int(each.input_tokens), int(each.output_tokens)
    here = over(float(each.hours), each.cost, each.currency, tokens, each.idle, _owned(each, offer))
    if here is None:
        return AlternativePlan(
            "No tokens were seen in that time: what they would cost there is not known", offer.currency
        )
    return compare(offer, here)


def _owned(each: Operated, offer: Alternative) -> Owned | None:
    whole = sum(each.bought.values(), Bought())
    total = Bought(input_tokens=each.input_tokens, output_tokens=each.output_tokens).worth(offer)
    if not whole.capital_hours or not total or not each.hours:
        return None
    return Owned(whole.capital_hours / each.hours, whole.running / each.hours, float(whole.worth(offer) / total))


def _paid_back_days(whole: Bought, charged: Decimal) -> float | None:
    """Capital in use by the hour over what was saved in the same hours: how long is independent of which part was seen.

    8 GPUs of 30,000 for 24 hours are 5.76 million; with 321.60 saved in them 17,910 hours pay them back, 746 days.
    """
    saved = charged - whole.running
    days = float(whole.capital_hours / saved / 24) if saved > 0 else None
    return days if days is not None and days <= LONGEST_DAYS else None


def _notes(services: int, compared: int, api: Alternative | None, usage_s: int) -> tuple[str, ...]:
    if not usage_s:
        return ("The ledger knows no tokens yet: it counts them since an Ebbtide that does has led.",)
    if api is not None:
        prices = f"{api.per_million_input:f} and {api.per_million_output:f} {api.currency}"
        return (f"Compared with {prices} for a million input and output tokens, as --api says.",)
    rest = services - compared
    if not rest:
        return ("Each service is compared with the spec.alternative that it last declared in that time.",)
    known = f"{rest} of {services} services declared no spec.alternative in that time, as far as the ledger knows"
    return (f"{known}: --api {API} compares all with one API.",)


def _maybe(amount: Decimal | None) -> str:
    return "" if amount is None else digits(amount)


def _count(number: float | None) -> str:
    return "" if number is None else f"{number:.0f}"


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.6f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _millions(tokens: float | None) -> str:
    return "" if tokens is None else f"{tokens / 1e6:,.2f}"


def _days(days: float | None) -> str:
    return "" if days is None else f"{days:,.0f} days"


def _money(amount: Decimal | None, currency: str) -> str:
    return "" if amount is None else f"{amount:,.2f} {currency}"
