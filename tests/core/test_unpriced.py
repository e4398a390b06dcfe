"""GPUs of which nobody knows the price, and pods of others: what a policy says of them is never zero, nor too sure."""

from decimal import Decimal
from typing import Any

import pytest

from ebbtide.controller.policies import saved_of
from ebbtide.core.plan import plan
from ebbtide.model.memory import Memory
from ebbtide.model.plan import ConditionStatus, Plan, PolicyPlan
from ebbtide.model.snapshot import Account, Compared, Others, PolicyState, Snapshot
from ebbtide.model.spec import CeilingKind, PolicyScope, PolicySpec
from ebbtide.record.events import cycle_events
from ebbtide.record.metrics import plan_text
from ebbtide.record.view import policy_status
from tests.builders import NOW, pool, snapshot
from tests.core.purse import policy

UNKNOWN, FALSE, TRUE = ConditionStatus.UNKNOWN, ConditionStatus.FALSE, ConditionStatus.TRUE
DAY_S = 86_400.0
FOREIGN = policy(per_day="100", scope=PolicyScope.ALL_GPU_PODS, namespaces=("ml",))


def look(
    spec: PolicySpec,
    *others: Others,
    price: str | None = "3.00",
    unpriced: tuple[tuple[str, int], ...] = (),
    **more: Any,
) -> tuple[Plan, Snapshot]:
    """One policy over nothing but others' pods, of a day that has just begun."""
    day = Account(CeilingKind.DAY, NOW, NOW + DAY_S, Decimal(0), unpriced)
    state = PolicyState(spec, (day,), through_s=NOW, others=others, **more)
    shown = snapshot([], [pool("h100", price=price)], policies=(state,), cycle_s=10.0)
    return plan(shown, Memory(), NOW)[0], shown


def held(spec: PolicySpec, *others: Others, **more: Any) -> PolicyPlan:
    return look(spec, *others, **more)[0].policies[0]


def said(decided: PolicyPlan) -> dict[str, tuple[ConditionStatus, str, str]]:
    return {item.type: (item.status, item.reason, item.message) for item in decided.conditions}


def test_while_gpus_run_unpriced_nothing_is_said_to_be_within_its_ceilings() -> None:
    decided = held(FOREIGN, Others("h100", 4, 0), price=None)
    status, reason, text = said(decided)["WithinCeilings"]
    assert (status, reason) == (UNKNOWN, "PriceUnknown")
    assert text.startswith("not known, for of GPUs in use (4 of h100) nobody knows the price; of the others: ")
    assert said(decided)["Ready"][:2] == (FALSE, "PriceUnknown")
    shown = policy_status(decided, 1, {}, NOW)
    assert shown["unpricedGPUs"] == 4
    assert not {"ratePerHour", "wantedPerHour", "uncontrollablePerHour"} & shown.keys(), "no rate of 0.00"
    metrics = plan_text(*look(FOREIGN, Others("h100", 4, 0), price=None))
    assert 'ebbtide_policy_unpriced_gpus{policy="cap"} 4.0' in metrics
    assert "ebbtide_policy_per_hour{" not in metrics


def test_where_some_have_a_price_the_rate_is_of_those() -> None:
    shown = policy_status(held(FOREIGN, Others("a100", 1, 0), Others("h100", 4, 0)), 1, {}, NOW)
    assert (shown["ratePerHour"], shown["unpricedGPUs"]) == ("12.00", 1)


def test_nodes_of_no_pool_are_named_with_their_gpus() -> None:
    nodes = tuple((f"gpu-{n}", 8) for n in range(7))
    decided = held(FOREIGN, Others("", 56, 0), outside=nodes)
    status, reason, text = said(decided)["PricesKnown"]
    assert (status, reason, decided.unpriced_gpus) == (FALSE, "PriceUnknown", 56)
    assert "8 on node gpu-0, which is in no pool, 8 on node gpu-1" in text
    assert "16 on other nodes of no pool" in text and "gpu-5" not in text


