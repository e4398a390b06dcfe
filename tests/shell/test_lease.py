"""The Lease elector against an API server that can be slow, deaf, forgetful or in conflict: who may write, and when."""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ebbtide.controller.lease import LeaseElector, LeaseSettings
from ebbtide.kube.client import KubeClient

PATH = "/apis/coordination.k8s.io/v1/namespaces/ebbtide-system/leases"
SETTINGS = LeaseSettings("ebbtide-system", "ebbtide", "me")


@dataclass
class Time:
    """A clock that only `sleep` and the server's latency move."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class LeaseServer:
    """One Lease with the API server's rules: create once, replace only with the current resourceVersion."""

    time: Time
    lease: dict[str, Any] | None = None
    version: int = 10
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    # called before a request takes effect, and after it; may move the clock or return an answer of its own
    before: Callable[[str], Awaitable[web.Response | None]] | None = None
    after: Callable[[str], Awaitable[web.Response | None]] | None = None

    def put(self, holder: str, duration_s: int = 15, transitions: int = 3) -> None:
        self.version += 1
        self.lease = {
            "metadata": {"name": "ebbtide", "resourceVersion": str(self.version)},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": duration_s,
                "leaseTransitions": transitions,
                "acquireTime": "2026-01-01T00:00:00.000000Z",
                "renewTime": f"2026-01-01T00:00:{self.version % 60:02}.000000Z",
            },
        }

    @property
    def spec(self) -> dict[str, Any]:
        assert self.lease is not None
        return self.lease["spec"]

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else {}
        self.seen.append((request.method, body))
        if self.before and (answer := await self.before(request.method)):
            return answer
        answer = self._answer(request, body)
        if self.after and (other := await self.after(request.method)):
            return other
        return answer

    def _answer(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        if request.method == "GET":
            return web.json_response(self.lease) if self.lease else web.json_response({"message": "none"}, status=404)
        if request.method == "POST":
            if self.lease:
                return web.json_response({"message": "exists"}, status=409)
        elif not self.lease or body["metadata"].get("resourceVersion") != self.lease["metadata"]["resourceVersion"]:
            return web.json_response({"message": "changed"}, status=409)
        self.version += 1
        self.lease = {"metadata": {"name": "ebbtide", "resourceVersion": str(self.version)}, "spec": body["spec"]}
        return web.json_response(self.lease)


class OverError(Exception):
    """The script of a test is at its end."""


@dataclass
class World:
    time: Time
    server: LeaseServer
    client: KubeClient
    lost: list[str] = field(default_factory=list)
    led: list[float] = field(default_factory=list)
    elector: LeaseElector = field(init=False)

    async def play(self, *turns: Callable[[], None], settings: LeaseSettings = SETTINGS) -> None:
        """Runs the elector; each of its sleeps moves the clock and then plays the next turn."""
        script = iter(turns)

        async def sleep(seconds: float) -> None:
            self.time.now += seconds
            turn = next(script, None)
            if turn is None:
                raise OverError
            turn()

        self.elector = LeaseElector(
            self.client,
            settings,
            on_lost=self.lost.append,
            on_leading=lambda: self.led.append(self.time.now),
            clock=self.time,
            wall=lambda: 1_770_000_000.25,
            sleep=sleep,
        )
        with contextlib.suppress(OverError):
            await self.elector.run()


@pytest.fixture
async def world(tmp_path):
    time = Time()
    server = LeaseServer(time)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    test_server = TestServer(app)
    await test_server.start_server()
    config = tmp_path / "config"
    config.write_text(
        f"""{{apiVersion: v1, kind: Config, current-context: c, users: [{{name: u, user: {{}}}}],
        contexts: [{{name: c, context: {{cluster: k, user: u}}}}],
        clusters: [{{name: k, cluster: {{server: "{str(test_server.make_url("")).rstrip("/")}"}}}}]}}"""
    )
    async with KubeClient(config) as client:
        yield World(time, server, client)
    await test_server.close()


def nothing() -> None:
    """A turn in which nothing happens."""


async def test_a_lease_that_does_not_exist_is_created(world):
    await world.play()
    assert [method for method, _ in world.server.seen] == ["GET", "POST"]
    assert world.server.spec["holderIdentity"] == "me"
    assert world.server.spec["leaseDurationSeconds"] == 15
    assert world.server.spec["leaseTransitions"] == 0
    assert world.server.spec["acquireTime"] == world.server.spec["renewTime"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", world.server.spec["renewTime"])
    assert world.led


async def test_a_renewal_is_guarded_by_the_version_read_and_keeps_the_acquire_time(world):
    await world.play(nothing)
    method, body = world.server.seen[-1]
    assert method == "PUT"
    assert body["metadata"]["resourceVersion"] == str(world.server.version - 1)
    assert body["spec"]["leaseTransitions"] == 0
    assert len(world.led) == 1


async def test_a_released_lease_is_taken_at_once_and_counted_as_a_transition(world):
    world.server.put(holder="", duration_s=1, transitions=3)
    await world.play()
    assert world.led == [1000.0]
    assert world.server.spec["leaseTransitions"] == 4
    assert world.server.spec["acquireTime"] != "2026-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(("duration_s", "taken_at"), [(15, 1015.0), (30, 1030.0), (3, 1003.0)])
async def test_another_holder_keeps_the_lease_for_its_own_duration_on_our_clock(world, duration_s, taken_at):
    world.server.put(holder="other", duration_s=duration_s)
    await world.play(*[nothing] * 20)
    assert world.led == [taken_at]
    assert not world.lost


async def test_a_holder_that_goes_on_renewing_is_never_disturbed(world):
    def renew() -> None:
        world.server.put(holder="other")

    renew()
    await world.play(*[renew] * 30)
    assert not world.led
    assert world.elector.holder == "other"
    assert not world.elector.may_write()


async def test_a_faster_candidate_wins_and_we_stay_standby(world):
    world.server.put(holder="")

    async def other_is_faster(method: str) -> None:
        if method == "PUT" and world.server.spec["holderIdentity"] == "":
            world.server.put(holder="other")

    world.server.before = other_is_faster
    await world.play(nothing, nothing)
    assert not world.led
    assert world.elector.holder == "other"


async def test_the_time_to_write_counts_from_before_the_renewal_was_sent(world):
    async def slow(method: str) -> None:
        if method == "POST":
            world.time.now += 4.0

    world.server.after = slow
    checks = []

    def deaf() -> None:
        world.server.before = unavailable
        checks.append((world.time.now, world.elector.may_write(), world.elector.write_timeout_s()))

    await world.play(deaf)
    # sent at 1000, answered at 1004, one retry period later it is 1006: 7.5 s are left until 1013.5
    assert checks == [(1006.0, True, pytest.approx(7.5))]


async def unavailable(method: str) -> web.Response:
    return web.json_response({"message": "etcdserver: no leader"}, status=503)


async def test_an_outage_ends_leadership_after_the_renew_deadline_and_before_the_lease_runs_out(world):
    writes: list[tuple[float, bool]] = []

    def deaf() -> None:
        world.server.before = unavailable
        writes.append((world.time.now, world.elector.may_write()))

    await world.play(*[deaf] * 20)
    # taken at 1000; the outage begins before the renewal at 1002
    assert writes == [(t, t < 1010.0) for t in (1002.0, 1004.0, 1006.0, 1008.0, 1010.0)]
    assert world.lost == [f"lease {PATH}/ebbtide was not renewed for 10.0 s"]
    assert world.time.now < 1015.0


async def test_an_outage_shorter_than_the_renew_deadline_is_survived(world):
    def deaf() -> None:
        world.server.before = unavailable

    def back() -> None:
        world.server.before = None

    await world.play(deaf, nothing, nothing, back, nothing, nothing, nothing)
    assert not world.lost
    assert world.elector.may_write()


async def test_a_renewal_that_arrived_though_its_answer_did_not_is_no_loss(world):
    async def lose_answer(method: str) -> web.Response | None:
        return web.json_response({"message": "timeout"}, status=504) if method == "PUT" else None

    def lose() -> None:
        world.server.after = lose_answer

    def mend() -> None:
        world.server.after = None

    await world.play(lose, mend, nothing, nothing)
    assert not world.lost
    assert world.elector.may_write()
    assert world.server.spec["leaseTransitions"] == 0


async def test_after_a_stop_past_the_lease_no_write_may_start_even_before_anything_was_noticed(world):
    checks = []

    def stopped_for_a_minute() -> None:
        world.time.now += 60.0
        world.server.put(holder="other")
        checks.append((world.elector.leading, world.elector.may_write(), world.elector.write_timeout_s()))

    await world.play(stopped_for_a_minute)
    assert checks == [(True, False, 0.0)]
    assert world.lost == [f"lease {PATH}/ebbtide was not renewed for 62.0 s"]
    assert [method for method, _ in world.server.seen] == ["GET", "POST"]  # not even a renewal was tried


async def test_continuing_after_a_stop_is_noticed_without_waiting_for_the_next_renewal(world):
    def stopped_for_a_minute() -> None:
        world.time.now += 60.0
        world.elector.end_if_late()
        assert world.lost == [f"lease {PATH}/ebbtide was not renewed for 62.0 s"]
        raise OverError

    await world.play(stopped_for_a_minute)
    assert world.lost


async def test_continuing_after_a_short_stop_changes_nothing(world):
    def stopped_for_a_second() -> None:
        world.time.now += 1.0
        world.elector.end_if_late()

    await world.play(stopped_for_a_second, nothing)
    assert not world.lost
    assert world.elector.may_write()


@pytest.mark.parametrize(
    ("meddle", "text"),
    [
        (lambda server: server.put(holder="thief"), "was taken by thief"),
        (lambda server: setattr(server, "lease", None), "was taken by nobody: it was deleted"),
    ],
    ids=["replaced by another holder", "deleted by hand"],
)
async def test_a_lease_that_is_no_longer_ours_ends_leadership_at_the_next_look(world, meddle, text):
    await world.play(lambda: meddle(world.server), nothing, nothing)
    assert [text in reason for reason in world.lost] == [True]
    assert not world.elector.may_write()


@pytest.mark.parametrize("status", [401, 403, 422, 500])
async def test_a_refusal_leaves_us_standby_and_trying(world, status):
    async def refuse(method: str) -> web.Response | None:
        return web.json_response({"message": "no"}, status=status) if method == "POST" else None

    def allow() -> None:
        world.server.before = None

    world.server.before = refuse
    await world.play(nothing, nothing, allow, nothing)
    assert len(world.led) == 1


async def test_an_answer_that_is_no_lease_is_survived(world):
    async def rubbish(method: str) -> web.Response:
        return web.Response(body=b"<html>proxy</html>")

    def mend() -> None:
        world.server.before = None

    world.server.before = rubbish
    await world.play(nothing, mend, nothing)
    assert len(world.led) == 1


async def test_release_hands_the_lease_over(world):
    await world.play(nothing)
    await world.elector.release()
    assert world.server.spec["holderIdentity"] == ""
    assert world.server.spec["leaseDurationSeconds"] == 1
    assert not world.elector.may_write()


async def test_release_finds_the_current_version_when_the_last_renewal_was_not_answered(world):
    await world.play(nothing)
    world.server.put(holder="me")
    await world.elector.release()
    assert world.server.spec["holderIdentity"] == ""


async def test_release_leaves_the_lease_of_another_alone(world):
    await world.play(nothing)
    world.server.put(holder="other")
    await world.elector.release()
    assert world.server.spec["holderIdentity"] == "other"


async def test_release_of_a_standby_writes_nothing(world):
    world.server.put(holder="other")
    await world.play(nothing)
    requests = len(world.server.seen)
    await world.elector.release()
    assert len(world.server.seen) == requests


async def test_release_gives_up_on_a_deaf_server(world):
    await world.play(nothing)

    async def hang(method: str) -> None:
        await asyncio.sleep(60)

    world.server.before = hang
    await world.elector.release(timeout_s=0.1)
    assert not world.elector.may_write()


async def test_a_hanging_renewal_is_cut_off_at_the_renew_deadline(world):
    """In real time, with a short Lease: the request would hang for a minute."""
    lost: list[str] = []
    settings = LeaseSettings("ebbtide-system", "ebbtide", "me", duration_s=1.0, renew_deadline_s=0.5, retry_s=0.1)
    hanging = asyncio.Event()

    async def hang(method: str) -> None:
        if method == "PUT":
            hanging.set()
            await asyncio.sleep(60)

    world.server.before = hang
    elector = LeaseElector(world.client, settings, on_lost=lost.append)
    await asyncio.wait_for(elector.run(), 30)
    assert hanging.is_set()
    assert len(lost) == 1


def test_what_is_sent_is_a_lease():
    """The API server refuses unknown fields of a spec with strict validation: the names are Kubernetes' own."""
    from ebbtide.controller.lease import LeaseSpec

    sent = msgspec.to_builtins(LeaseSpec("a", 15, "t", "t", 0))
    assert set(sent) == {"holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime", "leaseTransitions"}
