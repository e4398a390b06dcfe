"""Self-host or buy: from which load on a service is cheaper than an API, and nothing said that is not known."""

from collections.abc import Sequence
from decimal import Decimal

import msgspec
import pytest

from ebbtide.core.alternative import Operation, Owned, compare, over
from ebbtide.model.plan import AlternativePlan, ServicePlan
from ebbtide.model.snapshot import PodState, PoolState
from ebbtide.model.spec import Alternative, OnPrem, Price, ServiceSpec, Tariff
from tests.builders import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    pod,
    pods,
    pool,
    service,
    settled,
    silent_engine,
    snapshot,
    spec,
    variant,
    variant_spec,
)

OFFER = Alternative("USD", Decimal("0.50"), Decimal("2.00"))
EXAMPLE = Operation(Decimal(12), "USD", 1000.0, 500.0, 360e6, 480e6)
BOUGHT = Owned(Decimal(240_000), Decimal("1.60"), 1.0)
API = "an API at 0.50 and 2.00 USD for a million input and output tokens"


def example(**changes: object) -> AlternativePlan:
    return compare(OFFER, msgspec.structs.replace(EXAMPLE, **changes))


def test_the_worked_example() -> None:
    found = example(owned=BOUGHT)
    assert found.per_hour == Decimal(15)
    assert (found.tokens_per_day, found.break_even_tokens_per_day) == (360e6, 288e6)
    assert (found.utilisation, found.break_even_utilisation) == (0.75, 0.6)
    assert round(found.pay_back_days or 0) == 746
    assert found.message == (
        f"{API}; 12.00 USD an hour here, 15.00 there for the same tokens; self-hosting is cheaper from 288 million "
        "tokens a day, 60 % of what these replicas carry, 360 million a day now (75 %); at this pace the bought GPUs "
        "are paid back in 746 days"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            {"per_hour": Decimal(24)},
            "24.00 USD an hour here, 15.00 there for the same tokens; self-hosting is cheaper from 576 million tokens "
            "a day, more than the 480 million that these replicas carry: not even full they are cheaper, 360 million a "
            "day now",
            id="dearer however full",
        ),
        pytest.param(
            {"tokens_per_day": 0.0},
            "12.00 USD an hour here, and nothing comes; self-hosting is cheaper from 288 million tokens a day, 60 % of "
            "what these replicas carry, 0 a day now (0 %)",
            id="nothing comes",
        ),
        pytest.param(
            {"tokens_per_day": None},
            "12.00 USD an hour here, and what comes is not known; self-hosting is cheaper from 288 million tokens a "
            "day, 60 % of what these replicas carry",
            id="what comes is not known",
        ),
        pytest.param(
            {"full_tokens_per_day": None},
            "12.00 USD an hour here, 15.00 there for the same tokens; self-hosting is cheaper from 288 million tokens "
            "a day, 360 million a day now",
            id="what replicas carry is not known",
        ),
        pytest.param(
            {"per_hour": Decimal(0)},
            "0.00 USD an hour here, 15.00 there for the same tokens; self-hosting is cheaper from 0 tokens a day, 0 % "
            "of what these replicas carry, 360 million a day now (75 %)",
            id="GPUs that cost nothing",
        ),
        pytest.param(
            {"owned": msgspec.structs.replace(BOUGHT, share=0.1)},
            "12.00 USD an hour here, 15.00 there for the same tokens; self-hosting is cheaper from 288 million tokens "
            "a day, 60 % of what these replicas carry, 360 million a day now (75 %); the bought GPUs are not paid back "
            "at this pace",
            id="they do too little to pay for their electricity",
        ),
        pytest.param({"currency": "EUR"}, "the service is paid in EUR, which cannot be compared", id="other money"),
    ],
)
def test_what_is_said(changes: dict[str, object], words: str) -> None:
    assert example(**changes).message == f"{API}; {words}"


def test_of_other_money_no_number_is_said() -> None:
    found = example(currency="EUR", owned=BOUGHT)
    assert found == AlternativePlan(found.message, "USD")


def test_to_wait_for_a_century_is_never() -> None:
    late = Owned(Decimal(240_000), Decimal("14.72"), 1.0)  # 0.28 an hour are 98 years
    assert example(owned=late).pay_back_days is not None
    assert example(owned=msgspec.structs.replace(late, running_per_hour=Decimal("14.74"))).pay_back_days is None


def test_a_price_next_to_nothing_breaks_no_number() -> None:
    tiny = Decimal("0.00000000000001")
    found = compare(Alternative("USD", tiny, tiny), EXAMPLE)
    assert found.break_even_tokens_per_day == 1e15


def test_a_day_of_a_report_is_the_same_comparison() -> None:
    of_day = over(24.0, Decimal(288), "USD", (240_000_000, 120_000_000), Decimal("0.25"))
    assert of_day is not None
    assert compare(OFFER, of_day) == example()
    week = over(168.0, Decimal(2016), "USD", (1_680_000_000, 840_000_000), None)
    assert week is not None
    assert compare(OFFER, week).message == example(full_tokens_per_day=None).message
    assert over(24.0, Decimal(288), "USD", (0, 0), None) is None


# -- as it is planned


def planned(
    *pod_states: PodState, pools: PoolState | None = None, offer: Alternative | None = OFFER, seconds: float = 300.0
) -> ServicePlan:
    declared = spec(variants=[variant_spec("h100", "h100")], alternative=offer)
    state = snapshot(service(variant("h100", pod_states), declared), pools or pool())
    return settled(state, seconds).one(state)


