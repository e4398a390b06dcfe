"""Plays everybody on every trace and seed, side by side in processes; what was played is kept and not played again.

First each scene: the lead-in, and chat alone, whose idle GPUs are what is paid for anyway and whose replicas rivals
follow. Then the players, the slowest first.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path

import msgspec

from ebbtide.bench.batch import clairvoyant, own, players
from ebbtide.bench.batch.feasible import feasible
from ebbtide.bench.batch.load import Stage
from ebbtide.bench.batch.results import Hour, Run, Scene
from ebbtide.bench.batch.score import bill, score
from ebbtide.bench.batch.world import Began, Lived
from ebbtide.bench.sources import digest_of_sources
from ebbtide.bench.store import Store, digest_of
from ebbtide.errors import EbbtideError

Say = Callable[[str], None]
_KIND = "batch"


class Base(msgspec.Struct, frozen=True):
    """Of one scene."""

    scene: Scene
    began: Began
    free: Lived
    feasible: frozenset[str]


class Task(msgspec.Struct, frozen=True):
    """`player` empty: the scene itself."""

    stage: Stage
    player: str = ""

    @property
    def key(self) -> str:
        """Under which its result is kept: all that it follows from."""
        return digest_of((self.stage, self.player, digest_of_sources("ebbtide.bench.batch.runner")))

    @property
    def words(self) -> str:
        """For progress."""
        return f"{self.stage.trace}, seed {self.stage.seed}: {self.player or 'chat without batch'}"


def compare(stages: Sequence[Stage], jobs: int, folder: Path, say: Say) -> tuple[tuple[Scene, ...], tuple[Run, ...]]:
    """(the scenes, all runs)."""
    store = Store(folder)
    first = [Task(stage) for stage in stages]
    then = [Task(stage, player) for player in players.PLAYERS for stage in stages]
    for number, tasks in enumerate((first, then)):
        missing = [task for task in tasks if store.bytes_of(_KIND, task.key) is None]
        if len(missing) < len(tasks):
            what = "runs" if number else "scenes"
            say(f"{len(tasks) - len(missing)} of {len(tasks)} {what} were played before")
        for count, task in enumerate(_carried_out(missing, folder, jobs), 1):
            say(f"{f'{count} of {len(missing)}':>10} {task.words}")
    scenes = tuple(_base(store, stage).scene for stage in stages)
    runs = tuple(msgspec.msgpack.decode(_kept(store, task), type=Run) for task in then)
    return scenes, runs


def carry_out(task: Task, store: Store) -> None:
    """Play it and keep what was found."""
    stage = task.stage
    if task.player:
        base = _base(store, stage)
        lived = players.play(task.player, stage, base.began, base.free, base.feasible)
        found = score(task.player, stage, lived, base.free, base.feasible)
        run = Run(trace=stage.trace, seed=stage.seed, score=found, hours=hours(lived, base.free))
        store.put_bytes(_KIND, task.key, msgspec.msgpack.encode(run))
        return
    began = own.lead_in(stage)
    free = own.ebbtide(stage, began, jobs=False)
    able = feasible(stage, free)
    scene = Scene(
        trace=stage.trace,
        seed=stage.seed,
        jobs=len(stage.jobs),
        feasible=len(able),
        bill=bill(stage, free),
        bound=clairvoyant.bound(stage, free),
        well_placed=clairvoyant.well_placed(stage, free),
    )
    store.put_bytes(_KIND, task.key, msgspec.msgpack.encode(Base(scene, began, free, able)))


def hours(lived: Lived, free: Lived) -> tuple[Hour, ...]:
    """GPUs by use, hour by hour."""
    found = []
    for first in range(0, len(lived.declared), 60):
        minutes = range(first, min(first + 60, len(lived.declared)))
        sums = [0.0] * 5
        for pool in range(len(lived.paid)):
            for m in minutes:
                held = lived.batch[pool][m]
                idle = min(held, free.paid[pool][m] - free.chat[pool][m])
                sums[0] += lived.paid[pool][m] if pool == 0 else 0
                sums[1] += lived.chat[pool][m]
                sums[2] += idle
                sums[3] += held - idle
                sums[4] += lived.paid[pool][m]
        found.append(Hour(*(round(each / len(minutes), 3) for each in sums)))
    return tuple(found)


def _base(store: Store, stage: Stage) -> Base:
    return msgspec.msgpack.decode(_kept(store, Task(stage)), type=Base)


def _kept(store: Store, task: Task) -> bytes:
    body = store.bytes_of(_KIND, task.key)
    if body is None:
        raise EbbtideError(f"{task.words}: what was kept of it in {store.folder} is gone")
    return body


# ---- processes ----


@lru_cache(maxsize=1)
def _store(folder: str) -> Store:
    return Store(Path(folder))


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """However it ends: days would else be played for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(task: Task, folder: str) -> None:
    carry_out(task, _store(folder))


def _carried_out(tasks: Sequence[Task], folder: Path, jobs: int) -> Iterator[Task]:
    """Each as it is done."""
    if not tasks:
        return
    if jobs == 1:
        for task in tasks:
            _work(task, str(folder))
            yield task
        return
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), multiprocessing.get_context("spawn"), _begin)
    try:
        waiting: dict[Future[None], Task] = {pool.submit(_work, task, str(folder)): task for task in tasks}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                task = waiting.pop(future)
                future.result()
                yield task
    except BrokenProcessPool as error:
        raise EbbtideError(f"a process of the benchmark ended by itself: {error}") from error
    finally:
        ours = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in ours:
            with contextlib.suppress(OSError):
                process.terminate()
