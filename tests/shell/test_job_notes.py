"""Whatever is started, stopped, resized and forgotten: a Job's note says to the second for how long it ran."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.act import job_patches
from ebbtide.clock import rfc3339
from ebbtide.model.batch import Asked, Intent, JobState
from ebbtide.model.plan import JobPlan, Outcome
from ebbtide.model.reasons import Code, Reason
from ebbtide.observe.jobs import JobReader, Jobs, JobView
from ebbtide.observe.projections import Job, Pod
from ebbtide.observe.slim import Slim
from tests.shell.jobs_api import JobsApi
from tests.shell.test_observe_jobs import NODES, POOLS, Places, pod, policy

POLICY = policy()
WIDTH = 4


@dataclass
class Shop:
    """One elastic Job on an API server, its controller, its pods and an operator that may be a new one at any time."""

    minor: int
    api: JobsApi = field(default_factory=JobsApi)
    reader: JobReader = field(default_factory=lambda: JobReader(lambda _notes, _at: Asked(restartable=True)))
    ready_s: float | None = None  # when the first pod of the present run was
    ran_s: float = 0.0

    def __post_init__(self) -> None:
        spec: dict[str, Any] = {"parallelism": WIDTH, "completions": WIDTH, "completionMode": "Indexed"}
        self.api.submit("eval", annotations={"ebbtide.dev/min-parallelism": "1"}, **spec)
        self.api.control()
        self._write(job_patches.hold(self.seen(), POLICY.uid, self.api.time_s))

    @property
    def runs(self) -> bool:
        return not self.api.jobs["eval"]["spec"]["suspend"]

    def _read(self, *ended: tuple[Job, float]) -> Jobs:
        item = self._decoded()
        pods = tuple(self._pod(n) for n in range(self.api.jobs["eval"]["spec"]["parallelism"])) if self.runs else ()
        jobs = {} if ended else {item.metadata.key: item}
        view = JobView({POLICY.key: POLICY}, jobs, ended, minor=self.minor, certain=True)
        return self.reader.read(view, pods, POOLS, Places(POOLS, NODES))

    def _decoded(self) -> Job:
        return Slim().job(msgspec.convert(msgspec.json.decode(msgspec.json.encode(self.api.jobs["eval"])), Job))

    def _pod(self, number: int) -> Pod:
        is_ready = self.ready_s is not None and self.ready_s <= self.api.time_s
        condition = {"type": "Ready", "status": str(is_ready), "lastTransitionTime": rfc3339(self.ready_s or 0.0)}
        return pod(f"eval-{number}-x", self.api.jobs["eval"]["metadata"]["uid"], conditions=[condition])

    def seen(self) -> JobState:
        (state,) = self._read().states
        return state

    def _write(self, body: dict[str, Any]) -> None:
        self.api.patch("eval", msgspec.json.decode(msgspec.json.encode(body)))

    def start(self, lag_s: float, startup_s: float) -> None:
        """The Job controller acts after `lag_s`, and its pods are ready `startup_s` after that."""
        if self.runs:
            return
        state, selector = self.seen(), (("pool", "h100"),)
        planned = JobPlan(
            state.key,
            state.uid,
            POLICY.key,
            Outcome.STARTS,
            Reason(Code.JOB_STARTS, ""),
            pool="h100",
            node_selector=selector,
            parallelism=state.parallelism,
        )
        self._write(job_patches.start(state, planned, POLICY.uid, self.api.time_s))
        self.api.time_s += lag_s
        self.api.control()
        self.ready_s = self.api.time_s + startup_s

    def stop(self) -> None:
        if not self.runs:
            return
        self.ran_s += self._runs_s()
        self._write(job_patches.stop(self.seen(), POLICY.uid, self.api.time_s))
        self.ready_s = None
        self.api.time_s += 30.0
        self.api.control()

    def resize(self, size: int) -> None:
        state = self.seen()
        if self.runs and size != state.parallelism:
            self._write(job_patches.resize(state, size, POLICY.uid))

    def _runs_s(self) -> float:
        """Of the present run, since its first pod was ready."""
        return 0.0 if self.ready_s is None else max(0.0, self.api.time_s - self.ready_s)

    def check(self) -> None:
        state = self.seen()
        assert state.intent in (Intent.HELD, Intent.RUNS, Intent.STOPPED)
        assert state.ran_s == pytest.approx(self.ran_s, abs=1e-3), "of the runs before"
        if self.runs:
            now_s = job_patches.ran_now_s(state, self.api.time_s)
            assert now_s == pytest.approx(self._runs_s(), abs=1e-3), "of this run"


DO = st.one_of(
    st.tuples(st.just("start"), st.integers(0, 30), st.integers(0, 600)),
    st.tuples(st.just("stop")),
    st.tuples(st.just("resize"), st.integers(1, WIDTH)),
    st.tuples(st.just("passes"), st.integers(1, 20_000)),
    st.tuples(st.just("operator restarts")),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(DO, min_size=1, max_size=14), st.sampled_from([33, 36]), st.integers(0, 5_000))
def test_the_note_has_all_that_a_job_ran(steps, minor, last_s):
    shop = Shop(minor)
    for name, *more in steps:
        if name == "start":
            shop.start(*map(float, more))
        elif name == "stop":
            shop.stop()
        elif name == "resize":
            shop.resize(*more)
        elif name == "passes":
            shop.api.time_s += more[0]
        else:
            shop.reader = JobReader(lambda _notes, _at: Asked(restartable=True))
        shop.check()
    shop.start(0.0, 0.0)
    shop.api.time_s += 1 + last_s
    ends_s = shop.api.time_s
    total_s = shop.ran_s + ends_s - max(shop.ready_s or 0.0, 0.0)
    starting_s = max(0.0, (shop.ready_s or 0.0) - (shop.seen().started_at or 0.0))
    (found,) = shop._read((_ended(shop, ends_s), ends_s)).finished
    assert found.succeeded
    assert found.ran_s == pytest.approx(total_s + starting_s, abs=1e-3), "its last run with its start"


def _ended(shop: Shop, at_s: float) -> Job:
    done = {"type": "Complete", "status": "True", "lastTransitionTime": rfc3339(at_s)}
    shop.api.status("eval", conditions=[done], completionTime=rfc3339(at_s))
    return shop._decoded()
