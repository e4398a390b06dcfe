"""The ledger of a running operator against an integral of the audit log that knows nothing of it."""

import time
from collections.abc import Iterator

import pytest

from ebbtide.ledger.store import Ledger
from ebbtide.model.money import HourRow
from tests.cluster.audit_bill import gpu_seconds, lifetimes
from tests.cluster.rig import Rig, pool, until

POOL, NODES = "billed-a100", "a100-on-prem"
GPUS = {"chat-": 1, "train-": 2}
MOST_OFF_S = 2  # of one pod: its binding is a whole second, and its end when the news of it came


@pytest.fixture(scope="module")
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """A service that is only watched, and a Deployment of somebody else in the same pool."""
    shared_rig.apply(
        pool(POOL, NODES, price="3.60", billing="Pod"),
        shared_rig.target_object("chat", NODES, replicas=2),
        shared_rig.target_object("train", NODES, replicas=1, gpus=2),
        shared_rig.service_object(("a100", POOL, "chat"), mode="Recommend"),
    )
    until(lambda: shared_rig.ready("chat") == 2 and shared_rig.ready("train") == 1, "all are ready")
    shared_rig.start_operator()
    return shared_rig


def rows(rig: Rig, *, past_s: float) -> tuple[int, int, tuple[HourRow, ...]]:
    """(from when, until when, rows of the namespace), as soon as the ledger is written past `past_s`."""
    ledger = Ledger(rig.data / "a" / "ledger.sqlite", read_only=True)
    try:
        until(lambda: ledger.watermark_s > past_s, "the ledger goes on", 60)
        until_s = ledger.watermark_s
        found = tuple(row for row in ledger.rows(0, until_s) if row.payer.namespace == rig.namespace)
        return ledger.since_s, until_s, found
    finally:
        ledger.close()


def counted(found: tuple[HourRow, ...], service: str) -> int:
    return sum(row.gpu_seconds for row in found if row.payer.service == service)


def test_what_was_held_while_all_was_watched_is_what_the_audit_log_says(rig: Rig) -> None:
    rig.scale("chat", 4)
    until(lambda: rig.ready("chat") == 4, "two more are ready")
    rig.scale("chat", 1)
    until(lambda: len(rig.pods("chat")) == 1, "three have gone")
    since_s, until_s, found = rows(rig, past_s=time.time())
    pods = len(lifetimes(rig.sandbox.audit_log, rig.namespace))
    assert pods == 5
    wanted = gpu_seconds(rig.sandbox.audit_log, rig.namespace, GPUS, since_s, until_s)
    assert sum(row.gpu_seconds for row in found) == pytest.approx(wanted, abs=MOST_OFF_S * (pods + 1))
    assert counted(found, "chat") > 0 < counted(found, ""), "the service's pods and those of somebody else"
    assert {(row.payer.variant, row.payer.model) for row in found if row.payer.service} == {("a100", "llama-3-8b")}
    assert {str(row.price) for row in found} == {"3.60"} and not any(row.estimated_s for row in found)


def test_what_went_while_the_operator_was_dead_is_bounded_and_marked(rig: Rig) -> None:
    (process,) = rig.operators
    rig.kill(process)
    rig.delete("deployment", "train", "--wait")
    until(lambda: not rig.pods("train"), "it is gone")
    killed = lifetimes(rig.sandbox.audit_log, rig.namespace)
    (end_s,) = [end for name, (_, end) in killed.items() if name.startswith("train-")]
    assert end_s is not None
    rig.sandbox.kubectl("-n", "ebbtide-system", "delete", "lease", "ebbtide")
    rig.start_operator("b", data_dir=str(rig.data / "a"))
    _, missed_s, _ = rows(rig, past_s=time.time())
    since_s, until_s, found = rows(rig, past_s=missed_s + 1)  # the second in which it was missed is over
    wanted = gpu_seconds(rig.sandbox.audit_log, rig.namespace, GPUS, since_s, until_s)
    estimated = sum(row.estimated_s for row in found)
    total = sum(row.gpu_seconds for row in found)
    assert estimated > 0, "nobody saw it go"
    assert wanted - MOST_OFF_S * 6 <= total <= wanted + estimated + MOST_OFF_S * 6, "the upper bound counts"
    _, again_s, later = rows(rig, past_s=until_s + 5)
    assert counted(later, "") == counted(found, ""), "and what is gone costs no more"
    assert counted(later, "chat") - counted(found, "chat") == pytest.approx(again_s - until_s, abs=1)
