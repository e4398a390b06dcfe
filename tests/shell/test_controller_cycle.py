"""The cycle with fakes at its edges: the order of the steps, what happens when one fails, when cycles run at all."""

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ebbtide.controller.cycle import Cycle, Finished, Parts, run_cycle
from ebbtide.controller.loop import Loop
from ebbtide.controller.meters import Meters
from ebbtide.controller.probes import Health
from ebbtide.errors import EbbtideError, RetryableError
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Condition, ConditionStatus, Failure, Plan, ServicePlan, UnreadablePlan, VariantPlan
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.snapshot import Snapshot
from ebbtide.record.metrics import Metrics

BEFORE, AFTER = Memory(started_at=1.0), Memory(started_at=2.0)


@dataclass(frozen=True)
class Result:
    service: str
    variant: str
    outcome: str
    message: str


@dataclass
class Outside:
    """Every other layer: notes what is called, and fails where told to."""

    fails: dict[str, Exception] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    plan: Plan = field(default_factory=lambda: Plan(at=10.0))
    results: list[Result] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    remembered: list[Memory] = field(default_factory=list)
    planned_from: list[Memory] = field(default_factory=list)
    leading: bool = True
    holder: str = "me"
    gate: asyncio.Event | None = None
    metrics: Metrics = field(default_factory=Metrics)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise self.fails[name]

    def may_write(self) -> bool:
        return self.leading

    def write_timeout_s(self) -> float:
        return 5.0

    async def observe(self, now_s: float) -> Snapshot:
        self._call("observe")
        if self.gate:
            await self.gate.wait()
        return Snapshot(taken_at=now_s)

    def decide(self, snapshot: Snapshot, memory: Memory, now_s: float) -> tuple[Plan, Memory]:
        self._call("plan")
        self.planned_from.append(memory)
        return self.plan, AFTER

    def record(self, snapshot: Snapshot, memory: Memory, now_s: float, plan: Plan) -> str:
        self._call("record")
        return "d-1"

    def remember(self, memory: Memory) -> None:
        self._call("remember")
        self.remembered.append(memory)

    async def reconcile_workloads(self, snapshot: Snapshot, plan: Plan) -> list[Result]:
        self._call("workloads")
        return []

    async def apply(self, plan: Plan, snapshot: Snapshot) -> list[Result]:
        self._call("scale")
        return self.results

    async def report(self, finished: Finished) -> None:
        self._call("report")
        self.finished.append(finished)

    @property
    def parts(self) -> Parts:
        return Parts(
            observe=self.observe,
            plan=self.decide,
            record=self.record,
            remember=self.remember,
            actuator=self,
            report=self.report,
            leadership=self,
            meters=Meters(self.metrics),
        )


ALL = ["observe", "plan", "record", "remember", "workloads", "scale", "report"]


async def test_the_memory_is_durable_before_anything_is_written():
    outside = Outside()
    cycle = await run_cycle(outside.parts, BEFORE, 10.0)
    assert outside.calls == ALL
    assert outside.planned_from == [BEFORE]
    assert outside.remembered == [AFTER]
    assert cycle == Cycle(AFTER)


async def test_what_is_reported_belongs_to_this_cycle():
    outside = Outside(results=[Result("a/b", "v", "done", "a/b: 1 -> 2")])
    await run_cycle(outside.parts, BEFORE, 10.0)
    (finished,) = outside.finished
    assert (finished.now_s, finished.decision_id, finished.plan) == (10.0, "d-1", outside.plan)
    assert list(finished.results) == outside.results
    assert finished.snapshot.taken_at == 10.0


@pytest.mark.parametrize(
    ("failing", "calls", "memory"),
    [
        ("observe", ALL[:1], BEFORE),
        ("plan", ALL[:2], BEFORE),
        ("record", ALL, AFTER),
        ("remember", ALL[:4], BEFORE),
        ("workloads", [*ALL[:5], "report"], AFTER),
        ("scale", ALL, AFTER),
        ("report", ALL, AFTER),
    ],
)
@pytest.mark.parametrize("error", [RetryableError("no answer"), KeyError("bug")], ids=["expected", "unforeseen"])
async def test_a_failed_step_leaves_the_cycle_safe(failing, calls, memory, error, caplog):
    outside = Outside(fails={failing: error})
    cycle = await run_cycle(outside.parts, BEFORE, 10.0)
    step = "act" if failing in ("workloads", "scale") else failing
    assert outside.calls == calls
    assert cycle.failed == (step,)
    assert cycle.memory is memory
    line = next(line for line in caplog.records if line.levelno == logging.ERROR)
    assert f"step {step} failed" in line.getMessage()
    # a fault of ours comes with its traceback, what was raised on purpose without
    assert bool(line.exc_info) is not isinstance(error, EbbtideError)
    text = outside.metrics.exposition().decode()
    assert f'ebbtide_cycle_step_failures_total{{step="{step}"}} 1.0' in text
    assert "ebbtide_cycle_last_success_timestamp_seconds 0.0" in text
    assert 'ebbtide_cycles_total{result="failed"} 1.0' in text


