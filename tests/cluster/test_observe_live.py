"""The observer against the real control plane, with exactly the operator's rights."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import yaml

from ebbtide.clock import unix_time_s
from ebbtide.kube.client import KubeClient
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import PodPhase, ServiceState, Snapshot
from ebbtide.observe.gather import Observer
from ebbtide.observe.settings import ObserveSettings, PrometheusSettings
from ebbtide.sandbox.sandbox import Sandbox
from tests.cluster.conftest import ApplyYaml

OBJECTS = """
apiVersion: ebbtide.dev/v1alpha1
kind: GPUPool
metadata: {{name: "{namespace}"}}
spec:
  nodeSelector: {{sandbox.ebbtide.dev/pool: h100-on-demand}}
  accelerator: H100-80GB
  price: {{perGPUHour: "2.95", currency: USD}}
---
apiVersion: ebbtide.dev/v1alpha1
kind: InferenceService
metadata: {{name: chat, namespace: "{namespace}"}}
spec:
  model: {{name: llama-3-8b}}
  variants:
  - name: h100
    pool: "{namespace}"
    scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: chat}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: chat, namespace: "{namespace}"}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: chat}}}}
  template:
    metadata:
      labels: {{app: chat}}
      annotations: {{sandbox.ebbtide.dev/startup: 1s}}
    spec:
      nodeSelector: {{sandbox.ebbtide.dev/pool: h100-on-demand}}
      tolerations: [{{key: nvidia.com/gpu, operator: Exists}}]
      terminationGracePeriodSeconds: 1
      containers:
      - name: engine
        image: example.com/vllm
        args: [--shutdown-timeout, "45"]
        resources: {{limits: {{nvidia.com/gpu: {gpus}}}}}
"""

HPA = """
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: rival, namespace: "{namespace}"}}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: chat}}
  minReplicas: 2
  maxReplicas: 3
