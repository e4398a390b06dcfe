"""Objects that the API server must accept, with the values that must be there afterwards."""

from typing import Any

from tests.api.bad_objects import BUILT, PRICED, TO_ZERO, WINDOW
from tests.api.good_batch import BATCH_POLICIES
from tests.api.good_case import Good
from tests.api.samples import (
    FREE_POOL,
    FULL_POLICY,
    FULL_POOL,
    FULL_SERVICE,
    LISTED_POOL,
    OWNED_POOL,
    changed,
    policy,
    pool,
    service,
    variant,
)

SERVICE_DEFAULTS: dict[str, Any] = {
    "spec.mode": "Recommend",
    "spec.objectives": {"timeToFirstToken": "1s", "interTokenLatency": "50ms", "attainment": "99", "window": "24h"},
    "spec.priority": 100,
    "spec.serviceClass": "Interactive",
    "spec.variants.0.minReplicas": 0,
    "spec.variants.0.maxReplicas": 100,
    "spec.scaling": {
        "minReplicas": 1,
        "maxReplicas": 100,
        "up": {"delay": "0s", "maxPerMinute": 60},
        "down": {"maxPerMinute": 10},
    },
}
POOL_DEFAULTS: dict[str, Any] = {
    "spec": {
        "provisioning": "Static",
        "capacityType": "OnDemand",
        "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
        "resource": "nvidia.com/gpu",
        "nodeLeadTime": "4m",
    }
}
_CRONS = ("*/15 * * * *", "0 22 * * 1-5", "0 0 1,15 jan-mar *", "59 23 31 12 sun", "0-30/10 8-18/2 * * MON,FRI")
_ZONES = ("UTC", "Etc/GMT+5", "America/Argentina/Buenos_Aires")

