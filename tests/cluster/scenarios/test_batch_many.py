"""5,000 Jobs in the queue of a live API server: held, started on what is idle, giving way, past a killed operator."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from ebbtide.kube.client import KubeClient
from ebbtide.sandbox.audit import audit_writes
from ebbtide.sandbox.sandbox import Sandbox, SandboxConfig
from tests.cluster.batch import batch_policy, ended, job, jobs, note, runs
from tests.cluster.conftest import ROOT
from tests.cluster.rig import OPERATOR_USER, Json, Rig, pool, until
from tests.cluster.scenarios.conftest import open_rig

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]
COUNT, AT_ONCE = 5000, 24
POOL, NODES, GPUS = "batch-many", "a100-on-prem", 8
PATIENT_S = 600.0  # 5,000 notes are written 200 a cycle; how fast is the machine's


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("many")
    config = SandboxConfig(
        name="many",
        directory=folder / "sandbox",
        manifests=(ROOT / "crds", ROOT / "manifests" / "rbac.yaml"),
        scrape_interval_s=1,
        autoscaler=None,
    )
    with Sandbox.start(config) as sandbox, open_rig(sandbox, folder) as made:
        yield made


def submit(rig: Rig, bodies: list[Json]) -> None:
    async def create(client: KubeClient) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(body: Json) -> None:
            async with gate:
                await client.request("POST", f"/apis/batch/v1/namespaces/{rig.namespace}/jobs", body=body)

        await asyncio.gather(*map(one, bodies))

    rig.sandbox.call(create)


def counted(rig: Rig) -> Counter[str]:
    """Jobs of the policy's status by state."""
    status = rig.get("batchpolicy", "many").get("status", {})
    return Counter({name: status.get(name, 0) for name in ("queued", "running", "stopped", "impossible")})


def moves_by_job(rig: Rig) -> dict[str, list[bool]]:
    """`suspend` of every patch by Ebbtide that says it, by Job, oldest first."""
    found: dict[str, list[bool]] = {}
    for write in audit_writes(rig.sandbox.audit_log, OPERATOR_USER):
        if (
            write.resource == "jobs"
            and write.namespace == rig.namespace
            and "suspend" in (write.body.get("spec") or {})
        ):
            found.setdefault(write.name, []).append(write.body["spec"]["suspend"])
    return found


def test_five_thousand_jobs_wait_run_and_give_way(rig: Rig) -> None:
    rig.apply(
        pool(POOL, NODES, capacityType="Reserved"),
        rig.target_object("chat", NODES, 2),
        rig.service_object(("a100", POOL, "chat"), scaling={"minReplicas": 2}),
        batch_policy(rig, "many", POOL, strategy="Cheapest", expectedDuration="5s"),
    )
    until(lambda: rig.ready("chat") == 2, "the service runs")
    asks = {"restartable": "true"}
    submit(rig, [job(rig, f"many-{n:04}", "many", "3s", "6s", asks=asks) for n in range(COUNT)])
    operator = rig.start_operator("a", leader_election="false")

    until(lambda: sum(counted(rig).values()) >= COUNT - 200, "they are counted", PATIENT_S)
    until(lambda: sum(map(bool, map(ended, jobs(rig).values()))) >= 10, "some have ended", PATIENT_S)
    assert sum(map(runs, jobs(rig).values())) <= GPUS - 2

    rig.kill(operator)
    operator = rig.start_operator("a", leader_election="false")
    patch = {"spec": {"scaling": {"minReplicas": 6, "maxReplicas": 6}}}
    rig.patch_service(patch)
    until(lambda: rig.ready("chat") == 6, "the service has its GPUs back", PATIENT_S)
    live = jobs(rig)
    assert sum(map(runs, live.values())) <= GPUS - 6
    before = sum(map(bool, map(ended, live.values())))
    until(lambda: sum(map(bool, map(ended, jobs(rig).values()))) >= before + 5, "the others go on", PATIENT_S)

    until(lambda: all(note(each) or ended(each) for each in jobs(rig).values()), "each is noted", PATIENT_S)
    assert len(jobs(rig)) == COUNT
    for name, turns in moves_by_job(rig).items():
        assert turns == [bool(n % 2) for n in range(len(turns))], f"{name}: a start, a stop, a start"
    assert "Traceback" not in rig.operator_log(operator)
