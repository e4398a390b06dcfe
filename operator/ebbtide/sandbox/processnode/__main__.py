"""`python -m ebbtide.sandbox.processnode`: a Node whose pods are processes of this machine.

Ends on SIGTERM or Ctrl-C, and all its processes with it.
"""

import asyncio
import contextlib
import logging
import signal
from pathlib import Path

import click

from ebbtide.sandbox.processnode.agent import run


async def _main(kubeconfig: Path, directory: Path, prefix: str, slots: int) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await run(kubeconfig, directory, prefix, slots, ended)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kubeconfig", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--directory", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--prefix", required=True, help="127.X: the first half of the addresses of its pods.")
@click.option("--slots", type=click.IntRange(1, 64), required=True, help="How many engines fit on it.")
def main(kubeconfig: Path, directory: Path, prefix: str, slots: int) -> None:
    """Run the pods that the scheduler puts on the process node as processes of this machine."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(kubeconfig, directory, prefix, slots))


if __name__ == "__main__":
    main()
