"""What a ceiling has left, and what a replica takes of it.

All money here is in price x GPU-seconds, 3600 times the amount, so that whole prices and seconds stay whole numbers.

Of a period [begin, end) a replica takes:

    fixed    rate x (end - now)           what may not be reduced: minimums, services in Recommend or Off, paused, and
                                          pods that are stuck past their exit
    kept     rate x min(end - now, W)     what else runs, and what a rival or a rollout keeps for the moment
    raised   rate x min(end - now, 2W + start-up)    to begin with; once it is there it is kept as all others
    leaving  rate x min(end - now, exit)  what was told to go

W is the policy's outageReserve (a minute at least), a cycle and the exit of a pod; where the policy pays for nodes that
an autoscaler takes away, exit goes on until the node is gone. A ceiling per hour is a rate: each
of them takes the dearest price of the next W. Worked example: 2.50 USD/h, W 960 s: 0.67 USD are bound for each GPU that
runs, so that 15 minutes without an operator cross nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from decimal import Decimal

from msgspec.structs import replace

from ebbtide.core import turns
from ebbtide.core.ceilings import outlook, pacing
from ebbtide.core.ceilings.room import Room
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.model.memory import OutlookMemory, PolicyMemory
from ebbtide.model.plan import NextThreshold
from ebbtide.model.snapshot import PolicyState, Reached
from ebbtide.model.spec import Billing, CeilingKind, Pacing, PolicySpec, Provisioning, TemporaryRaise, ThresholdAction

HOUR_S = Decimal(3600)
NODE_GPUS = 8  # of a node of a pool that has none yet
LEAST_RESERVE_S = 60.0
_MOST_NODES = 5  # that are named
NOTHING = Decimal(0)
SMALLEST, _SLACK = Decimal("0.000001"), Decimal("0.1")


@dataclass(slots=True)
class Tariff:
    """What one GPU of a pool costs over time: steps of (from, price), ascending; the last goes on for ever.

    Lines know by the object itself what they worked out before, so there must be one for each pool, currency and rate.
    """

    steps: Sequence[tuple[int, Decimal]]

    def cost(self, begin_s: int, end_s: int) -> Decimal:
        """Price x seconds over [begin_s, end_s); nothing where the end is not after the beginning."""
        found = NOTHING
        for index, (from_s, price) in enumerate(self.steps):
            if from_s >= end_s and index:
                break
            until_s = self.steps[index + 1][0] if index + 1 < len(self.steps) else end_s
            first_s = begin_s if index == 0 else max(begin_s, from_s)
            seconds = min(end_s, until_s) - first_s
            if seconds > 0:
                found += price * seconds
        return found

    def dearest(self, begin_s: int, end_s: int) -> Decimal:
        """The highest price of [begin_s, end_s)."""
        ends = [*(from_s for from_s, _ in self.steps[1:]), math.inf]
        prices = zip(self.steps, ends, strict=True)
        return max(price for (from_s, price), until_s in prices if from_s < end_s and until_s > begin_s)


def tariff_of(pool: PoolDraft | None, spec: PolicySpec) -> Tariff | None:
    """None where nobody knows what its GPUs cost in the policy's currency."""
    state = None if pool is None else pool.state
    worth = None if state is None else spec.worth(state.currency)
    if state is None or state.price_per_gpu_hour is None or worth is None:
        return None
    coming = [(int(step.at_s), step.per_gpu_hour) for step in state.steps]
    known = [(at_s, price * worth) for at_s, price in coming if price is not None]
    return Tariff(known if known and len(known) == len(coming) else [(0, state.price_per_gpu_hour * worth)])


