"""The real gateway before engines that speak HTTP: who gets a request, who waits, who is asked twice."""

import asyncio
import json
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from ebbtide.kube.client import KubeClient
from ebbtide.sandbox.demo_base import free_port
from ebbtide.sandbox.realgateway import service
from ebbtide.sandbox.realgateway.backends import HoldLimits
from ebbtide.sandbox.realgateway.service import RealGateway
from tests.shell.fake_engine import BUSY, Behaviour, FakeEngine, engines
from tests.shell.fake_pods_api import FakePodsApi
from tests.shell.loopback import answering
from tests.shell.loopback import eventually as answered

CHAT = "team-a/chat"
eventually = partial(answered, within_s=30.0)  # a busy machine starts programs late
COMPLETIONS = f"/{CHAT}/v1/completions"
# a part of loopback that no sandbox claims
POD_IP = "127.61.8.{}".format

GAUGES = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="a}}b"}} {running}
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0",model_name="a}}b"}} 4.0
vllm:num_requests_waiting_by_reason{{engine="0",model_name="a}}b",reason="capacity"}} 99.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{engine="0",model_name="a}}b"}} 0.5
"""


class Answer:
    """A whole answer."""

    def __init__(self, response: aiohttp.ClientResponse, content: bytes) -> None:
        self.status, self.headers, self.content = response.status, response.headers, content

    @property
    def by(self) -> str:
        return self.headers.get("X-Sandbox-Endpoint", "").removeprefix("team-a/")

    @property
    def tokens(self) -> int:
        return self.content.count(b'"text":')


class Gated:
    """A running gateway, its API server, engines on the pods' addresses, and a client."""

    def __init__(self, api: FakePodsApi, port: int, found: list[FakeEngine], session: aiohttp.ClientSession) -> None:
        self.api, self.engines, self.session = api, found, session
        self.url = f"http://127.0.0.1:{port}"

    def pod(self, number: int, **state: Any) -> None:
        """chat-1 is on the address of the first engine, and so on."""
        engine = self.engines[number - 1]
        self.api.put(f"chat-{number}", engine.address, **{"port": engine.port, **state})

    async def ready(self, *numbers: int) -> None:
        for number in numbers:
            self.pod(number)
        await self.until(lambda chat: chat["ready"] == len(numbers))

    async def ask(self, tokens: int = 3, name: int = 7, **more: Any) -> Answer:
        body = {"model": "tiny", "prompt": [name], "max_tokens": tokens, "stream": True, **more}
        async with self.session.post(self.url + COMPLETIONS, json=body) as response:
            return Answer(response, await response.read())

    async def routes(self) -> dict[str, Any]:
        async with self.session.get(f"{self.url}/routes") as response:
            return dict(await response.json())

    async def chat(self) -> dict[str, Any]:
        routes = (await self.routes())["routes"]
        return dict(routes.get(CHAT, {"ready": 0, "held": 0, "arrived": 0, "endpoints": {}}))

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async def chat_holds() -> dict[str, Any] | None:
            chat = await self.chat()
            return chat if holds(chat) else None

        found: dict[str, Any] = await eventually(chat_holds)
        return found

    async def metric(self, name: str) -> float | None:
        async with self.session.get(f"{self.url}/team-a/metrics") as response:
            lines = (await response.text()).splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{")), None)


@asynccontextmanager
async def gated(tmp_path: Path, *, limits: HoldLimits | None = None, count: int = 3) -> AsyncIterator[Gated]:
    port, ended = free_port(), asyncio.Event()
    gateway = RealGateway("least-loaded", 1, limits or HoldLimits())
    addresses = [POD_IP(number) for number in range(1, count + 1)]
    async with (
        engines(*addresses) as found,
        FakePodsApi() as api,
        KubeClient(api.kubeconfig(tmp_path)) as client,
        aiohttp.ClientSession() as session,
    ):
        running = asyncio.create_task(service.run(client, gateway, host="127.0.0.1", port=port, ended=ended))
        up = asyncio.create_task(answering(session, port, 60.0))
        await asyncio.wait((running, up), return_when="FIRST_COMPLETED")
        if running.done():
            await running  # says why it ended
        yield Gated(api, port, found, session)
        ended.set()
        await running


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Gated]:
    async with gated(tmp_path) as found:
        yield found


