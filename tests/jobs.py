"""Batch Jobs for tests: defaults for everything, so that a case states only what matters to it."""

from collections.abc import Sequence
from typing import Any

from ebbtide.model.batch import (
    Asked,
    BatchPolicySpec,
    BatchPolicyState,
    Intent,
    JobPod,
    JobState,
    Strategy,
)
from ebbtide.model.money import PriceStep
from ebbtide.model.plan import JobPlan, Plan
from tests.builders import NOW

HOUR_S = 3600.0


def batch_policy(name: str = "night", open_: Sequence[tuple[float, float]] = (), **changes: Any) -> BatchPolicyState:
    """`open_`: spans in hours from now."""
    fields: dict[str, Any] = {
        "key": f"ml/{name}",
        "uid": f"uid-{name}",
        "generation": 1,
        "match_labels": (("batch", name),),
        "strategy": Strategy.CHEAPEST,
    }
    spans = tuple((NOW + begin * HOUR_S, NOW + end * HOUR_S) for begin, end in open_)
    return BatchPolicyState(BatchPolicySpec(**(fields | changes)), spans)


def job(
    name: str = "eval",
    *,
    hours: float | None = 1.0,
    deadline_h: float | None = None,
    restartable: bool = False,
    on: Sequence[str] = (),
    ran_h: float = 0.0,
    now_s: float = NOW,
    **changes: Any,
) -> JobState:
    """One pod of one GPU that waits; with `on` it runs, a pod on each of these nodes, since `ran_h` hours."""
    parallelism = int(changes.pop("parallelism", max(1, len(on))))
    gpus = int(changes.pop("gpus_per_pod", 1))
    fields: dict[str, Any] = {
        "key": f"ml/{name}",
        "uid": f"uid-{name}",
        "resource_version": "1",
        "created_at": now_s - 60.0,
        "policy": "ml/night",
        "intent": Intent.RUNS if on else Intent.HELD,
        "labels": (("batch", "night"),),
        "owner": name,
        "suspended": not on,
        "parallelism": parallelism,
        "gpus_per_pod": gpus,
        "resource": "nvidia.com/gpu",
        "started_at": now_s - ran_h * HOUR_S if on else None,
        "pool": "h100" if on else "",
        "asked": Asked(
            None if deadline_h is None else now_s + deadline_h * HOUR_S,
            None if hours is None else hours * HOUR_S,
            restartable,
        ),
        "pods": tuple(JobPod(f"{name}-{n}-abcde", node, gpus, now_s - ran_h * HOUR_S) for n, node in enumerate(on)),
    }
    return JobState(**(fields | changes))


def steps(*prices: tuple[float, str]) -> tuple[PriceStep, ...]:
    """(hours from now, price)."""
    from decimal import Decimal

    return tuple(PriceStep(NOW + at_h * HOUR_S, Decimal(price)) for at_h, price in prices)


def planned(decided: Plan, name: str) -> JobPlan:
    """One Job's plan."""
    return next(each for each in decided.jobs if each.key == f"ml/{name}")
