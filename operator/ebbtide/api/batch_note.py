"""The annotation `ebbtide.dev/batch-state`: what Ebbtide made of a Job, written in the same patch that made it.

It names the Job by uid, so that a copy on another Job (a template taken from a live object) says nothing there.
Where it and `spec.suspend` disagree, a user was there: see `intent_of`.
"""

from typing import Any

import msgspec

from ebbtide.model.batch import Intent

ANNOTATION = "ebbtide.dev/batch-state"

_STATES = frozenset({Intent.HELD, Intent.RUNS, Intent.STOPPED})
_LONGEST = 8192  # characters; what Ebbtide writes has a few hundred
_MOST = 1e11  # seconds or pods: what is more was not written by Ebbtide


class BatchNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """`since`: unix seconds at which `state` began; `ran`: seconds in the runs before it.

    `gen`: the Job's metadata.generation as this very patch left it; 0: not known.
    """

    state: str
    job: str  # uid
    policy: str = ""  # uid
    pool: str = ""  # that it was last started on
    ran: float = 0.0
    since: float = 0.0
    gen: int = 0
    size: int = 0  # parallelism as its user declared it, while it is smaller; 0: it is not
    selector: dict[str, str] = {}  # what Ebbtide added to the node selector of its template
    tolerations: tuple[dict[str, Any], ...] = ()  # and to its tolerations

    @property
    def intent(self) -> Intent:
        """HELD, RUNS or STOPPED."""
        return Intent(self.state)

    def text(self) -> str:
        """As it stands in the annotation."""
        return msgspec.json.encode(self).decode()


def read_note(text: str | None, uid: str) -> BatchNote | None:
    """The note on the Job `uid`; None where there is none, it was copied from another Job, or it cannot be read."""
    if text is None or len(text) > _LONGEST:
        return None
    try:
        note = msgspec.json.decode(text, type=BatchNote)
    except (msgspec.MsgspecError, RecursionError):
        return None
    numbers = all(0 <= number < _MOST for number in (note.ran, note.since, note.size, note.gen))
    return note if note.state in _STATES and note.job == uid and numbers else None


def intent_of(note: BatchNote | None, suspended: bool) -> Intent:
    """Whose will `spec.suspend` is."""
    if note is None:
        return Intent.HELD if suspended else Intent.STARTED_ANYWAY
    if note.intent is Intent.RUNS:
        return Intent.SUSPENDED_BY_USER if suspended else Intent.RUNS
    return note.intent if suspended else Intent.RESUMED_BY_USER
