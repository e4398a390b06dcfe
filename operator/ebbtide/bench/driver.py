"""The outside of a simulated fleet: when it is scraped, when the policy is asked, and what became of its answers.

A simulator calls `step` at the moments the driver asks for and carries out what it answers. The policy's own period
and bounds are kept here, so that both simulators treat every policy alike. It never sees what has not happened yet.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

import msgspec

from ebbtide.bench.ablations import ABLATIONS, told
from ebbtide.bench.arrivals import Arrivals
from ebbtide.bench.case import Case
from ebbtide.bench.past import remembered
from ebbtide.bench.policy import Minute, Rival
from ebbtide.bench.run import EBBTIDE, HOLD, PATH
from ebbtide.bench.shown import Metrics, Replica
from ebbtide.core.parts import ALL, Parts
from ebbtide.core.plan import plan_with
from ebbtide.errors import ConfigurationError
from ebbtide.model.memory import Memory
from ebbtide.sim.requests import Request

_NEVER_S = float("inf")

Wanted = Callable[[Sequence[Replica], float], int | None]


def registered() -> Mapping[str, Rival]:
    """All rivals by name; imported late, for the driver also runs where only one of them is wanted."""
    rivals: Mapping[str, Rival] = import_module("ebbtide.bench.rivals").REGISTRY
    return rivals


class Driver:
    """One replay's outside. `next_s` is when `step` is due again; `changes` counts what the policy changed.

    `believed` is (second, requests/s that one replica carries) each time Ebbtide planned.
    """

    def __init__(
        self,
        case: Case,
        requests: Sequence[Request],
        rival: str,
        knob: float,
        seed: int,
        history: Sequence[Minute],
        rivals: Mapping[str, Rival] | None = None,
    ) -> None:
        """`seed` sets the phase of the scrapes, which is chance in a cluster too. `rivals` None: those registered."""
        self.case = case
        self._rivals = rivals
        self.arrivals = Arrivals(requests, history)
        self.declared = case.start_replicas
        self.changes = 0
        self.believed: list[tuple[float, float]] = []
        # the share is meant over the whole span
        window_s = case.window_s or (requests[-1].arrival_s if requests else case.cycle_s)
        self._metrics = Metrics(told(case, knob) if rival in ABLATIONS else case, window_s)
        self._last_write: tuple[float, int] | None = None
        self._ends_s = requests[-1].arrival_s if requests else 0.0
        self._memory: Memory | None = msgspec.msgpack.decode(case.memory, type=Memory) if case.memory else None
        self._wanted, self._period_s, self._scrape_s = self._policy(rival, knob, seed)
        self._scrape_at = self._scrape_s * random.Random(seed).random() if self._scrape_s < _NEVER_S else _NEVER_S
        self._decide_at = self._period_s

    @property
    def memory(self) -> bytes:
        """What Ebbtide remembers now, packed; empty under other policies."""
        return b"" if self._memory is None else msgspec.msgpack.encode(self._memory)

    @property
    def next_s(self) -> float:
        """When `step` is due."""
        return min(self._scrape_at, self._decide_at)

    def step(self, replicas: Sequence[Replica], now_s: float) -> int | None:
        """Scrape and decide what is due by `now_s`; the replicas to have from now on where that is a change."""
        if now_s >= self._scrape_at:
            self._scrape_at += self._scrape_s
            if not self.case.faults.hides(now_s):
                self._metrics.scrape(replicas, now_s)
        if now_s < self._decide_at:
            return None
        self._decide_at += self._period_s
        # after the last arrival nothing is billed or scored: what the policy does then is nobody's gain
        wanted = self._wanted(replicas, now_s) if now_s <= self._ends_s else None
        if wanted is None:
            return None
        wanted = min(max(wanted, self.case.min_replicas), self.case.max_replicas)
        if wanted == self.declared:
            return None
        self.declared, self._last_write = wanted, (self.case.faults.clock_s(now_s), wanted)
        self.changes += 1
        return wanted

    def _policy(self, name: str, knob: float, seed: int) -> tuple[Wanted, float, float]:
        """(what answers, its period, its scrape interval)."""
        case = self.case
        if name == EBBTIDE or name in ABLATIONS:
            return self._ebbtide(ABLATIONS.get(name, ALL), seed), case.cycle_s, case.scrape_s
        if name == HOLD:
            return (lambda replicas, now_s: None), _NEVER_S, _NEVER_S
        if name == PATH:
            return self._along_path, 1.0, _NEVER_S
        rivals = registered() if self._rivals is None else self._rivals
        if name not in rivals:
            raise ConfigurationError(f"policy {name!r} is unknown; known: {', '.join((EBBTIDE, HOLD, PATH, *rivals))}")
        policy = rivals[name].make(case, knob)

        def decide(replicas: Sequence[Replica], now_s: float) -> int | None:
            history = self.arrivals.history(now_s - case.metric_delay_s)
            return policy.decide(self._metrics.observation(replicas, self.declared, history, now_s))

        # an original that reads its own proxy is not slowed down to Prometheus' pace
        return decide, policy.period_s, min(case.scrape_s, getattr(policy, "scrape_s", case.scrape_s))

    def _ebbtide(self, parts: Parts, seed: int) -> Wanted:
        case, faults = self.case, self.case.faults
        memory = self._memory or remembered(case, self._metrics, self.arrivals.minutes)

        def decide(replicas: Sequence[Replica], now_s: float) -> int | None:
            nonlocal memory
            shown = self._metrics.snapshot(replicas, self.declared, self._last_write, now_s)
            memory = faults.remembered(memory, now_s, seed)
            decided, memory = plan_with(parts, shown, memory, case.epoch_s + faults.clock_s(now_s))
            self._memory = memory
            for failure in decided.failures:
                raise RuntimeError(f"plan failed in {failure.step}: {failure.error} at {failure.trace}")
            carries = decided.services[0].variants[0].capacity
            if carries is not None:
                self.believed.append((now_s, carries.requests_per_second))
            return decided.actions[0].to_replicas if decided.actions else None

        return decide

    def _along_path(self, replicas: Sequence[Replica], now_s: float) -> int | None:
        del replicas
        due = [count for second, count in self.case.path if second <= now_s]
        return due[-1] if due else None
