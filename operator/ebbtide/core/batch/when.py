"""Moments and shares as the reasons of Jobs write them."""

import math
from datetime import UTC, datetime

_DAY_S = 86_400.0


def clock(at_s: float, now_s: float) -> str:
    """`22:00 UTC` within a day, else `2026-11-24 22:00 UTC`."""
    at = datetime.fromtimestamp(math.floor(at_s), UTC)
    form = "%H:%M" if at_s % 60.0 < 1.0 else "%H:%M:%S"
    return f"{at:{form}} UTC" if abs(at_s - now_s) < _DAY_S else f"{at:%Y-%m-%d {form}} UTC"


def percent(share: float) -> str:
    """`99 %`, `99.5 %`."""
    return f"{100.0 * share:.4g} %"


def days(seconds: float) -> str:
    """`1 day`, `2.5 days`."""
    said = f"{seconds / _DAY_S:.3g}"
    return "1 day" if said == "1" else f"{said} days"
