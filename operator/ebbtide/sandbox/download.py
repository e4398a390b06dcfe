"""Official release downloads with checksums that the release itself publishes.

A file that cannot be had is a `DownloadError`: the caller may go on with another way. A file that does not match its
checksum is deleted and is a `ChecksumError`: nobody goes on from there. Nothing unverified is ever kept.
"""

import hashlib
import os
import platform
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import requests

from ebbtide.errors import ConfigurationError, SandboxError
from ebbtide.sandbox.versions import Tool

Progress = Callable[[str], None]

_CHUNK = 1 << 20
_BIG_FILE = 8 << 20
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_GITHUB = "https://github.com"


class DownloadError(SandboxError):
    """The release or its checksum is out of reach, missing or cut short."""


class ChecksumError(SandboxError):
    """What came is not what the release says it is."""


@dataclass(frozen=True)
class Sources:
    """Where releases come from. Each base URL can be set in the environment, for a mirror:

    EBBTIDE_DOWNLOAD_KUBERNETES, EBBTIDE_DOWNLOAD_ETCD, EBBTIDE_DOWNLOAD_KWOK, EBBTIDE_DOWNLOAD_PROMETHEUS.
    The timeouts (seconds) are short so that a machine without a network falls through quickly.
    """

    kubernetes: str = "https://dl.k8s.io/release"
    etcd: str = f"{_GITHUB}/etcd-io/etcd/releases/download"
    kwok: str = f"{_GITHUB}/kubernetes-sigs/kwok/releases/download"
    prometheus: str = f"{_GITHUB}/prometheus/prometheus/releases/download"
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 20.0

    @classmethod
    def from_environment(cls) -> "Sources":
        """The defaults, with base URLs from the environment where set."""
        names = ("kubernetes", "etcd", "kwok", "prometheus")
        found = {name: os.environ.get(f"EBBTIDE_DOWNLOAD_{name.upper()}", "") for name in names}
        for name, url in found.items():
            if url and urlsplit(url).scheme not in ("http", "https"):
                setting = f"EBBTIDE_DOWNLOAD_{name.upper()}"
                raise ConfigurationError(f"{setting} is {url!r}: allowed are http:// and https:// URLs")
        urls = {name: found[name].rstrip("/") or getattr(cls, name) for name in names}
        return cls(urls["kubernetes"], urls["etcd"], urls["kwok"], urls["prometheus"])


@dataclass(frozen=True)
class Artifact:
    """One file of a release. `members` maps binaries to paths inside an archive; empty for a bare binary."""

    url: str
    checksums: tuple[str, ...]
    members: Mapping[str, str] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """The last part of the URL."""
        return self.url.rsplit("/", 1)[-1]


