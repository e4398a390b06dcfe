"""Events: what changed, in numbers, on the object it happened to. Few, de-duplicated, within a write budget.

`cycle_events` decides which notes a cycle is worth (pure); `EventRecorder` sends those that were not said within the
last 15 minutes, an hour for what is told patiently. A cause that concerns the whole cluster is said once, on Ebbtide's
own Deployment, never on every service. Events are best effort: one that cannot be sent is counted and forgotten, and
never disturbs a cycle.
"""

import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ebbtide.clock import rfc3339_micro
from ebbtide.errors import EbbtideError
from ebbtide.kube.client import KubeClient, resource_path
from ebbtide.model.plan import ConditionStatus, Plan, PolicyPlan, ScaleAction, ServicePlan
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.snapshot import Snapshot, Unreadable
from ebbtide.model.spec import Mode, ServiceSpec
from ebbtide.record.batch_events import batch_events
from ebbtide.record.budget import TokenBucket
from ebbtide.record.notes import Note, Subject

CONTROLLER = "ebbtide.dev/operator"
_API_VERSION = "events.k8s.io/v1"
_SILENCE_S = 900.0
_PATIENT_SILENCE_S = 3600.0
_LITTLE = 30  # waiting notes: what is said patiently delays the next by ten seconds at most
_MAX_NOTE = 1024  # the API server's limit in bytes
_MAX_NAME = 200
_MAX_WAITING = 1000
_MOVE = re.compile(r"\d+ -> \d+")

# The Event that a service's deciding reason stands for; codes that are not here are told by status alone
BY_CODE: Mapping[Code, tuple[str, str]] = {
    Code.METRICS_MISSING: ("Warning", "Held"),
    Code.METRICS_STALE: ("Warning", "Held"),
    Code.PROMETHEUS_UNREACHABLE: ("Warning", "Held"),
    Code.CLUSTER_UNREADABLE: ("Warning", "Held"),
    Code.ROLLOUT_IN_PROGRESS: ("Normal", "Held"),
    Code.WARMING_UP: ("Normal", "Held"),
    Code.ACTIVATOR_UNSEEN: ("Warning", "Held"),
    Code.AT_MAXIMUM: ("Warning", "Limited"),
    Code.POOL_FULL: ("Warning", "Limited"),
    Code.POOL_BACKING_OFF: ("Warning", "Limited"),
    Code.QUOTA_REFUSED: ("Warning", "Limited"),
    Code.PODS_MISSING: ("Warning", "Limited"),
    Code.UNSCHEDULABLE: ("Warning", "Limited"),
    Code.CRASH_LOOPING: ("Warning", "Limited"),
    Code.STARTUP_OVERDUE: ("Warning", "Limited"),
    Code.PLAN_FAILED: ("Warning", "PlanFailed"),
    Code.PRICE_UNKNOWN: ("Warning", "PriceMissing"),
    Code.CEILING_REACHED: ("Warning", "Limited"),
    Code.CEILING_PACED: ("Warning", "Limited"),
    Code.THRESHOLD_REACHED: ("Warning", "Limited"),
    Code.USES_DEGRADED: ("Warning", "Degraded"),
    Code.LEAVES_DEGRADED: ("Normal", "Degraded"),
    Code.POLICIES_UNKNOWN: ("Warning", "Held"),
    Code.NO_BATCH_POLICY: ("Warning", "Limited"),
    Code.SELECTED_TWICE: ("Warning", "Limited"),
    Code.BATCH_POLICIES_UNKNOWN: ("Warning", "Held"),
    Code.PAUSED: ("Normal", "Paused"),
    Code.TARGET_CONFLICT: ("Warning", "ConflictDetected"),
    Code.TARGET_SHARED: ("Warning", "ConflictDetected"),
    Code.DRIFTED: ("Normal", "Drifted"),
}

# Reasons of conditions that are worth an Event whatever decides the plan, and the action that met them
BY_CONDITION: Mapping[str, str] = {
    Code.WRITE_REFUSED.value: "Scale",
    Code.TEMPLATE_REFUSED.value: "Build",
    Code.TARGET_FOREIGN.value: "Build",
    Code.PODS_OUTSIDE_POOL.value: "Observe",
    Code.SPREAD_EVENLY.value: "Observe",
    Code.SLO_UNATTAINABLE.value: "Observe",
    Code.NOT_ANSWERING.value: "Observe",
    Code.REQUESTS_REFUSED.value: "Observe",
}