async def test_each_step_is_timed_and_success_is_stamped():
    outside = Outside()
    await run_cycle(outside.parts, BEFORE, 1234.0)
    text = outside.metrics.exposition().decode()
    for step in ("observe", "plan", "record", "remember", "act", "report"):
        assert f'ebbtide_cycle_duration_seconds_count{{step="{step}"}} 1.0' in text
    assert "ebbtide_cycle_last_success_timestamp_seconds 1234.0" in text


async def test_a_lease_lost_while_planning_stops_before_the_first_write():
    outside = Outside()

    def slow_plan(snapshot: Snapshot, memory: Memory, now_s: float) -> tuple[Plan, Memory]:
        outside.leading = False
        return outside.plan, AFTER

    outside.decide = slow_plan
    cycle = await run_cycle(outside.parts, BEFORE, 10.0)
    assert "workloads" not in outside.calls
    assert "scale" not in outside.calls
    assert cycle.failed == ("act",)


# ---- when cycles run


def service_plan(key: str, code: Code, allowed: int) -> ServicePlan:
    variant = VariantPlan(name="h100", observed=1, ready=1, starting=0, wanted=allowed, allowed=allowed)
    reason = Reason(code=code, text=f"{allowed} replicas carry 9/s")
    return ServicePlan(
        key=key,
        variants=(variant,),
        demand=None,
        forecast=None,
        waterfall=(),
        reason=reason,
        conditions=(),
        spend_per_hour=None,
    )


async def test_one_line_for_each_decision_that_changed_and_none_otherwise(caplog):
    outside = Outside(plan=Plan(at=1.0, services=(service_plan("a/chat", Code.DEMAND_ROSE, 2),)))
    parts = outside.parts
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            await run_cycle(parts, BEFORE, 1.0)
        outside.plan = Plan(at=2.0, services=(service_plan("a/chat", Code.DEMAND_ROSE, 3),))
        await run_cycle(parts, BEFORE, 2.0)
    said = [line.fields for line in caplog.records]
    assert [(line["service"], line["reason"], line["replicas"], line["text"]) for line in said] == [
        ("a/chat", "DemandRose", "h100:1->2", "2 replicas carry 9/s"),
        ("a/chat", "DemandRose", "h100:1->3", "3 replicas carry 9/s"),
    ]


async def test_a_failing_write_is_said_once_until_it_changes(caplog):
    outside = Outside(results=[Result("a/chat", "h100", "forbidden", "no rights")])
    parts = outside.parts
    for _ in range(3):
        await run_cycle(parts, BEFORE, 1.0)
    outside.results = []
    await run_cycle(parts, BEFORE, 1.0)
    outside.results = [Result("a/chat", "h100", "forbidden", "no rights")]
    await run_cycle(parts, BEFORE, 1.0)
    assert [line.fields["text"] for line in caplog.records] == ["forbidden: no rights"] * 2


def reachable(status: ConditionStatus) -> Condition:
    reason = Code.RESOLVED if status is ConditionStatus.TRUE else Code.PROMETHEUS_UNREACHABLE
    return Condition("PrometheusReachable", status, reason, "no answer for 12 s")


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        (["True", "True"], []),
        (["False", "False"], ["WARNING False"]),
        (["True", "False", "True"], ["WARNING False", "INFO True"]),
        (["False", None, "False"], ["WARNING False", "INFO gone", "WARNING False"]),
        (["True", None], []),
    ],
    ids=["well all the time", "said once", "comes and goes", "goes and comes", "never was"],
)
async def test_a_cluster_wide_trouble_is_said_when_it_comes_and_when_it_goes(conditions, said, caplog):
    outside = Outside()
    parts = outside.parts
    with caplog.at_level(logging.INFO):
        for status in conditions:
            found = (reachable(ConditionStatus(status)),) if status else ()
            outside.plan = Plan(at=1.0, cluster_conditions=found)
            await run_cycle(parts, BEFORE, 1.0)
    assert [f"{line.levelname} {line.fields['status']}" for line in caplog.records] == said


