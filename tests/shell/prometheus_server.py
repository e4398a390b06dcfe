"""A real Prometheus for tests, on a port of its own."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import requests

from ebbtide.sandbox.binaries import resolve


@contextlib.contextmanager
def running(folder: Path, config: str, port: int) -> Iterator[str]:
    """Its address, once it is ready; `folder` takes what it stores and its log."""
    (folder / "prometheus.yml").write_text(config)
    url = f"http://127.0.0.1:{port}"
    arguments = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    listen = f"--web.listen-address={url.removeprefix('http://')}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([resolve()["prometheus"], *arguments, listen], stdout=log, stderr=log)
        try:
            _wait_ready(url)
            yield url
        finally:
            process.terminate()
            process.wait(10)


def _wait_ready(url: str) -> None:
    for _ in range(200):
        try:
            if requests.get(f"{url}/-/ready", timeout=1).ok:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.1)
    raise AssertionError("Prometheus did not become ready")
