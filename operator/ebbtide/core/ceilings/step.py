"""Hold every plan under every ceiling. Lower priorities give way first; what is freed counts once it is free.

First each policy is asked whether all that is planned fits. Where it does not, replicas are taken in order (minimums
that may go, then by priority, then evenly among equals): each is kept while every ceiling that it falls under can pay
it for W more, and raised only where it can be paid for as long again and for its start-up. Once a running replica is
refused, none of lower priority stays; once a raise is, none of lower priority is raised. Then raises are checked once
more against all that still runs, that which gives way included. A replica that was let go frees W of its rate, and a
raise takes 2 W and more, so nothing goes to and fro. Must never lower what is fixed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from ebbtide.core import isolation
from ebbtide.core.ceilings import lines as money
from ebbtide.core.ceilings.lines import Line, PolicyDraft, Tariff
from ebbtide.core.ceilings.report import refusal_words
from ebbtide.core.ceilings.stake import Part, Stake, exit_s, stake_of, tariff_for
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import POLICY_KIND

_Known = dict[tuple[str, str], Tariff | None]


def step(cycle: Cycle) -> None:
    """Lower what does not fit, and refuse raises that do not. An error here raises nothing anywhere."""
    unknown = _unknown(cycle)
    if cycle.snapshot.policies:
        try:
            _hold(cycle)
        except Exception as error:
            failure = isolation.failure_of("all services", "ceilings", error)
            unknown = f"{isolation.describe(failure)} ({failure.trace})"
    if unknown:
        for draft in isolation.sound(cycle):
            _raise_nothing(draft, unknown)


def _hold(cycle: Cycle) -> None:
    cycle.policies = [
        money.open_policy(state, cycle.now_s, cycle.snapshot.cycle_s, _longest_exit_s(cycle))
        for state in cycle.snapshot.policies
    ]
    known: _Known = {}
    stakes = _stakes(cycle)
    for policy in cycle.policies:
        _bind_others(policy, cycle)
    for stake in stakes:
        _bind(stake, known)
    _decide(stakes, known)
    for stake in stakes:
        _apply(stake)
        _note(stake, known)


def _unknown(cycle: Cycle) -> str:
    """Why nobody knows which ceilings hold; empty: they are known."""
    unread = [item.message for item in cycle.snapshot.unreadable if item.kind == POLICY_KIND]
    sick = [source for source in cycle.snapshot.sources if source.name == "costpolicies" and not source.healthy]
    causes = [*unread, *(f"CostPolicies cannot be watched ({source.message or 'no answer'})" for source in sick)]
    return f"{'; '.join(causes)}: nothing is raised until it is known which ceilings hold" if causes else ""


def _longest_exit_s(cycle: Cycle) -> float:
    return max((exit_s(variant) for draft in cycle.drafts for variant in draft.variants), default=0.0)


def _stakes(cycle: Cycle) -> list[Stake]:
    """Services that fall under policies, by the policies' namespaces."""
    everywhere = [policy for policy in cycle.policies if not policy.state.spec.namespaces]
    within: dict[str, list[PolicyDraft]] = {}
    for policy in cycle.policies:
        for namespace in policy.state.spec.namespaces:
            within.setdefault(namespace, []).append(policy)
    found = []
    for draft in cycle.drafts:
        spec = draft.state.spec
        near = [*everywhere, *within.get(spec.namespace, ())]
        own = [policy for policy in near if policy.state.spec.selects(spec.namespace, spec.labels)]
        if own:
            found.append(stake_of(draft, own, cycle))
    return found


def _bind_others(policy: PolicyDraft, cycle: Cycle) -> None:
    """What nobody of ours holds: others' pods, idle GPUs."""
    for item in policy.state.others:
        pool = cycle.pools.get(item.pool)
        tariff, gpus = money.tariff_of(pool, policy.state.spec.currency), item.lasting + item.passing + item.idle
        policy.idle[item.pool] = policy.unclaimed[item.pool] = item.idle
        if tariff is None:
            _unpriced(policy, item.pool, gpus, pool is not None and pool.price is not None)
            continue
        now = tariff.dearest(policy.now_s, policy.now_s + 1)
        policy.rate += gpus * now
        policy.fixed_rate += gpus * now
        policy.wanted_rate += gpus * now
        for line in policy.lines:
            line.bound += item.lasting * line.takes(tariff, line.end_s - policy.now_s)
            line.bound += (item.passing + item.idle) * line.takes(tariff, policy.reserve_s)