@dataclass
class Running:
    loop: Loop
    wake: asyncio.Event
    health: Health
    task: asyncio.Task[None]


async def start(outside: Outside, interval_s: float, gap_s: float, load: Any = lambda: BEFORE) -> Running:
    wake = asyncio.Event()
    health = Health(interval_s, lambda: outside.holder)
    health.synced = True
    loop = Loop(outside.parts, load, wake, health, interval_s=interval_s, gap_s=gap_s)
    return Running(loop, wake, health, asyncio.create_task(loop.run()))


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the condition is anything
            await asyncio.sleep(0.005)


async def end(running: Running) -> None:
    running.loop.stop()
    await asyncio.wait_for(running.task, 20)


async def test_a_standby_observes_nothing_plans_nothing_writes_nothing_and_takes_over_from_the_store():
    loads: list[Memory] = []

    def load() -> Memory:
        loads.append(BEFORE)
        return BEFORE

    outside = Outside(leading=False)
    running = await start(outside, interval_s=0.01, gap_s=0.0, load=load)
    await asyncio.sleep(0.1)
    assert outside.calls == []
    assert loads == []
    outside.leading = True
    await until(lambda: "report" in outside.calls)
    await end(running)
    assert outside.planned_from[0] is BEFORE
    assert len(loads) == 1


async def test_before_the_caches_are_warm_nothing_is_observed():
    outside = Outside()
    running = await start(outside, interval_s=0.01, gap_s=0.0)
    running.health.synced = False
    await asyncio.sleep(0.1)
    assert outside.calls == []
    running.health.synced = True
    await until(lambda: outside.calls)
    await end(running)


async def test_a_cycle_runs_every_interval_and_hands_its_memory_to_the_next():
    outside = Outside()
    running = await start(outside, interval_s=0.01, gap_s=0.0)
    await until(lambda: len(outside.planned_from) >= 3)
    await end(running)
    assert outside.planned_from[:3] == [BEFORE, AFTER, AFTER]


async def test_many_wakes_join_into_one_cycle():
    outside = Outside(gate=asyncio.Event())
    running = await start(outside, interval_s=3600, gap_s=0.3)
    await until(lambda: outside.calls == ["observe"])  # the first cycle starts at once, and hangs at the gate
    for _ in range(50):
        running.wake.set()
        await asyncio.sleep(0)
    outside.gate.set()
    await until(lambda: outside.calls.count("report") == 2)
    await asyncio.sleep(0.5)
    assert outside.calls.count("observe") == 2  # the one that hung, and one for all fifty
    await end(running)


async def test_a_wake_does_not_wait_for_the_interval():
    outside = Outside()
    running = await start(outside, interval_s=3600, gap_s=0.0)
    await until(lambda: outside.calls.count("report") == 1)
    running.wake.set()
    await until(lambda: outside.calls.count("report") == 2)
    await end(running)


async def test_a_store_that_cannot_be_read_means_no_cycle_and_a_failure_in_the_probe():
    faults = [RetryableError("disk"), RetryableError("disk")]

    def load() -> Memory:
        if faults:
            raise faults.pop()
        return BEFORE

    outside = Outside()
    running = await start(outside, interval_s=0.01, gap_s=0.0, load=load)
    await until(lambda: "report" in outside.calls)
    await end(running)
    assert outside.planned_from[0] is BEFORE


async def test_stop_lets_the_running_cycle_finish():
    outside = Outside(gate=asyncio.Event())
    running = await start(outside, interval_s=0.01, gap_s=0.0)
    await until(lambda: outside.calls == ["observe"])
    running.loop.stop()
    outside.gate.set()
    await asyncio.wait_for(running.task, 20)
    assert outside.calls == ALL


# ---- probes


def test_a_leader_whose_cycles_stopped_is_unhealthy_and_a_standby_is_not():
    now = [0.0]
    health = Health(10.0, lambda: "me", now=lambda: now[0])
    now[0] = 500.0
    assert health.health()[0]  # a standby runs no cycles
    health.leading = True
    assert health.health()[0]  # it has only just begun
    now[0] = 500.0 + 119.0
    assert health.health()[0]
    now[0] = 500.0 + 121.0
    healthy, report = health.health()
    assert not healthy
    assert report["last_cycle_age_seconds"] is None
    health.cycle_finished(("observe",))
    healthy, report = health.health()
    assert healthy  # a failed cycle is a finished one: a restart would not mend what failed
    assert report["last_cycle_failed_steps"] == ["observe"]


