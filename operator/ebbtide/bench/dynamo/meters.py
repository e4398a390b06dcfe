"""From what a tick of Dynamo's replay shows to the metrics that a vLLM pod would show.

A tick has gauges by worker, and for the whole fleet since the tick before: means of latencies over the requests that
ended, and tokens. Ticks come so often (`gap_s`) that most see at most one request end, so the means are single values.
What the fleet's numbers leave open is divided over workers: arrivals evenly, for the router takes turns; a request that
ended goes to the worker whose batch shrank. First tokens are known when their request ends, some seconds late.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ebbtide.bench.case import Case
from ebbtide.sim.histogram import TOKEN_LATENCY_BOUNDS_S, TTFT_BOUNDS_S, Histogram
from ebbtide.sim.scrape import Sample, counts_of

Tick = Mapping[str, Any]

_ENDS_PER_TICK = 0.5
_SHORTEST_GAP_S, _LONGEST_GAP_S = 0.005, 0.5
_RATE_TAU_S = 5.0
_KEPT_SINGLES = 64


class Worker:
    """One worker's counters, gauges and histograms. Seconds of the replay."""

    def __init__(self, number: int, case: Case, created_s: float, ready_s: float | None) -> None:
        self.name = f"replica-{number}"
        self.created_s, self.ready_s = created_s, ready_s
        self.draining = False
        self.arrived = self.arrived_tokens = 0.0
        self.prefilling = self.decoding = self.queued = 0
        self.kv_tokens = self.queued_tokens = self.scheduled_tokens = self.step_s = 0.0
        self.claimed = 0  # requests whose latencies were counted here
        self.generated = 0.0
        self.ttft, self.tpot = Histogram(TTFT_BOUNDS_S), Histogram(TOKEN_LATENCY_BOUNDS_S)
        self._itl = Histogram(TOKEN_LATENCY_BOUNDS_S)
        self._gaps = self._gap_s = 0.0  # since the last sample
        self._finished = self._prompt_tokens = 0.0
        self._kv_capacity = case.engine.kv_tokens

    @property
    def in_flight(self) -> int:
        """Requests inside the worker."""
        return self.prefilling + self.decoding + self.queued

    @property
    def unclaimed(self) -> float:
        """Requests that ended by the gauges and whose latencies were not counted yet."""
        return self.arrived - self.in_flight - self.claimed

    def show(self, shown: Tick) -> None:
        """Take the gauges of its last iteration."""
        self.prefilling, self.decoding = shown["num_prefill_requests"], shown["num_decode_requests"]
        self.queued = shown["num_queued_prefill"] + shown["num_queued_decode"]
        self.kv_tokens = shown["sum_decode_kv_tokens"] + shown["sum_prefill_kv_tokens"]
        self.queued_tokens = shown["sum_queued_prefill_tokens"]
        self.scheduled_tokens = shown["sum_prefill_tokens"]
        self.step_s = shown["wall_time"]

    def decode(self, tokens: float, gaps: float, elapsed_s: float) -> None:
        """Count tokens, and the gaps before them, that took the running requests `elapsed_s`."""
        self.generated += tokens
        self._gaps += gaps
        self._gap_s += self.decoding * elapsed_s

    def end(self, ttft_s: float, itl_s: float) -> None:
        """Count a request that ended."""
        self.claimed += 1
        self.ttft.observe(ttft_s)
        self.tpot.observe(itl_s)

    def sample(self, now_s: float) -> Sample:
        """What its /metrics say now. Counters never go back, though what they are made from may by a request."""
        self._finished = max(self._finished, self.arrived - self.in_flight)
        self._prompt_tokens = max(self._prompt_tokens, self.arrived_tokens - self.queued_tokens)
        if whole := int(self._gaps):
            self._itl.observe(self._gap_s / self._gaps, whole)
            self._gap_s *= (self._gaps - whole) / self._gaps
            self._gaps -= whole
        return Sample(
            at=now_s,
            running=self.prefilling + self.decoding,
            waiting=self.queued,
            kv_usage=min(1.0, self.kv_tokens / self._kv_capacity),
            finished=self._finished,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self.generated,
            preempted=0.0,
            ttft=counts_of(self.ttft),
            itl=counts_of(self._itl),
            tpot=counts_of(self.tpot),
            queued_prompt_tokens=self.queued_tokens,
            scheduled_prompt_tokens=self.scheduled_tokens,
        )


