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
        self._messages: dict[tuple[str, str, str], str] = {}  # (service, what, variant)

    def added(self, plan: Plan, results: Iterable[Written]) -> Plan:
        """The plan as it is to be reported after its writes."""
        served = {service.key for service in plan.services}
        self._messages = {key: text for key, text in self._messages.items() if key[0] in served and key[1] != "scale"}
        for result in results:
            key = (result.service, result.what, result.variant)
            if result.outcome in _FOR_PEOPLE:
                self._messages[key] = result.message
            else:
                self._messages.pop(key, None)
        if not self._messages:
            return plan
        return msgspec.structs.replace(plan, services=tuple(self._said(service) for service in plan.services))

    def _said(self, service: ServicePlan) -> ServicePlan:
        messages = [text for key, text in sorted(self._messages.items()) if key[0] == service.key]
        if not messages:
            return service
        refused = Condition("Acting", ConditionStatus.FALSE, Code.WRITE_REFUSED.value, "; ".join(messages))
        conditions = tuple(
            refused if item.type == "Acting" and item.status is ConditionStatus.TRUE else item
            for item in service.conditions
        )
        return msgspec.structs.replace(service, conditions=conditions)
