"""Replica lives to bills and curves: the same arithmetic for every simulator."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Life(NamedTuple):
    """One replica: asked for, ready, told to go, gone; None: it did not happen. Seconds."""

    created_s: float
    ready_s: float | None
    draining_s: float | None
    gone_s: float | None


def bill(lives: Iterable[Life], end_s: float) -> tuple[float, float]:
    """(replica-seconds billed within [0, end_s], those of them before readiness).

    Asked for at 10 s, ready at 70 s, gone at 200 s: 190 s, of which 60 s are start-up.
    """
    billed = startup = 0.0
    for life in lives:
        gone_s = end_s if life.gone_s is None else min(life.gone_s, end_s)
        created_s = max(0.0, life.created_s)
        ready_s = gone_s if life.ready_s is None else min(life.ready_s, gone_s)
        billed += max(0.0, gone_s - created_s)
        startup += max(0.0, ready_s - created_s)
    return billed, startup


def curve(lives: Iterable[Life]) -> tuple[tuple[float, int, int], ...]:
    """(second, billed replicas, ready replicas) at each change, from second 0."""
    steps: list[tuple[float, int, int]] = []
    for life in lives:
        steps.append((max(0.0, life.created_s), 1, 0))
        if life.gone_s is not None:
            steps.append((life.gone_s, -1, 0))
        if life.ready_s is not None:
            steps.append((max(0.0, life.ready_s), 0, 1))
            leaves_s = life.gone_s if life.draining_s is None else life.draining_s
            if leaves_s is not None:
                steps.append((leaves_s, 0, -1))
    return _summed(sorted(steps))


def _summed(steps: Sequence[tuple[float, int, int]]) -> tuple[tuple[float, int, int], ...]:
    found: list[tuple[float, int, int]] = []
    billed = ready = 0
    for second, billed_change, ready_change in steps:
        billed, ready = billed + billed_change, ready + ready_change
        if found and found[-1][0] == second:
            found.pop()
        found.append((second, billed, ready))
    return tuple(found)
