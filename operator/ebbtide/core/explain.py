"""The words: the waterfall from load to wanted, and the one reason that decided, each with its numbers.

Every outcome has a reason from the catalogue, "nothing to do" too. Text is built from the values that decided, never
from constants that might drift away from them.
"""

from ebbtide.core import fullness, pools, silence, spot, stand_in
from ebbtide.core.guardrails.bounds import minimum, replicas_are
from ebbtide.core.guardrails.staleness import describe as describe_metrics
from ebbtide.core.replicas import describe_failing
from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.reasons import Code, Reason
from ebbtide.units import format_duration


def open_waterfall(draft: Draft) -> None:
    """The lines from load to wanted; guardrails then add theirs, and `close_waterfall` the last."""
    view = draft.demand
    if view.known:
        load = (
            f"{view.rate:.3g} requests/s of {view.input_tokens:.0f} prompt and {view.output_tokens:.0f} output tokens"
        )
        held = view.waiting + view.queue
        full = fullness.words(draft)
        load += (f", {held:.0f} waiting" if held >= 1.0 else "") + (f"; {full}" if full else "")
        draft.note("load", draft.observed, load)
    elif view.queue > 0.0:
        draft.note("load", draft.observed, f"the gateway holds {view.queue:.0f} requests")
    else:
        draft.note("load", draft.observed, f"demand is not known ({view.quality})")
    forecast = draft.forecast
    if forecast is not None and view.known:
        text = (
            f"{forecast.expected:.3g} requests/s in {forecast.horizon_s:.0f}s "
            f"({forecast.low:.3g} to {forecast.high:.3g}, {forecast.method})"
        )
        draft.note("forecast", draft.total_need, text)
        if draft.worth:
            draft.note("worth", draft.total_need, draft.worth)
    draft.note("placement", draft.wanted, _mix(draft))


def _mix(draft: Draft) -> str:
    parts = [
        f"{v.wanted} {v.spec.name} at {v.carries:.3g} requests/s" + (f" ({v.limited_by})" if v.limited_by else "")
        for v in draft.variants
        if v.wanted or v.limited_by
    ]
    text = " + ".join(parts) or "none"
    if draft.even:
        text += "; requests are spread evenly, so beside each other each carries only what the slowest can"
    text += f"; {spot.words(draft)}" if draft.firm > 0.0 else ""
    text += f"; {draft.unplaced_text}" if draft.unplaced_text else ""
    return text + (f"; {draft.placed_by}" if draft.placed_by else "")


def close_waterfall(draft: Draft) -> None:
    """The last line: what may be written."""
    draft.note("allowed", draft.total, f"{draft.observed} now, {draft.wanted} wanted, {draft.total} allowed")


def reason_for(draft: Draft, cycle: Cycle) -> Reason:
    """The one reason that decided."""
    code, text = _decide(draft, cycle)
    numbers = [
        ("observed", str(draft.observed)),
        ("wanted", str(draft.wanted)),
        ("allowed", str(draft.total)),
    ]
    if draft.demand.known:
        numbers.append(("requestsPerSecond", f"{draft.demand.rate:.3g}"))
    if draft.forecast is not None:
        numbers.append(("forecast", f"{draft.forecast.expected:.3g}"))
    return Reason(code, text, tuple(numbers))


def _decide(draft: Draft, cycle: Cycle) -> tuple[Code, str]:
    if draft.conflict:
        return Code.TARGET_CONFLICT, draft.conflict + ": hands off"
    if draft.fault is not None and draft.no_write == draft.fault:
        return draft.fault
    if draft.counts() != [variant.observed for variant in draft.variants]:
        return _moving(draft)
    return _standing(draft, cycle)


_MONEY = frozenset({Code.CEILING_REACHED, Code.CEILING_PACED, Code.THRESHOLD_REACHED, Code.USES_DEGRADED})

_LENT = frozenset(
    {
        Code.WAITS_FOR_WINDOW,
        Code.WAITS_FOR_CHEAPER_HOUR,
        Code.WAITS_FOR_GPUS,
        Code.AT_MAX_GPUS,
        Code.SELECTED_TWICE,
        Code.NO_BATCH_POLICY,
    }
)


