"""The cluster that is measured: declarations, workloads, pods and nodes of any number of services, as API objects.

Everything follows from the service's number, so that two runs see the same cluster. Each service has two pods; every
fifth has two variants, every fourth engine blocks, every tenth scales to zero, and some are Off, Recommend, or have an
HPA. Objects are as large as real ones (a pod 4.5 kB, managedFields included): decoding them is part of the work.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

Object = dict[str, Any]

GPUS_PER_NODE = 8
GPU = "nvidia.com/gpu"
_CREATED = "2026-01-01T00:00:00Z"
_SERVICES_PER_NAMESPACE = 20
_ITL_S, _OUTPUT_TOKENS = 0.05, 256.0
_PAID = Decimal("0.6")  # of what a namespace costs at the beginning, where a policy binds
_DAY_S, _LEAST_LEFT_S = 86_400.0, 7200.0


@dataclass(frozen=True)
class Hardware:
    """One accelerator: iteration time `a_s + b_s x running` (seconds), and what a GPU costs an hour."""

    name: str
    product: str
    a_s: float
    b_s: float
    price: str

    @property
    def most_running(self) -> float:
        """Concurrency at which 50 ms a token is reached."""
        return (_ITL_S - self.a_s) / self.b_s

    @property
    def requests_per_second(self) -> float:
        """What one replica carries there: 325 running requests of 256 tokens of 50 ms are 25 requests/s."""
        return self.most_running / (_OUTPUT_TOKENS * _ITL_S)


HARDWARE = (
    Hardware("h100", "NVIDIA-H100-80GB-HBM3", 0.0060, 0.000135, "2.50"),
    Hardware("a100", "NVIDIA-A100-SXM4-80GB", 0.0112, 0.000350, "1.60"),
    Hardware("l40s", "NVIDIA-L40S", 0.0220, 0.000510, "0.80"),
)
ZONES = ("a", "b", "c")


@dataclass(frozen=True)
class Variant:
    """One variant: `replicas` pods of `workload` in pool `<hardware>-<zone>`."""

    name: str
    hardware: Hardware
    zone: str
    replicas: int
    kind: str  # Deployment or StatefulSet
    workload: str

    @property
    def pool(self) -> str:
        return f"{self.hardware.name}-{self.zone}"


@dataclass(frozen=True)
class Service:
    """Service number `number`, with everything that its number says."""

    number: int

    @property
    def namespace(self) -> str:
        return f"team-{self.number // _SERVICES_PER_NAMESPACE:03d}"

    @property
    def name(self) -> str:
        return f"chat-{self.number:05d}"

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def mode(self) -> str:
        return "Off" if self.number % 20 == 4 else "Recommend" if self.number % 10 == 9 else "Auto"

    @property
    def engine(self) -> str:
        """Name of the engine whose series its pods show."""
        return "TensorRTLLM" if self.number % 5 == 2 else "vLLM"

    @property
    def engine_blocks(self) -> bool:
        return self.number % 4 == 1

    @property
    def to_zero(self) -> bool:
        return self.number % 10 == 6

    @property
    def has_hpa(self) -> bool:
        return self.number % 50 == 19

    @property
    def variants(self) -> tuple[Variant, ...]:
        hardware, zone = HARDWARE[self.number % 3], ZONES[self.number // 3 % 3]
        kind = "StatefulSet" if self.number % 20 == 3 else "Deployment"
        both = self.number % 5 == 0
        first = self._variant("main", hardware, zone, 1 if both else 2, kind)
        if not both:
            return (first,)
        return (first, self._variant("more", hardware, ZONES[(self.number // 3 + 1) % 3], 1, "Deployment"))

    def _variant(self, name: str, hardware: Hardware, zone: str, replicas: int, kind: str) -> Variant:
        kind = "Deployment" if self.engine_blocks else kind
        return Variant(name, hardware, zone, replicas, kind, f"{self.name}-{name}")

    def requests_per_second(self, load: float) -> float:
        """What arrives at the whole service; `load` 1 needs two replicas, nearly full."""
        return load * 1.1 * self.variants[0].hardware.requests_per_second

    def selector(self, variant: Variant) -> dict[str, str]:
        """Labels that select the variant's pods."""
        if self.engine_blocks:
            return {"ebbtide.dev/service": self.name, "ebbtide.dev/variant": variant.name}
        return {"app": variant.workload}


