"""The process node's rules that need no process: environment, status, back-off, addresses, logs, thresholds."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.errors import ConfigurationError, NotFoundError, SandboxError
from ebbtide.sandbox.processnode.agent import Addresses
from ebbtide.sandbox.processnode.environment import RefusedError, expand, prepare
from ebbtide.sandbox.processnode.logs import log_file, read
from ebbtide.sandbox.processnode.probes import Tally
from ebbtide.sandbox.processnode.status import BackOff, Record, pod_status, recovered
from ebbtide.sandbox.processnode.wire import Pod, Probe
from ebbtide.sandbox.sandbox import SandboxConfig

NOON_S, NOON, LATER = 1_767_268_800.0, "2026-01-01T12:00:00Z", "2026-01-01T12:00:07Z"


def pod(status: dict[str, Any] | None = None, policy: str = "Always", gates: tuple[str, ...] = (), **more: Any) -> Pod:
    """`more` are fields of the container, as they are on the wire."""
    meta = {"name": "chat-0", "namespace": "team-a", "uid": "1b9d6bcd-bbfd", "labels": {"app": "chat"}}
    container = {"name": "engine", "image": "vllm", "command": ["serve"], **more}
    spec: dict[str, Any] = {"nodeName": "process-0", "restartPolicy": policy, "containers": [container]}
    spec["readinessGates"] = [{"conditionType": gate} for gate in gates]
    return msgspec.convert(
        {"metadata": meta | {"annotations": {"a/b": "c"}}, "spec": spec, "status": status or {}}, Pod
    )


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("--host=$(POD_IP)", "--host=127.1.200.1"),
        ("$(POD_IP)$(POD_IP)", "127.1.200.1127.1.200.1"),
        ("$(NOT_THERE)", "$(NOT_THERE)"),
        ("$$(POD_IP)", "$(POD_IP)"),
        ("$$$(POD_IP)", "$127.1.200.1"),
        ("$$", "$"),
        ("$POD_IP ${POD_IP} $(POD_IP", "$POD_IP ${POD_IP} $(POD_IP"),
        ("$()", "$()"),
        ("costs 5$", "costs 5$"),
        ("$(NESTED)", "$(POD_IP)"),
    ],
)
def test_references_are_expanded_as_kubernetes_does(text: str, expanded: str) -> None:
    assert expand(text, {"POD_IP": "127.1.200.1", "NESTED": "$(POD_IP)"}) == expanded


@given(st.text(st.characters(exclude_characters="$")))
def test_a_text_without_a_dollar_is_never_changed(text: str) -> None:
    assert expand(text, {"A": "b"}) == text


def ref(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def test_a_process_gets_what_the_pod_declares_and_little_of_the_machine() -> None:
    env = [
        ref("POD_IP", "status.podIP"),
        ref("HOST_IP", "status.hostIP"),
        ref("NAME", "metadata.name"),
        ref("SPACE", "metadata.namespace"),
        ref("UID", "metadata.uid"),
        ref("NODE", "spec.nodeName"),
        ref("APP", "metadata.labels['app']"),
        ref("NOTE", "metadata.annotations['a/b']"),
        ref("NONE", "metadata.labels['missing']"),
        {"name": "URL", "value": "http://$(POD_IP):$(PORT)"},  # PORT is declared later, so it is not known yet
        {"name": "PORT", "value": "8000"},
        {"name": "EMPTY"},
    ]
    machine = {"PATH": "/bin", "HOME": "/home/me", "LANG": "C", "SECRET": "x", "PYTHONPATH": "y"}
    launch = prepare(pod(env=env, args=["--port=$(PORT)", "$(PATH)"]), "127.1.200.1", "127.1.255.253", machine)
    assert launch.command == ("serve", "--port=8000", "/bin")
    assert launch.env == {
        "PATH": "/bin",
        "HOME": "/home/me",
        "LANG": "C",
        "POD_IP": "127.1.200.1",
        "HOST_IP": "127.1.255.253",
        "NAME": "chat-0",
        "SPACE": "team-a",
        "UID": "1b9d6bcd-bbfd",
        "NODE": "process-0",
        "APP": "chat",
        "NOTE": "c",
        "NONE": "",
        "URL": "http://127.1.200.1:$(PORT)",
        "PORT": "8000",
        "EMPTY": "",
    }


@pytest.mark.parametrize(
    ("fields", "reason", "said"),
    [
        ({"command": None}, "CreateContainerError", "container engine has no command: the process node has no images"),
        ({"command": [], "args": ["x"]}, "CreateContainerError", "has no command"),
        (
            {"env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
            "CreateContainerConfigError",
            "env KEY: the process node plays value and fieldRef, not secretKeyRef",
        ),
        (
            {"env": [{"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}}]},
            "CreateContainerConfigError",
            "not configMapKeyRef",
        ),
        (
            {"env": [{"name": "KEY", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]},
            "CreateContainerConfigError",
            "not resourceFieldRef",
        ),
        ({"env": [ref("KEY", "spec.unknown")]}, "CreateContainerConfigError", "env KEY: fieldPath 'spec.unknown'"),
        ({"envFrom": [{"secretRef": {"name": "s"}}]}, "CreateContainerConfigError", "not envFrom"),
        ({"lifecycle": {"postStart": {"sleep": {"seconds": 1}}}}, "CreateContainerConfigError", "not postStart"),
        ({"livenessProbe": {"grpc": {"port": 1}}}, "CreateContainerConfigError", "livenessProbe: the process node"),
        (
            {"readinessProbe": {"httpGet": {"port": "http"}}},
            "CreateContainerConfigError",
            "readinessProbe: the container has no port named 'http'",
        ),
        (
            {"lifecycle": {"preStop": {"httpGet": {"port": "bye"}}}},
            "CreateContainerConfigError",
            "preStop: the container has no port named 'bye'",
        ),
    ],
)
def test_what_the_node_cannot_give_is_refused_with_its_reason(fields: dict[str, Any], reason: str, said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        prepare(pod(**fields), "127.1.200.1", "127.1.255.253", {})
    assert caught.value.reason == reason
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("success", "failure", "initial", "answers", "results"),
    [
        (1, 3, False, "++", "++"),
        (1, 3, True, "--+---+", "+++++-+"),
        (2, 1, False, "+-++-", "---+-"),
        (1, 3, None, "--+", "??+"),
        (1, 3, None, "---", "??-"),
        (1, 1, True, "-", "-"),
    ],
)
def test_a_result_changes_after_as_many_equal_answers_as_the_thresholds_say(
    success: int, failure: int, initial: bool | None, answers: str, results: str
) -> None:
    tally = Tally(Probe(success_threshold=success, failure_threshold=failure), initial)
    shown = {True: "+", False: "-", None: "?"}
    assert "".join(shown[tally.add(answer == "+")] for answer in answers) == results


def test_back_off_doubles_to_five_minutes_and_starts_afresh_after_ten_minutes_of_running() -> None:
    back_off = BackOff()
    assert [back_off.pause_s(1) for _ in range(8)] == [0, 10, 20, 40, 80, 160, 300, 300]
    assert [back_off.pause_s(ran_s) for ran_s in (600, 601, 1)] == [300, 0, 10]


def shown(of: Pod, record: Record, since: dict[str, tuple[bool, str]] | None = None) -> dict[str, Any]:
    return pod_status(of, record, "127.1.200.1", "127.1.255.253", NOON, since or {}, NOON_S + 7)


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(item for item in status["conditions"] if item["type"] == kind)


def test_status_of_a_container_through_its_life() -> None:
    record = Record()
    status = shown(pod(), record)
    assert (status["phase"], status["podIP"], status["hostIP"]) == ("Pending", "127.1.200.1", "127.1.255.253")
    assert status["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}
    record.run(77, NOON_S)
    record.trouble = {"readiness": "HTTP status 503"}
    status = shown(pod(), record)
    assert status["phase"] == "Running"
    assert status["containerStatuses"][0]["state"] == {"running": {"startedAt": NOON}}
    assert status["containerStatuses"][0]["containerID"] == "process://77"
    assert "[engine]; readiness probe: HTTP status 503" in condition(status, "Ready")["message"]
    record.started = record.ready = True
    record.trouble = {"readiness": ""}
    status = shown(pod(), record, {"Ready": (False, NOON), "ContainersReady": (True, NOON)})
    assert condition(status, "Ready") == {
        "type": "Ready",
        "status": "True",
        "lastTransitionTime": LATER,
        "reason": None,
        "message": None,
    }
    assert condition(status, "ContainersReady")["lastTransitionTime"] == NOON  # it was so before
    record.end(-9, NOON_S + 7)
    status = shown(pod(), record)
    ended = {"exitCode": 137, "signal": 9, "reason": "Error", "startedAt": NOON, "finishedAt": LATER}
    assert status["containerStatuses"][0]["state"] == {"terminated": ended | {"containerID": "process://77"}}
    assert condition(status, "Ready")["status"] == "False"
    record.wait("CrashLoopBackOff", "back-off 10s")
    status = shown(pod(), record)
    assert status["phase"] == "Running"
    assert status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137
    record.run(78, NOON_S)
    assert shown(pod(), record)["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137


@pytest.mark.parametrize(
    ("policy", "exit_status", "again", "phase"),
    [
        ("Always", 0, True, "Running"),
        ("Always", 1, True, "Running"),
        ("OnFailure", 0, False, "Succeeded"),
        ("OnFailure", -15, True, "Running"),
        ("Never", 0, False, "Succeeded"),
        ("Never", 3, False, "Failed"),
    ],
)
def test_the_restart_policy_decides_what_an_end_means(policy: str, exit_status: int, again: bool, phase: str) -> None:
    record = Record()
    record.run(1, NOON_S)
    record.end(exit_status, NOON_S)
    assert record.restarts(policy) is again
    record.over = not again
    assert record.phase == phase
    if not again:
        reason = "PodCompleted" if phase == "Succeeded" else "PodFailed"
        assert condition(shown(pod(), record), "Ready")["reason"] == reason


def test_readiness_gates_hold_the_pod_and_not_its_container() -> None:
    record = Record(waiting=None, running_since_s=NOON_S, started=True, ready=True)
    status = shown(pod(gates=("team.example/warm",)), record)
    assert condition(status, "ContainersReady")["status"] == "True"
    assert condition(status, "Ready")["reason"] == "ReadinessGatesNotReady"
    assert condition(status, "Ready")["message"] == "waits for the conditions team.example/warm"
    met = {"conditions": [{"type": "team.example/warm", "status": "True"}]}
    assert condition(shown(pod(met, gates=("team.example/warm",)), record), "Ready")["status"] == "True"


def earlier(state: dict[str, Any], phase: str = "Running") -> dict[str, Any]:
    last = {"terminated": {"exitCode": 2, "reason": "Error"}}
    container = {"name": "engine", "restartCount": 4, "state": state, "lastState": last}
    return {"phase": phase, "podIP": "127.1.200.9", "containerStatuses": [container]}


def test_an_agent_that_starts_says_of_processes_that_ran_that_they_ended_with_its_predecessor() -> None:
    running = earlier({"running": {"startedAt": NOON}})
    record = recovered(pod(running), NOON_S + 7)
    assert record.terminated is not None
    assert (record.terminated["exitCode"], record.terminated["reason"]) == (137, "ContainerStatusUnknown")
    assert (record.terminated["startedAt"], record.terminated["finishedAt"]) == (NOON, LATER)
    assert (record.restart_count, record.over) == (4, False)
    record = recovered(pod(running, policy="Never"), NOON_S)
    assert (record.over, record.phase) == (True, "Failed")
    record = recovered(pod(earlier({"terminated": {"exitCode": 0}}, "Succeeded"), policy="Never"), NOON_S)
    assert (record.over, record.phase) == (True, "Succeeded")
    record = recovered(pod(earlier({"waiting": {"reason": "CrashLoopBackOff"}})), NOON_S)
    assert (record.over, record.restart_count, record.last) == (False, 4, {"exitCode": 2, "reason": "Error"})
    assert recovered(pod(), NOON_S) == Record()


def test_addresses_lie_high_and_a_freed_one_comes_round_last() -> None:
    addresses = Addresses("127.70")
    first, second = addresses.take(), addresses.take()
    assert (first, second) == ("127.70.200.1", "127.70.200.2")
    addresses.free(first)
    assert addresses.take() == "127.70.200.3"
    assert addresses.take("127.70.201.7") == "127.70.201.7"  # an earlier agent gave it to this pod
    assert addresses.take("127.70.201.7") == "127.70.200.4"  # taken
    assert addresses.take("10.0.0.1") == "127.70.200.5"  # not ours
    for _ in range(40 * 254 - 5):
        addresses.take()
    with pytest.raises(SandboxError, match="all 10160 addresses of the process node are in use"):
        addresses.take()


def test_logs_are_found_by_namespace_and_pod(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there are logs of: none"):
        log_file(tmp_path, "team-a", "chat-0")
    for name, text in (("team-a_chat-0_11111111", "old\n"), ("team-b_chat-0_22222222", "other\n")):
        (tmp_path / "pods" / name).mkdir(parents=True)
        (tmp_path / "pods" / name / "engine.log").write_text(text)
    found = log_file(tmp_path, "team-a", "chat-0")
    assert list(read(found, None, lambda: False)) == ["old\n", ""]
    with pytest.raises(NotFoundError, match="there are logs of: team-a/chat-0, team-b/chat-0"):
        log_file(tmp_path, "team-a", "chat")


def test_a_log_is_read_from_its_tail_and_followed(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_text("1\n2\n3\n")
    assert list(read(path, 2, lambda: False)) == ["2\n", "3\n", ""]
    assert list(read(path, 0, lambda: False)) == [""]
    looks = iter([True, True, False])

    def more() -> bool:
        with path.open("a") as out:
            out.write("more\n")
        return next(looks)

    assert "".join(read(path, 1, more)) == "3\nmore\nmore\nmore\n"


def test_the_number_of_slots_has_bounds() -> None:
    with pytest.raises(ConfigurationError, match="process_node_slots is 65: allowed are 0"):
        SandboxConfig(process_node_slots=65)
