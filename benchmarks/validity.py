"""Does Ebbtide meet what is declared, day after day, without being set? Twenty services on their second day.

    python -m benchmarks.validity --full                    # 60 days: some hours on 2 cores; goes on where it was
    python -m benchmarks.validity --full --slice 2/4        # a part, kept for the run of all; its page is in out/
    python -m benchmarks.validity --full --held-out         # twenty other services, on other models and GPUs
    python -m benchmarks.validity --days 2 --hours 1        # tried out, on a page in out/

Services, their traffic, sizes and start-ups follow from their seeds, which stand here; none was chosen after a run. The
first day is history, of which the last half an hour was run under Ebbtide; the second is scored, at 95, 99 and 99.9 %.
Days that bring what nothing announces are marked beforehand.
"""

import argparse
import random
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Together, write_shape
from benchmarks.decisions import slice_of
from benchmarks.kept import commit_now
from benchmarks.replays import runner, say
from ebbtide.bench.command import ask
from ebbtide.bench.loads import span_of
from ebbtide.bench.preparation import prepare
from ebbtide.bench.run import EBBTIDE
from ebbtide.bench.runner import Runner
from ebbtide.bench.traffic import Rate
from ebbtide.cli.bench import INTERRUPTED, replay
from ebbtide.sim.shapes import Bursts, DailyCurve, RegimeChange

OUT = Path("out/validity")
PAGE, HELD_OUT_PAGE = Path("docs/benchmarks/validity.md"), Path("docs/benchmarks/validity-held-out.md")
TRIED_PAGE = "tried.md"  # in --out
WHOLE_DAY_H = 24.0
SEEDS = tuple(range(101, 121))
HELD_OUT = tuple(range(201, 221))  # nothing was looked at with them while decisions were designed
TARGETS = (95.0, 99.0, 99.9)
MOST_A_DAY, LEAST_POOLED = 1.5, 0.3  # of the misses that are allowed
BUYABLE = 0.25  # a target of which more than this share cannot be bought is no test of decisions
OPTIONS = "--simulator ebbtide --ttft-ms 2000 --policies ebbtide --seeds 1"
LARGE, SMALL = "--model meta-llama/Meta-Llama-3.1-70B --tp 4", "--model meta-llama/Meta-Llama-3.1-8B --tp 1"
# long answers: a day of a few replicas is some 300,000 requests
SERVED = f"{LARGE} --input-tokens lognormal:500,0.8,3000 --output-tokens lognormal:1200,0.8,6000"


@dataclass(frozen=True)
class Day:
    """One day: `surprise` where something comes that nothing announces. `peak` is in replicas.

    `served` are options of the command: the model, its GPU, and lengths of prompts and answers.
    """

    seed: int
    what: str
    traffic: Rate
    surprise: bool
    peak: int
    startup_s: int
    noise: int
    served: str = SERVED

    @property
    def name(self) -> str:
        """For files and tables."""
        return f"day-{self.seed}-{self.what}"

    @property
    def replica(self) -> str:
        """Model and GPU, for tables."""
        system = re.search(r"--system (\w+)", self.served)
        return f"{'70B' if LARGE in self.served else '8B'} on {system[1] if system else 'h100_sxm'}"


@dataclass(frozen=True)
class Kept:
    """How one day went at one target (0..1): misses of all requests, and the share that cannot be bought."""

    day: Day
    target: float
    missed: int
    submitted: int
    p0: float

    @property
    def over_allowed(self) -> float:
        """Misses over those that are allowed."""
        return self.missed / max(1e-9, (1.0 - self.target) * self.submitted)


