"""Fake GPU nodes in pools, labelled and tainted as GPU feature discovery and cloud providers do.

KWOK plays their kubelets. Adding a node makes it schedulable at once; removing one takes its pods along, as a machine
that goes away does.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ebbtide.errors import NotFoundError
from ebbtide.kube.client import MERGE_PATCH, KubeClient

POOL_LABEL = "sandbox.ebbtide.dev/pool"
GPU = "nvidia.com/gpu"
INTERRUPTION_TAINT = "sandbox.ebbtide.dev/interruption"

Taint = dict[str, str]


@dataclass(frozen=True)
class NodePool:
    """Nodes of one kind. `nodes` exist at the start; an `autoscaled` pool grows to `max_nodes` by the autoscaler."""

    name: str
    product: str
    family: str
    gpu_memory_mib: int
    gpus_per_node: int
    nodes: int
    capacity_type: str
    instance_type: str
    autoscaled: bool = False
    max_nodes: int = 0

    def node_name(self, index: int) -> str:
        """`h100-on-demand-0`."""
        return f"{self.name}-{index}"


H100_ON_DEMAND = NodePool(
    "h100-on-demand", "NVIDIA-H100-80GB-HBM3", "hopper", 81559, 8, 2, "on-demand", "gpu.h100.8x"
)  # static
L40S_ON_DEMAND = NodePool(
    "l40s-on-demand", "NVIDIA-L40S", "ada-lovelace", 46068, 4, 1, "on-demand", "gpu.l40s.4x", True, max_nodes=6
)
H100_SPOT = NodePool("h100-spot", "NVIDIA-H100-80GB-HBM3", "hopper", 81559, 8, 1, "spot", "gpu.h100.8x")
A100_ON_PREM = NodePool("a100-on-prem", "NVIDIA-A100-SXM4-80GB", "ampere", 81920, 8, 1, "on-prem", "dgx.a100")
DEFAULT_POOLS = (H100_ON_DEMAND, L40S_ON_DEMAND, H100_SPOT, A100_ON_PREM)


def labels(pool: NodePool, name: str) -> dict[str, str]:
    """The labels of a node of that pool."""
    capacity = {} if pool.capacity_type == "on-prem" else {"karpenter.sh/capacity-type": pool.capacity_type}
    return {
        POOL_LABEL: pool.name,
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": pool.instance_type,
        "topology.kubernetes.io/zone": "sandbox-a",
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": pool.product,
        "nvidia.com/gpu.family": pool.family,
        "nvidia.com/gpu.memory": str(pool.gpu_memory_mib),
        "nvidia.com/gpu.count": str(pool.gpus_per_node),
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/mig.strategy": "none",
        **capacity,
    }


def taints() -> list[Taint]:
    """Keeps pods that need no GPU away."""
    return [{"key": GPU, "value": "present", "effect": "NoSchedule"}]


def node_manifest(pool: NodePool, name: str) -> dict[str, Any]:
    """The Node object as it is created."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels(pool, name), "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "spec": {"taints": taints()},
    }


async def add_node(client: KubeClient, pool: NodePool, name: str) -> None:
    """Create one node with its GPUs and make it schedulable."""
    await client.request("POST", "/api/v1/nodes", body=node_manifest(pool, name))
    resources = {"cpu": "192", "memory": "2Ti", "pods": "250", GPU: str(pool.gpus_per_node)}
    status = {"status": {"capacity": resources, "allocatable": resources}}
    await client.request("PATCH", f"/api/v1/nodes/{name}/status", body=status, content_type=MERGE_PATCH)
    # admission adds node.kubernetes.io/not-ready, which only the node-lifecycle controller (off here) would remove
    await _set_taints(client, name, taints())


async def add_pools(client: KubeClient, pools: Iterable[NodePool]) -> None:
    """Create the starting nodes of all pools."""
    await asyncio.gather(
        *(add_node(client, pool, pool.node_name(index)) for pool in pools for index in range(pool.nodes))
    )


async def remove_node(client: KubeClient, name: str) -> None:
    """Take a node away at once, with its pods (no grace: the machine is gone)."""
    listed = await client.get("/api/v1/pods", fieldSelector=f"spec.nodeName={name}")
    await _delete(client, f"/api/v1/nodes/{name}")
    for pod in listed["items"]:
        meta = pod["metadata"]
        await _delete(client, f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", grace_s=0)


async def taint(
    client: KubeClient, name: str, key: str = INTERRUPTION_TAINT, effect: str = "NoSchedule", value: str = ""
) -> None:
    """Add a taint, by default the one that announces a spot interruption; an equal one is replaced."""
    others = [item for item in await _taints(client, name) if item["key"] != key]
    await _set_taints(client, name, [*others, {"key": key, "value": value, "effect": effect}])


async def untaint(client: KubeClient, name: str, key: str = INTERRUPTION_TAINT) -> None:
    """Remove all taints with that key."""
    await _set_taints(client, name, [item for item in await _taints(client, name) if item["key"] != key])


async def node_names(client: KubeClient, pool_name: str) -> list[str]:
    """The nodes of a pool that exist now, sorted."""
    listed = await client.get("/api/v1/nodes", labelSelector=f"{POOL_LABEL}={pool_name}")
    return sorted(node["metadata"]["name"] for node in listed["items"])


async def _taints(client: KubeClient, name: str) -> list[Taint]:
    node = await client.get(f"/api/v1/nodes/{name}")
    found: list[Taint] = node["spec"].get("taints", [])
    return found


async def _set_taints(client: KubeClient, name: str, wanted: Sequence[Taint]) -> None:
    body = {"spec": {"taints": list(wanted)}}
    await client.request("PATCH", f"/api/v1/nodes/{name}", body=body, content_type=MERGE_PATCH)


async def _delete(client: KubeClient, path: str, grace_s: int | None = None) -> None:
    body = {"apiVersion": "v1", "kind": "DeleteOptions"} | ({} if grace_s is None else {"gracePeriodSeconds": grace_s})
    try:
        await client.request("DELETE", path, body=body)
    except NotFoundError:
        return  # gone already, which was the wish
