"""The simulator `ebbtide`: our own engine model in virtual time, one pool, requests to the least loaded replica.

It shows what Dynamo's replay cannot be asked for, start-up times that differ above all. Deterministic for a seed.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from ebbtide.bench.case import Case
from ebbtide.bench.driver import Driver
from ebbtide.bench.ledger import Life, bill, curve
from ebbtide.bench.policy import Minute, Rival
from ebbtide.bench.run import RunResult, Served
from ebbtide.clock import monotonic_s
from ebbtide.errors import ConfigurationError
from ebbtide.sim.engine import Engine, Outcome
from ebbtide.sim.profiles import EngineProfile, known_profiles, profile
from ebbtide.sim.requests import Request
from ebbtide.sim.scrape import Sample, sample_of
from ebbtide.sim.tables import Table

# models of the case -> size of the emulated engine: dense ones that are near the table's
_MODELS = {
    "meta-llama/Meta-Llama-3.1-8B": "8B",
    "meta-llama/Llama-3.1-8B-Instruct": "8B",
    "Qwen/Qwen3-8B": "8B",
    "meta-llama/Meta-Llama-3.1-70B": "70B",
    "meta-llama/Llama-3.1-70B-Instruct": "70B",
    "meta-llama/Llama-3.3-70B-Instruct": "70B",
}
# systems of the case -> label of the emulated accelerator
_PRODUCTS = {
    "h100_sxm": "NVIDIA-H100-80GB-HBM3",
    "h200_sxm": "NVIDIA-H200",
    "b200_sxm": "NVIDIA-B200",
    "a100_sxm": "NVIDIA-A100-SXM4-80GB",
    "a100_pcie": "NVIDIA-A100-80GB-PCIe",
    "l40s": "NVIDIA-L40S",
    "l4": "NVIDIA-L4",
}
_PATIENCE_S = 7200.0  # after the last arrival: what has not ended then never does
_NEVER_S = math.inf


def engine_profile(case: Case) -> EngineProfile:
    """The emulated engine nearest to the case's; ConfigurationError that names what there is.

    Speed comes from the table, memory and batch limits from the case.
    """
    size, found = _MODELS.get(case.model, ""), None
    if not size:
        known = ", ".join(_MODELS)
        raise ConfigurationError(f"simulator ebbtide ships no model {case.model!r}; it has: {known}")
    if (size, _PRODUCTS.get(case.system, "")) in known_profiles():
        found = profile(size, _PRODUCTS[case.system])
    if found is None or found.gpus != case.tensor_parallel:
        raise ConfigurationError(
            f"simulator ebbtide has no {case.model} on {case.tensor_parallel} x {case.system}; "
            f"models of 8B run on 1 GPU, of 70B on 4; systems: {', '.join(_PRODUCTS)}"
        )
    limits = case.engine
    return msgspec.structs.replace(
        found,
        kv_tokens=limits.kv_tokens,
        kv_block_tokens=limits.block_size,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_batched_tokens,
        max_model_tokens=max(found.max_model_tokens, limits.kv_tokens),
    )


def _at_speed(known: EngineProfile, speed: float) -> EngineProfile:
    """The same engine with every iteration's time divided by `speed`."""

    def slowed(table: Table) -> Table:
        return tuple((at, milliseconds / speed) for at, milliseconds in table)

    steps = msgspec.structs.replace(
        known.steps,
        decode_ms=slowed(known.steps.decode_ms),
        kv_read_ms=slowed(known.steps.kv_read_ms),
        prefill_ms=slowed(known.steps.prefill_ms),
    )
    return msgspec.structs.replace(known, steps=steps)


class OwnSimulator:
    """Our engines under the benchmark's protocol."""

    name = "ebbtide"

    def __init__(self, rivals: Mapping[str, Rival] | None = None) -> None:
        """`rivals` None: those registered."""
        self._rivals = rivals

    def run(
        self,
        case: Case,
        requests: Sequence[Request],
        rival_name: str,
        knob: float,
        seed: int,
        history: Sequence[Minute] = (),
    ) -> RunResult:
        """One replay; see `run.Simulator`."""
        driver = Driver(case, requests, rival_name, knob, seed, history, self._rivals)
        return _Fleet(case, driver, seed).serve(requests)


@dataclass(eq=False)
class _Replica:
    """One engine and its life; `due_s` is when it becomes ready."""

    name: str
    created_s: float
    due_s: float
    engine: Engine
    ready_s: float | None = None
    draining_s: float | None = None
    gone_s: float | None = None

    @property
    def draining(self) -> bool:
        return self.draining_s is not None

    @property
    def load(self) -> int:
        return self.engine.running + self.engine.waiting

    def sample(self, now_s: float) -> Sample:
        return sample_of(self.engine, now_s)

    def life(self) -> Life:
        return Life(self.created_s, self.ready_s, self.draining_s, self.gone_s)


