"""A process that plays the API server, Prometheus and the gateways, so that only the operator's own work is measured.

It holds every object as bytes, answers lists and watches, accepts the operator's writes, plays the controllers of
workloads (a new replica is a ready pod at once), and counts requests by kind. Prometheus' answers are rendered and
compressed before they are asked for. `/bench/...` is for the measuring side.

    python -m benchmarks.cluster --services 100 --policies 0 --jobs 0     # prints its address, runs until stdin closes
"""

import argparse
import asyncio
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from benchmarks import fleet, series
from benchmarks.batch import Batch
from ebbtide.act.render import render_deployment, render_service
from ebbtide.api import parse_pool, parse_service
from ebbtide.clock import unix_time_s

PLURALS = {
    "InferenceService": "inferenceservices",
    "GPUPool": "gpupools",
    "CostPolicy": "costpolicies",
    "BatchPolicy": "batchpolicies",
    "Job": "jobs",
    "Deployment": "deployments",
    "StatefulSet": "statefulsets",
    "Service": "services",
    "Pod": "pods",
    "Node": "nodes",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
}
_OF_THE_CLUSTER = ("GPUPool", "CostPolicy")
_KEPT_EVENTS = 5000
_VERSION = {"groupVersion": "ebbtide.dev/v1alpha1", "version": "v1alpha1"}
_GROUP = {"name": "ebbtide.dev", "versions": [_VERSION], "preferredVersion": _VERSION}
_encode, _decode = msgspec.json.encode, msgspec.json.decode


@dataclass
class Kind:
    """One kind: objects by `namespace/name` as bytes, its recent events, and who watches."""

    items: dict[str, bytes] = field(default_factory=dict)
    events: list[tuple[int, bytes]] = field(default_factory=list)
    watchers: set[asyncio.Queue[bytes]] = field(default_factory=set)


class Objects:
    """The API server's content. One resourceVersion counts for everything."""

    def __init__(self) -> None:
        self.version = 1
        self.kinds = {plural: Kind() for plural in PLURALS.values()}

    def put(self, plural: str, item: dict[str, Any]) -> dict[str, Any]:
        """Create or replace, and tell the watchers."""
        kind, key = self.kinds[plural], key_of(item)
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        what = b"MODIFIED" if key in kind.items else b"ADDED"
        kind.items[key] = _encode(item)
        self._tell(kind, what, kind.items[key])
        return item

    def remove(self, plural: str, key: str) -> None:
        """Delete, and tell the watchers."""
        kind = self.kinds[plural]
        body = kind.items.pop(key, None)
        if body is not None:
            self.version += 1
            item = _decode(body)
            item["metadata"]["resourceVersion"] = str(self.version)
            self._tell(kind, b"DELETED", _encode(item))

    def get(self, plural: str, key: str) -> dict[str, Any] | None:
        """A copy."""
        body = self.kinds[plural].items.get(key)
        return None if body is None else _decode(body)

    def _tell(self, kind: Kind, what: bytes, body: bytes) -> None:
        line = b'{"type":"' + what + b'","object":' + body + b"}\n"
        kind.events.append((self.version, line))
        del kind.events[:-_KEPT_EVENTS]
        for watcher in kind.watchers:
            watcher.put_nowait(line)


