"""`ebbtide sandbox load`, `results` and `fail-nodes` against a real gateway's control port, without a control plane."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from ebbtide.cli.sandbox import sandbox
from ebbtide.errors import ConfigurationError, NotFoundError, SandboxError
from ebbtide.sandbox import state
from ebbtide.sandbox.gateway import Endpoint, Gateway
from ebbtide.sandbox.gateway_api import GatewayApi
from ebbtide.sim.engine import Engine
from ebbtide.sim.profiles import profile

CHAT = "team-a/chat"
Run = Callable[..., Awaitable[Result]]


class World:
    """A sandbox as its state file shows it, and the gateway at its address. `now_s` is the gateway's clock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.gateway = Gateway("least-loaded", seed=1)
        self.now_s = 0.0
        endpoint = Endpoint("team-a/chat-1", CHAT, Engine(profile("8B", "NVIDIA-H100-80GB-HBM3"), 1))
        self.gateway.add(endpoint)
        self.gateway.set_ready(endpoint, True, 0.0)

    def remember(self, gateway_url: str) -> None:
        shared = {"apiserver_url": "", "prometheus_url": "", "pods": "", "kubernetes": "1.36", "processes": {}}
        state.write(
            self.directory,
            state.State(
                name="box",
                pid=os.getpid(),
                started_s=0.0,
                gateway_url=gateway_url,
                kubeconfig=str(self.directory / "admin.kubeconfig"),
                kubectl=str(self.directory / "kubectl"),
                **shared,
            ),
        )

    def declare(self, service: object) -> None:
        """What `kubectl get` answers."""
        program = self.directory / "kubectl"
        program.write_text(f"#!/bin/sh\nprintf %s '{json.dumps(service) if service else ''}'\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def met(self) -> tuple[int, int]:
        """(requests that ended, those that met both) once all had time to end."""
        self.now_s += 600.0
        self.gateway.advance(self.now_s)
        summary = self.gateway.summary(CHAT, self.now_s)
        return summary["ended"], summary["met"]


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    directory = state.default_directory("box")
    directory.mkdir(parents=True)
    found = World(directory)
    found.declare(None)
    api = GatewayApi(found.gateway, lambda: found.now_s, lambda: ["pod team-a/odd: no such model"])
    server = TestServer(api.application())
    await server.start_server()
    with state.lock(directory):
        found.remember(str(server.make_url("/")).rstrip("/"))
        yield found
    await server.close()


@pytest.fixture
def run(world: World) -> Run:
    async def call(command: str, *arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, sandbox, [command, "--name=box", *arguments])

    return call


async def test_a_rate_is_sent_and_what_will_happen_is_printed(run: Run, world: World) -> None:
    done = await run("load", CHAT, "--rate=2", "--duration=1m", "--seed=7")
    assert done.exit_code == 0, done.output
    count = int(done.output.split()[1])
    assert 60 < count < 200
    assert done.output.splitlines() == [
        f"{CHAT}: {count} requests within 1m (2 a second, seed 7) from now on",
        "  met is a first token within 1s and 50ms between tokens",
        "  engines ready: 1",
        "  look:  ebbtide sandbox results --name box",
        f"  stop:  ebbtide sandbox load --name box {CHAT} --stop",
    ]
    assert world.met() == (count, count)


async def test_the_objectives_of_the_service_decide_what_counts_as_met(run: Run, world: World) -> None:
    world.declare({"spec": {"objectives": {"timeToFirstToken": "1ms", "interTokenLatency": "80ms"}}})
    declared = await run("load", CHAT, "--rate=2", "--duration=1m")
    assert "a first token within 1ms and 80ms between tokens" in declared.output
    ended, met = world.met()
    assert (ended > 0, met) == (True, 0)  # no engine answers within a millisecond
    given = await run("load", CHAT, "--rate=2", "--duration=1m", "--ttft=3s")
    assert "a first token within 3s and 80ms between tokens" in given.output
    assert world.met() == (2 * ended, ended)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rates.csv", "t_s,rps\n0,1\n1800,3\n3600,1\n", "rates.csv squeezed into it, at most 3 a second"),
        (
            "requests.jsonl",
            '{"timestamp": 0, "input_length": 10, "output_length": 5}\n'
            '{"timestamp": 90000, "input_length": 10, "output_length": 5}\n',
            "1 requests within 1m (the beginning of requests.jsonl, seed 1)",
        ),
    ],
)
async def test_a_trace_is_played(run: Run, tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    done = await run("load", CHAT, f"--trace={tmp_path / name}", "--duration=1m")
    assert said in done.output


async def test_a_shape_is_played_and_can_be_stopped(run: Run, world: World) -> None:
    shape = '{"shape": "step", "before": 1, "after": 4, "at_s": 30}'
    assert "(step, at most 4 a second, seed 1)" in (await run("load", CHAT, f"--shape={shape}", "--duration=1m")).output
    assert f"{CHAT}: loads stopped: 1" in (await run("load", CHAT, "--stop")).output
    assert world.met() == (0, 0)


async def test_a_route_without_an_engine_is_said(run: Run) -> None:
    done = await run("load", "team-b/cold", "--rate=1", "--duration=10s")
    assert "engines ready: 0; requests wait for one" in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((CHAT,), "give one of --rate, --shape and --trace, or --stop alone"),
        ((CHAT, "--rate=1", "--shape={}", "--duration=1m"), "give one of --rate, --shape and --trace"),
        ((CHAT, "--rate=1", "--stop"), "or --stop alone"),
        (("--rate=1", "--duration=1m"), "give either NAMESPACE/ROUTE (emulated engines) or --url and --model"),
        ((CHAT, "--rate=1", "--duration=1m", "--swing=0"), "--swing goes with --url only"),
        ((CHAT, "--rate=1", "--duration=1m", "--model=tiny"), "--model goes with --url only"),
        (("chat", "--rate=1", "--duration=1m"), "'chat' is not NAMESPACE/ROUTE, such as default/chat"),
        ((CHAT, "--rate=1"), "give --duration, such as --duration 5m"),
        ((CHAT, "--rate=1", "--duration=10ms"), "10ms is too short: at least 1s is allowed"),
        ((CHAT, "--rate=1", "--duration=soon"), "'soon' is not a duration"),
        ((CHAT, "--rate=0", "--duration=1m"), "0.0 is not in the range"),
    ],
)
async def test_wrong_usage_says_what_is_allowed(run: Run, arguments: tuple[str, ...], said: str) -> None:
    done = await run("load", *arguments)
    assert done.exit_code == 2
    assert said in done.output


