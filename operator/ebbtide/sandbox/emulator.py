"""`python -m ebbtide.sandbox.emulator`: the process that plays engines and gateway of a sandbox.

Real time drives what the simulator drives in virtual time: every 50 ms the gateway and all engines run up to now.
Ends on SIGTERM or Ctrl-C.
"""

import asyncio
import contextlib
import logging
import signal
from pathlib import Path
from typing import get_args

import click
from aiohttp import web

from ebbtide import clock
from ebbtide.kube.client import KubeClient
from ebbtide.sandbox.calls import run_until
from ebbtide.sandbox.enginepods import EnginePods
from ebbtide.sandbox.gateway import Gateway
from ebbtide.sandbox.gateway_api import GatewayApi
from ebbtide.sandbox.rotation import Dispatch

TICK_S = 0.05

log = logging.getLogger(__name__)


async def run(
    client: KubeClient,
    *,
    host: str,
    port: int,
    seed: int,
    dispatch: Dispatch,
    ended: asyncio.Event,
    engine_port: int = 8000,
) -> None:
    """Play until `ended` is set; the gateway's control port is `host:port`. OSError where the port is taken."""
    gateway = Gateway(dispatch, seed)
    pods = EnginePods(client, gateway, clock.monotonic_s, seed, engine_port)
    api = GatewayApi(gateway, clock.monotonic_s, pods.problems)
    runner = web.AppRunner(api.application(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        log.info("gateway on http://%s:%d, dispatch %s", host, port, dispatch)
        await run_until(ended, *map(asyncio.create_task, (pods.follow(), pods.end_drained(), _tick(gateway))))
    finally:
        await runner.cleanup()
        await pods.close()


async def _tick(gateway: Gateway) -> None:
    while True:
        gateway.advance(clock.monotonic_s())
        await asyncio.sleep(TICK_S)


async def _main(kubeconfig: Path, host: str, port: int, seed: int, dispatch: Dispatch) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with KubeClient(kubeconfig) as client:
        await run(client, host=host, port=port, seed=seed, dispatch=dispatch, ended=ended)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kubeconfig", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the gateway's control port.")
@click.option("--port", type=click.IntRange(1, 65535), required=True, help="The gateway's control port.")
@click.option("--seed", type=int, default=1, show_default=True, help="Draws coefficients and jitter of the engines.")
@click.option(
    "--dispatch",
    type=click.Choice(get_args(Dispatch)),
    default="least-loaded",
    show_default=True,
    help="How the gateway picks an engine; random is what kube-proxy does.",
)
def main(kubeconfig: Path, host: str, port: int, seed: int, dispatch: Dispatch) -> None:
    """Play every engine pod of a sandbox, and the gateway before them."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(kubeconfig, host, port, seed, dispatch))


if __name__ == "__main__":
    main()
