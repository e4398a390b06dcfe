"""A running Ebbtide on the real control plane, with emulated engines and load: what scenario tests are written in.

One rig is one namespace, one operator with its own Lease and data, and the emulator. Waiting is always for a fact,
with a time limit and the last answer in the failure.
"""

import contextlib
import json
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebbtide.errors import SandboxError
from ebbtide.sandbox.audit import Write, audit_writes, service_account_user
from ebbtide.sandbox.demo_base import free_port
from ebbtide.sandbox.sandbox import Sandbox

POOL_LABEL = "sandbox.ebbtide.dev/pool"
OPERATOR_USER = service_account_user("ebbtide-system", "ebbtide")
Json = dict[str, Any]


def until(question: Callable[[], Any], what: str, within_s: float = 60.0) -> Any:
    """The first true answer; fails with `what` and the last answer after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not (answer := question()):
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}; last answer {answer!r}"
        time.sleep(0.25)
    return answer


def stays(question: Callable[[], bool], what: str, for_s: float) -> None:
    """Fails when the answer becomes false within `for_s` seconds."""
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        assert question(), f"did not stay so for {for_s:.0f} s: {what}"
        time.sleep(0.5)


def pool(name: str, nodes_of: str, *, accelerator: str = "A100-80GB", price: str | None = "1.00", **spec: Any) -> Json:
    """A GPUPool over the sandbox's nodes `nodes_of`; price None leaves it unknown."""
    body: Json = {
        "nodeSelector": {POOL_LABEL: nodes_of},
        "accelerator": accelerator,
        "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
        **spec,
    }
    if price is not None:
        body["price"] = {"perGPUHour": price, "currency": "USD"}
    return {"apiVersion": "ebbtide.dev/v1alpha1", "kind": "GPUPool", "metadata": {"name": name}, "spec": body}


