"""Status: what is said, when it is worth a write, in what order, and never more than the budget."""

import asyncio
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ebbtide.api.pool import GPUPoolStatus
from ebbtide.api.service_status import InferenceServiceStatus
from ebbtide.core.conditions import of_unreadable
from ebbtide.kube.client import KubeClient
from ebbtide.model.plan import AlternativePlan, Demand, Forecast, MonthCost, Plan, ServiceCost, ServicePlan, TokenPrices
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import Unreadable
from ebbtide.model.spec import Price, PriceSource
from ebbtide.record.budget import TokenBucket
from ebbtide.record.significance import Difference, difference, only_shared
from ebbtide.record.status import StatusWriter
from ebbtide.record.view import (
    MAX_BYTES,
    SERVICE_CONDITIONS,
    conditions,
    decimal,
    decisions,
    money,
    pool_status,
    service_status,
    unreadable_status,
)
from tests.shell import world
from tests.shell.fake_api import FakeApi, serving

PATH = "/apis/ebbtide.dev/v1alpha1/namespaces/team/inferenceservices/chat/status"


def said(plan: ServicePlan | None = None, previous: Any = None, now_s: float = world.NOW_S) -> dict[str, Any]:
    return service_status(plan or world.service_plan(), 1, previous or {}, now_s, "decision-1")


# -- what is said

PRICES = TokenPrices(Decimal("0.416667"), Decimal("0.833333"))
COST = ServiceCost(Decimal(12), "USD", PRICES, TokenPrices(Decimal("0.3125"), Decimal("0.625")), Decimal(9))


def month(amount: str, at_s: float = world.NOW_S) -> MonthCost:
    return MonthCost(Decimal(amount), "USD", world.NOW_S - 3600, at_s)


def test_a_full_status_is_what_the_api_declares() -> None:
    assert InferenceServiceStatus.model_validate(said(world.service_plan(reason=world.reason())))
    state = world.pool_state(next_price_change_at=world.NOW_S + 60, next_price_per_gpu_hour=Decimal("1.5"))
    pool = pool_status(world.pool_plan(lead_time_s=240.4), state, {}, world.NOW_S)
    assert GPUPoolStatus.model_validate(pool)
    assert pool["nextPriceChange"] == {"at": "2027-01-15T08:01:00Z", "pricePerGPUHour": "1.50"}
    assert pool["leadTimeSeconds"] == 240


def test_what_a_silent_source_of_a_price_said_last_stays_in_the_status() -> None:
    """The next leader counts by it: pools whose price has no source need none."""
    known = world.pool_state()
    assert "lastPrice" not in pool_status(world.pool_plan(), known, {}, world.NOW_S)
    sourced = msgspec.structs.replace(known.spec, price=Price("USD", source=PriceSource("OpenCost")))
    known = msgspec.structs.replace(known, spec=sourced, price_per_gpu_hour=Decimal("2.123456"), currency="USD")
    said = pool_status(world.pool_plan(), known, {}, world.NOW_S)
    assert said["lastPrice"] == {"perGPUHour": "2.123456", "currency": "USD"}
    silent = msgspec.structs.replace(known, price_per_gpu_hour=None, currency="")
    after = pool_status(world.pool_plan(), silent, said, world.NOW_S)
    assert (after.get("pricePerGPUHour"), after["lastPrice"]) == (None, said["lastPrice"])
    assert GPUPoolStatus.model_validate(after)
    assert "lastPrice" not in pool_status(world.pool_plan(), silent, {}, world.NOW_S), "it never spoke"


def test_totals_are_summed_over_variants() -> None:
    plan = world.service_plan(
        variants=(world.variant_plan(wanted=6, allowed=5), world.variant_plan("l40s", observed=2, ready=1))
    )
    assert said(plan)["replicas"] == {"observed": 6, "ready": 5, "wanted": 10, "allowed": 9}


def test_a_stand_in_is_called_one_and_others_are_not() -> None:
    full, small = said(world.service_plan(variants=(world.variant_plan(), world.variant_plan("small", degraded=True))))[
        "variants"
    ]
    assert ("degraded" in full, small["degraded"]) == (False, True)


