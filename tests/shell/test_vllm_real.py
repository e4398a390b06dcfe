"""The real vLLM of the engine environment: it starts as we start it and says what the observe layer reads."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ebbtide.core.fullness import starved
from ebbtide.model.snapshot import EngineReadings, Quality, Reading
from ebbtide.observe.engines.signals import Counter, Gauge, Histogram, Signal
from ebbtide.observe.engines.vllm import VLLM
from ebbtide.sandbox.engines.environment import installed
from ebbtide.sandbox.engines.model import tiny_model
from ebbtide.sandbox.engines.server import vllm_command, vllm_environment

pytestmark = [pytest.mark.full, pytest.mark.vllm, pytest.mark.timeout(900)]

HOST = "127.77.0.1"
URL = f"http://{HOST}:8000"
START_TIMEOUT_S = 600.0  # 40 s on an idle machine; on one that runs other tests, minutes
TOKENS = 1500


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """One server, with the flags that the test's parameter adds."""
    model = tiny_model(tmp_path / "tiny")
    flags = [f"--host={HOST}", "--port=8000", "--shutdown-timeout=60", *getattr(request, "param", ())]
    command = vllm_command(installed(), model, flags=flags)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | vllm_environment()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    print((tmp_path / "log").read_text()[-3000:])


async def healthy(session: aiohttp.ClientSession, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            assert process.poll() is None, "vLLM ended while it started"
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{URL}/health") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.5)


async def stream(session: aiohttp.ClientSession, on_first: Callable[[], None]) -> tuple[list[str], int]:
    """Finish reasons and generated tokens of one completion."""
    body: dict[str, Any] = {"model": "tiny", "prompt": list(range(4, 104)), "max_tokens": TOKENS, "stream": True}
    body |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
    reasons: list[str] = []
    tokens = 0
    async with session.post(f"{URL}/v1/completions", json=body) as answer:
        assert answer.status == 200
        async for line in answer.content:
            if line.startswith(b"data: {"):
                if not tokens:
                    on_first()
                chunk = json.loads(line[6:])
                tokens = (chunk.get("usage") or {}).get("completion_tokens") or max(tokens, 1)
                reasons += [choice["finish_reason"] for choice in chunk["choices"] if choice["finish_reason"]]
    return reasons, tokens


async def test_it_serves_says_every_signal_and_finishes_what_runs(server: subprocess.Popen[bytes]) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        await healthy(session, server)
        assert await stream(session, lambda: None) == (["length"], TOKENS)

        async with session.get(f"{URL}/metrics") as answer:
            found = set(re.findall(r"^([a-zA-Z_:][\w:]*)[{ ]", await answer.text(), re.MULTILINE))
        for kind, candidates in VLLM.signals.items():
            endings = ("_bucket", "_sum", "_count") if isinstance(kind, Histogram) else ("",)
            assert {candidates[0].name + ending for ending in endings} <= found, kind
        assert VLLM.info in found

        ended = await stream(session, lambda: server.send_signal(signal.SIGTERM))
        assert ended == (["length"], TOKENS), "--shutdown-timeout lets it finish"
    assert await asyncio.to_thread(server.wait, 120) is not None


async def said(session: aiohttp.ClientSession) -> dict[Signal, float]:
    """The newest value of each gauge and counter that the observe layer reads, labels summed."""
    async with session.get(f"{URL}/metrics") as answer:
        lines = [line for line in (await answer.text()).splitlines() if not line.startswith("#")]
    names = {kind: metrics[0].name for kind, metrics in VLLM.signals.items() if not isinstance(kind, Histogram)}
    return {
        kind: sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[{{ ]", line))
        for kind, name in names.items()
    }


def reading(value: float) -> Reading:
    return Reading(quality=Quality.FRESH, value=value, age_s=0.0)


def starves(now: dict[Signal, float]) -> bool:
    """Of the gauges alone: preemptions are counted over time."""
    waiting, usage = reading(now[Gauge.WAITING]), reading(now[Gauge.KV_USAGE])
    engine = EngineReadings("vLLM", waiting=waiting, kv_usage=usage, kv_tokens=32 * 128.0)
    return starved(engine, prompt_tokens=100.0, window_s=60.0)


PRESSED = ["--num-gpu-blocks-override=32", "--block-size=128", "--max-num-queued-reqs=12"]


@pytest.mark.parametrize("server", [PRESSED], indirect=True)
async def test_refusals_a_full_cache_and_a_hang_are_seen_as_what_they_are(server: subprocess.Popen[bytes]) -> None:
    """12 of 20 streams are taken, which need 12 x 1000 tokens of a cache of 4096."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as session:
        await healthy(session, server)
        before = await said(session)
        sent = [asyncio.create_task(outcome(session)) for _ in range(20)]
        seen = []
        while not all(task.done() for task in sent):
            seen.append(await said(session))
            await asyncio.sleep(0.1)
        after = await said(session)
        outcomes = [task.result() for task in sent]

        grown = {kind: after[kind] - before[kind] for kind in after}
        assert grown[Counter.REJECTED] == outcomes.count("refused") == 8
        assert grown[Counter.FINISHED] == outcomes.count("length") == 12, "refused ones are counted nowhere else"
        assert grown[Counter.PROMPT_TOKENS] == 12 * 100
        assert max(now[Gauge.RUNNING] + now[Gauge.WAITING] for now in seen) <= 12, "nor do they wait inside"

        assert grown[Counter.PREEMPTED] >= 1
        assert max(now[Gauge.KV_USAGE] for now in seen) >= 0.9
        assert any(starves(now) for now in seen)
        assert not starves(after)

        os.killpg(server.pid, signal.SIGSTOP)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(said(session), 3)
        os.killpg(server.pid, signal.SIGCONT)
        assert (await asyncio.wait_for(said(session), 30))[Gauge.RUNNING] == 0


async def outcome(session: aiohttp.ClientSession) -> str:
    """The finish reason, or `refused`: as a status, or as an error within a stream that began with 200."""
    body = {"model": "tiny", "prompt": list(range(4, 104)), "max_tokens": 900, "stream": True, "ignore_eos": True}
    async with session.post(f"{URL}/v1/completions", json=body) as answer:
        text = await answer.text()
    if answer.status == 503 or re.search(r'"code": ?503', text):
        return "refused"
    reasons = re.findall(r'"finish_reason": ?"(\w+)"', text)
    return reasons[-1] if reasons else text[:200]
