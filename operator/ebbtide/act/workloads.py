"""Builds what engine blocks declare: a Deployment a variant and one Service over them, for services in mode Auto.

Written only on a difference from what was written before. Created at zero replicas; from then on only `/scale` moves
the number. An object of the same name that is not Ebbtide's is left alone, and so is a field that another manager
owns: both are reported, never forced. Nothing is deleted here: see `farewell`.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from ebbtide.act.ownership import FIELD_MANAGER, handover
from ebbtide.act.render import RENDERED_HASH, render_deployment, render_service, template_gpus
from ebbtide.act.result import ActResult, Outcome, classify
from ebbtide.errors import ConflictError, NotFoundError
from ebbtide.kube.client import KubeClient, resource_path
from ebbtide.model.plan import Plan
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import ServiceState, Snapshot, VariantState
from ebbtide.model.spec import Mode, PoolSpec, ServiceSpec

JSON_PATCH = "application/json-patch+json"
_TRY_AGAIN_S = 600.0  # after a refusal that only a person can lift
_LATER_S = 30.0  # after no answer
_HAND_OVER_TRIES = 4
_AS_DECLARED = frozenset({Outcome.DONE, Outcome.UNCHANGED})
_NOT_WANTED = "no longer declared: nothing is left to write"
_LOOK_AGAIN_S = 600.0  # an object that is as it should be is read again this often


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One object to be there. `uid` is the live object's, '' when it is absent or unknown."""

    service: str
    variant: str
    body: dict[str, Any]
    uid: str = ""
    refused: str = ""  # why it may not be written: no ceiling can pay what its template asks for

    @property
    def key(self) -> tuple[str, str]:
        """Which object of which service: two services may want one name, and each is to be answered."""
        return self.service, self.named

    @property
    def named(self) -> str:
        """`Deployment team-a/chat-h100`."""
        metadata = self.body["metadata"]
        return f"{self.body['kind']} {metadata['namespace']}/{metadata['name']}"

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
    """What a service's engine blocks came to, and (key, hash, variant) of each object.

    `inputs`: from which spec and pools, and of which variants the Deployment is somebody else's.
    """

    inputs: tuple[ServiceSpec | PoolSpec | bool | None, ...]
    objects: tuple[tuple[tuple[str, str], str, str], ...]


class Workloads:
    """Keeps engine-block objects as declared. `now` gives unix seconds."""

    def __init__(self, client: KubeClient, now: Callable[[], float], parallel: int = 8) -> None:
        self._client = client
        self._now = now
        self._parallel = asyncio.Semaphore(parallel)
        # key -> (what was rendered, the live object's uid, when to look again)
        self._seen: dict[tuple[str, str], tuple[str, str, float]] = {}
        self._rendered: dict[str, _Rendered] = {}  # by service
        self._limits: dict[tuple[str, str], _Limit] = {}  # by service and variant
        self._open: dict[tuple[str, str], ActResult] = {}  # the last answer on what is not as declared

    async def reconcile(self, snapshot: Snapshot, plan: Plan | None = None) -> list[ActResult]:
        """One result for each object that was looked at; objects known to be right cost nothing. Never raises.

        A template that asks for more GPUs than the present one, and than the plan says is payable, is not written.

        What could not be had and is not declared any more is answered once more, as unchanged.
        """
        pools = {pool.spec.name: pool.spec for pool in snapshot.pools}
        self._limits = _limits(plan, snapshot)
        due: list[_Wanted] = []
        rendered: dict[str, _Rendered] = {}
        for service in snapshot.services:
            if service.spec.mode is Mode.AUTO:
                rendered[service.spec.key] = self._look(service, pools, due)
        self._rendered = rendered
        known = {key for each in rendered.values() for key, _, _ in each.objects}
        self._seen = {key: value for key, value in self._seen.items() if key in known}
        settled = [self._open.pop(key) for key in self._open.keys() - known]
        tried = await asyncio.gather(*(self._ensure_safely(item) for item in due))
        return [*(replace(item, outcome=Outcome.UNCHANGED, message=_NOT_WANTED) for item in settled), *tried]

    def _look(self, service: ServiceState, pools: Mapping[str, PoolSpec], due: list[_Wanted]) -> "_Rendered":
        """Adds to `due`. Nothing is rendered again while spec and pools are the very objects of the last cycle."""
        spec, uids = service.spec, {variant.name: variant.target.uid for variant in service.variants}
        foreign = (_is_foreign(variant) for variant in service.variants)
        inputs = (spec, *(pools.get(variant.pool) for variant in spec.variants), *foreign)
        last = self._rendered.get(spec.key)
        same = last is not None and all(new is old for new, old in zip(inputs, last.inputs, strict=False))
        if last is not None and same and not any(self._is_due(*item, uids) for item in last.objects):
            return last
        wanted = list(_wanted_of(service, pools))
        objects = tuple((item.key, item.rendered, item.variant) for item in wanted)
        for item, each in zip(wanted, objects, strict=True):
            if self._is_due(*each, uids):
                pool = next((pools[v.pool] for v in spec.variants if v.name == item.variant and v.pool in pools), None)
                due.append(replace(item, refused=_refusal(item, pool, self._limits.get((spec.key, item.variant)))))
        return _Rendered(inputs, objects)

    def _is_due(self, key: tuple[str, str], rendered: str, variant: str, uids: Mapping[str, str]) -> bool:
        before, uid, look_at = self._seen.get(key, ("", "", 0.0))
        now_uid = uids.get(variant, "")
        return before != rendered or self._now() >= look_at or bool(uid and now_uid and uid != now_uid)

    async def _ensure_safely(self, wanted: _Wanted) -> ActResult:
        if wanted.refused:  # nothing is remembered: it is asked again in the next cycle
            result = ActResult("deployment", wanted.service, wanted.variant, Outcome.REFUSED, wanted.refused)
            self._open[wanted.key] = result
            return result
        try:
            async with self._parallel:
                outcome, message, uid = await self._ensure(wanted)
        except Exception as error:
            outcome, message, uid = classify(error), f"{wanted.named}: {error}", ""
        self._remember(wanted, outcome, uid)
        what = wanted.body["kind"].lower()
        result = ActResult(what=what, service=wanted.service, variant=wanted.variant, outcome=outcome, message=message)
        self._open.pop(wanted.key, None)
        if outcome not in _AS_DECLARED:
            self._open[wanted.key] = result
        return result

    def _remember(self, wanted: _Wanted, outcome: Outcome, uid: str) -> None:
        if outcome in _AS_DECLARED:
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
            return Outcome.FOREIGN, f"{wanted.named} exists and is not Ebbtide's: {_advice(wanted)}", uid
        live = await self._hand_over(wanted, live)
        if live["metadata"].get("annotations", {}).get(RENDERED_HASH) == wanted.rendered:
            return Outcome.UNCHANGED, f"{wanted.named} is as declared", uid
        return await self._apply(wanted, uid)

    async def _create(self, wanted: _Wanted) -> tuple[Outcome, str, str]:
        body = wanted.body
        if body["kind"] == "Deployment":
            body = {**body, "spec": {**body["spec"], "replicas": 0}}
        params = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        answer = await self._client.request("POST", wanted.collection, params=params, body=body)
        live = msgspec.json.decode(answer)
        await self._hand_over(wanted, live)
        return Outcome.DONE, f"{wanted.named} created", str(live["metadata"]["uid"])

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
            return Outcome.FOREIGN, f"{wanted.named} not updated, other owners hold its fields: {error}", uid
        return Outcome.DONE, f"{wanted.named} updated", uid


