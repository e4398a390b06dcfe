"""Runs all spenders under all ceilings, side by side in processes, and scores them; what ran is kept, not run again.

First comes the lead-in, then the unconstrained month: its bill is what ceilings are shares of, and what it wanted is
the path that rivals follow.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from decimal import ROUND_UP, Decimal
from pathlib import Path

import msgspec

from ebbtide.bench.budget import spenders
from ebbtide.bench.budget.clairvoyant import by_priority, by_value, clairvoyant
from ebbtide.bench.budget.results import Spent, UnderCeiling, binds, by_period, spent
from ebbtide.bench.budget.spenders import Ceiling
from ebbtide.bench.budget.world import Began, Outcome, Stage
from ebbtide.bench.sources import digest_of_sources
from ebbtide.bench.store import Store, digest_of
from ebbtide.errors import EbbtideError
from ebbtide.model.spec import CeilingKind, Pacing

SHARES = (Decimal("0.6"), Decimal("0.8"), Decimal(1))
EBBTIDE, QUOTA, ALERT, STOP, CLAIRVOYANT = "ebbtide", "GPU quota", "alert only", "hard stop", "clairvoyant"
TERMS = {"pacing None": Pacing.NONE, "pacing Smooth": Pacing.SMOOTH}
_KINDS = (CeilingKind.DAY, CeilingKind.MONTH)
_KIND = "budget"  # in the store

Say = Callable[[str], None]


class Task(msgspec.Struct, frozen=True):
    """One spender under one ceiling. `setting`: of Ebbtide, a key of TERMS."""

    spender: str
    setting: str
    ceiling: Ceiling


class Scene(msgspec.Struct, frozen=True):
    """What every task needs: the month, where it begins, and the unconstrained run."""

    stage: Stage
    began: Began
    free: Outcome


class Beginning(msgspec.Struct, frozen=True):
    """What a scene is beside its month, as it is kept."""

    began: Began
    free: Outcome


class Run(msgspec.Struct, frozen=True):
    """A task's result, as it is kept: the setting in words, and the month."""

    setting: str
    outcome: Outcome


def ceilings(bill: Decimal, days: int) -> tuple[Ceiling, ...]:
    """Shares of the unconstrained bill, a day and a month, rounded up to cents."""
    periods = {CeilingKind.DAY: days, CeilingKind.MONTH: 1}
    cent = Decimal("0.01")
    return tuple(
        Ceiling(kind, share, (bill * share / periods[kind]).quantize(cent, ROUND_UP))
        for kind in _KINDS
        for share in SHARES
    )


def compare(stage: Stage, jobs: int, folder: Path, say: Say) -> tuple[Spent, tuple[UnderCeiling, ...]]:
    """(the unconstrained run, all others by ceiling). What ran is kept below `folder`."""
    store, asked = Store(folder), digest_of((stage, digest_of_sources("ebbtide.bench.budget.runner")))
    scene = _scene_of(stage, store, asked, say)
    free, limits = scene.free, ceilings(scene.free.cost, stage.days)
    alone = spent(stage, EBBTIDE, "no ceiling", free, None, free, short=False)
    say(f"         {alone.cost} USD, {alone.weighted:.2%} attained, {alone.wall_s:.0f} s")
    own = [Task(EBBTIDE, setting, ceiling) for ceiling in limits for setting in TERMS]
    others = [Task(name, "", ceiling) for ceiling in limits for name in (QUOTA, STOP)]
    done: dict[Task, Spent] = {}
    for task, run in _kept_or_carried_out([*own, *others], scene, jobs, store, asked):
        short = task.spender == EBBTIDE
        found = spent(stage, task.spender, run.setting, run.outcome, task.ceiling, free, short=short)
        done[task] = found
        say(_words(task.ceiling, found, f"{len(done)} of {len(own) + len(others)}"))
    return alone, tuple(
        _under(ceiling, scene, [done[task] for task in done_in(own, others, ceiling)]) for ceiling in limits
    )


def _scene_of(stage: Stage, store: Store, asked: str, say: Say) -> Scene:
    """`asked`: what all results follow from, as a digest."""
    key = digest_of((asked, "beginning"))
    if (body := store.bytes_of(_KIND, key)) is None:
        say(f"lead-in of {stage.lead_in_s // 86_400} days, without a ceiling")
        began = spenders.lead_in(stage)
        say(f"{stage.days} days without a ceiling")
        body = msgspec.msgpack.encode(Beginning(began, spenders.ebbtide(stage, began, None)))
        store.put_bytes(_KIND, key, body)
    found = msgspec.msgpack.decode(body, type=Beginning)
    return Scene(stage, found.began, found.free)