def test_what_is_unknown_is_left_out() -> None:
    status = said(world.service_plan(demand=None, forecast=None, spend_per_hour=None))
    assert not {"demand", "forecast", "spendPerHour", "currency"} & status.keys()


def test_a_forecast_is_said_in_its_parts_and_with_its_score() -> None:
    found = said(world.service_plan())["forecast"]
    assert found == {
        "horizonSeconds": 60,
        "expected": "9.6",
        "low": "8.1",
        "high": "11.2",
        "method": "level",
        "requestsPerSecond": "9.4",
        "inputTokensPerSecond": "9830",
        "outputTokensPerSecond": "2460",
        "score": {
            "errors": 31,
            "coverage": "0.94",
            "bias": "1.02",
            "pinballLow": "0.004",
            "pinballMedian": "0.031",
            "pinballHigh": "0.006",
        },
    }
    assert "score" not in said(forecast("prior"))["forecast"]


def test_every_known_condition_is_there_from_the_first_visit() -> None:
    found = {item["type"]: item for item in conditions((), SERVICE_CONDITIONS, {}, 3, world.NOW_S)}
    assert found.keys() == set(SERVICE_CONDITIONS)
    assert {(item["status"], item["reason"], item["observedGeneration"]) for item in found.values()} == {
        ("Unknown", "Pending", 3)
    }


def test_the_transition_time_moves_only_with_the_status() -> None:
    first = said()
    other_reason = world.service_plan(conditions=(world.condition(reason_="MetricsFresh", message="other words"),))
    second = said(other_reason, first, world.NOW_S + 100)
    third = said(world.service_plan(conditions=(world.condition(status="False"),)), second, world.NOW_S + 200)
    times = [
        next(item["lastTransitionTime"] for item in status["conditions"] if item["type"] == "MetricsFresh")
        for status in (first, second, third)
    ]
    assert times == ["2027-01-15T08:00:00Z", "2027-01-15T08:00:00Z", "2027-01-15T08:03:20Z"]


MOVE = world.service_plan(variants=(world.variant_plan(allowed=6),), reason=world.reason())


@pytest.mark.parametrize(
    ("plan", "before", "want"),
    [
        pytest.param(MOVE, [], [("DemandRose", 4, 6)], id="a move"),
        pytest.param(MOVE, [{"reason": "DemandRose", "to": 6}], [("DemandRose", None, 6)], id="the same again"),
        pytest.param(world.service_plan(), [], [], id="within target is no decision"),
        pytest.param(
            world.service_plan(reason=world.reason(Code.METRICS_STALE)),
            [],
            [("MetricsStale", 4, 4)],
            id="a hold is one",
        ),
    ],
)
def test_what_counts_as_a_decision(plan: ServicePlan, before: list[Any], want: list[Any]) -> None:
    found = decisions(plan, before, world.NOW_S, "id-1")
    assert [(item["reason"], item.get("from"), item["to"]) for item in found] == want


def test_the_last_ten_decisions_are_kept_newest_first() -> None:
    history: list[dict[str, Any]] = []
    for to in range(5, 20):
        plan = world.service_plan(variants=(world.variant_plan(allowed=to),), reason=world.reason())
        history = decisions(plan, history, world.NOW_S + to, f"id-{to}")
    assert [item["id"] for item in history] == [f"id-{to}" for to in range(19, 9, -1)]


@pytest.mark.parametrize(
    ("value", "want"), [(0.0, "0"), (4.5, "4.5"), (1234.6, "1235"), (0.01234, "0.0123"), (1e-7, "0.0000001")]
)
def test_decimals_have_no_exponent(value: float, want: str) -> None:
    assert decimal(value) == want


@pytest.mark.parametrize("value", [1e-300, 1.234e-9, 999.6, 1e16, 1e300, float("inf"), float("nan"), -1.0])
def test_no_number_gets_a_status_refused(value: float) -> None:
    assert re.fullmatch(r"[0-9]+(\.[0-9]+)?", decimal(value))
    assert len(decimal(value)) <= 16


