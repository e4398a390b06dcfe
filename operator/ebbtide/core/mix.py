"""The cheapest feasible mix of variants for one service: which variant runs how many replicas.

Never plans a replica into a pool without a price, without GPUs, or whose replicas just failed to start; says which of
these it was.
"""

import math

from ebbtide.core import balance, pools, replicas, shortage
from ebbtide.core.cover import Option, cheapest
from ebbtide.core.numeric import clip
from ebbtide.core.work import Cycle, Draft, VariantDraft

# A new replica must pay its start-up back within this time: 60 s of start-up make it 10 % dearer than one that runs.
PAYBACK_S = 600.0


def place(draft: Draft, cycle: Cycle) -> None:
    """Fill `wanted` of the draft's variants."""
    if _stands_still(draft):
        for variant in draft.variants:
            variant.wanted = variant.placed = variant.observed
            variant.high = _high(draft, variant, cycle, claim=False)
        return
    draft.waking = draft.observed == 0 and draft.demand.queue > 0.0
    highs = [_high(draft, variant, cycle, claim=False) for variant in draft.variants]
    for variant, high in zip(draft.variants, highs, strict=True):
        variant.high = high
    counts, missing = _solve(draft, highs)
    if missing > 1e-9:
        wider = [_high(draft, variant, cycle, claim=True) for variant in draft.variants]
        if wider != highs:
            counts, missing = _solve(draft, wider)
        highs = wider
        for variant, high in zip(draft.variants, highs, strict=True):
            variant.high = max(variant.high, high)
    draft.unplaced = missing
    _declare(draft, counts)
    _fit_total(draft, highs)
    draft.total_need = _alone(draft)
    if missing > 1e-9:
        shortage.explain_need(draft, cycle)
    shortage.mark(draft, cycle)


def _declare(draft: Draft, counts: dict[int, int]) -> None:
    """What is placed, plus the doomed and the hung: they stay until as many as are placed are ready without them."""
    placed = sum(counts.values())
    # what found no room has no stand-in that could become ready: what still serves goes on until its node does
    replaced = draft.unplaced <= 1e-9 and sum(variant.ready for variant in draft.variants) >= placed
    for variant in draft.variants:
        variant.placed = counts.get(variant.index, 0)
        # where ordinals decide who goes, a lower count would take the replacement, not the one that hangs
        stays = variant.state.target.ordinal or not replaced
        stay = (0 if replaced else variant.doomed) + (variant.hung if stays else 0)
        variant.wanted = max(variant.placed, min(variant.spec.max_replicas, variant.placed + stay))
        variant.high = max(variant.high, variant.wanted)


def _stands_still(draft: Draft) -> bool:
    """Nothing is known about the load, and no gateway holds requests: what is declared stays."""
    view = draft.demand
    if view.queue > 0.0:
        return view.quality in ("stale", "missing")
    return not view.known


def _room(variant: VariantDraft, claim: bool) -> int:
    """New replicas that fit now; with `claim` also where services of lower priority would have to leave."""
    pool = variant.pool
    if pool is None or not variant.gpus:
        return 0
    left = (pool.budget - pool.held) / variant.gpus - variant.staying
    most = pools.UNLIMITED if math.isinf(left) else math.floor(left + 1e-9)
    if most <= 0:
        return most
    yields = max(0.0, pool.yields - pool.stuck) if claim else 0.0  # what leaves a cordoned node makes no room
    # 8 GPUs, 2 of ours and 6 of a lower priority, of which 4 may be claimed: room for 4, also where nodes may come
    unclaimed = left - max(0.0, pool.lower - yields) / variant.gpus
    free = pools.slots(pool, variant) + math.floor(yields / variant.gpus)
    return max(0, min(most, free, pools.UNLIMITED if math.isinf(unclaimed) else math.floor(unclaimed + 1e-9)))


def _high(draft: Draft, variant: VariantDraft, cycle: Cycle, claim: bool) -> int:
    """The most replicas the variant may have; limits of pools can push it below what is declared now."""
    most = min(variant.spec.max_replicas, draft.state.spec.scaling.max_replicas)
    observed = variant.sound
    if variant.pool is None or variant.fault is not None or not variant.state.target.exists:
        return min(most, observed)
    if variant.backing_off:
        return min(most, observed if claim else replicas.healthy(variant))
    room = _room(variant, claim)
    if variant.cost is None:
        room = min(room, 0)
    return max(0, min(most, observed + room))


def _solve(draft: Draft, highs: list[int]) -> tuple[dict[int, int], float]:
    """The mix for the need. Never less capacity for a higher need, as long as demand is as steady and pools as free.

    Too little runs: add to it, at least as much as enough would be changed to. Enough runs: let go what even a cautious
    forecast does not need, but no more than leaves what runs now.
    """
    need = 1.0 if any(variant.need > 1e-9 for variant in draft.variants) else 0.0
    carried = carries_now(draft)
    if carried >= 1.0:
        return _enough(draft, highs, need, min(draft.keep_ratio, carried))[:2]
    if len(draft.variants) > 1 and carried > 0.0:
        # 10 run and a mix of 11 is cheaper: for a need of 9.9 it is moved to, so for 10.1 no mix of 10.5 will do
        _, missing, reach = _enough(draft, highs, need, carried)
        if missing <= 0.0 and reach * carried > need:
            counts, missing = _adding(draft, highs, reach * carried)
            if missing <= 0.0:
                return counts, missing
    return _adding(draft, highs, need)


def _adding(draft: Draft, highs: list[int], need: float) -> tuple[dict[int, int], float]:
    """To what runs: nothing of it is let go."""
    return _best_mix(draft, _options(draft, highs, short=True, keep=1.0), need)[:2]


