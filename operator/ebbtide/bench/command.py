"""`ebbtide bench replay` behind its options: reads them, runs the comparison, writes what it found.

Files in the output folder appear at the end, all together; until then what was computed lives in the store, and the
same command goes on from there.
"""

import platform
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebbtide import __version__
from ebbtide.bench import comparison, question
from ebbtide.bench.faults import Faults
from ebbtide.bench.loads import span_of
from ebbtide.bench.pictures import cost_against_attainment, replicas_over_time
from ebbtide.bench.preparation import Stage, prepare, probe
from ebbtide.bench.question import Question
from ebbtide.bench.report import ATTAINMENT_PICTURE, TIME_PICTURE, report
from ebbtide.bench.results import Agreement, CaseResult, FrozenOn, PolicyResult, Results, Traffic, encode
from ebbtide.bench.runner import Runner, Say, simulator_sources
from ebbtide.bench.simulators import SIMULATORS, install, release
from ebbtide.bench.store import Store, cache_root
from ebbtide.bench.workers import Workers
from ebbtide.errors import ConfigurationError

MOST_JOBS, MOST_SEEDS, MOST_KV_BLOCKS = 256, 100, 1_000_000
_SAY_EVERY_S = 30.0


def ask(options: Mapping[str, Any]) -> Question:
    """The question that options of the command ask; ConfigurationError names the first that is wrong."""
    o = options
    tune, frozen = question.tuning(o["tune"])
    simulator = question.simulator_named(o["simulator"])
    if o["scale"] is not None and o["peak_replicas"] is not None:
        raise ConfigurationError("--scale and --peak-replicas: one of them is allowed")
    peak = question.count("--peak-replicas", o["peak_replicas"], 512)
    most = question.count("--max-replicas", o["max_replicas"], 512)
    if peak is not None and most is not None and peak > most:
        raise ConfigurationError(f"--peak-replicas {peak}: --max-replicas {most} allows 1 to {most}")
    return Question(
        simulator=simulator,
        trace=o["trace"],
        format=question.one_of("--format", o["form"], question.FORMATS),
        column=o["column"],
        start_s=question.moment("--start", o["start"]),
        hours=question.number("--hours", o["hours"], 0, 24 * 366, "hours"),
        train_until_s=question.moment("--train-until", o["train_until"]),
        lead_in_s=question.length("--lead-in", o["lead_in"]),
        scale=question.number("--scale", o["scale"], 0, 10_000, "times"),
        peak_replicas=peak,
        max_replicas=most,
        noise=question.one_of("--noise", o["noise"], (0, 1, 2)),
        input_tokens=o["input_tokens"],
        output_tokens=o["output_tokens"],
        model=o["model"],
        system=o["system"],
        tensor_parallel=question.count("--tp", o["tp"], 1024),
        kv_blocks=question.count("--kv-blocks", o["kv_blocks"], MOST_KV_BLOCKS),
        gpu_hour_price=question.price(o["gpu_hour_price"]),
        ttft_s=question.number("--ttft-ms", o["ttft_ms"], 0, 3_600_000, "ms") / 1000,
        itl_s=question.number("--itl-ms", o["itl_ms"], 0, 3_600_000, "ms") / 1000,
        attainment=question.share(o["attainment"]),
        startup_s=question.start_up(o["startup_s"], o["startup_file"], simulator),
        metric_delay_s=question.at_least_zero("--metric-delay-s", o["metric_delay_s"], 3600, "seconds"),
        rate_factor=question.number("--rate-factor", o["rate_factor"], 0, 100, "times"),
        faults=Faults(
            metrics_out=question.span("--metrics-out", o["metrics_out"]),
            clock_jump=question.span("--clock-jump", o["clock_jump"], back=True),
            reset_s=question.instant("--counter-reset", o["counter_reset"]),
            garbage=question.span("--garbage", o["garbage"]),
        ),
        policies=question.policies_named(o["policies"], simulator),
        tune=tune,
        frozen=frozen,
        seeds=tuple(range(1, question.count("--seeds", o["seeds"], MOST_SEEDS) + 1)),
    )


