"""Of several policies the one that binds is named beside `limitedBy`, whatever their names and order."""

from decimal import Decimal

import pytest

from ebbtide.model.spec import CeilingKind, Threshold, ThresholdAction, ThresholdBasis
from ebbtide.record.view import policy_status, service_status
from tests.builders import NOW
from tests.core.purse import Member, World, policy

FROZEN = Threshold(CeilingKind.DAY, 50, ThresholdBasis.SPENT, (ThresholdAction.FREEZE,))
EURO = {"per_hour": "99", "currency": "EUR"}


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")], ids=["first", "last"])
@pytest.mark.parametrize(
    ("story", "binds", "other", "code"),
    [
        ("one has room", {"per_hour": "6"}, {"per_hour": "60"}, "CeilingReached"),
        ("a third at 3.00 has neither: 0.50 are left of one, 1.00 of the other",
         {"per_hour": "6.5"}, {"per_hour": "7"}, "CeilingReached"),
        ("a rate and a day", {"per_hour": "6"}, {"per_day": "900"}, "CeilingReached"),
        ("a day whose money is gone, and a rate", {"per_day": "2"}, {"per_hour": "60"}, "CeilingReached"),
        ("the other is of another namespace", {"per_hour": "6"}, {"per_hour": "3", "namespaces": ("dev",)},
         "CeilingReached"),
        ("a threshold freezes, and the other has room", {"per_day": "2", "thresholds": (FROZEN,)},
         {"per_hour": "60"}, "ThresholdReached"),
        ("it does not know what the GPUs cost", EURO, {"per_hour": "60"}, "PoliciesUnknown"),
    ],
)  # fmt: skip
def test_who_binds(story: str, binds: dict[str, object], other: dict[str, object], code: str, names: tuple) -> None:
    """Seven at 3.00 USD an hour are wanted."""
    one, two = names
    world = World([Member("chat", 150.0)], [policy(one, **binds), policy(two, **other)], spent="1")
    world.run(1200 if code == "CeilingReached" else 30)
    (service,) = world.plan.services
    (variant,) = service.variants
    assert (variant.limited_by, variant.limited_by_policy) == (code, one), story
    assert f"CostPolicy {one}:" in service.reason.text
    (shown,) = service_status(service, 1, {}, NOW, "")["variants"]
    assert (shown["limitedBy"], shown["limitedByPolicy"]) == (code, one)
    assert [item.name for item in world.plan.policies if item.gave_way] == [one], "who gave way is said by it alone"


def test_where_no_policy_binds_none_is_named() -> None:
    """Not where money suffices, and not where a maximum is what keeps it small."""
    world = World([Member("chat", 150.0, most=2)], [policy(per_hour="60"), policy("b", per_day="900")])
    world.run(600)
    (variant,) = world.plan.services[0].variants
    assert variant.allowed == 2
    assert variant.limited_by != ""
    assert variant.limited_by_policy == ""
    assert "limitedByPolicy" not in service_status(world.plan.services[0], 1, {}, NOW, "")["variants"][0]


def test_the_name_goes_when_the_other_comes_to_bind() -> None:
    world = World([Member("chat", 150.0)], [policy("a", per_hour="6"), policy("b", per_hour="9")])
    world.run(900)
    found = [world.plan.services[0].variants[0].limited_by_policy]
    for ceiling in ("30", "90"):
        world.policies = [policy("a", per_hour=ceiling), policy("b", per_hour="9" if ceiling == "30" else "90")]
        world.run(900)
        found.append(world.plan.services[0].variants[0].limited_by_policy)
    assert found == ["a", "b", ""]
    assert world.policy("a").ceilings[0].ceiling == Decimal(90)
    assert policy_status(world.policy("b"), 1, {}, NOW).get("gaveWay") is None
