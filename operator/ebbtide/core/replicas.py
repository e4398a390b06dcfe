"""What each replica of a variant is worth: ready, starting, doomed or failing; and when to stop counting on more.

A variant whose new pods fail (no node fits, a quota refuses them, they crash) is limited to its healthy replicas and
tried again later, each time after a longer pause, so that demand goes to the next variant meanwhile.
"""

import msgspec

from ebbtide.core.pools import lead_time_s
from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.memory import CapacityMemory
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import PodPhase, PodState
from ebbtide.model.spec import Provisioning

SCHEDULER_PATIENCE_S = 30.0  # a pod may wait this long for one that is leaving
FIRST_BACKOFF_S = 120.0
LONGEST_BACKOFF_S = 1800.0
LONGEST_TEXT = 200


def step(cycle: Cycle) -> None:
    """Count the replicas of every variant, and note those that fail."""
    for draft in cycle.drafts:
        for variant in draft.variants:
            count(variant, cycle.now_s)
            _learn(variant, cycle.now_s)


def count(variant: VariantDraft, now_s: float) -> None:
    """Fill ready, starting, doomed and failing from the pods' phases."""
    for pod in variant.state.pods:
        phase = pod.phase
        if phase is PodPhase.READY:
            variant.ready += 1
        elif phase is PodPhase.INTERRUPTED:
            variant.doomed += 1
        elif phase in (PodPhase.STARTING, PodPhase.PENDING):
            variant.starting += 1
        elif phase is PodPhase.CRASH_LOOPING:
            _fail(variant, Code.CRASH_LOOPING, pod)
        elif phase is PodPhase.UNSCHEDULABLE:
            if _node_may_come(variant, pod, now_s):
                variant.starting += 1
            else:
                _fail(variant, Code.UNSCHEDULABLE, pod)
    per_replica = max(1, variant.state.target.pods_per_replica)
    if per_replica > 1:
        variant.ready //= per_replica
        # Pods of one group may all be counted: eight doomed pods of groups of four are two replicas at least.
        variant.starting = -(-variant.starting // per_replica)
        variant.doomed = -(-variant.doomed // per_replica)
        variant.failing = -(-variant.failing // per_replica)
    _refused(variant, per_replica)


def _fail(variant: VariantDraft, code: Code, pod: PodState) -> None:
    variant.failing += 1
    variant.failing_code = code
    if not variant.failing_text:
        variant.failing_text = f"{pod.name}: {pod.message or 'no further message'}"


def _refused(variant: VariantDraft, per_replica: int) -> None:
    target = variant.state.target
    alive = len([pod for pod in variant.state.pods if pod.phase is not PodPhase.TERMINATING])
    missing = -(-(target.spec_replicas * per_replica - alive) // per_replica)
    if target.replica_failure and missing > 0:
        variant.failing += missing
        variant.failing_code = Code.QUOTA_REFUSED
        variant.failing_text = target.replica_failure


def _node_may_come(variant: VariantDraft, pod: PodState, now_s: float) -> bool:
    """In an Autoscaled pool a node may be on its way; elsewhere only somebody who is leaving can make room."""
    pool, age_s = variant.pool, now_s - pod.created_at
    if pool is None or pool.state.spec.provisioning is Provisioning.STATIC:
        return age_s < SCHEDULER_PATIENCE_S
    until = pool.memory.backoff_until
    return until is None and age_s < 2.0 * lead_time_s(pool.state, pool.memory)


def _learn(variant: VariantDraft, now_s: float) -> None:
    memory = variant.memory.capacity
    until, backoff_s, since = memory.backoff_until, memory.backoff_s, memory.failing_since
    if variant.failing and until is None:
        since = since if since is not None else round(now_s, 1)
        backoff_s = min(LONGEST_BACKOFF_S, max(FIRST_BACKOFF_S, 2.0 * backoff_s))
        until = round(now_s + backoff_s, 1)
    elif until is not None and now_s >= until and not variant.failing:
        until = None
    elif until is not None and now_s >= until:
        backoff_s = min(LONGEST_BACKOFF_S, 2.0 * backoff_s)
        until = round(now_s + backoff_s, 1)
    if not variant.failing and until is None:
        since = None
        if variant.observed and variant.ready >= variant.observed:
            backoff_s = 0.0
    variant.backing_off = until is not None
    code, text = _cause(variant, memory)
    changed = msgspec.structs.replace(
        memory, backoff_until=until, backoff_s=backoff_s, failing_since=since, failing_code=code, failing_text=text
    )
    if changed != memory:
        variant.memory = msgspec.structs.replace(variant.memory, capacity=changed)


def _cause(variant: VariantDraft, memory: CapacityMemory) -> tuple[str, str]:
    """What fails now, else what the back-off is still about; nothing once it is over."""
    if not variant.backing_off:
        return "", ""
    if variant.failing and variant.failing_code is not None:
        return variant.failing_code.value, variant.failing_text[:LONGEST_TEXT]
    known = next((code for code in Code if code.value == memory.failing_code), None)  # another release may name others
    if known is not None:
        variant.failing_code, variant.failing_text = known, memory.failing_text
    return memory.failing_code, memory.failing_text


def healthy(variant: VariantDraft) -> int:
    """Replicas that carry load now or are on the way to: all but those that fail or are about to go."""
    return max(0, variant.sound - variant.failing)


def describe_failing(draft: Draft) -> str:
    """The failing replicas of all variants in words; empty when none fail."""
    parts = [
        f"{variant.spec.name}: {variant.failing} of {variant.observed} replicas {_WORDS[variant.failing_code]} "
        f"({variant.failing_text})"
        for variant in draft.variants
        if variant.failing and variant.failing_code is not None
    ]
    return "; ".join(parts)


_WORDS = {
    Code.CRASH_LOOPING: "crash",
    Code.UNSCHEDULABLE: "find no node",
    Code.QUOTA_REFUSED: "are refused",
}
