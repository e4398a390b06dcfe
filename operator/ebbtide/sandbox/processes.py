"""Starts, watches, restarts and ends the processes of one sandbox.

Each process has its own log file and process group and is tied to this one by the kernel (`keeper.py`): however the
parent ends, nothing is left. This module knows nothing of Kubernetes.
"""

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from ebbtide.clock import monotonic_s
from ebbtide.errors import SandboxError

_KEEPER = Path(__file__).with_name("keeper.py")
_POLL_S = 0.05


def tied(argv: Sequence[str]) -> list[str]:
    """The command line of a program, named by its whole path, that ends with the thread that starts it."""
    # -I -S: no site-packages, no environment: the keeper lives for some hundredths of a second
    return [sys.executable, "-I", "-S", str(_KEEPER), str(os.getpid()), *argv]


@dataclass(frozen=True)
class Command:
    """What a process is started with; kept so that it can be started again."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path


class _Starter(threading.Thread):
    """Starts all children from one thread that lives as long as the process.

    The kernel ends a tied child when the *thread* that started it ends, so a worker thread that comes and goes
    (`asyncio.to_thread`) must not be the parent.
    """

    def __init__(self) -> None:
        super().__init__(name="sandbox-starter", daemon=True)
        self._jobs: queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]]
        self._jobs = queue.SimpleQueue()

    def run(self) -> None:
        """Serve start requests for ever."""
        while True:
            job, answer = self._jobs.get()
            try:
                answer.set_result(job())
            except BaseException as error:
                answer.set_exception(error)

    def popen(self, job: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Run `job` in the thread and wait for its child."""
        answer: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((job, answer))
        return answer.result()


_starter_lock = threading.Lock()
_starter: _Starter | None = None


def _popen(job: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    global _starter  # noqa: PLW0603 - one thread per process, made on first use
    with _starter_lock:
        if _starter is None or not _starter.is_alive():
            _starter = _Starter()
            _starter.start()
    return _starter.popen(job)


class Processes:
    """The named processes of one sandbox, in the order in which they were started."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._commands: dict[str, Command] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._expected_down: set[str] = set()
        logs.mkdir(parents=True, exist_ok=True)

    def spawn(
        self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> int:
        """Start a process and answer its pid. `env` is added to this process's environment; `cwd` unset: the logs'.

        SandboxError when the name is taken by a living process or the program does not exist.
        """
        if self.alive(name):
            raise SandboxError(f"process {name!r} runs already: stop it first or choose another name")
        program = shutil.which(argv[0])
        if program is None:
            raise SandboxError(f"process {name!r}: there is no program {argv[0]!r}")
        command = Command(name, (program, *argv[1:]), dict(env or {}), cwd or self._logs)
        self._commands[name] = command
        return self._start(command)

    def alive(self, name: str) -> bool:
        """Whether the process of that name runs (a stopped one counts as running)."""
        process = self._running.get(name)
        return process is not None and process.poll() is None

    def pid(self, name: str) -> int:
        """The pid last used by that name; SandboxError when there is no such process."""
        return self._process(name).pid

    def pids(self) -> dict[str, int]:
        """Name to pid of all processes that run."""
        return {name: process.pid for name, process in self._running.items() if process.poll() is None}

    def log(self, name: str) -> Path:
        """Where that process writes its output."""
        return self._logs / f"{name}.log"

    def log_tail(self, name: str, lines: int = 15) -> str:
        """The last lines of its log, for error messages."""
        try:
            text = self.log(name).read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def signal(self, name: str, number: int) -> None:
        """Send a signal; after a fatal one, wait until the process is gone and do not count that as a crash."""
        process = self._process(name)
        fatal = number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
        if fatal:
            self._expected_down.add(name)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait()

    def restart(self, name: str) -> int:
        """End the process (SIGKILL) and start it again with the same command; answers the new pid."""
        if self.alive(name):
            self.signal(name, signal.SIGKILL)
        return self._start(self._commands[name])

    def stop(self, name: str, grace_s: float = 5.0) -> int:
        """SIGTERM, SIGKILL after the grace; answers the exit status (negative: the signal that ended it)."""
        process = self._process(name)
        if process.poll() is None:
            self.signal(name, signal.SIGTERM)
            self.signal(name, signal.SIGCONT)
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.signal(name, signal.SIGKILL)
        return process.wait()

    def stop_all(self, grace_s: float = 5.0) -> None:
        """End everything, last started first, with one grace period over all."""
        living = [process for process in reversed(self._running.values()) if process.poll() is None]
        self._expected_down.update(self._running)
        for process in living:
            for number in (signal.SIGTERM, signal.SIGCONT):
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)
        deadline_s = monotonic_s() + grace_s
        for process in living:
            try:
                process.wait(max(0.0, deadline_s - monotonic_s()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def crashed(self) -> dict[str, int]:
        """Name to exit status of processes that ended without being told to."""
        return {
            name: status
            for name, process in self._running.items()
            if name not in self._expected_down and (status := process.poll()) is not None
        }

    def wait_until(self, name: str, ready: Callable[[], bool], timeout_s: float) -> None:
        """Poll `ready` until true; SandboxError with the log's tail when the process ends or time is up."""
        deadline_s = monotonic_s() + timeout_s
        while not ready():
            if not self.alive(name):
                self._fail(name, f"ended by itself with status {self._process(name).returncode}")
            if monotonic_s() > deadline_s:
                self._fail(name, f"was not ready within {timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def _start(self, command: Command) -> int:
        self._expected_down.discard(command.name)
        with self.log(command.name).open("ab") as log:
            process = _popen(
                lambda: subprocess.Popen(
                    tied(command.argv),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **command.env},
                    cwd=command.cwd,
                    process_group=0,  # Ctrl-C reaches the parent only, which then ends them in order
                )
            )
        self._running[command.name] = process
        return process.pid

    def _process(self, name: str) -> subprocess.Popen[bytes]:
        if name not in self._running:
            raise SandboxError(f"there is no process {name!r}; there are: {', '.join(self._running) or 'none'}")
        return self._running[name]

    def _fail(self, name: str, what: str) -> None:
        raise SandboxError(f"{name} {what}; log {self.log(name)}:\n{self.log_tail(name)}")
