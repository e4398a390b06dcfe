"""CostPolicies that the API server must refuse; see `bad_objects`."""

from typing import Any

from tests.api.bad_case import Bad
from tests.api.samples import REMOVED, policy

_RAISE = {"perDay": "100", "until": "2026-12-24T18:00:00Z", "by": "ada", "reason": "launch"}
_THRESHOLD = {"period": "Day", "atPercent": 80, "actions": ["Notify"]}
_MONEY = "must be a decimal string, such as 500 or 1200.50, above 0 and at most 1000000000"


def _ceiling(text: str) -> Bad:
    wanted = ("spec.ceilings.perDay", f'"{text}"', _MONEY)
    return Bad(f"a day's ceiling of {text!r}", policy(("spec.ceilings", {"perDay": text})), wanted)


def _currency(text: str, *wanted: str) -> Bad:
    return Bad(f"policy in {text!r}", policy(("spec.currency", text)), ("spec.currency", *wanted))


def _reserve(text: str) -> Bad:
    wanted = ("spec.outageReserve", f'"{text}"', "must be a duration from 0s to 24h, such as 15m or 1h")
    return Bad(f"an outage reserve of {text!r}", policy(("spec.outageReserve", text)), wanted)


def _month(day: Any, *wanted: str) -> Bad:
    return Bad(
        f"months that begin on day {day!r}", policy(("spec.monthStartsOn", day)), ("spec.monthStartsOn", *wanted)
    )


