"""Finds out what must be known before any policy is asked: how large the case is, and what cannot be bought.

Capacity is measured in the simulator with the traffic's own lengths, so that `--peak-replicas` means the same for every
model and GPU. Impossible input is refused here, before the long part.
"""

import math
from dataclasses import dataclass

import msgspec

from ebbtide.bench import clairvoyant, misses
from ebbtide.bench.case import Carries, Case, EngineLimits, LeadIn, fleet
from ebbtide.bench.loads import MOST_REQUESTS, Span, load_of
from ebbtide.bench.question import Question
from ebbtide.bench.run import HOLD
from ebbtide.bench.runner import Runner, Seeded
from ebbtide.bench.store import Load
from ebbtide.errors import ConfigurationError
from ebbtide.sim.requests import Request

_LEAST_ROOM = 2  # replicas above what the peak needs, where no maximum is given
_ROOM = 1.5
_MOST_REPLICAS = 512
_PROBE = tuple(Request(number, float(number), 64, 4) for number in range(3))


@dataclass(frozen=True)
class Stage:
    """What was found out before any policy is asked: the case, the traffic of each seed, and the table of misses."""

    case: Case
    span: Span
    factor: float
    loads: tuple[Seeded, ...]
    requests: tuple[tuple[Request, ...], ...]
    table: misses.MissTable
    capacity_per_s: float
    p0: float


def prepare(question: Question, span: Span, runner: Runner, name: str) -> Stage:
    """Everything up to the policies; ConfigurationError where the simulator or the bounds make it impossible."""
    case = _first_case(question, name)
    _require_cache(question, case, span)
    if question.peak_replicas is None:
        _require_memory(question, span, question.scale or 1.0)
    probe(runner, case)
    p0 = misses.unbuyable(runner, case, span.lengths, seed=1).share
    if question.peak_replicas is None:
        case = _for_its_load(question, case, span, misses.carried_alone(runner, case, span.lengths, 1, p0))
    table = misses.measure_misses(runner, case, span.lengths, 1, p0, runner.side_by_side)
    missable = max(1.0 - question.attainment, 2 * p0)  # as the table does where the target cannot be bought
    one = table.capacity(table.replicas[-1], missable) or table.loads[0]
    factor = question.scale or 1.0
    if question.peak_replicas is not None:
        carried = table.capacity(question.peak_replicas, missable) or one
        factor = question.peak_replicas * carried / span.peak_per_s
    _require_memory(question, span, factor)
    need = factor * span.peak_per_s / one
    case = _bounded(question, case, need)

    def begun(part: Span) -> int:
        return start_replicas(table, missable, factor * part.begin_per_s(case.startup_s[0]), case.max_replicas)

    lead_in = None if span.lead_in is None else LeadIn(span.lead_in.length_s, begun(span.lead_in))
    case = msgspec.structs.replace(case, start_replicas=begun(span), lead_in=lead_in)
    case = _believed(question, case, span, one, table.capacity(1, missable) or one)
    requests, loads = [], []
    for seed in question.seeds:
        load = load_of(span, factor, question.noise, seed)
        if not load.requests:
            raise ConfigurationError(f"trace {question.trace}: no requests are left of it at --scale {factor:.4g}")
        requests.append(load.requests)
        loads.append(Seeded(seed, runner.store.put_load(load), _lead_in(question, span, factor, seed, runner)))
    clairvoyant.require_room(case, requests[0], table)
    return Stage(case, span, factor, tuple(loads), tuple(requests), table, one, p0)


def _lead_in(question: Question, span: Span, factor: float, seed: int, runner: Runner) -> str:
    """Its traffic in the store, by a draw of its own: with it or without, what is scored is the same."""
    load = load_of(span.lead_in, factor, question.noise, -seed) if span.lead_in else None
    return runner.store.put_load(load) if load is not None and load.requests else ""


def probe(runner: Runner, case: Case) -> None:
    """Raises ConfigurationError now where the simulator does not ship the model or the system; says nothing else."""
    load = runner.store.put_load(Load(_PROBE))
    runner.results(fleet(case, 1), [Seeded(1, load)], HOLD, 0.0)


