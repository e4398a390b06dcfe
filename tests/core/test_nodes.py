"""Nodes that come and go and are paid whole: the ceiling of every policy holds the bill of the nodes that it causes.

The clerk here looks at each second who is on each node and knows prices and GPUs, and nothing of Ebbtide's accounts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import msgspec
import pytest

from ebbtide.model.money import Payer
from ebbtide.model.snapshot import PodPhase, PoolState, Snapshot, VariantState
from ebbtide.model.spec import Billing, Floor, PolicyScope, PolicySpec, Price, Provisioning, Tariff
from ebbtide.money.accounts import Accounts, Labels, Saved, Shown
from ebbtide.money.lifetimes import Holding
from tests.builders import NOW, node
from tests.core.purse import Member, World, policy

SIZE, RATE = 8, Decimal("3.00")


@dataclass
class Pod:
    uid: str
    owner: str  # a member's name; empty: somebody else's
    gpus: int
    begin_s: int
    told: bool = False  # to go


@dataclass
class Machine:
    name: str
    begin_s: int
    pods: list[Pod] = field(default_factory=list)
    last: list[str] = field(default_factory=list)  # who held it last
    empty_s: int = 0  # since when nobody is on it

    @property
    def free(self) -> int:
        return SIZE - sum(pod.gpus for pod in self.pods)

    @property
    def alive(self) -> int:
        return sum(not pod.told for pod in self.pods)


class Nodes(World):
    """Pods are put on nodes of 8 GPUs that come at once, and go `release_s` after their last pod.

    `spreads`: on the node with the most free GPUs, as schedulers do; else on that with the fewest. `others`: pods of
    one GPU of somebody else, each on a node of its own.
    """

    def __init__(
        self, members: Sequence[Member], policies: Sequence[PolicySpec], *, others: int = 0, spreads: bool = True
    ) -> None:
        super().__init__(members, policies, day_s=86_400)
        self.spreads, self.release_s, self.made = spreads, 120, 0
        self.machines: list[Machine] = []
        self.gone: dict[str, float] = {}
        self.left: list[Holding] = []
        for number in range(others):
            self.machines.append(Machine(f"other-{number}", self.now_s - 900, [Pod(f"o{number}", "", 1, self.now_s)]))
        self.accounts = Accounts()
        self.seen = self._with_nodes
        self.dearest = dict.fromkeys(self.spent, Decimal(0))
        self._place()

    def _holdings(self) -> list[Holding]:
        found = list(self.left)
        for machine in self.machines:
            found.append(Holding(machine.name, Payer("h100"), SIZE, float(machine.begin_s), is_node=True))
            found += [
                Holding(pod.uid, self._payer(pod.owner), pod.gpus, float(pod.begin_s), None, machine.name)
                for pod in machine.pods
            ]
        return found

    def _payer(self, owner: str) -> Payer:
        member = next((each for each in self.members if each.name == owner), None)
        return Payer("h100", "kube") if member is None else Payer("h100", member.namespace, owner)

    def _with_nodes(self, state: Snapshot) -> Snapshot:
        (only,) = state.pools
        nodes = tuple(node(each.name, allocated=SIZE - each.free) for each in self.machines)
        spec = msgspec.structs.replace(
            only.spec,
            provisioning=Provisioning.AUTOSCALED,
            billing=Billing.NODE,
            price=Price("USD", Tariff(RATE)),
        )
        pool: PoolState = msgspec.structs.replace(only, spec=spec, nodes=nodes)
        labels: dict[str, Labels] = {f"{each.namespace}/{each.name}": each.labels for each in self.members}
        shown = Shown(float(self.now_s), (pool,), labels, self._holdings(), self.gone)
        self.accounts.count(self.policies, lambda _: Saved(NOW, Decimal(0), ()), shown)
        self.left, self.gone = [], {}
        reached = {item.spec.uid: item.reached for item in state.policies}
        states = tuple(msgspec.structs.replace(each, reached=reached[each.spec.uid]) for each in self.accounts.states())
        services = tuple(
            msgspec.structs.replace(each, variants=tuple(self._on_nodes(seen, member) for seen in each.variants))
            for each, member in zip(state.services, self.members, strict=True)
        )
        return msgspec.structs.replace(state, services=services, pools=(pool,), policies=states)

    def _place(self) -> None:
        """As many pods of each member as it holds, first to go those with the fewest beside them; nodes for others."""
        for member in self.members:
            for _ in range(len(member.leaving) - sum(pod.told for _, pod in self._placed(member))):
                staying = [(each, pod) for each, pod in self._placed(member) if not pod.told]
                if len(staying) > len(member.born):
                    min(staying, key=lambda item: (item[0].alive, item[0].name))[1].told = True
            for machine, pod in self._placed(member):
                if pod.told and sum(each.told for _, each in self._placed(member)) > len(member.leaving):
                    machine.pods.remove(pod)
                    machine.last, machine.empty_s = [pod.owner], self.now_s
                    self.left.append(
                        Holding(pod.uid, self._payer(pod.owner), pod.gpus, float(pod.begin_s), self.now_s, machine.name)
                    )
            for _ in range(len(member.born) - sum(not pod.told for _, pod in self._placed(member))):
                self.made += 1
                fitting = sorted((each for each in self.machines if each.free >= member.gpus), key=lambda e: e.free)
                if not fitting:
                    fitting = [Machine(f"n{self.made}", self.now_s)]
                    self.machines += fitting
                fitting[-1 if self.spreads else 0].pods.append(
                    Pod(f"p{self.made}", member.name, member.gpus, self.now_s)
                )

    def goes(self, owner: str) -> None:
        """All its pods at once."""
        for machine in self.machines:
            for pod in machine.pods:
                pod.told = pod.told or pod.owner == owner
        self._place()

    def _placed(self, member: Member) -> list[tuple[Machine, Pod]]:
        return [(each, pod) for each in self.machines for pod in each.pods if pod.owner == member.name]

    def _on_nodes(self, seen: VariantState, member: Member) -> VariantState:
        """Its pods where they are."""
        names = {told: [each.name for each, pod in self._placed(member) if pod.told is told] for told in (False, True)}
        pods = tuple(
            msgspec.structs.replace(pod, node=names[pod.phase is PodPhase.TERMINATING].pop(0)) for pod in seen.pods
        )
        return msgspec.structs.replace(seen, pods=pods)

    def rate(self, name: str) -> Decimal:
        """What the nodes cost that its pods are on or were on last, in proportion to the GPUs that are held."""
        item = next(each for each in self.policies if each.name == name)
        mine = {each.name for each in self.members if item.selects(each.namespace, each.labels)}
        total = Decimal(0)
        for machine in self.machines:
            if machine.pods:
                held = sum(pod.gpus for pod in machine.pods if pod.owner in mine)
                total += RATE * SIZE * held / (SIZE - machine.free)
            elif machine.last and machine.last[0] in mine:
                total += RATE * SIZE
        return total

    def _second(self) -> None:
        for name in self.dearest:
            self.dearest[name] = max(self.dearest[name], self.rate(name))
        super()._second()
        for machine in list(self.machines):
            if not machine.pods and machine.last and self.now_s - machine.empty_s >= self.release_s:
                self.machines.remove(machine)
                self.gone[machine.name] = self.now_s
                self.left.append(
                    Holding(machine.name, Payer("h100"), SIZE, float(machine.begin_s), self.now_s, is_node=True)
                )
        self._place()


@pytest.mark.parametrize("scope", list(PolicyScope))
def test_of_replicas_that_fill_no_node_the_whole_nodes_are_under_the_ceiling(scope):
    """Replicas of 5 GPUs under 30 USD an hour: two of them hold 30 an hour, and their two nodes cost 48."""
    world = Nodes(
        [Member("chat", 400.0, least=0, gpus=5)], [policy(per_hour="30", scope=scope, floor=Floor.ALLOW_ZERO)]
    )
    world.run(900)
    assert world.replicas() == {"chat": 1}
    assert (world.dearest["cap"], world.policy().per_hour) == (24, 24)


SELECTORS = [{}, {"namespaces": ("ml",)}, {"match_labels": (("tier", "gold"),)}]


@pytest.mark.parametrize("selector", SELECTORS, ids=["managed", "namespace", "labels"])
@pytest.mark.parametrize("spreads", [False, True])
@pytest.mark.parametrize(("gpus", "others"), [(1, 0), (3, 0), (1, 3), (5, 2)])
def test_a_rate_holds_wherever_the_scheduler_puts_replicas(selector, spreads, gpus, others):
    """Among nodes that somebody else is on, under 80 USD an hour: three nodes of 24, or shares of more."""
    member = Member("chat", 400.0, least=0, gpus=gpus, labels=(("tier", "gold"),))
    capped = policy(per_hour="80", floor=Floor.ALLOW_ZERO, **selector)
    world = Nodes([member], [capped], others=others, spreads=spreads)
    for _ in range(90):
        world.cycle()
        assert world.dearest["cap"] <= 80
    assert world.dearest["cap"] >= 80 - 24 - 3, "and what is left would not pay for one node more, whole GPUs counted"


@pytest.mark.parametrize("release_s", [120, 900])
@pytest.mark.parametrize("gpus", [1, 5])
def test_a_day_holds_with_the_release_of_its_nodes(gpus, release_s):
    """Nodes of 24.00 USD an hour that stay for up to a quarter of an hour, and a reserve of one minute."""
    capped = policy(per_day="100", floor=Floor.ALLOW_ZERO, outage_reserve_s=60.0)
    world = Nodes([Member("chat", 500.0 / gpus, least=0, gpus=gpus)], [capped])
    world.release_s = release_s
    world.run(2 * 3600)
    assert Decimal("0.80") <= world.most["cap"] / 3600 / 100 <= 1, world.most["cap"] / 3600


def test_what_a_minimum_leaves_of_its_node_is_paid_to_the_end_of_the_day():
    """Two minimums of 5 GPUs on nodes of 8 cost 48.00 an hour, and 40 are for what one of them wants beside that."""
    day_left_s = 86_400 - int(NOW) % 86_400
    amount = Decimal(48 * day_left_s) / 3600 + 40
    base, chat = Member("base", 15.0, gpus=5, most=1), Member("chat", 200.0, gpus=5, priority=50)
    world = Nodes([base, chat], [policy(per_day=f"{amount:.2f}", outage_reserve_s=60.0)])
    world.run(2 * 3600)
    left = Decimal(48 * (day_left_s - 2 * 3600)) / 3600
    assert amount - 12 <= world.most["cap"] / 3600 + left <= amount
    assert world.policy().uncontrollable_per_hour == 48


def test_who_stays_pays_for_what_a_neighbour_leaves_and_what_it_held_last_until_the_node_goes():
    chat, code = Member("chat", 1.0, gpus=2, most=1), Member("code", 1.0, gpus=2, most=1, namespace="dev")
    caps = [policy("one", per_hour="100", namespaces=("ml",)), policy("two", per_hour="100", namespaces=("dev",))]
    world = Nodes([chat, code], caps, spreads=False)
    world.run(60)
    assert [world.policy(name).per_hour for name in ("one", "two")] == [12, 12]
    code.born, code.leaving = [], []
    world.goes("code")
    states = world._with_nodes(world.snapshot()).policies
    assert [each.per_hour for each in states] == [24, 0]
    chat.born = []
    world.goes("chat")
    states = world._with_nodes(world.snapshot()).policies
    assert [each.per_hour for each in states] == [24, 0], "its last holder"


@pytest.mark.parametrize("spreads", [False, True])
def test_a_rate_holds_also_when_neighbours_under_another_policy_leave_the_nodes(spreads):
    """Under 80 USD an hour are three nodes of 24: while neighbours pay for parts of them, it is not raised beyond."""
    code = Member("code", 120.0, least=1, gpus=2, namespace="dev")
    chat = Member("chat", 15.0, least=0, gpus=1)
    caps = [policy("one", per_hour="80", namespaces=("ml",), floor=Floor.ALLOW_ZERO)]
    world = Nodes([code, chat], caps, spreads=spreads)
    world.run(300)
    beside = sum(any(pod.owner == "code" for pod in each.pods) for each in world.machines)
    assert beside >= 3
    chat.load = 400.0
    world.run(300)
    code.load = 1.0
    for _ in range(120):
        world.cycle()
        assert world.dearest["one"] <= 80


@pytest.mark.parametrize("spreads", [False, True])
@pytest.mark.parametrize("neighbour", ["under another policy", "under none"])
@pytest.mark.parametrize(("gpus", "beside"), [(1, 5), (3, 5), (2, 1)])
def test_services_that_are_raised_together_may_be_put_on_each_others_nodes(gpus, beside, neighbour, spreads):
    """Eleven replicas of one GPU fill two nodes of 24, and were on four of them: 96 of 80 USD once the others left."""
    code = Member("code", 30.0, gpus=gpus, namespace="dev", born=[int(NOW) - 4000] * 3)
    chat = Member("chat", 1.0, least=0, gpus=beside, born=[int(NOW) - 4000])
    caps = [policy("two", per_hour="80", namespaces=("dev",), floor=Floor.ALLOW_ZERO)]
    if neighbour == "under another policy":
        caps.append(policy("one", per_hour="80", namespaces=("ml",), floor=Floor.ALLOW_ZERO))
    world = Nodes([chat, code], caps, spreads=spreads)
    world.run(60)
    code.load, chat.load = 100.0, 200.0
    world.run(200)
    chat.born, chat.load = [], 0.2
    world.goes("chat")
    world.run(60)
    assert 0 < world.dearest["two"] <= 80
