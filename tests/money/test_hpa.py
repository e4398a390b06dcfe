"""The HPA that is played along: its rule step by step, and no step where it is not known what it would have seen."""

from typing import Any

import msgspec
import pytest

from ebbtide.model.money import Payer, UsageRow
from ebbtide.model.plan import Capacity, Plan
from ebbtide.model.snapshot import NOT_APPLICABLE, EngineReadings, PodPhase, PodState, Quality, Reading, Snapshot
from ebbtide.model.spec import Mode
from ebbtide.money.hpa import Autoscalers, Scaled
from ebbtide.money.lifetimes import Holding
from ebbtide.money.usage import Tally
from tests.shell import world

T0 = 1_800_000_000 - 1_800_000_000 % 3600
CHAT, SERVICE = Payer("h100", "team", "chat", "h100", "llama-3-8b"), Payer("", "team", "chat", "", "llama-3-8b")


def ran(begin: int, *seen: tuple[float, float], least: int = 0, most: int = 100) -> list[int]:
    """Replicas after each (second, requests in flight), at a target of 70."""
    scalers, found = Autoscalers(0.0, [Scaled("a", begin, 0.0, 70.0)]), []
    for at_s, flying in seen:
        scalers.see(at_s, [Scaled("a", begin, flying, 70.0, least, most)])
        found.append(scalers.replicas["a"])
    return found


@pytest.mark.parametrize(
    ("story", "found", "want"),
    [
        ("the worked example", ran(2, (15, 200), (30, 90), (314, 90), (330, 90)), [3, 3, 3, 2]),
        ("within a tenth of the target nothing moves", ran(2, (15, 154), (400, 126)), [2, 2]),
        ("exactly three replicas' worth is three", ran(1, (15, 210)), [3]),
        ("it decides every 15 s and no sooner", ran(2, (10, 700), (14, 700), (15, 700)), [2, 2, 6]),
        ("four more, and from four on double", ran(1, (15, 7000), (30, 7000), (45, 7000)), [5, 10, 20]),
        ("what it began with binds for five minutes", ran(5, (15, 0), (299, 0), (314, 0)), [5, 5, 1]),
        ("a peak of a moment stays for five minutes", ran(1, (15, 280), (30, 0), (300, 0), (316, 0)), [4, 4, 4, 1]),
        ("maxReplicas", ran(1, (15, 7000), most=3), [3]),
        ("minReplicas", ran(3, (400, 0), least=2), [2]),
        ("the last one stays", ran(1, (400, 0), (800, 0)), [1, 1]),
        ("from none it goes to one: an HPA would not have gone there", ran(0, (15, 0)), [1]),
    ],
)
def test_the_rule(story: str, found: list[int], want: list[int]) -> None:
    assert found == want, story


def test_of_two_deployments_each_has_its_own_and_the_larger_keeps_the_last_replica() -> None:
    scalers = Autoscalers(0.0, [Scaled("a", 1, 0.0, 70.0), Scaled("b", 2, 0.0, 10.0)])
    scalers.see(15.0, [Scaled("a", 1, 0.0, 70.0), Scaled("b", 2, 40.0, 10.0)])
    assert scalers.replicas == {"a": 1, "b": 4}
    scalers.see(400.0, [Scaled("a", 1, 0.0, 70.0), Scaled("b", 2, 0.0, 10.0)])
    assert scalers.replicas == {"a": 0, "b": 1}


# -- cycle by cycle, as usage is counted


def reading(value: float) -> Reading:
    return Reading(Quality.FRESH, value, 1.0)


def pod(name: str, running: float | None = 10.0, **changes: Any) -> PodState:
    engine = None if running is None else EngineReadings("vLLM", running=reading(running), waiting=reading(0.0))
    return world.pod(name, gpus=4, engine=engine, **changes)


def shown(at_s: float, *pods: PodState, mode: Mode = Mode.AUTO, replicas: int | None = None, **target: Any) -> Snapshot:
    count = len(pods) if replicas is None else replicas
    declared = world.target_state(gpus_per_replica=4, spec_replicas=count, **target)
    service = world.service_state(world.service_spec(mode=mode), world.variant_state(target=declared, pods=pods))
    return msgspec.structs.replace(world.snapshot(service), taken_at=T0 + at_s)


def held(*pods: PodState) -> list[Holding]:
    return [Holding(each.uid, CHAT, 4, float(T0), None, "n") for each in pods]


def holds(concurrency: float | None = 100.0) -> Plan:
    capacity = None if concurrency is None else Capacity(2.4, "observed", concurrency, "")
    return world.plan(world.service_plan(variants=(world.variant_plan(capacity=capacity),)))