async def test_a_request_reaches_an_engine_as_it_was_sent_and_its_answer_comes_back(gate: Gated) -> None:
    await gate.ready(1)

    answer = await gate.ask(tokens=5)
    url = URL(f"{gate.url}/{CHAT}/v1/models?a=b%2Fc", encoded=True)
    async with gate.session.get(url, headers={"Authorization": "Bearer x"}) as models:
        told = await models.json()

    assert (answer.status, answer.tokens, answer.by) == (200, 5, "chat-1")
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert gate.engines[0].seen == [{"model": "tiny", "prompt": [7], "max_tokens": 5, "stream": True}]
    assert (told, models.headers["X-Engine"]) == ({"path": "/v1/models?a=b%2Fc"}, POD_IP(1))
    method, path, headers = gate.engines[0].calls[0]
    assert (method, path, headers["Authorization"]) == ("GET", "/v1/models?a=b%2Fc", "Bearer x")
    chat = await gate.until(lambda chat: chat["served"] == 2)
    assert (chat["arrived"], chat["failed"], chat["endpoints"]["team-a/chat-1"]["served"]) == (2, 0, 2)


async def test_the_first_token_arrives_before_the_last_was_made(gate: Gated) -> None:
    await gate.ready(1)
    gate.engines[0].gate.clear()
    body = {"prompt": [1], "max_tokens": 4, "stream": True}

    async with asyncio.timeout(30), gate.session.post(gate.url + COMPLETIONS, json=body) as response:
        first = await response.content.readany()
        inside = (await gate.chat())["endpoints"]["team-a/chat-1"]["in_flight"]
        gate.engines[0].gate.set()
        rest = await response.content.read()

    assert (first.count(b'"text":'), inside, rest.count(b'"text":')) == (1, 1, 3)


async def test_requests_go_where_fewest_are(gate: Gated) -> None:
    await gate.ready(1, 2, 3)
    for engine in gate.engines:
        engine.gate.clear()
    asked = [asyncio.create_task(gate.ask()) for _ in range(9)]
    await gate.until(lambda chat: chat["arrived"] == 9)
    await eventually(lambda: _true(sum(engine.inside for engine in gate.engines) == 9))

    assert [engine.inside for engine in gate.engines] == [3, 3, 3]

    gate.engines[1].gate.set()
    await eventually(lambda: _true(gate.engines[1].inside == 0))
    later = [asyncio.create_task(gate.ask()) for _ in range(2)]
    assert {answer.by for answer in await asyncio.gather(*later)} == {"chat-2"}
    for engine in gate.engines:
        engine.gate.set()
    assert {answer.tokens for answer in await asyncio.gather(*asked)} == {3}


async def _true(value: bool) -> bool:
    return value


async def test_a_terminating_pod_gets_nothing_new_and_finishes_what_it_has(gate: Gated) -> None:
    await gate.ready(1)
    gate.engines[0].gate.clear()
    old = asyncio.create_task(gate.ask(tokens=6))
    await eventually(lambda: _true(gate.engines[0].inside == 1))
    gate.pod(2)
    gate.pod(1, going=True)
    await gate.until(lambda chat: chat["ready"] == 1 and not chat["endpoints"]["team-a/chat-1"]["ready"])

    new = await asyncio.gather(*(gate.ask() for _ in range(8)))
    gate.engines[0].gate.set()
    finished = await old

    assert {answer.by for answer in new} == {"chat-2"}
    assert (finished.by, finished.tokens, len(gate.engines[0].seen)) == ("chat-1", 6, 1)


@pytest.mark.parametrize("state", [{"ready": False}, {"crashed": True}, {"going": True}], ids=str)
async def test_a_pod_that_is_not_ready_gets_nothing(gate: Gated, state: dict[str, Any]) -> None:
    await gate.ready(1, 2)
    gate.pod(1, **state)
    await gate.until(lambda chat: chat["ready"] == 1)

    answers = await asyncio.gather(*(gate.ask() for _ in range(6)))

    assert {answer.by for answer in answers} == {"chat-2"}


