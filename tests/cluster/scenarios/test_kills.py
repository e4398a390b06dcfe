"""A real operator on a real control plane, killed and stopped at any instant: against the audit log alone.

A GPU costs 0.36 USD an hour, a hundredth of a cent a second: of each pod the bill may be off by the second in which it
was bound and the one in which the news of its end came, which is the same bill to the cent, and 2 % of it here.
"""

import contextlib
import json
import math
import random
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest

from ebbtide.clock import parse_rfc3339
from ebbtide.errors import SandboxError
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import HourRow
from ebbtide.sandbox.audit import Write, audit_writes, service_account_user
from tests.cluster.audit_bill import lifetimes
from tests.cluster.rig import OPERATOR_USER, Json, Rig, pool, until
from tests.cluster.test_operator_live import SECOND, second_account  # noqa: F401 - a fixture

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

POOL, NODES, POLICY = "killed-a100", "a100-on-prem", "killed"
PRICE = Decimal("0.36")
GPUS = {"chat-": 1, "low-": 1, "train-": 2}
CENT = Decimal("0.01")
FAST: Json = {"objectives": {"timeToFirstToken": "2s", "interTokenLatency": "25ms", "attainment": "95"}}
SHORT_LEASE = {"lease_duration": "4s", "renew_deadline": "3s", "retry_period": "500ms"}
MOST_OFF_S = 2  # of one pod
MOST = 6  # GPUs that the ceiling allows


def policy(rig: Rig) -> Json:
    spec = {
        "selector": {"namespaces": [rig.namespace]},
        "currency": "USD",
        "outageReserve": "1m",
        "ceilings": {"perHour": str(MOST * PRICE), "perDay": "1000"},
    }
    return {"apiVersion": "ebbtide.dev/v1alpha1", "kind": "CostPolicy", "metadata": {"name": POLICY}, "spec": spec}


def objects(rig: Rig) -> list[Json]:
    stays = {"down": {"delay": "30m", "maxPerMinute": 60}}  # what goes, goes because the test says so
    found = [pool(POOL, NODES, price=str(PRICE), billing="Pod"), policy(rig)]
    for name, priority in (("chat", 200), ("low", 1)):
        found += [
            rig.target_object(name, NODES, route=name),
            rig.service_object(
                ("a100", POOL, name), name=name, scaling=stays, capacity="10", priority=priority, **FAST
            ),
        ]
    return found


@pytest.fixture(scope="module")
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """Two services that want more than the ceiling allows, and a Deployment of somebody else."""
    shared_rig.apply(*objects(shared_rig), shared_rig.target_object("train", NODES, replicas=1, gpus=2))
    until(lambda: all(shared_rig.ready(name) for name in ("chat", "low", "train")), "the first replicas are ready")
    shared_rig.load(25.0, 1700.0, "low")
    return shared_rig


# --- killed fifty times ----------------------------------------------------------------------------------------------


def start(rig: Rig) -> str:
    """The next process on the same data, without a Lease to wait for."""
    return rig.start_operator("a", leader_election="false")


def written(rig: Rig, past_s: float) -> tuple[int, int, tuple[HourRow, ...]]:
    """(since, until, rows of the namespace) of the ledger, once it is written past a moment."""
    ledger = Ledger(rig.data / "a" / "ledger.sqlite", read_only=True)
    try:
        until(lambda: ledger.watermark_s > past_s, "the ledger goes on", 60)
        until_s = ledger.watermark_s
        rows = ledger.rows(0, until_s)
        return ledger.since_s, until_s, tuple(row for row in rows if row.payer.namespace == rig.namespace)
    finally:
        ledger.close()


def clerks(rig: Rig, since_s: int, until_s: int) -> tuple[Decimal, Decimal]:
    """(bill of the whole seconds that pods were bound and not gone, by what it may be off), by the audit log alone."""
    seconds = held = 0
    for name, (begin_s, end_s) in lifetimes(rig.sandbox.audit_log, rig.namespace).items():
        gpus = next(count for prefix, count in GPUS.items() if name.startswith(prefix))
        last_s = until_s if end_s is None else min(until_s, math.ceil(end_s))
        held += gpus
        seconds += gpus * max(0, last_s - max(since_s, math.floor(begin_s)))
    off = PRICE * MOST_OFF_S * held / 3600
    assert off < CENT
    return PRICE * seconds / 3600, off


def billed(rows: tuple[HourRow, ...]) -> tuple[Decimal, Decimal]:
    """(in all, of it estimated)."""
    assert all(row.price == PRICE for row in rows)
    total = PRICE * sum(row.gpu_seconds for row in rows) / 3600
    return total, PRICE * sum(row.estimated_s for row in rows) / 3600


def test_killed_25_times_the_bill_is_the_same_to_the_cent_where_lifetimes_stay_visible(rig: Rig) -> None:
    """Pods come whenever they like; they go while the operator runs, and it is killed once that was counted."""
    draw = random.Random(1)
    for number in range(25):
        process = start(rig)
        if number % 5 == 4:
            rig.scale("train", 0)
            until(lambda: not rig.pods("train"), "they are gone")
            written(rig, past_s=time.time())
        elif number % 5 == 0:
            rig.scale("train", 2)
        time.sleep(draw.uniform(0.0, 3.0))
        rig.kill(process)
    process = start(rig)
    since_s, until_s, rows = written(rig, past_s=time.time() + 4)
    rig.kill(process)
    (total, estimated), (wanted, off) = billed(rows), clerks(rig, since_s, until_s)
    assert estimated == 0, "nothing went unseen"
    assert abs(total - wanted) <= off < total / 20


