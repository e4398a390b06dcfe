"""The emulator against an API server: pods come alive on their own addresses, serve, drain and go."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ebbtide.kube.client import KubeClient
from ebbtide.sandbox import emulator
from ebbtide.sandbox.demo_base import free_port
from tests.shell.fake_pods_api import FakePodsApi
from tests.shell.loopback import answering, eventually

CHAT = "team-a/chat"
# a part of loopback that no sandbox claims
POD_IP = "127.61.7.{}".format


class Emulated:
    """A running emulator, its API server, and a way to ask them."""

    def __init__(self, api: FakePodsApi, port: int, engine_port: int, session: aiohttp.ClientSession) -> None:
        self.api, self._port, self._engine_port, self._session = api, port, engine_port, session

    async def results(self) -> dict[str, Any]:
        async with self._session.get(f"http://127.0.0.1:{self._port}/results") as response:
            return dict(await response.json())

    async def chat(self) -> dict[str, Any]:
        routes = (await self.results())["routes"]
        return dict(routes.get(CHAT, {"endpoints": 0, "ready": 0}))

    async def load(self, gap_s: float, count: int, output: int = 20) -> None:
        requests = [[number * gap_s, 200, output] for number in range(count)]
        body = {"route": CHAT, "requests": requests}
        async with self._session.post(f"http://127.0.0.1:{self._port}/load", json=body) as response:
            assert response.status == 200, await response.text()

    async def scrape(self, number: int, path: str) -> tuple[int, str, str]:
        url = f"http://{POD_IP(number)}:{self._engine_port}{path}"
        async with self._session.get(url) as response:
            return response.status, response.headers.get("Content-Type", ""), await response.text()

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async def chat_holds() -> dict[str, Any] | None:
            chat = await self.chat()
            return chat if holds(chat) else None

        found: dict[str, Any] = await eventually(chat_holds)
        return found

    async def until_closed(self, number: int) -> None:
        async def closed() -> bool:
            return not await self._open(number)

        await eventually(closed)

    async def _open(self, number: int) -> bool:
        try:
            await self.scrape(number, "/health")
        except aiohttp.ClientConnectionError:
            return False
        return True


@pytest.fixture
async def emulated(tmp_path: Path) -> AsyncIterator[Emulated]:
    port, engine_port = free_port(), free_port()
    ended = asyncio.Event()
    async with FakePodsApi() as api, KubeClient(api.kubeconfig(tmp_path)) as client, aiohttp.ClientSession() as session:
        playing = asyncio.create_task(
            emulator.run(
                client,
                host="127.0.0.1",
                port=port,
                seed=1,
                dispatch="least-loaded",
                ended=ended,
                engine_port=engine_port,
            )
        )
        up = asyncio.create_task(answering(session, port, 20.0))
        await asyncio.wait((playing, up), return_when="FIRST_COMPLETED")
        if playing.done():
            await playing  # says why it ended
        yield Emulated(api, port, engine_port, session)
        ended.set()
        await playing


async def test_a_pod_serves_its_metrics_when_it_runs_and_requests_when_it_is_ready(emulated: Emulated) -> None:
    emulated.api.put("chat-1", POD_IP(1), ready=False)
    await emulated.load(0.01, 10)
    starting = await emulated.until(lambda chat: chat["endpoints"] == 1 and chat["held"] == 10)
    health, _, _ = await emulated.scrape(1, "/health")

    emulated.api.put("chat-1", POD_IP(1), ready=True)
    served = await emulated.until(lambda chat: chat["served"] == 10)

    status, content_type, text = await emulated.scrape(1, "/metrics")
    assert (starting["ready"], health, served["ready"]) == (0, 503, 1)
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert 'vllm:generation_tokens_total{engine="0",model_name="chat"} 200.0' in text
    assert (await emulated.scrape(1, "/health"))[0] == 200
    assert (await emulated.scrape(1, "/prometheus/metrics"))[0] == 404


@pytest.mark.parametrize(
    "said", [{"engine": "trtllm"}, {"engine": "", "annotations": {"prometheus.io/path": "/prometheus/metrics"}}]
)
async def test_a_tensorrt_pod_serves_its_own_path(said: dict[str, Any], emulated: Emulated) -> None:
    """Named as such, or, as an engine block builds it, only scraped as such."""
    emulated.api.put("chat-1", POD_IP(1), **said)
    await emulated.load(0.01, 5)
    await emulated.until(lambda chat: chat.get("served") == 5)

    status, _, text = await emulated.scrape(1, "/prometheus/metrics")

    assert status == 200
    assert 'trtllm_generation_tokens_total{engine_type="trtllm",model_name="chat"} 100.0' in text
    assert (await emulated.scrape(1, "/metrics"))[0] == 404


async def test_a_terminating_pod_drains_and_a_deleted_one_aborts_and_closes(emulated: Emulated) -> None:
    emulated.api.put("chat-1", POD_IP(1))
    await emulated.load(0.0, 4, output=1000)
    await emulated.until(lambda chat: chat.get("running") == 4)

    emulated.api.put("chat-1", POD_IP(1), going=True)
    leaving = await emulated.until(lambda chat: chat["ready"] == 0)
    await emulated.load(0.0, 3)
    draining = await emulated.until(lambda chat: chat["held"] == 3)

    assert (leaving["running"], draining["running"]) == (4, 4)

    emulated.api.delete("chat-1")
    gone = await emulated.until(lambda chat: chat["endpoints"] == 0)
    assert (gone["ended"], gone["served"], gone["held"]) == (4, 0, 3)
    await emulated.until_closed(1)


async def test_the_process_of_a_terminating_pod_ends_with_its_last_answer_and_not_before(emulated: Emulated) -> None:
    emulated.api.put("chat-1", POD_IP(1))
    emulated.api.put("chat-2", POD_IP(2))
    await emulated.load(0.0, 4, output=300)
    await emulated.until(lambda chat: chat.get("running") == 4)

    emulated.api.put("chat-1", POD_IP(1), going=True)
    gone = await emulated.until(lambda chat: chat["endpoints"] == 1)

    assert gone["ended"] == gone["served"] >= 2  # nothing was cut off
    assert list(emulated.api.pods) == ["team-a/chat-2"]
    await emulated.until_closed(1)


@pytest.mark.parametrize("how", ["broken", "expired"])
async def test_what_happens_in_a_gap_of_the_watch_is_seen_by_the_next_list(emulated: Emulated, how: str) -> None:
    for number in (1, 2, 3, 4):
        emulated.api.put(f"chat-{number}", POD_IP(number))
    await emulated.until(lambda chat: chat["ready"] == 4)
    lists = emulated.api.lists

    emulated.api.delete("chat-2", silently=True)
    emulated.api.pods["team-a/chat-1"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    if how == "broken":
        emulated.api.break_watches()
    else:
        emulated.api.expire_watches()

    await emulated.until(lambda chat: (chat["endpoints"], chat["ready"]) == (3, 2))
    assert emulated.api.lists == lists + 2  # three pods, two to a page
    await emulated.until_closed(2)


async def test_a_pod_of_the_same_name_starts_afresh(emulated: Emulated) -> None:
    emulated.api.put("chat-0", POD_IP(1))
    await emulated.load(0.0, 3)
    await emulated.until(lambda chat: chat.get("served") == 3)

    emulated.api.put("chat-0", POD_IP(1), uid="another")

    async def fresh() -> bool:
        try:
            _, _, text = await emulated.scrape(1, "/metrics")
        except aiohttp.ClientConnectionError:
            return False  # between the two
        return 'vllm:generation_tokens_total{engine="0",model_name="chat"} 0.0' in text

    await eventually(fresh)
    assert (await emulated.chat())["endpoints"] == 1


async def test_a_crashed_pod_serves_nothing(emulated: Emulated) -> None:
    emulated.api.put("chat-1", POD_IP(1), ready=False)
    await emulated.until(lambda chat: chat["endpoints"] == 1)

    emulated.api.put("chat-1", POD_IP(1), ready=False, crashed=True)

    await emulated.until(lambda chat: chat["endpoints"] == 0)
    await emulated.until_closed(1)


async def test_a_pod_that_cannot_be_played_is_a_problem_and_not_a_crash(emulated: Emulated) -> None:
    emulated.api.put("odd-1", POD_IP(1), node="odd-0")
    emulated.api.put("odd-2", POD_IP(2), engine="tgi")
    emulated.api.put("odd-3", POD_IP(4), node="gone-0")
    emulated.api.put("odd-4", "192.0.2.1")
    emulated.api.put("real-1", POD_IP(5), node="process-0")  # none of ours: no problem either
    emulated.api.put("chat-1", POD_IP(3))
    await emulated.until(lambda chat: chat["ready"] == 1)

    first, second, third, fourth = (await emulated.results())["problems"]

    assert first.startswith("pod team-a/odd-1: node odd-0 has no label nvidia.com/gpu.product")
    assert second.startswith("pod team-a/odd-2: emulated engine 'tgi' is unknown")

    assert third.startswith("pod team-a/odd-3: GET /api/v1/nodes/gone-0: HTTP 404")
    assert fourth.startswith("pod team-a/odd-4: ")
    assert "192.0.2.1" in fourth

    emulated.api.delete("odd-1")

    async def three_left() -> bool:
        return len((await emulated.results())["problems"]) == 3

    await eventually(three_left)


async def test_the_process_ends_on_sigterm(tmp_path: Path) -> None:
    port = free_port()
    async with FakePodsApi() as api, aiohttp.ClientSession() as session:
        argv = ["-m", "ebbtide.sandbox.emulator", "--kubeconfig", str(api.kubeconfig(tmp_path)), "--port", str(port)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = await asyncio.create_subprocess_exec(sys.executable, *argv, env=environment)
        try:
            await answering(session, port, 20.0)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 10) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
