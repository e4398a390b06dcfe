"""Hold every plan under every ceiling. Lower priorities give way first; what is freed counts once it is free.

First each policy is asked whether all that is planned fits. Where it does not, replicas are taken in order (minimums
that may go, then by priority, then evenly among equals), so that what comes later has what is left: each is kept while
every ceiling that it falls under can pay it for W more, and raised only where it can be paid for as long again and for
its start-up. Then raises are checked once more against all that still runs, that which gives way included. A replica
that was let go frees W of its rate, and a raise takes 2 W and more, so nothing goes to and fro. Must never lower what
is fixed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from ebbtide.core import isolation
from ebbtide.core.ceilings import lines as money
from ebbtide.core.ceilings.lines import Line, PolicyDraft, Tariff
from ebbtide.core.ceilings.report import policy_plans, refusal_words
from ebbtide.core.ceilings.stake import Part, Stake, exit_s, stake_of, tariff_for
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import POLICY_KIND, SERVICE_KIND

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
    known: _Known = {}
    stakes = _stakes(cycle)
    _note_unread(cycle)
    for policy in cycle.policies:
        _bind_others(policy, cycle)
    for stake in stakes:
        _bind(stake, known)
    _decide(stakes, known)
    for stake in stakes:
        _apply(stake)
        _note(stake, known)
    cycle.policy_plans = policy_plans(cycle.policies)


def _unknown(cycle: Cycle) -> str:
    """Why nobody knows which ceilings hold; empty: they are known."""
    unread = [item.message for item in cycle.snapshot.unreadable if item.kind == POLICY_KIND]
    sick = [source for source in cycle.snapshot.sources if source.name == "costpolicies" and not source.healthy]
    causes = [*unread, *(f"CostPolicies cannot be watched ({source.message or 'no answer'})" for source in sick)]
    return f"{'; '.join(causes)}: nothing is raised until it is known which ceilings hold" if causes else ""


def _stakes(cycle: Cycle) -> list[Stake]:
    """Opens the policies, and finds the services that fall under them, by the policies' namespaces."""
    states = cycle.snapshot.policies
    everywhere = [index for index, state in enumerate(states) if not state.spec.namespaces]
    within: dict[str, list[int]] = {}
    for index, state in enumerate(states):
        for namespace in state.spec.namespaces:
            within.setdefault(namespace, []).append(index)
    selected: list[tuple[Draft, list[int]]] = []
    exits_s = [0.0] * len(states)
    for draft in cycle.drafts:
        spec = draft.state.spec
        near = [*everywhere, *within.get(spec.namespace, ())]
        own = [index for index in near if states[index].spec.selects(spec.namespace, spec.labels)]
        selected += [(draft, own)] if own else []
        longest_s = max((exit_s(variant) for variant in draft.variants), default=0.0) if own else 0.0
        for index in own:
            exits_s[index] = max(exits_s[index], longest_s)
    cycle.policies = [
        money.open_policy(state, cycle.now_s, cycle.snapshot.cycle_s, exit_s)
        for state, exit_s in zip(states, exits_s, strict=True)
    ]
    return [stake_of(draft, [cycle.policies[index] for index in own], cycle) for draft, own in selected]


def _note_unread(cycle: Cycle) -> None:
    """What a service that cannot be read holds is not known: nothing is raised where it may fall."""
    for item in cycle.snapshot.unreadable:
        for policy in cycle.policies if item.kind == SERVICE_KIND else ():
            namespaces = policy.state.spec.namespaces
            if not namespaces or item.key.partition("/")[0] in namespaces:
                policy.unread = f"{item.kind} {item.key}"


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
            policy.fixed_rate += (part.fixed - part.missing + part.passing + part.leaving + part.terminating) * now
            policy.missing_rate += part.missing * now
            policy.wanted_rate += max(part.variant.wanted, part.fixed) * now
            paid = 0
            while paid < part.raised and policy.has_paid(part.variant.spec.pool, part.gpus):
                policy.unclaimed[part.variant.spec.pool] -= part.gpus
                paid += 1
            for line in policy.lines:
                keep, rise = _takes(line, tariff, part)
                line.bound += part.fixed * part.gpus * line.takes(tariff, line.end_s - policy.now_s)
                line.bound += (part.leaving + part.terminating) * part.gpus * line.takes(tariff, exit_s(part.variant))
                line.bound += part.passing * keep
                if policy.paid_anyway(part.variant.pool):
                    line.bound += (part.floor + part.kept) * keep
                else:
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
        for policy in stake.policies:
            if policy.refuses:
                _refuse_raises(stake, policy, stake.parts, policy.refuses)
            _refuse_unpriced(stake, policy, known)
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
        need = rise if claim.rises else keep
        if line.left < need and not claim.spared:
            _refused(claim, line, need)
            return False
    for line, keep, rise in needs:
        line.left -= rise if claim.rises else keep
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
    for line, _, rise in needs:
        line.free -= rise
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
        variant = claim.part.variant
        paid = line.policy.has_paid(variant.spec.pool, claim.part.gpus)
        # of a node that stays whoever leaves, nothing is saved by letting go
        if paid if claim.rises else line.policy.paid_anyway(variant.pool):
            yield line, money.NOTHING, money.NOTHING
        elif tariff is not None:
            yield (line, *_takes(line, tariff, claim.part))


def _refused(claim: _Claim, line: Line, need: Decimal) -> None:
    stake, part, name = claim.stake, claim.part, line.policy.state.spec.name
    if claim.rises:
        part.refused += 1
    else:
        part.out += 1
    stake.refused_by[name] = stake.refused_by.get(name, 0) + 1
    if stake.blocked is None:
        stake.blocked, stake.blocked_need = line, need


def _refuse_raises(stake: Stake, policy: PolicyDraft, parts: Iterable[Part], why: str) -> None:
    """All of them; of minimums too, for what they cost nobody knows."""
    for part in parts:
        more = part.raised + part.missing - part.refused
        if more > 0:
            name = policy.state.spec.name
            part.refused, part.raised = part.refused + more, 0
            stake.refused_by[name] = stake.refused_by.get(name, 0) + more
            stake.refusal = stake.refusal or why


def _refuse_unpriced(stake: Stake, policy: PolicyDraft, known: _Known) -> None:
    """Raises of variants of which nobody knows what they cost in the policy's currency."""
    unpriced = [part for part in stake.parts if tariff_for(part, policy, known) is None]
    spec, pools = policy.state.spec, ", ".join(sorted({part.variant.spec.pool for part in unpriced}))
    why = f"CostPolicy {spec.name}: what GPUs of {pools} cost in {spec.currency} is not known"
    _refuse_raises(stake, policy, unpriced, why)


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
    raised = any(part.variant.count > part.variant.observed for part in stake.parts)
    for policy in stake.policies:
        without = stake.refused_by.get(policy.state.spec.name, 0)
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
