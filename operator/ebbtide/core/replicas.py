"""What each replica of a variant is worth: ready, starting, doomed or failing; and when to stop counting on more.

A variant whose new pods fail (no node fits, a quota refuses them, they crash, never appear or never get ready) is
limited to its healthy replicas and tried again later, so that demand goes to the next variant meanwhile.
"""

import msgspec

from ebbtide.core import silence, startup
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
_COUNTS_AS_UP = (PodPhase.READY, PodPhase.INTERRUPTED)
# A controller creates a pod within a second or two, and so says a refusal, where its status can say one.
ABSENCE_PATIENCE_S = 30.0


def step(draft: Draft, cycle: Cycle) -> None:
    """Count the replicas of every variant, and note those that fail."""
    for variant in draft.variants:
        count(variant, cycle.now_s, watched="pods" not in cycle.unwatched)
        _learn(variant, cycle.now_s, watched=not cycle.unwatched)


def count(variant: VariantDraft, now_s: float, *, watched: bool = True) -> None:
    """Fill ready, starting, doomed and failing from the pods' phases. `watched`: pods are known as they are now."""
    silence.note(variant, now_s)
    for pod in variant.state.pods:
        if pod.name not in variant.hanging:
            _count_pod(variant, pod, now_s)
    per_replica = max(1, variant.state.target.pods_per_replica)
    if per_replica > 1:
        variant.ready //= per_replica
        # Pods of one group may all be counted: eight doomed pods of groups of four are two replicas at least.
        variant.starting = -(-variant.starting // per_replica)
        variant.doomed = -(-variant.doomed // per_replica)
        variant.failing = -(-variant.failing // per_replica)
        variant.homeless = -(-variant.homeless // per_replica)
        variant.hung = -(-variant.hung // per_replica)
    variant.doomed = min(variant.doomed, variant.observed)  # those of a target that was scaled down are gone for good
    _absent(variant, per_replica, now_s, watched)
    _refused(variant, per_replica)


def _count_pod(variant: VariantDraft, pod: PodState, now_s: float) -> None:
    loads = silence.loads(variant, pod, now_s)
    variant.loading += loads
    phase = PodPhase.STARTING if loads else pod.phase
    if phase is PodPhase.READY:
        variant.ready += 1
    elif phase is PodPhase.INTERRUPTED:
        variant.doomed += 1
    elif pod.phase is PodPhase.STARTING and (overdue := startup.overdue(variant.memory.capacity, pod, now_s)):
        _fail(variant, Code.STARTUP_OVERDUE, pod, overdue)
    elif phase in (PodPhase.STARTING, PodPhase.PENDING):
        variant.starting += 1
    elif phase is PodPhase.CRASH_LOOPING:
        _fail(variant, Code.CRASH_LOOPING, pod, pod.message)
    elif phase is PodPhase.UNSCHEDULABLE:
        if _node_may_come(variant, pod, now_s):
            variant.starting += 1
        else:
            _fail(variant, Code.UNSCHEDULABLE, pod, pod.message)
            variant.homeless += 1


def _fail(variant: VariantDraft, code: Code, pod: PodState, words: str) -> None:
    variant.failing += 1
    variant.failing_code = code
    if not variant.failing_text:
        variant.failing_text = f"{pod.name}: {words or 'no further message'}"


def _refused(variant: VariantDraft, per_replica: int) -> None:
    target, absent_s, code = variant.state.target, variant.absent_s, variant.failing_code
    if target.replica_failure:
        missing = _without_pods(variant, per_replica, leaving=False)
        code, text = Code.QUOTA_REFUSED, target.replica_failure
    elif target.ordered and variant.failing:
        # Pods that come one after the other: those behind one that fails do not come at all.
        missing, text = _without_pods(variant, per_replica), variant.failing_text
    elif absent_s is not None and absent_s >= ABSENCE_PATIENCE_S:
        missing = _without_pods(variant, per_replica)
        code, text = Code.PODS_MISSING, _absence(variant, missing, absent_s)
    else:
        return
    if missing > 0:
        variant.failing += missing
        variant.homeless += missing
        variant.failing_code, variant.failing_text = code, text


def _without_pods(variant: VariantDraft, per_replica: int, *, leaving: bool = True) -> int:
    """Declared replicas that lack a pod. `leaving`: one that leaves counts, because its successor waits for its end."""
    there = [pod for pod in variant.state.pods if leaving or pod.phase is not PodPhase.TERMINATING]
    return -(-(variant.observed * per_replica - len(there)) // per_replica)


def _absence(variant: VariantDraft, missing: int, absent_s: float) -> str:
    kind, name = variant.spec.target.kind, variant.spec.target.name
    have = "1 replica has" if missing == 1 else f"{missing} replicas have"
    if variant.state.target.paused:
        return (
            f"{have} had no pod for {absent_s:.0f}s: {kind} {name} is paused (spec.paused), so it starts no new pods; "
            f"`kubectl rollout resume {kind.lower()} {name}`"
        )
    return f"{have} had no pod for {absent_s:.0f}s; the Events of {kind} {name} say who refuses them"


def _absent(variant: VariantDraft, per_replica: int, now_s: float, watched: bool) -> None:
    """For how long pods have been missing without a further one: each that comes, comes after those before.

    Not while a rollout replaces pods, nor while the next one rightly waits for one that starts.
    """
    memory, target, pods = variant.memory, variant.state.target, variant.state.pods
    since: float | None = memory.absent_since
    if (
        target.rolling_out
        or _without_pods(variant, per_replica) <= 0
        or (target.ordered and any(pod.phase not in _COUNTS_AS_UP for pod in pods))
    ):
        since = None
    elif since is None or len(pods) > memory.present_pods or not watched:
        since = round(now_s, 1)
    # the remembered moment is rounded to a tenth of a second, so it may lie a little ahead
    variant.absent_s = None if since is None else max(0.0, now_s - since)
    if (since, len(pods)) != (memory.absent_since, memory.present_pods):
        variant.memory = msgspec.structs.replace(memory, absent_since=since, present_pods=len(pods))


def _node_may_come(variant: VariantDraft, pod: PodState, now_s: float) -> bool:
    """In an Autoscaled pool a node may be on its way; elsewhere only somebody who is leaving can make room."""
    pool, age_s = variant.pool, now_s - pod.created_at
    if pool is not None and pool.given_back_by is not None and now_s < pool.given_back_by + SCHEDULER_PATIENCE_S:
        return True  # batch Jobs were told to go for its sake
    if pool is None or pool.state.spec.provisioning is Provisioning.STATIC:
        return age_s < SCHEDULER_PATIENCE_S
    until = pool.memory.backoff_until
    return until is None and age_s < max(SCHEDULER_PATIENCE_S, 2.0 * lead_time_s(pool.state, pool.memory))


def _learn(variant: VariantDraft, now_s: float, *, watched: bool) -> None:
    memory = variant.memory.capacity
    if not watched:
        variant.backing_off = memory.backoff_until is not None
        _cause(variant, memory)
        return
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
    Code.STARTUP_OVERDUE: "do not get ready",
    Code.UNSCHEDULABLE: "find no node",
    Code.QUOTA_REFUSED: "are refused",
    Code.PODS_MISSING: "do not come",
}
