"""One service's replicas in the eyes of the policies that it falls under: which run, may go, leave, or are to come."""

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from ebbtide.core import release
from ebbtide.core.ceilings.lines import NOTHING, Line, PolicyDraft, Tariff, tariff_of
from ebbtide.core.guardrails import bounds, pause, staleness
from ebbtide.core.guardrails.verdict import dearness
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import PodPhase
from ebbtide.model.spec import ExternalScale, Floor, PauseDirection, PolicySpec

DEFAULT_EXIT_S = 30.0  # Kubernetes' own grace
_LATE_S = 30.0  # after its grace a pod is gone within seconds, where its node answers


@dataclass(slots=True)
class Part:
    """One variant: replicas by what may become of them."""

    variant: VariantDraft
    gpus: int
    runs: int = 0
    waiting: int = 0  # of these, without a node so far
    fixed: int = 0  # may not be reduced: those that run, and `missing` minimums
    missing: int = 0
    stays: bool = False  # none of it may be reduced until somebody declares otherwise
    passing: int = 0  # may not be reduced just now: for as long as somebody else writes, or a rollout lasts
    floor: int = 0  # of those that may, declared minimums that run: the last to go
    kept: int = 0  # others that run and are planned
    foreign: int = 0  # of those that are kept, raised by somebody else and the first to go, where a policy says so
    spared: int = 0  # of these two, what stays as long as nobody knows what comes
    raised: int = 0  # to be raised, those within `fixed` not counted
    leaving: int = 0  # of `runs`, not planned any more
    terminating: int = 0  # beside `runs`: told to go
    stuck: int = 0  # of `runs`: told to go, and still there past their exit; nobody may take what they hold
    stuck_pods: int = 0
    out: int = 0  # running ones that give way
    refused: int = 0  # raises that do not fit
    barred: int = 0  # of these, `missing` minimums
    short: bool = False  # while replicas are chosen: one that runs could not be paid
    nodes: list[tuple[str, ...]] = field(default_factory=list)  # of those that run, see `nodes`

    @property
    def pods(self) -> int:
        """A replica's."""
        return max(1, self.variant.state.target.pods_per_replica)


@dataclass(slots=True)
class Stake:
    """One service. `parts` are of the variants whose replicas hold GPUs, cheapest first; `absent` of all others."""

    draft: Draft
    policies: list[PolicyDraft]
    parts: list[Part] = field(default_factory=list)
    absent: list[Part] = field(default_factory=list)
    blocked: Line | None = None  # the line that refused first, and what it would have taken of it
    blocked_need: Decimal = NOTHING
    refused_by: dict[str, int] = field(default_factory=dict)  # replicas by policy
    waits: bool = False  # for what others give back
    held: tuple[Code, str] | None = None  # why raises are refused whatever is left
    held_by: str = ""  # the policy for which they are; empty: for none
    movable: bool = True  # its replicas may be moved to other variants
    tight: list[Line] = field(default_factory=list)  # its policies' lines under which not all fits
    planned: dict[int, Decimal] = field(default_factory=dict)  # of one with stand-ins, what it takes by line's id
    exchanged: str = ""  # what goes first so that its stand-in can be paid, in words

    @property
    def key(self) -> str:
        """Namespace and name."""
        return self.draft.state.spec.key

    @property
    def bound_by(self) -> str:
        """Name of the policy that `refusal_words` are of; empty: they are of none."""
        if self.blocked is not None:
            return self.blocked.policy.state.spec.name
        return self.held_by

    @property
    def priority(self) -> int:
        """As declared, and of Background services below all others."""
        return self.draft.state.spec.rank

    @property
    def standing(self) -> str:
        """`priority 100`, or `serviceClass Background`."""
        spec = self.draft.state.spec
        return f"serviceClass {spec.service_class.value}" if spec.background else f"priority {spec.priority}"


