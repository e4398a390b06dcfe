"""A real operator on a real control plane, killed and stopped at any instant: against the audit log alone.

Pod by pod: of one that runs on the bill is the same to the second, of one that is gone it may have two more, for its
end is billed when the news of it came. At 3.60 USD an hour these are 0.004 of a pod of two GPUs: the same to the cent.
"""

import contextlib
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import pytest

from ebbtide.clock import parse_rfc3339
from ebbtide.errors import SandboxError
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import HourRow, Lifetime
from ebbtide.sandbox.audit import Write, audit_writes, service_account_user
from tests.cluster.audit_bill import Life, held, pods
from tests.cluster.rig import OPERATOR_USER, Json, Rig, pool, until
from tests.cluster.test_operator_live import SECOND, second_account  # noqa: F401 - a fixture

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

POOL, NODES, POLICY = "killed-a100", "a100-on-prem", "killed"
PRICE = Decimal("3.60")
GPUS = {"chat-": 1, "low-": 1, "train-": 2}
CENT = Decimal("0.01")
FAST: Json = {"objectives": {"timeToFirstToken": "2s", "interTokenLatency": "25ms", "attainment": "95"}}
SHORT_LEASE = {"lease_duration": "4s", "renew_deadline": "3s", "retry_period": "500ms"}
LATE_S = 2  # the most by which the news of an end comes later than the end
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


@dataclass(frozen=True)
class Bill:
    """What the ledger says of the namespace's time [since_s, until_s): rows, and lifetimes by the pod's uid."""

    since_s: int
    until_s: int
    rows: tuple[HourRow, ...]
    lives: Mapping[str, Sequence[Lifetime]]

    def seconds(self, uid: str) -> int:
        """Of one pod; what another payer took over is another lifetime."""
        ends = (self.until_s if life.end_s is None else min(self.until_s, life.end_s) for life in self.lives[uid])
        return sum(
            max(0, end_s - max(self.since_s, life.begin_s)) for life, end_s in zip(self.lives[uid], ends, strict=True)
        )


def written(rig: Rig, past_s: float) -> Bill:
    """Once the ledger is written past a moment."""
    path = rig.data / "a" / "ledger.sqlite"
    until(path.exists, "a first process lived long enough to begin a ledger", 60)
    ledger = Ledger(path, read_only=True)
    try:
        until(lambda: ledger.watermark_s > past_s, "the ledger goes on", 60)
        since_s, until_s = ledger.since_s, ledger.watermark_s
        rows = tuple(row for row in ledger.rows(0, until_s) if row.payer.namespace == rig.namespace)
        lives: dict[str, list[Lifetime]] = defaultdict(list)
        for life in ledger.lifetimes(since_s, until_s):
            if life.payer.namespace == rig.namespace:
                lives[life.uid].append(life)
        return Bill(since_s, until_s, rows, lives)
    finally:
        ledger.close()


def clerks(rig: Rig, bill: Bill) -> list[Life]:
    """Pods that held GPUs in the time that the bill is of, by the audit log alone; the same ones as on the bill."""
    found = [life for life in pods(rig.sandbox.audit_log, rig.namespace) if life.began_s[1] < bill.until_s]
    here = [life for life in found if life.end_s is None or life.end_s[1] > bill.since_s]
    assert {life.uid for life in here} == set(bill.lives)
    return here


def billed(bill: Bill, pods_of: Iterable[Life]) -> Decimal:
    """What these pods cost: GPU-seconds of their lifetimes, each once."""
    return PRICE * sum(bill.seconds(life.uid) * held(life.name, GPUS) for life in pods_of) / 3600


def cost(bill: Bill) -> Decimal:
    """Of all rows."""
    assert all(row.price == PRICE for row in bill.rows)
    return PRICE * sum(row.gpu_seconds for row in bill.rows) / 3600


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
    bill = written(rig, past_s=time.time() + 4)
    rig.kill(process)
    found = clerks(rig, bill)
    assert not any(row.estimated_s for row in bill.rows), "nothing went unseen"
    assert any(life.end_s is None for life in found) and any(life.end_s is not None for life in found)
    for life in found:
        least_s, most_s = life.seconds(bill.since_s, bill.until_s, LATE_S)
        assert least_s <= bill.seconds(life.uid) <= most_s, life
        assert life.end_s is not None or most_s - least_s <= 1, "the binding's own second"
        assert PRICE * held(life.name, GPUS) * (most_s - least_s) / 3600 < CENT
    assert cost(bill) == billed(bill, found), "and no row is of anything else"


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
    bill = written(rig, past_s=time.time() + 4)
    unseen = 0
    for life in (found := clerks(rig, bill)):
        least_s, most_s = life.seconds(bill.since_s, bill.until_s, LATE_S)
        last = max(bill.lives[life.uid], key=lambda each: each.begin_s)
        if last.estimated:
            unseen += 1
            assert life.end_s is not None and last.end_s is not None
            assert last.seen_s <= math.ceil(life.end_s[1]) and math.floor(life.end_s[0]) <= last.end_s
            assert bill.seconds(life.uid) >= least_s, "the upper bound counts"
        else:
            assert least_s <= bill.seconds(life.uid) <= most_s, life
    assert unseen and any(row.estimated_s for row in bill.rows), "nobody saw some of them go"
    assert cost(bill) == billed(bill, found)
    until(lambda: accrued_s(rig) > bill.until_s, "the policy's status is written", 90)
    ours = PRICE * sum(row.gpu_seconds for row in bill.rows if row.payer.service) / 3600
    assert Decimal(period(rig, "Day")["spent"]) > ours - CENT


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
