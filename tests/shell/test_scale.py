"""The actuator against an API server that refuses, forgets and fails: receipts, outcomes, and who may write."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebbtide.act.marks import ANNOTATION, OURS
from ebbtide.act.result import Outcome, classify
from ebbtide.act.scale import Actuator
from ebbtide.kube.client import KubeClient
from ebbtide.model.plan import ScaleAction
from ebbtide.model.snapshot import PodPhase, ServiceState, Snapshot, TargetState, VariantState, WriteReceipt
from ebbtide.model.spec import Mode
from tests.shell import world
from tests.shell.fake_api import FakeApi, serving

SCALE = "/apis/apps/v1/namespaces/team/deployments/chat-h100/scale"
KEY = "team/chat/h100"


@dataclass
class Receipts:
    """Keeps every receipt in order; can be told that the disk is full."""

    stored: list[WriteReceipt] = field(default_factory=list)
    full: bool = False

    def __call__(self, key: str, receipt: WriteReceipt) -> None:
        assert key == KEY
        if self.full:
            raise OSError("No space left on device")
        self.stored.append(receipt)


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def client(api: FakeApi, tmp_path: Path) -> AsyncIterator[KubeClient]:
    async with serving(api, tmp_path) as client:
        yield client


def scale(replicas: int = 4, uid: str = "target-uid", version: str = "101") -> dict[str, Any]:
    return {"metadata": {"uid": uid, "resourceVersion": version}, "spec": {"replicas": replicas}}


def snapshot(mode: Mode = Mode.AUTO, target: TargetState | None = None, **variant: Any) -> Snapshot:
    state = VariantState(name="h100", target=target or world.target_state(), **variant)
    return world.snapshot(ServiceState(spec=world.service_spec(mode=mode), variants=(state,)))


async def act(
    client: KubeClient, receipts: Receipts, seen: Snapshot, *actions: ScaleAction
) -> list[tuple[Outcome, str]]:
    actuator = Actuator(client, receipts, now=lambda: world.NOW_S)
    results = await actuator.apply(world.plan(actions=actions or (world.action(),)), seen)
    return [(result.outcome, result.message) for result in results]


async def test_the_receipt_is_stored_before_the_call_and_completed_after_it(client: KubeClient, api: FakeApi) -> None:
    receipts = Receipts()
    at_the_call: list[WriteReceipt] = []
    api.on_request = lambda asked: at_the_call.extend(receipts.stored) if asked.path == SCALE else None
    [(outcome, _)] = await act(client, receipts, snapshot())
    open_receipt = WriteReceipt(target_uid="target-uid", replicas=6, at=world.NOW_S, done=False)
    assert outcome is Outcome.DONE
    assert at_the_call == [open_receipt]
    done = msgspec.structs.replace(open_receipt, done=True, resource_version="1")
    assert receipts.stored == [open_receipt, done], "with the version of the target that holds the write"


@pytest.mark.parametrize("answer", [{}, {"metadata": {}}, {"metadata": {"resourceVersion": 7}}])
async def test_an_answer_that_does_not_say_its_version_is_a_write_all_the_same(
    client: KubeClient, api: FakeApi, answer: dict[str, Any]
) -> None:
    receipts = Receipts()
    api.will("PATCH", SCALE, (200, answer))
    [(outcome, _)] = await act(client, receipts, snapshot())
    assert outcome is Outcome.DONE
    assert (receipts.stored[-1].done, receipts.stored[-1].resource_version) == (True, "")


async def test_the_write_is_one_guarded_patch_of_replicas_alone(client: KubeClient, api: FakeApi) -> None:
    await act(client, Receipts(), snapshot())
    [write] = api.writes()
    assert (write.method, write.path, write.params) == ("PATCH", SCALE, {"fieldManager": "ebbtide-scale"})
    assert write.body == {"metadata": {"resourceVersion": "100"}, "spec": {"replicas": 6}}


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.RECOMMEND])
async def test_only_auto_has_a_write_path(client: KubeClient, api: FakeApi, mode: Mode) -> None:
    receipts = Receipts()
    [(outcome, message)] = await act(client, receipts, snapshot(mode), world.action(victims=("p1",), to=3))
    assert (outcome, api.asked, receipts.stored) == (Outcome.REFUSED, [], [])
    assert mode.value in message


@pytest.mark.parametrize(
    ("seen", "action", "words"),
    [
        pytest.param(snapshot(), world.action(service="team/other"), "not in the snapshot", id="unknown service"),
        pytest.param(snapshot(), world.action(variant="a100"), "declares no such", id="unknown variant"),
        pytest.param(
            snapshot(), world.action(target=world.target_ref("database")), "declares no such", id="another target"
        ),
        pytest.param(snapshot(), world.action(target_uid="other"), "uid", id="another incarnation"),
        pytest.param(snapshot(), world.action(target_uid=""), "uid", id="planned without a uid"),
        pytest.param(snapshot(), world.action(resource_version=""), "resourceVersion", id="without a precondition"),
        pytest.param(
            snapshot(target=world.target_state(rivals=("HorizontalPodAutoscaler hpa",))),
            world.action(),
            "HorizontalPodAutoscaler hpa",
            id="a rival",
        ),
        pytest.param(snapshot(), world.action(to=11), "outside 0..10", id="above the variant's maximum"),
        pytest.param(snapshot(), world.action(to=-1), "outside", id="negative"),
    ],
)
async def test_a_plan_that_contradicts_the_snapshot_is_refused(
    client: KubeClient, api: FakeApi, seen: Snapshot, action: ScaleAction, words: str
) -> None:
    actuator = Actuator(client, Receipts())
    [result] = await actuator.apply(world.plan(actions=(action,)), seen)
    assert (result.outcome, api.asked) == (Outcome.REFUSED, [])
    assert words in result.message


async def test_a_conflict_is_tried_once_more_when_only_the_status_moved(client: KubeClient, api: FakeApi) -> None:
    api.objects[SCALE] = scale(replicas=4, version="205")
    api.will("PATCH", SCALE, (409, {"message": "changed"}))
    [(outcome, _)] = await act(client, Receipts(), snapshot())
    assert outcome is Outcome.DONE
    assert [write.body["metadata"]["resourceVersion"] for write in api.writes()] == ["100", "205"]


@pytest.mark.parametrize(
    ("now", "second", "writes"),
    [
        pytest.param(scale(replicas=5), [], 1, id="somebody scaled"),
        pytest.param(scale(uid="new"), [], 1, id="it was created again"),
        pytest.param({"metadata": {"uid": "target-uid", "resourceVersion": "1"}, "spec": {}}, [], 1, id="now at zero"),
        pytest.param(scale(), [(409, {"message": "again"})] * 2, 3, id="it moves faster than we do"),
    ],
)
async def test_a_conflict_that_stays_is_left_to_the_next_cycle(
    client: KubeClient, api: FakeApi, now: dict[str, Any], second: list[Any], writes: int
) -> None:
    api.objects[SCALE] = now
    api.will("PATCH", SCALE, (409, {"message": "changed"}), *second)
    before = WriteReceipt(target_uid="target-uid", replicas=4, at=1.0)
    receipts = Receipts()
    [(outcome, _)] = await act(client, receipts, snapshot(last_write=before))
    assert (outcome, len(api.writes())) == (Outcome.CONFLICT, writes)
    assert receipts.stored[-1] == before, "our last write is still the one before"


@pytest.mark.parametrize(
    ("status", "want", "last_receipt_is_open"),
    [
        (403, Outcome.FORBIDDEN, False),
        (404, Outcome.NOT_FOUND, False),
        (422, Outcome.INVALID, False),
        (429, Outcome.RETRY, True),
        (500, Outcome.RETRY, True),
        (504, Outcome.RETRY, True),
        (418, Outcome.FAILED, True),
    ],
)
async def test_every_failure_has_an_outcome_and_keeps_the_receipt_honest(
    client: KubeClient, api: FakeApi, status: int, want: Outcome, last_receipt_is_open: bool
) -> None:
    api.will("PATCH", SCALE, (status, {"message": "no"}))
    before = WriteReceipt(target_uid="target-uid", replicas=4, at=1.0)
    receipts = Receipts()
    [(outcome, message)] = await act(client, receipts, snapshot(last_write=before))
    assert outcome is want
    assert str(status) in message
    assert receipts.stored[-1].done is not last_receipt_is_open


async def test_a_first_write_that_was_refused_leaves_no_trace_of_a_write(client: KubeClient, api: FakeApi) -> None:
    api.will("PATCH", SCALE, (403, {"message": "no"}))
    receipts = Receipts()
    await act(client, receipts, snapshot())
    assert receipts.stored[-1] == WriteReceipt(target_uid="target-uid", replicas=4, at=0.0)


async def test_without_a_durable_receipt_nothing_is_written(client: KubeClient, api: FakeApi) -> None:
    [(outcome, message)] = await act(client, Receipts(full=True), snapshot(), world.action(3, victims=("p1",)))
    assert (outcome, api.writes()) == (Outcome.FAILED, [])
    assert "No space left" in message


async def test_one_failing_target_does_not_keep_the_others_from_being_scaled(client: KubeClient, api: FakeApi) -> None:
    a100 = world.variant_spec("a100", target=world.target_ref("chat-a100"))
    spec = world.service_spec(variants=(world.variant_spec(), a100))
    states = tuple(VariantState(name=name, target=world.target_state()) for name in ("h100", "a100"))
    api.will("PATCH", SCALE, (500, {"message": "down"}))
    actions = (world.action(), world.action(variant="a100", target=a100.target))
    actuator = Actuator(client, lambda key, receipt: None)
    results = await actuator.apply(
        world.plan(actions=actions), world.snapshot(ServiceState(spec=spec, variants=states))
    )
    assert [(result.variant, result.outcome) for result in results] == [
        ("h100", Outcome.RETRY),
        ("a100", Outcome.DONE),
    ]


async def test_a_kind_that_is_not_served_is_not_found(client: KubeClient, api: FakeApi) -> None:
    rollout = world.target_ref("chat-h100", kind="Rollout", api_version="argoproj.io/v1alpha1")
    spec = world.service_spec(variants=(world.variant_spec(target=rollout),))
    seen = world.snapshot(world.service_state(spec))
    [(outcome, _)] = await act(client, Receipts(), seen, world.action(target=rollout))
    assert (outcome, api.writes()) == (Outcome.NOT_FOUND, [])


def pod_path(name: str) -> str:
    return f"/api/v1/namespaces/team/pods/{name}"


def marks(api: FakeApi) -> dict[str, str | None]:
    return {
        asked.path.rpartition("/")[2]: asked.body["metadata"]["annotations"][ANNOTATION]
        for asked in api.writes()
        if "/pods/" in asked.path
    }


async def test_exactly_the_victims_are_marked_in_order_before_the_scale_write(client: KubeClient, api: FakeApi) -> None:
    pods = tuple(world.pod(f"p{i}") for i in range(4))
    await act(client, Receipts(), snapshot(pods=pods), world.action(2, victims=("p3", "p1")))
    assert marks(api) == {"p3": "-1000000", "p1": "-999999"}
    assert [write.path for write in api.writes()][-1] == SCALE
    assert {write.params["fieldManager"] for write in api.writes()} == {"ebbtide-marks", "ebbtide-scale"}


@pytest.mark.parametrize(
    ("target", "action"),
    [
        pytest.param(world.target_state(ordinal=True), world.action(2, victims=("p1",)), id="StatefulSet: by ordinal"),
        pytest.param(world.target_state(), world.action(6, victims=("p1",)), id="growing"),
    ],
)
async def test_nobody_is_marked_where_it_means_nothing(
    client: KubeClient, api: FakeApi, target: TargetState, action: ScaleAction
) -> None:
    await act(client, Receipts(), snapshot(target=target), action)
    assert marks(api) == {}


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_a_mark_that_fails_never_stops_the_scale_write(client: KubeClient, api: FakeApi, status: int) -> None:
    api.will("PATCH", pod_path("p1"), (status, {"message": "no"}))
    [(outcome, message)] = await act(client, Receipts(), snapshot(), world.action(3, victims=("p1",)))
    assert outcome is Outcome.DONE
    assert ("not all marked" in message) is (status != 404), "a pod that is gone needs no mark"


OURS_NOW: dict[str, Any] = {"deletion_cost": -1_000_000, "marked": True}
CHOOSING = world.target_state(3, status_replicas=4)


@pytest.mark.parametrize(
    ("pod", "target", "cleared"),
    [
        pytest.param(OURS_NOW, world.target_state(), True, id="a survivor after a restart"),
        pytest.param(OURS_NOW | {"phase": PodPhase.TERMINATING}, world.target_state(), False, id="on its way out"),
        pytest.param({"deletion_cost": 100}, world.target_state(), False, id="somebody else's cost"),
        pytest.param({"deletion_cost": -1_000_000}, world.target_state(), False, id="theirs, with a number like ours"),
        pytest.param({}, world.target_state(), False, id="no mark"),
        pytest.param(OURS_NOW, CHOOSING, False, id="its controller is still choosing"),
        pytest.param(OURS_NOW, world.target_state(generation=4), False, id="its controller has not seen the write"),
    ],
)
async def test_marks_are_cleared_from_pods_that_stay(
    client: KubeClient, api: FakeApi, pod: dict[str, Any], target: TargetState, cleared: bool
) -> None:
    seen = snapshot(target=target, pods=(world.pod("p1", **pod),))
    await Actuator(client, Receipts()).apply(world.plan(), seen)
    assert marks(api) == ({"p1": None} if cleared else {})


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.RECOMMEND])
async def test_without_a_right_to_act_no_pod_is_touched(client: KubeClient, api: FakeApi, mode: Mode) -> None:
    """Not even by clearing what Ebbtide marked before the switch, in this process or an earlier one."""
    actuator = Actuator(client, Receipts())
    api.will("PATCH", SCALE, (403, {"message": "no"}))
    pods = (world.pod("p1", **OURS_NOW), world.pod("p2", deletion_cost=-1_000_000), world.pod("p3"))
    await actuator.apply(world.plan(actions=(world.action(3, victims=("p3",)),)), snapshot(pods=pods))
    before = len(api.writes())
    await actuator.apply(world.plan(), snapshot(mode, pods=pods))
    assert len(api.writes()) == before


async def test_no_pod_is_touched_where_the_plan_keeps_its_hands_off(client: KubeClient, api: FakeApi) -> None:
    held = world.service_plan(conditions=(world.condition("Acting", "False", "TargetConflict"),))
    await Actuator(client, Receipts()).apply(world.plan(held), snapshot(pods=(world.pod("p1", **OURS_NOW),)))
    assert api.writes() == []


async def test_a_victim_keeps_the_cost_that_its_owner_set(client: KubeClient, api: FakeApi) -> None:
    pods = (world.pod("p1", deletion_cost=-1_000_000), world.pod("p2"))
    [(outcome, _)] = await act(client, Receipts(), snapshot(pods=pods), world.action(2, victims=("p1", "p2")))
    assert (outcome, marks(api)) == (Outcome.DONE, {"p2": "-999999"})


async def test_a_mark_says_that_it_is_ours(client: KubeClient, api: FakeApi) -> None:
    await act(client, Receipts(), snapshot(pods=(world.pod("p1"),)), world.action(3, victims=("p1",)))
    [mark] = [asked.body["metadata"]["annotations"] for asked in api.writes() if asked.path == pod_path("p1")]
    assert mark == {ANNOTATION: "-1000000", OURS: "-1000000"}


async def test_a_mark_of_a_refused_scale_down_is_cleared_in_the_next_cycle(client: KubeClient, api: FakeApi) -> None:
    api.will("PATCH", SCALE, (403, {"message": "no"}))
    seen = snapshot(pods=(world.pod("p1"),))
    actuator = Actuator(client, Receipts())
    await actuator.apply(world.plan(actions=(world.action(3, victims=("p1",)),)), seen)
    await actuator.apply(world.plan(), seen)
    await actuator.apply(world.plan(), seen)
    values = [
        asked.body["metadata"]["annotations"][ANNOTATION] for asked in api.writes() if asked.path == pod_path("p1")
    ]
    assert values == ["-1000000", None]


def test_an_unforeseen_error_is_a_failure_not_a_retry() -> None:
    assert classify(KeyError("metadata")) is Outcome.FAILED
