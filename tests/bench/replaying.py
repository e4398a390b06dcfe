"""Runs `ebbtide bench replay` with the fake simulator, in this process or as one of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ebbtide.sim.load import Lengths, generate
from ebbtide.sim.shapes import Hump

ROOT = Path(__file__).parents[2]
RIVALS = "ebbtide,static-peak,schedule"


@dataclass(frozen=True)
class Folder:
    """Where one test keeps its trace, its cache and its answers."""

    path: Path

    @property
    def trace(self) -> Path:
        return self.path / "hump.jsonl"

    @property
    def out(self) -> Path:
        return self.path / "out"

    @property
    def log(self) -> Path:
        return self.path / "runs.log"

    def arguments(self, *more: str) -> list[str]:
        what = ["--simulator", "fake", "--model", "tiny", "--trace", str(self.trace), "--startup-s", "30"]
        return ["bench", "replay", *what, "--policies", RIVALS, "--seeds", "2", "--out", str(self.out), *more]

    def environment(self, **more: str) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT / "operator"), str(ROOT)])
        cache = str(self.path / "cache")
        return {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": cache, "FAKE_LOG": str(self.log), **more}

    def start(self, *more: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.bench.with_fake", *self.arguments(*more)]
        env = self.environment(**environment)
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=env, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)

    def run(self, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*more, **environment)
        out, err = process.communicate(timeout=250)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def runs(self) -> list[str]:
        """What the simulator was asked, a line a replay."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def results(self) -> dict:
        return json.loads((self.out / "results.json").read_text())


def folder(path: Path) -> Folder:
    """A folder with a trace of a quarter of an hour: 4 requests/s, 14 in its middle."""
    made = Folder(path)
    hump = Hump(base=4.0, peak=14.0, start_s=200.0, rise_s=200.0, hold_s=100.0, fall_s=200.0)
    lengths = Lengths(prompt_median=100, prompt_max=400, output_median=10, output_max=40)
    write_trace(made.trace, [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in generate(hump, lengths, 900, 1)])
    return made


def write_trace(path: Path, rows: list[tuple[float, int, int]]) -> None:
    """Mooncake's JSON lines."""
    lines = (f'{{"timestamp": {1000 * t_s:.3f}, "input_length": {i}, "output_length": {o}}}' for t_s, i, o in rows)
    path.write_text("".join(f"{line}\n" for line in lines))
