"""What became of one write: the word the cycle counts, logs and shows. Never an exception.

The classes answer one question each: may the next cycle simply try again (CONFLICT, RETRY), must a person act
(FORBIDDEN, INVALID, FOREIGN), or was the write refused by Ebbtide itself (REFUSED)?
"""

from dataclasses import dataclass
from enum import StrEnum

from ebbtide.errors import ConflictError, EbbtideError, NotFoundError, RetryableError
from ebbtide.kube.client import ForbiddenError, InvalidError
from ebbtide.model.plan import ScaleAction


class Outcome(StrEnum):
    """A closed list: metrics carry it as a label."""

    DONE = "done"  # written
    UNCHANGED = "unchanged"  # nothing had to be written
    CONFLICT = "conflict"  # somebody wrote first: observe and plan again
    REFUSED = "refused"  # Ebbtide's own last check: not Auto, another target, a rival
    FORBIDDEN = "forbidden"  # RBAC or admission said no
    INVALID = "invalid"  # the API server refused the object itself
    NOT_FOUND = "not_found"  # the target or its scale subresource is gone
    FOREIGN = "foreign"  # the object, or a field of it, belongs to somebody else; never forced
    RETRY = "retry"  # no answer or "later": it may have been written; tried again next cycle
    FAILED = "failed"  # a fault in Ebbtide or on its disk; the text says which


@dataclass(frozen=True, slots=True)
class ActResult:
    """One write's outcome: of a "scale", "deployment", "service", "finalizer" or "job". `message` is for people."""

    what: str
    service: str  # namespace/name; of a "job" its own
    variant: str
    outcome: Outcome
    message: str
    action: ScaleAction | None = None  # for "scale": what was asked

    @property
    def wrote(self) -> bool:
        """True when the API server has confirmed a change."""
        return self.outcome is Outcome.DONE


_BY_CLASS: tuple[tuple[type[EbbtideError], Outcome], ...] = (
    (ConflictError, Outcome.CONFLICT),
    (NotFoundError, Outcome.NOT_FOUND),
    (ForbiddenError, Outcome.FORBIDDEN),
    (InvalidError, Outcome.INVALID),
    (RetryableError, Outcome.RETRY),
)


def classify(error: Exception) -> Outcome:
    """The outcome that an exception stands for; anything unforeseen is FAILED, so that it is seen."""
    return next((outcome for kind, outcome in _BY_CLASS if isinstance(error, kind)), Outcome.FAILED)
