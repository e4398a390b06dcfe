"""However an operator dies between its writes, and whatever users do meanwhile, every Job is somebody's.

The operator is the real reader and writer over an API server in memory; what it looks at may be old, it dies before or
after any of its writes, and the next one knows nothing but what Jobs say of themselves.
"""

import asyncio
import contextlib

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ebbtide.act.jobs import JobWriter
from ebbtide.api.batch_note import ANNOTATION, intent_of, read_note
from ebbtide.model.batch import Intent, JobState
from ebbtide.model.plan import Outcome, Plan
from ebbtide.model.snapshot import Snapshot
from tests.shell import world
from tests.shell.jobs_api import JobsApi, Raw, job_plan, policy, seen

ON = {"h100": (("pool", "h100"),), "l4": (("pool", "l4"),)}
NATURAL, CONTRARY, NOTHING = "natural", "contrary", "nothing"
DEEDS = (NATURAL, NATURAL, NATURAL, NOTHING, CONTRARY)
NAMES = ("a", "b", "c")


class Killed(BaseException):
    """SIGKILL: no `except Exception` sees it."""


class Fate:
    """Dies at write number `at`, before it is done or after; and from then on does nothing more."""

    def __init__(self, at: int, after: bool) -> None:
        self.at, self.after = at, after
        self.begun = self.done = 0

    def before(self, _name: str) -> None:
        self.begun += 1
        if self.begun > self.at:
            raise Killed

    def finished(self, _name: str) -> None:
        self.done += 1
        if self.after and self.done >= self.at:
            raise Killed


