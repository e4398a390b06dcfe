"""An API server and a Job controller in memory, as far as Jobs go: preconditions, what may change, what follows."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ebbtide.api.annotations import asked
from ebbtide.clock import rfc3339
from ebbtide.errors import ConflictError, NotFoundError
from ebbtide.kube.client import InvalidError, KubeClient
from ebbtide.model.batch import BatchPolicySpec, BatchPolicyState, JobState
from ebbtide.model.plan import JobPlan, Outcome, Plan
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.snapshot import PoolState, Snapshot
from ebbtide.observe.jobplace import Places
from ebbtide.observe.jobs import JobReader, JobView
from ebbtide.observe.projections import Job
from ebbtide.observe.slim import Slim
from tests.shell import world

GPU = "nvidia.com/gpu"
PATH = "/apis/batch/v1/namespaces/ml/jobs/"
ALL = "/apis/batch/v1/jobs"
POLICIES = "/apis/ebbtide.dev/v1alpha1/batchpolicies"
PAGE = 3
Raw = dict[str, Any]


class JobsApi(KubeClient):
    """`before` and `after` see each write; `time_s` is the clock of everybody. Minor 36."""

    def __init__(self) -> None:
        self.jobs: dict[str, Raw] = {}
        self.policies: list[Raw] = []
        self.time_s = 1_800_000_000.0
        self.written: list[tuple[str, Raw]] = []
        self.before: Callable[[str], None] = lambda _name: None
        self.after: Callable[[str], None] = lambda _name: None
        self._version = 0

    def submit(self, name: str, suspend: bool = True, **more: Any) -> Raw:
        self._version += 1
        metadata = {
            "name": name,
            "namespace": "ml",
            "uid": f"uid-{name}-{self._version}",
            "resourceVersion": str(self._version),
            "generation": 1,
            "creationTimestamp": rfc3339(self.time_s),
            "labels": {"batch": "yes"} | more.pop("labels", {}),
            "annotations": more.pop("annotations", {}),
        }
        pod = {"containers": [{"resources": {"limits": {GPU: "1"}}}]} | more.pop("pod", {})
        spec = {"suspend": suspend, "parallelism": 1, "completions": 1, "template": {"spec": pod}, **more}
        self.jobs[name] = {"metadata": metadata, "spec": spec, "status": {}}
        return self.jobs[name]

    async def request(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: Any = None, **_: Any
    ) -> bytes:
        if path == ALL:
            return self._page(int((params or {}).get("continue", "0")))
        name = path.removeprefix(PATH)
        if method == "GET":
            return msgspec.json.encode(self._found(name))
        self.before(name)
        self.patch(name, msgspec.json.decode(msgspec.json.encode(body)))
        self.written.append((name, body))
        self.after(name)
        return msgspec.json.encode(self._found(name))

    async def get(self, path: str, **params: str) -> Any:
        if path == POLICIES:
            return {"items": self.policies}
        return copy.deepcopy(self._found(path.removeprefix(PATH)))

    def _page(self, start: int) -> bytes:
        items = list(self.jobs.values())
        more = str(start + PAGE) if start + PAGE < len(items) else ""
        return msgspec.json.encode({"metadata": {"continue": more}, "items": items[start : start + PAGE]})

    def patch(self, name: str, body: Raw) -> None:
        """A merge patch; refused as the API server of 1.36 refuses it."""
        live = self._found(name)
        wanted = body.get("metadata", {})
        for key in ("uid", "resourceVersion"):
            if wanted.get(key, live["metadata"][key]) != live["metadata"][key]:
                raise ConflictError(f"PATCH {name}: HTTP 409: {key} is {live['metadata'][key]}")
        new = _merged(live, body)
        if new["spec"] != live["spec"]:
            new["metadata"]["generation"] += 1
        suspended = live["spec"]["suspend"] and not live["status"].get("active")
        if new["spec"]["template"] != live["spec"]["template"] and not suspended:
            raise InvalidError(f"PATCH {name}: HTTP 422: spec.template: field is immutable")
        if new["spec"] != live["spec"] or new["metadata"] != live["metadata"]:
            self._version += 1
            new["metadata"]["resourceVersion"] = str(self._version)
        self.jobs[name] = new

    def set_suspend(self, name: str, suspend: bool) -> None:
        """As its user does."""
        self.patch(name, {"spec": {"suspend": suspend}})

    def status(self, name: str, **status: Any) -> None:
        self._version += 1
        live = self._found(name)
        live["status"] = live["status"] | status
        live["metadata"]["resourceVersion"] = str(self._version)

    def control(self) -> None:
        """What the Job controller does next."""
        for name, live in self.jobs.items():
            suspended, active = live["spec"]["suspend"], live["status"].get("active", 0)
            if live["status"].get("completionTime"):
                continue
            if suspended and (active or not live["status"].get("conditions")):
                when = {"lastTransitionTime": rfc3339(self.time_s)}
                condition = {"type": "Suspended", "status": "True", **when}
                self.status(name, active=0, startTime=None, conditions=[condition])
            elif not suspended and not active:
                condition = {"type": "Suspended", "status": "False"}
                self.status(name, active=1, startTime=rfc3339(self.time_s), conditions=[condition])

    def _found(self, name: str) -> Raw:
        if name not in self.jobs:
            raise NotFoundError(f"{name}: HTTP 404")
        return self.jobs[name]


def _merged(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    base = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            base.pop(key, None)
        else:
            base[key] = _merged(base.get(key), value)
    return base


POOLS = tuple(
    PoolState(spec=world.pool_spec(name, node_selector=(("pool", name),), resource=GPU)) for name in ("h100", "l4")
)


def policy(name: str = "nights", uid: str = "", **more: Any) -> BatchPolicySpec:
    return BatchPolicySpec(f"ml/{name}", uid or f"uid-{name}", 1, match_labels=(("batch", "yes"),), **more)


def seen(api: JobsApi, *policies: BatchPolicySpec, certain: bool = True, minor: int = 36) -> Snapshot:
    """What an operator sees now."""
    jobs = {f"ml/{name}": Slim().job(msgspec.convert(copy.deepcopy(raw), Job)) for name, raw in api.jobs.items()}
    view = JobView({each.key: each for each in policies}, jobs, minor=minor, certain=certain)
    found = JobReader(asked).read(view, (), POOLS, Places(POOLS, {}))
    return Snapshot(
        taken_at=api.time_s,
        pools=POOLS,
        batch_policies=tuple(BatchPolicyState(each) for each in policies),
        jobs=found.states,
        finished=found.finished,
        strays=found.strays,
    )


def job_plan(job: JobState, outcome: Outcome, **more: Any) -> JobPlan:
    """What a plan says of a Job."""
    reason = Reason(Code.PENDING, "because a test says so")
    version = more.pop("resource_version", job.resource_version)
    return JobPlan(job.key, job.uid, job.policy, outcome, reason, resource_version=version, **more)


def plan_of(snapshot: Snapshot, outcome: Outcome, **more: Any) -> Plan:
    """The same for every Job."""
    return world.plan(jobs=tuple(job_plan(job, outcome, **more) for job in snapshot.jobs))
