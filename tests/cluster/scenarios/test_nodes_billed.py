"""A pool that is billed by node, as most are: nodes come and go, and the bill with its idle rows is the audit log's.

Two payers and what nobody holds, as `ebbtide cost` prints it, against an integral over the log's nodes and pods.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType

import pytest

from ebbtide.clock import parse_rfc3339
from ebbtide.sandbox.nodes import A100_ON_PREM, NodePool, add_node, remove_node
from tests.cluster import audit_bill
from tests.cluster.rig import Rig, pool, until

POOL = "whole-a100"
NODES = NodePool(POOL, A100_ON_PREM.product, A100_ON_PREM.family, 81920, 4, 0, "on-demand", "gpu.a100.4x")
FIRST, SECOND, THIRD = (NODES.node_name(index) for index in range(3))
GPUS = {"chat-": 1, "train-": 2}
PRICE = Decimal("3.60")
LATE_S = 2  # the most by which the news of an end comes later than the end

Bounds = tuple[int, int]  # the fewest and the most GPU-seconds


@dataclass(frozen=True)
class Reported:
    """What `ebbtide cost` says of the pool: GPU-seconds and money by service, and of which time."""

    since_s: int
    until_s: int
    gpu_s: dict[str, int]
    cost: dict[str, Decimal]


@pytest.fixture(scope="module")
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """A node, a service that is only watched, and a Deployment of somebody else. How it is billed is left open."""
    shared_rig.sandbox.call(lambda client: add_node(client, NODES, FIRST))
    shared_rig.apply(
        pool(POOL, POOL, price=str(PRICE)),
        shared_rig.target_object("chat", POOL),
        shared_rig.target_object("train", POOL, gpus=2),
        shared_rig.service_object(("a100", POOL, "chat"), mode="Recommend"),
    )
    until(lambda: shared_rig.ready("chat") == 1 and shared_rig.ready("train") == 1, "both are ready")
    shared_rig.start_operator()
    yield shared_rig
    left = shared_rig.sandbox.kubectl("get", "nodes", "-l", f"sandbox.ebbtide.dev/pool={POOL}", "-o", "name")
    for name in left.split():
        shared_rig.sandbox.call(lambda client, name=name: remove_node(client, name.removeprefix("node/")))


def reported(rig: Rig, past_s: float) -> Reported:
    """As soon as it is written past a moment."""
    return until(lambda: (found := asked(rig)).until_s > past_s and found, "the ledger goes on")  # type: ignore[no-any-return]


def asked(rig: Rig) -> Reported:
    day = timedelta(days=1)
    now = datetime.now(UTC)
    period = f"{now - day:%Y-%m-%d}..{now + day:%Y-%m-%d}"
    command = [sys.executable, "-m", "ebbtide", "cost", "--ledger", str(rig.data / "a" / "ledger.sqlite"), "-o", "json"]
    command += ["--by", "pool,service", "--period", period]
    document = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    until_s = min(parse_rfc3339(document["to"]), parse_rfc3339(document["writtenUntil"]))
    ours = [row for row in document["totals"] if row["pool"] == POOL]
    assert not any(Decimal(row["estimated_gpu_hours"]) or Decimal(row["unknown_gpu_hours"]) for row in ours)
    gpu_s = {row["service"]: round(Decimal(row["gpu_hours"]) * 3600) for row in ours}
    cost = {row["service"]: Decimal(row["cost"]) for row in ours}
    return Reported(int(parse_rfc3339(document["ledgerFrom"])), int(until_s), gpu_s, cost)


def clerks(rig: Rig, since_s: int, until_s: int, on: Mapping[str, str]) -> dict[str, Bounds]:
    """By the audit log alone: each payer's, and what of the nodes nobody held.

    `on`: on which node a pod was that went with it; the log does not say, and after the node it costs nothing.
    """
    log = rig.sandbox.audit_log
    there = {each.name: each for each in audit_bill.nodes(log, (FIRST, SECOND, THIRD))}
    nodes = [each.seconds(since_s, until_s, LATE_S) for each in there.values()]
    found = {"chat-": (0, 0), "train-": (0, 0)}
    for life in audit_bill.pods(log, rig.namespace):
        pod = life._replace(end_s=there[on[life.name]].end_s) if life.name in on else life
        seconds = pod.seconds(since_s, until_s, LATE_S)
        prefix = next(each for each in found if life.name.startswith(each))
        least, most = (GPUS[prefix] * each for each in seconds)
        found[prefix] = found[prefix][0] + least, found[prefix][1] + most
    held = [sum(bounds[end] for bounds in found.values()) for end in (0, 1)]
    whole = [NODES.gpus_per_node * sum(each[end] for each in nodes) for end in (0, 1)]
    idle = whole[0] - held[1], whole[1] - held[0]
    return {f"{rig.namespace}/chat": found["chat-"], "(other pods)": found["train-"], "(idle)": idle}


def agree(rig: Rig, said: Reported, on: Mapping[str, str] = MappingProxyType({})) -> dict[str, Bounds]:
    wanted = clerks(rig, said.since_s, said.until_s, on)
    assert said.gpu_s.keys() == wanted.keys()
    for name, (least, most) in wanted.items():
        assert least <= said.gpu_s[name] <= most, (name, said, wanted)
        assert abs(said.cost[name] - PRICE * said.gpu_s[name] / 3600) <= Decimal("0.000001")
    return wanted


def test_of_nodes_and_pods_that_stay_the_bill_is_the_same_to_the_second(rig: Rig) -> None:
    """A second node comes; nothing has gone yet, so nothing but a beginning at the turn of a second may differ."""
    rig.sandbox.call(lambda client: add_node(client, NODES, SECOND))
    rig.scale("chat", 3)
    until(lambda: rig.ready("chat") == 3, "two more are ready")
    wanted = agree(rig, reported(rig, past_s=time.time() + 5))
    assert all(most - least <= 2 * NODES.gpus_per_node for least, most in wanted.values())
    assert wanted["(idle)"][0] > 0, "of 8 GPUs 3 are idle"


def test_of_nodes_that_go_with_and_without_pods_it_is_the_same_but_for_the_news_of_ends(rig: Rig) -> None:
    """One goes from under its pods, which are made anew on the other; one came and went without any."""
    rig.sandbox.call(lambda client: add_node(client, NODES, THIRD))
    rig.scale("chat", 1)
    rig.delete("deployment", "train", "--wait")
    until(lambda: len(rig.pods("chat")) == 1 and not rig.pods("train"), "most have gone")
    (stays,) = rig.pods("chat")
    # A second in which one pod ends and the next begins is begun by both. Where they are of one node that is full, the
    # first gives way, for a node is billed for no more than its GPUs; the log does not say which node a pod was on.
    time.sleep(LATE_S + 1)
    rig.sandbox.call(lambda client: remove_node(client, stays["spec"]["nodeName"]))
    until(lambda: rig.ready("chat") == 1 and rig.pods("chat")[0]["metadata"]["uid"] != stays["metadata"]["uid"], "anew")
    busy = rig.pods("chat")[0]["spec"]["nodeName"]
    (empty,) = {FIRST, SECOND, THIRD} - {busy, stays["spec"]["nodeName"]}
    rig.sandbox.call(lambda client: remove_node(client, empty))
    before = reported(rig, past_s=time.time() + 3)
    agree(rig, before, {stays["metadata"]["name"]: stays["spec"]["nodeName"]})
    after = reported(rig, past_s=before.until_s + 5)
    passed_s = after.until_s - before.until_s
    idle, chat = "(idle)", f"{rig.namespace}/chat"
    assert after.gpu_s[chat] - before.gpu_s[chat] == passed_s
    assert after.gpu_s[idle] - before.gpu_s[idle] == 3 * passed_s, "of the node that is left, and of no other"
    assert after.gpu_s["(other pods)"] == before.gpu_s["(other pods)"]
