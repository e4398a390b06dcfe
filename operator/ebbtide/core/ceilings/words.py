"""Money and moments of ceilings, as people read them."""

import math
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, ROUND_UP, Decimal

from ebbtide.core.ceilings.lines import HOUR_S
from ebbtide.model.spec import CeilingKind

_PLACES = Decimal("0.01")
A_PERIOD = {CeilingKind.HOUR: "an hour", CeilingKind.DAY: "a day", CeilingKind.MONTH: "a month"}
NO_POOL = "nodes in no pool"


def money(amount: Decimal) -> str:
    """Price x GPU-seconds as an amount: 4320000 -> `1200.00`."""
    return str((amount / HOUR_S).quantize(_PLACES, ROUND_HALF_EVEN))


def gpu_hours(seconds: int) -> str:
    """GPU-seconds: 180 -> `0.05 GPU-hours`, rounded up so that none is nothing."""
    return f"{(seconds / HOUR_S).quantize(_PLACES, ROUND_UP)} GPU-hours"


def moment(at_s: float) -> str:
    """Unix seconds as RFC 3339."""
    return f"{datetime.fromtimestamp(math.floor(at_s), UTC):%Y-%m-%dT%H:%M:%SZ}"


def replicas(count: int) -> str:
    """`1 replica`, `2 replicas`."""
    return "1 replica" if count == 1 else f"{count} replicas"


def pods(count: int) -> str:
    """`1 pod`, `2 pods`."""
    return "1 pod" if count == 1 else f"{count} pods"
