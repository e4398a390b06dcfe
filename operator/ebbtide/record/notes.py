"""What an Event says, and of which object; see `events`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Subject:
    """The object an Event is about. `namespace` is '' for a cluster-scoped one."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Note:
    """One thing to say. Notes with the same subject, reason and `topic` are said once in 15 minutes.

    One that is `patient` is said when little else waits to be, and once an hour, which is how long Events are kept.
    """

    subject: Subject
    type: str  # Normal or Warning
    reason: str
    action: str
    text: str
    topic: str = ""
    patient: bool = False
