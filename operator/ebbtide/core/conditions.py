"""The conditions of services, pools and the cluster: all of them at every cycle, True is good except for facts."""

from ebbtide.core import balance, drain, fullness, pools, shortage, silence, sources, stand_in
from ebbtide.core.guardrails.pause import active, describe
from ebbtide.core.guardrails.staleness import describe as describe_metrics
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.core.replicas import describe_failing
from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.plan import Condition, ConditionStatus, UnreadablePlan
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.snapshot import (
    BATCH_KIND,
    POLICY_KIND,
    POOL_KIND,
    SERVICE_KIND,
    LedgerState,
    PodPhase,
    Source,
    Unreadable,
)
from ebbtide.model.spec import Mode, Provisioning

_TRUE, _FALSE, _UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
STILL_SAID_S = 300.0  # a condition that turns with every minute's noise would be worth nothing
UNBUYABLE_REQUESTS = 100.0  # behind a share of misses before it is called unattainable


def of_service(draft: Draft, cycle: Cycle) -> tuple[Condition, ...]:
    """Ready first, then what it is made of, in a fixed order."""
    parts: tuple[Condition, ...] = (
        _target(draft),
        _metrics(draft, cycle),
        _capacity(draft),
        _balanced(draft),
        _prices(draft),
        _attainable(draft),
        _admitted(draft, cycle),
        _acting(draft),
    )
    drains = drain.condition(draft)
    parts = parts if drains is None else (*parts, drains)
    facts: tuple[Condition, ...] = (_paused(draft, cycle), _limited(draft, cycle))
    degraded = stand_in.condition(draft)
    facts = facts if degraded is None else (*facts, degraded)
    facts = facts if draft.lending is None else (*facts, draft.lending)
    return (_ready(draft, parts), *parts, *facts)


def of_failed(code: Code, text: str) -> tuple[Condition, ...]:
    """Of a service that could not be planned: what stands elsewhere is not known."""
    return tuple(Condition(kind, _FALSE, code.value, text) for kind in ("Ready", "Acting"))


_UNTIL_READ = {
    SERVICE_KIND: "its replicas hold until it can be read",
    POOL_KIND: "services on it hold",
    POLICY_KIND: "nothing is raised until it can be read",
    BATCH_KIND: "its Jobs are neither started nor stopped until it can be read",
}


def of_unreadable(item: Unreadable) -> UnreadablePlan:
    """What is said on an object that cannot be read, and nothing else: nothing else is known."""
    holds = _UNTIL_READ[item.kind]
    reason = Reason(Code.INVALID_SPEC, f"{item.message}; {holds}")
    kinds = ("Ready", "Acting") if item.kind == SERVICE_KIND else ("Ready",)
    said = tuple(Condition(kind, _FALSE, reason.code.value, reason.text) for kind in kinds)
    return UnreadablePlan(item.kind, item.key, reason, said)


_NOT_READY_TO_ACT = (Code.TARGET_CONFLICT.value, Code.CLUSTER_UNREADABLE.value)


def _ready(draft: Draft, parts: tuple[Condition, ...]) -> Condition:
    """Target, metrics and prices known, and nothing failing: the loop is closed or would be."""
    hung = silence.describe(draft)
    for part in parts:
        if part.status is _FALSE and part.type == "MetricsFresh" and hung:
            return Condition("Ready", _FALSE, Code.NOT_ANSWERING.value, f"{hung}; {part.message}")
        if part.status is _FALSE and part.type in ("TargetResolved", "MetricsFresh", "PricesKnown"):
            return Condition("Ready", _FALSE, part.reason, part.message)
        if part.type == "Acting" and part.reason in _NOT_READY_TO_ACT:
            return Condition("Ready", _FALSE, part.reason, part.message)
    failing = next(
        (variant for variant in draft.variants if variant.failing and variant.failing_code is not None), None
    )
    if failing is not None and failing.failing_code is not None:
        return Condition("Ready", _FALSE, failing.failing_code.value, describe_failing(draft))
    if hung:
        return Condition("Ready", _FALSE, Code.NOT_ANSWERING.value, hung)
    return Condition(
        "Ready",
        _TRUE,
        Code.RESOLVED.value,
        f"{sum(v.ready for v in draft.variants)} of {draft.observed} replicas are ready",
    )


