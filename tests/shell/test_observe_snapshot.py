"""The observer against an in-process API server: whole objects in, one Snapshot out, every fault named with its fix."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from ebbtide.core.plan import plan
from ebbtide.model.memory import Memory
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import PodPhase, Quality, ServiceState, Snapshot, TargetState, WriteReceipt
from ebbtide.observe.declared import Declared
from ebbtide.observe.discovery import Discovery
from ebbtide.observe.gather import Observer
from ebbtide.observe.projections import Opaque, OwnMeta
from ebbtide.observe.scales import scale_view
from ebbtide.observe.settings import ObserveSettings
from ebbtide.observe.workloads import custom_view
from tests.core.test_sources import OUTCOMES
from tests.shell.observing import QUICK, api_client, eventually, pod

GPU = "nvidia.com/gpu"
OWN = "/apis/ebbtide.dev/v1alpha1"
ALWAYS = (
    "/api/v1/pods",
    "/api/v1/nodes",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/statefulsets",
    "/apis/autoscaling/v2/horizontalpodautoscalers",
    f"{OWN}/inferenceservices",
    f"{OWN}/gpupools",
    f"{OWN}/costpolicies",
)
NEVER_HEALTHY = ("prometheus", "histograms", "declarations")  # there is no Prometheus in these tests
LWS = "/apis/leaderworkerset.x-k8s.io/v1"
LWS_SCALE = f"{LWS}/namespaces/team-a/leaderworkersets/chat-h100/scale"
BOUND = {"nodeName": "n1", "containers": [{"resources": {"requests": {GPU: "4"}}}]}


class Cluster:
    """Objects by list path. Watches say nothing until `changed`, after which everybody lists again."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {path: [] for path in ALWAYS}
        self.other: dict[str, dict[str, Any]] = {}  # discovery and /scale
        self.forbidden: set[str] = set()
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self.version = 1
        self._moved = asyncio.Condition()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if request.query.get("watch"):
            async with self._moved:
                await self._moved.wait_for(lambda: request.query["resourceVersion"] != str(self.version))
            return web.json_response({"message": "scripted"}, status=410)
        self.asked.append(path)
        if path in self.silent:
            await asyncio.sleep(30)
        if path in self.forbidden:
            return web.json_response({"message": f"no right to {path}"}, status=403)
        if path in self.other:
            return web.json_response(self.other[path])
        if path in self.objects:
            return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": self.objects[path]})
        return web.json_response({"message": "no such path"}, status=404)

    async def changed(self) -> None:
        async with self._moved:
            self.version += 1
            self._moved.notify_all()

    def add(self, path: str, *items: dict[str, Any]) -> None:
        self.objects.setdefault(path, []).extend(items)


