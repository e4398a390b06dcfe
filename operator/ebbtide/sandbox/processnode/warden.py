"""Runs one program and answers for everything that descends from it, whatever way it or the node agent ends.

Run as a script, without the package: `python -I -S warden.py LOG FOLDER PROGRAM ARGUMENT...`, with the program's own
environment. Speaks JSON lines on stdout: `{"pid": 7}` or `{"error": "..."}`, then `{"exit": 0}` (negative: the signal).
Reads on stdin numbers of signals for the program. The end of stdin means that everything must end now; the kernel
closes the pipe also when the agent is killed. As a subreaper it inherits each orphan of the program, so "no child left"
means that nothing is left. It must never import the project.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_STDIN, _STDOUT = 0, 1


def main() -> None:
    """Start the program, pass signals on, wait for its end, end what it left, say how it ended."""
    log, folder, command = sys.argv[1], sys.argv[2], sys.argv[3:]
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child, error = _start(log, folder, command)
    if error:
        os.waitpid(child, 0)
        _say({"error": error})
        return
    _say({"pid": child})
    status = _watch(child, woken)
    status = _end_all(child, status)
    _say({"exit": os.waitstatus_to_exitcode(status)})


def _start(log: str, folder: str, command: list[str]) -> tuple[int, str]:
    """The program's pid, and why it could not be started."""
    warden = os.getpid()
    failed, failing = os.pipe()  # exec closes the writing end: end of file means that the program runs
    child = os.fork()
    if child == 0:
        try:
            _become(warden, log, folder, command)
        except OSError as error:
            os.write(failing, f"{error.strerror}: {error.filename or command[0]}".encode())
        finally:
            os._exit(127)
    os.close(failing)
    text = b""
    while data := os.read(failed, 4096):
        text += data
    os.close(failed)
    return child, text.decode(errors="replace")


def _become(warden: int, log: str, folder: str, command: list[str]) -> None:
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != warden:
        return
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):  # Python ignores or catches these
        signal.signal(number, signal.SIG_DFL)
    os.chdir(folder)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.execvp(command[0], command)


def _watch(child: int, woken: int) -> int | None:
    """Pass signals on until the program has ended (its status) or everything is to end (None)."""
    while True:
        readable, _, _ = select.select([_STDIN, woken], [], [])
        if woken in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            if (status := _reap(child)) is not None:
                return status
        if _STDIN in readable:
            numbers = os.read(_STDIN, 4096)
            if not numbers:
                return None
            for number in numbers.split():
                os.kill(child, int(number))  # not reaped yet, so the pid is still its own


def _reap(child: int) -> int | None:
    """Collect what has ended; the program's status when it is among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == child:
            return status
        if pid == 0:
            return None


def _end_all(child: int, status: int | None) -> int:
    while True:
        for pid in _descendants():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            pid, ended = os.waitpid(-1, 0)
        except ChildProcessError:
            return status if status is not None else signal.SIGKILL
        if pid == child:
            status = ended


def _descendants() -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                # "7 (name with ) in it) S 3 ...": the parent is the second field after the last bracket
                parent = int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found = list(children.get(os.getpid(), ()))
    for pid in found:  # grows while it is walked
        found.extend(children.get(pid, ()))
    return found


def _say(message: dict[str, object]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the agent is gone: nobody to tell
        os.write(_STDOUT, json.dumps(message).encode() + b"\n")


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
