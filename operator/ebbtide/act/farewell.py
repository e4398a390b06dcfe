"""What happens to engine-block workloads when their variant or service is removed: by default they keep running.

Only `deletionPolicy: Delete` puts a finalizer on the service, and only where that finalizer is anything is deleted:
the Deployment of a variant that was removed from a service in mode Auto, and what is left when the service goes.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from ebbtide.act.ownership import FIELD_MANAGER
from ebbtide.act.render import DELETION_POLICY, SERVICE_UID
from ebbtide.act.result import ActResult, Outcome, classify
from ebbtide.errors import EbbtideError, NotFoundError
from ebbtide.kube.client import MERGE_PATCH, KubeClient, resource_path
from ebbtide.model.labels import MANAGED_BY, MANAGER, SERVICE_LABEL, VARIANT_LABEL
from ebbtide.model.spec import Mode


class Farewell:
    """The finalizer of services whose engine blocks say `deletionPolicy: Delete`, and nobody else's.

    When the CRD itself is being deleted the workloads stay: uninstalling Ebbtide must not take a fleet down. When it
    cannot be known whether the CRD is going, nothing is deleted and the finalizer stays.
    """

    FINALIZER = "ebbtide.dev/delete-workloads"
    CRD = "inferenceservices.ebbtide.dev"

    def __init__(self, client: KubeClient, parallel: int = 8) -> None:
        self._client = client
        self._parallel = asyncio.Semaphore(parallel)
        # `namespace/name` -> (uid, generation) whose removed variants were looked for: one list for each change of spec
        self._swept: dict[str, tuple[str, int]] = {}

    async def sync(self, raw: Mapping[str, Any]) -> ActResult | None:
        """Adds, removes or carries out the finalizer of one raw InferenceService; None when nothing is to be done.

        Never raises; an outcome that is neither DONE nor None should be tried again.
        """
        try:
            return await self._sync(raw)
        except Exception as error:
            return _farewell(raw, classify(error), f"finalizer {self.FINALIZER}: {error}")

    async def _sync(self, raw: Mapping[str, Any]) -> ActResult | None:
        metadata = raw["metadata"]
        present = self.FINALIZER in (metadata.get("finalizers") or ())
        if metadata.get("deletionTimestamp"):
            return await self._part(raw) if present else None
        auto = raw["spec"].get("mode") == Mode.AUTO.value
        said = await self._sweep(raw) if auto and present else []
        wanted = auto and bool(_deletable(raw))
        if wanted != present:
            await self._set_finalizer(raw, wanted)
            said.append(f"finalizer {self.FINALIZER} {'added' if wanted else 'removed'}")
        return _farewell(raw, Outcome.DONE, ", ".join(said)) if said else None

    async def _sweep(self, raw: Mapping[str, Any]) -> list[str]:
        """Deletes the Deployments of removed variants, before the finalizer that vouches for them may go."""
        metadata = raw["metadata"]
        key, seen = f"{metadata['namespace']}/{metadata['name']}", (metadata["uid"], int(metadata["generation"]))
        if self._swept.get(key) == seen:
            return []
        deleted = [name for path, name in await self._left_behind(raw) if await self._delete(path, raw)]
        self._swept[key] = seen
        return [f"deleted {', '.join(deleted)} of removed variants (deletionPolicy: Delete)"] if deleted else []

    async def _left_behind(self, raw: Mapping[str, Any]) -> list[tuple[str, str]]:
        """(path, name) of Deployments that we built for variants that the spec no longer has, and that say Delete.

        A Deployment that a remaining variant names as its scaleTargetRef stays: it was taken over, not left behind.
        """
        metadata, variants = raw["metadata"], raw["spec"].get("variants", ())
        kept = {variant["name"] for variant in variants}
        targets = {variant["scaleTargetRef"]["name"] for variant in variants if variant.get("scaleTargetRef")}
        collection = resource_path("apps/v1", "deployments", metadata["namespace"])
        selector = f"{MANAGED_BY}={MANAGER},{SERVICE_LABEL}={metadata['name']},{VARIANT_LABEL}"
        async with self._parallel:
            listed = await self._client.get(collection, labelSelector=selector)
        found = []
        for live in listed["items"]:
            own = live["metadata"]
            name, variant = own["name"], own["labels"][VARIANT_LABEL]
            leaves = (own.get("annotations") or {}).get(DELETION_POLICY) == "Delete" and "deletionTimestamp" not in own
            if leaves and variant not in kept and name not in targets:
                found.append((f"{collection}/{name}", name))
        return found

    async def _part(self, raw: Mapping[str, Any]) -> ActResult:
        if raw["spec"].get("mode") != Mode.AUTO.value:
            message = "the service was not in mode Auto any more: workloads keep running"
        elif await self._crd_is_going():
            message = "the CRD is being deleted: workloads keep running"
        else:
            leaving = [*_deletable(raw), *await self._left_behind(raw)]
            deleted = [name for path, name in leaving if await self._delete(path, raw)]
            message = f"deleted {', '.join(deleted) or 'nothing'} (deletionPolicy: Delete)"
        await self._set_finalizer(raw, wanted=False)
        self._swept.pop(f"{raw['metadata']['namespace']}/{raw['metadata']['name']}", None)
        return _farewell(raw, Outcome.DONE, message)

    async def _crd_is_going(self) -> bool:
        path = resource_path("apiextensions.k8s.io/v1", "customresourcedefinitions", name=self.CRD)
        try:
            crd = await self._client.get(path)
        except NotFoundError:
            return True
        return bool(crd["metadata"].get("deletionTimestamp"))

    async def _delete(self, path: str, raw: Mapping[str, Any]) -> bool:
        """Only what was built for exactly this service: its uid is on it. Guarded by the live object's own uid."""
        try:
            live = await self._client.get(path)
            metadata = live["metadata"]
            if (metadata.get("annotations") or {}).get(SERVICE_UID) != raw["metadata"]["uid"]:
                return False
            options = {"propagationPolicy": "Background", "preconditions": {"uid": metadata["uid"]}}
            await self._client.request("DELETE", path, body=options)
        except NotFoundError:
            return False
        return True

    async def _set_finalizer(self, raw: Mapping[str, Any], wanted: bool) -> None:
        metadata = raw["metadata"]
        others = [name for name in metadata.get("finalizers") or () if name != self.FINALIZER]
        body = {
            "metadata": {
                "resourceVersion": metadata["resourceVersion"],  # the list is replaced as a whole
                "finalizers": [*others, self.FINALIZER] if wanted else others,
            }
        }
        path = resource_path("ebbtide.dev/v1alpha1", "inferenceservices", metadata["namespace"], metadata["name"])
        params = {"fieldManager": FIELD_MANAGER}
        try:
            await self._client.request("PATCH", path, params=params, body=body, content_type=MERGE_PATCH)
        except NotFoundError as error:
            if wanted:
                raise EbbtideError(f"{path} is gone") from error


def _deletable(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(path, name) of what goes with the service: its Delete variants, and the Service when there are any."""
    metadata = raw["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    engines = {
        variant["name"]: variant["engine"] for variant in raw["spec"].get("variants", ()) if variant.get("engine")
    }
    leaving = [variant for variant, engine in engines.items() if engine.get("deletionPolicy") == "Delete"]
    found = [
        (resource_path("apps/v1", "deployments", namespace, f"{name}-{variant}"), f"{name}-{variant}")
        for variant in leaving
    ]
    if leaving and len(leaving) == len(engines):  # a variant that stays keeps its Service
        found.append((resource_path("v1", "services", namespace, name), name))
    return found


def _farewell(raw: Mapping[str, Any], outcome: Outcome, message: str) -> ActResult:
    metadata = raw["metadata"]
    key = f"{metadata['namespace']}/{metadata['name']}"
    return ActResult(what="finalizer", service=key, variant="", outcome=outcome, message=f"{key}: {message}")
