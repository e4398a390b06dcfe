"""Builds the status objects from a plan. Pure: the previous status and the time are arguments.

Numbers become integers or decimal strings (the API has no floats); an object is kept under 16 KiB by shortening what
explains, never what decides.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import ROUND_UP, Decimal
from functools import partial
from typing import Any

import msgspec

from ebbtide.clock import rfc3339
from ebbtide.model.plan import (
    AlternativePlan,
    Capacity,
    CeilingPlan,
    Condition,
    ConditionStatus,
    Forecast,
    Outlook,
    PolicyPlan,
    PoolPlan,
    ServicePlan,
    TokenPrices,
    UnreadablePlan,
    VariantPlan,
)
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import BATCH_KIND, POLICY_KIND, POOL_KIND, SERVICE_KIND, Overrun, PoolState, Reached
from ebbtide.model.spec import CeilingKind

MAX_BYTES = 16 * 1024
MAX_DECISIONS = 10
# of a policy: what it has spent, why that is too much, and its spec
_REMEMBERED = (
    "periods",
    "accruedThrough",
    "ratePerHour",
    "overrunCause",
    "overruns",
    "lastRead",
)
_BATCH_REMEMBERED = ("missed", "saved")  # since the policy was first seen
_MOST_WORDS = 280  # of why no more are payable; the moment follows
_SMALLEST = Decimal("0.000001")
_MOST_POOLS = 16  # without a price that are listed

# Present on every object from the first visit on, Unknown until looked at
SERVICE_CONDITIONS = (
    "Ready",
    "TargetResolved",
    "MetricsFresh",
    "CapacityKnown",
    "TrafficBalanced",
    "PricesKnown",
    "SLOAttainable",
    "RequestsAdmitted",
    "Acting",
)
# Only on services with a vLLM among their variants
ENGINE_CONDITIONS = ("EngineDrains",)
# Only on services with a degraded variant
DEGRADED_CONDITIONS = ("Degraded",)
# Only on Background services
BACKGROUND_CONDITIONS = ("GPUsLent",)
POOL_CONDITIONS = ("Ready", "PricesKnown")
POLICY_CONDITIONS = ("Ready", "WithinCeilings", "PricesKnown", "Selects")
BATCH_CONDITIONS = ("Ready", "DeadlinesKept", "Placeable", "Undisputed")
_KNOWN = {
    SERVICE_KIND: SERVICE_CONDITIONS,
    POOL_KIND: POOL_CONDITIONS,
    POLICY_KIND: POLICY_CONDITIONS,
    BATCH_KIND: BATCH_CONDITIONS,
}

# Alone they change nothing and pass by themselves: a decision is not made of them
_PASSING = frozenset(
    {
        Code.WITHIN_TARGET,
        Code.PODS_STARTING,
        Code.ROLLOUT_IN_PROGRESS,
        Code.DOWN_DELAY,
        Code.UP_DELAY,
        Code.RATE_LIMITED,
        Code.WARMING_UP,
        Code.NO_LOAD_SEEN,
    }
)

Status = dict[str, Any]


def service_status(
    plan: ServicePlan, generation: int, previous: Mapping[str, Any], now_s: float, decision_id: str
) -> Status:
    """The whole status of one service, at most 16 KiB. `previous` is what was last written, {} before the first."""
    status: Status = {
        "observedGeneration": generation,
        "conditions": conditions(plan.conditions, SERVICE_CONDITIONS, previous, generation, now_s),
        "replicas": _totals(plan),
        "variants": [_variant(variant, now_s) for variant in plan.variants],
        "reason": plan.reason.code.value,
        "message": plan.reason.text[:1024],
    }
    if plan.demand is not None:
        status["demand"] = {
            "requestsPerSecond": decimal(plan.demand.requests_per_second),
            "inputTokens": round(plan.demand.input_tokens),
            "outputTokens": round(plan.demand.output_tokens),
            "backlog": round(plan.demand.backlog),
        }
    if plan.forecast is not None:
        status["forecast"] = _forecast(plan.forecast)
    if plan.spend_per_hour is not None and plan.currency:
        status |= {"spendPerHour": money(plan.spend_per_hour), "currency": plan.currency}
    cost = _cost(plan, previous.get("cost") or {}, now_s)
    if cost:
        status["cost"] = cost
    if plan.alternative is not None:
        status["alternative"] = _alternative(plan.alternative)
    history = decisions(plan, previous.get("decisions") or (), now_s, decision_id)
    if history:
        status["decisions"] = history
    return fitted(status)


def unreadable_status(plan: UnreadablePlan, generation: int, previous: Mapping[str, Any], now_s: float) -> Status:
    """The whole status of an object that cannot be read: no number of it would be true. What was decided stays."""
    service = plan.kind == SERVICE_KIND
    known = _KNOWN[plan.kind]
    status: Status = {
        "observedGeneration": generation,
        "conditions": conditions(plan.conditions, known, previous, generation, now_s),
    }
    if service:
        status |= {"reason": plan.reason.code.value, "message": plan.reason.text[:1024]}
        if previous.get("decisions"):
            status["decisions"] = list(previous["decisions"])
    remembered = {POLICY_KIND: _REMEMBERED, BATCH_KIND: _BATCH_REMEMBERED}.get(plan.kind, ())
    status |= {key: previous[key] for key in remembered if key in previous}
    return fitted(status)


def pool_status(plan: PoolPlan, state: PoolState, previous: Mapping[str, Any], now_s: float) -> Status:
    """The whole status of one pool."""
    generation = state.spec.generation
    status: Status = {
        "observedGeneration": generation,
        "conditions": conditions(plan.conditions, POOL_CONDITIONS, previous, generation, now_s),
        "nodes": plan.nodes,
        "gpus": {"total": plan.gpus, "allocated": plan.allocated, "free": max(0, plan.free)},
    }
    if state.price_per_gpu_hour is not None and state.currency:
        status |= {"pricePerGPUHour": money(state.price_per_gpu_hour), "currency": state.currency}
    if state.spec.price is not None and state.spec.price.source is not None:
        known = state.price_per_gpu_hour is not None and state.currency
        now = {"perGPUHour": _exact(state.price_per_gpu_hour or Decimal(0)), "currency": state.currency}
        last = now if known else previous.get("lastPrice")
        status |= {"lastPrice": last} if last else {}
    if state.next_price_change_at is not None and state.next_price_per_gpu_hour is not None:
        status["nextPriceChange"] = {
            "at": rfc3339(state.next_price_change_at),
            "pricePerGPUHour": money(state.next_price_per_gpu_hour),
        }
    if plan.lead_time_s is not None:
        status["leadTimeSeconds"] = round(plan.lead_time_s)
    if plan.release_s is not None:
        status["releaseTimeSeconds"] = round(plan.release_s)
    return fitted(status)


def policy_status(plan: PolicyPlan, generation: int, previous: Mapping[str, Any], now_s: float) -> Status:
    """The whole status of one policy. What was spent is rounded up, so that no restart gives any of it back."""
    status: Status = {
        "observedGeneration": generation,
        "conditions": conditions(plan.conditions, POLICY_CONDITIONS, previous, generation, now_s),
        "reason": plan.reason.code.value,
        "message": plan.reason.text[:1024],
        "periods": [_ceiling(item, plan.outlooks) for item in plan.ceilings],
        "services": plan.services,
    }
    rates = {"ratePerHour": plan.per_hour, "wantedPerHour": plan.wanted_per_hour}
    rates["uncontrollablePerHour"] = plan.uncontrollable_per_hour
    status |= {name: _exact(rate) for name, each in rates.items() if (rate := plan.rate(each)) is not None}
    if plan.accrued_through:
        status["accruedThrough"] = rfc3339(plan.accrued_through)
    if plan.allowed_per_hour is not None:
        status["allowedPerHour"] = _exact(plan.allowed_per_hour)
    if plan.paced:
        paced = [{"priority": priority, "allowedPerHour": _exact(rate)} for priority, rate in plan.paced]
        status["pacedPriorities"] = paced
    if plan.scored_days:
        status["forecastScore"] = _score(plan)
    if plan.reached:
        status["thresholds"] = [_reached(item) for item in plan.reached]
    if plan.next_threshold is not None:
        nearest = plan.next_threshold.threshold
        status["nextThreshold"] = {
            "period": nearest.period.value,
            "basis": nearest.basis.value,
            "atPercent": nearest.percent,
            "missing": _exact(plan.next_threshold.missing),
        }
    if plan.unpriced_gpus:
        status["unpricedGPUs"] = plan.unpriced_gpus
    if plan.overruns:
        status["overrunCause"] = plan.overruns[0].cause.value
        status["overruns"] = [_overrun(item) for item in plan.overruns]
    if plan.gave_way:
        status["gaveWay"] = [{"service": service, "replicas": replicas} for service, replicas in plan.gave_way]
    return status


def _reached(item: Reached) -> Status:
    return {
        "period": item.period.value,
        "basis": item.basis.value,
        "atPercent": item.percent,
        "begin": rfc3339(item.start_s),
        "reachedAt": rfc3339(item.at_s),
        "acting": item.acting,
    }


def _overrun(item: Overrun) -> Status:
    begin = {"begin": rfc3339(item.start_s)} if item.kind is not CeilingKind.HOUR else {}
    return {
        "period": item.kind.value,
        "cause": item.cause.value,
        "amount": _exact(item.amount),
        "since": rfc3339(item.since_s),
        "seenAt": rfc3339(item.seen_s),
    } | begin


def _ceiling(item: CeilingPlan, outlooks: Iterable[Outlook]) -> Status:
    amounts = {"ceiling": item.ceiling, "spent": item.spent, "committed": item.committed, "left": item.left}
    shown: Status = {"period": item.kind.value, **{name: _exact(amount) for name, amount in amounts.items()}}
    if item.kind is not CeilingKind.HOUR:
        shown |= {"begin": rfc3339(item.start_s), "end": rfc3339(item.end_s)} | _unpriced(item)
        for outlook in outlooks:
            if (outlook.kind, outlook.start_s) == (item.kind, item.start_s):
                amounts = {"expected": outlook.expected, "low": outlook.low, "high": outlook.high}
                amounts["underCeilings"] = outlook.held
                shown["forecast"] = {name: _exact(amount) for name, amount in amounts.items()}
                if outlook.exceeded_s is not None:
                    shown["forecast"]["exceededAt"] = rfc3339(outlook.exceeded_s)
    return shown


def _unpriced(item: CeilingPlan) -> Status:
    """By pool, those with most; of more than can be listed the rest is of no pool's name."""
    if not item.unpriced:
        return {}
    most = sorted((each for each in item.unpriced if each[0]), key=lambda each: (-each[1], each[0]))[: _MOST_POOLS - 1]
    total_s = sum(seconds for _, seconds in item.unpriced)
    rest_s = total_s - sum(seconds for _, seconds in most)
    listed = sorted([*most, *([("", rest_s)] if rest_s else [])])
    return {
        "unpricedGPUHours": _hours(total_s),
        "unpriced": [{"pool": pool, "gpuHours": _hours(seconds)} for pool, seconds in listed],
    }


