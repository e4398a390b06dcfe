"""Build or buy: a service beside an API that would put out the same tokens for a price a million.

The API is paid for what comes, replicas for being there. So there is a number of tokens a day from which replicas are
cheaper, and it depends on what they cost alone: that of the day's bill at the API's price. Told as a share of what
these replicas carry it holds for a fleet of any size, as long as its replicas are the same and it is scaled with the
load. The mean request says how many input tokens come with each output token.

GPUs that were bought are paid back by what the API would have charged for their work, less the electricity; what is
written off is not counted beside it, as it is the same money.

Worked example: requests of 1,000 input and 500 output tokens at 0.50 and 2.00 USD a million come to 1 USD for a million
tokens. Replicas for 12 USD/h cost 288 USD a day, as much as 288 million tokens; if they carry 480 million, that is 60 %
of it. With 360 million a day the API charges 15 USD/h, and 12 are cheaper: at 75 % they are past the 60 %. If they are
8 GPUs that were bought for 30,000 each and draw 1.60 USD/h, 240,000 / (15 - 1.60) / 24 = 746 days pay them back.

Everything is as of now, at the present pace. What is not known stays unset.
"""

from decimal import Decimal

import msgspec

from ebbtide.core.economics import FEWEST_TOKENS, carried, exact, gpus_held, measured, serving
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.plan import AlternativePlan, ServiceCost
from ebbtide.model.spec import Alternative, Spec

_DAY_H, _DAY_S, _MILLION = 24, 86_400, Decimal(1_000_000)
_MOST_TOKENS = 1e15  # a day: beyond any service, and within what an integer of JSON holds
LONGEST_DAYS = 36_525  # a hundred years: nobody waits for longer
_PLACES = Decimal("0.000001")


class Owned(Spec, frozen=True):
    """GPUs that were bought: what they cost, what they draw an hour, and the share 0..1 of the work that they do."""

    capital: Decimal
    running_per_hour: Decimal
    share: float


class Operation(Spec, frozen=True):
    """A service as it is run. Tokens are input and output ones together; None: not known.

    `input_tokens` and `output_tokens` are in the proportion in which they come: of a mean request, or of a day.
    """

    per_hour: Decimal
    currency: str
    input_tokens: float
    output_tokens: float
    tokens_per_day: float | None = None
    full_tokens_per_day: float | None = None  # as many as all that is paid for carries inside the objectives
    owned: Owned | None = None


def beside(draft: Draft, cost: ServiceCost | None, cycle: Cycle) -> AlternativePlan | None:
    """The service beside the alternative that it declares; None where it declares none."""
    offer = draft.state.spec.alternative
    if offer is None:
        return None
    if cost is None:
        return AlternativePlan(_per(offer) + "; what the service costs is not known", offer.currency)
    operation = _operation(draft, cost, cycle)
    if operation is None:
        return AlternativePlan(_per(offer) + "; how long requests are is not known yet", offer.currency)
    return compare(offer, operation)


def over(
    hours: float,
    cost: Decimal,
    currency: str,
    tokens: tuple[int, int],
    idle: Decimal | None,
    owned: Owned | None = None,
) -> Operation | None:
    """A service as it was run for so many hours: what it cost, its input and output tokens, and the idle share 0..1.

    For reports of a day or a month, of which cost and tokens are of the same time. None: no tokens came, so nobody
    knows what they would have cost.
    """
    came, made = tokens
    if hours <= 0.0 or came + made <= 0:
        return None
    a_day = (came + made) / hours * _DAY_H
    used = None if idle is None else float(1 - idle)
    full = a_day / used if used else None
    return Operation(cost / exact(hours), currency, float(came), float(made), a_day, full, owned)


def compare(offer: Alternative, here: Operation) -> AlternativePlan:
    """At which load which of the two is cheaper, and where the service stands."""
    if offer.currency != here.currency:
        text = f"{_per(offer)}; the service is paid in {here.currency}, which cannot be compared"
        return AlternativePlan(text, offer.currency)
    a_million = _blended(offer, here)
    even = min(_MOST_TOKENS, float(here.per_hour * _DAY_H / a_million * _MILLION))
    now, full = here.tokens_per_day, here.full_tokens_per_day
    charged = None if now is None else (exact(now) / _MILLION * a_million / _DAY_H).quantize(_PLACES)
    days = None if here.owned is None or charged is None else _paid_back_days(here.owned, charged)
    found = AlternativePlan(
        "",
        offer.currency,
        charged,
        None if now is None else min(_MOST_TOKENS, now),
        even,
        None if now is None or not full else now / full,
        even / full if full else None,
        days,
    )
    words = [_per(offer), _beside(here, charged), _break_even(found, full)]
    if here.owned is not None and charged is not None:
        pace = "the bought GPUs are not paid back at this pace"
        words.append(pace if days is None else f"at this pace the bought GPUs are paid back in {days:,.0f} days")
    return msgspec.structs.replace(found, message="; ".join(words))


