"""Pods of the process node, and what runs for them on this machine."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ebbtide.sandbox import state
from tests.cluster.rig import until

SERVER = Path(__file__).with_name("process_server.py")
SLOT = "sandbox.ebbtide.dev/engine-slot"
Json = dict[str, Any]


def spec(*words: str, grace_s: int = 10, policy: str = "Always", command: list[str] | None = None, **more: Any) -> Json:
    """A pod's spec whose container is the test server, or `command`; `more` are fields of the container."""
    container = {
        "name": "engine",
        "image": "none",
        "command": command or [sys.executable, str(SERVER)],
        **({} if command else {"args": ["$(POD_IP)", *words]}),
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "ports": [{"name": "http", "containerPort": 8000}],
        "resources": {"limits": {SLOT: "1"}},
        **more,
    }
    return {
        "nodeSelector": {"sandbox.ebbtide.dev/pool": "process"},
        "tolerations": [{"key": "sandbox.ebbtide.dev/process", "operator": "Exists"}],
        "terminationGracePeriodSeconds": grace_s,
        "restartPolicy": policy,
        "containers": [container],
    }


def processes_of(directory: Path, *, wardens: bool = False) -> list[int]:
    """Every process of any pod of this sandbox, by the marker in its environment."""
    marker, found = f"EBBTIDE_SANDBOX_POD={directory}".encode(), []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not folder.name.isdigit() or marker not in (folder / "environ").read_bytes():
                continue
            if wardens or b"warden.py" not in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def start_a_family(directory: Path) -> state.State:
    """A pod with two processes on the process node of the sandbox in that directory."""
    known = state.read(directory)
    assert known is not None
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "chat"}, "spec": spec("stubborn", "family")}
    kubectl = [known.kubectl, f"--kubeconfig={known.kubeconfig}", "create", "-f", "-"]
    subprocess.run(kubectl, input=json.dumps(pod), text=True, check=True, capture_output=True)
    until(lambda: len(processes_of(directory)) == 2, "it runs", 20)
    return known
