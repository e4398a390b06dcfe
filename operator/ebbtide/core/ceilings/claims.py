"""Replica by replica, in order, what every ceiling that is tight can pay: who stays, who gives way, who is raised.

Replicas are taken in order: minimums that may go, then by priority, then evenly among equals, then what somebody else
raised where a policy says Correct, so that what comes later has what is left. Each is kept while every ceiling that it
falls under can pay it for W more, and raised only where it can be paid for as long again and for its start-up (of those
that are raised together the longest). Then raises are checked once more against all that still runs, that which gives
way included: what is freed counts once it is free. A replica that was let go frees W of its rate, and a raise takes 2 W
and more, so nothing goes to and fro. What replaces stand-ins, or is replaced by them, comes after all that runs
(`exchange`). Before all that comes what thresholds that were reached say.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from ebbtide.core import release
from ebbtide.core.ceilings import exchange
from ebbtide.core.ceilings.lines import NOTHING, Line, PolicyDraft, Tariff
from ebbtide.core.ceilings.nodes import Tier, replicas
from ebbtide.core.ceilings.pacing import LEAST
from ebbtide.core.ceilings.stake import Known, Part, Stake, exit_s, takes, tariff_for
from ebbtide.model.reasons import Code
from ebbtide.model.spec import DEFAULT_PRIORITY, ThresholdAction


@dataclass(frozen=True, slots=True)
class _Claim:
    """One replica. Ordered by what goes last."""

    order: tuple[int, int, float, str, int]
    stake: Stake
    part: Part
    rises: bool
    spared: bool
    nodes: tuple[str, ...] = ()  # of its pods


def decide(stakes: Iterable[Stake], known: Known) -> None:
    """Who gives way where not all fits."""
    claims: list[_Claim] = []
    stakes = list(stakes)
    late = exchange.late(stakes)
    for policy in {id(policy): policy for stake in stakes for policy in stake.policies}.values():
        for line in policy.lines:
            line.is_tight = not line.fits
    for stake in stakes:
        for policy in stake.policies:
            if policy.refuses:
                refuse_raises(stake, policy, stake.parts, _unknown(policy.refuses))
            _refuse_unpriced(stake, policy, known)
            _act(stake, policy)
        stake.tight = [line for policy in stake.policies for line in policy.lines_of(stake.priority) if line.is_tight]
        if stake.tight:
            claims += _claims(stake, late)
    lines = list({id(line): line for claim in claims for line in claim.stake.tight}.values())
    loose = [stake for stake in stakes if not stake.tight]
    for line in lines:
        line.open()
    claims.sort(key=lambda claim: claim.order)
    _unclaim(claims, lines, loose)
    _set_exits_aside(claims, known)
    _unclaim(claims, lines, loose)
    rising = [claim for claim in claims if _stands(claim, known)]
    _note_freed(claims)
    _unclaim(claims, lines, loose)
    for claim in rising:
        _rises(claim, known)
    exchange.make_room(stakes, known)


def _unclaim(claims: Iterable[_Claim], lines: Iterable[Line], loose: Iterable[Stake]) -> None:
    """Nobody is on the GPUs that are paid for anyway yet, and nothing is raised; the `loose` stay whatever happens."""
    for line in lines:
        line.margin = NOTHING
    for policy in {id(policy): policy for claim in claims for policy in claim.stake.policies}.values():
        policy.unclaim()
    for stake in loose:
        for part in stake.parts:
            for tier, names in replicas(part):
                for policy in stake.policies if tier <= Tier.KEPT else ():
                    policy.taken.update(names)


def _note_freed(claims: Iterable[_Claim]) -> None:
    """Nodes that nobody stays on, for the first of those who give way there."""
    for claim in claims:
        for policy in claim.stake.policies if claim.nodes and not claim.rises else ():
            gone = {name for name in claim.nodes if name in policy.machines} - policy.taken
            policy.taken |= gone
            freed = policy.freed.setdefault(id(claim.part), [0, 0])
            freed[0] += sum(policy.machines[name].now for name in gone)
            freed[1] += sum(policy.machines[name].most for name in gone)


def _claims(stake: Stake, late: exchange.Late) -> list[_Claim]:
    """Its replicas, each with its share of all that are planned, so that equals shrink alike."""
    behind = any(stake.priority <= late.get(id(policy), LEAST) for policy in stake.policies)
    found, total, index = [], max(1, sum(part.floor + part.kept + part.raised for part in stake.parts)), 0
    for rises in (False, True):
        for part in stake.parts:
            at = part.fixed - part.missing + part.passing
            nodes = [] if rises else part.nodes[at:]
            for number in range(part.raised if rises else part.floor + part.kept):
                index += 1
                least = max(part.floor, part.spared)
                foreign = not rises and number >= max(least, part.floor + part.kept - part.foreign)
                rank = 3 if foreign else 2 if rises and behind else int(rises or number >= least)
                order = (rank, -stake.priority, index / total, stake.key, index)
                names = nodes[number] if number < len(nodes) else ()
                found.append(_Claim(order, stake, part, rises, not rises and number < part.spared, names))
    return found


def _stands(claim: _Claim, known: Known) -> bool:
    """Take it from every line that is tight, or note that it does not fit; whether it is a raise that fits."""
    if not claim.rises and claim.part.nodes and claim.part.short and not claim.spared:
        _follow(claim)  # who goes is chosen by node: none stays that would go before one that cannot be paid
        return False
    needs, short = list(_needs(claim, known)), []
    for line, keep, rise in needs:
        need = keep + line.extra(keep, rise) if claim.rises else keep - _exits(claim, line, keep, known)
        room = line.left - (line.slack if claim.rises else NOTHING)
        # a raise onto a free GPU takes nothing, and keeps its node: not while others go for want of that money
        lacks = keep or need or (claim.rises and not line.policy.paid_anyway(claim.part.variant.pool))
        if room < need and lacks and not claim.spared:
            short.append((room / need if need else room, line, need))
    if short:
        _refused(claim, short)
        return False
    for line, keep, rise in needs:
        extra = line.extra(keep, rise) if claim.rises else -_exits(claim, line, keep, known)
        line.left -= keep + extra
        line.margin += extra if claim.rises else NOTHING
    _claim_paid(claim)
    return claim.rises


def _set_exits_aside(claims: Iterable[_Claim], known: Known) -> None:
    for claim in claims:
        for line, keep, _ in () if claim.rises else _needs(claim, known):
            line.left -= _exits(claim, line, keep, known)
        if not claim.rises:
            _claim_paid(claim)


def _exits(claim: _Claim, line: Line, keep: Decimal, known: Known) -> Decimal:
    """What a replica that runs still takes if it gives way: of each that is taken from the outset, whoever stays.

    14 replicas of 1.60 USD/h and money for W of 3: the 11 that go cost 0.15 USD more until they are gone.
    """
    tariff = tariff_for(claim.part, line.policy, known)
    if line.is_rate or tariff is None:
        return NOTHING
    leaving_s = exit_s(claim.part.variant, line.policy.state.spec)
    return min(keep, _due(claim, line) * line.takes(tariff, leaving_s))


def _due(claim: _Claim, line: Line) -> int:
    """GPUs that the policy pays for its sake."""
    return line.policy.due(claim.nodes, claim.part.gpus, rate=line.is_rate)


def _follow(claim: _Claim) -> None:
    claim.part.out += 1
    for policy in claim.stake.policies:
        name = policy.state.spec.name
        if name in claim.stake.refused_by:
            claim.stake.refused_by[name] += 1


def _rises(claim: _Claim, known: Known) -> None:
    """What gives way still runs: until it is gone its money is not free."""
    needs, short = list(_needs(claim, known)), []
    for line, keep, rise in needs:
        need = keep + line.extra(keep, rise)
        if line.free < need and (need or not line.policy.paid_anyway(claim.part.variant.pool)):
            short.append((line.free / need if need else line.free, line, need))
    if short:
        claim.stake.waits = True
        _refused(claim, short)
        return
    for line, keep, rise in needs:
        extra = line.extra(keep, rise)
        line.free -= keep + extra
        line.margin += extra
    _claim_paid(claim)


def _claim_paid(claim: _Claim) -> None:
    """The replica stays on its nodes; one that is raised is put on GPUs that are paid for anyway, or brings a node."""
    for policy in claim.stake.policies:
        if claim.rises:
            policy.put(claim.part.variant.pool, claim.part.gpus, claim.part.pods)
        else:
            policy.taken.update(claim.nodes)


def _needs(claim: _Claim, known: Known) -> Iterable[tuple[Line, Decimal, Decimal]]:
    for line in claim.stake.tight:
        tariff = tariff_for(claim.part, line.policy, known)
        variant, gpus = claim.part.variant, claim.part.gpus
        paid = line.policy.has_paid(variant.spec.pool, gpus, claim.part.pods)
        # of a node that stays whoever leaves, nothing is saved by letting go
        if paid if claim.rises else line.policy.paid_anyway(variant.pool):
            yield line, NOTHING, NOTHING
        elif tariff is not None:
            keep, rise = takes(line, tariff, claim.part)
            comes = line.policy.comes_with(variant.pool, gpus, claim.part.pods)
            brought = comes if claim.rises else _due(claim, line)
            bound = retaken(line, tariff, claim.part, brought) if claim.rises else NOTHING
            yield line, keep * brought / gpus - bound, rise * brought / gpus - bound


def _refused(claim: _Claim, short: Iterable[tuple[Decimal, Line, Decimal]]) -> None:
    """By lines with the share of the need that they have left: of several the one with the least is what binds."""
    _, line, need = min(short, key=lambda item: item[0])
    stake, part, name = claim.stake, claim.part, line.policy.state.spec.name
    if claim.rises:
        part.refused += 1
    else:
        part.out, part.short = part.out + 1, True
    stake.refused_by[name] = stake.refused_by.get(name, 0) + 1
    if stake.blocked is None:
        stake.blocked, stake.blocked_need = line, need


def _act(stake: Stake, policy: PolicyDraft) -> None:
    """What thresholds that were reached do."""
    acts, name = policy.acting, policy.state.spec.name
    if ThresholdAction.FREEZE in acts:
        refuse_raises(stake, policy, stake.parts, _reached(name, acts[ThresholdAction.FREEZE]))
    why = limited(stake, policy)
    if why:
        for part in stake.parts:
            least = max(0, part.spared - part.floor)
            if part.kept > least:
                part.out, part.kept = part.out + part.kept - least, least
                stake.refused_by[name] = stake.refused_by.get(name, 0) + part.out
        refuse_raises(stake, policy, stake.parts, _reached(name, why), minimums=False)
        if any(part.out for part in stake.parts):
            _hold(stake, name, _reached(name, why))
    if ThresholdAction.HOLD_SCALE_UP in acts:
        why = acts[ThresholdAction.HOLD_SCALE_UP]
        refuse_raises(stake, policy, stake.parts, _reached(name, why), minimums=False)


def limited(stake: Stake, policy: PolicyDraft) -> str:
    """Why a threshold lets the service have its minimums alone; empty: it does not."""
    acts, spec = policy.acting, stake.draft.state.spec
    if ThresholdAction.SUSPEND_BATCH in acts and spec.background:
        return f"{acts[ThresholdAction.SUSPEND_BATCH]}; its serviceClass is {spec.service_class.value}"
    if ThresholdAction.LIMIT_LOW_PRIORITY in acts and spec.priority < DEFAULT_PRIORITY:
        return f"{acts[ThresholdAction.LIMIT_LOW_PRIORITY]}; a priority of {spec.priority} is below {DEFAULT_PRIORITY}"
    return ""


def _unknown(why: str) -> tuple[Code, str]:
    return Code.POLICIES_UNKNOWN, f"{why}: nothing under it is raised"


def _reached(policy: str, why: str) -> tuple[Code, str]:
    return Code.THRESHOLD_REACHED, f"CostPolicy {policy}: {why}"


def refuse_raises(
    stake: Stake, policy: PolicyDraft, parts: Iterable[Part], why: tuple[Code, str], *, minimums: bool = True
) -> None:
    """All of them; of minimums too where nobody knows what they cost."""
    for part in parts:
        more = part.raised + (part.missing - part.barred if minimums else 0)
        if more > 0:
            name = policy.state.spec.name
            part.refused, part.raised = part.refused + more, 0
            part.barred = part.missing if minimums else part.barred
            stake.refused_by[name] = stake.refused_by.get(name, 0) + more
            _hold(stake, name, why)


def _hold(stake: Stake, policy: str, why: tuple[Code, str]) -> None:
    """The first that does so says why."""
    if stake.held is None:
        stake.held, stake.held_by = why, policy


def _refuse_unpriced(stake: Stake, policy: PolicyDraft, known: Known) -> None:
    """Raises of variants of which nobody knows what they cost in the policy's currency."""
    unpriced = [part for part in stake.parts if tariff_for(part, policy, known) is None]
    spec, pools = policy.state.spec, ", ".join(sorted({part.variant.spec.pool for part in unpriced}))
    why = f"CostPolicy {spec.name}: what GPUs of {pools} cost in {spec.currency} is not known"
    refuse_raises(stake, policy, unpriced, _unknown(why))


def retaken(line: Line, tariff: Tariff, part: Part, brought: int) -> Decimal:
    """What is bound already for those of the GPUs that come with it whose node would go without it."""
    pool, gpus = part.variant.pool, line.policy.retaken_by(part.variant.spec.pool, brought)
    if pool is None or not gpus:
        return NOTHING
    return gpus * line.takes(tariff, release.stays_s(pool.state, pool.memory))
