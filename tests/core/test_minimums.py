"""Declared minimums that find no room: the cause is named with the numbers, and no pool is promised twice."""

from typing import Any

import msgspec
import pytest

from ebbtide.model.plan import ServicePlan
from ebbtide.model.snapshot import PodPhase
from ebbtide.model.spec import Mode, Pause, PauseDirection, Provisioning
from tests.builders import (
    Loop,
    engine,
    fresh,
    node,
    pod,
    pods,
    pool,
    service,
    settled,
    snapshot,
    spec,
    target,
    variant,
    variant_spec,
)

CALM = 1.0  # requests/s a pod: one replica carries it all
WORDS = "pool h100 has no room for another replica of 1 GPU on one node"


def of_three(allocated: int = 3, **changes: Any) -> Any:
    return pool(nodes=[node("n", 3, allocated)], **changes)


def calm(replicas: int, least: int = 5, **declared: Any) -> Any:
    state = variant("h100", pods(replicas, CALM))
    return service(state, spec(min_replicas=least, variants=[variant_spec(**declared)]))


def limited(decided: ServicePlan) -> tuple[str, str]:
    found = next(item for item in decided.conditions if item.type == "Limited")
    return (found.reason if found.status.value == "True" else "", found.message)


def failing() -> Any:
    states = (*pods(3, CALM), *(pod(f"x-{i}", phase=PodPhase.CRASH_LOOPING, message="exit 1") for i in range(2)))
    return service(variant("h100", states), spec(min_replicas=5))


def waiting() -> Any:
    states = (*pods(3, CALM), *(pod(f"x-{i}", phase=PodPhase.PENDING) for i in range(2)))
    return service(variant("h100", states), spec(min_replicas=5))


def without_gpus() -> Any:
    return service(variant("h100", pods(3, CALM), gpus_per_replica=None), spec(min_replicas=5))


def beside(least: int, other: int) -> Any:
    """A variant with a minimum of its own next to one that has room."""
    declared = [variant_spec("h100", "h100", min_replicas=least), variant_spec("a100", "a100")]
    states = [variant("h100", pods(3, CALM)), variant("a100", pods(other, CALM, "b"))]
    return service(states, spec(min_replicas=5, variants=declared))


AUTOSCALED = {"provisioning": Provisioning.AUTOSCALED, "max_gpus": 16, "node_lead_time_s": 20.0}


@pytest.mark.parametrize(
    ("story", "state", "pools", "allowed", "code", "said"),
    [
        (
            "the pool is full with what runs",
            calm(3),
            [of_three()],
            [3],
            "PoolFull",
            f"at least 5 replicas are declared, pools have room for 3: h100: {WORDS}",
        ),
        (
            "some still fit",
            calm(1),
            [of_three(1)],
            [3],
            "PoolFull",
            f"at least 5 replicas are declared, pools have room for 3: h100: {WORDS}",
        ),
        (
            "the one that every service has",
            calm(0, 1),
            [pool(nodes=[])],
            [0],
            "PoolFull",
            f"at least 1 replica is declared, pools have room for 0: h100: {WORDS}",
        ),
        (
            "nodes do not come",
            waiting(),
            [of_three(**AUTOSCALED)],
            [3],
            "PoolBackingOff",
            "at least 5 replicas are declared, pools have room for 3: h100: nodes of pool h100 did not come, next try",
        ),
        (
            "no price",
            calm(3),
            [pool(price=None)],
            [3],
            "PriceUnknown",
            "at least 5 replicas are declared, only 3 can run: h100: the price of pool h100 is unknown",
        ),
        (
            "nobody says how many GPUs",
            without_gpus(),
            [pool()],
            [3],
            "GPUsUnknown",
            "at least 5 replicas are declared, only 3 can run: h100: GPUs per replica are neither declared nor",
        ),
        (
            "some crash",
            failing(),
            [pool()],
            [3],
            "CrashLooping",
            "at least 5 replicas are declared, only 3 can run: h100: 2 replicas do not come up",
        ),
        (
            "the variant's own maximum is below the service's minimum",
            calm(3, max_replicas=3),
            [pool()],
            [3],
            "AtMaximum",
            "at least 5 replicas are declared, only 3 can run: h100: its maximum is 3",
        ),
        (
            "a variant's own minimum, though the service's is reached",
            beside(4, 2),
            [of_three(), pool("a100", price="9.00")],
            [3, 2],
            "PoolFull",
            f"at least 4 of h100 are declared, pools have room for 3: h100: {WORDS}",
        ),
        ("room enough", calm(3), [pool()], [5], "AtMinimum", "at least 5 replicas are declared"),
        ("nothing binds", calm(1, 1), [of_three(1)], [1], "", "what is wanted is allowed"),
    ],
)
def test_a_minimum_without_room_says_why(
    story: str, state: Any, pools: Any, allowed: list[int], code: str, said: str
) -> None:
    decided = settled(snapshot(state, pools), 600.0).plan.services[0]
    assert [shown.allowed for shown in decided.variants] == allowed, story
    assert limited(decided)[0] == code, story
    assert limited(decided)[1].startswith(said), limited(decided)[1]
    assert decided.variants[0].limited_by == code, story
    held = next((step.text for step in decided.waterfall if step.name == "room"), "")
    assert held == (limited(decided)[1] if code not in ("", "AtMinimum") else "")


