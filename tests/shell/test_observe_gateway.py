"""The gateways' queues: sums by label, ages, and who is woken when."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import aiohttp
import msgspec
import pytest

from ebbtide.model.snapshot import NOT_APPLICABLE, UNKNOWN, Quality
from ebbtide.model.spec import Activator
from ebbtide.observe.gateway import Gateways
from ebbtide.observe.settings import GatewaySettings
from tests.shell.observing import Exposition, eventually

NAMES = ("inference_extension_flow_control_queue_size", "llm_d_epp_flow_control_queue_size")

PAGE = """# HELP inference_extension_flow_control_queue_size requests
# TYPE inference_extension_flow_control_queue_size gauge
inference_extension_flow_control_queue_size{inference_pool="chat",priority="0"} 2
inference_extension_flow_control_queue_size{inference_pool="chat",priority="1"} 3
inference_extension_flow_control_queue_size{inference_pool="mail",priority="0"} 7
llm_d_epp_flow_control_queue_size{inference_pool="chat",priority="0"} 5
inference_extension_flow_control_queue_size_total{inference_pool="chat"} 99
"""


def activator(pool: str = "chat", names: tuple[str, ...] = NAMES, url: str = "http://gateway/metrics") -> Activator:
    return Activator(url=url, queue_metrics=names, labels=(("inference_pool", pool),))


@pytest.mark.parametrize(
    ("asked", "length"),
    [
        pytest.param(activator(), 5.0, id="priorities add up, the same queue under two names does not"),
        pytest.param(activator("mail"), 7.0, id="the labels choose"),
        pytest.param(activator("nobody"), None, id="no such series is not an empty queue"),
        pytest.param(activator(names=("other",)), None, id="no such metric"),
        pytest.param(msgspec.structs.replace(activator(), labels=()), 12.0, id="without labels all series count"),
    ],
)
async def test_the_length_of_a_queue(asked: Activator, length: float | None) -> None:
    gateways = Gateways(GatewaySettings(), lambda: None)
    with Exposition(lambda _path: (200, PAGE)).running() as server:
        gateways.follow({"ns/chat": msgspec.structs.replace(asked, url=f"http://{server.address}/metrics")})
        async with aiohttp.ClientSession() as session:
            await gateways.poll(session)
    assert gateways.reading("ns/chat").value == length


class Gateway:
    """A gateway page whose queue can be set, counting its requests."""

    def __init__(self) -> None:
        self.queue: float | None = 0.0
        self.status = 200
        self.before = ""
        self.requests = 0

    def answer(self, _path: str) -> tuple[int, str]:
        self.requests += 1
        line = "" if self.queue is None else f'{NAMES[0]}{{inference_pool="chat"}} {self.queue}\n'
        return self.status, self.before + line


@pytest.fixture
def gateway() -> Iterator[tuple[Gateway, str]]:
    page = Gateway()
    with Exposition(page.answer).running() as server:
        yield page, f"http://{server.address}/metrics"


async def test_a_queue_wakes_once_when_it_is_no_longer_empty(gateway: tuple[Gateway, str]) -> None:
    page, url = gateway
    woken: list[float | None] = []
    gateways = Gateways(GatewaySettings(), lambda: woken.append(page.queue))
    gateways.follow({"ns/chat": activator(url=url)})
    assert gateways.reading("ns/chat") is UNKNOWN
    async with aiohttp.ClientSession() as session:
        for page.queue in (0.0, 3.0, 4.0, 0.0, 1.0, None, 1.0):
            await gateways.poll(session)
    assert woken == [3.0, 1.0]
    reading = gateways.reading("ns/chat")
    assert (reading.quality, reading.value) == (Quality.FRESH, 1.0)


async def test_a_queue_that_is_full_at_the_first_look_wakes(gateway: tuple[Gateway, str]) -> None:
    page, url = gateway
    page.queue = 2.0
    woken: list[int] = []
    gateways = Gateways(GatewaySettings(), lambda: woken.append(1))
    gateways.follow({"ns/chat": activator(url=url)})
    async with aiohttp.ClientSession() as session:
        await gateways.poll(session)
    assert woken == [1]


async def test_services_behind_one_gateway_share_a_request(gateway: tuple[Gateway, str]) -> None:
    page, url = gateway
    gateways = Gateways(GatewaySettings(), lambda: None)
    gateways.follow({f"ns/chat-{n}": activator(url=url) for n in range(20)})
    async with aiohttp.ClientSession() as session:
        await gateways.poll(session)
    assert page.requests == 1
    assert all(gateways.reading(f"ns/chat-{n}").fresh == 0.0 for n in range(20))


async def test_a_gateway_that_fails_leaves_its_reading_to_age(gateway: tuple[Gateway, str]) -> None:
    page, url = gateway
    gateways = Gateways(GatewaySettings(max_age_s=0.0), lambda: None)
    gateways.follow({"ns/chat": activator(url=url)})
    async with aiohttp.ClientSession() as session:
        await gateways.poll(session)
        page.status = 500
        await gateways.poll(session)
    reading = gateways.reading("ns/chat")
    assert (reading.quality, reading.value, reading.fresh) == (Quality.STALE, 0.0, None)


async def test_a_service_without_activator_has_no_queue(gateway: tuple[Gateway, str]) -> None:
    gateways = Gateways(GatewaySettings(), lambda: None)
    assert gateways.reading("ns/chat") is NOT_APPLICABLE
    gateways.follow({"ns/chat": activator(url=gateway[1])})
    async with aiohttp.ClientSession() as session:
        await gateways.poll(session)
    gateways.follow({"ns/chat": activator("mail", url=gateway[1])})
    assert gateways.reading("ns/chat") is UNKNOWN, "another activator is another queue"


async def test_a_page_that_comes_in_many_pieces_is_read_to_its_end(gateway: tuple[Gateway, str]) -> None:
    """A gateway's page has megabytes; what is cut off would look like no queue, or like a shorter one."""
    page, url = gateway
    page.before = "".join(f'other_metric{{backend="{n}"}} 1\n' for n in range(50_000))
    page.queue = 123.0
    gateways = Gateways(GatewaySettings(), lambda: None)
    gateways.follow({"team-a/chat": activator(url=url)})
    async with aiohttp.ClientSession() as session:
        await gateways.poll(session)
    assert gateways.reading("team-a/chat").value == 123.0