def _bind(stake: Stake, known: _Known) -> None:
    """Add a service's replicas to the lines of its policies; one that is raised onto a paid GPU takes nothing."""
    for policy in stake.policies:
        policy.services += 1
        for part in stake.parts:
            tariff, holds = tariff_for(part, policy, known), part.runs + part.terminating
            if tariff is None:
                if holds:
                    pool = part.variant.pool
                    priced = pool is not None and pool.price is not None
                    _unpriced(policy, part.variant.spec.pool, holds * part.gpus, priced)
                continue
            now = tariff.dearest(policy.now_s, policy.now_s + 1) * part.gpus
            policy.rate += holds * now
            policy.fixed_rate += (part.fixed - part.missing + part.leaving + part.terminating) * now
            policy.wanted_rate += max(part.variant.wanted, part.fixed) * now
            paid = 0
            while paid < part.raised and policy.has_paid(part.variant.spec.pool, part.gpus):
                policy.unclaimed[part.variant.spec.pool] -= part.gpus
                paid += 1
            for line in policy.lines:
                keep, rise = _takes(line, tariff, part)
                line.bound += part.fixed * part.gpus * line.takes(tariff, line.end_s - policy.now_s)
                line.bound += (part.leaving + part.terminating) * part.gpus * line.takes(tariff, exit_s(part.variant))
                line.kept += (part.floor + part.kept) * keep
                line.raised += (part.raised - paid) * rise


def _takes(line: Line, tariff: Tariff, part: Part) -> tuple[Decimal, Decimal]:
    """(what a running replica takes, what one that is to be raised takes to begin with)."""
    reserve_s = line.policy.reserve_s
    keep = part.gpus * line.takes(tariff, reserve_s)
    return keep, part.gpus * line.takes(tariff, 2 * reserve_s + part.variant.startup_s)


def _unpriced(policy: PolicyDraft, pool: str, gpus: int, priced: bool) -> None:
    policy.unpriced[pool] = policy.unpriced.get(pool, 0) + gpus
    if priced:
        policy.wrong_currency.add(pool)


@dataclass(frozen=True, slots=True)
class _Claim:
    """One replica. Ordered by what goes last."""

    order: tuple[bool, int, float, str, int]
    stake: Stake
    part: Part
    rises: bool
    spared: bool


def _decide(stakes: Iterable[Stake], known: _Known) -> None:
    """Who gives way where not all fits."""
    claims: list[_Claim] = []
    for stake in stakes:
        refusals = [policy.refuses for policy in stake.policies if policy.refuses]
        if refusals:
            stake.refusal = refusals[0]
            _refuse_raises(stake)
        if any(not line.fits for policy in stake.policies for line in policy.lines):
            claims += _claims(stake)
    for line in {id(line): line for claim in claims for line in _tight(claim.stake)}.values():
        line.left = line.ceiling - line.spent - line.bound
        line.free = line.left - line.kept
    claims.sort(key=lambda claim: claim.order)
    _unclaim(claims)
    rising = [claim for claim in claims if _stands(claim, known)]
    _unclaim(claims)
    for claim in rising:
        _rises(claim, known)


def _unclaim(claims: Iterable[_Claim]) -> None:
    """Nobody is on the GPUs that are paid for anyway yet."""
    for policy in {id(policy): policy for claim in claims for policy in claim.stake.policies}.values():
        policy.unclaimed = dict(policy.idle)


def _tight(stake: Stake) -> list[Line]:
    return [line for policy in stake.policies for line in policy.lines if not line.fits]


def _claims(stake: Stake) -> list[_Claim]:
    """Its replicas, each with its share of all that are planned, so that equals shrink alike."""
    found, total, index = [], max(1, sum(part.floor + part.kept + part.raised for part in stake.parts)), 0
    for rises in (False, True):
        for part in stake.parts:
            for number in range(part.raised if rises else part.floor + part.kept):
                index += 1
                last = not rises and number < max(part.floor, part.spared)
                order = (not last, -stake.priority, index / total, stake.key, index)
                found.append(_Claim(order, stake, part, rises, not rises and number < part.spared))
    return found