def test_what_ran_before_its_price_was_known_is_said_until_it_is_paid() -> None:
    """The price is known by now; 180 GPU-seconds are not in what was spent, and the ledger knows no better."""
    compared = Compared(NOW)
    decided = held(FOREIGN, unpriced=(("", 3600), ("h100", 180)), compared=compared)
    ran = "1.00 GPU-hours of nodes in no pool and 0.05 GPU-hours of h100 in a day"
    assert said(decided)["PricesKnown"] == (
        FALSE,
        "PriceUnknown",
        f"what ran at a price that nobody knew in USD is not in what was spent, until a price is known by which they "
        f"are paid late ({ran}), or the period ends",
    )
    assert said(decided)["WithinCeilings"][:2] == (UNKNOWN, "PriceUnknown")
    status, reason, text = said(decided)["LedgerAgrees"]
    assert (status, reason) == (UNKNOWN, "PriceUnknown") and text.endswith(f"neither knows what all of it cost ({ran})")
    clean = said(held(FOREIGN, compared=compared))
    assert {clean[name][0] for name in ("PricesKnown", "WithinCeilings", "LedgerAgrees")} == {TRUE}


def test_it_is_in_status_and_the_next_leader_goes_on_from_there() -> None:
    unpriced = (("", 1), *((f"p{n:02d}", 7 * n + 1) for n in range(3)))
    shown = policy_status(held(FOREIGN, unpriced=unpriced), 1, {}, NOW)
    (day,) = shown["periods"]
    assert day["unpricedGPUHours"] == "0.006945"
    assert [each["pool"] for each in day["unpriced"]] == ["", "p00", "p01", "p02"]
    assert saved_of(shown).accounts[0].unpriced == unpriced
    many = tuple((f"p{n:02d}", n + 1) for n in range(40))
    shown = policy_status(held(FOREIGN, unpriced=many), 1, {}, NOW)
    (account,) = saved_of(shown).accounts
    assert len(account.unpriced) == 16
    assert sum(seconds for _, seconds in account.unpriced) == sum(seconds for _, seconds in many), "none is lost"


def test_of_what_came_lately_the_amount_is_said_to_be_the_least() -> None:
    """480 GPUs for a minute: what they cost to the end of the day is not bound, and so not said to be all."""
    decided = held(FOREIGN, Others("h100", 0, 480))
    text = said(decided)["WithinCeilings"][2]
    assert "with 0.00 spent that is at least 264.00 more than the 100.00 USD of a day: of 1440.00 USD an hour" in text
    assert "that came lately the next 16 min alone are counted; it is crossed from" in text
    lasting = said(held(FOREIGN, Others("h100", 480, 0)))["WithinCeilings"][2]
    assert "that is 34460.00 more than the 100.00 USD of a day by its end" in lasting


@pytest.mark.parametrize(
    ("story", "spec", "others", "status", "text"),
    [
        ("pods of others alone", FOREIGN, (Others("h100", 3, 1),), TRUE,
         "0 inference services fall under it, and pods of others that hold 4 GPUs"),
        ("before any is there", FOREIGN, (), UNKNOWN,
         "no inference service and no pod that holds GPUs is in ml now; those that come fall under it"),
        ("all of the cluster", policy(per_day="1", scope=PolicyScope.ALL_GPU_PODS), (), TRUE,
         "0 inference services fall under it, and pods of others that hold 0 GPUs"),
        ("services alone, and there are none", policy(per_day="1"), (), FALSE, "no inference service falls under it"),
    ],
)  # fmt: skip
def test_a_policy_of_pods_selects_pods(
    story: str, spec: PolicySpec, others: tuple[Others, ...], status: ConditionStatus, text: str
) -> None:
    decided, shown = look(spec, *others)
    found = said(decided.policies[0])["Selects"]
    assert (found[0], found[2]) == (status, text), story
    warned = {note.reason for note in cycle_events(decided, shown, [])}
    assert ("SelectsNothing" in warned) is (status is FALSE)
