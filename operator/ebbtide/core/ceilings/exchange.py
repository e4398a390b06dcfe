"""Replicas of one service that are exchanged for its stand-ins, or back, under a ceiling that leaves no room for both.

Raises of such a service come after all that runs, for what they cost is to come from what they replace; raises of
others that matter no more come after these, else they would take what was let go for them. Where not even the first
stand-in can be paid, one of the others goes before it comes, one at a time. Worked example: four of 3.00 USD an hour
under a ceiling of 12, and stand-ins of 1.00. One goes, 3.00 are free once its pod is gone, three stand-ins start, and
when they are ready the next ones go.
"""

from collections.abc import Iterable
from decimal import ROUND_CEILING, Decimal

from ebbtide.core.ceilings.lines import NOTHING
from ebbtide.core.ceilings.stake import Known, Part, Stake, takes, tariff_for
from ebbtide.core.ceilings.words import replicas
from ebbtide.model.reasons import Code

Late = dict[int, int]
"""The highest priority of those that are exchanged, by policy's id."""


def late(stakes: Iterable[Stake]) -> Late:
    """Whose raises come after all that runs."""
    found: Late = {}
    for stake in stakes:
        if stake.draft.stand_ins and _exchanges(stake):
            for policy in stake.policies:
                found[id(policy)] = max(found.get(id(policy), stake.priority), stake.priority)
    return found


def _exchanges(stake: Stake) -> bool:
    """Stand-ins are raised while others are to go, or the other way round."""
    rising = {part.variant.spec.degraded for part in stake.parts if part.raised}
    return any(part.variant.spec.degraded is not each for part in _going(stake) for each in rising)


def _going(stake: Stake) -> list[Part]:
    """Of these some run only until what replaces them is ready."""
    return [part for part in stake.parts if part.runs and part.variant.count > part.variant.wanted]


def make_room(stakes: Iterable[Stake], known: Known) -> None:
    """Let go what must go before its stand-in can come."""
    for stake in stakes:
        if stake.draft.pressed and stake.movable and _stuck(stake):
            _let_go(stake, known)


def _stuck(stake: Stake) -> bool:
    """Stand-ins are wanted, none was granted, and nothing is on its way that could change that."""
    draft = stake.draft
    if Code.KEEPS_COVER not in (code for code, _ in draft.limits) or stake.waits or stake.held is not None:
        return False
    for part in stake.parts:
        if part.raised > part.refused or part.out or part.leaving or part.terminating or part.variant.starting:
            return False
    return stake.blocked is not None or draft.observed >= draft.state.spec.scaling.max_replicas


def _let_go(stake: Stake, known: Known) -> None:
    """The dearest that only waits for its stand-in; more than one only where a stand-in costs more than it."""
    going = [part for part in _going(stake) if part.kept and not part.variant.spec.degraded]
    coming = [p for p in stake.parts if p.variant.spec.degraded and p.variant.wanted > p.variant.observed]
    if not going or not coming:
        return
    goes, number = going[-1], max(1, _needed(stake, going[-1], coming[0], known))
    if number > goes.kept or sum(part.runs for part in stake.parts) <= number:
        return
    goes.out += number
    name, other, most = goes.variant.spec.name, coming[0].variant.spec.name, stake.draft.state.spec.scaling.max_replicas
    stake.exchanged = f"{replicas(number)} of {name} given up first, so that {other} can be paid"
    if stake.blocked is None:
        stake.held_by = ""
        stake.held = Code.USES_DEGRADED, f"at the maximum of {most} {replicas(number)} of {name} given up for {other}"


def _needed(stake: Stake, goes: Part, comes: Part, known: Known) -> int:
    """How many must go before the first stand-in can be paid; more than there are where it never could be."""
    number = 0
    for policy in stake.policies:
        tariff, other = tariff_for(goes, policy, known), tariff_for(comes, policy, known)
        frees = tariff is not None and not policy.paid_anyway(goes.variant.pool)
        for line in policy.lines_of(stake.priority):
            if line.fits:
                continue
            if other is None or tariff is None or not frees:
                return goes.kept + 1
            missing = takes(line, other, comes)[1] - line.free
            keep: Decimal = takes(line, tariff, goes)[0]
            if missing > NOTHING:
                number = max(number, int((missing / keep).to_integral_value(ROUND_CEILING)) if keep else goes.kept + 1)
    return number
