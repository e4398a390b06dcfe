"""Hold every plan under every ceiling: first each policy is asked whether all that is planned fits.

That is one sum a service; only where it does not are replicas taken one by one (`claims`). Must never lower what is
fixed: what nobody may reduce is paid first, and said where it alone crosses a ceiling.
"""

from collections.abc import Sequence

from ebbtide.core import isolation
from ebbtide.core.batch import purses
from ebbtide.core.ceilings import lines as money
from ebbtide.core.ceilings import nodes, others, outlook, payable, pressure, thresholds
from ebbtide.core.ceilings.claims import decide
from ebbtide.core.ceilings.lines import PolicyDraft, Tariff
from ebbtide.core.ceilings.nodes import Tier
from ebbtide.core.ceilings.report import policy_plans, refusal_words
from ebbtide.core.ceilings.stake import (
    Known,
    Part,
    Stake,
    exit_s,
    keeps,
    stake_of,
    takes,
    tariff_for,
    wanted,
)
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.memory import PolicyMemory
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import POLICY_KIND


def step(cycle: Cycle) -> None:
    """Lower what does not fit, and refuse raises that do not. An error here raises nothing anywhere."""
    unknown = _unknown(cycle)
    if not cycle.snapshot.policies:
        cycle.policy_memories = []
    else:
        try:
            _hold(cycle)
        except Exception as error:
            failure = isolation.failure_of("all services", "ceilings", error)
            unknown = f"{isolation.describe(failure)} ({failure.trace})"
        finally:
            for policy in cycle.policies:
                policy.let_go()
    cycle.ceilings_unknown = unknown
    if unknown:
        for draft in isolation.sound(cycle):
            _raise_nothing(draft, unknown)
        payable.nothing_more(cycle.drafts, unknown)


def _hold(cycle: Cycle) -> None:
    known: Known = {}
    stakes = _stakes(cycle)
    nodes.note(stakes, cycle)
    for policy in cycle.policies:
        others.bind(policy, cycle, known)
    nodes.bind_coming(stakes, cycle, known)
    nodes.bind(stakes, known)
    for stake in stakes:
        _bind(stake, known)
    for policy in cycle.policies:
        thresholds.judge(policy)
    pressure.judge(stakes, known, cycle.now_s)
    decide(stakes, known)
    for stake in stakes:
        _apply(stake)
    payable.note(stakes, known)
    for stake in stakes:
        _note(stake, known)
    purses.fill(stakes, cycle, known)
    cycle.policy_plans = policy_plans(cycle.policies)
    cycle.policy_memories = [_noted(policy) for policy in cycle.policies]


def _noted(policy: PolicyDraft) -> PolicyMemory:
    """What is wanted, where anything is there to want and all of its price is known."""
    state = policy.state
    if policy.unpriced or state.unread or state.faults or not (policy.services or state.others):
        return policy.memory
    gap_s = max(outlook.GAP_S, 2 * policy.cycle_s)
    classes = {priority: (float(wanted), float(fixed)) for priority, (wanted, fixed) in policy.classes.items()}
    return outlook.note(policy.memory, float(policy.wanted_rate), float(policy.now_s), gap_s, classes)


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
        served = draft.state.spec
        near = [*everywhere, *within.get(served.namespace, ())]
        own = [index for index in near if states[index].spec.selects(served.namespace, served.labels)]
        selected += [(draft, own)] if own else []
        longest_s: dict[bool, float] = {}  # by what alone it depends on
        for index in own:
            spec = states[index].spec
            if spec.pays_all not in longest_s:
                longest_s[spec.pays_all] = max((exit_s(variant, spec) for variant in draft.variants), default=0.0)
            exits_s[index] = max(exits_s[index], longest_s[spec.pays_all])
    remembered = {memory.uid: memory for memory in cycle.memory.policies}
    cycle.policies = [
        money.open_policy(state, cycle.now_s, cycle.snapshot.cycle_s, exit_s, remembered.get(state.spec.uid))
        for state, exit_s in zip(states, exits_s, strict=True)
    ]
    return [stake_of(draft, [cycle.policies[index] for index in own], cycle) for draft, own in selected]


def _bind(stake: Stake, known: Known) -> None:
    """Add a service's replicas to the lines of its policies; one that is raised onto a paid GPU takes nothing."""
    for policy in stake.policies:
        policy.services += 1
        before = [line.planned for line in policy.lines] if stake.draft.stand_ins else []
        for part in stake.parts:
            tariff, holds = tariff_for(part, policy, known), part.runs + part.terminating
            if tariff is None:
                if holds:
                    pool = part.variant.pool
                    priced = pool is not None and pool.price is not None
                    others.unpriced(policy, part.variant.spec.pool, holds * part.gpus, priced)
                continue
            now = tariff.dearest(policy.now_s, policy.now_s + 1) * part.gpus
            policy.rate += holds * now
            placed = nodes.placed(part, policy)
            gone = part.leaving + part.terminating + part.stuck - placed[Tier.LEAVING]
            fixed = part.fixed - part.missing + part.passing - placed[Tier.FIXED] - placed[Tier.PASSING]
            policy.fixed_rate += (fixed + gone) * now
            policy.passing_rate += (part.passing - placed[Tier.PASSING]) * now
            policy.leaving_rate += (part.leaving + part.terminating - placed[Tier.LEAVING]) * now
            if part.stuck:
                pods, rate = policy.stuck.get(stake.key, (0, money.NOTHING))
                policy.stuck[stake.key] = pods + part.stuck_pods, rate + part.stuck * now
            policy.missing_rate += part.missing * now
            policy.wants(stake.priority, _wanted(stake, part, policy) * now, part.fixed * now)
            raised = sum(policy.put(part.variant.pool, part.gpus, part.pods) for _ in range(part.raised))
            _bind_part(part, stake.priority, policy, tariff, raised, placed)
        for line, of_others in zip(policy.lines, before, strict=False):
            stake.planned[id(line)] = line.planned - of_others


