"""Renders what an engine block declares: one Deployment a variant, one Service over all of them. Pure.

Never rendered: `spec.replicas` (only `/scale` writes it) and owner references (deleting the service, the CRD or
Ebbtide must leave a running fleet alone).
"""

import hashlib
from typing import Any

import msgspec

from ebbtide.act.overlay import merge
from ebbtide.model.labels import MANAGED_BY, MANAGER, SERVICE_LABEL, VARIANT_LABEL, identity_labels
from ebbtide.model.spec import EngineSpec, EngineType, PoolSpec, ServiceSpec, Toleration, VariantSpec

SERVICE_UID = "ebbtide.dev/service-uid"
RENDERED_HASH = "ebbtide.dev/rendered"
# On the object itself: once the variant is gone from the spec, nothing else knows what it said
DELETION_POLICY = "ebbtide.dev/deletion-policy"

# Long enough for endpoints and gateways to stop sending: readiness of vLLM does not fall while it drains
PRE_STOP_S = 15
# vLLM cuts running streams off on SIGTERM unless told how long it may finish them; two minutes is about 2400 tokens
# at 50 ms each
SHUTDOWN_TIMEOUT_S = 120
_GRACE_MARGIN_S = 15  # the engine itself needs about 10 s to end after its last request
# Weights of a large model take tens of minutes on a cold node: 720 x 5 s = one hour before the kubelet gives up
_STARTUP_PERIOD_S, _STARTUP_FAILURES = 5, 720

_METRICS_PATH = {EngineType.TENSORRT_LLM: "/prometheus/metrics"}
_PORT_NAME = "http"


def render_deployment(service: ServiceSpec, variant: VariantSpec, pool: PoolSpec) -> dict[str, Any]:
    """The Deployment of a variant with an engine block, without replicas, ready for server-side apply.

    Raises ValueError when the variant has no engine block.
    """
    if variant.engine is None:
        raise ValueError(f"{service.key}: variant {variant.name} has a scaleTargetRef, there is nothing to render")
    labels = identity_labels(service, variant)
    selector = {SERVICE_LABEL: service.name, VARIANT_LABEL: variant.name}
    template = merge(_pod_template(variant, variant.engine, pool, labels), _overlay(variant.engine))
    # The selector is immutable and must match whatever the overlay says
    template = merge(template, {"metadata": {"labels": selector}})
    metadata = _metadata(service, variant.target.name, labels)
    metadata["annotations"][DELETION_POLICY] = variant.engine.deletion_policy
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "selector": {"matchLabels": selector},
            # A surge pod finds no GPU in a full pool and the rollout would wait for ever: replace one by one instead
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "progressDeadlineSeconds": _STARTUP_PERIOD_S * _STARTUP_FAILURES + 300,
            "template": template,
        },
    }
    return _stamped(body)


def render_service(service: ServiceSpec) -> dict[str, Any] | None:
    """The Service in front of all engine-block variants, or None when there is none."""
    ports = [variant.engine.port for variant in service.variants if variant.engine is not None]
    if not ports:
        return None
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(service, service.name, {MANAGED_BY: MANAGER, SERVICE_LABEL: service.name}),
        "spec": {
            "selector": {SERVICE_LABEL: service.name},
            # The target port is named, so that variants may listen on different numbers
            "ports": [{"name": "http", "port": ports[0], "protocol": "TCP", "targetPort": _PORT_NAME}],
        },
    }
    return _stamped(body)


def template_gpus(deployment: dict[str, Any], resource: str) -> int:
    """GPUs that one pod of it asks for, in limits or requests; what is no number counts as none."""
    total = 0
    for container in deployment["spec"]["template"]["spec"].get("containers") or ():
        resources = container.get("resources") or {}
        asked = [(resources.get(kind) or {}).get(resource, 0) for kind in ("limits", "requests")]
        total += max((int(str(each)) for each in asked if str(each).isdigit()), default=0)
    return total


def drain_seconds(engine: EngineSpec) -> int:
    """How long the engine may finish running requests after SIGTERM: its own flag where set, else the default."""
    declared = flag_value(engine.args, "--shutdown-timeout")
    if engine.type is EngineType.VLLM and declared is not None:
        try:
            return max(0, round(float(declared)))
        except ValueError:
            return SHUTDOWN_TIMEOUT_S  # the engine itself will refuse the value and say so
    return SHUTDOWN_TIMEOUT_S


