"""The README's quickstart as a user types it: every step is a command, on a sandbox of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

QUICKSTART = Path(__file__).parents[2] / "manifests" / "quickstart"
SETTINGS = ("--cycle-interval=2s", "--rate-window=15s", "--scrape-staleness=10s", "--http-host=127.0.0.1")


class Shell:
    """`ebbtide ...` in a terminal whose sandboxes live in a folder of their own."""

    def __init__(self, home: Path) -> None:
        self._environment = {**os.environ, "XDG_STATE_HOME": str(home)}
        self._environment.pop("KUBECONFIG", None)

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            self.command(*arguments), env=self._environment, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, f"ebbtide {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def start(self, *arguments: str, log: Path) -> "subprocess.Popen[bytes]":
        with log.open("wb") as out:
            return subprocess.Popen(self.command(*arguments), env=self._environment, stdout=out, stderr=out)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "ebbtide", *arguments]

    def service(self) -> dict[str, Any]:
        """The status of the quickstart's service."""
        found: dict[str, Any] = json.loads(self("sandbox", "kubectl", "--", "get", "infs", "chat", "-o", "json"))
        status: dict[str, Any] = found.get("status", {})
        return status

    def replicas(self) -> int:
        deployments = json.loads(self("sandbox", "kubectl", "get", "deployments", "-o", "json"))["items"]
        return sum(int(item["spec"]["replicas"]) for item in deployments)


@pytest.fixture
def ebbtide(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    shell("sandbox", "up", "--detach", "--scrape-interval=1", "--node-lead-time=5")
    try:
        yield shell
    finally:
        assert "sandbox default ended" in shell("sandbox", "down")


def until(question: Callable[[], Any], what: str, within_s: float) -> Any:
    deadline = time.monotonic() + within_s
    while not (answer := question()):
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.2)
    return answer


def failing(ebbtide: Shell) -> bool:
    kubeconfig = Path(ebbtide("sandbox", "kubeconfig", "--path"))
    return bool(json.loads((kubeconfig.parent / "autoscaler-l40s-on-demand.json").read_text())["failing"])


def test_the_quickstart_scales_up_under_load(ebbtide: Shell, tmp_path: Path) -> None:
    assert "no route has an engine pod or a load yet" in ebbtide("sandbox", "results")
    ebbtide("sandbox", "kubectl", "apply", "-f", str(QUICKSTART))
    said = ebbtide("sandbox", "load", "default/chat", "--rate=9", "--duration=10m")
    assert "(9 a second, seed 1)" in said
    assert "a first token within 2s and 80ms between tokens" in said  # what the service declares
    account = ebbtide("sandbox", "kubeconfig", "--operator", "--path")
    where = (f"--prometheus-url={ebbtide('sandbox', 'url', 'prometheus')}", f"--kubeconfig={account}")
    data, log = f"--data-dir={tmp_path / 'data'}", tmp_path / "operator.log"
    operator = ebbtide.start("operator", *where, data, "--http-port=0", *SETTINGS, log=log)
    try:
        look_around(ebbtide, account)
        until(lambda: ebbtide.replicas() >= 2, f"a second replica; {log.read_text()[-2000:]}", 60)
        until(lambda: ebbtide.service()["replicas"]["ready"] >= 2, "it serves", 40)
        assert "loads stopped: 1" in ebbtide("sandbox", "load", "default/chat", "--stop")
        (route,) = json.loads(ebbtide("sandbox", "results", "--json"))["routes"].values()
        assert route["served"] > 50
        assert "default/chat" in ebbtide("sandbox", "results")
    finally:
        operator.terminate()
        assert operator.wait(20) == 0


def look_around(ebbtide: Shell, account: str) -> None:
    """While the first replica warms up: who the operator is, where things are, and nodes that fail."""
    who = json.loads(ebbtide("sandbox", "kubectl", "--", f"--kubeconfig={account}", "auth", "whoami", "-o", "json"))
    assert who["status"]["userInfo"]["username"] == "system:serviceaccount:ebbtide-system:ebbtide"
    status = ebbtide("sandbox", "status")
    assert f"gateway     {ebbtide('sandbox', 'url', 'gateway')}" in status
    assert "emulator" in status
    assert "ENDED" not in status
    ebbtide("sandbox", "fail-nodes", "l40s-on-demand")
    until(lambda: failing(ebbtide), "the autoscaler knows that it shall fail", 10)
    ebbtide("sandbox", "fail-nodes", "l40s-on-demand", "--off")
    until(lambda: not failing(ebbtide), "the autoscaler knows that it works again", 10)
