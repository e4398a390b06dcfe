"""The batch work that is measured: BatchPolicies, Jobs that wait and some that run, and the Job controller.

Everything follows from a Job's number. A policy for each hundred Jobs, in a namespace of its own as far as there are
some: a third Cheapest, a third IdleOrWindow, a third Window. All lend their Jobs one accelerator and eight GPUs at
once, which Jobs that run have already, but for Window: so the queue waits, and is planned over the next days. Jobs have
one, two or four GPUs, 20 minutes to 6 hours, half of them a deadline, half may be stopped, one in ten is elastic.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from benchmarks import fleet
from benchmarks.fleet import GPU, GPUS_PER_NODE, HARDWARE, Object
from ebbtide.api.batch_note import ANNOTATION, BatchNote
from ebbtide.clock import rfc3339
from ebbtide.model.batch import Intent

JOBS_PER_POLICY = 100
STRATEGIES = ("Cheapest", "IdleOrWindow", "Window")
MOST_GPUS = 8
_LABEL = "batch.example.com/team"
_SINCE_S = 3600.0  # so long ago all of it was submitted


class Storing(Protocol):
    """Where objects are kept."""

    def put(self, plural: str, item: Object) -> Object:
        """Create or replace."""

    def remove(self, plural: str, key: str) -> None:
        """Delete."""


class Batch:
    """All of it, `count` Jobs waiting; and what the Job controller and the scheduler do when one is resumed."""

    def __init__(self, objects: Storing, services: Sequence[fleet.Service], count: int, now_s: float) -> None:
        self._objects, self._count, self._now_s = objects, count, now_s
        wanted = max(1, count // JOBS_PER_POLICY)
        spaces = sorted({service.namespace for service in services})
        self._spaces = [spaces[number % len(spaces)] for number in range(wanted)]
        self._free = dict.fromkeys(fleet.spare_nodes(services), GPUS_PER_NODE)
        self._pods: dict[str, list[tuple[str, str, int]]] = {}  # by Job: name, node, GPUs

    def populate(self) -> None:
        """Before the operator starts."""
        for number in range(len(self._spaces)):
            self._objects.put("batchpolicies", self._policy(number))
            if STRATEGIES[number // 3 % 3] != "Window":
                self._fill(number)
        for number in range(self._count):
            self._objects.put("jobs", self._job(f"queued-{number:05d}", number, number % len(self._spaces)))

    def control(self, item: Object) -> Object:
        """The Job as its controller leaves it after a change; its pods come, ready at once, and go."""
        meta, spec = item["metadata"], item["spec"]
        key = f"{meta['namespace']}/{meta['name']}"
        wanted = 0 if spec["suspend"] else spec["parallelism"]
        if wanted == len(self._pods.get(key, ())):
            return item
        pods = self._pods.setdefault(key, [])
        while len(pods) > wanted:
            name, node, gpus = pods.pop()
            self._free[node] = self._free.get(node, 0) + gpus
            self._objects.remove("pods", f"{meta['namespace']}/{name}")
        while len(pods) < wanted:
            self._add_pod(item, pods)
        suspended = fleet.condition("Suspended") | {"status": "False" if wanted else "True"}
        item["status"] = {"active": wanted, "ready": wanted, "conditions": [suspended]}
        if wanted:
            item["status"]["startTime"] = rfc3339(self._now_s)
        return self._objects.put("jobs", item)

    def _fill(self, number: int) -> None:
        """Jobs of one GPU on one idle node, as many as the policy may have."""
        hardware = HARDWARE[number % 3].name
        able = (
            name
            for name, free in self._free.items()
            if free == MOST_GPUS and name.startswith((f"{hardware}-a", f"{hardware}-b"))
        )
        node = next(able, "")
        for each in range(MOST_GPUS if node else 0):
            item = self._job(f"running-{number:05d}-{each}", 4 * each, number, on=node.rpartition("-")[0])
            self.control(self._objects.put("jobs", item))

    def _add_pod(self, item: Object, pods: list[tuple[str, str, int]]) -> None:
        meta, template = item["metadata"], item["spec"]["template"]
        gpus = int(template["spec"]["containers"][0]["resources"]["limits"][GPU])
        selector = template["spec"].get("nodeSelector", {})
        pool = next(
            (
                f"{h.name}-{selector.get('topology.kubernetes.io/zone')}"
                for h in HARDWARE
                if h.product in selector.values()
            ),
            "none",
        )
        node = next((name for name, free in self._free.items() if name.startswith(pool) and free >= gpus), "")
        name = f"{meta['name']}-{len(pods)}-{fleet.suffix(meta['name'], 5)}"
        self._free[node] = self._free.get(node, 0) - gpus
        pods.append((name, node, gpus))
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"], "controller": True}
        kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled") if node else ()
        self._objects.put(
            "pods",
            {
                "metadata": fleet.metadata(
                    name, meta["namespace"], of="Pod", labels={"job-name": meta["name"]}, ownerReferences=[owner]
                ),
                "spec": template["spec"] | ({"nodeName": node} if node else {}),
                "status": {
                    "phase": "Running" if node else "Pending",
                    "conditions": [fleet.condition(kind) for kind in kinds],
                },
            },
        )

    def _policy(self, number: int) -> Object:
        hardware, strategy = HARDWARE[number % 3], STRATEGIES[number // 3 % 3]
        opens = datetime.fromtimestamp(self._now_s, UTC) + timedelta(hours=3)
        window = {"cron": f"{opens.minute} {opens.hour} * * *", "timeZone": "UTC", "duration": "8h"}
        spec: Object = {
            "selector": {"matchLabels": {_LABEL: str(number)}},
            "strategy": strategy,
            "pools": [f"{hardware.name}-{zone}" for zone in fleet.ZONES],
            "maxGPUs": MOST_GPUS,
        }
        if strategy != "Cheapest":
            spec["windows"] = [window]
        meta = fleet.metadata(_policy_name(number), self._spaces[number], of="BatchPolicy")
        return {"apiVersion": "ebbtide.dev/v1alpha1", "kind": "BatchPolicy", "metadata": meta, "spec": spec}

    def _job(self, name: str, number: int, policy: int, on: str = "") -> Object:
        """About 3 kB; with `on` it runs on that pool."""
        namespace = self._spaces[policy]
        uid = fleet.uid(f"Job/{namespace}/{name}")
        note = BatchNote(
            state=Intent.RUNS if on else Intent.HELD,
            job=uid,
            policy=fleet.uid(f"BatchPolicy/{namespace}/{_policy_name(policy)}"),
            pool=on,
            since=self._now_s - _SINCE_S,
            selector=_selector(on) if on else {},
        )
        annotations = {ANNOTATION: note.text(), **_asks(number, self._now_s, bool(on))}
        elastic = number % 10 == 3
        if elastic:
            annotations["ebbtide.dev/min-parallelism"] = "2"
        pods = 4 if elastic else 1
        suspended = fleet.condition("Suspended") | {"status": "False" if on else "True"}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": fleet.metadata(
                name,
                namespace,
                of="Job",
                labels={_LABEL: str(policy)},
                annotations=annotations,
                creationTimestamp=rfc3339(self._now_s - _SINCE_S),
                managedFields=fleet.managed("kubectl", "f:metadata", "f:spec", "f:template")
                + fleet.managed("ebbtide-batch", "f:annotations")
                + fleet.managed("kube-controller-manager", "f:status", "f:conditions"),
            ),
            "spec": {
                "suspend": not on,
                "parallelism": pods,
                "completions": pods,
                "completionMode": "Indexed" if elastic else "NonIndexed",
                "backoffLimit": 6,
                "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}},
                "template": {"metadata": {"labels": {"job-name": name}}, "spec": _pod_spec(number, on, elastic)},
            },
            "status": {"conditions": [suspended]},
        }


def _policy_name(number: int) -> str:
    return f"batch-{number:04d}"


def _selector(pool: str) -> dict[str, str]:
    hardware, _, zone = pool.rpartition("-")
    product = next(each.product for each in HARDWARE if each.name == hardware)
    return {"nvidia.com/gpu.product": product, "topology.kubernetes.io/zone": zone}


def _asks(number: int, now_s: float, runs: bool) -> dict[str, str]:
    """What its user says of it."""
    said = {"ebbtide.dev/expected-duration": "12h" if runs else f"{20 + number * 37 % 340}m"}
    if number % 2 and not runs:
        said["ebbtide.dev/deadline"] = rfc3339(now_s + 3600.0 * (4 + number * 7 % 68))
    if number // 2 % 2:
        said["ebbtide.dev/restartable"] = "true"
    return said


def _pod_spec(number: int, on: str, elastic: bool) -> Object:
    gpus = "1" if on or elastic else str((1, 1, 2, 4)[number % 4])
    amounts = {"cpu": "8", "memory": "64Gi", GPU: gpus}
    container: dict[str, Any] = {
        "name": "work",
        "image": "registry.example.com/work:1",
        "args": ["--model", "llama-3-8b", "--input", f"s3://documents/{number}"],
        "env": [{"name": f"SETTING_{each}", "value": f"value of setting {each}"} for each in range(12)],
        "resources": {"limits": amounts, "requests": amounts},
        "volumeMounts": [{"name": f"volume-{each}", "mountPath": f"/mnt/{each}"} for each in range(4)],
        "imagePullPolicy": "IfNotPresent",
    }
    return {
        "volumes": [{"name": f"volume-{each}", "emptyDir": {"medium": "Memory"}} for each in range(4)],
        "containers": [container],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 60,
        "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
        **({"nodeSelector": _selector(on)} if on else {}),
    }
