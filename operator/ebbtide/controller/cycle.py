"""One cycle, as a list of named, timed steps; what each step does is another layer's.

observe   one immutable snapshot of everything; a partial one is never acted on
plan      pure; in a thread, so that probes and watches go on
record    the flight recorder keeps what the plan was made from, under the decision's id
remember  the new memory is durable before anything is written: a crash later on forgets nothing
act       writes to targets, only while the Lease is ours
report    status, Events, metrics

If observe, plan or remember fails, nothing is written and the memory stays as it was: the next cycle starts from the
same point. If act fails in part, its results say so, and status shows them.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ebbtide.controller.decisions import DecisionLog
from ebbtide.controller.leadership import Leadership, NotLeadingError
from ebbtide.controller.meters import WHOLE_CYCLE, Meters
from ebbtide.controller.stall import Stall
from ebbtide.errors import EbbtideError
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Plan
from ebbtide.model.snapshot import Snapshot
from ebbtide.record.refusals import Written

log = logging.getLogger(__name__)

T = TypeVar("T")


class Acting(Protocol):
    """The only way to targets."""

    async def reconcile_workloads(self, snapshot: Snapshot, plan: Plan) -> Sequence[Written]:
        """Create and update what engine blocks declare, as far as the plan says that it is payable."""

    async def apply(self, plan: Plan, snapshot: Snapshot) -> Sequence[Written]:
        """Carry out the plan's scale actions."""


@dataclass(frozen=True)
class Finished:
    """What one cycle hands to `report`."""

    now_s: float
    snapshot: Snapshot
    plan: Plan
    decision_id: str  # empty: the flight recorder failed
    results: Sequence[Written]


async def _nobody(said: str, cycles: int, now_s: float) -> None:
    """Tells nobody that plans fail."""


@dataclass(frozen=True)
class Parts:
    """The other layers, as the cycle needs them. Times are unix seconds.

    `stalled` tells people that plan after plan fails: the words, in how many cycles in a row, and when.
    """

    observe: Callable[[float], Awaitable[Snapshot]]
    plan: Callable[[Snapshot, Memory, float], tuple[Plan, Memory]]
    record: Callable[[Snapshot, Memory, float, Plan], str]
    remember: Callable[[Memory], None]
    actuator: Acting
    report: Callable[[Finished], Awaitable[None]]
    leadership: Leadership
    meters: Meters
    decisions: DecisionLog = field(default_factory=DecisionLog)
    stall: Stall = field(default_factory=Stall)
    stalled: Callable[[str, int, float], Awaitable[None]] = _nobody


@dataclass(frozen=True)
class Cycle:
    """How a cycle went: the memory for the next one, the names of the steps that failed, and for how many cycles in a
    row no plan could be made.
    """

    memory: Memory
    failed: tuple[str, ...] = ()
    plan_failures: int = 0


class _StepFailedError(Exception):
    """A step that the following ones need; it is logged and counted already."""


async def run_cycle(parts: Parts, memory: Memory, now_s: float) -> Cycle:
    """Observe, decide, act, tell. Raises nothing but cancellation."""
    steps = _Steps(parts.meters)
    with parts.meters.step(WHOLE_CYCLE), contextlib.suppress(_StepFailedError):
        memory = await _run(parts, steps, memory, now_s)
    parts.meters.cycle_ended(now_s, failed=bool(steps.failed))
    return Cycle(memory, tuple(steps.failed), parts.stall.cycles)


async def _run(parts: Parts, steps: "_Steps", memory: Memory, now_s: float) -> Memory:
    try:
        snapshot = await steps.need("observe", parts.observe(now_s))
        plan, after = await steps.need("plan", asyncio.to_thread(parts.plan, snapshot, memory, now_s))
    except _StepFailedError as failure:
        said = parts.stall.failed(str(failure), failure.__cause__)
        if said:
            await steps.want("report", parts.stalled(said, parts.stall.cycles, now_s), None)
        raise
    parts.stall.plan_made()
    decision_id = await steps.want("record", asyncio.to_thread(parts.record, snapshot, memory, now_s, plan), "")
    await steps.need("remember", asyncio.to_thread(parts.remember, after))
    parts.decisions.note(plan, decision_id)
    results = await steps.want("act", _act(parts, plan, snapshot), [])
    parts.decisions.note_results(results)
    await steps.want("report", parts.report(Finished(now_s, snapshot, plan, decision_id, results)), None)
    return after


async def _act(parts: Parts, plan: Plan, snapshot: Snapshot) -> list[Written]:
    if not parts.leadership.may_write():
        raise NotLeadingError("the lease went while planning: nothing was written")
    built = await parts.actuator.reconcile_workloads(snapshot, plan)
    return [*built, *await parts.actuator.apply(plan, snapshot)]


class _Steps:
    """Runs steps one after another, times each, and remembers which failed."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self.failed: list[str] = []

    async def need(self, name: str, work: Awaitable[T]) -> T:
        """A step without which the cycle ends here."""
        try:
            with self._meters.step(name):
                return await work
        except Exception as error:
            self.failed.append(name)
            # what was raised on purpose explains itself; anything else is a fault of ours and needs its traceback
            expected = isinstance(error, EbbtideError)
            log.error("step %s failed: %s", name, error if expected else repr(error), exc_info=not expected)
            raise _StepFailedError(name) from error

    async def want(self, name: str, work: Awaitable[T], otherwise: T) -> T:
        """A step whose failure leaves the rest useful."""
        try:
            return await self.need(name, work)
        except _StepFailedError:
            return otherwise