def _target(draft: Draft) -> Condition:
    fault, outside = draft.fault, _outside(draft)
    if fault is not None:
        return Condition("TargetResolved", _FALSE, fault[0].value, "; ".join((fault[1], *outside)))
    found = f"{len(draft.variants)} targets found"
    code = Code.PODS_OUTSIDE_POOL if outside else Code.RESOLVED
    return Condition("TargetResolved", _TRUE, code.value, "; ".join((found, *outside)))


def _outside(draft: Draft) -> list[str]:
    """Variants with pods beside their pool: what is said of prices, limits and room is not said of these pods."""
    said: list[str] = []
    for variant in draft.variants:
        state, pool = variant.state, variant.spec.pool
        if not state.outside:
            continue
        bound = sum(bool(pod.node) and pod.phase is not PodPhase.TERMINATING for pod in state.pods)
        places = [f"{count} on nodes of {f'pool {name}' if name else 'no pool'}" for name, count in state.outside]
        said.append(
            f"{sum(count for _, count in state.outside)} of {bound} pods of variant {variant.spec.name} run outside of "
            f"pool {pool} ({', '.join(places)}): prices and limits are those of {pool}; give the pod template the "
            "pool's nodeSelector, or correct the variant's pool"
        )
    return said


def _metrics(draft: Draft, cycle: Cycle) -> Condition:
    view = draft.demand
    if cycle.metrics_down or cycle.unwatched or view.quality in ("stale", "missing", "partial"):
        code, text = describe_metrics(view, cycle)
        return Condition("MetricsFresh", _FALSE, code.value, text)
    loading = sum(variant.loading for variant in draft.variants)
    unread = f"{loading} ready {'pod does' if loading == 1 else 'pods do'} not answer scrapes yet" if loading else ""
    if view.quality == "none":
        ready = sum(variant.ready for variant in draft.variants)
        text = unread or (f"none of {ready} ready pods was read yet" if ready else "no ready pod to measure")
        return Condition("MetricsFresh", _UNKNOWN, Code.NOTHING_RUNS.value, text)
    if view.quality == "young" and not view.pods_read:
        code, text = describe_metrics(view, cycle)
        return Condition("MetricsFresh", _UNKNOWN, code.value, unread or text)
    text = f"every other ready pod was read: {unread}" if unread else "every ready pod was read"
    return Condition("MetricsFresh", _TRUE, Code.METRICS_FRESH.value, text)


_CAPACITY = {
    "observed": (_TRUE, Code.CAPACITY_OBSERVED),
    "declared": (_TRUE, Code.CAPACITY_PRIOR),
    "table": (_TRUE, Code.CAPACITY_PRIOR),
    "assumed": (_FALSE, Code.CAPACITY_ASSUMED),
}


def _capacity(draft: Draft) -> Condition:
    """The weakest variant's source, with every variant's rate in the message."""
    order = ("assumed", "table", "declared", "observed")
    sources = [variant.model.source for variant in draft.variants if variant.model is not None]
    if not sources:
        return Condition("CapacityKnown", _UNKNOWN, Code.PENDING.value, "not looked at yet")
    status, code = _CAPACITY[min(sources, key=order.index)]
    return Condition(
        "CapacityKnown", status, code.value, "; ".join(f"{v.spec.name}: {v.evidence}" for v in draft.variants)
    )


def _balanced(draft: Draft) -> Condition:
    """Whether the faster of unlike variants gets more requests; what it costs where it does not, and the way out."""
    ready = [variant for variant in draft.variants if variant.ready and variant.rate > 0.0]
    loading = [variant.spec.name for variant in draft.variants if variant.loading]
    contrast = balance.unlikeness(draft, ready)
    if draft.spread_evenly and contrast >= balance.ALIKE:
        status, code, text = _FALSE, Code.SPREAD_EVENLY, _held_back(draft, ready)
    elif not ready and len(draft.variants) > 1:
        status, code, text = _UNKNOWN, Code.NOTHING_RUNS, "no ready pod to send requests to"
    elif contrast < balance.UNLIKE and len(draft.variants) > 1 and loading:
        text = f"ready pods of {' and '.join(loading)} do not answer scrapes yet: what reaches them is not known"
        status, code = _UNKNOWN, Code.PENDING
    elif contrast < balance.UNLIKE:
        text = "the variants that run carry about the same" if len(ready) > 1 else "all requests go to one variant"
        text += "; beside a slower one, requests were spread evenly, which is planned with" if draft.even else ""
        status, code = _TRUE, Code.NOTHING_TO_BALANCE
    elif draft.spread_evenly is None:
        text = f"too few requests so far to tell: {_shares(ready)}"
        status, code = _UNKNOWN, Code.PENDING
    else:
        status, code, text = _TRUE, Code.FOLLOWS_CAPACITY, f"the faster gets more: {_shares(ready)}"
    return Condition("TrafficBalanced", status, code.value, text)


