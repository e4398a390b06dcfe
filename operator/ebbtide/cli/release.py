"""`ebbtide release`: before Ebbtide is uninstalled, resume the batch Jobs that it holds."""

import asyncio
from collections import Counter
from pathlib import Path

import click

from ebbtide.controller.release import Fate, Release, release_jobs
from ebbtide.controller.retire import stop_operator
from ebbtide.errors import EbbtideError
from ebbtide.kube.client import KubeClient


@click.command(short_help="Resume the batch Jobs that Ebbtide holds, before it is uninstalled.")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="This kubeconfig file. Default: KUBECONFIG.")
@click.option("--context", help="This context of the kubeconfig.")
@click.option("--operator", metavar="NAMESPACE/NAME", help="Scale this Deployment, the operator's, to zero first.")
@click.option("--dry-run", is_flag=True, help="Say what would be resumed, and change nothing.")
def release(kubeconfig: Path | None, context: str | None, operator: str | None, dry_run: bool) -> None:
    """Resume the batch Jobs of all namespaces that Ebbtide holds: those that wait for their hour, and those it stopped.

    A Job that its user suspended stays so. May be run again at any time. Stop the operator first (--operator does), or
    it holds new Jobs and may stop again what was resumed.

    Ends with 1 when a Job could not be resumed.
    """
    if operator is not None and operator.count("/") != 1:
        raise click.BadParameter(f"{operator!r} is not NAMESPACE/NAME of a Deployment", param_hint="--operator")
    done = asyncio.run(_release(kubeconfig, context, operator, dry_run))
    counts = Counter(item.fate for item in done)
    parts = [f"{counts[fate]} {fate.value}" for fate in Fate if counts[fate]]
    click.echo(f"{', '.join(parts)}." if parts else "Ebbtide holds no Job.")
    if counts[Fate.FAILED]:
        raise EbbtideError(f"{counts[Fate.FAILED]} of {len(done)} Jobs could not be resumed: run it again")


async def _release(kubeconfig: Path | None, context: str | None, operator: str | None, dry_run: bool) -> list[Release]:
    def say(item: Release) -> None:
        click.echo(f"{item.fate.value} {item.key}: {item.why}")

    async with KubeClient(kubeconfig, context) as client:
        if operator is not None and not dry_run:
            there = await stop_operator(client, operator)
            click.echo(f"{operator}: {'has no pods any more' if there else 'is not there'}")
        return await release_jobs(client, dry_run=dry_run, say=say)
