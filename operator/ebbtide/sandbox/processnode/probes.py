"""Startup, readiness and liveness of one run of a container, as its probes say.

One check is one question with a time limit; a result changes only after as many equal answers in a row as the probe's
thresholds say. Readiness and liveness wait for the startup probe. This module never ends a process: it says that one
has failed.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from ebbtide.clock import monotonic_s
from ebbtide.sandbox.processnode.environment import Launch
from ebbtide.sandbox.processnode.process import Process, StartError
from ebbtide.sandbox.processnode.wire import Container, Exec, HttpGet, Probe, TcpSocket

_USER_AGENT = "kube-probe/1.36"


@dataclass(frozen=True)
class Answer:
    """One answer to a probe: whether it was a good one, and what was wrong."""

    ok: bool
    why: str = ""


class Tally:
    """Turns answers into a result: good after `success` good ones in a row, bad after `failure` bad ones."""

    def __init__(self, probe: Probe, initial: bool | None) -> None:
        self.result = initial
        self._needed = {True: probe.success_threshold, False: probe.failure_threshold}
        self._last: bool | None = None
        self._run = 0

    def add(self, ok: bool) -> bool | None:
        """The result after this answer."""
        self._run = self._run + 1 if ok == self._last else 1
        self._last = ok
        if self._run >= self._needed[ok]:
            self.result = ok
        return self.result


@dataclass(frozen=True)
class Asker:
    """Asks the container of one pod. `folder` is where its commands run."""

    http: aiohttp.ClientSession
    launch: Launch
    address: str
    folder: Path

    async def ask(self, probe: Probe) -> Answer:
        """One answer within the probe's timeout."""
        limit_s = probe.timeout_seconds
        try:
            async with asyncio.timeout(limit_s):
                return await self._ask(probe)
        except TimeoutError:
            return Answer(False, f"no answer within {limit_s} s")
        except (OSError, aiohttp.ClientError, ValueError) as error:
            return Answer(False, str(error) or type(error).__name__)

    async def get(self, action: HttpGet) -> int:
        """The status of a GET; a redirect is an answer and not followed."""
        host = action.host or self.address
        path = action.path if action.path.startswith("/") else f"/{action.path}"
        url = f"{action.scheme.lower()}://{host}:{self.launch.port(action.port)}{path}"
        headers = {"User-Agent": _USER_AGENT, "Accept": "*/*", "Connection": "close"}
        headers |= {header.name: header.value for header in action.http_headers or ()}
        async with self.http.get(url, headers=headers, allow_redirects=False, ssl=False) as answer:
            return answer.status

    async def run(self, action: Exec) -> int:
        """The exit status of a command with the container's environment; cancelled, it is killed."""
        log = Path("/dev/null")
        process = await Process.start(action.command, self.launch.env, self.folder, log)
        try:
            return await process.wait()
        finally:
            process.kill()

    async def _ask(self, probe: Probe) -> Answer:
        if probe.http_get is not None:
            status = await self.get(probe.http_get)
            return Answer(200 <= status < 400, f"HTTP status {status}")
        if probe.tcp_socket is not None:
            await self._connect(probe.tcp_socket)
            return Answer(True)
        if probe.exec is not None:
            try:
                status = await self.run(probe.exec)
            except StartError as error:
                return Answer(False, str(error))
            return Answer(status == 0, f"exit status {status}")
        return Answer(True)

    async def _connect(self, action: TcpSocket) -> None:
        _, writer = await asyncio.open_connection(action.host or self.address, self.launch.port(action.port))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class Health:
    """The probes of one run. `started` and `ready` are results; `failed` is set when the container must be restarted.

    Without a startup probe a container has started at once; without a readiness probe it is ready once it has started.
    """

    def __init__(self, container: Container, asker: Asker, grace_s: float, changed: Callable[[], None]) -> None:
        self.started = container.startup_probe is None
        self.ready = self.started and container.readiness_probe is None
        self.failed = asyncio.Event()
        self.failure = ""
        self.grace_s = grace_s  # of the end that `failed` asks for
        self.trouble: dict[str, str] = {}  # by probe, what was wrong with the last answer
        self._container, self._asker, self._changed = container, asker, changed
        self._began_s = monotonic_s()

    async def watch(self) -> None:
        """Ask until cancelled."""
        container = self._container
        if container.startup_probe is not None:
            await self._follow("startup", container.startup_probe, None, self._on_startup)
        tasks = []
        # one that has not started in time only waits for its end: it must not become ready on the way
        if self.started and container.readiness_probe is not None:
            tasks.append(self._follow("readiness", container.readiness_probe, False, self._on_readiness))
        if self.started and container.liveness_probe is not None:
            tasks.append(self._follow("liveness", container.liveness_probe, True, self._on_liveness))
        await asyncio.gather(*tasks)
        await asyncio.Event().wait()

    async def _follow(
        self, name: str, probe: Probe, initial: bool | None, on_result: Callable[[bool, Probe, str], bool]
    ) -> None:
        """Ask at the initial delay and each period after it, until `on_result` says that it is over."""
        tally = Tally(probe, initial)
        next_s = max(monotonic_s(), self._began_s + probe.initial_delay_seconds)
        while True:
            await asyncio.sleep(next_s - monotonic_s())
            answer = await self._asker.ask(probe)
            before = tally.result
            result = tally.add(answer.ok)
            self._note(name, "" if answer.ok else answer.why)
            if result is not None and result != before and on_result(result, probe, answer.why):
                return
            next_s = max(monotonic_s(), next_s + probe.period_seconds)

    def _note(self, name: str, why: str) -> None:
        if self.trouble.get(name, "") != why:
            self.trouble[name] = why
            self._changed()

    def _on_startup(self, ok: bool, probe: Probe, why: str) -> bool:
        if ok:
            self.started = True
            self.ready = self._container.readiness_probe is None
            self._changed()
        else:
            self._fail("startup", probe, why)
        return True

    def _on_readiness(self, ok: bool, _probe: Probe, _why: str) -> bool:
        self.ready = ok
        self._changed()
        return False

    def _on_liveness(self, ok: bool, probe: Probe, why: str) -> bool:
        if not ok:
            self._fail("liveness", probe, why)
        return not ok

    def _fail(self, name: str, probe: Probe, why: str) -> None:
        times = f"{probe.failure_threshold} time" + ("s" if probe.failure_threshold != 1 else "")
        self.failure = f"{name} probe failed {times} in a row: {why}"
        if probe.termination_grace_period_seconds is not None:
            self.grace_s = probe.termination_grace_period_seconds
        self.failed.set()
