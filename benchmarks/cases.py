"""The cases of `benchmarks.decisions`: whose traffic is played on which replicas, and how large.

A case of HELD_OUT is of a trace, a model, a GPU or a seed that nothing was looked at with while decisions were
designed: they were named here before any of them was run.
"""

import math
import random
import re
from dataclasses import dataclass, replace
from pathlib import Path

from ebbtide.bench.traffic import Rate
from ebbtide.sim.shapes import DAY_S, Bursts, DailyCurve, RegimeChange, Shape, Step, Walk

SIZES = (10, 20)  # of the whole grid's peaks, beside each case's own
LARGE = "--model meta-llama/Meta-Llama-3.1-70B --tp 4 --ttft-ms 1000"
SMALL = "--model meta-llama/Meta-Llama-3.1-8B --tp 1 --ttft-ms 500"
CONVERSATION = "--input-tokens {traces}/azure2023_conv.csv --output-tokens {traces}/azure2023_conv.csv"
REASONING = "--input-tokens lognormal:208,1.6,16000 --output-tokens lognormal:792,1.1,12000"
LENGTHS = "--input-tokens lognormal:750,1,4096 --output-tokens lognormal:120,0.85,1000"
STARTUPS = "startups.txt"  # of a case with start-ups that differ, beside its trace


def start_ups(median_s: float, sigma: float, seed: int, count: int = 200) -> tuple[float, ...]:
    """Log-normal times, from half the median to four times it: of 90 s and 0.5 one in four is over 125 s."""
    draw = random.Random(f"{seed}/start-ups")
    found = (median_s * math.exp(draw.gauss(0.0, sigma)) for _ in range(count))
    return tuple(round(min(max(one, median_s / 2), 4 * median_s), 1) for one in found)


@dataclass(frozen=True)
class Together:
    """Several shapes at once."""

    parts: tuple[Rate, ...]

    def rate(self, t_s: float) -> float:
        """Their sum."""
        return sum(part.rate(t_s) for part in self.parts)


@dataclass(frozen=True)
class Case:
    """One comparison: options of the command, and the trace's file or the shape that stands in for one.

    `daily`: there is a whole day before the scored span, so that settings can be frozen on the same hours of it.
    `startups`: seconds of one start after the other, where they differ.
    """

    name: str
    what: str
    trace: str | Shape | Together
    options: str
    peak: int = 6
    quick: bool = False
    daily: bool = False
    startups: tuple[float, ...] = ()


CASES = (
    Case(
        "conversation",
        "an hour of conversation requests as they were",
        "azure2023_conv.csv",
        f"--simulator dynamo {LARGE} --startup-s 100 --train-until 12m",
    ),
    Case(
        "conversation-quick",
        "a quarter of that hour",
        "azure2023_conv.csv",
        f"--simulator dynamo {LARGE} --startup-s 60 --train-until 12m --hours 0.25 --max-replicas 6",
        peak=4,
        quick=True,
    ),
    Case(
        "code",
        "an hour of requests of a coding assistant: long prompts, short answers, bursts",
        "azure2023_code.csv",
        f"--simulator dynamo {SMALL} --ttft-ms 300 --startup-s 60 --train-until 12m",
    ),
    Case(
        "diurnal-chat",
        "the morning of the fourth day of a service with a daily cycle",
        "azure2024_conv_sun-wed.csv",
        f"--simulator dynamo {LARGE} --ttft-ms 500 --startup-s 150 {CONVERSATION} --train-until 3d6h --hours 1",
        peak=4,
        daily=True,
    ),
    Case(
        "enterprise-morning",
        "the steep morning of a service used at work",
        "sageserve_C.csv",
        f"--simulator dynamo {LARGE} --startup-s 150 {CONVERSATION} --column prod --train-until 3d6h --hours 1",
        peak=4,
        daily=True,
    ),
    Case(
        "enterprise-bursts",
        "bursts of a development tier, which nothing announces",
        "sageserve_C.csv",
        f"--simulator dynamo {LARGE} --startup-s 150 {CONVERSATION} --column dev --train-until 3d6h --hours 1",
        peak=4,
        daily=True,
    ),
    Case(
        "long-context",
        "forty minutes of conversations over long documents; prefixes that requests share are not shared here",
        "mooncake_conversation.jsonl",
        f"--simulator dynamo {LARGE} --ttft-ms 5000 --startup-s 150 --train-until 15m --hours 0.7",
        peak=4,
    ),
    Case(
        "reasoning",
        "two hours of a reasoning model: few requests, long answers",
        "servegen_deepseek-r1.csv",
        f"--simulator dynamo {LARGE} --ttft-ms 2000 --startup-s 240 {REASONING} --train-until 12h --hours 2",
        peak=4,
    ),
    Case(
        "on-off",
        "generated: ten minutes on in each half an hour, at moments that nobody announces",
        Bursts(base=2.0, burst=20.0, every_s=1800.0, length_s=600.0, seed=3),
        f"--simulator ebbtide {LARGE} --startup-s 100 {LENGTHS} --train-until 4h --hours 2 --cross-check",
        peak=3,
    ),
    Case(
        "slow-starts",
        "generated: a morning's rise with bursts on it, and start-ups that differ: half up to 95 s, some over 200 s",
        Together(
            (
                DailyCurve(low=4.0, high=20.0, peak_s=9 * 3600.0, sharpness=2.0),
                Bursts(base=0.0, burst=7.0, every_s=2400.0, length_s=480.0, seed=7),
            )
        ),
        f"--simulator ebbtide {LARGE} {LENGTHS} --train-until 1d5h --hours 1",
        peak=3,
        daily=True,
        startups=start_ups(90.0, 0.5, seed=11),
    ),
    Case(
        "collapse",
        "generated: a level that falls to a sixth for good, after 15 minutes",
        Step(before=18.0, after=3.0, at_s=3600.0 + 900.0),
        f"--simulator ebbtide {LARGE} --startup-s 60 {LENGTHS} --train-until 1h --hours 0.75 --max-replicas 4 "
        "--cross-check",
        peak=3,
        quick=True,
    ),
)

