"""A real PostgreSQL for tests: the one of this machine, in a folder of its own, run by an unprivileged user."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def binaries() -> Path | None:
    """The folder with initdb and pg_ctl: on PATH, or of the newest release that Debian's packages installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    releases = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    return releases[-1].parent if releases else None


@contextmanager
def running(bin_dir: Path) -> Iterator[str]:
    """The URL of a fresh server that listens on this machine alone."""
    user = pwd.getpwnam("postgres" if _exists("postgres") else "nobody").pw_name if os.getuid() == 0 else None
    data = Path(tempfile.mkdtemp(prefix="ebbtide-postgres-"))
    if user:
        shutil.chown(data, user)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        command = [str(bin_dir / program), "-D", str(data / "db"), *arguments]
        subprocess.run(command, check=True, user=user, cwd=data, capture_output=True, timeout=60)

    try:
        run("initdb", "--auth=trust", "--username=ebbtide", "--no-sync", "--encoding=UTF8")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data}"
        run("pg_ctl", "--wait", "-l", str(data / "log"), "-o", options, "start")
        try:
            yield f"postgresql://ebbtide@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "--wait", "-m", "fast", "stop")
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _exists(name: str) -> bool:
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False