async def test_requests_wait_for_the_first_pod_and_reach_it_in_their_order(gate: Gated) -> None:
    asked = []
    for number in range(5):
        asked.append(asyncio.create_task(gate.ask(name=number)))
        await gate.until(lambda chat, number=number: chat["held"] == number + 1)
    queued = await gate.metric("inference_extension_flow_control_queue_size")
    ready = await gate.metric("inference_pool_ready_pods")

    gate.pod(1)
    answers = await asyncio.gather(*asked)

    assert (queued, ready) == (5, 0)
    assert {(answer.status, answer.tokens) for answer in answers} == {(200, 3)}
    assert [body["prompt"] for body in gate.engines[0].seen] == [[number] for number in range(5)]
    assert (await gate.chat())["held"] == 0


async def test_what_cannot_wait_is_refused_with_a_reason(tmp_path: Path) -> None:
    async with gated(tmp_path, limits=HoldLimits(requests=2, hold_s=0.5)) as gate:
        gate.pod(1, ready=False)
        await gate.until(lambda chat: len(chat["endpoints"]) == 1)
        waiting = [asyncio.create_task(gate.ask()) for _ in range(2)]
        await gate.until(lambda chat: chat["held"] == 2)

        full = await gate.ask()
        late = await asyncio.gather(*waiting)

        assert [answer.status for answer in (full, *late)] == [503, 503, 503]
        assert all(int(answer.headers["Retry-After"]) > 0 for answer in (full, *late))
        none_ready = "of 1 running endpoints none is ready"
        assert _message(full) == f"team-a/chat: 2 requests wait already, and {none_ready}"
        assert _message(late[0]) == f"team-a/chat: held for 0.5 s, and {none_ready}"
        chat = await gate.chat()
        assert (chat["refused"], chat["held"], chat["arrived"]) == (3, 0, 3)


def _message(answer: Answer) -> str:
    return str(json.loads(answer.content)["error"]["message"])


@pytest.mark.parametrize(
    "behaviour",
    ["shut down", "busy", "busy in the stream", "dead in the stream", "reset", "reset before a token", "nothing"],
)
async def test_whoever_gives_no_answer_is_not_the_last_to_be_asked(gate: Gated, behaviour: Behaviour) -> None:
    await gate.ready(1, 2)
    gate.engines[0].behaviour = behaviour
    gate.engines[1].gate.clear()  # so that it is the busier one from its first request on
    asked = [asyncio.create_task(gate.ask()) for _ in range(2)]
    await eventually(lambda: _true(gate.engines[1].inside == 2))
    gate.engines[1].gate.set()

    answers = await asyncio.gather(*asked)

    assert {(answer.status, answer.by, answer.tokens) for answer in answers} == {(200, "chat-2", 3)}
    assert len(gate.engines[0].seen) == 1
    chat = await gate.chat()
    assert (chat["retried"], chat["served"], chat["failed"]) == (1, 2, 0)


async def test_an_endpoint_that_cannot_be_reached_rests_and_its_requests_go_elsewhere(gate: Gated) -> None:
    await gate.ready(1, 2)
    await gate.engines[0].stop()

    answers = await asyncio.gather(*(gate.ask() for _ in range(8)))

    assert {(answer.status, answer.by) for answer in answers} == {(200, "chat-2")}


async def test_while_the_only_endpoint_shuts_down_requests_wait_for_another(gate: Gated) -> None:
    await gate.ready(1)
    gate.engines[0].behaviour = "shut down"
    asked = asyncio.create_task(gate.ask())
    await gate.until(lambda chat: chat["held"] == 1)

    gate.pod(1, going=True)
    gate.pod(2)

    answer = await asked
    assert (answer.status, answer.by) == (200, "chat-2")


async def test_an_endpoint_that_rested_gets_what_waited_for_it(gate: Gated) -> None:
    await gate.ready(1)
    gate.engines[0].behaviour = "shut down"
    asked = asyncio.create_task(gate.ask())
    await gate.until(lambda chat: chat["held"] == 1)

    gate.engines[0].behaviour = "answer"

    async with asyncio.timeout(30):
        answer = await asked
    assert (answer.status, answer.by) == (200, "chat-1")


@pytest.mark.parametrize("behaviour", ["busy", "busy in the stream"])
async def test_a_refusal_is_passed_on_where_nobody_else_can_be_asked(gate: Gated, behaviour: Behaviour) -> None:
    await gate.ready(1)
    gate.engines[0].behaviour = behaviour

    answer = await gate.ask()

    assert answer.status == (503 if behaviour == "busy" else 200)
    assert BUSY.encode() in answer.content
    assert len(gate.engines[0].seen) == 1
    assert (await gate.chat())["failed"] == 1


