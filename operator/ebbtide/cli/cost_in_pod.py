"""`kubectl ebbtide cost` where no ledger is at hand: the same command is run in the pod of the operator that leads.

By default the ledger is an SQLite file on the operator's volume, which nothing outside its pod can read. So kubectl,
with whatever credentials it has, runs `ebbtide cost` there: a second process that only reads, which SQLite allows
beside the one that writes. It needs to get the Lease, to list pods and to create pods/exec in the operator's namespace.
The last is as much as to act with all rights of the operator: where that is too much to give, keep the ledger on
PostgreSQL and read it by its URL.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click
from click.core import ParameterSource

from ebbtide.cli.cost_report import whole_file
from ebbtide.errors import ConfigurationError
from ebbtide.ledger.store import FILE

LABEL, NAME = "app.kubernetes.io/name", "ebbtide"  # of the operator's pods, as manifests/operator.yaml has it
_CONTAINER = "operator"
_HOST_NAME = 63  # letters of a pod's name that its host name has
_TIMEOUT = "--request-timeout=30s"  # of a question; a report takes as long as it takes
_RIGHTS = (
    'It needs to get leases, list pods and create pods/exec in namespace "{namespace}". Ask for these, or name a '
    "ledger that can be read from here with --ledger"
)


@dataclass(frozen=True)
class Cluster:
    """Which one, as kubectl's options say it (None: as kubectl decides), and the operator's namespace and Lease."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str = "ebbtide-system"
    lease: str = NAME

    def command(self, *arguments: str) -> list[str]:
        """kubectl's command line in that namespace."""
        program = shutil.which("kubectl")
        if program is None:
            raise ConfigurationError(
                "kubectl is not on PATH: the operator's ledger is asked for with it. Install it, or name a ledger that "
                "can be read from here with --ledger"
            )
        verb, *rest = arguments
        options = {"kubeconfig": self.kubeconfig, "context": self.context, "namespace": self.namespace}
        return [program, verb, *(f"--{name}={value}" for name, value in options.items() if value), *rest]


Command = TypeVar("Command", bound=Callable[..., Any])


def options(command: Command) -> Command:
    """Those by which a command is told whose operator to ask."""
    for option in (
        click.option("--lease-name", help="The operator's Lease there. Unset: ebbtide."),
        click.option("-n", "--namespace", help="The operator's namespace there. Unset: ebbtide-system."),
        click.option("--context", "kube_context", help="Ask the operator of the cluster of this kubectl context."),
        click.option("--kubeconfig", help="Ask the operator of the cluster of this kubeconfig file."),
    ):
        command = option(command)
    return command


def cluster(context: click.Context, given: Mapping[str, str | None], *, at_hand: bool) -> Cluster | None:
    """Whose operator is asked: nobody's (None) where a ledger is `at_hand`, unless a cluster was `given`.

    Where neither is, kubectl's plugin asks the current one; `ebbtide` itself reaches for a cluster only when told to.
    """
    named = {name: value for name, value in given.items() if value}
    if named and context.get_parameter_source("ledger") is ParameterSource.COMMANDLINE:
        flag = next(_flag(option) for option in context.command.params if option.name in named)
        raise click.UsageError(f"--ledger and {flag}: one of them is allowed")
    plugin = str(context.find_root().info_name).startswith("kubectl")
    if not named and (at_hand or not plugin):
        return None
    default = Cluster()
    return Cluster(
        named.get("kubeconfig"),
        named.get("kube_context"),
        named.get("namespace", default.namespace),
        named.get("lease_name", default.lease),
    )


def arguments(context: click.Context, leave_out: Collection[str]) -> list[str]:
    """The command's own arguments as they were given, in the order of its options, without those named.

    FOCUS rows are printed there, whatever file they go to here.
    """
    found = []
    for option in context.command.params:
        name = option.name or ""
        if name in leave_out or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = "-" if name == "focus_to" else context.params[name]
        alone = isinstance(option, click.Option) and option.is_flag
        found.append(_flag(option) if alone else f"{_flag(option)}={value}")
    return found


def run(cluster: Cluster, asked: Sequence[str], focus_to: str | None = None) -> int:
    """`ebbtide cost` with these arguments in the leader's pod; its exit code. What it prints goes where ours does.

    `focus_to`: the file, or -, for FOCUS rows, which the pod prints: it has no place to keep them. Raises
    ConfigurationError where there is no such pod or no right to it.
    """
    pod = _leader(cluster)
    name, container = str(pod["metadata"]["name"]), _container(pod)
    at = [name, *([f"--container={container['name']}"] if container.get("name") else []), "--"]
    command = cluster.command("exec", *at, *_program(container), "cost", *_ledger(container), *asked)
    where = f" of context {cluster.context}" if cluster.context else ""
    click.echo(f"From the ledger of pod {cluster.namespace}/{name}{where}.", err=True)
    if focus_to is None or focus_to == "-":
        return _streamed(cluster, command, None)
    try:
        with whole_file(focus_to) as target:
            code = _streamed(cluster, command, target)
            if code:
                raise _NoFileError
    except _NoFileError:
        pass
    return code


class _NoFileError(Exception):
    """What was printed is not all of it: no file to keep."""