def test_killed_25_times_more_what_vanished_unseen_is_bounded_and_the_ceiling_takes_the_upper_bound(rig: Rig) -> None:
    draw = random.Random(2)
    for number in range(25):
        process = start(rig)
        time.sleep(draw.uniform(0.0, 3.0))
        if number % 6 == 1:
            rig.scale("train", 2)
        if number % 6 == 5:
            rig.scale("train", 0)  # they take seconds to go: some while it runs, some when it is dead
            time.sleep(draw.uniform(0.0, 3.0))
        rig.kill(process)
        if number % 6 == 5:
            until(lambda: not rig.pods("train"), "they are gone")
    start(rig)
    since_s, until_s, rows = written(rig, past_s=time.time() + 4)
    (total, estimated), (wanted, off) = billed(rows), clerks(rig, since_s, until_s)
    assert estimated > 0, "nobody saw some of them go"
    assert wanted - off <= total <= wanted + estimated + off
    until(lambda: accrued_s(rig) > until_s, "the policy's status is written", 90)
    ours = PRICE * sum(row.gpu_seconds for row in rows if row.payer.service) / 3600
    assert Decimal(period(rig, "Day")["spent"]) > ours - off


def period(rig: Rig, kind: str) -> Json:
    status = rig.get("costpolicy", POLICY)["status"]
    found: Json = next(item for item in status["periods"] if item["period"] == kind)
    return found


def accrued_s(rig: Rig) -> float:
    return parse_rfc3339(rig.get("costpolicy", POLICY)["status"]["accruedThrough"])


def test_no_kill_ever_raised_beyond_the_ceiling(rig: Rig) -> None:
    assert raises(rig), "it did scale"
    assert most_at_once(rig) <= MOST


# --- stopped past its lease ------------------------------------------------------------------------------------------


def writes_of(rig: Rig, account: str) -> list[Write]:
    user = service_account_user("ebbtide-system", account)
    return [write for write in audit_writes(rig.sandbox.audit_log, user) if write.resource != "leases"]


def lease(rig: Rig) -> Json:
    """Its spec; an empty holder while there is none."""
    with contextlib.suppress(SandboxError):
        found = json.loads(rig.sandbox.kubectl("-n", "ebbtide-system", "get", "lease", "ebbtide", "-o", "json"))
        spec: Json = found["spec"]
        return spec
    return {"holderIdentity": ""}


def scales(rig: Rig) -> list[Write]:
    """Of both accounts, oldest first."""
    users = {OPERATOR_USER, service_account_user("ebbtide-system", SECOND)}
    found = audit_writes(rig.sandbox.audit_log)
    return [
        write
        for write in found
        if write.user in users and write.namespace == rig.namespace and write.subresource == "scale"
    ]


def most_at_once(rig: Rig) -> int:
    """What all targets come to, at most, by the scale writes that were accepted, each began with one replica."""
    replicas, most = {"chat": 1, "low": 1}, 0
    for write in scales(rig):
        replicas[write.name] = write.body["spec"]["replicas"]
        most = max(most, sum(replicas.values()))
    return most


def raises(rig: Rig) -> int:
    replicas, found = {"chat": 1, "low": 1}, 0
    for write in scales(rig):
        wanted = write.body["spec"]["replicas"]
        found += wanted > replicas[write.name]
        replicas[write.name] = wanted
    return found


@pytest.mark.parametrize("attempt", range(4))
def test_one_that_was_stopped_while_another_led_raises_nothing_when_it_goes_on(
    rig: Rig, request: pytest.FixtureRequest, attempt: int
) -> None:
    """The load moves from one service to the other meanwhile, so that both leaders have raises to make."""
    for process in rig.operators:
        if rig.sandbox.processes.alive(process):
            rig.kill(process)
    rig.sandbox.kubectl("-n", "ebbtide-system", "delete", "lease", "ebbtide", "--ignore-not-found")
    busy, idle = ("chat", "low") if attempt % 2 else ("low", "chat")
    for name in (busy, idle):
        rig.patch_service({"spec": {"scaling": {"down": {"delay": "4s"}}}}, name)
        rig.stop_load(name)
    rig.load(25.0, 600.0, busy)
    accounts = ["ebbtide", SECOND]
    kubeconfigs = {"ebbtide": {}, SECOND: {"kubeconfig": str(request.getfixturevalue("second_account"))}}
    processes = {
        account: rig.start_operator(
            f"led-{attempt}-{account}", identity=f"{account}-{attempt}", **SHORT_LEASE, **kubeconfigs[account]
        )
        for account in accounts
    }
    holder = until(lambda: lease(rig)["holderIdentity"], "somebody leads")
    old = next(account for account in accounts if holder == f"{account}-{attempt}")
    new = next(account for account in accounts if account != old)
    until(lambda: rig.replicas(busy) > 1, "it raises", 120)
    time.sleep(random.Random(attempt).uniform(0.0, 2.0))
    rig.stop_load(busy)
    rig.load(25.0, 600.0, idle)
    rig.sandbox.suspend(processes[old])
    until(lambda: lease(rig)["holderIdentity"] == f"{new}-{attempt}", "the other leads", 60)
    acquired_s = parse_rfc3339(lease(rig)["acquireTime"])
    until(lambda: any(write.time_s > acquired_s for write in writes_of(rig, new)), "and writes", 60)
    rig.sandbox.resume(processes[old])
    until(lambda: rig.sandbox.processes.crashed().get(processes[old]) == 3, "the old one ends for its lost Lease", 30)
    until(lambda: rig.replicas(idle) > 1, "the new one raises the other service", 180)
    assert [write for write in writes_of(rig, old) if write.time_s > acquired_s] == []
    assert most_at_once(rig) <= MOST
