"""What a service's tokens cost at this moment, on two bases that are never mixed.

Allocation: all that its GPUs cost, for the tokens that they put out; start-up, draining and standing idle are in it, so
it adds up to the bill. Usage: what of that full replicas would cost for the same work, for comparing models and GPUs
however busy they happen to be. What lies between is the idle share. Full is what Ebbtide believes that a replica
carries inside the objectives. GPUs of nodes that no pod holds are nobody's here: the ledger has a row for them.

Both kinds of tokens share the cost by the work that they make: a prompt token is as much as `w` output tokens, the
weight that demand is forecast with (see `forecast.step`). Prompt tokens found in a prefix cache are counted as others.

Worked example: 12 USD/h, 4,000 prompt and 2,000 output tokens/s at w = 0.5 are the work of 4,000 output tokens/s, 14.4
million an hour: 0.8333 USD for 1M output and 0.4167 for 1M input tokens, and 7.2 x 0.8333 + 14.4 x 0.4167 = 12. With
three quarters of the replicas' capacity used, 0.625 and 0.3125 on the usage basis, and an idle share of a quarter.

What is not known stays unset; nothing here is ever 0 for want of a number.
"""

from decimal import Decimal

from ebbtide.core.demand import windows_are_full
from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.plan import ServiceCost, TokenPrices

FEWEST_TOKENS = 1.0  # a second: of fewer, what a window of rates happens to hold says nothing of a price
_PLACES = Decimal("0.000001")
_PER_MILLION = Decimal(1_000_000) / 3600  # what a token a second costs in an hour, by the million


def spend(draft: Draft) -> tuple[Decimal | None, str]:
    """Money an hour for the pods that hold GPUs now, starting and draining ones included, and its currency.

    None where a price is unknown, or where pools are paid in several currencies.
    """
    total, currencies = Decimal(0), set()
    for variant in draft.variants:
        pool, gpus = variant.pool, gpus_held(variant)
        if pool is None or pool.state.price_per_gpu_hour is None:
            if gpus:
                return None, ""
            continue
        currencies.add(pool.state.currency)
        total += gpus * pool.state.price_per_gpu_hour
    return (total, currencies.pop()) if len(currencies) == 1 else (None, "")


def gpus_held(variant: VariantDraft) -> int:
    """GPUs of the variant's pods that are bound to a node."""
    return sum(pod.gpus or variant.gpus or 0 for pod in variant.state.pods if pod.node)


def cost(draft: Draft, cycle: Cycle) -> ServiceCost | None:
    """What the service and its tokens cost now; None where what it spends is unknown."""
    per_hour, currency = spend(draft)
    if per_hour is None:
        return None
    view = draft.demand
    if not measured(draft, cycle):
        return ServiceCost(per_hour, currency)
    share = load(draft, cycle)
    used = None if share is None else _used(draft, per_hour, share)
    return ServiceCost(
        per_hour,
        currency,
        token_prices(per_hour, view.prompted, view.generated, view.prompt_weight),
        TokenPrices() if used is None else token_prices(used, view.prompted, view.generated, view.prompt_weight),
        used,
    )


def measured(draft: Draft, cycle: Cycle) -> bool:
    """Whether all pods' tokens a second are known as they are now: of part of them, no price is right."""
    fresh = draft.demand.quality in ("fresh", "young")
    return fresh and not cycle.unwatched and windows_are_full(draft, cycle)


def load(draft: Draft, cycle: Cycle) -> float | None:
    """How much of what the replicas that serve carry is asked of them, 0..1; None: not known of all of them.

    The one number behind the idle share of status and that of the ledger: both take replicas that serve for used so
    far, and all else that is paid for, such as a replica that starts or drains, for idle.
    """
    capacity = carried(draft) if measured(draft, cycle) else None
    return None if capacity is None else min(1.0, max(0.0, draft.demand.work) / capacity)


def token_prices(per_hour: Decimal, prompted: float, generated: float, weight: float) -> TokenPrices:
    """`per_hour` for so many prompt and output tokens a second, by the work that they make (see above)."""
    work = generated + weight * prompted
    if weight <= 0.0 or prompted + generated < FEWEST_TOKENS or work <= 0.0:
        return TokenPrices()
    output = per_hour * _PER_MILLION / exact(work)
    return TokenPrices(
        (output * exact(weight)).quantize(_PLACES) if prompted > 0.0 else None,
        output.quantize(_PLACES) if generated > 0.0 else None,
    )


def serving(variant: VariantDraft) -> int:
    """Replicas that answer requests: those on nodes about to be taken away do so to the end."""
    return variant.ready + variant.doomed


def carried(draft: Draft) -> float | None:
    """Requests/s of the mean length that those replicas carry inside the objectives; None: not known of all of them."""
    total = 0.0
    for variant in draft.variants:
        replicas = serving(variant)
        if replicas and variant.carries <= 0.0:
            return None
        total += replicas * variant.carries
    return total or None


def _used(draft: Draft, per_hour: Decimal, load: float) -> Decimal | None:
    """Of `per_hour`, what the replicas that serve cost times how much of what they carry is asked of them."""
    money = Decimal(0)
    for variant in draft.variants:
        replicas = serving(variant)
        if not replicas:
            continue
        if variant.pool is None or variant.pool.state.price_per_gpu_hour is None or not variant.gpus:
            return None
        money += replicas * variant.gpus * variant.pool.state.price_per_gpu_hour
    return min(per_hour, money * exact(load)).quantize(_PLACES)


def exact(number: float) -> Decimal:
    """A measured number as a decimal of at most nine places: a float's own digits say no more."""
    return Decimal(f"{number:.9f}")
