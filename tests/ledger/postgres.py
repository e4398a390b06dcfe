"""A real PostgreSQL for tests: the one of this machine, in a folder of its own, run by an unprivileged user."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


def binaries() -> Path | None:
    """The folder with initdb and pg_ctl: on PATH, or of the newest release that Debian's packages installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    releases = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    return releases[-1].parent if releases else None


@dataclass(frozen=True)
class Server:
    """One that was made, and may be stopped and started again."""

    bin_dir: Path
    data: Path
    user: str | None
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://ebbtide@127.0.0.1:{self.port}/postgres"

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self.bin_dir / program), "-D", str(self.data / "db"), *arguments]
        subprocess.run(command, check=True, user=self.user, cwd=self.data, capture_output=True, timeout=60)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.data}"
        self.run("pg_ctl", "--wait", "-l", str(self.data / "log"), "-o", options, "start")

    def stop(self, how: str = "fast") -> None:
        self.run("pg_ctl", "--wait", "-m", how, "stop")


@contextmanager
def made(bin_dir: Path) -> Iterator[Server]:
    """A fresh server that listens on this machine alone, and runs; it is left running."""
    user = pwd.getpwnam("postgres" if _exists("postgres") else "nobody").pw_name if os.getuid() == 0 else None
    data = Path(tempfile.mkdtemp(prefix="ebbtide-postgres-"))
    if user:
        shutil.chown(data, user)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    server = Server(bin_dir, data, user, port)
    try:
        server.run("initdb", "--auth=trust", "--username=ebbtide", "--no-sync", "--encoding=UTF8")
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(data, ignore_errors=True)


@contextmanager
def running(bin_dir: Path) -> Iterator[str]:
    """The URL of a fresh server."""
    with made(bin_dir) as server:
        yield server.url


def _exists(name: str) -> bool:
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False
