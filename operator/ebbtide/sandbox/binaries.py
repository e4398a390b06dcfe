"""Finds the sandbox's binaries: KUBEBUILDER_ASSETS, the cache, the official release, a Go build; in this order.

The cache is `$XDG_CACHE_HOME/ebbtide/controlplane/TOOL-VERSION/NAME`. A file appears there complete or not at all, and
a lock keeps two processes from building the same tool at once.
"""

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ebbtide.errors import SandboxError
from ebbtide.sandbox import gobuild
from ebbtide.sandbox.download import ChecksumError, Downloader, DownloadError, Progress, Sources
from ebbtide.sandbox.versions import DEFAULT_KUBERNETES_MINOR, Binary, Tool, tools

_OPTIONAL = frozenset({"promtool"})
_STAMPED = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/ebbtide/controlplane`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "ebbtide" / "controlplane"


def _assets() -> Path | None:
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(folder) if folder else None


@dataclass(frozen=True)
class BinarySettings:
    """Where to look. `allow_build=False` never starts a Go build; `assets` is KUBEBUILDER_ASSETS."""

    cache: Path = field(default_factory=default_cache)
    assets: Path | None = field(default_factory=_assets)
    sources: Sources = field(default_factory=Sources.from_environment)
    allow_build: bool = True


def resolve(
    minor: str = DEFAULT_KUBERNETES_MINOR, settings: BinarySettings | None = None, progress: Progress = print
) -> Mapping[str, Path]:
    """Name to path of every binary of a sandbox; promtool only when it is at hand.

    Raises ConfigurationError for an unknown minor, ChecksumError for a download that is not what its release says,
    and SandboxError, with everything that was tried, when a binary cannot be had.
    """
    settings = settings or BinarySettings()
    finder = _Finder(minor, settings, progress)
    found: dict[str, Path] = {}
    for tool in tools(minor):
        found |= finder.find(tool)
    if settings.assets is not None and not any(path.parent == settings.assets for path in found.values()):
        progress(f"KUBEBUILDER_ASSETS: {_why_unused(settings.assets, minor)}: passed over")
    return found


def _why_unused(assets: Path, minor: str) -> str:
    """Nobody names a folder in order that nothing of it is used."""
    if not assets.is_dir():
        return f"{assets} is no folder"
    names = ", ".join(binary.name for tool in tools(minor) for binary in tool.binaries)
    return f"{assets} has no executable that Kubernetes {minor} needs ({names})"


class _Finder:
    """One run of `resolve`: keeps what was tried, for the error message."""

    def __init__(self, minor: str, settings: BinarySettings, progress: Progress) -> None:
        self._minor = minor
        self._settings = settings
        self._progress = progress
        self._downloader = Downloader(settings.sources, progress)

    def find(self, tool: Tool) -> dict[str, Path]:
        found = {binary.name: path for binary in tool.binaries if (path := self._at_hand(tool, binary)) is not None}
        wanted = [binary for binary in tool.binaries if binary.name not in found and binary.name not in _OPTIONAL]
        if not wanted:
            return found
        with _locked(self._settings.cache, tool.key):
            for binary in wanted:
                found[binary.name] = self._cached(tool, binary) or self._install(tool, binary)
        return found

    def _at_hand(self, tool: Tool, binary: Binary) -> Path | None:
        return self._asset(binary) or self._cached(tool, binary)

    def _asset(self, binary: Binary) -> Path | None:
        if self._settings.assets is None:
            return None
        path = self._settings.assets / binary.name
        if not os.access(path, os.X_OK):
            return None
        if binary.name in _STAMPED and (version := _version_of(path)) and f"v{self._minor}." not in version:
            self._progress(f"KUBEBUILDER_ASSETS has {binary.name} {version}, not {self._minor}: passed over")
            return None
        return path

    def _cached(self, tool: Tool, binary: Binary) -> Path | None:
        path = self._settings.cache / tool.key / binary.name
        return path if os.access(path, os.X_OK) else None

    def _install(self, tool: Tool, binary: Binary) -> Path:
        folder = self._settings.cache / tool.key
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as scratch:
            for file in self._obtain(tool, binary, Path(scratch)):
                file.chmod(0o755)
                file.rename(folder / file.name)  # same file system: there is no moment with half a file
        return folder / binary.name

    def _obtain(self, tool: Tool, binary: Binary, scratch: Path) -> list[Path]:
        tried = [f"cache: {self._settings.cache / tool.key / binary.name} is not there"]
        if self._settings.assets is not None:
            tried.insert(0, f"KUBEBUILDER_ASSETS: {self._settings.assets} has no fitting {binary.name}")
        try:
            return self._downloader.fetch(tool, binary.name, scratch)
        except ChecksumError:
            raise
        except DownloadError as error:
            tried.append(f"download: {error}")
            self._progress(f"no download of {binary.name} {tool.version}: {error}")
        if self._settings.allow_build:
            try:
                return [gobuild.build(tool, binary, scratch, self._progress)]
            except gobuild.BuildError as error:
                tried.append(f"Go build: {error}")
        else:
            tried.append("Go build: switched off")
        raise SandboxError(_advice(tool, binary, tried, self._settings))


def _advice(tool: Tool, binary: Binary, tried: list[str], settings: BinarySettings) -> str:
    steps = "\n".join(f"  - {line}" for line in tried)
    return (
        f"{binary.name} {tool.version} cannot be had. Tried:\n{steps}\n"
        f"What helps, one of: internet access; a mirror set in EBBTIDE_DOWNLOAD_{tool.name.upper()}; Go on the PATH; "
        f"the file itself, executable, at {settings.cache / tool.key / binary.name}"
    )


def _version_of(path: Path) -> str:
    try:
        done = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


@contextmanager
def _locked(cache: Path, key: str) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{key}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