@pytest.mark.parametrize(("value", "want"), [("12.4", "12.40"), ("0.0375", "0.0375"), ("1E+2", "100.00")])
def test_money_has_no_exponent(value: str, want: str) -> None:
    assert money(Decimal(value)) == want


@given(
    variants=st.integers(1, 16),
    kinds=st.integers(0, 24),
    length=st.integers(0, 6000),
    decided=st.integers(0, 10),
)
@example(variants=16, kinds=24, length=875, decided=0)
@example(variants=16, kinds=24, length=6000, decided=10)
def test_no_status_is_larger_than_16_kib(variants: int, kinds: int, length: int, decided: int) -> None:
    text = "ü" * length
    capacity = msgspec.structs.replace(world.variant_plan().capacity or pytest.fail(), evidence=text)
    plan = world.service_plan(
        variants=tuple(
            world.variant_plan("v" * 60 + str(i), capacity=capacity, payable=4, payable_because=text)
            for i in range(variants)
        ),
        reason=world.reason(text=text),
        conditions=tuple(world.condition(f"Type{i}", message=text) for i in range(kinds)),
        cost=COST,
        month=month("123456789"),
        alternative=AlternativePlan(text, "USD", Decimal(10**9), 1e15, 1e15, 0.123456, 1e9, 36_525.0),
    )
    past = {**said(world.service_plan(reason=world.reason(text=text)))["decisions"][0]}
    status = said(plan, {"decisions": [{**past, "to": i} for i in range(decided)]})
    assert len(msgspec.json.encode(status)) <= MAX_BYTES
    assert len(status["variants"]) == variants, "what decides is never dropped"


def test_cost_is_said_on_both_bases_and_for_the_month() -> None:
    status = said(world.service_plan(cost=COST, month=month("301.5")))
    assert status["cost"] == {
        "currency": "USD",
        "perHour": "12.00",
        "idleShare": "0.25",
        "allocation": {"perMillionInputTokens": "0.416667", "perMillionOutputTokens": "0.833333"},
        "usage": {"perMillionInputTokens": "0.3125", "perMillionOutputTokens": "0.625"},
        "monthToDate": {
            "amount": "301.50",
            "currency": "USD",
            "from": "2027-01-15T07:00:00Z",
            "through": "2027-01-15T08:00:00Z",
        },
    }
    assert InferenceServiceStatus.model_validate(status)


def test_what_an_api_would_cost_is_said_in_words_and_numbers() -> None:
    plan = AlternativePlan("it is cheaper", "USD", Decimal("8.4"), 851.6e6, 5e8, 0.8214, 0.4823, 420.4)
    status = said(world.service_plan(alternative=plan))
    assert status["alternative"] == {
        "message": "it is cheaper",
        "currency": "USD",
        "perHour": "8.40",
        "tokensPerDay": 851_600_000,
        "breakEvenTokensPerDay": 500_000_000,
        "utilisation": "0.821",
        "breakEvenUtilisation": "0.482",
        "payBackDays": 420,
    }
    assert InferenceServiceStatus.model_validate(status)
    unknown = said(world.service_plan(alternative=AlternativePlan("not known", "USD")))
    assert unknown["alternative"] == {"message": "not known", "currency": "USD"}


@pytest.mark.parametrize(
    ("cost", "want"),
    [
        pytest.param(None, None, id="a price"),
        pytest.param(ServiceCost(Decimal(12), "USD"), {"currency": "USD", "perHour": "12.00"}, id="what is asked"),
        pytest.param(
            ServiceCost(Decimal(12), "USD", TokenPrices(None, Decimal(1))),
            {"currency": "USD", "perHour": "12.00", "allocation": {"perMillionOutputTokens": "1.00"}},
            id="how much is idle, and prompts",
        ),
    ],
)
def test_of_cost_nothing_unknown_is_said(cost: ServiceCost | None, want: dict[str, Any] | None) -> None:
    assert said(world.service_plan(cost=cost)).get("cost") == want


