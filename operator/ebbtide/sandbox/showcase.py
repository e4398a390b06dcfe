"""The objects of the demo's fleet, as its users would have applied them: Deployments, pools, services, one HPA.

Everything comes from `sim.showcase`, so that what runs here is what the static reference was computed for.
"""

from typing import Any

from ebbtide.model.spec import DEFAULT_PRIORITY, Mode, PoolSpec, ServiceSpec, VariantSpec
from ebbtide.sandbox.nodes import NodePool
from ebbtide.sim import showcase
from ebbtide.sim.showcase import NAMESPACE, ShowcasePool, ShowcaseService
from ebbtide.units import format_duration

_FAMILIES = {"NVIDIA-A100-SXM4-80GB": "ampere", "NVIDIA-L40S": "ada-lovelace", "NVIDIA-H100-80GB-HBM3": "hopper"}
_IMAGES = {"vllm": "vllm/vllm-openai:v0.32.0", "trtllm": "tensorrt-llm/release:1.1.0"}


def node_pools() -> tuple[NodePool, ...]:
    """The fake nodes of the demo."""
    return tuple(_node_pool(pool) for pool in showcase.POOLS)


def _node_pool(pool: ShowcasePool) -> NodePool:
    return NodePool(
        name=pool.name,
        product=pool.product,
        family=_FAMILIES[pool.product],
        gpu_memory_mib=81_920,
        gpus_per_node=pool.gpus,
        nodes=pool.nodes,
        capacity_type={"OnDemand": "on-demand", "Spot": "spot", "OnPrem": "on-prem"}[pool.capacity_type],
        instance_type=f"gpu.{pool.accelerator.lower()}.{pool.gpus}x",
    )


def pools() -> list[dict[str, Any]]:
    """The GPUPools."""
    return [_pool(pool.spec()) for pool in showcase.POOLS]


def _pool(spec: PoolSpec) -> dict[str, Any]:
    assert spec.price is not None and spec.price.tariff is not None
    return {
        "apiVersion": "ebbtide.dev/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": spec.name},
        "spec": {
            "provisioning": spec.provisioning.value,
            "capacityType": spec.capacity_type.value,
            "accelerator": spec.accelerator,
            "nodeSelector": dict(spec.node_selector),
            "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
            "price": {"perGPUHour": str(spec.price.tariff.base), "currency": spec.price.currency},
        },
    }


def deployments(service: ShowcaseService) -> list[dict[str, Any]]:
    """One Deployment a variant, at the replicas it starts with."""
    spec = showcase.service_spec(service, "")
    return [
        _deployment(service, variant, start)
        for variant, (_, _, start) in zip(spec.variants, service.variants, strict=True)
    ]


def _deployment(service: ShowcaseService, variant: VariantSpec, replicas: int) -> dict[str, Any]:
    path = "/metrics" if service.engine == "vllm" else "/prometheus/metrics"
    labels = {"app": variant.target.name, "sandbox.ebbtide.dev/route": service.name}
    annotations = {
        "sandbox.ebbtide.dev/startup": f"{service.startup_s:.0f}s",
        "sandbox.ebbtide.dev/engine": service.engine,
        "sandbox.ebbtide.dev/model": "8B",
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8000",
        "prometheus.io/path": path,
    }
    arguments = ["--model=llama-3-8b", *(["--shutdown-timeout=30"] if service.engine == "vllm" else [])]
    container = {
        "name": "engine",
        "image": _IMAGES[service.engine],
        "args": arguments,
        "ports": [{"name": "http", "containerPort": 8000}],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": variant.target.name, "namespace": NAMESPACE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": variant.target.name}},
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": {
                    "nodeSelector": {showcase.POOL_LABEL: variant.pool},
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
                    "terminationGracePeriodSeconds": 60,
                    "containers": [container],
                },
            },
        },
    }


def rival_hpa(service: ShowcaseService) -> dict[str, Any]:
    """An autoscaler that somebody else put on the service's first Deployment."""
    target = showcase.service_spec(service, "").variants[0].target
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": f"{service.name}-hpa", "namespace": NAMESPACE},
        "spec": {
            "minReplicas": 1,
            "maxReplicas": 4,
            "scaleTargetRef": {"apiVersion": target.api_version, "kind": target.kind, "name": target.name},
            "metrics": [{"type": "Resource", "resource": cpu}],
        },
    }


def inference_service(service: ShowcaseService, activator_url: str) -> dict[str, Any]:
    """The InferenceService as a model team would write it."""
    spec = showcase.service_spec(service, activator_url)
    body: dict[str, Any] = {
        "model": {"name": spec.model_name, "parameters": f"{spec.model_parameters_billion:.0f}B"},
        "objectives": {
            "timeToFirstToken": format_duration(spec.objectives.ttft_s),
            "interTokenLatency": format_duration(spec.objectives.itl_s),
            "attainment": f"{spec.objectives.attainment * 100:g}",
        },
        "variants": [_variant(variant) for variant in spec.variants],
        "scaling": _scaling(spec),
    }
    if spec.priority != DEFAULT_PRIORITY:
        body["priority"] = spec.priority
    if spec.mode is not Mode.RECOMMEND:  # the default, which the demo's user did not write
        body["mode"] = spec.mode.value
    return {
        "apiVersion": "ebbtide.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": spec.name, "namespace": spec.namespace},
        "spec": body,
    }


def _variant(variant: VariantSpec) -> dict[str, Any]:
    target = variant.target
    return {
        "name": variant.name,
        "pool": variant.pool,
        "scaleTargetRef": {"apiVersion": target.api_version, "kind": target.kind, "name": target.name},
        "maxReplicas": variant.max_replicas,
    }


def _scaling(spec: ServiceSpec) -> dict[str, Any]:
    scaling = spec.scaling
    body: dict[str, Any] = {
        "minReplicas": scaling.min_replicas,
        "maxReplicas": scaling.max_replicas,
        "down": {"delay": format_duration(scaling.down_delay_s or 0.0), "maxPerMinute": scaling.down_max_per_minute},
    }
    zero = scaling.scale_to_zero
    if zero is not None:
        activator = {
            "url": zero.activator.url,
            "metrics": list(zero.activator.queue_metrics),
            "labels": dict(zero.activator.labels),
        }
        body["scaleToZero"] = {"after": format_duration(zero.after_s), "activator": activator}
    return body
