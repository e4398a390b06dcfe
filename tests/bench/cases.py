"""Builders of small benchmark cases: a test states only what matters to it."""

import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Knob, Observation, Policy, Rival
from ebbtide.bench.run import RunResult
from ebbtide.sim.requests import Request


def a_case(**changes: Any) -> Case:
    """8B on one A100, one second and 50 ms, start-up 60 s."""
    fields: dict[str, Any] = {
        "name": "chat",
        "model": "meta-llama/Meta-Llama-3.1-8B",
        "system": "a100_sxm",
        "gpu_hour_price": Decimal("1.50"),
        "ttft_s": 1.0,
        "itl_s": 0.05,
        "attainment": 0.99,
        "startup_s": (60.0,),
        "max_replicas": 10,
        "start_replicas": 1,
    }
    return Case(**{**fields, **changes})


def steady(per_second: float, duration_s: float, prompt: int = 800, output: int = 150) -> list[Request]:
    """Evenly spaced requests of one length."""
    return [Request(i, (i + 0.5) / per_second, prompt, output) for i in range(int(per_second * duration_s))]


def random_load(per_second: float, duration_s: float, seed: int = 1) -> list[Request]:
    """Poisson arrivals with unlike lengths."""
    draw, now_s, found = random.Random(seed), 0.0, []
    while (now_s := now_s + draw.expovariate(per_second)) < duration_s:
        found.append(Request(len(found), now_s, draw.randint(50, 3000), draw.randint(10, 500)))
    return found


def met(result: RunResult, case: Case) -> float:
    """Share of submitted requests within both objectives."""
    good = sum(
        s.end_s is not None and s.ttft_s is not None and s.ttft_s <= case.ttft_s and (s.itl_s or 0.0) <= case.itl_s
        for s in result.served
    )
    return good / len(result.served)


class Told:
    """A policy that answers from a function and keeps what it saw."""

    def __init__(self, answer: Callable[[Observation], int | None], period_s: float = 15.0) -> None:
        self.period_s = period_s
        self.seen: list[Observation] = []
        self._answer = answer

    def decide(self, seen: Observation) -> int | None:
        self.seen.append(seen)
        return self._answer(seen)


def as_rival(policy: Policy, name: str = "told") -> dict[str, Rival]:
    """A registry with this one policy."""
    return {name: Rival(name, Knob("none", 1.0, 1.0, 1.0), lambda case, knob: policy)}