async def test_nobody_is_asked_a_third_time(gate: Gated) -> None:
    await gate.ready(1, 2, 3)
    for engine in gate.engines:
        engine.behaviour = "busy"

    answer = await gate.ask()

    assert (answer.status, BUSY.encode() in answer.content) == (503, True)
    assert sum(len(engine.seen) for engine in gate.engines) == 2
    assert (await gate.chat())["failed"] == 1


@pytest.mark.parametrize("more", [{}, {"stream_options": {"include_usage": True}}], ids=["plain", "with usage"])
async def test_a_stream_of_nothing_but_its_end_is_no_answer(gate: Gated, more: dict[str, Any]) -> None:
    await gate.ready(1)
    gate.engines[0].behaviour = "nothing but its end"
    asked = asyncio.create_task(gate.ask(**more))
    await gate.until(lambda chat: chat["held"] == 1)

    gate.pod(1, going=True)
    gate.pod(2)

    assert ((await asked).by, (await asked).tokens) == ("chat-2", 3)


async def test_two_streams_without_a_word_are_a_503_with_the_reason(gate: Gated) -> None:
    await gate.ready(1, 2)
    for engine in gate.engines:
        engine.behaviour = "nothing"

    answer = await gate.ask()

    assert (answer.status, _message(answer).partition(": ")[2]) == (503, "the stream ended before it began")
    assert (await gate.chat())["failed"] == 1


@pytest.mark.parametrize(("behaviour", "status"), [("too long", 400), ("fail", 500)])
async def test_an_answer_that_says_no_is_an_answer(gate: Gated, behaviour: Behaviour, status: int) -> None:
    await gate.ready(1, 2)
    for engine in gate.engines:
        engine.behaviour = behaviour

    answer = await gate.ask()

    assert answer.status == status
    assert sum(len(engine.seen) for engine in gate.engines) == 1


async def test_an_answer_that_breaks_off_is_not_begun_again_and_the_client_can_tell(gate: Gated) -> None:
    await gate.ready(1, 2)
    for engine in gate.engines:
        engine.behaviour = "reset in the answer"

    with pytest.raises(aiohttp.ClientPayloadError):
        await gate.ask()

    assert sum(len(engine.seen) for engine in gate.engines) == 1
    chat = await gate.until(lambda chat: chat["failed"] == 1)
    assert chat["retried"] == 0


async def test_what_may_change_something_is_not_asked_twice(gate: Gated) -> None:
    await gate.ready(1, 2)
    for engine in gate.engines:
        engine.behaviour = "reset"

    async with gate.session.post(f"{gate.url}/{CHAT}/v1/files", data=b"x") as response:
        assert response.status == 503

    assert sum(len(engine.calls) for engine in gate.engines) == 1


async def test_a_client_that_leaves_ends_the_work_that_was_done_for_it(gate: Gated) -> None:
    held = asyncio.create_task(gate.ask())
    await gate.until(lambda chat: chat["held"] == 1)
    held.cancel()
    await gate.until(lambda chat: (chat["held"], chat["left"]) == (0, 1))

    await gate.ready(1)
    gate.engines[0].gate.clear()
    streaming = asyncio.create_task(gate.ask(tokens=50))
    await eventually(lambda: _true(gate.engines[0].inside == 1))
    streaming.cancel()

    await eventually(lambda: _true((gate.engines[0].left, gate.engines[0].inside) == (1, 0)))
    chat = await gate.until(lambda chat: chat["left"] == 2)
    assert (chat["arrived"], chat["endpoints"]["team-a/chat-1"]["in_flight"]) == (2, 0)


