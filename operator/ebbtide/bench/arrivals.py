"""Arrivals as a gateway's counters show them: whole minutes, training first. It never looks past the moment asked."""

from collections.abc import Sequence
from itertools import accumulate

from ebbtide.bench.policy import Minute
from ebbtide.sim.requests import Request

_MINUTE_S = 60.0


class Arrivals:
    """What has come of `requests` (sorted by arrival) up to a moment that only goes forward."""

    def __init__(self, requests: Sequence[Request], history: Sequence[Minute]) -> None:
        self.minutes: list[Minute] = list(history)
        self._requests = requests
        self._prompt_tokens = [0, *accumulate(request.prompt_tokens for request in requests)]
        self._came = 0
        self._minute_start_s = 0.0
        self._minute_first = 0

    def until(self, now_s: float) -> tuple[int, int]:
        """(requests, their prompt tokens) that came up to `now_s`."""
        came, requests = self._came, self._requests
        while came < len(requests) and requests[came].arrival_s <= now_s:
            came += 1
        self._came = came
        return came, self._prompt_tokens[came]

    def history(self, now_s: float) -> Sequence[Minute]:
        """All whole minutes that ended by `now_s`; the same list each time, longer."""
        while self._minute_start_s + _MINUTE_S <= now_s:
            end_s, last = self._minute_start_s + _MINUTE_S, self._minute_first
            while last < len(self._requests) and self._requests[last].arrival_s < end_s:
                last += 1
            inside = self._requests[self._minute_first : last]
            prompt, output = sum(r.prompt_tokens for r in inside), sum(r.output_tokens for r in inside)
            self.minutes.append(Minute(self._minute_start_s, len(inside), prompt, output))
            self._minute_start_s, self._minute_first = end_s, last
        return self.minutes