def _held_back(draft: Draft, ready: list[VariantDraft]) -> str:
    """What is planned a replica, what is lost by it, the cure, and the numbers it was seen by."""
    slowest = min(ready, key=lambda variant: (variant.rate, variant.index))
    count = sum(variant.ready for variant in ready)
    even = count * slowest.rate
    aware = sum(variant.ready * rate for variant, rate in zip(ready, balance.beside(draft, ready), strict=True))
    text = (
        f"requests are spread evenly over unlike variants: each replica is planned at {slowest.rate:.3g} requests/s, "
        f"what {slowest.spec.name} carries, and {count} ready ones at {even:.3g} together instead of {aware:.3g}"
    )
    currencies = {variant.pool.state.currency for variant in ready if variant.pool is not None}
    costs = [variant.ready * variant.cost for variant in ready if variant.cost is not None]
    if len(costs) == len(ready) and len(currencies) == 1:
        idle = max(0.0, 1.0 - even / aware) * sum(costs)
        text += f", so {idle:.2f} of their {sum(costs):.2f} {currencies.pop()} an hour buy no capacity"
    cure = "put a gateway before them that looks at load (such as the Gateway API endpoint picker), or run one variant"
    return f"{text}; {cure}; {_shares(ready)}"


def _shares(ready: list[VariantDraft]) -> str:
    """`a pod of h100 gets 9 of the 24.8 requests/s it can carry alone, of a100 9 of 8.66`."""
    parts: list[str] = []
    for variant in ready:
        gets = "an unknown part" if variant.arrivals is None else f"{variant.arrivals:.3g}"
        unit = "" if parts else " requests/s it can carry alone"
        parts.append(f"of {variant.spec.name} gets {gets} of {'' if parts else 'the '}{variant.rate:.3g}{unit}")
    return "a pod " + ", ".join(parts)


def _prices(draft: Draft) -> Condition:
    different = pools.currencies(draft.variants)
    if len(different) > 1:
        text = f"prices in {' and '.join(different)} cannot be compared: no scale-up until they are in one currency"
        return Condition("PricesKnown", _FALSE, Code.PRICE_UNKNOWN.value, text)
    unknown = [v for v in draft.variants if v.cost is None]
    if unknown and all(_awaits_target(variant) for variant in unknown):
        names = ", ".join(v.spec.name for v in unknown)
        text = f"the GPUs of a replica of {names} are known once its target is there"
        return Condition("PricesKnown", _UNKNOWN, Code.PENDING.value, text)
    if unknown:
        code = (
            Code.GPUS_UNKNOWN
            if all(v.pool and v.pool.price is not None and not v.gpus for v in unknown)
            else Code.PRICE_UNKNOWN
        )
        names = ", ".join(f"{v.spec.name} (pool {v.spec.pool})" for v in unknown)
        return Condition(
            "PricesKnown", _FALSE, code.value, f"no scale-up of {names} until a price and its GPUs are known"
        )
    return Condition("PricesKnown", _TRUE, Code.PRICES_KNOWN.value, "every pool has a price")


def _awaits_target(variant: VariantDraft) -> bool:
    """The pool has a price; only the pod template that says how many GPUs it is for is missing."""
    priced = variant.pool is not None and variant.pool.price is not None
    return priced and not variant.gpus and not variant.state.target.exists


