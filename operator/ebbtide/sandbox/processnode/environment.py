"""What a container's process is started with: command, arguments and environment, by Kubernetes' own rules.

Pure. What the node cannot give (an image's own command, Secrets, ConfigMaps, hooks after the start) is refused with
the reason that the pod's status then carries; nothing is left out silently.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ebbtide.errors import SandboxError
from ebbtide.sandbox.processnode.wire import Container, EnvVar, HttpGet, Pod, Probe, TcpSocket

INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")  # of the agent's own environment

_REFERENCE = re.compile(r"\$\$|\$\(([^)]*)\)")
_MAP_ENTRY = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class RefusedError(SandboxError):
    """The container cannot run here; `reason` is the one of its waiting state."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Launch:
    """A container's process, ready to be started."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    ports: Mapping[str, int]

    def port(self, port: int | str) -> int:
        """The number of a port that may be given by its name; `prepare` has refused unknown names."""
        return port if isinstance(port, int) else self.ports[port]


def prepare(pod: Pod, pod_ip: str, host_ip: str, inherited: Mapping[str, str]) -> Launch:
    """Command and environment of the pod's first container; RefusedError where this node cannot run it."""
    container = pod.container
    _refuse_unknown(pod, container)
    env = {name: inherited[name] for name in INHERITED if name in inherited}
    for variable in container.env or ():
        env[variable.name] = _value(variable, pod, env, pod_ip, host_ip)
    command = tuple(expand(word, env) for word in (*(container.command or ()), *(container.args or ())))
    return Launch(command, env, {port.name: port.container_port for port in container.ports or () if port.name})


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` -> its value; `$$(NAME)` -> `$(NAME)`; a name that is not there stays as it is written."""

    def put(found: re.Match[str]) -> str:
        name = found.group(1)
        return "$" if name is None else env.get(name, found.group(0))

    return _REFERENCE.sub(put, text)


def _value(variable: EnvVar, pod: Pod, env: Mapping[str, str], pod_ip: str, host_ip: str) -> str:
    source = variable.value_from
    if source is None:
        return expand(variable.value or "", env)
    if source.field_ref is None:
        kinds = ("secretKeyRef", source.secret_key_ref), ("configMapKeyRef", source.config_map_key_ref)
        kind = next((name for name, given in kinds if given is not None), "resourceFieldRef")
        raise _config(f"env {variable.name}: the process node plays value and fieldRef, not {kind}")
    path, meta = source.field_ref.field_path, pod.metadata
    if entry := _MAP_ENTRY.fullmatch(path):
        held = meta.labels if entry.group(1) == "labels" else meta.annotations
        return (held or {}).get(entry.group(2), "")
    known = {
        "metadata.name": meta.name,
        "metadata.namespace": meta.namespace,
        "metadata.uid": meta.uid,
        "spec.nodeName": pod.spec.node_name,
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
        "status.hostIP": host_ip,
        "status.hostIPs": host_ip,
    }
    if path not in known:
        raise _config(f"env {variable.name}: fieldPath {path!r} is not played; known are {', '.join(known)}")
    return known[path]


def _refuse_unknown(pod: Pod, container: Container) -> None:
    if not container.command:
        message = f"container {container.name} has no command: the process node has no images that could name one"
        raise RefusedError("CreateContainerError", message)
    if pod.spec.init_containers:
        raise _config("the process node runs the first container only, no initContainers")
    if container.env_from:
        raise _config("the process node plays env, not envFrom: declare each variable")
    if container.lifecycle is not None and container.lifecycle.post_start is not None:
        raise _config("the process node plays preStop, not postStart")
    known = {port.name for port in container.ports or ()}
    for name, action in _actions(container):
        if isinstance(action.port, str) and action.port not in known:
            raise _config(f"{name}: the container has no port named {action.port!r}")


def _actions(container: Container) -> list[tuple[str, HttpGet | TcpSocket]]:
    probes: dict[str, Probe | None] = {
        "startupProbe": container.startup_probe,
        "readinessProbe": container.readiness_probe,
        "livenessProbe": container.liveness_probe,
    }
    found: list[tuple[str, HttpGet | TcpSocket]] = []
    for name, probe in probes.items():
        if probe is None:
            continue
        if probe.grpc is not None:
            raise _config(f"{name}: the process node plays httpGet, tcpSocket and exec, not grpc")
        found.extend((name, action) for action in (probe.http_get, probe.tcp_socket) if action is not None)
    hook = container.lifecycle.pre_stop if container.lifecycle is not None else None
    if hook is not None and hook.http_get is not None:
        found.append(("preStop", hook.http_get))
    return found


def _config(message: str) -> RefusedError:
    return RefusedError("CreateContainerConfigError", message)
