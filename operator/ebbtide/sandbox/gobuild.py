"""Builds the sandbox's binaries from the pinned Go modules in `controlplane/`.

The last way to get them, and a slow one: an honest estimate is shown first, and a sign of life every 15 seconds.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ebbtide.clock import monotonic_s
from ebbtide.errors import SandboxError
from ebbtide.sandbox.download import Progress
from ebbtide.sandbox.processes import tied
from ebbtide.sandbox.versions import Binary, Tool
from ebbtide.units import format_duration

MODULES = Path(__file__).with_name("controlplane")

_SIGN_OF_LIFE_S = 15.0
# The build times in versions.py were measured on so many cores
_MEASURED_CORES = 2


class BuildError(SandboxError):
    """Go is missing or the build failed."""


def build_command(tool: Tool, binary: Binary, output: Path) -> list[str]:
    """The arguments of `go`, run inside a copy of the tool's module folder."""
    stamps = [f"-X {variable}={value}" for variable, value in tool.stamps.items()]
    tags = ["-tags", tool.tags] if tool.tags else []
    flags = ["-trimpath", *tags, "-ldflags", " ".join(["-s", "-w", *stamps])]
    return ["build", *flags, "-o", str(output), binary.package]


def build(tool: Tool, binary: Binary, into: Path, progress: Progress) -> Path:
    """Build one binary into the folder `into`; BuildError with the end of Go's output."""
    go = shutil.which("go")
    if go is None:
        raise BuildError("go is not installed (go build needs Go 1.26 or newer, which can fetch itself with 1.21)")
    progress(f"building {binary.name} {tool.version} with Go, once: {estimate(binary)}")
    output = into / binary.name
    with tempfile.TemporaryDirectory(prefix="ebbtide-build-") as folder:
        # a copy, because an installed package may be read-only
        shutil.copytree(MODULES / tool.module, folder, dirs_exist_ok=True)
        log = Path(folder) / "build.log"
        status = _run(tied([go, *build_command(tool, binary, output)]), Path(folder), log, binary.name, progress)
        if status != 0:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
            raise BuildError(f"go build of {binary.name} failed with status {status}:\n{tail}")
    return output


def estimate(binary: Binary) -> str:
    """`about 3m37s on 2 cores; this machine has 16`: said as measured, not scaled by wishful thinking."""
    took = format_duration(binary.build_s)
    return f"about {took} on {_MEASURED_CORES} cores, download of sources not counted; this machine has {_cores()}"


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _run(command: list[str], folder: Path, log: Path, name: str, progress: Progress) -> int:
    env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    started_s = monotonic_s()
    with log.open("wb") as out, subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out) as process:
        try:
            while True:
                try:
                    return process.wait(_SIGN_OF_LIFE_S)
                except subprocess.TimeoutExpired:
                    progress(f"building {name}: {format_duration(monotonic_s() - started_s)} so far")
        except BaseException:
            process.kill()
            raise