def _attainable(draft: Draft) -> Condition:
    objectives = draft.state.spec.objectives
    allowed = 1.0 - objectives.attainment
    for variant in draft.variants:
        model, memory = variant.model, variant.memory.capacity
        if model is None or not (variant.observed or len(draft.variants) == 1):
            continue
        if memory.unbuyable_weight >= UNBUYABLE_REQUESTS and memory.unbuyable > allowed:
            text = (
                f"{variant.spec.name}: {memory.unbuyable:.1%} of requests miss an objective on nearly idle replicas "
                f"({allowed:.2%} may); more replicas do not help"
            )
            return Condition("SLOAttainable", _FALSE, Code.SLO_UNATTAINABLE.value, text)
        # what is believed of first tokens alone is no verdict, nor is a mean with its waits: both must say so
        alone_s, first_s = model.a_s + model.b_s, min(model.prefill_s, memory.first_token_s * draft.demand.input_tokens)
        if model.source != "assumed" and (alone_s > objectives.itl_s or first_s > objectives.ttft_s):
            text = (
                f"{variant.spec.name}: one request alone takes {first_s * 1e3:.0f}ms to its first token and "
                f"{alone_s * 1e3:.0f}ms a token; declared are {objectives.ttft_s * 1e3:.0f}ms "
                f"and {objectives.itl_s * 1e3:.0f}ms"
            )
            return Condition("SLOAttainable", _FALSE, Code.SLO_UNATTAINABLE.value, text)
    return Condition("SLOAttainable", _TRUE, Code.ATTAINABLE.value, _misses(draft))


def _misses(draft: Draft) -> str:
    allowed = 1.0 - draft.state.spec.objectives.attainment
    if draft.misses is None:
        return f"no latencies seen yet; {allowed:.2%} of requests may miss"
    return f"at most {draft.misses:.2%} of requests missed within the last minute; {allowed:.2%} may"


def _admitted(draft: Draft, cycle: Cycle) -> Condition:
    """Whether engines take what comes. One refusal is no news; what was more than may miss stays said for a while."""
    view, text = draft.demand, fullness.words(draft)
    for code, at_s, what in (
        (Code.REQUESTS_REFUSED, draft.refused_at, f"requests are refused by the engines ({fullness.QUEUE_BOUND})"),
        (Code.KV_CACHE_FULL, draft.starved_at, "requests miss an objective for want of KV cache"),
    ):
        if at_s is None or cycle.now_s - at_s > STILL_SAID_S:
            continue
        ago_s = max(0.0, cycle.now_s - at_s)
        last = f"{what}, last {ago_s:.0f}s ago" if ago_s >= 1.0 else what
        said = f"{last}: more than the {fullness.may_miss(draft):.2%} that may miss" + (f"; {text}" if text else "")
        return Condition("RequestsAdmitted", _FALSE, code.value, said)
    if not view.known:
        return Condition("RequestsAdmitted", _UNKNOWN, Code.PENDING.value, "no pod was read")
    within = f"within the {fullness.may_miss(draft):.2%} that may miss: {text}" if text else "nothing is refused"
    return Condition("RequestsAdmitted", _TRUE, Code.ALL_ADMITTED.value, within)


def _acting(draft: Draft) -> Condition:
    if draft.no_write is not None:
        return Condition("Acting", _FALSE, draft.no_write[0].value, draft.no_write[1])
    if draft.drifted:
        return Condition("Acting", _TRUE, Code.DRIFTED.value, draft.drifted + ": respected as the new starting point")
    return Condition("Acting", _TRUE, Code.ACTING.value, f"mode is {Mode.AUTO.value}")


def _paused(draft: Draft, cycle: Cycle) -> Condition:
    pause = active(draft, cycle.now_s)
    if pause is None:
        return Condition("Paused", _FALSE, Code.NOT_PAUSED.value, "not paused")
    text = describe(pause, cycle.now_s)
    if pause.replicas is not None and draft.total != pause.replicas:
        text += f"; {draft.total} allowed so far" if draft.total < pause.replicas else f"; {draft.total} allowed"
    return Condition("Paused", _TRUE, Code.PAUSED.value, text)