HELD_OUT = (
    Case(
        "week-evening",
        "an evening hour of a week of another service",
        "servegen_m-small_week1.csv",
        "--simulator dynamo --model Qwen/Qwen3-32B --system h200_sxm --tp 2 --gpu-hour-price 3.80 --ttft-ms 500 "
        "--startup-s 90 --input-tokens lognormal:900,1.1,8000 --output-tokens lognormal:250,0.9,2000 "
        "--train-until 5d16h --hours 1",
        peak=5,
        daily=True,
    ),
    Case(
        "two-peaks",
        "generated: the rise to the second of two peaks a day, at a laxer target",
        Together(
            (
                DailyCurve(low=0.2, high=1.0, peak_s=10 * 3600.0, sharpness=2.0),
                DailyCurve(low=0.0, high=0.7, peak_s=19 * 3600.0, sharpness=4.0),
            )
        ),
        "--simulator dynamo --model meta-llama/Meta-Llama-3.1-8B --system a100_sxm --tp 1 --gpu-hour-price 1.30 "
        "--ttft-ms 800 --attainment 95 --startup-s 200 --input-tokens lognormal:1200,0.9,8000 "
        "--output-tokens lognormal:300,0.8,2000 --train-until 2d16h --hours 1.5",
        peak=6,
        daily=True,
    ),
    Case(
        "regimes",
        "generated: levels between a fifth and the whole, each for half an hour on average, at any moment",
        RegimeChange(low=0.2, high=1.0, mean_s=1800.0, seed=207),
        "--simulator dynamo --model Qwen/Qwen3-8B --system b200_sxm --tp 1 --gpu-hour-price 5.50 --ttft-ms 700 "
        "--startup-s 120 --input-tokens lognormal:2500,0.9,12000 --output-tokens lognormal:400,0.8,3000 "
        "--train-until 6h --hours 1.5",
        peak=4,
    ),
    Case(
        "experts",
        "the afternoon of a service used at work, on a mixture of experts",
        "sageserve_C.csv",
        "--simulator dynamo --model openai/gpt-oss-120b --system h100_sxm --tp 4 --ttft-ms 1000 --startup-s 180 "
        "--input-tokens lognormal:1500,1,12000 --output-tokens lognormal:500,0.9,4000 --column prod "
        "--train-until 4d13h --hours 1",
        peak=4,
        daily=True,
    ),
    Case(
        "bursts-l40s",
        "generated: seven minutes at six times the level in each forty, at moments that nobody announces",
        Bursts(base=1.0, burst=6.0, every_s=2400.0, length_s=420.0, seed=219),
        f"--simulator ebbtide {SMALL} --system l40s --gpu-hour-price 0.90 --startup-s 45 {LENGTHS} "
        "--train-until 4h --hours 2 --cross-check",
        peak=5,
    ),
    Case(
        "walk",
        "generated: a random walk, at 99.9 %",
        Walk(per_second=1.0, step=0.05, seed=223),
        f"--simulator ebbtide {LARGE} --system h200_sxm --gpu-hour-price 3.80 --attainment 99.9 --startup-s 240 "
        f"{LENGTHS} --train-until 12h --hours 2 --cross-check",
        peak=5,
    ),
)


def standard() -> list[Case]:
    """Every case once, at its own size."""
    return list(CASES)


def quick() -> list[Case]:
    """The two short ones, one in each simulator."""
    return [case for case in CASES if case.quick]


def held_out() -> list[Case]:
    """Those that nothing was designed with."""
    return list(HELD_OUT)


def grid() -> list[Case]:
    """Each case at three sizes, rate traces also with the other two levels of noise.

    The most replicas that a case names are of its own size: at others the command's own bound holds.
    """
    found = []
    for case in CASES:
        for peak in (case.peak, *SIZES):
            options = case.options if peak == case.peak else re.sub(r" --max-replicas \d+", "", case.options)
            for noise in (0, 1, 2) if "--input-tokens" in case.options else (1,):
                name = f"{case.name}-{peak}-noise{noise}"
                found.append(replace(case, name=name, peak=peak, options=f"{options} --noise {noise}"))
    return found


def write_shape(shape: Rate, path: Path, days: int = 1) -> None:
    """A rate trace of whole days, a row a minute."""
    rows = (f"{second},{shape.rate(float(second)):.6g}" for second in range(0, days * int(DAY_S) + 1, 60))
    path.write_text("t_s,rps\n" + "\n".join(rows) + "\n")
