"""Objects to start from: the smallest ones, and ones with every field set, status included."""

import copy
from collections.abc import Sequence
from typing import Any

Object = dict[str, Any]
Path = Sequence[str | int]

API_VERSION = "ebbtide.dev/v1alpha1"

MINIMAL_SERVICE: Object = {
    "apiVersion": API_VERSION,
    "kind": "InferenceService",
    "metadata": {"name": "chat", "namespace": "default"},
    "spec": {
        "model": {"name": "llama-3-8b"},
        "variants": [
            {
                "name": "h100",
                "pool": "h100-on-demand",
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat-h100"},
            }
        ],
    },
}

MINIMAL_POOL: Object = {
    "apiVersion": API_VERSION,
    "kind": "GPUPool",
    "metadata": {"name": "h100-on-demand"},
    "spec": {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}},
}

_CONDITION: Object = {
    "type": "Ready",
    "status": "True",
    "reason": "WithinTarget",
    "message": "2 replicas carry 8.1 requests/s of 7.4 expected",
    "lastTransitionTime": "2026-01-31T09:05:00Z",
    "observedGeneration": 1,
}

FULL_SERVICE: Object = {
    "apiVersion": API_VERSION,
    "kind": "InferenceService",
    "metadata": {"name": "full", "namespace": "default"},
    "spec": {
        "mode": "Auto",
        "model": {"name": "meta-llama/Llama-3-8B", "parameters": "8B"},
        "objectives": {"timeToFirstToken": "500ms", "interTokenLatency": "50ms", "attainment": "99.9", "window": "12h"},
        "priority": 200,
        "serviceClass": "Background",
        "variants": [
            {
                "name": "h100",
                "pool": "h100-on-demand",
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat-h100"},
                "gpusPerReplica": 1,
                "minReplicas": 0,
                "maxReplicas": 8,
                "capacity": {"requestsPerSecond": "4.5", "inputTokens": 1024, "outputTokens": 256},
            },
            {
                "name": "l40s",
                "pool": "l40s-on-demand",
                "degraded": True,
                "engine": {
                    "type": "vLLM",
                    "image": "vllm/vllm-openai:v0.32.0",
                    "args": ["--max-num-seqs=128"],
                    "env": [{"name": "LOG_LEVEL", "value": "info"}],
                    "port": 8000,
                    "deletionPolicy": "Delete",
                    "podTemplate": {
                        "metadata": {"labels": {"team": "chat"}, "annotations": {"example.com/note": "hello"}},
                        "spec": {"priorityClassName": "interactive"},
                    },
                },
            },
        ],
        "scaling": {
            "minReplicas": 0,
            "maxReplicas": 12,
            "up": {"delay": "10s", "maxPerMinute": 20},
            "down": {"delay": "1m30s", "maxPerMinute": 5},
            "scaleToZero": {
                "after": "15m",
                "activator": {
                    "url": "http://chat-epp.default:9090/metrics",
                    "metrics": ["llm_d_epp_flow_control_queue_size"],
                    "labels": {"inference_pool": "chat"},
                },
            },
            "pause": {
                "direction": "All",
                "replicas": 3,
                "until": "2026-12-24T18:00:00Z",
                "reason": "load test",
                "by": "ada",
            },
        },
        "alternative": {"currency": "USD", "perMillionInputTokens": "0.15", "perMillionOutputTokens": "0.60"},
    },
    "status": {
        "observedGeneration": 1,
        "conditions": [_CONDITION],
        "replicas": {"observed": 2, "ready": 2, "wanted": 3, "allowed": 2},
        "variants": [
            {
                "name": "h100",
                "observed": 2,
                "ready": 2,
                "starting": 0,
                "wanted": 3,
                "allowed": 2,
                "limitedBy": "CeilingReached",
                "limitedByPolicy": "full",
                "payable": 5,
                "payableBecause": "CostPolicy full: 5.00 USD an hour now (as of 2026-01-31T09:05:00Z)",
                "capacity": {
                    "requestsPerSecond": "4.5",
                    "low": "3.9",
                    "high": "5.2",
                    "source": "declared",
                    "evidence": "declared in the spec",
                },
                "startupSeconds": 48,
            },
            {"name": "l40s", "degraded": True, "observed": 0, "ready": 0, "starting": 0, "wanted": 0, "allowed": 0},
        ],
        "demand": {"requestsPerSecond": "7.4", "inputTokens": 1024, "outputTokens": 256, "backlog": 0},
        "forecast": {
            "horizonSeconds": 48,
            "expected": "7.9",
            "low": "7.1",
            "high": "8.8",
            "method": "trend",
            "requestsPerSecond": "7.7",
            "inputTokensPerSecond": "7890",
            "outputTokensPerSecond": "1970",
            "score": {
                "errors": 31,
                "coverage": "0.94",
                "bias": "1.02",
                "pinballLow": "0.004",
                "pinballMedian": "0.031",
                "pinballHigh": "0.006",
            },
        },
        "spendPerHour": "5.00",
        "currency": "USD",
        "cost": {
            "currency": "USD",
            "perHour": "5.00",
            "idleShare": "0.18",
            "allocation": {"perMillionInputTokens": "0.11", "perMillionOutputTokens": "0.22"},
            "usage": {"perMillionInputTokens": "0.09", "perMillionOutputTokens": "0.18"},
            "monthToDate": {
                "amount": "3120.55",
                "currency": "USD",
                "from": "2026-01-01T00:00:00Z",
                "through": "2026-01-31T09:04:00Z",
            },
        },
        "alternative": {
            "message": "an API at 0.15 and 0.60 USD for a million input and output tokens; 5.00 USD an hour here",
            "currency": "USD",
            "perHour": "8.40",
            "tokensPerDay": 852000000,
            "breakEvenTokensPerDay": 500000000,
            "utilisation": "0.82",
            "breakEvenUtilisation": "0.48",
            "payBackDays": 420,
        },
        "reason": "Paused",
        "message": "held at 2: paused by ada",
        "decisions": [
            {
                "at": "2026-01-31T09:05:00Z",
                "id": "sha256:0123abcd",
                "reason": "DemandRose",
                "message": "7.9 requests/s expected in 48 s, one replica carries 4.5",
                "from": 1,
                "to": 2,
            }
        ],
    },
}

