"""`ebbtide demo --scenario budget`: the money on the screen, who gives way, and what it came to."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ebbtide.cli.demo_summary import effort, effort_sentence
from ebbtide.cli.demo_table import DemoScreen
from ebbtide.sandbox.audit import Write
from ebbtide.sandbox.demo_base import View
from ebbtide.sandbox.demo_budget import BATCH, CURRENCY, SEEDED, SHARE, BudgetDemo, Money, verdict
from ebbtide.sandbox.demo_reference import STATIC_SHARE
from ebbtide.sim.showcase import NAMESPACE, ShowcaseService

_WIDTH = 40
_PLACES = Decimal("0.01")


class BudgetScreen(DemoScreen):
    """The demo's screen with the money below its headline."""

    def __init__(self, running: BudgetDemo) -> None:
        super().__init__(running.services)
        self._money = running.money

    def update(self, view: View) -> Group:
        """The whole screen for one view."""
        parts: list[RenderableType] = [Panel(Text(_bar(self._money)), title="money of the day", title_align="left")]
        return Group(*parts, super().update(view))

    def plain_lines(self, view: View) -> list[str]:
        """With a line of money."""
        return [*super().plain_lines(view), f"  {_bar(self._money)}"]


def _bar(money: Money) -> str:
    """`####--- 42.10 of 48.20 USD are spent, 2.10 bound, 4.00 left; 21.55 USD an hour; backfill without 2`."""
    row: Mapping[str, Any] = next(iter(money.status.get("periods", ())), {})
    spent, bound = Decimal(row.get("spent", SEEDED)), Decimal(row.get("committed", 0))
    whole = money.ceiling - SEEDED
    gone = min(_WIDTH, round(_WIDTH * max(Decimal(0), spent - SEEDED) / whole))
    held = min(_WIDTH - gone, round(_WIDTH * bound / whole))
    gave = ", ".join(
        f"{item['service'].partition('/')[2]} without {item['replicas']}" for item in money.status.get("gaveWay", ())
    )
    rate = Decimal(money.status.get("ratePerHour", 0))
    return (
        f"{'█' * gone}{'▒' * held}{'░' * (_WIDTH - gone - held)} {spent:.2f} of {money.ceiling} {CURRENCY} are spent, "
        f"{bound:.2f} bound, {max(Decimal(0), money.ceiling - spent - bound):.2f} left; {rate:.2f} an hour; "
        f"{gave or 'nobody gives way'}{_of_batch(money)}"
    )


def _of_batch(money: Money) -> str:
    if money.batch is None or not money.batch.runs:
        return ""
    return f"; Job {BATCH.name} runs" if money.batch.on else f"; Job {BATCH.name} is stopped"


def summarise(demo: BudgetDemo, view: View, operator_metrics: str) -> dict[str, Any]:
    """The document of `--json`. Money is in USD; `problems` are empty where all came out as it should."""
    demo.count()
    money, writes = demo.money, demo.operator_writes()
    services = [_service(demo, service, view, writes) for service in demo.services]
    met = {row["name"]: row["met_both_after_60s"] for row in services}
    priorities = {service.name: service.priority for service in demo.services}
    there = money.ceiling - SEEDED
    return {
        "scenario": "budget",
        "seed": demo.options.seed,
        "currency": CURRENCY,
        "ceiling": str(money.ceiling),
        "spent_before": str(SEEDED),
        "unconstrained": str(money.unconstrained.quantize(_PLACES)),
        "spent": str(money.spent),
        "counted_from_outside": str((SEEDED + money.counted).quantize(_PLACES)),
        "used_share": round(float((money.spent - SEEDED) / there), 4),
        "services": services,
        "batch": _batch(money),
        "gave_way_in_order": sorted(money.since_s, key=lambda name: money.since_s[name]),
        "problems": verdict(money, priorities, met, STATIC_SHARE),
        **effort(demo, writes, operator_metrics),
    }


def _batch(money: Money) -> dict[str, Any]:
    """The Job: how often it ran, and in which second of the load it was first stopped."""
    runs = 0 if money.batch is None else len(money.batch.runs)
    stopped_s = None if money.batch_stopped_s is None else round(money.batch_stopped_s, 1)
    return {"job": BATCH.name, "gpus": BATCH.pods, "runs": runs, "stopped_s": stopped_s}


def _service(demo: BudgetDemo, service: ShowcaseService, view: View, writes: list[Write]) -> dict[str, Any]:
    traffic, usage, money = view.traffic.get(service.name, {}), demo.usage[service.name], demo.money
    requests, late = traffic.get("requests", 0), traffic.get("requests_after", 0)
    scales = [
        write
        for write in writes
        if write.namespace == NAMESPACE and write.subresource == "scale" and write.name.startswith(f"{service.name}-")
    ]
    return {
        "name": service.name,
        "priority": service.priority,
        "requests": requests,
        "met_both": traffic.get("met", 0) / requests if requests else 1.0,
        "met_both_after_60s": traffic.get("met_after", 0) / late if late else 1.0,
        "replicas_min": min(usage.replicas, default=0),
        "replicas_max": max(usage.replicas, default=0),
        "scale_changes": len(scales),
        "did_without": money.gave_way.get(service.name, 0),
        "did_without_from_s": round(money.since_s[service.name], 1) if service.name in money.since_s else None,
        "cost": str(usage.cost.quantize(_PLACES)),
    }


def _batch_words(document: Mapping[str, Any]) -> list[str]:
    batch = document["batch"]
    return (
        [] if batch["stopped_s"] is None else [f"Job {batch['job']} ({batch['gpus']} GPUs, {batch['stopped_s']:.0f}s)"]
    )


def report(console: Console, document: dict[str, Any]) -> None:
    """For people."""
    table = Table(title="What happened", title_justify="left", pad_edge=False)
    for name in ("service", "priority", "requests", "met both", "after 1m", "replicas", "did without", "from", "cost"):
        table.add_column(name, justify="left" if name == "service" else "right", no_wrap=True)
    for row in document["services"]:
        since = row["did_without_from_s"]
        table.add_row(
            row["name"],
            str(row["priority"]),
            str(row["requests"]),
            f"{row['met_both'] * 100:.1f} %",
            f"{row['met_both_after_60s'] * 100:.1f} %",
            f"{row['replicas_min']}-{row['replicas_max']}",
            str(row["did_without"]),
            "-" if since is None else f"{since:.0f}s",
            f"{row['cost']} {CURRENCY}",
        )
    console.print(table)
    outside, share = document["counted_from_outside"], f"{document['used_share']:.1%} of the {SHARE:.0%}"
    console.print(
        f"Of {document['ceiling']} {CURRENCY} of the day {document['spent']} were spent "
        f"({outside} counted from outside): {share} that was there of {document['unconstrained']}. First to give way: "
        f"{', then '.join([*_batch_words(document), *document['gave_way_in_order']]) or 'nobody'}."
    )
    console.print(effort_sentence(document))
    for problem in document["problems"]:
        console.print(f"[red]not as it should be:[/] {problem}")
