"""Who decides: Ebbtide under a CostPolicy or none, and the rivals, which run what Ebbtide wants without one.

A rival is the same autoscaler that knows nothing of money (it plays the path of the unconstrained run), and something
beside it that does: a quota of GPUs, or a switch that turns all off. So they differ from Ebbtide in nothing else.
"""

import math
from collections.abc import Callable, Sequence
from decimal import Decimal

import msgspec

from ebbtide.bench.budget.clerk import DAY_S
from ebbtide.bench.budget.seen import CURRENCY, View
from ebbtide.bench.budget.world import Began, Outcome, Stage, World
from ebbtide.clock import monotonic_s
from ebbtide.core.plan import plan
from ebbtide.errors import EbbtideError
from ebbtide.model.memory import Memory
from ebbtide.model.snapshot import WriteReceipt
from ebbtide.model.spec import CeilingKind, Pacing, PolicySpec
from ebbtide.money.accounts import Accounts, Saved, Shown


class Ceiling(msgspec.Struct, frozen=True):
    """`share` of the unconstrained bill, as an amount a period."""

    kind: CeilingKind
    share: Decimal
    amount: Decimal

    def policy(self, pacing: Pacing = Pacing.NONE) -> PolicySpec:
        """The CostPolicy that declares it, for all services."""
        return PolicySpec("budget", "budget", 1, CURRENCY, ceilings=((self.kind, self.amount),), pacing=pacing)


_NO_LIMIT = Ceiling(CeilingKind.MONTH, Decimal(0), Decimal(10) ** 9)


class Operator:
    """Ebbtide: accounts, plan, obey; with nothing that only a benchmark has."""

    def __init__(self, stage: Stage, world: World, memory: Memory, policies: Sequence[PolicySpec]) -> None:
        self._view = View(world.fleets, stage.price_per_hour, stage.pace, stage.cycle_s)
        self._policies, self._accounts, self.memory = policies, Accounts(), memory
        self._receipts: dict[str, WriteReceipt] = {}
        self._cycles = self._short = 0

    @property
    def short(self) -> float:
        """The share of cycles in which a policy took something away."""
        return self._short / max(1, self._cycles)

    def __call__(self, world: World) -> None:
        """One cycle."""
        now_s = world.now_s
        snapshot = self._view.snapshot(world.fleets, world.came, self._receipts, now_s)
        if self._policies:
            gone: dict[str, int] = {}
            for fleet in world.fleets:
                gone |= fleet.gone
                fleet.gone = {}
            shown = Shown(
                now_s=float(now_s),
                pools=snapshot.pools,
                labels={service.spec.key: service.spec.labels for service in snapshot.services},
                holdings=self._view.holdings(world.fleets),
                gone={name: float(at_s) for name, at_s in gone.items()},
            )
            self._accounts.count(self._policies, lambda _: Saved(0.0, Decimal(0), ()), shown)
            # the ledger is asked once: before this second nothing was spent in any period
            for spec, periods in self._accounts.unsettled():
                self._accounts.settle(spec, dict.fromkeys(periods, Decimal(0)), now_s, now_s)
            snapshot = msgspec.structs.replace(snapshot, policies=self._accounts.states())
        decided, self.memory = plan(snapshot, self.memory, float(now_s))
        for failure in decided.failures:
            raise EbbtideError(f"plan failed in {failure.step}: {failure.error} at {failure.trace}")
        by_key = {fleet.member.key: fleet for fleet in world.fleets}
        for action in decided.actions:
            by_key[action.service].scale(action.to_replicas, now_s, action.victims)
            self._receipts[action.service] = WriteReceipt(action.target_uid, action.to_replicas, float(now_s))
        self._cycles += 1
        self._short += any(policy.given_up for policy in decided.policies)


def lead_in(stage: Stage) -> Began:
    """Ebbtide runs the services before the month, under a policy that binds nothing; nothing is billed or scored."""
    world = World(stage, None, stage.begin_s - stage.lead_in_s, stage.begin_s)
    for fleet in world.fleets:
        need = math.ceil(fleet.member.requests[0] / 60 / fleet.member.capacity_per_s)
        fleet.scale(max(1, need), world.now_s - stage.startup_s)
    operator = Operator(stage, world, Memory(), (_NO_LIMIT.policy(),))
    world.run(operator)
    return world.began(msgspec.msgpack.encode(operator.memory))


def ebbtide(stage: Stage, began: Began, ceiling: Ceiling | None, pacing: Pacing = Pacing.NONE) -> Outcome:
    """The month under a policy with that ceiling; None: without any."""
    start_s = monotonic_s()
    world = World(stage, began, stage.begin_s, stage.end_s)
    policies = () if ceiling is None else (ceiling.policy(pacing),)
    operator = Operator(stage, world, msgspec.msgpack.decode(began.memory, type=Memory), policies)
    world.run(operator)
    return world.outcome(monotonic_s() - start_s, operator.short)


Limit = Callable[[World, Sequence[int]], Sequence[int]]
"""What of the wanted replicas, by service, is let through now."""


def along(stage: Stage, began: Began, path: Sequence[Sequence[int]], limit: Limit) -> Outcome:
    """The month along the unconstrained path, as far as `limit` lets it."""
    start_s = monotonic_s()
    world = World(stage, began, stage.begin_s, stage.end_s)

    def decide(world: World) -> None:
        minute = (world.now_s - stage.begin_s) // 60
        for fleet, count in zip(world.fleets, limit(world, [counts[minute] for counts in path]), strict=True):
            fleet.scale(count, world.now_s)

    world.run(decide)
    return world.outcome(monotonic_s() - start_s)


def quota(stage: Stage, gpus: int) -> Limit:
    """Never more than so many GPUs: a minimum of one each, then by priority."""
    order = sorted(range(len(stage.members)), key=lambda number: -stage.members[number].priority)

    def limit(world: World, wanted: Sequence[int]) -> Sequence[int]:
        given = [0] * len(wanted)
        left = gpus - sum(len(fleet.leaving) for fleet in world.fleets)  # what drains still holds its GPUs
        for least in (True, False):
            for number in order:
                more = min(max(0, left), (min(1, wanted[number]) if least else wanted[number]) - given[number])
                given[number] += more
                left -= more
        return given

    return limit


def hard_stop(stage: Stage, ceiling: Ceiling) -> Limit:
    """All off from the minute in which the period's money is spent until the period ends."""

    def limit(world: World, wanted: Sequence[int]) -> Sequence[int]:
        begin_s = stage.begin_s
        if ceiling.kind is CeilingKind.DAY:
            begin_s = world.now_s - (world.now_s - stage.begin_s) % DAY_S
        return [0] * len(wanted) if world.clerk.spent(begin_s, world.now_s) >= ceiling.amount else wanted

    return limit
