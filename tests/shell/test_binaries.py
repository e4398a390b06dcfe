"""How the sandbox gets its binaries: from a local HTTP server laid out like the official releases, and a fake `go`.

Files of a release are small shell scripts here; everything else (HTTP, tar, checksums, locks) is real.
"""

import hashlib
import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ebbtide.errors import ConfigurationError, SandboxError
from ebbtide.sandbox import gobuild, modules, versions
from ebbtide.sandbox.binaries import BinarySettings, resolve
from ebbtide.sandbox.download import ChecksumError, Sources, architecture

ARCH = architecture()
ALL = ("etcd", "kwok", "prometheus", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
ETCD_FOLDER = f"etcd-v{versions.ETCD}-linux-{ARCH}"
ETCD_PATH = f"/etcd/v{versions.ETCD}/{ETCD_FOLDER}.tar.gz"
PROMETHEUS_FOLDER = f"prometheus-{versions.PROMETHEUS}.linux-{ARCH}"


@dataclass
class Release:
    """What the server serves; `promise` overrides Content-Length, which then makes a transfer end early."""

    files: dict[str, bytes] = field(default_factory=dict)
    promise: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def sources(self) -> Sources:
        bases = {name: f"{self.url}/{name}" for name in ("kubernetes", "etcd", "kwok", "prometheus")}
        return replace(Sources(), **bases, connect_timeout_s=2.0, read_timeout_s=5.0)


def script(name: str) -> bytes:
    return f"#!/bin/sh\necho {name}\n".encode()


def kubernetes_path(name: str, minor: str = "1.36") -> str:
    return f"/kubernetes/v{versions.KUBERNETES[minor]}/bin/linux/{ARCH}/{name}"


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as out:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def sums(**files: bytes) -> bytes:
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()).encode()


def complete(minor: str = "1.36") -> dict[str, bytes]:
    """Every file of every release, with right checksums."""
    files: dict[str, bytes] = {}
    for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"):
        path, content = kubernetes_path(name, minor), script(name)
        files |= {path: content, f"{path}.sha512": hashlib.sha512(content).hexdigest().encode()}
    etcd = archive({f"{ETCD_FOLDER}/etcd": script("etcd"), f"{ETCD_FOLDER}/README.md": b"read"})
    files |= {ETCD_PATH: etcd, f"/etcd/v{versions.ETCD}/SHA256SUMS": sums(**{f"{ETCD_FOLDER}.tar.gz": etcd})}
    members = {f"{PROMETHEUS_FOLDER}/{name}": script(name) for name in ("prometheus", "promtool")}
    prometheus, base = archive(members), f"/prometheus/v{versions.PROMETHEUS}"
    files |= {f"{base}/{PROMETHEUS_FOLDER}.tar.gz": prometheus}
    files |= {f"{base}/sha256sums.txt": sums(**{"other.zip": b"x", f"{PROMETHEUS_FOLDER}.tar.gz": prometheus})}
    kwok, base = script("kwok"), f"/kwok/v{versions.KWOK}"
    files |= {f"{base}/kwok-linux-{ARCH}": kwok, f"{base}/SHA256SUMS": sums(**{f"kwok-linux-{ARCH}": kwok})}
    return files


@pytest.fixture
def release() -> Iterator[Release]:
    served = Release(complete())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            content = served.files.get(self.path)
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(served.promise.get(self.path, len(content or b""))))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def settings(release: Release, tmp_path: Path) -> BinarySettings:
    return BinarySettings(tmp_path / "cache", assets=None, sources=release.sources(), allow_build=False)


