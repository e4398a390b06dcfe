"""The command lines of etcd, the Kubernetes components, KWOK, Prometheus, emulator and process node.

It also knows when each is ready. Knows flags and files, not lifecycles: `sandbox.py` decides what is started when.
"""

import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from ebbtide.sandbox import prometheus
from ebbtide.sandbox.addresses import Claim
from ebbtide.sandbox.certs import Authority, Pair, kubeconfig, write_private
from ebbtide.sandbox.rotation import Dispatch

ETCD, APISERVER, SCHEDULER = "etcd", "kube-apiserver", "kube-scheduler"
CONTROLLER_MANAGER, KWOK, PROMETHEUS = "kube-controller-manager", "kwok", "prometheus"
EMULATOR, PROCESS_NODE = "emulator", "process-node"  # ours, and only where they are asked for
COMPONENTS = (ETCD, APISERVER, CONTROLLER_MANAGER, SCHEDULER, KWOK, PROMETHEUS)

_DATA = Path(__file__).with_name("data")
# Cloud and volume controllers have nothing to do here; the two last would empty fake nodes whose kubelet they miss
_DISABLED = (
    "node-ipam-controller",
    "node-route-controller",
    "service-lb-controller",
    "cloud-node-lifecycle-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-expander-controller",
    "bootstrap-signer-controller",
    "token-cleaner-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
)


@dataclass(frozen=True)
class Ports:
    """One loopback port each."""

    etcd: int
    etcd_peer: int
    apiserver: int
    controller_manager: int
    scheduler: int
    prometheus: int
    gateway: int


@dataclass(frozen=True)
class Layout:
    """Where the parts of one sandbox live: its directory, addresses, keys and kubeconfigs by user."""

    directory: Path
    claim: Claim
    ports: Ports
    authority: Authority
    serving: Pair
    tokens: Pair
    kubeconfigs: Mapping[str, Path]

    @property
    def apiserver_url(self) -> str:
        """`https://127.0.0.1:PORT`."""
        return f"https://127.0.0.1:{self.ports.apiserver}"

    @property
    def prometheus_url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.ports.prometheus}"

    @property
    def gateway_url(self) -> str:
        """`http://127.0.0.1:PORT`, of the emulator where there is one."""
        return f"http://127.0.0.1:{self.ports.gateway}"

    @property
    def audit_log(self) -> Path:
        """One JSON event per write."""
        return self.directory / "logs" / "audit.log"


