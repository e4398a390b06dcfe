"""One running program of a pod, held through its warden (`warden.py`), and the search for what a warden lost.

A program that runs has a warden; closing the pipe to the warden ends the program and all that descends from it. The
warden itself can only be lost to a SIGKILL from outside: then the marker in the environment finds the rest.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from ebbtide.errors import SandboxError

MARKER = "EBBTIDE_SANDBOX_POD"  # in the environment of each process of a pod: the pod's folder

_WARDEN = Path(__file__).with_name("warden.py")


class StartError(SandboxError):
    """The program could not be started: not there, not executable, no such folder."""


class _Report(msgspec.Struct):
    pid: int | None = None
    error: str = ""
    exit: int | None = None


class Process:
    """A program that was started. Made by `start`."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], folder: Path, log: Path) -> None:
        self.pid = 0
        self._marker = env.get(MARKER, "")
        self._pending = b""
        self._status: int | None = None
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[int] = self._loop.create_future()
        self._exited: asyncio.Future[int] = self._loop.create_future()
        # -I -S: no site-packages, nothing from the program's environment
        argv = [sys.executable, "-I", "-S", str(_WARDEN), str(log), str(folder), *command]
        self._warden = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(env), cwd="/", start_new_session=True
        )
        assert self._warden.stdin is not None and self._warden.stdout is not None
        self._orders, self._reports = self._warden.stdin, self._warden.stdout
        self._loop.add_reader(self._reports.fileno(), self._read)

    @classmethod
    async def start(cls, command: Sequence[str], env: Mapping[str, str], folder: Path, log: Path) -> "Process":
        """Run `command` in `folder` with exactly `env`, output added to `log`; StartError says why it cannot."""
        process = cls(command, env, folder, log)
        try:
            process.pid = await process._started
        except asyncio.CancelledError:
            process.kill()
            raise
        return process

    @property
    def ended(self) -> bool:
        """Whether it and all its descendants are gone."""
        return self._exited.done()

    async def wait(self) -> int:
        """Its exit status once all is gone; negative: the signal that ended it."""
        return await asyncio.shield(self._exited)

    def signal(self, number: int) -> None:
        """A signal for the program itself, as a container's first process gets it; none when it has ended."""
        if not self._orders.closed:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._orders.fileno(), b"%d\n" % number)

    def kill(self) -> None:
        """SIGKILL for it and all that descends from it; safe to call again."""
        if not self._orders.closed:
            with contextlib.suppress(BrokenPipeError):
                self._orders.close()

    def _read(self) -> None:
        data = os.read(self._reports.fileno(), 65536)
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._heard(msgspec.json.decode(line, type=_Report))
        if not data:
            self._warden_ended()

    def _heard(self, report: _Report) -> None:
        if report.pid is not None and not self._started.done():
            self._started.set_result(report.pid)
        elif report.exit is not None:
            self._status = report.exit
        elif report.error and not self._started.done():
            self._started.set_exception(StartError(report.error))

    def _warden_ended(self) -> None:
        self._loop.remove_reader(self._reports.fileno())
        self._reports.close()
        self.kill()
        self._warden.wait()  # its last pipe is closed: it is in its last instructions
        if not self._started.done():
            self._started.set_exception(StartError(f"the warden ended with status {self._warden.returncode}"))
        if self._status is None and self.pid and self._marker:
            end_marked(self._marker)  # the warden was killed and could not do it
        self._exited.set_result(-signal.SIGKILL if self._status is None else self._status)


def end_marked(marker: str) -> int:
    """SIGKILL whatever runs with that marker, or one that lies under it, in its environment; answers how many."""
    found = [pid for pid in map(_pid, Path("/proc").iterdir()) if pid and _is_marked(pid, marker)]
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


def _pid(folder: Path) -> int:
    return int(folder.name) if folder.name.isdigit() else 0


def _is_marked(pid: int, marker: str) -> bool:
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    wanted = f"{MARKER}={marker}".encode()
    return any(entry == wanted or entry.startswith(wanted + b"/") for entry in entries)
