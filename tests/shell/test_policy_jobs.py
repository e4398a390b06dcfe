"""Jobs are started with money that was reserved: where a policy's status cannot be written, those it pays for wait."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from ebbtide.act.result import ActResult, Outcome
from ebbtide.controller.policies import Policies
from ebbtide.controller.wiring import _Actuators
from ebbtide.errors import ConflictError, EbbtideError, RetryableError
from ebbtide.model.plan import JobPlan, Plan
from ebbtide.model.plan import Outcome as Does
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.snapshot import Snapshot
from tests.builders import pool, snapshot
from tests.shell.test_policies import Api
from tests.shell.world import policy_plan


def job_plan(key: str, does: Does) -> JobPlan:
    return JobPlan(key, f"uid-{key}", "ml/night", does, Reason(Code.JOB_STARTS, "starts"))


class Jobs:
    """Takes the place of what writes to Jobs, and says what it was asked for, beside what the API server was."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    async def give_back(self, plan: Plan, state: Snapshot) -> list[ActResult]:
        self.said += [f"stop {job.key}" for job in plan.jobs if job.outcome is Does.STOPS]
        return []

    async def take(self, plan: Plan, state: Snapshot) -> list[ActResult]:
        self.said += [f"start {job.key}" for job in plan.jobs if job.outcome in (Does.STARTS, Does.GROWS)]
        return []


class Scales:
    async def apply(self, plan: Plan, state: Snapshot) -> list[ActResult]:
        return []


class Said(Api):
    """Notes that a status was asked for, and what was committed in it."""

    def __init__(self, fails: EbbtideError | None) -> None:
        super().__init__(fails)
        self.said: list[str] = []

    async def apply(self, path: str, body: Mapping[str, Any], **how: Any) -> Mapping[str, Any]:
        self.said.append(f"reserve {body['status']['periods'][0]['committed']}")
        return await super().apply(path, body, **how)


JOBS = (
    job_plan("ml/eval", Does.STARTS), job_plan("ml/wide", Does.GROWS),
    job_plan("dev/free", Does.STARTS), job_plan("ml/old", Does.STOPS),
)  # fmt: skip


@pytest.mark.parametrize(
    ("fails", "outcome", "done"),
    [
        (None, None, ["stop ml/old", "reserve 5.00", "start ml/eval", "start ml/wide", "start dev/free"]),
        (ConflictError("another leads"), Outcome.CONFLICT, ["stop ml/old", "reserve 5.00", "start dev/free"]),
        (RetryableError("no answer"), Outcome.RETRY, ["stop ml/old", "reserve 5.00", "start dev/free"]),
    ],
)
async def test_a_job_is_started_once_its_policys_status_says_what_it_takes(
    fails: EbbtideError | None, outcome: Outcome | None, done: list[str]
) -> None:
    """Stops need no money, and what no policy pays for no reservation."""
    api = Said(fails)
    pays = msgspec.structs.replace(policy_plan(raised=False), starts=("ml/eval", "ml/wide"))
    decided = Plan(at=1000.0, policies=(pays,), jobs=JOBS)

    async def nothing(*_: object) -> Any:
        return []

    parts: tuple[Any, ...] = (Scales(), Jobs(api.said), nothing, Policies(api, api.raw), nothing)  # type: ignore[arg-type]
    results = await _Actuators(*parts).apply(decided, snapshot([], [pool("h100")]))
    assert api.said == done
    refused = [] if outcome is None else [("ml/eval", outcome), ("ml/wide", outcome)]
    assert [(item.service, item.outcome) for item in results] == refused
    assert all("money could not be reserved in CostPolicy cap" in item.message for item in results)