def test_the_decision_names_the_cause_whether_it_stands_or_moves() -> None:
    standing = settled(snapshot(calm(3), of_three())).plan.services[0].reason
    assert (standing.code.value, standing.text) == (
        "PoolFull",
        f"stays at 3: at least 5 replicas are declared, pools have room for 3: h100: {WORDS}",
    )
    raised = settled(snapshot(calm(1), of_three(1))).plan.services[0].reason
    assert raised.code.value == "BelowMinimum"
    assert raised.text.startswith("1 -> 3: at least 5 replicas are declared, pools have room for 3")
    lowered = settled(snapshot(failing(), pool())).plan.services[0].reason
    assert lowered.code.value == "CrashLooping"
    assert "5 -> 3" in lowered.text


def test_while_it_backs_off_what_failed_is_still_the_cause() -> None:
    loop = settled(snapshot(failing(), pool()), 60.0)
    decided = loop.one(snapshot(calm(3), pool()))
    assert limited(decided) == (
        "CrashLooping",
        "at least 5 replicas are declared, only 3 can run: "
        "h100: backs off, next try in 60s; what failed was x-0: exit 1",
    )


def test_a_target_that_does_not_exist_is_a_fault_and_no_limit() -> None:
    gone = msgspec.structs.replace(variant("h100", ()), target=target(0, exists=False))
    decided = settled(snapshot(service(gone, spec(min_replicas=5)), pool(nodes=[]))).plan.services[0]
    assert decided.reason.code.value == "TargetNotFound"
    assert limited(decided)[0] == ""


def test_what_a_rollout_replaces_is_not_missed() -> None:
    """Two of three are bound, the third is being replaced, and the surge is charged to a pool of three."""
    states = (*pods(2, CALM), pod("new", phase=PodPhase.PENDING))
    rolling = variant("h100", states, rolling_out=True, surge_replicas=1)
    decided = settled(snapshot(service(rolling, spec(min_replicas=3)), of_three(2))).plan.services[0]
    assert decided.variants[0].allowed == 3
    assert limited(decided)[0] != "PoolFull"


# -- several services on one pool


def shared(running: tuple[int, int], minimums: tuple[int, int], nodes: Any, priority: int = 100, **changes: Any) -> Any:
    """Allowed replicas of two calm services on one pool; `priority` is the second's."""
    first = service(variant("h100", pods(running[0], CALM, "a")), spec("ml/a", min_replicas=minimums[0]))
    declared = spec("ml/b", min_replicas=minimums[1], priority=priority)
    second = service(variant("h100", pods(running[1], CALM, "b")), declared)
    decided = settled(snapshot([first, second], pool(nodes=nodes, **changes))).plan
    return [found.variants[0].allowed for found in decided.services], [limited(found)[0] for found in decided.services]