@dataclass(slots=True)
class Line:
    """One ceiling of one policy: of HOUR a rate, else of the period [begin_s, end_s)."""

    policy: "PolicyDraft"
    kind: CeilingKind
    begin_s: int
    end_s: int
    ceiling: Decimal
    spent: Decimal = NOTHING
    bound: Decimal = NOTHING  # what may not be reduced, and what others hold
    leaving: Decimal = NOTHING  # what was told to go
    batch: Decimal = NOTHING  # what Jobs take that may be stopped beyond what they take until they are gone
    kept: Decimal = NOTHING  # what runs and may be reduced
    grows: Decimal = (
        NOTHING  # of a rate: what nodes may take more than now, once neighbours have left: none is raised on it
    )
    paced: "Line | None" = None  # the period whose money this rate spreads
    least: int = pacing.LEAST  # of services of this priority and more
    below: float = math.inf  # and of less than this
    slack: Decimal = NOTHING  # what is kept beyond the ceiling of a paced rate: it moves a little all the time
    raised: Decimal = NOTHING  # what is to be raised, at what a raise takes to begin with
    passing: Decimal = NOTHING  # of `bound`, what is counted for W alone, for it came lately
    unpriced: tuple[tuple[str, int], ...] = ()  # by pool, GPU-seconds that are not in `spent`
    granted: Decimal = NOTHING  # what raises that were allowed take once they run
    left: Decimal = NOTHING  # while replicas are chosen: what nobody has taken yet
    free: Decimal = NOTHING  # the same beside all that runs, that which gives way included
    is_tight: bool = False  # while replicas are chosen: not all that is planned may be
    margin: Decimal = NOTHING  # of what was taken, what raises take to begin with beyond what they take once they run
    _known: dict[tuple[int, int], Decimal] = field(default_factory=dict)  # what was worked out, by tariff and seconds

    @property
    def planned(self) -> Decimal:
        """What all that is planned takes beside what was spent."""
        return self.bound + self.leaving + self.batch + self.kept + self.raised

    @property
    def fits(self) -> bool:
        """Whether all that is planned may be."""
        room = self.ceiling - self.grows if self.raised else self.ceiling + self.slack
        return self.spent + self.planned <= room

    @property
    def is_of_all(self) -> bool:
        """Whether it is no class of priorities that it holds alone."""
        return self.least == pacing.LEAST and self.below == math.inf

    @property
    def is_rate(self) -> bool:
        """Whether it is of what runs at a moment."""
        return self.kind is CeilingKind.HOUR

    @property
    def is_now(self) -> bool:
        """Whether it is of the present period."""
        return not self.is_rate and self.begin_s <= self.policy.now_s < self.end_s

    @property
    def committed(self) -> Decimal:
        """What is bound beside what was spent, now that it is decided."""
        return self.bound + self.leaving + self.batch + self.kept + self.granted

    def open(self) -> None:
        """Begin to choose. Of a rate nobody need go for what is on its way out; raises wait for it.

        Nor need anybody go for Jobs that may be stopped: they are, in this cycle; raises wait until they are gone.
        """
        self.left = self.ceiling + self.slack - self.spent - self.bound
        self.free = self.left - self.slack - self.leaving - self.batch - self.kept - self.grows
        self.left -= NOTHING if self.kind is CeilingKind.HOUR else self.leaving

    def extra(self, keep: Decimal, rise: Decimal) -> Decimal:
        """What a raise takes to begin with beyond `keep`: the largest of those that are made together counts once."""
        return max(NOTHING, rise - keep - self.margin)

    def takes(self, tariff: Tariff, for_s: float) -> Decimal:
        """Of one GPU from now for `for_s` seconds; of a rate its dearest price."""
        now_s = self.policy.now_s
        rate = self.kind is CeilingKind.HOUR
        until_s = self.end_s if rate else math.ceil(min(self.end_s, now_s + for_s))
        key = id(tariff), until_s
        found = self._known.get(key)
        if found is None:
            found = tariff.dearest(now_s, until_s) * HOUR_S if rate else tariff.cost(max(self.begin_s, now_s), until_s)
            self._known[key] = found
        return found


@dataclass(frozen=True, slots=True)
class Machine:
    """A node that comes and goes, in the eyes of a policy of which replicas run on it. In GPUs."""

    rest: int  # that nobody holds, and for which it pays
    now: int  # for which it pays, those of pods that were told to go not counted
    most: int  # the same once neighbours that Ebbtide may let go have left
    free: int  # that nobody holds, where it pays for all

    def takes(self, *, rate: bool) -> int:
        """Of a rate what it is now; of a period what it may become."""
        return self.now if rate else self.most


