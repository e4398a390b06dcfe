"""One load over two unlike variants, behind a gateway that picks engines at random and behind one that looks at load.

The service is in mode Recommend, so that what is measured is not changed by what is concluded from it.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ebbtide.sandbox.sandbox import Sandbox
from tests.cluster.rig import Rig, pool, until
from tests.cluster.scenarios.conftest import open_rig

H100, A100 = "balance-h100", "balance-a100"


@pytest.fixture
def rig(sandbox: Sandbox, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A service on one H100 and one A100 under 6 requests/s each, and a gateway with the dispatch of the case."""
    with open_rig(sandbox, tmp_path, request.param) as made:
        service = made.service_object(("h100", H100, "chat-h100"), ("a100", A100, "chat-a100"), mode="Recommend")
        for variant in service["spec"]["variants"]:
            variant["minReplicas"] = 1  # the plan keeps both, so status says what each carries beside the other
        made.apply(
            pool(H100, "h100-on-demand", accelerator="H100-80GB", price="3.00"),
            pool(A100, "a100-on-prem", price="1.40"),
            made.target_object("chat-h100", "h100-on-demand", startup="1s"),
            made.target_object("chat-a100", "a100-on-prem", startup="1s"),
            service,
        )
        until(lambda: made.ready("chat-h100") and made.ready("chat-a100"), "both variants serve")
        made.load(12.0, 120.0)
        made.start_operator()
        yield made


def carries(rig: Rig, variant: str) -> float:
    """Requests/s that the plan counts on for one replica, as status says."""
    return float(rig.variant(variant).get("capacity", {}).get("requestsPerSecond", 0.0))


@pytest.mark.parametrize("rig", ["random"], indirect=True)
def test_requests_spread_evenly_over_unlike_variants_are_said_and_planned_with(rig: Rig) -> None:
    until(lambda: carries(rig, "h100") > 1.5 * carries(rig, "a100") > 0, "the faster is planned to carry more")
    until(lambda: rig.condition("TrafficBalanced").get("status") == "False", "seen to be spread evenly")
    found = rig.condition("TrafficBalanced")
    assert found["reason"] == "SpreadEvenly"
    for words in ("what a100 carries", "4.40 USD an hour buy no capacity", "endpoint picker", "a pod of h100 gets"):
        assert words in found["message"]
    slowest = carries(rig, "a100")
    assert carries(rig, "h100") == slowest
    assert f"planned at {slowest:.3g} requests/s" in found["message"]
    event = until(lambda: rig.events("SpreadEvenly"), "an Event")[0]
    assert "what a100 carries" in event.get("note", event.get("message", ""))
    gauge = f'ebbtide_service_condition{{namespace="{rig.namespace}",service="chat",type="TrafficBalanced"}} 0.0'
    assert gauge in rig.operator_metrics(rig.operators[0])


@pytest.mark.parametrize("rig", ["least-loaded"], indirect=True)
def test_behind_a_gateway_that_looks_at_load_the_faster_is_planned_to_carry_more(rig: Rig) -> None:
    until(lambda: rig.condition("TrafficBalanced").get("status") == "True", "seen to follow capacity")
    assert rig.condition("TrafficBalanced")["reason"] == "FollowsCapacity"
    assert carries(rig, "h100") > 1.5 * carries(rig, "a100") > 0
    assert rig.events("SpreadEvenly") == []
