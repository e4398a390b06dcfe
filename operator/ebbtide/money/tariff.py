"""Amounts of money by the hour of the week: which holds at a moment, and all changes of a span.

Windows open as `openings` says. Where they overlap, the one declared first wins. One with an unknown time zone, or with
a cron line that no calendar can follow, has a fault in words and no amount: guessing money is worse than saying so.
"""

from bisect import bisect_right
from collections.abc import Sequence
from decimal import Decimal

from ebbtide.model.spec import Tariff, TariffWindow
from ebbtide.money import openings

_UNTIL_THEN = "its price is unknown"
# Changes looked at before "none is near": a window that opens every minute at the base amount changes nothing for ever.
_CHANGES_LOOKED_AT = 64


def amount_at(tariff: Tariff, at_s: float) -> Decimal:
    """The amount at `at_s` (unix seconds). The tariff must have no faults."""
    for window in tariff.schedule:
        opened_s = openings.opened(window, at_s)
        if opened_s is not None and at_s < opened_s + window.duration_s:
            return window.amount
    return tariff.base


def next_change(tariff: Tariff, at_s: float) -> tuple[float, Decimal] | None:
    """When another amount will hold after `at_s`, and which; None: no change is near."""
    current, moment_s = amount_at(tariff, at_s), at_s
    for _ in range(_CHANGES_LOOKED_AT):
        edges = [edge for window in tariff.schedule for edge in _edges_after(window, moment_s)]
        if not edges:
            return None
        moment_s = min(edges)
        following = amount_at(tariff, moment_s)
        if following != current:
            return moment_s, following
    return None


def steps(tariff: Tariff, from_s: float, to_s: float) -> tuple[tuple[float, Decimal], ...]:
    """The amounts of [from_s, to_s): each with the moment from which it holds, the first with `from_s`."""
    firings = [openings.firings(window, from_s, to_s) for window in tariff.schedule]
    edges = {from_s}
    for window, opened in zip(tariff.schedule, firings, strict=True):
        edges |= {edge for at_s in opened for edge in (at_s, at_s + window.duration_s) if from_s < edge < to_s}
    found: list[tuple[float, Decimal]] = []
    for edge in sorted(edges):
        amount = _among(tariff, firings, edge)
        if not found or found[-1][1] != amount:
            found.append((edge, amount))
    return tuple(found)


def faults(where: str, tariff: Tariff) -> tuple[tuple[str, str], ...]:
    """(reason, message) of each window that no calendar can follow; `where` is the field, such as `price.schedule`."""
    return tuple(fault for window in tariff.schedule for fault in openings.faults(where, window, _UNTIL_THEN))


def _among(tariff: Tariff, firings: Sequence[Sequence[float]], at_s: float) -> Decimal:
    for window, opened in zip(tariff.schedule, firings, strict=True):
        last = bisect_right(opened, at_s) - 1
        if last >= 0 and at_s < opened[last] + window.duration_s:
            return window.amount
    return tariff.base


def _edges_after(window: TariffWindow, at_s: float) -> list[float]:
    edges = []
    opened_s = openings.opened(window, at_s)
    if opened_s is not None and opened_s + window.duration_s > at_s:
        edges.append(opened_s + window.duration_s)
    following_s = openings.opens(window, at_s)
    if following_s is not None:
        edges.append(following_s)
    return edges
