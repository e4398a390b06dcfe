"""What one process knows of another's writes, and what it leaves behind."""

from pathlib import Path

import pytest

from ebbtide.controller.leadership import AlwaysLeading
from ebbtide.controller.settings import Settings
from ebbtide.controller.wiring import Wiring
from ebbtide.model.memory import Memory, Recommendation, ServiceMemory
from ebbtide.model.snapshot import WriteReceipt
from ebbtide.record.metrics import Metrics
from ebbtide.record.store import Store
from tests.shell import world
from tests.shell.fake_api import FakeApi, serving

KEY = "team/chat"


def moved(replicas: int) -> Memory:
    return Memory(started_at=1.0, services=(ServiceMemory(KEY, moves=(Recommendation(5.0, replicas),)),))


@pytest.fixture
async def wiring(tmp_path: Path):
    async with serving(FakeApi(), tmp_path) as client:
        yield Wiring(Settings(data_dir=tmp_path / "data"), client, client, AlwaysLeading(), Metrics())


async def test_of_a_cycle_that_was_cut_off_the_newest_memory_is_kept(wiring: Wiring, tmp_path: Path) -> None:
    before = moved(0)
    wiring.parts.remember(moved(3))
    wiring.close(before)
    assert Store(tmp_path / "data" / "ebbtide.sqlite").load_memory() == moved(3)


async def test_a_standby_that_comes_to_lead_knows_what_the_last_leader_wrote(wiring: Wiring, tmp_path: Path) -> None:
    receipt = WriteReceipt("uid", 4, 9.0)
    other = Store(tmp_path / "data" / "ebbtide.sqlite")
    other.store_receipt(f"{KEY}/h100", receipt)
    other.close()
    wiring.load_memory()
    assert wiring.receipts == {f"{KEY}/h100": receipt}
    wiring.close(None)


async def test_plans_that_fail_again_and_again_are_one_event_on_our_own_deployment(tmp_path: Path) -> None:
    api, metrics = FakeApi(), Metrics()
    async with serving(api, tmp_path) as client:
        made = Wiring(Settings(data_dir=tmp_path / "data"), client, client, AlwaysLeading(), metrics)
        for cycles in (3, 4):
            await made.parts.stalled(f"no plan could be made in {cycles} cycles in a row", cycles, float(cycles))
        made.close(None)
    (event,) = [asked.body for asked in api.writes() if asked.path.endswith("/events")]
    assert (event["type"], event["reason"], event["regarding"]["kind"]) == ("Warning", "PlanFailed", "Deployment")
    assert "in 3 cycles" in event["note"]
    assert "ebbtide_plan_failures_in_a_row 4.0" in metrics.exposition().decode()


@pytest.mark.parametrize(("status", "said"), [(200, 1), (500, 0)])
async def test_replicas_are_lowered_once_the_status_says_that_fewer_are_payable_and_all_the_same_where_it_cannot(
    tmp_path: Path, status: int, said: int
) -> None:
    api, metrics = FakeApi(), Metrics()
    told = "/apis/ebbtide.dev/v1alpha1/namespaces/team/inferenceservices/chat/status"
    api.will("PATCH", told, (status, {}))
    fewer = world.service_plan(variants=(world.variant_plan(allowed=3, payable=3),), reason=world.reason())
    decided, snapshot = world.plan(fewer, policies=(), actions=(world.action(3),)), world.snapshot()
    async with serving(api, tmp_path) as client:
        made = Wiring(Settings(data_dir=tmp_path / "data"), client, client, AlwaysLeading(), metrics)
        decision = made.parts.record(snapshot, Memory(), decided.at, decided)
        results = await made.parts.actuator.apply(decided, snapshot)
        made.close(None)
    assert [item.outcome for item in results] == ["done"]
    assert [asked.path.rpartition("/")[2] for asked in api.writes()] == ["status", "scale"]
    first = api.writes()[0].body["status"]
    assert first["variants"][0]["payable"] == 3
    assert first["decisions"][0]["id"] == decision != ""
    assert f'ebbtide_writes_total{{outcome="done",what="status"}} {said}.0' in metrics.exposition().decode()