def cycle_events(
    plan: Plan,
    snapshot: Snapshot,
    applied: Sequence[ScaleAction],
    own: Subject | None = None,
    jobs_moved: Collection[str] = (),
) -> list[Note]:
    """What one cycle is worth saying. `applied` are the actions that the API server confirmed.

    `jobs_moved`: keys of Jobs whose start, stop or resizing it confirmed.
    """
    specs = {service.spec.key: service.spec for service in snapshot.services}
    causes = [item for item in plan.cluster_conditions if item.status is ConditionStatus.FALSE]
    shared = {condition.reason for condition in causes}
    notes = [_scaled(specs[action.service], action) for action in applied if action.service in specs]
    for service_plan in plan.services:
        spec = specs.get(service_plan.key)
        if spec is not None and spec.mode is not Mode.OFF:
            notes += _of_service(spec, service_plan, shared)
    notes += [note for policy in plan.policies for note in _of_policy(policy)]
    unread = {(item.kind, item.key): item for item in snapshot.unreadable}
    for refused in plan.unreadable:
        found = unread.get((refused.kind, refused.key))
        if found is not None:
            notes.append(_unreadable(found, refused.reason))
    if own is not None:
        notes += [
            Note(own, "Warning", condition.reason, "Observe", condition.message, topic=condition.type)
            for condition in causes
        ]
    notes += batch_events(plan, snapshot, jobs_moved)
    return notes


def _scaled(spec: ServiceSpec, action: ScaleAction) -> Note:
    reason = "ScaledUp" if action.to_replicas > action.from_replicas else "ScaledDown"
    change = f"{action.from_replicas} -> {action.to_replicas}"
    text = _told(f"{action.variant} {change}", action.reason.text)
    # every move is news, also the second within 15 minutes: the numbers are part of the topic
    return Note(_subject(spec), "Normal", reason, "Scale", text, topic=f"{action.variant} {change}")


def _of_service(spec: ServiceSpec, plan: ServicePlan, shared: set[str]) -> Iterator[Note]:
    code = plan.reason.code
    if code in BY_CODE and code.value not in shared:
        type_, reason = BY_CODE[code]
        yield Note(_subject(spec), type_, reason, "Decide", f"{code.value}: {plan.reason.text}", topic=code.value)
    for condition in plan.conditions:
        action = BY_CONDITION.get(condition.reason)
        if action is not None:
            yield Note(_subject(spec), "Warning", condition.reason, action, condition.message, topic=condition.reason)
    moves = [f"{v.name} {v.observed} -> {v.allowed}" for v in plan.variants if v.allowed != v.observed]
    if spec.mode is Mode.RECOMMEND and moves:
        text = f"{_told(', '.join(moves), plan.reason.text)} (mode Recommend: nothing was written)"
        yield Note(_subject(spec), "Normal", "Recommended", "Recommend", text, topic=", ".join(moves))


def _of_policy(plan: PolicyPlan) -> Iterator[Note]:
    """What keeps a ceiling from being held, and that somebody gives way."""
    subject = Subject("ebbtide.dev/v1alpha1", "CostPolicy", "", plan.name, plan.uid)
    for condition in plan.conditions:
        own = condition.type != "Ready" or condition.reason == Code.INVALID_SPEC.value  # else it repeats another
        if condition.status is ConditionStatus.FALSE and own:
            blamed = condition.reason == Code.CEILING_EXCEEDED.value and plan.overruns
            topic = f"{condition.reason} {plan.overruns[0].cause.value}" if blamed else condition.reason
            mended = condition.reason == Code.LEDGER_MENDED.value
            type_, topic = ("Normal", condition.message) if mended else ("Warning", topic)
            yield Note(subject, type_, condition.reason, "Observe", condition.message, topic=topic)
    if plan.stuck:
        text = f"{plan.stuck}: reserved to the end of every period"
        yield Note(subject, "Warning", Code.PODS_STUCK.value, "Observe", text, topic=text)
    for reached, text in plan.newly_reached:
        topic = f"{reached.period.value} {reached.basis.value} {reached.percent} {reached.start_s:.0f}"
        yield Note(subject, "Warning", Code.THRESHOLD_REACHED.value, "Observe", text, topic=topic)
    if plan.gave_way:
        who = ", ".join(f"{service} without {replicas}" for service, replicas in plan.gave_way)
        text = f"{plan.reason.text}: {who}"
        yield Note(subject, "Normal", Code.CEILING_REACHED.value, "Decide", text, topic=Code.CEILING_REACHED.value)


