"""What the pod's status says of its one container: the state, how often it was started, when it may start again.

Pure. Times are Unix seconds and come from outside.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ebbtide.clock import parse_rfc3339, rfc3339
from ebbtide.sandbox.processnode.wire import Json, Pod, Terminated

_FIRST_S, _LONGEST_S, _RESET_S = 10.0, 300.0, 600.0
_SIGNALLED = 128  # what a container runtime adds to the number of the signal


class BackOff:
    """A kubelet's pauses between restarts: none, then 10 s, 20 s, 40 s to 300 s; afresh after 10 minutes of running."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def pause_s(self, ran_s: float) -> float:
        """How long to wait after a run of `ran_s`."""
        if ran_s > _RESET_S:
            self._next_s = 0.0
        pause_s = self._next_s
        self._next_s = min(max(_FIRST_S, 2 * pause_s), _LONGEST_S)
        return pause_s


@dataclass
class Record:
    """The container as the status shows it. Exactly one of waiting, running, terminated is the current state."""

    waiting: tuple[str, str] | None = ("ContainerCreating", "")
    running_since_s: float | None = None
    terminated: Json | None = None
    last: Json | None = None
    pid: int = 0
    restart_count: int = 0
    started: bool = False
    ready: bool = False
    over: bool = False  # it will not be started again
    trouble: dict[str, str] = field(default_factory=dict)

    def wait(self, reason: str, message: str = "") -> None:
        """It does not run, and this is why; a run that has ended moves to the last state."""
        self.waiting = (reason, message)
        self.last, self.terminated = self.terminated or self.last, None

    def run(self, pid: int, now_s: float) -> None:
        """Its process was started."""
        self.last, self.terminated = self.terminated or self.last, None
        self.waiting, self.running_since_s, self.pid = None, now_s, pid

    def end(self, exit_status: int, now_s: float, *, reason: str = "", message: str = "") -> None:
        """Its process has ended: `exit_status` as Python gives it, negative for a signal."""
        code = _SIGNALLED - exit_status if exit_status < 0 else exit_status
        self.terminated = {
            "exitCode": code,
            **({"signal": -exit_status} if exit_status < 0 else {}),
            "reason": reason or ("Completed" if code == 0 else "Error"),
            **({"message": message} if message else {}),
            "startedAt": rfc3339(now_s if self.running_since_s is None else self.running_since_s),
            "finishedAt": rfc3339(now_s),
            **({"containerID": f"process://{self.pid}"} if self.pid else {}),
        }
        self.waiting, self.running_since_s, self.pid = None, None, 0
        self.started = self.ready = False

    def restarts(self, policy: str) -> bool:
        """Whether the pod's restart policy starts it again after the end that it has had."""
        failed = self.terminated is not None and self.terminated["exitCode"] != 0
        return policy == "Always" or (policy == "OnFailure" and failed)

    @property
    def phase(self) -> str:
        """Of the pod."""
        if self.over:
            return "Succeeded" if self.terminated is not None and self.terminated["exitCode"] == 0 else "Failed"
        begun = self.running_since_s is not None or self.terminated is not None or self.last is not None
        return "Running" if begun else "Pending"


def recovered(pod: Pod, now_s: float) -> Record:
    """The container of a pod that an earlier agent ran: whatever ran then ended with that agent."""
    record = Record()
    before = next((item for item in pod.status.container_statuses or () if item.name == pod.container.name), None)
    if before is None:
        return record
    record.restart_count = before.restart_count
    record.last = _terminated(before.last_state.terminated)
    if before.state.running is not None:
        began = before.state.running.started_at
        record.running_since_s = parse_rfc3339(began) if began else now_s
        record.end(
            -9, now_s, reason="ContainerStatusUnknown", message="the node agent ended, and its processes with it"
        )
    elif before.state.terminated is not None:
        record.terminated, record.waiting = _terminated(before.state.terminated), None
    record.over = pod.status.phase in ("Succeeded", "Failed") or (
        record.terminated is not None and not record.restarts(pod.spec.restart_policy)
    )
    return record


def pod_status(
    pod: Pod,
    record: Record,
    address: str,
    host_ip: str,
    start_time: str,
    since: Mapping[str, tuple[bool, str]],
    now_s: float,
) -> Json:
    """The status to merge into the pod's. `since` holds each condition's last value and the time of its change."""
    ready, conditions = record.ready, pod.status.conditions or ()
    met = {condition.type for condition in conditions if condition.status == "True"}
    open_gates = [gate.condition_type for gate in pod.spec.readiness_gates or () if gate.condition_type not in met]
    why = _unready(pod, record)
    gates = {"reason": "ReadinessGatesNotReady", "message": f"waits for the conditions {', '.join(open_gates)}"}
    wanted: dict[str, tuple[bool, Json]] = {
        "PodReadyToStartContainers": (not record.over, {}),
        "Initialized": (True, {}),
        "ContainersReady": (ready, why),
        "Ready": (ready and not open_gates, gates if ready and open_gates else why),
    }
    return {
        "phase": record.phase,
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": start_time,
        "conditions": [_condition(kind, ok, said, since, now_s) for kind, (ok, said) in wanted.items()],
        "containerStatuses": [_container(pod, record)],
    }


def _condition(kind: str, ok: bool, said: Json, since: Mapping[str, tuple[bool, str]], now_s: float) -> Json:
    before, at = since.get(kind, (None, ""))
    # None deletes what an earlier state left there
    words = {"reason": None, "message": None} if ok else {"reason": said.get("reason"), "message": said.get("message")}
    changed = at if before == ok else rfc3339(now_s)
    return {"type": kind, "status": str(ok), "lastTransitionTime": changed, **words}


def _unready(pod: Pod, record: Record) -> Json:
    if record.over:
        return {"reason": "PodCompleted" if record.phase == "Succeeded" else "PodFailed"}
    trouble = "".join(f"; {probe} probe: {why}" for probe, why in sorted(record.trouble.items()) if why)
    return {
        "reason": "ContainersNotReady",
        "message": f"containers with unready status: [{pod.container.name}]{trouble}",
    }


def _container(pod: Pod, record: Record) -> Json:
    if record.waiting is not None:
        reason, message = record.waiting
        state: Json = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
    elif record.terminated is not None:
        state = {"terminated": record.terminated}
    else:
        state = {"running": {"startedAt": rfc3339(record.running_since_s or 0.0)}}
    return {
        "name": pod.container.name,
        "image": pod.container.image,
        "imageID": "",
        **({"containerID": f"process://{record.pid}"} if record.pid else {}),
        "ready": record.ready,
        "started": record.started,
        "restartCount": record.restart_count,
        "state": state,
        "lastState": {"terminated": record.last} if record.last is not None else {},
    }


def _terminated(state: Terminated | None) -> Json | None:
    if state is None:
        return None
    known = {
        "exitCode": state.exit_code,
        "signal": state.signal,
        "reason": state.reason,
        "message": state.message,
        "startedAt": state.started_at,
        "finishedAt": state.finished_at,
    }
    return {key: value for key, value in known.items() if value is not None}