def counted(tally: Tally) -> tuple[int, int, int]:
    """(seconds compared, GPU-seconds that were held in them, those that HPAs would have held)."""
    rows = {row.payer: row for row in tally.changed()}
    service, chat = rows.get(SERVICE, UsageRow(T0, SERVICE)), rows.get(CHAT, UsageRow(T0, CHAT))
    return service.compared_s, chat.ran_gpu_s, chat.hpa_gpu_s


def test_it_begins_with_what_there_is_and_is_counted_from_the_next_cycle_on() -> None:
    tally, one = Tally(), pod("a", 10.0)
    tally.count(shown(10, one), held(one), T0, holds())
    assert counted(tally) == (0, 0, 0)
    tally.count(shown(20, one), held(one), T0 + 10, holds())
    assert counted(tally) == (10, 40, 40)


def test_what_ebbtide_scaled_away_an_hpa_would_have_kept_for_five_minutes() -> None:
    tally, two = Tally(), (pod("a", 30.0), pod("b", 30.0))
    tally.count(shown(10, *two), held(*two), T0, holds())
    for at_s in range(20, 630, 10):
        tally.count(shown(at_s, two[0]), held(two[0]), T0 + at_s - 10, holds())
    # 30 in flight are one replica's work: the second goes once those that there were at 10 s are five minutes old
    assert counted(tally) == (610, 4 * 610, 4 * (2 * 300 + 310))


@pytest.mark.parametrize(
    ("story", "snapshot", "plan"),
    [
        ("a pod that serves is not read", shown(20, pod("a"), pod("b", None)), holds()),
        ("in Recommend nothing is saved", shown(20, pod("a"), mode=Mode.RECOMMEND), holds()),
        ("an HPA owns the target", shown(20, pod("a"), rivals=("HorizontalPodAutoscaler chat",)), holds()),
        ("nobody knows what a replica holds", shown(20, pod("a")), holds(None)),
        ("nothing was planned", shown(20, pod("a")), None),
        ("five minutes passed", shown(400, pod("a")), holds()),
    ],
)
def test_nothing_is_counted_of_time_in_which_it_is_not_known(story: str, snapshot: Snapshot, plan: Plan | None) -> None:
    tally, one = Tally(), pod("a")
    tally.count(shown(10, one), held(one), T0, holds())
    tally.count(snapshot, held(one), T0 + 10, plan)
    assert counted(tally) == (0, 0, 0), story


@pytest.mark.parametrize(
    ("story", "other"),
    [
        ("it starts", pod("b", None, phase=PodPhase.STARTING)),
        ("it became ready a moment ago", pod("b", None, ready_at=float(T0 + 10))),
        ("it leaves, and is read no more", pod("b", None, phase=PodPhase.TERMINATING)),
        ("its engine has no queue", world.pod("b", gpus=4, engine=EngineReadings(
            "Triton", running=reading(3.0), waiting=NOT_APPLICABLE))),
    ],
)  # fmt: skip
def test_pods_that_need_not_be_read_hold_nothing_up(story: str, other: PodState) -> None:
    tally, one = Tally(), pod("a")
    for at_s in (10, 20):
        tally.count(shown(at_s, one, other), held(one, other), T0 + at_s - 10, holds())
    assert counted(tally) == (10, 80, 80), story


def test_a_list_with_holes_is_compared_with_nothing() -> None:
    tally, one = Tally(), pod("a")
    for at_s in (10, 20):
        tally.count(shown(at_s, one), held(one), T0 + at_s - 10, holds(), complete=False)
    assert counted(tally) == (0, 0, 0)


def test_a_variant_that_comes_begins_the_game_anew() -> None:
    scalers = Autoscalers(0.0, [Scaled("a", 1, 0.0, 70.0)])
    assert scalers.follows(300.0, [Scaled("a", 1, 0.0, 70.0)])
    assert not scalers.follows(301.0, [Scaled("a", 1, 0.0, 70.0)])
    assert not scalers.follows(10.0, [Scaled("a", 1, 0.0, 70.0), Scaled("b", 1, 0.0, 70.0)])


def test_who_takes_over_begins_at_the_replicas_that_there_are() -> None:
    """What the leader before believed is not in the ledger: only what it counted is."""
    one = pod("a", 10.0)
    tally = Tally([UsageRow(T0, SERVICE, compared_s=50), UsageRow(T0, CHAT, ran_gpu_s=200, hpa_gpu_s=900)])
    for at_s in (100, 110):
        tally.count(shown(at_s, one), held(one), T0 + at_s - 10, holds())
    assert counted(tally) == (60, 240, 940)
