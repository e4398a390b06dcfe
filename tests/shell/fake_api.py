"""A small API server for error scripts: what it holds, what it was asked, and what it is told to answer.

It knows just enough: objects by path, resourceVersion preconditions, and scripted failures. What the real server does
is tested on the real one, in tests/cluster.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from ebbtide.kube.client import KubeClient

Answer = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    params: dict[str, str]
    body: Any


@dataclass
class FakeApi:
    """`answers[(method, path)]` are consumed first; then the default of the method."""

    asked: list[Asked] = field(default_factory=list)
    answers: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    on_request: Callable[[Asked], None] = lambda asked: None

    def will(self, method: str, path: str, *answers: Answer) -> None:
        self.answers.setdefault((method, path), []).extend(answers)

    def writes(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.method != "GET"]

    async def handle(self, request: web.Request) -> web.Response:
        raw = await request.read()
        body = msgspec.json.decode(raw) if raw else None
        asked = Asked(request.method, request.path, dict(request.query), body)
        self.asked.append(asked)
        self.on_request(asked)
        scripted = self.answers.get((asked.method, asked.path))
        status, answer = scripted.pop(0) if scripted else self._default(asked)
        return web.json_response(answer, status=status)

    def _default(self, asked: Asked) -> Answer:
        if asked.method == "GET" and asked.path not in self.objects:
            return 404, {"message": f"{asked.path} not found"}
        if asked.method == "GET":
            return 200, self.objects[asked.path]
        return 200, {"metadata": {"uid": "made", "resourceVersion": "1"}}


APPS = {"resources": [{"name": "deployments", "kind": "Deployment"}, {"name": "deployments/scale", "kind": "Scale"}]}


@asynccontextmanager
async def serving(api: FakeApi, directory: Path) -> AsyncIterator[KubeClient]:
    """The fake behind a real HTTP port, and a client of it."""
    api.objects.setdefault("/apis/apps/v1", APPS)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    async with TestServer(app) as server:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "clusters": [{"name": "fake", "cluster": {"server": str(server.make_url("")).rstrip("/")}}],
            "users": [{"name": "fake", "user": {}}],
        }
        kubeconfig = directory / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(config))
        async with KubeClient(kubeconfig, timeout_s=2.0) as client:
            yield client
