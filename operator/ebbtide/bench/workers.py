"""Runs replays in processes of their own and keeps the results; the only part of the benchmark that starts anything.

Each worker is the leader of a process group and ends it, itself included, as soon as its parent is gone, however that
ended: a simulator's own children need no care. A worker that dies fails the run it had and is replaced.
"""

import contextlib
import functools
import multiprocessing
import os
import queue
import signal
import threading
import traceback
from concurrent.futures import Future
from multiprocessing.connection import Connection, wait
from pathlib import Path

import msgspec

from ebbtide.bench import simulators
from ebbtide.bench.case import Case
from ebbtide.bench.lead_in import remembered_after
from ebbtide.bench.store import Store
from ebbtide.errors import ConfigurationError, EbbtideError

_DEATH_S = 10.0  # from the end of its pipe to that of a process


class Job(msgspec.Struct, frozen=True):
    """One replay: what `Simulator.run` is called with, the traffic by its digest, and the result's key."""

    key: str
    simulator: str  # as `module:class`
    case: Case
    load: str
    policy: str
    knob: float
    seed: int
    before: str = ""  # the traffic of the lead-in, by its digest; empty: there is none


class Stopped(EbbtideError):
    """The workers were stopped before this run was finished."""


class _Failure(msgspec.Struct, frozen=True):
    """Why a run has no result. `expected`: an input that a person can mend, `text` says which."""

    expected: bool
    text: str
    trace: str = ""


class Workers:
    """`count` processes that take jobs in the order in which they come; `close` ends them, finished or not."""

    def __init__(self, count: int, store: Store) -> None:
        self._folder = store.folder
        self._jobs: queue.SimpleQueue[tuple[Job, Future[None]] | None] = queue.SimpleQueue()
        self.stopped = threading.Event()
        self._guard = threading.Lock()
        self._running: dict[int, multiprocessing.process.BaseProcess] = {}
        self._open = 0
        self._threads = [threading.Thread(target=self._drive, args=(number,), daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> "Future[None]":
        """Done when the result is in the store; ConfigurationError, EbbtideError or Stopped else."""
        done: Future[None] = Future()
        with self._guard:
            if self.stopped.is_set():
                done.set_exception(Stopped("stopped"))
                return done
            self._open += 1
            self._jobs.put((job, done))
        done.add_done_callback(self._count_down)
        return done

    @property
    def unfinished(self) -> int:
        """Jobs that run or wait."""
        return self._open

    def _count_down(self, _: "Future[None]") -> None:
        with self._guard:
            self._open -= 1

    def close(self) -> None:
        """Ends all processes now; runs that have not finished are Stopped."""
        with self._guard:
            self.stopped.set()
            for _ in self._threads:
                self._jobs.put(None)
            for process in self._running.values():
                _kill(process)
        for thread in self._threads:
            thread.join()
        while not self._jobs.empty():
            if (left := self._jobs.get()) is not None:
                left[1].set_exception(Stopped("stopped"))

    def _drive(self, number: int) -> None:
        """The life of one place: a process, replaced when it dies."""
        link: Connection | None = None
        while (item := self._jobs.get()) is not None:
            job, done = item
            try:
                link = link or self._start(number)
                link.send_bytes(msgspec.msgpack.encode(job))
                _settle(done, job, link.recv_bytes())
            except (EOFError, OSError) as error:
                link = None
                done.set_exception(self._loss(number, job, error))

    def _start(self, number: int) -> Connection:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
        mine, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, str(self._folder)), daemon=True)
        with self._guard:
            if self.stopped.is_set():
                raise EOFError
            process.start()
            self._running[number] = process
        theirs.close()
        return mine

    def _loss(self, number: int, job: Job, error: Exception) -> EbbtideError:
        if self.stopped.is_set():
            return Stopped("stopped")
        process, code = self._running.get(number), None
        if process is not None:
            process.join(_DEATH_S)
            code = process.exitcode
        why = f"exit code {code}" if code is not None else str(error)
        killed = (
            "; the kernel ends a process so when memory runs out: try fewer --jobs" if code == -signal.SIGKILL else ""
        )
        return EbbtideError(f"{_what(job)}: the simulation's process ended ({why}){killed}")


def _settle(done: "Future[None]", job: Job, answer: bytes) -> None:
    if not answer:
        done.set_result(None)
        return
    failure = msgspec.msgpack.decode(answer, type=_Failure)
    error = ConfigurationError(failure.text) if failure.expected else EbbtideError(f"{_what(job)}: {failure.text}")
    error.add_note(failure.trace)
    done.set_exception(error)


def _what(job: Job) -> str:
    return f"policy {job.policy} at {job.knob:g}, seed {job.seed}"


def _kill(process: multiprocessing.process.BaseProcess) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process.pid is not None and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:  # it has not become a leader yet, so it has no children either
            process.kill()


# ---- in the worker process ----


def _serve(link: Connection, folder: str) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends the group
    threading.Thread(target=_end_with_parent, daemon=True).start()
    desk = _Desk(Store(Path(folder)))
    with contextlib.suppress(EOFError, ConnectionError):  # nobody asks any more
        while True:
            link.send_bytes(desk.answer(msgspec.msgpack.decode(link.recv_bytes(), type=Job)))


class _Desk:
    """Simulators that were made and traffic that was read, kept for the next job: most jobs share both."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._simulator = functools.lru_cache(maxsize=2)(simulators.make)
        self._load = functools.lru_cache(maxsize=4)(store.load)

    def answer(self, job: Job) -> bytes:
        """Runs it and keeps the result: nothing, or a `_Failure`."""
        try:
            simulator, load = self._simulator(job.simulator), self._load(job.load)
            case, how = job.case, (job.policy, job.knob, job.seed)
            if job.before:
                memory = remembered_after(simulator, case, load, self._load(job.before), *how)
                case = msgspec.structs.replace(case, memory=memory)
            result = simulator.run(case, load.requests, *how, load.history)
            self._store.put_result(job.key, result)
        except EbbtideError as error:
            return msgspec.msgpack.encode(_Failure(isinstance(error, ConfigurationError), str(error)))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            return msgspec.msgpack.encode(_Failure(False, text, traceback.format_exc()))
        return b""


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)
