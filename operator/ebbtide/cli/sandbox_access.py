"""`ebbtide sandbox kubeconfig|kubectl|url|logs|fail-nodes`: into a sandbox that runs, and one way to hurt it."""

import contextlib
import os
from pathlib import Path

import click

from ebbtide.cli.options import SANDBOX_NAME
from ebbtide.errors import NotFoundError
from ebbtide.sandbox import state


@click.command()
@SANDBOX_NAME
@click.option("--path", "only_path", is_flag=True, help="Print where the file is, not what is in it.")
@click.option("--operator", is_flag=True, help="The operator's account, with the rights of manifests/rbac.yaml alone.")
def kubeconfig(name: str, only_path: bool, operator: bool) -> None:
    """Print the admin kubeconfig: `ebbtide sandbox kubeconfig > kc; KUBECONFIG=kc kubectl get nodes`.

    With --operator that of the ServiceAccount ebbtide in ebbtide-system, which is applied where it does not exist.
    """
    from ebbtide.sandbox.access import Access

    found = state.of(name)
    path = Access.of(found).operator_kubeconfig() if operator else Path(found.kubeconfig)
    click.echo(str(path) if only_path else path.read_text(), nl=only_path)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@SANDBOX_NAME
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def kubectl(name: str, arguments: tuple[str, ...]) -> None:
    """Run the kubectl of the sandbox's Kubernetes version as admin: `ebbtide sandbox kubectl get nodes`."""
    from ebbtide.sandbox.access import Access

    command = Access.of(state.of(name)).command(*arguments)
    os.execv(command[0], command)


@click.command()
@SANDBOX_NAME
@click.argument("part", type=click.Choice(["api", "prometheus", "gateway"]))
def url(name: str, part: str) -> None:
    """Print where a part listens: the API server, Prometheus, or the gateway before the emulated engines."""
    found = state.of(name)
    address = {"api": found.apiserver_url, "prometheus": found.prometheus_url, "gateway": found.gateway_url}[part]
    if not address:
        raise NotFoundError(f"sandbox {name} has no emulator: start it again without --no-emulator")
    click.echo(address)


@click.command()
@SANDBOX_NAME
@click.argument("pod")
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added, until the pod is gone or Ctrl-C.")
@click.option("--tail", type=click.IntRange(0), help="Only the last so many lines.")
def logs(name: str, pod: str, namespace: str, follow: bool, tail: int | None) -> None:
    """Print what a pod of the process node has written; also after its end and after the sandbox's."""
    from ebbtide.sandbox.processnode.logs import log_file, read

    directory = state.default_directory(name)
    path = log_file(directory, namespace, pod)

    def more() -> bool:
        pods = state.process_node(directory).get("pods", ())
        return follow and state.running(directory) and any(shown["log"] == str(path) for shown in pods)

    with contextlib.suppress(KeyboardInterrupt):
        for text in read(path, tail, more):
            click.echo(text, nl=False)


@click.command("fail-nodes")
@SANDBOX_NAME
@click.argument("pool")
@click.option("--off", is_flag=True, help="Let nodes come again.")
def fail_nodes(name: str, pool: str, off: bool) -> None:
    """From now on no node comes to POOL, as when a cloud has none left; nodes that exist stay."""
    state.fail_nodes(Path(state.of(name).kubeconfig).parent, pool, failing=not off)
    click.echo(f"pool {pool}: nodes come again" if off else f"pool {pool}: no node comes until you say --off")
