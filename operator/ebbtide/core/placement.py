"""Who gets the pools' GPUs: services by priority, each placed on what those before it left.

Among equals nobody loses what runs so that another may grow; what may not be written to is charged with what it holds
and placed last, on what is left. Must never charge a GPU twice, nor one that a service cannot take.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ebbtide.core import balance, coupling, mix, pools, shortage
from ebbtide.core.guardrails import bounds, pause, staleness
from ebbtide.core.isolation import attempt, each
from ebbtide.core.numeric import clip
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.spec import PauseDirection


def step(cycle: Cycle) -> None:
    """Place those that may act, highest priority first; then, on what is left, what the others would do.

    Where pools couple them, a programme over all that are coupled may prescribe other mixes; they are then placed once
    more in the same order, each by its prescription as far as there is room for it today.
    """
    pools.prepare(cycle)
    each(cycle, "placement", balance.observe)
    start = {name: _Start(pool) for name, pool in cycle.pools.items()}
    order = _in_turn(cycle)
    _place_all(order, cycle)
    rooms = _rooms(cycle, start)
    groups = coupling.components([(turn.draft, turn.kept) for turn in order if _is_movable(turn)], rooms)
    if groups:
        _improve(groups, rooms, order, cycle, start)
    still = [turn for turn in order if not turn.acts and turn.draft.failure is None]
    for turn in still:
        for pool, gpus in turn.draft.kept:
            pool.budget += gpus
    _place_equals(still, cycle)
    each(cycle, "placement", _describe)


@dataclass(frozen=True, slots=True)
class _Turn:
    """One service, and what stays the same whoever is placed."""

    draft: Draft
    acts: bool  # what is planned for it comes about
    up: bool  # paused upwards: nothing may be added to it
    held: list[tuple[PoolDraft, float]]  # (pool, GPUs)
    kept: list[int]  # replicas of each variant that no higher priority may claim; none are counted where it may not act
    yields: list[tuple[PoolDraft, float]]  # the GPUs of all others


class _Start:
    """What a pool had before anybody was placed, to begin anew."""

    def __init__(self, pool: PoolDraft) -> None:
        self.free = dict(pool.free)
        self._values = (pool.budget, pool.held, pool.lower, pool.yields, pool.stuck, pool.taken)

    def again(self, pool: PoolDraft) -> None:
        """Put it back."""
        pool.free = dict(self.free)
        pool.budget, pool.held, pool.lower, pool.yields, pool.stuck, pool.taken = self._values


def _rooms(cycle: Cycle, start: Mapping[str, _Start]) -> dict[str, coupling.Room]:
    """What the pools with an end have left, now that those that may act are placed."""
    finite = {name: pool for name, pool in cycle.pools.items() if not math.isinf(pool.budget)}
    return {name: coupling.Room(pool, pool.budget, pool.taken, start[name].free) for name, pool in finite.items()}


def _is_movable(turn: _Turn) -> bool:
    """Another mix could be prescribed to it."""
    draft = turn.draft
    if not turn.acts or turn.up or draft.failure is not None or draft.asked is None:
        return False
    return sum(variant.placed for variant in draft.variants) <= draft.state.spec.scaling.max_replicas


def _improve(
    groups: list[list[coupling.Member]],
    rooms: Mapping[str, coupling.Room],
    order: list[_Turn],
    cycle: Cycle,
    start: Mapping[str, _Start],
) -> None:
    """Place all once more where a programme knows better; as before where that turns out to leave more missed."""
    decided = [coupling.decide(group, rooms) for group in groups]
    if any(one.parties is not None for one in decided):
        _again(order, cycle, start)
        worse = [one.turned_down() for one in decided]
        if any(worse):
            _again(order, cycle, start)
    cycle.placements = [one.report() for one in decided]
    for one, shown in zip(decided, cycle.placements, strict=True):
        for member in one.group:
            member.draft.placed_by = shown.text


def _again(order: list[_Turn], cycle: Cycle, start: Mapping[str, _Start]) -> None:
    for name, pool in cycle.pools.items():
        start[name].again(pool)
    for turn in order:
        if turn.acts:
            turn.draft.gives_way = False
    _place_all(order, cycle)


def _in_turn(cycle: Cycle) -> list[_Turn]:
    """All services, highest priority first."""
    order = sorted(cycle.drafts, key=lambda draft: (-draft.state.spec.rank, draft.state.spec.key))
    return [_turn(draft, cycle) for draft in order]


def _turn(draft: Draft, cycle: Cycle) -> _Turn:
    acts = draft.failure is None and not _stays(draft, cycle)
    kept = _unclaimable(draft, cycle) if acts else []
    yields = [
        (variant.pool, float(max(0, variant.holding - least) * variant.gpus))
        for variant, least in zip(draft.variants, kept, strict=False)  # none where it may not act
        if variant.pool is not None and variant.gpus
    ]
    return _Turn(draft, acts, _paused_upwards(draft, cycle), pools.held(draft), kept, yields)


def _place_all(order: list[_Turn], cycle: Cycle) -> None:
    """Those that may act, after the others were charged with what they hold."""
    acting: dict[int, list[_Turn]] = {}
    for turn in order:
        _may_claim(turn, 1.0)
    for turn in order:
        if turn.acts:
            acting.setdefault(turn.draft.state.spec.rank, []).append(turn)
        else:
            turn.draft.kept = _keep(turn.draft)
    for group in acting.values():
        for turn in group:
            _may_claim(turn, -1.0)
        _place_equals(group, cycle)


def _may_claim(turn: _Turn, sign: float) -> None:
    """Count it among those that give way to whoever is placed now; or, with -1, among those no longer."""
    for pool, gpus in turn.held:
        pool.lower += sign * gpus
    for pool, gpus in turn.yields:
        pool.yields += sign * gpus


def _stays(draft: Draft, cycle: Cycle) -> bool:
    """Nothing is written for it, or it is paused in both directions: what is planned for it does not come about."""
    halt = pause.active(draft, cycle.now_s)
    halted = halt is not None and halt.direction is PauseDirection.ALL
    return halted or draft.no_write is not None


def _unclaimable(draft: Draft, cycle: Cycle) -> list[int]:
    """Replicas of each variant that a guardrail would keep where they are, whoever needs their GPUs.

    Of 6 replicas with a declared minimum of 2, 2; of 6 whose metrics are stale, or that are paused downwards, all.
    What has no node yet holds nothing that could be kept.
    """
    halt = pause.active(draft, cycle.now_s)
    # what is lent is had back whatever is known of it
    unknown = staleness.holds(draft, cycle) and not draft.state.spec.background
    kept = (halt is not None and halt.direction is PauseDirection.DOWN) or unknown
    bound = [variant.bound_gpus // (variant.gpus or 1) for variant in draft.variants]
    least = [n if kept else min(n, v.spec.min_replicas) for n, v in zip(bound, draft.variants, strict=True)]
    more = bounds.minimum(draft) - sum(least)
    for variant in sorted(draft.variants, key=lambda variant: (-bound[variant.index], variant.index)):
        further = int(clip(more, 0, bound[variant.index] - least[variant.index]))
        least[variant.index] += further
        more -= further
    return least


def _keep(draft: Draft) -> list[tuple[PoolDraft, float]]:
    """Charge what it holds, whatever its priority, and nothing of what it wants: (pool, GPUs) that were charged.

    Replicas without a node are charged only beside what others declare: of 8 GPUs, with 6 in use by another, a service
    that declares 6 and runs 2 keeps 2. The others have not been charged yet, and are all in `lower`.
    """
    charged = []
    for variant in draft.variants:
        pool = variant.pool
        if pool is None or not variant.gpus:
            continue
        pool.lower -= variant.holding * variant.gpus
        pool.stuck -= variant.stuck_gpus
        declared = float((variant.observed - variant.homeless) * variant.gpus)
        runs = min(float(variant.observed * variant.gpus), float(variant.bound_gpus))
        waits = clip(pool.budget - runs - pool.lower, 0.0, max(0.0, declared - runs))
        pool.budget -= runs + waits
        charged.append((pool, runs + waits))
    return charged


def _place_equals(group: list[_Turn], cycle: Cycle) -> None:
    for turn in group:
        for pool, gpus in turn.held:
            pool.held += gpus
    for turn in group:
        for pool, gpus in turn.held:
            pool.held -= gpus
        attempt(turn.draft, cycle, "placement", mix.place)
        for variant in turn.draft.variants:
            if variant.pool is not None and variant.gpus:
                wanted = _chargeable(variant, variant.wanted, turn.up)
                new = max(0, wanted - variant.observed)
                pools.take(variant.pool, variant, new)
                variant.added, variant.charged = new, min(wanted, variant.placed + variant.hung, variant.holding + new)
                variant.pool.taken += new * variant.gpus
                variant.pool.budget -= variant.charged * variant.gpus
    _reserve_minimums(group, cycle)


def _chargeable(variant: VariantDraft, count: int, up: bool) -> int:
    """Of `count` replicas those that others are charged for: none that a pause upwards keeps from coming about."""
    return min(count, variant.observed) if up else count


def _paused_upwards(draft: Draft, cycle: Cycle) -> bool:
    halt = pause.active(draft, cycle.now_s)
    return halt is not None and halt.direction is PauseDirection.UP


def _describe(draft: Draft, cycle: Cycle) -> None:
    """In words, once everybody has its place: what each replica carries, and what kept it from more."""
    balance.share(draft)
    if draft.asked is not None:
        shortage.explain(draft, cycle)


def _reserve_minimums(group: list[_Turn], cycle: Cycle) -> None:
    """GPUs for minimums that the load does not call for: after the needs of equals, and from what those leave.

    Two services of at least 5 replicas on a pool of 6 GPUs, one needed of each: 5 and 1, never 10. Those that nothing
    may be added to now come last: what they cannot take must not be kept from those that can.
    """
    idle = [(turn, _idle(turn.draft)) for turn in group]
    for _, unused in idle:
        for pool, gpus in unused:
            pool.held += gpus
    for turn, unused in sorted(idle, key=lambda each: each[0].up):
        for pool, gpus in unused:
            pool.held -= gpus
        if turn.draft.failure is None:
            attempt(turn.draft, cycle, "placement", _reserve_minimum)


def _reserve_minimum(draft: Draft, cycle: Cycle) -> None:
    reached = all(variant.wanted >= variant.spec.min_replicas for variant in draft.variants)
    if (reached and draft.wanted >= bounds.minimum(draft)) or all(more <= 0 for more in _lifted(draft, cycle)):
        return
    up = _paused_upwards(draft, cycle)
    for variant in draft.variants:
        variant.high = max(variant.wanted, min(variant.high, _left(variant)))
    for variant, lifted in zip(draft.variants, _lifted(draft, cycle), strict=True):
        more = _chargeable(variant, variant.wanted + lifted, up) - variant.wanted
        if variant.pool is not None and variant.gpus and more > 0:
            new = variant.wanted + more - max(variant.wanted, variant.observed)
            pools.take(variant.pool, variant, new)
            variant.pool.taken += max(0, new) * variant.gpus
            variant.pool.budget -= more * variant.gpus


def _idle(draft: Draft) -> list[tuple[PoolDraft, float]]:
    """(pool, GPUs) of what runs beyond the need: a minimum may keep it, so no equal's minimum takes it."""
    return [
        (variant.pool, float((variant.holding - variant.wanted) * variant.gpus))
        for variant in draft.variants
        if variant.pool is not None and variant.gpus and variant.holding > variant.wanted
    ]


def _lifted(draft: Draft, cycle: Cycle) -> list[int]:
    """How many replicas beyond those wanted the declared bounds add to each variant."""
    for variant in draft.variants:
        variant.count = variant.wanted
    verdict = bounds.apply(draft, cycle)
    counts = draft.counts() if verdict is None else verdict.counts
    return [count - variant.wanted for count, variant in zip(counts, draft.variants, strict=True)]


def _left(variant: VariantDraft) -> int:
    """The most replicas that the GPUs still left carry, those that run included."""
    pool = variant.pool
    if pool is None or not variant.gpus:
        return variant.observed
    left = (pool.budget - pool.held) / variant.gpus
    paid = pools.UNLIMITED if math.isinf(left) else variant.wanted + math.floor(left + 1e-9)
    return min(paid, max(variant.wanted, variant.observed) + pools.slots(pool, variant))
