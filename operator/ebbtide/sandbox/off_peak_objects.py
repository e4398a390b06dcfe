"""The objects of `ebbtide demo --scenario off-peak`, as a batch team and a platform team would have applied them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from ebbtide.api.annotations import DEADLINE, EXPECTED_DURATION, RESTARTABLE
from ebbtide.clock import rfc3339
from ebbtide.sandbox import showcase
from ebbtide.sim import off_peak
from ebbtide.sim.off_peak import BatchJob
from ebbtide.sim.showcase import NAMESPACE

POLICY, LABEL = "nightly", "ebbtide.dev/batch"
GRACE_S = 5.0  # in which pods of a stopped Job go
Spans = Iterable[tuple[float, float]]


def pools(cheap: Spans) -> list[dict[str, Any]]:
    """The GPUPools, rented GPUs at the lower price in the spans that are `cheap` (unix seconds)."""
    found = [pool for pool in showcase.pools() if pool["metadata"]["name"] in (off_peak.PAID, off_peak.RENTED)]
    for pool in found:
        if pool["metadata"]["name"] == off_peak.RENTED:
            pool["spec"]["billing"] = "Pod"  # rented as it is held: its idle GPUs cost nobody anything
            pool["spec"]["price"]["schedule"] = [
                _window(*span) | {"perGPUHour": off_peak.CHEAP_PRICE} for span in cheap
            ]
    return found


def policy(cheap: Spans) -> dict[str, Any]:
    """The BatchPolicy: in the spans that are `cheap`, or at any time on idle GPUs that are paid for anyway."""
    return {
        "apiVersion": "ebbtide.dev/v1alpha1",
        "kind": "BatchPolicy",
        "metadata": {"name": POLICY, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {LABEL: POLICY}},
            "strategy": "IdleOrWindow",
            "windows": [_window(*span) for span in cheap],
            "pools": [off_peak.PAID, off_peak.RENTED],
            "preemption": {"gracePeriod": f"{GRACE_S:.0f}s"},
        },
    }


def job(spec: BatchJob, load_began_s: float) -> dict[str, Any]:
    """One Job, submitted suspended; `load_began_s`: unix seconds of second 0."""
    at_least_s, at_most_s = spec.pod_s
    annotations = {"sandbox.ebbtide.dev/run-for": f"{at_least_s:.1f}s"}
    annotations["sandbox.ebbtide.dev/run-for-at-most"] = f"{at_most_s:.1f}s"
    container = {
        "name": "work",
        "image": "registry.example.com/work:1.0",
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": spec.name,
            "namespace": NAMESPACE,
            "labels": {LABEL: POLICY},
            "annotations": {
                DEADLINE: rfc3339(load_began_s + spec.deadline_s),
                EXPECTED_DURATION: f"{spec.expected_s:.0f}s",
                RESTARTABLE: str(spec.restartable).lower(),
            },
        },
        "spec": {
            "suspend": True,
            "parallelism": spec.pods,
            "completions": spec.completions,
            "completionMode": "Indexed",
            "template": {
                "metadata": {"annotations": annotations},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": round(GRACE_S),
                    "containers": [container],
                },
            },
        },
    }


def _window(begin_s: float, end_s: float) -> dict[str, Any]:
    """Of whole minutes; once a day, so it opens once."""
    begins = datetime.fromtimestamp(begin_s, UTC)
    cron = f"{begins.minute} {begins.hour} * * *"
    return {"cron": cron, "timeZone": "UTC", "duration": f"{round((end_s - begin_s) / 60)}m"}
