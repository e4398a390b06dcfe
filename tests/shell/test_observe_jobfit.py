"""Which pools could never take a Job's pods, by what its own template says, and the term that fits nothing."""

from typing import Any

import msgspec
import pytest

from ebbtide.model.snapshot import PoolState
from ebbtide.model.spec import InterruptionTaint, Provisioning, Toleration
from ebbtide.observe.jobfit import Fits, wants
from ebbtide.observe.projections import JobPodSpec, Node
from tests import builders
from tests.shell import world

GPU_TAINT = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}
TRAINS = {"key": "dedicated", "value": "train", "effect": "NoSchedule"}
NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
SPOT = {"key": "going", "effect": "NoExecute"}


def a_node(name: str, labels: dict[str, str], *taints: dict[str, str]) -> Node:
    raw = {"metadata": {"name": name, "labels": labels}, "spec": {"taints": [GPU_TAINT, *taints]}}
    return msgspec.convert(raw, Node)


def a_pool(name: str, nodes: tuple[str, ...], **spec: Any) -> PoolState:
    fields = {"node_selector": (("pool", name),), "tolerations": (Toleration("nvidia.com/gpu"),), **spec}
    return PoolState(spec=world.pool_spec(name, **fields), nodes=tuple(builders.node(each) for each in nodes))


NODES = {
    node.metadata.name: node
    for node in (
        a_node("h-1", {"pool": "h100", "zone": "a", "cores": "64"}),
        a_node("h-2", {"pool": "h100", "zone": "b", "disk": "ssd", "cores": "96"}),
        a_node("t-1", {"pool": "trains", "zone": "a"}, TRAINS),
        a_node("s-1", {"pool": "spot", "zone": "c"}, SPOT, NOT_READY),
    )
}  # fmt: skip
H100 = a_pool("h100", ("h-1", "h-2"))
TRAIN = a_pool("trains", ("t-1",))
SPOTS = a_pool("spot", ("s-1",), interruption_taints=(InterruptionTaint("going"),))
CLOUD = a_pool("cloud", (), provisioning=Provisioning.AUTOSCALED)


def affinity(*terms: list[dict[str, Any]], fields: bool = False) -> dict[str, Any]:
    kind = "matchFields" if fields else "matchExpressions"
    required = {"nodeSelectorTerms": [{kind: term} for term in terms]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


def asks(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


def why(pod: dict[str, Any], pool: PoolState) -> str:
    spec = msgspec.convert(pod, JobPodSpec)
    tolerations = [msgspec.json.encode(each).decode() for each in pod.get("tolerations", ())]
    wanted = wants(spec, tuple(sorted((spec.node_selector or {}).items())), tolerations)
    return dict(Fits((pool,), NODES).misfits(wanted)).get(pool.spec.name, "")


FITS = {
    "it asks for nothing": ({}, H100),
    "one node has the label": ({"nodeSelector": {"disk": "ssd"}}, H100),
    "one node has the zone": (affinity([asks("zone", "In", "b", "c")]), H100),
    "one of two terms holds": (affinity([asks("zone", "In", "x")], [asks("disk", "Exists")]), H100),
    "not in another zone": (affinity([asks("zone", "NotIn", "x", "y"), asks("gone", "DoesNotExist")]), H100),
    "more cores than one of them has": (affinity([asks("cores", "Gt", "80")]), H100),
    "fewer": (affinity([asks("cores", "Lt", "80")]), H100),
    "a node by its name": (affinity([asks("metadata.name", "In", "h-1")], fields=True), H100),
    "an operator of a newer Kubernetes": (affinity([asks("zone", "Like", "b*")]), H100),
    "what is only preferred": (
        {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [asks("zone", "In", "x")]}}]}}}, H100),
    "it tolerates the taint": ({"tolerations": [{"key": "dedicated", "value": "train"}]}, TRAIN),
    "it tolerates any value": ({"tolerations": [{"key": "dedicated", "operator": "Exists"}]}, TRAIN),
    "it tolerates everything": ({"tolerations": [{"operator": "Exists"}]}, TRAIN),
    "a taint that announces the end of a node, or that passes": ({}, SPOTS),
    "a node that is to come may have any label": ({"nodeSelector": {"zone": "x"}}, CLOUD),
    "and any zone": (affinity([asks("zone", "In", "x")]), CLOUD),
    "the pool's own label": (affinity([asks("pool", "In", "cloud", "h100")]), CLOUD),
    "a pool of which no node is there": ({"nodeSelector": {"disk": "ssd"}}, a_pool("empty", ())),
}  # fmt: skip


@pytest.mark.parametrize("case", FITS)
def test_what_may_fit_is_left_to_the_scheduler(case: str) -> None:
    assert why(*FITS[case]) == ""


NEVER = {
    "a label that no node has": (
        {"nodeSelector": {"disk": "nvme"}}, H100,
        "h100: none of the 2 nodes has disk=nvme, which its nodeSelector asks for"),
    "labels that no node has together": (
        {"nodeSelector": {"disk": "ssd", "zone": "a"}}, H100,
        "h100: none of the 2 nodes has zone=a, which its nodeSelector asks for"),
    "a zone": (
        affinity([asks("zone", "In", "c", "d", "e", "f", "g")]), H100,
        "h100: none of the 2 nodes has zone in (c, d, e and 2 more), which its nodeAffinity asks for"),
    "two terms": (
        affinity([asks("zone", "In", "x")], [asks("cores", "Gt", "128")]), H100,
        "h100: none of the 2 nodes has zone in (x) or cores > 128, which its nodeAffinity asks for"),
    "no label that all have": (
        affinity([asks("zone", "DoesNotExist")]), H100,
        "h100: none of the 2 nodes has no label zone, which its nodeAffinity asks for"),
    "more than a number that is none": (affinity([asks("zone", "Gt", "1")]), H100,
        "h100: none of the 2 nodes has zone > 1, which its nodeAffinity asks for"),
    "an empty term, which matches nothing": (affinity([]), H100,
        "h100: none of the 2 nodes has what an empty term matches (nothing does), which its nodeAffinity asks for"),
    "the selector and the affinity together": (
        {"nodeSelector": {"disk": "ssd"}} | affinity([asks("zone", "In", "a")]), H100,
        "h100: none of the 2 nodes has zone in (a), which its nodeAffinity asks for"),
    "the only node": (
        {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"operator": "Exists"}]}, TRAIN,
        "trains: its only node does not have disk=ssd, which its nodeSelector asks for"),
    "a taint": (
        {}, TRAIN,
        "trains: nodes that it could be on have the taint dedicated=train:NoSchedule, and neither it nor the GPUPool's "
        "spec.tolerations tolerates it"),
    "another value of it": (
        {"tolerations": [{"key": "dedicated", "value": "serve"}]}, TRAIN,
        "trains: nodes that it could be on have the taint dedicated=train:NoSchedule, and neither it nor the GPUPool's "
        "spec.tolerations tolerates it"),
    "what the pool itself declares otherwise": (
        affinity([asks("pool", "NotIn", "cloud")]), CLOUD,
        "cloud: its nodes have other labels than pool not in (cloud), which its nodeAffinity asks for"),
}  # fmt: skip


@pytest.mark.parametrize("case", NEVER)
def test_what_can_never_fit_is_said_with_the_term(case: str) -> None:
    pod, pool, expected = NEVER[case]
    assert why(pod, pool) == expected
