"""GPU-seconds of a namespace's pods from the API server's audit log alone; knows nothing of Ebbtide."""

import json
from datetime import datetime
from pathlib import Path


def lifetimes(log: Path, namespace: str) -> dict[str, tuple[float, float | None]]:
    """From when a pod was bound to when it was gone (unix seconds), by its name; None: it is there."""
    bound: dict[str, float] = {}
    gone: dict[str, float] = {}
    for line in log.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line being written right now
        what = event.get("objectRef") or {}
        if what.get("namespace") != namespace or what.get("resource") != "pods":
            continue
        if event.get("stage") != "ResponseComplete" or event["responseStatus"]["code"] >= 400:
            continue
        at_s = datetime.fromisoformat(event["stageTimestamp"]).timestamp()
        if event["verb"] == "create" and what.get("subresource") == "binding":
            bound[what["name"]] = at_s
        elif event["verb"] == "delete" and not what.get("subresource"):
            gone[what["name"]] = at_s  # asked to go first, and gone by the last
    return {name: (begin_s, gone.get(name)) for name, begin_s in bound.items()}


def gpu_seconds(log: Path, namespace: str, gpus: dict[str, int], from_s: float, until_s: float) -> float:
    """Of all pods between two moments; `gpus` of a pod by the beginning of its name."""
    total = 0.0
    for name, (begin_s, end_s) in lifetimes(log, namespace).items():
        held = next(count for prefix, count in gpus.items() if name.startswith(prefix))
        total += held * max(0.0, min(until_s, end_s or until_s) - max(from_s, begin_s))
    return total
