"""Answers "what does this policy do at this setting, on every seed" from the store or by running it, and says so.

It knows what a result depends on: the case, the traffic, the policy with its setting and sources, the seed, the
simulator with its sources. Whoever asks waits; several may ask at once, and the workers take what comes first.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

import msgspec

from ebbtide.bench.ablations import ABLATIONS
from ebbtide.bench.case import Case
from ebbtide.bench.faults import NONE
from ebbtide.bench.policy import Minute
from ebbtide.bench.roster import ALL
from ebbtide.bench.run import EBBTIDE, HOLD, PATH, RunResult
from ebbtide.bench.score import Score, score
from ebbtide.bench.simulators import WITHOUT_CHANCE, place_of
from ebbtide.bench.sources import digest_of_sources
from ebbtide.bench.store import Load, Store, digest_of
from ebbtide.bench.workers import Job, Workers
from ebbtide.clock import monotonic_s
from ebbtide.errors import EbbtideError
from ebbtide.sim.requests import Request
from ebbtide.units import format_duration

Say = Callable[[str], None]

A = TypeVar("A")
B = TypeVar("B")

_AT_ONCE = 64  # that wait for an answer; the workers set the pace
_FORM = 1  # of a stored result; another one makes all of them new
_OF_THE_PLAN = ("ebbtide.core", "ebbtide.model.memory")  # what it decides by and remembers: nothing else does
_NOT_THE_SIMULATOR = (*_OF_THE_PLAN, "ebbtide.bench.rivals")  # the policy's own sources answer for these
_SHOWN_TO_EBBTIDE = ("ebbtide.model",)  # snapshots: rivals see `bench.policy` alone, and a new field of ours is no news


@dataclass(frozen=True)
class Seeded:
    """The traffic of one seed, by its digest in the store, and that of the lead-in; empty: there is none."""

    seed: int
    load: str
    before: str = ""


class Runner:
    """Runs of one simulator. `say` gets a line for each setting that was measured."""

    def __init__(self, simulator: str, store: Store, workers: Workers, say: Say) -> None:
        self.name, self.store = simulator, store
        self._place = place_of(simulator)
        self._workers, self._say = workers, say
        self._begun_s, self._guard = monotonic_s(), threading.Lock()
        self.done = self.from_store = 0

    def results(self, case: Case, loads: Sequence[Seeded], policy: str, knob: float) -> list[RunResult]:
        """One replay a seed, in the order of `loads`. Raises what a worker raises."""
        jobs = [self.job(case, load, policy, knob) for load in loads]
        known = {job.key: self.store.result(job.key) for job in jobs}
        waiting = {job.key: self._workers.submit(job) for job in jobs if known[job.key] is None}
        for key, future in waiting.items():
            future.result()
            known[key] = self.store.result(key)  # what is scored is what is kept, also when it is fresh
        with self._guard:
            self.done += len(known)
            self.from_store += len(known) - len(waiting)
        return [self._present(known[job.key]) for job in jobs]

    def _present(self, result: RunResult | None) -> RunResult:
        if result is None:
            raise EbbtideError(f"a result vanished from {self.store.folder}: does another process delete there?")
        return result

    def run(
        self,
        case: Case,
        requests: Sequence[Request],
        rival_name: str,
        knob: float,
        seed: int,
        history: Sequence[Minute],
    ) -> RunResult:
        """One replay, as a `Simulator` does it: what measures through a simulator is kept and shared out as well."""
        per_s = len(requests) / max(1.0, requests[-1].arrival_s)
        self._say(f"{self._passed():>7}  measuring {case.start_replicas} replicas under {per_s:.4g} requests/s")
        load = self.store.put_load(Load(tuple(requests), tuple(history)))
        return self.results(case, [Seeded(seed, load)], rival_name, knob)[0]

    def side_by_side(self, function: Callable[[A], B], items: Iterable[A]) -> list[B]:
        """`map`, but all at the same time. The first failure, or Ctrl-C, ends what runs."""
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            futures = [pool.submit(function, item) for item in items]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self._workers.close()
                raise
        return [future.result() for future in futures]

    def scores(self, case: Case, loads: Sequence[Seeded], policy: str, knob: float) -> tuple[Score, ...]:
        """The score of each seed."""
        return tuple(score(case, result) for result in self.results(case, loads, policy, knob))

    def told(self, name: str, knob: float, scores: Sequence[Score]) -> tuple[Score, ...]:
        """The same scores, after a line that says them: `name` at the setting `knob`, all seeds together."""
        self._say(self._line(name, knob, scores))
        return tuple(scores)

    def _line(self, policy: str, knob: float, scores: Sequence[Score]) -> str:
        submitted = max(1, sum(one.submitted for one in scores))
        attained = 1 - sum(one.missed for one in scores) / submitted
        cost = sum(one.cost for one in scores) / len(scores)
        with self._guard:
            runs = f"{self.done} runs, {self.from_store} of them known"
        return f"{self._passed():>7}  {policy:<22} at {knob:<8.4g} {attained:8.3%}  {cost:9.2f}   ({runs})"

    def _passed(self) -> str:
        return format_duration(max(1.0, monotonic_s() - self._begun_s))

    def job(self, case: Case, load: Seeded, policy: str, knob: float) -> Job:
        """The replay, with a key that is the same for what gives the same result and for nothing else."""
        seed = 0 if self.name in WITHOUT_CHANCE and policy in (HOLD, PATH) else load.seed
        before = load.before if _learns(policy) else ""
        parts = {
            "form": _FORM,
            "case": what_matters(case, policy),
            "load": load.load,
            "before": before,
            "policy": policy,
            "policy_sources": policy_sources(policy),
            "knob": knob,
            "seed": seed,
            "simulator": self.name,
            "simulator_sources": simulator_sources(self.name, policy),
        }
        return Job(digest_of(parts), self._place, case, load.load, policy, knob, seed, before)


def what_matters(case: Case, policy: str) -> Case:
    """`case` without what cannot change a replay: its name, and for who looks at nothing what is shown and wanted."""
    case = msgspec.structs.replace(case, name="", lead_in=case.lead_in if _learns(policy) else None)
    if policy not in (HOLD, PATH):
        return case
    case = msgspec.structs.replace(
        case,
        **{"ttft_s": 0.0, "itl_s": 0.0, "attainment": 0.0, "gpu_hour_price": Decimal(0), "metric_delay_s": 0.0},
        **{"carries": None, "declared": False, "faults": NONE},
    )
    return msgspec.structs.replace(case, startup_s=()) if policy == HOLD else case


def _learns(policy: str) -> bool:
    return policy == EBBTIDE or policy in ABLATIONS


def simulator_sources(name: str, policy: str = EBBTIDE) -> str:
    """Digest of the simulator's code, as far as that policy sees it: pins of what it installs are part of it."""
    without = _NOT_THE_SIMULATOR if _learns(policy) else (*_NOT_THE_SIMULATOR, *_SHOWN_TO_EBBTIDE)
    return digest_of_sources(place_of(name).partition(":")[0], without)


def policy_sources(name: str) -> str:
    """Digest of the policy's code; what is no rival belongs to the simulator, but for the plan."""
    if _learns(name):
        return digest_of_sources("ebbtide.core.plan") + digest_of_sources("ebbtide.bench.lead_in", _NOT_THE_SIMULATOR)
    if name in (HOLD, PATH):
        return ""
    make = ALL[name].make
    module = getattr(make, "func", make).__module__  # a partial has that of functools
    return digest_of_sources(module, (*_OF_THE_PLAN, *_SHOWN_TO_EBBTIDE))
