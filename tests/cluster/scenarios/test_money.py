"""A CostPolicy on the real control plane: spend stays under its ceilings, and what was spent survives the operator.

Emulated A100s at 3.60 USD an hour: a replica costs a tenth of a cent a second.
"""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from ebbtide.errors import SandboxError
from ebbtide.sandbox.audit import audit_writes
from tests.cluster.audit_bill import gpu_seconds, lifetimes
from tests.cluster.rig import OPERATOR_USER, Json, Rig, pool, stays, until

ADMISSION = Path(__file__).parents[3] / "manifests" / "admission" / "ceilings.yaml"
POOL, NODES, POLICY = "capped-a100", "a100-on-prem", "capped"
PRICE = Decimal("3.60")
GPUS = {"chat-": 1, "low-": 1}
CYCLE_S = 2.0
MOST_OFF_S = 2  # of one pod: its binding is a whole second, and its end when the news of it came
FAST: Json = {"objectives": {"timeToFirstToken": "2s", "interTokenLatency": "25ms", "attainment": "95"}}


def policy(rig: Rig, **ceilings: str) -> Json:
    spec = {
        "selector": {"namespaces": [rig.namespace]},
        "currency": "USD",
        "outageReserve": "1m",
        "ceilings": ceilings,
    }
    return {"apiVersion": "ebbtide.dev/v1alpha1", "kind": "CostPolicy", "metadata": {"name": POLICY}, "spec": spec}


@pytest.fixture(scope="module")
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """Two services that want more than the 3 GPUs that may be paid for."""
    down = {"down": {"delay": "4s", "maxPerMinute": 60}}
    shared_rig.apply(
        pool(POOL, NODES, price=str(PRICE), billing="Pod"),
        policy(shared_rig, perHour="10.80", perDay="1000"),
        shared_rig.target_object("chat", NODES),
        shared_rig.service_object(("a100", POOL, "chat"), scaling=down, capacity="10", priority=200, **FAST),
        shared_rig.target_object("low", NODES, route="low"),
        shared_rig.service_object(("a100", POOL, "low"), name="low", scaling=down, capacity="10", priority=1, **FAST),
    )
    until(lambda: shared_rig.ready("chat") == 1 and shared_rig.ready("low") == 1, "the first replicas are ready")
    shared_rig.start_operator()
    shared_rig.load(25.0, 600.0, "low")
    return shared_rig


def status(rig: Rig) -> Json:
    found: Json = rig.get("costpolicy", POLICY).get("status", {})
    return found


def period(rig: Rig, kind: str) -> Json:
    return next((item for item in status(rig).get("periods", []) if item["period"] == kind), {})


def total(rig: Rig) -> int:
    return rig.replicas("chat") + rig.replicas("low")


def test_a_rate_is_not_exceeded_and_the_service_says_which_policy_binds(rig: Rig) -> None:
    until(lambda: total(rig) == 3, "3 GPUs of 3.60 are 10.80 an hour", 90)
    reason = until(lambda: rig.reason("low") == "CeilingReached" and rig.status("low"), "and no more", 60)
    assert f"CostPolicy {POLICY}: 10.80 of 10.80 USD an hour are in use" in reason["message"]
    assert rig.variant("a100", "low")["limitedBy"] == "CeilingReached"
    stays(lambda: total(rig) == 3, "the rate holds", 10)
    gave = until(lambda: status(rig).get("gaveWay"), "the policy says who does without")
    assert gave[0]["service"] == f"{rig.namespace}/low"
    until(lambda: Decimal(status(rig)["ratePerHour"]) == Decimal("10.80"), "and what it costs an hour", 30)


def test_the_higher_priority_gets_what_the_lower_gives_up(rig: Rig) -> None:
    rig.load(25.0, 600.0, "chat")
    until(lambda: (rig.replicas("chat"), rig.replicas("low")) == (2, 1), "low gives way down to its minimum", 120)
    running = [write for write in rig.scale_writes() if write.body]
    assert running, "all by the operator's own hand"
    low = until(lambda: rig.reason("low") == "CeilingReached" and rig.status("low"), "and says why")
    assert "CostPolicy" in low["message"]


def test_money_is_reserved_before_each_raise(rig: Rig) -> None:
    """In the audit log each raise comes right after a write of the policy's status."""
    writes = audit_writes(rig.sandbox.audit_log, OPERATOR_USER)
    reserved = [write.time_s for write in writes if write.resource == "costpolicies" and write.name == POLICY]
    raises = []
    for target in ("chat", "low"):
        replicas = 1
        for write in rig.scale_writes(target):
            wanted = write.body["spec"]["replicas"]
            raises += [write.time_s] if wanted > replicas else []
            replicas = wanted
    assert len(raises) >= 2
    assert all(any(0.0 <= raised_s - at_s <= CYCLE_S for at_s in reserved) for raised_s in raises)


