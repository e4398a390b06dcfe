"""The demo on a terminal: one table that changes in place, or plain lines where there is no terminal."""

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ebbtide.cli.demo_forecast import capacity, forecast_table, in_a_line
from ebbtide.sandbox.demo_base import RunningDemo, Shown, View
from ebbtide.units import format_duration

_BARS = "▁▂▃▄▅▆▇█"
_TRAIL = 8
_PLAIN_EVERY_S = 10.0
_RATE_VIEWS = 11  # arrivals of ten views, a second apart, make the rate that is shown


class DemoScreen:
    """Turns views into what people look at. Keeps the load's trail and the decisions already shown."""

    def __init__(self, services: Sequence[Shown]) -> None:
        self._services = services
        self._trail: dict[str, list[float]] = {service.name: [] for service in services}
        self._arrived: dict[str, list[tuple[float, int]]] = {service.name: [] for service in services}
        self._seen: set[str] = set()
        self._decisions: list[str] = []
        self._fresh: list[str] = []

    def update(self, view: View) -> Group:
        """The whole screen for one view."""
        self.note(view)
        parts: list[RenderableType] = [
            self._services_table(view),
            forecast_table({service.name: _status(view, service.name) for service in self._services}),
            _pools_table(view),
            self._decisions_panel(),
        ]
        return Group(self._headline(view), *parts)

    def plain_lines(self, view: View) -> list[str]:
        """What was decided since the last call, and one line a service; for logs and pipes. Needs `note` before."""
        fresh, self._fresh = self._fresh, []
        rows = [self._plain_row(view, service) for service in self._services]
        return [*(f"  decided  {text}" for text in fresh), f"{self._headline(view)}", *rows]

    def note(self, view: View) -> None:
        """Take in one view, shown or not: rates and decisions come from all of them."""
        for service in self._services:
            arrived = (view.elapsed_s, view.traffic.get(service.name, {}).get("requests", 0))
            seen = self._arrived[service.name] = [*self._arrived[service.name], arrived][-_RATE_VIEWS:]
            span_s = seen[-1][0] - seen[0][0]
            rate = (seen[-1][1] - seen[0][1]) / span_s if span_s > 0 else 0.0
            self._trail[service.name] = [*self._trail[service.name], rate][-_TRAIL:]
        for name, item in view.services.items():
            for decision in reversed(item.get("status", {}).get("decisions", [])):
                identity = f"{name} {decision['at']} {decision['message']}"
                if identity not in self._seen:
                    self._seen.add(identity)
                    self._fresh.append(f"{name}: {decision['message']}")
                    self._decisions = [*self._decisions, self._fresh[-1]][-6:]

    @staticmethod
    def _headline(view: View) -> Text:
        elapsed = format_duration(max(1.0, min(view.elapsed_s, view.duration_s)))
        return Text(f"Ebbtide demo  {elapsed} of {format_duration(view.duration_s)}", style="bold")

    def _services_table(self, view: View) -> Table:
        # no lines between columns: with them a terminal of 118 columns would cut the reason off
        table = Table(expand=True, pad_edge=False, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name in ("service", "mode", "req/s", "", "TTFT p95/max", "ITL p95/max", "met"):
            table.add_column(name, no_wrap=True)
        table.add_column("replicas now → want", no_wrap=True)
        table.add_column("$/h", justify="right", no_wrap=True)
        table.add_column("reason", ratio=1, no_wrap=True)
        for service in self._services:
            traffic, status = view.traffic.get(service.name, {}), _status(view, service.name)
            table.add_row(
                service.name,
                service.mode.value,
                f"{self._trail[service.name][-1]:6.1f}",
                _sparkline(self._trail[service.name]),
                _against(traffic.get("recent_time_to_first_token_s"), view, service, "timeToFirstToken"),
                _against(traffic.get("recent_inter_token_latency_s"), view, service, "interTokenLatency"),
                _percent(traffic.get("met_both")),
                _replicas(view, service.name, status),
                status.get("spendPerHour", "?"),
                status.get("reason", "-"),
            )
        return table

    def _plain_row(self, view: View, service: Shown) -> str:
        traffic, status = view.traffic.get(service.name, {}), _status(view, service.name)
        return (
            f"  {service.name:<10} {self._trail[service.name][-1]:6.1f} req/s"
            f"  TTFT p95 {_milliseconds(traffic.get('recent_time_to_first_token_s')):>7}"
            f"  ITL p95 {_milliseconds(traffic.get('recent_inter_token_latency_s')):>6}"
            f"  met {_percent(traffic.get('met_both')):>6}  {_replicas(view, service.name, status):<24}"
            f"  {status.get('spendPerHour', '?'):>6} $/h  {status.get('reason', '-')}"
            f"  forecast {in_a_line(status.get('forecast'))}"
            f"  carries {capacity(status)}"
        )

    def _decisions_panel(self) -> Panel:
        text = "\n".join(self._decisions) or "none yet"
        return Panel(Text(text, overflow="ellipsis", no_wrap=False), title="newest decisions", title_align="left")


async def watch(running: RunningDemo, screen: DemoScreen, console: Console, plain: bool) -> View:
    """Show the demo until it ends, as lines if `plain`; the last view."""
    return await (_watch_plain if plain else _watch_live)(running, screen, console)


async def _watch_live(running: RunningDemo, screen: DemoScreen, console: Console) -> View:
    with Live(console=console, refresh_per_second=2, screen=False) as live:
        async for view in running.watch():
            live.update(screen.update(view))
    return view


async def _watch_plain(running: RunningDemo, screen: DemoScreen, console: Console) -> View:
    shown_s = -_PLAIN_EVERY_S
    async for view in running.watch():
        screen.note(view)
        if view.elapsed_s - shown_s >= _PLAIN_EVERY_S:
            shown_s = view.elapsed_s
            for line in screen.plain_lines(view):
                console.print(line, soft_wrap=True)
    return view


def say_how_to_look(console: Console, kubeconfig: Path, kubectl: Path) -> None:
    """A command to copy, unbroken whatever the width, with `kubectl` only where a shell would find one."""
    program = "kubectl" if shutil.which("kubectl") else shlex.quote(str(kubectl))
    console.print("look yourself meanwhile (Ctrl-C ends the demo):")
    command = f"KUBECONFIG={shlex.quote(str(kubeconfig))} {program} get infs,gpool,costp,pods -A"
    console.print(command, soft_wrap=True, markup=False)


def _pools_table(view: View) -> Table:
    table = Table(expand=True, pad_edge=False)
    for name in ("pool", "accelerator", "GPUs used", "", "price per GPU-hour"):
        table.add_column(name, no_wrap=True)
    for name, pool in sorted(view.pools.items()):
        status = pool.get("status", {})
        gpus = status.get("gpus", {})
        total, used = gpus.get("total", 0), gpus.get("allocated", 0)
        bar = "█" * used + "░" * (total - used)
        price = f"{status.get('pricePerGPUHour', '?')} {status.get('currency', '')}"
        table.add_row(name, pool["spec"].get("accelerator", ""), f"{used}/{total}", bar, price)
    return table


def _status(view: View, name: str) -> Mapping[str, Any]:
    status: Mapping[str, Any] = view.services.get(name, {}).get("status", {})
    return status


def _replicas(view: View, name: str, status: Mapping[str, Any]) -> str:
    pods = view.pods.get(name, {})
    now = f"{pods.get('ready', 0)}"
    extra = "".join(f" {sign}{pods[key]}" for key, sign in (("starting", "+"), ("ending", "-")) if pods.get(key))
    wanted = ", ".join(f"{row['name']} {row['allowed']}" for row in status.get("variants", []))
    return f"{now}{extra} → {wanted or '?'}"


def _against(seen: Mapping[str, float] | None, view: View, service: Shown, objective: str) -> str:
    declared = view.services.get(service.name, {}).get("spec", {}).get("objectives", {})
    return f"{_milliseconds(seen)}/{declared.get(objective, '?')}"


def _sparkline(values: list[float]) -> str:
    top = max(values, default=0.0) or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, int(value / top * len(_BARS)))] for value in values)


def _milliseconds(percentiles: Mapping[str, float] | None) -> str:
    if not percentiles:
        return "-"
    return f"{percentiles['p95'] * 1000:.0f} ms"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.1f} %"