def _kept_or_carried_out(
    tasks: Sequence[Task], scene: Scene, jobs: int, store: Store, asked: str
) -> Iterator[tuple[Task, Run]]:
    """Each with its result, as they are done; first those that are kept."""
    missing = []
    for task in tasks:
        body = store.bytes_of(_KIND, digest_of((asked, task)))
        if body is None:
            missing.append(task)
        else:
            yield task, msgspec.msgpack.decode(body, type=Run)
    for task, run in _carried_out(missing, scene, jobs):
        store.put_bytes(_KIND, digest_of((asked, task)), msgspec.msgpack.encode(run))
        yield task, run


def done_in(own: Iterable[Task], others: Iterable[Task], ceiling: Ceiling) -> list[Task]:
    """The tasks under that ceiling, in the order in which they are shown."""
    return [task for task in (*own, *others) if task.ceiling == ceiling]


def _under(ceiling: Ceiling, scene: Scene, found: Sequence[Spent]) -> UnderCeiling:
    stage, free = scene.stage, scene.free
    alert = spent(stage, ALERT, "", free, ceiling, free, short=False)
    knowing = [
        spent(stage, CLAIRVOYANT, name, clairvoyant(stage, ceiling, worth), ceiling, free, short=False)
        for name, worth in (("by priority", by_priority), ("by value", by_value))
    ]
    wanted = by_period(ceiling, free)
    return UnderCeiling(
        ceiling=ceiling,
        periods=len(wanted),
        binding=sum(binds(ceiling, cost) for cost in wanted),
        spenders=(*found[:-1], alert, found[-1], *knowing),
    )


def carry_out(task: Task, scene: Scene) -> Run:
    """The month under that spender."""
    stage, ceiling = scene.stage, task.ceiling
    if task.spender == EBBTIDE:
        return Run(task.setting, spenders.ebbtide(stage, scene.began, ceiling, TERMS[task.setting]))
    if task.spender == STOP:
        limit = spenders.hard_stop(stage, ceiling)
        return Run("", spenders.along(stage, scene.began, scene.free.declared, limit))
    return Run(*largest_quota(scene, ceiling))


def largest_quota(scene: Scene, ceiling: Ceiling) -> tuple[str, Outcome]:
    """The largest constant number of GPUs that keeps every period under the ceiling, found with hindsight."""

    def under(gpus: int) -> Outcome:
        limit = spenders.quota(scene.stage, gpus)
        return spenders.along(scene.stage, scene.began, scene.free.declared, limit)

    low, high = 0, max(map(sum, zip(*scene.free.declared, strict=True))) + len(scene.stage.members)
    found = under(low)
    while low < high:
        middle = (low + high + 1) // 2
        tried = under(middle)
        if all(cost <= ceiling.amount for cost in by_period(ceiling, tried)):
            low, found = middle, tried
        else:
            high = middle - 1
    return f"{low} GPUs", found


def _words(ceiling: Ceiling, found: Spent, number: str) -> str:
    used = "not binding" if found.used is None else f"{found.used:.2%} of what binds used"
    who = f"{found.spender} {found.setting}".strip()
    return (
        f"{number:>8} {ceiling.kind.value} {ceiling.share:.0%} ({ceiling.amount} USD), {who}: "
        f"{found.cost} USD, overrun {found.overrun}, {used}, {found.weighted:.2%} attained, {found.wall_s:.0f} s"
    )


# ---- processes ----


_scene: list[Scene] = []  # of this worker


def _begin(scene: Scene) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _scene[:] = [scene]


def _end_with_parent() -> None:
    """However it ends: a month would else be computed for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(task: Task) -> Run:
    return carry_out(task, _scene[0])


def _carried_out(tasks: Sequence[Task], scene: Scene, jobs: int) -> Iterator[tuple[Task, Run]]:
    """Each with its result, as they are done."""
    if jobs == 1 or not tasks:
        for task in tasks:
            yield task, carry_out(task, scene)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), context, _begin, (scene,))
    try:
        waiting: dict[Future[Run], Task] = {pool.submit(_work, task): task for task in tasks}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool as error:
        raise EbbtideError(f"a process of the benchmark ended by itself: {error}") from error
    finally:
        ours = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in ours:
            with contextlib.suppress(OSError):
                process.terminate()
