"""A control plane in a box: start, use, hurt and end it.

`with Sandbox.start(SandboxConfig()) as sandbox:` gives a real Kubernetes API with fake GPU nodes and a Prometheus that
scrapes its pods. Everything is in one directory; logs stay there, data is thrown away at the next start. It must never
touch anything outside that directory and its own slice of loopback.
"""

import json
import os
import shutil
import signal
import sys
import urllib.request
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ebbtide.clock import monotonic_s, unix_time_s
from ebbtide.errors import ConfigurationError
from ebbtide.kube.client import KubeClient
from ebbtide.sandbox import addresses, controlplane, nodes, prometheus, state
from ebbtide.sandbox.access import Access
from ebbtide.sandbox.autoscaler import AutoscalerSettings
from ebbtide.sandbox.autoscaler import arguments as autoscaler_arguments
from ebbtide.sandbox.binaries import BinarySettings, resolve
from ebbtide.sandbox.calls import run_aside
from ebbtide.sandbox.download import Progress
from ebbtide.sandbox.processes import Processes
from ebbtide.sandbox.rotation import Dispatch
from ebbtide.sandbox.state import autoscaler_process
from ebbtide.sandbox.versions import DEFAULT_KUBERNETES_MINOR

MAX_PROCESS_NODE_SLOTS = 64

_DATA_FOLDERS = ("etcd", "prometheus", "pki", "logs", "kubectl-cache", "pods")
_READY_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class SandboxConfig:
    """What a sandbox is made of. `directory` unset: `$XDG_STATE_HOME/ebbtide/sandbox/NAME`.

    `manifests` (files, folders or objects) are applied in order before the sandbox counts as ready.
    `scrape_interval_s` is in seconds, from 0.5 to 300. `autoscaler` holds for each autoscaled pool (which brings its
    own `min_nodes` and `max_nodes`); None leaves these pools at their starting size. `process_node_slots` is how many
    engines fit on the node whose pods are processes of this machine; 0: there is no such node. `emulator_seed` starts
    the emulator, which plays engine pods and a gateway; None leaves both out: GPU pods run and serve nothing.
    `emulator_dispatch` is how that gateway picks a pod: the one with the fewest requests, or any, as kube-proxy does.
    """

    name: str = "default"
    directory: Path | None = None
    kubernetes: str = DEFAULT_KUBERNETES_MINOR
    pools: tuple[nodes.NodePool, ...] = nodes.DEFAULT_POOLS
    manifests: tuple[Path | Mapping[str, Any], ...] = ()
    scrape_interval_s: float = 5.0
    autoscaler: AutoscalerSettings | None = field(default_factory=AutoscalerSettings)
    process_node_slots: int = 0
    emulator_seed: int | None = None
    emulator_dispatch: Dispatch = "least-loaded"
    binaries: BinarySettings | None = None
    progress: Progress = field(default=print, repr=False)

    def __post_init__(self) -> None:
        if not 0.5 <= self.scrape_interval_s <= 300:
            raise ConfigurationError(f"scrape_interval_s is {self.scrape_interval_s}: allowed are 0.5 to 300 seconds")
        if not 0 <= self.process_node_slots <= MAX_PROCESS_NODE_SLOTS:
            raise ConfigurationError(
                f"process_node_slots is {self.process_node_slots}: allowed are 0 (no process node) to "
                f"{MAX_PROCESS_NODE_SLOTS}"
            )
        state.check_name(self.name)


