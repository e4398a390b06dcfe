"""A replica that is a group of pods (LeaderWorkerSet): its leader answers for it, its pods may be on several nodes."""

import msgspec
import pytest

from ebbtide.core import edge
from tests.builders import NOW, engine, node, pod, pool, service, settled, snapshot, spec, variant

SIZE = 4


def members(index, rps):
    """One ready group: a leader with metrics and three workers without."""
    leader = pod(f"g{index}", engine(rps), gpus=4, node=f"n{index}")
    return [leader, *(pod(f"g{index}-{i}", gpus=4, node=f"n{index}", serves=False) for i in range(1, SIZE))]


def fleet(replicas, rps, least=1):
    made = [member for index in range(replicas) for member in members(index, rps)]
    state = variant("h100", made, replicas, pods_per_replica=SIZE, gpus_per_replica=16)
    return service(state, spec(min_replicas=least))


def nodes(free):
    return [node("n0", 16, 16), *(node(f"n{i}", gpus) for i, gpus in enumerate(free, 1))]


def test_workers_neither_multiply_what_their_leader_is_asked_for_nor_make_it_doubtful():
    state = snapshot(fleet(2, 5.0), pool(nodes=[node("n0", 16, 16), node("n1", 16, 16)]))
    decided = settled(state).plan.services[0]
    assert decided.demand.requests_per_second == pytest.approx(10.0, rel=0.01)
    fresh = next(item for item in decided.conditions if item.type == "MetricsFresh")
    assert fresh.status.value == "True"
    assert decided.variants[0].ready == 2


def test_a_leader_without_metrics_is_still_missed():
    (state,) = snapshot(fleet(2, 5.0)).services[0].variants
    silent = tuple(msgspec.structs.replace(p, engine=None) if p.name == "g1" else p for p in state.pods)
    silenced = service(msgspec.structs.replace(state, pods=silent))
    fresh = next(
        item for item in settled(snapshot(silenced)).plan.services[0].conditions if item.type == "MetricsFresh"
    )
    assert fresh.status.value == "False"


@pytest.mark.parametrize(
    ("free", "allowed"),
    [
        pytest.param((8, 8), 2, id="a group of 16 GPUs on two nodes of 8"),
        pytest.param((16,), 2, id="on one"),
        pytest.param((8,), 1, id="half a group does not fit"),
        pytest.param((7, 7, 2), 1, id="a pod of 4 does not use what is left of several nodes"),
        pytest.param((8, 8, 8, 8), 3, id="two more"),
    ],
)
def test_a_group_fits_where_each_of_its_pods_does(free, allowed):
    state = snapshot(fleet(1, 1.0, least=3), pool(nodes=nodes(free)))
    assert settled(state).plan.services[0].variants[0].allowed == allowed


@pytest.mark.parametrize(
    ("pods_per_replica", "free", "needs"),
    [
        pytest.param(SIZE, (8,), "4 pods with 16 GPUs together", id="a group larger than a node"),
        pytest.param(1, (8, 8), "16 GPUs on one node", id="a pod larger than a node"),
    ],
)
def test_a_full_pool_names_what_a_whole_replica_needs(pods_per_replica, free, needs):
    made = [pod("g0", engine(60.0), gpus=16, node="n0")] if pods_per_replica == 1 else members(0, 60.0)
    state = variant("h100", made, 1, pods_per_replica=pods_per_replica, gpus_per_replica=16)
    decided = settled(snapshot(service(state), pool(nodes=nodes(free)))).plan.services[0]
    assert decided.reason.code.value == "PoolFull"
    assert decided.reason.text.endswith(f"h100: pool h100 has no room for another replica of {needs}")
    assert decided.variants[0].limited_by == "PoolFull"


def learnt(*more, missed):
    """How far the edge reaches after a busy minute of two groups, and of more pods."""
    made = [member for index in range(2) for member in members(index, 24.0)]
    leaders = {p.name: engine(24.0, missed=missed) for p in made if p.serves}
    made = [msgspec.structs.replace(p, engine=leaders[p.name]) if p.serves else p for p in made]
    state = variant("h100", [*made, *more], 2, pods_per_replica=SIZE, gpus_per_replica=16)
    loop = settled(snapshot(service(state, spec(max_replicas=2))), 120)
    return edge.reach(loop.memory.services[0].variants[0].capacity.edge)


def test_what_groups_miss_teaches_although_their_workers_have_no_readings():
    assert learnt(missed=0.3) < 0.9


def test_nothing_is_learnt_from_a_minute_in_which_a_leader_joined():
    young = pod("g2", engine(1.0), gpus=4, ready_at=NOW + 60.0)
    assert learnt(young, missed=0.3) == 1.0
