"""No period's ceiling is crossed because of anything that Ebbtide did: random fleets, prices, outages and restarts.

The clerk of `purse.World` looks once a second. What nobody may reduce is none of Ebbtide's doing: minimums under
KeepMin, and the last replica of a service while nobody knows what comes.
"""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ebbtide.model.memory import Memory
from ebbtide.model.snapshot import Snapshot
from ebbtide.model.spec import (
    CeilingKind,
    ExternalScale,
    Floor,
    Pacing,
    Threshold,
    ThresholdAction,
    ThresholdBasis,
)
from tests.builders import NOW
from tests.core.purse import CYCLE_S, EXIT_S, Member, World, policy
from tests.core.test_nodes import Nodes

CYCLES = 160
GENERATE = (Phase.explicit, Phase.reuse, Phase.generate)  # shrinking takes minutes
POOLS = ("h100", "a100")
SHAPES = ({}, {}, {"gpus": 2, "small": 1}, {"gpus": 2, "small": 1, "small_pool": "a100"},
          {"gpus": 4, "small": 1, "degraded": False})  # fmt: skip


class Minded(World):
    """Counts by policy what its minimums alone cost, and blinds the operator."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.minimums = dict.fromkeys(self.spent, Decimal(0))
        self.silent: set[str] = set()  # services whose engines have no new readings
        self.seen = self._without_readings

    def least_rate(self, item) -> Decimal:
        """What its services cost an hour that some policy keeps, on the dearer of their pools."""
        mine = [each for each in self.members if item.selects(each.namespace, each.labels)]
        return sum((self._a_replica(each) * self._kept(each) for each in mine), Decimal(0))

    def _kept(self, member) -> int:
        over = [item for item in self.policies if item.selects(member.namespace, member.labels)]
        if all(item.floor is not Floor.KEEP_MIN for item in over):
            return 0
        return min(member.least, len(member.born) + len(member.small_born)) + len(member.leaving)

    def _a_replica(self, member) -> Decimal:
        sizes = ((member.pool, member.gpus), (member.small_pool, member.small))
        return max(self.price(self.now_s, pool) * gpus for pool, gpus in sizes)

    def _without_readings(self, state: Snapshot) -> Snapshot:
        services = []
        for each in state.services:
            if each.spec.key.partition("/")[2] in self.silent:
                blind = tuple(
                    msgspec.structs.replace(
                        one, pods=tuple(msgspec.structs.replace(pod, engine=None) for pod in one.pods)
                    )
                    for one in each.variants
                )
                each = msgspec.structs.replace(each, variants=blind)  # noqa: PLW2901
            services.append(each)
        return msgspec.structs.replace(state, services=tuple(services))

    def _second(self) -> None:
        for item in self.policies:
            self.minimums[item.name] += self.least_rate(item)
        super()._second()
        if self.now_s == self.begin_s():
            self.minimums = dict.fromkeys(self.spent, Decimal(0))


@st.composite
def _prices(draw) -> tuple[tuple[int, str], ...]:
    first = draw(st.sampled_from(("3.00", "1.10")))
    return ((0, first), *((draw(st.integers(1, 1500)), "5.10") for _ in range(draw(st.integers(0, 1)))))


@st.composite
def _policies(draw, floors):
    kinds = draw(st.sets(st.sampled_from(("per_hour", "per_day")), min_size=1))
    return [
        policy(
            f"p{number}",
            namespaces=draw(st.sampled_from(((), ("a",), ("b",)))),
            floor=draw(st.sampled_from(floors)),
            outage_reserve_s=float(draw(st.sampled_from((60, 120, 300)))),
            pacing=draw(st.sampled_from(Pacing)) if "per_day" in kinds else Pacing.NONE,
            on_external_scale=draw(st.sampled_from(ExternalScale)),
            thresholds=tuple(
                Threshold(CeilingKind.DAY, draw(st.integers(10, 120)), draw(st.sampled_from(ThresholdBasis)), (action,))
                for action in (draw(st.sets(st.sampled_from(ThresholdAction))) if "per_day" in kinds else ())
            ),
            **{
                kind: str(draw(st.integers(3, 60) if kind == "per_hour" else st.integers(1, 14)))
                for kind in sorted(kinds)
            },
        )
        for number in range(draw(st.integers(1, 2)))
    ]


@st.composite
def _worlds(draw):
    members = [
        Member(
            f"s{number}",
            draw(st.sampled_from((0.5, 10.0, 40.0, 120.0))),
            priority=draw(st.sampled_from((1, 50, 50, 200))),
            namespace=draw(st.sampled_from(("a", "b"))),
            pool=draw(st.sampled_from(POOLS)),
            least=draw(st.integers(0, 2)),
            born=[0] * draw(st.integers(1, 6)),
            **draw(st.sampled_from(SHAPES)),
        )
        for number in range(draw(st.integers(1, 4)))
    ]
    by_pool = {pool: draw(_prices()) for pool in POOLS}
    # a minimum is bound on the cheapest variant that runs, and a dearer one may be what stays (ADR 0012, slice 6)
    policies = draw(_policies((Floor.ALLOW_ZERO,) if any(member.small for member in members) else tuple(Floor)))
    return Minded(members, policies, by_pool=by_pool, day_s=draw(st.sampled_from((900, 1300))))


@settings(max_examples=25, deadline=None, phases=GENERATE)
@given(world=_worlds(), data=st.data())
def test_no_ceiling_is_crossed_whatever_is_wanted_and_whenever_the_operator_is_away(world, data):
    """The operator is away for up to the reserve, again and again; it forgets all, and its readings cease.

    What ran before the first cycle may be more than a rate allows: it goes within the first cycle and an exit.
    """
    reserve_s = min(item.outage_reserve_s for item in world.policies)
    away = dark_s = 0
    # 24 replicas of 4 GPUs cost 3.20 USD until the last of their pods can be gone, and more where prices rise meanwhile
    first = {item.name: world.rate(item.name) for item in world.policies}
    unavoidable = {name: rate * Decimal("5.10") / Decimal("1.10") * (CYCLE_S + EXIT_S) for name, rate in first.items()}
    for cycle in range(CYCLES):
        if cycle % 20 == 0:
            for member in world.members:
                member.load = data.draw(st.sampled_from((0.5, 10.0, 40.0, 120.0)))
            away = data.draw(st.sampled_from((0, 0, 0, 1, 5, 12, 30)))
            world.silent = data.draw(st.sets(st.sampled_from([member.name for member in world.members]), max_size=1))
            if data.draw(st.booleans()):
                world.memory = Memory()
        down = cycle > 20 and away > 0 and dark_s + CYCLE_S <= reserve_s
        away, dark_s = away - 1, dark_s + CYCLE_S if down else 0
        before = {item.name: world.rate(item.name) for item in world.policies}
        world.cycle(acts=not down)
        for item in world.policies:
            for kind, ceiling in item.ceilings:
                if kind is CeilingKind.DAY:
                    free = unavoidable[item.name] if world.now_s < NOW + world.day_s else Decimal(0)
                    most = max(ceiling * 3600, world.minimums[item.name] + free)
                    assert world.spent[item.name] - world.lone[item.name] <= most
                elif cycle > 20:
                    controlled = world.rate(item.name) - world.lone_rate(item)
                    assert controlled <= max(ceiling, before[item.name], world.least_rate(item))


@st.composite
def _on_nodes(draw):
    members = [
        Member(
            name,
            1.0,
            least=0,
            gpus=draw(st.sampled_from((1, 1, 2, 3, 5))),
            namespace=draw(st.sampled_from(("ml", "dev"))),
            priority=draw(st.sampled_from((1, 50, 200))),
        )
        for name in "abcd"[: draw(st.integers(2, 4))]
    ]
    kinds = st.sets(st.sampled_from(("per_day", "per_hour")), min_size=1)
    policies = []
    for name, namespaces in (("one", ("ml",)), ("two", ("dev",)), ("all", ())):
        if name == "one" or draw(st.booleans()):
            amounts = {kind: draw(st.sampled_from(("40", "60", "80", "120"))) for kind in sorted(draw(kinds))}
            reserve_s = float(draw(st.sampled_from((60, 180, 600))))
            policies.append(
                policy(name, namespaces=namespaces, floor=Floor.ALLOW_ZERO, outage_reserve_s=reserve_s, **amounts)
            )
    world = Nodes(members, policies, others=draw(st.sampled_from((0, 0, 2))), spreads=draw(st.booleans()))
    world.release_s = draw(st.sampled_from((30, 120, 900)))
    return world


@pytest.mark.slow
@settings(max_examples=15, deadline=None, phases=GENERATE)
@given(world=_on_nodes(), data=st.data())
def test_nor_where_whole_nodes_are_billed_and_shared_with_others(world, data):
    """Services come and go beside each other's on nodes that come and go, under one policy, two, or both together."""
    reserve_s = min(item.outage_reserve_s for item in world.policies)
    away = dark_s = 0
    for cycle in range(240):
        if cycle % 24 == 0:
            for member in world.members:
                member.load = data.draw(st.sampled_from((0.2, 1.0, 15.0, 60.0, 200.0, 400.0)))
            away = data.draw(st.sampled_from((0, 0, 0, 0, 3, 10)))
            if data.draw(st.integers(0, 3)) == 0:
                world.memory = Memory()
        down = cycle > 20 and away > 0 and dark_s + CYCLE_S <= reserve_s
        away, dark_s = away - 1, dark_s + CYCLE_S if down else 0
        world.cycle(acts=not down)
        for item in world.policies:
            for kind, ceiling in item.ceilings:
                spent = world.most[item.name] / 3600 if kind is CeilingKind.DAY else world.dearest[item.name]
                assert spent <= ceiling, (item.name, kind)
