"""Says on the service what became of writes that only a person can help: forbidden, invalid, somebody else's, failed.

The plan is made before anything is written, so its condition `Acting` cannot know of a refusal. This adds it to what
is reported, for as long as the write stays refused; the plan itself, which is recorded and replayed, is not touched.
"""

from collections.abc import Iterable
from typing import Protocol

import msgspec

from ebbtide.model.plan import Condition, ConditionStatus, Plan, ServicePlan
from ebbtide.model.reasons import Code

# The others pass by themselves: a conflict or no answer is tried again with the next cycle
_FOR_PEOPLE = frozenset({"forbidden", "invalid", "foreign", "failed"})


class Written(Protocol):
    """What became of one write."""

    @property
    def what(self) -> str:
        """`scale`, `deployment`, `service` or `finalizer`."""

    @property
    def service(self) -> str:
        """`namespace/name`."""

    @property
    def variant(self) -> str:
        """Name of the variant."""

    @property
    def outcome(self) -> str:
        """One of the outcomes of the act layer."""

    @property
    def message(self) -> str:
        """For people."""


class Refusals:
    """Remembers refused writes: a scale write until the next cycle, others until the same object is looked at again."""

    def __init__(self) -> None:
        self._refused: dict[tuple[str, str, str], Written] = {}  # (service, what, variant)

    def added(self, plan: Plan, results: Iterable[Written]) -> Plan:
        """The plan as it is to be reported after its writes."""
        served = {service.key for service in plan.services}
        self._refused = {key: item for key, item in self._refused.items() if key[0] in served and key[1] != "scale"}
        for result in results:
            key = (result.service, result.what, result.variant)
            if result.outcome in _FOR_PEOPLE:
                self._refused[key] = result
            else:
                self._refused.pop(key, None)
        if not self._refused:
            return plan
        return msgspec.structs.replace(plan, services=tuple(self._said(service) for service in plan.services))

    def _said(self, service: ServicePlan) -> ServicePlan:
        refused = [item for key, item in sorted(self._refused.items()) if key[0] == service.key]
        if not refused:
            return service
        service = _unbuilt(service, [item for item in refused if item.what == "deployment"])
        told = Condition(
            "Acting",
            ConditionStatus.FALSE,
            Code.WRITE_REFUSED.value,
            "; ".join(item.message for item in refused),
        )
        conditions = tuple(
            told if item.type == "Acting" and item.status is ConditionStatus.TRUE else item
            for item in service.conditions
        )
        return msgspec.structs.replace(service, conditions=conditions)


def _unbuilt(service: ServicePlan, refused: list[Written]) -> ServicePlan:
    """Why a Deployment that Ebbtide is to build is not there, or not as declared, in the API server's own words.

    "It does not exist" is true of a target that was refused, and helps nobody.
    """
    invalid = [item for item in refused if item.outcome == "invalid"]
    if not refused:
        return service
    code = Code.TEMPLATE_REFUSED if invalid else Code.WRITE_REFUSED
    fix = "; correct the variant's engine block, its podTemplate above all" if invalid else ""
    text = "; ".join(f"variant {item.variant}: {item.message}" for item in invalid or refused) + fix
    conditions = tuple(
        Condition(item.type, ConditionStatus.FALSE, code.value, text) if _hides(item, bool(invalid)) else item
        for item in service.conditions
    )
    reason = service.reason
    if reason.code is Code.TARGET_NOT_FOUND:
        reason = msgspec.structs.replace(reason, code=code, text=text)
    return msgspec.structs.replace(service, conditions=conditions, reason=reason)


def _hides(condition: Condition, invalid: bool) -> bool:
    """What the plan says because the target is missing; and, of a running one, that all is as declared."""
    if condition.type not in ("TargetResolved", "Ready", "Acting"):
        return False
    as_declared = condition.status is ConditionStatus.TRUE and condition.type != "Acting"
    return condition.reason == Code.TARGET_NOT_FOUND.value or (invalid and as_declared)