FULL_POOL: Object = {
    "apiVersion": API_VERSION,
    "kind": "GPUPool",
    "metadata": {"name": "full"},
    "spec": {
        "provisioning": "Autoscaled",
        "capacityType": "Spot",
        "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "pool": "spot"},
        "resource": "nvidia.com/gpu",
        "accelerator": "H100-80GB",
        "tolerations": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}],
        "interruptionTaints": [{"key": "example.com/interruption", "value": "soon", "effect": "NoExecute"}],
        "price": {
            "perGPUHour": "2.50",
            "currency": "USD",
            "schedule": [{"cron": "0 22 * * 1-5", "timeZone": "Europe/Berlin", "duration": "8h", "perGPUHour": "1.25"}],
            "effectiveFrom": "2026-01-01T00:00:00Z",
        },
        "billing": "Pod",
        "limits": {"maxGPUs": 64},
        "nodeLeadTime": "3m",
    },
    "status": {
        "observedGeneration": 1,
        "conditions": [_CONDITION],
        "nodes": 2,
        "gpus": {"total": 16, "allocated": 12, "free": 4},
        "pricePerGPUHour": "2.50",
        "currency": "USD",
        "nextPriceChange": {"at": "2026-01-31T21:00:00Z", "pricePerGPUHour": "1.25"},
        "lastPrice": {"perGPUHour": "2.50", "currency": "USD"},
        "leadTimeSeconds": 180,
        "releaseTimeSeconds": 640,
    },
}

MINIMAL_POLICY: Object = {
    "apiVersion": API_VERSION,
    "kind": "CostPolicy",
    "metadata": {"name": "team-a"},
    "spec": {"currency": "USD", "ceilings": {"perDay": "500"}},
}

