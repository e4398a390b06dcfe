"""What comes: requests of chat minute by minute, and Jobs, both drawn once for a seed.

A batch GPU works without an objective for latency, so its engine is as full as can be: a gap between tokens of
a + b x n grows with the batch n, n / (a + b x n) tokens/s approach 1/b. With chat's lengths that are 28.9 requests/s,
beside 25.5 within 50 ms. A Job's work is counted in seconds that it runs with all its pods.
"""

import math
import random
from collections.abc import Sequence

import msgspec

from ebbtide.bench.batch.scenario import DAY_S, HOUR_S, MINUTE_S, Kind, Scenario
from ebbtide.bench.budget.demand import Curve, Source, curve_of, poisson
from ebbtide.bench.budget.member import MEMBERS, Member
from ebbtide.errors import ConfigurationError
from ebbtide.sim.shapes import DailyCurve, RegimeChange, WeeklyCurve

CHAT = MEMBERS[0]
BEGIN_S = 1_782_086_400  # 22 June 2026, a Monday, 0 h UTC: where Jobs begin to come
GENERATED = ("built-in week", "built-in workday", "built-in jumps")
_PEAK_MINUTES = 5


class BatchJob(msgspec.Struct, frozen=True):
    """One Job. `work_s`: what it really has to run with all its pods; `expected_s`: what its annotation says."""

    name: str
    kind: str
    created_s: int
    deadline_s: int
    pods: int
    gpus_per_pod: int
    work_s: int
    expected_s: int
    restartable: bool
    elastic: bool

    @property
    def gpus(self) -> int:
        """Of all its pods."""
        return self.pods * self.gpus_per_pod

    @property
    def gpu_s(self) -> int:
        """Its work in GPU-seconds."""
        return self.work_s * self.gpus


class Stage(msgspec.Struct, frozen=True):
    """One trace and seed: Ebbtide has run chat alone for `lead_in_s` before `begin_s`; Jobs come for `days` from then.

    All goes on until the latest deadline and `TAIL_S` more. `requests` of chat by minute begin with the lead-in's.
    """

    trace: str
    seed: int
    scenario: Scenario
    days: int
    lead_in_s: int
    cycle_s: int
    requests: tuple[int, ...]
    jobs: tuple[BatchJob, ...]
    begin_s: int = BEGIN_S

    @property
    def end_s(self) -> int:
        """Where all ends."""
        return self.begin_s + span_s(self.scenario, self.days)

    @property
    def minutes(self) -> int:
        """That are scored."""
        return (self.end_s - self.begin_s) // MINUTE_S

    @property
    def tokens_per_gpu_s(self) -> float:
        """That a batch GPU puts through."""
        return batch_rate(CHAT)

    def prices(self) -> list[float]:
        """Of an on-demand GPU-hour, by scored minute."""
        by_minute, first = self.scenario.on_demand.prices, self.begin_s // MINUTE_S
        return [float(by_minute[(first + minute) % len(by_minute)]) for minute in range(self.minutes)]


TAIL_S = 12 * HOUR_S


def span_s(scenario: Scenario, days: int) -> int:
    """Scored seconds, whole hours."""
    return math.ceil((days * DAY_S + scenario.longest_s + TAIL_S) / HOUR_S) * HOUR_S


def batch_rate(member: Member) -> float:
    """Tokens/s of one GPU whose batch is as full as can be."""
    return (member.input_tokens + member.output_tokens) / (member.slope_s * member.output_tokens)


def stage(source: Source | str, seed: int, scenario: Scenario, days: int, lead_in_days: int, cycle_s: int) -> Stage:
    """Drawn for that trace (or generated shape) and seed."""
    if isinstance(source, Source):
        name, curve = source.name, curve_of(source)
    else:
        name, curve = source, _generated(source, seed)
    lead_in_s = lead_in_days * DAY_S
    requests = _requests(name, curve, scenario, lead_in_s + span_s(scenario, days), seed)
    first = lead_in_s // MINUTE_S
    tokens = sum(requests[first : first + days * DAY_S // MINUTE_S]) * (CHAT.input_tokens + CHAT.output_tokens)
    share = scenario.batch.token_share
    gpu_s = tokens * share / (1.0 - share) / batch_rate(CHAT)
    jobs = _jobs(scenario, gpu_s, days, random.Random(f"{seed}/{name}/jobs"))
    return Stage(name, seed, scenario, days, lead_in_s, cycle_s, requests, jobs)


def _requests(name: str, curve: Curve, scenario: Scenario, length_s: int, seed: int) -> tuple[int, ...]:
    rates = [max(0.0, curve((minute + 0.5) * MINUTE_S)) for minute in range(length_s // MINUTE_S)]
    busiest = max(sum(rates[at : at + _PEAK_MINUTES]) / _PEAK_MINUTES for at in range(len(rates) - _PEAK_MINUTES + 1))
    if busiest <= 0.0:
        raise ConfigurationError(f"trace {name}: it holds no requests")
    factor = scenario.chat.peak_replicas * CHAT.capacity_per_s / busiest
    draw = random.Random(f"{seed}/{name}")
    return tuple(poisson(draw, rate * factor * MINUTE_S) for rate in rates)


def _generated(name: str, seed: int) -> Curve:
    """Office hours, a sharper day, levels that jump at any hour."""
    week, day = WeeklyCurve(0.15, 1.0, weekend=0.6), DailyCurve(0.08, 1.0, peak_s=11 * 3600.0, sharpness=2.5)
    jumps = RegimeChange(0.3, 1.0, 5 * 3600.0, seed=seed)
    return dict(zip(GENERATED, (week.rate, day.rate, jumps.rate), strict=True))[name]


def _jobs(scenario: Scenario, gpu_s: float, days: int, draw: random.Random) -> tuple[BatchJob, ...]:
    found = [job for kind in scenario.job for job in _of_kind(kind, scenario, gpu_s * kind.share, days, draw)]
    found.sort(key=lambda job: (job.created_s, job.kind, job.work_s))
    return tuple(msgspec.structs.replace(job, name=f"{job.kind}-{number}") for number, job in enumerate(found))


def _of_kind(kind: Kind, scenario: Scenario, gpu_s: float, days: int, draw: random.Random) -> Sequence[BatchJob]:
    """So many that their work comes to `gpu_s`, as nearly as whole Jobs can."""
    found: list[BatchJob] = []
    left = gpu_s
    first_s, length_s = kind.span
    while left > 0.0:
        expected_s = kind.expected_min * MINUTE_S * draw.uniform(0.5, 1.5)
        work_s = max(1, round(expected_s * math.exp(draw.gauss(0.0, kind.spread))))
        work = work_s * kind.pods * kind.gpus_per_pod
        if work > 2.0 * left:  # without it the sum is nearer
            break
        created_s = BEGIN_S + DAY_S * draw.randrange(days) + (first_s + draw.randrange(length_s)) % DAY_S
        found.append(
            BatchJob(
                name="",
                kind=kind.name,
                created_s=created_s,
                deadline_s=created_s + round(kind.deadline_h * HOUR_S),
                pods=kind.pods,
                gpus_per_pod=kind.gpus_per_pod,
                work_s=work_s,
                expected_s=round(expected_s) + scenario.batch.restart_s,
                restartable=kind.restartable,
                elastic=kind.elastic,
            )
        )
        left -= work
    return found
