"""What a GPUPool says of itself: how many nodes it has, and what to look at when there is none."""

import msgspec
import pytest

from ebbtide.model.plan import Condition
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import PoolState
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