class Deep(Cluster):
    """The usual cluster, and a service whose pod template is nested as deep as `levels` says."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.objects = usual().objects
        engine = ENGINE | {"podTemplate": {"spec": {"x": "LEVELS"}}}
        self.add(f"{OWN}/inferenceservices", service("deep", scaleTargetRef=None, engine=engine))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        answer = await super().answer(request)
        if isinstance(answer, web.Response) and answer.text is not None:
            # as text: the encoder does not go that deep either
            answer.text = answer.text.replace('"LEVELS"', '{"a":' * self.levels + "1" + "}" * self.levels)
        return answer


def meta(name: str, namespace: str = "team-a", **more: Any) -> dict[str, Any]:
    return {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": "5", "generation": 1} | more


def service(name: str = "chat", namespace: str = "team-a", mode: str = "Auto", **variant: Any) -> dict[str, Any]:
    one = {
        "name": "h100",
        "pool": "h100",
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat-h100"},
    } | variant
    one = {key: value for key, value in one.items() if value is not None}
    return {"metadata": meta(name, namespace), "spec": {"mode": mode, "model": {"name": "m"}, "variants": [one]}}


def pool(name: str = "h100", **spec: Any) -> dict[str, Any]:
    body = {"nodeSelector": {"pool": name}, "accelerator": "H100-80GB"} | spec
    return {"metadata": meta(name, "", generation=1), "spec": body}


def template(**spec: Any) -> dict[str, Any]:
    container = {"name": "engine", "args": ["--model", "m"], "resources": {"limits": {GPU: "4"}}}
    return {"spec": {"containers": [container], "terminationGracePeriodSeconds": 60} | spec}


def deployment(name: str = "chat-h100", **more: Any) -> dict[str, Any]:
    spec = {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "chat"}},
        "template": more.pop("template", template()),
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
    }
    status = {"replicas": 2, "updatedReplicas": 2, "observedGeneration": 1} | more
    return {"metadata": meta(name), "spec": spec, "status": status}


def node(name: str = "n1", pool_name: str = "h100") -> dict[str, Any]:
    status = {"allocatable": {GPU: "8"}, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"metadata": meta(name, "", labels={"pool": pool_name}), "spec": {}, "status": status}


def usual() -> Cluster:
    """A service with one Deployment of two pods on a pool of one node."""
    cluster = Cluster()
    ready = [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z"}]
    cluster.add("/api/v1/pods", pod("b", spec=BOUND), pod("a", spec=BOUND, conditions=ready))
    cluster.add("/api/v1/nodes", node())
    cluster.add("/apis/apps/v1/deployments", deployment())
    cluster.add(f"{OWN}/inferenceservices", service())
    cluster.add(f"{OWN}/gpupools", pool())
    return cluster


@contextlib.asynccontextmanager
async def observing(cluster: Cluster, folder: Path) -> AsyncIterator[Observer]:
    settings = ObserveSettings(watch=replace(QUICK, silence_s=30.0), discovery_ttl_s=0.0)
    async with api_client(cluster.answer, folder) as client, Observer(client, settings) as observer:
        await asyncio.wait_for(observer.synced(), 10)
        yield observer


async def settled(observer: Observer, receipts: dict[str, WriteReceipt] | None = None) -> Snapshot:
    """A snapshot after every kind has been listed: some are only found once a service names them."""
    async with asyncio.timeout(20):
        while True:
            snapshot = await observer.snapshot(1000.0, receipts or {})
            if not [source for source in snapshot.sources if not source.healthy and source.name not in NEVER_HEALTHY]:
                return snapshot
            await asyncio.sleep(0.01)


async def look(cluster: Cluster, folder: Path, receipts: dict[str, WriteReceipt] | None = None) -> Snapshot:
    async with observing(cluster, folder) as observer:
        return await settled(observer, receipts)


async def look_once(cluster: Cluster, folder: Path) -> Snapshot:
    """The first snapshot, where a source is not healthy on purpose."""
    async with observing(cluster, folder) as observer:
        return await observer.snapshot(1000.0, {})


def only(snapshot: Snapshot) -> ServiceState:
    (state,) = snapshot.services
    return state


async def target(cluster: Cluster, folder: Path) -> TargetState:
    return only(await look(cluster, folder)).variants[0].target


async def test_a_service_with_its_pods_pool_and_last_write(tmp_path: Path) -> None:
    receipt = WriteReceipt(target_uid="uid-chat-h100", replicas=2, at=900.0)
    snapshot = await look(usual(), tmp_path, {"team-a/chat/h100": receipt})
    variant = only(snapshot).variants[0]
    assert [(seen.name, seen.phase, seen.gpus) for seen in variant.pods] == [
        ("a", PodPhase.READY, 4),
        ("b", PodPhase.STARTING, 4),
    ]
    assert variant.last_write == receipt
    assert variant.target == TargetState(
        exists=True,
        uid="uid-chat-h100",
        resource_version="5",
        spec_replicas=2,
        status_replicas=2,
        generation=1,
        observed_generation=1,
        gpus_per_replica=4,
        template_gpus=4,
        termination_grace_s=60.0,
    )
    assert only(snapshot).gateway_queue.quality is Quality.NOT_APPLICABLE
    (seen_pool,) = snapshot.pools
    assert [(seen.name, seen.gpus, seen.allocated_gpus) for seen in seen_pool.nodes] == [("n1", 8, 8)]
    assert snapshot.taken_at == 1000.0


async def test_sources_are_named_and_sorted(tmp_path: Path) -> None:
    sources = (await look(usual(), tmp_path)).sources
    assert [source.name for source in sources] == sorted(source.name for source in sources)
    assert [source.name for source in sources if not source.healthy] == ["prometheus"]
    assert {"pods", "nodes", "deployments", "inferenceservices", "gpupools", "scales", "declarations"} <= {
        source.name for source in sources
    }


OURS = {
    "app.kubernetes.io/managed-by": "ebbtide",
    "ebbtide.dev/service": "chat",
    "ebbtide.dev/variant": "h100",
}


def engine_block(**labels: str) -> Cluster:
    """A service that Ebbtide builds for, beside a Deployment of the name that it would build."""
    cluster = with_target("x", scaleTargetRef=None, engine=ENGINE)
    there = deployment()
    there["metadata"]["labels"] = labels
    cluster.objects["/apis/apps/v1/deployments"] = [there]
    return cluster


@pytest.mark.parametrize(
    ("story", "labels"),
    [
        ("no labels", {}),
        ("somebody's own", {"app": "chat"}),
        ("another manager's", OURS | {"app.kubernetes.io/managed-by": "Helm"}),
        ("built for another service", OURS | {"ebbtide.dev/service": "other"}),
        ("built for another variant", OURS | {"ebbtide.dev/variant": "a100"}),
    ],
)
async def test_a_deployment_that_ebbtide_did_not_build_is_not_the_engine_blocks_target(
    tmp_path: Path, story: str, labels: dict[str, str]
) -> None:
    snapshot = await look(engine_block(**labels), tmp_path)
    (variant,) = only(snapshot).variants
    ((code, text),) = variant.target.faults
    assert code == Code.TARGET_FOREIGN, story
    for words in (
        "variant h100: Deployment team-a/chat-h100 exists and is not Ebbtide's",
        "rename the variant, delete the Deployment, or name it in scaleTargetRef",
        "ebbtide.dev/variant=h100",
    ):
        assert words in text
    assert (variant.target.exists, variant.target.uid, variant.pods) == (False, "", ()), "none of it is ours"
    decided, _ = plan(snapshot, Memory(), 1000.0)
    assert decided.actions == ()
    acting = next(item for item in decided.services[0].conditions if item.type == "Acting")
    assert (acting.status.value, acting.reason) == ("False", "TargetForeign")


async def test_what_ebbtide_built_is_the_engine_blocks_target_by_its_labels(tmp_path: Path) -> None:
    (variant,) = only(await look(engine_block(**OURS, team="a"), tmp_path)).variants
    assert (variant.target.exists, variant.target.faults, len(variant.pods)) == (True, (), 2)


async def test_a_deployment_that_is_paused_is_seen_to_be(tmp_path: Path) -> None:
    cluster = usual()
    cluster.objects["/apis/apps/v1/deployments"][0]["spec"]["paused"] = True
    assert (await target(cluster, tmp_path)).paused


def outside(*pools: str) -> Cluster:
    """Both pods run on a node of another kind, which `pools` select."""
    cluster = usual()
    there = deployment(template=template(nodeSelector=None))
    cluster.objects["/apis/apps/v1/deployments"] = [there]
    cluster.add("/api/v1/nodes", node("n2", "elsewhere"))
    cluster.add(f"{OWN}/gpupools", *(pool(name, nodeSelector={"pool": "elsewhere"}) for name in pools))
    for each in cluster.objects["/api/v1/pods"]:
        each["spec"] = BOUND | {"nodeName": "n2"}
    return cluster


@pytest.mark.parametrize(
    ("pools", "seen"), [(("a100",), (("a100", 2),)), (("l40s", "a100"), (("a100, l40s", 2),)), ((), (("", 2),))]
)
async def test_pods_on_nodes_that_are_not_their_pools_are_counted_by_whose_they_are(
    tmp_path: Path, pools: tuple[str, ...], seen: tuple[tuple[str, int], ...]
) -> None:
    assert only(await look(outside(*pools), tmp_path)).variants[0].outside == seen


@pytest.mark.parametrize("story", ["inside", "also another pool's", "its node is gone", "it leaves"])
async def test_pods_that_are_not_outside_of_their_pool(tmp_path: Path, story: str) -> None:
    cluster = usual() if story in ("inside", "also another pool's") else outside("a100")
    if story == "also another pool's":
        cluster.add(f"{OWN}/gpupools", pool("all", nodeSelector={"pool": "h100"}))
    if story == "its node is gone":
        cluster.objects["/api/v1/nodes"] = [node()]
    if story == "it leaves":
        for each in cluster.objects["/api/v1/pods"]:
            each["metadata"]["deletionTimestamp"] = "2026-01-01T00:02:00Z"
    assert only(await look(cluster, tmp_path)).variants[0].outside == ()


async def test_a_kind_that_may_not_be_listed_does_not_hide_the_age_of_the_others(tmp_path: Path) -> None:
    replica_sets = {"name": "replicasets", "kind": "ReplicaSet", "namespaced": True}
    scale = {"name": "replicasets/scale", "kind": "Scale", "namespaced": True}
    cluster = aims_at("apps/v1", "ReplicaSet", **{"/apis/apps/v1": {"resources": [replica_sets, scale]}})
    cluster.forbidden.add("/apis/apps/v1/replicasets")
    async with observing(cluster, tmp_path) as observer:
        for _ in range(2):
            snapshot = await observer.snapshot(1000.0, {})
        kinds = {source.name: source for source in snapshot.sources}
        assert (kinds["replicasets"].healthy, kinds["replicasets"].age_s) == (False, None)
        assert observer.sync_age_s is not None


async def test_before_all_kinds_that_are_always_watched_were_listed_there_is_no_age(tmp_path: Path) -> None:
    cluster = usual()
    cluster.forbidden.add("/api/v1/nodes")
    settings = ObserveSettings(watch=replace(QUICK, silence_s=30.0), discovery_ttl_s=0.0)
    async with api_client(cluster.answer, tmp_path) as client, Observer(client, settings) as observer:
        await eventually(lambda: "/api/v1/nodes" in cluster.asked)
        assert observer.sync_age_s is None


def with_target(name: str, **spec: Any) -> Cluster:
    cluster = usual()
    cluster.objects[f"{OWN}/inferenceservices"] = [service(**spec)]
    assert name
    return cluster


def no_pool() -> Cluster:
    cluster = usual()
    cluster.objects[f"{OWN}/gpupools"] = []
    return cluster


def shared() -> Cluster:
    cluster = usual()
    cluster.add(f"{OWN}/inferenceservices", service("other"))
    return cluster


def template_on(**labels: str) -> Cluster:
    cluster = usual()
    cluster.objects["/apis/apps/v1/deployments"] = [deployment(template=template(nodeSelector=labels))]
    return cluster


def without_gpus() -> Cluster:
    cluster = usual()
    bare = {"spec": {"containers": [{"name": "engine", "resources": {"limits": {"cpu": "4"}}}]}}
    cluster.objects["/apis/apps/v1/deployments"] = [deployment(template=bare)]
    return cluster


def asks_for(amount: str) -> Cluster:
    cluster = usual()
    odd = {"spec": {"containers": [{"name": "engine", "resources": {"limits": {GPU: amount}}}]}}
    cluster.objects["/apis/apps/v1/deployments"] = [deployment(template=odd)]
    return cluster


def aims_at(api_version: str, kind: str, **discovered: Any) -> Cluster:
    cluster = usual()
    ref = {"apiVersion": api_version, "kind": kind, "name": "chat-h100"}
    cluster.objects[f"{OWN}/inferenceservices"] = [service(scaleTargetRef=ref)]
    cluster.other |= discovered
    return cluster


POD_KIND = {"/api/v1": {"resources": [{"name": "pods", "kind": "Pod", "namespaced": True}]}}
NO_TARGET = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "chat-h100"}
ENGINE = {"type": "vLLM", "image": "vllm:1"}


@pytest.mark.parametrize(
    ("cluster", "code", "words"),
    [
        pytest.param(no_pool, Code.POOL_NOT_FOUND, "names GPUPool h100, which does not exist", id="pool"),
        pytest.param(shared, Code.TARGET_SHARED, "also the target of team-a/other variant h100", id="two services"),
        pytest.param(
            lambda: with_target("x", scaleTargetRef=NO_TARGET),
            Code.TARGET_NOT_FOUND,
            "StatefulSet team-a/chat-h100 does not exist; create it",
            id="no such object",
        ),
        pytest.param(
            lambda: aims_at("v1", "Pod", **POD_KIND),
            Code.TARGET_NOT_SCALABLE,
            "Pod of v1 has no scale subresource",
            id="no scale subresource",
        ),
        pytest.param(
            lambda: aims_at("example.com/v1", "Fleet"),
            Code.TARGET_NOT_FOUND,
            "serves no kind Fleet of example.com/v1; correct scaleTargetRef, or install its CRD",
            id="no such kind",
        ),
        pytest.param(
            lambda: template_on(pool="l40s"),
            Code.POOL_MISMATCH,
            "nodeSelector has pool=l40s, but GPUPool h100 has pool=h100",
            id="another pool's nodes",
        ),
        pytest.param(
            lambda: template_on(**{"nvidia.com/gpu.product": "L40S"}),
            Code.POOL_MISMATCH,
            "none of the 1 nodes of GPUPool h100 has all labels of the pod template's nodeSelector "
            "(nvidia.com/gpu.product=L40S)",
            id="labels that no node of the pool has",
        ),
        pytest.param(
            without_gpus, Code.GPUS_UNKNOWN, "asks for no nvidia.com/gpu, or for none in whole units; set", id="no GPUs"
        ),
        pytest.param(lambda: asks_for("half"), Code.GPUS_UNKNOWN, "or for none in whole units", id="half a GPU"),
        pytest.param(
            lambda: with_target("x", mode="Recommend", scaleTargetRef=None, engine=ENGINE),
            Code.TARGET_NOT_FOUND,
            "Deployment team-a/chat-h100 is not built in mode Recommend",
            id="an engine block that nobody builds",
        ),
    ],
)
async def test_a_fault_between_objects_is_named_with_its_fix(
    tmp_path: Path, cluster: Any, code: Code, words: str
) -> None:
    made: Cluster = cluster()
    if words.startswith("Deployment"):
        made.objects["/apis/apps/v1/deployments"] = []
    snapshot = await look(made, tmp_path)
    state = next(state for state in snapshot.services if state.spec.key == "team-a/chat")
    ((found, message),) = state.variants[0].target.faults
    assert found == code
    assert words in message
    assert message.startswith("variant h100")


async def test_a_pool_with_an_unknown_zone_has_a_fault_and_no_price(tmp_path: Path) -> None:
    cluster = usual()
    window = {"cron": "0 22 * * *", "timeZone": "Mars/Olympus", "duration": "9h", "perGPUHour": "1"}
    price = {"perGPUHour": "2.50", "currency": "USD", "schedule": [window]}
    cluster.objects[f"{OWN}/gpupools"] = [pool(price=price)]
    (seen,) = (await look(cluster, tmp_path)).pools
    assert seen.price_per_gpu_hour is None
    assert [code for code, _ in seen.faults] == [Code.INVALID_TIME_ZONE]


async def test_a_bad_zone_and_a_bad_cron_line_are_both_said(tmp_path: Path) -> None:
    cluster = usual()
    window = {"cron": "0 0 30 2 *", "timeZone": "Mars/Olympus", "duration": "9h", "perGPUHour": "1"}
    price = {"perGPUHour": "2.50", "currency": "USD", "schedule": [window]}
    cluster.objects[f"{OWN}/gpupools"] = [pool(price=price)]
    snapshot = await look(cluster, tmp_path)
    (seen,) = snapshot.pools
    assert [code for code, _ in seen.faults] == [Code.INVALID_TIME_ZONE, Code.INVALID_SCHEDULE]
    decided, _ = plan(snapshot, Memory(), snapshot.taken_at)
    ready = next(item for item in decided.pools[0].conditions if item.type == "Ready")
    assert "Mars/Olympus" in ready.message
    assert "'0 0 30 2 *'" in ready.message


async def test_what_cannot_be_read_is_said_on_itself_and_by_whom_names_it(tmp_path: Path) -> None:
    """Durations of 0 and an offset of a day: an older CRD takes the first, every API server the second."""
    cluster = usual()
    sound, broken = pool(), pool(nodeLeadTime="soon")
    broken["metadata"] = sound["metadata"] | {"name": "odd", "uid": "u-odd", "generation": 4}
    lost = service()
    lost["spec"]["scaling"] = {"pause": {"until": "2026-01-01T00:00:00+24:00"}}
    lost["metadata"] = meta("lost") | {"generation": 7}
    on_odd = service(pool="odd")
    on_odd["metadata"] = meta("on-odd")
    cluster.objects[f"{OWN}/gpupools"] = [sound, broken]
    cluster.add(f"{OWN}/inferenceservices", lost, on_odd)
    snapshot = await look(cluster, tmp_path)
    assert [(item.kind, item.key) for item in snapshot.unreadable] == [
        ("GPUPool", "odd"),
        ("InferenceService", "team-a/lost"),
    ]
    assert snapshot.unreadable[1].generation == 7
    assert [item.spec.key for item in snapshot.services] == ["team-a/chat", "team-a/on-odd"], "the others go on"
    faults = dict(snapshot.services[1].variants[0].target.faults)
    assert "GPUPool odd, which cannot be read: GPUPool odd: spec.nodeLeadTime" in faults[Code.POOL_UNREADABLE]
    assert Code.POOL_NOT_FOUND not in faults
    source = next(item for item in snapshot.sources if item.name == "declarations")
    assert source.message.startswith("2 objects cannot be read: ")
    assert all(name in source.message for name in ("GPUPool odd", "InferenceService team-a/lost"))


async def test_rivals_are_named(tmp_path: Path) -> None:
    cluster = shared()
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat-h100"}
    hpa = "/apis/autoscaling/v2/horizontalpodautoscalers"
    cluster.add(hpa, {"metadata": meta("hpa"), "spec": {"scaleTargetRef": ref}})
    cluster.add(hpa, {"metadata": meta("else"), "spec": {"scaleTargetRef": ref | {"name": "other"}}})
    cluster.add(hpa, {"metadata": meta("far", "team-b"), "spec": {"scaleTargetRef": ref}})
    kinds = [{"name": "scaledobjects", "kind": "ScaledObject", "namespaced": True}]
    cluster.other["/apis/keda.sh/v1alpha1"] = {"resources": kinds}
    keda = {"metadata": meta("keda"), "spec": {"scaleTargetRef": {"name": "chat-h100"}}}
    cluster.add("/apis/keda.sh/v1alpha1/scaledobjects", keda)
    async with observing(cluster, tmp_path) as observer:
        # the very first: a plan made before the ScaledObjects are known would write to what KEDA scales
        seen = (await observer.snapshot(1.0, {})).services[0].variants[0].target.rivals
    assert seen == ("HorizontalPodAutoscaler hpa", "InferenceService team-a/other", "ScaledObject keda")


async def test_a_kind_that_is_not_served_is_asked_for_again_sooner_than_one_that_is(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.other["/apis/example.com/v1"] = {"resources": [{"name": "fleets", "kind": "Fleet", "namespaced": True}]}
    async with api_client(cluster.answer, tmp_path) as client:
        discovery = Discovery(client, ttl_s=600.0, absent_ttl_s=0.0)
        assert await discovery.find("example.com/v1", "Fleet") is not None
        cluster.other["/apis/example.com/v1"]["resources"].append({"name": "convoys", "kind": "Convoy"})
        assert await discovery.find("example.com/v1", "Fleet") is not None
        assert len(cluster.asked) == 1, "what is known is believed"
        assert await discovery.find("example.com/v1", "Convoy") is not None, "installed a moment ago"


async def test_kinds_whose_definition_is_removed_are_no_sick_sources(tmp_path: Path) -> None:
    kinds = [{"name": "fleets", "kind": "Fleet", "namespaced": True}, {"name": "fleets/scale", "kind": "Scale"}]
    cluster = aims_at("example.com/v1", "Fleet", **{"/apis/example.com/v1": {"resources": kinds}})
    cluster.other["/apis/keda.sh/v1alpha1"] = {"resources": [{"name": "scaledobjects", "kind": "ScaledObject"}]}
    cluster.objects |= {"/apis/example.com/v1/fleets": [], "/apis/keda.sh/v1alpha1/scaledobjects": []}
    async with observing(cluster, tmp_path) as observer:
        before = {source.name for source in (await settled(observer)).sources}
        cluster.other.clear()
        snapshot = await observer.snapshot(1001.0, {})
    assert before - {source.name for source in snapshot.sources} == {"fleets", "scaledobjects"}
    assert [code for code, _ in only(snapshot).variants[0].target.faults] == [Code.TARGET_NOT_FOUND]


async def test_without_keda_there_is_no_source_of_scaled_objects(tmp_path: Path) -> None:
    assert "scaledobjects" not in {source.name for source in (await look(usual(), tmp_path)).sources}


@pytest.mark.parametrize(
    "path", ["/apis/keda.sh/v1alpha1", "/apis/keda.sh/v1alpha1/scaledobjects"], ids=["whether there are any", "they"]
)
async def test_scaled_objects_that_may_not_be_read_are_a_sick_source(tmp_path: Path, path: str) -> None:
    cluster = usual()
    cluster.other["/apis/keda.sh/v1alpha1"] = {"resources": [{"name": "scaledobjects", "kind": "ScaledObject"}]}
    cluster.forbidden.add(path)
    async with observing(cluster, tmp_path) as observer:
        snapshot = await observer.snapshot(1000.0, {})
        sick = {source.name: source.message for source in snapshot.sources if not source.healthy}
    assert "HTTP 403" in sick["scaledobjects"]


async def test_what_follows_is_known_of_every_source(tmp_path: Path) -> None:
    cluster = usual()
    cluster.other["/apis/keda.sh/v1alpha1"] = {"resources": [{"name": "scaledobjects", "kind": "ScaledObject"}]}
    cluster.objects["/apis/keda.sh/v1alpha1/scaledobjects"] = []
    names = {source.name for source in (await look(cluster, tmp_path)).sources}
    assert {"pods", "scaledobjects", "discovery", "scales", "prometheus"} <= names
    assert names - {"declarations"} <= OUTCOMES.keys()


async def test_a_rollout_its_surge_a_refused_quota_and_the_drain_flag(tmp_path: Path) -> None:
    cluster = usual()
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: gpus"}
    drains = template(
        nodeSelector={"pool": "h100"},
        containers=[
            {"command": ["sh", "-c", "vllm serve m --shutdown-timeout=45"], "resources": {"limits": {GPU: "2"}}}
        ],
    )
    cluster.objects["/apis/apps/v1/deployments"] = [
        deployment(template=drains, replicas=3, updatedReplicas=1, conditions=[refused])
    ]
    seen = await target(cluster, tmp_path)
    assert (seen.rolling_out, seen.surge_replicas) == (True, 1), "25 % of 2, rounded up"
    assert seen.replica_failure == "exceeded quota: gpus"
    assert (seen.shutdown_timeout_s, seen.gpus_per_replica) == (45.0, 2)
    assert (seen.pre_stop_s, seen.termination_grace_s) == (0.0, 60.0)
    assert seen.node_selector == (("pool", "h100"),)
    assert seen.faults == ()


def stateful_set(**strategy: Any) -> Cluster:
    cluster = usual()
    item = deployment(currentRevision="one", updateRevision="two")
    item["spec"]["updateStrategy"] = strategy
    cluster.add("/apis/apps/v1/statefulsets", item)
    ref = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "chat-h100"}
    cluster.objects[f"{OWN}/inferenceservices"] = [service(scaleTargetRef=ref)]
    return cluster


@pytest.mark.parametrize(
    ("strategy", "rolling_out"),
    [
        pytest.param({"type": "RollingUpdate"}, True, id="two revisions"),
        pytest.param({"type": "OnDelete"}, False, id="two revisions are the wish"),
        pytest.param({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}, False, id="held by a partition"),
    ],
)
async def test_a_stateful_set_goes_by_ordinal(tmp_path: Path, strategy: dict[str, Any], rolling_out: bool) -> None:
    seen = await target(stateful_set(**strategy), tmp_path)
    assert (seen.ordinal, seen.rolling_out, seen.spec_replicas) == (True, rolling_out, 2)


@pytest.mark.parametrize(("policy", "ordered"), [("Parallel", False), ("OrderedReady", True)])
async def test_whether_pods_of_a_stateful_set_wait_for_one_another(tmp_path: Path, policy: str, ordered: bool) -> None:
    cluster = stateful_set()
    cluster.objects["/apis/apps/v1/statefulsets"][0]["spec"]["podManagementPolicy"] = policy
    assert (await target(cluster, tmp_path)).ordered is ordered


@pytest.mark.parametrize(
    ("spec", "ordered"),
    [
        pytest.param({"startupPolicy": "LeaderCreated"}, False, id="workers come with their leader"),
        pytest.param({"startupPolicy": "LeaderReady"}, True, id="workers come once it is ready"),
        pytest.param({}, True, id="a kind that does not say"),
    ],
)
def test_whether_pods_of_a_foreign_kind_wait_for_one_another(spec: dict[str, Any], ordered: bool) -> None:
    written = msgspec.json.encode({"metadata": meta("chat"), "spec": spec, "status": {}})
    item = msgspec.json.decode(written, type=Opaque)
    scale = scale_view({"spec": {"replicas": 2}})
    assert custom_view("LeaderWorkerSet", item, scale).ordered is ordered


async def test_a_kind_known_by_discovery_is_scaled_by_its_groups(tmp_path: Path) -> None:
    kinds = [
        {"name": "leaderworkersets", "kind": "LeaderWorkerSet", "namespaced": True},
        {"name": "leaderworkersets/scale", "kind": "Scale", "namespaced": True},
    ]
    cluster = aims_at("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", **{LWS: {"resources": kinds}})
    worker = template(containers=[{"resources": {"limits": {GPU: "8"}}}])
    spec = {"replicas": 1, "leaderWorkerTemplate": {"size": 2, "workerTemplate": worker}}
    cluster.add(f"{LWS}/leaderworkersets", {"metadata": meta("chat-h100"), "spec": spec, "status": {"replicas": 1}})
    scale_path = f"{LWS}/namespaces/team-a/leaderworkersets/chat-h100/scale"
    cluster.other[scale_path] = {
        "metadata": {"resourceVersion": "3"},
        "spec": {"replicas": 1},
        "status": {"replicas": 1, "selector": "app=chat"},
    }
    async with observing(cluster, tmp_path) as observer:
        variant = (await settled(observer)).services[0].variants[0]
        await observer.snapshot(3.0, {})
    seen = variant.target
    assert seen.resource_version == "3", "replicas and version must be of one moment, or a write passes over another's"
    assert (seen.exists, seen.ordinal, seen.pods_per_replica, seen.gpus_per_replica) == (True, True, 2, 16)
    assert (seen.spec_replicas, seen.uid, seen.faults) == (1, "uid-chat-h100", ())
    assert [item.name for item in variant.pods] == ["a", "b"]
    assert cluster.asked.count(scale_path) == 1, "an unchanged object is not asked again"


def leader_worker_set() -> Cluster:
    """One group of a leader and a worker; `/scale` selects leaders alone, as the real kind's does."""
    kinds = [
        {"name": "leaderworkersets", "kind": "LeaderWorkerSet", "namespaced": True},
        {"name": "leaderworkersets/scale", "kind": "Scale", "namespaced": True},
    ]
    cluster = aims_at("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", **{LWS: {"resources": kinds}})
    both = template(containers=[{"resources": {"limits": {GPU: "4"}}}])
    spec = {"replicas": 1, "leaderWorkerTemplate": {"size": 2, "leaderTemplate": both, "workerTemplate": both}}
    cluster.add(f"{LWS}/leaderworkersets", {"metadata": meta("chat-h100"), "spec": spec, "status": {"replicas": 1}})
    prefix = "leaderworkerset.sigs.k8s.io"
    cluster.objects["/api/v1/pods"] = [
        pod(name, spec=BOUND, labels={f"{prefix}/name": of, f"{prefix}/worker-index": index})
        for name, of, index in (("c-0", "chat-h100", "0"), ("c-0-1", "chat-h100", "1"), ("d-0", "other", "0"))
    ]
    cluster.other[LWS_SCALE] = {
        "metadata": {"resourceVersion": "3"},
        "spec": {"replicas": 1},
        "status": {"replicas": 1, "selector": f"{prefix}/name=chat-h100,{prefix}/worker-index=0"},
    }
    return cluster


