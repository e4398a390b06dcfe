"""Finds and reads the log files that the process node's containers write."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from ebbtide.errors import NotFoundError

_POLL_S = 0.2


def log_file(directory: Path, namespace: str, pod: str) -> Path:
    """The log of that pod, of the latest one where several had that name; NotFoundError names those that have one."""
    folder = directory / "pods"
    found = [path for path in folder.glob("*/*.log") if path.parent.name.split("_")[:2] == [namespace, pod]]
    if found:
        return max(found, key=lambda path: path.stat().st_mtime)
    known = sorted({"/".join(path.parent.name.split("_")[:2]) for path in folder.glob("*/*.log")})
    raise NotFoundError(
        f"pod {namespace}/{pod} has no log on the process node; there are logs of: {', '.join(known) or 'none'}. "
        "Pods of other nodes are fake and write none."
    )


def read(path: Path, tail: int | None, follow: Callable[[], bool]) -> Iterator[str]:
    """The last `tail` lines (None: all), then what is added for as long as `follow` answers true."""
    with path.open(errors="replace") as file:
        yield from file if tail is None else deque(file, maxlen=tail)
        while follow():
            if text := file.read():
                yield text
            else:
                time.sleep(_POLL_S)
        yield file.read()
