"""One recorded run: the emulator fitted on its first load, and put beside the real engine on its second."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from benchmarks.emulator import streams
from benchmarks.emulator.cycles import Cycle, cycles
from benchmarks.emulator.pages import Page, limits, totals
from benchmarks.emulator.recording import Load, Machine, Recording
from benchmarks.emulator.virtual import play
from ebbtide.model.spec import Objectives
from ebbtide.sandbox.ledger import percentiles
from ebbtide.sandbox.loadgen import Served
from ebbtide.sim.fitting import Fit, fit
from ebbtide.sim.profiles import EngineProfile
from ebbtide.sim.requests import Outcome, Request
from ebbtide.sim.tables import StepTimes

WINDOW_S = 10.0
WANTED_AGREEMENT = 0.9
SLOWER = 1.5  # how wrong an emulator is that the measure has to tell from the fitted one

GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
_STRICTNESS = (0.6, 0.8, 1.0, 1.2, 2.0)  # times the objective between tokens
_GRAIN_S = 0.005
_TTFT, _ITL = "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds"


@dataclass(frozen=True)
class Side:
    """One engine in one window. Gauges are means of the scrapes; latencies those of requests that arrived in it, s."""

    running: float
    waiting: float
    kv_usage: float
    finished: int
    tokens: int
    first_s: dict[str, float] | None
    gap_s: dict[str, float] | None


@dataclass(frozen=True)
class Window:
    """Both engines from `begin_s` on, for `WINDOW_S` seconds."""

    begin_s: float
    phase: str
    arrivals: int
    real: Side
    emulated: Side


@dataclass(frozen=True)
class Whole:
    """One engine over the whole load: requests' latencies as their users saw them, and what it says itself, s."""

    first_s: dict[str, float]
    gap_s: dict[str, float]
    mean_first_s: float
    told_first_s: float
    told_gap_s: float
    preemptions: int
    finished: int


@dataclass(frozen=True)
class Agreement:
    """Cycles (real, emulated) under one objective; `slower` is the share within one of a slower emulator."""

    itl_s: float
    pairs: tuple[tuple[Cycle, Cycle], ...]
    slower: float


@dataclass(frozen=True)
class Comparison:
    """Everything that the document says."""

    machine: Machine
    fit: Fit
    objectives: Objectives
    late_s: float  # p95 of what the generator sent late
    windows: tuple[Window, ...]
    real: Whole
    emulated: Whole
    agreements: tuple[Agreement, ...]  # by strictness

    @property
    def cycles(self) -> tuple[tuple[Cycle, Cycle], ...]:
        """Under the objectives: real, emulated."""
        return self.agreements[_STRICTNESS.index(1.0)].pairs

    @property
    def agreement(self) -> float:
        """Share of the cycles in which the wanted replicas differ by one at most."""
        return within(self.cycles, 1)

    def gauges(self, pick: Callable[[Side], float]) -> list[tuple[float, float]]:
        """One gauge, window by window: real and emulated."""
        return [(pick(window.real), pick(window.emulated)) for window in self.windows]


def compare(run: Recording) -> Comparison:
    """ConfigurationError when the first load does not show enough for a fit."""
    first, second = run.first.pages, run.second.pages
    machine = run.machine
    known = limits(first[-1], machine.max_num_batched_tokens, machine.max_model_tokens)
    fitted = fit([totals(page) for page in first], known, name=machine.model_size)
    served = run.second.served
    outcomes, pages = _emulated(fitted.profile, run.second)
    wanted = objectives(fitted)
    late = percentiles(sorted(one.slippage_s for one in served)) or {}
    slower = slowed(fitted.profile, SLOWER)
    both = [_emulated(profile, run.first)[1] for profile in (fitted.profile, slower)]
    watched = _Watched([first, second], [both[0], pages], [both[1], _emulated(slower, run.second)[1]])
    asked = [msgspec.structs.replace(wanted, itl_s=factor * wanted.itl_s) for factor in _STRICTNESS]
    return Comparison(
        machine=machine,
        fit=fitted,
        objectives=wanted,
        late_s=late["p95"],
        windows=tuple(_windows(served, second, outcomes, pages)),
        real=_whole([_latencies(one) for one in served], second),
        emulated=_whole([_latencies_of(one) for one in outcomes], pages),
        agreements=tuple(_sharpness(watched, one) for one in asked),
    )


def within(pairs: Sequence[tuple[Cycle, Cycle]], replicas: int) -> float:
    """Share of the cycles in which the wanted replicas differ by `replicas` at most."""
    return sum(abs(real.wanted - emulated.wanted) <= replicas for real, emulated in pairs) / len(pairs)


