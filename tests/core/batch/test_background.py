"""Background services: their queue is worked off on what is lent to batch work, and they have nothing else."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebbtide.core.plan import plan
from ebbtide.model.batch import Strategy
from ebbtide.model.memory import Memory, PlannedJob
from ebbtide.model.plan import Outcome, Plan, ServicePlan
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import BATCH_KIND, ServiceState, Snapshot, Source, Unreadable
from ebbtide.model.spec import (
    CeilingKind,
    Mode,
    Pause,
    PauseDirection,
    Provisioning,
    ServiceClass,
    Threshold,
    ThresholdAction,
    ThresholdBasis,
)
from tests.builders import (
    NOW,
    condition,
    engine,
    fresh,
    misplaced,
    node,
    pod,
    pool,
    service,
    settled,
    silent_engine,
    snapshot,
    spec,
    to_zero,
    variant,
    variant_spec,
)
from tests.core.batch.test_giveback import paid
from tests.jobs import batch_policy, job, steps

NIGHT, DAY = [(-1.0, 7.0)], [(8.0, 16.0)]
WINDOW, IDLE = Strategy.WINDOW, Strategy.IDLE_OR_WINDOW


def background(
    replicas: int = 0, *, key: str = "ml/embed", queue: float = 600.0, on: str = "n", **changes: Any
) -> ServiceState:
    """A queue of 600 requests, and replicas of one GPU that are busy; its label matches the policy `night`."""
    fields: dict[str, Any] = {
        "service_class": ServiceClass.BACKGROUND,
        "labels": (("batch", "night"),),
        "min_replicas": 0,
        "scale_to_zero": to_zero(),
    }
    readings = changes.pop("readings", engine(20.0, waiting=60.0))
    name = key.partition("/")[2]
    pods = [pod(f"{name}-{i}", readings, node=on) for i in range(replicas)]
    declared = spec(key, changes.pop("variants", None), **(fields | changes))
    return service(variant("h100", pods, uid=f"uid-{name}"), declared, gateway_queue=fresh(queue))


def chat(replicas: int, rps: float = 10.0, **changes: Any) -> ServiceState:
    pods = [pod(f"chat-{i}", engine(rps, missed=0.5 if rps > 20 else 0.0), node="n") for i in range(replicas)]
    return service(variant("h100", pods), spec("ml/chat", **changes))


def world(services, *, policy=None, held: int = 0, gpus: int = 8, jobs=(), **changes: Any) -> Snapshot:
    """One node `n`, on which `held` GPUs are in use."""
    policies = changes.pop("policies", (policy or batch_policy(),))
    where = changes.pop("pools", None) or pool(nodes=[node("n", gpus, held)])
    return snapshot(services, where, jobs=tuple(jobs), batch_policies=policies, **changes)


def decide(state: Snapshot, memory: Memory | None = None, now_s: float = NOW) -> Plan:
    decided, _ = plan(state, memory or Memory(), now_s)
    assert not decided.failures, decided.failures
    assert not misplaced(decided), misplaced(decided)
    return decided


def of(decided: Plan, key: str = "ml/embed") -> ServicePlan:
    return next(each for each in decided.services if each.key == key)


def allowed(found: ServicePlan) -> int:
    return sum(each.allowed for each in found.variants)


CLOUD = pool(nodes=(), provisioning=Provisioning.AUTOSCALED, max_gpus=16)
HALF_EMPTY = pool(nodes=[node("n", 8, 5)], provisioning=Provisioning.AUTOSCALED, max_gpus=64)
CHEAP_LATER = msgspec.structs.replace(
    CLOUD, price_per_gpu_hour=Decimal("2.90"), steps=steps((-1.0, "2.90"), (8.0, "1.10"), (16.0, "2.90"))
)
TOO = batch_policy("too", match_labels=(("batch", "night"),))
CHEAP_NOW = msgspec.structs.replace(
    CLOUD, price_per_gpu_hour=Decimal("1.10"), steps=steps((-1.0, "1.10"), (8.0, "2.90"))
)

# what is, the fewest and the most that may run afterwards, the condition, and words of its text
CASES = {
    "in its window the queue is worked off": (
        world(background(), policy=batch_policy(open_=NIGHT, strategy=WINDOW)),
        1, 8, ("True", Code.GPUS_LENT), "window of BatchPolicy ml/night is open until"),
    "outside of its window it stays at zero, whatever waits": (
        world(background(), policy=batch_policy(open_=DAY, strategy=WINDOW)),
        0, 0, ("False", Code.WAITS_FOR_WINDOW), "until"),
    "a window that closes drains it": (
        world(background(3), policy=batch_policy(open_=DAY, strategy=WINDOW), held=3),
        0, 0, ("False", Code.WAITS_FOR_WINDOW), "no window of BatchPolicy ml/night is open"),
    "also while its metrics are gone": (
        world(background(3, readings=silent_engine()), policy=batch_policy(open_=DAY, strategy=WINDOW), held=3),
        0, 0, ("False", Code.WAITS_FOR_WINDOW), "no window"),
    "outside of its window it may have what is idle and paid for": (
        world(background(), policy=batch_policy(open_=DAY, strategy=IDLE)),
        1, 8, ("True", Code.GPUS_LENT), "idle and paid for"),
    "but not for money": (
        world(background(), policy=batch_policy(open_=DAY, strategy=IDLE), pools=CLOUD),
        0, 0, ("False", Code.WAITS_FOR_WINDOW), "0 GPUs are idle and paid for"),
    "the rest of a node that stands for others is paid for": (
        world([chat(5), background(queue=60_000.0)], policy=batch_policy(open_=DAY, strategy=IDLE), pools=HALF_EMPTY),
        1, 3, ("False", Code.WAITS_FOR_WINDOW), "idle and paid for"),
    "in its window it may bring nodes": (
        world(background(), policy=batch_policy(open_=NIGHT, strategy=IDLE), pools=CLOUD),
        1, 16, ("True", Code.GPUS_LENT), "is open"),
    "a cheaper hour is waited for": (
        world(background(), pools=CHEAP_LATER),
        0, 0, ("False", Code.WAITS_FOR_CHEAPER_HOUR), "1.10 instead of 2.90 USD per GPU-hour on h100"),
    "under Cheapest windows change nothing": (
        world(background(), policy=batch_policy(open_=NIGHT), pools=CHEAP_LATER),
        0, 0, ("False", Code.WAITS_FOR_CHEAPER_HOUR), "1.10 instead of 2.90"),
    "the cheapest hour is used": (world(background(), pools=CHEAP_NOW), 1, 16, ("True", Code.GPUS_LENT), "cheaper"),
    "no more than its policy allows": (
        world(background(queue=60_000.0), policy=batch_policy(max_gpus=2)),
        2, 2, ("True", Code.AT_MAX_GPUS), "spec.maxGPUs"),
    "together with the policy's Jobs": (
        world(background(queue=60_000.0), policy=batch_policy(max_gpus=4), jobs=[job(on=("n",) * 3)], held=3),
        1, 1, ("True", Code.AT_MAX_GPUS), "spec.maxGPUs"),
    "what Jobs hold is not lent twice": (
        world(background(queue=60_000.0), jobs=[job(on=("n",) * 6, restartable=True)], held=6),
        1, 2, ("False", Code.WAITS_FOR_GPUS), "Jobs hold"),
    "pools that the policy does not lend": (
        world(background(), policy=batch_policy(pools=("a100",))), 0, 0, ("False", Code.WAITS_FOR_GPUS), "spec.pools"),
    "no policy, no GPUs": (world(background(2), policies=(), held=2), 0, 0, ("False", Code.NO_BATCH_POLICY), "ml"),
    "another namespace's policy is none": (
        world(background(key="other/embed")), 0, 0, ("False", Code.NO_BATCH_POLICY), "namespace other"),
    "two policies lend nothing and are named": (
        world(background(2), policies=(batch_policy(), TOO), held=2),
        0, 0, ("False", Code.SELECTED_TWICE), "ml/night and ml/too"),
    "a paused policy takes nothing away": (
        world(background(2), policy=batch_policy(paused=True, open_=DAY, strategy=WINDOW), held=2),
        2, 2, ("False", Code.BATCH_PAUSED), "paused"),
    "nor does one that cannot be read": (
        world(background(2), policies=(), held=2, unreadable=(Unreadable(BATCH_KIND, "ml/night", "u", 1, "cron"),)),
        2, 2, ("False", Code.BATCH_POLICIES_UNKNOWN), "cron"),
    "while pods cannot be watched nothing is raised": (
        world(background(), sources=(Source("prometheus", healthy=True), Source("jobs", healthy=False))),
        0, 0, ("False", Code.WAITS_FOR_GPUS), "jobs cannot be watched"),
    "the maximum that somebody declared": (
        world(background(queue=60_000.0, max_replicas=3)), 3, 3, ("True", Code.GPUS_LENT), "BatchPolicy ml/night"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_how_many_replicas_it_may_have(case: str):
    state, least, most, said, words = CASES[case]
    found = of(decide(state), state.services[-1].spec.key)
    assert least <= allowed(found) <= most, (found.reason, found.waterfall)
    assert condition(found, "GPUsLent") == (said[0], said[1].value)
    text = next(each.message for each in found.conditions if each.type == "GPUsLent")
    assert words in text
    if allowed(found) < sum(each.observed for each in found.variants):
        assert found.reason.code is said[1], found.reason
        assert found.reason.text.startswith("3 -> 0" if "metrics" in case or "drains" in case else "2 -> 0")


def test_an_interactive_service_has_no_such_condition_and_needs_no_policy():
    found = of(decide(world(background(service_class=ServiceClass.INTERACTIVE), policies=())))
    assert allowed(found) > 0
    assert "GPUsLent" not in {each.type for each in found.conditions}


def test_a_pause_keeps_what_runs():
    paused = background(2, pause=Pause(PauseDirection.ALL))
    found = of(decide(world(paused, policy=batch_policy(open_=DAY, strategy=WINDOW), held=2)))
    assert allowed(found) == 2


def test_recommend_shows_that_it_would_be_drained_and_writes_nothing():
    shown = background(2, mode=Mode.RECOMMEND)
    decided = decide(world(shown, policy=batch_policy(open_=DAY, strategy=WINDOW), held=2))
    assert allowed(of(decided)) == 0 and not decided.actions


def test_interactive_services_take_its_gpus_whatever_the_priorities_and_before_those_of_jobs():
    runs = job("j", on=("n",) * 2, ran_h=0.1, restartable=True, hours=9.0)
    quiet = settled(world([chat(2, priority=0), background(4, priority=1000)], jobs=[runs], held=8), 300).memory
    served = [chat(2, 24.0, priority=0), background(4, priority=1000)]
    decided = decide(world(served, jobs=[runs], held=8), quiet, NOW + 300.0)
    raised = allowed(of(decided, "ml/chat")) - 2
    assert raised > 0, of(decided, "ml/chat").reason
    assert allowed(of(decided)) <= 4 - raised
    if raised <= 4:
        assert decided.jobs[0].outcome is Outcome.RUNS, decided.jobs[0].reason


def test_it_stops_no_job():
    runs = job("j", on=("n",) * 8, ran_h=0.1, restartable=True, hours=9.0)
    decided = decide(world(background(), jobs=[runs], held=8))
    assert allowed(of(decided)) == 0
    assert decided.jobs[0].outcome is Outcome.RUNS


def test_a_job_that_waits_for_gpus_comes_first():
    waits = job("j", parallelism=6, hours=2.0, deadline_h=9.0)
    planned = PlannedJob("uid-j", Code.WAITS_FOR_GPUS.value, "h100", NOW + 300.0, NOW + 7500.0)
    memory = Memory(batch=msgspec.structs.replace(Memory().batch, planned=(planned,), planned_at=NOW - 10.0))
    held = allowed(of(decide(world(background(8), held=8))))
    left = allowed(of(decide(world(background(8), jobs=[waits], held=8), memory)))
    assert held == 8 and left == 2


def test_jobs_wait_while_its_replicas_hold_the_gpus_and_the_policy_counts_them():
    waits = job("j", parallelism=6, hours=2.0)
    decided = decide(world(background(8), jobs=[waits], held=8))
    found = decided.jobs[0]
    assert found.outcome is Outcome.WAITS and found.starts_at is not None and found.starts_at <= NOW + 900.0
    assert decided.batch[0].gpus == 8 and "Background services have 8 GPUs" in decided.batch[0].reason.text


def test_suspend_batch_suspends_it_too():
    threshold = Threshold(CeilingKind.DAY, 80, ThresholdBasis.SPENT, (ThresholdAction.SUSPEND_BATCH,))
    state = world([chat(2), background(3)], policies=(batch_policy(),), held=5)
    capped = msgspec.structs.replace(state, policies=(paid("1000", "900", thresholds=(threshold,), others=0),))
    decided = decide(capped)
    assert allowed(of(decide(state))) >= 3
    assert allowed(of(decided)) == 0 and of(decided).reason.code is Code.THRESHOLD_REACHED
    assert "serviceClass is Background" in of(decided).reason.text
    assert allowed(of(decided, "ml/chat")) >= 2


def test_under_a_ceiling_it_gives_way_before_interactive_services_of_any_priority():
    state = world([chat(3, priority=0, min_replicas=3), background(4, priority=1000)], held=7)
    capped = msgspec.structs.replace(state, policies=(paid("1000", "990", others=0),))
    decided = decide(capped)
    assert allowed(of(decided)) < 4 and allowed(of(decided, "ml/chat")) == 3, of(decided).reason


def test_where_one_variant_has_no_room_another_is_used():
    variants = [variant_spec("h100", "h100"), variant_spec("a100", "a100")]
    base = background(queue=60_000.0, variants=variants)
    two = msgspec.structs.replace(base, variants=(base.variants[0], variant("a100", [])))
    where = [pool(nodes=[node("n", 8, 0)]), pool("a100", nodes=[node("m", 8, 0)], price="4.00")]
    found = of(decide(world(two, policy=batch_policy(pools=("a100",)), pools=where)))
    by_name = {each.name: each.allowed for each in found.variants}
    assert by_name["h100"] == 0 and by_name["a100"] > 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    chats=st.integers(0, 4),
    rps=st.floats(1.0, 30.0),
    running=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    jobs=st.integers(0, 2),
    queue=st.sampled_from([0.0, 50.0, 50_000.0]),
    is_open=st.booleans(),
    max_gpus=st.sampled_from([None, 0, 2, 5]),
    strategy=st.sampled_from(list(Strategy)),
)
def test_never_more_gpus_than_are_lent_and_none_outside_of_the_windows(
    chats, rps, running, jobs, queue, is_open, max_gpus, strategy
):
    spans = NIGHT if is_open else DAY
    policy = batch_policy(open_=spans, strategy=strategy, max_gpus=max_gpus)
    first, second = background(running[0], queue=queue), background(running[1], key="ml/index", queue=queue)
    served = [first, second, *([chat(chats, rps)] if chats else [])]
    held = chats + sum(running) + 2 * jobs
    runs = [job(f"j{n}", on=("n", "n"), ran_h=0.5, restartable=True, hours=9.0) for n in range(jobs)]
    state, memory = world(served, policy=policy, jobs=runs, held=held, gpus=16), Memory()
    for at_s in (NOW, NOW + 10.0, NOW + 20.0):
        decided, memory = plan(state, memory, at_s)
        assert not decided.failures and not misplaced(decided)
        mine = allowed(of(decided)) + allowed(of(decided, "ml/index"))
        others = allowed(of(decided, "ml/chat")) if chats else 0
        assert mine == 0 or mine + others + 2 * jobs <= 16
        assert max_gpus is None or mine <= max(0, max_gpus - 2 * jobs)
        assert mine == 0 or is_open or strategy is not WINDOW
        stopped = any(each.outcome is not Outcome.RUNS for each in decided.jobs)
        assert not stopped or others > chats or not is_open