def _operation(draft: Draft, cost: ServiceCost, cycle: Cycle) -> Operation | None:
    """As it runs now; where nothing comes, requests are as long as they were. None: how long they are nobody knows."""
    view = draft.demand
    known = measured(draft, cycle)
    came, made = view.prompted, view.generated
    now = (came + made) * _DAY_S if known else None
    if not known or came + made < FEWEST_TOKENS:
        if view.lengths_s <= 0.0:
            return None
        came, made = view.input_tokens, view.output_tokens
    used = None if cost.idle_share is None else float(1 - cost.idle_share)
    full = now / used if now and used else _full(draft, cost)
    return Operation(cost.per_hour, cost.currency, came, made, now, full, _owned(draft, cost.currency))


def _full(draft: Draft, cost: ServiceCost) -> float | None:
    """Tokens a day that all that is paid for would carry if it were ready."""
    capacity, paid = carried(draft), Decimal(0)
    for variant in draft.variants:
        if variant.pool is not None and variant.pool.state.price_per_gpu_hour is not None:
            paid += serving(variant) * (variant.gpus or 0) * variant.pool.state.price_per_gpu_hour
    if capacity is None or not paid:
        return None
    length = draft.demand.input_tokens + draft.demand.output_tokens
    return capacity * length * _DAY_S * float(cost.per_hour / paid)


def _owned(draft: Draft, currency: str) -> Owned | None:
    """What of the service runs on GPUs that were bought; None: nothing, or not known which part of the work."""
    capital, running, work = Decimal(0), Decimal(0), 0.0
    for variant in draft.variants:
        pool, gpus = variant.pool, gpus_held(variant)
        price = None if pool is None else pool.state.spec.price
        if pool is None or price is None or price.on_prem is None or not gpus:
            continue
        if pool.state.price_per_gpu_hour is None or pool.state.currency != currency:
            return None
        capital += gpus * price.on_prem.capital_per_gpu
        running += gpus * (pool.state.price_per_gpu_hour - price.on_prem.written_off_per_hour)
        work += serving(variant) * variant.carries
    total = carried(draft)
    return Owned(capital, max(Decimal(0), running), work / total) if capital and total else None


def _blended(offer: Alternative, here: Operation) -> Decimal:
    """What a million tokens of the mean request cost at the API."""
    came, made = exact(here.input_tokens), exact(here.output_tokens)
    return (came * offer.per_million_input + made * offer.per_million_output) / (came + made)


def _paid_back_days(owned: Owned, charged: Decimal) -> float | None:
    saved = charged * exact(owned.share) - owned.running_per_hour
    if saved <= 0:
        return None
    days = float(owned.capital / saved / _DAY_H)
    return days if days <= LONGEST_DAYS else None


def _per(offer: Alternative) -> str:
    prices = f"{offer.per_million_input:f} and {offer.per_million_output:f} {offer.currency}"
    return f"an API at {prices} for a million input and output tokens"


def _beside(here: Operation, charged: Decimal | None) -> str:
    own = f"{here.per_hour:.2f} {here.currency} an hour here"
    if charged is None:
        return f"{own}, and what comes is not known"
    if not charged:
        return f"{own}, and nothing comes"
    return f"{own}, {charged:.2f} there for the same tokens"


def _break_even(found: AlternativePlan, full: float | None) -> str:
    even = f"self-hosting is cheaper from {_count(found.break_even_tokens_per_day)} tokens a day"
    now = "" if found.tokens_per_day is None else f", {_count(found.tokens_per_day)} a day now"
    if found.break_even_utilisation is None:
        return even + now
    if found.break_even_utilisation > 1.0:
        return f"{even}, more than the {_count(full)} that these replicas carry: not even full they are cheaper{now}"
    at = "" if found.utilisation is None else f" ({100 * found.utilisation:.0f} %)"
    return f"{even}, {100 * found.break_even_utilisation:.0f} % of what these replicas carry{now}{at}"


def _count(tokens: float | None) -> str:
    """`346 million`, `1.2 billion`, `950`."""
    number = tokens or 0.0
    for size, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if number >= size:
            return f"{number / size:.3g}{word}"
    return f"{number:.0f}"
