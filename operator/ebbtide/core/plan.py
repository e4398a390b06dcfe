"""`plan(snapshot, memory, now_s) -> (plan, memory)`: everything decided for the whole cluster, as named steps.

Pure: the same snapshot, memory and moment give the same plan, bit for bit, live, in replay and in the simulator.
Must never read a clock or the outside, and never move anything without a reason.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from ebbtide.core import (
    alternative,
    capacity,
    conditions,
    demand,
    economics,
    explain,
    isolation,
    permission,
    placement,
    pools,
    release,
    replicas,
    sizing,
    sources,
    stand_in,
    victims,
    watch,
)
from ebbtide.core.batch import background, lent
from ebbtide.core.batch import step as batch
from ebbtide.core.ceilings import step as ceilings
from ebbtide.core.forecast import step as forecast
from ebbtide.core.guardrails import chain, rate
from ebbtide.core.parts import ALL, Parts
from ebbtide.core.work import Cycle, Draft, VariantDraft, public_demand
from ebbtide.model.memory import MEMORY_VERSION, Memory, Recommendation, ServiceMemory, VariantMemory
from ebbtide.model.plan import Failure, Plan, PoolPlan, ScaleAction, ServicePlan, Step, VariantPlan
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.snapshot import POLICY_KIND, POOL_KIND, SERVICE_KIND, PodPhase, ServiceState, Snapshot
from ebbtide.model.spec import CapacityType

_Work = Callable[[Cycle], None]


def plan(snapshot: Snapshot, memory: Memory, now_s: float) -> tuple[Plan, Memory]:
    """Decide for all services at `now_s` (unix seconds); returns what to do and what to remember."""
    return plan_with(ALL, snapshot, memory, now_s)


def plan_with(parts: Parts, snapshot: Snapshot, memory: Memory, now_s: float) -> tuple[Plan, Memory]:
    """`plan` with some parts left out, for benchmarks that ask what each is worth."""
    aside: dict[str, Failure] = {}
    while True:
        cycle = open_cycle(snapshot, memory, now_s, aside, parts)
        for _, step in STEPS:
            step(cycle)
        services = tuple(_shown(draft, cycle) for draft in cycle.drafts)
        failed = {draft.failure.service: draft.failure for draft in cycle.drafts if draft.failure is not None}
        # Others were placed beside a service that was still expected to move: once more, with its GPUs left to it.
        if all(key in aside or failure.step in _BEFORE_PLACEMENT for key, failure in failed.items()):
            break
        aside = failed
    actions = tuple(
        action for draft, plan in zip(cycle.drafts, services, strict=True) for action in _actions(draft, plan)
    )
    decided = Plan(
        at=now_s,
        services=services,
        pools=tuple(_pool_plan(cycle, name) for name in sorted(cycle.pools)),
        policies=cycle.policy_plans,
        jobs=cycle.job_plans,
        batch=cycle.batch_plans,
        placements=tuple(cycle.placements),
        actions=actions,
        cluster_conditions=conditions.of_cluster(cycle),
        failures=(*failed.values(), *((cycle.batch_failure,) if cycle.batch_failure is not None else ())),
        unreadable=tuple(conditions.of_unreadable(item) for item in snapshot.unreadable),
    )
    return decided, _remember(cycle)


def _observe(cycle: Cycle) -> None:
    """Demand and replicas as they are, and who else writes."""
    pools.count_waiting(cycle)
    sources.note(cycle)
    isolation.each(cycle, "demand", _observe_one)


def _observe_one(draft: Draft, cycle: Cycle) -> None:
    replicas.step(draft, cycle)
    watch.step(draft, cycle)
    permission.step(draft, cycle)
    demand.step(draft, cycle)
    _note_requests(draft, cycle)


def _guard(draft: Draft, cycle: Cycle) -> None:
    explain.open_waterfall(draft)
    chain.step(draft, cycle)


def _reasons(draft: Draft, cycle: Cycle) -> None:
    """The waterfall's last line; reasons and conditions are built from the drafts when the plan is put together."""
    del cycle
    explain.close_waterfall(draft)


