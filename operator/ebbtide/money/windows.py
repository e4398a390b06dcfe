"""When the windows of a BatchPolicy are open, holidays included. Pure.

A window that cannot be known (an unknown time zone, a cron line that no calendar can follow) never opens; holidays need
no window: without one they are days of UTC.
"""

from collections.abc import Iterable, Iterator
from datetime import date
from functools import lru_cache

from ebbtide.model.batch import BatchPolicySpec, BatchWindow
from ebbtide.money import openings
from ebbtide.money.calendar import day_span, zone_named

Spans = tuple[tuple[float, float], ...]

_HOUR_S = 3600.0
_UNTIL_THEN = "it never opens"


def open_windows(spec: BatchPolicySpec, from_s: float, to_s: float) -> Spans:
    """The spans [start, end) of [from_s, to_s) (unix seconds) in which a window is open, in order and apart."""
    # asked anew every few seconds: by whole hours the calendar is followed once an hour
    hours = from_s // _HOUR_S * _HOUR_S, -(-to_s // _HOUR_S) * _HOUR_S
    found = [span for window in spec.windows for span in _of_window(window, *hours)]
    zones = sorted({window.time_zone for window in spec.windows} or {"UTC"})
    found += [span for zone in zones for span in _holidays(spec.holidays, zone)]
    within = ((max(start, from_s), min(end, to_s)) for start, end in found)
    return _merged(span for span in within if span[0] < span[1])


def window_faults(spec: BatchPolicySpec) -> tuple[tuple[str, str], ...]:
    """(reason, message) of each window that no calendar can follow."""
    numbered = enumerate(spec.windows)
    return tuple(
        fault for number, window in numbered for fault in openings.faults(f"windows[{number}]", window, _UNTIL_THEN)
    )


@lru_cache(maxsize=4096)
def _of_window(window: BatchWindow, from_s: float, to_s: float) -> Spans:
    if any(True for _ in openings.faults("", window, "")):
        return ()
    return _merged((at_s, at_s + window.duration_s) for at_s in openings.firings(window, from_s, to_s))


@lru_cache(maxsize=4096)
def _holidays(days: tuple[str, ...], zone_name: str) -> Spans:
    zone = zone_named(zone_name)
    return () if zone is None else tuple(day_span(date.fromisoformat(day), zone) for day in days)


def _merged(spans: Iterable[tuple[float, float]]) -> Spans:
    """In order; those that touch or overlap are one: 22-24 and 0-7 are 22-7."""
    return tuple(_joined(sorted(spans)))


def _joined(spans: Iterable[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    start = end = float("-inf")
    for next_start, next_end in spans:
        if next_start <= end:
            end = max(end, next_end)
            continue
        if end > start:
            yield start, end
        start, end = next_start, next_end
    if end > start:
        yield start, end
