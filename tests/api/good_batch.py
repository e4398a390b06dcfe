"""BatchPolicies that the API server must accept; see `good_objects`."""

from tests.api.bad_batch import NIGHTS
from tests.api.good_case import Good
from tests.api.samples import FULL_BATCH, batch_policy

BATCH_POLICIES = (
    Good("a batch policy of one label gets every default", batch_policy(), {
        "spec": {
            "selector": {"matchLabels": {"ebbtide.dev/batch": "nightly"}}, "strategy": "IdleOrWindow",
            "confidencePercent": "99", "preemption": {"allowed": True}, "priority": 100, "paused": False,
        },
    }),
    Good("a batch policy with every field keeps them", FULL_BATCH, {"spec": FULL_BATCH["spec"]}),
    Good("nights alone", batch_policy(("spec.strategy", "Window"), ("spec.windows", [NIGHTS])), {
        "spec.windows.0.duration": "9h",
    }),
    Good("holidays alone, a leap day among them", batch_policy(("spec.strategy", "Window"), (
        "spec.holidays", ["2028-02-29", "2026-12-25"],
    )), {"spec.holidays": ["2028-02-29", "2026-12-25"]}),
    Good("the same night twice is one", batch_policy(("spec.windows", [NIGHTS, NIGHTS])), {
        "spec.windows.1.cron": "0 22 * * *",
    }),
    Good("weekends in two time zones", batch_policy(("spec.windows", [
        {"cron": "0 0 * * SAT", "timeZone": zone, "duration": "48h"} for zone in ("Asia/Kathmandu", "UTC")
    ])), {"spec.windows.0.timeZone": "Asia/Kathmandu"}),
    Good("the cheapest hours, without any window", batch_policy(("spec.strategy", "Cheapest")), {
        "spec.strategy": "Cheapest",
    }),
    Good("a deadline of a day, and Jobs of three hours", batch_policy(
        ("spec.deadline", "24h"), ("spec.expectedDuration", "3h"),
    ), {"spec.deadline": "24h", "spec.expectedDuration": "3h"}),
    Good("Jobs that take exactly as long as they may", batch_policy(
        ("spec.deadline", "120m"), ("spec.expectedDuration", "2h"),
    ), {"spec.deadline": "120m"}),
    Good("a Job of half a second more than a minute", batch_policy(("spec.expectedDuration", "1m0.5s")), {
        "spec.expectedDuration": "1m0.5s",
    }),
    *(
        Good(f"sure to {text} percent is allowed", batch_policy(("spec.confidencePercent", text)), {
            "spec.confidencePercent": text,
        })
        for text in ("50", "95.5", "99.9")
    ),
    Good("Jobs that are never stopped", batch_policy(("spec.preemption.allowed", False)), {
        "spec.preemption": {"allowed": False},
    }),
    Good("pods that go at once", batch_policy(("spec.preemption.gracePeriod", "0s")), {
        "spec.preemption": {"allowed": True, "gracePeriod": "0s"},
    }),
    Good("no GPUs for now", batch_policy(("spec.maxGPUs", 0)), {"spec.maxGPUs": 0}),
    Good("a paused batch policy", batch_policy(("spec.paused", True)), {"spec.paused": True}),
)  # fmt: skip