class Sandbox:
    """A running control plane. Made by `Sandbox.start`; a context manager that ends it."""

    def __init__(self, config: SandboxConfig, directory: Path, found: Mapping[str, Path], undo: ExitStack) -> None:
        self._config = config
        self._binaries = found
        self._scrape: list[prometheus.ScrapeTarget] = []
        self._started_s = unix_time_s()
        for folder in _DATA_FOLDERS:
            shutil.rmtree(directory / folder, ignore_errors=True)
        for left_over in ("autoscaler-*.fail", "autoscaler-*.json", state.process_node_file(directory).name):
            for path in directory.glob(left_over):
                path.unlink()
        self._held = undo
        self._claim = undo.enter_context(closing(addresses.claim()))
        self.directory = directory
        self.layout = controlplane.lay_out(directory, self._claim)
        self.processes = Processes(directory / "logs")
        authority = self.layout.authority.pair.certificate
        self._access = Access(directory, self.apiserver_url, authority, self.kubectl_path, self.admin_kubeconfig)

    @classmethod
    def start(cls, config: SandboxConfig | None = None) -> "Sandbox":
        """Find the binaries, start everything, wait until it is ready. SandboxError names the log to read."""
        config = config or SandboxConfig()
        directory = (config.directory or state.default_directory(config.name)).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undo:  # what is taken here is given back if a later step fails
            undo.enter_context(state.lock(directory))
            found = resolve(config.kubernetes, config.binaries, config.progress)
            sandbox = cls(config, directory, found, undo)
            undo.callback(sandbox._end_processes)
            sandbox._bring_up()
            sandbox._held = undo.pop_all()
        return sandbox

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End all processes and give the directory and addresses back; safe to call twice."""
        self._held.close()

    def _end_processes(self) -> None:
        state.clear(self.directory)
        for name in self.processes.pids():
            if name not in controlplane.COMPONENTS:
                self.processes.stop(name)
        # an API server with open watches takes a minute over SIGTERM, and nothing here needs that minute
        self.processes.stop_all(grace_s=0.5)

    @property
    def apiserver_url(self) -> str:
        """`https://127.0.0.1:PORT`."""
        return self.layout.apiserver_url

    @property
    def prometheus_url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return self.layout.prometheus_url

    @property
    def gateway_url(self) -> str:
        """`http://127.0.0.1:PORT` of the emulator; empty where the sandbox was told to start none."""
        return "" if self._config.emulator_seed is None else self.layout.gateway_url

    @property
    def audit_log(self) -> Path:
        """Every write to the API server; read it with `audit.audit_writes`."""
        return self.layout.audit_log

    @property
    def loopback_prefix(self) -> str:
        """`127.X`: pod IPs of this sandbox are in 127.X.0.0/16."""
        return self._claim.prefix

    @property
    def admin_kubeconfig(self) -> Path:
        """May do everything."""
        return self.layout.kubeconfigs["admin"]

    @property
    def emulator_kubeconfig(self) -> Path:
        """May read pods and nodes, and remove pods as a kubelet does when their containers have ended; nothing else."""
        return self.layout.kubeconfigs["emulator"]

    @property
    def kubectl_path(self) -> Path:
        """The kubectl of this control plane's version."""
        return self._binaries["kubectl"]

    def operator_kubeconfig(self, namespace: str = "ebbtide-system", name: str = "ebbtide") -> Path:
        """A kubeconfig that acts as a ServiceAccount, by a token from the TokenRequest API. The account must exist."""
        return self._access.account_kubeconfig(namespace, name)

    def kubectl(self, *arguments: str, stdin: str = "", timeout_s: float = 60.0) -> str:
        """Run kubectl as admin and answer its output; SandboxError with its own words when it fails."""
        return self._access.kubectl(*arguments, stdin=stdin, timeout_s=timeout_s)

    def apply(self, what: Path | Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Apply a YAML file, a folder of them, or objects; waits until definitions among them are served."""
        self._access.apply(what)

    def spawn(
        self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> int:
        """Start a process of your own beside the control plane, ended with it; its log is `logs/NAME.log`."""
        pid = self.processes.spawn(name, argv, env, cwd)
        self._remember()
        return pid

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process by name, `kube-apiserver` or one that was spawned."""
        self.processes.signal(name, number)

    def suspend(self, name: str) -> None:
        """SIGSTOP: the process hangs."""
        self.processes.signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT: it goes on."""
        self.processes.signal(name, signal.SIGCONT)

    def restart(self, name: str) -> None:
        """SIGKILL where it runs, then start it again with the same command and wait until it is ready."""
        self.processes.restart(name)
        self._wait_ready(name)
        self._remember()

    def scrape(self, *targets: prometheus.ScrapeTarget) -> None:
        """Let Prometheus scrape programs outside the cluster too (gateway, operator), from now on."""
        self._scrape.extend(targets)
        path = controlplane.prometheus_config(self.layout)
        reader = self.layout.kubeconfigs["prometheus"]
        prometheus.write_config(path, reader, self._config.scrape_interval_s, self._scrape)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(urllib.request.Request(f"{self.prometheus_url}/-/reload", method="POST"), timeout=10):
            pass

    def fail_autoscaler(self, pool_name: str, failing: bool = True) -> None:
        """From now on nodes of that pool do not come (or come again)."""
        state.fail_nodes(self.directory, pool_name, failing)

    def autoscaler_state(self, pool_name: str) -> dict[str, Any]:
        """What that pool's autoscaler wrote last: nodes, launching, failing, failures, last_error; {} before."""
        try:
            shown: dict[str, Any] = json.loads(state.autoscaler_file(self.directory, pool_name).read_text())
        except FileNotFoundError:
            return {}
        return shown

    def call(self, work: Callable[[KubeClient], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine with an admin client to its end, also from inside a running event loop."""
        return run_aside(self._with_admin(work))

    async def _with_admin(self, work: Callable[[KubeClient], Coroutine[Any, Any, Any]]) -> Any:
        async with KubeClient(self.admin_kubeconfig) as client:
            return await work(client)

    def _bring_up(self) -> None:
        began_s = monotonic_s()
        self._config.progress(f"starting Kubernetes {self._config.kubernetes} in {self.directory}")
        self._spawn_component(controlplane.ETCD, controlplane.etcd(self.layout))
        self._wait_ready(controlplane.ETCD)
        self._spawn_component(controlplane.APISERVER, controlplane.apiserver(self.layout))
        self._wait_ready(controlplane.APISERVER)
        interval_s = self._config.scrape_interval_s
        self._spawn_component(controlplane.CONTROLLER_MANAGER, controlplane.controller_manager(self.layout))
        self._spawn_component(controlplane.SCHEDULER, controlplane.scheduler(self.layout))
        self._spawn_component(controlplane.KWOK, controlplane.kwok(self.layout))
        self._spawn_component(controlplane.PROMETHEUS, controlplane.prometheus_server(self.layout, interval_s))
        self.apply(controlplane.sandbox_rbac())
        self.call(lambda client: nodes.add_pools(client, self._config.pools))
        self._spawn_autoscalers()
        if self._config.process_node_slots:
            agent = controlplane.process_node(self.layout, self._config.process_node_slots)
            self.processes.spawn(controlplane.PROCESS_NODE, [sys.executable, *agent])
        if self._config.emulator_seed is not None:
            emulator = controlplane.emulator(self.layout, self._config.emulator_seed, self._config.emulator_dispatch)
            self.processes.spawn(controlplane.EMULATOR, [sys.executable, *emulator])
        for manifest in self._config.manifests:
            self.apply(manifest)
        for name in self.processes.pids():
            self._wait_ready(name)
        self._remember()
        self._config.progress(f"ready after {monotonic_s() - began_s:.1f} s: API {self.apiserver_url}")

    def _spawn_component(self, name: str, flags: list[str]) -> None:
        self.processes.spawn(name, [str(self._binaries[name]), *flags], cwd=self.directory)

    def _spawn_autoscalers(self) -> None:
        if self._config.autoscaler is None:
            return
        for pool in self._config.pools:
            if not pool.autoscaled:
                continue
            settings = replace(self._config.autoscaler, min_nodes=pool.nodes, max_nodes=pool.max_nodes)
            paths = (state.fail_file(self.directory, pool.name), state.autoscaler_file(self.directory, pool.name))
            flags = autoscaler_arguments(self.layout.kubeconfigs["autoscaler"], pool, settings, *paths)
            argv = [sys.executable, "-m", "ebbtide.sandbox.autoscaler", *flags]
            self.processes.spawn(autoscaler_process(pool.name), argv)

    def _wait_ready(self, name: str) -> None:
        self.processes.wait_until(name, lambda: self._ready(name), _READY_TIMEOUT_S)

    def _ready(self, name: str) -> bool:
        scalers = {autoscaler_process(pool.name): pool.name for pool in self._config.pools if pool.autoscaled}
        if name in scalers:
            return state.autoscaler_file(self.directory, scalers[name]).exists()  # written when it has looked once
        if name == controlplane.PROCESS_NODE:
            shown = state.process_node(self.directory)
            return bool(shown) and shown["pid"] == self.processes.pid(name)  # this run of it, not an earlier one
        return controlplane.healthy(self.layout, name)

    def _remember(self) -> None:
        state.write(
            self.directory,
            state.State(
                name=self._config.name,
                pid=os.getpid(),
                started_s=self._started_s,
                kubernetes=self._config.kubernetes,
                apiserver_url=self.apiserver_url,
                prometheus_url=self.prometheus_url,
                gateway_url=self.gateway_url,
                kubeconfig=str(self.admin_kubeconfig),
                kubectl=str(self.kubectl_path),
                pods=self._claim.cidr,
                processes=self.processes.pids(),
            ),
        )
