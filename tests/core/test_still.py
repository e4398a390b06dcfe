"""A service that may not act takes nothing from those that do: it is charged with what it holds, not what it wants."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ebbtide.model.plan import Plan, ServicePlan
from ebbtide.model.snapshot import PodPhase, ServiceState
from ebbtide.model.spec import Mode, Pause, PauseDirection, Provisioning
from tests.builders import Loop, node, pod, pods, pool, service, settled, snapshot, spec, variant, variant_spec

BUSY, WELL, CALM = {"rps": 25.0, "itl_s": 0.12, "waiting": 100.0, "missed": 0.9}, {"rps": 22.0}, {"rps": 1.0}
# what keeps a service from acting: of its declaration, of its target, of the service itself
STILL: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "Recommend": ({"mode": Mode.RECOMMEND}, {}, {}),
    "Off": ({"mode": Mode.OFF}, {}, {}),
    "paused": ({"pause": Pause(direction=PauseDirection.ALL)}, {}, {}),
    "conflict": ({}, {"rivals": ("HorizontalPodAutoscaler x",)}, {}),
    "fault of its target": ({}, {"faults": (("TargetShared", "two services name it"),)}, {}),
    "fault of its own": ({}, {}, {"faults": (("TargetShared", "two services name it"),)}),
}
HALTED = STILL | {"paused upwards": ({"pause": Pause(direction=PauseDirection.UP)}, {}, {})}
ACTING = ({}, {}, {})
PAUSED_DOWN: tuple[Any, Any, Any] = ({"pause": Pause(direction=PauseDirection.DOWN)}, {}, {})


def fleet(key: str, replicas: int, load: dict[str, Any], how: Any = ACTING, **declared: Any) -> ServiceState:
    """All of its pods on the pool's one node."""
    changes, of_target, of_service = how
    silent = declared.pop("silent", False)
    on_node = tuple(
        msgspec.structs.replace(made, node="n", engine=None if silent else made.engine)
        for made in pods(replicas, prefix=key[-1], **load)
    )
    made = spec(key, [variant_spec()], **(declared | changes))
    return service(variant("h100", on_node, **of_target), made, **of_service)


def of_variant(least: int) -> ServiceState:
    """As many as the variant declares at least; the service itself declares one."""
    made = fleet("ml/b", least, WELL, priority=1)
    return service(made.variants[0], spec("ml/b", [variant_spec(min_replicas=least)], priority=1))


def together(services: list[ServiceState], gpus: int, **changes: Any) -> Plan:
    held = sum(len(item.variants[0].pods) for item in services)
    return settled(snapshot(services, pool(nodes=[node("n", gpus, held)], **changes))).plan


def shown(decided: Plan) -> list[tuple[int, int, str]]:
    """(wanted, allowed, reason) of each service."""
    return [(item.variants[0].wanted, item.variants[0].allowed, item.reason.code.value) for item in decided.services]


@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize("how", HALTED)
def test_a_higher_priority_that_may_not_act_makes_nobody_give_way(how: str, elastic: bool) -> None:
    limits: Any = {"provisioning": Provisioning.AUTOSCALED, "max_gpus": 8} if elastic else {}
    higher, lower = fleet("ml/a", 2, BUSY, HALTED[how], priority=200), fleet("ml/b", 6, WELL)
    decided = together([higher, lower], 8, **limits)
    assert shown(decided)[1] == (6, 6, "WithinTarget")
    assert decided.actions == ()
    acting = together([fleet("ml/a", 2, BUSY, priority=200), lower], 8, **limits)
    assert shown(acting)[1] == (4, 4, "GivesWay"), "the case is one in which it would"


@pytest.mark.parametrize("priority", [100, 200])
@pytest.mark.parametrize("how", HALTED)
def test_what_is_free_goes_to_those_that_may_act(how: str, priority: int) -> None:
    decided = together([fleet("ml/a", 2, BUSY, HALTED[how], priority=priority), fleet("ml/b", 4, BUSY)], 8)
    assert shown(decided)[1] == (6, 6, "DemandRose")


@pytest.mark.parametrize("how", STILL)
def test_nobody_plans_with_the_gpus_of_a_lower_priority_that_will_not_leave(how: str) -> None:
    decided = together([fleet("ml/a", 2, BUSY), fleet("ml/b", 6, WELL, STILL[how], priority=1)], 8)
    assert shown(decided)[0] == (2, 2, "PoolFull")
    assert decided.actions == ()