async def test_a_group_is_its_leader_which_serves_and_its_workers_which_hold_gpus(tmp_path: Path) -> None:
    variant = only(await look(leader_worker_set(), tmp_path)).variants[0]
    assert [(seen.name, seen.gpus, seen.serves) for seen in variant.pods] == [("c-0", 4, True), ("c-0-1", 4, False)]
    assert (variant.target.pods_per_replica, variant.target.gpus_per_replica) == (2, 8)


@pytest.mark.parametrize(
    ("path", "healthy_without"),
    [
        pytest.param(f"{LWS}/leaderworkersets", "leaderworkersets", id="the kind may not be listed"),
        pytest.param(LWS_SCALE, "scales", id="its scale may not be read"),
    ],
)
async def test_a_target_that_may_not_be_read_is_said_with_the_rights_it_needs(
    tmp_path: Path, path: str, healthy_without: str
) -> None:
    cluster = leader_worker_set()
    cluster.forbidden.add(path)
    async with observing(cluster, tmp_path) as observer:
        message = await fault(observer, Code.TARGET_UNREADABLE)
        sick = {source.name for source in (await observer.snapshot(3.0, {})).sources if not source.healthy}
    assert healthy_without in sick
    assert f"HTTP 403: no right to {path}" in message
    assert "get, list, watch on leaderworkersets and get, patch on leaderworkersets/scale" in message
    assert 'of group "leaderworkerset.x-k8s.io"' in message


