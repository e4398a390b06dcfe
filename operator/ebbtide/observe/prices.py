"""What a pool's GPU-hour costs now, and when that changes next.

A window opens at each firing of its cron expression, read in its own time zone, and lasts `duration_s` real seconds:
one that opens at 22:00 for 9 h ends at 07:00, at 08:00 in the night when clocks go forward, at 06:00 when they go back.
Where windows overlap, the one declared first wins. A schedule with an unknown time zone has no price: guessing money is
worse than saying so.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ebbtide.model.reasons import Code
from ebbtide.model.spec import Price, PriceWindow

# Changes looked at before "none is near": a window that opens every minute at the base price changes nothing for ever.
_CHANGES_LOOKED_AT = 64


@dataclass(frozen=True, slots=True)
class PriceNow:
    """Money per GPU-hour; `per_gpu_hour` None: unknown. `next_at` None: no change is near."""

    per_gpu_hour: Decimal | None = None
    currency: str = ""
    next_at: float | None = None
    next_per_gpu_hour: Decimal | None = None
    faults: tuple[tuple[str, str], ...] = ()


def price_at(pool: str, price: Price | None, now_s: float) -> PriceNow:
    """The price at `now_s` (unix seconds) and its next change."""
    if price is None:
        return PriceNow()
    faults = tuple(fault for window in price.schedule if (fault := _fault(pool, window)))
    if faults:
        return PriceNow(currency=price.currency, faults=faults)
    current = _price(price, now_s)
    moment_s = now_s
    for _ in range(_CHANGES_LOOKED_AT):
        edges = [edge for window in price.schedule for edge in _edges_after(window, moment_s)]
        if not edges:
            break
        moment_s = min(edges)
        following = _price(price, moment_s)
        if following != current:
            return PriceNow(current, price.currency, moment_s, following)
    return PriceNow(current, price.currency)


def _price(price: Price, at_s: float) -> Decimal:
    for window in price.schedule:
        opened_s = _opened(window, at_s)
        if opened_s is not None and at_s < opened_s + window.duration_s:
            return window.per_gpu_hour
    return price.per_gpu_hour


def _edges_after(window: PriceWindow, at_s: float) -> list[float]:
    edges = []
    opened_s = _opened(window, at_s)
    if opened_s is not None and opened_s + window.duration_s > at_s:
        edges.append(opened_s + window.duration_s)
    following = next(CronSim(window.cron, _local(window, int(at_s))), None)
    if following is not None:
        edges.append(following.timestamp())
    return edges


def _opened(window: PriceWindow, at_s: float) -> float | None:
    """The last firing at or before `at_s`; None when there was none within the calendar."""
    last = next(CronSim(window.cron, _local(window, int(at_s) + 1), reverse=True), None)
    return None if last is None else last.timestamp()


def _local(window: PriceWindow, at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC).astimezone(ZoneInfo(window.time_zone))


def _fault(pool: str, window: PriceWindow) -> tuple[str, str] | None:
    try:
        ZoneInfo(window.time_zone)
    except (KeyError, ValueError, OSError):
        return (
            Code.INVALID_TIME_ZONE,
            f"GPUPool {pool}: price.schedule names the time zone {window.time_zone!r}, which does not exist; "
            "write an IANA name such as Europe/Berlin or UTC. Until then its price is unknown.",
        )
    try:
        CronSim(window.cron, datetime.fromtimestamp(0, UTC))
    except CronSimError as error:
        return (
            Code.INVALID_SCHEDULE,
            f"GPUPool {pool}: price.schedule has the cron expression {window.cron!r}: {error}; "
            "write five fields such as '0 22 * * *'. Until then its price is unknown.",
        )
    return None