@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize(
    ("story", "lower", "gets"),
    [
        ("what it declares at least stays", fleet("ml/b", 6, WELL, priority=1, min_replicas=6), 2),
        ("beyond that it gives way", fleet("ml/b", 6, WELL, priority=1, min_replicas=5), 3),
        ("also what one variant declares at least", of_variant(6), 2),
        ("and the last one of a service without zero", fleet("ml/b", 1, WELL, priority=1), 4),
        ("paused downwards it keeps all", fleet("ml/b", 6, WELL, PAUSED_DOWN, priority=1), 2),
        ("of what is not measured nothing is taken", fleet("ml/b", 6, WELL, priority=1, silent=True), 2),
    ],
)
def test_a_higher_priority_claims_what_the_lower_will_give_and_no_more(
    story: str, lower: ServiceState, gets: int, elastic: bool
) -> None:
    limits: Any = {"provisioning": Provisioning.AUTOSCALED, "max_gpus": 8} if elastic else {}
    decided = together([fleet("ml/a", 2, BUSY), lower], 8, **limits)
    high, low = (item[1] for item in shown(decided))
    assert high == gets, story
    assert high + low <= 8, story


def test_paused_upwards_still_gives_way_to_a_higher_priority() -> None:
    decided = together([fleet("ml/a", 2, BUSY), fleet("ml/b", 6, WELL, HALTED["paused upwards"], priority=1)], 8)
    assert [item[1] for item in shown(decided)] == [4, 4]


def test_what_is_only_recommended_fits_beside_what_is_done() -> None:
    """One GPU free for two that would grow, and more: each says what it would do on what is left."""
    asking = [fleet(f"ml/{key}", 2, BUSY | {"rps": 45.0}, STILL["Recommend"], priority=200) for key in "ab"]
    assert [item[0] for item in shown(together([*asking, fleet("ml/c", 3, WELL)], 8))] == [3, 2, 3]
    assert [item[0] for item in shown(together([asking[0], fleet("ml/c", 3, WELL)], 8))] == [4, 3]


def test_declared_replicas_without_a_node_push_out_nothing_that_runs() -> None:
    """Of 8 GPUs 6 run one service; another declares 6, and 4 of them wait for a node that never comes."""
    waiting = tuple(pod(f"w-{i}", phase=PodPhase.UNSCHEDULABLE) for i in range(4))
    half = fleet("ml/a", 2, WELL, STILL["Recommend"], priority=200)
    (of_half,) = half.variants
    half = service(variant("h100", (*of_half.pods, *waiting)), half.spec)
    decided = settled(snapshot([half, fleet("ml/b", 6, WELL)], pool(nodes=[node("n", 8, 8)]))).plan
    assert shown(decided)[1] == (6, 6, "WithinTarget")


LOADS = st.sampled_from([CALM, WELL, BUSY])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    how=st.sampled_from(sorted(STILL)),
    held=st.integers(0, 3),
    loads=st.tuples(LOADS, LOADS),
    priority=st.sampled_from([50, 100, 200]),
    least=st.integers(0, 5),
    others=st.lists(
        st.tuples(st.integers(1, 4), LOADS, st.sampled_from([50, 100, 200]), st.integers(0, 4)), min_size=1, max_size=3
    ),
    free=st.integers(0, 5),
    elastic=st.booleans(),
)
@example("Recommend", 2, (CALM, BUSY), 200, 0, [(6, WELL, 100, 0)], 0, False)
def test_one_that_may_not_act_changes_nothing_beyond_what_it_holds(
    how: str,
    held: int,
    loads: tuple[dict[str, Any], dict[str, Any]],
    priority: int,
    least: int,
    others: list[tuple[int, dict[str, Any], int, int]],
    free: int,
    elastic: bool,
) -> None:
    """Whatever its load; and as if its GPUs were a stranger's, or not there at all."""
    acting = [
        fleet(f"ml/{key}", replicas, load, priority=rank, min_replicas=low)
        for key, (replicas, load, rank, low) in zip("bcd", others, strict=False)
    ]
    gpus = held + free + sum(replicas for replicas, *_ in others)

    def allowed(beside: list[ServiceState]) -> list[ServicePlan]:
        limits: Any = {"provisioning": Provisioning.AUTOSCALED, "max_gpus": gpus} if elastic else {}
        full = pool(nodes=[node("n", gpus, gpus - free)], **limits)
        decided = Loop().run(snapshot([*beside, *acting], full), 120)
        return [item for item in decided.services if item.key != "ml/a"]

    def still(load: dict[str, Any]) -> ServiceState:
        return fleet("ml/a", held, load, STILL[how], priority=priority, min_replicas=least)

    assert allowed([still(loads[0])]) == allowed([still(loads[1])]) == allowed([])


def test_its_pods_on_a_cordoned_node_hide_no_room_that_others_would_make() -> None:
    resting = fleet("ml/a", 4, WELL, STILL["Recommend"])
    (of_it,) = resting.variants
    moved = tuple(msgspec.structs.replace(made, node="cordoned") for made in of_it.pods)
    resting = service(variant("h100", moved), resting.spec)
    others = [fleet("ml/b", 2, BUSY, priority=200), fleet("ml/c", 4, WELL)]
    nodes = [node("n", 6, 6), node("cordoned", 4, 4, cordoned=True)]
    decided = settled(snapshot([resting, *others], pool(nodes=nodes))).plan
    assert shown(decided)[1:] == shown(together(others, 6))
    assert shown(decided)[2][2] == "GivesWay"