@dataclass
class Rig:
    """See the module. Made by the fixture `rig`."""

    sandbox: Sandbox
    namespace: str
    data: Path
    gateway_port: int = field(default_factory=free_port)
    operators: list[str] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)
    pools: set[str] = field(default_factory=set)
    policies: set[str] = field(default_factory=set)

    # --- processes -------------------------------------------------------------------------------------------------

    def start_emulator(self, dispatch: str = "least-loaded") -> None:
        """Plays every engine pod of the sandbox and the gateway before them, which picks engines by `dispatch`."""
        name = f"emulator-{self.namespace}"
        argv = ["-m", "ebbtide.sandbox.emulator", "--kubeconfig", str(self.sandbox.emulator_kubeconfig)]
        argv += ["--port", str(self.gateway_port), "--seed", "1", "--dispatch", dispatch]
        self.sandbox.spawn(name, [sys.executable, *argv])
        healthy = f"http://127.0.0.1:{self.gateway_port}/healthz"
        self.sandbox.processes.wait_until(name, lambda: self._answers(healthy), 120)

    def start_operator(self, name: str = "a", **settings: str) -> str:
        """An operator process for this namespace alone; `settings` are EBBTIDE_* in lower case."""
        process, port = f"operator-{name}-{self.namespace}", free_port()
        wanted = {
            "kubeconfig": str(self.sandbox.operator_kubeconfig()),
            "watch_namespaces": self.namespace,
            "prometheus_url": self.sandbox.prometheus_url,
            "rate_window": "15s",
            "scrape_staleness": "10s",
            "cycle_interval": "2s",
            "data_dir": str(self.data / name),
            "http_host": "127.0.0.1",
            "http_port": str(port),
            **settings,
        }
        env = {f"EBBTIDE_{key.upper()}": value for key, value in wanted.items()}
        self.sandbox.spawn(process, [sys.executable, "-m", "ebbtide", "operator"], env)
        self.operators.append(process)
        self.ports[process] = port
        ready = f"http://127.0.0.1:{port}/readyz"
        self.sandbox.processes.wait_until(process, lambda: self._answers(ready), 120)  # shows its log if it ends
        return process

    def operator_log(self, process: str) -> str:
        return (self.sandbox.directory / "logs" / f"{process}.log").read_text(errors="replace")

    def operator_metrics(self, process: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[process]}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def kill(self, process: str) -> None:
        self.sandbox.kill(process, signal.SIGKILL)

    # --- objects ---------------------------------------------------------------------------------------------------

    def apply(self, *objects: Json) -> None:
        self.pools |= {item["metadata"]["name"] for item in objects if item["kind"] == "GPUPool"}
        self.policies |= {item["metadata"]["name"] for item in objects if item["kind"] == "CostPolicy"}
        self.sandbox.apply(list(objects))

    def close(self) -> None:
        """Ends the processes and deletes what was applied, so that the next scenario has the GPUs and the Lease."""
        for process in (*self.operators, f"emulator-{self.namespace}"):
            with contextlib.suppress(SandboxError):
                self.sandbox.processes.stop(process)
        # the next operator need not wait until a killed leader's Lease runs out
        self._forget("-n", "ebbtide-system", "lease", "ebbtide")
        self._forget("-n", self.namespace, "inferenceservices,hpa,resourcequotas", "--all", "--wait=false")
        self._forget("-n", self.namespace, "deployments,statefulsets,daemonsets", "--all", "--wait=false")
        if self.policies:
            self._forget("costpolicies", *sorted(self.policies))
        if self.pools:
            self._forget("gpupools", *sorted(self.pools))
        self._forget("namespace", self.namespace, "--wait=false")
        # without their emulator engines drain to the end of their grace, on GPUs that the next test counts
        self._forget("-n", self.namespace, "pods", "--all", "--force", "--grace-period=0", "--wait=false")

    def _forget(self, *arguments: str) -> None:
        where = arguments[:2] if arguments[0] == "-n" else ()
        with contextlib.suppress(SandboxError):
            self.sandbox.kubectl(*where, "delete", *arguments[len(where) :], "--ignore-not-found")

    def target(self, *arguments: Any, **options: Any) -> None:
        """Applies what `target_object` makes."""
        self.apply(self.target_object(*arguments, **options))

    def service(self, *arguments: Any, **options: Any) -> None:
        """Applies what `service_object` makes."""
        self.apply(self.service_object(*arguments, **options))

    def target_object(
        self,
        name: str,
        nodes_of: str = "a100-on-prem",
        replicas: int = 1,
        *,
        kind: str = "Deployment",
        route: str = "chat",
        startup: str = "3s",
        gpus: int = 1,
        engine: str = "vllm",
        crash: bool = False,
        **pod: Any,
    ) -> Json:
        """Emulated engines behind the gateway's route `route`, at `replicas`; `pod` overrides its template's spec."""
        annotations = {
            "sandbox.ebbtide.dev/startup": startup,
            "sandbox.ebbtide.dev/drain": "5s",
            "sandbox.ebbtide.dev/engine": engine,
            "sandbox.ebbtide.dev/model": "8B",
            "prometheus.io/scrape": "true",
            "prometheus.io/port": "8000",
            "prometheus.io/path": "/metrics" if engine == "vllm" else "/prometheus/metrics",
            **({"sandbox.ebbtide.dev/crash": "true"} if crash else {}),
        }
        labels = {"app": name, "sandbox.ebbtide.dev/route": route}
        container = {
            "name": "engine",
            "image": "engine",
            "args": ["--shutdown-timeout=10"],
            "resources": {"limits": {"nvidia.com/gpu": str(gpus)} if gpus else {}},
        }
        template = {
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": {
                "nodeSelector": {POOL_LABEL: nodes_of},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                "terminationGracePeriodSeconds": 30,
                "containers": [container],
                **pod,
            },
        }
        spec: Json = {"selector": {"matchLabels": {"app": name}}, "template": template}
        if kind != "DaemonSet":
            spec["replicas"] = replicas
        if kind == "StatefulSet":
            spec |= {"serviceName": name, "podManagementPolicy": "Parallel"}
        meta = {"name": name, "namespace": self.namespace}
        return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": spec}

    def service_object(
        self,
        *variants: tuple[str, str, str],
        name: str = "chat",
        mode: str = "Auto",
        scaling: Json | None = None,
        kind: str = "Deployment",
        capacity: str = "",
        **spec: Any,
    ) -> Json:
        """An InferenceService over `variants` of (name, GPUPool, target). Goes down after 4 s unless told.

        `capacity` declares the requests/s of one replica at the lengths that `load` sends.
        """
        measured = {"capacity": {"requestsPerSecond": capacity, "inputTokens": 500, "outputTokens": 120}}
        body = {
            "mode": mode,
            "model": {"name": "llama-3-8b", "parameters": "8B"},
            "objectives": {"timeToFirstToken": "2s", "interTokenLatency": "50ms", "attainment": "98"},
            "variants": [
                {
                    "name": variant,
                    "pool": gpu_pool,
                    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": kind, "name": deployment},
                    "maxReplicas": 8,
                    **(measured if capacity else {}),
                }
                for variant, gpu_pool, deployment in variants
            ],
            "scaling": {"down": {"delay": "4s", "maxPerMinute": 60}, **(scaling or {})},
            **spec,
        }
        meta = {"name": name, "namespace": self.namespace}
        return {"apiVersion": "ebbtide.dev/v1alpha1", "kind": "InferenceService", "metadata": meta, "spec": body}

    def patch_service(self, patch: Json, name: str = "chat") -> None:
        self.sandbox.kubectl(
            "-n", self.namespace, "patch", "inferenceservice", name, "--type=merge", "-p", json.dumps(patch)
        )

    def scale(self, deployment: str, replicas: int) -> None:
        """What a person does by hand."""
        self.sandbox.kubectl("-n", self.namespace, "scale", "deployment", deployment, f"--replicas={replicas}")

    # --- load ------------------------------------------------------------------------------------------------------

    def load(self, per_second: float, duration_s: float, route: str = "chat", **shape: Any) -> None:
        """Requests at a constant rate unless `shape` says otherwise (see ebbtide.sim.shapes)."""
        order = {
            "route": f"{self.namespace}/{route}",
            "shape": shape or {"shape": "constant", "per_second": per_second},
            "duration_s": duration_s,
            "lengths": {"prompt_median": 500, "prompt_sigma": 0.3, "output_median": 120, "output_sigma": 0.3},
            "objectives": {"time_to_first_token_s": 2.0, "inter_token_latency_s": 0.05},
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.gateway_port}/load",
            data=json.dumps(order).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200

    def stop_load(self, route: str = "chat") -> None:
        url = f"http://127.0.0.1:{self.gateway_port}/load?route={self.namespace}/{route}"
        with urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10) as answer:
            assert answer.status == 200

    def results(self, route: str = "chat") -> Json:
        url = f"http://127.0.0.1:{self.gateway_port}/results?route={self.namespace}/{route}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            routes: Json = json.load(answer)["routes"]
        found: Json = routes[f"{self.namespace}/{route}"]
        return found

    @property
    def activator_url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}/{self.namespace}/metrics"

    # --- answers ---------------------------------------------------------------------------------------------------

    def get(self, kind: str, name: str) -> Json:
        found: Json = json.loads(self.sandbox.kubectl("-n", self.namespace, "get", kind, name, "-o", "json"))
        return found

    def status(self, name: str = "chat") -> Json:
        found: Json = self.get("inferenceservice", name).get("status", {})
        return found

    def condition(self, kind: str, name: str = "chat") -> Json:
        """That condition, or {}."""
        return next((item for item in self.status(name).get("conditions", []) if item["type"] == kind), {})

    def reason(self, name: str = "chat") -> str:
        return str(self.status(name).get("reason", ""))

    def variant(self, variant: str, name: str = "chat") -> Json:
        """That variant's part of the status, or {}."""
        return next((item for item in self.status(name).get("variants", []) if item["name"] == variant), {})

    def replicas(self, deployment: str, kind: str = "deployment") -> int:
        return int(self.get(kind, deployment)["spec"]["replicas"])

    def pods(self, app: str) -> list[Json]:
        found = json.loads(self.sandbox.kubectl("-n", self.namespace, "get", "pods", "-l", f"app={app}", "-o", "json"))
        items: list[Json] = found["items"]
        return items

    def exists(self, kind: str, name: str) -> bool:
        with contextlib.suppress(SandboxError):
            return bool(self.get(kind, name))
        return False

    def delete(self, kind: str, name: str, *flags: str) -> None:
        self.sandbox.kubectl("-n", self.namespace, "delete", kind, name, *flags)

    def ready(self, deployment: str) -> int:
        return int(self.get("deployment", deployment)["status"].get("readyReplicas", 0))

    def events(self, reason: str = "") -> list[Json]:
        found = json.loads(self.sandbox.kubectl("-n", self.namespace, "get", "events", "-o", "json"))["items"]
        return [item for item in found if not reason or item["reason"] == reason]

    def writes(self, resource: str = "", subresource: str = "", name: str = "") -> list[Write]:
        """Accepted writes of the operator in this namespace, oldest first."""
        return [
            write
            for write in audit_writes(self.sandbox.audit_log, OPERATOR_USER)
            if write.namespace == self.namespace
            and (not resource or write.resource == resource)
            and (not subresource or write.subresource == subresource)
            and (not name or write.name == name)
        ]

    def scale_writes(self, target: str = "", since_s: float = 0.0) -> list[Write]:
        """Writes to `/scale` of any kind that came in after `since_s` (unix time)."""
        return [write for write in self.writes("", "scale", target) if write.time_s >= since_s]

    @staticmethod
    def _answers(url: str) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