def day(seed: int) -> Day:
    """The day of that seed: its kind by turns, everything else drawn."""
    draw = random.Random(f"{seed}/day")
    daily = DailyCurve(
        low=draw.uniform(0.1, 0.5), high=1.0, peak_s=draw.uniform(0.0, 86_400.0), sharpness=draw.uniform(1.0, 2.0)
    )
    bursts = Bursts(base=0.0, burst=draw.uniform(0.3, 0.8), every_s=10_800.0, length_s=900.0, seed=seed)
    regimes = RegimeChange(low=0.2, high=1.0, mean_s=draw.uniform(5_000.0, 20_000.0), seed=seed)
    double = Together((daily, DailyCurve(low=0.0, high=0.5, peak_s=draw.uniform(0.0, 86_400.0), sharpness=3.0)))
    kinds: tuple[tuple[str, Rate, bool], ...] = (
        ("daily", daily, False),
        ("two-peaks", double, False),
        ("daily-bursts", Together((daily, bursts)), True),
        ("regimes", regimes, True),
    )
    what, traffic, surprise = kinds[seed % len(kinds)]
    peak, startup_s, noise = draw.randint(3, 6), draw.choice((60, 100, 150, 240)), draw.choice((0, 1, 1, 2))
    return Day(seed, what, traffic, surprise, peak, startup_s, noise, other(seed) if seed in HELD_OUT else SERVED)


def other(seed: int) -> str:
    """The model, GPU and lengths of a service that is held out."""
    draw = random.Random(f"{seed}/served")
    model, systems = draw.choice(((LARGE, ("a100_sxm", "h200_sxm", "b200_sxm")), (SMALL, ("a100_pcie", "l40s", "l4"))))
    prompt, answer = round(draw.uniform(200, 2000)), round(draw.uniform(600, 1500))
    lengths = f"--input-tokens lognormal:{prompt},0.9,8000 --output-tokens lognormal:{answer},0.8,6000"
    return f"{model} --system {draw.choice(systems)} {lengths}"


def measure(replays: Runner, one: Day, target: float, hours: float, out: Path) -> Kept:
    """Ebbtide on one day at one target (percent)."""
    trace = out / f"{one.name}.csv"
    write_shape(one.traffic, trace, days=2)
    typed = [
        *shlex.split(f"{OPTIONS} {one.served}"),
        *("--trace", str(trace), "--train-until", "24h", "--hours", str(hours)),
        *("--attainment", str(target), "--noise", str(one.noise)),
        *("--peak-replicas", str(one.peak), "--max-replicas", str(2 * one.peak + 2), "--startup-s", str(one.startup_s)),
    ]
    options: dict[str, Any] = replay.make_context("replay", typed).params
    asked = ask(options)
    stage = prepare(asked, span_of(asked), replays, one.name)
    [score] = replays.scores(stage.case, stage.loads, EBBTIDE, 0.0)
    found = Kept(one, asked.attainment, score.missed, score.submitted, stage.p0)
    say(f"{one.name} at {target:g} %: {score.attainment:.3%} for {score.cost:.2f}, {found.over_allowed:.2f} of allowed")
    return found


def page(found: Sequence[Kept], command: str, commit: str) -> str:
    """What was kept and what not, then every day."""
    head = (
        "| target | days | pooled | misses of allowed | worst day | worst day without surprises | unbuyable | verdict |"
    )
    rows = [head, "|---:|---:|---:|---:|---:|---:|---:|---|"]
    targets = sorted({one.target for one in found})
    rows += [_row(target, [one for one in found if one.target == target]) for target in targets]
    days = ["| day | kind | on | peak | start-up | noise | " + " | ".join(f"{target:.4g}" for target in targets) + " |"]
    days.append("|---|---|---|---:|---:|---:|" + "---:|" * len(targets))
    days += [_day_row(seed, targets, found) for seed in dict.fromkeys(one.day.seed for one in found)]
    parts = (
        "# Is what is declared kept?",
        f"Written by `{command}` on commit {commit}. "
        "Ebbtide at its default in simulator `ebbtide`, each on its second day; misses "
        "are of submitted requests, over those that the target allows. Days, sizes and start-ups follow from seeds "
        "that were fixed before the first run.",
        "\n".join(rows),
        f"Kept: pooled at least the target, no day above {MOST_A_DAY} (at 99.9 %: but for days marked as surprising), "
        f"and not bought by waste: at least {LEAST_POOLED} of what is allowed.",
        "## Misses over allowed ones, by day\n\n" + "\n".join(days),
        "\\* brings what nothing announces, marked before the run.",
    )
    return "\n\n".join(parts) + "\n"


