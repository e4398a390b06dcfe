"""The versions of everything the sandbox runs: the one place to change them.

After a change of a version run `python -m ebbtide.sandbox.modules`, which rewrites the pinned Go modules under
`controlplane/`. This module decides nothing and touches nothing; it is data.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ebbtide.errors import ConfigurationError

KUBERNETES = {"1.36": "1.36.3", "1.34": "1.34.4"}
DEFAULT_KUBERNETES_MINOR = "1.36"
ETCD = "3.7.3"
KWOK = "0.8.0"
PROMETHEUS = "3.15.0"
# Prometheus' Go module counts 3.15.0 as v0.315.0: its import path has no /v3
PROMETHEUS_MODULE = "0.315.0"


@dataclass(frozen=True)
class Binary:
    """One executable: the Go package it is built from and how long that took on 2 cores, in seconds."""

    name: str
    package: str
    build_s: int


@dataclass(frozen=True)
class Tool:
    """Binaries that share one release and one pinned Go module.

    `module` is the folder under `controlplane/`; `require` the Go module and version it pins.
    """

    name: str
    version: str
    module: str
    require: tuple[str, str]
    binaries: tuple[Binary, ...]
    stamps: Mapping[str, str]
    tags: str = ""

    @property
    def key(self) -> str:
        """Folder in the cache: `etcd-3.7.3`."""
        return f"{self.name}-{self.version}"


def kubernetes(minor: str) -> Tool:
    """The Kubernetes of a minor such as `1.36`; ConfigurationError for one that is not pinned."""
    if minor not in KUBERNETES:
        known = ", ".join(sorted(KUBERNETES))
        raise ConfigurationError(f"kubernetes minor {minor!r} is not pinned: choose one of {known}")
    version = KUBERNETES[minor]
    stamp = "k8s.io/component-base/version."
    major, small, _ = version.split(".")
    return Tool(
        name="kubernetes",
        version=version,
        module=f"kubernetes-{minor}",
        require=("k8s.io/kubernetes", f"v{version}"),
        binaries=(
            Binary("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", 217),
            Binary("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", 67),
            Binary("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", 5),
            Binary("kubectl", "k8s.io/kubernetes/cmd/kubectl", 21),
        ),
        # without the stamp clients are told v0.0.0-master
        stamps={stamp + "gitVersion": f"v{version}", stamp + "gitMajor": major, stamp + "gitMinor": small},
    )


def etcd() -> Tool:
    """The store behind the API server."""
    package = "go.etcd.io/etcd/server/v3"
    return Tool("etcd", ETCD, "etcd", (package, f"v{ETCD}"), (Binary("etcd", package, 42),), {})


def kwok() -> Tool:
    """The kubelets of the fake nodes."""
    package = "sigs.k8s.io/kwok"
    return Tool("kwok", KWOK, "kwok", (package, f"v{KWOK}"), (Binary("kwok", f"{package}/cmd/kwok", 59),), {})


def prometheus() -> Tool:
    """Prometheus with the Kubernetes discovery only, and promtool."""
    package = "github.com/prometheus/prometheus"
    return Tool(
        name="prometheus",
        version=PROMETHEUS,
        module="prometheus",
        require=(package, f"v{PROMETHEUS_MODULE}"),
        binaries=(
            Binary("prometheus", f"{package}/cmd/prometheus", 148),
            Binary("promtool", f"{package}/cmd/promtool", 6),
        ),
        stamps={"github.com/prometheus/common/version.Version": PROMETHEUS},
        tags="remove_all_sd,enable_kubernetes_sd,netgo",
    )


def tools(minor: str = DEFAULT_KUBERNETES_MINOR) -> tuple[Tool, ...]:
    """All tools of a sandbox with that Kubernetes minor, quickest build first."""
    return (etcd(), kwok(), prometheus(), kubernetes(minor))
