"""`ebbtide demo`: the main job, live, on this machine."""

import asyncio
import contextlib
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.live import Live

from ebbtide.cli.demo_summary import auto_together, summarise, summary_table
from ebbtide.cli.demo_table import DemoScreen
from ebbtide.errors import ConfigurationError
from ebbtide.sandbox.demo import Demo, DemoOptions, View, start_sandbox
from ebbtide.sandbox.sandbox import Sandbox
from ebbtide.sim import showcase
from ebbtide.sim.load import generate
from ebbtide.sim.requests import Request
from ebbtide.sim.static import StaticPeak, static_peak
from ebbtide.sim.traces import RateTrace, read_trace, scaled, window
from ebbtide.units import format_duration, parse_duration_s

STATIC_SHARE = 0.97
_LEAST_DURATION_S = 60.0
_PLAIN_EVERY_S = 10.0
_PLAIN_WIDTH = 120


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            seconds = parse_duration_s(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds < _LEAST_DURATION_S:
            self.fail(f"{value} is too short to see anything scale: at least 1m is allowed", param, ctx)
        return seconds


@click.command()
@click.option("--duration", type=_Duration(), default="6m", show_default=True, help="How long the load lasts.")
@click.option("--seed", type=click.IntRange(1), default=1, show_default=True, help="Load, phases and start-up times.")
@click.option("--trace", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Load of the chat service.")
@click.option("--plain", is_flag=True, help="Lines instead of a live table; the default without a terminal.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the summary there.")
@click.option("--keep", is_flag=True, help="Keep the sandbox running afterwards, until Ctrl-C.")
def demo(duration: float, seed: int, trace: Path | None, plain: bool, json_path: Path | None, keep: bool) -> None:
    """Scale emulated vLLM and TensorRT-LLM fleets on a real control plane, live, and add up the result."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    chat = None if trace is None else _trace_requests(trace, duration, seed)
    options = DemoOptions(duration_s=duration, seed=seed, chat_requests=chat)
    with ProcessPoolExecutor(max_workers=1) as aside:
        static = aside.submit(_static_references, options)
        with start_sandbox(options, lambda text: console.print(f"[dim]· {text}[/]")) as sandbox:
            document = asyncio.run(_run(sandbox, options, console, plain or not console.is_terminal, static))
            _report(console, document, json_path)
            if keep:
                _stay(console, sandbox)


def _static_references(options: DemoOptions) -> dict[str, StaticPeak]:
    scenario = showcase.scenario(options.duration_s, options.seed)
    services = list(scenario.services)
    if options.chat_requests is not None:
        services[0] = msgspec.structs.replace(services[0], requests=options.chat_requests)
    return {service.spec.name: static_peak(scenario, service, STATIC_SHARE) for service in services}


def _trace_requests(path: Path, duration_s: float, seed: int) -> tuple[Request, ...]:
    """The chat service's load from a file: a rate curve is squeezed into the duration, requests keep their times.

    Both are scaled to the height of the shipped load, because the fleet's size is given.
    """
    peak = showcase.services(duration_s, seed)[0].shape.peak_rate
    trace = read_trace(path)
    if isinstance(trace, RateTrace):
        return tuple(generate(trace.shape().fitted(duration_s, peak), showcase.LENGTHS, duration_s, seed))
    first = window(trace.requests, 0.0, duration_s)
    if not first:
        raise ConfigurationError(f"--trace {path}: it has no requests in its first {format_duration(duration_s)}")
    return tuple(scaled(first, peak / 2 * duration_s / len(first), duration_s, seed))


async def _run(
    sandbox: Sandbox, options: DemoOptions, console: Console, plain: bool, static: "Future[dict[str, StaticPeak]]"
) -> dict[str, Any]:
    hint = f"look yourself: KUBECONFIG={sandbox.admin_kubeconfig} kubectl get infs,gpool,pods -A   (Ctrl-C ends it)"
    async with Demo(sandbox, options, lambda text: console.print(f"[dim]· {text}[/]")) as running:
        for service in running.services:
            console.print(f"[dim]  {service.name}: {service.story}[/]")
        await running.bring_up()
        await running.start()
        screen = DemoScreen(running.services, console, hint)
        view = await (_watch_plain if plain else _watch_live)(running, screen, console, hint)
        references = await asyncio.wrap_future(static)
        return summarise(running, view, references, await running.operator_metrics())


async def _watch_live(running: Demo, screen: DemoScreen, console: Console, hint: str) -> View:
    with Live(console=console, refresh_per_second=2, screen=False) as live:
        async for view in running.watch():
            live.update(screen.update(view))
    return view


async def _watch_plain(running: Demo, screen: DemoScreen, console: Console, hint: str) -> View:
    console.print(hint)
    shown_s = -_PLAIN_EVERY_S
    async for view in running.watch():
        screen.note(view)
        if view.elapsed_s - shown_s >= _PLAIN_EVERY_S:
            shown_s = view.elapsed_s
            for line in screen.plain_lines(view):
                console.print(line, soft_wrap=True)
    return view


def _report(console: Console, document: dict[str, Any], json_path: Path | None) -> None:
    console.print(summary_table(document))
    joined = auto_together(document)
    console.print(
        f"Auto services together: {joined['met_both_after_60s'] * 100:.1f} % met both after the first minute with "
        f"{joined['share_of_static'] * 100:.0f} % of the GPU-hours of the smallest static fleet that reaches "
        f"{STATIC_SHARE * 100:.0f} % ({joined['gpu_hours']:.2f} of {joined['static_peak_gpu_hours']:.2f})."
    )
    console.print(
        f"{document['cycles']} cycles, p50 {document['cycle_seconds_p50']} s, p99 {document['cycle_seconds_p99']} s; "
        f"{document['promql_queries_per_cycle']} PromQL queries a cycle; {document['api_writes']} API writes in "
        f"{format_duration(document['duration_s'])}."
    )
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
        console.print(f"written: {json_path}")


def _stay(console: Console, sandbox: Sandbox) -> None:
    console.print(f"The sandbox stays: export KUBECONFIG={sandbox.admin_kubeconfig}   (Ctrl-C ends it)")
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
