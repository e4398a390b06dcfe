"""Results of a comparison that never ran, for what only reads them."""

from decimal import Decimal

from ebbtide.bench.case import Case
from ebbtide.bench.results import BOUND, CaseResult, PolicyResult, Results, Run, Traffic, Versus
from ebbtide.bench.score import Percentiles


def run(knob: float, cost: float, attainment: float, seed: int = 1, **more) -> Run:
    values = {
        "knob": knob,
        "seed": seed,
        "cost": cost,
        "cost_hourly": cost,
        "gpu_hours": cost / 2,
        "start_up_share": 0.02,
        "attainment": attainment,
        "worst_5min": attainment - 0.1,
        "ttft_ms": Percentiles(50.0, 200.0, 400.0),
        "itl_ms": Percentiles(20.0, 30.0, 40.0),
        "scale_events": 4,
        "scale_events_per_replica_day": 2.0,
        "wall_s": 1.5,
    }
    return Run(**{**values, **more})


def policy(name: str, cost: float | None, runs: list[Run], versus: tuple[float, float, float] | None = None, **more):
    values = {
        "name": name,
        "tuning": "hindsight",
        "reached": cost is not None,
        "cost_at_target": cost,
        "interval": None if cost is None else (cost - 1, cost + 1),
        "over_clairvoyant": None if cost is None else cost / 10,
        "captured": None,
        "knob": runs[0].knob if runs else None,
        "knob_name": "margin" if runs else None,
        "versus": None if versus is None else Versus(attainment=versus[0], cost=versus[1], ebbtide_cost=versus[2]),
        "note": f"as {name} does",
        "runs": tuple(runs),
    }
    return PolicyResult(**{**values, **more})


def results(*policies: PolicyResult, **more) -> Results:
    replica = Case(
        name="monday",
        model="tiny",
        system="h100_sxm",
        gpu_hour_price=Decimal("2.50"),
        ttft_s=0.5,
        itl_s=0.05,
        attainment=0.99,
        startup_s=(60.0, 90.0),
        max_replicas=9,
        start_replicas=2,
    )
    traffic = Traffic(
        trace="monday.csv",
        sha256="ab" * 32,
        format="tokens",
        start_s=0.0,
        hours=2.0,
        scale=1.5,
        noise=1,
        input_tokens=None,
        output_tokens=None,
        train_hours=0.0,
        lead_in_s=0.0,
        requests=(1000, 1100),
        peak_per_s=12.0,
        mean_prompt_tokens=700.0,
        mean_output_tokens=100.0,
    )
    case = CaseResult(
        simulator="fake", replica=replica, traffic=traffic, seeds=(1, 2), tune="hindsight", capacity_per_s=5.0
    )
    values = {
        "case": case,
        "policies": policies,
        "p0": 0.001,
        "agreement": None,
        "versions": {"ebbtide": "0.1.0"},
        "command": "ebbtide bench replay --trace monday.csv",
    }
    return Results(**{**values, **more})


CLAIRVOYANT = policy("clairvoyant", 10.0, [run(1.0, 10.0, 0.991)], (0.99, 10.0, 12.0), tuning=BOUND)
EBBTIDE = policy("ebbtide", 12.0, [run(0.0, 12.0, 0.992), run(0.0, 12.0, 0.991, seed=2)], tuning="default")
DEARER = policy("schedule", 15.0, [run(0.5, 14.0, 0.98), run(1.0, 16.0, 0.999)], (0.99, 15.0, 12.0))
CHEAPER = policy("slo-law", 11.0, [run(0.5, 9.0, 0.97), run(1.0, 13.0, 0.995)], (0.99, 11.0, 12.0))
HELPLESS = policy("hpa-queue", None, [run(0.5, 9.0, 0.7), run(1.0, 40.0, 0.9)])