class _Fleet:
    """The replicas of one run."""

    def __init__(self, case: Case, driver: Driver, seed: int) -> None:
        self._case, self._driver = case, driver
        self._profile = engine_profile(case)
        self._draw = random.Random(seed)
        self._started = 0
        self._alive: list[_Replica] = []
        self._all: list[_Replica] = []
        self._outcomes: dict[int, Outcome] = {}
        self._held: list[Request] = []
        for _ in range(case.start_replicas):  # their start-up is behind them
            replica = self._start(0.0)
            replica.created_s, replica.due_s, replica.ready_s = -replica.due_s, 0.0, 0.0

    def serve(self, requests: Sequence[Request]) -> RunResult:
        """All requests, from the first to the last token."""
        began_s = monotonic_s()
        next_request, last_s = 0, requests[-1].arrival_s if requests else 0.0
        while True:
            arrives_s = requests[next_request].arrival_s if next_request < len(requests) else _NEVER_S
            if math.isinf(arrives_s) and not self._busy():
                break
            now_s = min(arrives_s, self._driver.next_s, self._next_change_s(every_engine=math.isinf(arrives_s)))
            if now_s > last_s + _PATIENCE_S:
                break
            self._advance(now_s)
            if arrives_s <= now_s:
                self._dispatch(requests[next_request], now_s)
                next_request += 1
            elif now_s >= self._driver.next_s:
                wanted = self._driver.step(self._alive, now_s)
                if wanted is not None:
                    self._scale(wanted, now_s)
        lives = [replica.life() for replica in self._all]
        billed_s, startup_s = bill(lives, last_s)
        return RunResult(
            served=tuple(_served(request, self._outcomes.get(request.id)) for request in requests),
            replicas=curve(lives),
            billed_s=billed_s,
            startup_billed_s=startup_s,
            scale_events=self._driver.changes,
            wall_s=monotonic_s() - began_s,
            believed=tuple(self._driver.believed),
            memory=self._driver.memory,
        )

    def _busy(self) -> bool:
        return bool(self._held) or any(replica.load for replica in self._alive)

    def _next_change_s(self, every_engine: bool) -> float:
        """When a replica becomes ready or a draining one may be empty; with `every_engine`, when any of them moves."""
        found = _NEVER_S
        for replica in self._alive:
            if replica.ready_s is None:
                found = min(found, replica.due_s)
            elif replica.draining or every_engine:
                event_s = replica.engine.next_event_s()
                found = found if event_s is None else min(found, event_s)
        return found

    def _advance(self, now_s: float) -> None:
        """Engines up to `now_s`; who is due becomes ready, who has drained is gone."""
        for replica in list(self._alive):
            if replica.ready_s is None:
                if replica.due_s <= now_s:
                    replica.ready_s = replica.due_s
                continue
            due_s = replica.engine.next_event_s()
            if due_s is not None and due_s <= now_s:
                for outcome in replica.engine.advance(now_s):
                    self._outcomes[outcome.request.id] = outcome
            if replica.draining and not replica.load:
                self._remove(replica, now_s)
        if self._held and any(replica.ready_s is not None for replica in self._alive):
            held, self._held = self._held, []
            for request in held:
                self._dispatch(request, now_s)

    def _dispatch(self, request: Request, now_s: float) -> None:
        serving = [replica for replica in self._alive if replica.ready_s is not None and not replica.draining]
        if serving:
            min(serving, key=lambda replica: replica.load).engine.submit(request, now_s)
        else:
            self._held.append(request)

    def _scale(self, wanted: int, now_s: float) -> None:
        """Create what is missing; of a surplus those not ready go first, then the newest, which drain."""
        kept = [replica for replica in self._alive if not replica.draining]
        for _ in range(wanted - len(kept)):
            self._start(now_s)
        kept.sort(key=lambda replica: (replica.ready_s is not None, -replica.created_s))
        for replica in kept[: max(0, len(kept) - wanted)]:
            replica.draining_s = now_s
            if not replica.load:
                self._remove(replica, now_s)

    def _start(self, now_s: float) -> _Replica:
        startup_s = self._case.startup_s[self._started % len(self._case.startup_s)]
        speeds = self._case.speeds
        profile = self._profile if not speeds else _at_speed(self._profile, speeds[self._started % len(speeds)])
        engine = Engine(profile, seed=self._draw.randrange(2**31))
        self._started += 1
        replica = _Replica(f"replica-{self._started}", now_s, now_s + startup_s, engine)
        self._alive.append(replica)
        self._all.append(replica)
        return replica

    def _remove(self, replica: _Replica, now_s: float) -> None:
        replica.gone_s = now_s
        self._alive.remove(replica)


def _served(request: Request, outcome: Outcome | None) -> Served:
    whole = outcome is not None and outcome.served
    return Served(
        arrival_s=request.arrival_s,
        prompt_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens,
        ttft_s=outcome.time_to_first_token_s if outcome is not None else None,
        itl_s=(outcome.inter_token_latency_s or 0.0) if outcome is not None and whole else None,
        end_s=outcome.finish_s if outcome is not None and whole else None,
    )
