"""Builds what engine blocks declare: a Deployment a variant and one Service over them, for services in mode Auto.

Written only on a difference from what was written before. Created at zero replicas; from then on only `/scale` moves
the number. An object of the same name that is not Ebbtide's is left alone, and so is a field that another manager
owns: both are reported, never forced. Nothing is deleted here: see `farewell`.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ebbtide.act.ownership import FIELD_MANAGER, handover
from ebbtide.act.render import MANAGED_BY, RENDERED_HASH, SERVICE_LABEL, render_deployment, render_service
from ebbtide.act.result import ActResult, Outcome, classify
from ebbtide.errors import ConflictError, NotFoundError
from ebbtide.kube.client import KubeClient, resource_path
from ebbtide.model.snapshot import ServiceState, Snapshot
from ebbtide.model.spec import Mode, PoolSpec, ServiceSpec

JSON_PATCH = "application/json-patch+json"
_TRY_AGAIN_S = 600.0  # after a refusal that only a person can lift
_LATER_S = 30.0  # after no answer
_HAND_OVER_TRIES = 4
_LOOK_AGAIN_S = 600.0  # an object that is as it should be is read again this often


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One object to be there. `uid` is the live object's, '' when it is absent or unknown."""

    service: str
    variant: str
    body: dict[str, Any]
    uid: str = ""

    @property
    def key(self) -> str:
        return f"{self.body['kind']} {self.service}/{self.body['metadata']['name']}"

    @property
    def collection(self) -> str:
        plural = {"Deployment": "deployments", "Service": "services"}[self.body["kind"]]
        return resource_path(self.body["apiVersion"], plural, self.body["metadata"]["namespace"])

    @property
    def path(self) -> str:
        return f"{self.collection}/{self.body['metadata']['name']}"

    @property
    def rendered(self) -> str:
        return str(self.body["metadata"]["annotations"][RENDERED_HASH])


@dataclass(frozen=True, slots=True)
class _Rendered:
    """What a service's engine blocks came to: from which spec and pools, and (key, hash, variant) of each object."""

    inputs: tuple[ServiceSpec | PoolSpec | None, ...]
    objects: tuple[tuple[str, str, str], ...]


