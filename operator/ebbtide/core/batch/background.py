"""How many replicas Background services may have: as many as work off their queue, on what is lent to batch work.

    lent    GPUs of the pool - others' - Jobs', those about to start too - what Interactive services rarely exceed
    keeps   what runs already: the same, less what Interactive services have now

Counts that the guardrails allowed are lowered to that and to the policy's `max_gpus`, with Jobs; outside of the
policy's hours to what is idle and paid for, or to nothing. Worked example: of 16 GPUs Interactive services have 6 and
rarely exceed 9, and Jobs hold 4: a queue may have 3, and one that runs on 6 keeps them until the 6 become 7. Must never
wait for metrics to give GPUs back: hours and what others need are known without.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ebbtide.core import isolation, release
from ebbtide.core.batch import need, price
from ebbtide.core.batch.ahead import others_hold
from ebbtide.core.batch.grid import DAY_S, Grid
from ebbtide.core.batch.items import full
from ebbtide.core.batch.lent import Lent, unseen
from ebbtide.core.batch.when import clock
from ebbtide.core.batch.why import CENT
from ebbtide.core.guardrails import chain, pause
from ebbtide.core.guardrails.verdict import Verdict, dearness
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.batch import BatchPolicyState, Strategy
from ebbtide.model.plan import Condition, ConditionStatus
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import BATCH_KIND, PoolState
from ebbtide.model.spec import Mode, PauseDirection

_STAYS = frozenset({Code.BATCH_PAUSED, Code.BATCH_POLICIES_UNKNOWN})  # nothing is raised, and nothing taken away
_NO_MONEY = frozenset({Code.WAITS_FOR_MONEY.value, Code.MISSED_FOR_MONEY.value})


@dataclass(slots=True)
class _Room:
    """GPUs of one pool: that replicas may be raised onto, and that those keep that run; of these, paid for anyway."""

    more: float
    keep: float
    idle: float
    idle_kept: float

    def take(self, gpus: int) -> None:
        self.more -= gpus
        self.keep -= gpus
        self.idle -= gpus
        self.idle_kept -= gpus


@dataclass(frozen=True, slots=True)
class _Terms:
    """What its policy says just now. `policy` None: there is none, several, a paused one, or nobody knows."""

    policy: BatchPolicyState | None
    code: Code
    text: str


@dataclass(slots=True)
class _Yard:
    """What there is for all of them: by pool, and by policy what its `max_gpus` leaves (none: no limit)."""

    rooms: dict[str, _Room]
    left: dict[str, int]
    blind: str
    taken: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def take(self, policy: str, pool: str, gpus: int) -> None:
        """So many more are held."""
        self.taken[policy, pool] += gpus
        self.rooms[pool].take(gpus)
        if policy in self.left:
            self.left[policy] -= gpus


def step(cycle: Cycle) -> None:
    """Lower the counts of Background services to what is lent to them; say by whom, or why nothing is."""
    drafts = [draft for draft in cycle.drafts if draft.state.spec.background]
    if not drafts:
        return
    try:
        yard = _yard(drafts, cycle)
    except Exception as error:
        for draft in drafts:
            isolation.set_aside(draft, isolation.failure_of(draft.state.spec.key, "background", error))
        return
    acting = []
    for draft in drafts:
        if draft.failure is not None or _hands_off(draft, cycle):
            for variant in draft.variants:
                _charge(variant, variant.observed, "", yard)
        else:
            acting.append(draft)
    for draft in sorted(acting, key=lambda draft: (-draft.state.spec.rank, draft.state.spec.key)):
        isolation.attempt(draft, cycle, "background", lambda draft, cycle: _hold(draft, yard, cycle))
    cycle.background = [(policy, pool, gpus) for (policy, pool), gpus in sorted(yard.taken.items()) if gpus]


def _hands_off(draft: Draft, cycle: Cycle) -> bool:
    """Somebody paused it, or nothing may be written: it stays as it is."""
    halt = pause.active(draft, cycle.now_s)
    if halt is not None and halt.direction is not PauseDirection.UP:
        return True
    return draft.no_write is not None and draft.state.spec.mode is Mode.AUTO


def _hold(draft: Draft, yard: _Yard, cycle: Cycle) -> None:
    terms = _terms(draft, cycle)
    before = draft.counts()
    if terms.policy is None:
        stays = terms.code in _STAYS
        counts = [v.count if v.fault is not None else min(v.count, v.observed) if stays else 0 for v in draft.variants]
        limit = terms.code, terms.text
    else:
        counts, limit = _lent(draft, terms, yard, cycle)
    lends = terms.policy is not None and limit[0] in (Code.GPUS_LENT, Code.AT_MAX_GPUS)
    status = ConditionStatus.TRUE if lends else ConditionStatus.FALSE
    draft.lending = Condition("GPUsLent", status, limit[0].value, limit[1])
    if counts != before or (terms.policy is None and terms.code not in _STAYS):
        chain.apply(draft, "background", Verdict(counts, *limit))
    if terms.policy is None:
        for variant in draft.variants:
            _charge(variant, max(variant.count, variant.observed), "", yard)


def _terms(draft: Draft, cycle: Cycle) -> _Terms:
    """The one policy that its labels match, as with Jobs."""
    spec, now_s = draft.state.spec, cycle.now_s
    sick = [s for s in cycle.snapshot.sources if s.name == "batchpolicies" and not s.healthy]
    unread = [
        item
        for item in cycle.snapshot.unreadable
        if item.kind == BATCH_KIND and item.key.partition("/")[0] == spec.namespace
    ]
    if sick or unread:
        why = "BatchPolicies cannot be watched" if sick else f"{unread[0].message}"
        return _Terms(None, Code.BATCH_POLICIES_UNKNOWN, f"{why}: nothing is raised, and what runs goes on")
    labels = dict(spec.labels)
    found = sorted((s for s in cycle.snapshot.batch_policies if s.spec.selects(spec.namespace, labels)), key=_key)
    if not found:
        text = f"no BatchPolicy of namespace {spec.namespace} selects it: nothing is lent to it"
        return _Terms(None, Code.NO_BATCH_POLICY, text)
    if len(found) > 1:
        names = " and ".join(_key(state) for state in found)
        return _Terms(None, Code.SELECTED_TWICE, f"BatchPolicies {names} select it: nothing is lent to it")
    policy, key = found[0], _key(found[0])
    if policy.spec.paused:
        text = f"BatchPolicy {key} is paused: nothing is raised, and what runs goes on"
        return _Terms(None, Code.BATCH_PAUSED, text)
    if policy.spec.strategy is Strategy.CHEAPEST:
        return _Terms(policy, Code.GPUS_LENT, f"BatchPolicy {key} lends whenever no cheaper hour comes within a day")
    until_s = next((end for begin, end in policy.open if begin <= now_s < end), None)
    if until_s is not None:
        return _Terms(policy, Code.GPUS_LENT, f"a window of BatchPolicy {key} is open until {clock(until_s, now_s)}")
    opens_s = next((begin for begin, _ in policy.open if begin > now_s), None)
    until = f"until {clock(opens_s, now_s)}" if opens_s is not None else "within the days that are planned"
    return _Terms(policy, Code.WAITS_FOR_WINDOW, f"no window of BatchPolicy {key} is open {until}")


def _key(state: BatchPolicyState) -> str:
    return state.spec.key


def _lent(draft: Draft, terms: _Terms, yard: _Yard, cycle: Cycle) -> tuple[list[int], tuple[Code, str]]:
    """Replicas by variant, and what limits them; GPUS_LENT where nothing does.

    What finds no room on one variant goes to the others that may grow, one for one.
    """
    policy = terms.policy
    assert policy is not None
    counts = [0] * len(draft.variants)
    limit = terms.code, terms.text
    lacking = 0
    order = sorted(draft.variants, key=dearness)
    for variant in order:
        if variant.fault is not None:
            counts[variant.index] = variant.count
            _charge(variant, max(variant.count, variant.observed), policy.spec.key, yard)
            continue
        most, why = _most(variant, terms, yard, cycle)
        counts[variant.index] = min(variant.count, most)
        if most < variant.count:
            lacking += variant.count - most
            limit = why
        _charge(variant, counts[variant.index], policy.spec.key, yard)
    for variant in order if lacking else ():
        if variant.fault is None and variant.high > counts[variant.index]:
            most, _ = _most(variant, terms, yard, cycle, kept=0)
            more = min(lacking, most, variant.high - counts[variant.index])
            counts[variant.index] += more
            lacking -= more
            _charge(variant, more, policy.spec.key, yard)
    if limit[0] is Code.WAITS_FOR_WINDOW and not lacking and any(counts):
        limit = Code.GPUS_LENT, f"{terms.text}; it is on GPUs that are idle and paid for"
    return counts, limit


def _most(
    variant: VariantDraft, terms: _Terms, yard: _Yard, cycle: Cycle, kept: int | None = None
) -> tuple[int, tuple[Code, str]]:
    """How many it may have, and why no more. `kept`: of those that run, how many may stay on what they have."""
    policy, pool, gpus = terms.policy, variant.pool, variant.gpus
    if policy is None or pool is None or not gpus:
        stays = variant.observed if terms.code is Code.GPUS_LENT else 0
        return stays, (Code.WAITS_FOR_GPUS, f"{variant.spec.name}: its pool or its GPUs are not known")
    spec, room = policy.spec, yard.rooms[pool.name]
    if spec.pools and pool.name not in spec.pools:
        return 0, (Code.WAITS_FOR_GPUS, f"BatchPolicy {spec.key} lends no GPUs of {pool.name} (spec.pools)")
    code, text = terms.code, terms.text
    if spec.strategy is Strategy.CHEAPEST:
        code, text = _cheap(spec.key, pool.state, terms, cycle.now_s)
    more, keep = room.more, room.keep
    if code is not Code.GPUS_LENT:
        idle = spec.strategy is not Strategy.WINDOW
        more, keep = (min(more, room.idle), min(keep, room.idle_kept)) if idle else (0.0, 0.0)
        text += f"; {_gpus(more)} idle and paid for on {pool.name} beside what others may need" if idle else ""
    else:
        code = Code.WAITS_FOR_GPUS
        text = f"{_gpus(more)} free on {pool.name} beside what Interactive services may need and Jobs hold"
    if yard.blind:
        more, code, text = 0.0, Code.WAITS_FOR_GPUS, f"{yard.blind}: what is free is not known"
    runs = variant.observed if kept is None else kept
    most = max(_whole(more, gpus), min(runs, _whole(keep, gpus)))
    allowed = yard.left.get(spec.key)
    if allowed is not None and allowed // gpus < most:
        most, code = max(0, allowed // gpus), Code.AT_MAX_GPUS
        text = f"its services and Jobs have the {spec.max_gpus} GPUs of BatchPolicy {spec.key} (spec.maxGPUs)"
    return most, (code, text)


def _cheap(key: str, state: PoolState, terms: _Terms, now_s: float) -> tuple[Code, str]:
    """Whether the pool's price now is the lowest of the next day, as for Jobs without a deadline."""
    now = state.price_per_gpu_hour
    coming = [(each.at_s, each.per_gpu_hour) for each in state.steps]
    coming.append((state.next_price_change_at or 0.0, state.next_price_per_gpu_hour))
    later = [(p, at_s) for at_s, p in coming if p is not None and now_s < at_s < now_s + DAY_S]
    if now is None or not later or float(now) <= float(min(later)[0]) + CENT:
        return Code.GPUS_LENT, terms.text
    least, at_s = min(later)
    text = f"BatchPolicy {key} waits for {clock(at_s, now_s)}: {least:.2f} instead of {now:.2f} {state.currency}"
    return Code.WAITS_FOR_CHEAPER_HOUR, f"{text} per GPU-hour on {state.spec.name}"


