"""Workers' lives from what Dynamo's replay records, and from its ticks where it records nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from ebbtide.bench.case import Case
from ebbtide.bench.ledger import Life


class GivenUp:
    """Workers that were given up while they started: the replay's records leave them out, its ticks do not."""

    def __init__(self) -> None:
        self.gone_ms: dict[int, float] = {}
        self._starting: set[int] = set()
        self._last_ms = 0.0

    def take(self, tick: Mapping[str, Any]) -> None:
        """Look at a tick; who is missing was given up at the tick before, when that was decided."""
        there = {*tick["starting_decode_ids"], *tick["active_decode_ids"], *tick["draining_decode_ids"]}
        self.gone_ms |= dict.fromkeys(self._starting - there, self._last_ms)
        self._starting, self._last_ms = set(tick["starting_decode_ids"]), tick["now_ms"]


def lives_of(
    operations: Sequence[Mapping[str, Any]], given_up: Mapping[int, float], case: Case, zero_s: float
) -> list[Life]:
    """Every worker's life. `given_up`: worker -> ms; Dynamo's clock begins at `zero_s` of ours."""
    lives = {i: Life(-case.startup_s[0], 0.0, None, None) for i in range(case.start_replicas)}
    for operation in operations:
        at_s = zero_s + operation["at_ms"] / 1000
        for change in operation["transitions"]:
            worker, state = change["worker_id"], change["state"]
            if worker not in lives:
                lives[worker] = Life(at_s, None, None, None)
            elif state == "active":
                lives[worker] = lives[worker]._replace(ready_s=at_s)
            elif state == "draining":
                lives[worker] = lives[worker]._replace(draining_s=at_s)
            elif state == "removed":
                lives[worker] = lives[worker]._replace(gone_s=at_s)
    for worker, gone_ms in given_up.items():
        if lives[worker].ready_s is None and lives[worker].gone_s is None:
            lives[worker] = lives[worker]._replace(gone_s=zero_s + gone_ms / 1000)
    return list(lives.values())
