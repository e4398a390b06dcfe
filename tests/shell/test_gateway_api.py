"""The gateway's control port over real HTTP."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from ebbtide.sandbox.gateway import Endpoint, Gateway
from ebbtide.sandbox.gateway_api import GatewayApi
from ebbtide.sim.engine import Engine
from ebbtide.sim.profiles import profile

CHAT = "team-a/chat"


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def call(clock: Clock) -> AsyncIterator[Callable[..., Any]]:
    gateway = Gateway("least-loaded", seed=1)
    endpoint = Endpoint("team-a/chat-1", CHAT, Engine(profile("8B", "NVIDIA-H100-80GB-HBM3"), 1))
    gateway.add(endpoint)
    gateway.set_ready(endpoint, True, clock())
    server = TestServer(GatewayApi(gateway, clock, lambda: ["pod team-a/odd: unknown"]).application())
    await server.start_server()
    async with aiohttp.ClientSession() as session:

        async def send(method: str, path: str, body: Any = None) -> tuple[int, Any]:
            async with session.request(method, server.make_url(path), json=body) as response:
                text = response.content_type == "text/plain"
                return response.status, await (response.text() if text else response.json())

        yield send
    await server.close()


async def test_a_list_of_requests_is_sent_and_its_outcomes_are_told(call: Callable[..., Any], clock: Clock) -> None:
    order = {
        "route": CHAT,
        "requests": [[0.0, 500, 20], [1.0, 500, 1], [70.0, 500, 20]],
        "objectives": {"time_to_first_token_s": 0.5, "inter_token_latency_s": 0.05},
        "start_in_s": 5,
    }
    assert await call("POST", "/load", order) == (200, {"route": CHAT, "requests": 3, "last_arrival_s": 70.0})

    clock.now_s += 60
    _, early = await call("GET", "/results")
    clock.now_s += 60
    status, late = await call("GET", f"/results?route={CHAT}&requests=true")

    assert (early["routes"][CHAT]["requests"], early["routes"][CHAT]["streams"]) == (2, 1)
    assert "outcomes" not in early["routes"][CHAT]
    summary = late["routes"][CHAT]
    assert (status, summary["requests"], summary["ended"], summary["streams"]) == (200, 3, 3, 0)
    assert (summary["met_both"], summary["requests_after"], summary["met_both_after_s"]) == (1.0, 1, 1.0)
    assert [one["at_s"] for one in summary["outcomes"]] == pytest.approx([0.0, 1.0, 70.0])
    assert [one["inter_token_latency_s"] is None for one in summary["outcomes"]] == [False, True, False]
    assert late["problems"] == ["pod team-a/odd: unknown"]


async def test_a_shape_becomes_requests(call: Callable[..., Any], clock: Clock) -> None:
    order = {"route": CHAT, "shape": {"shape": "constant", "per_second": 4}, "duration_s": 60, "seed": 3, "swing": 0}
    _, started = await call("POST", "/load", order)
    clock.now_s += 80
    _, results = await call("GET", "/results")

    assert 180 < started["requests"] < 300
    assert results["routes"][CHAT]["ended"] == started["requests"]


async def test_metrics_show_the_queue_of_a_route_without_pods(call: Callable[..., Any], clock: Clock) -> None:
    await call("POST", "/load", {"route": "team-b/cold", "requests": [[0.0, 10, 10], [1.0, 10, 10]]})
    clock.now_s += 5
    await call("GET", "/results")

    status, text = await call("GET", "/team-b/metrics")

    queue = next(
        line
        for line in text.splitlines()
        if line.startswith("inference_extension_flow_control_queue_size{") and 'inference_pool="cold"' in line
    )
    assert (status, queue.rpartition(" ")[2]) == (200, "2.0")
    assert "chat" not in text, "another namespace's pools have a page of their own"
    _, other = await call("GET", "/team-a/metrics")
    assert 'inference_pool_ready_pods{name="chat"} 1.0' in other
    assert 'llm_d_epp_per_endpoint_queue_size{model_server_endpoint="chat-1",name="chat"} 0.0' in other


async def test_a_load_can_be_stopped(call: Callable[..., Any], clock: Clock) -> None:
    await call("POST", "/load", {"route": CHAT, "requests": [[float(second), 10, 10] for second in range(60)]})
    clock.now_s += 10

    assert await call("DELETE", f"/load?route={CHAT}") == (200, {"stopped": 1})
    clock.now_s += 60
    _, results = await call("GET", "/results")
    assert results["routes"][CHAT]["requests"] == 11


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"route": "chat", "requests": []}, "route: 'chat' is not <namespace>/<name>"),
        ({"route": CHAT}, "exactly one of requests and shape"),
        ({"route": CHAT, "requests": [], "shape": {"shape": "constant", "per_second": 1}}, "exactly one"),
        ({"route": CHAT, "shape": {"shape": "constant", "per_second": 1}}, "duration_s"),
        ({"route": CHAT, "shape": {"shape": "zigzag"}, "duration_s": 1}, "zigzag"),
        ({"route": CHAT, "requests": [[0.0, 0, 5]]}, "tokens >= 1"),
        ({"route": CHAT, "requests": [[0.0, 5]]}, "requests"),
        ({"route": CHAT, "requests": [], "start_in_s": -1}, "start_in_s: -1"),
        ({"route": CHAT, "requests": [], "colour": 1}, "colour"),
    ],
)
async def test_a_bad_order_is_refused_by_name(call: Callable[..., Any], body: dict[str, Any], named: str) -> None:
    status, answer = await call("POST", "/load", body)

    assert status == 400
    assert named in answer["error"]


async def test_an_unknown_route_is_named(call: Callable[..., Any]) -> None:
    status, answer = await call("GET", "/results?route=team-z/none")

    assert status == 404
    assert answer["error"] == "route 'team-z/none' is unknown; known: ['team-a/chat']"
