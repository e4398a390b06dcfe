"""`ebbtide sandbox load --url`: open-loop load on an OpenAI-compatible server, measured request by request."""

import asyncio
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebbtide.sandbox.ledger import Objectives
from ebbtide.sim.load import Lengths

if TYPE_CHECKING:
    from ebbtide.sandbox.loadgen import LoadTarget, Progress, Served
    from ebbtide.sim.requests import Request

_SAY_EVERY_S = 5.0


@dataclass(frozen=True)
class HttpLoad:
    """A load on a server. `what` is its shape or its requests, in the form that the emulated gateway takes too.

    `url` ends in /v1; `duration_s` is for how long requests are sent; `json_path` gets every request.
    """

    url: str
    model: str
    what: Mapping[str, Any]
    duration_s: float
    seed: int
    lengths: Lengths
    swing: float
    objectives: Objectives
    json_path: Path | None


def send(load: HttpLoad) -> None:
    """Send, print what became of the requests, and write them. Ctrl-C ends it with what was measured until then."""
    from ebbtide.sandbox.loadgen import LoadTarget, summary

    requests = requests_of(load)
    target = LoadTarget(load.url.rstrip("/"), load.model, seed=load.seed)
    click.echo(f"{len(requests)} requests to {target.url} within {load.duration_s:g} s; Ctrl-C ends it", err=True)
    served = asyncio.run(_run(target, requests))
    found = summary(served, load.objectives)
    _show(found)
    if load.json_path is not None:
        _write(load.json_path, found, served)


def requests_of(load: HttpLoad) -> "list[Request]":
    """What to send; requests of a trace are cut at the longest lengths."""
    from ebbtide.sim.load import generate, parse_shape
    from ebbtide.sim.requests import Request

    lengths = load.lengths
    if "shape" in load.what:
        return generate(parse_shape(load.what["shape"]), lengths, load.duration_s, load.seed, swing=load.swing)
    return [
        Request(number, at_s, min(prompt, lengths.prompt_max), min(output, lengths.output_max))
        for number, (at_s, prompt, output) in enumerate(load.what["requests"])
    ]


async def _run(target: "LoadTarget", requests: "Sequence[Request]") -> "list[Served]":
    from ebbtide.sandbox.loadgen import run_load

    stop, loop, said_s = asyncio.Event(), asyncio.get_running_loop(), [0.0]

    def interrupted() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)  # a second Ctrl-C ends it at once

    def say(progress: "Progress") -> None:
        if progress.at_s - said_s[0] >= _SAY_EVERY_S:
            said_s[0] = progress.at_s
            numbers = f"sent {progress.sent}, running {progress.running}, ended {progress.ended}"
            click.echo(f"{progress.at_s:6.0f} s  {numbers}, served {progress.served}", err=True)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    return await run_load(target, requests, on_progress=say, stop=stop)


def _show(found: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "p50", "p95", "p99", "max")
    for title, key in (
        ("time to first token", "time_to_first_token_s"),
        ("inter-token latency", "inter_token_latency_s"),
        ("longest gap", "longest_gap_s"),
        ("sent late by", "slippage_s"),
    ):
        table.add_row(title, *(_milliseconds((found[key] or {}).get(mark)) for mark in ("p50", "p95", "p99", "max")))
    met = "-" if found["met_both"] is None else f"{found['met_both']:.1%}"
    tokens = f"{found['generated_tokens']} tokens, {found['generated_tokens_per_second']:.0f} per second"
    click.echo(f"{found['requests']} requests in {found['duration_s']:.1f} s, {found['served']} served, {tokens}")
    click.echo(f"met both objectives: {met}   finish reasons: {_counts(found['finish_reasons'])}")
    click.echo(f"HTTP status: {_counts(found['statuses'])}")
    if found["endpoints"]:
        click.echo(f"endpoints: {_counts(found['endpoints'])}")
    Console().print(table)
    for text, count in found["errors"].items():
        click.echo(f"{count} x {text}")
    if found["generator_late"]:
        late = found["slippage_s"]["p95"]
        click.echo(f"the generator was late (p95 {late * 1000:.0f} ms): it measured a slower load than was asked for")


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _write(path: Path, found: Mapping[str, Any], served: "Sequence[Served]") -> None:
    import msgspec

    path.write_bytes(msgspec.json.format(msgspec.json.encode({"summary": found, "requests": served}), indent=1))
    click.echo(f"every request: {path}")
