"""A small API server: lists pages of pods, streams watch events, can break a watch, and knows two nodes."""

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

PAGE = 2
NODES = {"h100-0": "NVIDIA-H100-80GB-HBM3", "odd-0": None}


class FakePodsApi:
    """Pods by `namespace/name`; every change is an event of all open watches."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.lists = 0
        self._versions = itertools.count(1)
        self._watches: list[asyncio.Queue[bytes | None]] = []
        application = web.Application()
        application.router.add_get("/api/v1/pods", self._pods)
        application.router.add_get("/api/v1/nodes/{name}", self._node)
        application.router.add_delete("/api/v1/namespaces/team-a/pods/{name}", self._removed)
        self._server = TestServer(application)

    async def __aenter__(self) -> "FakePodsApi":
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.break_watches()
        await self._server.close()

    def kubeconfig(self, folder: Path) -> Path:
        path = folder / "kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": str(self._server.make_url("/")).rstrip("/")}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def put(self, name: str, ip: str, *, ready: bool = True, going: bool = False, **more: Any) -> None:
        """Create or change `team-a/name` of route chat; tells the watches."""
        key = f"team-a/{name}"
        kind = "MODIFIED" if key in self.pods else "ADDED"
        self.pods[key] = a_pod(name, ip, ready=ready, going=going, version=next(self._versions), **more)
        self._tell(kind, self.pods[key])

    def delete(self, name: str, *, silently: bool = False) -> None:
        """Remove the pod; `silently`: as in a gap of the watch."""
        pod = self.pods.pop(f"team-a/{name}")
        if not silently:
            self._tell("DELETED", pod)

    def break_watches(self) -> None:
        for queue in self._watches:
            queue.put_nowait(None)

    def expire_watches(self) -> None:
        """What an API server says when the resourceVersion is too old."""
        for queue in self._watches:
            queue.put_nowait(b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}\n')

    def _tell(self, kind: str, pod: dict[str, Any]) -> None:
        line = json.dumps({"type": kind, "object": pod}).encode() + b"\n"
        for queue in self._watches:
            queue.put_nowait(line)

    async def _pods(self, http: web.Request) -> web.StreamResponse:
        assert http.query["labelSelector"] == "sandbox.ebbtide.dev/route"
        if http.query.get("watch") == "true":
            return await self._watch(http)
        self.lists += 1
        first = int(http.query.get("continue", "0"))
        items = list(self.pods.values())
        metadata = {"resourceVersion": "9"}
        if first + PAGE < len(items):
            metadata["continue"] = str(first + PAGE)
        return web.json_response({"kind": "PodList", "metadata": metadata, "items": items[first : first + PAGE]})

    async def _watch(self, http: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(http)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._watches.append(queue)
        bare = {"metadata": {"resourceVersion": "10"}, "spec": {"containers": None}, "status": {}}
        bookmark = {"type": "BOOKMARK", "object": bare}
        await response.write(json.dumps(bookmark).encode() + b"\n")
        while (line := await queue.get()) is not None:
            await response.write(line)
        self._watches.remove(queue)
        return response

    async def _removed(self, http: web.Request) -> web.Response:
        """What a kubelet asks for when the containers have ended: no grace, and this very pod."""
        name, options = http.match_info["name"], await http.json()
        assert options["gracePeriodSeconds"] == 0
        pod = self.pods.get(f"team-a/{name}")
        if pod is None:
            return web.json_response({"message": "pod not found"}, status=404)
        if options["preconditions"]["uid"] != pod["metadata"]["uid"]:
            return web.json_response({"message": "the UID in the precondition differs"}, status=409)
        self.delete(name)
        return web.json_response({})

    async def _node(self, http: web.Request) -> web.Response:
        if http.match_info["name"] not in NODES:
            return web.json_response({"message": "nodes not found"}, status=404)
        product = NODES[http.match_info["name"]]
        labels = {} if product is None else {"nvidia.com/gpu.product": product}
        return web.json_response({"metadata": {"name": http.match_info["name"], "labels": labels}})


def a_pod(
    name: str,
    ip: str,
    *,
    ready: bool,
    going: bool,
    version: int,
    engine: str = "vllm",
    node: str = "h100-0",
    crashed: bool = False,
    uid: str = "",
    port: int = 0,
    annotations: dict[str, str] | None = None,
) -> dict[str, Any]:
    """As the API server would give it, with fields that nobody here reads."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "team-a",
        "uid": uid or name,
        "resourceVersion": str(version),
        "labels": {"sandbox.ebbtide.dev/route": "chat", "app": "chat"},
        "annotations": {
            **({"sandbox.ebbtide.dev/engine": engine} if engine else {}),
            "sandbox.ebbtide.dev/model": "8B",
            **(annotations or {}),
        },
        "managedFields": [{"manager": "kube-controller-manager"}],
    }
    if going:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    state = {"waiting": {"reason": "CrashLoopBackOff"}} if crashed else {"running": {"startedAt": "x"}}
    conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": None}]
    status = {"phase": "Running", "podIP": ip, "conditions": conditions, "containerStatuses": [{"state": state}]}
    containers = [{"name": "engine", "ports": [{"containerPort": port}]}] if port else []
    return {"metadata": metadata, "spec": {"nodeName": node, "containers": containers}, "status": status}