FakeGo = Callable[[str], Path]


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGo:
    """Put a `go` on the PATH that notes its call, then does what the text says ($out is the file to be built)."""

    def install(text: str) -> Path:
        folder, calls = tmp_path / "go-bin", tmp_path / "go-calls"
        folder.mkdir(exist_ok=True)
        program = folder / "go"
        program.write_text(
            f'#!/bin/sh\necho "$CGO_ENABLED $GOFLAGS $(basename "$PWD") $@" >> {calls}\n'
            'while [ "$1" != "-o" ]; do shift; done; out="$2"\n' + text
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
        return calls

    return install


def quiet(line: str) -> None:
    """No progress shown."""


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def test_all_come_from_good_releases_executable_and_in_the_cache_by_version(
    settings: BinarySettings, release: Release
) -> None:
    shown: list[str] = []
    found = resolve("1.36", settings, shown.append)
    assert set(ALL) <= set(found)
    for name in ALL:
        output = subprocess.run([found[name]], capture_output=True, text=True, check=True).stdout
        assert output.strip() == name
    assert found["etcd"] == settings.cache / f"etcd-{versions.ETCD}" / "etcd"
    assert found["kubectl"] == settings.cache / f"kubernetes-{versions.KUBERNETES['1.36']}" / "kubectl"
    assert left_in(settings.cache) == sorted([*ALL, "promtool"])
    assert any("downloading kube-apiserver 1.36.3 from 127.0.0.1" in line for line in shown)


def test_the_other_minor_has_a_place_of_its_own(settings: BinarySettings, release: Release) -> None:
    release.files = complete("1.34")
    assert resolve("1.34", settings, quiet)["kubectl"].parent.name == f"kubernetes-{versions.KUBERNETES['1.34']}"


def test_a_minor_that_is_not_pinned_is_refused_with_the_choices(settings: BinarySettings) -> None:
    with pytest.raises(ConfigurationError, match=r"'1\.20' is not pinned: choose one of 1\.34, 1\.36"):
        resolve("1.20", settings, quiet)


def test_what_is_in_the_cache_is_not_asked_for_again(settings: BinarySettings, release: Release) -> None:
    first = resolve("1.36", settings, quiet)
    release.asked.clear()
    assert resolve("1.36", settings, quiet) == first | {"promtool": first["prometheus"].with_name("promtool")}
    assert release.asked == []


def test_sha256_is_taken_where_a_release_has_no_sha512(settings: BinarySettings, release: Release) -> None:
    path = kubernetes_path("kubectl")
    del release.files[f"{path}.sha512"]
    release.files[f"{path}.sha256"] = hashlib.sha256(script("kubectl")).hexdigest().encode() + b"\n"
    assert resolve("1.36", settings, quiet)["kubectl"].exists()


def corrupt_binary(release: Release) -> None:
    release.files[kubernetes_path("kube-scheduler")] = b"#!/bin/sh\necho evil\n"


def corrupt_archive(release: Release) -> None:
    release.files[ETCD_PATH] = release.files[ETCD_PATH][:-1] + b"\xff"


def cut_short_with_a_length_to_match(release: Release) -> None:
    path = kubernetes_path("kube-apiserver")
    release.files[path] = release.files[path][:5]


def empty_file(release: Release) -> None:
    release.files[f"/kwok/v{versions.KWOK}/kwok-linux-{ARCH}"] = b""


@pytest.mark.parametrize("spoil", [corrupt_binary, corrupt_archive, cut_short_with_a_length_to_match, empty_file])
def test_a_wrong_checksum_deletes_the_file_and_stops_without_building(
    spoil: Callable[[Release], None], settings: BinarySettings, release: Release, fake_go: FakeGo
) -> None:
    spoil(release)
    calls = fake_go('echo built > "$out"')
    before = {"etcd", "kwok", "prometheus", "promtool", "kube-apiserver", "kube-controller-manager"}
    with pytest.raises(ChecksumError, match=r"wrong checksum, the file is deleted.*the release says [0-9a-f]{64}"):
        resolve("1.36", replace(settings, allow_build=True), quiet)
    assert not calls.exists()
    assert set(left_in(settings.cache)) <= before  # only good files of earlier tools; no .download, no bad one
    for name in left_in(settings.cache):
        assert next(settings.cache.rglob(name)).read_bytes() == script(name)


def transfer_breaks_off(release: Release) -> None:
    path = kubernetes_path("kubectl")
    release.promise[path] = len(release.files[path]) + 1000


def binary_missing(release: Release) -> None:
    del release.files[kubernetes_path("kubectl")]


def checksum_missing(release: Release) -> None:
    del release.files[kubernetes_path("kubectl") + ".sha512"]


def checksum_of_other_files(release: Release) -> None:
    release.files[kubernetes_path("kubectl") + ".sha512"] = hashlib.sha512(b"x").hexdigest().encode() + b"  kubeadm\n"


def checksum_is_a_web_page(release: Release) -> None:
    release.files[kubernetes_path("kubectl") + ".sha512"] = b"<html>sign in first</html>"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (transfer_breaks_off, "broke off after"),
        (binary_missing, "HTTP 404"),
        (checksum_missing, "no checksum, and nothing is used unverified"),
        (checksum_of_other_files, "does not name kubectl"),
        (checksum_is_a_web_page, "does not name kubectl"),
    ],
)
def test_a_download_that_cannot_be_had_is_said_with_what_helps(
    spoil: Callable[[Release], None], said: str, settings: BinarySettings, release: Release
) -> None:
    spoil(release)
    with pytest.raises(SandboxError) as caught:
        resolve("1.36", settings, quiet)
    text = str(caught.value)
    assert "kubectl 1.36.3 cannot be had. Tried:" in text
    assert said in text
    assert "Go build: switched off" in text
    assert "EBBTIDE_DOWNLOAD_KUBERNETES" in text
    assert "kubectl" not in left_in(settings.cache)
    assert "kubectl.download" not in left_in(settings.cache)


