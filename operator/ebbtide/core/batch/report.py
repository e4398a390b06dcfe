"""What a BatchPolicy's status says, and what is remembered of Jobs: what their ends teach, deadlines missed, savings.

Saved is, for each hour that a Job ran: its GPUs x (what one cost on the cheapest pool that it may use when it was first
seen, less what it costs now); GPUs that are paid for anyway cost nothing (`savings`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

import msgspec

from ebbtide.core.batch import share
from ebbtide.core.batch.counts import Stand, held_gpus, stand
from ebbtide.core.batch.lent import hides_jobs
from ebbtide.core.batch.savings import prices_now
from ebbtide.core.batch.when import clock
from ebbtide.core.batch.work import Item
from ebbtide.core.work import Cycle
from ebbtide.model.batch import BatchPolicyState, Intent
from ebbtide.model.memory import BatchMemory, BatchPolicyMemory, JobMemory, OwnerMemory
from ebbtide.model.plan import BatchPolicyPlan, Condition, ConditionStatus, JobPlan, Outcome
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.snapshot import BATCH_KIND

KEPT_RUNS, KEPT_OWNERS = 16, 1000
HOUR_S = 3600.0
_WATCHED = frozenset({"batchpolicies", "jobs"})
_LATE = frozenset({Code.DEADLINE_UNREACHABLE, Code.MISSED_FOR_MONEY, Code.DEADLINE_MISSED})


def remember(items: Sequence[Item], cycle: Cycle) -> BatchMemory:
    """Without the plan, which is noted apart. What cannot be seen just now is kept: a restart counts none anew."""
    before = cycle.memory.batch
    policies = {memory.uid: memory for memory in before.policies}
    prices = prices_now(items, cycle)
    jobs = [_job(item, policies, prices, cycle) for item in items]
    owners = _learnt(before, cycle)
    known = {state.spec.uid for state in cycle.snapshot.batch_policies}
    unread = {item.uid for item in cycle.snapshot.unreadable if item.kind == BATCH_KIND}
    sick = {source.name for source in cycle.snapshot.sources if not source.healthy}
    there = {memory.uid for memory in jobs}
    jobs += [
        memory for memory in before.jobs if memory.uid not in there and (sick & _WATCHED or memory.policy in unread)
    ]
    return msgspec.structs.replace(
        before,
        at=round(cycle.now_s, 1),
        jobs=tuple(jobs),
        owners=owners,
        lent=before.lent if sick & _WATCHED else share.remember(items, cycle),
        back=before.back if cycle.lent is None and hides_jobs(cycle.snapshot) else _back(cycle),
        policies=tuple(
            memory
            for uid, memory in sorted(policies.items())
            if uid in known or uid in unread or "batchpolicies" in sick
        ),
    )


def _back(cycle: Cycle) -> tuple[tuple[str, str, int], ...]:
    found = {} if cycle.lent is None else cycle.lent.back
    return tuple((space, name, gpus) for (space, name), gpus in sorted(found.items()))


def _job(item: Item, policies: dict[str, BatchPolicyMemory], prices_: Mapping[str, float], cycle: Cycle) -> JobMemory:
    memory, job, now_s = item.memory, item.job, cycle.now_s
    uid = item.policy.spec.uid if item.policy is not None else ""
    policy = policies.get(uid) or BatchPolicyMemory(uid)
    at_once, missed = memory.at_once, memory.missed
    if not at_once:
        prices = [pool.price for name in item.pools if (pool := cycle.pools.get(name)) is not None and pool.price]
        at_once = round(min(prices, default=0.0), 6)
    if item.deadline_s is not None and item.deadline_s <= now_s and not missed and job.intent is not Intent.FOREIGN:
        missed, policy = True, msgspec.structs.replace(policy, missed=policy.missed + 1)
    passed_s = min(max(0.0, now_s - cycle.memory.batch.at), 2.0 * cycle.snapshot.cycle_s) if memory.running else 0.0
    pool = cycle.pools.get(item.pool)
    paid = prices_.get(item.pool)
    if passed_s and pool is not None and paid is not None and at_once and item.outcome is not Outcome.LEFT_ALONE:
        saved = policy.saved + item.gpus * (at_once - paid) * passed_s / HOUR_S
        policy = msgspec.structs.replace(policy, saved=round(saved, 6), currency=pool.state.currency)
    if uid:
        policies[uid] = policy
    return msgspec.structs.replace(
        memory,
        policy=uid,
        running=not job.suspended and item.job.started_at is not None,
        at_once=at_once,
        missed=missed,
    )


def _learnt(before: BatchMemory, cycle: Cycle) -> tuple[OwnerMemory, ...]:
    """With the runs of Jobs that have succeeded since: each is told for some minutes, and counts when it leaves."""
    owners = {memory.owner: memory for memory in before.owners}
    there = {job.uid for job in cycle.snapshot.jobs}
    ended = {job.uid: job for job in cycle.snapshot.finished if job.succeeded and job.ran_s > 0.0}
    for job in before.jobs:
        finished = ended.get(job.uid)
        if job.uid in there or not job.owner or finished is None:
            continue
        known = owners.get(job.owner) or OwnerMemory(job.owner)
        runs = (*known.runs, round(finished.ran_s, 1))[-KEPT_RUNS:]
        owners[job.owner] = OwnerMemory(job.owner, runs, round(finished.ended_at, 1))
    newest = sorted(owners.values(), key=lambda memory: (-memory.at, memory.owner))[:KEPT_OWNERS]
    return tuple(sorted(newest, key=lambda memory: memory.owner))


def policy_plans(items: Sequence[Item], plans: Sequence[JobPlan], cycle: Cycle) -> tuple[BatchPolicyPlan, ...]:
    """Of every BatchPolicy, by key."""
    memories = {memory.uid: memory for memory in cycle.batch_memory.policies}
    mine: dict[str, list[tuple[Item, JobPlan]]] = defaultdict(list)
    disputed: dict[str, list[Item]] = defaultdict(list)
    for item, plan in zip(items, plans, strict=True):
        mine[item.job.policy].append((item, plan))
        if item.job.intent is Intent.DISPUTED:
            disputed[item.namespace].append(item)
    states = sorted(cycle.snapshot.batch_policies, key=lambda state: state.spec.key)
    return tuple(_policy_plan(state, mine, disputed, memories, cycle) for state in states)


def _policy_plan(
    state: BatchPolicyState,
    mine: Mapping[str, list[tuple[Item, JobPlan]]],
    disputed: Mapping[str, list[Item]],
    memories: Mapping[str, BatchPolicyMemory],
    cycle: Cycle,
) -> BatchPolicyPlan:
    spec, now_s = state.spec, cycle.now_s
    jobs = mine.get(spec.key, [])
    memory = memories.get(spec.uid) or BatchPolicyMemory(spec.uid)
    stands = Counter(stand(item, plan) for item, plan in jobs)
    running = [plan for item, plan in jobs if stand(item, plan) is Stand.RUNNING]
    queued = [plan for _, plan in jobs if plan.outcome in (Outcome.WAITS, Outcome.STOPS, Outcome.IMPOSSIBLE)]
    starts = [plan.starts_at for plan in queued if plan.starts_at is not None and plan.starts_at > now_s]
    both = [item for item in disputed.get(spec.namespace, ()) if spec.selects(item.namespace, dict(item.job.labels))]
    reason = _reason(state, queued, running, cycle)
    served = _of_services(spec.key, cycle)
    if served:
        said = "1 GPU" if served == 1 else f"{served} GPUs"
        reason = Reason(reason.code, f"{reason.text}; Background services have {said}")
    ready = reason.code in (Code.JOBS_RUN, Code.JOBS_WAIT, Code.NO_JOBS, Code.WAITS_FOR_WINDOW)
    return BatchPolicyPlan(
        key=spec.key,
        uid=spec.uid,
        queued=stands[Stand.QUEUED],
        running=stands[Stand.RUNNING],
        suspended_by_users=stands[Stand.SUSPENDED],
        stopped=stands[Stand.STOPPED],
        impossible=stands[Stand.IMPOSSIBLE],
        missed=memory.missed,
        gpus=sum(held_gpus(item, plan) for item, plan in jobs) + _of_services(spec.key, cycle),
        next_start_at=min(starts, default=None),
        next_window_at=next((begin for begin, _ in state.open if begin > now_s), None),
        reason=reason,
        conditions=(
            Condition("Ready", _status(ready), reason.code.value, reason.text),
            _deadlines([plan for _, plan in jobs]),
            _placeable([plan for _, plan in jobs]),
            _undisputed(both),
        ),
        saved=Decimal(str(round(memory.saved, 2))) if memory.currency else None,
        currency=memory.currency,
    )


def _of_services(policy: str, cycle: Cycle) -> int:
    return sum(gpus for key, _, gpus in cycle.background if key == policy)


def _status(good: bool) -> ConditionStatus:
    return ConditionStatus.TRUE if good else ConditionStatus.FALSE


def _reason(state: BatchPolicyState, queued: Sequence[JobPlan], running: Sequence[JobPlan], cycle: Cycle) -> Reason:
    if state.faults:
        known = {code.value: code for code in Code}
        return Reason(known.get(state.faults[0][0], Code.INVALID_SPEC), "; ".join(text for _, text in state.faults))
    missing = [name for name in state.spec.pools if name not in cycle.pools]
    if missing:
        return Reason(Code.POOL_NOT_FOUND, f"there is no GPUPool {', '.join(missing)}")
    if state.spec.paused:
        return Reason(Code.BATCH_PAUSED, "spec.paused is true: nothing is started or stopped")
    held = sum(plan.gpus for plan in running)
    runs = f"{len(running)} of {len(running) + len(queued)} Jobs run on {held} GPUs"
    if not queued:
        return Reason(Code.JOBS_RUN, runs) if running else Reason(Code.NO_JOBS, "no Job that has not ended is selected")
    first = min(queued, key=lambda plan: (plan.starts_at or float("inf"), plan.key))
    waits = "1 waits" if len(queued) == 1 else f"{len(queued)} wait"
    when = ""
    if first.starts_at is not None and first.starts_at > cycle.now_s:
        when = f", the first, {first.key.partition('/')[2]}, until {clock(first.starts_at, cycle.now_s)}"
    code = Code.WAITS_FOR_WINDOW if not running and _all_wait_for_windows(queued) else Code.JOBS_WAIT
    return Reason(code, f"{runs}, {waits}{when}: {_counted(queued)}")


def _all_wait_for_windows(queued: Iterable[JobPlan]) -> bool:
    return all(plan.reason.code is Code.WAITS_FOR_WINDOW for plan in queued)


def _counted(queued: Iterable[JobPlan]) -> str:
    counts: dict[str, int] = defaultdict(int)
    for plan in queued:
        counts[plan.reason.code.value] += 1
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def _deadlines(plans: Sequence[JobPlan]) -> Condition:
    late = [plan for plan in plans if plan.late and plan.outcome is not Outcome.LEFT_ALONE]
    if not late:
        return Condition(
            "DeadlinesKept", ConditionStatus.TRUE, Code.DEADLINES_KEPT.value, "every Job ends in time, as planned"
        )
    first = min(late, key=lambda plan: (plan.reason.code not in _LATE, plan.deadline_at or 0.0, plan.key))
    code = first.reason.code if first.reason.code in _LATE else Code.DEADLINE_UNREACHABLE
    more = f"; and {len(late) - 1} more" if len(late) > 1 else ""
    text = f"{first.key.partition('/')[2]}: {first.reason.text}{more}"
    return Condition("DeadlinesKept", ConditionStatus.FALSE, code.value, text)


def _placeable(plans: Sequence[JobPlan]) -> Condition:
    nowhere = [plan for plan in plans if plan.reason.code in (Code.FITS_NOWHERE, Code.POOL_NOT_FOUND)]
    if not nowhere:
        text = "each Job could run on a pool that it may use"
        return Condition("Placeable", ConditionStatus.TRUE, Code.JOBS_FIT.value, text)
    first, more = nowhere[0], f"; and {len(nowhere) - 1} more" if len(nowhere) > 1 else ""
    text = f"{first.key.partition('/')[2]}: {first.reason.text}{more}"
    return Condition("Placeable", ConditionStatus.FALSE, first.reason.code.value, text)


def _undisputed(both: Sequence[Item]) -> Condition:
    if not both:
        return Condition("Undisputed", ConditionStatus.TRUE, Code.SELECTED_ONCE.value, "no Job is selected twice")
    first = both[0]
    more = f"; and {len(both) - 1} more" if len(both) > 1 else ""
    text = f"{first.key.partition('/')[2]}: {first.job.why or 'several BatchPolicies select it'}{more}"
    return Condition("Undisputed", ConditionStatus.FALSE, Code.SELECTED_TWICE.value, text)