def test_a_loop_that_lags_is_unhealthy():
    health = Health(10.0, lambda: "me")
    health.lag_s = 10.5
    assert not health.health()[0]


def test_the_age_of_the_caches_is_asked_at_the_moment_of_the_probe():
    health = Health(10.0, lambda: "me")
    assert health.health()[1]["last_sync_age_seconds"] is None
    health.sync_age_s = lambda: 7.25
    assert health.health()[1]["last_sync_age_seconds"] == 7.2


@pytest.mark.parametrize(
    ("synced", "leading", "ready", "role"),
    [(False, False, False, "starting"), (True, False, True, "hot standby"), (True, True, True, "leader")],
)
def test_readiness_says_the_role(synced, leading, ready, role):
    health = Health(10.0, lambda: "other")
    health.synced, health.leading = synced, leading
    assert health.readiness() == (ready, {"synced": synced, "role": role, "lease_holder": "other", "plans": True})


@pytest.mark.parametrize("step", ["observe", "plan"])
async def test_plans_that_fail_three_times_in_a_row_are_said_until_one_is_made(step):
    outside = Outside(fails={step: ZeroDivisionError("float division by zero")})
    said: list[tuple[str, int, float]] = []

    async def stalled(text: str, cycles: int, now_s: float) -> None:
        said.append((text, cycles, now_s))
        raise RetryableError("the API server does not take the Event")

    parts = replace(outside.parts, stalled=stalled)
    counts = [(await run_cycle(parts, BEFORE, float(number))).plan_failures for number in range(4)]
    assert counts == [1, 2, 3, 4]
    assert [(cycles, now_s) for _, cycles, now_s in said] == [(3, 2.0), (4, 3.0)]
    assert f"in 3 cycles in a row, because the step {step} failed" in said[0][0]
    assert "float division by zero" in said[0][0]
    outside.fails.clear()
    assert (await run_cycle(parts, BEFORE, 5.0)).plan_failures == 0
    assert len(said) == 2


def test_a_leader_without_plans_is_not_ready_but_healthy_and_a_standby_is_ready():
    health = Health(10.0, lambda: "me")
    health.synced = health.leading = True
    health.cycle_finished(("plan",), 2)
    assert health.readiness()[0], "one or two may be a hiccup"
    health.cycle_finished(("plan",), 3)
    ready, report = health.readiness()
    assert (ready, report["plans"]) == (False, False)
    healthy, report = health.health()
    assert healthy, "a restart would meet the same objects"
    assert report["plan_failures_in_a_row"] == 3
    health.leading = False
    assert health.readiness()[0]
    health.leading = True
    health.cycle_finished(())
    assert health.readiness()[0]


def test_a_stall_is_a_cluster_condition_of_the_metrics_until_the_next_plan():
    metrics = Metrics()
    metrics.observe_stall("no plan could be made in 3 cycles", 3)
    text = metrics.exposition().decode()
    assert 'ebbtide_cluster_condition{type="Planned",reason="PlanFailed"} 0.0' in text
    assert "ebbtide_plan_failures_in_a_row 3.0" in text
    metrics.observe_plan(Plan(at=1.0), Snapshot(taken_at=1.0))
    text = metrics.exposition().decode()
    assert "PlanFailed" not in text
    assert "ebbtide_plan_failures_in_a_row 0.0" in text


async def test_what_cannot_be_planned_or_read_is_logged_once_until_it_changes(caplog):
    outside = Outside()
    parts = outside.parts
    failure = Failure("a/b", "capacity", "ZeroDivisionError: float division by zero", "capacity.py:76 in _limit")
    refused = UnreadablePlan("GPUPool", "p", Reason(Code.INVALID_SPEC, "spec.x: 1 is not allowed"), ())
    other = UnreadablePlan("InferenceService", "a/c", Reason(Code.INVALID_SPEC, "spec.y: 2 is not allowed"), ())
    for failures, unreadable in [((), ()), ((failure,), (refused,)), ((failure,), (refused, other)), ((), ())]:
        outside.plan = Plan(at=1.0, failures=failures, unreadable=unreadable)
        await run_cycle(parts, BEFORE, 1.0)
    lines = [(line.levelname, line.fields) for line in caplog.records]
    assert [level for level, _ in lines] == ["ERROR", "WARNING", "WARNING"]
    assert lines[0][1]["trace"] == "capacity.py:76 in _limit"
    assert [line["object"] for _, line in lines[1:]] == ["GPUPool p", "InferenceService a/c"]
