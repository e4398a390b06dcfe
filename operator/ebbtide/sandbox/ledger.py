"""What became of the requests of one route, and the latencies that its users saw.

Shares are of requests, 0..1; latencies in seconds. It only counts: whoever reads the summary decides what it means.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from ebbtide.sim.requests import Outcome


class Objectives(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a request has to meet, in seconds."""

    time_to_first_token_s: float = 1.0
    inter_token_latency_s: float = 0.05


class Ended(msgspec.Struct, frozen=True):
    """One ended request; `at_s` counts from the start of its stream, None: there was no such latency."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    time_to_first_token_s: float | None
    inter_token_latency_s: float | None
    finish_reason: str
    met_both: bool


class Ledger:
    """Counts of one route. `after_s`: requests later than this many seconds into their stream are counted apart too.

    Counts are of all requests; `ended` and the percentiles over all go back `kept` requests, so that a sandbox that
    runs for days does not fill the memory.
    """

    def __init__(self, after_s: float = 60.0, recent_s: float = 60.0, kept: int = 100_000) -> None:
        self.after_s, self.recent_s = after_s, recent_s
        self.requests = self.requests_after = 0
        self.ended: deque[Ended] = deque()
        self._kept = kept
        self._ended = self._met = self._met_after = self._ended_after = self._served = 0
        self._first_s: list[float] = []  # sorted
        self._gap_s: list[float] = []  # sorted
        self._recent: deque[tuple[float, float | None, float | None]] = deque()
        self._arrivals: deque[float] = deque()

    def arrived(self, now_s: float, at_s: float) -> None:
        """A request came at `now_s`, `at_s` seconds into its stream."""
        self.requests += 1
        self.requests_after += at_s >= self.after_s
        self._arrivals.append(now_s)
        self._forget(now_s)

    def book(self, outcome: Outcome, at_s: float, objectives: Objectives) -> None:
        """A request ended; `at_s` is when it arrived in its stream."""
        first_s, gap_s = outcome.time_to_first_token_s, outcome.inter_token_latency_s
        met = outcome.meets(objectives.time_to_first_token_s, objectives.inter_token_latency_s)
        request = outcome.request
        self.ended.append(
            Ended(at_s, request.prompt_tokens, request.output_tokens, first_s, gap_s, outcome.finish_reason, met)
        )
        self._ended += 1
        self._served += outcome.served
        self._met += met
        if at_s >= self.after_s:
            self._ended_after += 1
            self._met_after += met
        _insert(self._first_s, first_s)
        _insert(self._gap_s, gap_s)
        if len(self.ended) > self._kept:
            oldest = self.ended.popleft()
            _remove(self._first_s, oldest.time_to_first_token_s)
            _remove(self._gap_s, oldest.inter_token_latency_s)
        self._recent.append((outcome.finish_s, first_s, gap_s))

    def summary(self, now_s: float) -> dict[str, Any]:
        """Counts, shares of the ended (None before the first) and percentiles, over all and over the recent window."""
        self._forget(now_s)
        recent_first = sorted(first_s for _, first_s, _ in self._recent if first_s is not None)
        recent_gap = sorted(gap_s for _, _, gap_s in self._recent if gap_s is not None)
        return {
            "requests": self.requests,
            "ended": self._ended,
            "served": self._served,
            "met": self._met,
            "met_both": _share(self._met, self._ended),
            "after_s": self.after_s,
            "requests_after": self.requests_after,
            "ended_after": self._ended_after,
            "met_after": self._met_after,
            "met_both_after_s": _share(self._met_after, self._ended_after),
            "requests_per_second": len(self._arrivals) / self.recent_s,
            "time_to_first_token_s": percentiles(self._first_s),
            "inter_token_latency_s": percentiles(self._gap_s),
            "recent_s": self.recent_s,
            "recent_time_to_first_token_s": percentiles(recent_first),
            "recent_inter_token_latency_s": percentiles(recent_gap),
        }

    def _forget(self, now_s: float) -> None:
        since_s = now_s - self.recent_s
        while self._arrivals and self._arrivals[0] < since_s:
            self._arrivals.popleft()
        while self._recent and self._recent[0][0] < since_s:
            self._recent.popleft()


def _insert(values: list[float], value: float | None) -> None:
    if value is not None:
        insort(values, value)


def _remove(values: list[float], value: float | None) -> None:
    if value is not None:
        del values[bisect_left(values, value)]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """Nearest-rank percentiles of sorted values: the p99 of 100 values is the 99th."""
    if not values:
        return None
    return {f"p{p}": values[math.ceil(len(values) * p / 100) - 1] for p in (50, 95, 99)}
