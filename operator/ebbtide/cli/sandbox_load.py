"""`ebbtide sandbox load` and `results`: requests to emulated or real engines, and what became of them.

What is sent is read here, once for both; how it is sent to a real server is `sandbox_http_load`.
"""

import json
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table

from ebbtide.cli.options import SANDBOX_NAME, Duration
from ebbtide.errors import ConfigurationError
from ebbtide.sandbox import state
from ebbtide.sandbox.gateway_client import ask
from ebbtide.sandbox.state import State
from ebbtide.units import format_duration, parse_duration_s

_PLAIN_WIDTH = 120
_TTFT_S, _ITL_S = 1.0, 0.05  # the defaults of the API
_LATENCY = Duration(0.001, "is too short for a latency")
_UNSET = "unset: as the InferenceService NAMESPACE/ROUTE says, else"
_EMULATED_ONLY = ("name", "stop")
_HTTP_ONLY = (
    "model",
    "prompt_tokens",
    "output_tokens",
    "max_prompt_tokens",
    "max_output_tokens",
    "spread",
    "swing",
    "json_path",
)


@click.command()
@click.argument("route", metavar="[NAMESPACE/ROUTE]", required=False)
@click.option("--url", help="Base of an OpenAI API, ending in /v1: real engines instead of NAMESPACE/ROUTE.")
@click.option("--model", help="With --url: the name under which the server serves the model.")
@SANDBOX_NAME
@click.option("--rate", type=click.FloatRange(0, 10_000, min_open=True), help="Requests per second, on average.")
@click.option("--shape", help='JSON, such as \'{"shape": "step", "before": 5, "after": 20, "at_s": 60}\'.')
@click.option(
    "--trace", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Requests or rates to play."
)
@click.option(
    "--duration", type=Duration(1, "is too short"), help="How long, such as 5m; a rate trace is fitted to it."
)
@click.option("--seed", type=click.IntRange(1), default=1, show_default=True, help="Draws arrivals and lengths.")
@click.option("--ttft", type=_LATENCY, help=f"First token within this counts as met; {_UNSET} 1s.")
@click.option("--itl", type=_LATENCY, help=f"Mean time between tokens, the same; {_UNSET} 50ms.")
@click.option("--stop", is_flag=True, help="Drop what has not been sent to the route yet.")
@click.option("--prompt-tokens", type=click.FloatRange(1), default=200.0, show_default=True, help="--url: median.")
@click.option("--output-tokens", type=click.FloatRange(1), default=100.0, show_default=True, help="--url: median.")
@click.option("--max-prompt-tokens", type=click.IntRange(1), default=600, show_default=True, help="--url: longest.")
@click.option("--max-output-tokens", type=click.IntRange(1), default=400, show_default=True, help="--url: longest.")
@click.option(
    "--spread", type=click.FloatRange(0), default=0.6, show_default=True, help="--url: sigma of lengths; 0: all alike."
)
@click.option(
    "--swing", type=click.FloatRange(0), default=0.2, show_default=True, help="--url: of the rate; 0: Poisson."
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="--url: write every request and the summary there.",
)
@click.pass_context
def load(
    context: click.Context,
    *,
    route: str | None,
    url: str | None,
    model: str | None,
    name: str,
    rate: float | None,
    shape: str | None,
    trace: Path | None,
    duration: float | None,
    seed: int,
    ttft: float | None,
    itl: float | None,
    stop: bool,
    prompt_tokens: float,
    output_tokens: float,
    max_prompt_tokens: int,
    max_output_tokens: int,
    spread: float,
    swing: float,
    json_path: Path | None,
) -> None:
    """Send requests when they are due, whatever the answers do.

    Give one target, one of --rate, --shape and --trace, and --duration.

    NAMESPACE/ROUTE: to the emulated engines whose pods carry the label sandbox.ebbtide.dev/route: ROUTE. Returns at
    once; the emulator sends them, and `results` shows what became of them.

    --url and --model: to a server that speaks HTTP. Stays until the last answer, or Ctrl-C, and shows what it measured.
    """
    _check_target(context, route, url, model)
    if sum(way is not None for way in (rate, shape, trace)) != (0 if stop else 1):
        raise click.UsageError("give one of --rate, --shape and --trace, or --stop alone")
    if stop:
        _stop(name, route or "")
        return
    if duration is None:
        raise click.UsageError("give --duration, such as --duration 5m")
    how, what = _constant(rate) if rate else _shape(shape) if shape else _trace(trace or Path(), duration)
    if route is not None:
        _order(name, route, how, {"duration_s": duration, "seed": seed, **what}, (ttft, itl))
        return
    from ebbtide.cli.sandbox_http_load import HttpLoad, send
    from ebbtide.sandbox.ledger import Objectives
    from ebbtide.sim.load import Lengths

    lengths = Lengths(prompt_tokens, spread, max_prompt_tokens, output_tokens, spread, max_output_tokens)
    objectives = Objectives(ttft or _TTFT_S, itl or _ITL_S)
    send(HttpLoad(url or "", model or "", what, duration, seed, lengths, swing, objectives, json_path))