def test_what_the_month_has_cost_stays_said_until_the_next() -> None:
    """A new leader asks the ledger after its first cycle: what was true up to then is no less true."""
    before = said(world.service_plan(cost=COST, month=month("301.5")))
    assert said(world.service_plan(cost=COST), before)["cost"] == before["cost"]
    days = 16 * 86_400
    assert "monthToDate" in said(world.service_plan(cost=COST), before, world.NOW_S + days)["cost"]
    assert "monthToDate" not in said(world.service_plan(cost=COST), before, world.NOW_S + days + 86_400)["cost"]


def test_what_is_payable_is_said_with_why_and_as_of_when() -> None:
    because = "CostPolicy cap: 10.00 USD an hour now, 2.50 of 12.50 USD an hour left; one replica more takes 2.50"
    (variant,) = said(paid(5, payable_because=because))["variants"]
    assert (variant["payable"], variant["payableBecause"]) == (5, f"{because} (as of 2027-01-15T08:00:00Z)")
    assert InferenceServiceStatus.model_validate(said(paid(5, payable_because="x" * 2000)))
    assert not {"payable", "payableBecause"} & said()["variants"][0].keys(), "where no policy pays for it"


# -- what is worth a write


def paid(payable: int, **changes: Any) -> ServicePlan:
    return world.service_plan(variants=(world.variant_plan(payable=payable, **changes),))


def demand(requests: float) -> ServicePlan:
    return world.service_plan(demand=Demand(requests, 1024.0, 256.0, 0.0))


def forecast(method: str, expected: float = 9.6) -> ServicePlan:
    return world.service_plan(forecast=Forecast(60.0, expected, 8.1, 11.2, method))


@pytest.mark.parametrize(
    ("old", "new", "want"),
    [
        pytest.param(demand(9.0), demand(9.0), Difference.NOTHING, id="equal"),
        pytest.param(demand(9.0), demand(9.4), Difference.NOTHING, id="it wobbles"),
        pytest.param(demand(9.0), demand(11.0), Difference.MOVED, id="it moves"),
        pytest.param(demand(0.001), demand(0.004), Difference.NOTHING, id="next to nothing doubles"),
        pytest.param(world.service_plan(demand=None), demand(9.0), Difference.MOVED, id="it becomes known"),
        pytest.param(forecast("trend"), forecast("growth"), Difference.NOTHING, id="another forecaster, one number"),
        pytest.param(forecast("trend"), forecast("growth", 14.0), Difference.MOVED, id="and another number"),
        pytest.param(
            world.service_plan(cost=COST, month=month("1")),
            world.service_plan(cost=ServiceCost(Decimal(12), "USD"), month=month("2")),
            Difference.NOTHING,
            id="money follows from the rest",
        ),
        pytest.param(
            world.service_plan(alternative=AlternativePlan("9 here", "USD", Decimal(8), 1e6)),
            world.service_plan(alternative=AlternativePlan("18 here, and much more", "USD", Decimal(16), 2e6)),
            Difference.NOTHING,
            id="what an API would cost follows from it too",
        ),
        pytest.param(
            demand(9.0), world.service_plan(reason=world.reason(Code.PAUSED)), Difference.DECIDED, id="another reason"
        ),
        pytest.param(
            demand(9.0),
            world.service_plan(variants=(world.variant_plan(ready=3),)),
            Difference.DECIDED,
            id="a replica is not ready",
        ),
        pytest.param(
            world.service_plan(reason=world.reason(text="9.0 of 10")),
            world.service_plan(reason=world.reason(text="9.1 of 10")),
            Difference.NOTHING,
            id="a number in the text wobbles",
        ),
        pytest.param(
            world.service_plan(reason=world.reason(text="9.0 of 10")),
            world.service_plan(reason=world.reason(text="9.0 from 10")),
            Difference.MOVED,
            id="the text says something else",
        ),
        pytest.param(paid(40), paid(39), Difference.MOVED, id="one replica less is payable"),
        pytest.param(world.service_plan(), paid(40), Difference.MOVED, id="a policy pays for it now"),
        pytest.param(paid(4), paid(5), Difference.MOVED, id="one more is payable"),
        pytest.param(paid(40), paid(41), Difference.NOTHING, id="one more than many is payable"),
        pytest.param(paid(4), world.service_plan(), Difference.MOVED, id="no policy pays for it any more"),
        pytest.param(
            paid(4, payable_because="2.50 of 12.50 USD an hour left"),
            paid(4, payable_because="maxReplicas is 4"),
            Difference.NOTHING,
            id="why no more are payable",
        ),
    ],
)
def test_which_difference_matters(old: ServicePlan, new: ServicePlan, want: Difference) -> None:
    before = said(old)
    assert difference(before, said(new, before, world.NOW_S + 10)) is want