def test_an_archive_without_the_binary_is_no_download(settings: BinarySettings, release: Release) -> None:
    content = archive({f"{ETCD_FOLDER}/README.md": b"read"})
    release.files[ETCD_PATH] = content
    release.files[f"/etcd/v{versions.ETCD}/SHA256SUMS"] = sums(**{f"{ETCD_FOLDER}.tar.gz": content})
    with pytest.raises(SandboxError, match="the archive lacks what it should hold"):
        resolve("1.36", settings, quiet)


def test_a_host_that_does_not_answer_is_tried_once_then_all_are_built(
    settings: BinarySettings, release: Release, fake_go: FakeGo
) -> None:
    closed = "http://127.0.0.1:9"  # the discard port: nothing listens
    sources = Sources(closed, closed, closed, closed, 1.0, 1.0)
    calls = fake_go("""printf '#!/bin/sh\\necho built\\n' > "$out"; chmod +x "$out" """)
    shown: list[str] = []
    found = resolve("1.36", replace(settings, sources=sources, allow_build=True), shown.append)
    assert set(found) == set(ALL)
    assert sum("refused" in line for line in shown) == 1
    assert sum("not tried, 127.0.0.1:9 did not answer before" in line for line in shown) == len(ALL) - 1
    assert any("building kube-apiserver 1.36.3 with Go, once: about 3m37s on 2 cores" in line for line in shown)
    built = calls.read_text()
    assert built.count("0 -mod=readonly ebbtide-build-") == len(ALL)
    assert "-tags remove_all_sd,enable_kubernetes_sd,netgo" in built
    assert "-X k8s.io/component-base/version.gitVersion=v1.36.3" in built
    assert os.access(found["kwok"], os.X_OK)


def test_a_failed_build_shows_the_end_of_its_output_and_leaves_nothing(
    settings: BinarySettings, release: Release, fake_go: FakeGo
) -> None:
    binary_missing(release)
    fake_go('echo partial > "$out"; echo "undefined: foo" >&2; exit 3')
    with pytest.raises(SandboxError, match=r"(?s)HTTP 404.*go build of kubectl failed with status 3:\nundefined: foo"):
        resolve("1.36", replace(settings, allow_build=True), quiet)
    assert "kubectl" not in left_in(settings.cache)


