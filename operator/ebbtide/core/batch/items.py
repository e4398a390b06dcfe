"""Each Job of the snapshot as the plan sees it: whose it is, how long it still runs, by when, and where it could."""

from collections.abc import Mapping

import msgspec

from ebbtide.core import pools
from ebbtide.core.batch.duration import remaining, restart_s, started_within_s
from ebbtide.core.batch.lent import OURS, Lent
from ebbtide.core.batch.work import Item
from ebbtide.core.ceilings.lines import node_gpus
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.core.work import Cycle
from ebbtide.model.batch import BatchPolicyState, Intent, JobState
from ebbtide.model.memory import JobMemory
from ebbtide.model.plan import Outcome
from ebbtide.model.reasons import Code
from ebbtide.model.spec import Provisioning

_LEFT = {
    Intent.SUSPENDED_BY_USER: (Code.SUSPENDED_BY_USER, "somebody suspended it: it stays so until somebody resumes it"),
    Intent.RESUMED_BY_USER: (Code.RESUMED_BY_USER, "somebody resumed it against the plan: it is left alone"),
    Intent.STARTED_ANYWAY: (Code.STARTED_ANYWAY, "it came without spec.suspend: true, so it ran before it was seen"),
}


def items(cycle: Cycle, lent: Lent) -> list[Item]:
    """All Jobs, by key."""
    known = {memory.uid: memory for memory in cycle.memory.batch.jobs}
    runs = {memory.owner: memory.runs for memory in cycle.memory.batch.owners}
    of_node = {node.name: pool.name for pool in cycle.pools.values() for node in pool.state.nodes}
    return [
        _item(job, lent, known.get(job.uid), runs, of_node, cycle)
        for job in sorted(cycle.snapshot.jobs, key=lambda job: job.key)
    ]


def full(job: JobState) -> int:
    """Pods as its user declared them, also of one that was made smaller."""
    return job.full_parallelism or job.parallelism


def owner_of(job: JobState) -> str:
    """What its duration is learnt for; empty: it is run once."""
    return f"{job.key.partition('/')[0]}/{job.owner}" if "/" in job.owner else ""


def _item(
    job: JobState,
    lent: Lent,
    memory: JobMemory | None,
    runs: Mapping[str, tuple[float, ...]],
    of_node: Mapping[str, str],
    cycle: Cycle,
) -> Item:
    policy = lent.policy(job)
    spec = None if policy is None else policy.spec
    memory = memory or JobMemory(job.uid, spec.uid if spec is not None else "", owner_of(job))
    began_s = round(job.started_at or 0.0, 1)
    took_s = started_within_s(job) if began_s != memory.began_at else None
    if took_s is not None:
        memory = msgspec.structs.replace(memory, start_s=round(took_s, 1), began_at=began_s)
    scale = full(job) / job.parallelism if job.parallelism else 1.0
    left = remaining(job, spec, runs.get(memory.owner, ()), cycle.now_s, scale)
    deadline_s = job.asked.deadline_at
    if deadline_s is None and spec is not None and spec.deadline_s is not None:
        deadline_s = job.created_at + spec.deadline_s
    item = Item(
        job,
        policy,
        memory,
        job.parallelism * job.gpus_per_pod,
        left,
        deadline_s,
        lent.may_stop(job),
        lent.grace_s(job) + cycle.snapshot.cycle_s,
        restart_s(left, memory.start_s),
    )
    item.latest_s = None if deadline_s is None else deadline_s - left.at(item.confidence)
    item.pool = (
        job.pool if job.pool in cycle.pools else next((of_node[p.node] for p in job.pods if p.node in of_node), "")
    )
    _judge(item, lent, cycle)
    return item


