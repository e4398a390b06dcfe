"""Says on the service what became of writes that only a person can help: forbidden, invalid, somebody else's, failed.

A write without an answer, or with "later" (HTTP 5xx, 429), passes by itself, so it is only tried again. Where it fails
`_IN_A_ROW` times in a row it does not: a dead fail-closed webhook answers HTTP 500 for as long as nobody mends it.

The plan is made before anything is written, so its conditions cannot know of a refusal. This adds it to what is
reported, for as long as the write stays refused; the plan itself, which is recorded and replayed, is not touched.
A refused scale write is said by `Acting`. What an engine block declares and cannot be had is said by `TargetResolved`:
replicas are scaled all the same, so `Acting` must not deny it.
"""

from collections.abc import Iterable
from typing import Protocol

import msgspec

from ebbtide.model.plan import Condition, ConditionStatus, Plan, ServicePlan
from ebbtide.model.reasons import Code

# The others pass by themselves: after a conflict the next cycle plans again from what it sees
_FOR_PEOPLE = frozenset({"forbidden", "invalid", "foreign", "failed"})
_UNANSWERED = "retry"
_UNPAYABLE = "deployment", "refused"  # a template that no ceiling can pay: Ebbtide's own last word
_IN_A_ROW = 3
# One write may be tried but once a minute (upMaxPerMinute), so that a pause of two minutes ends no row; the third does
_ROW_ENDS_AFTER_S = 180.0


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


_Key = tuple[str, str, str]  # (service, what, variant)


class _Row(msgspec.Struct, frozen=True):
    """A write that failed `times` in a row, the last time at `at_s` (unix seconds)."""

    times: int
    at_s: float
    last: Written


class Refusals:
    """Remembers refused writes: a scale write until the next cycle, others until the same object is looked at again.

    One that goes on failing is remembered until it succeeds, or was not tried for `_ROW_ENDS_AFTER_S`.
    """

    def __init__(self) -> None:
        self._refused: dict[_Key, Written] = {}
        self._rows: dict[_Key, _Row] = {}

    def added(self, plan: Plan, results: Iterable[Written]) -> Plan:
        """The plan as it is to be reported after its writes."""
        served = {service.key for service in plan.services}
        self._refused = {key: item for key, item in self._refused.items() if key[0] in served and key[1] != "scale"}
        self._rows = {
            key: row for key, row in self._rows.items() if key[0] in served and plan.at - row.at_s < _ROW_ENDS_AFTER_S
        }
        for result in results:
            self._note(result, plan.at)
        if not self._refused and not self._rows:
            return plan
        return msgspec.structs.replace(plan, services=tuple(self._said(service) for service in plan.services))

    def _note(self, result: Written, now_s: float) -> None:
        key = (result.service, result.what, result.variant)
        if result.outcome in _FOR_PEOPLE or (result.what, result.outcome) == _UNPAYABLE:
            self._refused[key] = result
        else:
            self._refused.pop(key, None)
        row = self._rows.pop(key, None)
        if result.outcome == _UNANSWERED:
            self._rows[key] = _Row(1 if row is None else row.times + 1, now_s, result)

    def _known(self, service: str) -> list[Written]:
        """What a person must know of one service's writes, in the order of what and variant."""
        found = {key: row.last for key, row in self._rows.items() if row.times >= _IN_A_ROW} | self._refused
        return [item for key, item in sorted(found.items(), key=lambda each: each[0]) if key[0] == service]

    def _said(self, service: ServicePlan) -> ServicePlan:
        refused = self._known(service.key)
        if not refused:
            return service
        service = _unbuilt(service, [item for item in refused if item.what == "deployment"])
        scaling = [_words(item) for item in refused if item.what == "scale"]
        others = [_words(item) for item in refused if item.what != "scale"]
        conditions = tuple(_told(item, scaling, others) for item in service.conditions)
        return msgspec.structs.replace(service, conditions=conditions)


def _told(condition: Condition, scaling: list[str], others: list[str]) -> Condition:
    """The condition with what was refused and belongs to it. Another reason not to be true is stronger, and stays."""
    words = {"Acting": scaling, "TargetResolved": others, "Ready": others}.get(condition.type, [])
    well = condition.status is ConditionStatus.TRUE
    if words and well:
        return Condition(condition.type, ConditionStatus.FALSE, Code.WRITE_REFUSED.value, "; ".join(words))
    new = [word for word in words if word not in condition.message]
    if new and condition.type == "TargetResolved":
        return msgspec.structs.replace(condition, message="; ".join((condition.message, *new)))
    return condition


def _words(item: Written) -> str:
    """The number of tries is not in it: each would be another text, and another write of the status."""
    return f"failed {_IN_A_ROW} times or more: {item.message}" if item.outcome == _UNANSWERED else item.message


def _unbuilt(service: ServicePlan, refused: list[Written]) -> ServicePlan:
    """Why a Deployment that Ebbtide is to build is not there, or not as declared, in the API server's own words.

    "It does not exist" is true of a target that was refused, and helps nobody.
    """
    invalid = [item for item in refused if item.outcome == "invalid"]
    if not refused:
        return service
    code = Code.TEMPLATE_REFUSED if invalid else Code.WRITE_REFUSED
    fix = "; correct the variant's engine block, its podTemplate above all" if invalid else ""
    text = "; ".join(f"variant {item.variant}: {_words(item)}" for item in invalid or refused) + fix
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