def _hours(seconds: int) -> str:
    return _exact(Decimal(seconds) / 3600)


def _score(plan: PolicyPlan) -> Status:
    error = min(round(plan.mean_error * 100), 1_000_000)
    score: Status = {"days": plan.scored_days, "meanErrorPercent": error}
    return score if plan.in_range is None else score | {"inRangePercent": round(plan.in_range * 100)}


def _exact(amount: Decimal) -> str:
    """Two places at least, six at most, rounded up: 12 -> "12.00", 0.1234567 -> "0.123457"."""
    text = f"{amount.quantize(_SMALLEST, ROUND_UP):f}"
    whole, _, part = text.partition(".")
    return f"{whole}.{part.rstrip('0').ljust(2, '0')}"


def conditions(
    decided: Sequence[Condition],
    known: Sequence[str],
    previous: Mapping[str, Any],
    generation: int,
    now_s: float,
) -> list[Status]:
    """All known types and whatever else was decided, by type. lastTransitionTime moves only when status does."""
    by_type = {condition.type: condition for condition in decided}
    before = {condition["type"]: condition for condition in previous.get("conditions") or ()}
    unknown = {
        name: Condition(name, ConditionStatus.UNKNOWN, Code.PENDING.value, "not looked at yet")
        for name in known
        if name not in by_type
    }
    return [
        {
            "type": name,
            "status": condition.status.value,
            "reason": condition.reason,
            "message": condition.message[:1024],
            "lastTransitionTime": _since(condition, before.get(name), now_s),
            "observedGeneration": generation,
        }
        for name, condition in sorted((by_type | unknown).items())
    ]