def key_of(item: dict[str, Any]) -> str:
    """`namespace/name`, or the name alone."""
    meta = item["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])


class Cluster:
    """All of it: handlers, and the state of the fleet."""

    def __init__(self, count: int, policies: int, jobs: int) -> None:
        self.fleet = fleet.services(count)
        self.policies = policies
        self.objects = Objects()
        self.batch = Batch(self.objects, self.fleet, jobs, unix_time_s()) if jobs else None
        self.counts: Counter[str] = Counter()
        self.replicas: dict[str, tuple[fleet.Service, fleet.Variant, list[str]]] = {}  # by namespace/workload
        self.answers: dict[str, bytes] = {}
        self._names = series.texts()
        self._rendered: dict[tuple[int, float], dict[str, bytes]] = {}

    def populate(self, address: str) -> None:
        """Everything that exists before the operator starts."""
        pools = {}
        for hardware in fleet.HARDWARE:
            for zone in fleet.ZONES:
                item = self.objects.put("gpupools", fleet.gpu_pool(hardware, zone))
                pools[item["metadata"]["name"]] = parse_pool(item)
        for item in fleet.cost_policies(self.policies, self.fleet, unix_time_s()):
            self.objects.put("costpolicies", item)
        for item in fleet.nodes(self.fleet):
            self.objects.put("nodes", item)
        for service in self.fleet:
            self._populate(service, pools, address)
        for service, variant, index, node in fleet.placed_pods(self.fleet):
            self._add_pod(service, variant, index, node)
        if self.batch is not None:
            self.batch.populate()
        for kind in self.objects.kinds.values():
            kind.events.clear()

    def _populate(self, service: fleet.Service, pools: dict[str, Any], address: str) -> None:
        declared = fleet.inference_service(service)
        to_zero = declared["spec"]["scaling"].get("scaleToZero")
        if to_zero:
            to_zero["activator"]["url"] = to_zero["activator"]["url"].replace("GATEWAY", f"{address}/gateway")
        self.objects.put("inferenceservices", declared)
        spec = parse_service(declared)
        for variant, wanted in zip(service.variants, spec.variants, strict=True):
            item = fleet.workload(service, variant)
            if wanted.engine is not None and spec.mode.value == "Auto":
                item = _built(item, render_deployment(spec, wanted, pools[variant.pool]))
            self.replicas[f"{service.namespace}/{variant.workload}"] = (service, variant, [])
            self.objects.put(PLURALS[variant.kind], item)
        front = render_service(spec)
        if front is not None:
            front["metadata"] |= fleet.metadata(service.name, service.namespace, of="Service")
            self.objects.put("services", front)
        if service.has_hpa:
            self.objects.put("horizontalpodautoscalers", fleet.autoscaler(service))

    def _add_pod(self, service: fleet.Service, variant: fleet.Variant, index: int, node: str) -> None:
        item = self.objects.put("pods", fleet.pod(service, variant, index, node))
        self.replicas[f"{service.namespace}/{variant.workload}"][2].append(item["metadata"]["name"])

    # -- Prometheus

    def render(self, seed: int, surge: float) -> None:
        """Make the answers of one moment; `surge`: the share of those in Auto that get four times the load."""
        if (seed, surge) not in self._rendered or surge:
            loads = list(self._loads(seed, surge))
            self._rendered[seed, surge] = {query.name: _compressed(query.name, loads) for query in series.all_queries()}
        self.answers = self._rendered[seed, surge]

    def _loads(self, seed: int, surge: float) -> Iterator[series.Load]:
        surging = set(self.surging(surge))
        for service in self.fleet:
            pods = [(v, pod) for v in service.variants for pod in self.replicas[f"{service.namespace}/{v.workload}"][2]]
            per_second = service.requests_per_second(4.0 if service.key in surging else 1.0) / max(1, len(pods))
            for variant, pod in pods:
                yield series.load_of(service.namespace, pod, service.engine, variant.hardware, per_second, seed)

    def surging(self, share: float) -> list[str]:
        """Keys of the services that the share stands for: evenly spread over those in mode Auto."""
        able = [service.key for service in self.fleet if service.mode == "Auto"]
        wanted = round(len(self.fleet) * share + 0.49) if share else 0
        return [able[index * len(able) // wanted] for index in range(wanted)]

    async def query(self, request: web.Request) -> web.StreamResponse:
        """`POST /api/v1/query`."""
        form = await request.post()
        name = self._names.get(str(form["query"]))
        if name is None:
            return web.json_response(
                {"status": "error", "error": "a query that the benchmark has no answer for"}, status=400
            )
        self.counts["promql"] += 1
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        return web.Response(body=self.answers[name], headers=headers)

    async def gateway(self, request: web.Request) -> web.StreamResponse:
        """One gateway's metrics page: the queues of its services, all empty."""
        self.counts["gateway"] += 1
        mine = [s for s in self.fleet if s.to_zero and str(s.number % 4) == request.match_info["number"]]
        names = ("llm_d_epp_flow_control_queue_size", "inference_extension_flow_control_queue_size")
        lines = [f'{n}{{inference_pool="{s.namespace}-{s.name}",priority="0"}} 0.0\n' for n in names for s in mine]
        return web.Response(text="".join(lines))

    # -- Kubernetes

    async def kubernetes(self, request: web.Request) -> web.StreamResponse:
        """Every path below /api and /apis."""
        plural, key, subresource = _parse(request.path)
        if plural not in self.objects.kinds:
            return self._elsewhere(request)
        if request.method == "GET" and not key:
            return await (self._watch(request, plural) if "watch" in request.query else self._list(request, plural))
        item = self.objects.get(plural, key)
        self.counts[_kind_of_request(request.method, plural, subresource)] += 1
        if item is None:
            return _status(404, f"{plural} {key} not found")
        if request.method == "GET":
            return _json(item)
        return self._patch(plural, item, subresource, _decode(await request.read()))

    def _elsewhere(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            self.counts["event"] += 1
            return web.Response(body=b"{}", status=201, content_type="application/json")
        self.counts["discovery"] += 1
        if request.path.rstrip("/") in ("/api", "/apis"):
            return _json({"versions": []} if request.path == "/api" else {"groups": [_GROUP]})
        own = ("InferenceService", "GPUPool", "CostPolicy", *(("BatchPolicy",) if self.batch is not None else ()))
        groups = {"/apis/apps/v1": ("Deployment", "StatefulSet"), "/apis/ebbtide.dev/v1alpha1": own}
        if request.path not in groups:
            return _status(404, f"{request.path} not found")
        verbs = ["get", "list", "watch", "patch"]
        listed = [(PLURALS[kind], kind, kind not in _OF_THE_CLUSTER) for kind in groups[request.path]]
        scales = [(f"{plural}/scale", "Scale", True) for plural, _, _ in listed if "apps" in request.path]
        resources = [
            {"name": name, "singularName": kind.lower(), "kind": kind, "namespaced": namespaced, "verbs": verbs}
            for name, kind, namespaced in (*listed, *scales)
        ]
        return _json({"kind": "APIResourceList", "groupVersion": request.path[6:], "resources": resources})

    async def _list(self, request: web.Request, plural: str) -> web.StreamResponse:
        self.counts["list"] += 1
        items = list(self.objects.kinds[plural].items.values())
        start, limit = int(request.query.get("continue", 0)), int(request.query.get("limit", len(items) or 1))
        more = str(start + limit) if start + limit < len(items) else ""
        head = _encode({"resourceVersion": str(self.objects.version), "continue": more})
        body = b'{"kind":"List","metadata":' + head + b',"items":[' + b",".join(items[start : start + limit]) + b"]}"
        return web.Response(body=body, content_type="application/json")

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        self.counts["watch"] += 1
        kind, since = self.objects.kinds[plural], int(request.query.get("resourceVersion") or 0)
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for version, line in kind.events:
            if version > since:
                queue.put_nowait(line)
        kind.watchers.add(queue)
        try:
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", 300))):
                while True:
                    await response.write(await queue.get())
        except TimeoutError:
            meta = {"metadata": {"resourceVersion": str(self.objects.version)}}
            await response.write(_encode({"type": "BOOKMARK", "object": meta}) + b"\n")
        finally:
            kind.watchers.discard(queue)
        return response

    def _patch(self, plural: str, item: dict[str, Any], subresource: str, body: Any) -> web.StreamResponse:
        if subresource == "scale":
            return self._scale(plural, item, body)
        if plural == "jobs":
            return self._job(item, body)
        if subresource == "status":
            item["status"] = body["status"]
        elif "metadata" in body:
            item["metadata"] = _merged(item["metadata"], body["metadata"])
        return _json(self.objects.put(plural, item))

    def _job(self, item: dict[str, Any], body: Any) -> web.StreamResponse:
        if any(item["metadata"][key] != body["metadata"][key] for key in ("uid", "resourceVersion")):
            return _status(409, "the object has been modified")
        item = self.objects.put("jobs", _merged(item, body))
        return _json(item if self.batch is None else self.batch.control(item))

    def _scale(self, plural: str, item: dict[str, Any], body: Any) -> web.StreamResponse:
        if body["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
            return _status(409, "the object has been modified")
        replicas = int(body["spec"]["replicas"])
        item["spec"]["replicas"] = replicas
        item["metadata"]["generation"] += 1
        self.objects.put(plural, item)
        service, variant, pods = self.replicas[key_of(item)]
        for index in range(len(pods), replicas):
            self._add_pod(service, variant, index, f"{variant.pool}-0000")
        for name in pods[replicas:]:
            self.objects.remove("pods", f"{service.namespace}/{name}")
        del pods[replicas:]
        self._rendered.clear()  # the next answers have the pods that came, and a share of the load for each
        item["status"] = fleet.workload_status(replicas, item["metadata"]["generation"])
        self.objects.put(plural, item)
        scale = {
            "kind": "Scale",
            "metadata": item["metadata"],
            "spec": {"replicas": replicas},
            "status": {"replicas": replicas},
        }
        return _json(scale)

    async def version(self, _request: web.Request) -> web.StreamResponse:
        """`GET /version`."""
        return _json({"major": "1", "minor": "36"})

    # -- the measuring side

    async def next_moment(self, request: web.Request) -> web.StreamResponse:
        """Change what Prometheus says."""
        surge = float(request.query.get("surge", 0))
        self.render(int(request.query["seed"]), surge)
        return _json({"services": len(self.surging(surge))})

    async def take_counts(self, request: web.Request) -> web.StreamResponse:
        """Requests by kind since the last call."""
        counts, self.counts = self.counts, Counter()
        return _json(dict(counts))

    def application(self) -> web.Application:
        """Everything behind one port."""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/api/v1/query", self.query)
        app.router.add_get("/gateway/{number}", self.gateway)
        app.router.add_get("/version", self.version)
        app.router.add_get("/bench/next", self.next_moment)
        app.router.add_get("/bench/counts", self.take_counts)
        app.router.add_route("*", "/{path:apis?(/.*)?}", self.kubernetes)
        return app


def _built(item: dict[str, Any], rendered: dict[str, Any]) -> dict[str, Any]:
    """A workload as the operator itself would have built it earlier."""
    meta = item["metadata"] | {key: rendered["metadata"][key] for key in ("labels", "annotations")}
    spec = rendered["spec"] | {"replicas": item["spec"]["replicas"]}
    return {**item, "metadata": meta, "spec": spec}


def _compressed(name: str, loads: list[series.Load]) -> bytes:
    """One answer, compressed as Prometheus compresses for whoever accepts it."""
    pack = zlib.compressobj(1, wbits=31)
    parts, waiting = [], []
    for text in series.answer(row for load in loads for row in series.rows(name, load)):
        waiting.append(text)
        if len(waiting) >= 2000:
            parts.append(pack.compress("".join(waiting).encode()))
            waiting.clear()
    return b"".join([*parts, pack.compress("".join(waiting).encode()), pack.flush()])


def _parse(path: str) -> tuple[str, str, str]:
    """(plural, namespace/name or name, subresource) of an API path."""
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if len(rest) >= 3 and rest[0] == "namespaces":
        namespace, rest = f"{rest[1]}/", rest[2:]
    plural, name, subresource = (*rest, "", "", "")[:3]
    return plural, f"{namespace}{name}" if name else "", subresource


def _kind_of_request(method: str, plural: str, subresource: str) -> str:
    if method == "GET":
        return "get"
    if subresource:
        return subresource
    return {"pods": "mark", "jobs": "job"}.get(plural, "apply")


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    merged = old | {key: _merged(old.get(key), value) for key, value in new.items()}
    return {key: value for key, value in merged.items() if value is not None}


def _json(value: Any) -> web.Response:
    return web.Response(body=_encode(value), content_type="application/json")


def _status(code: int, message: str) -> web.Response:
    body = {"kind": "Status", "code": code, "message": message}
    return web.Response(body=_encode(body), status=code, content_type="application/json")


async def serve(count: int, policies: int, jobs: int) -> None:
    """Run until standard input is closed; the first line printed is the address."""
    cluster = Cluster(count, policies, jobs)
    runner = web.AppRunner(cluster.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    cluster.populate(address)
    cluster.render(0, 0.0)
    print(address, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--services", type=int, required=True)
    parser.add_argument("--policies", type=int, required=True)
    parser.add_argument("--jobs", type=int, required=True)
    options = parser.parse_args()
    asyncio.run(serve(options.services, options.policies, options.jobs))


if __name__ == "__main__":
    main()