def _stands(claim: _Claim, known: _Known) -> bool:
    """Take it from every line that is tight, or note that it does not fit; whether it is a raise that fits."""
    needs = list(_needs(claim, known))
    for line, keep, rise in needs:
        closed = line.closed_raise if claim.rises else line.closed_keep
        if claim.spared:
            continue
        if line.left < (rise if claim.rises else keep) or claim.stake.priority < closed:
            _refused(claim, line, rise if claim.rises else keep)
            return False
    for line, keep, _ in needs:
        line.left -= keep
    _claim_paid(claim)
    return claim.rises


def _rises(claim: _Claim, known: _Known) -> None:
    """What gives way still runs: until it is gone its money is not free."""
    needs = list(_needs(claim, known))
    for line, _, rise in needs:
        if line.free < rise:
            claim.stake.waits = True
            _refused(claim, line, rise)
            return
    for line, keep, _ in needs:
        line.free -= keep
    _claim_paid(claim)


def _claim_paid(claim: _Claim) -> None:
    """The replica is put on GPUs that its policies pay for anyway, where there are any."""
    pool, gpus = claim.part.variant.spec.pool, claim.part.gpus
    for policy in claim.stake.policies:
        if claim.rises and policy.has_paid(pool, gpus):
            policy.unclaimed[pool] -= gpus


def _needs(claim: _Claim, known: _Known) -> Iterable[tuple[Line, Decimal, Decimal]]:
    for line in _tight(claim.stake):
        tariff = tariff_for(claim.part, line.policy, known)
        if claim.rises and line.policy.has_paid(claim.part.variant.spec.pool, claim.part.gpus):
            yield line, money.NOTHING, money.NOTHING
        elif tariff is not None:
            yield (line, *_takes(line, tariff, claim.part))


def _refused(claim: _Claim, line: Line, need: Decimal) -> None:
    stake, part = claim.stake, claim.part
    if claim.rises:
        part.refused += 1
        line.closed_raise = max(line.closed_raise, stake.priority)
    else:
        part.out += 1
        line.closed_keep = max(line.closed_keep, stake.priority)
        line.closed_raise = max(line.closed_raise, stake.priority)
    if stake.blocked is None:
        stake.blocked, stake.blocked_need = line, need


def _refuse_raises(stake: Stake) -> None:
    """All of them; of minimums too, for what they cost nobody knows."""
    for part in stake.parts:
        part.refused = part.raised + part.missing
        part.raised = 0


def _apply(stake: Stake) -> None:
    """Set the counts, and say why."""
    moved = [part for part in stake.parts if part.out or part.refused]
    if not moved:
        return
    code, text = refusal_words(stake)
    for part in moved:
        part.variant.count = max(0, part.variant.count - part.out - part.refused)
        part.variant.limited_by = code.value
    stake.draft.limits.append((code, text))
    stake.draft.note("ceilings", stake.draft.total, text)


def _note(stake: Stake, known: _Known) -> None:
    """What its policies say of it: who gave way, who is raised, and what is bound by that."""
    without = sum(part.out + part.refused for part in stake.parts)
    raised = any(part.variant.count > part.variant.observed for part in stake.parts)
    for policy in stake.policies:
        if without:
            policy.gave_way[stake.key] = without
        if raised and stake.draft.no_write is None:
            policy.raised.add(stake.key)
        for part in stake.parts:
            tariff, granted = tariff_for(part, policy, known), max(0, part.raised - part.refused)
            if tariff is not None:
                for line in policy.lines:
                    keep = _takes(line, tariff, part)[0]
                    line.granted += granted * keep
                    line.kept -= part.out * keep
                    line.bound += part.out * part.gpus * line.takes(tariff, exit_s(part.variant))


def _raise_nothing(draft: Draft, text: str) -> None:
    higher = [variant for variant in draft.variants if variant.count > variant.observed]
    for variant in higher:
        variant.count, variant.limited_by = variant.observed, Code.POLICIES_UNKNOWN.value
    if higher:
        draft.limits.append((Code.POLICIES_UNKNOWN, text))
        draft.note("ceilings", draft.total, text)