def stake_of(draft: Draft, policies: list[PolicyDraft], cycle: Cycle) -> Stake:
    """Count the service's replicas."""
    stake = Stake(draft, policies)
    reserve_s = min((policy.state.spec.outage_reserve_s for policy in policies), default=0.0)
    stays, floors = _stays(draft, cycle, reserve_s), _floors(draft)
    keeps = any(policy.state.spec.floor is Floor.KEEP_MIN for policy in policies)
    corrects = any(policy.state.spec.on_external_scale is ExternalScale.CORRECT for policy in policies)
    spared = int(staleness.holds(draft, cycle))  # to zero only while it is known what comes
    stake.movable = not stays and not spared
    for variant in sorted(draft.variants, key=dearness):
        gpus = present_gpus(variant) or max((pod.gpus for pod in variant.state.pods), default=0)
        alive, terminating = _pods(variant)
        part = Part(variant, gpus, runs=max(variant.observed, alive), terminating=terminating)
        part.waiting = max(0, part.runs - _bound(variant))
        if stays:
            _hold(part, stays, min(floors[variant.index], part.runs) if keeps else 0)
            if draft.no_write is None and draft.failure is None:
                _move(part)
        else:
            _count(part, floors[variant.index], keeps=keeps)
            part.spared = min(max(0, spared - part.fixed), part.floor + part.kept)
            spared -= min(spared, part.fixed + part.spared)
            part.foreign = min(part.kept, _added(variant)) if corrects else 0
        _roll(part, variant, alive)
        _stick(part, variant, cycle.now_s)
        holds = gpus and (part.runs or part.fixed or part.raised or part.terminating or variant.plain)
        (stake.parts if holds else stake.absent).append(part)
    return stake


def present_gpus(variant: VariantDraft) -> int | None:
    """GPUs a replica; of an engine block that declares more by now, what its Deployment still asks for."""
    present = variant.state.target.template_gpus
    if variant.spec.engine is None or present is None or variant.gpus is None:
        return variant.gpus
    return min(present, variant.gpus)


def _roll(part: Part, variant: VariantDraft, alive: int) -> None:
    """A rollout holds more than is declared until it is over: its next pod comes when this one has gone."""
    target = variant.state.target
    if target.rolling_out:
        there = min(part.leaving, target.surge_replicas, max(0, alive - variant.observed))
        coming = max(0, variant.observed + target.surge_replicas - alive)
        part.leaving, part.runs, part.passing = part.leaving - there, part.runs + coming, part.passing + there + coming


