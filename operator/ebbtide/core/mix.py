"""The cheapest feasible mix of variants for one service: which variant runs how many replicas.

Never plans a replica into a pool without a price, without GPUs, or whose replicas just failed to start; says which of
these it was.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

from ebbtide.core import balance, pools, replicas, shortage, spot
from ebbtide.core.cover import Option, cheapest, cheapest_of_few
from ebbtide.core.numeric import clip
from ebbtide.core.work import Asked, Cycle, Draft, VariantDraft
from ebbtide.model.reasons import Code

# A new replica must pay its start-up back within this time: 60 s of start-up make it 10 % dearer than one that runs.
PAYBACK_S = 600.0
UNWELCOME = 10.0


def place(draft: Draft, cycle: Cycle) -> None:
    """Fill `wanted` of the draft's variants."""
    rest(draft, pressed=draft.pressed)
    if _stands_still(draft):
        for variant in draft.variants:
            variant.wanted = variant.placed = variant.plain = variant.cheap = variant.observed
            variant.high = _high(draft, variant, claim=False)
        return
    draft.firm = spot.floor(draft)
    draft.waking = draft.observed == 0 and draft.demand.queue > 0.0
    if draft.stand_ins:
        _admit(draft, cycle)
    highs = [_high(draft, variant, claim=False) for variant in draft.variants]
    for variant, high in zip(draft.variants, highs, strict=True):
        variant.high = high
    counts, missing = _choose(draft, highs)
    if missing > 1e-9:
        wider = [_high(draft, variant, claim=True) for variant in draft.variants]
        if wider != highs:
            wide, missing = _choose(draft, wider)
            # replicas that fail are asked for beside the others, and never in their place
            sound = {} if not any(v.backing_off for v in draft.variants) else counts
            counts = {v.index: max(wide.get(v.index, 0), sound.get(v.index, 0)) for v in draft.variants}
        highs = wider
        for variant, high in zip(draft.variants, highs, strict=True):
            variant.high = max(variant.high, high)
    counts, missing = _of_few(draft, highs, counts, missing)
    draft.unplaced, draft.highs = missing, highs
    _declare(draft, counts)
    _fit_total(draft)
    draft.total_need = _alone(draft)
    draft.gives_way = any(_squeezed(variant) for variant in draft.variants)


def _squeezed(variant: VariantDraft) -> bool:
    """The pool no longer has the GPUs that the variant holds: a higher priority took them, or they are gone."""
    pool = variant.pool
    if pool is None or not variant.gpus or variant.backing_off or variant.placed >= variant.sound:
        return False
    return pool.budget - pool.held < variant.staying * variant.gpus - 1e-9


def rest(draft: Draft, *, pressed: bool) -> None:
    """Stand-ins are let in by want of money here, and by want of room once it is known what finds none."""
    draft.pressed, draft.crowded = pressed, None
    for variant in draft.stand_ins:
        variant.rests = not pressed


def _admit(draft: Draft, cycle: Cycle) -> None:
    """Note the mixes without stand-ins and under want of money; let stand-ins in where the others find no room.

    That is before anybody of lower priority gives way. A maximum that somebody declared is no want of room.
    """
    pressed, most = draft.pressed, draft.state.spec.scaling.max_replicas
    cheap = _as_if(draft, pressed=True)[0] if pressed or cycle.snapshot.policies else {}
    plain, missing = _as_if(draft, pressed=False)
    lacks = (
        missing - _solve(draft, [0 if v.spec.degraded else min(most, v.spec.max_replicas) for v in draft.variants])[1]
    )
    rest(draft, pressed=pressed)
    for variant in draft.variants:
        variant.plain = plain.get(variant.index, 0)
        variant.cheap = cheap.get(variant.index, 0) if 0 < sum(cheap.values()) <= most else variant.plain
    if lacks <= 1e-9:
        return
    others = [variant for variant in draft.variants if not variant.spec.degraded]
    found = shortage.causes(draft, others, [variant.plain for variant in draft.variants], cycle)
    code, why = found or (Code.PENDING, "their targets are not there")
    draft.crowded = code, f"{missing:.0%} of the need finds no room on the others: {why}"
    for variant in draft.stand_ins:
        variant.rests = False