def _bind_part(
    part: Part, priority: int, policy: PolicyDraft, tariff: Tariff, raised: int, placed: Sequence[int]
) -> None:
    """Add its replicas to the lines but those that are `placed`; `raised`: GPUs that come for its raises.

    Of most parts most counts are zero.
    """
    stays, leaving = part.fixed + part.stuck - placed[Tier.FIXED], part.leaving + part.terminating
    leaving, kept = leaving - placed[Tier.LEAVING], part.floor + part.kept - placed[Tier.KEPT]
    passing, rest = part.passing - placed[Tier.PASSING], nodes.missing_rest(part, policy)
    leaving_s = exit_s(part.variant, policy.state.spec) if leaving else 0.0
    anyway = policy.paid_anyway(part.variant.pool)
    for line in policy.lines_of(priority):
        if stays:
            line.bound += (stays * part.gpus + rest) * line.takes(tariff, line.end_s - policy.now_s)
        if leaving:
            line.leaving += leaving * part.gpus * line.takes(tariff, leaving_s)
        if passing:
            line.bound += passing * part.gpus * line.takes(tariff, policy.reserve_s)
            line.passing += passing * part.gpus * line.takes(tariff, policy.reserve_s)
        if kept and anyway:
            line.bound += kept * keeps(line, tariff, part)
        elif kept:
            line.kept += kept * keeps(line, tariff, part)
        if raised:
            line.raised += raised * takes(line, tariff, part)[1] / part.gpus


def _wanted(stake: Stake, part: Part, policy: PolicyDraft) -> int:
    """Replicas that the service would have without the policy; on nodes that are paid anyway all cost the same."""
    if part.stays:
        return part.fixed
    if policy.paid_anyway(part.variant.pool):
        return part.runs
    number = max(wanted(stake.draft, part.variant), part.fixed)
    if part.gpus and policy.idle.get(part.variant.spec.pool, 0):
        # what comes takes GPUs that are paid for and idle, and were counted as such
        name, more = part.variant.spec.pool, max(0, number - part.runs)
        taken = min(more, (policy.idle[name] - policy.retaken.get(name, 0)) // part.gpus)
        policy.retaken[name] = policy.retaken.get(name, 0) + taken * part.gpus
        number -= taken
    return number


def _apply(stake: Stake) -> None:
    """Set the counts, and say why."""
    moved = [part for part in stake.parts if part.out or part.refused]
    if not moved:
        return
    code, text = refusal_words(stake)
    for part in moved:
        part.variant.count = max(0, part.variant.count - part.out - part.refused)
        part.variant.limited_by, part.variant.limited_by_policy = code.value, stake.bound_by
    stake.draft.limits.append((code, text))
    stake.draft.note("ceilings", stake.draft.total, text)


def _note(stake: Stake, known: Known) -> None:
    """What its policies say of it: who gave way, who is raised, and what is bound by that."""
    raised = any(part.variant.count > part.variant.observed for part in stake.parts)
    for policy in stake.policies:
        without = stake.refused_by.get(policy.state.spec.name, 0)
        if without:
            policy.gave_way[stake.key] = without
        if raised and stake.draft.no_write is None:
            policy.raised.add(stake.key)
        for part in stake.parts:
            brought = policy.granted.get(id(part), 0)
            tariff = tariff_for(part, policy, known) if brought or part.out else None
            if tariff is not None:
                freed = policy.freed.get(id(part), [0, 0])
                for line in policy.lines_of(stake.priority):
                    keep = line.takes(tariff, policy.reserve_s)
                    out = freed[not line.is_rate] if part.nodes and policy.machines else part.out * part.gpus
                    line.granted += brought * (keeps(line, tariff, part) / part.gpus)
                    line.kept -= out * keep
                    line.leaving += out * line.takes(tariff, exit_s(part.variant, policy.state.spec))


def _raise_nothing(draft: Draft, text: str) -> None:
    higher = [variant for variant in draft.variants if variant.count > variant.observed]
    for variant in higher:
        variant.count, variant.limited_by = variant.observed, Code.POLICIES_UNKNOWN.value
        variant.limited_by_policy = ""
    if higher:
        draft.limits.append((Code.POLICIES_UNKNOWN, text))
        draft.note("ceilings", draft.total, text)