def _moving(draft: Draft) -> tuple[Code, str]:
    old, new = draft.observed, draft.total
    move = f"{old} -> {new}"
    limit = f" ({draft.limits[-1][1]})" if draft.limits else ""
    if draft.pausing and draft.limits and draft.limits[-1][0] is Code.PAUSED:
        return Code.PAUSED, f"{move}: {draft.limits[-1][1]}"
    exchanged = _exchanging(draft, limit)
    if exchanged is not None:
        return exchanged
    if new < old and draft.limits and draft.limits[-1][0] in _MONEY | _LENT:
        return draft.limits[-1][0], f"{move}: {draft.limits[-1][1]}"
    if old == 0 and draft.demand.queue > 0.0:
        return Code.FIRST_REQUEST, f"{move}: the gateway holds {draft.demand.queue:.0f} requests"
    if new == 0:
        return Code.IDLE, f"{move}: no request for {_after(draft)}"
    if new > old:
        return _raising(draft, move, limit)
    if new < old:
        return _lowering(draft, move, limit)
    return Code.CHEAPER_MIX, f"{_changes(draft)}: the same load for less"


def _exchanging(draft: Draft, limit: str) -> tuple[Code, str] | None:
    """Stand-ins come because something is short, or go because nothing is any more."""
    stand_ins = draft.stand_ins
    if not stand_ins or draft.observed == 0 or draft.total == 0:
        return None
    why = stand_in.why(draft)
    if why and any(variant.count > variant.observed for variant in stand_ins):
        return Code.USES_DEGRADED, f"{_changes(draft)}: {why}"
    back = any((variant.count < variant.observed) is variant.spec.degraded for variant in _moved(draft))
    short = draft.total < min(draft.observed, minimum(draft))  # then what keeps others from coming is the reason
    if not why and back and not short and any(variant.observed for variant in stand_ins):
        return Code.LEAVES_DEGRADED, f"{_changes(draft)}: what is not degraded has room and money again{limit}"
    return None


def _raising(draft: Draft, move: str, limit: str) -> tuple[Code, str]:
    if (
        draft.limits
        and draft.limits[-1][0] is Code.KEEPS_COVER
        and max(draft.total_need, minimum(draft)) <= draft.observed
    ):
        return Code.CHEAPER_MIX, f"{_changes(draft)}: the same load for less{limit}"
    if (
        draft.total_need <= draft.observed
        and draft.limits
        and draft.limits[0][0] in (Code.AT_MINIMUM, Code.ACTIVATOR_UNSEEN)
    ):
        code = Code.BELOW_MINIMUM if draft.limits[0][0] is Code.AT_MINIMUM else Code.ACTIVATOR_UNSEEN
        return code, f"{move}: {draft.unreached[1] if draft.unreached is not None else draft.limits[0][1]}"
    if any(variant.doomed for variant in draft.variants) and draft.total_need <= draft.observed:
        doomed = sum(variant.doomed for variant in draft.variants)
        return Code.INTERRUPTION, f"{move}: {replicas_are(doomed)} on nodes about to be taken away"
    hung = silence.describe(draft)
    if hung and draft.total_need <= draft.observed:
        return Code.NOT_ANSWERING, f"{move}: {hung}; replaced beside it, and let go once that is ready{limit}"
    return Code.DEMAND_ROSE, f"{move}: {_expectation(draft)}{limit}"


def _for_whom(draft: Draft) -> str:
    capped = [pools.limit_words(v.pool) for v in draft.variants if v.pool is not None and v.pool.capped]
    if capped:
        return "; ".join(dict.fromkeys(capped))
    return "its pool no longer has the GPUs, or a higher priority needs them"


