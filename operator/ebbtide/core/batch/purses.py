"""Fills the purses of a cycle: what CostPolicies leave for batch Jobs, by their lines and by what services lack."""

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from ebbtide.core.batch.purse import Purse, PurseLine
from ebbtide.core.ceilings.lines import HOUR_S, NOTHING, Line, PolicyDraft, node_gpus
from ebbtide.core.ceilings.stake import Known, Stake, tariff_in
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.core.work import Cycle
from ebbtide.model.plan import Outcome, PolicyPlan
from ebbtide.model.spec import Billing, PolicyScope, Provisioning, ThresholdAction


def fill(stakes: Iterable[Stake], cycle: Cycle, known: Known) -> None:
    """Fill `cycle.purses`; to be called while the policies' lines are there."""
    if cycle.lent is None:
        return
    since = dict(cycle.memory.batch.short)
    stakes = list(stakes)
    for policy in cycle.policies:
        if policy.state.spec.scope is PolicyScope.ALL_GPU_PODS:
            cycle.purses.append(_purse(policy, stakes, cycle, known, since.get(policy.state.spec.uid)))


def committed(cycle: Cycle) -> tuple[PolicyPlan, ...]:
    """Plans of the policies with what Jobs take that are started: it is reserved before they are."""
    acts = {item.key for item in cycle.job_plans if item.outcome in (Outcome.STARTS, Outcome.GROWS)}
    paying = {purse.spec.uid: purse for purse in cycle.purses if purse.starts & acts}
    return (
        tuple(_with_jobs(plan, paying.get(plan.uid), acts) for plan in cycle.policy_plans)
        if paying
        else (cycle.policy_plans)
    )


def _with_jobs(plan: PolicyPlan, purse: Purse | None, acts: set[str]) -> PolicyPlan:
    if purse is None:
        return plan
    taken = {(line.kind, line.begin_s): line.taken / HOUR_S for line in purse.lines}
    ceilings = tuple(
        msgspec.structs.replace(item, committed=item.committed + taken.get((item.kind, int(item.start_s)), NOTHING))
        for item in plan.ceilings
    )
    return msgspec.structs.replace(plan, ceilings=ceilings, starts=tuple(sorted(purse.starts & acts)))


def _purse(
    policy: PolicyDraft, stakes: Iterable[Stake], cycle: Cycle, known: Known, was_short_at: float | None
) -> Purse:
    refused: dict[int, Decimal] = {}
    for stake in stakes:
        if stake.draft.state.spec.background:
            continue  # gives way before Jobs do
        if stake.blocked is not None and stake.blocked.policy is policy and stake.blocked.is_of_all:
            count = stake.refused_by.get(policy.state.spec.name, 0)
            refused[id(stake.blocked)] = refused.get(id(stake.blocked), NOTHING) + count * stake.blocked_need
    lines = [_line(line, refused.get(id(line), NOTHING)) for line in policy.lines_of_all]
    pools = cycle.pools
    tariffs = {name: tariff_in(name, pool, policy, known) for name, pool in pools.items()}
    suspends = policy.acting.get(ThresholdAction.SUSPEND_BATCH, "")
    stops = (ThresholdAction.FREEZE, ThresholdAction.HOLD_SCALE_UP)
    refuses = policy.refuses or next((policy.acting[action] for action in stops if action in policy.acting), "")
    purse = Purse(policy.state.spec, policy.now_s, policy.reserve_s, lines, tariffs, refuses, suspends, was_short_at)
    purse.anyway = {name for name, pool in pools.items() if policy.paid_anyway(pool)}
    purse.nodes = {name: node_gpus(pool) for name, pool in pools.items() if _brings_nodes(pool)}
    return purse


def _brings_nodes(pool: PoolDraft) -> bool:
    spec = pool.state.spec
    return spec.provisioning is Provisioning.AUTOSCALED and spec.billing is Billing.NODE


def _line(line: Line, refused: Decimal) -> PurseLine:
    free = line.ceiling - line.spent - line.committed
    return PurseLine(
        line.kind, line.begin_s, line.end_s, line.ceiling, free, max(refused, -free if free < NOTHING else NOTHING)
    )
