"""At the start, before anything is watched: that money does stop a raise, in this process, on a case that is known.

A budget that is silently off looks like one that is never reached. So one service that wants four replicas and has one
goes through the same readers and the same plan as all that follow: without a policy it gets four, else nothing would be
shown; without a price, or under a policy that cannot be read, it stays; under a ceiling it gets what that pays for.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from ebbtide.api import parse_policy, parse_pool, parse_service
from ebbtide.controller.logs import fields
from ebbtide.core.plan import plan
from ebbtide.errors import ConfigurationError, EbbtideError
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Plan
from ebbtide.model.snapshot import (
    NOT_APPLICABLE,
    POLICY_KIND,
    Account,
    PodPhase,
    PodState,
    PolicyState,
    ServiceState,
    Snapshot,
    Source,
    TargetState,
    Unreadable,
    VariantState,
)
from ebbtide.model.spec import CeilingKind
from ebbtide.observe.pools import Allocation, pool_state
from ebbtide.observe.projections import Node

log = logging.getLogger(__name__)

Decide = Callable[[Snapshot, Memory, float], tuple[Plan, Memory]]
_NOW_S, _DAY_S = 1_800_000_000.0, 86_400.0
_LABELS = {"pool": "known"}
_PRICE = {"price": {"perGPUHour": "3.00", "currency": "USD"}}
_TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "known"}
_SERVICE = {
    "metadata": {"name": "known", "namespace": "known", "uid": "service", "generation": 1},
    "spec": {
        "mode": "Auto",
        "model": {"name": "known"},
        "objectives": {},
        "variants": [{"name": "known", "pool": "known", "scaleTargetRef": _TARGET}],
        "scaling": {"minReplicas": 4},
    },
}
_NODE = {
    "metadata": {"name": "known", "uid": "node", "labels": _LABELS, "creationTimestamp": "2026-01-01T00:00:00Z"},
    "status": {"allocatable": {"nvidia.com/gpu": "8"}, "conditions": [{"type": "Ready", "status": "True"}]},
}


@dataclass(frozen=True)
class _Case:
    """`policy`: spec of a CostPolicy, if any, under which `spent` was spent this day; `replicas` must come out."""

    story: str
    replicas: int
    price: Mapping[str, Any] | None = None
    policy: Mapping[str, Any] | None = None
    spent: str = "0"


# AllowZero: else a declared minimum is kept, whatever it costs
_ALL = {"currency": "USD", "floor": "AllowZero", "outageReserve": "0s"}
CASES = (
    _Case("no policy, and GPUs at 3 USD an hour", 4, _PRICE),
    _Case("GPUs whose price nobody knows", 1),
    _Case("a ceiling of 6 USD an hour", 2, _PRICE, {**_ALL, "ceilings": {"perHour": "6.00"}}),
    _Case("a day whose money is spent", 1, _PRICE, {**_ALL, "ceilings": {"perDay": "100"}}, "100"),
    _Case("a policy whose ceilings have names of another version", 1, _PRICE, {**_ALL, "ceilings": {"daily": "100"}}),
)


def self_test(decide: Decide = plan) -> None:
    """Raises EbbtideError, which ends the process with exit code 1, where a case does not come out as it must."""
    wrong = []
    for case in CASES:
        decided, _ = decide(_seen(case), Memory(), _NOW_S)
        moved = [action.to_replicas for action in decided.actions]
        found = moved[-1] if moved else 1
        if decided.failures or found != case.replicas:
            why = f", for {decided.failures[0].error}" if decided.failures else ""
            wrong.append(f"with {case.story} it came to {found}, not {case.replicas}{why}")
    if wrong:
        raise EbbtideError(
            f"self-test: a service of 1 replica that declares 4: {'; '.join(wrong)}. Ceilings would not hold what they "
            "say, so nothing is scaled: install this version anew, and report it if that does not help"
        )
    log.info("self-test passed: prices and ceilings hold raises back", extra=fields(cases=len(CASES)))


def _seen(case: _Case) -> Snapshot:
    pool = parse_pool(_named("pool", {"nodeSelector": _LABELS, "billing": "Pod", **(case.price or {})}))
    pod = PodState("known-0", "pod", PodPhase.READY, _NOW_S - 7200, node="known", gpus=1, ready_at=_NOW_S - 7000)
    target = TargetState(exists=True, uid="target", spec_replicas=1, status_replicas=1, gpus_per_replica=1)
    variant = VariantState("known", target, (pod,), None)
    policies: tuple[PolicyState, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    if case.policy is not None:
        try:
            accounts = (
                Account(
                    CeilingKind.DAY, _NOW_S - _NOW_S % _DAY_S, _NOW_S - _NOW_S % _DAY_S + _DAY_S, Decimal(case.spent)
                ),
            )
            policies = (PolicyState(parse_policy(_named("policy", case.policy)), accounts, _NOW_S),)
        except ConfigurationError as error:
            unreadable = (Unreadable(POLICY_KIND, "known", "policy", 1, str(error)),)
    return Snapshot(
        _NOW_S,
        (ServiceState(parse_service(_SERVICE), (variant,), gateway_queue=NOT_APPLICABLE),),
        (pool_state(pool, {"known": msgspec.convert(_NODE, Node)}, Allocation(()), _NOW_S),),
        policies,
        sources=(Source("prometheus", healthy=True, age_s=1.0),),
        unreadable=unreadable,
    )


def _named(uid: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "known", "uid": uid, "generation": 1}, "spec": dict(spec)}