async def test_a_kind_of_targets_that_can_no_longer_be_watched_is_said_on_its_services(tmp_path: Path) -> None:
    """What was seen of it before is the past."""
    cluster = leader_worker_set()
    async with observing(cluster, tmp_path) as observer:
        assert only(await settled(observer)).variants[0].target.faults == ()
        cluster.forbidden.add(f"{LWS}/leaderworkersets")
        await cluster.changed()
        message = await fault(observer, Code.TARGET_UNREADABLE)
    assert f"HTTP 403: no right to {LWS}/leaderworkersets" in message


async def fault(observer: Observer, code: Code) -> str:
    """The target's message of that code, once there is one."""
    async with asyncio.timeout(10):
        while True:
            faults = dict(only(await observer.snapshot(2.0, {})).variants[0].target.faults)
            if code in faults:
                return faults[code]
            await asyncio.sleep(0.01)


async def test_a_kind_that_is_not_listed_yet_is_not_missing(tmp_path: Path) -> None:
    kinds = [{"name": "fleets", "kind": "Fleet", "namespaced": True}, {"name": "fleets/scale", "kind": "Scale"}]
    cluster = aims_at("example.com/v1", "Fleet", **{"/apis/example.com/v1": {"resources": kinds}})
    cluster.silent.add("/apis/example.com/v1/fleets")  # an answer of whatever kind would be more than Pending
    async with observing(cluster, tmp_path) as observer:
        seen = (await observer.snapshot(1.0, {})).services[0].variants[0].target
    assert [code for code, _ in seen.faults] == [Code.PENDING]