def _as_if(draft: Draft, *, pressed: bool) -> tuple[dict[int, int], float]:
    """The mix within the room that there is, and what it leaves of the need."""
    rest(draft, pressed=pressed)
    highs = [_high(draft, variant, claim=False) for variant in draft.variants]
    for variant, high in zip(draft.variants, highs, strict=True):
        variant.high = high
    return _solve(draft, highs)


def _choose(draft: Draft, highs: list[int]) -> tuple[dict[int, int], float]:
    """Its own cheapest mix; or the one that was prescribed to it, where there is room for as much as that carries."""
    if draft.prescribed is not None and draft.asked is not None:
        counts = {i: min(count, high) for i, (count, high) in enumerate(zip(draft.prescribed, highs, strict=True))}
        options = options_of(draft, draft.asked, highs)
        full = left_over(draft, options, dict(enumerate(draft.prescribed)), draft.asked.need)
        missing = left_over(draft, options, counts, draft.asked.need)
        if missing <= full + 1e-9:
            return counts, missing
    return _solve(draft, highs)


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


def _high(draft: Draft, variant: VariantDraft, claim: bool) -> int:
    """The most replicas the variant may have; limits of pools can push it below what is declared now."""
    most = widest(draft, variant)
    if variant.pool is None or variant.fault is not None or not variant.state.target.exists:
        return most
    if variant.backing_off:
        return min(most, variant.sound if claim else replicas.healthy(variant))
    return max(0, min(most, variant.sound + _room(variant, claim)))


def widest(draft: Draft, variant: VariantDraft) -> int:
    """The most replicas it may have wherever its pool had room: what fails, or has no price, does not grow.

    A stand-in for which nothing presses has none; what runs of it goes as soon as the others are ready.
    """
    most = min(variant.spec.max_replicas, draft.state.spec.scaling.max_replicas)
    stuck = variant.pool is None or variant.fault is not None or not variant.state.target.exists
    if variant.rests and not stuck:
        return 0
    return min(most, variant.sound) if stuck or variant.backing_off or variant.cost is None else most


def _solve(draft: Draft, highs: list[int]) -> tuple[dict[int, int], float]:
    """The mix for the need. Never less capacity for a higher need, as long as demand is as steady and pools as free.

    Too little runs: add to it, at least as much as enough would be changed to. Enough runs: let go what even a cautious
    forecast does not need, but no more than leaves what runs now.
    """
    need = 1.0 if any(variant.need > 1e-9 for variant in draft.variants) else 0.0
    carried = carries_now(draft)
    if draft.pressed and draft.stand_ins:
        # money is short: also what runs and is needed may go for what is cheaper, once that is ready
        keep = min(draft.keep_ratio, carried) if carried >= 1.0 else 1.0
        return _asked_of(draft, highs, Asked(need, short=False, keep=keep, grows=True))[:2]
    if carried >= 1.0:
        return _asked_of(draft, highs, _enough(draft, need, min(draft.keep_ratio, carried)))[:2]
    if len(draft.variants) > 1 and carried > 0.0:
        # 10 run and a mix of 11 is cheaper: for a need of 9.9 it is moved to, so for 10.1 no mix of 10.5 will do
        _, missing, reach = _asked_of(draft, highs, _enough(draft, need, carried))
        if missing <= 0.0 and reach * carried > need:
            counts, missing, _ = _asked_of(draft, highs, Asked(reach * carried, short=True, keep=1.0, grows=True))
            if missing <= 0.0:
                return counts, missing
    return _asked_of(draft, highs, Asked(need, short=True, keep=1.0, grows=True))[:2]


def _enough(draft: Draft, need: float, keep: float) -> Asked:
    """What carries `keep` times the need, for least.

    A move to a cheaper mix starts new replicas although enough run: only while demand is steady, else it never pays.
    """
    return Asked(need, short=False, keep=keep, grows=draft.steady or claimed(draft) or firm_missing(draft))


def _asked_of(draft: Draft, highs: list[int], asked: Asked) -> tuple[dict[int, int], float, float]:
    draft.asked = asked
    return best_mix(draft, options_of(draft, asked, highs), asked.need)


def options_of(draft: Draft, asked: Asked, highs: list[int]) -> list[Option]:
    """The variants as the search sees them, within `highs`."""
    if not asked.grows:
        highs = [min(high, variant.sound) for variant, high in zip(draft.variants, highs, strict=True)]
    made = (_option(draft, v, high, asked.short, asked.keep) for v, high in zip(draft.variants, highs, strict=True))
    options = [option for option in made if option is not None]
    if draft.pressed or not draft.stand_ins:
        return options
    return [_unwelcome(draft, option, options) for option in options]


