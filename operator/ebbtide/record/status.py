"""Writes the status of services and pools: few writes, the important ones first, never more than the budget.

`offer` takes a whole plan and only notes what differs; `drain` writes as much of it as the token bucket allows. Order:
what was decided before what was measured, and within each the longest waiting first. `write_lowered` goes before all
of it: what the admission policy lets through must be less before replicas are lowered. A cause that concerns the whole
cluster (Prometheus gone) changes every object at once: those writes take turns, spread over at most ten minutes.

Must only run in the leader. Never touches anything but `/status` of Ebbtide's own kinds.
"""

import asyncio
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ebbtide.errors import EbbtideError, NotFoundError, RetryableError
from ebbtide.kube.client import KubeClient, resource_path
from ebbtide.model.plan import ConditionStatus, Plan, ServicePlan
from ebbtide.model.snapshot import PoolState, ServiceState, Snapshot
from ebbtide.record.batch_view import batch_policy_status, by_policy
from ebbtide.record.budget import TokenBucket
from ebbtide.record.significance import Difference, dearer, decided, difference, fell, moved, only_shared, payable
from ebbtide.record.view import Status, pool_status, service_status, unreadable_status

FIELD_MANAGER = "ebbtide-status"
API_VERSION = "ebbtide.dev/v1alpha1"
PLURALS = {
    "InferenceService": "inferenceservices",
    "GPUPool": "gpupools",
    "CostPolicy": "costpolicies",
    "BatchPolicy": "batchpolicies",
}

_MEASURED_EVERY_S = 60.0
_MONEY_EVERY_S = 3600.0  # where nothing but money moved: of 10,000 services that is less than 3 writes a second
_SPREAD_S = 600.0
_LOOKS, _LOOKS_PER_BUDGET_S = 200, 40
_AT_ONCE = 8  # writes ahead of lowerings, as many as the actuator makes
_RETRY_S = 15.0  # no answer
_REFUSED_S = 600.0  # the API server refused the object: only a new version of something mends that

PreviousStatus = Callable[[str, str], Mapping[str, Any] | None]
"""(kind, "namespace/name" or pool name) -> the object's status as last seen, asked once after a start."""


