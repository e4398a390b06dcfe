"""Ebbtide over real vLLM servers: the demo's claims, from zero, and servers that are killed or hang."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebbtide.cli.demo_vllm_summary import problems
from ebbtide.sandbox.demo_base import start_sandbox
from ebbtide.sandbox.demo_vllm import START_TIMEOUT_S, VllmDemo, sandbox_config
from ebbtide.sandbox.engines.environment import installed
from ebbtide.sandbox.loadgen import LoadTarget, Served, run_load
from ebbtide.sandbox.sandbox import Sandbox
from ebbtide.sandbox.vllm_showcase import OUTPUT_TOKENS, PROMPT_TOKENS, VllmService
from ebbtide.sim.requests import Request
from tests.cluster.processes import processes_of
from tests.cluster.rig import until

pytestmark = [pytest.mark.full, pytest.mark.vllm, pytest.mark.timeout(1500)]

Json = dict[str, Any]


def test_the_demo_scales_from_one_to_three_and_back_and_cuts_nothing_off(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    argv = [sys.executable, "-m", "ebbtide", "demo", "--engine", "vllm", "--plain", "--json", str(out)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=1400, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    document = json.loads(out.read_text())
    assert document["problems"] == problems(document) == []
    ready = [moment["ready"] for moment in document["replicas"]]
    assert (ready[0], max(ready), ready[-1]) == (1, 3, 1)
    assert document["finish_reasons"] == {"length": document["requests"]}
    assert (document["aborts"], document["answers_5xx"], document["errors"]) == (0, 0, {})
    assert len(document["endpoints"]) >= 3, "each server answered some"
    read = {row["signal"]: row for row in document["signals"]}
    for name in ("running", "waiting", "kv_usage", "finished", "prompt_tokens", "generation_tokens", "ttft", "itl"):
        assert read[name]["metric"].startswith("vllm:"), name
        assert read[name]["most"] > 0, name


class Fleet:
    """The demo's service, which may go to zero, in a sandbox of its own."""

    def __init__(self, sandbox: Sandbox, demo: VllmDemo) -> None:
        self.sandbox, self.demo = sandbox, demo

    def ask(self, count: int, every_s: float = 0.5) -> list[Served]:
        """Requests one after the other, each of which may wait for a server to start."""
        target = LoadTarget(self.demo.url, self.demo.model.name, START_TIMEOUT_S)
        sent = [Request(number, number * every_s, PROMPT_TOKENS, OUTPUT_TOKENS) for number in range(count)]
        return asyncio.run(run_load(target, sent))

    def get(self, *what: str) -> Json:
        found: Json = json.loads(self.sandbox.kubectl("-n", "demo", "get", *what, "-o", "json"))
        return found

    def replicas(self) -> Json:
        """What Ebbtide says of the service: observed, ready, wanted, allowed."""
        found: Json = self.get("infs", "chat").get("status", {}).get("replicas", {})
        return found

    def pods(self) -> list[Json]:
        items: list[Json] = self.get("pods")["items"]
        return items

    def pid(self) -> int:
        """Of the only server."""
        [pod] = self.pods()
        [container] = pod["status"]["containerStatuses"]
        return int(container["containerID"].removeprefix("process://"))

    def restarts(self) -> int:
        """Of the servers that are there."""
        return sum(one["restartCount"] for pod in self.pods() for one in pod["status"].get("containerStatuses", ()))

    def route(self) -> Json:
        """What the gateway says: ready, held, served, ..."""
        with urllib.request.urlopen(f"{self.demo.gateway}/routes", timeout=10) as answer:
            found: Json = json.load(answer)["routes"]["demo/chat"]
            return found

    def keep_one(self) -> None:
        """From now on one server stays, and it is ready."""
        patch = json.dumps({"spec": {"scaling": {"minReplicas": 1, "scaleToZero": None}}})
        self.sandbox.kubectl("-n", "demo", "patch", "infs", "chat", "--type=merge", "-p", patch)
        until(lambda: self.replicas().get("ready") == 1 and self.route()["ready"] == 1, "it is ready", START_TIMEOUT_S)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("vllm")
    with start_sandbox(sandbox_config("vllm-tests", print, directory)) as sandbox:
        service = VllmService(scale_to_zero_url=f"{sandbox.layout.gateway_url}/demo/metrics")
        demo = VllmDemo(sandbox, installed(), print, service)

        async def bring_up() -> None:
            async with demo:
                await demo.bring_up()

        asyncio.run(bring_up())
        yield Fleet(sandbox, demo)
    assert not processes_of(directory)


def test_from_zero_held_requests_are_answered_by_the_server_that_they_wake(fleet: Fleet) -> None:
    until(lambda: fleet.replicas() and fleet.get("deployment", "chat-cpu"), "Ebbtide has built the Deployment")
    assert fleet.replicas()["observed"] == 0
    answers = fleet.ask(3)
    assert [answer.finish_reason for answer in answers] == ["length"] * 3, answers
    waits_s = [answer.first_token_s - answer.sent_s for answer in answers if answer.first_token_s is not None]
    assert min(waits_s) > 5, "they waited for a start"
    assert fleet.route()["refused"] == fleet.route()["failed"] == 0
    until(lambda: fleet.replicas()["observed"] == 0 and not fleet.pods(), "idle, it goes back to zero", 300)


def test_a_killed_server_counts_no_more_until_another_is_there(fleet: Fleet) -> None:
    fleet.keep_one()
    before = fleet.restarts()
    os.kill(fleet.pid(), signal.SIGKILL)
    until(lambda: fleet.route()["ready"] == 0, "the gateway has nobody", 10)
    until(lambda: fleet.replicas()["ready"] == 0, "Ebbtide counts nobody", 20)
    answers = fleet.ask(2)
    assert [answer.finish_reason for answer in answers] == ["length"] * 2, answers
    assert fleet.restarts() == before + 1
    until(lambda: fleet.replicas()["ready"] == 1, "it counts again", 30)


def test_a_hung_server_is_no_capacity_and_is_replaced(fleet: Fleet) -> None:
    fleet.keep_one()
    before, pid = fleet.restarts(), fleet.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: fleet.route()["ready"] == 0, "the gateway has taken it out of rotation", 60)
        until(lambda: fleet.replicas()["ready"] == 0, "Ebbtide counts nobody", 20)
        answers = fleet.ask(2)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    assert [answer.finish_reason for answer in answers] == ["length"] * 2, answers
    assert fleet.restarts() == before + 1, "its liveness probe ended it"
    until(lambda: fleet.replicas()["ready"] == 1, "the one that came in its place counts", 30)
