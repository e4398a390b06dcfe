"""Ways to call something to its end: a program, a coroutine from wherever the caller is, tasks of a process."""

import asyncio
import os
import subprocess
import threading
from collections.abc import Coroutine, Sequence
from typing import Any

from ebbtide.errors import SandboxError
from ebbtide.sandbox.processes import tied


def run_program(name: str, command: Sequence[str], stdin: str = "", timeout_s: float = 60.0) -> str:
    """The program's output; SandboxError with its own words when it fails or takes longer than `timeout_s`.

    Runs without proxy settings: loopback is never reached through a proxy. Ctrl-C reaches
    this process alone, which then ends the program; so does the end of this process.
    """
    env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    shown = " ".join([name, *(word for word in command[1:] if not word.startswith(("--kubeconfig=", "--cache-dir=")))])
    try:
        done = subprocess.run(
            tied(command),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=env,
            process_group=0,
        )
    except subprocess.TimeoutExpired as error:
        raise SandboxError(f"{shown}: no end within {timeout_s:.0f} s") from error
    if done.returncode != 0:
        raise SandboxError(f"{shown}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def run_aside(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in a thread with its own event loop, so that callers inside a loop can wait for it too."""
    answer: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(asyncio.run(work))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="sandbox-call")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return answer[0]


async def run_until(ended: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Wait for `ended` or for a task to fail, whose error is raised."""
    waiter = asyncio.create_task(ended.wait())
    try:
        done, _ = await asyncio.wait((waiter, *tasks), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (waiter, *tasks):
            task.cancel()
        await asyncio.gather(waiter, *tasks, return_exceptions=True)