def _each(name: str, work: Callable[[Draft, Cycle], None]) -> tuple[str, _Work]:
    return name, lambda cycle: isolation.each(cycle, name, work)


STEPS: tuple[tuple[str, _Work], ...] = (
    ("demand", _observe),
    _each("forecast", forecast.step),
    _each("capacity", capacity.step),
    _each("sizing", sizing.step),
    ("placement", placement.step),
    _each("guardrails", _guard),
    ("background", background.step),
    ("ceilings", ceilings.step),
    ("batch", batch.step),
    _each("reasons", _reasons),
)
_BEFORE_PLACEMENT = frozenset({"demand", "forecast", "capacity", "sizing"})


def open_cycle(
    snapshot: Snapshot,
    memory: Memory,
    now_s: float,
    aside: Mapping[str, Failure] = MappingProxyType({}),
    parts: Parts = ALL,
) -> Cycle:
    """The working state: services and pools joined with what is remembered; an unknown version is dropped.

    Services in `aside` failed a moment ago and keep their replicas.
    """
    if memory.version != MEMORY_VERSION:
        memory = Memory()
    if not memory.started_at:
        memory = msgspec.structs.replace(memory, started_at=now_s)
    cycle = Cycle(snapshot, memory, now_s, parts)
    cycle.reaction_s = snapshot.cycle_s + 0.5 * snapshot.rate_window_s
    pools.open_pools(cycle)
    cycle.lent = lent.look(snapshot, cycle.pools.values(), memory.batch, now_s)
    remembered = {service.key: service for service in memory.services}
    for state in sorted(snapshot.services, key=lambda service: service.spec.key):
        draft = _draft(state, remembered.get(state.spec.key) or ServiceMemory(state.spec.key), cycle)
        if state.spec.key in aside:
            isolation.set_aside(draft, aside[state.spec.key])
        cycle.drafts.append(draft)
    return cycle


def _draft(state: ServiceState, memory: ServiceMemory, cycle: Cycle) -> Draft:
    if memory.watched_since is None:
        memory = msgspec.structs.replace(memory, watched_since=round(cycle.now_s, 1))
    known = {variant.name: variant for variant in memory.variants}
    seen = {variant.name: variant for variant in state.variants}
    variants = []
    for index, spec in enumerate(spec for spec in state.spec.variants if spec.name in seen):
        pool = cycle.pools.get(spec.pool)
        variant = VariantDraft(index, spec, seen[spec.name], known.get(spec.name) or VariantMemory(spec.name), pool)
        variant.gpus = pools.gpus_of(variant)
        variant.spot = pool is not None and pool.state.spec.capacity_type is CapacityType.SPOT
        if pool is not None and pool.price is not None and variant.gpus is not None:
            variant.cost = pool.price * variant.gpus
        variants.append(variant)
    pools.compare_prices(variants)
    draft = Draft(state, memory, variants)
    # the remembered moment is rounded to a tenth of a second, so it may lie a little ahead
    draft.watched_s = max(0.0, cycle.now_s - (memory.watched_since or cycle.now_s))
    draft.arrivals_by_pod = memory.arrivals_by_pod
    draft.pause_applied, draft.activator_seen_at = memory.pause_applied, memory.activator_seen_at
    stand_in.open_draft(draft, cycle.now_s)
    return draft


def _note_requests(draft: Draft, cycle: Cycle) -> None:
    """When the last request was seen or could have come unseen, and when the activator's queue was last read.

    An outage of the metrics, or of the operator, is no idle time: what came meanwhile nobody knows.
    """
    view, known_at = draft.demand, draft.memory.last_fresh_at
    draft.last_request_at = draft.memory.last_request_at
    unseen = view.quality == "fresh" and (known_at is None or cycle.now_s - known_at > cycle.unwatched_s)
    now_s = cycle.now_s
    if unseen or view.rate + view.running + view.waiting + view.queue > 0.0:
        draft.last_request_at = round(now_s, 1)
    if view.queue_known:
        draft.activator_seen_at = round(now_s, 1)


