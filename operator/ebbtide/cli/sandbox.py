"""`ebbtide sandbox`: a real control plane with fake GPU nodes on this machine, up, looked at and down again.

Commands for a sandbox that runs have files of their own: `sandbox_access` and `sandbox_load`; so has `engines`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from ebbtide.cli.options import SANDBOX_NAME
from ebbtide.cli.sandbox_access import fail_nodes, kubeconfig, kubectl, logs, url
from ebbtide.cli.sandbox_engines import engines
from ebbtide.cli.sandbox_load import load, results
from ebbtide.clock import monotonic_s, unix_time_s
from ebbtide.errors import SandboxError
from ebbtide.sandbox import state
from ebbtide.sandbox.rotation import Dispatch
from ebbtide.sandbox.versions import DEFAULT_KUBERNETES_MINOR, KUBERNETES
from ebbtide.units import format_duration

if TYPE_CHECKING:
    from ebbtide.sandbox.sandbox import Sandbox

_POLL_S = 0.2
_STOP_TIMEOUT_S = 20.0
# a first Go build of everything takes about ten minutes on two cores; a slow machine gets six times that
_UP_TIMEOUT_S = 3600.0


@click.group()
def sandbox() -> None:
    """A real Kubernetes control plane with fake GPU nodes, emulated engines and Prometheus, on this machine."""


for _command in (kubeconfig, kubectl, url, logs, load, results, fail_nodes, engines):
    sandbox.add_command(_command)


@sandbox.command()
@click.option(
    "--kubernetes",
    type=click.Choice(sorted(KUBERNETES)),
    default=DEFAULT_KUBERNETES_MINOR,
    show_default=True,
    help="Minor version.",
)
def binaries(kubernetes: str) -> None:
    """Get the Kubernetes binaries ready: given, cached, downloaded or built (once, about 10 minutes on 2 cores)."""
    from ebbtide.sandbox.binaries import resolve

    found = resolve(kubernetes, progress=click.echo)
    click.echo(f"Kubernetes {kubernetes}: {len(found)} binaries in place")


@sandbox.command()
@SANDBOX_NAME
@click.option("--detach", is_flag=True, help="Return when it is ready; it stays until 'ebbtide sandbox down'.")
@click.option(
    "--kubernetes",
    type=click.Choice(sorted(KUBERNETES)),
    default=DEFAULT_KUBERNETES_MINOR,
    show_default=True,
    help="Minor version.",
)
@click.option(
    "--manifests",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="YAML file or folder to apply once the API server is there (repeatable, in this order).",
)
@click.option("--scrape-interval", type=click.FloatRange(0.5, 300), default=5.0, show_default=True, help="Seconds.")
@click.option(
    "--process-node",
    type=click.IntRange(0, 64),
    is_flag=False,
    flag_value=4,
    default=0,
    metavar="[N]",
    help="Add a node whose pods are processes of this machine, with room for N engines (4): docs/process-node.md.",
)
@click.option("--node-lead-time", type=click.FloatRange(0, 3600), default=20.0, show_default=True, help="Seconds.")
@click.option("--emulator/--no-emulator", default=True, show_default=True, help="Play engine pods and a gateway.")
@click.option(
    "--dispatch",
    type=click.Choice(get_args(Dispatch)),
    default="least-loaded",
    show_default=True,
    help="How the emulated gateway picks an engine; random is what kube-proxy does.",
)
@click.option(
    "--seed", type=int, default=1, show_default=True, help="Draws coefficients, jitter and picks of the emulator."
)
@click.pass_context
def up(
    context: click.Context,
    *,
    name: str,
    detach: bool,
    kubernetes: str,
    manifests: tuple[Path, ...],
    scrape_interval: float,
    node_lead_time: float,
    process_node: int,
    emulator: bool,
    dispatch: Dispatch,
    seed: int,
) -> None:
    """Start a sandbox that knows Ebbtide's kinds; stays in the foreground until Ctrl-C unless --detach is given.

    The first time, binaries are fetched or built, which can take about ten minutes.
    """
    for option in ("dispatch", "seed"):
        if not emulator and context.get_parameter_source(option) is not ParameterSource.DEFAULT:
            raise click.BadOptionUsage(option, f"--{option}: not with --no-emulator, which leaves nothing to set")
    if detach:
        options = [f"--name={name}", f"--kubernetes={kubernetes}", f"--scrape-interval={scrape_interval}"]
        options += [f"--dispatch={dispatch}", f"--seed={seed}"] if emulator else ["--no-emulator"]
        options += [f"--node-lead-time={node_lead_time}", f"--process-node={process_node}"]
        options += [f"--manifests={path.absolute()}" for path in manifests]
        _detached(name, options)
        return
    # imported late: --help and status need none of it
    from ebbtide.api.crd import crd_documents
    from ebbtide.sandbox.autoscaler import AutoscalerSettings
    from ebbtide.sandbox.sandbox import Sandbox, SandboxConfig

    config = SandboxConfig(
        name=name,
        kubernetes=kubernetes,
        manifests=(*crd_documents().values(), *manifests),
        scrape_interval_s=scrape_interval,
        autoscaler=AutoscalerSettings(lead_time_s=node_lead_time),
        process_node_slots=process_node,
        emulator_seed=seed if emulator else None,
        emulator_dispatch=dispatch,
        progress=click.echo,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `down` ends it as Ctrl-C does
    with contextlib.suppress(KeyboardInterrupt), Sandbox.start(config) as running:
        click.echo(f"export KUBECONFIG={running.admin_kubeconfig}")
        click.echo(f"Prometheus: {running.prometheus_url}   gateway: {running.gateway_url or 'none'}")
        click.echo(f"kubectl: {running.kubectl_path}   logs: {running.directory / 'logs'}")
        click.echo(f"'ebbtide sandbox down{'' if name == 'default' else f' --name {name}'}' ends it")
        _stay(running)
    click.echo("sandbox ended")


@sandbox.command()
@SANDBOX_NAME
def status(name: str) -> None:
    """Show what runs; exit code 1 when there is no such sandbox."""
    directory = state.default_directory(name)
    found = state.of(name)
    click.echo(f"sandbox {name}: Kubernetes {found.kubernetes}, up {format_duration(unix_time_s() - found.started_s)}")
    click.echo(f"  API         {found.apiserver_url}")
    click.echo(f"  Prometheus  {found.prometheus_url}")
    click.echo(f"  gateway     {found.gateway_url or 'none: no emulator runs'}")
    click.echo(f"  pod IPs     {found.pods}")
    click.echo(f"  kubeconfig  {found.kubeconfig}")
    click.echo(f"  kubectl     {found.kubectl}")
    click.echo(f"  logs        {directory / 'logs'}")
    for process, pid in found.processes.items():
        click.echo(f"  {process:<28} pid {pid:<8} {'running' if _alive(pid) else 'ENDED'}")
    for file in sorted(directory.glob("autoscaler-*.json")):
        click.echo(_autoscaler_line(json.loads(file.read_text())))
    if shown := state.process_node(directory):
        click.echo(_process_node_lines(shown))


@sandbox.command()
@SANDBOX_NAME
def down(name: str) -> None:
    """End a sandbox and wait until all its processes are gone."""
    directory = state.default_directory(name)
    if not state.running(directory):
        click.echo(f"sandbox {name} does not run")
        return
    pid = state.holder(directory)
    _end(directory, pid, signal.SIGTERM)
    if state.running(directory):
        _end(directory, pid, signal.SIGKILL)  # the kernel then ends its children
    if state.running(directory):
        raise SandboxError(f"sandbox {name}: process {pid} cannot be ended; look at it with 'ps {pid}'")
    state.clear(directory)
    click.echo(f"sandbox {name} ended; logs stay in {directory / 'logs'}")


def _autoscaler_line(shown: Mapping[str, Any]) -> str:
    trouble = f", {shown['failures']} failed: {shown['last_error']}" if shown["last_error"] else ""
    counts = f"{len(shown['nodes'])} nodes, {len(shown['launching'])} coming, {shown['waiting_gpus']} GPUs waited for"
    return f"  pool {shown['pool']:<23} {counts}{trouble}"


def _process_node_lines(shown: Mapping[str, Any]) -> str:
    running = [pod for pod in shown["pods"] if pod["pid"]]
    lines = [f"  node {shown['node']:<23} {shown['slots']} engine slots, {len(running)} processes"]
    lines += [
        f"    {pod['pod']:<26} pid {pod['pid']:<8} {pod['address']} {'ready' if pod['ready'] else 'not ready'}"
        for pod in running
    ]
    return "\n".join(lines)


def _stay(running: "Sandbox") -> None:
    while not (ended := running.processes.crashed()):
        time.sleep(_POLL_S)
    name, code = next(iter(ended.items()))
    tail = running.processes.log_tail(name)
    raise SandboxError(f"{name} ended by itself with status {code}; log {running.processes.log(name)}:\n{tail}")


def _detached(name: str, options: list[str]) -> None:
    directory = state.default_directory(name)
    if state.running(directory):
        raise SandboxError(f"sandbox {name} runs already: see 'ebbtide sandbox status --name {name}'")
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "supervisor.log"
    argv = [sys.executable, "-m", "ebbtide", "sandbox", "up", *options]
    with log.open("wb") as out:
        supervisor = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd="/"
        )
    try:
        _follow(supervisor, directory, log)
    except KeyboardInterrupt:
        supervisor.terminate()
        supervisor.wait()
        raise
    supervisor.returncode = 0  # it lives on: not ours to wait for


def _follow(supervisor: "subprocess.Popen[bytes]", directory: Path, log: Path) -> None:
    """Show the supervisor's progress until the sandbox is ready; SandboxError when it ends before."""
    deadline_s = monotonic_s() + _UP_TIMEOUT_S
    with log.open() as progress:
        while True:
            ended, found = supervisor.poll() is not None, state.read(directory)
            click.echo(progress.read(), nl=False)
            # another pid's is what a killed supervisor left, seen between ours taking the lock and clearing it
            if found is not None and found.pid == supervisor.pid:
                return
            if ended or monotonic_s() > deadline_s:
                raise SandboxError(f"the sandbox did not come up; its output is above and in {log}")
            time.sleep(_POLL_S)


def _end(directory: Path, pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    deadline_s = monotonic_s() + _STOP_TIMEOUT_S
    while (state.running(directory) or _alive(pid)) and monotonic_s() < deadline_s:
        time.sleep(_POLL_S)


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[-1].split()[0] != "Z"
