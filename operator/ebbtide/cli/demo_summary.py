"""What the demo adds up to at its end: the same numbers as a table and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

from ebbtide.cli.demo_forecast import forecast_table
from ebbtide.controller.meters import WHOLE_CYCLE
from ebbtide.model.spec import Mode
from ebbtide.sandbox.audit import Write
from ebbtide.sandbox.demo import Demo
from ebbtide.sandbox.demo_base import RunningDemo, View
from ebbtide.sim.showcase import NAMESPACE, ShowcaseService
from ebbtide.sim.static import StaticPeak
from ebbtide.units import format_duration


def summarise(demo: Demo, view: View, static: dict[str, StaticPeak], operator_metrics: str) -> dict[str, Any]:
    """The document of `--json`. Shares are of submitted requests, 0..1; a request that never ended was missed.

    `conflict` marks a service whose target somebody else scales: its mode may be Auto, and yet Ebbtide has no part in
    its numbers. `api_writes` are all that the API server accepted from the operator: scales, statuses, Events, Lease.
    """
    writes = demo.operator_writes()
    return {
        "seed": demo.options.seed,
        "services": [_service(demo, service, view, static, writes) for service in demo.services],
        **effort(demo, writes, operator_metrics),
    }


def effort(demo: RunningDemo, writes: Sequence[Write], operator_metrics: str) -> dict[str, Any]:
    """What it took: how long the load lasted, cycles and their durations in seconds, queries, accepted writes."""
    cycles, queries, buckets = _cycles(operator_metrics)
    return {
        "duration_s": demo.duration_s,
        "cycles": cycles,
        "cycle_seconds_p50": _quantile(buckets, 0.50),
        "cycle_seconds_p99": _quantile(buckets, 0.99),
        "promql_queries_per_cycle": round(queries / cycles, 2) if cycles else None,
        **count_writes(writes),
    }


def count_writes(writes: Sequence[Write]) -> dict[str, int]:
    """All of them, and how many only renewed the operator's Lease, which it does with nothing else to do too."""
    renewals = sum(write.resource == "leases" and write.verb != "create" for write in writes)
    return {"api_writes": len(writes), "lease_renewals": renewals}


@dataclass(frozen=True)
class Together:
    """Services joined, weighted by requests: shares (0..1) that met both, GPU-hours, and the static fleet's."""

    names: tuple[str, ...]
    met_both: float
    met_both_after_60s: float
    gpu_hours: float
    static_peak_gpu_hours: float

    @property
    def share_of_static(self) -> float:
        """GPU-hours over the static fleet's."""
        return self.gpu_hours / self.static_peak_gpu_hours if self.static_peak_gpu_hours else 0.0


def auto_together(document: dict[str, Any]) -> Together:
    """Those that Ebbtide scaled: in Auto, and nobody else scales their target."""
    rows = [row for row in document["services"] if not _left_out(row)]
    return Together(
        names=tuple(row["name"] for row in rows),
        met_both=_joined(rows, "met_both", "requests"),
        met_both_after_60s=_joined(rows, "met_both_after_60s", "requests_after_60s"),
        gpu_hours=sum(row["gpu_hours"] for row in rows),
        static_peak_gpu_hours=sum(row["static_peak_gpu_hours"] for row in rows),
    )


def _joined(rows: list[dict[str, Any]], share: str, weight: str) -> float:
    count = sum(row[weight] for row in rows)
    return sum(row[share] * row[weight] for row in rows) / count if count else 1.0


def _left_out(row: dict[str, Any]) -> str:
    """Why Ebbtide did not scale the service; empty where it did."""
    if row["mode"] != Mode.AUTO.value:
        return f"mode {row['mode']}"
    return "mode Auto, but an HPA owns its target" if row["conflict"] else ""


def together_sentence(document: dict[str, Any], static_share: float) -> str:
    """The result in words: which services are joined, and which are not and why."""
    joined = auto_together(document)
    others = [f"{row['name']} ({why})" for row in document["services"] if (why := _left_out(row))]
    return (
        f"Scaled by Ebbtide: {', '.join(joined.names)}. Together {joined.met_both_after_60s * 100:.1f} % of their "
        f"requests met both after the first minute ({joined.met_both * 100:.1f} % of all) with "
        f"{joined.share_of_static * 100:.0f} % of the GPU-hours of the "
        f"static fleets of the fewest replicas that reach {static_share * 100:.0f} % within the same bounds "
        f"({joined.gpu_hours:.2f} of {joined.static_peak_gpu_hours:.2f}). "
        f"Not among them: {', '.join(others) or 'none'}."
    )