def _unwelcome(draft: Draft, option: Option, options: list[Option]) -> Option:
    """Where only room is short, a stand-in counts as ten times as dear as the dearest of the others that run.

    So as few as can be take the rest of the need, and others move to dearer pools first where that makes room.
    """
    if not draft.variants[option.index].spec.degraded:
        return option
    dearest = max((o.cost / o.share for o in options if not draft.variants[o.index].spec.degraded), default=0.0)
    factor = max(1.0, UNWELCOME * dearest * option.share / option.cost)
    return replace(option, cost=option.cost * factor, new_cost=option.new_cost * factor, unwelcome=factor)


def left_over(draft: Draft, options: list[Option], counts: Mapping[int, int], need: float) -> float:
    """The part of the need that these counts do not carry."""
    members = [option for option in options if counts.get(option.index, 0) > 0]
    carried = sum(option.share * counts[option.index] for option in sharing(draft, members))
    missing = need - carried
    return missing if missing > 1e-9 else 0.0


def carries_now(draft: Draft) -> float:
    """The part of the need that the replicas that run and start can carry together; infinite without any need."""
    running = [variant for variant in draft.variants if replicas.healthy(variant)]
    rates = balance.mix_rates(draft, running)
    if all(variant.need <= 1e-9 for variant in draft.variants):
        return math.inf
    return sum(replicas.healthy(v) * rate / max(v.need, 1e-12) for v, rate in zip(running, rates, strict=True))


def firm_missing(draft: Draft) -> bool:
    """Too little runs where nothing is taken away."""
    if draft.firm <= 0.0:
        return False
    firm = [variant for variant in draft.variants if not variant.spot]
    kept = sum(replicas.healthy(v) * v.rate / v.need for v in firm if v.need > 1e-9)
    return kept < draft.firm - 1e-9 and any(variant.high > variant.sound for variant in firm)


def claimed(draft: Draft) -> bool:
    """Some replicas may not stay where they are, so others must be allowed to grow."""
    return any(variant.doomed or variant.backing_off or variant.high < variant.sound for variant in draft.variants)


def _option(draft: Draft, variant: VariantDraft, high: int, short: bool, keep: float) -> Option | None:
    stays = short or variant.fault is not None
    low = max(variant.spec.min_replicas, variant.sound if stays else 0)
    if draft.crowded is not None and not draft.pressed and not variant.spec.degraded:
        low = max(low, variant.plain)  # stand-ins carry what the others cannot, and take no place of theirs
    low = min(low, high)
    if high <= 0 and low <= 0:
        return None
    per_need = 1e12 if variant.need <= 1e-12 else variant.rate / (variant.need * keep)
    share = clip(per_need, 1e-9, 1e12)
    cost = comparable_cost(variant)
    # where money is short for good a start-up is no reason against what is cheaper, only against going back
    saves = draft.pressed and variant.spec.degraded
    new = cost if saves else cost * (1.0 + variant.startup_s / PAYBACK_S)
    return Option(variant.index, share, cost, new, variant.sound, low, high, not variant.spot)


def comparable_cost(variant: VariantDraft) -> float:
    """Cost of a replica for an hour. Where it is unknown nothing may grow, and what runs counts as free: it stays."""
    if variant.cost is None:
        return 1e-6
    return max(variant.cost * spot.dearer(variant) if variant.spot else variant.cost, 1e-6)


def best_mix(draft: Draft, options: list[Option], need: float) -> tuple[dict[int, int], float, float]:
    """(counts, what found no room, what they carry): the cheapest over sets of variants, at equal cost the largest.

    Sets, because what a replica carries depends on whom it shares traffic with.
    """
    if len(options) <= 1:
        counts, missing = cheapest(options, need)
        return counts, missing, sum(option.share * counts[option.index] for option in options)
    best: tuple[dict[int, int], float, float] = {}, math.inf, 0.0
    so_far = (math.inf, math.inf, math.inf, 0.0)
    for members in _sets(options):
        alike = sharing(draft, members)
        counts, missing = cheapest(alike, need, draft.firm * need)
        lacks = round(firm_lack(alike, counts, draft.firm * need), 9) if draft.firm > 0.0 else 0.0
        missing = missing if missing > 1e-9 else 0.0
        cost = sum(option.price(counts.get(option.index, 0)) for option in alike)
        share = sum(option.share * counts.get(option.index, 0) for option in alike)
        found = (missing, lacks, round(cost, 9), -share)
        if found < so_far:
            best, so_far = (counts, missing, share), found
    return best