# short name -> (user, group); system:masters may do everything
_USERS = {
    "admin": ("ebbtide-sandbox-admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kwok": ("ebbtide-sandbox-kwok", "system:masters"),
    "autoscaler": ("ebbtide-sandbox-autoscaler", "system:masters"),
    "prometheus": ("ebbtide-sandbox-prometheus", ""),
    "emulator": ("ebbtide-sandbox-emulator", ""),
    "real-gateway": ("ebbtide-sandbox-real-gateway", ""),
    "process-node": ("ebbtide-sandbox-process-node", ""),
}


def lay_out(directory: Path, claim: Claim) -> Layout:
    """Make keys, certificates and kubeconfigs for a fresh control plane in `directory`."""
    ports = Ports(*claim.ports(7))
    authority = Authority(directory / "pki")
    hosts = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    serving = authority.server("kube-apiserver", hosts, ["127.0.0.1", "10.0.0.1"])
    url = f"https://127.0.0.1:{ports.apiserver}"
    kubeconfigs = {}
    for name, (user, group) in _USERS.items():
        text = kubeconfig(url, authority.pair.certificate, client=authority.client(name, user, group))
        kubeconfigs[name] = write_private(directory / f"{name}.kubeconfig", text)
    tokens = authority.signing_key("service-accounts")
    return Layout(directory, claim, ports, authority, serving, tokens, kubeconfigs)


def etcd(layout: Layout) -> list[str]:
    """Flags of etcd: nothing survives the sandbox, so nothing is synced to disk."""
    client = f"http://127.0.0.1:{layout.ports.etcd}"
    peer = f"http://127.0.0.1:{layout.ports.etcd_peer}"
    return [
        f"--data-dir={layout.directory / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
    ]


def apiserver(layout: Layout) -> list[str]:
    """Flags of kube-apiserver. The ServiceAccount plugin is off: fake pods need no account and no token volume."""
    return [
        f"--etcd-servers=http://127.0.0.1:{layout.ports.etcd}",
        f"--tls-cert-file={layout.serving.certificate}",
        f"--tls-private-key-file={layout.serving.key}",
        "--bind-address=127.0.0.1",
        f"--secure-port={layout.ports.apiserver}",
        f"--client-ca-file={layout.authority.pair.certificate}",
        f"--service-account-issuer={layout.apiserver_url}",
        f"--service-account-key-file={layout.tokens.certificate}",
        f"--service-account-signing-key-file={layout.tokens.key}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--allow-privileged=true",
        "--disable-admission-plugins=ServiceAccount",
        "--endpoint-reconciler-type=none",
        f"--audit-policy-file={_DATA / 'audit-policy.yaml'}",
        f"--audit-log-path={layout.audit_log}",
    ]


def controller_manager(layout: Layout) -> list[str]:
    """Flags of kube-controller-manager, without what has no counterpart here."""
    config = layout.kubeconfigs["controller-manager"]
    return [
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--authentication-skip-lookup=true",
        f"--service-account-private-key-file={layout.tokens.key}",
        f"--root-ca-file={layout.authority.pair.certificate}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={layout.ports.controller_manager}",
        f"--cert-dir={layout.directory / 'pki' / 'controller-manager'}",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        f"--controllers=*,{','.join('-' + name for name in _DISABLED)}",
    ]


def scheduler(layout: Layout) -> list[str]:
    """Flags of kube-scheduler; writes its configuration file."""
    config = layout.kubeconfigs["scheduler"]
    document = yaml.safe_load((_DATA / "scheduler.yaml").read_text())
    document["clientConnection"]["kubeconfig"] = str(config)
    path = layout.directory / "scheduler.yaml"
    path.write_text(yaml.safe_dump(document))
    return [
        f"--config={path}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--authentication-skip-lookup=true",
        "--bind-address=127.0.0.1",
        f"--secure-port={layout.ports.scheduler}",
        f"--cert-dir={layout.directory / 'pki' / 'scheduler'}",
    ]


def kwok(layout: Layout) -> list[str]:
    """Flags of KWOK: it plays the kubelet of every node annotated `kwok.x-k8s.io/node: fake`."""
    return [
        f"--kubeconfig={layout.kubeconfigs['kwok']}",
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        f"--cidr={layout.claim.cidr}",
        f"--node-ip={layout.claim.prefix}.255.254",  # pods get .0.1, .0.2, ...,
        "--node-lease-duration-seconds=40",
        f"--config={_DATA / 'stages.yaml'}",
    ]


def prometheus_server(layout: Layout, scrape_interval_s: float) -> list[str]:
    """Flags of Prometheus; writes its configuration file."""
    path = prometheus_config(layout)
    prometheus.write_config(path, layout.kubeconfigs["prometheus"], scrape_interval_s)
    return [
        f"--config.file={path}",
        f"--storage.tsdb.path={layout.directory / 'prometheus'}",
        "--storage.tsdb.retention.time=1d",
        f"--web.listen-address=127.0.0.1:{layout.ports.prometheus}",
        "--web.enable-lifecycle",
    ]


def emulator(layout: Layout, seed: int, dispatch: Dispatch) -> list[str]:
    """Arguments of Python for the emulator: it plays every engine pod, and the gateway before them."""
    config = layout.kubeconfigs["emulator"]
    flags = [f"--kubeconfig={config}", f"--port={layout.ports.gateway}", f"--seed={seed}", f"--dispatch={dispatch}"]
    return ["-m", "ebbtide.sandbox.emulator", *flags]


def process_node(layout: Layout, slots: int) -> list[str]:
    """Arguments of Python for the agent of the node whose pods are processes of this machine."""
    flags = [f"--kubeconfig={layout.kubeconfigs['process-node']}", f"--directory={layout.directory}"]
    flags += [f"--prefix={layout.claim.prefix}", f"--slots={slots}"]
    return ["-m", "ebbtide.sandbox.processnode", *flags]


def prometheus_config(layout: Layout) -> Path:
    """Where Prometheus reads its configuration."""
    return layout.directory / "prometheus.yml"


def sandbox_rbac() -> Path:
    """The roles of the sandbox's own accounts."""
    return _DATA / "rbac.yaml"


def healthy(layout: Layout, component: str) -> bool:
    """Whether that component answers its own readiness question now (one that has none: true)."""
    urls = {
        ETCD: f"http://127.0.0.1:{layout.ports.etcd}/health",
        APISERVER: f"{layout.apiserver_url}/readyz",
        CONTROLLER_MANAGER: f"https://127.0.0.1:{layout.ports.controller_manager}/healthz",
        SCHEDULER: f"https://127.0.0.1:{layout.ports.scheduler}/healthz",
        PROMETHEUS: f"{layout.prometheus_url}/-/ready",
        EMULATOR: f"{layout.gateway_url}/healthz",
    }
    return component not in urls or _answers(urls[component])


def _answers(url: str) -> bool:
    # controller manager and scheduler sign their own certificates; health carries no secret
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )  # loopback is never reached through a proxy
    try:
        with direct.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False