def services(count: int) -> tuple[Service, ...]:
    """The first `count`."""
    return tuple(Service(number) for number in range(count))


def uid(text: str) -> str:
    """A stable uid in the usual form."""
    digits = "".join(f"{zlib.crc32(f'{text}/{part}'.encode()):08x}" for part in range(4))
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:32]}"


def suffix(text: str, length: int) -> str:
    """Letters as ReplicaSets append them."""
    number, letters = zlib.crc32(text.encode()), "bcdfghjklmnpqrstvwxz2456789"
    return "".join(letters[number // 27**place % 27] for place in range(length))


def metadata(name: str, namespace: str = "", generation: int = 1, **more: Any) -> Object:
    """Metadata as every object has it; the resourceVersion is given by whoever serves it."""
    where = {"namespace": namespace} if namespace else {}
    return {
        "name": name,
        **where,
        "uid": uid(f"{more.pop('of', '')}/{namespace}/{name}"),
        "resourceVersion": "1",
        "generation": generation,
        "creationTimestamp": _CREATED,
        **more,
    }


def managed(manager: str, *fields: str) -> list[Object]:
    owned = {field: {f"f:{part}": {} for part in ("name", "value", "status", "type", "message")} for field in fields}
    return [{"manager": manager, "operation": "Update", "apiVersion": "v1", "time": _CREATED, "fieldsV1": owned}]


def inference_service(service: Service) -> Object:
    """Its declaration, with the defaults that the API server fills in."""
    spec: Object = {
        "mode": service.mode,
        "model": {"name": "llama-3-8b", "parameters": "8B"},
        "objectives": {"timeToFirstToken": "1s", "interTokenLatency": "50ms", "attainment": "99"},
        "priority": 100,
        "variants": [_variant_spec(service, variant) for variant in service.variants],
        "scaling": {
            "minReplicas": 2,
            "maxReplicas": 100,
            "up": {"delay": "0s", "maxPerMinute": 60},
            "down": {"delay": "5m", "maxPerMinute": 10},
        },
    }
    if service.to_zero:
        activator = {
            "url": f"GATEWAY/{service.number % 4}",  # the server puts its own address here
            "metrics": ["llm_d_epp_flow_control_queue_size", "inference_extension_flow_control_queue_size"],
            "labels": {"inference_pool": f"{service.namespace}-{service.name}"},  # four pickers for all namespaces
        }
        spec["scaling"] |= {"minReplicas": 0, "scaleToZero": {"after": "10m", "activator": activator}}
    meta = metadata(service.name, service.namespace, of="InferenceService", managedFields=managed("kubectl", "f:spec"))
    return {"apiVersion": "ebbtide.dev/v1alpha1", "kind": "InferenceService", "metadata": meta, "spec": spec}


def _variant_spec(service: Service, variant: Variant) -> Object:
    spec: Object = {"name": variant.name, "pool": variant.pool, "minReplicas": 0, "maxReplicas": 100}
    if len(service.variants) > 1:
        spec["minReplicas"] = variant.replicas
    if service.engine_blocks:
        return spec | {
            "gpusPerReplica": 1,
            "engine": {
                "type": service.engine,
                "image": "registry.example.com/engine:1",
                "args": ["--model", "llama-3-8b"],
                "port": 8000,
                "deletionPolicy": "Orphan",
            },
        }
    return spec | {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": variant.kind, "name": variant.workload}}


def gpu_pool(hardware: Hardware, zone: str) -> Object:
    """One pool: two of three are Static, the last zone is Autoscaled."""
    price: Object = {"perGPUHour": hardware.price, "currency": "USD"}
    if zone == "b":
        night = {"cron": "0 22 * * *", "timeZone": "Europe/Berlin", "duration": "8h", "perGPUHour": "1.10"}
        price["schedule"] = [night]
    spec: Object = {
        "provisioning": "Autoscaled" if zone == "c" else "Static",
        "capacityType": "OnDemand",
        "nodeSelector": {"nvidia.com/gpu.product": hardware.product, "topology.kubernetes.io/zone": zone},
        "resource": GPU,
        "accelerator": hardware.name.upper(),
        "tolerations": [{"key": GPU, "effect": "NoSchedule"}],
        "interruptionTaints": [{"key": "cloud.example.com/interruption", "effect": "NoSchedule"}],
        "price": price,
        "nodeLeadTime": "4m",
    }
    if zone == "c":
        spec["limits"] = {"maxGPUs": 20_000}
    meta = metadata(f"{hardware.name}-{zone}", of="GPUPool")
    return {"apiVersion": "ebbtide.dev/v1alpha1", "kind": "GPUPool", "metadata": meta, "spec": spec}


def cost_policies(count: int, fleet: Sequence[Service], now_s: float) -> Iterator[Object]:
    """Each for one namespace in turn. One in ten binds, the others leave room: by the hour, the day and the month.

    What binds pays for three fifths of the beginning, minimums too: one half by the hour, the other half until midnight
    UTC, paced, with a threshold that is reached at once and two that are not.
    """
    per_hour: dict[str, Decimal] = {}
    for service in fleet:
        cost = sum((Decimal(variant.hardware.price) * variant.replicas for variant in service.variants), Decimal(0))
        per_hour[service.namespace] = per_hour.get(service.namespace, Decimal(0)) + cost
    namespaces = sorted(per_hour)
    for number in range(count):
        namespace = namespaces[number % len(namespaces)]
        spec: Object = {"selector": {"namespaces": [namespace]}, "currency": "USD"}
        if number % 10 == 5:
            spec |= _binding(per_hour[namespace] * _PAID, now_s, paced=number % 20 == 5)
        else:
            ceilings = {"perHour": "100000", "perDay": "2000000", "perMonth": "60000000"}
            spec |= {"ceilings": ceilings, "timeZone": "Europe/Berlin"}
        meta = metadata(f"policy-{number:05d}", of="CostPolicy")
        yield {"apiVersion": "ebbtide.dev/v1alpha1", "kind": "CostPolicy", "metadata": meta, "spec": spec}


def _binding(per_hour: Decimal, now_s: float, *, paced: bool) -> Object:
    """A ceiling of the rate, or of a day whose money is to last to its end with that rate."""
    left_s = max(_LEAST_LEFT_S, _DAY_S - now_s % _DAY_S)
    per_day, many = round(per_hour * Decimal(left_s / 3600), 2), "60000000"
    if not paced:
        return {"ceilings": {"perHour": str(per_hour), "perDay": many, "perMonth": many}, "floor": "AllowZero"}
    thresholds = [
        {"period": "Day", "atPercent": 1, "actions": ["Notify"]},
        {"period": "Day", "atPercent": 80, "actions": ["HoldScaleUp"]},
        {"period": "Day", "atPercent": 100, "basis": "Forecast", "actions": ["Notify"]},
    ]
    ceilings = {"perHour": many, "perDay": str(per_day), "perMonth": many}
    return {"ceilings": ceilings, "floor": "AllowZero", "pacing": "Smooth", "thresholds": thresholds}


def node(hardware: Hardware, zone: str, number: int) -> Object:
    """One node of eight GPUs, about 6 kB."""
    name = f"{hardware.name}-{zone}-{number:04d}"
    amounts = {"cpu": "96", "memory": "1056270464Ki", GPU: str(GPUS_PER_NODE), "pods": "110"}
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "nvidia.com/gpu.product": hardware.product,
        "nvidia.com/gpu.count": str(GPUS_PER_NODE),
        "topology.kubernetes.io/zone": zone,
        "node.kubernetes.io/instance-type": f"gpu.{hardware.name}.8x",
    }
    images = [
        {"names": [f"registry.example.com/image-{index}@sha256:{uid(f'{index}')}"], "sizeBytes": 8_123_456_789 + index}
        for index in range(30)
    ]
    return {
        "metadata": metadata(name, of="Node", labels=labels, managedFields=managed("kubelet", "f:status", "f:spec")),
        "spec": {
            "providerID": f"cloud:///{name}",
            "taints": [{"key": GPU, "value": "present", "effect": "NoSchedule"}],
        },
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [condition(kind) for kind in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")],
            "nodeInfo": {"kubeletVersion": "v1.36.3", "kernelVersion": "6.8.0", "osImage": "Linux"},
            "images": images,
        },
    }


def workload(service: Service, variant: Variant) -> Object:
    """The Deployment or StatefulSet that a variant with `scaleTargetRef` names, about 3 kB."""
    selector = service.selector(variant)
    return {
        "apiVersion": "apps/v1",
        "kind": variant.kind,
        "metadata": metadata(
            variant.workload,
            service.namespace,
            of=variant.kind,
            managedFields=managed("kubectl", "f:spec", "f:status"),
        ),
        "spec": {
            "replicas": variant.replicas,
            "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": selector}, "spec": _pod_spec(service, variant, node_name="")},
        },
        "status": workload_status(variant.replicas, generation=1),
    }


