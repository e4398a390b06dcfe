"""A cluster in bad weather, drawn from one number: unlike prices, nodes, failures, restarts, silence; and a clerk.

The plan, the accounts and the policies' statuses are the real ones, `Policies` with all that the next leader reads;
there is no database but where a story says so. Pods are billed from binding until they are gone, nodes from creation.
The clerk looks once a second, knows prices and calendar by itself, and shares no code with Ebbtide's account.

Who is away, and what may not be written, lasts no longer than the shortest outageReserve. What Ebbtide may not take is
marked on the pod (`spared`): the last replica of a service of which nobody knows what comes.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from ebbtide.controller.policies import Labels, Policies
from ebbtide.core.plan import plan
from ebbtide.errors import ConflictError, RetryableError
from ebbtide.model.memory import Memory, PoolMemory
from ebbtide.model.money import Payer
from ebbtide.model.plan import Plan
from ebbtide.model.snapshot import (
    EngineReadings,
    PodPhase,
    PodState,
    PoolState,
    Reading,
    Snapshot,
    Source,
    VariantState,
    WriteReceipt,
)
from ebbtide.model.spec import (
    Billing,
    CeilingKind,
    Floor,
    Pacing,
    PolicyScope,
    PolicySpec,
    Price,
    Provisioning,
    Tariff,
    TariffWindow,
    Threshold,
    ThresholdAction,
    ThresholdBasis,
)
from ebbtide.money.accounts import Key
from ebbtide.money.lifetimes import Holding
from ebbtide.observe.holdings import Held
from tests import builders
from tests.core.purse import policy

CYCLE_S, EXIT_S, LEAD_S, NODE_GPUS = 10, 30, 30, 8
LOADS = (0.5, 10.0, 40.0, 120.0, 120.0)
_LONG_AGO_S = 5000
_DAY_S = 86_400


@dataclass
class Pool:
    """`windows`: (second of the day, seconds, price) each day by UTC. `release_s`: how long an empty node stays."""

    name: str
    base: Decimal
    windows: list[tuple[int, int, Decimal]]
    by_node: bool = False
    release_s: int = 0

    def price(self, at_s: int) -> Decimal:
        """By the clerk."""
        return next((price for from_s, for_s, price in self.windows if (at_s - from_s) % _DAY_S < for_s), self.base)

    @property
    def dearest(self) -> Decimal:
        return max(self.base, *(price for _, _, price in self.windows), Decimal(0))

    def declared(self) -> Price:
        windows = [
            TariffWindow(f"{from_s // 60 % 60} {from_s // 3600} * * *", "UTC", float(for_s), price)
            for from_s, for_s, price in self.windows
        ]
        return Price("USD", Tariff(self.base, tuple(windows)))


@dataclass
class Node:
    """Of a pool that is billed by node; `empty_s`: since when no pod is on it."""

    uid: str
    pool: Pool
    born_s: int
    free: int = NODE_GPUS
    empty_s: float = math.inf
    spared: bool = False
    gone_s: float = math.inf
    last: list["Pod"] = field(default_factory=list)  # who went last, all of one second


@dataclass
class Pod:
    """`bound_s` inf: it waits for a node. `ready_s` inf: it will never be ready."""

    uid: str
    side: "Side"
    shown_s: int
    bound_s: float
    ready_s: float
    node: Node | None = None
    told: bool = False
    gone_s: float = math.inf
    spared: bool = False

    def holds(self, now_s: int) -> bool:
        """Whether it is billed."""
        return self.bound_s <= now_s < self.gone_s


@dataclass
class Side:
    """One variant."""

    name: str
    pool: Pool
    gpus: int
    replicas: int
    degraded: bool = False
    pods: list[Pod] = field(default_factory=list)
    receipt: WriteReceipt | None = None


@dataclass
class Service:
    """`silent`: how its engines answer: "" well, "late" or "missing". `acted_s`: when its last writes all went."""

    name: str
    namespace: str
    load: float
    priority: int
    least: int
    sides: list[Side]
    silent: str = ""
    acted_s: int = 0
    spares: bool = False  # nobody knows what comes: its last replica stays

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def pods(self) -> list[Pod]:
        return [pod for side in self.sides for pod in side.pods]


@dataclass
class Book:
    """What the clerk knows of one policy's period: `spent` and of that `spared`, in price x GPU-seconds."""

    spent: Decimal = Decimal(0)
    spared: Decimal = Decimal(0)