async def test_a_shape_that_is_none_and_an_empty_trace_are_errors(run: Run, tmp_path: Path) -> None:
    for text, said in (("{", "is not JSON"), ('{"shape": "hum"}', "`shape` is one of constant, step")):
        done = await run("load", CHAT, f"--shape={text}", "--duration=1m")
        assert isinstance(done.exception, ConfigurationError)
        assert said in str(done.exception)
    (tmp_path / "none.jsonl").write_text("")
    done = await run("load", CHAT, f"--trace={tmp_path / 'none.jsonl'}", "--duration=1m")
    assert "has no requests in its first 1m" in str(done.exception)


async def test_results_are_a_table_with_what_could_not_be_played(run: Run, world: World) -> None:
    await run("load", CHAT, "--rate=2", "--duration=1m")
    ended, _ = world.met()
    shown = (await run("results")).output
    row = next(line for line in shown.splitlines() if CHAT in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[:2] == [CHAT, str(ended)]
    assert cells[3] == "100.0 %"
    assert all(cell.endswith(" ms") for cell in cells[4:8])
    assert cells[8:] == ["0", "1 of 1"]
    assert "not played: pod team-a/odd: no such model" in shown
    assert json.loads((await run("results", "--json")).output)["routes"][CHAT]["met"] == ended


async def test_a_sandbox_without_an_emulator_and_one_that_is_gone_are_said(run: Run, world: World) -> None:
    world.remember("")
    done = await run("results")
    assert isinstance(done.exception, NotFoundError)
    assert "sandbox box has no emulator: start it again without --no-emulator" in str(done.exception)
    assert isinstance((await run("url", "gateway")).exception, NotFoundError)
    world.remember("http://127.0.0.1:1")
    done = await run("results")
    assert isinstance(done.exception, SandboxError)
    assert "does not answer at http://127.0.0.1:1" in str(done.exception)


async def test_nodes_fail_and_come_again_and_an_unknown_pool_is_refused(run: Run, world: World) -> None:
    state.autoscaler_file(world.directory, "l40s").write_text("{}")
    assert (await run("fail-nodes", "l40s")).output == "pool l40s: no node comes until you say --off\n"
    assert state.fail_file(world.directory, "l40s").exists()
    assert (await run("fail-nodes", "l40s", "--off")).output == "pool l40s: nodes come again\n"
    assert not state.fail_file(world.directory, "l40s").exists()
    done = await run("fail-nodes", "h100")
    assert str(done.exception) == "no node autoscaler holds pool 'h100'; pools that have one: l40s"