def test_without_go_and_network_the_error_names_every_way(
    settings: BinarySettings, release: Release, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    release.files.clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    assets = replace(settings, allow_build=True, assets=tmp_path / "assets")
    with pytest.raises(SandboxError) as caught:
        resolve("1.36", assets, quiet)
    for way in ("KUBEBUILDER_ASSETS: ", "cache: ", "download: ", "Go build: go is not installed"):
        assert way in str(caught.value)


def test_kubebuilder_assets_come_first_unless_they_are_another_minor(
    settings: BinarySettings, release: Release, tmp_path: Path
) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    for name, version in (("etcd", "any"), ("kube-apiserver", "Kubernetes v1.36.1"), ("kube-scheduler", "v1.31.0")):
        (assets / name).write_text(f"#!/bin/sh\necho {version}\n")
        (assets / name).chmod(0o755)
    shown: list[str] = []
    found = resolve("1.36", replace(settings, assets=assets), shown.append)
    assert found["etcd"] == assets / "etcd"
    assert found["kube-apiserver"] == assets / "kube-apiserver"
    assert found["kube-scheduler"].parent.parent == settings.cache
    assert "KUBEBUILDER_ASSETS has kube-scheduler v1.31.0, not 1.36: passed over" in shown


@pytest.mark.parametrize(
    ("exists", "why"), [(False, "is no folder"), (True, "has no executable that Kubernetes 1.36 ")]
)
def test_kubebuilder_assets_of_which_nothing_is_used_are_said_once(
    settings: BinarySettings, release: Release, tmp_path: Path, exists: bool, why: str
) -> None:
    assets = tmp_path / "assets"
    if exists:
        assets.mkdir()
    for _ in ("downloaded", "cached"):
        shown: list[str] = []
        resolve("1.36", replace(settings, assets=assets), shown.append)
        (said,) = [line for line in shown if "KUBEBUILDER_ASSETS" in line]
        assert said.startswith(f"KUBEBUILDER_ASSETS: {assets} {why}")
        assert said.endswith(": passed over")


def test_two_at_once_download_each_file_once(settings: BinarySettings, release: Release) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: resolve("1.36", settings, quiet), range(4)))
    for name in ALL:
        assert {result[name] for result in results} == {results[0][name]}
    binaries_asked = [path for path in release.asked if not path.endswith(("sha512", "sha256", "SUMS", "sums.txt"))]
    assert len(binaries_asked) == len(set(binaries_asked))


def test_a_big_download_shows_how_far_it_is(settings: BinarySettings, release: Release) -> None:
    path, content = kubernetes_path("kubectl"), script("kubectl") + b"#" * (9 << 20)
    release.files |= {path: content, f"{path}.sha512": hashlib.sha512(content).hexdigest().encode()}
    shown: list[str] = []
    resolve("1.36", settings, shown.append)
    assert [line for line in shown if line.startswith("downloading kubectl: ")] == [
        f"downloading kubectl: {mib} of 9 MiB" for mib in (3, 5, 7, 9)
    ]


def test_base_urls_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBBTIDE_DOWNLOAD_ETCD", "http://mirror.example/etcd/")
    sources = Sources.from_environment()
    assert sources.etcd == "http://mirror.example/etcd"
    assert sources.kwok == Sources().kwok
    monkeypatch.setenv("EBBTIDE_DOWNLOAD_KWOK", "ftp://x")
    with pytest.raises(ConfigurationError, match=r"EBBTIDE_DOWNLOAD_KWOK is 'ftp://x'"):
        Sources.from_environment()


@pytest.mark.parametrize("tool", modules.all_tools(), ids=lambda tool: tool.module)
def test_the_pinned_modules_hold_the_versions_that_are_declared(tool: versions.Tool) -> None:
    text = (gobuild.MODULES / tool.module / "go.mod").read_text()
    module, version = tool.require
    assert f"{module} {version}" in text
    for binary in tool.binaries:
        assert f"tool {binary.package}\n" in text
    assert (gobuild.MODULES / tool.module / "go.sum").stat().st_size > 1000


def test_only_staging_modules_at_exactly_v0_0_0_are_replaced() -> None:
    requirements = (
        "module k8s.io/kubernetes\n\nrequire (\n\tk8s.io/api v0.0.0\n"
        "\tk8s.io/utils v0.0.0-20260210185600-b8788abfbbc2\n"
        "\tk8s.io/mount-utils v0.0.0 // indirect\n\tsigs.k8s.io/yaml v1.6.0\n)\n"
    )
    staging = modules.staging_modules(requirements)
    assert staging == ["k8s.io/api", "k8s.io/mount-utils"]
    text = modules.go_mod(versions.kubernetes("1.34"), staging)
    assert "\tk8s.io/api => k8s.io/api v0.34.4\n" in text
    assert "require k8s.io/kubernetes v1.34.4\n" in text


@pytest.mark.full
@pytest.mark.timeout(900)
def test_etcd_is_really_built_with_go(tmp_path: Path) -> None:
    tool = versions.etcd()
    built = gobuild.build(tool, tool.binaries[0], tmp_path, quiet)
    output = subprocess.run([built, "--version"], capture_output=True, text=True, check=True).stdout
    assert f"etcd Version: {versions.ETCD}" in output
