"""Nodes that stay, and are paid, after their last pod has gone: learnt, reserved, given back with the node."""

from decimal import Decimal

import msgspec
import pytest

from ebbtide.core import release
from ebbtide.model.memory import Memory, PoolMemory
from ebbtide.model.snapshot import Others, Source
from ebbtide.model.spec import Billing, Floor, PolicyScope, Provisioning
from tests.builders import NOW, Loop, node, pool, service, snapshot, variant
from tests.core.purse import CYCLE_S, EXIT_S, Member, World, policy


class NodeWorld(World):
    """Each replica has a node of 8 GPUs to itself; the autoscaler takes the node away `release_s` after its pod."""

    release_s = 600
    provisioning = Provisioning.AUTOSCALED

    def __init__(self, *args, **changes):
        super().__init__(*args, **changes)
        self.empty: list[int] = []  # since when
        self.held = self._held()
        self.seen = self._with_nodes

    def _held(self):
        (member,) = self.members
        return len(member.born) + len(member.leaving)

    def _with_nodes(self, state):
        nodes = [node(f"used-{n}", allocated=8) for n in range(self.held)]
        nodes += [node(f"empty-{since_s}-{n}", created_at=0.0) for n, since_s in enumerate(self.empty)]
        (only,) = state.pools
        spec = msgspec.structs.replace(only.spec, provisioning=self.provisioning, billing=Billing.NODE)
        others = (Others("h100", 0, 0, 8 * len(self.empty)),)
        (paid,) = state.policies
        return msgspec.structs.replace(
            state,
            pools=(msgspec.structs.replace(only, spec=spec, nodes=tuple(nodes)),),
            policies=(msgspec.structs.replace(paid, others=others),),
        )

    def _second(self):
        held = self._held()
        if held < self.held:
            self.empty += [self.now_s] * (self.held - held)
        else:
            del self.empty[: held - self.held]  # GPUs that are free are taken again
        self.held = held
        self.empty = [since_s for since_s in self.empty if self.now_s - since_s < self.release_s]
        for name in self.spent:
            self.spent[name] += self.price(self.now_s) * 8 * len(self.empty)
        super()._second()


@pytest.mark.parametrize("release_s", [120, 600, 900])
def test_nodes_that_nobody_holds_any_more_cross_no_ceiling(release_s):
    """Nodes of 24.00 USD an hour that stay for up to a quarter of an hour, and a reserve of one minute."""
    everything = policy(per_day="100", scope=PolicyScope.ALL_GPU_PODS, floor=Floor.ALLOW_ZERO, outage_reserve_s=60.0)
    world = NodeWorld([Member("chat", 100.0, least=0, gpus=8)], [everything], day_s=7200)
    world.release_s = release_s
    for _ in range(720):
        world.cycle()
    assert Decimal("0.80") <= world.most["cap"] / 3600 / 100 <= 1, world.most["cap"] / 3600


@pytest.mark.parametrize("scope", list(PolicyScope))
@pytest.mark.parametrize("provisioning", list(Provisioning))
def test_where_nodes_come_and_go_their_release_is_held_back(provisioning, scope):
    world = NodeWorld([Member("chat", 15.0, gpus=8)], [policy(per_day="900", scope=scope)])
    world.provisioning = provisioning
    world.members[0].leaving = [int(NOW) + EXIT_S]
    world.held = 2
    world.cycle()
    goes_s = EXIT_S + (release.PRIOR_S if provisioning is Provisioning.AUTOSCALED else 0)
    day_left_s = int(world.begin_s() + world.day_s - NOW)
    bound = world.policy().ceilings[0].committed - Decimal(24 * day_left_s) / 3600
    assert round(bound, 6) == round(Decimal(24 * goes_s) / 3600, 6), "one that leaves"