def workload_status(replicas: int, generation: int) -> Object:
    """Status of a workload that has settled."""
    return {
        "observedGeneration": generation,
        "replicas": replicas,
        "updatedReplicas": replicas,
        "readyReplicas": replicas,
        "availableReplicas": replicas,
        "currentRevision": "a",
        "updateRevision": "a",
        "conditions": [condition("Available"), condition("Progressing")],
    }


def pod_name(service: Service, variant: Variant, index: int) -> str:
    """As the controllers name pods."""
    if variant.kind == "StatefulSet":
        return f"{variant.workload}-{index}"
    return f"{variant.workload}-{suffix(variant.workload, 9)}-{suffix(f'{service.key}/{variant.name}/{index}', 5)}"


def pod(service: Service, variant: Variant, index: int, node_name: str) -> Object:
    """A running pod that is ready, about 4.5 kB."""
    name = pod_name(service, variant, index)
    labels = service.selector(variant) | {"pod-template-hash": suffix(variant.workload, 9), "model": "llama-3-8b"}
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": variant.workload, "uid": uid(variant.workload)}
    container_status = {
        "name": "engine",
        "ready": True,
        "restartCount": 0,
        "image": "registry.example.com/engine:1",
        "imageID": f"registry.example.com/engine@sha256:{uid('image')}{uid('id')}",
        "containerID": f"containerd://{uid(name)}{uid('container')}",
        "state": {"running": {"startedAt": _CREATED}},
        "started": True,
    }
    kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    return {
        "metadata": metadata(
            name,
            service.namespace,
            of="Pod",
            labels=labels,
            annotations={"prometheus.io/scrape": "true", "prometheus.io/port": "8000"},
            ownerReferences=[owner | {"controller": True, "blockOwnerDeletion": True}],
            managedFields=managed("kube-controller-manager", "f:metadata", "f:spec", "f:containers", "f:volumes")
            + managed("kubelet", "f:status", "f:conditions", "f:containerStatuses", "f:podIPs"),
        ),
        "spec": _pod_spec(service, variant, node_name),
        "status": {
            "phase": "Running",
            "conditions": [condition(kind) for kind in kinds],
            "hostIP": "10.0.0.1",
            "podIP": "10.1.0.1",
            "podIPs": [{"ip": "10.1.0.1"}],
            "startTime": _CREATED,
            "containerStatuses": [container_status],
            "qosClass": "Burstable",
        },
    }