def _stick(part: Part, variant: VariantDraft, now_s: float) -> None:
    """What should have been gone by now holds its GPUs until somebody removes it: nobody knows for how long."""
    late = sum(pod.due_at is not None and pod.due_at + _LATE_S < now_s for pod in variant.state.pods)
    part.stuck = min(part.terminating, -(-late // max(1, variant.state.target.pods_per_replica)))
    part.stuck_pods = late
    part.terminating, part.runs = part.terminating - part.stuck, part.runs + part.stuck


def wanted(draft: Draft, variant: VariantDraft) -> int:
    """Replicas that would run if money were no matter: without stand-ins."""
    return variant.plain if draft.stand_ins and draft.failure is None else variant.wanted


def _added(variant: VariantDraft) -> int:
    """Replicas by which somebody else raised the target last, where we have not moved it since."""
    memory = variant.memory
    if memory.drifted_at is None or memory.drifted_by <= 0:
        return 0
    if memory.write_at is not None and memory.write_at > memory.drifted_at and memory.write_by > 0:
        return 0  # by now we want more ourselves
    before = (memory.adopted_replicas or 0) - memory.drifted_by
    return max(0, min(memory.drifted_by, variant.observed - before))


def exit_s(variant: VariantDraft, spec: PolicySpec) -> float:
    """How long what a pod holds is still paid once it was told to go; where the policy pays for nodes, with its node's.

    Worked example: a grace of 30 s, and nodes that an autoscaler takes away ten minutes after their last pod: 630 s.
    """
    grace_s, pool = variant.state.target.termination_grace_s, variant.pool
    pays = pool is not None and (spec.pays_all or pool.state.spec.shares_idle)
    node_s = release.stays_s(pool.state, pool.memory) if pool is not None and pays else 0.0
    return (DEFAULT_EXIT_S if grace_s is None else grace_s) + node_s


Known = dict[tuple[object, ...], Tariff | None]
"""Tariffs that were asked for before, by pool, currency and rates: one object each for as long as plans are held."""


def tariff_for(part: Part, policy: PolicyDraft, known: Known) -> Tariff | None:
    """Of the variant's pool in the policy's currency."""
    return tariff_in(part.variant.spec.pool, part.variant.pool, policy, known)


def tariff_in(name: str, pool: PoolDraft | None, policy: PolicyDraft, known: Known) -> Tariff | None:
    """Of a pool in the policy's currency."""
    spec = policy.state.spec
    key = name, spec.currency, spec.exchange_rates
    if key not in known:
        known[key] = tariff_of(pool, spec)
    return known[key]


def takes(line: Line, tariff: Tariff, part: Part) -> tuple[Decimal, Decimal]:
    """(what a running replica takes, what one that is to be raised takes to begin with)."""
    keep = keeps(line, tariff, part)
    if part.stays:  # once it is there nobody may let it go
        return keep, keep
    return keep, part.gpus * line.takes(tariff, 2 * line.policy.reserve_s + part.variant.startup_s)


def keeps(line: Line, tariff: Tariff, part: Part) -> Decimal:
    """What a running replica takes."""
    policy = line.policy
    return part.gpus * line.takes(tariff, line.end_s - policy.now_s if part.stays else policy.reserve_s)


def _hold(part: Part, stays: "_Stays", floor: int) -> None:
    """What is declared stays to the end, or its minimum does; what a rollout has beside it passes."""
    declared = min(part.runs, part.variant.observed)
    part.stays = stays is _Stays.DECLARED
    part.fixed = declared if part.stays else min(floor, declared)
    part.passing = part.runs - part.fixed


def _move(part: Part) -> None:
    """A pause may forbid one direction alone, or be on its way to its own number."""
    part.raised = max(0, part.variant.count - part.runs)
    part.leaving = max(0, part.fixed - part.variant.count)
    part.fixed -= part.leaving


class _Stays(StrEnum):
    """Why nothing of a service may be reduced."""

    DECLARED = "declared"  # until somebody declares otherwise
    PASSING = "passing"  # somebody else writes, something is broken: it may be over in a minute, until it has lasted


def _stays(draft: Draft, cycle: Cycle, reserve_s: float) -> _Stays | None:
    """None: it may be reduced. What has lasted as long as the reserve is taken to stay."""
    paused = pause.active(draft, cycle.now_s)
    declared = draft.no_write is not None and draft.no_write[0] in (Code.MODE_OFF, Code.MODE_RECOMMEND)
    since_s = draft.memory.hands_off_since
    lasts = draft.no_write is not None and since_s is not None and cycle.now_s - since_s >= reserve_s
    if declared or lasts or (paused is not None and paused.direction is not PauseDirection.UP):
        return _Stays.DECLARED
    return _Stays.PASSING if draft.no_write is not None or draft.failure is not None else None


def _pods(variant: VariantDraft) -> tuple[int, int]:
    """(replicas that live, replicas that are leaving)."""
    per = max(1, variant.state.target.pods_per_replica)
    leaving = sum(pod.phase is PodPhase.TERMINATING for pod in variant.state.pods)
    return (len(variant.state.pods) - leaving) // per, -(-leaving // per)


def _bound(variant: VariantDraft) -> int:
    """Replicas whose pods are on nodes and are not leaving."""
    bound = sum(bool(pod.node) and pod.phase is not PodPhase.TERMINATING for pod in variant.state.pods)
    return bound // max(1, variant.state.target.pods_per_replica)


def _floors(draft: Draft) -> list[int]:
    """Declared minimums by variant: each one's own, then the service's on its cheapest that run, then are planned.

    Of 4 that run and a cheaper variant that is to replace them one of the 4 is the minimum until the first of these is
    there: what is to come would be paid without being asked for.
    """
    counts = [min(variant.count, variant.spec.min_replicas) for variant in draft.variants]
    missing = bounds.minimum(draft) - sum(counts)
    ordered = sorted(draft.variants, key=dearness)
    running = [(variant, min(variant.count, variant.observed)) for variant in ordered]
    for variant, most in (*running, *((variant, variant.count) for variant in ordered)):
        more = max(0, min(missing, most - counts[variant.index]))
        counts[variant.index] += more
        missing -= more
    return counts


def _count(part: Part, floor: int, *, keeps: bool) -> None:
    """Minimums are fixed, running or not; where a ceiling may take them, those that run are the last to go."""
    planned = part.variant.count
    running = min(part.runs, planned)
    part.leaving, part.raised = part.runs - running, planned - running
    part.kept = max(0, running - floor)
    if keeps:
        part.fixed, part.missing = floor, max(0, floor - running)
        part.raised -= part.missing
    else:
        part.floor = min(floor, running)
