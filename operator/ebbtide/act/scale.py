"""Carries out a plan's scale actions: one guarded write to one target's `/scale` each, and nothing else.

Order of one action: its own last check, receipt (done=False), marks on the pods to go, PATCH, receipt (done=True).
The receipt is durable *before* the call, so that a crash between the two is seen afterwards as "perhaps written" and
never as somebody else's change. `apply` never raises: every outcome is an `ActResult`.

Must never write for a service that is not in mode Auto, whatever the plan says: the plan is checked against the
snapshot here once more, because a mistake upstream must not reach a fleet.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ebbtide.act.discovery import Discovery, Resolver
from ebbtide.act.marks import Marks
from ebbtide.act.ownership import SCALE_MANAGER
from ebbtide.act.result import ActResult, Outcome, classify
from ebbtide.act.workloads import Workloads
from ebbtide.clock import unix_time_s
from ebbtide.errors import ConflictError
from ebbtide.kube.client import MERGE_PATCH, KubeClient, resource_path
from ebbtide.model.plan import ConditionStatus, Plan, ScaleAction
from ebbtide.model.snapshot import ServiceState, Snapshot, VariantState, WriteReceipt
from ebbtide.model.spec import Mode

StoreReceipt = Callable[[str, WriteReceipt], None]
"""Makes a receipt durable under `namespace/service/variant`; raises when it cannot."""

_TRIES = 3
# A write that the API server has certainly not carried out; after any other failure it may have been
_NOT_WRITTEN = frozenset({Outcome.CONFLICT, Outcome.NOT_FOUND, Outcome.FORBIDDEN, Outcome.INVALID})


class Actuator:
    """The only writer to targets. `now` gives unix seconds for receipts."""

    def __init__(
        self,
        client: KubeClient,
        store_receipt: StoreReceipt,
        resolve: Resolver | None = None,
        now: Callable[[], float] = unix_time_s,
        parallel: int = 8,
    ) -> None:
        self._client = client
        self._store_receipt = store_receipt
        self._resolve = resolve or Discovery(client)
        self._now = now
        self._marks = Marks(client, parallel)
        self._parallel = asyncio.Semaphore(parallel)
        self._workloads = Workloads(client, now=now)

    async def apply(self, plan: Plan, snapshot: Snapshot) -> list[ActResult]:
        """Carries out every action of the plan, in the plan's order of results; clears marks from pods that stay."""
        services = {service.spec.key: service for service in snapshot.services}
        results = await asyncio.gather(*(self._act(action, services.get(action.service)) for action in plan.actions))
        await self._marks.clear_survivors(snapshot, plan.actions, _hands_off(plan))
        return list(results)

    async def reconcile_workloads(self, snapshot: Snapshot, plan: Plan | None = None) -> list[ActResult]:
        """Creates or updates what Auto services declare in engine blocks. See `Workloads.reconcile`."""
        return await self._workloads.reconcile(snapshot, plan)

    async def _act(self, action: ScaleAction, service: ServiceState | None) -> ActResult:
        refusal, variant = _last_check(action, service)
        if variant is None:
            return _result(action, Outcome.REFUSED, refusal)
        try:
            async with self._parallel:
                return await self._write(action, variant)
        except Exception as error:  # one target's fault must not keep the others from being scaled
            return _result(action, Outcome.FAILED, f"{_name(action)}: not scaled: {error!r}")

    async def _write(self, action: ScaleAction, variant: VariantState) -> ActResult:
        key = f"{action.service}/{action.variant}"
        receipt = WriteReceipt(target_uid=action.target_uid, replicas=action.to_replicas, at=self._now(), done=False)
        self._store_receipt(key, receipt)
        advice = await self._marks.mark(action, variant)
        try:
            version = await self._patch_scale(action)
        except Exception as error:
            outcome = classify(error)
            if outcome in _NOT_WRITTEN:
                self._store_receipt(key, variant.last_write or _never(action))
            return _result(action, outcome, f"{_name(action)}: {error}")
        self._store_receipt(key, msgspec.structs.replace(receipt, done=True, resource_version=version))
        message = f"{_name(action)}: {action.from_replicas} -> {action.to_replicas}"
        return _result(action, Outcome.DONE, f"{message} (victims not all marked: {advice})" if advice else message)

    async def _patch_scale(self, action: ScaleAction) -> str:
        """PATCH with the snapshot's resourceVersion; again, twice at most, if only the target's status moved meanwhile.

        A Deployment's status changes with every pod, so its resourceVersion is old within seconds. What must not have
        changed is which object it is and how many replicas somebody declared: that is read again before each retry.
        Returns the target's resourceVersion after the write: what the watch shows at it or later includes the write.
        """
        path = await self._path(action)
        version = action.resource_version
        for tries_left in reversed(range(_TRIES)):
            try:
                return await self._patch(path, action, version)
            except ConflictError:
                scale = await self._client.get(path)
                if not tries_left or not _unchanged(scale, action):
                    raise
                version = str(scale["metadata"]["resourceVersion"])
        raise AssertionError("the last try returns or raises")

    async def _path(self, action: ScaleAction) -> str:
        plural = await self._resolve(action.target)
        namespace = action.service.partition("/")[0]
        return resource_path(action.target.api_version, plural, namespace, action.target.name, "scale")

    async def _patch(self, path: str, action: ScaleAction, resource_version: str) -> str:
        body = {
            "metadata": {"resourceVersion": resource_version},
            "spec": {"replicas": action.to_replicas},
        }
        params = {"fieldManager": SCALE_MANAGER}
        answer = await self._client.request("PATCH", path, params=params, body=body, content_type=MERGE_PATCH)
        return _version_of(answer)