def state(at_s, *nodes, healthy=True, **changes):
    fields = {"provisioning": Provisioning.AUTOSCALED, "billing": Billing.NODE} | changes
    sources = (Source("prometheus", healthy=True), Source("nodes", healthy=healthy, message="gone"))
    return snapshot(service(variant("h100", ())), pool(nodes=nodes, **fields), taken_at=at_s, sources=sources)


def learnt(*steps):
    """What is remembered of the pool after (second, nodes) each; `None` for nodes: they could not be watched."""
    loop = Loop(Memory())
    for at_s, nodes in steps:
        loop.now_s = NOW + at_s
        seen = state(loop.now_s, *(nodes or ()), healthy=nodes is not None)
        loop.run(seen)
    return next(item for item in loop.memory.pools if item.name == "h100")


USED, EMPTY = node("a", allocated=8), node("a")


@pytest.mark.parametrize(
    ("story", "steps", "times"),
    [
        ("its last pod goes, and ten minutes later the node", [(0, [USED]), (10, [EMPTY]), (310, [EMPTY]),
         (600, [EMPTY]), (610, [])], (610.0,)),
        ("its pods went while nobody looked for a minute", [(0, [USED]), (60, [EMPTY]), (130, [])], (130.0,)),
        ("it was empty when it was looked at first", [(0, [EMPTY]), (10, [EMPTY]), (70, [])], ()),
        ("the same after an hour", [(0, [USED]), (3600, [EMPTY]), (3610, [])], ()),
        ("it is used again meanwhile", [(0, [EMPTY]), (60, [USED]), (70, [EMPTY]), (80, [])], (20.0,)),
        ("it is taken away with its pods", [(0, [USED]), (10, [])], ()),
        ("nodes could not be watched meanwhile", [(0, [USED]), (10, [EMPTY]), (20, None), (30, [])],
         (30.0,)),
        ("it went while nobody looked for an hour", [(0, [EMPTY]), (3600, [])], ()),
        ("a clock that was set back", [(600, [EMPTY]), (0, [])], ()),
        ("it stays", [(0, [EMPTY]), (10, [EMPTY])], ()),
    ],
)  # fmt: skip
def test_how_long_nodes_stay_is_measured_from_their_last_pod(story, steps, times):
    assert learnt(*steps).release_times_s == times, story


@pytest.mark.parametrize(
    ("times", "expected_s"),
    [((), release.PRIOR_S), ((600.0,), 600.0), ((40.0, 700.0), 700.0), (tuple(map(float, range(1, 17))), 15.0),
     ((90_000.0,), release.LONGEST_S)],
)  # fmt: skip
def test_what_is_reserved_is_a_high_quantile_of_what_was_seen(times, expected_s):
    drawn = pool(provisioning=Provisioning.AUTOSCALED, billing=Billing.NODE)
    assert release.stays_s(drawn, PoolMemory("h100", release_times_s=times)) == expected_s


@pytest.mark.parametrize(
    ("provisioning", "billing"), [(Provisioning.STATIC, Billing.NODE), (Provisioning.AUTOSCALED, Billing.POD)]
)
def test_where_nodes_stay_whoever_leaves_or_are_not_paid_nothing_is_learnt_or_reserved(provisioning, billing):
    loop = Loop(Memory())
    for nodes in ([EMPTY], []):
        loop.run(state(loop.now_s, *nodes, provisioning=provisioning, billing=billing))
    assert loop.memory.pools[0].release_times_s == ()
    drawn = pool(provisioning=provisioning, billing=billing)
    assert release.stays_s(drawn, PoolMemory("h100", release_times_s=(600.0,))) == 0.0


def test_what_a_pools_nodes_take_to_go_is_said_once_it_was_seen():
    loop = Loop(Memory())
    for nodes in ([USED], [EMPTY]):
        loop.run(state(loop.now_s, *nodes))
        assert loop.plan.pools[0].release_s is None
    loop.run(state(loop.now_s))
    assert loop.plan.pools[0].release_s == 2 * CYCLE_S
