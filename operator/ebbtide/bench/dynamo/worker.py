"""Runs replays inside Dynamo's own environment: takes jobs on standard input, answers on standard output.

Only `msgspec` and the standard library are there beside Dynamo's packages. A job is a file in MessagePack, its result
the file beside it; the answer is one line of JSON. It decides nothing: the driver does.
"""

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import msgspec

from ebbtide.bench.case import Case
from ebbtide.bench.driver import Driver
from ebbtide.bench.dynamo.lives import GivenUp, lives_of
from ebbtide.bench.dynamo.meters import Tick, Workers
from ebbtide.bench.dynamo.planner import PLANNERS, Counted, planner_of
from ebbtide.bench.dynamo.trace import BLOCK_TOKENS, trace_lines
from ebbtide.bench.ledger import bill, curve
from ebbtide.bench.policy import Minute
from ebbtide.bench.run import HOLD, RunResult, Served
from ebbtide.clock import monotonic_s
from ebbtide.errors import EbbtideError
from ebbtide.sim.requests import Request

_NO_ENGINE = "AIC"  # how errors of the engine model begin or what they name


class Job(msgspec.Struct, frozen=True):
    """One replay to run; `requests` are (arrival in seconds, prompt tokens, output tokens)."""

    case: Case
    requests: tuple[tuple[float, int, int], ...]
    rival: str
    knob: float
    seed: int
    history: tuple[Minute, ...] = ()


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a job ended. `kind`: done, refused (the text is for people), engine (no such model or system), broken."""

    kind: str
    text: str = ""


class Adapter:
    """The scaling policy that Dynamo asks: counts each tick, lets the driver look, and says when to come again.

    Dynamo's clock begins with the first request, which is at `zero_s` of ours.
    """

    def __init__(self, driver: Driver, workers: Workers, zero_s: float) -> None:
        self.given_up = GivenUp()
        self._driver, self._workers, self._zero_s = driver, workers, zero_s

    @property
    def believed(self) -> tuple[tuple[float, float], ...]:
        """What Ebbtide said that one replica carries; see `RunResult`."""
        return tuple(self._driver.believed)

    @property
    def memory(self) -> bytes:
        """What Ebbtide remembers; see `RunResult`."""
        return self._driver.memory

    @property
    def changes(self) -> int:
        """How often the number of workers was changed."""
        return self._driver.changes

    def initial_tick_ms(self) -> float:
        """When the first tick is wanted."""
        return 1000 * max(0.001, min(self._driver.next_s - self._zero_s, self._workers.gap_s))

    def on_tick(self, tick: Tick) -> dict[str, float | int | None]:
        """One tick; `target_decode` None changes nothing."""
        now_s = self._zero_s + tick["now_ms"] / 1000
        driver, workers = self._driver, self._workers
        self.given_up.take(tick)
        workers.take(tick, now_s, driver.arrivals.until(now_s))
        wanted = None
        while driver.next_s <= now_s + 1e-6:
            decided = driver.step(workers.alive, max(now_s, driver.next_s))
            if decided is not None:
                wanted = decided
                workers.asked(now_s)
        next_s = max(now_s + 0.001, min(driver.next_s, now_s + workers.gap_s))
        return {"target_prefill": None, "target_decode": wanted, "next_tick_ms": 1000 * (next_s - self._zero_s)}


def run(job: Job) -> RunResult:
    """One replay."""
    from dynamo._core import MockEngineArgs, run_mocker_trace_replay  # late: it exists in its own environment alone

    began_s = monotonic_s()
    case = job.case
    requests = [Request(i, *parts) for i, parts in enumerate(job.requests)]
    zero_s, ends_s = requests[0].arrival_s, requests[-1].arrival_s
    limits = case.engine
    engine = MockEngineArgs(
        block_size=limits.block_size,
        num_gpu_blocks=limits.kv_blocks,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_batched_tokens,
        startup_time=case.startup_s[0],
        enable_prefix_caching=False,
        aic_backend="vllm",
        aic_system=case.system,
        aic_tp_size=case.tensor_parallel,
        aic_model_path=case.model,
    )
    with tempfile.TemporaryDirectory(prefix="ebbtide-replay-") as folder, ExitStack() as scope:
        trace = Path(folder, "trace.jsonl")
        trace.write_bytes(b"\n".join(trace_lines(requests)))
        if job.rival == HOLD:
            policy: Any = None
        elif job.rival in PLANNERS:
            planner = scope.enter_context(planner_of(job.rival, job.knob, case, engine, job.history, folder))
            policy = Counted(planner, ends_s - zero_s)
        else:
            driver = Driver(case, requests, job.rival, job.knob, job.seed, job.history)
            policy = Adapter(driver, Workers(case), zero_s)
        report = run_mocker_trace_replay(
            [str(trace)],
            extra_engine_args=engine,
            num_workers=case.start_replicas,
            trace_block_size=BLOCK_TOKENS,
            sla_ttft_ms=1000 * case.ttft_s,
            sla_itl_ms=1000 * case.itl_s,
            scaling_policy=policy,
            capture_per_request=True,
        )
    given_up = {} if policy is None else policy.given_up.gone_ms
    lives = lives_of(report.lifecycle_operations, given_up, case, zero_s)
    billed_s, startup_s = bill(lives, ends_s)
    return RunResult(
        served=tuple(served_of(report.per_request, zero_s)),
        replicas=curve(lives),
        billed_s=billed_s,
        startup_billed_s=startup_s,
        scale_events=0 if policy is None else policy.changes,
        wall_s=monotonic_s() - began_s,
        believed=getattr(policy, "believed", ()),
        memory=getattr(policy, "memory", b""),
    )


def served_of(rows: Sequence[dict[str, Any]], zero_s: float) -> Iterator[Served]:
    """What became of the requests, by arrival. `zero_s` is where Dynamo's clock begins on ours."""
    for row in sorted(rows, key=lambda row: row["arrival_time_ms"]):
        whole = row["terminal_status"] == "completed"
        first_ms, gap_ms = row["ttft_ms"], row["itl_ms"] or 0.0
        yield Served(
            arrival_s=zero_s + row["arrival_time_ms"] / 1000,
            prompt_tokens=row["input_length"],
            output_tokens=row["requested_output_length"],
            ttft_s=None if first_ms is None else first_ms / 1000,
            itl_s=gap_ms / 1000 if whole else None,
            end_s=zero_s + row["terminal_time_ms"] / 1000 if whole else None,
        )


def answer(path: Path) -> Answer:
    """Run the job in `path` and leave the result in `path` with the suffix .out."""
    try:
        result = run(msgspec.msgpack.decode(path.read_bytes(), type=Job))
        path.with_suffix(".out").write_bytes(msgspec.msgpack.encode(result))
    except EbbtideError as error:
        return Answer("refused", str(error))
    except Exception as error:
        return Answer("engine" if _NO_ENGINE in str(error) else "broken", traceback.format_exc())
    return Answer("done")


def serve(jobs: TextIO, answers: TextIO) -> None:
    """Answer jobs (paths, one a line) until there are no more."""
    for line in jobs:
        answers.write(msgspec.json.encode(answer(Path(line.strip()))).decode() + "\n")
        answers.flush()


def main() -> None:
    """Serve standard input. What the simulator prints goes to the standard error, so that answers stay alone."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)
