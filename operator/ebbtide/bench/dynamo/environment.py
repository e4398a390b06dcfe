"""The Python environment of Dynamo's offline replay, in the cache: `$XDG_CACHE_HOME/ebbtide/bench/dynamo-1.5.1`.

It is its own because its packages must be installed without their dependencies. Exactly the pinned wheels with their
hashes are installed, or nothing. It is whole when its marker, written last, holds the digest of the pins in force.
This module names no package index: that is a matter of pip's configuration.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ebbtide.bench.run import SimulatorError
from ebbtide.clock import monotonic_s
from ebbtide.errors import ConfigurationError, NotFoundError
from ebbtide.units import format_duration

VERSION = "1.5.1"
PINS = Path(__file__).with_name(f"dynamo-{VERSION}.txt")
NEEDED_BYTES = 2_500_000_000  # about 1.4 GB in the end, and the wheels while they are unpacked

Progress = Callable[[str], None]

_PYTHON = (3, 11)  # the only one that all pins have a wheel for
_SIGN_OF_LIFE_S = 10.0
_TAIL_LINES = 12
_CHECK = "from dynamo._core import MockEngineArgs, run_mocker_trace_replay; import msgspec; print(msgspec.__version__)"


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/ebbtide/bench`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "ebbtide" / "bench"


@dataclass(frozen=True)
class Environment:
    """Where the environment lies, or would lie."""

    cache: Path = field(default_factory=default_cache)
    pins: Path = PINS

    @property
    def directory(self) -> Path:
        """Its folder; it may be missing or half full."""
        return self.cache / f"dynamo-{VERSION}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.directory / "bin" / "python"

    @property
    def log(self) -> Path:
        """What the last installation's programs said."""
        return self.cache / f"dynamo-{VERSION}.log"

    @property
    def flaw(self) -> str:
        """Why it cannot be used; empty when it can."""
        if not self.directory.exists():
            return "not installed"
        try:
            made_of = self._marker.read_text()
        except FileNotFoundError:
            return "half installed: an installation did not come to its end"
        if made_of != self._digest:
            return "installed from other pins than this version of Ebbtide has"
        return "" if os.access(self.python, os.X_OK) else "broken: the Python that it was made with is gone"

    def systems(self) -> tuple[str, ...]:
        """GPU systems that the simulator ships timings for."""
        found = self._shipped("systems/*.yaml")
        return tuple(sorted(path.stem for path in found if path.with_name("data").joinpath(path.stem).is_dir()))

    def models(self) -> tuple[str, ...]:
        """Models that it knows without a network, by their names."""
        names = (path.name.removesuffix("_config.json") for path in self._shipped("model_configs/*_config.json"))
        return tuple(sorted(name.replace("--", "/") for name in names))

    def mark(self) -> None:
        """Say that it is whole: the last step."""
        new = self._marker.with_suffix(".new")
        new.write_text(self._digest)
        new.replace(self._marker)

    def clear(self) -> None:
        """Delete the folder, marker first: a removal that is cut off leaves half an environment, not a whole one."""
        self._marker.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _marker(self) -> Path:
        return self.directory / "ebbtide-installed"

    @property
    def _digest(self) -> str:
        return hashlib.sha256(self.pins.read_bytes()).hexdigest()

    def _shipped(self, pattern: str) -> list[Path]:
        return list(self.directory.glob(f"lib/python3.*/site-packages/aiconfigurator_core/{pattern}"))


def installed(environment: Environment | None = None) -> Environment:
    """The environment when it is whole; NotFoundError says what is wrong and what helps."""
    environment = environment or Environment()
    if flaw := environment.flaw:
        raise NotFoundError(
            f"simulator dynamo {VERSION} in {environment.directory}: {flaw}; 'make bench-decisions' or a replay "
            "with --simulator dynamo installs it"
        )
    return environment


