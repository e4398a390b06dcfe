"""What pods and nodes are worth, which pods belong to a selector, and who holds GPUs."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from ebbtide.clock import parse_rfc3339
from ebbtide.model.snapshot import NodeState, PodPhase, PodState
from ebbtide.model.spec import CapacityType, InterruptionTaint, PoolSpec, Price, Provisioning, Tariff
from ebbtide.observe.drain import Ending
from ebbtide.observe.pods import PodIndex, Surroundings, pod_state
from ebbtide.observe.pools import Allocation, pool_state
from ebbtide.observe.projections import LabelSelector, Node, Pod, Workload, quantity
from ebbtide.observe.scales import parse_selector
from ebbtide.observe.slim import Slim
from ebbtide.observe.workloads import TargetView, deployment_view, stateful_set_view
from tests.shell.observing import pod

GPU = "nvidia.com/gpu"
AT = "2026-01-01T00:01:40Z"
QUIET = Surroundings(frozenset(), frozenset())


def wire(**more: Any) -> Pod:
    return msgspec.convert(pod("p", **more), Pod)


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": AT}


def waiting(reason: str) -> dict[str, Any]:
    return {"name": "engine", "state": {"waiting": {"reason": reason, "message": "back-off 5m0s"}}}


BOUND = {"nodeName": "n1", "containers": [{"resources": {"requests": {GPU: "4", "cpu": "500m"}}}]}
READY = condition("Ready", "True")
NOT_READY = condition("Ready", "False", "ContainersNotReady", "containers with unready status: [engine]")


@pytest.mark.parametrize(
    ("spec", "status", "phase", "message"),
    [
        pytest.param(BOUND, {"conditions": [READY]}, PodPhase.READY, "", id="ready"),
        pytest.param(BOUND, {"conditions": [NOT_READY]}, PodPhase.STARTING, "", id="loading its weights"),
        pytest.param({}, {}, PodPhase.PENDING, "", id="the scheduler has not looked yet"),
        pytest.param(
            {},
            {
                "conditions": [
                    condition("PodScheduled", "False", "Unschedulable", "0/3 nodes: Insufficient nvidia.com/gpu")
                ]
            },
            PodPhase.UNSCHEDULABLE,
            "0/3 nodes: Insufficient nvidia.com/gpu",
            id="no node fits",
        ),
        pytest.param(
            {},
            {"conditions": [condition("PodScheduled", "False", "SchedulingGated", "waits for a gate")]},
            PodPhase.PENDING,
            "waits for a gate",
            id="held back by a gate",
        ),
        pytest.param(
            BOUND,
            {"conditions": [NOT_READY], "containerStatuses": [waiting("CrashLoopBackOff")]},
            PodPhase.CRASH_LOOPING,
            "container engine: CrashLoopBackOff: back-off 5m0s",
            id="crash loop",
        ),
        pytest.param(
            BOUND,
            {"conditions": [NOT_READY], "containerStatuses": [waiting("ImagePullBackOff")]},
            PodPhase.CRASH_LOOPING,
            "container engine: ImagePullBackOff: back-off 5m0s",
            id="no such image",
        ),
        *(
            pytest.param(
                BOUND,
                {"conditions": [NOT_READY], "containerStatuses": [waiting(reason)]},
                PodPhase.CRASH_LOOPING,
                f"container engine: {reason}: back-off 5m0s",
                id=f"no image: {reason}",
            )
            for reason in ("ErrImagePull", "ErrImageNeverPull", "InvalidImageName")
        ),
        *(
            pytest.param(
                BOUND,
                {
                    "conditions": [NOT_READY],
                    "initContainerStatuses": [waiting(reason) | {"name": "weights"}],
                    "containerStatuses": [waiting("PodInitializing")],
                },
                PodPhase.CRASH_LOOPING,
                f"container weights: {reason}: back-off 5m0s",
                id=f"an init container in {reason}",
            )
            for reason in ("CrashLoopBackOff", "ImagePullBackOff")
        ),
        pytest.param(
            BOUND,
            {
                "conditions": [NOT_READY],
                "initContainerStatuses": [{"name": "weights", "restartCount": 1, "ready": True}],
                "containerStatuses": [{"name": "engine"}],
            },
            PodPhase.STARTING,
            "",
            id="an init container that is done, at its second try",
        ),
        pytest.param(
            BOUND, {"containerStatuses": [waiting("ContainerCreating")]}, PodPhase.STARTING, "", id="being created"
        ),
        pytest.param(
            BOUND,
            {"conditions": [NOT_READY], "containerStatuses": [{"name": "engine", "restartCount": 2}]},
            PodPhase.CRASH_LOOPING,
            "container engine was restarted 2 times and is not ready",
            id="between two crashes",
        ),
        pytest.param(
            BOUND,
            {"conditions": [NOT_READY], "containerStatuses": [{"name": "engine", "restartCount": 1}]},
            PodPhase.STARTING,
            "",
            id="at its second try",
        ),
        pytest.param(
            BOUND,
            {"conditions": [READY], "containerStatuses": [{"name": "engine", "restartCount": 2, "ready": True}]},
            PodPhase.READY,
            "",
            id="restarted once, well again",
        ),
    ],
)
def test_the_phase_of_a_pod(spec: dict[str, Any], status: dict[str, Any], phase: PodPhase, message: str) -> None:
    state = pod_state(Slim().pod(wire(spec=spec, **status)), GPU, QUIET, None)
    assert (state.phase, state.message) == (phase, message)


def test_one_that_served_and_was_restarted_is_not_ready_but_no_crash_loop_until_the_kubelet_says_so() -> None:
    def phase(**engine: Any) -> PodPhase:
        status = {"conditions": [NOT_READY], "containerStatuses": [{"name": "engine", "restartCount": 3} | engine]}
        seen = Slim().pod(wire(spec=BOUND, **status))
        return pod_state(seen, GPU, Surroundings(frozenset(), frozenset({seen.metadata.uid})), None).phase

    assert phase() is PodPhase.NOT_READY
    assert phase(**waiting("CrashLoopBackOff")) is PodPhase.CRASH_LOOPING


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("4", 4),
        (4, 4),
        ("+4", 4),
        ("0", 0),
        ("2k", 2000),
        ("1M", 1_000_000),
        ("1G", 10**9),
        ("1T", 10**12),
        ("1P", 10**15),
        ("1E", 10**18),
        ("1Ki", 1024),
        ("1.5Mi", 3 * 2**19),
        ("1Gi", 2**30),
        ("1Ti", 2**40),
        ("1Pi", 2**50),
        ("1Ei", 2**60),
        ("1e3", 1000),
        ("2E2", 200),
        ("5e-1", 1),
        ("500m", 1),
        ("2000m", 2),
        (".5k", 500),
        ("half", None),
        ("", None),
        (None, None),
        ("-1", None),
        ("1 M", None),
        ("1ki", None),
        ("1e999", None),
        ("1e999999999", None),
        ("8Ei", None),
        ("9" * 5000, None),
    ],
)
def test_a_quantity_is_read_as_kubernetes_does_or_not_at_all(text: Any, units: int | None) -> None:
    assert quantity(text) == units


def test_amounts_that_are_no_quantities_hold_nothing_and_offer_nothing() -> None:
    odd = wire(spec={"nodeName": "n1", "containers": [{"resources": {"requests": {GPU: "half"}}}]})
    assert odd.spec.gpus(GPU) == 0
    assert wire(spec={"containers": [{"resources": {"limits": {GPU: "1Ki"}}}]}).spec.gpus(GPU) == 1024


def test_a_pod_that_was_ready_is_not_starting() -> None:
    around = Surroundings(frozenset(), frozenset({"uid-p"}))
    assert pod_state(wire(spec=BOUND, conditions=[NOT_READY]), GPU, around, None).phase is PodPhase.NOT_READY


def test_a_pod_on_a_node_that_is_going_is_interrupted_even_if_ready() -> None:
    around = Surroundings(frozenset({"n1"}), frozenset())
    assert pod_state(wire(spec=BOUND, conditions=[READY]), GPU, around, None).phase is PodPhase.INTERRUPTED


def test_a_terminating_pod_is_terminating_whatever_else_it_is() -> None:
    going = wire(spec=BOUND, conditions=[READY], metadata={"deletionTimestamp": AT})
    assert pod_state(going, GPU, QUIET, None).phase is PodPhase.TERMINATING


def test_by_when_a_pod_that_was_told_to_go_should_be_gone() -> None:
    going = wire(spec=BOUND, metadata={"deletionTimestamp": "2026-01-01T00:00:30Z"})
    assert pod_state(going, GPU, QUIET, None).due_at == 1767225630.0, "the API server has added its grace"
    assert pod_state(wire(spec=BOUND), GPU, QUIET, None).due_at is None


def test_times_node_and_gpus() -> None:
    seen = pod_state(wire(spec=BOUND, conditions=[READY, condition("PodScheduled", "True")]), GPU, QUIET, None)
    created = 1767225600.0
    assert seen == PodState(
        name="p",
        uid="uid-p",
        phase=PodPhase.READY,
        created_at=created,
        node="n1",
        gpus=4,
        ready_at=created + 100,
        scheduled_at=created + 100,
    )
    assert pod_state(wire(spec=BOUND), "amd.com/gpu", QUIET, None).gpus == 0


@pytest.mark.parametrize(("written", "cost"), [("-100", -100), ("0", 0), ("soon", None), (None, None)])
def test_the_deletion_cost_that_a_pod_carries(written: str | None, cost: int | None) -> None:
    annotations = {"other": "x"} | ({"controller.kubernetes.io/pod-deletion-cost": written} if written else {})
    assert pod_state(wire(metadata={"annotations": annotations}), GPU, QUIET, None).deletion_cost == cost


@pytest.mark.parametrize(
    ("cost", "ours", "marked"),
    [("-1000000", "-1000000", True), ("-1000000", None, False), ("5", "-1000000", False), (None, "-1000000", False)],
    ids=["ours", "its owner's", "changed by its owner since", "removed by its owner"],
)
def test_a_cost_is_ours_while_it_is_what_we_set(cost: str | None, ours: str | None, marked: bool) -> None:
    named = {"controller.kubernetes.io/pod-deletion-cost": cost, "ebbtide.dev/pod-deletion-cost": ours}
    annotations = {key: value for key, value in named.items() if value is not None}
    assert pod_state(wire(metadata={"annotations": annotations}), GPU, QUIET, None).marked is marked


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("app=chat", ["a", "b", "c"]),
        ("app=chat,tier=gold", ["a"]),
        ("app = chat, tier in (gold, iron)", ["a", "b"]),
        ("app=chat,tier notin (gold)", ["b", "c"]),
        ("app=chat,!tier", ["c"]),
        ("tier", ["a", "b"]),
        ("app==chat,tier!=gold", ["b", "c"]),
        ("app=other", []),
        ("", []),
    ],
)
def test_pods_of_a_selector(selector: str, names: list[str]) -> None:
    labels: Mapping[str, dict[str, str]] = {
        "a": {"app": "chat", "tier": "gold"},
        "b": {"app": "chat", "tier": "iron"},
        "c": {"app": "chat"},
        "d": {"app": "else"},
    }
    pods = [msgspec.convert(pod(name, labels=own), Pod) for name, own in reversed(list(labels.items()))]
    foreign = msgspec.convert(pod("z", labels={"app": "chat", "tier": "gold"}, metadata={"namespace": "team-b"}), Pod)
    ended = msgspec.convert(pod("y", labels={"app": "chat", "tier": "gold"}, phase="Failed"), Pod)
    found = PodIndex([*pods, foreign, ended]).matching("team-a", parse_selector(selector))
    assert [item.metadata.name for item in found] == names


def test_an_empty_selector_selects_nothing() -> None:
    assert PodIndex([wire()]).matching("team-a", LabelSelector()) == []


POOL = PoolSpec(
    name="spot",
    uid="u",
    generation=1,
    provisioning=Provisioning.AUTOSCALED,
    capacity_type=CapacityType.SPOT,
    node_selector=(("pool", "spot"),),
    resource=GPU,
    accelerator="H100-80GB",
    price=Price("USD", Tariff(Decimal("1.20"))),
    max_gpus=64,
    node_lead_time_s=240,
    interruption_taints=(
        InterruptionTaint(key="going"),
        InterruptionTaint(key="maintenance", value="soon", effect="NoSchedule"),
    ),
)


def node(name: str, labels: dict[str, str] | None = None, **spec: Any) -> Node:
    raw = {
        "metadata": {"name": name, "uid": name, "labels": labels or {"pool": "spot"}, "creationTimestamp": AT},
        "spec": spec,
        "status": {"allocatable": {GPU: "8", "cpu": "64"}, "conditions": [{"type": "Ready", "status": "True"}]},
    }
    return Slim().node(msgspec.convert(raw, Node))


def test_a_pool_sees_its_own_nodes_and_everybodys_gpus() -> None:
    nodes = {"n2": node("n2"), "n1": node("n1"), "n3": node("n3", {"pool": "other"})}
    holding = [
        wire(spec=BOUND),
        msgspec.convert(pod("foreign", spec=BOUND, metadata={"namespace": "batch"}), Pod),
        msgspec.convert(pod("done", spec=BOUND, phase="Succeeded"), Pod),
    ]
    leaving = msgspec.convert(pod("leaving", spec=BOUND | {"nodeName": "n2"}, metadata={"deletionTimestamp": AT}), Pod)
    state = pool_state(POOL, nodes, Allocation([*holding, leaving]), 0.0)
    assert state.nodes == (
        NodeState(name="n1", gpus=8, allocated_gpus=8, ready=True, created_at=1767225700.0),
        NodeState(name="n2", gpus=8, allocated_gpus=4, ready=True, created_at=1767225700.0),
    )
    assert state.price_per_gpu_hour == Decimal("1.20")


@pytest.mark.parametrize(
    ("taint", "interrupted"),
    [
        pytest.param({"key": "going", "value": "x", "effect": "NoExecute"}, True, id="any value and effect"),
        pytest.param({"key": "maintenance", "value": "soon", "effect": "NoSchedule"}, True, id="exactly"),
        pytest.param({"key": "maintenance", "value": "later", "effect": "NoSchedule"}, False, id="another value"),
        pytest.param({"key": "maintenance", "value": "soon", "effect": "NoExecute"}, False, id="another effect"),
        pytest.param({"key": GPU, "effect": "NoSchedule"}, False, id="a GPU node's own taint"),
    ],
)
def test_interruption_taints(taint: dict[str, str], interrupted: bool) -> None:
    state = pool_state(POOL, {"n": node("n", taints=[taint])}, Allocation([]), 0.0)
    assert [seen.interrupted for seen in state.nodes] == [interrupted]


def test_a_cordoned_node_and_one_without_status() -> None:
    bare = Slim().node(msgspec.convert({"metadata": {"name": "b", "labels": {"pool": "spot"}}}, Node))
    first, second = pool_state(POOL, {"a": node("a", unschedulable=True), "b": bare}, Allocation([]), 0.0).nodes
    assert (first.cordoned, first.ready) == (True, True)
    assert (second.cordoned, second.ready, second.gpus) == (False, False, 0)


def test_since_when_a_pod_is_not_ready_and_whether_it_answers() -> None:
    served = Surroundings(frozenset(), frozenset({"uid-p"}))
    lost = pod_state(wire(spec=BOUND, conditions=[NOT_READY]), GPU, served, None, unanswered=True)
    assert (lost.phase, lost.unready_at, lost.unanswered) == (PodPhase.NOT_READY, parse_rfc3339(AT), True)
    serves = pod_state(wire(spec=BOUND, conditions=[READY]), GPU, served, None)
    assert (serves.phase, serves.unready_at, serves.unanswered) == (PodPhase.READY, None, False)


TEMPLATE = {
    "nodeSelector": {"pool": "spot"},
    "terminationGracePeriodSeconds": 150,
    "containers": [
        {
            "args": ["--model", "m", "--shutdown-timeout", "$(DRAIN_S)"],
            "env": [{"name": "HOME", "value": "/"}, {"name": "DRAIN_S", "value": "120"}],
            "lifecycle": {"preStop": {"sleep": {"seconds": 20}}},
            "resources": {"limits": {GPU: "4", "cpu": "8"}},
        },
        {"command": ["sidecar"], "resources": {"requests": {"cpu": "1"}}},
    ],
}
REFUSED = condition("ReplicaFailure", "True", "FailedCreate", "exceeded quota")


def workload(spec: dict[str, Any], status: dict[str, Any]) -> Workload:
    raw = {
        "metadata": {"name": "w", "namespace": "n", "uid": "u", "resourceVersion": "7", "creationTimestamp": AT},
        "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "w"}}} | spec,
        "status": {"observedGeneration": 3, "replicas": 5} | status,
    }
    return msgspec.convert(raw, Workload)


def seen(view: TargetView) -> tuple[Any, ...]:
    return (
        *(view.metadata, view.selector, view.gpus_per_replica(GPU), view.node_selector, view.pods_per_replica),
        *(view.termination_grace_s, view.ending, view.spec_replicas, view.status_replicas),
        *(view.observed_generation, view.rolling_out, view.surge_replicas, view.ordinal, view.replica_failure),
    )


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        pytest.param({"template": {"spec": TEMPLATE}}, {"updatedReplicas": 5}, id="a template with all that is read"),
        pytest.param({"template": {"spec": {}}}, {}, id="one with nothing"),
        pytest.param({}, {"conditions": [condition("Available", "True"), REFUSED]}, id="its pods are refused"),
        pytest.param(
            {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}}},
            {"updatedReplicas": 1},
            id="a rollout with surge",
        ),
        pytest.param(
            {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}},
            {"currentRevision": "a", "updateRevision": "b"},
            id="a partition",
        ),
    ],
)
def test_a_slim_workload_shows_what_the_whole_one_shows(spec: dict[str, Any], status: dict[str, Any]) -> None:
    whole, slim = workload(spec, status), Slim()
    for view in (deployment_view, stateful_set_view):
        assert seen(view(slim.workload(whole))) == seen(view(whole))


def test_a_slim_workload_keeps_the_numbers_of_its_template() -> None:
    view = deployment_view(Slim().workload(workload({"template": {"spec": TEMPLATE}}, {"conditions": [REFUSED]})))
    assert (view.gpus_per_replica(GPU), view.ending, view.termination_grace_s) == (4, Ending(120.0, 20.0), 150.0)
    assert (view.node_selector, view.replica_failure) == ((("pool", "spot"),), "exceeded quota")
    bare = deployment_view(Slim().workload(workload({"template": {"spec": {}}}, {})))
    assert bare.termination_grace_s == 30.0, "what Kubernetes gives a pod that does not say"