FULL_POLICY: Object = {
    "apiVersion": API_VERSION,
    "kind": "CostPolicy",
    "metadata": {"name": "full"},
    "spec": {
        "selector": {"namespaces": ["team-a", "team-b"], "matchLabels": {"tier": "gold"}},
        "scope": "Managed",
        "outageReserve": "10m",
        "currency": "EUR",
        "exchangeRates": [{"currency": "USD", "rate": "0.92"}],
        "ceilings": {"perHour": "120", "perDay": "1500.50", "perMonth": "30000"},
        "temporaryRaise": {
            "perHour": "20",
            "perDay": "300",
            "perMonth": "1000",
            "until": "2026-12-24T18:00:00Z",
            "by": "ada",
            "reason": "launch",
        },
        "timeZone": "Europe/Berlin",
        "monthStartsOn": 15,
        "floor": "AllowZero",
        "thresholds": [
            {"period": "Day", "atPercent": 80, "basis": "Spent", "actions": ["Notify", "UseDegraded", "HoldScaleUp"]},
            {"period": "Month", "atPercent": 100, "basis": "Forecast", "actions": ["LimitLowPriority", "Freeze"]},
        ],
        "pacing": "Smooth",
        "onExternalScale": "Correct",
    },
    "status": {
        "observedGeneration": 1,
        "conditions": [_CONDITION],
        "reason": "WithinCeilings",
        "allowedPerHour": "62.50",
        "pacedPriorities": [{"priority": 50, "allowedPerHour": "12.50"}],
        "forecastScore": {"days": 12, "meanErrorPercent": 7, "inRangePercent": 83},
        "thresholds": [
            {
                "period": "Day",
                "basis": "Spent",
                "atPercent": 80,
                "begin": "2026-01-30T23:00:00Z",
                "reachedAt": "2026-01-31T08:12:00Z",
                "acting": True,
            }
        ],
        "nextThreshold": {"period": "Month", "basis": "Forecast", "atPercent": 100, "missing": "1200.00"},
        "message": "4 services spend 80.00 EUR/h",
        "accruedThrough": "2026-01-31T09:05:00Z",
        "periods": [
            {"period": "Hour", "ceiling": "120", "spent": "80.00", "committed": "80.00", "left": "40.00"},
            {
                "period": "Day",
                "begin": "2026-01-30T23:00:00Z",
                "end": "2026-01-31T23:00:00Z",
                "ceiling": "1500.50",
                "spent": "801.23",
                "committed": "22.10",
                "left": "677.17",
                "unpricedGPUHours": "1.25",
                "unpriced": [{"pool": "h100-onprem", "gpuHours": "1.25"}],
                "forecast": {
                    "expected": "1650.00",
                    "low": "1540.25",
                    "high": "1810.40",
                    "underCeilings": "1500.00",
                    "exceededAt": "2026-01-31T21:10:00Z",
                },
            },
        ],
        "services": 4,
        "ratePerHour": "80.00",
        "wantedPerHour": "95.00",
        "uncontrollablePerHour": "12.50",
        "overrunCause": "OperatorDown",
        "overruns": [
            {
                "period": "Day",
                "cause": "OperatorDown",
                "amount": "35.26",
                "begin": "2026-01-30T23:00:00Z",
                "since": "2026-01-31T04:00:00Z",
                "seenAt": "2026-01-31T07:00:00Z",
            }
        ],
        "unpricedGPUs": 0,
        "lastRead": {"generation": 3, "spec": '{"currency": "USD"}'},
        "gaveWay": [{"service": "team-b/batchy", "replicas": 2}],
    },
}

MINIMAL_BATCH: Object = {
    "apiVersion": API_VERSION,
    "kind": "BatchPolicy",
    "metadata": {"name": "nightly", "namespace": "default"},
    "spec": {"selector": {"matchLabels": {"ebbtide.dev/batch": "nightly"}}},
}

FULL_BATCH: Object = {
    "apiVersion": API_VERSION,
    "kind": "BatchPolicy",
    "metadata": {"name": "full", "namespace": "default"},
    "spec": {
        "selector": {"matchLabels": {"ebbtide.dev/batch": "nightly", "team": "search"}},
        "strategy": "Window",
        "windows": [{"cron": "0 22 * * 1-5", "timeZone": "Europe/Berlin", "duration": "9h"}],
        "holidays": ["2026-12-25", "2026-12-26"],
        "pools": ["h100-reserved", "h100-spot"],
        "maxGPUs": 64,
        "deadline": "24h",
        "expectedDuration": "3h",
        "confidencePercent": "99",
        "preemption": {"allowed": True, "gracePeriod": "10m"},
        "priority": 200,
        "paused": True,
    },
    "status": {
        "observedGeneration": 1,
        "conditions": [_CONDITION],
        "reason": "JobsWait",
        "message": "12 Jobs wait for 22:00",
        "queued": 12,
        "running": 3,
        "stopped": 1,
        "impossible": 1,
        "suspendedByUsers": 1,
        "missed": 0,
        "gpus": 24,
        "nextStart": "2026-01-31T21:00:00Z",
        "nextWindow": "2026-01-31T21:00:00Z",
        "jobs": [
            {
                "name": "embed-7",
                "outcome": "Waits",
                "pool": "h100-reserved",
                "gpus": 8,
                "start": "2026-01-31T21:00:00Z",
                "end": "2026-02-01T00:10:00Z",
                "mustStartBy": "2026-02-01T02:40:00Z",
                "deadline": "2026-02-01T07:00:00Z",
                "late": False,
                "reason": "waits for 21:00 UTC, in a window of its policy, on h100-reserved",
            }
        ],
        "saved": {"amount": "-12.40", "currency": "EUR"},
    },
}

