"""The Node object of the process node and the Lease that says that its agent lives.

What an operator of the cluster changes on the Node (cordon, taints, labels) is left alone: only what is missing is
made. A Node that is deleted while the agent runs stays away until the agent starts again, as with a kubelet.
"""

import asyncio
import logging
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

from ebbtide.clock import rfc3339, rfc3339_micro, unix_time_s
from ebbtide.errors import EbbtideError, NotFoundError
from ebbtide.kube.client import MERGE_PATCH, KubeClient, resource_path
from ebbtide.sandbox.nodes import POOL_LABEL
from ebbtide.sandbox.processnode.wire import Json
from ebbtide.sandbox.processnode.writer import STRATEGIC_PATCH

NODE_NAME, POOL = "process-0", "process"
SLOT = "sandbox.ebbtide.dev/engine-slot"
TAINT = {"key": "sandbox.ebbtide.dev/process", "value": "present", "effect": "NoSchedule"}

_LEASE_NAMESPACE = "kube-node-lease"
_LEASE_S, _RENEW_S = 40, 10.0
_STATUS_EVERY = 6  # renewals
_RETRY_S = 0.5
_PODS = 110
_CONDITIONS = {
    "Ready": ("True", "KubeletReady", "the agent runs"),
    "MemoryPressure": ("False", "KubeletHasSufficientMemory", ""),
    "DiskPressure": ("False", "KubeletHasNoDiskPressure", ""),
    "PIDPressure": ("False", "KubeletHasSufficientPID", ""),
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeKeeper:
    """Registers the node and keeps it alive. `slots` engines fit on it; `address` is its own."""

    client: KubeClient
    slots: int
    address: str
    since: str = field(default_factory=lambda: rfc3339(unix_time_s()))

    async def register(self) -> str:
        """Make the Node where it is missing, say that it is ready; answers its uid. Waits for the API server."""
        while True:
            try:
                uid = await self._register()
                await self._renew(uid)
                return uid
            except EbbtideError as error:
                log.warning("node %s: %s; again in %.1f s", NODE_NAME, error, _RETRY_S)
            await asyncio.sleep(_RETRY_S)

    async def keep(self, uid: str) -> None:
        """Renew until cancelled, or until the Node was deleted."""
        beats = 0
        while True:
            await asyncio.sleep(_RENEW_S)
            beats += 1
            try:
                if beats % _STATUS_EVERY == 0:
                    await self._say_ready()
                await self._renew(uid)
            except NotFoundError:
                log.warning("node %s was deleted: it comes back when the agent is started again", NODE_NAME)
                await asyncio.Event().wait()
            except EbbtideError as error:
                log.warning("node %s: %s", NODE_NAME, error)

    async def _register(self) -> str:
        path = resource_path("v1", "nodes", name=NODE_NAME)
        try:
            node = await self.client.get(path)
        except NotFoundError:
            await self.client.request("POST", resource_path("v1", "nodes"), body=manifest())
            # admission adds node.kubernetes.io/not-ready, which nobody in the sandbox would remove
            taints = {"spec": {"taints": [TAINT]}}
            await self.client.request("PATCH", path, body=taints, content_type=MERGE_PATCH)
            node = await self.client.get(path)
        await self._say_ready()
        return str(node["metadata"]["uid"])

    async def _say_ready(self) -> None:
        path = resource_path("v1", "nodes", name=NODE_NAME, subresource="status")
        await self.client.request("PATCH", path, body={"status": self._status()}, content_type=STRATEGIC_PATCH)

    async def _renew(self, uid: str) -> None:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": NODE_NAME,
                "namespace": _LEASE_NAMESPACE,
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": NODE_NAME, "uid": uid}],
            },
            "spec": {
                "holderIdentity": NODE_NAME,
                "leaseDurationSeconds": _LEASE_S,
                "renewTime": rfc3339_micro(unix_time_s()),
            },
        }
        path = resource_path("coordination.k8s.io/v1", "leases", _LEASE_NAMESPACE, NODE_NAME)
        await self.client.apply(path, body, field_manager="ebbtide-sandbox-process-node", force=True)

    def _status(self) -> Json:
        times = {"lastHeartbeatTime": rfc3339(unix_time_s()), "lastTransitionTime": self.since}
        resources = {
            "cpu": str(os.cpu_count() or 1),
            "memory": f"{_memory_kib()}Ki",
            "pods": str(_PODS),
            SLOT: str(self.slots),
        }
        conditions = [
            {"type": kind, "status": status, "reason": reason, "message": message, **times}
            for kind, (status, reason, message) in _CONDITIONS.items()
        ]
        return {
            "capacity": resources,
            "allocatable": resources,
            "conditions": conditions,
            "addresses": [
                {"type": "InternalIP", "address": self.address},
                {"type": "Hostname", "address": NODE_NAME},
            ],
            "nodeInfo": {
                "architecture": _architecture(),
                "operatingSystem": "linux",
                "kubeletVersion": "sandbox",
                "kubeProxyVersion": "",
                "containerRuntimeVersion": "process://sandbox",
                "kernelVersion": platform.release(),
                "osImage": "processes of this machine",
                "bootID": "",
                "machineID": "",
                "systemUUID": "",
            },
        }


def manifest() -> Json:
    """The Node as it is made."""
    labels = {
        POOL_LABEL: POOL,
        "nvidia.com/gpu.product": "CPU",
        "kubernetes.io/hostname": NODE_NAME,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": _architecture(),
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE_NAME, "labels": labels},
        "spec": {"taints": [TAINT]},
    }


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _memory_kib() -> int:
    # "MemTotal:       24689764 kB"
    first = Path("/proc/meminfo").read_text().splitlines()[0]
    return int(first.split()[1])