def _flag(option: click.Parameter) -> str:
    return max(option.opts, key=len)


def _streamed(cluster: Cluster, command: Sequence[str], target: TextIO | None) -> int:
    sys.stdout.flush()
    refused = ""
    with subprocess.Popen(
        command, stdout=None if target is None else target.fileno(), stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        for line in process.stderr or ():
            if "(Forbidden)" in line:
                refused = line.strip()
            elif not line.startswith("command terminated with exit code"):
                click.echo(line, err=True, nl=False)
        code = process.wait()
    if refused:
        raise ConfigurationError(f"{refused}\n{_RIGHTS.format(namespace=cluster.namespace)}")
    return code


def _leader(cluster: Cluster) -> Mapping[str, Any]:
    """The pod that holds the Lease; where none does, the only one of the operator's that runs."""
    lease = _get(cluster, "lease", cluster.lease, "--ignore-not-found")
    holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
    running: list[dict[str, Any]] = [pod for pod in _get(cluster, "pods").get("items", ()) if _runs(pod)]
    host = holder.rpartition("_")[0] or holder  # the rest tells one process of a pod from the one before
    held = [pod for pod in running if host and host in _hosts(pod)]
    ours = [pod for pod in running if (pod["metadata"].get("labels") or {}).get(LABEL) == NAME]
    if len(held) == 1:
        return held[0]
    if len(ours) == 1:
        return ours[0]
    leads = f'"{holder}" holds Lease "{cluster.lease}"' if holder else f'Nobody holds Lease "{cluster.lease}"'
    if not ours:
        raise ConfigurationError(
            f'no pod of the operator runs in namespace "{cluster.namespace}" (label {LABEL}={NAME}). {leads}. Name its '
            "namespace with --namespace and its Lease with --lease-name, or its ledger with --ledger"
        )
    names = ", ".join(sorted(str(pod["metadata"]["name"]) for pod in ours))
    raise ConfigurationError(
        f'which pod in namespace "{cluster.namespace}" leads is not known. {leads}, and {names} run. Ask again in a '
        "few seconds, or name the ledger with --ledger"
    )


def _hosts(pod: Mapping[str, Any]) -> tuple[str, ...]:
    """Host names that a process in it may have."""
    spec = pod["spec"]
    if spec.get("hostNetwork"):
        return (str(spec.get("nodeName", "")),)
    return (str(spec.get("hostname") or pod["metadata"]["name"])[:_HOST_NAME].rstrip("-."),)


def _runs(pod: Mapping[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")


def _get(cluster: Cluster, *what: str) -> dict[str, Any]:
    """An object or a list as kubectl answers it; empty: there is none."""
    command = cluster.command("get", *what, "--output=json", _TIMEOUT)
    found = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if found.returncode:
        said = next((line for line in reversed(found.stderr.splitlines()) if line.strip()), "it said nothing")
        advice = (
            _RIGHTS.format(namespace=cluster.namespace)
            if "(Forbidden)" in found.stderr
            else "Name another cluster with --context or --kubeconfig, or a ledger with --ledger"
        )
        raise ConfigurationError(f"kubectl get {what[0]}: {said.strip()}\n{advice}")
    try:
        answer = json.loads(found.stdout or "{}")
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"kubectl get {what[0]}: its answer is no JSON: {error}") from error
    return answer if isinstance(answer, dict) else {}


def _container(pod: Mapping[str, Any]) -> dict[str, Any]:
    containers: list[dict[str, Any]] = pod["spec"]["containers"]
    return next((each for each in containers if each.get("name") == _CONTAINER), containers[0])


def _words(container: Mapping[str, Any]) -> list[str]:
    return [str(word) for key in ("command", "args") for word in container.get(key) or ()]


def _program(container: Mapping[str, Any]) -> list[str]:
    """What comes before `operator` in the container's own command line; else the program of the image."""
    words = _words(container)
    return words[: words.index("operator")] or [NAME] if "operator" in words else [NAME]


def _ledger(container: Mapping[str, Any]) -> list[str]:
    """--ledger as the operator's own flags have it; what is in the pod's environment is there for any process."""
    words = _words(container)
    given = {}
    for word, after in zip(words, [*words[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        if flag in ("--ledger", "--data-dir"):
            given[flag] = value if equals else after
    if "--ledger" in given:
        return [f"--ledger={_filled_in('--ledger', given['--ledger'], container)}"]
    if "--data-dir" in given:
        return [f"--ledger={Path(_filled_in('--data-dir', given['--data-dir'], container)) / FILE}"]
    return []


def _filled_in(flag: str, value: str, container: Mapping[str, Any]) -> str:
    """With $(NAME) as the kubelet fills it in; what comes from a Secret or a field of the pod is not known here."""
    known = {each["name"]: each["value"] for each in container.get("env") or () if "value" in each}
    text = re.sub(r"\$\(([^()]+)\)", lambda found: str(known.get(found[1], found[0])), value)
    if "$(" in text:
        raise ConfigurationError(
            f"the operator's flag {flag}={value} is filled in by its pod, and not known here. Set EBBTIDE_LEDGER "
            "in its environment, not the flag, or name the ledger with --ledger"
        )
    return text
