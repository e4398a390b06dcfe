"""The load generator against servers that answer, refuse, break off and hang: what it sends, and what it measures."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ebbtide.cli.main import cli
from ebbtide.sandbox.demo_base import free_port
from ebbtide.sandbox.ledger import Objectives
from ebbtide.sandbox.loadgen import Gaps, LoadTarget, Progress, Served, run_load, summary
from ebbtide.sim.requests import Request
from tests.shell.fake_engine import Behaviour, FakeEngine, engines

ADDRESS = "127.61.9.1"
OBJECTIVES = Objectives(time_to_first_token_s=1.0, inter_token_latency_s=0.05)


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with engines(ADDRESS) as (found,):
        yield found


def target(engine: FakeEngine, **more: Any) -> LoadTarget:
    return LoadTarget(f"http://{engine.address}:{engine.port}/v1", "tiny", **more)


def every(gap_s: float, count: int, prompt: int = 5, output: int = 4) -> list[Request]:
    return [Request(number, number * gap_s, prompt, output) for number in range(count)]


async def one(engine: FakeEngine, output: int = 4) -> Served:
    (served,) = await run_load(target(engine), every(0.0, 1, output=output))
    return served


async def test_a_request_is_what_an_engine_needs_to_make_exactly_so_many_tokens(engine: FakeEngine) -> None:
    await run_load(target(engine, first_token=10, last_token=12), every(0.0, 1, prompt=200, output=7))

    (body,) = engine.seen
    prompt = body.pop("prompt")
    assert body == {
        "model": "tiny",
        "max_tokens": 7,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert (len(prompt), set(prompt)) == (200, {10, 11, 12})


async def test_prompts_of_one_seed_are_alike_and_those_of_two_requests_are_not(engine: FakeEngine) -> None:
    for seed in (1, 1, 2):
        await run_load(target(engine, seed=seed), every(0.0, 2, prompt=20))

    prompts = [tuple(body["prompt"]) for body in engine.seen]
    runs = [frozenset(prompts[at : at + 2]) for at in (0, 2, 4)]
    assert runs[0] == runs[1] != runs[2]
    assert len(set(prompts)) == 4


async def test_no_request_waits_for_the_answer_to_another(engine: FakeEngine) -> None:
    engine.gate.clear()  # no answer ends before the last request is there
    running = asyncio.create_task(run_load(target(engine), every(0.02, 10)))
    async with asyncio.timeout(30):
        while engine.inside < 10:  # noqa: ASYNC110 - the other side of a socket has no event
            await asyncio.sleep(0.01)
    engine.gate.set()

    served = await running

    assert [one.finish_reason for one in served] == ["length"] * 10
    assert [one.arrival_s for one in served] == [number * 0.02 for number in range(10)]
    assert all(one.sent_s >= one.arrival_s for one in served)


async def test_the_times_are_those_of_the_tokens(engine: FakeEngine) -> None:
    engine.gap_s = 0.1
    served = await one(engine, output=4)

    assert served.first_token_s is not None
    assert served.inter_token_s is not None
    assert 0 <= served.sent_s <= served.first_token_s <= served.end_s - 0.25
    assert served.inter_token_s.p50_s >= 0.09
    assert 0.09 <= served.inter_token_s.mean_s <= (served.end_s - served.first_token_s) / 3
    assert served.inter_token_s.max_s >= served.inter_token_s.p95_s >= served.inter_token_s.p50_s
    assert (served.status, served.generated_tokens, served.error) == (200, 4, None)


@pytest.mark.parametrize(
    ("behaviour", "status", "finish_reason", "error"),
    [
        ("answer", 200, "length", None),
        ("abort", 200, "abort", None),
        ("busy", 503, "rejected", "503: The engine is currently busy"),
        ("busy in the stream", 200, "rejected", "503: The engine is currently busy"),
        ("dead in the stream", 200, "error", "500: EngineCore encountered an issue"),
        ("shut down", 500, "error", "500: cannot schedule new futures after shutdown"),
        ("too long", 400, "error", "400: max_tokens=9 is too much"),
        ("reset", None, "error", "ServerDisconnectedError"),
        ("reset before a token", 200, "error", "ClientPayloadError"),
        ("nothing", 200, "error", "the answer broke off after 0 tokens"),
        ("nothing but its end", 200, "error", "the answer broke off after 0 tokens"),
        ("reset in the answer", 200, "error", "ClientPayloadError"),
    ],
)
async def test_what_became_of_a_request_is_told_apart(
    engine: FakeEngine, behaviour: Behaviour, status: int | None, finish_reason: str, error: str | None
) -> None:
    engine.behaviour = behaviour

    served = await one(engine)

    assert (served.status, served.finish_reason) == (status, finish_reason)
    assert (served.error is None) == (error is None)
    assert (served.error or "").startswith(error or "")
    assert served.outcome.served == (finish_reason == "length")


async def test_a_server_that_is_not_there_and_one_that_hangs_are_errors(engine: FakeEngine) -> None:
    (refused,) = await run_load(LoadTarget(f"http://{ADDRESS}:{free_port()}/v1", "tiny"), every(0.0, 1))
    engine.gate.clear()
    (hung,) = await run_load(target(engine, timeout_s=0.3), every(0.0, 1))

    assert (refused.status, refused.finish_reason) == (None, "error")
    assert "Cannot connect" in (refused.error or "")
    assert (hung.status, hung.finish_reason, hung.error) == (200, "error", "TimeoutError")
    assert (hung.generated_tokens, hung.first_token_s is not None) == (1, True)


async def test_a_generator_that_is_late_says_so_and_blames_no_engine(engine: FakeEngine) -> None:
    running = asyncio.create_task(run_load(target(engine), every(0.05, 12)))
    await asyncio.sleep(0.02)
    time.sleep(0.5)  # noqa: ASYNC251 - the generator itself gets no time to work
    served = await running

    found = summary(served, OBJECTIVES)
    assert found["slippage_s"]["max"] >= 0.3
    assert found["generator_late"]
    assert found["time_to_first_token_s"]["p50"] < found["slippage_s"]["max"]
    in_time = summary(await run_load(target(engine), every(0.05, 12)), OBJECTIVES)
    assert in_time["slippage_s"]["p50"] < found["slippage_s"]["p50"]


async def test_a_load_that_is_stopped_tells_what_it_measured(engine: FakeEngine) -> None:
    stop, seen, told = asyncio.Event(), list[Progress](), list[Served]()
    quick, slow = every(0.0, 3, output=1), [Request(3, 0.1, 5, 50), Request(4, 30.0, 5, 50)]
    engine.gate.clear()
    tell = {"on_progress": seen.append, "on_served": told.append}
    running = asyncio.create_task(run_load(target(engine), [*quick, *slow], stop=stop, **tell))
    async with asyncio.timeout(30):
        while not any(progress.running for progress in seen):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    stop.set()
    served = await running

    assert [one.finish_reason for one in served] == ["length"] * 3 + ["unfinished"]
    assert (served[3].generated_tokens, served[3].first_token_s is not None) == (1, True)
    assert (seen[-1].sent, seen[-1].served) == (4, 3)
    assert sorted(told, key=lambda one: one.id) == served
    async with asyncio.timeout(30):
        while engine.inside:  # noqa: ASYNC110 - what runs is broken off
            await asyncio.sleep(0.01)


async def test_two_loads_can_begin_at_one_moment(engine: FakeEngine) -> None:
    begins_s = time.time() + 0.4

    served = await run_load(target(engine), every(0.1, 2), start_unix_s=begins_s)

    assert time.time() >= begins_s + 0.1
    assert all(0 <= one.slippage_s < 5 for one in served)


def a_served(number: int, **more: Any) -> Served:
    values = {
        "id": number,
        "arrival_s": float(number),
        "prompt_tokens": 10,
        "output_tokens": 5,
        "sent_s": number + 0.01,
        "status": 200,
        "first_token_s": number + 0.21,
        "inter_token_s": Gaps(0.04, 0.03, 0.1, 0.1),
        "finish_reason": "length",
        "end_s": number + 0.4,
        "generated_tokens": 5,
    }
    return Served(**{**values, **more})


def test_the_summary_counts_everybody_once_and_judges_by_both_objectives() -> None:
    lost = {"first_token_s": None, "inter_token_s": None, "generated_tokens": 0}
    served = [
        a_served(0, endpoint="team-a/chat-1"),
        a_served(1, inter_token_s=Gaps(0.06, 0.06, 0.06, 0.3), endpoint="team-a/chat-2"),
        a_served(2, first_token_s=3.5, endpoint="team-a/chat-1"),
        a_served(3, finish_reason="abort", generated_tokens=2),
        a_served(4, finish_reason="rejected", status=503, error="503: busy", **lost),
        a_served(5, finish_reason="rejected", error="503: busy", **lost),
        a_served(6, finish_reason="error", status=None, error="ServerDisconnectedError", **lost),
    ]

    found = summary(served, OBJECTIVES)

    assert (found["requests"], found["served"], found["met_both"]) == (7, 3, pytest.approx(1 / 7))
    assert found["finish_reasons"] == {"length": 3, "rejected": 2, "abort": 1, "error": 1}
    assert found["statuses"] == {"200": 5, "503": 1, "none": 1}
    assert found["errors"] == {"503: busy": 2, "ServerDisconnectedError": 1}
    assert found["endpoints"] == {"team-a/chat-1": 2, "team-a/chat-2": 1}
    assert (found["prompt_tokens"], found["generated_tokens"]) == (70, 17)
    assert found["time_to_first_token_s"] == pytest.approx({"p50": 0.2, "p95": 1.49, "p99": 1.49})
    assert found["inter_token_latency_s"] == pytest.approx({"p50": 0.04, "p95": 0.06, "p99": 0.06})
    assert found["slippage_s"] == pytest.approx({"p50": 0.01, "p95": 0.01, "p99": 0.01, "max": 0.01})
    assert not found["generator_late"]


def test_the_summary_of_nothing_has_no_numbers_and_no_error() -> None:
    found = summary([], OBJECTIVES)

    assert (found["requests"], found["met_both"], found["time_to_first_token_s"], found["slippage_s"]) == (
        0,
        None,
        None,
        None,
    )


async def command(*arguments: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = asyncio.subprocess.PIPE
    argv = ["-m", "ebbtide", "sandbox", "load", "--model", "tiny", *arguments]
    return await asyncio.create_subprocess_exec(sys.executable, *argv, env=environment, stdout=pipe, stderr=pipe)


async def test_the_command_shows_a_table_and_writes_every_request(engine: FakeEngine, tmp_path: Path) -> None:
    file = tmp_path / "load.json"
    url = f"http://{engine.address}:{engine.port}/v1"
    process = await command("--url", url, "--rate", "20", "--duration", "1s", "--json", str(file), "--seed", "3")
    out, err = await process.communicate()

    assert process.returncode == 0, err.decode()
    document = json.loads(file.read_text())
    assert len(document["requests"]) == document["summary"]["requests"] == len(engine.seen) > 5
    assert document["summary"]["finish_reasons"] == {"length": len(engine.seen)}
    assert f"{len(engine.seen)} requests in" in out.decode()
    assert "time to first token" in out.decode()


async def test_the_command_ends_cleanly_on_ctrl_c(engine: FakeEngine) -> None:
    engine.gate.clear()
    url = f"http://{engine.address}:{engine.port}/v1"
    process = await command("--url", url, "--rate", "20", "--duration", "10m")
    async with asyncio.timeout(60):
        while engine.inside < 3:  # noqa: ASYNC110 - the other side of a socket has no event
            await asyncio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()

    assert process.returncode == 0, err.decode()
    assert "finish reasons: unfinished" in out.decode()
    assert "Traceback" not in err.decode()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--url", "http://a"], "--url: 'http://a' must end in /v1, such as http://127.0.0.1:8000/v1"),
        (["--rate", "1", "--shape", "{}"], "give one of --rate, --shape and --trace"),
        ([], "give one of --rate, --shape and --trace"),
        (["--shape", "{"], "--shape '{' is not JSON"),
        (["--shape", '{"shape": "cliff"}'], "load shape: "),
        (["--rate", "1", "--duration", "5"], "'5' is not a duration"),
        (["--rate", "1", "--model", ""], "--url needs --model"),
        (["--rate", "1", "team-a/chat"], "give either NAMESPACE/ROUTE (emulated engines) or --url and --model"),
        (["--rate", "1", "--name", "box"], "--name goes with NAMESPACE/ROUTE only"),
        (["--stop"], "--stop goes with NAMESPACE/ROUTE only"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(arguments: list[str], said: str) -> None:
    base = ["sandbox", "load", "--model", "tiny", "--url", "http://a/v1", "--duration", "1s"]

    result = CliRunner().invoke(cli, [*base, *arguments])

    assert result.exit_code != 0
    assert said in f"{result.output}{result.exception}"


async def sent(engine: FakeEngine, *arguments: str) -> list[tuple[int, int]]:
    """The lengths of what the command sends."""
    lengths = ("--prompt-tokens=20", "--max-prompt-tokens=30", "--output-tokens=10", "--max-output-tokens=12")
    engine.seen.clear()
    process = await command("--url", f"http://{engine.address}:{engine.port}/v1", *lengths, "--swing=0", *arguments)
    _, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return [(len(body["prompt"]), body["max_tokens"]) for body in engine.seen]


async def test_traces_and_shapes_are_loads_too(engine: FakeEngine, tmp_path: Path) -> None:
    requests, rates = tmp_path / "requests.csv", tmp_path / "rates.csv"
    requests.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n0,500,5\n1,20,500\n90,20,5\n")
    rates.write_text("t_s,rps\n0,10\n60,10\n")

    traced = await sent(engine, "--trace", str(requests), "--duration", "2s")
    curved = await sent(engine, "--trace", str(rates), "--duration", "2s")
    shaped = await sent(engine, "--shape", '{"shape": "constant", "per_second": 10}', "--duration", "2s")

    assert traced == [(30, 5), (20, 12)]  # cut at the longest lengths, and at the duration
    assert len(curved) == len(shaped) > 5  # an hour of rates is squeezed into two seconds
    assert max(output for _, output in shaped) <= 12
