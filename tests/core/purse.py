"""A world that pays: services that obey `plan`, pods that are billed from binding until they are gone, and an account.

The account is a clerk who looks once a second and shares no code with Ebbtide's own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType

import msgspec

from ebbtide.core.plan import plan
from ebbtide.model.memory import Memory
from ebbtide.model.money import PriceStep
from ebbtide.model.plan import Plan, PolicyPlan
from ebbtide.model.snapshot import Account, PodPhase, PodState, PolicyState, Snapshot, VariantState, WriteReceipt
from ebbtide.model.spec import CeilingKind, PolicySpec, VariantSpec
from tests.builders import NOW, engine, misplaced, pod, pool, service, snapshot, spec, variant, variant_spec

STARTUP_S, EXIT_S, CYCLE_S = 60, 30, 10


def policy(name: str = "cap", **changes: object) -> PolicySpec:
    """`per_hour`, `per_day`, `per_month` as text."""
    kinds = {"per_hour": CeilingKind.HOUR, "per_day": CeilingKind.DAY, "per_month": CeilingKind.MONTH}
    ceilings = tuple((kind, Decimal(str(changes.pop(key)))) for key, kind in kinds.items() if key in changes)
    fields = {"name": name, "uid": f"uid-{name}", "generation": 1, "currency": "USD", "ceilings": ceilings}
    return PolicySpec(**(fields | changes))  # type: ignore[arg-type]


@dataclass
class Member:
    """One service of one variant, `gpus` a replica. `load` are requests/s.

    With `small` it has a second variant of so many GPUs that carries as much: a stand-in if `degraded`.
    """

    name: str
    load: float
    priority: int = 100
    pool: str = "h100"
    namespace: str = "ml"
    least: int = 1
    most: int = 40
    gpus: int = 1
    labels: tuple[tuple[str, str], ...] = ()
    born: list[int] = field(default_factory=list)
    leaving: list[int] = field(default_factory=list)  # when they will be gone
    receipt: WriteReceipt | None = None
    small: int = 0
    small_pool: str = ""  # empty: the same
    degraded: bool = True
    small_born: list[int] = field(default_factory=list)
    small_leaving: list[int] = field(default_factory=list)
    small_receipt: WriteReceipt | None = None

    def __post_init__(self) -> None:
        self.born = self.born or [int(NOW) - 4000] * self.least
        self.small_pool = self.small_pool or self.pool

    @property
    def holds(self) -> tuple[tuple[str, int], ...]:
        """By pool, GPUs of all its pods, those that leave included."""
        small = self.small * (len(self.small_born) + len(self.small_leaving))
        return (self.pool, self.gpus * (len(self.born) + len(self.leaving))), (self.small_pool, small)

    @property
    def held(self) -> int:
        """GPUs of all its pods, those that leave included."""
        return sum(gpus for _, gpus in self.holds)

    def states(self, now_s: int) -> list[VariantState]:
        """Its variants as they are seen."""
        ready = sum(now_s - born >= STARTUP_S for born in (*self.born, *self.small_born))
        share, grace_s = self.load / max(1, ready), float(EXIT_S)
        seen = [("", self.pool, self.gpus, self.born, self.leaving, self.receipt)]
        if self.small:
            seen.append(("small", self.small_pool, self.small, self.small_born, self.small_leaving, self.small_receipt))
        return [
            variant(
                name or on,
                self._pods(f"{self.name}{name}", share, gpus, born, leaving, now_s),
                len(born),
                last_write=receipt,
                termination_grace_s=grace_s,
                gpus_per_replica=gpus,
            )
            for name, on, gpus, born, leaving, receipt in seen
        ]

    def variant_specs(self) -> list[VariantSpec]:
        small = [variant_spec("small", self.small_pool, degraded=self.degraded)] if self.small else []
        return [variant_spec(self.pool, self.pool), *small]

    @staticmethod
    def _pods(name: str, share: float, gpus: int, births: list[int], leaving: list[int], now_s: int) -> list[PodState]:
        made = []
        for number, born in enumerate(births):
            up = now_s - born >= STARTUP_S
            phase = PodPhase.READY if up else PodPhase.STARTING
            made.append(
                pod(
                    f"{name}-{number}",
                    engine(share) if up else None,
                    phase=phase,
                    gpus=gpus,
                    created_at=float(born),
                    ready_at=float(born + STARTUP_S) if up else None,
                )
            )
        gone = [pod(f"{name}-x{n}", phase=PodPhase.TERMINATING, gpus=gpus) for n, _ in enumerate(leaving)]
        return [*made, *gone]


class World:
    """Services under policies. `spent` by policy and period. `by_pool`: prices of pools that have their own."""

    def __init__(
        self,
        members: Sequence[Member],
        policies: Sequence[PolicySpec],
        *,
        prices: Sequence[tuple[int, str]] = ((0, "3.00"),),
        day_s: int = 86_400,
        spent: str = "0",
        by_pool: Mapping[str, Sequence[tuple[int, str]]] = MappingProxyType({}),
    ) -> None:
        self.members, self.policies = list(members), list(policies)
        self.prices, *own = [
            [(int(NOW) + at_s, Decimal(price)) for at_s, price in steps] for steps in (prices, *by_pool.values())
        ]
        self.by_pool = dict(zip(by_pool, own, strict=True))
        self.day_s, self.now_s, self.memory = day_s, int(NOW), Memory()
        self.spent = {item.name: Decimal(spent) * 3600 for item in policies}
        self.most = dict(self.spent)  # of any period
        self.lone = dict.fromkeys(self.spent, Decimal(0))  # of it, what services cost while they had one replica
        self.plan = Plan(at=NOW)
        self.seen: Callable[[Snapshot], Snapshot] = lambda state: state  # what the operator sees instead

    def price(self, at_s: int, pool: str = "") -> Decimal:
        return next(price for from_s, price in reversed(self.by_pool.get(pool, self.prices)) if from_s <= at_s)

    def costs(self, members: Iterable[Member]) -> Decimal:
        """What their pods cost an hour now."""
        return sum(
            (self.price(self.now_s, pool) * gpus for member in members for pool, gpus in member.holds), Decimal(0)
        )

    def rate(self, name: str) -> Decimal:
        """What the pods that fall under the policy cost an hour now, those that leave included."""
        item = next(each for each in self.policies if each.name == name)
        return self.costs(member for member in self.members if item.selects(member.namespace, member.labels))

    def lone_rate(self, item: PolicySpec) -> Decimal:
        """Of it, services that have one replica."""
        mine = (member for member in self.members if item.selects(member.namespace, member.labels))
        return self.costs(member for member in mine if len(member.born) + len(member.small_born) == 1)

    def begin_s(self) -> int:
        return int(NOW) + (self.now_s - int(NOW)) // self.day_s * self.day_s

    def snapshot(self) -> Snapshot:
        pools = [
            msgspec.structs.replace(
                pool(name, nodes=5, price=str(self.price(self.now_s, name))), steps=self._steps(name)
            )
            for name in sorted({name for member in self.members for name in (member.pool, member.small_pool)})
        ]
        states = [
            service(
                member.states(self.now_s),
                spec(
                    f"{member.namespace}/{member.name}",
                    member.variant_specs(),
                    priority=member.priority,
                    min_replicas=member.least,
                    max_replicas=member.most,
                    labels=member.labels,
                    down_delay_s=60.0,
                ),
            )
            for member in self.members
        ]
        begin_s = self.begin_s()
        accounts = [
            (float(begin_s + days * self.day_s), float(begin_s + (days + 1) * self.day_s), days) for days in (0, 1)
        ]
        policies = [
            PolicyState(
                item,
                tuple(
                    Account(kind, start_s, end_s, Decimal(0) if days else self.spent[item.name] / 3600)
                    for kind, _ in item.ceilings
                    if kind is not CeilingKind.HOUR
                    for start_s, end_s, days in accounts
                ),
                float(self.now_s),
                reached=next((found.reached for found in self.plan.policies if found.uid == item.uid), ()),
            )
            for item in self.policies
        ]
        return snapshot(states, pools, taken_at=float(self.now_s), policies=tuple(policies), cycle_s=float(CYCLE_S))

    def _steps(self, pool: str) -> tuple[PriceStep, ...]:
        """Of its price, from the one that holds now."""
        known = self.by_pool.get(pool, self.prices)
        current = [i for i, (at_s, _) in enumerate(known) if at_s <= self.now_s][-1]
        return tuple(PriceStep(float(at_s), price) for at_s, price in known[current:])

    def cycle(self, *, acts: bool = True) -> Plan:
        """Plan and obey, unless the operator is down (`acts` False); then time goes on for a cycle."""
        if acts:
            self.plan, self.memory = plan(self.seen(self.snapshot()), self.memory, float(self.now_s))
            assert not misplaced(self.plan), misplaced(self.plan)
            assert not self.plan.failures, self.plan.failures
            for action in self.plan.actions:
                self._obey(action.service, action.variant, action.to_replicas, action.target_uid)
        for _ in range(CYCLE_S):
            self._second()
        return self.plan

    def run(self, seconds: float) -> Plan:
        for _ in range(max(1, round(seconds / CYCLE_S))):
            self.cycle()
        return self.plan

    def _obey(self, key: str, name: str, replicas: int, uid: str) -> None:
        member = next(item for item in self.members if f"{item.namespace}/{item.name}" == key)
        small = name == "small"
        born, leaving = (member.small_born, member.small_leaving) if small else (member.born, member.leaving)
        fewer = len(born) - replicas
        if fewer > 0:
            leaving += [self.now_s + EXIT_S] * fewer
            del born[replicas:]
        else:
            born += [self.now_s] * -fewer
        receipt = WriteReceipt(uid, replicas, float(self.now_s))
        if small:
            member.small_receipt = receipt
        else:
            member.receipt = receipt

    def _second(self) -> None:
        for item in self.policies:
            self.spent[item.name] += self.rate(item.name)
            self.lone[item.name] += self.lone_rate(item)
            self.most[item.name] = max(self.most[item.name], self.spent[item.name])
        self.now_s += 1
        for member in self.members:
            member.leaving = [gone_s for gone_s in member.leaving if gone_s > self.now_s]
            member.small_leaving = [gone_s for gone_s in member.small_leaving if gone_s > self.now_s]
        if self.now_s == self.begin_s():
            self.spent = dict.fromkeys(self.spent, Decimal(0))
            self.lone = dict.fromkeys(self.lone, Decimal(0))

    def replicas(self) -> dict[str, int]:
        return {member.name: len(member.born) for member in self.members}

    def stand_ins(self) -> dict[str, int]:
        return {member.name: len(member.small_born) for member in self.members if member.small}

    def policy(self, name: str = "cap") -> PolicyPlan:
        return next(item for item in self.plan.policies if item.name == name)

    def reason(self, name: str) -> tuple[str, str]:
        found = next(item for item in self.plan.services if item.key.endswith(f"/{name}"))
        return found.reason.code.value, found.reason.text
