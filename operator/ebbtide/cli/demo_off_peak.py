"""`ebbtide demo --scenario off-peak`: Jobs on a timeline, why they wait, and what it came to."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ebbtide.cli.demo_summary import effort, effort_sentence
from ebbtide.cli.demo_table import DemoScreen, say_how_to_look, watch
from ebbtide.cli.timeline import Kind, Row, Span, Timeline
from ebbtide.clock import parse_rfc3339, rfc3339, unix_time_s
from ebbtide.sandbox.demo import DemoOptions
from ebbtide.sandbox.demo_base import View
from ebbtide.sandbox.demo_off_peak import Batch, JobLife, OffPeakDemo, verdict
from ebbtide.sandbox.download import Progress
from ebbtide.sandbox.sandbox import Sandbox
from ebbtide.sim import off_peak, showcase

_CURRENCY = "USD"
_PLACES = Decimal("0.0001")
_PLAIN_WIDTH, _REASON = 100, 90
_UTC = ZoneInfo("UTC")


class OffPeakScreen(DemoScreen):
    """The demo's screen with the Jobs below its headline."""

    def __init__(self, running: OffPeakDemo, width: int) -> None:
        super().__init__(running.services)
        self._running, self._width = running, width

    def update(self, view: View) -> Group:
        """The whole screen for one view."""
        body = Text("\n").join([*timeline(self._running, self._width - 4, plain=False), *self._reasons()])
        return Group(Panel(body, title="batch Jobs", title_align="left"), super().update(view))

    def plain_lines(self, view: View) -> list[str]:
        """With a line for each Job that has not ended."""
        return [*super().plain_lines(view), *(f"  {line.plain}" for line in self._reasons())]

    def _reasons(self) -> Iterator[Text]:
        rows = {row["name"]: row for row in self._running.batch.status.get("jobs") or ()}
        for name, life in self._running.batch.lives.items():
            row = rows.get(name)
            if life.ended_s is None and row is not None:
                done = f"{life.succeeded}/{life.spec.completions}"
                text = f"{name:<10} {done:>5} {row['outcome']:<7} {row['reason'][:_REASON]}"
                yield Text(text, style="red" if row.get("late") else "", no_wrap=True, overflow="ellipsis")


def timeline(running: OffPeakDemo, width: int, *, plain: bool) -> list[Text]:
    """All Jobs from second 0: what ran, and what is planned."""
    batch, begin_s = running.batch, running.counts_from_s
    end_s = begin_s + max(running.duration_s, *(life.deadline_s - begin_s for life in batch.lives.values())) + 10.0
    drawn = Timeline(begin_s, end_s, _UTC, width, batch.lives, plain)
    rows = {row["name"]: row for row in batch.status.get("jobs") or ()}
    lines = [drawn.ruler(), drawn.windows(batch.cheap)]
    lines += [drawn.row(_row(life, rows.get(name), unix_time_s()), batch.cheap) for name, life in batch.lives.items()]
    return [*lines, Text(drawn.legend({Kind.RUNS, Kind.PLANNED}), style="dim")]


def _row(life: JobLife, planned: Mapping[str, Any] | None, now_s: float) -> Row:
    spans = [Span(run.begin_s, run.end_s, Kind.RUNS) for run in life.runs]
    if planned is not None and life.ended_s is None and "end" in planned:
        start_s = max(now_s, parse_rfc3339(planned["start"])) if "start" in planned else now_s
        end_s = parse_rfc3339(planned["end"])
        if end_s > start_s:
            spans.append(Span(start_s, end_s, Kind.PLANNED))
    return Row(life.spec.name, tuple(spans), life.deadline_s)


async def run(sandbox: Sandbox, options: DemoOptions, console: Console, say: Progress, plain: bool) -> dict[str, Any]:
    """The whole demo; its document."""
    async with OffPeakDemo(sandbox, options, say) as running:
        for service in running.services:
            console.print(f"[dim]  {service.name}: {service.story}[/]")
        for job in off_peak.jobs(options.duration_s):
            console.print(f"[dim]  Job {job.name}: {job.story}[/]")
        await running.bring_up()
        await running.start()
        say_how_to_look(console, sandbox.admin_kubeconfig, sandbox.kubectl_path)
        view = await watch(running, OffPeakScreen(running, console.width), console, plain)
        for line in timeline(running, min(console.width, _PLAIN_WIDTH), plain=plain):
            console.print(line, soft_wrap=True)
        return summarise(running, view, await running.operator_metrics())