def _whole(gpus: float, each: int) -> int:
    return max(0, math.floor(gpus / each + 1e-9))


def _gpus(count: float) -> str:
    whole = _whole(count, 1)
    return "1 GPU is" if whole == 1 else f"{whole} GPUs are"


def _charge(variant: VariantDraft, replicas: int, policy: str, yard: _Yard) -> None:
    if variant.pool is not None and variant.gpus and replicas:
        yard.take(policy, variant.pool.name, replicas * variant.gpus)


def _yard(drafts: Iterable[Draft], cycle: Cycle) -> _Yard:
    pools = {v.pool.name: v.pool for draft in drafts for v in draft.variants if v.pool is not None}
    lent = cycle.lent or Lent({state.spec.key: state for state in cycle.snapshot.batch_policies})
    grid = Grid((cycle.now_s, cycle.now_s + need.NEAR_S))
    needs, others, by_pool = need.needs(cycle, grid, pools), others_hold(cycle, lent), _serving(cycle)
    jobs, of_policy = _jobs(cycle)
    rooms = {
        name: _room(pool, needs[name], others.get(name, 0.0), by_pool[name], jobs[name], grid, cycle)
        for name, pool in sorted(pools.items())
    }
    left = {
        state.spec.key: state.spec.max_gpus - of_policy[state.spec.key]
        for state in cycle.snapshot.batch_policies
        if state.spec.max_gpus is not None
    }
    return _Yard(rooms, left, unseen(cycle.snapshot))