class _ScaleMeta(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion", default="")


class _Scale(msgspec.Struct):
    metadata: _ScaleMeta = msgspec.field(default_factory=_ScaleMeta)


def _version_of(answer: bytes) -> str:
    """Empty where the answer does not say it. The write is done all the same, so this is no error."""
    try:
        return msgspec.json.decode(answer, type=_Scale).metadata.resource_version
    except msgspec.MsgspecError:
        return ""


def _never(action: ScaleAction) -> WriteReceipt:
    """Stands for "Ebbtide never wrote to it": older than anything, so that no later change looks like a reversion."""
    return WriteReceipt(target_uid=action.target_uid, replicas=action.from_replicas, at=0.0)


def _unchanged(scale: Mapping[str, Any], action: ScaleAction) -> bool:
    replicas = scale.get("spec", {}).get("replicas", 0)  # zero is omitted
    return bool(scale["metadata"]["uid"] == action.target_uid and replicas == action.from_replicas)


def _hands_off(plan: Plan) -> frozenset[str]:
    """Services to whose targets the plan forbids every write."""
    return frozenset(
        service.key
        for service in plan.services
        if any(item.type == "Acting" and item.status is ConditionStatus.FALSE for item in service.conditions)
    )


def _last_check(action: ScaleAction, service: ServiceState | None) -> tuple[str, VariantState | None]:
    """The variant to write to, or why not."""
    name = _name(action)
    if service is None:
        return f"{name}: not scaled: the service is not in the snapshot", None
    if service.spec.mode is not Mode.AUTO:
        return f"{name}: not scaled: mode is {service.spec.mode.value}, only Auto may write", None
    declared = next((variant for variant in service.spec.variants if variant.name == action.variant), None)
    seen = next((variant for variant in service.variants if variant.name == action.variant), None)
    if declared is None or seen is None or declared.target != action.target:
        return f"{name}: not scaled: the service declares no such variant and target", None
    if not action.resource_version:  # an empty one would be no precondition at all
        return f"{name}: not scaled: no resourceVersion was seen", None
    if not action.target_uid or seen.target.uid != action.target_uid:
        return f"{name}: not scaled: the target's uid is {seen.target.uid!r}, planned for {action.target_uid!r}", None
    if seen.target.rivals:
        return f"{name}: not scaled: {', '.join(seen.target.rivals)} acts on it too", None
    if not 0 <= action.to_replicas <= max(declared.max_replicas, action.from_replicas):
        bounds = f"0..{max(declared.max_replicas, action.from_replicas)}"
        return f"{name}: not scaled: {action.to_replicas} replicas is outside {bounds}", None
    return "", seen


def _name(action: ScaleAction) -> str:
    return f"{action.service} variant {action.variant}: {action.target.kind} {action.target.name}"


def _result(action: ScaleAction, outcome: Outcome, message: str) -> ActResult:
    return ActResult(
        what="scale",
        service=action.service,
        variant=action.variant,
        outcome=outcome,
        message=message,
        action=action,
    )