def answer(asked: Question, jobs: int, out: Path, check: bool, command: str, say: Say) -> Results:
    """Runs it and writes results.json, report.md and pictures to `out`. Raises what stands in the way."""
    span = span_of(asked)
    comparison.frozen_settings(asked)  # a file that cannot be read is said before hours of work
    frozen_on = comparison.frozen_on(asked, span)
    _writable(out)
    install(asked.simulator, say)
    store = Store(cache_root() / "results")
    workers = Workers(question.count("--jobs", jobs, MOST_JOBS), store)
    try:
        _say_at_times(workers, say)
        runner = Runner(asked.simulator, store, workers, say)
        stage = prepare(asked, span, runner, asked.trace.stem)
        say(_stage_words(stage))
        policies = comparison.compare(asked, stage, runner)
        agreement = _checked(asked, stage, policies, store, workers, say) if check else None
        lines = comparison.timelines(policies, asked, stage, runner)
    finally:
        workers.close()
        store.trim()
    results = _results(asked, stage, policies, agreement, frozen_on, command)
    pictures = {
        ATTAINMENT_PICTURE: cost_against_attainment(results),
        TIME_PICTURE: replicas_over_time(
            comparison.load_picture(stage), comparison.PICTURE_STEP_S, stage.capacity_per_s, lines
        ),
    }
    for name, text in pictures.items():
        (out / name).write_text(text, encoding="utf-8")
    (out / "results.json").write_bytes(encode(results))
    (out / "report.md").write_text(report(results), encoding="utf-8")
    return results


def _checked(
    asked: Question, stage: Stage, policies: tuple[PolicyResult, ...], store: Store, workers: Workers, say: Say
) -> Agreement | None:
    """Agreement with the other simulator, or None where it cannot take this case, which is said."""
    other = Runner(next(name for name in SIMULATORS if name != asked.simulator), store, workers, say)
    say(f"the settings found, in simulator {other.name}")
    try:
        install(other.name, say)
        probe(other, stage.case)
    except ConfigurationError as error:
        say(f"not compared: {error}")
        return None
    return comparison.cross_check(policies, asked, stage, other)


def _stage_words(stage: Stage) -> str:
    requests = max(len(one) for one in stage.requests)
    return (
        f"{requests:,} requests a seed, {stage.span.length_s / 3600:.4g} h, {stage.factor:.4g} times the trace; one of "
        f"several replicas carries {stage.capacity_per_s:.4g} requests/s; {stage.p0:.3%} are missed on idle ones; "
        f"{stage.case.min_replicas} to {stage.case.max_replicas} replicas"
    )


def _results(
    asked: Question,
    stage: Stage,
    policies: tuple[PolicyResult, ...],
    agreement: Agreement | None,
    frozen_on: FrozenOn | None,
    command: str,
) -> Results:
    span, first = stage.span, stage.requests[0]
    traffic = Traffic(
        trace=asked.trace.name,
        sha256=span.sha256,
        format=span.format,
        start_s=span.start_s,
        hours=span.length_s / 3600,
        scale=stage.factor,
        noise=asked.noise,
        input_tokens=asked.input_tokens,
        output_tokens=asked.output_tokens,
        train_hours=span.train_s / 3600,
        lead_in_s=span.lead_in.length_s if span.lead_in else 0.0,
        requests=tuple(len(one) for one in stage.requests),
        peak_per_s=stage.factor * span.peak_per_s,
        mean_prompt_tokens=sum(one.prompt_tokens for one in first) / len(first),
        mean_output_tokens=sum(one.output_tokens for one in first) / len(first),
    )
    return Results(
        case=CaseResult(
            simulator=asked.simulator,
            replica=stage.case,
            traffic=traffic,
            seeds=asked.seeds,
            tune=asked.tune,
            capacity_per_s=stage.capacity_per_s,
            frozen_on=frozen_on,
        ),
        policies=policies,
        p0=stage.p0,
        agreement=agreement,
        versions={
            "ebbtide": __version__,
            "python": platform.python_version(),
            f"simulator {asked.simulator}": f"{release(asked.simulator)} {simulator_sources(asked.simulator)[:12]}",
        },
        command=command,
    )


def _say_at_times(workers: Workers, say: Say) -> None:
    """Says every half minute how much is under way: a replay of a long day takes minutes."""

    def speak() -> None:
        while not workers.stopped.wait(_SAY_EVERY_S):
            say(f"         {workers.unfinished} replays run or wait")

    threading.Thread(target=speak, daemon=True).start()


def _writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(f"--out {out}: {error.strerror}") from error