BLIND = (world.condition(status="False", reason_="PrometheusUnreachable"), world.condition("Ready", message="serving"))


@pytest.mark.parametrize(
    ("new", "want"),
    [
        pytest.param(
            world.service_plan(conditions=BLIND, reason=world.reason(Code.PROMETHEUS_UNREACHABLE)), True, id="the cause"
        ),
        pytest.param(
            world.service_plan(conditions=BLIND, variants=(world.variant_plan(ready=1),)), False, id="and a pod died"
        ),
    ],
)
def test_which_difference_is_shared_by_all(new: ServicePlan, want: bool) -> None:
    before = said()
    assert only_shared(before, said(new, before), {"PrometheusUnreachable"}) is want
    assert only_shared(said(new), before, {"PrometheusUnreachable"}) is want, "also when it ends"


# -- when it is written


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def client(api: FakeApi, tmp_path: Path) -> AsyncIterator[KubeClient]:
    async with serving(api, tmp_path) as client:
        yield client


def offered(*plans: ServicePlan, **plan: Any) -> tuple[Plan, Any]:
    services = tuple(world.service_state(world.service_spec(item.key)) for item in plans)
    return world.plan(*plans, pools=(), **plan), world.snapshot(*services, pools=())


async def step(writer: StatusWriter, after_s: float, *plans: ServicePlan, **plan: Any) -> int:
    writer.offer(*offered(*plans, **plan), world.NOW_S + after_s, "id-1")
    return (await writer.drain(world.NOW_S + after_s)).written


async def test_a_write_is_our_status_alone_by_server_side_apply(client: KubeClient, api: FakeApi) -> None:
    await step(StatusWriter(client), 0, world.service_plan())
    [write] = api.writes()
    assert (write.method, write.path, write.params["fieldManager"]) == ("PATCH", PATH, "ebbtide-status")
    assert write.body.keys() == {"apiVersion", "kind", "metadata", "status"}


async def test_decisions_at_once_numbers_once_a_minute_wobbles_never(client: KubeClient) -> None:
    writer = StatusWriter(client)
    timeline = [
        (0, demand(9.0), 1),
        (10, demand(9.1), 0),
        (20, demand(14.0), 0),  # it matters, but the minute is not over
        (59, demand(14.0), 0),
        (60, demand(14.0), 1),
        (70, world.service_plan(variants=(world.variant_plan(allowed=6),)), 1),
        (80, demand(9.0), 1),
        (200, demand(9.1), 0),
    ]
    assert [await step(writer, after_s, plan) for after_s, plan, _ in timeline] == [want for _, _, want in timeline]


async def test_money_alone_is_written_once_an_hour_and_only_for_the_month(client: KubeClient) -> None:
    def spent(amount: str, after_s: float, cost: ServiceCost = COST) -> ServicePlan:
        return world.service_plan(cost=cost, month=month(amount, world.NOW_S + after_s))

    cheap = ServiceCost(Decimal(12), "USD", TokenPrices(Decimal(1), Decimal(2)), TokenPrices(), Decimal(1))
    timeline = [
        (0, spent("100", 0), 1),
        (120, spent("200", 120), 0),
        (3599, spent("200", 3599), 0),
        (3600, spent("109", 3600), 0),  # less than 10 % more
        (3610, spent("112", 3610), 1),
        (7000, spent("300", 7000), 0),
        (9000, spent("112", 9000, cheap), 0),  # idle, and other prices: what they follow from moves, or they do not
    ]
    writer = StatusWriter(client)
    assert [await step(writer, after_s, plan) for after_s, plan, _ in timeline] == [want for _, _, want in timeline]