def _pod_spec(service: Service, variant: Variant, node_name: str) -> Object:
    probe = {"httpGet": {"path": "/health", "port": 8000, "scheme": "HTTP"}, "periodSeconds": 5, "failureThreshold": 3}
    amounts = {"cpu": "8", "memory": "64Gi", GPU: "1"}
    container = {
        "name": "engine",
        "image": "registry.example.com/engine:1",
        "args": ["--model", "llama-3-8b", "--max-num-seqs", "512", "--shutdown-timeout", "120"],
        "env": [{"name": f"SETTING_{number}", "value": f"value of setting {number}"} for number in range(12)],
        "ports": [{"name": "http", "containerPort": 8000, "protocol": "TCP"}],
        "resources": {"limits": amounts, "requests": amounts},
        "volumeMounts": [{"name": f"volume-{number}", "mountPath": f"/mnt/{number}"} for number in range(4)],
        "readinessProbe": probe,
        "livenessProbe": probe,
        "startupProbe": probe,
        "terminationMessagePath": "/dev/termination-log",
        "imagePullPolicy": "IfNotPresent",
    }
    spec: Object = {
        "volumes": [{"name": f"volume-{number}", "emptyDir": {"medium": "Memory"}} for number in range(4)],
        "containers": [container],
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 150,
        "nodeSelector": {
            "nvidia.com/gpu.product": variant.hardware.product,
            "topology.kubernetes.io/zone": variant.zone,
        },
        "serviceAccountName": "default",
        "schedulerName": "default-scheduler",
        "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
        "priority": 0,
        "preemptionPolicy": "PreemptLowerPriority",
    }
    return spec | ({"nodeName": node_name} if node_name else {})


