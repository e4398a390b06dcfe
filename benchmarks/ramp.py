"""llm-d's published ramp: their SLO law and Ebbtide in the same replay, by their scorer and by the strict one.

    python -m benchmarks.ramp                    # 20 seeds, about half an hour on 2 cores
    python -m benchmarks.ramp --seeds 3 --simulator ebbtide      # a try, on a page in out/

Published: 95.8 % by their scorer at 5.93 replicas on average. The comparison holds where the law comes near that here.
"""

import argparse
import random
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.kept import commit_now
from benchmarks.replays import runner
from ebbtide.bench.case import Case, EngineLimits, fleet
from ebbtide.bench.run import EBBTIDE, HOLD, RunResult
from ebbtide.bench.runner import Runner, Seeded
from ebbtide.bench.score import score
from ebbtide.bench.store import Load
from ebbtide.cli.bench import INTERRUPTED
from ebbtide.sim.requests import Request

PAGE, TRIED_PAGE = Path("docs/benchmarks/ramp.md"), Path("out/ramp/tried.md")
STAGES = ((2, 330), (4, 360), (6, 360), (8, 360), (10, 360), (4, 360), (1, 300))  # requests/s, seconds
PROMPT, OUTPUT = 4000, 1000
PUBLISHED, PUBLISHED_REPLICAS = 0.958, 5.93
NEAR, NEAR_REPLICAS = 0.01, 0.3
LAW = "slo-law"
POLICIES = ((LAW, 1.0), ("slo-law-corrected", 1.0))
DECLARED = (0.99, 0.958)  # of Ebbtide: what is usual, and what the law is published to attain
SEEDS, SIMULATOR = 20, "dynamo"
CASE = Case(
    name="ramp",
    model="Qwen/Qwen3-32B",
    system="h100_sxm",
    tensor_parallel=2,
    ttft_s=3.0,
    itl_s=0.1,
    attainment=0.99,
    startup_s=(100.0,),
    min_replicas=3,
    max_replicas=8,
    start_replicas=3,
    # two H100 hold 64 GB of weights and about 300,000 tokens of 262 kB
    engine=EngineLimits(kv_blocks=4700),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One policy on one seed: attainment by their scorer and by the strict one (0..1), replicas on average."""

    theirs: float
    strict: float
    replicas: float


def requests(seed: int) -> tuple[Request, ...]:
    """The ramp at an even pace, each request at a moment of its own within its gap."""
    draw, begin_s = random.Random(f"{seed}/ramp"), 0.0
    found: list[float] = []
    for per_s, length_s in STAGES:
        found += [begin_s + (number + draw.random()) / per_s for number in range(per_s * length_s)]
        begin_s += length_s
    return tuple(Request(i, at_s, PROMPT, OUTPUT) for i, at_s in enumerate(found))


def theirs(case: Case, result: RunResult) -> float:
    """Their scorer: misses of either kind over requests with a first token; who misses both counts twice."""
    begun = [one for one in result.served if one.ttft_s is not None]
    late = sum(one.ttft_s is not None and one.ttft_s > case.ttft_s for one in begun)
    slow = sum(one.itl_s is not None and one.itl_s > case.itl_s for one in begun)
    return 1.0 - (late + slow) / max(1, len(begun))


def outcome(case: Case, result: RunResult) -> Outcome:
    """Both scores, and the replicas that exist on average until the last request comes."""
    ends_s = result.served[-1].arrival_s
    return Outcome(theirs(case, result), score(case, result).attainment, result.billed_s / ends_s)


def measure(replays: Runner, seeds: Sequence[int], case: Case = CASE) -> dict[str, list[Outcome]]:
    """Each policy on each seed; the fleet of the largest size beside them."""
    loads = [Seeded(seed, replays.store.put_load(Load(requests(seed)))) for seed in seeds]
    asked = [(own(share), msgspec.structs.replace(case, attainment=share), EBBTIDE, 0.0) for share in DECLARED]
    asked += [(name, case, name, knob) for name, knob in POLICIES]
    asked.append((f"static {case.max_replicas}", fleet(case, case.max_replicas), HOLD, 0.0))
    answers = replays.side_by_side(lambda one: replays.results(one[1], loads, one[2], one[3]), asked)
    return {one[0]: [outcome(case, result) for result in found] for one, found in zip(asked, answers, strict=True)}


def own(declared: float) -> str:
    """Ebbtide's name in the table, by what is declared."""
    return f"{EBBTIDE}, {100 * declared:g} % declared"


def page(found: dict[str, list[Outcome]], command: str, commit: str, simulator: str) -> str:
    """The table and what follows from it."""
    rows = [
        "| policy | their scorer | worst seed | strict | worst seed | replicas | from | to |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *(_row(name, outcomes) for name, outcomes in found.items()),
    ]
    law = _mean(found[LAW])
    near = abs(law.theirs - PUBLISHED) <= NEAR and abs(law.replicas - PUBLISHED_REPLICAS) <= NEAR_REPLICAS
    holds = "so the comparison holds" if near else "so this replay is not their cluster, and only the order counts"
    verdicts = [f"{own(share)}: {_verdict(_mean(found[own(share)]), law)}." for share in DECLARED]
    stages = "-".join(str(per_s) for per_s, _ in STAGES)
    parts = (
        "# llm-d's ramp",
        f"Written by `{command}` on commit {commit} in simulator `{simulator}`: "
        f"{CASE.model} on {CASE.tensor_parallel} x {CASE.system}, "
        f"{PROMPT} prompt and {OUTPUT} output tokens, {stages} requests/s, first token within {CASE.ttft_s:g} s and "
        f"gaps within {1000 * CASE.itl_s:g} ms, {CASE.min_replicas} to {CASE.max_replicas} replicas, ready after "
        f"{CASE.startup_s[0]:g} s; {len(found[LAW])} seeds.",
        "\n".join(rows),
        f"Published for the law: {PUBLISHED:.1%} at {PUBLISHED_REPLICAS} replicas. Here it comes to {law.theirs:.1%} "
        f"at {law.replicas:.2f}, {holds}.",
        "\n".join(f"- {verdict}" for verdict in verdicts),
        "Their scorer counts misses of either kind over the requests that got a first token. Strict: the share of all "
        "submitted requests that met both objectives.",
    )
    return "\n\n".join(parts) + "\n"


def _verdict(mine: Outcome, law: Outcome) -> str:
    more = mine.theirs > law.theirs and mine.strict > law.strict
    fewer = mine.replicas < law.replicas
    said = "attains more" if more else "does not attain more by both scorers"
    return f"{said}, with {'fewer' if fewer else 'no fewer'} replicas: better on {more + fewer} of 2 axes"


def _mean(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(*(statistics.fmean(getattr(one, field) for one in outcomes) for field in Outcome.__slots__))


def _row(name: str, outcomes: Sequence[Outcome]) -> str:
    mean = _mean(outcomes)
    replicas = [one.replicas for one in outcomes]
    worst = min(one.theirs for one in outcomes), min(one.strict for one in outcomes)
    attained = f"{mean.theirs:.2%} | {worst[0]:.2%} | {mean.strict:.2%} | {worst[1]:.2%}"
    return f"| {name} | {attained} | {mean.replicas:.2f} | {min(replicas):.2f} | {max(replicas):.2f} |"


def options_from(given: list[str] | None) -> argparse.Namespace:
    """The options, with the page that they lead to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many; they are 1, 2, 3, ...")
    parser.add_argument("--simulator", default=SIMULATOR)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--page", type=Path, help=f"by default {PAGE}, and {TRIED_PAGE} of a try")
    options = parser.parse_args(given)
    whole = (options.seeds, options.simulator) == (SEEDS, SIMULATOR)
    options.page = options.page or (PAGE if whole else TRIED_PAGE)
    return options


def main(given: list[str] | None = None) -> int:
    """Returns 0; what stands in the way is raised."""
    options, commit = options_from(given), commit_now()
    with runner(options.simulator, options.jobs) as replays:
        found = measure(replays, range(1, options.seeds + 1))
    options.page.parent.mkdir(parents=True, exist_ok=True)
    words = shlex.join(["python", "-m", "benchmarks.ramp", *(sys.argv[1:] if given is None else given)])
    options.page.write_text(page(found, words, commit, options.simulator))
    print(options.page)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