@pytest.mark.parametrize(
    ("story", "running", "minimums", "priority", "allowed", "codes"),
    [
        ("who comes first gets what is left", (1, 1), (5, 5), 100, [5, 1], ["AtMinimum", "PoolFull"]),
        ("the higher priority comes first", (1, 1), (5, 5), 200, [1, 5], ["PoolFull", "AtMinimum"]),
        ("what a minimum keeps running is not given away", (1, 3), (5, 3), 100, [3, 3], ["PoolFull", "AtMinimum"]),
        ("room for both", (1, 1), (3, 3), 100, [3, 3], ["AtMinimum", "AtMinimum"]),
    ],
)
@pytest.mark.parametrize("elastic", [False, True])
def test_minimums_never_promise_a_gpu_twice(
    story: str,
    running: tuple[int, int],
    minimums: tuple[int, int],
    priority: int,
    allowed: list[int],
    codes: list[str],
    elastic: bool,
) -> None:
    changes: Any = {"provisioning": Provisioning.AUTOSCALED, "max_gpus": 6} if elastic else {}
    assert shared(running, minimums, [node("n", 6, sum(running))], priority, **changes) == (allowed, codes), story


def test_the_last_node_that_fits_is_promised_once() -> None:
    """Replicas of 2 GPUs on nodes of 3: nine GPUs would be enough for four, three nodes hold three."""

    def of_two(key: str, on: str) -> Any:
        states = (msgspec.structs.replace(pods(1, CALM, on)[0], gpus=2, node=on),)
        return service(variant("h100", states, gpus_per_replica=2), spec(key, min_replicas=2))

    nodes = [node("n0", 3, 2), node("n1", 3, 2), node("n2", 3, 0)]
    decided = settled(snapshot([of_two("ml/a", "n0"), of_two("ml/b", "n1")], pool(nodes=nodes))).plan.services
    assert [found.variants[0].allowed for found in decided] == [2, 1]
    assert limited(decided[1])[1].startswith("at least 2 replicas are declared, pools have room for 1: h100: pool h100")


def test_a_third_ones_minimum_takes_nothing_that_anothers_keeps_running() -> None:
    fleets = [("ml/a", 1, 3), ("ml/b", 1, 5), ("ml/c", 3, 3)]
    states = [service(variant("h100", pods(n, CALM, key[-1])), spec(key, min_replicas=low)) for key, n, low in fleets]
    elastic = pool(nodes=[node("n", 5, 5)], provisioning=Provisioning.AUTOSCALED, max_gpus=8)
    decided = settled(snapshot(states, elastic)).plan.services
    assert [found.variants[0].allowed for found in decided] == [3, 2, 3]


def test_the_need_of_an_equal_comes_before_a_minimum_that_no_load_calls_for() -> None:
    calm_one = service(variant("h100", pods(1, CALM, "a")), spec("ml/a", min_replicas=5))
    busy = service(variant("h100", pods(1, 60.0, "b")), spec("ml/b"))
    decided = settled(snapshot([calm_one, busy], pool(nodes=[node("n", 6, 2)]))).plan.services
    need = decided[1].variants[0]
    assert need.wanted > 1
    assert need.allowed == need.wanted
    assert sum(found.variants[0].allowed for found in decided) == 6


HALT = Pause(direction=PauseDirection.ALL)


@pytest.mark.parametrize(
    ("story", "first", "target_of_first"),
    [
        ("a rival scales it", {}, {"rivals": ("HorizontalPodAutoscaler x",)}),
        ("it is paused", {"pause": HALT}, {}),
        ("upwards", {"pause": Pause(direction=PauseDirection.UP)}, {}),
        ("it is only recommended", {"mode": Mode.RECOMMEND}, {}),
        ("it is off", {"mode": Mode.OFF}, {}),
    ],
)
def test_a_minimum_that_may_not_be_brought_about_is_not_kept_from_one_that_may(
    story: str, first: dict[str, Any], target_of_first: dict[str, Any]
) -> None:
    held = service(variant("h100", pods(1, CALM, "a"), **target_of_first), spec("ml/a", min_replicas=5, **first))
    free = service(variant("h100", pods(1, CALM, "b")), spec("ml/b", min_replicas=5))
    decided = settled(snapshot([held, free], pool(nodes=[node("n", 6, 2)]))).plan.services
    assert decided[1].variants[0].allowed == 5, story