@dataclass(slots=True)
class PolicyDraft:
    """One policy while plans are held under it."""

    state: PolicyState
    now_s: int
    exit_s: float
    cycle_s: float
    lines: list[Line] = field(default_factory=list)
    reserve_s: int = field(init=False)  # W: for how long what runs must stay payable
    services: int = 0
    idle: dict[str, int] = field(default_factory=dict)  # GPUs by pool that are paid for and that nobody holds
    beside: dict[str, int] = field(default_factory=dict)  # the same of nodes that come and go and nobody of its is on
    machines: dict[str, Machine] = field(default_factory=dict)  # by name: those that come and go
    stays: set[str] = field(default_factory=set)  # of these, with somebody on them who may not be reduced
    taken: set[str] = field(default_factory=set)  # the same, while replicas are chosen, or with somebody who stays
    freed: dict[int, list[int]] = field(default_factory=dict)  # by part: GPUs of nodes that go with it, as `Machine`
    granted: dict[int, int] = field(default_factory=dict)  # by part: GPUs that its raises bring
    rooms: dict[str, Room] = field(default_factory=dict)  # by pool, while replicas are put there
    empty: dict[str, Room] = field(default_factory=dict)  # the same before that
    retaken: dict[str, int] = field(default_factory=dict)  # of the idle ones, by replicas that are wanted
    unpriced: dict[str, int] = field(default_factory=dict)  # GPUs in use by pool, of which nobody knows the price
    wrong_currency: set[str] = field(default_factory=set)
    rate: Decimal = NOTHING  # of all that runs now, and of that, what may not be reduced
    fixed_rate: Decimal = NOTHING
    leaving_rate: Decimal = NOTHING  # of what may not be reduced, what was told to go
    passing_rate: Decimal = NOTHING  # of `fixed_rate`, what came lately
    missing_rate: Decimal = NOTHING  # of minimums that do not run yet
    wanted_rate: Decimal = NOTHING
    stuck: dict[str, tuple[int, Decimal]] = field(default_factory=dict)  # pods past their exit by service, their rate
    gave_way: dict[str, int] = field(default_factory=dict)
    raised: set[str] = field(default_factory=set)
    memory: PolicyMemory = field(default_factory=lambda: PolicyMemory(""))
    outlooks: tuple[OutlookMemory, ...] = ()
    reached: list[Reached] = field(default_factory=list)
    newly_reached: list[tuple[Reached, str]] = field(default_factory=list)
    acting: dict[ThresholdAction, str] = field(default_factory=dict)  # why
    next_threshold: NextThreshold | None = None
    classes: dict[int, tuple[Decimal, Decimal]] = field(default_factory=dict)  # by priority: wanted, may not be reduced

    _by_priority: dict[int, list[Line]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        reserve_s = max(LEAST_RESERVE_S, self.state.spec.outage_reserve_s)
        self.reserve_s = math.ceil(reserve_s + self.cycle_s + self.exit_s)

    def lines_of(self, priority: int) -> list[Line]:
        """Those that a service of this priority falls under; to be asked once all lines are there."""
        found = self._by_priority.get(priority)
        if found is None:
            found = [line for line in self.lines if line.least <= priority < line.below]
            self._by_priority[priority] = found
        return found

    def let_go(self) -> None:
        """Forget the lines, once all is decided: they know their policy too, and such a ring outlives its cycle.

        What counting references does not free stays until the collector comes, which is spared (`controller.heap`):
        25 kB a policy and cycle, 25 MB each ten seconds of 1,000 policies.
        """
        self.lines, self._by_priority = [], {}

    @property
    def lines_of_all(self) -> list[Line]:
        """Those that no class of priorities holds alone."""
        return [line for line in self.lines if line.is_of_all]

    def wants(self, priority: int, rate: Decimal, fixed: Decimal) -> None:
        """Note what services of a priority would cost an hour without it, and what of that may not be reduced."""
        self.wanted_rate += rate
        before = self.classes.get(priority, (NOTHING, NOTHING))
        self.classes[priority] = before[0] + rate, before[1] + fixed

    def unclaim(self) -> None:
        """Nobody is put on GPUs that are paid for yet, and who may be reduced stays nowhere."""
        self.rooms = {pool: replace_fields(room) for pool, room in self.empty.items()}
        self.taken = set(self.stays)

    def due(self, names: tuple[str, ...], gpus: int, *, rate: bool) -> int:
        """What a replica of so many GPUs with pods on these nodes takes beside those that stay already."""
        if not names or not all(name in self.machines for name in names):
            return gpus
        return sum(self.machines[name].takes(rate=rate) for name in {*names} - self.taken)

    def room(self, pool: str) -> Room:
        """Where replicas are put."""
        return self.rooms.setdefault(pool, Room())

    def has_paid(self, pool: str, gpus: int, pods: int = 1) -> bool:
        """Whether so many GPUs of the pool are paid for anyway: a replica on them takes nothing."""
        return self.room(pool).has_paid(pod_gpus(gpus, pods), pods)

    def paid_anyway(self, pool: PoolDraft | None) -> bool:
        """Whether it pays for the pool's nodes, and they stay whoever leaves."""
        return self.pays_nodes(pool) and pool is not None and pool.state.spec.provisioning is Provisioning.STATIC

    def comes_and_goes(self, pool: PoolDraft | None) -> bool:
        """Whether it pays for the pool's nodes, and for as long as somebody is on them."""
        return self.pays_nodes(pool) and not self.paid_anyway(pool)

    def comes_with(self, pool: PoolDraft | None, gpus: int, pods: int = 1) -> int:
        """GPUs of the nodes that a replica brings where none are free: of nodes that it pays for whole ones.

        While there are nodes of which it does not pay for all, each pod may be put on one of these.
        """
        if pool is None or not self.comes_and_goes(pool):
            return gpus
        size, node = pod_gpus(gpus, pods), node_gpus(pool)
        together = 1 if self.room(pool.name).opens else max(1, node // size)
        return -(-pods // together) * -(-size // node) * node

    def carries(self, pool: PoolDraft | None, brought: int, gpus: int, pods: int) -> int:
        """How many of the replica's pods the GPUs are for that it brings; of nodes that others are on, its own."""
        if pool is None or not brought or not self.comes_and_goes(pool):
            return pods if brought else 0
        if self.room(pool.name).opens:
            return pods
        node = node_gpus(pool)
        return max(pods, brought // node * (node // pod_gpus(gpus, pods)))

    def pays_nodes(self, pool: PoolDraft | None) -> bool:
        """Whether it pays for the pool's nodes as a whole."""
        if pool is None or pool.state.spec.billing is not Billing.NODE:
            return False
        return pool.state.spec.shares_idle or self.state.spec.pays_all

    def put(self, pool: PoolDraft | None, gpus: int, pods: int = 1) -> int:
        """Put a replica on GPUs that are paid for, else on a node that comes for it; the GPUs that this brings."""
        room, size = self.room("" if pool is None else pool.name), pod_gpus(gpus, pods)
        brought = 0 if room.has_paid(size, pods) else self.comes_with(pool, gpus, pods)
        if not brought or not self.paid_anyway(pool):
            room.put(size, pods, brought, self.carries(pool, brought, gpus, pods))
        return brought

    def retaken_by(self, pool: str, brought: int) -> int:
        """Of so many GPUs that come, those that are there and would go: what is bound for them is the raise's."""
        return self.room(pool).retaken(brought)

    @property
    def refuses(self) -> str:
        """Why nothing under it is raised, whatever is left; empty: nothing forbids it."""
        where = f"CostPolicy {self.state.spec.name}"
        if self.state.unread:
            return f"{where}: what InferenceService {self.state.unread} holds is not known, for it cannot be read"
        if self.state.faults:
            return f"{where}: {self.state.faults[0][1]}"
        if self.unpriced:
            return f"{where}: what GPUs cost in {self.state.spec.currency} is not known ({self.unpriced_words} in use)"
        return ""

    @property
    def unpriced_words(self) -> str:
        """`4 of h100, 2 on node gpu-7, which is in no pool`."""
        pools = [f"{gpus} of {pool}" for pool, gpus in sorted(self.unpriced.items()) if pool]
        nodes = self.state.outside
        alone = [f"{gpus} on node {name}, which is in no pool" for name, gpus in nodes[:_MOST_NODES]]
        rest = sum(gpus for _, gpus in nodes[_MOST_NODES:])
        return ", ".join([*pools, *alone, *([f"{rest} on other nodes of no pool"] if rest else [])])


def pod_gpus(gpus: int, pods: int) -> int:
    """Of each of a replica's pods, the largest where they differ by one."""
    return max(1, -(-gpus // pods))


def node_gpus(pool: PoolDraft) -> int:
    """Of the pool's largest node."""
    return max((node.gpus for node in pool.state.nodes), default=0) or NODE_GPUS


def running_raise(policy: PolicyDraft) -> TemporaryRaise | None:
    """What its ceilings are raised by just now; None: they are not.

    They fall by W before that, so that nothing runs then that could not be paid for.
    """
    more = policy.state.spec.temporary_raise
    return None if more is None or policy.now_s + policy.reserve_s >= more.until_unix_s else more


def open_policy(
    state: PolicyState, now_s: float, cycle_s: float, exit_s: float, memory: PolicyMemory | None = None
) -> PolicyDraft:
    """Its lines with what was spent; what has not been counted yet is taken at the rate as of then."""
    # by a clock that was set back nothing is counted and no period begins again
    now_s = math.floor(max(now_s, state.through_s))
    draft = PolicyDraft(state, now_s, exit_s, cycle_s, memory=memory or PolicyMemory(state.spec.uid))
    raised = running_raise(draft)
    more = {} if raised is None else dict(raised.amounts)
    for kind, declared in state.spec.ceilings:
        ceiling = declared + more.get(kind, NOTHING)
        if kind is CeilingKind.HOUR:
            begin_s = draft.now_s
            draft.lines.append(Line(draft, kind, begin_s, begin_s + draft.reserve_s, ceiling * HOUR_S))
        for account in state.accounts:
            if account.kind is kind and account.start_s < draft.now_s + draft.reserve_s:
                begin_s, end_s = int(account.start_s), int(account.end_s)
                late_s = max(0, min(draft.now_s, end_s) - max(begin_s, int(state.through_s)))
                spent = account.spent * HOUR_S + state.per_hour * late_s
                line = Line(draft, kind, begin_s, end_s, ceiling * HOUR_S, spent, unpriced=account.unpriced)
                draft.lines.append(line)
    _look_ahead(draft)
    return draft


def _look_ahead(draft: PolicyDraft) -> None:
    """What the present periods will have cost by their ends, worked out once a minute; and the rate that lasts."""
    lines = [line for line in draft.lines if line.is_now]
    known = {(item.kind, item.start_s, item.ceiling): item for item in draft.memory.outlooks}
    keys = [(line.kind, float(line.begin_s), float(line.ceiling / HOUR_S)) for line in lines]
    memory, now_s = draft.memory, float(draft.now_s)
    every_s = outlook.every_s(memory, min((line.end_s - now_s for line in lines), default=0.0))
    if keys != list(known) or turns.comes(memory.uid, memory.turn_at, now_s, every_s):
        limits = _limits(draft.lines)
        found = [
            outlook.outlook(
                memory, kind, (start_s, float(line.end_s)), float(line.spent / HOUR_S), ceiling, now_s, limits
            )
            for line, (kind, start_s, ceiling) in zip(lines, keys, strict=True)
        ]
        memory = replace(memory, outlooks=tuple(found), turn_at=now_s)
    draft.memory, draft.outlooks = memory, memory.outlooks
    if draft.state.spec.pacing is Pacing.SMOOTH:
        for line, item in zip(lines, draft.outlooks, strict=True):
            if item.paced:
                draft.lines += [_paced(line, rate, priority) for priority, rate in item.paced]
            elif item.allowed_per_hour >= 0:
                draft.lines.append(_paced(line, item.allowed_per_hour))


def _limits(lines: Sequence[Line]) -> outlook.Limits:
    """What holds back within a day; the month's own ceiling is the outlook's."""
    known = {line.kind: line for line in reversed(lines)}  # of two days the present one
    hour, day = known.get(CeilingKind.HOUR), known.get(CeilingKind.DAY)
    per_hour = math.inf if hour is None else float(hour.ceiling / HOUR_S)
    if day is None:
        return outlook.Limits(per_hour)
    left = max(NOTHING, day.ceiling - day.spent)
    return outlook.Limits(per_hour, float(left / HOUR_S), float(day.end_s), float(day.ceiling / HOUR_S))


def _paced(line: Line, per_hour: float, priority: int | None = None) -> Line:
    """What the period's money is spread to: the rate of one class of priorities, or of all."""
    draft, rate = line.policy, Decimal(per_hour).quantize(SMALLEST) * HOUR_S
    paced = Line(draft, CeilingKind.HOUR, draft.now_s, draft.now_s + draft.reserve_s, rate, paced=line)
    if priority is not None:
        known = [each.priority for each in draft.memory.classes]
        at = max(priority, min(known, default=priority))
        paced.least, paced.below = priority, min((each for each in known if each > at), default=math.inf)
    paced.slack = rate * _SLACK
    return paced
