"""Status and `ebbtide cost` measure how much of the cost stands idle one way: the same fleet, the same number."""

from collections.abc import Sequence
from decimal import Decimal

import msgspec
import pytest

from ebbtide.model.money import Lifetime, Payer, PriceRecord
from ebbtide.model.snapshot import PodPhase, PodState
from ebbtide.model.spec import Price, Tariff
from ebbtide.money.bill import hours
from ebbtide.money.lifetimes import Holding
from ebbtide.money.units import units
from ebbtide.money.usage import Tally
from tests.builders import engine, pod, pods, pool, service, settled, snapshot, variant

HOUR_S = 1_000_800  # an hour's beginning
SPAN_S = 60
PRICES = {"h100": "3.00", "a100": "1.00"}

INTERRUPTED = pod("i", engine(8.0), phase=PodPhase.INTERRUPTED)
STARTING = pod("s", phase=PodPhase.STARTING)
LEAVING = pod("t", engine(2.0), phase=PodPhase.TERMINATING)


@pytest.mark.parametrize(
    ("story", "fleet"),
    [
        ("four that serve", {"h100": pods(4, 8.0)}),
        ("one that starts and one that drains are paid and stand idle", {"h100": (*pods(3, 8.0), STARTING, LEAVING)}),
        ("a node that is about to go serves to the end", {"h100": (*pods(3, 8.0), INTERRUPTED)}),
        ("two pools at two prices", {"h100": pods(2, 8.0), "a100": pods(3, 4.0, "b")}),
        ("nothing comes", {"h100": pods(2, 0.0)}),
    ],
)
def test_the_idle_share_of_the_ledger_is_that_of_status(story: str, fleet: dict[str, Sequence[PodState]]) -> None:
    state = snapshot(
        service([variant(name, pod_states) for name, pod_states in fleet.items()]),
        [pool(name, price=PRICES[name]) for name in fleet],
    )
    loop = settled(snapshot(service([variant(name, [each for each in pod_states if each is not LEAVING])
                                     for name, pod_states in fleet.items()]), state.pools), 300.0)  # fmt: skip
    plan = loop.run(state)
    cost = plan.services[0].cost
    assert cost is not None and cost.idle_share is not None, story

    tally = Tally()
    held = [
        Holding(each.uid, Payer(name, "ml", "chat", name), each.gpus, 0.0, None, "n")
        for name, pod_states in fleet.items()
        for each in pod_states
    ]
    seen = msgspec.structs.replace(state, taken_at=float(HOUR_S + SPAN_S))
    tally.count(seen, held, HOUR_S, plan, {"ml/chat": 0.25})
    rows = hours(
        [Lifetime(each.uid, each.payer, each.gpus, HOUR_S, HOUR_S + SPAN_S) for each in held],
        [PriceRecord(name, 0, Price("USD", Tariff(Decimal(PRICES[name])))) for name in fleet],
        HOUR_S,
        HOUR_S + SPAN_S,
    )
    (found,) = units(rows, tally.changed(), ())
    assert found.idle is not None
    assert float(found.idle) == pytest.approx(float(cost.idle_share), abs=0.005), story
