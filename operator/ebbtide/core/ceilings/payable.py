"""How many replicas of each variant every ceiling can pay just now: what is planned, and as many more as still fit.

Each variant is asked alone: what one of them is raised by, no other has. The admission policy (manifests/admission)
refuses more, also while Ebbtide is down. So it must never be less than what is planned, nor more than what Ebbtide
itself would raise the variant to.

Worked example: 10.00 USD of a day are free, and a replica costs 2.50 USD/h. It takes 0.67 for W of 960 s, the first of
those raised together 0.75 more, for a further W and 120 s of start-up: (10.00 - 0.75) / 0.67 are 13 more.
"""

from collections.abc import Iterable
from decimal import Decimal

from ebbtide.core import isolation
from ebbtide.core.ceilings import templates
from ebbtide.core.ceilings.claims import limited, retaken
from ebbtide.core.ceilings.lines import NOTHING, Line, PolicyDraft, Tariff, pod_gpus
from ebbtide.core.ceilings.report import payable_words
from ebbtide.core.ceilings.stake import Known, Part, Stake, takes, tariff_for
from ebbtide.core.work import Draft, VariantDraft
from ebbtide.model.spec import ThresholdAction


def note(stakes: list[Stake], known: Known) -> None:
    """Fill `payable` of every variant that a policy pays for, once it is decided who gives way and who is raised.

    What gives way still counts, as for raises: what is freed counts once it is free.
    """
    for policy in {id(policy): policy for stake in stakes for policy in stake.policies}.values():
        policy.unclaim()
        for line in policy.lines:
            line.open()
            line.margin = NOTHING
    for stake in stakes:
        for policy in stake.policies:
            for part in stake.parts:
                _grant(part, stake, policy, known)
    for stake in stakes:
        try:
            for part in (*stake.parts, *stake.absent):
                _note(part, stake, known)
            for part in stake.parts:
                templates.note(part, stake, known)
        except Exception as error:  # a spec that failed an earlier step fails here too, and others must be raised
            failure = isolation.failure_of(stake.key, "payable", error)
            nothing_more([stake.draft], isolation.describe(failure))


def nothing_more(drafts: Iterable[Draft], why: str) -> None:
    """Nobody knows what is left, so of all services what is planned is all that may be declared."""
    for draft in drafts:
        for variant in draft.variants:
            variant.payable, variant.payable_because = _planned(draft, variant), why
            if variant.spec.engine is not None:
                variant.template_gpus, variant.template_because = variant.state.target.template_gpus, why


def _planned(draft: Draft, variant: VariantDraft) -> int:
    """What nobody writes stays as it is declared, whatever is recommended."""
    return variant.observed if draft.no_write is not None else variant.count


def _grant(part: Part, stake: Stake, policy: PolicyDraft, known: Known) -> None:
    """Take what raises that are made take."""
    granted, node = max(0, part.raised - part.refused), policy.comes_with(part.variant.pool, part.gpus, part.pods)
    brought = sum(policy.put(part.variant.pool, part.gpus, part.pods) for _ in range(granted))
    policy.granted[id(part)] = brought
    tariff = tariff_for(part, policy, known) if brought else None
    if tariff is None:
        return
    for line in policy.lines_of(stake.priority):
        extra = line.extra(*_of_a_node(line, tariff, part, node))
        line.free -= _of_a_node(line, tariff, part, brought)[0] + extra
        line.margin += extra


def _note(part: Part, stake: Stake, known: Known) -> None:
    variant = part.variant
    if not part.gpus and (variant.gpus == 0 or variant.state.pods):
        return  # it costs nothing
    planned = _planned(stake.draft, variant)
    most = max(planned, variant.spec.max_replicas)
    more, words = _more(part, stake, known, most)
    if planned + more > most:
        more, words = most - planned, f"maxReplicas is {variant.spec.max_replicas}; {words}"
    variant.payable, variant.payable_because = planned + more, words


def _more(part: Part, stake: Stake, known: Known, most: int) -> tuple[int, str]:
    """How many more every ceiling can pay, and the one that can pay the fewest in words; `most` is enough to know."""
    if not part.gpus:
        return 0, "how many GPUs a replica holds is not known"
    fewest: tuple[int, Line, Decimal] | None = None
    for policy in stake.policies:
        tariff, spec = tariff_for(part, policy, known), policy.state.spec
        stop = _stop(stake, policy)
        if stop:
            return 0, stop
        if tariff is None:
            pool = part.variant.spec.pool
            return 0, f"CostPolicy {spec.name}: what GPUs of {pool} cost in {spec.currency} is not known"
        for line in policy.lines_of(stake.priority):
            more, need = _fitting(line, tariff, part, most)
            if fewest is None or more < fewest[0]:
                fewest = more, line, need
    if fewest is None:
        return 0, "no ceiling is known yet"
    return fewest[0], payable_words(*fewest[1:])


def _stop(stake: Stake, policy: PolicyDraft) -> str:
    """Why the policy lets nothing of the service grow, whatever is left; empty: it does."""
    if policy.refuses:
        return f"{policy.refuses}: nothing under it is raised"
    stopping = (ThresholdAction.HOLD_SCALE_UP, ThresholdAction.FREEZE)
    why = next((policy.acting[action] for action in stopping if action in policy.acting), limited(stake, policy))
    return f"CostPolicy {policy.state.spec.name}: {why}" if why else ""


def _fitting(line: Line, tariff: Tariff, part: Part, most: int) -> tuple[int, Decimal]:
    """(more replicas that the line can pay, what the next one takes).

    In the order of `room`: those on nodes of which the policy does not pay for all, on empty ones that would go, of
    which a part is bound already, on GPUs that are paid for anyway, and on as many nodes as it can pay. Where nodes are
    not paid, a node is the replica's own GPUs.
    """
    policy, pool, pods = line.policy, part.variant.pool, part.pods
    room, node = policy.room(part.variant.spec.pool), policy.comes_with(pool, part.gpus, pods)
    if line.free < NOTHING and not policy.paid_anyway(pool):
        return 0, takes(line, tariff, part)[1]
    keep, rise = _of_a_node(line, tariff, part, node)
    extra = line.extra(keep, rise)
    stays = keep - retaken(line, tariff, part, node)
    size, first = pod_gpus(part.gpus, pods), stays if room.going and not room.opens else keep
    carries = pods if room.size not in (0, size) else policy.carries(pool, node, part.gpus, pods)
    free, found = line.free - extra, 0
    for number, need, each in ((-(-room.opens // pods), keep, pods), (room.going // node, stays, carries)):
        paid = _times(free, need, min(most, number))
        found, free = found + paid * each, free - paid * need
        if paid < number:
            return found // pods, first + extra
    return (found + room.fits(size) + _times(free, keep, most) * carries) // pods, first + extra


def _times(free: Decimal, need: Decimal, most: int) -> int:
    """How often it can be paid."""
    return min(most, max(0, int(free // need))) if need > NOTHING else most


def _of_a_node(line: Line, tariff: Tariff, part: Part, node: int) -> tuple[Decimal, Decimal]:
    """What the GPUs take that come for a replica: once they run, and to begin with."""
    keep, rise = takes(line, tariff, part)
    return (keep, rise) if node == part.gpus else (keep * node / part.gpus, rise * node / part.gpus)