@dataclass(slots=True)
class _Object:
    """What is known of one object's status. Times are unix seconds.

    Statuses are kept as compressed JSON: 10,000 of them are 10 MB, 40 MB as JSON and 400 MB as dictionaries.
    """

    kind: str
    key: str
    uid: str
    written: bytes = b""
    written_decided: bytes = b""  # digest of the decided part of `written`
    payable: Mapping[str, int] = field(default_factory=dict)  # what `written` says of that, by variant
    written_at: float = float("-inf")
    wanted: bytes = b""
    due: Difference = Difference.NOTHING
    dirty_since: float = 0.0
    turn_at: float = 0.0  # not before its turn
    shared_cause: bool = False  # its turn was given because of a cluster-wide cause
    retry_at: float = 0.0  # not before this after a failed write
    looked_at: float = float("-inf")  # when its numbers were last compared
    writing: bool = False  # a write is on its way

    @property
    def path(self) -> str:
        plural = PLURALS[self.kind]
        namespace, _, name = self.key.rpartition("/")
        return resource_path(API_VERSION, plural, namespace, name, "status")

    @property
    def body(self) -> dict[str, Any]:
        namespace, _, name = self.key.rpartition("/")
        metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
        return {
            "apiVersion": API_VERSION,
            "kind": self.kind,
            "metadata": metadata,
            "status": msgspec.Raw(zlib.decompress(self.wanted)),
        }


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What one `drain` did: objects written, failed (tried again later), and still waiting."""

    written: int
    failed: int
    waiting: int
    problem: str = ""  # one of the failures in words


class StatusWriter:
    """Statuses of one cluster. One task calls `offer`; `drain` may be called from another of the same loop."""

    def __init__(
        self,
        client: KubeClient,
        previous: PreviousStatus = lambda kind, key: None,
        budget: TokenBucket | None = None,
    ) -> None:
        self._client = client
        self._previous = previous
        self._budget = budget or TokenBucket(20)
        self._objects: dict[tuple[str, str], _Object] = {}
        self._shared_reasons: dict[str, float] = {}  # reason -> until when a change may be because of it
        self._writing = asyncio.Lock()  # an older status must not arrive after a newer one

    @property
    def waiting(self) -> int:
        """Objects whose status is not written yet."""
        return sum(item.due is not Difference.NOTHING for item in self._objects.values())

    def offer(self, plan: Plan, snapshot: Snapshot, now_s: float, decision_id: str = "") -> int:
        """Notes what this cycle wants to be said; returns how many objects now wait. Writes nothing."""
        self._note_shared_reasons(plan, now_s)
        count, offered, looked = len(plan.services) + len(plan.pools) + len(plan.batch), set(), self._to_look_at(now_s)
        for item, status in self._wanted(plan, snapshot, now_s, decision_id):  # one at a time: see _Object
            key = (item.kind, item.key)
            offered.add(key)
            self._note_decided(item, status, now_s, count)
            if key in looked or fell(item.payable, status):
                self._note_moved(item, status, now_s)
            # what says the same as the status that is written need not be kept
            item.wanted = _encode(status) if item.due or item.writing else b""
        self._objects = {key: item for key, item in self._objects.items() if key in offered}
        return self.waiting

    async def drain(self, now_s: float) -> DrainReport:
        """Writes what is due, as much as the budget allows. Never raises for a failed write."""
        async with self._writing:
            ready = [item for item in self._objects.values() if item.due and max(item.turn_at, item.retry_at) <= now_s]
            ready.sort(key=lambda item: (-item.due, item.dirty_since, item.key))
            granted = self._budget.take(len(ready), now_s)
            return self._report(await asyncio.gather(*(self._write(item, now_s) for item in ready[:granted])))

    async def write_lowered(self, plan: Plan, snapshot: Snapshot, now_s: float, decision_id: str = "") -> DrainReport:
        """Writes, before the plan lowers replicas, the statuses that say that fewer are payable than what is written.

        Whatever the budget has left: there is one write for a lowering at most. Never raises for a failed write.
        """
        lowered = {action.service for action in plan.actions if action.to_replicas < action.from_replicas}
        services = tuple(service for service in plan.services if service.key in lowered and _is_paid(service))
        some = msgspec.structs.replace(plan, services=services, pools=(), batch=(), unreadable=())
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def write(item: _Object) -> str:
            async with at_once:
                return await self._write(item, now_s)

        async with self._writing:
            ahead = []
            for item, status in self._wanted(some, snapshot, now_s, decision_id):
                if fell(item.payable, status):
                    item.due, item.wanted = Difference.DECIDED, _encode(status)
                    ahead.append(item)
            self._budget.take(len(ahead), now_s)
            return self._report(await asyncio.gather(*(write(item) for item in ahead)))

    def _report(self, problems: Sequence[str]) -> DrainReport:
        failed = [problem for problem in problems if problem]
        return DrainReport(
            written=len(problems) - len(failed),
            failed=len(failed),
            waiting=self.waiting,
            problem=next(iter(failed), ""),
        )

    def _wanted(
        self, plan: Plan, snapshot: Snapshot, now_s: float, decision_id: str
    ) -> Iterator[tuple[_Object, Status]]:
        services = {service.spec.key: service for service in snapshot.services}
        for service_plan in plan.services:
            service: ServiceState | None = services.get(service_plan.key)
            if service is not None:
                item = self._object("InferenceService", service.spec.key, service.spec.uid)
                generation = service.spec.generation
                yield item, service_status(service_plan, generation, _said(item), now_s, decision_id)
        pools: dict[str, PoolState] = {pool.spec.name: pool for pool in snapshot.pools}
        for pool_plan in plan.pools:
            pool = pools.get(pool_plan.name)
            if pool is not None:
                item = self._object("GPUPool", pool.spec.name, pool.spec.uid)
                yield item, pool_status(pool_plan, pool, _said(item), now_s)
        batch = {state.spec.key: state.spec for state in snapshot.batch_policies}
        jobs = by_policy(plan, snapshot) if batch else {}
        for batch_plan in plan.batch:
            policy = batch.get(batch_plan.key)
            if policy is not None:
                item = self._object("BatchPolicy", policy.key, policy.uid)
                yield (
                    item,
                    batch_policy_status(batch_plan, policy.generation, _said(item), now_s, jobs.get(policy.key, ())),
                )
        unreadable = {(item.kind, item.key): item for item in snapshot.unreadable}
        for unread_plan in plan.unreadable:
            unread = unreadable.get((unread_plan.kind, unread_plan.key))
            if unread is not None:
                item = self._object(unread.kind, unread.key, unread.uid)
                yield item, unreadable_status(unread_plan, unread.generation, _said(item), now_s)

    def _object(self, kind: str, key: str, uid: str) -> _Object:
        item = self._objects.get((kind, key))
        if item is None or item.uid != uid:  # deleted and created again: nothing was said about this one
            item = _Object(kind=kind, key=key, uid=uid)
            _set_written(item, _encode(self._previous(kind, key) or {}))
            self._objects[kind, key] = item
        return item

    def _note_decided(self, item: _Object, status: Status, now_s: float, count: int) -> None:
        was_due = item.due
        if _digest(status) != item.written_decided:
            item.due = Difference.DECIDED
            item.dirty_since = item.dirty_since if was_due else now_s
            self._give_turn(item, status, now_s, count)
            return
        item.turn_at, item.shared_cause = 0.0, False
        if was_due is Difference.DECIDED:  # it came back to what was written; its numbers are looked at again
            item.due = Difference.NOTHING

    def _to_look_at(self, now_s: float) -> set[tuple[str, str]]:
        """Whose numbers are compared: those written longest ago, and no more of them than could be written soon.

        Comparing costs 0.2 ms: 10,000 objects a cycle would take 2 CPU-seconds to find 200 that can be written.
        """
        latest = now_s - _MEASURED_EVERY_S
        items = [item for item in self._objects.values() if not item.due and item.written_at <= latest]
        items.sort(key=lambda item: (item.looked_at, item.key))
        most = max(_LOOKS, int(_LOOKS_PER_BUDGET_S * self._budget.per_second))
        return {(item.kind, item.key) for item in items[:most]}

    def _note_moved(self, item: _Object, status: Status, now_s: float) -> None:
        item.looked_at = now_s
        if item.due:
            return
        written = _written(item)
        if moved(written, status) or (now_s - item.written_at >= _MONEY_EVERY_S and dearer(written, status)):
            item.due, item.dirty_since = Difference.MOVED, now_s

    def _give_turn(self, item: _Object, status: Status, now_s: float, count: int) -> None:
        may_wait = bool(self._shared_reasons) and not fell(item.payable, status)
        shared = may_wait and only_shared(_written(item), status, self._shared_reasons)
        if shared and not item.shared_cause:
            item.turn_at = now_s + self._turn_s(item, count)
        elif not shared:
            item.turn_at = 0.0
        item.shared_cause = shared

    def _turn_s(self, item: _Object, count: int) -> float:
        """How long this object waits for its turn: spread at half the budget, in an order that hashing makes fair.

        Worked example: 10,000 objects at 20/s take nine minutes, 5 objects half a second.
        """
        spread_s = min(_SPREAD_S, count / (self._budget.per_second / 2)) * 0.9
        return spread_s * zlib.crc32(item.key.encode()) / 2**32

    def _note_shared_reasons(self, plan: Plan, now_s: float) -> None:
        for condition in plan.cluster_conditions:
            if condition.status is ConditionStatus.FALSE:
                self._shared_reasons[condition.reason] = now_s + _SPREAD_S
        self._shared_reasons = {reason: end for reason, end in self._shared_reasons.items() if end >= now_s}

    async def _write(self, item: _Object, now_s: float) -> str:
        """One write; returns what went wrong, or ''."""
        sent, item.writing = item.wanted, True
        try:
            await self._client.apply(item.path, item.body, field_manager=FIELD_MANAGER, force=True)
        except NotFoundError:
            item.due = Difference.NOTHING  # deleted meanwhile; the next snapshot drops it
            return ""
        except EbbtideError as error:
            item.retry_at = now_s + (_RETRY_S if isinstance(error, RetryableError) else _REFUSED_S)
            return str(error)
        finally:
            item.writing = False
        _set_written(item, sent)
        item.written_at = now_s
        # what was offered while this write was on its way is still to be written
        item.due = difference(_decode(sent), _decode(item.wanted)) if item.wanted != sent else Difference.NOTHING
        item.wanted = item.wanted if item.due else b""
        return ""


def _is_paid(service: ServicePlan) -> bool:
    """Whether a policy pays for it."""
    return any(variant.payable is not None for variant in service.variants)


def _said(item: _Object) -> Status:
    """What transitions and decisions continue from: what waits to be written, else what was written."""
    return _decode(item.wanted or item.written)


def _written(item: _Object) -> Status:
    return _decode(item.written)


def _set_written(item: _Object, encoded: bytes) -> None:
    status = _decode(encoded)
    item.written = encoded
    item.written_decided, item.payable = _digest(status), payable(status)


def _digest(status: Status) -> bytes:
    encoded = msgspec.json.encode(decided(status), order="deterministic")
    return hashlib.blake2b(encoded, digest_size=16).digest()


def _encode(status: Mapping[str, Any]) -> bytes:
    return zlib.compress(msgspec.json.encode(status), 1)


def _decode(encoded: bytes) -> Status:
    return msgspec.json.decode(zlib.decompress(encoded), type=dict[str, Any])
