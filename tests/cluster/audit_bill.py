"""GPU-seconds of pods and nodes from the API server's audit log alone; knows nothing of Ebbtide.

Whole seconds are billed, the first and the last one begun. A binding, a creation and a deletion happen within their
request, which the log brackets: mostly both ends of it are of one second, so beginnings need no slack. An end is billed
when the news of it came: watches tell what is stored, so that may be before the log has the request as answered (of 150
nodes on an idle machine 2 were, by 0.4 ms), and is at most `late_s` after.
"""

import json
import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple


class Life(NamedTuple):
    """A pod that was bound, or a node. Unix seconds; what still is has no end."""

    name: str
    uid: str  # of a pod; the log has none of nodes
    began_s: tuple[int, int]  # the first second that is billed: the earliest and the latest that it can be
    end_s: tuple[float, float] | None  # the request by which it went: when it came, and when it was answered

    def seconds(self, from_s: int, until_s: int, late_s: int) -> tuple[int, int]:
        """(the fewest, the most) that are billed of [from_s, until_s)."""
        first_s, last_s = (until_s, until_s) if self.end_s is None else map(math.ceil, self.end_s)
        least = min(until_s, first_s) - max(from_s, self.began_s[1])
        most = min(until_s, last_s + late_s) - max(from_s, self.began_s[0])
        return max(0, least), max(0, most)


def pods(log: Path, namespace: str) -> list[Life]:
    """All that were ever bound in it, in the order of their bindings."""
    bound: dict[str, tuple[str, tuple[int, int]]] = {}
    gone: dict[str, tuple[float, float]] = {}
    for event, what in _done(log, "pods"):
        if what.get("namespace") == namespace:
            if event["verb"] == "create" and what.get("subresource") == "binding":
                bound[what["name"]] = what["uid"], _within(event)
            elif event["verb"] == "delete" and not what.get("subresource"):
                gone[what["name"]] = _bracket(event)  # asked to go first, and gone by the last
    return [Life(name, uid, began_s, gone.get(name)) for name, (uid, began_s) in bound.items()]


def nodes(log: Path, names: Iterable[str]) -> list[Life]:
    """Those of these names, each made once."""
    wanted, made, gone = set(names), dict[str, tuple[int, int]](), dict[str, tuple[float, float]]()
    for event, what in _done(log, "nodes"):
        if what.get("name") in wanted and not what.get("subresource"):
            if event["verb"] == "create":
                made[what["name"]] = _within(event)
            elif event["verb"] == "delete":
                gone[what["name"]] = _bracket(event)
    return [Life(name, "", began_s, gone.get(name)) for name, began_s in made.items()]


def lifetimes(log: Path, namespace: str) -> dict[str, tuple[float, float | None]]:
    """From when a pod was bound to when it was gone (unix seconds), by its name; None: it is there."""
    found = {life.name: life for life in pods(log, namespace)}
    return {name: (float(life.began_s[1]), life.end_s and life.end_s[1]) for name, life in found.items()}


def gpu_seconds(log: Path, namespace: str, gpus: dict[str, int], from_s: float, until_s: float) -> float:
    """Of all pods between two moments; `gpus` of a pod by the beginning of its name."""
    total = 0.0
    for name, (begin_s, end_s) in lifetimes(log, namespace).items():
        total += held(name, gpus) * max(0.0, min(until_s, end_s or until_s) - max(from_s, begin_s))
    return total


def held(name: str, gpus: dict[str, int]) -> int:
    """GPUs of a pod by the beginning of its name."""
    return next(count for prefix, count in gpus.items() if name.startswith(prefix))


def _done(log: Path, resource: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each request that was carried out, and the object that it was of."""
    for line in log.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line being written right now
        what = event.get("objectRef") or {}
        done = event.get("stage") == "ResponseComplete" and event["responseStatus"]["code"] < 400
        if done and what.get("resource") == resource:
            yield event, what


def _within(event: dict[str, Any]) -> tuple[int, int]:
    came_s, answered_s = _bracket(event)
    return math.floor(came_s), math.floor(answered_s)


def _bracket(event: dict[str, Any]) -> tuple[float, float]:
    """When the request came, and when it was answered."""
    return _at_s(event["requestReceivedTimestamp"]), _at_s(event["stageTimestamp"])


def _at_s(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
