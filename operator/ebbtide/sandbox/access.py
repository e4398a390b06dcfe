"""The way into a running sandbox, also from another process: its own kubectl, as admin, and kubeconfigs of accounts.

It must never give an account more rights than the manifests that are applied say.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ebbtide.clock import monotonic_s
from ebbtide.errors import SandboxError
from ebbtide.sandbox.calls import run_program
from ebbtide.sandbox.certs import kubeconfig, write_private
from ebbtide.sandbox.manifests import documents, is_definition
from ebbtide.sandbox.resources import manifest
from ebbtide.sandbox.state import State

OPERATOR_NAMESPACE, OPERATOR_ACCOUNT = "ebbtide-system", "ebbtide"
_TOKEN_LIFE = "720h"
_SERVED_TIMEOUT_S = 30
_POLL_S = 0.2


@dataclass(frozen=True)
class Access:
    """Where the parts are: the sandbox's directory, API server and CA certificate, its kubectl, the admin's file."""

    directory: Path
    apiserver_url: str
    authority: Path
    kubectl_path: Path
    admin_kubeconfig: Path

    @classmethod
    def of(cls, state: State) -> "Access":
        """Into a sandbox that another process holds."""
        admin = Path(state.kubeconfig)
        directory = admin.parent
        return cls(directory, state.apiserver_url, directory / "pki" / "ca.crt", Path(state.kubectl), admin)

    def command(self, *arguments: str) -> list[str]:
        """The command line of kubectl as admin."""
        flags = [f"--kubeconfig={self.admin_kubeconfig}", f"--cache-dir={self.directory / 'kubectl-cache'}"]
        return [str(self.kubectl_path), *flags, *arguments]

    def kubectl(self, *arguments: str, stdin: str = "", timeout_s: float = 60.0) -> str:
        """Run kubectl as admin and answer its output; SandboxError with its own words when it fails."""
        return run_program("kubectl", self.command(*arguments), stdin, timeout_s)

    def apply(self, what: Path | Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Apply a YAML file, a folder of them, or objects; waits until definitions among them are served."""
        objects = documents(what)
        text = yaml.safe_dump_all(objects, sort_keys=False)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
        definitions = [str(item["metadata"]["name"]) for item in objects if is_definition(item)]
        if definitions:
            self._until_served(definitions)

    def account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig that acts as a ServiceAccount, by a token from the TokenRequest API. The account must exist."""
        token = self.kubectl("create", "token", name, "-n", namespace, f"--duration={_TOKEN_LIFE}").strip()
        text = kubeconfig(self.apiserver_url, self.authority, token=token)
        return write_private(self.directory / f"{namespace}.{name}.kubeconfig", text)

    def _until_served(self, definitions: list[str]) -> None:
        deadline_s = monotonic_s() + _SERVED_TIMEOUT_S
        while True:
            try:
                self.kubectl(
                    "wait", "--for=condition=Established", f"--timeout={_SERVED_TIMEOUT_S}s", "crd", *definitions
                )
            except SandboxError:
                # `kubectl wait` gives up on a definition so young that it has no conditions at all
                if monotonic_s() > deadline_s:
                    raise
                time.sleep(_POLL_S)
            else:
                return

    def operator_kubeconfig(self) -> Path:
        """A kubeconfig of the operator's account; applies `manifests/rbac.yaml` where that account does not exist.

        An account that exists keeps the rights that it has, such as those of `rbac-recommend-only.yaml`.
        """
        where = ("-n", OPERATOR_NAMESPACE)
        if not self.kubectl("get", "serviceaccount", OPERATOR_ACCOUNT, *where, "--ignore-not-found", "-o", "name"):
            self.apply(manifest("rbac.yaml"))
        return self.account_kubeconfig(OPERATOR_NAMESPACE, OPERATOR_ACCOUNT)
