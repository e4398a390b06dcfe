"""Builds the status of a BatchPolicy from its plan. Pure: the previous status and the time are arguments."""

from collections.abc import Mapping
from typing import Any

from ebbtide.clock import rfc3339
from ebbtide.model.plan import BatchPolicyPlan
from ebbtide.record.view import BATCH_CONDITIONS, Status, conditions, fitted, money


def batch_policy_status(plan: BatchPolicyPlan, generation: int, previous: Mapping[str, Any], now_s: float) -> Status:
    """The whole status of one BatchPolicy. What was saved stays while nothing is known of it."""
    status: Status = {
        "observedGeneration": generation,
        "conditions": conditions(plan.conditions, BATCH_CONDITIONS, previous, generation, now_s),
        "reason": plan.reason.code.value,
        "message": plan.reason.text[:1024],
        "queued": plan.queued,
        "running": plan.running,
        "stopped": plan.stopped,
        "suspendedByUsers": plan.suspended_by_users,
        "missed": plan.missed,
        "gpus": plan.gpus,
    }
    moments = {"nextStart": plan.next_start_at, "nextWindow": plan.next_window_at}
    status |= {name: rfc3339(at_s) for name, at_s in moments.items() if at_s is not None}
    if plan.saved is not None and plan.currency:
        status["saved"] = {"amount": money(plan.saved), "currency": plan.currency}
    elif previous.get("saved"):
        status["saved"] = previous["saved"]
    return fitted(status)
