"""What each service has cost this calendar month of UTC: the ledger's figures, asked once a minute at most.

Hours that are rolled up are added up by the database and kept until it rolls up more; only the rest is worked out each
time. A service of which a part has no known price, or that was paid in two currencies, has no amount.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec

from ebbtide.clock import monotonic_s
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import HourRow
from ebbtide.model.plan import MonthCost, Plan, ServicePlan
from ebbtide.money.calendar import Span, period_at

EVERY_S = 60.0
_LEAST_PAUSE = 20.0  # times what asking took: of a large ledger it is no more than a twentieth of a core
_UTC = ZoneInfo("UTC")
_PLACES = Decimal("0.000001")


@dataclass(frozen=True)
class _Known:
    """As of `through_s`; services that are not in `amounts` held nothing, None: what they cost is not known."""

    begin_s: float = 0.0
    from_s: float = 0.0
    through_s: float = 0.0  # 0: the ledger was not asked yet
    amounts: Mapping[str, tuple[Decimal, str] | None] = field(default_factory=dict)


class MonthToDate:
    """One leader's. `ask` and `added` may run in two threads; calls of `ask` must not overlap."""

    def __init__(self) -> None:
        self._known = _Known()
        self._kept: tuple[HourRow, ...] = ()
        self._kept_for: tuple[int, int, int] | None = None
        self._ask_at = 0.0

    def begin_to_lead(self) -> None:
        """Another may have written the ledger since."""
        self._known, self._kept_for, self._ask_at = _Known(), None, 0.0

    def ask(self, ledger: Ledger | None, now_s: float) -> None:
        """Ask what is due at `now_s` (unix seconds); blocks. None: the ledger cannot be asked yet."""
        if ledger is None or now_s < self._ask_at:
            return
        began_s = monotonic_s()
        self._known = self._asked(ledger, now_s)
        self._ask_at = now_s + max(EVERY_S, _LEAST_PAUSE * (monotonic_s() - began_s))

    def added(self, plan: Plan) -> Plan:
        """The plan as it is to be reported: with what each service has cost in the month of `plan.at`."""
        known = self._known
        if not known.through_s or period_at(Span.MONTH, _UTC, plan.at).start_s != known.begin_s:
            return plan
        replace = msgspec.structs.replace
        return replace(plan, services=tuple(replace(item, month=_of(item, known)) for item in plan.services))

    def _asked(self, ledger: Ledger, now_s: float) -> _Known:
        begin_s = int(period_at(Span.MONTH, _UTC, now_s).start_s)
        through_s, since_s = ledger.watermark_s, ledger.since_s
        if through_s < begin_s or not since_s:
            return _Known()
        end_s = max(begin_s, min(ledger.rolled_s, through_s))
        if self._kept_for != (begin_s, end_s, ledger.rolls):
            self._kept, self._kept_for = ledger.added_up(begin_s, end_s), (begin_s, end_s, ledger.rolls)
        rows = ledger.rows(end_s, through_s) if end_s < through_s else ()
        return _Known(float(begin_s), float(max(begin_s, since_s)), float(through_s), _amounts((*self._kept, *rows)))


def _amounts(rows: Iterable[HourRow]) -> dict[str, tuple[Decimal, str] | None]:
    """By namespace/name: GPU-seconds by price, multiplied once."""
    seconds: dict[str, dict[tuple[Decimal | None, str], int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        if row.payer.service and row.gpu_seconds:
            seconds[f"{row.payer.namespace}/{row.payer.service}"][row.price, row.currency] += row.gpu_seconds
    return {key: _amount(prices) for key, prices in seconds.items()}


def _amount(prices: dict[tuple[Decimal | None, str], int]) -> tuple[Decimal, str] | None:
    currencies, total = {currency for _, currency in prices}, Decimal(0)
    for (price, _), count in prices.items():
        if price is None:
            return None
        total += price * count
    return ((total / 3600).quantize(_PLACES), currencies.pop()) if len(currencies) == 1 else None


def _of(plan: ServicePlan, known: _Known) -> MonthCost | None:
    if plan.key in known.amounts:
        found = known.amounts[plan.key]
        return None if found is None else MonthCost(*found, known.from_s, known.through_s)
    if plan.cost is None:  # nothing was held, and in which currency that is nobody knows
        return None
    return MonthCost(Decimal(0), plan.cost.currency, known.from_s, known.through_s)