class Workers:
    """All workers of a replay, by what its ticks say."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._startup_s = case.startup_s[0]
        self._workers = {i: Worker(i, case, -self._startup_s, 0.0) for i in range(case.start_replicas)}
        self._asked_s = 0.0
        self._came = (0, 0)
        self._ends_per_s = 0.0
        self._singles: deque[tuple[float, float]] = deque(maxlen=_KEPT_SINGLES)

    @property
    def alive(self) -> Sequence[Worker]:
        """Those that exist now, starting and draining ones included."""
        return list(self._workers.values())

    @property
    def gap_s(self) -> float:
        """Seconds to the next tick, so that about two in five see a request end."""
        return min(max(_ENDS_PER_TICK / max(self._ends_per_s, 1e-9), _SHORTEST_GAP_S), _LONGEST_GAP_S)

    def asked(self, now_s: float) -> None:
        """The number of workers was changed now: those that are new in the next tick were asked for now."""
        self._asked_s = now_s

    def take(self, tick: Tick, now_s: float, came: tuple[int, int]) -> None:
        """Count a tick. `came`: requests that arrived since the beginning, and their prompt tokens."""
        traffic = tick["traffic"]
        self._members(tick, now_s)
        for shown in tick["decode_fpm_snapshots"]:
            worker = self._workers.get(shown["worker_id"])
            if worker is not None:
                worker.show(shown)
        self._arrivals([self._workers[i] for i in tick["active_decode_ids"]], came)
        if traffic is not None:
            self._tokens(traffic)
            self._ends(traffic)

    def _members(self, tick: Tick, now_s: float) -> None:
        active, starting, draining = (tick[f"{state}_decode_ids"] for state in ("active", "starting", "draining"))
        for number in (*active, *starting):
            if number not in self._workers:
                self._workers[number] = Worker(number, self._case, self._asked_s, None)
        for number in active:
            worker = self._workers[number]
            if worker.ready_s is None:
                worker.ready_s = min(now_s, worker.created_s + self._startup_s)
        for number in draining:
            self._workers[number].draining = True
        for number in self._workers.keys() - {*active, *starting, *draining}:
            del self._workers[number]

    def _arrivals(self, active: Sequence[Worker], came: tuple[int, int]) -> None:
        requests, tokens = came[0] - self._came[0], came[1] - self._came[1]
        self._came = came
        for worker in active:
            worker.arrived += requests / len(active)
            worker.arrived_tokens += tokens / len(active)

    def _tokens(self, traffic: Tick) -> None:
        """Divide the fleet's tokens by batch size over iteration time."""
        gaps = traffic["accept_length_forward_count"]
        tokens = gaps * (traffic["avg_accept_length"] or 0.0)
        speeds = [(worker, worker.decoding / worker.step_s) for worker in self._workers.values() if worker.step_s > 0.0]
        total = sum(speed for _, speed in speeds)
        for worker, speed in speeds:
            share = speed / total if total > 0.0 else 1.0 / len(speeds)
            worker.decode(tokens * share, gaps * share, traffic["duration_s"])

    def _ends(self, traffic: Tick) -> None:
        count, elapsed_s = traffic["ttft_count"], traffic["duration_s"]
        if elapsed_s > 0.0:
            self._ends_per_s += (count / elapsed_s - self._ends_per_s) * min(1.0, elapsed_s / _RATE_TAU_S)
        if not count:
            return
        mean = traffic["avg_ttft_ms"] / 1000, (traffic["avg_itl_ms"] or 0.0) / 1000
        if count == 1:
            self._singles.append(mean)
        for ttft_s, itl_s in _spread(mean, count, self._singles):
            max(self._workers.values(), key=lambda worker: worker.unclaimed).end(ttft_s, itl_s)


def _spread(
    mean: tuple[float, float], count: int, singles: Sequence[tuple[float, float]]
) -> Sequence[tuple[float, float]]:
    """`count` values of this mean, spread as the newest values that were seen one by one: a mean hides its tail."""
    if count == 1 or len(singles) < count:
        return [mean] * count
    chosen = list(singles)[-count:]
    means = [sum(values) / count for values in zip(*chosen, strict=True)]
    factors = [wanted / seen if seen > 0.0 else 1.0 for wanted, seen in zip(mean, means, strict=True)]
    return [(ttft_s * factors[0], itl_s * factors[1]) for ttft_s, itl_s in chosen]
