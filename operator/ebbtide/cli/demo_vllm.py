"""`ebbtide demo --engine vllm`: the same loop on real vLLM servers."""

from typing import Any

from rich.console import Console

from ebbtide.cli.demo_summary import effort_sentence
from ebbtide.cli.demo_table import DemoScreen, say_how_to_look, watch
from ebbtide.cli.demo_vllm_summary import replicas_table, sentences, signals_table, summarise
from ebbtide.sandbox.demo_vllm import VllmDemo
from ebbtide.sandbox.download import Progress
from ebbtide.sandbox.engines.environment import EngineEnvironment
from ebbtide.sandbox.sandbox import Sandbox
from ebbtide.units import format_duration


async def run(
    sandbox: Sandbox, env: EngineEnvironment, console: Console, progress: Progress, seed: int, plain: bool
) -> dict[str, Any]:
    """The whole demo in that sandbox, shown live; what it adds up to."""
    async with VllmDemo(sandbox, env, progress, seed=seed) as running:
        await running.bring_up()
        await running.measure()
        console.print(_what_follows(running), soft_wrap=True)
        await running.start()
        say_how_to_look(console, sandbox.admin_kubeconfig, sandbox.kubectl_path)
        await watch(running, DemoScreen([running.service]), console, plain)
        return summarise(running, await running.routes(), await running.operator_metrics())


def _what_follows(running: VllmDemo) -> str:
    one = running.measured
    assert one is not None
    load, objectives = one.load(), running.objectives
    return (
        f"one server alone: {one.request_s:.2f} s a request, first token after {one.first_token_s * 1000:.0f} ms, "
        f"{one.inter_token_s * 1000:.1f} ms between tokens. So the objectives are "
        f"{objectives.time_to_first_token_s * 1000:.0f} ms and {objectives.inter_token_latency_s * 1000:.0f} ms, and "
        f"the load goes from {load.base:.2f} to {load.peak:.2f} requests/s and back in "
        f"{format_duration(running.duration_s)}"
    )


def report(console: Console, document: dict[str, Any]) -> None:
    """The summary for people."""
    console.print(replicas_table(document))
    console.print(signals_table(document))
    for sentence in (*sentences(document), effort_sentence(document)):
        console.print(sentence)
    for problem in document["problems"]:
        console.print(f"[red]not as it should be:[/] {problem}")