async def test_a_new_generation_wakes_and_a_status_write_does_not(tmp_path: Path) -> None:
    cluster = usual()
    async with observing(cluster, tmp_path) as observer:
        assert observer.wake.is_set(), "the first list brings new wishes"
        observer.wake.clear()
        (item,) = cluster.objects[f"{OWN}/inferenceservices"]
        item["metadata"]["resourceVersion"] = "6"
        item["status"] = {"reason": "WithinTarget"}
        await cluster.changed()
        await eventually(lambda: (observer.raw_service("team-a/chat") or {})["status"] != {})
        assert not observer.wake.is_set()
        item["metadata"] |= {"resourceVersion": "7", "generation": 2}
        await cluster.changed()
        await asyncio.wait_for(observer.wake.wait(), 10)
        assert (await observer.snapshot(1.0, {})).services[0].spec.generation == 2


async def test_a_service_deleted_in_a_watch_gap_is_gone_and_wakes(tmp_path: Path) -> None:
    cluster = usual()
    async with observing(cluster, tmp_path) as observer:
        observer.wake.clear()
        cluster.objects[f"{OWN}/inferenceservices"] = []
        await cluster.changed()
        await asyncio.wait_for(observer.wake.wait(), 10)
        assert (await observer.snapshot(1.0, {})).services == ()
        assert observer.raw_service("team-a/chat") is None