def _limited(draft: Draft, cycle: Cycle) -> Condition:
    if draft.unplaced_code is not None:
        return Condition("Limited", _TRUE, draft.unplaced_code.value, draft.unplaced_text)
    if draft.unreached is not None:
        return Condition("Limited", _TRUE, draft.unreached[0].value, draft.unreached[1])
    for variant in draft.variants:
        if variant.backing_off and variant.failing_code is not None:
            text = f"{variant.spec.name} {shortage.backs_off(variant, cycle.now_s)}"
            return Condition("Limited", _TRUE, variant.failing_code.value, text)
    if any(variant.count != variant.wanted for variant in draft.variants) and draft.limits:
        code, text = draft.limits[-1]
        return Condition("Limited", _TRUE, code.value, text)
    return Condition("Limited", _FALSE, Code.NOT_LIMITED.value, "what is wanted is allowed")


def of_pool(pool: PoolDraft, now_s: float, ledger: LedgerState | None = None) -> tuple[Condition, ...]:
    """Ready, PricesKnown, NodesComing and LedgerCurrent of one pool."""
    faults = pool.state.faults
    if faults:
        fault = Condition("Ready", _FALSE, faults[0][0], "; ".join(dict.fromkeys(text for _, text in faults)))
    else:
        fault = Condition("Ready", _TRUE, Code.RESOLVED.value, _nodes(pool))
    if pool.price is None:
        price = Condition(
            "PricesKnown", _FALSE, Code.PRICE_UNKNOWN.value, "no price: services do not scale up into this pool"
        )
    else:
        price = Condition(
            "PricesKnown",
            _TRUE,
            Code.PRICES_KNOWN.value,
            f"{pool.state.price_per_gpu_hour} {pool.state.currency} per GPU-hour",
        )
    until = pool.memory.backoff_until
    if until is not None and until > now_s:
        lead_s = pools.lead_time_s(pool.state, pool.memory)
        waited = f"{pool.waiting} pods wait, and no node came within {pools.PATIENCE * lead_s:.0f}s"
        text = f"{waited}; next try in {until - now_s:.0f}s"
        coming = Condition("NodesComing", _FALSE, Code.POOL_BACKING_OFF.value, text)
    else:
        coming = Condition("NodesComing", _TRUE, Code.RESOLVED.value, f"{pool.waiting} pods wait for a node")
    return fault, price, coming, *((_ledger(ledger),) if ledger is not None else ())


def _nodes(pool: PoolDraft) -> str:
    """What the pool holds. Without a node the selector is quoted, because a misspelt one looks the same."""
    if pool.state.nodes:
        return f"{len(pool.state.nodes)} nodes, {pool.gpus} GPUs"
    spec = pool.state.spec
    selector = ", ".join(f"{key}={value}" for key, value in spec.node_selector)
    text = f"0 nodes match nodeSelector {selector}"
    if spec.provisioning is Provisioning.STATIC:
        return f"{text}: no replica can run here; compare it with the labels of your nodes"
    return f"{text}; they are to come when pods wait for them"


def of_cluster(cycle: Cycle) -> tuple[Condition, ...]:
    """Causes that concern every service: one condition each, instead of one a service."""
    conditions = []
    for source in cycle.snapshot.sources:
        kind = source.name.capitalize() + "Reachable"
        if source.name == "declarations":
            conditions.append(_declarations(source))
        elif source.healthy:
            conditions.append(Condition(kind, _TRUE, Code.RESOLVED.value, f"{source.name} answers"))
        else:
            text = f"{source.name}: {sources.why(source)}; {sources.follows(source)}"
            conditions.append(Condition(kind, _FALSE, sources.code(source).value, text))
    ledger = cycle.snapshot.ledger
    if ledger is not None:
        conditions.append(_ledger(ledger))
    return tuple(conditions)


def _ledger(state: LedgerState) -> Condition:
    if not state.why:
        return Condition("LedgerCurrent", _TRUE, Code.LEDGER_CURRENT.value, "what runs is in the ledger")
    text = f"{state.why}; what runs is counted and written later, and ceilings hold without it"
    return Condition("LedgerCurrent", _FALSE, Code.LEDGER_BEHIND.value, text)


def _declarations(source: Source) -> Condition:
    """Objects that cannot be read concern themselves and what names them; the rest is planned all the same."""
    if source.healthy:
        return Condition("DeclarationsReadable", _TRUE, Code.RESOLVED.value, "every object of Ebbtide's kinds is read")
    text = f"{source.message}; services among them and services on pools among them hold, the others are planned"
    return Condition("DeclarationsReadable", _FALSE, Code.INVALID_SPEC.value, text)
