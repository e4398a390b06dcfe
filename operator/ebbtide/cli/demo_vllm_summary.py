"""What the demo on real vLLM servers adds up to, as tables and as JSON, and whether it showed what it claims.

The claim: Ebbtide scales from 1 server to 3 and back to 1, and not one request is cut off, refused or answered wrongly.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import msgspec
from rich.table import Table

from ebbtide.cli.demo_summary import effort
from ebbtide.sandbox.demo_vllm import Moment, VllmDemo
from ebbtide.sandbox.engines.environment import ENGINE
from ebbtide.sandbox.loadgen import UNFINISHED, summary
from ebbtide.sandbox.vllm_showcase import REPLICAS
from ebbtide.sim.requests import SERVED_REASONS
from ebbtide.sim.showcase import NAMESPACE


def summarise(demo: VllmDemo, routes: Mapping[str, Any], operator_metrics: str) -> dict[str, Any]:
    """The document of `--json`. Times in seconds; shares 0..1 of all requests; rates in requests per second."""
    assert demo.measured is not None
    writes = demo.operator_writes()
    target = f"{demo.service.name}-cpu"
    load = demo.measured.load()
    found = summary(demo.served, demo.objectives)
    unfinished = len(demo.requests) - len(demo.served)
    reasons = Counter(found["finish_reasons"]) + Counter({UNFINISHED: unfinished})
    document = {
        "engine": f"{ENGINE} {demo.env.version}",
        "seed": demo.seed,
        "measured": asdict(demo.measured),
        "objectives": msgspec.to_builtins(demo.objectives),
        "load": msgspec.to_builtins(load),
        "requests": len(demo.requests),
        "met_both": (found["met_both"] or 0.0) * len(demo.served) / max(1, len(demo.requests)),
        "finish_reasons": dict(reasons),
        "statuses": found["statuses"],
        "errors": found["errors"],
        "aborts": reasons["abort"],
        "answers_5xx": sum(count for status, count in found["statuses"].items() if status.startswith("5")),
        "time_to_first_token_s": found["time_to_first_token_s"],
        "inter_token_latency_s": found["inter_token_latency_s"],
        "sent_late_s": found["slippage_s"],
        "endpoints": found["endpoints"],
        "gateway": {key: routes[key] for key in ("arrived", "served", "failed", "refused", "left", "retried")},
        "replicas": [asdict(moment) for moment in changes(demo.moments)],
        "scale_changes": sum(
            write.subresource == "scale" and (write.namespace, write.name) == (NAMESPACE, target) for write in writes
        ),
        "signals": demo.signals.rows(),
        **effort(demo, writes, operator_metrics),
    }
    return {**document, "problems": problems(document)}


def changes(moments: Sequence[Moment]) -> list[Moment]:
    """The moments at which something differs from the one before."""
    first = list(moments[:1])
    return first + [
        now for before, now in pairwise(moments) if (before.declared, before.ready) != (now.declared, now.ready)
    ]


def problems(document: Mapping[str, Any]) -> list[str]:
    """Why the run does not show what it should; empty when it does."""
    ready = [moment["ready"] for moment in document["replicas"]]
    found = []
    if not ready or (ready[0], max(ready), ready[-1]) != (1, REPLICAS, 1):
        found.append(f"replicas went {_arrows(ready)}, not from 1 to {REPLICAS} and back to 1")
    whole = sum(document["finish_reasons"].get(reason, 0) for reason in SERVED_REASONS)
    if whole != document["requests"]:
        others = {key: count for key, count in document["finish_reasons"].items() if key not in SERVED_REASONS}
        found.append(f"{document['requests'] - whole} of {document['requests']} requests got no whole answer: {others}")
    if document["answers_5xx"]:
        found.append(f"{document['answers_5xx']} answers with a status of 5xx")
    return found


def sentences(document: Mapping[str, Any]) -> list[str]:
    """The result in words."""
    ready = [moment["ready"] for moment in document["replicas"]]
    late = document["sent_late_s"] or {"p95": 0.0}
    return [
        f"Ready replicas: {_arrows(ready)}, by {document['scale_changes']} scale writes.",
        f"{document['requests']} requests, {document['met_both'] * 100:.1f} % met both objectives; finish reasons: "
        f"{_counts(document['finish_reasons'])}; HTTP status: {_counts(document['statuses'])}; "
        f"asked a second time by the gateway: {document['gateway']['retried']}; sent late by at most "
        f"{late['p95'] * 1000:.0f} ms for 95 %.",
    ]


def replicas_table(document: Mapping[str, Any]) -> Table:
    """Replicas over time."""
    table = Table(title="Replicas over time", title_justify="left", pad_edge=False)
    for name in ("at", "declared", "ready"):
        table.add_column(name, justify="right")
    for moment in document["replicas"]:
        table.add_row(f"{moment['at_s']:.0f} s", str(moment["declared"]), str(moment["ready"]))
    return table


def signals_table(document: Mapping[str, Any]) -> Table:
    """What Ebbtide read of the engines."""
    table = Table(title="What Ebbtide read of the servers", title_justify="left", pad_edge=False)
    for name in ("signal", "metric"):
        table.add_column(name, no_wrap=True)
    for name in ("least", "most", "newest"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for row in document["signals"]:
        values = (_number(row[key]) for key in ("least", "most", "newest"))
        table.add_row(row["signal"], row["metric"] or "not published", *values, row["unit"])
    return table


def _arrows(ready: Sequence[int]) -> str:
    steps = [str(ready[0])] if ready else []
    return " -> ".join(steps + [str(now) for before, now in pairwise(ready) if before != now]) or "nowhere"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