async def test_a_restart_continues_from_what_was_written(client: KubeClient) -> None:
    before = said()
    writer = StatusWriter(client, previous=lambda kind, key: before)
    assert await step(writer, 100, world.service_plan()) == 0


async def test_ten_thousand_services_stay_within_the_budget_and_the_oldest_go_first(
    client: KubeClient, api: FakeApi
) -> None:
    writer = StatusWriter(client, budget=TokenBucket(20))
    first = [world.service_plan(f"team/a{i:02}") for i in range(30)]
    later = [world.service_plan(f"team/b{i:02}") for i in range(30)]
    writer.offer(*offered(*first), world.NOW_S)
    assert (await writer.drain(world.NOW_S)).written == 20
    writer.offer(*offered(*later, *first), world.NOW_S + 1)
    assert (await writer.drain(world.NOW_S + 1)).written == 20
    assert (await writer.drain(world.NOW_S + 1)).written == 0, "not twice in one second"
    names = [write.path.split("/")[-2] for write in api.writes()]
    assert set(names[:30]) == {f"a{i:02}" for i in range(30)}


async def test_what_was_decided_goes_before_what_was_measured(client: KubeClient, api: FakeApi) -> None:
    writer = StatusWriter(client, budget=TokenBucket(1))
    keys = ("team/a", "team/b")
    plans = [world.service_plan(key) for key in keys]
    await step(writer, 0, *plans)
    await step(writer, 10, *plans)
    busy = msgspec.structs.replace(plans[0], demand=Demand(50.0, 1.0, 1.0, 0.0))
    writer.offer(*offered(busy, plans[1]), world.NOW_S + 100)
    paused = world.service_plan("team/b", reason=world.reason(Code.PAUSED))
    await step(writer, 101, busy, paused)
    assert api.writes()[-1].path.split("/")[-2] == "b"


def lowering(payable: int, *keys: str, at_s: float = world.NOW_S) -> tuple[Plan, Any]:
    """All of them go from 4 to 3 replicas, and as many are payable."""
    plans = [
        world.service_plan(key, variants=(world.variant_plan(allowed=3, payable=payable),), reason=world.reason())
        for key in keys
    ]
    return offered(*plans, at=at_s, actions=tuple(world.action(3, service=key) for key in keys))


async def test_where_less_is_payable_it_is_written_before_replicas_are_lowered_and_once(
    client: KubeClient, api: FakeApi
) -> None:
    keys = [f"team/s{i:02}" for i in range(30)]
    before = {key: said(msgspec.structs.replace(paid(4), key=key)) for key in keys}
    writer = StatusWriter(client, previous=lambda kind, key: before[key], budget=TokenBucket(1))
    plan, snapshot = lowering(3, *keys)
    report = await writer.write_lowered(plan, snapshot, world.NOW_S, "id-1")
    assert (report.written, report.failed) == (30, 0), "whatever the budget has left"
    assert {write.body["status"]["variants"][0]["payable"] for write in api.writes()} == {3}
    assert api.writes()[0].body["status"]["decisions"][0]["id"] == "id-1"
    assert (await writer.write_lowered(plan, snapshot, world.NOW_S + 1, "id-1")).written == 0
    writer.offer(plan, snapshot, world.NOW_S + 1, "id-1")
    assert writer.waiting == 0, "all of it is said"


async def test_less_that_is_payable_is_written_without_delay_and_more_once_a_minute(client: KubeClient) -> None:
    writer = StatusWriter(client)
    timeline = [(0, 40, 1), (2, 39, 1), (4, 38, 1), (6, 38, 0), (8, 50, 0), (63, 50, 0), (64, 50, 1), (66, 49, 1)]
    assert [await step(writer, at_s, paid(count)) for at_s, count, _ in timeline] == [want for _, _, want in timeline]


