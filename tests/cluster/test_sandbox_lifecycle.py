"""Start, end, crash: of the sandbox, of its parts and of its parent. Each test has control planes of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ebbtide.errors import NotFoundError, RetryableError, SandboxError
from ebbtide.kube.client import KubeClient
from ebbtide.sandbox import controlplane, state
from ebbtide.sandbox.sandbox import Sandbox, SandboxConfig
from tests.cluster.processes import processes_of, start_a_family


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(question: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.1)


def ebbtide(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    (home / "temporary").mkdir(exist_ok=True)
    environment = {**os.environ, "XDG_STATE_HOME": str(home), "TMPDIR": str(home / "temporary")}
    command = [sys.executable, "-m", "ebbtide", "sandbox", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


async def test_the_api_server_forgets_nothing_over_a_sigkill_and_prometheus_comes_back(own_sandbox: Sandbox) -> None:
    async with KubeClient(own_sandbox.admin_kubeconfig) as client:
        name = "/api/v1/namespaces/default/configmaps/kept"
        body = {"metadata": {"name": "kept"}, "data": {"tide": "low"}}
        await client.request("POST", "/api/v1/namespaces/default/configmaps", body=body)
        own_sandbox.kill("kube-apiserver")
        with pytest.raises(RetryableError):
            await client.get(name)
        assert own_sandbox.processes.crashed() == {}  # it was told to
        own_sandbox.restart("kube-apiserver")
        assert (await client.get(name))["data"] == {"tide": "low"}
    own_sandbox.kill("prometheus")
    assert not controlplane.healthy(own_sandbox.layout, "prometheus")
    own_sandbox.restart("prometheus")
    assert controlplane.healthy(own_sandbox.layout, "prometheus")
    # the others found the new API server by themselves
    own_sandbox.kubectl("create", "deployment", "plain", "--image=x")
    until(lambda: "plain-" in own_sandbox.kubectl("get", "pods"))


def test_a_suspended_part_hangs_and_goes_on(own_sandbox: Sandbox) -> None:
    own_sandbox.suspend("kube-controller-manager")
    own_sandbox.kubectl("create", "deployment", "plain", "--image=x")
    time.sleep(2)
    assert own_sandbox.kubectl("get", "pods", "-o", "name") == ""
    own_sandbox.resume("kube-controller-manager")
    until(lambda: own_sandbox.kubectl("get", "pods", "-o", "name"))


def test_two_sandboxes_live_side_by_side_and_one_directory_holds_one(own_sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match=r"a sandbox runs in .* already"):
        Sandbox.start(SandboxConfig(directory=own_sandbox.directory))
    with Sandbox.start(SandboxConfig(directory=tmp_path / "other")) as other:
        assert other.loopback_prefix != own_sandbox.loopback_prefix
        assert other.apiserver_url != own_sandbox.apiserver_url
        other.kubectl("create", "namespace", "only-there")
        assert "only-there" not in own_sandbox.kubectl("get", "namespaces")
        pids = other.processes.pids().values()
    assert not any(exists(pid) for pid in pids)
    assert own_sandbox.kubectl("get", "--raw", "/readyz") == "ok"


def test_a_part_that_cannot_start_ends_all_and_names_its_log(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("{apiVersion: v1, kind: NoSuchKind, metadata: {name: x}}")
    directory = tmp_path / "sandbox"
    with pytest.raises(SandboxError, match="NoSuchKind"):
        Sandbox.start(SandboxConfig(directory=directory, manifests=(bad,)))
    assert not state.running(directory)
    for log in ("etcd", "kube-apiserver"):
        assert (directory / "logs" / f"{log}.log").stat().st_size > 0
    listening = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(directory) not in listening


def test_killing_the_parent_leaves_no_orphans(tmp_path: Path) -> None:
    program = (
        "import json, pathlib, sys, time\n"
        "from ebbtide.sandbox.sandbox import Sandbox, SandboxConfig\n"
        "quiet = lambda line: None\n"
        f"config = SandboxConfig(directory=pathlib.Path({str(tmp_path)!r}), process_node_slots=1, progress=quiet)\n"
        "s = Sandbox.start(config)\n"
        "s.spawn('extra', ['sleep', '600'])\n"
        "print(json.dumps(s.processes.pids()), flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = json.loads(parent.stdout.readline())
        assert set(pids) >= {*controlplane.COMPONENTS, controlplane.PROCESS_NODE, "extra"}
        start_a_family(tmp_path)
        assert all(exists(pid) for pid in pids.values())
        parent.kill()
    until(lambda: not any(exists(pid) for pid in pids.values()), 10)
    until(lambda: processes_of(tmp_path, wardens=True) == [], 10)
    assert not state.running(tmp_path)
    with Sandbox.start(SandboxConfig(directory=tmp_path)) as again:  # what it left is in nobody's way
        assert again.kubectl("get", "--raw", "/readyz") == "ok"


def test_command_line_detached_status_kubeconfig_down(tmp_path: Path) -> None:
    assert "no sandbox 'box' is ready" in ebbtide("status", "--name=box", home=tmp_path).stderr
    up = ebbtide("up", "--detach", "--name=box", "--no-emulator", "--process-node=2", home=tmp_path)
    assert up.returncode == 0, up.stdout + up.stderr
    try:
        assert "export KUBECONFIG=" in up.stdout
        shown = ebbtide("status", "--name=box", home=tmp_path)
        assert shown.returncode == 0
        assert all(f"  {name}" in shown.stdout for name in controlplane.COMPONENTS)
        assert "ENDED" not in shown.stdout
        assert "  gateway     none: no emulator runs\n" in shown.stdout
        assert "  node process-0               2 engine slots, 0 processes\n" in shown.stdout
        assert "has no emulator" in ebbtide("results", "--name=box", home=tmp_path).stderr
        assert "  pool l40s-on-demand          1 nodes, 0 coming, 0 GPUs waited for\n" in shown.stdout
        path = ebbtide("kubeconfig", "--name=box", "--path", home=tmp_path).stdout.strip()
        assert ebbtide("kubeconfig", "--name=box", home=tmp_path).stdout == Path(path).read_text()
        assert "runs already" in ebbtide("up", "--detach", "--name=box", home=tmp_path).stderr
        known = state.read(tmp_path / "ebbtide" / "sandbox" / "box")
        assert known is not None
    finally:
        down = ebbtide("down", "--name=box", home=tmp_path)
    assert "sandbox box ended" in down.stdout
    assert not any(exists(pid) for pid in [known.pid, *known.processes.values()])
    assert "does not run" in ebbtide("down", "--name=box", home=tmp_path).stdout
    assert list((tmp_path / "temporary").iterdir()) == [], "least of all the keys of its programs"


def test_command_line_up_again_after_a_kill_waits_for_the_new_sandbox(tmp_path: Path) -> None:
    directory = tmp_path / "ebbtide" / "sandbox" / "box"
    try:
        first = ebbtide("up", "--detach", "--name=box", "--no-emulator", home=tmp_path)
        assert first.returncode == 0, first.stdout + first.stderr
        killed = state.read(directory)
        assert killed is not None
        os.kill(killed.pid, signal.SIGKILL)
        until(lambda: not state.running(directory))
        again = ebbtide("up", "--detach", "--name=box", "--no-emulator", home=tmp_path)
        assert again.returncode == 0, again.stdout + again.stderr
        assert "export KUBECONFIG=" in again.stdout
        assert "ENDED" not in ebbtide("status", "--name=box", home=tmp_path).stdout
        known = state.read(directory)
        assert known is not None
        assert known.pid != killed.pid
        answer = subprocess.run(
            [known.kubectl, f"--kubeconfig={known.kubeconfig}", "get", "nodes", "-o", "name"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "node/" in answer.stdout
    finally:
        ebbtide("down", "--name=box", home=tmp_path)


def test_command_line_dispatch_and_seed_reach_the_emulator(tmp_path: Path) -> None:
    try:
        up = ebbtide("up", "--detach", "--name=box", "--dispatch=random", "--seed=7", home=tmp_path)
        assert up.returncode == 0, up.stdout + up.stderr
        directory = tmp_path / "ebbtide" / "sandbox" / "box"
        known = state.read(directory)
        assert known is not None
        asked = Path(f"/proc/{known.processes[controlplane.EMULATOR]}/cmdline").read_text().split("\0")
        assert {"--dispatch=random", "--seed=7"} <= set(asked)
        assert "dispatch random" in (directory / "logs" / "emulator.log").read_text()
    finally:
        ebbtide("down", "--name=box", home=tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_line_in_the_foreground_ends_everything_on_a_signal(number: int, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "ebbtide", "sandbox", "up"]
    directory = tmp_path / "ebbtide" / "sandbox" / "default"
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as up:
        until(lambda: state.read(directory))
        known = state.read(directory)
        assert known is not None
        up.send_signal(number)
        output, _ = up.communicate(timeout=30)
    assert up.returncode == 0
    assert "sandbox ended" in output
    assert not any(exists(pid) for pid in known.processes.values())


def started_beneath(home: Path) -> list[int]:
    """Every process with that folder for its state: what a command started, also where its parent is gone."""
    marker, found = f"XDG_STATE_HOME={home}\0".encode(), []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and marker in (folder / "environ").read_bytes() and exists(int(folder.name)):
                found.append(int(folder.name))
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize("engine", ["emulated", pytest.param("vllm", marks=[pytest.mark.full, pytest.mark.vllm])])
@pytest.mark.parametrize(
    ("number", "status", "last"),
    [
        (signal.SIGKILL, -signal.SIGKILL, ""),  # nobody is left to say anything
        (signal.SIGTERM, 143, "demo ended by SIGTERM"),
        (signal.SIGINT, 130, "demo ended by Ctrl-C"),
    ],
)
def test_a_demo_that_is_ended_leaves_no_process_and_says_one_line(
    number: int, status: int, last: str, engine: str, tmp_path: Path
) -> None:
    """Of an hour's load, so that the search for the static reference runs when the signal comes."""
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    name, load = ("demo-vllm", ["--engine=vllm"]) if engine == "vllm" else ("demo", ["--duration=60m"])
    command = [sys.executable, "-m", "ebbtide", "demo", "--plain", *load]
    awaited = "demo_reference" if engine == "emulated" else "operator"
    directory, output = tmp_path / "ebbtide" / "sandbox" / name, tmp_path / "output"
    with (
        output.open("wb") as out,
        subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True) as demo,
    ):
        try:
            until(lambda: state.read(directory), 120)
            until(lambda: any(awaited in command_line(pid) for pid in started_beneath(tmp_path)))
            until(lambda: "waiting for" in output.read_text() or engine == "vllm")
            assert len(started_beneath(tmp_path)) > len(controlplane.COMPONENTS)
            if number == signal.SIGINT:
                os.killpg(demo.pid, number)  # a terminal sends Ctrl-C to all in the foreground
            else:
                demo.send_signal(number)
            assert demo.wait(30) == status
            until(lambda: started_beneath(tmp_path) == [], 10)
        finally:
            for pid in (demo.pid, *started_beneath(tmp_path)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    shown = output.read_text()
    assert "Traceback" not in shown
    assert "Aborted" not in shown
    if last:
        assert last in shown.splitlines()[-1]
    else:
        assert "demo ended" not in shown
        assert "waiting for" in shown.splitlines()[-1] or engine == "vllm"


def test_command_line_a_part_that_dies_ends_the_sandbox_with_its_log(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    directory = tmp_path / "ebbtide" / "sandbox" / "default"
    command = [sys.executable, "-m", "ebbtide", "sandbox", "up"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as up:
        until(lambda: state.read(directory))
        known = state.read(directory)
        assert known is not None
        os.kill(known.processes["kwok"], signal.SIGKILL)
        _, errors = up.communicate(timeout=30)
    assert up.returncode == 1
    assert "kwok ended by itself with status -9" in errors
    assert not any(exists(pid) for pid in known.processes.values())


def test_status_of_what_does_not_run_is_not_found() -> None:
    with pytest.raises(NotFoundError):
        from ebbtide.cli.sandbox import status

        assert status.callback is not None
        status.callback(name="never-started")


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_the_older_minor_runs_too(tmp_path: Path) -> None:
    with Sandbox.start(SandboxConfig(directory=tmp_path, kubernetes="1.34")) as older:
        version = json.loads(older.kubectl("version", "-o", "json"))["serverVersion"]
        assert (version["major"], version["minor"]) == ("1", "34")
        older.kubectl("create", "deployment", "plain", "--image=x")
        until(lambda: "plain-" in older.kubectl("get", "pods"))