MINIMAL = {
    "InferenceService": MINIMAL_SERVICE,
    "GPUPool": MINIMAL_POOL,
    "CostPolicy": MINIMAL_POLICY,
    "BatchPolicy": MINIMAL_BATCH,
}
FULL = {"InferenceService": FULL_SERVICE, "GPUPool": FULL_POOL, "CostPolicy": FULL_POLICY, "BatchPolicy": FULL_BATCH}
# each says what another may not say beside it
OWNED_POOL: Object = {
    **FULL_POOL,
    "metadata": {"name": "owned"},
    "spec": {
        **FULL_POOL["spec"],
        "capacityType": "OnPrem",
        "price": {
            "onPrem": {
                "capitalPerGPU": "32000",
                "amortisationYears": "4",
                "wattsPerGPU": 1000,
                "powerUsageEffectiveness": "1.4",
                "electricity": {
                    "perKWh": "0.24",
                    "schedule": [
                        {"cron": "0 22 * * *", "timeZone": "Europe/Berlin", "duration": "8h", "perKWh": "0.18"}
                    ],
                },
            },
            "currency": "EUR",
        },
    },
}
LISTED_POOL: Object = {
    **FULL_POOL,
    "metadata": {"name": "listed"},
    "spec": {
        **FULL_POOL["spec"],
        "price": {"source": {"type": "Table", "item": "p5.48xlarge-spot"}, "currency": "USD"},
    },
}
FREE_POOL: Object = {
    **FULL_POOL,
    "metadata": {"name": "free"},
    "spec": {**FULL_POOL["spec"], "price": {"free": "paid by the grant of 2026", "currency": "USD"}},
}
ALL_FULL = {
    "InferenceService": (FULL_SERVICE,),
    "GPUPool": (FULL_POOL, OWNED_POOL, LISTED_POOL, FREE_POOL),
    "CostPolicy": (FULL_POLICY,),
    "BatchPolicy": (FULL_BATCH,),
}
PLURALS = {
    "InferenceService": "inferenceservices",
    "GPUPool": "gpupools",
    "CostPolicy": "costpolicies",
    "BatchPolicy": "batchpolicies",
}

REMOVED = object()


def changed(obj: Object, *changes: tuple[str, Any]) -> Object:
    """A copy with `("spec.variants.0.pool", "x")` set, or removed with REMOVED; missing parents are made."""
    result = copy.deepcopy(obj)
    for dotted, value in changes:
        set_at(result, [int(part) if part.isdigit() else part for part in dotted.split(".")], value)
    return result


def set_at(obj: Object, path: Path, value: Any) -> None:
    parent: Any = obj
    for part in path[:-1]:
        parent = parent[part] if isinstance(parent, list) else parent.setdefault(part, {})
    if value is REMOVED:
        del parent[path[-1]]
    elif isinstance(parent, list) and path[-1] == len(parent):
        parent.append(value)
    else:
        parent[path[-1]] = value


def get_at(obj: Any, path: Path) -> Any:
    for part in path:
        obj = obj[part]
    return obj


def service(*changes: tuple[str, Any]) -> Object:
    return changed(MINIMAL_SERVICE, *changes)


def pool(*changes: tuple[str, Any]) -> Object:
    return changed(MINIMAL_POOL, *changes)


def policy(*changes: tuple[str, Any]) -> Object:
    return changed(MINIMAL_POLICY, *changes)


def batch_policy(*changes: tuple[str, Any]) -> Object:
    return changed(MINIMAL_BATCH, *changes)


def variant(name: str, **more: Any) -> Object:
    """A variant with a target of its own."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"chat-{name}"}
    return {"name": name, "pool": "h100-on-demand", "scaleTargetRef": target, **more}