async def test_what_was_decided_goes_before_less_that_is_payable_for_all(client: KubeClient, api: FakeApi) -> None:
    """One raise leaves less for the thirty others under the same ceiling, and the budget is ten a second."""
    keys = [f"team/s{i:02}" for i in range(30)]
    before = {key: said(msgspec.structs.replace(paid(9), key=key)) for key in keys}
    writer = StatusWriter(client, previous=lambda kind, key: before[key], budget=TokenBucket(10))
    others = [msgspec.structs.replace(paid(8), key=key) for key in keys[:-1]]
    moved = msgspec.structs.replace(paid(8), key=keys[-1])
    await step(writer, 0, *others, moved)
    raised = msgspec.structs.replace(paid(8, allowed=5), key=keys[-1])
    await step(writer, 1, *others, raised)
    assert api.writes()[10].path.split("/")[-2] == "s29"
    assert len(api.writes()) == 20


@pytest.mark.parametrize(
    ("plan", "snapshot"),
    [
        pytest.param(*lowering(4, "team/chat"), id="as many are payable as before"),
        pytest.param(*lowering(9, "team/chat"), id="more are payable"),
        pytest.param(*offered(paid(3)), id="nothing is lowered"),
        pytest.param(*offered(world.service_plan(), actions=(world.action(3),)), id="no policy pays for it"),
    ],
)
async def test_nothing_else_is_written_before_its_time(
    client: KubeClient, api: FakeApi, plan: Plan, snapshot: Any
) -> None:
    writer = StatusWriter(client, previous=lambda kind, key: said(paid(4)))
    assert (await writer.write_lowered(plan, snapshot, world.NOW_S)).written == 0
    assert api.writes() == []


async def test_what_could_not_be_written_before_a_lowering_is_written_later(client: KubeClient, api: FakeApi) -> None:
    api.will("PATCH", PATH, (500, {"message": "no"}))
    writer = StatusWriter(client, previous=lambda kind, key: said(paid(4)))
    plan, snapshot = lowering(3, "team/chat")
    report = await writer.write_lowered(plan, snapshot, world.NOW_S)
    assert (report.written, report.failed, "500" in report.problem) == (0, 1, True)
    writer.offer(plan, snapshot, world.NOW_S)
    assert (await writer.drain(world.NOW_S + 15)).written == 1


async def test_an_older_status_never_arrives_after_a_newer_one(client: KubeClient, api: FakeApi) -> None:
    """`drain` is in the middle of writing 9 payable replicas when the plan lowers to 3."""
    writer = StatusWriter(client)
    writer.offer(*offered(paid(9)), world.NOW_S)
    draining = asyncio.create_task(writer.drain(world.NOW_S))
    await asyncio.sleep(0)  # it has begun
    await writer.write_lowered(*lowering(3, "team/chat"), world.NOW_S)
    assert (await draining).written == 1
    assert [write.body["status"]["variants"][0]["payable"] for write in api.writes()] == [9, 3]


async def test_less_that_is_payable_does_not_wait_for_the_turn_of_a_shared_cause(
    client: KubeClient, api: FakeApi
) -> None:
    keys = [f"team/s{i:03}" for i in range(20)]
    fine = {key: said(msgspec.structs.replace(paid(9), key=key)) for key in keys}
    bucket = TokenBucket(20)
    writer = StatusWriter(client, previous=lambda kind, key: fine[key], budget=bucket)
    bucket.per_second = 0.1  # a large cluster's turns: minutes
    less = msgspec.structs.replace(blind(keys[7]), variants=paid(5).variants)
    others = [msgspec.structs.replace(blind(key), variants=paid(9).variants) for key in keys if key != keys[7]]
    assert await step(writer, 10, less, *others, cluster_conditions=GONE) == 1
    assert api.writes()[0].path.split("/")[-2] == "s007"


def blind(key: str) -> ServicePlan:
    return world.service_plan(key, conditions=BLIND, reason=world.reason(Code.PROMETHEUS_UNREACHABLE))


GONE = (world.condition("PrometheusReachable", "False", "PrometheusUnreachable", "no answer"),)