def decisions(plan: ServicePlan, before: Sequence[Mapping[str, Any]], now_s: float, decision_id: str) -> list[Status]:
    """The last ten decisions, newest first: `before` with this one added if it decided something new."""
    start = sum(variant.observed for variant in plan.variants)
    end = sum(variant.allowed for variant in plan.variants)
    history = [dict(decision) for decision in before][:MAX_DECISIONS]
    newest = history[0] if history else {}
    repeated = newest.get("reason") == plan.reason.code.value and newest.get("to") == end
    if repeated or (start == end and plan.reason.code in _PASSING):
        return history
    decision = {
        "at": rfc3339(now_s),
        "id": decision_id,
        "reason": plan.reason.code.value,
        "message": plan.reason.text[:512],
        "from": start,
        "to": end,
    }
    return [decision, *history][:MAX_DECISIONS]


def fitted(status: Status) -> Status:
    """`status` in at most 16 KiB: old decisions go first, then evidence, then the ends of long messages."""
    for name, smaller in _SHRINKS:
        if _size(status) <= MAX_BYTES:
            break
        if status.get(name):
            status = {**status, name: smaller(status[name])}
    return status


def decimal(value: float) -> str:
    """Three significant digits, never an exponent or a sign: 4.5 -> "4.5", 1234.6 -> "1235", 1.2e-15 -> "0".

    The schema allows 16 characters, and nothing counted here is negative: a number that is none, or absurdly large,
    must not get the whole status refused.
    """
    if not value >= 1e-9:
        return "0"
    value = min(value, 999_999_999_999.0)
    rounded = Decimal(f"{value:.3g}") if value < 1000 else Decimal(round(value))
    return f"{rounded:f}"