def ensure(progress: Progress = print, environment: Environment | None = None) -> Environment:
    """The whole environment, installed now if need be: about three minutes with a fast network.

    Raises ConfigurationError on a machine that the pins do not fit, SimulatorError when the packages cannot be had;
    then nothing is left but the log. A second caller waits for the first one's end and takes what that one made.
    """
    environment = environment or Environment()
    if not environment.flaw:
        return environment
    interpreter = find_python(platform.system(), platform.machine())
    with _locked(environment, progress):
        if not environment.flaw:
            return environment
        environment.clear()
        _check_disk(environment)
        try:
            _install(environment, interpreter, progress)
        except BaseException:
            environment.clear()
            raise
    return environment


def find_python(system: str, machine: str) -> str:
    """A CPython 3.11: this one, or the one on the PATH. ConfigurationError where the pins do not fit."""
    if (system, machine) != ("Linux", "x86_64"):
        raise ConfigurationError(
            f"simulator dynamo {VERSION} is pinned for Linux on x86_64, this is {system} on {machine}: "
            "use --simulator ebbtide here"
        )
    if sys.version_info[:2] == _PYTHON:
        return sys.executable
    if found := shutil.which("python3.11"):
        return found
    raise ConfigurationError(
        f"simulator dynamo {VERSION} needs CPython 3.11, this is {platform.python_version()} and there is no "
        "python3.11 on the PATH: install one, or use --simulator ebbtide"
    )


@contextmanager
def _locked(environment: Environment, progress: Progress) -> Iterator[None]:
    """Hold the environment against other installers; says so while another one has it."""
    environment.cache.mkdir(parents=True, exist_ok=True)
    with (environment.cache / f".dynamo-{VERSION}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            progress(f"another process installs {environment.directory}: waiting for its end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_disk(environment: Environment) -> None:
    free_bytes = shutil.disk_usage(environment.cache).free
    if free_bytes < NEEDED_BYTES:
        raise SimulatorError(
            f"simulator dynamo {VERSION} needs {NEEDED_BYTES / 1e9:.0f} GB of disk while it installs, "
            f"{free_bytes / 1e9:.1f} GB are free in {environment.cache}: free some, or set XDG_CACHE_HOME"
        )


def _install(environment: Environment, interpreter: str, progress: Progress) -> None:
    environment.log.write_text("")
    folder, python = str(environment.directory), str(environment.python)
    pins = sum("==" in line for line in environment.pins.read_text().splitlines())
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    exact = ["--no-deps", "--require-hashes", "--only-binary=:all:", "-r", str(environment.pins)]
    progress(f"installing simulator dynamo {VERSION} into {folder}: about 1.4 GB")
    progress("step 1 of 3: virtual environment")
    _call(environment, [interpreter, "-m", "venv", "--clear", folder], "venv", progress)
    progress(f"step 2 of 3: {pins} pinned packages, about 3 minutes with a fast network")
    _call(environment, [*pip, *exact], "pip", progress)
    progress("step 3 of 3: importing the replay")
    _call(environment, [python, "-I", "-c", _CHECK], "the check", progress)
    environment.mark()
    progress(f"simulator dynamo {VERSION} installed")


def _call(environment: Environment, argv: Sequence[str], name: str, progress: Progress) -> None:
    """Run a program into the log with a sign of life now and then; SimulatorError with its last words."""
    began_s = monotonic_s()
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    with environment.log.open("ab") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean)
        try:
            while True:
                try:
                    status = process.wait(_SIGN_OF_LIFE_S)
                    break
                except subprocess.TimeoutExpired:
                    progress(f"{name}: {format_duration(monotonic_s() - began_s)} so far")
        except BaseException:
            process.kill()
            process.wait()
            raise
    if status:
        raise SimulatorError(
            f"simulator dynamo {VERSION} cannot be installed: {name} ended with status {status}:\n"
            f"{tail(environment.log)}\nWhat helps: internet access, or a package mirror in pip's configuration that "
            f"has these versions; on Debian and Ubuntu the package python3-venv. Whole output: {environment.log}"
        )


def tail(log: Path) -> str:
    """The last lines of a log, indented."""
    return "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