async def test_a_service_that_is_being_deleted_is_left_out_and_named(tmp_path: Path) -> None:
    cluster = usual()
    cluster.objects[f"{OWN}/inferenceservices"][0]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    async with observing(cluster, tmp_path) as observer:
        assert (await observer.snapshot(1.0, {})).services == ()
        assert observer.deleting == ("team-a/chat",)


async def test_an_object_that_cannot_be_read_is_said_and_hides_no_other(tmp_path: Path) -> None:
    cluster = usual()
    broken = service("broken")
    broken["spec"]["objectives"] = {"timeToFirstToken": "soon"}
    cluster.add(f"{OWN}/inferenceservices", broken)
    snapshot = await look(cluster, tmp_path)
    assert [state.spec.key for state in snapshot.services] == ["team-a/chat"]
    source = next(source for source in snapshot.sources if source.name == "declarations")
    assert not source.healthy
    assert "broken" in source.message and "timeToFirstToken" in source.message


@pytest.mark.parametrize("levels", [400, 1500, 9000])
async def test_a_spec_nested_thousands_of_levels_deep_concerns_its_service_alone(tmp_path: Path, levels: int) -> None:
    cluster = Deep(levels)
    async with observing(cluster, tmp_path) as observer:
        snapshot = await observer.snapshot(1000.0, {})
        assert "team-a/chat" in [state.spec.key for state in snapshot.services]
        if levels > 800:
            (unreadable,) = snapshot.unreadable
            assert unreadable.key == "team-a/deep"
            assert "nested deeper than 800 levels" in unreadable.message
            source = next(source for source in snapshot.sources if source.name == "declarations")
            assert "team-a/deep" in source.message
            assert next(source for source in snapshot.sources if source.name == "inferenceservices").healthy
            assert observer.raw_service("team-a/deep") is not None
        cluster.levels = 0
        cluster.objects[f"{OWN}/inferenceservices"].pop()
        await cluster.changed()
        await eventually(lambda: observer.raw_service("team-a/deep") is None)
        assert (await observer.snapshot(1001.0, {})).unreadable == ()


