"""Everybody who runs the Jobs, by name, and how each is played."""

from collections.abc import Callable
from typing import Protocol

from ebbtide.bench.batch import clairvoyant, own
from ebbtide.bench.batch.load import Stage
from ebbtide.bench.batch.rivals.apart import Apart
from ebbtide.bench.batch.rivals.at_once import AtOnce
from ebbtide.bench.batch.rivals.kept_up import KeptUp
from ebbtide.bench.batch.rivals.knowing import Knowing
from ebbtide.bench.batch.rivals.window import Window
from ebbtide.bench.batch.scenario import MINUTE_S
from ebbtide.bench.batch.score import Score, score
from ebbtide.bench.batch.world import Began, Lived, World
from ebbtide.clock import monotonic_s

EBBTIDE, APART, AT_ONCE, WINDOW, KEPT_UP, KNOWING, LISTED = (
    "ebbtide",
    "separate fleet",
    "at once",
    "nightly window",
    "deadline first, kept up",
    "clairvoyant",
    "clairvoyant, at list prices",
)
PLAYERS = (EBBTIDE, APART, AT_ONCE, WINDOW, KEPT_UP, KNOWING, LISTED)


class Rival(Protocol):
    """Decides each minute about Jobs alone; `note` says how, in words."""

    note: str

    def __call__(self, world: World) -> None:
        """Start and stop Jobs."""
        ...


_RIVALS: dict[str, Callable[[Stage], Rival]] = {APART: Apart, AT_ONCE: AtOnce, WINDOW: Window, KEPT_UP: KeptUp}


def play(name: str, stage: Stage, began: Began, free: Lived, able: frozenset[str]) -> Lived:
    """The run of that player; `free`: the run without batch, `able`: Jobs whose deadlines are feasible."""
    if name == EBBTIDE:
        return own.ebbtide(stage, began)
    if name in (KNOWING, LISTED):
        listed = name == LISTED
        tried = [
            rivalled(Knowing(stage, clairvoyant.schedule(stage, free, again, listed)), stage, began, free)
            for again in clairvoyant.AGAIN
        ]
        return min(tried, key=lambda lived: _worth(score(name, stage, lived, free, able), listed))
    return rivalled(_RIVALS[name](stage), stage, began, free)


def rivalled(rival: Rival, stage: Stage, began: Began, free: Lived) -> Lived:
    """Chat as without batch, the Jobs as that rival has them."""
    start_s = monotonic_s()
    world = World(stage, began, stage.begin_s, stage.end_s, jobs=True)

    def decide(world: World) -> None:
        own.along(world, free.declared)
        rival(world)

    world.run(decide, MINUTE_S)
    return world.lived(monotonic_s() - start_s, rival.note)


def _worth(found: Score, listed: bool) -> tuple[int, float]:
    return found.missed, found.full if listed else found.free
