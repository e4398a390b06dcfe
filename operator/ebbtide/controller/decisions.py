"""One log line for each decision that differs from the one before, and one for each write that went wrong.

A cluster where nothing changes logs nothing, however many services it has.
"""

import logging
from collections.abc import Iterable
from typing import Protocol

from ebbtide.controller.logs import fields
from ebbtide.model.plan import Condition, ConditionStatus, Failure, Plan, ServicePlan

log = logging.getLogger(__name__)

_QUIET_OUTCOMES = ("done", "unchanged")


class _Result(Protocol):
    @property
    def service(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def message(self) -> str: ...


class DecisionLog:
    """Remembers what it logged last, per service and per cluster condition."""

    def __init__(self) -> None:
        self._services: dict[str, tuple[object, ...]] = {}
        self._cluster: dict[str, Condition] = {}
        self._troubles: dict[tuple[str, str], str] = {}
        self._failures: dict[str, Failure] = {}
        self._unread: dict[tuple[str, str], str] = {}

    def note(self, plan: Plan, decision_id: str) -> None:
        """Log what this plan decides otherwise than the last one."""
        seen: dict[str, tuple[object, ...]] = {}
        for service in plan.services:
            decided = (service.reason.code, *((variant.name, variant.allowed) for variant in service.variants))
            seen[service.key] = decided
            if self._services.get(service.key) != decided:
                log.info("decision", extra=_decision(service, decision_id))
        self._services = seen
        self._note_failures(plan)
        self._note_cluster(plan.cluster_conditions)

    def _note_failures(self, plan: Plan) -> None:
        """Services that a step of the plan failed on, and objects that cannot be read: once until they change."""
        failures = {failure.service: failure for failure in plan.failures}
        for service, failure in failures.items():
            if self._failures.get(service) != failure:
                said = fields(service=service, step=failure.step, text=failure.error, trace=failure.trace)
                log.error("a service cannot be planned", extra=said)
        unread = {(item.kind, item.key): item.reason.text for item in plan.unreadable}
        for (kind, key), text in unread.items():
            if self._unread.get((kind, key)) != text:
                log.warning("an object cannot be read", extra=fields(object=f"{kind} {key}", text=text))
        self._failures, self._unread = failures, unread

    def note_results(self, results: Iterable[_Result]) -> None:
        """Log each write that failed, once until its message changes or it succeeds."""
        troubles = {
            (result.service, result.variant): f"{result.outcome}: {result.message}"
            for result in results
            if result.outcome not in _QUIET_OUTCOMES
        }
        for (service, variant), trouble in troubles.items():
            if self._troubles.get((service, variant)) != trouble:
                log.warning("write failed", extra=fields(service=service, variant=variant, text=trouble))
        self._troubles = troubles

    def _note_cluster(self, conditions: Iterable[Condition]) -> None:
        """Troubles that concern all services, when they come and when they go; what is well is not news."""
        now = {condition.type: condition for condition in conditions}
        for kind, condition in now.items():
            before = self._cluster.get(kind)
            fine = condition.status is ConditionStatus.TRUE
            if before is None and fine:
                continue
            if before is None or (before.status, before.reason) != (condition.status, condition.reason):
                said = fields(type=kind, status=condition.status, reason=condition.reason, text=condition.message)
                log.log(logging.INFO if fine else logging.WARNING, "cluster condition", extra=said)
        for kind, condition in self._cluster.items():
            if kind not in now and condition.status is not ConditionStatus.TRUE:
                log.info("cluster condition", extra=fields(type=kind, status="gone"))
        self._cluster = now


def _decision(service: ServicePlan, decision_id: str) -> dict[str, dict[str, object]]:
    replicas = ",".join(f"{variant.name}:{variant.observed}->{variant.allowed}" for variant in service.variants)
    return fields(
        service=service.key, reason=service.reason.code, replicas=replicas, id=decision_id, text=service.reason.text
    )
