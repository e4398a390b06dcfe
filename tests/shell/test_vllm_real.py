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

from ebbtide.observe.engines.signals import Histogram
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
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    model = tiny_model(tmp_path / "tiny")
    command = vllm_command(installed(), model, flags=[f"--host={HOST}", "--port=8000", "--shutdown-timeout=60"])
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
