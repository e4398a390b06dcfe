"""Says which pods should go first when a target shrinks: `controller.kubernetes.io/pod-deletion-cost`.

Only the victims are marked, and a victim that survives (the scale write was refused, or demand came back) is cleared
once its target has settled. Marks are advice: a failure here never stops a scale write. A cost that somebody else set
is not ours and is never touched: ours stands in a second annotation too. Only services that act are touched: after a
switch to Recommend or Off what is marked stays marked.
"""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping

from ebbtide.errors import EbbtideError, NotFoundError
from ebbtide.kube.client import MERGE_PATCH, KubeClient, resource_path
from ebbtide.model.plan import ScaleAction
from ebbtide.model.snapshot import PodPhase, PodState, Snapshot, TargetState, VariantState
from ebbtide.model.spec import Mode

FIELD_MANAGER = "ebbtide-marks"
ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
OURS = "ebbtide.dev/pod-deletion-cost"  # the cost that Ebbtide set: the other is ours while the two are the same

# Far below anything people set: the first to go gets -1000000, the next -999999
_FIRST_COST = -1_000_000
_RANGE = 10_000


def _is_foreign(pod: PodState) -> bool:
    """Whether somebody else set the pod's cost."""
    return pod.deletion_cost is not None and not pod.marked


class Marks:
    """Sets and clears the annotation; remembers what it set in this process."""

    def __init__(self, client: KubeClient, parallel: int = 8) -> None:
        self._client = client
        self._parallel = asyncio.Semaphore(parallel)
        self._set: set[tuple[str, str]] = set()  # (namespace, pod)

    async def mark(self, action: ScaleAction, variant: VariantState) -> str:
        """Marks the action's victims that carry nobody else's cost; returns what went wrong in words, or ''.

        Targets that shrink by ordinal (StatefulSet, LeaderWorkerSet) ignore the annotation: nothing is written.
        """
        if variant.target.ordinal or action.to_replicas >= action.from_replicas:
            return ""
        namespace = action.service.partition("/")[0]
        foreign = {pod.name for pod in variant.pods if _is_foreign(pod)}
        victims = enumerate(action.victims[:_RANGE])
        costs = {name: _FIRST_COST + place for place, name in victims if name not in foreign}
        problems = await asyncio.gather(*(self._patch(namespace, pod, cost) for pod, cost in costs.items()))
        return next((problem for problem in problems if problem), "")

    async def clear_survivors(
        self, snapshot: Snapshot, actions: Iterable[ScaleAction], hands_off: Collection[str] = ()
    ) -> int:
        """Removes our marks from pods that stay; returns how many were cleared. `hands_off`: services not acted on."""
        going = {(action.service.partition("/")[0], pod) for action in actions for pod in action.victims}
        survivors = [pod for pod in self._marked_and_settled(snapshot, hands_off) if pod not in going]
        await asyncio.gather(*(self._patch(namespace, pod, None) for namespace, pod in survivors))
        self._forget_gone(snapshot)
        return len(survivors)

    def _marked_and_settled(self, snapshot: Snapshot, hands_off: Collection[str]) -> Iterator[tuple[str, str]]:
        for service in snapshot.services:
            if service.spec.mode is not Mode.AUTO or service.spec.key in hands_off:
                continue
            for variant in service.variants:
                if not _settled(variant.target):
                    continue  # the controller is still choosing whom to delete
                for pod in variant.pods:
                    key = (service.spec.namespace, pod.name)
                    if pod.phase is PodPhase.TERMINATING or _is_foreign(pod):
                        continue
                    if pod.marked or key in self._set:
                        yield key

    def _forget_gone(self, snapshot: Snapshot) -> None:
        alive = {
            (service.spec.namespace, pod.name)
            for service in snapshot.services
            for variant in service.variants
            for pod in variant.pods
        }
        self._set &= alive

    async def _patch(self, namespace: str, pod: str, cost: int | None) -> str:
        value = None if cost is None else str(cost)
        body: Mapping[str, object] = {"metadata": {"annotations": {ANNOTATION: value, OURS: value}}}
        path = resource_path("v1", "pods", namespace, pod)
        try:
            async with self._parallel:
                await self._client.request(
                    "PATCH", path, params={"fieldManager": FIELD_MANAGER}, body=body, content_type=MERGE_PATCH
                )
        except NotFoundError:
            pass  # it is gone already: as good as marked, as good as cleared
        except EbbtideError as error:
            return str(error)
        (self._set.discard if cost is None else self._set.add)((namespace, pod))
        return ""


def _settled(target: TargetState) -> bool:
    return target.observed_generation >= target.generation and target.status_replicas <= target.spec_replicas
