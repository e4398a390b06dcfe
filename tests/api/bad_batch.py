"""BatchPolicies that the API server must refuse; see `bad_objects`."""

from typing import Any

from tests.api.bad_case import Bad
from tests.api.samples import REMOVED, batch_policy

NIGHTS = {"cron": "0 22 * * *", "timeZone": "Europe/Berlin", "duration": "9h"}
_CRON = "must be five fields: minute (0-59) hour (0-23)"
_DAY = "must be a day that the calendar has, from 2000 to 2099, such as 2026-12-25"
_SURE = "must be a percentage from 50 to 99.9 as a decimal string without a percent sign, such as 95 or 99"


def _window(name: str, change: dict[str, Any], *wanted: str) -> Bad:
    (field,) = change
    return Bad(name, batch_policy(("spec.windows", [{**NIGHTS, **change}])), (f"spec.windows[0].{field}", *wanted))


def _duration(field: str, text: str, bounds: str) -> Bad:
    wanted = (f"spec.{field}", f'"{text}"', f"must be a duration from {bounds}")
    return Bad(f"batch {field} of {text!r}", batch_policy((f"spec.{field}", text)), wanted)


def _holiday(text: str) -> Bad:
    return Bad(f"a holiday on {text!r}", batch_policy(("spec.holidays", [text])), ("spec.holidays[0]", text, _DAY))


def _sure(text: str) -> Bad:
    wanted = ("spec.confidencePercent", f'"{text}"', _SURE)
    return Bad(f"sure to {text!r} percent", batch_policy(("spec.confidencePercent", text)), wanted)


BATCH_POLICIES = (
    Bad(
        "a batch policy that selects nothing",
        batch_policy(("spec.selector", REMOVED)),
        ("spec.selector", "Required value"),
    ),
    Bad(
        "a batch policy for every Job of the namespace",
        batch_policy(("spec.selector.matchLabels", {})),
        ("spec.selector.matchLabels", "should have at least 1 properties"),
    ),
    Bad(
        "a batch policy by a selector without labels",
        batch_policy(("spec.selector", {})),
        ("spec.selector.matchLabels", "Required value"),
    ),
    Bad(
        "a batch label key that is none",
        batch_policy(("spec.selector.matchLabels", {"a b": "c"})),
        ("spec.selector.matchLabels", "each key must be a label name"),
    ),
    Bad(
        "a batch label value that is none",
        batch_policy(("spec.selector.matchLabels", {"a": "b c"})),
        ("spec.selector.matchLabels[a]", '"b c"', "must be a label value"),
    ),
    Bad(
        "a strategy that is none",
        batch_policy(("spec.strategy", "Idle")),
        ("spec.strategy", '"Idle"', '"Window", "IdleOrWindow", "Cheapest"'),
    ),
    Bad(
        "windows alone, and none of them",
        batch_policy(("spec.strategy", "Window")),
        ("spec.strategy", "Window needs windows or holidays: without any no Job would ever start"),
    ),
    Bad(
        "windows alone, and an empty list",
        batch_policy(("spec.strategy", "Window"), ("spec.windows", []), ("spec.holidays", [])),
        ("spec.strategy", "Window needs windows or holidays"),
    ),
    _window("a window at no time", {"cron": "at night"}, '"at night"', _CRON),
    _window("a window that opens at 24:00", {"cron": "0 24 * * *"}, '"0 24 * * *"', _CRON),
    _window("a window with hours that go back", {"cron": "0 22-6 * * *"}, '"0 22-6 * * *"', "for 22-6 write 22-23,0-6"),
    _window("a window in no time zone", {"timeZone": "Europe Berlin"}, '"Europe Berlin"', "such as UTC or Europe"),
    _window("a window that closes as it opens", {"duration": "0s"}, '"0s"', "must be a duration from 1m to 168h"),
    _window("a window of more than a week", {"duration": "169h"}, '"169h"', "must be a duration from 1m to 168h"),
    *(
        Bad(
            f"a window without {field}",
            batch_policy(("spec.windows", [{key: value for key, value in NIGHTS.items() if key != field}])),
            (f"spec.windows[0].{field}", "Required value"),
        )
        for field in NIGHTS
    ),
    *(_holiday(text) for text in ("Christmas", "25.12.2026", "2026-13-01", "2026-04-31", "2026-02-29", "2026-12-2")),
    Bad(
        "a holiday twice",
        batch_policy(("spec.holidays", ["2026-12-25", "2026-12-25"])),
        ("spec.holidays[1]", "Duplicate value"),
    ),
    Bad(
        "101 holidays",
        batch_policy(("spec.holidays", [f"20{year:02}-12-25" for year in range(100)] + ["2026-12-26"])),
        ("spec.holidays", "must have at most 100 items"),
    ),
    Bad(
        "a pool that is no name",
        batch_policy(("spec.pools", ["H100 Spot"])),
        ("spec.pools[0]", '"H100 Spot"', "must be lower-case letters, digits, - and ."),
    ),
    Bad(
        "a batch pool twice",
        batch_policy(("spec.pools", ["h100", "h100"])),
        ("spec.pools[1]", "Duplicate value"),
    ),
    Bad(
        "33 batch pools",
        batch_policy(("spec.pools", [f"pool-{number}" for number in range(33)])),
        ("spec.pools", "must have at most 32 items"),
    ),
    Bad(
        "fewer than no GPUs",
        batch_policy(("spec.maxGPUs", -1)),
        ("spec.maxGPUs", "-1", "greater than or equal to 0"),
    ),
    Bad("GPUs in words", batch_policy(("spec.maxGPUs", "8")), ("spec.maxGPUs", "must be of type integer")),
    _duration("deadline", "tomorrow", "1m to 8784h, such as 8h or 24h"),
    _duration("deadline", "30s", "1m to 8784h"),
    _duration("deadline", "1d", "1m to 8784h"),
    _duration("deadline", "8785h", "1m to 8784h"),
    _duration("expectedDuration", "0s", "1s to 744h, such as 45m or 3h"),
    _duration("expectedDuration", "-3h", "1s to 744h"),
    Bad(
        "a Job that runs longer than it may take",
        batch_policy(("spec.deadline", "2h"), ("spec.expectedDuration", "2h1s")),
        ("spec.expectedDuration", "must not be longer than deadline: no Job could end in time"),
    ),
    *(_sure(text) for text in ("100", "49.9", "99%", "0.99", "-99", "9e1", "")),
    Bad(
        "sure to a number",
        batch_policy(("spec.confidencePercent", 99)),
        ("spec.confidencePercent", "must be of type string"),
    ),
    Bad(
        "preemption in words",
        batch_policy(("spec.preemption", {"allowed": "yes"})),
        ("spec.preemption.allowed", "must be of type boolean"),
    ),
    Bad(
        "a grace of two days",
        batch_policy(("spec.preemption", {"gracePeriod": "48h"})),
        ("spec.preemption.gracePeriod", '"48h"', "must be a duration from 0s to 24h, such as 30s or 10m"),
    ),
    Bad(
        "a batch priority below 0",
        batch_policy(("spec.priority", -1)),
        ("spec.priority", "-1", "greater than or equal to 0"),
    ),
    Bad(
        "a batch priority above 1000",
        batch_policy(("spec.priority", 1001)),
        ("spec.priority", "1001", "less than or equal to 1000"),
    ),
    Bad("a pause in words", batch_policy(("spec.paused", "yes")), ("spec.paused", "must be of type boolean")),
)