class Lives(RuleBasedStateMachine):
    """Three Jobs, one policy that comes and goes, users, and operators that die."""

    def __init__(self) -> None:
        super().__init__()
        self.api = JobsApi()
        self.policies = (policy(),)
        self.old: Snapshot | None = None
        self.stopped_by_user: set[str] = set()  # while Ebbtide had them run: uids
        self.run_by_user: set[str] = set()  # against the plan, or from their creation
        self.foreign: dict[str, Raw] = {}
        for name in NAMES:
            self.api.submit(name)

    # --- users ---------------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), suspend=st.booleans(), kueue=st.sampled_from((False, False, False, True)))
    def submits(self, name: str, suspend: bool, kueue: bool) -> None:
        if name in self.api.jobs and not self.api.jobs[name]["status"].get("completionTime"):
            return
        raw = self.api.submit(name, suspend, labels={"kueue.x-k8s.io/queue-name": "q"} if kueue else {})
        if kueue:
            self.foreign[raw["metadata"]["uid"]] = raw["spec"]
        elif not suspend:
            self.run_by_user.add(raw["metadata"]["uid"])

    @rule(name=st.sampled_from(NAMES))
    def changes_suspend(self, name: str) -> None:
        raw = self.api.jobs.get(name)
        if raw is None or raw["metadata"]["uid"] in self.foreign:
            return
        uid, ours = raw["metadata"]["uid"], intent(raw)
        if raw["spec"]["suspend"]:
            self.stopped_by_user.discard(uid)
            if ours is not Intent.SUSPENDED_BY_USER:
                self.run_by_user.add(uid)
        else:
            self.run_by_user.discard(uid)
            if ours is Intent.RUNS:
                self.stopped_by_user.add(uid)
        self.api.set_suspend(name, not raw["spec"]["suspend"])

    @rule(name=st.sampled_from(NAMES), suspend=st.booleans())
    def deletes_and_submits(self, name: str, suspend: bool) -> None:
        self.api.jobs.pop(name, None)
        self.submits(name, suspend, kueue=False)

    @rule()
    def deletes_the_policy_or_makes_one(self) -> None:
        self.policies = () if self.policies else (policy(uid=f"uid-{self.api.time_s}"),)

    # --- the cluster ---------------------------------------------------------------------------------------------

    @rule(passed_s=st.sampled_from((1.0, 100.0)))
    def time_goes_on(self, passed_s: float) -> None:
        self.api.time_s += passed_s
        self.api.control()

    @rule(name=st.sampled_from(NAMES))
    def ends(self, name: str) -> None:
        raw = self.api.jobs.get(name)
        if raw is not None and raw["status"].get("active") and not raw["spec"]["suspend"]:
            self.api.status(name, active=0, completionTime="x", conditions=[{"type": "Complete", "status": "True"}])

    # --- operators -----------------------------------------------------------------------------------------------

    @rule()
    def looks(self) -> None:
        """And then hangs: what it does later is from this view."""
        self.old = seen(self.api, *self.policies)

    @rule(
        deeds=st.lists(st.sampled_from(DEEDS), min_size=3, max_size=3),
        pool=st.sampled_from(sorted(ON)),
        dies_at=st.sampled_from((0, 1, 1, 2, 2, 3, 9)),
        after=st.booleans(),
        late=st.sampled_from((False, False, True)),
    )
    def lives(self, deeds: list[str], pool: str, dies_at: int, after: bool, late: bool) -> None:
        snapshot = self.old if late and self.old is not None else seen(self.api, *self.policies)
        jobs = tuple(
            job_plan(job, _outcome(job, deed), pool=pool, node_selector=ON[pool])
            for job, deed in zip(snapshot.jobs, deeds, strict=False)
        )
        self.operate(world.plan(jobs=jobs), snapshot, Fate(dies_at, after))

    def operate(self, plan: Plan, snapshot: Snapshot, fate: Fate | None = None) -> None:
        before = {raw["metadata"]["uid"]: (raw["spec"]["suspend"], intent(raw)) for raw in self.api.jobs.values()}
        self.api.before = fate.before if fate else lambda _name: None
        self.api.after = fate.finished if fate else lambda _name: None
        writer = JobWriter(self.api, now=lambda: self.api.time_s, stray_for_s=0.0, parallel=1)
        with contextlib.suppress(Killed):
            asyncio.run(writer.apply(plan, snapshot))
        for raw in self.api.jobs.values():
            was, whose = before[raw["metadata"]["uid"]]
            if raw["spec"]["suspend"] is not was:
                allowed = (Intent.HELD, Intent.STOPPED) if was else (Intent.RUNS,)
                assert whose in allowed, f"{whose} was {'started' if was else 'stopped'}"
        # who was released runs, and is its user's
        self.run_by_user |= {
            raw["metadata"]["uid"]
            for raw in self.api.jobs.values()
            if not raw["spec"]["suspend"] and ANNOTATION not in raw["metadata"]["annotations"]
        }

    # --- what never bends ----------------------------------------------------------------------------------------

    @invariant()
    def a_suspended_job_is_ebbtides_or_its_users(self) -> None:
        for raw in self.mine():
            uid, whose = raw["metadata"]["uid"], intent(raw)
            if raw["spec"]["suspend"]:
                assert (whose is Intent.SUSPENDED_BY_USER) == (uid in self.stopped_by_user)
            else:
                assert (whose is not Intent.RUNS) == (uid in self.run_by_user)

    @invariant()
    def what_is_anothers_is_as_it_was(self) -> None:
        for raw in self.api.jobs.values():
            spec = self.foreign.get(raw["metadata"]["uid"])
            assert spec is None or (raw["spec"] == spec and ANNOTATION not in raw["metadata"]["annotations"])

    @invariant()
    def a_template_has_one_place(self) -> None:
        for raw in self.mine():
            note = read_note(raw["metadata"]["annotations"].get(ANNOTATION), raw["metadata"]["uid"])
            selector = raw["spec"]["template"]["spec"].get("nodeSelector", {})
            assert note is None or selector == note.selector

    @precondition(lambda self: self.policies)
    @rule(pool=st.sampled_from(sorted(ON)))
    def nobody_is_lost(self, pool: str) -> None:
        """An operator that lives on starts every Job that waits for it, and only those."""
        for _ in range(2):
            self.api.control()
            snapshot = seen(self.api, *self.policies)
            waiting = [job for job in snapshot.jobs if job.intent in (Intent.HELD, Intent.STOPPED)]
            jobs = tuple(job_plan(job, Outcome.STARTS, pool=pool, node_selector=ON[pool]) for job in waiting)
            self.operate(world.plan(jobs=jobs), snapshot)
        for raw in self.mine():
            assert raw["spec"]["suspend"] == (raw["metadata"]["uid"] in self.stopped_by_user)

    @precondition(lambda self: not self.policies)
    @rule()
    def nobody_is_held_by_a_policy_that_is_gone(self) -> None:
        for _ in range(2):
            self.operate(Plan(at=0.0), seen(self.api))
        for raw in self.mine():
            held = ANNOTATION in raw["metadata"]["annotations"] and intent(raw) in (Intent.HELD, Intent.STOPPED)
            assert not held

    def mine(self) -> list[Raw]:
        return [
            raw
            for raw in self.api.jobs.values()
            if raw["metadata"]["uid"] not in self.foreign and not raw["status"].get("completionTime")
        ]


def _outcome(job: JobState, deed: str) -> Outcome:
    """What a plan could say, or must not say, of a Job that is as it is."""
    if deed == NOTHING:
        return Outcome.WAITS
    return Outcome.STARTS if job.suspended == (deed == NATURAL) else Outcome.STOPS


def intent(raw: Raw) -> Intent:
    note = read_note(raw["metadata"]["annotations"].get(ANNOTATION), raw["metadata"]["uid"])
    return intent_of(note, raw["spec"]["suspend"])


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
