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
from ebbtide.bench.batch.world import Began, Lived, World
from ebbtide.clock import monotonic_s

EBBTIDE, APART, AT_ONCE, WINDOW, KEPT_UP, KNOWING = (
    "ebbtide",
    "separate fleet",
    "at once",
    "nightly window",
    "deadline first, kept up",
    "clairvoyant",
)
PLAYERS = (EBBTIDE, APART, AT_ONCE, WINDOW, KEPT_UP, KNOWING)


class Rival(Protocol):
    """Decides each minute about Jobs alone; `note` says how, in words."""

    note: str

    def __call__(self, world: World) -> None:
        """Start and stop Jobs."""
        ...


_RIVALS: dict[str, Callable[[Stage], Rival]] = {APART: Apart, AT_ONCE: AtOnce, WINDOW: Window, KEPT_UP: KeptUp}


def play(name: str, stage: Stage, began: Began, free: Lived) -> Lived:
    """The run of that player; `free`: the run without batch."""
    if name == EBBTIDE:
        return own.ebbtide(stage, began)
    start_s = monotonic_s()
    if name == KNOWING:
        rival: Rival = Knowing(stage, clairvoyant.schedule(stage, free))
    else:
        rival = _RIVALS[name](stage)
    world = World(stage, began, stage.begin_s, stage.end_s, jobs=True)

    def decide(world: World) -> None:
        own.along(world, free.declared)
        rival(world)

    world.run(decide, MINUTE_S)
    return world.lived(monotonic_s() - start_s, rival.note)