def _unreadable(item: Unreadable, reason: Reason) -> Note:
    namespace, _, name = item.key.rpartition("/")
    subject = Subject("ebbtide.dev/v1alpha1", item.kind, namespace, name, item.uid)
    return Note(subject, "Warning", reason.code.value, "Observe", reason.text, topic=reason.text)


def _told(moves: str, reason: str) -> str:
    """The variants' moves before the service's reason, whose own move is not said again where it is the same one.

    `h100 0 -> 1` and `0 -> 1: why` are `h100 0 -> 1: why`; with `2 -> 3: why` it is `h100 0 -> 1 (in all 2 -> 3): why`.
    """
    move, _, why = reason.partition(": ")
    if move == moves or moves in move.split(", "):
        return reason  # it names the variants itself
    if not _MOVE.fullmatch(move):
        return f"{moves}: {reason}"
    return f"{moves}: {why}" if moves.endswith(f" {move}") else f"{moves} (in all {move}): {why}"


def _subject(spec: ServiceSpec) -> Subject:
    return Subject("ebbtide.dev/v1alpha1", "InferenceService", spec.namespace, spec.name, spec.uid)


class EventRecorder:
    """Sends notes. `instance` names this process (its pod), `own` is Ebbtide's own Deployment when known."""

    def __init__(
        self,
        client: KubeClient,
        instance: str = "ebbtide",
        budget: TokenBucket | None = None,
        dropped: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._client = client
        self._instance = instance
        self._budget = budget or TokenBucket(3)
        self._dropped = dropped
        self._said: dict[tuple[Subject, str, str], float] = {}
        self._waiting: deque[Note] = deque()
        self._count = 0

    async def emit(self, notes: Iterable[Note], now_s: float) -> int:
        """Sends what is new; returns how many were sent. Never raises for a failed write.

        Notes beyond the budget wait for the next call or `flush`, up to a thousand: a move is told once or never.
        """
        self._said = {key: until for key, until in self._said.items() if now_s < until}
        for note in notes:
            key = (note.subject, note.reason, note.topic)
            if key in self._said:
                continue
            if note.patient and len(self._waiting) >= _LITTLE:
                continue  # it comes again with the next cycle
            if len(self._waiting) >= _MAX_WAITING:
                self._dropped("budget")
                continue
            self._said[key] = now_s + (_PATIENT_SILENCE_S if note.patient else _SILENCE_S)
            self._waiting.append(note)
        return await self.flush(now_s)

    async def flush(self, now_s: float) -> int:
        """Sends what waits, as much as the budget allows; returns how many were sent."""
        granted = self._budget.take(len(self._waiting), now_s)
        notes = [self._waiting.popleft() for _ in range(granted)]  # another task may flush while this one awaits
        return sum([await self._send(note, now_s) for note in notes])

    async def _send(self, note: Note, now_s: float) -> int:
        body = self._body(note, now_s)
        path = resource_path(_API_VERSION, "events", body["metadata"]["namespace"])
        try:
            await self._client.request("POST", path, body=body)
        except EbbtideError as error:
            self._dropped(type(error).__name__)
            return 0
        return 1

    def _body(self, note: Note, now_s: float) -> dict[str, Any]:
        subject = note.subject
        self._count += 1
        # unique without randomness: microseconds and a counter, as kubelet and client-go name theirs
        suffix = f"{round(now_s * 1e6):x}{self._count % 4096:03x}"
        return {
            "apiVersion": _API_VERSION,
            "kind": "Event",
            "metadata": {"name": f"{subject.name[:_MAX_NAME]}.{suffix}", "namespace": subject.namespace or "default"},
            "eventTime": rfc3339_micro(now_s),
            "type": note.type,
            "reason": note.reason,
            "action": note.action,
            "note": note.text.encode()[:_MAX_NOTE].decode(errors="ignore"),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance[:128],
            "regarding": {
                "apiVersion": subject.api_version,
                "kind": subject.kind,
                "name": subject.name,
                "uid": subject.uid,
            }
            | ({"namespace": subject.namespace} if subject.namespace else {}),
        }