def firm_lack(options: list[Option], counts: Mapping[int, int], firm: float) -> float:
    """The part of `firm`, in shares of the need, that does not run where nothing is taken away."""
    if firm <= 0.0:
        return 0.0
    return max(0.0, firm - sum(option.share * counts.get(option.index, 0) for option in options if option.firm))


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


def sharing(draft: Draft, members: list[Option]) -> list[Option]:
    """What each member carries next to the others.

    Even dispatch: all get the same rate, the slowest one's. Otherwise the fewest requests win, which evens out the
    number in flight: a fast replica beside one that may hold 120 holds 120 too, though alone it could hold 400.
    """
    if len(members) <= 1:
        return members
    rates = balance.mix_rates(draft, [draft.variants[option.index] for option in members])
    return [
        Option(
            *(o.index, o.share * rate / max(alone, 1e-12), o.cost, o.new_cost, o.running, o.low, o.high),
            *(o.firm, o.unwelcome),
        )
        for o, rate, alone in zip(members, rates, (draft.variants[o.index].rate for o in members), strict=True)
    ]


def _of_few(draft: Draft, highs: list[int], counts: dict[int, int], missing: float) -> tuple[dict[int, int], float]:
    """The same within the service's maximum over all variants: the cheapest that carries the need.

    At most 3: two fast ones that carry it, and not 5 slow ones, nor a third fast one. What runs may go for that. Where
    nothing does, those whose replicas carry most are preferred, and stand-ins come last.
    """
    most, asked = draft.state.spec.scaling.max_replicas, draft.asked
    if sum(counts.values()) <= most or len(draft.variants) == 1 or asked is None:
        return counts, missing
    options = options_of(draft, asked, highs)
    declared = [replace(o, low=min(o.low, draft.variants[o.index].spec.min_replicas)) for o in options]
    for allowed in (options, declared):
        found = _cheapest_of_few(draft, allowed, asked.need, most)
        if found is not None:
            return found, 0.0
    fewest = {option.index: option.low for option in declared}
    left = most - sum(fewest.values())
    for option in sorted(declared, key=lambda o: (draft.variants[o.index].spec.degraded, -o.share, o.index)):
        more = int(clip(left, 0, option.high - option.low))
        fewest[option.index] += more
        left -= more
    return fewest, left_over(draft, declared, fewest, asked.need)


def _cheapest_of_few(draft: Draft, options: list[Option], need: float, most: int) -> dict[int, int] | None:
    best, so_far = None, (math.inf, math.inf, 0.0)
    for members in _sets(options):
        alike = sharing(draft, members)
        counts = cheapest_of_few(alike, most, need, draft.firm * need)
        if counts is None:
            continue
        cost = sum(option.price(counts.get(option.index, 0)) for option in alike)
        share = sum(option.share * counts.get(option.index, 0) for option in alike)
        found = (round(firm_lack(alike, counts, draft.firm * need), 9), round(cost, 9), -share)
        if found < so_far:
            best, so_far = counts, found
    return best


def _fit_total(draft: Draft) -> None:
    """Within the service's maximum, what only stays until it is replaced gives way to what is placed."""
    over = draft.wanted - draft.state.spec.scaling.max_replicas
    if len(draft.variants) == 1:
        return
    for variant in draft.variants:
        fewer = int(clip(over, 0, variant.wanted - variant.placed))
        variant.wanted -= fewer
        over -= fewer


def _alone(draft: Draft) -> int:
    """Replicas the need calls for, before any limit: of the cheapest variant by cost for its capacity."""
    able = [v for v in draft.variants if v.rate > 0.0 and (draft.pressed or not v.spec.degraded)]
    if not able:
        return 0
    best = min(able, key=lambda v: (comparable_cost(v) * v.need / v.rate, v.index))
    return min(pools.UNLIMITED, math.ceil(best.need / best.rate - 1e-9))