POLICIES = (
    *(_ceiling(text) for text in ("0", "-5", "5e3", "500 USD", "1,000", "1000000000.01", "", "NaN")),
    Bad(
        "a ceiling that is a number",
        policy(("spec.ceilings", {"perDay": 500})),
        ("spec.ceilings.perDay", "must be of type string"),
    ),
    Bad(
        "no ceiling at all",
        policy(("spec.ceilings", {})),
        ("spec.ceilings", "needs one of perHour, perDay and perMonth"),
    ),
    Bad("without ceilings", policy(("spec.ceilings", REMOVED)), ("spec.ceilings", "Required value")),
    Bad("a policy without a currency", policy(("spec.currency", REMOVED)), ("spec.currency", "Required value")),
    _currency("usd", '"usd"', "must be the three capital letters of an ISO 4217 currency"),
    _currency("US", "at least 3"),
    _currency("USDT", "may not be more than 3"),
    Bad(
        "a policy that changes its currency",
        policy(("spec.currency", "EUR")),
        ("spec.currency", "cannot change from USD to EUR", "make another policy"),
        before=policy(),
    ),
    _reserve("15"),
    _reserve("25h"),
    _reserve("-1m"),
    Bad(
        "a policy in no time zone",
        policy(("spec.timeZone", "Europe Berlin")),
        ("spec.timeZone", '"Europe Berlin"', "such as UTC or Europe/Berlin"),
    ),
    _month(0, "greater than or equal to 1"),
    _month(29, "less than or equal to 28"),
    _month("1", "must be of type integer"),
    Bad(
        "a floor that is none",
        policy(("spec.floor", "KeepAll")),
        ("spec.floor", '"KeepAll"', '"KeepMin", "AllowZero"'),
    ),
    Bad(
        "a scope that is none",
        policy(("spec.scope", "Everything")),
        ("spec.scope", '"Everything"', '"Managed", "AllGPUPods"'),
    ),
    Bad(
        "others' pods by labels of services",
        policy(("spec.scope", "AllGPUPods"), ("spec.selector", {"matchLabels": {"tier": "gold"}})),
        ("spec.selector.matchLabels", "is for scope Managed"),
    ),
    Bad(
        "a raise of a ceiling that there is not",
        policy(("spec.temporaryRaise", {**_RAISE, "perMonth": "5"})),
        ("spec.temporaryRaise", "can only raise a ceiling that there is"),
    ),
    Bad(
        "a raise of nothing",
        policy(("spec.temporaryRaise", {key: value for key, value in _RAISE.items() if key != "perDay"})),
        ("spec.temporaryRaise", "needs one of perHour, perDay and perMonth"),
    ),
    Bad(
        "a raise without an end",
        policy(("spec.temporaryRaise", {key: value for key, value in _RAISE.items() if key != "until"})),
        ("spec.temporaryRaise.until", "Required value"),
    ),
    Bad(
        "a raise by nobody",
        policy(("spec.temporaryRaise", {**_RAISE, "by": ""})),
        ("spec.temporaryRaise.by", "should be at least 1 chars long"),
    ),
    Bad(
        "a raise until a day",
        policy(("spec.temporaryRaise", {**_RAISE, "until": "2026-12-24"})),
        ("spec.temporaryRaise.until", '"2026-12-24"'),
    ),
    Bad(
        "an exchange rate of nothing",
        policy(("spec.exchangeRates", [{"currency": "EUR", "rate": "0"}])),
        ("spec.exchangeRates[0].rate", '"0"', "such as 1.08"),
    ),
    Bad(
        "an exchange rate of what is no currency",
        policy(("spec.exchangeRates", [{"currency": "eur", "rate": "1.08"}])),
        ("spec.exchangeRates[0].currency", '"eur"', "ISO 4217"),
    ),
    Bad(
        "an exchange rate of the policy's own currency",
        policy(("spec.exchangeRates", [{"currency": "USD", "rate": "1.08"}])),
        ("spec.exchangeRates", "are for other currencies: what one unit of the policy's own is worth is 1"),
    ),
    Bad(
        "a threshold of a rate",
        policy(("spec.thresholds", [{**_THRESHOLD, "period": "Hour"}])),
        ("spec.thresholds[0].period", '"Hour"', '"Day", "Month"'),
    ),
    Bad(
        "a threshold without its ceiling",
        policy(("spec.thresholds", [{**_THRESHOLD, "period": "Month"}])),
        ("spec.thresholds", "each needs the ceiling of its period"),
    ),
    Bad(
        "a threshold at nothing",
        policy(("spec.thresholds", [{**_THRESHOLD, "atPercent": 0}])),
        ("spec.thresholds[0].atPercent", "greater than or equal to 1"),
    ),
    Bad(
        "a threshold that does nothing",
        policy(("spec.thresholds", [{**_THRESHOLD, "actions": []}])),
        ("spec.thresholds[0].actions", "at least 1 items"),
    ),
    Bad(
        "a threshold that does what there is not",
        policy(("spec.thresholds", [{**_THRESHOLD, "actions": ["Page"]}])),
        (
            "spec.thresholds[0].actions[0]",
            '"Page"',
            '"Notify", "HoldScaleUp", "UseDegraded", "LimitLowPriority", "SuspendBatch", "Freeze"',
        ),
    ),
    Bad(
        "the same threshold twice",
        policy(("spec.thresholds", [_THRESHOLD, {**_THRESHOLD, "actions": ["Freeze"]}])),
        ("spec.thresholds[1]", "Duplicate value"),
    ),
    Bad(
        "a basis that is none",
        policy(("spec.thresholds", [{**_THRESHOLD, "basis": "Committed"}])),
        ("spec.thresholds[0].basis", '"Committed"', '"Spent", "Forecast"'),
    ),
    Bad(
        "a rate alone that is to be paced",
        policy(("spec.ceilings", {"perHour": "10"}), ("spec.pacing", "Smooth")),
        ("spec.pacing", "Smooth needs a ceiling perDay or perMonth"),
    ),
    Bad(
        "a pacing that is none",
        policy(("spec.pacing", "Even")),
        ("spec.pacing", '"Even"', '"None", "Smooth"'),
    ),
    Bad(
        "an answer to outsiders that is none",
        policy(("spec.onExternalScale", "Revert")),
        ("spec.onExternalScale", '"Revert"', '"Compensate", "Correct"'),
    ),
    Bad(
        "a namespace that is none",
        policy(("spec.selector", {"namespaces": ["Team_A"]})),
        ("spec.selector.namespaces[0]", '"Team_A"', "must be the name of a namespace"),
    ),
    Bad(
        "a namespace twice",
        policy(("spec.selector", {"namespaces": ["a", "a"]})),
        ("spec.selector.namespaces[1]", "Duplicate value"),
    ),
    Bad(
        "a label key that is none",
        policy(("spec.selector", {"matchLabels": {"a b": "c"}})),
        ("spec.selector.matchLabels", "each key must be a label name"),
    ),
    Bad(
        "a label value that is none",
        policy(("spec.selector", {"matchLabels": {"a": "b c"}})),
        ("spec.selector.matchLabels", '"b c"', "must be a label value"),
    ),
)
