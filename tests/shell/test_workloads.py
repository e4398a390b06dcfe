"""What engine blocks become, and what happens to it when others interfere or the service goes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.act.farewell import Farewell
from ebbtide.act.overlay import merge
from ebbtide.act.ownership import handover
from ebbtide.act.render import (
    DELETION_POLICY,
    PRE_STOP_S,
    RENDERED_HASH,
    SERVICE_LABEL,
    VARIANT_LABEL,
    drain_seconds,
    render_deployment,
    render_service,
)
from ebbtide.act.result import Outcome
from ebbtide.act.workloads import Workloads
from ebbtide.kube.client import KubeClient
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import Snapshot
from ebbtide.model.spec import EngineType, Mode, Toleration
from ebbtide.observe.projections import Workload
from ebbtide.observe.slim import Slim
from ebbtide.observe.workloads import deployment_view
from ebbtide.record.refusals import Refusals
from tests import builders
from tests.shell import world
from tests.shell.fake_api import FakeApi, serving

DEPLOYMENTS = "/apis/apps/v1/namespaces/team/deployments"
DEPLOYMENT = f"{DEPLOYMENTS}/chat-h100"
SERVICE = "/api/v1/namespaces/team/services/chat"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/inferenceservices.ebbtide.dev"
INFS = "/apis/ebbtide.dev/v1alpha1/namespaces/team/inferenceservices/chat"


def rendered(type_: EngineType = EngineType.VLLM, overlay: Any = None, gpus: int | None = None, **engine: Any) -> Any:
    json = msgspec.json.encode(overlay or {}).decode()
    block = world.engine(type_, pod_template_json=json, **engine)
    variant = world.variant_spec(engine=block, gpus_per_replica=gpus)
    return render_deployment(world.service_spec(variants=(variant,)), variant, world.pool_spec())


def pod_of(deployment: Any) -> Any:
    return deployment["spec"]["template"]["spec"]


def container_of(deployment: Any) -> Any:
    return pod_of(deployment)["containers"][0]


def test_neither_replicas_nor_owner_references_are_ever_rendered() -> None:
    deployment = rendered(overlay={"spec": {"priorityClassName": "serving"}})
    assert "replicas" not in deployment["spec"]
    assert "ownerReferences" not in deployment["metadata"]


def test_pods_go_to_their_pool_with_their_gpus() -> None:
    deployment = rendered(gpus=4)
    assert pod_of(deployment)["nodeSelector"] == {"pool": "h100"}
    assert pod_of(deployment)["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    assert container_of(deployment)["resources"] == {"limits": {"nvidia.com/gpu": "4"}}


def test_a_toleration_with_a_value_is_an_equal() -> None:
    variant = world.variant_spec(engine=world.engine())
    pool = world.pool_spec(tolerations=(Toleration(key="team", value="chat"),))
    deployment = render_deployment(world.service_spec(variants=(variant,)), variant, pool)
    assert pod_of(deployment)["tolerations"] == [{"key": "team", "operator": "Equal", "value": "chat"}]


@pytest.mark.parametrize(
    ("engine", "verdict"),
    [
        ({}, "True"),
        ({"args": ("--shutdown-timeout=300",)}, "True"),
        ({"args": ("--shutdown-timeout=0",)}, "False"),
        ({"overlay": {"spec": {"terminationGracePeriodSeconds": 60}}}, "False"),
        ({"type_": EngineType.SGLANG}, None),
        ({"type_": EngineType.TENSORRT_LLM}, None),
    ],
)
def test_what_is_built_drains_unless_its_owner_says_otherwise(engine: dict[str, Any], verdict: str | None) -> None:
    deployment = rendered(**engine)
    view = deployment_view(Slim().workload(msgspec.convert(deployment, Workload)))
    block = world.engine(engine.get("type_", EngineType.VLLM))
    state = builders.variant(
        "h100",
        (),
        0,
        shutdown_timeout_s=view.ending.shutdown_timeout_s,
        pre_stop_s=view.ending.pre_stop_s,
        termination_grace_s=view.termination_grace_s,
    )
    declared = builders.spec(variants=[builders.variant_spec(engine=block)])
    decided = builders.Loop().one(builders.snapshot(builders.service(state, declared)))
    said = [item.status.value for item in decided.conditions if item.type == "EngineDrains"]
    assert said == ([verdict] if verdict else [])


def test_a_full_pool_cannot_deadlock_a_rollout() -> None:
    assert rendered()["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


@pytest.mark.parametrize(
    ("type_", "args", "port", "want"),
    [
        (EngineType.VLLM, ("m",), 8000, ["m", "--shutdown-timeout", "120"]),
        (EngineType.VLLM, ("m", "--shutdown-timeout", "30"), 8000, ["m", "--shutdown-timeout", "30"]),
        (EngineType.VLLM, ("m", "--shutdown-timeout=0"), 8000, ["m", "--shutdown-timeout=0"]),
        (EngineType.VLLM, ("m",), 9000, ["m", "--shutdown-timeout", "120", "--port", "9000"]),
        (EngineType.TENSORRT_LLM, ("m",), 8000, ["m", "--host", "0.0.0.0"]),
        (EngineType.TENSORRT_LLM, ("m", "--host=::"), 8000, ["m", "--host=::"]),
        (EngineType.SGLANG, ("m",), 8000, ["m", "--host", "0.0.0.0", "--enable-metrics", "--port", "8000"]),
    ],
)
def test_flags_that_drain_and_reach_an_engine_are_added_unless_set(
    type_: EngineType, args: tuple[str, ...], port: int, want: list[str]
) -> None:
    assert container_of(rendered(type_, args=args, port=port))["args"] == want


@pytest.mark.parametrize(
    ("args", "want_drain_s"),
    [
        ((), 120),
        (("--shutdown-timeout", "300"), 300),
        (("--shutdown-timeout=0",), 0),
        (("--shutdown-timeout", "soon"), 120),
        (("--shutdown-timeout",), 120),
    ],
)
def test_the_grace_period_outlasts_the_drain(args: tuple[str, ...], want_drain_s: int) -> None:
    engine = world.engine(args=args)
    deployment = rendered(args=args)
    assert drain_seconds(engine) == want_drain_s
    assert container_of(deployment)["lifecycle"] == {"preStop": {"sleep": {"seconds": PRE_STOP_S}}}
    assert pod_of(deployment)["terminationGracePeriodSeconds"] > PRE_STOP_S + want_drain_s + 10


@pytest.mark.parametrize(
    ("type_", "path"),
    [
        (EngineType.VLLM, "/metrics"),
        (EngineType.TENSORRT_LLM, "/prometheus/metrics"),
        (EngineType.SGLANG, "/metrics"),
    ],
)
def test_prometheus_is_told_where_the_engine_publishes(type_: EngineType, path: str) -> None:
    annotations = rendered(type_, port=9000)["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"prometheus.io/scrape": "true", "prometheus.io/port": "9000", "prometheus.io/path": path}


def test_the_overlay_adds_without_losing_what_is_rendered() -> None:
    overlay = {
        "metadata": {"labels": {"team": "a", SERVICE_LABEL: "stolen"}, "annotations": {"x": "y"}},
        "spec": {
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "containers": [
                {"name": "engine", "env": [{"name": "B", "value": "2"}], "livenessProbe": None},
                {"name": "sidecar", "image": "example.com/proxy"},
            ],
        },
    }
    deployment = rendered(overlay=overlay, env=(("A", "1"),))
    engine, sidecar = pod_of(deployment)["containers"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert (labels["team"], labels[SERVICE_LABEL]) == ("a", "chat"), "the selector must always match"
    assert [env["name"] for env in engine["env"]] == ["A", "B"]
    assert "readinessProbe" in engine
    assert "livenessProbe" not in engine, "null takes away"
    assert sidecar == {"name": "sidecar", "image": "example.com/proxy"}
    assert [toleration["key"] for toleration in pod_of(deployment)["tolerations"]] == ["nvidia.com/gpu", "spot"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(
    base=st.dictionaries(st.text(max_size=5), json_values), overlay=st.dictionaries(st.text(max_size=5), json_values)
)
def test_merging_twice_changes_nothing_more(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    once = merge(base, overlay)
    assert merge(once, overlay) == once
    assert merge(base, {}) == base


@pytest.mark.parametrize("policy", ["Orphan", "Delete"])
def test_the_deployment_says_what_becomes_of_it_once_its_variant_is_gone(policy: str) -> None:
    assert rendered(deletion_policy=policy)["metadata"]["annotations"][DELETION_POLICY] == policy


def test_the_hash_follows_the_content() -> None:
    def digest(deployment: Any) -> str:
        return str(deployment["metadata"]["annotations"][RENDERED_HASH])

    assert digest(rendered()) == digest(rendered())
    assert len({digest(rendered()), digest(rendered(gpus=2)), digest(rendered(image="example.com/other"))}) == 3


def test_one_service_stands_before_all_engine_variants_and_only_those() -> None:
    variants = (
        world.variant_spec("h100", engine=world.engine(port=9000)),
        world.variant_spec("l40s", engine=world.engine()),
        world.variant_spec("own"),
    )
    front = render_service(world.service_spec(variants=variants))
    assert front is not None
    assert front["spec"]["selector"] == {SERVICE_LABEL: "chat"}
    assert front["spec"]["ports"][0]["targetPort"] == "http"
    assert render_service(world.service_spec()) is None


def test_creation_is_handed_to_apply_and_replicas_to_the_scale_writer() -> None:
    created = {
        "manager": "ebbtide-workloads",
        "operation": "Update",
        "apiVersion": "apps/v1",
        "fieldsV1": {"f:spec": {"f:replicas": {}, "f:template": {}}},
    }
    other = {"manager": "kube-controller-manager", "operation": "Update", "subresource": "status", "fieldsV1": {}}
    live = {"metadata": {"resourceVersion": "7", "managedFields": [created, other]}}
    patch = handover(live)
    assert patch is not None
    entries = {(entry["manager"], entry["operation"]): entry["fieldsV1"] for entry in patch[0]["value"]}
    assert entries == {
        ("kube-controller-manager", "Update"): {},
        ("ebbtide-workloads", "Apply"): {"f:spec": {"f:template": {}}},
        ("ebbtide-scale", "Update"): {"f:spec": {"f:replicas": {}}},
    }
    assert patch[1] == {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"}
    assert handover({"metadata": {"resourceVersion": "8", "managedFields": patch[0]["value"]}}) is None


# -- against an API server that misbehaves


@pytest.fixture
def api() -> FakeApi:
    return FakeApi(objects={DEPLOYMENTS: {"items": []}})


@pytest.fixture
async def client(api: FakeApi, tmp_path: Path) -> AsyncIterator[KubeClient]:
    async with serving(api, tmp_path) as client:
        yield client


class Time:
    def __init__(self) -> None:
        self.now_s = world.NOW_S

    def __call__(self) -> float:
        return self.now_s


def declared(mode: Mode = Mode.AUTO, pool: str = world.POOL, **engine: Any) -> Snapshot:
    variant = world.variant_spec(engine=world.engine(**engine), pool=pool)
    return world.snapshot(world.service_state(world.service_spec(mode=mode, variants=(variant,))))


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.RECOMMEND])
async def test_only_auto_creates_anything(client: KubeClient, api: FakeApi, mode: Mode) -> None:
    assert await Workloads(client, Time()).reconcile(declared(mode)) == []
    assert api.asked == []


async def test_creation_is_a_post_at_zero(client: KubeClient, api: FakeApi) -> None:
    await Workloads(client, Time()).reconcile(declared())
    post = next(asked for asked in api.writes() if asked.path == DEPLOYMENTS)
    assert (post.method, post.body["spec"]["replicas"]) == ("POST", 0)
    assert post.params["fieldManager"] == "ebbtide-workloads"


async def test_the_handover_is_tried_again_when_the_deployment_controller_was_faster(
    client: KubeClient, api: FakeApi
) -> None:
    entry = {"manager": "ebbtide-workloads", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}}

    def live(version: str) -> dict[str, Any]:
        return {"metadata": {"uid": "d1", "resourceVersion": version, "managedFields": [entry]}}

    api.will("GET", DEPLOYMENT, (404, {"message": "not there yet"}), (200, live("2")))
    api.will("POST", DEPLOYMENTS, (201, live("1")))
    api.will("PATCH", DEPLOYMENT, (409, {"message": "the object has been modified"}), (200, {"metadata": {}}))
    [result, _] = await Workloads(client, Time()).reconcile(declared())
    versions = [asked.body[1]["value"] for asked in api.writes() if asked.path == DEPLOYMENT]
    assert (result.outcome, versions) == (Outcome.DONE, ["1", "2"])


async def test_a_variant_on_an_unknown_pool_is_not_created(client: KubeClient, api: FakeApi) -> None:
    await Workloads(client, Time()).reconcile(declared(pool="nowhere"))
    assert [asked.path for asked in api.writes()] == ["/api/v1/namespaces/team/services"]


@pytest.mark.parametrize(
    ("status", "outcome", "again_after_s"),
    [
        (403, Outcome.FORBIDDEN, 600),
        (422, Outcome.INVALID, 600),
        (500, Outcome.RETRY, 30),
        (409, Outcome.CONFLICT, 30),
    ],
)
async def test_a_refusal_is_reported_once_and_not_repeated_every_cycle(
    client: KubeClient, api: FakeApi, status: int, outcome: Outcome, again_after_s: int
) -> None:
    api.will("POST", DEPLOYMENTS, (status, {"message": "no"}))
    time = Time()
    workloads = Workloads(client, time)
    first = await workloads.reconcile(declared())
    assert first[0].outcome is outcome
    time.now_s += again_after_s - 1
    assert await workloads.reconcile(declared()) == []
    time.now_s += 1
    again = await workloads.reconcile(declared())
    assert again[0].outcome is Outcome.DONE


async def test_a_change_of_the_declaration_is_tried_at_once_after_a_refusal(client: KubeClient, api: FakeApi) -> None:
    api.will("POST", DEPLOYMENTS, (422, {"message": "bad image"}))
    workloads = Workloads(client, Time())
    await workloads.reconcile(declared(image="bad"))
    [result] = await workloads.reconcile(declared(image="good"))
    assert result.outcome is Outcome.DONE


@pytest.mark.parametrize(
    ("story", "asked", "overlay", "present", "payable", "written"),
    [
        ("more than every ceiling can pay", 4, {}, 1, 2, False),
        ("as many as they can pay", 4, {}, 1, 4, True),
        ("fewer than now, with no money left", 2, {}, 4, 4, True),
        ("an overlay that asks for more", 1, {"limits": {"nvidia.com/gpu": "8"}}, 1, 2, False),
        ("an overlay that asks for more in words of its own", 1, {"requests": {"nvidia.com/gpu": 8}}, 1, 2, False),
        ("another image, of as many", 4, {}, 4, 4, True),
        ("no policy pays for it", 4, {}, 1, None, True),
    ],
)
async def test_a_template_that_asks_for_more_gpus_is_written_once_every_ceiling_can_pay_it(
    client: KubeClient,
    api: FakeApi,
    story: str,
    asked: int,
    overlay: dict[str, Any],
    present: int,
    payable: int | None,
    written: bool,
) -> None:
    template = {"spec": {"containers": [{"name": "engine", "resources": overlay}]}}
    block = world.engine(pod_template_json=msgspec.json.encode(template).decode())
    variant = world.variant_spec(engine=block, gpus_per_replica=asked)
    state = world.variant_state(target=world.target_state(template_gpus=present))
    snapshot = world.snapshot(world.service_state(world.service_spec(variants=(variant,)), state))
    words = "CostPolicy cap: 3.00 USD an hour now"
    limited = world.variant_plan(template_gpus=payable, template_because=words)
    found = world.condition("TargetResolved")
    decided = world.plan(world.service_plan(variants=(limited,), conditions=(found,)))
    workloads = Workloads(client, Time())
    for _ in range(2):
        results = {result.what: result for result in await workloads.reconcile(snapshot, decided)}
        wrote = any(each.path.startswith(DEPLOYMENTS) for each in api.writes())
        assert wrote is written, story
        if not written:
            assert results["deployment"].outcome is Outcome.REFUSED, "said as long as it stays so"
            assert "a replica would hold" in results["deployment"].message and words in results["deployment"].message
            (service,) = Refusals().added(decided, results.values()).services
            (resolved,) = [item for item in service.conditions if item.type == "TargetResolved"]
            assert (resolved.reason, "stays as it is" in resolved.message) == ("WriteRefused", True)
    if not written:
        paid = world.plan(world.service_plan(variants=(world.variant_plan(template_gpus=8),)))
        await workloads.reconcile(snapshot, paid)
        assert any(each.path.startswith(DEPLOYMENTS) for each in api.writes()), "once there is money"


FOREIGN = ((Code.TARGET_FOREIGN.value, "variant h100: Deployment team/chat-h100 is not Ebbtide's"),)


def beside_a_foreign_one() -> Snapshot:
    target = world.target_state(exists=False, uid="", faults=FOREIGN)
    (service,) = declared().services
    return world.snapshot(world.service_state(service.spec, world.variant_state(target=target)))


async def test_a_deployment_of_somebody_elses_is_not_even_asked_for_and_built_as_soon_as_it_is_gone(
    client: KubeClient, api: FakeApi
) -> None:
    workloads = Workloads(client, Time())
    await workloads.reconcile(beside_a_foreign_one())
    assert [asked.path for asked in api.asked if "deployments" in asked.path] == []
    [result] = await workloads.reconcile(declared())
    assert (result.what, result.outcome) == ("deployment", Outcome.DONE)


LABELS = {"app.kubernetes.io/managed-by": "ebbtide", SERVICE_LABEL: "chat", VARIANT_LABEL: "h100"}


@pytest.mark.parametrize("missing", [None, *LABELS])
async def test_an_object_is_ebbtides_by_all_its_labels_and_named_as_kubectl_names_it(
    client: KubeClient, api: FakeApi, missing: str | None
) -> None:
    labels = {label: value for label, value in LABELS.items() if label != missing}
    api.objects[DEPLOYMENT] = {"metadata": {"uid": "d1", "resourceVersion": "1", "labels": labels}}
    result = next(item for item in await Workloads(client, Time()).reconcile(declared()) if item.what == "deployment")
    assert (result.outcome is Outcome.FOREIGN) == (missing is not None)
    assert result.message.startswith("Deployment team/chat-h100 ")


async def test_a_service_of_somebody_elses_is_named_with_the_ways_out(client: KubeClient, api: FakeApi) -> None:
    api.objects[SERVICE] = {"metadata": {"uid": "s1", "resourceVersion": "1"}}
    [_, result] = await Workloads(client, Time()).reconcile(declared())
    assert result.outcome is Outcome.FOREIGN
    assert result.message == (
        "Service team/chat exists and is not Ebbtide's: delete it, give the InferenceService another name, or hand it "
        "over by labelling it app.kubernetes.io/managed-by=ebbtide,ebbtide.dev/service=chat"
    )


async def test_what_was_refused_and_is_not_declared_any_more_is_refused_no_longer(
    client: KubeClient, api: FakeApi
) -> None:
    """Else the refusal would be shown for as long as the process lives."""
    api.will("POST", DEPLOYMENTS, (422, {"message": "bad image"}))
    workloads = Workloads(client, Time())
    await workloads.reconcile(declared(image="bad"))
    taken_over = world.snapshot()
    [result] = await workloads.reconcile(taken_over)
    assert (result.what, result.variant, result.outcome) == ("deployment", "h100", Outcome.UNCHANGED)
    assert await workloads.reconcile(taken_over) == [], "said once"


def raw(policy: str | None = "Delete", mode: str = "Auto", deleting: bool = False, finalizer: bool = False) -> Any:
    engine = {"type": "vLLM", "image": "x"} | ({"deletionPolicy": policy} if policy else {})
    metadata: dict[str, Any] = {
        "namespace": "team",
        "name": "chat",
        "uid": "u1",
        "resourceVersion": "5",
        "generation": 1,
    }
    metadata["finalizers"] = ["other/keep", *([Farewell.FINALIZER] if finalizer else [])]
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {"metadata": metadata, "spec": {"mode": mode, "variants": [{"name": "h100", "engine": engine}]}}


@pytest.mark.parametrize(
    ("service", "want"),
    [
        pytest.param(raw(), ["other/keep", Farewell.FINALIZER], id="Delete in Auto: added"),
        pytest.param(raw(finalizer=True), None, id="already there"),
        pytest.param(raw("Orphan"), None, id="Orphan: never"),
        pytest.param(raw(None), None, id="unset is Orphan"),
        pytest.param(raw(mode="Recommend"), None, id="Recommend built nothing"),
        pytest.param(raw("Orphan", finalizer=True), ["other/keep"], id="changed to Orphan: removed"),
        pytest.param(raw(mode="Off", finalizer=True), ["other/keep"], id="changed to Off: removed"),
        pytest.param(raw(deleting=True), None, id="going, and not our business"),
    ],
)
async def test_who_carries_the_finalizer(client: KubeClient, api: FakeApi, service: Any, want: Any) -> None:
    await Farewell(client).sync(service)
    bodies = [asked.body["metadata"] for asked in api.writes()]
    assert bodies == ([] if want is None else [{"resourceVersion": "5", "finalizers": want}])


def ours(uid: str = "u1") -> dict[str, Any]:
    return {"metadata": {"uid": "d1", "annotations": {"ebbtide.dev/service-uid": uid}}}


@pytest.mark.parametrize(
    ("crd", "deployment", "deleted"),
    [
        pytest.param({"metadata": {}}, ours(), [DEPLOYMENT, SERVICE], id="the service alone goes: so does its fleet"),
        pytest.param({"metadata": {"deletionTimestamp": "x"}}, ours(), [], id="the CRD goes: the fleet stays"),
        pytest.param(None, ours(), [], id="the CRD is gone: the fleet stays"),
        pytest.param({"metadata": {}}, ours("other"), [SERVICE], id="built for another incarnation: stays"),
        pytest.param({"metadata": {}}, None, [SERVICE], id="deleted by hand before"),
    ],
)
async def test_what_goes_with_a_service(
    client: KubeClient, api: FakeApi, crd: Any, deployment: Any, deleted: list[str]
) -> None:
    api.objects |= {path: value for path, value in ((CRD, crd), (DEPLOYMENT, deployment), (SERVICE, ours())) if value}
    result = await Farewell(client).sync(raw(deleting=True, finalizer=True))
    assert result is not None and result.outcome is Outcome.DONE
    assert [asked.path for asked in api.writes() if asked.method == "DELETE"] == deleted
    assert api.writes()[-1].body["metadata"]["finalizers"] == ["other/keep"]


@pytest.mark.parametrize("mode", ["Off", "Recommend"])
async def test_a_service_that_left_auto_before_it_was_deleted_leaves_its_fleet(
    client: KubeClient, api: FakeApi, mode: str
) -> None:
    api.objects |= {CRD: {"metadata": {}}, DEPLOYMENT: ours(), SERVICE: ours()}
    result = await Farewell(client).sync(raw(mode=mode, deleting=True, finalizer=True))
    assert result is not None and result.outcome is Outcome.DONE and "mode Auto" in result.message
    assert [asked.method for asked in api.writes()] == ["PATCH"]
    assert api.writes()[-1].body["metadata"]["finalizers"] == ["other/keep"]


async def test_when_it_is_not_known_whether_the_crd_goes_nothing_is_deleted(client: KubeClient, api: FakeApi) -> None:
    api.will("GET", CRD, (403, {"message": "no"}))
    api.objects |= {DEPLOYMENT: ours()}
    result = await Farewell(client).sync(raw(deleting=True, finalizer=True))
    assert result is not None and result.outcome is Outcome.FORBIDDEN
    assert api.writes() == []


async def test_a_delete_that_fails_keeps_the_finalizer(client: KubeClient, api: FakeApi) -> None:
    api.objects |= {CRD: {"metadata": {}}, DEPLOYMENT: ours()}
    api.will("DELETE", DEPLOYMENT, (500, {"message": "down"}))
    result = await Farewell(client).sync(raw(deleting=True, finalizer=True))
    assert result is not None and result.outcome is Outcome.RETRY
    assert [asked.method for asked in api.writes()] == ["DELETE"]
    assert INFS not in [asked.path for asked in api.writes()]


OLD = f"{DEPLOYMENTS}/chat-a100"


def left(policy: str | None = "Delete", uid: str = "u1", variant: str = "a100", going: bool = False) -> Any:
    annotations = {"ebbtide.dev/service-uid": uid} | ({DELETION_POLICY: policy} if policy else {})
    metadata = {"name": "chat-a100", "uid": "d2", "annotations": annotations, "labels": {VARIANT_LABEL: variant}}
    return {"metadata": metadata | ({"deletionTimestamp": "x"} if going else {})}


def without_engine(target: str) -> Any:
    """The service after its last engine block became a variant with a target of its own."""
    service = raw(finalizer=True)
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}
    service["spec"]["variants"] = [{"name": "own", "scaleTargetRef": ref}]
    return service


@pytest.mark.parametrize(
    ("service", "deployment", "deleted", "finalizer"),
    [
        pytest.param(raw(finalizer=True), left(), True, None, id="its variant was removed"),
        pytest.param(without_engine("mine"), left(), True, "removed", id="the last one: then the finalizer goes"),
        pytest.param(raw("Orphan", finalizer=True), left(), True, "removed", id="what remains is Orphan"),
        pytest.param(raw(finalizer=True), left("Orphan"), False, None, id="Orphan stays"),
        pytest.param(raw(finalizer=True), left(None), False, None, id="it does not say: stays"),
        pytest.param(raw(finalizer=True), left(uid="other"), False, None, id="built for another incarnation: stays"),
        pytest.param(raw(finalizer=True), left(variant="h100"), False, None, id="its variant is still there"),
        pytest.param(raw(finalizer=True), left(going=True), False, None, id="on its way out already"),
        pytest.param(without_engine("chat-a100"), left(), False, "removed", id="taken over as a target: stays"),
        pytest.param(raw(mode="Recommend", finalizer=True), left(), False, "removed", id="Recommend deletes nothing"),
    ],
)
async def test_what_goes_with_a_removed_variant(
    client: KubeClient, api: FakeApi, service: Any, deployment: Any, deleted: bool, finalizer: str | None
) -> None:
    api.objects |= {DEPLOYMENTS: {"items": [deployment]}, OLD: deployment}
    await Farewell(client).sync(service)
    want = [("DELETE", OLD)] * deleted + [("PATCH", INFS)] * (finalizer == "removed")
    assert [(asked.method, asked.path) for asked in api.writes()] == want
    asked_for = [asked.params["labelSelector"] for asked in api.asked if asked.path == DEPLOYMENTS]
    ours_only = "app.kubernetes.io/managed-by=ebbtide,ebbtide.dev/service=chat,ebbtide.dev/variant"
    assert asked_for == ([] if service["spec"]["mode"] == "Recommend" else [ours_only])


async def test_removed_variants_are_looked_for_once_a_generation_and_again_after_a_failure(
    client: KubeClient, api: FakeApi
) -> None:
    api.objects |= {DEPLOYMENTS: {"items": [left()]}, OLD: left()}
    api.will("DELETE", OLD, (500, {"message": "down"}))
    farewell, service = Farewell(client), without_engine("mine")
    failed = await farewell.sync(service)
    assert failed is not None and failed.outcome is Outcome.RETRY
    assert INFS not in [asked.path for asked in api.writes()], "the finalizer vouches for what is left"
    done = await farewell.sync(service)
    assert done is not None and done.outcome is Outcome.DONE and "deleted chat-a100" in done.message
    listed = len(api.asked)
    service = raw(finalizer=True)
    assert await farewell.sync(service) is None
    assert len(api.asked) == listed, "the same generation costs nothing"
    service["metadata"]["generation"] = 2
    await farewell.sync(service)
    assert [asked.path for asked in api.asked[listed:]] == [DEPLOYMENTS, OLD, OLD]


async def test_a_deleted_service_takes_what_its_removed_variants_left(client: KubeClient, api: FakeApi) -> None:
    api.objects |= {CRD: {"metadata": {}}, DEPLOYMENT: ours(), DEPLOYMENTS: {"items": [left()]}, OLD: left()}
    result = await Farewell(client).sync(raw(deleting=True, finalizer=True))
    assert result is not None and result.outcome is Outcome.DONE
    assert [asked.path for asked in api.writes() if asked.method == "DELETE"] == [DEPLOYMENT, OLD]
