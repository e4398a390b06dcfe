"""The process node's processes and probes: real children of this test, real sockets on loopback."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from ebbtide.sandbox.processnode.environment import Launch
from ebbtide.sandbox.processnode.probes import Asker, Health
from ebbtide.sandbox.processnode.process import MARKER, Process, StartError, end_marked
from ebbtide.sandbox.processnode.wire import Container, Probe
from tests.shell.test_sandbox_parts import eventually, exists

# starts a grandchild in a session of its own, whose pid it prints, and waits
FAMILY = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    "print(child.pid, flush=True)\n"
)
ADDRESS = "127.0.0.1"


def environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], MARKER: str(folder / "pods" / "a")}


async def start(folder: Path, *command: str) -> Process:
    return await Process.start(command, environment(folder), folder, folder / "log")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def marked(folder: Path) -> list[str]:
    """Command lines of what runs with the marker of `folder`."""
    marker, found = f"{MARKER}={folder}".encode(), []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and marker in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
    return found


async def logged(folder: Path, lines: int = 1) -> list[str]:
    for _ in range(500):
        found = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
        if len(found) >= lines:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("no log")


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9), ("kill -TERM $$", -15)],
)
async def test_how_a_program_ended_is_told(tmp_path: Path, script: str, status: int) -> None:
    process = await start(tmp_path, "sh", "-c", script)
    assert await process.wait() == status
    assert process.ended
    process.signal(signal.SIGTERM)  # nobody there: nothing happens
    process.kill()


async def test_a_program_gets_its_environment_folder_and_log_and_no_more(tmp_path: Path) -> None:
    script = (
        "import os, sys; print(sorted(os.environ), os.getcwd(), repr(sys.stdin.read()), os.listdir('/proc/self/fd'))"
    )
    process = await start(tmp_path, sys.executable, "-S", "-c", script)
    assert await process.wait() == 0
    (line,) = await logged(tmp_path)
    names = {MARKER, "PATH"}
    assert all(f"'{name}'" in line for name in names)
    assert "HOME" not in line
    assert f"{tmp_path} '' ['0', '1', '2', '3']" in line  # 3 is the listing itself
    again = await start(tmp_path, "echo", "second")
    assert await again.wait() == 0
    assert (await logged(tmp_path, 2))[1] == "second"  # added, not written over


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-program", "No such file or directory: no-such-program"),
        ("./dir", "Permission denied: ./dir"),
        ("/no/such/program", "No such file or directory"),
    ],
)
async def test_a_program_that_cannot_be_started_says_why(tmp_path: Path, command: str, said: str) -> None:
    (tmp_path / "dir").mkdir()
    with pytest.raises(StartError, match=said):
        await start(tmp_path, command)


async def test_sigterm_is_for_the_program_and_its_end_is_the_end_of_all(tmp_path: Path) -> None:
    process = await start(tmp_path, sys.executable, "-S", "-c", FAMILY + "time.sleep(600)")
    grandchild = int((await logged(tmp_path))[0])
    assert exists(grandchild)
    process.signal(signal.SIGTERM)
    assert await process.wait() == -signal.SIGTERM
    assert not exists(grandchild)


async def test_an_orphan_does_not_outlive_a_program_that_ends_by_itself(tmp_path: Path) -> None:
    process = await start(tmp_path, sys.executable, "-S", "-c", FAMILY)
    assert await process.wait() == 0
    assert not exists(int((await logged(tmp_path))[0]))


async def test_kill_ends_also_what_is_stopped_or_ignores_signals(tmp_path: Path) -> None:
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()"
    process = await start(tmp_path, sys.executable, "-S", "-c", script)
    await logged(tmp_path)
    process.signal(signal.SIGTERM)
    await asyncio.sleep(0.1)
    assert not process.ended
    os.kill(process.pid, signal.SIGSTOP)
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    assert not exists(process.pid)


async def test_a_warden_that_is_killed_leaves_nothing_either(tmp_path: Path) -> None:
    process = await start(tmp_path, sys.executable, "-S", "-c", FAMILY + "time.sleep(600)")
    grandchild = int((await logged(tmp_path))[0])
    os.kill(parent(process.pid), signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    assert eventually(lambda: not exists(grandchild) and not exists(process.pid))


def test_the_marker_finds_the_pods_of_one_sandbox_and_no_others(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    ours, others = ({MARKER: str(tmp_path / name / "pod")} for name in ("pods", "pods-of-another"))
    with subprocess.Popen(sleeper, env=ours) as own, subprocess.Popen(sleeper, env=others) as other:
        assert eventually(lambda: end_marked(str(tmp_path / "pods")) == 1)
        assert own.wait() == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


def test_an_agent_that_is_killed_takes_its_processes_along(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from ebbtide.sandbox.processnode.process import Process\n"
        "async def main():\n"
        f"    folder = pathlib.Path({str(tmp_path)!r})\n"
        f"    command = [sys.executable, '-S', '-c', {FAMILY + 'time.sleep(600)'!r}]\n"
        "    process = await Process.start(command, {}, folder, folder / 'log')\n"
        "    print(process.pid, flush=True)\n"
        "    await process.wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        assert eventually(lambda: (tmp_path / "log").read_text() != "")
        grandchild = int((tmp_path / "log").read_text())
        assert exists(pid) and exists(grandchild)
        agent.kill()
    assert eventually(lambda: not exists(pid) and not exists(grandchild), 5)


# --- probes ----------------------------------------------------------------------------------------------------------


class Server:
    """Answers with `status`, or not at all, and remembers the last request."""

    def __init__(self) -> None:
        self.status, self.hangs, self.asked = 200, False, 0
        self.request: web.BaseRequest | None = None

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.request, self.asked = request, self.asked + 1
        if self.hangs:
            await asyncio.sleep(30)
        return web.Response(status=self.status, headers={"Location": "/elsewhere"} if self.status == 302 else {})


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, int]]:
    made = Server()
    runner = web.ServerRunner(web.Server(made.answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, ADDRESS, 0).start()
    yield made, int(runner.addresses[0][1])
    await runner.cleanup()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        yield session


def asker(http: aiohttp.ClientSession, folder: Path, **ports: int) -> Asker:
    return Asker(http, Launch((), environment(folder), ports), ADDRESS, folder)


def probe(**fields: Any) -> Probe:
    return msgspec.convert(fields, Probe)


@pytest.mark.parametrize(
    ("status", "good"), [(200, True), (204, True), (302, True), (399, True), (400, False), (404, False), (503, False)]
)
async def test_http_is_good_from_200_to_399(
    server: tuple[Server, int], http: aiohttp.ClientSession, tmp_path: Path, status: int, good: bool
) -> None:
    served, port = server
    served.status = status
    wanted = probe(httpGet={"port": "api", "path": "/x?y=z", "httpHeaders": [{"name": "X-A", "value": "b"}]})
    answer = await asker(http, tmp_path, api=port).ask(wanted)
    assert (answer.ok, answer.why) == (good, f"HTTP status {status}")
    assert served.request is not None
    assert (served.request.path_qs, served.request.headers["X-A"], served.asked) == ("/x?y=z", "b", 1)


async def test_nobody_there_and_no_answer_in_time_are_bad_answers_with_their_reason(
    server: tuple[Server, int], http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    served, port = server
    ask = asker(http, tmp_path).ask
    assert (await ask(probe(tcpSocket={"port": port}))).ok
    served.hangs = True
    assert (await ask(probe(tcpSocket={"port": port}))).ok  # it listens
    late = await ask(probe(httpGet={"port": port}))
    assert (late.ok, late.why) == (False, "no answer within 1 s")
    for refused in (probe(httpGet={"port": 1}), probe(tcpSocket={"port": 1})):
        answer = await ask(refused)
        assert not answer.ok
        assert "127.0.0.1" in answer.why


@pytest.mark.parametrize(
    ("command", "ok", "why"),
    [
        (["true"], True, "exit status 0"),
        (["sh", "-c", "exit 4"], False, "exit status 4"),
        (["no-such-program"], False, "No such file or directory: no-such-program"),
        (["sleep", "600"], False, "no answer within 1 s"),
    ],
)
async def test_a_command_is_good_when_it_exits_with_0_in_time(
    http: aiohttp.ClientSession, tmp_path: Path, command: list[str], ok: bool, why: str
) -> None:
    answer = await asker(http, tmp_path).ask(probe(exec={"command": command}))
    assert (answer.ok, answer.why) == (ok, why)
    assert eventually(lambda: marked(tmp_path) == [])  # what hung was killed


class Watched:
    """A Health that asks `server`, and what it said in order."""

    def __init__(self, http: aiohttp.ClientSession, folder: Path, grace_s: float = 30, **probes: Any) -> None:
        self.seen: list[tuple[bool, bool]] = []
        container = msgspec.convert({"name": "engine", **probes}, Container)
        self.health = Health(container, asker(http, folder), grace_s, self.changed)
        self.task = asyncio.create_task(self.health.watch())

    def changed(self) -> None:
        now = (self.health.started, self.health.ready)
        if not self.seen or self.seen[-1] != now:
            self.seen.append(now)

    async def until(self, question: Callable[[], object]) -> None:
        async with asyncio.timeout(15):
            while not question():  # noqa: ASYNC110 - a question about a server, not an event
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_readiness_and_liveness_wait_for_startup(
    server: tuple[Server, int], http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    served, port = server
    served.status = 503
    get = {"httpGet": {"port": port}, "periodSeconds": 1}
    watched = Watched(http, tmp_path, startupProbe=get | {"failureThreshold": 9}, readinessProbe=get, livenessProbe=get)
    assert (watched.health.started, watched.health.ready) == (False, False)
    await watched.until(lambda: served.asked == 2)
    assert watched.health.trouble == {"startup": "HTTP status 503"}  # the others have not asked
    served.status = 200
    await watched.until(lambda: watched.health.ready)
    assert watched.seen == [(False, False), (True, False), (True, True)]
    assert not watched.health.failed.is_set()
    served.status = 503
    await watched.until(watched.health.failed.is_set)
    assert watched.health.failure == "liveness probe failed 3 times in a row: HTTP status 503"
    await watched.close()


async def test_a_startup_that_fails_is_a_failure_with_the_probes_own_grace(
    server: tuple[Server, int], http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    served, port = server
    served.status = 500
    wanted = {"httpGet": {"port": port}, "failureThreshold": 1, "terminationGracePeriodSeconds": 3}
    get = {"httpGet": {"port": port}, "periodSeconds": 1}
    watched = Watched(http, tmp_path, startupProbe=wanted, readinessProbe=get, livenessProbe=get)
    await watched.until(watched.health.failed.is_set)
    assert watched.health.failure == "startup probe failed 1 time in a row: HTTP status 500"
    assert watched.health.grace_s == 3
    served.status, asked = 200, served.asked
    await asyncio.sleep(1.2)
    assert (watched.health.ready, served.asked) == (False, asked), "it listens before its end, and must get nothing"
    await watched.close()


async def test_the_initial_delay_is_kept_and_without_probes_a_container_is_ready_at_once(
    server: tuple[Server, int], http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    served, port = server
    plain = Watched(http, tmp_path)
    assert (plain.health.started, plain.health.ready) == (True, True)
    delayed = Watched(http, tmp_path, readinessProbe={"httpGet": {"port": port}, "initialDelaySeconds": 1})
    assert (delayed.health.started, delayed.health.ready) == (True, False)
    await asyncio.sleep(0.5)
    assert served.asked == 0
    await delayed.until(lambda: delayed.health.ready)
    await plain.close()
    await delayed.close()