def effort_sentence(document: dict[str, Any]) -> str:
    """What it took, in words."""
    return (
        f"{document['cycles']} cycles, p50 {document['cycle_seconds_p50']} s, p99 {document['cycle_seconds_p99']} s; "
        f"{document['promql_queries_per_cycle']} PromQL queries a cycle; {document['api_writes']} API writes in "
        f"{format_duration(document['duration_s'])}, {document['lease_renewals']} of them renewals of its Lease."
    )


def summary_table(document: dict[str, Any]) -> Table:
    """For people."""
    table = Table(title="What happened", title_justify="left", pad_edge=False)
    for name in ("service", "mode"):
        table.add_column(name, no_wrap=True)
    for name in ("requests", "met both", "after 1m", "replicas", "writes", "GPU-h", "static", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in document["services"]:
        table.add_row(
            row["name"],
            "conflict" if row["conflict"] else row["mode"],
            str(row["requests"]),
            f"{row['met_both'] * 100:.1f} %",
            f"{row['met_both_after_60s'] * 100:.1f} %",
            f"{row['replicas_min']}-{row['replicas_max']}",
            str(row["writes_to_target"]),
            f"{row['gpu_hours']:.3f}",
            f"{row['static_peak_gpu_hours']:.3f}",
            f"{row['cost']} {row['currency']}",
        )
    return table


def trust_table(document: dict[str, Any]) -> Table:
    """For people: the last forecasts with their scores, and capacity with its source."""
    statuses = {
        row["name"]: {
            "forecast": row["forecast"],
            "variants": [{"name": name, "capacity": found} for name, found in row["capacity"].items()],
        }
        for row in document["services"]
    }
    return forecast_table(statuses, "What it rested on")


def _service(
    demo: Demo, service: ShowcaseService, view: View, static: dict[str, StaticPeak], writes: list[Write]
) -> dict[str, Any]:
    traffic, usage = view.traffic.get(service.name, {}), demo.usage[service.name]
    targets = {f"{service.name}-{pool.split('-', maxsplit=1)[0]}" for pool, _, _ in service.variants}
    scaled = [w for w in writes if w.namespace == NAMESPACE and w.name in targets and w.resource == "deployments"]
    requests, late = traffic.get("requests", 0), traffic.get("requests_after", 0)
    status = view.services.get(service.name, {}).get("status", {})
    return {
        "namespace": NAMESPACE,
        "name": service.name,
        "mode": service.mode.value,
        "conflict": service.rival_hpa,
        "requests": requests,
        "requests_after_60s": late,
        "met_both": traffic.get("met", 0) / requests if requests else 1.0,
        "met_both_after_60s": traffic.get("met_after", 0) / late if late else 1.0,
        "replicas_min": min(usage.replicas, default=0),
        "replicas_max": max(usage.replicas, default=0),
        "scale_changes": sum(write.subresource == "scale" for write in scaled),
        "writes_to_target": len(scaled),
        "gpu_hours": round(usage.gpu_s / 3600, 4),
        "static_peak_gpu_hours": round(static[service.name].result.gpu_hours, 4),
        "cost": str(usage.cost.quantize(Decimal("0.001"))),
        "currency": "USD",
        # as status had them at the end
        "forecast": status.get("forecast"),
        "capacity": {row["name"]: row["capacity"] for row in status.get("variants", ()) if row.get("capacity")},
    }


def _cycles(metrics: str) -> tuple[int, float, list[tuple[float, float]]]:
    """Finished cycles, PromQL queries, and the cumulative buckets of the cycles' durations."""
    cycles, queries = 0.0, 0.0
    buckets: list[tuple[float, float]] = []
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == "ebbtide_cycles_total":
                cycles += sample.value
            elif sample.name == "ebbtide_promql_queries_total":
                queries += sample.value
            elif sample.name == "ebbtide_cycle_duration_seconds_bucket" and sample.labels["step"] == WHOLE_CYCLE:
                buckets.append((float(sample.labels["le"]), sample.value))
    return int(cycles), queries, buckets


def _quantile(buckets: list[tuple[float, float]], share: float) -> float | None:
    """Linear within the bucket, as Prometheus' histogram_quantile; None before the first cycle."""
    if not buckets or buckets[-1][1] == 0:
        return None
    rank = share * buckets[-1][1]
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            top = low if bound == float("inf") else bound
            return round(low + (top - low) * (rank - below) / max(count - below, 1e-9), 4)
        low, below = bound, count
    return low