async def test_a_raw_object_too_deep_for_the_callers_stack_is_none_to_him(tmp_path: Path) -> None:
    def below(frames: int) -> Any:
        return below(frames - 1) if frames else observer.raw_service("team-a/deep")

    async with observing(Deep(700), tmp_path) as observer:
        assert below(0) is not None
        assert below(500) is None


def test_whatever_a_parser_raises_concerns_its_object_alone() -> None:
    def parse(obj: Mapping[str, Any]) -> int:
        if obj["metadata"]["name"] == "odd":
            raise RecursionError("too deep")
        return 1

    items = {name: Opaque(OwnMeta(name=name)) for name in ("a", "odd")}
    declared = Declared("GPUPool", parse)
    assert declared.update(items) == {"a": 1}
    (unreadable,) = declared.unreadable()
    assert unreadable.key == "odd" and "too deep" in unreadable.message


def test_a_label_that_changes_is_seen_though_the_generation_stays() -> None:
    """The API server counts a new generation for a spec alone: `kubectl label` makes none."""

    def parse(obj: Mapping[str, Any]) -> Mapping[str, str] | None:
        labels: Mapping[str, str] | None = obj["metadata"]["labels"]
        return labels

    declared = Declared("InferenceService", parse)
    for labels in ({"team": "search"}, {"team": "tools"}, None):
        item = Opaque(OwnMeta(name="a", uid="u", generation=1, labels=labels))
        assert declared.update({"a": item}) == {"a": labels}