GOOD = (
    Good("twelve lines of service get every default", service(), SERVICE_DEFAULTS),
    Good("a service with every field keeps them", FULL_SERVICE, {"spec.mode": "Auto", "spec.scaling.pause.by": "ada"}),
    Good("a part of the objectives keeps the other defaults", service(("spec.objectives.timeToFirstToken", "500ms")), {
        "spec.objectives": {"timeToFirstToken": "500ms", "interTokenLatency": "50ms", "attainment": "99",
                            "window": "24h"},
    }),
    Good("durations may be compound and fractional", service(
        ("spec.objectives.timeToFirstToken", "1.5s"), ("spec.scaling.down.delay", "1h2m3s")
    ), {"spec.scaling.down": {"delay": "1h2m3s", "maxPerMinute": 10}}),
    Good("an engine block gets port and policy", BUILT, {
        "spec.variants.0.engine.port": 8000, "spec.variants.0.engine.deletionPolicy": "Orphan",
    }),
    Good("scale to zero gets its delay and the endpoint picker's metrics", TO_ZERO, {
        "spec.scaling.scaleToZero.after": "10m",
        "spec.scaling.scaleToZero.activator.metrics": [
            "llm_d_epp_flow_control_queue_size", "inference_extension_flow_control_queue_size",
        ],
    }),
    Good("a queue that batch work's hours work off", changed(TO_ZERO, ("spec.serviceClass", "Background")), {
        "spec.serviceClass": "Background",
    }),
    Good("an empty pause pauses everything", service(("spec.scaling.pause", {})), {
        "spec.scaling.pause": {"direction": "All"},
    }),
    Good("paused at a number", service(("spec.scaling.pause", {"replicas": 3, "until": "2026-12-24T18:00:00+01:00"})), {
        "spec.scaling.pause.replicas": 3,
    }),
    Good("paused downwards", service(("spec.scaling.pause", {"direction": "Down"})), {
        "spec.scaling.pause.direction": "Down",
    }),
    Good("sixteen variants", service(("spec.variants", [variant(f"v{number}") for number in range(16)])), {
        "spec.variants.15.maxReplicas": 100,
    }),
    Good("two kinds of target may share a name", service(("spec.variants.1", {
        "name": "lws", "pool": "h100-spot",
        "scaleTargetRef": {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": "chat-h100"},
    })), {"spec.variants.1.minReplicas": 0}),
    Good("a variant out of use", service(("spec.variants.0.maxReplicas", 0), ("spec.variants.1", variant("b"))), {
        "spec.variants.0.maxReplicas": 0,
    }),
    Good("a service name that only a label must bear", service(("metadata.name", "8b.chat")), SERVICE_DEFAULTS),
    Good("a pool name with dots", service(("spec.variants.0.pool", "h100.eu-west-1")), {
        "spec.variants.0.pool": "h100.eu-west-1",
    }),
    Good("a capacity that was measured", service(("spec.variants.0.capacity", {
        "requestsPerSecond": "4.5", "inputTokens": 1024, "outputTokens": 256,
    })), {"spec.variants.0.capacity.requestsPerSecond": "4.5"}),
    Good("an API to compare with", service(("spec.alternative", {
        "currency": "EUR", "perMillionInputTokens": "0.0375", "perMillionOutputTokens": "100000",
    })), {"spec.alternative.perMillionInputTokens": "0.0375"}),
    Good("a pool of a node selector alone gets every default", pool(), POOL_DEFAULTS),
    Good("a pool with every field keeps them", FULL_POOL, {"spec": FULL_POOL["spec"]}),
    Good("a price that holds from before it was written", changed(PRICED, (
        "spec.price.effectiveFrom", "2026-12-01T00:00:00.5+01:00",
    )), {"spec.price.effectiveFrom": "2026-12-01T00:00:00.5+01:00"}),
    Good("GPUs that were bought", OWNED_POOL, {"spec": OWNED_POOL["spec"]}),
    Good("a price of a table", LISTED_POOL, {"spec.price.source.item": "p5.48xlarge-spot"}),
    Good("prices of OpenCost", pool(("spec.price", {"source": {"type": "OpenCost"}, "currency": "USD"})), {
        "spec.price.source.type": "OpenCost",
    }),
    Good("GPUs that cost nothing, said explicitly", FREE_POOL, {"spec": FREE_POOL["spec"]}),
    Good("a pool for AMD", pool(("spec.resource", "amd.com/gpu")), {"spec.resource": "amd.com/gpu"}),
    Good("a pool that may not grow", pool(("spec.limits.maxGPUs", 0)), {"spec.limits.maxGPUs": 0}),
    Good("a policy of a currency and one ceiling gets every default", policy(), {
        "spec": {
            "selector": {"namespaces": [], "matchLabels": {}}, "scope": "Managed", "outageReserve": "15m",
            "currency": "USD", "ceilings": {"perDay": "500"}, "timeZone": "UTC", "monthStartsOn": 1, "floor": "KeepMin",
            "pacing": "None", "onExternalScale": "Compensate",
        },
    }),
    Good("a policy with every field keeps them", FULL_POLICY, {"spec": FULL_POLICY["spec"]}),
    Good("a policy for everything that holds GPUs", policy(("spec.scope", "AllGPUPods")), {"spec.scope": "AllGPUPods"}),
    Good("others' pods of two namespaces", policy(("spec.scope", "AllGPUPods"), (
        "spec.selector", {"namespaces": ["a", "b"]},
    )), {"spec.selector.namespaces": ["a", "b"]}),
    Good("a policy by labels", policy(("spec.selector", {"matchLabels": {"example.com/tier": "gold"}})), {
        "spec.selector.matchLabels": {"example.com/tier": "gold"},
    }),
    Good("a stand-in of lower quality", service(("spec.variants.1", {**variant("small"), "degraded": True})), {
        "spec.variants.0.degraded": False, "spec.variants.1.degraded": True, "spec.variants.1.minReplicas": 0,
    }),
    Good("at 80 % of a day stand-ins serve", policy(("spec.thresholds", [
        {"period": "Day", "atPercent": 80, "actions": ["UseDegraded"]},
    ])), {"spec.thresholds.0.actions": ["UseDegraded"]}),
    Good("at 80 % of a day somebody is told", policy(("spec.thresholds", [
        {"period": "Day", "atPercent": 80, "actions": ["Notify"]},
    ])), {"spec.thresholds.0.basis": "Spent"}),
    Good("a forecast of twice the day freezes", policy(("spec.thresholds", [
        {"period": "Day", "atPercent": 200, "basis": "Forecast", "actions": ["Freeze"]},
    ])), {"spec.thresholds.0.atPercent": 200}),
    Good("money that is to last", policy(("spec.pacing", "Smooth")), {"spec.pacing": "Smooth"}),
    Good("a rate alone", policy(("spec.ceilings", {"perHour": "0.01"})), {"spec.ceilings": {"perHour": "0.01"}}),
    Good("all three ceilings", policy((
        "spec.ceilings", {"perHour": "9", "perDay": "99.5", "perMonth": "1000000000"},
    )), {"spec.ceilings.perMonth": "1000000000"}),
    Good("a month that begins on the 28th", policy(("spec.monthStartsOn", 28)), {"spec.monthStartsOn": 28}),
    Good("no outage is provided for", policy(("spec.outageReserve", "0s")), {"spec.outageReserve": "0s"}),
    Good("minimums may go", policy(("spec.floor", "AllowZero")), {"spec.floor": "AllowZero"}),
    *(
        Good(f"cron line {line!r}", changed(PRICED, ("spec.price.schedule", [{**WINDOW, "cron": line}])), {
            "spec.price.schedule.0.cron": line,
        })
        for line in _CRONS
    ),
    *(
        Good(f"time zone {zone}", changed(PRICED, ("spec.price.schedule", [{**WINDOW, "timeZone": zone}])), {
            "spec.price.schedule.0.timeZone": zone,
        })
        for zone in _ZONES
    ),
    *BATCH_POLICIES,
)  # fmt: skip
