"""What money is computed from: prices over time, periods, and what ran. Amounts are `Decimal`, times unix seconds."""

from decimal import Decimal

from ebbtide.model.spec import Spec


class PriceStep(Spec, frozen=True):
    """From `at_s` on a GPU of the pool costs this for an hour; None: nobody knows."""

    at_s: float
    per_gpu_hour: Decimal | None


class Listed(Spec, frozen=True):
    """What a source of prices says; `per_gpu_hour` None: it has none, and `why` continues "the Table ..."."""

    per_gpu_hour: Decimal | None
    currency: str = ""  # empty: that of the pool
    why: str = ""
    next_at: float | None = None  # when it will be another, as far as the source knows
    next_per_gpu_hour: Decimal | None = None


class Period(Spec, frozen=True):
    """A day or a month, [start_s, end_s)."""

    kind: str  # Day or Month
    start_s: float
    end_s: float