def _enough(draft: Draft, highs: list[int], need: float, keep: float) -> tuple[dict[int, int], float, float]:
    """What carries `keep` times the need, for least; and how many times that it carries.

    A move to a cheaper mix starts new replicas although enough run: only while demand is steady, else it never pays.
    """
    if not draft.steady and not claimed(draft):
        highs = [min(high, variant.sound) for variant, high in zip(draft.variants, highs, strict=True)]
    return _best_mix(draft, _options(draft, highs, short=False, keep=keep), need)


def _options(draft: Draft, highs: list[int], *, short: bool, keep: float) -> list[Option]:
    made = (_option(draft, variant, high, short, keep) for variant, high in zip(draft.variants, highs, strict=True))
    return [option for option in made if option is not None]


def carries_now(draft: Draft) -> float:
    """The part of the need that the replicas that run and start can carry together; infinite without any need."""
    running = [variant for variant in draft.variants if replicas.healthy(variant)]
    rates = balance.mix_rates(draft, running)
    if all(variant.need <= 1e-9 for variant in draft.variants):
        return math.inf
    return sum(replicas.healthy(v) * rate / max(v.need, 1e-12) for v, rate in zip(running, rates, strict=True))


def claimed(draft: Draft) -> bool:
    """Some replicas may not stay where they are, so others must be allowed to grow."""
    return any(variant.doomed or variant.backing_off or variant.high < variant.sound for variant in draft.variants)


def _option(draft: Draft, variant: VariantDraft, high: int, short: bool, keep: float) -> Option | None:
    stays = short or variant.fault is not None
    low = min(max(variant.spec.min_replicas, variant.sound if stays else 0), high)
    if high <= 0 and low <= 0:
        return None
    per_need = 1e12 if variant.need <= 1e-12 else variant.rate / (variant.need * keep)
    share = clip(per_need, 1e-9, 1e12)
    cost = comparable_cost(variant)
    new = cost * (1.0 + variant.startup_s / PAYBACK_S)
    return Option(variant.index, share, cost, new, variant.sound, low, high)


def comparable_cost(variant: VariantDraft) -> float:
    """Cost of a replica for an hour. Where it is unknown nothing may grow, and what runs counts as free: it stays."""
    return max(variant.cost, 1e-6) if variant.cost is not None else 1e-6


def _best_mix(draft: Draft, options: list[Option], need: float) -> tuple[dict[int, int], float, float]:
    """(counts, what found no room, what they carry): the cheapest over sets of variants, at equal cost the largest.

    Sets, because what a replica carries depends on whom it shares traffic with.
    """
    if len(options) <= 1:
        counts, missing = cheapest(options, need)
        return counts, missing, sum(option.share * counts[option.index] for option in options)
    best: tuple[dict[int, int], float, float] = {}, math.inf, 0.0
    best_cost = math.inf
    for members in _sets(options):
        alike = _sharing(draft, members)
        counts, missing = cheapest(alike, need)
        missing = missing if missing > 1e-9 else 0.0
        cost = sum(option.price(counts.get(option.index, 0)) for option in alike)
        share = sum(option.share * counts.get(option.index, 0) for option in alike)
        found, so_far = (missing, round(cost, 9), -share), (best[1], round(best_cost, 9), -best[2])
        if found < so_far:
            best, best_cost = (counts, missing, share), cost
    return best


def _sets(options: list[Option]) -> list[list[Option]]:
    """All sets of up to four variants; of more, singles and prefixes by cost. Minimums are in every set."""
    ordered = sorted(options, key=lambda option: (option.cost / option.share, option.index))
    must = {option.index for option in options if option.low > 0}
    count = len(ordered)
    if count <= 4:
        wanted = [{ordered[i].index for i in range(count) if mask >> i & 1} for mask in range(1, 1 << count)]
    else:
        wanted = [{option.index} for option in ordered]
        wanted += [{option.index for option in ordered[:taken]} for taken in range(2, count + 1)]
    distinct = {frozenset(chosen | must): None for chosen in wanted}
    return [[option for option in ordered if option.index in chosen] for chosen in distinct]


def _sharing(draft: Draft, members: list[Option]) -> list[Option]:
    """What each member carries next to the others.

    Even dispatch: all get the same rate, the slowest one's. Otherwise the fewest requests win, which evens out the
    number in flight: a fast replica beside one that may hold 120 holds 120 too, though alone it could hold 400.
    """
    if len(members) == 1:
        return members
    rates = balance.mix_rates(draft, [draft.variants[option.index] for option in members])
    return [
        Option(o.index, o.share * rate / max(alone, 1e-12), o.cost, o.new_cost, o.running, o.low, o.high)
        for o, rate, alone in zip(members, rates, (draft.variants[o.index].rate for o in members), strict=True)
    ]


def _fit_total(draft: Draft, highs: list[int]) -> None:
    """Within the service's maximum, prefer the variants whose replicas carry most."""
    most = draft.state.spec.scaling.max_replicas
    if draft.wanted <= most or len(draft.variants) == 1:
        return
    for variant in draft.variants:
        variant.wanted = min(variant.spec.min_replicas, highs[variant.index])
    left = most - draft.wanted
    for variant in sorted(draft.variants, key=lambda v: (-v.rate, v.index)):
        more = int(clip(left, 0, highs[variant.index] - variant.wanted))
        variant.wanted += more
        left -= more


def _alone(draft: Draft) -> int:
    """Replicas the need calls for, before any limit: of the cheapest variant by cost for its capacity."""
    able = [variant for variant in draft.variants if variant.rate > 0.0]
    if not able:
        return 0
    best = min(able, key=lambda v: (comparable_cost(v) * v.need / v.rate, v.index))
    return min(pools.UNLIMITED, math.ceil(best.need / best.rate - 1e-9))
