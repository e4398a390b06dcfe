"""What a running sandbox leaves on disk so that other processes find it, and may tell its autoscalers to fail.

The lock file decides whether it runs (the kernel frees it with its holder); `sandbox.json` says the rest.
"""

import fcntl
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ebbtide.errors import ConfigurationError, NotFoundError, SandboxError

_FILE = "sandbox.json"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


@dataclass(frozen=True)
class State:
    """A sandbox that is ready. `pid` is its supervisor; `pods` the range of pod IPs; `started_s` since 1970.

    `gateway_url` is empty where no emulator plays the engines; `kubectl` is the one of this Kubernetes version.
    """

    name: str
    pid: int
    started_s: float
    kubernetes: str
    apiserver_url: str
    prometheus_url: str
    gateway_url: str
    kubeconfig: str
    kubectl: str
    pods: str
    processes: dict[str, int]


def check_name(name: str) -> None:
    """ConfigurationError for a name that is no good folder name."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"sandbox name {name!r}: allowed are 1 to 40 of a-z, 0-9 and '-' inside")


def default_directory(name: str) -> Path:
    """`$XDG_STATE_HOME/ebbtide/sandbox/NAME`, by default under `~/.local/state`."""
    check_name(name)
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "ebbtide" / "sandbox" / name


def lock_path(directory: Path) -> Path:
    """Held locked by the sandbox that runs in the directory."""
    return directory / "lock"


def lock(directory: Path) -> IO[str]:
    """Take the directory for this process, until the file is closed; SandboxError when another one has it.

    The file holds the pid, so that `down` can also end a sandbox that is still starting. What a holder that was killed
    left in `sandbox.json` is forgotten here: it would pass for this process's own, ready before it has begun.
    """
    file = lock_path(directory).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise SandboxError(
            f"a sandbox runs in {directory} already: end it with 'ebbtide sandbox down' or choose another --name"
        ) from None
    clear(directory)
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def holder(directory: Path) -> int:
    """The pid that holds the directory; ask `running` first."""
    return int(lock_path(directory).read_text())


def running(directory: Path) -> bool:
    """Whether a sandbox holds the directory now."""
    try:
        with lock_path(directory).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def write(directory: Path, state: State) -> None:
    """Replace the state file in one step."""
    new = directory / f"{_FILE}.new"
    new.write_text(json.dumps(asdict(state), indent=2) + "\n")
    new.replace(directory / _FILE)


def read(directory: Path) -> State | None:
    """The state of the sandbox that runs there and is ready, else None."""
    if not running(directory):
        return None
    try:
        return State(**json.loads((directory / _FILE).read_text()))
    except FileNotFoundError:
        return None


def process_node_file(directory: Path) -> Path:
    """What the agent of the process node says of itself; written once it has read all its pods."""
    return directory / "process-node.json"


def process_node(directory: Path) -> dict[str, Any]:
    """The process node's `node`, `pid`, `slots` and `pods`; {} where there is none (yet)."""
    try:
        shown: dict[str, Any] = json.loads(process_node_file(directory).read_text())
    except FileNotFoundError:
        return {}
    return shown


def of(name: str) -> State:
    """The state of the sandbox of that name; NotFoundError when it is not ready."""
    found = read(default_directory(name))
    if found is None:
        raise NotFoundError(f"no sandbox {name!r} is ready: start it with 'ebbtide sandbox up --name {name}'")
    return found


def autoscaler_process(pool_name: str) -> str:
    """The process name of a pool's autoscaler."""
    return f"autoscaler-{pool_name}"


def fail_file(directory: Path, pool_name: str) -> Path:
    """While it exists, that pool's autoscaler brings no node."""
    return directory / f"{autoscaler_process(pool_name)}.fail"


def autoscaler_file(directory: Path, pool_name: str) -> Path:
    """What that pool's autoscaler shows."""
    return directory / f"{autoscaler_process(pool_name)}.json"


def fail_nodes(directory: Path, pool_name: str, failing: bool = True) -> None:
    """From now on nodes of that pool do not come (or come again); NotFoundError when no autoscaler holds it."""
    if not autoscaler_file(directory, pool_name).exists():
        names = sorted(path.stem.removeprefix("autoscaler-") for path in directory.glob("autoscaler-*.json"))
        known = ", ".join(names) or "none"
        raise NotFoundError(f"no node autoscaler holds pool {pool_name!r}; pools that have one: {known}")
    if failing:
        fail_file(directory, pool_name).touch()
    else:
        fail_file(directory, pool_name).unlink(missing_ok=True)


def clear(directory: Path) -> None:
    """Forget it."""
    (directory / _FILE).unlink(missing_ok=True)
