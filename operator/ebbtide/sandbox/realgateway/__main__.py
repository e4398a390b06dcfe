"""`python -m ebbtide.sandbox.realgateway`: the process that forwards requests to real engine pods.

Ends on SIGTERM or Ctrl-C; streams that still run then are cut off.
"""

import asyncio
import contextlib
import logging
import signal
from pathlib import Path
from typing import get_args

import click

from ebbtide.kube.client import KubeClient
from ebbtide.sandbox.realgateway.backends import HoldLimits
from ebbtide.sandbox.realgateway.service import RealGateway, run
from ebbtide.sandbox.rotation import Dispatch


async def _main(kubeconfig: Path, host: str, port: int, gateway: RealGateway) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with KubeClient(kubeconfig) as client:
        await run(client, gateway, host=host, port=port, ended=ended)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kubeconfig", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), required=True, help="Port to listen on.")
@click.option(
    "--dispatch",
    type=click.Choice(get_args(Dispatch)),
    default="least-loaded",
    show_default=True,
    help="How an engine is picked; random is what kube-proxy does.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Draws between engines with equal load.")
@click.option("--hold", type=click.FloatRange(0), default=300.0, show_default=True, help="Seconds that one may wait.")
@click.option("--hold-limit", type=click.IntRange(0), default=1000, show_default=True, help="Requests held, by route.")
@click.option("--route", "routes", multiple=True, help="NAMESPACE/NAME whose gauges exist from the start (repeatable).")
def main(
    kubeconfig: Path,
    host: str,
    port: int,
    dispatch: Dispatch,
    seed: int,
    hold: float,
    hold_limit: int,
    routes: tuple[str, ...],
) -> None:
    """Forward /NAMESPACE/ROUTE/v1/... to the pods with the label sandbox.ebbtide.dev/route: ROUTE."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    gateway = RealGateway(dispatch, seed, HoldLimits(hold_limit, hold), routes)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(kubeconfig, host, port, gateway))


if __name__ == "__main__":
    main()