@dataclass(frozen=True, slots=True)
class _Limit:
    """GPUs a replica by the present template, the most that are payable, and what limits them."""

    present: int
    most: int
    why: str


def _limits(plan: Plan | None, snapshot: Snapshot) -> dict[tuple[str, str], _Limit]:
    present = {
        (service.spec.key, variant.name): variant.target.template_gpus
        for service in snapshot.services
        for variant in service.variants
    }
    found = {}
    for service in () if plan is None else plan.services:
        for variant in service.variants:
            gpus = present.get((service.key, variant.name))
            if gpus is not None and variant.template_gpus is not None:
                found[service.key, variant.name] = _Limit(gpus, variant.template_gpus, variant.template_because)
    return found


def _refusal(wanted: _Wanted, pool: PoolSpec | None, limit: _Limit | None) -> str:
    """Why its template asks for more than every ceiling can pay; empty: it does not."""
    if limit is None or pool is None or wanted.body["kind"] != "Deployment":
        return ""
    asked = template_gpus(wanted.body, pool.resource)
    if asked <= max(limit.present, limit.most):
        return ""
    move = f"a replica would hold {asked} GPUs in place of {limit.present}"
    return f"{wanted.named} stays as it is: {move}, and {max(limit.present, limit.most)} are payable ({limit.why})"


def _wanted_of(service: ServiceState, pools: Mapping[str, PoolSpec]) -> Iterator[_Wanted]:
    spec = service.spec
    uids = {variant.name: variant.target.uid for variant in service.variants}
    foreign = {variant.name for variant in service.variants if _is_foreign(variant)}
    for variant in spec.variants:
        pool = pools.get(variant.pool)
        # a missing pool, and a Deployment that is somebody else's, are conditions of the plan
        if variant.engine is not None and pool is not None and variant.name not in foreign:
            body = render_deployment(spec, variant, pool)
            yield _Wanted(spec.key, variant.name, body, uids.get(variant.name, ""))
    front = render_service(spec)
    if front is not None:
        yield _Wanted(spec.key, "", front)


def _is_foreign(variant: VariantState) -> bool:
    return any(code == Code.TARGET_FOREIGN for code, _ in variant.target.faults)


def _is_ours(live: Mapping[str, Any], wanted: _Wanted) -> bool:
    """By label: an orphan of a deleted service of the same name is taken up again, with the new service's uid."""
    labels = live["metadata"].get("labels") or {}
    return all(labels.get(label) == value for label, value in wanted.body["metadata"]["labels"].items())


def _advice(wanted: _Wanted) -> str:
    labels = ",".join(f"{key}={value}" for key, value in sorted(wanted.body["metadata"]["labels"].items()))
    whose = f"variant {wanted.variant}" if wanted.variant else "InferenceService"
    return f"delete it, give the {whose} another name, or hand it over by labelling it {labels}"
