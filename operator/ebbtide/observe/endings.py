"""Jobs that ended lately: they may be deleted within the second in which they end (`ttlSecondsAfterFinished: 0`)."""

from ebbtide.clock import parse_rfc3339
from ebbtide.observe.projections import Job

TOLD_FOR_S = 600.0  # so long a cycle may fail, or an operator be down, before an end is missed


class Endings:
    """Jobs by uid, with when they ended (unix seconds)."""

    def __init__(self) -> None:
        self._ended: dict[str, tuple[Job, float]] = {}

    def note(self, old: Job | None, new: Job | None, now_s: float) -> None:
        """A change of a Job, or its first sight."""
        end = None if new is None else new.end
        if new is None or end is None or (old is not None and old.end is not None):
            return
        said = new.status.completion_time or end.last_transition_time
        ended_at = parse_rfc3339(said) if said else now_s
        if now_s - ended_at < TOLD_FOR_S:  # a cluster keeps thousands that ended long ago
            self._ended[new.metadata.uid] = new, ended_at

    def lately(self, now_s: float) -> tuple[tuple[Job, float], ...]:
        """In order of their ends."""
        self._ended = {uid: item for uid, item in self._ended.items() if now_s - item[1] < TOLD_FOR_S}
        return tuple(sorted(self._ended.values(), key=lambda item: (item[1], item[0].metadata.key)))
