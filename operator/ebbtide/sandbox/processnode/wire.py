"""The parts of a Pod that a node agent reads. Nothing here decides."""

from typing import Any

import msgspec

from ebbtide.observe.projections import Condition, LabelledMeta, Wire

Json = dict[str, Any]


class PodMeta(LabelledMeta, frozen=True, gc=False):
    """Metadata of a pod."""

    annotations: dict[str, str] | None = None
    deletion_grace_period_seconds: int | None = None


class FieldRef(Wire, frozen=True, gc=False):
    """A field of the pod itself."""

    field_path: str


class ValueFrom(Wire, frozen=True, gc=False):
    """Where a variable's value comes from; only `field_ref` is played."""

    field_ref: FieldRef | None = None
    secret_key_ref: Json | None = None
    config_map_key_ref: Json | None = None
    resource_field_ref: Json | None = None


class EnvVar(Wire, frozen=True, gc=False):
    """One declared variable."""

    name: str
    value: str | None = None
    value_from: ValueFrom | None = None


class ContainerPort(Wire, frozen=True, gc=False):
    """A port that the container says it has."""

    container_port: int
    name: str = ""


class Exec(Wire, frozen=True, gc=False):
    """A command in the container."""

    command: tuple[str, ...] = ()


class Header(Wire, frozen=True, gc=False):
    """An HTTP header."""

    name: str
    value: str


class HttpGet(Wire, frozen=True, gc=False):
    """A GET on the pod's address; `port` is a number or the name of a container port."""

    port: int | str
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[Header, ...] | None = None


class TcpSocket(Wire, frozen=True, gc=False):
    """A connection to the pod's address."""

    port: int | str
    host: str = ""


class Sleep(Wire, frozen=True, gc=False):
    """A pause in seconds."""

    seconds: int


class Probe(Wire, frozen=True, gc=False):
    """A question to a container, with Kubernetes' defaults; times in seconds."""

    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    exec: Exec | None = None
    grpc: Json | None = None
    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class Hook(Wire, frozen=True, gc=False):
    """What to do before the container ends."""

    http_get: HttpGet | None = None
    exec: Exec | None = None
    sleep: Sleep | None = None


class Lifecycle(Wire, frozen=True, gc=False):
    """Hooks of a container."""

    pre_stop: Hook | None = None
    post_start: Json | None = None


class Container(Wire, frozen=True, gc=False):
    """A container of the pod's spec."""

    name: str
    image: str = ""
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: tuple[EnvVar, ...] | None = None
    env_from: tuple[Json, ...] | None = None
    ports: tuple[ContainerPort, ...] | None = None
    startup_probe: Probe | None = None
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    lifecycle: Lifecycle | None = None


class ReadinessGate(Wire, frozen=True, gc=False):
    """A condition that somebody else sets and that readiness waits for."""

    condition_type: str


class PodSpec(Wire, frozen=True, gc=False):
    """The spec of a pod."""

    containers: tuple[Container, ...]
    node_name: str = ""
    init_containers: tuple[Json, ...] | None = None
    restart_policy: str = "Always"
    termination_grace_period_seconds: int | None = None
    readiness_gates: tuple[ReadinessGate, ...] | None = None


class Running(Wire, frozen=True, gc=False):
    """State of a container that runs."""

    started_at: str | None = None


class Terminated(Wire, frozen=True, gc=False):
    """State of a container that has ended."""

    exit_code: int
    signal: int | None = None
    reason: str | None = None
    message: str | None = None
    started_at: str | None = None
    finished_at: str | None = None


class ContainerState(Wire, frozen=True, gc=False):
    """One of them is set; none: waiting."""

    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(Wire, frozen=True, gc=False):
    """What the pod's status says of a container."""

    name: str
    restart_count: int = 0
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodStatus(Wire, frozen=True, gc=False):
    """The status of a pod, as this agent or an earlier one left it."""

    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    start_time: str | None = None
    conditions: tuple[Condition, ...] | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None


class Pod(Wire, frozen=True, gc=False):
    """A pod that is bound to this node."""

    metadata: PodMeta
    spec: PodSpec
    status: PodStatus = PodStatus()

    @property
    def container(self) -> Container:
        """The one container that is run."""
        return self.spec.containers[0]

    @property
    def folder_name(self) -> str:
        """`team-a_chat-0_1b9d6bcd`: Kubernetes names hold no underscore."""
        return f"{self.metadata.namespace}_{self.metadata.name}_{self.metadata.uid[:8]}"

    @property
    def grace_s(self) -> int:
        """From the order to end until SIGKILL."""
        grace = self.spec.termination_grace_period_seconds
        return 30 if grace is None else grace
