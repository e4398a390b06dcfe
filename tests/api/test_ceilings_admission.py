"""manifests/admission on the real API server: ceilings hold against everybody's hands, and no operator runs.

What is payable was planned and written by Ebbtide's own code before; since then nobody has looked.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from ebbtide.errors import SandboxError
from ebbtide.kube.client import KubeClient
from ebbtide.record.status import StatusWriter
from ebbtide.sandbox.sandbox import Sandbox
from tests.api.samples import MINIMAL_SERVICE, Object, changed
from tests.builders import NOW
from tests.core.purse import Member, World, policy

MANIFESTS = Path(__file__).parents[2] / "manifests"
ADMISSION = MANIFESTS / "admission" / "ceilings.yaml"
OPERATOR = "system:serviceaccount:ebbtide-system:ebbtide"
AUTOSCALER = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
PAID, FREE = "ml", "free"  # namespaces: the policy selects services of the first alone
LWS = "leaderworkerset.x-k8s.io"

pytestmark = pytest.mark.cluster


def service(name: str, variants: list[Object], namespace: str = PAID) -> Object:
    found = changed(MINIMAL_SERVICE, ("metadata", {"name": name, "namespace": namespace}))
    return changed(found, ("spec.variants", variants))


def by_reference(variant: str, name: str, kind: str = "Deployment", api_version: str = "apps/v1") -> Object:
    return {"name": variant, "pool": "h100", "scaleTargetRef": {"apiVersion": api_version, "kind": kind, "name": name}}


def workload(name: str, replicas: int, kind: str = "Deployment", namespace: str = PAID, **spec: Any) -> Object:
    labels = {"app": name}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "engine", "image": "engine"}]}}
    body = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": pod, **spec}
    if kind == "StatefulSet":
        body["serviceName"] = name
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": body}


def leader_workers(replicas: int) -> Object:
    meta = {"name": "grouped", "namespace": PAID}
    return {"apiVersion": f"{LWS}/v1", "kind": "LeaderWorkerSet", "metadata": meta, "spec": {"replicas": replicas}}


def leader_worker_sets() -> Object:
    """As much of the kind as has to do with replicas."""
    replicas = {"type": "object", "properties": {"replicas": {"type": "integer", "default": 1}}}
    scale = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": replicas, "status": replicas}}},
        "subresources": {"scale": scale},
    }
    names = {"kind": "LeaderWorkerSet", "plural": "leaderworkersets", "singular": "leaderworkerset"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"leaderworkersets.{LWS}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {"group": LWS, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def fails(work: Callable[[], object]) -> str:
    """In what words; empty: it does not."""
    try:
        work()
    except SandboxError as error:
        return str(error)
    return ""


def scale(sandbox: Sandbox, name: str, replicas: int, namespace: str = PAID, by: str = "") -> str:
    """`kubectl scale`, by an account or by an administrator: why it is refused, empty where it is not."""
    who = ("--as", by) if by else ()
    kind, _, name = name.rpartition("/")
    words = (*who, "-n", namespace, "scale", kind or "deployment", name, f"--replicas={replicas}")
    return fails(lambda: sandbox.kubectl(*words))


def apply(sandbox: Sandbox, obj: Object, *flags: str) -> str:
    return fails(lambda: sandbox.kubectl("apply", *flags, "-f", "-", stdin=yaml.safe_dump(obj)))


def replicas(sandbox: Sandbox, name: str, namespace: str = PAID) -> int:
    kind, _, name = name.rpartition("/")
    found = json.loads(sandbox.kubectl("-n", namespace, "get", kind or "deployment", name, "-o", "json"))
    return int(found["spec"]["replicas"])


def planned() -> World:
    """chat may grow from one to 4 under 12.50 USD an hour; other has 100 USD; free falls under no policy."""
    members = [
        Member("chat", 10.0, labels=(("tier", "gold"),)),
        Member("other", 10.0, pool="a100"),
        Member("free", 10.0, namespace=FREE),
    ]
    policies = [
        policy("cap", per_hour="12.50", match_labels=(("tier", "gold"),)),
        policy("wide", per_hour="100", namespaces=(PAID,)),
    ]
    world = World(members, policies)
    world.cycle()
    return world


@pytest.fixture(scope="module")
def guarded(api_sandbox: Sandbox) -> Iterator[Sandbox]:
    """The policy is in force, and services are there without a status."""
    # what other tests of this control plane left is not theirs any more
    for namespace in (PAID, FREE):
        api_sandbox.kubectl("create", "namespace", namespace)
    api_sandbox.apply(MANIFESTS / "rbac.yaml")
    api_sandbox.apply([leader_worker_sets()])
    api_sandbox.apply(
        [
            service("chat", [by_reference("h100", "chat-h100")]),
            service("other", [by_reference("a100", "chat-a100")]),
            service("free", [by_reference("h100", "chat-h100")], FREE),
            workload("chat-h100", 1),
            workload("chat-a100", 1),
            workload("unnamed", 1),
            workload("chat-h100", 1, namespace=FREE),
        ]
    )
    api_sandbox.apply(ADMISSION)
    yield api_sandbox
    api_sandbox.kubectl("delete", "-f", str(ADMISSION), "--ignore-not-found")
    api_sandbox.kubectl("delete", "namespace", PAID, FREE, "--wait=false")
    api_sandbox.kubectl("delete", "crd", f"leaderworkersets.{LWS}", "--wait=false")


@pytest.fixture
async def sandbox(guarded: Sandbox) -> Sandbox:
    """With statuses as Ebbtide wrote them before it was stopped, a minute long, and targets at one replica."""
    world = planned()
    async with KubeClient(guarded.admin_kubeconfig) as client:
        writer = StatusWriter(client)
        writer.offer(msgspec.structs.replace(world.plan, pools=()), world.snapshot(), NOW)
        report = await writer.drain(NOW)
    assert (report.written, report.problem) == (3, "")
    for name, namespace in (("chat-h100", PAID), ("chat-a100", PAID), ("unnamed", PAID), ("chat-h100", FREE)):
        guarded.apply([workload(name, 1, namespace=namespace)])
    until_refused(guarded)
    return guarded


def until_refused(sandbox: Sandbox, within_s: float = 60.0) -> None:
    """A new policy takes some seconds to take effect; asked without effect."""
    deadline_s = time.monotonic() + within_s
    probe = ("-n", PAID, "scale", "deployment", "chat-h100", "--replicas=99", "--dry-run=server")
    while not fails(lambda: sandbox.kubectl(*probe)):
        assert time.monotonic() < deadline_s, "the policy takes no effect"
        time.sleep(0.5)


def test_scaling_beyond_is_refused_with_the_rate_the_money_left_and_the_policy(sandbox: Sandbox) -> None:
    said = scale(sandbox, "chat-h100", 5)
    assert (
        "denied request: InferenceService chat, variant h100: up to 4, not 5 replicas: CostPolicy cap: "
        "3.00 USD an hour now, 9.50 of 12.50 USD an hour left; one replica more takes 3.00 (as of 1970-01-12T13:46:40Z)"
    ) in said
    assert replicas(sandbox, "chat-h100") == 1


def test_scaling_within_and_down_and_to_zero_and_deleting_pass(sandbox: Sandbox) -> None:
    assert [scale(sandbox, "chat-h100", count) for count in (4, 2, 0, 4)] == [""] * 4
    assert replicas(sandbox, "chat-h100") == 4
    assert fails(lambda: sandbox.kubectl("-n", PAID, "delete", "deployment", "chat-h100")) == ""


@pytest.mark.parametrize("flags", [("--server-side", "--force-conflicts"), ()], ids=["server-side", "client-side"])
def test_applying_a_deployment_beyond_is_refused_and_within_it_passes(sandbox: Sandbox, flags: tuple[str, ...]) -> None:
    assert "up to 4, not 6 replicas: CostPolicy cap" in apply(sandbox, workload("chat-h100", 6), *flags)
    assert apply(sandbox, workload("chat-h100", 3), *flags) == ""
    assert replicas(sandbox, "chat-h100") == 3
    sandbox.kubectl("-n", PAID, "delete", "deployment", "chat-h100")
    assert "not 6 replicas: CostPolicy cap" in apply(sandbox, workload("chat-h100", 6), *flags), "nor made anew"
    assert apply(sandbox, workload("chat-h100", 4), *flags) == ""


def test_ebbtide_itself_passes_and_what_it_raised_may_be_changed_and_lowered_but_not_raised(sandbox: Sandbox) -> None:
    assert scale(sandbox, "chat-h100", 6, by=OPERATOR) == ""
    assert fails(lambda: sandbox.kubectl("-n", PAID, "label", "deployment", "chat-h100", "a=b")) == ""
    assert apply(sandbox, workload("chat-h100", 6, minReadySeconds=5), "--server-side", "--force-conflicts") == ""
    assert scale(sandbox, "chat-h100", 5) == "", "fewer, though more than are payable"
    assert "up to 4, not 6 replicas" in scale(sandbox, "chat-h100", 6)
    assert replicas(sandbox, "chat-h100") == 5


def test_an_autoscaler_of_somebody_else_is_held_too(sandbox: Sandbox) -> None:
    """It may read and write the subresource, and nothing else."""
    path = f"/apis/apps/v1/namespaces/{PAID}/deployments/chat-h100/scale"

    def to(count: int) -> str:
        meta = {"name": "chat-h100", "namespace": PAID}
        wanted = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": meta, "spec": {"replicas": count}}
        words = ("--as", AUTOSCALER, "replace", "--raw", path, "-f", "-")
        return fails(lambda: sandbox.kubectl(*words, stdin=json.dumps(wanted)))

    assert "up to 4, not 5 replicas" in to(5)
    assert to(4) == ""
    assert replicas(sandbox, "chat-h100") == 4


def test_what_no_policy_pays_for_and_what_no_service_names_pass(sandbox: Sandbox) -> None:
    assert scale(sandbox, "chat-h100", 50, FREE) == "", "the same name in another namespace"
    assert scale(sandbox, "unnamed", 50) == ""


def test_each_service_of_a_namespace_is_held_by_what_it_can_pay_itself(sandbox: Sandbox) -> None:
    assert scale(sandbox, "chat-a100", 20) == "", "chat may have 4"
    said = scale(sandbox, "chat-a100", 40)
    assert "InferenceService other, variant a100: up to 32, not 40 replicas: CostPolicy wide: 6.00 USD" in said
    assert "InferenceService chat" not in said


@pytest.mark.parametrize(
    ("variant", "target", "held"),
    [
        (by_reference("v", "ordinal", "StatefulSet"), workload("ordinal", 1, "StatefulSet"), True),
        (by_reference("v", "grouped", "LeaderWorkerSet", f"{LWS}/v1"), leader_workers(1), True),
        ({"name": "v", "pool": "h100", "engine": {"type": "vLLM", "image": "vllm:1"}}, workload("held-v", 1), True),
        (by_reference("v", "ordinal", "StatefulSet"), workload("ordinal", 1), False),  # the name alone is the same
        (by_reference("v", "grouped", "Deployment"), leader_workers(1), False),
    ],
    ids=["StatefulSet", "LeaderWorkerSet", "engine", "another kind", "another group"],
)
def test_every_kind_of_target_is_held_by_scale_and_by_apply_and_no_other_one(
    sandbox: Sandbox, variant: Object, target: Object, held: bool
) -> None:
    status = {"name": "v", "observed": 1, "ready": 1, "starting": 0, "wanted": 1, "allowed": 1, "payable": 2}
    declared = service("held", [variant])
    sandbox.apply([declared, target])
    sandbox.kubectl(
        *("apply", "--server-side", "--subresource=status", "-f", "-"),
        stdin=yaml.safe_dump({**declared, "status": {"variants": [status]}}),
    )
    name = f"{target['kind'].lower()}/{target['metadata']['name']}"
    words = "InferenceService held, variant v: up to 2, not 3 replicas: see the CostPolicies" if held else ""
    try:
        assert scale(sandbox, name, 2) == ""
        said = scale(sandbox, name, 3)
        assert words in said
        assert bool(said) == held
        sandbox.kubectl("-n", PAID, "scale", *name.split("/"), "--replicas=0")
        more = changed(target, ("spec.replicas", 3))
        assert bool(apply(sandbox, more, "--server-side", "--force-conflicts")) == held
    finally:
        sandbox.kubectl("-n", PAID, "delete", "infs/held", name)


def test_a_service_without_a_status_is_not_held(sandbox: Sandbox) -> None:
    sandbox.apply([service("young", [by_reference("h100", "young")]), workload("young", 1)])
    assert scale(sandbox, "young", 30) == ""
    sandbox.kubectl("-n", PAID, "delete", "infs/young", "deployment/young")


@pytest.mark.parametrize(("policy_on_failure", "passes"), [("Ignore", True), ("Fail", False)])
def test_where_ebbtides_definitions_are_gone_deployments_may_grow_because_failures_are_ignored(
    sandbox: Sandbox, policy_on_failure: str, passes: bool
) -> None:
    """A copy whose kind is not there, for one namespace: with Fail nothing in it could be scaled."""
    rules, binding = yaml.safe_load_all(ADMISSION.read_text())
    assert rules["spec"]["failurePolicy"] == "Ignore"
    name = f"gone-{policy_on_failure.lower()}"
    selector = {"matchLabels": {"kubernetes.io/metadata.name": FREE}}
    rules = changed(rules, ("metadata.name", name), ("spec.paramKind.kind", "Gone"))
    rules = changed(rules, ("spec.failurePolicy", policy_on_failure))
    rules["spec"]["matchConstraints"]["namespaceSelector"] = selector
    binding = changed(binding, ("metadata.name", name), ("spec.policyName", name))
    sandbox.apply([rules, binding])
    try:
        deadline_s = time.monotonic() + 30
        while not (said := scale(sandbox, "chat-h100", 2, FREE)) and time.monotonic() < deadline_s and not passes:
            scale(sandbox, "chat-h100", 1, FREE)
            time.sleep(0.5)
        if passes:
            time.sleep(10)  # in force by then, as the other case shows
            said = scale(sandbox, "chat-h100", 3, FREE)
        assert bool(said) != passes
        assert passes or "Gone" in said
    finally:
        kind = "validatingadmissionpolicy"
        sandbox.kubectl("delete", f"{kind}binding/{name}", f"{kind}/{name}")
        # the API server refuses for some seconds more, which is not the next test's business
        deadline_s = time.monotonic() + 30
        while (said := scale(sandbox, "chat-h100", 1, FREE)) and time.monotonic() < deadline_s:
            time.sleep(0.5)
        assert said == ""


def test_the_api_server_finds_nothing_wrong_with_the_policy(sandbox: Sandbox) -> None:
    def status() -> Any:
        found = sandbox.kubectl("get", "validatingadmissionpolicy", "ebbtide-ceilings", "-o", "json")
        return json.loads(found).get("status", {})

    deadline_s = time.monotonic() + 60
    while not status().get("observedGeneration") and time.monotonic() < deadline_s:
        time.sleep(0.5)
    assert status().get("observedGeneration")
    assert status().get("typeChecking", {}).get("expressionWarnings", []) == []


def test_a_quota_bounds_gpus_whoever_makes_pods(sandbox: Sandbox) -> None:
    """The example, for two GPUs: a third one is refused; pods without GPUs are not its business."""
    quota = yaml.safe_load((MANIFESTS / "admission" / "gpu-quota.yaml").read_text())
    assert quota["spec"]["hard"] == {"requests.nvidia.com/gpu": str(120 * 100 // 250)}
    quota["metadata"]["namespace"] = FREE
    quota["spec"]["hard"] = {"requests.nvidia.com/gpu": "2"}
    sandbox.apply([quota])

    def pod(name: str, gpus: int) -> str:
        limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
        container = {"name": "engine", "image": "engine", "resources": {"limits": limits}}
        meta = {"name": name, "namespace": FREE}
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container]}}
        return fails(lambda: sandbox.kubectl("create", "-f", "-", stdin=yaml.safe_dump(made)))

    deadline_s = time.monotonic() + 30
    while "status unknown" in (said := pod("first", 1)) and time.monotonic() < deadline_s:
        time.sleep(0.5)
    assert [said, pod("second", 1), pod("none", 0)] == ["", "", ""]
    assert "exceeded quota: gpus" in pod("third", 1)