class Workloads:
    """Keeps engine-block objects as declared. `now` gives unix seconds."""

    def __init__(self, client: KubeClient, now: Callable[[], float], parallel: int = 8) -> None:
        self._client = client
        self._now = now
        self._parallel = asyncio.Semaphore(parallel)
        # key -> (what was rendered, the live object's uid, when to look again)
        self._seen: dict[str, tuple[str, str, float]] = {}
        self._rendered: dict[str, _Rendered] = {}  # by service

    async def reconcile(self, snapshot: Snapshot) -> list[ActResult]:
        """One result for each object that was looked at; objects known to be right cost nothing. Never raises."""
        pools = {pool.spec.name: pool.spec for pool in snapshot.pools}
        due: list[_Wanted] = []
        rendered: dict[str, _Rendered] = {}
        for service in snapshot.services:
            if service.spec.mode is Mode.AUTO:
                rendered[service.spec.key] = self._look(service, pools, due)
        self._rendered = rendered
        known = {key for each in rendered.values() for key, _, _ in each.objects}
        self._seen = {key: value for key, value in self._seen.items() if key in known}
        return list(await asyncio.gather(*(self._ensure_safely(item) for item in due)))

    def _look(self, service: ServiceState, pools: Mapping[str, PoolSpec], due: list[_Wanted]) -> "_Rendered":
        """Adds to `due`. Nothing is rendered again while spec and pools are the very objects of the last cycle."""
        spec, uids = service.spec, {variant.name: variant.target.uid for variant in service.variants}
        inputs = (spec, *(pools.get(variant.pool) for variant in spec.variants))
        last = self._rendered.get(spec.key)
        same = last is not None and all(new is old for new, old in zip(inputs, last.inputs, strict=False))
        if last is not None and same and not any(self._is_due(*item, uids) for item in last.objects):
            return last
        wanted = list(_wanted_of(service, pools))
        objects = tuple((item.key, item.rendered, item.variant) for item in wanted)
        due += [item for item, each in zip(wanted, objects, strict=True) if self._is_due(*each, uids)]
        return _Rendered(inputs, objects)

    def _is_due(self, key: str, rendered: str, variant: str, uids: Mapping[str, str]) -> bool:
        before, uid, look_at = self._seen.get(key, ("", "", 0.0))
        now_uid = uids.get(variant, "")
        return before != rendered or self._now() >= look_at or bool(uid and now_uid and uid != now_uid)

    async def _ensure_safely(self, wanted: _Wanted) -> ActResult:
        try:
            async with self._parallel:
                outcome, message, uid = await self._ensure(wanted)
        except Exception as error:
            outcome, message, uid = classify(error), f"{wanted.key}: {error}", ""
        self._remember(wanted, outcome, uid)
        what = wanted.body["kind"].lower()
        return ActResult(what=what, service=wanted.service, variant=wanted.variant, outcome=outcome, message=message)

    def _remember(self, wanted: _Wanted, outcome: Outcome, uid: str) -> None:
        if outcome in {Outcome.DONE, Outcome.UNCHANGED}:
            wait_s = _LOOK_AGAIN_S
        elif outcome in {Outcome.RETRY, Outcome.CONFLICT, Outcome.FAILED, Outcome.NOT_FOUND}:
            wait_s = _LATER_S
        else:
            wait_s = _TRY_AGAIN_S
        self._seen[wanted.key] = (wanted.rendered, uid, self._now() + wait_s)

    async def _ensure(self, wanted: _Wanted) -> tuple[Outcome, str, str]:
        try:
            live = await self._client.get(wanted.path)
        except NotFoundError:
            return await self._create(wanted)
        uid = str(live["metadata"]["uid"])
        if not _is_ours(live, wanted):
            return Outcome.FOREIGN, f"{wanted.key} exists and is not Ebbtide's: {_advice(wanted)}", uid
        live = await self._hand_over(wanted, live)
        if live["metadata"].get("annotations", {}).get(RENDERED_HASH) == wanted.rendered:
            return Outcome.UNCHANGED, f"{wanted.key} is as declared", uid
        return await self._apply(wanted, uid)

    async def _create(self, wanted: _Wanted) -> tuple[Outcome, str, str]:
        body = wanted.body
        if body["kind"] == "Deployment":
            body = {**body, "spec": {**body["spec"], "replicas": 0}}
        params = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        answer = await self._client.request("POST", wanted.collection, params=params, body=body)
        live = msgspec.json.decode(answer)
        await self._hand_over(wanted, live)
        return Outcome.DONE, f"{wanted.key} created", str(live["metadata"]["uid"])

    async def _hand_over(self, wanted: _Wanted, live: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `ownership`. A crash before this is made good at the next look, hence the call in both paths."""
        for _ in range(_HAND_OVER_TRIES):
            patch = handover(live)
            if patch is None:
                break
            params = {"fieldManager": FIELD_MANAGER}
            try:
                answer = await self._client.request(
                    "PATCH", wanted.path, params=params, body=patch, content_type=JSON_PATCH
                )
                live = msgspec.json.decode(answer)
            except ConflictError:  # the Deployment controller writes its first status right after the creation
                live = await self._client.get(wanted.path)
        return live

    async def _apply(self, wanted: _Wanted, uid: str) -> tuple[Outcome, str, str]:
        try:
            await self._client.apply(wanted.path, wanted.body, field_manager=FIELD_MANAGER)
        except ConflictError as error:
            if "Apply failed with" not in str(error):
                raise
            return Outcome.FOREIGN, f"{wanted.key} not updated, other owners hold its fields: {error}", uid
        return Outcome.DONE, f"{wanted.key} updated", uid


def _wanted_of(service: ServiceState, pools: Mapping[str, PoolSpec]) -> Iterator[_Wanted]:
    spec = service.spec
    uids = {variant.name: variant.target.uid for variant in service.variants}
    for variant in spec.variants:
        pool = pools.get(variant.pool)
        if variant.engine is not None and pool is not None:  # a missing pool is a condition of the plan
            body = render_deployment(spec, variant, pool)
            yield _Wanted(spec.key, variant.name, body, uids.get(variant.name, ""))
    front = render_service(spec)
    if front is not None:
        yield _Wanted(spec.key, "", front)


def _is_ours(live: Mapping[str, Any], wanted: _Wanted) -> bool:
    """By label: an orphan of a deleted service of the same name is taken up again, with the new service's uid."""
    labels = live["metadata"].get("labels") or {}
    declared = wanted.body["metadata"]["labels"]
    return all(labels.get(label) == declared[label] for label in (MANAGED_BY, SERVICE_LABEL))


def _advice(wanted: _Wanted) -> str:
    labels = ",".join(f"{key}={value}" for key, value in sorted(wanted.body["metadata"]["labels"].items()))
    return f"rename it, or hand it over by labelling it {labels}"