def _serving(cycle: Cycle) -> dict[str, float]:
    """By pool: GPUs that Interactive services have, or will by this plan."""
    found: dict[str, float] = defaultdict(float)
    for draft in cycle.drafts:
        for variant in draft.variants if not draft.state.spec.background else ():
            if variant.pool is not None and variant.gpus:
                count = variant.observed if draft.no_write is not None else max(variant.count, variant.observed)
                found[variant.pool.name] += count * variant.gpus
    return found


def _room(
    pool: PoolDraft, wanted: need.Need, others: float, serving: float, jobs: float, grid: Grid, cycle: Cycle
) -> _Room:
    # what services need is taken off here, for where it is more than there is the offer says 0 and not by how much
    there = price.offer(pool, need.Need([0.0], [0.0]), others, grid, cycle).room[0]
    more, keep = there - wanted.upper[0] - jobs, there - serving - jobs
    if price.paid_anyway(pool.state):
        return _Room(more, keep, more, keep)
    if not release.applies(pool.state):
        return _Room(more, keep, 0.0, 0.0)  # each GPU is paid for as it is held
    size = price.node_size(pool)
    idle = price.beside_services(wanted.expected[0] + others + jobs, size)
    return _Room(more, keep, idle, price.beside_services(serving + others + jobs, size))


def _jobs(cycle: Cycle) -> tuple[dict[str, float], dict[str, int]]:
    """GPUs of Jobs that run, or are planned to start within a quarter of an hour: by pool, and by policy."""
    by_pool: dict[str, float] = defaultdict(float)
    by_policy: dict[str, int] = defaultdict(int)
    due = {
        each.uid: each.pool
        for each in cycle.memory.batch.planned
        if each.pool and each.starts_at <= cycle.now_s + need.NEAR_S and each.why not in _NO_MONEY
    }
    of_node = {node.name: name for name, pool in cycle.pools.items() for node in pool.state.nodes}
    for job in cycle.snapshot.jobs:
        held = 0
        for pod in job.pods:
            if pod.node in of_node:
                by_pool[of_node[pod.node]] += pod.gpus
                held += pod.gpus if not pod.terminating else 0
        waits = job.suspended and job.uid in due
        asked = full(job) if waits else 0 if job.suspended else job.parallelism
        more = max(0, asked * job.gpus_per_pod - held)
        by_pool[due[job.uid] if waits else job.pool] += more
        by_policy[job.policy] += held + more
    return by_pool, by_policy