def _shown(draft: Draft, cycle: Cycle) -> ServicePlan:
    """The service's plan; of one that failed only what is seen and what went wrong."""
    if draft.failure is None:
        try:
            return _service_plan(draft, cycle)
        except Exception as error:
            isolation.set_aside(draft, isolation.failure_of(draft.state.spec.key, "reasons", error))
    return _failed_plan(draft)


def _failed_plan(draft: Draft) -> ServicePlan:
    code, text = draft.no_write or (Code.PLAN_FAILED, "")
    stays = f"stays at {draft.observed}: {text}"
    return ServicePlan(
        key=draft.state.spec.key,
        variants=tuple(
            VariantPlan(
                name=variant.spec.name,
                observed=variant.observed,
                ready=_pods_in(variant, PodPhase.READY),
                starting=_pods_in(variant, PodPhase.STARTING),
                wanted=variant.observed,
                allowed=variant.observed,
                payable=None if variant.payable is None else max(variant.payable, variant.observed),
                payable_because=variant.payable_because,
                degraded=variant.spec.degraded,
                template_gpus=variant.state.target.template_gpus if variant.spec.engine is not None else None,
                template_because=text,
            )
            for variant in draft.variants
        ),
        demand=None,
        forecast=None,
        waterfall=(Step("failed", draft.observed, text),),
        reason=Reason(code, stays),
        conditions=conditions.of_failed(code, text),
        spend_per_hour=None,
    )


def _pods_in(variant: VariantDraft, phase: PodPhase) -> int:
    """Replicas whose pods are in the phase; no step has counted them where the first one failed."""
    pods = sum(pod.phase is phase for pod in variant.state.pods)
    return pods // max(1, variant.state.target.pods_per_replica)


def _service_plan(draft: Draft, cycle: Cycle) -> ServicePlan:
    spend, currency = economics.spend(draft)
    cost = economics.cost(draft, cycle)
    return ServicePlan(
        key=draft.state.spec.key,
        variants=tuple(_variant_plan(variant) for variant in draft.variants),
        demand=public_demand(draft.demand),
        forecast=draft.forecast,
        waterfall=tuple(draft.steps),
        reason=explain.reason_for(draft, cycle),
        conditions=conditions.of_service(draft, cycle),
        spend_per_hour=spend,
        currency=currency,
        cost=cost,
        load=economics.load(draft, cycle),
        alternative=alternative.beside(draft, cost, cycle),
    )


def _variant_plan(variant: VariantDraft) -> VariantPlan:
    return VariantPlan(
        name=variant.spec.name,
        observed=variant.observed,
        ready=variant.ready,
        starting=variant.starting,
        wanted=variant.wanted,
        allowed=variant.count,
        limited_by=variant.limited_by,
        limited_by_policy=variant.limited_by_policy,
        capacity=variant.capacity,
        startup_s=round(variant.startup_s, 1) if variant.startup_measured else None,
        victims=victims.choose(variant, variant.observed - variant.count),
        payable=variant.payable,
        payable_because=variant.payable_because,
        degraded=variant.spec.degraded,
        template_gpus=variant.template_gpus,
        template_because=variant.template_because,
    )


def _actions(draft: Draft, decided: ServicePlan) -> list[ScaleAction]:
    """One write for each target whose replicas change; none where writing is forbidden. Raises come first."""
    if draft.no_write is not None:
        return []
    moves = [
        ScaleAction(
            service=decided.key,
            variant=variant.spec.name,
            target=variant.spec.target,
            target_uid=variant.state.target.uid,
            resource_version=variant.state.target.resource_version,
            from_replicas=variant.observed,
            to_replicas=variant.count,
            reason=decided.reason,
            victims=shown.victims,
        )
        for variant, shown in zip(draft.variants, decided.variants, strict=True)
        if variant.count != variant.observed
    ]
    return sorted(moves, key=lambda action: action.from_replicas > action.to_replicas)


