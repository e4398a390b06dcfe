"""Runs the one real server, sends it the loads, and scrapes it each second."""

import asyncio
import contextlib
import os
import platform
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from benchmarks.emulator import streams
from benchmarks.emulator.recording import Load, Machine, Recording, Scrape
from ebbtide.errors import SandboxError
from ebbtide.sandbox.engines.environment import installed
from ebbtide.sandbox.engines.model import tiny_model
from ebbtide.sandbox.engines.server import vllm_command, vllm_environment
from ebbtide.sandbox.loadgen import LoadTarget, Served, run_load
from ebbtide.sim.requests import SERVED_REASONS, Request

MODEL, MODEL_SIZE = "model", "small"
MAX_NUM_SEQS = 12
MAX_NUM_BATCHED_TOKENS = 256
MAX_MODEL_TOKENS = 1024
SCRAPE_S = 1.0

_HOST, _PORT = "127.78.0.1", 8000
_URL = f"http://{_HOST}:{_PORT}"
_START_S = 300.0
_FLAGS = (
    f"--max-num-seqs={MAX_NUM_SEQS}",
    f"--max-num-batched-tokens={MAX_NUM_BATCHED_TOKENS}",
    f"--max-model-len={MAX_MODEL_TOKENS}",
    "--block-size=32",
    "--num-gpu-blocks-override=128",
)

Say = Callable[[str], None]


def record(say: Say) -> Recording:
    """Both loads on one real server, which ends with this call, SIGTERM included.

    SandboxError when it does not start, NotFoundError when it is not installed.
    """
    return asyncio.run(_record(say))


async def _record(say: Say) -> Recording:
    env = installed()
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    began_s = time.monotonic()
    async with _server(say) as process:
        start_s = time.monotonic() - began_s
        core = _part_cores(process.pid)
        say(f"ready after {start_s:.0f} s, on core {core}")
        busy = _Others(process.pid)
        per_second, first, second = await measure(_URL, (streams.FIRST, streams.SECOND), say)
        others = busy.cores()
    machine = Machine(
        cores=os.cpu_count() or 1,
        processor=_processor(),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        vllm=env.version,
        flags=_FLAGS,
        model_size=MODEL_SIZE,
        max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
        max_model_tokens=MAX_MODEL_TOKENS,
        start_s=start_s,
        probed_per_second=per_second,
        others=others,
        recorded=datetime.now(UTC).strftime("%Y-%m-%d"),  # noqa: TID251 - a date for the reader
        seconds=time.monotonic() - began_s,
    )
    return Recording(machine, first, second)


@asynccontextmanager
async def _server(say: Say) -> AsyncIterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_model(Path(folder) / MODEL, MODEL_SIZE)
        flags = [*_FLAGS, f"--host={_HOST}", f"--port={_PORT}"]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | vllm_environment()
        log = Path(folder) / "log"
        with log.open("wb") as out:
            command = vllm_command(installed(), model, flags=flags)
            process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                command, env=environment, stdout=out, stderr=out, cwd=folder, start_new_session=True
            )
        try:
            say("starting one vLLM server: 30 to 70 s")
            await _healthy(process, log)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def _healthy(process: subprocess.Popen[bytes], log: Path) -> None:
    async with _session() as session:
        for _ in range(int(_START_S / 0.5)):
            if process.poll() is not None:
                raise SandboxError(f"vLLM ended with {process.returncode} while it started: {_tail(log)}")
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{_URL}/health") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.5)
    raise SandboxError(f"vLLM did not answer within {_START_S:.0f} s: {_tail(log)}")


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10.0), trust_env=False)


def _tail(log: Path) -> str:
    """What a failed start is about: lines that name an error, and the last ones."""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join([*(line for line in lines if "Error" in line)][:5] + lines[-5:])


def _part_cores(group: int) -> int:
    """The server on one core, whatever starts and measures the requests on the others."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        for pid in _members(group):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), cores[:1])
        os.sched_setaffinity(0, cores[1:])
    return cores[0]


def _members(group: int) -> list[int]:
    """Processes of the group; the server's own children stay in it."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(int(path.name)) == group:
                    found.append(int(path.name))
    return found


class _Others:
    """How many cores were used by neither the server nor this process, from now on."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._began_s, self._before = time.monotonic(), self._used_s()

    def _used_s(self) -> float:
        hertz = os.sysconf("SC_CLK_TCK")
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        whole = sum(fields) - fields[3] - fields[4]  # without idle and waiting for disks
        ours = 0
        for pid in (*_members(self._group), os.getpid()):
            with contextlib.suppress(OSError):
                after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ours += int(after_name[11]) + int(after_name[12])
        return (whole - ours) / hertz

    def cores(self) -> float:
        """Seconds of computing a second."""
        return max(0.0, self._used_s() - self._before) / (time.monotonic() - self._began_s)


async def measure(url: str, loads: tuple[streams.Stream, streams.Stream], say: Say) -> tuple[float, Load, Load]:
    """(requests/s with a full batch, the first load, the second) of the server at `url`.

    SandboxError when a request is not served.
    """
    await _serve(url, streams.PROBE[:4], 1)  # the first requests of a server are slow
    probed = await _serve(url, streams.PROBE, 2)
    per_second = len(probed) / max(one.end_s for one in probed)
    one = streams.PROBE[0]
    say(f"it carries {per_second:.1f} requests/s of {one.prompt_tokens} + {one.output_tokens} tokens")
    first, second = [await _load(url, stream, per_second, say) for stream in loads]
    return per_second, first, second


async def _serve(url: str, requests: Sequence[Request], seed: int) -> list[Served]:
    served = await run_load(LoadTarget(f"{url}/v1", MODEL, seed=seed), requests)
    failed = [one.error for one in served if one.finish_reason not in SERVED_REASONS]
    if failed:
        raise SandboxError(f"{len(failed)} of {len(served)} requests were not served, for example: {failed[0]}")
    return served


async def _load(url: str, stream: streams.Stream, per_second: float, say: Say) -> Load:
    requests = streams.requests(stream, per_second)
    say(f"{len(requests)} requests within {stream.seconds:.0f} s")
    scrapes: list[Scrape] = []
    start_s = time.monotonic()
    scraping = asyncio.create_task(_scrape(url, scrapes, start_s))
    try:
        served = await _serve(url, requests, stream.seed)
        rest_s = stream.seconds + stream.settle_s - (time.monotonic() - start_s)
        await asyncio.sleep(max(2.0, rest_s))
    finally:
        scraping.cancel()
        await asyncio.gather(scraping, return_exceptions=True)
    return Load(tuple(served), tuple(scrapes))


async def _scrape(url: str, scrapes: list[Scrape], start_s: float) -> None:
    async with _session() as session:
        while True:
            async with session.get(f"{url}/metrics") as answer:
                text = await answer.text()
            at_s = time.monotonic() - start_s
            kept = [line for line in text.splitlines() if line.startswith("vllm:") and "_created{" not in line]
            scrapes.append(Scrape(round(at_s, 3), "\n".join(kept) + "\n"))
            await asyncio.sleep(SCRAPE_S - at_s % SCRAPE_S)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
