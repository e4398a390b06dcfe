"""The sandbox's parts that need no control plane: processes, addresses, certificates, audit log, node autoscaler."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.cli.main import cli
from ebbtide.errors import ConfigurationError, SandboxError
from ebbtide.sandbox import addresses, nodes, prometheus, state
from ebbtide.sandbox.audit import Bound, audit_writes, bound_pods
from ebbtide.sandbox.autoscaler import (
    NO_CAPACITY,
    Autoscaler,
    AutoscalerSettings,
    Launch,
    State,
    World,
    is_waiting_for,
    missing_nodes,
)
from ebbtide.sandbox.certs import Authority, kubeconfig
from ebbtide.sandbox.manifests import documents
from ebbtide.sandbox.processes import Processes
from ebbtide.sandbox.sandbox import SandboxConfig

SLEEPER = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(600)",
]


def eventually(question: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not question():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path / "logs")
    yield made
    made.stop_all(grace_s=0.1)


def started(processes: Processes, name: str) -> bool:
    return eventually(lambda: "here" in processes.log_tail(name))


def test_a_process_has_a_log_an_environment_and_ends_on_stop(processes: Processes) -> None:
    pid = processes.spawn("say", [sys.executable, "-c", "import os; print(os.environ['WORD'])"], {"WORD": "tide"})
    assert eventually(lambda: not processes.alive("say"))
    assert processes.log("say").read_text() == "tide\n"
    assert processes.pid("say") == pid
    assert processes.crashed() == {"say": 0}


def test_stop_is_no_crash_and_a_stubborn_process_is_killed_after_its_grace(processes: Processes) -> None:
    processes.spawn("stubborn", STUBBORN)
    assert started(processes, "stubborn")
    assert processes.stop("stubborn", grace_s=0.2) == -signal.SIGKILL
    assert processes.crashed() == {}


def test_a_suspended_process_can_be_resumed_and_stopped(processes: Processes) -> None:
    pid = processes.spawn("sleeper", SLEEPER)
    assert started(processes, "sleeper")
    processes.signal("sleeper", signal.SIGSTOP)
    assert eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[-1].split()[0] == "T")
    assert processes.alive("sleeper")
    assert processes.stop("sleeper") == -signal.SIGTERM


def test_restart_gives_a_new_pid_and_appends_to_the_log(processes: Processes) -> None:
    first = processes.spawn("sleeper", SLEEPER)
    assert started(processes, "sleeper")
    second = processes.restart("sleeper")
    assert first != second
    assert eventually(lambda: processes.log("sleeper").read_text() == "here\nhere\n")
    assert not exists(first)


def test_a_name_in_use_and_a_program_that_does_not_exist_are_refused(processes: Processes) -> None:
    processes.spawn("sleeper", SLEEPER)
    with pytest.raises(SandboxError, match="'sleeper' runs already"):
        processes.spawn("sleeper", SLEEPER)
    with pytest.raises(SandboxError, match="there is no program '/no/such'"):
        processes.spawn("other", ["/no/such"])
    with pytest.raises(SandboxError, match="there is no process 'third'; there are: sleeper"):
        processes.stop("third")


def test_waiting_for_a_process_that_ends_shows_the_end_of_its_log(processes: Processes) -> None:
    processes.spawn("broken", [sys.executable, "-c", "import sys; sys.exit('no such flag: --x')"])
    with pytest.raises(SandboxError, match=r"(?s)broken ended by itself with status 1; log .*no such flag: --x"):
        processes.wait_until("broken", lambda: False, 30)


def test_a_process_outlives_the_thread_that_asked_for_it(processes: Processes) -> None:
    # the kernel ties a child to the thread that made it: asyncio.to_thread must not kill it at its end
    thread = threading.Thread(target=processes.spawn, args=("sleeper", SLEEPER))
    thread.start()
    thread.join()
    assert started(processes, "sleeper")
    time.sleep(0.3)
    assert processes.alive("sleeper")


@pytest.mark.parametrize(
    "call",
    [
        "calls.run_program('go', [str(folder / 'go'), 'apply'])",
        "gobuild.build(etcd(), etcd().binaries[0], folder, print)",
    ],
    ids=["a program called to its end", "a build"],
)
def test_a_killed_parent_takes_what_it_waits_for_along(call: str, tmp_path: Path) -> None:
    go, pid = tmp_path / "go", tmp_path / "pid"
    go.write_text(f"#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600\n")
    go.chmod(0o755)
    program = (
        "import pathlib\n"
        "from ebbtide.sandbox import calls, gobuild\n"
        "from ebbtide.sandbox.versions import etcd\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        f"{call}\n"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as parent:
        assert eventually(pid.exists)
        parent.kill()
    started = int(pid.read_text())
    try:
        assert eventually(lambda: not exists(started), 5)
    finally:
        if exists(started):
            os.kill(started, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dying_parent_takes_its_processes_along_even_stopped_ones(number: int, tmp_path: Path) -> None:
    program = (
        "import pathlib, signal, sys, time\n"
        "from ebbtide.sandbox.processes import Processes\n"
        f"p = Processes(pathlib.Path({str(tmp_path)!r}))\n"
        f"pids = [p.spawn('a', {SLEEPER!r}), p.spawn('b', {STUBBORN!r})]\n"
        "while 'here' not in p.log_tail('a') or 'here' not in p.log_tail('b'): time.sleep(0.02)\n"
        "p.signal('a', signal.SIGSTOP)\n"
        "print(*pids, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(exists(pid) for pid in pids)
        parent.send_signal(number)
        parent.wait()
    assert eventually(lambda: not any(exists(pid) for pid in pids))


def test_two_claims_never_share_pod_addresses_or_ports() -> None:
    first, second = addresses.claim(), addresses.claim()
    try:
        assert first.cidr != second.cidr
        assert not set(first.ports(6)) & set(second.ports(6))
        assert all(port < 32768 for port in first.ports(6) + second.ports(6))
    finally:
        first.close()
        second.close()


def test_a_port_that_a_foreign_program_holds_is_passed_over() -> None:
    claim = addresses.claim()
    with socket.socket() as foreign:
        taken = claim.ports(1)[0]
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        foreign.bind(("127.0.0.1", taken))
        foreign.listen()
        assert taken not in claim.ports(6)
        with pytest.raises(SandboxError, match=r"only 39 of the ports \d+-\d+ are free, need 40"):
            claim.ports(40)
    claim.close()


def test_certificates_are_signed_by_their_authority_and_keys_are_private(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    serving = authority.server("server", ["localhost"], ["127.0.0.1"])
    client = authority.client("admin", "someone", "system:masters")
    for pair in (serving, client):
        verify = ["openssl", "verify", "-CAfile", str(authority.pair.certificate), str(pair.certificate)]
        assert subprocess.run(verify, capture_output=True, check=False).returncode == 0
        assert pair.key.stat().st_mode & 0o077 == 0
        ssl.create_default_context().load_cert_chain(pair.certificate, pair.key)
    config = yaml.safe_load(kubeconfig("https://127.0.0.1:1", authority.pair.certificate, client=client))
    assert set(config["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}


def test_without_openssl_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match="'openssl', which is not installed"):
        Authority(tmp_path / "pki")


def test_a_directory_belongs_to_one_sandbox_and_is_free_after_its_end(tmp_path: Path) -> None:
    with state.lock(tmp_path):
        assert state.running(tmp_path)
        assert state.holder(tmp_path) == os.getpid()
        with pytest.raises(SandboxError, match=r"a sandbox runs in .* already"):
            state.lock(tmp_path)
    assert not state.running(tmp_path)
    assert state.read(tmp_path) is None


@pytest.mark.parametrize("name", ["", "UP", "a/b", "../x", "-a", "a" * 41])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="allowed are 1 to 40 of a-z"):
        SandboxConfig(name=name)


def test_a_bad_scrape_interval_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"scrape_interval_s is 0: allowed are 0.5 to 300 seconds"):
        SandboxConfig(scrape_interval_s=0)


@pytest.mark.parametrize("option", ["--dispatch=random", "--seed=7"])
def test_what_the_emulator_is_told_is_refused_where_there_is_none(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    done = CliRunner().invoke(cli, ["sandbox", "up", "--detach", "--no-emulator", option])
    assert done.exit_code == 2
    assert f"{option.partition('=')[0]}: not with --no-emulator" in done.output
    assert not any(tmp_path.iterdir())


def test_an_empty_manifest_is_refused_and_a_folder_is_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("kind: B\n---\nkind: C\n")
    (tmp_path / "a.yaml").write_text("kind: A\n")
    assert [item["kind"] for item in documents(tmp_path)] == ["A", "B", "C"]
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    with pytest.raises(ConfigurationError, match="holds no YAML objects"):
        documents(tmp_path / "empty.yaml")


def test_prometheus_is_configured_with_whole_milliseconds_and_the_extra_targets(tmp_path: Path) -> None:
    target = prometheus.ScrapeTarget("gateway", "127.0.0.1:9000")
    path = prometheus.write_config(tmp_path / "p.yml", tmp_path / "kc", 0.75, [target])
    written = yaml.safe_load(path.read_text())
    assert written["global"]["scrape_interval"] == "750ms"
    assert [job["job_name"] for job in written["scrape_configs"]] == ["pods", "gateway"]


def audit_line(**changes: Any) -> str:
    event = {
        "stage": "ResponseComplete",
        "verb": "patch",
        "user": {"username": "someone"},
        "objectRef": {"resource": "deployments", "subresource": "scale", "namespace": "team", "name": "chat"},
        "requestReceivedTimestamp": "2026-01-31T09:05:00.250000Z",
        "responseStatus": {"code": 200},
        "requestObject": {"spec": {"replicas": 3}},
    }
    return json.dumps(event | changes) + "\n"


def test_the_audit_log_gives_accepted_writes_in_order_and_skips_reads_and_half_lines(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_text(
        audit_line(requestReceivedTimestamp="2026-01-31T09:06:00Z", verb="delete")
        + audit_line()
        + audit_line(verb="get")
        + audit_line(responseStatus={"code": 403})
        + audit_line(user={"username": "other"})
        + audit_line(stage="ResponseStarted")
        + '{"stage": "Respon'
    )
    found = audit_writes(path, "someone")
    assert [write.verb for write in found] == ["patch", "delete"]
    assert found[0].time_s == pytest.approx(1769850300.25)
    assert (found[0].resource, found[0].subresource, found[0].namespace, found[0].name) == (
        "deployments",
        "scale",
        "team",
        "chat",
    )
    assert found[0].body == {"spec": {"replicas": 3}}
    assert len(audit_writes(path)) == 3
    assert len(audit_writes(path, "someone", accepted_only=False)) == 3


def test_the_audit_log_says_when_pods_were_bound_and_last_told_to_go(tmp_path: Path) -> None:
    def line(second: str, verb: str, name: str, subresource: str = "", **changes: Any) -> str:
        what = {"resource": "pods", "subresource": subresource, "namespace": "team", "name": name}
        return audit_line(
            requestReceivedTimestamp=f"1970-01-01T00:00:{second}Z",
            verb=verb,
            objectRef=what,
            requestObject=None,
            **changes,
        )

    path = tmp_path / "audit.log"
    path.write_text(
        line("01", "create", "a")
        + line("02", "create", "a", "binding")
        + line("03", "create", "b", "binding", responseStatus={"code": 409})
        + line("04", "create", "b", "binding")
        + line("05.5", "delete", "a")
        + line("06", "patch", "a", "status")
        + line("07.25", "delete", "a")
        + line("08", "delete", "never-bound")
    )
    assert bound_pods(path, "team") == [Bound("a", 2.0, 7.25), Bound("b", 4.0, None)]
    assert bound_pods(path, "other") == []


LEFT = state.State(
    name="box",
    pid=999_999,
    started_s=0.0,
    kubernetes="1.36",
    apiserver_url="https://127.0.0.1:1",
    prometheus_url="http://127.0.0.1:2",
    gateway_url="",
    kubeconfig="admin.kubeconfig",
    kubectl="kubectl",
    pods="127.9.0.0/16",
    processes={"etcd": 999_998},
)


def test_what_a_killed_sandbox_left_is_forgotten_by_the_next_holder_and_not_taken_for_its_own(tmp_path: Path) -> None:
    with state.lock(tmp_path):
        state.write(tmp_path, LEFT)
        assert state.read(tmp_path) == LEFT
    assert state.read(tmp_path) is None, "nobody holds the directory"
    with state.lock(tmp_path):
        assert state.running(tmp_path)
        assert state.read(tmp_path) is None, "it starts, and is not ready yet"
        with pytest.raises(SandboxError, match="runs in"):
            state.lock(tmp_path)


def test_one_that_finds_the_directory_taken_leaves_the_holders_state_alone(tmp_path: Path) -> None:
    with state.lock(tmp_path):
        state.write(tmp_path, LEFT)
        with pytest.raises(SandboxError, match="runs in"):
            state.lock(tmp_path)
        assert state.read(tmp_path) == LEFT


POOL = nodes.L40S_ON_DEMAND  # nodes of 4 GPUs
SCALER = Autoscaler(POOL, AutoscalerSettings(lead_time_s=20, idle_s=60, max_nodes=3, min_nodes=1, retry_s=10))
NODE = POOL.node_name(0)


@pytest.mark.parametrize(
    ("waiting", "free", "wanted"),
    [
        ([], [], 0),
        ([4], [], 1),
        ([4], [4], 0),
        ([4, 4, 2], [2], 2),
        ([1, 1, 1, 1, 1], [], 2),
        ([2, 2, 4], [0, 1], 2),
        ([8], [4], 0),  # no node of this pool can ever hold it
    ],
)
def test_missing_nodes_table(waiting: list[int], free: list[int], wanted: int) -> None:
    assert missing_nodes(waiting, free, 4) == wanted


@given(st.lists(st.integers(1, 4), max_size=20), st.lists(st.integers(0, 4), max_size=6))
def test_missing_nodes_always_hold_the_waiting_gpus_and_are_never_one_too_many_per_pod(
    waiting: list[int], free: list[int]
) -> None:
    new = missing_nodes(waiting, free, 4)
    assert new <= len(waiting)
    assert sum(free) + 4 * new >= sum(waiting)


def world(waiting: tuple[int, ...] = (), free: dict[str, int] | None = None, fails: bool = False) -> World:
    free = {NODE: 0} if free is None else free
    return World(waiting, free, frozenset(name for name, gpus in free.items() if gpus == 4), fails)


def test_a_node_comes_a_lead_time_after_it_is_needed_and_is_asked_for_once() -> None:
    asked = SCALER.decide(world((4,)), State(next_index=1), 100)
    assert asked.create == ()
    assert asked.state.launching == (Launch("l40s-on-demand-1", 120),)
    again = SCALER.decide(world((4,)), asked.state, 119)
    assert again.state.launching == asked.state.launching
    come = SCALER.decide(world((4,)), again.state, 120)
    assert come.create == ("l40s-on-demand-1",)
    assert come.state.launching == ()


def test_never_more_than_max_nodes() -> None:
    decision = SCALER.decide(world((4, 4, 4, 4, 4)), State(next_index=1), 0)
    assert len(decision.state.launching) == 2  # one exists, three are allowed


def test_a_failing_cloud_gives_no_node_says_so_and_is_asked_again_later() -> None:
    asked = SCALER.decide(world((4,), fails=True), State(next_index=1), 0)
    assert asked.state.failing
    failed = SCALER.decide(world((4,), fails=True), asked.state, 20)
    assert failed.create == ()
    assert (failed.state.failures, failed.state.last_error, failed.state.launching) == (1, NO_CAPACITY, ())
    assert SCALER.decide(world((4,)), failed.state, 29).state.launching == ()
    retried = SCALER.decide(world((4,)), failed.state, 30)
    assert [launch.due_s for launch in retried.state.launching] == [50]
    come = SCALER.decide(world((4,)), retried.state, 50)
    assert len(come.create) == 1
    assert come.state.last_error == ""


def test_an_idle_node_goes_after_the_idle_time_but_never_the_last_ones() -> None:
    free = {NODE: 4, "l40s-on-demand-1": 4}
    first = SCALER.decide(world((), free), State(next_index=2), 0)
    assert first.remove == ()
    assert SCALER.decide(world((), free), first.state, 59).remove == ()
    assert SCALER.decide(world((), free), first.state, 60).remove == ("l40s-on-demand-1",)
    busy = SCALER.decide(world((), {NODE: 4, "l40s-on-demand-1": 0}), first.state, 30)
    assert SCALER.decide(world((), free), busy.state, 60).remove == (NODE,)  # the other's idle time began anew


def test_settings_out_of_bounds_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="min_nodes is 5 and max_nodes 2"):
        AutoscalerSettings(min_nodes=5, max_nodes=2)
    with pytest.raises(ConfigurationError, match="idle_s is -1"):
        AutoscalerSettings(idle_s=-1)


def waiting_pod(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "x"},
        "spec": {
            "containers": [{"resources": {"limits": {"nvidia.com/gpu": "4"}}}],
            "nodeSelector": {nodes.POOL_LABEL: POOL.name},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            **spec,
        },
        "status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]},
    }


@pytest.mark.parametrize(
    ("pod", "waits"),
    [
        (waiting_pod(), True),
        (waiting_pod(tolerations=[{"operator": "Exists"}]), True),
        (waiting_pod(tolerations=[]), False),
        (waiting_pod(tolerations=[{"key": "nvidia.com/gpu", "value": "other"}]), False),
        (waiting_pod(nodeSelector={nodes.POOL_LABEL: "h100-spot"}), False),
        (waiting_pod(nodeSelector={"nvidia.com/gpu.product": "NVIDIA-L40S"}), True),
        (waiting_pod(nodeName=NODE), False),
        (waiting_pod(containers=[{}]), False),
        (waiting_pod() | {"status": {}}, False),
        (waiting_pod() | {"metadata": {"deletionTimestamp": "now"}}, False),
    ],
)
def test_which_pods_a_new_node_would_help(pod: dict[str, Any], waits: bool) -> None:
    assert is_waiting_for(pod, POOL) is waits
