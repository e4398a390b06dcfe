"""A template of an engine block that asks for more GPUs is a raise: how many GPUs a replica every ceiling can pay."""

from decimal import Decimal

import msgspec
import pytest

from ebbtide.core.plan import plan
from ebbtide.model.memory import Memory
from ebbtide.model.snapshot import Account, PolicyState, Source
from ebbtide.model.spec import CeilingKind, EngineSpec, EngineType, Floor
from tests.builders import NOW, pods, pool, service, snapshot, spec, variant, variant_spec
from tests.core.purse import policy

END_S = NOW + 7200


def planned(free: str | None, *, present: int | None = 1, declared: int = 4, engine: bool = True, **changes):
    """Four replicas of `present` GPUs at 3.00 USD an hour each, of a block that declares `declared`; 100 USD a day."""
    block = EngineSpec(EngineType.VLLM, "example.com/engine:1") if engine else None
    one = variant_spec("h100", "h100", engine=block, gpus_per_replica=declared)
    state = variant("h100", pods(4, 14.0), gpus_per_replica=declared, template_gpus=present, termination_grace_s=30.0)
    least, sources = changes.pop("least", 1), changes.pop("sources", ())
    policies = ()
    if free is not None:
        account = Account(CeilingKind.DAY, NOW - 7200, END_S, 100 - Decimal(free))
        cap = policy(per_day="100", **({"outage_reserve_s": 60.0, "floor": Floor.ALLOW_ZERO} | changes))
        policies = (PolicyState(cap, (account,), NOW),)
    seen = snapshot(
        service(state, spec(variants=[one], min_replicas=least)), pool(nodes=8), policies=policies, cycle_s=10.0
    )
    seen = msgspec.structs.replace(seen, sources=(*seen.sources, *sources))
    decided, _ = plan(seen, Memory(), NOW)
    assert not decided.failures
    return decided


@pytest.mark.parametrize(
    ("story", "free", "changes", "most"),
    [
        ("money for all of it", "90", {}, 4),
        ("none beside what runs", "0.34", {}, 1),
        ("minimums are paid to the end of the day: two hours of four GPUs are 24.00", "40", {"least": 4,
         "floor": Floor.KEEP_MIN}, 1),
        ("and with the money for it", "99", {"least": 4, "floor": Floor.KEEP_MIN}, 4),
    ],
)  # fmt: skip
def test_so_many_gpus_a_replica_are_payable(story, free, changes, most):
    decided = planned(free, **changes)
    (only,) = decided.services[0].variants
    assert only.template_gpus is not None
    assert min(only.template_gpus, 4) == most, (story, only)
    assert decided.policies[0].per_hour == 4 * 3, "what runs is what the present template asks for"
    assert only.template_because.startswith("CostPolicy cap: ")


@pytest.mark.parametrize(
    ("story", "changes"),
    [
        ("nobody knows what it costs", {"currency": "EUR"}),
        ("another variant is no engine block", {"engine": False}),
        ("it does not exist yet", {"present": None}),
    ],
)
def test_where_nothing_can_be_said_nothing_grows_or_nothing_is_ours_to_write(story, changes):
    (only,) = planned("90", **changes).services[0].variants
    assert only.template_gpus == (1 if "currency" in changes else None), story


def test_without_a_policy_any_template_may_be_written():
    (only,) = planned(None).services[0].variants
    assert only.template_gpus is None


def test_where_policies_cannot_be_watched_no_template_grows():
    broken = Source("costpolicies", healthy=False, message="gone")
    (only,) = planned("90", sources=(broken,)).services[0].variants
    assert only.template_gpus == 1
    assert "CostPolicies cannot be watched" in only.template_because
