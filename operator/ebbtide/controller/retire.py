"""Ends the operator for good, before what it holds is given back: a running one may stop again what was just resumed.

A Job that is released runs without Ebbtide's note; one that says that it is restartable would be stopped by the next
cycle, noted as Ebbtide's, and left so by an uninstall.
"""

import asyncio
from typing import Any

from ebbtide.clock import monotonic_s
from ebbtide.errors import EbbtideError, NotFoundError
from ebbtide.kube.client import MERGE_PATCH, KubeClient, resource_path

MANAGER = "ebbtide-release"
_LOOK_S = 0.5


async def stop_operator(client: KubeClient, deployment: str, within_s: float = 120.0) -> bool:
    """Scales the Deployment `namespace/name` to zero and waits until its pods are gone; False: it is not there.

    Raises EbbtideError when pods are left after that time, and what the API server raises.
    """
    namespace, _, name = deployment.partition("/")
    path = resource_path("apps/v1", "deployments", namespace, name)
    try:
        found = await client.get(path)
    except NotFoundError:
        return False
    labels = (found["spec"].get("selector") or {}).get("matchLabels") or {}
    zero = {"spec": {"replicas": 0}}
    params = {"fieldManager": MANAGER}
    await client.request("PATCH", f"{path}/scale", params=params, body=zero, content_type=MERGE_PATCH)
    selector = ",".join(f"{key}={text}" for key, text in sorted(labels.items()))
    until = monotonic_s() + within_s
    while left := await _pods(client, namespace, selector):
        if monotonic_s() > until:
            raise EbbtideError(f"{deployment} still has pods after {within_s:.0f} s: {', '.join(left)}")
        await asyncio.sleep(_LOOK_S)
    return True


async def _pods(client: KubeClient, namespace: str, selector: str) -> list[str]:
    listed: Any = await client.get(resource_path("v1", "pods", namespace), labelSelector=selector)
    ended = ("Succeeded", "Failed")
    items = (item for item in listed.get("items") or () if item.get("status", {}).get("phase") not in ended)
    return sorted(item["metadata"]["name"] for item in items)