async def test_a_page_beyond_all_bounds_is_no_reading(gateway: tuple[Gateway, str]) -> None:
    page, url = gateway
    page.before, page.queue = f'{NAMES[0]}{{inference_pool="chat",priority="1"}} 2\n' + "# filler\n" * 1000, 5.0
    gateways = Gateways(GatewaySettings(max_bytes=4096), lambda: None)
    gateways.follow({"team-a/chat": activator(url=url)})
    async with aiohttp.ClientSession() as session:
        await gateways.poll(session)
    assert gateways.reading("team-a/chat") == UNKNOWN


async def test_silent_gateways_do_not_hold_up_one_that_answers() -> None:
    """Eight that never answer take the two places in turn: in one round for all, each would be asked as often."""
    asked: Counter[str] = Counter()
    first, often = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        asked[path] += 1
        if path == "/good":
            body = f'{NAMES[0]}{{inference_pool="chat"}} 0\n'.encode()
            first.set()
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        else:
            if asked[path] == 4:
                often.set()
            await reader.read()  # until the other side gives up
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = "http://{}:{}".format(*server.sockets[0].getsockname())
    gateways = Gateways(GatewaySettings(poll_s=0.01, timeout_s=0.1, concurrency=2), lambda: None)
    paths = [*(f"/silent-{number}" for number in range(8)), "/good"]
    gateways.follow({f"ns{path}": activator(url=address + path) for path in paths})
    polling = asyncio.create_task(gateways.run())
    async with asyncio.timeout(30):
        await first.wait()  # before that nobody knows who is silent
        asked.clear()
        often.clear()
        await often.wait()
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)
    server.close()
    assert asked["/good"] > 2 * max(count for path, count in asked.items() if path != "/good"), asked


async def test_a_page_that_breaks_its_parser_is_a_missing_reading_of_this_page_alone(
    gateway: tuple[Gateway, str], caplog: pytest.LogCaptureFixture
) -> None:
    good, url = gateway
    good.queue = 2.0
    with Exposition(lambda _path: (200, "q{, =1}\n")).running() as odd:
        gateways = Gateways(GatewaySettings(poll_s=0.01), lambda: None)
        bad = activator(url=f"http://{odd.address}/metrics", names=("q",))
        gateways.follow({"ns/odd": bad, "ns/chat": activator(url=url)})
        polling = asyncio.create_task(gateways.run())
        await eventually(lambda: good.requests >= 3)
        assert not polling.done()
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)
    assert gateways.reading("ns/odd") == UNKNOWN
    assert gateways.reading("ns/chat").fresh == 2.0
    assert "IndexError" in caplog.text
