"""`ebbtide batch`: queue and plan of batch Jobs, from the status of the BatchPolicies."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ebbtide.api import parse_batch_policy
from ebbtide.cli.batch_report import PLAIN_WIDTH, Listed, Shown, show
from ebbtide.cli.timeline import Spans
from ebbtide.clock import unix_time_s
from ebbtide.errors import ConfigurationError, EbbtideError, NotFoundError
from ebbtide.kube.client import KubeClient, resource_path
from ebbtide.money.calendar import zone_named
from ebbtide.money.windows import open_windows, window_faults
from ebbtide.record.status import API_VERSION, FIELD_MANAGER

_HOUR_S = 3600.0
_PAGE = "200"  # of 32 KiB each
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_NAMED = "is no name: write lower-case letters, digits and -"


@click.command(
    short_help="Which batch Jobs run, which wait, and until when.",
    epilog="""\b
Examples:
  ebbtide batch
  ebbtide batch -n search --policy nightly --hours 48
  ebbtide batch -o csv > queue.csv
  kubectl ebbtide batch --context prod --time-zone Europe/Berlin""",
)
@click.option("-n", "--namespace", help="Of this namespace. Unset: of all.")
@click.option("--policy", metavar="NAME", help="Of this BatchPolicy, as NAME or NAMESPACE/NAME. Unset: of all.")
@click.option(
    "--hours", type=click.IntRange(1, 192), default=24, show_default=True, help="How far the timeline goes, 1 to 192."
)
@click.option("--time-zone", default="UTC", show_default=True, help="Whose hours are shown, such as Europe/Berlin.")
@click.option("--plain", is_flag=True, help="Plain characters, without colours; the default without a terminal.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="This kubeconfig file. Default: KUBECONFIG.",
)
@click.option("--context", "kube_context", help="This context of the kubeconfig.")
def batch(
    namespace: str | None,
    policy: str | None,
    hours: int,
    time_zone: str,
    plain: bool,
    output: str,
    kubeconfig: Path | None,
    kube_context: str | None,
) -> None:
    """Queue and plan of batch Jobs, as the operator last wrote them: each Job with its reason, and a timeline.

    Of each BatchPolicy up to 50 Jobs are listed: those that hold GPUs, and those that start next. It needs no more than
    to list BatchPolicies.
    """
    zone = zone_named(time_zone)
    if zone is None:
        raise click.UsageError(f'--time-zone: "{time_zone}" is no time zone: write one such as Europe/Berlin or UTC')
    namespace, name = _asked(namespace, policy)
    now_s = unix_time_s()
    raws = asyncio.run(_policies(_client(kubeconfig, kube_context), namespace))
    end_s = now_s + hours * _HOUR_S
    found = sorted((_listed(raw, now_s, end_s) for raw in raws), key=lambda each: (each.namespace, each.name))
    if name:
        found = _named(found, name, namespace)
    where = f" in namespace {namespace}" if namespace else ""
    console = Console()
    if plain or not console.is_terminal:
        plain = True
        console = Console(color_system=None, width=console.width if console.is_terminal else PLAIN_WIDTH)
    plain = plain or not console.encoding.lower().startswith("utf")
    show(Shown(found, now_s, end_s, zone, f"There is no BatchPolicy{where}."), output, console, plain)


def _asked(namespace: str | None, policy: str | None) -> tuple[str, str]:
    """Namespace and name, empty where all are meant."""
    in_policy, slash, name = (policy or "").rpartition("/")
    if policy is not None and not _NAME.fullmatch(name):
        raise click.UsageError(f'--policy: "{policy}" {_NAMED}, or NAMESPACE/NAME')
    for option, text in (("--policy", in_policy if slash else None), ("--namespace", namespace)):
        if text is not None and not _NAMESPACE.fullmatch(text):
            raise click.UsageError(f'{option}: "{text}" {_NAMED}')
    if namespace and in_policy and namespace != in_policy:
        raise click.UsageError(f'--policy: "{policy}" is not in namespace "{namespace}": give one of them')
    return namespace or in_policy, name


def _client(kubeconfig: Path | None, context: str | None) -> KubeClient:
    try:
        return KubeClient(kubeconfig, context)
    except ConfigurationError as error:
        if kubeconfig is None and context is None:
            raise
        raise click.UsageError(str(error)) from error


async def _policies(client: KubeClient, namespace: str) -> list[Mapping[str, Any]]:
    path = resource_path(API_VERSION, "batchpolicies", namespace)
    found: list[Mapping[str, Any]] = []
    params = {"limit": _PAGE}
    async with client:
        while True:
            try:
                page = await client.get(path, **params)
            except NotFoundError as error:
                raise EbbtideError("this cluster has no kind BatchPolicy: apply Ebbtide's CRDs to it") from error
            found += page.get("items") or []
            following = page["metadata"].get("continue")
            if not following:
                return found
            params["continue"] = following


def _listed(raw: Mapping[str, Any], begin_s: float, end_s: float) -> Listed:
    meta = raw["metadata"]
    spans: Spans = ()
    try:
        spec = parse_batch_policy(raw)
        spans = open_windows(spec, begin_s, end_s)
        fault = "; ".join(text for _, text in window_faults(spec))
    except ConfigurationError as error:
        fault = str(error)
    return Listed(meta["namespace"], meta["name"], raw.get("status") or {}, _written_at(meta), spans, fault)


def _written_at(meta: Mapping[str, Any]) -> str:
    """When the operator last wrote the status; it writes what changed alone."""
    times = [each.get("time", "") for each in meta.get("managedFields") or () if each.get("manager") == FIELD_MANAGER]
    return max(times, default="")


def _named(found: Sequence[Listed], name: str, namespace: str) -> list[Listed]:
    chosen = [each for each in found if each.name == name]
    if not chosen:
        where = f' in namespace "{namespace}"' if namespace else ""
        there = ", ".join(each.key for each in found[:10]) or "none"
        more = f" and {len(found) - 10} more" if len(found) > 10 else ""
        raise click.UsageError(f'--policy: there is no BatchPolicy "{name}"{where}: there is {there}{more}')
    return chosen
