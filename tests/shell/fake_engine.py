"""A small OpenAI-like server on a loopback address: says what vLLM 0.32 was heard to say, when the test wants it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from aiohttp import web

from ebbtide.sandbox.demo_base import free_port

BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
SHUT_DOWN = "cannot schedule new futures after shutdown"

Behaviour = Literal[
    "answer", "abort", "shut down", "busy", "busy in the stream", "dead in the stream", "reset", "reset in the answer",
    "reset before a token", "too long", "fail", "nothing", "nothing but its end",
]  # fmt: skip


def token(text: str = "a", finish_reason: str | None = None) -> bytes:
    """One event of a stream, as vLLM 0.32 writes it."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason, "stop_reason": None}
    return event({"id": "cmpl-1", "object": "text_completion", "model": "tiny", "choices": [choice]})


def usage(tokens: int) -> bytes:
    return event({"id": "cmpl-1", "model": "tiny", "choices": [], "usage": {"completion_tokens": tokens}})


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def error(code: int, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "Service Unavailable", "param": None, "code": code}}


class FakeEngine:
    """`gap_s` lies between tokens. While `gate` is shut, only the first token of an answer comes."""

    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.behaviour: Behaviour = "answer"
        self.gap_s = 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.metrics = ""
        self.seen: list[dict[str, Any]] = []  # bodies, in the order in which they came
        self.calls: list[tuple[str, str, dict[str, str]]] = []  # method, path with query, headers
        self.left = 0  # clients that did not wait for the end
        self.inside = 0
        application = web.Application(client_max_size=2**26)
        application.router.add_post("/v1/completions", self._complete)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_route("*", "/{path:.*}", self._other)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, self.address, self.port).start()

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self.metrics, status=200 if self.metrics else 500)

    async def _other(self, http: web.Request) -> web.StreamResponse:
        self.calls.append((http.method, http.raw_path, dict(http.headers)))
        await http.read()
        if self.behaviour == "reset":
            return self._reset(http)
        return web.json_response({"path": http.raw_path}, headers={"X-Engine": self.address})

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        self.seen.append(await http.json())
        self.inside += 1
        try:
            return await self._answer(http, self.seen[-1])
        except (asyncio.CancelledError, ConnectionError):
            self.left += 1
            raise
        finally:
            self.inside -= 1

    async def _answer(self, http: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        refusals = {"shut down": (500, SHUT_DOWN), "busy": (503, BUSY), "too long": (400, "max_tokens=9 is too much")}
        refusals["fail"] = (500, "list index out of range")
        if self.behaviour in refusals:
            code, message = refusals[self.behaviour]
            return web.json_response(error(code, message), status=code)
        if self.behaviour == "reset":
            return self._reset(http)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(http)
        if self.behaviour == "reset before a token":
            return self._reset(http, response)
        if self.behaviour == "nothing":
            return response
        if self.behaviour == "nothing but its end":  # a request that comes while vLLM drains
            return await self._end(response, body, 0)
        if self.behaviour in ("busy in the stream", "dead in the stream"):
            told = error(503, BUSY) if self.behaviour == "busy in the stream" else error(500, DEAD)
            await response.write(event(told) + b"data: [DONE]\n\n")
            return response
        return await self._stream(http, response, body)

    async def _stream(
        self, http: web.Request, response: web.StreamResponse, body: dict[str, Any]
    ) -> web.StreamResponse:
        count = 1 + body["max_tokens"] // 2 if self.behaviour == "abort" else body["max_tokens"]
        last = "abort" if self.behaviour == "abort" else "length"
        for number in range(1, count + 1):
            await response.write(token(finish_reason=last if number == count else None))
            if self.behaviour == "reset in the answer":
                return self._reset(http, response)
            if number < count:
                await asyncio.sleep(self.gap_s)
                await self.gate.wait()
        return await self._end(response, body, count)

    async def _end(self, response: web.StreamResponse, body: dict[str, Any], tokens: int) -> web.StreamResponse:
        if body.get("stream_options"):
            await response.write(usage(tokens))
        await response.write(b"data: [DONE]\n\n")
        return response

    def _reset(self, http: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
        assert http.transport is not None
        http.transport.abort() if response is None else http.transport.close()
        return response or web.Response()


@asynccontextmanager
async def engines(*addresses: str) -> AsyncIterator[list[FakeEngine]]:
    """One on each address, all on the same free port."""
    port = free_port()
    found = [FakeEngine(address, port) for address in addresses]
    for engine in found:
        await engine.start()
    try:
        yield found
    finally:
        for engine in found:
            engine.gate.set()
            await engine.stop()
