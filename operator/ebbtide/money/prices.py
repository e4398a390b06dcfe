"""What a pool's GPU-hour costs: now, when that changes next, and all through a span.

GPUs that were bought cost by the hour what they lose in value, and the electricity that they draw:

    capital / (years x 8766 h) + watts / 1000 x overhead x price of a kWh

Worked example: 30,000 USD over 4 years are 0.855578 USD/h; 700 W with 1.4 W drawn for each at 0.20 USD/kWh are 0.196
USD/h; together 1.051578. That is what holds whether a GPU is used or not: what is written off does not wait for load.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal

from ebbtide.model.money import Listed, PriceRecord, PriceStep
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import PoolState
from ebbtide.model.spec import OnPrem, Price, Tariff
from ebbtide.money import tariff

_PLACES = Decimal("0.000001")  # of prices that are computed: those that are written have no more than anybody writes


@dataclass(frozen=True, slots=True)
class PriceNow:
    """Money per GPU-hour; `per_gpu_hour` None: unknown. `next_at` None: no change is near."""

    per_gpu_hour: Decimal | None = None
    currency: str = ""
    next_at: float | None = None
    next_per_gpu_hour: Decimal | None = None
    later: tuple[PriceStep, ...] = ()  # after that, where a source knows
    faults: tuple[tuple[str, str], ...] = ()


def price_at(pool: str, price: Price | None, now_s: float, listed: Listed | None = None) -> PriceNow:
    """The price at `now_s` (unix seconds) and its next change. `listed`: what its source says, if it has one."""
    if price is None:
        return PriceNow()
    if price.wrong:
        text = f"GPUPool {pool}: spec.price.{price.wrong}. Until then its price is unknown."
        return PriceNow(currency=price.currency, faults=((Code.PRICE_UNKNOWN, text),))
    if price.source is not None:
        return _from_source(pool, price, listed or Listed(None, why="was not asked"))
    amounts = _amounts(price)
    where = "electricity.schedule" if price.on_prem is not None else "schedule"
    wrong = tariff.faults(f"GPUPool {pool}: price.{where}", amounts)
    if wrong:
        return PriceNow(currency=price.currency, faults=wrong)
    now = _priced(price, tariff.amount_at(amounts, now_s))
    change = tariff.next_change(amounts, now_s)
    if change is None:
        return PriceNow(now, price.currency)
    return PriceNow(now, price.currency, change[0], _priced(price, change[1]))


def in_force(records: Iterable[PriceRecord]) -> list[PriceRecord]:
    """Of one pool's records, in the order in which they became known, those that hold, each until the next begins.

    Worked example: 2.50 from 1 March, 3.00 from the 5th, and on the 9th it is said that it was 2.80 from the 4th on:
    2.50 from the 1st, 2.80 from the 4th.
    """
    found: list[PriceRecord] = []
    for record in records:
        while found and found[-1].from_s >= record.from_s:
            found.pop()
        found.append(record)
    return found


def steps(
    pool: str, price: Price | None, from_s: float, to_s: float, listed: Listed | None = None
) -> tuple[PriceStep, ...]:
    """The prices of [from_s, to_s), each from when it holds; one that nobody knows is None."""
    now = price_at(pool, price, from_s, listed)
    if price is None or now.per_gpu_hour is None:
        return (PriceStep(from_s, None),)
    if price.source is not None:
        return _from(PriceStep(from_s, now.per_gpu_hour), now.next_at, now.next_per_gpu_hour, now.later, to_s)
    found: list[PriceStep] = []
    for at_s, amount in tariff.steps(_amounts(price), from_s, to_s):
        per_gpu_hour = _priced(price, amount)
        if not found or found[-1].per_gpu_hour != per_gpu_hour:
            found.append(PriceStep(at_s, per_gpu_hour))
    return tuple(found)


def shown_steps(pool: PoolState, from_s: float, to_s: float) -> tuple[PriceStep, ...]:
    """The prices of [from_s, to_s) of a pool whose source speaks, as its state says: also what its source will say."""
    now = PriceStep(from_s, pool.price_per_gpu_hour)
    return _from(now, pool.next_price_change_at, pool.next_price_per_gpu_hour, pool.later_prices, to_s)


def _from(
    now: PriceStep, next_at: float | None, next_price: Decimal | None, later: Iterable[PriceStep], to_s: float
) -> tuple[PriceStep, ...]:
    """`now` and the changes before `to_s`; one that has come by `now` holds from then on."""
    found = [now]
    if next_at is not None:
        for step in (PriceStep(next_at, next_price), *later):
            if step.at_s <= now.at_s:
                found = [PriceStep(now.at_s, step.per_gpu_hour)]
            elif step.at_s < to_s:
                found.append(step)
    return tuple(found)


def _from_source(pool: str, price: Price, listed: Listed) -> PriceNow:
    kind = "" if price.source is None else price.source.kind
    where = f"GPUPool {pool}: spec.price"
    if listed.per_gpu_hour is None:
        text = f"{where}.source: the {kind} {listed.why}. Until then its price is unknown."
        return PriceNow(currency=price.currency, faults=((Code.PRICE_UNKNOWN, text),))
    if listed.currency not in ("", price.currency):
        text = (
            f"{where}.currency is {price.currency}, and the {kind} says {listed.currency}: make a pool with that one, "
            "or name another row. Until then its price is unknown."
        )
        return PriceNow(currency=price.currency, faults=((Code.PRICE_UNKNOWN, text),))
    return PriceNow(listed.per_gpu_hour, price.currency, listed.next_at, listed.next_per_gpu_hour, listed.later)


def _amounts(price: Price) -> Tariff:
    """What of the price goes by the hour: itself, or the electricity."""
    if price.on_prem is not None:
        return price.on_prem.electricity
    return price.tariff or Tariff(Decimal(0))


def _priced(price: Price, amount: Decimal) -> Decimal:
    """The price where `amount` is what goes by the hour."""
    return amount if price.on_prem is None else _owned(price.on_prem, amount)


def _owned(owned: OnPrem, per_kwh: Decimal) -> Decimal:
    drawn = owned.watts_per_gpu / 1000 * owned.overhead * per_kwh
    return (owned.written_off_per_hour + drawn).quantize(_PLACES, ROUND_HALF_EVEN)