def summarise(demo: OffPeakDemo, view: View, operator_metrics: str) -> dict[str, Any]:
    """The document of `--json`. Money is in USD; `problems` are empty where all came out as it should."""
    batch, writes = demo.batch, demo.operator_writes()
    traffic = view.traffic.get("chat", {})
    requests, late = traffic.get("requests", 0), traffic.get("requests_after", 0)
    return {
        "scenario": "off-peak",
        "seed": demo.options.seed,
        "currency": _CURRENCY,
        "began": rfc3339(demo.counts_from_s),
        "cheap": [[round(at_s - demo.counts_from_s, 1) for at_s in span] for span in batch.cheap],
        "jobs": [_job(life, demo.counts_from_s) for life in batch.lives.values()],
        "batch_gpu_seconds": round(batch.total_gpu_s, 1),
        "paid_for_share": round(batch.paid_share, 4),
        "paid_for_or_cheap_share": round(batch.cheap_share, 4),
        **_money(batch),
        "longest_wait_of_a_service_pod_s": max(batch.pending_s.values(), default=0.0),
        "service": {
            "name": "chat",
            "requests": requests,
            "met_both": traffic.get("met", 0) / requests if requests else 1.0,
            "met_both_after_60s": traffic.get("met_after", 0) / late if late else 1.0,
            "replicas_min": min(demo.usage["chat"].replicas, default=0),
            "replicas_max": max(demo.usage["chat"].replicas, default=0),
        },
        "problems": verdict(batch, demo.options.pace.cycle_s),
        **effort(demo, writes, operator_metrics),
    }


def _money(batch: Batch) -> dict[str, str]:
    """What the Jobs' GPUs cost, with those that are paid for anyway as free and at full price, and rented at once."""
    prices = {pool.name: Decimal(pool.per_gpu_hour) for pool in showcase.POOLS}
    cheap = Decimal(off_peak.CHEAP_PRICE)
    free = full = at_once = Decimal(0)
    for (pool, is_cheap), seconds in batch.gpu_s.items():
        hours = Decimal(seconds) / 3600
        full += hours * (cheap if is_cheap and pool == off_peak.RENTED else prices[pool])
        free += hours * (cheap if is_cheap else prices[pool]) if pool == off_peak.RENTED else Decimal(0)
        at_once += hours * prices[off_peak.RENTED]
    amounts = {"cost": free, "cost_with_paid_for_at_full_price": full, "cost_rented_at_once": at_once}
    return {name: str(amount.quantize(_PLACES)) for name, amount in amounts.items()}


def _job(life: JobLife, began_s: float) -> dict[str, Any]:
    runs = [
        {"from": round(run.begin_s - began_s, 1), "to": round(run.end_s - began_s, 1), "pool": run.pool}
        for run in life.runs
    ]
    return {
        "name": life.spec.name,
        "restartable": life.spec.restartable,
        "gpus": life.spec.pods,
        "completions": life.spec.completions,
        "succeeded": life.succeeded,
        "submitted": life.spec.submitted_s,
        "runs": runs,
        "given_back": life.given_back,
        "ended": None if life.ended_s is None else round(life.ended_s - began_s, 1),
        "deadline": round(life.deadline_s - began_s, 1),
    }


def report(console: Console, document: dict[str, Any]) -> None:
    """For people."""
    table = Table(title="What happened", title_justify="left", pad_edge=False)
    for name in ("Job", "GPUs", "submitted", "ran", "given back", "ended", "deadline", "done"):
        table.add_column(name, justify="left" if name in ("Job", "ran") else "right", no_wrap=name != "ran")
    for row in document["jobs"]:
        table.add_row(
            row["name"],
            str(row["gpus"]),
            f"{row['submitted']:.0f}s",
            ", ".join(f"{run['from']:.0f}-{run['to']:.0f}s {run['pool']}" for run in row["runs"]) or "never",
            str(row["given_back"]),
            "-" if row["ended"] is None else f"{row['ended']:.0f}s",
            f"{row['deadline']:.0f}s",
            f"{row['succeeded']}/{row['completions']}",
        )
    console.print(table)
    service, whole = document["service"], document["cost_rented_at_once"]
    console.print(
        f"Batch: {document['batch_gpu_seconds']:.0f} GPU-seconds, {document['paid_for_share']:.0%} of them on GPUs "
        f"that are paid for anyway, {document['paid_for_or_cheap_share']:.0%} there or in cheap hours: "
        f"{document['cost']} {_CURRENCY} ({document['cost_with_paid_for_at_full_price']} with paid-for GPUs at full "
        f"price) instead of {whole} rented at once."
    )
    console.print(
        f"{service['name']}: {service['met_both_after_60s']:.1%} of {service['requests']} requests met both after "
        f"the first minute, with {service['replicas_min']} to {service['replicas_max']} replicas; no pod waited more "
        f"than {document['longest_wait_of_a_service_pod_s']:.0f} s for its GPU."
    )
    console.print(effort_sentence(document))
    for problem in document["problems"]:
        console.print(f"[red]not as it should be:[/] {problem}")