"""


@contextlib.asynccontextmanager
async def observing(kubeconfig: Path, prometheus_url: str) -> AsyncIterator[Observer]:
    settings = ObserveSettings(prometheus=PrometheusSettings(url=prometheus_url))
    async with KubeClient(kubeconfig) as client, Observer(client, settings) as observer:
        await asyncio.wait_for(observer.synced(), 20)
        yield observer


async def until(observer: Observer, key: str, holds: Callable[[ServiceState], bool], within_s: float = 60) -> Snapshot:
    """The first snapshot in which it holds for the service."""
    async with asyncio.timeout(within_s):
        while True:
            snapshot = await observer.snapshot(unix_time_s(), {})
            if any(state.spec.key == key and holds(state) for state in snapshot.services):
                return snapshot
            await asyncio.sleep(0.2)


def phases(state: ServiceState) -> list[PodPhase]:
    return [pod.phase for pod in state.variants[0].pods]


def of(snapshot: Snapshot, key: str) -> ServiceState:
    return next(state for state in snapshot.services if state.spec.key == key)


async def test_a_service_as_it_starts_grows_and_is_contested(
    sandbox: Sandbox, operator_kubeconfig: Path, namespace: str, apply_yaml: ApplyYaml
) -> None:
    key = f"{namespace}/chat"
    async with observing(operator_kubeconfig, sandbox.prometheus_url) as observer:
        observer.wake.clear()
        apply_yaml(OBJECTS.format(namespace=namespace, gpus=2))
        await asyncio.wait_for(observer.wake.wait(), 20)

        snapshot = await until(observer, key, lambda state: phases(state) == [PodPhase.READY] * 2)
        target = of(snapshot, key).variants[0].target
        assert (target.spec_replicas, target.gpus_per_replica, target.shutdown_timeout_s) == (2, 2, 45.0)
        assert (target.rolling_out, target.rivals, target.faults) == (False, (), ())
        pods = of(snapshot, key).variants[0].pods
        assert all(pod.gpus == 2 and pod.ready_at and pod.ready_at >= pod.created_at for pod in pods)
        assert all(pod.engine is None for pod in pods), "nothing is scraped here: unknown, not zero"
        unhealthy = [source for source in snapshot.sources if not source.healthy]
        assert unhealthy == [], "the operator's rights are enough for everything that is watched"
        pool = next(pool for pool in snapshot.pools if pool.spec.name == namespace)
        assert {node.name for node in pool.nodes} == {"h100-on-demand-0", "h100-on-demand-1"}
        assert all(node.gpus == 8 and node.ready for node in pool.nodes)
        assert sum(node.allocated_gpus for node in pool.nodes) >= 4

        sandbox.kubectl("scale", "deployment/chat", "--replicas=3", "-n", namespace)
        await until(observer, key, lambda state: len(state.variants[0].pods) == 3)
        apply_yaml(HPA.format(namespace=namespace))
        rival = ("HorizontalPodAutoscaler rival",)
        await until(observer, key, lambda state: state.variants[0].target.rivals == rival)

        observer.wake.clear()
        sandbox.kubectl("delete", "infs/chat", f"gpool/{namespace}", "-n", namespace)
        await asyncio.wait_for(observer.wake.wait(), 20)
        async with asyncio.timeout(20):
            while True:
                snapshot = await observer.snapshot(unix_time_s(), {})
                if key not in {state.spec.key for state in snapshot.services}:
                    break
                await asyncio.sleep(0.1)


async def test_pods_without_room_and_targets_that_go(
    sandbox: Sandbox, operator_kubeconfig: Path, namespace: str, apply_yaml: ApplyYaml
) -> None:
    key = f"{namespace}/chat"
    apply_yaml(OBJECTS.format(namespace=namespace, gpus=9))  # no node has nine
    async with observing(operator_kubeconfig, sandbox.prometheus_url) as observer:
        snapshot = await until(observer, key, lambda state: phases(state) == [PodPhase.UNSCHEDULABLE] * 2)
        assert "Insufficient nvidia.com/gpu" in of(snapshot, key).variants[0].pods[0].message
        sandbox.kubectl("delete", "deployment/chat", "-n", namespace)
        snapshot = await until(observer, key, lambda state: not state.variants[0].target.exists)
        faults = [code for code, _ in of(snapshot, key).variants[0].target.faults]
        assert faults == [Code.TARGET_NOT_FOUND]
        sandbox.kubectl("delete", "infs/chat", f"gpool/{namespace}", "-n", namespace)


async def test_an_api_server_that_is_killed_and_a_prometheus_that_is_gone(own_sandbox: Sandbox) -> None:
    own_sandbox.kubectl("create", "namespace", "team-a")
    own_sandbox.apply(list(yaml.safe_load_all(OBJECTS.format(namespace="team-a", gpus=1))))
    async with observing(own_sandbox.operator_kubeconfig(), own_sandbox.prometheus_url) as observer:
        await until(observer, "team-a/chat", lambda state: phases(state) == [PodPhase.READY] * 2)

        own_sandbox.kill("kube-apiserver")
        async with asyncio.timeout(30):
            while True:
                snapshot = await observer.snapshot(unix_time_s(), {})
                unhealthy = {source.name for source in snapshot.sources if not source.healthy}
                if {"pods", "inferenceservices", "deployments"} <= unhealthy:
                    break
                await asyncio.sleep(0.2)
        assert phases(of(snapshot, "team-a/chat")) == [PodPhase.READY] * 2, "what was known stays"

        own_sandbox.restart("kube-apiserver")
        own_sandbox.kubectl("scale", "deployment/chat", "--replicas=1", "-n", "team-a")
        await until(observer, "team-a/chat", lambda state: state.variants[0].target.spec_replicas == 1)
        await until(observer, "team-a/chat", lambda state: phases(state) == [PodPhase.READY])

        own_sandbox.kill("prometheus")
        snapshot = await observer.snapshot(unix_time_s(), {})
        source = next(source for source in snapshot.sources if source.name == "prometheus")
        assert not source.healthy
        assert source.age_s is not None and source.message