def _require_memory(question: Question, span: Span, factor: float) -> None:
    expected = factor * max(span.expected, span.lead_in.expected if span.lead_in else 0.0)
    if expected > MOST_REQUESTS:
        raise ConfigurationError(
            f"trace {question.trace}: {expected:,.0f} requests in one replay, {MOST_REQUESTS:,} are allowed: "
            "lower --scale, --peak-replicas or --hours"
        )


def _require_cache(question: Question, case: Case, span: Span) -> None:
    """An engine refuses what its KV cache can never hold, and Dynamo's replay breaks at it."""
    scored = (*span.lengths, *(span.lead_in.lengths if span.lead_in else ()))
    longest = max((one.prompt_tokens + one.output_tokens for one in scored), default=0)
    if longest > case.engine.kv_tokens:
        blocks = math.ceil(longest / case.engine.block_size)
        raise ConfigurationError(
            f"--kv-blocks {question.kv_blocks}: the longest request has {longest:,} tokens, and a replica would hold "
            f"{case.engine.kv_tokens:,}: {blocks} and more are allowed"
        )


def _first_case(question: Question, name: str) -> Case:
    return Case(
        name=name,
        model=question.model,
        system=question.system,
        tensor_parallel=question.tensor_parallel,
        gpu_hour_price=question.gpu_hour_price,
        ttft_s=question.ttft_s,
        itl_s=question.itl_s,
        attainment=question.attainment,
        startup_s=question.startup_s,
        max_replicas=question.max_replicas or _with_room(question.peak_replicas or misses.FLEETS[-1]),
        start_replicas=1,
        metric_delay_s=question.metric_delay_s,
        engine=EngineLimits(kv_blocks=question.kv_blocks),
    )


def _believed(question: Question, case: Case, span: Span, one: float, alone: float) -> Case:
    """`case` with what its users believe a replica to carry: as measured here, or as mis-set."""
    factor = question.rate_factor or 1.0
    count = len(span.lengths)
    carries = Carries(
        factor * one,
        factor * alone,
        sum(request.prompt_tokens for request in span.lengths) / count,
        sum(request.output_tokens for request in span.lengths) / count,
    )
    return msgspec.structs.replace(
        case, carries=carries, declared=question.rate_factor is not None, faults=question.faults
    )


def _for_its_load(question: Question, case: Case, span: Span, alone: float) -> Case:
    """`case` with no more replicas than its load may need, where one carries `alone` requests/s by itself.

    Refuses at once what the table of misses would only confirm in minutes: with 1.5 times the load of one on its own
    as its heaviest, 300 requests/s are never less than 40 replicas of 5 requests/s.
    """
    need = (question.scale or 1.0) * span.peak_per_s / alone
    _require_room(question, need / misses.LOADS[-1], "{} replicas or more")
    if question.max_replicas is not None:
        return case
    return msgspec.structs.replace(case, max_replicas=min(case.max_replicas, _with_room(need)))  # a small table


def _require_room(question: Question, need: float, words: str) -> None:
    allowed = question.max_replicas or _MOST_REPLICAS
    if need > allowed:
        needed = words.format(math.ceil(need))
        raise ConfigurationError(
            f"trace {question.trace}: its busiest five minutes need {needed}, {allowed} are allowed: "
            "raise --max-replicas, or lower --scale or --peak-replicas"
        )


def _bounded(question: Question, case: Case, need: float) -> Case:
    """`case` with its bounds: at most what was said, or half as many again as the busiest five minutes need."""
    _require_room(question, need, "about {} replicas")
    return msgspec.structs.replace(case, max_replicas=question.max_replicas or _with_room(need))


def _with_room(need: float) -> int:
    return max(int(need) + 1 + _LEAST_ROOM, int(_ROOM * need) + 1)


def start_replicas(table: misses.MissTable, missable: float, rate_per_s: float, most: int) -> int:
    """The fleet that every policy begins with: the smallest that misses no more than `missable` at that load.

    Few replicas carry less each: where one carries 6 requests/s alone and 8 beside seven others, 11 are two's work by
    the mean of many and need a third by themselves. Where nothing does, `most`.
    """
    enough = (n for n in range(1, most) if n * (table.capacity(n, missable) or 0.0) >= rate_per_s)
    return next(enough, most)