def _lowering(draft: Draft, move: str, limit: str) -> tuple[Code, str]:
    most = draft.state.spec.scaling.max_replicas
    if draft.observed > most:
        return Code.ABOVE_MAXIMUM, f"{move}: at most {replicas_are(most)} declared"
    if any(variant.doomed for variant in draft.variants):
        return Code.INTERRUPTION, f"{move}: replicas on nodes about to be taken away are replaced"
    if draft.gives_way:
        return Code.GIVES_WAY, f"{move}: {_for_whom(draft)}"
    if draft.unreached is not None:
        return draft.unreached[0], f"{move}: {draft.unreached[1]}"
    if any(variant.failing for variant in draft.variants) and draft.total_need >= draft.observed:
        failing = next(v for v in draft.variants if v.failing)
        return failing.failing_code or Code.UNSCHEDULABLE, f"{move}: {describe_failing(draft)}"
    return Code.DEMAND_FELL, f"{move}: {_expectation(draft)}{limit}"


def _after(draft: Draft) -> str:
    zero = draft.state.spec.scaling.scale_to_zero
    return format_duration(zero.after_s) if zero is not None else "long"


def _changes(draft: Draft) -> str:
    return ", ".join(f"{v.spec.name} {v.observed} -> {v.count}" for v in _moved(draft))


def _moved(draft: Draft) -> list[VariantDraft]:
    return [variant for variant in draft.variants if variant.count != variant.observed]


def _expectation(draft: Draft) -> str:
    """`12.3 requests/s expected within 95s, 14.1 are worth carrying; one replica of h100 carries 4.2`."""
    carriers: list[VariantDraft] = [v for v in draft.variants if v.rate > 0.0 and (v.wanted or v.observed)]
    if not carriers:
        return "demand is not known"
    main = max(carriers, key=lambda v: (v.wanted, v.observed, -v.index))
    carries = f"one replica of {main.spec.name} carries {main.carries:.3g}"
    carries += f", no more than when it was full by its {main.full_by}" if main.full_by else ""
    full = fullness.words(draft)
    carries += f"; {full}" if full else ""
    forecast = draft.forecast
    if forecast is not None and draft.demand.known:
        return (
            f"{forecast.expected:.3g} requests/s expected within {forecast.horizon_s:.0f}s, {main.need:.3g} are worth "
            f"carrying; {carries}"
        )
    return f"{main.need:.3g} requests/s come, with what waits; {carries}"


def _standing(draft: Draft, cycle: Cycle) -> tuple[Code, str]:
    stays = f"stays at {draft.observed}"
    view = draft.demand
    if draft.no_write is not None and draft.no_write[0] is Code.CLUSTER_UNREADABLE:
        return draft.no_write[0], f"{stays}: {draft.no_write[1]}"
    if cycle.metrics_down or cycle.unwatched or view.quality in ("stale", "missing"):
        code, text = describe_metrics(view, cycle)
        return code, f"{stays}: {text}"
    if draft.limits and draft.total != draft.wanted:
        code, text = draft.limits[-1]
        return code, f"{stays}: {text}"
    failing = describe_failing(draft)
    if failing:
        first = next(v for v in draft.variants if v.failing)
        return first.failing_code or Code.UNSCHEDULABLE, f"{stays}: {failing}"
    if draft.unplaced_code is not None:
        return draft.unplaced_code, f"{stays}: {draft.unplaced_text}"
    hung = silence.describe(draft)
    if hung:
        return Code.NOT_ANSWERING, f"{stays}: {hung}"
    if draft.limits:
        code, text = draft.limits[-1]
        return code, f"{stays}: {text}"
    return _quiet(draft, stays)


def _quiet(draft: Draft, stays: str) -> tuple[Code, str]:
    """Nothing binds and nothing moves: why that is right."""
    view, starting = draft.demand, sum(variant.starting for variant in draft.variants)
    if starting:
        return Code.PODS_STARTING, f"{stays}: {starting} of them are starting; {_expectation(draft)}"
    if draft.observed == 0:
        return Code.NO_LOAD_SEEN, "stays at 0: no request at the gateway"
    if not view.known:
        return Code.NOTHING_RUNS, f"{stays}: no ready pod, so demand cannot be measured"
    if view.zero and draft.last_request_at is None:
        return Code.NO_LOAD_SEEN, f"{stays}: nothing has arrived yet"
    return Code.WITHIN_TARGET, f"{stays}: {_expectation(draft)}"
