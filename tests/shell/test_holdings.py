"""Who holds GPUs: pods of services and of others, nodes, and what went between two looks."""

from typing import Any

import msgspec
import pytest

from ebbtide.model.money import BATCH, Payer
from ebbtide.model.snapshot import Unreadable
from ebbtide.observe.holdings import Departures, held
from ebbtide.observe.projections import Node, Pod
from ebbtide.observe.slim import Slim
from tests.shell import world

EARLIER, AT = "2026-01-01T00:00:00Z", "2026-01-01T00:00:10Z"
AT_S = 1767225610.0


def pod(
    name: str = "chat-0",
    node: str | None = "node-1",
    gpus: int = 4,
    phase: str = "Running",
    owner: str = "",
    labels: dict[str, str] | None = None,
    **status: Any,
) -> Pod:
    bound = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": AT}] if node else []
    raw = {
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"uid-{name}",
            "creationTimestamp": EARLIER,
            "labels": labels or {},
            "ownerReferences": [{"kind": owner, "name": "own"}] if owner else [],
        },
        "spec": {"nodeName": node, "containers": [{"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}]},
        "status": {"phase": phase, "conditions": bound, **status},
    }
    return msgspec.convert(raw, Pod)


def node(name: str = "node-1", **labels: str) -> Node:
    raw = {
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels, "creationTimestamp": EARLIER},
        "status": {"allocatable": {"nvidia.com/gpu": "8"}},
    }
    return msgspec.convert(raw, Node)


SNAPSHOT = world.snapshot(world.service_state(None, world.variant_state(pods=(world.pod("chat-0", uid="uid-chat-0"),))))
LABELS = dict(SNAPSHOT.pools[0].spec.node_selector)
NODES = {"node-1": node(**LABELS), "other": node("other")}
MINE = Payer("h100", "team", "chat", "h100", SNAPSHOT.services[0].spec.model_name)


def look(*pods: Pod, departures: Departures | None = None) -> dict[str, Any]:
    found = held(SNAPSHOT, {p.metadata.key: p for p in pods}, NODES, departures or Departures(), complete=True)
    return {item.uid: item for item in found.holdings}


def test_a_pod_of_a_service_and_its_node() -> None:
    found = look(pod())
    mine, there = found["uid-chat-0"], found["uid-node-1"]
    assert (mine.payer, mine.gpus, mine.begin_s, mine.end_s, mine.node) == (MINE, 4, AT_S, None, "uid-node-1")
    assert (there.payer, there.gpus, there.is_node) == (Payer("h100"), 8, True)
    assert found.keys() == {"uid-chat-0", "uid-node-1"}, "a node of no pool has no idle GPUs that anybody could price"


def test_its_payer_has_the_labels_that_are_kept() -> None:
    spec = world.service_spec(cost_labels=(("product", "web"), ("team", "search")), labels=(("rev", "7"),))
    variant = world.variant_state(pods=(world.pod("chat-0", uid="uid-chat-0"),))
    snapshot = world.snapshot(world.service_state(spec, variant))
    (mine,) = held(snapshot, {"chat-0": pod()}, NODES, Departures(), complete=True).holdings[1:]
    assert mine.payer == msgspec.structs.replace(MINE, team="search", labels=(("product", "web"),))


@pytest.mark.parametrize(
    ("story", "each", "payer"),
    [
        ("somebody else's pod costs as much", pod("train-0"), Payer("h100", "team")),
        ("one that waits for a node holds nothing", pod(node=None), None),
        ("nor does one without GPUs", pod(gpus=0), None),
        ("nor one on a node that nobody saw", pod(node="unseen"), None),
        ("on a node of no pool they are of a pool without a name", pod("train-0", node="other"), Payer("", "team")),
        ("those of a service too", pod(node="other"), msgspec.structs.replace(MINE, pool="")),
        ("a Job's pod is batch", pod("train-0", owner="Job"), Payer("h100", "team", variant=BATCH)),
        ("and one of a kind of Job", pod("train-0", owner="PyTorchJob"), Payer("h100", "team", variant=BATCH)),
        ("a Deployment's is none", pod("train-0", owner="ReplicaSet"), Payer("h100", "team")),
        (
            "it is put down to its own labels, those that are kept",
            pod("train-0", labels={"team": "search", "product": "web", "rev": "7"}),
            Payer("h100", "team", team="search", labels=(("product", "web"),)),
        ),
        ("a service's to the service's", pod(labels={"team": "other"}, owner="Job"), MINE),
    ],
)
def test_what_holds_gpus(story: str, each: Pod, payer: Payer | None) -> None:
    found = look(each).get(each.metadata.uid)
    assert (None if found is None else found.payer) == payer, story


@pytest.mark.parametrize(
    ("story", "containers", "end_s"),
    [
        ("the second in which its last container ended", ["2026-01-01T00:03:00Z", "2026-01-01T00:05:00Z"], AT_S + 291),
        ("where none says when, now", [None], world.NOW_S),
    ],
)
def test_one_that_finished_held_them_until_it_ended(story: str, containers: list[str | None], end_s: float) -> None:
    ended = [{"name": "main", "state": {"terminated": {"finishedAt": each}}} for each in containers]
    job = pod("job-0", phase="Succeeded", containerStatuses=ended)
    assert look(job)["uid-job-0"].end_s == end_s, story


def test_a_pool_that_cannot_be_read_ends_nothing_and_makes_no_node_one_of_no_pool() -> None:
    unreadable = (Unreadable("GPUPool", "h100", "uid", 1, "spec.price: ..."),)
    shown = msgspec.structs.replace(SNAPSHOT, unreadable=unreadable, pools=())
    found = held(shown, {"a": pod()}, NODES, Departures(), complete=True)
    assert (found.complete, found.holdings) == (False, ())


def test_the_node_of_no_pool_is_named_and_what_is_a_gpu_there_needs_no_pool() -> None:
    raw = {
        "metadata": {"name": "train", "namespace": "team", "uid": "uid-train", "creationTimestamp": EARLIER},
        "spec": {"nodeName": "other", "containers": [{"resources": {"limits": {"amd.com/gpu": "2"}}}]},
    }
    found = look(msgspec.convert(raw, Pod))["uid-train"]
    assert (found.on, found.node, found.gpus) == ("other", "uid-other", 2)
    assert look(pod())["uid-chat-0"].on == ""


def test_whose_labels_are_kept_the_operator_is_told() -> None:
    shown = {"a": pod("train-0", labels={"team": "search", "rev": "7"})}
    *_, found = held(SNAPSHOT, shown, NODES, Departures(), complete=True, cost_labels=("rev",)).holdings
    assert found.payer.all_labels == {"rev": "7"}


def test_that_a_job_made_a_pod_is_kept_when_it_is_made_small() -> None:
    for owner, batch in (("Job", True), ("ReplicaSet", False)):
        slim = Slim().pod(pod("train-0", owner=owner))
        assert slim.is_batch is batch
        assert (slim.metadata.owner_references is None) is not batch


def test_what_nobody_asked_for_is_kept_for_an_hour() -> None:
    departures = Departures()
    for number in range(5):
        departures.note_pod(pod(f"chat-{number}"), AT_S + 1000.0 * number)
    assert set(departures.pods) == {f"uid-chat-{number}" for number in range(1, 5)}


def test_what_was_seen_to_go_is_shown_once_more_with_its_end_until_it_is_counted() -> None:
    departures = Departures()
    departures.note_pod(pod(), AT_S + 50)
    departures.note_pod(pod("never-bound", node=None), AT_S + 50)
    departures.note_node(NODES["node-1"], AT_S + 60)
    for shown in ((), (pod(),)):  # gone before the snapshot was made, or since
        found = look(*shown, departures=departures)
        assert (found["uid-chat-0"].end_s, found["uid-chat-0"].payer) == (AT_S + 50, MINE)
        assert found["uid-node-1"].end_s == AT_S + 60
    seen = held(SNAPSHOT, {}, NODES, departures, complete=True)
    assert seen.gone == {"uid-chat-0": AT_S + 50, "uid-node-1": AT_S + 60}
    departures.forget(seen)
    assert look(departures=departures).keys() == {"uid-node-1"}