async def test_a_scale_that_is_none_is_an_error_of_its_target_alone(tmp_path: Path) -> None:
    cluster = leader_worker_set()
    cluster.other[LWS_SCALE] = {"spec": {"replicas": "many"}}
    async with observing(cluster, tmp_path) as observer:
        message = await fault(observer, Code.TARGET_UNREADABLE)
    assert "the answer is no Scale" in message and "many" in message


async def test_an_object_of_another_kind_that_cannot_be_read_is_named_and_hides_no_other(tmp_path: Path) -> None:
    cluster = usual()
    cluster.add("/api/v1/pods", pod("odd", labels={"app": 5}))
    snapshot = await look_once(cluster, tmp_path)
    assert [seen.name for seen in only(snapshot).variants[0].pods] == ["a", "b"]
    source = next(source for source in snapshot.sources if source.name == "declarations")
    assert "team-a/odd cannot be read" in source.message


async def test_an_odd_service_object_is_unreadable_and_hides_no_other(tmp_path: Path) -> None:
    cluster = usual()
    odd = service("odd")
    odd["metadata"]["labels"] = {"app": 5}
    cluster.add(f"{OWN}/inferenceservices", odd)
    snapshot = await look_once(cluster, tmp_path)
    assert only(snapshot).spec.key == "team-a/chat"
    assert [item.key for item in snapshot.unreadable] == ["team-a/odd"]


async def test_a_variant_that_cannot_be_read_is_a_fault_of_it_alone(tmp_path: Path) -> None:
    cluster = usual()
    odd = deployment("odd", updatedReplicas=1)
    odd["spec"]["strategy"]["rollingUpdate"]["maxSurge"] = "a few"
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "odd"}
    cluster.add("/apis/apps/v1/deployments", odd)
    cluster.add(f"{OWN}/inferenceservices", service("other", scaleTargetRef=ref))
    snapshot = await look(cluster, tmp_path)
    chat, other = snapshot.services
    assert chat.variants[0].target.faults == ()
    ((code, message),) = other.variants[0].target.faults
    assert code == Code.TARGET_UNREADABLE
    assert "Deployment team-a/odd" in message and "a few" in message


async def test_a_pool_whose_node_cannot_be_read_is_unreadable_and_hides_no_other(tmp_path: Path) -> None:
    cluster = usual()
    odd = node("odd", "l40s")
    odd["metadata"]["creationTimestamp"] = "a while ago"
    cluster.add("/api/v1/nodes", odd)
    cluster.add(f"{OWN}/gpupools", pool("l40s"))
    snapshot = await look_once(cluster, tmp_path)
    assert [state.spec.name for state in snapshot.pools] == ["h100"]
    assert [item.key for item in snapshot.unreadable] == ["l40s"]


async def test_what_ended_is_started_again(tmp_path: Path) -> None:
    cluster = usual()
    async with observing(cluster, tmp_path) as observer:
        names = {"informer pods", "gateway queues"}
        ended = [task for task in asyncio.all_tasks() if task.get_name() in names]
        assert len(ended) == len(names)
        for task in ended:
            task.cancel()
        await asyncio.wait(ended)
        await observer.snapshot(1000.0, {})
        assert {task.get_name() for task in asyncio.all_tasks()} >= names
        cluster.add("/api/v1/pods", pod("c", spec=BOUND))
        await cluster.changed()
        async with asyncio.timeout(10):
            while len(only(await observer.snapshot(1001.0, {})).variants[0].pods) < 3:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)


async def test_the_raw_object_is_whole_but_for_bookkeeping(tmp_path: Path) -> None:
    cluster = usual()
    (item,) = cluster.objects[f"{OWN}/inferenceservices"]
    item["metadata"] |= {
        "annotations": {"team": "a", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
        "finalizers": ["ebbtide.dev/delete"],
        "managedFields": [{"manager": "kubectl"}],
    }
    async with observing(cluster, tmp_path) as observer:
        raw = observer.raw_service("team-a/chat")
    assert raw is not None
    assert (raw["apiVersion"], raw["kind"], raw["spec"]) == ("ebbtide.dev/v1alpha1", "InferenceService", item["spec"])
    assert raw["metadata"]["annotations"] == {"team": "a"}
    assert list(raw["metadata"]["finalizers"]) == ["ebbtide.dev/delete"]
    assert "managedFields" not in raw["metadata"]


async def test_the_same_cluster_gives_the_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    cluster, turned = shared(), shared()
    for items in turned.objects.values():
        items.reverse()
    first, second = await look(cluster, tmp_path), await look(turned, tmp_path)
    encode = msgspec.json.Encoder(decimal_format="string").encode
    assert encode((first.services, first.pools)) == encode((second.services, second.pools))