class Downloader:
    """Fetches verified binaries; remembers hosts that did not answer so that each is tried once."""

    def __init__(self, sources: Sources, progress: Progress) -> None:
        self._sources = sources
        self._progress = progress
        self._unreachable: dict[str, str] = {}

    def fetch(self, tool: Tool, binary: str, into: Path) -> list[Path]:
        """Put the binary (and the others of the same archive) into the folder `into`; answers the files."""
        artifact = artifact_of(tool, binary, self._sources)
        host = urlsplit(artifact.url).netloc
        if host in self._unreachable:
            raise DownloadError(f"{artifact.url}: not tried, {self._unreachable[host]}")
        with requests.Session() as session:
            algorithm, expected = self._expected(session, artifact)
            self._progress(f"downloading {binary} {tool.version} from {host}")
            file = into / f"{artifact.file_name}.download"
            try:
                self._verified(session, artifact, file, algorithm, expected)
                return _unpack(artifact, binary, file, into)
            finally:
                file.unlink(missing_ok=True)

    def _expected(self, session: requests.Session, artifact: Artifact) -> tuple[str, str]:
        problems = []
        for url in artifact.checksums:
            try:
                with self._get(session, url) as answer:
                    text = answer.text
            except DownloadError as error:
                problems.append(str(error))
                continue
            digest = _find_digest(text, artifact.file_name)
            if digest:
                return {64: "sha256", 128: "sha512"}[len(digest)], digest
            problems.append(f"{url} does not name {artifact.file_name}")
        raise DownloadError("no checksum, and nothing is used unverified: " + "; ".join(problems))

    def _verified(
        self, session: requests.Session, artifact: Artifact, file: Path, algorithm: str, expected: str
    ) -> None:
        digest, received, shown = hashlib.new(algorithm), 0, 0
        with self._get(session, artifact.url) as answer, file.open("wb") as out:
            promised = int(answer.headers.get("Content-Length", -1))
            try:
                for chunk in answer.iter_content(_CHUNK):
                    out.write(chunk)
                    digest.update(chunk)
                    received += len(chunk)
                    shown = self._show(artifact, received, promised, shown)
            except requests.RequestException as error:
                raise DownloadError(f"{artifact.url}: broke off after {received} bytes: {_cause(error)}") from error
        if received < promised:
            raise DownloadError(f"{artifact.url}: broke off after {received} of {promised} bytes")
        if digest.hexdigest() != expected:
            file.unlink()
            raise ChecksumError(
                f"{artifact.url}: wrong checksum, the file is deleted. {algorithm} is {digest.hexdigest()}, the "
                f"release says {expected} ({received} bytes came). Do not use this source; set "
                f"EBBTIDE_DOWNLOAD_* to another."
            )

    def _show(self, artifact: Artifact, received: int, promised: int, shown: int) -> int:
        """Say each quarter of a big file; answers the last quarter that was said."""
        quarter = received * 4 // promised if promised > _BIG_FILE else 0
        if quarter > shown:
            self._progress(f"downloading {artifact.file_name}: {received >> 20} of {promised >> 20} MiB")
        return max(quarter, shown)

    def _get(self, session: requests.Session, url: str) -> requests.Response:
        host = urlsplit(url).netloc
        if host in self._unreachable:
            raise DownloadError(f"{url}: not tried, {self._unreachable[host]}")
        timeouts = (self._sources.connect_timeout_s, self._sources.read_timeout_s)
        try:
            answer = session.get(url, stream=True, timeout=timeouts)
        except requests.RequestException as error:
            if isinstance(error, requests.ConnectionError | requests.ConnectTimeout):
                self._unreachable[host] = f"{host} did not answer before"
            raise DownloadError(f"{url}: {_cause(error)}") from error
        if answer.status_code != 200:
            answer.close()
            raise DownloadError(f"{url}: HTTP {answer.status_code}")
        return answer


def architecture() -> str:
    """`amd64` or `arm64`; DownloadError on machines for which there are no releases."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise DownloadError(f"no releases for the architecture {machine!r}: allowed are {sorted(_ARCHITECTURES)}")
    return _ARCHITECTURES[machine]


def artifact_of(tool: Tool, binary: str, sources: Sources) -> Artifact:
    """Where a binary lies in its project's releases."""
    arch, version = architecture(), tool.version
    if tool.name == "kubernetes":
        url = f"{sources.kubernetes}/v{version}/bin/linux/{arch}/{binary}"
        return Artifact(url, (f"{url}.sha512", f"{url}.sha256"))
    if tool.name == "etcd":
        base, folder = f"{sources.etcd}/v{version}", f"etcd-v{version}-linux-{arch}"
        return Artifact(f"{base}/{folder}.tar.gz", (f"{base}/SHA256SUMS",), {"etcd": f"{folder}/etcd"})
    if tool.name == "prometheus":
        base, folder = f"{sources.prometheus}/v{version}", f"prometheus-{version}.linux-{arch}"
        members = {item.name: f"{folder}/{item.name}" for item in tool.binaries}
        return Artifact(f"{base}/{folder}.tar.gz", (f"{base}/sha256sums.txt",), members)
    base = f"{sources.kwok}/v{version}"
    return Artifact(f"{base}/kwok-linux-{arch}", (f"{base}/SHA256SUMS", f"{base}/sha256sums.txt"))


def _find_digest(text: str, file_name: str) -> str:
    """From a bare digest, or from `DIGEST  FILE` lines as sha256sum writes them."""
    for line in text.splitlines():
        words = line.split()
        bare = len(words) == 1
        named = len(words) == 2 and words[1].lstrip("*").rsplit("/", 1)[-1] == file_name
        if (bare or named) and len(words[0]) in (64, 128) and set(words[0].lower()) <= set("0123456789abcdef"):
            return words[0].lower()
    return ""


def _unpack(artifact: Artifact, binary: str, file: Path, into: Path) -> list[Path]:
    if not artifact.members:
        target = into / binary
        file.rename(target)
        return [target]
    made = []
    try:
        with tarfile.open(file) as archive:
            for name, member in artifact.members.items():
                content = archive.extractfile(member)
                if content is None:
                    raise KeyError(member)
                target = into / name
                target.write_bytes(content.read())
                made.append(target)
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise DownloadError(f"{artifact.url}: the archive lacks what it should hold: {error}") from error
    return made


def _cause(error: BaseException) -> str:
    """The innermost message: requests wraps a refused connection four times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error) or type(error).__name__