def test_a_ceiling_that_is_raised_takes_effect_in_the_next_cycle_and_so_does_a_lower_one(rig: Rig) -> None:
    rig.apply(policy(rig, perHour="21.60", perDay="1000"))
    until(lambda: total(rig) >= 5, "money for 6", 90)
    rig.apply(policy(rig, perHour="7.20", perDay="1000"))
    until(lambda: total(rig) == 2, "money for the minimums alone", 60)
    stays(lambda: total(rig) == 2, "and it stays so", 6)


def test_what_was_spent_is_what_the_audit_log_says_and_survives_the_operator(rig: Rig) -> None:
    process = rig.operators[0]
    before = Decimal(period(rig, "Day")["spent"])
    rig.kill(process)
    time.sleep(5)
    rig.sandbox.kubectl("-n", "ebbtide-system", "delete", "lease", "ebbtide")
    rig.start_operator("b", data_dir=str(rig.data / "a"))
    since_s = time.time()
    until(lambda: accrued_s(rig) > since_s + 1, "the new leader writes the status", 90)
    found, until_s = Decimal(period(rig, "Day")["spent"]), accrued_s(rig)
    assert found > before
    pods = lifetimes(rig.sandbox.audit_log, rig.namespace)
    day_s = datetime.fromisoformat(period(rig, "Day")["begin"]).timestamp()
    # a ledger begins with its first leader: what ran before is not counted
    begun_s = next(write.time_s for write in rig.writes() if write)
    wanted = gpu_seconds(rig.sandbox.audit_log, rig.namespace, GPUS, max(day_s, begun_s), until_s)
    off_s = MOST_OFF_S * (len(pods) + 4) + 20
    assert found == pytest.approx(PRICE * Decimal(round(wanted)) / 3600, abs=PRICE * off_s / 3600)


def accrued_s(rig: Rig) -> float:
    return datetime.fromisoformat(status(rig)["accruedThrough"]).timestamp()


@pytest.fixture
def held_by_the_api_server(rig: Rig) -> Iterator[None]:
    """The admission policy in force: dry runs beyond what is payable are refused."""
    rig.sandbox.apply(ADMISSION)
    try:
        until(lambda: refused(rig, "low", 99, "--dry-run=server"), "the admission policy takes effect")
        yield
    finally:
        rig.sandbox.kubectl("delete", "-f", str(ADMISSION), "--ignore-not-found")


def refused(rig: Rig, deployment: str, replicas: int, *flags: str) -> str:
    """Why `kubectl scale` is refused; empty: it is not."""
    try:
        rig.sandbox.kubectl("-n", rig.namespace, "scale", "deployment", deployment, f"--replicas={replicas}", *flags)
    except SandboxError as error:
        return str(error)
    return ""


def test_the_api_server_lets_ebbtide_raise_and_holds_the_ceiling_when_it_is_gone(
    rig: Rig, held_by_the_api_server: None
) -> None:
    """Money for 6, then for the two minimums; the operator is killed when it has let go of the others."""
    rig.load(25.0, 300.0, "low")
    rig.load(25.0, 300.0, "chat")
    rig.apply(policy(rig, perHour="21.60", perDay="1000"))
    until(lambda: total(rig) >= 4, "money for 6", 90)
    rig.apply(policy(rig, perHour="7.20", perDay="1000"))
    until(lambda: total(rig) == 2, "money for the minimums alone", 60)
    for name in ("chat", "low"):
        until(lambda name=name: rig.variant("a100", name).get("payable") == 1, f"{name} may have its minimum")
    rig.kill(rig.operators[-1])
    said = refused(rig, "low", 2)
    assert f"InferenceService low, variant a100: up to 1, not 2 replicas: CostPolicy {POLICY}: " in said
    assert "USD an hour left; one replica more takes 3.60" in said
    assert (refused(rig, "low", 0), refused(rig, "low", 1)) == ("", "")
    rig.sandbox.kubectl("-n", "ebbtide-system", "delete", "lease", "ebbtide")
    rig.start_operator("c", data_dir=str(rig.data / "a"))


def test_a_policy_that_cannot_be_read_stops_raises_and_lowers_nothing(rig: Rig) -> None:
    other = policy(rig, perHour="21.60")
    other["metadata"]["name"] = f"{POLICY}-zone"
    other["spec"] |= {"timeZone": "Mars/Olympus"}
    rig.apply(other, policy(rig, perHour="21.60", perDay="1000"))
    said = until(
        lambda: (
            rig.get("costpolicy", f"{POLICY}-zone").get("status", {}).get("reason") == "InvalidTimeZone"
            and json.dumps(rig.status("low"))
        ),
        "the policy says what is wrong",
        60,
    )
    assert said
    stays(lambda: total(rig) == 2, "nothing is raised", 8)