def _judge(item: Item, lent: Lent, cycle: Cycle) -> None:
    """Who may decide over it, and where it could run."""
    job, policy = item.job, item.policy
    if job.intent is Intent.FOREIGN:
        item.outcome, item.why = Outcome.LEFT_ALONE, (Code.FOREIGN_JOB, job.why or "another controller's")
    elif job.intent is Intent.DISPUTED:
        item.outcome, item.why = Outcome.LEFT_ALONE, (Code.SELECTED_TWICE, job.why or "several BatchPolicies select it")
    elif policy is None:
        text = f"BatchPolicy {job.policy} is not there or cannot be read: it stays as it is"
        item.outcome, item.why = Outcome.LEFT_ALONE, (Code.INVALID_SPEC, text)
    elif policy.spec.paused:
        text = f"BatchPolicy {policy.spec.key} is paused: nothing is started or stopped"
        item.outcome, item.why = Outcome.LEFT_ALONE, (Code.BATCH_PAUSED, text)
    elif job.intent not in OURS and not lent.stoppable(job):
        item.outcome, item.why = Outcome.LEFT_ALONE, _LEFT[job.intent]
    elif not job.suspended:
        item.outcome = Outcome.RUNS
        item.why = _LEFT[Intent.STARTED_ANYWAY] if job.intent is Intent.STARTED_ANYWAY else None
    else:
        _place(item, policy, cycle)


def _place(item: Item, policy: BatchPolicyState, cycle: Cycle) -> None:
    """Pools that could run it; why none could."""
    job, spec = item.job, policy.spec
    reasons: list[str] = []
    code = Code.FITS_NOWHERE
    names = [job.pool] if job.pool else list(spec.pools) or sorted(cycle.pools)
    able = []
    for name in names:
        pool = cycle.pools.get(name)
        why = f"there is no GPUPool {name}" if pool is None else _unable(item, pool)
        if not why and spec.pools and name not in spec.pools:
            why = f"it is bound to {name}, and BatchPolicy {spec.key} allows {', '.join(spec.pools)} (spec.pools)"
        if pool is None:
            code = Code.POOL_NOT_FOUND
        if why:
            reasons.append(why)
        else:
            able.append(name)
    least = least_gpus(item)
    if job.fault:
        reasons, able = [job.fault], []
    elif item.gpus <= 0:
        reasons, able = ["it asks for no GPUs that a GPUPool has"], []
    elif spec.max_gpus is not None and least > spec.max_gpus:
        text = f"it asks for {item.gpus} GPUs, and BatchPolicy {spec.key} allows {spec.max_gpus} (spec.maxGPUs)"
        reasons, able = [text], []
    if able:  # 100 JPY is not more than 3 USD: pools of other currencies than the first one's are left out
        currency = cycle.pools[able[0]].state.currency
        able = [name for name in able if cycle.pools[name].state.currency == currency]
    item.pools = tuple(able)
    if not able:
        text = "; ".join(reasons) or "there is no GPUPool"
        item.outcome = Outcome.IMPOSSIBLE
        item.why = (code if not job.fault and len(reasons) == len(names) else Code.FITS_NOWHERE), text


def least_gpus(item: Item) -> int:
    """Of all its pods, of an elastic one of the fewest that it may have."""
    job = item.job
    return min(job.parallelism, max(1, job.least_parallelism)) * job.gpus_per_pod if job.elastic else item.gpus


def _unable(item: Item, pool: PoolDraft) -> str:
    """Why the pool could never run it; empty: it could."""
    job, state = item.job, pool.state
    if job.resource and job.resource != state.spec.resource:
        return f"{pool.name} has {state.spec.resource}, it asks for {job.resource}"
    wanted = dict(job.node_selector)
    differs = [key for key, value in state.spec.node_selector if wanted.get(key, value) != value]
    if differs:
        return f"{pool.name} has other nodes than its nodeSelector asks for ({differs[0]}: {wanted[differs[0]]})"
    misfit = next((why for name, why in job.misfits if name == pool.name), "")
    if misfit:
        return misfit
    elastic = state.spec.provisioning is Provisioning.AUTOSCALED
    there = [node.gpus for node in state.nodes if pools.counts(node)]
    largest = max(there, default=0) or (node_gpus(pool) if elastic else 0)
    if job.gpus_per_pod > largest:
        return f"no node of {pool.name} has {job.gpus_per_pod} GPUs for one pod, the largest has {largest}"
    most = state.spec.max_gpus if elastic else sum(there)
    least = least_gpus(item)
    if most is not None and least > most:
        return f"{pool.name} has {most} GPUs at most, it asks for {item.gpus}"
    if pool.price is None:
        return f"what GPUs of {pool.name} cost is not known"
    return ""