def _pool_plan(cycle: Cycle, name: str) -> PoolPlan:
    pool = cycle.pools[name]
    until = pool.memory.backoff_until
    return PoolPlan(
        name=name,
        nodes=len(pool.state.nodes),
        gpus=sum(node.gpus for node in pool.state.nodes),
        allocated=pool.allocated,
        free=sum(max(0, node.gpus - node.allocated_gpus) for node in pool.state.nodes if pools.counts(node)),
        lead_time_s=pools.lead_time_s(pool.state, pool.memory) if pool.memory.lead_times_s else None,
        release_s=release.stays_s(pool.state, pool.memory) if pool.memory.release_times_s else None,
        backing_off_until=until if until is not None and until > cycle.now_s else None,
        conditions=conditions.of_pool(pool, cycle.now_s, cycle.snapshot.ledger),
    )


def _remember(cycle: Cycle) -> Memory:
    """The next memory. Services and pools that are gone are forgotten, those that cannot be read just now are not."""
    unread = {(item.kind, item.key) for item in cycle.snapshot.unreadable}
    services = [_service_memory(draft, cycle.now_s) for draft in cycle.drafts]
    services += [memory for memory in cycle.memory.services if (SERVICE_KIND, memory.key) in unread]
    kept = [pool.memory for pool in cycle.pools.values()]
    kept += [memory for memory in cycle.memory.pools if (POOL_KIND, memory.name) in unread]
    policies = list(cycle.memory.policies if cycle.policy_memories is None else cycle.policy_memories)
    unread_uids = {item.uid for item in cycle.snapshot.unreadable if item.kind == POLICY_KIND}
    known = {memory.uid for memory in policies}
    policies += [item for item in cycle.memory.policies if item.uid in unread_uids - known]
    return Memory(
        version=MEMORY_VERSION,
        started_at=cycle.memory.started_at,
        services=tuple(sorted(services, key=lambda memory: memory.key)),
        pools=tuple(sorted(kept, key=lambda memory: memory.name)),
        policies=tuple(sorted(policies, key=lambda memory: memory.uid)),
        batch=cycle.batch_memory,
    )


def _service_memory(draft: Draft, now_s: float) -> ServiceMemory:
    memory, view = draft.memory, draft.demand
    if draft.failure is not None:
        return memory  # what a step that failed left behind is half of something
    return ServiceMemory(
        key=memory.key,
        forecast=draft.forecast_memory,
        budget=draft.budget,
        worth=draft.weighed,
        arrivals_by_pod=draft.arrivals_by_pod,
        variants=tuple(variant.memory for variant in draft.variants),
        recommendations=draft.recommendations,
        moves=_moves(draft, now_s),
        last_request_at=draft.last_request_at if draft.last_request_at is not None else round(now_s, 1),
        activator_seen=draft.activator_seen_at is not None,
        even_dispatch=round(draft.even_confidence, 3),
        spread_evenly=draft.spread_evenly,
        last_fresh_at=round(now_s, 1) if view.quality == "fresh" else memory.last_fresh_at,
        pause_applied=draft.pause_applied if draft.pausing else "",
        watched_since=memory.watched_since,
        raise_since=draft.raise_since,
        raise_to=draft.raise_to,
        activator_seen_at=draft.activator_seen_at,
        input_tokens=round(view.input_tokens, 1) if view.known and view.lengths_known else memory.input_tokens,
        queued_at=view.queued_at if view.known else memory.queued_at,
        refused_at=draft.refused_at,
        starved_at=draft.starved_at,
        pressed_until=draft.pressed_until,
        pressed_by=draft.pressed_by if draft.pressed_until is not None else "",
        hands_off_since=None if draft.no_write is None else memory.hands_off_since or round(now_s, 1),
        lengths_s=round(min(view.lengths_s, 3600.0), 1) if view.known else memory.lengths_s,
        output_tokens=round(view.output_tokens, 1) if view.known and view.lengths_known else memory.output_tokens,
    )


def _moves(draft: Draft, now_s: float) -> tuple[Recommendation, ...]:
    """Our own changes of the last minute, raises and decreases apart, for the rates."""
    kept = [move for move in rate.made(draft) if now_s - move.at < rate.WINDOW_S]
    if draft.no_write is None:
        up = sum(max(0, variant.count - variant.observed) for variant in draft.variants)
        down = sum(max(0, variant.observed - variant.count) for variant in draft.variants)
        kept += [Recommendation(round(now_s, 1), change) for change in (up, -down) if change]
    return tuple(kept)