def flag_value(args: tuple[str, ...], flag: str) -> str | None:
    """The value of `--flag value` or `--flag=value`; None when the flag is absent, '' when nothing follows it."""
    for place, arg in enumerate(args):
        if arg == flag:
            return args[place + 1] if place + 1 < len(args) else ""
        if arg.startswith(flag + "="):
            return arg.partition("=")[2]
    return None


def _pod_template(variant: VariantSpec, engine: EngineSpec, pool: PoolSpec, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "metadata": {"labels": labels, "annotations": _scrape_annotations(engine)},
        "spec": {
            "nodeSelector": dict(pool.node_selector),
            "tolerations": [toleration_of(toleration) for toleration in pool.tolerations],
            "terminationGracePeriodSeconds": PRE_STOP_S + drain_seconds(engine) + _GRACE_MARGIN_S,
            "containers": [_container(variant, engine, pool)],
            # Tensor parallelism passes tensors through shared memory; the runtime's default of 64 MiB is too little
            "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}],
        },
    }


def _container(variant: VariantSpec, engine: EngineSpec, pool: PoolSpec) -> dict[str, Any]:
    health = {"path": "/health", "port": _PORT_NAME}
    return {
        "name": "engine",
        "image": engine.image,
        "args": [*engine.args, *_added_args(engine)],
        "env": [{"name": name, "value": value} for name, value in engine.env],
        "ports": [{"name": _PORT_NAME, "containerPort": engine.port, "protocol": "TCP"}],
        "resources": {"limits": {pool.resource: str(variant.gpus_per_replica or 1)}},
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],
        "startupProbe": _probe(health, period_s=_STARTUP_PERIOD_S, failures=_STARTUP_FAILURES),
        "readinessProbe": _probe(health, period_s=5, failures=3),
        # A busy engine answers /health late: a minute of silence, not one slow answer, is a reason to restart it
        "livenessProbe": _probe(health, period_s=10, failures=6),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
    }


def _probe(http_get: dict[str, Any], *, period_s: int, failures: int) -> dict[str, Any]:
    return {"httpGet": http_get, "periodSeconds": period_s, "timeoutSeconds": 5, "failureThreshold": failures}


def _added_args(engine: EngineSpec) -> list[str]:
    """Flags without which the engine cannot be drained, reached or scraped; what the user set stays as it is."""
    wanted: dict[EngineType, list[tuple[str, str | None]]] = {
        EngineType.VLLM: [("--shutdown-timeout", str(SHUTDOWN_TIMEOUT_S))],
        # Both listen on loopback only unless told; trtllm-serve and SGLang drain by themselves, up to the grace period
        EngineType.TENSORRT_LLM: [("--host", "0.0.0.0")],
        EngineType.SGLANG: [("--host", "0.0.0.0"), ("--enable-metrics", None)],
    }
    flags = wanted[engine.type]
    if engine.port != 8000 or engine.type is EngineType.SGLANG:  # SGLang's own default is 30000
        flags = [*flags, ("--port", str(engine.port))]
    added: list[str] = []
    for flag, value in flags:
        if flag_value(engine.args, flag) is None:
            added += [flag] if value is None else [flag, value]
    return added


def _scrape_annotations(engine: EngineSpec) -> dict[str, str]:
    # Annotations, not a PodMonitor: they need no further CRD, work with a plain Prometheus as with the operator (one
    # scrape job), and a PodMonitor is ignored in silence unless its labels match the Prometheus object's selector.
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(engine.port),
        "prometheus.io/path": _METRICS_PATH.get(engine.type, "/metrics"),
    }


def toleration_of(toleration: Toleration) -> dict[str, str]:
    """As a pod template has it."""
    rendered = {"key": toleration.key, "operator": "Exists" if toleration.value is None else "Equal"}
    if toleration.value is not None:
        rendered["value"] = toleration.value
    if toleration.effect is not None:
        rendered["effect"] = toleration.effect
    return rendered


def _overlay(engine: EngineSpec) -> dict[str, Any]:
    overlay = msgspec.json.decode(engine.pod_template_json or "{}")
    return overlay if isinstance(overlay, dict) else {}


def _metadata(service: ServiceSpec, name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": service.namespace,
        "labels": labels,
        "annotations": {SERVICE_UID: service.uid},
    }


def _stamped(body: dict[str, Any]) -> dict[str, Any]:
    """`body` with the digest of itself as an annotation: an equal one on the live object means nothing to write."""
    digest = hashlib.sha256(msgspec.json.encode(body, order="deterministic")).hexdigest()[:16]
    metadata = body["metadata"]
    annotations = {**metadata["annotations"], RENDERED_HASH: digest}
    return {**body, "metadata": {**metadata, "annotations": annotations}}