async def test_the_means_are_those_that_the_engines_say_and_unknown_is_not_zero(gate: Gated) -> None:
    assert await gate.metric("inference_pool_average_running_requests") is None
    gate.engines[0].metrics = GAUGES.format(running=2.0)
    gate.engines[1].metrics = GAUGES.format(running=6.0)
    await gate.ready(1, 2)

    async def running(wanted: float) -> bool:
        value = await gate.metric("llm_d_epp_average_running_requests")
        return value is not None and (value == wanted or [*map(math.isnan, (value, wanted))] == [True, True])

    await eventually(lambda: running(4.0))
    assert await gate.metric("inference_pool_average_queue_size") == 4.0
    assert await gate.metric("inference_pool_average_kv_cache_utilization") == 0.5
    assert await gate.metric("inference_pool_ready_pods") == 2.0

    gate.engines[0].metrics = ""
    await eventually(lambda: running(6.0))
    gate.engines[1].metrics = ""
    await eventually(lambda: running(math.nan))
    gate.api.delete("chat-1")
    gate.api.delete("chat-2")
    await eventually(lambda: running(0.0))


@pytest.mark.parametrize("how", ["broken", "expired"])
async def test_what_happens_in_a_gap_of_the_watch_is_seen_by_the_next_list(gate: Gated, how: str) -> None:
    await gate.ready(1, 2, 3)

    gate.api.delete("chat-2", silently=True)
    gate.api.pods["team-a/chat-1"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    if how == "broken":
        gate.api.break_watches()
    else:
        gate.api.expire_watches()

    await gate.until(lambda chat: (len(chat["endpoints"]), chat["ready"]) == (2, 1))
    assert {answer.by for answer in await asyncio.gather(*(gate.ask() for _ in range(4)))} == {"chat-3"}


async def test_no_request_is_lost_while_pods_come_and_go(gate: Gated) -> None:
    for engine in gate.engines:
        engine.gap_s = 0.01
    await gate.ready(1)
    asked: list[asyncio.Task[Answer]] = []
    changes = [(2, {}), (1, {"going": True}), (3, {}), (2, {"ready": False}), (3, {"going": True}), (2, {})]
    for number, state in changes:
        asked += [asyncio.create_task(gate.ask(tokens=20)) for _ in range(10)]
        gate.pod(number, **state)
        await asyncio.sleep(0.1)
    gate.api.delete("chat-1")

    answers = await asyncio.gather(*asked)

    assert {(answer.status, answer.tokens) for answer in answers} == {(200, 20)}
    assert len({answer.by for answer in answers}) == 3
    chat = await gate.chat()
    assert (chat["arrived"], chat["served"], chat["held"]) == (60, 60, 0)


async def test_a_pod_says_its_port_and_a_wrong_one_is_a_problem(gate: Gated) -> None:
    port = gate.engines[0].port
    gate.pod(1, port=1, annotations={"prometheus.io/port": str(port)})
    gate.pod(2, annotations={"prometheus.io/port": "http"})
    await gate.until(lambda chat: chat["ready"] == 1)

    assert (await gate.ask()).by == "chat-1"
    assert (await gate.routes())["problems"] == [
        "pod team-a/chat-2: annotation prometheus.io/port: 'http' is not a port from 1 to 65535"
    ]

    gate.pod(2)
    await gate.until(lambda chat: chat["ready"] == 2)
    assert (await gate.routes())["problems"] == []


async def test_a_pod_of_the_same_name_is_another_endpoint(gate: Gated) -> None:
    await gate.ready(1)
    await gate.ask()
    gate.api.put("chat-1", POD_IP(2), port=gate.engines[0].port, uid="another")

    async def fresh() -> bool:
        endpoint = (await gate.chat())["endpoints"].get("team-a/chat-1", {"served": -1})
        return bool(endpoint["served"] == 0)

    await eventually(fresh)
    await gate.ask()
    assert len(gate.engines[1].seen) == 1


async def test_the_process_forwards_and_ends_on_sigterm(tmp_path: Path) -> None:
    port = free_port()
    async with engines(POD_IP(9)) as (engine,), FakePodsApi() as api, aiohttp.ClientSession() as session:
        argv = ["-m", "ebbtide.sandbox.realgateway", "--kubeconfig", str(api.kubeconfig(tmp_path)), "--port", str(port)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = await asyncio.create_subprocess_exec(sys.executable, *argv, "--route", CHAT, env=environment)
        try:
            await answering(session, port, 60.0)
            gate = Gated(api, port, [engine], session)
            assert await gate.metric("llm_d_epp_flow_control_queue_size") == 0.0  # declared, before anybody asked
            gate.pod(1)
            assert (await gate.ask()).tokens == 3
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