async def test_a_cause_that_concerns_all_reaches_every_object_in_turn_within_ten_minutes(
    client: KubeClient, api: FakeApi
) -> None:
    keys = [f"team/s{i:03}" for i in range(100)]
    fine = {key: said(world.service_plan(key)) for key in keys}
    writer = StatusWriter(client, previous=lambda kind, key: fine[key], budget=TokenBucket(0.5))
    per_minute = []
    for minute in range(10):
        before = len(api.writes())
        for second in range(minute * 60, minute * 60 + 60, 2):
            if second % 30 == 0:
                writer.offer(*offered(*map(blind, keys), cluster_conditions=GONE), world.NOW_S + second, "id")
            await writer.drain(world.NOW_S + second)
        per_minute.append(len(api.writes()) - before)
    assert sum(per_minute) == len(keys)
    assert max(per_minute) <= 30, "never more than the budget"
    assert len([count for count in per_minute if count]) >= 4, "spread, not in a burst"


async def test_somebody_elses_trouble_does_not_wait_for_the_turn_of_a_shared_cause(
    client: KubeClient, api: FakeApi
) -> None:
    bucket = TokenBucket(20)
    writer = StatusWriter(client, budget=bucket)
    keys = [f"team/s{i:03}" for i in range(20)]
    await step(writer, 0, *(world.service_plan(key) for key in keys))
    bucket.per_second = 0.1  # a large cluster's turns: minutes
    await step(writer, 10, *map(blind, keys), cluster_conditions=GONE)
    bucket.per_second = 20  # enough for all, were it their turn
    count = len(api.writes())
    worse = msgspec.structs.replace(blind(keys[7]), variants=(world.variant_plan(ready=0),))
    others = [blind(key) for key in keys if key != keys[7]]
    await step(writer, 11, worse, *others, cluster_conditions=GONE)
    assert [write.path.split("/")[-2] for write in api.writes()[count:]] == ["s007"]


@pytest.mark.parametrize(
    ("status", "retry_after_s"),
    [(500, 15), (429, 15), (422, 600), (403, 600)],
)
async def test_a_failed_write_is_tried_again_later(
    client: KubeClient, api: FakeApi, status: int, retry_after_s: int
) -> None:
    api.will("PATCH", PATH, (status, {"message": "no"}))
    writer = StatusWriter(client)
    writer.offer(*offered(world.service_plan()), world.NOW_S)
    report = await writer.drain(world.NOW_S)
    assert (report.failed, report.waiting, str(status) in report.problem) == (1, 1, True)
    assert await step(writer, retry_after_s - 1, world.service_plan()) == 0
    assert await step(writer, retry_after_s, world.service_plan()) == 1


async def test_a_service_that_went_meanwhile_is_forgotten(client: KubeClient, api: FakeApi) -> None:
    api.will("PATCH", PATH, (404, {"message": "gone"}))
    writer = StatusWriter(client)
    writer.offer(*offered(world.service_plan()), world.NOW_S)
    assert (await writer.drain(world.NOW_S)).failed == 0
    assert writer.waiting == 0


def test_the_bucket_saves_one_second_at_most() -> None:
    bucket = TokenBucket(20)
    assert [bucket.take(100, 0.0), bucket.take(100, 0.5), bucket.take(100, 3600.0), bucket.take(5, 3600.0)] == [
        20,
        10,
        20,
        0,
    ]
    assert bucket.take(5, 3000.0) == 0, "a clock that steps back gives nothing"


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(0)


def test_an_object_that_cannot_be_read_has_its_condition_and_no_number() -> None:
    item = Unreadable("InferenceService", "team/chat", "u", 7, "InferenceService team/chat: spec.x: 1 is not allowed")
    before = {"decisions": [{"id": "d"}], "replicas": {"observed": 3}, "conditions": []}
    status = unreadable_status(of_unreadable(item), item.generation, before, world.NOW_S)
    said = {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}
    assert said["Ready"] == said["Acting"] == ("False", "InvalidSpec")
    assert said["MetricsFresh"] == ("Unknown", "Pending")
    assert (status["reason"], status["observedGeneration"]) == ("InvalidSpec", 7)
    assert "spec.x: 1 is not allowed" in status["message"]
    assert status["decisions"] == before["decisions"]
    assert "replicas" not in status
    pool = unreadable_status(of_unreadable(msgspec.structs.replace(item, kind="GPUPool", key="p")), 1, {}, 1.0)
    assert [each["type"] for each in pool["conditions"]] == ["PricesKnown", "Ready"]
    assert "reason" not in pool, "a pool has no such field"
