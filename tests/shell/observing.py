"""Boundaries for tests of the observe layer: an API server that follows a script, exposition pages, and builders."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiohttp import web

from ebbtide.kube.client import KubeClient
from ebbtide.observe.settings import WatchSettings

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

QUICK = WatchSettings(page_size=2, watch_s=5, silence_s=0.5, relist_s=60, backoff_s=0.01, backoff_max_s=0.05)


def pod(name: str, version: int = 1, **more: Any) -> dict[str, Any]:
    """A pod as the API server would send it."""
    metadata = {
        "name": name,
        "namespace": "team-a",
        "uid": more.pop("uid", f"uid-{name}"),
        "resourceVersion": str(version),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": more.pop("labels", {"app": "chat"}),
        "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
    }
    return {"metadata": metadata | more.pop("metadata", {}), "spec": more.pop("spec", {}), "status": more}


def page(*items: dict[str, Any], version: int = 1, more: str = "") -> Answer:
    """A list page; `more`: the continue token."""
    body = {"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(items)}

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response(body)

    return answer


def status(code: int, message: str = "scripted") -> Answer:
    """An error answer."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "code": code, "message": message}, status=code)

    return answer


def events(*lines: dict[str, Any] | str, then: str = "end") -> Answer:
    """A watch that sends these and then ends, hangs (says nothing more), or breaks off within a line."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for line in lines:
            await response.write((line if isinstance(line, str) else json.dumps(line)).encode() + b"\n")
        if then == "hang":
            await asyncio.sleep(30)
        if then == "break":
            await response.write(b'{"type":"ADDED","obj')
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer


def event(kind: str, item: dict[str, Any]) -> dict[str, Any]:
    """A watch event."""
    return {"type": kind, "object": item}


class ScriptedApi:
    """Answers lists and watches of every path from two scripts; the last answer of a script repeats for ever."""

    def __init__(self, lists: list[Answer], watches: list[Answer]) -> None:
        self.lists = lists
        self.watches = watches
        self.seen: list[str] = []  # "list", "list continue=…", "watch rv=…"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if query.get("watch"):
            self.seen.append(f"watch rv={query['resourceVersion']}")
            return await self._next(self.watches)(request)
        self.seen.append(f"list continue={query['continue']}" if "continue" in query else "list")
        return await self._next(self.lists)(request)

    @staticmethod
    def _next(script: list[Answer]) -> Answer:
        return script.pop(0) if len(script) > 1 else script[0]


@contextlib.asynccontextmanager
async def api_client(answer: Answer, folder: Path) -> AsyncIterator[KubeClient]:
    """A KubeClient of an in-process API server that answers everything with `answer`."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "test", "user": {"token": "scripted"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    try:
        async with KubeClient(path) as client:
            yield client
    finally:
        await runner.cleanup()


async def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait until it holds; the test fails when it does not in time."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.005)


class Exposition:
    """An HTTP server in a thread whose answer is a function of the path: (status, text)."""

    def __init__(self, answer: Callable[[str], tuple[int, str]]) -> None:
        self.answer = answer
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                code, text = outer.answer(self.path)
                body = text.encode()
                # who asked may have given up by now, which is no fault of the test that asks too late on purpose
                with contextlib.suppress(BrokenPipeError):
                    self._send(code, body)

            def _send(self, code: int, body: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator["Exposition"]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()