def money(amount: Decimal) -> str:
    """At least two decimals and at most four, without an exponent: 12.4 -> "12.40", 0.0375 -> "0.0375"."""
    text = f"{amount:.4f}"
    return text[:-2] if text.endswith("00") else text


def _forecast(forecast: Forecast) -> Status:
    status: Status = {
        "horizonSeconds": round(forecast.horizon_s),
        "expected": decimal(forecast.expected),
        "low": decimal(forecast.low),
        "high": decimal(forecast.high),
        "method": forecast.method,
        "requestsPerSecond": decimal(forecast.requests),
        "inputTokensPerSecond": decimal(forecast.input_tokens),
        "outputTokensPerSecond": decimal(forecast.output_tokens),
    }
    score = forecast.score
    if score is not None:
        low, median, high = map(decimal, score.pinball)
        status["score"] = {
            "errors": round(score.errors),
            "coverage": decimal(score.coverage),
            "bias": decimal(score.bias),
            "pinballLow": low,
            "pinballMedian": median,
            "pinballHigh": high,
        }
    return status


def _cost(plan: ServicePlan, previous: Mapping[str, Any], now_s: float) -> Status:
    """The cost block; {} where nothing is known. While the ledger was not asked what was said of this month stays."""
    status: Status = {}
    if plan.cost is not None:
        status = {"currency": plan.cost.currency, "perHour": money(plan.cost.per_hour)}
        if plan.cost.idle_share is not None:
            status["idleShare"] = decimal(float(plan.cost.idle_share))
        for basis in ("allocation", "usage"):
            prices: TokenPrices = getattr(plan.cost, basis)
            found = {"perMillionInputTokens": prices.input, "perMillionOutputTokens": prices.output}
            shown = {name: _exact(amount) for name, amount in found.items() if amount is not None}
            if shown:
                status[basis] = shown
    said = previous.get("monthToDate")
    if plan.month is not None:
        status["monthToDate"] = {
            "amount": money(plan.month.amount),
            "currency": plan.month.currency,
            "from": rfc3339(plan.month.from_s),
            "through": rfc3339(plan.month.through_s),
        }
    elif said and str(said.get("through"))[: len("2026-01")] == rfc3339(now_s)[: len("2026-01")]:
        status["monthToDate"] = said
    return status