class Nodes(StrEnum):
    """Whether pools are billed by node, by nodes that come for pods and go once they are empty."""

    NONE = "none"
    PACKED = "packed"  # replicas are of one GPU, and who goes leaves the emptiest node first
    SCATTERED = "scattered"  # replicas of several GPUs may not fit where as many are free, and anyone may go


class Weather:
    """Drawn from `seed`. With nodes a policy may pay for everything, idle GPUs and nodes on their way out included.

    `managed`: no policy pays for everything, so each pays its share of the nodes that its services are on.
    """

    def __init__(self, seed: int, nodes: Nodes = Nodes.NONE, *, managed: bool = False) -> None:
        self.seed, self.draw, self.kind, self.managed = seed, Random(seed), nodes, managed
        draw = self.draw
        self.made, self.version = 0, 5
        self.startup_s = draw.choice((20, 60, 60, 240))
        self.zone = ZoneInfo(draw.choice(("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")))
        month = datetime(draw.choice((2027, 2028)), draw.choice((3, 3, 4, 5, 11)), 1, tzinfo=self.zone)
        self.border_s = int(month.timestamp())  # of a short month, mostly: February has 28 or 29 days
        self.began_s = self.now_s = self.border_s - draw.choice((300, 900, 1500, 20_000))
        self.pools = [self._pool(name) for name in ("h100", "a100", "l40s")[: draw.randint(1, 3)]]
        self.nodes: list[Node] = []
        self.namespaces: dict[str, str] = {}  # by pod
        self.services: list[Service] = []
        for number in range(draw.randint(1, 4)):
            self._add_service(number)
        self.policies = [self._policy(number) for number in range(draw.randint(1, 2))]
        self.reserve_s = int(min(item.outage_reserve_s for item in self.policies))
        self.books: dict[tuple[str, CeilingKind, object], Book] = defaultdict(Book)
        for item in self.policies:
            for kind, ceiling in item.ceilings:
                if kind is not CeilingKind.HOUR:
                    seed_money = self._seeds[item.name, kind]
                    assert seed_money < ceiling
                    self.books[item.name, kind, self.period(kind, self.now_s)[0]].spent = seed_money * 3600
        self.statuses: dict[str, tuple[int, dict[str, Any]]] = {item.name: (1, {}) for item in self.policies}
        self.has_ledger, self.malice = draw.random() < 0.5, draw.random() < 0.6
        self.keeps_memory = draw.random() < 0.5
        self.departed: dict[str, Holding] = {}
        self.gone: dict[str, float] = {}
        self.alive, self.deaf, self.refusing = True, 0, False
        self.memory = Memory(
            pools=tuple(
                PoolMemory(f"uid-{each.name}", release_times_s=(each.release_s + 10.0,) * 4)
                for each in self.pools
                if each.by_node
            )
        )
        self.cabinet = Policies(self, self.raw)  # type: ignore[arg-type]
        self.plan = Plan(at=float(self.now_s))
        self.runner: asyncio.Runner | None = None

    # --- what is drawn ----------------------------------------------------------------------------------------------

    def _pool(self, name: str) -> Pool:
        draw, windows = self.draw, []
        base = draw.choice((Decimal("0.80"), Decimal("2.10"), Decimal("3.00"), Decimal("6.55")))
        for _ in range(draw.randint(0, 2)):
            from_s = (self.began_s + draw.randint(-600, 1500)) // 60 * 60 % _DAY_S
            windows.append((from_s, 60 * draw.randint(2, 30), base * draw.choice((Decimal("0.5"), Decimal("1.7"), 3))))
        by_node = self.kind is not Nodes.NONE and draw.random() < 0.7
        return Pool(name, base, windows, by_node, draw.choice((40, 120)) if by_node else 0)

    def _add_service(self, number: int) -> None:
        draw = self.draw
        kinds = draw.choice(((1,), (1,), (2,), (4,), (2, 1), (4, 1)))
        degraded, sides = draw.random() < 0.5, []
        for index, kind in enumerate(kinds):
            runs = draw.randint(1, 5) if index == 0 else 0
            pool = draw.choice(self.pools)
            gpus = 1 if pool.by_node and self.kind is Nodes.PACKED else kind
            sides.append(Side(f"v{index}", pool, gpus, runs, degraded=bool(index) and degraded))
        found = Service(
            f"s{number}",
            draw.choice(("a", "b")),
            draw.choice(LOADS),
            draw.choice((1, 50, 50, 200)),
            draw.randint(0, 2),
            sides,
            acted_s=self.now_s,
        )
        self.services.append(found)
        for side in sides:
            for _ in range(side.replicas):
                began_s = self.now_s - _LONG_AGO_S
                side.pods.append(self._pod(side, began_s, began_s, began_s + self.startup_s))
                self._place(side.pods[-1], began_s)

    def _policy(self, number: int) -> PolicySpec:
        """What is left of the money lasts for minutes of what runs, and for what is on its way out at the least."""
        draw, kinds = self.draw, {CeilingKind.DAY: "per_day", CeilingKind.MONTH: "per_month"}
        everything = any(pool.by_node for pool in self.pools) and draw.random() < 0.7 and not self.managed
        fields: dict[str, Any] = {
            "namespaces": () if everything else draw.choice(((), ("a",), ("b",))),
            "scope": PolicyScope.ALL_GPU_PODS if everything else PolicyScope.MANAGED,
            "floor": Floor.ALLOW_ZERO,
            "outage_reserve_s": float(draw.choice((60, 120, 300, 600))),
            "pacing": draw.choice(list(Pacing)),
            "time_zone": self.zone.key,
        }
        rough = policy(f"p{number}", **fields)
        rate = self.rate(rough, dearest=True) or Decimal(3)
        # two cycles and the exit of what runs at the beginning
        least_s = 2 * CYCLE_S + EXIT_S + 60 + max(pool.release_s + LEAD_S for pool in self.pools)
        self._seeds = getattr(self, "_seeds", {})
        chosen = draw.sample(["per_hour", "per_day", "per_month"], draw.randint(1, 3))
        for kind, name in kinds.items():
            if name in chosen:
                spent = draw.choice((Decimal(0), Decimal("71.83"), Decimal(2000)))
                left = rate * draw.randint(least_s, 3000) / 3600
                fields[name] = str((spent + left).quantize(Decimal("0.01")) + Decimal("0.01"))
                self._seeds[rough.name, kind] = spent
        if "per_hour" in chosen:
            fields["per_hour"] = str((rate * draw.choice((1, 2, 4)) + draw.randint(0, 9)).quantize(Decimal("0.01")))
        actions = draw.sample(list(ThresholdAction), draw.randint(0, 2)) if "per_day" in chosen else []
        fields["thresholds"] = tuple(
            Threshold(CeilingKind.DAY, draw.randint(80, 120), draw.choice(list(ThresholdBasis)), (action,))
            for action in actions
        )
        return policy(f"p{number}", **fields)

    def _pod(self, side: Side, shown_s: int, bound_s: float, ready_s: float) -> Pod:
        self.made += 1
        owner = next(service for service in self.services if any(each is side for each in service.sides))
        self.namespaces[f"pod-{self.made}"] = owner.namespace
        return Pod(f"pod-{self.made}", side, shown_s, bound_s, ready_s)

    # --- the clerk --------------------------------------------------------------------------------------------------

    def period(self, kind: CeilingKind, at_s: int) -> tuple[object, int, int]:
        """(what it is called, begin, end) of the calendar period of that second."""
        here = datetime.fromtimestamp(at_s, self.zone)
        if kind is CeilingKind.DAY:
            first = datetime(here.year, here.month, here.day, tzinfo=self.zone)
            after = (datetime(here.year, here.month, here.day, tzinfo=UTC) + timedelta(days=1)).replace(
                tzinfo=self.zone
            )
        else:
            first = datetime(here.year, here.month, 1, tzinfo=self.zone)
            after = datetime(here.year + here.month // 12, here.month % 12 + 1, 1, tzinfo=self.zone)
        return first, int(first.timestamp()), int(after.timestamp())

    def _mine(self, item: PolicySpec) -> list[tuple[Pod | Node, int]]:
        """What a policy pays for at this second, and how many GPUs it is."""
        whole = item.scope is PolicyScope.ALL_GPU_PODS
        mine = {
            pod.uid: pod
            for service in self.services
            if not item.namespaces or service.namespace in item.namespaces
            for pod in service.pods
        }
        found: list[tuple[Pod | Node, int]] = [
            (pod, pod.side.gpus) for pod in mine.values() if pod.holds(self.now_s) and pod.node is None
        ]
        there = [node for node in self.nodes if node.gone_s > self.now_s]
        return found + [(node, NODE_GPUS if whole else self._share(node, item)) for node in there]

    def _share(self, node: Node, item: PolicySpec) -> int:
        """GPUs of a node that a policy pays for: of those on it or of who went last, the idle ones in proportion."""
        here = [pod for each in self.services for pod in each.pods if pod.node is node and pod.holds(self.now_s)]
        held = sum(pod.side.gpus for pod in here)
        paying = here or (node.last if node.born_s <= self.now_s else [])
        total, idle = sum(pod.side.gpus for pod in paying), NODE_GPUS - held
        parts = {pod.uid: Fraction(idle * pod.side.gpus, total) for pod in paying}
        dealt = {uid: math.floor(part) for uid, part in parts.items()}
        for uid in sorted(parts, key=lambda uid: (dealt[uid] - parts[uid], uid))[: idle - sum(dealt.values())]:
            dealt[uid] += 1
        return sum(
            dealt[pod.uid] + (pod.side.gpus if here else 0)
            for pod in paying
            if not item.namespaces or self.namespaces[pod.uid] in item.namespaces
        )

    @staticmethod
    def _pool_of(thing: Pod | Node) -> Pool:
        return thing.pool if isinstance(thing, Node) else thing.side.pool

    def rate(self, item: PolicySpec, *, dearest: bool = False, spared: bool = False) -> Decimal:
        """What it pays an hour at this second; at the dearest prices; or of that, what is spared."""
        total = Decimal(0)
        for thing, gpus in self._mine(item):
            if thing.spared or not spared:
                pool = self._pool_of(thing)
                total += gpus * (pool.dearest if dearest else pool.price(self.now_s))
        return total

    def _second(self) -> None:
        for item in self.policies:
            rate, spared = self.rate(item), self.rate(item, spared=True)
            for kind, _ in item.ceilings:
                if kind is not CeilingKind.HOUR:
                    book = self.books[item.name, kind, self.period(kind, self.now_s)[0]]
                    book.spent += rate
                    book.spared += spared
        self.now_s += 1
        for service in self.services:
            for side in service.sides:
                for pod in side.pods:
                    if pod.gone_s <= self.now_s:
                        self._went(pod)
                    elif pod.bound_s == math.inf and self.now_s >= pod.shown_s:
                        self._place(pod, self.now_s)
                side.pods = [pod for pod in side.pods if pod.gone_s > self.now_s]
        self._autoscale()

    def check(self) -> None:
        """No ceiling is crossed by what Ebbtide may reduce."""
        for item in self.policies:
            for kind, ceiling in item.ceilings:
                if kind is CeilingKind.HOUR:
                    rate = self.rate(item) - self.rate(item, spared=True)
                    assert rate <= ceiling, (self.seed, self.now_s - self.began_s, item.name, kind, rate, ceiling)
        for (name, kind, begin), book in self.books.items():
            ceiling = dict(next(each for each in self.policies if each.name == name).ceilings)[kind]
            paid = (book.spent - book.spared) / 3600
            assert paid <= ceiling, (self.seed, self.now_s - self.began_s, name, kind, begin, paid, ceiling)

    # --- pods and nodes ---------------------------------------------------------------------------------------------

    def _place(self, pod: Pod, at_s: int) -> None:
        """Bind it where there is room; in a pool without nodes of its own at once."""
        pool = pod.side.pool
        if pool.by_node:
            there = [node for node in self.nodes if node.pool is pool and node.born_s <= at_s and node.gone_s > at_s]
            node = next((node for node in there if node.free >= pod.side.gpus), None)
            if node is None and at_s == self.began_s - _LONG_AGO_S:
                node = self._order(pool, at_s)
            if node is None:
                return
            pod.node, node.empty_s = node, math.inf
            node.free -= pod.side.gpus
        pod.bound_s = min(pod.bound_s, at_s)
        if pod.ready_s != math.inf:
            pod.ready_s = max(pod.ready_s, at_s + self.startup_s)

    def _order(self, pool: Pool, born_s: int) -> Node:
        self.made += 1
        self.nodes.append(Node(f"node-{self.made}", pool, born_s))
        return self.nodes[-1]

    def _autoscale(self) -> None:
        """Nodes come for pods that wait, and go once they have been empty for a while."""
        for pool in self.pools if any(each.by_node for each in self.pools) else ():
            waiting = sorted(
                (pod.side.gpus for service in self.services for pod in service.pods
                 if pod.side.pool is pool and pod.bound_s == math.inf and pod.shown_s <= self.now_s),
                reverse=True,
            ) if pool.by_node else []  # fmt: skip
            coming = [node for node in self.nodes if node.pool is pool and node.born_s > self.now_s]
            room = [NODE_GPUS] * len(coming)
            for gpus in waiting:
                fits = next((index for index, left in enumerate(room) if left >= gpus), None)
                if fits is None:
                    self._order(pool, self.now_s + LEAD_S)
                    room.append(NODE_GPUS - gpus)
                else:
                    room[fits] -= gpus
            if not waiting:  # nobody needs them any more
                self.nodes = [node for node in self.nodes if node not in coming]
        for node in self.nodes:
            if node.born_s <= self.now_s < node.gone_s and node.free == NODE_GPUS:
                node.empty_s = min(node.empty_s, self.now_s)
                if self.now_s - node.empty_s >= node.pool.release_s:
                    node.gone_s = self.now_s
                    self._depart(Holding(node.uid, Payer(node.pool.name), NODE_GPUS, float(node.born_s), is_node=True))
        self.nodes = [node for node in self.nodes if node.gone_s > self.now_s]

    def _went(self, pod: Pod) -> None:
        if pod.bound_s != math.inf:
            if pod.node is not None:
                pod.node.free += pod.side.gpus
                pod.node.last = [pod, *(each for each in pod.node.last if each.gone_s == pod.gone_s)]
            node = pod.node.uid if pod.node else "n"
            self._depart(Holding(pod.uid, Payer(pod.side.pool.name, ""), pod.side.gpus, pod.bound_s, None, node))

    def _depart(self, holding: Holding) -> None:
        if self.alive:
            self.departed[holding.uid], self.gone[holding.uid] = holding, float(self.now_s)

    def _obey(self, service: Service, side: Side, replicas: int) -> None:
        side.replicas = replicas
        staying = [pod for pod in side.pods if not pod.told]
        # those that never were ready go first, as with a ReplicaSet
        staying.sort(key=lambda pod: (pod.ready_s <= self.now_s, pod.shown_s <= self.now_s, self._crowd(pod)))
        for pod in staying[: max(0, len(staying) - replicas)]:
            pod.told = True
            pod.gone_s = self.now_s + EXIT_S if pod.bound_s <= self.now_s else self.now_s
            if pod.gone_s <= self.now_s:
                side.pods.remove(pod)
        for _ in range(replicas - len(staying)):
            self._begin(side)

    def _crowd(self, pod: Pod) -> int:
        """GPUs that are in use on its node, where that decides who goes."""
        return NODE_GPUS - pod.node.free if pod.node is not None and self.kind is Nodes.PACKED else 0

    def _begin(self, side: Side) -> None:
        shown_s = self.now_s + self.draw.choice((1, 2, 15))
        fails = self.draw.random() < 0.1
        bound_s = math.inf if side.pool.by_node else shown_s
        side.pods.append(self._pod(side, shown_s, bound_s, math.inf if fails else shown_s + self.startup_s))

    # --- what is seen -----------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        states = []
        for service in sorted(self.services, key=lambda each: each.key):
            ready = sum(pod.ready_s <= self.now_s and not pod.told for pod in service.pods)
            share = service.load / max(1, ready)
            variants = [self._variant(service, side, share) for side in service.sides]
            specs = [builders.variant_spec(side.name, side.pool.name, degraded=side.degraded) for side in service.sides]
            declared = builders.spec(
                service.key,
                specs,
                priority=service.priority,
                min_replicas=service.least,
                max_replicas=40,
                down_delay_s=60.0,
            )
            states.append(builders.service(variants, declared))
        source = Source("prometheus", healthy=self.deaf <= 0, age_s=1.0, message="" if self.deaf <= 0 else "timeout")
        return builders.snapshot(
            states,
            [self._pool_state(pool) for pool in sorted(self.pools, key=lambda each: each.name)],
            taken_at=float(self.now_s),
            sources=(source,),
            cycle_s=float(CYCLE_S),
        )

    def _variant(self, service: Service, side: Side, share: float) -> VariantState:
        shown = [pod for pod in side.pods if pod.shown_s <= self.now_s]
        return builders.variant(
            side.name,
            [self._pod_state(service, pod, share) for pod in shown],
            side.replicas,
            last_write=side.receipt,
            termination_grace_s=float(EXIT_S),
            gpus_per_replica=side.gpus,
        )

    def _pod_state(self, service: Service, pod: Pod, share: float) -> PodState:
        up, bound = pod.ready_s <= self.now_s, pod.bound_s <= self.now_s
        phase = PodPhase.READY if up else PodPhase.STARTING if bound else PodPhase.PENDING
        node = "" if not bound else pod.node.uid if pod.node else f"n-{pod.uid}"
        return builders.pod(
            pod.uid,
            _answer(share, service.silent) if up and not pod.told else None,
            phase=PodPhase.TERMINATING if pod.told else phase,
            gpus=pod.side.gpus,
            node=node,
            created_at=float(pod.shown_s),
            ready_at=float(pod.ready_s) if up else None,
            due_at=pod.gone_s if pod.told else None,
        )

    def _pool_state(self, pool: Pool) -> PoolState:
        nodes = [
            builders.node(node.uid, NODE_GPUS, NODE_GPUS - node.free, created_at=float(node.born_s))
            for node in self.nodes
            if node.pool is pool and node.born_s <= self.now_s
        ]
        state = builders.pool(pool.name, nodes=nodes if pool.by_node else 12, price=str(pool.price(self.now_s)))
        provisioning = Provisioning.AUTOSCALED if pool.by_node else Provisioning.STATIC
        billing = Billing.NODE if pool.by_node else Billing.POD
        spec = msgspec.structs.replace(
            state.spec,
            price=pool.declared(),
            provisioning=provisioning,
            billing=billing,
            node_lead_time_s=float(LEAD_S),
            max_gpus=96 if pool.by_node else None,
        )
        return msgspec.structs.replace(state, spec=spec)

    def held(self) -> Held:
        found = list(self.departed.values())
        for node in self.nodes:
            if node.born_s <= self.now_s:
                payer = Payer(node.pool.name)
                found.append(Holding(node.uid, payer, NODE_GPUS, float(node.born_s), is_node=True))
        for service in self.services:
            for pod in service.pods:
                if pod.holds(self.now_s):
                    payer = Payer(pod.side.pool.name, service.namespace, service.name, pod.side.name, "llama-3-8b")
                    node = pod.node.uid if pod.node else "n"
                    found.append(Holding(pod.uid, payer, pod.side.gpus, float(pod.bound_s), None, node))
        return Held(tuple(found), dict(self.gone), complete=True)

    # --- the API server ---------------------------------------------------------------------------------------------

    def raw(self, name: str) -> Mapping[str, Any]:
        version, status = self.statuses[name]
        metadata = {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version), "generation": 1}
        return {"metadata": metadata, "status": status}

    async def apply(self, path: str, body: Mapping[str, Any], *, field_manager: str, force: bool) -> Mapping[str, Any]:
        """A status of a policy."""
        name = path.split("/")[-2]
        if self.refusing:
            raise RetryableError("no answer")
        if body["metadata"]["resourceVersion"] != str(self.statuses[name][0]):
            raise ConflictError("the object has been modified")
        self.version += 1
        lost = self.draw.random() < 0.02
        self.statuses[name] = self.version, msgspec.json.decode(msgspec.json.encode(body["status"]))
        if lost:
            raise RetryableError("the answer was lost")
        return {"metadata": {"resourceVersion": str(self.version)}}

    def _ledger(
        self, asked: list[tuple[PolicySpec, tuple[Key, ...]]], _labels: Mapping[str, Labels]
    ) -> tuple[dict[str, dict[Key, Decimal]], int, int, Mapping[tuple[str, Key], Mapping[str, int]]]:
        """What the ledger would say: the clerk's figures."""
        found = {}
        for item, keys in asked:
            book = {}
            for kind, begin_s, end_s in keys:
                called, *span = self.period(kind, int(begin_s))
                assert span == [begin_s, end_s], "the calendar is the clerk's"
                book[kind, begin_s, end_s] = self.books[item.name, kind, called].spent / 3600
            found[item.uid] = book
        return found, self.now_s, 0, {}

    # --- the operator -----------------------------------------------------------------------------------------------

    def story(self, cycles: int) -> None:
        """Cycle after cycle, with what the weather brings."""
        away = 0
        with asyncio.Runner() as self.runner:
            for cycle in range(cycles):
                if cycle % 20 == 0:
                    for service in self.services:
                        service.load = self.draw.choice(LOADS)
                self._happens()
                since_s = self.now_s - min(each.acted_s for each in self.services)
                if away and since_s + CYCLE_S <= self.reserve_s:
                    away -= 1
                else:
                    away = self._lead(cycle)
                for _ in range(CYCLE_S):
                    self._second()
                self.check()

    def _happens(self) -> None:
        draw = self.draw
        self.deaf = self.deaf - 1 if self.deaf > 0 else draw.choice((2, 10)) * (draw.random() < 0.01)
        self.refusing = draw.random() < 0.05
        for service in self.services:
            if draw.random() < 0.02:
                service.silent = draw.choice(("", "", "late", "missing"))
            there = [pod for pod in service.pods if pod.bound_s <= self.now_s and not pod.told]
            if not there or draw.random() > 0.02:
                continue
            pod = draw.choice(there)
            if draw.random() < 0.5 or not self.alive:  # its container begins anew, or never again
                pod.ready_s = draw.choice((self.now_s + self.startup_s, math.inf))
            else:  # it is gone at once, and another comes
                pod.gone_s = self.now_s
                self._went(pod)
                pod.side.pods.remove(pod)
                self._begin(pod.side)

    def _lead(self, cycle: int) -> int:
        """One cycle of the operator; returns for how many it is away then."""
        draw = self.draw
        if not self.alive:
            self.cabinet.begin_to_lead()
            self.alive = True
            if not self.keeps_memory:
                self.memory = Memory()
            for service in self.services:
                for side in service.sides:
                    side.receipt = None
        state = self.snapshot()
        held = self.held()
        seen = self.cabinet.observed(state, self.policies, held)
        if cycle == 0 or self.has_ledger:
            self.cabinet.settle(self._ledger, {})
            seen = self.cabinet.observed(state, self.policies, held)
        for uid in held.gone:
            self.departed.pop(uid, None)
            self.gone.pop(uid, None)
        self.plan, self.memory = plan(seen, self.memory, float(self.now_s))
        assert not self.plan.failures, (self.seed, self.plan.failures)
        assert self.runner is not None
        payable, _ = self.runner.run(self.cabinet.reserve(self.plan))
        dies = draw.random() < 0.03 and cycle > 0  # what ran before goes in the first one
        done = self._act(payable, draw.randint(0, len(payable.actions)) if dies else math.inf)
        if not dies:
            self.runner.run(self.cabinet.report(self.plan))
        self._spare(state, done)
        leaves = dies or draw.random() < (0.4 if self.malice and self._is_tight() else 0.03)
        self.alive = not (dies or (leaves and draw.random() < 0.5))
        return draw.choice((1, 5, 60, 60)) if leaves else 0

    def _is_tight(self) -> bool:
        """Whether a cycle or two from now somebody has to go: the worst moment to be away."""
        return any(
            line.kind is not CeilingKind.HOUR
            and line.ceiling - line.spent - line.committed < each.per_hour * 2 * CYCLE_S / 3600
            for each in self.plan.policies
            for line in each.ceilings
            if each.per_hour
        )

    def _act(self, payable: Plan, most: float) -> set[str]:
        """Carry it out as far as the process and the API server let it; returns services whose writes all went."""
        failed = set()
        for number, action in enumerate(payable.actions):
            service = next(each for each in self.services if each.key == action.service)
            side = next(each for each in service.sides if each.name == action.variant)
            late = self.now_s - service.acted_s + CYCLE_S > self.reserve_s or self.now_s == self.began_s
            if number >= most or (self.draw.random() < 0.06 and not late):
                failed.add(service.key)
                continue
            self._obey(service, side, action.to_replicas)
            side.receipt = WriteReceipt(action.target_uid, action.to_replicas, float(self.now_s))
        done = {service.key for service in self.services} - failed
        for service in self.services:
            if service.key in done:
                service.acted_s = self.now_s
        return done

    def _spare(self, state: Snapshot, done: set[str]) -> None:
        """Mark the last replicas of services of which nobody knows what comes; until somebody does."""
        for service in self.services:
            seen = next(each for each in state.services if each.spec.key == service.key)
            knows = any(
                pod.phase is PodPhase.READY and pod.engine is not None for each in seen.variants for pod in each.pods
            )
            unknown = bool(service.silent) or self.deaf > 0 or not knows
            service.spares = unknown or (service.spares and service.key not in done)
            staying = [pod for pod in service.pods if not pod.told]
            for pod in staying:
                pod.spared = (unknown or (pod.spared and service.key not in done)) and len(staying) == 1
        for node in self.nodes:
            held = [pod for service in self.services for pod in service.pods if pod.node is node]
            # whichever of its replicas is the last, its node is this one
            last = any(self._only_on(service, node) for service in self.services if service.spares)
            goes = not held or any(pod.told for pod in held)
            node.spared = last or any(pod.spared for pod in held) or (node.spared and goes)

    @staticmethod
    def _only_on(service: Service, node: Node) -> bool:
        staying = [pod for pod in service.pods if not pod.told]
        return bool(staying) and all(pod.node is node for pod in staying)


def _answer(share: float, silent: str) -> EngineReadings:
    """What an engine says: what it does, what it did five minutes ago, or nothing."""
    if silent == "missing":
        return builders.silent_engine()
    found = builders.engine(share)
    if silent == "late":
        values = {name: getattr(found, name) for name in found.__struct_fields__}
        old = {
            name: builders.stale(value.value)
            for name, value in values.items()
            if isinstance(value, Reading) and value.value is not None
        }
        return msgspec.structs.replace(found, **old)
    return found