def autoscaler(service: Service) -> Object:
    """An HPA on the first variant: a rival writer."""
    target = service.variants[0]
    reference = {"apiVersion": "apps/v1", "kind": target.kind, "name": target.workload}
    spec = {"scaleTargetRef": reference, "minReplicas": 1, "maxReplicas": 10}
    return {"metadata": metadata(f"{service.name}-hpa", service.namespace, of="HPA"), "spec": spec}


def placed_pods(fleet: tuple[Service, ...]) -> Iterator[tuple[Service, Variant, int, str]]:
    """Every pod of the beginning with its node: pools are filled node by node."""
    placed: dict[str, int] = {}
    for service in fleet:
        for variant in service.variants:
            for index in range(variant.replicas):
                number = placed.get(variant.pool, 0)
                placed[variant.pool] = number + 1
                yield service, variant, index, f"{variant.pool}-{number // GPUS_PER_NODE:04d}"


def nodes(fleet: tuple[Service, ...]) -> Iterator[Object]:
    """Nodes for all pods, and a quarter more for growth (two at least)."""
    for hardware, zone, used in _used_nodes(fleet):
        for number in range(used + max(2, used // 4)):
            yield node(hardware, zone, number)


def spare_nodes(fleet: tuple[Service, ...]) -> Iterator[str]:
    """Names of those that are for growth."""
    for hardware, zone, used in _used_nodes(fleet):
        for number in range(used, used + max(2, used // 4)):
            yield f"{hardware.name}-{zone}-{number:04d}"


def _used_nodes(fleet: tuple[Service, ...]) -> Iterator[tuple[Hardware, str, int]]:
    """(hardware, zone, nodes that pods are on)."""
    taken: dict[str, int] = {}
    for _, variant, _, _ in placed_pods(fleet):
        taken[variant.pool] = taken.get(variant.pool, 0) + 1
    for hardware in HARDWARE:
        for zone in ZONES:
            yield hardware, zone, -(-taken.get(f"{hardware.name}-{zone}", 0) // GPUS_PER_NODE)


def condition(kind: str) -> Object:
    return {
        "type": kind,
        "status": "True",
        "lastProbeTime": None,
        "lastTransitionTime": _CREATED,
        "reason": "AsExpected",
    }