def _check_target(context: click.Context, route: str | None, url: str | None, model: str | None) -> None:
    """Refuse all but one target, and options of the other one."""
    if (route is None) == (url is None):
        raise click.UsageError("give either NAMESPACE/ROUTE (emulated engines) or --url and --model (a real server)")
    foreign, target = (_HTTP_ONLY, "--url") if url is None else (_EMULATED_ONLY, "NAMESPACE/ROUTE")
    for option in context.command.params:
        if option.name in foreign and context.get_parameter_source(option.name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{option.opts[0]} goes with {target} only")
    if route is not None and "/" not in route:
        raise click.UsageError(f"route {route!r} is not NAMESPACE/ROUTE, such as default/chat")
    if url is not None and not url.rstrip("/").endswith("/v1"):
        raise click.UsageError(f"--url: {url!r} must end in /v1, such as http://127.0.0.1:8000/v1")
    if url is not None and not model:
        raise click.UsageError("--url needs --model: the name under which the server serves the model")


def _stop(name: str, route: str) -> None:
    stopped = ask(state.of(name), "DELETE", f"/load?{urlencode({'route': route})}")["stopped"]
    click.echo(f"{route}: loads stopped: {stopped}; requests that were sent run to their end")


def _order(name: str, route: str, how: str, order: dict[str, Any], given: tuple[float | None, float | None]) -> None:
    """Have the emulator send it."""
    found = state.of(name)
    ready = ask(found, "GET", "/results")["routes"].get(route, {}).get("ready", 0)
    objectives = _objectives(found, route, *given)
    count = ask(found, "POST", "/load", {"route": route, "objectives": objectives, **order})["requests"]
    first, gap = (format_duration(seconds) for seconds in objectives.values())
    click.echo(f"{route}: {count} requests within {format_duration(order['duration_s'])} ", nl=False)
    click.echo(f"({how}, seed {order['seed']}) from now on")
    click.echo(f"  met is a first token within {first} and {gap} between tokens")
    click.echo(f"  engines ready: {ready}" + ("" if ready else "; requests wait for one"))
    named = "" if name == "default" else f" --name {name}"
    click.echo(f"  look:  ebbtide sandbox results{named}")
    click.echo(f"  stop:  ebbtide sandbox load{named} {shlex.quote(route)} --stop")


@click.command()
@SANDBOX_NAME
@click.option("--json", "as_json", is_flag=True, help="As JSON, with every number that the gateway keeps.")
def results(name: str, as_json: bool) -> None:
    """Show what became of the requests of every route: how many, how many met both objectives, latencies."""
    answer = ask(state.of(name), "GET", "/results")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    console.print(_table(answer["routes"]) if answer["routes"] else "no route has an engine pod or a load yet")
    for problem in answer["problems"]:
        console.print(f"not played: {problem}", soft_wrap=True)


def _objectives(found: State, route: str, ttft_s: float | None, itl_s: float | None) -> dict[str, float]:
    """What counts as met: as given, else as the service of the route's name declares, else the defaults of the API."""
    from ebbtide.sandbox.access import Access

    namespace, _, service = route.partition("/")
    get = ("get", "inferenceservices.ebbtide.dev", service, "-n", namespace, "--ignore-not-found", "-o", "json")
    text = Access.of(found).kubectl(*get)
    declared = json.loads(text)["spec"].get("objectives", {}) if text else {}
    return {
        "time_to_first_token_s": ttft_s or _declared(declared, "timeToFirstToken", _TTFT_S),
        "inter_token_latency_s": itl_s or _declared(declared, "interTokenLatency", _ITL_S),
    }


def _declared(objectives: dict[str, str], name: str, default_s: float) -> float:
    return parse_duration_s(objectives[name]) if name in objectives else default_s


def _constant(per_second: float) -> tuple[str, dict[str, Any]]:
    return f"{per_second:g} a second", {"shape": {"shape": "constant", "per_second": per_second}}


def _shape(text: str) -> tuple[str, dict[str, Any]]:
    from ebbtide.sim.shapes import parse_shape

    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"--shape {text!r} is not JSON: {error}") from error
    parsed = parse_shape(value)
    return f"{value['shape']}, at most {parsed.peak_rate:g} a second", {"shape": value}


def _trace(path: Path, duration_s: float) -> tuple[str, dict[str, Any]]:
    """A rate curve is squeezed into the duration and keeps its height; requests keep their times."""
    from ebbtide.sim.traces import RateTrace, read_trace, window

    trace = read_trace(path)
    if isinstance(trace, RateTrace):
        curve = trace.shape()
        fitted = curve.fitted(duration_s, curve.peak_rate)
        what = f"{path.name} squeezed into it, at most {curve.peak_rate:.3g} a second"
        return what, {"shape": {"shape": "sampled", "points": fitted.points}}
    requests = window(trace.requests, 0.0, duration_s)
    if not requests:
        raise ConfigurationError(f"--trace {path}: it has no requests in its first {format_duration(duration_s)}")
    parts = [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in requests]
    return f"the beginning of {path.name}", {"requests": parts}


def _table(routes: dict[str, Any]) -> Table:
    table = Table(pad_edge=False)
    table.add_column("route", no_wrap=True)
    for column in ("requests", "now/s", "met both", "TTFT p50", "TTFT p95", "ITL p50", "ITL p95", "inside", "ready"):
        table.add_column(column, justify="right", no_wrap=True)
    for route, row in routes.items():
        first, gap, met = row["time_to_first_token_s"] or {}, row["inter_token_latency_s"] or {}, row["met_both"]
        table.add_row(
            route,
            str(row["requests"]),
            f"{row['requests_per_second']:.1f}",
            "-" if met is None else f"{met * 100:.1f} %",
            *(_milliseconds(values.get(rank)) for values in (first, gap) for rank in ("p50", "p95")),
            str(row["held"] + row["waiting"] + row["running"]),
            f"{row['ready']} of {row['endpoints']}",
        )
    return table


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"
