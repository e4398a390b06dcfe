"""The simulator `dynamo`: NVIDIA Dynamo's offline replay, in a process of its own that is kept between runs.

Its engines have measured kernel timings and requests take turns. One pool, a constant start-up time, at least one
replica. The same replay is the same to the last digit.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

import msgspec

import ebbtide
from ebbtide.bench.case import Case
from ebbtide.bench.dynamo.environment import Environment, installed, tail
from ebbtide.bench.dynamo.worker import Answer, Job
from ebbtide.bench.policy import Minute
from ebbtide.bench.run import RunResult, SimulatorError
from ebbtide.errors import ConfigurationError
from ebbtide.sim.requests import Request

# last on the path, so that nothing beside the package can stand in front of the environment's own
_START = "import sys; sys.path.append(sys.argv[1]); from ebbtide.bench.dynamo.worker import main; main()"

# how the engine model says that heads cannot be split, and that a system has no timings
_HEADS, _NO_TIMINGS = re.compile(r"num_heads (\d+) should be divisible"), "perf data directory not found"

# two runs share the machine: one thread each, for the planner's predictors would take all cores and be slower
_SETTINGS = {"HF_HUB_OFFLINE": "1", "DYN_LOG": "error", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class DynamoSimulator:
    """Dynamo's replay under the benchmark's protocol. Use it as a context, or `close` it: it keeps a process.

    Raises NotFoundError at once where the environment is not installed (`environment.ensure` does that).
    """

    name = "dynamo"

    def __init__(self, environment: Environment | None = None) -> None:
        self._environment = installed(environment)
        self._folder = tempfile.TemporaryDirectory(prefix="ebbtide-dynamo-")
        self._log = Path(self._folder.name, "worker.log")
        self._worker: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker and forget its files; the simulator cannot be used afterwards."""
        self._end_worker()
        self._folder.cleanup()

    def run(
        self,
        case: Case,
        requests: Sequence[Request],
        rival_name: str,
        knob: float,
        seed: int,
        history: Sequence[Minute] = (),
    ) -> RunResult:
        """One replay; see `run.Simulator`. SimulatorError with the worker's last words where it broke."""
        self._check(case, requests)
        rows = tuple((r.arrival_s, r.prompt_tokens, r.output_tokens) for r in requests)
        job = Job(case, rows, rival_name, knob, seed, tuple(history))
        path = Path(self._folder.name, "job.in")
        path.write_bytes(msgspec.msgpack.encode(job))
        try:
            answer = self._ask(path)
        except BaseException:
            self._end_worker()
            raise
        if answer.kind == "done":
            return msgspec.msgpack.decode(path.with_suffix(".out").read_bytes(), type=RunResult)
        if answer.kind == "refused":
            raise ConfigurationError(answer.text)
        if answer.kind == "engine":
            raise ConfigurationError(f"simulator dynamo has no {_replica(case)}: {_reason(answer.text)}")
        raise SimulatorError(f"simulator dynamo broke in case {case.name} under {rival_name}:\n{answer.text}")

    def _check(self, case: Case, requests: Sequence[Request]) -> None:
        """ConfigurationError on what the simulator cannot do, before a process is started for it."""
        systems, models = self._environment.systems(), self._environment.models()
        if case.system not in systems:
            raise ConfigurationError(f"simulator dynamo ships no system {case.system!r}; it has: {', '.join(systems)}")
        if case.model not in models:
            raise ConfigurationError(f"simulator dynamo ships no model {case.model!r}; it has: {', '.join(models)}")
        if case.start_replicas < 1 or case.min_replicas < 1:
            raise ConfigurationError("simulator dynamo needs at least one replica at all times")
        if case.speeds:
            raise ConfigurationError(f"case {case.name}: simulator dynamo has no replicas of unlike speed")
        if not requests:
            raise ConfigurationError(f"case {case.name}: there are no requests to replay")

    def _ask(self, path: Path) -> Answer:
        worker = self._worker = self._worker or self._start()
        assert worker.stdin is not None and worker.stdout is not None
        try:
            worker.stdin.write(f"{path}\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = worker.wait()
            raise SimulatorError(f"simulator dynamo ended with status {status}:\n{tail(self._log)}")
        return msgspec.json.decode(line, type=Answer)

    def _start(self) -> "subprocess.Popen[str]":
        package = Path(ebbtide.__file__).parent.parent
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        log: IO[bytes]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [str(self._environment.python), "-c", _START, str(package)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**clean, **_SETTINGS},
                cwd=self._folder.name,
                text=True,
            )

    def _end_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            worker.communicate()


def _reason(text: str) -> str:
    """Why the engine model refused, in words of its user; where it is of no known kind, its own last line."""
    last = text.strip().splitlines()[-1]
    if found := _HEADS.search(last):
        heads = int(found[1])
        allowed = ", ".join(str(count) for count in range(1, heads + 1) if heads % count == 0)
        return f"--tp must divide the model's {heads} attention heads: {allowed} are allowed"
    if _NO_TIMINGS in last:
        return "it ships no timings of vLLM for this system: choose another --system"
    return last


def _replica(case: Case) -> str:
    return f"{case.model} on {case.tensor_parallel} x {case.system}"