def _alternative(plan: AlternativePlan) -> Status:
    status: Status = {"message": plan.message[:512], "currency": plan.currency}
    if plan.per_hour is not None:
        status["perHour"] = money(plan.per_hour)
    tokens = {"tokensPerDay": plan.tokens_per_day, "breakEvenTokensPerDay": plan.break_even_tokens_per_day}
    counts = tokens | {"payBackDays": plan.pay_back_days}
    shares = {"utilisation": plan.utilisation, "breakEvenUtilisation": plan.break_even_utilisation}
    status |= {name: round(number) for name, number in counts.items() if number is not None}
    return status | {name: decimal(number) for name, number in shares.items() if number is not None}


def _totals(plan: ServicePlan) -> Status:
    return {
        field: sum(getattr(variant, field) for variant in plan.variants)
        for field in ("observed", "ready", "wanted", "allowed")
    }


def _variant(variant: VariantPlan, now_s: float) -> Status:
    status: Status = {
        field: getattr(variant, field) for field in ("name", "observed", "ready", "starting", "wanted", "allowed")
    }
    if variant.degraded:
        status["degraded"] = True
    if variant.limited_by:
        status["limitedBy"] = variant.limited_by
        if variant.limited_by_policy:
            status["limitedByPolicy"] = variant.limited_by_policy
    if variant.payable is not None:
        because = variant.payable_because[:_MOST_WORDS]
        status |= {"payable": variant.payable, "payableBecause": f"{because} (as of {rfc3339(now_s)})"}
    if variant.capacity is not None:
        status["capacity"] = _capacity(variant.capacity)
    if variant.startup_s is not None:
        status["startupSeconds"] = round(variant.startup_s)
    return status


def _capacity(capacity: Capacity) -> Status:
    return {
        "requestsPerSecond": decimal(capacity.requests_per_second),
        **({"low": decimal(capacity.low), "high": decimal(capacity.high)} if capacity.high else {}),
        "source": capacity.source,
        "evidence": capacity.evidence[:512],
    }


def _since(condition: Condition, before: Mapping[str, Any] | None, now_s: float) -> str:
    if before is not None and before["status"] == condition.status.value:
        return str(before["lastTransitionTime"])
    return rfc3339(now_s)


def _size(status: Status) -> int:
    return len(msgspec.json.encode(status))


# ---- what is given up in turn where a status is too large ----


def _newest(most: int, decisions: Sequence[Status]) -> Sequence[Status]:
    return decisions[:most]


def _evidence(most: int, variants: Iterable[Status]) -> list[Status]:
    return [
        {**variant, "capacity": {**variant["capacity"], "evidence": variant["capacity"]["evidence"][:most]}}
        if "capacity" in variant
        else variant
        for variant in variants
    ]


def _because(most: int, variants: Iterable[Status]) -> list[Status]:
    return [
        {key: item[:most] if key == "payableBecause" else item for key, item in variant.items()} for variant in variants
    ]


def _messages(most: int, items: Iterable[Status]) -> list[Status]:
    return [{**item, "message": item["message"][:most]} for item in items]


def _shorter(found: Status) -> Status:
    return {**found, "message": found["message"][:64]}


_SHRINKS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    *(("decisions", partial(_newest, most)) for most in range(MAX_DECISIONS - 1, 0, -1)),
    ("variants", partial(_evidence, 64)),
    ("variants", partial(_evidence, 0)),
    ("conditions", partial(_messages, 256)),
    ("conditions", partial(_messages, 64)),
    ("variants", partial(_because, 80)),
    ("variants", partial(_because, 0)),
    ("alternative", _shorter),
    ("decisions", partial(_messages, 64)),
)