def slowed(profile: EngineProfile, by: float) -> EngineProfile:
    """The same engine with every iteration `by` times as long."""
    steps = profile.steps
    tables = {name: getattr(steps, name) for name in ("decode_ms", "kv_read_ms", "prefill_ms")}
    longer = {name: tuple((x, by * ms) for x, ms in table) for name, table in tables.items()}
    return msgspec.structs.replace(profile, steps=msgspec.structs.replace(steps, **longer))


def objectives(fitted: Fit) -> Objectives:
    """A first token within a second, and three times an idle engine's iteration between tokens, in steps of 5 ms."""
    profile = fitted.profile
    step_s = StepTimes(profile.steps, profile.max_num_seqs, profile.kv_tokens, 0.0, 1).iteration_s(1, 0.0, 0, 0)
    return Objectives(ttft_s=1.0, itl_s=math.ceil(3.0 * step_s / _GRAIN_S) * _GRAIN_S, attainment=0.95)


@dataclass(frozen=True)
class _Watched:
    """The pages of both loads, of each engine: the first is what the plan learns from, the second what is compared."""

    real: list[list[Page]]
    emulated: list[list[Page]]
    slow: list[list[Page]]


def _emulated(profile: EngineProfile, load: Load) -> tuple[list[Outcome], list[Page]]:
    requests = [Request(one.id, one.arrival_s, one.prompt_tokens, one.output_tokens) for one in load.served]
    return play(profile, requests, [scrape.at_s for scrape in load.scrapes])


def _sharpness(watched: _Watched, asked: Objectives) -> Agreement:
    """How often the two agree under these objectives, and whether a wrong emulator would be told apart."""
    truth = cycles(watched.real, asked)
    pairs = tuple(zip(truth, cycles(watched.emulated, asked), strict=True))
    wrong = tuple(zip(truth, cycles(watched.slow, asked), strict=True))
    return Agreement(asked.itl_s, pairs, within(wrong, 1))


@dataclass(frozen=True)
class _Latencies:
    arrival_s: float
    first_s: float | None
    gap_s: float | None


def _latencies(one: Served) -> _Latencies:
    outcome = one.outcome
    return _Latencies(one.arrival_s, outcome.time_to_first_token_s, outcome.inter_token_latency_s)


def _latencies_of(one: Outcome) -> _Latencies:
    return _Latencies(one.request.arrival_s, one.time_to_first_token_s, one.inter_token_latency_s)


def _windows(
    served: Sequence[Served], real: Sequence[Page], outcomes: Sequence[Outcome], emulated: Sequence[Page]
) -> Iterable[Window]:
    users = [_latencies(one) for one in served], [_latencies_of(one) for one in outcomes]
    begin_s = 0.0
    while begin_s + WINDOW_S <= real[-1].at_s:
        end_s = begin_s + WINDOW_S
        seen = [[one for one in found if begin_s <= one.arrival_s < end_s] for found in users]
        yield Window(
            begin_s=begin_s,
            phase=streams.phase_at(streams.SECOND.phases, begin_s + 0.5 * WINDOW_S),
            arrivals=len(seen[0]),
            real=_side(seen[0], real, begin_s),
            emulated=_side(seen[1], emulated, begin_s),
        )
        begin_s = end_s


def _side(users: Sequence[_Latencies], pages: Sequence[Page], begin_s: float) -> Side:
    inside = [page for page in pages if begin_s <= page.at_s < begin_s + WINDOW_S]
    start = [page for page in pages if page.at_s < begin_s or page is pages[0]][-1]
    running, waiting, kv_usage = (sum(page.total(name) for page in inside) / len(inside) for name in GAUGES)

    def counted(name: str) -> int:
        return int(inside[-1].total(name) - start.total(name))

    return Side(
        running=running,
        waiting=waiting,
        kv_usage=kv_usage,
        finished=counted("vllm:request_success_total"),
        tokens=counted("vllm:generation_tokens_total"),
        first_s=percentiles(sorted(one.first_s for one in users if one.first_s is not None)),
        gap_s=percentiles(sorted(one.gap_s for one in users if one.gap_s is not None)),
    )


def _whole(users: Sequence[_Latencies], pages: Sequence[Page]) -> Whole:
    first, last = pages[0], pages[-1]

    def mean_s(name: str) -> float:
        count = last.total(f"{name}_count") - first.total(f"{name}_count")
        return (last.total(f"{name}_sum") - first.total(f"{name}_sum")) / max(1.0, count)

    def grown(name: str) -> int:
        return int(last.total(name) - first.total(name))

    return Whole(
        first_s=percentiles(sorted(one.first_s for one in users if one.first_s is not None)) or {},
        gap_s=percentiles(sorted(one.gap_s for one in users if one.gap_s is not None)) or {},
        mean_first_s=sum(one.first_s or 0.0 for one in users) / len(users),
        told_first_s=mean_s(_TTFT),
        told_gap_s=mean_s(_ITL),
        preemptions=grown("vllm:num_preemptions_total"),
        finished=grown("vllm:request_success_total"),
    )