def test_a_plan_says_it_with_the_numbers_of_its_cost() -> None:
    decided = planned(*pods(4, 8.0))
    found, cost = decided.alternative, decided.cost
    assert found is not None and cost is not None and cost.idle_share is not None
    tokens_per_s = 4 * 8.0 * (INPUT_TOKENS + OUTPUT_TOKENS)
    assert found.tokens_per_day == pytest.approx(tokens_per_s * 86_400)
    charged = 4 * 8.0 * 3600 * (INPUT_TOKENS * 0.5 + OUTPUT_TOKENS * 2.0) / 1e6
    assert float(found.per_hour or 0) == pytest.approx(charged)
    assert found.utilisation == pytest.approx(float(1 - cost.idle_share))
    assert found.break_even_tokens_per_day == pytest.approx(tokens_per_s * 86_400 * 12.0 / charged)
    assert found.pay_back_days is None


def test_the_break_even_share_is_the_same_at_any_load_and_for_any_size() -> None:
    found = [planned(*pods(count, rps)).alternative for count, rps in ((4, 12.0), (4, 3.0), (8, 6.0))]
    shares = [each.break_even_utilisation for each in found if each is not None]
    assert shares == pytest.approx([shares[0]] * 3, rel=0.1)


def test_after_the_load_went_requests_are_as_long_as_they_were() -> None:
    loop = settled(snapshot(service(variant("h100", pods(4, 8.0)), _declared()), pool()), 300.0)
    busy = loop.plan.services[0].alternative
    idle = loop.one(snapshot(service(variant("h100", pods(4, 0.0)), _declared()), pool()), 60.0).alternative
    assert busy is not None and idle is not None
    assert (idle.tokens_per_day, idle.per_hour, idle.utilisation) == (0.0, 0, 0.0)
    assert idle.break_even_tokens_per_day == pytest.approx(busy.break_even_tokens_per_day, rel=0.01)
    assert idle.break_even_utilisation == pytest.approx(busy.break_even_utilisation, rel=0.1)


def _declared() -> ServiceSpec:
    return spec(variants=[variant_spec("h100", "h100")], alternative=OFFER)


@pytest.mark.parametrize(
    ("pod_states", "price", "words"),
    [
        pytest.param(pods(2, 0.0), "3.00", "how long requests are is not known yet", id="no request was ever seen"),
        pytest.param([pod("a", silent_engine())], "3.00", "how long requests are is not known yet", id="no metrics"),
        pytest.param(pods(2, 8.0), None, "what the service costs is not known", id="no price"),
    ],
)
def test_what_is_not_known_is_said_and_in_no_number(
    pod_states: Sequence[PodState], price: str | None, words: str
) -> None:
    decided = planned(*pod_states, pools=pool(price=price))
    assert decided.alternative == AlternativePlan(f"{API}; {words}", "USD")


def test_metrics_that_went_leave_the_break_even_and_not_the_pace() -> None:
    loop = settled(snapshot(service(variant("h100", pods(4, 8.0)), _declared()), pool()), 300.0)
    blind = service(variant("h100", [pod(f"a-{i}", silent_engine()) for i in range(4)]), _declared())
    found = loop.one(snapshot(blind, pool()), 60.0).alternative
    assert found is not None
    assert (found.tokens_per_day, found.per_hour, found.utilisation) == (None, None, None)
    assert found.break_even_tokens_per_day is not None


def test_who_declares_none_is_compared_with_none() -> None:
    assert planned(*pods(4, 8.0), offer=None).alternative is None


def test_bought_gpus_are_paid_back_by_what_the_api_would_have_charged() -> None:
    owned = OnPrem(Decimal(30_000), Decimal(4), Decimal(700), Decimal("1.4"), Tariff(Decimal("0.20")))
    bought = pool(price="1.051578")
    bought = msgspec.structs.replace(
        bought, spec=msgspec.structs.replace(bought.spec, price=Price("USD", on_prem=owned))
    )
    found = planned(*pods(4, 8.0), pools=bought).alternative
    assert found is not None and found.per_hour is not None
    assert found.pay_back_days == pytest.approx(4 * 30_000 / (float(found.per_hour) - 4 * 0.196) / 24, rel=1e-4)


def test_of_a_mixed_fleet_only_the_work_of_the_bought_gpus_pays_them_back() -> None:
    owned = OnPrem(Decimal(30_000), Decimal(4), Decimal(700), Decimal("1.4"), Tariff(Decimal("0.20")))
    bought = pool("h100", price="1.051578")
    bought = msgspec.structs.replace(
        bought, spec=msgspec.structs.replace(bought.spec, price=Price("USD", on_prem=owned))
    )
    declared = spec(variants=[variant_spec("h100", "h100"), variant_spec("rented", "rented")], alternative=OFFER)
    fleet = [variant("h100", pods(2, 8.0, "b")), variant("rented", pods(2, 8.0, "r"))]
    state = snapshot(service(fleet, declared), [bought, pool("rented")])
    found = settled(state, 300.0).one(state).alternative
    assert found is not None and found.per_hour is not None
    half = float(found.per_hour) / 2
    assert found.pay_back_days == pytest.approx(2 * 30_000 / (half - 2 * 0.196) / 24, rel=0.02)