def test_a_pause_downwards_keeps_the_order() -> None:
    held = service(
        variant("h100", pods(1, CALM, "a")),
        spec("ml/a", min_replicas=5, pause=Pause(direction=PauseDirection.DOWN)),
    )
    free = service(variant("h100", pods(1, CALM, "b")), spec("ml/b", min_replicas=5))
    decided = settled(snapshot([held, free], pool(nodes=[node("n", 6, 2)]))).plan.services
    assert [found.variants[0].allowed for found in decided] == [5, 1]


def dear_and_cheap(dear: int, cheap: int = 0, rps: float = 0.0, **readings: Any) -> Any:
    """Two declared in all, on the dear variant; the cheap one is to have them."""
    declared = spec(
        min_replicas=2,
        max_replicas=6,
        down_delay_s=15.0,
        variants=[variant_spec("h100", "h100"), variant_spec("a100", "a100")],
    )
    states = [variant("h100", pods(dear, rps, "h", **readings)), variant("a100", pods(cheap, rps, "a", **readings))]
    return snapshot(service(states, declared), [pool("h100", price="6.90"), pool("a100", price="0.70")])


@pytest.mark.parametrize("rps", [0.0, 2.0])
@pytest.mark.parametrize("seconds", [30.0, 60.0, 90.0, 110.0, 150.0, 300.0, 900.0])
def test_while_the_cheaper_variant_may_not_be_raised_yet_the_dear_one_keeps_the_minimum(
    seconds: float, rps: float
) -> None:
    """No request has ended yet, so nothing is raised on a belief; nothing is lowered below what is declared either.

    One replica would carry the 2 requests/s, so that it is not the load that keeps the other.
    """
    unread = {"generation_tokens": fresh(0.0), "prompt_tokens": fresh(0.0), "itl": None, "tpot": None, "ttft": None}
    loop = Loop()
    loop.run(dear_and_cheap(2, rps=rps, **unread))
    decided = loop.one(dear_and_cheap(2, rps=rps, **unread), seconds)
    assert sum(shown.allowed for shown in decided.variants) >= 2


def test_without_any_load_the_minimum_stays_ready_until_its_stand_ins_are() -> None:
    loop = settled(dear_and_cheap(2), 1200.0)
    decided = loop.plan.services[0]
    assert decided.variants[1].allowed > 0, "the case is one in which it moves"
    assert decided.variants[0].allowed == 2, "they are all that is ready"
    assert decided.reason.code.value == "CheaperMix"


def test_interrupted_replicas_serve_on_where_no_room_is_left_for_a_stand_in() -> None:
    states = tuple(pod(f"d-{i}", engine(2.0), phase=PodPhase.INTERRUPTED) for i in range(3))
    full = pool(nodes=[node("n", 8, 3, interrupted=True)])
    decided = settled(snapshot(service(variant("h100", states), spec(min_replicas=3)), full), 600.0).plan.services[0]
    assert decided.variants[0].allowed == 3


def test_a_lowered_limit_is_named_where_it_takes_and_where_it_keeps_from_more() -> None:
    busy = service(variant("h100", pods(6, 20.0)))
    room = [node("n0", 8, 6), node("n1", 8, 0)]
    loop = settled(snapshot(busy, pool(nodes=room)), 600.0)
    lowered = loop.one(snapshot(busy, pool(nodes=room, max_gpus=3)))
    assert (lowered.variants[0].allowed, lowered.reason.code.value) == (3, "GivesWay")
    assert "pool h100 is planned with 3 GPUs at most (limits.maxGPUs)" in lowered.reason.text
    kept = loop.one(snapshot(service(variant("h100", pods(3, 40.0))), pool(nodes=[node("n0", 8, 3)], max_gpus=3)))
    assert "pool h100 is planned with 3 GPUs at most (limits.maxGPUs)" in limited(kept)[1]
