"""What a GPUPool says of itself: how many nodes it has, and what to look at when there is none."""

import msgspec
import pytest

from ebbtide.model.plan import Condition
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import LedgerState, PoolState
from ebbtide.model.spec import Provisioning
from tests.builders import Loop, pool, snapshot


def ready(state: PoolState) -> Condition:
    plan = Loop().run(snapshot([], [state]))
    return next(item for item in plan.pools[0].conditions if item.type == "Ready")


SELECTOR = (("nvidia.com/gpu.product", "NVIDIA-L4OS"), ("karpenter.sh/capacity-type", "spot"))


@pytest.mark.parametrize(
    ("provisioning", "nodes", "said"),
    [
        (Provisioning.STATIC, 2, "2 nodes, 16 GPUs"),
        (
            Provisioning.STATIC,
            0,
            "0 nodes match nodeSelector nvidia.com/gpu.product=NVIDIA-L4OS, karpenter.sh/capacity-type=spot: "
            "no replica can run here; compare it with the labels of your nodes",
        ),
        (
            Provisioning.AUTOSCALED,
            0,
            "0 nodes match nodeSelector nvidia.com/gpu.product=NVIDIA-L4OS, karpenter.sh/capacity-type=spot; "
            "they are to come when pods wait for them",
        ),
    ],
    ids=["nodes-and-gpus", "a-static-pool-without-a-node", "an-autoscaled-pool-without-a-node"],
)
def test_a_pool_without_a_node_quotes_its_selector(provisioning: Provisioning, nodes: int, said: str) -> None:
    state = pool("l40s", nodes=nodes, provisioning=provisioning, node_selector=SELECTOR)
    assert ready(state).message == said


def test_a_price_that_does_not_hold_from_when_it_says_is_a_fault_of_the_pool() -> None:
    text = "spec.price.effectiveFrom: the price holds from 2026-12-02T00:00:00Z, when it was seen"
    state = msgspec.structs.replace(pool("l40s"), faults=((Code.EFFECTIVE_FROM_REFUSED.value, text),))
    assert (ready(state).status, ready(state).reason, ready(state).message) == ("False", "EffectiveFromRefused", text)


@pytest.mark.parametrize(
    ("ledger", "said"),
    [
        (None, None),
        (LedgerState(1.0), ("True", "LedgerCurrent", "what runs is in the ledger")),
        (
            LedgerState(1.0, "nothing was written since noon: it is full"),
            ("False", "LedgerBehind", "since noon: it is full;"),
        ),
    ],
    ids=["nothing-is-counted", "current", "behind"],
)
def test_whether_the_ledger_has_what_ran_in_the_pool(
    ledger: LedgerState | None, said: tuple[str, str, str] | None
) -> None:
    plan = Loop().run(msgspec.structs.replace(snapshot([], [pool("l40s")]), ledger=ledger))
    for found in (plan.pools[0].conditions, plan.cluster_conditions):  # the cluster's becomes an Event, once
        told = [(each.status, each.reason, each.message) for each in found if each.type == "LedgerCurrent"]
        assert [(status, reason) for status, reason, _ in told] == ([] if said is None else [said[:2]])
        assert all(said is not None and said[2] in message for _, _, message in told)
    assert next(each for each in plan.pools[0].conditions if each.type == "Ready").status == "True"
