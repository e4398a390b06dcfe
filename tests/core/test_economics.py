"""What tokens cost at the moment: two bases that add up, and nothing where a number is missing."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from ebbtide.core.economics import token_prices
from ebbtide.model.plan import ServiceCost, TokenPrices
from ebbtide.model.snapshot import PodPhase, PodState
from tests.builders import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    Loop,
    engine,
    pod,
    pods,
    pool,
    service,
    settled,
    silent_engine,
    snapshot,
    stale,
    variant,
)

NONE = TokenPrices()


def prices(input_: str, output: str) -> TokenPrices:
    return TokenPrices(Decimal(input_), Decimal(output))


@pytest.mark.parametrize(
    ("per_hour", "prompted", "generated", "weight", "want"),
    [
        pytest.param("12", 4000.0, 2000.0, 0.5, prices("0.416667", "0.833333"), id="the worked example"),
        pytest.param("9", 4000.0, 2000.0, 0.5, prices("0.3125", "0.625"), id="three quarters of it"),
        pytest.param("0", 4000.0, 2000.0, 0.5, prices("0", "0"), id="GPUs that cost nothing: 0 is known"),
        pytest.param("12", 4000.0, 2000.0, 0.0, NONE, id="nobody knows yet how much work a prompt token is"),
        pytest.param("12", 0.0, 0.0, 0.5, NONE, id="no tokens: no price of one, least of all infinite"),
        pytest.param("12", 0.4, 0.4, 0.5, NONE, id="a token now and then says nothing of a price"),
        pytest.param("3.6", 0.0, 1000.0, 0.5, TokenPrices(None, Decimal(1)), id="an engine that counts no prompts"),
        pytest.param("3.6", 2000.0, 0.0, 0.5, TokenPrices(Decimal("0.5"), None), id="nothing but prompts: embeddings"),
    ],
)
def test_prices_of_tokens(per_hour: str, prompted: float, generated: float, weight: float, want: TokenPrices) -> None:
    assert token_prices(Decimal(per_hour), prompted, generated, weight) == want


def cost(*pod_states: PodState, price: str | None = "3.00", seconds: float = 300.0) -> ServiceCost | None:
    state = snapshot(service(variant("h100", pod_states)), pool(price=price))
    return (settled(state, seconds) if seconds else Loop()).one(state).cost


def bill(found: TokenPrices, replicas: int, rps: float) -> float:
    """What the tokens of an hour come to at these prices."""
    assert found.input is not None and found.output is not None
    millions = [replicas * rps * tokens * 3600 / 1e6 for tokens in (INPUT_TOKENS, OUTPUT_TOKENS)]
    return float(found.input) * millions[0] + float(found.output) * millions[1]


def test_both_bases_add_up_and_idle_is_what_lies_between() -> None:
    found = cost(*pods(4, 8.0))
    assert found is not None and found.used_per_hour is not None
    assert (found.per_hour, found.currency) == (Decimal("12.00"), "USD")
    assert bill(found.allocation, 4, 8.0) == pytest.approx(12.0, rel=1e-4)
    assert bill(found.usage, 4, 8.0) == pytest.approx(float(found.used_per_hour), rel=1e-4)
    assert found.idle_share is not None and 0.2 < found.idle_share < 0.9
    assert found.idle_share == 1 - found.used_per_hour / found.per_hour


def test_half_the_load_is_twice_as_dear_by_allocation_and_as_dear_by_usage() -> None:
    full, half = cost(*pods(4, 10.0)), cost(*pods(4, 5.0))
    assert full is not None and half is not None
    assert full.allocation.output and half.allocation.output and full.usage.output and half.usage.output
    assert float(half.allocation.output / full.allocation.output) == pytest.approx(2.0, rel=0.02)
    assert float(half.usage.output / full.usage.output) == pytest.approx(1.0, rel=0.1)


def test_replicas_that_start_cost_and_do_nothing() -> None:
    ready, starting = cost(*pods(3, 10.0)), cost(*pods(3, 10.0), pod("s", phase=PodPhase.STARTING))
    assert ready is not None and starting is not None
    assert (ready.per_hour, starting.per_hour) == (Decimal("9.00"), Decimal("12.00"))
    assert ready.used_per_hour is not None and starting.used_per_hour is not None
    assert float(starting.used_per_hour / ready.used_per_hour) == pytest.approx(1.0, rel=0.02)


def test_a_fleet_beyond_its_capacity_has_no_idle_share_and_one_price() -> None:
    found = cost(*pods(2, 45.0, waiting=40.0))
    assert found is not None
    assert found.idle_share == 0
    assert found.usage == found.allocation


def test_no_load_is_all_idle_and_has_no_price() -> None:
    found = cost(*pods(2, 0.0))
    assert found is not None
    assert (found.idle_share, found.allocation, found.usage) == (1, NONE, NONE)


@pytest.mark.parametrize(
    "readings",
    [
        pytest.param({"arrivals": stale(8.0), "finished": stale(8.0)}, id="they are old"),
        pytest.param(None, id="there are none"),
    ],
)
def test_without_metrics_only_what_is_spent_is_known(readings: dict[str, Any] | None) -> None:
    readings_of = silent_engine() if readings is None else engine(8.0, **readings)
    found = cost(*(pod(f"a-{i}", readings_of) for i in range(4)))
    assert found == ServiceCost(Decimal("12.00"), "USD")


def test_one_pod_that_is_not_read_leaves_the_rest_unknown_too() -> None:
    found = cost(*pods(3, 8.0), pod("mute", silent_engine()))
    assert found == ServiceCost(Decimal("12.00"), "USD")


def test_rates_that_still_fill_up_make_no_price() -> None:
    """Ten seconds after they became ready a window of a minute holds a sixth of what comes."""
    state = snapshot(
        service(variant("h100", [msgspec.structs.replace(each, ready_at=999_990.0) for each in pods(4, 2.0)])), pool()
    )
    assert Loop().one(state).cost == ServiceCost(Decimal("12.00"), "USD")


def test_without_a_price_nothing_is_said() -> None:
    assert cost(*pods(4, 8.0), price=None) is None


def test_before_the_weight_of_a_prompt_is_known_there_is_an_idle_share_and_no_price() -> None:
    found = cost(*pods(4, 8.0), seconds=0.0)
    assert found is not None
    assert found.allocation == NONE
    assert found.idle_share is not None
