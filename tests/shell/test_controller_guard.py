"""The client that asks before each write, and the thread that keeps the Lease, against a server on loopback."""

import asyncio
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ebbtide.controller.leadership import AlwaysLeading, GuardedClient, LeaseThread, NotLeadingError
from ebbtide.controller.lease import LeaseSettings
from ebbtide.controller.operator import run_operator
from ebbtide.controller.settings import load_settings
from ebbtide.errors import ConfigurationError, ConflictError, RetryableError
from ebbtide.kube.client import KubeClient


@dataclass
class Leads:
    leading: bool = True
    holder: str = "me"
    left_s: float = 5.0

    def may_write(self) -> bool:
        return self.leading

    def write_timeout_s(self) -> float:
        return self.left_s


@dataclass
class Seen:
    requests: list[str] = field(default_factory=list)
    hang: bool = False
    lease: dict[str, object] | None = None
    version: int = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append(f"{request.method} {request.path.rpartition('/')[2]}")
        if self.hang:
            await asyncio.sleep(60)
        if "leases" not in request.path:
            return web.json_response({})
        if request.method == "GET":
            return web.json_response(self.lease or {"message": "none"}, status=200 if self.lease else 404)
        self.version += 1
        spec = (await request.json())["spec"]
        self.lease = {"metadata": {"resourceVersion": str(self.version)}, "spec": spec}
        return web.json_response(self.lease)


@pytest.fixture
async def server(tmp_path):
    seen = Seen()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", seen.handle)
    running = TestServer(app)
    await running.start_server()
    config = tmp_path / "config"
    config.write_text(
        f"""{{apiVersion: v1, kind: Config, current-context: c, users: [{{name: u, user: {{}}}}],
        contexts: [{{name: c, context: {{cluster: k, user: u}}}}],
        clusters: [{{name: k, cluster: {{server: "{str(running.make_url("")).rstrip("/")}"}}}}]}}"""
    )
    yield seen, config
    await running.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_without_the_lease_no_write_is_sent_and_reading_goes_on(server, method):
    seen, config = server
    async with GuardedClient(Leads(leading=False), config) as client:
        with pytest.raises(NotLeadingError, match="not sent, because this process does not hold the lease"):
            await client.request(method, "/thing", body={})
        await client.get("/thing")
    assert seen.requests == ["GET thing"]


async def test_an_apply_is_a_write_too(server):
    seen, config = server
    async with GuardedClient(Leads(leading=False), config) as client:
        with pytest.raises(ConflictError):
            await client.apply("/thing", {}, field_manager="test")
    assert seen.requests == []


async def test_with_the_lease_writes_pass(server):
    seen, config = server
    for leadership in (Leads(), AlwaysLeading()):
        async with GuardedClient(leadership, config) as client:
            await client.request("PATCH", "/thing", body={})
    assert seen.requests == ["PATCH thing"] * 2


async def test_a_write_is_given_up_before_the_lease_could_be_anothers(server):
    seen, config = server
    seen.hang = True
    async with GuardedClient(Leads(left_s=0.2), config) as client:
        with pytest.raises(RetryableError):
            await asyncio.wait_for(client.request("PATCH", "/thing", body={}), 30)


async def test_the_lease_thread_leads_keeps_renewing_and_releases(server):
    seen, config = server
    led, lost = asyncio.Event(), []
    loop = asyncio.get_running_loop()
    settings = LeaseSettings("ns", "ebbtide", "me", retry_s=0.05)
    thread = LeaseThread(
        KubeClient(config), settings, on_leading=lambda: loop.call_soon_threadsafe(led.set), on_lost=lost.append
    )
    assert not thread.leadership.may_write()
    thread.start()
    await asyncio.wait_for(led.wait(), 20)
    assert thread.leadership.may_write()
    async with asyncio.timeout(20):
        while seen.requests.count("PUT ebbtide") < 3:  # noqa: ASYNC110 - another thread's doing
            await asyncio.sleep(0.02)
    await thread.stop()
    assert seen.lease["spec"]["holderIdentity"] == ""
    assert not thread.leadership.may_write()
    assert lost == []


async def test_stopping_a_thread_that_never_led_leaves_the_lease_alone(server):
    seen, config = server
    seen.lease = {
        "metadata": {"resourceVersion": "7"},
        "spec": {"holderIdentity": "other", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"},
    }
    settings = LeaseSettings("ns", "ebbtide", "me", retry_s=0.05)
    thread = LeaseThread(KubeClient(config), settings, on_leading=lambda: None)
    thread.start()
    async with asyncio.timeout(20):
        while len(seen.requests) < 3:  # noqa: ASYNC110 - another thread's doing
            await asyncio.sleep(0.02)
    await thread.stop()
    assert set(seen.requests) == {"GET ebbtide"}


async def test_a_port_that_is_taken_is_said_in_words_before_anything_else_starts(server, tmp_path):
    seen, config = server
    taken = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    flags = {"kubeconfig": str(config), "data_dir": str(tmp_path / "data"), "http_host": "127.0.0.1"}
    async with taken:
        with pytest.raises(ConfigurationError, match=f"http_port {port}: cannot listen"):
            await run_operator(load_settings({**flags, "http_port": str(port)}))
    assert seen.requests == []
    assert not (tmp_path / "data").exists()