def kept(found: Sequence[Kept]) -> list[str]:
    """What of the promise was not kept at one target, in words; empty where all was."""
    target, share = found[0].target, _share(found)
    excused = target >= 0.999
    days = sorted(one.over_allowed for one in found if not (excused and one.day.surprise))
    worse = [f"{over:.2f}" for over in days if over > MOST_A_DAY]
    said = []
    if max(one.p0 for one in found) > BUYABLE * (1.0 - target):
        said.append("no test: too much cannot be bought")
    if share > 1.0:
        said.append("target missed")
    if worse:
        said.append(f"{'a day' if len(worse) == 1 else 'days'} at {', '.join(worse)}")
    if share < LEAST_POOLED:
        said.append("too careful")
    return said


def _share(found: Sequence[Kept]) -> float:
    """Misses of all days over those allowed."""
    return sum(one.missed for one in found) / max(1e-9, sum((1.0 - one.target) * one.submitted for one in found))


def _row(target: float, found: Sequence[Kept]) -> str:
    pooled = 1.0 - sum(one.missed for one in found) / max(1, sum(one.submitted for one in found))
    calm = [one.over_allowed for one in found if not one.day.surprise]
    worst = max(one.over_allowed for one in found)
    return (
        f"| {100 * target:g} % | {len(found)} | {pooled:.4%} | {_share(found):.2f} | {worst:.2f} "
        f"| {max(calm, default=0.0):.2f} | {max(one.p0 for one in found):.3%} | {'; '.join(kept(found)) or 'kept'} |"
    )


def _day_row(seed: int, targets: Sequence[float], found: Sequence[Kept]) -> str:
    by_target = {one.target: one for one in found if one.day.seed == seed}
    one = next(iter(by_target.values())).day
    cells = [f"{by_target[target].over_allowed:.2f}" if target in by_target else "" for target in targets]
    mark = "\\*" if one.surprise else ""
    about = f"{one.what}{mark} | {one.replica} | {one.peak} | {one.startup_s} s | {one.noise}"
    return f"| {seed} | {about} | {' | '.join(cells)} |"


def page_of(options: argparse.Namespace) -> Path:
    """The committed page of all that is promised; a try or a part has one in --out."""
    whole = options.days >= len(SEEDS) and options.hours == WHOLE_DAY_H and tuple(options.targets) == TARGETS
    if not (options.full and whole) or options.slice != (1, 1):
        return Path(options.out / TRIED_PAGE)
    return HELD_OUT_PAGE if options.held_out else PAGE


def options_from(given: list[str] | None) -> argparse.Namespace:
    """The options, with the page that they lead to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="all days, whole ones")
    parser.add_argument("--held-out", action="store_true", help="twenty others, that nothing was designed with")
    parser.add_argument("--days", type=int, default=len(SEEDS), help="of the twenty")
    parser.add_argument("--hours", type=float, default=WHOLE_DAY_H)
    parser.add_argument("--targets", type=lambda text: tuple(map(float, text.split(","))), default=TARGETS)
    parser.add_argument("--slice", type=slice_of, default=(1, 1), help="of all days and targets, such as 2/4")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--page", type=Path, help=f"by default {PAGE} of all days, else one in --out")
    options = parser.parse_args(given)
    options.page = options.page or page_of(options)
    if not options.full and options.hours * options.days > WHOLE_DAY_H:
        parser.error("20 days at three targets take hours: --full runs them, --days 2 --hours 1 tries it out")
    return options


def main(given: list[str] | None = None) -> int:
    """Returns 1 when something that is promised was not kept."""
    options, commit = options_from(given), commit_now()
    seeds = HELD_OUT if options.held_out else SEEDS
    options.out.mkdir(parents=True, exist_ok=True)
    part, parts = options.slice
    days = [(day(seed), target) for seed in seeds[: options.days] for target in options.targets][part - 1 :: parts]
    with runner("ebbtide", options.jobs) as replays:
        found = replays.side_by_side(lambda one: measure(replays, *one, options.hours, options.out), days)
    options.page.parent.mkdir(parents=True, exist_ok=True)
    words = shlex.join(["python", "-m", "benchmarks.validity", *(sys.argv[1:] if given is None else given)])
    options.page.write_text(page(found, words, commit))
    print(options.page)
    by_target = [[one for one in found if one.target == target] for target in {one.target for one in found}]
    return 1 if any(kept(some) for some in by_target) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
