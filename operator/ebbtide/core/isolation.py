"""One service's failure stays its own: the others are planned as if nothing had happened.

A step that raises is a fault of Ebbtide's. It becomes data, for status, log and metric; the service keeps its replicas
and is left out of every later step. Must never hide a failure: whatever is caught here is part of the plan.
"""

from collections.abc import Callable, Iterator

from ebbtide.core.work import Cycle, Draft
from ebbtide.model.plan import Failure
from ebbtide.model.reasons import Code

_SHOWN_ERROR = 300
_SHOWN_FRAMES = 6


def each(cycle: Cycle, step: str, work: Callable[[Draft, Cycle], None]) -> None:
    """Do `work` for every service that has not failed yet."""
    for draft in sound(cycle):
        attempt(draft, cycle, step, work)


def sound(cycle: Cycle) -> Iterator[Draft]:
    """Services that no step has failed on."""
    return (draft for draft in cycle.drafts if draft.failure is None)


def attempt(draft: Draft, cycle: Cycle, step: str, work: Callable[[Draft, Cycle], None]) -> None:
    """Do `work` for one service; if it raises, set the service aside."""
    try:
        work(draft, cycle)
    except Exception as error:
        set_aside(draft, failure_of(draft.state.spec.key, step, error))


def set_aside(draft: Draft, failure: Failure) -> None:
    """What is declared stays, and nothing is written."""
    draft.failure = failure
    draft.no_write = (Code.PLAN_FAILED, describe(failure))
    for variant in draft.variants:
        variant.wanted = variant.placed = variant.count = variant.observed


def describe(failure: Failure) -> str:
    """`step capacity failed with ZeroDivisionError: ...; replicas hold; please report this`."""
    return (
        f"an error of Ebbtide's own: step {failure.step} failed with {failure.error}; replicas hold; please report "
        "this with the operator's log"
    )


def failure_of(service: str, step: str, error: Exception) -> Failure:
    """The error as plain text, without anything that differs between two runs of the same plan."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} in {code.co_name}")
        trace = trace.tb_next
    words = f"{type(error).__name__}: {error}"[:_SHOWN_ERROR]
    return Failure(service, step, words, " < ".join(reversed(frames[-_SHOWN_FRAMES:])))
